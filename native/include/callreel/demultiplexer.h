/* Datagrams of many sockets, sorted by the stream they belong to: who is a stream's peer, and who is a stranger.
 *
 *   socket + source address ──> route ──> stream: its queue, its counts, what is reported of it
 *   (+ SSRC where two streams have one source)
 *   no route: a stream of that socket that still looks for its peer learns it; else the sender is a stranger
 *
 * How:  a chained hash of routes, keyed with a secret because senders choose their addresses. Each stream has at most two
 *       routes, for RTP and for RTCP, which are nodes of the chains themselves: 2 * stream and 2 * stream + 1.
 *       Nothing here knows of sockets but their number, reads a clock or waits: the caller has a lock.
 *
 * Requirements, tests in tests/native/test_udp.py and tests/fuzz/demultiplexer.c:
 *   1. A stream with an announced peer takes packets of no other source.
 *   2. Without one, the first source of a sound RTP packet of an announced payload type becomes the peer, on a port that many
 *      streams share only with the SSRC that was announced for it. Its next packet in sequence confirms it: until then
 *      nothing is handed out, and another source takes its place.
 *   3. A confirmed peer is left only after a silence, or when the stream is told to look again.
 *   4. Two streams may have one source if their SSRCs were announced; one of them may take all the others.
 *   5. RTCP is taken from the peer's address: on the port of RTP from its source, elsewhere from any port of its host where
 *      the socket is the stream's own, and from the port above that of RTP where it is shared.
 *   6. Every datagram is counted once: in a stream, or as a stranger, as foreign (STUN, DTLS), as too long, or as malformed.
 *   7. Any bytes are data. What finds no room is counted, and the memory is bounded.
 */
#ifndef CALLREEL_DEMULTIPLEXER_H
#define CALLREEL_DEMULTIPLEXER_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "callreel/flow_table.h"
#include "callreel/packet_blocks.h"
#include "callreel/rtcp_reception.h"
#include "callreel/rtp_packet.h"

#define CR_DATAGRAM_MAX_BYTES 2048u /* 200 ms of G.711 take 1,612 bytes; longer ones are counted */
#define CR_CONFIRM_STEPS 16         /* how far apart two packets in sequence may be */
#define CR_MEMBERS 2u               /* streams of a socket that is not shared */

/* word 0, 1: address bytes (IPv4 in the first four of 16, the rest 0); 2: port | family (4 or 6) << 16 | scope << 32 */
typedef struct {
    uint64_t word[3];
} cr_endpoint;

typedef struct {
    uint64_t received, bytes, malformed, overflowed, reports, relearnt, rejected;
    int64_t wait_max_ns; /* how long a packet lay in the kernel's queue */
} cr_stream_counts;

typedef struct {
    cr_endpoint source[2]; /* of RTP and of RTCP */
    uint32_t socket[2];
    uint32_t next[2]; /* in the chain of its route */
    uint32_t next_ssrc;
    uint32_t ssrc;
    uint8_t in_use, has_ssrc;
    uint8_t is_announced;   /* the peer was, and is never learnt */
    uint8_t is_confirmed;
    uint8_t has_route[2];
    uint64_t payload_types[2];
    int64_t last_ns;        /* of the peer's latest packet */
    int64_t looks_until_ns; /* until then the next other source becomes the peer */
    uint32_t trial;  /* the block where the packets of a peer begin that nothing has confirmed yet */
    uint32_t trial_packets;
    uint64_t trial_bytes;
    cr_queue queue;
    cr_stream_counts counts;
    cr_reception reception;
} cr_stream;

typedef struct {
    int descriptor;
    uint32_t generation;
    uint8_t in_use, is_shared, is_control;
    uint32_t members[CR_MEMBERS]; /* its streams, unless it is shared */
    uint32_t ssrcs;               /* streams whose SSRC was announced */
    uint64_t datagrams, strangers, foreign, too_long, malformed;
    uint32_t kernel_drops_seen;
    uint64_t kernel_drops;
    int64_t empty_ns, last_ns; /* when its queue was last empty; when its latest packet arrived */
} cr_port;

typedef struct {
    cr_stream *streams;
    cr_port *ports;
    uint32_t *routes, *ssrcs; /* heads of chains */
    uint32_t stream_count, stream_room, port_count, port_room;
    uint32_t mask;            /* chains - 1 */
    uint32_t free_streams;    /* list, by next[0] */
    uint64_t secret[2];
    int64_t relearn_ns;
    cr_block_pool pool;
} cr_demultiplexer;

