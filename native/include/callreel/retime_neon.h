/* Moving samples onto another clock with NEON, a group of eight at a time. Included by retime.h, which holds the
 * specification.
 *
 * How:  the eight outputs side by side, one tap after the other.
 */
#ifndef CALLREEL_RETIME_NEON_H
#define CALLREEL_RETIME_NEON_H

#define CR_RETIME_TAP_NEON(i, taps, lane)                                                                             \
    do {                                                                                                              \
        int16x8_t at = vld1q_s16(from + (i));                                                                         \
        low = vmlal_lane_s16(low, vget_low_s16(at), taps, lane);                                                      \
        high = vmlal_lane_s16(high, vget_high_s16(at), taps, lane);                                                   \
    } while (0)
#define CR_RETIME_FOUR_NEON(i)                                                                                        \
    do {                                                                                                              \
        int16x4_t taps = vld1_s16(row + (i));                                                                         \
        CR_RETIME_TAP_NEON((i), taps, 0);                                                                             \
        CR_RETIME_TAP_NEON((i) + 1, taps, 1);                                                                         \
        CR_RETIME_TAP_NEON((i) + 2, taps, 2);                                                                         \
        CR_RETIME_TAP_NEON((i) + 3, taps, 3);                                                                         \
    } while (0)

static void cr_retime_neon(int16_t *out, const int16_t *samples, size_t groups, int64_t place, int64_t step)
{
    for (; groups; groups--, place += step, samples += CR_RETIME_GROUP, out += CR_RETIME_GROUP) {
        const int16_t *from = samples + cr_retime_whole(place), *row = cr_retime_row(place);
        int32x4_t low = vdupq_n_s32(0), high = vdupq_n_s32(0);
        CR_RETIME_FOUR_NEON(0);
        CR_RETIME_FOUR_NEON(4);
        CR_RETIME_FOUR_NEON(8);
        CR_RETIME_FOUR_NEON(12);
        /* A shift that rounds, halves up, and saturates. */
        vst1q_s16(out, vcombine_s16(vqrshrn_n_s32(low, CR_RETIME_SHIFT), vqrshrn_n_s32(high, CR_RETIME_SHIFT)));
    }
}

#undef CR_RETIME_FOUR_NEON
#undef CR_RETIME_TAP_NEON

#endif
