/* Linear PCM with AVX2, 16 samples to a register. Included by pcm.h, which holds the specification.
 *
 * How:  as with SSE2 (pcm_sse2.h says how), but unpacking and packing work in each half of a register by itself.
 *       Where one follows the other (mix, gain) the two undo each other; elsewhere the quadwords 0 1 2 3 are put to
 *       0 2 1 3 before unpacking or after packing.
 *
 *       unweave   shuffle each half to      L L L L R R R R | L L L L R R R R
 *                 unpack quadwords of two   L L L L l l l l | L L L L l l l l      (and R), then 0 2 1 3
 */
#ifndef CALLREEL_PCM_AVX2_H
#define CALLREEL_PCM_AVX2_H

#define CR_MIX_REGISTERS_AVX2 2 /* 64 bytes of a track at a time: more let the streams of 8 tracks stall each other */

CR_TARGET_AVX2 static inline __m256i cr_load_avx2(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
CR_TARGET_AVX2 static inline void cr_store_avx2(uint8_t *p, __m256i v) { _mm256_storeu_si256((__m256i *)p, v); }
CR_TARGET_AVX2 static inline __m256i cr_swap_middle_avx2(__m256i v) { return _mm256_permute4x64_epi64(v, 0xD8); }

CR_TARGET_AVX2 static void cr_pcm_interleave_avx2(uint8_t *stereo, const uint8_t *left, const uint8_t *right,
                                                  size_t frames)
{
    size_t i = 0;
    for (; frames - i >= 16; i += 16) {
        __m256i l = cr_swap_middle_avx2(cr_load_avx2(left + 2 * i));
        __m256i r = cr_swap_middle_avx2(cr_load_avx2(right + 2 * i));
        cr_store_avx2(stereo + 4 * i, _mm256_unpacklo_epi16(l, r));
        cr_store_avx2(stereo + 4 * i + 32, _mm256_unpackhi_epi16(l, r));
    }
    cr_pcm_interleave_scalar(stereo + 4 * i, left + 2 * i, right + 2 * i, frames - i);
}

CR_TARGET_AVX2 static void cr_pcm_pick_channel_avx2(uint8_t *mono, const uint8_t *stereo, size_t frames,
                                                    unsigned channel)
{
    const __m128i up = _mm_cvtsi32_si128(channel ? 0 : 16);
    size_t i = 0;
    for (; frames - i >= 16; i += 16) {
        __m256i low = _mm256_srai_epi32(_mm256_sll_epi32(cr_load_avx2(stereo + 4 * i), up), 16);
        __m256i high = _mm256_srai_epi32(_mm256_sll_epi32(cr_load_avx2(stereo + 4 * i + 32), up), 16);
        cr_store_avx2(mono + 2 * i, cr_swap_middle_avx2(_mm256_packs_epi32(low, high)));
    }
    cr_pcm_pick_channel_scalar(mono + 2 * i, stereo + 4 * i, frames - i, channel);
}

CR_TARGET_AVX2 static void cr_pcm_deinterleave_avx2(uint8_t *left, uint8_t *right, const uint8_t *stereo,
                                                    size_t frames)
{
    const __m256i apart = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    size_t i = 0;
    for (; frames - i >= 16; i += 16) {
        __m256i early = _mm256_shuffle_epi8(cr_load_avx2(stereo + 4 * i), apart);
        __m256i late = _mm256_shuffle_epi8(cr_load_avx2(stereo + 4 * i + 32), apart);
        cr_store_avx2(left + 2 * i, cr_swap_middle_avx2(_mm256_unpacklo_epi64(early, late)));
        cr_store_avx2(right + 2 * i, cr_swap_middle_avx2(_mm256_unpackhi_epi64(early, late)));
    }
    cr_pcm_deinterleave_scalar(left + 2 * i, right + 2 * i, stereo + 4 * i, frames - i);
}

/* Mix `registers` * 16 samples from `start` on; a constant, so that the sums stay in registers. */
CR_TARGET_AVX2 CR_FORCE_INLINE void cr_mix_block_avx2(uint8_t *mixed, const uint8_t *const *tracks, size_t track_count,
                                                    size_t start, int registers)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i low[CR_MIX_REGISTERS_AVX2], high[CR_MIX_REGISTERS_AVX2];
    size_t t = 0;
    for (int r = 0; r < registers; r++)
        low[r] = high[r] = _mm256_setzero_si256();
    for (; t + 1 < track_count; t += 2)
        for (int r = 0; r < registers; r++) {
            __m256i a = cr_load_avx2(tracks[t] + 2 * start + 32 * r);
            __m256i b = cr_load_avx2(tracks[t + 1] + 2 * start + 32 * r);
            low[r] = _mm256_add_epi32(low[r], _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), ones));
            high[r] = _mm256_add_epi32(high[r], _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), ones));
        }
    for (int r = 0; r < registers; r++) {
        if (t < track_count) {
            __m256i a = cr_load_avx2(tracks[t] + 2 * start + 32 * r), zero = _mm256_setzero_si256();
            low[r] = _mm256_add_epi32(low[r], _mm256_madd_epi16(_mm256_unpacklo_epi16(a, zero), ones));
            high[r] = _mm256_add_epi32(high[r], _mm256_madd_epi16(_mm256_unpackhi_epi16(a, zero), ones));
        }
        cr_store_avx2(mixed + 2 * start + 32 * r, _mm256_packs_epi32(low[r], high[r]));
    }
}

