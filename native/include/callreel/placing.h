/* Where in the stream, and so on the timeline, a packet's samples belong: segments, anchors, stopped clocks, queues,
 * stragglers. Requirements 1, 2 and 4 of timeline.h. */
#ifndef CALLREEL_PLACING_H
#define CALLREEL_PLACING_H

#include <math.h>
#include <stdint.h>

#include "callreel/telephone_event.h"
#include "callreel/track.h"

/* Whether there is room for one more segment. */
static inline int cr_segment_room(cr_track *t)
{
    uint32_t wanted = t->segment_capacity ? 2 * t->segment_capacity : CR_FEW;
    cr_segment *larger;
    if (t->segment_count < t->segment_capacity)
        return 1;
    wanted = wanted < t->segment_limit ? wanted : t->segment_limit;
    if (wanted == t->segment_capacity)
        return 0;
    larger = (cr_segment *)CR_MALLOC(wanted * sizeof *larger);
    if (!larger)
        return 0;
    for (uint32_t i = 0; i < t->segment_count; i++)
        larger[i] = *cr_segment_at(t, i);
    free(t->segments);
    t->segments = larger;
    t->segment_capacity = wanted;
    t->segment_head = 0;
    return 1;
}

static inline cr_segment *cr_segment_add(cr_track *t, int64_t first, int64_t nominal, uint32_t timestamp,
                                         int64_t arrival)
{
    cr_segment *s;
    if (!cr_segment_room(t))
        return NULL;
    s = cr_segment_at(t, t->segment_count++);
    memset(s, 0, sizeof *s);
    s->first = s->end = first;
    s->nominal = nominal;
    s->timestamp = timestamp;
    s->continuum = t->continuum;
    s->epoch = t->epoch;
    s->arrival = arrival;
    s->lost_before = t->lost_pending;
    t->lost_pending = 0;
    return s;
}

/* Cut the segment that holds both numbers in two: the first part ends at `end`, the second begins at `first`.
 * Returns the index of the second, or segment_count when nothing lies behind `first` or there is no room. */
static inline uint32_t cr_segment_cut(cr_track *t, int64_t end, int64_t first)
{
    uint32_t at = t->segment_count;
    cr_segment *head, *tail;
    while (at > 0 && cr_segment_at(t, at - 1)->first >= first)
        at--;
    if (at == 0 || cr_segment_at(t, at - 1)->end <= first || !cr_segment_room(t))
        return at;
    for (uint32_t i = t->segment_count++; i > at; i--)
        *cr_segment_at(t, i) = *cr_segment_at(t, i - 1);
    head = cr_segment_at(t, at - 1);
    tail = cr_segment_at(t, at);
    *tail = *head;
    tail->first = first;
    tail->nominal += first - head->first;
    tail->timestamp += (uint32_t)(first - head->first);
    tail->entered = 0;
    tail->lost_before = 0;
    head->end = end;
    return at;
}

/* Begin to measure delays against a new anchor, which was set by a packet that came at `arrival`. */
static inline void cr_anchor_open(cr_track *t, int64_t arrival)
{
    double tolerance = t->epoch == 1 ? CR_ANCHOR_TOLERANCE_US * (t->sample_rate / 1e6) : (double)cr_ms(t, CR_SETTLED_MS);
    cr_drift_start(&t->drift, t->epoch, tolerance, (double)(t->late_samples + cr_ms(t, CR_LOOKAHEAD_MS)));
    t->expected_shift = 0;
    t->anchor_open = 1;
    t->anchor_until = arrival + cr_ms(t, CR_ANCHOR_MS);
    cr_drift_observe(&t->drift, (double)arrival, 0, t->sample_rate); /* the packet itself */
}

/* The anchor has been weighed: if its packet was late, compared with those of the second after it, all that hangs on it
 * moves to where it belongs. Nobody can have read it yet. */
