"""Linear PCM kernels against numpy, value by value."""

import math
from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callreel.kernels import g711, pcm

FULL_SCALE_DBM0 = 3.14  # ITU-T G.711: the overload point of A-law, at 32768 here

SAMPLES = st.lists(st.integers(-32768, 32767), max_size=60)
EVERY_VALUE = np.arange(-32768, 32768).astype("<i2")
# The 0 dBm0, 1 kHz sequences of ITU-T G.711 tables 5 and 6, one period each.
MILLIWATT_ULAW = bytes.fromhex("1E 0B 0B 1E 9E 8B 8B 9E")
MILLIWATT_ALAW = bytes.fromhex("34 21 21 34 B4 A1 A1 B4")


def noise(samples, seed=0):
    """Full-scale noise with both extremes in it."""
    values = np.random.default_rng(seed).integers(-32768, 32768, samples).astype("<i2")
    if samples > 1:
        values[samples // 3], values[samples // 2] = -32768, 32767
    return values


def ints(data):
    return np.frombuffer(data, "<i2")


def at_odd_address(data):
    return memoryview(b"x" + bytes(data))[1:]


def odd_room(size_bytes):
    """A writable view of so many bytes at an odd offset, and the bytearray that guards it on both sides."""
    whole = bytearray(b"\xa5" * (size_bytes + 2))
    return memoryview(whole)[1 : 1 + size_bytes], whole


# --- interleave, deinterleave ---------------------------------------------------------------------------


def test_interleaving_puts_left_first():
    assert pcm.interleave(b"\x01\x02\x03\x04", b"\x11\x12\x13\x14") == b"\x01\x02\x11\x12\x03\x04\x13\x14"


def test_interleave_and_back_for_every_length_from_0_to_300_at_odd_addresses():
    for frames in range(301):
        left, right = noise(frames, 1), noise(frames, 2)
        expected = np.stack([left, right], axis=1).tobytes()
        assert pcm.interleave(left, right) == expected
        view, whole = odd_room(4 * frames)
        assert pcm.interleave(at_odd_address(left), at_odd_address(right), out=view) == 2 * frames
        assert whole == b"\xa5" + expected + b"\xa5"
        assert pcm.deinterleave(expected) == (left.tobytes(), right.tobytes())
        left_view, left_whole = odd_room(2 * frames)
        right_view, right_whole = odd_room(2 * frames)
        assert pcm.deinterleave(at_odd_address(expected), left_view, right_view) == frames
        assert left_whole == b"\xa5" + left.tobytes() + b"\xa5"
        assert right_whole == b"\xa5" + right.tobytes() + b"\xa5"
        for channel, samples in (("left", left), ("right", right)):
            view, whole = odd_room(2 * frames)
            assert pcm.deinterleave(at_odd_address(expected), **{channel: view}) == frames
            assert whole == b"\xa5" + samples.tobytes() + b"\xa5"


@pytest.mark.parametrize("frames", [2047, 2048, 4096, 50_001])
def test_large_channels_weave_without_the_gil_to_the_same_stereo(frames):
    left, right = noise(frames, 3), noise(frames, 4)
    stereo = np.stack([left, right], axis=1)
    assert pcm.interleave(left, right) == stereo.tobytes()
    assert pcm.deinterleave(stereo) == (left.tobytes(), right.tobytes())
    out = np.zeros(frames, np.int16)
    assert pcm.deinterleave(stereo, right=out) == frames
    assert np.array_equal(out, right)


def test_deinterleave_with_one_buffer_fills_only_that_channel():
    stereo = array("h", [1, -1, 2, -2, 3, -3])
    left, right = array("h", [9] * 4), array("h", [9] * 4)
    assert pcm.deinterleave(stereo, left=left) == 3
    assert left.tolist() == [1, 2, 3, 9]
    assert pcm.deinterleave(stereo, right=right) == 3
    assert right.tolist() == [-1, -2, -3, 9]


def test_channels_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="4 and 6 bytes"):
        pcm.interleave(bytes(4), bytes(6))


def test_an_odd_number_of_samples_is_not_stereo():
    with pytest.raises(ValueError, match="3 samples"):
        pcm.deinterleave(bytes(6))


def test_deinterleave_checks_both_buffers_before_it_writes_into_one():
    left = bytearray(b"\xa5" * 8)
    with pytest.raises(ValueError, match="8 are needed"):
        pcm.deinterleave(bytes(16), left, bytearray(6))
    assert left == b"\xa5" * 8
    left.append(0)  # given back


