/* One captured frame -> the UDP datagram or TCP segment inside.
 *
 * What: walks from the link layer to the transport layer and says where the payload is, whose it is, and how long it
 *       was on the wire.
 * How:  one loop over a state, `layer`; each turn takes one header off. Nothing recurses, so frames nested without end
 *       cost their length and no stack. Every turn takes at least one byte off, or replaces the bytes by a reassembled
 *       datagram, of which there are finitely many.
 *
 *       layer        header bytes                                        then
 *       ETHERNET     14 (+8 LLC/SNAP)                                    ETHERTYPE
 *       ETHERTYPE    0; VLAN tag 4; MPLS 4 a label; PPPoE 6              ETHERTYPE, IP, PPP
 *       PPP          1 to 4                                              IP
 *       IP           20 to 60 (v4), 40 (v6)                              PROTOCOL, or the fragment waits
 *       PROTOCOL     IPv6 extension headers, AH, GRE, ERSPAN, GTP-U      PROTOCOL, IP, ETHERNET, ETHERTYPE; or the end
 *
 * Requirements, tests in tests/native/test_pcap.py:
 *   1. Link types (tcpdump.org/linktypes.html): Ethernet 1, BSD loopback 0 (both byte orders) and 108, PPP 9 and 50,
 *      PPPoE 51, raw IP 12, 14, 101, 228, 229, Linux cooked 113 and 276.
 *   2. Tags 8100, 88A8, 9100, 9200 nest (IEEE 802.1Q); PPPoE session 8864 (RFC 2516); MPLS 8847, 8848 (RFC 3032).
 *   3. IP's own length ends the packet: an Ethernet trailer is not payload. An IP length of 0 is what a capture before
 *      segmentation offload shows: the frame's length counts.
 *   4. IPv6 extension headers 0, 43, 60, 135, 51, 44 (RFC 8200, 6275, 4302); IP in IP 4 and 41 (RFC 2003, 4213); GRE
 *      versions 0 and 1 (RFC 2784, 2890, 2637), with Ethernet, PPP and ERSPAN types I to III inside; GTP-U (3GPP TS
 *      29.281) on UDP port 2152, the tunnel of mobile networks.
 *   5. ICMP and ICMPv6 errors quote a packet; it is not looked at, it was not sent.
 *   6. UDP checksums are not looked at: captures on the sending machine show them before the card fills them in.
 *   7. A payload shorter than its header says (snap length, wrong length) is given as far as it goes, CR_RECORD_CUT.
 */
#ifndef CALLREEL_LINK_LAYER_H
#define CALLREEL_LINK_LAYER_H

#include <stdint.h>
#include <string.h>

#include "callreel/bytes.h"
#include "callreel/capture_file.h"
#include "callreel/flow_table.h"
#include "callreel/ip_fragments.h"
#include "callreel/packet_record.h"

enum { CR_PROTOCOL_TCP = 6, CR_PROTOCOL_UDP = 17 }; /* IANA protocol numbers */

typedef enum {
    CR_PACKET_UDP,
    CR_PACKET_TCP,
    CR_PACKET_ICMP_EMBEDDED, /* an ICMP error with a packet in it */
    CR_PACKET_OTHER,         /* well formed, nothing for us */
    CR_PACKET_MALFORMED,     /* headers cut off or contradicting each other */
    CR_PACKET_FRAGMENT,      /* kept until the others arrive, or dropped */
    CR_PACKET_UNKNOWN_LINK
} cr_packet_kind;

typedef struct {
    cr_flow_key key;
    const uint8_t *payload; /* inside the frame, or inside `completed` of the fragments */
    uint32_t length, wire_length;
    uint32_t tcp_seq;
    uint16_t flags; /* CR_RECORD_* */
    int16_t vlan;   /* outermost tag, -1: none */
} cr_packet;

typedef enum {
    CR_LAYER_ETHERNET,
    CR_LAYER_ETHERTYPE, /* `type` says what comes next */
    CR_LAYER_PPPOE,
    CR_LAYER_PPP,
    CR_LAYER_IP,
    CR_LAYER_PROTOCOL /* `protocol` says what comes next */
} cr_layer;

