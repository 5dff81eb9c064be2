/* What arrives: datagrams and host frames, by source, sequence number and payload type. */
#ifndef CALLREEL_RECEIVING_H
#define CALLREEL_RECEIVING_H

#include <stdint.h>

#include "callreel/bytes.h"
#include "callreel/placing.h"
#include "callreel/reading.h"
#include "callreel/rtp_packet.h"
#include "callreel/telephone_event.h"
#include "callreel/track.h"

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
            if (!e)
                return;
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

/* A gateway that makes key events of what it hears sends them beside the audio it passes on, under an SSRC and with
 * timestamps of their own. Each is taken for one of the present source: its first packet ends where audio that had
 * come at that moment would end. */
static inline void cr_track_event_beside(cr_track *t, const cr_rtp_packet *packet, const uint8_t *payload,
                                         int64_t arrival)
{
    int32_t since = (int32_t)(packet->timestamp - t->beside_timestamp);
    int ahead = 0;
    if (!t->have_beside || packet->ssrc != t->beside_ssrc || since < -cr_ms(t, CR_JUMP_MS) || since > 0) {
        int is_next_part = t->have_beside && packet->ssrc == t->beside_ssrc && since == CR_EVENT_SEGMENT;
        int64_t begun = t->lead + (arrival - t->last_arrival) - cr_load_u16be(payload + 2);
        ahead = !is_next_part && begun > t->lead + cr_ms(t, CR_BESIDE_MS);
        t->beside_taken_for = is_next_part ? t->beside_taken_for + CR_EVENT_SEGMENT : t->timestamp + (uint32_t)begun;
        t->beside_timestamp = packet->timestamp;
        t->beside_ssrc = packet->ssrc;
        t->have_beside = 1;
    } else if (since < 0) {
        return; /* a straggler of an event that was over before the present one began */
    }
    cr_track_event_packet(t, t->beside_taken_for, payload, packet->payload_bytes, ahead, 1, arrival);
    if (ahead)
        t->last_arrival = arrival; /* the newest timestamp is that of the event now */
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
        int64_t end, decided, to = hole->from + hole->samples;
        int64_t from = hole->from > t->store.low ? hole->from : t->store.low;
        cr_segment *s;
        if (sequence < hole->first_missing || sequence >= hole->first_missing + hole->numbers)
            continue;
        if (hole->missing == 0 || --hole->missing)
            continue;
        s = cr_track_segment_of(t, to);
        if (!s || to > s->end || from >= to)
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
        cr_store_mark_silence(&t->store, from, (uint32_t)(to - from));
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
    cr_anchor_settle(t, arrival);
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
        if (codec == CR_CODEC_TELEPHONE_EVENT && t->have_epoch) {
            if (packet.payload_bytes < 4)
                t->counts.malformed++;
            else
                cr_track_event_beside(t, &packet, data + packet.payload_offset, arrival);
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
            if (t->sequence.highest + step >= t->sequence.first && cr_sequence_lost(&t->sequence) > 0)
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

/* Whether there is room for so many samples of the host's. When a stall has filled it, what was held up is no pause,
 * and of that, what came too late is taken out. */
static inline int cr_track_takes_frames(cr_track *t, int64_t samples)
{
    if (cr_track_has_room_for(t, samples))
        return 1;
    if (t->step_open && !t->has_timestamps && t->step_delay < t->late_samples) {
        cr_step_refute(t);
        while (t->segment_count > 1 && cr_segment_end_position(cr_segment_at(t, 0)) <= t->position)
            cr_segment_leave(t);
    }
    return cr_track_has_room_for(t, samples);
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
        t->lead += samples; /* and the next one follows it all the same */
        return CR_STORE_FULL;
    }
    cr_step_expire(t, arrival);
    cr_anchor_settle(t, arrival);
    /* A frame's delay is measured at its start: equal leads cancel out in cr_place_ahead. */
    number = cr_place_ahead(t, timestamp, t->lead, 1, arrival, 1);
    if (number < 0) {
        t->counts.discarded++;
        t->lead += samples;
        return CR_STORE_FULL;
    }
    cr_track_keep(t, number, pcm, samples, CR_KIND_PCM, arrival);
    t->lead = samples;
    return CR_RECEIVED;
}

/* No more packets will come. */
static inline void cr_track_finish(cr_track *t)
{
    t->finished = 1;
    cr_track_settle(t);
    if (t->event_count)
        cr_event_end(t, &t->events[t->event_count - 1]);
}

/* Up to where the timeline is final at time `now_ns`. */
static inline int64_t cr_track_ready(cr_track *t, int64_t now_ns)
{
    int64_t now = cr_track_position_of(t, now_ns);
    int64_t ready = now - t->late_samples - cr_ms(t, CR_LOOKAHEAD_MS);
    cr_step_expire(t, now);
    cr_anchor_settle(t, now);
    cr_events_expire(t, now);
    if (t->step_open) {
        int64_t held = cr_track_number_position(t, t->step_first);
        if (held < ready)
            ready = held;
    }
    return ready;
}

#endif
