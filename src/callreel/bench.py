"""`callreel bench calls`: what it costs to record many calls at once on this machine.

Every call has two legs; what the first one says and what it hears from the other comes in packets of 20 ms, of which
1 % are lost and 1 % change places; the caller presses a key every five seconds, as a tone and as telephone events in
turn; keys are listened for on both tracks, and silence on the caller's. All is recorded in stereo. Each call is handed
200 ms of packets at a time and moved on; the bytes of its file are written to a folder, or dropped. The traffic is made
beforehand, and is the same at every run.

Besides: what an action costs from the customer's JSON to the events that it brings, and a packet that is handed in by
itself. Of these it is the quickest of several goes, for whatever else the machine does only adds to it.
"""

from __future__ import annotations

import gc
import json
import math
import os
import random
import struct
import sys
import time
from argparse import ArgumentParser, Namespace
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from callreel import kernels
from callreel.actions import StartRecording, StopRules
from callreel.call import Call
from callreel.dialects import Session
from callreel.dialects.chime import Chime
from callreel.dialects.graph import Graph
from callreel.dialects.sinch import Sinch
from callreel.events import DigitReceived, RecordingFinished, RecordingStarted
from callreel.kernels import g711, tone

__all__ = [
    "ACTIONS",
    "Result",
    "action_us",
    "add_calls_arguments",
    "measure",
    "packet_us",
    "run_calls",
    "voice",
]

PACKET_MS = 20
PACKET_SAMPLES = 160
STEP_S = 0.2
LOSS = 0.01
SWAPPED = 0.01
KEY_EVERY_S = 5
KEY_MS = 100
EVENT_TYPE = 101
KEYS = "0123456789*#"
SYLLABLE_PACKETS = 37
VOICE_PACKETS = 4 * SYLLABLE_PACKETS
"""Different ones; then they come again."""
STREAMS = 16
"""Different streams that the calls share: more than fit in a first-level cache."""
RECORD = struct.Struct(
    "=qQIIIIIHH"
)  # kernels.pcap.DTYPE: time, frame, offset, length, and what RTP does not need
RTP = struct.Struct(">BBHII")
MAX_OPEN_FILES = 500
STARTED_AT = datetime(2026, 1, 1, tzinfo=UTC)
GOES = 7
"""So often something short is measured."""
CALLS_A_GO = 200
PACKETS_A_GO = 5_000


def _graph() -> Session:
    return Graph(new_id=lambda: "operation", new_token=lambda: "token", base_url="https://acme.example")


ACTIONS: dict[str, tuple[Callable[[], Session], Any]] = {
    "StartCallRecording": (
        Chime,
        {
            "SchemaVersion": "1.0",
            "Actions": [
                {
                    "Type": "StartCallRecording",
                    "Parameters": {
                        "CallId": "call",
                        "Track": "BOTH",
                        "Destination": {"Type": "S3", "Location": "acme-calls/support"},
                    },
                }
            ],
        },
    ),
    "RecordAudio": (
        Chime,
        {
            "SchemaVersion": "1.0",
            "Actions": [
                {
                    "Type": "RecordAudio",
                    "Parameters": {
                        "CallId": "call",
                        "DurationInSeconds": "10",
                        "SilenceDurationInSeconds": 3,
                        "RecordingTerminators": ["#"],
                        "RecordingDestination": {
                            "Type": "S3",
                            "BucketName": "acme-messages",
                            "Prefix": "new",
                        },
                    },
                }
            ],
        },
    ),
    "StartRecording": (
        lambda: Sinch(application_key="acme", callbacks=False),
        {"svaml": {"instructions": [{"name": "StartRecording", "options": {"destinationUrl": "sdrive://"}}]}},
    ),
    "record": (
        _graph,
        {
            "path": "/app/calls/call/record",
            "body": {"playBeep": False, "stopTones": ["#"], "maxRecordDurationInSeconds": 10},
        },
    ),
}
"""What is measured of the vendors' actions: whose session reads it, and what the customer sends."""


@dataclass(frozen=True, slots=True)
class Result:
    """What so many calls cost."""

    calls: int
    seconds: int
    packets: int
    us_per_packet: float
    """Microseconds of one core, everything included up to the bytes of the file."""
    calls_per_core: int
    bytes_per_call: int
    """Memory that each further call takes."""
    digits: int
    bytes_written: int


@dataclass(frozen=True, slots=True)
class _Stream:
    data: bytes
    records: bytes
    keys: int


