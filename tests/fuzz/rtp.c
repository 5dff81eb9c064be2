/* RTP: datagrams into a track and a survey, reads in between, time running as it likes.
 *
 *   input   settings u8 | an action u8 with its arguments | an action ...          numbers little-endian
 *   action  0-191     datagram: wait i16 (125 us each), length u16, bytes           bit 6: force
 *           192-199   read up to where the track is ready
 *           200-207   read u16 samples          208-215  skip u16 samples
 *           216-223   hear, and preview         224-231  fetch digits and gaps
 *           232-239   time becomes i64          240-247  time goes on by u16 ms
 *           248-254   push u8 samples of host PCM, those of the settings' kind      255  finish
 *
 * Accepted: nothing; a wire fault is a count.
 */
#include "target.h"

/* What a track asks for while it works, until memory is short. */
static int memory_left; /* so many times; below 0: always */
static void *scarce_malloc(size_t size_bytes)
{
    if (memory_left == 0)
        return NULL;
    memory_left -= memory_left > 0;
    return malloc(size_bytes);
}
#define CR_MALLOC scarce_malloc

#include "callreel/survey.h"
#include "callreel/timeline.h"

#define MOST_SAMPLES 65535 /* read at a time */
#define HEAR_SAMPLES 4096  /* as in rtp.pyx */
#define HEAR_PATIENCE_MS 40

typedef struct {
    cr_track track;
    cr_page **pages;
    cr_survey survey;
    int64_t now_ns;
    int host_frames;
    uint64_t rtp_packets, read_samples;
} player;

static void check_counts(const player *p)
{
    const cr_track *t = &p->track;
    const cr_track_counts *c = &t->counts;
    FUZZ_CHECK(c->received <= p->rtp_packets);
    FUZZ_CHECK(c->duplicate + c->late + c->undecoded + c->discarded <= c->received);
    FUZZ_CHECK(cr_track_lost(t) >= 0);
    FUZZ_CHECK(c->concealed_samples + c->silence_samples <= p->read_samples);
    FUZZ_CHECK(t->segment_count <= t->segment_capacity && t->segment_capacity <= t->segment_limit);
    FUZZ_CHECK(t->event_count <= t->event_capacity && t->event_capacity <= CR_EVENTS);
    for (uint32_t i = 0; i + 1 < t->event_count; i++)
        FUZZ_CHECK(t->events[i].ended);
    FUZZ_CHECK(t->digit_count <= t->digit_capacity && t->digit_capacity <= CR_DIGITS);
    FUZZ_CHECK(t->gap_count <= t->gap_capacity && t->gap_capacity <= CR_GAPS);
    FUZZ_CHECK(t->ssrc_count <= CR_SSRCS);
    FUZZ_CHECK(fabs(t->drift.rate) <= CR_DRIFT_MAX_SLOPE); /* and so no NaN */
    FUZZ_CHECK(isfinite(cr_track_alignment_error(t)) && cr_track_alignment_error(t) >= 0);
    FUZZ_CHECK(cr_track_end_position(t) >= t->position);
    for (uint32_t i = 0; i < t->gap_count; i++)
        FUZZ_CHECK(t->gaps[i].samples > 0);
    for (uint32_t i = 0; i < t->digit_count; i++)
        FUZZ_CHECK(t->digits[i].code < 16);
}

static void check_survey(const cr_survey *s, uint64_t rtp_packets)
{
    uint64_t packets = 0;
    FUZZ_CHECK(s->run_count <= CR_SURVEY_RUNS && s->type_count <= CR_SURVEY_TYPES);
    for (uint32_t i = 0; i < s->run_count; i++) {
        const cr_survey_run *run = &s->runs[i];
        FUZZ_CHECK(run->duplicate + run->reordered + run->orderly < run->packets);
        FUZZ_CHECK(run->first_ns <= run->last_ns);
        FUZZ_CHECK(run->lost_before + cr_sequence_lost(&run->sequence) >= 0);
        packets += run->packets;
    }
    FUZZ_CHECK(packets == rtp_packets);
}

static void check_packet(const uint8_t *data, size_t size, uint64_t *rtp_packets)
{
    cr_rtp_packet packet;
    if (cr_datagram_classify(data, size) != CR_DATAGRAM_RTP || cr_rtp_parse(data, size, &packet) != CR_RTP_OK)
        return;
    ++*rtp_packets;
    FUZZ_CHECK(packet.payload_offset >= CR_RTP_HEADER_BYTES + 4u * packet.csrc_count);
    FUZZ_CHECK((size_t)packet.payload_offset + packet.payload_bytes + packet.padding_bytes == size);
    FUZZ_CHECK(packet.extension_offset + packet.extension_bytes <= packet.payload_offset);
}

static void datagram(player *p, fuzz_input *in, int force)
{
    int16_t wait = (int16_t)fuzz_u16(in);
    size_t size = fuzz_u16(in);
    uint8_t *data = fuzz_take(in, &size);
    uint64_t before = p->track.counts.received;
    uint64_t now_ns = (uint64_t)p->now_ns + (uint64_t)(wait * INT64_C(125000)); /* wraps, as a clock of 64 bits would */
    p->now_ns = (int64_t)now_ns;
    cr_survey_receive(&p->survey, data, size, p->now_ns, 0);
    check_packet(data, size, &p->rtp_packets);
    if (!p->host_frames) {
        enum cr_receive_result result = cr_track_receive(&p->track, data, size, p->now_ns, force);
        FUZZ_CHECK(result == CR_RECEIVED || (!force && p->track.counts.received == before));
    }
    free(data);
}

