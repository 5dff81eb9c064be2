"""callreel.kernels.pcap: containers, links, IP, fragments, flows, batches; nothing in a file can break it."""

import hashlib
import itertools
import os
import struct
import sys
import threading
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callreel.errors import CaptureError, UsageError
from callreel.kernels import pcap as kernel
from capture_writer import (
    COOKED,
    COOKED_V2,
    ETHERNET,
    GRE,
    ICMP,
    ICMPV6,
    IPV4_IN_IP,
    IPV6_IN_IP,
    LOOP,
    NULL,
    PPP,
    RAW,
    RAW_IPV4,
    RAW_IPV6,
    TCP,
    Interface,
    Record,
    Section,
    capture,
    ethernet,
    gre,
    ip,
    ipv4,
    ipv4_fragments,
    ipv6,
    ipv6_fragments,
    link,
    pcap,
    pcapng,
    ppp,
    pppoe,
    rtp_packet,
    tcp,
    udp,
)

T0_NS = 1_700_000_000_123_456_000
RTP = rtp_packet(b"\xd5" * 160, seq=7, timestamp=1120)


def read(data: bytes, cuts: Iterable[int] = (), **options) -> tuple[list[tuple], kernel.Reader]:
    """All packets of a capture in order of the file, fed in pieces that end at `cuts`, and the reader.

    A packet is (frame, time_ns, protocol, source, port, destination, port, seq, flags, wire_length, payload).
    """
    reader = kernel.Reader(**options)
    packets = []
    edges = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        batch = reader.feed(data[start:end])
        check_batch(batch)
        for time_ns, frame, offset, length, number, wire, seq, flags, _ in unpacked(batch):
            flow = reader.flows[number]
            packets.append((frame, time_ns, *flow[:5], seq, flags, wire, bytes(batch.data[offset:][:length])))
    reader.finish()
    counts = reader.counts
    assert counts["bytes"] == len(data)
    kinds = ("udp", "tcp", "icmp_embedded", "other", "malformed", "unknown_link_type")
    assert sum(counts[kind] for kind in kinds) == (
        counts["frames"] - counts["fragments"] + counts["reassembled"]
    )
    return sorted(packets), reader


def unpacked(batch: kernel.Batch) -> list[tuple[int, ...]]:
    return list(struct.iter_unpack("=qQIIIIIHH", batch.records))


def check_batch(batch: kernel.Batch) -> None:
    """What holds for every batch whatever was fed."""
    records = unpacked(batch)
    assert len(records) == len(batch)
    assert [(record[4], record[1]) for record in records] == sorted((r[4], r[1]) for r in records)
    flows = [record[4] for record in records]
    assert batch.groups == [(flow, flows.index(flow), flows.count(flow)) for flow in sorted(set(flows))]
    times = [record[0] for record in records]
    assert batch.first_time_ns == min(times, default=None)
    assert batch.last_time_ns == max(times, default=None)
    assert sum(record[3] for record in records) == len(batch.data)
    assert all(record[2] + record[3] <= len(batch.data) and record[3] <= record[5] for record in records)


def payloads(data: bytes) -> list[bytes]:
    return [packet[-1] for packet in read(data)[0]]


def one_frame(frame: bytes, link_type: int = ETHERNET, wire_bytes: int | None = None) -> bytes:
    return pcap([Record(T0_NS, frame, wire_bytes)], link_type=link_type)


def frames(*frames_: bytes) -> bytes:
    """A capture of these Ethernet frames, 1 ms apart."""
    return pcap([Record(T0_NS + 1_000_000 * i, frame) for i, frame in enumerate(frames_)])


def v4(payload: bytes = RTP) -> bytes:
    return ipv4(udp(payload, 4000, 5000), "10.0.0.1", "10.0.0.2")


def v6(payload: bytes = RTP) -> bytes:
    return ipv6(udp(payload, 4000, 5000), "2001:db8::1", "2001:db8::2")


# ---- real captures, against tshark 4.0.17 ----

