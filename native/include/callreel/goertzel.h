/* Tone analysis in blocks: the complex amplitude at eight frequencies, and the energy above 670 Hz.
 *
 * What: signed 16-bit PCM -> for each block of 5 ms the amplitude and phase of eight tones, as a bank of Goertzel
 *       filters gives them; on demand the energy of the block without what lies below the tones.
 * How:  all sums are integers, so every version of this code gives the same numbers on any instruction set; what
 *       follows in float32 is written in one order (no contraction, no reassociation) and is the same too.
 *
 *   1. Windows. A block is seen through a raised cosine of twice its length, so that neighbouring blocks overlap by
 *      half and their windows add up to one:
 *
 *         samples      |----|----|----|----|          one hop of 5 ms each
 *         block n        .-''-.                       rises in hop n-1, falls in hop n
 *         block n + 1         .-''-.
 *         their sum      .-'''''''-.                  what two blocks see together: flat, with soft edges
 *
 *      Soft edges keep what is far away out: 200 Hz off, the side lobes of four blocks are 45 dB down. So dial tones,
 *      hum and a DC offset need no filter in front.
 *
 *   2. Amplitude. Goertzel's recurrence computes Z = sum of x[n] exp(i w (c-n)), one multiplication a sample and
 *      frequency, but each sample waits for the one before. The same sum is written here as dot products of int16
 *      with int32 sums, which instructions exist for (pmaddwd, vpdpwssd, smlal):
 *
 *         wave[n/2][lane][n%2] = window[n] * cos(w (c-n)) for lanes 0 to 7, ... sin ... for lanes 8 to 15
 *
 *      so a pair of samples, repeated over all lanes, meets one row of the table. The table is scaled so that no
 *      input overflows 32 bits; its rounding is 80 dB below the tone. A steady tone of exactly w turns Z by
 *      exp(i w hop) a block.
 *
 *   3. Energy. A high-pass (`tap`, 7 ms) takes dial tones, hum and DC away, then squares are summed with the
 *      windows of 1. It costs more than the eight tones together and is only computed where a tone is suspected.
 */
#ifndef CALLREEL_GOERTZEL_H
#define CALLREEL_GOERTZEL_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "callreel/bytes.h"
#include "callreel/cpu.h"

#define CR_TONE_LANES 8     /* frequencies of one bank */
#define CR_TONE_MAX_HOP 240 /* samples: 5 ms at 48 kHz */
#define CR_TONE_MAX_TAPS 336
#define CR_TONE_USUAL_HOP 40 /* 8 kHz: compiled on its own, with loops of known length */
#define CR_TONE_TAPS_PER_HOP 7 / 5 /* 7 ms: the response of the filter below has died away by 37 dB */
#define CR_TONE_BATCH 4     /* blocks computed at once: a packet of 20 ms */

#define CR_PI 3.14159265358979323846

typedef struct {
    uint32_t hop, taps;                 /* samples; taps is a multiple of 4 */
    float amplitude;                    /* int32 sum to amplitude, full scale 1 */
    float power;                        /* sum of windowed squares to squared amplitude of a sine */
    float turn_re[CR_TONE_LANES], turn_im[CR_TONE_LANES]; /* exp(i w hop) */
    float gain[CR_TONE_LANES];          /* power gain of the high-pass */
    int16_t (*wave)[2 * CR_TONE_LANES][2]; /* for each pair of a window's samples, that is `hop` rows */
    int16_t *fade;                      /* square root of the rising window, times 32767; zeros behind it */
    int16_t *tap;                       /* the high-pass, oldest sample first, times 16384 */
} cr_tone_plan;

typedef struct { double zero_hz, pole_hz, q; } cr_section_design;

/* Elliptic high-pass of order 4, corner 670 Hz, ripple 0.3 dB, stop band 35 dB: analogue zeros and poles. Passes
 * 697 Hz less 1.8 %, takes 33 dB or more off dial tones (350, 425, 440 Hz), off mains hum and off a DC offset. */
static const cr_section_design cr_highpass_design[2] = {
    {186.980, 892.714, 0.70736},
    {410.810, 634.197, 3.60382},
};

