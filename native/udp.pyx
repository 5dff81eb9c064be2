"""RTP over UDP on Linux: datagrams of many sockets sorted by stream, and what is played sent in time.

The work is done in include/callreel/demultiplexer.h, pacer.h and udp_linux.h; here are only the doors to it. Each
object may be used from any thread at any time. The only kernel that does I/O, on descriptors that its caller opened.
"""

cimport buffers
cimport fastcall
from cpython.object cimport PyObject
from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, strerror

from operator import index as as_index
from typing import NamedTuple

from callreel.errors import UsageError


cdef extern from "callreel/packet_record.h" nogil:
    ctypedef struct cr_packet_record:
        pass


cdef extern from "callreel/packet_blocks.h" nogil:
    enum:
        CR_BLOCK_BYTES
    uint32_t CR_NONE
    ctypedef struct cr_block_pool:
        uint32_t used, limit
    ctypedef struct cr_queue:
        uint32_t head, tail, blocks
    void cr_queue_size(const cr_block_pool *p, const cr_queue *q, size_t *records, size_t *bytes_) noexcept
    void cr_queue_copy(const cr_block_pool *p, const cr_queue *q, uint8_t *records, uint8_t *data) noexcept
    void cr_blocks_give_back(cr_block_pool *p, uint32_t first, uint32_t last, uint32_t count) noexcept


cdef extern from "callreel/rtcp_reception.h" nogil:
    ctypedef struct cr_reception:
        uint32_t ssrc, jitter_16
        uint8_t has_source, has_gone
    ctypedef struct cr_report_block:
        uint32_t ssrc, highest, jitter, last_report, delay
        int lost
        uint8_t fraction
    void cr_reception_report(cr_reception *r, int64_t now_ns, cr_report_block *block) noexcept


cdef extern from "callreel/arrival_clock.h" nogil:
    ctypedef struct cr_arrival_clock:
        int64_t offset_ns, offset_before_ns
    int64_t cr_arrival_ns(const cr_arrival_clock *c, int64_t stamp_ns, int64_t low, int64_t high) noexcept


cdef extern from "callreel/demultiplexer.h" nogil:
    enum:
        CR_MEMBERS
    ctypedef struct cr_endpoint:
        uint64_t *word
    ctypedef struct cr_stream_counts:
        uint64_t received, bytes, malformed, overflowed, reports, relearnt, rejected
        int64_t wait_max_ns
    ctypedef struct cr_stream:
        cr_endpoint *source
        uint32_t *socket
        uint8_t is_confirmed
        uint8_t *has_route
        int64_t last_ns, looks_until_ns
        cr_stream_counts counts
        cr_reception reception
    ctypedef struct cr_port:
        uint8_t in_use
        uint32_t *members
        uint64_t datagrams, strangers, foreign, too_long, malformed, kernel_drops
    ctypedef struct cr_demultiplexer:
        cr_stream *streams
        cr_port *ports
        uint32_t port_count
        int64_t relearn_ns
        cr_block_pool pool
    uint32_t cr_stream_open(
        cr_demultiplexer *d, uint32_t socket, uint32_t control, const uint64_t *payload_types, const cr_endpoint *peer,
        const uint32_t *ssrc, int64_t now_ns) noexcept
    void cr_stream_close(cr_demultiplexer *d, uint32_t number) noexcept
    void cr_stream_announce(cr_demultiplexer *d, uint32_t number, const cr_endpoint *peer) noexcept
    cr_queue cr_stream_detach(cr_demultiplexer *d, uint32_t number, int all) noexcept


