/* MPEG audio layer III framing: walking the frames of an MP3 file, its tags and its Xing/Info frame.
 *
 * What: bytes -> frames, tags and junk; the sums over a file that `inspect` and the Info frame need; the Info frame
 *       with its LAME tag, read and written. Nothing is decoded: a header says where the next frame begins.
 * How:  a step function looks at the bytes at one place and says what stands there and how long it is. It never looks
 *       further than CR_MPEG_LOOKAHEAD bytes, so a stream read in pieces gives exactly what the whole file gives.
 *
 * Frame header, ISO/IEC 11172-3 (1993) clause 2.4.1.3 and 13818-3 (1995); MPEG-2.5 is Fraunhofer's extension of it
 * to 8, 11.025 and 12 kHz (the twelfth sync bit is 0):
 *
 *   31        21 20 19 18 17 16 15  12 11 10  9  8 7  6 5  4  3  2 1  0
 *   sync: eleven version layer P bitrate rate pad . mode  ext  C  O  emphasis
 *         ones   00=2.5  01=III                      00 stereo 01 joint 10 dual 11 mono
 *                10=2           P=0: a 16-bit CRC follows the header
 *                11=1           bitrate 0: free format, 15: forbidden
 *
 *   bytes in a frame = samples / 8 * bit rate / sample rate, rounded down, + padding; samples: 1,152 (1), 576 (2, 2.5)
 *
 * Requirements, each a test in tests/native/test_mp3.py:
 *   1. Lengths: MPEG-1, 2 and 2.5 layer III, every rate and bit rate, padding (11172-3 clause 2.4.3.1).
 *   2. Free format: the length is the distance to the next matching header that is followed by a third, or by the
 *      end, at the same distance; up to 640 kbit/s, the most that encoders write.
 *   3. Tags are stepped over: ID3v2 of any version with footer (id3.org), ID3v1, APEv1/v2, Lyrics3 v1/v2.
 *   4. Junk: a header out of sequence counts only when another matching header, a tag or the end of the data follows
 *      where its frame ends. One of another version or rate than the first frame needs two such witnesses.
 *   5. Every byte is looked at a bounded number of times, whatever the bytes are.
 *   6. The Info frame: layout below; both CRCs; its length depends on the format alone, never on the counts.
 *   7. All results are the same for every cutting of the input into pieces.
 *
 * The Xing/Info frame is a frame of silence whose main data is, from the end of the zeroed side information:
 *
 *     0 "Xing" (variable bit rate) or "Info" (constant)
 *     4 flags: 1 frame count, 2 byte count, 4 seek table, 8 quality; each field is absent when its flag is not set
 *     8 frames, the Info frame not counted            12 bytes, from this frame's header on, this frame included
 *    16 seek table: entry i = 256 * (byte at i % of the time) / bytes
 *   116 quality, 0 to 100
 *   120 encoder and version, 9 characters             129 revision (4 bits), method (4): 1 CBR, 2 ABR, 3 to 5 VBR
 *   130 low-pass in 100 Hz                            131 peak, 23 bits after the point
 *   135 replay gain, radio: name (3) originator (3) sign (1) tenths of a dB (9)     137 the same, audiophile
 *   139 flags (4), ATH type (4)                       140 bit rate in kbit/s, 255: that or more
 *   141 encoder delay (12), padding (12) in samples   144 noise shaping (2) mode (3) unwise (1) source rate (2)
 *   145 gain                                          146 surround and preset
 *   148 bytes of music, this frame included           152 CRC of the frames after this one
 *   154 CRC of this frame up to here
 *
 * CRC: polynomial 0x8005, bits reflected, start 0. (Gabriel Bouvigne's "MP3 Info Tag revision 1" and LAME 3.100.)
 */
#ifndef CALLREEL_MPEG_FRAME_H
#define CALLREEL_MPEG_FRAME_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "callreel/bytes.h"

#define CR_MPEG_FREE_MAX_BYTES 5760 /* 640 kbit/s, LAME's most in free format, at 8 kHz: 576 / 8 * 640000 / 8000 */
#define CR_MPEG_FRAME_MAX_BYTES (CR_MPEG_FREE_MAX_BYTES + 1) /* with padding */
#define CR_MPEG_LOOKAHEAD (3 * CR_MPEG_FRAME_MAX_BYTES + 256) /* a frame, two witnesses and a tag behind them */
#define CR_MPEG_FREE_TRIES 3 /* matching headers looked at per candidate: two chance matches are rare already */
#define CR_ID3V1_BYTES 128
#define CR_LYRICS_MAX_BYTES 1000020 /* Lyrics3 v2: a six-digit length, then the length and the end mark */

/* ---- CRC-16 ---- */

