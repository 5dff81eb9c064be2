/* DTMF digits in PCM audio: the scalar specification.
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
 * How: the high-pass of goertzel.h, then blocks of 5 ms. Everything below happens once a block:
 *
 *   samples   |----|----|----|----|----|----|----|      a block: Z at eight frequencies, energy
 *   look                     [------ 20 ms -----]       which symbol is it, if any
 *   mark                               [- 10 ms -]      is the tone there: finds both edges
 *   clarity   [----------- 35 ms --------------]        is it two steady tones and little else
 *
 *   look     The strongest low and the strongest high frequency of the window. How far the phase turned since the
 *            window one block earlier gives each component's true frequency, unambiguous to 100 Hz. Blocks are then
 *            summed at that frequency, so a mistuned sender loses nothing; `share` is the part of the energy that
 *            the two components hold.
 *   mark     Amplitude of the fainter component, relative to its reference, over the newest two blocks. It falls in
 *            a straight line while an edge passes, and is 1/2 when the edge is in the middle: interpolating between
 *            blocks gives the moment.
 *   clarity  Best share over any 35 ms of the tone, at the tone's mean frequencies. Noise costs what it weighs.
 *            Speech has energy elsewhere and glides, so that 35 ms of it do not add up.
 *
 *   Acceptance (`cr_dtmf_is_digit`): long enough, inside the limits, and the clearer the further from nominal. What
 *   is exact may be noisy; what is 1.5 % off or twisted by 8 dB must be clean. Speech that meets two of the eight
 *   frequencies rarely meets them exactly, evenly and clearly at once.
 *
 *   Following a tone (`cr_dtmf_next`):
 *
 *      state \ event   TONE   HOLDS   BREAKS   ENDS      TONE    look saw a symbol
 *      NONE            ON     NONE    NONE     NONE      HOLDS   mark >= 1/2
 *      ON              ON     ON      GAP      NONE *    BREAKS  mark < 1/2, for less than 20 ms
 *      GAP             GAP    ON      GAP      NONE *    ENDS    mark < 1/2 for 20 ms, or another symbol has come
 *
 *      * reports the digit if it was accepted. TONE counts only in NONE. When a tone ENDS, the block may start the
 *        next one at once. 20 ms lies midway between the interruption of 10 ms to be bridged and the shortest pause
 *        that any administration of Q.24 asks for (30 ms).
 */
#ifndef CALLREEL_DTMF_H
#define CALLREEL_DTMF_H

#include <stdlib.h>

#include "callreel/goertzel.h"

#define CR_DTMF_MIN_RATE 8000
#define CR_DTMF_MAX_RATE 48000
#define CR_DTMF_BLOCK_RATE 200   /* blocks a second */
#define CR_DTMF_LOOK_BLOCKS 4    /* 20 ms: fits twice into the shortest digit */
#define CR_DTMF_MARK_BLOCKS 2    /* 10 ms */
#define CR_DTMF_CLARITY_BLOCKS 7 /* 35 ms: whole blocks that lie inside any 40 ms */
#define CR_DTMF_HISTORY 16       /* blocks kept; a power of two; a start is looked for in them */
#define CR_DTMF_SEARCH_BLOCKS 6  /* blocks after the first look in which the start is still refined */
#define CR_DTMF_RETREAT_BLOCKS 8 /* a start lies at most this far before the first look that saw the tone */