# file, then by tshark: frames, UDP datagrams and TCP segments outside ICMP, of these the ones with payload
# (or SYN, FIN or RST), and the beginning of the SHA-256 over their lines
# "frame time_ns protocol source port destination port seq flags payload" (payload in hex).
# UDP payloads end where the UDP header says (trex: two of tshark's go on to the end of the IP packet).
TSHARK = [
    ("pcap/calls/baresip-pcmu-47hash.pcap", 1365, 1365, 0, 1365, "19171c71b171509f"),
    ("pcap/calls/sipnab-codec-negotiation.pcap", 614, 614, 0, 614, "9bcd352ca0820903"),
    ("pcap/calls/sngrep-aaa.pcap", 691, 590, 57, 632, "0056afd7b29ecdaf"),
    ("pcap/calls/trex-sip_call_g729.pcap", 1651, 1651, 0, 1651, "afee42ed395a1a44"),
    ("pcap/calls/wireshark-sip-rtp.pcapng", 562, 562, 0, 562, "f154cf9d43450f3f"),
    ("pcap/container/isup.pcap", 6, 0, 0, 0, "e3b0c44298fc1c14"),
    ("pcap/container/pcapng-le/test001.pcapng", 4, 4, 0, 4, "e73463b309627628"),
    ("pcap/container/pcapng-le/test002.pcapng", 0, 0, 0, 0, "e3b0c44298fc1c14"),
    ("pcap/container/pcapng-le/test003.pcapng", 0, 0, 0, 0, "e3b0c44298fc1c14"),
    ("pcap/container/pcapng-le/test004.pcapng", 4, 4, 0, 4, "3182a00e6a4752a6"),
    ("pcap/container/pcapng-le/test005.pcapng", 4, 4, 0, 4, "3182a00e6a4752a6"),
    ("pcap/container/pcapng-le/test006.pcapng", 5, 5, 0, 5, "9e4821293703de88"),
    ("pcap/container/pcapng-le/test007.pcapng", 1, 1, 0, 1, "396e1d71c1552c5d"),
    ("pcap/container/pcapng-le/test008.pcapng", 4, 4, 0, 4, "77821558185bbc9b"),
    ("pcap/container/pcapng-le/test009.pcapng", 2, 2, 0, 2, "cbce22d36a652e6d"),
    ("pcap/container/pcapng-le/test010.pcapng", 4, 4, 0, 4, "e73463b309627628"),
    ("pcap/container/pcapng-le/test011.pcapng", 4, 4, 0, 4, "0d5e9d050935fd9b"),
    ("pcap/container/pcapng-le/test012.pcapng", 4, 4, 0, 4, "14cd3118c97756ed"),
    ("pcap/container/pcapng-le/test013.pcapng", 0, 0, 0, 0, "e3b0c44298fc1c14"),
    ("pcap/container/pcapng-le/test014.pcapng", 0, 0, 0, 0, "e3b0c44298fc1c14"),
    ("pcap/container/pcapng-le/test015.pcapng", 0, 0, 0, 0, "e3b0c44298fc1c14"),
    ("pcap/container/pcapng-le/test016.pcapng", 4, 4, 0, 4, "0d5e9d050935fd9b"),
    ("pcap/container/pcapng-le/test017.pcapng", 0, 0, 0, 0, "e3b0c44298fc1c14"),
    ("pcap/container/pcapng-le/test018.pcapng", 4, 4, 0, 4, "0d5e9d050935fd9b"),
    ("pcap/container/pcpp-VlanPackets.pcap", 26, 0, 0, 0, "e3b0c44298fc1c14"),
    ("pcap/container/pcpp-frag_with_padding.pcap", 8, 1, 0, 1, "8d12826b0ccc7b4f"),
    ("pcap/container/tcp-handshake-nano.pcap", 3, 0, 3, 2, "d06994b5a8e18509"),
    ("pcap/container/unaligned-nfs-1.pcap", 1, 0, 1, 1, "c5b802e7c8662c5e"),
    ("pcap/container/wireshark-empty.pcap", 0, 0, 0, 0, "e3b0c44298fc1c14"),
    ("pcap/container/wireshark-many_interfaces.1.pcapng", 64, 32, 32, 52, "61e1c8f825a69d74"),
    ("pcap/container/wireshark-trunc.pcap", 47, 0, 1, 1, "d20c432ed5064e20"),
    ("pcap/container/zeek-ip4-trunc.pcap", 1, 0, 0, 0, "e3b0c44298fc1c14"),
    ("pcap/container/zeek-q-in-q.pcap", 5, 4, 0, 4, "4f6354e4582b267a"),
    ("pcap/container/zeek-udp-truncated-oob.pcap", 1, 1, 0, 0, "e3b0c44298fc1c14"),
    ("pcap/events/asterisk-ulaw-2013785496.pcap", 974, 974, 0, 974, "24c935050fe8b228"),
    ("pcap/events/cisco-spa-525G2-zendesk34432.pcap", 632, 632, 0, 632, "71dca1f13b63fd05"),
    ("pcap/events/dtmf_2833_0.pcap", 10, 10, 0, 10, "26f8deacc61971c1"),
    ("pcap/events/dtmf_2833_1.pcap", 10, 10, 0, 10, "5e1b5eba7d9a1f87"),
    ("pcap/events/dtmf_2833_2.pcap", 10, 10, 0, 10, "add63cf916f82494"),
    ("pcap/events/dtmf_2833_3.pcap", 10, 10, 0, 10, "7734fc117fd1d052"),
    ("pcap/events/dtmf_2833_4.pcap", 10, 10, 0, 10, "c139581e01afbb78"),
    ("pcap/events/dtmf_2833_star.pcap", 10, 10, 0, 10, "43adca24a039a0c5"),
    ("pcap/events/dtmf_rfc2833_2_digit_pairs.pcap", 48, 48, 0, 48, "d23a23f21bab4ab4"),
    ("pcap/events/dtmf_rfc2833_4_digits_slow.pcap", 48, 48, 0, 48, "b54d83ddca59257b"),
    ("pcap/events/restcomm-dtmf-oob-two-hash.cap", 501, 501, 0, 501, "0c66c2c882978c82"),
    ("pcap/g711/asterisk-40msalaw.pcap", 826, 826, 0, 826, "c4071911239fd3dc"),
    ("pcap/g711/freeswitch-milliwatt.pcmu.rtp.pcap", 232, 232, 0, 232, "65cb9419432e6505"),
    ("pcap/g711/pcmu_8k_no_jitter.pcap", 2528, 2524, 0, 2524, "145a566b7393f901"),
    ("pcap/g711/rtpproxy-call1_ulaw-leg.pcap", 1184, 1184, 0, 1184, "41b55d4ca71a9cfc"),
    ("pcap/g711/rtpproxy-call1_ulaw.pcap", 1184, 1184, 0, 1184, "779a068fe53133f0"),
    ("pcap/g711/rtpproxy-rtcp.o.pcap", 230, 230, 0, 230, "7aa4c8ebf5933909"),
    ("pcap/g711/sipp-g711a.pcap", 236, 236, 0, 236, "b0802f71e247a8d0"),
    ("pcap/quirks/asterisk-crash-27382.pcap", 276, 276, 0, 276, "efb98e3531952c51"),
    ("pcap/quirks/false_positives.pcapng", 120, 116, 4, 120, "b297d44cb6bb9a68"),
    ("pcap/quirks/rtcp_multiple_pkts_in_the_same_datagram.pcap", 5, 5, 0, 5, "33fa7da6707d4f0d"),
    ("pcap/quirks/rtp-534late-24loss-7000total.pcapng", 7108, 7108, 0, 7108, "e2b61f5ca60fec3e"),
    ("pcap/quirks/rtp-seg-fault-1.pcapng", 1, 1, 0, 1, "ff80cdca35beb37c"),
    ("pcap/quirks/rtp.pcapng", 112, 75, 37, 94, "c2b2e875aa7565bf"),
    ("pcap/quirks/rtpproxy-DLT_NULL.pcap", 600, 600, 0, 600, "f6d2344540380e1f"),
    ("pcap/quirks/rtpproxy-dups.a.pcap", 384, 384, 0, 384, "0ddecf9a41c2b234"),
    ("pcap/quirks/rtpproxy-lost.a.pcap", 244, 244, 0, 244, "056676f11195b396"),
    ("pcap/quirks/rtpproxy-lost.o.pcap", 246, 246, 0, 246, "5953b82df078200f"),
    ("pcap/sip/invalid-content-length.pcap", 2, 2, 0, 2, "a776c342f10fee29"),
    ("pcap/sip/ipv6frag.pcap", 34, 32, 0, 32, "04b8f986e28ed8b2"),
    ("pcap/sip/sdp.pcap", 2, 2, 0, 2, "5fa41b08f6d3e44f"),
    ("pcap/sip/sip-body-large.pcap", 16, 0, 16, 10, "5712d0e8abaa96d8"),
    ("pcap/sip/sip-tcp.pcap", 11, 0, 11, 6, "d6865fd6b05544b0"),
    ("pcap/sip/sip_compact_form.pcap", 1, 1, 0, 1, "d9474b83afd3a40f"),
    ("pcap/sip/sip_hello.pcapng", 30, 30, 0, 30, "3d96281d6e13bda2"),
    ("pcap/sip/sip_reqs.pcap", 4, 4, 0, 4, "2328db2897454acf"),
]


