/* DTMF digits in PCM audio.
 *
 * What: signed 16-bit PCM of one channel at 8000 to 48000 Hz -> digits with start, duration, level and twist. Fed
 *       in any pieces; every result is a function of the samples fed, never of how they were cut.
 *
 * Requirements (ITU-T Q.23 for senders; Q.24 with Annex A for receivers, the strictest administration where they
 * differ), each a test in tests/native/test_dtmf.py:
 *    1. sixteen symbols; low group 697 770 852 941 Hz, high group 1209 1336 1477 1633 Hz
 *    2. frequency: within 1.5 % accepted, 3.5 % off or more rejected
 *    3. level: 0 to -36 dBm0 a component accepted, below -42 dBm0 rejected
 *    4. twist (high less low group): -8 to +4 dB accepted, below -11 and above +7 dB rejected
 *    5. duration: 40 ms accepted, 23 ms rejected
 *    6. pause: 40 ms separates two equal digits, an interruption of 10 ms does not
 *    7. white noise 15 dB below the digit; dial and progress tones; G.711 coding; clipping
 *    8. speech and music give next to no digits ("talk-off")
 *    9. start within 10 ms, duration within 15 ms; a digit is known 60 ms after its first 40 ms at the latest
 *
 * How: blocks of 5 ms as goertzel.h makes them, each with soft edges that reach into its neighbours. Everything below
 * happens once a block:
 *
 *   samples   |----|----|----|----|----|----|----|----|   a block: Z at eight frequencies; its energy, when asked for
 *   look                     /------ 20 ms ------\        which symbol is it, if any
 *   mark                               /- 10 ms -\        is the tone there: finds both edges
 *   clarity   /---------------- 35 ms -----------\        is it two steady tones and little else
 *
 *   gate     Looks at the nominal frequencies: in each group one must be loud enough and stand out. Fast, in versions
 *            for instruction sets, four blocks at a time (goertzel.h); speech and noise seldom pass, silence does not
 *            get so far.
 *   look     The strongest low and the strongest high frequency of the window. How far the phase turned since the
 *            window one block earlier gives each component's true frequency, unambiguous to 100 Hz. Blocks are then
 *            summed at that frequency, so a mistuned sender loses nothing; the share is the part of the energy that
 *            the two components hold: of all energy, which a clean digit passes at once, else of that above 670 Hz,
 *            which costs ten times as much. Once a digit is accepted, looks only see whether it is still the same.
 *   mark     Power of the fainter component, relative to its reference, over the newest two blocks. Its amplitude falls
 *            in nearly a straight line while an edge passes, and is 1/2 (its power 1/4) when the edge is in the middle:
 *            interpolating between blocks gives the moment.
 *   clarity  Best share over any 35 ms of the tone, at the tone's mean frequencies. Noise costs what it weighs. Speech
 *            has energy elsewhere and glides, so that 35 ms of it do not add up. A share that could not make a digit is
 *            given up as soon as that is known.
 *   sway     How much the ratio of the two components differs between looks. A sender keeps it, and an edge lowers
 *            both alike; two harmonics of a voice move each for itself.
 *
 *   Acceptance (`cr_dtmf_is_digit`): long enough, inside the limits, and the clearer and steadier the further from
 *   nominal. What is exact may be noisy; what is 1.5 % off or twisted by 8 dB must be clean. Speech that meets two of
 *   the eight frequencies rarely meets them exactly, evenly and clearly at once. What follows a digit at once with
 *   the same symbol, 10 dB fainter, is its echo.
 *
 *   Following a tone (`cr_dtmf_next`):
 *
 *      state \ event   TONE   HOLDS   BREAKS   ENDS      TONE    look saw a symbol
 *      NONE            ON     NONE    NONE     NONE      HOLDS   mark >= 1/4
 *      ON              ON     ON      GAP      NONE *    BREAKS  mark < 1/4, for less than 20 ms
 *      GAP             GAP    ON      GAP      NONE *    ENDS    mark < 1/4 for 20 ms, or another symbol has come
 *
 *      * reports the digit if it was accepted. TONE counts only in NONE. When a tone ENDS, the block may start the
 *        next one at once. 20 ms lies midway between the interruption of 10 ms to be bridged and the shortest pause
 *        that any administration of Q.24 asks for (30 ms).
 */
#ifndef CALLREEL_DTMF_H
#define CALLREEL_DTMF_H

#include <stdlib.h>

#include "callreel/four.h"
#include "callreel/goertzel.h"

#define CR_DTMF_MIN_RATE 8000
#define CR_DTMF_MAX_RATE 48000
#define CR_DTMF_BLOCK_RATE 200   /* blocks a second */
#define CR_DTMF_MARK_BLOCKS 2    /* 10 ms */
#define CR_DTMF_CLARITY_BLOCKS 7 /* 35 ms: blocks whose sum, but for its soft edges, lies inside any 40 ms */
#define CR_DTMF_HISTORY 16       /* blocks kept; a power of two; a start is looked for in 15 of them */
#define CR_DTMF_SEARCH_BLOCKS 6  /* blocks after the first look in which the start is still refined */
#define CR_DTMF_RETREAT_BLOCKS 8 /* a start lies at most this far before the first look that saw the tone */