def add_calls_arguments(parser: ArgumentParser) -> None:
    """Say what `callreel bench calls` takes."""
    parser.add_argument(
        "--calls", metavar="N", type=int, default=1000, help="up to so many calls at once (default: 1000)"
    )
    parser.add_argument("--seconds", metavar="S", type=int, default=30, help="of each call (default: 30)")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="folder for the recordings; by default they are dropped"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def run_calls(options: Namespace) -> int:
    """Measure 100, 1,000, ... calls up to the number asked for, and print a line for each."""
    if options.calls < 1 or options.seconds < 1:
        print("callreel: --calls and --seconds are at least 1", file=sys.stderr)
        return 2
    streams = [_stream(number, options.seconds) for number in range(2 * STREAMS)]
    sizes = [10**power for power in range(2, 7) if 10**power < options.calls] + [options.calls]
    if not options.json:
        print(f"kernels: {kernels.isa()}; {options.seconds} s of each call, {STREAMS} different ones")
        print(
            f"{'calls':>8}{'packets':>12}{'us a packet':>14}{'calls a core':>14}{'bytes a call':>14}{'keys':>9}"
        )
    for size in sizes:
        result = measure(size, options.seconds, streams, options.out)
        if options.json:
            print(json.dumps(asdict(result)))
        else:
            print(
                f"{result.calls:>8,}{result.packets:>12,}{result.us_per_packet:>14.3f}"
                f"{result.calls_per_core:>14,}{result.bytes_per_call:>14,}{result.digits:>9,}"
            )
        sys.stdout.flush()
    actions = {name: round(action_us(session, document), 1) for name, (session, document) in ACTIONS.items()}
    packet = round(packet_us(), 3)
    if options.json:
        print(json.dumps({"action_us": actions, "packet_us": packet}))
    else:
        told = ", ".join(f"{name} {cost} us" for name, cost in actions.items())
        print(f"an action from JSON to its events: {told}")
        print(f"a packet handed in by itself: {packet} us")
    return 0


def measure(size: int, seconds: int, streams: list[_Stream], out: Path | None) -> Result:
    """Record `size` calls of so many seconds, and count what it costs."""
    before_bytes = _memory_bytes()
    calls = [_call(number) for number in range(size)]
    taken = array("q", bytes(2 * 8 * size))
    sink = _Sink(out)
    packets = digits = 0
    gc.freeze()  # as docs/architecture.md, Memory, tells hosts of many calls to do
    started_s = time.process_time()
    for step in range(1, math.ceil(seconds / STEP_S) + 1):
        now = step * STEP_S
        until_ns = round(now * 1e9)
        for number, call in enumerate(calls):
            for track, direction in enumerate(("incoming", "outgoing")):
                stream = streams[2 * (number % STREAMS) + track]
                first = taken[2 * number + track]
                count = call.receive_rtp_batch(
                    "LEG-A", stream.data, stream.records, first, until_ns=until_ns, direction=direction
                )
                taken[2 * number + track] = first + count
                packets += count
            call.handle_timeout(now=now)
            digits += sink.take(call)
    held_bytes = _memory_bytes() - before_bytes
    for call in calls:
        call.end(now=seconds)
        digits += sink.take(call)
    cost_s = time.process_time() - started_s
    gc.unfreeze()
    sink.close()
    us_per_packet = 1e6 * cost_s / packets
    return Result(
        calls=size,
        seconds=seconds,
        packets=packets,
        us_per_packet=round(us_per_packet, 3),
        calls_per_core=int(1e6 / (us_per_packet * 2 * 1000 / PACKET_MS)),
        bytes_per_call=max(0, held_bytes) // size,
        digits=digits,
        bytes_written=sink.bytes_written,
    )


def action_us(session: Callable[[], Session], document: Any) -> float:
    """Microseconds of CPU from a customer's JSON to what `events` hands out, each time of a call of its own."""
    text, least = json.dumps(document), math.inf
    for _ in range(GOES):
        calls = [Call("call", started_at=STARTED_AT, now=0.0, dialect=session()) for _ in range(CALLS_A_GO)]
        for call in calls:
            call.add_leg()
            call.events()
        started_s = time.process_time()
        for call in calls:
            call.request(json.loads(text), now=0.0)
            call.events()
        least = min(least, time.process_time() - started_s)
    return 1e6 * least / CALLS_A_GO


def packet_us() -> float:
    """Microseconds of CPU for `receive_rtp` with one packet; what recording it costs comes with `handle_timeout`."""
    packets = [
        RTP.pack(0x80, 0, number, number * PACKET_SAMPLES, 1) + bytes(PACKET_SAMPLES)
        for number in range(PACKETS_A_GO)
    ]
    a_step = round(STEP_S * 1000) // PACKET_MS
    times_s = [number * PACKET_MS / 1000 for number in range(PACKETS_A_GO)]
    least = math.inf
    for _ in range(GOES):
        call = Call("call", started_at=STARTED_AT, now=0.0)
        call.add_leg()
        cost_s = 0.0
        for first in range(0, PACKETS_A_GO, a_step):
            step = range(first, first + a_step)
            started_s = time.perf_counter()
            for number in step:
                call.receive_rtp("LEG-A", packets[number], now=times_s[number])
            cost_s += time.perf_counter() - started_s
            call.handle_timeout(now=times_s[step[-1]])
        least = min(least, cost_s)
    return 1e6 * least / PACKETS_A_GO


