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
    uint32_t capacity; /* samples, a multiple of 4 */
    uint32_t sample_bytes; /* 1: G.711 codes, 2: 16-bit PCM */
    uint8_t *samples;  /* capacity * sample_bytes */
    uint8_t *kinds;    /* capacity / 4 bytes, sample i in bits 2*(i%4) of byte i/4 */
} cr_sample_store;

static inline uint32_t cr_store_index(const cr_sample_store *s, int64_t number)
{
    return (uint32_t)((uint64_t)number % s->capacity);
}

static inline unsigned cr_store_kind_at(const cr_sample_store *s, uint32_t index)
{
    return s->kinds[index / 4] >> (2 * (index % 4)) & 3;
}

/* Set the kind of `count` samples from ring index `index` on, which must not wrap. */
static inline void cr_store_fill_kinds(cr_sample_store *s, uint32_t index, uint32_t count, unsigned kind)
{
    uint8_t pattern = (uint8_t)(kind * 0x55);
    uint32_t end = index + count;
    while (index < end && index % 4) {
        unsigned shift = 2 * (index % 4);
        s->kinds[index / 4] = (uint8_t)((s->kinds[index / 4] & ~(3u << shift)) | kind << shift);
        index++;
    }
    if (end - index >= 4) {
        uint32_t whole = (end - index) / 4;
        memset(s->kinds + index / 4, pattern, whole);
        index += 4 * whole;
    }
    while (index < end) {
        unsigned shift = 2 * (index % 4);
        s->kinds[index / 4] = (uint8_t)((s->kinds[index / 4] & ~(3u << shift)) | kind << shift);
        index++;
    }
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

/* Mark as silent whatever of these samples has not come as audio. */
static inline void cr_store_mark_silence(cr_sample_store *s, int64_t first, uint32_t count)
{
    uint32_t index = cr_store_index(s, first);
    for (uint32_t i = 0; i < count; i++) {
        if (cr_store_kind_at(s, index) == CR_KIND_NONE)
            s->kinds[index / 4] |= (uint8_t)(CR_KIND_SILENCE << (2 * (index % 4)));
        if (++index == s->capacity)
            index = 0;
    }
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
    while (index < end && index % 4 && cr_store_kind_at(s, index) == *kind)
        index++;
    if (index % 4 == 0) {
        uint64_t wide = (uint64_t)pattern * 0x0101010101010101u, word;
        while (end - index >= 32) {
            memcpy(&word, s->kinds + index / 4, 8);
            if (word != wide)
                break;
            index += 32;
        }
        while (end - index >= 4 && s->kinds[index / 4] == pattern)
            index += 4;
        while (index < end && cr_store_kind_at(s, index) == *kind)
            index++;
    }
    return index - start;
}

/* Forget everything below `low`. */
static inline void cr_store_release(cr_sample_store *s, int64_t low)
{
    if (low <= s->low)
        return;
    if (low - s->low >= s->capacity)
        memset(s->kinds, 0, s->capacity / 4);
    else
        cr_store_set_kinds(s, s->low, (uint32_t)(low - s->low), CR_KIND_NONE);
    s->low = low;
}

#endif
