/* The samples a stream has brought but nobody has read yet, by their number in the stream.
 *
 * What: the last few seconds as they came off the wire (G.711 codes stay codes: half the memory, and they are decoded
 *       once, in order, when read), and of each sample what is there: audio, known silence, or nothing.
 *
 *        low                                      end          low + capacity
 *         |#########.....########################|                |        # audio   . nothing (yet)
 *         `- read up to here                     `- highest written
 *
 *       Numbers below `low` are gone; numbers from `low + capacity` on do not fit.
 *
 * How:  pages of CR_PAGE_SAMPLES, found by number in a ring of pages. A page takes memory when audio comes for it and
 *       gives it back when it has been read: a reader that keeps up needs what it stays behind, not the capacity, and
 *       what the one track has let go is still in a cache when the next one takes it. What is there is mostly one run a
 *       page; only where it is not does a page keep two bits for each of its samples.
 */
#ifndef CALLREEL_SAMPLE_STORE_H
#define CALLREEL_SAMPLE_STORE_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum cr_sample_kind {
    CR_KIND_NONE = 0,    /* never came: lost, or not sent */
    CR_KIND_ULAW = 1,
    CR_KIND_ALAW = 2,
    CR_KIND_SILENCE = 3, /* known to be silent: comfort noise, DTX, a telephone event without audio */
    CR_KIND_PCM = 1,     /* in a store of 16-bit samples, which holds no codes */
};

#define CR_PAGE_SAMPLES 1016 /* of codes, a page is as large as glibc's malloc passes on without looking around */

#ifndef CR_MALLOC /* tests let it fail */
#define CR_MALLOC malloc
#endif

typedef struct {
    uint8_t *kinds;    /* sample i in bits 2*(i%4) of byte i/4; NULL: [from, to) are of `kind`, all others NONE */
    uint16_t from, to; /* 0 and 0 when empty */
    uint8_t kind;
    uint8_t samples[]; /* CR_PAGE_SAMPLES of them */
} cr_page;

typedef struct {
    int64_t low;
    uint32_t low_page;     /* where the page is kept that holds `low` */
    uint32_t capacity;     /* samples */
    uint32_t sample_bytes; /* 1: G.711 codes, 2: 16-bit PCM */
    uint32_t page_count;   /* cr_store_pages_for(capacity) */
    cr_page **pages;       /* NULL: nothing has come for it */
} cr_sample_store;

/* Pages that hold `capacity` samples wherever the first one stands in its page. */
static inline size_t cr_store_pages_for(uint32_t capacity)
{
    return capacity / CR_PAGE_SAMPLES + 2;
}

static inline void cr_store_init(cr_sample_store *s, uint32_t capacity, uint32_t sample_bytes, cr_page **pages)
{
    memset(s, 0, sizeof *s);
    s->capacity = capacity;
    s->sample_bytes = sample_bytes;
    s->page_count = (uint32_t)cr_store_pages_for(capacity);
    s->pages = pages;
    memset(pages, 0, s->page_count * sizeof *pages);
}

/* Where the page stands that is for sample `number`, which is one of [low, low + capacity). */
static inline cr_page **cr_store_page(const cr_sample_store *s, int64_t number)
{
    uint32_t place = s->low_page + (uint32_t)(number / CR_PAGE_SAMPLES - s->low / CR_PAGE_SAMPLES);
    return &s->pages[place < s->page_count ? place : place - s->page_count];
}

/* The same, and there is a page. NULL: there is no memory for it. */
static inline cr_page *cr_store_need_page(cr_sample_store *s, int64_t number)
{
    cr_page **place = cr_store_page(s, number);
    if (!*place) {
        *place = (cr_page *)CR_MALLOC(sizeof **place + (size_t)CR_PAGE_SAMPLES * s->sample_bytes);
        if (*place)
            memset(*place, 0, sizeof **place);
    }
    return *place;
}

/* ---- what is there ---------------------------------------------------------------------------------------------- */

static inline unsigned cr_kind_at(const uint8_t *kinds, uint32_t index)
{
    return kinds[index / 4] >> (2 * (index % 4)) & 3;
}