#define CR_PORT_GTP_U 2152
#define CR_GTP_U_CUT UINT32_MAX

/* Bytes before the user's IP packet in a GTP-U message; 0 if it is another message or none, CR_GTP_U_CUT if one that
 * ends too early (3GPP TS 29.281 section 5.1):
 *
 *    0 version 1 (3 bits) 1 (1) 0 E S PN   1 message type, 255: G-PDU   2 length   4 tunnel   8 sequence number,
 *   10 N-PDU number, 11 next extension header, if any of E, S, PN   then extension headers of length * 4 bytes */
static inline uint32_t cr_gtp_u_header(const uint8_t *at, uint32_t there)
{
    uint32_t header = 8, next;
    if (there < 2)
        return CR_GTP_U_CUT;
    if ((at[0] & 0xF8) != 0x30 || at[1] != 255)
        return 0;
    if (at[0] & 7) {
        header = 12;
        if (there < header)
            return CR_GTP_U_CUT;
        next = at[0] & 4 ? at[11] : 0;
        while (next) {
            uint32_t extension;
            if (there < header + 4)
                return CR_GTP_U_CUT;
            extension = 4u * at[header];
            if (extension == 0 || there < header + extension)
                return CR_GTP_U_CUT;
            next = at[header + extension - 1];
            header += extension;
        }
    }
    return there <= header ? CR_GTP_U_CUT : header;
}

