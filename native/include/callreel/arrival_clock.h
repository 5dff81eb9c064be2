/* When a packet arrived, on the monotonic clock, told by the kernel's stamp of the time of day.
 *
 * Kernels stamp packets with the time of day (SO_TIMESTAMPNS), which somebody may set, forwards or back, between the stamp
 * and its reading. The offset between the two clocks is therefore read again at every batch; a stamp that makes no sense
 * with it was made before the last step, and does with the offset before that.
 *
 * Requirements, tests in tests/native/test_udp.py:
 *   1. The moment lies between `low` (the queue was empty then, or a packet before this one came) and `high` (now).
 *   2. Within these a stamp is taken as it is, by the offset of now or by the one before the clock was set.
 */
#ifndef CALLREEL_ARRIVAL_CLOCK_H
#define CALLREEL_ARRIVAL_CLOCK_H

#include <stdint.h>

#define CR_CLOCK_STEP_NS 1000000 /* offsets that differ by more than this: the clock was set; less is its slewing */
#define CR_CLOCK_SLACK_NS 50000  /* two clocks cannot be read in one instant */

typedef struct {
    int64_t offset_ns;        /* time of day less monotonic time */
    int64_t offset_before_ns; /* the same before the clock was last set */
    int is_known;
} cr_arrival_clock;

/* Both clocks as they are now. */
static inline void cr_arrival_clock_read(cr_arrival_clock *c, int64_t day_ns, int64_t monotonic_ns)
{
    int64_t offset = (int64_t)((uint64_t)day_ns - (uint64_t)monotonic_ns);
    uint64_t change = (uint64_t)offset - (uint64_t)c->offset_ns;
    if (!c->is_known)
        c->offset_before_ns = offset;
    else if (change + CR_CLOCK_STEP_NS > 2 * (uint64_t)CR_CLOCK_STEP_NS)
        c->offset_before_ns = c->offset_ns;
    c->offset_ns = offset;
    c->is_known = 1;
}

/* The stamp on the monotonic clock; `low` <= `high`. Wraps where numbers are absurd, and is then out of bounds. */
static inline int64_t cr_arrival_ns(const cr_arrival_clock *c, int64_t stamp_ns, int64_t low, int64_t high)
{
    int64_t offsets[2] = {c->offset_ns, c->offset_before_ns}, at = 0;
    for (int i = 0; i < 2; i++) {
        at = (int64_t)((uint64_t)stamp_ns - (uint64_t)offsets[i]);
        if (at >= low - CR_CLOCK_SLACK_NS && at <= high + CR_CLOCK_SLACK_NS)
            return at < low ? low : at > high ? high : at;
    }
    at = (int64_t)((uint64_t)stamp_ns - (uint64_t)c->offset_ns);
    return at < low ? low : high;
}

#endif
