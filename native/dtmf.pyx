"""DTMF digits in PCM audio (ITU-T Q.23, Q.24): where each starts, how long it lasts, how loud it is."""

from typing import NamedTuple

cimport buffers
cimport cython
cimport fastcall
cimport isa
from cpython.list cimport PyList_New
from cpython.object cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport int16_t, int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from tones cimport (
    CR_DTMF_MAX_RATE, CR_DTMF_MIN_RATE, MAX_POSITION_BITS, cr_dtmf, cr_dtmf_active, cr_dtmf_digit, cr_dtmf_digits,
    cr_dtmf_feed, cr_dtmf_flush, cr_dtmf_init, cr_dtmf_plan, cr_dtmf_plan_init, cr_dtmf_plan_room, cr_dtmf_position,
    cr_dtmf_prefetch, cr_dtmf_raw_samples, cr_dtmf_skip, cr_dtmf_version, cr_dtmf_version_for,
)

from callreel.errors import UsageError


cdef int64_t MAX_POSITION = <int64_t>1 << MAX_POSITION_BITS


class Digit(NamedTuple):
    """A key that was pressed; comparable by value."""

    symbol: str
    start: int
    duration: int
    level_dbm0: float
    twist_db: float


cdef object _new_tuple = tuple.__new__  # a named tuple's own constructor takes three times as long


cdef object _digit(const cr_dtmf_digit *digit):
    return _new_tuple(
        Digit, (chr(digit.symbol), digit.start, digit.duration, digit.level_dbm0, digit.twist_db)
    )


cdef list _digits(cr_dtmf_digits *found):
    cdef size_t i
    if found.count == 0 and not found.out_of_memory:
        return PyList_New(0)
    if found.out_of_memory:
        raise MemoryError
    return [_digit(&found.items[i]) for i in range(found.count)]


cdef list _digits_of_channels(cr_dtmf_digits *found):
    cdef size_t i
    if found.out_of_memory:
        raise MemoryError
    return [(found.items[i].channel, _digit(&found.items[i])) for i in range(found.count)]


cdef uint32_t _rate(object sample_rate) except 0:
    cdef int rate = sample_rate
    if rate < CR_DTMF_MIN_RATE or rate > CR_DTMF_MAX_RATE:
        raise ValueError(f"sample_rate={rate}: need {CR_DTMF_MIN_RATE} to {CR_DTMF_MAX_RATE} Hz")
    return <uint32_t>rate


cdef const cr_dtmf_version *_version = cr_dtmf_version_for(isa.in_use())


def _use(str name):
    """Make Detectors from now on with the version for this instruction set; whose it is. For tests."""
    global _version
    cdef isa.cr_isa wanted = isa.cr_isa_named(name.encode())
    if wanted == isa.CR_ISA_COUNT or not isa.cr_cpu_has(wanted):
        raise ValueError(f"this machine has no {name}")
    _version = cr_dtmf_version_for(wanted)
    _plans.clear()
    return isa.cr_isa_name(_version.isa).decode()


cdef class _Plan:
    """What all Detectors of one rate share: 6 KB of tables at 8 kHz, 32 KB at 48 kHz."""

    cdef cr_dtmf_plan plan
    cdef int16_t *memory

    def __cinit__(self, uint32_t rate):
        self.memory = <int16_t *>calloc(cr_dtmf_plan_room(rate), sizeof(int16_t))
        if self.memory == NULL:
            raise MemoryError
        cr_dtmf_plan_init(&self.plan, rate, _version, self.memory)

    def __dealloc__(self):
        free(self.memory)


cdef dict _plans = {}


cdef _Plan _plan(object sample_rate):
    cdef uint32_t rate = _rate(sample_rate)
    cdef _Plan made = _plans.get(rate)
    if made is None:
        made = _Plan(rate)
        if len(_plans) >= 16:  # nobody uses so many rates; who tries them all shall not fill the memory
            _plans.clear()
        _plans[rate] = made
    return made