static const uint16_t cr_crc16_table[256] = {
    0x0000, 0xC0C1, 0xC181, 0x0140, 0xC301, 0x03C0, 0x0280, 0xC241, 0xC601, 0x06C0, 0x0780, 0xC741,
    0x0500, 0xC5C1, 0xC481, 0x0440, 0xCC01, 0x0CC0, 0x0D80, 0xCD41, 0x0F00, 0xCFC1, 0xCE81, 0x0E40,
    0x0A00, 0xCAC1, 0xCB81, 0x0B40, 0xC901, 0x09C0, 0x0880, 0xC841, 0xD801, 0x18C0, 0x1980, 0xD941,
    0x1B00, 0xDBC1, 0xDA81, 0x1A40, 0x1E00, 0xDEC1, 0xDF81, 0x1F40, 0xDD01, 0x1DC0, 0x1C80, 0xDC41,
    0x1400, 0xD4C1, 0xD581, 0x1540, 0xD701, 0x17C0, 0x1680, 0xD641, 0xD201, 0x12C0, 0x1380, 0xD341,
    0x1100, 0xD1C1, 0xD081, 0x1040, 0xF001, 0x30C0, 0x3180, 0xF141, 0x3300, 0xF3C1, 0xF281, 0x3240,
    0x3600, 0xF6C1, 0xF781, 0x3740, 0xF501, 0x35C0, 0x3480, 0xF441, 0x3C00, 0xFCC1, 0xFD81, 0x3D40,
    0xFF01, 0x3FC0, 0x3E80, 0xFE41, 0xFA01, 0x3AC0, 0x3B80, 0xFB41, 0x3900, 0xF9C1, 0xF881, 0x3840,
    0x2800, 0xE8C1, 0xE981, 0x2940, 0xEB01, 0x2BC0, 0x2A80, 0xEA41, 0xEE01, 0x2EC0, 0x2F80, 0xEF41,
    0x2D00, 0xEDC1, 0xEC81, 0x2C40, 0xE401, 0x24C0, 0x2580, 0xE541, 0x2700, 0xE7C1, 0xE681, 0x2640,
    0x2200, 0xE2C1, 0xE381, 0x2340, 0xE101, 0x21C0, 0x2080, 0xE041, 0xA001, 0x60C0, 0x6180, 0xA141,
    0x6300, 0xA3C1, 0xA281, 0x6240, 0x6600, 0xA6C1, 0xA781, 0x6740, 0xA501, 0x65C0, 0x6480, 0xA441,
    0x6C00, 0xACC1, 0xAD81, 0x6D40, 0xAF01, 0x6FC0, 0x6E80, 0xAE41, 0xAA01, 0x6AC0, 0x6B80, 0xAB41,
    0x6900, 0xA9C1, 0xA881, 0x6840, 0x7800, 0xB8C1, 0xB981, 0x7940, 0xBB01, 0x7BC0, 0x7A80, 0xBA41,
    0xBE01, 0x7EC0, 0x7F80, 0xBF41, 0x7D00, 0xBDC1, 0xBC81, 0x7C40, 0xB401, 0x74C0, 0x7580, 0xB541,
    0x7700, 0xB7C1, 0xB681, 0x7640, 0x7200, 0xB2C1, 0xB381, 0x7340, 0xB101, 0x71C0, 0x7080, 0xB041,
    0x5000, 0x90C1, 0x9181, 0x5140, 0x9301, 0x53C0, 0x5280, 0x9241, 0x9601, 0x56C0, 0x5780, 0x9741,
    0x5500, 0x95C1, 0x9481, 0x5440, 0x9C01, 0x5CC0, 0x5D80, 0x9D41, 0x5F00, 0x9FC1, 0x9E81, 0x5E40,
    0x5A00, 0x9AC1, 0x9B81, 0x5B40, 0x9901, 0x59C0, 0x5880, 0x9841, 0x8801, 0x48C0, 0x4980, 0x8941,
    0x4B00, 0x8BC1, 0x8A81, 0x4A40, 0x4E00, 0x8EC1, 0x8F81, 0x4F40, 0x8D01, 0x4DC0, 0x4C80, 0x8C41,
    0x4400, 0x84C1, 0x8581, 0x4540, 0x8701, 0x47C0, 0x4680, 0x8641, 0x8201, 0x42C0, 0x4380, 0x8341,
    0x4100, 0x81C1, 0x8081, 0x4040,
};

static uint16_t cr_crc16(uint16_t crc, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        crc = (uint16_t)(crc >> 8 ^ cr_crc16_table[(crc ^ data[i]) & 0xFF]);
    return crc;
}

/* ---- frame header ---- */

#define CR_MPEG_SAME_MASK 0xFFFE0C00u /* sync, version, layer, sample rate: constant within a stream */

typedef struct {
    uint32_t word;
    uint32_t bitrate_bps; /* 0: free format, not yet measured */
    uint32_t sample_rate;
    uint32_t size_bytes; /* header and padding included; 0: free format, not yet measured */
    uint16_t samples;    /* per channel */
    uint8_t version;     /* 1, 2 or 25 */
    uint8_t rate;        /* 0 to 8: place in cr_mpeg_rates */
    uint8_t mode;        /* 0 stereo, 1 joint stereo, 2 dual channel, 3 mono */
    uint8_t channels;
    uint8_t padding;
    uint8_t crc;        /* a CRC of two bytes follows the header */
    uint8_t side_bytes; /* side information, after header and CRC */
} cr_mpeg_header;

