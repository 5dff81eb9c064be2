/* The pitch of a voice with NEON. Included by pitch.h, which holds the specification.
 *
 * How:  the products of one sample of the window with those before it, side by side: 32 m at a time, in eight registers.
 */
#ifndef CALLREEL_PITCH_NEON_H
#define CALLREEL_PITCH_NEON_H

static uint32_t cr_pitch_period_neon(const int16_t *samples)
{
    int16_t scaled[CR_PITCH_SAMPLES];
    int32_t cross[CR_PITCH_ROOM];
    cr_pitch_scale(scaled, samples);
    for (int m = 0; m < CR_PITCH_ROOM; m += 32) {
        int32x4_t sums[8];
        for (int n = 0; n < 8; n++)
            sums[n] = vdupq_n_s32(0);
        for (int i = 0; i < CR_PITCH_WINDOW; i++) {
            int16_t x = scaled[CR_PITCH_MAX + i];
            for (int n = 0; n < 4; n++) {
                int16x8_t past = vld1q_s16(scaled + i + m + 8 * n);
                sums[2 * n] = vmlal_n_s16(sums[2 * n], vget_low_s16(past), x);
                sums[2 * n + 1] = vmlal_n_s16(sums[2 * n + 1], vget_high_s16(past), x);
            }
        }
        for (int n = 0; n < 8; n++)
            vst1q_s32(cross + m + 4 * n, sums[n]);
    }
    return cr_pitch_choose(cross, scaled);
}

#endif
