/* WAV: the `fmt ` chunk, and sample data of every plain encoding to 16-bit PCM: the scalar specification.
 *
 * What: reads the format chunk of either byte order into one struct; converts runs of samples to signed 16 bits.
 * How:  loads by byte position, so that neither the machine's byte order nor alignment matters. Chunk walking and
 *       header writing are control flow and live in wav.pyx.
 *
 * `fmt ` (Microsoft/IBM Multimedia Programming Interface 1.0, 1991; Multimedia Data Standards Update, 1994):
 *       byte   0    2         4             8           12           14    16      18          20        24
 *            tag  channels  sample rate  bytes/s     block align   bits  cbSize  valid bits  mask     sub-format
 *            '--------------- WAVEFORMAT, 14 -----------------'                   or samples   '- EXTENSIBLE, 40
 *            '--------------- PCMWAVEFORMAT, 16 --------------------'             per block
 *            '--------------- WAVEFORMATEX, 18 -----------------------------'
 *
 * Requirements, each a test in tests/native/test_wav.py:
 *   1  Sub-format {0000tttt-0000-0010-8000-00AA00389B71} is tag tttt (Microsoft, KSDATAFORMAT_SUBTYPE family); any
 *      other GUID leaves WAVE_FORMAT_EXTENSIBLE as the tag. A GUID's first three fields follow the file's byte order.
 *   2  PCM of up to 8 bits is unsigned around 128, all wider PCM is signed; fewer valid bits than the container has
 *      sit at its top (the 1991 text). So the container's width alone decides the conversion.
 *   3  24 and 32 bits are rounded to the nearest 16-bit value, halves upwards, saturating at +32767.
 *   4  Float 1.0 is 32768, rounded as in 3, saturating at both ends; NaN is 0, infinities saturate.
 *   5  µ-law and A-law as ITU-T G.711 (g711.h).
 */
#ifndef CALLREEL_WAV_H
#define CALLREEL_WAV_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "callreel/bytes.h"
#include "callreel/g711.h"

/* Format tags (RFC 2361, WAVE and AVI Codec Registries). */
enum {
    CR_WAVE_PCM = 0x0001,
    CR_WAVE_MS_ADPCM = 0x0002,
    CR_WAVE_FLOAT = 0x0003,
    CR_WAVE_ALAW = 0x0006,
    CR_WAVE_ULAW = 0x0007,
    CR_WAVE_IMA_ADPCM = 0x0011,
    CR_WAVE_GSM610 = 0x0031,
    CR_WAVE_MP3 = 0x0055,
    CR_WAVE_EXTENSIBLE = 0xFFFE
};

#define CR_WAV_FMT_MIN_BYTES 14        /* WAVEFORMAT */
#define CR_WAV_FMT_EXTENSIBLE_BYTES 40 /* WAVEFORMATEXTENSIBLE; nothing beyond it is read */

typedef struct {
    uint16_t tag; /* resolved through the sub-format where there is one */
    uint16_t channels;
    uint32_t sample_rate;
    uint32_t byte_rate;
    uint16_t block_align;
    uint16_t bits;              /* of the container; 0 where the file does not say */
    uint16_t samples_per_block; /* a channel's samples in one block of block_align bytes; 0: not a block codec */
    uint8_t extensible;
} cr_wav_fmt;

static inline uint16_t cr_wav_u16(const uint8_t *p, int big) { return big ? cr_load_u16be(p) : cr_load_u16le(p); }
static inline uint32_t cr_wav_u32(const uint8_t *p, int big) { return big ? cr_load_u32be(p) : cr_load_u32le(p); }
static inline uint64_t cr_wav_u64(const uint8_t *p, int big) { return big ? cr_load_u64be(p) : cr_load_u64le(p); }

/* Requirement 1: the tag that a sub-format GUID stands for, or CR_WAVE_EXTENSIBLE. */
static inline uint16_t cr_wav_guid_tag(const uint8_t *guid, int big)
{
    static const uint8_t family[8] = {0x80, 0x00, 0x00, 0xAA, 0x00, 0x38, 0x9B, 0x71};
    uint32_t first = cr_wav_u32(guid, big);
    if (first > 0xFFFF || cr_wav_u16(guid + 4, big) != 0 || cr_wav_u16(guid + 6, big) != 0x0010)
        return CR_WAVE_EXTENSIBLE;
    return memcmp(guid + 8, family, sizeof family) ? CR_WAVE_EXTENSIBLE : (uint16_t)first;
}

/* Fills `fmt` from a chunk body of `size` bytes; 0 when that is too short to be one, else 1. */
static inline int cr_wav_fmt_load(cr_wav_fmt *fmt, const uint8_t *body, size_t size, int big)
{
    memset(fmt, 0, sizeof *fmt);
    if (size < CR_WAV_FMT_MIN_BYTES)
        return 0;
    fmt->tag = cr_wav_u16(body, big);
    fmt->channels = cr_wav_u16(body + 2, big);
    fmt->sample_rate = cr_wav_u32(body + 4, big);
    fmt->byte_rate = cr_wav_u32(body + 8, big);
    fmt->block_align = cr_wav_u16(body + 12, big);
    if (size >= 16)
        fmt->bits = cr_wav_u16(body + 14, big);
    if (fmt->tag == CR_WAVE_EXTENSIBLE && size >= CR_WAV_FMT_EXTENSIBLE_BYTES) {
        fmt->tag = cr_wav_guid_tag(body + 24, big);
        fmt->extensible = 1;
    } else if (size >= 20 &&
               (fmt->tag == CR_WAVE_MS_ADPCM || fmt->tag == CR_WAVE_IMA_ADPCM || fmt->tag == CR_WAVE_GSM610)) {
        fmt->samples_per_block = cr_wav_u16(body + 18, big);
    }
    return 1;
}

