/* Tone analysis with AVX2. Included by goertzel.h, which holds the specification.
 *
 *   blocks   two to a register; the table is read once for four blocks
 *   gate     the four looks of half of the lanes are transposed so that each has one place
 *   energy   sixteen samples at a time
 */
#ifndef CALLREEL_GOERTZEL_AVX2_H
#define CALLREEL_GOERTZEL_AVX2_H

CR_FORCE_INLINE CR_TARGET_AVX2 __m256i cr_tone_two_avx2(const int16_t *a, const int16_t *b)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)a)),
                                   _mm_loadu_si128((const __m128i *)b), 1);
}

/* The sum of each of four registers, in both halves. */
CR_FORCE_INLINE CR_TARGET_AVX2 __m256i cr_tone_sums_avx2(const __m256i *of)
{
    __m256i ab = _mm256_add_epi32(_mm256_unpacklo_epi32(of[0], of[1]), _mm256_unpackhi_epi32(of[0], of[1]));
    __m256i cd = _mm256_add_epi32(_mm256_unpacklo_epi32(of[2], of[3]), _mm256_unpackhi_epi32(of[2], of[3]));
    return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
}

/* Always four blocks: those beyond `blocks` are made of what happens to be there. */
CR_FORCE_INLINE CR_TARGET_AVX2 void cr_tone_blocks_avx2(const cr_tone_plan *plan, const int16_t *first,
                                                        const int16_t *x, const uint32_t hop, uint32_t blocks,
                                                        uint32_t silent, float *const *z)
{
    const __m256 amplitude = _mm256_set1_ps(plan->amplitude);
    const __m256i backwards = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(14, 15, 12, 13, 10, 11, 8, 9, 6, 7, 4, 5, 2, 3, 0, 1));
    const __m256i zero = _mm256_setzero_si256();
    __m256i parts[2][4];
    cr_tone_folded folded;
    for (uint32_t block = 0; block < CR_TONE_BATCH; block += 2) {
        const int16_t *const next = block + 1 < blocks ? x + hop : x;
        for (uint32_t i = 0; i < hop; i += 8) {
            __m256i later = cr_tone_two_avx2(x + i, next + i);
            __m256i earlier = cr_tone_two_avx2(first + hop - 8 - i, x + hop - 8 - i);
            later = _mm256_srai_epi16(later, 1);
            earlier = _mm256_srai_epi16(_mm256_shuffle_epi8(earlier, backwards), 1);
            _mm256_storeu_si256((__m256i *)folded[i / 8][0][block], _mm256_add_epi16(earlier, later));
            _mm256_storeu_si256((__m256i *)folded[i / 8][1][block], _mm256_sub_epi16(earlier, later));
        }
        if (block + 2 < blocks) {
            first = next;
            x = next + hop;
        }
    }
    for (int part = 0; part < 16; part += 4)
        for (int two = 0; two < 2; two++) {
            __m256i sum[4] = {zero, zero, zero, zero};
            for (uint32_t eight = 0; eight < cr_tone_eights(hop); eight++) {
                const __m256i even = _mm256_loadu_si256((const __m256i *)folded[eight][0][2 * two]);
                const __m256i odd = _mm256_loadu_si256((const __m256i *)folded[eight][1][2 * two]);
                for (int of = 0; of < 4; of++) {
                    const __m256i row = _mm256_loadu_si256((const __m256i *)plan->wave[eight][part + of]);
                    sum[of] = _mm256_add_epi32(sum[of], _mm256_madd_epi16(row, of % 2 ? odd : even));
                }
            }
            parts[two][part / 4] = cr_tone_sums_avx2(sum);
        }
    for (uint32_t block = 0; block < CR_TONE_BATCH; block++)
        for (int half = 0; half < 2; half++) { /* stored as wide as they will be read, or that would have to wait */
            const __m256i *from = parts[block / 2] + 2 * half;
            const __m256i all = block % 2 ? _mm256_permute2x128_si256(from[0], from[1], 0x31)
                                          : _mm256_permute2x128_si256(from[0], from[1], 0x20);
            const __m256i heard = _mm256_set1_epi32((int32_t)(silent >> block & 1) - 1);
            _mm256_storeu_ps(z[block] + CR_TONE_LANES * half,
                             _mm256_and_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(all), amplitude),
                                           _mm256_castsi256_ps(heard)));
        }
}

