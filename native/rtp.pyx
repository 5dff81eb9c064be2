"""RTP: one stream's packets in, its true timeline out (RFC 3550, RFC 4733, RFC 3389).

The work is done in include/callreel/timeline.h; here are only the doors to it. A `Receiver`, a `Pair` and a `Survey`
belong to one thread at a time; a second one that comes in meanwhile gets a UsageError.
"""

cimport cython
cimport buffers
cimport fastcall
cimport isa
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.stdint cimport INT64_MAX, int16_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from tones cimport (
    MAX_POSITION_BITS, cr_dtmf, cr_dtmf_active, cr_dtmf_digit, cr_dtmf_digits, cr_dtmf_feed, cr_dtmf_flush,
    cr_dtmf_init, cr_dtmf_plan, cr_dtmf_plan_init, cr_dtmf_plan_room, cr_dtmf_position, cr_dtmf_prefetch,
    cr_dtmf_raw_samples, cr_dtmf_skip, cr_dtmf_version_for,
)

from typing import NamedTuple

from callreel.errors import RtpError, UsageError


cdef extern from "callreel/packet_record.h" nogil:
    ctypedef struct cr_packet_record:
        int64_t time_ns
        uint32_t offset
        uint32_t length
        uint16_t flags

    enum:
        CR_RECORD_CUT


cdef extern from "callreel/rtp_packet.h" nogil:
    ctypedef struct cr_rtp_packet:
        uint32_t timestamp
        uint32_t ssrc
        uint32_t payload_offset
        uint32_t payload_bytes
        uint16_t sequence
        uint16_t extension_profile
        uint32_t extension_offset
        uint32_t extension_bytes
        uint8_t payload_type
        uint8_t marker
        uint8_t csrc_count
        uint8_t padding_bytes
        uint8_t has_extension

    ctypedef struct cr_sender_report:
        uint32_t ssrc
        uint64_t ntp
        uint32_t timestamp
        uint32_t packets
        uint32_t octets

    int cr_rtp_parse(const uint8_t *data, size_t size_bytes, cr_rtp_packet *packet) noexcept
    int cr_rtcp_sender_report(const uint8_t *data, size_t size_bytes, cr_sender_report *report) noexcept
    int cr_datagram_classify(const uint8_t *data, size_t size_bytes) noexcept


cdef extern from "callreel/timeline.h" nogil:
    ctypedef struct cr_page:
        pass

    ctypedef struct cr_drift:
        uint8_t rate_known
        double rate

    ctypedef struct cr_event_digit:
        int64_t position
        uint32_t duration
        uint8_t code

    ctypedef struct cr_gap:
        int64_t position
        int64_t samples

    ctypedef struct cr_track_counts:
        uint64_t received, duplicate, late, malformed, reordered, undecoded, discarded
        uint64_t concealed_samples, silence_samples, sender_reports

    ctypedef struct cr_track:
        uint32_t sample_rate
        uint8_t codec[128]
        uint64_t payload_types_seen[2]
        uint8_t render_events
        uint32_t ssrcs[16]
        uint32_t ssrc_count
        int64_t position
        cr_drift drift
        cr_event_digit *digits
        uint32_t digit_count
        cr_gap *gaps
        uint32_t gap_count
        cr_track_counts counts

    enum:
        CR_CODEC_UNKNOWN, CR_CODEC_PCMU, CR_CODEC_PCMA, CR_CODEC_COMFORT_NOISE, CR_CODEC_TELEPHONE_EVENT
        CR_RECEIVED, CR_STORE_FULL
        CR_PACKET_MAX_MS

    size_t cr_store_pages_for(uint32_t capacity) noexcept
    void cr_track_init(cr_track *t, uint32_t sample_rate, int64_t origin_ns, uint32_t late_ms, uint32_t capacity,
                       uint32_t sample_bytes, cr_page **pages) noexcept
    void cr_track_close(cr_track *t) noexcept
    int cr_track_receive(cr_track *t, const uint8_t *data, size_t size_bytes, int64_t arrival_ns, int force) noexcept
    int cr_track_takes_frames(cr_track *t, int64_t samples) noexcept
    void cr_track_settle(cr_track *t) noexcept
    int cr_track_push(cr_track *t, const uint8_t *pcm, uint32_t samples, int64_t arrival_ns, int64_t offset) noexcept
    void cr_track_finish(cr_track *t) noexcept
    int64_t cr_track_ready(cr_track *t, int64_t now_ns) noexcept
    int64_t cr_track_complete(const cr_track *t) noexcept
    void cr_track_preview(const cr_track *t, int64_t from_, int64_t until, int16_t *pcm) noexcept
    int64_t cr_track_end_position(const cr_track *t) noexcept
    void cr_track_read(cr_track *t, int64_t until, int16_t *pcm) noexcept
    uint32_t cr_track_hear(cr_track *t, int16_t *pcm, uint32_t room, uint32_t patience_ms, int64_t *position) noexcept
    int64_t cr_track_lost(const cr_track *t) noexcept
    double cr_track_alignment_error(const cr_track *t) noexcept
    void cr_track_fetch(const cr_track *t) noexcept
    void cr_track_fetch_room(const cr_track *t, uint32_t ms) noexcept
    void cr_track_fetch_reading(const cr_track *t, uint32_t ms) noexcept
    void cr_fetch_lines(const void *from_, size_t size_bytes) noexcept
    void cr_timeline_use(isa.cr_isa isa) noexcept


cdef extern from "callreel/pcm.h" nogil:
    ctypedef struct cr_pcm_kernels:
        void (*interleave)(
            uint8_t *stereo, const uint8_t *left, const uint8_t *right, size_t frames) noexcept nogil
    cr_pcm_kernels cr_pcm
    void cr_pcm_use(isa.cr_isa isa) noexcept