/* Limits, between what must be accepted and what must be rejected; nearer to the former against talk-off. */
#define CR_DTMF_MIN_MS 32.0               /* Q.24: 40 accepted, 23 rejected */
#define CR_DTMF_GAP_MS 20.0               /* Q.24: see the state table */
#define CR_DTMF_MIN_LEVEL_DBM0 -38.5      /* a component; -36 accepted, -42 rejected */
#define CR_DTMF_MAX_TWIST_DB 5.25f        /* +4 accepted, +7 rejected */
#define CR_DTMF_MIN_TWIST_DB -9.25f       /* -8 accepted, -11 rejected */
#define CR_DTMF_MAX_OFFSET 0.0185f        /* 1.5 % (with 2 Hz more, 1.8 %) accepted, 3.5 % rejected */
/* How clear a digit must be, by how far it strays from nominal; the three distances add up as squares. */
#define CR_DTMF_STRAY_OFFSET 0.012f       /* a frequency offset that is a distance of 1 */
#define CR_DTMF_STRAY_TWIST_DB 6.0f       /* a twist that is */
#define CR_DTMF_NOMINAL_CLARITY 0.72f     /* at distance 0: 4.1 dB above white noise */
#define CR_DTMF_STRAY_CLARITY 0.21f       /* more at distance 1 and beyond: 0.93, 11.2 dB above noise */
#define CR_DTMF_LONG_CLARITY 0.2f         /* less is asked of a digit that lasts ... */
#define CR_DTMF_LONG_LOOKS 20             /* ... for this many looks, about 100 ms, ... */
#define CR_DTMF_LONG_STRAY 0.2f           /* ... nearer than this */
#define CR_DTMF_MIN_SEEN 0.7              /* of the blocks of a digit, so many looks must have seen it */
/* A single look only decides whether to follow a tone, so its limits are wider. */
#define CR_DTMF_LOOK_SHARE 0.45f
#define CR_DTMF_LOOK_GATE 0.06f           /* share at the nominal frequencies: saves time on all that is no tone */
#define CR_DTMF_LOOK_OFFSET 0.03f
#define CR_DTMF_LOOK_MAX_RATIO 6.3f       /* high to low power: +8 dB */
#define CR_DTMF_LOOK_MIN_RATIO 0.063f     /* -12 dB */
#define CR_DTMF_MIN_LOOKS 3
#define CR_DTMF_REFERENCE_LOOKS 16        /* the reference level follows the tone with this memory */
#define CR_DTMF_LOUDER 1.25f              /* power of a look, to the reference: starts it anew */
#define CR_DTMF_FAINTER 0.8f              /* ... is an edge */
#define CR_DTMF_DELAY_S 0.0006            /* of the high-pass, mean over the eight frequencies */
#define CR_DTMF_FULL_SCALE_DBM0 3.14      /* a sine of peak 32768, as A-law has it (G.711) */
#define CR_DTMF_SILENCE 1e-20f            /* block energy below which the filter's memory is cleared */

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
    double level_dbm0;       /* mean of the two components' levels */
    double twist_db;         /* level of the high group less that of the low group */
    char symbol;
} cr_dtmf_digit;

typedef struct {
    cr_dtmf_digit *items; /* malloc'd; grows with the digits found */
    size_t count, room;
    int out_of_memory; /* a digit was lost for want of memory */
} cr_dtmf_digits;

/* One look at the newest 20 ms. Index 0 is the low group, 1 the high group; powers are squared amplitudes. */
typedef struct {
    int lane[2];
    float power[2];
    float turn_re[2], turn_im[2]; /* turn in one block beyond that of the nominal frequency, times power */
    float share;
} cr_dtmf_look;

/* The tone being followed. Times are in samples since `origin`. */
typedef struct {
    int lane[2];
    int accepted;
    int looks, rivals, settled; /* looks: that saw it; in a row that saw another; in the reference */
    int64_t first_block;        /* newest block of the first look that saw it */
    float reference[2];         /* power of a look that lies wholly inside */
    float power[2], turn_re[2], turn_im[2]; /* sums over such looks */
    float clarity, mark;
    double start, fall; /* fall: where it broke off, in GAP */
} cr_dtmf_tone;

typedef struct {
    uint32_t rate, block_samples;
    float turn_re[CR_TONE_LANES], turn_im[CR_TONE_LANES]; /* exp(i w block_samples) */
    float undo_gain[CR_TONE_LANES];                       /* 1 / power gain of the high-pass */
    float offset_per_radian[CR_TONE_LANES];               /* relative frequency offset per radian of turn */
    float min_power;

    cr_highpass filter;
    cr_goertzel bank;
    uint32_t filled;       /* samples in the block under way */
    int64_t origin, blocks; /* samples fed before block 0; blocks closed since */

    float z_re[CR_DTMF_HISTORY][CR_TONE_LANES], z_im[CR_DTMF_HISTORY][CR_TONE_LANES], energy[CR_DTMF_HISTORY];
    float look_re[CR_TONE_LANES], look_im[CR_TONE_LANES]; /* the window of the look before */

    int state;
    double last_end; /* end of the last digit reported */
    cr_dtmf_tone tone;
} cr_dtmf;

