/* One packet of a capture, as the pcap kernel hands it over and the rtp kernel takes it: 40 bytes, native byte order.
 *
 *      byte 0          8          16       20       24     28            32        36      38
 *           | time_ns  | frame    | offset | length | flow | wire_length | tcp_seq | flags | reserved |
 *
 * Records of one batch are sorted by flow; those of one flow keep the order of the capture. A record's payload is
 * `length` bytes at `offset` of the batch's data. No field needs padding, so the layout is the same on every platform.
 */
#ifndef CALLREEL_PACKET_RECORD_H
#define CALLREEL_PACKET_RECORD_H

#include <stddef.h>
#include <stdint.h>

/* cr_packet_record.flags */
#define CR_RECORD_CUT 1u         /* fewer payload bytes than the headers promise: snap length, or a wrong length field */
#define CR_RECORD_REASSEMBLED 2u /* joined from IP fragments; time and frame are those of the fragment that completed it */
#define CR_RECORD_TCP_SYN 4u
#define CR_RECORD_TCP_FIN 8u
#define CR_RECORD_TCP_RST 16u

typedef struct {
    int64_t time_ns;      /* since 1970-01-01 UTC, by the clock of the capturing machine */
    uint64_t frame;       /* 1 for the first packet of the file */
    uint32_t offset;      /* of the payload in the batch's data, bytes */
    uint32_t length;      /* of the payload as captured, bytes */
    uint32_t flow;        /* number of the flow, 0 for the first one seen */
    uint32_t wire_length; /* of the payload by its UDP or IP header, bytes; >= length */
    uint32_t tcp_seq;     /* 0 for UDP */
    uint16_t flags;
    uint16_t reserved;    /* 0 */
} cr_packet_record;

_Static_assert(sizeof(cr_packet_record) == 40, "packet records are read by other kernels and by numpy");
_Static_assert(offsetof(cr_packet_record, offset) == 16, "no padding");
_Static_assert(offsetof(cr_packet_record, tcp_seq) == 32, "no padding");
_Static_assert(offsetof(cr_packet_record, flags) == 36, "no padding");

#endif