cdef extern from "callreel/survey.h" nogil:
    ctypedef struct cr_sequence:
        pass

    ctypedef struct cr_survey_run:
        int64_t first_ns, last_ns
        uint64_t packets, duplicate, reordered, orderly, cut
        int64_t lost_before
        uint64_t payload_types[2]
        uint32_t ssrc
        cr_sequence sequence

    ctypedef struct cr_survey_type:
        uint64_t packets, events
        uint32_t repeats
        uint8_t payload_type

    ctypedef struct cr_survey:
        cr_survey_run runs[8]
        cr_survey_type types[8]
        uint32_t run_count, type_count
        uint64_t rtcp, foreign, malformed

    int64_t cr_survey_early_ns(const cr_survey_run *run) noexcept
    void cr_survey_receive(cr_survey *s, const uint8_t *data, size_t size_bytes, int64_t time_ns, int cut) noexcept
    int64_t cr_sequence_lost(const cr_sequence *s) noexcept


cdef extern from *:
    """
    /* One thread at a time: batches and long reads run without the GIL, and some Pythons have none. There only an
     * atomic exchange lets in no more than one of two threads that come at once. */
    #ifdef Py_GIL_DISABLED
    #define cr_claim(busy) _Py_atomic_exchange_int((busy), 1)
    #define cr_release(busy) _Py_atomic_store_int_release((busy), 0)
    #else
    static inline int cr_claim(int *busy) { int before = *busy; *busy = 1; return before; }
    static inline void cr_release(int *busy) { *busy = 0; }
    #endif
    """
    int cr_claim(int *busy) noexcept
    void cr_release(int *busy) noexcept


cr_timeline_use(isa.in_use())
cr_pcm_use(isa.in_use())

# What a payload type may be called; anything else is counted as undecoded.
cdef dict CODECS = {
    "PCMU": CR_CODEC_PCMU,
    "PCMA": CR_CODEC_PCMA,
    "CN": CR_CODEC_COMFORT_NOISE,
    "telephone-event": CR_CODEC_TELEPHONE_EVENT,
}
STATIC_PAYLOAD_TYPES = {0: "PCMU", 8: "PCMA", 13: "CN"}

cdef str DIGITS = "0123456789*#ABCD"  # by RFC 4733 event code

cdef tuple PROBLEMS = (
    "", "shorter than an RTP header", "longer than a UDP datagram", "not RTP version 2",
    "the CSRC list runs past the packet",
    "the header extension runs past the packet", "the padding is longer than the payload",
)

cdef enum:
    HEAR_SAMPLES = 4096
    HEAR_PATIENCE_MS = 40
    STEP_MS = 200  # what a host hands over at a time, by and large
    GIL_MIN_PACKETS = buffers.GIL_MIN_SAMPLES // 160  # of 20 ms at 8 kHz, as nearly all are
    SLACK_SAMPLES = 8  # steps this small between two pieces are the clock correction at work, not a gap: 1 ms at 8 kHz
    MAX_READ_SAMPLES = 1 << 28
    MAX_GAPS = 1000  # lost stretches that are remembered one by one; the counts go on beyond
    GAP_SLACK_SAMPLES = 16  # lost stretches closer than this are one: 2 ms at 8 kHz, as track.h has it


class Packet(NamedTuple):
    """One RTP packet, RFC 3550 section 5.1."""

    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    marker: bool
    csrc: tuple
    extension: object
    payload: bytes
    padding_bytes: int


class SenderReport(NamedTuple):
    """A sender's wall clock and media clock at one instant, RFC 3550 section 6.4.1."""

    ssrc: int
    ntp: int
    timestamp: int
    packets: int
    octets: int


def parse(packet):
    """Take one RTP packet apart; RtpError if it is none."""
    cdef Py_buffer view
    cdef cr_rtp_packet p
    cdef const uint8_t *data
    cdef int problem
    buffers.clear(&view)
    try:
        buffers.borrow_bytes(packet, &view)
        data = <const uint8_t *>view.buf
        problem = cr_rtp_parse(data, <size_t>view.len, &p)
        if problem:
            raise RtpError(PROBLEMS[problem], offset=0)
        body = bytes(data[:view.len])
        csrc = tuple(int.from_bytes(body[12 + 4 * i:16 + 4 * i], "big") for i in range(p.csrc_count))
        extension = None
        if p.has_extension:
            extension = (p.extension_profile, body[p.extension_offset:p.extension_offset + p.extension_bytes])
        return Packet(p.payload_type, p.sequence, p.timestamp, p.ssrc, bool(p.marker), csrc, extension,
                      body[p.payload_offset:p.payload_offset + p.payload_bytes], p.padding_bytes)
    finally:
        buffers.release(&view)


def sender_report(packet):
    """The sender report in a compound RTCP packet, or None if it holds none; RtpError if it is malformed."""
    cdef Py_buffer view
    cdef cr_sender_report report
    cdef int found
    buffers.clear(&view)
    try:
        buffers.borrow_bytes(packet, &view)
        found = cr_rtcp_sender_report(<const uint8_t *>view.buf, <size_t>view.len, &report)
        if found < 0:
            raise RtpError("the lengths of the RTCP packets do not add up", offset=0)
        if not found:
            return None
        return SenderReport(report.ssrc, report.ntp, report.timestamp, report.packets, report.octets)
    finally:
        buffers.release(&view)