enum cr_fate {
    CR_FATE_TAKEN, CR_FATE_OVERFLOWED, CR_FATE_STRANGER, CR_FATE_FOREIGN, CR_FATE_TOO_LONG, CR_FATE_MALFORMED,
};

static inline int cr_endpoint_equal(const cr_endpoint *a, const cr_endpoint *b)
{
    return ((a->word[0] ^ b->word[0]) | (a->word[1] ^ b->word[1]) | (a->word[2] ^ b->word[2])) == 0;
}

static inline int cr_endpoint_same_host(const cr_endpoint *a, const cr_endpoint *b)
{
    return ((a->word[0] ^ b->word[0]) | (a->word[1] ^ b->word[1]) | ((a->word[2] ^ b->word[2]) >> 16)) == 0;
}

static inline uint16_t cr_endpoint_port(const cr_endpoint *e) { return (uint16_t)e->word[2]; }

static inline cr_endpoint cr_endpoint_with_port(cr_endpoint e, uint16_t port)
{
    e.word[2] = (e.word[2] & ~UINT64_C(0xFFFF)) | port;
    return e;
}

static inline uint64_t cr_route_hash(const cr_demultiplexer *d, uint32_t socket, const cr_endpoint *e)
{
    uint64_t hash = cr_fold_product(e->word[0] ^ d->secret[0], e->word[1] ^ d->secret[1]);
    return cr_fold_product(e->word[2] ^ hash, ((uint64_t)socket << 1 | 1) ^ d->secret[0]);
}

static inline uint32_t *cr_route_head(const cr_demultiplexer *d, uint32_t socket, const cr_endpoint *e)
{
    return &d->routes[(uint32_t)cr_route_hash(d, socket, e) & d->mask];
}

static inline uint32_t *cr_ssrc_head(const cr_demultiplexer *d, uint32_t socket, uint32_t ssrc)
{
    return &d->ssrcs[(uint32_t)cr_fold_product(((uint64_t)socket << 32 | ssrc) ^ d->secret[1], d->secret[0] | 1) & d->mask];
}

/* ---- routes ---------------------------------------------------------------------------------------------------- */

static inline void cr_route_remove(cr_demultiplexer *d, uint32_t number, int kind)
{
    cr_stream *s = &d->streams[number];
    uint32_t node = 2 * number + (uint32_t)kind, *at;
    if (!s->has_route[kind])
        return;
    at = cr_route_head(d, s->socket[kind], &s->source[kind]);
    while (*at != node)
        at = &d->streams[*at / 2].next[*at % 2];
    *at = s->next[kind];
    s->has_route[kind] = 0;
}

static inline void cr_route_add(cr_demultiplexer *d, uint32_t number, int kind, const cr_endpoint *source)
{
    cr_stream *s = &d->streams[number];
    uint32_t *head;
    cr_route_remove(d, number, kind);
    s->source[kind] = *source;
    head = cr_route_head(d, s->socket[kind], source);
    s->next[kind] = *head;
    *head = 2 * number + (uint32_t)kind;
    s->has_route[kind] = 1;
}

/* The stream that a source's packets with this SSRC belong to; CR_NONE: none. */
static inline uint32_t cr_route_find(const cr_demultiplexer *d, uint32_t socket, const cr_endpoint *source, uint32_t ssrc)
{
    uint32_t found = CR_NONE, any = CR_NONE, matches = 0;
    for (uint32_t node = *cr_route_head(d, socket, source); node != CR_NONE;) {
        const cr_stream *s = &d->streams[node / 2];
        uint32_t kind = node % 2;
        if (s->socket[kind] == socket && cr_endpoint_equal(&s->source[kind], source)) {
            if (s->has_ssrc && s->ssrc == ssrc)
                return node / 2;
            matches++;
            found = node / 2;
            if (!s->has_ssrc)
                any = node / 2;
        }
        node = s->next[kind];
    }
    return matches <= 1 ? found : any;
}

/* ---- sockets and streams --------------------------------------------------------------------------------------- */

