/* Tone analysis with NEON. Included by goertzel.h, which holds the specification.
 *
 *   fold     eight even and odd sums at a time
 *   blocks   they meet a row of the table (smlal); each real or imaginary part has a register of its own
 *   gate     two lanes of a look in a register; its four looks are transposed so that each has one place
 *   energy   eight samples at a time
 */
#ifndef CALLREEL_GOERTZEL_NEON_H
#define CALLREEL_GOERTZEL_NEON_H

CR_FORCE_INLINE void cr_tone_fold_neon(const int16_t *first, const int16_t *x, uint32_t hop, uint32_t block,
                                       int16_t (*folded)[2][CR_TONE_BATCH][8])
{
    for (uint32_t i = 0; i < hop; i += 8) {
        int16x8_t earlier = vrev64q_s16(vld1q_s16(first + hop - 8 - i)), later = vshrq_n_s16(vld1q_s16(x + i), 1);
        earlier = vshrq_n_s16(vextq_s16(earlier, earlier, 4), 1);
        vst1q_s16(folded[i / 8][0][block], vaddq_s16(earlier, later));
        vst1q_s16(folded[i / 8][1][block], vsubq_s16(earlier, later));
    }
}

/* Of the folded windows from `at` on. `blocks` is a constant: as many chains of additions run side by side. */
CR_FORCE_INLINE void cr_tone_blocks_neon(const cr_tone_plan *plan, int16_t (*folded)[2][CR_TONE_BATCH][8], uint32_t at,
                                         const uint32_t blocks, uint32_t silent, float *const *z)
{
    for (int part = 0; part < 16; part += 4) {
        int32x4_t sum[2][4];
        for (int of = 0; of < 4; of++)
            sum[0][of] = sum[1][of] = vdupq_n_s32(0);
        for (uint32_t eight = 0; eight < cr_tone_eights(plan->hop); eight++)
            for (uint32_t block = 0; block < blocks; block++) {
                const int16x8_t even = vld1q_s16(folded[eight][0][at + block]);
                const int16x8_t odd = vld1q_s16(folded[eight][1][at + block]);
                for (int of = 0; of < 4; of++) {
                    const int16x8_t row = vld1q_s16(plan->wave[eight][part + of]), with = of % 2 ? odd : even;
                    sum[block][of] = vmlal_s16(sum[block][of], vget_low_s16(row), vget_low_s16(with));
                    sum[block][of] = vmlal_high_s16(sum[block][of], row, with);
                }
            }
        for (uint32_t block = at; block < at + blocks; block++) {
            const int32x4_t *of = sum[block - at];
            const int32x4_t parts = vpaddq_s32(vpaddq_s32(of[0], of[1]), vpaddq_s32(of[2], of[3]));
            const uint32x4_t heard = vdupq_n_u32((silent >> block & 1) - 1);
            const uint32x4_t bits = vreinterpretq_u32_f32(vmulq_n_f32(vcvtq_f32_s32(parts), plan->amplitude));
            vst1q_f32(z[block] + part, vreinterpretq_f32_u32(vandq_u32(bits, heard)));
        }
    }
}

CR_FORCE_INLINE float32x4_t cr_tone_turned_neon(float32x4_t earlier, float32x4_t turn_re, float32x4_t turn_im,
                                                float32x4_t later)
{
    return vaddq_f32(vaddq_f32(vmulq_f32(earlier, turn_re), vmulq_f32(vrev64q_f32(earlier), turn_im)), later);
}

/* Best and sum of the powers of two lanes, for each of four looks. */
CR_FORCE_INLINE void cr_tone_powers_neon(const float32x4_t *look, float32x4_t *best, float32x4_t *sum)
{
    float32x4_t a = vmulq_f32(look[0], look[0]), b = vmulq_f32(look[1], look[1]);
    float32x4_t c = vmulq_f32(look[2], look[2]), d = vmulq_f32(look[3], look[3]);
    float32x4_t ab = vpaddq_f32(a, b), cd = vpaddq_f32(c, d);
    a = vuzp1q_f32(ab, cd);
    b = vuzp2q_f32(ab, cd);
    *best = vmaxq_f32(a, b);
    *sum = vaddq_f32(a, b);
}

/* Whether the best lane of a half fails, given best and sum for its first two and its last two lanes. */
CR_FORCE_INLINE uint32x4_t cr_tone_half_fails_neon(const cr_tone_plan *plan, float32x4_t best, float32x4_t sum)
{
    return vcltq_f32(best, vmaxq_f32(vmulq_n_f32(sum, CR_TONE_GATE_SHARE), vdupq_n_f32(plan->gate_power)));
}

