/* Linear PCM with SSE2, 8 samples to a register. Included by pcm.h, which holds the specification.
 *
 *   weave    unpack    L0..L7, R0..R7      ->  L0 R0 L1 R1 ...
 *   unweave  shift one channel into the place of a sign-extended int32, pack two registers of those
 *   mix      unpack two tracks; a multiply-add with 1 gives their sums as int32; pack saturates, once, at the end
 *   gain     a sample in the upper half of an int32 is 65,536 times itself: the multiplier is made smaller by as much,
 *            which is exact, and no sign extension is needed
 *   level    a multiply-add with itself gives the squares of two samples as one uint32 (2^31 at most). Two of them
 *            stand in a 64-bit lane; they are summed apart without unpacking:
 *                 both  += lane         = even + 2^32 odd, modulo 2^64
 *                 odd   += lane >> 32
 *                 sum    = odd + (both - 2^32 odd)
 *   weighted sum    sums 0 to 3 and 4 to 7 in a register each; adding the two is the first fold of the specification
 */
#ifndef CALLREEL_PCM_SSE2_H
#define CALLREEL_PCM_SSE2_H

CR_TARGET_SSE2 static inline __m128i cr_load_sse2(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)p); }
CR_TARGET_SSE2 static inline void cr_store_sse2(uint8_t *p, __m128i v) { _mm_storeu_si128((__m128i *)p, v); }

CR_TARGET_SSE2 static void cr_pcm_interleave_sse2(uint8_t *stereo, const uint8_t *left, const uint8_t *right,
                                                  size_t frames)
{
    size_t i = 0;
    for (; frames - i >= 8; i += 8) {
        __m128i l = cr_load_sse2(left + 2 * i), r = cr_load_sse2(right + 2 * i);
        cr_store_sse2(stereo + 4 * i, _mm_unpacklo_epi16(l, r));
        cr_store_sse2(stereo + 4 * i + 16, _mm_unpackhi_epi16(l, r));
    }
    cr_pcm_interleave_scalar(stereo + 4 * i, left + 2 * i, right + 2 * i, frames - i);
}

CR_TARGET_SSE2 static void cr_pcm_pick_channel_sse2(uint8_t *mono, const uint8_t *stereo, size_t frames,
                                                    unsigned channel)
{
    const __m128i up = _mm_cvtsi32_si128(channel ? 0 : 16);
    size_t i = 0;
    for (; frames - i >= 8; i += 8) {
        __m128i low = _mm_srai_epi32(_mm_sll_epi32(cr_load_sse2(stereo + 4 * i), up), 16);
        __m128i high = _mm_srai_epi32(_mm_sll_epi32(cr_load_sse2(stereo + 4 * i + 16), up), 16);
        cr_store_sse2(mono + 2 * i, _mm_packs_epi32(low, high));
    }
    cr_pcm_pick_channel_scalar(mono + 2 * i, stereo + 4 * i, frames - i, channel);
}

CR_TARGET_SSE2 static void cr_pcm_deinterleave_sse2(uint8_t *left, uint8_t *right, const uint8_t *stereo,
                                                    size_t frames)
{
    size_t i = 0;
    for (; frames - i >= 8; i += 8) {
        __m128i low = cr_load_sse2(stereo + 4 * i), high = cr_load_sse2(stereo + 4 * i + 16);
        cr_store_sse2(left + 2 * i, _mm_packs_epi32(_mm_srai_epi32(_mm_slli_epi32(low, 16), 16),
                                                    _mm_srai_epi32(_mm_slli_epi32(high, 16), 16)));
        cr_store_sse2(right + 2 * i, _mm_packs_epi32(_mm_srai_epi32(low, 16), _mm_srai_epi32(high, 16)));
    }
    cr_pcm_deinterleave_scalar(left + 2 * i, right + 2 * i, stereo + 4 * i, frames - i);
}

/* Sums of samples `start` to `start` + 8 of all tracks, saturated. */
CR_TARGET_SSE2 static inline __m128i cr_mix_lanes_sse2(const uint8_t *const *tracks, size_t track_count, size_t start)
{
    const __m128i ones = _mm_set1_epi16(1);
    __m128i low = _mm_setzero_si128(), high = _mm_setzero_si128();
    for (size_t t = 0; t < track_count; t += 2) {
        __m128i a = cr_load_sse2(tracks[t] + 2 * start);
        __m128i b = t + 1 < track_count ? cr_load_sse2(tracks[t + 1] + 2 * start) : _mm_setzero_si128();
        low = _mm_add_epi32(low, _mm_madd_epi16(_mm_unpacklo_epi16(a, b), ones));
        high = _mm_add_epi32(high, _mm_madd_epi16(_mm_unpackhi_epi16(a, b), ones));
    }
    return _mm_packs_epi32(low, high);
}

