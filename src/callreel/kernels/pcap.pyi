"""Packet captures: the bytes of a pcap or pcapng file, in pieces, to batches of payloads sorted by flow.

Containers: pcap (both byte orders, µs and ns) and pcapng. Links: Ethernet with VLAN tags, MPLS and PPPoE,
Linux cooked v1 and v2, raw IP, BSD loopback, PPP. IPv4 and IPv6, fragments reassembled, IP in IP, GRE.

    reader = Reader()
    for piece in pieces_of_the_file:
        batch = reader.feed(piece)
        for flow, first_record, records in batch.groups:
            print(reader.flows[flow], records)
    reader.finish()
"""

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple, TypedDict, final

from typing_extensions import Buffer

CUT: Final = 1
"""Record flag: fewer payload bytes than the headers promise (snap length, or a wrong length field)."""
REASSEMBLED: Final = 2
"""Record flag: joined from IP fragments; time and frame are those of the fragment that completed it."""
TCP_SYN: Final = 4
"""Record flag: a TCP segment with SYN."""
TCP_FIN: Final = 8
"""Record flag: a TCP segment with FIN."""
TCP_RST: Final = 16
"""Record flag: a TCP segment with RST."""

DTYPE: Final[list[tuple[str, str]]]
"""The 40-byte record as a numpy dtype, native byte order.

time_ns since 1970-01-01 UTC · frame, 1 for the first of the file · offset and length of the payload in
`Batch.data`, bytes · flow · wire_length, the payload's length by its UDP or IP header, bytes · tcp_seq, 0 for
UDP · flags · reserved.
"""

FEED_BYTES_MAX: Final[int]
"""The most bytes one `feed` takes."""

class Flow(NamedTuple):
    """One direction between two ports.

    `vlan` is the outermost tag of its first packet; it is no part of the flow's identity.
    """

    protocol: Literal["udp", "tcp"]
    source: str
    source_port: int
    destination: str
    destination_port: int
    vlan: int | None

class _Counts(TypedDict):
    """How many of what a Reader has seen.

    Each frame counts once as udp, tcp, icmp_embedded, other, malformed or unknown_link_type, unless it is a
    fragment that completes nothing: their sum is frames - fragments + reassembled.
    """

    frames: int
    """Packet records in the file, unusable ones included."""
    bytes: int
    """Bytes fed."""
    udp: int
    """UDP datagrams, empty ones and those of ignored or dropped flows included."""
    tcp: int
    """TCP segments, bare acknowledgments included."""
    icmp_embedded: int
    """ICMP and ICMPv6 errors, which quote a packet; the quoted one is not counted."""
    other: int
    """Well formed and neither of these: ARP, SCTP, pings …"""
    malformed: int
    """Headers cut off or contradicting each other, and records that could not be used."""
    fragments: int
    """IP fragments."""
    reassembled: int
    """Datagrams joined from them."""
    fragments_dropped: int
    """Fragments of datagrams given up (timeout, too many, end of capture) or cut by the snap length."""
    snapped: int
    """UDP and TCP packets with less payload than on the wire; still delivered, with the CUT flag."""
    unknown_link_type: int
    """Frames of links that are not understood."""
    flows_dropped: int
    """Packets of flows beyond max_flows; not delivered."""

@final
class Batch:
    """What one feed gave: packed records in order of flow, their payloads, and the place of each flow.

    len(batch) is the number of records. A batch never changes and depends neither on the Reader nor on the
    bytes it was fed.
    """

    @property
    def records(self) -> bytes:
        """The records, 40 bytes each (`DTYPE`, packet_record.h), by flow, within a flow as in the file."""
    @property
    def data(self) -> memoryview:
        """The payloads, one after another in order of the file; read-only."""
    @property
    def groups(self) -> list[tuple[int, int, int]]:
        """(flow, first record, number of records) in order of flow."""
    @property
    def first_time_ns(self) -> int | None:
        """The smallest time of any record; None for an empty batch."""
    @property
    def last_time_ns(self) -> int | None:
        """The largest time of any record; None for an empty batch."""
    def __len__(self) -> int: ...

@final
class Flows:
    """The flows a Reader has seen, by number; a live view."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Flow: ...
    def __iter__(self) -> Iterator[Flow]: ...

@final
class Reader:
    """Reads a pcap or pcapng file fed in pieces of any size; does no I/O itself. One thread at a time.

    `max_flows` bounds the memory: packets of flows beyond it are counted in `counts["flows_dropped"]` and not
    delivered.
    """

    def __init__(self, *, max_flows: int = 262144) -> None: ...
    def feed(self, data: Buffer) -> Batch:
        """Take the next bytes of the file and return all packets that are now complete as a Batch.

        Bad packets are counted. Where the file itself cannot be read on, reading stops as at its end
        (`truncated`, `problem`) and later feeds give empty batches. Raises CaptureError only for a file
        that is no capture at all.
        """
    def finish(self) -> None:
        """The file has ended: `truncated` and `counts` are final.

        Raises CaptureError for a file that was no capture at all, an empty one included.
        """
    def flow(self, number: int) -> Flow:
        """The flow with this number."""
    def ignore(self, flow: int) -> None:
        """Deliver no more packets of this flow; they are still counted."""
    @property
    def flows(self) -> Flows:
        """The flows seen so far, by number."""
    @property
    def format(self) -> Literal["pcap", "pcapng"] | None:
        """What the file is; None until its first bytes are there."""
    @property
    def link_types(self) -> tuple[int, ...]:
        """The link types of the file's interfaces, LINKTYPE_ numbers in order of appearance."""
    @property
    def truncated(self) -> bool:
        """Whether reading stopped before the end of the last record: see `problem`."""
    @property
    def truncation_offset(self) -> int | None:
        """Where the record begins that could not be read, in bytes of the file; None if all could."""
    @property
    def problem(self) -> str | None:
        """What stopped the reading, in words; None if nothing did."""
    @property
    def counts(self) -> _Counts:
        """How many of what has been seen so far."""

def packets(data: Buffer, chunk_bytes: int = 1 << 20, *, reader: Reader | None = None) -> Iterator[Batch]:
    """Read a whole capture from memory: an iterator of its batches that hold packets.

    Pass a Reader of your own as `reader` to look up flows and counts; it is finished when the iterator ends.
    """
