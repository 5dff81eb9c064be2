/* Capture files, pcap and pcapng: bytes in pieces of any size -> whole frames.
 *
 * What: finds the records of a capture file and says of each where its bytes are, when it was seen and on which link.
 * How:  `cr_capture_offer` lends the next piece of the file, `cr_capture_next` takes one frame after another out of it
 *       until it says CR_CAPTURE_WAIT. A frame lies in the lent piece itself; only one that crosses the border of two
 *       pieces is put together in `held`, which therefore never holds more than one record.
 *
 *   pcap, draft-ietf-opsawg-pcap:                      pcapng, draft-ietf-opsawg-pcapng:
 *     0 magic  4 version  8 zone  12 sigfigs             0 type  4 length L  8 body ...  L-4 length again
 *     16 snap length  20 link type (low 16 bits)        section 0A0D0D0A: 8 byte order 12 version 16 section length
 *   then for each packet                                interface 1: 8 link type 12 snap length 16 options
 *     0 seconds  4 fraction  8 captured  12 on wire      packet 6: 8 interface 12 time 20 captured 24 on wire 28 bytes
 *     16 bytes (24 with magic A1B2CD34)                 simple 3: 8 on wire 12 bytes     old packet 2: as 6, with
 *                                                         a 16-bit interface and a 16-bit drop count at 8
 *
 * Requirements, tests in tests/native/test_pcap.py:
 *   1. Both byte orders; pcap fractions in µs (A1B2C3D4, A1B2CD34) and ns (A1B23C4D); the bits of the link type field
 *      above 16 (frame check sequence) are ignored.
 *   2. pcapng: many sections, each with its own byte order and interfaces; if_tsresol as a power of 10 or of 2,
 *      if_tsoffset; blocks that are no packets are passed over without being stored, whatever their length.
 *   3. A simple packet block has no time: it gets the time of the packet before it, 0 if there is none.
 *   4. A length no writer can have meant ends the reading there, as a cut file does; everything before it counts.
 *      pcap: captured bytes above both 256 KiB (libpcap's limit) and the snap length. pcapng (libpcap's rules): a
 *      block of less than 12 bytes or not a multiple of 4, or one whose second length differs from the first.
 *   5. A frame above 256 KiB that its file does allow is passed over and reported bad; so is a packet block whose
 *      parts do not fit into it, or of an interface that was not described. Reading goes on after it.
 *   6. Memory: `held` grows with the bytes that arrive, to at most CR_BLOCK_BYTES_MAX; at most 65,536 interfaces a
 *      section are remembered.
 */
#ifndef CALLREEL_CAPTURE_FILE_H
#define CALLREEL_CAPTURE_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "callreel/bytes.h"

#define CR_FRAME_BYTES_MAX 262144u                     /* MAXIMUM_SNAPLEN of libpcap */
#define CR_BLOCK_BYTES_MAX (CR_FRAME_BYTES_MAX + 65536u) /* a frame with its block header and options */
#define CR_SNAP_BYTES_MAX (128u << 20)                 /* the largest snap length libpcap knows (USB) */
#define CR_INTERFACES_MAX 65536u
#define CR_LINK_TYPES_MAX 64u /* different ones remembered for the report; files have one or two */

typedef enum { CR_CAPTURE_UNKNOWN, CR_CAPTURE_PCAP, CR_CAPTURE_PCAPNG } cr_capture_format;

typedef enum {
    CR_CAPTURE_FRAME,     /* *frame is filled; its bytes stay until the next call */
    CR_CAPTURE_BAD_FRAME, /* a record that cannot be used; reading goes on behind it */
    CR_CAPTURE_WAIT,      /* all that was offered is used up */
    CR_CAPTURE_STOPPED    /* see problem */
} cr_capture_step;

typedef enum {
    CR_PROBLEM_NONE,
    CR_PROBLEM_NOT_A_CAPTURE,
    CR_PROBLEM_GZIP,          /* not a capture, but perhaps one inside */
    CR_PROBLEM_CUT,           /* the file ended inside a record */
    CR_PROBLEM_RECORD_LENGTH,
    CR_PROBLEM_BLOCK_LENGTH,
    CR_PROBLEM_BLOCK_TRAILER,
    CR_PROBLEM_SECTION,
    CR_PROBLEM_MEMORY
} cr_capture_problem;

