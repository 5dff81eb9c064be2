/* Linear PCM: weave and unweave channels, mix, gain, level. The scalar specification, and the choice among its faster
 * versions.
 *
 * What: signed 16-bit little-endian samples, contiguous, at any address (odd ones too).
 * How:  one pass each; integer arithmetic but for the gain, which is one float32 multiplication a sample.
 *
 *   interleave          left   L0 L1 L2 ...          stereo  L0 R0 L1 R1 L2 R2 ...
 *                       right  R0 R1 R2 ...                  one frame = one sample of each channel
 *
 * Requirements, each a test in tests/native/test_pcm.py. Faster versions must give the same bits.
 *   1. mix: the sum of all tracks in 32 bits, saturated once at the end. Saturating after every track would make
 *      the result depend on their order. int32 holds 65,536 samples of -32768; 65,535 tracks are allowed.
 *   2. gain: sample * multiplier, both float32, one rounding (nearest, ties to even); clamped to -32768..32767;
 *      rounded to an integer (nearest, ties to even). A multiplier of 1 changes nothing.
 *   3. mix and gain may write over an input that begins exactly where the output begins; every other overlap, and
 *      any overlap in interleave and deinterleave, gives unspecified samples.
 *   4. level: sum of squares exact in 64 bits for up to CR_LEVEL_MAX_SAMPLES. The peak of -32768 is 32768.
 *   5. dBm0: a sine whose peak is 32768, full scale of 16 bits, is at +3.14 dBm0: the overload point of A-law,
 *      ITU-T G.711 (11/88). µ-law's is +3.17 dBm0 at 32636, so its levels read 0.07 dB low here.
 *      rms  dBm0 = 20 log10(rms / 32768)  + 3.14 + 10 log10(2)     the sine's rms is its peak / sqrt(2)
 *      peak dBm0 = 20 log10(peak / 32768) + 3.14                   level of the sine that has this peak
 *      No samples, or only zeros: minus infinity.
 *   6. weighted sum, of float32, a multiple of 8 of them: eight sums run side by side, sum s over the items s, s + 8,
 *      s + 16 ...: product rounded, then sum rounded, never fused (compile with -ffp-contract=off). They fold as
 *      ((s0+s4) + (s2+s6)) + ((s1+s5) + (s3+s7)).
 *   7. mix minus: for each track the sum of all others, exact and saturated once, as the total less the track itself:
 *      two passes over n tracks in place of n mixes. Of one track it is silence. No output overlaps an input.
 *      One version for all machines: its loops have a constant length, which compilers turn into vector code.
 *
 * Versions, a header each: pcm_sse2.h, pcm_avx2.h, pcm_avx512.h, pcm_neon.h. `cr_pcm_use` puts one of them into
 * `cr_pcm`, which every module that includes this header has for itself and sets at import.
 */
#ifndef CALLREEL_PCM_H
#define CALLREEL_PCM_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "callreel/bytes.h"
#include "callreel/cpu.h"
#include "callreel/decibel.h"

#define CR_MIX_MAX_TRACKS 65535         /* int32 / int16, requirement 1 */
#define CR_MIX_BLOCK_SAMPLES 512        /* 2 KB of sums: they stay in the first-level cache while tracks pass by */
#define CR_MIX_MINUS_BLOCK_SAMPLES 32   /* a whole number of registers of every width */
#define CR_LEVEL_MAX_SAMPLES 0x3FFFFFFFFu /* 2^34 - 1: 2^64 / 32768^2 */
#define CR_GAIN_MAX_DB 200.0            /* already 10^10: one step becomes full scale, or full scale nothing */
#define CR_FULL_SCALE 32768.0           /* peak of the loudest sine, in samples */
#define CR_FULL_SCALE_DBM0 3.14         /* its level, requirement 5 */
#define CR_SINE_PEAK_TO_RMS_DB 3.0102999566398120 /* 10 log10(2) */

static inline int16_t cr_saturate_s16(int32_t value)
{
    return (int16_t)(value < -32768 ? -32768 : value > 32767 ? 32767 : value);
}