/* 0: no memory. Streams are put into chains twice as many as there is room for them. */
static inline int cr_demultiplexer_grow(cr_demultiplexer *d)
{
    uint32_t room = d->stream_room ? 2 * d->stream_room : 64, chains = 2 * room;
    cr_stream *streams = (cr_stream *)realloc(d->streams, room * sizeof *streams);
    uint32_t *routes, *ssrcs;
    if (!streams)
        return 0;
    d->streams = streams;
    routes = (uint32_t *)malloc(chains * sizeof *routes);
    ssrcs = (uint32_t *)malloc(chains * sizeof *ssrcs);
    if (!routes || !ssrcs) {
        free(routes);
        free(ssrcs);
        return 0;
    }
    free(d->routes);
    free(d->ssrcs);
    d->routes = routes;
    d->ssrcs = ssrcs;
    d->mask = chains - 1;
    d->stream_room = room;
    memset(routes, 0xFF, chains * sizeof *routes);
    memset(ssrcs, 0xFF, chains * sizeof *ssrcs);
    for (uint32_t i = 0; i < d->stream_count; i++) {
        cr_stream *s = &d->streams[i];
        for (int kind = 0; s->in_use && kind < 2; kind++)
            if (s->has_route[kind]) {
                s->has_route[kind] = 0;
                cr_route_add(d, i, kind, &s->source[kind]);
            }
        if (s->in_use && s->has_ssrc) {
            uint32_t *head = cr_ssrc_head(d, s->socket[0], s->ssrc);
            s->next_ssrc = *head;
            *head = i;
        }
    }
    return 1;
}

static inline int cr_demultiplexer_init(cr_demultiplexer *d, uint64_t memory_bytes, int64_t relearn_ns,
                                        const uint64_t secret[2])
{
    memset(d, 0, sizeof *d);
    d->free_streams = CR_NONE;
    d->relearn_ns = relearn_ns;
    d->secret[0] = secret[0];
    d->secret[1] = secret[1];
    return cr_block_pool_init(&d->pool, memory_bytes) && cr_demultiplexer_grow(d);
}

static inline void cr_demultiplexer_free(cr_demultiplexer *d)
{
    cr_block_pool_free(&d->pool);
    free(d->streams);
    free(d->ports);
    free(d->routes);
    free(d->ssrcs);
    memset(d, 0, sizeof *d);
}

/* The number of a new socket; CR_NONE: no memory. */
static inline uint32_t cr_port_add(cr_demultiplexer *d, int descriptor, int is_shared, int is_control, int64_t now_ns)
{
    uint32_t number = 0, generation;
    cr_port *port;
    while (number < d->port_count && d->ports[number].in_use)
        number++;
    if (number == d->port_room) {
        uint32_t room = d->port_room ? 2 * d->port_room : 64;
        cr_port *ports = (cr_port *)realloc(d->ports, room * sizeof *ports);
        if (!ports)
            return CR_NONE;
        memset(ports + d->port_room, 0, (room - d->port_room) * sizeof *ports);
        d->ports = ports;
        d->port_room = room;
    }
    d->port_count += number == d->port_count;
    port = &d->ports[number];
    generation = port->generation + 1;
    memset(port, 0, sizeof *port);
    port->generation = generation;
    port->descriptor = descriptor;
    port->in_use = 1;
    port->is_shared = is_shared != 0;
    port->is_control = is_control != 0;
    port->empty_ns = port->last_ns = now_ns;
    for (uint32_t i = 0; i < CR_MEMBERS; i++)
        port->members[i] = CR_NONE;
    return number;
}

static inline int cr_port_join(cr_port *port, uint32_t stream)
{
    for (uint32_t i = 0; !port->is_shared && i < CR_MEMBERS; i++)
        if (port->members[i] == CR_NONE) {
            port->members[i] = stream;
            return 1;
        }
    return port->is_shared;
}

static inline void cr_port_leave(cr_port *port, uint32_t stream)
{
    for (uint32_t i = 0; i < CR_MEMBERS; i++)
        if (port->members[i] == stream)
            port->members[i] = CR_NONE;
}

/* Where the peer sends RTCP from, as far as it is known beforehand. */
static inline void cr_stream_route_control(cr_demultiplexer *d, uint32_t number)
{
    cr_stream *s = &d->streams[number];
    if (s->socket[1] != CR_NONE && s->socket[1] != s->socket[0]) {
        cr_endpoint above = cr_endpoint_with_port(s->source[0], (uint16_t)(cr_endpoint_port(&s->source[0]) + 1));
        cr_route_add(d, number, 1, &above);
    }
}

static inline void cr_stream_set_peer(cr_demultiplexer *d, uint32_t number, const cr_endpoint *peer)
{
    cr_route_add(d, number, 0, peer);
    cr_stream_route_control(d, number);
}

