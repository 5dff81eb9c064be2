/* What is read: the stream decoded in order, gaps filled, moved onto the timeline; and what detectors hear before. */
#ifndef CALLREEL_READING_H
#define CALLREEL_READING_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "callreel/bytes.h"
#include "callreel/g711.h"
#include "callreel/retime.h"
#include "callreel/tone.h"
#include "callreel/track.h"

/* The stream decoded, gaps filled, as far as it is needed: while a read goes on, the end of it is at hand in one piece,
 * for concealment, which looks back, and resampling, which looks ahead. Between two reads the track keeps the end.
 *
 *       |  `kept` at least  | what comes |   room   |
 *                                        ^ count: sample number t->fill_next
 */
#define CR_WINDOW_ROOM 1024
typedef struct {
    int16_t samples[CR_HISTORY + CR_WINDOW_ROOM];
    uint32_t count; /* 0: all that is kept is still with the track */
    cr_track *track;
} cr_window;

static inline void cr_window_close(cr_window *w)
{
    uint32_t kept = w->track->kept;
    if (w->count)
        memcpy(w->track->history, w->samples + w->count - kept, kept * sizeof *w->samples);
    w->count = 0;
}

/* What is kept, and then `count` samples of `pcm`, at most as many. */
static inline void cr_window_follow(cr_window *w, const int16_t *pcm, uint32_t count)
{
    uint32_t kept = w->track->kept;
    cr_window_close(w);
    memmove(w->track->history, w->track->history + count, (kept - count) * sizeof *pcm);
    memcpy(w->track->history + kept - count, pcm, count * sizeof *pcm);
}

/* Make room for `count` samples, at most CR_WINDOW_ROOM; returns where they are to go. */
static inline int16_t *cr_window_grow(cr_window *w, uint32_t count)
{
    uint32_t kept = w->track->kept;
    if (w->count == 0) {
        memcpy(w->samples, w->track->history, kept * sizeof *w->samples);
        w->count = kept;
    } else if (w->count + count > CR_HISTORY + CR_WINDOW_ROOM) {
        memmove(w->samples, w->samples + w->count - kept, kept * sizeof *w->samples);
        w->count = kept;
    }
    w->count += count;
    return w->samples + w->count - count;
}

static inline void cr_decode_run(int16_t *pcm, const uint8_t *samples, uint32_t count, unsigned kind,
                                 uint32_t sample_bytes)
{
    if (sample_bytes == 2)
        memcpy(pcm, samples, (size_t)count * 2);
    else if (kind == CR_KIND_ULAW)
        cr_g711.ulaw_decode((uint8_t *)pcm, samples, count);
    else
        cr_g711.alaw_decode((uint8_t *)pcm, samples, count);
}

/* Decode exactly `count` samples from `number` on if all of them are received audio. */
static inline int cr_peek_audio(const cr_track *t, int64_t number, int16_t *pcm, uint32_t count)
{
    while (count) {
        unsigned kind;
        const uint8_t *samples;
        uint32_t run = cr_store_run(&t->store, number, count, &kind, &samples);
        if (kind == CR_KIND_NONE || kind == CR_KIND_SILENCE)
            return 0;
        cr_decode_run(pcm, samples, run, kind, t->store.sample_bytes);
        pcm += run;
        number += run;
        count -= run;
    }
    return 1;
}

/* A gap begins at `number` of segment `s`, behind the samples that end at `before`: look how long it is and what is
 * behind it. */
static inline void cr_gap_open(cr_track *t, const cr_segment *s, int64_t number, const int16_t *before)
{
    int16_t after[CR_CONCEAL_HISTORY];
    uint32_t length = 0, limit = CR_CONCEAL_MAX + 1;
    int known = 0;
    if (s->end - number < limit)
        limit = s->end > number ? (uint32_t)(s->end - number) : 0;
    while (length < limit) {
        unsigned kind;
        const uint8_t *samples;
        uint32_t run = cr_store_run(&t->store, number + length, limit - length, &kind, &samples);
        if (kind != CR_KIND_NONE)
            break;
        length += run;
    }
    if (length <= CR_CONCEAL_MAX && number + length + CR_CONCEAL_HISTORY <= s->end)
        known = cr_peek_audio(t, number + length, after, CR_CONCEAL_HISTORY);
    if (length > CR_CONCEAL_MAX || (!known && number + length >= s->end))
        length = CR_CONCEAL_MAX; /* it is longer, or runs out of the segment */
    cr_conceal_start(&t->conceal, length, before - CR_CONCEAL_HISTORY, known ? after : NULL);
    t->gap_open = 1;
}

