/* Where packets wait until they are asked for: queues of blocks from one pool, each with packet records and their bytes.
 *
 *      block (4 KiB)   | head | record record record ...  ->   free   <-  ... payload payload payload |
 *
 * A queue takes a block when it needs one and gives it back when its packets were taken; the block given back last is the
 * next to be used, for it is in the cache. The pool grows to its limit, and each queue to its own.
 *
 * Requirements, tests in tests/native/test_udp.py and tests/fuzz/demultiplexer.c:
 *   1. A record's payload lies within its block. 2. What finds no room is refused, and nothing else changes.
 *   3. No block is in two queues, and none is lost.
 */
#ifndef CALLREEL_PACKET_BLOCKS_H
#define CALLREEL_PACKET_BLOCKS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "callreel/packet_record.h"

#define CR_NONE UINT32_MAX
#define CR_BLOCK_BYTES 4096u
#define CR_SLAB_BLOCKS 64u
#define CR_QUEUE_BLOCKS 64u /* of one queue: a source that floods takes no other's room; 1,200 packets of 20 ms, 24 s */

typedef struct {
    uint32_t next;
    uint16_t records;
    uint16_t low; /* where the payloads begin */
    uint64_t reserved;
    uint8_t bytes[CR_BLOCK_BYTES - 16];
} cr_block;

#define CR_BLOCK_ROOM ((uint32_t)sizeof(((cr_block *)0)->bytes))

_Static_assert(sizeof(cr_block) == CR_BLOCK_BYTES, "a block is a page");

typedef struct {
    cr_block **slabs;
    uint32_t slab_count, limit; /* blocks */
    uint32_t free, used;        /* list of those given back; blocks in queues */
    uint32_t fresh;             /* blocks that were in use at some time */
} cr_block_pool;

typedef struct {
    uint32_t head, tail, blocks;
} cr_queue;

static inline cr_block *cr_block_at(const cr_block_pool *p, uint32_t number)
{
    return p->slabs[number / CR_SLAB_BLOCKS] + number % CR_SLAB_BLOCKS;
}

/* 0: no memory. */
static inline int cr_block_pool_init(cr_block_pool *p, uint64_t limit_bytes)
{
    uint64_t slabs = limit_bytes / (CR_BLOCK_BYTES * CR_SLAB_BLOCKS);
    memset(p, 0, sizeof *p);
    slabs = slabs < 1 ? 1 : slabs > (1u << 20) ? 1u << 20 : slabs;
    p->limit = (uint32_t)slabs * CR_SLAB_BLOCKS;
    p->free = CR_NONE;
    p->slabs = (cr_block **)calloc(slabs, sizeof *p->slabs);
    return p->slabs != NULL;
}

static inline void cr_block_pool_free(cr_block_pool *p)
{
    for (uint32_t i = 0; i < p->slab_count; i++)
        free(p->slabs[i]);
    free(p->slabs);
    memset(p, 0, sizeof *p);
}

static inline uint32_t cr_block_take(cr_block_pool *p)
{
    uint32_t number = p->free;
    cr_block *block;
    if (number == CR_NONE) {
        if (p->fresh == p->limit)
            return CR_NONE;
        if (p->fresh == p->slab_count * CR_SLAB_BLOCKS) {
            cr_block *slab = (cr_block *)malloc((size_t)CR_SLAB_BLOCKS * sizeof *slab);
            if (!slab)
                return CR_NONE;
            p->slabs[p->slab_count++] = slab;
        }
        number = p->fresh++;
        block = cr_block_at(p, number);
    } else {
        block = cr_block_at(p, number);
        p->free = block->next;
    }
    block->next = CR_NONE;
    block->records = 0;
    block->low = (uint16_t)CR_BLOCK_ROOM;
    p->used++;
    return number;
}

/* Give back a chain of blocks; `last` is the end of it. */
static inline void cr_blocks_give_back(cr_block_pool *p, uint32_t first, uint32_t last, uint32_t count)
{
    if (first == CR_NONE)
        return;
    cr_block_at(p, last)->next = p->free;
    p->free = first;
    p->used -= count;
}

