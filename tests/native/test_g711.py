"""G.711 against the recommendation's tables, the CRCs published with ITU-T G.191, and CPython's audioop."""

import inspect
import pickle
import warnings
import zlib
from array import array
from itertools import pairwise

import numpy as np
import pytest

from callreel.kernels import g711

DECODERS = [g711.ulaw_decode, g711.alaw_decode]
ENCODERS = [g711.ulaw_encode, g711.alaw_encode]
PAIRS = [(g711.ulaw_encode, g711.ulaw_decode), (g711.alaw_encode, g711.alaw_decode)]

ALL_CODES = bytes(range(256))
# Every 16-bit value once, lowest first: the input of the G.191 software tools' own test.
SWEEP = np.arange(-32768, 32768).astype("<i2").tobytes()

# CRC-32 of 16-bit little-endian words, as published in the G.191 STL: encoded (code in the low byte),
# decoded again.
PUBLISHED_CRC = {
    g711.alaw_encode: (0x74719FE4, 0xABCEAA69),
    g711.ulaw_encode: (0xCD170E15, 0x63641C01),
}
STL_SUFFIX = {g711.alaw_encode: "a", g711.ulaw_encode: "u"}


def _quantised(first_width, segments):
    """Quantised values of table 1 or 2 of G.711: decision values x, then y = (x[n] + x[n+1]) / 2."""
    decisions = [0, first_width]
    for count, width in segments:
        decisions += [decisions[-1] + width * (i + 1) for i in range(count)]
    return [(low + high) / 2 for low, high in pairwise(decisions)]


def ulaw_table():
    """Decode table of µ-law from table 2: code 0xFF counts down to the largest positive value."""
    values = _quantised(1, [(15, 2), (16, 4), (16, 8), (16, 16), (16, 32), (16, 64), (16, 128), (16, 256)])
    values[0] = 0  # value number 0 is zero, not the middle of its half interval
    table = {0xFF - n: int(y * 4) for n, y in enumerate(values)}
    table |= {0x7F - n: -int(y * 4) for n, y in enumerate(values)}
    return [table[code] for code in range(256)]


def alaw_table():
    """Decode table of A-law from table 1: value n has the number n, even bits inverted."""
    values = _quantised(2, [(31, 2), (16, 4), (16, 8), (16, 16), (16, 32), (16, 64), (16, 128)])
    table = {(0x80 | n) ^ 0x55: int(y * 8) for n, y in enumerate(values)}
    table |= {n ^ 0x55: -int(y * 8) for n, y in enumerate(values)}
    return [table[code] for code in range(256)]


def words(codes):
    """Codes as the G.191 files hold them: a 16-bit little-endian word each."""
    return np.frombuffer(codes, np.uint8).astype("<u2").tobytes()


def test_ulaw_decodes_all_256_codes_as_table_2_says():
    assert np.frombuffer(g711.ulaw_decode(ALL_CODES), "<i2").tolist() == ulaw_table()


def test_alaw_decodes_all_256_codes_as_table_1_says():
    assert np.frombuffer(g711.alaw_decode(ALL_CODES), "<i2").tolist() == alaw_table()


@pytest.mark.parametrize(("encode", "decode"), PAIRS)
def test_all_65536_values_have_the_crc_published_with_g191(encode, decode):
    encoded_crc, decoded_crc = PUBLISHED_CRC[encode]
    codes = encode(SWEEP)
    assert zlib.crc32(words(codes)) == encoded_crc
    assert zlib.crc32(decode(codes)) == decoded_crc


@pytest.mark.parametrize(("encode", "decode"), PAIRS)
def test_all_65536_values_are_byte_for_byte_those_of_the_g191_files(encode, decode, test_data):
    suffix = STL_SUFFIX[encode]
    source = test_data("g711/itu-stl/sweep.src").read_bytes()
    codes = encode(source)
    assert len(codes) == 65536
    assert words(codes) == test_data(f"g711/itu-stl/sweep-r.{suffix}").read_bytes()
    assert decode(codes) == test_data(f"g711/itu-stl/sweep-r.{suffix}-{suffix}").read_bytes()