/* The first 7 ms of the high-pass's response, faded out. Bilinear transform of each section, each of its two
 * frequencies prewarped; unity gain at half the rate. */
static void cr_tone_plan_taps(cr_tone_plan *plan, double rate)
{
    double response[CR_TONE_MAX_TAPS] = {1};
    uint32_t taps = plan->hop * CR_TONE_TAPS_PER_HOP & ~3u, fade = taps / 2;
    for (int section = 0; section < 2; section++) {
        const cr_section_design *design = &cr_highpass_design[section];
        double zero = tan(CR_PI * design->zero_hz / rate), pole = tan(CR_PI * design->pole_hz / rate);
        double damping = pole / design->q, scale = 1 + damping + pole * pole;
        double a1 = 2 * (pole * pole - 1) / scale, a2 = (1 - damping + pole * pole) / scale;
        double b0 = (1 + zero * zero) / scale, b1 = 2 * (zero * zero - 1) / scale;
        double x1 = 0, x2 = 0, y1 = 0, y2 = 0;
        for (uint32_t i = 0; i < taps; i++) {
            double x = response[i], y = b0 * (x + x2) + b1 * x1 - a1 * y1 - a2 * y2;
            x2 = x1;
            x1 = x;
            y2 = y1;
            y1 = y;
            response[i] = y;
        }
    }
    plan->taps = taps;
    for (uint32_t i = 0; i < taps; i++) {
        double weight = i < taps - fade ? 1 : cos(CR_PI / 2 * (i - (taps - fade)) / fade);
        plan->tap[taps - 1 - i] = (int16_t)lrint(16384 * response[i] * weight);
    }
}

#define CR_TONE_FADE_SLACK 16

/* How many int16 the tables take: 1.4 thousand at 8 kHz. */
static size_t cr_tone_plan_room(uint32_t hop)
{
    return (size_t)hop * 4 * CR_TONE_LANES + hop + CR_TONE_FADE_SLACK + hop * CR_TONE_TAPS_PER_HOP;
}

/* `memory` belongs to the caller, who has filled it with zeros, and stays with the plan. */
static void cr_tone_plan_init(cr_tone_plan *plan, const double *hz, double rate, uint32_t hop, int16_t *memory)
{
    double largest = 0, scale;
    uint32_t window = 2 * hop;
    memset(plan, 0, sizeof *plan);
    plan->hop = hop;
    plan->wave = (int16_t (*)[2 * CR_TONE_LANES][2])memory;
    plan->fade = memory + hop * 4 * CR_TONE_LANES;
    plan->tap = plan->fade + hop + CR_TONE_FADE_SLACK;
    for (int pass = 0; pass < 2; pass++) {
        scale = pass ? floor((65535 - window) / largest) : 1; /* rounding adds up to 1/2 a sample */
        for (int lane = 0; lane < 2 * CR_TONE_LANES; lane++) {
            double w = 2 * CR_PI * hz[lane % CR_TONE_LANES] / rate, sum = 0;
            for (uint32_t n = 0; n < window; n++) {
                double rise = sin(CR_PI * (n + 0.5) / window), angle = w * (hop - 0.5 - n);
                double value = rise * rise * (lane < CR_TONE_LANES ? cos(angle) : sin(angle));
                sum += fabs(value);
                plan->wave[n / 2][lane][n % 2] = (int16_t)lrint(scale * value);
            }
            if (sum > largest)
                largest = sum;
        }
    }
    for (uint32_t n = 0; n < hop; n++)
        plan->fade[n] = (int16_t)lrint(32767 * sin(CR_PI * (n + 0.5) / window));
    cr_tone_plan_taps(plan, rate);
    for (int lane = 0; lane < CR_TONE_LANES; lane++) {
        double w = 2 * CR_PI * hz[lane] / rate, re = 0, im = 0;
        plan->turn_re[lane] = (float)cos(w * hop);
        plan->turn_im[lane] = (float)sin(w * hop);
        for (uint32_t i = 0; i < plan->taps; i++) {
            re += plan->tap[i] / 16384.0 * cos(w * i);
            im += plan->tap[i] / 16384.0 * sin(w * i);
        }
        plan->gain[lane] = (float)(re * re + im * im);
    }
    plan->amplitude = (float)(2 / (scale * hop * 32768)); /* the window adds up to `hop` */
    plan->power = (float)(2.0 / hop / (16384.0 * 16384));
}