/* Note that the timeline holds no received audio for `samples` from `position` on, because it was lost. */
static inline void cr_gap_note(cr_track *t, int64_t position, int64_t samples)
{
    cr_gap *last = t->gap_count ? &t->gaps[t->gap_count - 1] : NULL;
    if (last && llabs(last->position + last->samples - position) <= cr_ms(t, CR_SETTLED_MS)) {
        last->samples = position + samples - last->position;
    } else if (samples > 0) {
        t->gaps = (cr_gap *)cr_roomier(t->gaps, t->gap_count, &t->gap_capacity, CR_GAPS, sizeof *t->gaps);
        if (t->gap_count < t->gap_capacity) {
            t->gaps[t->gap_count].position = position;
            t->gaps[t->gap_count++].samples = samples;
        }
    }
}

/* Let telephone events sound in `pcm`, which holds stream numbers from `number` on and no audio.
 * Returns how many samples they fill. */
static inline uint32_t cr_events_sound(const cr_track *t, int64_t number, int16_t *pcm, uint32_t count)
{
    uint32_t sounded = 0;
    if (!t->render_events)
        return 0;
    for (uint32_t i = 0; i < t->event_count; i++) {
        const cr_event *e = &t->events[i];
        int64_t from = e->first > number ? e->first : number;
        int64_t to = e->first + e->duration < number + (int64_t)count ? e->first + e->duration : number + count;
        if (from >= to || e->code > 15)
            continue;
        /* The volume is that of both components together, RFC 4733 section 2.3.4. */
        cr_dtmf_render_scalar((uint8_t *)(pcm + (from - number)), (size_t)(to - from), e->code,
                              -(double)e->volume - CR_TWO_EQUAL_DB, t->sample_rate, (uint64_t)(from - e->first),
                              e->ended ? e->duration : CR_TONE_OPEN_END, (uint64_t)cr_ms(t, CR_EVENT_RAMP_MS));
        sounded += (uint32_t)(to - from);
    }
    return sounded < count ? sounded : count;
}

/* Decode the next `count` stream samples of segment `s`, gaps filled; those before stand before `pcm`. */
static inline void cr_track_fill(cr_track *t, const cr_segment *s, int16_t *pcm, uint32_t count)
{
    while (count) {
        unsigned kind = CR_KIND_NONE;
        const uint8_t *samples = NULL;
        uint32_t run = count;
        if (t->fill_next < s->end) {
            int64_t left = s->end - t->fill_next;
            run = cr_store_run(&t->store, t->fill_next, (uint32_t)(left < count ? left : count), &kind, &samples);
        }
        if (kind == CR_KIND_NONE) {
            int ended = t->fill_next >= s->end && !t->tail_lost; /* the resampler looks past the last sample */
            if (!t->gap_open && t->after_audio && !ended && t->conceals)
                cr_gap_open(t, s, t->fill_next, pcm);
            if (t->fill_next < s->end) /* by the slew of the last control: the same however reading is cut up */
                cr_gap_note(t, cr_segment_position(s) + (t->fill_next - s->first) + cr_floor(t->slew + 0.5), run);
            if (ended) {
                memset(pcm, 0, run * sizeof *pcm);
            } else if (t->gap_open) {
                uint32_t before = t->conceal.done;
                cr_conceal_fill(&t->conceal, pcm, run);
                before = (t->conceal.done < t->conceal.length ? t->conceal.done : t->conceal.length) -
                         (before < t->conceal.length ? before : t->conceal.length);
                t->counts.concealed_samples += before;
                t->counts.silence_samples += run - before;
            } else {
                memset(pcm, 0, run * sizeof *pcm);
                t->counts.silence_samples += run - cr_events_sound(t, t->fill_next, pcm, run);
            }
        } else {
            t->gap_open = 0;
            t->after_audio = kind != CR_KIND_SILENCE;
            if (kind == CR_KIND_SILENCE) {
                memset(pcm, 0, run * sizeof *pcm);
                t->counts.silence_samples += run - cr_events_sound(t, t->fill_next, pcm, run);
            } else {
                cr_decode_run(pcm, samples, run, kind, t->store.sample_bytes);
            }
        }
        t->fill_next += run;
        pcm += run;
        count -= run;
    }
}