CR_TARGET_SSE2 static void cr_pcm_mix_sse2(uint8_t *mixed, const uint8_t *const *tracks, size_t track_count,
                                           size_t samples)
{
    size_t i = 0;
    for (; samples - i >= 16; i += 16) {
        __m128i first = cr_mix_lanes_sse2(tracks, track_count, i);
        __m128i second = cr_mix_lanes_sse2(tracks, track_count, i + 8);
        cr_store_sse2(mixed + 2 * i, first);
        cr_store_sse2(mixed + 2 * i + 16, second);
    }
    cr_pcm_mix_from_scalar(mixed, tracks, track_count, i, samples);
}

CR_TARGET_SSE2 static inline __m128i cr_gain_half_sse2(__m128i raised, __m128 multiplier)
{
    /* Too large becomes the largest before it is converted; too small converts to INT32_MIN, which packs to -32768. */
    __m128 louder = _mm_min_ps(_mm_mul_ps(_mm_cvtepi32_ps(raised), multiplier), _mm_set1_ps(32767.0f));
    return _mm_cvtps_epi32(louder);
}

CR_TARGET_SSE2 static void cr_pcm_gain_sse2(uint8_t *out, const uint8_t *pcm, size_t samples, float multiplier)
{
    const __m128 scaled = _mm_set1_ps(multiplier / 65536.0f);
    const __m128i zero = _mm_setzero_si128();
    size_t i = 0;
    for (; samples - i >= 8; i += 8) {
        __m128i x = cr_load_sse2(pcm + 2 * i);
        cr_store_sse2(out + 2 * i, _mm_packs_epi32(cr_gain_half_sse2(_mm_unpacklo_epi16(zero, x), scaled),
                                                   cr_gain_half_sse2(_mm_unpackhi_epi16(zero, x), scaled)));
    }
    cr_pcm_gain_scalar(out + 2 * i, pcm + 2 * i, samples - i, multiplier);
}

CR_TARGET_SSE2 static cr_pcm_energy cr_pcm_energy_sse2(const uint8_t *pcm, size_t samples)
{
    __m128i both = _mm_setzero_si128(), odd = both, lowest = both, highest = both;
    uint64_t boths[2], odds[2];
    int16_t lows[8], highs[8];
    size_t i = 0;
    for (; samples - i >= 8; i += 8) {
        __m128i x = cr_load_sse2(pcm + 2 * i), squares = _mm_madd_epi16(x, x);
        both = _mm_add_epi64(both, squares);
        odd = _mm_add_epi64(odd, _mm_srli_epi64(squares, 32));
        lowest = _mm_min_epi16(lowest, x);
        highest = _mm_max_epi16(highest, x);
    }
    cr_store_sse2((uint8_t *)boths, both);
    cr_store_sse2((uint8_t *)odds, odd);
    cr_store_sse2((uint8_t *)lows, lowest);
    cr_store_sse2((uint8_t *)highs, highest);
    return cr_pcm_energy_join(cr_pcm_energy_scalar(pcm + 2 * i, samples - i), boths, odds, 2, lows, highs, 8);
}

CR_TARGET_SSE2 static float cr_pcm_weighted_sum_sse2(const float *samples, const float *weights, size_t count)
{
    __m128 low = _mm_setzero_ps(), high = low, folded;
    for (size_t i = 0; i < count; i += 8) {
        low = _mm_add_ps(low, _mm_mul_ps(_mm_loadu_ps(samples + i), _mm_loadu_ps(weights + i)));
        high = _mm_add_ps(high, _mm_mul_ps(_mm_loadu_ps(samples + i + 4), _mm_loadu_ps(weights + i + 4)));
    }
    folded = _mm_add_ps(low, high);
    folded = _mm_add_ps(folded, _mm_movehl_ps(folded, folded));
    return _mm_cvtss_f32(_mm_add_ss(folded, _mm_shuffle_ps(folded, folded, 1)));
}

#endif
