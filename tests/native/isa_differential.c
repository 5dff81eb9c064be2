/* Compares every version of the kernels of G.711, PCM, tones and the timeline that this machine has with the scalar one.
 *
 *     cc -std=c11 -O2 -ffp-contract=off -Inative/include tests/native/isa_differential.c -lm -o differential
 *     ./differential
 *
 * Every length from 0 to 300, at even and odd addresses, in place where that is allowed; every code and every sample
 * value of G.711, gain over every sample value, resampling from every phase; blocks, looks, gate and energies of tones
 * and noise at every rate that DTMF is found at, one to four at a time. Inputs end where an unreadable page begins, so a
 * read too far is a crash; outputs stand between bytes that must not change. Prints a line a level, ends with 1 at the
 * first difference.
 * Cross-compiled it serves for machines one does not have: aarch64-linux-gnu-gcc -static ..., qemu-aarch64-static.
 */
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "callreel/conceal.h"
#include "callreel/dtmf.h"
#include "callreel/g711.h"
#include "callreel/pcm.h"
#include "callreel/retime.h"

#define LENGTHS 301
#define TRACKS 9
#define MARK 0xA5

static long compared;
static uint32_t digest; /* of the digits found: the same however four.h was compiled */
static const char *level;

static void differs(const char *what, size_t length, size_t shift)
{
    printf("%s: %s differs from scalar at length %zu, address + %zu\n", level, what, length, shift);
    exit(1);
}

/* `size` bytes whose end is the end of readable memory; never given back. */
static uint8_t *before_a_wall(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (size + page - 1) / page * page;
    uint8_t *memory = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + room, page, PROT_NONE))
        exit(2);
    return memory + room - size;
}

static uint32_t state = 12345;

