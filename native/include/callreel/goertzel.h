/* Tone analysis in blocks: the complex amplitude at eight frequencies, and the energy, all or above 670 Hz.
 *
 * What: signed 16-bit PCM -> for each block of 5 ms the amplitude and phase of eight tones, as a bank of Goertzel
 *       filters gives them; whether two of them stand out; on demand the energy of the block, with or without what
 *       lies below the tones.
 * How:  all sums are integers, so every version of this code gives the same numbers on any instruction set; what
 *       follows in float32 is written in one order (no contraction, no reassociation) and is the same too.
 *       The functions named ..._scalar are the specification; goertzel_<isa>.h hold the fast versions.
 *
 *   1. Windows. A block is seen through a raised cosine of twice its length, so that neighbouring blocks overlap by
 *      half and their windows add up to one:
 *
 *         samples      |----|----|----|----|          one hop of 5 ms each
 *         block n        .-''-.                       rises in hop n-1, falls in hop n
 *         block n + 1         .-''-.
 *         their sum      .-'''''''-.                  what two blocks see together: flat, with soft edges
 *
 *      Soft edges keep what is far away out: 200 Hz off, the side lobes of four blocks are 45 dB down. So dial tones,
 *      hum and a DC offset need no filter in front.
 *
 *   2. Amplitude. Goertzel's recurrence computes Z = sum of x[n] exp(i w (c-n)), one multiplication a sample and
 *      frequency, but each sample waits for the one before. The same sum is written here as dot products of int16
 *      with int32 sums, which instructions exist for (pmaddwd, vpdpwssd, smlal). Around the middle c of the window
 *      the cosine is even and the sine odd, so samples at the same distance i from it are added up first, each at
 *      half its value, and one of the two sums serves for each part of Z:
 *
 *         x     0 .. hop-1-i .. hop-1 | hop .. hop+i .. 2hop-1         c between them
 *                      earlier                later
 *         even[i] = earlier/2 + later/2, goes with the cosine          halves rounded down: 15 bits of a sample
 *         odd[i]  = earlier/2 - later/2, goes with the sine            are far more than any limit here needs
 *
 *         wave[i/8][2 lane][i%8]     = window * cos(w (i + 1/2))
 *         wave[i/8][2 lane + 1][i%8] = window * sin(w (i + 1/2))
 *
 *      so eight of even or of odd meet a row of the table. The table is scaled so that no input overflows 32 bits; its
 *      rounding is 80 dB below the tone. A steady tone of exactly w turns Z by exp(i w hop) a block.
 *
 *   3. Look. Four blocks in succession add up, each turned to where the newest is: first two and two, then the two
 *      pairs. The gate asks what can be told at the nominal frequencies: in each half of the lanes one must be loud
 *      enough and stand out, and the two must not be too far apart. Four looks at once.
 *
 *   4. Energy. Squares, summed with the windows of 1, of the samples as they are; or of what a high-pass (`tap`, 7 ms)
 *      leaves, which takes dial tones, hum and DC away but costs more than all else together: it is for who finds too
 *      much energy without.
 */
#ifndef CALLREEL_GOERTZEL_H
#define CALLREEL_GOERTZEL_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "callreel/bytes.h"
#include "callreel/cpu.h"

#define CR_TONE_LANES 8     /* frequencies of one bank */
#define CR_TONE_MAX_HOP 240 /* samples: 5 ms at 48 kHz */
#define CR_TONE_MAX_TAPS 336
#define CR_TONE_USUAL_HOP 40 /* 8 kHz: compiled on its own, with loops of known length */
#define CR_TONE_TAPS_PER_HOP 7 / 5 /* 7 ms: the response of the filter below has died away by 37 dB */
#define CR_TONE_BATCH 4     /* blocks computed at once: a packet of 20 ms */
#define CR_TONE_LOOK 4      /* blocks that a look adds up */
#ifdef CR_HAVE_X86
#define CR_TONE_COPIES 4    /* of each row of eight in the table, side by side: as many as the widest register holds */
#else
#define CR_TONE_COPIES 1
#endif