/* ---- the sums of up to CR_TONE_BATCH blocks; `x` is the first sample of the first window ---- */

typedef int32_t cr_tone_sums[CR_TONE_BATCH][2 * CR_TONE_LANES];

static void cr_tone_sums_scalar(const cr_tone_plan *plan, const int16_t *x, uint32_t blocks, cr_tone_sums sums)
{
    for (uint32_t block = 0; block < blocks; block++, x += plan->hop) {
        int32_t sum[2 * CR_TONE_LANES] = {0};
        for (uint32_t pair = 0; pair < plan->hop; pair++) {
            for (int lane = 0; lane < 2 * CR_TONE_LANES; lane++)
                sum[lane] += x[2 * pair] * plan->wave[pair][lane][0];
            for (int lane = 0; lane < 2 * CR_TONE_LANES; lane++)
                sum[lane] += x[2 * pair + 1] * plan->wave[pair][lane][1];
        }
        memcpy(sums[block], sum, sizeof sum);
    }
}

#ifdef CR_HAVE_X86
CR_FORCE_INLINE int32_t cr_tone_pair(const int16_t *x) { int32_t pair; memcpy(&pair, x, sizeof pair); return pair; }

/* Half of the lanes of up to two blocks: eight sums fit the registers beside the table. */
CR_FORCE_INLINE void cr_tone_half_sse2(const cr_tone_plan *plan, const int16_t *x, uint32_t blocks, int half,
                                      cr_tone_sums sums)
{
    const uint32_t hop = plan->hop;
    __m128i sum[2][2] = {{_mm_setzero_si128(), _mm_setzero_si128()}, {_mm_setzero_si128(), _mm_setzero_si128()}};
    for (uint32_t pair = 0; pair < hop; pair++) {
        const __m128i *row = (const __m128i *)plan->wave[pair][8 * half];
        __m128i one = _mm_loadu_si128(row), two = _mm_loadu_si128(row + 1);
        for (uint32_t block = 0; block < blocks; block++) {
            __m128i both = _mm_set1_epi32(cr_tone_pair(x + block * hop + 2 * pair));
            sum[block][0] = _mm_add_epi32(sum[block][0], _mm_madd_epi16(one, both));
            sum[block][1] = _mm_add_epi32(sum[block][1], _mm_madd_epi16(two, both));
        }
    }
    for (uint32_t block = 0; block < blocks; block++)
        for (int part = 0; part < 2; part++)
            _mm_storeu_si128((__m128i *)&sums[block][8 * half + 4 * part], sum[block][part]);
}

static void cr_tone_sums_sse2(const cr_tone_plan *plan, const int16_t *x, uint32_t blocks, cr_tone_sums sums)
{
    for (; blocks >= 2; blocks -= 2, x += 2 * plan->hop, sums += 2)
        for (int half = 0; half < 2; half++)
            cr_tone_half_sse2(plan, x, 2, half, sums);
    if (blocks)
        for (int half = 0; half < 2; half++)
            cr_tone_half_sse2(plan, x, 1, half, sums);
}

CR_FORCE_INLINE CR_TARGET_AVX2 void cr_tone_some_avx2(const cr_tone_plan *plan, const int16_t *x, const uint32_t hop,
                                                   const uint32_t blocks, cr_tone_sums sums)
{
    __m256i sum[CR_TONE_BATCH][2];
    for (uint32_t block = 0; block < blocks; block++)
        sum[block][0] = sum[block][1] = _mm256_setzero_si256();
    for (uint32_t pair = 0; pair < hop; pair++) {
        const __m256i *row = (const __m256i *)plan->wave[pair];
        __m256i one = _mm256_loadu_si256(row), two = _mm256_loadu_si256(row + 1);
        for (uint32_t block = 0; block < blocks; block++) {
            __m256i both = _mm256_set1_epi32(cr_tone_pair(x + block * hop + 2 * pair));
            sum[block][0] = _mm256_add_epi32(sum[block][0], _mm256_madd_epi16(one, both));
            sum[block][1] = _mm256_add_epi32(sum[block][1], _mm256_madd_epi16(two, both));
        }
    }
    for (uint32_t block = 0; block < blocks; block++)
        for (int part = 0; part < 2; part++)
            _mm256_storeu_si256((__m256i *)&sums[block][8 * part], sum[block][part]);
}

