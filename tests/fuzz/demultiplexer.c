/* The demultiplexer: streams come and go on a few sockets, datagrams of a few sources come to them, packets are taken.
 *
 *   input   settings u8 | an action u8 with its arguments | an action ...             numbers little-endian
 *   action  0-63      RTP: socket and source u8, SSRC and payload type u8, sequence u16, payload bytes u16
 *           64-127    any datagram: socket and source u8, length u16, bytes; bit 5: cut off
 *           128-159   open a stream: socket and peer u8, SSRC u8 (0: none)          160-175  close one
 *           176-199   take what a stream has; bit 0: all                           200-207  announce another peer
 *           208-215   look again        216-223  report        224-231  append what was sent
 *           232-255   time goes on by u16 ms
 *
 * Accepted: nothing; whatever comes is a count.
 */
#include "target.h"

#include "callreel/demultiplexer.h"

#define STREAMS 12u
#define PORTS 4u /* 0 with RTCP on 1; 2 shared with RTCP on 3 */

typedef struct {
    cr_demultiplexer d;
    uint32_t numbers[STREAMS];
    int is_open[STREAMS];
    uint64_t fates[PORTS][6];
    int64_t now_ns;
} world;

static cr_endpoint endpoint(uint8_t n)
{
    cr_endpoint e = {{UINT64_C(0x0100007F) + (n >> 2 & 1), 0, (uint64_t)(5000 + (n & 3)) | UINT64_C(4) << 16}};
    return e;
}

static void check(const world *w)
{
    uint32_t blocks = 0;
    for (uint32_t i = 0; i < STREAMS; i++)
        if (w->is_open[i]) {
            const cr_stream *s = &w->d.streams[w->numbers[i]];
            uint32_t counted = 0, last = CR_NONE;
            int has_trial = s->trial == CR_NONE;
            for (uint32_t at = s->queue.head; at != CR_NONE; at = cr_block_at(&w->d.pool, at)->next) {
                const cr_block *block = cr_block_at(&w->d.pool, at);
                FUZZ_CHECK(block->records * sizeof(cr_packet_record) <= block->low && block->low <= CR_BLOCK_ROOM);
                has_trial |= at == s->trial;
                last = at;
                FUZZ_CHECK(++counted <= CR_QUEUE_BLOCKS);
            }
            FUZZ_CHECK(counted == s->queue.blocks && last == s->queue.tail && has_trial);
            FUZZ_CHECK(!s->is_confirmed || s->trial == CR_NONE);
            blocks += counted;
        }
    FUZZ_CHECK(blocks == w->d.pool.used && blocks <= w->d.pool.limit);
    for (uint32_t i = 0; i < PORTS; i++) {
        const cr_port *p = &w->d.ports[i];
        const uint64_t *f = w->fates[i];
        FUZZ_CHECK(p->datagrams == f[0] + f[1] + f[2] + f[3] + f[4] + f[5]);
        FUZZ_CHECK(p->strangers == f[CR_FATE_STRANGER] && p->foreign == f[CR_FATE_FOREIGN]);
        FUZZ_CHECK(p->too_long == f[CR_FATE_TOO_LONG] && p->malformed <= f[CR_FATE_MALFORMED]);
    }
}

/* Whether some stream of the socket has that source: what was taken is nobody else's. */
static int is_known(const world *w, uint32_t port, const cr_endpoint *source)
{
    for (uint32_t i = 0; i < STREAMS; i++) {
        const cr_stream *s = &w->d.streams[w->numbers[i]];
        if (!w->is_open[i] || !s->has_route[0])
            continue;
        if (s->socket[0] == port && cr_endpoint_equal(&s->source[0], source))
            return 1;
        if (s->socket[1] == port && cr_endpoint_same_host(&s->source[0], source))
            return 1;
    }
    return 0;
}

static void datagram(world *w, const uint8_t *data, size_t size, uint8_t where, int is_cut)
{
    uint32_t port = where >> 4 & 3;
    cr_endpoint source = endpoint(where & 7);
    enum cr_fate fate = cr_demultiplexer_take(&w->d, port, &source, data, size, is_cut, w->now_ns, where);
    FUZZ_CHECK(!is_cut || fate == CR_FATE_TOO_LONG);
    FUZZ_CHECK(size <= CR_DATAGRAM_MAX_BYTES || fate == CR_FATE_TOO_LONG);
    FUZZ_CHECK(fate > CR_FATE_OVERFLOWED || is_known(w, port, &source));
    w->fates[port][fate]++;
}

static void rtp(world *w, fuzz_input *in)
{
    uint8_t where = fuzz_u8(in), kind = fuzz_u8(in);
    uint16_t sequence = fuzz_u16(in);
    size_t size = 12u + fuzz_u16(in) % 2500u;
    uint8_t *data = fuzz_memory(size);
    memset(data, kind, size);
    data[0] = 0x80;
    data[1] = kind >> 4 & 8;
    data[2] = (uint8_t)(sequence >> 8);
    data[3] = (uint8_t)sequence;
    cr_store_u32be(data + 8, kind & 3);
    datagram(w, data, size, where, 0);
    free(data);
}