static uint32_t next_random(void)
{
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

/* Noise with both extremes, zero and -1 in it. */
static void fill(uint8_t *memory, size_t bytes)
{
    static const int16_t edges[] = {-32768, 32767, 0, -1, 1, -32767};
    for (size_t i = 0; i < bytes; i++)
        memory[i] = (uint8_t)next_random();
    for (size_t i = 0; i + 2 <= bytes; i += 2)
        if (next_random() % 8 == 0)
            cr_store_s16(memory + i, edges[next_random() % 6]);
}

/* An output: `size` bytes at an address `shift` past an even one, between marks. */
typedef struct {
    uint8_t memory[4 * LENGTHS + 130];
    uint8_t *start;
    size_t size;
} output;

static uint8_t *mark(output *out, size_t size, size_t shift)
{
    memset(out->memory, MARK, sizeof out->memory);
    out->start = out->memory + 64 + shift;
    out->size = size;
    return out->start;
}

static void compare(const char *what, const output *ours, const uint8_t *expected, size_t length, size_t shift)
{
    const uint8_t *end = ours->start + ours->size;
    for (const uint8_t *p = ours->memory; p < ours->start; p++)
        if (*p != MARK)
            differs(what, length, shift);
    for (const uint8_t *p = end; p < ours->memory + sizeof ours->memory; p++)
        if (*p != MARK)
            differs(what, length, shift);
    if (ours->size && memcmp(ours->start, expected, ours->size))
        differs(what, length, shift);
    compared++;
}

static void compare_g711(cr_g711_kernels ours, cr_g711_kernels scalar, const uint8_t *end, size_t n, size_t shift)
{
    static uint8_t expected[2 * LENGTHS];
    const char *const names[] = {"ulaw", "alaw"};
    const cr_law_decode_fn decode[2][2] = {{ours.ulaw_decode, scalar.ulaw_decode},
                                           {ours.alaw_decode, scalar.alaw_decode}};
    const cr_law_encode_fn encode[2][2] = {{ours.ulaw_encode, scalar.ulaw_encode},
                                           {ours.alaw_encode, scalar.alaw_encode}};
    output out;
    for (int law = 0; law < 2; law++) {
        decode[law][0](mark(&out, 2 * n, shift), end - n, n);
        decode[law][1](expected, end - n, n);
        compare(names[law], &out, expected, n, shift);
        encode[law][0](mark(&out, n, shift), end - 2 * n - shift, n);
        encode[law][1](expected, end - 2 * n - shift, n);
        compare(names[law], &out, expected, n, shift);
        memcpy(mark(&out, 2 * n, shift), end - 2 * n - shift, 2 * n);
        encode[law][0](out.start, out.start, n);
        memcpy(expected + n, end - n - shift, n); /* the second half of the input is still there */
        compare(names[law], &out, expected, n, shift);
    }
}

static void compare_pcm(cr_pcm_kernels ours, cr_pcm_kernels scalar, uint8_t *const *ends, size_t n, size_t shift)
{
    static const float multipliers[] = {1.0f, 0.5f, 1.4125375f, 0.001f, 1e10f, 1e-10f, 31.6f};
    static uint8_t expected[4 * LENGTHS], right_expected[2 * LENGTHS];
    const uint8_t *tracks[TRACKS];
    output out, right;
    cr_pcm_energy a, b;
    for (int t = 0; t < TRACKS; t++)
        tracks[t] = ends[t] - 2 * n - (t % 2 ? shift : 0);

    ours.interleave(mark(&out, 4 * n, shift), tracks[0], tracks[1], n);
    scalar.interleave(expected, tracks[0], tracks[1], n);
    compare("interleave", &out, expected, n, shift);
    for (unsigned channel = 0; channel < 2; channel++) {
        ours.pick_channel(mark(&out, n / 2 * 2, shift), tracks[1], n / 2, channel);
        scalar.pick_channel(expected, tracks[1], n / 2, channel);
        compare("pick_channel", &out, expected, n, shift);
    }
    ours.deinterleave(mark(&out, n / 2 * 2, shift), mark(&right, n / 2 * 2, shift), tracks[1], n / 2);
    scalar.deinterleave(expected, right_expected, tracks[1], n / 2);
    compare("deinterleave", &out, expected, n, shift);
    compare("deinterleave", &right, right_expected, n, shift);

    for (size_t count = 1; count <= TRACKS; count++) {
        scalar.mix(expected, tracks, count, n);
        ours.mix(mark(&out, 2 * n, shift), tracks, count, n);
        compare("mix", &out, expected, n, shift);
        memcpy(mark(&out, 2 * n, shift), tracks[count / 2], 2 * n);
        {
            const uint8_t *original = tracks[count / 2];
            tracks[count / 2] = out.start;
            if (count / 2 < count)
                ours.mix(out.start, tracks, count, n);
            tracks[count / 2] = original;
        }
        compare("mix in place", &out, expected, n, shift);
    }
    for (size_t m = 0; m < sizeof multipliers / sizeof *multipliers; m++) {
        scalar.gain(expected, tracks[1], n, multipliers[m]);
        ours.gain(mark(&out, 2 * n, shift), tracks[1], n, multipliers[m]);
        compare("gain", &out, expected, n, shift);
        memcpy(mark(&out, 2 * n, shift), tracks[1], 2 * n);
        ours.gain(out.start, out.start, n, multipliers[m]);
        compare("gain in place", &out, expected, n, shift);
    }
    a = ours.energy(tracks[1], n);
    b = scalar.energy(tracks[1], n);
    if (a.sum_of_squares != b.sum_of_squares || a.peak != b.peak)
        differs("energy", n, shift);
    compared++;
}

/* Sums that rounding would betray if they were added in another order, or fused. */
static void compare_weighted_sum(cr_pcm_kernels ours, cr_pcm_kernels scalar)
{
    float samples[LENGTHS], weights[LENGTHS];
    for (size_t shift = 0; shift < 4; shift++)
        for (size_t count = 0; count + shift < LENGTHS; count += 8) {
            float a, b;
            for (size_t i = 0; i < LENGTHS; i++) {
                samples[i] = (float)(int16_t)next_random();
                weights[i] = (float)(int32_t)next_random() * 1e-7f - 0.5f;
            }
            a = ours.weighted_sum(samples + shift, weights + shift, count);
            b = scalar.weighted_sum(samples + shift, weights + shift, count);
            if (memcmp(&a, &b, sizeof a))
                differs("weighted_sum", count, shift);
            compared++;
        }
}

/* From every phase on, at rates as they occur and far beyond, for every number of groups up to 40; loud noise, so that
 * sums saturate. */
static void compare_retime(cr_isa isa, uint8_t *end)
{
    static const int64_t steps[] = {
        0, 7, 3435974, -3435974, 68719477, -68719477, INT64_C(1) << 31, -(INT64_C(1) << 31)};
    const cr_retime_fn ours = cr_retime_for(isa);
    static int16_t expected[40 * CR_RETIME_GROUP];
    output out;
    for (uint32_t phase = 0; phase < CR_RETIME_PHASES; phase++) {
        int64_t place = ((int64_t)phase << CR_RETIME_PHASE_SHIFT) + next_random() % (1 << CR_RETIME_PHASE_SHIFT);
        int64_t step = steps[phase % 8];
        size_t groups = 1 + phase / 8 % 24, bytes = 2 * CR_RETIME_GROUP * groups;
        int64_t needed = (int64_t)(CR_RETIME_GROUP * groups) + CR_RETIME_TAPS - 1 +
                         cr_retime_whole(place + step * (int64_t)(groups - 1));
        const int16_t *samples = (const int16_t *)end - needed;
        ours((int16_t *)mark(&out, bytes, 0), samples, groups, place, step);
        cr_retime_scalar(expected, samples, groups, place, step);
        compare("retime", &out, (const uint8_t *)expected, groups, phase);
    }
}

/* Noise, tones, silence, full scale: at levels that are scaled by every amount. */
static void compare_pitch(cr_isa isa, uint8_t *end)
{
    const cr_pitch_fn ours = cr_pitch_period_for(isa);
    int16_t *samples = (int16_t *)end - CR_PITCH_SAMPLES;
    for (int round = 0; round < 3000; round++) {
        int period = CR_PITCH_MIN + round % 100, kind = round % 5, quieter = round / 5 % 17;
        for (int i = 0; i < CR_PITCH_SAMPLES; i++) {
            int noise = (int16_t)next_random(), value = noise;
            switch (kind) {
            case 1: value = i % period * 300 - 15000; break;
            case 2: value = i % period ? noise / 64 : 32767; break;
            case 3: value = i / (period / 2) % 2 ? 32767 : -32768; break;
            case 4: value = noise / 8 + (i % period < 9 ? 20000 : 0); break;
            }
            samples[i] = (int16_t)(value / (1 << quieter));
        }
        if (ours(samples) != cr_pitch_period_scalar(samples))
            differs("pitch", (size_t)round, (size_t)kind);
        compared++;
    }
}

static void compare_conceal(cr_isa isa)
{
    const cr_conceal_fn ours = cr_conceal_make_for(isa);
    static int16_t expected[CR_CONCEAL_BLOCK];
    cr_conceal c;
    output out;
    for (uint32_t round = 0; round < 3000; round++) {
        int32_t count;
        fill((uint8_t *)c.forward, sizeof c.forward);
        fill((uint8_t *)c.backward, sizeof c.backward);
        c.forward_period = CR_PITCH_MIN + next_random() % CR_PITCH_LAGS;
        c.backward_period = round % 2 ? CR_PITCH_MIN + next_random() % CR_PITCH_LAGS : 0;
        c.length = 1 + next_random() % CR_CONCEAL_MAX;
        c.done = next_random() % c.length;
        count = (int32_t)(c.length - c.done);
        count = count < CR_CONCEAL_BLOCK ? count : CR_CONCEAL_BLOCK;
        ours(&c, (int16_t *)mark(&out, 2 * (size_t)count, 0), count);
        cr_conceal_make_scalar(&c, expected, count);
        compare("conceal", &out, (const uint8_t *)expected, (size_t)count, round);
    }
}

/* Every value there is, in an order that puts each into every lane, and sums that do not fit 32 bits. */
static void compare_all_values(cr_isa isa)
{
    const cr_g711_kernels laws = cr_g711_kernels_for(isa), scalar_laws = cr_g711_kernels_for(CR_ISA_SCALAR);
    const cr_pcm_kernels pcm = cr_pcm_kernels_for(isa), scalar_pcm = cr_pcm_kernels_for(CR_ISA_SCALAR);
    const size_t samples = 65536 + 61;
    uint8_t *values = malloc(2 * samples), *ours = malloc(2 * samples), *expected = malloc(2 * samples);
    cr_pcm_energy a, b;
    if (!values || !ours || !expected)
        exit(2);
#define SAME(what, call, bytes)                                                                                       \
    do {                                                                                                              \
        scalar_##call(expected, values, samples);                                                                     \
        call(ours, values, samples);                                                                                  \
        if (memcmp(ours, expected, bytes))                                                                            \
            differs(what, samples, 0);                                                                                \
        compared++;                                                                                                   \
    } while (0)
    for (int shift = 0; shift < 64; shift++) {
        for (size_t i = 0; i < samples; i++)
            cr_store_s16(values + 2 * i, (int16_t)(uint16_t)(i + (size_t)shift));
        SAME("every value to µ-law", laws.ulaw_encode, samples);
        SAME("every value to A-law", laws.alaw_encode, samples);
        for (size_t i = 0; i < samples; i++)
            values[i] = (uint8_t)(i + (size_t)shift);
        SAME("every µ-law code", laws.ulaw_decode, 2 * samples);
        SAME("every A-law code", laws.alaw_decode, 2 * samples);
    }
#undef SAME
    for (size_t i = 0; i < samples; i++)
        cr_store_s16(values + 2 * i, (int16_t)(uint16_t)i);
    for (float multiplier = 1e-6f; multiplier < 1e6f; multiplier *= 1.37f) {
        scalar_pcm.gain(expected, values, samples, multiplier);
        pcm.gain(ours, values, samples, multiplier);
        if (memcmp(ours, expected, 2 * samples))
            differs("gain of every value", samples, 0);
        compared++;
    }
    for (size_t i = 0; i < samples; i++)
        cr_store_s16(values + 2 * i, -32768);
    a = pcm.energy(values, samples);
    b = scalar_pcm.energy(values, samples);
    if (a.sum_of_squares != b.sum_of_squares || a.peak != b.peak || a.sum_of_squares != (uint64_t)samples << 30)
        differs("energy of full scale", samples, 0);
    compared++;
    free(values);
    free(ours);
    free(expected);
}

/* Hops at the end of readable memory but for what a version may read beyond: silence, noise and a digit, at all levels
 * from full scale to next to nothing. */
static void fill_hops(int16_t *x, uint32_t samples, uint32_t rate, uint32_t turn)
{
    const double peak = 40000 / (double)(1u << turn % 9), low = 2 * CR_PI * cr_dtmf_hz[turn % 4] / rate;
    const double high = 2 * CR_PI * cr_dtmf_hz[4 + turn / 4 % 4] / rate;
    for (uint32_t i = 0; i < samples; i++) {
        double value = turn % 3 == 0 ? peak * (next_random() % 2001 / 1000.0 - 1)
                                     : peak / 2 * (sin(low * i) + sin(high * i)) + next_random() % 64 - 32;
        if (turn % 5 == 4 && i >= samples / 2)
            value = next_random() % 90 - 45.0;
        x[i] = (int16_t)(value > 32767 ? 32767 : value < -32768 ? -32768 : value);
    }
}

static void compare_tones_at(const cr_dtmf_version *ours, const cr_dtmf_version *scalar, uint32_t rate)
{
    const uint32_t hop = cr_dtmf_hop_samples(rate), samples = CR_TONE_MAX_TAPS + 8 + 5 * hop;
    int16_t *tables = calloc(cr_dtmf_plan_room(rate), sizeof *tables);
    int16_t *memory = (int16_t *)(void *)before_a_wall((samples + CR_TONE_SLACK) * sizeof *memory);
    const int16_t *first = memory + CR_TONE_MAX_TAPS + 8;
    cr_tone_block blocks[2][CR_TONE_ROWS];
    cr_tone_batch batch[2];
    cr_dtmf_plan plan;
    if (!tables)
        exit(2);
    cr_dtmf_plan_init(&plan, rate, scalar, tables);
    for (uint32_t turn = 0; turn < 180; turn++) {
        fill_hops(memory, samples, rate, turn);
        for (int part = 0; part < 2 * CR_TONE_LANES; part++)
            for (int row = 0; row < CR_TONE_ROWS; row++)
                blocks[0][row][part] = (float)(int32_t)(next_random() % 2000) * 1e-4f - 0.1f;
        memcpy(blocks[1], blocks[0], sizeof blocks[0]);
        for (int which = 0; which < 2; which++) {
            memset(&batch[which], 0, sizeof batch[which]);
            batch[which].first = first;
            batch[which].x = first + hop;
            batch[which].blocks = 1 + turn % 4;
            batch[which].limit = 48;
            batch[which].quiet_hops = turn % 7;
            for (int row = 0; row < CR_TONE_ROWS; row++)
                batch[which].rows[row] = blocks[which][row];
        }
        if (ours->batch(&plan.tones, &batch[0]) != scalar->batch(&plan.tones, &batch[1])
            || batch[0].quiet_hops != batch[1].quiet_hops || batch[0].silent != batch[1].silent
            || batch[0].unseen != batch[1].unseen || memcmp(blocks[0], blocks[1], sizeof blocks[0])
            || memcmp(batch[0].look, batch[1].look, batch[0].blocks * sizeof batch[0].look[0]))
            differs("tones", rate, turn);
        for (int kind = 0; kind < 2; kind++) {
            const cr_tone_energy a = ours->energy[kind](&plan.tones, first + turn % hop);
            const cr_tone_energy b = scalar->energy[kind](&plan.tones, first + turn % hop);
            if (a.whole != b.whole || a.rising != b.rising)
                differs(kind ? "energy above 670 Hz" : "energy of a hop", rate, turn);
        }
        compared += 3;
    }
    free(tables);
}

/* All sixteen digits in noise, once in packets and once in pieces of any size. */
static cr_dtmf_digits digits_of(const cr_dtmf_version *version, uint32_t rate, const int16_t *x, uint32_t samples)
{
    int16_t *tables = calloc(cr_dtmf_plan_room(rate), sizeof *tables), *raw;
    cr_dtmf_digits found = {NULL, 0, 0, 0};
    cr_dtmf_plan plan;
    cr_dtmf state;
    if (!tables)
        exit(2);
    cr_dtmf_plan_init(&plan, rate, version, tables);
    raw = calloc(cr_dtmf_raw_samples(&plan), sizeof *raw);
    if (!raw)
        exit(2);
    cr_dtmf_init(&state, &plan, raw);
    for (uint32_t at = 0, piece; at < samples; at += piece) {
        piece = at < samples / 2 ? rate / 50 : 1 + next_random() % 300;
        piece = piece < samples - at ? piece : samples - at;
        cr_dtmf_feed(&state, (const uint8_t *)(x + at), piece, &found);
    }
    cr_dtmf_flush(&state, &found);
    free(raw);
    free(tables);
    return found;
}

static void compare_digits(const cr_dtmf_version *ours, const cr_dtmf_version *scalar, uint32_t rate)
{
    const uint32_t one = rate / 10, samples = 16 * one;
    int16_t *x = malloc(samples * sizeof *x);
    cr_dtmf_digits a, b;
    if (!x)
        exit(2);
    for (uint32_t i = 0; i < samples; i++) {
        const double low = 2 * CR_PI * cr_dtmf_hz[i / one / 4] / rate;
        const double high = 2 * CR_PI * cr_dtmf_hz[4 + i / one % 4] / rate;
        const double tone = i % one < one * 6 / 10 ? 6000 * (sin(low * i) + 0.7 * sin(high * i * 1.004)) : 0;
        x[i] = (int16_t)(tone + next_random() % 2001 - 1000.0);
    }
    a = digits_of(ours, rate, x, samples);
    b = digits_of(scalar, rate, x, samples);
    if (b.count != 16 || a.count != b.count)
        differs("number of digits", rate, a.count);
    for (size_t i = 0; i < a.count; i++)
        if (a.items[i].symbol != b.items[i].symbol || a.items[i].start != b.items[i].start
            || a.items[i].duration != b.items[i].duration || a.items[i].level_dbm0 != b.items[i].level_dbm0
            || a.items[i].twist_db != b.items[i].twist_db)
            differs("digit", rate, i);
    for (size_t i = 0; i < a.count; i++) {
        const double values[] = {(double)a.items[i].start, (double)a.items[i].duration, a.items[i].level_dbm0,
                                 a.items[i].twist_db, (double)a.items[i].symbol};
        for (size_t byte = 0; byte < sizeof values; byte++)
            digest = (digest ^ ((const uint8_t *)values)[byte]) * 16777619u;
    }
    compared += (long)a.count;
    free(a.items);
    free(b.items);
    free(x);
}

static void compare_tones(cr_isa isa)
{
    static const uint32_t rates[] = {8000, 11025, 16000, 44100, 48000};
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++)
        compare_digits(cr_dtmf_version_for(isa), cr_dtmf_version_for(CR_ISA_SCALAR), rates[i]);
    for (uint32_t rate = CR_DTMF_MIN_RATE; rate <= CR_DTMF_MAX_RATE; rate += 800)
        compare_tones_at(cr_dtmf_version_for(isa), cr_dtmf_version_for(CR_ISA_SCALAR), rate);
}