/* A stream of `socket`, with RTCP on `control` (CR_NONE: none, or the same); without a socket it is only appended to.
 * CR_NONE: no memory, or no room on a socket that is not shared. */
static inline uint32_t cr_stream_open(cr_demultiplexer *d, uint32_t socket, uint32_t control,
                                      const uint64_t payload_types[2], const cr_endpoint *peer, const uint32_t *ssrc,
                                      int64_t now_ns)
{
    uint32_t number = d->free_streams;
    cr_stream *s;
    if (number == CR_NONE && d->stream_count == d->stream_room && !cr_demultiplexer_grow(d))
        return CR_NONE;
    if (number == CR_NONE)
        number = d->stream_count;
    if (socket != CR_NONE && !cr_port_join(&d->ports[socket], number))
        return CR_NONE;
    if (control != CR_NONE && control != socket && !cr_port_join(&d->ports[control], number)) {
        cr_port_leave(&d->ports[socket], number);
        return CR_NONE;
    }
    if (number == d->stream_count)
        d->stream_count++;
    else
        d->free_streams = d->streams[number].next[0];
    s = &d->streams[number];
    memset(s, 0, sizeof *s);
    cr_queue_init(&s->queue);
    s->in_use = 1;
    s->trial = CR_NONE;
    s->socket[0] = socket;
    s->socket[1] = control;
    s->payload_types[0] = payload_types[0];
    s->payload_types[1] = payload_types[1];
    s->last_ns = now_ns;
    s->looks_until_ns = INT64_MIN;
    if (ssrc) {
        uint32_t *head = cr_ssrc_head(d, socket, *ssrc);
        s->has_ssrc = 1;
        s->ssrc = *ssrc;
        s->next_ssrc = *head;
        *head = number;
        d->ports[socket].ssrcs++;
    }
    if (peer) {
        s->is_announced = s->is_confirmed = 1;
        cr_stream_set_peer(d, number, peer);
    }
    return number;
}

static inline void cr_stream_close(cr_demultiplexer *d, uint32_t number)
{
    cr_stream *s = &d->streams[number];
    for (int kind = 0; kind < 2; kind++) {
        cr_route_remove(d, number, kind);
        if (s->socket[kind] != CR_NONE)
            cr_port_leave(&d->ports[s->socket[kind]], number);
    }
    if (s->has_ssrc) {
        uint32_t *at = cr_ssrc_head(d, s->socket[0], s->ssrc);
        while (*at != number)
            at = &d->streams[*at].next_ssrc;
        *at = s->next_ssrc;
        d->ports[s->socket[0]].ssrcs--;
    }
    cr_queue_drop(&d->pool, &s->queue);
    s->in_use = 0;
    s->next[0] = d->free_streams;
    d->free_streams = number;
}

/* ---- peers ----------------------------------------------------------------------------------------------------- */

/* What an unconfirmed peer has sent goes: it was a stranger. */
static inline void cr_stream_reject(cr_demultiplexer *d, cr_stream *s)
{
    if (s->trial != CR_NONE) {
        cr_queue kept = cr_queue_detach(&d->pool, &s->queue, s->trial), rejected = s->queue;
        cr_queue_drop(&d->pool, &rejected);
        s->queue = kept;
    }
    s->counts.received -= s->trial_packets;
    s->counts.bytes -= s->trial_bytes;
    s->counts.rejected += s->trial_packets;
    s->trial = CR_NONE;
    s->trial_packets = 0;
    s->trial_bytes = 0;
}

/* It comes from there, and from nowhere else. */
static inline void cr_stream_announce(cr_demultiplexer *d, uint32_t number, const cr_endpoint *peer)
{
    cr_stream *s = &d->streams[number];
    if (s->socket[0] == CR_NONE || (s->has_route[0] && cr_endpoint_equal(&s->source[0], peer) && s->is_confirmed)) {
        s->is_announced = 1;
        return;
    }
    if (!s->is_confirmed && !(s->has_route[0] && cr_endpoint_equal(&s->source[0], peer)))
        cr_stream_reject(d, s);
    s->trial = CR_NONE;
    s->is_announced = s->is_confirmed = 1;
    s->looks_until_ns = INT64_MIN;
    cr_stream_set_peer(d, number, peer);
}