# --- mix ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tracks", [1, 2, 3, 7, 8])
def test_mix_is_the_saturated_sum_for_every_length_from_0_to_300(tracks):
    for samples in range(0, 301, 13 if tracks in (1, 7) else 1):
        sources = [noise(samples, seed) for seed in range(tracks)]
        expected = np.clip(np.sum(sources, axis=0, dtype=np.int64), -32768, 32767).astype("<i2").tobytes()
        assert pcm.mix(sources) == expected
        view, whole = odd_room(2 * samples)
        assert pcm.mix([at_odd_address(source) for source in sources], out=view) == samples
        assert whole == b"\xa5" + expected + b"\xa5"


@pytest.mark.parametrize("samples", [511, 512, 513, 1024, 1365, 1366, 4096, 20_000])
def test_mix_has_no_seam_between_its_blocks_nor_where_it_releases_the_gil(samples):
    sources = [noise(samples, seed) for seed in range(3)]
    expected = np.clip(np.sum(sources, axis=0, dtype=np.int64), -32768, 32767).astype("<i2").tobytes()
    assert pcm.mix(sources) == expected


@settings(deadline=None, max_examples=50)
@given(st.data(), st.integers(0, 20), st.integers(1, 6))
def test_the_order_of_tracks_does_not_change_the_mix(data, samples, count):
    values = st.lists(st.integers(-32768, 32767), min_size=samples, max_size=samples)
    tracks = data.draw(st.lists(values, min_size=count, max_size=count))
    shuffled = data.draw(st.permutations(tracks))
    mixed = pcm.mix([array("h", track) for track in tracks])
    assert pcm.mix([array("h", track) for track in shuffled]) == mixed
    assert ints(mixed).tolist() == [
        max(-32768, min(32767, sum(column))) for column in zip(*tracks, strict=True)
    ]


def test_mix_saturates_once_not_track_by_track():
    # Pairwise saturation would give 32767 - 30000 = 2767.
    assert ints(pcm.mix([array("h", [30000]), array("h", [30000]), array("h", [-30000])])).tolist() == [30000]


def test_mix_of_a_thousand_full_scale_tracks_does_not_overflow():
    low, high = array("h", [-32768, 32767]), array("h", [32767, -32768])
    assert ints(pcm.mix([low] * 1000)).tolist() == [-32768, 32767]
    assert ints(pcm.mix([low, high] * 500)).tolist() == [-500, -500]


def test_mix_takes_65535_tracks_and_no_more():
    track = array("h", [-32768, 32767, 0])
    assert ints(pcm.mix([track] * 65535)).tolist() == [-32768, 32767, 0]
    with pytest.raises(ValueError, match="65536"):
        pcm.mix([track] * 65536)


def test_mix_may_write_over_any_of_its_tracks():
    for target in range(3):
        tracks = [bytearray(noise(1500, seed).tobytes()) for seed in range(3)]
        expected = pcm.mix(tracks)
        assert pcm.mix(tracks, out=tracks[target]) == 1500
        assert tracks[target] == expected


def test_mix_of_no_track_is_refused():
    with pytest.raises(ValueError, match="not 0"):
        pcm.mix([])


def test_mix_of_unequal_tracks_is_refused_before_it_writes_and_gives_all_buffers_back():
    tracks, out = [bytearray(4), bytearray(4), bytearray(6)], bytearray(b"\xa5" * 8)
    with pytest.raises(ValueError, match="track 2 has 6 bytes, track 0 has 4"):
        pcm.mix(tracks, out=out)
    with pytest.raises(TypeError):
        pcm.mix([*tracks[:2], np.zeros(2, np.float32)], out=out)
    with pytest.raises(ValueError, match="4 are needed"):
        pcm.mix(tracks[:2], out=bytearray(2))
    assert out == b"\xa5" * 8
    for buffer in [*tracks, out]:
        buffer.append(0)  # would raise BufferError while borrowed


def test_mix_of_something_that_is_not_a_sequence_of_buffers_is_a_type_error():
    for wrong in (5, None, b"ab", [1, 2]):
        with pytest.raises(TypeError):
            pcm.mix(wrong)


# --- mix minus ------------------------------------------------------------------------------------------


