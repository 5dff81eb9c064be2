"""One direction of a leg: its packets on their way into the call, and our reports of them."""

from __future__ import annotations

import random
import secrets
import time
from contextlib import suppress

from callreel.call import Call
from callreel.kernels import rtp, udp
from callreel.legs import Direction
from callreel.service import rtcp
from callreel.service.rtp_sockets import Ends, name_of

__all__ = ["Lane"]

RECORD_BYTES = 40  # kernels.pcap.DTYPE


class Lane:
    """One direction of a leg: its stream on its way into the call, and our reports of it."""

    __slots__ = (
        "average_bytes",
        "direction",
        "ends",
        "first",
        "is_received",
        "leg",
        "name",
        "receiver",
        "report_at",
        "reports_sent",
        "rest",
        "ssrc",
        "stream",
    )  # fmt: skip

    def __init__(
        self,
        leg: str,
        direction: Direction,
        stream: udp.Stream,
        ends: Ends,
        name: str,
        *,
        is_received: bool = True,
    ) -> None:
        """`is_received`: it comes from outside, and its sender has our reports; else it is what we have played."""
        self.leg = leg
        self.direction = direction
        self.stream = stream
        self.ends = ends
        self.name = name
        self.is_received = is_received
        self.ssrc = secrets.randbits(32)
        self.receiver: rtp.Receiver | None = None
        """Of the leg's track: packets go there without the call in between."""
        self.rest: tuple[bytes, bytes] | None = None
        """What the call had no room for, or is too early: payloads and records, those from `first` on."""
        self.first = 0
        self.average_bytes = 80.0
        self.report_at = time.monotonic() + rtcp.interval_s(
            random.random(), self.average_bytes, is_first=True
        )
        self.reports_sent = 0

    def feed(self, call: Call, until_ns: int | None, *, is_last: bool = False) -> None:
        """Hand over what is left of the last time, then what has come since."""
        receiver = self.receiver
        if receiver is None:
            receiver = self.receiver = call.track(self.leg, self.direction).receiver
        if self.rest is not None:
            (data, records), first = self.rest, self.first
            self.first += receiver.receive_batch(data, records, first, None, until_ns)
            if RECORD_BYTES * self.first < len(records):
                return
            self.rest = None
        taken = self.stream.take(is_last)
        if taken is None:
            return
        data, records = taken
        first = receiver.receive_batch(data, records, 0, None, until_ns)
        if RECORD_BYTES * first < len(records):
            self.rest, self.first = taken, first

    def close(self) -> None:
        """Nothing more comes of it: let go of what is large."""
        self.stream.close()
        self.receiver = self.rest = None

    def report(self, voice: udp.Voice | None, *, bye: bool = False) -> None:
        """Send the report that is due; nothing while there is nobody to tell, or nothing to tell."""
        self.report_at = time.monotonic() + rtcp.interval_s(
            random.random(), self.average_bytes, is_first=False
        )
        if not self.is_received:
            return
        speaks = voice if self.direction is Direction.INCOMING else None
        to, report = self.stream.control_peer, self.stream.report()
        sent = None if speaks is None else speaks.sent
        if to is None or (report is None and not (sent is not None and sent.packets)):
            return
        packet = rtcp.compound(
            self.ssrc, self.name, report, sent=sent, now_ntp=rtcp.ntp(time.time()), bye=bye
        )
        self.average_bytes += (len(packet) - self.average_bytes) / 16
        end = self.ends.media if self.ends.reports is None else self.ends.reports
        with suppress(OSError):  # the network's trouble: the next one may get through
            end.sendto(packet, name_of(to))
            self.reports_sent += 1

    @property
    def statistics(self) -> dict[str, float]:
        """Packets by fate, and the reports sent."""
        return {**self.stream.counts, "reports_sent": self.reports_sent}
