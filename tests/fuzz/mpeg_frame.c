/* MP3: a whole file walked item by item, and its Xing, Info and VBRI frames read and written again.
 *
 *   input   the file
 *
 * Accepted: nothing; what is no frame is junk, a tag, or cut short.
 */
#include "target.h"

#include "callreel/mpeg_frame.h"

/* What was read of a frame, written into a frame of the same stream, must read the same. */
static void rewrite(const cr_mpeg_header *h, const cr_xing *read)
{
    cr_mpeg_header own;
    cr_xing given = *read, again;
    uint8_t *frame;
    if (read->kind == CR_XING_VBRI)
        given.kind = CR_XING_XING;
    if (!read->has_lame)
        memcpy(given.encoder, "LAME3.100", sizeof given.encoder); /* a frame of ours always names its encoder */
    cr_info_header(h->word, &own);
    FUZZ_CHECK(own.size_bytes >= 4u + own.side_bytes + CR_XING_FULL_BYTES);
    frame = fuzz_memory(own.size_bytes);
    cr_info_write(frame, &own, &given);
    FUZZ_CHECK(cr_xing_parse(frame, own.size_bytes, &again) == given.kind);
    FUZZ_CHECK(again.flags == given.flags && again.tag_crc_ok);
    FUZZ_CHECK(!(given.flags & CR_XING_FRAMES) || again.frames == given.frames);
    FUZZ_CHECK(!(given.flags & CR_XING_BYTES) || again.bytes == given.bytes);
    FUZZ_CHECK(!(given.flags & CR_XING_TABLE) || memcmp(again.table, given.table, sizeof given.table) == 0);
    if (given.has_delay)
        FUZZ_CHECK(again.delay_samples == given.delay_samples && again.padding_samples == given.padding_samples);
    free(frame);
}

static void take_frame(const uint8_t *bytes, const cr_mpeg_header *h)
{
    uint8_t *frame = fuzz_copy(bytes, h->size_bytes); /* the parser gets no more than the frame */
    cr_xing x;
    FUZZ_CHECK(h->size_bytes >= 4 && h->size_bytes <= CR_MPEG_FRAME_MAX_BYTES);
    FUZZ_CHECK(h->rate < 9 && h->channels >= 1 && h->channels <= 2 && h->samples > 0 && h->bitrate_bps > 0);
    if (cr_xing_parse(frame, h->size_bytes, &x))
        rewrite(h, &x);
    free(frame);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static cr_seek_points seek;
    cr_mpeg_walker walker;
    cr_mpeg_item item;
    uint8_t table[100];
    size_t at = 0, frames = 0;
    memset(&walker, 0, sizeof walker);
    memset(&seek, 0, sizeof seek);
    for (;;) {
        size_t left = at < size ? size - at : 0;
        cr_mpeg_step(&walker, data + (size - left), left, 1, &item);
        if (item.kind == CR_STEP_END)
            break;
        FUZZ_CHECK(item.kind != CR_STEP_MORE);
        FUZZ_CHECK(item.size_bytes > 0);
        if (item.kind != CR_STEP_TAG) { /* a tag may say that it is longer than the file */
            FUZZ_CHECK(item.size_bytes <= left);
        }
        if (item.kind == CR_STEP_FRAME) {
            FUZZ_CHECK(item.size_bytes == item.header.size_bytes);
            take_frame(data + at, &item.header);
            cr_seek_add(&seek, at);
            frames++;
        }
        FUZZ_CHECK(item.reclaimed <= at);
        at += item.size_bytes < left ? (size_t)item.size_bytes : left;
    }
    FUZZ_CHECK(at == size);
    cr_seek_table(&seek, 0, size, table);
    for (size_t i = 1; frames && i < sizeof table; i++)
        FUZZ_CHECK(table[i] >= table[i - 1]);
    return 0;
}