CR_TARGET_AVX2 static void cr_tone_sums_avx2(const cr_tone_plan *plan, const int16_t *x, uint32_t blocks,
                                           cr_tone_sums sums)
{
    if (blocks == CR_TONE_BATCH && plan->hop == CR_TONE_USUAL_HOP)
        cr_tone_some_avx2(plan, x, CR_TONE_USUAL_HOP, CR_TONE_BATCH, sums);
    else
        for (uint32_t block = 0; block < blocks; block++)
            cr_tone_some_avx2(plan, x + block * plan->hop, plan->hop, 1, sums + block);
}

CR_FORCE_INLINE CR_TARGET_AVX512_VNNI void cr_tone_some_avx512(const cr_tone_plan *plan, const int16_t *x,
                                                       const uint32_t hop, const uint32_t blocks, cr_tone_sums sums)
{
    uint32_t pair = 0;
    __m512i even[CR_TONE_BATCH], odd[CR_TONE_BATCH]; /* two chains each: an addition takes several cycles */
    for (uint32_t block = 0; block < blocks; block++)
        even[block] = odd[block] = _mm512_setzero_si512();
    for (; pair + 2 <= hop; pair += 2) {
        __m512i one = _mm512_loadu_si512(plan->wave[pair]), two = _mm512_loadu_si512(plan->wave[pair + 1]);
        for (uint32_t block = 0; block < blocks; block++) {
            const int16_t *from = x + block * hop + 2 * pair;
            even[block] = _mm512_dpwssd_epi32(even[block], one, _mm512_set1_epi32(cr_tone_pair(from)));
            odd[block] = _mm512_dpwssd_epi32(odd[block], two, _mm512_set1_epi32(cr_tone_pair(from + 2)));
        }
    }
    for (uint32_t block = 0; block < blocks; block++) {
        if (pair < hop)
            even[block] = _mm512_dpwssd_epi32(even[block], _mm512_loadu_si512(plan->wave[pair]),
                                              _mm512_set1_epi32(cr_tone_pair(x + block * hop + 2 * pair)));
        _mm512_storeu_si512(sums[block], _mm512_add_epi32(even[block], odd[block]));
    }
}

CR_TARGET_AVX512_VNNI static void cr_tone_sums_avx512(const cr_tone_plan *plan, const int16_t *x, uint32_t blocks,
                                               cr_tone_sums sums)
{
    if (blocks == CR_TONE_BATCH && plan->hop == CR_TONE_USUAL_HOP)
        cr_tone_some_avx512(plan, x, CR_TONE_USUAL_HOP, CR_TONE_BATCH, sums);
    else
        for (uint32_t block = 0; block < blocks; block++)
            cr_tone_some_avx512(plan, x + block * plan->hop, plan->hop, 1, sums + block);
}
#endif

/* ---- the energy of one hop; `x` is its first sample, the `taps` - 1 samples before it are read too ---- */

typedef struct { uint64_t whole, rising; } cr_tone_energy; /* sum of squares; the same under the rising window */

static cr_tone_energy cr_tone_energy_scalar(const cr_tone_plan *plan, const int16_t *x)
{
    const uint32_t hop = plan->hop, taps = plan->taps;
    int32_t passed[CR_TONE_MAX_HOP];
    cr_tone_energy energy = {0, 0};
    x -= taps - 1;
    for (uint32_t n = 0; n < hop; n++)
        passed[n] = 16384; /* to round */
    for (uint32_t k = 0; k < taps; k++)
        for (uint32_t n = 0; n < hop; n++)
            passed[n] += x[n + k] * plan->tap[k];
    for (uint32_t n = 0; n < hop; n++) {
        int32_t value = passed[n] >> 15, faded; /* at half scale: the filter may overshoot */
        value = value > 32767 ? 32767 : value < -32768 ? -32768 : value;
        faded = (value * plan->fade[n] + 16384) >> 15;
        energy.whole += (uint32_t)(value * value);
        energy.rising += (uint32_t)(faded * faded);
    }
    return energy;
}