static inline void cr_anchor_settle(cr_track *t, int64_t arrival)
{
    int64_t early = cr_floor(-t->drift.lowest + 0.5), room;
    uint32_t at = 0;
    if (!t->anchor_open || arrival < t->anchor_until)
        return;
    t->anchor_open = 0;
    cr_drift_weigh(&t->drift, (double)cr_ms(t, CR_QUIET_MS), (double)cr_ms(t, CR_SETTLED_MS));
    while (at < t->segment_count && cr_segment_at(t, at)->epoch != t->epoch)
        at++;
    if ((double)early <= t->drift.tolerance || at == t->segment_count || cr_segment_at(t, at)->entered)
        return;
    room = t->anchor_until - t->late_samples - cr_ms(t, CR_LOOKAHEAD_MS);
    room = room > t->position ? room : t->position;
    if (at > 0 && cr_segment_end_position(cr_segment_at(t, at - 1)) > room)
        room = cr_segment_end_position(cr_segment_at(t, at - 1));
    room = cr_segment_position(cr_segment_at(t, at)) - room;
    early = early < room ? early : room;
    if (early <= 0)
        return;
    for (uint32_t i = 0; i < t->event_count; i++)
        if (t->events[i].first >= cr_segment_at(t, at)->first)
            t->events[i].position -= early;
    for (; at < t->segment_count; at++)
        cr_segment_at(t, at)->nominal -= early;
    t->timestamp_nominal -= early;
    cr_drift_move(&t->drift, (double)early);
}

/* Where an anchor stands behind its arrival, packets go on to come as early. RTP is brought back to its place as for
 * any drift; host frames sound behind what they had to wait for, so that for them this is no delay. */
static inline double cr_track_accepted_behind(const cr_track *t)
{
    return t->has_timestamps ? 0 : t->behind;
}

/* Anchor the stream anew: the sample with `timestamp` stands at `arrival`, or where the audio before it ends. */
static inline cr_segment *cr_epoch_start(cr_track *t, uint32_t timestamp, int64_t arrival, uint32_t lead)
{
    cr_segment *last = cr_last_segment(t), *s;
    int64_t first = cr_track_stream_end(t), margin = cr_ms(t, CR_MARGIN_MS);
    int64_t nominal = arrival;
    if (last) {
        int64_t end = cr_track_expected_position(t, last->end, arrival), overlap = end - nominal;
        if (overlap > 0) {
            /* The audio before runs ahead of the clock, so it was placed too late: move it back if nobody can have
             * read it yet and there is room before it. */
            int64_t lowest = arrival - t->late_samples - cr_ms(t, CR_LOOKAHEAD_MS);
            lowest = lowest > t->position ? lowest : t->position;
            if (t->segment_count > 1) {
                int64_t previous = cr_segment_end_position(cr_segment_at(t, t->segment_count - 2));
                lowest = previous > lowest ? previous : lowest;
            }
            if (!last->entered && cr_segment_position(last) - overlap > lowest) {
                last->nominal -= overlap;
                end -= overlap;
            }
            nominal = end;
        }
        margin = nominal - end < margin ? nominal - end : margin;
    }
    if (nominal < t->position)
        nominal = t->position;
    first += margin;
    t->behind = nominal > arrival ? (double)(nominal - arrival) : 0;
    t->continuum++;
    t->epoch++;
    t->have_epoch = 1;
    t->step_open = t->queue_open = 0;
    t->lead = lead;
    cr_anchor_open(t, arrival);
    s = cr_segment_add(t, first, nominal, timestamp, arrival);
    t->timestamp = timestamp;
    t->timestamp_first = first;
    t->timestamp_nominal = nominal;
    return s;
}

/* The delay rose at stream number `step_first` and stayed up: the sender's clock stood still, so that what follows
 * belongs `step_delay` later. What was known of the drift goes into the new places, and is measured anew. */
