"""The resampler of callreel.kernels.pcm: against its definition in numpy, ideal sines, itself in pieces."""

import math
import threading

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from callreel.errors import UsageError
from callreel.kernels import pcm

RATES = [(8000, 16000), (16000, 8000), (8000, 24000), (8000, 48000), (48000, 8000), (24000, 8000)]
ODD_RATES = [(48000, 44100), (44100, 48000), (8000, 11025), (11025, 8000), (16000, 24000), (8002, 8000)]


def ints(data):
    return np.frombuffer(data, "<i2")


def noise(samples, seed=0):
    return np.random.default_rng(seed).integers(-32768, 32768, samples).astype("<i2")


def sine(hz, rate, samples, peak=16000.0, phase=0.3):
    return peak * np.sin(2 * np.pi * hz * np.arange(samples) / rate + phase)


def rounded(values):
    return np.rint(values).astype("<i2")


def by_definition(values, from_rate, to_rate):
    """Every output as one float64 sum over all the input: sinc under a Kaiser window, weights of sum 1."""
    divisor = math.gcd(from_rate, to_rate)
    phases, step = to_rate // divisor, from_rate // divisor
    stretch = max(1, step / phases)
    half = 4 * math.ceil(math.ceil(34 * stretch - 1e-9) / 4)
    outputs = []
    for k in range(math.ceil(len(values) * phases / step)):
        whole, part = divmod(k * step, phases)
        near = np.arange(whole - half + 1, whole + half + 1)
        distance = near - whole - part / phases
        window = np.i0(7.857 * np.sqrt(np.clip(1 - (distance / half) ** 2, 0, 1)))
        weights = np.sinc(0.925 / stretch * distance) * window * (abs(distance) < half)
        weights /= weights.sum()
        inside = (near >= 0) & (near < len(values))
        outputs.append(weights[inside] @ values[near[inside]].astype(float))
    return np.clip(np.array(outputs), -32768, 32767)


@pytest.mark.parametrize(("from_rate", "to_rate"), RATES + ODD_RATES)
def test_output_is_the_windowed_sinc_sum_of_the_definition(from_rate, to_rate):
    for samples in (1, 2, 37, 300, 700):
        values = noise(samples, samples)  # full scale: the filter overshoots, so saturation is in it
        expected = by_definition(values, from_rate, to_rate)
        output = ints(pcm.resample(values, from_rate, to_rate))
        assert len(output) == len(expected)
        assert np.abs(output - expected).max() < 0.52  # rounded to nearest, but for the error of float32


