/* Tone analysis with SSE2. Included by goertzel.h, which holds the specification.
 *
 *   fold     eight even and odd sums at a time
 *   blocks   they meet a row of the table (pmaddwd), those of two blocks in turn; each real or imaginary part has a
 *            register of its own, and four of them are transposed to add up what is in each
 *   gate     two lanes of a look in a register; its four looks are transposed so that each has one place
 *   energy   eight samples at a time; the high-pass yields even and odd outputs apart
 */
#ifndef CALLREEL_GOERTZEL_SSE2_H
#define CALLREEL_GOERTZEL_SSE2_H

CR_FORCE_INLINE int32_t cr_tone_pair(const int16_t *x)
{
    int32_t pair;
    memcpy(&pair, x, sizeof pair);
    return pair;
}

CR_FORCE_INLINE __m128i cr_tone_reversed_sse2(__m128i v)
{
    return _mm_shuffle_epi32(_mm_shufflehi_epi16(_mm_shufflelo_epi16(v, 0x1B), 0x1B), 0x4E);
}

CR_FORCE_INLINE void cr_tone_fold_eight_sse2(__m128i earlier, __m128i later, uint32_t block,
                                             int16_t (*folded)[CR_TONE_BATCH][8])
{
    earlier = _mm_srai_epi16(earlier, 1);
    later = _mm_srai_epi16(later, 1);
    _mm_storeu_si128((__m128i *)folded[0][block], _mm_add_epi16(earlier, later));
    _mm_storeu_si128((__m128i *)folded[1][block], _mm_sub_epi16(earlier, later));
}

/* The sum of each of four registers. */
CR_FORCE_INLINE __m128i cr_tone_sums_sse2(const __m128i *of)
{
    __m128i ab = _mm_add_epi32(_mm_unpacklo_epi32(of[0], of[1]), _mm_unpackhi_epi32(of[0], of[1]));
    __m128i cd = _mm_add_epi32(_mm_unpacklo_epi32(of[2], of[3]), _mm_unpackhi_epi32(of[2], of[3]));
    return _mm_add_epi32(_mm_unpacklo_epi64(ab, cd), _mm_unpackhi_epi64(ab, cd));
}

/* Of the folded windows from `at` on. `blocks` is a constant: as many chains of additions run side by side. */
CR_FORCE_INLINE void cr_tone_blocks_sse2(const cr_tone_plan *plan, int16_t (*folded)[2][CR_TONE_BATCH][8], uint32_t at,
                                         const uint32_t blocks, uint32_t silent, float *const *z)
{
    const __m128 amplitude = _mm_set1_ps(plan->amplitude);
    for (int part = 0; part < 16; part += 4) {
        __m128i sum[2][4];
        for (int of = 0; of < 4; of++)
            sum[0][of] = sum[1][of] = _mm_setzero_si128();
        for (uint32_t eight = 0; eight < cr_tone_eights(plan->hop); eight++)
            for (uint32_t block = 0; block < blocks; block++) {
                const __m128i even = _mm_loadu_si128((const __m128i *)folded[eight][0][at + block]);
                const __m128i odd = _mm_loadu_si128((const __m128i *)folded[eight][1][at + block]);
                for (int of = 0; of < 4; of++) {
                    const __m128i row = _mm_loadu_si128((const __m128i *)plan->wave[eight][part + of]);
                    sum[block][of] = _mm_add_epi32(sum[block][of], _mm_madd_epi16(row, of % 2 ? odd : even));
                }
            }
        for (uint32_t block = at; block < at + blocks; block++) {
            const __m128 heard = _mm_castsi128_ps(_mm_set1_epi32((int32_t)(silent >> block & 1) - 1));
            const __m128 parts = _mm_cvtepi32_ps(cr_tone_sums_sse2(sum[block - at]));
            _mm_storeu_ps(z[block] + part, _mm_and_ps(_mm_mul_ps(parts, amplitude), heard));
        }
    }
}

CR_FORCE_INLINE __m128 cr_tone_turned_sse2(__m128 earlier, __m128 turn_re, __m128 turn_im, __m128 later)
{
    __m128 swapped = _mm_shuffle_ps(earlier, earlier, 0xB1);
    return _mm_add_ps(_mm_add_ps(_mm_mul_ps(earlier, turn_re), _mm_mul_ps(swapped, turn_im)), later);
}

/* Best and sum of the powers of two lanes, for each of four looks. */
CR_FORCE_INLINE void cr_tone_powers_sse2(const __m128 *look, __m128 *best, __m128 *sum)
{
    __m128 a = _mm_mul_ps(look[0], look[0]), b = _mm_mul_ps(look[1], look[1]);
    __m128 c = _mm_mul_ps(look[2], look[2]), d = _mm_mul_ps(look[3], look[3]);
    __m128 ab = _mm_add_ps(_mm_shuffle_ps(a, b, 0x88), _mm_shuffle_ps(a, b, 0xDD));
    __m128 cd = _mm_add_ps(_mm_shuffle_ps(c, d, 0x88), _mm_shuffle_ps(c, d, 0xDD));
    a = _mm_shuffle_ps(ab, cd, 0x88);
    b = _mm_shuffle_ps(ab, cd, 0xDD);
    *best = _mm_max_ps(a, b);
    *sum = _mm_add_ps(a, b);
}

