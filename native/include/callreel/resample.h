/* Streaming sample-rate conversion by a rational ratio: polyphase windowed sinc.
 *
 * What: PCM at from_rate in, in pieces of any size; PCM at to_rate out. Sample k of the output is the moment
 *       k / to_rate of the input: the filter's delay is taken out.
 * How:  to_rate / from_rate = phases / step in lowest terms. Output k looks at the input around the position
 *
 *           k * step / phases  =  i + phase / phases            i whole, 0 <= phase < phases
 *
 *       and is the weighted sum of the `taps` input samples i - taps/2 + 1 ... i + taps/2 with the weights of that
 *       phase. Samples before the first and after the last count as zero. (Upsampling by 3, taps/2 = 4:)
 *
 *           input      .  .  .  .  i  .  .  .  .  .          position of the output, phase 1 of 3:  i + 1/3
 *                        [           ^            ]          the taps of that output
 *
 *       The weights are a sinc with its edge between the pass and the stop band, under a Kaiser window of taps/2 to
 *       each side, zero from there on; the weights of every phase add up to 1. Equal rates: a single weight of 1,
 *       so the output is the input.
 *
 * Requirements, each a test in tests/native/test_resample.py:
 *   1. Pass band: up to 0.85 of the lower Nyquist frequency (3.4 kHz at 8 kHz) within 0.1 dB.
 *   2. Stop band: images and aliases more than 60 dB down from the lower Nyquist frequency on. Designed for 80 dB.
 *   3. n samples in give ceil(n * to_rate / from_rate) out, once flushed.
 *   4. Any cutting of the input into pieces gives the same bits as one piece.
 *   5. Arithmetic, so that faster versions give the same bits: samples and weights are float32, their weighted sum is
 *      requirement 6 of pcm.h, in the version that `cr_pcm_use` chose; the total is rounded as in `cr_round_f32_s16`.
 *      Weights come from libm (sin, sqrt) in float64 and may differ in the last float32 bit between platforms.
 *
 * Memory is the caller's, nothing is allocated here. A filter is read-only once designed and serves any number of
 * resamplers, in any thread; a resampler belongs to one stream.
 *
 *       cr_resample_filter_plan   -> cr_resample_filter_design(memory of phases * taps floats)
 *       cr_resampler_start(memory of cr_resample_window_samples floats) -> feed ... feed -> flush -> (as new) feed ...
 */
#ifndef CALLREEL_RESAMPLE_H
#define CALLREEL_RESAMPLE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "callreel/bytes.h"
#include "callreel/pcm.h"

#define CR_RESAMPLE_MIN_RATE 8000
#define CR_RESAMPLE_MAX_RATE 48000
#define CR_RESAMPLE_MAX_PHASES 4096
/* Half the filter's length in samples of the lower rate. Kaiser's formula for 80 dB and a transition of 0.15 of the
 * Nyquist frequency: (80 - 7.95) / (2.285 * 0.15 pi) = 67 taps. */
#define CR_RESAMPLE_HALF_SAMPLES 34
#define CR_RESAMPLE_EDGE 0.925          /* of the lower Nyquist frequency: half way between 0.85 and 1 */
#define CR_RESAMPLE_KAISER_BETA 7.857   /* 0.1102 * (80 dB - 8.7) */
#define CR_RESAMPLE_BLOCK_SAMPLES 256   /* input taken into the window at a time */

typedef struct {
    uint32_t from_rate, to_rate;
    uint32_t phases;            /* to_rate / greatest common divisor */
    uint32_t step;              /* from_rate / greatest common divisor */
    uint32_t taps;              /* per phase, a multiple of 8 */
    const float *coefficients;  /* phases * taps, phase after phase, first tap = earliest sample */
} cr_resample_filter;

typedef struct {
    const cr_resample_filter *filter;
    float *window;   /* the input samples that outputs still need, earliest first */
    size_t filled;   /* samples in the window */
    size_t next;     /* where in the window the first tap of the next output lies */
    uint32_t phase;  /* phase of the next output */
} cr_resampler;

/* Fill in the numbers of a filter. 0, or -1 for a rate out of range, or -2 for more than CR_RESAMPLE_MAX_PHASES. */
static inline int cr_resample_filter_plan(cr_resample_filter *filter, uint32_t from_rate, uint32_t to_rate)
{
    uint32_t divisor = from_rate, rest = to_rate, wider, half;
    if (from_rate < CR_RESAMPLE_MIN_RATE || from_rate > CR_RESAMPLE_MAX_RATE || to_rate < CR_RESAMPLE_MIN_RATE ||
        to_rate > CR_RESAMPLE_MAX_RATE)
        return -1;
    while (rest) {
        uint32_t remainder = divisor % rest;
        divisor = rest;
        rest = remainder;
    }
    filter->from_rate = from_rate;
    filter->to_rate = to_rate;
    filter->phases = to_rate / divisor;
    filter->step = from_rate / divisor;
    filter->coefficients = NULL;
    if (filter->phases > CR_RESAMPLE_MAX_PHASES)
        return -2;
    /* The filter spans CR_RESAMPLE_HALF_SAMPLES of the lower rate to each side, counted in input samples. */
    wider = filter->step > filter->phases ? filter->step : filter->phases;
    half = (CR_RESAMPLE_HALF_SAMPLES * wider + filter->phases - 1) / filter->phases;
    if (from_rate == to_rate)
        half = 1;
    filter->taps = 2 * ((half + 3) / 4 * 4);
    return 0;
}