def digest(packets: list[tuple]) -> str:
    lines = [
        " ".join(map(str, (*packet[:8], packet[8] & (kernel.TCP_SYN | kernel.TCP_FIN | kernel.TCP_RST))))
        + " "
        + packet[-1].hex()
        for packet in packets
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize(("name", "frames", "udp", "tcp", "delivered", "expected"), TSHARK)
def test_every_packet_of_a_capture_is_as_tshark_sees_it(
    test_data, name, frames, udp, tcp, delivered, expected
):
    data = test_data(name).read_bytes()
    packets, reader = read(data)
    counts = reader.counts
    assert (counts["frames"], counts["udp"], counts["tcp"], len(packets)) == (frames, udp, tcp, delivered)
    assert digest(packets) == expected
    assert reader.truncated == (name == "pcap/container/wireshark-trunc.pcap")


@pytest.mark.parametrize("name", [row[0] for row in TSHARK])
def test_a_capture_reads_the_same_in_pieces_of_any_size(test_data, name):
    data = test_data(name).read_bytes()
    whole, reader = read(data)
    for size in (1, 61, 4099, 65536):
        if len(data) / size > 12000:
            continue
        packets, pieces = read(data, range(size, len(data), size))
        assert packets == whole
        assert pieces.counts == reader.counts
        assert list(pieces.flows) == list(reader.flows)
        assert (pieces.problem, pieces.truncation_offset) == (reader.problem, reader.truncation_offset)


def test_rtp_quoted_by_an_icmp_error_is_not_media(test_data):
    _, reader = read(test_data("pcap/g711/pcmu_8k_no_jitter.pcap").read_bytes())
    assert reader.format == "pcapng"  # whatever its name says
    assert (reader.counts["udp"], reader.counts["icmp_embedded"]) == (2524, 4)


def test_ipv4_fragments_with_ethernet_padding_join(test_data):
    packets, reader = read(test_data("pcap/container/pcpp-frag_with_padding.pcap").read_bytes())
    assert (reader.counts["fragments"], reader.counts["reassembled"]) == (8, 1)
    assert packets[0][8:10] == (kernel.REASSEMBLED, len(packets[0][-1]))


def test_ipv6_fragments_on_a_cooked_link_join(test_data):
    packets, reader = read(test_data("pcap/sip/ipv6frag.pcap").read_bytes())
    assert (reader.counts["fragments"], reader.counts["reassembled"]) == (4, 2)
    assert [packet[0] for packet in packets if packet[8] & kernel.REASSEMBLED] == [2, 5]


def test_pppoe_in_ethernet_is_unwrapped(test_data):
    packets, _ = read(test_data("pcap/sip/sip_reqs.pcap").read_bytes())
    assert len(packets) == 4
    assert all(b"SIP/2.0" in packet[-1] for packet in packets)


def test_nested_vlan_tags_give_the_outermost_id(test_data):
    _, reader = read(test_data("pcap/container/zeek-q-in-q.pcap").read_bytes())
    assert [flow.vlan for flow in reader.flows] == [13, 13]


def test_a_file_cut_inside_a_packet_says_where(test_data):
    _, reader = read(test_data("pcap/container/wireshark-trunc.pcap").read_bytes())
    assert reader.truncated
    assert reader.truncation_offset == 983
    assert reader.problem == "the file ends in the middle of a record"


def test_interfaces_of_one_file_may_have_different_link_types(test_data):
    _, reader = read(test_data("pcap/container/pcapng-le/test006.pcapng").read_bytes())
    assert reader.link_types == (1, 0)


# ---- containers ----

CONTAINERS = {
    "pcap": lambda records, big: pcap(records, big_endian=big),
    "pcap in ns": lambda records, big: pcap(records, big_endian=big, nanoseconds=True),
    "pcap with 24-byte headers": lambda records, big: pcap(records, big_endian=big, modified=True),
    "pcapng": lambda records, big: pcapng(records, big_endian=big),
    "pcapng in ns": lambda records, big: pcapng(records, [Interface(resolution=9)], big_endian=big),
    "pcapng, old packet blocks": lambda records, big: pcapng(
        [Record(r.time_ns, r.frame, kind="old") for r in records], big_endian=big
    ),
}


@pytest.mark.parametrize("big_endian", [False, True], ids=["little", "big"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_back_times_and_packets(container, big_endian):
    records = [Record(T0_NS + i * 20_000_000, ethernet(v4(b"%d" % i))) for i in range(50)]
    packets, reader = read(CONTAINERS[container](records, big_endian))
    assert [(p[0], p[1], p[-1]) for p in packets] == [
        (i + 1, T0_NS + i * 20_000_000, b"%d" % i) for i in range(50)
    ]
    assert packets[0][2:7] == ("udp", "10.0.0.1", 4000, "10.0.0.2", 5000)
    assert reader.format == ("pcapng" if "pcapng" in container else "pcap")
    assert not reader.truncated


def packet_block(ticks: int) -> tuple[int, bytes]:
    """A packet block with a raw time."""
    frame = ethernet(v4())
    return 6, struct.pack("<IIIII", 0, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame)) + frame


@pytest.mark.parametrize(
    ("resolution", "ticks", "time_ns"),
    [
        (0, 1_700_000_000, 1_700_000_000_000_000_000),
        (3, 1_700_000_000_123, 1_700_000_000_123_000_000),
        (6, 1_700_000_000_123_456, 1_700_000_000_123_456_000),
        (9, 1_700_000_000_123_456_789, 1_700_000_000_123_456_789),
        (12, 1_700_000_123_456_789, 1_700_000_123_456),
        (28, 2**64 - 1, 1),
        (29, 2**64 - 1, 0),
        (127, 2**64 - 1, 0),
        (0x80, 1_700_000_000, 1_700_000_000_000_000_000),
        (0x80 | 10, 1_700_000_000 << 10 | 512, 1_700_000_000_500_000_000),
        (0x80 | 20, 1_700_000_000 << 20 | 1, 1_700_000_000_000_000_953),
        (0x80 | 32, 1_700_000_000 << 32 | 3 << 30, 1_700_000_000_750_000_000),
        (0x80 | 40, 3 << 39, 1_500_000_000),
        (0x80 | 63, 2**64 - 1, 1_999_999_999),
        (0x80 | 64, 2**63, 500_000_000),
        (0x80 | 127, 2**64 - 1, 0),
        (0, 2**64 - 1, 2**63 - 1),  # beyond what 64 bits of nanoseconds hold
        (0x80, 2**64 - 1, 2**63 - 1),
    ],
)
def test_pcapng_times_follow_the_interface_resolution(resolution, ticks, time_ns):
    data = Section(
        interfaces=[Interface(resolution=resolution)],
        blocks_before=[packet_block(ticks)],
    ).to_bytes()
    assert [packet[1] for packet in read(data)[0]] == [time_ns]


@pytest.mark.parametrize("offset_s", [3600, -3600, 0, 2**62, -(2**63)])
def test_pcapng_times_are_shifted_by_the_interface_offset(offset_s):
    ticks = 1_000_000_000
    data = Section(
        interfaces=[Interface(offset_s=offset_s)],
        blocks_before=[packet_block(ticks)],
    ).to_bytes()
    shift = max(-(2**63 - 1), min(2**63 - 1, offset_s * 10**9))
    expected = max(-(2**63), min(2**63 - 1, ticks * 1000 + shift))
    assert [packet[1] for packet in read(data)[0]] == [expected]


def test_a_simple_packet_has_the_time_of_the_packet_before():
    frame = ethernet(v4())
    records = [
        Record(0, frame, kind="simple"),
        Record(T0_NS, frame),
        Record(0, frame, kind="simple"),
    ]
    assert [packet[1] for packet in read(pcapng(records))[0]] == [0, T0_NS, T0_NS]


def test_a_simple_packet_is_cut_by_the_snap_length_of_the_first_interface():
    frame = ethernet(v4())
    data = pcapng(
        [Record(0, frame[:100], len(frame), kind="simple")], [Interface(snap_bytes=100), Interface()]
    )
    ((*_, flags, wire, payload),) = read(data)[0]
    assert (flags, wire, payload) == (kernel.CUT, 172, RTP[: 100 - 42])


def test_sections_have_their_own_byte_order_and_interfaces():
    first = Section([Record(T0_NS, ethernet(v4()))], [Interface(), Interface(RAW)], big_endian=True)
    second = Section([Record(T0_NS + 1000, v6())], [Interface(RAW)])
    stray = Section([Record(T0_NS + 2000, v6(), interface=1)], [Interface(RAW), Interface(RAW)])
    # the last section's packet names an interface only the first one had
    orphan = stray.to_bytes().replace(stray.block(1, struct.pack("<HHI", RAW, 0, 0)), b"", 1)
    packets, reader = read(first.to_bytes() + second.to_bytes() + orphan)
    assert [(p[0], p[1]) for p in packets] == [(1, T0_NS), (2, T0_NS + 1000)]
    assert reader.link_types == (ETHERNET, RAW)
    assert (reader.counts["frames"], reader.counts["malformed"]) == (3, 1)


def test_blocks_that_are_no_packets_are_passed_over():
    section = Section(
        [Record(T0_NS, ethernet(v4()))],
        [Interface(extra_options=struct.pack("<HH4s", 2, 3, b"lo\0\0"), resolution=9)],
        blocks_before=[
            (4, b"names"),
            (5, bytes(16)),
            (0x0BAD, b"private"),
            (10, b"secrets" * 100_000),  # longer than any packet
            (0xFFFFFFFF, b""),
        ],
    )
    packets, reader = read(section.to_bytes(), cuts=range(1000, 700_000, 1000))
    assert [(p[0], p[1]) for p in packets] == [(1, T0_NS)]
    assert not reader.truncated


def test_the_upper_bits_of_the_link_type_field_are_no_link_type():
    data = bytearray(one_frame(ethernet(v4()) + b"fcs!"))
    data[20:24] = struct.pack("<I", 0x24000001)  # frame check sequence of 4 bytes behind each frame
    assert payloads(bytes(data)) == [RTP]


def test_every_cut_of_a_file_gives_what_came_before_it():
    for whole in (
        frames(ethernet(v4(b"one")), ethernet(v6(b"two")), ethernet(v4(b"three"))),
        pcapng([Record(T0_NS + i, ethernet(v4(b"%d" % i))) for i in range(3)], [Interface(resolution=9)]),
    ):
        packets = read(whole)[0]
        ends = [0]
        for size in range(4, len(whole) + 1):
            found, reader = read(whole[:size])
            assert found == packets[: len(found)]
            if len(found) >= len(ends):
                ends.append(size)
            assert reader.truncated == (reader.truncation_offset is not None)
            if reader.truncated:
                assert reader.problem == "the file ends in the middle of a record"
                assert reader.truncation_offset >= ends[-1]
                assert reader.truncation_offset < size
                assert not read(whole[: reader.truncation_offset] or whole)[1].truncated
        assert len(ends) == 4


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (b"", 0),
        (b"\xd4\xc3\xb2", 0),
        (b"RIFF....WAVE", 0),
        (b"\x0a\x0d\x0d\x0a\x1c\0\0\0no order", 8),
        (b"\x1f\x8b\x08\0\0\0", 0),
    ],
    ids=["empty", "three bytes", "wav", "section without byte order", "gzip"],
)
def test_a_file_that_is_no_capture_raises_with_its_offset(data, offset):
    with pytest.raises(CaptureError) as caught:
        list(kernel.packets(data))
    assert caught.value.offset == offset


