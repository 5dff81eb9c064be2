"""Packet captures: the bytes of a pcap or pcapng file, in pieces, to batches of payloads sorted by flow."""

cimport buffers
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport int16_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

from ipaddress import IPv4Address, IPv6Address
from operator import index as as_index
from typing import NamedTuple

from callreel.errors import CaptureError, UsageError


cdef extern from "Python.h":
    int PyBuffer_FillInfo(
        Py_buffer *view, object owner, void *start, Py_ssize_t size, int readonly, int flags
    ) except -1


cdef extern from "callreel/packet_record.h" nogil:
    enum:
        CR_RECORD_CUT
        CR_RECORD_REASSEMBLED
        CR_RECORD_TCP_SYN
        CR_RECORD_TCP_FIN
        CR_RECORD_TCP_RST
    ctypedef struct cr_packet_record:
        pass


cdef extern from "callreel/capture_reader.h" nogil:
    enum:
        CR_CAPTURE_PCAP
        CR_CAPTURE_PCAPNG
        CR_PROBLEM_NONE
        CR_PROBLEM_NOT_A_CAPTURE
        CR_PROBLEM_GZIP
        CR_PROBLEM_CUT
        CR_PROBLEM_RECORD_LENGTH
        CR_PROBLEM_BLOCK_LENGTH
        CR_PROBLEM_BLOCK_TRAILER
        CR_PROBLEM_SECTION
        CR_PROBLEM_MEMORY
        CR_PROTOCOL_TCP
    ctypedef struct cr_capture_file:
        int format
        int problem
        uint64_t problem_offset
        uint16_t *link_types
        uint32_t link_types_used
    ctypedef struct cr_fragments:
        uint64_t seen, reassembled, dropped
    ctypedef struct cr_flow_key:
        uint64_t *word
    ctypedef struct cr_flow:
        cr_flow_key key
        int16_t vlan
        uint8_t ignored
    ctypedef struct cr_flow_table:
        cr_flow *flows
        uint32_t used, limit
        uint64_t *secret
    ctypedef struct cr_reader_counts:
        uint64_t frames, bytes, udp, tcp, icmp_embedded, other
        uint64_t malformed, snapped, unknown_link_type, flows_dropped
    ctypedef struct cr_flow_group:
        uint32_t flow, first_record, records
    ctypedef struct cr_capture_reader:
        cr_capture_file file
        cr_fragments fragments
        cr_flow_table flows
        cr_reader_counts counts
        size_t records_used
        cr_flow_group *groups
        uint32_t groups_used
        size_t data_used
        int64_t first_time_ns, last_time_ns
    void cr_reader_free(cr_capture_reader *reader)
    size_t cr_reader_arena_bytes(const cr_capture_reader *reader, size_t size)
    int cr_reader_feed(
        cr_capture_reader *reader, const uint8_t *data, size_t size, uint8_t *arena, size_t capacity
    )
    void cr_reader_sort(cr_capture_reader *reader, uint8_t *records)
    void cr_reader_clear_batch(cr_capture_reader *reader)
    void cr_reader_end(cr_capture_reader *reader)


CUT = CR_RECORD_CUT
REASSEMBLED = CR_RECORD_REASSEMBLED
TCP_SYN = CR_RECORD_TCP_SYN
TCP_FIN = CR_RECORD_TCP_FIN
TCP_RST = CR_RECORD_TCP_RST

# packet_record.h as a numpy dtype: numpy.frombuffer(batch.records, DTYPE)
DTYPE = [
    ("time_ns", "i8"),
    ("frame", "u8"),
    ("offset", "u4"),
    ("length", "u4"),
    ("flow", "u4"),
    ("wire_length", "u4"),
    ("tcp_seq", "u4"),
    ("flags", "u2"),
    ("reserved", "u2"),
]

# Offsets in Batch.data are 32 bits wide; a batch also holds up to 4 MiB of fragments from before.
FEED_BYTES_MAX = 1 << 30

