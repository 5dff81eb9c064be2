/* Tone analysis with AVX-512 and VNNI. Included by goertzel.h, which holds the specification.
 *
 *   fold     eight even and odd sums of four blocks at a time; what is earlier in one block is later in the one before
 *   blocks   they meet four copies of a row of the table (vpdpwssd); each real or imaginary part has a register of its
 *            own, with a place for each block, and four of them are transposed to add up what is in each
 *   gate     all lanes of a look in one register; the four looks are transposed so that each has one place
 *   energy   the high-pass yields 48 outputs in one turn: a hop of 8 kHz
 */
#ifndef CALLREEL_GOERTZEL_AVX512_H
#define CALLREEL_GOERTZEL_AVX512_H

/* The sum of each of four registers, in each quarter. */
CR_FORCE_INLINE CR_TARGET_AVX512_VNNI __m512i cr_tone_sums_avx512(const __m512i *of)
{
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(of[0], of[1]), _mm512_unpackhi_epi32(of[0], of[1]));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(of[2], of[3]), _mm512_unpackhi_epi32(of[2], of[3]));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}

/* Eight samples of four hops. */
CR_FORCE_INLINE CR_TARGET_AVX512_VNNI __m512i cr_tone_four_avx512(const int16_t *x, uint32_t second, uint32_t third,
                                                                  uint32_t fourth)
{
    const __m256i low = cr_tone_two_avx2(x, x + second), high = cr_tone_two_avx2(x + third, x + fourth);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* Eight earlier and eight later samples of each window, of earlier ones the last first, meet the table. */
CR_FORCE_INLINE CR_TARGET_AVX512_VNNI void cr_tone_eight_avx512(const int16_t (*wave)[8 * CR_TONE_COPIES],
                                                                __m512i earlier, __m512i later, const int is_first,
                                                                __m512i *sum)
{
    const __m512i backwards = _mm512_broadcast_i32x4(
        _mm_setr_epi8(14, 15, 12, 13, 10, 11, 8, 9, 6, 7, 4, 5, 2, 3, 0, 1));
    __m512i even, odd;
    earlier = _mm512_srai_epi16(_mm512_shuffle_epi8(earlier, backwards), 1);
    later = _mm512_srai_epi16(later, 1);
    even = _mm512_add_epi16(earlier, later);
    odd = _mm512_sub_epi16(earlier, later);
    for (int of = 0; of < 16; of++)
        sum[of] = _mm512_dpwssd_epi32(is_first ? _mm512_setzero_si512() : sum[of], of % 2 ? odd : even,
                                      _mm512_loadu_si512(wave[of]));
}

/* What is earlier in the second to fourth block is later in the first to third. */
CR_FORCE_INLINE CR_TARGET_AVX512_VNNI __m512i cr_tone_earlier_avx512(const int16_t *oldest, __m512i later)
{
    return _mm512_alignr_epi32(later, _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)oldest)), 12);
}

/* The largest magnitude, given that of other samples. */
CR_FORCE_INLINE CR_TARGET_AVX512_VNNI __m512i cr_tone_peak_avx512(__m512i peak, __m512i x)
{
    return _mm512_max_epu16(peak, _mm512_abs_epi16(x));
}

/* Bit n: the n-th quarter has no magnitude from the limit on. */
CR_FORCE_INLINE CR_TARGET_AVX512_VNNI uint32_t cr_tone_quiet_avx512(__m512i peak, int16_t limit)
{
    /* a byte a quarter */
    const uint32_t loud = _mm512_cmp_epu16_mask(peak, _mm512_set1_epi16(limit), _MM_CMPINT_NLT);
    const uint32_t bytes = (loud | ((loud & 0x7F7F7F7F) + 0x7F7F7F7F)) & 0x80808080; /* those that are not zero */
    return ~((bytes >> 7) * 0x01020408 >> 24); /* gathers one bit of each */
}