#ifdef CR_HAVE_X86
/* The fast versions read up to this many samples after the hop, and throw away what they make of them. */
#define CR_TONE_SLACK 64
static const int16_t cr_tone_mask[32] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};

/* Squares of eight filtered samples, whole and faded, added as 64-bit numbers. */
CR_FORCE_INLINE void cr_tone_add_squares_sse2(__m128i passed, __m128i fade, __m128i *whole, __m128i *rising)
{
    const __m128i zero = _mm_setzero_si128(), one = _mm_set1_epi16(1), half = _mm_set1_epi16(16384);
    __m128i low = _mm_madd_epi16(_mm_unpacklo_epi16(passed, one), _mm_unpacklo_epi16(fade, half));
    __m128i high = _mm_madd_epi16(_mm_unpackhi_epi16(passed, one), _mm_unpackhi_epi16(fade, half));
    __m128i faded = _mm_packs_epi32(_mm_srai_epi32(low, 15), _mm_srai_epi32(high, 15));
    __m128i squares = _mm_madd_epi16(passed, passed); /* two may add up to 2^31: unsigned */
    *whole = _mm_add_epi64(*whole, _mm_add_epi64(_mm_unpacklo_epi32(squares, zero), _mm_unpackhi_epi32(squares, zero)));
    squares = _mm_madd_epi16(faded, faded);
    *rising = _mm_add_epi64(*rising,
                            _mm_add_epi64(_mm_unpacklo_epi32(squares, zero), _mm_unpackhi_epi32(squares, zero)));
}

CR_FORCE_INLINE uint64_t cr_tone_total_sse2(__m128i sums)
{
    uint64_t parts[2];
    _mm_storeu_si128((__m128i *)parts, sums);
    return parts[0] + parts[1];
}

/* Outputs side by side: even ones need pairs from an even place on, odd ones from the next; each tap pair is
 * repeated over all lanes. */
static cr_tone_energy cr_tone_energy_sse2(const cr_tone_plan *plan, const int16_t *x)
{
    const __m128i half = _mm_set1_epi32(16384);
    __m128i whole = _mm_setzero_si128(), rising = _mm_setzero_si128();
    cr_tone_energy energy;
    x -= plan->taps - 1;
    for (uint32_t n = 0; n < plan->hop; n += 8) {
        __m128i even = half, odd = half, passed;
        uint32_t rest = plan->hop - n < 8 ? plan->hop - n : 8;
        for (uint32_t k = 0; k < plan->taps; k += 2) {
            __m128i tap = _mm_set1_epi32(cr_tone_pair(plan->tap + k));
            even = _mm_add_epi32(even, _mm_madd_epi16(_mm_loadu_si128((const __m128i *)(x + n + k)), tap));
            odd = _mm_add_epi32(odd, _mm_madd_epi16(_mm_loadu_si128((const __m128i *)(x + n + k + 1)), tap));
        }
        even = _mm_srai_epi32(even, 15);
        odd = _mm_srai_epi32(odd, 15);
        passed = _mm_packs_epi32(_mm_unpacklo_epi32(even, odd), _mm_unpackhi_epi32(even, odd));
        passed = _mm_and_si128(passed, _mm_loadu_si128((const __m128i *)(cr_tone_mask + 16 - rest)));
        cr_tone_add_squares_sse2(passed, _mm_loadu_si128((const __m128i *)(plan->fade + n)), &whole, &rising);
    }
    energy.whole = cr_tone_total_sse2(whole);
    energy.rising = cr_tone_total_sse2(rising);
    return energy;
}

