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
 */
#ifndef CALLREEL_CONCEAL_H
#define CALLREEL_CONCEAL_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define CR_CONCEAL_RATE 8000
#define CR_CONCEAL_MAX 480    /* samples: 60 ms, after which nothing is left */
#define CR_CONCEAL_STEADY 80  /* samples: 10 ms at full level before the fade (G.711 Appendix I) */
#define CR_PITCH_MIN 40       /* samples: 200 Hz; shorter periods show as their multiples */
#define CR_PITCH_MAX 120      /* samples: 66 Hz */
#define CR_PITCH_WINDOW 160   /* samples compared */
#define CR_CONCEAL_HISTORY (CR_PITCH_MAX + CR_PITCH_WINDOW + CR_PITCH_MAX / 4) /* samples needed on either side */

typedef struct {
    int16_t forward[CR_PITCH_MAX];  /* one period, to be repeated from its start */
    int16_t backward[CR_PITCH_MAX]; /* one period that ends where the received audio goes on */
    uint32_t forward_period;
    uint32_t backward_period; /* 0: the far side is unknown or too far */
    uint32_t length;          /* samples in the gap, or CR_CONCEAL_MAX when longer */
    uint32_t done;
} cr_conceal;

/* The lag between 5 and 15 ms at which `samples` best repeats: x[i] against x[i - lag] for the last `window`.
 * In integers, scaled so that no sum of products overflows: compilers make vectors of it. */
static inline uint32_t cr_pitch_period(const int16_t *samples, uint32_t count)
{
    int16_t scaled[CR_CONCEAL_HISTORY];
    const int16_t *source = samples + count - CR_CONCEAL_HISTORY;
    const int16_t *x = scaled + CR_CONCEAL_HISTORY - CR_PITCH_WINDOW, *past;
    uint32_t best_lag = CR_PITCH_MIN;
    int32_t energy = 0, highest = 0;
    int shift = 0;
    double best = 0;
    for (int i = 0; i < CR_CONCEAL_HISTORY; i++) {
        int32_t size = source[i] < 0 ? -(int32_t)source[i] : source[i];
        highest = size > highest ? size : highest;
    }
    while (highest >> shift > 2047) /* 160 * 2,047^2 fits 31 bits */
        shift++;
    for (int i = 0; i < CR_CONCEAL_HISTORY; i++)
        scaled[i] = (int16_t)(source[i] >> shift);
    past = x - CR_PITCH_MIN;
    for (int i = 0; i < CR_PITCH_WINDOW; i++)
        energy += past[i] * past[i];
    for (uint32_t lag = CR_PITCH_MIN; lag <= CR_PITCH_MAX; lag++) {
        int32_t cross = 0;
        for (int i = 0; i < CR_PITCH_WINDOW; i++)
            cross += x[i] * past[i];
        if (cross > 0 && energy > 0) {
            double score = (double)cross * cross / energy;
            if (score > best) {
                best = score;
                best_lag = lag;
            }
        }
        energy -= past[CR_PITCH_WINDOW - 1] * past[CR_PITCH_WINDOW - 1];
        past--;
        energy += past[0] * past[0];
    }
    return best_lag;
}

/* Take one period from the end of `history`, its last quarter cross-faded with the samples one period earlier, so
 * that its end joins its own beginning. */
static inline uint32_t cr_conceal_period(int16_t *period, const int16_t *history, uint32_t count)
{
    uint32_t lag = cr_pitch_period(history, count), overlap = lag / 4;
    const int16_t *last = history + count - lag;
    memcpy(period, last, lag * sizeof *period);
    for (uint32_t i = 0; i < overlap; i++) {
        double w = (i + 1.0) / (overlap + 1.0);
        /* Sample lag - overlap + i fades into the one before the period's first sample, and so on backwards. */
        double target = last[(int)i - (int)overlap];
        period[lag - overlap + i] = (int16_t)lrint((1 - w) * last[lag - overlap + i] + w * target);
    }
    return lag;
}

static inline double cr_conceal_gain(uint32_t distance)
{
    if (distance < CR_CONCEAL_STEADY)
        return 1;
    if (distance >= CR_CONCEAL_MAX)
        return 0;
    return 1 - (double)(distance - CR_CONCEAL_STEADY) / (CR_CONCEAL_MAX - CR_CONCEAL_STEADY);
}

/* Begin a gap of `length` samples (CR_CONCEAL_MAX if it is longer or its end unknown).
 * `before` are the last CR_CONCEAL_HISTORY samples; `after` the first as many behind the gap, or NULL. */
static inline void cr_conceal_start(cr_conceal *c, uint32_t length, const int16_t *before, const int16_t *after)
{
    c->done = 0;
    c->length = length;
    c->forward_period = cr_conceal_period(c->forward, before, CR_CONCEAL_HISTORY);
    c->backward_period = 0;
    if (after != NULL) {
        int16_t mirrored[CR_CONCEAL_HISTORY];
        for (int i = 0; i < CR_CONCEAL_HISTORY; i++)
            mirrored[i] = after[CR_CONCEAL_HISTORY - 1 - i];
        c->backward_period = cr_conceal_period(c->backward, mirrored, CR_CONCEAL_HISTORY);
    }
}

/* The next `count` samples of the gap. */
static inline void cr_conceal_fill(cr_conceal *c, int16_t *out, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++, c->done++) {
        double value;
        if (c->done >= c->length) {
            out[i] = 0;
            continue;
        }
        value = c->forward[c->done % c->forward_period] * cr_conceal_gain(c->done);
        if (c->backward_period) {
            uint32_t distance = c->length - 1 - c->done; /* samples to the received audio */
            double w = (c->done + 0.5) / c->length;
            double other = c->backward[distance % c->backward_period] * cr_conceal_gain(distance);
            value = (1 - w) * value + w * other;
        }
        out[i] = (int16_t)lrint(value);
    }
}

#endif