static const uint32_t cr_mpeg_rates[9] = {44100, 48000, 32000, 22050, 24000, 16000, 11025, 12000, 8000};

static const uint16_t cr_mpeg_kbps[2][16] = {
    {0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0}, /* MPEG-1 layer III */
    {0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0},     /* MPEG-2 and 2.5 */
};

/* Read a header: 1, or 0 when the four bytes are not one of layer III. */
static inline int cr_mpeg_parse(const uint8_t *p, cr_mpeg_header *h)
{
    uint32_t word = cr_load_u32be(p);
    unsigned version = word >> 19 & 3, bitrate = word >> 12 & 15, rate = word >> 10 & 3;
    if (word >> 21 != 0x7FF || version == 1 || (word >> 17 & 3) != 1 || bitrate == 15 || rate == 3)
        return 0;
    h->word = word;
    h->version = version == 3 ? 1 : version == 2 ? 2 : 25;
    h->rate = (uint8_t)(rate + (version == 3 ? 0 : version == 2 ? 3 : 6));
    h->sample_rate = cr_mpeg_rates[h->rate];
    h->samples = version == 3 ? 1152 : 576;
    h->bitrate_bps = cr_mpeg_kbps[version != 3][bitrate] * 1000u;
    h->padding = word >> 9 & 1;
    h->crc = !(word >> 16 & 1);
    h->mode = word >> 6 & 3;
    h->channels = h->mode == 3 ? 1 : 2;
    h->side_bytes = version == 3 ? (h->mode == 3 ? 17 : 32) : (h->mode == 3 ? 9 : 17);
    h->size_bytes = bitrate ? h->samples / 8u * h->bitrate_bps / h->sample_rate + h->padding : 0;
    return 1;
}

static inline int cr_mpeg_is_free(uint32_t word) { return (word >> 12 & 15) == 0; }

static inline int cr_mpeg_same(uint32_t a, uint32_t b)
{
    return !((a ^ b) & CR_MPEG_SAME_MASK) && cr_mpeg_is_free(a) == cr_mpeg_is_free(b);
}

/* A header that matches `word` stands at p. */
static inline int cr_mpeg_matches(const uint8_t *p, uint32_t word)
{
    cr_mpeg_header h;
    return cr_mpeg_parse(p, &h) && cr_mpeg_same(h.word, word);
}

/* Give a free-format header its length and bit rate: whole kbit/s where the length allows it, since that is what
 * encoders offer. */
static inline void cr_mpeg_set_free(cr_mpeg_header *h, uint32_t base_bytes)
{
    uint32_t eighth = h->samples / 8u;
    uint32_t least = (uint32_t)(((uint64_t)base_bytes * h->sample_rate + eighth - 1) / eighth);
    uint32_t next = (uint32_t)(((uint64_t)(base_bytes + 1) * h->sample_rate + eighth - 1) / eighth);
    uint32_t round = (least + 999) / 1000 * 1000;
    h->size_bytes = base_bytes + h->padding;
    h->bitrate_bps = round < next ? round : least;
}

/* ---- tags ---- */

enum { CR_TAG_NONE, CR_TAG_ID3V2, CR_TAG_ID3V1, CR_TAG_APE, CR_TAG_LYRICS3, CR_TAG_KINDS };

/* Which tag begins at p, and how long it says it is; `left` bytes follow, and nothing after them when `final`. */
static int cr_mpeg_tag_at(const uint8_t *p, size_t left, int final, uint64_t *size_bytes)
{
    cr_mpeg_header h;
    *size_bytes = 0;
    if (left >= 10 && !memcmp(p, "ID3", 3)) {
        if (p[3] == 0xFF || p[4] == 0xFF || (p[6] | p[7] | p[8] | p[9]) & 0x80)
            return CR_TAG_NONE;
        *size_bytes = 10 + ((uint64_t)p[6] << 21 | (uint64_t)p[7] << 14 | (uint64_t)p[8] << 7 | p[9]);
        if (p[5] & 0x10)
            *size_bytes += 10; /* footer */
        return CR_TAG_ID3V2;
    }
    if (left >= 32 && !memcmp(p, "APETAGEX", 8)) {
        uint32_t items = cr_load_u32le(p + 12); /* footer included, header not */
        *size_bytes = 32;
        if (cr_load_u32le(p + 20) >> 29 & 1) /* this is the header */
            *size_bytes += items;
        return CR_TAG_APE;
    }
    if (left >= CR_ID3V1_BYTES && !memcmp(p, "TAG", 3)) {
        /* Three letters prove little: the end must follow, or another file's beginning. */
        const uint8_t *after = p + CR_ID3V1_BYTES;
        size_t rest = left - CR_ID3V1_BYTES;
        if ((rest == 0 && final) || (rest >= 4 && (!memcmp(after, "ID3", 3) || cr_mpeg_parse(after, &h)))) {
            *size_bytes = CR_ID3V1_BYTES;
            return CR_TAG_ID3V1;
        }
        return CR_TAG_NONE;
    }
    if (left >= 11 && !memcmp(p, "LYRICSBEGIN", 11)) {
        *size_bytes = 11;
        return CR_TAG_LYRICS3;
    }
    return CR_TAG_NONE;
}