/* ---- set-up ---- */

static void cr_dtmf_init(cr_dtmf *d, uint32_t rate)
{
    memset(d, 0, sizeof *d);
    d->rate = rate;
    d->block_samples = (rate + CR_DTMF_BLOCK_RATE / 2) / CR_DTMF_BLOCK_RATE;
    d->min_power = (float)pow(10, (CR_DTMF_MIN_LEVEL_DBM0 - CR_DTMF_FULL_SCALE_DBM0) / 10);
    cr_highpass_init(&d->filter, rate);
    cr_goertzel_init(&d->bank, cr_dtmf_hz, rate);
    for (int lane = 0; lane < CR_TONE_LANES; lane++) {
        double turn = 2 * CR_PI * cr_dtmf_hz[lane] / rate * d->block_samples;
        d->turn_re[lane] = (float)cos(turn);
        d->turn_im[lane] = (float)sin(turn);
        d->offset_per_radian[lane] = (float)(1 / turn);
        d->undo_gain[lane] = (float)(1 / cr_highpass_gain(&d->filter, cr_dtmf_hz[lane], rate));
    }
}

/* Samples fed so far. */
static int64_t cr_dtmf_position(const cr_dtmf *d)
{
    return d->origin + d->blocks * d->block_samples + d->filled;
}

/* ---- measuring ---- */

static int cr_dtmf_slot(int64_t block) { return (int)((uint64_t)block % CR_DTMF_HISTORY); }

/* Power of a lane over the `count` blocks that end with `last`, summed at its nominal frequency plus a turn. */
static float cr_dtmf_power(const cr_dtmf *d, int lane, int64_t last, int count, float turn_re, float turn_im)
{
    float size = sqrtf(turn_re * turn_re + turn_im * turn_im), angle = atan2f(turn_im, turn_re);
    float re = 0, im = 0, by_re, by_im;
    if (size > 0) {
        turn_re /= size;
        turn_im /= size;
    } else {
        turn_re = 1;
        turn_im = 0;
    }
    by_re = d->turn_re[lane] * turn_re - d->turn_im[lane] * turn_im;
    by_im = d->turn_re[lane] * turn_im + d->turn_im[lane] * turn_re;
    for (int64_t block = last - count + 1; block <= last; block++) {
        int slot = cr_dtmf_slot(block);
        float turned = re * by_re - im * by_im;
        im = re * by_im + im * by_re + d->z_im[slot][lane];
        re = turned + d->z_re[slot][lane];
    }
    /* Inside a block the tone turned away too: the block lost 1 - sinc^2(angle / 2), nearly angle^2 / 12. */
    return (re * re + im * im) / ((float)(count * count) * (1 - angle * angle / 12));
}

static float cr_dtmf_offset(const cr_dtmf *d, int lane, float turn_re, float turn_im)
{
    return atan2f(turn_im, turn_re) * d->offset_per_radian[lane];
}