static inline cr_packet_kind cr_packet_decode(const cr_frame *frame, cr_fragments *fragments, cr_packet *packet)
{
    const uint8_t *at = frame->bytes, *end = at + frame->captured_bytes;
    cr_layer layer = CR_LAYER_IP;
    uint32_t type = 0, protocol = 0;
    uint32_t family = 0;
    uint32_t declared = 0; /* bytes after `at` by the IP header; end - at is less if the capture was cut */

    packet->vlan = -1;
    packet->flags = 0;
    packet->tcp_seq = 0;

    switch (frame->link_type) {
    case 1:
        layer = CR_LAYER_ETHERNET;
        break;
    case 12: case 14: case 101: case 228: case 229:
        break;
    case 113: /* 0 direction 2 ARPHRD_ 4 address length 6 address 14 EtherType */
        if (end - at < 16)
            return CR_PACKET_MALFORMED;
        type = cr_load_u16be(at + 14);
        at += 16;
        layer = CR_LAYER_ETHERTYPE;
        break;
    case 276: /* 0 EtherType 4 interface 8 ARPHRD_ 10 direction 11 address length 12 address */
        if (end - at < 20)
            return CR_PACKET_MALFORMED;
        type = cr_load_u16be(at);
        at += 20;
        layer = CR_LAYER_ETHERTYPE;
        break;
    case 0: case 108: { /* address family as the capturing machine numbers and stores it */
        uint32_t number;
        if (end - at < 4)
            return CR_PACKET_MALFORMED;
        number = cr_load_u32be(at);
        if (number > 0xFFFF)
            number = cr_load_u32le(at);
        /* AF_INET is 2 everywhere; AF_INET6 is 24 (NetBSD, OpenBSD), 28 (FreeBSD), 30 (macOS), 10 (Linux), 23 (Windows) */
        if (number != 2 && number != 24 && number != 28 && number != 30 && number != 10 && number != 23)
            return CR_PACKET_OTHER;
        at += 4;
        break;
    }
    case 9: case 50:
        layer = CR_LAYER_PPP;
        break;
    case 51:
        layer = CR_LAYER_PPPOE;
        break;
    default:
        return CR_PACKET_UNKNOWN_LINK;
    }

    for (;;) {
        uint32_t there = (uint32_t)(end - at);
        switch (layer) {
        case CR_LAYER_ETHERNET:
            if (there < 14)
                return CR_PACKET_MALFORMED;
            type = cr_load_u16be(at + 12);
            at += 14;
            layer = CR_LAYER_ETHERTYPE;
            break;

        case CR_LAYER_ETHERTYPE:
            switch (type) {
            case 0x0800: case 0x86DD:
                layer = CR_LAYER_IP;
                break;
            case 0x8100: case 0x88A8: case 0x9100: case 0x9200:
                if (there < 4)
                    return CR_PACKET_MALFORMED;
                /* number 0 carries only a priority */
                if (packet->vlan < 0 && (cr_load_u16be(at) & 0xFFF))
                    packet->vlan = (int16_t)(cr_load_u16be(at) & 0xFFF);
                type = cr_load_u16be(at + 2);
                at += 4;
                break;
            case 0x8864:
                layer = CR_LAYER_PPPOE;
                break;
            case 0x8847: case 0x8848: { /* label 20, class 3, bottom of the stack 1, time to live 8 bits */
                int bottom = 0;
                while (!bottom) {
                    if (end - at < 4)
                        return CR_PACKET_MALFORMED;
                    bottom = at[2] & 1;
                    at += 4;
                }
                if (at == end)
                    return CR_PACKET_MALFORMED;
                if (at[0] >> 4 != 4 && at[0] >> 4 != 6)
                    return CR_PACKET_OTHER; /* nothing in MPLS says what it carries; IP shows its version */
                layer = CR_LAYER_IP;
                break;
            }
            default:
                /* up to 1500 a length: IEEE 802.2; SNAP (RFC 1042) puts an EtherType behind it */
                if (type > 1500 || there < 8 || memcmp(at, "\xAA\xAA\x03\0\0\0", 6) != 0)
                    return CR_PACKET_OTHER;
                type = cr_load_u16be(at + 6);
                at += 8;
                break;
            }
            break;

        case CR_LAYER_PPPOE: /* 0 version and type 1, 1: code, 0 in a session; 2 session 4 length */
            if (there < 6)
                return CR_PACKET_MALFORMED;
            if (at[0] != 0x11 || at[1] != 0)
                return CR_PACKET_OTHER;
            at += 6;
            layer = CR_LAYER_PPP;
            break;

        case CR_LAYER_PPP: /* RFC 1661, 1662: address and control, then a protocol of 2 bytes, 1 if compressed (odd) */
            if (there >= 2 && at[0] == 0xFF && at[1] == 0x03) {
                at += 2;
                there -= 2;
            }
            if (there < 2)
                return CR_PACKET_MALFORMED;
            type = at[0] & 1 ? at[0] : cr_load_u16be(at);
            at += at[0] & 1 ? 1 : 2;
            if (type != 0x0021 && type != 0x0057)
                return CR_PACKET_OTHER;
            layer = CR_LAYER_IP;
            break;

        case CR_LAYER_IP: {
            cr_fragment_key key;
            cr_whole_datagram whole;
            uint32_t header, total, fragment;
            if (there < 1)
                return CR_PACKET_MALFORMED;
            if (at[0] >> 4 == 6) { /* 4 payload length 6 next header 8 source 24 destination */
                if (there < 40)
                    return CR_PACKET_MALFORMED;
                family = 6;
                protocol = at[6];
                declared = cr_load_u16be(at + 4);
                memcpy(packet->key.word, at + 8, 32); /* both addresses */
                at += 40;
                if (declared == 0)
                    declared = there - 40;
                if (declared < (uint32_t)(end - at))
                    end = at + declared;
                layer = CR_LAYER_PROTOCOL;
                break;
            }
            /* 0 version, header length / 4  2 total length 4 identification 6 DF MF offset / 8  9 protocol
             * 12 source 16 destination 20 options */
            header = (uint32_t)(at[0] & 15) * 4;
            if (at[0] >> 4 != 4 || header < 20 || there < header)
                return CR_PACKET_MALFORMED;
            total = cr_load_u16be(at + 2);
            if (total == 0)
                total = there;
            if (total < header)
                return CR_PACKET_MALFORMED;
            family = 4;
            protocol = at[9];
            fragment = cr_load_u16be(at + 6);
            memset(packet->key.word, 0, 32);
            memcpy(&packet->key.word[0], at + 12, 4);
            memcpy(&packet->key.word[2], at + 16, 4);
            key.identification = cr_load_u16be(at + 4);
            at += header;
            declared = total - header;
            if (declared < (uint32_t)(end - at))
                end = at + declared;
            layer = CR_LAYER_PROTOCOL;
            if ((fragment & 0x3FFF) == 0)
                break;
            if ((uint32_t)(end - at) < declared) { /* cut off: the datagram can never be whole */
                fragments->seen++;
                fragments->dropped++;
                return CR_PACKET_FRAGMENT;
            }
            memcpy(key.addresses, packet->key.word, 32);
            key.family = 4;
            key.protocol = (uint8_t)protocol;
            key.zero = 0;
            switch (cr_fragments_add(fragments, &key, (uint8_t)protocol, (fragment & 0x1FFF) * 8, fragment >> 13 & 1,
                                     at, declared, frame->time_ns, &whole)) {
            case CR_FRAGMENT_MALFORMED:
                return CR_PACKET_MALFORMED;
            case CR_FRAGMENT_KEPT:
                return CR_PACKET_FRAGMENT;
            case CR_FRAGMENT_COMPLETED:
                break;
            }
            at = whole.bytes;
            end = at + whole.length;
            declared = whole.length;
            packet->flags |= CR_RECORD_REASSEMBLED;
            break;
        }

        case CR_LAYER_PROTOCOL:
            switch (protocol) {
            case CR_PROTOCOL_UDP: { /* 0 source port 2 destination port 4 length 6 checksum */
                uint32_t length;
                if (there < 8)
                    return CR_PACKET_MALFORMED;
                length = cr_load_u16be(at + 4);
                if (length < 8)
                    return CR_PACKET_MALFORMED;
                if (cr_load_u16be(at) == CR_PORT_GTP_U || cr_load_u16be(at + 2) == CR_PORT_GTP_U) {
                    uint32_t header = cr_gtp_u_header(at + 8, (length < there ? length : there) - 8);
                    if (header == CR_GTP_U_CUT)
                        return CR_PACKET_MALFORMED;
                    if (header) {
                        at += 8 + header;
                        layer = CR_LAYER_IP;
                        break;
                    }
                }
                packet->key.word[4] = (uint64_t)cr_load_u16be(at) | (uint64_t)cr_load_u16be(at + 2) << 16 |
                                      (uint64_t)CR_PROTOCOL_UDP << 32 | (uint64_t)family << 40;
                packet->payload = at + 8;
                packet->wire_length = length - 8;
                packet->length = there - 8;
                if (packet->length > packet->wire_length)
                    packet->length = packet->wire_length;
                if (packet->length < packet->wire_length)
                    packet->flags |= CR_RECORD_CUT;
                return CR_PACKET_UDP;
            }
            case CR_PROTOCOL_TCP: { /* 0 ports 4 sequence number 8 acknowledgment 12 header length / 4, 13 flags */
                uint32_t header;
                if (there < 20)
                    return CR_PACKET_MALFORMED;
                header = (uint32_t)(at[12] >> 4) * 4;
                if (header < 20 || there < header)
                    return CR_PACKET_MALFORMED;
                packet->key.word[4] = (uint64_t)cr_load_u16be(at) | (uint64_t)cr_load_u16be(at + 2) << 16 |
                                      (uint64_t)CR_PROTOCOL_TCP << 32 | (uint64_t)family << 40;
                packet->payload = at + header;
                packet->wire_length = declared - header;
                packet->length = there - header;
                packet->tcp_seq = cr_load_u32be(at + 4);
                packet->flags |= (uint16_t)((at[13] & 2 ? CR_RECORD_TCP_SYN : 0) | (at[13] & 1 ? CR_RECORD_TCP_FIN : 0) |
                                            (at[13] & 4 ? CR_RECORD_TCP_RST : 0) |
                                            (packet->length < packet->wire_length ? CR_RECORD_CUT : 0));
                return CR_PACKET_TCP;
            }
            case 1: /* ICMP: unreachable, source quench, redirect, time exceeded, parameter problem (RFC 792) */
                if (family != 4)
                    return CR_PACKET_OTHER;
                if (there < 8)
                    return CR_PACKET_MALFORMED;
                return at[0] == 3 || at[0] == 4 || at[0] == 5 || at[0] == 11 || at[0] == 12 ? CR_PACKET_ICMP_EMBEDDED
                                                                                            : CR_PACKET_OTHER;
            case 58: /* ICMPv6: errors are the types below 128 (RFC 4443) */
                if (family != 6)
                    return CR_PACKET_OTHER;
                if (there < 8)
                    return CR_PACKET_MALFORMED;
                return at[0] < 128 ? CR_PACKET_ICMP_EMBEDDED : CR_PACKET_OTHER;
            case 4: case 41: /* IP in IP */
                layer = CR_LAYER_IP;
                break;
            case 0: case 43: case 60: case 135: case 51: { /* 0 next header 1 length */
                uint32_t header;
                if (family != 6 && protocol != 51)
                    return CR_PACKET_OTHER;
                if (there < 8)
                    return CR_PACKET_MALFORMED;
                header = protocol == 51 ? (at[1] + 2u) * 4 : (at[1] + 1u) * 8;
                if (there < header)
                    return CR_PACKET_MALFORMED;
                protocol = at[0];
                at += header;
                declared -= header;
                break;
            }
            case 44: { /* 0 next header 2 offset (a multiple of 8), more 4 identification */
                cr_fragment_key key;
                cr_whole_datagram whole;
                uint32_t fragment;
                if (family != 6)
                    return CR_PACKET_OTHER;
                if (there < 8)
                    return CR_PACKET_MALFORMED;
                fragment = cr_load_u16be(at + 2);
                protocol = at[0];
                key.identification = cr_load_u32be(at + 4);
                at += 8;
                declared -= 8;
                if ((fragment & 0xFFF9) == 0) /* whole in one fragment (RFC 6946) */
                    break;
                if ((uint32_t)(end - at) < declared) {
                    fragments->seen++;
                    fragments->dropped++;
                    return CR_PACKET_FRAGMENT;
                }
                memcpy(key.addresses, packet->key.word, 32);
                key.family = 6;
                key.protocol = 0;
                key.zero = 0;
                switch (cr_fragments_add(fragments, &key, (uint8_t)protocol, fragment & 0xFFF8, (int)(fragment & 1), at,
                                         declared, frame->time_ns, &whole)) {
                case CR_FRAGMENT_MALFORMED:
                    return CR_PACKET_MALFORMED;
                case CR_FRAGMENT_KEPT:
                    return CR_PACKET_FRAGMENT;
                case CR_FRAGMENT_COMPLETED:
                    break;
                }
                at = whole.bytes;
                end = at + whole.length;
                declared = whole.length;
                protocol = whole.protocol;
                packet->flags |= CR_RECORD_REASSEMBLED;
                break;
            }
            case 47: { /* GRE: 0 flags (checksum, routing, key, sequence number ... version) 2 EtherType */
                uint32_t flags, header = 4;
                if (there < 4)
                    return CR_PACKET_MALFORMED;
                flags = cr_load_u16be(at);
                type = cr_load_u16be(at + 2);
                if ((flags & 0x4000) || (flags & 7) > 1)
                    return CR_PACKET_OTHER;
                header += flags & 0x8000 ? 4 : 0;
                header += flags & 0x2000 ? 4 : 0;
                header += flags & 0x1000 ? 4 : 0;
                header += (flags & 7) == 1 && (flags & 0x0080) ? 4 : 0; /* acknowledgment, PPTP only */
                if (type == 0x88BE && (flags & 0x1000))
                    header += 8; /* ERSPAN type II; without sequence numbers it is type I, which has no header */
                if (type == 0x22EB) { /* ERSPAN type III, its last bit: 8 more bytes */
                    if (there < header + 12)
                        return CR_PACKET_MALFORMED;
                    header += at[header + 11] & 1 ? 20 : 12;
                }
                if (there < header)
                    return CR_PACKET_MALFORMED;
                at += header;
                layer = CR_LAYER_ETHERTYPE;
                if (type == 0x6558 || type == 0x88BE || type == 0x22EB)
                    layer = CR_LAYER_ETHERNET;
                else if (type == 0x880B)
                    layer = CR_LAYER_PPP;
                break;
            }
            default:
                return CR_PACKET_OTHER;
            }
            break;
        }
    }
}

#endif
