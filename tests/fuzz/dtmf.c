/* DTMF: any audio, in one piece and in pieces, by every version this machine has: always the same digits.
 *
 *   input   rate u8 | piece u8 | a part u8 with its arguments | a part ...
 *   part    0-127    digit (low 4 bits): ms u8, -dBm0 u8         128-191  silence: ms u8
 *           192-255  noise: samples u8, then that many s16
 *   rate    of 4;  piece: samples fed at a time, 0 for 256
 */
#include "target.h"

#include "callreel/dtmf.h"

#define MOST_SAMPLES 4096 /* half a second at 8 kHz: a few keys */

typedef struct {
    cr_dtmf state;
    int16_t *raw;
    cr_dtmf_digits found;
} detector;

/* Made once: it takes longer than most inputs. */
static const cr_dtmf_plan *plan_of(uint32_t rate, cr_isa isa)
{
    static struct {
        cr_dtmf_plan plan;
        int16_t *tables;
    } plans[4 * CR_ISA_COUNT];
    size_t n = 0;
    for (; plans[n].tables; n++)
        if (plans[n].plan.rate == rate && plans[n].plan.version == cr_dtmf_version_for(isa))
            return &plans[n].plan;
    plans[n].tables = (int16_t *)calloc(cr_dtmf_plan_room(rate), sizeof *plans[n].tables);
    if (!plans[n].tables)
        abort();
    cr_dtmf_plan_init(&plans[n].plan, rate, cr_dtmf_version_for(isa), plans[n].tables);
    return &plans[n].plan;
}

static detector *detector_new(uint32_t rate, cr_isa isa)
{
    detector *d = (detector *)calloc(1, sizeof *d);
    const cr_dtmf_plan *plan = plan_of(rate, isa);
    if (!d)
        abort();
    d->raw = (int16_t *)fuzz_memory(cr_dtmf_raw_samples(plan) * sizeof *d->raw);
    cr_dtmf_init(&d->state, plan, d->raw);
    return d;
}

static void detector_free(detector *d)
{
    free(d->raw);
    free(d->found.items);
    free(d);
}

static detector *detect(uint32_t rate, cr_isa isa, const uint8_t *pcm, size_t samples, size_t piece)
{
    detector *d = detector_new(rate, isa);
    for (size_t at = 0; at < samples; at += piece) {
        size_t count = samples - at < piece ? samples - at : piece;
        uint8_t *fed = fuzz_copy(pcm + 2 * at, 2 * count);
        cr_dtmf_feed(&d->state, fed, count, &d->found);
        free(fed);
    }
    FUZZ_CHECK(cr_dtmf_position(&d->state) == (int64_t)samples);
    cr_dtmf_flush(&d->state, &d->found);
    FUZZ_CHECK(!d->found.out_of_memory);
    return d;
}

static void check_digits(const detector *d, size_t samples)
{
    int64_t end = 0;
    for (size_t i = 0; i < d->found.count; i++) {
        const cr_dtmf_digit *digit = &d->found.items[i];
        FUZZ_CHECK(digit->symbol && strchr("0123456789ABCD*#", digit->symbol));
        FUZZ_CHECK(digit->duration > 0 && digit->start >= 0);
        FUZZ_CHECK(digit->start >= end);
        end = digit->start + digit->duration;
        FUZZ_CHECK(end <= (int64_t)samples);
        FUZZ_CHECK(isfinite(digit->level_dbm0) && isfinite(digit->twist_db));
    }
}

static void same_digits(const detector *a, const detector *b)
{
    FUZZ_CHECK(a->found.count == b->found.count);
    for (size_t i = 0; i < a->found.count; i++) {
        const cr_dtmf_digit *x = &a->found.items[i], *y = &b->found.items[i];
        FUZZ_CHECK(x->symbol == y->symbol && x->start == y->start && x->duration == y->duration);
        FUZZ_CHECK(x->level_dbm0 == y->level_dbm0 && x->twist_db == y->twist_db);
    }
}

/* Both components `dbm0` loud (0 dBm0: 3.14 dB below full scale), cut off hard at both ends. */
static void render(uint8_t *pcm, size_t samples, int index, double dbm0, uint32_t rate)
{
    const double step = 2 * 3.14159265358979323846 / rate;
    const double peak = 32767 * pow(10, (dbm0 - CR_DTMF_FULL_SCALE_DBM0) / 20) / 2;
    const double low = cr_dtmf_hz[index / 4] * step, high = cr_dtmf_hz[4 + index % 4] * step;
    for (size_t i = 0; i < samples; i++)
        cr_store_s16(pcm + 2 * i, (int16_t)(peak * (sin(low * (double)i) + sin(high * (double)i))));
}

static size_t compose(fuzz_input *in, uint32_t rate, uint8_t *pcm)
{
    size_t samples = 0;
    while (fuzz_left(in) && samples < MOST_SAMPLES) {
        uint8_t part = fuzz_u8(in);
        size_t count = part < 192 ? (size_t)fuzz_u8(in) * rate / 1000 : fuzz_u8(in);
        double dbm0 = part < 128 ? -(double)fuzz_u8(in) : 0;
        uint8_t *at = pcm + 2 * samples;
        if (count > MOST_SAMPLES - samples)
            count = MOST_SAMPLES - samples;
        memset(at, 0, 2 * count);
        if (part < 128)
            render(at, count, part & 15, dbm0, rate);
        else if (part >= 192)
            for (size_t i = 0; i < count; i++)
                cr_store_s16(at + 2 * i, (int16_t)fuzz_u16(in));
        samples += count;
    }
    return samples;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint32_t rates[4] = {8000, 16000, 11025, 48000};
    fuzz_input in = {data, data + size};
    uint32_t rate = rates[fuzz_u8(&in) % 4];
    size_t piece = fuzz_u8(&in), samples;
    uint8_t *pcm = fuzz_memory(2 * MOST_SAMPLES);
    detector *whole, *other;
    samples = compose(&in, rate, pcm);
    piece = piece ? piece : 256;
    if (piece < samples / 256)
        piece = samples / 256; /* single samples only of what is short */
    whole = detect(rate, CR_ISA_SCALAR, pcm, samples, samples ? samples : 1);
    check_digits(whole, samples);
    other = detect(rate, CR_ISA_SCALAR, pcm, samples, piece);
    same_digits(whole, other);
    detector_free(other);
    for (int isa = CR_ISA_SCALAR + 1; isa < CR_ISA_COUNT; isa++)
        if (cr_cpu_has((cr_isa)isa)) {
            other = detect(rate, (cr_isa)isa, pcm, samples, piece);
            same_digits(whole, other);
            detector_free(other);
        }
    detector_free(whole);
    free(pcm);
    return 0;
}
