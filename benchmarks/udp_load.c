/* The other end of bench_serve_media.py: RTP from thousands of sources, and the loop that nothing can beat.
 *
 *   udp_load send PORT STREAMS SECONDS CODES    each stream from a port of its own, a packet every 20 ms, SSRC 1 ... STREAMS;
 *                                               prints "ready" and the ports, then waits for a line
 *   udp_load flood PORT STREAMS SECONDS         the same as fast as it goes
 *   udp_load bare PORT                          recvmmsg and nothing else until nothing comes for a second; prints packets,
 *                                               the CPU seconds and the seconds that they took
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 64
#define PACKET 172
#define CODES_STREAMS 16
#define STEPS 20 /* the streams of one packet time go out in so many parts */

static int64_t now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int udp_socket(int port, int peer)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int s = socket(AF_INET, SOCK_DGRAM, 0), buffer = 64 << 20;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (s < 0 || bind(s, (struct sockaddr *)&a, sizeof a) < 0)
        return perror("socket"), exit(2), -1;
    if (!peer) {
        if (setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer) < 0)
            setsockopt(s, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    } else {
        a.sin_port = htons((uint16_t)peer);
        if (connect(s, (struct sockaddr *)&a, sizeof a) < 0)
            return perror("connect"), exit(2), -1;
    }
    return s;
}

static void put_header(uint8_t *p, uint32_t number, uint32_t ssrc)
{
    uint32_t words[2] = {htonl(number * 160), htonl(ssrc)};
    p[0] = 0x80;
    p[1] = 0;
    p[2] = (uint8_t)(number >> 8);
    p[3] = (uint8_t)number;
    memcpy(p + 4, words, 8);
}

static int bare(int port)
{
    static uint8_t slots[BATCH][2048];
    static struct mmsghdr messages[BATCH];
    static struct iovec places[BATCH];
    struct timeval patience = {1, 0};
    int s = udp_socket(port, 0), count;
    uint64_t packets = 0;
    int64_t cpu_ns, began_ns, ended_ns;
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    for (int i = 0; i < BATCH; i++) {
        places[i].iov_base = slots[i];
        places[i].iov_len = sizeof slots[i];
        messages[i].msg_hdr.msg_iov = &places[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    printf("ready\n");
    fflush(stdout);
    patience.tv_sec = 30;
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (recvmmsg(s, messages, 1, 0, NULL) < 1)
        return 1;
    patience.tv_sec = 1;
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    cpu_ns = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    began_ns = ended_ns = now_ns(CLOCK_MONOTONIC);
    while ((count = recvmmsg(s, messages, BATCH, MSG_WAITFORONE, NULL)) > 0) {
        packets += (uint64_t)count;
        ended_ns = now_ns(CLOCK_MONOTONIC);
    }
    printf("%llu %.6f %.6f\n", (unsigned long long)packets,
           1e-9 * (double)(now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns), 1e-9 * (double)(ended_ns - began_ns));
    return 0;
}

static int flood(int port, uint32_t streams, double seconds)
{
    int *sockets = malloc(streams * sizeof *sockets);
    uint8_t packet[PACKET] = {0};
    int64_t until;
    if (!sockets)
        return 2;
    for (uint32_t i = 0; i < streams; i++)
        sockets[i] = udp_socket(0, port);
    until = now_ns(CLOCK_MONOTONIC) + (int64_t)(seconds * 1e9);
    for (uint32_t number = 0; now_ns(CLOCK_MONOTONIC) < until; number++)
        for (uint32_t i = 0; i < streams; i++) {
            put_header(packet, number, i + 1);
            if (send(sockets[i], packet, PACKET, 0) < 0)
                return perror("send"), 2;
        }
    return 0;
}

static int send_streams(int port, uint32_t streams, double seconds, const char *path)
{
    int *sockets = malloc(streams * sizeof *sockets);
    FILE *file = fopen(path, "rb");
    uint8_t *codes;
    long size;
    uint32_t packets_each, rounds = (uint32_t)(seconds * 50);
    int64_t begin, worst = 0;
    uint64_t sent = 0, failed = 0;
    if (!file || !sockets || fseek(file, 0, SEEK_END) || (size = ftell(file)) <= 0 || fseek(file, 0, SEEK_SET))
        return perror(path), 2;
    codes = malloc((size_t)size);
    if (!codes || fread(codes, 1, (size_t)size, file) != (size_t)size)
        return perror(path), 2;
    packets_each = (uint32_t)(size / 160 / CODES_STREAMS);
    printf("ready");
    for (uint32_t i = 0; i < streams; i++) {
        struct sockaddr_in a;
        socklen_t length = sizeof a;
        sockets[i] = udp_socket(0, port);
        getsockname(sockets[i], (struct sockaddr *)&a, &length);
        printf(" %u", ntohs(a.sin_port));
    }
    printf("\n");
    fflush(stdout);
    if (getchar() == EOF)
        return 1;
    begin = now_ns(CLOCK_MONOTONIC);
    for (uint32_t round = 0; round < rounds; round++)
        for (uint32_t step = 0; step < STEPS; step++) {
            int64_t due = begin + round * INT64_C(20000000) + step * (INT64_C(20000000) / STEPS);
            struct timespec t = {due / 1000000000, due % 1000000000};
            int64_t late;
            while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
                ;
            late = now_ns(CLOCK_MONOTONIC) - due;
            worst = late > worst ? late : worst;
            for (uint32_t i = step; i < streams; i += STEPS) {
                uint8_t packet[PACKET];
                put_header(packet, round, i + 1);
                memcpy(packet + 12, codes + 160 * ((i % CODES_STREAMS) * packets_each + (round + i) % packets_each), 160);
                if (send(sockets[i], packet, PACKET, 0) == PACKET)
                    sent++;
                else
                    failed++;
            }
        }
    printf("%llu %llu %.3f %.6f\n", (unsigned long long)sent, (unsigned long long)failed, 1e-6 * (double)worst,
           1e-9 * (double)now_ns(CLOCK_PROCESS_CPUTIME_ID));
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "bare"))
        return bare(atoi(argv[2]));
    if (argc == 5 && !strcmp(argv[1], "flood"))
        return flood(atoi(argv[2]), (uint32_t)atoi(argv[3]), atof(argv[4]));
    if (argc == 6 && !strcmp(argv[1], "send"))
        return send_streams(atoi(argv[2]), (uint32_t)atoi(argv[3]), atof(argv[4]), argv[5]);
    return fprintf(stderr, "see the head of udp_load.c\n"), 2;
}
