/* G.711 with NEON, 16 samples at a time. Included by g711.h, which holds the specification.
 *
 * How:  NEON shifts every 16-bit lane by its own count and counts leading zeros, so both directions are the
 *       specification's arithmetic, lane by lane: segment = 15 - leading zeros - position of segment 0's highest bit.
 */
#ifndef CALLREEL_G711_NEON_H
#define CALLREEL_G711_NEON_H

/* Magnitudes of 8 codes; the bytes hold what is shifted (up to 63) and how far. */
static inline uint16x8_t cr_law_shift_neon(uint8x8_t steps, uint8x8_t shifts)
{
    return vshlq_u16(vmovl_u8(steps), vreinterpretq_s16_u16(vmovl_u8(shifts)));
}

/* Negated where the upper bit of `signs` is set. */
static inline int16x8_t cr_law_signed_neon(uint16x8_t magnitude, uint8x8_t signs)
{
    int16x8_t negative = vmovl_s8(vshr_n_s8(vreinterpret_s8_u8(signs), 7));
    return vsubq_s16(veorq_s16(vreinterpretq_s16_u16(magnitude), negative), negative);
}

static inline int16x8x2_t cr_ulaw_decode_lanes_neon(uint8x16_t codes)
{
    const uint16x8_t bias = vdupq_n_u16(33);
    uint8x16_t bits = vmvnq_u8(codes);
    uint8x16_t segments = vandq_u8(vshrq_n_u8(bits, 4), vdupq_n_u8(7));
    uint8x16_t steps = vaddq_u8(vshlq_n_u8(vandq_u8(bits, vdupq_n_u8(15)), 1), vdupq_n_u8(33));
    uint16x8_t low = vsubq_u16(cr_law_shift_neon(vget_low_u8(steps), vget_low_u8(segments)), bias);
    uint16x8_t high = vsubq_u16(cr_law_shift_neon(vget_high_u8(steps), vget_high_u8(segments)), bias);
    int16x8x2_t samples;
    samples.val[0] = cr_law_signed_neon(vshlq_n_u16(low, 2), vget_low_u8(bits));
    samples.val[1] = cr_law_signed_neon(vshlq_n_u16(high, 2), vget_high_u8(bits));
    return samples;
}

static inline int16x8x2_t cr_alaw_decode_lanes_neon(uint8x16_t codes)
{
    uint8x16_t bits = veorq_u8(codes, vdupq_n_u8(0x55)), negative = vmvnq_u8(codes);
    uint8x16_t segments = vandq_u8(vshrq_n_u8(bits, 4), vdupq_n_u8(7));
    uint8x16_t biases = vorrq_u8(vandq_u8(vtstq_u8(segments, segments), vdupq_n_u8(32)), vdupq_n_u8(1));
    uint8x16_t steps = vaddq_u8(vshlq_n_u8(vandq_u8(bits, vdupq_n_u8(15)), 1), biases);
    uint8x16_t shifts = vqsubq_u8(segments, vdupq_n_u8(1)); /* saturates: segment 0 is not shifted */
    uint16x8_t low = cr_law_shift_neon(vget_low_u8(steps), vget_low_u8(shifts));
    uint16x8_t high = cr_law_shift_neon(vget_high_u8(steps), vget_high_u8(shifts));
    int16x8x2_t samples;
    samples.val[0] = cr_law_signed_neon(vshlq_n_u16(low, 3), vget_low_u8(negative));
    samples.val[1] = cr_law_signed_neon(vshlq_n_u16(high, 3), vget_high_u8(negative));
    return samples;
}

/* Segment, magnitude shifted down to its step, and sign -> 8 codes; `wire` is the code of +0. */
static inline uint8x8_t cr_law_join_neon(uint16x8_t segments, uint16x8_t shifted, int16x8_t samples, uint8_t wire)
{
    uint16x8_t bits = vorrq_u16(vshlq_n_u16(segments, 4), vandq_u16(shifted, vdupq_n_u16(15)));
    uint16x8_t signs = vandq_u16(vshrq_n_u16(vreinterpretq_u16_s16(samples), 8), vdupq_n_u16(0x80));
    return veor_u8(vmovn_u16(veorq_u16(bits, signs)), vdup_n_u8(wire));
}

