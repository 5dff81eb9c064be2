/* Band filter and Goertzel bank for tone detection: the scalar specification.
 *
 * What: float samples -> a steep high-pass -> for each block of samples, the complex amplitude at eight frequencies.
 * How:  all arithmetic is float32 in the order written here (no contraction, no reassociation), so that any later
 *       version can reproduce it bit for bit. Two shapes were chosen for that:
 *
 *   1. The high-pass is two second-order sections whose feedback reaches back 4 and 8 samples instead of 1 and 2
 *      (scattered look-ahead). With D(z) = 1 + a1 z^-1 + a2 z^-2 the denominator of a section,
 *          D(z) D(-z)                 holds only even powers,
 *          D(z) D(-z) E(-z^2)         holds only powers of z^-4,   E(z^2) = D(z) D(-z),
 *      so numerator and denominator are both multiplied by D(-z) E(-z^2): the response stays the same, four
 *      neighbouring outputs do not depend on each other, and four of them fit one vector.
 *
 *          v[n] = ((x[n]*b0 + x[n-1]*b1) + x[n-2]*b2) ... + x[n-8]*b8
 *          y[n] = (v[n] - y[n-8]*a8) - y[n-4]*a4
 *
 *   2. Each Goertzel block starts from zero, so blocks do not depend on each other: a vector may hold the eight
 *      frequencies of one block, or several blocks, or several channels.
 *
 *          s[n] = (x[n] - s[n-2]) + s[n-1]*2cos(w)                        Goertzel, Am. Math. Monthly 65 (1958)
 *          Z    = s[N-1] - s[N-2]*cos(w)  +  i s[N-2]*sin(w)              = sum of x[n] exp(i w (N-1-n))
 *
 *      The phase of Z refers to the block's last sample: a steady tone of exactly w turns Z by exp(i w N) a block.
 */
#ifndef CALLREEL_GOERTZEL_H
#define CALLREEL_GOERTZEL_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "callreel/bytes.h"

#define CR_TONE_LANES 8      /* frequencies of one bank */
#define CR_FILTER_SECTIONS 2 /* second-order sections of the high-pass */
#define CR_FILTER_REACH 8    /* samples a section looks back */
#define CR_FILTER_RUN 240    /* most samples of one filter call: a 5 ms block at 48 kHz */

#define CR_PI 3.14159265358979323846

typedef struct {
    float ahead[CR_FILTER_SECTIONS][CR_FILTER_REACH + 1]; /* b0..b8 */
    float back4[CR_FILTER_SECTIONS], back8[CR_FILTER_SECTIONS];
    /* The last 8 values before section 0, between the sections and behind section 1; oldest first. */
    float past[CR_FILTER_SECTIONS + 1][CR_FILTER_REACH];
} cr_highpass;

typedef struct {
    float two_cos[CR_TONE_LANES], cos[CR_TONE_LANES], sin[CR_TONE_LANES];
    float s1[CR_TONE_LANES], s2[CR_TONE_LANES]; /* s[n-1] and s[n-2] of the block under way */
    float energy;                               /* sum of squares of the block under way */
} cr_goertzel;

typedef struct { double zero_hz, pole_hz, q; } cr_section_design;

/* Elliptic high-pass of order 4, corner 670 Hz, ripple 0.3 dB, stop band 35 dB: analogue zeros and poles. Passes
 * 697 Hz less 1.8 %, takes 33 dB or more off dial tones (350, 425, 440 Hz), off mains hum and off a DC offset. */
static const cr_section_design cr_highpass_design[CR_FILTER_SECTIONS] = {
    {186.980, 892.714, 0.70736},
    {410.810, 634.197, 3.60382},
};

/* Bilinear transform of each section, each of its two frequencies prewarped; unity gain at half the rate. */
static void cr_highpass_init(cr_highpass *filter, double rate)
{
    memset(filter, 0, sizeof *filter);
    for (int section = 0; section < CR_FILTER_SECTIONS; section++) {
        const cr_section_design *design = &cr_highpass_design[section];
        double zero = tan(CR_PI * design->zero_hz / rate), pole = tan(CR_PI * design->pole_hz / rate);
        double damping = pole / design->q, scale = 1 + damping + pole * pole;
        double a1 = 2 * (pole * pole - 1) / scale, a2 = (1 - damping + pole * pole) / scale;
        double b[3] = {(1 + zero * zero) / scale, 2 * (zero * zero - 1) / scale, (1 + zero * zero) / scale};
        double e1 = 2 * a2 - a1 * a1, e2 = a2 * a2; /* D(z) D(-z) = 1 + e1 z^-2 + e2 z^-4 */
        double mirror[3] = {1, -a1, a2};            /* D(-z) */
        double even[5] = {1, 0, -e1, 0, e2};        /* E(-z^2) */
        double product[5] = {0}, ahead[CR_FILTER_REACH + 1] = {0};
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 3; j++)
                product[i + j] += b[i] * mirror[j];
        for (int i = 0; i < 5; i++)
            for (int j = 0; j < 5; j++)
                ahead[i + j] += product[i] * even[j];
        for (int i = 0; i <= CR_FILTER_REACH; i++)
            filter->ahead[section][i] = (float)ahead[i];
        filter->back4[section] = (float)(2 * e2 - e1 * e1);
        filter->back8[section] = (float)(e2 * e2);
    }
}