/* Modified Bessel function of the first kind, order 0: sum of ((x/2)^k / k!)^2. */
static inline double cr_bessel_i0(double x)
{
    double term = 1, sum = 1;
    for (int k = 1; term > sum * 1e-17; k++) {
        term *= (x / (2 * k)) * (x / (2 * k));
        sum += term;
    }
    return sum;
}

/* Weight of an input sample `distance` input samples before the output's position, before normalising. */
static inline double cr_resample_weight(const cr_resample_filter *filter, double distance)
{
    const double pi = 3.14159265358979323846;
    double half = filter->taps / 2, place = distance / half;
    double edge = filter->step > filter->phases ? CR_RESAMPLE_EDGE * filter->phases / filter->step : CR_RESAMPLE_EDGE;
    double angle = pi * edge * distance;
    if (place <= -1 || place >= 1)
        return 0;
    return (angle == 0 ? 1 : sin(angle) / angle) * cr_bessel_i0(CR_RESAMPLE_KAISER_BETA * sqrt(1 - place * place));
}

/* Compute a planned filter's weights into `memory`, which holds phases * taps floats and outlives the filter. */
static inline void cr_resample_filter_design(cr_resample_filter *filter, float *memory)
{
    uint32_t half = filter->taps / 2;
    for (uint32_t phase = 0; phase < filter->phases; phase++) {
        float *row = memory + (size_t)phase * filter->taps;
        double sum = 0;
        for (uint32_t tap = 0; tap < filter->taps; tap++) {
            double weight = cr_resample_weight(filter, (double)phase / filter->phases + (half - 1) - tap);
            if (filter->from_rate == filter->to_rate)
                weight = tap == half - 1;
            row[tap] = (float)weight;
            sum += weight;
        }
        for (uint32_t tap = 0; tap < filter->taps; tap++)
            row[tap] = (float)(row[tap] / sum);
    }
    filter->coefficients = memory;
}

/* Floats of the window a resampler needs: one filter length of the past and one block of new input. */
static inline size_t cr_resample_window_samples(const cr_resample_filter *filter)
{
    return (size_t)filter->taps + CR_RESAMPLE_BLOCK_SAMPLES;
}

/* Begin a stream, or begin anew. `window` holds cr_resample_window_samples floats. */
static inline void cr_resampler_start(cr_resampler *resampler, const cr_resample_filter *filter, float *window)
{
    resampler->filter = filter;
    resampler->window = window;
    resampler->filled = filter->taps / 2 - 1; /* the silence before the first sample that output 0 looks at */
    resampler->next = 0;
    resampler->phase = 0;
    memset(window, 0, resampler->filled * sizeof *window);
}

/* How many samples the next feed of `samples` will give, exactly. */
static inline size_t cr_resampler_output_samples(const cr_resampler *resampler, size_t samples)
{
    const cr_resample_filter *filter = resampler->filter;
    uint64_t have = (uint64_t)resampler->filled + samples, first_end = (uint64_t)resampler->next + filter->taps;
    if (have < first_end)
        return 0;
    /* Outputs q = 0, 1, ... whose position (phase + q * step) / phases lies below have - first_end + 1. */
    return (size_t)(((have - first_end + 1) * filter->phases - resampler->phase + filter->step - 1) / filter->step);
}

/* How many samples flush will give: as many as half a filter of silence brings out. */
static inline size_t cr_resampler_tail_samples(const cr_resampler *resampler)
{
    return cr_resampler_output_samples(resampler, resampler->filter->taps / 2);
}

/* Take `samples` of input, or of silence where `pcm` is NULL, and write what they complete to `out`, which has room
 * for cr_resampler_output_samples. Returns the samples written. */
static inline size_t cr_resampler_feed(cr_resampler *resampler, uint8_t *out, const uint8_t *pcm, size_t samples)
{
    const cr_resample_filter *filter = resampler->filter;
    const uint32_t whole_step = filter->step / filter->phases, part_step = filter->step % filter->phases;
    float *window = resampler->window;
    size_t written = 0;
    while (samples) {
        size_t capacity = cr_resample_window_samples(filter), count;
        float *place;
        /* Everything before `next` is done with, and fewer than `taps` samples lie behind it; `next` is within the
         * window because the rates differ by 6 at most and a filter is longer. Moving them to the front only when
         * the window is full keeps feeds of single samples cheap. */
        if (resampler->filled == capacity) {
            resampler->filled -= resampler->next;
            memmove(window, window + resampler->next, resampler->filled * sizeof *window);
            resampler->next = 0;
        }
        count = capacity - resampler->filled;
        count = samples < count ? samples : count;
        place = window + resampler->filled;
        if (pcm) {
            for (size_t i = 0; i < count; i++)
                place[i] = cr_load_s16(pcm + 2 * i);
            pcm += 2 * count;
        } else {
            memset(place, 0, count * sizeof *place);
        }
        samples -= count;
        resampler->filled += count;
        while (resampler->next + filter->taps <= resampler->filled) {
            const float *row = filter->coefficients + (size_t)resampler->phase * filter->taps;
            float sum = cr_pcm.weighted_sum(window + resampler->next, row, filter->taps);
            cr_store_s16(out + 2 * written++, cr_round_f32_s16(sum));
            resampler->next += whole_step;
            resampler->phase += part_step;
            if (resampler->phase >= filter->phases) {
                resampler->phase -= filter->phases;
                resampler->next++;
            }
        }
    }
    return written;
}

/* The input has ended: write the last cr_resampler_tail_samples to `out` and be as new. Returns the samples written. */
static inline size_t cr_resampler_flush(cr_resampler *resampler, uint8_t *out)
{
    size_t written = cr_resampler_feed(resampler, out, NULL, resampler->filter->taps / 2);
    cr_resampler_start(resampler, resampler->filter, resampler->window);
    return written;
}

#endif