/* Look at the newest 20 ms; true if a symbol is worth following. Blocks before the first are zeros. */
static int cr_dtmf_take_look(cr_dtmf *d, cr_dtmf_look *look)
{
    float re[CR_TONE_LANES] = {0}, im[CR_TONE_LANES] = {0}, power[CR_TONE_LANES], energy = 0;
    float before_re[CR_TONE_LANES], before_im[CR_TONE_LANES], ratio;
    int64_t last = d->blocks - 1;
    for (int64_t block = last - CR_DTMF_LOOK_BLOCKS + 1; block <= last; block++) {
        int slot = cr_dtmf_slot(block);
        energy += d->energy[slot];
        for (int lane = 0; lane < CR_TONE_LANES; lane++) {
            float turned = re[lane] * d->turn_re[lane] - im[lane] * d->turn_im[lane];
            im[lane] = re[lane] * d->turn_im[lane] + im[lane] * d->turn_re[lane] + d->z_im[slot][lane];
            re[lane] = turned + d->z_re[slot][lane];
        }
    }
    energy /= CR_DTMF_LOOK_BLOCKS;
    memcpy(before_re, d->look_re, sizeof re);
    memcpy(before_im, d->look_im, sizeof im);
    memcpy(d->look_re, re, sizeof re);
    memcpy(d->look_im, im, sizeof im);
    if (energy < d->min_power)
        return 0;

    for (int lane = 0; lane < CR_TONE_LANES; lane++)
        power[lane] = re[lane] * re[lane] + im[lane] * im[lane];
    look->lane[0] = 0;
    look->lane[1] = 4;
    for (int lane = 1; lane < 4; lane++) {
        if (power[lane] > power[look->lane[0]])
            look->lane[0] = lane;
        if (power[lane + 4] > power[look->lane[1]])
            look->lane[1] = lane + 4;
    }
    if (power[look->lane[0]] + power[look->lane[1]]
        < CR_DTMF_LOOK_GATE * CR_DTMF_LOOK_BLOCKS * CR_DTMF_LOOK_BLOCKS * energy)
        return 0;
    look->share = 0;
    for (int group = 0; group < 2; group++) {
        int lane = look->lane[group];
        /* Where the window before would point by now at the nominal frequency. */
        float expected_re = before_re[lane] * d->turn_re[lane] - before_im[lane] * d->turn_im[lane];
        float expected_im = before_re[lane] * d->turn_im[lane] + before_im[lane] * d->turn_re[lane];
        float turn_re = re[lane] * expected_re + im[lane] * expected_im;
        float turn_im = im[lane] * expected_re - re[lane] * expected_im;
        if (turn_re <= 0 && turn_im == 0)
            return 0;
        if (fabsf(cr_dtmf_offset(d, lane, turn_re, turn_im)) > CR_DTMF_LOOK_OFFSET)
            return 0;
        look->turn_re[group] = turn_re;
        look->turn_im[group] = turn_im;
        look->power[group] = cr_dtmf_power(d, lane, last, CR_DTMF_LOOK_BLOCKS, turn_re, turn_im);
        if (look->power[group] * d->undo_gain[lane] < d->min_power / 2)
            return 0;
        look->share += look->power[group] / energy;
    }
    ratio = look->power[1] / look->power[0];
    return look->share > CR_DTMF_LOOK_SHARE && ratio < CR_DTMF_LOOK_MAX_RATIO && ratio > CR_DTMF_LOOK_MIN_RATIO;
}

/* Relative amplitude of the tone's fainter component over the 10 ms that end with block `last`. */
static float cr_dtmf_mark(const cr_dtmf *d, int64_t last)
{
    const cr_dtmf_tone *tone = &d->tone;
    float least = 0;
    for (int group = 0; group < 2; group++) {
        float power = cr_dtmf_power(d, tone->lane[group], last, CR_DTMF_MARK_BLOCKS,
                                    tone->turn_re[group], tone->turn_im[group]) / tone->reference[group];
        if (group == 0 || power < least)
            least = power;
    }
    return sqrtf(least);
}

/* Share of the tone over the 35 ms that end with the newest block. */
static float cr_dtmf_clarity(const cr_dtmf *d)
{
    const cr_dtmf_tone *tone = &d->tone;
    int64_t last = d->blocks - 1;
    float energy = 0, power = 0;
    for (int64_t block = last - CR_DTMF_CLARITY_BLOCKS + 1; block <= last; block++)
        energy += d->energy[cr_dtmf_slot(block)];
    for (int group = 0; group < 2; group++)
        power += cr_dtmf_power(d, tone->lane[group], last, CR_DTMF_CLARITY_BLOCKS,
                               tone->turn_re[group], tone->turn_im[group]);
    return energy > 0 ? power * CR_DTMF_CLARITY_BLOCKS / energy : 0;
}