static inline int cr_mpeg_tag_may_begin(uint8_t byte)
{
    return byte == 'I' || byte == 'A' || byte == 'T' || byte == 'L';
}

/* ---- stepping ---- */

enum {
    CR_STEP_MORE,      /* more bytes are needed to decide */
    CR_STEP_END,       /* nothing is left */
    CR_STEP_FRAME,     /* a whole frame */
    CR_STEP_TRUNCATED, /* a frame cut short by the end or by a tag */
    CR_STEP_TAG,       /* a tag, or its first part; `size_bytes` may reach beyond the data at hand */
    CR_STEP_JUNK,
};

typedef struct {
    uint32_t first_word; /* header of the first frame, 0 before it */
    uint32_t last_word;  /* header of the frame that ended here, 0 out of sequence */
    uint32_t free_base;  /* free format: bytes without padding, 0 unknown */
    uint32_t lyrics_left;  /* inside Lyrics3: bytes in which its end must come */
    uint64_t junk_run;   /* bytes of junk just before here */
} cr_mpeg_walker;

typedef struct {
    int kind;            /* CR_STEP_… */
    int tag;             /* CR_TAG_… */
    uint64_t size_bytes; /* to go on by */
    uint64_t reclaimed;  /* bytes before this tag that were taken for junk and belong to it (APEv1 has no header) */
    cr_mpeg_header header;
} cr_mpeg_item;

/* What stands where a frame with header `word` ends: 0 nothing known, 1 a matching header, 2 a tag or the end. */
static inline int cr_mpeg_witness(const uint8_t *p, size_t left, int final, uint32_t word)
{
    uint64_t size;
    if (left < 4) { /* the end, or a matching header that the end cuts short */
        int matches = left == 0 || (p[0] == 0xFF && (left == 1 || !((p[1] ^ word >> 16) & 0xFE)));
        return final && matches ? 2 : 0;
    }
    if (cr_mpeg_matches(p, word))
        return 1;
    return cr_mpeg_tag_may_begin(p[0]) && cr_mpeg_tag_at(p, left, final, &size) != CR_TAG_NONE ? 2 : 0;
}

/* Length without padding of the free-format frame at p: the distance to a matching header with a witness at the same
 * distance behind it; 0 when there is none. */
static uint32_t cr_mpeg_free_base(const uint8_t *p, size_t left, int final, const cr_mpeg_header *h)
{
    size_t at = 4u + (h->crc ? 2u : 0u) + h->side_bytes;
    size_t stop = left - 3 < CR_MPEG_FRAME_MAX_BYTES + 1 ? left - 3 : CR_MPEG_FRAME_MAX_BYTES + 1; /* left >= 4 */
    int tries = 0;
    while (at < stop) {
        cr_mpeg_header next;
        const uint8_t *found = (const uint8_t *)memchr(p + at, 0xFF, stop - at);
        if (!found)
            return 0;
        at = (size_t)(found - p);
        if (cr_mpeg_parse(found, &next) && cr_mpeg_same(next.word, h->word)) {
            size_t base = at - h->padding, end = at + base + next.padding;
            if (base > CR_MPEG_FREE_MAX_BYTES)
                return 0;
            if (end <= left && cr_mpeg_witness(p + end, left - end, final, h->word))
                return (uint32_t)base;
            if (++tries == CR_MPEG_FREE_TRIES)
                return 0;
        }
        at++;
    }
    return 0;
}

/* A frame out of sequence begins at p, by requirement 4. */
static int cr_mpeg_accept(const cr_mpeg_walker *w, const uint8_t *p, size_t left, int final, cr_mpeg_header *h,
                          uint32_t *free_base)
{
    cr_mpeg_header next;
    int witness;
    *free_base = 0;
    if (left < 4 || p[0] != 0xFF || !cr_mpeg_parse(p, h))
        return 0;
    if (cr_mpeg_is_free(h->word)) {
        *free_base = cr_mpeg_free_base(p, left, final, h); /* has looked at two witnesses */
        if (*free_base)
            cr_mpeg_set_free(h, *free_base);
        return *free_base != 0;
    }
    if (h->size_bytes > left)
        return 0;
    witness = cr_mpeg_witness(p + h->size_bytes, left - h->size_bytes, final, h->word);
    if (!w->first_word || cr_mpeg_same(w->first_word, h->word))
        return witness != 0;
    if (witness != 1)
        return 0;
    if (!cr_mpeg_parse(p + h->size_bytes, &next) || (size_t)h->size_bytes + next.size_bytes > left)
        return 0;
    left -= (size_t)h->size_bytes + next.size_bytes;
    return cr_mpeg_witness(p + h->size_bytes + next.size_bytes, left, final, h->word) != 0;
}

