/* The pitch of a voice with SSE2. Included by pitch.h, which holds the specification.
 *
 * How:  as in retime_sse2.h: a multiply-add of pairs, with one pair of the window in every lane. Pairs that begin at an
 *       even sample are for even m, those one later for odd m. Sixteen m at a time, in four registers.
 */
#ifndef CALLREEL_PITCH_SSE2_H
#define CALLREEL_PITCH_SSE2_H

/* Two samples in every lane. */
static inline int32_t cr_pitch_pair(const int16_t *p)
{
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return pair;
}

CR_TARGET_SSE2 static inline __m128i cr_pitch_add_sse2(__m128i sum, __m128i pair, const int16_t *p)
{
    return _mm_add_epi32(sum, _mm_madd_epi16(pair, _mm_loadu_si128((const __m128i *)p)));
}

CR_TARGET_SSE2 static uint32_t cr_pitch_period_sse2(const int16_t *samples)
{
    int16_t scaled[CR_PITCH_SAMPLES];
    int32_t cross[CR_PITCH_ROOM];
    cr_pitch_scale(scaled, samples);
    for (int m = 0; m < CR_PITCH_ROOM; m += 16) {
        __m128i even = _mm_setzero_si128(), odd = even, more_even = even, more_odd = even;
        for (int i = 0; i < CR_PITCH_WINDOW; i += 2) {
            __m128i pair = _mm_set1_epi32(cr_pitch_pair(scaled + CR_PITCH_MAX + i));
            even = cr_pitch_add_sse2(even, pair, scaled + i + m);
            odd = cr_pitch_add_sse2(odd, pair, scaled + i + m + 1);
            more_even = cr_pitch_add_sse2(more_even, pair, scaled + i + m + 8);
            more_odd = cr_pitch_add_sse2(more_odd, pair, scaled + i + m + 9);
        }
        _mm_storeu_si128((__m128i *)(cross + m), _mm_unpacklo_epi32(even, odd));
        _mm_storeu_si128((__m128i *)(cross + m + 4), _mm_unpackhi_epi32(even, odd));
        _mm_storeu_si128((__m128i *)(cross + m + 8), _mm_unpacklo_epi32(more_even, more_odd));
        _mm_storeu_si128((__m128i *)(cross + m + 12), _mm_unpackhi_epi32(more_even, more_odd));
    }
    return cr_pitch_choose(cross, scaled);
}

#endif
