"""The first reading of a capture: its signalling, and stock of every flow that may be RTP.

Nothing is decided here. Signalling may come after the media it speaks of, so what belongs to which call is
known only at the end of the file (`capture_plan`); until then a flow costs a fixed 3 KB, however much it
carries.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct
from typing import BinaryIO

from callreel import sip
from callreel.dialogs import Dialogs
from callreel.errors import CaptureError
from callreel.kernels import pcap, rtp

__all__ = ["MAX_FLOWS", "CaptureSurvey", "batches", "last_time", "record_time"]

CHUNK_BYTES = 1 << 18  # of the file at a time: more falls out of the second-level cache,
CHUNKS_MAX = (
    16  # but where many flows talk at once, so many times more: each shall have a run of packets in it
)
FLOWS_PER_CHUNK = 8
COMPRESSED_BYTES = 64 << 10  # read at a time of a gzip file, which may hold a thousand times as much
MAX_FLOWS = 1 << 20  # 72 bytes each; of a capture full of DNS every query is one
MAX_SURVEYS = 32_768  # flows that may hold RTP; 3 KB each
MAX_TCP_STREAMS = 16_384  # directions of TCP connections that may hold SIP at the same time
MAX_STRANGERS = 255  # datagrams in a row that are neither SIP nor RTP, before a flow is given up
NOISE_NS = 2_000_000_000  # a flow that has not become a run of RTP in this time makes room for others
MIN_RUN_PACKETS = 3

RECORD_BYTES = 40  # pcap.DTYPE
_RECORD = Struct("=qQIIIIIHH")  # the same: time, frame, offset, length, flow, wire length, TCP seq, flags, -
_RECORD_TIME = Struct("=q")
_TCP_FLAGS = pcap.TCP_SYN | pcap.TCP_FIN | pcap.TCP_RST
_RTP_HEAD = Struct(">HI")  # sequence number and timestamp, behind the first two bytes


def batches(
    path: Path, reader: pcap.Reader, progress: Callable[[int], None], problems: list[str] | None = None
) -> Iterator[pcap.Batch]:
    """Read a capture, gzipped or not; `progress` is told the bytes of the file read so far.

    `problems` takes what is wrong with a gzip file; of the capture in it the reader tells.

    Raises:
        CaptureError: it is no capture, or a gzip file of which nothing can be unpacked.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        sizes = _Sizes()
        chunks = (
            _unzipped(file, reader, [] if problems is None else problems) if zipped else _plain(file, sizes)
        )
        for chunk in chunks:
            batch = reader.feed(chunk)
            sizes.flows = len(batch.groups)
            yield batch
            progress(file.tell())
        reader.finish()


