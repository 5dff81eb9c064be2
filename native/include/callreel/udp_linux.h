/* Sockets in and out on Linux: epoll and recvmmsg for a demultiplexer, sendmmsg for voices. Elsewhere there is none of it.
 *
 *   one thread, no GIL:  epoll_wait ─> recvmmsg, 64 datagrams ─> lock, sort them, unlock ─> ... ─> nap
 *
 * The kernel stamps each packet, so nobody has to be there when it comes: after a round the thread sleeps for some
 * milliseconds, and what has come meanwhile costs one wake-up. It sleeps as long as the sockets' buffers allow.
 *
 * A descriptor is read outside the lock. Who closes one first says so (cr_intake_remove), and waits until it is not being
 * read: otherwise its number might by then be another file's.
 *
 * Requirements, tests in tests/native/test_udp.py:
 *   1. Stamps are the kernel's, on the monotonic clock (arrival_clock.h). 2. What the kernel dropped is counted.
 *   3. No error of a socket ends the loop. 4. Sockets come and go while it runs.
 */
#ifndef CALLREEL_UDP_LINUX_H
#define CALLREEL_UDP_LINUX_H

#include <stdint.h>

#include "callreel/arrival_clock.h"
#include "callreel/demultiplexer.h"
#include "callreel/pacer.h"

#if defined(__linux__)

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CR_UDP_IS_SERVED 1

#ifndef SO_RXQ_OVFL
#define SO_RXQ_OVFL 40
#endif
#ifndef SO_RCVBUFFORCE
#define SO_RCVBUFFORCE 33
#endif
#ifndef SCM_TIMESTAMPNS
#define SCM_TIMESTAMPNS SO_TIMESTAMPNS
#endif

#define CR_INTAKE_BATCH 64
#define CR_INTAKE_EVENTS 256
#define CR_INTAKE_TURNS 64 /* batches of one socket before the others have theirs */
#define CR_INTAKE_SLOT (CR_DATAGRAM_MAX_BYTES + 192u) /* an odd number of cache lines: slots do not meet in one set */
#define CR_INTAKE_CONTROL 128
#define CR_WAKE_EVENT UINT64_MAX
#define CR_NAP_NS INT64_C(5000000)
#define CR_NAP_BUFFER_BYTES (4 << 20) /* 5 ms of 200,000 packets a second, which take 0.9 KB each in the kernel, four times */
#define CR_SHORT_NAP_NS INT64_C(1000000)

static inline int64_t cr_clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline int64_t cr_now_ns(void) { return cr_clock_ns(CLOCK_MONOTONIC); }

static inline void cr_sleep_ns(int64_t ns)
{
    struct timespec wait = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    nanosleep(&wait, NULL);
}

static inline void cr_endpoint_of(cr_endpoint *e, const struct sockaddr_storage *name)
{
    memset(e, 0, sizeof *e);
    if (name->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)name;
        memcpy(&e->word[0], &in->sin_addr, 4);
        e->word[2] = (uint64_t)ntohs(in->sin_port) | UINT64_C(4) << 16;
    } else if (name->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)name;
        memcpy(&e->word[0], &in->sin6_addr, 16);
        e->word[2] = (uint64_t)ntohs(in->sin6_port) | UINT64_C(6) << 16 | (uint64_t)in->sin6_scope_id << 32;
    }
}

static inline socklen_t cr_endpoint_name(const cr_endpoint *e, struct sockaddr_storage *name)
{
    memset(name, 0, sizeof *name);
    if ((e->word[2] >> 16 & 0xFFFF) == 4) {
        struct sockaddr_in *in = (struct sockaddr_in *)name;
        in->sin_family = AF_INET;
        in->sin_port = htons(cr_endpoint_port(e));
        memcpy(&in->sin_addr, &e->word[0], 4);
        return sizeof *in;
    } else {
        struct sockaddr_in6 *in = (struct sockaddr_in6 *)name;
        in->sin6_family = AF_INET6;
        in->sin6_port = htons(cr_endpoint_port(e));
        in->sin6_scope_id = (uint32_t)(e->word[2] >> 32);
        memcpy(&in->sin6_addr, &e->word[0], 16);
        return sizeof *in;
    }
}

