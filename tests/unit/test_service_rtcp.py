"""RTCP that is sent: what it holds, and when."""

import struct
import sys
from fractions import Fraction

import pytest

from callreel.kernels import rtp
from capture_writer import rtcp_sender_report

if sys.platform != "linux":
    pytest.skip("RTP over UDP needs Linux", allow_module_level=True)

from callreel.kernels.udp import Report, Sent
from callreel.service import rtcp

REPORT = Report(7, 64, 12, 70_000, 33, 0x12345678, 65_536)


def test_who_has_sent_nothing_sends_a_receiver_report_with_a_name():
    packet = rtcp.compound(0xABCD, "recorder", REPORT)
    assert packet[:8] == struct.pack(">BBHI", 0x81, 201, 7, 0xABCD)
    assert packet[8:32] == struct.pack(">IIIIII", 7, 64 << 24 | 12, 70_000, 33, 0x12345678, 65_536)
    assert packet[32:] == struct.pack(">BBHIBB8s2x", 0x81, 202, 4, 0xABCD, 1, 8, b"recorder")
    assert rtp.sender_report(packet) is None


def test_who_speaks_sends_a_sender_report():
    now_ntp = rtcp.ntp(1_700_000_000.5)
    packet = rtcp.compound(0xABCD, "x", REPORT, sent=Sent(0xABCD, 8000, 50, 8000), now_ntp=now_ntp)
    said = rtcp_sender_report(0xABCD, Fraction(3_400_000_001, 2), 8000, 50, 8000)
    assert packet[4:28] == said[4:28]
    assert rtp.sender_report(packet) == rtp.SenderReport(0xABCD, now_ntp, 8000, 50, 8000)
    assert packet[0] == 0x81


@pytest.mark.parametrize("lost", [-5, 0, 0x7FFFFF, -0x800000])
def test_lost_packets_are_24_bits_and_signed(lost):
    packet = rtcp.compound(1, "x", REPORT._replace(lost=lost))
    assert int.from_bytes(packet[13:16], "big", signed=True) == lost


@pytest.mark.parametrize("name", ["", "a", "ab", "abc", "abcd", "n" * 300])
@pytest.mark.parametrize("bye", [False, True])
def test_every_length_adds_up(name, bye):
    packet = rtcp.compound(1, name, None, bye=bye)
    kinds = []
    while packet:
        kinds.append(packet[1])
        size = 4 * (struct.unpack_from(">H", packet, 2)[0] + 1)
        assert len(packet) >= size
        packet = packet[size:]
    assert kinds == [201, 202] + [203] * bye


def test_reports_come_every_5_s_by_and_large_the_first_after_half_of_that():
    chances = [n / 1000 for n in range(1000)]
    for is_first, least in ((False, 5.0), (True, 2.5)):
        intervals = [rtcp.interval_s(chance, 80.0, is_first=is_first) for chance in chances]
        assert min(intervals) == pytest.approx(0.5 * least / 1.21828, rel=1e-3)
        assert max(intervals) == pytest.approx(1.5 * least / 1.21828, rel=1e-2)


def test_large_reports_come_less_often():
    assert rtcp.interval_s(0.5, 4000.0, is_first=False) == pytest.approx(2 * 4028 / 500 / 1.21828, rel=1e-4)