def test_a_file_that_is_no_capture_stays_one():
    reader = kernel.Reader()
    for _ in range(2):
        with pytest.raises(CaptureError, match="neither pcap nor pcapng"):
            reader.feed(b"not a capture")
    with pytest.raises(CaptureError):
        reader.finish()


def test_a_gzip_file_is_named():
    with pytest.raises(CaptureError, match="gzip"):
        kernel.Reader().feed(b"\x1f\x8b\x08\0")


def test_an_absurd_record_length_ends_the_reading_there():
    good = frames(ethernet(v4(b"good")))
    packets, reader = read(good + b"\xff" * 1000)
    assert [packet[-1] for packet in packets] == [b"good"]
    assert reader.truncated
    assert reader.truncation_offset == len(good)
    assert reader.problem == "a packet record with an impossible length"
    assert reader.counts["frames"] == 1


def test_a_frame_above_256_kib_is_passed_over_when_the_snap_length_allows_it():
    big = Record(T0_NS, bytes(300_000))
    small = Record(T0_NS, ethernet(v4()))
    packets, reader = read(pcap([big, small], snap_bytes=1 << 20), cuts=range(999, 300_000, 999))
    assert [packet[0] for packet in packets] == [2]
    assert (reader.counts["frames"], reader.counts["malformed"]) == (2, 1)
    assert not reader.truncated


@pytest.mark.parametrize("size", [300_000, 400_000])
def test_a_packet_block_above_256_kib_is_passed_over(size):
    big = Record(T0_NS, ethernet(v4(), trailer=bytes(size)))
    packets, reader = read(pcapng([big, Record(T0_NS, ethernet(v4()))]), cuts=range(999, size, 999))
    assert [packet[0] for packet in packets] == [2]
    assert (reader.counts["frames"], reader.counts["malformed"]) == (2, 1)


@pytest.mark.parametrize("length", [0, 8, 11, 13, 0x80000001])
def test_an_impossible_block_length_ends_the_reading_there(length):
    good = pcapng([Record(T0_NS, ethernet(v4(b"good")))])
    packets, reader = read(good + struct.pack("<II", 6, length) + bytes(100))
    assert [packet[-1] for packet in packets] == [b"good"]
    assert reader.problem == "a block with an impossible length"
    assert reader.truncation_offset == len(good)


@pytest.mark.parametrize("kind", [6, 1, 4], ids=["packet", "interface", "names"])
def test_a_block_whose_two_lengths_differ_ends_the_reading_there(kind):
    good = pcapng([Record(T0_NS, ethernet(v4(b"good")))])
    broken = bytearray(Section().block(kind, bytes(40)))
    broken[-1] = 1
    packets, reader = read(good + bytes(broken) + good)
    assert len(packets) == 1
    assert reader.problem == "a block whose two lengths differ"
    assert reader.truncation_offset == len(good)


def test_a_later_section_of_unknown_version_ends_the_reading_there():
    good = pcapng([Record(T0_NS, ethernet(v4()))])
    newer = bytearray(good)
    newer[12] = 2
    packets, reader = read(good + bytes(newer))
    assert len(packets) == 1
    assert (reader.problem, reader.truncation_offset) == (
        "a section header of no known byte order or version",
        len(good),
    )


@pytest.mark.parametrize(
    "body",
    [
        struct.pack("<IIIII", 1, 0, 0, 4, 4) + b"....",  # no such interface
        struct.pack("<IIIII", 0, 0, 0, 5, 5) + b"....",  # more than the block holds
        struct.pack("<IIIII", 0, 0, 0, 0xFFFFFFFF, 4) + b"....",
        b"....",  # too short for its fields
    ],
)
def test_a_packet_block_that_contradicts_itself_is_counted_and_passed_over(body):
    section = Section([Record(T0_NS, ethernet(v4()))], blocks_before=[(6, body)])
    packets, reader = read(section.to_bytes())
    assert [packet[0] for packet in packets] == [2]
    assert (reader.counts["frames"], reader.counts["malformed"]) == (2, 1)


def test_nothing_is_read_after_the_reading_has_stopped():
    reader = kernel.Reader()
    good = frames(ethernet(v4()))
    assert len(reader.feed(good + b"\xff" * 100)) == 1
    assert len(reader.feed(good)) == 0
    reader.finish()
    assert reader.counts["frames"] == 1


# ---- links and IP ----