/* ---- in -------------------------------------------------------------------------------------------------------- */

/* Where the kernel puts datagrams. */
typedef struct {
    struct mmsghdr messages[CR_INTAKE_BATCH];
    struct iovec places[CR_INTAKE_BATCH];
    struct sockaddr_storage names[CR_INTAKE_BATCH];
    uint64_t controls[CR_INTAKE_BATCH][CR_INTAKE_CONTROL / 8];
    cr_endpoint sources[CR_INTAKE_BATCH];
    int64_t stamps[CR_INTAKE_BATCH];
    uint8_t slots[CR_INTAKE_BATCH * CR_INTAKE_SLOT];
} cr_batch;

typedef struct {
    cr_demultiplexer demultiplexer;
    pthread_mutex_t lock;
    int poll, wake, is_stopping;
    uint32_t reading; /* the socket that is being read outside the lock */
    int64_t nap_ns;
    cr_arrival_clock clock;
    uint64_t batches, wakeups, errors;
    cr_batch batch;     /* of the reading thread */
    cr_batch own_batch; /* of whoever reads within the lock */
} cr_intake;

static inline void cr_intake_lock(cr_intake *in) { pthread_mutex_lock(&in->lock); }
static inline void cr_intake_unlock(cr_intake *in) { pthread_mutex_unlock(&in->lock); }

static inline void cr_batch_init(cr_batch *b)
{
    for (int i = 0; i < CR_INTAKE_BATCH; i++) {
        struct msghdr *message = &b->messages[i].msg_hdr;
        b->places[i].iov_base = b->slots + (size_t)i * CR_INTAKE_SLOT;
        b->places[i].iov_len = CR_DATAGRAM_MAX_BYTES;
        message->msg_iov = &b->places[i];
        message->msg_iovlen = 1;
        message->msg_name = &b->names[i];
        message->msg_control = b->controls[i];
        message->msg_namelen = sizeof b->names[i];
        message->msg_controllen = sizeof b->controls[i];
    }
}

/* 0, or an error number; freed by cr_intake_free in both cases. */
static inline int cr_intake_init(cr_intake *in, uint64_t memory_bytes, int64_t relearn_ns, const uint64_t secret[2])
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = CR_WAKE_EVENT};
    pthread_mutex_init(&in->lock, NULL);
    in->reading = CR_NONE;
    in->nap_ns = CR_NAP_NS;
    in->poll = in->wake = -1;
    if (!cr_demultiplexer_init(&in->demultiplexer, memory_bytes, relearn_ns, secret))
        return ENOMEM;
    in->poll = epoll_create1(EPOLL_CLOEXEC);
    in->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (in->poll < 0 || in->wake < 0 || epoll_ctl(in->poll, EPOLL_CTL_ADD, in->wake, &event) < 0)
        return errno;
    cr_batch_init(&in->batch);
    cr_batch_init(&in->own_batch);
    return 0;
}

static inline void cr_intake_free(cr_intake *in)
{
    if (in->poll >= 0)
        close(in->poll);
    if (in->wake >= 0)
        close(in->wake);
    cr_demultiplexer_free(&in->demultiplexer);
    pthread_mutex_destroy(&in->lock);
}

