/* IPv4 and IPv6 fragments -> whole datagrams (RFC 791 section 3.2, RFC 8200 section 4.5).
 *
 * What: keeps fragments until all of a datagram are there, then gives its payload in one piece.
 * How:  a fragment begins at a multiple of 8 bytes, so a datagram of up to 65,535 bytes is at most 8,192 units of 8,
 *       and one bit a unit tells which have arrived:
 *
 *           fragment offset 0, 24 bytes    offset 24, 16 bytes (last)      units  1 1 1 1 1
 *           |--unit 0--|--1--|--2--|       |--3--|--4--|                   total  40 bytes, known from the last
 *
 * Requirements, tests in tests/native/test_pcap.py:
 *   1. Any order. Of units that arrive twice the first copy stays; a last fragment that would end the datagram before
 *      what has arrived, or a fragment that goes beyond a known end, adds nothing.
 *   2. A fragment that would end beyond 65,535 bytes, is empty, or is not the last and no multiple of 8 is malformed.
 *   3. Bounded: 256 datagrams, 64 KiB each, 4 MiB in all. The one begun first makes room.
 *   4. A datagram not complete 30 s after its first fragment (by packet time, either way) is given up.
 *   5. Every fragment counted in `seen` ends in a reassembled datagram, or in `dropped`, or waits.
 */
#ifndef CALLREEL_IP_FRAGMENTS_H
#define CALLREEL_IP_FRAGMENTS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CR_DATAGRAMS_MAX 256u
#define CR_DATAGRAM_BYTES_MAX 65535u
#define CR_DATAGRAM_UNITS_MAX 8192u
#define CR_FRAGMENTS_BYTES_MAX (4u << 20)
#define CR_FRAGMENTS_TIMEOUT_NS UINT64_C(30000000000) /* Linux: net.ipv4.ipfrag_time, 30 s */

/* What the fragments of one datagram have in common. Protocol 0 for IPv6, where only the first fragment's counts. */
typedef struct {
    uint64_t addresses[4]; /* source, destination: 16 bytes each, IPv4 in the first four, the rest 0 */
    uint32_t identification;
    uint8_t family, protocol; /* 4 or 6 */
    uint16_t zero;
} cr_fragment_key;

typedef struct {
    cr_fragment_key key;
    uint32_t fragments;      /* 0: this place is free */
    uint32_t total_bytes;    /* 0: the last fragment has not arrived */
    uint32_t reached_bytes;  /* the furthest end of any fragment */
    uint32_t units;          /* arrived */
    uint32_t capacity_bytes;
    uint8_t protocol; /* of the payload */
    uint8_t *bytes;
    uint64_t order; /* of their first fragments */
    int64_t first_time_ns;
    uint64_t arrived[CR_DATAGRAM_UNITS_MAX / 64];
} cr_partial_datagram;

typedef struct {
    uint32_t hashes[CR_DATAGRAMS_MAX]; /* of each place's key; 0: free. First a scan of this, then one comparison */
    cr_partial_datagram *places;       /* NULL until the first fragment */
    uint8_t *completed;                /* the datagram given out last; lives until the next one */
    uint32_t capacity_bytes;           /* of all places */
    uint64_t begun;                    /* datagrams so far */
    uint64_t seen, reassembled, dropped;
} cr_fragments;

typedef enum { CR_FRAGMENT_KEPT, CR_FRAGMENT_COMPLETED, CR_FRAGMENT_MALFORMED } cr_fragment_outcome;

typedef struct {
    const uint8_t *bytes;
    uint32_t length;
    uint8_t protocol;
} cr_whole_datagram;

static inline void cr_fragments_forget(cr_fragments *fragments, uint32_t place)
{
    cr_partial_datagram *partial = fragments->places + place;
    free(partial->bytes);
    fragments->capacity_bytes -= partial->capacity_bytes;
    fragments->hashes[place] = 0;
    partial->bytes = NULL;
    partial->capacity_bytes = 0;
    partial->fragments = 0;
}

static inline void cr_fragments_give_up(cr_fragments *fragments, uint32_t place)
{
    fragments->dropped += fragments->places[place].fragments;
    cr_fragments_forget(fragments, place);
}

/* The capture has ended: what still waits is dropped. */
static inline void cr_fragments_end(cr_fragments *fragments)
{
    for (uint32_t i = 0; i < CR_DATAGRAMS_MAX; i++)
        if (fragments->hashes[i])
            cr_fragments_give_up(fragments, i);
}

static inline void cr_fragments_free(cr_fragments *fragments)
{
    cr_fragments_end(fragments);
    free(fragments->places);
    free(fragments->completed);
    memset(fragments, 0, sizeof *fragments);
}

/* The datagram begun first, `except` aside; CR_DATAGRAMS_MAX: there is none. */
static inline uint32_t cr_fragments_oldest(const cr_fragments *fragments, uint32_t except)
{
    uint32_t oldest = CR_DATAGRAMS_MAX;
    for (uint32_t i = 0; i < CR_DATAGRAMS_MAX; i++)
        if (i != except && fragments->hashes[i] &&
            (oldest == CR_DATAGRAMS_MAX || fragments->places[i].order < fragments->places[oldest].order))
            oldest = i;
    return oldest;
}