_PROBLEMS = {
    CR_PROBLEM_NOT_A_CAPTURE: "neither pcap nor pcapng",
    CR_PROBLEM_GZIP: "compressed with gzip: unpack it first",
    CR_PROBLEM_CUT: "the file ends in the middle of a record",
    CR_PROBLEM_RECORD_LENGTH: "a packet record with an impossible length",
    CR_PROBLEM_BLOCK_LENGTH: "a block with an impossible length",
    CR_PROBLEM_BLOCK_TRAILER: "a block whose two lengths differ",
    CR_PROBLEM_SECTION: "a section header of no known byte order or version",
    CR_PROBLEM_MEMORY: "out of memory",
}


class Flow(NamedTuple):
    """One direction between two ports.

    `vlan` is the outermost tag of its first packet; it is no part of the flow's identity.
    """

    protocol: str
    source: str
    source_port: int
    destination: str
    destination_port: int
    vlan: int | None


cdef object _address(const uint64_t *word, int family):
    if family == 4:
        return str(IPv4Address(PyBytes_FromStringAndSize(<const char *>word, 4)))
    return str(IPv6Address(PyBytes_FromStringAndSize(<const char *>word, 16)))


@cython.final
@cython.auto_pickle(False)
cdef class _Arena:
    """The payload bytes of a batch: allocated for the worst case, cut to what was used, then constant."""

    cdef Reader _reader
    cdef uint8_t *_start
    cdef size_t _capacity
    cdef Py_ssize_t _size

    cdef int _allocate(self, Reader reader, size_t size) except -1:
        with cython.critical_section(reader):
            if reader._spare_capacity >= size:
                self._start, self._capacity = reader._spare, reader._spare_capacity
                reader._spare, reader._spare_capacity = NULL, 0
        if self._start == NULL:
            self._start = <uint8_t *>malloc(size if size else 1)
            if self._start == NULL:
                raise MemoryError(f"no memory for {size} bytes of payload")
            self._capacity = size
        self._reader = reader
        self._size = size
        return 0

    cdef void _shrink(self, size_t size) noexcept:
        cdef void *smaller
        self._size = size
        if size < self._capacity // 2:
            smaller = realloc(self._start, size if size else 1)
            if smaller != NULL:
                self._start = <uint8_t *>smaller
                self._capacity = size

    def __dealloc__(self):
        cdef uint8_t *unused = self._start
        if self._reader is not None:
            with cython.critical_section(self._reader):
                if self._capacity > self._reader._spare_capacity:
                    unused = self._reader._spare
                    self._reader._spare, self._reader._spare_capacity = self._start, self._capacity
        free(unused)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self._start, self._size, 1, flags)


@cython.final
@cython.auto_pickle(False)
cdef class Batch:
    """What one feed gave: packed records in order of flow, their payloads, and the place of each flow."""

    cdef readonly bytes records
    cdef readonly object data
    cdef readonly list groups
    cdef readonly object first_time_ns
    cdef readonly object last_time_ns
    cdef Py_ssize_t _length

    def __init__(self):
        raise TypeError("a Batch comes from Reader.feed")

    def __len__(self):
        return self._length


@cython.final
@cython.auto_pickle(False)
cdef class Flows:
    """The flows a Reader has seen, by number; a live view."""

    cdef Reader _reader

    def __init__(self):
        raise TypeError("Flows come from Reader.flows")

    def __len__(self):
        return self._reader._state.flows.used

    def __getitem__(self, index):
        number = as_index(index)
        return self._reader.flow(number + len(self) if number < 0 else number)

    def __iter__(self):
        return map(self._reader.flow, range(len(self)))


