/* The sample store against a plain array: writes, silence, forgetting and reading on, and whatever runs are asked for.
 *
 *   input   settings u8 | an action ...         numbers little-endian; settings: bit 0 PCM, bit 1 memory is scarce
 *   action  u8 which, u16 from (samples behind `low`), u16 how many
 *           0 write mu-law   1 write A-law   2 silence   3 forget   4 read on to   5 runs from there on
 *
 * Accepted: nothing; what finds no memory is told, and changes nothing but the samples it was about.
 */
#include "target.h"

static int memory_left; /* so many times; below 0: always */
static void *scarce_malloc(size_t size_bytes)
{
    if (memory_left == 0)
        return NULL;
    memory_left -= memory_left > 0;
    return malloc(size_bytes);
}
#define CR_MALLOC scarce_malloc

#include "callreel/sample_store.h"

#define CAPACITY 5000
#define MOST (1 << 17) /* numbers that the model has a place for */
#define AGO 64         /* so far before `low` runs are asked for */

typedef struct {
    cr_sample_store store;
    cr_page **pages;
    uint8_t kinds[MOST], bytes[2 * MOST];
    uint32_t written; /* gives every sample a value of its own */
} model;

/* The run of one kind by the model; below `low` and beyond the capacity there is nothing. */
static unsigned kind_of(const model *m, int64_t number)
{
    return number < m->store.low || number >= m->store.low + CAPACITY ? CR_KIND_NONE : m->kinds[number];
}

static void check_run(const model *m, int64_t first, uint32_t limit)
{
    unsigned kind;
    const uint8_t *samples;
    uint32_t run = cr_store_run(&m->store, first, limit, &kind, &samples), length = 0;
    FUZZ_CHECK(run <= limit && (run > 0) == (limit > 0));
    while (length < run) {
        FUZZ_CHECK(kind_of(m, first + length) == kind);
        length++;
    }
    if (kind == CR_KIND_NONE || kind == CR_KIND_SILENCE) /* of these a run is never cut */
        FUZZ_CHECK(run == limit || kind_of(m, first + run) != kind);
    else
        FUZZ_CHECK(!memcmp(samples, m->bytes + first * m->store.sample_bytes, (size_t)run * m->store.sample_bytes));
}

static void check_all(const model *m)
{
    for (int64_t number = m->store.low; number < m->store.low + CAPACITY;) {
        unsigned kind;
        const uint8_t *samples;
        uint32_t run = cr_store_run(&m->store, number, CAPACITY, &kind, &samples);
        check_run(m, number, CAPACITY);
        number += run;
    }
}

/* What cannot be said for want of memory stays as it is: the model takes over what the store has. */
static void look_again(model *m, int64_t first, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        unsigned kind;
        const uint8_t *samples;
        cr_store_run(&m->store, first + i, 1, &kind, &samples);
        m->kinds[first + i] = (uint8_t)kind;
        if (samples)
            memcpy(m->bytes + (first + i) * m->store.sample_bytes, samples, m->store.sample_bytes);
    }
}

static void write_some(model *m, int64_t first, uint32_t count, unsigned kind)
{
    uint8_t *data = fuzz_memory((size_t)count * m->store.sample_bytes);
    int fits = first + count <= m->store.low + CAPACITY, written;
    for (uint32_t i = 0; i < count * m->store.sample_bytes; i++)
        data[i] = (uint8_t)(m->written++ * 31 >> 3);
    written = cr_store_write(&m->store, first, data, count, kind);
    FUZZ_CHECK(fits || !written);
    if (fits) {
        FUZZ_CHECK(written || memory_left >= 0);
        memcpy(m->bytes + first * m->store.sample_bytes, data, (size_t)count * m->store.sample_bytes);
        memset(m->kinds + first, (int)kind, count);
        if (!written)
            look_again(m, first, count);
    }
    free(data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = {data, data + size};
    uint8_t settings = fuzz_u8(&in);
    model *m = (model *)calloc(1, sizeof *m);
    if (!m)
        abort();
    memory_left = settings & 2 ? 6 : -1;
    m->pages = (cr_page **)fuzz_memory(cr_store_pages_for(CAPACITY) * sizeof *m->pages);
    cr_store_init(&m->store, CAPACITY, settings & 1 ? 2 : 1, m->pages);
    while (fuzz_left(&in)) {
        uint8_t action = fuzz_u8(&in) % 6;
        uint32_t from = fuzz_u16(&in) % (CAPACITY + 100), count = fuzz_u16(&in) % (CAPACITY + 100);
        int64_t first = m->store.low + from;
        uint32_t within = from >= CAPACITY ? 0 : count < CAPACITY - from ? count : CAPACITY - from;
        if (first + CAPACITY + count >= MOST)
            break;
        switch (action) {
        case 0:
        case 1:
            write_some(m, first, count, action == 0 || settings & 1 ? CR_KIND_ULAW : CR_KIND_ALAW);
            break;
        case 2:
            cr_store_mark_silence(&m->store, first, count);
            for (uint32_t i = 0; i < within; i++)
                if (m->kinds[first + i] == CR_KIND_NONE)
                    m->kinds[first + i] = CR_KIND_SILENCE;
            if (memory_left == 0)
                look_again(m, first, within);
            break;
        case 3:
            cr_store_forget(&m->store, first, count);
            memset(m->kinds + first, CR_KIND_NONE, within);
            if (memory_left == 0)
                look_again(m, first, within);
            break;
        case 4:
            cr_store_release(&m->store, first);
            break;
        default:
            check_run(m, first, count);
            if (first >= AGO)
                check_run(m, first - AGO, count);
        }
        check_all(m);
    }
    cr_store_close(&m->store);
    free(m->pages);
    free(m);
    return 0;
}
