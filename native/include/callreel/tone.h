/* Tones: one or two sines, DTMF, with raised-cosine ramps. The scalar specification.
 *
 * What: 16-bit PCM of a tone described by a `cr_tone`, any part of it at a time.
 * How:  sample n is a pure function of n. Nothing is carried from sample to sample, so a tone rendered in parts is
 *       the tone rendered at once, and a part can be rendered again or out of order.
 *
 *           sample(n) = ramp(n) * sum over components of  peak * sin(2 pi hz n / sample_rate)
 *
 *       ramp(n)  1 |      ________________
 *                  |     /                \           rises and falls over ramp_samples as
 *                0 |____/                  \____      (1 - cos(pi (i + 1/2) / ramp_samples)) / 2
 *                  0                 total_samples
 *
 * Requirements, each a test in tests/native/test_tone.py:
 *   1. Any division into parts gives the same samples. Frequencies in whole Hz repeat exactly every second, so the
 *      phase is exact however far n is.
 *   2. Values are rounded to the nearest integer and saturated; the phase of sample 0 is 0.
 *   3. A component at `dbm0` has the peak 32768 * 10^((dbm0 - 3.14) / 20), see pcm.h.
 *   4. From total_samples on there is silence. A tone whose end is not yet known has CR_TONE_OPEN_END and no ramp
 *      down; once the end is known, and ramp_samples of it are still to be rendered, setting total_samples gives
 *      the same tone as if it had been known from the start.
 *   5. A tone shorter than both ramps has their product.
 *   6. DTMF: the frequency pairs of ITU-T Q.23. Levels are per component, as ITU-T Q.24 counts them: the low group
 *      is at dbm0, the high group at dbm0 + twist_db.
 *
 *                  1209  1336  1477  1633 Hz  (high group)
 *          697 Hz    1     2     3     A
 *          770 Hz    4     5     6     B
 *          852 Hz    7     8     9     C
 *          941 Hz    *     0     #     D
 *
 *      A symbol's index is its event code in RFC 4733, section 3.2: 0 to 9, then * # A B C D.
 */
#ifndef CALLREEL_TONE_H
#define CALLREEL_TONE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "callreel/bytes.h"
#include "callreel/pcm.h"

#define CR_TONE_OPEN_END UINT64_MAX
#define CR_DTMF_SYMBOLS "0123456789*#ABCD" /* by RFC 4733 event code */
#define CR_DTMF_SYMBOL_COUNT 16

typedef struct {
    uint32_t sample_rate;
    uint32_t components;    /* 1 or 2 */
    double hz[2];
    double peak[2];         /* in samples: cr_peak_of_dbm0 */
    uint64_t total_samples; /* or CR_TONE_OPEN_END */
    uint64_t ramp_samples;  /* at each end; 0 for none */
} cr_tone;

/* sin(2 pi hz n / sample_rate); the whole Hz are reduced in integers, see requirement 1. */
static inline double cr_tone_sine(double hz, uint64_t n, uint32_t sample_rate)
{
    const double two_pi = 6.28318530717958647692;
    double whole_hz = floor(hz);
    uint64_t place = (uint64_t)whole_hz * (n % sample_rate) % sample_rate;
    double turns = (double)place / sample_rate + (hz - whole_hz) * (double)n / sample_rate;
    return sin(two_pi * (turns - floor(turns)));
}

/* One end of the ramp: 0 < result < 1 in the first `ramp_samples`, 1 after them. */
static inline double cr_tone_rise(uint64_t i, uint64_t ramp_samples)
{
    const double pi = 3.14159265358979323846;
    return i < ramp_samples ? (1 - cos(pi * ((double)i + 0.5) / (double)ramp_samples)) / 2 : 1;
}

static inline double cr_tone_ramp(const cr_tone *tone, uint64_t n)
{
    double ramp;
    if (n >= tone->total_samples)
        return 0;
    ramp = cr_tone_rise(n, tone->ramp_samples);
    if (tone->total_samples != CR_TONE_OPEN_END)
        ramp *= cr_tone_rise(tone->total_samples - 1 - n, tone->ramp_samples);
    return ramp;
}

/* Write the samples first_sample ... first_sample + samples - 1 of the tone. */
static inline void cr_tone_render_scalar(uint8_t *pcm, size_t samples, const cr_tone *tone, uint64_t first_sample)
{
    for (size_t i = 0; i < samples; i++) {
        uint64_t n = first_sample + i;
        double ramp = cr_tone_ramp(tone, n), value = 0;
        if (ramp > 0)
            for (uint32_t c = 0; c < tone->components; c++)
                value += tone->peak[c] * cr_tone_sine(tone->hz[c], n, tone->sample_rate);
        cr_store_s16(pcm + 2 * i, cr_round_f64_s16(ramp * value));
    }
}

/* The two frequencies of a symbol, 0 <= symbol_index < CR_DTMF_SYMBOL_COUNT. */
static inline void cr_dtmf_frequencies(int symbol_index, int *low_hz, int *high_hz)
{
    static const int16_t low[4] = {697, 770, 852, 941}, high[4] = {1209, 1336, 1477, 1633};
    /* By event code: row * 4 + column on the keypad. */
    static const uint8_t key[CR_DTMF_SYMBOL_COUNT] = {13, 0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 14, 3, 7, 11, 15};
    *low_hz = low[key[symbol_index] / 4];
    *high_hz = high[key[symbol_index] % 4];
}

/* Describe a DTMF tone, for cr_tone_render_scalar. */
static inline cr_tone cr_tone_of_key(int symbol_index, double dbm0, double twist_db, uint32_t sample_rate,
                                   uint64_t total_samples, uint64_t ramp_samples)
{
    cr_tone tone;
    int low_hz, high_hz;
    cr_dtmf_frequencies(symbol_index, &low_hz, &high_hz);
    tone.sample_rate = sample_rate;
    tone.components = 2;
    tone.hz[0] = low_hz;
    tone.hz[1] = high_hz;
    tone.peak[0] = cr_peak_of_dbm0(dbm0);
    tone.peak[1] = cr_peak_of_dbm0(dbm0 + twist_db);
    tone.total_samples = total_samples;
    tone.ramp_samples = ramp_samples;
    return tone;
}

/* Write the samples first_sample ... first_sample + samples - 1 of a DTMF tone, both components at `dbm0`. */
static inline void cr_dtmf_render_scalar(uint8_t *pcm, size_t samples, int symbol_index, double dbm0,
                                         uint32_t sample_rate, uint64_t first_sample, uint64_t total_samples,
                                         uint64_t ramp_samples)
{
    cr_tone tone = cr_tone_of_key(symbol_index, dbm0, 0, sample_rate, total_samples, ramp_samples);
    cr_tone_render_scalar(pcm, samples, &tone, first_sample);
}

#endif