/* The middle of the 10 ms that end with a block, which is where an edge lies when the mark is 1/2. */
static double cr_dtmf_middle(const cr_dtmf *d, int64_t last)
{
    return (double)last * d->block_samples - CR_DTMF_DELAY_S * d->rate;
}

static double cr_dtmf_twist(const cr_dtmf *d)
{
    const cr_dtmf_tone *tone = &d->tone;
    return 10 * log10((double)tone->power[1] * d->undo_gain[tone->lane[1]]
                      / ((double)tone->power[0] * d->undo_gain[tone->lane[0]]));
}

/* ---- deciding ---- */

/* Whether the tone followed, if it ends at `end`, is a digit. */
static int cr_dtmf_is_digit(const cr_dtmf *d, double end)
{
    const cr_dtmf_tone *tone = &d->tone;
    double length = end - tone->start;
    float twist, stray, asked;
    if (tone->looks < CR_DTMF_MIN_LOOKS || length < CR_DTMF_MIN_MS * d->rate / 1000)
        return 0;
    if (tone->looks < CR_DTMF_MIN_SEEN * length / d->block_samples)
        return 0;
    twist = (float)cr_dtmf_twist(d);
    if (twist > CR_DTMF_MAX_TWIST_DB || twist < CR_DTMF_MIN_TWIST_DB)
        return 0;
    stray = twist * twist / (CR_DTMF_STRAY_TWIST_DB * CR_DTMF_STRAY_TWIST_DB);
    for (int group = 0; group < 2; group++) {
        int lane = tone->lane[group];
        float offset = cr_dtmf_offset(d, lane, tone->turn_re[group], tone->turn_im[group]);
        if (fabsf(offset) > CR_DTMF_MAX_OFFSET || tone->reference[group] * d->undo_gain[lane] < d->min_power)
            return 0;
        stray += offset * offset / (CR_DTMF_STRAY_OFFSET * CR_DTMF_STRAY_OFFSET);
    }
    stray = sqrtf(stray);
    asked = CR_DTMF_NOMINAL_CLARITY + CR_DTMF_STRAY_CLARITY * (stray < 1 ? stray : 1);
    if (tone->looks >= CR_DTMF_LONG_LOOKS && stray < CR_DTMF_LONG_STRAY)
        asked -= CR_DTMF_LONG_CLARITY;
    return tone->clarity >= asked;
}

/* Take a look into the tone's sums. Only looks that lie wholly inside the tone count: one that is clearly louder
 * than the reference starts the sums anew, a fainter one (an edge) is left out. The turn of the first look was
 * measured against a window that was still part outside, and makes room for the second's. */
static void cr_dtmf_add_look(cr_dtmf *d, const cr_dtmf_look *look)
{
    cr_dtmf_tone *tone = &d->tone;
    float power = look->power[0] + look->power[1], reference = tone->reference[0] + tone->reference[1];
    int restart = power > CR_DTMF_LOUDER * reference;
    tone->looks++;
    if (power < CR_DTMF_FAINTER * reference)
        return;
    if (restart)
        tone->settled = 0;
    if (tone->settled < CR_DTMF_REFERENCE_LOOKS)
        tone->settled++;
    for (int group = 0; group < 2; group++) {
        float keep_power = restart ? 0.0f : 1.0f, keep_turn = tone->settled > 2 ? 1.0f : 0.0f;
        tone->power[group] = tone->power[group] * keep_power + look->power[group];
        tone->turn_re[group] = tone->turn_re[group] * keep_turn + look->turn_re[group];
        tone->turn_im[group] = tone->turn_im[group] * keep_turn + look->turn_im[group];
        if (restart)
            tone->reference[group] = look->power[group];
        else
            tone->reference[group] += (look->power[group] - tone->reference[group]) / (float)tone->settled;
    }
}