#define CR_TONE_GATE_SHARE 0.65f    /* of power: the strongest of a half of the lanes, to that half */
#define CR_TONE_GATE_MOST 25.2f     /* of power: the strongest of the upper half, to that of the lower */
#define CR_TONE_GATE_LEAST 0.01575f

#define CR_PI 3.14159265358979323846

typedef struct {
    uint32_t hop, taps;                 /* samples; taps is a multiple of 4 */
    float amplitude;                    /* int32 sum to amplitude, full scale 1 */
    float power;                        /* sum of windowed squares to squared amplitude of a sine */
    float gate_power;                   /* below: 16 times the power of too faint a lane (a look adds up 4 blocks) */
    float gain[CR_TONE_LANES];          /* power gain of the high-pass */
    /* exp(i w hop) and its square as cr_tone_turned needs them: cos and cos, -sin and sin for each lane. */
    float turn_re[2 * CR_TONE_LANES], turn_im[2 * CR_TONE_LANES];
    float turn2_re[2 * CR_TONE_LANES], turn2_im[2 * CR_TONE_LANES];
    int16_t (*wave)[2 * CR_TONE_LANES][8 * CR_TONE_COPIES]; /* zero beyond the hop */
    int16_t *fade;                      /* square root of the rising window, times 32767; zeros behind it */
    int16_t *tap;                       /* the high-pass, oldest sample first, times 16384 */
} cr_tone_plan;

typedef struct { double zero_hz, pole_hz, q; } cr_section_design;

/* Elliptic high-pass of order 4, corner 670 Hz, ripple 0.3 dB, stop band 35 dB: analogue zeros and poles. Passes
 * 697 Hz less 1.8 %, takes 33 dB or more off dial tones (350, 425, 440 Hz), off mains hum and off a DC offset. */
static const cr_section_design cr_highpass_design[2] = {
    {186.980, 892.714, 0.70736},
    {410.810, 634.197, 3.60382},
};

/* The first 7 ms of the high-pass's response, faded out. Bilinear transform of each section, each of its two
 * frequencies prewarped; unity gain at half the rate. */
static void cr_tone_plan_taps(cr_tone_plan *plan, double rate)
{
    double response[CR_TONE_MAX_TAPS] = {1};
    uint32_t taps = plan->hop * CR_TONE_TAPS_PER_HOP & ~3u, fade = taps / 2;
    for (int section = 0; section < 2; section++) {
        const cr_section_design *design = &cr_highpass_design[section];
        double zero = tan(CR_PI * design->zero_hz / rate), pole = tan(CR_PI * design->pole_hz / rate);
        double damping = pole / design->q, scale = 1 + damping + pole * pole;
        double a1 = 2 * (pole * pole - 1) / scale, a2 = (1 - damping + pole * pole) / scale;
        double b0 = (1 + zero * zero) / scale, b1 = 2 * (zero * zero - 1) / scale;
        double x1 = 0, x2 = 0, y1 = 0, y2 = 0;
        for (uint32_t i = 0; i < taps; i++) {
            double x = response[i], y = b0 * (x + x2) + b1 * x1 - a1 * y1 - a2 * y2;
            x2 = x1;
            x1 = x;
            y2 = y1;
            y1 = y;
            response[i] = y;
        }
    }
    plan->taps = taps;
    for (uint32_t i = 0; i < taps; i++) {
        double weight = i < taps - fade ? 1 : cos(CR_PI / 2 * (i - (taps - fade)) / fade);
        plan->tap[taps - 1 - i] = (int16_t)lrint(16384 * response[i] * weight);
    }
}

#define CR_TONE_FADE_SLACK 16

CR_FORCE_INLINE uint32_t cr_tone_eights(uint32_t hop) { return (hop + 7) / 8; }

/* How many int16 the tables take: 2.7 thousand at 8 kHz. */
static size_t cr_tone_plan_room(uint32_t hop)
{
    return (size_t)cr_tone_eights(hop) * 16 * CR_TONE_LANES * CR_TONE_COPIES + hop + CR_TONE_FADE_SLACK
           + hop * CR_TONE_TAPS_PER_HOP + 32 /* to begin where a line of the cache does */;
}