@pytest.mark.parametrize(("from_rate", "to_rate"), [*RATES, *ODD_RATES, (8000, 8000)])
def test_n_samples_in_give_the_ceiling_of_n_times_the_ratio_out(from_rate, to_rate):
    resampler = pcm.Resampler(from_rate, to_rate)
    for samples in range(301):
        output = resampler.feed(bytes(2 * samples)) + resampler.flush()
        assert len(output) == 2 * -(-samples * to_rate // from_rate)


@pytest.mark.parametrize(("from_rate", "to_rate"), [*RATES, (16000, 24000), (48000, 44100)])
def test_the_pass_band_is_flat_within_a_tenth_db_and_not_delayed(from_rate, to_rate):
    edge = 0.85 * min(from_rate, to_rate) / 2  # 3.4 kHz at 8 kHz
    samples = from_rate // 4
    for hz in np.linspace(100, edge, 12):
        output = ints(pcm.resample(rounded(sine(hz, from_rate, samples)), from_rate, to_rate))
        ideal = sine(hz, to_rate, len(output))
        middle = slice(
            len(output) // 5, -len(output) // 5
        )  # away from the edges, where half the filter sees silence
        # Complex gain of the tone: its magnitude is the pass band, its angle the delay.
        turn = np.exp(-2j * np.pi * hz * np.arange(len(output)) / to_rate)[middle]
        window = np.blackman(len(turn))
        gain = np.sum(window * output[middle] * turn) / np.sum(window * ideal[middle] * turn)
        assert abs(20 * math.log10(abs(gain))) < 0.1
        assert abs(np.angle(gain)) / (2 * np.pi * hz) < 1e-7  # seconds
        # And nothing but the tone is there: rounding twice, and images 80 dB down (1.6 steps).
        assert np.abs(output[middle] - ideal[middle]).max() < 4


@pytest.mark.parametrize(("from_rate", "to_rate"), [pair for pair in RATES if pair[0] < pair[1]])
def test_images_are_more_than_60_db_down(from_rate, to_rate):
    samples = from_rate // 2
    for hz in (300, 1000, 2500, 3400, 3700, 3900):
        output = ints(pcm.resample(rounded(sine(hz, from_rate, samples)), from_rate, to_rate))
        middle = output[len(output) // 5 : -len(output) // 5]
        window = np.kaiser(len(middle), 14)
        spectrum = np.abs(np.fft.rfft(middle * window)) / (16000 * window.sum() / 2)
        at_hz = np.fft.rfftfreq(len(middle), 1 / to_rate)
        assert 20 * math.log10(spectrum[at_hz > from_rate / 2 + 20].max()) < -60
        if hz <= 3400:
            assert 20 * math.log10(spectrum.max()) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(("from_rate", "to_rate"), [pair for pair in RATES if pair[0] > pair[1]])
def test_aliases_are_more_than_60_db_down(from_rate, to_rate):
    samples = from_rate // 4
    for hz in np.linspace(to_rate / 2, from_rate / 2 - 100, 12):
        values = rounded(sine(hz, from_rate, samples))
        output = pcm.resample(values, from_rate, to_rate)
        middle = output[len(output) // 10 * 4 : len(output) // 10 * 6]
        assert pcm.level(middle)[0] < pcm.level(values)[0] - 60


@pytest.mark.parametrize("to_rate", [16000, 24000, 48000])
def test_an_impulse_comes_out_at_its_moment_and_symmetric(to_rate):
    values = np.zeros(300, "<i2")
    values[150] = 20000
    output = ints(pcm.resample(values, 8000, to_rate))
    centre = 150 * to_rate // 8000
    assert np.argmax(output) == centre
    assert np.array_equal(output[centre - 280 : centre], output[centre + 280 : centre : -1])


@pytest.mark.parametrize(("from_rate", "to_rate"), RATES + ODD_RATES)
def test_a_constant_stays_that_constant(from_rate, to_rate):
    output = ints(pcm.resample(np.full(from_rate // 10, -12345, "<i2"), from_rate, to_rate))
    assert set(output[len(output) // 3 : -len(output) // 3]) == {-12345}


def test_overshoot_saturates_and_does_not_wrap():
    square = np.where(np.arange(800) // 40 % 2, -32768, 32767).astype("<i2")
    output = ints(pcm.resample(square, 8000, 16000))
    assert output.max() == 32767
    assert output.min() == -32768
    # Away from the edges of the square every output has the sign of its half wave.
    flat = np.arange(1600) % 80
    inside = (flat > 4) & (flat < 76)
    assert np.array_equal(output[inside] < 0, np.repeat(square, 2)[inside] < 0)


def test_equal_rates_give_the_input_back():
    values = noise(1000)
    assert pcm.resample(values, 8000, 8000) == values.tobytes()


def test_8_to_16_khz_and_back_is_the_same_speech_band():
    values = rounded(sum(sine(hz, 8000, 4000, peak=2500, phase=hz) for hz in (300, 700, 1500, 2300, 3100)))
    back = ints(pcm.resample(pcm.resample(values, 8000, 16000), 16000, 8000))
    assert len(back) == 4000
    assert np.abs(back[200:-200].astype(int) - values[200:-200]).max() <= 4


@settings(deadline=None, max_examples=120)
@given(
    st.sampled_from([*RATES, *ODD_RATES, (8000, 8000), (47998, 8002)]),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 700), max_size=12),
)
@example((8000, 16000), 1, [160] * 10)
@example((48000, 8000), 2, [1] * 700)
@example((8000, 48000), 3, [1] * 400)
@example((8000, 16000), 4, [5000, 1, 5000])  # pieces converted with and without the GIL
def test_any_cutting_of_the_input_gives_the_same_bits(rates, seed, pieces):
    values = noise(sum(pieces), seed)
    resampler = pcm.Resampler(*rates)
    output, at = b"", 0
    for piece in pieces:
        output += resampler.feed(values[at : at + piece])
        at += piece
    assert output + resampler.flush() == pcm.resample(values, *rates)


def test_feeding_lags_by_half_a_filter_and_no_more():
    resampler = pcm.Resampler(8000, 16000)
    made = sum(len(resampler.feed(bytes(320))) // 2 for _ in range(50))
    assert 2 * 8000 - made == 2 * 36  # 36 input samples: 4.5 ms
    assert len(resampler.flush()) // 2 == 2 * 36


def test_after_flush_a_resampler_is_as_new():
    resampler = pcm.Resampler(44100, 48000)
    first, second = noise(1234, 1), noise(777, 2)
    assert resampler.feed(first) + resampler.flush() == pcm.resample(first, 44100, 48000)
    assert resampler.flush() == b""
    assert resampler.feed(second) + resampler.flush() == pcm.resample(second, 44100, 48000)


def test_a_refused_piece_leaves_the_stream_as_it_was():
    values = noise(500)
    resampler = pcm.Resampler(8000, 16000)
    output = resampler.feed(values[:200])
    with pytest.raises(ValueError, match="3 bytes"):
        resampler.feed(b"abc")
    with pytest.raises(TypeError):
        resampler.feed(np.zeros(4, np.float32))
    output += resampler.feed(values[200:]) + resampler.flush()
    assert output == pcm.resample(values, 8000, 16000)


def test_pieces_may_lie_at_odd_addresses():
    values = noise(500)
    resampler = pcm.Resampler(8000, 24000)
    output = resampler.feed(memoryview(b"x" + values.tobytes())[1:]) + resampler.flush()
    assert output == pcm.resample(values, 8000, 24000)


def test_a_resampler_says_its_rates_and_keeps_them():
    resampler = pcm.Resampler(8000, np.int64(16000))
    assert (resampler.from_rate, resampler.to_rate) == (8000, 16000)
    with pytest.raises(AttributeError):
        resampler.to_rate = 8000


@pytest.mark.parametrize(
    ("from_rate", "to_rate"), [(7999, 8000), (8000, 48001), (0, 8000), (8000, -8000), (2**70, 8000)]
)
def test_rates_outside_8_to_48_khz_are_refused(from_rate, to_rate):
    with pytest.raises(ValueError, match="outside 8000 to 48000 Hz"):
        pcm.Resampler(from_rate, to_rate)


def test_ratios_of_up_to_4096_phases_are_served():
    assert len(pcm.resample(bytes(200), 8194, 8192)) == 200  # 4,096 phases
    with pytest.raises(ValueError, match="4097 filter phases"):
        pcm.Resampler(8192, 8194)
    with pytest.raises(ValueError, match="8001 filter phases"):
        pcm.resample(b"", 8000, 8001)


def test_a_rate_that_is_not_a_whole_number_is_a_type_error():
    for wrong in (8000.0, "8000", None):
        with pytest.raises(TypeError):
            pcm.Resampler(wrong, 8000)


def test_a_second_thread_inside_a_resampler_is_refused_not_let_in():
    resampler = pcm.Resampler(48000, 8000)
    values = noise(3_000_000)
    expected = pcm.resample(values, 48000, 8000)

    def convert(results):
        while not results:
            try:
                results.append(resampler.feed(values))
            except UsageError:  # the other thread was inside; possible without a GIL only
                continue

    refused = 0
    for _ in range(50):  # a busy machine may let the worker finish before this thread runs again
        results = []
        worker = threading.Thread(target=convert, args=(results,))
        worker.start()
        while worker.is_alive():
            try:
                assert resampler.feed(b"") == b""
            except UsageError:
                refused += 1
        worker.join()
        assert results[0] + resampler.flush() == expected
        if refused:
            break
    assert refused > 0
