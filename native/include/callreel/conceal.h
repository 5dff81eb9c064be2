/* Loss concealment: what was lost is replaced by what the voice did just before, and just after.
 *
 * What: a gap in received audio is filled by repeating the last pitch period, fading out within 60 ms; a gap of up to
 *       60 ms whose far side is known is approached from there too, and the two are cross-faded. After 60 ms: silence.
 *       (In the manner of ITU-T G.711 Appendix I, plus the far side, which a recorder knows and a phone does not.)
 *
 *       received |  forward: last period, again and again, fading  ~~~~
 *                                  ~~~~ backward: first period, likewise  | received
 *
 * Requirements, each a test in tests/unit/test_legs.py:
 *   1. Received samples are never changed.
 *   2. Nothing is left 60 ms into a gap that does not end.
 *   3. Silence before the gap gives silence in it.
 *   4. The result does not depend on the chunks in which it is read.
 *   5. All of it is integers, so that every machine gives the same samples.
 */
#ifndef CALLREEL_CONCEAL_H
#define CALLREEL_CONCEAL_H

#include <stdint.h>
#include <string.h>

#include "callreel/pitch.h"

#define CR_CONCEAL_RATE 8000
#define CR_CONCEAL_MAX 480    /* samples: 60 ms, after which nothing is left */
#define CR_CONCEAL_STEADY 80  /* samples: 10 ms at full level before the fade (G.711 Appendix I) */
#define CR_CONCEAL_HISTORY CR_PITCH_SAMPLES /* samples needed on either side */
#define CR_CONCEAL_UNITY 16384 /* a weight of 1 */
#define CR_CONCEAL_BLOCK 160  /* samples that are made at a time */

typedef struct {
    int16_t forward[CR_PITCH_MAX];  /* one period, to be repeated from its start */
    int16_t backward[CR_PITCH_MAX]; /* one period that ends where the received audio goes on */
    uint32_t forward_period;
    uint32_t backward_period; /* 0: the far side is unknown or too far */
    uint32_t length;          /* samples in the gap, or CR_CONCEAL_MAX when longer */
    uint32_t done;
} cr_conceal;

/* (a * weight + b * (1 - weight)) of two samples, to the nearest. */
static inline int16_t cr_conceal_blend(int32_t a, int32_t a_weight, int32_t b, int32_t b_weight)
{
    /* Above 0 whatever they are, so that a shift rounds down. */
    return (int16_t)((int32_t)((uint32_t)(a * a_weight + b * b_weight + CR_CONCEAL_UNITY / 2 + (1 << 30)) >> 14) -
                     (1 << 16));
}

/* Take the last period of the CR_CONCEAL_HISTORY samples before a gap, its last quarter cross-faded with the samples one
 * period earlier, so that its end joins its own beginning. Returns its length. */
static inline uint32_t cr_conceal_before(int16_t *period, const int16_t *before)
{
    uint32_t lag = cr_pitch_period(before), overlap = lag / 4, step = CR_CONCEAL_UNITY / (overlap + 1);
    const int16_t *last = before + CR_CONCEAL_HISTORY - lag, *tail = last + lag - overlap, *earlier = last - overlap;
    memcpy(period, last, (lag - overlap) * sizeof *period);
    period += lag - overlap;
    for (uint32_t i = 0; i < overlap; i++) {
        int32_t weight = (int32_t)((i + 1) * step);
        period[i] = cr_conceal_blend(tail[i], CR_CONCEAL_UNITY - weight, earlier[i], weight);
    }
    return lag;
}

/* The same of the samples behind a gap, mirrored: the first period, its first quarter joined to its end. */
static inline uint32_t cr_conceal_behind(int16_t *period, const int16_t *behind)
{
    int16_t mirrored[CR_CONCEAL_HISTORY];
    uint32_t lag, overlap, step;
    for (int i = 0; i < CR_CONCEAL_HISTORY; i++)
        mirrored[i] = behind[CR_CONCEAL_HISTORY - 1 - i];
    lag = cr_pitch_period(mirrored);
    overlap = lag / 4;
    step = CR_CONCEAL_UNITY / (overlap + 1);
    for (uint32_t i = 0; i < overlap; i++) {
        int32_t weight = (int32_t)((overlap - i) * step);
        period[i] = cr_conceal_blend(behind[i], CR_CONCEAL_UNITY - weight, behind[lag + i], weight);
    }
    memcpy(period + overlap, behind + overlap, (lag - overlap) * sizeof *period);
    return lag;
}

/* Begin a gap of `length` samples (CR_CONCEAL_MAX if it is longer or its end unknown).
 * `before` are the last CR_CONCEAL_HISTORY samples; `behind` the first as many behind the gap, or NULL. */