def _call(number: int) -> Call:
    call = Call(f"call-{number}", started_at=STARTED_AT, now=0.0)
    call.add_leg(payload_types={0: "PCMU", EVENT_TYPE: "telephone-event"})
    call.add_leg("LEG-B")
    rules = StopRules(terminators=frozenset("A"), trailing_silence_ms=3_600_000)
    call.start_recording(StartRecording(rules=rules), now=0.0)
    return call


class _Sink:
    """Takes what calls write: into files of a folder, or nowhere."""

    def __init__(self, folder: Path | None) -> None:
        self.bytes_written = 0
        self._folder = folder
        self._paths: dict[str, Path] = {}
        self._files: dict[str, BinaryIO] = {}

    def take(self, call: Call) -> int:
        """Store what a call has written; returns the keys it has heard."""
        digits = 0
        for event in call.events():
            digits += isinstance(event, DigitReceived)
            if self._folder is not None and isinstance(event, RecordingStarted):
                path = self._folder / event.key
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                self._paths[event.recording_id] = path
            elif isinstance(event, RecordingFinished):
                call.stored(event.recording_id, now=0.0)
        for recording_id, (offset, data) in call.writes():
            self.bytes_written += len(data)
            if self._folder is not None:
                file = self._file(recording_id)
                file.seek(offset)
                file.write(data)
        return digits

    def _file(self, recording_id: str) -> BinaryIO:
        file = self._files.pop(recording_id, None)
        if file is None:
            if len(self._files) >= MAX_OPEN_FILES:
                self._files.pop(next(iter(self._files))).close()
            file = self._paths[recording_id].open("r+b")
        self._files[recording_id] = file
        return file

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _memory_bytes() -> int:
    """Memory of this process by now; where the system does not tell, 0."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _stream(number: int, seconds: int) -> _Stream:
    """One direction of a call: a voice of a few harmonics in syllables, keys in turn as tones and as events."""
    chance = random.Random(number)
    pitch_hz = chance.uniform(90, 240)
    spoken = [voice(packet, pitch_hz, chance) for packet in range(VOICE_PACKETS)]
    payloads: list[tuple[int, bytes, int]] = []
    keys = 0
    for packet in range(seconds * 1000 // PACKET_MS):
        at_s = packet * PACKET_MS / 1000
        second = int(at_s)
        pressed = number % 2 == 0 and second % KEY_EVERY_S == 1 and at_s - second < KEY_MS / 1000 - 1e-9
        if pressed and second // KEY_EVERY_S % 2:
            payloads.append((packet, _event(second, round(1000 * (at_s - second))), EVENT_TYPE))
            keys += at_s == second
        elif pressed:
            part = round((at_s - second) * 1000) * 8
            sound = tone.dtmf_part(KEYS[second % 12], part, PACKET_SAMPLES, KEY_MS * 8)
            payloads.append((packet, g711.ulaw_encode(sound), 0))
            keys += at_s == second
        else:
            payloads.append((packet, spoken[packet % VOICE_PACKETS], 0))
    kept = [one for one in payloads if chance.random() >= LOSS]
    order = list(range(len(kept)))
    for place in range(len(order) - 1):
        if chance.random() < SWAPPED:
            order[place], order[place + 1] = order[place + 1], order[place]
    wires, records, offset, time_ns = [], [], 0, 0
    for which in order:
        packet, payload, payload_type = kept[which]
        event_start = packet - packet % (1000 // PACKET_MS) if payload_type else packet
        timestamp = (event_start if payload_type else packet) * PACKET_SAMPLES
        wire = RTP.pack(0x80, payload_type, packet & 0xFFFF, timestamp & 0xFFFFFFFF, number + 1) + payload
        time_ns = max(time_ns, packet * PACKET_MS * 1_000_000)  # one that is overtaken comes late, none early
        records.append(RECORD.pack(time_ns, 0, offset, len(wire), 0, len(wire), 0, 0, 0))
        wires.append(wire)
        offset += len(wire)
    return _Stream(b"".join(wires), b"".join(records), keys)


def _event(second: int, elapsed_ms: int) -> bytes:
    """A telephone event (RFC 4733, section 2.3): its last packet says so."""
    is_last = elapsed_ms >= KEY_MS - PACKET_MS
    return struct.pack(">BBH", second % 12, (0x80 if is_last else 0) | 10, (elapsed_ms + PACKET_MS) * 8)


def voice(packet: int, pitch_hz: float, chance: random.Random) -> bytes:
    """20 ms of a voice; between syllables there is a little noise."""
    loud = math.sin(2 * math.pi * packet / SYLLABLE_PACKETS) > -0.2
    samples = []
    for n in range(PACKET_SAMPLES):
        phase = 2 * math.pi * pitch_hz * (packet * PACKET_SAMPLES + n) / 8000
        wave = sum(math.sin(k * phase) / k for k in range(1, 7)) if loud else 0.0
        samples.append(round(4000 * wave + chance.gauss(0, 20)))
    return g711.ulaw_encode(struct.pack(f"<{PACKET_SAMPLES}h", *samples))
