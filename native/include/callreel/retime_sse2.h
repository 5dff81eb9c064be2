/* Moving samples onto another clock with SSE2, a group of eight at a time. Included by retime.h, which holds the
 * specification.
 *
 * How:  a multiply-add of 16-bit pairs sums two taps at once. Pairs that begin at an even sample make the outputs
 *       0, 2, 4, 6, those that begin one sample later 1, 3, 5, 7:
 *
 *           samples from i on        | s0 s1 | s2 s3 | s4 s5 | s6 s7 |    each pair * (tap i, tap i + 1)
 *           sums                        out0    out2    out4    out6
 */
#ifndef CALLREEL_RETIME_SSE2_H
#define CALLREEL_RETIME_SSE2_H

CR_TARGET_SSE2 static inline __m128i cr_retime_load_sse2(const int16_t *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

CR_TARGET_SSE2 static inline void cr_retime_add_sse2(__m128i sums[2], const int16_t *from, __m128i taps)
{
    sums[0] = _mm_add_epi32(sums[0], _mm_madd_epi16(taps, cr_retime_load_sse2(from)));
    sums[1] = _mm_add_epi32(sums[1], _mm_madd_epi16(taps, cr_retime_load_sse2(from + 1)));
}

CR_TARGET_SSE2 static void cr_retime_sse2(int16_t *out, const int16_t *samples, size_t groups, int64_t place,
                                          int64_t step)
{
    for (; groups; groups--, place += step, samples += CR_RETIME_GROUP, out += CR_RETIME_GROUP) {
        const int16_t *from = samples + cr_retime_whole(place), *row = cr_retime_row(place);
        __m128i early = cr_retime_load_sse2(row), late = cr_retime_load_sse2(row + 8), packed;
        __m128i sums[2];
        sums[0] = sums[1] = _mm_set1_epi32(CR_RETIME_UNITY / 2);
        cr_retime_add_sse2(sums, from, _mm_shuffle_epi32(early, 0x00));
        cr_retime_add_sse2(sums, from + 2, _mm_shuffle_epi32(early, 0x55));
        cr_retime_add_sse2(sums, from + 4, _mm_shuffle_epi32(early, 0xAA));
        cr_retime_add_sse2(sums, from + 6, _mm_shuffle_epi32(early, 0xFF));
        cr_retime_add_sse2(sums, from + 8, _mm_shuffle_epi32(late, 0x00));
        cr_retime_add_sse2(sums, from + 10, _mm_shuffle_epi32(late, 0x55));
        cr_retime_add_sse2(sums, from + 12, _mm_shuffle_epi32(late, 0xAA));
        cr_retime_add_sse2(sums, from + 14, _mm_shuffle_epi32(late, 0xFF));
        packed = _mm_packs_epi32(_mm_srai_epi32(sums[0], CR_RETIME_SHIFT), _mm_srai_epi32(sums[1], CR_RETIME_SHIFT));
        _mm_storeu_si128((__m128i *)out, _mm_unpacklo_epi16(packed, _mm_srli_si128(packed, 8)));
    }
}

#endif
