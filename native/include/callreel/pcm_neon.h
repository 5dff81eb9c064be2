/* Linear PCM with NEON, 8 samples to a register. Included by pcm.h, which holds the specification.
 *
 *   weave, unweave   zip and unzip two registers
 *   mix              widening adds to int32, a saturating narrowing at the end
 *   gain             float32 product, converted to nearest (ties to even) and saturated twice: to int32, to int16
 *   level            widening squares, added in pairs to 64-bit sums
 *
 * Samples are loaded as bytes, because they may lie at odd addresses.
 */
#ifndef CALLREEL_PCM_NEON_H
#define CALLREEL_PCM_NEON_H

static inline int16x8_t cr_load_neon(const uint8_t *p) { return vreinterpretq_s16_u8(vld1q_u8(p)); }
static inline void cr_store_neon(uint8_t *p, int16x8_t v) { vst1q_u8(p, vreinterpretq_u8_s16(v)); }

static void cr_pcm_interleave_neon(uint8_t *stereo, const uint8_t *left, const uint8_t *right, size_t frames)
{
    size_t i = 0;
    for (; frames - i >= 8; i += 8) {
        int16x8_t l = cr_load_neon(left + 2 * i), r = cr_load_neon(right + 2 * i);
        cr_store_neon(stereo + 4 * i, vzip1q_s16(l, r));
        cr_store_neon(stereo + 4 * i + 16, vzip2q_s16(l, r));
    }
    cr_pcm_interleave_scalar(stereo + 4 * i, left + 2 * i, right + 2 * i, frames - i);
}

static void cr_pcm_pick_channel_neon(uint8_t *mono, const uint8_t *stereo, size_t frames, unsigned channel)
{
    size_t i = 0;
    for (; frames - i >= 8; i += 8) {
        int16x8_t early = cr_load_neon(stereo + 4 * i), late = cr_load_neon(stereo + 4 * i + 16);
        cr_store_neon(mono + 2 * i, channel ? vuzp2q_s16(early, late) : vuzp1q_s16(early, late));
    }
    cr_pcm_pick_channel_scalar(mono + 2 * i, stereo + 4 * i, frames - i, channel);
}

static void cr_pcm_deinterleave_neon(uint8_t *left, uint8_t *right, const uint8_t *stereo, size_t frames)
{
    size_t i = 0;
    for (; frames - i >= 8; i += 8) {
        int16x8_t early = cr_load_neon(stereo + 4 * i), late = cr_load_neon(stereo + 4 * i + 16);
        cr_store_neon(left + 2 * i, vuzp1q_s16(early, late));
        cr_store_neon(right + 2 * i, vuzp2q_s16(early, late));
    }
    cr_pcm_deinterleave_scalar(left + 2 * i, right + 2 * i, stereo + 4 * i, frames - i);
}

static void cr_pcm_mix_neon(uint8_t *mixed, const uint8_t *const *tracks, size_t track_count, size_t samples)
{
    size_t i = 0;
    for (; samples - i >= 16; i += 16) {
        int32x4_t sums[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
        for (size_t t = 0; t < track_count; t++) {
            int16x8_t a = cr_load_neon(tracks[t] + 2 * i), b = cr_load_neon(tracks[t] + 2 * i + 16);
            sums[0] = vaddw_s16(sums[0], vget_low_s16(a));
            sums[1] = vaddw_high_s16(sums[1], a);
            sums[2] = vaddw_s16(sums[2], vget_low_s16(b));
            sums[3] = vaddw_high_s16(sums[3], b);
        }
        cr_store_neon(mixed + 2 * i, vqmovn_high_s32(vqmovn_s32(sums[0]), sums[1]));
        cr_store_neon(mixed + 2 * i + 16, vqmovn_high_s32(vqmovn_s32(sums[2]), sums[3]));
    }
    cr_pcm_mix_from_scalar(mixed, tracks, track_count, i, samples);
}

static inline int16x4_t cr_gain_half_neon(int16x4_t x, float32x4_t multiplier)
{
    return vqmovn_s32(vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(vmovl_s16(x)), multiplier)));
}

static void cr_pcm_gain_neon(uint8_t *out, const uint8_t *pcm, size_t samples, float multiplier)
{
    const float32x4_t factors = vdupq_n_f32(multiplier);
    size_t i = 0;
    for (; samples - i >= 8; i += 8) {
        int16x8_t x = cr_load_neon(pcm + 2 * i);
        cr_store_neon(out + 2 * i, vcombine_s16(cr_gain_half_neon(vget_low_s16(x), factors),
                                                cr_gain_half_neon(vget_high_s16(x), factors)));
    }
    cr_pcm_gain_scalar(out + 2 * i, pcm + 2 * i, samples - i, multiplier);
}

static cr_pcm_energy cr_pcm_energy_neon(const uint8_t *pcm, size_t samples)
{
    uint64x2_t sums = vdupq_n_u64(0);
    int16x8_t lowest = vdupq_n_s16(0), highest = lowest;
    uint64_t sum[2], none[2] = {0, 0};
    int16_t lows[8], highs[8];
    size_t i = 0;
    for (; samples - i >= 8; i += 8) {
        int16x8_t x = cr_load_neon(pcm + 2 * i);
        sums = vpadalq_u32(sums, vreinterpretq_u32_s32(vmull_s16(vget_low_s16(x), vget_low_s16(x))));
        sums = vpadalq_u32(sums, vreinterpretq_u32_s32(vmull_high_s16(x, x)));
        lowest = vminq_s16(lowest, x);
        highest = vmaxq_s16(highest, x);
    }
    vst1q_u64(sum, sums);
    vst1q_s16(lows, lowest);
    vst1q_s16(highs, highest);
    return cr_pcm_energy_join(cr_pcm_energy_scalar(pcm + 2 * i, samples - i), sum, none, 2, lows, highs, 8);
}

static float cr_pcm_weighted_sum_neon(const float *samples, const float *weights, size_t count)
{
    float32x4_t low = vdupq_n_f32(0), high = low;
    float32x2_t folded;
    for (size_t i = 0; i < count; i += 8) {
        /* Two roundings, as specified: not vfmaq_f32. */
        low = vaddq_f32(low, vmulq_f32(vld1q_f32(samples + i), vld1q_f32(weights + i)));
        high = vaddq_f32(high, vmulq_f32(vld1q_f32(samples + i + 4), vld1q_f32(weights + i + 4)));
    }
    low = vaddq_f32(low, high);
    folded = vadd_f32(vget_low_f32(low), vget_high_f32(low));
    return vget_lane_f32(folded, 0) + vget_lane_f32(folded, 1);
}

#endif