/* Given best and sum for the first two and the last two lanes of each half. */
CR_FORCE_INLINE uint32_t cr_tone_gate_sse2(const cr_tone_plan *plan, const __m128 best[4], const __m128 sum[4])
{
    const __m128 share = _mm_set1_ps(CR_TONE_GATE_SHARE), power = _mm_set1_ps(plan->gate_power);
    __m128 low = _mm_max_ps(best[0], best[1]), high = _mm_max_ps(best[2], best[3]), failed;
    failed = _mm_cmplt_ps(low, _mm_max_ps(_mm_mul_ps(_mm_add_ps(sum[0], sum[1]), share), power));
    failed = _mm_or_ps(failed, _mm_cmplt_ps(high, _mm_max_ps(_mm_mul_ps(_mm_add_ps(sum[2], sum[3]), share), power)));
    failed = _mm_or_ps(failed, _mm_cmpge_ps(high, _mm_mul_ps(low, _mm_set1_ps(CR_TONE_GATE_MOST))));
    failed = _mm_or_ps(failed, _mm_cmple_ps(high, _mm_mul_ps(low, _mm_set1_ps(CR_TONE_GATE_LEAST))));
    return ~(uint32_t)_mm_movemask_ps(failed);
}

CR_FORCE_INLINE uint32_t cr_tone_looks_sse2(const cr_tone_plan *plan, uint32_t blocks,
                                            float *const *rows, cr_tone_block *looks)
{
    __m128 best[4], sum[4];
    for (int part = 0; part < 4; part++) {
        const __m128 turn_re = _mm_loadu_ps(plan->turn_re + 4 * part), turn_im = _mm_loadu_ps(plan->turn_im + 4 * part);
        const __m128 turn2_re = _mm_loadu_ps(plan->turn2_re + 4 * part);
        const __m128 turn2_im = _mm_loadu_ps(plan->turn2_im + 4 * part);
        __m128 z[CR_TONE_ROWS], look[CR_TONE_BATCH];
        for (uint32_t n = 0; n < CR_TONE_ROWS; n++)
            z[n] = n < CR_TONE_LOOK - 1 + blocks ? _mm_loadu_ps(rows[n] + 4 * part) : _mm_setzero_ps();
        for (int n = 0; n < CR_TONE_ROWS - 1; n++)
            z[n] = cr_tone_turned_sse2(z[n], turn_re, turn_im, z[n + 1]);
        for (int n = 0; n < CR_TONE_BATCH; n++) {
            look[n] = cr_tone_turned_sse2(z[n], turn2_re, turn2_im, z[n + 2]);
            _mm_storeu_ps(looks[n] + 4 * part, look[n]);
        }
        cr_tone_powers_sse2(look, &best[part], &sum[part]);
    }
    return cr_tone_gate_sse2(plan, best, sum) & ((1u << blocks) - 1);
}

/* Whether all of one hop is quiet: no exit in the middle, which nobody could predict. */
CR_FORCE_INLINE uint32_t cr_tone_hop_is_quiet_sse2(const int16_t *x, uint32_t hop, int16_t limit)
{
    __m128i most = _mm_setzero_si128(), least = _mm_setzero_si128();
    uint32_t i = 0, quiet;
    for (; i + 8 <= hop; i += 8) {
        __m128i eight = _mm_loadu_si128((const __m128i *)(x + i));
        most = _mm_max_epi16(most, eight);
        least = _mm_min_epi16(least, eight);
    }
    most = _mm_or_si128(_mm_cmpgt_epi16(most, _mm_set1_epi16((int16_t)(limit - 1))),
                        _mm_cmplt_epi16(least, _mm_set1_epi16((int16_t)(1 - limit))));
    quiet = _mm_movemask_epi8(most) == 0;
    for (; i < hop; i++)
        quiet &= (uint32_t)(x[i] < limit && x[i] > -limit);
    return quiet;
}

CR_FORCE_INLINE uint32_t cr_tone_quiet_sse2(const int16_t *x, uint32_t hop, uint32_t hops, int16_t limit)
{
    uint32_t quiet = 0;
    for (uint32_t n = 0; n < hops; n++)
        quiet |= cr_tone_hop_is_quiet_sse2(x + n * hop, hop, limit) << n;
    return quiet;
}