/* Steer the resampler at timeline position `at` of segment `s`, a moment of control. */
static inline void cr_track_control(cr_track *t, const cr_segment *s, int64_t at)
{
    const cr_drift_line *line = cr_drift_line_at(&t->drift, s->epoch, (double)at);
    double error;
    t->slew += t->slew_rate * (double)cr_ms(t, CR_CONTROL_MS);
    t->slew_rate = 0;
    if (!line)
        return;
    error = cr_drift_delay(line, (double)at) - (s->shift + t->slew);
    t->error_known = 1;
    if (fabs(error) > t->worst_error)
        t->worst_error = fabs(error);
    error -= line->anchor_error;
    if (!t->resampling && fabs(error) > (double)cr_ms(t, CR_SETTLED_MS))
        t->resampling = 1;
    if (t->resampling) {
        double rate = line->slope + error / (CR_SLEW_TIME_S * t->sample_rate);
        t->slew_rate = rate > CR_SLEW_MAX ? CR_SLEW_MAX : rate < -CR_SLEW_MAX ? -CR_SLEW_MAX : rate;
    }
}

/* The next `count` samples of segment `s` as they were sent. */
static inline void cr_segment_copy(cr_track *t, const cr_segment *s, cr_window *window, int16_t *pcm, uint32_t count)
{
    uint32_t through = count < t->kept ? count : t->kept; /* the window, for the sake of what stands before */
    int16_t *start;
    if (t->fill_next + through <= s->end && cr_peek_audio(t, t->fill_next, pcm, through)) {
        cr_window_follow(window, pcm, through); /* nothing looks back */
        t->fill_next += through;
        t->gap_open = 0;
        t->after_audio = 1;
    } else {
        start = cr_window_grow(window, through);
        cr_track_fill(t, s, start, through);
        memcpy(pcm, start, through * sizeof *pcm);
    }
    if (count > through) {
        cr_track_fill(t, s, pcm + through, count - through);
        cr_window_follow(window, pcm + count - t->kept, t->kept);
    }
}

/* Produce up to `count` samples of segment `s`, which `t->position` lies in; returns how many. */
static inline uint32_t cr_segment_read(cr_track *t, const cr_segment *s, cr_window *window, int16_t *pcm, uint32_t count)
{
    uint32_t interval = (uint32_t)cr_ms(t, CR_CONTROL_MS), into = cr_since_control(t, t->position), plain = 0;
    uint32_t group, groups, missing;
    int64_t offset = t->position - cr_segment_position(s), place, step, low, high;
    int16_t whole_groups[CR_RESAMPLE_MOST + 2 * CR_RETIME_GROUP], *out;
    if (t->resampling || t->drift.line_count) {
        if (into == 0)
            cr_track_control(t, s, t->position);
        while (!t->resampling && plain < count) { /* from one moment of control to the next */
            uint32_t run = interval - into;
            plain += run < count - plain ? run : count - plain;
            into = 0;
            if (plain < count)
                cr_track_control(t, s, t->position + plain);
        }
    } else {
        plain = count;
    }
    if (plain) {
        t->fill_next = s->first + offset;
        cr_segment_copy(t, s, window, pcm, plain);
        if (plain == count)
            return plain;
        pcm += plain;
        count -= plain;
        offset += plain;
    }
    count = count < interval - into ? count : interval - into;
    count = count < CR_RESAMPLE_MOST ? count : CR_RESAMPLE_MOST;
    group = into / CR_RETIME_GROUP;
    groups = (into + count - 1) / CR_RETIME_GROUP - group + 1;
    /* Where group 0 of this interval stands in the stream, less its own number, by its middle: with step, a pure
     * function of the position. To the nearest phase. */
    step = -(int64_t)(t->slew_rate * (CR_RETIME_GROUP * CR_RETIME_ONE));
    place = (int64_t)(-t->slew * CR_RETIME_ONE) + step * (CR_RETIME_GROUP - 1) / (2 * CR_RETIME_GROUP) + step * group +
            (1 << (CR_RETIME_PHASE_SHIFT - 1));
    offset += (int64_t)group * CR_RETIME_GROUP - into; /* the samples of the first group, if the clocks agreed */
    low = s->first + offset + cr_retime_whole(place) - CR_RETIME_BEFORE;
    high = s->first + offset + (groups - 1) * CR_RETIME_GROUP + cr_retime_whole(place + (groups - 1) * step) -
           CR_RETIME_BEFORE + CR_RETIME_GROUP + CR_RETIME_TAPS - 2;
    if (low > t->fill_next || t->fill_next - low > t->kept)
        t->fill_next = low; /* the segment has grown after it seemed to have ended */
    missing = high >= t->fill_next ? (uint32_t)(high + 1 - t->fill_next) : 0;
    cr_track_fill(t, s, cr_window_grow(window, missing), missing);
    out = groups * CR_RETIME_GROUP == count ? pcm : whole_groups;
    /* The window ends with the sample before t->fill_next. */
    cr_retime(out, window->samples + window->count - (t->fill_next - low), groups, (uint32_t)place, step);
    if (out != pcm)
        memcpy(pcm, out + (into - group * CR_RETIME_GROUP), count * sizeof *pcm);
    return plain + count;
}

