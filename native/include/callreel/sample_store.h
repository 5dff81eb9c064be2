/* The samples a stream has brought but nobody has read yet, by their number in the stream.
 *
 * What: a ring of the last few seconds as they came off the wire (G.711 codes stay codes: half the memory, and they
 *       are decoded once, in order, when read), with two bits a sample that say what is there.
 *
 *        low                                      end          low + capacity
 *         |#########.....########################|                |        # audio   . nothing (yet)
 *         `- read up to here                     `- highest written
 *
 *       Numbers below `low` are gone; numbers from `low + capacity` on do not fit.
 */
#ifndef CALLREEL_SAMPLE_STORE_H
#define CALLREEL_SAMPLE_STORE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum cr_sample_kind {
    CR_KIND_NONE = 0,    /* never came: lost, or not sent */
    CR_KIND_ULAW = 1,
    CR_KIND_ALAW = 2,
    CR_KIND_SILENCE = 3, /* known to be silent: comfort noise, DTX, a telephone event without audio */
    CR_KIND_PCM = 1,     /* in a store of 16-bit samples, which holds no codes */
};

typedef struct {
    int64_t low;
    uint32_t low_index; /* where `low` is kept: low modulo capacity */
    uint32_t capacity; /* samples, a multiple of 4 */
    uint32_t sample_bytes; /* 1: G.711 codes, 2: 16-bit PCM */
    uint8_t *samples;  /* capacity * sample_bytes */
    uint8_t *kinds;    /* capacity / 4 bytes, sample i in bits 2*(i%4) of byte i/4 */
} cr_sample_store;

/* Where sample `number` is kept: number modulo capacity. A division only for what lies beyond the store. */
static inline uint32_t cr_store_index(const cr_sample_store *s, int64_t number)
{
    uint64_t above = (uint64_t)number - (uint64_t)s->low, index;
    if (above >= s->capacity)
        return (uint32_t)((uint64_t)number % s->capacity);
    index = s->low_index + above;
    return (uint32_t)(index < s->capacity ? index : index - s->capacity);
}

static inline unsigned cr_store_kind_at(const cr_sample_store *s, uint32_t index)
{
    return s->kinds[index / 4] >> (2 * (index % 4)) & 3;
}

/* Set the kind of `count` samples from ring index `index` on, which must not wrap. */
static inline void cr_store_fill_kinds(cr_sample_store *s, uint32_t index, uint32_t count, unsigned kind)
{
    uint8_t pattern = (uint8_t)(kind * 0x55), *first = s->kinds + index / 4, *last = s->kinds + (index + count) / 4;
    unsigned head = 0xFFu << 2 * (index % 4) & 0xFF, tail = ~(0xFFu << 2 * ((index + count) % 4)); /* bits to set */
    if (first == last) {
        head &= tail;
    } else {
        memset(first + 1, pattern, (size_t)(last - first) - 1);
        if (tail & 0xFF)
            *last = (uint8_t)((*last & ~tail) | (pattern & tail));
    }
    if (head)
        *first = (uint8_t)((*first & ~head) | (pattern & head));
}

static inline void cr_store_set_kinds(cr_sample_store *s, int64_t first, uint32_t count, unsigned kind)
{
    uint32_t index = cr_store_index(s, first);
    uint32_t head = count < s->capacity - index ? count : s->capacity - index;
    cr_store_fill_kinds(s, index, head, kind);
    cr_store_fill_kinds(s, 0, count - head, kind);
}

/* Keep `count` samples (count <= capacity, all within [low, low + capacity)). */
static inline void cr_store_write(cr_sample_store *s, int64_t first, const uint8_t *data, uint32_t count,
                                  unsigned kind)
{
    uint32_t index = cr_store_index(s, first);
    uint32_t head = count < s->capacity - index ? count : s->capacity - index;
    memcpy(s->samples + (size_t)index * s->sample_bytes, data, (size_t)head * s->sample_bytes);
    memcpy(s->samples, data + (size_t)head * s->sample_bytes, (size_t)(count - head) * s->sample_bytes);
    cr_store_set_kinds(s, first, count, kind);
}

/* Mark as silent whatever of `count` samples from ring index `index` on, which must not wrap, has not come as audio. */
static inline void cr_store_silence_kinds(cr_sample_store *s, uint32_t index, uint32_t count)
{
    const uint64_t low_bits = 0x5555555555555555u;
    uint32_t end = index + count;
    while (index < end) {
        uint32_t from = index % 4;
        uint64_t word, none;
        if (from == 0 && end - index >= 32) { /* two bits a sample: 00 becomes 11 */
            memcpy(&word, s->kinds + index / 4, 8);
            none = ~(word | word >> 1) & low_bits;
            word |= none | none << 1;
            memcpy(s->kinds + index / 4, &word, 8);
            index += 32;
        } else {
            uint32_t run = end - index < 4 - from ? end - index : 4 - from;
            word = s->kinds[index / 4];
            none = ~(word | word >> 1) & low_bits & (0xFFu << 2 * from) & ~(0xFFu << 2 * (from + run));
            s->kinds[index / 4] = (uint8_t)(word | none | none << 1);
            index += run;
        }
    }
}

static inline void cr_store_mark_silence(cr_sample_store *s, int64_t first, uint32_t count)
{
    uint32_t index = cr_store_index(s, first);
    uint32_t head = count < s->capacity - index ? count : s->capacity - index;
    cr_store_silence_kinds(s, index, head);
    cr_store_silence_kinds(s, 0, count - head);
}

/* Length of the run of one kind that starts at `first`, at most `limit`, and without wrapping in memory.
 * Stores the kind and where the run's samples lie. */
static inline uint32_t cr_store_run(const cr_sample_store *s, int64_t first, uint32_t limit, unsigned *kind,
                                    const uint8_t **samples)
{
    uint32_t index = cr_store_index(s, first), start = index, end;
    uint8_t pattern;
    if (limit > s->capacity - index)
        limit = s->capacity - index;
    end = index + limit;
    *kind = cr_store_kind_at(s, index);
    *samples = s->samples + (size_t)index * s->sample_bytes;
    pattern = (uint8_t)(*kind * 0x55);
    if ((uint8_t)(s->kinds[index / 4] ^ pattern) >> 2 * (index % 4) == 0) { /* to the end of the byte */
        uint64_t wide = (uint64_t)pattern * 0x0101010101010101u, word;
        index += 4 - index % 4;
        while (index + 32 <= end) {
            memcpy(&word, s->kinds + index / 4, 8);
            if (word != wide)
                break;
            index += 32;
        }
        while (index < end && s->kinds[index / 4] == pattern)
            index += 4;
        if (index >= end)
            return limit;
    }
    while (index < end && cr_store_kind_at(s, index) == *kind)
        index++;
    return index - start;
}

/* Forget everything below `low`. */
static inline void cr_store_release(cr_sample_store *s, int64_t low)
{
    uint32_t low_index;
    if (low <= s->low)
        return;
    low_index = cr_store_index(s, low);
    if (low - s->low >= s->capacity)
        memset(s->kinds, 0, s->capacity / 4);
    else
        cr_store_set_kinds(s, s->low, (uint32_t)(low - s->low), CR_KIND_NONE);
    s->low = low;
    s->low_index = low_index;
}

#endif