CR_FORCE_INLINE CR_TARGET_AVX2 __m256 cr_tone_turned_avx2(__m256 earlier, __m256 turn_re, __m256 turn_im,
                                                          __m256 later)
{
    __m256 swapped = _mm256_permute_ps(earlier, 0xB1);
    return _mm256_add_ps(_mm256_add_ps(_mm256_mul_ps(earlier, turn_re), _mm256_mul_ps(swapped, turn_im)), later);
}

CR_FORCE_INLINE CR_TARGET_AVX2 uint32_t cr_tone_looks_avx2(const cr_tone_plan *plan,
                                                           float *const *rows, cr_tone_block *looks)
{
    __m128 best[4], sum[4];
    for (int half = 0; half < 2; half++) {
        const int at = CR_TONE_LANES * half;
        const __m256 turn_re = _mm256_loadu_ps(plan->turn_re + at), turn_im = _mm256_loadu_ps(plan->turn_im + at);
        const __m256 turn2_re = _mm256_loadu_ps(plan->turn2_re + at), turn2_im = _mm256_loadu_ps(plan->turn2_im + at);
        __m256 z[CR_TONE_ROWS], look[CR_TONE_BATCH], ab, cd, first, second;
        for (int n = 0; n < CR_TONE_ROWS; n++)
            z[n] = _mm256_loadu_ps(rows[n] + at);
        for (int n = 0; n < CR_TONE_ROWS - 1; n++)
            z[n] = cr_tone_turned_avx2(z[n], turn_re, turn_im, z[n + 1]);
        for (int n = 0; n < CR_TONE_BATCH; n++) {
            look[n] = cr_tone_turned_avx2(z[n], turn2_re, turn2_im, z[n + 2]);
            _mm256_storeu_ps(looks[n] + at, look[n]);
            look[n] = _mm256_mul_ps(look[n], look[n]);
        }
        ab = _mm256_add_ps(_mm256_shuffle_ps(look[0], look[1], 0x88), _mm256_shuffle_ps(look[0], look[1], 0xDD));
        cd = _mm256_add_ps(_mm256_shuffle_ps(look[2], look[3], 0x88), _mm256_shuffle_ps(look[2], look[3], 0xDD));
        first = _mm256_shuffle_ps(ab, cd, 0x88);
        second = _mm256_shuffle_ps(ab, cd, 0xDD);
        ab = _mm256_max_ps(first, second);
        cd = _mm256_add_ps(first, second);
        best[2 * half] = _mm256_castps256_ps128(ab);
        best[2 * half + 1] = _mm256_extractf128_ps(ab, 1);
        sum[2 * half] = _mm256_castps256_ps128(cd);
        sum[2 * half + 1] = _mm256_extractf128_ps(cd, 1);
    }
    return cr_tone_gate_sse2(plan, best, sum);
}

CR_FORCE_INLINE CR_TARGET_AVX2 uint32_t cr_tone_batch_any_avx2(const cr_tone_plan *plan, cr_tone_batch *batch,
                                                               const uint32_t hop, const uint32_t blocks)
{
    cr_tone_block scrap;
    float *rows[CR_TONE_ROWS];
    if (!cr_tone_is_heard(batch, cr_tone_quiet_sse2(batch->x, hop, blocks, batch->limit)))
        return 0;
    for (uint32_t n = 0; n < CR_TONE_ROWS; n++)
        rows[n] = n < CR_TONE_LOOK - 1 + blocks ? batch->rows[n] : scrap;
    cr_tone_blocks_avx2(plan, batch->first, batch->x, hop, blocks, batch->silent, rows + CR_TONE_LOOK - 1);
    return cr_tone_looks_avx2(plan, rows, batch->look) & ~batch->unseen & ((1u << blocks) - 1);
}

/* At 8 kHz in packets of 20 ms all loops have known lengths. */
CR_TARGET_AVX2 static uint32_t cr_tone_batch_avx2(const cr_tone_plan *plan, cr_tone_batch *batch)
{
    if (plan->hop == CR_TONE_USUAL_HOP && batch->blocks == CR_TONE_BATCH)
        return cr_tone_batch_any_avx2(plan, batch, CR_TONE_USUAL_HOP, CR_TONE_BATCH);
    return cr_tone_batch_any_avx2(plan, batch, plan->hop, batch->blocks);
}

