"""Linear 16-bit PCM: interleave, mix, gain, level, sample-rate conversion (ITU-T G.711 for the levels)."""

cimport buffers
cimport cython
cimport isa
from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_WRITABLE
from libc.math cimport fabs, isfinite
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from operator import index

from callreel.errors import UsageError


cdef extern from "callreel/pcm.h" nogil:
    enum:
        CR_MIX_MAX_TRACKS
    const double CR_GAIN_MAX_DB
    const size_t CR_LEVEL_MAX_SAMPLES
    ctypedef struct cr_pcm_energy:
        uint32_t peak
    double cr_dbm0_of_peak(double peak) noexcept
    double cr_dbm0_of_energy(cr_pcm_energy energy, size_t samples) noexcept
    ctypedef struct cr_pcm_kernels:
        void (*interleave)(
            uint8_t *stereo, const uint8_t *left, const uint8_t *right, size_t frames) noexcept nogil
        void (*pick_channel)(
            uint8_t *mono, const uint8_t *stereo, size_t frames, unsigned int channel) noexcept nogil
        void (*deinterleave)(
            uint8_t *left, uint8_t *right, const uint8_t *stereo, size_t frames) noexcept nogil
        void (*mix)(
            uint8_t *mixed, const uint8_t **tracks, size_t track_count, size_t samples) noexcept nogil
        void (*gain)(uint8_t *out, const uint8_t *pcm, size_t samples, float multiplier) noexcept nogil
        cr_pcm_energy (*energy)(const uint8_t *pcm, size_t samples) noexcept nogil
    cr_pcm_kernels cr_pcm
    void cr_pcm_use(isa.cr_isa isa) noexcept
    isa.cr_isa cr_pcm_in_use() noexcept
    void cr_pcm_mix_minus(
        uint8_t **heard, const uint8_t **tracks, size_t track_count, size_t samples) noexcept
    float cr_gain_multiplier(double db) noexcept
    void cr_pcm_frame_levels(
        uint8_t *levels, const uint8_t *pcm, size_t frames, size_t frame_samples) noexcept

cdef extern from "callreel/resample.h" nogil:
    enum:
        CR_RESAMPLE_MIN_RATE
        CR_RESAMPLE_MAX_RATE
        CR_RESAMPLE_MAX_PHASES
    ctypedef struct cr_resample_filter:
        uint32_t phases
        uint32_t taps
        const float *coefficients
    ctypedef struct cr_resampler:
        pass
    int cr_resample_filter_plan(cr_resample_filter *filter, uint32_t from_rate, uint32_t to_rate) noexcept
    void cr_resample_filter_design(cr_resample_filter *filter, float *memory) noexcept
    size_t cr_resample_window_samples(const cr_resample_filter *filter) noexcept
    void cr_resampler_start(
        cr_resampler *resampler, const cr_resample_filter *filter, float *window) noexcept
    size_t cr_resampler_output_samples(const cr_resampler *resampler, size_t samples) noexcept
    size_t cr_resampler_tail_samples(const cr_resampler *resampler) noexcept
    size_t cr_resampler_feed(
        cr_resampler *resampler, uint8_t *out, const uint8_t *pcm, size_t samples) noexcept
    size_t cr_resampler_flush(cr_resampler *resampler, uint8_t *out) noexcept

cr_pcm_use(isa.in_use())


def _isa():
    """Name the instruction set whose versions this module calls: for tests."""
    return isa.cr_isa_name(cr_pcm_in_use()).decode()