cdef extern from "callreel/pacer.h" nogil:
    enum:
        CR_VOICE_IDLE, CR_VOICE_TALKING, CR_VOICE_DONE, CR_VOICE_NO_PEER, CR_VOICE_UNREACHABLE
    ctypedef struct cr_voice:
        int descriptor
        uint32_t stream, heard, ssrc, first_timestamp
        int64_t first_ns, late_max_ns
        uint16_t sequence
        uint8_t in_use, state
        int error
        uint64_t packets, octets, refused
        int64_t due_ns
    uint32_t cr_voice_timestamp(const cr_voice *v, int64_t at_ns) noexcept
    void cr_voice_talk(cr_voice *v, uint8_t *codes, uint32_t samples, uint8_t payload_type, uint8_t silence,
                       int64_t now_ns) noexcept


cdef extern from "callreel/udp_linux.h" nogil:
    enum:
        CR_UDP_IS_SERVED
    ctypedef struct cr_intake:
        cr_demultiplexer demultiplexer
        uint64_t batches, wakeups, errors
    ctypedef struct cr_outlet:
        cr_voice *voices
        int64_t *due
        uint32_t count
    int64_t cr_now_ns() noexcept
    void cr_intake_lock(cr_intake *i) noexcept
    void cr_intake_unlock(cr_intake *i) noexcept
    int cr_intake_init(cr_intake *i, uint64_t memory_bytes, int64_t relearn_ns, const uint64_t *secret) noexcept
    void cr_intake_free(cr_intake *i) noexcept
    int64_t cr_intake_add(cr_intake *i, int descriptor, int is_shared, int is_control, int buffer_bytes,
                          int *granted) noexcept
    void cr_intake_remove(cr_intake *i, uint32_t number) noexcept
    void cr_intake_sweep(cr_intake *i, uint32_t number) noexcept
    void cr_intake_stop(cr_intake *i) noexcept
    void cr_intake_run(cr_intake *i) noexcept
    int cr_outlet_init(cr_outlet *o, cr_intake *intake) noexcept
    void cr_outlet_free(cr_outlet *o) noexcept
    void cr_outlet_lock(cr_outlet *o) noexcept
    int cr_outlet_try_lock(cr_outlet *o) noexcept
    void cr_outlet_unlock(cr_outlet *o) noexcept
    void cr_outlet_wake(cr_outlet *o, int returns) noexcept
    uint32_t cr_outlet_add(cr_outlet *o) noexcept
    void cr_outlet_silence(cr_outlet *o, uint32_t number) noexcept
    void cr_outlet_run(cr_outlet *o) noexcept


if not CR_UDP_IS_SERVED:
    raise ImportError("callreel.kernels.udp needs Linux: recvmmsg, epoll and kernel time stamps")

PACKET_BYTES_MAX = 2048

cdef dict SILENCE = {"PCMU": 0xFF, "PCMA": 0xD5}


class Address(NamedTuple):
    """Where datagrams come from: 4 or 16 address bytes in network order, port, and scope of a local IPv6 one."""

    packed: bytes
    port: int
    scope: int = 0


class Report(NamedTuple):
    """A report block, RFC 3550 section 6.4.1."""

    ssrc: int
    fraction_lost: int
    lost: int
    highest_sequence: int
    jitter: int
    last_report: int
    delay: int


class Sent(NamedTuple):
    """What a voice has sent, for a sender report."""

    ssrc: int
    timestamp: int
    packets: int
    octets: int


def arrival_ns(stamp_ns, *, offset_ns, offset_before_ns, low_ns, high_ns):
    """When a packet arrived on the monotonic clock, by its stamp of the time of day; see arrival_clock.h."""
    cdef cr_arrival_clock clock
    clock.offset_ns = offset_ns
    clock.offset_before_ns = offset_before_ns
    return cr_arrival_ns(&clock, stamp_ns, low_ns, high_ns)


cdef str _text(int problem):
    return strerror(problem).decode("utf-8", "replace")