/* Go back from the first look to where the mark rose through 1/2. */
static void cr_dtmf_find_start(cr_dtmf *d)
{
    cr_dtmf_tone *tone = &d->tone;
    int64_t block = tone->first_block, earliest = block - CR_DTMF_RETREAT_BLOCKS;
    float here = cr_dtmf_mark(d, block);
    while (here < 0.5f && block > earliest)
        here = cr_dtmf_mark(d, --block);
    tone->start = cr_dtmf_middle(d, block);
    while (here >= 0.5f && block > earliest) {
        float before = cr_dtmf_mark(d, --block);
        tone->start = cr_dtmf_middle(d, block);
        if (before < 0.5f)
            tone->start += (0.5f - before) / (here - before) * (float)d->block_samples;
        here = before;
    }
    if (tone->start < d->last_end)
        tone->start = d->last_end;
    if (tone->start < 0)
        tone->start = 0;
}

static void cr_dtmf_describe(const cr_dtmf *d, double end, cr_dtmf_digit *digit)
{
    const cr_dtmf_tone *tone = &d->tone;
    double level = 0, fed = (double)(cr_dtmf_position(d) - d->origin);
    int64_t start = (int64_t)(tone->start + 0.5);
    for (int group = 0; group < 2; group++)
        level += 10 * log10((double)tone->reference[group] * d->undo_gain[tone->lane[group]]) / 2;
    digit->symbol = cr_dtmf_symbols[tone->lane[0] * 4 + tone->lane[1] - 4];
    digit->start = d->origin + start;
    digit->duration = (int64_t)((end < fed ? end : fed) + 0.5) - start;
    digit->level_dbm0 = level + CR_DTMF_FULL_SCALE_DBM0;
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
}

/* What the newest block means to the tone followed. Sets `fall` where it breaks or ends. */
static int cr_dtmf_event(cr_dtmf *d, int seen, const cr_dtmf_look *look)
{
    cr_dtmf_tone *tone = &d->tone;
    int64_t last = d->blocks - 1;
    int same = seen && look->lane[0] == tone->lane[0] && look->lane[1] == tone->lane[1];
    double here = cr_dtmf_middle(d, last), gap = CR_DTMF_GAP_MS * d->rate / 1000, rise;
    float before = tone->mark, mark = cr_dtmf_mark(d, last), crossing = 0;
    tone->mark = mark;
    tone->rivals = seen && !same ? tone->rivals + 1 : 0;
    if ((before < 0.5f) != (mark < 0.5f)) /* 1/2 was crossed this many samples before `here` */
        crossing = (0.5f - mark) / (before - mark) * (float)d->block_samples;

    if (d->state == CR_DTMF_ON && (mark < 0.5f || tone->rivals > 1)) {
        tone->fall = here - crossing;
        if (tone->fall < tone->start)
            tone->fall = tone->start;
    }
    if (tone->rivals > 1 || (tone->rivals && mark < 0.5f))
        return CR_DTMF_ENDS;
    if (mark >= 0.5f) {
        rise = here - crossing;
        return d->state == CR_DTMF_GAP && rise - tone->fall >= gap ? CR_DTMF_ENDS : CR_DTMF_HOLDS;
    }
    return here - tone->fall >= gap ? CR_DTMF_ENDS : CR_DTMF_BREAKS;
}

/* Everything that happens once a block. */
static void cr_dtmf_step(cr_dtmf *d, cr_dtmf_digits *found)
{
    cr_dtmf_tone *tone = &d->tone;
    cr_dtmf_look look;
    int seen = cr_dtmf_take_look(d, &look);
    if (d->state != CR_DTMF_NONE) {
        int event = cr_dtmf_event(d, seen, &look);
        if (event == CR_DTMF_HOLDS) {
            if (seen && !tone->rivals)
                cr_dtmf_add_look(d, &look);
            if (!tone->accepted) {
                float clarity = cr_dtmf_clarity(d);
                if (clarity > tone->clarity)
                    tone->clarity = clarity;
                if (d->blocks - 1 - tone->first_block <= CR_DTMF_SEARCH_BLOCKS)
                    cr_dtmf_find_start(d);
            }
        }
        if (!tone->accepted) {
            double end = event == CR_DTMF_HOLDS ? cr_dtmf_middle(d, d->blocks - 1) : tone->fall;
            tone->accepted = cr_dtmf_is_digit(d, end);
        }
        if (event == CR_DTMF_ENDS && tone->accepted)
            cr_dtmf_report(d, found);
        d->state = cr_dtmf_next[d->state][event];
    }
    if (d->state == CR_DTMF_NONE && seen) {
        memset(tone, 0, sizeof *tone);
        tone->lane[0] = look.lane[0];
        tone->lane[1] = look.lane[1];
        tone->first_block = d->blocks - 1;
        cr_dtmf_add_look(d, &look);
        tone->mark = cr_dtmf_mark(d, tone->first_block);
        cr_dtmf_find_start(d);
        d->state = cr_dtmf_next[d->state][CR_DTMF_TONE];
    }
}

