/* Sequence numbers of one RTP source: what is new, what came twice, what came out of order, what never came.
 *
 * How: the highest sequence number so far is kept extended to 64 bits, with a bitmap of the 1,024 numbers up to it
 *      (20 s of 20 ms packets). Adapted from the rules of RFC 3550 appendix A.1: a small step forward is progress, a
 *      small step backward is reordering or a duplicate, anything else is a sender that started over.
 *
 *        ... 0 1 1 0 1 1 1 1            bit set: this number arrived
 *                          ^ highest    bit 0 of the window
 */
#ifndef CALLREEL_SEQUENCE_H
#define CALLREEL_SEQUENCE_H

#include <stdint.h>
#include <string.h>

#define CR_SEQUENCE_WINDOW 1024     /* packets */
#define CR_SEQUENCE_MAX_DROPOUT 3000 /* packets, RFC 3550 appendix A.1 */

enum cr_sequence_verdict {
    CR_SEQUENCE_NEW,       /* ahead of all before it; `step` says by how much */
    CR_SEQUENCE_REORDERED, /* behind the highest, seen for the first time */
    CR_SEQUENCE_DUPLICATE,
    CR_SEQUENCE_JUMP,      /* neither: the caller decides between a restart, an outage and a straggler */
};

typedef struct {
    uint64_t seen[CR_SEQUENCE_WINDOW / 64]; /* ring of bits, indexed by extended number modulo the window */
    int64_t highest;
    int64_t first;
    int64_t unique; /* distinct numbers since `first` */
    uint32_t step;  /* of the last NEW verdict: 1 means nothing was skipped */
    uint8_t started;
} cr_sequence;

static inline int cr_sequence_was_seen(const cr_sequence *s, int64_t number)
{
    return (int)(s->seen[(number / 64) % (CR_SEQUENCE_WINDOW / 64)] >> (number % 64) & 1);
}

static inline void cr_sequence_mark(cr_sequence *s, int64_t number)
{
    s->seen[(number / 64) % (CR_SEQUENCE_WINDOW / 64)] |= (uint64_t)1 << (number % 64);
}

static inline void cr_sequence_start(cr_sequence *s, uint16_t sequence)
{
    memset(s, 0, sizeof *s);
    /* One cycle up, so that stragglers before the first packet stay positive. */
    s->first = s->highest = (int64_t)sequence + 65536;
    s->unique = 1;
    s->started = 1;
    s->step = 1;
    cr_sequence_mark(s, s->highest);
}

/* Go forward to `number`, forgetting what leaves the window. */
static inline void cr_sequence_advance(cr_sequence *s, int64_t number)
{
    if (number - s->highest >= CR_SEQUENCE_WINDOW) {
        memset(s->seen, 0, sizeof s->seen);
    } else {
        for (int64_t n = s->highest + 1; n <= number; n++)
            s->seen[(n / 64) % (CR_SEQUENCE_WINDOW / 64)] &= ~((uint64_t)1 << (n % 64));
    }
    s->step = (uint32_t)(number - s->highest);
    s->highest = number;
    s->unique++;
    cr_sequence_mark(s, number);
}

static inline enum cr_sequence_verdict cr_sequence_receive(cr_sequence *s, uint16_t sequence)
{
    int delta = (int16_t)(uint16_t)(sequence - (uint16_t)s->highest);
    int64_t number = s->highest + delta;
    if (delta > 0 && delta <= CR_SEQUENCE_MAX_DROPOUT) {
        cr_sequence_advance(s, number);
        return CR_SEQUENCE_NEW;
    }
    if (delta <= 0 && delta > -CR_SEQUENCE_WINDOW) {
        if (cr_sequence_was_seen(s, number))
            return CR_SEQUENCE_DUPLICATE;
        cr_sequence_mark(s, number);
        s->unique++;
        if (number < s->first)
            s->first = number;
        return CR_SEQUENCE_REORDERED;
    }
    return CR_SEQUENCE_JUMP;
}

/* Numbers between the first and the highest that never came. `unique` may be too high: of a straggler from beyond the
 * window nobody knows whether it came before, and callers may take it for one of those that were missing. */
static inline int64_t cr_sequence_lost(const cr_sequence *s)
{
    int64_t lost = s->started ? s->highest - s->first + 1 - s->unique : 0;
    return lost > 0 ? lost : 0;
}

#endif
