/* The pitch of a voice with AVX-512. Included by pitch.h, which holds the specification.
 *
 * How:  as with SSE2 (pitch_sse2.h), but all 96 m at once, in six registers, by VNNI. Seven registers of samples, 32
 *       samples apart and r pairs further in every round, serve five of the window's pairs at once:
 *
 *           cross, m of 32n to 32n + 31    +=    pair 16p + r of the window  *  register p + n      n < 3, p < 5
 *
 *       They are put together from aligned ones: loads that cross a cache line would take longer than the products.
 *
 *       energy    that of the first m, and from there on sums of differences, pair by pair: a running sum over the lanes
 *                 gives even m, half a pair more odd m
 *       choice    scores of even and of odd m stay in registers of their own; the greatest m wins among equals
 */
#ifndef CALLREEL_PITCH_AVX512_H
#define CALLREEL_PITCH_AVX512_H

CR_TARGET_AVX512_VNNI static inline __m512i cr_pitch_load_avx512(const int16_t *p) { return _mm512_loadu_si512(p); }

/* The union of bits that cr_pitch_shift looks at. */
CR_TARGET_AVX512_VNNI static inline __m512i cr_pitch_bits_avx512(__m512i bits, const int16_t *p)
{
    __m512i x = cr_pitch_load_avx512(p);
    return _mm512_or_si512(bits, _mm512_xor_si512(x, _mm512_srai_epi16(x, 15)));
}

/* Sums of the lanes up to and with each. */
CR_TARGET_AVX512_VNNI static inline __m512i cr_pitch_running_avx512(__m512i v)
{
    const __m512i zero = _mm512_setzero_si512();
    v = _mm512_add_epi32(v, _mm512_alignr_epi32(v, zero, 15));
    v = _mm512_add_epi32(v, _mm512_alignr_epi32(v, zero, 14));
    v = _mm512_add_epi32(v, _mm512_alignr_epi32(v, zero, 12));
    return _mm512_add_epi32(v, _mm512_alignr_epi32(v, zero, 8));
}

CR_TARGET_AVX512_VNNI static inline __m512 cr_pitch_score_avx512(__m512i cross, __m512i energy)
{
    __m512 product = _mm512_cvtepi32_ps(_mm512_max_epi32(cross, _mm512_setzero_si512()));
    __m512 divisor = _mm512_cvtepi32_ps(_mm512_max_epi32(energy, _mm512_set1_epi32(1)));
    return _mm512_div_ps(_mm512_mul_ps(product, product), divisor);
}

