"""Writes packets and capture files for tests: plain, slow, and able to write what no sane writer would.

Three storeys, each usable alone:

    what a program sends     rtp_packet, rtcp_sender_report, telephone_event
    what is on the wire      udp, tcp, ip, ipv4, ipv6, their fragments, gre, pppoe, ethernet, link
    what is in the file      Record, pcap, pcapng, Interface, Section

and `capture`, which does it all for the common case:

    capture([(0.00, ("10.0.0.1", 4000), ("10.0.0.2", 5000), rtp_packet(b"\\xff" * 160, seq=1)), ...])
"""

import ipaddress
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

Address = tuple[str, int]

ETHERNET = 1
NULL, LOOP, RAW, RAW_IPV4, RAW_IPV6, PPP, COOKED, COOKED_V2 = 0, 108, 101, 228, 229, 9, 113, 276
UDP, TCP, IPV4_IN_IP, IPV6_IN_IP, GRE, ICMP, ICMPV6 = 17, 6, 4, 41, 47, 1, 58
NTP_UNIX_EPOCH_S = 2208988800  # 1970-01-01 in seconds since 1900-01-01, RFC 5905

# ---- what a program sends ----


def rtp_packet(
    payload: bytes = b"",
    seq: int = 0,
    timestamp: int = 0,
    ssrc: int = 0x12345678,
    payload_type: int = 0,
    marker: bool = False,
    csrc: Sequence[int] = (),
    extension: tuple[int, bytes] | None = None,
    padding: int = 0,
) -> bytes:
    """An RTP packet (RFC 3550 section 5.1); `extension` is (profile, whole words), `padding` counts bytes."""
    first = 0x80 | (0x20 if padding else 0) | (0x10 if extension else 0) | len(csrc)
    packet = struct.pack(
        ">BBHII",
        first,
        payload_type | (0x80 if marker else 0),
        seq & 0xFFFF,
        timestamp & 0xFFFFFFFF,
        ssrc,
    )
    packet += b"".join(struct.pack(">I", source) for source in csrc)
    if extension:
        profile, words = extension
        packet += struct.pack(">HH", profile, len(words) // 4) + words
    packet += payload
    if padding:
        packet += bytes(padding - 1) + bytes([padding])
    return packet


def telephone_event(event: int, duration: int, end: bool = False, volume: int = 10) -> bytes:
    """The payload of an RFC 4733 telephone-event packet; `duration` in timestamp units, `volume` in -dBm0."""
    return struct.pack(">BBH", event, (0x80 if end else 0) | volume, duration)


def rtcp_sender_report(
    ssrc: int = 0x12345678,
    unix_time: float | Fraction = 0,
    rtp_timestamp: int = 0,
    packets: int = 0,
    octets: int = 0,
    reports: bytes = b"",
) -> bytes:
    """An RTCP sender report (RFC 3550 section 6.4.1); `reports` holds whole 24-byte report blocks."""
    ntp = int((Fraction(unix_time) + NTP_UNIX_EPOCH_S) * 2**32)
    body = (
        struct.pack(">IQIII", ssrc, ntp & (2**64 - 1), rtp_timestamp & 0xFFFFFFFF, packets, octets) + reports
    )
    return struct.pack(">BBH", 0x80 | len(reports) // 24, 200, len(body) // 4) + body


# ---- what is on the wire ----


def udp(payload: bytes, source_port: int, destination_port: int, length: int | None = None) -> bytes:
    """A UDP datagram without checksum; `length` lies about the header's length field."""
    length = 8 + len(payload) if length is None else length
    return struct.pack(">HHHH", source_port, destination_port, length & 0xFFFF, 0) + payload


def tcp(
    payload: bytes,
    source_port: int,
    destination_port: int,
    seq: int = 0,
    flags: int = 0x10,
    options: bytes = b"",
) -> bytes:
    """A TCP segment without checksum; flags 1 FIN, 2 SYN, 4 RST, 16 ACK; `options` in whole words."""
    words = 5 + len(options) // 4
    return (
        struct.pack(">HHIIBBHHH", source_port, destination_port, seq, 0, words << 4, flags, 65535, 0, 0)
        + options
        + payload
    )


def ipv4(
    payload: bytes,
    source: str,
    destination: str,
    protocol: int = UDP,
    identification: int = 0,
    offset: int = 0,
    more: bool = False,
    options: bytes = b"",
    total_length: int | None = None,
) -> bytes:
    """An IPv4 packet; `offset` in bytes and `more` make it a fragment, `options` in whole words."""
    header = 20 + len(options)
    total = header + len(payload) if total_length is None else total_length
    return (
        struct.pack(
            ">BBHHHBBH4s4s",
            0x40 | header // 4,
            0,
            total & 0xFFFF,
            identification,
            offset // 8 | (0x2000 if more else 0),
            64,
            protocol,
            0,
            ipaddress.IPv4Address(source).packed,
            ipaddress.IPv4Address(destination).packed,
        )
        + options
        + payload
    )


def ipv6(
    payload: bytes,
    source: str,
    destination: str,
    next_header: int = UDP,
    payload_length: int | None = None,
) -> bytes:
    """An IPv6 packet; extension headers go in front of the payload."""
    length = len(payload) if payload_length is None else payload_length
    return (
        struct.pack(">IHBB", 0x60000000, length & 0xFFFF, next_header, 64)
        + ipaddress.IPv6Address(source).packed
        + ipaddress.IPv6Address(destination).packed
        + payload
    )


def ip(payload: bytes, source: str, destination: str, protocol: int = UDP) -> bytes:
    """An IPv4 or IPv6 packet, whichever the addresses are."""
    return (ipv6 if ":" in source else ipv4)(payload, source, destination, protocol)


def ipv4_fragments(
    payload: bytes,
    source: str,
    destination: str,
    size: int,
    protocol: int = UDP,
    identification: int = 1,
) -> list[bytes]:
    """The payload in IPv4 fragments of `size` bytes each, a multiple of 8; the last has the rest."""
    return [
        ipv4(
            payload[at : at + size],
            source,
            destination,
            protocol,
            identification,
            at,
            more=at + size < len(payload),
        )
        for at in range(0, len(payload), size)
    ]


def ipv6_fragments(
    payload: bytes,
    source: str,
    destination: str,
    size: int,
    protocol: int = UDP,
    identification: int = 1,
) -> list[bytes]:
    """The payload in IPv6 fragments of `size` bytes each, a multiple of 8; the last has the rest."""
    return [
        ipv6(
            struct.pack(">BBHI", protocol, 0, at | (at + size < len(payload)), identification)
            + payload[at : at + size],
            source,
            destination,
            44,
        )
        for at in range(0, len(payload), size)
    ]


def ether_type(packet: bytes) -> int:
    """The EtherType of an IP packet, by its version."""
    return 0x86DD if packet[0] >> 4 == 6 else 0x0800


def ethernet(
    packet: bytes,
    vlans: Sequence[int | tuple[int, int]] = (),
    protocol: int | None = None,
    trailer: bytes = b"",
) -> bytes:
    """An Ethernet frame; `vlans` from the outermost: an id, or (tag type, id). Short ones are not padded."""
    tags = b""
    for tag in vlans:
        tag_type, number = tag if isinstance(tag, tuple) else (0x8100, tag)
        tags += struct.pack(">HH", tag_type, number)
    protocol = ether_type(packet) if protocol is None else protocol
    return b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01" + tags + struct.pack(">H", protocol) + packet + trailer


def pppoe(packet: bytes) -> bytes:
    """A PPPoE session payload (EtherType 0x8864) around an IP packet."""
    body = ppp(packet)
    return struct.pack(">BBHH", 0x11, 0, 7, len(body)) + body


def ppp(packet: bytes) -> bytes:
    """An IP packet with its PPP protocol number."""
    return struct.pack(">H", 0x0057 if packet[0] >> 4 == 6 else 0x0021) + packet


def gre(packet: bytes, protocol: int | None = None, flags: int = 0, fields: bytes = b"") -> bytes:
    """A GRE header; `fields` are those that `flags` announce."""
    return struct.pack(">HH", flags, ether_type(packet) if protocol is None else protocol) + fields + packet


def link(packet: bytes, link_type: int, vlans: Sequence[int | tuple[int, int]] = ()) -> bytes:
    """An IP packet as a frame of this link type."""
    if link_type == ETHERNET:
        return ethernet(packet, vlans)
    if link_type == COOKED:
        return struct.pack(">HHH8sH", 0, 1, 6, b"\x02\0\0\0\0\x01", ether_type(packet)) + packet
    if link_type == COOKED_V2:
        return struct.pack(">HHIHBB8s", ether_type(packet), 0, 3, 1, 0, 6, b"\x02\0\0\0\0\x01") + packet
    if link_type == NULL:
        return struct.pack("<I", 30 if packet[0] >> 4 == 6 else 2) + packet
    if link_type == LOOP:
        return struct.pack(">I", 24 if packet[0] >> 4 == 6 else 2) + packet
    if link_type == PPP:
        return b"\xff\x03" + ppp(packet)
    if link_type in (RAW, RAW_IPV4, RAW_IPV6, 12, 14):
        return packet
    raise ValueError(f"no writer for link type {link_type}")


# ---- what is in the file ----


@dataclass(frozen=True)
class Record:
    """One packet of a file: its time, its bytes as captured, and its length on the wire if that differs."""

    time_ns: int
    frame: bytes
    wire_bytes: int | None = None
    interface: int = 0
    kind: str = "packet"  # of a pcapng block: packet, simple, old

    def cut(self, snap_bytes: int) -> "Record":
        """The same packet captured with a snap length."""
        wire = len(self.frame) if self.wire_bytes is None else self.wire_bytes
        return Record(self.time_ns, self.frame[:snap_bytes], wire, self.interface, self.kind)


def pcap(
    records: Iterable[Record],
    *,
    link_type: int = ETHERNET,
    big_endian: bool = False,
    nanoseconds: bool = False,
    modified: bool = False,
    snap_bytes: int = 262144,
) -> bytes:
    """A pcap file; `modified` is the variant with 24-byte record headers (magic A1B2CD34)."""
    order = ">" if big_endian else "<"
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2CD34 if modified else 0xA1B2C3D4
    parts = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snap_bytes, link_type)]
    for record in records:
        seconds, fraction = divmod(record.time_ns, 10**9)
        wire = len(record.frame) if record.wire_bytes is None else record.wire_bytes
        fraction = fraction if nanoseconds else fraction // 1000
        parts.append(struct.pack(order + "IIII", seconds, fraction, len(record.frame), wire))
        if modified:
            parts.append(struct.pack(order + "IHBB", 1, 0x0800, 0, 0))
        parts.append(record.frame)
    return b"".join(parts)