@pytest.mark.parametrize("packet", [v4(), v6()], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("link_type", [ETHERNET, NULL, LOOP, RAW, 12, 14, PPP, COOKED, COOKED_V2])
def test_every_link_type_carries_both_versions_of_ip(link_type, packet):
    packets, reader = read(one_frame(link(packet, link_type), link_type))
    assert [p[-1] for p in packets] == [RTP]
    assert reader.link_types == (link_type,)


def test_raw_links_of_one_version_are_read():
    assert payloads(one_frame(v4(), RAW_IPV4)) == [RTP]
    assert payloads(one_frame(v6(), RAW_IPV6)) == [RTP]


@pytest.mark.parametrize("family", [24, 28, 30, 10, 23])
@pytest.mark.parametrize("order", ["<I", ">I"])
def test_a_loopback_link_may_have_any_systems_number_for_ipv6(family, order):
    assert payloads(one_frame(struct.pack(order, family) + v6(), NULL)) == [RTP]


def test_an_unknown_link_type_is_counted():
    packets, reader = read(one_frame(v4(), 147))
    assert packets == []
    assert reader.counts["unknown_link_type"] == 1


def label(value: int, bottom: bool) -> bytes:
    return struct.pack(">I", value << 12 | bottom << 8 | 64)


HOP = bytes([60, 0, 1, 4, 0, 0, 0, 0])  # hop-by-hop options, then destination options
DESTINATION = bytes([43, 0, 1, 4, 0, 0, 0, 0])  # then a routing header
ROUTING = bytes([17, 2, 0, 0]) + bytes(20)  # then UDP
AUTHENTICATION = bytes([17, 4, 0, 0]) + bytes(20)
UDP_RTP = udp(RTP, 4000, 5000)
OUTER = ("192.0.2.1", "192.0.2.2")
OUTER6 = ("fe80::1", "fe80::2")

WRAPPINGS = {
    "802.1Q": ethernet(v4(), [5]),
    "802.1ad": ethernet(v4(), [(0x88A8, 5), 9]),
    "9100": ethernet(v4(), [(0x9100, 5), (0x9200, 9), 11]),
    "PPPoE IPv4": ethernet(pppoe(v4()), protocol=0x8864),
    "PPPoE IPv6": ethernet(pppoe(v6()), [5], protocol=0x8864),
    "PPPoE with a compressed protocol": ethernet(
        struct.pack(">BBHHB", 0x11, 0, 7, 1 + len(v4()), 0x21) + v4(), protocol=0x8864
    ),
    "MPLS": ethernet(label(16, False) + label(17, True) + v4(), protocol=0x8847),
    "MPLS IPv6": ethernet(label(17, True) + v6(), protocol=0x8848),
    "LLC and SNAP": ethernet(b"\xaa\xaa\x03\0\0\0\x08\0" + v4(), protocol=8 + len(v4())),
    "IPv4 options": ethernet(ipv4(UDP_RTP, "10.0.0.1", "10.0.0.2", options=b"\x01" * 8)),
    "Ethernet trailer": ethernet(v4(), trailer=b"trailer"),
    "IP length 0": ethernet(ipv4(UDP_RTP, "10.0.0.1", "10.0.0.2", total_length=0)),
    "IPv6 length 0": ethernet(ipv6(UDP_RTP, "::1", "::2", payload_length=0)),
    "IPv4 in IPv4": ethernet(ipv4(v4(), *OUTER, IPV4_IN_IP)),
    "IPv6 in IPv4": ethernet(ipv4(v6(), *OUTER, IPV6_IN_IP)),
    "IPv4 in IPv6": ethernet(ipv6(v4(), *OUTER6, IPV4_IN_IP)),
    "IPv6 in IPv6": ethernet(ipv6(v6(), *OUTER6, IPV6_IN_IP)),
    "GRE": ethernet(ipv4(gre(v4()), *OUTER, GRE)),
    "GRE with checksum, key and number": ethernet(
        ipv4(gre(v6(), flags=0xB000, fields=bytes(12)), *OUTER, GRE)
    ),
    "GRE with Ethernet": ethernet(ipv4(gre(ethernet(v4(), [5]), 0x6558), *OUTER, GRE)),
    "GRE version 1 with PPP": ethernet(ipv4(gre(ppp(v4()), 0x880B, 0x3081, bytes(12)), *OUTER, GRE)),
    "ERSPAN I": ethernet(ipv4(gre(ethernet(v4()), 0x88BE), *OUTER, GRE)),
    "ERSPAN II": ethernet(ipv4(gre(bytes(8) + ethernet(v4()), 0x88BE, 0x1000, bytes(4)), *OUTER, GRE)),
    "ERSPAN III": ethernet(ipv4(gre(bytes(12) + ethernet(v4()), 0x22EB, 0x1000, bytes(4)), *OUTER, GRE)),
    "ERSPAN III with a platform header": ethernet(
        ipv4(gre(bytes(11) + b"\x01" + bytes(8) + ethernet(v4()), 0x22EB, 0x1000, bytes(4)), *OUTER, GRE)
    ),
    "GTP-U": ethernet(ipv4(udp(b"\x30\xff" + bytes(6) + v4(), 2152, 2152), *OUTER, 17)),
    "GTP-U with sequence number": ethernet(ipv4(udp(b"\x32\xff" + bytes(10) + v6(), 2152, 2152), *OUTER, 17)),
    "GTP-U with extension headers": ethernet(
        ipv4(udp(b"\x34\xff" + bytes(9) + b"\x85\x01\0\0\x40\x01\0\0\0" + v4(), 2152, 40000), *OUTER, 17)
    ),
    "IPv6 extension headers": ethernet(ipv6(HOP + DESTINATION + ROUTING + UDP_RTP, *OUTER6, 0)),
    "IPv6 authentication": ethernet(ipv6(AUTHENTICATION + UDP_RTP, *OUTER6, 51)),
    "IPv4 authentication": ethernet(ipv4(AUTHENTICATION + UDP_RTP, *OUTER, 51)),
    "IPv6 fragment of one": ethernet(ipv6(struct.pack(">BBHI", 17, 0, 0, 9) + UDP_RTP, *OUTER6, 44)),
}


VLANS = dict.fromkeys(["802.1Q", "802.1ad", "9100", "PPPoE IPv6", "GRE with Ethernet"], 5)  # the others: none


@pytest.mark.parametrize("name", WRAPPINGS)
def test_a_datagram_is_found_in_every_wrapping(name):
    packets, reader = read(one_frame(WRAPPINGS[name]))
    assert [(p[4], p[6], p[8], p[-1]) for p in packets] == [(4000, 5000, 0, RTP)]
    assert reader.flow(0).vlan == VLANS.get(name)


@pytest.mark.parametrize("name", WRAPPINGS)
def test_a_wrapping_cut_anywhere_is_counted_once_and_never_read_beyond(name):
    frame = WRAPPINGS[name]
    for size in range(len(frame)):
        packets, reader = read(one_frame(frame[:size], wire_bytes=len(frame)))
        assert reader.counts["frames"] == 1
        assert all(RTP.startswith(packet[-1]) for packet in packets)


def test_tunnelled_flows_have_the_inner_addresses():
    assert read(one_frame(WRAPPINGS["IPv6 in IPv4"]))[0][0][3:7] == ("2001:db8::1", 4000, "2001:db8::2", 5000)
    assert read(one_frame(WRAPPINGS["IPv4 in IPv6"]))[0][0][3:7] == ("10.0.0.1", 4000, "10.0.0.2", 5000)


def test_a_priority_tag_is_no_vlan():
    assert read(one_frame(ethernet(v4(), [0xE000])))[1].flow(0).vlan is None
    assert read(one_frame(ethernet(v4(), [0xE000, 0xE005])))[1].flow(0).vlan == 5


@pytest.mark.parametrize(
    "frame",
    [
        ethernet(b"\0" * 28, protocol=0x0806),
        ethernet(ip(bytes(40), "10.0.0.1", "10.0.0.2", 132)),
        ethernet(ip(struct.pack(">BBHI", 8, 0, 0, 0) + b"ping", "10.0.0.1", "10.0.0.2", ICMP)),
        ethernet(ip(struct.pack(">BBHI", 128, 0, 0, 0) + b"ping", "::1", "::2", ICMPV6)),
        ethernet(b"\x42\x42\x03" + bytes(40), protocol=43),
        ethernet(bytes(40), protocol=0x8863),
        ethernet(label(1, True) + bytes(40), protocol=0x8847),
        ethernet(ip(gre(bytes(40), 0), "10.0.0.1", "10.0.0.2", GRE)),
        ethernet(ip(b"", "::1", "::2", 59)),
    ],
    ids=["ARP", "SCTP", "ping", "ping6", "spanning tree", "PPPoE discovery", "MPLS wire", "GRE", "nothing"],
)
def test_what_is_neither_udp_nor_tcp_is_other(frame):
    packets, reader = read(one_frame(frame))
    assert packets == []
    assert reader.counts["other"] == 1


@pytest.mark.parametrize("kind", [3, 4, 5, 11, 12])
def test_an_icmp_error_is_counted_and_not_looked_into(kind):
    quoted = struct.pack(">BBHI", kind, 0, 0, 0) + v4()
    packets, reader = read(one_frame(ethernet(ipv4(quoted, "10.0.0.2", "10.0.0.1", ICMP))))
    assert packets == []
    assert (reader.counts["icmp_embedded"], reader.counts["udp"]) == (1, 0)


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_an_icmpv6_error_is_counted_and_not_looked_into(kind):
    quoted = struct.pack(">BBHI", kind, 0, 0, 0) + v6()
    packets, reader = read(one_frame(ethernet(ipv6(quoted, "::2", "::1", ICMPV6))))
    assert packets == []
    assert (reader.counts["icmp_embedded"], reader.counts["udp"]) == (1, 0)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        bytes(13),
        ethernet(b"", protocol=0x0800),
        ethernet(b"\x45" + bytes(18), protocol=0x0800),
        ethernet(b"\x44" + v4()[1:]),
        ethernet(b"\x75" + v4()[1:], protocol=0x0800),
        ethernet(ipv4(b"", "10.0.0.1", "10.0.0.2", total_length=19)),
        ethernet(ipv4(b"1234567", "10.0.0.1", "10.0.0.2")),
        ethernet(ipv4(udp(b"", 1, 2, length=7), "10.0.0.1", "10.0.0.2")),
        ethernet(ipv4(tcp(b"", 1, 2)[:19], "10.0.0.1", "10.0.0.2", TCP)),
        ethernet(ipv4(b"\0" * 12 + b"\x40" + bytes(7), "10.0.0.1", "10.0.0.2", TCP)),
        ethernet(ipv4(b"\0" * 12 + b"\xf0" + bytes(7), "10.0.0.1", "10.0.0.2", TCP)),
    ],
)
def test_headers_that_contradict_each_other_are_malformed(frame):
    packets, reader = read(frames(frame, ethernet(v4())))
    assert [packet[0] for packet in packets] == [2]
    assert reader.counts["malformed"] == 1


