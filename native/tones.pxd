"""The digit detector of include/callreel/dtmf.h, for the modules that listen: `dtmf`, and `rtp` for its timelines."""

cimport isa
from libc.stddef cimport size_t
from libc.stdint cimport int16_t, int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "callreel/dtmf.h" nogil:
    enum:
        CR_DTMF_MIN_RATE
        CR_DTMF_MAX_RATE
    ctypedef struct cr_dtmf_digit:
        int64_t start
        int64_t duration
        size_t channel
        double level_dbm0
        double twist_db
        char symbol
    ctypedef struct cr_dtmf_digits:
        cr_dtmf_digit *items
        size_t count
        int out_of_memory
    ctypedef struct cr_dtmf_version:
        isa.cr_isa isa
    ctypedef struct cr_dtmf_plan:
        uint32_t rate
    ctypedef struct cr_dtmf:
        const cr_dtmf_plan *plan
    const cr_dtmf_version *cr_dtmf_version_for(isa.cr_isa isa) noexcept
    size_t cr_dtmf_plan_room(uint32_t rate) noexcept
    void cr_dtmf_plan_init(
        cr_dtmf_plan *plan, uint32_t rate, const cr_dtmf_version *version, int16_t *memory
    ) noexcept
    uint32_t cr_dtmf_raw_samples(const cr_dtmf_plan *plan) noexcept
    void cr_dtmf_init(cr_dtmf *state, const cr_dtmf_plan *plan, int16_t *raw) noexcept
    void cr_dtmf_feed(cr_dtmf *state, const uint8_t *pcm, size_t samples, cr_dtmf_digits *found) noexcept
    void cr_dtmf_skip(cr_dtmf *state, uint64_t samples, cr_dtmf_digits *found) noexcept
    void cr_dtmf_flush(cr_dtmf *state, cr_dtmf_digits *found) noexcept
    int cr_dtmf_active(const cr_dtmf *state, cr_dtmf_digit *digit) noexcept
    int64_t cr_dtmf_position(const cr_dtmf *state) noexcept
    void cr_dtmf_prefetch(const cr_dtmf *state, const cr_dtmf *later) noexcept


# Positions are kept in int64 and in double; up to here both are exact. 35,000 years at 8 kHz.
cdef enum:
    MAX_POSITION_BITS = 53