def minus(tracks):
    """What numpy says of it."""
    total = np.sum(tracks, axis=0, dtype=np.int64)
    return [np.clip(total - track, -32768, 32767).astype("<i2").tobytes() for track in tracks]


@pytest.mark.parametrize("tracks", [1, 2, 3, 8, 100])
def test_mix_minus_is_the_saturated_sum_of_the_others_for_every_length_from_0_to_200(tracks):
    for samples in range(0, 201, 13 if tracks in (1, 100) else 1):
        sources = [noise(samples, seed) for seed in range(tracks)]
        assert pcm.mix_minus([at_odd_address(source) for source in sources]) == minus(sources)


def test_mix_minus_releases_the_gil_for_long_tracks_and_gives_the_same():
    sources = [noise(20_000, seed) for seed in range(3)]
    assert pcm.mix_minus(sources) == minus(sources)


def test_mix_minus_saturates_once_after_the_own_track_is_taken_off():
    # Saturated before, the total would be 32767, and the loud one would hear 2767.
    heard = pcm.mix_minus([array("h", [value]) for value in (30_000, 30_000, -30_000)])
    assert [ints(one).tolist() for one in heard] == [[0], [0], [32767]]


def test_mix_minus_of_one_track_is_silence():
    assert pcm.mix_minus([noise(160, 1)]) == [bytes(320)]


def test_mix_minus_of_65535_full_scale_tracks_does_not_overflow():
    track = array("h", [-32768, 32767, 0])
    assert set(pcm.mix_minus([track] * 65535)) == {track.tobytes()}
    with pytest.raises(ValueError, match="65536"):
        pcm.mix_minus([track] * 65536)


def test_mix_minus_of_no_track_or_unequal_tracks_is_refused_and_gives_all_buffers_back():
    tracks = [bytearray(4), bytearray(4), bytearray(6)]
    with pytest.raises(ValueError, match="not 0"):
        pcm.mix_minus([])
    with pytest.raises(ValueError, match="track 2 has 6 bytes, track 0 has 4"):
        pcm.mix_minus(tracks)
    for wrong in (5, None, b"ab", [1, 2]):
        with pytest.raises(TypeError):
            pcm.mix_minus(wrong)
    for buffer in tracks:
        buffer.append(0)  # would raise BufferError while borrowed


# --- gain -----------------------------------------------------------------------------------------------


def float32_gain(values, db):
    """The rule of pcm.h, in numpy: one float32 product, clamped, rounded to nearest with ties to even."""
    product = values.astype(np.float32) * np.float32(10 ** (db / 20))
    return np.rint(np.clip(product, np.float32(-32768), np.float32(32767))).astype("<i2")


@pytest.mark.parametrize("db", [-200, -96, -60, -6.0206, -6, -3, -0.01, 0.01, 1, 3, 6, 6.0206, 20, 90.3, 200])
def test_gain_of_all_65536_values_follows_the_float32_rule(db):
    louder = ints(pcm.gain(EVERY_VALUE, db))
    assert np.array_equal(louder, float32_gain(EVERY_VALUE, db))
    exact = np.clip(EVERY_VALUE * 10 ** (db / 20), -32768, 32767)
    assert np.abs(louder - exact).max() < 0.505  # nearest, within the precision of float32


def test_a_gain_of_0_db_changes_nothing():
    assert pcm.gain(EVERY_VALUE, 0) == EVERY_VALUE.tobytes()
    assert pcm.gain(EVERY_VALUE, -0.0) == EVERY_VALUE.tobytes()


def test_half_a_step_is_rounded_to_even():
    half = 20 * math.log10(0.5)
    assert ints(pcm.gain(array("h", [1, 3, 5, 7, -1, -3, -5, -7]), half)).tolist() == [
        0,
        2,
        2,
        4,
        0,
        -2,
        -2,
        -4,
    ]


def test_gain_saturates_at_both_ends():
    assert ints(pcm.gain(array("h", [20000, -20000, 1, -1, 0]), 200)).tolist() == [
        32767,
        -32768,
        32767,
        -32768,
        0,
    ]
    assert ints(pcm.gain(array("h", [32767, -32768]), -200)).tolist() == [0, 0]


def test_gain_in_place_and_at_odd_addresses_for_every_length_from_0_to_300():
    for samples in range(301):
        source = noise(samples, samples)
        expected = float32_gain(source, 2.5).tobytes()
        buffer = bytearray(source.tobytes())
        assert pcm.gain(buffer, 2.5, out=buffer) == samples
        assert buffer == expected
        view, whole = odd_room(2 * samples)
        assert pcm.gain(at_odd_address(source), 2.5, out=view) == samples
        assert whole == b"\xa5" + expected + b"\xa5"