/* Limits, between what must be accepted and what must be rejected; nearer to the former against talk-off. */
#define CR_DTMF_MIN_MS 32.0               /* Q.24: 40 accepted, 23 rejected */
#define CR_DTMF_NEARLY_MS 27.0            /* a block before that: no clarity and no start are needed sooner */
#define CR_DTMF_GAP_MS 20.0               /* Q.24: see the state table */
#define CR_DTMF_MIN_LEVEL_DBM0 -38.5      /* a component; -36 accepted, -42 rejected */
#define CR_DTMF_MAX_TWIST 3.35f           /* of powers, 5.25 dB: +4 accepted, +7 rejected */
#define CR_DTMF_MIN_TWIST 0.1333f         /* -8.75 dB: -8 accepted, -11 rejected */
#define CR_DTMF_MAX_OFFSET 0.018f         /* 1.5 % (with 2 Hz more, 1.8 %) accepted, 3.5 % rejected */
/* How clear a digit must be, by how far it strays from nominal; the three distances add up as squares. */
#define CR_DTMF_STRAY_OFFSET 0.012f       /* a frequency offset that is a distance of 1 */
#define CR_DTMF_STRAY_TWIST_DB 6.0f       /* a twist that is */
#define CR_DTMF_NOMINAL_CLARITY 0.72f     /* at distance 0: 4.1 dB above white noise */
#define CR_DTMF_STRAY_CLARITY 0.22f       /* more at distance 1 and beyond: 0.94, 11.9 dB above noise */
#define CR_DTMF_NOMINAL_SWAY 3.0f         /* the ratio of its powers may differ so much between looks, at distance 0 */
#define CR_DTMF_STRAY_SWAY -1.4f          /* more at distance 1 and beyond: 1.6 */
#define CR_DTMF_LONG_CLARITY 0.2f         /* less is asked of a digit that lasts ... */
#define CR_DTMF_LONG_LOOKS 20             /* ... for this many looks, about 100 ms, ... */
#define CR_DTMF_LONG_STRAY 0.2f           /* ... nearer than this */
#define CR_DTMF_ECHO 0.1f                 /* power, to that of the digit before */
#define CR_DTMF_MIN_SEEN 0.8              /* of the blocks of a digit, so many looks must have seen it */
/* A single look only decides whether to follow a tone, so its limits are wider. */
#define CR_DTMF_LOOK_SHARE 0.45f
#define CR_DTMF_LOOK_OFFSET 0.03f         /* a turn of at most 88 degrees */
#define CR_DTMF_LOOK_MAX_RATIO 6.3f       /* high to low power: +8 dB */
#define CR_DTMF_LOOK_MIN_RATIO 0.063f     /* -12 dB */
#define CR_DTMF_MIN_LOOKS 3
#define CR_DTMF_REFERENCE_LOOKS 16        /* the reference level follows the tone with this memory */
#define CR_DTMF_LOUDER 1.25f              /* power of a look, to the reference: starts it anew */
#define CR_DTMF_FAINTER 0.8f              /* ... is an edge */
#define CR_DTMF_FULL_SCALE_DBM0 3.14      /* a sine of peak 32768, as A-law has it (G.711) */
/* What costs next to nothing comes first: most blocks of speech and noise get no further. */
#define CR_DTMF_QUIET_PEAK 48             /* a block whose every sample is below counts as silence: -54 dBm0 */
#define CR_DTMF_GATE_LEVEL 2.0f           /* of 16 for a sum of four blocks: half the power, and 6 dB for the offset */
#define CR_DTMF_NEVER 2.0f                /* nothing is so clear */
#define CR_DTMF_LEAST_CLARITY 0.52f       /* less is never enough */
#define CR_DTMF_FILTER_HELPS 1.04f        /* nothing is gained where the components are all there is, to 4 % */
#define CR_DTMF_EDGE 0.25f                /* power of a mark at an edge: half the amplitude */

enum { CR_DTMF_NONE, CR_DTMF_ON, CR_DTMF_GAP };
enum { CR_DTMF_TONE, CR_DTMF_HOLDS, CR_DTMF_BREAKS, CR_DTMF_ENDS };

static const uint8_t cr_dtmf_next[3][4] = {
    /*             TONE         HOLDS         BREAKS        ENDS         */
    /* NONE */ {CR_DTMF_ON,  CR_DTMF_NONE, CR_DTMF_NONE, CR_DTMF_NONE},
    /* ON   */ {CR_DTMF_ON,  CR_DTMF_ON,   CR_DTMF_GAP,  CR_DTMF_NONE},
    /* GAP  */ {CR_DTMF_GAP, CR_DTMF_ON,   CR_DTMF_GAP,  CR_DTMF_NONE},
};

static const double cr_dtmf_hz[CR_TONE_LANES] = {697, 770, 852, 941, 1209, 1336, 1477, 1633}; /* Q.23 */
static const char cr_dtmf_symbols[] = "123A456B789C*0#D"; /* row by row: low group, then high group */

typedef struct {
    int64_t start, duration; /* samples since the first feed */
    size_t channel;          /* 0, or for a bank to say */
    double level_dbm0;       /* mean of the two components' levels */
    double twist_db;         /* level of the high group less that of the low group */
    char symbol;
} cr_dtmf_digit;

typedef struct {
    cr_dtmf_digit *items; /* malloc'd; grows with the digits found */
    size_t count, room;
    int out_of_memory; /* a digit was lost for want of memory */
} cr_dtmf_digits;

/* How to sum blocks at two frequencies: each a lane's nominal one plus a turn. Real and imaginary parts lie as in a
 * block: low group, then high group (four.h). */
typedef struct {
    float re[4], im[4]; /* turn of a block, in all, of magnitude 1: cos and cos, -sin and sin */
    float undo[2];      /* the loss of power inside a block that turned away */
} cr_dtmf_spin;

/* One look at the newest four blocks. Index 0 is the low group, 1 the high group; powers are squared amplitudes. */
typedef struct {
    int lane[2];
    float power[2];
    float turn_re[2], turn_im[2]; /* turn in one block beyond that of the nominal frequency, times power */
    cr_dtmf_spin spin;            /* at these turns; of a digit not yet accepted */
} cr_dtmf_look;

/* The tone being followed. Times are in samples since `origin`. */
typedef struct {
    int lane[2];
    int looks, rivals, settled; /* looks: that saw it; in a row that saw another; in the reference */
    uint8_t accepted;
    uint8_t searched;           /* the start was refined */
    uint8_t averaged, found;    /* the spin is that of the present sums; the start, that of spin and reference */
    int64_t first_block;        /* newest block of the first look that saw it */
    float reference[2];         /* power of a look that lies wholly inside */
    float power[2], turn_re[2], turn_im[2]; /* sums over such looks */
    cr_dtmf_spin spin;          /* at the mean turn */
    float least_ratio, most_ratio; /* high to low power among them */
    float mark_scale[2];        /* of power, to the reference, over two blocks at the spin */
    float clarity, asked, mark;    /* asked: how clear it must be, as far as `averaged` */
    double start, fall; /* fall: where it broke off, in GAP */
} cr_dtmf_tone;

struct cr_dtmf_version;

/* All that channels of one rate share. */
typedef struct {
    uint32_t rate;
    float min_power;
    double nearly, shortest, gap;           /* samples */
    float offset_per_radian[CR_TONE_LANES]; /* relative frequency offset per radian of turn */
    float most_turn[CR_TONE_LANES];         /* tangent of the turn that a look takes part in */
    const struct cr_dtmf_version *version;
    cr_tone_plan tones;
} cr_dtmf_plan;