/* Where in a frame that has no witness behind it a tag begins, so that the frame ends there; 0 nowhere. */
static size_t cr_mpeg_tag_inside(const uint8_t *p, size_t size, size_t left, int final)
{
    uint64_t tag_bytes;
    for (size_t at = 4; at < size; at++)
        if (cr_mpeg_tag_may_begin(p[at]) && cr_mpeg_tag_at(p + at, left - at, final, &tag_bytes) != CR_TAG_NONE)
            return at;
    return 0;
}

/* The next frame of a running sequence: 1 and the item, or 0 when no matching header stands here. */
static int cr_mpeg_continue(cr_mpeg_walker *w, const uint8_t *p, size_t left, int final, cr_mpeg_item *item)
{
    cr_mpeg_header *h = &item->header;
    size_t cut = 0, size;
    if (left < 4) { /* the data ends within a header */
        uint8_t head[4];
        for (int i = 0; i < 4; i++)
            head[i] = (uint8_t)(w->last_word >> (24 - 8 * i));
        if (p[0] != head[0] || (left > 1 && (p[1] ^ head[1]) & 0xFE))
            return 0;
        memcpy(head, p, left);
        cr_mpeg_parse(head, h);
        item->kind = CR_STEP_TRUNCATED;
        item->size_bytes = left;
        return 1;
    }
    if (!cr_mpeg_parse(p, h) || !cr_mpeg_same(h->word, w->last_word))
        return 0;
    if (cr_mpeg_is_free(h->word))
        cr_mpeg_set_free(h, w->free_base);
    size = h->size_bytes;
    if (size > left || !cr_mpeg_witness(p + size, left - size, final, h->word))
        cut = cr_mpeg_tag_inside(p, size < left ? size : left, left, final);
    if (size > left && !cut)
        cut = left;
    item->kind = cut ? CR_STEP_TRUNCATED : CR_STEP_FRAME;
    item->size_bytes = cut ? cut : size;
    return 1;
}

/* Go on within Lyrics3 to its end mark, which both versions write in nine characters. */
static void cr_mpeg_lyrics(cr_mpeg_walker *w, const uint8_t *p, size_t left, int final, cr_mpeg_item *item)
{
    size_t at = 0, stop = final ? left : left - CR_MPEG_LOOKAHEAD + 1;
    item->kind = CR_STEP_TAG;
    item->tag = CR_TAG_LYRICS3;
    if (stop > w->lyrics_left)
        stop = w->lyrics_left;
    for (; at < stop; at++)
        if (p[at] == 'L' && left - at >= 9 && (!memcmp(p + at, "LYRICSEND", 9) || !memcmp(p + at, "LYRICS200", 9))) {
            w->lyrics_left = 0;
            item->size_bytes = at + 9;
            return;
        }
    w->lyrics_left -= (uint32_t)at;
    item->size_bytes = at;
}

/* Say what stands at p. `left` bytes are at hand; `final`: there are no more. Nothing beyond CR_MPEG_LOOKAHEAD bytes
 * after the end of the item bears on the answer. */
static void cr_mpeg_step(cr_mpeg_walker *w, const uint8_t *p, size_t left, int final, cr_mpeg_item *item)
{
    uint32_t free_base;
    size_t at;
    item->tag = CR_TAG_NONE;
    item->size_bytes = item->reclaimed = 0;
    if (left == 0 || (!final && left < CR_MPEG_LOOKAHEAD)) {
        item->kind = left == 0 && final ? CR_STEP_END : CR_STEP_MORE;
        return;
    }
    if (w->lyrics_left) {
        cr_mpeg_lyrics(w, p, left, final, item);
        return;
    }
    if (w->last_word) {
        if (cr_mpeg_continue(w, p, left, final, item)) {
            w->last_word = item->kind == CR_STEP_FRAME ? item->header.word : 0;
            return;
        }
        w->last_word = 0;
    }
    for (at = 0; final ? at < left : left - at >= CR_MPEG_LOOKAHEAD; at++) {
        size_t rest = left - at;
        int frame = 0;
        if (p[at] == 0xFF)
            frame = cr_mpeg_accept(w, p + at, rest, final, &item->header, &free_base);
        else if (cr_mpeg_tag_may_begin(p[at]))
            item->tag = cr_mpeg_tag_at(p + at, rest, final, &item->size_bytes);
        if (!frame && !item->tag)
            continue;
        if (at)
            break; /* the junk before it comes first */
        if (frame) {
            item->kind = CR_STEP_FRAME;
            item->size_bytes = item->header.size_bytes;
            w->free_base = free_base;
            w->last_word = item->header.word;
            if (!w->first_word)
                w->first_word = item->header.word;
        } else {
            item->kind = CR_STEP_TAG;
            if (item->tag == CR_TAG_LYRICS3)
                w->lyrics_left = CR_LYRICS_MAX_BYTES;
            if (item->tag == CR_TAG_APE && item->size_bytes == 32) {
                uint32_t items = cr_load_u32le(p + 12);
                if (items >= 32 && items - 32 <= w->junk_run)
                    item->reclaimed = items - 32;
            }
        }
        w->junk_run = 0;
        return;
    }
    item->kind = CR_STEP_JUNK;
    item->tag = CR_TAG_NONE;
    item->size_bytes = at;
    w->junk_run += at;
}

