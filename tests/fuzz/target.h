/* What the targets in C share: a check that ends the run, bytes taken from the input, and a `main` that runs files.
 *
 * Under libFuzzer LLVMFuzzerTestOneInput is called with inputs that libFuzzer invents. Without it, with any compiler,
 * -DFUZZ_FILES makes a program that runs each file named as its argument once: the regression test.
 */
#ifndef CALLREEL_FUZZ_TARGET_H
#define CALLREEL_FUZZ_TARGET_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "callreel/bytes.h"

#define FUZZ_CHECK(rule)                                                                                              \
    do {                                                                                                              \
        if (!(rule)) {                                                                                                \
            fprintf(stderr, "%s:%d: this does not hold: %s\n", __FILE__, __LINE__, #rule);                            \
            abort();                                                                                                  \
        }                                                                                                             \
    } while (0)

/* The rest of an input. What is not there any more reads as 0. */
typedef struct {
    const uint8_t *next, *end;
} fuzz_input;

static inline size_t fuzz_left(const fuzz_input *in) { return (size_t)(in->end - in->next); }

static inline uint8_t fuzz_u8(fuzz_input *in) { return in->next < in->end ? *in->next++ : 0; }

static inline uint16_t fuzz_u16(fuzz_input *in)
{
    uint16_t low = fuzz_u8(in);
    return (uint16_t)(low | fuzz_u8(in) << 8);
}

static inline uint64_t fuzz_u64(fuzz_input *in)
{
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 8)
        value |= (uint64_t)fuzz_u8(in) << shift;
    return value;
}

/* Memory of exactly this size, so that one byte too far is seen. */
static inline uint8_t *fuzz_memory(size_t size)
{
    uint8_t *memory = (uint8_t *)malloc(size);
    if (!memory && size)
        abort();
    return memory;
}

static inline uint8_t *fuzz_copy(const uint8_t *bytes, size_t size)
{
    uint8_t *copy = fuzz_memory(size);
    if (size)
        memcpy(copy, bytes, size);
    return copy;
}

/* The next `size` bytes, or as many as there are, in memory of their own. */
static inline uint8_t *fuzz_take(fuzz_input *in, size_t *size)
{
    uint8_t *copy;
    if (*size > fuzz_left(in))
        *size = fuzz_left(in);
    copy = fuzz_copy(in->next, *size);
    in->next += *size;
    return copy;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#ifdef FUZZ_FILES
int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        uint8_t *data;
        long size;
        if (!file || fseek(file, 0, SEEK_END) || (size = ftell(file)) < 0 || fseek(file, 0, SEEK_SET)) {
            perror(argv[i]);
            return 2;
        }
        data = fuzz_memory((size_t)size);
        if (fread(data, 1, (size_t)size, file) != (size_t)size) {
            perror(argv[i]);
            return 2;
        }
        fclose(file);
        fprintf(stderr, "%s\n", argv[i]); /* the last one named is the one that failed */
        LLVMFuzzerTestOneInput(data, (size_t)size);
        free(data);
    }
    printf("%d inputs\n", argc - 1);
    return 0;
}
#endif

#endif
