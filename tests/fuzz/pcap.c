/* Captures: a file read in one piece and in pieces must give the same packets, counts and end.
 *
 *   input   piece u8 | flows u8 | the file
 *   piece   0: pieces of 1 byte, else of 16 * piece bytes. Of the second reading; the first takes the file whole.
 *   flows   0: no limit, else this many are delivered.
 *
 * Accepted: nothing; what cannot be read ends the reading with a reason.
 */
#include "target.h"

#include "callreel/capture_reader.h"

typedef struct {
    cr_capture_reader reader;
    uint64_t hash;    /* over all records in the order of the file, and their payloads */
    uint64_t records; /* delivered */
} reading;

static void add(reading *r, const void *bytes, size_t size)
{
    const uint8_t *p = (const uint8_t *)bytes;
    for (size_t i = 0; i < size; i++)
        r->hash = (r->hash ^ p[i]) * UINT64_C(0x100000001B3); /* FNV-1a */
}

/* What is in the batch, and that sorting loses nothing of it. */
static void take_batch(reading *r, const uint8_t *arena)
{
    cr_capture_reader *reader = &r->reader;
    size_t records = reader->records_used, grouped = 0;
    uint8_t *sorted = fuzz_memory(records * sizeof(cr_packet_record));
    for (size_t i = 0; i < records; i++) {
        cr_packet_record record = reader->records[i];
        FUZZ_CHECK(record.offset <= reader->data_used && record.length <= reader->data_used - record.offset);
        FUZZ_CHECK(record.flow < reader->flows.used);
        FUZZ_CHECK(record.length <= record.wire_length);
        FUZZ_CHECK(record.time_ns >= reader->first_time_ns && record.time_ns <= reader->last_time_ns);
        add(r, arena + record.offset, record.length);
        record.offset = 0; /* where it stands in its batch depends on the pieces */
        add(r, &record, sizeof record);
    }
    r->records += records;
    cr_reader_sort(reader, sorted);
    for (uint32_t i = 0; i < reader->groups_used; i++) {
        const cr_flow_group *group = &reader->groups[i];
        uint64_t frame = 0;
        FUZZ_CHECK(group->first_record == grouped && group->records > 0);
        FUZZ_CHECK(i == 0 || group->flow > reader->groups[i - 1].flow);
        for (uint32_t n = 0; n < group->records; n++) {
            cr_packet_record record;
            FUZZ_CHECK(grouped < records);
            memcpy(&record, sorted + grouped++ * sizeof record, sizeof record);
            FUZZ_CHECK(record.flow == group->flow && record.frame > frame);
            frame = record.frame;
        }
    }
    FUZZ_CHECK(grouped == records);
    free(sorted);
}

static void read_file(reading *r, const uint8_t *data, size_t size, size_t piece_bytes, uint32_t flows)
{
    const cr_reader_counts *counts = &r->reader.counts;
    const cr_fragments *fragments = &r->reader.fragments;
    r->reader.flows.limit = flows ? flows : 65536;
    r->reader.flows.secret[0] = piece_bytes; /* must never show in a result */
    r->reader.flows.secret[1] = ~(uint64_t)size;
    for (size_t at = 0; at < size; at += piece_bytes) {
        size_t count = size - at < piece_bytes ? size - at : piece_bytes;
        size_t room = cr_reader_arena_bytes(&r->reader, count);
        uint8_t *piece = fuzz_copy(data + at, count), *arena = fuzz_memory(room);
        FUZZ_CHECK(room <= count + CR_BLOCK_BYTES_MAX + CR_FRAGMENTS_BYTES_MAX);
        FUZZ_CHECK(cr_reader_feed(&r->reader, piece, count, arena, room));
        free(piece); /* a batch owns its bytes */
        take_batch(r, arena);
        cr_reader_clear_batch(&r->reader);
        free(arena);
    }
    cr_reader_end(&r->reader);
    FUZZ_CHECK(counts->bytes == size);
    FUZZ_CHECK(counts->udp + counts->tcp + counts->icmp_embedded + counts->other + counts->malformed +
                   counts->unknown_link_type ==
               counts->frames - fragments->seen + fragments->reassembled);
    FUZZ_CHECK(r->reader.file.problem_offset <= size);
    FUZZ_CHECK(r->reader.flows.used <= r->reader.flows.limit);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static reading whole, pieces;
    fuzz_input in = {data, data + size};
    uint8_t piece = fuzz_u8(&in), flows = fuzz_u8(&in);
    memset(&whole, 0, sizeof whole);
    memset(&pieces, 0, sizeof pieces);
    size = fuzz_left(&in);
    read_file(&whole, in.next, size, size ? size : 1, flows);
    read_file(&pieces, in.next, size, piece ? 16u * piece : 1, flows);
    FUZZ_CHECK(whole.records == pieces.records);
    FUZZ_CHECK(whole.hash == pieces.hash);
    FUZZ_CHECK(memcmp(&whole.reader.counts, &pieces.reader.counts, sizeof whole.reader.counts) == 0);
    FUZZ_CHECK(whole.reader.file.problem == pieces.reader.file.problem);
    FUZZ_CHECK(whole.reader.file.problem_offset == pieces.reader.file.problem_offset);
    FUZZ_CHECK(whole.reader.file.link_types_used == pieces.reader.file.link_types_used);
    FUZZ_CHECK(whole.reader.fragments.dropped == pieces.reader.fragments.dropped);
    cr_reader_free(&whole.reader);
    cr_reader_free(&pieces.reader);
    return 0;
}