def test_a_payload_cut_by_the_snap_length_is_delivered_with_its_flag():
    frame = ethernet(v4())
    packets, reader = read(pcap([Record(T0_NS, frame).cut(60)]))
    assert packets[0][8:] == (kernel.CUT, 172, RTP[:18])
    assert reader.counts["snapped"] == 1


def test_a_udp_length_beyond_the_packet_delivers_what_is_there():
    packets, reader = read(one_frame(ethernet(ipv4(udp(b"short", 1, 2, length=500), "10.0.0.1", "10.0.0.2"))))
    assert packets[0][8:] == (kernel.CUT, 492, b"short")
    assert reader.counts["snapped"] == 1


def test_a_udp_length_below_the_packet_ends_the_payload():
    packets, _ = read(one_frame(ethernet(ipv4(udp(b"1234junk", 1, 2, length=12), "10.0.0.1", "10.0.0.2"))))
    assert packets[0][8:] == (0, 4, b"1234")


def test_an_empty_datagram_is_counted_but_makes_no_record_and_no_flow():
    packets, reader = read(one_frame(ethernet(v4(b""))))
    assert (packets, reader.counts["udp"], len(reader.flows)) == ([], 1, 0)


def test_tcp_segments_have_sequence_numbers_and_flags():
    def segment(payload: bytes, seq: int, flags: int, options: bytes = b"") -> bytes:
        return ethernet(ip(tcp(payload, 5060, 5061, seq, flags, options), "::1", "::2", TCP))

    packets, reader = read(
        frames(
            segment(b"", 99, 0x02, b"\x02\x04\x05\xb4"),
            segment(b"", 100, 0x10),  # a bare acknowledgment is not delivered
            segment(b"INVITE", 100, 0x18, b"\x01" * 12),
            segment(b"", 106, 0x11),
            segment(b"", 0xFFFFFFFF, 0x04),
        )
    )
    assert [(p[2], p[7], p[8], p[9], p[10]) for p in packets] == [
        ("tcp", 99, kernel.TCP_SYN, 0, b""),
        ("tcp", 100, 0, 6, b"INVITE"),
        ("tcp", 106, kernel.TCP_FIN, 0, b""),
        ("tcp", 0xFFFFFFFF, kernel.TCP_RST, 0, b""),
    ]
    assert reader.counts["tcp"] == 5


# ---- fragments ----

BIG = bytes(range(256)) * 20  # 5,120 bytes
BIG_UDP = udp(BIG, 4000, 5000)


def in_fragments(version: int, size: int = 1480, identification: int = 1) -> list[bytes]:
    if version == 4:
        parts = ipv4_fragments(BIG_UDP, "10.0.0.1", "10.0.0.2", size, identification=identification)
    else:
        parts = ipv6_fragments(BIG_UDP, "fe80::1", "fe80::2", size, identification=identification)
    return [ethernet(part) for part in parts]


@pytest.mark.parametrize("version", [4, 6])
def test_fragments_join_in_every_order(version):
    for order in itertools.permutations(in_fragments(version)):
        packets, reader = read(frames(*order))
        assert packets[0][0] == 4
        assert packets[0][1] == T0_NS + 3_000_000  # of the fragment that completed it
        assert packets[0][8:] == (kernel.REASSEMBLED, len(BIG), BIG)
        assert len(packets) == 1
        assert (reader.counts["fragments"], reader.counts["reassembled"]) == (4, 1)
        assert reader.counts["fragments_dropped"] == 0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_fragments_of_many_datagrams_join_in_any_order_with_any_repeats(data):
    parts = [
        (number, part)
        for number in range(5)
        for part in in_fragments(
            data.draw(st.sampled_from([4, 6])), data.draw(st.sampled_from([8 * 33, 1024])), number
        )
    ]
    repeats = data.draw(st.lists(st.sampled_from(parts), max_size=10))
    order = data.draw(st.permutations(parts + repeats))
    packets, reader = read(frames(*(part for _, part in order)))
    # A repeat that comes after its datagram is whole begins a new one, which may or may not become whole.
    assert len(packets) >= 5
    assert all(packet[-1] == BIG for packet in packets)
    assert reader.counts["reassembled"] == len(packets)
    assert reader.counts["fragments"] == len(order)


def test_fragments_on_two_links_seen_twice_are_joined_once_each_time():
    parts = in_fragments(4)
    packets, reader = read(frames(*parts, *parts))
    assert [packet[0] for packet in packets] == [4, 8]
    assert reader.counts["fragments_dropped"] == 0


def test_of_overlapping_fragments_the_first_wins():
    def part(payload: bytes, offset: int, more: bool) -> bytes:
        return ethernet(ipv4(payload, "10.0.0.1", "10.0.0.2", 17, 3, offset, more))

    datagram = udp(b"a" * 24, 4000, 5000)
    packets, _ = read(
        frames(
            part(datagram[:16], 0, True),
            part(b"X" * 8 + b"b" * 8, 8, True),  # units 1 and 2: 1 is there already
            part(b"Y" * 8 + b"c" * 8, 16, False),  # units 2 and 3: 2 is there already
        )
    )
    assert packets[0][-1] == b"a" * 8 + b"b" * 8 + b"c" * 8