cdef int _endpoint(object address, cr_endpoint *endpoint) except -1:
    packed, port, scope = Address(*address)
    packed = bytes(packed)
    if len(packed) not in (4, 16) or not 0 < port < 65536 or not 0 <= scope < 1 << 32:
        raise ValueError(f"{address!r} is no address of a UDP port")
    padded = packed + bytes(16 - len(packed))
    memcpy(&endpoint.word[0], <const char *>padded, 16)
    endpoint.word[2] = <uint64_t>port | <uint64_t>(4 if len(packed) == 4 else 6) << 16 | <uint64_t>scope << 32
    return 0


cdef object _address(const cr_endpoint *endpoint):
    cdef bytes packed = (<const char *>&endpoint.word[0])[:16]
    return Address(packed[:4] if endpoint.word[2] >> 16 & 0xFFFF == 4 else packed, endpoint.word[2] & 0xFFFF,
                   endpoint.word[2] >> 32)


cdef class Demultiplexer:
    """Reads many sockets in one thread and keeps what has come, by stream, until it is taken."""

    cdef cr_intake *intake
    cdef int running

    def __cinit__(self, *, memory_bytes=1 << 28, relearn_ms=3000):
        cdef uint64_t[2] secret
        cdef int problem
        if not 1 << 18 <= memory_bytes <= 1 << 38 or not 0 <= relearn_ms <= 3_600_000:
            raise ValueError("memory_bytes is from 256 KiB on, relearn_ms at most an hour")
        # The secret that keeps Python's own dictionaries safe from chosen keys; see flow_table.h.
        secret[0] = <uint64_t>(hash(b"callreel stream addresses") & 0xFFFFFFFFFFFFFFFF)
        secret[1] = <uint64_t>(hash(b"callreel stream sources") & 0xFFFFFFFFFFFFFFFF)
        self.intake = <cr_intake *>calloc(1, sizeof(cr_intake))
        if self.intake == NULL:
            raise MemoryError
        problem = cr_intake_init(self.intake, memory_bytes, <int64_t>relearn_ms * 1_000_000, secret)
        if problem == ENOMEM:
            raise MemoryError
        if problem:
            raise OSError(problem, _text(problem))

    def __dealloc__(self):
        if self.intake != NULL:
            cr_intake_free(self.intake)
            free(self.intake)

    def add_socket(self, descriptor, *, shared=False, control=False, receive_buffer_bytes=1 << 20):
        """Read a bound UDP socket from now on; (its number here, the bytes that its buffer was granted)."""
        cdef int granted = 0
        cdef int64_t number
        number = cr_intake_add(self.intake, descriptor, shared, control, receive_buffer_bytes, &granted)
        if number < 0:
            raise OSError(-number, _text(<int>-number))
        return number, granted

    def remove_socket(self, number):
        """Read it no more; then its descriptor may be closed. Its streams are closed before."""
        cdef uint32_t which = self._socket(number)
        cdef bint has_streams = False
        cr_intake_lock(self.intake)
        for i in range(CR_MEMBERS):
            has_streams |= self.intake.demultiplexer.ports[which].members[i] != CR_NONE
        cr_intake_unlock(self.intake)
        if has_streams:
            raise UsageError(f"socket {number} has streams")
        with nogil:
            cr_intake_remove(self.intake, which)

    def sweep(self, number):
        """Read at once what has come to a socket, so that its streams have all of it."""
        cdef uint32_t which = self._socket(number)
        with nogil:
            cr_intake_sweep(self.intake, which)

    cdef uint32_t _socket(self, number) except? 0xFFFFFFFF:
        cdef bint known
        number = as_index(number)
        cr_intake_lock(self.intake)
        known = 0 <= number < self.intake.demultiplexer.port_count
        known = known and self.intake.demultiplexer.ports[<uint32_t>number].in_use
        cr_intake_unlock(self.intake)
        if not known:
            raise UsageError(f"there is no socket {number}")
        return <uint32_t>number

    def open(self, socket=None, *, control=None, payload_types=(), peer=None, ssrc=None):
        """A stream of `socket`, its RTCP coming to `control` or to the same; without any, what we send is put there."""
        cdef cr_endpoint endpoint
        cdef uint64_t[2] types
        cdef uint32_t own = CR_NONE, beside = CR_NONE, number, source = 0
        cdef Stream stream = Stream.__new__(Stream)
        types[0] = types[1] = 0
        for one in payload_types:
            if not 0 <= one <= 127:
                raise ValueError(f"payload type {one}: 0 to 127 are possible")
            types[one // 64] |= <uint64_t>1 << (one % 64)
        if socket is not None:
            own = self._socket(socket)
            beside = own if control is None else self._socket(control)
        if peer is not None:
            _endpoint(peer, &endpoint)
        if ssrc is not None:
            source = as_index(ssrc)
        cr_intake_lock(self.intake)
        number = cr_stream_open(
            &self.intake.demultiplexer, own, beside, types, NULL if peer is None else &endpoint,
            NULL if ssrc is None else &source, cr_now_ns())
        cr_intake_unlock(self.intake)
        if number == CR_NONE:
            raise UsageError("a socket that is not shared has at most two streams")
        stream.owner = self
        stream.number = number
        stream.is_open = True
        return stream

    def run(self):
        """Read until `stop`, without the GIL; one thread."""
        cr_intake_lock(self.intake)
        busy = self.running
        self.running = 1
        cr_intake_unlock(self.intake)
        if busy:
            raise UsageError("a Demultiplexer is run by one thread")
        with nogil:
            cr_intake_run(self.intake)

    def stop(self):
        """Let `run` return."""
        cr_intake_stop(self.intake)

    def socket_counts(self, number):
        """Datagrams of a socket by fate, those that its streams count left out."""
        cdef uint32_t which = self._socket(number)
        cdef cr_port port
        cr_intake_lock(self.intake)
        port = self.intake.demultiplexer.ports[which]
        cr_intake_unlock(self.intake)
        return {
            "datagrams": port.datagrams,
            "strangers": port.strangers,
            "foreign": port.foreign,
            "too_long": port.too_long,
            "malformed": port.malformed,
            "kernel_dropped": port.kernel_drops,
        }

    @property
    def counts(self):
        """Turns of the reading thread, errors of sockets, and the bytes that wait to be taken."""
        cdef uint64_t batches, wakeups, errors, blocks
        cr_intake_lock(self.intake)  # objects are made outside: the collector may close a stream
        batches, wakeups, errors = self.intake.batches, self.intake.wakeups, self.intake.errors
        blocks = self.intake.demultiplexer.pool.used
        cr_intake_unlock(self.intake)
        return {"batches": batches, "wakeups": wakeups, "errors": errors, "waiting_bytes": blocks * CR_BLOCK_BYTES}


cdef class Stream:
    """What comes from one source, and waits to be taken."""

    cdef Demultiplexer owner
    cdef uint32_t number
    cdef bint is_open
    cdef int speakers  # voices that speak to its peer, or are heard in it

    def __init__(self):
        raise TypeError("a Stream comes from Demultiplexer.open")

    def __dealloc__(self):
        self._close()

    cdef void _close(self) noexcept:
        if self.owner is None:
            return
        cr_intake_lock(self.owner.intake)
        if self.is_open:
            self.is_open = False
            cr_stream_close(&self.owner.intake.demultiplexer, self.number)
        cr_intake_unlock(self.owner.intake)

    cdef cr_stream *_enter(self) except NULL:
        """The stream, the lock taken."""
        cr_intake_lock(self.owner.intake)
        if not self.is_open:
            cr_intake_unlock(self.owner.intake)
            raise UsageError("this Stream is closed")
        return &self.owner.intake.demultiplexer.streams[self.number]

    cdef void _leave(self) noexcept:
        cr_intake_unlock(self.owner.intake)

    cdef object _take(self, bint all):
        cdef cr_block_pool *pool = &self.owner.intake.demultiplexer.pool
        cdef cr_queue taken
        cdef size_t records = 0, size_bytes = 0
        cdef char *table = NULL
        cdef char *payloads = NULL
        self._enter()
        taken = cr_stream_detach(&self.owner.intake.demultiplexer, self.number, all)
        self._leave()
        if taken.blocks == 0:
            return None
        try:
            cr_queue_size(pool, &taken, &records, &size_bytes)
            listed = buffers.new_bytes(<Py_ssize_t>(records * sizeof(cr_packet_record)), &table)
            data = buffers.new_bytes(<Py_ssize_t>size_bytes, &payloads)
            cr_queue_copy(pool, &taken, <uint8_t *>table, <uint8_t *>payloads)
            return data, listed
        finally:
            cr_intake_lock(self.owner.intake)
            cr_blocks_give_back(pool, taken.head, taken.tail, taken.blocks)
            cr_intake_unlock(self.owner.intake)

    def announce(self, peer):
        """From now on it comes from there, and from nowhere else."""
        cdef cr_endpoint endpoint
        _endpoint(peer, &endpoint)
        self._enter()
        cr_stream_announce(&self.owner.intake.demultiplexer, self.number, &endpoint)
        self._leave()

    def look_again(self):
        """The next other source of sound packets is the peer, if one comes within the time of a silence."""
        cdef cr_stream *s = self._enter()
        s.looks_until_ns = cr_now_ns() + max(self.owner.intake.demultiplexer.relearn_ns, <int64_t>1_000_000_000)
        self._leave()

    def report(self):
        """What a receiver reports of it now, since the last time; None before there was a packet."""
        cdef cr_report_block block
        cdef cr_stream *s = self._enter()
        cdef bint known = s.reception.has_source and s.is_confirmed
        if known:
            cr_reception_report(&s.reception, cr_now_ns(), &block)
        self._leave()
        if not known:
            return None
        return Report(
            block.ssrc, block.fraction, block.lost, block.highest, block.jitter, block.last_report, block.delay)

    @property
    def peer(self):
        """Where it comes from; None while nobody has been learnt."""
        cdef cr_endpoint endpoint
        cdef cr_stream *s = self._enter()
        cdef bint known = s.has_route[0]
        memcpy(&endpoint, &s.source[0], sizeof(endpoint))
        self._leave()
        return _address(&endpoint) if known else None

    @property
    def control_peer(self):
        """Where reports go: where they come from, or by its rule the port above; None while nobody has been learnt."""
        cdef cr_endpoint endpoint
        cdef cr_stream *s = self._enter()
        cdef int kind = 1 if s.has_route[1] else 0
        cdef bint known = s.has_route[kind]
        memcpy(&endpoint, &s.source[kind], sizeof(endpoint))
        self._leave()
        return _address(&endpoint) if known else None

    @property
    def has_gone(self):
        """Whether its source has said BYE."""
        cdef cr_stream *s = self._enter()
        cdef bint gone = s.reception.has_gone
        self._leave()
        return gone

    @property
    def counts(self):
        """Packets by fate, and how late they were."""
        cdef cr_stream *s = self._enter()
        cdef cr_stream_counts counts = s.counts
        cdef uint32_t jitter_16 = s.reception.jitter_16
        self._leave()
        return {
            "received": counts.received,
            "bytes": counts.bytes,
            "malformed": counts.malformed,
            "overflowed": counts.overflowed,
            "reports": counts.reports,
            "relearnt": counts.relearnt,
            "strangers": counts.rejected,
            "jitter_ms": round(jitter_16 / 128, 3),
            "wait_max_ms": round(counts.wait_max_ns / 1e6, 3),
        }

    def close(self):
        """Take nothing more; what waits is gone. Voices that speak to its peer are closed before."""
        if self.speakers:
            raise UsageError("a Voice speaks to the peer of this Stream")
        self._close()


# Every step of a call asks this, for each of its streams: see fastcall.pxd.
cdef tuple TAKE = ("all",)

cdef object _call_take(PyObject *stream, PyObject **args, Py_ssize_t count, PyObject *names):
    cdef PyObject *found[1]
    fastcall.sort("take", TAKE, 0, args, count, names, found)
    return (<Stream>stream)._take(found[0] != NULL and <object>found[0])

cdef fastcall.PyMethodDef _take_def = fastcall.method(
    b"take", <fastcall.fastcall_fn>_call_take,
    b"take($self, all=False)\n--\n\n"
    b"What has come, as (payloads, packet records): see `pcap.DTYPE`; None when there is nothing.",
)
fastcall.add_method(Stream, &_take_def)


cdef class Pacer:
    """Sends what is played, for all voices in one thread."""

    cdef Demultiplexer demultiplexer
    cdef cr_outlet *outlet
    cdef dict voices  # by number

    def __cinit__(self, Demultiplexer demultiplexer not None):
        cdef int problem
        self.demultiplexer = demultiplexer
        self.voices = {}
        self.outlet = <cr_outlet *>calloc(1, sizeof(cr_outlet))
        if self.outlet == NULL:
            raise MemoryError
        problem = cr_outlet_init(self.outlet, demultiplexer.intake)
        if problem:
            raise OSError(problem, _text(problem))

    def __dealloc__(self):
        if self.outlet != NULL:
            cr_outlet_free(self.outlet)
            free(self.outlet)

    cdef void _lock(self) noexcept:
        if not cr_outlet_try_lock(self.outlet):
            with nogil:  # it is held while packets are sent
                cr_outlet_lock(self.outlet)

    def voice(self, descriptor, Stream stream not None, *, ssrc, sequence, timestamp, Stream heard=None):
        """Who speaks to the peer of `stream` through a socket; what is sent is put into `heard`, too."""
        cdef Voice voice = Voice.__new__(Voice)
        cdef cr_voice *v
        cdef uint32_t number, source = as_index(ssrc), first = as_index(timestamp)
        cdef uint16_t next_sequence = as_index(sequence)
        cdef int file = as_index(descriptor)
        if not stream.is_open or (heard is not None and not heard.is_open):
            raise UsageError("this Stream is closed")
        self._lock()
        number = cr_outlet_add(self.outlet)
        if number != CR_NONE:
            v = &self.outlet.voices[number]
            v.descriptor = file
            v.stream = stream.number
            v.heard = CR_NONE if heard is None else heard.number
            v.ssrc = source
            v.sequence = next_sequence
            v.first_timestamp = first
            v.first_ns = cr_now_ns()
            voice.pacer = self
            voice.number = number
            voice.is_open = True
        cr_outlet_unlock(self.outlet)
        if number == CR_NONE:
            raise MemoryError
        voice.stream = stream
        voice.heard = heard
        stream.speakers += 1
        if heard is not None:
            heard.speakers += 1
        self.voices[number] = voice
        return voice

    def run(self):
        """Send what is due, without the GIL, until something ends or `wake`; what did: (voice, its talk, an error)."""
        cdef cr_voice *v
        cdef Voice voice
        cdef int state, error, talk
        cdef bint has_ended
        with nogil:
            cr_outlet_run(self.outlet)
        ended = []
        for voice in list(self.voices.values()):
            self._lock()
            v = &self.outlet.voices[voice.number]
            state, error, talk = v.state, v.error, voice.talk
            has_ended = voice.is_open and state != CR_VOICE_IDLE and state != CR_VOICE_TALKING
            if has_ended:
                cr_outlet_silence(self.outlet, voice.number)
            cr_outlet_unlock(self.outlet)
            if has_ended:
                ended.append((voice, talk, _what_ended(state, error)))
        return ended

    def wake(self):
        """Let `run` return."""
        with nogil:
            cr_outlet_wake(self.outlet, 1)


cdef object _what_ended(int state, int error):
    if state == CR_VOICE_NO_PEER:
        return "nobody has sent anything, so it is not known where to send to"
    if state == CR_VOICE_UNREACHABLE:
        return f"it cannot be sent: {_text(error)}"
    return None


cdef class Voice:
    """Who speaks to one peer: an RTP source."""

    cdef Pacer pacer
    cdef Stream stream
    cdef Stream heard
    cdef uint32_t number
    cdef bint is_open
    cdef readonly int talk

    def __init__(self):
        raise TypeError("a Voice comes from Pacer.voice")

    cdef cr_voice *_enter(self) except NULL:
        self.pacer._lock()
        if not self.is_open:
            cr_outlet_unlock(self.pacer.outlet)
            raise UsageError("this Voice is closed")
        return &self.pacer.outlet.voices[self.number]

    def play(self, codes, *, payload_type, codec="PCMU"):
        """Send G.711 codes from now on; the number of this talk, which `Pacer.run` tells the end of."""
        cdef Py_buffer view
        cdef uint8_t *copy = NULL
        cdef cr_voice *v
        cdef uint8_t silence = SILENCE[codec], kind
        if not 0 <= payload_type <= 127:
            raise ValueError(f"payload type {payload_type}: 0 to 127 are possible")
        kind = payload_type
        buffers.clear(&view)
        try:
            buffers.borrow_bytes(codes, &view)
            if not 0 < view.len <= 1 << 30:
                raise ValueError(f"{view.len} samples cannot be played")
            copy = <uint8_t *>malloc(<size_t>view.len)
            if copy == NULL:
                raise MemoryError
            memcpy(copy, view.buf, <size_t>view.len)
            v = self._enter()
            if v.state == CR_VOICE_TALKING:
                cr_outlet_unlock(self.pacer.outlet)
                raise UsageError("it is speaking: one thing at a time")
            cr_outlet_silence(self.pacer.outlet, self.number)
            cr_voice_talk(v, copy, <uint32_t>view.len, kind, silence, cr_now_ns())
            copy = NULL
            self.pacer.outlet.due[self.number] = v.due_ns
            self.talk += 1
            cr_outlet_unlock(self.pacer.outlet)
        finally:
            free(copy)
            buffers.release(&view)
        with nogil:
            cr_outlet_wake(self.pacer.outlet, 0)
        return self.talk

    def stop(self):
        """Send no more of it; its end is not told."""
        self._enter()
        self.talk += 1
        cr_outlet_silence(self.pacer.outlet, self.number)
        cr_outlet_unlock(self.pacer.outlet)

    def close(self):
        """Be gone; then the socket may be closed."""
        self.pacer._lock()
        if self.is_open:
            self.is_open = False
            self.talk += 1
            cr_outlet_silence(self.pacer.outlet, self.number)
            self.pacer.outlet.voices[self.number].in_use = 0
            self.stream.speakers -= 1
            if self.heard is not None:
                self.heard.speakers -= 1
            cr_outlet_unlock(self.pacer.outlet)
            del self.pacer.voices[self.number]
        else:
            cr_outlet_unlock(self.pacer.outlet)

    @property
    def sent(self):
        """What it has sent by now, and the timestamp of this moment."""
        cdef cr_voice v = self._enter()[0]
        cr_outlet_unlock(self.pacer.outlet)
        return Sent(v.ssrc, cr_voice_timestamp(&v, cr_now_ns()), v.packets, v.octets)

    @property
    def counts(self):
        """Packets sent and refused by the system, and the latest that one was, in ms."""
        cdef cr_voice v = self._enter()[0]
        cr_outlet_unlock(self.pacer.outlet)
        return {"sent": v.packets, "refused": v.refused, "late_max_ms": round(v.late_max_ns / 1e6, 3)}
