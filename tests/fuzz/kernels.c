/* The differential target: every fast version of G.711, of PCM and of what a timeline does to its samples, against the
 * scalar one, which is the specification.
 *
 *   input   shift u8 | tracks u8 | multiplier f32, or place and step of resampling | samples
 *
 * Every version this machine has gets the same bytes at an address `shift` past an aligned one, in memory of exactly the
 * right size, and in place where that is allowed; every bit of the result must be the scalar one's.
 */
#include "target.h"

#include "callreel/conceal.h"
#include "callreel/cpu.h"
#include "callreel/g711.h"
#include "callreel/pcm.h"
#include "callreel/retime.h"

#define TRACKS 8

/* `size` bytes at an address `shift` past an aligned one; nothing may be written before or behind them. */
typedef struct {
    uint8_t *memory, *bytes;
    size_t shift;
} place;

static place place_of(const uint8_t *bytes, size_t size, size_t shift)
{
    place p = {fuzz_memory(shift + size), NULL, shift};
    p.bytes = p.memory + shift;
    memset(p.memory, 0xA5, shift);
    if (size)
        memcpy(p.bytes, bytes, size);
    return p;
}

static void same(place ours, place expected, size_t size)
{
    for (size_t i = 0; i < ours.shift; i++)
        FUZZ_CHECK(ours.memory[i] == 0xA5);
    FUZZ_CHECK(size == 0 || memcmp(ours.bytes, expected.bytes, size) == 0);
    free(ours.memory);
    free(expected.memory);
}

/* Two of them, for what a version makes and for what it should. */
typedef struct {
    place ours, expected;
} place_pair;

static place_pair places_of(size_t size, size_t shift)
{
    uint8_t *nothing = (uint8_t *)calloc(1, size + 1);
    place_pair pair;
    if (!nothing)
        abort();
    pair.ours = place_of(nothing, size, shift);
    pair.expected = place_of(nothing, size, shift);
    free(nothing);
    return pair;
}

static void compare_g711(const cr_g711_kernels *ours, const cr_g711_kernels *scalar, const uint8_t *data, size_t size,
                         size_t shift)
{
    const cr_law_decode_fn decode[2][2] = {{ours->ulaw_decode, scalar->ulaw_decode},
                                           {ours->alaw_decode, scalar->alaw_decode}};
    const cr_law_encode_fn encode[2][2] = {{ours->ulaw_encode, scalar->ulaw_encode},
                                           {ours->alaw_encode, scalar->alaw_encode}};
    size_t samples = size / 2;
    uint8_t *nothing = (uint8_t *)calloc(2, size + 1);
    place in = place_of(data, size, shift);
    if (!nothing)
        abort();
    for (int law = 0; law < 2; law++) {
        place a = place_of(nothing, 2 * size, shift), b = place_of(nothing, 2 * size, shift);
        decode[law][0](a.bytes, in.bytes, size);
        decode[law][1](b.bytes, in.bytes, size);
        same(a, b, 2 * size);
        a = place_of(nothing, samples, shift);
        b = place_of(nothing, samples, shift);
        encode[law][0](a.bytes, in.bytes, samples);
        encode[law][1](b.bytes, in.bytes, samples);
        same(a, b, samples);
        a = place_of(data, 2 * samples, shift); /* in place: the codes take the first half */
        b = place_of(data, 2 * samples, shift);
        encode[law][0](a.bytes, a.bytes, samples);
        encode[law][1](b.bytes, b.bytes, samples);
        same(a, b, 2 * samples);
    }
    free(in.memory);
    free(nothing);
}

