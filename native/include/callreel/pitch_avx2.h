/* The pitch of a voice with AVX2. Included by pitch.h, which holds the specification.
 *
 * How:  as with SSE2 (pitch_sse2.h), 48 m at a time, in six registers.
 */
#ifndef CALLREEL_PITCH_AVX2_H
#define CALLREEL_PITCH_AVX2_H

CR_TARGET_AVX2 static inline __m256i cr_pitch_add_avx2(__m256i sum, __m256i pair, const int16_t *p)
{
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pair, _mm256_loadu_si256((const __m256i *)p)));
}

CR_TARGET_AVX2 static inline void cr_pitch_store_avx2(int32_t *cross, __m256i even, __m256i odd)
{
    __m256i low = _mm256_unpacklo_epi32(even, odd), high = _mm256_unpackhi_epi32(even, odd);
    _mm256_storeu_si256((__m256i *)cross, _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_storeu_si256((__m256i *)(cross + 8), _mm256_permute2x128_si256(low, high, 0x31));
}

CR_TARGET_AVX2 static uint32_t cr_pitch_period_avx2(const int16_t *samples)
{
    int16_t scaled[CR_PITCH_SAMPLES];
    int32_t cross[CR_PITCH_ROOM];
    cr_pitch_scale(scaled, samples);
    for (int m = 0; m < CR_PITCH_ROOM; m += 48) {
        __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a, e = a, f = a;
        for (int i = 0; i < CR_PITCH_WINDOW; i += 2) {
            __m256i pair = _mm256_set1_epi32(cr_pitch_pair(scaled + CR_PITCH_MAX + i));
            a = cr_pitch_add_avx2(a, pair, scaled + i + m);
            b = cr_pitch_add_avx2(b, pair, scaled + i + m + 1);
            c = cr_pitch_add_avx2(c, pair, scaled + i + m + 16);
            d = cr_pitch_add_avx2(d, pair, scaled + i + m + 17);
            e = cr_pitch_add_avx2(e, pair, scaled + i + m + 32);
            f = cr_pitch_add_avx2(f, pair, scaled + i + m + 33);
        }
        cr_pitch_store_avx2(cross + m, a, b);
        cr_pitch_store_avx2(cross + m + 16, c, d);
        cr_pitch_store_avx2(cross + m + 32, e, f);
    }
    return cr_pitch_choose(cross, scaled);
}

#endif
