"""The process that sends for `callreel bench serve`: `python -m callreel.bench_sources WHAT PORT ...`, Linux only.

bare PORT                       read the port by recvmmsg and nothing else; one line of JSON at the end
flood PORT STREAMS SECONDS      send all that goes from so many sources
send PORT STREAMS FILE          send in real time what the memory shared through FILE says: one line of JSON with the
                                ports of the sources, and one at the end
"""

from __future__ import annotations

import json
import mmap
import random
import socket
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from callreel.bench import KEY_MS, KEYS, PACKET_MS, PACKET_SAMPLES, VOICE_PACKETS, voice
from callreel.kernels import g711, tone

if TYPE_CHECKING:
    from callreel.kernels import udp_load

__all__ = ["Shared", "main"]

VOICES = 16
"""Different ones, which the streams share."""
SECONDS = 20
"""Of each; then it comes again. In it one key is pressed."""
KEY_AT_S = 7
RECEIVE_BUFFER_BYTES = 64 << 20
SO_RCVBUFFORCE = 33
IDLE_MS = 300
"""So long after the last packet the loop that reads has read all."""


class Shared:
    """What the process that sends, and the one that directs it, both see: which streams are on, what each has sent."""

    def __init__(self, path: Path, streams: int) -> None:
        """Map `path`, which is made large enough."""
        at = (streams + 1 + 63) // 64 * 64
        with path.open("a+b") as file:
            file.truncate(at + 4 * streams)
            self._map = mmap.mmap(file.fileno(), at + 4 * streams)
        whole = memoryview(self._map)
        self.is_on = whole[: streams + 1]
        """A byte of each stream, and one behind them that ends all."""
        self.sent = whole[at:].cast("I")
        """Packets of each."""


def main(arguments: Sequence[str]) -> int:
    """Do what they say; returns the exit status."""
    from callreel.kernels import udp_load

    what, port = arguments[0], int(arguments[1])
    if what == "bare":
        with _receiving(port) as one:
            _say({"is_ready": True})
            found = udp_load.read_bare(one.fileno(), idle_ms=IDLE_MS)
        _say(found._asdict())
        return 0
    streams = int(arguments[2])
    sockets = [_sending(port) for _ in range(streams)]
    if what == "flood":
        shared = bytes(streams + 1), memoryview(bytearray(4 * streams)).cast("I")
        sources = _sources(sockets, bytes(PACKET_SAMPLES), *shared, voices=1)
        _say({"sent": sources.flood(float(arguments[3]))})
        return 0
    memory = Shared(Path(arguments[3]), streams)
    sources = _sources(sockets, _codes(), memory.is_on, memory.sent, voices=VOICES)
    _say({"ports": [one.getsockname()[1] for one in sockets]})
    refused, late_max_s = sources.send()
    _say({"refused": refused, "late_max_ms": round(1000 * late_max_s, 3)})
    return 0


def _sources(
    sockets: list[socket.socket], codes: bytes, is_on: bytes | memoryview, sent: memoryview, *, voices: int
) -> udp_load.Sources:
    from callreel.kernels import udp_load

    return udp_load.Sources(array("i", [one.fileno() for one in sockets]), codes, is_on, sent, voices=voices)


def _say(words: object) -> None:
    print(json.dumps(words), flush=True)


def _receiving(port: int) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    except PermissionError:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    one.bind(("127.0.0.1", port))
    return one


def _sending(port: int) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind(("127.0.0.1", 0))
    one.connect(("127.0.0.1", port))
    return one


def _codes() -> bytes:
    """All voices: syllables, a little noise between them, and a key."""
    pieces = []
    for number in range(VOICES):
        chance = random.Random(number)
        pitch_hz = chance.uniform(90, 240)
        packets = [voice(packet, pitch_hz, chance) for packet in range(VOICE_PACKETS)]
        pressed = range(KEY_AT_S * 1000 // PACKET_MS, (KEY_AT_S * 1000 + KEY_MS) // PACKET_MS)
        for packet in range(SECONDS * 1000 // PACKET_MS):
            if packet in pressed:
                part = (packet - pressed.start) * PACKET_SAMPLES
                sound = tone.dtmf_part(KEYS[number % 12], part, PACKET_SAMPLES, KEY_MS * 8)
                pieces.append(g711.ulaw_encode(sound))
            else:
                pieces.append(packets[packet % VOICE_PACKETS])
    return b"".join(pieces)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