static void read_samples(player *p, int64_t until)
{
    int64_t count = until - p->track.position;
    int16_t *pcm;
    if (count <= 0)
        return;
    if (count > MOST_SAMPLES)
        count = MOST_SAMPLES;
    until = p->track.position + count;
    pcm = (int16_t *)fuzz_memory((size_t)count * sizeof *pcm);
    cr_track_read(&p->track, until, pcm);
    FUZZ_CHECK(p->track.position == until);
    p->read_samples += (uint64_t)count;
    free(pcm);
}

static void skip_samples(player *p, int64_t count)
{
    int64_t until = p->track.position + count;
    cr_track_read(&p->track, until, NULL);
    FUZZ_CHECK(p->track.position == until);
}

static void hear(player *p)
{
    int16_t *pcm = (int16_t *)fuzz_memory(HEAR_SAMPLES * sizeof *pcm);
    int64_t position;
    uint32_t samples;
    uint64_t heard = 0;
    while ((samples = cr_track_hear(&p->track, pcm, HEAR_SAMPLES, HEAR_PATIENCE_MS, &position)) > 0) {
        FUZZ_CHECK(samples <= HEAR_SAMPLES);
        heard += samples;
        FUZZ_CHECK(heard <= p->track.store.capacity);
    }
    free(pcm);
}

/* What may be read ahead of its time, and what has come by now: neither changes anything. */
static void preview(const player *p)
{
    const cr_track *t = &p->track;
    int64_t begin = t->position, complete = cr_track_complete(t), end = cr_track_end_position(t);
    int64_t until = end - begin < MOST_SAMPLES ? end + 1 : begin + MOST_SAMPLES;
    int16_t *pcm = (int16_t *)fuzz_memory((size_t)(until - begin) * sizeof *pcm);
    FUZZ_CHECK(complete >= begin && (complete == begin || complete <= end + CR_RETIME_TAPS));
    cr_track_preview(t, begin, until, pcm);
    FUZZ_CHECK(t->position == begin);
    free(pcm);
}

static void push(player *p, fuzz_input *in, size_t samples)
{
    size_t size = 2 * samples;
    uint8_t *pcm = fuzz_take(in, &size);
    if (p->host_frames && size / 2 > 0) {
        p->rtp_packets++;
        cr_track_push(&p->track, pcm, (uint32_t)(size / 2), p->now_ns, 0);
    }
    free(pcm);
}

static void act(player *p, fuzz_input *in)
{
    uint8_t action = fuzz_u8(in);
    cr_track *t = &p->track;
    switch (action < 192 ? 0 : action / 8) {
    case 0:
        datagram(p, in, action >> 6 & 1);
        break;
    case 192 / 8: {
        int64_t ready = cr_track_ready(t, p->now_ns);
        FUZZ_CHECK(ready <= cr_track_position_of(t, p->now_ns));
        if (ready - t->position > MOST_SAMPLES)
            skip_samples(p, ready - t->position - MOST_SAMPLES); /* after a jump of the clock nobody reads it all */
        read_samples(p, ready);
        break;
    }
    case 200 / 8:
        read_samples(p, t->position + fuzz_u16(in));
        break;
    case 208 / 8:
        skip_samples(p, fuzz_u16(in));
        break;
    case 216 / 8:
        hear(p);
        preview(p);
        break;
    case 224 / 8:
        check_counts(p);
        t->digit_count = t->gap_count = 0;
        break;
    case 232 / 8:
        p->now_ns = (int64_t)fuzz_u64(in);
        break;
    case 240 / 8:
        p->now_ns = (int64_t)((uint64_t)p->now_ns + fuzz_u16(in) * UINT64_C(1000000));
        break;
    default:
        if (action == 255)
            cr_track_finish(t);
        else
            push(p, in, fuzz_u8(in));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint32_t late_ms[4] = {1000, 0, 200, 10000}, capacity_ms[4] = {3600, 2000, 2203, 12000};
    fuzz_input in = {data, data + size};
    uint8_t settings = fuzz_u8(&in);
    player *p = (player *)calloc(1, sizeof *p);
    uint32_t rate = 8000, capacity, sample_bytes;
    static int ready;
    if (!p)
        abort();
    if (!ready) { /* as at import: the best this machine has */
        int isa = CR_ISA_COUNT - 1;
        while (!cr_cpu_has((cr_isa)isa))
            isa--;
        cr_timeline_use((cr_isa)isa);
        ready = 1;
    }
    p->host_frames = settings >> 3 & 1;
    sample_bytes = p->host_frames ? 2 : 1;
    if (p->host_frames && settings & 16)
        rate = 48000;
    capacity = capacity_ms[settings & 3] * (rate / 1000); /* as in rtp.pyx */
    memory_left = settings & 32 ? 40 : -1;
    p->pages = (cr_page **)fuzz_memory(cr_store_pages_for(capacity) * sizeof *p->pages);
    cr_track_init(&p->track, rate, 0, late_ms[settings & 3], capacity, sample_bytes, p->pages);
    p->track.render_events = settings >> 2 & 1;
    p->track.codec[0] = CR_CODEC_PCMU;
    p->track.codec[8] = CR_CODEC_PCMA;
    p->track.codec[13] = CR_CODEC_COMFORT_NOISE;
    p->track.codec[101] = CR_CODEC_TELEPHONE_EVENT;
    while (fuzz_left(&in)) {
        act(p, &in);
        check_counts(p);
    }
    cr_track_finish(&p->track);
    hear(p);
    read_samples(p, cr_track_end_position(&p->track));
    check_counts(p);
    check_survey(&p->survey, p->host_frames ? p->rtp_packets - p->track.counts.received : p->rtp_packets);
    cr_track_close(&p->track);
    free(p->pages);
    free(p);
    return 0;
}
