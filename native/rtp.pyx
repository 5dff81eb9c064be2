"""RTP: one stream's packets in, its true timeline out (RFC 3550, RFC 4733, RFC 3389).

The work is done in include/callreel/timeline.h; here are only the doors to it. A `Receiver` and a `Survey` belong to
one thread at a time; a second one that comes in meanwhile gets a UsageError.
"""

cimport cython
cimport buffers
cimport isa
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.stdint cimport INT64_MAX, int16_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from tones cimport (
    MAX_POSITION_BITS, cr_dtmf, cr_dtmf_active, cr_dtmf_digit, cr_dtmf_digits, cr_dtmf_feed, cr_dtmf_flush,
    cr_dtmf_init, cr_dtmf_plan, cr_dtmf_plan_init, cr_dtmf_plan_room, cr_dtmf_position, cr_dtmf_raw_samples,
    cr_dtmf_skip, cr_dtmf_version_for,
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
    ctypedef struct cr_segment:
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
        cr_event_digit digits[24]
        uint32_t digit_head, digit_count
        cr_gap gaps[64]
        uint32_t gap_count
        cr_track_counts counts

    enum:
        CR_CODEC_UNKNOWN, CR_CODEC_PCMU, CR_CODEC_PCMA, CR_CODEC_COMFORT_NOISE, CR_CODEC_TELEPHONE_EVENT
        CR_RECEIVED, CR_STORE_FULL
        CR_DIGITS, CR_PACKET_MAX_MS

    size_t cr_track_segments_for(uint32_t sample_rate, uint32_t capacity) noexcept
    void cr_track_init(cr_track *t, uint32_t sample_rate, int64_t origin_ns, uint32_t late_ms, uint32_t capacity,
                       uint32_t sample_bytes, uint8_t *samples, uint8_t *kinds, cr_segment *segments,
                       uint32_t segment_capacity) noexcept
    int cr_track_receive(cr_track *t, const uint8_t *data, size_t size_bytes, int64_t arrival_ns, int force) noexcept
    int cr_track_push(cr_track *t, const uint8_t *pcm, uint32_t samples, int64_t arrival_ns, int64_t offset) noexcept
    void cr_track_finish(cr_track *t) noexcept
    int64_t cr_track_ready(cr_track *t, int64_t now_ns) noexcept
    int64_t cr_track_end_position(const cr_track *t) noexcept
    void cr_track_read(cr_track *t, int64_t until, int16_t *pcm) noexcept
    uint32_t cr_track_hear(cr_track *t, int16_t *pcm, uint32_t room, uint32_t patience_ms, int64_t *position) noexcept
    int64_t cr_track_lost(const cr_track *t) noexcept
    double cr_track_alignment_error(const cr_track *t) noexcept
    void cr_timeline_use(isa.cr_isa isa) noexcept


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
    SLACK_SAMPLES = 8  # steps this small between two pieces are the clock correction at work, not a gap: 1 ms at 8 kHz
    MAX_READ_SAMPLES = 1 << 28


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
    raise UsageError("this Receiver or Survey is in use by another thread")


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
    cdef cr_dtmf *detector  # NULL: keys in the audio are not listened for
    cdef int64_t detector_offset  # from the detector's positions to the timeline's
    cdef readonly int64_t heard
    cdef int busy
    cdef readonly bint host_frames

    def __cinit__(self, payload_types=None, *, int64_t origin_ns=0, uint32_t sample_rate=8000, uint32_t late_ms=1000,
                  uint32_t capacity_ms=3600, bint host_frames=False, bint render_events=True,
                  bint detect_digits=False):
        cdef uint32_t capacity, sample_bytes = 2 if host_frames else 1
        cdef size_t segments, struct_bytes
        cdef uint8_t *block
        if not 8000 <= sample_rate <= 48000 or sample_rate % 1000:
            raise ValueError(f"sample_rate={sample_rate}: a whole number of kHz from 8000 to 48000 is needed")
        if not host_frames and sample_rate != 8000:
            raise ValueError("RTP G.711 is sampled at 8000 Hz")
        if late_ms > 10_000 or not late_ms + 2_000 <= capacity_ms <= 120_000:
            raise ValueError("late_ms up to 10000 and capacity_ms from late_ms + 2000 to 120000 are possible")
        capacity = (capacity_ms * (sample_rate // 1000) + 3) // 4 * 4  # the store needs whole bytes of kinds
        segments = cr_track_segments_for(sample_rate, capacity)
        struct_bytes = (sizeof(cr_track) + 15) // 16 * 16
        block = <uint8_t *>PyMem_Malloc(struct_bytes + segments * sizeof(cr_segment) + capacity * sample_bytes
                                        + capacity // 4)
        if block == NULL:
            raise MemoryError
        self.track = <cr_track *>block
        self.host_frames = host_frames
        cr_track_init(
            self.track, sample_rate, origin_ns, late_ms, capacity, sample_bytes,
            block + struct_bytes + segments * sizeof(cr_segment),
            block + struct_bytes + segments * sizeof(cr_segment) + capacity * sample_bytes,
            <cr_segment *>(block + struct_bytes), <uint32_t>segments,
        )
        self.track.render_events = render_events
        if detect_digits:
            self.detector = _new_detector(sample_rate)
        self.set_payload_types(STATIC_PAYLOAD_TYPES if payload_types is None else payload_types)

    def __dealloc__(self):
        PyMem_Free(self.track)
        PyMem_Free(self.detector)

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

    def receive(self, packet, int64_t arrival_ns, *, bint force=False):
        """Take one datagram: RTP, or RTCP of the same port. Wire faults are counted, not raised.

        Returns False, and takes nothing, when the memory is full of unread audio: read, then offer it again. With
        `force` a packet that finds no room is counted as discarded.
        """
        cdef Py_buffer view
        _enter(&self.busy)
        buffers.clear(&view)
        try:
            buffers.borrow_bytes(packet, &view)
            return cr_track_receive(self.track, <const uint8_t *>view.buf, <size_t>view.len, arrival_ns,
                                    force) == CR_RECEIVED
        finally:
            cr_release(&self.busy)
            buffers.release(&view)

    def receive_batch(self, data, records, Py_ssize_t first=0, count=None, *, until_ns=None, bint force=False):
        """Take many datagrams at once: packet records (`pcap.DTYPE`) over one buffer of payloads.

        `first` and `count` choose some of the records; of these, taking stops before the first one later than
        `until_ns`. Returns how many were taken: fewer also when the memory is full of unread audio. With `force` those
        that find no room are counted as discarded.
        """
        cdef Py_buffer payloads, table
        cdef const cr_packet_record *record
        cdef const uint8_t *start
        cdef Py_ssize_t end, i = first
        cdef int64_t until = INT64_MAX if until_ns is None else until_ns
        cdef int result = CR_RECEIVED
        _enter(&self.busy)
        buffers.clear(&payloads)
        buffers.clear(&table)
        try:
            end = _borrow_records(data, records, first, count, until, &payloads, &table)
            start = <const uint8_t *>payloads.buf
            record = <const cr_packet_record *>table.buf
            with nogil:
                while i < end:
                    result = cr_track_receive(self.track, start + record[i].offset, record[i].length,
                                              record[i].time_ns, force)
                    if result != CR_RECEIVED:
                        break
                    i += 1
            return i - first
        finally:
            cr_release(&self.busy)
            buffers.release(&payloads)
            buffers.release(&table)

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

    def finish(self):
        """Say that no packet will come any more: all that arrived is final."""
        _enter(&self.busy)
        cr_track_finish(self.track)
        cr_release(&self.busy)

    def ready(self, int64_t now_ns):
        """The position up to which the timeline is final at time `now_ns`: later packets could not change it."""
        cdef int64_t position
        _enter(&self.busy)
        position = cr_track_ready(self.track, now_ns)
        cr_release(&self.busy)
        return position

    def read(self, int64_t until):
        """The timeline from `position` up to `until` as 16-bit PCM, gaps filled; moves `position` there."""
        cdef char *start = NULL
        cdef int64_t samples
        _enter(&self.busy)
        try:
            if until <= self.track.position:
                return b""
            samples = until - self.track.position
            if samples > MAX_READ_SAMPLES:
                raise ValueError(f"{samples} samples at once: read at most {MAX_READ_SAMPLES}")
            result = buffers.new_bytes(<Py_ssize_t>samples * 2, &start)
            if samples < buffers.GIL_MIN_SAMPLES:
                cr_track_read(self.track, until, <int16_t *>start)
            else:
                with nogil:
                    cr_track_read(self.track, until, <int16_t *>start)
            return result
        finally:
            cr_release(&self.busy)

    def skip(self, int64_t until):
        """Move `position` to `until` without reading."""
        _enter(&self.busy)
        cr_track_read(self.track, until, NULL)
        cr_release(&self.busy)

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

    def listen(self, *, bint final=False, list pieces=None):
        """Listen for keys in what `hear` would give; those that ended: (symbol, position, duration_samples) each.

        What was not heard by the time it is read counts as silence. With `final` a key that still sounds ends. `pieces`
        takes what was heard, as `hear` gives it.
        """
        cdef int16_t pcm[HEAR_SAMPLES]
        cdef int64_t position = 0, gap
        cdef uint32_t samples
        cdef cr_dtmf_digits found
        memset(&found, 0, sizeof(found))
        _enter(&self.busy)
        try:
            while True:
                samples = cr_track_hear(self.track, pcm, HEAR_SAMPLES, HEAR_PATIENCE_MS, &position)
                if not samples:
                    break
                if pieces is not None:
                    pieces.append((position, <bytes>(<char *>pcm)[:2 * samples]))
                if self.detector == NULL:
                    continue
                gap = position - cr_dtmf_position(self.detector) - self.detector_offset
                if gap > SLACK_SAMPLES:
                    self._pass_over(gap, &found)
                else:
                    self.detector_offset += gap
                self._feed(<const uint8_t *>pcm, samples, &found)
            if self.detector == NULL:
                return []
            gap = self.track.position - cr_dtmf_position(self.detector) - self.detector_offset
            if gap > 0:
                self._pass_over(gap, &found)
            if final:
                samples = <uint32_t>found.count
                cr_dtmf_flush(self.detector, &found)
                self._place(samples, &found)
            self.heard = cr_dtmf_position(self.detector) + self.detector_offset
            if found.out_of_memory:
                raise MemoryError
            return [(chr(found.items[i].symbol), found.items[i].start, found.items[i].duration)
                    for i in range(found.count)]
        finally:
            free(found.items)
            cr_release(&self.busy)

    cdef void _feed(self, const uint8_t *pcm, uint32_t samples, cr_dtmf_digits *found) noexcept:
        cdef size_t before = found.count
        cr_dtmf_feed(self.detector, pcm, samples, found)
        self._place(before, found)

    cdef int _pass_over(self, int64_t samples, cr_dtmf_digits *found) except -1:
        cdef size_t before = found.count
        if samples > (<int64_t>1 << MAX_POSITION_BITS) - cr_dtmf_position(self.detector):
            raise OverflowError(f"{samples} more samples pass the last position a detector can count")
        cr_dtmf_skip(self.detector, <uint64_t>samples, found)
        self._place(before, found)
        return 0

    cdef void _place(self, size_t first, cr_dtmf_digits *found) noexcept:
        """Turn the detector's positions into the timeline's, from digit `first` on."""
        while first < found.count:
            found.items[first].start += self.detector_offset
            first += 1

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
        ended = []
        _enter(&self.busy)
        try:
            while self.track.digit_count:
                digit = &self.track.digits[self.track.digit_head]
                ended.append((DIGITS[digit.code], digit.position, digit.duration))
                self.track.digit_head = (self.track.digit_head + 1) % CR_DIGITS
                self.track.digit_count -= 1
            return ended
        finally:
            cr_release(&self.busy)

    def gaps(self):
        """Stretches read since the last call whose audio was lost, as a list of (position, samples), in order.

        They were concealed, or silent when long. At most 64 are kept between two calls.
        """
        _enter(&self.busy)
        try:
            lost = [(self.track.gaps[i].position, self.track.gaps[i].samples) for i in range(self.track.gap_count)]
            self.track.gap_count = 0
            return lost
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
