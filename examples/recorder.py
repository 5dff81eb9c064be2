"""A host that records while it may die: the call of a capture, in real time. In a checkout,

    python examples/recorder.py callreel.toml

records the call of 13 s into the spool of these settings, delivers it and prints where it is. Kill it meanwhile, and
`callreel recover --config callreel.toml`, or the next start, brings back what it had recorded.
"""

import struct
import sys
import time
from pathlib import Path

from callreel.actions import StartRecording
from callreel.kernels import pcap
from callreel.recorder import Recorder, TakeEnded
from callreel.recorder.configuration import Configuration

batch = pcap.Reader().feed(Path("tests/data/pcap/calls/baresip-pcmu-47hash.pcap").read_bytes())
with Recorder(Configuration(Path(sys.argv[1])).settings()) as recorder:
    call = recorder.add_call(f"call-{time.time_ns()}")
    call.add_leg("LEG-A", payload_types={0: "PCMU", 101: "telephone-event"})
    call.start_recording(StartRecording())
    start = time.monotonic()
    for time_ns, _, offset, size, flow, *_ in struct.iter_unpack("=qQIIIIIHH", batch.records):
        if track := {5: "incoming", 4: "outgoing"}.get(flow):  # what the caller says, and what they hear
            at = start + (time_ns - batch.first_time_ns) / 1e9
            time.sleep(max(0.0, at - time.monotonic()))
            call.receive_rtp("LEG-A", batch.data[offset : offset + size], direction=track)
    call.end()
    recorder.drain()
    for event in recorder.events():
        if isinstance(event, TakeEnded):
            print(event.call_id, event.end_reason, event.location or event.error)