/* `memory` belongs to the caller, who has filled it with zeros, and stays with the plan. */
static void cr_tone_plan_init(cr_tone_plan *plan, const double *hz, double rate, uint32_t hop, float gate_power,
                              int16_t *memory)
{
    double largest = 0, scale;
    memset(plan, 0, sizeof *plan);
    memory += (64 - (uintptr_t)memory % 64) % 64 / sizeof *memory;
    plan->hop = hop;
    plan->gate_power = gate_power;
    plan->wave = (int16_t (*)[2 * CR_TONE_LANES][8 * CR_TONE_COPIES])memory;
    plan->fade = memory + cr_tone_eights(hop) * 16 * CR_TONE_LANES * CR_TONE_COPIES;
    plan->tap = plan->fade + hop + CR_TONE_FADE_SLACK;
    for (int pass = 0; pass < 2; pass++) {
        scale = pass ? floor((65535 - hop) / largest) : 1; /* rounding adds up to 1/2 a sample */
        for (int lane = 0; lane < 2 * CR_TONE_LANES; lane++) {
            double w = 2 * CR_PI * hz[lane / 2] / rate, sum = 0;
            for (uint32_t i = 0; i < hop; i++) {
                double fall = cos(CR_PI * (i + 0.5) / (2 * hop)), angle = w * (i + 0.5);
                double value = fall * fall * (lane % 2 ? sin(angle) : cos(angle));
                sum += fabs(value);
                for (uint32_t copy = 0; copy < CR_TONE_COPIES; copy++)
                    plan->wave[i / 8][lane][i % 8 + 8 * copy] = (int16_t)lrint(scale * value);
            }
            if (sum > largest)
                largest = sum;
        }
    }
    for (uint32_t n = 0; n < hop; n++)
        plan->fade[n] = (int16_t)lrint(32767 * sin(CR_PI * (n + 0.5) / (2 * hop)));
    cr_tone_plan_taps(plan, rate);
    for (int lane = 0; lane < CR_TONE_LANES; lane++) {
        double w = 2 * CR_PI * hz[lane] / rate, re = 0, im = 0;
        for (int part = 0; part < 2; part++) {
            plan->turn_re[2 * lane + part] = (float)cos(w * hop);
            plan->turn_im[2 * lane + part] = (float)sin(w * hop) * (part ? 1.0f : -1.0f);
            plan->turn2_re[2 * lane + part] = (float)cos(w * 2 * hop);
            plan->turn2_im[2 * lane + part] = (float)sin(w * 2 * hop) * (part ? 1.0f : -1.0f);
        }
        for (uint32_t i = 0; i < plan->taps; i++) {
            re += plan->tap[i] / 16384.0 * cos(w * i);
            im += plan->tap[i] / 16384.0 * sin(w * i);
        }
        plan->gain[lane] = (float)(re * re + im * im);
    }
    plan->amplitude = (float)(4 / (scale * hop * 32768)); /* the window adds up to `hop`; samples came at half value */
    plan->power = (float)(2.0 / hop / (16384.0 * 16384));
}

/* ---- blocks and looks ---- */

/* A block: real and imaginary part of each lane, side by side. A steady sine of amplitude 1 has magnitude 1. */
typedef float cr_tone_block[2 * CR_TONE_LANES];

#define CR_TONE_ROWS (CR_TONE_LOOK - 1 + CR_TONE_BATCH)

/* What a batch is made of and where it goes. */
typedef struct {
    const int16_t *first, *x;   /* the newest hops of the blocks start at `x`, the hop before them at `first` */
    uint32_t blocks;            /* 1 to CR_TONE_BATCH */
    int16_t limit;              /* a hop whose every sample is nearer to zero is quiet */
    uint32_t quiet_hops;        /* in a row before `x`, and then up to the end; counts to CR_TONE_QUIET_HOPS */
    uint32_t silent, unseen;    /* results; bit n: block n, look n holds nothing but quiet hops, and is zero */
    float *rows[CR_TONE_ROWS];  /* of 2 * CR_TONE_LANES: three blocks before the first; then where to put the blocks */
    cr_tone_block look[CR_TONE_BATCH]; /* the sum of that block and the three before it, at the nominal frequencies */
} cr_tone_batch;