static void compare_pcm(const cr_pcm_kernels *ours, const cr_pcm_kernels *scalar, const uint8_t *data, size_t size,
                        size_t shift, size_t track_count, float multiplier)
{
    size_t each = size / track_count / 2, samples = size / 2, frames = size / 4;
    uint8_t *nothing = (uint8_t *)calloc(1, size + 1);
    place in = place_of(data, 2 * samples, shift), a, b, c, d;
    const uint8_t *tracks[TRACKS];
    cr_pcm_energy energy = ours->energy(in.bytes, samples), expected = scalar->energy(in.bytes, samples);
    if (!nothing)
        abort();
    FUZZ_CHECK(energy.sum_of_squares == expected.sum_of_squares && energy.peak == expected.peak);

    a = place_of(nothing, 4 * frames, shift);
    b = place_of(nothing, 4 * frames, shift);
    ours->interleave(a.bytes, in.bytes, in.bytes + 2 * frames, frames);
    scalar->interleave(b.bytes, in.bytes, in.bytes + 2 * frames, frames);
    same(a, b, 4 * frames);
    for (unsigned channel = 0; channel < 2; channel++) {
        a = place_of(nothing, 2 * frames, shift);
        b = place_of(nothing, 2 * frames, shift);
        ours->pick_channel(a.bytes, in.bytes, frames, channel);
        scalar->pick_channel(b.bytes, in.bytes, frames, channel);
        same(a, b, 2 * frames);
    }
    a = place_of(nothing, 2 * frames, shift);
    b = place_of(nothing, 2 * frames, shift);
    c = place_of(nothing, 2 * frames, 0);
    d = place_of(nothing, 2 * frames, 0);
    ours->deinterleave(a.bytes, c.bytes, in.bytes, frames);
    scalar->deinterleave(b.bytes, d.bytes, in.bytes, frames);
    same(a, b, 2 * frames);
    same(c, d, 2 * frames);

    for (size_t i = 0; i < track_count; i++)
        tracks[i] = in.bytes + 2 * each * i;
    a = place_of(nothing, 2 * each, shift);
    b = place_of(nothing, 2 * each, shift);
    ours->mix(a.bytes, tracks, track_count, each);
    scalar->mix(b.bytes, tracks, track_count, each);
    same(a, b, 2 * each);
    a = place_of(data, 2 * each, shift);
    b = place_of(data, 2 * each, shift);
    tracks[0] = a.bytes; /* in place */
    ours->mix(a.bytes, tracks, track_count, each);
    tracks[0] = b.bytes;
    scalar->mix(b.bytes, tracks, track_count, each);
    same(a, b, 2 * each);

    a = place_of(nothing, 2 * samples, shift);
    b = place_of(nothing, 2 * samples, shift);
    ours->gain(a.bytes, in.bytes, samples, multiplier);
    scalar->gain(b.bytes, in.bytes, samples, multiplier);
    same(a, b, 2 * samples);
    a = place_of(data, 2 * samples, shift);
    b = place_of(data, 2 * samples, shift);
    ours->gain(a.bytes, a.bytes, samples, multiplier);
    scalar->gain(b.bytes, b.bytes, samples, multiplier);
    same(a, b, 2 * samples);
    free(in.memory);
    free(nothing);
}

/* Sums in the order that is specified: only of finite values as samples and filters are, multiples of 8 of them. */
static void compare_weighted_sum(const cr_pcm_kernels *ours, const cr_pcm_kernels *scalar, const uint8_t *data, size_t size)
{
    size_t count = size / 4 / 8 * 8;
    float *samples = (float *)fuzz_memory(count * sizeof *samples);
    float *weights = (float *)fuzz_memory(count * sizeof *weights);
    float a, b;
    for (size_t i = 0; i < count; i++) {
        samples[i] = (float)cr_load_s16(data + 4 * i);
        weights[i] = (float)cr_load_s16(data + 4 * i + 2) / 32768;
    }
    a = ours->weighted_sum(samples, weights, count);
    b = scalar->weighted_sum(samples, weights, count);
    FUZZ_CHECK(memcmp(&a, &b, sizeof a) == 0);
    free(samples);
    free(weights);
}

/* Groups that stand up to half a sample farther apart, or nearer, than they are numbered; a drift is far less. */
static void compare_retime(cr_retime_fn ours, const uint8_t *data, size_t size, size_t shift, uint32_t bits)
{
    const int64_t first = bits, step = (int32_t)(bits * 2654435761u);
    size_t groups = 0, samples = size / 2, needed = 0, more;
    place_pair out;
    place in;
    while ((more = CR_RETIME_GROUP * groups + (size_t)cr_retime_whole(first + step * (int64_t)groups) +
                   CR_RETIME_GROUP + CR_RETIME_TAPS - 1) <= samples) {
        needed = more;
        groups++;
    }
    in = place_of(data, 2 * needed, shift);
    out = places_of(2 * CR_RETIME_GROUP * groups, shift);
    ours((int16_t *)out.ours.bytes, (const int16_t *)in.bytes, groups, first, step);
    cr_retime_scalar((int16_t *)out.expected.bytes, (const int16_t *)in.bytes, groups, first, step);
    same(out.ours, out.expected, 2 * CR_RETIME_GROUP * groups);
    free(in.memory);
}

