/* A sender's clock against ours: a line under the cloud of arrival delays.
 *
 * What: every packet says how late it arrived, compared with its RTP timestamp. Queues only ever add delay, so the
 *       lower edge of that cloud is the sender's clock: its slope is the drift, its height the anchor's error.
 *
 *   delay |    x        x  x
 *         |  x   x x  x      x   x
 *         | x  x   ____x____--x-----   lower envelope: through the lowest packet of every 2 s
 *         |___x---x-----x
 *         +------------------------- arrival
 *
 * How:  the lowest delay of each block of 2 s goes into a window of 64 blocks; a least-squares line through them, fitted
 *       again without the blocks that stand above it (congestion), is published with the moment from which it holds.
 *       Sender reports (RFC 3550 section 6.4.1) give the slope free of jitter; the height still comes from arrivals.
 *
 * Requirements, each a test in tests/unit/test_legs.py:
 *   1. No line before 5 blocks (10 s): a short call is placed by its timestamps alone.
 *   2. Jitter raises delays but does not bend the line.
 *   3. A line is used from that position on which nobody can have read when it was fitted, never earlier, so the
 *      result does not depend on when it is read.
 */
#ifndef CALLREEL_DRIFT_H
#define CALLREEL_DRIFT_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define CR_DRIFT_BLOCK_MS 2000
#define CR_DRIFT_BLOCKS 64
#define CR_DRIFT_MIN_BLOCKS 5
#define CR_DRIFT_LINES 16
#define CR_DRIFT_MAX_SLOPE 0.001       /* 1,000 ppm: beyond it is no quartz but a wrong clock rate */
#define CR_DRIFT_REPORT_SPAN_S 10.0    /* two sender reports closer than this say nothing of the rate */
#define CR_DRIFT_REPORT_TRUST 30e-6    /* a well-founded arrival fit that differs by more wins over the reports */
#define CR_DRIFT_ENOUGH_BLOCKS 30
#define CR_DRIFT_GUESS_MS 10       /* by so much the lowest packet of a second may still be late, in 60 ms of jitter */
#define CR_DRIFT_ANCHOR_BLOCKS 15 /* 30 s for which a late anchor may be left alone: a short call keeps its samples */

/* What changes by a thousandth at most need not be timed to the sample; the delay is a whole number. */
typedef struct {
    int32_t at_ms; /* on the timeline; 24 days, and no more behind that */
    float delay;   /* samples */
} cr_drift_point;

typedef struct {
    double at;    /* samples on the timeline; the line may be used from `ahead` before that on */
    double delay; /* samples, at `at` */
    float slope;  /* samples of delay a sample; negative: the sender's clock is fast */
    float anchor_error; /* samples of `delay` that are to be left alone */
    uint32_t epoch; /* the anchor that delays were counted from */
} cr_drift_line;

typedef struct {
    cr_drift_point points[CR_DRIFT_BLOCKS];
    cr_drift_line lines[CR_DRIFT_LINES];
    double block_at, block_delay; /* samples: the lowest packet of the block being filled */
    double block_end;
    double lowest; /* the lowest delay of all, samples */
    double report_first_ntp_s, report_last_ntp_s;
    double report_first_samples, report_last_samples;
    uint32_t point_count, line_count;
    uint32_t epoch; /* numbers the anchors */
    uint32_t reports;
    uint8_t quiet;       /* little jitter */
    uint8_t block_open, anchored; /* `anchored`: a line of this anchor has been fitted, `anchor_error` is known */
    double ahead;        /* samples that readers stay behind arrivals */
    double tolerance;    /* samples by which the anchor may be late and be left alone, in a quiet network */
    double delay_sum, delay_count; /* of the packets since the anchor */
    double anchor_error; /* samples: how late the first packet was, if that is to be left alone */
    uint8_t rate_known; /* survives a new anchor, as the quartz does */
    uint32_t rate_blocks; /* how many it was fitted through */
    double rate;        /* the last slope fitted, samples a sample */
} cr_drift;

/* Measure from a new anchor on, which may be late by `tolerance` samples and still be left alone at first.
 * `ahead`: samples by which readers stay behind arrivals. Lines of the anchor before stay: what it holds may not have
 * been read yet. */
static inline void cr_drift_start(cr_drift *d, uint32_t epoch, double tolerance, double ahead)
{
    d->epoch = epoch;
    d->ahead = ahead;
    d->tolerance = tolerance;
    d->delay_sum = d->delay_count = 0;
    d->point_count = 0;
    d->reports = 0;
    d->block_open = d->anchored = 0;
    d->quiet = 1;
    d->anchor_error = 0;
    d->lowest = 0;
}