#define CR_TONE_QUIET_HOPS 17 /* after so many, sixteen blocks are zero */

/* Count the quiet hops (bit n of `quiet`); whether there is anything to compute. */
CR_FORCE_INLINE int cr_tone_is_heard(cr_tone_batch *batch, uint32_t quiet)
{
    const uint32_t all = (1u << batch->blocks) - 1;
    uint32_t hops = batch->quiet_hops;
    batch->silent = batch->unseen = 0;
    quiet &= all;
    if (!quiet) {
        batch->quiet_hops = 0;
        return 1;
    }
    for (uint32_t block = 0; block < batch->blocks; block++) {
        hops = quiet >> block & 1 ? hops + (hops < CR_TONE_QUIET_HOPS) : 0;
        batch->silent |= (uint32_t)(hops > 1) << block;
        batch->unseen |= (uint32_t)(hops > CR_TONE_LOOK) << block;
    }
    batch->quiet_hops = hops;
    return batch->unseen != all;
}

/* out = earlier, turned, + later, of one lane; out may be either. */
CR_FORCE_INLINE void cr_tone_turned_lane(const float *earlier, const float *turn_re, const float *turn_im,
                                         const float *later, float *out)
{
    float re = earlier[0], im = earlier[1];
    out[0] = (re * turn_re[0] + im * turn_im[0]) + later[0];
    out[1] = (im * turn_re[1] + re * turn_im[1]) + later[1];
}

static void cr_tone_turned(const float *earlier, const float *turn_re, const float *turn_im, const float *later,
                           float *out)
{
    for (int lane = 0; lane < 2 * CR_TONE_LANES; lane += 2)
        cr_tone_turned_lane(earlier + lane, turn_re + lane, turn_im + lane, later + lane, out + lane);
}

/* The gate, for one look. */
static int cr_tone_gate_scalar(const cr_tone_plan *plan, const float *look)
{
    float best[2];
    for (int half = 0; half < 2; half++, look += CR_TONE_LANES) {
        float power[4], sum;
        for (int lane = 0; lane < 4; lane++)
            power[lane] = look[2 * lane] * look[2 * lane] + look[2 * lane + 1] * look[2 * lane + 1];
        best[half] = power[0];
        for (int lane = 1; lane < 4; lane++)
            if (power[lane] > best[half])
                best[half] = power[lane];
        sum = (power[0] + power[1]) + (power[2] + power[3]);
        if (best[half] < plan->gate_power || best[half] < CR_TONE_GATE_SHARE * sum)
            return 0;
    }
    return best[1] < CR_TONE_GATE_MOST * best[0] && best[1] > CR_TONE_GATE_LEAST * best[0];
}

/* Compute blocks and looks. Bit n of the result: look n passed the gate. If nothing is heard nothing is written, and
 * all blocks are zero. Where the hop is no multiple of eight, up to seven samples before and behind are read too. */
static uint32_t cr_tone_batch_scalar(const cr_tone_plan *plan, cr_tone_batch *batch)
{
    const uint32_t hop = plan->hop, blocks = batch->blocks;
    const int16_t *first = batch->first, *x = batch->x;
    uint32_t quiet = 0, passed = 0;
    for (uint32_t block = 0; block < blocks; block++) {
        uint32_t i = 0;
        while (i < hop && x[block * hop + i] < batch->limit && x[block * hop + i] > -batch->limit)
            i++;
        quiet |= (uint32_t)(i == hop) << block;
    }
    if (!cr_tone_is_heard(batch, quiet))
        return 0;
    for (uint32_t block = 0; block < blocks; block++, first = x, x += hop) {
        int32_t sum[2 * CR_TONE_LANES] = {0};
        for (uint32_t i = 0; i < hop && !(batch->silent >> block & 1); i++) {
            int32_t earlier = first[hop - 1 - i] >> 1, later = x[i] >> 1;
            for (int lane = 0; lane < 2 * CR_TONE_LANES; lane += 2) {
                sum[lane] += (earlier + later) * plan->wave[i / 8][lane][i % 8];
                sum[lane + 1] += (earlier - later) * plan->wave[i / 8][lane + 1][i % 8];
            }
        }
        for (int lane = 0; lane < 2 * CR_TONE_LANES; lane++)
            batch->rows[CR_TONE_LOOK - 1 + block][lane] = (float)sum[lane] * plan->amplitude;
    }
    for (uint32_t block = 0; block < blocks; block++) {
        float *const *of = batch->rows + block;
        cr_tone_block early, late;
        cr_tone_turned(of[0], plan->turn_re, plan->turn_im, of[1], early);
        cr_tone_turned(of[2], plan->turn_re, plan->turn_im, of[3], late);
        cr_tone_turned(early, plan->turn2_re, plan->turn2_im, late, batch->look[block]);
        passed |= (uint32_t)cr_tone_gate_scalar(plan, batch->look[block]) << block;
    }
    return passed & ~batch->unseen;
}