static uint32_t cr_tone_batch_sse2(const cr_tone_plan *plan, cr_tone_batch *batch)
{
    const int16_t *first = batch->first, *x = batch->x;
    const uint32_t hop = plan->hop, blocks = batch->blocks;
    float *const *z = batch->rows + CR_TONE_LOOK - 1;
    uint32_t block = 0;
    cr_tone_folded folded;
    if (!cr_tone_is_heard(batch, cr_tone_quiet_sse2(x, hop, blocks, batch->limit)))
        return 0;
    for (; block < blocks; block++, first = x, x += hop)
        for (uint32_t i = 0; i < hop; i += 8)
            cr_tone_fold_eight_sse2(cr_tone_reversed_sse2(_mm_loadu_si128((const __m128i *)(first + hop - 8 - i))),
                                    _mm_loadu_si128((const __m128i *)(x + i)), block, folded[i / 8]);
    for (block = 0; block + 2 <= blocks; block += 2)
        cr_tone_blocks_sse2(plan, folded, block, 2, batch->silent, z);
    if (block < blocks)
        cr_tone_blocks_sse2(plan, folded, block, 1, batch->silent, z);
    return cr_tone_looks_sse2(plan, blocks, batch->rows, batch->look) & ~batch->unseen;
}

static const int16_t cr_tone_mask[32] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};


/* Squares of eight samples, whole and faded, added as 64-bit numbers. */
CR_FORCE_INLINE void cr_tone_add_squares_sse2(__m128i passed, __m128i fade, __m128i *whole, __m128i *rising)
{
    const __m128i zero = _mm_setzero_si128(), one = _mm_set1_epi16(1), half = _mm_set1_epi16(16384);
    __m128i low = _mm_madd_epi16(_mm_unpacklo_epi16(passed, one), _mm_unpacklo_epi16(fade, half));
    __m128i high = _mm_madd_epi16(_mm_unpackhi_epi16(passed, one), _mm_unpackhi_epi16(fade, half));
    __m128i faded = _mm_packs_epi32(_mm_srai_epi32(low, 15), _mm_srai_epi32(high, 15));
    __m128i squares = _mm_madd_epi16(passed, passed); /* two may add up to 2^31: unsigned */
    *whole = _mm_add_epi64(*whole, _mm_add_epi64(_mm_unpacklo_epi32(squares, zero), _mm_unpackhi_epi32(squares, zero)));
    squares = _mm_madd_epi16(faded, faded);
    *rising = _mm_add_epi64(*rising,
                            _mm_add_epi64(_mm_unpacklo_epi32(squares, zero), _mm_unpackhi_epi32(squares, zero)));
}

CR_FORCE_INLINE uint64_t cr_tone_total_sse2(__m128i sums)
{
    uint64_t parts[2];
    _mm_storeu_si128((__m128i *)parts, sums);
    return parts[0] + parts[1];
}

static cr_tone_energy cr_tone_energy_sse2(const cr_tone_plan *plan, const int16_t *x)
{
    __m128i whole = _mm_setzero_si128(), rising = _mm_setzero_si128();
    cr_tone_energy energy;
    for (uint32_t n = 0; n < plan->hop; n += 8) {
        uint32_t rest = plan->hop - n < 8 ? plan->hop - n : 8;
        __m128i half = _mm_srai_epi16(_mm_loadu_si128((const __m128i *)(x + n)), 1);
        half = _mm_and_si128(half, _mm_loadu_si128((const __m128i *)(cr_tone_mask + 16 - rest)));
        cr_tone_add_squares_sse2(half, _mm_loadu_si128((const __m128i *)(plan->fade + n)), &whole, &rising);
    }
    energy.whole = cr_tone_total_sse2(whole);
    energy.rising = cr_tone_total_sse2(rising);
    return energy;
}

/* Outputs side by side: even ones need pairs from an even place on, odd ones from the next; each tap pair is
 * repeated over all lanes. */
static cr_tone_energy cr_tone_filtered_sse2(const cr_tone_plan *plan, const int16_t *x)
{
    const __m128i half = _mm_set1_epi32(16384);
    __m128i whole = _mm_setzero_si128(), rising = _mm_setzero_si128();
    cr_tone_energy energy;
    x -= plan->taps - 1;
    for (uint32_t n = 0; n < plan->hop; n += 8) {
        __m128i even = half, odd = half, passed;
        uint32_t rest = plan->hop - n < 8 ? plan->hop - n : 8;
        for (uint32_t k = 0; k < plan->taps; k += 2) {
            __m128i tap = _mm_set1_epi32(cr_tone_pair(plan->tap + k));
            even = _mm_add_epi32(even, _mm_madd_epi16(_mm_loadu_si128((const __m128i *)(x + n + k)), tap));
            odd = _mm_add_epi32(odd, _mm_madd_epi16(_mm_loadu_si128((const __m128i *)(x + n + k + 1)), tap));
        }
        even = _mm_srai_epi32(even, 15);
        odd = _mm_srai_epi32(odd, 15);
        passed = _mm_packs_epi32(_mm_unpacklo_epi32(even, odd), _mm_unpackhi_epi32(even, odd));
        passed = _mm_and_si128(passed, _mm_loadu_si128((const __m128i *)(cr_tone_mask + 16 - rest)));
        cr_tone_add_squares_sse2(passed, _mm_loadu_si128((const __m128i *)(plan->fade + n)), &whole, &rising);
    }
    energy.whole = cr_tone_total_sse2(whole);
    energy.rising = cr_tone_total_sse2(rising);
    return energy;
}

#endif
