"""Tones against the formula in numpy, measured levels and spectra, and themselves in parts."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callreel.kernels import pcm, tone

# ITU-T Q.23.
KEYPAD = {
    697: {1209: "1", 1336: "2", 1477: "3", 1633: "A"},
    770: {1209: "4", 1336: "5", 1477: "6", 1633: "B"},
    852: {1209: "7", 1336: "8", 1477: "9", 1633: "C"},
    941: {1209: "*", 1336: "0", 1477: "#", 1633: "D"},
}
PAIR = {symbol: (low, high) for low, row in KEYPAD.items() for high, symbol in row.items()}


def ints(data):
    return np.frombuffer(data, "<i2")


def peak(dbm0):
    return 32768 * 10 ** ((dbm0 - 3.14) / 20)


def exact(hz, samples, dbm0, rate):
    return peak(dbm0) * np.sin(2 * np.pi * hz * np.arange(samples) / rate)


def is_rounded(data, values):
    """Whether every sample is the nearest integer of its value, saturated."""
    return np.abs(ints(data) - np.clip(values, -32768, 32767)).max(initial=0) < 0.5 + 1e-6


def component_dbm0(data, hz, rate):
    """Level of one frequency in a stretch of whole periods of it."""
    values = ints(data)
    turn = np.exp(-2j * np.pi * hz * np.arange(len(values)) / rate)
    return 20 * math.log10(abs(2 * np.mean(values * turn)) / 32768) + 3.14


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 48000])
@pytest.mark.parametrize("hz", [1, 425, 440.5, 1000, 1004, 3999.9])
@pytest.mark.parametrize("dbm0", [-40, -10, 0, 3.14])
def test_a_sine_is_the_rounded_formula_from_phase_0(hz, dbm0, rate):
    data = tone.sine(hz, 0.25, dbm0, rate)
    assert ints(data)[0] == 0
    assert is_rounded(data, exact(hz, round(0.25 * rate), dbm0, rate))


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 48000])
@pytest.mark.parametrize("dbm0", [-40, -25.5, -10, 0, 3, 3.14])
def test_a_sine_has_the_level_asked_for(dbm0, rate):
    rms, top = pcm.level(tone.sine(1001, 1, dbm0, rate))
    assert rms == pytest.approx(dbm0, abs=0.05)
    assert top == pytest.approx(dbm0, abs=0.05)


def test_full_scale_saturates_at_32767_and_does_not_wrap():
    values = ints(tone.sine(1000, 0.1, 3.14))  # quarter periods of two samples: the peaks are sampled
    assert (values.max(), values.min()) == (32767, -32768)
    both = ints(tone.dual(1000, 1000, 0.1, 3.14, 3.14))
    assert both[:8].tolist() == [0, 32767, 32767, 32767, 0, -32768, -32768, -32768]


@pytest.mark.parametrize(
    ("seconds", "samples"),
    [(0, 0), (1 / 8000, 1), (0.00006, 0), (0.00007, 1), (1 / 3, 2667), (0.02, 160), (300 / 8000, 300)],
)
def test_the_number_of_samples_is_the_nearest_to_the_duration(seconds, samples):
    assert len(tone.sine(1000, seconds, -10)) == 2 * samples
    assert len(tone.dual(350, 440, seconds, -13, -13)) == 2 * samples
    assert len(tone.dtmf("5", seconds)) == 2 * samples
    assert len(tone.beep(seconds=seconds)) == 2 * samples


def test_every_length_from_0_to_300_begins_the_same_tone():
    whole, whole_dtmf = tone.sine(697, 0.1, -10), tone.dtmf("1", 0.1)
    for samples in range(301):
        assert tone.sine(697, samples / 8000, -10) == whole[: 2 * samples]
        assert tone.dtmf("1", samples / 8000) == whole_dtmf[: 2 * samples]


def test_an_hour_of_tone_is_still_in_phase_at_its_end():
    values = ints(tone.sine(1000.5, 3600, -10))
    assert len(values) == 3600 * 8000
    last = np.arange(3599 * 8000, 3600 * 8000)
    # Turns in whole numbers: 1000.5 / 8000 = 2001 / 16000.
    ideal = peak(-10) * np.sin(2 * np.pi * (2001 * last % 16000) / 16000)
    assert np.abs(values[last] - ideal).max() < 0.5 + 1e-4


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_a_dual_tone_is_the_sum_of_two_sines_each_at_its_own_level(rate):
    data = tone.dual(350, 440, 1, -13, -16.5, rate)
    assert is_rounded(data, exact(350, rate, -13, rate) + exact(440, rate, -16.5, rate))
    assert component_dbm0(data, 350, rate) == pytest.approx(-13, abs=0.05)
    assert component_dbm0(data, 440, rate) == pytest.approx(-16.5, abs=0.05)


def test_symbols_stand_in_the_order_of_their_rfc_4733_event_codes():
    assert tone.DTMF_SYMBOLS == "0123456789*#ABCD"


@pytest.mark.parametrize("symbol", PAIR)
def test_a_symbol_has_the_frequencies_of_q23(symbol):
    assert tone.frequencies(symbol) == PAIR[symbol]


@pytest.mark.parametrize("symbol", PAIR)
@pytest.mark.parametrize("rate", [8000, 16000])
def test_a_dtmf_tone_has_its_two_frequencies_and_nothing_else(symbol, rate):
    data = tone.dtmf(symbol, 1, sample_rate=rate)
    low, high = PAIR[symbol]
    assert component_dbm0(data, low, rate) == pytest.approx(-6, abs=0.05)
    assert component_dbm0(data, high, rate) == pytest.approx(-6, abs=0.05)
    spectrum = np.abs(np.fft.rfft(ints(data)))  # one bin per Hz
    assert set(np.argsort(spectrum)[-2:]) == {low, high}
    assert sorted(spectrum)[-3] < 1e-4 * spectrum[low]


@pytest.mark.parametrize("twist_db", [-8, -4, 0, 4, 8])
def test_twist_moves_the_high_group_and_leaves_the_low_group_at_its_level(twist_db):
    data = tone.dtmf("9", 1, -10, twist_db=twist_db)
    assert component_dbm0(data, 852, 8000) == pytest.approx(-10, abs=0.05)
    assert component_dbm0(data, 1477, 8000) == pytest.approx(-10 + twist_db, abs=0.05)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(PAIR)),
    st.lists(st.integers(0, 200), max_size=8),
    st.sampled_from([0.0, 5.0, 12.3]),
    st.booleans(),
)
def test_a_tone_in_parts_is_the_tone_at_once(symbol, parts, ramp_ms, end_known):
    total = sum(parts)
    end = total if end_known else None
    whole = tone.dtmf_part(symbol, 0, total, end, ramp_ms=ramp_ms)
    joined, first = b"", 0
    for part in parts:
        joined += tone.dtmf_part(symbol, first, part, end, ramp_ms=ramp_ms)
        first += part
    assert joined == whole
    if end_known:
        assert whole == tone.dtmf(symbol, total / 8000, ramp_ms=ramp_ms)


def test_an_end_learned_before_its_ramp_gives_the_tone_that_was_known_from_the_start():
    whole = tone.dtmf("#", 0.1, ramp_ms=5)
    joined = tone.dtmf_part("#", 0, 760) + tone.dtmf_part("#", 760, 40, 800)  # 5 ms are 40 samples
    assert joined == whole
    late = tone.dtmf_part("#", 0, 761) + tone.dtmf_part("#", 761, 39, 800)
    assert late != whole


def test_after_its_end_a_tone_is_silent():
    assert tone.dtmf_part("7", 90, 30, 100, ramp_ms=0)[20:] == bytes(40)
    assert tone.dtmf_part("7", 90, 10, 100, ramp_ms=0) != bytes(20)
    assert tone.dtmf_part("7", 5000, 10, 100) == bytes(20)
    assert tone.dtmf_part("7", 0, 10, 0) == bytes(20)


def test_the_phase_is_exact_however_far_the_sample_is():
    # Whole Hz repeat every second, so a whole number of seconds on the samples are the same.
    seconds = 2**63 // 8000 - 1
    assert tone.dtmf_part("C", seconds * 8000, 4000, ramp_ms=0) == tone.dtmf_part("C", 0, 4000, ramp_ms=0)


def test_large_parts_that_release_the_gil_give_what_small_ones_give():
    small = b"".join(tone.dtmf_part("2", first, 500, 20_000) for first in range(0, 20_000, 500))
    assert tone.dtmf_part("2", 0, 20_000, 20_000) == small


@pytest.mark.parametrize(("total", "ramp_ms"), [(800, 5), (800, 50), (60, 5), (60, 10), (1, 5), (2, 1000)])
def test_ramps_are_raised_cosines_whose_product_counts_where_they_overlap(total, ramp_ms):
    ramp = round(ramp_ms * 8)
    rise = np.ones(max(total, ramp))
    rise[:ramp] = 0.5 - 0.5 * np.cos(np.pi * (np.arange(ramp) + 0.5) / ramp)
    rise = rise[:total]
    bare = exact(697, total, -6, 8000) + exact(1633, total, -6, 8000)
    assert is_rounded(tone.dtmf("A", total / 8000, ramp_ms=ramp_ms), rise * rise[::-1] * bare)


def test_a_dtmf_tone_without_ramps_starts_and_ends_hard():
    assert is_rounded(tone.dtmf("A", 0.1), exact(697, 800, -6, 8000) + exact(1633, 800, -6, 8000))


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_a_beep_does_not_click(rate):
    values = ints(tone.beep(sample_rate=rate))
    assert abs(int(values[0])) <= 1
    assert abs(int(values[-1])) <= 1
    # Surrounded by silence, as it is played: outside 200 Hz around the tone all is 60 dB down.
    spectrum = np.abs(np.fft.rfft(values, 1 << 18))
    away = np.abs(np.fft.rfftfreq(1 << 18, 1 / rate) - 1400) > 200
    assert 20 * math.log10(spectrum[away].max() / spectrum.max()) < -60
    # The measure hears a click: the same tone cut off hard fails it by far.
    hard = np.abs(np.fft.rfft(ints(tone.beep(sample_rate=rate, ramp_ms=0, hz=1401.25)), 1 << 18))
    assert 20 * math.log10(hard[away].max() / hard.max()) > -55


def test_a_beep_has_its_level_between_the_ramps():
    values = ints(tone.beep())
    assert len(values) == 3200
    assert pcm.level(values[80:-80])[0] == pytest.approx(-12, abs=0.05)
    assert component_dbm0(values[80:-80].tobytes(), 1400, 8000) == pytest.approx(-12, abs=0.05)


MAKERS = {
    "sine": lambda hz=1000, seconds=0.1, dbm0=-10, sample_rate=8000: tone.sine(
        hz, seconds, dbm0, sample_rate
    ),
    "dual low": lambda hz=350, seconds=0.1, dbm0=-10, sample_rate=8000: tone.dual(
        hz, 440, seconds, dbm0, -10, sample_rate
    ),
    "dual high": lambda hz=440, seconds=0.1, dbm0=-10, sample_rate=8000: tone.dual(
        350, hz, seconds, -10, dbm0, sample_rate
    ),
    "beep": lambda hz=1400, seconds=0.1, dbm0=-10, sample_rate=8000: tone.beep(
        hz, seconds, dbm0, sample_rate
    ),
    "dtmf": lambda seconds=0.1, dbm0=-10, sample_rate=8000: tone.dtmf("1", seconds, dbm0, sample_rate),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("seconds", [-0.001, 3600.1, math.nan, math.inf, -math.inf])
def test_a_duration_below_0_or_above_an_hour_is_refused(name, seconds):
    with pytest.raises(ValueError, match="outside 0 to 3600"):
        MAKERS[name](seconds=seconds)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("dbm0", [3.15, 100, math.nan, math.inf, -math.inf])
def test_a_level_above_full_scale_or_not_finite_is_refused(name, dbm0):
    with pytest.raises(ValueError, match="above full scale"):
        MAKERS[name](dbm0=dbm0)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("sample_rate", [0, -8000, 7999, 48001, 2**70])
def test_a_sample_rate_outside_8_to_48_khz_is_refused(name, sample_rate):
    with pytest.raises(ValueError, match="outside 8000 to 48000 Hz"):
        MAKERS[name](sample_rate=sample_rate)


@pytest.mark.parametrize("name", MAKERS)
def test_a_sample_rate_that_is_not_a_whole_number_is_a_type_error(name):
    with pytest.raises(TypeError):
        MAKERS[name](sample_rate=8000.0)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "dtmf"])
@pytest.mark.parametrize("hz", [0, -1, 4000, 5000, math.nan, math.inf])
def test_a_frequency_from_half_the_sample_rate_up_is_refused(name, hz):
    with pytest.raises(ValueError, match="half the sample rate, 4000 Hz"):
        MAKERS[name](hz=hz)


def test_a_twist_that_lifts_the_high_group_above_full_scale_is_refused():
    assert len(tone.dtmf("1", 0.01, 0, twist_db=3)) == 160
    for twist_db in (3.2, math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="above full scale"):
            tone.dtmf("1", 0.01, 0, twist_db=twist_db)
        with pytest.raises(ValueError, match="above full scale"):
            tone.dtmf_part("1", 0, 80, dbm0=0, twist_db=twist_db)


@pytest.mark.parametrize("ramp_ms", [-1, 1001, math.nan, math.inf])
def test_a_ramp_below_0_or_above_a_second_is_refused(ramp_ms):
    for make in (tone.beep, lambda ramp_ms: tone.dtmf("1", 0.1, ramp_ms=ramp_ms)):
        with pytest.raises(ValueError, match="outside 0 to 1000"):
            make(ramp_ms=ramp_ms)
    with pytest.raises(ValueError, match="outside 0 to 1000"):
        tone.dtmf_part("1", 0, 80, ramp_ms=ramp_ms)


@pytest.mark.parametrize("symbol", ["", "12", "a", "E", " ", "١"])
def test_a_text_that_is_no_symbol_is_refused(symbol):
    for use in (
        tone.frequencies,
        lambda symbol: tone.dtmf(symbol, 0.1),
        lambda symbol: tone.dtmf_part(symbol, 0, 8),
    ):
        with pytest.raises(ValueError, match="not one of the DTMF symbols"):
            use(symbol)


@pytest.mark.parametrize("symbol", [1, b"1", None])
def test_a_symbol_that_is_not_text_is_a_type_error(symbol):
    with pytest.raises(TypeError):
        tone.dtmf(symbol, 0.1)


@pytest.mark.parametrize(
    ("first_sample", "samples", "total_samples"),
    [(-1, 8, None), (2**63, 8, None), (0, -1, None), (0, 3600 * 8000 + 1, None), (0, 8, -1), (0, 8, 2**63)],
)
def test_a_part_outside_what_a_stream_can_hold_is_refused(first_sample, samples, total_samples):
    with pytest.raises(ValueError, match="outside 0 to"):
        tone.dtmf_part("1", first_sample, samples, total_samples)


def test_a_part_that_is_not_a_whole_number_of_samples_is_a_type_error():
    with pytest.raises(TypeError):
        tone.dtmf_part("1", 0.0, 8)
    with pytest.raises(TypeError):
        tone.dtmf_part("1", 0, 8.0)