typedef struct {
    const uint8_t *bytes;
    uint32_t captured_bytes;
    uint32_t wire_bytes;
    int64_t time_ns;
    uint16_t link_type; /* LINKTYPE_ number of tcpdump.org/linktypes.html */
} cr_frame;

typedef struct {
    int64_t offset_ns;  /* if_tsoffset */
    uint32_t snap_bytes; /* 0: no limit */
    uint16_t link_type;
    uint8_t resolution; /* if_tsresol: n for 10^-n s, 0x80 | n for 2^-n s */
} cr_interface;

typedef struct {
    const uint8_t *input, *input_end; /* what is left of the piece on offer */
    uint8_t *held;                    /* beginning of a record whose rest is still to come */
    size_t held_bytes, held_capacity;
    uint64_t position;      /* in the file, of the first byte not yet used */
    uint64_t record_offset; /* in the file, of the record being read */
    uint64_t skip_bytes;    /* to pass over */
    uint32_t trailer;       /* length that must be repeated after the skipped bytes; 0: nothing to check */
    cr_capture_format format;
    cr_capture_problem problem;
    uint64_t problem_offset;
    int64_t last_time_ns;
    /* pcap */
    uint32_t snap_bytes, record_header_bytes, fraction_ns;
    uint16_t link_type;
    int header_read;
    /* pcap: of the file; pcapng: of the section */
    int big_endian;
    /* pcapng */
    cr_interface *interfaces;
    uint32_t interfaces_used, interfaces_capacity;
    /* both */
    uint16_t link_types[CR_LINK_TYPES_MAX];
    uint32_t link_types_used;
} cr_capture_file;

static inline void cr_capture_free(cr_capture_file *file)
{
    free(file->held);
    free(file->interfaces);
    memset(file, 0, sizeof *file);
}

static inline cr_capture_step cr_capture_stop(cr_capture_file *file, cr_capture_problem problem, uint64_t offset)
{
    file->problem = problem;
    file->problem_offset = offset;
    file->input = file->input_end;
    file->held_bytes = 0;
    file->skip_bytes = 0;
    return CR_CAPTURE_STOPPED;
}

/* The next `need` bytes in one piece, not yet used up; NULL: they have not all arrived (or no memory: problem set).
 * A record is asked for in growing steps (header, whole), so `held` has exactly what was asked for last. */
static inline const uint8_t *cr_capture_take(cr_capture_file *file, size_t need)
{
    size_t there = (size_t)(file->input_end - file->input), wanted;
    if (file->held_bytes == 0 && there >= need)
        return file->input;
    if (file->held_bytes >= need)
        return file->held;
    wanted = need - file->held_bytes;
    if (wanted > there)
        wanted = there;
    if (wanted == 0)
        return NULL;
    if (file->held_bytes + wanted > file->held_capacity) {
        size_t capacity = file->held_capacity ? file->held_capacity : 4096;
        uint8_t *larger;
        while (capacity < file->held_bytes + wanted)
            capacity *= 2;
        larger = (uint8_t *)realloc(file->held, capacity);
        if (larger == NULL) {
            cr_capture_stop(file, CR_PROBLEM_MEMORY, file->record_offset);
            return NULL;
        }
        file->held = larger;
        file->held_capacity = capacity;
    }
    memcpy(file->held + file->held_bytes, file->input, wanted);
    file->held_bytes += wanted;
    file->input += wanted;
    return file->held_bytes >= need ? file->held : NULL;
}

/* Use up the `count` bytes taken last; their address stays good until the next take. */
static inline void cr_capture_drop(cr_capture_file *file, size_t count)
{
    if (file->held_bytes)
        file->held_bytes = 0;
    else
        file->input += count;
    file->position += count;
}