static inline void cr_step_confirm(cr_track *t)
{
    /* Audio that stands behind its arrival catches up first. */
    double behind = cr_track_accepted_behind(t), caught_up = t->step_delay < behind ? t->step_delay : behind;
    int64_t moved = cr_floor(t->step_delay - caught_up + cr_track_correction(t, (double)t->step_arrival) + 0.5);
    uint32_t at = cr_segment_cut(t, t->step_first, t->step_first);
    t->step_open = 0;
    t->epoch++;
    if (!t->has_timestamps && at < t->segment_count) { /* what would stand before what has been read stands behind it */
        int64_t passed = t->position - (cr_segment_at(t, at)->nominal + moved);
        if (passed > 0) {
            moved += passed;
            t->behind += (double)passed;
        }
    }
    for (uint32_t i = at; i < t->segment_count; i++) {
        cr_segment *s = cr_segment_at(t, i);
        s->epoch = t->epoch;
        s->nominal += moved;
        s->shift = 0;
        if (i == at)
            s->lost_before = 0;
    }
    for (uint32_t i = 0; i < t->event_count; i++)
        if (t->events[i].first >= t->step_first)
            t->events[i].position += moved;
    t->timestamp_nominal += moved;
    t->behind -= caught_up;
    cr_anchor_open(t, t->step_opened);
}

/* It was a queue, and it has drained: what came too late is taken out, as if it had never come. */
static inline void cr_step_refute(cr_track *t)
{
    int64_t from = t->step_first > t->store.low ? t->step_first : t->store.low, to = t->step_late_end;
    t->step_open = 0;
    t->counts.late += t->step_late;
    if (from >= to)
        return;
    cr_segment_cut(t, from, to);
    cr_store_forget(&t->store, from, (uint32_t)(to - from));
    for (uint32_t i = t->segment_count; i-- > 0;) {
        cr_segment *s = cr_segment_at(t, i);
        int64_t skip = (to < s->end ? to : s->end) - s->first;
        if (s->first < from) {
            s->end = s->end < from ? s->end : from;
            break;
        }
        if (skip > 0) {
            s->first += skip;
            s->nominal += skip;
            s->timestamp += (uint32_t)skip;
        }
        if (s->first <= to) {
            s->lost_before = 1;
            s->arrival = t->step_opened;
        }
    }
}

/* Decide on an open step when nothing comes any more to tell: what may come late stands where it belongs. */
static inline void cr_track_settle(cr_track *t)
{
    int64_t in_time = t->has_timestamps ? t->late_samples : cr_ms(t, CR_STEP_MS);
    if (!t->step_open)
        return;
    if (t->step_delay < in_time)
        cr_step_refute(t);
    else
        cr_step_confirm(t);
}

/* No packet has come to tell for so long. Frames of the host's say nothing of when they were spoken but by coming. */
static inline void cr_step_expire(cr_track *t, int64_t arrival)
{
    if (!t->step_open || arrival - t->step_arrival <= cr_ms(t, CR_STEP_TIMEOUT_MS))
        return;
    if (t->has_timestamps)
        cr_track_settle(t);
    else
        cr_step_confirm(t);
}

/* Where the sample with `timestamp` of a packet out of order belongs: its stream number, or -1. */
static inline int64_t cr_place_straggler(cr_track *t, uint32_t timestamp, int64_t arrival)
{
    int64_t limit = INT64_MAX; /* where the segment behind begins */
    for (uint32_t i = t->segment_count; i-- > 0;) {
        cr_segment *s = cr_segment_at(t, i);
        int64_t number = s->first + (int32_t)(timestamp - s->timestamp);
        int64_t lowest = i > 0 ? cr_segment_at(t, i - 1)->end : t->store.low;
        if (s->continuum != t->continuum)
            break;
        if (s->entered)
            lowest = s->first;
        if (number < lowest || number >= limit || number >= s->end + cr_ms(t, CR_SPLIT_MS)) {
            limit = s->first;
            continue;
        }
        if (number < s->first) {
            int64_t back = s->first - number;
            int64_t room = cr_segment_position(s) - t->position;
            if (i > 0) {
                int64_t between = cr_segment_position(s) - cr_segment_end_position(cr_segment_at(t, i - 1));
                room = between < room ? between : room;
            }
            if (back > room || arrival - (cr_track_expected_position(t, s->first, arrival) - back) > t->late_samples)
                return -1;
            s->first = number;
            s->nominal -= back;
            s->timestamp -= (uint32_t)back;
        }
        return number;
    }
    return -1;
}

