/* What is played to participants, as RTP packets on a schedule (RFC 3550, RFC 3551).
 *
 *   G.711 codes ──> packets of 20 ms, each due 20 ms after the one before, whenever that was sent
 *
 * Requirements, tests in tests/native/test_udp.py:
 *   1. The schedule is absolute: lateness of one packet moves no other. Who could send nothing for 200 ms goes on from now,
 *      a gap in the timestamps, rather than in a burst.
 *   2. Sequence numbers follow each other over all talk spurts of a voice; timestamps follow the clock, pauses included, so
 *      that the next spurt stands where it is heard. A spurt begins with the marker bit, also after such a gap.
 *   3. The last packet is filled up with silence.
 */
#ifndef CALLREEL_PACER_H
#define CALLREEL_PACER_H

#include <stdint.h>
#include <string.h>

#include "callreel/bytes.h"

#define CR_PACE_NS INT64_C(20000000)
#define CR_PACE_SAMPLES 160u
#define CR_PACE_BEHIND_NS INT64_C(200000000)
#define CR_PACE_PACKET_BYTES (12u + CR_PACE_SAMPLES)
#define CR_PACE_PATIENCE 250u /* packets' times to wait for a peer to send to: 5 s */
#define CR_PACE_FAILURES 25u  /* sendings that fail one after the other: 0.5 s */
#define CR_PACE_IDLE INT64_MAX

enum cr_voice_state { CR_VOICE_IDLE, CR_VOICE_TALKING, CR_VOICE_DONE, CR_VOICE_NO_PEER, CR_VOICE_UNREACHABLE };

typedef struct {
    int descriptor;
    uint32_t stream;  /* whose peer it is sent to */
    uint32_t heard;   /* the stream that keeps what was sent, or CR_NONE */
    uint32_t ssrc, first_timestamp;
    int64_t first_ns; /* the moment of `first_timestamp` */
    uint16_t sequence;
    uint8_t in_use, state, marker, payload_type, silence;
    uint8_t *codes;
    uint32_t samples, at, waited, failures;
    int error;        /* of the latest sending that failed */
    int64_t due_ns;
    uint64_t packets, octets, refused;
    int64_t late_max_ns;
} cr_voice;

static inline uint32_t cr_voice_timestamp(const cr_voice *v, int64_t at_ns)
{
    return v->first_timestamp + (uint32_t)((at_ns - v->first_ns) / 125000);
}

static inline void cr_voice_talk(cr_voice *v, uint8_t *codes, uint32_t samples, uint8_t payload_type, uint8_t silence,
                                 int64_t now_ns)
{
    v->codes = codes;
    v->samples = samples;
    v->payload_type = payload_type;
    v->silence = silence;
    v->at = v->waited = v->failures = 0;
    v->marker = 1;
    v->due_ns = now_ns;
    v->state = CR_VOICE_TALKING;
}

/* Nobody is known to send to: all of it waits. */
static inline void cr_voice_wait(cr_voice *v)
{
    v->due_ns += CR_PACE_NS;
    if (++v->waited >= CR_PACE_PATIENCE)
        v->state = CR_VOICE_NO_PEER;
}

/* The packet that is due. */
static inline void cr_voice_packet(cr_voice *v, int64_t now_ns, uint8_t packet[CR_PACE_PACKET_BYTES])
{
    uint32_t samples = v->samples - v->at < CR_PACE_SAMPLES ? v->samples - v->at : CR_PACE_SAMPLES;
    if (now_ns - v->due_ns > CR_PACE_BEHIND_NS) {
        v->due_ns = now_ns;
        v->marker = 1;
    } else if (now_ns - v->due_ns > v->late_max_ns) {
        v->late_max_ns = now_ns - v->due_ns;
    }
    packet[0] = 0x80;
    packet[1] = (uint8_t)(v->marker << 7 | v->payload_type);
    cr_store_u16be(packet + 2, v->sequence);
    cr_store_u32be(packet + 4, cr_voice_timestamp(v, v->due_ns));
    cr_store_u32be(packet + 8, v->ssrc);
    memcpy(packet + 12, v->codes + v->at, samples);
    memset(packet + 12 + samples, v->silence, CR_PACE_SAMPLES - samples);
    v->at += samples;
    v->sequence++;
    v->marker = 0;
    v->packets++;
    v->octets += CR_PACE_SAMPLES;
    v->due_ns += CR_PACE_NS;
    if (v->at == v->samples)
        v->state = CR_VOICE_DONE;
}

#endif
