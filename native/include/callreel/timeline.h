/* One track's true timeline: RTP packets (or host frames) in, gap-free PCM on the recorder's clock out.
 *
 * Two clocks, one map. Samples are kept by their number in the *stream* (sample_store.h); where they stand on the
 * *timeline* (sample n is the moment origin + n / rate) is decided by segments, and only when they are read, more than a
 * second later, when all that could still speak about them has arrived:
 *
 *   stream    |######|#########|     |#####|            numbers without the silence between
 *              \      \         \     \     \
 *   timeline    |######|.........#########|......|#####|
 *                                ^ a segment: its place by RTP timestamp, or by arrival when the stream starts anew
 *
 * Requirements (docs/architecture.md, "Rules of the timeline"), each a named test in tests/unit/test_legs.py:
 *   1. The first packet stands at its arrival, later ones by RTP timestamp.
 *   2. A packet up to `late` late lands in its place, also across a reordering; later ones are counted.
 *   3. Lost audio is concealed for up to 60 ms; a pause the sender made (no sequence number missing) is silence, and so
 *      is a loss that lasts longer than `late`: in time for the reader, nobody can tell the two apart.
 *   4. A new SSRC, a timestamp that jumps by more than 2 s against the clock, a sender that stopped its clock: the stream
 *      is anchored anew by arrival; nothing overlaps.
 *   5. Drift is measured (drift.h) and taken out by resampling, never by a jump.
 *   6. Telephone events sound where the stream has no audio of its own.
 *   7. The result does not depend on how packets are batched or when it is read.
 *   8. Memory is fixed at creation.
 */
#ifndef CALLREEL_TIMELINE_H
#define CALLREEL_TIMELINE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "callreel/bytes.h"
#include "callreel/conceal.h"
#include "callreel/drift.h"
#include "callreel/g711.h"
#include "callreel/rtp_packet.h"
#include "callreel/sample_store.h"
#include "callreel/sequence.h"
#include "callreel/tone.h"

enum cr_codec {
    CR_CODEC_UNKNOWN, /* counted, not recorded */
    CR_CODEC_PCMU,
    CR_CODEC_PCMA,
    CR_CODEC_COMFORT_NOISE,   /* RFC 3389 */
    CR_CODEC_TELEPHONE_EVENT, /* RFC 4733 */
};

/* Durations in milliseconds; a track turns them into samples of its own rate. */
#define CR_LOOKAHEAD_MS 100     /* concealment looks this far past what is read */
#define CR_STEP_MS 200          /* a lasting change of delay beyond this is a stopped or jumping clock, not a queue */
#define CR_STEP_PROOF_MS 300    /* how long it must last */
#define CR_STEP_TIMEOUT_MS 400  /* when no further packet comes to tell */
#define CR_STEP_PACKETS 3
#define CR_STEP_FALL_MS 40      /* a delay that has fallen by this much may be a queue that drains: the proof begins */
#define CR_QUEUE_FALL_MS 150    /* again, and from here on it is one */
#define CR_HOST_STEP_MS 60      /* host frames have no timestamps of their own: a shorter pause is the host's jitter */
#define CR_JUMP_MS 2000         /* beyond this a timestamp is not believed */
#define CR_SPLIT_MS CR_LOOKAHEAD_MS /* a longer gap begins a new segment: what a segment holds is known when it is read */
#define CR_MARGIN_MS 100        /* numbers left free before a segment, where the timeline has room, for stragglers */
#define CR_SEGMENT_MS 60        /* room for one segment in as much of the store */
#define CR_PACKET_MAX_MS 250    /* more audio in one packet is no packet */
#define CR_PACKET_MIN_MS 5      /* so many sequence numbers, so much time at least */
#define CR_SOURCE_IDLE_MS 200   /* an earlier source may come back once the present one has been quiet this long */
#define CR_EVENT_IDLE_MS 200    /* an event whose end packets were lost ends by itself */
#define CR_EVENT_RAMP_MS 5      /* a rendered tone begins and ends without a click */
#define CR_TWO_EQUAL_DB 3.0103  /* one of two equal components against both */
#define CR_STRAGGLER_MS 60000   /* a sequence number from further back is a restart */
#define CR_RESTART_PACKETS 3    /* stale packets in order, and nothing else for CR_RESTART_MS: the sender began again */
#define CR_RESTART_MS 40
#define CR_EVENT_SEGMENT 0xFFFFu /* samples: a longer event goes on in a new one, RFC 4733 section 2.5.1.3 */
#define CR_CONTROL_MS 20        /* how often the resampler is steered */
#define CR_SETTLED_MS 2         /* misplacement that is left alone: the samples stay as they were sent */
#define CR_SLEW_MAX 0.002       /* 2,000 ppm = 3.5 cents: below what a listener notices */
#define CR_SLEW_TIME_S 8.0      /* an error is worked off in about this time */

#define CR_EVENTS 32
#define CR_DIGITS 24
#define CR_GAPS 64
#define CR_HOLES 16
#define CR_MISSING_FOR_GOOD (1u << 30) /* packets: more than will ever be found */
#define CR_SSRCS 16
#define CR_HISTORY 320          /* samples of the stream's output kept for concealment and resampling */
#define CR_RESAMPLE_TAPS 16
#define CR_RESAMPLE_PHASES 128

enum cr_receive_result { CR_RECEIVED, CR_STORE_FULL };

typedef struct {
    int64_t first;    /* stream number of the first sample */
    int64_t end;      /* one past the last */
    int64_t nominal;  /* timeline position of `first` by timestamps alone */
    double shift;     /* samples added to it: the clock correction with which the segment began */
    uint32_t timestamp; /* RTP timestamp of `first` */
    uint32_t continuum; /* segments of one continuum share one run of RTP timestamps */
    uint32_t epoch;   /* and those of one epoch one clock correction */
    int64_t arrival;  /* of the packet that began it, samples */
    uint8_t lost_before;
    uint8_t entered;  /* reading has begun: `shift` is final */
} cr_segment;