/* What every packet needs comes first, in one line of the cache. */
typedef struct {
    const cr_dtmf_plan *plan;
    int16_t *raw;           /* cr_dtmf_raw_samples(): those that may still be needed, then those that come */
    uint32_t fill, next;    /* samples in `raw`; where in it the hop of the next block starts */
    uint32_t quiet_hops;    /* in a row up to there */
    int state;
    int64_t origin, blocks; /* samples fed before block 0; blocks closed since */
    double last_end;        /* end of the last digit reported */
    float last_power;       /* of both its components */
    uint16_t known[2];      /* bit of a slot: the energy of its hop was computed; as in `energy` */
    cr_tone_block z[CR_DTMF_HISTORY];
    cr_dtmf_tone tone;
    int last_lane[2];       /* of the last digit reported */
    float energy[2][CR_DTMF_HISTORY][2]; /* plain and filtered, of the hop: whole and under the rising window */
} cr_dtmf;

/* A version for an instruction set. All give the same. */
typedef struct cr_dtmf_version {
    cr_isa isa;
    uint32_t (*batch)(const cr_tone_plan *plan, cr_tone_batch *batch);
    cr_tone_energy (*energy[2])(const cr_tone_plan *plan, const int16_t *x); /* plain, filtered */
} cr_dtmf_version;

enum { CR_DTMF_PLAIN, CR_DTMF_FILTERED };

/* ---- set-up ---- */

static uint32_t cr_dtmf_hop_samples(uint32_t rate) { return (rate + CR_DTMF_BLOCK_RATE / 2) / CR_DTMF_BLOCK_RATE; }

static size_t cr_dtmf_plan_room(uint32_t rate) { return cr_tone_plan_room(cr_dtmf_hop_samples(rate)); }

/* `memory` belongs to the caller: cr_dtmf_plan_room() int16, all zero. */
static void cr_dtmf_plan_init(cr_dtmf_plan *plan, uint32_t rate, const cr_dtmf_version *version, int16_t *memory)
{
    plan->rate = rate;
    plan->version = version;
    plan->nearly = CR_DTMF_NEARLY_MS * rate / 1000;
    plan->shortest = CR_DTMF_MIN_MS * rate / 1000;
    plan->gap = CR_DTMF_GAP_MS * rate / 1000;
    plan->min_power = (float)pow(10, (CR_DTMF_MIN_LEVEL_DBM0 - CR_DTMF_FULL_SCALE_DBM0) / 10);
    cr_tone_plan_init(&plan->tones, cr_dtmf_hz, rate, cr_dtmf_hop_samples(rate), CR_DTMF_GATE_LEVEL * plan->min_power,
                      memory);
    for (int lane = 0; lane < CR_TONE_LANES; lane++) {
        double angle = 2 * CR_PI * cr_dtmf_hz[lane] / rate * plan->tones.hop;
        plan->offset_per_radian[lane] = (float)(1 / angle);
        plan->most_turn[lane] = (float)tan(CR_DTMF_LOOK_OFFSET * angle); /* below 90 degrees for every lane */
    }
}

/* Samples before the next hop that must stay: the hops of a clarity, and the reach of the filter before them. Whole
 * lines of the cache, so that packets of 20 ms are too. */
static uint32_t cr_dtmf_kept_samples(const cr_dtmf_plan *plan)
{
    return ((CR_DTMF_CLARITY_BLOCKS + 1) * plan->tones.hop + plan->tones.taps + 31) & ~31u;
}

static uint32_t cr_dtmf_raw_samples(const cr_dtmf_plan *plan)
{
    return cr_dtmf_kept_samples(plan) + 16 * plan->tones.hop /* moved down once in 80 ms */
           + CR_TONE_SLACK;
}

/* `raw` belongs to the caller and holds cr_dtmf_raw_samples(). */
static void cr_dtmf_init(cr_dtmf *d, const cr_dtmf_plan *plan, int16_t *raw)
{
    memset(d, 0, sizeof *d);
    d->plan = plan;
    d->raw = raw;
    d->fill = d->next = cr_dtmf_kept_samples(plan);
    d->quiet_hops = CR_TONE_QUIET_HOPS;
    memset(raw, 0, d->fill * sizeof *raw);
}

/* Samples fed so far. */
static int64_t cr_dtmf_position(const cr_dtmf *d)
{
    return d->origin + d->blocks * d->plan->tones.hop + (d->fill - d->next);
}

/* ---- measuring ---- */

static int cr_dtmf_slot(int64_t block) { return (int)((uint64_t)block % CR_DTMF_HISTORY); }

static const cr_dtmf_version cr_dtmf_versions[] = {
    {CR_ISA_SCALAR, cr_tone_batch_scalar, {cr_tone_energy_scalar, cr_tone_filtered_scalar}},
#ifdef CR_HAVE_X86
    {CR_ISA_SSE2, cr_tone_batch_sse2, {cr_tone_energy_sse2, cr_tone_filtered_sse2}},
    {CR_ISA_AVX2, cr_tone_batch_avx2, {cr_tone_energy_avx2, cr_tone_filtered_avx2}},
    {CR_ISA_AVX512, cr_tone_batch_avx512, {cr_tone_energy_avx2, cr_tone_filtered_avx512}},
#endif
#ifdef CR_HAVE_NEON
    {CR_ISA_NEON, cr_tone_batch_neon, {cr_tone_energy_neon, cr_tone_filtered_neon}},
#endif
};

/* The version to run where `isa` is in use: its own, or the next simpler one. AVX-512 needs VNNI here. */
static const cr_dtmf_version *cr_dtmf_version_for(cr_isa isa)
{
    const cr_dtmf_version *found = cr_dtmf_versions;
    for (size_t i = 0; i < sizeof cr_dtmf_versions / sizeof *cr_dtmf_versions && cr_dtmf_versions[i].isa <= isa; i++)
        if (cr_dtmf_versions[i].isa != CR_ISA_AVX512 || cr_cpu_has_vnni())
            found = &cr_dtmf_versions[i];
    return found;
}

/* Both of a lane each, of a block or of a table that is laid out like one. */
CR_FORCE_INLINE cr_four cr_dtmf_both(const float *block, const int *lane)
{
    return cr_four_join(block + 2 * lane[0], block + 2 * lane[1]);
}

/* Energy of a hop, computed when first asked for: whole, and under the rising window. */
CR_FORCE_INLINE const float *cr_dtmf_energy(cr_dtmf *d, int kind, int64_t hop)
{
    const int slot = cr_dtmf_slot(hop);
    float *known = d->energy[kind][slot];
    if (!(d->known[kind] >> slot & 1)) {
        const cr_tone_plan *tones = &d->plan->tones;
        const int16_t *x = d->raw + d->next - (size_t)(d->blocks - hop) * tones->hop;
        const cr_tone_energy energy = d->plan->version->energy[kind](tones, x);
        d->known[kind] |= (uint16_t)(1u << slot);
        /* Signed: every machine converts that in one instruction. Both are below 2^38. */
        known[0] = (float)(int64_t)energy.whole * tones->power;
        known[1] = (float)(int64_t)energy.rising * tones->power;
    }
    return known;
}