/* A packet has been placed at `number`, behind `end`, and others between are missing. */
static inline void cr_track_note_hole(cr_track *t, int64_t end, int64_t number)
{
    cr_hole *hole = &t->holes[t->hole_count++ % CR_HOLES];
    hole->from = end;
    hole->samples = (uint32_t)(number - end);
    hole->first_missing = t->first_missing;
    hole->numbers = (uint32_t)(t->sequence.highest - t->first_missing);
    hole->missing = t->missing;
}

/* Where the sample with `timestamp` of a packet ahead of all others belongs: its stream number.
 * `lead` is what the packet holds, in samples: it could not have been sent before that had passed. */
static inline int64_t cr_place_ahead(cr_track *t, uint32_t timestamp, uint32_t lead, int contiguous, int64_t arrival,
                                     int is_audio)
{
    cr_segment *last = cr_last_segment(t);
    int64_t difference = (int32_t)(timestamp - t->timestamp);
    int64_t number, nominal, end;
    int lost = t->lost_pending;
    double delay;
    if (!t->have_epoch || !last)
        goto anew;
    if (!is_audio && difference < 0)
        return cr_place_straggler(t, timestamp, arrival); /* an event that began beside audio already here */
    number = t->timestamp_first + difference;
    nominal = t->timestamp_nominal + difference;
    /* Delays count from the end of what a packet holds, so that a change of packet time is no change of delay. */
    delay = (double)(arrival - nominal) - ((double)lead - t->lead) + cr_track_accepted_behind(t);
    if (is_audio)
        cr_drift_observe(&t->drift, (double)arrival, delay, t->sample_rate);
    delay -= cr_track_correction(t, (double)arrival);

    if (delay + (t->has_timestamps ? t->behind : 0) < -(double)cr_ms(t, CR_STEP_MS) ||
        difference < -cr_ms(t, CR_SPLIT_MS))
        goto anew; /* it claims to be from the future, or from a past that has been told already */
    if (delay > (double)cr_ms(t, CR_JUMP_MS) && difference > cr_ms(t, CR_JUMP_MS))
        goto anew;
    if (is_audio && t->step_open) {
        if (delay <= t->step_samples) {
            cr_step_refute(t);
            last = cr_last_segment(t);
        } else if (t->has_timestamps && delay < t->step_height - (double)cr_ms(t, CR_QUEUE_FALL_MS)) {
            cr_step_refute(t);
            last = cr_last_segment(t);
            t->queue_open = 1;
            t->step_arrival = arrival;
            t->step_delay = delay;
        } else if (delay < t->step_delay - (double)cr_ms(t, CR_STEP_FALL_MS)) {
            t->step_arrival = arrival;
            t->step_delay = delay;
            t->step_packets = 1;
        } else {
            t->step_delay = delay < t->step_delay ? delay : t->step_delay;
            t->step_packets++;
        }
    }
    if (is_audio && t->queue_open) {
        if (delay <= t->step_samples)
            t->queue_open = 0;
        else if (delay < t->step_delay - (double)cr_ms(t, CR_STEP_FALL_MS)) {
            t->step_arrival = arrival;
            t->step_delay = delay;
        } else if (arrival - t->step_arrival > cr_ms(t, CR_STEP_PROOF_MS))
            t->queue_open = 0; /* it does not drain any more: a step after all */
        if (t->queue_open && delay > t->late_samples)
            return -1;
    }
    end = last->end;
    if (number > end + cr_ms(t, CR_SPLIT_MS)) {
        /* Numbers for what may still come of the time between: all of it, unless nothing is missing. */
        int64_t between = number - last->end, most = contiguous ? cr_ms(t, CR_MARGIN_MS) : t->late_samples;
        int64_t free = t->store.low + t->store.capacity - cr_ms(t, CR_PACKET_MAX_MS) - last->end;
        most = most < free ? most : free;
        number = last->end + (between < most ? between : most);
        if (!cr_segment_add(t, number, nominal, timestamp, arrival))
            return -1;
        last = cr_last_segment(t);
        last->shift = t->expected_shift = cr_track_expected_shift(t, (double)arrival);
    } else if (contiguous && number > last->end) {
        cr_store_mark_silence(&t->store, last->end, (uint32_t)(number - last->end));
    }
    if (is_audio && !t->step_open && !t->queue_open && delay > t->step_samples && number >= last->end) {
        t->step_open = 1;
        t->step_first = t->step_late_end = number;
        t->step_opened = t->step_arrival = arrival;
        t->step_delay = t->step_height = delay;
        t->step_packets = 1;
        t->step_late = 0;
    }
    if (lost && number > end)
        cr_track_note_hole(t, end, number);
    t->timestamp = timestamp;
    t->timestamp_first = number;
    t->timestamp_nominal = nominal;
    if (t->step_open && t->step_packets >= CR_STEP_PACKETS &&
        arrival - t->step_arrival >= cr_ms(t, CR_STEP_PROOF_MS))
        cr_step_confirm(t);
    return number;

anew:
    if (!cr_epoch_start(t, timestamp, arrival, lead))
        return -1;
    return t->timestamp_first;
}