CR_TARGET_AVX512_VNNI static uint32_t cr_pitch_period_avx512(const int16_t *samples)
{
    enum { LAST = CR_PITCH_SAMPLES - 32 }; /* the last register of samples overlaps the one before */
    _Alignas(64) int16_t scaled[CR_PITCH_SAMPLES], later[8 * 32]; /* later: one sample later */
    const int16_t *window = scaled + CR_PITCH_MAX;
    const __m512i zero = _mm512_setzero_si512();
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i cross[3][2] = {{zero, zero}, {zero, zero}, {zero, zero}}, base = zero, bits;
    __m512 even_score[3], odd_score[3], highest;
    __m128i shift;
    float best;
    bits = cr_pitch_bits_avx512(zero, samples + LAST);
    for (int i = 0; i < LAST; i += 32)
        bits = cr_pitch_bits_avx512(bits, samples + i);
    bits = _mm512_or_si512(bits, _mm512_srli_epi32(bits, 16));
    shift = _mm_cvtsi32_si128(cr_pitch_shift((unsigned)_mm512_reduce_or_epi32(bits) & 0xFFFF));
    for (int i = 0; i < LAST; i += 32) {
        _mm512_storeu_si512(scaled + i, _mm512_sra_epi16(cr_pitch_load_avx512(samples + i), shift));
        _mm512_storeu_si512(later + i, _mm512_sra_epi16(cr_pitch_load_avx512(samples + i + 1), shift));
    }
    _mm512_storeu_si512(scaled + LAST, _mm512_sra_epi16(cr_pitch_load_avx512(samples + LAST), shift));

    for (int r = 0; r < 16; r++) {
        const __m512i order = _mm512_add_epi32(lanes, _mm512_set1_epi32(r));
        __m512i even[7], odd[7];
        for (int q = 0; q < 7; q++) {
            even[q] = _mm512_permutex2var_epi32(cr_pitch_load_avx512(scaled + 32 * q), order,
                                                cr_pitch_load_avx512(scaled + 32 * q + 32));
            odd[q] = _mm512_permutex2var_epi32(cr_pitch_load_avx512(later + 32 * q), order,
                                               cr_pitch_load_avx512(later + 32 * q + 32));
        }
        for (int p = 0; p < 5; p++) {
            __m512i x = _mm512_set1_epi32(cr_pitch_pair(window + 32 * p + 2 * r));
            for (int n = 0; n < 3; n++) {
                cross[n][0] = _mm512_dpwssd_epi32(cross[n][0], x, even[p + n]);
                cross[n][1] = _mm512_dpwssd_epi32(cross[n][1], x, odd[p + n]);
            }
        }
    }
    for (int i = 0; i < CR_PITCH_WINDOW; i += 32) {
        __m512i x = _mm512_loadu_si512(scaled + i);
        base = _mm512_dpwssd_epi32(base, x, x);
    }
    base = _mm512_set1_epi32(_mm512_reduce_add_epi32(base));
    for (int n = 0; n < 3; n++) {
        const __mmask32 first_of_pair = 0x55555555;
        __m512i leaving = _mm512_loadu_si512(scaled + 32 * n);
        __m512i coming = _mm512_loadu_si512(scaled + CR_PITCH_WINDOW + 32 * n);
        __m512i half = _mm512_sub_epi32(_mm512_madd_epi16(coming, _mm512_maskz_mov_epi16(first_of_pair, coming)),
                                        _mm512_madd_epi16(leaving, _mm512_maskz_mov_epi16(first_of_pair, leaving)));
        __m512i pair = _mm512_sub_epi32(_mm512_madd_epi16(coming, coming), _mm512_madd_epi16(leaving, leaving));
        __m512i running = _mm512_add_epi32(base, cr_pitch_running_avx512(pair));
        __m512i energy = _mm512_sub_epi32(running, pair);
        even_score[n] = cr_pitch_score_avx512(cross[n][0], energy);
        odd_score[n] = cr_pitch_score_avx512(cross[n][1], _mm512_add_epi32(energy, half));
        base = _mm512_permutexvar_epi32(_mm512_set1_epi32(15), running);
    }
    /* Of m = 64 to 95 those up to 80. */
    even_score[2] = _mm512_maskz_mov_ps(0x01FF, even_score[2]);
    odd_score[2] = _mm512_maskz_mov_ps(0x00FF, odd_score[2]);
    highest = _mm512_max_ps(_mm512_max_ps(even_score[0], odd_score[0]), _mm512_max_ps(even_score[1], odd_score[1]));
    highest = _mm512_max_ps(highest, _mm512_max_ps(even_score[2], odd_score[2]));
    best = _mm512_reduce_max_ps(highest);
    if (best > 0) {
        highest = _mm512_set1_ps(best);
        for (uint32_t n = 3; n-- > 0;) {
            uint32_t among_even = _mm512_cmp_ps_mask(even_score[n], highest, _CMP_EQ_OQ);
            uint32_t among_odd = _mm512_cmp_ps_mask(odd_score[n], highest, _CMP_EQ_OQ);
            for (uint32_t lane = 16; (among_even | among_odd) && lane-- > 0;) {
                if (among_odd >> lane & 1)
                    return CR_PITCH_MAX - (32 * n + 2 * lane + 1);
                if (among_even >> lane & 1)
                    return CR_PITCH_MAX - (32 * n + 2 * lane);
            }
        }
    }
    return CR_PITCH_MIN;
}

#endif