/* ---- seek table ---- */

#define CR_SEEK_POINTS 512 /* kept at most: twice as coarse whenever it is full, and never below 256 */

typedef struct {
    uint64_t at[CR_SEEK_POINTS]; /* byte where frame i * step begins */
    uint64_t step, seen;
    uint32_t held;
} cr_seek_points;

static inline void cr_seek_add(cr_seek_points *s, uint64_t offset)
{
    if (!s->step)
        s->step = 1;
    if (s->seen % s->step == 0 && s->held == CR_SEEK_POINTS) {
        for (uint32_t i = 0; i < CR_SEEK_POINTS / 2; i++)
            s->at[i] = s->at[2 * i];
        s->held = CR_SEEK_POINTS / 2;
        s->step *= 2; /* seen is a multiple of this too, CR_SEEK_POINTS being even */
    }
    if (s->seen % s->step == 0)
        s->at[s->held++] = offset;
    s->seen++;
}

/* The 100 entries for a file of `total_bytes` whose frames begin `leading_bytes` after the offsets given; all of it
 * below 2^40, so that no product overflows. Between kept points the bytes are spread evenly. */
static void cr_seek_table(const cr_seek_points *s, uint64_t leading_bytes, uint64_t total_bytes, uint8_t table[100])
{
    for (uint32_t i = 0; i < 100; i++) {
        uint64_t frame = s->seen * i / 100, place = 0, entry = 0;
        if (s->seen) {
            uint64_t k = frame / s->step, span = s->step;
            uint64_t next = k + 1 < s->held ? s->at[k + 1] : total_bytes - leading_bytes;
            if (k + 1 >= s->held)
                span = s->seen - k * s->step;
            place = s->at[k] + (next > s->at[k] ? (next - s->at[k]) * (frame % s->step) / span : 0);
        }
        if (total_bytes)
            entry = 256 * (place + leading_bytes) / total_bytes;
        table[i] = (uint8_t)(i == 0 ? 0 : entry > 255 ? 255 : entry);
    }
}

/* ---- Xing, Info, VBRI ---- */

enum { CR_XING_NONE, CR_XING_XING, CR_XING_INFO, CR_XING_VBRI };
enum { CR_XING_FRAMES = 1, CR_XING_BYTES = 2, CR_XING_TABLE = 4, CR_XING_QUALITY = 8 };

#define CR_XING_FULL_BYTES 156 /* with every field and the LAME tag */
#define CR_LAME_TAG_BYTES 36
#define CR_VBRI_OFFSET 36 /* always: header and a stereo MPEG-1 side information */
#define CR_VBRI_BYTES 26

typedef struct {
    uint8_t kind;
    uint8_t flags;      /* CR_XING_… fields that are there */
    uint8_t has_lame;   /* the fields from `encoder` on are there */
    uint8_t has_delay;  /* encoder delay and padding can be believed */
    uint8_t tag_crc_ok;
    uint8_t table[100];
    uint8_t encoder[9];
    uint8_t revision, method, encoding_flags, ath_type, bitrate_kbps, misc;
    int8_t gain;
    uint16_t delay_samples, padding_samples, radio_gain, audiophile_gain, preset, music_crc, tag_crc;
    uint32_t frames, bytes, quality, lowpass_hz, peak, music_bytes;
} cr_xing;

/* LAME before 3.90 wrote twenty characters of version where the tag has its fields. */
static int cr_xing_is_old_lame(const uint8_t *encoder)
{
    return !memcmp(encoder, "LAME3.", 6) && encoder[6] >= '2' && encoder[6] <= '8';
}