/* Read a socket from now on; its number, or less 0: an error number. What its buffer was granted is in `granted`. */
static inline int64_t cr_intake_add(cr_intake *in, int descriptor, int is_shared, int is_control, int buffer_bytes,
                                    int *granted)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0};
    int on = 1;
    socklen_t size = sizeof *granted;
    uint32_t number;
    /* Beyond the system's limit, if we may; otherwise up to it. */
    if (setsockopt(descriptor, SOL_SOCKET, SO_RCVBUFFORCE, &buffer_bytes, sizeof buffer_bytes) < 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof buffer_bytes);
    if (setsockopt(descriptor, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on) < 0 ||
        setsockopt(descriptor, SOL_SOCKET, SO_RXQ_OVFL, &on, sizeof on) < 0 ||
        getsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, granted, &size) < 0)
        return -errno;
    cr_intake_lock(in);
    number = cr_port_add(&in->demultiplexer, descriptor, is_shared, is_control, cr_now_ns());
    if (number != CR_NONE) {
        event.data.u64 = (uint64_t)in->demultiplexer.ports[number].generation << 32 | number;
        if (epoll_ctl(in->poll, EPOLL_CTL_ADD, descriptor, &event) < 0) {
            in->demultiplexer.ports[number].in_use = 0;
            cr_intake_unlock(in);
            return -errno;
        }
        if (is_shared && *granted < CR_NAP_BUFFER_BYTES)
            in->nap_ns = CR_SHORT_NAP_NS;
    }
    cr_intake_unlock(in);
    return number == CR_NONE ? -ENOMEM : (int64_t)number;
}

/* Read it no more; its descriptor may be closed when this returns. */
static inline void cr_intake_remove(cr_intake *in, uint32_t number)
{
    cr_port *port;
    cr_intake_lock(in);
    port = &in->demultiplexer.ports[number];
    epoll_ctl(in->poll, EPOLL_CTL_DEL, port->descriptor, NULL);
    port->in_use = 0;
    port->generation++;
    while (in->reading == number) {
        cr_intake_unlock(in);
        cr_sleep_ns(20000);
        cr_intake_lock(in);
    }
    cr_intake_unlock(in);
}

static inline void cr_intake_stop(cr_intake *in)
{
    uint64_t one = 1;
    cr_intake_lock(in);
    in->is_stopping = 1;
    cr_intake_unlock(in);
    if (write(in->wake, &one, sizeof one) < 0)
        in->errors++; /* its counter is full: it is awake */
}

/* The stamp of a message, 0 without one, and what its socket had dropped by then. */
static inline int64_t cr_message_stamp(struct msghdr *message, uint32_t *drops)
{
    int64_t stamp = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET)
            continue;
        if (c->cmsg_type == SCM_TIMESTAMPNS && c->cmsg_len >= CMSG_LEN(sizeof(struct timespec))) {
            struct timespec at;
            memcpy(&at, CMSG_DATA(c), sizeof at);
            stamp = (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
        } else if (c->cmsg_type == SO_RXQ_OVFL && c->cmsg_len >= CMSG_LEN(sizeof *drops)) {
            memcpy(drops, CMSG_DATA(c), sizeof *drops);
        }
    }
    return stamp;
}