cdef Py_ssize_t _borrow_records(object data, object records, Py_ssize_t first, object count, int64_t until_ns,
                                Py_buffer *payloads, Py_buffer *table) except -1:
    """Borrow payloads and packet records; returns the end of those chosen, which is before the first one later than
    `until_ns`, and which all lie within the data."""
    cdef const cr_packet_record *record
    cdef Py_ssize_t available, end, i
    cdef size_t size_bytes
    buffers.borrow_bytes(data, payloads)
    buffers.PyObject_GetBuffer(records, table, buffers.PyBUF_C_CONTIGUOUS)
    if table.len % <Py_ssize_t>sizeof(cr_packet_record):
        raise ValueError(f"{table.len} bytes are not a whole number of packet records")
    available = table.len // <Py_ssize_t>sizeof(cr_packet_record)
    if count is None:
        count = available - first
    if not (0 <= first <= available and 0 <= count <= available - first):
        raise ValueError(f"{count} records from number {first} on, of {available}")
    end = first + <Py_ssize_t>count
    size_bytes = <size_t>payloads.len
    record = <const cr_packet_record *>table.buf
    for i in range(first, end):
        if record[i].time_ns > until_ns:
            return i
        if record[i].offset > size_bytes or record[i].length > size_bytes - record[i].offset:
            raise ValueError(f"record {i} lies outside the data")
    return end


cdef int _codec_of(object name) except -1:
    text = str(name)
    known = CODECS.get(text)
    if known is None:
        known = CODECS.get(text.upper(), CODECS.get(text.lower(), CR_CODEC_UNKNOWN))
    return known


cdef inline int _enter(int *busy) except -1:
    return _refuse() if cr_claim(busy) else 0


cdef int _refuse() except -1:
    raise UsageError("this Receiver, Pair or Survey is in use by another thread")


# What all detectors of one rate share, by kHz: made when first needed, and kept.
cdef cr_dtmf_plan *_plans[49]