/* ---- the energy of one hop, samples at half value; `x` is its first sample ---- */

typedef struct { uint64_t whole, rising; } cr_tone_energy; /* sum of squares; the same under the rising window */

CR_FORCE_INLINE void cr_tone_add_square(cr_tone_energy *energy, int32_t value, int32_t fade)
{
    int32_t faded = (value * fade + 16384) >> 15;
    energy->whole += (uint32_t)(value * value);
    energy->rising += (uint32_t)(faded * faded);
}

static cr_tone_energy cr_tone_energy_scalar(const cr_tone_plan *plan, const int16_t *x)
{
    cr_tone_energy energy = {0, 0};
    for (uint32_t n = 0; n < plan->hop; n++)
        cr_tone_add_square(&energy, x[n] >> 1, plan->fade[n]);
    return energy;
}

/* Of what the high-pass leaves; the `taps` - 1 samples before the hop are read too. */
static cr_tone_energy cr_tone_filtered_scalar(const cr_tone_plan *plan, const int16_t *x)
{
    const uint32_t hop = plan->hop, taps = plan->taps;
    int32_t passed[CR_TONE_MAX_HOP];
    cr_tone_energy energy = {0, 0};
    x -= taps - 1;
    for (uint32_t n = 0; n < hop; n++)
        passed[n] = 16384; /* to round */
    for (uint32_t k = 0; k < taps; k++)
        for (uint32_t n = 0; n < hop; n++)
            passed[n] += x[n + k] * plan->tap[k];
    for (uint32_t n = 0; n < hop; n++) {
        int32_t value = passed[n] >> 15; /* the filter may overshoot */
        cr_tone_add_square(&energy, value > 32767 ? 32767 : value < -32768 ? -32768 : value, plan->fade[n]);
    }
    return energy;
}

/* The fast versions read up to this many samples after the last hop, and throw away what they make of them. */
#define CR_TONE_SLACK 48

/* What windows hold once folded: eight even sums or eight odd ones of each block. */
typedef int16_t cr_tone_folded[(CR_TONE_MAX_HOP + 7) / 8][2][CR_TONE_BATCH][8];

#ifdef CR_HAVE_X86
#include "callreel/goertzel_sse2.h"
#include "callreel/goertzel_avx2.h"
#include "callreel/goertzel_avx512.h"
#endif
#ifdef CR_HAVE_NEON
#include "callreel/goertzel_neon.h"
#endif

/* The angle of a complex number, in radians, to 12 millionths: the same on every machine, unlike the library's. */
CR_FORCE_INLINE float cr_tone_angle(float re, float im)
{
    float x = fabsf(re), y = fabsf(im), large = x > y ? x : y, small = x > y ? y : x, t, u, angle;
    if (large == 0)
        return 0;
    t = small / large;
    u = t * t;
    angle = t * (0.9998663f + u * (-0.33030447f + u * (0.1801581f + u * (-0.08515469f + u * 0.02084436f))));
    if (y > x)
        angle = 1.57079633f - angle;
    if (re < 0)
        angle = 3.14159265f - angle;
    return im < 0 ? -angle : angle;
}

#endif