static inline int cr_stream_may_learn(const cr_demultiplexer *d, const cr_stream *s, const cr_rtp_packet *packet,
                                      int64_t now_ns)
{
    if (!(s->payload_types[packet->payload_type / 64] >> packet->payload_type % 64 & 1))
        return 0;
    if (now_ns < s->looks_until_ns)
        return 1;
    return !s->is_announced && (!s->is_confirmed || now_ns - s->last_ns >= d->relearn_ns);
}

/* The stream of a socket that an SSRC was announced for; CR_NONE: there is none. */
static inline uint32_t cr_ssrc_find(const cr_demultiplexer *d, uint32_t socket, uint32_t ssrc)
{
    uint32_t i = d->ports[socket].ssrcs ? *cr_ssrc_head(d, socket, ssrc) : CR_NONE;
    while (i != CR_NONE && (d->streams[i].socket[0] != socket || d->streams[i].ssrc != ssrc))
        i = d->streams[i].next_ssrc;
    return i;
}

static inline void cr_stream_learn(cr_demultiplexer *d, uint32_t number, const cr_endpoint *source)
{
    cr_stream *s = &d->streams[number];
    if (!s->is_confirmed)
        cr_stream_reject(d, s);
    s->counts.relearnt += s->has_route[0] && s->is_confirmed;
    s->is_confirmed = s->is_announced = 0;
    s->looks_until_ns = INT64_MIN;
    s->trial = CR_NONE;
    s->trial_packets = 0;
    s->trial_bytes = 0;
    cr_stream_set_peer(d, number, source);
}

/* The stream that a sound packet belongs to, whose source it may be the first to show; CR_NONE: it is a stranger's. */
static inline uint32_t cr_stream_of(cr_demultiplexer *d, uint32_t socket, const cr_endpoint *source,
                                    const cr_rtp_packet *packet, int64_t now_ns)
{
    const cr_port *port = &d->ports[socket];
    uint32_t number = cr_route_find(d, socket, source, packet->ssrc), announced;
    if (number != CR_NONE && (!port->ssrcs || (d->streams[number].has_ssrc && d->streams[number].ssrc == packet->ssrc)))
        return number;
    announced = cr_ssrc_find(d, socket, packet->ssrc);
    if (announced != CR_NONE && announced != number && cr_stream_may_learn(d, &d->streams[announced], packet, now_ns)) {
        cr_stream_learn(d, announced, source);
        return announced;
    }
    if (number != CR_NONE || announced != CR_NONE)
        return number; /* what was announced for one stream makes its sender no other's peer */
    for (uint32_t i = 0; i < CR_MEMBERS; i++) {
        uint32_t member = port->members[i];
        if (member != CR_NONE && !d->streams[member].has_ssrc && d->streams[member].socket[0] == socket &&
            cr_stream_may_learn(d, &d->streams[member], packet, now_ns)) {
            cr_stream_learn(d, member, source);
            return member;
        }
    }
    return CR_NONE;
}

/* ---- datagrams ------------------------------------------------------------------------------------------------- */

static inline enum cr_fate cr_stream_keep(cr_demultiplexer *d, uint32_t number, const uint8_t *data, size_t size_bytes,
                                          int64_t time_ns)
{
    cr_stream *s = &d->streams[number];
    if (!s->is_confirmed && s->trial == CR_NONE) { /* a block of its own */
        if (!cr_queue_begin_block(&d->pool, &s->queue)) {
            s->counts.overflowed++;
            return CR_FATE_OVERFLOWED;
        }
        s->trial = s->queue.tail;
    }
    if (!cr_queue_append(&d->pool, &s->queue, data, (uint32_t)size_bytes, time_ns, s->counts.received, number)) {
        s->counts.overflowed++;
        return CR_FATE_OVERFLOWED;
    }
    return CR_FATE_TAKEN;
}

/* Append a packet that did not come from a socket: what we send ourselves. */
static inline void cr_stream_append(cr_demultiplexer *d, uint32_t number, const uint8_t *data, size_t size_bytes,
                                    int64_t time_ns)
{
    cr_stream *s = &d->streams[number];
    s->is_confirmed = 1;
    s->counts.received++;
    s->counts.bytes += size_bytes;
    cr_stream_keep(d, number, data, size_bytes, time_ns);
}