@dataclass(frozen=True)
class Interface:
    """A pcapng interface; `resolution` as if_tsresol (None: not written, µs), `offset_s` as if_tsoffset."""

    link_type: int = ETHERNET
    snap_bytes: int = 0
    resolution: int | None = None
    offset_s: int | None = None
    extra_options: bytes = b""

    def ticks(self, time_ns: int) -> int:
        """A time in this interface's units."""
        resolution = 6 if self.resolution is None else self.resolution
        second = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
        return (time_ns - (self.offset_s or 0) * 10**9) * second // 10**9


@dataclass(frozen=True)
class Section:
    """A pcapng section, written in one byte order."""

    records: Sequence[Record] = ()
    interfaces: Sequence[Interface] = (Interface(),)
    big_endian: bool = False
    blocks_before: Sequence[tuple[int, bytes]] = field(default=())  # (type, body) before the packets

    def block(self, kind: int, body: bytes) -> bytes:
        """A block around a body, which is padded to whole words."""
        order = ">" if self.big_endian else "<"
        body += bytes(-len(body) % 4)
        total = len(body) + 12
        return struct.pack(order + "II", kind, total) + body + struct.pack(order + "I", total)

    def option(self, code: int, value: bytes) -> bytes:
        """An option, padded."""
        order = ">" if self.big_endian else "<"
        return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)

    def to_bytes(self) -> bytes:
        """The whole section."""
        order = ">" if self.big_endian else "<"
        parts = [self.block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))]
        for interface in self.interfaces:
            options = interface.extra_options
            if interface.resolution is not None:
                options += self.option(9, bytes([interface.resolution]))
            if interface.offset_s is not None:
                options += self.option(14, struct.pack(order + "q", interface.offset_s))
            if options:
                options += self.option(0, b"")
            head = struct.pack(order + "HHI", interface.link_type, 0, interface.snap_bytes)
            parts.append(self.block(1, head + options))
        parts += [self.block(kind, body) for kind, body in self.blocks_before]
        for record in self.records:
            wire = len(record.frame) if record.wire_bytes is None else record.wire_bytes
            if record.kind == "simple":
                parts.append(self.block(3, struct.pack(order + "I", wire) + record.frame))
                continue
            ticks = self.interfaces[record.interface].ticks(record.time_ns)
            times_and_lengths = struct.pack(
                order + "IIII", ticks >> 32, ticks & 0xFFFFFFFF, len(record.frame), wire
            )
            if record.kind == "old":
                head = struct.pack(order + "HH", record.interface, 0)
                parts.append(self.block(2, head + times_and_lengths + record.frame))
            else:
                head = struct.pack(order + "I", record.interface)
                parts.append(self.block(6, head + times_and_lengths + record.frame))
        return b"".join(parts)


