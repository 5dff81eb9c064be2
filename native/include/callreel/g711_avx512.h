/* G.711 with AVX-512 VBMI, 64 codes or 32 samples at a time. Included by g711.h, which holds the specification.
 *
 * How:  a permutation of bytes across two registers is a look-up in a table of 128 bytes, 64 look-ups at once.
 *
 *       decode    code:  sign | 7 bits  --look up-->  low byte, high byte of the magnitude  --weave-->  16 bits
 *                                                     negated where the sign bit of the code is clear (both laws)
 *       encode    the upper 7 bits of the magnitude  --look up-->  segment  --shift by it-->  step
 *
 *       Weaving works in each quarter of a register by itself. Codes 0 1 2 3 4 5 6 7 (8 bytes each) are put to
 *       0 4 1 5 2 6 3 7 before, so that the lower halves of all quarters hold the first 32.
 *
 *       What is left at the end is loaded and stored under a mask: no byte beyond it is touched.
 */
#ifndef CALLREEL_G711_AVX512_H
#define CALLREEL_G711_AVX512_H

#define CR_ULAW_LOW_BYTE(code) (CR_ULAW_MAGNITUDE(~(code)) & 0xFF)
#define CR_ULAW_HIGH_BYTE(code) (CR_ULAW_MAGNITUDE(~(code)) >> 8)
#define CR_ALAW_LOW_BYTE(code) (CR_ALAW_MAGNITUDE((code) ^ 0x55) & 0xFF)
#define CR_ALAW_HIGH_BYTE(code) (CR_ALAW_MAGNITUDE((code) ^ 0x55) >> 8)
/* Segment of a magnitude whose upper 7 bits are this: none is set in segment 0. */
#define CR_SEGMENT_OF(upper)                                                                                          \
    (((upper) > 0) + ((upper) > 1) + ((upper) > 3) + ((upper) > 7) + ((upper) > 15) + ((upper) > 31) + ((upper) > 63))

/* Codes 0 to 127: low bytes, then high bytes. The sign bit is looked at elsewhere. */
_Alignas(64) static const uint8_t cr_ulaw_magnitude_bytes[256] = {CR_TABLE_128(CR_ULAW_LOW_BYTE), CR_TABLE_128(CR_ULAW_HIGH_BYTE)};
_Alignas(64) static const uint8_t cr_alaw_magnitude_bytes[256] = {CR_TABLE_128(CR_ALAW_LOW_BYTE), CR_TABLE_128(CR_ALAW_HIGH_BYTE)};
_Alignas(64) static const uint8_t cr_law_segments[128] = {CR_TABLE_128(CR_SEGMENT_OF)};

typedef struct {
    __m512i low0, low1, high0, high1;
} cr_law_tables_avx512;

CR_TARGET_AVX512 static inline cr_law_tables_avx512 cr_law_load_tables_avx512(const uint8_t *table)
{
    cr_law_tables_avx512 tables;
    tables.low0 = _mm512_loadu_si512(table);
    tables.low1 = _mm512_loadu_si512(table + 64);
    tables.high0 = _mm512_loadu_si512(table + 128);
    tables.high1 = _mm512_loadu_si512(table + 192);
    return tables;
}

/* 64 codes -> 64 samples. */
CR_TARGET_AVX512 static inline void cr_law_decode_lanes_avx512(const cr_law_tables_avx512 *tables, __m512i codes,
                                                               __m512i *first, __m512i *second)
{
    const __m512i zero = _mm512_setzero_si512();
    __mmask64 negative = _mm512_testn_epi8_mask(codes, _mm512_set1_epi8((char)0x80));
    __m512i places = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), codes);
    __m512i low = _mm512_permutex2var_epi8(tables->low0, places, tables->low1);
    __m512i high = _mm512_permutex2var_epi8(tables->high0, places, tables->high1);
    __m512i early = _mm512_unpacklo_epi8(low, high), late = _mm512_unpackhi_epi8(low, high);
    *first = _mm512_mask_sub_epi16(early, (__mmask32)negative, zero, early);
    *second = _mm512_mask_sub_epi16(late, (__mmask32)(negative >> 32), zero, late);
}

CR_TARGET_AVX512 static inline void cr_law_decode_avx512(const uint8_t *table, uint8_t *pcm, const uint8_t *codes,
                                                         size_t samples)
{
    const cr_law_tables_avx512 tables = cr_law_load_tables_avx512(table);
    __m512i first, second;
    size_t i = 0;
    for (; samples - i >= 64; i += 64) {
        cr_fetch_ahead(codes + i);
        cr_fetch_ahead(pcm + 2 * i);
        cr_fetch_ahead(pcm + 2 * i + 64);
        cr_law_decode_lanes_avx512(&tables, _mm512_loadu_si512(codes + i), &first, &second);
        _mm512_storeu_si512(pcm + 2 * i, first);
        _mm512_storeu_si512(pcm + 2 * i + 64, second);
    }
    if (i < samples) {
        __mmask64 rest = ~UINT64_C(0) >> (64 - (samples - i));
        cr_law_decode_lanes_avx512(&tables, _mm512_maskz_loadu_epi8(rest, codes + i), &first, &second);
        _mm512_mask_storeu_epi16(pcm + 2 * i, (__mmask32)rest, first);
        _mm512_mask_storeu_epi16(pcm + 2 * i + 64, (__mmask32)(rest >> 32), second);
    }
}