/* Always four blocks: those beyond `blocks` are made of what happens to be there. False if nothing is heard. */
CR_FORCE_INLINE CR_TARGET_AVX512_VNNI int cr_tone_blocks_avx512(const cr_tone_plan *plan, cr_tone_batch *batch,
                                                                const uint32_t hop, const uint32_t blocks, __m512 *z)
{
    const uint32_t second = blocks > 1 ? hop : 0, third = blocks > 2 ? 2 * hop : 0, fourth = blocks > 3 ? 3 * hop : 0;
    const int16_t *first = batch->first, *x = batch->x;
    __m512i sum[16], part[4], low[2], high[2], peak = _mm512_setzero_si512();
    if (hop == CR_TONE_USUAL_HOP) { /* one by one: in a loop, gcc copies all sums in every turn */
        const __m512i a = cr_tone_four_avx512(x, second, third, fourth);
        const __m512i b = cr_tone_four_avx512(x + 8, second, third, fourth);
        const __m512i c = cr_tone_four_avx512(x + 16, second, third, fourth);
        const __m512i d = cr_tone_four_avx512(x + 24, second, third, fourth);
        const __m512i e = cr_tone_four_avx512(x + 32, second, third, fourth);
        peak = cr_tone_peak_avx512(cr_tone_peak_avx512(_mm512_abs_epi16(a), b), c);
        peak = _mm512_max_epu16(peak, cr_tone_peak_avx512(_mm512_abs_epi16(d), e));
        if (!cr_tone_is_heard(batch, cr_tone_quiet_avx512(peak, batch->limit)))
            return 0;
        cr_tone_eight_avx512(plan->wave[0], cr_tone_earlier_avx512(first + 32, e), a, 1, sum);
        cr_tone_eight_avx512(plan->wave[1], cr_tone_earlier_avx512(first + 24, d), b, 0, sum);
        cr_tone_eight_avx512(plan->wave[2], cr_tone_earlier_avx512(first + 16, c), c, 0, sum);
        cr_tone_eight_avx512(plan->wave[3], cr_tone_earlier_avx512(first + 8, b), d, 0, sum);
        cr_tone_eight_avx512(plan->wave[4], cr_tone_earlier_avx512(first, a), e, 0, sum);
    } else {
        const uint32_t rest = hop % 8; /* of the last eight, so many belong to the hop */
        const __m128i last = _mm_set1_epi16((int16_t)rest);
        const __m128i places = _mm_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7);
        const __m128i within = rest ? _mm_cmpgt_epi16(last, places) : _mm_set1_epi16(-1);
        for (uint32_t i = 0; i < hop; i += 8) {
            const __m512i eight = cr_tone_four_avx512(x + i, second, third, fourth);
            peak = cr_tone_peak_avx512(peak, i + 8 < hop ? eight
                                                         : _mm512_and_si512(eight, _mm512_broadcast_i32x4(within)));
        }
        if (!cr_tone_is_heard(batch, cr_tone_quiet_avx512(peak, batch->limit)))
            return 0;
        for (int of = 0; of < 16; of++)
            sum[of] = _mm512_setzero_si512();
        for (uint32_t i = 0; i < hop; i += 8) {
            const int16_t *mirrored = x + hop - 8 - i;
            cr_tone_eight_avx512(plan->wave[i / 8],
                                 cr_tone_earlier_avx512(first + hop - 8 - i,
                                                        cr_tone_four_avx512(mirrored, second, third, fourth)),
                                 cr_tone_four_avx512(x + i, second, third, fourth), 0, sum);
        }
    }
    for (int of = 0; of < 4; of++)
        part[of] = cr_tone_sums_avx512(sum + 4 * of);
    for (int half = 0; half < 2; half++) {
        low[half] = _mm512_shuffle_i32x4(part[2 * half], part[2 * half + 1], 0x44);  /* blocks 0 and 1 */
        high[half] = _mm512_shuffle_i32x4(part[2 * half], part[2 * half + 1], 0xEE); /* blocks 2 and 3 */
    }
    for (uint32_t block = 0; block < CR_TONE_BATCH; block++) {
        const __m512i *from = block < 2 ? low : high;
        const __m512i all = block % 2 ? _mm512_shuffle_i32x4(from[0], from[1], 0xDD)
                                      : _mm512_shuffle_i32x4(from[0], from[1], 0x88);
        z[block] = _mm512_mul_ps(_mm512_cvtepi32_ps(all), _mm512_set1_ps(plan->amplitude));
    }
    if (batch->silent)
        for (uint32_t block = 0; block < CR_TONE_BATCH; block++)
            z[block] = _mm512_maskz_mov_ps((__mmask16)((batch->silent >> block & 1) - 1), z[block]);
    return 1;
}