/* The pitch of the samples, and of the same turned down, where the fast versions scale otherwise. */
static void compare_pitch(cr_pitch_fn ours, const uint8_t *data, size_t size, size_t shift)
{
    place in;
    if (size < 2 * CR_PITCH_SAMPLES)
        return;
    in = place_of(data, 2 * CR_PITCH_SAMPLES, shift);
    for (int turn = 0; turn < 2; turn++) {
        int16_t *samples = (int16_t *)in.bytes;
        uint32_t lag = ours(samples);
        FUZZ_CHECK(lag == cr_pitch_period_scalar(samples) && lag >= CR_PITCH_MIN && lag <= CR_PITCH_MAX);
        for (int i = 0; i < CR_PITCH_SAMPLES; i++)
            samples[i] = (int16_t)(samples[i] / 64);
    }
    free(in.memory);
}

static void compare_conceal(cr_conceal_fn ours, const uint8_t *data, size_t size, size_t shift, uint32_t bits)
{
    cr_conceal c;
    place_pair out;
    int32_t count;
    if (size < sizeof c.forward + sizeof c.backward)
        return;
    memcpy(c.forward, data, sizeof c.forward);
    memcpy(c.backward, data + sizeof c.forward, sizeof c.backward);
    c.forward_period = CR_PITCH_MIN + bits % CR_PITCH_LAGS;
    c.backward_period = bits >> 31 ? CR_PITCH_MIN + (bits >> 8) % CR_PITCH_LAGS : 0;
    c.length = 1 + (bits >> 16) % CR_CONCEAL_MAX;
    c.done = (bits >> 4) % c.length;
    count = (int32_t)(c.length - c.done < CR_CONCEAL_BLOCK ? c.length - c.done : CR_CONCEAL_BLOCK);
    out = places_of(2 * (size_t)count, shift);
    ours(&c, (int16_t *)out.ours.bytes, count);
    cr_conceal_make_scalar(&c, (int16_t *)out.expected.bytes, count);
    same(out.ours, out.expected, 2 * (size_t)count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const cr_g711_kernels scalar_laws = cr_g711_kernels_for(CR_ISA_SCALAR);
    const cr_pcm_kernels scalar_pcm = cr_pcm_kernels_for(CR_ISA_SCALAR);
    fuzz_input in = {data, data + size};
    size_t shift = fuzz_u8(&in) % 64, track_count = fuzz_u8(&in) % TRACKS + 1;
    uint32_t bits = fuzz_u16(&in);
    float multiplier;
    bits |= (uint32_t)fuzz_u16(&in) << 16;
    memcpy(&multiplier, &bits, sizeof multiplier);
    if (cr_retime_taps[0][CR_RETIME_BEFORE] == 0)
        cr_retime_init();
    if (!(multiplier >= 0 && multiplier <= 1e30f)) /* what 10^(dB/20) gives; gain() refuses other dB */
        multiplier = 0.5f;
    for (int isa = CR_ISA_SCALAR + 1; isa < CR_ISA_COUNT; isa++) {
        if (cr_cpu_has((cr_isa)isa)) {
            const cr_g711_kernels laws = cr_g711_kernels_for((cr_isa)isa);
            const cr_pcm_kernels pcm = cr_pcm_kernels_for((cr_isa)isa);
            compare_g711(&laws, &scalar_laws, in.next, fuzz_left(&in), shift);
            compare_pcm(&pcm, &scalar_pcm, in.next, fuzz_left(&in), shift, track_count, multiplier);
            compare_weighted_sum(&pcm, &scalar_pcm, in.next, fuzz_left(&in));
            compare_retime(cr_retime_for((cr_isa)isa), in.next, fuzz_left(&in), shift & ~(size_t)1, bits);
            compare_pitch(cr_pitch_period_for((cr_isa)isa), in.next, fuzz_left(&in), shift & ~(size_t)1);
            compare_conceal(cr_conceal_make_for((cr_isa)isa), in.next, fuzz_left(&in), shift & ~(size_t)1, bits);
        }
    }
    return 0;
}