int main(void)
{
    uint8_t *ends[TRACKS];
    cr_retime_init();
    for (int t = 0; t < TRACKS; t++) {
        ends[t] = before_a_wall(4 * LENGTHS) + 4 * LENGTHS;
        fill(ends[t] - 4 * LENGTHS, 4 * LENGTHS);
    }
    for (int isa = CR_ISA_SCALAR; isa < CR_ISA_COUNT; isa++) {
        if (!cr_cpu_has((cr_isa)isa))
            continue;
        level = cr_isa_name((cr_isa)isa);
        compared = 0;
        digest = 2166136261u;
        state = 12345;
        for (size_t n = 0; n < LENGTHS; n++)
            for (size_t shift = 0; shift < 2; shift++) {
                compare_g711(cr_g711_kernels_for((cr_isa)isa), cr_g711_kernels_for(CR_ISA_SCALAR), ends[0], n, shift);
                compare_pcm(cr_pcm_kernels_for((cr_isa)isa), cr_pcm_kernels_for(CR_ISA_SCALAR), ends, n, shift);
            }
        for (int round = 0; round < 100; round++)
            compare_weighted_sum(cr_pcm_kernels_for((cr_isa)isa), cr_pcm_kernels_for(CR_ISA_SCALAR));
        compare_all_values((cr_isa)isa);
        compare_retime((cr_isa)isa, ends[0]);
        compare_pitch((cr_isa)isa, ends[1]);
        compare_conceal((cr_isa)isa);
        compare_tones((cr_isa)isa);
        printf("%s: %ld comparisons, no difference, digits %08x\n", level, compared, (unsigned)digest);
    }
    return 0;
}