/* Requirement 3: halves upwards, never past +32767; `drop` low bits go. */
static inline int16_t cr_wav_round(int32_t value, unsigned drop)
{
    int64_t rounded = ((int64_t)value + ((int64_t)1 << (drop - 1))) >> drop;
    return (int16_t)(rounded > 32767 ? 32767 : rounded);
}

/* Requirement 4. */
static inline int16_t cr_wav_scale(double value)
{
    value *= 32768.0;
    if (!(value == value))
        return 0;
    if (value >= 32767.0)
        return 32767;
    if (value <= -32768.0)
        return -32768;
    return (int16_t)((int)(value + 32768.5) - 32768); /* lifted above zero, so the cut rounds down */
}

static inline int16_t cr_wav_sample_f32(const uint8_t *p, int big)
{
    uint32_t bits = cr_wav_u32(p, big);
    float value;
    memcpy(&value, &bits, sizeof value);
    return cr_wav_scale((double)value);
}

static inline int16_t cr_wav_sample_f64(const uint8_t *p, int big)
{
    uint64_t bits = cr_wav_u64(p, big);
    double value;
    memcpy(&value, &bits, sizeof value);
    return cr_wav_scale(value);
}

static inline int16_t cr_wav_sample_s24(const uint8_t *p, int big)
{
    /* Kept in the upper three bytes: the sign is in place, and 16 low bits go instead of 8. */
    uint32_t bits = big ? (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8
                        : (uint32_t)p[2] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[0] << 8;
    return cr_wav_round((int32_t)bits, 16);
}

/* samples: one channel each; `pcm` has room for 2 * samples bytes. */
typedef void (*cr_wav_to_s16_fn)(uint8_t *pcm, const uint8_t *data, size_t samples);

#define CR_WAV_CONVERTER(name, bytes, expression)                                                               \
    static void name(uint8_t *pcm, const uint8_t *data, size_t samples)                                         \
    {                                                                                                           \
        for (size_t i = 0; i < samples; i++) {                                                                  \
            const uint8_t *p = data + (bytes) * i;                                                              \
            cr_store_s16(pcm + 2 * i, (int16_t)(expression));                                                   \
        }                                                                                                       \
    }

CR_WAV_CONVERTER(cr_wav_u8_to_s16, 1, (*p - 128) * 256)
CR_WAV_CONVERTER(cr_wav_s16le_to_s16, 2, cr_load_u16le(p))
CR_WAV_CONVERTER(cr_wav_s16be_to_s16, 2, cr_load_u16be(p))
CR_WAV_CONVERTER(cr_wav_s24le_to_s16, 3, cr_wav_sample_s24(p, 0))
CR_WAV_CONVERTER(cr_wav_s24be_to_s16, 3, cr_wav_sample_s24(p, 1))
CR_WAV_CONVERTER(cr_wav_s32le_to_s16, 4, cr_wav_round((int32_t)cr_load_u32le(p), 16))
CR_WAV_CONVERTER(cr_wav_s32be_to_s16, 4, cr_wav_round((int32_t)cr_load_u32be(p), 16))
CR_WAV_CONVERTER(cr_wav_f32le_to_s16, 4, cr_wav_sample_f32(p, 0))
CR_WAV_CONVERTER(cr_wav_f32be_to_s16, 4, cr_wav_sample_f32(p, 1))
CR_WAV_CONVERTER(cr_wav_f64le_to_s16, 8, cr_wav_sample_f64(p, 0))
CR_WAV_CONVERTER(cr_wav_f64be_to_s16, 8, cr_wav_sample_f64(p, 1))

/* The conversion for a tag and the bytes one sample takes in the file; NULL where there is none. */
static inline cr_wav_to_s16_fn cr_wav_converter(unsigned tag, unsigned sample_bytes, int big)
{
    switch (tag << 4 | (sample_bytes < 16 ? sample_bytes : 0)) {
    case CR_WAVE_PCM << 4 | 1: return cr_wav_u8_to_s16;
    case CR_WAVE_PCM << 4 | 2: return big ? cr_wav_s16be_to_s16 : cr_wav_s16le_to_s16;
    case CR_WAVE_PCM << 4 | 3: return big ? cr_wav_s24be_to_s16 : cr_wav_s24le_to_s16;
    case CR_WAVE_PCM << 4 | 4: return big ? cr_wav_s32be_to_s16 : cr_wav_s32le_to_s16;
    case CR_WAVE_FLOAT << 4 | 4: return big ? cr_wav_f32be_to_s16 : cr_wav_f32le_to_s16;
    case CR_WAVE_FLOAT << 4 | 8: return big ? cr_wav_f64be_to_s16 : cr_wav_f64le_to_s16;
    case CR_WAVE_ULAW << 4 | 1: return cr_g711.ulaw_decode;
    case CR_WAVE_ALAW << 4 | 1: return cr_g711.alaw_decode;
    default: return NULL;
    }
}

#endif
