/* Unaligned little- and big-endian loads and stores; compilers turn each into one instruction. */
#ifndef CALLREEL_BYTES_H
#define CALLREEL_BYTES_H

#include <stdint.h>
#include <string.h>

static inline uint16_t cr_load_u16be(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static inline uint32_t cr_load_u32be(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}
static inline uint16_t cr_load_u16le(const uint8_t *p) { return (uint16_t)(p[1] << 8 | p[0]); }
static inline uint32_t cr_load_u32le(const uint8_t *p)
{
    return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
}
static inline uint64_t cr_load_u64le(const uint8_t *p)
{
    return (uint64_t)cr_load_u32le(p + 4) << 32 | cr_load_u32le(p);
}
static inline uint64_t cr_load_u64be(const uint8_t *p)
{
    return (uint64_t)cr_load_u32be(p) << 32 | cr_load_u32be(p + 4);
}
static inline void cr_store_u16le(uint8_t *p, uint16_t v) { p[0] = (uint8_t)v; p[1] = (uint8_t)(v >> 8); }
static inline void cr_store_u32le(uint8_t *p, uint32_t v)
{
    cr_store_u16le(p, (uint16_t)v);
    cr_store_u16le(p + 2, (uint16_t)(v >> 16));
}
static inline void cr_store_u64le(uint8_t *p, uint64_t v)
{
    cr_store_u32le(p, (uint32_t)v);
    cr_store_u32le(p + 4, (uint32_t)(v >> 32));
}
static inline void cr_store_u16be(uint8_t *p, uint16_t v) { p[0] = (uint8_t)(v >> 8); p[1] = (uint8_t)v; }
static inline void cr_store_u32be(uint8_t *p, uint32_t v)
{
    cr_store_u16be(p, (uint16_t)(v >> 16));
    cr_store_u16be(p + 2, (uint16_t)v);
}

/* PCM samples: signed 16-bit little-endian in memory on every platform we build for. */
static inline int16_t cr_load_s16(const void *p) { int16_t v; memcpy(&v, p, sizeof v); return v; }
static inline void cr_store_s16(void *p, int16_t v) { memcpy(p, &v, sizeof v); }

#endif