/* What resampling has done to the first segment becomes its shift: no more of it will be resampled. */
static inline void cr_segment_settle(cr_track *t)
{
    cr_segment_at(t, 0)->shift += cr_track_slew(t);
    t->slew = t->slew_rate = 0;
}

static inline void cr_segment_leave(cr_track *t)
{
    const cr_segment *s;
    double shift;
    uint32_t epoch;
    cr_segment_settle(t);
    s = cr_segment_at(t, 0);
    shift = s->shift;
    epoch = s->epoch;
    t->left_end = cr_segment_end_position(s);
    t->have_left = 1;
    /* Packets out of order may still fill what lies between; frames of the host's come in order. */
    cr_store_release(&t->store, t->has_timestamps || t->segment_count == 1 ? s->end : cr_segment_at(t, 1)->first);
    t->segment_head = (t->segment_head + 1) % t->segment_capacity;
    t->segment_count--;
    /* The next spurt starts where the clock says by now; a pause is the place to move in, unheard. */
    if (t->segment_count && cr_segment_at(t, 0)->epoch == epoch)
        cr_segment_at(t, 0)->shift = shift;
}

/* The shift with which segment `s` is to begin, by what may be known at `t->position`: a pause before it is the place to
 * move in, unheard. */
static inline double cr_segment_begin_shift(const cr_track *t, const cr_segment *s)
{
    const cr_drift_line *line = cr_drift_line_at(&t->drift, s->epoch, (double)t->position);
    double shift = s->shift;
    if (line) {
        double wanted = cr_drift_correction(line, (double)s->nominal);
        if (fabs(wanted - shift) > (double)cr_ms(t, CR_SETTLED_MS))
            shift = wanted;
    }
    return floor(shift + 0.5);
}

/* Begin to read segment `s`, the first sample of which is due at or before `t->position`. */
static inline void cr_segment_enter(cr_track *t, cr_segment *s, cr_window *window, double shift)
{
    int64_t start = s->nominal + (int64_t)shift;
    /* What was read up to here leaves no room before: it queues, and nothing overlaps. What nobody wanted is cut. */
    if (start < t->position && start >= t->skipped)
        shift = (double)(t->position - s->nominal);
    s->shift = shift;
    s->entered = 1;
    t->fill_next = s->first;
    t->slew = t->slew_rate = 0;
    t->resampling = 0;
    t->gap_open = 0;
    t->after_audio = 0;
    memset(t->history, 0, sizeof t->history);
    window->count = 0;
}

/* Let `count` samples of silence pass because there is no audio; with `pcm` NULL nobody listens. */
static inline int16_t *cr_track_silence(cr_track *t, int16_t *pcm, int64_t count)
{
    t->position += count;
    if (!pcm) {
        t->skipped = t->position;
        return NULL;
    }
    memset(pcm, 0, (size_t)count * sizeof *pcm);
    t->counts.silence_samples += (uint64_t)count;
    return pcm + count;
}