typedef struct {
    int64_t first; /* stream number of its start */
    int64_t position; /* timeline position of its start */
    int64_t last_arrival; /* samples */
    int64_t marked;    /* stream number up to which it holds the stream's place */
    uint32_t timestamp; /* of its present part, when it is longer than CR_EVENT_SEGMENT */
    uint32_t before;   /* samples in the parts before that */
    uint32_t duration; /* samples, all parts */
    uint8_t code;
    uint8_t volume; /* -dBm0 */
    uint8_t ended;
} cr_event;

typedef struct {
    int64_t position; /* timeline samples */
    uint32_t duration; /* samples */
    uint8_t code;     /* RFC 4733 event, 0..15 */
} cr_event_digit;

typedef struct {
    int64_t position; /* timeline samples */
    int64_t samples;
} cr_gap;

/* A hole that looks like a loss, until the packets whose numbers are missing have come and have not filled it. */
typedef struct {
    int64_t from, to;              /* stream numbers */
    int64_t first_missing, behind; /* extended sequence numbers: of the first one missing, of the packet at `to` */
    uint32_t missing;              /* packets */
} cr_hole;

typedef struct {
    uint64_t received, duplicate, late, malformed, reordered, undecoded, discarded;
    uint64_t concealed_samples, silence_samples, sender_reports;
} cr_track_counts;

typedef struct {
    uint32_t sample_rate;
    uint32_t samples_per_ms;
    uint32_t late_samples;
    uint32_t step_samples; /* CR_STEP_MS or CR_HOST_STEP_MS */
    int64_t origin_ns;
    uint8_t codec[128]; /* enum cr_codec by payload type */
    uint64_t payload_types_seen[2]; /* a bit each */
    uint8_t render_events;
    uint8_t finished;

    /* the source */
    uint8_t have_source, have_epoch;
    uint32_t ssrc;
    uint32_t ssrcs[CR_SSRCS];
    uint32_t ssrc_count;
    int64_t last_arrival; /* samples */
    cr_sequence sequence;
    int64_t lost_before_source; /* of earlier sources */
    int64_t restart_arrival;    /* of the first in a run of stale packets, samples */
    uint32_t restart_packets;
    uint16_t restart_next;      /* the sequence number that would go on with it */

    /* the timestamp continuum */
    uint32_t continuum, epoch;
    uint32_t timestamp;      /* of the packet furthest ahead */
    int64_t timestamp_first; /* its stream number */
    int64_t timestamp_nominal; /* its timeline position by timestamps alone */
    uint32_t lead;           /* samples in the packet that anchored the epoch */
    uint8_t lost_pending;    /* numbers went missing since the last audio: */
    int64_t first_missing;   /* from this extended sequence number on, */
    uint32_t missing;        /* so many */
    cr_hole holes[CR_HOLES];
    uint32_t hole_count;     /* ever; the ring holds the last of them */
    cr_drift drift;
    double expected_shift; /* of the present epoch's newest segment, before anything of it has been read, samples */

    /* a delay that rose by more than CR_STEP_MS and has not come down again */
    uint8_t step_open;
    int64_t step_first;   /* stream number where it rose */
    int64_t step_opened;  /* arrival of the packet there, samples */
    int64_t step_arrival; /* the same, or where the proof began again */
    int64_t step_late_end; /* stream number behind the last packet that came later than `late_samples` */
    double step_delay;    /* the lowest since, samples */
    double step_height;   /* the first one */
    uint32_t step_packets, step_late;
    uint8_t queue_open;   /* it was a queue, which drains: `step_delay` and `step_arrival` say when it last fell */

    /* what is there */
    cr_sample_store store;
    cr_segment *segments;
    uint32_t segment_capacity, segment_head, segment_count;

    /* reading */
    int64_t position;      /* next timeline sample to read */
    int64_t skipped;       /* up to here nobody wanted it */
    int64_t fill_next;     /* next stream number to decode */
    int64_t heard;         /* next stream number for detectors */
    double slew;           /* samples by which resampling had moved the present segment at the last control */
    double slew_rate;      /* samples a sample since then */
    uint8_t resampling;
    uint8_t after_audio;   /* the last sample decoded was received audio */
    uint8_t gap_open;
    uint8_t tail_lost;     /* what follows the present segment was lost, not left out */
    uint8_t have_left;
    int64_t left_end;      /* timeline position where the segment before this one ended */
    double worst_error;    /* samples, while a drift line was known */
    uint8_t error_known;
    cr_conceal conceal;
    int16_t history[CR_HISTORY]; /* the last samples decoded */

    cr_event events[CR_EVENTS];
    uint32_t event_count;
    cr_event_digit digits[CR_DIGITS];
    uint32_t digit_head, digit_count;
    cr_gap gaps[CR_GAPS];
    uint32_t gap_count;

    cr_track_counts counts;
} cr_track;

/* ---- small things ---------------------------------------------------------------------------------------------- */

static inline int64_t cr_ms(const cr_track *t, int64_t ms)
{
    return ms * t->samples_per_ms;
}

/* Any two times, however far apart: at most 2^64 ns, which are 2^50 samples at 48 kHz. */
static inline int64_t cr_track_position_of(const cr_track *t, int64_t time_ns)
{
    double elapsed_ns = time_ns >= t->origin_ns ? (double)((uint64_t)time_ns - (uint64_t)t->origin_ns)
                                                : -(double)((uint64_t)t->origin_ns - (uint64_t)time_ns);
    return (int64_t)floor(elapsed_ns * t->sample_rate / 1e9 + 0.5);
}

static inline cr_segment *cr_segment_at(const cr_track *t, uint32_t index)
{
    return &t->segments[(t->segment_head + index) % t->segment_capacity];
}

static inline cr_segment *cr_last_segment(const cr_track *t)
{
    return t->segment_count ? cr_segment_at(t, t->segment_count - 1) : NULL;
}

static inline int64_t cr_segment_position(const cr_segment *s)
{
    return s->nominal + (int64_t)floor(s->shift + 0.5);
}

static inline int64_t cr_segment_end_position(const cr_segment *s)
{
    return cr_segment_position(s) + (s->end - s->first);
}