@pytest.mark.parametrize("db", [math.nan, math.inf, -math.inf, 200.001, -200.001])
def test_a_gain_that_is_not_finite_or_beyond_200_db_is_refused(db):
    buffer = bytearray(b"\x01\x02")
    with pytest.raises(ValueError, match="outside -200 to 200 dB"):
        pcm.gain(buffer, db, out=buffer)
    assert buffer == b"\x01\x02"


# --- level ----------------------------------------------------------------------------------------------


def exact_levels(values):
    """Level by the definition, from an exact integer sum of squares."""
    values = [int(value) for value in values]
    squares, peak = sum(value * value for value in values), max(map(abs, values), default=0)
    if not squares:
        return -math.inf, -math.inf
    rms = math.sqrt(squares / len(values))
    full_scale_rms = 32768 / math.sqrt(2)
    return (
        FULL_SCALE_DBM0 + 20 * math.log10(rms / full_scale_rms),
        FULL_SCALE_DBM0 + 20 * math.log10(peak / 32768),
    )


@settings(deadline=None, max_examples=100)
@given(SAMPLES)
def test_level_is_that_of_the_exact_sum_of_squares(values):
    rms, peak = exact_levels(values)
    assert pcm.level(array("h", values)) == (pytest.approx(rms, abs=1e-9), pytest.approx(peak, abs=1e-9))


@pytest.mark.parametrize("samples", [1, 2, 299, 300, 4095, 4096, 100_000])
def test_level_of_noise_is_that_of_numpy_at_both_address_parities(samples):
    values = noise(samples, 5)
    rms = 20 * np.log10(np.sqrt(np.mean(values.astype(np.float64) ** 2)) / 32768) + 3.14 + 3.0103
    assert pcm.level(values)[0] == pytest.approx(rms, abs=1e-4)
    assert pcm.level(at_odd_address(values)) == pcm.level(values)


def test_level_of_every_length_from_0_to_300_counts_every_sample_once():
    for samples in range(301):
        values = noise(samples, samples)
        rms, peak = exact_levels(values)
        expected = (pytest.approx(rms, abs=1e-12), pytest.approx(peak, abs=1e-12))
        assert pcm.level(values) == expected
        assert pcm.level(at_odd_address(values)) == expected


@pytest.mark.parametrize("place", range(70))
@pytest.mark.parametrize("peak", [-32768, 32767])
def test_one_loud_sample_is_found_wherever_it_stands(place, peak):
    values = np.zeros(70, np.int16)
    values[place] = peak
    rms, _ = pcm.level(values)
    assert rms == pytest.approx(exact_levels(values)[0], abs=1e-12)
    assert pcm.level(values)[1] == pytest.approx(20 * math.log10(abs(peak) / 32768) + 3.14, abs=1e-12)


def test_the_digital_milliwatt_of_both_laws_reads_0_dbm0():
    assert pcm.level(g711.ulaw_decode(MILLIWATT_ULAW * 100))[0] == pytest.approx(0, abs=0.1)
    assert pcm.level(g711.alaw_decode(MILLIWATT_ALAW * 100))[0] == pytest.approx(0, abs=0.1)


def test_the_loudest_sine_reads_3_14_dbm0_in_both():
    # 999 Hz visits the peak within 1 in 32768 during a second, and never twice the same phase.
    sine = np.clip(np.rint(32768 * np.sin(2 * np.pi * 999 * np.arange(8000) / 8000)), -32768, 32767)
    rms, peak = pcm.level(sine.astype("<i2"))
    assert rms == pytest.approx(3.14, abs=0.001)
    assert peak == pytest.approx(3.14, abs=0.001)


def test_the_most_negative_sample_has_the_peak_32768():
    assert pcm.level(array("h", [0, -32768, 0]))[1] == pytest.approx(3.14, abs=1e-12)
    assert pcm.level(array("h", [0, 32767, 0]))[1] == pytest.approx(
        3.14 + 20 * math.log10(32767 / 32768), abs=1e-12
    )


def test_the_sum_of_squares_does_not_overflow_32_bits():
    loud = np.full(100_000, -32768, "<i2")  # 2^30 each
    assert pcm.level(loud)[0] == pytest.approx(3.14 + 10 * math.log10(2), abs=1e-12)


