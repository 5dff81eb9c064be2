/* Linear PCM with AVX-512, 32 samples to a register. Included by pcm.h, which holds the specification.
 *
 * How:  as with SSE2 (pcm_sse2.h says how), but unpacking and packing work in each quarter of a register by itself.
 *       Where one follows the other (mix, gain) the two undo each other. Weaving puts the quadwords 0 to 7 to
 *       0 4 1 5 2 6 3 7 before; unweaving is one permutation of the words of two registers for each channel.
 *       What is left at the end is loaded and stored under a mask: no byte beyond it is touched.
 */
#ifndef CALLREEL_PCM_AVX512_H
#define CALLREEL_PCM_AVX512_H

/* The first `count` of 32 lanes; 0 to 32. */
static inline __mmask32 cr_first_lanes_avx512(size_t count)
{
    return (__mmask32)((UINT64_C(1) << (count < 32 ? count : 32)) - 1);
}

CR_TARGET_AVX512 static inline void cr_weave_avx512(__m512i left, __m512i right, __m512i *early, __m512i *late)
{
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    left = _mm512_permutexvar_epi64(order, left);
    right = _mm512_permutexvar_epi64(order, right);
    *early = _mm512_unpacklo_epi16(left, right);
    *late = _mm512_unpackhi_epi16(left, right);
}

CR_TARGET_AVX512 static void cr_pcm_interleave_avx512(uint8_t *stereo, const uint8_t *left, const uint8_t *right,
                                                      size_t frames)
{
    __m512i early, late;
    size_t i = 0;
    for (; frames - i >= 32; i += 32) {
        cr_weave_avx512(_mm512_loadu_si512(left + 2 * i), _mm512_loadu_si512(right + 2 * i), &early, &late);
        _mm512_storeu_si512(stereo + 4 * i, early);
        _mm512_storeu_si512(stereo + 4 * i + 64, late);
    }
    if (i < frames) {
        __mmask32 rest = cr_first_lanes_avx512(frames - i);
        cr_weave_avx512(_mm512_maskz_loadu_epi16(rest, left + 2 * i), _mm512_maskz_loadu_epi16(rest, right + 2 * i),
                        &early, &late);
        _mm512_mask_storeu_epi32(stereo + 4 * i, (__mmask16)rest, early);
        _mm512_mask_storeu_epi32(stereo + 4 * i + 64, (__mmask16)(rest >> 16), late);
    }
}

/* Even words of 32 stereo frames: the left channel. Odd ones: `channel` 1. */
CR_TARGET_AVX512 static inline __m512i cr_unweave_avx512(__m512i early, __m512i late, unsigned channel)
{
    /* Lane k takes word 2k + channel of both registers; words of the second have bit 5 set, so the count runs on. */
    const __m512i even = _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28, 26,
                                          24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_permutex2var_epi16(early, _mm512_add_epi16(even, _mm512_set1_epi16((short)channel)), late);
}

CR_TARGET_AVX512 static void cr_pcm_pick_channel_avx512(uint8_t *mono, const uint8_t *stereo, size_t frames,
                                                        unsigned channel)
{
    size_t i = 0;
    for (; frames - i >= 32; i += 32) {
        __m512i early = _mm512_loadu_si512(stereo + 4 * i), late = _mm512_loadu_si512(stereo + 4 * i + 64);
        _mm512_storeu_si512(mono + 2 * i, cr_unweave_avx512(early, late, channel));
    }
    if (i < frames) {
        __mmask32 rest = cr_first_lanes_avx512(frames - i);
        __m512i early = _mm512_maskz_loadu_epi32((__mmask16)rest, stereo + 4 * i);
        __m512i late = _mm512_maskz_loadu_epi32((__mmask16)(rest >> 16), stereo + 4 * i + 64);
        _mm512_mask_storeu_epi16(mono + 2 * i, rest, cr_unweave_avx512(early, late, channel));
    }
}

CR_TARGET_AVX512 static void cr_pcm_deinterleave_avx512(uint8_t *left, uint8_t *right, const uint8_t *stereo,
                                                        size_t frames)
{
    size_t i = 0;
    for (; frames - i >= 32; i += 32) {
        __m512i early = _mm512_loadu_si512(stereo + 4 * i), late = _mm512_loadu_si512(stereo + 4 * i + 64);
        _mm512_storeu_si512(left + 2 * i, cr_unweave_avx512(early, late, 0));
        _mm512_storeu_si512(right + 2 * i, cr_unweave_avx512(early, late, 1));
    }
    if (i < frames) {
        __mmask32 rest = cr_first_lanes_avx512(frames - i);
        __m512i early = _mm512_maskz_loadu_epi32((__mmask16)rest, stereo + 4 * i);
        __m512i late = _mm512_maskz_loadu_epi32((__mmask16)(rest >> 16), stereo + 4 * i + 64);
        _mm512_mask_storeu_epi16(left + 2 * i, rest, cr_unweave_avx512(early, late, 0));
        _mm512_mask_storeu_epi16(right + 2 * i, rest, cr_unweave_avx512(early, late, 1));
    }
}

/* Sums of samples `start` to `start` + 32 of all tracks, saturated. One register of each track in turn is one cache
 * line; more at a time let the streams of 8 tracks stall each other. */