/* Energy in the `count` newest blocks; more than `most` once that is sure. The newest hop falls, the oldest rises. */
static float cr_dtmf_energy_of(cr_dtmf *d, int kind, int count, float most)
{
    const int64_t newest = d->blocks - 1;
    const float *hop = cr_dtmf_energy(d, kind, newest);
    float energy = hop[0] - hop[1];
    for (int64_t at = newest - 1; at > newest - count; at--) {
        if (energy > most)
            return energy;
        energy += cr_dtmf_energy(d, kind, at)[0];
    }
    return energy > most ? energy : energy + cr_dtmf_energy(d, kind, newest - count)[1];
}

/* Which part two components of these powers are of the energy in the `count` newest blocks: of all there is, if that
 * reaches `enough`; else of what is above 670 Hz, if that helps. 0 if below `least`, which is often known early. */
static float cr_dtmf_share(cr_dtmf *d, const int *lane, const float *power, int count, float enough, float least)
{
    const float *gain = d->plan->tones.gain;
    const float heard = (power[0] + power[1]) * (float)count;
    const float plain = cr_dtmf_energy_of(d, CR_DTMF_PLAIN, count, INFINITY);
    const float passed = (power[0] * gain[lane[0]] + power[1] * gain[lane[1]]) * (float)count;
    cr_four squares = cr_four_all(0);
    float own, filtered;
    if (heard >= enough * plain)
        return plain > 0 ? heard / plain : 0;
    /* The components' own energy, block by block, is above 670 Hz in any case. */
    for (int64_t block = d->blocks - count; block < d->blocks; block++) {
        const cr_four z = cr_dtmf_both(d->z[cr_dtmf_slot(block)], lane);
        squares = cr_four_add(squares, cr_four_mul(z, z));
    }
    squares = cr_four_add(squares, cr_four_swapped(squares));
    own = cr_four_first(squares) + cr_four_third(squares);
    if (own * CR_DTMF_FILTER_HELPS < plain && passed > least * own) {
        filtered = cr_dtmf_energy_of(d, CR_DTMF_FILTERED, count, passed / least);
        if (passed * plain > heard * filtered)
            return passed >= least * filtered ? passed / filtered : 0;
    }
    return heard >= least * plain ? heard / plain : 0;
}

/* From turns of any magnitude; if nothing is known of one, there is none. Power is lost inside a block that turned away
 * too: 1/3 - 2/pi^2 per square of the turn, for a raised cosine. The polynomial gives that from the cosine, up to 90
 * degrees within 0.1 %. */
CR_FORCE_INLINE void cr_dtmf_set_spin(const cr_dtmf *d, const int *lane, const float *turn_re, const float *turn_im,
                                      cr_dtmf_spin *spin)
{
    const cr_tone_plan *tones = &d->plan->tones;
    const cr_four nominal_re = cr_dtmf_both(tones->turn_re, lane), nominal_im = cr_dtmf_both(tones->turn_im, lane);
    const float low = turn_re[0] == 0 && turn_im[0] == 0 ? 1 : turn_re[0];
    const float high = turn_re[1] == 0 && turn_im[1] == 0 ? 1 : turn_re[1];
    static const float signs[4] = {-1, 1, -1, 1};
    cr_four re = cr_four_pairs(low, high), im = cr_four_pairs(turn_im[0], turn_im[1]), size, away, undo;
    im = cr_four_mul(im, cr_four_load(signs));
    size = cr_four_sqrt(cr_four_add(cr_four_mul(re, re), cr_four_mul(im, im)));
    size = cr_four_div(cr_four_all(1), size);
    re = cr_four_mul(re, size);
    im = cr_four_mul(im, size);
    away = cr_four_sub(cr_four_all(1), re);
    undo = cr_four_add(cr_four_all(0.06840502f), cr_four_mul(away, cr_four_all(0.12117213f)));
    undo = cr_four_add(cr_four_all(0.26839846f), cr_four_mul(away, undo));
    undo = cr_four_add(cr_four_all(1), cr_four_mul(away, undo));
    spin->undo[0] = cr_four_first(undo);
    spin->undo[1] = cr_four_third(undo);
    cr_four_store(spin->re, cr_four_sub(cr_four_mul(nominal_re, re), cr_four_mul(nominal_im, im)));
    cr_four_store(spin->im, cr_four_add(cr_four_mul(nominal_re, im), cr_four_mul(nominal_im, re)));
}

/* One part of the sums below: block `last` and, turned, the one before. */
CR_FORCE_INLINE cr_four cr_dtmf_two(const cr_dtmf *d, const int *lane, int64_t last, cr_four re, cr_four im)
{
    return cr_four_turned(cr_dtmf_both(d->z[cr_dtmf_slot(last - 1)], lane), re, im,
                          cr_dtmf_both(d->z[cr_dtmf_slot(last)], lane));
}

/* Power of two lanes over the `count` newest blocks, summed at two frequencies two by two. A count that is odd starts
 * with the oldest alone. */
CR_FORCE_INLINE void cr_dtmf_power(const cr_dtmf *d, const int *lane, const int count, const cr_dtmf_spin *spin,
                                   float *power)
{
    const int64_t last = d->blocks - 1;
    const cr_four re = cr_four_load(spin->re), im = cr_four_load(spin->im), both = cr_four_mul(re, im);
    const cr_four twice_re = cr_four_sub(cr_four_mul(re, re), cr_four_mul(im, im)), twice_im = cr_four_add(both, both);
    cr_four sum = count % 2 ? cr_dtmf_both(d->z[cr_dtmf_slot(last - count + 1)], lane)
                            : cr_dtmf_two(d, lane, last - count + 2, re, im);
    for (int64_t block = last - count + 4 - count % 2; block <= last; block += 2)
        sum = cr_four_turned(sum, twice_re, twice_im, cr_dtmf_two(d, lane, block, re, im));
    sum = cr_four_powers(sum);
    power[0] = cr_four_first(sum) * (spin->undo[0] / (float)(count * count));
    power[1] = cr_four_third(sum) * (spin->undo[1] / (float)(count * count));
}