@pytest.mark.parametrize("silence", [b"", bytes(2), bytes(1000), bytes(20_000)])
def test_silence_and_nothing_have_the_level_minus_infinity(silence):
    assert pcm.level(silence) == (-math.inf, -math.inf)


# --- frame levels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame_samples", [1, 7, 80, 160, 300])
def test_frame_levels_are_the_levels_of_the_whole_frames(frame_samples):
    for samples in range(301):
        values = noise(samples, samples)
        expected = [
            exact_levels(values[at : at + frame_samples])[0]
            for at in range(0, samples - frame_samples + 1, frame_samples)
        ]
        levels = np.frombuffer(pcm.frame_levels(values, frame_samples), np.float32)
        assert levels.tolist() == pytest.approx(expected, abs=1e-5)


def test_frame_levels_of_silent_frames_are_minus_infinity():
    values = array("h", [0] * 4 + [0, 1000, 0, 0] + [0] * 4 + [5, 5])
    levels = np.frombuffer(pcm.frame_levels(values, 4), np.float32)
    assert levels[0] == levels[2] == -np.inf
    assert len(levels) == 3
    assert levels[1] == pytest.approx(20 * math.log10(500 / 32768) + 3.14 + 3.0103, abs=1e-4)


def test_frame_levels_fill_float32_or_bytes_and_return_their_count():
    values = noise(5000, 6)  # beyond the size that releases the GIL
    expected = pcm.frame_levels(values, 160)
    assert len(expected) == 31 * 4
    floats = np.full(33, 9, np.float32)
    assert pcm.frame_levels(values, 160, out=floats) == 31
    assert floats[:31].tobytes() == expected
    assert floats[31:].tolist() == [9, 9]
    view, whole = odd_room(31 * 4)
    assert pcm.frame_levels(at_odd_address(values), 160, out=view) == 31
    assert whole == b"\xa5" + expected + b"\xa5"
    assert pcm.frame_levels(values, 160, out=array("f", [0] * 31)) == 31


def test_frame_levels_refuse_a_wrong_out_before_they_write():
    values = noise(320, 7)
    with pytest.raises(TypeError):
        pcm.frame_levels(values, 160, out=np.zeros(2, np.float64))
    with pytest.raises(TypeError):
        pcm.frame_levels(values, 160, out=np.zeros(4, np.int16))
    with pytest.raises(BufferError):
        pcm.frame_levels(values, 160, out=bytes(8))
    short = bytearray(b"\xa5" * 7)
    with pytest.raises(ValueError, match="8 are needed"):
        pcm.frame_levels(values, 160, out=short)
    assert short == b"\xa5" * 7


@pytest.mark.parametrize("frame_samples", [0, -1, 2**31, 2**70])
def test_a_frame_of_no_samples_or_of_absurdly_many_is_refused(frame_samples):
    with pytest.raises(ValueError, match="frames of"):
        pcm.frame_levels(bytes(8), frame_samples)


def test_a_frame_length_that_is_not_a_whole_number_is_a_type_error():
    with pytest.raises(TypeError):
        pcm.frame_levels(bytes(8), 2.0)


# --- arguments, for all -----------------------------------------------------------------------------------

CALLS = {
    "interleave": lambda data, out=None: pcm.interleave(data, data, out),
    "mix": lambda data, out=None: pcm.mix([data, data], out),
    "gain": lambda data, out=None: pcm.gain(data, -3, out),
}
READERS = {
    **CALLS,
    "deinterleave": pcm.deinterleave,
    "mix_minus": lambda data: b"".join(pcm.mix_minus([data, data])),
    "level": pcm.level,
    "frame_levels": lambda data: pcm.frame_levels(data, 1),
    "resample": lambda data: pcm.resample(data, 8000, 16000),
}


@pytest.mark.parametrize("name", READERS)
def test_every_kind_of_16_bit_buffer_gives_the_same(name):
    values, call = noise(64, 8), READERS[name]
    raw = values.tobytes()
    expected = call(raw)
    for same in (
        bytearray(raw),
        memoryview(raw),
        at_odd_address(raw),
        array("h", raw),
        values,
        values.reshape(2, 32),
        np.frombuffer(raw, np.uint8),
        memoryview(raw).cast("h"),
    ):
        assert call(same) == expected


