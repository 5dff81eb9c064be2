/* A capture -> batches of packet records sorted by flow: the pcap kernel as a whole.
 *
 * What: feeds pieces of a file through capture_file.h and link_layer.h, numbers the flows, copies the payloads one after
 *       another into an arena and writes a record for each.
 * How:  payloads are copied (172 bytes cost less than a cache miss), so that a batch owns its bytes and the caller may
 *       reuse the piece it lent. Records are written in order of arrival into scratch memory, counted by flow on the
 *       way, and put in order of flow at the end by one pass of counting sort:
 *
 *           frame 1 2 3 4 5      flow 0 1 0 2 0     ->    frame 1 3 5 | 2 | 4      groups (0,0,3) (1,3,1) (2,4,1)
 *
 * Delivered: UDP payloads of at least one byte; TCP segments with payload, SYN, FIN or RST.
 * Counted:   each frame once as udp, tcp, icmp_embedded, other, malformed or unknown_link_type, unless it is a fragment
 *            that completes nothing: their sum is frames - fragments + reassembled.
 */
#ifndef CALLREEL_CAPTURE_READER_H
#define CALLREEL_CAPTURE_READER_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "callreel/capture_file.h"
#include "callreel/flow_table.h"
#include "callreel/ip_fragments.h"
#include "callreel/link_layer.h"
#include "callreel/packet_record.h"

#define CR_SCRATCH_RECORDS_KEPT 65536u /* 2.5 MiB; scratch memory above is given back after each batch */

typedef struct {
    uint64_t frames, bytes, udp, tcp, icmp_embedded, other, malformed, snapped, unknown_link_type, flows_dropped;
} cr_reader_counts;

typedef struct {
    uint32_t flow, first_record, records;
} cr_flow_group;

typedef struct {
    cr_capture_file file;
    cr_fragments fragments;
    cr_flow_table flows;
    cr_reader_counts counts;
    /* the batch being made */
    cr_packet_record *records; /* in order of arrival */
    size_t records_used, records_capacity;
    cr_flow_group *groups; /* one for each flow of the batch; in order of flow after cr_reader_sort */
    uint32_t groups_used, groups_capacity;
    uint8_t *data;
    size_t data_used, data_capacity;
    int64_t first_time_ns, last_time_ns;
} cr_capture_reader;

static inline void cr_reader_free(cr_capture_reader *reader)
{
    cr_capture_free(&reader->file);
    cr_fragments_free(&reader->fragments);
    cr_flow_table_free(&reader->flows);
    free(reader->records);
    free(reader->groups);
    memset(reader, 0, sizeof *reader);
}

/* The arena that cr_reader_feed needs for `size` bytes: no payload byte comes from anywhere but the piece, the record
 * kept from the one before, and waiting fragments. */
static inline size_t cr_reader_arena_bytes(const cr_capture_reader *reader, size_t size)
{
    return size + reader->file.held_bytes + reader->fragments.capacity_bytes;
}

static inline int cr_reader_record(cr_capture_reader *reader, const cr_frame *frame, const cr_packet *packet)
{
    cr_packet_record *record;
    cr_flow *flow;
    uint32_t number = cr_flow_number(&reader->flows, &packet->key, packet->vlan);
    if (number == CR_FLOW_NO_MEMORY)
        return 0;
    if (number == CR_FLOW_NONE) {
        reader->counts.flows_dropped++;
        return 1;
    }
    flow = reader->flows.flows + number;
    if (flow->ignored)
        return 1;
    if (reader->records_used == reader->records_capacity) {
        size_t capacity = reader->records_capacity ? reader->records_capacity * 2 : 256;
        cr_packet_record *larger = (cr_packet_record *)realloc(reader->records, capacity * sizeof *larger);
        if (larger == NULL)
            return 0;
        reader->records = larger;
        reader->records_capacity = capacity;
    }
    if (flow->batch_records == 0) {
        if (reader->groups_used == reader->groups_capacity) {
            uint32_t capacity = reader->groups_capacity ? reader->groups_capacity * 2 : 64;
            cr_flow_group *larger = (cr_flow_group *)realloc(reader->groups, capacity * sizeof *larger);
            if (larger == NULL)
                return 0;
            reader->groups = larger;
            reader->groups_capacity = capacity;
        }
        reader->groups[reader->groups_used++].flow = number;
    }
    if (packet->length > reader->data_capacity - reader->data_used)
        return 0; /* cannot be, see cr_reader_arena_bytes */
    flow->batch_records++;
    record = reader->records + reader->records_used++;
    record->time_ns = frame->time_ns;
    record->frame = reader->counts.frames;
    record->offset = (uint32_t)reader->data_used;
    record->length = packet->length;
    record->flow = number;
    record->wire_length = packet->wire_length;
    record->tcp_seq = packet->tcp_seq;
    record->flags = packet->flags;
    record->reserved = 0;
    memcpy(reader->data + reader->data_used, packet->payload, packet->length);
    reader->data_used += packet->length;
    if (reader->records_used == 1 || frame->time_ns < reader->first_time_ns)
        reader->first_time_ns = frame->time_ns;
    if (reader->records_used == 1 || frame->time_ns > reader->last_time_ns)
        reader->last_time_ns = frame->time_ns;
    return 1;
}

