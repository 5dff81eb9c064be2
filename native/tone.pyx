"""Tones as 16-bit PCM: sine, dual tone, DTMF, beep (ITU-T Q.23, Q.24)."""

cimport buffers
from libc.math cimport isfinite, rint
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from operator import index


cdef extern from "callreel/pcm.h" nogil:
    const double CR_FULL_SCALE_DBM0
    double cr_peak_of_dbm0(double dbm0) noexcept

cdef extern from "callreel/tone.h" nogil:
    const uint64_t CR_TONE_OPEN_END
    const char *CR_DTMF_SYMBOLS_TEXT "CR_DTMF_SYMBOLS"
    ctypedef struct cr_tone:
        uint32_t sample_rate
        uint32_t components
        double hz[2]
        double peak[2]
        uint64_t total_samples
        uint64_t ramp_samples
    void cr_tone_render_scalar(
        uint8_t *pcm, size_t samples, const cr_tone *tone, uint64_t first_sample) noexcept
    void cr_dtmf_frequencies(int symbol_index, int *low_hz, int *high_hz) noexcept
    cr_tone cr_tone_of_key(
        int symbol_index, double dbm0, double twist_db, uint32_t sample_rate, uint64_t total_samples,
        uint64_t ramp_samples) noexcept


DTMF_SYMBOLS = CR_DTMF_SYMBOLS_TEXT.decode()

# Limits of the arguments; a longer tone is a mistake, not a wish.
cdef enum:
    MIN_SAMPLE_RATE = 8000
    MAX_SAMPLE_RATE = 48000
    MAX_SECONDS = 3600
    MAX_RAMP_MS = 1000


cdef uint32_t _rate(object sample_rate) except 0:
    sample_rate = index(sample_rate)
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise ValueError(f"sample rate {sample_rate} is outside {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz")
    return sample_rate


cdef uint64_t _samples(double seconds, uint32_t sample_rate) except? 0:
    """Length of a tone in samples: rounded to nearest, ties to even."""
    if not 0 <= seconds <= MAX_SECONDS:  # NaN fails this too
        raise ValueError(f"a tone of {seconds} seconds is outside 0 to {MAX_SECONDS}")
    return <uint64_t>rint(seconds * sample_rate)


cdef uint64_t _ramp(double ramp_ms, uint32_t sample_rate) except? 0:
    if not 0 <= ramp_ms <= MAX_RAMP_MS:
        raise ValueError(f"ramps of {ramp_ms} ms are outside 0 to {MAX_RAMP_MS}")
    return <uint64_t>rint(ramp_ms * sample_rate / 1000)


cdef double _hz(double hz, uint32_t sample_rate) except 0:
    if not 0 < hz < sample_rate / 2.0:
        raise ValueError(f"{hz} Hz is not between 0 and half the sample rate, {sample_rate / 2.0:g} Hz")
    return hz


cdef int _check_level(double dbm0) except -1:
    if not (isfinite(dbm0) and dbm0 <= CR_FULL_SCALE_DBM0):
        raise ValueError(f"level {dbm0} dBm0 is above full scale, {CR_FULL_SCALE_DBM0} dBm0, or not finite")
    return 0


cdef int _event_code(object symbol) except -1:
    if not isinstance(symbol, str):
        raise TypeError(f"a DTMF symbol is a str, not {type(symbol).__name__}")
    if len(symbol) != 1 or symbol not in DTMF_SYMBOLS:
        raise ValueError(f"{symbol!r} is not one of the DTMF symbols {DTMF_SYMBOLS}")
    return DTMF_SYMBOLS.index(symbol)


cdef bytes _render(const cr_tone *tone, uint64_t first_sample, uint64_t samples):
    cdef char *start = NULL
    cdef bytes result = buffers.new_bytes(<Py_ssize_t>samples * 2, &start)
    if samples < buffers.GIL_MIN_SAMPLES:
        cr_tone_render_scalar(<uint8_t *>start, <size_t>samples, tone, first_sample)
    else:
        with nogil:
            cr_tone_render_scalar(<uint8_t *>start, <size_t>samples, tone, first_sample)
    return result