CR_FORCE_INLINE CR_TARGET_AVX2 void cr_tone_add_squares_of_avx2(__m256i half, const int16_t *fade, uint32_t rest,
                                                                __m256i *whole, __m256i *rising)
{
    const __m256i zero = _mm256_setzero_si256();
    __m256i faded, squares;
    if (rest < 16)
        half = _mm256_and_si256(half, _mm256_loadu_si256((const __m256i *)(cr_tone_mask + 16 - rest)));
    faded = _mm256_mulhrs_epi16(half, _mm256_loadu_si256((const __m256i *)fade));
    squares = _mm256_madd_epi16(half, half);
    *whole = _mm256_add_epi64(*whole, _mm256_add_epi64(_mm256_unpacklo_epi32(squares, zero),
                                                       _mm256_unpackhi_epi32(squares, zero)));
    squares = _mm256_madd_epi16(faded, faded);
    *rising = _mm256_add_epi64(*rising, _mm256_add_epi64(_mm256_unpacklo_epi32(squares, zero),
                                                         _mm256_unpackhi_epi32(squares, zero)));
}

CR_FORCE_INLINE CR_TARGET_AVX2 uint64_t cr_tone_total_avx2(__m256i sums)
{
    return cr_tone_total_sse2(_mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1)));
}

CR_FORCE_INLINE CR_TARGET_AVX2 cr_tone_energy cr_tone_energy_any_avx2(const cr_tone_plan *plan, const int16_t *x,
                                                                      const uint32_t hop)
{
    __m256i whole = _mm256_setzero_si256(), rising = _mm256_setzero_si256();
    cr_tone_energy energy;
    for (uint32_t n = 0; n < hop; n += 16)
        cr_tone_add_squares_of_avx2(_mm256_srai_epi16(_mm256_loadu_si256((const __m256i *)(x + n)), 1), plan->fade + n,
                                    hop - n, &whole, &rising);
    energy.whole = cr_tone_total_avx2(whole);
    energy.rising = cr_tone_total_avx2(rising);
    return energy;
}

CR_TARGET_AVX2 static cr_tone_energy cr_tone_energy_avx2(const cr_tone_plan *plan, const int16_t *x)
{
    if (plan->hop == CR_TONE_USUAL_HOP)
        return cr_tone_energy_any_avx2(plan, x, CR_TONE_USUAL_HOP);
    return cr_tone_energy_any_avx2(plan, x, plan->hop);
}

/* Of filtered samples: those at even places and those at odd ones. */
CR_FORCE_INLINE CR_TARGET_AVX2 void cr_tone_add_squares_avx2(__m256i even, __m256i odd, const int16_t *fade,
                                                             uint32_t rest, __m256i *whole, __m256i *rising)
{
    even = _mm256_srai_epi32(even, 15);
    odd = _mm256_srai_epi32(odd, 15);
    cr_tone_add_squares_of_avx2(
        _mm256_packs_epi32(_mm256_unpacklo_epi32(even, odd), _mm256_unpackhi_epi32(even, odd)), fade, rest, whole,
        rising);
}

CR_FORCE_INLINE CR_TARGET_AVX2 cr_tone_energy cr_tone_filtered_any_avx2(const cr_tone_plan *plan, const int16_t *x,
                                                  const uint32_t hop, const uint32_t taps)
{
    const __m256i half = _mm256_set1_epi32(16384);
    __m256i whole = _mm256_setzero_si256(), rising = _mm256_setzero_si256();
    cr_tone_energy energy;
    x -= taps - 1;
    for (uint32_t n = 0; n < hop; n += 16) {
        __m256i even = half, odd = half;
        for (uint32_t k = 0; k < taps; k += 2) {
            __m256i tap = _mm256_set1_epi32(cr_tone_pair(plan->tap + k));
            even = _mm256_add_epi32(even, _mm256_madd_epi16(_mm256_loadu_si256((const __m256i *)(x + n + k)), tap));
            odd = _mm256_add_epi32(odd, _mm256_madd_epi16(_mm256_loadu_si256((const __m256i *)(x + n + k + 1)), tap));
        }
        cr_tone_add_squares_avx2(even, odd, plan->fade + n, hop - n, &whole, &rising);
    }
    energy.whole = cr_tone_total_avx2(whole);
    energy.rising = cr_tone_total_avx2(rising);
    return energy;
}

CR_TARGET_AVX2 static cr_tone_energy cr_tone_filtered_avx2(const cr_tone_plan *plan, const int16_t *x)
{
    if (plan->hop == CR_TONE_USUAL_HOP)
        return cr_tone_filtered_any_avx2(plan, x, CR_TONE_USUAL_HOP, CR_TONE_USUAL_HOP * CR_TONE_TAPS_PER_HOP);
    return cr_tone_filtered_any_avx2(plan, x, plan->hop, plan->taps);
}

#endif
