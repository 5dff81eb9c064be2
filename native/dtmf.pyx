"""DTMF digits in PCM audio (ITU-T Q.23, Q.24): where each starts, how long it lasts, how loud it is."""

from typing import NamedTuple

cimport buffers
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from callreel.errors import UsageError


cdef extern from "callreel/dtmf.h" nogil:
    enum:
        CR_DTMF_MIN_RATE
        CR_DTMF_MAX_RATE
    ctypedef struct cr_dtmf_digit:
        int64_t start
        int64_t duration
        double level_dbm0
        double twist_db
        char symbol
    ctypedef struct cr_dtmf_digits:
        cr_dtmf_digit *items
        size_t count
        int out_of_memory
    ctypedef struct cr_dtmf:
        uint32_t rate
    void cr_dtmf_init(cr_dtmf *state, uint32_t rate) noexcept
    void cr_dtmf_feed(cr_dtmf *state, const uint8_t *pcm, size_t samples, cr_dtmf_digits *found) noexcept
    void cr_dtmf_skip(cr_dtmf *state, uint64_t samples, cr_dtmf_digits *found) noexcept
    void cr_dtmf_flush(cr_dtmf *state, cr_dtmf_digits *found) noexcept
    int cr_dtmf_active(const cr_dtmf *state, cr_dtmf_digit *digit) noexcept
    int64_t cr_dtmf_position(const cr_dtmf *state) noexcept


# Positions are kept in int64 and in double; up to here both are exact. 35,000 years at 8 kHz.
cdef int64_t MAX_POSITION = <int64_t>1 << 53


class Digit(NamedTuple):
    """A key that was pressed; comparable by value."""

    symbol: str
    start: int
    duration: int
    level_dbm0: float
    twist_db: float


cdef object _digit(const cr_dtmf_digit *digit):
    return Digit(chr(digit.symbol), digit.start, digit.duration, digit.level_dbm0, digit.twist_db)


cdef list _digits(cr_dtmf_digits *found):
    cdef size_t i
    if found.out_of_memory:
        raise MemoryError
    return [_digit(&found.items[i]) for i in range(found.count)]


cdef uint32_t _rate(object sample_rate) except 0:
    cdef int rate = sample_rate
    if rate < CR_DTMF_MIN_RATE or rate > CR_DTMF_MAX_RATE:
        raise ValueError(f"sample_rate={rate}: need {CR_DTMF_MIN_RATE} to {CR_DTMF_MAX_RATE} Hz")
    return <uint32_t>rate


cdef class Detector:
    """Finds the DTMF digits of one channel, fed in any pieces.

    The digits found depend on the samples fed and not on how they were cut. A Detector belongs to one thread
    at a time.
    """

    cdef cr_dtmf state
    cdef bint busy

    def __cinit__(self, sample_rate=8000):
        cr_dtmf_init(&self.state, _rate(sample_rate))

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
    def feed(self, pcm):
        """Listen to 16-bit PCM; the digits that ended in it, as a list."""
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
        return self.state.rate


def detect_many(channels, sample_rate=8000):
    """Find the digits of many channels, each a complete stream: a list of digits for each."""
    cdef uint32_t rate = _rate(sample_rate)
    cdef list sources = list(channels)
    cdef size_t count = <size_t>len(sources), taken = 0, i
    cdef cr_dtmf state
    cdef Py_buffer *views = <Py_buffer *>calloc(count + 1, sizeof(Py_buffer))
    cdef cr_dtmf_digits *found = <cr_dtmf_digits *>calloc(count + 1, sizeof(cr_dtmf_digits))
    try:
        if views == NULL or found == NULL:
            raise MemoryError
        for source in sources:
            taken += 1  # before borrowing: a cleared view may be released
            buffers.borrow_pcm(source, &views[taken - 1])
        with nogil:
            for i in range(count):
                cr_dtmf_init(&state, rate)
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