static inline void cr_queue_init(cr_queue *q)
{
    q->head = q->tail = CR_NONE;
    q->blocks = 0;
}

/* Begin a block although the last one may have room; 0: there is none. */
static inline int cr_queue_begin_block(cr_block_pool *p, cr_queue *q)
{
    uint32_t number;
    if (q->blocks >= CR_QUEUE_BLOCKS || (number = cr_block_take(p)) == CR_NONE)
        return 0;
    if (q->tail == CR_NONE)
        q->head = number;
    else
        cr_block_at(p, q->tail)->next = number;
    q->tail = number;
    q->blocks++;
    return 1;
}

/* Whether the last block has room for a packet. */
static inline int cr_queue_has_room(const cr_block_pool *p, const cr_queue *q, size_t size_bytes)
{
    const cr_block *block;
    if (q->tail == CR_NONE)
        return 0;
    block = cr_block_at(p, q->tail);
    return (block->records + 1u) * sizeof(cr_packet_record) + size_bytes <= block->low;
}

/* Append a packet of at most CR_BLOCK_ROOM less a record; 0: it finds no room. */
static inline int cr_queue_append(cr_block_pool *p, cr_queue *q, const uint8_t *data, uint32_t size_bytes,
                                  int64_t time_ns, uint64_t frame, uint32_t flow)
{
    cr_block *block;
    cr_packet_record record;
    if (!cr_queue_has_room(p, q, size_bytes) && !cr_queue_begin_block(p, q))
        return 0;
    block = cr_block_at(p, q->tail);
    memset(&record, 0, sizeof record);
    block->low = (uint16_t)(block->low - size_bytes);
    record.time_ns = time_ns;
    record.frame = frame;
    record.offset = block->low;
    record.length = record.wire_length = size_bytes;
    record.flow = flow;
    memcpy(block->bytes + block->records * sizeof record, &record, sizeof record);
    memcpy(block->bytes + block->low, data, size_bytes);
    block->records++;
    return 1;
}

/* Unhook the blocks before `end` (CR_NONE: all of them), as a queue of their own. */
static inline cr_queue cr_queue_detach(const cr_block_pool *p, cr_queue *q, uint32_t end)
{
    cr_queue taken;
    cr_queue_init(&taken);
    for (uint32_t at = q->head; at != end; at = cr_block_at(p, at)->next) {
        if (taken.blocks++ == 0)
            taken.head = at;
        taken.tail = at;
    }
    if (taken.blocks == 0)
        return taken;
    q->blocks -= taken.blocks;
    q->head = end;
    if (end == CR_NONE)
        q->tail = CR_NONE;
    cr_block_at(p, taken.tail)->next = CR_NONE;
    return taken;
}

static inline void cr_queue_drop(cr_block_pool *p, cr_queue *q)
{
    cr_blocks_give_back(p, q->head, q->tail, q->blocks);
    cr_queue_init(q);
}

/* How many records and payload bytes a chain holds. */
static inline void cr_queue_size(const cr_block_pool *p, const cr_queue *q, size_t *records, size_t *bytes)
{
    *records = *bytes = 0;
    for (uint32_t at = q->head; at != CR_NONE; at = cr_block_at(p, at)->next) {
        *records += cr_block_at(p, at)->records;
        *bytes += CR_BLOCK_ROOM - cr_block_at(p, at)->low;
    }
}

/* Copy them out, offsets made those of `data`. */
static inline void cr_queue_copy(const cr_block_pool *p, const cr_queue *q, uint8_t *records, uint8_t *data)
{
    uint32_t base = 0;
    for (uint32_t at = q->head; at != CR_NONE; at = cr_block_at(p, at)->next) {
        const cr_block *block = cr_block_at(p, at);
        uint32_t bytes = CR_BLOCK_ROOM - block->low;
        for (uint32_t i = 0; i < block->records; i++) {
            cr_packet_record record;
            memcpy(&record, block->bytes + i * sizeof record, sizeof record);
            record.offset = base + record.offset - block->low;
            memcpy(records, &record, sizeof record);
            records += sizeof record;
        }
        memcpy(data + base, block->bytes + block->low, bytes);
        base += bytes;
    }
}

#endif
