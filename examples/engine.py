"""Embed the engine: what customers of three vendors ask, carried out on a call from a capture. In a checkout,

    python examples/engine.py FOLDER

prints what the customers are told and leaves the recordings in FOLDER. What is asked, and after how many seconds, is
in engine.json: of Amazon Chime a StartCallRecording, which is paused and resumed, and meanwhile a RecordAudio that
"#" ends; of Sinch a recording with Say between its start and its stop; of Microsoft Graph a record with prompt, beep
and stop tone. The caller speaks, and presses 4, 7 and # after 4, 5 and 6 s.

A host has sockets, a clock, players and storage. This one has `due`, all that is to happen and when.
"""

import json
import struct
import sys
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex, token_urlsafe

from callreel import Call, events
from callreel.dialects import chime, graph, sinch
from callreel.kernels import pcap

(out := Path(sys.argv[1])).mkdir(parents=True, exist_ok=True)
asked = json.loads(Path("examples/engine.json").read_text("utf-8"))
batch = pcap.Reader().feed(Path("tests/data/pcap/calls/baresip-pcmu-47hash.pcap").read_bytes())


def host(session):
    """Run one call from its beginning to its end."""
    call = Call("call-1", started_at=datetime.now(UTC), now=0.0, dialect=session)
    call.add_leg("LEG-A", payload_types={0: "PCMU", 101: "telephone-event"})
    due = [(at, call.request, {"document": document}) for at, document in asked[session.dialect]]
    for time_ns, _, offset, size, flow, *_ in struct.iter_unpack("=qQIIIIIHH", batch.records):
        if track := {5: "incoming", 4: "outgoing"}.get(flow):  # what the caller says, and what they hear
            packet = {"leg": "LEG-A", "packet": batch.data[offset : offset + size], "direction": track}
            due.append(((time_ns - batch.first_time_ns) / 1e9, call.receive_rtp, packet))
    due.append((13.01, call.end, {}))
    files = {}
    while due:
        due.sort(key=lambda one: one[0])
        now, verb, arguments = due.pop(0)
        verb(**arguments, now=now)
        call.handle_timeout(now=now)
        for recording_id, (offset, data) in call.writes():
            files.setdefault(recording_id, bytearray())[offset : offset + len(data)] = data
        for event in call.events():
            if isinstance(event, events.VendorMessage):
                print(event.dialect, json.dumps(event.body))
            elif answer := {events.Play: call.played, events.Perform: call.performed}.get(type(event)):
                # Whatever is played or performed takes a second here.
                due.append((now + 1, answer, {"action_id": event.action_id}))
            elif isinstance(event, events.RecordingFinished):
                (out / event.key.replace("/", " ")).write_bytes(files.pop(event.recording_id))
                due.append((now, call.stored, {"recording_id": event.recording_id}))


host(chime.Chime())
host(sinch.Sinch(application_key="acme"))
host(graph.Graph(new_id=token_hex, new_token=token_urlsafe, base_url="https://acme.example"))