/* The clock correction of the present epoch known at timeline position `at`, in samples; 0 while a call is short. */
static inline double cr_track_correction(const cr_track *t, double at)
{
    const cr_drift_line *line = cr_drift_line_at(&t->drift, t->epoch, at);
    return line ? cr_drift_delay(line, at) - line->anchor_error : 0;
}

/* The shift to expect at timeline position `at`: a new one only where the one before is no longer good enough. */
static inline double cr_track_expected_shift(const cr_track *t, double at)
{
    double wanted = cr_track_correction(t, at);
    return fabs(wanted - t->expected_shift) > (double)cr_ms(t, CR_SETTLED_MS) ? wanted : t->expected_shift;
}

/* The lowest stream number a new segment may use. */
static inline int64_t cr_track_stream_end(const cr_track *t)
{
    cr_segment *last = cr_last_segment(t);
    return last ? last->end : t->store.low;
}

/* Samples from the last moment of control to timeline position `at`. */
static inline uint32_t cr_since_control(const cr_track *t, int64_t at)
{
    int64_t interval = cr_ms(t, CR_CONTROL_MS);
    return (uint32_t)((at % interval + interval) % interval);
}

/* By how much resampling has moved what is being read, in samples. */
static inline double cr_track_slew(const cr_track *t)
{
    return t->slew + cr_since_control(t, t->position) * t->slew_rate;
}

/* The segment that stream number `number` lies in or follows. */
static inline cr_segment *cr_track_segment_of(const cr_track *t, int64_t number)
{
    cr_segment *s = NULL;
    for (uint32_t i = t->segment_count; i-- > 0;) {
        s = cr_segment_at(t, i);
        if (s->first <= number)
            break;
    }
    return s;
}

/* Timeline position of a stream number as it stands, or stood, when it is read. */
static inline int64_t cr_track_number_position(const cr_track *t, int64_t number)
{
    const cr_segment *s = cr_track_segment_of(t, number);
    if (!s)
        return t->position;
    return cr_segment_position(s) + (number - s->first) + (s->entered ? (int64_t)floor(cr_track_slew(t) + 0.5) : 0);
}

/* The same by what is known of the sender's clock at `arrival`: it does not depend on what has been read. */
static inline int64_t cr_track_expected_position(const cr_track *t, int64_t number, int64_t arrival)
{
    const cr_segment *s = cr_track_segment_of(t, number);
    double shift;
    if (!s)
        return t->position;
    shift = s->epoch == t->epoch ? cr_track_expected_shift(t, (double)arrival) : s->shift;
    return s->nominal + (number - s->first) + (int64_t)floor(shift + 0.5);
}

/* ---- creation -------------------------------------------------------------------------------------------------- */

/* Segments that a store of `capacity` samples can hold. */
static inline size_t cr_track_segments_for(uint32_t sample_rate, uint32_t capacity)
{
    return capacity / (CR_SEGMENT_MS * sample_rate / 1000) + 4;
}

static inline void cr_track_init(cr_track *t, uint32_t sample_rate, int64_t origin_ns, uint32_t late_ms,
                                 uint32_t capacity, uint32_t sample_bytes, uint8_t *samples, uint8_t *kinds,
                                 cr_segment *segments, uint32_t segment_capacity)
{
    memset(t, 0, sizeof *t);
    t->sample_rate = sample_rate;
    t->samples_per_ms = sample_rate / 1000;
    t->late_samples = late_ms * t->samples_per_ms;
    t->step_samples = (sample_bytes == 1 ? CR_STEP_MS : CR_HOST_STEP_MS) * t->samples_per_ms;
    t->origin_ns = origin_ns;
    t->render_events = 1;
    t->store.capacity = capacity;
    t->store.sample_bytes = sample_bytes;
    t->store.samples = samples;
    t->store.kinds = kinds;
    memset(kinds, 0, capacity / 4);
    t->segments = segments;
    t->segment_capacity = segment_capacity;
}

/* ---- telephone events (RFC 4733) --------------------------------------------------------------------------------
 *
 *    0                   1                   2                   3
 *    0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 *   |     event     |E|R| volume    |          duration             |
 *
 * One event = one RTP timestamp, however many packets repeat it and whatever their marker bits say. It ends with its
 * E bit, with the next event, or by itself CR_EVENT_IDLE_MS after its last packet. */

static inline void cr_event_end(cr_track *t, cr_event *e)
{
    cr_event_digit *digit;
    if (e->ended)
        return;
    e->ended = 1;
    if (e->code > 15)
        return; /* hook flash, modem and trunk signals: no digit, no tone */
    if (t->digit_count == CR_DIGITS) {
        t->digit_head = (t->digit_head + 1) % CR_DIGITS;
        t->digit_count--;
    }
    digit = &t->digits[(t->digit_head + t->digit_count++) % CR_DIGITS];
    digit->position = e->position;
    digit->duration = e->duration;
    digit->code = e->code;
}

static inline void cr_events_expire(cr_track *t, int64_t arrival)
{
    for (uint32_t i = 0; i < t->event_count; i++)
        if (!t->events[i].ended && arrival - t->events[i].last_arrival > cr_ms(t, CR_EVENT_IDLE_MS))
            cr_event_end(t, &t->events[i]);
}

static inline cr_event *cr_event_find(cr_track *t, uint32_t timestamp, uint8_t code)
{
    for (uint32_t i = 0; i < t->event_count; i++) {
        cr_event *e = &t->events[i];
        if (e->code == code && e->timestamp == timestamp)
            return e;
    }
    return NULL;
}

static inline cr_event *cr_event_begin(cr_track *t)
{
    for (uint32_t i = 0; i < t->event_count; i++)
        cr_event_end(t, &t->events[i]);
    if (t->event_count == CR_EVENTS) {
        memmove(&t->events[0], &t->events[1], (CR_EVENTS - 1) * sizeof t->events[0]);
        t->event_count--;
    }
    return &t->events[t->event_count++];
}

/* ---- placing ---------------------------------------------------------------------------------------------------- */