cdef cr_dtmf *_new_detector(uint32_t rate) except NULL:
    """A digit detector for `rate`, a whole number of kHz up to 48, with room for its samples behind it."""
    cdef cr_dtmf_plan *plan
    cdef cr_dtmf *detector
    with cython.critical_section(CODECS):
        plan = _plans[rate // 1000]
        if plan == NULL:
            plan = <cr_dtmf_plan *>calloc(1, sizeof(cr_dtmf_plan) + cr_dtmf_plan_room(rate) * sizeof(int16_t))
            if plan == NULL:
                raise MemoryError
            cr_dtmf_plan_init(plan, rate, cr_dtmf_version_for(isa.in_use()), <int16_t *>(plan + 1))
            _plans[rate // 1000] = plan
    detector = <cr_dtmf *>PyMem_Calloc(1, sizeof(cr_dtmf) + cr_dtmf_raw_samples(plan) * sizeof(int16_t))
    if detector == NULL:
        raise MemoryError
    cr_dtmf_init(detector, plan, <int16_t *>(detector + 1))
    return detector


@cython.final
cdef class Receiver:
    """One track's true timeline: packets or host frames in, gap-free PCM out.

    `origin_ns` is the time of timeline sample 0. `payload_types` maps RTP payload types to "PCMU", "PCMA", "CN" or
    "telephone-event"; packets of any other are counted as undecoded. `late_ms` is how late a packet may be and still
    land in its place; `capacity_ms` bounds the memory: what has arrived and has not been read.
    """

    cdef cr_track *track
    cdef cr_dtmf *detector  # NULL until there is something to listen to
    cdef bint detects_digits
    cdef int64_t detector_offset  # from the detector's positions to the timeline's
    cdef int busy
    cdef bint unheard  # whether something has come that was not listened to
    cdef cr_dtmf_digits ended_tones  # keys heard that have ended and were not asked for yet
    cdef list lost  # stretches, as `gaps` gives them; None while there are none
    cdef list hearers, readers  # `on_hear` and `on_read`; None until somebody asked for them
    cdef readonly int64_t heard
    cdef readonly bint host_frames

    def __cinit__(self, payload_types=None, *, int64_t origin_ns=0, uint32_t sample_rate=8000, uint32_t late_ms=1000,
                  uint32_t capacity_ms=3600, bint host_frames=False, bint render_events=True,
                  bint detect_digits=False):
        cdef uint32_t capacity, sample_bytes = 2 if host_frames else 1
        cdef size_t struct_bytes = (sizeof(cr_track) + 15) // 16 * 16
        cdef uint8_t *block
        if not 8000 <= sample_rate <= 48000 or sample_rate % 1000:
            raise ValueError(f"sample_rate={sample_rate}: a whole number of kHz from 8000 to 48000 is needed")
        if not host_frames and sample_rate != 8000:
            raise ValueError("RTP G.711 is sampled at 8000 Hz")
        if late_ms > 10_000 or not late_ms + 2_000 <= capacity_ms <= 120_000:
            raise ValueError("late_ms up to 10000 and capacity_ms from late_ms + 2000 to 120000 are possible")
        capacity = capacity_ms * (sample_rate // 1000)
        block = <uint8_t *>PyMem_Malloc(struct_bytes + cr_store_pages_for(capacity) * sizeof(cr_page *))
        if block == NULL:
            raise MemoryError
        self.track = <cr_track *>block
        self.host_frames = host_frames
        cr_track_init(
            self.track, sample_rate, origin_ns, late_ms, capacity, sample_bytes, <cr_page **>(block + struct_bytes),
        )
        self.track.render_events = render_events
        self.detects_digits = detect_digits
        self.set_payload_types(STATIC_PAYLOAD_TYPES if payload_types is None else payload_types)

    def __dealloc__(self):
        if self.track != NULL:
            cr_track_close(self.track)
        PyMem_Free(self.track)
        PyMem_Free(self.detector)
        free(self.ended_tones.items)

    def set_payload_types(self, payload_types):
        """Replace the meaning of all payload types from now on, as a new SDP answer does."""
        wanted = {}
        for payload_type, name in payload_types.items():
            if not 0 <= payload_type <= 127:
                raise ValueError(f"payload type {payload_type}: 0 to 127 are possible")
            wanted[payload_type] = _codec_of(name)
        _enter(&self.busy)
        try:
            for payload_type in range(128):
                self.track.codec[payload_type] = <uint8_t>wanted.get(payload_type, CR_CODEC_UNKNOWN)
        finally:
            cr_release(&self.busy)

    cdef bint _receive(self, object packet, int64_t arrival_ns, bint force) except -1:
        cdef Py_buffer view
        _enter(&self.busy)
        buffers.clear(&view)
        try:
            buffers.borrow_bytes(packet, &view)
            self.unheard = True
            return cr_track_receive(self.track, <const uint8_t *>view.buf, <size_t>view.len, arrival_ns,
                                    force) == CR_RECEIVED
        finally:
            cr_release(&self.busy)
            buffers.release(&view)

    cdef Py_ssize_t _receive_batch(self, object data, object records, Py_ssize_t first, object count, int64_t until_ns,
                                   bint force) except -1:
        cdef Py_buffer payloads, table
        cdef const cr_packet_record *record
        cdef const uint8_t *start
        cdef Py_ssize_t end, i = first
        _enter(&self.busy)
        cr_track_fetch(self.track)
        if self.detector != NULL:
            cr_fetch_lines(self.detector, sizeof(cr_dtmf))
        buffers.clear(&payloads)
        buffers.clear(&table)
        try:
            end = _borrow_records(data, records, first, count, until_ns, &payloads, &table)
            start = <const uint8_t *>payloads.buf
            record = <const cr_packet_record *>table.buf
            self.unheard = True
            if end - first < GIL_MIN_PACKETS:
                i = self._receive_records(start, record, first, end, force)
            else:
                with nogil:
                    i = self._receive_records(start, record, first, end, force)
            return i - first
        finally:
            cr_release(&self.busy)
            buffers.release(&payloads)
            buffers.release(&table)

    cdef Py_ssize_t _receive_records(self, const uint8_t *start, const cr_packet_record *record, Py_ssize_t first,
                                     Py_ssize_t end, bint force) noexcept nogil:
        """Take the packets from `first` up to `end`; returns the number of the first that was not taken."""
        cdef Py_ssize_t i = first
        cr_track_fetch_room(self.track, STEP_MS)
        while i < end and cr_track_receive(self.track, start + record[i].offset, record[i].length, record[i].time_ns,
                                           force) == CR_RECEIVED:
            i += 1
        cr_track_fetch_reading(self.track, STEP_MS)
        if self.detector != NULL:
            cr_dtmf_prefetch(self.detector, self.detector)
        return i

    def push(self, pcm, int64_t arrival_ns):
        """Take 16-bit PCM from the host, its first sample at `arrival_ns`; returns the number of samples taken.

        It is counted in pieces of 20 ms; those that find the memory full of unread audio are discarded and counted.
        """
        cdef Py_buffer view
        cdef Py_ssize_t samples, done = 0, taken = 0, most
        if not self.host_frames:
            raise TypeError("this receiver takes RTP; create it with host_frames=True for PCM")
        _enter(&self.busy)
        buffers.clear(&view)
        try:
            buffers.borrow_pcm(pcm, &view)
            samples = view.len // 2
            self.unheard = True
            while done < samples:
                most = min(samples - done, <Py_ssize_t>(self.track.sample_rate // 50))
                if cr_track_push(self.track, <const uint8_t *>view.buf + 2 * done, <uint32_t>most, arrival_ns,
                                 done) == CR_RECEIVED:
                    taken += most
                done += most
            return taken
        finally:
            cr_release(&self.busy)
            buffers.release(&view)

    def takes_frames(self, int64_t samples):
        """Whether there is room for so many samples of the host's; where not, audio must be read first."""
        cdef bint takes
        _enter(&self.busy)
        # Room for a piece of 20 ms is asked for again with each; the last must find what the largest packet needs.
        takes = cr_track_takes_frames(self.track, samples + CR_PACKET_MAX_MS * self.track.sample_rate // 1000)
        cr_release(&self.busy)
        return takes

    def leave_out(self):
        """Count a piece that came and that its host leaves out: as received, and as discarded."""
        _enter(&self.busy)
        self.track.counts.received += 1
        self.track.counts.discarded += 1
        cr_release(&self.busy)

    def settle(self):
        """Say that nothing is awaited that could tell a pause of the sender's from a queue."""
        _enter(&self.busy)
        cr_track_settle(self.track)
        cr_release(&self.busy)

    def finish(self):
        """Say that no packet will come any more: all that arrived is final."""
        _enter(&self.busy)
        cr_track_finish(self.track)
        self.unheard = True
        cr_release(&self.busy)

    def ready(self, int64_t now_ns):
        """The position up to which the timeline is final at time `now_ns`: later packets could not change it."""
        return self._ready(now_ns)

    cdef int64_t _ready(self, int64_t now_ns) except? -1:
        cdef int64_t position
        _enter(&self.busy)
        position = cr_track_ready(self.track, now_ns)
        cr_release(&self.busy)
        return position

    @property
    def complete(self):
        """The position up to which nothing is missing and nothing in doubt, 100 ms behind what has come.

        Whoever cannot wait for `ready` may read so far; later packets could change it only by what they tell of the
        sender's clock.
        """
        cdef int64_t position
        _enter(&self.busy)
        position = cr_track_complete(self.track)
        cr_release(&self.busy)
        return position

    def read(self, int64_t until):
        """The timeline from `position` up to `until` as 16-bit PCM, gaps filled; moves `position` there."""
        return self._read(until)

    cdef bytes _read(self, int64_t until):
        cdef char *start = NULL
        cdef int64_t begin, samples
        cdef list pieces = None
        _enter(&self.busy)
        try:
            begin = self.track.position
            if until <= begin:
                return b""
            samples = until - begin
            if samples > MAX_READ_SAMPLES:
                raise ValueError(f"{samples} samples at once: read at most {MAX_READ_SAMPLES}")
            if self.unheard:
                pieces = self._hear(False)
            result = buffers.new_bytes(<Py_ssize_t>samples * 2, &start)
            if samples < buffers.GIL_MIN_SAMPLES:
                cr_track_read(self.track, until, <int16_t *>start)
            else:
                with nogil:
                    cr_track_read(self.track, until, <int16_t *>start)
            if self.track.gap_count:
                self._note_gaps()
        finally:
            cr_release(&self.busy)
        _tell(self.hearers, pieces)
        if self.readers:
            _tell(self.readers, [(begin, result)])
        return result

    def preview(self, int64_t begin, int64_t until):
        """What has come by now of the timeline from `begin` up to `until`; `position` stays, later it may be better.

        It is silent where nothing has come; nothing is repaired or resampled, and what has been read is gone.
        """
        return self._preview(begin, until)

    cdef bytes _preview(self, int64_t begin, int64_t until):
        cdef char *start = NULL
        if not 0 <= begin <= until or until - begin > MAX_READ_SAMPLES:
            raise ValueError(f"from {begin} up to {until}: at most {MAX_READ_SAMPLES} samples, the first ones first")
        result = buffers.new_bytes(<Py_ssize_t>(until - begin) * 2, &start)
        _enter(&self.busy)
        cr_track_preview(self.track, begin, until, <int16_t *>start)
        cr_release(&self.busy)
        return result

    def skip(self, int64_t until):
        """Move `position` to `until`; nothing is kept, but it is listened for keys, and `on_read` is told."""
        self._skip(until)

    cdef int _skip(self, int64_t until) except -1:
        cdef list pieces = None
        if self.readers:
            self._read(until)
            return 0
        _enter(&self.busy)
        try:
            if self.unheard:
                pieces = self._hear(False)
            cr_track_read(self.track, until, NULL)
        finally:
            cr_release(&self.busy)
        _tell(self.hearers, pieces)
        return 0

    cdef int _note_gaps(self) except -1:
        """Take over the stretches lost in what was read; those that adjoin are one."""
        cdef cr_gap *gap
        cdef int64_t position, samples
        cdef uint32_t i
        for i in range(self.track.gap_count):
            gap = &self.track.gaps[i]
            if self.lost is None:
                self.lost = []
            if self.lost:
                position, samples = self.lost[len(self.lost) - 1]
                if -GAP_SLACK_SAMPLES <= position + samples - gap.position <= GAP_SLACK_SAMPLES:
                    self.lost[len(self.lost) - 1] = (position, gap.position + gap.samples - position)
                    continue
            if len(self.lost) < MAX_GAPS:
                self.lost.append((gap.position, gap.samples))
        self.track.gap_count = 0
        return 0

    def hear(self):
        """Audio that arrived since the last call, in order, as a list of (position, pcm): for detectors.

        It comes long before `ready`, as soon as nothing before it is missing, or 40 ms of later audio have come.
        """
        cdef int16_t pcm[HEAR_SAMPLES]
        cdef int64_t position = 0
        cdef uint32_t samples
        heard = []
        _enter(&self.busy)
        try:
            while True:
                samples = cr_track_hear(self.track, pcm, HEAR_SAMPLES, HEAR_PATIENCE_MS, &position)
                if not samples:
                    return heard
                heard.append((position, <bytes>(<char *>pcm)[:2 * samples]))
        finally:
            cr_release(&self.busy)

    def listen(self, *, bint final=False):
        """Listen for keys in what `hear` would give; whether there are any that ended, for `tones` or `digits`.

        What was not heard by the time it is skipped counts as silence. With `final` a key that still sounds ends.
        """
        return self._listen(final)

    cdef bint _listen(self, bint final) except -1:
        cdef list pieces
        cdef bint found
        _enter(&self.busy)
        try:
            pieces = self._hear(final)
            found = self.ended_tones.count or self.track.digit_count
        finally:
            cr_release(&self.busy)
        _tell(self.hearers, pieces)
        return found

    cdef list _hear(self, bint final):
        """Let the detector hear what has come; returns it, as `hear` does, if `on_hear` is to be told."""
        cdef int16_t pcm[HEAR_SAMPLES]
        cdef int64_t position = 0, gap
        cdef uint32_t samples
        cdef list pieces = [] if self.hearers else None
        cdef size_t before
        if not self.detects_digits and pieces is None:
            return None
        self.unheard = False
        while True:
            samples = cr_track_hear(self.track, pcm, HEAR_SAMPLES, HEAR_PATIENCE_MS, &position)
            if not samples:
                break
            if pieces is not None:
                pieces.append((position, <bytes>(<char *>pcm)[:2 * samples]))
            if not self.detects_digits:
                continue
            if self.detector == NULL:
                self.detector = _new_detector(self.track.sample_rate)
            gap = position - cr_dtmf_position(self.detector) - self.detector_offset
            if gap > SLACK_SAMPLES:
                self._pass_over(gap)
            else:
                self.detector_offset += gap
            before = self.ended_tones.count
            cr_dtmf_feed(self.detector, <const uint8_t *>pcm, samples, &self.ended_tones)
            self._place(before)
        if self.detector == NULL:
            self.heard = self.track.position
            return pieces
        gap = self.track.position - cr_dtmf_position(self.detector) - self.detector_offset
        if gap > 0:
            self._pass_over(gap)
        if final:
            before = self.ended_tones.count
            cr_dtmf_flush(self.detector, &self.ended_tones)
            self._place(before)
        self.heard = cr_dtmf_position(self.detector) + self.detector_offset
        if self.ended_tones.out_of_memory:
            self.ended_tones.out_of_memory = False
            raise MemoryError
        return pieces

    cdef int _pass_over(self, int64_t samples) except -1:
        cdef size_t before = self.ended_tones.count
        if samples > (<int64_t>1 << MAX_POSITION_BITS) - cr_dtmf_position(self.detector):
            raise OverflowError(f"{samples} more samples pass the last position a detector can count")
        cr_dtmf_skip(self.detector, <uint64_t>samples, &self.ended_tones)
        self._place(before)
        return 0

    cdef void _place(self, size_t first) noexcept:
        """Turn the detector's positions into the timeline's, from digit `first` on."""
        while first < self.ended_tones.count:
            self.ended_tones.items[first].start += self.detector_offset
            first += 1

    def tones(self):
        """Keys heard that have ended since the last call, as a list of (symbol, position, duration_samples)."""
        cdef cr_dtmf_digit *digit
        cdef size_t i
        ended = []
        _enter(&self.busy)
        try:
            for i in range(self.ended_tones.count):
                digit = &self.ended_tones.items[i]
                ended.append((chr(digit.symbol), digit.start, digit.duration))
            self.ended_tones.count = 0
            return ended
        finally:
            cr_release(&self.busy)

    @property
    def on_hear(self):
        """Who is handed (position, pcm) of what is listened to."""
        if self.hearers is None:
            self.hearers = []
        return self.hearers

    @property
    def on_read(self):
        """Who is handed (position, pcm) of what is read or skipped."""
        if self.readers is None:
            self.readers = []
        return self.readers

    @property
    def sounding(self):
        """The key heard right now, as (symbol, position), or None: at most 60 ms after 40 ms of it have come."""
        cdef cr_dtmf_digit digit
        _enter(&self.busy)
        try:
            if self.detector == NULL or not cr_dtmf_active(self.detector, &digit):
                return None
            return chr(digit.symbol), digit.start + self.detector_offset
        finally:
            cr_release(&self.busy)

    def digits(self):
        """Telephone events that have ended since the last call, as a list of (symbol, position, duration_samples)."""
        cdef cr_event_digit *digit
        cdef uint32_t i
        ended = []
        _enter(&self.busy)
        try:
            for i in range(self.track.digit_count):
                digit = &self.track.digits[i]
                ended.append((DIGITS[digit.code], digit.position, digit.duration))
            self.track.digit_count = 0
            return ended
        finally:
            cr_release(&self.busy)

    def gaps(self):
        """Stretches read so far whose audio was lost, as a list of (position, samples), in order: the first 1,000.

        They were concealed, or silent when long.
        """
        _enter(&self.busy)
        try:
            return list(self.lost or ())
        finally:
            cr_release(&self.busy)

    @property
    def sample_rate(self):
        """Samples a second of the timeline."""
        return self.track.sample_rate

    @property
    def position(self):
        """The next timeline sample to be read."""
        cdef int64_t position
        _enter(&self.busy)
        position = self.track.position
        cr_release(&self.busy)
        return position

    @property
    def end(self):
        """One past the last timeline sample that has arrived, or `position`."""
        return self._end()

    cdef int64_t _end(self) except? -1:
        cdef int64_t end
        _enter(&self.busy)
        end = cr_track_end_position(self.track)
        cr_release(&self.busy)
        return end

    @property
    def ssrcs(self):
        """The sources heard, in order of their first packet (at most 16 are kept)."""
        _enter(&self.busy)
        try:
            return tuple([self.track.ssrcs[i] for i in range(self.track.ssrc_count)])
        finally:
            cr_release(&self.busy)

    @property
    def payload_types_seen(self):
        """The payload types of the packets received, in order of their number."""
        cdef uint64_t seen[2]
        _enter(&self.busy)
        seen[0], seen[1] = self.track.payload_types_seen[0], self.track.payload_types_seen[1]
        cr_release(&self.busy)
        return tuple([n for n in range(128) if seen[n // 64] >> (n % 64) & 1])

    @property
    def counts(self):
        """Packets by fate.

        `received` counts every RTP packet that arrived, duplicates and late ones included; `lost` those that never
        came; `undecoded` those of an unknown payload type; `discarded` those of a second source at the same time, or
        that found no room.
        """
        cdef cr_track_counts c
        cdef int64_t lost
        _enter(&self.busy)
        c = self.track.counts
        lost = cr_track_lost(self.track)
        cr_release(&self.busy)
        return {
            "received": c.received,
            "lost": lost,
            "duplicate": c.duplicate,
            "late": c.late,
            "malformed": c.malformed,
            "reordered": c.reordered,
            "undecoded": c.undecoded,
            "discarded": c.discarded,
        }

    @property
    def sender_reports(self):
        """RTCP sender reports that came with the stream."""
        cdef uint64_t reports
        _enter(&self.busy)
        reports = self.track.counts.sender_reports
        cr_release(&self.busy)
        return reports

    @property
    def concealed_samples(self):
        """Samples read that were made up from the audio around a loss."""
        cdef uint64_t samples
        _enter(&self.busy)
        samples = self.track.counts.concealed_samples
        cr_release(&self.busy)
        return samples

    @property
    def silence_samples(self):
        """Samples read that were silent because there was no audio."""
        cdef uint64_t samples
        _enter(&self.busy)
        samples = self.track.counts.silence_samples
        cr_release(&self.busy)
        return samples

    @property
    def drift_ppm(self):
        """How fast the sender's clock runs against ours, or None before 10 s were seen; positive: fast."""
        cdef cr_drift drift
        _enter(&self.busy)
        drift = self.track.drift
        cr_release(&self.busy)
        return 0.0 - 1e6 * drift.rate if drift.rate_known else None

    @property
    def alignment_error_ms(self):
        """The farthest any audio stood from where the sender's clock puts it, as far as arrivals tell."""
        cdef double samples
        _enter(&self.busy)
        samples = cr_track_alignment_error(self.track)
        cr_release(&self.busy)
        return 1e3 * samples / self.track.sample_rate


cdef tuple RECEIVE = ("packet", "arrival_ns", "force")

cdef object _call_receive(PyObject *receiver, PyObject **args, Py_ssize_t count, PyObject *names):
    cdef PyObject *found[3]
    fastcall.sort("receive", RECEIVE, 2, args, count, names, found)
    return (<Receiver>receiver)._receive(
        <object>found[0], <object>found[1], found[2] != NULL and <object>found[2])

cdef tuple RECEIVE_BATCH = ("data", "records", "first", "count", "until_ns", "force")

cdef object _call_receive_batch(PyObject *receiver, PyObject **args, Py_ssize_t count, PyObject *names):
    cdef PyObject *found[6]
    cdef bint timeless
    fastcall.sort("receive_batch", RECEIVE_BATCH, 2, args, count, names, found)
    timeless = found[4] == NULL or found[4] == <PyObject *>None
    return (<Receiver>receiver)._receive_batch(
        <object>found[0],
        <object>found[1],
        0 if found[2] == NULL else <object>found[2],
        None if found[3] == NULL else <object>found[3],
        INT64_MAX if timeless else <object>found[4],
        found[5] != NULL and <object>found[5],
    )

cdef fastcall.PyMethodDef _receive_def = fastcall.method(
    b"receive", <fastcall.fastcall_fn>_call_receive,
    b"receive($self, packet, arrival_ns, force=False)\n--\n\n"
    b"Take one datagram: RTP, or RTCP of the same port. Wire faults are counted, not raised.\n\n"
    b"Returns False, and takes nothing, when the memory is full of unread audio: read, then offer it again. With\n"
    b"`force` a packet that finds no room is counted as discarded.",
)
cdef fastcall.PyMethodDef _receive_batch_def = fastcall.method(
    b"receive_batch", <fastcall.fastcall_fn>_call_receive_batch,
    b"receive_batch($self, data, records, first=0, count=None, until_ns=None, force=False)\n--\n\n"
    b"Take many datagrams at once: packet records (`pcap.DTYPE`) over one buffer of payloads.\n\n"
    b"`first` and `count` choose some of the records; of these, taking stops before the first one later than\n"
    b"`until_ns`. Returns how many were taken: fewer also when the memory is full of unread audio. With `force`\n"
    b"those that find no room are counted as discarded.",
)
fastcall.add_method(Receiver, &_receive_def)
fastcall.add_method(Receiver, &_receive_batch_def)


cdef int _tell(list takers, list pieces) except -1:
    """Hand pieces of audio to everyone who wants them. Nobody is inside the receiver: they may ask it."""
    if pieces:
        for take in list(takers):
            for position, audio in pieces:
                take(position, audio)
    return 0


@cython.final
cdef class Pair:
    """Two receivers that are read side by side: what a participant says, and what they hear."""

    cdef Receiver left
    cdef Receiver right
    cdef int busy

    def __cinit__(self, Receiver left not None, Receiver right not None):
        self.left = left
        self.right = right

    cdef bint _listen(self, bint final) except -1:
        cdef bint left, right
        _enter(&self.busy)
        try:
            left = self.left._listen(final)
            right = self.right._listen(final)
            return left or right
        finally:
            cr_release(&self.busy)

    cdef bytes _read(self, int64_t until):
        cdef bytes left, right
        cdef char *start = NULL
        cdef Py_ssize_t size
        _enter(&self.busy)
        try:
            left = self.left._read(until)
            right = self.right._read(until)
        finally:
            cr_release(&self.busy)
        size = len(left)
        if size != len(right):
            raise UsageError("these receivers are not read side by side")
        result = buffers.new_bytes(2 * size, &start)
        cr_pcm.interleave(<uint8_t *>start, <const uint8_t *><const char *>left, <const uint8_t *><const char *>right,
                          <size_t>size // 2)
        return result

    cdef bytes _preview(self, int64_t begin, int64_t until):
        cdef char *start = NULL
        cdef bytes left, right
        _enter(&self.busy)
        try:
            left = self.left._preview(begin, until)
            right = self.right._preview(begin, until)
        finally:
            cr_release(&self.busy)
        result = buffers.new_bytes(2 * len(left), &start)
        cr_pcm.interleave(<uint8_t *>start, <const uint8_t *><const char *>left, <const uint8_t *><const char *>right,
                          <size_t>len(left) // 2)
        return result

    def skip(self, int64_t until):
        """Move `position` to `until` on both."""
        _enter(&self.busy)
        try:
            self.left._skip(until)
            self.right._skip(until)
        finally:
            cr_release(&self.busy)

    @property
    def position(self):
        """The next sample to be read."""
        cdef int64_t position
        _enter(&self.left.busy)
        position = self.left.track.position
        cr_release(&self.left.busy)
        return position

    @property
    def end(self):
        """One past the last sample that has arrived on either, or `position`."""
        return max(self.left._end(), self.right._end())

    @property
    def sounding_since(self):
        """Where the key begins that is heard on the left right now, or None."""
        sounding = self.left.sounding
        return None if sounding is None else sounding[1]


# Every step of a call asks these: see fastcall.pxd.
cdef tuple LISTEN = ("final",), PREVIEW = ("begin", "until")

cdef object _call_pair_listen(PyObject *pair, PyObject **args, Py_ssize_t count, PyObject *names):
    cdef PyObject *found[1]
    fastcall.sort("listen", LISTEN, 0, args, count, names, found)
    return (<Pair>pair)._listen(found[0] != NULL and <object>found[0])

cdef object _call_pair_ready(PyObject *pair, PyObject **args, Py_ssize_t count, PyObject *names):
    cdef int64_t now_ns = fastcall.only("ready", "now_ns", args, count, names)
    return min((<Pair>pair).left._ready(now_ns), (<Pair>pair).right._ready(now_ns))

cdef object _call_pair_read(PyObject *pair, PyObject **args, Py_ssize_t count, PyObject *names):
    return (<Pair>pair)._read(fastcall.only("read", "until", args, count, names))

cdef object _call_pair_preview(PyObject *pair, PyObject **args, Py_ssize_t count, PyObject *names):
    cdef PyObject *found[2]
    fastcall.sort("preview", PREVIEW, 2, args, count, names, found)
    return (<Pair>pair)._preview(<object>found[0], <object>found[1])

cdef fastcall.PyMethodDef _pair_listen_def = fastcall.method(
    b"listen", <fastcall.fastcall_fn>_call_pair_listen,
    b"listen($self, final=False)\n--\n\nListen for keys on both; whether one has any that ended.",
)
cdef fastcall.PyMethodDef _pair_ready_def = fastcall.method(
    b"ready", <fastcall.fastcall_fn>_call_pair_ready,
    b"ready($self, now_ns)\n--\n\nThe position up to which both are final at `now_ns`.",
)
cdef fastcall.PyMethodDef _pair_read_def = fastcall.method(
    b"read", <fastcall.fastcall_fn>_call_pair_read,
    b"read($self, until)\n--\n\nBoth from `position` up to `until`, woven into stereo.",
)
cdef fastcall.PyMethodDef _pair_preview_def = fastcall.method(
    b"preview", <fastcall.fastcall_fn>_call_pair_preview,
    b"preview($self, begin, until)\n--\n\n"
    b"What has come by now of both from `begin` up to `until`, woven into stereo; `position` stays.",
)
fastcall.add_method(Pair, &_pair_listen_def)
fastcall.add_method(Pair, &_pair_ready_def)
fastcall.add_method(Pair, &_pair_read_def)
fastcall.add_method(Pair, &_pair_preview_def)


class Run(NamedTuple):
    """What one source sent in one go, without a pause of a minute."""

    ssrc: int
    first_ns: int
    last_ns: int
    packets: int
    lost: int
    duplicate: int
    reordered: int
    orderly: int
    cut: int
    early_ns: int
    payload_types: tuple


@cython.final
cdef class Survey:
    """What a flow of datagrams holds, without decoding it: is it RTP, from whom, when, in which payload types."""

    cdef cr_survey survey
    cdef int busy

    def receive_batch(self, data, records, Py_ssize_t first=0, count=None):
        """Look at packet records (`pcap.DTYPE`) over one buffer of payloads."""
        cdef Py_buffer payloads, table
        cdef const cr_packet_record *record
        cdef const uint8_t *start
        cdef Py_ssize_t end, i
        _enter(&self.busy)
        buffers.clear(&payloads)
        buffers.clear(&table)
        try:
            end = _borrow_records(data, records, first, count, INT64_MAX, &payloads, &table)
            start = <const uint8_t *>payloads.buf
            record = <const cr_packet_record *>table.buf
            with nogil:
                for i in range(first, end):
                    cr_survey_receive(&self.survey, start + record[i].offset, record[i].length, record[i].time_ns,
                                      record[i].flags & CR_RECORD_CUT)
        finally:
            cr_release(&self.busy)
            buffers.release(&payloads)
            buffers.release(&table)

    @property
    def runs(self):
        """What the sources sent, in order of their first packets."""
        cdef cr_survey_run *run
        cdef uint32_t i
        found = []
        _enter(&self.busy)
        try:
            for i in range(self.survey.run_count):
                run = &self.survey.runs[i]
                types = tuple(n for n in range(128) if run.payload_types[n // 64] >> (n % 64) & 1)
                found.append(Run(run.ssrc, run.first_ns, run.last_ns, run.packets,
                                 run.lost_before + cr_sequence_lost(&run.sequence), run.duplicate, run.reordered,
                                 run.orderly, run.cut, cr_survey_early_ns(run), types))
            return found
        finally:
            cr_release(&self.busy)

    @property
    def event_payload_types(self):
        """Payload types whose packets are telephone events by all they show: each is one, none contradicts another."""
        cdef cr_survey_type *t
        cdef uint32_t i
        found = []
        _enter(&self.busy)
        try:
            for i in range(self.survey.type_count):
                t = &self.survey.types[i]
                if t.payload_type >= 96 and t.packets == t.events and t.repeats:
                    found.append(t.payload_type)
            return tuple(sorted(found))
        finally:
            cr_release(&self.busy)

    @property
    def rtcp(self):
        """RTCP packets seen."""
        cdef uint64_t packets
        _enter(&self.busy)
        packets = self.survey.rtcp
        cr_release(&self.busy)
        return packets

    @property
    def malformed(self):
        """Datagrams that begin like RTP and are not."""
        cdef uint64_t packets
        _enter(&self.busy)
        packets = self.survey.malformed
        cr_release(&self.busy)
        return packets