def sine(double hz, double seconds, double dbm0, sample_rate=8000):
    """Render a sine that begins at phase 0, as PCM."""
    cdef cr_tone tone
    tone.sample_rate = _rate(sample_rate)
    tone.components = 1
    tone.hz[0] = _hz(hz, tone.sample_rate)
    _check_level(dbm0)
    tone.peak[0] = cr_peak_of_dbm0(dbm0)
    tone.total_samples = _samples(seconds, tone.sample_rate)
    tone.ramp_samples = 0
    return _render(&tone, 0, tone.total_samples)


def dual(double hz_low, double hz_high, double seconds, double dbm0_low, double dbm0_high, sample_rate=8000):
    """Render two sines added, each at its own level, as PCM; a sum beyond full scale saturates."""
    cdef cr_tone tone
    tone.sample_rate = _rate(sample_rate)
    tone.components = 2
    tone.hz[0] = _hz(hz_low, tone.sample_rate)
    tone.hz[1] = _hz(hz_high, tone.sample_rate)
    _check_level(dbm0_low)
    _check_level(dbm0_high)
    tone.peak[0] = cr_peak_of_dbm0(dbm0_low)
    tone.peak[1] = cr_peak_of_dbm0(dbm0_high)
    tone.total_samples = _samples(seconds, tone.sample_rate)
    tone.ramp_samples = 0
    return _render(&tone, 0, tone.total_samples)


def frequencies(symbol):
    """Look up the (low, high) frequencies of a DTMF symbol, in Hz (ITU-T Q.23)."""
    cdef int low_hz = 0, high_hz = 0
    cr_dtmf_frequencies(_event_code(symbol), &low_hz, &high_hz)
    return low_hz, high_hz


def dtmf(symbol, double seconds, double dbm0=-6.0, sample_rate=8000, double twist_db=0.0, double ramp_ms=0.0):
    """Render a DTMF symbol as PCM: low group at `dbm0`, high group at `dbm0 + twist_db`."""
    cdef uint32_t rate = _rate(sample_rate)
    cdef int code = _event_code(symbol)
    cdef cr_tone tone
    _check_level(dbm0)
    _check_level(dbm0 + twist_db)
    tone = cr_tone_of_key(code, dbm0, twist_db, rate, _samples(seconds, rate), _ramp(ramp_ms, rate))
    return _render(&tone, 0, tone.total_samples)


def dtmf_part(symbol, first_sample, samples, total_samples=None, double dbm0=-6.0, sample_rate=8000,
              double twist_db=0.0, double ramp_ms=5.0):
    """Render `samples` of a DTMF tone from its sample `first_sample` on; parts join into the whole tone."""
    cdef uint32_t rate = _rate(sample_rate)
    cdef int code = _event_code(symbol)
    cdef cr_tone tone
    cdef uint64_t total = CR_TONE_OPEN_END
    _check_level(dbm0)
    _check_level(dbm0 + twist_db)
    first_sample = index(first_sample)
    samples = index(samples)
    if not 0 <= samples <= MAX_SECONDS * rate:
        raise ValueError(f"a part of {samples} samples is outside 0 to {MAX_SECONDS} seconds")
    if not 0 <= first_sample < 2**63:
        raise ValueError(f"first sample {first_sample} is outside 0 to 2**63 - 1")
    if total_samples is not None:
        total_samples = index(total_samples)
        if not 0 <= total_samples < 2**63:
            raise ValueError(f"total of {total_samples} samples is outside 0 to 2**63 - 1")
        total = total_samples
    tone = cr_tone_of_key(code, dbm0, twist_db, rate, total, _ramp(ramp_ms, rate))
    return _render(&tone, first_sample, samples)


def beep(double hz=1400.0, double seconds=0.4, double dbm0=-12.0, sample_rate=8000, double ramp_ms=10.0):
    """Render a sine with raised-cosine ramps at both ends, so that it does not click, as PCM."""
    cdef cr_tone tone
    tone.sample_rate = _rate(sample_rate)
    tone.components = 1
    tone.hz[0] = _hz(hz, tone.sample_rate)
    _check_level(dbm0)
    tone.peak[0] = cr_peak_of_dbm0(dbm0)
    tone.total_samples = _samples(seconds, tone.sample_rate)
    tone.ramp_samples = _ramp(ramp_ms, tone.sample_rate)
    return _render(&tone, 0, tone.total_samples)