def test_codes_are_those_of_audioop_where_python_has_it():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        audioop = pytest.importorskip("audioop")  # left the standard library with Python 3.13
    assert g711.ulaw_decode(ALL_CODES) == audioop.ulaw2lin(ALL_CODES, 2)
    assert g711.alaw_decode(ALL_CODES) == audioop.alaw2lin(ALL_CODES, 2)
    assert g711.alaw_encode(SWEEP) == audioop.lin2alaw(SWEEP, 2)
    # audioop's µ-law differs from G.191 in 508 values on decision boundaries, by one code.
    codes = np.frombuffer(g711.ulaw_encode(SWEEP), np.uint8).astype(int)
    theirs = np.frombuffer(audioop.lin2ulaw(SWEEP, 2), np.uint8).astype(int)
    assert np.count_nonzero(codes != theirs) == 508
    assert abs(codes - theirs).max() == 1


@pytest.mark.parametrize(("encode", "decode"), PAIRS)
def test_decoding_what_was_decoded_and_encoded_changes_nothing(encode, decode):
    assert decode(encode(decode(ALL_CODES))) == decode(ALL_CODES)


def test_every_alaw_code_comes_back_from_its_value():
    assert g711.alaw_encode(g711.alaw_decode(ALL_CODES)) == ALL_CODES


def test_every_ulaw_code_but_minus_zero_comes_back_from_its_value():
    # 0x7F and 0xFF both mean 0, and 16-bit PCM has one zero only: 0x7F comes back as 0xFF.
    expected = bytearray(ALL_CODES)
    expected[0x7F] = 0xFF
    assert g711.ulaw_encode(g711.ulaw_decode(ALL_CODES)) == expected


@pytest.mark.parametrize("function", DECODERS + ENCODERS)
def test_empty_input_gives_empty_output(function):
    assert function(b"") == b""
    assert function(b"", out=bytearray()) == 0
    assert function(b"", out=bytearray(4)) == 0


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize(
    "data",
    [
        ALL_CODES,
        bytearray(ALL_CODES),
        memoryview(ALL_CODES),
        memoryview(b"x" + ALL_CODES)[1:],
        array("B", ALL_CODES),
        np.arange(256, dtype=np.uint8),
        np.arange(256, dtype=np.uint8).reshape(16, 16),
        np.frombuffer(ALL_CODES, np.int8),
    ],
    ids=["bytes", "bytearray", "memoryview", "odd address", "array", "uint8", "uint8 16x16", "int8"],
)
def test_decoding_takes_any_contiguous_buffer_of_bytes(decode, data):
    expected = decode(bytes(ALL_CODES))
    assert decode(data) == expected
    out = bytearray(512)
    assert decode(data, out=out) == 256
    assert out == expected


@pytest.mark.parametrize("encode", ENCODERS)
@pytest.mark.parametrize(
    "as_buffer",
    [
        bytes,
        bytearray,
        memoryview,
        lambda pcm: memoryview(b"x" + pcm)[1:],
        lambda pcm: array("h", pcm),
        lambda pcm: np.frombuffer(pcm, np.int16),
        lambda pcm: np.frombuffer(pcm, "<i2"),
        lambda pcm: np.frombuffer(pcm, np.uint8),
        lambda pcm: memoryview(pcm).cast("h"),
        lambda pcm: np.frombuffer(b"x" + pcm, np.uint8)[1:].view(np.int16),
    ],
    ids=[
        "bytes",
        "bytearray",
        "memoryview",
        "odd address",
        "array",
        "int16",
        "<i2",
        "uint8",
        "cast",
        "odd int16",
    ],
)
def test_encoding_takes_any_contiguous_16_bit_pcm(encode, as_buffer):
    pcm = np.arange(-32768, 32768, 101).astype("<i2").tobytes()
    samples = len(pcm) // 2
    expected = encode(pcm)
    assert len(expected) == samples
    assert encode(as_buffer(pcm)) == expected
    out = bytearray(samples)
    assert encode(as_buffer(pcm), out=out) == samples
    assert out == expected


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize(
    "out",
    [
        bytearray(512),
        array("h", [0] * 256),
        np.zeros(256, np.int16),
        np.zeros((2, 128), "<i2"),
        memoryview(bytearray(513))[1:],
    ],
    ids=["bytearray", "array", "int16", "2x128", "odd address"],
)
def test_decoding_fills_any_writable_pcm_buffer(decode, out):
    assert decode(ALL_CODES, out=out) == 256
    assert bytes(memoryview(out).cast("B")) == decode(ALL_CODES)