static inline uint16x8_t cr_law_ones_complement_neon(int16x8_t samples)
{
    return vreinterpretq_u16_s16(veorq_s16(samples, vshrq_n_s16(samples, 15)));
}

/* Shifts right by a count of each lane's own. */
static inline uint16x8_t cr_shift_right_neon(uint16x8_t values, uint16x8_t counts)
{
    return vshlq_u16(values, vnegq_s16(vreinterpretq_s16_u16(counts)));
}

static inline uint8x8_t cr_ulaw_encode_lanes_neon(int16x8_t samples)
{
    uint16x8_t magnitude = vaddq_u16(vshrq_n_u16(cr_law_ones_complement_neon(samples), 2), vdupq_n_u16(33));
    uint16x8_t segments;
    magnitude = vminq_u16(magnitude, vdupq_n_u16(0x1FFF));
    segments = vsubq_u16(vdupq_n_u16(15 - 5), vclzq_u16(magnitude));
    return cr_law_join_neon(segments, cr_shift_right_neon(magnitude, vaddq_u16(segments, vdupq_n_u16(1))), samples,
                            CR_ULAW_SILENCE);
}

static inline uint8x8_t cr_alaw_encode_lanes_neon(int16x8_t samples)
{
    uint16x8_t magnitude = vshrq_n_u16(cr_law_ones_complement_neon(samples), 4);
    /* Both differences saturate: segment 0 is linear and is not shifted. */
    uint16x8_t segments = vqsubq_u16(vdupq_n_u16(15 - 3), vclzq_u16(magnitude));
    return cr_law_join_neon(segments, cr_shift_right_neon(magnitude, vqsubq_u16(segments, vdupq_n_u16(1))), samples,
                            CR_ALAW_SILENCE);
}

#define CR_LAW_DECODE_NEON(law)                                                                                       \
    static void cr_##law##_decode_neon(uint8_t *pcm, const uint8_t *codes, size_t samples)                            \
    {                                                                                                                 \
        size_t i = 0;                                                                                                 \
        for (; samples - i >= 16; i += 16) {                                                                          \
            int16x8x2_t lanes = cr_##law##_decode_lanes_neon(vld1q_u8(codes + i));                                    \
            vst1q_u8(pcm + 2 * i, vreinterpretq_u8_s16(lanes.val[0]));                                                \
            vst1q_u8(pcm + 2 * i + 16, vreinterpretq_u8_s16(lanes.val[1]));                                           \
        }                                                                                                             \
        cr_##law##_decode_scalar(pcm + 2 * i, codes + i, samples - i);                                                \
    }

#define CR_LAW_ENCODE_NEON(law)                                                                                       \
    static void cr_##law##_encode_neon(uint8_t *codes, const uint8_t *pcm, size_t samples)                            \
    {                                                                                                                 \
        size_t i = 0;                                                                                                 \
        for (; samples - i >= 16; i += 16) {                                                                          \
            int16x8_t low = vreinterpretq_s16_u8(vld1q_u8(pcm + 2 * i));                                              \
            int16x8_t high = vreinterpretq_s16_u8(vld1q_u8(pcm + 2 * i + 16));                                        \
            vst1q_u8(codes + i, vcombine_u8(cr_##law##_encode_lanes_neon(low), cr_##law##_encode_lanes_neon(high)));  \
        }                                                                                                             \
        cr_##law##_encode_scalar(codes + i, pcm + 2 * i, samples - i);                                                \
    }

CR_LAW_DECODE_NEON(ulaw)
CR_LAW_DECODE_NEON(alaw)
CR_LAW_ENCODE_NEON(ulaw)
CR_LAW_ENCODE_NEON(alaw)

#endif