CR_FORCE_INLINE CR_TARGET_AVX2 void cr_tone_add_squares_avx2(__m256i even, __m256i odd, const int16_t *fade,
                                                          uint32_t rest, __m256i *whole, __m256i *rising)
{
    const __m256i zero = _mm256_setzero_si256();
    __m256i passed, faded, squares;
    even = _mm256_srai_epi32(even, 15);
    odd = _mm256_srai_epi32(odd, 15);
    passed = _mm256_packs_epi32(_mm256_unpacklo_epi32(even, odd), _mm256_unpackhi_epi32(even, odd));
    if (rest < 16)
        passed = _mm256_and_si256(passed, _mm256_loadu_si256((const __m256i *)(cr_tone_mask + 16 - rest)));
    faded = _mm256_mulhrs_epi16(passed, _mm256_loadu_si256((const __m256i *)fade));
    squares = _mm256_madd_epi16(passed, passed);
    *whole = _mm256_add_epi64(*whole, _mm256_add_epi64(_mm256_unpacklo_epi32(squares, zero),
                                                       _mm256_unpackhi_epi32(squares, zero)));
    squares = _mm256_madd_epi16(faded, faded);
    *rising = _mm256_add_epi64(*rising, _mm256_add_epi64(_mm256_unpacklo_epi32(squares, zero),
                                                         _mm256_unpackhi_epi32(squares, zero)));
}

CR_FORCE_INLINE CR_TARGET_AVX2 uint64_t cr_tone_total_avx2(__m256i sums)
{
    return cr_tone_total_sse2(_mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1)));
}

CR_FORCE_INLINE CR_TARGET_AVX2 cr_tone_energy cr_tone_energy_any_avx2(const cr_tone_plan *plan, const int16_t *x,
                                                  const uint32_t hop, const uint32_t taps)
{
    const __m256i half = _mm256_set1_epi32(16384);
    __m256i whole = _mm256_setzero_si256(), rising = _mm256_setzero_si256();
    cr_tone_energy energy;
    x -= taps - 1;
    for (uint32_t n = 0; n < hop; n += 16) {
        __m256i even = half, odd = half;
        for (uint32_t k = 0; k < taps; k += 2) {
            __m256i tap = _mm256_set1_epi32(cr_tone_pair(plan->tap + k));
            even = _mm256_add_epi32(even, _mm256_madd_epi16(_mm256_loadu_si256((const __m256i *)(x + n + k)), tap));
            odd = _mm256_add_epi32(odd, _mm256_madd_epi16(_mm256_loadu_si256((const __m256i *)(x + n + k + 1)), tap));
        }
        cr_tone_add_squares_avx2(even, odd, plan->fade + n, hop - n, &whole, &rising);
    }
    energy.whole = cr_tone_total_avx2(whole);
    energy.rising = cr_tone_total_avx2(rising);
    return energy;
}

CR_TARGET_AVX2 static cr_tone_energy cr_tone_energy_avx2(const cr_tone_plan *plan, const int16_t *x)
{
    if (plan->hop == CR_TONE_USUAL_HOP)
        return cr_tone_energy_any_avx2(plan, x, CR_TONE_USUAL_HOP, CR_TONE_USUAL_HOP * CR_TONE_TAPS_PER_HOP);
    return cr_tone_energy_any_avx2(plan, x, plan->hop, plan->taps);
}