static void any(world *w, fuzz_input *in, int is_cut)
{
    uint8_t where = fuzz_u8(in);
    size_t size = fuzz_u16(in);
    uint8_t *data = fuzz_take(in, &size);
    datagram(w, data, size, where, is_cut);
    free(data);
}

static void open_stream(world *w, fuzz_input *in)
{
    static const uint64_t types[2] = {1 | 1 << 8, 0};
    uint8_t where = fuzz_u8(in);
    uint32_t ssrc = fuzz_u8(in) & 3, socket = where & 16 ? 2 : where & 32 ? CR_NONE : 0;
    uint32_t control = socket == CR_NONE ? CR_NONE : where & 64 ? socket : socket + 1;
    cr_endpoint peer = endpoint(where & 7);
    for (uint32_t i = 0; i < STREAMS; i++)
        if (!w->is_open[i]) {
            w->numbers[i] = cr_stream_open(&w->d, socket, control, types, where & 128 && socket != CR_NONE ? &peer : NULL,
                                           ssrc && socket != CR_NONE ? &ssrc : NULL, w->now_ns);
            w->is_open[i] = w->numbers[i] != CR_NONE;
            return;
        }
}

static void take(world *w, uint32_t which, int all)
{
    cr_queue taken = cr_stream_detach(&w->d, w->numbers[which], all);
    size_t records, bytes;
    uint8_t *table, *data;
    cr_queue_size(&w->d.pool, &taken, &records, &bytes);
    table = fuzz_memory(records * sizeof(cr_packet_record));
    data = fuzz_memory(bytes);
    cr_queue_copy(&w->d.pool, &taken, table, data);
    for (size_t i = 0; i < records; i++) {
        cr_packet_record record;
        memcpy(&record, table + i * sizeof record, sizeof record);
        FUZZ_CHECK(record.offset <= bytes && record.length <= bytes - record.offset && record.length > 0);
        FUZZ_CHECK(record.flow == w->numbers[which] && record.length <= CR_DATAGRAM_MAX_BYTES);
    }
    cr_blocks_give_back(&w->d.pool, taken.head, taken.tail, taken.blocks);
    free(table);
    free(data);
}

static void act(world *w, fuzz_input *in)
{
    uint8_t action = fuzz_u8(in);
    uint32_t which = action % STREAMS;
    if (action < 64) {
        rtp(w, in);
    } else if (action < 128) {
        any(w, in, action >> 5 & 1);
    } else if (action < 160) {
        open_stream(w, in);
    } else if (action >= 232) {
        w->now_ns += fuzz_u16(in) * INT64_C(1000000);
    } else if (w->is_open[which]) {
        uint32_t number = w->numbers[which];
        cr_stream *s = &w->d.streams[number];
        cr_endpoint peer = endpoint(action & 7);
        cr_report_block block;
        if (action < 176) {
            cr_stream_close(&w->d, number);
            w->is_open[which] = 0;
        } else if (action < 200) {
            take(w, which, action & 1);
        } else if (action < 208) {
            cr_stream_announce(&w->d, number, &peer);
            FUZZ_CHECK(s->socket[0] == CR_NONE || cr_endpoint_equal(&s->source[0], &peer));
        } else if (action < 216) {
            s->looks_until_ns = w->now_ns + 1000000000;
        } else if (action < 224) {
            cr_reception_report(&s->reception, w->now_ns, &block);
            FUZZ_CHECK(block.lost >= -0x800000 && block.lost <= 0x7FFFFF);
        } else if (s->socket[0] == CR_NONE) {
            static const uint8_t packet[172] = {0x80};
            cr_stream_append(&w->d, number, packet, sizeof packet, w->now_ns);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint64_t secret[2] = {UINT64_C(0x9E3779B97F4A7C15), UINT64_C(0xD1B54A32D192ED03)};
    fuzz_input in = {data, data + size};
    uint8_t settings = fuzz_u8(&in);
    world *w = (world *)calloc(1, sizeof *w);
    if (!w || !cr_demultiplexer_init(&w->d, 1u << 18, (settings & 15) * INT64_C(100000000), secret))
        abort();
    for (uint32_t i = 0; i < PORTS; i++)
        FUZZ_CHECK(cr_port_add(&w->d, -1, i >= 2, i & 1, 0) == i);
    while (fuzz_left(&in)) {
        act(w, &in);
        check(w);
    }
    for (uint32_t i = 0; i < STREAMS; i++)
        if (w->is_open[i]) {
            cr_stream_close(&w->d, w->numbers[i]);
            w->is_open[i] = 0;
        }
    check(w);
    FUZZ_CHECK(w->d.pool.used == 0);
    for (uint32_t i = 0; i <= w->d.mask; i++)
        FUZZ_CHECK(w->d.routes[i] == CR_NONE && w->d.ssrcs[i] == CR_NONE);
    cr_demultiplexer_free(&w->d);
    free(w);
    return 0;
}