@pytest.mark.parametrize(("function", "data", "bytes_needed"), [
    *[(decode, ALL_CODES, 512) for decode in DECODERS],
    *[(encode, SWEEP[:512], 256) for encode in ENCODERS],
])  # fmt: skip
def test_an_out_buffer_is_filled_no_further_than_needed(function, data, bytes_needed):
    out = bytearray(b"\xa5" * (bytes_needed + 6))
    assert function(data, out=out) == 256
    assert out[:bytes_needed] == function(data)
    assert out[bytes_needed:] == b"\xa5" * 6


@pytest.mark.parametrize(("function", "data", "bytes_needed"), [
    *[(decode, ALL_CODES, 512) for decode in DECODERS],
    *[(encode, SWEEP[:512], 256) for encode in ENCODERS],
])  # fmt: skip
def test_an_out_buffer_without_room_is_refused_before_a_byte_is_written(function, data, bytes_needed):
    out = bytearray(b"\xa5" * (bytes_needed - 2))
    with pytest.raises(ValueError, match=f"{bytes_needed} are needed"):
        function(data, out=out)
    assert out == b"\xa5" * (bytes_needed - 2)
    out.append(0)  # a buffer still borrowed would refuse to grow


@pytest.mark.parametrize("function", DECODERS + ENCODERS)
def test_a_read_only_out_buffer_is_refused(function):
    data = bytearray(64)
    with pytest.raises(BufferError):
        function(data, out=bytes(128))
    frozen = np.zeros(128, np.uint8)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):  # numpy's own words
        function(data, out=frozen)
    data.append(0)  # the input was given back


@pytest.mark.parametrize("function", DECODERS + ENCODERS)
@pytest.mark.parametrize(
    "data", [np.zeros(8, np.float32), np.zeros(8, np.int32), np.zeros(8, ">i2"), "text", 5, None]
)
def test_items_that_are_neither_codes_nor_pcm_are_a_type_error(function, data):
    with pytest.raises(TypeError):
        function(data)


def test_codes_are_not_pcm_and_pcm_is_not_codes():
    pcm = np.zeros(8, np.int16)
    for decode in DECODERS:
        with pytest.raises(TypeError):
            decode(pcm)
    for encode in ENCODERS:
        with pytest.raises(TypeError):
            encode(pcm, out=pcm)


@pytest.mark.parametrize("encode", ENCODERS)
def test_half_a_sample_is_a_value_error(encode):
    with pytest.raises(ValueError, match="3 bytes"):
        encode(b"abc")


@pytest.mark.parametrize("decode", DECODERS)
def test_half_a_sample_of_room_is_a_value_error(decode):
    with pytest.raises(ValueError, match="3 bytes"):
        decode(b"a", out=bytearray(3))


@pytest.mark.parametrize("function", DECODERS + ENCODERS)
def test_every_second_item_is_not_contiguous_and_refused(function):
    with pytest.raises((BufferError, ValueError)):
        function(np.zeros(16, np.uint8)[::2])


