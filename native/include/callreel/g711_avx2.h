/* G.711 with AVX2, 32 samples at a time. Included by g711.h, which holds the specification.
 *
 * How:  decoding multiplies instead of shifting: a byte shuffle looks up 2^segment, and one multiply-add of byte
 *       pairs does the rest. Encoding goes through float32 (see CR_ULAW_FLOAT_BIAS in g711.h).
 *
 *       µ-law decode    pairs of bytes    ( 2^segment , 33 )
 *                                     *   ( step*2+33 , -1 )    added:  ((step*2 + 33) << segment) - 33
 *       A-law decode                      ( 2^(segment-1) , 0 )         2^0 for segment 0
 *                                     *   ( step*2 + 33   , 0 )         + 1 instead of + 33 for segment 0
 *
 *       Unpacking and packing work in each half of a register by itself: in memory order 0 1 2 3 (8 bytes each), the
 *       codes are put to 0 2 1 3 before unpacking and after packing.
 */
#ifndef CALLREEL_G711_AVX2_H
#define CALLREEL_G711_AVX2_H

#define CR_SWAP_MIDDLE_AVX2 0xD8 /* of four quadwords: 0 2 1 3 */

/* 16 bytes in both halves: a table for _mm256_shuffle_epi8. */
CR_TARGET_AVX2 static inline __m256i cr_twice_avx2(__m128i table) { return _mm256_broadcastsi128_si256(table); }

/* Pairs of bytes, multiplied and added, times 2^shift, negative where `signs` (bytes) is: 16 samples. */
CR_TARGET_AVX2 static inline __m256i cr_ulaw_product_avx2(__m256i powers, __m256i steps, __m256i signs)
{
    /* The sign of a 16-bit lane is that of its upper byte; the 1 below keeps the lane from being 0. */
    return _mm256_sign_epi16(_mm256_slli_epi16(_mm256_maddubs_epi16(powers, steps), 2), signs);
}

CR_TARGET_AVX2 static inline __m256i cr_alaw_product_avx2(__m256i powers, __m256i steps, __m256i signs)
{
    return _mm256_sign_epi16(_mm256_slli_epi16(_mm256_maddubs_epi16(powers, steps), 3), signs);
}

/* 32 codes in the order 0 2 1 3 -> 32 samples in memory order. */
CR_TARGET_AVX2 static inline void cr_ulaw_decode_lanes_avx2(__m256i codes, __m256i *first, __m256i *second)
{
    const __m256i power_of = cr_twice_avx2(_mm_setr_epi8(1, 2, 4, 8, 16, 32, 64, (char)128, 0, 0, 0, 0, 0, 0, 0, 0));
    const __m256i ones = _mm256_set1_epi8(1), minus = _mm256_set1_epi8(-1), bias = _mm256_set1_epi8(33);
    __m256i bits = _mm256_xor_si256(codes, minus);
    __m256i segments = _mm256_and_si256(_mm256_srli_epi16(bits, 4), _mm256_set1_epi8(7));
    __m256i steps = _mm256_and_si256(bits, _mm256_set1_epi8(15));
    __m256i powers = _mm256_shuffle_epi8(power_of, segments);
    steps = _mm256_add_epi8(_mm256_add_epi8(steps, steps), bias);
    *first = cr_ulaw_product_avx2(_mm256_unpacklo_epi8(powers, bias), _mm256_unpacklo_epi8(steps, minus),
                                  _mm256_unpacklo_epi8(ones, bits));
    *second = cr_ulaw_product_avx2(_mm256_unpackhi_epi8(powers, bias), _mm256_unpackhi_epi8(steps, minus),
                                   _mm256_unpackhi_epi8(ones, bits));
}

CR_TARGET_AVX2 static inline void cr_alaw_decode_lanes_avx2(__m256i codes, __m256i *first, __m256i *second)
{
    const __m256i power_of = cr_twice_avx2(_mm_setr_epi8(1, 1, 2, 4, 8, 16, 32, 64, 0, 0, 0, 0, 0, 0, 0, 0));
    const __m256i bias_of = cr_twice_avx2(_mm_setr_epi8(1, 33, 33, 33, 33, 33, 33, 33, 0, 0, 0, 0, 0, 0, 0, 0));
    const __m256i ones = _mm256_set1_epi8(1), zero = _mm256_setzero_si256();
    __m256i bits = _mm256_xor_si256(codes, _mm256_set1_epi8(0x55));
    __m256i negative = _mm256_xor_si256(codes, _mm256_set1_epi8((char)0x80)); /* A-law: a set sign bit is positive */
    __m256i segments = _mm256_and_si256(_mm256_srli_epi16(bits, 4), _mm256_set1_epi8(7));
    __m256i steps = _mm256_and_si256(bits, _mm256_set1_epi8(15));
    __m256i powers = _mm256_shuffle_epi8(power_of, segments);
    steps = _mm256_add_epi8(_mm256_add_epi8(steps, steps), _mm256_shuffle_epi8(bias_of, segments));
    *first = cr_alaw_product_avx2(_mm256_unpacklo_epi8(powers, zero), _mm256_unpacklo_epi8(steps, zero),
                                  _mm256_unpacklo_epi8(ones, negative));
    *second = cr_alaw_product_avx2(_mm256_unpackhi_epi8(powers, zero), _mm256_unpackhi_epi8(steps, zero),
                                   _mm256_unpackhi_epi8(ones, negative));
}