cdef class Detector:
    """Finds the DTMF digits of one channel, fed in any pieces.

    The digits found depend on the samples fed and not on how they were cut. A Detector belongs to one thread
    at a time.
    """

    cdef cr_dtmf state
    cdef _Plan plan
    cdef int16_t *raw
    cdef bint busy

    def __cinit__(self, sample_rate=8000):
        self.plan = _plan(sample_rate)
        self.raw = <int16_t *>calloc(cr_dtmf_raw_samples(&self.plan.plan), sizeof(int16_t))
        if self.raw == NULL:
            raise MemoryError
        cr_dtmf_init(&self.state, &self.plan.plan, self.raw)

    def __dealloc__(self):
        free(self.raw)

    cdef int _enter(self) except -1:
        # Without the GIL another thread could change the state in mid-block.
        if self.busy:
            raise UsageError("this Detector is being fed by another thread")
        self.busy = True
        return 0

    cdef int _need_room(self, int64_t samples) except -1:
        if samples > MAX_POSITION - cr_dtmf_position(&self.state):
            raise OverflowError(f"{samples} more samples pass the last position a Detector can count")
        return 0

    @cython.critical_section
    cdef object _feed(self, object pcm):
        cdef Py_buffer view
        cdef cr_dtmf_digits found
        cdef size_t samples
        buffers.clear(&view)
        memset(&found, 0, sizeof(found))
        self._enter()
        try:
            buffers.borrow_pcm(pcm, &view)
            samples = <size_t>view.len // 2
            self._need_room(<int64_t>samples)
            if samples < buffers.GIL_MIN_SAMPLES:
                cr_dtmf_feed(&self.state, <const uint8_t *>view.buf, samples, &found)
            else:
                with nogil:
                    cr_dtmf_feed(&self.state, <const uint8_t *>view.buf, samples, &found)
            return _digits(&found)
        finally:
            self.busy = False
            buffers.release(&view)
            free(found.items)

    @cython.critical_section
    def skip(self, samples):
        """Pass over audio that is missing, as if so many zeros were fed; the digits that ended, as a list."""
        cdef cr_dtmf_digits found
        cdef int64_t count = samples
        if count < 0:
            raise ValueError(f"cannot skip {count} samples")
        memset(&found, 0, sizeof(found))
        self._enter()
        try:
            self._need_room(count)
            cr_dtmf_skip(&self.state, <uint64_t>count, &found)
            return _digits(&found)
        finally:
            self.busy = False
            free(found.items)

    @cython.critical_section
    def flush(self):
        """End the stream: the digit that still sounds, if any. Later feeds start afresh at this position."""
        cdef cr_dtmf_digits found
        memset(&found, 0, sizeof(found))
        self._enter()
        try:
            cr_dtmf_flush(&self.state, &found)
            return _digits(&found)
        finally:
            self.busy = False
            free(found.items)

    @property
    @cython.critical_section
    def active(self):
        """The digit that sounds now, with its duration so far, or None."""
        cdef cr_dtmf_digit digit
        self._enter()
        try:
            return _digit(&digit) if cr_dtmf_active(&self.state, &digit) else None
        finally:
            self.busy = False

    @property
    @cython.critical_section
    def position(self):
        """Samples fed and skipped so far."""
        self._enter()
        try:
            return cr_dtmf_position(&self.state)
        finally:
            self.busy = False

    @property
    def sample_rate(self):
        """Samples a second, as given."""
        return self.plan.plan.rate


# One call per packet is the use it is made for: see fastcall.pxd.


cdef object _call_feed(PyObject *self, PyObject **args, Py_ssize_t count, PyObject *names):
    return (<Detector>self)._feed(fastcall.only("feed", "pcm", args, count, names))


cdef fastcall.PyMethodDef _feed = fastcall.method(
    b"feed",
    _call_feed,
    b"feed($self, pcm)\n--\n\nListen to 16-bit PCM; the digits that ended in it, as a list.",
)
fastcall.add_method(Detector, &_feed)