/* Sort what has been read; within the lock. */
static inline void cr_intake_sort(cr_intake *in, cr_batch *b, uint32_t number, int count, int64_t began_ns)
{
    cr_demultiplexer *d = &in->demultiplexer;
    cr_port *port = &d->ports[number];
    int64_t now_ns = cr_now_ns();
    uint32_t drops = port->kernel_drops_seen;
    uint32_t *heads[CR_INTAKE_BATCH];
    cr_arrival_clock_read(&in->clock, cr_clock_ns(CLOCK_REALTIME), now_ns);
    for (int i = 0; i < count; i++) {
        b->stamps[i] = cr_message_stamp(&b->messages[i].msg_hdr, &drops);
        cr_endpoint_of(&b->sources[i], &b->names[i]);
        heads[i] = cr_route_head(d, number, &b->sources[i]);
        __builtin_prefetch(heads[i]);
    }
    /* Nothing of a stream is in a cache when its packet comes: ask for all of them before the first is needed. */
    for (int i = 0; i < count; i++)
        if (*heads[i] != CR_NONE) {
            const char *s = (const char *)&d->streams[*heads[i] / 2];
            for (size_t at = 0; at < sizeof(cr_stream); at += 64)
                __builtin_prefetch(s + at, 1);
        }
    for (int i = 0; i < count; i++)
        if (*heads[i] != CR_NONE) {
            const cr_queue *q = &d->streams[*heads[i] / 2].queue;
            if (q->tail != CR_NONE)
                __builtin_prefetch(cr_block_at(&d->pool, q->tail), 1);
        }
    for (int i = 0; i < count; i++) {
        int64_t low = port->last_ns > port->empty_ns ? port->last_ns : port->empty_ns;
        int64_t at = b->stamps[i] ? cr_arrival_ns(&in->clock, b->stamps[i], low < now_ns ? low : now_ns, now_ns) : now_ns;
        struct msghdr *message = &b->messages[i].msg_hdr;
        port->last_ns = at;
        cr_demultiplexer_take(d, number, &b->sources[i], b->slots + (size_t)i * CR_INTAKE_SLOT, b->messages[i].msg_len,
                              message->msg_flags & MSG_TRUNC, at, now_ns - at);
    }
    port->kernel_drops += (uint32_t)(drops - port->kernel_drops_seen);
    port->kernel_drops_seen = drops;
    if (count < CR_INTAKE_BATCH)
        port->empty_ns = began_ns;
}

/* Make the batch ready for the next datagrams. */
static inline void cr_batch_clear(cr_batch *b, int count)
{
    for (int i = 0; i < count; i++) {
        struct msghdr *message = &b->messages[i].msg_hdr;
        message->msg_namelen = sizeof b->names[i];
        message->msg_controllen = sizeof b->controls[i];
        message->msg_flags = 0;
    }
}

static inline int cr_batch_read(cr_intake *in, cr_batch *b, int descriptor)
{
    int count = recvmmsg(descriptor, b->messages, CR_INTAKE_BATCH, MSG_DONTWAIT, NULL);
    if (count < 0) {
        in->errors += errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR;
        return 0;
    }
    return count;
}

/* Read a socket until it is empty, or it is the others' turn; returns how many datagrams. */
static inline int cr_intake_read(cr_intake *in, uint64_t event)
{
    uint32_t number = (uint32_t)event;
    int total = 0;
    for (int turn = 0; turn < CR_INTAKE_TURNS; turn++) {
        int descriptor = -1, count;
        int64_t began_ns;
        cr_intake_lock(in);
        if (number < in->demultiplexer.port_count && in->demultiplexer.ports[number].in_use &&
            in->demultiplexer.ports[number].generation == (uint32_t)(event >> 32) && !in->is_stopping) {
            descriptor = in->demultiplexer.ports[number].descriptor;
            in->reading = number;
        }
        cr_intake_unlock(in);
        if (descriptor < 0)
            break;
        began_ns = cr_now_ns();
        count = cr_batch_read(in, &in->batch, descriptor);
        cr_intake_lock(in);
        in->reading = CR_NONE;
        in->batches++;
        if (in->demultiplexer.ports[number].generation == (uint32_t)(event >> 32)) /* else closed meanwhile */
            cr_intake_sort(in, &in->batch, number, count, began_ns);
        cr_intake_unlock(in);
        cr_batch_clear(&in->batch, count);
        total += count;
        if (count < CR_INTAKE_BATCH)
            break;
    }
    return total;
}

/* Read what has come to a socket by now, whatever the reading thread does: nothing that has come is missed at an end. */
static inline void cr_intake_sweep(cr_intake *in, uint32_t number)
{
    cr_intake_lock(in);
    for (int turn = 0; turn < CR_INTAKE_TURNS; turn++) {
        cr_port *port;
        int count;
        int64_t began_ns = cr_now_ns();
        while (in->reading == number) { /* what is read out there comes first */
            cr_intake_unlock(in);
            cr_sleep_ns(20000);
            cr_intake_lock(in);
        }
        port = &in->demultiplexer.ports[number];
        if (!port->in_use)
            break;
        count = cr_batch_read(in, &in->own_batch, port->descriptor);
        cr_intake_sort(in, &in->own_batch, number, count, began_ns);
        cr_batch_clear(&in->own_batch, count);
        if (count < CR_INTAKE_BATCH)
            break;
        cr_intake_unlock(in); /* others have their turn */
        cr_intake_lock(in);
    }
    cr_intake_unlock(in);
}