/* The sum of a lane at its nominal frequency over the look that ends with block `last`, as the gate has it. */
static void cr_dtmf_look_sum(const cr_dtmf *d, int lane, int64_t last, float *sum_re, float *sum_im)
{
    const cr_tone_plan *tones = &d->plan->tones;
    float part[2][2];
    for (int half = 0; half < 2; half++) {
        int64_t block = last - 2 + 2 * half;
        cr_tone_turned_lane(d->z[cr_dtmf_slot(block - 1)] + 2 * lane, tones->turn_re + 2 * lane,
                            tones->turn_im + 2 * lane, d->z[cr_dtmf_slot(block)] + 2 * lane, part[half]);
    }
    cr_tone_turned_lane(part[0], tones->turn2_re + 2 * lane, tones->turn2_im + 2 * lane, part[1], part[0]);
    *sum_re = part[0][0];
    *sum_im = part[0][1];
}

/* The strongest lane of each group in a look. */
CR_FORCE_INLINE void cr_dtmf_strongest(const float *sums, int *strongest)
{
    for (int group = 0; group < 2; group++) {
        float most = -1;
        for (int lane = 4 * group; lane < 4 * group + 4; lane++) {
            float power = sums[2 * lane] * sums[2 * lane] + sums[2 * lane + 1] * sums[2 * lane + 1];
            if (power > most) {
                most = power;
                strongest[group] = lane;
            }
        }
    }
}

/* A look at a digit that has been accepted: is it still that one? Neither its frequencies nor its share matter now. */
static int cr_dtmf_look_again(const cr_dtmf *d, cr_dtmf_look *look)
{
    const cr_dtmf_tone *tone = &d->tone;
    if (look->lane[0] != tone->lane[0] || look->lane[1] != tone->lane[1])
        return 0;
    cr_dtmf_power(d, tone->lane, CR_TONE_LOOK, &tone->spin, look->power);
    for (int group = 0; group < 2; group++)
        look->turn_re[group] = look->turn_im[group] = 0;
    return 1;
}

/* Look at the newest four blocks; true if a symbol is worth following. `sums`: theirs; `before`: those of the look one
 * block earlier. */
static int cr_dtmf_take_look(cr_dtmf *d, const float *sums, const float *before, cr_dtmf_look *look)
{
    const cr_tone_plan *tones = &d->plan->tones;
    for (int group = 0; group < 2; group++) {
        const int at = 2 * look->lane[group];
        const float re = sums[at], im = sums[at + 1];
        float before_re, before_im, expected_re, expected_im;
        /* How far it turned beyond where the look before would point by now at the nominal frequency. */
        if (before) {
            before_re = before[at];
            before_im = before[at + 1];
        } else {
            cr_dtmf_look_sum(d, look->lane[group], d->blocks - 2, &before_re, &before_im);
        }
        expected_re = before_re * tones->turn_re[at] + before_im * tones->turn_im[at];
        expected_im = before_im * tones->turn_re[at] - before_re * tones->turn_im[at];
        look->turn_re[group] = re * expected_re + im * expected_im;
        look->turn_im[group] = im * expected_re - re * expected_im;
        if (fabsf(look->turn_im[group]) > d->plan->most_turn[look->lane[group]] * look->turn_re[group])
            return 0;
    }
    cr_dtmf_set_spin(d, look->lane, look->turn_re, look->turn_im, &look->spin);
    cr_dtmf_power(d, look->lane, CR_TONE_LOOK, &look->spin, look->power);
    if (look->power[0] < d->plan->min_power / 2 || look->power[1] < d->plan->min_power / 2)
        return 0;
    if (look->power[1] >= CR_DTMF_LOOK_MAX_RATIO * look->power[0]
        || look->power[1] <= CR_DTMF_LOOK_MIN_RATIO * look->power[0])
        return 0;
    return cr_dtmf_share(d, look->lane, look->power, CR_TONE_LOOK, CR_DTMF_LOOK_SHARE, CR_DTMF_LOOK_SHARE)
           > CR_DTMF_LOOK_SHARE;
}

/* Power of the tone's fainter component, relative to its reference, over the two blocks that end with block `last`. */
static float cr_dtmf_mark(const cr_dtmf *d, int64_t last)
{
    const cr_dtmf_tone *tone = &d->tone;
    const cr_four power = cr_four_powers(
        cr_dtmf_two(d, tone->lane, last, cr_four_load(tone->spin.re), cr_four_load(tone->spin.im)));
    const float low = cr_four_first(power) * tone->mark_scale[0], high = cr_four_third(power) * tone->mark_scale[1];
    return low < high ? low : high;
}

/* Where between two marks a block apart the amplitude was 1/2: so much of a block before the later one. */
static float cr_dtmf_crossing(float before, float mark)
{
    const float amplitude = sqrtf(mark);
    return (0.5f - amplitude) / (sqrtf(before) - amplitude);
}

/* Share of the tone over the seven blocks that end with the newest, where that is more than before and may matter. */
static float cr_dtmf_clarity(cr_dtmf *d)
{
    const cr_dtmf_tone *tone = &d->tone;
    const float least = tone->looks < CR_DTMF_LONG_LOOKS ? CR_DTMF_NOMINAL_CLARITY : CR_DTMF_LEAST_CLARITY;
    float power[2];
    cr_dtmf_power(d, tone->lane, CR_DTMF_CLARITY_BLOCKS, &tone->spin, power);
    return cr_dtmf_share(d, tone->lane, power, CR_DTMF_CLARITY_BLOCKS, tone->asked,
                         tone->clarity > least ? tone->clarity : least);
}

/* The middle of the two blocks that end with `last`, which is where an edge lies when the mark is 1/2. */
static double cr_dtmf_middle(const cr_dtmf *d, int64_t last)
{
    return ((double)last - 0.5) * d->plan->tones.hop;
}

static double cr_dtmf_twist(const cr_dtmf *d)
{
    return 10 * log10((double)d->tone.power[1] / (double)d->tone.power[0]);
}

/* ---- deciding ---- */

/* Whether the tone followed is what a line sends back of the digit before: the same, at once, and much fainter. */
static int cr_dtmf_is_echo(const cr_dtmf *d)
{
    const cr_dtmf_tone *tone = &d->tone;
    return tone->lane[0] == d->last_lane[0] && tone->lane[1] == d->last_lane[1]
           && tone->reference[0] + tone->reference[1] < CR_DTMF_ECHO * d->last_power
           && tone->start - d->last_end < d->plan->gap;
}

/* Whether the tone followed, if it ends at `end`, is a digit. */
static int cr_dtmf_is_digit(const cr_dtmf *d, double end)
{
    const cr_dtmf_tone *tone = &d->tone;
    double length = end - tone->start;
    return tone->clarity >= tone->asked && tone->looks >= CR_DTMF_MIN_LOOKS && length >= d->plan->shortest
           && tone->looks >= CR_DTMF_MIN_SEEN * length / d->plan->tones.hop && !cr_dtmf_is_echo(d);
}

