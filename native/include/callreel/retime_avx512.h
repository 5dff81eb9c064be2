/* Moving samples onto another clock with AVX-512 and its VNNI, four groups of eight at a time. Included by retime.h,
 * which holds the specification.
 *
 * How:  as with AVX2 (retime_avx2.h), a group in each quarter of a register, with its own taps. Pairs that begin at an
 *       even sample are shifted into place in registers, the others loaded: each way keeps another part of the
 *       processor busy.
 */
#ifndef CALLREEL_RETIME_AVX512_H
#define CALLREEL_RETIME_AVX512_H

/* The taps of two groups, one in each half. */
CR_TARGET_AVX512_VNNI static inline __m512i cr_retime_rows_avx512(int64_t place, int64_t step)
{
    __m256i first = _mm256_loadu_si256((const __m256i *)cr_retime_row(place));
    __m256i second = _mm256_loadu_si256((const __m256i *)cr_retime_row(place + step));
    return _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
}

CR_TARGET_AVX512_VNNI static void cr_retime_avx512(int16_t *out, const int16_t *samples, size_t groups, int64_t place,
                                                   int64_t step)
{
    const __m512i order = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    for (; groups >= 4; groups -= 4, place += 4 * step, samples += 32, out += 32) {
        const int16_t *from = samples + cr_retime_whole(place);
        __m512i rows, more_rows, early, late, first, behind, taps, even, odd, more_even, more_odd;
        if (cr_retime_whole(place + 3 * step) != cr_retime_whole(place)) {
            cr_retime_avx2(out, samples, 4, place, step);
            continue;
        }
        first = _mm512_loadu_si512(from);
        behind = _mm512_maskz_loadu_epi32(0x7F, from + 32);
        rows = cr_retime_rows_avx512(place, step);
        more_rows = cr_retime_rows_avx512(place + 2 * step, step);
        early = _mm512_shuffle_i64x2(rows, more_rows, 0x88);
        late = _mm512_shuffle_i64x2(rows, more_rows, 0xDD);
        even = odd = _mm512_set1_epi32(CR_RETIME_UNITY / 2);
        more_even = more_odd = _mm512_setzero_si512();
/* Taps 2n and 2n + 1. */
#define CR_RETIME_ADD_AVX512(n, half, evens, odds)                                                                    \
    taps = _mm512_shuffle_epi32(half, (_MM_PERM_ENUM)((n) % 4 * 0x55));                                               \
    evens = _mm512_dpwssd_epi32(evens, taps, _mm512_alignr_epi32(behind, first, n));                                  \
    odds = _mm512_dpwssd_epi32(odds, taps, _mm512_loadu_si512(from + 2 * (n) + 1));
        CR_RETIME_ADD_AVX512(0, early, even, odd)
        CR_RETIME_ADD_AVX512(1, early, even, odd)
        CR_RETIME_ADD_AVX512(2, early, even, odd)
        CR_RETIME_ADD_AVX512(3, early, even, odd)
        CR_RETIME_ADD_AVX512(4, late, more_even, more_odd)
        CR_RETIME_ADD_AVX512(5, late, more_even, more_odd)
        CR_RETIME_ADD_AVX512(6, late, more_even, more_odd)
        CR_RETIME_ADD_AVX512(7, late, more_even, more_odd)
#undef CR_RETIME_ADD_AVX512
        even = _mm512_srai_epi32(_mm512_add_epi32(even, more_even), CR_RETIME_SHIFT);
        odd = _mm512_srai_epi32(_mm512_add_epi32(odd, more_odd), CR_RETIME_SHIFT);
        _mm512_storeu_si512(out, _mm512_shuffle_epi8(_mm512_packs_epi32(even, odd), order));
    }
    if (groups)
        cr_retime_avx2(out, samples, groups, place, step);
}

#endif