CR_TARGET_AVX512 CR_FORCE_INLINE __m512i cr_mix_lanes_avx512(const uint8_t *const *tracks, size_t track_count,
                                                             size_t start, __mmask32 lanes)
{
    const __m512i ones = _mm512_set1_epi16(1), zero = _mm512_setzero_si512();
    __m512i low = zero, high = zero;
    size_t t = 0;
    for (; t + 1 < track_count; t += 2) {
        __m512i a = _mm512_maskz_loadu_epi16(lanes, tracks[t] + 2 * start);
        __m512i b = _mm512_maskz_loadu_epi16(lanes, tracks[t + 1] + 2 * start);
        low = _mm512_add_epi32(low, _mm512_madd_epi16(_mm512_unpacklo_epi16(a, b), ones));
        high = _mm512_add_epi32(high, _mm512_madd_epi16(_mm512_unpackhi_epi16(a, b), ones));
    }
    if (t < track_count) {
        __m512i a = _mm512_maskz_loadu_epi16(lanes, tracks[t] + 2 * start);
        low = _mm512_add_epi32(low, _mm512_madd_epi16(_mm512_unpacklo_epi16(a, zero), ones));
        high = _mm512_add_epi32(high, _mm512_madd_epi16(_mm512_unpackhi_epi16(a, zero), ones));
    }
    return _mm512_packs_epi32(low, high);
}

CR_TARGET_AVX512 static void cr_pcm_mix_avx512(uint8_t *mixed, const uint8_t *const *tracks, size_t track_count,
                                               size_t samples)
{
    size_t i = 0;
    for (; samples - i >= 32; i += 32) /* a constant full mask: the compiler takes plain loads */
        _mm512_storeu_si512(mixed + 2 * i, cr_mix_lanes_avx512(tracks, track_count, i, ~UINT32_C(0)));
    if (i < samples) {
        __mmask32 rest = cr_first_lanes_avx512(samples - i);
        _mm512_mask_storeu_epi16(mixed + 2 * i, rest, cr_mix_lanes_avx512(tracks, track_count, i, rest));
    }
}

CR_TARGET_AVX512 static inline __m512i cr_gain_half_avx512(__m512i raised, __m512 multiplier)
{
    /* Too large becomes the largest before it is converted; too small converts to INT32_MIN, which packs to -32768. */
    __m512 louder = _mm512_min_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(raised), multiplier), _mm512_set1_ps(32767.0f));
    return _mm512_cvtps_epi32(louder);
}

CR_TARGET_AVX512 static inline __m512i cr_gain_lanes_avx512(__m512i x, __m512 multiplier)
{
    const __m512i zero = _mm512_setzero_si512();
    return _mm512_packs_epi32(cr_gain_half_avx512(_mm512_unpacklo_epi16(zero, x), multiplier),
                              cr_gain_half_avx512(_mm512_unpackhi_epi16(zero, x), multiplier));
}

CR_TARGET_AVX512 static void cr_pcm_gain_avx512(uint8_t *out, const uint8_t *pcm, size_t samples, float multiplier)
{
    const __m512 scaled = _mm512_set1_ps(multiplier / 65536.0f);
    size_t i = 0;
    for (; samples - i >= 32; i += 32) {
        cr_fetch_ahead(pcm + 2 * i);
        cr_fetch_ahead(out + 2 * i);
        _mm512_storeu_si512(out + 2 * i, cr_gain_lanes_avx512(_mm512_loadu_si512(pcm + 2 * i), scaled));
    }
    if (i < samples) {
        __mmask32 rest = cr_first_lanes_avx512(samples - i);
        __m512i x = _mm512_maskz_loadu_epi16(rest, pcm + 2 * i);
        _mm512_mask_storeu_epi16(out + 2 * i, rest, cr_gain_lanes_avx512(x, scaled));
    }
}

typedef struct {
    __m512i both, odd, lowest, highest;
} cr_energy_sums_avx512;

CR_TARGET_AVX512 static inline void cr_energy_add_avx512(cr_energy_sums_avx512 *sums, __m512i x)
{
    __m512i squares = _mm512_madd_epi16(x, x);
    sums->both = _mm512_add_epi64(sums->both, squares);
    sums->odd = _mm512_add_epi64(sums->odd, _mm512_srli_epi64(squares, 32));
    sums->lowest = _mm512_min_epi16(sums->lowest, x);
    sums->highest = _mm512_max_epi16(sums->highest, x);
}

CR_TARGET_AVX512 static cr_pcm_energy cr_pcm_energy_avx512(const uint8_t *pcm, size_t samples)
{
    const __m512i zero = _mm512_setzero_si512();
    const cr_pcm_energy none = {0, 0};
    cr_energy_sums_avx512 sums = {zero, zero, zero, zero};
    uint64_t boths[8], odds[8];
    int16_t lows[32], highs[32];
    size_t i = 0;
    for (; samples - i >= 32; i += 32) {
        cr_fetch_ahead(pcm + 2 * i);
        cr_energy_add_avx512(&sums, _mm512_loadu_si512(pcm + 2 * i));
    }
    if (i < samples) /* lanes beyond the end are zeros, which change neither sum nor peak */
        cr_energy_add_avx512(&sums, _mm512_maskz_loadu_epi16(cr_first_lanes_avx512(samples - i), pcm + 2 * i));
    _mm512_storeu_si512(boths, sums.both);
    _mm512_storeu_si512(odds, sums.odd);
    _mm512_storeu_si512(lows, sums.lowest);
    _mm512_storeu_si512(highs, sums.highest);
    return cr_pcm_energy_join(none, boths, odds, 8, lows, highs, 32);
}

/* Eight sums by specification: nothing for wider registers to do. */
#define cr_pcm_weighted_sum_avx512 cr_pcm_weighted_sum_avx2

#endif