CR_FORCE_INLINE uint32_t cr_tone_looks_neon(const cr_tone_plan *plan, uint32_t blocks,
                                            float *const *rows, cr_tone_block *looks)
{
    static const uint32_t bits[4] = {1, 2, 4, 8};
    float32x4_t best[4], sum[4], low, high;
    uint32x4_t failed;
    for (int part = 0; part < 4; part++) {
        const float32x4_t turn_re = vld1q_f32(plan->turn_re + 4 * part), turn_im = vld1q_f32(plan->turn_im + 4 * part);
        const float32x4_t turn2_re = vld1q_f32(plan->turn2_re + 4 * part);
        const float32x4_t turn2_im = vld1q_f32(plan->turn2_im + 4 * part);
        float32x4_t z[CR_TONE_ROWS], look[CR_TONE_BATCH];
        for (uint32_t n = 0; n < CR_TONE_ROWS; n++)
            z[n] = n < CR_TONE_LOOK - 1 + blocks ? vld1q_f32(rows[n] + 4 * part) : vdupq_n_f32(0);
        for (int n = 0; n < CR_TONE_ROWS - 1; n++)
            z[n] = cr_tone_turned_neon(z[n], turn_re, turn_im, z[n + 1]);
        for (int n = 0; n < CR_TONE_BATCH; n++) {
            look[n] = cr_tone_turned_neon(z[n], turn2_re, turn2_im, z[n + 2]);
            vst1q_f32(looks[n] + 4 * part, look[n]);
        }
        cr_tone_powers_neon(look, &best[part], &sum[part]);
    }
    low = vmaxq_f32(best[0], best[1]);
    high = vmaxq_f32(best[2], best[3]);
    failed = vorrq_u32(cr_tone_half_fails_neon(plan, low, vaddq_f32(sum[0], sum[1])),
                       cr_tone_half_fails_neon(plan, high, vaddq_f32(sum[2], sum[3])));
    failed = vorrq_u32(failed, vcgeq_f32(high, vmulq_n_f32(low, CR_TONE_GATE_MOST)));
    failed = vorrq_u32(failed, vcleq_f32(high, vmulq_n_f32(low, CR_TONE_GATE_LEAST)));
    return ~vaddvq_u32(vandq_u32(failed, vld1q_u32(bits))) & ((1u << blocks) - 1);
}

CR_FORCE_INLINE uint32_t cr_tone_quiet_neon(const int16_t *x, uint32_t hop, uint32_t hops, int16_t limit)
{
    uint32_t quiet = 0;
    for (uint32_t n = 0; n < hops; n++, x += hop) {
        int16x8_t most = vdupq_n_s16(0), least = most;
        uint32_t i = 0, here;
        for (; i + 8 <= hop; i += 8) {
            most = vmaxq_s16(most, vld1q_s16(x + i));
            least = vminq_s16(least, vld1q_s16(x + i));
        }
        here = (uint32_t)(vmaxvq_s16(most) < limit && vminvq_s16(least) > -limit);
        for (; i < hop; i++)
            here &= (uint32_t)(x[i] < limit && x[i] > -limit);
        quiet |= here << n;
    }
    return quiet;
}

static uint32_t cr_tone_batch_neon(const cr_tone_plan *plan, cr_tone_batch *batch)
{
    const int16_t *first = batch->first, *x = batch->x;
    const uint32_t hop = plan->hop, blocks = batch->blocks;
    float *const *z = batch->rows + CR_TONE_LOOK - 1;
    uint32_t block = 0;
    cr_tone_folded folded;
    if (!cr_tone_is_heard(batch, cr_tone_quiet_neon(x, hop, blocks, batch->limit)))
        return 0;
    for (; block < blocks; block++, first = x, x += hop)
        cr_tone_fold_neon(first, x, hop, block, folded);
    for (block = 0; block + 2 <= blocks; block += 2)
        cr_tone_blocks_neon(plan, folded, block, 2, batch->silent, z);
    if (block < blocks)
        cr_tone_blocks_neon(plan, folded, block, 1, batch->silent, z);
    return cr_tone_looks_neon(plan, blocks, batch->rows, batch->look) & ~batch->unseen;
}

static const int16_t cr_tone_mask[16] = {-1, -1, -1, -1, -1, -1, -1, -1};

/* Squares of the first `rest` of eight samples, whole and faded. */
CR_FORCE_INLINE void cr_tone_add_squares_neon(int16x8_t half, const int16_t *fade, uint32_t rest, uint64x2_t *whole,
                                              uint64x2_t *rising)
{
    int16x8_t faded;
    if (rest < 8)
        half = vandq_s16(half, vld1q_s16(cr_tone_mask + 8 - rest));
    faded = vqrdmulhq_s16(half, vld1q_s16(fade));
    *whole = vpadalq_u32(*whole, vreinterpretq_u32_s32(vmull_s16(vget_low_s16(half), vget_low_s16(half))));
    *whole = vpadalq_u32(*whole, vreinterpretq_u32_s32(vmull_high_s16(half, half)));
    *rising = vpadalq_u32(*rising, vreinterpretq_u32_s32(vmull_s16(vget_low_s16(faded), vget_low_s16(faded))));
    *rising = vpadalq_u32(*rising, vreinterpretq_u32_s32(vmull_high_s16(faded, faded)));
}

static cr_tone_energy cr_tone_energy_neon(const cr_tone_plan *plan, const int16_t *x)
{
    uint64x2_t whole = vdupq_n_u64(0), rising = whole;
    cr_tone_energy energy;
    for (uint32_t n = 0; n < plan->hop; n += 8)
        cr_tone_add_squares_neon(vshrq_n_s16(vld1q_s16(x + n), 1), plan->fade + n, plan->hop - n, &whole, &rising);
    energy.whole = vaddvq_u64(whole);
    energy.rising = vaddvq_u64(rising);
    return energy;
}

static cr_tone_energy cr_tone_filtered_neon(const cr_tone_plan *plan, const int16_t *x)
{
    uint64x2_t whole = vdupq_n_u64(0), rising = whole;
    cr_tone_energy energy;
    x -= plan->taps - 1;
    for (uint32_t n = 0; n < plan->hop; n += 8) {
        int32x4_t low = vdupq_n_s32(16384), high = low;
        for (uint32_t k = 0; k < plan->taps; k++) {
            const int16x8_t from = vld1q_s16(x + n + k);
            low = vmlal_n_s16(low, vget_low_s16(from), plan->tap[k]);
            high = vmlal_high_n_s16(high, from, plan->tap[k]);
        }
        cr_tone_add_squares_neon(vcombine_s16(vqshrn_n_s32(low, 15), vqshrn_n_s32(high, 15)), plan->fade + n,
                                 plan->hop - n, &whole, &rising);
    }
    energy.whole = vaddvq_u64(whole);
    energy.rising = vaddvq_u64(rising);
    return energy;
}

#endif