/* Clamp, then round to nearest, ties to even. At 1.5 * 2^23 the float32 grid has a step of 1, so adding and
 * subtracting it rounds as IEEE 754 does, without a call into libm. Not for NaN. */
static inline int16_t cr_round_f32_s16(float value)
{
    const float grid = 12582912.0f;
    value = value < -32768.0f ? -32768.0f : value;
    value = value > 32767.0f ? 32767.0f : value;
    return (int16_t)(int32_t)((value + grid) - grid);
}

/* The same for float64, at 1.5 * 2^52. */
static inline int16_t cr_round_f64_s16(double value)
{
    const double grid = 6755399441055744.0;
    value = value < -32768.0 ? -32768.0 : value;
    value = value > 32767.0 ? 32767.0 : value;
    return (int16_t)(int32_t)((value + grid) - grid);
}

/* Level of samples with this mean square (samples squared). */
static inline double cr_dbm0_of_mean_square(double mean_square)
{
    if (mean_square <= 0)
        return -HUGE_VAL;
    return 10 * log10(mean_square / (CR_FULL_SCALE * CR_FULL_SCALE)) + CR_FULL_SCALE_DBM0 + CR_SINE_PEAK_TO_RMS_DB;
}

/* Level of the sine with this peak, and the peak of the sine at this level. */
static inline double cr_dbm0_of_peak(double peak)
{
    if (peak <= 0)
        return -HUGE_VAL;
    return 20 * log10(peak / CR_FULL_SCALE) + CR_FULL_SCALE_DBM0;
}

static inline double cr_peak_of_dbm0(double dbm0)
{
    return CR_FULL_SCALE * cr_ten_to((dbm0 - CR_FULL_SCALE_DBM0) / 20);
}

static inline void cr_pcm_interleave_scalar(uint8_t *stereo, const uint8_t *left, const uint8_t *right, size_t frames)
{
    for (size_t i = 0; i < frames; i++) {
        cr_store_s16(stereo + 4 * i, cr_load_s16(left + 2 * i));
        cr_store_s16(stereo + 4 * i + 2, cr_load_s16(right + 2 * i));
    }
}

/* One channel of stereo frames: 0 is left, 1 is right. */
static inline void cr_pcm_pick_channel_scalar(uint8_t *mono, const uint8_t *stereo, size_t frames, unsigned channel)
{
    for (size_t i = 0; i < frames; i++)
        cr_store_s16(mono + 2 * i, cr_load_s16(stereo + 4 * i + 2 * channel));
}

static inline void cr_pcm_deinterleave_scalar(uint8_t *left, uint8_t *right, const uint8_t *stereo, size_t frames)
{
    for (size_t i = 0; i < frames; i++) {
        cr_store_s16(left + 2 * i, cr_load_s16(stereo + 4 * i));
        cr_store_s16(right + 2 * i, cr_load_s16(stereo + 4 * i + 2));
    }
}

/* Requirement 1 for the samples from `start` on; 1 to CR_MIX_MAX_TRACKS tracks of `samples` each. */
static inline void cr_pcm_mix_from_scalar(uint8_t *mixed, const uint8_t *const *tracks, size_t track_count,
                                          size_t start, size_t samples)
{
    int32_t sums[CR_MIX_BLOCK_SAMPLES];
    for (; start < samples; start += CR_MIX_BLOCK_SAMPLES) {
        size_t count = samples - start < CR_MIX_BLOCK_SAMPLES ? samples - start : CR_MIX_BLOCK_SAMPLES;
        for (size_t i = 0; i < count; i++)
            sums[i] = cr_load_s16(tracks[0] + 2 * (start + i));
        for (size_t t = 1; t < track_count; t++)
            for (size_t i = 0; i < count; i++)
                sums[i] += cr_load_s16(tracks[t] + 2 * (start + i));
        for (size_t i = 0; i < count; i++)
            cr_store_s16(mixed + 2 * (start + i), cr_saturate_s16(sums[i]));
    }
}

