/* G.711 µ-law and A-law, both directions: the scalar specification, and the choice among its faster versions.
 *
 * What: 8-bit codes as sent on the wire <-> signed 16-bit linear PCM.
 * How:  an 8-bit code is a sign, a segment (chord) and a place in it (step). Decoding shifts the step into its
 *       segment; encoding finds the segment by the position of the highest set bit.
 *
 * µ-law (14-bit magnitude + sign, bias 33, all bits inverted on the wire), ITU-T G.711 (11/88) table 2:
 *       code bits        7   6 5 4     3 2 1 0
 *                      sign  segment   step          linear = sign * (((step*2 + 33) << segment) - 33) * 4
 * A-law (13-bit, even bits inverted on the wire), ITU-T G.711 (11/88) table 1:
 *                      sign  segment   step          linear = sign * (step*2 + 1          ) * 8           segment 0
 *                                                    linear = sign * ((step*2 + 33) << (segment-1)) * 8   segment > 0
 *
 * Requirements, each a test in tests/native/test_g711.py, under every instruction set the machine has:
 *   decode: bit-exact for all 256 codes of both laws.
 *   encode: bit-exact with the ITU-T G.191 Software Tools Library for all 65,536 inputs. The STL takes the ones'
 *           complement of a negative number as its magnitude, in 14 (µ) or 12 bits (A): -1 is treated as magnitude 0.
 *   both:   any address, any length; nothing is read or written beyond it. Encoding may write over its own input
 *           from the same start on; decoding must not overlap it.
 *
 * Versions, a header each: g711_sse2.h, g711_avx2.h, g711_avx512.h, g711_neon.h. `cr_g711_use` puts one of them into
 * `cr_g711`, which every module that includes this header has for itself and sets at import.
 */
#ifndef CALLREEL_G711_H
#define CALLREEL_G711_H

#include <stddef.h>
#include <stdint.h>

#include "callreel/bytes.h"
#include "callreel/cpu.h"

#define CR_ULAW_SILENCE 0xFF /* decodes to 0 */
#define CR_ALAW_SILENCE 0xD5 /* decodes to +8, A-law's smallest: it has no zero */

/* The two laws as constant expressions, so that code and tables come from the same line. `bits` are those of the
 * code after the inversion of the wire is undone; their sign bit is not looked at. */
#define CR_LAW_STEP(bits) ((bits) & 15)
#define CR_LAW_SEGMENT(bits) ((bits) >> 4 & 7)
#define CR_ULAW_MAGNITUDE(bits) ((((CR_LAW_STEP(bits) * 2 + 33) << CR_LAW_SEGMENT(bits)) - 33) * 4)
#define CR_ALAW_MAGNITUDE(bits)                                                                                       \
    (((CR_LAW_STEP(bits) * 2 + (CR_LAW_SEGMENT(bits) ? 33 : 1))                                                       \
      << (CR_LAW_SEGMENT(bits) ? CR_LAW_SEGMENT(bits) - 1 : 0)) *                                                     \
     8)
/* µ-law: sign bit set after the inversion means negative. A-law: it means positive, and it is not inverted. */
#define CR_ULAW_LINEAR(code) ((code) & 0x80 ? CR_ULAW_MAGNITUDE(~(code)) : -CR_ULAW_MAGNITUDE(~(code)))
#define CR_ALAW_LINEAR(code) ((code) & 0x80 ? CR_ALAW_MAGNITUDE((code) ^ 0x55) : -CR_ALAW_MAGNITUDE((code) ^ 0x55))

static inline int16_t cr_ulaw_to_linear(uint8_t code) { return (int16_t)CR_ULAW_LINEAR((int)code); }
static inline int16_t cr_alaw_to_linear(uint8_t code) { return (int16_t)CR_ALAW_LINEAR((int)code); }

/* f(from), f(from + 1), ...: the initialiser of a table. */
#define CR_TABLE_4(f, from) f((from)), f((from) + 1), f((from) + 2), f((from) + 3)
#define CR_TABLE_16(f, from)                                                                                          \
    CR_TABLE_4(f, from), CR_TABLE_4(f, (from) + 4), CR_TABLE_4(f, (from) + 8), CR_TABLE_4(f, (from) + 12)
#define CR_TABLE_64(f, from)                                                                                          \
    CR_TABLE_16(f, from), CR_TABLE_16(f, (from) + 16), CR_TABLE_16(f, (from) + 32), CR_TABLE_16(f, (from) + 48)
#define CR_TABLE_128(f) CR_TABLE_64(f, 0), CR_TABLE_64(f, 64)
#define CR_TABLE_256(f) CR_TABLE_128(f), CR_TABLE_64(f, 128), CR_TABLE_64(f, 192)

static const int16_t cr_ulaw_table[256] = {CR_TABLE_256(CR_ULAW_LINEAR)};
static const int16_t cr_alaw_table[256] = {CR_TABLE_256(CR_ALAW_LINEAR)};

/* Position of the highest set bit; 0 < value < 65536. */
static inline unsigned cr_highest_bit(unsigned value)
{
    unsigned position = (unsigned)(value > 0xFF) << 3, shift;
    value >>= position;
    shift = (unsigned)(value > 0xF) << 2;
    value >>= shift;
    return position + shift + (0xFFFFAA50u >> 2 * value & 3); /* 16 answers of 2 bits: 3333333322221100 */
}

