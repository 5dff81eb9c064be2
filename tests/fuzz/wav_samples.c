/* WAV: any bytes as a `fmt ` chunk, and any bytes as samples of every encoding.
 *
 *   input   length of the chunk u8 | the chunk | samples
 *
 * The two byte orders must agree: samples of one, with their bytes turned round, are those of the other.
 * Accepted: nothing; a chunk that is too short is refused by the result.
 */
#include "target.h"

#include "callreel/wav.h"

static const struct {
    unsigned tag, sample_bytes;
} encodings[] = {{CR_WAVE_PCM, 1},   {CR_WAVE_PCM, 2},   {CR_WAVE_PCM, 3},  {CR_WAVE_PCM, 4},
                 {CR_WAVE_FLOAT, 4}, {CR_WAVE_FLOAT, 8}, {CR_WAVE_ULAW, 1}, {CR_WAVE_ALAW, 1}};

static uint8_t *converted(cr_wav_to_s16_fn convert, const uint8_t *data, size_t samples, unsigned sample_bytes)
{
    uint8_t *input = fuzz_copy(data, samples * sample_bytes), *pcm = fuzz_memory(2 * samples);
    convert(pcm, input, samples);
    free(input);
    return pcm;
}

static void convert_all(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < sizeof encodings / sizeof *encodings; i++) {
        unsigned bytes = encodings[i].sample_bytes;
        size_t samples = size / bytes;
        uint8_t *turned = fuzz_memory(samples * bytes), *little, *big;
        for (size_t n = 0; n < samples * bytes; n++)
            turned[n] = data[n / bytes * bytes + (bytes - 1 - n % bytes)];
        little = converted(cr_wav_converter(encodings[i].tag, bytes, 0), data, samples, bytes);
        big = converted(cr_wav_converter(encodings[i].tag, bytes, 1), turned, samples, bytes);
        FUZZ_CHECK(samples == 0 || memcmp(little, big, 2 * samples) == 0);
        free(turned);
        free(little);
        free(big);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = {data, data + size};
    size_t fmt_bytes = fuzz_u8(&in);
    uint8_t *body = fuzz_take(&in, &fmt_bytes);
    for (int big = 0; big < 2; big++) {
        cr_wav_fmt fmt;
        cr_wav_to_s16_fn convert;
        int loaded = cr_wav_fmt_load(&fmt, body, fmt_bytes, big);
        FUZZ_CHECK(loaded == (fmt_bytes >= CR_WAV_FMT_MIN_BYTES));
        FUZZ_CHECK(!fmt.extensible || fmt_bytes >= CR_WAV_FMT_EXTENSIBLE_BYTES);
        if (!loaded || !fmt.channels || !fmt.block_align || fmt.block_align % fmt.channels)
            continue;
        /* As to_pcm16 does: the width comes from the file. */
        convert = cr_wav_converter(fmt.tag, fmt.block_align / fmt.channels, big);
        if (convert) {
            unsigned sample_bytes = fmt.block_align / fmt.channels;
            free(converted(convert, in.next, fuzz_left(&in) / sample_bytes, sample_bytes));
        }
    }
    free(body);
    convert_all(in.next, fuzz_left(&in));
    return 0;
}