def test_a_second_end_or_a_fragment_beyond_the_end_adds_nothing():
    def part(payload: bytes, offset: int, more: bool) -> bytes:
        return ethernet(ipv4(payload, "10.0.0.1", "10.0.0.2", 17, 3, offset, more))

    datagram = udp(b"a" * 24, 4000, 5000)
    packets, reader = read(
        frames(
            part(datagram[16:24], 16, True),
            part(b"Z" * 8, 8, False),  # an end before what has arrived
            part(datagram[24:], 24, False),
            part(b"Z" * 8, 32, False),
            part(b"Z" * 8, 32, True),
            part(datagram[:16], 0, True),
        )
    )
    assert [packet[-1] for packet in packets] == [b"a" * 24]
    assert (reader.counts["fragments"], reader.counts["fragments_dropped"]) == (6, 0)


@pytest.mark.parametrize(
    "fragment",
    [
        ipv4(b"", "10.0.0.1", "10.0.0.2", offset=8),
        ipv4(b"1234567", "10.0.0.1", "10.0.0.2", more=True),
        ipv4(b"x" * 16, "10.0.0.1", "10.0.0.2", offset=65528),  # the ping of death
        ipv6(struct.pack(">BBHI", 17, 0, 65528 | 1, 9) + b"x" * 8, "::1", "::2", 44),
        ipv6(struct.pack(">BBH", 17, 0, 1), "::1", "::2", 44),
    ],
)
def test_an_impossible_fragment_is_malformed(fragment):
    _, reader = read(frames(ethernet(fragment)))
    assert (reader.counts["malformed"], reader.counts["fragments"]) == (1, 0)


@pytest.mark.parametrize("version", [4, 6])
def test_a_datagram_not_whole_after_30_s_is_given_up(version):
    parts = in_fragments(version)
    for late_s, whole in ((30, 1), (31, 0), (-31, 0)):
        records = [Record(T0_NS, part) for part in parts[:-1]]
        records.append(Record(T0_NS + late_s * 10**9, parts[-1]))
        packets, reader = read(pcap(records))
        assert len(packets) == whole
        assert reader.counts["fragments_dropped"] == (0 if whole else 4)


def test_fragments_cut_by_the_snap_length_are_dropped():
    records = [Record(T0_NS, part).cut(600) for part in in_fragments(4) + in_fragments(6)]
    packets, reader = read(pcap(records))
    # only the last of each is short enough to be whole
    assert (packets, reader.counts["fragments"], reader.counts["fragments_dropped"]) == ([], 8, 8)


def test_of_257_unfinished_datagrams_the_first_begun_makes_room():
    first = [in_fragments(4, 2560, number)[0] for number in range(257)]
    rest = [in_fragments(4, 2560, number)[1:] for number in range(257)]
    packets, reader = read(frames(*first, *itertools.chain(*rest[1:])))
    assert len(packets) == 256
    assert reader.counts["fragments_dropped"] == 1


def test_unfinished_datagrams_hold_no_more_than_4_mib():
    last = [
        ethernet(ipv4(b"x" * 8, "10.0.0.1", "10.0.0.2", 17, number, 65520)) for number in range(200)
    ]  # each needs 64 KiB although it brings 8 bytes
    _, reader = read(frames(*last, *in_fragments(4, identification=999)))
    assert reader.counts["fragments_dropped"] == 200
    assert reader.counts["reassembled"] == 1


def test_a_fragmented_tunnel_of_fragments_is_joined_twice():
    inner = ipv6_fragments(BIG_UDP, "fe80::1", "fe80::2", 2560)
    outer = [
        ethernet(part)
        for number, packet in enumerate(inner)
        for part in ipv4_fragments(packet, *OUTER, 1000, IPV6_IN_IP, identification=number)
    ]
    packets, reader = read(frames(*outer))
    assert [(p[3], p[5], p[8], p[-1]) for p in packets] == [("fe80::1", "fe80::2", kernel.REASSEMBLED, BIG)]
    assert reader.counts["reassembled"] == 1 + sum(len(packet) > 1000 for packet in inner)


# ---- flows and batches ----


def test_a_flow_is_one_direction_and_numbers_follow_appearance():
    a, b = ("10.0.0.1", 4000), ("10.0.0.2", 5000)
    data = capture(
        [(0.00, a, b, b"1"), (0.01, b, a, b"2"), (0.02, a, b, b"3"), (0.03, a, ("10.0.0.2", 5002), b"4")]
    )
    packets, reader = read(data)
    assert [packet[-1] for packet in packets] == [b"1", b"2", b"3", b"4"]
    assert list(reader.flows) == [
        ("udp", "10.0.0.1", 4000, "10.0.0.2", 5000, None),
        ("udp", "10.0.0.2", 5000, "10.0.0.1", 4000, None),
        ("udp", "10.0.0.1", 4000, "10.0.0.2", 5002, None),
    ]
    assert reader.flows[-1] == reader.flow(2)
    assert reader.flow(0).source_port == 4000


def test_a_mirrored_packet_with_a_vlan_tag_is_in_the_same_flow():
    _, reader = read(frames(ethernet(v4()), ethernet(v4(), [7])))
    assert len(reader.flows) == 1
    assert reader.flow(0).vlan is None


def test_udp_and_tcp_between_the_same_ports_are_two_flows():
    segment = ipv4(tcp(b"x", 4000, 5000), "10.0.0.1", "10.0.0.2", TCP)
    assert [flow.protocol for flow in read(frames(ethernet(v4()), ethernet(segment)))[1].flows] == [
        "udp",
        "tcp",
    ]


def test_a_number_without_a_flow_is_an_index_error():
    reader = kernel.Reader()
    for wrong in (0, -1, 5, 2**70):
        with pytest.raises(IndexError):
            reader.flows[wrong]
        with pytest.raises(IndexError):
            reader.flow(wrong)
        with pytest.raises(IndexError):
            reader.ignore(wrong)
    with pytest.raises(TypeError):
        reader.ignore(0.5)


def test_flows_beyond_the_limit_are_counted_and_not_delivered():
    data = capture((i / 100, ("10.0.0.1", 4000 + i % 5), ("10.0.0.2", 5000), b"x") for i in range(20))
    packets, reader = read(data, max_flows=3)
    assert len(packets) == 12
    assert (len(reader.flows), reader.counts["flows_dropped"], reader.counts["udp"]) == (3, 8, 20)


def test_thousands_of_flows_stay_apart():
    flows = [
        (f"10.{n >> 8 & 255}.{n & 255}.1" if n % 2 else f"2001:db8::{n + 1:x}", 1024 + n * 7 % 60000)
        for n in range(6000)
    ]
    data = capture(
        (i / 1000, flow, ("10.0.0.2" if i % 2 else "::1", 5000), b"%d" % i)
        for i, flow in itertools.chain(enumerate(flows), enumerate(flows))
    )
    reader = kernel.Reader()
    batch = reader.feed(data)
    assert len(reader.flows) == 6000
    assert [(flow.source, flow.source_port) for flow in reader.flows] == flows
    assert batch.groups == [(n, 2 * n, 2) for n in range(6000)]


def test_packets_of_an_ignored_flow_are_only_counted():
    a, b = ("10.0.0.1", 4000), ("10.0.0.2", 5000)
    data = capture((i / 50, *((a, b) if i % 2 else (b, a)), b"%d" % i) for i in range(10))
    cut = len(data) // 2
    reader = kernel.Reader()
    before = len(reader.feed(data[:cut]))
    reader.ignore(0)
    batch = reader.feed(data[cut:])
    assert 0 < len(batch) <= 10 - before
    assert {record[4] for record in unpacked(batch)} == {1}
    assert reader.counts["udp"] == 10


