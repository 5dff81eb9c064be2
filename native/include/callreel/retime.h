/* Samples moved onto another clock: a fraction of a sample aside, the fraction growing by up to 2,000 ppm.
 *
 * What: groups of eight samples. The samples of a group share their fraction, that in the middle of the group: at
 *       2,000 ppm, as fast as it gets, the outer ones are off by 0.007 samples. Where group g stands is
 *
 *           place + g * step                     64 bits, 32 of them behind the point
 *           = whole + phase / PHASES             rounded down to a phase; `whole` may be negative
 *
 * How:  out[8g + j] = sum over i < 16 of tap[phase][i] * samples[8g + whole + i + j]       j = 0 ... 7
 *       which is the moment (whole + phase / PHASES) behind samples[8g + 7 + j]. The taps of a phase are a sinc under
 *       a Kaiser window, 16 bits with 14 of them behind the point; there are so many phases that none are needed
 *       between two of them:
 *
 *           4,096 phases      a tone stands within 1/8,192 sample of its place: 75 dB below one of 3 kHz
 *           14 bits of a tap  83 dB below the signal
 *
 * Requirements, tested in tests/unit/test_legs.py and tests/native/isa_differential.c:
 *   1. A tone of 1 kHz at 100 ppm stays 65 dB above all else, one of 3 kHz 60 dB.
 *   2. The taps of a phase add up to 1: a constant signal stays as it is.
 *   3. Sums are exact (the magnitudes of a phase's taps add up to less than 2, so 32 bits suffice): their order does
 *      not matter, and every version gives the same bits. The total is rounded to the nearest, halves up, and saturated.
 *   4. Nothing is read but what the sums need: samples[whole of group 0] to samples[8g + whole + 22], the last g.
 *
 * Versions, a header each: retime_sse2.h, retime_avx2.h, retime_avx512.h, retime_neon.h.
 */
#ifndef CALLREEL_RETIME_H
#define CALLREEL_RETIME_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "callreel/cpu.h"

#define CR_RETIME_GROUP 8
#define CR_RETIME_TAPS 16
#define CR_RETIME_BEFORE (CR_RETIME_TAPS / 2 - 1) /* samples before the one that a phase of 0 gives back */
#define CR_RETIME_PHASES 4096
#define CR_RETIME_PHASE_SHIFT 20 /* from 32 bits behind the point to a phase */
#define CR_RETIME_UNITY 16384    /* a tap of 1 */
#define CR_RETIME_SHIFT 14
#define CR_RETIME_ONE 4294967296.0 /* one sample, as place and step count */

static int16_t cr_retime_taps[CR_RETIME_PHASES][CR_RETIME_TAPS];

/* Modified Bessel function of the first kind, order 0. */
static inline double cr_retime_bessel_i0(double x)
{
    double sum = 1, term = 1;
    for (int k = 1; term > sum * 1e-9; k++) {
        term *= (x / 2 / k) * (x / 2 / k);
        sum += term;
    }
    return sum;
}

/* The Kaiser window at `distance` parts of a sample from its middle. */
#define CR_RETIME_PARTS 64
static inline double cr_retime_window(int distance)
{
    const double beta = 7.0;
    double place = distance / (CR_RETIME_PARTS * CR_RETIME_TAPS / 2.0);
    return place >= 1 ? 0 : cr_retime_bessel_i0(beta * sqrt(1 - place * place)) / cr_retime_bessel_i0(beta);
}

/* Called once when a module is imported, so it is quick: the window is straight between 64ths of a sample, which is
 * exact to 18 bits, and the sine of all taps of a phase is the same but for its sign. */