/* A packet that belongs at `position` finds its moment passed: it is late, unless it is in time and nobody listened. */
static inline void cr_track_count_late(cr_track *t, int64_t position, int64_t arrival)
{
    if (position >= t->skipped || arrival - position > (int64_t)t->late_samples)
        t->counts.late++;
}

/* Keep `count` samples that belong at `number`, unless their moment has passed. */
static inline void cr_track_keep(cr_track *t, int64_t number, const uint8_t *data, uint32_t count, unsigned kind,
                                 int64_t arrival)
{
    int in_step = t->step_open && number >= t->step_first;
    int64_t gone = t->store.low - number;
    cr_segment *s;
    if (arrival - cr_track_expected_position(t, number, arrival) > (int64_t)t->late_samples) {
        if (!in_step) {
            t->counts.late++;
            return;
        }
        /* late, unless the sender's clock turns out to have stood still */
        t->step_late++;
        if (t->step_late_end < number + count)
            t->step_late_end = number + count;
    }
    if (!in_step) {
        int64_t passed = t->position - cr_track_number_position(t, number);
        gone = passed > gone ? passed : gone;
    }
    if (gone > 0) {
        if (gone >= count) {
            cr_track_count_late(t, t->position - gone, arrival);
            return;
        }
        data += gone * t->store.sample_bytes;
        count -= (uint32_t)gone;
        number += gone;
    }
    s = cr_track_segment_of(t, number);
    for (uint32_t i = t->segment_count; i-- > 0;) {
        const cr_segment *behind = cr_segment_at(t, i);
        if (behind->first <= number)
            break;
        if (behind->first - number < (int64_t)count)
            count = (uint32_t)(behind->first - number); /* what it says of a later segment is known already */
    }
    if (!cr_store_write(&t->store, number, data, count, kind)) {
        t->counts.discarded++; /* there is no memory */
        return;
    }
    if (s && s->end < number + (int64_t)count)
        s->end = number + count;
}

/* Room for so many samples wherever they may land. */
static inline int cr_track_has_room_for(const cr_track *t, int64_t samples)
{
    int64_t end = cr_track_stream_end(t);
    int64_t need = cr_ms(t, CR_SPLIT_MS + CR_MARGIN_MS) + samples;
    return end + need <= t->store.low + t->store.capacity && t->segment_count + 2 <= t->segment_limit;
}

static inline int cr_track_has_room(const cr_track *t)
{
    return cr_track_has_room_for(t, cr_ms(t, CR_PACKET_MAX_MS)); /* the largest packet */
}

#endif
