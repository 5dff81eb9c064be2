/* A track's state: what is known of its source, where its samples are kept, and the map from the stream to the timeline.
 * The rules are on top of timeline.h; what changes this state is in telephone_event.h, placing.h, receiving.h, reading.h. */
#ifndef CALLREEL_TRACK_H
#define CALLREEL_TRACK_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "callreel/conceal.h"
#include "callreel/drift.h"
#include "callreel/sample_store.h"
#include "callreel/sequence.h"

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
#define CR_QUEUE_FALL_MS 150    /* again, and from here on it is one; host frames are as late as they have come */
#define CR_HOST_STEP_MS 60      /* host frames have no timestamps of their own: a shorter pause is the host's jitter */
#define CR_JUMP_MS 2000         /* beyond this a timestamp is not believed */
#define CR_SPLIT_MS CR_LOOKAHEAD_MS /* a longer gap begins a new segment: what a segment holds is known when it is read */
#define CR_MARGIN_MS 100        /* numbers left free before a segment, where the timeline has room, for stragglers */
#define CR_SEGMENT_MS CR_SPLIT_MS /* room for one segment in as much of the store */
#define CR_PACKET_MAX_MS 250    /* more audio in one packet is no packet */
#define CR_PACKET_MIN_MS 5      /* so many sequence numbers, so much time at least */
#define CR_SOURCE_IDLE_MS 200   /* an earlier source may come back once the present one has been quiet this long */
#define CR_BESIDE_MS 60         /* an event under another SSRC that begins so long after the last audio stands in a pause */
#define CR_EVENT_IDLE_MS 200    /* an event whose end packets were lost ends by itself */
#define CR_EVENT_RAMP_MS 5      /* a rendered tone begins and ends without a click */
#define CR_TWO_EQUAL_DB 3.0103  /* one of two equal components against both */
#define CR_STRAGGLER_MS 60000   /* a sequence number from further back is a restart */
#define CR_RESTART_PACKETS 3    /* stale packets in order, and nothing else for CR_RESTART_MS: the sender began again */
#define CR_RESTART_MS 40
#define CR_EVENT_SEGMENT 0xFFFFu /* samples: a longer event goes on in a new one, RFC 4733 section 2.5.1.3 */
#define CR_ANCHOR_MS 1000       /* how long a new anchor is weighed: the lowest delay in it is the true place */
#define CR_ANCHOR_TOLERANCE_US 5250 /* the first packet of a track stays at its arrival if it was late by no more, */
#define CR_QUIET_MS 8           /* in a network that delays packets by no more than this on average */
#define CR_CONTROL_MS 20        /* how often the resampler is steered */
#define CR_SETTLED_MS 2         /* misplacement that is left alone: the samples stay as they were sent */
#define CR_SLEW_MAX 0.002       /* 2,000 ppm = 3.5 cents: below what a listener notices */
#define CR_SLEW_TIME_S 8.0      /* an error is worked off in about this time */

#define CR_FEW 4 /* room for so many segments, events, digits and gaps at first: most tracks need no more */
#define CR_EVENTS 32
#define CR_DIGITS 24
#define CR_GAPS 48
#define CR_HOLES 16
#define CR_MISSING_FOR_GOOD (1u << 30) /* packets: more than will ever be found */
#define CR_SSRCS 16
#define CR_HISTORY CR_CONCEAL_HISTORY /* samples of the stream's output kept where losses are concealed, */
#define CR_RESAMPLE_HISTORY 64        /* and where only resampling looks back */
#define CR_RESAMPLE_MOST 160    /* samples that are resampled at a time */

enum cr_receive_result { CR_RECEIVED, CR_STORE_FULL };

typedef struct {
    int64_t first;    /* stream number of the first sample */
    int64_t end;      /* one past the last */
    int64_t nominal;  /* timeline position of `first` by timestamps alone */
    double shift;     /* samples added to it: the clock correction with which the segment began */
    int64_t arrival;  /* of the packet that began it, samples */
    uint32_t timestamp; /* RTP timestamp of `first` */
    uint32_t continuum; /* segments of one continuum share one run of RTP timestamps */
    uint32_t epoch;   /* and those of one epoch one clock correction */
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
    int64_t from;          /* stream number; it reaches up to from + samples */
    int64_t first_missing; /* extended sequence number; that of the packet behind it is first_missing + numbers */
    uint32_t samples, numbers;
    uint32_t missing; /* packets */
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
    uint8_t has_timestamps; /* RTP, not host frames */

    /* the source */
    uint8_t have_source, have_epoch;
    uint32_t ssrc;
    uint32_t ssrcs[CR_SSRCS];
    uint32_t ssrc_count;
    int64_t last_arrival; /* samples */
    cr_sequence sequence;
    int64_t lost_before_source; /* of earlier sources */
    uint8_t have_beside;        /* events have come under an SSRC that is not the source's: */
    uint32_t beside_ssrc;
    uint32_t beside_timestamp;  /* of the latest of them, as its sender counts, */
    uint32_t beside_taken_for;  /* and as the source would */
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
    uint8_t anchor_open;     /* the present anchor is being weighed, */
    int64_t anchor_until;    /* up to this arrival, samples */
    cr_drift drift;
    double behind; /* samples by which the present anchor stands behind its arrival, for want of room before it */
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
    cr_segment *segments; /* a ring, */
    uint32_t segment_capacity, segment_head, segment_count;
    uint32_t segment_limit; /* which grows up to here */

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
    uint8_t conceals;      /* lost audio is concealed: it is G.711 */
    cr_conceal conceal;
    uint32_t kept;         /* so many of the last samples decoded are kept: */
    int16_t history[CR_HISTORY];

    cr_event *events; /* all but the last have ended */
    uint32_t event_count, event_capacity; /* the latter at most CR_EVENTS */
    cr_event_digit *digits; /* that have ended and were not asked for */
    uint32_t digit_count, digit_capacity; /* the latter at most CR_DIGITS */
    cr_gap *gaps; /* of the present read */
    uint32_t gap_count, gap_capacity; /* the latter at most CR_GAPS */

    cr_track_counts counts;
} cr_track;