/* How clear the tone followed must be; CR_DTMF_NEVER if no clarity could make it a digit. */
static float cr_dtmf_asked(const cr_dtmf *d)
{
    const cr_dtmf_tone *tone = &d->tone;
    float twist, stray, far, asked;
    if (tone->power[1] > CR_DTMF_MAX_TWIST * tone->power[0] || tone->power[1] < CR_DTMF_MIN_TWIST * tone->power[0])
        return CR_DTMF_NEVER;
    if (tone->reference[0] < d->plan->min_power || tone->reference[1] < d->plan->min_power)
        return CR_DTMF_NEVER;
    if (tone->most_ratio > CR_DTMF_NOMINAL_SWAY * tone->least_ratio)
        return CR_DTMF_NEVER;
    twist = (float)cr_dtmf_twist(d);
    stray = twist * twist / (CR_DTMF_STRAY_TWIST_DB * CR_DTMF_STRAY_TWIST_DB);
    for (int group = 0; group < 2; group++) {
        float offset = cr_tone_angle(tone->turn_re[group], tone->turn_im[group])
                       * d->plan->offset_per_radian[tone->lane[group]];
        if (fabsf(offset) > CR_DTMF_MAX_OFFSET)
            return CR_DTMF_NEVER;
        stray += offset * offset / (CR_DTMF_STRAY_OFFSET * CR_DTMF_STRAY_OFFSET);
    }
    stray = sqrtf(stray);
    far = stray < 1 ? stray : 1;
    if (tone->most_ratio > (CR_DTMF_NOMINAL_SWAY + CR_DTMF_STRAY_SWAY * far) * tone->least_ratio)
        return CR_DTMF_NEVER;
    asked = CR_DTMF_NOMINAL_CLARITY + CR_DTMF_STRAY_CLARITY * far;
    if (tone->looks >= CR_DTMF_LONG_LOOKS && stray < CR_DTMF_LONG_STRAY)
        asked -= CR_DTMF_LONG_CLARITY;
    return asked;
}

/* How to read a mark; the spin or the reference has changed. */
static void cr_dtmf_scale_mark(cr_dtmf_tone *tone)
{
    for (int group = 0; group < 2; group++)
        tone->mark_scale[group] = tone->spin.undo[group] * (0.25f / tone->reference[group]);
}

/* Take a look into the tone's sums. Only looks that lie wholly inside the tone count: one that is clearly louder
 * than the reference starts the sums anew, a fainter one (an edge) is left out. The turn of the first look was
 * measured against a window that was still part outside, and makes room for the second's. */
static void cr_dtmf_add_look(cr_dtmf *d, const cr_dtmf_look *look)
{
    cr_dtmf_tone *tone = &d->tone;
    float power = look->power[0] + look->power[1], reference = tone->reference[0] + tone->reference[1];
    int restart = power > CR_DTMF_LOUDER * reference;
    float ratio;
    tone->looks++;
    tone->averaged = 0;
    if (power < CR_DTMF_FAINTER * reference)
        return;
    if (restart)
        tone->settled = 0;
    if (tone->settled < CR_DTMF_REFERENCE_LOOKS)
        tone->settled++;
    ratio = look->power[1] / look->power[0];
    if (tone->settled == 1 || ratio < tone->least_ratio)
        tone->least_ratio = ratio;
    if (tone->settled == 1 || ratio > tone->most_ratio)
        tone->most_ratio = ratio;
    for (int group = 0; group < 2; group++) {
        float keep_power = restart ? 0.0f : 1.0f, keep_turn = tone->settled > 2 || tone->accepted ? 1.0f : 0.0f;
        tone->power[group] = tone->power[group] * keep_power + look->power[group];
        tone->turn_re[group] = tone->turn_re[group] * keep_turn + look->turn_re[group];
        tone->turn_im[group] = tone->turn_im[group] * keep_turn + look->turn_im[group];
        if (restart)
            tone->reference[group] = look->power[group];
        else
            tone->reference[group] += (look->power[group] - tone->reference[group]) / (float)tone->settled;
    }
    tone->found = 0;
    if (tone->settled <= 2 && !tone->accepted)
        tone->spin = look->spin; /* the sums of turns are its own */
    cr_dtmf_scale_mark(tone);
}

/* Go back from the first look to where the mark rose through an edge. */
static void cr_dtmf_find_start(cr_dtmf *d)
{
    cr_dtmf_tone *tone = &d->tone;
    int64_t block = tone->first_block, earliest = block - CR_DTMF_RETREAT_BLOCKS;
    float here, before;
    if (tone->found)
        return;
    here = cr_dtmf_mark(d, block);
    while (here < CR_DTMF_EDGE && block > earliest)
        here = cr_dtmf_mark(d, --block);
    before = here;
    while (before >= CR_DTMF_EDGE && block > earliest) {
        here = before;
        before = cr_dtmf_mark(d, --block);
    }
    tone->start = cr_dtmf_middle(d, block);
    if (here >= CR_DTMF_EDGE && before < CR_DTMF_EDGE)
        tone->start += (1 - cr_dtmf_crossing(before, here)) * (float)d->plan->tones.hop;
    if (tone->start < d->last_end)
        tone->start = d->last_end;
    if (tone->start < 0)
        tone->start = 0;
    tone->found = 1;
}

static void cr_dtmf_describe(const cr_dtmf *d, double end, cr_dtmf_digit *digit)
{
    const cr_dtmf_tone *tone = &d->tone;
    double fed = (double)(cr_dtmf_position(d) - d->origin);
    int64_t start = (int64_t)(tone->start + 0.5);
    digit->symbol = cr_dtmf_symbols[tone->lane[0] * 4 + tone->lane[1] - 4];
    digit->start = d->origin + start;
    digit->duration = (int64_t)((end < fed ? end : fed) + 0.5) - start;
    digit->level_dbm0 = 5 * log10((double)tone->reference[0] * (double)tone->reference[1]) + CR_DTMF_FULL_SCALE_DBM0;
    digit->twist_db = cr_dtmf_twist(d);
}

static void cr_dtmf_report(cr_dtmf *d, cr_dtmf_digits *found)
{
    if (found->count == found->room) {
        size_t room = found->room ? 2 * found->room : 8;
        cr_dtmf_digit *items = (cr_dtmf_digit *)realloc(found->items, room * sizeof *items);
        if (!items) {
            found->out_of_memory = 1;
            return;
        }
        found->items = items;
        found->room = room;
    }
    cr_dtmf_describe(d, d->tone.fall, &found->items[found->count++]);
    d->last_end = d->tone.fall;
    for (int group = 0; group < 2; group++)
        d->last_lane[group] = d->tone.lane[group];
    d->last_power = d->tone.reference[0] + d->tone.reference[1];
}