def pcapng(records: Sequence[Record], interfaces: Sequence[Interface] = (Interface(),), **section) -> bytes:
    """A pcapng file of one section."""
    return Section(records, interfaces, **section).to_bytes()


# ---- all at once ----


def nanoseconds(seconds: float | Fraction) -> int:
    """A time in nanoseconds, rounded."""
    return round(Fraction(seconds) * 10**9)


def capture(
    packets: Iterable[tuple[float | Fraction, Address, Address, bytes]],
    *,
    link_type: int = ETHERNET,
    vlans: Sequence[int | tuple[int, int]] = (),
    container: str = "pcap",
    big_endian: bool = False,
    start_s: int = 1_700_000_000,
) -> bytes:
    """A whole capture of UDP datagrams: (seconds after `start_s`, source, destination, payload) each.

    `container` is "pcap", "pcap-ns" or "pcapng" (which then has nanoseconds). Packets keep the order given.
    """
    records = [
        Record(
            start_s * 10**9 + nanoseconds(seconds),
            link(
                ip(udp(payload, source[1], destination[1]), source[0], destination[0]),
                link_type,
                vlans,
            ),
        )
        for seconds, source, destination, payload in packets
    ]
    if container == "pcapng":
        return pcapng(records, [Interface(link_type, resolution=9)], big_endian=big_endian)
    return pcap(records, link_type=link_type, big_endian=big_endian, nanoseconds=container == "pcap-ns")
