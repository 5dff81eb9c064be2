/* Moving samples onto another clock with AVX2, two groups of eight at a time. Included by retime.h, which holds the
 * specification.
 *
 * How:  as with SSE2 (retime_sse2.h), a group in each half of a register, with its own taps. Where the second group
 *       stands by a whole sample elsewhere (once in 10,000 samples at 100 ppm) each goes its own way.
 */
#ifndef CALLREEL_RETIME_AVX2_H
#define CALLREEL_RETIME_AVX2_H

CR_TARGET_AVX2 static inline void cr_retime_add_avx2(__m256i sums[2], const int16_t *from, __m256i taps)
{
    __m256i even = _mm256_loadu_si256((const __m256i *)from), odd = _mm256_loadu_si256((const __m256i *)(from + 1));
    sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(taps, even));
    sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(taps, odd));
}

CR_TARGET_AVX2 static void cr_retime_avx2(int16_t *out, const int16_t *samples, size_t groups, int64_t place,
                                          int64_t step)
{
    const __m256i order = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    for (; groups >= 2; groups -= 2, place += 2 * step, samples += 16, out += 16) {
        const int16_t *from = samples + cr_retime_whole(place);
        __m256i first, second, early, late, sums[2];
        if (cr_retime_whole(place + step) != cr_retime_whole(place)) {
            cr_retime_sse2(out, samples, 2, place, step);
            continue;
        }
        first = _mm256_loadu_si256((const __m256i *)cr_retime_row(place));
        second = _mm256_loadu_si256((const __m256i *)cr_retime_row(place + step));
        early = _mm256_permute2x128_si256(first, second, 0x20);
        late = _mm256_permute2x128_si256(first, second, 0x31);
        sums[0] = sums[1] = _mm256_set1_epi32(CR_RETIME_UNITY / 2);
        cr_retime_add_avx2(sums, from, _mm256_shuffle_epi32(early, 0x00));
        cr_retime_add_avx2(sums, from + 2, _mm256_shuffle_epi32(early, 0x55));
        cr_retime_add_avx2(sums, from + 4, _mm256_shuffle_epi32(early, 0xAA));
        cr_retime_add_avx2(sums, from + 6, _mm256_shuffle_epi32(early, 0xFF));
        cr_retime_add_avx2(sums, from + 8, _mm256_shuffle_epi32(late, 0x00));
        cr_retime_add_avx2(sums, from + 10, _mm256_shuffle_epi32(late, 0x55));
        cr_retime_add_avx2(sums, from + 12, _mm256_shuffle_epi32(late, 0xAA));
        cr_retime_add_avx2(sums, from + 14, _mm256_shuffle_epi32(late, 0xFF));
        sums[0] = _mm256_packs_epi32(_mm256_srai_epi32(sums[0], CR_RETIME_SHIFT),
                                     _mm256_srai_epi32(sums[1], CR_RETIME_SHIFT));
        _mm256_storeu_si256((__m256i *)out, _mm256_shuffle_epi8(sums[0], order));
    }
    if (groups)
        cr_retime_sse2(out, samples, groups, place, step);
}

#endif