static inline enum cr_fate cr_demultiplexer_rtcp(cr_demultiplexer *d, uint32_t socket, const cr_endpoint *source,
                                                 const uint8_t *data, size_t size_bytes, int64_t time_ns)
{
    cr_port *port = &d->ports[socket];
    uint32_t ssrc, number;
    cr_stream *s;
    if (!cr_rtcp_source(data, size_bytes, &ssrc)) {
        port->malformed++;
        return CR_FATE_MALFORMED;
    }
    number = cr_route_find(d, socket, source, ssrc);
    for (uint32_t i = 0; number == CR_NONE && port->is_control && i < CR_MEMBERS; i++) {
        uint32_t member = port->members[i];
        if (member != CR_NONE && d->streams[member].has_route[0] &&
            cr_endpoint_same_host(&d->streams[member].source[0], source))
            number = member;
    }
    if (number == CR_NONE || !d->streams[number].is_confirmed) {
        port->strangers++;
        return CR_FATE_STRANGER;
    }
    s = &d->streams[number];
    if (s->socket[1] == socket && s->socket[0] != socket && !cr_endpoint_equal(&s->source[1], source))
        cr_route_add(d, number, 1, source);
    s->counts.reports++;
    s->counts.bytes += size_bytes;
    cr_reception_control(&s->reception, data, size_bytes, time_ns);
    return cr_stream_keep(d, number, data, size_bytes, time_ns);
}

/* One datagram of `source` that came to `socket` at `time_ns`, `waited_ns` before now. */
static inline enum cr_fate cr_demultiplexer_take(cr_demultiplexer *d, uint32_t socket, const cr_endpoint *source,
                                                 const uint8_t *data, size_t size_bytes, int is_cut, int64_t time_ns,
                                                 int64_t waited_ns)
{
    cr_port *port = &d->ports[socket];
    enum cr_datagram_kind kind = cr_datagram_classify(data, size_bytes);
    cr_rtp_packet packet;
    enum cr_rtp_problem problem;
    uint32_t number;
    cr_stream *s;
    memset(&packet, 0, sizeof packet);
    port->datagrams++;
    if (is_cut || size_bytes > CR_DATAGRAM_MAX_BYTES) {
        port->too_long++;
        return CR_FATE_TOO_LONG;
    }
    if (kind == CR_DATAGRAM_FOREIGN) {
        port->foreign++;
        return CR_FATE_FOREIGN;
    }
    if (kind == CR_DATAGRAM_RTCP)
        return cr_demultiplexer_rtcp(d, socket, source, data, size_bytes, time_ns);
    problem = cr_rtp_parse(data, size_bytes, &packet);
    if (port->is_control)
        number = CR_NONE;
    else if (problem)
        number = cr_route_find(d, socket, source, 0);
    else
        number = cr_stream_of(d, socket, source, &packet, time_ns);
    if (number == CR_NONE) {
        port->strangers++;
        return CR_FATE_STRANGER;
    }
    s = &d->streams[number];
    if (problem) { /* the call counts it, too */
        s->counts.malformed++;
        if (s->is_confirmed)
            cr_stream_keep(d, number, data, size_bytes, time_ns);
        return CR_FATE_MALFORMED;
    }
    if (!s->is_confirmed && s->trial_packets > 0 && packet.ssrc == s->reception.ssrc) {
        int step = (int16_t)(uint16_t)(packet.sequence - s->reception.highest);
        if (step != 0 && step >= -CR_CONFIRM_STEPS && step <= CR_CONFIRM_STEPS) {
            s->is_confirmed = 1;
            s->trial = CR_NONE;
        }
    }
    s->counts.received++;
    s->counts.bytes += size_bytes;
    if (!s->is_confirmed) {
        s->trial_packets++;
        s->trial_bytes += size_bytes;
    }
    s->last_ns = time_ns;
    if (waited_ns > s->counts.wait_max_ns)
        s->counts.wait_max_ns = waited_ns;
    cr_reception_packet(&s->reception, &packet, time_ns);
    return cr_stream_keep(d, number, data, size_bytes, time_ns);
}

/* All packets of a stream that may be handed out, as a queue to copy and then to give back. At its end (`all`) also those
 * of a peer that nothing has confirmed, for there was no other. */
static inline cr_queue cr_stream_detach(cr_demultiplexer *d, uint32_t number, int all)
{
    cr_stream *s = &d->streams[number];
    uint32_t end = all ? CR_NONE : s->trial;
    if (end == CR_NONE)
        s->trial = CR_NONE;
    return cr_queue_detach(&d->pool, &s->queue, end);
}

#endif
