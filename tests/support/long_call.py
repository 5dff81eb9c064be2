"""Hours of a two-leg call whose truth is known: drifting clocks, a network that jitters and loses, pauses of all kinds.

Each leg's packets are made in numpy, block by block, so that eight hours take seconds. Every `MARK_S` seconds of true
time both senders make the same click; where it comes out is what counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from callreel.kernels import pcap, rtp
from capture_writer import rtcp_sender_report

RATE = 8000
PACKET = 160
WIRE = 12 + PACKET
MARK_S = 10
BLOCK_S = 300
QUIET, LOUD = 0xFF, 0x00  # µ-law: silence and the lowest value there is


@dataclass
class Leg:
    """One sender and the network before us."""

    ppm: float
    seed: int
    loss: float = 0.05
    jitter_ms: float = 60
    reports: bool = False
    pauses: bool = True
    state: dict[str, int] = field(default_factory=lambda: {"sequence": 0, "stopped": 0, "ssrc": 1})

    def blocks(self, seconds: int) -> Iterator[tuple[bytes, np.ndarray]]:
        """Payloads and packet records, in order of arrival within a block."""
        chance = np.random.default_rng(self.seed)
        speed = 1 + self.ppm * 1e-6
        for start in range(0, seconds, BLOCK_S):
            count = min(BLOCK_S, seconds - start) * RATE // PACKET
            number = start * RATE // PACKET + np.arange(count)  # packets by true time
            media = number * PACKET * speed  # where the sender's quartz stands
            sampled = np.floor(media).astype(np.int64)
            sent_s = number * PACKET / RATE
            talking = np.ones(count, bool)
            timestamp = sampled.copy() - self.state["stopped"]
            ssrc = np.full(count, self.state["ssrc"])
            if self.pauses:
                pause_s = sent_s % BLOCK_S
                talking &= ~((pause_s >= 60) & (pause_s < 120) & (pause_s % 3 >= 2))  # silence suppression
                talking &= ~((pause_s >= 150) & (pause_s < 180))  # hold: the timestamp runs on
                stop = (pause_s >= 200) & (pause_s < 220)  # hold: the timestamp stands still
                talking &= ~stop
                halted = np.floor(20 * RATE * speed).astype(np.int64)
                timestamp[pause_s >= 220] -= halted
                talking &= ~(
                    (pause_s >= 250) & (pause_s < 252)
                )  # and a new source, with a timestamp of its own
                renewed = pause_s >= 252
                ssrc[renewed] += 1
                timestamp[renewed] += 123_456_789
                self.state["stopped"] += int(halted) - 123_456_789
                self.state["ssrc"] += 1
            kept = talking & (chance.random(count) >= self.loss)
            sequence = self.state["sequence"] + np.cumsum(talking)
            self.state["sequence"] = int(sequence[-1])
            wires = np.zeros((count, WIRE), np.uint8)
            wires[:, 0] = 0x80
            wires[:, 2:4] = (sequence & 0xFFFF).astype(">u2")[:, None].view(np.uint8)
            wires[:, 4:8] = (timestamp & 0xFFFFFFFF).astype(">u4")[:, None].view(np.uint8)
            wires[:, 8:12] = ssrc.astype(">u4")[:, None].view(np.uint8)
            wires[:, 12:] = QUIET
            marks = np.arange(-(-start // MARK_S) * MARK_S + 5, start + count * PACKET // RATE, MARK_S)
            place = np.round(marks * RATE * speed).astype(np.int64)
            row = np.searchsorted(sampled, place, side="right") - 1
            inside = place - sampled[row]
            wires[row[inside < PACKET], 12 + inside[inside < PACKET]] = LOUD
            arrival = np.round((sent_s + self.jitter_ms / 1000 * chance.random(count)) * 1e9).astype(np.int64)
            data, arrivals = wires[kept], arrival[kept]
            order = np.argsort(arrivals, kind="stable")
            data, arrivals = data[order], arrivals[order]
            table = np.zeros(len(data), dtype=pcap.DTYPE)
            table["time_ns"] = arrivals
            table["offset"] = np.arange(len(data)) * WIRE
            table["length"] = WIRE
            payloads = data.tobytes()
            if self.reports:
                payloads, table = self._with_reports(payloads, table, sent_s, timestamp, ssrc, start)
            yield payloads, table

    def _with_reports(self, payloads, table, sent_s, timestamp, ssrc, start):
        """A sender report each 5 s, by a wall clock that is right."""
        extra, rows = [], []
        for index in range(0, len(sent_s), 250):
            report = rtcp_sender_report(
                int(ssrc[index]), 1_700_000_000 + sent_s[index], int(timestamp[index]) & 0xFFFFFFFF
            )
            row = np.zeros(1, dtype=table.dtype)
            row["time_ns"] = round((sent_s[index] + 0.030) * 1e9)
            row["offset"] = len(payloads) + sum(map(len, extra))
            row["length"] = len(report)
            extra.append(report)
            rows.append(row)
        joined = np.concatenate([table, *rows])
        return payloads + b"".join(extra), joined[np.argsort(joined["time_ns"], kind="stable")]


def run(legs: list[Leg], seconds: int) -> tuple[list[rtp.Receiver], list[dict[int, float]]]:
    """Play the call into a Receiver a leg; returns them and, a leg, at which second each mark came out."""
    receivers = [rtp.Receiver({0: "PCMU"}, origin_ns=-1_000_000_000) for _ in legs]
    heard: list[dict[int, float]] = [{} for _ in legs]

    def read(receiver: rtp.Receiver, found: dict[int, float], until: int) -> None:
        position = receiver.position
        pcm = np.frombuffer(receiver.read(until), np.int16)
        for place in np.flatnonzero(pcm < -8000):
            at_s = (position + place) / RATE - 1
            mark = round((at_s - 5) / MARK_S) * MARK_S + 5
            heard[receivers.index(receiver)].setdefault(mark, at_s)

    for blocks in zip(*(leg.blocks(seconds) for leg in legs), strict=True):
        done = [0] * len(legs)
        first_ns = min(int(table["time_ns"][0]) for _, table in blocks)
        last_ns = max(int(table["time_ns"][-1]) for _, table in blocks)
        for now_ns in range(first_ns, last_ns + 1_000_000_000, 500_000_000):
            for number, (payloads, table) in enumerate(blocks):
                receiver = receivers[number]
                done[number] += receiver.receive_batch(payloads, table, done[number], until_ns=now_ns)
            until = min(receiver.ready(now_ns) for receiver in receivers)
            for receiver, found in zip(receivers, heard, strict=True):
                read(receiver, found, until)
    for receiver, found in zip(receivers, heard, strict=True):
        receiver.finish()
        read(receiver, found, receiver.end)
    return receivers, heard