/* What the newest block means to the tone followed. Sets `fall` where it breaks or ends. */
static int cr_dtmf_event(cr_dtmf *d, int seen, const cr_dtmf_look *look)
{
    cr_dtmf_tone *tone = &d->tone;
    int64_t last = d->blocks - 1;
    int same = seen && look->lane[0] == tone->lane[0] && look->lane[1] == tone->lane[1];
    double here = cr_dtmf_middle(d, last), gap = d->plan->gap, rise;
    float before = tone->mark, mark = cr_dtmf_mark(d, last), crossing = 0;
    tone->mark = mark;
    tone->rivals = seen && !same ? tone->rivals + 1 : 0;
    if ((before < CR_DTMF_EDGE) != (mark < CR_DTMF_EDGE)) /* crossed this many samples before `here` */
        crossing = cr_dtmf_crossing(before, mark) * (float)d->plan->tones.hop;

    if (d->state == CR_DTMF_ON && (mark < CR_DTMF_EDGE || tone->rivals > 1)) {
        tone->fall = here - crossing;
        if (tone->fall < tone->start)
            tone->fall = tone->start;
    }
    if (tone->rivals > 1 || (tone->rivals && mark < CR_DTMF_EDGE))
        return CR_DTMF_ENDS;
    if (mark >= CR_DTMF_EDGE) {
        rise = here - crossing;
        return d->state == CR_DTMF_GAP && rise - tone->fall >= gap ? CR_DTMF_ENDS : CR_DTMF_HOLDS;
    }
    return here - tone->fall >= gap ? CR_DTMF_ENDS : CR_DTMF_BREAKS;
}

/* Everything that happens once a block. `sums`: those of its look, NULL if that is not worth while; `before`: those of
 * the look one block earlier, NULL if they are no longer known. */
static void cr_dtmf_step(cr_dtmf *d, const float *sums, const float *before, cr_dtmf_digits *found)
{
    cr_dtmf_tone *tone = &d->tone;
    cr_dtmf_look look;
    int seen = 0, again = 0;
    if (sums) {
        cr_dtmf_strongest(sums, look.lane);
        again = d->state != CR_DTMF_NONE && tone->accepted && cr_dtmf_look_again(d, &look);
        seen = again || cr_dtmf_take_look(d, sums, before, &look);
    }
    if (d->state != CR_DTMF_NONE) {
        int event = cr_dtmf_event(d, seen, &look);
        if (event == CR_DTMF_HOLDS) {
            if (seen && !tone->rivals)
                cr_dtmf_add_look(d, &look);
            if (!tone->accepted && cr_dtmf_middle(d, d->blocks - 1) - tone->start >= d->plan->nearly) {
                if (!tone->averaged) {
                    cr_dtmf_set_spin(d, tone->lane, tone->turn_re, tone->turn_im, &tone->spin);
                    cr_dtmf_scale_mark(tone);
                    tone->found = 0;
                    tone->asked = cr_dtmf_asked(d);
                    tone->averaged = 1;
                }
                if (tone->asked < CR_DTMF_NEVER) {
                    float clarity = cr_dtmf_clarity(d);
                    if (clarity > tone->clarity)
                        tone->clarity = clarity;
                }
                if (!tone->searched || tone->settled <= 2)
                    cr_dtmf_find_start(d);
                tone->searched = 1;
            }
        }
        if (!tone->accepted) {
            double end = event == CR_DTMF_HOLDS ? cr_dtmf_middle(d, d->blocks - 1) : tone->fall;
            tone->accepted = cr_dtmf_is_digit(d, end);
            if (tone->accepted && d->blocks - 1 - tone->first_block <= CR_DTMF_SEARCH_BLOCKS)
                cr_dtmf_find_start(d);
        }
        if (event == CR_DTMF_ENDS && tone->accepted)
            cr_dtmf_report(d, found);
        d->state = cr_dtmf_next[d->state][event];
    }
    if (d->state == CR_DTMF_NONE && seen) {
        if (again)
            look.spin = tone->spin;
        memset(tone, 0, sizeof *tone);
        tone->lane[0] = look.lane[0];
        tone->lane[1] = look.lane[1];
        tone->first_block = d->blocks - 1;
        tone->asked = CR_DTMF_NEVER;
        cr_dtmf_add_look(d, &look);
        tone->mark = cr_dtmf_mark(d, tone->first_block);
        cr_dtmf_find_start(d);
        d->state = cr_dtmf_next[d->state][CR_DTMF_TONE];
    }
}

/* ---- feeding ---- */

/* Close the blocks whose newest hops start at `x`, the hop before them at `first`; both are in `raw` too. */
static void cr_dtmf_close_blocks(cr_dtmf *d, const int16_t *first, const int16_t *x, uint32_t blocks,
                                 cr_dtmf_digits *found)
{
    const cr_dtmf_plan *plan = d->plan;
    while (blocks) {
        const int following = d->state != CR_DTMF_NONE;
        const uint32_t quiet_before = d->quiet_hops;
        const int64_t at = d->blocks;
        cr_tone_block held[CR_TONE_BATCH];
        cr_tone_batch batch;
        uint32_t worth, slots;
        batch.first = first;
        batch.x = x;
        batch.blocks = blocks < CR_TONE_BATCH ? blocks : CR_TONE_BATCH;
        batch.limit = CR_DTMF_QUIET_PEAK;
        batch.quiet_hops = quiet_before;
        for (int n = 0; n < CR_TONE_LOOK - 1; n++)
            batch.rows[n] = d->z[cr_dtmf_slot(at + n - (CR_TONE_LOOK - 1))];
        /* While a tone is followed it may look back at as many blocks as are kept, so each waits for its turn. */
        for (int n = 0; n < CR_TONE_BATCH; n++)
            batch.rows[n + CR_TONE_LOOK - 1] = following ? held[n] : d->z[cr_dtmf_slot(at + n)];
        worth = plan->version->batch(&plan->tones, &batch);
        d->quiet_hops = batch.quiet_hops;
        slots = ((1u << batch.blocks) - 1) << cr_dtmf_slot(at);
        slots |= slots >> CR_DTMF_HISTORY;
        d->known[CR_DTMF_PLAIN] &= (uint16_t)~slots;
        d->known[CR_DTMF_FILTERED] &= (uint16_t)~slots;
        x += batch.blocks * plan->tones.hop;
        first = x - plan->tones.hop;
        blocks -= batch.blocks;
        if (!following && !worth) {
            d->blocks = at + batch.blocks;
            d->next += batch.blocks * plan->tones.hop;
            if (batch.silent && quiet_before < CR_TONE_QUIET_HOPS) /* else zeros have long been everywhere */
                for (uint32_t n = 0; n < batch.blocks; n++)
                    if (batch.silent >> n & 1)
                        memset(d->z[cr_dtmf_slot(at + n)], 0, sizeof d->z[0]);
            continue;
        }
        for (uint32_t n = 0; n < batch.blocks; n++) {
            float *z = d->z[cr_dtmf_slot(d->blocks)];
            if (batch.silent >> n & 1)
                memset(z, 0, sizeof d->z[0]);
            else if (following)
                memcpy(z, held[n], sizeof d->z[0]);
            d->blocks++;
            d->next += plan->tones.hop;
            if (worth >> n & 1)
                cr_dtmf_step(d, batch.look[n], n ? batch.look[n - 1] : NULL, found);
            else if (d->state != CR_DTMF_NONE)
                cr_dtmf_step(d, NULL, NULL, found);
        }
    }
}