static inline cr_capture_step cr_capture_wait(const cr_capture_file *file)
{
    return file->problem ? CR_CAPTURE_STOPPED : CR_CAPTURE_WAIT;
}

static inline uint16_t cr_capture_u16(const cr_capture_file *file, const uint8_t *p)
{
    return file->big_endian ? cr_load_u16be(p) : cr_load_u16le(p);
}

static inline uint32_t cr_capture_u32(const cr_capture_file *file, const uint8_t *p)
{
    return file->big_endian ? cr_load_u32be(p) : cr_load_u32le(p);
}

static inline void cr_capture_note_link_type(cr_capture_file *file, uint16_t link_type)
{
    for (uint32_t i = 0; i < file->link_types_used; i++)
        if (file->link_types[i] == link_type)
            return;
    if (file->link_types_used < CR_LINK_TYPES_MAX)
        file->link_types[file->link_types_used++] = link_type;
}

/* ---- time ---- */

static inline int64_t cr_saturated_sum(int64_t a, int64_t b)
{
    if (b > 0 && a > INT64_MAX - b)
        return INT64_MAX;
    if (b < 0 && a < INT64_MIN - b)
        return INT64_MIN;
    return a + b;
}

/* value * factor, at most INT64_MAX; factor > 0 */
static inline int64_t cr_saturated_product(uint64_t value, uint64_t factor)
{
    return value > (uint64_t)INT64_MAX / factor ? INT64_MAX : (int64_t)(value * factor);
}

/* A pcapng time in units of `resolution` as nanoseconds, cut to whole ones. */
static inline int64_t cr_ticks_to_ns(uint64_t ticks, uint8_t resolution)
{
    unsigned n = resolution & 0x7F;
    uint64_t power = 1;
    if (resolution == 6)
        return cr_saturated_product(ticks, 1000);
    if (resolution & 0x80) {
        uint64_t seconds = n < 64 ? ticks >> n : 0, fraction;
        if (n == 0)
            return cr_saturated_product(ticks, 1000000000);
        fraction = n < 64 ? ticks & ((UINT64_C(1) << n) - 1) : ticks;
        if (n > 34) { /* keep fraction * 10^9 below 2^64; 2^-34 s is less than a nanosecond */
            fraction = n - 34 < 64 ? fraction >> (n - 34) : 0;
            n = 34;
        }
        return cr_saturated_sum(cr_saturated_product(seconds, 1000000000), (int64_t)(fraction * 1000000000 >> n));
    }
    if (n <= 9) {
        for (; n < 9; n++)
            power *= 10;
        return cr_saturated_product(ticks, power);
    }
    if (n > 28) /* 2^64 units are less than a nanosecond */
        return 0;
    for (; n > 9; n--)
        power *= 10;
    power = ticks / power;
    return power > (uint64_t)INT64_MAX ? INT64_MAX : (int64_t)power;
}

/* ---- pcap ---- */

static inline cr_capture_step cr_capture_next_pcap(cr_capture_file *file, cr_frame *frame)
{
    size_t header_bytes = file->record_header_bytes;
    const uint8_t *p = cr_capture_take(file, header_bytes);
    uint32_t captured;
    if (p == NULL)
        return cr_capture_wait(file);
    captured = cr_capture_u32(file, p + 8);
    if (captured > CR_FRAME_BYTES_MAX) {
        if (captured > file->snap_bytes || captured > CR_SNAP_BYTES_MAX)
            return cr_capture_stop(file, CR_PROBLEM_RECORD_LENGTH, file->record_offset);
        cr_capture_drop(file, header_bytes);
        file->skip_bytes = captured;
        return CR_CAPTURE_BAD_FRAME;
    }
    p = cr_capture_take(file, header_bytes + captured);
    if (p == NULL)
        return cr_capture_wait(file);
    frame->time_ns = (int64_t)cr_capture_u32(file, p) * 1000000000 +
                     (int64_t)cr_capture_u32(file, p + 4) * file->fraction_ns;
    frame->bytes = p + header_bytes;
    frame->captured_bytes = captured;
    frame->wire_bytes = cr_capture_u32(file, p + 12);
    frame->link_type = file->link_type;
    file->last_time_ns = frame->time_ns;
    cr_capture_drop(file, header_bytes + captured);
    return CR_CAPTURE_FRAME;
}