static inline void cr_pcm_mix_scalar(uint8_t *mixed, const uint8_t *const *tracks, size_t track_count, size_t samples)
{
    cr_pcm_mix_from_scalar(mixed, tracks, track_count, 0, samples);
}

/* `samples` of requirement 7 from `start` on: a constant at every call but the last. */
static inline void cr_pcm_mix_minus_block(uint8_t *const *heard, const uint8_t *const *tracks, size_t track_count,
                                          size_t start, size_t samples)
{
    int32_t sums[CR_MIX_MINUS_BLOCK_SAMPLES] = {0};
    for (size_t t = 0; t < track_count; t++)
        for (size_t i = 0; i < samples; i++)
            sums[i] += cr_load_s16(tracks[t] + 2 * (start + i));
    for (size_t t = 0; t < track_count; t++)
        for (size_t i = 0; i < samples; i++)
            cr_store_s16(heard[t] + 2 * (start + i),
                         cr_saturate_s16(sums[i] - cr_load_s16(tracks[t] + 2 * (start + i))));
}

/* Requirement 7; 1 to CR_MIX_MAX_TRACKS tracks of `samples` each. */
static inline void cr_pcm_mix_minus(uint8_t *const *heard, const uint8_t *const *tracks, size_t track_count,
                                    size_t samples)
{
    size_t start = 0;
    for (; samples - start >= CR_MIX_MINUS_BLOCK_SAMPLES; start += CR_MIX_MINUS_BLOCK_SAMPLES)
        cr_pcm_mix_minus_block(heard, tracks, track_count, start, CR_MIX_MINUS_BLOCK_SAMPLES);
    cr_pcm_mix_minus_block(heard, tracks, track_count, start, samples - start);
}

/* The multiplier of `cr_pcm_gain_scalar` for a gain in dB; exactly 1 for 0 dB. */
static inline float cr_gain_multiplier(double db) { return (float)cr_ten_to(db / 20); }

/* Requirement 2. */
static inline void cr_pcm_gain_scalar(uint8_t *out, const uint8_t *pcm, size_t samples, float multiplier)
{
    for (size_t i = 0; i < samples; i++)
        cr_store_s16(out + 2 * i, cr_round_f32_s16((float)cr_load_s16(pcm + 2 * i) * multiplier));
}