/* Feed samples (NULL: that much silence); digits that have ended are added to `found`. */
static void cr_dtmf_feed(cr_dtmf *d, const uint8_t *pcm, size_t samples, cr_dtmf_digits *found)
{
    const uint32_t kept = cr_dtmf_kept_samples(d->plan), room = cr_dtmf_raw_samples(d->plan) - CR_TONE_SLACK;
    const uint32_t hop = d->plan->tones.hop;
    while (samples) {
        size_t run = room - d->fill;
        const int16_t *x = d->raw + d->next;
        if (!run) {
            uint32_t passed = d->next - kept;
            memmove(d->raw, d->raw + passed, (d->fill - passed) * sizeof *d->raw);
            d->fill -= passed;
            d->next -= passed;
            continue;
        }
        if (run > samples)
            run = samples;
        /* What was just copied takes long to be read: where a block begins here too, read what it was copied from. */
        if (pcm && d->fill == d->next && run % hop == 0 && hop % 8 == 0 && (uintptr_t)pcm % sizeof *x == 0)
            x = (const int16_t *)(const void *)pcm;
        if (pcm) {
            memcpy(d->raw + d->fill, pcm, run * sizeof *d->raw);
            pcm += run * sizeof *d->raw;
        } else {
            memset(d->raw + d->fill, 0, run * sizeof *d->raw);
        }
        samples -= run;
        d->fill += (uint32_t)run;
        cr_dtmf_close_blocks(d, d->raw + d->next - hop, x, (d->fill - d->next) / hop, found);
    }
}

/* The same as feeding that many zeros, in a time that does not grow with their number. */
static void cr_dtmf_skip(cr_dtmf *d, uint64_t samples, cr_dtmf_digits *found)
{
    const uint32_t hop = d->plan->tones.hop;
    /* After as many blocks as are kept, and one more that came in part, nothing but zeros is in the memory. */
    for (int block = 0; samples && (block <= CR_DTMF_HISTORY || d->state != CR_DTMF_NONE || d->fill > d->next);
         block += CR_TONE_BATCH) {
        uint64_t run = CR_TONE_BATCH * hop - (d->fill - d->next);
        if (run > samples)
            run = samples;
        cr_dtmf_feed(d, NULL, (size_t)run, found);
        samples -= run;
    }
    d->blocks += (int64_t)(samples / hop);
    cr_dtmf_feed(d, NULL, (size_t)(samples % hop), found);
}

/* The stream is over: report what is still sounding, then listen afresh. The position stays. */
static void cr_dtmf_flush(cr_dtmf *d, cr_dtmf_digits *found)
{
    int64_t position = cr_dtmf_position(d);
    size_t already = found->count;
    uint32_t silence = d->plan->rate / 10;
    /* A look at nothing but quiet hops is not taken, so nothing starts then. */
    while (silence && (d->state != CR_DTMF_NONE || d->quiet_hops <= CR_TONE_LOOK || d->fill > d->next)) {
        const uint32_t run = CR_TONE_BATCH * d->plan->tones.hop - (d->fill - d->next);
        cr_dtmf_feed(d, NULL, run < silence ? run : silence, found);
        silence -= run < silence ? run : silence;
    }
    for (size_t i = already; i < found->count; i++) /* edges are interpolated: none may lie beyond the end */
        if (found->items[i].start + found->items[i].duration > position)
            found->items[i].duration = position - found->items[i].start;
    cr_dtmf_init(d, d->plan, d->raw);
    d->origin = position;
}

/* The digit that sounds now, once accepted, with its duration so far. False if there is none. */
static int cr_dtmf_active(const cr_dtmf *d, cr_dtmf_digit *digit)
{
    if (d->state == CR_DTMF_NONE || !d->tone.accepted)
        return 0;
    cr_dtmf_describe(d, d->state == CR_DTMF_GAP ? d->tone.fall : cr_dtmf_middle(d, d->blocks - 1), digit);
    return 1;
}

/* Ask the memory for what the next feed of channels will touch; a bank of them is larger than the caches. `d` comes
 * next, `later` after it. */
static void cr_dtmf_prefetch(const cr_dtmf *d, const cr_dtmf *later)
{
#ifdef CR_HAVE_X86
    const char *raw = (const char *)(d->raw + d->next - d->plan->tones.hop);
    _mm_prefetch((const char *)later, _MM_HINT_T0);
    for (int line = 0; line < 7; line++) {
        _mm_prefetch(raw + 64 * line, _MM_HINT_T0);
        _mm_prefetch((const char *)d->z[cr_dtmf_slot(d->blocks - (CR_TONE_LOOK - 1) + line)], _MM_HINT_T0);
    }
    if (d->fill + CR_TONE_BATCH * d->plan->tones.hop > cr_dtmf_raw_samples(d->plan) - CR_TONE_SLACK) {
        const char *kept = (const char *)(d->raw + d->next - cr_dtmf_kept_samples(d->plan)); /* to be moved down */
        for (int line = 0; line < 11; line++) {
            _mm_prefetch((const char *)d->raw + 64 * line, _MM_HINT_T0);
            _mm_prefetch(kept + 64 * line, _MM_HINT_T0);
        }
    }
    if (d->state != CR_DTMF_NONE)
        for (int line = 0; line < 7; line++) {
            _mm_prefetch((const char *)&d->tone + 64 * line, _MM_HINT_T0);
            _mm_prefetch(raw - 64 * line, _MM_HINT_T0);
        }
#else
    (void)d;
    (void)later;
#endif
}

#endif