/* ---- pcapng ---- */

enum {
    CR_BLOCK_INTERFACE = 1,
    CR_BLOCK_OLD_PACKET = 2,
    CR_BLOCK_SIMPLE_PACKET = 3,
    CR_BLOCK_PACKET = 6
};

/* Pass over the rest of a block of which `used` bytes are taken; its last 4 are checked on the way out. */
static inline void cr_capture_skip_block(cr_capture_file *file, size_t used, uint32_t total)
{
    cr_capture_drop(file, used);
    file->skip_bytes = total - used - 4;
    file->trailer = total;
}

static inline int cr_capture_add_interface(cr_capture_file *file, const uint8_t *block, uint32_t total)
{
    cr_interface *interface;
    const uint8_t *option = block + 16, *end = block + total - 4;
    if (file->interfaces_used == CR_INTERFACES_MAX)
        return 0;
    if (file->interfaces_used == file->interfaces_capacity) {
        uint32_t capacity = file->interfaces_capacity ? file->interfaces_capacity * 2 : 4;
        cr_interface *larger = (cr_interface *)realloc(file->interfaces, capacity * sizeof *larger);
        if (larger == NULL)
            return -1;
        file->interfaces = larger;
        file->interfaces_capacity = capacity;
    }
    interface = file->interfaces + file->interfaces_used++;
    interface->link_type = cr_capture_u16(file, block + 8);
    interface->snap_bytes = cr_capture_u32(file, block + 12);
    interface->resolution = 6;
    interface->offset_ns = 0;
    while (end - option >= 4) {
        uint16_t code = cr_capture_u16(file, option), length = cr_capture_u16(file, option + 2);
        ptrdiff_t padded;
        option += 4;
        if (code == 0 || length > end - option)
            break;
        if (code == 9 && length == 1)
            interface->resolution = option[0];
        if (code == 14 && length == 8) {
            uint64_t bits = file->big_endian ? cr_load_u64be(option) : cr_load_u64le(option);
            /* two's complement by hand: seconds, signed */
            if (bits >> 63)
                interface->offset_ns = -cr_saturated_product(~bits + 1, 1000000000);
            else
                interface->offset_ns = cr_saturated_product(bits, 1000000000);
        }
        padded = (length + 3) & ~(ptrdiff_t)3;
        if (padded > end - option)
            break;
        option += padded;
    }
    cr_capture_note_link_type(file, interface->link_type);
    return 0;
}

static inline cr_capture_step cr_capture_packet_block(cr_capture_file *file, cr_frame *frame, uint32_t type,
                                                      uint32_t total)
{
    const uint32_t head = type == CR_BLOCK_SIMPLE_PACKET ? 12 : 28; /* bytes before the packet */
    const cr_interface *interface;
    const uint8_t *p;
    uint32_t number;
    if (total < head + 4 || total > CR_BLOCK_BYTES_MAX) {
        cr_capture_skip_block(file, 8, total);
        return CR_CAPTURE_BAD_FRAME;
    }
    p = cr_capture_take(file, total);
    if (p == NULL)
        return cr_capture_wait(file);
    if (cr_capture_u32(file, p + total - 4) != total)
        return cr_capture_stop(file, CR_PROBLEM_BLOCK_TRAILER, file->record_offset);
    cr_capture_drop(file, total);
    number = type == CR_BLOCK_PACKET ? cr_capture_u32(file, p + 8)
             : type == CR_BLOCK_OLD_PACKET ? cr_capture_u16(file, p + 8) : 0;
    if (number >= file->interfaces_used)
        return CR_CAPTURE_BAD_FRAME;
    interface = file->interfaces + number;
    frame->bytes = p + head;
    frame->link_type = interface->link_type;
    if (type == CR_BLOCK_SIMPLE_PACKET) {
        frame->wire_bytes = cr_capture_u32(file, p + 8);
        frame->captured_bytes = frame->wire_bytes;
        if (interface->snap_bytes && frame->captured_bytes > interface->snap_bytes)
            frame->captured_bytes = interface->snap_bytes;
        frame->time_ns = file->last_time_ns;
    } else {
        uint64_t ticks = (uint64_t)cr_capture_u32(file, p + 12) << 32 | cr_capture_u32(file, p + 16);
        frame->captured_bytes = cr_capture_u32(file, p + 20);
        frame->wire_bytes = cr_capture_u32(file, p + 24);
        frame->time_ns = cr_saturated_sum(cr_ticks_to_ns(ticks, interface->resolution), interface->offset_ns);
    }
    if (frame->captured_bytes > total - head - 4 || frame->captured_bytes > CR_FRAME_BYTES_MAX)
        return CR_CAPTURE_BAD_FRAME;
    file->last_time_ns = frame->time_ns;
    return CR_CAPTURE_FRAME;
}