def interleave(left, right, out=None):
    """Weave two channels into stereo: bytes, or with `out=` the samples written there (2 per frame)."""
    cdef Py_buffer left_view, right_view, stereo
    cdef char *start = NULL
    cdef size_t frames
    cdef object result
    buffers.clear(&left_view)
    buffers.clear(&right_view)
    buffers.clear(&stereo)
    try:
        buffers.borrow_pcm(left, &left_view)
        buffers.borrow_pcm(right, &right_view)
        if left_view.len != right_view.len:
            raise ValueError(f"channels of {left_view.len} and {right_view.len} bytes make no stereo")
        frames = <size_t>left_view.len // 2
        if out is None:
            result = buffers.new_bytes(left_view.len * 2, &start)
        else:
            buffers.borrow_pcm(out, &stereo, True)
            buffers.need_room(&stereo, left_view.len * 2)
            start = <char *>stereo.buf
            result = frames * 2
        if frames < buffers.GIL_MIN_SAMPLES // 2:
            cr_pcm.interleave(
                <uint8_t *>start, <const uint8_t *>left_view.buf, <const uint8_t *>right_view.buf, frames)
        else:
            with nogil:
                cr_pcm.interleave(
                    <uint8_t *>start, <const uint8_t *>left_view.buf, <const uint8_t *>right_view.buf, frames)
        return result
    finally:
        buffers.release(&left_view)
        buffers.release(&right_view)
        buffers.release(&stereo)


cdef void _unweave(uint8_t *left, uint8_t *right, const uint8_t *stereo, size_t frames) noexcept nogil:
    if left != NULL and right != NULL:
        cr_pcm.deinterleave(left, right, stereo, frames)
    elif left != NULL:
        cr_pcm.pick_channel(left, stereo, frames, 0)
    else:
        cr_pcm.pick_channel(right, stereo, frames, 1)