cdef class Bank:
    """Detectors for many channels, fed together: a packet of each in one call, without the GIL.

    Finds what one Detector each would find. A Bank belongs to one thread at a time.
    """

    cdef _Plan plan
    cdef char *memory
    cdef char *first  # channel 0, where a line of the cache begins
    cdef size_t stride  # bytes from one channel's state to the next; its samples lie behind it
    cdef size_t count
    cdef int64_t furthest  # no channel is further
    cdef bint busy

    def __cinit__(self, channels, sample_rate=8000):
        cdef Py_ssize_t wanted = channels
        cdef size_t i
        if wanted < 1:
            raise ValueError(f"channels={wanted}: need at least 1")
        self.plan = _plan(sample_rate)
        self.stride = sizeof(cr_dtmf) + cr_dtmf_raw_samples(&self.plan.plan) * sizeof(int16_t)
        self.stride = (self.stride + 63) // 64 * 64
        if <size_t>wanted > (<size_t>-1) // self.stride - 1:
            raise MemoryError
        self.memory = <char *>calloc(<size_t>wanted * self.stride + 64, 1)
        if self.memory == NULL:
            raise MemoryError
        self.first = self.memory + (64 - <uintptr_t>self.memory % 64) % 64
        self.count = <size_t>wanted
        for i in range(self.count):
            cr_dtmf_init(self.state(i), &self.plan.plan, <int16_t *>(<char *>self.state(i) + sizeof(cr_dtmf)))

    def __dealloc__(self):
        free(self.memory)

    cdef inline cr_dtmf *state(self, size_t channel) noexcept nogil:
        return <cr_dtmf *>(self.first + channel * self.stride)

    cdef int _enter(self) except -1:
        if self.busy:
            raise UsageError("this Bank is being fed by another thread")
        self.busy = True
        return 0

    cdef inline void _prefetch_after(self, size_t channel) noexcept nogil:
        if channel + 2 < self.count:
            cr_dtmf_prefetch(self.state(channel + 1), self.state(channel + 2))

    cdef void _feed_one(
        self, size_t channel, const uint8_t *pcm, size_t samples, cr_dtmf_digits *found
    ) noexcept nogil:
        cdef size_t before = found.count
        self._prefetch_after(channel)
        cr_dtmf_feed(self.state(channel), pcm, samples, found)
        while before < found.count:
            found.items[before].channel = channel
            before += 1

    @cython.critical_section
    def feed(self, audio):
        """Listen to the next audio of all channels; (channel, digit) for each digit that ended in it."""
        cdef Py_buffer view
        cdef Py_buffer *views = NULL
        cdef cr_dtmf_digits found
        cdef size_t i, taken = 0, samples, most = 0
        cdef list parts = None
        buffers.clear(&view)
        memset(&found, 0, sizeof(found))
        self._enter()
        try:
            if isinstance(audio, (list, tuple)):
                parts = list(audio)
                if <size_t>len(parts) != self.count:
                    raise ValueError(f"audio of {len(parts)} channels for a Bank of {self.count}")
                views = <Py_buffer *>calloc(self.count, sizeof(Py_buffer))
                if views == NULL:
                    raise MemoryError
                for part in parts:
                    taken += 1  # before borrowing: a cleared view may be released
                    buffers.borrow_pcm(part, &views[taken - 1])
                    samples = <size_t>views[taken - 1].len // 2
                    self._need_room(taken - 1, samples)
                    most = max(most, samples)
                self.furthest += <int64_t>most
                with nogil:
                    for i in range(self.count):
                        self._feed_one(i, <const uint8_t *>views[i].buf, <size_t>views[i].len // 2, &found)
            else:
                buffers.borrow_pcm(audio, &view)
                samples = <size_t>view.len // 2 // self.count
                if samples * self.count * 2 != <size_t>view.len:
                    raise ValueError(f"{view.len // 2} samples do not divide into {self.count} channels")
                if <int64_t>samples > MAX_POSITION - self.furthest:  # else not asked of each: they are far apart
                    for i in range(self.count):
                        self._need_room(i, samples)
                self.furthest += <int64_t>samples
                with nogil:
                    for i in range(self.count):
                        self._feed_one(i, <const uint8_t *>view.buf + 2 * i * samples, samples, &found)
            return _digits_of_channels(&found)
        finally:
            self.busy = False
            buffers.release(&view)
            for i in range(taken):
                buffers.release(&views[i])
            free(views)
            free(found.items)

    cdef int _need_room(self, size_t channel, size_t samples) except -1:
        if <int64_t>samples > MAX_POSITION - cr_dtmf_position(self.state(channel)):
            raise OverflowError(f"{samples} more samples pass the last position a Bank can count")
        return 0

    @cython.critical_section
    def flush(self):
        """End all streams: (channel, digit) for each that still sounds. Later feeds start afresh."""
        cdef cr_dtmf_digits found
        cdef size_t i, before
        memset(&found, 0, sizeof(found))
        self._enter()
        try:
            with nogil:
                for i in range(self.count):
                    before = found.count
                    self._prefetch_after(i)
                    cr_dtmf_flush(self.state(i), &found)
                    while before < found.count:
                        found.items[before].channel = i
                        before += 1
            return _digits_of_channels(&found)
        finally:
            self.busy = False
            free(found.items)

    @property
    def channels(self):
        """How many channels, as given."""
        return self.count

    @property
    def sample_rate(self):
        """Samples a second, as given."""
        return self.plan.plan.rate


def detect_many(channels, sample_rate=8000):
    """Find the digits of many channels, each a complete stream: a list of digits for each."""
    cdef _Plan plan = _plan(sample_rate)
    cdef list sources = list(channels)
    cdef size_t count = <size_t>len(sources), taken = 0, i
    cdef cr_dtmf state
    cdef Py_buffer *views = <Py_buffer *>calloc(count + 1, sizeof(Py_buffer))
    cdef cr_dtmf_digits *found = <cr_dtmf_digits *>calloc(count + 1, sizeof(cr_dtmf_digits))
    cdef int16_t *raw = <int16_t *>calloc(cr_dtmf_raw_samples(&plan.plan), sizeof(int16_t))
    try:
        if views == NULL or found == NULL or raw == NULL:
            raise MemoryError
        for source in sources:
            taken += 1  # before borrowing: a cleared view may be released
            buffers.borrow_pcm(source, &views[taken - 1])
        with nogil:
            for i in range(count):
                cr_dtmf_init(&state, &plan.plan, raw)
                cr_dtmf_feed(&state, <const uint8_t *>views[i].buf, <size_t>views[i].len // 2, &found[i])
                cr_dtmf_flush(&state, &found[i])
        return [_digits(&found[i]) for i in range(count)]
    finally:
        for i in range(taken):
            buffers.release(&views[i])
        if found != NULL:
            for i in range(count):
                free(found[i].items)
        free(views)
        free(found)
        free(raw)