@pytest.mark.parametrize("name", READERS)
def test_empty_pcm_is_legal(name):
    assert READERS[name](b"") in (b"", (b"", b""), (-math.inf, -math.inf))


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "wrong", [np.zeros(4, np.float32), np.zeros(4, np.uint16), np.zeros(4, ">i2"), "text", 4]
)
def test_items_that_are_not_16_bit_pcm_are_a_type_error(name, wrong):
    with pytest.raises(TypeError):
        READERS[name](wrong)


@pytest.mark.parametrize("name", READERS)
def test_half_a_sample_is_a_value_error(name):
    with pytest.raises(ValueError, match="3 bytes"):
        READERS[name](b"abc")


@pytest.mark.parametrize("name", READERS)
def test_every_second_sample_is_not_contiguous_and_refused(name):
    with pytest.raises((BufferError, ValueError)):
        READERS[name](np.zeros(8, np.int16)[::2])


@pytest.mark.parametrize("name", CALLS)
def test_an_out_buffer_must_be_writable_have_room_and_gets_no_more_than_needed(name):
    data, call = bytearray(noise(20, 9).tobytes()), CALLS[name]
    expected = call(data)
    with pytest.raises(BufferError):
        call(data, bytes(len(expected)))
    with pytest.raises(TypeError):
        call(data, np.zeros(200, np.float32))
    short = bytearray(b"\xa5" * (len(expected) - 2))
    with pytest.raises(ValueError, match="are needed"):
        call(data, short)
    assert short == b"\xa5" * len(short)
    roomy = bytearray(b"\xa5" * (len(expected) + 4))
    assert call(data, roomy) == len(expected) // 2
    assert roomy == expected + b"\xa5" * 4
    for buffer in (data, short, roomy):
        buffer.append(0)  # everything was given back


# ---- silence ----


def silence_as_specified(levels, threshold_dbm0, sound_frames, initial, trailing):
    """The frame whose end is the end of the silence, and whether anything was said; None for never."""
    silent = loud = 0
    spoken = False
    for number, level in enumerate(levels, 1):
        loud = loud + 1 if level >= threshold_dbm0 else 0
        if loud >= sound_frames:
            spoken, silent = True, 0
            continue
        silent += 1
        limit = trailing if spoken else initial
        if limit and silent >= limit:
            return number, spoken
    return None


@given(
    st.lists(st.sampled_from([0, 0, 0, 3, 400, 20_000]), max_size=60),
    st.lists(st.integers(1, 700), min_size=1, max_size=9),
    st.integers(1, 200),
    st.integers(1, 4),
    st.integers(0, 9),
    st.integers(0, 9),
)
def test_a_silence_ends_where_the_levels_of_its_frames_say_however_it_is_fed(
    peaks, cuts, frame_samples, sound_frames, initial, trailing
):
    left = np.concatenate([np.full(frame_samples, peak, "<i2") for peak in peaks] + [np.zeros(0, "<i2")])
    stereo = pcm.interleave(left.tobytes(), noise(len(left)).tobytes())
    levels = np.frombuffer(pcm.frame_levels(left, frame_samples), "<f4")
    expected = silence_as_specified(levels, -30.0, sound_frames, initial, trailing)
    meter = pcm.SilenceMeter(frame_samples, -30.0, sound_frames, initial, trailing)
    at = turn = 0
    found = None
    while at < len(left) and found is None:
        end = min(len(left), at + cuts[turn % len(cuts)])
        found = meter.feed(stereo[4 * at : 4 * end])
        if found is not None:
            found = (at + found[0], found[1])
        at, turn = end, turn + 1
    assert found == (None if expected is None else (expected[0] * frame_samples, expected[1]))


def test_a_silence_counted_anew_remembers_that_something_was_said():
    meter = pcm.SilenceMeter(10, -30.0, 1, 2, 3)
    loud, silent = pcm.interleave(*[bytes(b"\x40" * 20)] * 2), bytes(40)
    assert meter.feed(loud + silent * 2 + silent[:20]) is None
    meter.restart()
    assert meter.feed(silent * 2) is None
    assert meter.feed(silent) == (10, True)


def test_silence_is_measured_in_whole_stereo_frames():
    with pytest.raises(ValueError, match="stereo"):
        pcm.SilenceMeter(160, -30.0, 3, 1, 1).feed(bytes(6))
    with pytest.raises(ValueError, match="frames of 0 samples"):
        pcm.SilenceMeter(0, -30.0, 3, 1, 1)