/* Read all sockets until it is stopped; one thread. */
static inline void cr_intake_run(cr_intake *in)
{
    struct epoll_event events[CR_INTAKE_EVENTS];
    for (;;) {
        int count = epoll_wait(in->poll, events, CR_INTAKE_EVENTS, -1), total = 0, is_stopping;
        for (int i = 0; i < count; i++)
            if (events[i].data.u64 != CR_WAKE_EVENT)
                total += cr_intake_read(in, events[i].data.u64);
        cr_intake_lock(in);
        in->wakeups++;
        is_stopping = in->is_stopping;
        cr_intake_unlock(in);
        if (is_stopping)
            return;
        if (count < CR_INTAKE_EVENTS && total < CR_INTAKE_BATCH * CR_INTAKE_TURNS)
            cr_sleep_ns(in->nap_ns);
    }
}

/* ---- out ------------------------------------------------------------------------------------------------------- */

#define CR_OUTLET_BATCH 64
#define CR_OUTLET_EARLY_NS 100000 /* what is due this soon is sent now: the timer is no finer */

typedef struct {
    cr_intake *intake; /* who knows the peers, and keeps what was sent */
    pthread_mutex_t lock;
    int wake, is_called;
    cr_voice *voices;
    int64_t *due; /* of each voice: scanned at every turn, so apart */
    uint32_t count, room;
    struct mmsghdr messages[CR_OUTLET_BATCH];
    struct iovec places[CR_OUTLET_BATCH];
    struct sockaddr_storage names[CR_OUTLET_BATCH];
    uint32_t senders[CR_OUTLET_BATCH];
    uint8_t packets[CR_OUTLET_BATCH][CR_PACE_PACKET_BYTES];
} cr_outlet;

/* glibc 2.34 gave it a new version, the only one that its linker takes by itself; systems that are older know this one. */
#if defined(__GLIBC__) && defined(__x86_64__)
__asm__(".symver pthread_mutex_trylock, pthread_mutex_trylock@GLIBC_2.2.5");
#elif defined(__GLIBC__) && defined(__aarch64__)
__asm__(".symver pthread_mutex_trylock, pthread_mutex_trylock@GLIBC_2.17");
#endif

static inline void cr_outlet_lock(cr_outlet *out) { pthread_mutex_lock(&out->lock); }
/* Without waiting: who has the GIL keeps it, mostly. */
static inline int cr_outlet_try_lock(cr_outlet *out) { return pthread_mutex_trylock(&out->lock) == 0; }
static inline void cr_outlet_unlock(cr_outlet *out) { pthread_mutex_unlock(&out->lock); }

static inline int cr_outlet_init(cr_outlet *out, cr_intake *intake)
{
    pthread_mutex_init(&out->lock, NULL);
    out->intake = intake;
    out->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return out->wake < 0 ? errno : 0;
}

static inline void cr_outlet_free(cr_outlet *out)
{
    for (uint32_t i = 0; i < out->count; i++)
        free(out->voices[i].codes);
    free(out->voices);
    free(out->due);
    if (out->wake >= 0)
        close(out->wake);
    pthread_mutex_destroy(&out->lock);
}

/* Look again what is due; with `returns`, return as well. */
static inline void cr_outlet_wake(cr_outlet *out, int returns)
{
    uint64_t one = 1;
    cr_outlet_lock(out);
    out->is_called |= returns;
    cr_outlet_unlock(out);
    if (write(out->wake, &one, sizeof one) < 0)
        return; /* its counter is full: it is awake */
}

