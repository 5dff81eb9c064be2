/* What a flow of datagrams holds, found out without decoding it: is it RTP, from whom, when, in which payload types.
 *
 * How: datagrams are sorted into runs, one for each source (SSRC) and time without a long pause. A run keeps count of
 *      sequence numbers (sequence.h); payload types are tallied, and for each it is noted whether every packet of it can
 *      be a telephone event. A number alone proves nothing (RFC 3551: 96 to 127 are dynamic); a run of numbers in order
 *      is RTP, and payloads that behave like RFC 4733 events from first to last are events.
 *
 * Requirements, each a test in tests/native/test_rtp.py:
 *   1. Bytes that merely begin like RTP are not in order: `orderly` tells.
 *   2. A payload type is that of events only if each packet is one and none contradicts the one before it.
 *   3. Memory is fixed: runs beyond it are tallied in the last one, payload types beyond it are left out.
 */
#ifndef CALLREEL_SURVEY_H
#define CALLREEL_SURVEY_H

#include <stdint.h>
#include <string.h>

#include "callreel/bytes.h"
#include "callreel/rtp_packet.h"
#include "callreel/sequence.h"
#include "callreel/track.h"

#define CR_SURVEY_RUNS 8
#define CR_SURVEY_TYPES 8
#define CR_SURVEY_IDLE_NS 60000000000u /* a pause of a minute without signalling ends a call */
#define CR_SURVEY_AUDIO_BYTES 20        /* telephone events and comfort noise are shorter than any packet of G.711 */
#define CR_SURVEY_ORDERLY_STEP 20       /* sequence numbers a packet may be ahead of the one before */

typedef struct {
    int64_t first_ns, last_ns;
    uint64_t packets, duplicate, reordered, orderly, cut;
    int64_t lost_before;
    uint64_t payload_types[2]; /* a bit each */
    double delay_lowest, delay_sum, delay_count; /* of the first second, at 8,000 timestamps a second, in samples */
    uint32_t ssrc, first_timestamp, first_bytes;
    cr_sequence sequence;
} cr_survey_run;

typedef struct {
    uint64_t packets, events; /* `events`: packets that can be telephone events */
    uint32_t timestamp;
    uint32_t duration;
    uint32_t repeats;         /* packets that went on with the event before them */
    uint8_t payload_type;
    uint8_t code;
} cr_survey_type;

typedef struct {
    cr_survey_run runs[CR_SURVEY_RUNS];
    cr_survey_type types[CR_SURVEY_TYPES];
    uint32_t run_count, type_count;
    uint64_t rtcp, foreign, malformed;
} cr_survey;

static inline cr_survey_run *cr_survey_find_run(cr_survey *s, uint32_t ssrc, int64_t time_ns)
{
    cr_survey_run *run;
    for (uint32_t i = s->run_count; i-- > 0;) {
        run = &s->runs[i];
        if (run->ssrc == ssrc &&
            (time_ns <= run->last_ns || (uint64_t)time_ns - (uint64_t)run->last_ns <= CR_SURVEY_IDLE_NS))
            return run;
    }
    if (s->run_count == CR_SURVEY_RUNS)
        return &s->runs[CR_SURVEY_RUNS - 1];
    run = &s->runs[s->run_count++];
    run->ssrc = ssrc;
    run->first_ns = run->last_ns = time_ns;
    return run;
}

static inline void cr_survey_event(cr_survey_type *type, const uint8_t *payload, uint32_t size_bytes,
                                   uint32_t timestamp)
{
    uint32_t duration;
    if (size_bytes != 4 || payload[0] > 16 || payload[1] & 0x40)
        return;
    duration = cr_load_u16be(payload + 2);
    if (type->packets > 1 && timestamp == type->timestamp) {
        if (payload[0] != type->code || duration < type->duration)
            return;
        type->repeats++;
    }
    type->code = payload[0];
    type->timestamp = timestamp;
    type->duration = duration;
    type->events++;
}