static inline cr_segment *cr_segment_add(cr_track *t, int64_t first, int64_t nominal, uint32_t timestamp,
                                         int64_t arrival)
{
    cr_segment *s;
    if (t->segment_count == t->segment_capacity)
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
    if (at == 0 || cr_segment_at(t, at - 1)->end <= first || t->segment_count == t->segment_capacity)
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
    t->continuum++;
    t->epoch++;
    t->have_epoch = 1;
    t->step_open = t->queue_open = 0;
    t->lead = lead;
    cr_drift_start(&t->drift, t->epoch);
    t->expected_shift = 0;
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
    int64_t moved = (int64_t)floor(t->step_delay + cr_track_correction(t, (double)t->step_arrival) + 0.5);
    uint32_t at = cr_segment_cut(t, t->step_first, t->step_first);
    t->step_open = 0;
    t->epoch++;
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
    cr_drift_start(&t->drift, t->epoch);
    t->expected_shift = 0;
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
    cr_store_set_kinds(&t->store, from, (uint32_t)(to - from), CR_KIND_NONE);
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

/* No packet has come to tell: take the step for real once it is old enough. */
static inline void cr_step_expire(cr_track *t, int64_t arrival)
{
    if (t->step_open && arrival - t->step_arrival > cr_ms(t, CR_STEP_TIMEOUT_MS))
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
    hole->to = number;
    hole->first_missing = t->first_missing;
    hole->behind = t->sequence.highest;
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
    delay = (double)(arrival - nominal) - ((double)lead - t->lead);
    if (is_audio)
        cr_drift_observe(&t->drift, (double)arrival, delay, t->sample_rate);
    delay -= cr_track_correction(t, (double)arrival);

    if (delay < -(double)cr_ms(t, CR_STEP_MS) || difference < -cr_ms(t, CR_SPLIT_MS))
        goto anew; /* it claims to be from the future, or from a past that has been told already */
    if (delay > (double)cr_ms(t, CR_JUMP_MS) && difference > cr_ms(t, CR_JUMP_MS))
        goto anew;
    if (is_audio && t->step_open) {
        if (delay <= t->step_samples) {
            cr_step_refute(t);
            last = cr_last_segment(t);
        } else if (delay < t->step_height - (double)cr_ms(t, CR_QUEUE_FALL_MS)) {
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
    cr_store_write(&t->store, number, data, count, kind);
    if (s && s->end < number + (int64_t)count)
        s->end = number + count;
}

/* Room for the largest packet wherever it may land. */
static inline int cr_track_has_room(const cr_track *t)
{
    int64_t end = cr_track_stream_end(t);
    int64_t need = cr_ms(t, CR_SPLIT_MS + CR_MARGIN_MS + CR_PACKET_MAX_MS);
    return end + need <= t->store.low + t->store.capacity && t->segment_count + 2 <= t->segment_capacity;
}

/* ---- receiving -------------------------------------------------------------------------------------------------- */

static inline void cr_track_event_packet(cr_track *t, uint32_t timestamp, const uint8_t *payload, uint32_t size_bytes,
                                         int ahead, int contiguous, int64_t arrival)
{
    for (; size_bytes >= 4; payload += 4, size_bytes -= 4) {
        uint8_t code = payload[0], ends = payload[1] >> 7, volume = payload[1] & 63;
        uint32_t duration = cr_load_u16be(payload + 2);
        cr_event *e = cr_event_find(t, timestamp, code);
        cr_event *previous = t->event_count ? &t->events[t->event_count - 1] : NULL;
        int64_t number, from, room;
        if (!e && previous && (int32_t)(timestamp - previous->timestamp) < 0)
            return; /* a straggler of an event that was over before the present one began */
        if (!e && previous && !previous->ended && previous->code == code &&
            timestamp - previous->timestamp == CR_EVENT_SEGMENT) {
            e = previous; /* its next part */
            e->before += CR_EVENT_SEGMENT;
            e->timestamp = timestamp;
        }
        if (!e) {
            if (!cr_track_has_room(t))
                return;
            number = ahead ? cr_place_ahead(t, timestamp, duration, contiguous, arrival, 0)
                           : cr_place_straggler(t, timestamp, arrival);
            if (number < 0)
                return;
            e = cr_event_begin(t);
            memset(e, 0, sizeof *e);
            e->first = e->marked = number;
            e->position = cr_track_expected_position(t, number, arrival);
            e->timestamp = timestamp;
            e->code = code;
            e->volume = volume;
        }
        if (!e->ended) {
            e->last_arrival = arrival;
            if (e->before + duration > e->duration)
                e->duration = e->before + duration;
        }
        /* The event holds the stream's place: no concealment, no new segment while it lasts. */
        room = t->store.low + t->store.capacity - cr_ms(t, CR_SPLIT_MS + CR_MARGIN_MS + CR_PACKET_MAX_MS);
        from = e->marked > t->store.low ? e->marked : t->store.low;
        number = e->first + e->duration;
        number = number < room ? number : room;
        for (uint32_t i = t->segment_count; i-- > 0;) {
            cr_segment *s = cr_segment_at(t, i);
            if (s->first > e->first)
                continue;
            if (i + 1 < t->segment_count && number > cr_segment_at(t, i + 1)->first)
                number = cr_segment_at(t, i + 1)->first;
            if (number > from) {
                cr_store_mark_silence(&t->store, from, (uint32_t)(number - from));
                e->marked = number;
            }
            if (s->end < number)
                s->end = number;
            break;
        }
        if (ends)
            cr_event_end(t, e);
        timestamp += duration; /* events packed into one packet follow each other, RFC 4733 section 2.5.1.5 */
    }
}

/* Beyond CR_SSRCS every source counts as known: it has to wait until the present one is quiet. */
static inline int cr_track_knows_source(const cr_track *t, uint32_t ssrc)
{
    for (uint32_t i = 0; i < t->ssrc_count; i++)
        if (t->ssrcs[i] == ssrc)
            return 1;
    return t->ssrc_count == CR_SSRCS;
}

/* A packet with an old sequence number: 1 if it and those before it show that the sender began again. What is merely
 * late or doubled comes beside packets that are ahead, and near its time. */
static inline int cr_track_restarted(cr_track *t, const cr_rtp_packet *packet, int64_t arrival)
{
    double delay = (double)arrival - (double)t->timestamp_nominal - (int32_t)(packet->timestamp - t->timestamp);
    if (!t->have_epoch || fabs(delay - cr_track_correction(t, (double)arrival)) <= t->late_samples)
        return 0;
    if (t->restart_packets && (uint16_t)(packet->sequence + 1) == t->restart_next)
        return 0; /* the same once more */
    if (!t->restart_packets || packet->sequence != t->restart_next) {
        t->restart_packets = 0;
        t->restart_arrival = arrival;
    }
    t->restart_packets++;
    t->restart_next = (uint16_t)(packet->sequence + 1);
    return t->restart_packets >= CR_RESTART_PACKETS && arrival - t->restart_arrival >= cr_ms(t, CR_RESTART_MS);
}

/* The present source begins again with `packet`. */
static inline void cr_track_restart(cr_track *t, const cr_rtp_packet *packet)
{
    t->lost_before_source += cr_sequence_lost(&t->sequence);
    cr_sequence_start(&t->sequence, packet->sequence);
    t->have_epoch = 0;
    t->hole_count = 0;
}

/* A packet out of order has come: if it was the last one missing, what is still empty is a pause the sender made. */
static inline void cr_track_found(cr_track *t, int64_t sequence, int64_t arrival)
{
    uint32_t kept = t->hole_count < CR_HOLES ? t->hole_count : CR_HOLES;
    if (t->lost_pending && sequence >= t->first_missing) {
        t->missing -= t->missing > 0;
        t->lost_pending = t->missing > 0;
    }
    for (uint32_t i = 0; i < kept; i++) {
        cr_hole *hole = &t->holes[i];
        int64_t end, decided, from = hole->from > t->store.low ? hole->from : t->store.low;
        cr_segment *s;
        if (sequence < hole->first_missing || sequence >= hole->behind || hole->missing == 0 || --hole->missing)
            continue;
        s = cr_track_segment_of(t, hole->to);
        if (!s || hole->to > s->end || from >= hole->to)
            continue;
        /* Too late if the reader has had to decide: where the hole begins, or, if it knew of none then, where it ends. */
        end = cr_track_expected_position(t, hole->from, arrival);
        decided = end;
        if (s->first >= hole->from && s->arrival - end > (int64_t)t->late_samples)
            decided = cr_track_expected_position(t, s->first, arrival);
        if (arrival - decided > (int64_t)t->late_samples)
            continue;
        if (s->first >= hole->from)
            s->lost_before = 0;
        cr_store_mark_silence(&t->store, from, (uint32_t)(hole->to - from));
    }
}

static inline void cr_track_switch_source(cr_track *t, const cr_rtp_packet *packet)
{
    uint32_t i = 0;
    cr_track_restart(t, packet);
    t->ssrc = packet->ssrc;
    t->have_source = 1;
    while (i < t->ssrc_count && t->ssrcs[i] != packet->ssrc)
        i++;
    if (i == t->ssrc_count && t->ssrc_count < CR_SSRCS)
        t->ssrcs[t->ssrc_count++] = packet->ssrc;
}

/* One datagram that arrived at `arrival_ns`. CR_STORE_FULL: nothing was taken, read first; with `force` a packet that
 * does not fit is counted as discarded instead. */
static inline enum cr_receive_result cr_track_receive(cr_track *t, const uint8_t *data, size_t size_bytes,
                                                      int64_t arrival_ns, int force)
{
    cr_rtp_packet packet;
    int64_t arrival = cr_track_position_of(t, arrival_ns), number;
    enum cr_datagram_kind datagram = cr_datagram_classify(data, size_bytes);
    unsigned codec;
    int ahead = 0, contiguous = 0;
    int64_t found = -1;
    uint32_t samples;

    if (datagram == CR_DATAGRAM_FOREIGN)
        return CR_RECEIVED; /* STUN, DTLS, a keep-alive: not ours to judge */
    if (datagram == CR_DATAGRAM_RTCP) {
        cr_sender_report report;
        int found = cr_rtcp_sender_report(data, size_bytes, &report);
        if (found > 0)
            t->counts.sender_reports++;
        if (found > 0 && t->have_epoch && report.ssrc == t->ssrc)
            cr_drift_report(&t->drift, (double)report.ntp / 4294967296.0,
                            (double)t->timestamp_nominal + (int32_t)(report.timestamp - t->timestamp));
        return CR_RECEIVED;
    }
    if (cr_rtp_parse(data, size_bytes, &packet) != CR_RTP_OK) {
        t->counts.malformed++;
        return CR_RECEIVED;
    }
    if (!cr_track_has_room(t)) {
        if (!force)
            return CR_STORE_FULL;
        t->counts.received++;
        t->counts.discarded++;
        return CR_RECEIVED;
    }
    t->counts.received++;
    cr_step_expire(t, arrival);
    cr_events_expire(t, arrival);
    codec = t->codec[packet.payload_type];
    t->payload_types_seen[packet.payload_type / 64] |= (uint64_t)1 << packet.payload_type % 64;

    if (!t->have_source) {
        cr_track_switch_source(t, &packet);
        ahead = contiguous = 1;
    } else if (packet.ssrc != t->ssrc) {
        if (codec == CR_CODEC_UNKNOWN && t->have_epoch) {
            t->counts.undecoded++; /* something beside the audio */
            return CR_RECEIVED;
        }
        if (cr_track_knows_source(t, packet.ssrc) && arrival - t->last_arrival <= cr_ms(t, CR_SOURCE_IDLE_MS)) {
            t->counts.discarded++; /* two sources at once: the newer one is the track */
            return CR_RECEIVED;
        }
        cr_track_switch_source(t, &packet);
        ahead = contiguous = 1;
    } else {
        enum cr_sequence_verdict verdict = cr_sequence_receive(&t->sequence, packet.sequence);
        int step = (int16_t)(uint16_t)(packet.sequence - (uint16_t)t->sequence.highest), behind = step <= 0;
        int64_t difference = (int32_t)(packet.timestamp - t->timestamp);
        if (verdict == CR_SEQUENCE_NEW) {
            ahead = 1;
            contiguous = t->sequence.step == 1;
        } else if (behind && cr_track_restarted(t, &packet, arrival)) {
            cr_track_restart(t, &packet);
            ahead = contiguous = 1;
        } else if (verdict == CR_SEQUENCE_REORDERED) {
            t->counts.reordered++;
            found = t->sequence.highest + step;
        } else if (verdict == CR_SEQUENCE_DUPLICATE) {
            t->counts.duplicate++;
            return CR_RECEIVED;
        } else if (behind && difference <= cr_ms(t, CR_PACKET_MIN_MS) * step &&
                   difference > -cr_ms(t, CR_STRAGGLER_MS)) {
            t->counts.late++;
            if (cr_sequence_lost(&t->sequence) > 0)
                t->sequence.unique++;
            return CR_RECEIVED;
        } else {
            int64_t elapsed = arrival - t->timestamp_nominal;
            ahead = 1;
            if (!behind && t->have_epoch && difference >= cr_ms(t, CR_PACKET_MIN_MS) * step &&
                llabs(difference - elapsed) < cr_ms(t, CR_JUMP_MS)) {
                /* a long outage: both clocks agree that time has passed */
                cr_sequence_advance(&t->sequence, t->sequence.highest + step);
            } else {
                cr_track_restart(t, &packet);
                contiguous = 1; /* nothing says that anything is missing */
            }
        }
    }
    if (ahead) {
        t->last_arrival = arrival;
        t->restart_packets = 0;
        if (!contiguous) {
            if (!t->lost_pending) {
                t->first_missing = t->sequence.highest - t->sequence.step + 1;
                t->missing = 0;
            }
            t->missing += t->sequence.step - 1;
            t->lost_pending = 1;
        }
    }
    samples = packet.payload_bytes;
    data += packet.payload_offset;

    switch (codec) {
    case CR_CODEC_PCMU:
    case CR_CODEC_PCMA:
        if (samples == 0)
            return CR_RECEIVED; /* a keep-alive (RFC 6263) */
        if (samples > cr_ms(t, CR_PACKET_MAX_MS)) {
            t->counts.malformed++;
            return CR_RECEIVED;
        }
        number = ahead ? cr_place_ahead(t, packet.timestamp, samples, contiguous && !t->lost_pending, arrival, 1)
                       : cr_place_straggler(t, packet.timestamp, arrival);
        if (number < 0)
            cr_track_count_late(t, t->timestamp_nominal + (int32_t)(packet.timestamp - t->timestamp) +
                                       (int64_t)cr_track_correction(t, (double)arrival),
                                arrival);
        else
            cr_track_keep(t, number, data, samples, codec == CR_CODEC_PCMU ? CR_KIND_ULAW : CR_KIND_ALAW, arrival);
        if (ahead) {
            t->lost_pending = number < 0;
            if (number < 0)
                t->missing = CR_MISSING_FOR_GOOD;
        }
        break;
    case CR_CODEC_TELEPHONE_EVENT:
        if (samples < 4)
            t->counts.malformed++;
        else
            cr_track_event_packet(t, packet.timestamp, data, samples, ahead, contiguous, arrival);
        break;
    case CR_CODEC_COMFORT_NOISE:
        if (ahead) {
            /* The pause begins here; it ends where audio goes on. */
            number = cr_place_ahead(t, packet.timestamp, t->lead, contiguous, arrival, 0);
            if (number >= 0) {
                cr_segment *last = cr_last_segment(t);
                uint32_t pause = (uint32_t)cr_ms(t, 20);
                cr_store_mark_silence(&t->store, number, pause);
                if (last->end < number + pause)
                    last->end = number + pause;
            }
        }
        break;
    default:
        t->counts.undecoded++;
        break;
    }
    if (found >= 0)
        cr_track_found(t, found, arrival);
    return CR_RECEIVED;
}

/* `samples` of 16-bit PCM from the host, the first of them `offset` samples after `arrival_ns`; at most
 * CR_PACKET_MAX_MS at a time. CR_STORE_FULL: they were discarded, and counted so. */
static inline enum cr_receive_result cr_track_push(cr_track *t, const uint8_t *pcm, uint32_t samples,
                                                   int64_t arrival_ns, int64_t offset)
{
    int64_t arrival = cr_track_position_of(t, arrival_ns) + offset, number;
    uint32_t timestamp = t->timestamp + t->lead; /* host frames follow each other; `lead` holds the last one's length */
    t->counts.received++;
    if (!cr_track_has_room(t)) {
        t->counts.discarded++;
        return CR_STORE_FULL;
    }
    cr_step_expire(t, arrival);
    /* A frame's delay is measured at its start: equal leads cancel out in cr_place_ahead. */
    number = cr_place_ahead(t, timestamp, t->lead, 1, arrival, 1);
    if (number >= 0)
        cr_track_keep(t, number, pcm, samples, CR_KIND_PCM, arrival);
    t->lead = samples;
    return CR_RECEIVED;
}

/* No more packets will come. */
static inline void cr_track_finish(cr_track *t)
{
    t->finished = 1;
    if (t->step_open)
        cr_step_confirm(t);
    for (uint32_t i = 0; i < t->event_count; i++)
        cr_event_end(t, &t->events[i]);
}

/* Up to where the timeline is final at time `now_ns`. */
static inline int64_t cr_track_ready(cr_track *t, int64_t now_ns)
{
    int64_t now = cr_track_position_of(t, now_ns);
    int64_t ready = now - t->late_samples - cr_ms(t, CR_LOOKAHEAD_MS);
    cr_step_expire(t, now);
    cr_events_expire(t, now);
    if (t->step_open) {
        int64_t held = cr_track_number_position(t, t->step_first);
        if (held < ready)
            ready = held;
    }
    return ready;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static inline void cr_history_push(cr_track *t, const int16_t *pcm, uint32_t count)
{
    if (count >= CR_HISTORY) {
        memcpy(t->history, pcm + count - CR_HISTORY, sizeof t->history);
    } else {
        memmove(t->history, t->history + count, (CR_HISTORY - count) * sizeof *pcm);
        memcpy(t->history + CR_HISTORY - count, pcm, count * sizeof *pcm);
    }
}

static inline void cr_decode_run(int16_t *pcm, const uint8_t *samples, uint32_t count, unsigned kind,
                                 uint32_t sample_bytes)
{
    if (sample_bytes == 2)
        memcpy(pcm, samples, (size_t)count * 2);
    else if (kind == CR_KIND_ULAW)
        cr_ulaw_decode_scalar((uint8_t *)pcm, samples, count);
    else
        cr_alaw_decode_scalar((uint8_t *)pcm, samples, count);
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

/* A gap begins at `number` of segment `s`: look how long it is and what is behind it. */
static inline void cr_gap_open(cr_track *t, const cr_segment *s, int64_t number)
{
    int16_t after[CR_CONCEAL_HISTORY];
    uint32_t length = 0, limit = CR_CONCEAL_MAX;
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
    if (length < CR_CONCEAL_MAX && number + length + CR_CONCEAL_HISTORY <= s->end)
        known = cr_peek_audio(t, number + length, after, CR_CONCEAL_HISTORY);
    if (!known && number + length >= s->end)
        length = CR_CONCEAL_MAX; /* the gap runs out of the segment */
    cr_conceal_start(&t->conceal, length, t->history + CR_HISTORY - CR_CONCEAL_HISTORY, known ? after : NULL);
    t->gap_open = 1;
}

/* Note that the timeline holds no received audio for `samples` from `position` on, because it was lost. */
static inline void cr_gap_note(cr_track *t, int64_t position, int64_t samples)
{
    cr_gap *last = t->gap_count ? &t->gaps[t->gap_count - 1] : NULL;
    if (last && llabs(last->position + last->samples - position) <= cr_ms(t, CR_SETTLED_MS)) {
        last->samples = position + samples - last->position;
    } else if (samples > 0 && t->gap_count < CR_GAPS) {
        t->gaps[t->gap_count].position = position;
        t->gaps[t->gap_count++].samples = samples;
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

/* Decode the next `count` stream samples of segment `s`, gaps filled. */
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
            if (!t->gap_open && t->after_audio && !ended && t->store.sample_bytes == 1 &&
                t->sample_rate == CR_CONCEAL_RATE)
                cr_gap_open(t, s, t->fill_next);
            if (t->fill_next < s->end)
                cr_gap_note(t, cr_track_number_position(t, t->fill_next), run);
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
        cr_history_push(t, pcm, run);
        t->fill_next += run;
        pcm += run;
        count -= run;
    }
}

/* Windowed-sinc interpolation between stream samples, 128 phases, linear between them. */
typedef struct {
    float taps[CR_RESAMPLE_PHASES + 1][CR_RESAMPLE_TAPS];
} cr_resample_table;

static cr_resample_table cr_resample;

static inline double cr_bessel_i0(double x)
{
    double sum = 1, term = 1;
    for (int k = 1; k < 40; k++) {
        term *= (x / 2 / k) * (x / 2 / k);
        sum += term;
    }
    return sum;
}

/* Called once when the module is imported. */
static inline void cr_resample_init(void)
{
    const double pi = 3.14159265358979323846, beta = 7.0, half = CR_RESAMPLE_TAPS / 2.0;
    for (int phase = 0; phase <= CR_RESAMPLE_PHASES; phase++) {
        double fraction = (double)phase / CR_RESAMPLE_PHASES, sum = 0, taps[CR_RESAMPLE_TAPS];
        for (int i = 0; i < CR_RESAMPLE_TAPS; i++) {
            double x = i - (half - 1) - fraction, r = x / half;
            double sinc = fabs(x) < 1e-12 ? 1 : sin(pi * x) / (pi * x);
            taps[i] = fabs(r) >= 1 ? 0 : sinc * cr_bessel_i0(beta * sqrt(1 - r * r)) / cr_bessel_i0(beta);
            sum += taps[i];
        }
        for (int i = 0; i < CR_RESAMPLE_TAPS; i++)
            cr_resample.taps[phase][i] = (float)(taps[i] / sum);
    }
}

static inline int16_t cr_resample_at(const int16_t *samples, double fraction)
{
    double scaled = fraction * CR_RESAMPLE_PHASES;
    int phase = (int)scaled;
    float between = (float)(scaled - phase), sum = 0;
    const float *a = cr_resample.taps[phase], *b = cr_resample.taps[phase + 1];
    for (int i = 0; i < CR_RESAMPLE_TAPS; i++)
        sum += samples[i] * (a[i] + between * (b[i] - a[i]));
    if (sum > 32767)
        sum = 32767;
    if (sum < -32768)
        sum = -32768;
    return (int16_t)lrintf(sum);
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

/* Produce up to `count` samples of segment `s`, which `t->position` lies in; returns how many. */
static inline uint32_t cr_segment_read(cr_track *t, const cr_segment *s, int16_t *pcm, uint32_t count)
{
    const int before = CR_RESAMPLE_TAPS / 2 - 1, behind = CR_RESAMPLE_TAPS / 2;
    uint32_t interval = (uint32_t)cr_ms(t, CR_CONTROL_MS), into;
    int16_t window[CR_HISTORY + 2 * CR_RESAMPLE_TAPS];
    int64_t offset = t->position - cr_segment_position(s), low, high, have;
    double from, step;
    into = cr_since_control(t, t->position);
    if (t->resampling || t->drift.line_count) {
        if (into == 0)
            cr_track_control(t, s, t->position);
        count = count < interval - into ? count : interval - into; /* up to the next moment of control */
    }
    if (!t->resampling) {
        t->fill_next = s->first + offset;
        cr_track_fill(t, s, pcm, count);
        return count;
    }
    count = count < CR_HISTORY / 2 ? count : CR_HISTORY / 2;
    step = 1 - t->slew_rate;
    /* Stream samples, with fraction, counted from the segment's first: a pure function of the position. */
    from = (double)(offset - into) - t->slew;
    low = s->first + (int64_t)floor(from + into * step) - before;
    high = s->first + (int64_t)floor(from + (into + count - 1) * step) + behind;
    if (low > t->fill_next || t->fill_next - low > CR_HISTORY)
        t->fill_next = low; /* the segment has grown after it seemed to have ended */
    have = t->fill_next - low; /* already decoded: the end of the history */
    memcpy(window, t->history + CR_HISTORY - have, (size_t)have * sizeof *window);
    if (high >= t->fill_next)
        cr_track_fill(t, s, window + have, (uint32_t)(high + 1 - t->fill_next));
    for (uint32_t i = 0; i < count; i++) {
        double at = from + (into + i) * step;
        double whole = floor(at);
        pcm[i] = cr_resample_at(window + (s->first + (int64_t)whole - before - low), at - whole);
    }
    return count;
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
    cr_store_release(&t->store, s->end);
    t->segment_head = (t->segment_head + 1) % t->segment_capacity;
    t->segment_count--;
    /* The next spurt starts where the clock says by now; a pause is the place to move in, unheard. */
    if (t->segment_count && cr_segment_at(t, 0)->epoch == epoch)
        cr_segment_at(t, 0)->shift = shift;
}

/* Enter segment `s`, the first sample of which is due at or before `t->position`. */
static inline void cr_segment_enter(cr_track *t, cr_segment *s)
{
    const cr_drift_line *line = cr_drift_line_at(&t->drift, s->epoch, (double)t->position);
    if (line) {
        double wanted = cr_drift_delay(line, (double)s->nominal) - line->anchor_error;
        if (fabs(wanted - s->shift) > (double)cr_ms(t, CR_SETTLED_MS))
            s->shift = wanted;
    }
    s->shift = floor(s->shift + 0.5);
    s->entered = 1;
    t->fill_next = s->first;
    t->slew = t->slew_rate = 0;
    t->resampling = 0;
    t->gap_open = 0;
    t->after_audio = 0;
    memset(t->history, 0, sizeof t->history);
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
    while (t->position < until) {
        cr_segment *s = t->segment_count ? cr_segment_at(t, 0) : NULL;
        int64_t left = until - t->position, end;
        if (s && !s->entered && cr_segment_position(s) <= t->position)
            cr_segment_enter(t, s);
        if (s && cr_segment_position(s) > t->position) {
            /* Not yet; entering may have moved it. */
            int64_t wait = cr_segment_position(s) - t->position;
            s->entered = 0;
            pcm = cr_track_silence(t, pcm, wait < left ? wait : left);
            continue;
        }
        if (!s) {
            pcm = cr_track_silence(t, pcm, left);
            continue;
        }
        if (s->lost_before && t->have_left && pcm)
            cr_gap_note(t, t->left_end, cr_segment_position(s) - t->left_end);
        s->lost_before = 0;
        end = cr_segment_end_position(s) + (int64_t)floor(cr_track_slew(t) + 0.5);
        t->tail_lost = 0;
        if (t->segment_count > 1) {
            const cr_segment *next = cr_segment_at(t, 1);
            int64_t limit = cr_segment_position(next);
            /* The loss began in this segment. Only if that was known in time for everyone, see requirement 7. */
            t->tail_lost = next->lost_before && next->arrival - end <= (int64_t)t->late_samples;
            if (t->tail_lost)
                end += CR_CONCEAL_MAX;
            end = end < limit ? end : limit;
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
            uint32_t count = cr_segment_read(t, s, pcm, (uint32_t)(left < (1 << 20) ? left : 1 << 20));
            pcm += count;
            t->position += count;
        } else {
            /* Nobody listens: the segment now starts later, and is entered anew where somebody does. */
            cr_segment_settle(t);
            s->first += left;
            s->nominal += left;
            s->timestamp += (uint32_t)left;
            s->entered = 0;
            t->fill_next = s->first;
            t->skipped = t->position += left;
        }
        cr_store_release(&t->store, t->fill_next < s->end ? t->fill_next : s->end);
    }
}

/* ---- listening -------------------------------------------------------------------------------------------------- */

/* Received audio in order, for detectors, long before the timeline is final: the next run of it at or after stream
 * number `t->heard`. A gap is waited for no longer than `patience_ms` of newer audio.
 * Returns the number of samples (0: nothing more for now) and where they stand. */
static inline uint32_t cr_track_hear(cr_track *t, int16_t *pcm, uint32_t room, uint32_t patience_ms,
                                     int64_t *position)
{
    for (uint32_t i = 0; i < t->segment_count; i++) {
        cr_segment *s = cr_segment_at(t, i);
        int64_t newest = cr_track_stream_end(t);
        if (t->heard < s->first)
            t->heard = s->first;
        if (t->heard < t->store.low)
            t->heard = t->store.low;
        while (t->heard < s->end) {
            unsigned kind;
            const uint8_t *samples;
            int64_t left = s->end - t->heard;
            uint32_t run = cr_store_run(&t->store, t->heard, (uint32_t)(left < room ? left : room), &kind, &samples);
            if (kind == CR_KIND_NONE) {
                if (!t->finished && newest - t->heard <= run + cr_ms(t, patience_ms))
                    return 0;
                t->heard += run;
                continue;
            }
            if (kind == CR_KIND_SILENCE) {
                t->heard += run;
                continue;
            }
            cr_decode_run(pcm, samples, run, kind, t->store.sample_bytes);
            *position = cr_segment_position(s) + (t->heard - s->first) +
                        (i == 0 && s->entered ? (int64_t)floor(cr_track_slew(t) + 0.5) : 0);
            t->heard += run;
            return run;
        }
    }
    return 0;
}

static inline int64_t cr_track_lost(const cr_track *t)
{
    return t->lost_before_source + cr_sequence_lost(&t->sequence);
}

/* One past the last sample that has arrived, on the timeline. */
static inline int64_t cr_track_end_position(const cr_track *t)
{
    cr_segment *last = cr_last_segment(t);
    int64_t end = last ? cr_segment_end_position(last) : t->position;
    if (last && last->entered)
        end += (int64_t)floor(cr_track_slew(t) + 0.5);
    return end > t->position ? end : t->position;
}

/* How far the worst sample stands from where the sender's clock puts it, in samples. */
static inline double cr_track_alignment_error(const cr_track *t)
{
    return t->error_known ? t->worst_error : fabs(t->drift.lowest);
}

#endif
