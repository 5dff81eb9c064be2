"""Simulated senders and what a network does to them: lists of (arrival_ns, packet) to feed, and helpers to read.

A `Sender` makes packets of 16-bit PCM or G.711 codes in order; a `Network` says when each arrives, if ever.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from callreel.kernels import g711, pcap
from capture_writer import rtp_packet, telephone_event

RATE = 8000
MS = 8  # samples
S_NS = 1_000_000_000
MS_NS = 1_000_000


@dataclass(frozen=True)
class Packet:
    """One RTP packet and the moment it leaves the sender, in samples of true time."""

    sent: float
    sequence: int
    timestamp: int
    payload: bytes
    payload_type: int = 0
    ssrc: int = 0x1111
    marker: bool = False
    arrival_ns: int = 0

    def wire(self) -> bytes:
        return rtp_packet(
            self.payload,
            seq=self.sequence,
            timestamp=self.timestamp,
            ssrc=self.ssrc,
            payload_type=self.payload_type,
            marker=self.marker,
        )


def codes(samples: int, seed: int = 1) -> bytes:
    """Random µ-law codes of loud samples: no two stretches are alike, and none is silent."""
    return bytes(np.random.default_rng(seed).integers(0, 96, samples, dtype=np.uint8))


def decoded(data: bytes, law: str = "ulaw") -> np.ndarray:
    decode = g711.ulaw_decode if law == "ulaw" else g711.alaw_decode
    return np.frombuffer(decode(data), np.int16)


def encoded(samples: np.ndarray) -> bytes:
    return g711.ulaw_encode(np.ascontiguousarray(samples, dtype=np.int16))


def talk(
    data: bytes,
    *,
    samples: int = 160,
    sequence: int = 100,
    timestamp: int = 5000,
    start: float = 0,
    payload_type: int = 0,
    ssrc: int = 0x1111,
    ppm: float = 0,
) -> list[Packet]:
    """A sender that talks without pause: packets of `samples` codes, the first leaving at `start` (samples).

    With `ppm` its clock runs fast (positive) or slow against true time.
    """
    return [
        Packet(
            start + at / (1 + ppm * 1e-6),
            (sequence + number) & 0xFFFF,
            (timestamp + at) & 0xFFFFFFFF,
            data[at : at + samples],
            payload_type,
            ssrc,
        )
        for number, at in enumerate(range(0, len(data), samples))
    ]


def event(
    symbol_code: int,
    *,
    timestamp: int,
    sequence: int,
    start: float,
    duration: int = 800,
    step: int = 160,
    ends: int = 3,
    payload_type: int = 101,
    volume: int = 10,
    ssrc: int = 0x1111,
    markers: bool = False,
) -> list[Packet]:
    """The packets of one telephone event: one each `step`, then `ends` with the E bit."""
    lengths = [(length, False) for length in range(step, duration, step)] + [(duration, True)] * ends
    return [
        Packet(
            start + min(number * step, duration),
            (sequence + number) & 0xFFFF,
            timestamp & 0xFFFFFFFF,
            telephone_event(symbol_code, length, end, volume),
            payload_type,
            ssrc,
            markers or number == 0,
        )
        for number, (length, end) in enumerate(lengths)
    ]


def renumbered(packets: Iterable[Packet], sequence: int = 100) -> list[Packet]:
    """The packets with consecutive sequence numbers, in the order given."""
    return [replace(packet, sequence=(sequence + n) & 0xFFFF) for n, packet in enumerate(packets)]


def arrive(packets: Iterable[Packet], delay: float = 0) -> list[Packet]:
    """The packets, each arriving when it is sent, or `delay` samples later."""
    return [replace(packet, arrival_ns=round((packet.sent + delay) * S_NS / RATE)) for packet in packets]


def late(packet: Packet, ms: float) -> Packet:
    """The packet, arriving so much later."""
    return replace(packet, arrival_ns=packet.arrival_ns + round(ms * MS_NS))


def in_order_of_arrival(packets: Iterable[Packet]) -> list[Packet]:
    return sorted(packets, key=lambda packet: packet.arrival_ns)


def records(packets: Iterable[Packet]) -> tuple[bytes, np.ndarray]:
    """The packets as one buffer and its packet records, as `receive_batch` takes them."""
    packets = list(packets)
    wires = [packet.wire() for packet in packets]
    table = np.zeros(len(packets), dtype=pcap.DTYPE)
    lengths = np.array([len(wire) for wire in wires], dtype=np.int64)
    table["time_ns"] = [packet.arrival_ns for packet in packets]
    table["offset"] = np.cumsum(lengths) - lengths
    table["length"] = lengths
    return b"".join(wires), table


def feed(receiver, packets: Iterable[Packet]) -> None:
    """Give the packets to a Receiver or a Track, in the order given."""
    for packet in packets:
        receiver.receive(packet.wire(), packet.arrival_ns)


def play(receiver, packets: Iterable[Packet], *, until: int | None = None, tail: int = 0) -> np.ndarray:
    """Feed the packets as they arrive, reading up to `ready` every 200 ms; then finish and read the rest.

    The result ends where the audio ends, plus `tail`, or at `until`.
    """
    pieces = []
    due_ns = 0
    for packet in packets:
        if packet.arrival_ns >= due_ns:
            pieces.append(receiver.read(receiver.ready(packet.arrival_ns)))
            due_ns = packet.arrival_ns + 200 * MS_NS
        receiver.receive(packet.wire(), packet.arrival_ns)
    receiver.finish()
    while receiver.position < (until if until is not None else receiver.end):
        stop = until if until is not None else receiver.end
        pieces.append(receiver.read(min(stop, receiver.position + RATE)))
    pieces.append(receiver.read(receiver.position + tail))
    return np.frombuffer(b"".join(pieces), np.int16)