static inline double cr_drift_report_slope(const cr_drift *d, uint32_t sample_rate, int *known)
{
    double span_s = d->report_last_ntp_s - d->report_first_ntp_s, slope;
    *known = 0;
    if (d->reports < 2 || span_s < CR_DRIFT_REPORT_SPAN_S)
        return 0;
    slope = 1 - (d->report_last_samples - d->report_first_samples) / (span_s * sample_rate);
    *known = fabs(slope) <= CR_DRIFT_MAX_SLOPE;
    return slope;
}

static inline double cr_drift_point_at(const cr_drift_point *point, uint32_t sample_rate)
{
    return (double)point->at_ms * (sample_rate / 1000.0);
}

/* Least squares over the points with `use` set; with `fixed` the slope is given and only the height is sought. */
static inline void cr_drift_least_squares(const cr_drift_point *points, const uint8_t *use, uint32_t count,
                                          uint32_t sample_rate, double at, int fixed, double *slope, double *delay)
{
    double n = 0, sx = 0, sy = 0, sxx = 0, sxy = 0;
    for (uint32_t i = 0; i < count; i++) {
        double x = cr_drift_point_at(&points[i], sample_rate) - at, y = points[i].delay;
        if (!use[i])
            continue;
        n += 1;
        sx += x;
        sy += y;
        sxx += x * x;
        sxy += x * y;
    }
    if (!fixed) {
        double determinant = n * sxx - sx * sx;
        *slope = determinant > 0 ? (n * sxy - sx * sy) / determinant : 0;
    }
    *delay = (sy - *slope * sx) / n;
}

static inline double cr_drift_delay(const cr_drift_line *line, double position)
{
    return line->delay + line->slope * (position - line->at);
}

static inline cr_drift_line *cr_drift_publish(cr_drift *d, double from, double delay, double slope)
{
    cr_drift_line *line = &d->lines[d->line_count++ % CR_DRIFT_LINES];
    line->at = from;
    line->delay = delay;
    line->slope = (float)slope;
    line->anchor_error = 0;
    line->epoch = d->epoch;
    return line;
}

/* Before there is enough for a line: through the lowest packet so far, with the slope of the anchor before, if any.
 * Not in a quiet network, where the first packet is as good as that; nor where delays fall by more than luck explains:
 * that sender's clock is not one of 8,000 Hz, and nothing is known of it yet. */
static inline void cr_drift_guess(cr_drift *d, double from, uint32_t sample_rate)
{
    double slope = d->rate_known ? d->rate : 0, lowest = INFINITY;
    if (d->quiet)
        return;
    for (uint32_t i = 0; i < d->point_count; i++)
        lowest = fmin(lowest, d->points[i].delay + slope * (from - cr_drift_point_at(&d->points[i], sample_rate)));
    if (lowest < -CR_DRIFT_GUESS_MS * (sample_rate / 1000.0))
        return;
    cr_drift_publish(d, from, lowest, slope);
}

static inline void cr_drift_fit(cr_drift *d, double from, uint32_t sample_rate)
{
    uint8_t use[CR_DRIFT_BLOCKS];
    uint32_t count = d->point_count < CR_DRIFT_BLOCKS ? d->point_count : CR_DRIFT_BLOCKS;
    int reported;
    double report_slope = cr_drift_report_slope(d, sample_rate, &reported);
    double slope = 0, delay = 0, at = from;
    cr_drift_line *line;
    int fixed = 0;
    if (count < CR_DRIFT_MIN_BLOCKS) {
        cr_drift_guess(d, from, sample_rate);
        return;
    }
    memset(use, 1, sizeof use);
    for (int pass = 0; pass < 3; pass++) {
        double sum = 0, limit, kept = 0;
        cr_drift_least_squares(d->points, use, count, sample_rate, at, fixed, &slope, &delay);
        if (pass == 0 && reported &&
            (count < CR_DRIFT_ENOUGH_BLOCKS || fabs(slope - report_slope) < CR_DRIFT_REPORT_TRUST)) {
            fixed = 1;
            slope = report_slope;
            cr_drift_least_squares(d->points, use, count, sample_rate, at, fixed, &slope, &delay);
        }
        for (uint32_t i = 0; i < count; i++) {
            double rest = d->points[i].delay - delay - slope * (cr_drift_point_at(&d->points[i], sample_rate) - at);
            if (use[i]) {
                sum += rest * rest;
                kept += 1;
            }
        }
        /* Congestion only raises: drop what stands clearly above, keep everything below. */
        limit = fmax(sqrt(sum / kept), sample_rate * 0.0005);
        kept = 0;
        for (uint32_t i = 0; i < count; i++) {
            double rest = d->points[i].delay - delay - slope * (cr_drift_point_at(&d->points[i], sample_rate) - at);
            use[i] = rest <= limit;
            kept += use[i];
        }
        if (kept < CR_DRIFT_MIN_BLOCKS)
            break;
    }
    if (fabs(slope) > CR_DRIFT_MAX_SLOPE)
        return;
    if (fixed || !d->rate_known || 2 * count >= d->rate_blocks) { /* a new anchor must first be known as well as the last */
        d->rate_known = 1;
        d->rate_blocks = fixed ? 2 * CR_DRIFT_BLOCKS : count;
        d->rate = slope;
    }
    line = cr_drift_publish(d, from, delay, slope);
    if (!d->anchored) {
        double anchor = cr_drift_delay(line, cr_drift_point_at(&d->points[0], sample_rate));
        d->anchor_error = fabs(anchor) <= d->tolerance ? anchor : 0;
    }
    d->anchored = 1;
    if (d->point_count >= CR_DRIFT_ANCHOR_BLOCKS)
        d->anchor_error = 0;
    line->anchor_error = (float)d->anchor_error;
}

