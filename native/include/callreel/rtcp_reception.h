/* What a receiver reports of one source (RFC 3550 sections 6.4.1, A.1, A.3, A.8), and what is read of its RTCP.
 *
 * Requirements, tests in tests/native/test_udp.py:
 *   1. Sequence numbers wrap; a jump of more than 3,000 or back by more than 100 is a restart if the next packet confirms it.
 *   2. Lost is expected less received, over all (24 bits, signed) and as a fraction of 256 since the last report.
 *   3. Jitter is the mean deviation of transit times by the filter of A.8, in timestamps of 8 kHz; packets that share a
 *      timestamp, as those of one telephone event do, count once.
 *   4. LSR is the middle of the last sender report's NTP time, DLSR the time since it came in 1/65536 s; 0 before there was one.
 *   5. A compound packet whose lengths do not add up is none.
 */
#ifndef CALLREEL_RTCP_RECEPTION_H
#define CALLREEL_RTCP_RECEPTION_H

#include <stdint.h>

#include "callreel/bytes.h"
#include "callreel/rtp_packet.h"

#define CR_MAX_DROPOUT 3000u
#define CR_MAX_MISORDER 100u
#define CR_SEQUENCE_NONE 0x10000u
#define CR_TIMESTAMP_NS 125000 /* of the 8 kHz clock that G.711 and telephone events run on */

typedef struct {
    uint32_t ssrc;
    uint32_t cycles;         /* sequence numbers that have wrapped, shifted by 16 */
    uint32_t base;           /* the first one */
    uint32_t suspect;        /* the number that would confirm a restart */
    uint32_t received;       /* since `base` */
    uint32_t expected_prior; /* at the last report */
    uint32_t received_prior;
    uint32_t timestamp;      /* of the latest packet */
    uint32_t transit;        /* of the latest packet: arrival less timestamp */
    uint32_t jitter_16;      /* 16 times the jitter, timestamps */
    uint32_t last_report;    /* middle of the last sender report's NTP time */
    uint16_t highest;
    uint8_t has_source, has_report, has_gone; /* has_gone: it said BYE */
    int64_t report_ns;       /* when that came */
} cr_reception;

typedef struct {
    uint32_t ssrc, highest, jitter, last_report, delay;
    int32_t lost;
    uint8_t fraction;
} cr_report_block;

static inline void cr_reception_start(cr_reception *r, uint32_t ssrc, uint16_t sequence)
{
    memset(r, 0, sizeof *r);
    r->ssrc = ssrc;
    r->base = r->highest = sequence;
    r->suspect = CR_SEQUENCE_NONE;
    r->has_source = 1;
}

/* One RTP packet of the source. */
static inline void cr_reception_packet(cr_reception *r, const cr_rtp_packet *packet, int64_t arrival_ns)
{
    uint32_t transit = (uint32_t)((uint64_t)arrival_ns / CR_TIMESTAMP_NS) - packet->timestamp;
    uint16_t step;
    if (!r->has_source || packet->ssrc != r->ssrc)
        cr_reception_start(r, packet->ssrc, packet->sequence);
    step = (uint16_t)(packet->sequence - r->highest);
    if (step < CR_MAX_DROPOUT) {
        if (packet->sequence < r->highest)
            r->cycles += CR_SEQUENCE_NONE;
        r->highest = packet->sequence;
        r->suspect = CR_SEQUENCE_NONE;
    } else if (step <= 0x10000u - CR_MAX_MISORDER) {
        if (packet->sequence != r->suspect) {
            r->suspect = (uint16_t)(packet->sequence + 1);
            return;
        }
        cr_reception_start(r, packet->ssrc, packet->sequence);
    }
    if (r->received && packet->timestamp != r->timestamp) {
        int32_t change = (int32_t)(transit - r->transit);
        uint32_t deviation = change < 0 ? 0u - (uint32_t)change : (uint32_t)change;
        /* A new timeline, or hours of silence: not jitter. */
        if (deviation < 8000u * 60)
            r->jitter_16 += deviation - ((r->jitter_16 + 8) >> 4);
    }
    r->timestamp = packet->timestamp;
    r->transit = transit;
    r->received++;
}

/* What is to be reported now; what was lost since the last report is counted from here on. */
static inline void cr_reception_report(cr_reception *r, int64_t now_ns, cr_report_block *block)
{
    uint32_t highest = r->cycles + r->highest, expected = highest - r->base + 1;
    uint32_t expected_now = expected - r->expected_prior, received_now = r->received - r->received_prior;
    int64_t lost = (int64_t)expected - r->received, lost_now = (int64_t)expected_now - received_now;
    r->expected_prior = expected;
    r->received_prior = r->received;
    memset(block, 0, sizeof *block);
    block->ssrc = r->ssrc;
    block->highest = highest;
    block->lost = (int32_t)(lost > 0x7FFFFF ? 0x7FFFFF : lost < -0x800000 ? -0x800000 : lost);
    block->fraction = expected_now == 0 || lost_now <= 0 ? 0 : (uint8_t)(((uint64_t)lost_now << 8) / expected_now);
    if (expected_now && lost_now >= (int64_t)expected_now)
        block->fraction = 255;
    block->jitter = r->jitter_16 >> 4;
    if (r->has_report) {
        uint64_t since_ns = now_ns > r->report_ns ? (uint64_t)(now_ns - r->report_ns) : 0;
        uint64_t limit_ns = UINT64_C(65535) * 1000000000;
        since_ns = since_ns < limit_ns ? since_ns : limit_ns;
        block->last_report = r->last_report;
        block->delay = (uint32_t)(since_ns / 1000 * 65536 / 1000000);
    }
}

/* The source that a compound RTCP packet is from; 0 when its lengths do not add up. */
static inline int cr_rtcp_source(const uint8_t *data, size_t size_bytes, uint32_t *ssrc)
{
    cr_sender_report report;
    if (cr_rtcp_sender_report(data, size_bytes, &report) < 0)
        return 0;
    *ssrc = cr_load_u32be(data + 4);
    return 1;
}

/* One compound RTCP packet of the peer, sound as `cr_rtcp_source` says. */
static inline void cr_reception_control(cr_reception *r, const uint8_t *data, size_t size_bytes, int64_t arrival_ns)
{
    cr_sender_report report;
    if (cr_rtcp_sender_report(data, size_bytes, &report) == 1 && r->has_source && report.ssrc == r->ssrc) {
        r->last_report = (uint32_t)(report.ntp >> 16);
        r->report_ns = arrival_ns;
        r->has_report = 1;
    }
    for (size_t offset = 0; offset + 4 <= size_bytes;) {
        size_t bytes = 4 * ((size_t)cr_load_u16be(data + offset + 2) + 1);
        unsigned sources = data[offset] & 31;
        if (data[offset + 1] == 203)
            for (unsigned i = 0; i < sources && 8 + 4 * (size_t)i <= bytes && offset + bytes <= size_bytes; i++)
                if (r->has_source && cr_load_u32be(data + offset + 4 + 4 * i) == r->ssrc)
                    r->has_gone = 1;
        offset += bytes;
    }
}

#endif
