/* What a receiver of RTP is measured with, on Linux: thousands of sources in real time, and the loop that nothing can beat.
 *
 * How:  each source has a connected socket, so to the receiver it is a sender like any other. The sources of one packet time
 *       are spread over it in CR_LOAD_STEPS parts. Which of them speak, and how much they have sent, is in memory that the
 *       caller shares with whoever directs it.
 *
 * Requirements, tests in tests/native/test_udp_load.py:
 *   1. A source that is off sends nothing; sequence numbers count what it has sent, timestamps the time. 2. A packet is late
 *   by what the system takes, and none is left out for it. 3. What the system refuses is counted, and no sequence number
 *   is spent on it.
 */
#ifndef CALLREEL_UDP_LOAD_H
#define CALLREEL_UDP_LOAD_H

#include <stdint.h>
#include <string.h>

#include "callreel/bytes.h"
#include "callreel/udp_linux.h"

#define CR_LOAD_SAMPLES 160u
#define CR_LOAD_PACKET (12u + CR_LOAD_SAMPLES)
#define CR_LOAD_NS INT64_C(20000000)
#define CR_LOAD_STEPS 20u
#define CR_LOAD_BATCH 64

typedef struct {
    const int *sockets;
    uint32_t streams;
    const uint8_t *codes; /* `voices` of them, `packets_each` packets each */
    uint32_t voices, packets_each;
    const volatile uint8_t *is_on; /* of each stream, and behind them: whether to end */
    volatile uint32_t *sent;
} cr_load;

typedef struct {
    uint64_t refused;
    int64_t late_max_ns;
} cr_load_result;

#if defined(__linux__)

static inline void cr_load_packet(const cr_load *l, uint32_t stream, uint32_t round, uint8_t *packet)
{
    uint32_t at = (round + stream * 7) % l->packets_each;
    packet[0] = 0x80;
    packet[1] = 0;
    cr_store_u16be(packet + 2, (uint16_t)l->sent[stream]);
    cr_store_u32be(packet + 4, round * CR_LOAD_SAMPLES);
    cr_store_u32be(packet + 8, stream + 1);
    memcpy(packet + 12, l->codes + (size_t)CR_LOAD_SAMPLES * ((stream % l->voices) * l->packets_each + at), CR_LOAD_SAMPLES);
}

/* Send in real time until it is to end. */
static inline cr_load_result cr_load_send(const cr_load *l)
{
    cr_load_result result = {0, 0};
    int64_t begin = cr_now_ns();
    for (uint32_t round = 0;; round++)
        for (uint32_t step = 0; step < CR_LOAD_STEPS; step++) {
            int64_t due = begin + round * CR_LOAD_NS + step * (CR_LOAD_NS / CR_LOAD_STEPS);
            struct timespec t = {(time_t)(due / 1000000000), (long)(due % 1000000000)};
            int64_t late;
            while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
                ;
            if (l->is_on[l->streams])
                return result;
            late = cr_now_ns() - due;
            result.late_max_ns = late > result.late_max_ns ? late : result.late_max_ns;
            for (uint32_t i = step; i < l->streams; i += CR_LOAD_STEPS) {
                uint8_t packet[CR_LOAD_PACKET];
                if (!l->is_on[i])
                    continue;
                cr_load_packet(l, i, round, packet);
                if (send(l->sockets[i], packet, CR_LOAD_PACKET, 0) == (ssize_t)CR_LOAD_PACKET)
                    l->sent[i]++;
                else
                    result.refused++;
            }
        }
}

/* Send as fast as it goes; how many packets went. */
static inline uint64_t cr_load_flood(const cr_load *l, int64_t lasting_ns)
{
    int64_t until = cr_now_ns() + lasting_ns;
    uint64_t sent = 0;
    for (uint32_t round = 0; cr_now_ns() < until; round++)
        for (uint32_t i = 0; i < l->streams; i++) {
            uint8_t packet[CR_LOAD_PACKET];
            cr_load_packet(l, i, round, packet);
            sent += send(l->sockets[i], packet, CR_LOAD_PACKET, 0) == (ssize_t)CR_LOAD_PACKET;
        }
    return sent;
}

typedef struct {
    uint64_t packets;
    int64_t cpu_ns, lasted_ns; /* from behind the first packet to the last one */
} cr_bare_result;

/* recvmmsg and nothing else, until nothing has come for `idle_ms`; the first packet may take 30 s. */
static inline cr_bare_result cr_load_bare(int socket, int idle_ms)
{
    static uint8_t slots[CR_LOAD_BATCH][CR_DATAGRAM_MAX_BYTES];
    struct mmsghdr messages[CR_LOAD_BATCH];
    struct iovec places[CR_LOAD_BATCH];
    struct timeval patience = {30, 0};
    cr_bare_result result = {0, 0, 0};
    int64_t began, ended, cpu;
    int count;
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < CR_LOAD_BATCH; i++) {
        places[i].iov_base = slots[i];
        places[i].iov_len = sizeof slots[i];
        messages[i].msg_hdr.msg_iov = &places[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (recvmmsg(socket, messages, 1, 0, NULL) < 1)
        return result;
    patience.tv_sec = idle_ms / 1000;
    patience.tv_usec = idle_ms % 1000 * 1000;
    setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    cpu = cr_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    began = ended = cr_now_ns();
    while ((count = recvmmsg(socket, messages, CR_LOAD_BATCH, MSG_WAITFORONE, NULL)) > 0) {
        result.packets += (uint64_t)count;
        ended = cr_now_ns();
    }
    result.cpu_ns = cr_clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
    result.lasted_ns = ended - began;
    return result;
}

#else

typedef struct {
    uint64_t packets;
    int64_t cpu_ns, lasted_ns;
} cr_bare_result;

static inline cr_load_result cr_load_send(const cr_load *l) { return (void)l, (cr_load_result){0, 0}; }
static inline uint64_t cr_load_flood(const cr_load *l, int64_t lasting_ns) { return (void)l, (void)lasting_ns, 0; }
static inline cr_bare_result cr_load_bare(int socket, int idle_ms)
{
    return (void)socket, (void)idle_ms, (cr_bare_result){0, 0, 0};
}

#endif
#endif