/* One packet: it arrived at `at` and was `delay` late, both in samples. */
static inline void cr_drift_observe(cr_drift *d, double at, double delay, uint32_t sample_rate)
{
    if (delay < d->lowest)
        d->lowest = delay;
    d->delay_sum += delay;
    d->delay_count += 1;
    if (d->block_open && at >= d->block_end) {
        cr_drift_point *point = &d->points[d->point_count++ % CR_DRIFT_BLOCKS];
        double at_ms = floor(d->block_at / (sample_rate / 1000.0));
        point->at_ms = (int32_t)fmax(-2147483647.0, fmin(2147483647.0, at_ms));
        point->delay = (float)d->block_delay;
        d->block_open = 0;
        cr_drift_fit(d, at, sample_rate);
    }
    if (!d->block_open) {
        d->block_open = 1;
        d->block_end = at + CR_DRIFT_BLOCK_MS * (sample_rate / 1000.0);
        d->block_at = at;
        d->block_delay = delay;
    } else if (delay < d->block_delay) {
        d->block_at = at;
        d->block_delay = delay;
    }
}

/* Where jitter is large the first packet's lateness is but one throw of the dice: less of it is left alone. */
static inline void cr_drift_weigh(cr_drift *d, double quiet, double settled)
{
    d->quiet = d->delay_count == 0 || d->delay_sum / d->delay_count - d->lowest <= quiet;
    if (!d->quiet && d->tolerance > settled)
        d->tolerance = settled;
}

/* The anchor was moved: all delays so far are longer by `samples`. No line has been fitted yet. */
static inline void cr_drift_move(cr_drift *d, double samples)
{
    for (uint32_t i = 0; i < d->point_count && i < CR_DRIFT_BLOCKS; i++)
        d->points[i].delay += (float)samples;
    d->block_delay += samples;
    d->lowest += samples;
    d->report_first_samples -= samples;
    d->report_last_samples -= samples;
}

/* A sender report: at `ntp_s` on the sender's wall clock its media clock stood at `samples`. */
static inline void cr_drift_report(cr_drift *d, double ntp_s, double samples)
{
    if (d->reports == 0 || ntp_s <= d->report_last_ntp_s || samples <= d->report_last_samples) {
        d->report_first_ntp_s = ntp_s;
        d->report_first_samples = samples;
        d->reports = 0;
    }
    d->report_last_ntp_s = ntp_s;
    d->report_last_samples = samples;
    d->reports++;
}

/* The newest line of `epoch` that may be used at `position`, or NULL. */
static inline const cr_drift_line *cr_drift_line_at(const cr_drift *d, uint32_t epoch, double position)
{
    uint32_t kept = d->line_count < CR_DRIFT_LINES ? d->line_count : CR_DRIFT_LINES;
    for (uint32_t back = 1; back <= kept; back++) {
        const cr_drift_line *line = &d->lines[(d->line_count - back) % CR_DRIFT_LINES];
        if (line->epoch == epoch && line->at - d->ahead <= position)
            return line;
    }
    return NULL;
}

/* The first position after `position` from which another line of `epoch` may be used; far away if there is none. */
static inline int64_t cr_drift_next_line(const cr_drift *d, uint32_t epoch, int64_t position)
{
    int64_t next = INT64_MAX / 2;
    for (uint32_t i = 0; i < d->line_count && i < CR_DRIFT_LINES; i++) {
        const cr_drift_line *line = &d->lines[i];
        double from = line->at - d->ahead;
        if (line->epoch == epoch && from > (double)position && from < (double)next)
            next = (int64_t)ceil(from);
    }
    return next;
}

/* What is to be corrected of it. */
static inline double cr_drift_correction(const cr_drift_line *line, double position)
{
    return cr_drift_delay(line, position) - line->anchor_error;
}

#endif