/* ---- feeding ---- */

static void cr_dtmf_close_block(cr_dtmf *d, cr_dtmf_digits *found)
{
    int slot = cr_dtmf_slot(d->blocks), quiet;
    cr_goertzel_close(&d->bank, 2.0f / (float)d->block_samples, d->z_re[slot], d->z_im[slot], &d->energy[slot]);
    d->filled = 0;
    d->blocks++;
    /* In digital silence the filter's tail would run into denormal numbers, which are slow, and never end. */
    quiet = d->energy[slot] < CR_DTMF_SILENCE;
    for (int i = 0; i < CR_FILTER_REACH; i++)
        quiet = quiet && d->filter.past[0][i] == 0;
    if (quiet) {
        memset(d->filter.past, 0, sizeof d->filter.past);
        memset(d->z_re[slot], 0, sizeof d->z_re[slot]);
        memset(d->z_im[slot], 0, sizeof d->z_im[slot]);
        d->energy[slot] = 0;
    }
    cr_dtmf_step(d, found);
}

/* Feed samples (NULL: that much silence); digits that have ended are added to `found`. */
static void cr_dtmf_feed(cr_dtmf *d, const uint8_t *pcm, size_t samples, cr_dtmf_digits *found)
{
    float filtered[CR_FILTER_RUN];
    while (samples) {
        size_t run = d->block_samples - d->filled;
        if (run > samples)
            run = samples;
        cr_highpass_run_scalar(&d->filter, filtered, pcm, run);
        cr_goertzel_run_scalar(&d->bank, filtered, run);
        if (pcm)
            pcm += 2 * run;
        samples -= run;
        d->filled += (uint32_t)run;
        if (d->filled == d->block_samples)
            cr_dtmf_close_block(d, found);
    }
}

/* Nothing in the memory is other than zero: more silence changes nothing but the position. */
static int cr_dtmf_is_at_rest(const cr_dtmf *d)
{
    if (d->state != CR_DTMF_NONE || d->filled)
        return 0;
    for (int stage = 0; stage <= CR_FILTER_SECTIONS; stage++)
        for (int i = 0; i < CR_FILTER_REACH; i++)
            if (d->filter.past[stage][i] != 0)
                return 0;
    for (int slot = 0; slot < CR_DTMF_HISTORY; slot++)
        if (d->energy[slot] != 0)
            return 0;
    return 1;
}

/* The same as feeding that many zeros, in a time that does not grow with their number. */
static void cr_dtmf_skip(cr_dtmf *d, uint64_t samples, cr_dtmf_digits *found)
{
    while (samples && !cr_dtmf_is_at_rest(d)) {
        uint64_t run = d->block_samples - d->filled;
        if (run > samples)
            run = samples;
        cr_dtmf_feed(d, NULL, (size_t)run, found);
        samples -= run;
    }
    d->blocks += (int64_t)(samples / d->block_samples);
    cr_dtmf_feed(d, NULL, (size_t)(samples % d->block_samples), found);
}

/* The stream is over: report what is still sounding, then listen afresh. The position stays. */
static void cr_dtmf_flush(cr_dtmf *d, cr_dtmf_digits *found)
{
    int64_t position = cr_dtmf_position(d);
    size_t already = found->count;
    cr_dtmf_skip(d, d->rate / 10, found);
    for (size_t i = already; i < found->count; i++) /* edges are interpolated: none may lie beyond the end */
        if (found->items[i].start + found->items[i].duration > position)
            found->items[i].duration = position - found->items[i].start;
    cr_dtmf_init(d, d->rate);
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

#endif