CR_FORCE_INLINE CR_TARGET_AVX512_VNNI __m512 cr_tone_turned_avx512(__m512 earlier, __m512 turn_re, __m512 turn_im,
                                                                   __m512 later)
{
    __m512 swapped = _mm512_permute_ps(earlier, 0xB1);
    return _mm512_add_ps(_mm512_add_ps(_mm512_mul_ps(earlier, turn_re), _mm512_mul_ps(swapped, turn_im)), later);
}

/* `z`: three blocks before, then the four. */
CR_FORCE_INLINE CR_TARGET_AVX512_VNNI uint32_t cr_tone_looks_avx512(const cr_tone_plan *plan, __m512 *z,
                                                                    cr_tone_block *looks)
{
    const __m512 turn_re = _mm512_loadu_ps(plan->turn_re), turn_im = _mm512_loadu_ps(plan->turn_im);
    const __m512 turn2_re = _mm512_loadu_ps(plan->turn2_re), turn2_im = _mm512_loadu_ps(plan->turn2_im);
    __m512 look[CR_TONE_BATCH], ab, cd, first, second, best, sum, high;
    uint32_t failed;
    for (int n = 0; n < CR_TONE_ROWS - 1; n++)
        z[n] = cr_tone_turned_avx512(z[n], turn_re, turn_im, z[n + 1]);
    for (int n = 0; n < CR_TONE_BATCH; n++) {
        look[n] = cr_tone_turned_avx512(z[n], turn2_re, turn2_im, z[n + 2]);
        _mm512_storeu_ps(looks[n], look[n]);
        look[n] = _mm512_mul_ps(look[n], look[n]);
    }
    ab = _mm512_add_ps(_mm512_shuffle_ps(look[0], look[1], 0x88), _mm512_shuffle_ps(look[0], look[1], 0xDD));
    cd = _mm512_add_ps(_mm512_shuffle_ps(look[2], look[3], 0x88), _mm512_shuffle_ps(look[2], look[3], 0xDD));
    first = _mm512_shuffle_ps(ab, cd, 0x88);
    second = _mm512_shuffle_ps(ab, cd, 0xDD);
    best = _mm512_max_ps(first, second);
    sum = _mm512_add_ps(first, second);
    best = _mm512_max_ps(best, _mm512_shuffle_f32x4(best, best, 0xB1)); /* of the lower half in places 0 to 7 */
    sum = _mm512_add_ps(sum, _mm512_shuffle_f32x4(sum, sum, 0xB1));
    high = _mm512_shuffle_f32x4(best, best, 0x4E);
    sum = _mm512_max_ps(_mm512_mul_ps(sum, _mm512_set1_ps(CR_TONE_GATE_SHARE)), _mm512_set1_ps(plan->gate_power));
    failed = _mm512_cmp_ps_mask(best, sum, _CMP_LT_OQ);
    failed |= failed >> 8;
    failed |= _mm512_cmp_ps_mask(high, _mm512_mul_ps(best, _mm512_set1_ps(CR_TONE_GATE_MOST)), _CMP_GE_OQ);
    failed |= _mm512_cmp_ps_mask(high, _mm512_mul_ps(best, _mm512_set1_ps(CR_TONE_GATE_LEAST)), _CMP_LE_OQ);
    return ~failed;
}

CR_FORCE_INLINE CR_TARGET_AVX512_VNNI uint32_t cr_tone_batch_any_avx512(const cr_tone_plan *plan, cr_tone_batch *batch,
                                                                        const uint32_t hop, const uint32_t blocks)
{
    __m512 z[CR_TONE_ROWS];
    if (!cr_tone_blocks_avx512(plan, batch, hop, blocks, z + CR_TONE_LOOK - 1))
        return 0;
    for (uint32_t n = 0; n < CR_TONE_LOOK - 1; n++)
        z[n] = _mm512_loadu_ps(batch->rows[n]);
    for (uint32_t n = CR_TONE_LOOK - 1; n < CR_TONE_LOOK - 1 + blocks; n++)
        _mm512_storeu_ps(batch->rows[n], z[n]);
    return cr_tone_looks_avx512(plan, z, batch->look) & ~batch->unseen & ((1u << blocks) - 1);
}

