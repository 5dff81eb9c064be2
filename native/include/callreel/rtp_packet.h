/* RTP and RTCP on the wire: one datagram in, its fields out. Nothing is trusted, nothing is copied.
 *
 * RTP fixed header, RFC 3550 section 5.1:
 *    0                   1                   2                   3
 *    0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 *   |V=2|P|X|  CC   |M|     PT      |       sequence number         |
 *   |                           timestamp                           |
 *   |                             SSRC                              |
 *   |                    CSRC list, CC words ...                    |
 *   |  profile-defined      | length in words | extension ... (X=1) |
 *
 * Requirements, each a test in tests/native/test_rtp.py:
 *   1. version 2; the CSRC list and the extension must fit; padding (P=1) ends with its own length, at least 1.
 *   2. RTCP shares the port (RFC 5761): a second octet of 192..223 is RTCP, so payload types 64..95 are never RTP.
 *   3. Other protocols share it too (RFC 7983): a first octet outside 128..191 is STUN, ZRTP, DTLS or TURN.
 *   4. A sender report is taken only from a compound packet whose lengths add up.
 */
#ifndef CALLREEL_RTP_PACKET_H
#define CALLREEL_RTP_PACKET_H

#include <stddef.h>
#include <stdint.h>

#include "callreel/bytes.h"

#define CR_RTP_HEADER_BYTES 12

#define CR_RTP_MAX_BYTES 0xFFFF /* no UDP datagram is longer */

enum cr_datagram_kind { CR_DATAGRAM_RTP, CR_DATAGRAM_RTCP, CR_DATAGRAM_FOREIGN };

/* Why a datagram is no RTP packet; rtp.pyx has a text for each, in this order. */
enum cr_rtp_problem {
    CR_RTP_OK,
    CR_RTP_TOO_SHORT,
    CR_RTP_TOO_LONG,
    CR_RTP_WRONG_VERSION,
    CR_RTP_CSRC_OVERRUN,
    CR_RTP_EXTENSION_OVERRUN,
    CR_RTP_PADDING_OVERRUN,
};

typedef struct {
    uint32_t timestamp;
    uint32_t ssrc;
    uint32_t payload_offset;
    uint32_t payload_bytes;
    uint16_t sequence;
    uint16_t extension_profile;
    uint32_t extension_offset;
    uint32_t extension_bytes;
    uint8_t payload_type;
    uint8_t marker;
    uint8_t csrc_count;
    uint8_t padding_bytes;
    uint8_t has_extension;
} cr_rtp_packet;

static inline enum cr_datagram_kind cr_datagram_classify(const uint8_t *data, size_t size_bytes)
{
    if (size_bytes < 2 || data[0] < 128 || data[0] > 191)
        return CR_DATAGRAM_FOREIGN;
    return data[1] >= 192 && data[1] <= 223 ? CR_DATAGRAM_RTCP : CR_DATAGRAM_RTP;
}

static inline enum cr_rtp_problem cr_rtp_parse(const uint8_t *data, size_t size_bytes, cr_rtp_packet *packet)
{
    uint32_t offset = CR_RTP_HEADER_BYTES, end = (uint32_t)size_bytes;
    if (size_bytes < CR_RTP_HEADER_BYTES)
        return CR_RTP_TOO_SHORT;
    if (size_bytes > CR_RTP_MAX_BYTES)
        return CR_RTP_TOO_LONG;
    if (data[0] >> 6 != 2)
        return CR_RTP_WRONG_VERSION;
    packet->csrc_count = data[0] & 15;
    packet->has_extension = data[0] >> 4 & 1;
    packet->marker = data[1] >> 7;
    packet->payload_type = data[1] & 127;
    packet->sequence = cr_load_u16be(data + 2);
    packet->timestamp = cr_load_u32be(data + 4);
    packet->ssrc = cr_load_u32be(data + 8);
    packet->padding_bytes = 0;
    packet->extension_profile = 0;
    packet->extension_offset = packet->extension_bytes = 0;
    offset += 4u * packet->csrc_count;
    if (offset > end)
        return CR_RTP_CSRC_OVERRUN;
    if (packet->has_extension) {
        if (offset + 4 > end)
            return CR_RTP_EXTENSION_OVERRUN;
        packet->extension_profile = cr_load_u16be(data + offset);
        packet->extension_bytes = 4u * cr_load_u16be(data + offset + 2);
        packet->extension_offset = offset + 4;
        offset += 4 + packet->extension_bytes;
        if (offset > end)
            return CR_RTP_EXTENSION_OVERRUN;
    }
    if (data[0] & 0x20) {
        packet->padding_bytes = data[end - 1];
        if (packet->padding_bytes == 0 || packet->padding_bytes > end - offset)
            return CR_RTP_PADDING_OVERRUN;
        end -= packet->padding_bytes;
    }
    packet->payload_offset = offset;
    packet->payload_bytes = end - offset;
    return CR_RTP_OK;
}

/* A sender's two clocks at one instant, RFC 3550 section 6.4.1. */
typedef struct {
    uint32_t ssrc;
    uint64_t ntp; /* 32.32 fixed-point seconds since 1900 */
    uint32_t timestamp;
    uint32_t packets;
    uint32_t octets;
} cr_sender_report;

/* Find the sender report in a compound RTCP packet.
 * Returns 1 when found, 0 when the packet is sound but holds none, -1 when it is malformed. */
static inline int cr_rtcp_sender_report(const uint8_t *data, size_t size_bytes, cr_sender_report *report)
{
    size_t offset = 0;
    int found = 0;
    memset(report, 0, sizeof *report);
    if (size_bytes < 8)
        return -1;
    while (offset < size_bytes) {
        size_t packet_bytes;
        unsigned count;
        if (size_bytes - offset < 4 || data[offset] >> 6 != 2)
            return -1;
        packet_bytes = 4 * ((size_t)cr_load_u16be(data + offset + 2) + 1);
        if (packet_bytes > size_bytes - offset)
            return -1;
        count = data[offset] & 31;
        if (data[offset + 1] == 200) {
            if (packet_bytes < 28 + 24 * (size_t)count)
                return -1;
            if (!found) {
                report->ssrc = cr_load_u32be(data + offset + 4);
                report->ntp = cr_load_u64be(data + offset + 8);
                report->timestamp = cr_load_u32be(data + offset + 16);
                report->packets = cr_load_u32be(data + offset + 20);
                report->octets = cr_load_u32be(data + offset + 24);
                found = 1;
            }
        }
        offset += packet_bytes;
    }
    return found;
}

#endif