static inline void cr_kinds_fill(uint8_t *kinds, uint32_t from, uint32_t to, unsigned kind)
{
    uint8_t pattern = (uint8_t)(kind * 0x55), *first = kinds + from / 4, *last = kinds + to / 4;
    unsigned head = 0xFFu << 2 * (from % 4) & 0xFF, tail = ~(0xFFu << 2 * (to % 4)); /* bits to set */
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

/* Silence where there is nothing. */
static inline void cr_kinds_silence(uint8_t *kinds, uint32_t index, uint32_t end)
{
    const uint64_t low_bits = 0x5555555555555555u;
    while (index < end) {
        uint32_t from = index % 4;
        uint64_t word, none;
        if (from == 0 && end - index >= 32) { /* two bits a sample: 00 becomes 11 */
            memcpy(&word, kinds + index / 4, 8);
            none = ~(word | word >> 1) & low_bits;
            word |= none | none << 1;
            memcpy(kinds + index / 4, &word, 8);
            index += 32;
        } else {
            uint32_t run = end - index < 4 - from ? end - index : 4 - from;
            word = kinds[index / 4];
            none = ~(word | word >> 1) & low_bits & (0xFFu << 2 * from) & ~(0xFFu << 2 * (from + run));
            kinds[index / 4] = (uint8_t)(word | none | none << 1);
            index += run;
        }
    }
}

/* Where the run of one kind ends that holds `index`, at most `end`. */
static inline uint32_t cr_kinds_run_end(const uint8_t *kinds, uint32_t index, uint32_t end)
{
    unsigned kind = cr_kind_at(kinds, index);
    uint8_t pattern = (uint8_t)(kind * 0x55);
    if ((uint8_t)(kinds[index / 4] ^ pattern) >> 2 * (index % 4) == 0) { /* to the end of the byte */
        uint64_t wide = (uint64_t)pattern * 0x0101010101010101u, word;
        index += 4 - index % 4;
        while (index + 32 <= end) {
            memcpy(&word, kinds + index / 4, 8);
            if (word != wide)
                break;
            index += 32;
        }
        while (index < end && kinds[index / 4] == pattern)
            index += 4;
        if (index >= end)
            return end;
    }
    while (index < end && cr_kind_at(kinds, index) == kind)
        index++;
    return index;
}

/* Let the page keep what it holds sample by sample. 0: there is no memory. */
static inline int cr_page_spread(cr_page *page)
{
    if (page->kinds)
        return 1;
    page->kinds = (uint8_t *)CR_MALLOC(CR_PAGE_SAMPLES / 4);
    if (!page->kinds)
        return 0;
    memset(page->kinds, 0, CR_PAGE_SAMPLES / 4);
    cr_kinds_fill(page->kinds, page->from, page->to, page->kind);
    return 1;
}

/* Samples [from, to) become `kind`, whatever they were. 0: there is no memory, and they stay. */
static inline int cr_page_set(cr_page *page, uint32_t from, uint32_t to, unsigned kind)
{
    if (!page->kinds) {
        int empty = page->from == page->to;
        if (kind == CR_KIND_NONE && (empty || to <= page->from || from >= page->to))
            return 1;
        if (from <= page->from && to >= page->to)
            empty = 1; /* nothing of what was there is left */
        if (empty) {
            page->from = (uint16_t)(kind == CR_KIND_NONE ? 0 : from);
            page->to = (uint16_t)(kind == CR_KIND_NONE ? 0 : to);
            page->kind = (uint8_t)kind;
            return 1;
        }
        if (kind == page->kind && from <= page->to && to >= page->from) {
            page->from = from < page->from ? (uint16_t)from : page->from;
            page->to = to > page->to ? (uint16_t)to : page->to;
            return 1;
        }
        if (kind == CR_KIND_NONE && from <= page->from) {
            page->from = (uint16_t)to;
            return 1;
        }
        if (kind == CR_KIND_NONE && to >= page->to) {
            page->to = (uint16_t)from;
            return 1;
        }
    }
    if (!cr_page_spread(page))
        return 0;
    cr_kinds_fill(page->kinds, from, to, kind);
    return 1;
}

/* Samples [from, to) become silence where there is nothing. */
static inline int cr_page_silence(cr_page *page, uint32_t from, uint32_t to)
{
    if (!page->kinds) {
        if (from >= page->from && to <= page->to)
            return 1;
        if (page->from == page->to || page->kind == CR_KIND_SILENCE || to <= page->from || from >= page->to)
            return cr_page_set(page, from, to, CR_KIND_SILENCE);
    }
    if (!cr_page_spread(page))
        return 0;
    cr_kinds_silence(page->kinds, from, to);
    return 1;
}

/* ---- the stream ------------------------------------------------------------------------------------------------- */

/* Cut `count` samples from `*first` on to those that the store has a place for; returns how many. */
static inline uint32_t cr_store_clip(const cr_sample_store *s, int64_t *first, uint32_t count)
{
    int64_t from = *first > s->low ? *first : s->low, to = *first + count;
    to = to < s->low + s->capacity ? to : s->low + s->capacity;
    *first = from;
    return to > from ? (uint32_t)(to - from) : 0;
}

/* The part of `count` samples from `first` on that lies in the page of `first`; stores where it begins there. */
static inline uint32_t cr_store_part(int64_t first, uint32_t count, uint32_t *from)
{
    *from = (uint32_t)(first % CR_PAGE_SAMPLES);
    return count < CR_PAGE_SAMPLES - *from ? count : CR_PAGE_SAMPLES - *from;
}

/* Forget `count` samples. Without memory to say so they stay. */
static inline void cr_store_forget(cr_sample_store *s, int64_t first, uint32_t count)
{
    uint32_t from, part;
    for (count = cr_store_clip(s, &first, count); count; first += part, count -= part) {
        cr_page *page = *cr_store_page(s, first);
        part = cr_store_part(first, count, &from);
        if (page)
            (void)cr_page_set(page, from, from + part, CR_KIND_NONE);
    }
}

/* Mark as silent whatever of `count` samples has not come as audio. Without memory to say so they stay what they were. */
static inline void cr_store_mark_silence(cr_sample_store *s, int64_t first, uint32_t count)
{
    uint32_t from, part;
    for (count = cr_store_clip(s, &first, count); count; first += part, count -= part) {
        cr_page *page = cr_store_need_page(s, first);
        part = cr_store_part(first, count, &from);
        if (page)
            (void)cr_page_silence(page, from, from + part);
    }
}

/* Keep `count` samples. 0: not all of them lie within [low, low + capacity), or there is no memory for them. */
static inline int cr_store_write(cr_sample_store *s, int64_t first, const uint8_t *data, uint32_t count, unsigned kind)
{
    uint32_t from, part;
    if (first < s->low || first + count > s->low + s->capacity)
        return 0;
    for (; count; first += part, count -= part, data += (size_t)part * s->sample_bytes) {
        cr_page *page = cr_store_need_page(s, first);
        part = cr_store_part(first, count, &from);
        if (!page || !cr_page_set(page, from, from + part, kind))
            return 0;
        memcpy(page->samples + (size_t)from * s->sample_bytes, data, (size_t)part * s->sample_bytes);
    }
    return 1;
}

/* Length of the run of one kind that starts at `first`, at most `limit`; of audio, what lies in one piece of memory.
 * Stores the kind and where that memory is. */
static inline uint32_t cr_store_run(const cr_sample_store *s, int64_t first, uint32_t limit, unsigned *kind,
                                    const uint8_t **samples)
{
    uint32_t run = 0;
    *kind = CR_KIND_NONE;
    *samples = NULL;
    while (run < limit) {
        int64_t number = first + run, ahead = number - s->low;
        uint32_t left = limit - run, from, part;
        unsigned here = CR_KIND_NONE;
        if (ahead < 0) {
            part = -ahead < (int64_t)left ? (uint32_t)-ahead : left;
        } else if (ahead >= (int64_t)s->capacity) {
            part = left;
        } else {
            const cr_page *page = *cr_store_page(s, number);
            part = cr_store_part(number, left, &from);
            if (!page) {
                here = CR_KIND_NONE;
            } else if (page->kinds) {
                here = cr_kind_at(page->kinds, from);
                part = cr_kinds_run_end(page->kinds, from, from + part) - from;
            } else if (from >= page->from && from < page->to) {
                here = page->kind;
                part = part < page->to - from ? part : page->to - from;
            } else if (from < page->from) {
                part = part < page->from - from ? part : page->from - from;
            }
            if (here == CR_KIND_ULAW || here == CR_KIND_ALAW) {
                if (run)
                    break;
                *kind = here;
                *samples = page->samples + (size_t)from * s->sample_bytes;
                return part;
            }
        }
        if (run && here != *kind)
            break;
        *kind = here;
        run += part;
    }
    return run;
}

static inline void cr_page_free(cr_page **page)
{
    if (*page)
        free((*page)->kinds);
    free(*page);
    *page = NULL;
}

/* Forget everything below `low`. */
static inline void cr_store_release(cr_sample_store *s, int64_t low)
{
    int64_t pages = low / CR_PAGE_SAMPLES - s->low / CR_PAGE_SAMPLES;
    if (low <= s->low)
        return;
    s->low = low;
    for (uint32_t i = 0; i < s->page_count && i < pages; i++)
        cr_page_free(&s->pages[s->low_page + i < s->page_count ? s->low_page + i : s->low_page + i - s->page_count]);
    s->low_page = (uint32_t)((s->low_page + pages) % s->page_count);
}

/* Give all memory back. */
static inline void cr_store_close(cr_sample_store *s)
{
    for (uint32_t i = 0; i < s->page_count; i++)
        cr_page_free(&s->pages[i]);
}

#endif
