/* The pitch of a voice: the lag between 5 and 15 ms at which it best repeats.
 *
 * What: of 280 samples the last 160 are compared with those 40 to 120 samples earlier.
 *
 *           |<-- 120 -->|<------ window, 160 ------>|
 *                 |<------ the same, `lag` earlier ------>|
 *
 * How:  samples are shifted right until 11 bits and a sign hold each of them: 160 products fit 31 bits. Then, in exact
 *       integers, so that the order of sums does not matter,
 *
 *           cross[lag]  = sum of x[i] * x[i - lag]      energy[lag] = sum of x[i - lag]^2      over the window
 *           score[lag]  = max(cross, 0)^2 / max(energy, 1)          in float32: three roundings, no sum
 *
 *       and the best score wins, of equal ones the shortest lag.
 *
 * Requirements, tested in tests/native/isa_differential.c:
 *   1. Every version finds the same lag. 2. Silence and what never repeats have the shortest. 3. Nothing but the 280
 *   samples is read.
 *
 * Versions, a header each: pitch_sse2.h, pitch_avx2.h, pitch_avx512.h, pitch_neon.h. They compute the cross products of
 * all lags side by side: in terms of m = CR_PITCH_MAX - lag, that of lag is the sum of x[i] * samples[i + m].
 */
#ifndef CALLREEL_PITCH_H
#define CALLREEL_PITCH_H

#include <stdint.h>
#include <string.h>

#include "callreel/cpu.h"

#define CR_PITCH_MIN 40     /* samples: 200 Hz; shorter periods show as their multiples */
#define CR_PITCH_MAX 120    /* samples: 66 Hz */
#define CR_PITCH_WINDOW 160 /* samples compared */
#define CR_PITCH_SAMPLES (CR_PITCH_MAX + CR_PITCH_WINDOW)
#define CR_PITCH_LAGS (CR_PITCH_MAX - CR_PITCH_MIN + 1)
#define CR_PITCH_ROOM 96    /* lags that the fast versions compute, a multiple of 32 */
#define CR_PITCH_BITS 11    /* of a sample, besides its sign */

/* How far to shift samples, of all of which `bits` is the union: of x, or ~x where x is negative. */
static inline int cr_pitch_shift(unsigned bits)
{
    int shift = 0;
    while (bits >> shift >> CR_PITCH_BITS)
        shift++;
    return shift;
}

/* The best lag by the cross products of all; `m` counts from the longest. */
CR_FORCE_INLINE uint32_t cr_pitch_choose(const int32_t *cross, const int16_t *scaled)
{
    float score[CR_PITCH_ROOM], best = 0;
    int32_t energy[CR_PITCH_ROOM], sum = 0;
    int best_m = CR_PITCH_LAGS - 1;
    for (int i = 0; i < CR_PITCH_WINDOW; i++)
        sum += scaled[i] * scaled[i];
    for (int m = 0; m < CR_PITCH_LAGS; m++) {
        energy[m] = sum;
        sum += scaled[CR_PITCH_WINDOW + m] * scaled[CR_PITCH_WINDOW + m] - scaled[m] * scaled[m];
    }
    for (int m = 0; m < CR_PITCH_LAGS; m++) {
        float product = (float)(cross[m] > 0 ? cross[m] : 0);
        score[m] = product * product / (float)(energy[m] > 1 ? energy[m] : 1);
    }
    for (int m = CR_PITCH_LAGS - 1; m >= 0; m--)
        if (score[m] > best) {
            best = score[m];
            best_m = m;
        }
    return (uint32_t)(CR_PITCH_MAX - best_m);
}

/* The samples, scaled. */
CR_FORCE_INLINE void cr_pitch_scale(int16_t *scaled, const int16_t *samples)
{
    uint16_t bits = 0;
    int shift;
    for (int i = 0; i < CR_PITCH_SAMPLES; i++)
        bits |= (uint16_t)(samples[i] < 0 ? ~samples[i] : samples[i]);
    shift = cr_pitch_shift(bits);
    for (int i = 0; i < CR_PITCH_SAMPLES; i++)
        scaled[i] = (int16_t)(samples[i] >= 0 ? samples[i] >> shift : ~(~samples[i] >> shift));
}

typedef uint32_t (*cr_pitch_fn)(const int16_t *samples);

static uint32_t cr_pitch_period_scalar(const int16_t *samples)
{
    int16_t scaled[CR_PITCH_SAMPLES];
    int32_t cross[CR_PITCH_LAGS];
    const int16_t *window = scaled + CR_PITCH_MAX;
    cr_pitch_scale(scaled, samples);
    for (int m = 0; m < CR_PITCH_LAGS; m++) {
        int32_t sum = 0;
        for (int i = 0; i < CR_PITCH_WINDOW; i++)
            sum += window[i] * scaled[i + m];
        cross[m] = sum;
    }
    return cr_pitch_choose(cross, scaled);
}

#ifdef CR_HAVE_X86
#include "callreel/pitch_sse2.h"
#include "callreel/pitch_avx2.h"
#include "callreel/pitch_avx512.h"
#endif
#ifdef CR_HAVE_NEON
#include "callreel/pitch_neon.h"
#endif

/* The version for one level; the machine must have it. AVX-512 needs VNNI here. */
static inline cr_pitch_fn cr_pitch_period_for(cr_isa isa)
{
    static const cr_pitch_fn versions[CR_ISA_COUNT] = {
        [CR_ISA_SCALAR] = cr_pitch_period_scalar,
#ifdef CR_HAVE_X86
        [CR_ISA_SSE2] = cr_pitch_period_sse2,
        [CR_ISA_AVX2] = cr_pitch_period_avx2,
        [CR_ISA_AVX512] = cr_pitch_period_avx512,
#endif
#ifdef CR_HAVE_NEON
        [CR_ISA_NEON] = cr_pitch_period_neon,
#endif
    };
    return versions[isa == CR_ISA_AVX512 && !cr_cpu_has_vnni() ? CR_ISA_AVX2 : isa];
}

/* The version in use; scalar until a module says otherwise, which it does once, at import. */
static cr_pitch_fn cr_pitch_period = cr_pitch_period_scalar;

static inline void cr_pitch_use(cr_isa isa) { cr_pitch_period = cr_pitch_period_for(isa); }

#endif