/* A section begins: its byte order, and no interfaces yet. */
static inline cr_capture_step cr_capture_begin_section(cr_capture_file *file)
{
    const uint8_t *p = cr_capture_take(file, 12);
    uint32_t total;
    if (p == NULL)
        return cr_capture_wait(file);
    if (cr_load_u32be(p + 8) == 0x1A2B3C4D)
        file->big_endian = 1;
    else if (cr_load_u32le(p + 8) == 0x1A2B3C4D)
        file->big_endian = 0;
    else if (file->record_offset == 0)
        return cr_capture_stop(file, CR_PROBLEM_NOT_A_CAPTURE, 8);
    else
        return cr_capture_stop(file, CR_PROBLEM_SECTION, file->record_offset);
    total = cr_capture_u32(file, p + 4);
    if (total < 28 || total % 4)
        return cr_capture_stop(file, CR_PROBLEM_BLOCK_LENGTH, file->record_offset);
    p = cr_capture_take(file, 24);
    if (p == NULL)
        return cr_capture_wait(file);
    if (cr_capture_u16(file, p + 12) != 1) /* major version; the draft knows no other */
        return cr_capture_stop(file, CR_PROBLEM_SECTION, file->record_offset);
    file->interfaces_used = 0;
    cr_capture_skip_block(file, 24, total);
    return CR_CAPTURE_WAIT;
}

/* One block; CR_CAPTURE_WAIT with skip_bytes or trailer set means: a block without a frame, go on. */
static inline cr_capture_step cr_capture_next_pcapng(cr_capture_file *file, cr_frame *frame)
{
    const uint8_t *p = cr_capture_take(file, 8);
    uint32_t type, total;
    if (p == NULL)
        return cr_capture_wait(file);
    if (cr_load_u32be(p) == 0x0A0D0D0A)
        return cr_capture_begin_section(file);
    type = cr_capture_u32(file, p);
    total = cr_capture_u32(file, p + 4);
    if (total < 12 || total % 4)
        return cr_capture_stop(file, CR_PROBLEM_BLOCK_LENGTH, file->record_offset);
    if (type == CR_BLOCK_PACKET || type == CR_BLOCK_SIMPLE_PACKET || type == CR_BLOCK_OLD_PACKET)
        return cr_capture_packet_block(file, frame, type, total);
    if (type == CR_BLOCK_INTERFACE) {
        size_t whole = total;
        if (total < 20 || total > CR_BLOCK_BYTES_MAX)
            return cr_capture_stop(file, CR_PROBLEM_BLOCK_LENGTH, file->record_offset);
        p = cr_capture_take(file, whole - 4);
        if (p == NULL)
            return cr_capture_wait(file);
        if (cr_capture_add_interface(file, p, total) < 0)
            return cr_capture_stop(file, CR_PROBLEM_MEMORY, file->record_offset);
        cr_capture_skip_block(file, whole - 4, total);
        return CR_CAPTURE_WAIT;
    }
    cr_capture_skip_block(file, 8, total);
    return CR_CAPTURE_WAIT;
}

/* ---- both ---- */