/* A voice's number; CR_NONE: no memory. Within the lock. */
static inline uint32_t cr_outlet_add(cr_outlet *out)
{
    uint32_t number = 0;
    while (number < out->count && out->voices[number].in_use)
        number++;
    if (number == out->room) {
        uint32_t room = out->room ? 2 * out->room : 64;
        cr_voice *voices = (cr_voice *)realloc(out->voices, room * sizeof *voices);
        int64_t *due;
        if (!voices)
            return CR_NONE;
        out->voices = voices;
        due = (int64_t *)realloc(out->due, room * sizeof *due);
        if (!due)
            return CR_NONE;
        out->due = due;
        out->room = room;
    }
    out->count += number == out->count;
    memset(&out->voices[number], 0, sizeof out->voices[number]);
    out->voices[number].in_use = 1;
    out->due[number] = CR_PACE_IDLE;
    return number;
}

static inline void cr_outlet_silence(cr_outlet *out, uint32_t number)
{
    cr_voice *v = &out->voices[number];
    free(v->codes);
    v->codes = NULL;
    v->state = CR_VOICE_IDLE;
    out->due[number] = CR_PACE_IDLE;
}

/* Make the packets that are due, at most a batch; whether some voice has come to an end. */
static inline int cr_outlet_make(cr_outlet *out, int64_t now_ns, int *made)
{
    int ended = 0;
    *made = 0;
    cr_intake_lock(out->intake);
    for (uint32_t i = 0; i < out->count && *made < CR_OUTLET_BATCH; i++) {
        cr_voice *v;
        cr_stream *s;
        if (out->due[i] > now_ns + CR_OUTLET_EARLY_NS)
            continue;
        v = &out->voices[i];
        s = &out->intake->demultiplexer.streams[v->stream];
        if (!s->has_route[0]) {
            cr_voice_wait(v);
        } else {
            struct msghdr *message = &out->messages[*made].msg_hdr;
            cr_voice_packet(v, now_ns, out->packets[*made]);
            memset(message, 0, sizeof *message);
            message->msg_name = &out->names[*made];
            message->msg_namelen = cr_endpoint_name(&s->source[0], &out->names[*made]);
            out->places[*made].iov_base = out->packets[*made];
            out->places[*made].iov_len = CR_PACE_PACKET_BYTES;
            message->msg_iov = &out->places[*made];
            message->msg_iovlen = 1;
            out->senders[*made] = i;
            if (v->heard != CR_NONE)
                cr_stream_append(&out->intake->demultiplexer, v->heard, out->packets[*made], CR_PACE_PACKET_BYTES,
                                 v->due_ns - CR_PACE_NS);
            ++*made;
        }
        out->due[i] = v->state == CR_VOICE_TALKING ? v->due_ns : CR_PACE_IDLE;
        ended |= v->state != CR_VOICE_TALKING;
    }
    cr_intake_unlock(out->intake);
    return ended;
}

/* Send what was made, each run of packets of one socket in one go; whether a voice was given up. */
static inline int cr_outlet_send(cr_outlet *out, int made)
{
    int ended = 0;
    for (int at = 0; at < made;) {
        int descriptor = out->voices[out->senders[at]].descriptor, end = at + 1, sent;
        while (end < made && out->voices[out->senders[end]].descriptor == descriptor)
            end++;
        sent = sendmmsg(descriptor, out->messages + at, (unsigned)(end - at), MSG_DONTWAIT | MSG_NOSIGNAL);
        for (int i = at; i < at + sent; i++)
            out->voices[out->senders[i]].failures = 0;
        if (sent < 0) {
            cr_voice *v = &out->voices[out->senders[at]];
            v->refused++;
            v->error = errno;
            sent = 1; /* that one is lost, as if on its way */
            if (++v->failures >= CR_PACE_FAILURES && v->state == CR_VOICE_TALKING) {
                v->state = CR_VOICE_UNREACHABLE;
                out->due[out->senders[at]] = CR_PACE_IDLE;
                ended = 1;
            }
        }
        at += sent;
    }
    return ended;
}