/* ---- small things ---------------------------------------------------------------------------------------------- */

/* Rounded down. The function of that name is a call where SSE2 is all there is. */
static inline int64_t cr_floor(double value)
{
    int64_t whole = (int64_t)value;
    return value >= 0 || (double)whole == value ? whole : whole - 1;
}

static inline int64_t cr_ms(const cr_track *t, int64_t ms)
{
    return ms * t->samples_per_ms;
}

/* Any two times, however far apart: at most 2^64 ns, which are 2^50 samples at 48 kHz. */
static inline int64_t cr_track_position_of(const cr_track *t, int64_t time_ns)
{
    double elapsed_ns = time_ns >= t->origin_ns ? (double)((uint64_t)time_ns - (uint64_t)t->origin_ns)
                                                : -(double)((uint64_t)t->origin_ns - (uint64_t)time_ns);
    return cr_floor(elapsed_ns * t->sample_rate / 1e9 + 0.5);
}

static inline cr_segment *cr_segment_at(const cr_track *t, uint32_t index)
{
    uint32_t place = t->segment_head + index;
    return &t->segments[place < t->segment_capacity ? place : place - t->segment_capacity];
}

static inline cr_segment *cr_last_segment(const cr_track *t)
{
    return t->segment_count ? cr_segment_at(t, t->segment_count - 1) : NULL;
}

static inline int64_t cr_segment_position(const cr_segment *s)
{
    return s->nominal + cr_floor(s->shift + 0.5);
}

static inline int64_t cr_segment_end_position(const cr_segment *s)
{
    return cr_segment_position(s) + (s->end - s->first);
}

/* The clock correction of the present epoch known at timeline position `at`, in samples; 0 while a call is short. */
static inline double cr_track_correction(const cr_track *t, double at)
{
    const cr_drift_line *line = cr_drift_line_at(&t->drift, t->epoch, at);
    return line ? cr_drift_correction(line, at) : 0;
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
    int64_t interval = cr_ms(t, CR_CONTROL_MS), since = at % interval;
    return (uint32_t)(since < 0 ? since + interval : since);
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
    return cr_segment_position(s) + (number - s->first) + (s->entered ? cr_floor(cr_track_slew(t) + 0.5) : 0);
}

/* The same by what is known of the sender's clock at `arrival`: it does not depend on what has been read. */
static inline int64_t cr_track_expected_position(const cr_track *t, int64_t number, int64_t arrival)
{
    const cr_segment *s = cr_track_segment_of(t, number);
    double shift;
    if (!s)
        return t->position;
    shift = s->epoch == t->epoch ? cr_track_expected_shift(t, (double)arrival) : s->shift;
    return s->nominal + (number - s->first) + cr_floor(shift + 0.5);
}

/* ---- creation -------------------------------------------------------------------------------------------------- */

/* An empty timeline. `capacity`: samples; `pages`: cr_store_pages_for(capacity) of them. */
static inline void cr_track_init(cr_track *t, uint32_t sample_rate, int64_t origin_ns, uint32_t late_ms,
                                 uint32_t capacity, uint32_t sample_bytes, cr_page **pages)
{
    memset(t, 0, sizeof *t);
    t->sample_rate = sample_rate;
    t->samples_per_ms = sample_rate / 1000;
    t->late_samples = late_ms * t->samples_per_ms;
    t->has_timestamps = sample_bytes == 1;
    t->step_samples = (t->has_timestamps ? CR_STEP_MS : CR_HOST_STEP_MS) * t->samples_per_ms;
    t->origin_ns = origin_ns;
    t->render_events = 1;
    t->conceals = sample_bytes == 1 && sample_rate == CR_CONCEAL_RATE;
    t->kept = t->conceals ? CR_HISTORY : CR_RESAMPLE_HISTORY;
    cr_store_init(&t->store, capacity, sample_bytes, pages);
    t->segment_limit = capacity / (CR_SEGMENT_MS * t->samples_per_ms) + 4;
}

/* Give back the memory that it took since. */
static inline void cr_track_close(cr_track *t)
{
    cr_store_close(&t->store);
    free(t->segments);
    free(t->events);
    free(t->digits);
    free(t->gaps);
}

/* `items`, of which there are `count`, or a copy of them with room for twice as many, at most `most`. What has room for
 * no more afterwards may have no more, or there is no memory. */
static inline void *cr_roomier(void *items, uint32_t count, uint32_t *capacity, uint32_t most, size_t item_bytes)
{
    uint32_t wanted = *capacity ? 2 * *capacity : CR_FEW;
    void *larger;
    if (count < *capacity || *capacity == most)
        return items;
    wanted = wanted < most ? wanted : most;
    larger = CR_MALLOC(wanted * item_bytes);
    if (!larger)
        return items;
    if (count)
        memcpy(larger, items, count * item_bytes);
    free(items);
    *capacity = wanted;
    return larger;
}

#endif