/* Room for `end` bytes in a place; 0: no memory. */
static inline int cr_fragments_reserve(cr_fragments *fragments, uint32_t place, uint32_t end)
{
    cr_partial_datagram *partial = fragments->places + place;
    uint32_t capacity = partial->capacity_bytes ? partial->capacity_bytes : 2048;
    uint8_t *larger;
    if (end <= partial->capacity_bytes)
        return 1;
    while (capacity < end)
        capacity *= 2;
    while (fragments->capacity_bytes - partial->capacity_bytes + capacity > CR_FRAGMENTS_BYTES_MAX)
        cr_fragments_give_up(fragments, cr_fragments_oldest(fragments, place));
    larger = (uint8_t *)realloc(partial->bytes, capacity);
    if (larger == NULL)
        return 0;
    fragments->capacity_bytes += capacity - partial->capacity_bytes;
    partial->bytes = larger;
    partial->capacity_bytes = capacity;
    return 1;
}

/* The place of a datagram, a new one if it has none; CR_DATAGRAMS_MAX: no memory. */
static inline uint32_t cr_fragments_place(cr_fragments *fragments, const cr_fragment_key *key, int64_t time_ns)
{
    uint32_t words[sizeof *key / 4], hash = 2166136261u, place, unused = CR_DATAGRAMS_MAX;
    cr_partial_datagram *partial;
    memcpy(words, key, sizeof *key);
    for (size_t i = 0; i < sizeof *key / 4; i++)
        hash = (hash ^ words[i]) * 16777619u; /* collisions cost a comparison, 256 at most */
    hash |= 1;
    if (fragments->places == NULL) {
        fragments->places = (cr_partial_datagram *)calloc(CR_DATAGRAMS_MAX, sizeof *fragments->places);
        if (fragments->places == NULL)
            return CR_DATAGRAMS_MAX;
    }
    for (place = 0; place < CR_DATAGRAMS_MAX; place++) {
        if (fragments->hashes[place] == 0 && unused == CR_DATAGRAMS_MAX)
            unused = place;
        if (fragments->hashes[place] == hash && memcmp(&fragments->places[place].key, key, sizeof *key) == 0) {
            int64_t first = fragments->places[place].first_time_ns;
            uint64_t age = time_ns > first ? (uint64_t)time_ns - (uint64_t)first : (uint64_t)first - (uint64_t)time_ns;
            if (age <= CR_FRAGMENTS_TIMEOUT_NS)
                return place;
            cr_fragments_give_up(fragments, place);
            unused = place;
            break;
        }
    }
    if (unused == CR_DATAGRAMS_MAX) {
        unused = cr_fragments_oldest(fragments, CR_DATAGRAMS_MAX);
        cr_fragments_give_up(fragments, unused);
    }
    partial = fragments->places + unused;
    memset(partial, 0, sizeof *partial);
    partial->key = *key;
    partial->first_time_ns = time_ns;
    partial->order = fragments->begun++;
    fragments->hashes[unused] = hash;
    return unused;
}

/* One whole fragment: `length` bytes that belong at `offset` (a multiple of 8) of the datagram. */
static inline cr_fragment_outcome cr_fragments_add(cr_fragments *fragments, const cr_fragment_key *key,
                                                   uint8_t protocol, uint32_t offset, int more, const uint8_t *bytes,
                                                   uint32_t length, int64_t time_ns, cr_whole_datagram *whole)
{
    cr_partial_datagram *partial;
    uint32_t place, end = offset + length;
    if (length == 0 || length > CR_DATAGRAM_BYTES_MAX || end > CR_DATAGRAM_BYTES_MAX || (more && length % 8))
        return CR_FRAGMENT_MALFORMED;
    fragments->seen++;
    place = cr_fragments_place(fragments, key, time_ns);
    if (place == CR_DATAGRAMS_MAX) {
        fragments->dropped++;
        return CR_FRAGMENT_KEPT;
    }
    partial = fragments->places + place;
    partial->fragments++;
    if (partial->total_bytes ? end > partial->total_bytes : !more && end < partial->reached_bytes)
        return CR_FRAGMENT_KEPT; /* contradicts what came first */
    if (!cr_fragments_reserve(fragments, place, end)) {
        cr_fragments_give_up(fragments, place);
        return CR_FRAGMENT_KEPT;
    }
    if (!more && partial->total_bytes == 0)
        partial->total_bytes = end;
    if (end > partial->reached_bytes)
        partial->reached_bytes = end;
    if (offset == 0 || partial->units == 0)
        partial->protocol = protocol;
    for (uint32_t at = offset; at < end; at += 8) {
        uint64_t bit = UINT64_C(1) << (at / 8 % 64);
        if (partial->arrived[at / 8 / 64] & bit)
            continue;
        partial->arrived[at / 8 / 64] |= bit;
        partial->units++;
        memcpy(partial->bytes + at, bytes + (at - offset), end - at < 8 ? end - at : 8);
    }
    if (partial->total_bytes == 0 || partial->units < (partial->total_bytes + 7) / 8)
        return CR_FRAGMENT_KEPT;
    free(fragments->completed);
    fragments->completed = partial->bytes;
    whole->bytes = partial->bytes;
    whole->length = partial->total_bytes;
    whole->protocol = partial->protocol;
    partial->bytes = NULL;
    cr_fragments_forget(fragments, place);
    fragments->reassembled++;
    return CR_FRAGMENT_COMPLETED;
}

#endif