/* At 8 kHz in packets of 20 ms all loops have known lengths. */
CR_TARGET_AVX512_VNNI static uint32_t cr_tone_batch_avx512(const cr_tone_plan *plan, cr_tone_batch *batch)
{
    if (plan->hop == CR_TONE_USUAL_HOP && batch->blocks == CR_TONE_BATCH)
        return cr_tone_batch_any_avx512(plan, batch, CR_TONE_USUAL_HOP, CR_TONE_BATCH);
    return cr_tone_batch_any_avx512(plan, batch, plan->hop, batch->blocks);
}

CR_FORCE_INLINE CR_TARGET_AVX512_VNNI cr_tone_energy
cr_tone_filtered_any_avx512(const cr_tone_plan *plan, const int16_t *x,
                                                    const uint32_t hop, const uint32_t taps)
{
    __m256i whole = _mm256_setzero_si256(), rising = _mm256_setzero_si256();
    cr_tone_energy energy;
    x -= taps - 1;
    for (uint32_t n = 0; n < hop; n += 48) { /* one turn at 8 kHz; eight chains, for an addition takes four cycles */
        __m512i even = _mm512_set1_epi32(16384), odd = even, even2 = _mm512_setzero_si512(), odd2 = even2;
        __m256i more_even = _mm256_set1_epi32(16384), more_odd = more_even;
        __m256i more_even2 = _mm256_setzero_si256(), more_odd2 = more_even2;
        for (uint32_t k = 0; k < taps; k += 4) {
            const int16_t *from = x + n + k;
            __m512i tap = _mm512_set1_epi32(cr_tone_pair(plan->tap + k));
            __m512i tap2 = _mm512_set1_epi32(cr_tone_pair(plan->tap + k + 2));
            even = _mm512_dpwssd_epi32(even, _mm512_loadu_si512(from), tap);
            odd = _mm512_dpwssd_epi32(odd, _mm512_loadu_si512(from + 1), tap);
            even2 = _mm512_dpwssd_epi32(even2, _mm512_loadu_si512(from + 2), tap2);
            odd2 = _mm512_dpwssd_epi32(odd2, _mm512_loadu_si512(from + 3), tap2);
            from += 32;
            more_even = _mm256_dpwssd_epi32(more_even, _mm256_loadu_si256((const __m256i *)from),
                                            _mm512_castsi512_si256(tap));
            more_odd = _mm256_dpwssd_epi32(more_odd, _mm256_loadu_si256((const __m256i *)(from + 1)),
                                           _mm512_castsi512_si256(tap));
            more_even2 = _mm256_dpwssd_epi32(more_even2, _mm256_loadu_si256((const __m256i *)(from + 2)),
                                             _mm512_castsi512_si256(tap2));
            more_odd2 = _mm256_dpwssd_epi32(more_odd2, _mm256_loadu_si256((const __m256i *)(from + 3)),
                                            _mm512_castsi512_si256(tap2));
        }
        even = _mm512_add_epi32(even, even2);
        odd = _mm512_add_epi32(odd, odd2);
        cr_tone_add_squares_avx2(_mm512_castsi512_si256(even), _mm512_castsi512_si256(odd), plan->fade + n, hop - n,
                                 &whole, &rising);
        if (hop - n > 16)
            cr_tone_add_squares_avx2(_mm512_extracti64x4_epi64(even, 1), _mm512_extracti64x4_epi64(odd, 1),
                                     plan->fade + n + 16, hop - n - 16, &whole, &rising);
        if (hop - n > 32)
            cr_tone_add_squares_avx2(_mm256_add_epi32(more_even, more_even2), _mm256_add_epi32(more_odd, more_odd2),
                                     plan->fade + n + 32, hop - n - 32, &whole, &rising);
    }
    energy.whole = cr_tone_total_avx2(whole);
    energy.rising = cr_tone_total_avx2(rising);
    return energy;
}

CR_TARGET_AVX512_VNNI static cr_tone_energy cr_tone_filtered_avx512(const cr_tone_plan *plan, const int16_t *x)
{
    if (plan->hop == CR_TONE_USUAL_HOP)
        return cr_tone_filtered_any_avx512(plan, x, CR_TONE_USUAL_HOP, CR_TONE_USUAL_HOP * CR_TONE_TAPS_PER_HOP);
    return cr_tone_filtered_any_avx512(plan, x, plan->hop, plan->taps);
}

#endif