/* Reads all whole frames of the next `size` bytes into `data`, which has `capacity` bytes (cr_reader_arena_bytes).
 * Returns 0 when there was no memory: the reader is stopped then. */
static inline int cr_reader_feed(cr_capture_reader *reader, const uint8_t *bytes, size_t size, uint8_t *data,
                                 size_t capacity)
{
    cr_reader_counts *counts = &reader->counts;
    cr_packet packet;
    cr_frame frame;
    reader->data = data;
    reader->data_used = 0;
    reader->data_capacity = capacity;
    counts->bytes += size;
    cr_capture_offer(&reader->file, bytes, size);
    for (;;) {
        cr_capture_step step = cr_capture_next(&reader->file, &frame);
        int deliver = 0;
        if (step == CR_CAPTURE_WAIT)
            return 1;
        if (step == CR_CAPTURE_STOPPED)
            return reader->file.problem != CR_PROBLEM_MEMORY;
        counts->frames++;
        if (step == CR_CAPTURE_BAD_FRAME) {
            counts->malformed++;
            continue;
        }
        switch (cr_packet_decode(&frame, &reader->fragments, &packet)) {
        case CR_PACKET_UDP:
            counts->udp++;
            deliver = packet.length > 0;
            break;
        case CR_PACKET_TCP:
            counts->tcp++;
            deliver = packet.length > 0 ||
                      packet.flags & (CR_RECORD_TCP_SYN | CR_RECORD_TCP_FIN | CR_RECORD_TCP_RST);
            break;
        case CR_PACKET_ICMP_EMBEDDED:
            counts->icmp_embedded++;
            continue;
        case CR_PACKET_OTHER:
            counts->other++;
            continue;
        case CR_PACKET_MALFORMED:
            counts->malformed++;
            continue;
        case CR_PACKET_FRAGMENT:
            continue;
        case CR_PACKET_UNKNOWN_LINK:
            counts->unknown_link_type++;
            continue;
        }
        counts->snapped += (packet.flags & CR_RECORD_CUT) != 0;
        if (deliver && !cr_reader_record(reader, &frame, &packet)) {
            cr_capture_stop(&reader->file, CR_PROBLEM_MEMORY, reader->file.record_offset);
            return 0;
        }
    }
}

static inline int cr_flow_group_order(const void *a, const void *b)
{
    uint32_t left = ((const cr_flow_group *)a)->flow, right = ((const cr_flow_group *)b)->flow;
    return left < right ? -1 : left > right;
}

/* Writes the batch's records in order of flow to `sorted` (records_used of them, any alignment) and fills `groups`.
 * The next cr_reader_feed begins a new batch. */
static inline void cr_reader_sort(cr_capture_reader *reader, uint8_t *sorted)
{
    uint32_t next = 0;
    if (reader->groups_used == 0)
        return;
    qsort(reader->groups, reader->groups_used, sizeof *reader->groups, cr_flow_group_order);
    for (uint32_t i = 0; i < reader->groups_used; i++) {
        cr_flow *flow = reader->flows.flows + reader->groups[i].flow;
        reader->groups[i].first_record = next;
        reader->groups[i].records = flow->batch_records;
        flow->batch_next = next;
        next += flow->batch_records;
        flow->batch_records = 0;
    }
    for (size_t i = 0; i < reader->records_used; i++) {
        const cr_packet_record *record = reader->records + i;
        memcpy(sorted + (size_t)reader->flows.flows[record->flow].batch_next++ * sizeof *record, record, sizeof *record);
    }
}

/* Forget the batch; its groups are lost. */
static inline void cr_reader_clear_batch(cr_capture_reader *reader)
{
    if (reader->records_capacity > CR_SCRATCH_RECORDS_KEPT) {
        free(reader->records);
        reader->records = NULL;
        reader->records_capacity = 0;
    }
    reader->records_used = 0;
    reader->groups_used = 0;
    reader->data = NULL;
    reader->data_used = reader->data_capacity = 0;
}

/* The file has ended. */
static inline void cr_reader_end(cr_capture_reader *reader)
{
    cr_capture_end(&reader->file);
    cr_fragments_end(&reader->fragments);
}

#endif