/* Send what is due when it is due, until a voice has come to an end or somebody calls. */
static inline void cr_outlet_run(cr_outlet *out)
{
    for (;;) {
        int64_t now_ns = cr_now_ns(), next_ns = CR_PACE_IDLE, wait_ns;
        int made, ended;
        struct pollfd wake = {out->wake, POLLIN, 0};
        struct timespec wait;
        uint64_t count;
        cr_outlet_lock(out);
        do {
            ended = cr_outlet_make(out, now_ns, &made);
            ended |= cr_outlet_send(out, made);
        } while (made == CR_OUTLET_BATCH && !ended);
        for (uint32_t i = 0; i < out->count; i++)
            next_ns = out->due[i] < next_ns ? out->due[i] : next_ns;
        ended |= out->is_called;
        out->is_called = 0;
        cr_outlet_unlock(out);
        if (ended)
            return;
        wait_ns = next_ns == CR_PACE_IDLE ? INT64_C(3600000000000) : next_ns - cr_now_ns();
        if (wait_ns <= 0)
            continue;
        wait.tv_sec = (time_t)(wait_ns / 1000000000);
        wait.tv_nsec = (long)(wait_ns % 1000000000);
        if (ppoll(&wake, 1, &wait, NULL) > 0 && read(out->wake, &count, sizeof count) < 0)
            continue; /* somebody else has read it: there is nobody */
    }
}

#else /* What udp.pyx is compiled with on other systems, where its import fails. */

#define CR_UDP_IS_SERVED 0

typedef struct {
    cr_demultiplexer demultiplexer;
    uint64_t batches, wakeups, errors;
} cr_intake;

typedef struct {
    cr_voice *voices;
    int64_t *due;
    uint32_t count;
} cr_outlet;

static inline int64_t cr_now_ns(void) { return 0; }
static inline void cr_intake_lock(cr_intake *in) { (void)in; }
static inline void cr_intake_unlock(cr_intake *in) { (void)in; }
static inline int cr_intake_init(cr_intake *in, uint64_t memory_bytes, int64_t relearn_ns, const uint64_t secret[2])
{
    return !cr_demultiplexer_init(&in->demultiplexer, memory_bytes, relearn_ns, secret);
}
static inline void cr_intake_free(cr_intake *in) { cr_demultiplexer_free(&in->demultiplexer); }
static inline int64_t cr_intake_add(cr_intake *in, int descriptor, int is_shared, int is_control, int buffer_bytes,
                                    int *granted)
{
    (void)in, (void)descriptor, (void)is_shared, (void)is_control, (void)buffer_bytes, (void)granted;
    return -1;
}
static inline void cr_intake_remove(cr_intake *in, uint32_t number) { (void)in, (void)number; }
static inline void cr_intake_sweep(cr_intake *in, uint32_t number) { (void)in, (void)number; }
static inline void cr_intake_stop(cr_intake *in) { (void)in; }
static inline void cr_intake_run(cr_intake *in) { (void)in; }
static inline int cr_outlet_init(cr_outlet *out, cr_intake *intake) { return (void)out, (void)intake, 1; }
static inline void cr_outlet_free(cr_outlet *out) { (void)out; }
static inline void cr_outlet_lock(cr_outlet *out) { (void)out; }
static inline int cr_outlet_try_lock(cr_outlet *out) { return (void)out, 1; }
static inline void cr_outlet_unlock(cr_outlet *out) { (void)out; }
static inline void cr_outlet_wake(cr_outlet *out, int returns) { (void)out, (void)returns; }
static inline uint32_t cr_outlet_add(cr_outlet *out) { return (void)out, CR_NONE; }
static inline void cr_outlet_silence(cr_outlet *out, uint32_t number) { (void)out, (void)number; }
static inline void cr_outlet_run(cr_outlet *out) { (void)out; }

#endif
#endif
