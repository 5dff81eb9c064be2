/* G.711 with SSE2, 16 samples at a time. Included by g711.h, which holds the specification.
 *
 * How:  SSE2 cannot shift every lane by its own count, but it converts between integers and float32, and a float32 is
 *       a sign, an exponent and a mantissa: what a G.711 code is too (see CR_ULAW_FLOAT_BIAS in g711.h).
 *
 *       decode    segment s s s s  ->  exponent 127 + 5 + segment | s s s s 1 0 ... 0  ->  truncate to an integer:
 *                 (32 + step*2 + 1) << segment
 *       encode    the same way back; the mantissa is cut off after `step`
 *
 *       A-law's segment 0 is linear. It is segment 1 without the 32 at its front, so 1 is added to the segment
 *       before, and 32 (16 when encoding) taken off after.
 */
#ifndef CALLREEL_G711_SSE2_H
#define CALLREEL_G711_SSE2_H

/* 16-bit lanes of segment and step (7 bits) -> (step*2 + 33) << segment, for segments 0 to 7. */
CR_TARGET_SSE2 static inline __m128i cr_law_expand_sse2(__m128i bits)
{
    /* The upper half of a float32: exponent from bit 7 on, then the mantissa. */
    __m128i upper = _mm_add_epi16(_mm_slli_epi16(bits, 3), _mm_set1_epi16((127 + 5) << 7 | 1 << 2));
    __m128i zero = _mm_setzero_si128();
    return _mm_packs_epi32(_mm_cvttps_epi32(_mm_castsi128_ps(_mm_unpacklo_epi16(zero, upper))),
                           _mm_cvttps_epi32(_mm_castsi128_ps(_mm_unpackhi_epi16(zero, upper))));
}

/* 16-bit lanes 1 to 32767 -> the upper 13 bits of their float32: biased exponent, 4 bits of mantissa. */
CR_TARGET_SSE2 static inline __m128i cr_law_compress_sse2(__m128i magnitude)
{
    __m128i zero = _mm_setzero_si128();
    __m128i low = _mm_castps_si128(_mm_cvtepi32_ps(_mm_unpacklo_epi16(magnitude, zero)));
    __m128i high = _mm_castps_si128(_mm_cvtepi32_ps(_mm_unpackhi_epi16(magnitude, zero)));
    return _mm_packs_epi32(_mm_srli_epi32(low, 19), _mm_srli_epi32(high, 19));
}

/* 8 codes as the low bytes of 16-bit lanes -> 8 samples. */
CR_TARGET_SSE2 static inline __m128i cr_ulaw_decode_lanes_sse2(__m128i codes)
{
    __m128i bits = _mm_and_si128(_mm_xor_si128(codes, _mm_set1_epi16(0xFF)), _mm_set1_epi16(0x7F));
    __m128i negative = _mm_cmplt_epi16(codes, _mm_set1_epi16(0x80));
    __m128i magnitude = _mm_slli_epi16(_mm_sub_epi16(cr_law_expand_sse2(bits), _mm_set1_epi16(33)), 2);
    return _mm_sub_epi16(_mm_xor_si128(magnitude, negative), negative);
}

CR_TARGET_SSE2 static inline __m128i cr_alaw_decode_lanes_sse2(__m128i codes)
{
    __m128i bits = _mm_and_si128(_mm_xor_si128(codes, _mm_set1_epi16(0x55)), _mm_set1_epi16(0x7F));
    __m128i negative = _mm_cmplt_epi16(codes, _mm_set1_epi16(0x80));
    __m128i linear = _mm_cmplt_epi16(bits, _mm_set1_epi16(16));
    __m128i doubled = cr_law_expand_sse2(_mm_add_epi16(bits, _mm_and_si128(linear, _mm_set1_epi16(16))));
    /* Expanded by the segment, not the segment - 1: twice too much. */
    __m128i magnitude = _mm_slli_epi16(_mm_sub_epi16(doubled, _mm_and_si128(linear, _mm_set1_epi16(64))), 2);
    return _mm_sub_epi16(_mm_xor_si128(magnitude, negative), negative);
}

