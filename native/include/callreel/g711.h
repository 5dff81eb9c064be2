/* G.711 µ-law and A-law, both directions: the scalar specification.
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
 * Requirements, each a test in tests/native/test_g711.py:
 *   decode: bit-exact for all 256 codes of both laws.
 *   encode: bit-exact with the ITU-T G.191 Software Tools Library for all 65,536 inputs. The STL takes the ones'
 *           complement of a negative number as its magnitude, in 14 (µ) or 12 bits (A): -1 is treated as magnitude 0.
 */
#ifndef CALLREEL_G711_H
#define CALLREEL_G711_H

#include <stddef.h>
#include <stdint.h>

#include "callreel/bytes.h"

#define CR_ULAW_SILENCE 0xFF /* decodes to 0 */
#define CR_ALAW_SILENCE 0xD5 /* decodes to +8, A-law's smallest: it has no zero */

static inline int16_t cr_ulaw_to_linear(uint8_t code)
{
    unsigned bits = (uint8_t)~code;
    unsigned segment = bits >> 4 & 7, step = bits & 15;
    int magnitude = (int)(((step * 2 + 33) << segment) - 33) * 4;
    return (int16_t)(bits & 0x80 ? -magnitude : magnitude);
}

static inline int16_t cr_alaw_to_linear(uint8_t code)
{
    unsigned bits = code ^ 0x55;
    unsigned segment = bits >> 4 & 7, step = bits & 15;
    int magnitude = (int)(segment ? (step * 2 + 33) << (segment - 1) : step * 2 + 1) * 8;
    return (int16_t)(bits & 0x80 ? magnitude : -magnitude); /* A-law: sign bit set means positive */
}

/* Position of the highest set bit; value > 0. */
static inline unsigned cr_highest_bit(unsigned value)
{
    unsigned position = 0;
    while (value >>= 1)
        position++;
    return position;
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
        cr_store_s16(pcm + 2 * i, cr_ulaw_to_linear(codes[i]));
}

static void cr_alaw_decode_scalar(uint8_t *pcm, const uint8_t *codes, size_t samples)
{
    for (size_t i = 0; i < samples; i++)
        cr_store_s16(pcm + 2 * i, cr_alaw_to_linear(codes[i]));
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

#endif