def test_the_dtype_names_the_fields_of_a_record():
    dtype = np.dtype(kernel.DTYPE)
    assert dtype.itemsize == 40
    batch = kernel.Reader().feed(frames(ethernet(v4(b"one")), ethernet(v6(b"three"))))
    records = np.frombuffer(batch.records, dtype)
    assert records["time_ns"].tolist() == [T0_NS, T0_NS + 1_000_000]
    assert records["frame"].tolist() == [1, 2]
    assert records["flow"].tolist() == [0, 1]
    assert records["length"].tolist() == records["wire_length"].tolist() == [3, 5]
    assert records["offset"].tolist() == [0, 3]
    assert np.frombuffer(batch.data, np.uint8).tobytes() == b"onethree"


def test_a_batch_outlives_the_bytes_it_was_read_from_and_the_reader():
    source = bytearray(frames(*(ethernet(v4(b"%03d" % i)) for i in range(100))))
    reader = kernel.Reader()
    batch = reader.feed(source)
    source[:] = b"\xff" * len(source)
    reader.feed(b"")
    reader.finish()
    del reader
    assert bytes(batch.data) == b"".join(b"%03d" % i for i in range(100))
    assert batch.data.readonly
    view = batch.data[3:6]
    del batch
    assert view == b"001"


def test_an_empty_feed_gives_an_empty_batch():
    batch = kernel.Reader().feed(b"")
    assert (len(batch), batch.records, bytes(batch.data), batch.groups) == (0, b"", b"", [])
    assert batch.first_time_ns is None


def test_packets_reads_a_whole_capture_in_pieces():
    data = capture((i / 50, ("10.0.0.1", 4000), ("10.0.0.2", 5000), b"%d" % i) for i in range(1000))
    reader = kernel.Reader()
    batches = list(kernel.packets(np.frombuffer(data, np.uint8), 1000, reader=reader))
    assert len(batches) > 10
    assert b"".join(bytes(batch.data) for batch in batches) == b"".join(b"%d" % i for i in range(1000))
    assert reader.flow(0).destination == "10.0.0.2"
    with pytest.raises(UsageError):
        reader.feed(b"")


@pytest.mark.parametrize("wrong", [0, -1])
def test_a_chunk_or_a_table_without_room_is_a_value_error(wrong):
    with pytest.raises(ValueError, match="chunk_bytes"):
        next(kernel.packets(b"", wrong))
    with pytest.raises(ValueError, match="max_flows"):
        kernel.Reader(max_flows=wrong)


def test_only_bytes_can_be_fed():
    for wrong in ("text", None, np.zeros(4, np.int32)):
        with pytest.raises(TypeError):
            kernel.Reader().feed(wrong)


def test_batches_and_flows_are_not_made_by_hand():
    for made in (kernel.Batch, kernel.Flows):
        with pytest.raises(TypeError):
            made()


def test_a_reader_in_use_by_another_thread_refuses():
    piece = frames(ethernet(v4()))
    data = piece + piece[24:] * 150_000
    reader = kernel.Reader()
    for _ in range(40):
        refused = False
        thread = threading.Thread(target=reader.feed, args=(data if reader.format is None else data[24:],))
        thread.start()
        while thread.is_alive() and not refused:
            try:
                reader.ignore(10**6)
            except UsageError:
                refused = True
            except IndexError:
                pass
        thread.join()
        if refused:
            break
    assert refused


@pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer keeps freed memory for a while"
)
def test_memory_stays_flat_over_a_long_capture():
    resource = pytest.importorskip("resource")  # not on Windows

    def peak_kib() -> int:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak // 1024 if sys.platform == "darwin" else peak  # macOS counts bytes

    piece = frames(*(ethernet(ip(UDP_RTP, "10.0.0.1", f"10.0.0.{i % 200}")) for i in range(4000)))
    reader = kernel.Reader()
    reader.feed(piece[:24])
    reader.feed(piece[24:])
    before = peak_kib()
    for _ in range(200):
        reader.feed(piece[24:])
    assert reader.counts["frames"] == 201 * 4000
    assert peak_kib() - before < 8 * 1024  # 184 MB went through


# ---- any pieces, any bytes ----

MIXED = [
    *(WRAPPINGS[name] for name in sorted(WRAPPINGS)),
    *in_fragments(4),
    *in_fragments(6),
    ethernet(b"arp", protocol=0x0806),
    b"",
]
MIXED_PCAP = frames(*MIXED)
MIXED_PCAPNG = (
    pcapng([Record(T0_NS + i, frame) for i, frame in enumerate(MIXED)], [Interface(resolution=9)])
    + Section(
        [
            Record(T0_NS, v4(), interface=1),
            Record(0, ethernet(v6()), kind="simple"),
            Record(0, ethernet(v4()), kind="old"),
        ],
        [Interface(), Interface(RAW, resolution=0x80 | 20, offset_s=-5)],
        big_endian=True,
        blocks_before=[(4, b"names" * 9), (0x0BAD, bytes(4000))],
    ).to_bytes()
)


@pytest.mark.parametrize("data", [MIXED_PCAP, MIXED_PCAPNG], ids=["pcap", "pcapng"])
@settings(max_examples=60, deadline=None)
@given(choice=st.data())
def test_any_pieces_give_the_same_packets(data, choice):
    whole, reader = read(data)
    cuts = choice.draw(st.lists(st.integers(0, len(data)), max_size=60))
    packets, pieces = read(data, cuts)
    assert packets == whole
    assert pieces.counts == reader.counts


@pytest.mark.parametrize("data", [MIXED_PCAP, MIXED_PCAPNG], ids=["pcap", "pcapng"])
def test_single_bytes_give_the_same_packets(data):
    assert read(data, range(1, len(data)))[0] == read(data)[0]


def survives(data: bytes, cuts: Iterable[int] = ()) -> None:
    offset = 0
    try:
        read(data, cuts)
    except CaptureError as error:
        offset = error.offset
    assert offset in (0, 8)  # only a file that is no capture at all raises


MAGICS = [
    pcap([]),
    pcap([], big_endian=True),
    pcap([], link_type=NULL, nanoseconds=True),
    pcap([], link_type=PPP),
    pcap([], link_type=COOKED),
    pcap([], link_type=RAW, modified=True, snap_bytes=1 << 27),
    pcapng([]),
    pcapng([], [Interface(), Interface(RAW)], big_endian=True),
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([b"", *MAGICS]), st.binary(max_size=2000), st.lists(st.integers(0, 2000), max_size=5))
def test_arbitrary_bytes_are_survived(start, noise, cuts):
    data = start + noise
    survives(data, [cut for cut in cuts if cut <= len(data)])


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([ETHERNET, NULL, PPP, RAW, COOKED, COOKED_V2, 51, 50]), st.binary(max_size=200))
def test_arbitrary_frames_are_survived(link_type, noise):
    survives(one_frame(noise, link_type))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([MIXED_PCAP, MIXED_PCAPNG]),
    st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 255)), min_size=1, max_size=20),
    st.integers(0, 20_000),
)
def test_mutations_of_a_good_capture_are_survived(data, changes, cut):
    changed = bytearray(data)
    for at, value in changes:
        changed[at % len(changed)] = value
    survives(bytes(changed), [cut % len(changed)])


@pytest.mark.parametrize("name", [row[0] for row in TSHARK])
def test_mutations_of_real_captures_are_survived(test_data, name):
    data = test_data(name).read_bytes()[:20_000]
    random = np.random.default_rng(len(data))
    for _ in range(20):
        changed = np.frombuffer(data, np.uint8).copy()
        places = random.integers(0, len(data), max(1, len(data) // 200))
        changed[places] = random.integers(0, 256, len(places))
        survives(changed.tobytes(), [len(data) // 3])