@cython.final
@cython.auto_pickle(False)
cdef class Reader:
    """Reads a pcap or pcapng file fed in pieces of any size; does no I/O itself. One thread at a time.

    `max_flows` bounds the memory: packets of flows beyond it are counted in `counts["flows_dropped"]` and
    not delivered.
    """

    cdef cr_capture_reader _state
    cdef uint8_t *_spare  # of a batch that is gone: memory that is used again costs no page faults
    cdef size_t _spare_capacity
    cdef bint _busy
    cdef bint _finished

    def __cinit__(self):
        memset(&self._state, 0, sizeof(self._state))

    def __init__(self, *, max_flows=262144):
        if not 1 <= max_flows <= 1 << 24:
            raise ValueError(f"max_flows must be 1 to {1 << 24}, not {max_flows}")
        self._claim()
        try:
            cr_reader_free(&self._state)
            self._finished = False
            self._state.flows.limit = max_flows
            # The secret that keeps Python's own dictionaries safe from chosen keys; see flow_table.h.
            self._state.flows.secret[0] = <uint64_t>(hash(b"callreel flow addresses") & 0xFFFFFFFFFFFFFFFF)
            self._state.flows.secret[1] = <uint64_t>(hash(b"callreel flow ports") & 0xFFFFFFFFFFFFFFFF)
        finally:
            self._release()

    def __dealloc__(self):
        cr_reader_free(&self._state)
        free(self._spare)

    cdef int _claim(self) except -1:
        """Feeding releases the GIL: whoever comes in meanwhile is told so, and corrupts nothing."""
        cdef bint busy
        with cython.critical_section(self):
            busy = self._busy
            self._busy = True
        if busy:
            raise UsageError("a Reader belongs to one thread at a time")
        return 0

    cdef void _release(self) noexcept:
        with cython.critical_section(self):
            self._busy = False

    cdef int _raise_if_no_capture(self) except -1:
        cdef int problem = self._state.file.problem
        if problem == CR_PROBLEM_NOT_A_CAPTURE or problem == CR_PROBLEM_GZIP:
            raise CaptureError(_PROBLEMS[problem], offset=self._state.file.problem_offset)
        return 0

    def feed(self, data):
        """Take the next bytes of the file and return all packets that are now complete as a Batch."""
        cdef Py_buffer view
        cdef _Arena arena = _Arena.__new__(_Arena)
        cdef const uint8_t *piece
        cdef size_t capacity
        cdef int done
        self._claim()
        buffers.clear(&view)
        try:
            if self._finished:
                raise UsageError("feed after finish")
            buffers.borrow_bytes(data, &view)
            if view.len > FEED_BYTES_MAX:
                raise ValueError(f"feed at most {FEED_BYTES_MAX} bytes at a time, not {view.len}")
            capacity = cr_reader_arena_bytes(&self._state, view.len)
            arena._allocate(self, capacity)
            piece = <const uint8_t *>view.buf
            if view.len < buffers.GIL_MIN_SAMPLES:
                done = cr_reader_feed(&self._state, piece, view.len, arena._start, capacity)
            else:
                with nogil:
                    done = cr_reader_feed(&self._state, piece, view.len, arena._start, capacity)
            if not done:
                raise MemoryError("no memory for the packets of a capture")
            self._raise_if_no_capture()
            arena._shrink(self._state.data_used)
            return self._batch(arena)
        finally:
            cr_reader_clear_batch(&self._state)
            buffers.release(&view)
            self._release()

    cdef Batch _batch(self, _Arena arena):
        cdef Batch batch = Batch.__new__(Batch)
        cdef char *start = NULL
        cdef cr_flow_group *group
        cdef uint32_t i
        batch._length = self._state.records_used
        batch.records = buffers.new_bytes(batch._length * sizeof(cr_packet_record), &start)
        cr_reader_sort(&self._state, <uint8_t *>start)
        batch.data = memoryview(arena)
        batch.groups = []
        for i in range(self._state.groups_used):
            group = self._state.groups + i
            batch.groups.append((group.flow, group.first_record, group.records))
        if batch._length:
            batch.first_time_ns = self._state.first_time_ns
            batch.last_time_ns = self._state.last_time_ns
        return batch

    def finish(self):
        """The file has ended: `truncated` and `counts` are final. A file that was no capture raises."""
        self._claim()
        try:
            if not self._finished:
                self._finished = True
                cr_reader_end(&self._state)
            self._raise_if_no_capture()
        finally:
            self._release()

    def flow(self, number):
        """The flow with this number."""
        cdef cr_flow *flow
        cdef uint64_t last
        cdef int family
        self._claim()
        try:
            flow = self._flow(number)
            last = flow.key.word[4]
            family = <int>(last >> 40)
            return Flow(
                "tcp" if (last >> 32 & 0xFF) == CR_PROTOCOL_TCP else "udp",
                _address(&flow.key.word[0], family),
                <int>(last & 0xFFFF),
                _address(&flow.key.word[2], family),
                <int>(last >> 16 & 0xFFFF),
                None if flow.vlan < 0 else flow.vlan,
            )
        finally:
            self._release()

    cdef cr_flow *_flow(self, number) except NULL:
        number = as_index(number)
        if not 0 <= number < self._state.flows.used:
            raise IndexError(f"there is no flow {number}, only {self._state.flows.used} flows")
        return self._state.flows.flows + <size_t>number

    def ignore(self, flow):
        """Deliver no more packets of this flow; they are still counted."""
        self._claim()
        try:
            self._flow(flow).ignored = 1
        finally:
            self._release()

    @property
    def flows(self):
        """The flows seen so far, by number."""
        cdef Flows flows = Flows.__new__(Flows)
        flows._reader = self
        return flows

    @property
    def format(self):
        """What the file is, "pcap" or "pcapng"; None until its first bytes are there."""
        if self._state.file.format == CR_CAPTURE_PCAP:
            return "pcap"
        return "pcapng" if self._state.file.format == CR_CAPTURE_PCAPNG else None

    @property
    def link_types(self):
        """The link types of the file's interfaces, LINKTYPE_ numbers in order of appearance."""
        cdef uint32_t i
        return tuple([self._state.file.link_types[i] for i in range(self._state.file.link_types_used)])

    @property
    def truncated(self):
        """Whether reading stopped before the end of the last record: see `problem`."""
        return self._state.file.problem != CR_PROBLEM_NONE

    @property
    def truncation_offset(self):
        """Where the record begins that could not be read, in bytes of the file; None if all could."""
        return self._state.file.problem_offset if self._state.file.problem != CR_PROBLEM_NONE else None

    @property
    def problem(self):
        """What stopped the reading, in words; None if nothing did."""
        return _PROBLEMS.get(self._state.file.problem)

    @property
    def counts(self):
        """How many of what has been seen so far."""
        cdef cr_reader_counts *counts = &self._state.counts
        cdef cr_fragments *fragments = &self._state.fragments
        return {
            "frames": counts.frames,
            "bytes": counts.bytes,
            "udp": counts.udp,
            "tcp": counts.tcp,
            "icmp_embedded": counts.icmp_embedded,
            "other": counts.other,
            "malformed": counts.malformed,
            "fragments": fragments.seen,
            "reassembled": fragments.reassembled,
            "fragments_dropped": fragments.dropped,
            "snapped": counts.snapped,
            "unknown_link_type": counts.unknown_link_type,
            "flows_dropped": counts.flows_dropped,
        }


def packets(data, chunk_bytes=1 << 20, *, reader=None):
    """Read a whole capture from memory: an iterator of its batches that hold packets.

    Pass a Reader of your own as `reader` to look up flows and counts; it is finished when the iterator ends.
    """
    cdef Reader source = Reader() if reader is None else reader
    if chunk_bytes < 1:
        raise ValueError(f"chunk_bytes must be at least 1, not {chunk_bytes}")
    whole = memoryview(data).cast("B")
    for start in range(0, len(whole), chunk_bytes):
        batch = source.feed(whole[start : start + chunk_bytes])
        if len(batch):
            yield batch
    source.finish()