/* 16-bit lanes 1 to 32767 -> the upper 13 bits of their float32: biased exponent, 4 bits of mantissa. */
CR_TARGET_AVX2 static inline __m256i cr_law_compress_avx2(__m256i magnitude)
{
    __m256i zero = _mm256_setzero_si256();
    __m256i low = _mm256_castps_si256(_mm256_cvtepi32_ps(_mm256_unpacklo_epi16(magnitude, zero)));
    __m256i high = _mm256_castps_si256(_mm256_cvtepi32_ps(_mm256_unpackhi_epi16(magnitude, zero)));
    return _mm256_packs_epi32(_mm256_srli_epi32(low, 19), _mm256_srli_epi32(high, 19));
}

/* 16 samples -> segment and step of each, 7 bits in 16-bit lanes. */
CR_TARGET_AVX2 static inline __m256i cr_ulaw_encode_lanes_avx2(__m256i samples)
{
    __m256i magnitude = _mm256_srli_epi16(_mm256_xor_si256(samples, _mm256_srai_epi16(samples, 15)), 2);
    magnitude = _mm256_min_epi16(_mm256_add_epi16(magnitude, _mm256_set1_epi16(33)), _mm256_set1_epi16(0x1FFF));
    return _mm256_sub_epi16(cr_law_compress_avx2(magnitude), _mm256_set1_epi16(CR_ULAW_FLOAT_BIAS));
}

CR_TARGET_AVX2 static inline __m256i cr_alaw_encode_lanes_avx2(__m256i samples)
{
    __m256i magnitude = _mm256_srli_epi16(_mm256_xor_si256(samples, _mm256_srai_epi16(samples, 15)), 4);
    /* Segment 0 is linear: segment 1 without the 16 at its front. */
    __m256i linear = _mm256_and_si256(_mm256_cmpgt_epi16(_mm256_set1_epi16(16), magnitude), _mm256_set1_epi16(16));
    __m256i bits = cr_law_compress_avx2(_mm256_add_epi16(magnitude, linear));
    return _mm256_sub_epi16(bits, _mm256_add_epi16(linear, _mm256_set1_epi16(CR_ALAW_FLOAT_BIAS)));
}

/* 32 times segment and step, the samples for their signs -> 32 codes; `wire` is the code of +0. */
CR_TARGET_AVX2 static inline __m256i cr_law_join_avx2(__m256i bits0, __m256i bits1, __m256i samples0,
                                                      __m256i samples1, char wire)
{
    __m256i signs = _mm256_and_si256(_mm256_packs_epi16(samples0, samples1), _mm256_set1_epi8((char)0x80));
    __m256i codes =
        _mm256_xor_si256(_mm256_packus_epi16(bits0, bits1), _mm256_xor_si256(signs, _mm256_set1_epi8(wire)));
    return _mm256_permute4x64_epi64(codes, CR_SWAP_MIDDLE_AVX2);
}

#define CR_LAW_DECODE_AVX2(law)                                                                                       \
    CR_TARGET_AVX2 static void cr_##law##_decode_avx2(uint8_t *pcm, const uint8_t *codes, size_t samples)             \
    {                                                                                                                 \
        size_t i = 0;                                                                                                 \
        for (; samples - i >= 32; i += 32) {                                                                          \
            __m256i first, second, taken = _mm256_loadu_si256((const __m256i *)(codes + i));                          \
            cr_##law##_decode_lanes_avx2(_mm256_permute4x64_epi64(taken, CR_SWAP_MIDDLE_AVX2), &first, &second);      \
            _mm256_storeu_si256((__m256i *)(pcm + 2 * i), first);                                                     \
            _mm256_storeu_si256((__m256i *)(pcm + 2 * i + 32), second);                                               \
        }                                                                                                             \
        cr_##law##_decode_scalar(pcm + 2 * i, codes + i, samples - i);                                                \
    }

#define CR_LAW_ENCODE_AVX2(law, wire)                                                                                 \
    CR_TARGET_AVX2 static void cr_##law##_encode_avx2(uint8_t *codes, const uint8_t *pcm, size_t samples)             \
    {                                                                                                                 \
        size_t i = 0;                                                                                                 \
        for (; samples - i >= 32; i += 32) {                                                                          \
            __m256i low = _mm256_loadu_si256((const __m256i *)(pcm + 2 * i));                                         \
            __m256i high = _mm256_loadu_si256((const __m256i *)(pcm + 2 * i + 32));                                   \
            _mm256_storeu_si256((__m256i *)(codes + i),                                                               \
                                cr_law_join_avx2(cr_##law##_encode_lanes_avx2(low),                                   \
                                                 cr_##law##_encode_lanes_avx2(high), low, high, (char)(wire)));       \
        }                                                                                                             \
        cr_##law##_encode_scalar(codes + i, pcm + 2 * i, samples - i);                                                \
    }

CR_LAW_DECODE_AVX2(ulaw)
CR_LAW_DECODE_AVX2(alaw)
CR_LAW_ENCODE_AVX2(ulaw, CR_ULAW_SILENCE)
CR_LAW_ENCODE_AVX2(alaw, CR_ALAW_SILENCE)

#endif