/* How much earlier than its first packet's arrival a run will begin, once its timeline has weighed the anchor, if the
 * run is G.711: as in cr_anchor_settle. */
static inline int64_t cr_survey_early_ns(const cr_survey_run *run)
{
    double tolerance = CR_ANCHOR_TOLERANCE_US * 8e-3, early = floor(-run->delay_lowest + 0.5);
    if (run->delay_count > 0 && run->delay_sum / run->delay_count - run->delay_lowest > CR_QUIET_MS * 8)
        tolerance = CR_SETTLED_MS * 8;
    return early > tolerance ? (int64_t)(early * 125000) : 0;
}

/* Weigh a packet ahead of all others of its run, as cr_place_ahead does. */
static inline void cr_survey_weigh(cr_survey_run *run, const cr_rtp_packet *packet, int64_t time_ns)
{
    double elapsed_ns = (double)time_ns - (double)run->first_ns, delay;
    if (elapsed_ns < 0 || elapsed_ns >= CR_ANCHOR_MS * 1e6)
        return;
    delay = elapsed_ns / 125000 - (int32_t)(packet->timestamp - run->first_timestamp) -
            ((double)packet->payload_bytes - run->first_bytes);
    run->delay_lowest = fmin(run->delay_lowest, delay);
    run->delay_sum += delay;
    run->delay_count += 1;
}

static inline void cr_survey_receive(cr_survey *s, const uint8_t *data, size_t size_bytes, int64_t time_ns, int cut)
{
    cr_rtp_packet packet;
    cr_survey_run *run;
    cr_survey_type *type = NULL;
    switch (cr_datagram_classify(data, size_bytes)) {
    case CR_DATAGRAM_FOREIGN:
        s->foreign++;
        return;
    case CR_DATAGRAM_RTCP:
        s->rtcp++;
        return;
    default:
        break;
    }
    if (cr_rtp_parse(data, size_bytes, &packet) != CR_RTP_OK) {
        s->malformed++;
        return;
    }
    run = cr_survey_find_run(s, packet.ssrc, time_ns);
    run->packets++;
    run->cut += cut != 0;
    if (time_ns > run->last_ns)
        run->last_ns = time_ns;
    if (time_ns < run->first_ns)
        run->first_ns = time_ns;
    run->payload_types[packet.payload_type / 64] |= (uint64_t)1 << packet.payload_type % 64;
    if (!run->sequence.started) {
        cr_sequence_start(&run->sequence, packet.sequence);
        run->first_timestamp = packet.timestamp;
        run->first_bytes = packet.payload_bytes;
    } else {
        switch (cr_sequence_receive(&run->sequence, packet.sequence)) {
        case CR_SEQUENCE_NEW:
            run->orderly += run->sequence.step <= CR_SURVEY_ORDERLY_STEP;
            if (packet.payload_bytes >= CR_SURVEY_AUDIO_BYTES)
                cr_survey_weigh(run, &packet, time_ns);
            break;
        case CR_SEQUENCE_DUPLICATE:
            run->duplicate++;
            break;
        case CR_SEQUENCE_REORDERED:
            run->reordered++;
            break;
        case CR_SEQUENCE_JUMP:
            run->lost_before += cr_sequence_lost(&run->sequence);
            cr_sequence_start(&run->sequence, packet.sequence);
            break;
        }
    }
    for (uint32_t i = 0; i < s->type_count && !type; i++)
        if (s->types[i].payload_type == packet.payload_type)
            type = &s->types[i];
    if (!type) {
        if (s->type_count == CR_SURVEY_TYPES)
            return;
        type = &s->types[s->type_count++];
        type->payload_type = packet.payload_type;
    }
    type->packets++;
    cr_survey_event(type, data + packet.payload_offset, packet.payload_bytes, packet.timestamp);
}

#endif