static inline uint8_t cr_linear_to_ulaw(int16_t sample)
{
    int negative = sample < 0;
    unsigned magnitude = (unsigned)((negative ? ~sample : sample) >> 2) + 33; /* 14 bits, biased */
    unsigned segment, step;
    if (magnitude > 0x1FFF)
        magnitude = 0x1FFF; /* the last decision value: all above is the last code */
    segment = cr_highest_bit(magnitude) - 5;
    step = magnitude >> (segment + 1) & 15;
    return (uint8_t)~((unsigned)negative << 7 | segment << 4 | step);
}

static inline uint8_t cr_linear_to_alaw(int16_t sample)
{
    int negative = sample < 0;
    unsigned magnitude = (unsigned)((negative ? ~sample : sample) >> 4); /* 11 bits */
    unsigned segment = 0, step = magnitude;
    if (magnitude > 15) {
        segment = cr_highest_bit(magnitude) - 3;
        step = magnitude >> (segment - 1) & 15;
    }
    return (uint8_t)(((unsigned)!negative << 7 | segment << 4 | step) ^ 0x55);
}

typedef void (*cr_law_decode_fn)(uint8_t *pcm, const uint8_t *codes, size_t samples);
typedef void (*cr_law_encode_fn)(uint8_t *codes, const uint8_t *pcm, size_t samples);

static void cr_ulaw_decode_scalar(uint8_t *pcm, const uint8_t *codes, size_t samples)
{
    for (size_t i = 0; i < samples; i++)
        cr_store_s16(pcm + 2 * i, cr_ulaw_table[codes[i]]);
}

static void cr_alaw_decode_scalar(uint8_t *pcm, const uint8_t *codes, size_t samples)
{
    for (size_t i = 0; i < samples; i++)
        cr_store_s16(pcm + 2 * i, cr_alaw_table[codes[i]]);
}

static void cr_ulaw_encode_scalar(uint8_t *codes, const uint8_t *pcm, size_t samples)
{
    for (size_t i = 0; i < samples; i++)
        codes[i] = cr_linear_to_ulaw(cr_load_s16(pcm + 2 * i));
}

static void cr_alaw_encode_scalar(uint8_t *codes, const uint8_t *pcm, size_t samples)
{
    for (size_t i = 0; i < samples; i++)
        codes[i] = cr_linear_to_alaw(cr_load_s16(pcm + 2 * i));
}

/* Finding the segment by converting to float32, for processors that cannot shift every lane by its own count: a
 * number's float32 already is exponent and step, and cutting it after 4 bits of the mantissa is what a law does.
 *
 *       magnitude, 13 bits                    0 0 1 s s s s x x x x x x          highest bit at `segment + 5` (µ-law)
 *       as float32    sign 0 | exponent 127 + 5 + segment | s s s s x x x x x x 0 ... 0
 *       bits 19 to 26 of it                   segment s s s s, after subtracting CR_..._FLOAT_BIAS
 */
#define CR_ULAW_FLOAT_BIAS ((127 + 5) << 4)     /* µ-law: segment 0 begins at bit 5, 33 being the bias */
#define CR_ALAW_FLOAT_BIAS ((127 + 4 - 1) << 4) /* A-law: segment 1 begins at bit 4; segment 0 is linear */

#ifdef CR_HAVE_X86
#include "callreel/g711_avx2.h"
#include "callreel/g711_avx512.h"
#include "callreel/g711_sse2.h"
#endif
#ifdef CR_HAVE_NEON
#include "callreel/g711_neon.h"
#endif

typedef struct {
    cr_law_decode_fn ulaw_decode, alaw_decode;
    cr_law_encode_fn ulaw_encode, alaw_encode;
} cr_g711_kernels;

#define CR_G711_KERNELS(isa) {cr_ulaw_decode_##isa, cr_alaw_decode_##isa, cr_ulaw_encode_##isa, cr_alaw_encode_##isa}

/* The versions for one level; the machine must have it. */
static inline cr_g711_kernels cr_g711_kernels_for(cr_isa isa)
{
    static const cr_g711_kernels versions[CR_ISA_COUNT] = {
        [CR_ISA_SCALAR] = CR_G711_KERNELS(scalar),
#ifdef CR_HAVE_X86
        [CR_ISA_SSE2] = CR_G711_KERNELS(sse2),
        [CR_ISA_AVX2] = CR_G711_KERNELS(avx2),
        [CR_ISA_AVX512] = CR_G711_KERNELS(avx512),
#endif
#ifdef CR_HAVE_NEON
        [CR_ISA_NEON] = CR_G711_KERNELS(neon),
#endif
    };
    return versions[isa];
}

/* The versions in use; scalar until a module says otherwise, which it does once, at import. */
static cr_g711_kernels cr_g711 = CR_G711_KERNELS(scalar);

static inline void cr_g711_use(cr_isa isa) { cr_g711 = cr_g711_kernels_for(isa); }

/* The level whose versions are in use, by looking at what is called: for tests. */
static inline cr_isa cr_g711_in_use(void)
{
    int isa = CR_ISA_SCALAR;
    while (cr_g711_kernels_for((cr_isa)isa).ulaw_encode != cr_g711.ulaw_encode)
        isa++;
    return (cr_isa)isa;
}

#endif
