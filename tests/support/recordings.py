"""Recordings made on the spot, and the commands run on files."""

import argparse
import contextlib
import io
import json
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from callreel import Call, cli_inspect, events
from callreel.actions import Layout, StartRecording
from callreel.delivery.folder import Folder
from callreel.kernels import g711, tone

PACKET_SAMPLES = 160


class Outcome(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def objects(self):
        """What --json printed."""
        return [json.loads(line) for line in self.out.splitlines()]


def run(command: str, *arguments: object) -> Outcome:
    """Run `inspect` or `verify` as the command line does."""
    parser = argparse.ArgumentParser()
    getattr(cli_inspect, f"add_{command}_arguments")(parser)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = getattr(cli_inspect, f"run_{command}")(parser.parse_args([str(one) for one in arguments]))
    return Outcome(status, out.getvalue(), err.getvalue())


class Recorded(NamedTuple):
    path: Path
    manifest_path: Path
    manifest: dict


def caller_says(seconds: float) -> bytes:
    """A tone, and the keys 1, 5 and # at 0.5, 1 and 1.5 s."""
    audio = bytearray(tone.sine(300, seconds, -20, 8000))
    for number, symbol in enumerate("15#"):
        key = bytes(tone.dtmf(symbol, 0.12, -10, 8000))
        at = 2 * 4000 * (number + 1)
        audio[at : at + len(key)] = key
    return bytes(audio)


def record(
    folder: Path,
    *,
    format: str = "wav",
    layout: Layout = Layout.STEREO,
    seconds: float = 2.0,
    lost: range = range(0),
    call_id: str = "call-7f3",
) -> Recorded:
    """Record a call of two tracks into `folder`, with its manifest; packets in `lost` never arrive."""
    call = Call(call_id, started_at=datetime(2026, 3, 1, 12, tzinfo=UTC), now=0.0)
    call.add_leg("LEG-A")
    call.start_recording(StartRecording(format=format, layout=layout), now=0.0)
    tracks = {"incoming": caller_says(seconds), "outgoing": bytes(tone.sine(440, seconds, -13, 8000))}
    packets = int(seconds * 50)
    for number in range(packets):
        now = number * 0.02
        for ssrc, (direction, audio) in enumerate(tracks.items()):
            if number in lost:
                continue
            header = struct.pack(">BBHII", 0x80, 0, number, number * PACKET_SAMPLES, ssrc)
            piece = audio[2 * number * PACKET_SAMPLES : 2 * (number + 1) * PACKET_SAMPLES]
            call.receive_rtp("LEG-A", header + g711.ulaw_encode(piece), now=now, direction=direction)
        call.handle_timeout(now=now)
    call.end(now=packets * 0.02)
    (finished,) = [one for one in call.events() if isinstance(one, events.RecordingFinished)]
    file = Folder(folder).open(finished.key)
    file.write(write for _, write in call.writes())
    stored = file.close()
    manifest = {
        **finished.manifest,
        "bytes": stored.size_bytes,
        "sha256": stored.sha256,
        "destination": str(folder),
        "key": finished.key,
    }
    return Recorded(stored.path, file.write_manifest(manifest), manifest)


def rewrite(recorded: Recorded, **changes: object) -> None:
    """Change keys of the manifest on disk."""
    recorded.manifest_path.write_text(json.dumps({**recorded.manifest, **changes}))