CR_FORCE_INLINE CR_TARGET_AVX512_VNNI cr_tone_energy
cr_tone_energy_any_avx512(const cr_tone_plan *plan, const int16_t *x,
                                                    const uint32_t hop, const uint32_t taps)
{
    __m256i whole = _mm256_setzero_si256(), rising = _mm256_setzero_si256();
    cr_tone_energy energy;
    x -= taps - 1;
    for (uint32_t n = 0; n < hop; n += 48) { /* one turn at 8 kHz; eight chains, for an addition takes four cycles */
        __m512i even = _mm512_set1_epi32(16384), odd = even, even2 = _mm512_setzero_si512(), odd2 = even2;
        __m256i more_even = _mm256_set1_epi32(16384), more_odd = more_even;
        __m256i more_even2 = _mm256_setzero_si256(), more_odd2 = more_even2;
        for (uint32_t k = 0; k < taps; k += 4) {
            const int16_t *from = x + n + k;
            __m512i tap = _mm512_set1_epi32(cr_tone_pair(plan->tap + k));
            __m512i tap2 = _mm512_set1_epi32(cr_tone_pair(plan->tap + k + 2));
            even = _mm512_dpwssd_epi32(even, _mm512_loadu_si512(from), tap);
            odd = _mm512_dpwssd_epi32(odd, _mm512_loadu_si512(from + 1), tap);
            even2 = _mm512_dpwssd_epi32(even2, _mm512_loadu_si512(from + 2), tap2);
            odd2 = _mm512_dpwssd_epi32(odd2, _mm512_loadu_si512(from + 3), tap2);
            from += 32;
            more_even = _mm256_dpwssd_epi32(more_even, _mm256_loadu_si256((const __m256i *)from),
                                            _mm512_castsi512_si256(tap));
            more_odd = _mm256_dpwssd_epi32(more_odd, _mm256_loadu_si256((const __m256i *)(from + 1)),
                                           _mm512_castsi512_si256(tap));
            more_even2 = _mm256_dpwssd_epi32(more_even2, _mm256_loadu_si256((const __m256i *)(from + 2)),
                                             _mm512_castsi512_si256(tap2));
            more_odd2 = _mm256_dpwssd_epi32(more_odd2, _mm256_loadu_si256((const __m256i *)(from + 3)),
                                            _mm512_castsi512_si256(tap2));
        }
        even = _mm512_add_epi32(even, even2);
        odd = _mm512_add_epi32(odd, odd2);
        cr_tone_add_squares_avx2(_mm512_castsi512_si256(even), _mm512_castsi512_si256(odd), plan->fade + n, hop - n,
                                 &whole, &rising);
        if (hop - n > 16)
            cr_tone_add_squares_avx2(_mm512_extracti64x4_epi64(even, 1), _mm512_extracti64x4_epi64(odd, 1),
                                     plan->fade + n + 16, hop - n - 16, &whole, &rising);
        if (hop - n > 32)
            cr_tone_add_squares_avx2(_mm256_add_epi32(more_even, more_even2), _mm256_add_epi32(more_odd, more_odd2),
                                     plan->fade + n + 32, hop - n - 32, &whole, &rising);
    }
    energy.whole = cr_tone_total_avx2(whole);
    energy.rising = cr_tone_total_avx2(rising);
    return energy;
}

CR_TARGET_AVX512_VNNI static cr_tone_energy cr_tone_energy_avx512(const cr_tone_plan *plan, const int16_t *x)
{
    if (plan->hop == CR_TONE_USUAL_HOP)
        return cr_tone_energy_any_avx512(plan, x, CR_TONE_USUAL_HOP, CR_TONE_USUAL_HOP * CR_TONE_TAPS_PER_HOP);
    return cr_tone_energy_any_avx512(plan, x, plan->hop, plan->taps);
}
#else
#define CR_TONE_SLACK 0
#endif

/* Whether all samples are nearer to zero than `limit`. */
CR_FORCE_INLINE int cr_tone_is_quiet(const int16_t *x, uint32_t samples, int16_t limit)
{
    uint32_t i = 0;
#ifdef CR_HAVE_X86
    const __m128i above = _mm_set1_epi16((int16_t)(limit - 1)), below = _mm_set1_epi16((int16_t)(1 - limit));
    for (; i + 8 <= samples; i += 8) {
        __m128i eight = _mm_loadu_si128((const __m128i *)(x + i));
        if (_mm_movemask_epi8(_mm_or_si128(_mm_cmpgt_epi16(eight, above), _mm_cmpgt_epi16(below, eight))))
            return 0;
    }
#endif
    for (; i < samples; i++)
        if (x[i] >= limit || x[i] <= -limit)
            return 0;
    return 1;
}

/* The angle of a complex number, in radians, to 12 millionths: the same on every machine, unlike the library's. */
CR_FORCE_INLINE float cr_tone_angle(float re, float im)
{
    float x = fabsf(re), y = fabsf(im), large = x > y ? x : y, small = x > y ? y : x, t, u, angle;
    if (large == 0)
        return 0;
    t = small / large;
    u = t * t;
    angle = t * (0.9998663f + u * (-0.33030447f + u * (0.1801581f + u * (-0.08515469f + u * 0.02084436f))));
    if (y > x)
        angle = 1.57079633f - angle;
    if (re < 0)
        angle = 3.14159265f - angle;
    return im < 0 ? -angle : angle;
}

#endif