/* Power gain of the filter at a frequency. */
static double cr_highpass_gain(const cr_highpass *filter, double hz, double rate)
{
    double gain = 1, w = 2 * CR_PI * hz / rate;
    for (int section = 0; section < CR_FILTER_SECTIONS; section++) {
        double top_re = 0, top_im = 0;
        double bottom_re = 1 + filter->back4[section] * cos(4 * w) + filter->back8[section] * cos(8 * w);
        double bottom_im = -filter->back4[section] * sin(4 * w) - filter->back8[section] * sin(8 * w);
        for (int i = 0; i <= CR_FILTER_REACH; i++) {
            top_re += filter->ahead[section][i] * cos(i * w);
            top_im -= filter->ahead[section][i] * sin(i * w);
        }
        gain *= (top_re * top_re + top_im * top_im) / (bottom_re * bottom_re + bottom_im * bottom_im);
    }
    return gain;
}

/* Filter up to CR_FILTER_RUN samples of PCM (NULL: silence) into floats of the range -1 to 1. */
static void cr_highpass_run_scalar(cr_highpass *filter, float *out, const uint8_t *pcm, size_t samples)
{
    float line[CR_FILTER_SECTIONS + 1][CR_FILTER_REACH + CR_FILTER_RUN];
    for (int stage = 0; stage <= CR_FILTER_SECTIONS; stage++)
        memcpy(line[stage], filter->past[stage], sizeof filter->past[stage]);
    if (pcm)
        for (size_t i = 0; i < samples; i++)
            line[0][CR_FILTER_REACH + i] = (float)cr_load_s16(pcm + 2 * i) * (1.0f / 32768.0f);
    else
        memset(line[0] + CR_FILTER_REACH, 0, samples * sizeof(float));
    for (int section = 0; section < CR_FILTER_SECTIONS; section++) {
        const float *b = filter->ahead[section], *x = line[section];
        const float back4 = filter->back4[section], back8 = filter->back8[section];
        float *y = line[section + 1];
        for (size_t i = 0; i < samples; i++) {
            float v = x[i + 8] * b[0];
            v = v + x[i + 7] * b[1];
            v = v + x[i + 6] * b[2];
            v = v + x[i + 5] * b[3];
            v = v + x[i + 4] * b[4];
            v = v + x[i + 3] * b[5];
            v = v + x[i + 2] * b[6];
            v = v + x[i + 1] * b[7];
            v = v + x[i] * b[8];
            y[i + 8] = v;
        }
        for (size_t i = 0; i < samples; i++)
            y[i + 8] = (y[i + 8] - y[i] * back8) - y[i + 4] * back4;
    }
    memcpy(out, line[CR_FILTER_SECTIONS] + CR_FILTER_REACH, samples * sizeof(float));
    for (int stage = 0; stage <= CR_FILTER_SECTIONS; stage++)
        memcpy(filter->past[stage], line[stage] + samples, sizeof filter->past[stage]);
}

static void cr_goertzel_init(cr_goertzel *bank, const double *hz, double rate)
{
    memset(bank, 0, sizeof *bank);
    for (int lane = 0; lane < CR_TONE_LANES; lane++) {
        double w = 2 * CR_PI * hz[lane] / rate;
        bank->two_cos[lane] = (float)(2 * cos(w));
        bank->cos[lane] = (float)cos(w);
        bank->sin[lane] = (float)sin(w);
    }
}

/* One sample on all lanes: turns s[n-2] into s[n]. */
static inline void cr_goertzel_next(float *s2, const float *s1, const float *two_cos, float x)
{
    for (int lane = 0; lane < CR_TONE_LANES; lane++)
        s2[lane] = (x - s2[lane]) + s1[lane] * two_cos[lane];
}

/* Run the bank over the next samples of its block. Two samples a turn, so that s[n-1] and s[n-2] change roles and
 * not places: compilers then keep the lanes in vectors. */
static void cr_goertzel_run_scalar(cr_goertzel *bank, const float *in, size_t samples)
{
    float two_cos[CR_TONE_LANES], s1[CR_TONE_LANES], s2[CR_TONE_LANES], energy = bank->energy;
    size_t i = 0;
    memcpy(two_cos, bank->two_cos, sizeof two_cos);
    memcpy(s1, bank->s1, sizeof s1);
    memcpy(s2, bank->s2, sizeof s2);
    for (; i + 2 <= samples; i += 2) {
        cr_goertzel_next(s2, s1, two_cos, in[i]);
        cr_goertzel_next(s1, s2, two_cos, in[i + 1]);
        energy = energy + in[i] * in[i];
        energy = energy + in[i + 1] * in[i + 1];
    }
    if (i < samples) {
        cr_goertzel_next(s2, s1, two_cos, in[i]);
        energy = energy + in[i] * in[i];
        memcpy(bank->s1, s2, sizeof s2);
        memcpy(bank->s2, s1, sizeof s1);
    } else {
        memcpy(bank->s1, s1, sizeof s1);
        memcpy(bank->s2, s2, sizeof s2);
    }
    bank->energy = energy;
}

/* Close the block: Z of each lane and the sum of squares, both times `scale`; the next block starts from zero. */
static void cr_goertzel_close(cr_goertzel *bank, float scale, float *re, float *im, float *energy)
{
    for (int lane = 0; lane < CR_TONE_LANES; lane++) {
        re[lane] = (bank->s1[lane] - bank->s2[lane] * bank->cos[lane]) * scale;
        im[lane] = bank->s2[lane] * bank->sin[lane] * scale;
        bank->s1[lane] = 0;
        bank->s2[lane] = 0;
    }
    *energy = bank->energy * scale;
    bank->energy = 0;
}

#endif