static inline void cr_retime_init(void)
{
    const double pi = 3.14159265358979323846;
    double window[CR_RETIME_PARTS * CR_RETIME_TAPS / 2 + 2];
    for (int i = 0; i < CR_RETIME_PARTS * CR_RETIME_TAPS / 2 + 2; i++)
        window[i] = cr_retime_window(i);
    for (int phase = 0; phase < CR_RETIME_PHASES; phase++) {
        double fraction = (double)phase / CR_RETIME_PHASES, sine = sin(pi * fraction), sum = 0;
        double taps[CR_RETIME_TAPS];
        int total = 0;
        for (int i = 0; i < CR_RETIME_TAPS; i++) {
            double x = fabs(i - CR_RETIME_BEFORE - fraction), at = CR_RETIME_PARTS * x;
            double w = window[(int)at] + (at - (int)at) * (window[(int)at + 1] - window[(int)at]);
            taps[i] = phase ? ((i - CR_RETIME_BEFORE) % 2 ? sine : -sine) / (pi * (i - CR_RETIME_BEFORE - fraction)) * w
                            : i == CR_RETIME_BEFORE;
            sum += taps[i];
        }
        for (int i = 0; i < CR_RETIME_TAPS; i++) {
            cr_retime_taps[phase][i] = (int16_t)floor(taps[i] / sum * CR_RETIME_UNITY + 0.5);
            total += cr_retime_taps[phase][i];
        }
        /* What rounding has left of 1 goes to the largest tap. */
        cr_retime_taps[phase][CR_RETIME_BEFORE + (phase > CR_RETIME_PHASES / 2)] += (int16_t)(CR_RETIME_UNITY - total);
    }
}

static inline int64_t cr_retime_whole(int64_t place)
{
    return place >= 0 ? place >> 32 : ~(~place >> 32);
}

static inline const int16_t *cr_retime_row(int64_t place)
{
    return cr_retime_taps[(uint32_t)place >> CR_RETIME_PHASE_SHIFT];
}

typedef void (*cr_retime_fn)(int16_t *out, const int16_t *samples, size_t groups, int64_t place, int64_t step);

static void cr_retime_scalar(int16_t *out, const int16_t *samples, size_t groups, int64_t place, int64_t step)
{
    for (; groups; groups--, place += step, samples += CR_RETIME_GROUP, out += CR_RETIME_GROUP) {
        const int16_t *from = samples + cr_retime_whole(place), *taps = cr_retime_row(place);
        for (int j = 0; j < CR_RETIME_GROUP; j++) {
            int32_t sum = CR_RETIME_UNITY / 2;
            for (int i = 0; i < CR_RETIME_TAPS; i++)
                sum += taps[i] * from[i + j];
            sum = sum >= 0 ? sum >> CR_RETIME_SHIFT : ~(~sum >> CR_RETIME_SHIFT);
            out[j] = (int16_t)(sum > 32767 ? 32767 : sum < -32768 ? -32768 : sum);
        }
    }
}

#ifdef CR_HAVE_X86
#include "callreel/retime_sse2.h"
#include "callreel/retime_avx2.h"
#include "callreel/retime_avx512.h"
#endif
#ifdef CR_HAVE_NEON
#include "callreel/retime_neon.h"
#endif

/* The version for one level; the machine must have it. AVX-512 needs VNNI here. */
static inline cr_retime_fn cr_retime_for(cr_isa isa)
{
    static const cr_retime_fn versions[CR_ISA_COUNT] = {
        [CR_ISA_SCALAR] = cr_retime_scalar,
#ifdef CR_HAVE_X86
        [CR_ISA_SSE2] = cr_retime_sse2,
        [CR_ISA_AVX2] = cr_retime_avx2,
        [CR_ISA_AVX512] = cr_retime_avx512,
#endif
#ifdef CR_HAVE_NEON
        [CR_ISA_NEON] = cr_retime_neon,
#endif
    };
    return versions[isa == CR_ISA_AVX512 && !cr_cpu_has_vnni() ? CR_ISA_AVX2 : isa];
}

/* The version in use; scalar until a module says otherwise, which it does once, at import. */
static cr_retime_fn cr_retime = cr_retime_scalar;

static inline void cr_retime_use(cr_isa isa)
{
    cr_retime_init();
    cr_retime = cr_retime_for(isa);
}

#endif