/* 8 samples -> segment and step of each, 7 bits in 16-bit lanes. */
CR_TARGET_SSE2 static inline __m128i cr_ulaw_encode_lanes_sse2(__m128i samples)
{
    __m128i magnitude = _mm_srli_epi16(_mm_xor_si128(samples, _mm_srai_epi16(samples, 15)), 2);
    magnitude = _mm_min_epi16(_mm_add_epi16(magnitude, _mm_set1_epi16(33)), _mm_set1_epi16(0x1FFF));
    return _mm_sub_epi16(cr_law_compress_sse2(magnitude), _mm_set1_epi16(CR_ULAW_FLOAT_BIAS));
}

CR_TARGET_SSE2 static inline __m128i cr_alaw_encode_lanes_sse2(__m128i samples)
{
    __m128i magnitude = _mm_srli_epi16(_mm_xor_si128(samples, _mm_srai_epi16(samples, 15)), 4);
    __m128i linear = _mm_and_si128(_mm_cmplt_epi16(magnitude, _mm_set1_epi16(16)), _mm_set1_epi16(16));
    __m128i bits = cr_law_compress_sse2(_mm_add_epi16(magnitude, linear));
    return _mm_sub_epi16(bits, _mm_add_epi16(linear, _mm_set1_epi16(CR_ALAW_FLOAT_BIAS)));
}

/* 16 times segment and step, the samples for their signs -> 16 codes; `wire` is the code of +0. */
CR_TARGET_SSE2 static inline __m128i cr_law_join_sse2(__m128i bits0, __m128i bits1, __m128i samples0, __m128i samples1,
                                                      char wire)
{
    __m128i signs = _mm_and_si128(_mm_packs_epi16(samples0, samples1), _mm_set1_epi8((char)0x80));
    return _mm_xor_si128(_mm_packus_epi16(bits0, bits1), _mm_xor_si128(signs, _mm_set1_epi8(wire)));
}

#define CR_LAW_DECODE_SSE2(law)                                                                                       \
    CR_TARGET_SSE2 static void cr_##law##_decode_sse2(uint8_t *pcm, const uint8_t *codes, size_t samples)             \
    {                                                                                                                 \
        size_t i = 0;                                                                                                 \
        for (; samples - i >= 16; i += 16) {                                                                          \
            __m128i taken = _mm_loadu_si128((const __m128i *)(codes + i)), zero = _mm_setzero_si128();                \
            __m128i low = cr_##law##_decode_lanes_sse2(_mm_unpacklo_epi8(taken, zero));                               \
            __m128i high = cr_##law##_decode_lanes_sse2(_mm_unpackhi_epi8(taken, zero));                              \
            _mm_storeu_si128((__m128i *)(pcm + 2 * i), low);                                                          \
            _mm_storeu_si128((__m128i *)(pcm + 2 * i + 16), high);                                                    \
        }                                                                                                             \
        cr_##law##_decode_scalar(pcm + 2 * i, codes + i, samples - i);                                                \
    }

#define CR_LAW_ENCODE_SSE2(law, wire)                                                                                 \
    CR_TARGET_SSE2 static void cr_##law##_encode_sse2(uint8_t *codes, const uint8_t *pcm, size_t samples)             \
    {                                                                                                                 \
        size_t i = 0;                                                                                                 \
        for (; samples - i >= 16; i += 16) {                                                                          \
            __m128i low = _mm_loadu_si128((const __m128i *)(pcm + 2 * i));                                            \
            __m128i high = _mm_loadu_si128((const __m128i *)(pcm + 2 * i + 16));                                      \
            _mm_storeu_si128((__m128i *)(codes + i),                                                                  \
                             cr_law_join_sse2(cr_##law##_encode_lanes_sse2(low), cr_##law##_encode_lanes_sse2(high),  \
                                              low, high, (char)(wire)));                                              \
        }                                                                                                             \
        cr_##law##_encode_scalar(codes + i, pcm + 2 * i, samples - i);                                                \
    }

CR_LAW_DECODE_SSE2(ulaw)
CR_LAW_DECODE_SSE2(alaw)
CR_LAW_ENCODE_SSE2(ulaw, CR_ULAW_SILENCE)
CR_LAW_ENCODE_SSE2(alaw, CR_ALAW_SILENCE)

#endif