/* Read the Xing, Info or VBRI header in a frame of `size` bytes: its kind, CR_XING_NONE when it holds music. */
static int cr_xing_parse(const uint8_t *frame, size_t size, cr_xing *x)
{
    cr_mpeg_header h;
    size_t at, end;
    memset(x, 0, sizeof *x);
    if (size < 4 || !cr_mpeg_parse(frame, &h))
        return CR_XING_NONE;
    /* With a CRC the tag stands two bytes later, but not every writer knew. */
    for (at = 4u + h.side_bytes + (h.crc ? 2u : 0u);; at = 4u + h.side_bytes) {
        if (at + 8 <= size && !memcmp(frame + at, "Xing", 4))
            x->kind = CR_XING_XING;
        else if (at + 8 <= size && !memcmp(frame + at, "Info", 4))
            x->kind = CR_XING_INFO;
        if (x->kind || at == 4u + h.side_bytes)
            break;
    }
    if (!x->kind) {
        const uint8_t *v = frame + CR_VBRI_OFFSET;
        if (size < CR_VBRI_OFFSET + CR_VBRI_BYTES || memcmp(v, "VBRI", 4))
            return CR_XING_NONE;
        x->kind = CR_XING_VBRI;
        x->flags = CR_XING_FRAMES | CR_XING_BYTES | CR_XING_QUALITY;
        x->quality = cr_load_u16be(v + 8);
        x->bytes = cr_load_u32be(v + 10);
        x->frames = cr_load_u32be(v + 14);
        return x->kind;
    }
    end = at + 8;
    /* A field that the frame is too short for is not there, whatever its flag says. */
    for (uint8_t flag = 1, said = frame[at + 7] & 15; flag <= CR_XING_QUALITY; flag = (uint8_t)(flag << 1)) {
        size_t need = flag == CR_XING_TABLE ? 100 : 4;
        if (!(said & flag))
            continue;
        if (end + need > size)
            return x->kind;
        x->flags |= flag;
        if (flag == CR_XING_FRAMES)
            x->frames = cr_load_u32be(frame + end);
        else if (flag == CR_XING_BYTES)
            x->bytes = cr_load_u32be(frame + end);
        else if (flag == CR_XING_QUALITY)
            x->quality = cr_load_u32be(frame + end);
        else
            memcpy(x->table, frame + end, 100);
        end += need;
    }
    if (end + CR_LAME_TAG_BYTES <= size && frame[end] >= '0' && frame[end] <= 'z' &&
        !cr_xing_is_old_lame(frame + end)) {
        const uint8_t *t = frame + end;
        x->has_lame = 1;
        memcpy(x->encoder, t, 9);
        x->revision = t[9] >> 4;
        x->method = t[9] & 15;
        x->lowpass_hz = t[10] * 100u;
        x->peak = cr_load_u32be(t + 11);
        x->radio_gain = cr_load_u16be(t + 15);
        x->audiophile_gain = cr_load_u16be(t + 17);
        x->encoding_flags = t[19] >> 4;
        x->ath_type = t[19] & 15;
        x->bitrate_kbps = t[20];
        x->delay_samples = (uint16_t)(t[21] << 4 | t[22] >> 4);
        x->padding_samples = (uint16_t)((t[22] & 15) << 8 | t[23]);
        x->misc = t[24];
        x->gain = (int8_t)t[25];
        x->preset = cr_load_u16be(t + 26);
        x->music_bytes = cr_load_u32be(t + 28);
        x->music_crc = cr_load_u16be(t + 32);
        x->tag_crc = cr_load_u16be(t + 34);
        x->tag_crc_ok = cr_crc16(0, frame, end + 34) == x->tag_crc;
        /* Others fill the field without a CRC; players believe the three names below. */
        x->has_delay = x->tag_crc_ok || !memcmp(t, "LAME", 4) || !memcmp(t, "Lavf", 4) || !memcmp(t, "Lavc", 4);
    }
    return x->kind;
}

/* The header for an Info frame of the stream that `word` is a header of: no padding, no CRC, the stream's bit rate or
 * the next one whose frame holds all the fields. Every version and rate has one. */
static void cr_info_header(uint32_t word, cr_mpeg_header *h)
{
    uint8_t bytes[4];
    word = (word & ~0x00000230u) | 0x00010000u; /* padding and mode extension off, protection bit: no CRC */
    if (cr_mpeg_is_free(word))
        word |= 0x00001000u;
    for (;; word += 0x00001000u) {
        cr_store_u32be(bytes, word);
        cr_mpeg_parse(bytes, h);
        if (h->size_bytes >= 4u + h->side_bytes + CR_XING_FULL_BYTES)
            return;
    }
}

/* Write an Info frame of h->size_bytes; `x` as parsed, its CRC of the tag computed here. */
static void cr_info_write(uint8_t *frame, const cr_mpeg_header *h, const cr_xing *x)
{
    uint8_t *t = frame + 4 + h->side_bytes;
    memset(frame, 0, h->size_bytes);
    cr_store_u32be(frame, h->word);
    memcpy(t, x->kind == CR_XING_XING ? "Xing" : "Info", 4);
    t[7] = x->flags;
    t += 8;
    if (x->flags & CR_XING_FRAMES) {
        cr_store_u32be(t, x->frames);
        t += 4;
    }
    if (x->flags & CR_XING_BYTES) {
        cr_store_u32be(t, x->bytes);
        t += 4;
    }
    if (x->flags & CR_XING_TABLE) {
        memcpy(t, x->table, 100);
        t += 100;
    }
    if (x->flags & CR_XING_QUALITY) {
        cr_store_u32be(t, x->quality);
        t += 4;
    }
    memcpy(t, x->encoder, 9);
    t[9] = (uint8_t)(x->revision << 4 | (x->method & 15));
    t[10] = (uint8_t)(x->lowpass_hz / 100);
    cr_store_u32be(t + 11, x->peak);
    cr_store_u16be(t + 15, x->radio_gain);
    cr_store_u16be(t + 17, x->audiophile_gain);
    t[19] = (uint8_t)(x->encoding_flags << 4 | (x->ath_type & 15));
    t[20] = x->bitrate_kbps;
    t[21] = (uint8_t)(x->delay_samples >> 4);
    t[22] = (uint8_t)(x->delay_samples << 4 | x->padding_samples >> 8);
    t[23] = (uint8_t)x->padding_samples;
    t[24] = x->misc;
    t[25] = (uint8_t)x->gain;
    cr_store_u16be(t + 26, x->preset);
    cr_store_u32be(t + 28, x->music_bytes);
    cr_store_u16be(t + 32, x->music_crc);
    cr_store_u16be(t + 34, cr_crc16(0, frame, (size_t)(t + 34 - frame)));
}