class _Sizes:
    """How much to read next, by how many flows the last batch held."""

    flows = 0

    def next(self) -> int:
        return CHUNK_BYTES * min(CHUNKS_MAX, 1 + self.flows // FLOWS_PER_CHUNK)


def _plain(file: BinaryIO, sizes: _Sizes) -> Iterator[memoryview]:
    """The file, piece after piece in one buffer: memory that is used again costs no page faults."""
    buffer = memoryview(bytearray(CHUNK_BYTES))
    while True:
        size_bytes = sizes.next()
        if size_bytes > len(buffer):
            buffer = memoryview(bytearray(size_bytes))
        count = file.readinto(buffer[:size_bytes])  # type: ignore[attr-defined]
        if not count:
            return
        yield buffer[:count]


def _unzipped(file: BinaryIO, reader: pcap.Reader, problems: list[str]) -> Iterator[bytes]:
    """Unpack gzip members one after another. A torn or damaged file gives what comes before the damage."""
    unpacker, begun = zlib.decompressobj(wbits=31), False
    while compressed := file.read(COMPRESSED_BYTES):
        while compressed:
            begun = True
            try:
                yield unpacker.decompress(compressed, CHUNK_BYTES)
            except zlib.error as error:
                if not reader.counts["bytes"]:
                    raise CaptureError(f"the gzip file cannot be unpacked: {error}") from error
                problems.append("the gzip file is damaged")
                return
            compressed = unpacker.unconsumed_tail
            if unpacker.eof:
                compressed = unpacker.unused_data
                unpacker, begun = zlib.decompressobj(wbits=31), False
                if compressed[:1] not in (b"", b"\x1f"):
                    return  # padding behind the last member
    if begun:
        problems.append("the gzip file is cut short")


class CaptureSurvey:
    """What a capture holds: all signalling (`dialogs`) and the runs of RTP in every flow (`streams`)."""

    def __init__(self) -> None:
        """Begin with nothing read."""
        self.reader = pcap.Reader(max_flows=MAX_FLOWS)
        self.dialogs = Dialogs()
        self.streams: dict[int, rtp.Survey] = {}
        """By flow."""
        self.heads: dict[int, tuple[int, int]] = {}
        """Sequence number and timestamp of a flow's first RTP packet: copies of a stream begin alike."""
        self.problems: list[str] = []
        """What is wrong with the file that the capture came in."""
        self.dropped = 0
        """Datagrams and TCP streams that found no room."""
        self._sip_flows: set[int] = set()  # UDP
        self._strangers = bytearray()  # by flow: datagrams in a row that are neither SIP nor RTP
        self._tcp: dict[int, sip.StreamAssembler] = {}
        self._messages: list[tuple[int, int, int, bytes]] = []  # frame, time, flow, SIP: of one batch
        self._refusals = 0  # since room was last looked for in vain

    def read(self, path: Path, progress: Callable[[int], None]) -> None:
        """Read the whole file. Raises as `batches` does."""
        streams = self.streams
        for batch in batches(path, self.reader, progress, self.problems):
            for flow, first, count in batch.groups:
                stream = streams.get(flow)
                if stream is not None:
                    stream.receive_batch(batch.data, batch.records, first, count)
                elif flow in self._tcp:
                    self._receive_tcp(batch, flow, first, count)
                else:
                    self._look(batch, flow, first, count)
            self._receive_sip()
        for flow, assembler in self._tcp.items():
            self._messages += [(0, message.time_ns, flow, message.data) for message in assembler.close()]
        self._receive_sip()

    def _look(self, batch: pcap.Batch, flow: int, first: int, count: int) -> None:
        """Find out what a flow is: keep-alives and other things come before the first real packet.

        The reader is asked for the protocol only where a record leaves it open: most flows of a capture full
        of something else are a packet or two.
        """
        if flow >= len(self._strangers):
            self._strangers.extend(bytes(flow + 4096 - len(self._strangers)))
        records, data, strangers = batch.records, batch.data, self._strangers
        is_sip = flow in self._sip_flows
        for index in range(first, first + count):
            time_ns, frame, offset, length, _, _, seq, flags, _ = _RECORD.unpack_from(
                records, index * RECORD_BYTES
            )
            payload = data[offset : offset + length]
            like_sip = sip.looks_like_sip(payload)
            like_rtp = length >= 8 and 128 <= payload[0] <= 191 and not is_sip
            in_doubt = not is_sip and (seq or flags & _TCP_FLAGS or like_sip or like_rtp)
            if in_doubt and self.reader.flow(flow).protocol == "tcp":
                self._receive_tcp(batch, flow, index, first + count - index)
                return
            if like_sip:
                self._sip_flows.add(flow)
                is_sip = True
                strangers[flow] = 0
                self._messages.append((frame, time_ns, flow, bytes(payload)))
            elif like_rtp:
                if not self._has_room(time_ns):
                    self.dropped += 1
                    continue  # its next packet may find some: noise is short
                if length >= 12 and not 192 <= payload[1] <= 223:
                    self.heads[flow] = _RTP_HEAD.unpack_from(payload, 2)
                stream = self.streams[flow] = rtp.Survey()
                stream.receive_batch(data, records, index, first + count - index)
                return
            elif strangers[flow] < MAX_STRANGERS:
                strangers[flow] += 1
            elif not is_sip:
                self.reader.ignore(flow)
                return

    def _has_room(self, time_ns: int) -> bool:
        """Whether one more flow may be RTP; drops what merely looked like it once (DNS: one in four)."""
        if len(self.streams) < MAX_SURVEYS:
            return True
        self._refusals += 1
        if self._refusals % (MAX_SURVEYS // 8) != 1:
            return False
        for flow, stream in list(self.streams.items()):
            runs = stream.runs
            if all(run.packets < MIN_RUN_PACKETS and run.last_ns < time_ns - NOISE_NS for run in runs):
                del self.streams[flow]
                self.heads.pop(flow, None)
        if len(self.streams) > MAX_SURVEYS - MAX_SURVEYS // 8:
            return len(self.streams) < MAX_SURVEYS
        self._refusals = 0
        return True

    def _receive_tcp(self, batch: pcap.Batch, flow: int, first: int, count: int) -> None:
        assembler = self._tcp.get(flow)
        if assembler is None:
            if len(self._tcp) >= MAX_TCP_STREAMS:
                self.dropped += 1
                self.reader.ignore(flow)
                return
            assembler = self._tcp[flow] = sip.StreamAssembler()
        for index in range(first, first + count):
            time_ns, frame, offset, length, _, _, seq, flags, _ = _RECORD.unpack_from(
                batch.records, index * RECORD_BYTES
            )
            messages = assembler.receive(
                batch.data[offset : offset + length],
                seq=seq,
                time_ns=time_ns,
                syn=bool(flags & pcap.TCP_SYN),
                fin=bool(flags & (pcap.TCP_FIN | pcap.TCP_RST)),
            )
            self._messages += [(frame, message.time_ns, flow, message.data) for message in messages]
            if assembler.hopeless:
                del self._tcp[flow]
                self.reader.ignore(flow)
                return

    def _receive_sip(self) -> None:
        """Hand over a batch's messages in the order of the capture, which the flows' groups have lost."""
        for _, time_ns, flow, message in sorted(self._messages, key=lambda entry: entry[:2]):
            ends = self.reader.flow(flow)
            self.dialogs.receive(
                message,
                time_ns=time_ns,
                source=(ends.source, ends.source_port),
                destination=(ends.destination, ends.destination_port),
                transport=ends.protocol,
            )
        self._messages.clear()


def record_time(batch: pcap.Batch, index: int) -> int:
    """The time of a record, nanoseconds since 1970."""
    return int(_RECORD_TIME.unpack_from(batch.records, index * RECORD_BYTES)[0])


def last_time(batch: pcap.Batch) -> int:
    """The time of the record that comes last in the file; the batch must have one."""
    latest = max(
        (first + count - 1 for _, first, count in batch.groups),
        key=lambda index: int(_RECORD.unpack_from(batch.records, index * RECORD_BYTES)[1]),
    )
    return record_time(batch, latest)