@pytest.mark.parametrize("samples", [4095, 4096, 4097, 50_000])
@pytest.mark.parametrize(("encode", "decode"), PAIRS)
def test_large_calls_that_release_the_gil_give_what_small_ones_give(encode, decode, samples):
    pcm = np.random.default_rng(711).integers(-32768, 32768, samples).astype("<i2").tobytes()
    codes = encode(pcm)
    assert codes == b"".join(encode(pcm[at : at + 2000]) for at in range(0, len(pcm), 2000))
    assert decode(codes) == b"".join(decode(codes[at : at + 1000]) for at in range(0, samples, 1000))
    out = np.zeros(samples, np.int16)
    assert decode(codes, out=out) == samples
    assert out.tobytes() == decode(codes)


@pytest.mark.parametrize(("encode", "decode"), PAIRS)
def test_every_length_from_0_to_300_at_both_address_parities(encode, decode):
    padded = b"x" + SWEEP[20_000:20_600]
    for samples in range(301):
        pcm = padded[1 : 1 + 2 * samples]
        codes = b"".join(encode(pcm[at : at + 2]) for at in range(0, len(pcm), 2))
        assert encode(memoryview(padded)[1 : 1 + 2 * samples]) == codes
        assert encode(pcm) == codes
        assert decode(memoryview(b"x" + codes)[1:]) == decode(codes)


@pytest.mark.parametrize("encode", ENCODERS)
def test_encoding_may_write_over_its_own_input_for_every_length_from_0_to_300(encode):
    for samples in range(301):
        pcm = SWEEP[30_000 : 30_000 + 2 * samples]
        buffer = bytearray(b"x" + pcm)
        view = memoryview(buffer)[1:]
        assert encode(view, out=view) == samples
        assert buffer == b"x" + encode(pcm) + pcm[samples:]


# --- calling: the functions sort their arguments themselves, to save time -----------------------------------


@pytest.mark.parametrize("function", DECODERS + ENCODERS)
def test_arguments_go_by_place_or_by_name_in_any_order(function):
    name = "data" if function in DECODERS else "pcm"
    data, out = SWEEP[:64], bytearray(128)
    expected = function(data)
    assert function(data, None) == function(data, out=None) == function(**{name: data}) == expected
    for call in (
        lambda: function(data, out),
        lambda: function(data, out=out),
        lambda: function(**{name: data, "out": out}),
        lambda: function(**{"out": out, name: data}),
        lambda: function(**{"".join(["o", "ut"]): out, "".join(name): data}),  # names that are not interned
    ):
        out[:] = bytes(128)
        assert call() == len(data) // (1 if function in DECODERS else 2)
        assert out.startswith(expected)


@pytest.mark.parametrize("function", DECODERS + ENCODERS)
def test_arguments_that_do_not_fit_are_a_type_error_that_says_which(function):
    name = "data" if function in DECODERS else "pcm"
    out = bytearray(8)
    for arguments, named, message in [
        ((), {}, f"needs the argument '{name}'"),
        ((), {"out": out}, f"needs the argument '{name}'"),
        ((b"", out, 1), {}, "not 3"),
        ((b"", out, 1), {"out": out}, "not 3"),
        ((b"", out), {"out": out}, "multiple values for argument 'out'"),
        ((b"",), {name: b""}, f"multiple values for argument '{name}'"),
        ((b"",), {"in_place": out}, "unexpected keyword argument 'in_place'"),
        ((b"",), {"out": out, "size": 1}, "unexpected keyword argument 'size'"),
    ]:
        with pytest.raises(TypeError, match=f"{function.__name__}.*{message}"):
            function(*arguments, **named)


@pytest.mark.parametrize("function", DECODERS + ENCODERS)
def test_functions_say_what_they_are_as_any_other(function):
    first = "data" if function in DECODERS else "pcm"
    assert str(inspect.signature(function)) == f"({first}, out=None)"
    assert function.__doc__.splitlines()[0].startswith(("Decode", "Encode"))
    assert function.__module__ == "callreel.kernels.g711"
    assert pickle.loads(pickle.dumps(function)) is function