static inline void cr_conceal_start(cr_conceal *c, uint32_t length, const int16_t *before, const int16_t *behind)
{
    c->done = 0;
    c->length = length;
    c->forward_period = cr_conceal_before(c->forward, before);
    c->backward_period = behind ? cr_conceal_behind(c->backward, behind) : 0;
}

/* `count` samples of a period that is repeated for ever, from `phase` on. */
static inline void cr_conceal_repeat(int16_t *out, const int16_t *period, uint32_t period_samples, uint32_t phase,
                                     uint32_t count)
{
    while (count) {
        uint32_t run = period_samples - phase < count ? period_samples - phase : count;
        memcpy(out, period + phase, run * sizeof *out);
        out += run;
        count -= run;
        phase = 0;
    }
}

/* What is left of audio repeated `distance` samples from where it was received, less than CR_CONCEAL_MAX. */
static inline int32_t cr_conceal_gain(int32_t distance)
{
    const int32_t per_sample = (CR_CONCEAL_UNITY << 7) / (CR_CONCEAL_MAX - CR_CONCEAL_STEADY) + 1;
    int32_t left = CR_CONCEAL_MAX - distance, most = CR_CONCEAL_MAX - CR_CONCEAL_STEADY;
    return (left < most ? left : most) * per_sample >> 7;
}

/* `count` samples of the gap from `done` on: all before its end, at most CR_CONCEAL_BLOCK. */
CR_FORCE_INLINE void cr_conceal_make_lanes(const cr_conceal *c, int16_t *out, int32_t count)
{
    int16_t forward[CR_CONCEAL_BLOCK], backward[CR_CONCEAL_BLOCK];
    int32_t done = (int32_t)c->done, behind = (int32_t)(c->length - 1 - c->done), share;
    cr_conceal_repeat(forward, c->forward, c->forward_period, c->done % c->forward_period, (uint32_t)count);
    if (!c->backward_period) {
        for (int32_t i = 0; i < count; i++)
            out[i] = cr_conceal_blend(forward[i], cr_conceal_gain(done + i), 0, 0);
        return;
    }
    /* It ends with the period's last sample. */
    cr_conceal_repeat(backward, c->backward, c->backward_period,
                      c->backward_period - 1 - (uint32_t)behind % c->backward_period, (uint32_t)count);
    share = (1 << 28) / (int32_t)c->length; /* of half a sample in the cross-fade, 2^29 being all of it */
    for (int32_t i = 0; i < count; i++) {
        int32_t late = (2 * (done + i) + 1) * share >> 15, early = CR_CONCEAL_UNITY - late; /* from sample to sample */
        out[i] = cr_conceal_blend(forward[i], early * cr_conceal_gain(done + i) >> 14, backward[i],
                                  late * cr_conceal_gain(behind - i) >> 14);
    }
}

/* Compilers make vectors of it, the wider the better. */
static void cr_conceal_make_scalar(const cr_conceal *c, int16_t *out, int32_t count)
{
    cr_conceal_make_lanes(c, out, count);
}

#ifdef CR_HAVE_X86
CR_TARGET_AVX2 static void cr_conceal_make_avx2(const cr_conceal *c, int16_t *out, int32_t count)
{
    cr_conceal_make_lanes(c, out, count);
}
#endif

typedef void (*cr_conceal_fn)(const cr_conceal *c, int16_t *out, int32_t count);

/* The version for one level; the machine must have it. */
static inline cr_conceal_fn cr_conceal_make_for(cr_isa isa)
{
#ifdef CR_HAVE_X86
    if (isa == CR_ISA_AVX2 || isa == CR_ISA_AVX512)
        return cr_conceal_make_avx2;
#endif
    (void)isa;
    return cr_conceal_make_scalar;
}

/* The version in use; scalar until a module says otherwise, which it does once, at import. */
static cr_conceal_fn cr_conceal_make = cr_conceal_make_scalar;

static inline void cr_conceal_use(cr_isa isa)
{
    cr_pitch_use(isa);
    cr_conceal_make = cr_conceal_make_for(isa);
}

/* The next `count` samples of the gap. */
static inline void cr_conceal_fill(cr_conceal *c, int16_t *out, uint32_t count)
{
    while (count) {
        uint32_t left = c->done < c->length ? c->length - c->done : 0, run = count;
        if (left) {
            run = run < left ? run : left;
            run = run < CR_CONCEAL_BLOCK ? run : CR_CONCEAL_BLOCK;
            cr_conceal_make(c, out, (int32_t)run);
        } else {
            memset(out, 0, run * sizeof *out);
        }
        c->done += run;
        out += run;
        count -= run;
    }
}

#endif