/* Read the timeline up to position `until` into `pcm`, or skip it when `pcm` is NULL. */
static inline void cr_track_read(cr_track *t, int64_t until, int16_t *pcm)
{
    cr_window window;
    window.count = 0;
    window.track = t;
    while (t->position < until) {
        cr_segment *s = t->segment_count ? cr_segment_at(t, 0) : NULL;
        int64_t left = until - t->position, end;
        if (s && !s->entered) {
            double shift = cr_segment_begin_shift(t, s);
            int64_t wait = s->nominal + (int64_t)shift - t->position;
            if (wait > 0) {
                /* Look again where more is known, not only where it seems to begin by now. */
                int64_t news = cr_drift_next_line(&t->drift, s->epoch, t->position) - t->position;
                wait = wait < news ? wait : news;
                pcm = cr_track_silence(t, pcm, wait < left ? wait : left);
                continue;
            }
            cr_segment_enter(t, s, &window, shift);
        }
        if (!s) {
            pcm = cr_track_silence(t, pcm, left);
            continue;
        }
        if (s->lost_before && t->have_left && pcm)
            cr_gap_note(t, t->left_end, cr_segment_position(s) - t->left_end);
        s->lost_before = 0;
        end = cr_segment_end_position(s) + cr_floor(cr_track_slew(t) + 0.5);
        t->tail_lost = 0;
        if (t->segment_count > 1) {
            const cr_segment *next = cr_segment_at(t, 1);
            int64_t limit = cr_segment_position(next);
            /* The loss began in this segment. Only if that was known in time for everyone, see requirement 7. */
            t->tail_lost = next->lost_before && next->arrival - end <= (int64_t)t->late_samples;
            if (t->tail_lost && end < limit)
                end = end + CR_CONCEAL_MAX < limit ? end + CR_CONCEAL_MAX : limit;
            if (end <= t->position) {
                cr_segment_leave(t);
                continue;
            }
        } else if (end <= t->position) {
            /* Nothing follows yet: silence. The segment may still grow, if the sender's clock stood still. */
            cr_segment_settle(t);
            t->gap_open = 0;
            t->after_audio = 0;
            cr_store_release(&t->store, s->end);
            pcm = cr_track_silence(t, pcm, left);
            continue;
        }
        left = end - t->position < left ? end - t->position : left;
        if (pcm) {
            uint32_t count = cr_segment_read(t, s, &window, pcm, (uint32_t)(left < (1 << 20) ? left : 1 << 20));
            pcm += count;
            t->position += count;
        } else {
            /* Nobody listens: the segment now starts later, and is entered anew where somebody does. */
            int64_t passed;
            cr_segment_settle(t);
            passed = t->position + left - cr_segment_position(s);
            passed = passed < s->end - s->first ? passed : s->end - s->first;
            s->first += passed;
            s->nominal += passed;
            s->timestamp += (uint32_t)passed;
            s->entered = 0;
            cr_store_release(&t->store, s->first);
            t->fill_next = s->first;
            t->skipped = t->position += left;
        }
    }
    cr_window_close(&window);
    if (t->segment_count && cr_segment_at(t, 0)->entered) {
        const cr_segment *s = cr_segment_at(t, 0);
        cr_store_release(&t->store, t->fill_next < s->end ? t->fill_next : s->end);
    }
}

/* ---- listening -------------------------------------------------------------------------------------------------- */

/* Received audio in order, for detectors, long before the timeline is final: what of it follows without a gap at or after
 * stream number `t->heard`. A gap is waited for no longer than `patience_ms` of newer audio.
 * Returns the number of samples (0: nothing more for now) and where they stand. */
