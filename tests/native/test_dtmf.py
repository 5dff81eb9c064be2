"""The DTMF detector against ITU-T Q.24, real recordings, and its own promise that chunks do not matter."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from callreel import kernels
from callreel.errors import UsageError
from callreel.kernels import dtmf, g711
from callreel.kernels.dtmf import Bank, Detector, Digit, detect_many

from . import dtmf_signals as signals
from .dtmf_signals import SYMBOLS, key, noise, pcm, silence, sine, string

RATES = (8000, 11025, 16000, 22050, 44100, 48000)


def detect(samples: object, rate: int = 8000) -> list[Digit]:
    detector = Detector(rate)
    return detector.feed(samples) + detector.flush()


def symbols(signal: signals.Signal, rate: int = 8000) -> str:
    return "".join(digit.symbol for digit in detect(pcm(signal), rate))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    return np.random.default_rng([ord(letter) for letter in request.node.name])


# ---- recordings ----

RECORDINGS = {
    "tino-complete-sequence-8kHz-old1.wav": ["1234567890*#ABCD"],
    "tino-123.wav": ["123"],
    "tino-complete_44100.wav": ["12345678"],
    "tino-one_distorted.wav": ["1"],
    "tino-0-9-8Khz.wav": ["0123456789"],
    "tino-asterix-8kHz.wav": ["****"],
    "tino-b-8kHz.wav": ["BBBB"],
    "tino-seven-8kHz.wav": ["7777"],
    "tino-stereo.wav": ["12345", "67890"],
    "tino-whiteNoise.wav": [""],
    "test_dtmf.wav": ["012345678901234567890"],
    "digits.1234.8000hz.wav": ["1234"],
    "digits.1234.44100hz.wav": ["1234"],
    "digits.1234.16000hz.wav": ["1234"],
    "digits.321.unclean.8000hz.wav": ["321"],  # a blip of 20 ms comes first: Q.24 says it is no digit
    "dtmf-1234.raw": ["1234"],
    "dtmfs-1-9.wav": ["12345#6789"],
    "dtmf-1.wav": ["1"],
    "tonedetect-100by100-0123456789psABCD.wav": ["0123456789#*ABCD"],
    "tonedetect-50by50-radio-0db-0123456789psABCD.wav": ["0123456789#*ABCD"],
}


def read(path: Path) -> tuple[np.ndarray, int]:
    """Read a recording as int16 of shape (frames, channels), and its rate."""
    if path.suffix == ".raw":
        return np.fromfile(path, "<i2")[:, None], 8000
    if path.suffix == ".ulaw":
        return np.frombuffer(g711.ulaw_decode(path.read_bytes()), "<i2")[:, None], 8000
    frames, rate = soundfile.read(path, dtype="int16", always_2d=True)
    return frames, rate


@pytest.mark.parametrize(("name", "expected"), RECORDINGS.items(), ids=RECORDINGS)
def test_a_recording_gives_its_digits(
    name: str, expected: list[str], test_data: Callable[[str], Path]
) -> None:
    frames, rate = read(test_data(f"dtmf/{name}"))
    channels = [np.ascontiguousarray(frames[:, channel]) for channel in range(frames.shape[1])]
    found = detect_many(channels, rate)
    assert ["".join(digit.symbol for digit in digits) for digits in found] == expected


def test_recorded_speech_music_silence_and_progress_tones_give_no_digit(
    test_data: Callable[[str], Path],
) -> None:
    folder = test_data("music/manolo_camp-morning_coffee.wav").parent.parent
    paths = [
        path for kind in ("speech", "music", "silence", "tones") for path in (folder / kind).rglob("*.*")
    ]
    wrong = {}
    seconds = 0.0
    for path in paths:
        frames, rate = read(path)
        for channel in range(frames.shape[1]):
            seconds += len(frames) / rate
            if digits := detect(np.ascontiguousarray(frames[:, channel]), rate):
                wrong[path.name] = digits
    assert wrong == {}
    assert seconds > 700


def test_speech_at_other_pitches_gives_no_digit(test_data: Callable[[str], Path]) -> None:
    folder = test_data("speech/en_US_f_Allison/demo-instruct.wav").parent
    wrong = []
    for path in sorted(folder.glob("*.wav"))[:12]:
        frames, rate = read(path)
        speech = frames[:, 0].astype(float)
        for pitch in (0.71, 0.83, 0.94, 1.09, 1.21, 1.37):
            places = np.arange(0, len(speech) - 1, pitch)
            wrong += detect(pcm(np.interp(places, np.arange(len(speech)), speech)), rate)
    assert wrong == []


def test_speech_like_syllables_give_no_digit() -> None:
    assert detect(pcm(signals.speech_like(np.random.default_rng(1), 180))) == []


def test_noise_alone_gives_no_digit(rng: np.random.Generator) -> None:
    for dbm0 in (-40, -20, -6):
        assert detect(pcm(noise(rng, 8000 * 60, dbm0))) == []


# ---- Q.24, one limit at a time: each string holds all sixteen symbols ----


@pytest.mark.parametrize("rate", RATES)
def test_all_sixteen_symbols_at_any_rate(rate: int, rng: np.random.Generator) -> None:
    for on_ms, off_ms in ((40, 40), (50, 50), (100, 100)):
        assert symbols(string(rng, on_ms=on_ms, off_ms=off_ms, rate=rate), rate) == SYMBOLS


@pytest.mark.parametrize("offset", [-0.015, -0.0145, -0.01, 0.01, 0.0145, 0.015])
def test_frequencies_off_by_up_to_1_5_percent_are_accepted(offset: float, rng: np.random.Generator) -> None:
    for low, high in ((offset, 0), (0, offset), (offset, offset), (offset, -offset)):
        for _ in range(3):
            assert symbols(string(rng, low_offset=low, high_offset=high)) == SYMBOLS


@pytest.mark.parametrize("offset", [-0.045, -0.035, -0.03, -0.025, 0.025, 0.03, 0.035, 0.045])
def test_frequencies_off_by_3_5_percent_are_rejected(offset: float, rng: np.random.Generator) -> None:
    for low, high in ((offset, 0), (0, offset), (offset, offset), (offset, -offset)):
        for on_ms in (50, 100, 500):
            assert symbols(string(rng, on_ms=on_ms, low_offset=low, high_offset=high)) == ""


@pytest.mark.parametrize("dbm0", [3, 0, -3, -10, -20, -30, -36, -37])
def test_levels_from_0_to_36_below_are_accepted(dbm0: float, rng: np.random.Generator) -> None:
    for on_ms in (40, 50):
        assert symbols(string(rng, dbm0=dbm0, on_ms=on_ms)) == SYMBOLS


@pytest.mark.parametrize("dbm0", [-40, -42, -50])
def test_levels_below_42_are_rejected(dbm0: float, rng: np.random.Generator) -> None:
    assert symbols(string(rng, dbm0=dbm0, on_ms=100)) == ""


@pytest.mark.parametrize("twist_db", [-8.5, -8, -7.5, -4, 2, 3.8, 4, 4.5])
def test_twist_from_minus_8_to_plus_4_db_is_accepted(twist_db: float, rng: np.random.Generator) -> None:
    for dbm0 in (-3, -10, -27):
        for on_ms in (40, 50):
            assert symbols(string(rng, twist_db=twist_db, dbm0=dbm0, on_ms=on_ms)) == SYMBOLS


@pytest.mark.parametrize("twist_db", [-14, -11, -10, 6, 7, 10])
def test_twist_well_beyond_the_limits_is_rejected(twist_db: float, rng: np.random.Generator) -> None:
    for on_ms in (50, 100, 500):
        assert symbols(string(rng, twist_db=twist_db, on_ms=on_ms)) == ""


@pytest.mark.parametrize("twist_db", [-7.5, 3.8])
@pytest.mark.parametrize("offset", [-0.0145, 0.0145])
def test_twisted_and_mistuned_at_once_is_accepted(
    twist_db: float, offset: float, rng: np.random.Generator
) -> None:
    for _ in range(4):
        signal = string(rng, twist_db=twist_db, low_offset=offset, high_offset=offset)
        assert symbols(signal) == SYMBOLS


@pytest.mark.parametrize("rate", [8000, 44100])
def test_a_tone_of_40_ms_is_a_digit(rate: int, rng: np.random.Generator) -> None:
    for _ in range(10):
        assert symbols(string(rng, on_ms=40, off_ms=60, rate=rate), rate) == SYMBOLS


@pytest.mark.parametrize("on_ms", [10, 15, 20, 23, 25, 28])
@pytest.mark.parametrize("rate", [8000, 44100])
def test_a_tone_of_23_ms_is_none(on_ms: float, rate: int, rng: np.random.Generator) -> None:
    for _ in range(5):
        assert symbols(string(rng, on_ms=on_ms, off_ms=60, rate=rate), rate) == ""


def test_a_gap_of_40_ms_splits_two_equal_digits(rng: np.random.Generator) -> None:
    for symbol in SYMBOLS:
        for on_ms, off_ms in ((40, 40), (50, 50), (50, 30), (100, 40), (300, 40)):
            signal = string(rng, symbol * 4, on_ms=on_ms, off_ms=off_ms)
            assert symbols(signal) == symbol * 4


@pytest.mark.parametrize("drop_ms", [1, 5, 8, 10, 12])
@pytest.mark.parametrize("new_phase", [False, True])
def test_a_drop_out_of_10_ms_does_not_split(drop_ms: int, new_phase: bool, rng: np.random.Generator) -> None:
    for symbol in SYMBOLS:
        drop = 8 * int(rng.integers(20, 70))
        phases = tuple(rng.uniform(0, 2 * np.pi, 2)) if new_phase else (0.0, 0.0)
        tone = key(symbol, 100)
        tone[drop:] = key(symbol, 100, phases=phases)[drop:]
        tone[drop : drop + 8 * drop_ms] = 0
        lead = int(rng.integers(300, 340))
        (digit,) = detect(pcm(np.concatenate([np.zeros(lead), tone, silence(80)])))
        assert digit.symbol == symbol
        assert abs(digit.start - lead) <= 80
        assert abs(digit.duration - 800) <= 120


def test_different_digits_without_a_pause_are_told_apart(rng: np.random.Generator) -> None:
    for off_ms in (0, 10, 20):
        assert symbols(string(rng, on_ms=60, off_ms=off_ms)) == SYMBOLS


# ---- Q.24, disturbances ----


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("on_ms", [40, 50])
def test_white_noise_15_db_below_is_tolerated(rate: int, on_ms: int, rng: np.random.Generator) -> None:
    # Signal to noise is that of the whole digit: two components of -10 dBm0 are -7 dBm0 together.
    for _ in range(10):
        clean = string(rng, on_ms=on_ms, rate=rate)
        assert symbols(clean + noise(rng, len(clean), -7 - 15), rate) == SYMBOLS


@pytest.mark.parametrize("twist_db", [-8, 4])
def test_noise_and_twist_at_once_are_tolerated(twist_db: float, rng: np.random.Generator) -> None:
    together = -10 + 10 * np.log10(1 + 10 ** (-abs(twist_db) / 10))
    for _ in range(5):
        clean = string(rng, twist_db=twist_db)
        assert symbols(clean + noise(rng, len(clean), together - 15)) == SYMBOLS


@pytest.mark.parametrize(
    ("beneath", "above_db"),
    [((350, 440), 6), ((425,), 10), ((440, 480), 6), ((400,), 6), ((480, 620), -10), ((50,), 20), ((0,), 20)],
)
def test_dial_and_progress_tones_hum_and_dc_beneath_are_tolerated(
    beneath: tuple[float, ...], above_db: float, rng: np.random.Generator
) -> None:
    for twist_db in (-7.5, 0, 3.8):
        clean = string(rng, twist_db=twist_db, dbm0=-20)
        tones = sum(sine(hz, -20 + above_db, len(clean), 8000, phase=1) for hz in beneath)
        assert symbols(clean + tones) == SYMBOLS


@pytest.mark.parametrize("beneath", [(350, 440), (425,), (440, 480), (480, 620), (950, 1400, 1800), (2100,)])
def test_signalling_tones_alone_give_no_digit(beneath: tuple[float, ...]) -> None:
    for dbm0 in (-30, -10, 0):
        assert detect(pcm(sum(sine(hz, dbm0, 16000, 8000) for hz in beneath))) == []


@pytest.mark.parametrize(
    ("encode", "decode"),
    [(g711.ulaw_encode, g711.ulaw_decode), (g711.alaw_encode, g711.alaw_decode)],
    ids=["ulaw", "alaw"],
)
def test_g711_coding_changes_nothing(
    encode: Callable[[object], bytes], decode: Callable[[object], bytes], rng: np.random.Generator
) -> None:
    for dbm0, twist_db in ((0, 0), (-10, 3.8), (-10, -7.5), (-36, 0), (-28, -7.5)):
        coded = decode(encode(pcm(string(rng, dbm0=dbm0, twist_db=twist_db, on_ms=40))))
        assert "".join(digit.symbol for digit in detect(coded)) == SYMBOLS


@pytest.mark.parametrize("gain_db", [3, 6, 12, 20])
def test_clipping_is_tolerated(gain_db: float, rng: np.random.Generator) -> None:
    # Both components at 0 dBm0 already clip: their peaks add up to 2.85 dB above full scale.
    assert symbols(string(rng, dbm0=gain_db)) == SYMBOLS


# ---- what is reported ----


@pytest.mark.parametrize("rate", RATES)
def test_start_duration_level_and_twist_are_true(rate: int, rng: np.random.Generator) -> None:
    for on_ms, twist_db in ((40, 0), (50, -7.5), (70, 3.8), (200, -3)):
        lead = int(rng.integers(0, rate // 10))
        tone, pause = signals.samples(on_ms, rate), signals.samples(60, rate)
        parts = [np.zeros(lead)]
        for symbol in SYMBOLS:
            parts += [key(symbol, on_ms, rate=rate, twist_db=twist_db), np.zeros(pause)]
        digits = detect(pcm(np.concatenate(parts)), rate)
        assert len(digits) == 16
        for index, digit in enumerate(digits):
            assert digit.symbol == SYMBOLS[index]
            assert abs(digit.start - (lead + index * (tone + pause))) < 0.003 * rate
            assert abs(digit.duration - tone) < 0.005 * rate
            assert abs(digit.level_dbm0 - (-10 - abs(twist_db) / 2)) < 0.5
            assert abs(digit.twist_db - twist_db) < 0.5


def test_start_and_duration_stay_true_in_noise(rng: np.random.Generator) -> None:
    tone, pause = 800, 640
    for _ in range(5):
        clean = np.concatenate(
            [silence(40), *(np.concatenate([key(s, 100), np.zeros(pause)]) for s in SYMBOLS)]
        )
        digits = detect(pcm(clean + noise(rng, len(clean), -22)))
        assert len(digits) == 16
        for index, digit in enumerate(digits):
            assert abs(digit.start - (320 + index * (tone + pause))) <= 80
            assert abs(digit.duration - tone) <= 120


def test_a_digit_is_a_value() -> None:
    (digit,) = detect(pcm(np.concatenate([silence(50), key("5", 80), silence(50)])))
    assert digit == Digit(*digit)
    assert digit._fields == ("symbol", "start", "duration", "level_dbm0", "twist_db")
    with pytest.raises(AttributeError):
        digit.symbol = "6"
    assert [type(field) for field in digit] == [str, int, int, float, float]


def test_a_tone_cut_off_by_the_end_is_reported_by_flush_and_ends_there() -> None:
    signal = pcm(np.concatenate([silence(50), key("7", 60)]))
    detector = Detector()
    assert detector.feed(signal) == []
    (digit,) = detector.flush()
    assert digit.symbol == "7"
    assert digit.start + digit.duration <= len(signal)
    assert digit.duration > 450


def test_flush_keeps_the_position_and_listens_afresh() -> None:
    signal = pcm(np.concatenate([silence(50), key("7", 60)]))
    detector = Detector()
    detector.feed(signal)
    first = detector.flush()[0]
    assert detector.position == len(signal)
    assert detector.flush() == []
    assert detector.feed(signal) == []
    second = detector.flush()[0]
    assert second == first._replace(start=first.start + len(signal))


def test_a_long_tone_is_one_digit() -> None:
    (digit,) = detect(pcm(np.concatenate([silence(50), key("0", 20_000), silence(50)])))
    assert abs(digit.duration - 160_000) < 40


# ---- while the digit sounds ----


@pytest.mark.parametrize("rate", [8000, 44100])
def test_a_sounding_digit_is_known_60_ms_after_its_first_40_ms_at_the_latest(
    rate: int, rng: np.random.Generator
) -> None:
    step = 1 if rate == 8000 else 7
    limit = signals.samples(100, rate)
    for symbol in SYMBOLS:
        for offset, twist_db in ((0, 0), (0.0145, 0), (0, -7.5), (-0.0145, 3.8)):
            lead = int(rng.integers(rate // 20, rate // 10))
            tone = key(symbol, 110, rate=rate, twist_db=twist_db, low_offset=offset, high_offset=offset)
            signal = pcm(np.concatenate([np.zeros(lead), tone]))
            detector = Detector(rate)
            detector.feed(signal[:lead])
            for place in range(lead, lead + limit, step):
                detector.feed(signal[place : place + step])
                if detector.active:
                    break
            active = detector.active
            assert active is not None
            assert active.symbol == symbol
            assert detector.position - lead <= limit
            assert abs(active.start - lead) < 0.01 * rate


def test_a_digit_of_exactly_40_ms_is_known_60_ms_later_at_the_latest(rng: np.random.Generator) -> None:
    for symbol in SYMBOLS:
        lead = int(rng.integers(300, 400))
        signal = pcm(np.concatenate([np.zeros(lead), key(symbol, 40), silence(100)]))
        detector = Detector()
        detector.feed(signal[:lead])
        for place in range(lead, lead + 800):
            ended = detector.feed(signal[place : place + 1])
            if ended or detector.active:
                break
        known = ended[0] if ended else detector.active
        assert known is not None
        assert known.symbol == symbol


def test_nothing_is_active_before_acceptance_and_after_the_end() -> None:
    detector = Detector()
    detector.feed(pcm(np.concatenate([silence(50), key("1", 23)])))
    assert detector.active is None
    detector.feed(pcm(silence(100)))
    detector.feed(pcm(key("1", 60)))
    early = detector.active
    detector.feed(pcm(key("1", 60)))
    late = detector.active
    assert early is not None
    assert late is not None
    assert (early.symbol, early.start) == (late.symbol, late.start)
    assert late.duration - early.duration == 480
    (digit,) = detector.feed(pcm(silence(60)))
    assert (digit.symbol, digit.start) == (early.symbol, early.start)
    assert detector.active is None


# ---- chunks, gaps, many channels ----


def busy_signal(rate: int = 8000) -> signals.Pcm:
    rng = np.random.default_rng(7)
    quiet = string(rng, "159D", on_ms=45, off_ms=45, rate=rate)
    short = string(rng, "11", on_ms=23, off_ms=15, rate=rate)
    twisted = string(rng, "0#A", twist_db=-7.5, low_offset=0.0145, rate=rate)
    whole = np.concatenate([quiet, short, signals.speech_like(rng, 0.5, rate), twisted])
    return pcm(whole + noise(rng, len(whole), -35))


BUSY = busy_signal()
BUSY_DIGITS = detect(BUSY)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(0, len(BUSY)), max_size=12))
def test_any_chunking_gives_exactly_the_same(cuts: list[int]) -> None:
    detector = Detector()
    found = []
    places = [0, *sorted(cuts), len(BUSY)]
    for start, end in itertools.pairwise(places):
        found += detector.feed(BUSY[start:end])
        assert detector.position == end
    assert found + detector.flush() == BUSY_DIGITS


@pytest.mark.parametrize("rate", [8000, 11025, 44100])
def test_single_samples_give_exactly_the_same(rate: int) -> None:
    signal = busy_signal(rate)
    detector = Detector(rate)
    found = [digit for place in range(len(signal)) for digit in detector.feed(signal[place : place + 1])]
    found += detector.flush()
    assert found == detect(signal, rate)
    assert "".join(digit.symbol for digit in found)[:4] == "159D"


@settings(deadline=None, max_examples=100)
@given(st.integers(0, len(BUSY)), st.integers(0, 5000), st.integers(0, 50))
def test_skipping_equals_feeding_zeros(place: int, gap: int, head: int) -> None:
    skipping, feeding = Detector(), Detector()
    head = min(head, place)
    for detector in (skipping, feeding):
        detector.feed(BUSY[:head])
    one = skipping.feed(BUSY[head:place]) + skipping.skip(gap)
    other = feeding.feed(BUSY[head:place]) + feeding.feed(bytes(2 * gap))
    assert one == other
    assert skipping.position == feeding.position == place + gap
    assert skipping.active == feeding.active
    one = skipping.feed(BUSY[place:]) + skipping.flush()
    assert one == feeding.feed(BUSY[place:]) + feeding.flush()


@pytest.mark.parametrize("rate", [8000, 48000])
def test_skipping_many_minutes_equals_feeding_them(rate: int) -> None:
    gap = 120 * rate + 17
    signal = busy_signal(rate)
    skipping, feeding = Detector(rate), Detector(rate)
    one = skipping.feed(signal) + skipping.skip(gap) + skipping.feed(signal) + skipping.flush()
    other = feeding.feed(signal) + feeding.feed(bytes(2 * gap)) + feeding.feed(signal) + feeding.flush()
    assert one == other
    assert len(one) > 8


def test_skipping_hours_takes_no_time() -> None:
    gap = 1000 * 3600 * 8000 - len(BUSY) % 40  # so that the blocks of 40 samples fall alike again
    detector = Detector()
    assert detector.feed(BUSY) + detector.skip(1000) == BUSY_DIGITS
    began = time.perf_counter()
    detector.skip(gap - 1000)
    assert time.perf_counter() - began < 0.5
    shift = len(BUSY) + gap
    digits = detector.feed(BUSY) + detector.flush()
    assert digits == [digit._replace(start=digit.start + shift) for digit in BUSY_DIGITS]


def test_many_channels_at_once_equal_one_detector_each() -> None:
    channels = [BUSY, BUSY[5:], BUSY[:0], np.zeros(1, np.int16), BUSY.tobytes(), memoryview(BUSY)[7:3000]]
    assert detect_many(channels) == [detect(channel) for channel in channels]
    assert detect_many([]) == []
    assert detect_many(iter([BUSY])) == [BUSY_DIGITS]
    wide = busy_signal(16000)
    assert detect_many([wide], sample_rate=16000) == [detect(wide, 16000)]


# ---- a bank of channels ----


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 700), max_size=12), st.sampled_from([8000, 16000]))
def test_a_bank_finds_what_one_detector_a_channel_finds(cuts: list[int], rate: int) -> None:
    signal = busy_signal(rate)
    channels = np.stack([np.roll(signal, 111 * channel) for channel in range(5)])
    bank, detectors = Bank(5, rate), [Detector(rate) for _ in range(5)]
    at = 0
    for cut in [*cuts, channels.shape[1] - sum(cuts)]:
        parts = [np.ascontiguousarray(part) for part in channels[:, at : at + cut]]
        at += cut
        singly = [(i, digit) for i, part in enumerate(parts) for digit in detectors[i].feed(part)]
        assert bank.feed(np.concatenate(parts)) == singly
    assert at == channels.shape[1]
    assert bank.flush() == [(i, digit) for i in range(5) for digit in detectors[i].flush()]


def test_a_bank_takes_a_buffer_for_each_channel_too() -> None:
    parts = [BUSY, BUSY[:0], BUSY[7:].tobytes(), bytearray(BUSY[:3000].tobytes())]
    for audio in (parts, tuple(parts)):
        bank = Bank(4)
        found = bank.feed(audio) + bank.flush()
        for channel, part in enumerate(parts):
            assert [digit for where, digit in found if where == channel] == detect(part)


def test_a_bank_listens_afresh_after_a_flush() -> None:
    bank = Bank(2)
    bank.feed(np.concatenate([BUSY, BUSY]))
    bank.flush()
    found = bank.feed(np.concatenate([BUSY, BUSY]))
    digits = [digit._replace(start=digit.start + len(BUSY)) for digit in BUSY_DIGITS]
    assert found + bank.flush() == [(channel, digit) for channel in range(2) for digit in digits]


def test_a_bank_refuses_what_does_not_fit_and_changes_nothing() -> None:
    bank = Bank(3)
    assert (bank.channels, bank.sample_rate) == (3, 8000)
    assert bank.feed(b"") == []
    wrong = [
        (bytes(8), ValueError),
        (bytes(3), ValueError),
        ([b"", b""], ValueError),
        ([b"", b"", b"", b""], ValueError),
        ([b"", b"", b"abc"], ValueError),
        ([BUSY, "text", BUSY], TypeError),
        (np.zeros(6), TypeError),
        ("text", TypeError),
    ]
    for audio, error in wrong:
        with pytest.raises(error):
            bank.feed(audio)
    found = bank.feed([BUSY] * 3) + bank.flush()
    assert sorted(found) == sorted((channel, digit) for channel in range(3) for digit in BUSY_DIGITS)
    for channels in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            Bank(channels)
    with pytest.raises(ValueError, match="8000 to 48000"):
        Bank(1, 7999)
    with pytest.raises((MemoryError, OverflowError)):
        Bank(2**62)


def test_a_second_thread_is_refused_while_one_feeds_a_bank() -> None:
    bank = Bank(2)
    feeder = threading.Thread(target=bank.feed, args=(np.tile(BUSY, 8000),))
    feeder.start()
    refused = 0
    while feeder.is_alive():
        try:
            bank.feed(b"")
        except UsageError:
            refused += 1
    feeder.join()
    assert refused > 0


# ---- versions ----


@pytest.fixture(params=[isa for isa in kernels.ISAS if isa != "scalar"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param
    dtmf._use(kernels.isa())


def both(isa: str, signal: object, rate: int = 8000) -> tuple[list[Digit], list[Digit]]:
    """Let the version for `isa` and the scalar one hear the same, exact to the last bit."""
    dtmf._use("scalar")
    expected = detect(signal, rate)
    dtmf._use(isa)
    return detect(signal, rate), expected


@pytest.mark.parametrize("rate", RATES)
def test_every_version_finds_the_same_to_the_last_bit(isa: str, rate: int) -> None:
    rng = np.random.default_rng(rate)
    found, expected = both(isa, busy_signal(rate), rate)
    assert found == expected
    assert len(found) > 3
    for dbm0, snr_db in ((-3, 15), (-20, 6), (-36, 20)):
        clean = string(rng, dbm0=dbm0, rate=rate)
        found, expected = both(isa, pcm(clean + noise(rng, len(clean), dbm0 - snr_db)), rate)
        assert found == expected


def test_every_version_follows_a_tone_through_the_same_values(isa: str) -> None:
    # What is found is the sum of much; what sounds, asked for every 31 samples, shows each step.
    rng = np.random.default_rng(5)
    clean = string(rng, twist_db=-6)
    signal = pcm(clean + noise(rng, len(clean), -25))
    steps = []
    for name in ("scalar", isa):
        dtmf._use(name)
        detector = Detector()
        steps.append(
            [(detector.feed(signal[at : at + 31]), detector.active) for at in range(0, len(signal), 31)]
        )
    assert steps[0] == steps[1]
    assert sum(active is not None for _, active in steps[0]) > 100


@settings(deadline=None, max_examples=40)
@given(
    st.binary(min_size=2, max_size=3000),
    st.lists(st.integers(0, 1000), max_size=8),
    st.sampled_from(RATES),
    st.sampled_from(kernels.ISAS),
)
def test_any_version_agrees_with_scalar_on_any_bytes_in_any_pieces(
    junk: bytes, cuts: list[int], rate: int, name: str
) -> None:
    # Loud tones with junk across them: plain junk would never get past the gate.
    tone = pcm(string(np.random.default_rng(len(junk)), "15", rate=rate, dbm0=0))
    signal = tone.copy()
    noise = np.frombuffer((junk * (len(tone) * 2 // len(junk) + 1))[: len(tone) * 2], np.int16)
    signal[::7] = noise[::7]
    try:
        dtmf._use("scalar")
        expected = detect(signal, rate)
        dtmf._use(name)
        detector, found, at = Detector(rate), [], 0
        for cut in cuts:
            found += detector.feed(signal[at : at + cut])
            at += cut
        assert found + detector.feed(signal[at:]) + detector.flush() == expected
    finally:
        dtmf._use(kernels.isa())


def test_the_extremes_of_pcm_are_the_same_in_every_version(isa: str) -> None:
    square = np.where(np.arange(4000) // 5 % 2, 32767, -32768).astype(np.int16)
    tones = np.sign(key("5", 500)) * 32768
    for signal in (square, pcm(tones), np.full(4000, -32768, np.int16)):
        found, expected = both(isa, signal)
        assert found == expected


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(ValueError, match="mmx"):
        dtmf._use("mmx")


# ---- arguments ----


def test_any_contiguous_buffer_of_pcm_is_taken() -> None:
    odd = bytearray(1) + BUSY.tobytes()
    for buffer in (BUSY, BUSY.tobytes(), bytearray(BUSY.tobytes()), memoryview(odd)[1:]):
        assert detect(buffer) == BUSY_DIGITS


def test_empty_input_is_legal() -> None:
    detector = Detector()
    assert detector.feed(b"") == []
    assert detector.skip(0) == []
    assert detector.flush() == []
    assert detector.position == 0
    assert detector.active is None
    assert detector.sample_rate == 8000


@pytest.mark.parametrize("rate", [0, -8000, 7999, 48001, 10**6])
def test_rates_outside_8000_to_48000_are_refused(rate: int) -> None:
    with pytest.raises(ValueError, match="8000 to 48000"):
        Detector(rate)
    with pytest.raises(ValueError, match="8000 to 48000"):
        detect_many([], rate)


def test_wrong_buffers_are_refused_and_change_nothing() -> None:
    detector = Detector()
    wrong = [
        (b"abc", ValueError),
        (np.zeros(4), TypeError),
        ("text", TypeError),
        (memoryview(BUSY)[::2], BufferError),
    ]
    for buffer, error in wrong:
        with pytest.raises(error):
            detector.feed(buffer)
        with pytest.raises(error):
            detect_many([BUSY, buffer])
    assert detector.position == 0
    assert detector.feed(BUSY) + detector.flush() == BUSY_DIGITS


def test_a_position_that_cannot_be_counted_is_refused() -> None:
    detector = Detector()
    with pytest.raises(ValueError, match="-1"):
        detector.skip(-1)
    detector.skip(2**53 - 10)
    for samples in (11, 2**62):
        with pytest.raises(OverflowError):
            detector.skip(samples)
    with pytest.raises(OverflowError):
        detector.feed(bytes(22))
    assert detector.position == 2**53 - 10
    with pytest.raises(OverflowError):
        Detector().skip(2**64)


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=6000), st.sampled_from(RATES))
def test_any_bytes_are_survived(junk: bytes, rate: int) -> None:
    junk = junk[: len(junk) // 2 * 2]
    detector = Detector(rate)
    digits = detector.feed(junk * 4) + detector.flush()
    assert detector.position == len(junk) * 2
    for digit in digits:
        assert 0 <= digit.start <= digit.start + digit.duration <= detector.position


def test_the_extremes_of_pcm_are_survived() -> None:
    square = np.where(np.arange(16000) // 4 % 2, 32767, -32768).astype(np.int16)
    for signal in (square, np.full(16000, -32768, np.int16), np.full(16000, 32767, np.int16)):
        assert detect(signal) == []


def test_a_second_thread_is_refused_while_one_feeds() -> None:
    detector = Detector()
    long = np.tile(BUSY, 1500)
    feeder = threading.Thread(target=detector.feed, args=(long,))
    feeder.start()
    refused = 0
    while feeder.is_alive():
        try:
            detector.feed(b"")
        except UsageError:
            refused += 1
    feeder.join()
    assert refused > 0
    assert detector.position == len(long)