/* The file header: pcap's 24 bytes; of pcapng only the type of the first block, which is read again as a block. */
static inline cr_capture_step cr_capture_read_magic(cr_capture_file *file)
{
    const uint8_t *p = cr_capture_take(file, 4);
    uint32_t magic;
    if (p == NULL)
        return cr_capture_wait(file);
    magic = cr_load_u32be(p);
    if (magic == 0x0A0D0D0A) {
        file->format = CR_CAPTURE_PCAPNG;
        return CR_CAPTURE_WAIT;
    }
    file->big_endian = 1;
    if (magic != 0xA1B2C3D4 && magic != 0xA1B23C4D && magic != 0xA1B2CD34) {
        file->big_endian = 0;
        magic = cr_load_u32le(p);
    }
    if (magic != 0xA1B2C3D4 && magic != 0xA1B23C4D && magic != 0xA1B2CD34) {
        int gzip = p[0] == 0x1F && p[1] == 0x8B; /* RFC 1952 */
        return cr_capture_stop(file, gzip ? CR_PROBLEM_GZIP : CR_PROBLEM_NOT_A_CAPTURE, 0);
    }
    file->format = CR_CAPTURE_PCAP;
    file->fraction_ns = magic == 0xA1B23C4D ? 1 : 1000;
    file->record_header_bytes = magic == 0xA1B2CD34 ? 24 : 16;
    return CR_CAPTURE_WAIT;
}

static inline void cr_capture_offer(cr_capture_file *file, const uint8_t *bytes, size_t size)
{
    file->input = bytes;
    file->input_end = bytes + size;
    if (file->problem)
        file->input = file->input_end;
}

/* The next frame of what was offered. */
static inline cr_capture_step cr_capture_next(cr_capture_file *file, cr_frame *frame)
{
    for (;;) {
        cr_capture_step step;
        const uint8_t *p;
        if (file->problem)
            return CR_CAPTURE_STOPPED;
        if (file->skip_bytes) {
            uint64_t there = (uint64_t)(file->input_end - file->input);
            uint64_t passed = file->skip_bytes < there ? file->skip_bytes : there;
            file->input += passed;
            file->position += passed;
            file->skip_bytes -= passed;
            if (file->skip_bytes)
                return CR_CAPTURE_WAIT;
        }
        if (file->trailer) {
            p = cr_capture_take(file, 4);
            if (p == NULL)
                return cr_capture_wait(file);
            if (cr_capture_u32(file, p) != file->trailer)
                return cr_capture_stop(file, CR_PROBLEM_BLOCK_TRAILER, file->record_offset);
            cr_capture_drop(file, 4);
            file->trailer = 0;
        }
        file->record_offset = file->position;
        if (file->format == CR_CAPTURE_PCAP && file->header_read)
            return cr_capture_next_pcap(file, frame);
        if (file->format == CR_CAPTURE_PCAPNG) {
            step = cr_capture_next_pcapng(file, frame);
            if (step == CR_CAPTURE_WAIT && file->trailer)
                continue;
            return step;
        }
        if (file->format == CR_CAPTURE_UNKNOWN) {
            step = cr_capture_read_magic(file);
            if (file->format == CR_CAPTURE_UNKNOWN)
                return step;
            continue;
        }
        p = cr_capture_take(file, 24);
        if (p == NULL)
            return cr_capture_wait(file);
        file->snap_bytes = cr_capture_u32(file, p + 16);
        file->link_type = (uint16_t)cr_capture_u32(file, p + 20);
        cr_capture_note_link_type(file, file->link_type);
        cr_capture_drop(file, 24);
        file->header_read = 1;
    }
}

/* The file has ended: note it when that was inside a record. */
static inline void cr_capture_end(cr_capture_file *file)
{
    if (file->problem)
        return;
    if (file->format == CR_CAPTURE_UNKNOWN)
        cr_capture_stop(file, CR_PROBLEM_NOT_A_CAPTURE, 0);
    else if (file->held_bytes || file->skip_bytes || file->trailer)
        cr_capture_stop(file, CR_PROBLEM_CUT, file->record_offset);
}

#endif