static inline uint32_t cr_track_hear(cr_track *t, int16_t *pcm, uint32_t room, uint32_t patience_ms,
                                     int64_t *position)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < t->segment_count; i++) {
        cr_segment *s = cr_segment_at(t, i);
        int64_t newest = cr_track_stream_end(t);
        if (t->heard < s->first)
            t->heard = s->first;
        if (t->heard < t->store.low)
            t->heard = t->store.low;
        while (t->heard < s->end && count < room) {
            unsigned kind;
            const uint8_t *samples;
            int64_t left = s->end - t->heard;
            uint32_t most = left < room - count ? (uint32_t)left : room - count;
            uint32_t run = cr_store_run(&t->store, t->heard, most, &kind, &samples);
            if (kind == CR_KIND_NONE || kind == CR_KIND_SILENCE) {
                if (count)
                    break;
                if (kind == CR_KIND_NONE && !t->finished && newest - t->heard <= run + cr_ms(t, patience_ms))
                    return 0;
                t->heard += run;
                continue;
            }
            if (!count)
                *position = cr_segment_position(s) + (t->heard - s->first) +
                            (i == 0 && s->entered ? cr_floor(cr_track_slew(t) + 0.5) : 0);
            cr_decode_run(pcm + count, samples, run, kind, t->store.sample_bytes);
            t->heard += run;
            count += run;
        }
        if (count)
            return count;
    }
    return 0;
}

static inline int64_t cr_track_lost(const cr_track *t)
{
    return t->lost_before_source + cr_sequence_lost(&t->sequence);
}

/* Up to where nothing is missing and nothing is in doubt, so that whoever cannot wait for `cr_track_ready` may read: the
 * end of the audio that has come without a gap, less what concealment and resampling look ahead. Only the drift may be
 * known better later, by less than can be heard. */
static inline int64_t cr_track_complete(const cr_track *t)
{
    int64_t reach = t->position + cr_ms(t, CR_LOOKAHEAD_MS);
    if (t->anchor_open || t->step_open || t->queue_open)
        return t->position;
    for (uint32_t i = 0; i < t->segment_count; i++) {
        const cr_segment *s = cr_segment_at(t, i);
        int64_t number = s->entered && t->fill_next > s->first ? t->fill_next : s->first;
        unsigned kind = CR_KIND_SILENCE;
        if (s->lost_before)
            break;
        while (number < s->end) {
            const uint8_t *samples;
            uint32_t run = cr_store_run(&t->store, number, (uint32_t)(s->end - number), &kind, &samples);
            if (kind == CR_KIND_NONE)
                break;
            number += run;
        }
        reach = cr_track_number_position(t, number);
        if (kind == CR_KIND_NONE)
            break;
    }
    reach -= cr_ms(t, CR_LOOKAHEAD_MS);
    return reach > t->position ? reach : t->position;
}

/* What has come by now of the timeline from `from` up to `until`, silence where nothing has: for a file that may be cut
 * off at any moment. Nothing is repaired, resampled or let go; what has been read is not there any more. */
static inline void cr_track_preview(const cr_track *t, int64_t from, int64_t until, int16_t *pcm)
{
    memset(pcm, 0, (size_t)(until - from) * sizeof *pcm);
    for (uint32_t i = 0; i < t->segment_count; i++) {
        const cr_segment *s = cr_segment_at(t, i);
        int64_t place = cr_segment_position(s) - s->first + (s->entered ? cr_floor(cr_track_slew(t) + 0.5) : 0);
        int64_t number = s->first > t->store.low ? s->first : t->store.low;
        int64_t end = s->end < until - place ? s->end : until - place;
        number = number > from - place ? number : from - place;
        while (number < end) {
            unsigned kind;
            const uint8_t *samples;
            uint32_t run = cr_store_run(&t->store, number, (uint32_t)(end - number), &kind, &samples);
            if (kind != CR_KIND_NONE && kind != CR_KIND_SILENCE)
                cr_decode_run(pcm + (number + place - from), samples, run, kind, t->store.sample_bytes);
            number += run;
        }
    }
}

/* One past the last sample that has arrived, on the timeline. */
static inline int64_t cr_track_end_position(const cr_track *t)
{
    cr_segment *last = cr_last_segment(t);
    int64_t end = last ? cr_segment_end_position(last) : t->position;
    if (last && last->entered)
        end += cr_floor(cr_track_slew(t) + 0.5);
    return end > t->position ? end : t->position;
}

/* How far the worst sample stands from where the sender's clock puts it, in samples. */
static inline double cr_track_alignment_error(const cr_track *t)
{
    return t->error_known ? t->worst_error : fabs(t->drift.lowest);
}

#endif