def deinterleave(stereo, left=None, right=None):
    """Take stereo apart: (left, right) as bytes, or with buffers the samples written to each given one."""
    cdef Py_buffer source, left_view, right_view
    cdef char *left_start = NULL
    cdef char *right_start = NULL
    cdef size_t frames
    cdef object result
    buffers.clear(&source)
    buffers.clear(&left_view)
    buffers.clear(&right_view)
    try:
        buffers.borrow_pcm(stereo, &source)
        if source.len % 4:
            raise ValueError(f"{source.len // 2} samples are not a whole number of stereo frames")
        frames = <size_t>source.len // 4
        if left is None and right is None:
            result = (buffers.new_bytes(source.len // 2, &left_start),
                      buffers.new_bytes(source.len // 2, &right_start))
        else:
            if left is not None:
                buffers.borrow_pcm(left, &left_view, True)
                buffers.need_room(&left_view, source.len // 2)
                left_start = <char *>left_view.buf
            if right is not None:
                buffers.borrow_pcm(right, &right_view, True)
                buffers.need_room(&right_view, source.len // 2)
                right_start = <char *>right_view.buf
            result = frames
        if frames < buffers.GIL_MIN_SAMPLES // 2:
            _unweave(<uint8_t *>left_start, <uint8_t *>right_start, <const uint8_t *>source.buf, frames)
        else:
            with nogil:
                _unweave(<uint8_t *>left_start, <uint8_t *>right_start, <const uint8_t *>source.buf, frames)
        return result
    finally:
        buffers.release(&source)
        buffers.release(&left_view)
        buffers.release(&right_view)


def mix(tracks, out=None):
    """Add tracks of equal length, saturated once: bytes, or with `out=` the samples written there."""
    cdef Py_buffer mixed
    cdef Py_buffer *views = NULL
    cdef const uint8_t **starts = NULL
    cdef char *start = NULL
    cdef size_t samples, i, count = 0
    cdef object result
    tracks = tuple(tracks)
    if not 1 <= len(tracks) <= CR_MIX_MAX_TRACKS:
        raise ValueError(f"can mix 1 to {CR_MIX_MAX_TRACKS} tracks, not {len(tracks)}")
    count = <size_t>len(tracks)
    buffers.clear(&mixed)
    try:
        # Zeroed memory is a row of cleared views.
        views = <Py_buffer *>calloc(count, sizeof(Py_buffer))
        starts = <const uint8_t **>calloc(count, sizeof(uint8_t *))
        if views == NULL or starts == NULL:
            raise MemoryError
        for i in range(count):
            buffers.borrow_pcm(tracks[i], &views[i])
            starts[i] = <const uint8_t *>views[i].buf
            if views[i].len != views[0].len:
                raise ValueError(f"track {i} has {views[i].len} bytes, track 0 has {views[0].len}")
        samples = <size_t>views[0].len // 2
        if out is None:
            result = buffers.new_bytes(views[0].len, &start)
        else:
            buffers.borrow_pcm(out, &mixed, True)
            buffers.need_room(&mixed, views[0].len)
            start = <char *>mixed.buf
            result = samples
        if samples * count < buffers.GIL_MIN_SAMPLES:
            cr_pcm.mix(<uint8_t *>start, starts, count, samples)
        else:
            with nogil:
                cr_pcm.mix(<uint8_t *>start, starts, count, samples)
        return result
    finally:
        if views != NULL:
            for i in range(count):
                buffers.release(&views[i])
        free(views)
        free(starts)
        buffers.release(&mixed)


def mix_minus(tracks):
    """Add for each track all the others, saturated once: a list of bytes, one for each track."""
    cdef Py_buffer *views = NULL
    cdef const uint8_t **starts = NULL
    cdef uint8_t **heard_starts = NULL
    cdef char *start = NULL
    cdef size_t samples, i, count = 0
    cdef list heard = []
    tracks = tuple(tracks)
    if not 1 <= len(tracks) <= CR_MIX_MAX_TRACKS:
        raise ValueError(f"can mix 1 to {CR_MIX_MAX_TRACKS} tracks, not {len(tracks)}")
    count = <size_t>len(tracks)
    try:
        # Zeroed memory is a row of cleared views.
        views = <Py_buffer *>calloc(count, sizeof(Py_buffer))
        starts = <const uint8_t **>calloc(count, sizeof(uint8_t *))
        heard_starts = <uint8_t **>calloc(count, sizeof(uint8_t *))
        if views == NULL or starts == NULL or heard_starts == NULL:
            raise MemoryError
        for i in range(count):
            buffers.borrow_pcm(tracks[i], &views[i])
            starts[i] = <const uint8_t *>views[i].buf
            if views[i].len != views[0].len:
                raise ValueError(f"track {i} has {views[i].len} bytes, track 0 has {views[0].len}")
        samples = <size_t>views[0].len // 2
        for i in range(count):
            heard.append(buffers.new_bytes(views[0].len, &start))
            heard_starts[i] = <uint8_t *>start
        if samples * count < buffers.GIL_MIN_SAMPLES:
            cr_pcm_mix_minus(heard_starts, starts, count, samples)
        else:
            with nogil:
                cr_pcm_mix_minus(heard_starts, starts, count, samples)
        return heard
    finally:
        if views != NULL:
            for i in range(count):
                buffers.release(&views[i])
        free(views)
        free(starts)
        free(heard_starts)


def gain(pcm, double db, out=None):
    """Change the level by `db` decibels, saturating: bytes, or with `out=` the samples written there."""
    cdef Py_buffer source, louder
    cdef char *start = NULL
    cdef size_t samples
    cdef float multiplier
    cdef object result
    if not (isfinite(db) and fabs(db) <= CR_GAIN_MAX_DB):
        raise ValueError(f"gain of {db} dB is outside -{CR_GAIN_MAX_DB:g} to {CR_GAIN_MAX_DB:g} dB")
    multiplier = cr_gain_multiplier(db)
    buffers.clear(&source)
    buffers.clear(&louder)
    try:
        buffers.borrow_pcm(pcm, &source)
        samples = <size_t>source.len // 2
        if out is None:
            result = buffers.new_bytes(source.len, &start)
        else:
            buffers.borrow_pcm(out, &louder, True)
            buffers.need_room(&louder, source.len)
            start = <char *>louder.buf
            result = samples
        if samples < buffers.GIL_MIN_SAMPLES:
            cr_pcm.gain(<uint8_t *>start, <const uint8_t *>source.buf, samples, multiplier)
        else:
            with nogil:
                cr_pcm.gain(<uint8_t *>start, <const uint8_t *>source.buf, samples, multiplier)
        return result
    finally:
        buffers.release(&source)
        buffers.release(&louder)


def level(pcm):
    """Measure (rms_dbm0, peak_dbm0) of PCM; both minus infinity where it is empty or all zeros."""
    cdef Py_buffer source
    cdef size_t samples
    cdef cr_pcm_energy energy
    buffers.clear(&source)
    try:
        buffers.borrow_pcm(pcm, &source)
        samples = <size_t>source.len // 2
        if samples > CR_LEVEL_MAX_SAMPLES:
            raise ValueError(f"{samples} samples are too many for one level, at most {CR_LEVEL_MAX_SAMPLES}")
        if samples < buffers.GIL_MIN_SAMPLES:
            energy = cr_pcm.energy(<const uint8_t *>source.buf, samples)
        else:
            with nogil:
                energy = cr_pcm.energy(<const uint8_t *>source.buf, samples)
        return cr_dbm0_of_energy(energy, samples), cr_dbm0_of_peak(energy.peak)
    finally:
        buffers.release(&source)


cdef int _borrow_float32(object target, Py_buffer *view) except -1:
    """Borrow a writable contiguous float32 buffer, or bytes to hold float32."""
    cdef const char *item
    buffers.PyObject_GetBuffer(target, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE)
    if not buffers._is_byte_format(view.format):
        item = view.format
        if item[0] == b"<" or item[0] == b"=" or item[0] == b"@":
            item += 1
        if item[0] != b"f" or item[1] != 0:
            raise TypeError(f"need float32 or bytes, not items '{view.format.decode()}'")
    return 0


def frame_levels(pcm, frame_samples, out=None):
    """Measure rms_dbm0 of every whole frame: float32 as bytes, or with `out=` the levels written there."""
    cdef Py_buffer source, levels
    cdef char *start = NULL
    cdef size_t frames, frame
    cdef object result
    frame_samples = index(frame_samples)
    if not 1 <= frame_samples <= 0x7FFFFFFF:
        raise ValueError(f"frames of {frame_samples} samples; need 1 to {0x7FFFFFFF}")
    frame = frame_samples
    buffers.clear(&source)
    buffers.clear(&levels)
    try:
        buffers.borrow_pcm(pcm, &source)
        frames = (<size_t>source.len // 2) // frame
        if out is None:
            result = buffers.new_bytes(<Py_ssize_t>frames * 4, &start)
        else:
            _borrow_float32(out, &levels)
            buffers.need_room(&levels, <Py_ssize_t>frames * 4)
            start = <char *>levels.buf
            result = frames
        if frames * frame < buffers.GIL_MIN_SAMPLES:
            cr_pcm_frame_levels(<uint8_t *>start, <const uint8_t *>source.buf, frames, frame)
        else:
            with nogil:
                cr_pcm_frame_levels(<uint8_t *>start, <const uint8_t *>source.buf, frames, frame)
        return result
    finally:
        buffers.release(&source)
        buffers.release(&levels)


cdef enum:
    METER_FRAME_SAMPLES = 960  # 20 ms at 48 kHz


@cython.final
cdef class SilenceMeter:
    """The silence at the end of what is fed: its frames are counted, and those of sound in between."""

    cdef uint8_t *frame  # the one that is not whole yet
    cdef size_t frame_samples
    cdef size_t held  # samples of it
    cdef double threshold_dbm0
    cdef uint64_t sound_frames, initial, trailing
    cdef uint64_t silent, loud  # frames in a row up to now
    cdef bint spoken

    def __cinit__(self, size_t frame_samples, double threshold_dbm0, uint64_t sound_frames, uint64_t initial,
                  uint64_t trailing):
        if not 1 <= frame_samples <= METER_FRAME_SAMPLES:
            raise ValueError(f"frames of {frame_samples} samples; need 1 to {METER_FRAME_SAMPLES}")
        self.frame = <uint8_t *>malloc(2 * frame_samples)
        if self.frame == NULL:
            raise MemoryError
        self.frame_samples = frame_samples
        self.threshold_dbm0 = threshold_dbm0
        self.sound_frames = sound_frames
        self.initial = initial
        self.trailing = trailing

    def __dealloc__(self):
        free(self.frame)

    @cython.critical_section
    def restart(self):
        """Count silence anew; what was said is remembered."""
        self.held = 0
        self.silent = self.loud = 0

    @cython.critical_section
    def feed(self, stereo):
        """Take the next frames of stereo: (how many up to the end of the silence, whether anything was said)."""
        cdef Py_buffer source
        cdef size_t frames, taken = 0, wanted
        cdef uint64_t limit
        cdef float level_dbm0
        cdef uint8_t here[2 * METER_FRAME_SAMPLES]
        cdef uint8_t *frame
        buffers.clear(&source)
        try:
            buffers.borrow_pcm(stereo, &source)
            if source.len % 4:
                raise ValueError(f"{source.len // 2} samples are not a whole number of stereo frames")
            frames = <size_t>source.len // 4
            while taken < frames:
                wanted = min(self.frame_samples - self.held, frames - taken)
                frame = &here[0] if wanted == self.frame_samples else self.frame  # memory that is in the cache
                cr_pcm.pick_channel(frame + 2 * self.held, <const uint8_t *>source.buf + 4 * taken, wanted, 0)
                taken += wanted
                self.held += wanted
                if self.held < self.frame_samples:
                    break
                self.held = 0
                cr_pcm_frame_levels(<uint8_t *>&level_dbm0, frame, 1, self.frame_samples)
                self.loud = self.loud + 1 if level_dbm0 >= self.threshold_dbm0 else 0
                if self.loud >= self.sound_frames:
                    self.spoken = True
                    self.silent = 0
                    continue
                self.silent += 1
                limit = self.trailing if self.spoken else self.initial
                if limit and self.silent >= limit:
                    return taken, bool(self.spoken)
            return None
        finally:
            buffers.release(&source)


# Small filters that were designed, for those who come next with the same rates: kept, and never changed.
cdef struct resample_design:
    unsigned int from_rate, to_rate
    float *coefficients

cdef enum:
    DESIGNS = 32
    DESIGN_FLOATS = 4096  # of the largest that is kept

cdef resample_design _designs[DESIGNS]
cdef int _design_count = 0
cdef object _designing = object()


cdef float *_kept_design(unsigned int from_rate, unsigned int to_rate):
    """The coefficients for these rates, if they are kept."""
    cdef int i
    with cython.critical_section(_designing):
        for i in range(_design_count):
            if _designs[i].from_rate == from_rate and _designs[i].to_rate == to_rate:
                return _designs[i].coefficients
    return NULL


cdef bint _keep_design(unsigned int from_rate, unsigned int to_rate, float *coefficients):
    """Keep them, unless there are too many; whether they are."""
    global _design_count
    with cython.critical_section(_designing):
        if _design_count == DESIGNS:
            return False
        _designs[_design_count].from_rate = from_rate
        _designs[_design_count].to_rate = to_rate
        _designs[_design_count].coefficients = coefficients
        _design_count += 1
    return True


cdef class Resampler:
    """A stream's converter from one sample rate to another; belongs to one thread at a time."""

    cdef cr_resample_filter filter
    cdef cr_resampler resampler
    cdef float *coefficients
    cdef float *window
    cdef bint shares  # the coefficients, with others
    cdef bint busy
    cdef readonly unsigned int from_rate
    cdef readonly unsigned int to_rate

    def __cinit__(self, from_rate, to_rate):
        """Design the filter for these rates, in Hz; ValueError for a rate or ratio not served."""
        cdef int refused
        cdef size_t floats
        self.coefficients = NULL
        self.window = NULL
        from_rate = index(from_rate)
        to_rate = index(to_rate)
        for rate in (from_rate, to_rate):
            if not CR_RESAMPLE_MIN_RATE <= rate <= CR_RESAMPLE_MAX_RATE:
                raise ValueError(
                    f"sample rate {rate} is outside {CR_RESAMPLE_MIN_RATE} to {CR_RESAMPLE_MAX_RATE} Hz")
        self.from_rate = from_rate
        self.to_rate = to_rate
        refused = cr_resample_filter_plan(&self.filter, self.from_rate, self.to_rate)
        if refused:
            raise ValueError(
                f"{from_rate} to {to_rate} Hz needs {self.filter.phases} filter phases, "
                f"at most {CR_RESAMPLE_MAX_PHASES} are served")
        self.window = <float *>malloc(cr_resample_window_samples(&self.filter) * sizeof(float))
        if self.window == NULL:
            raise MemoryError
        floats = <size_t>self.filter.phases * self.filter.taps
        self.coefficients = _kept_design(self.from_rate, self.to_rate)
        self.shares = self.coefficients != NULL
        if self.shares:
            self.filter.coefficients = self.coefficients
        else:
            self.coefficients = <float *>malloc(floats * sizeof(float))
            if self.coefficients == NULL:
                raise MemoryError
            with nogil:
                cr_resample_filter_design(&self.filter, self.coefficients)
            if floats <= DESIGN_FLOATS:
                self.shares = _keep_design(self.from_rate, self.to_rate, self.coefficients)
        cr_resampler_start(&self.resampler, &self.filter, self.window)

    def __dealloc__(self):
        if not self.shares:
            free(self.coefficients)
        free(self.window)

    cdef int enter(self) except -1:
        # Large pieces are converted without the GIL: no second thread may touch the window meanwhile.
        with cython.critical_section(self):
            if self.busy:
                raise UsageError("this Resampler is in use by another thread")
            self.busy = True
        return 0

    cdef void leave(self) noexcept:
        with cython.critical_section(self):
            self.busy = False

    def feed(self, pcm):
        """Convert the next piece of the input; returns the output it completes, as bytes."""
        cdef Py_buffer source
        cdef char *start = NULL
        cdef size_t samples
        cdef bytes result
        self.enter()
        buffers.clear(&source)
        try:
            buffers.borrow_pcm(pcm, &source)
            samples = <size_t>source.len // 2
            result = buffers.new_bytes(
                <Py_ssize_t>cr_resampler_output_samples(&self.resampler, samples) * 2, &start)
            if samples < buffers.GIL_MIN_SAMPLES:
                cr_resampler_feed(
                    &self.resampler, <uint8_t *>start, <const uint8_t *>source.buf, samples)
            else:
                with nogil:
                    cr_resampler_feed(
                        &self.resampler, <uint8_t *>start, <const uint8_t *>source.buf, samples)
            return result
        finally:
            self.leave()
            buffers.release(&source)

    def flush(self):
        """End the input; returns the rest of the output as bytes and makes the resampler as new."""
        cdef char *start = NULL
        cdef bytes result
        self.enter()
        try:
            result = buffers.new_bytes(<Py_ssize_t>cr_resampler_tail_samples(&self.resampler) * 2, &start)
            cr_resampler_flush(&self.resampler, <uint8_t *>start)
            return result
        finally:
            self.leave()


def resample(pcm, from_rate, to_rate):
    """Convert PCM from one sample rate to another in one go: ceil(samples * to_rate / from_rate) samples."""
    cdef Resampler resampler = Resampler(from_rate, to_rate)
    return resampler.feed(pcm) + resampler.flush()