/* ---- the sums over a file ---- */

#define CR_TAG_FRAME_KEPT_BYTES 256 /* of a Xing, Info or VBRI frame: beyond every field that is read */

typedef struct {
    cr_mpeg_walker walker;
    cr_mpeg_item item;    /* the last one */
    uint64_t offset;      /* of the next byte */
    uint64_t mpeg_frames; /* with music, whole */
    uint64_t music_bytes; /* in those */
    uint64_t samples[9];  /* per channel, by sample rate */
    uint64_t first_offset, end_offset; /* first frame of any kind; behind the last whole one */
    uint64_t junk_bytes;
    uint64_t truncated_offset;
    uint32_t bitrate_min_bps, bitrate_max_bps;
    cr_mpeg_header first; /* first frame with music, else the tag frame */
    uint16_t music_crc;
    uint8_t any_frame, truncated, mixed_channels;
    uint8_t tags, tag_order[CR_TAG_KINDS];
    uint32_t tag_frame_bytes; /* of the Xing, Info or VBRI frame; 0 none */
    uint32_t tag_frame_kept_bytes;
    uint8_t tag_frame[CR_TAG_FRAME_KEPT_BYTES];
    cr_seek_points seek; /* frames with music, from the file's beginning */
} cr_mpeg_scan;

static void cr_mpeg_scan_frame(cr_mpeg_scan *s, const uint8_t *p)
{
    const cr_mpeg_header *h = &s->item.header;
    s->end_offset = s->offset + h->size_bytes;
    if (!s->any_frame) {
        cr_xing x;
        s->any_frame = 1;
        s->first_offset = s->offset;
        s->first = *h;
        if (cr_xing_parse(p, h->size_bytes, &x)) {
            s->tag_frame_bytes = h->size_bytes;
            s->tag_frame_kept_bytes =
                h->size_bytes < CR_TAG_FRAME_KEPT_BYTES ? h->size_bytes : CR_TAG_FRAME_KEPT_BYTES;
            memcpy(s->tag_frame, p, s->tag_frame_kept_bytes);
            return;
        }
    }
    if (!s->mpeg_frames) {
        s->first = *h;
        s->bitrate_min_bps = s->bitrate_max_bps = h->bitrate_bps;
    }
    if (h->bitrate_bps < s->bitrate_min_bps)
        s->bitrate_min_bps = h->bitrate_bps;
    if (h->bitrate_bps > s->bitrate_max_bps)
        s->bitrate_max_bps = h->bitrate_bps;
    if (h->channels != s->first.channels)
        s->mixed_channels = 1;
    s->mpeg_frames++;
    s->music_bytes += h->size_bytes;
    s->samples[h->rate] += h->samples;
    s->music_crc = cr_crc16(s->music_crc, p, h->size_bytes);
    cr_seek_add(&s->seek, s->offset);
}

/* Step until more bytes are needed, a tag is met or the data ends; returns that CR_STEP_… kind. `*used` bytes are done
 * with; those of the tag are not among them: the caller passes over them, which may take many calls. */
static int cr_mpeg_scan_run(cr_mpeg_scan *s, const uint8_t *data, size_t size, int final, size_t *used)
{
    size_t at = *used;
    for (;;) {
        cr_mpeg_item *item = &s->item;
        cr_mpeg_step(&s->walker, data + at, size - at, final, item);
        switch (item->kind) {
        case CR_STEP_FRAME:
            cr_mpeg_scan_frame(s, data + at);
            break;
        case CR_STEP_TRUNCATED:
            s->truncated = 1;
            s->truncated_offset = s->offset;
            break;
        case CR_STEP_JUNK:
            s->junk_bytes += item->size_bytes;
            break;
        case CR_STEP_TAG: {
            int known = 0;
            for (int i = 0; i < s->tags; i++)
                known |= s->tag_order[i] == item->tag;
            if (!known)
                s->tag_order[s->tags++] = (uint8_t)item->tag;
            s->junk_bytes -= item->reclaimed;
        }
        /* fall through */
        default:
            *used = at;
            return item->kind;
        }
        at += (size_t)item->size_bytes;
        s->offset += item->size_bytes;
    }
}

#endif