CR_TARGET_AVX512 static void cr_ulaw_decode_avx512(uint8_t *pcm, const uint8_t *codes, size_t samples)
{
    cr_law_decode_avx512(cr_ulaw_magnitude_bytes, pcm, codes, samples);
}

CR_TARGET_AVX512 static void cr_alaw_decode_avx512(uint8_t *pcm, const uint8_t *codes, size_t samples)
{
    cr_law_decode_avx512(cr_alaw_magnitude_bytes, pcm, codes, samples);
}

/* Segment, step and sign -> codes in 16-bit lanes; `wire` is the code of +0. */
CR_TARGET_AVX512 static inline __m512i cr_law_join_avx512(__m512i segments, __m512i steps, __m512i samples, short wire)
{
    __m512i bits = _mm512_or_si512(_mm512_slli_epi16(segments, 4), _mm512_and_si512(steps, _mm512_set1_epi16(15)));
    __m512i signs = _mm512_and_si512(_mm512_srli_epi16(samples, 8), _mm512_set1_epi16(0x80));
    return _mm512_xor_si512(_mm512_xor_si512(bits, signs), _mm512_set1_epi16(wire));
}

/* 32 samples -> 32 codes in 16-bit lanes. */
CR_TARGET_AVX512 static inline __m512i cr_ulaw_encode_lanes_avx512(__m512i samples)
{
    const __m512i segments0 = _mm512_loadu_si512(cr_law_segments), segments1 = _mm512_loadu_si512(cr_law_segments + 64);
    __m512i magnitude = _mm512_srli_epi16(_mm512_xor_si512(samples, _mm512_srai_epi16(samples, 15)), 2), segments;
    magnitude = _mm512_min_epi16(_mm512_add_epi16(magnitude, _mm512_set1_epi16(33)), _mm512_set1_epi16(0x1FFF));
    /* 13 bits; the upper byte of each lane looks up 0, which is 0. */
    segments = _mm512_permutex2var_epi8(segments0, _mm512_srli_epi16(magnitude, 6), segments1);
    return cr_law_join_avx512(segments,
                              _mm512_srlv_epi16(magnitude, _mm512_add_epi16(segments, _mm512_set1_epi16(1))), samples,
                              CR_ULAW_SILENCE);
}

CR_TARGET_AVX512 static inline __m512i cr_alaw_encode_lanes_avx512(__m512i samples)
{
    const __m512i segments0 = _mm512_loadu_si512(cr_law_segments), segments1 = _mm512_loadu_si512(cr_law_segments + 64);
    __m512i magnitude = _mm512_srli_epi16(_mm512_xor_si512(samples, _mm512_srai_epi16(samples, 15)), 4);
    /* 11 bits */
    __m512i segments = _mm512_permutex2var_epi8(segments0, _mm512_srli_epi16(magnitude, 4), segments1);
    /* Shifted by segment - 1, in segment 0 not at all: the difference saturates. */
    return cr_law_join_avx512(segments,
                              _mm512_srlv_epi16(magnitude, _mm512_subs_epu16(segments, _mm512_set1_epi16(1))), samples,
                              CR_ALAW_SILENCE);
}

#define CR_LAW_ENCODE_AVX512(law)                                                                                     \
    CR_TARGET_AVX512 static void cr_##law##_encode_avx512(uint8_t *codes, const uint8_t *pcm, size_t samples)         \
    {                                                                                                                 \
        size_t i = 0;                                                                                                 \
        for (; samples - i >= 32; i += 32) {                                                                          \
            __m512i lanes = cr_##law##_encode_lanes_avx512(_mm512_loadu_si512(pcm + 2 * i));                          \
            _mm256_storeu_si256((__m256i *)(codes + i), _mm512_cvtepi16_epi8(lanes));                                 \
        }                                                                                                             \
        if (i < samples) {                                                                                            \
            __mmask32 rest = ~UINT32_C(0) >> (32 - (samples - i));                                                    \
            __m512i lanes = cr_##law##_encode_lanes_avx512(_mm512_maskz_loadu_epi16(rest, pcm + 2 * i));              \
            _mm256_mask_storeu_epi8(codes + i, rest, _mm512_cvtepi16_epi8(lanes));                                    \
        }                                                                                                             \
    }

CR_LAW_ENCODE_AVX512(ulaw)
CR_LAW_ENCODE_AVX512(alaw)

#endif