/* Requirement 6. */
static inline float cr_pcm_weighted_sum_scalar(const float *samples, const float *weights, size_t count)
{
    float sums[8] = {0};
    for (size_t i = 0; i < count; i += 8)
        for (size_t s = 0; s < 8; s++)
            sums[s] += samples[i + s] * weights[i + s];
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

typedef struct {
    uint64_t sum_of_squares;
    uint32_t peak; /* largest magnitude, 0 to 32768 */
} cr_pcm_energy;

/* Requirement 4. */
static inline cr_pcm_energy cr_pcm_energy_scalar(const uint8_t *pcm, size_t samples)
{
    uint64_t sum = 0;
    int32_t lowest = 0, highest = 0;
    cr_pcm_energy energy;
    for (size_t i = 0; i < samples; i++) {
        int32_t sample = cr_load_s16(pcm + 2 * i);
        sum += (uint32_t)(sample * sample);
        lowest = sample < lowest ? sample : lowest;
        highest = sample > highest ? sample : highest;
    }
    energy.sum_of_squares = sum;
    energy.peak = (uint32_t)(-lowest > highest ? -lowest : highest);
    return energy;
}

/* Add what a vector version gathered lane by lane to `rest`. The sum of squares is that of both + odd - 2^32 odd over
 * all 64-bit lanes, modulo 2^64: pcm_sse2.h says why. */
static inline cr_pcm_energy cr_pcm_energy_join(cr_pcm_energy rest, const uint64_t *both, const uint64_t *odd,
                                               size_t sum_lanes, const int16_t *lowest, const int16_t *highest,
                                               size_t sample_lanes)
{
    for (size_t i = 0; i < sum_lanes; i++)
        rest.sum_of_squares += both[i] + odd[i] - (odd[i] << 32);
    for (size_t i = 0; i < sample_lanes; i++) {
        uint32_t low = (uint32_t)-(int32_t)lowest[i], high = (uint32_t)highest[i]; /* around 0 on both sides */
        rest.peak = low > rest.peak ? low : rest.peak;
        rest.peak = high > rest.peak ? high : rest.peak;
    }
    return rest;
}

#ifdef CR_HAVE_X86
#include "callreel/pcm_avx2.h"
#include "callreel/pcm_avx512.h"
#include "callreel/pcm_sse2.h"
#endif
#ifdef CR_HAVE_NEON
#include "callreel/pcm_neon.h"
#endif

typedef struct {
    void (*interleave)(uint8_t *stereo, const uint8_t *left, const uint8_t *right, size_t frames);
    void (*pick_channel)(uint8_t *mono, const uint8_t *stereo, size_t frames, unsigned channel);
    void (*deinterleave)(uint8_t *left, uint8_t *right, const uint8_t *stereo, size_t frames);
    void (*mix)(uint8_t *mixed, const uint8_t *const *tracks, size_t track_count, size_t samples);
    void (*gain)(uint8_t *out, const uint8_t *pcm, size_t samples, float multiplier);
    cr_pcm_energy (*energy)(const uint8_t *pcm, size_t samples);
    float (*weighted_sum)(const float *samples, const float *weights, size_t count);
} cr_pcm_kernels;

#define CR_PCM_KERNELS(isa)                                                                                           \
    {cr_pcm_interleave_##isa, cr_pcm_pick_channel_##isa, cr_pcm_deinterleave_##isa, cr_pcm_mix_##isa,                 \
     cr_pcm_gain_##isa,       cr_pcm_energy_##isa,       cr_pcm_weighted_sum_##isa}

/* The versions for one level; the machine must have it. */
static inline cr_pcm_kernels cr_pcm_kernels_for(cr_isa isa)
{
    static const cr_pcm_kernels versions[CR_ISA_COUNT] = {
        [CR_ISA_SCALAR] = CR_PCM_KERNELS(scalar),
#ifdef CR_HAVE_X86
        [CR_ISA_SSE2] = CR_PCM_KERNELS(sse2),
        [CR_ISA_AVX2] = CR_PCM_KERNELS(avx2),
        [CR_ISA_AVX512] = CR_PCM_KERNELS(avx512),
#endif
#ifdef CR_HAVE_NEON
        [CR_ISA_NEON] = CR_PCM_KERNELS(neon),
#endif
    };
    return versions[isa];
}

/* The versions in use; scalar until a module says otherwise, which it does once, at import. */
static cr_pcm_kernels cr_pcm = CR_PCM_KERNELS(scalar);

static inline void cr_pcm_use(cr_isa isa) { cr_pcm = cr_pcm_kernels_for(isa); }

/* The level whose versions are in use, by looking at what is called: for tests. */
static inline cr_isa cr_pcm_in_use(void)
{
    int isa = CR_ISA_SCALAR;
    while (cr_pcm_kernels_for((cr_isa)isa).mix != cr_pcm.mix)
        isa++;
    return (cr_isa)isa;
}

static inline double cr_dbm0_of_energy(cr_pcm_energy energy, size_t samples)
{
    return samples ? cr_dbm0_of_mean_square((double)energy.sum_of_squares / (double)samples) : -HUGE_VAL;
}

/* rms dBm0 of each whole frame, as float32 at any address; a "frame" here is `frame_samples` of one channel. */
static inline void cr_pcm_frame_levels(uint8_t *levels, const uint8_t *pcm, size_t frames, size_t frame_samples)
{
    for (size_t i = 0; i < frames; i++) {
        cr_pcm_energy energy = cr_pcm.energy(pcm + 2 * i * frame_samples, frame_samples);
        float level = (float)cr_dbm0_of_energy(energy, frame_samples);
        memcpy(levels + 4 * i, &level, sizeof level);
    }
}

#endif