CR_TARGET_AVX2 static void cr_pcm_mix_avx2(uint8_t *mixed, const uint8_t *const *tracks, size_t track_count,
                                           size_t samples)
{
    size_t i = 0;
    for (; samples - i >= 16 * CR_MIX_REGISTERS_AVX2; i += 16 * CR_MIX_REGISTERS_AVX2)
        cr_mix_block_avx2(mixed, tracks, track_count, i, CR_MIX_REGISTERS_AVX2);
    for (; samples - i >= 16; i += 16)
        cr_mix_block_avx2(mixed, tracks, track_count, i, 1);
    cr_pcm_mix_from_scalar(mixed, tracks, track_count, i, samples);
}

CR_TARGET_AVX2 static inline __m256i cr_gain_half_avx2(__m256i raised, __m256 multiplier)
{
    /* Too large becomes the largest before it is converted; too small converts to INT32_MIN, which packs to -32768. */
    __m256 louder = _mm256_min_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(raised), multiplier), _mm256_set1_ps(32767.0f));
    return _mm256_cvtps_epi32(louder);
}

CR_TARGET_AVX2 static void cr_pcm_gain_avx2(uint8_t *out, const uint8_t *pcm, size_t samples, float multiplier)
{
    const __m256 scaled = _mm256_set1_ps(multiplier / 65536.0f);
    const __m256i zero = _mm256_setzero_si256();
    size_t i = 0;
    for (; samples - i >= 16; i += 16) {
        __m256i x = cr_load_avx2(pcm + 2 * i);
        cr_store_avx2(out + 2 * i, _mm256_packs_epi32(cr_gain_half_avx2(_mm256_unpacklo_epi16(zero, x), scaled),
                                                      cr_gain_half_avx2(_mm256_unpackhi_epi16(zero, x), scaled)));
    }
    cr_pcm_gain_scalar(out + 2 * i, pcm + 2 * i, samples - i, multiplier);
}

CR_TARGET_AVX2 static cr_pcm_energy cr_pcm_energy_avx2(const uint8_t *pcm, size_t samples)
{
    __m256i both = _mm256_setzero_si256(), odd = both, lowest = both, highest = both;
    uint64_t boths[4], odds[4];
    int16_t lows[16], highs[16];
    size_t i = 0;
    for (; samples - i >= 16; i += 16) {
        __m256i x = cr_load_avx2(pcm + 2 * i), squares = _mm256_madd_epi16(x, x);
        both = _mm256_add_epi64(both, squares);
        odd = _mm256_add_epi64(odd, _mm256_srli_epi64(squares, 32));
        lowest = _mm256_min_epi16(lowest, x);
        highest = _mm256_max_epi16(highest, x);
    }
    cr_store_avx2((uint8_t *)boths, both);
    cr_store_avx2((uint8_t *)odds, odd);
    cr_store_avx2((uint8_t *)lows, lowest);
    cr_store_avx2((uint8_t *)highs, highest);
    return cr_pcm_energy_join(cr_pcm_energy_scalar(pcm + 2 * i, samples - i), boths, odds, 4, lows, highs, 16);
}

CR_TARGET_AVX2 static float cr_pcm_weighted_sum_avx2(const float *samples, const float *weights, size_t count)
{
    __m256 sums = _mm256_setzero_ps();
    __m128 folded;
    for (size_t i = 0; i < count; i += 8)
        sums = _mm256_add_ps(sums, _mm256_mul_ps(_mm256_loadu_ps(samples + i), _mm256_loadu_ps(weights + i)));
    folded = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
    folded = _mm_add_ps(folded, _mm_movehl_ps(folded, folded));
    return _mm_cvtss_f32(_mm_add_ss(folded, _mm_shuffle_ps(folded, folded, 1)));
}

#endif
