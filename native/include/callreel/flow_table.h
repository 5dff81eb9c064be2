/* Flows: one direction of an address pair with ports and protocol gets one number, in order of appearance.
 *
 * How:  an array of flows, and beside it an open-addressed table of their numbers, at most half full. The hash is a
 *       folded 64 x 64 bit product keyed with a secret, since whoever sent the packets chose the addresses: without
 *       the secret they cannot make all of them meet in one corner of the table. The secret never shows in a result.
 *
 * Requirements, tests in tests/native/test_pcap.py:
 *   1. Numbers are dense and do not depend on the secret. 2. Memory grows with the flows seen, to the given limit.
 */
#ifndef CALLREEL_FLOW_TABLE_H
#define CALLREEL_FLOW_TABLE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CR_FLOW_NONE UINT32_MAX      /* the table is full */
#define CR_FLOW_NO_MEMORY (UINT32_MAX - 1)

/* word 0, 1 source; 2, 3 destination (address bytes, IPv4 in the first four of 16, the rest 0);
 * 4: source port, destination port << 16, protocol << 32, family (4 or 6) << 40 */
typedef struct {
    uint64_t word[5];
} cr_flow_key;

typedef struct {
    cr_flow_key key;
    uint32_t batch_records; /* in the batch being made */
    uint32_t batch_next;    /* where the next of them goes when they are sorted */
    int16_t vlan;           /* outermost, of the packet that began the flow; -1: none */
    uint8_t ignored;
} cr_flow;

typedef struct {
    cr_flow *flows;
    uint64_t *slots; /* upper half of the hash << 32 | number + 1; 0: free */
    uint32_t used, capacity, limit;
    uint32_t slots_mask; /* slots - 1; slots is a power of two */
    uint64_t secret[2];
} cr_flow_table;

/* Upper and lower half of the 128-bit product, folded. */
static inline uint64_t cr_fold_product(uint64_t a, uint64_t b)
{
#if defined(__SIZEOF_INT128__)
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
#else
    uint64_t al = (uint32_t)a, ah = a >> 32, bl = (uint32_t)b, bh = b >> 32;
    uint64_t low = al * bl, cross1 = ah * bl, cross2 = al * bh, high = ah * bh;
    uint64_t middle = (low >> 32) + (uint32_t)cross1 + (uint32_t)cross2;
    return (middle << 32 | (uint32_t)low) ^ (high + (cross1 >> 32) + (cross2 >> 32) + (middle >> 32));
#endif
}

static inline uint64_t cr_flow_hash(const cr_flow_table *table, const cr_flow_key *key)
{
    uint64_t hash = cr_fold_product(key->word[0] ^ table->secret[0], key->word[1] ^ table->secret[1]);
    hash = cr_fold_product(key->word[2] ^ hash, key->word[3] ^ table->secret[0]);
    return cr_fold_product(key->word[4] ^ hash, table->secret[1]);
}

static inline int cr_flow_key_equal(const cr_flow_key *a, const cr_flow_key *b)
{
    return ((a->word[0] ^ b->word[0]) | (a->word[1] ^ b->word[1]) | (a->word[2] ^ b->word[2]) |
            (a->word[3] ^ b->word[3]) | (a->word[4] ^ b->word[4])) == 0;
}

static inline void cr_flow_table_free(cr_flow_table *table)
{
    free(table->flows);
    free(table->slots);
    memset(table, 0, sizeof *table);
}

/* Twice the room; 0: no memory, and nothing has changed. */
static inline int cr_flow_table_grow(cr_flow_table *table)
{
    uint32_t capacity = table->capacity ? table->capacity * 2 : 64;
    uint32_t mask = capacity * 2 - 1;
    cr_flow *flows = (cr_flow *)realloc(table->flows, capacity * sizeof *flows);
    uint64_t *slots;
    if (flows == NULL)
        return 0;
    table->flows = flows;
    slots = (uint64_t *)calloc((size_t)mask + 1, sizeof *slots);
    if (slots == NULL)
        return 0;
    for (uint32_t i = 0; i < table->used; i++) {
        uint64_t hash = cr_flow_hash(table, &flows[i].key);
        uint32_t at = (uint32_t)hash & mask;
        while (slots[at])
            at = (at + 1) & mask;
        slots[at] = (hash & UINT64_C(0xFFFFFFFF00000000)) | (i + 1);
    }
    free(table->slots);
    table->slots = slots;
    table->slots_mask = mask;
    table->capacity = capacity;
    return 1;
}

/* Number of the flow with this key, a new one if it has none. */
static inline uint32_t cr_flow_number(cr_flow_table *table, const cr_flow_key *key, int16_t vlan)
{
    uint64_t hash = cr_flow_hash(table, key), tag = hash & UINT64_C(0xFFFFFFFF00000000);
    uint32_t at;
    cr_flow *flow;
    if (table->slots == NULL && !cr_flow_table_grow(table))
        return CR_FLOW_NO_MEMORY;
    for (at = (uint32_t)hash & table->slots_mask; table->slots[at]; at = (at + 1) & table->slots_mask)
        if ((table->slots[at] & UINT64_C(0xFFFFFFFF00000000)) == tag) {
            uint32_t number = (uint32_t)table->slots[at] - 1;
            if (cr_flow_key_equal(&table->flows[number].key, key))
                return number;
        }
    if (table->used >= table->limit)
        return CR_FLOW_NONE;
    if (table->used == table->capacity) {
        if (!cr_flow_table_grow(table))
            return CR_FLOW_NO_MEMORY;
        for (at = (uint32_t)hash & table->slots_mask; table->slots[at]; at = (at + 1) & table->slots_mask)
            ;
    }
    table->slots[at] = tag | (table->used + 1);
    flow = table->flows + table->used;
    memset(flow, 0, sizeof *flow);
    flow->key = *key;
    flow->vlan = vlan;
    return table->used++;
}

#endif
