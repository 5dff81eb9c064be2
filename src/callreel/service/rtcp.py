"""RTCP that we send: reports as compound packets, and when (RFC 3550, sections 6.2 to 6.6). Nothing here does I/O."""

from __future__ import annotations

import struct

from callreel.kernels.udp import Report, Sent

__all__ = ["compound", "interval_s", "ntp"]

SENDER_REPORT, RECEIVER_REPORT, DESCRIPTION, BYE = 200, 201, 202, 203
CNAME = 1

SESSION_BYTES_S = 10_000.0
"""What a G.711 stream with its headers takes: 172 bytes of RTP, 28 of UDP and IP, 50 times a second."""
SHARE = 0.05
"""Of that for all of RTCP."""
LEAST_S = 5.0
HEADERS_BYTES = 28
COMPENSATION = 2.718281828459045 - 1.5
"""For what reconsideration of the timer does to the average (section 6.3.1)."""

NTP_EPOCH_S = 2_208_988_800
"""From 1900 to 1970."""


def interval_s(chance: float, average_bytes: float, *, is_first: bool) -> float:
    """How long to wait for the next report between two members (section 6.3.1); `chance` is random, from 0 to 1.

    With two members a quarter of them or more are senders, so all share the bandwidth alike.
    """
    least = LEAST_S / 2 if is_first else LEAST_S
    wanted = 2 * (average_bytes + HEADERS_BYTES) / (SHARE * SESSION_BYTES_S)
    return max(least, wanted) * (0.5 + chance) / COMPENSATION


def ntp(epoch_s: float) -> int:
    """A moment since 1970 as 32.32 fixed point since 1900, which wraps in 2036."""
    return int((epoch_s + NTP_EPOCH_S) * (1 << 32)) & 0xFFFF_FFFF_FFFF_FFFF


def compound(
    ssrc: int,
    name: str,
    report: Report | None,
    *,
    sent: Sent | None = None,
    now_ntp: int = 0,
    bye: bool = False,
) -> bytes:
    """A compound packet of `ssrc`: a sender report if it has `sent` anything, else a receiver report; name; BYE."""
    blocks = b"" if report is None else _block(report)
    count = len(blocks) // 24
    if sent is not None and sent.packets:
        info = struct.pack(
            ">QIII",
            now_ntp,
            sent.timestamp,
            sent.packets & 0xFFFF_FFFF,
            sent.octets & 0xFFFF_FFFF,
        )
        packet = _packet(SENDER_REPORT, count, struct.pack(">I", ssrc) + info + blocks)
    else:
        packet = _packet(RECEIVER_REPORT, count, struct.pack(">I", ssrc) + blocks)
    text = name.encode()[:255]
    item = struct.pack(">IBB", ssrc, CNAME, len(text)) + text
    packet += _packet(DESCRIPTION, 1, item + bytes(4 - len(item) % 4))
    if bye:
        packet += _packet(BYE, 1, struct.pack(">I", ssrc))
    return packet


def _packet(kind: int, count: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0x80 | count, kind, len(body) // 4) + body


def _block(report: Report) -> bytes:
    return struct.pack(
        ">IIIIII",
        report.ssrc,
        report.fraction_lost << 24 | report.lost & 0xFF_FFFF,
        report.highest_sequence,
        report.jitter,
        report.last_report,
        report.delay,
    )
