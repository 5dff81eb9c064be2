"""Audio between connections and tracks: its rate, its place, what is too much of it; what is played, frame by frame."""

import numpy as np
import pytest

from callreel.errors import MediaError
from callreel.kernels import g711, tone
from callreel.service.encodings import Conversion, Encoding
from callreel.service.links import AHEAD_S, Feed, Intake, Piece


class Track:
    """Takes what a `RecordedCall` would."""

    def __init__(self):
        self.taken = []
        self.left_out = 0

    def receive_pcm(self, leg, frames, *, now, direction):
        assert (leg, direction) == ("LEG-A", "incoming")
        self.taken.append((now, bytes(frames)))

    def leave_out(self, leg, *, direction):
        assert (leg, direction) == ("LEG-A", "incoming")
        self.left_out += 1

    @property
    def audio(self):
        return b"".join(frames for _, frames in self.taken)

    @property
    def samples(self):
        return len(self.audio) // 2


def sine(seconds, rate, hz=440.0):
    moments = np.arange(round(seconds * rate)) / rate
    return (8000 * np.sin(2 * np.pi * hz * moments)).astype("<i2").tobytes()


# ---- rates ----

RATES = [
    1000,
    6000,
    8000,
    11_025,
    12_000,
    16_000,
    22_050,
    24_000,
    32_000,
    44_100,
    48_000,
    88_200,
    96_000,
    192_000,
]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("to_rate", [8000, 16_000, 44_100, 48_000, 192_000])
def test_audio_of_any_rate_becomes_that_of_any_other_in_place(rate, to_rate):
    conversion = Conversion(rate, to_rate)
    source, step = sine(1.0, rate, hz=300.0), 2 * (rate // 50)
    converted = b""
    for at in range(0, len(source), step):
        converted += conversion.feed(source[at : at + step])
        assert 0 <= conversion.held_back_s < 0.1
        fed_s = min(at + step, len(source)) / 2 / rate
        assert len(converted) / 2 / to_rate + conversion.held_back_s == pytest.approx(fed_s)
    converted += conversion.flush()
    found = np.frombuffer(converted, "<i2").astype(float)
    assert len(found) == pytest.approx(to_rate, abs=8)
    wanted = 8000 * np.sin(2 * np.pi * 300 * np.arange(len(found)) / to_rate)
    inner = slice(len(found) // 10, -len(found) // 10)
    assert np.sqrt(np.mean((found[inner] - wanted[inner]) ** 2)) < 60  # 40 dB below it


@pytest.mark.parametrize("rate", [7999, 8001, 11_127, 47_981])
def test_a_rate_that_nothing_divides_is_taken_for_its_neighbour(rate):
    conversion = Conversion(rate, 8000)
    converted = conversion.feed(sine(1.0, rate)) + conversion.flush()
    assert len(converted) / 2 == pytest.approx(8000, rel=0.0005)


@pytest.mark.parametrize("rate", [0, 999, 400_000, -8000])
def test_a_rate_that_is_none_is_a_media_error(rate):
    with pytest.raises(MediaError):
        Conversion(rate, 8000)


def test_equal_rates_change_nothing():
    conversion = Conversion(8000, 8000)
    assert conversion.feed(b"\1\2\3\4") + conversion.flush() == b"\1\2\3\4"


@pytest.mark.parametrize("name", ["ulaw", "alaw"])
def test_g711_goes_both_ways(name):
    data = bytes(range(256))
    encoding = Encoding(name)
    back = encoding.encode(encoding.decode(data))
    assert encoding.decode(back) == getattr(g711, f"{name}_decode")(data)


def test_half_a_sample_is_no_pcm():
    with pytest.raises(ValueError, match="half a sample"):
        Encoding().decode(b"\1")


# ---- what comes in ----


def test_a_chunk_was_sounding_until_it_came_whatever_its_length():
    track = Track()
    intake = Intake(track, "LEG-A", "incoming", 8000)
    now = 100.0
    for samples in (160, 800, 160, 80, 2000):
        now += samples / 8000
        assert intake.take(bytes(2 * samples), now)
    starts = [start for start, _ in track.taken]
    ends = [start + len(frames) / 16_000 for start, frames in track.taken]
    np.testing.assert_allclose(starts[1:], ends[:-1])
    assert starts[0] == pytest.approx(100.0)


@pytest.mark.parametrize("rate", [12_000, 16_000, 44_100, 96_000])
def test_what_the_conversion_holds_back_is_in_the_places_of_what_comes(rate):
    track = Track()
    intake = Intake(track, "LEG-A", "incoming", rate)
    wave, step = sine(1.0, rate), 2 * (rate // 50)
    for number, at in enumerate(range(0, len(wave), step)):
        assert intake.take(wave[at : at + step], 5.0 + (number + 1) * 0.02)
    intake.flush()
    at_s = 5.0
    for start, frames in track.taken:
        assert start == pytest.approx(at_s, abs=0.0003)
        at_s += len(frames) / 16_000
    assert at_s == pytest.approx(6.0, abs=0.001)


def test_a_peer_that_sends_faster_than_time_passes_gets_no_further_than_half_a_second():
    track = Track()
    intake = Intake(track, "LEG-A", "incoming", 8000)
    now, taken = 10.0, 0
    for _ in range(5000):  # 100 s of audio in 10 s
        now += 0.002
        taken += intake.take(bytes(320), now)
        assert track.samples / 8000 <= now - 10.0 + AHEAD_S + 0.04
    assert 0 < taken < 5000
    assert track.left_out == 5000 - taken


def test_whatever_a_stall_has_held_up_is_not_ahead_of_time():
    intake = Intake(Track(), "LEG-A", "incoming", 8000)
    now = 10.0
    for _ in range(100):
        now += 0.02
        assert intake.take(bytes(320), now)
    now += 8.0
    assert all(intake.take(bytes(320), now) for _ in range(400))  # what was said meanwhile, at once
    for _ in range(100):
        now += 0.02
        assert intake.take(bytes(320), now)


def test_a_pause_is_no_credit_for_audio_of_the_future():
    track = Track()
    intake = Intake(track, "LEG-A", "incoming", 8000)
    now = 10.0
    for pause_s in (0.0, 60.0):
        now += pause_s
        for _ in range(300):
            now += 0.02
            assert intake.take(bytes(320), now)
    before = track.samples
    for _ in range(500):
        intake.take(bytes(320), now)
    assert (track.samples - before) / 8000 <= AHEAD_S + 0.04


def test_a_clock_that_is_a_little_fast_is_no_reason_to_drop_anything():
    intake = Intake(Track(), "LEG-A", "incoming", 8000)
    for number in range(50_000):  # 1,000 s at +200 ppm
        assert intake.take(bytes(320), 10.0 + number * 0.02 / 1.0002)


def test_a_feed_begins_anew_behind_a_flush():
    track = Track()
    feed = Feed(track, "LEG-A", "incoming", 16_000)
    feed.put(sine(0.1, 16_000), 1.0)
    feed.flush()
    feed.put(sine(0.1, 16_000), 5.0)
    feed.flush()
    assert track.samples == 1600
    assert next(start for start, _ in track.taken if start > 2) == pytest.approx(5.0)


# ---- what is played ----


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 48_000])
def test_a_piece_is_frames_of_20_ms_and_the_last_is_filled_up(rate):
    piece = Piece(sine(0.11, 8000), 8000, lambda reason: None)
    frames = []
    while (frame := piece.frame(rate)) is not None:
        frames.append(frame)
    assert [len(frame) for frame in frames] == [rate // 50 * 2] * 6
    assert not any(frames[-1][len(frames[-1]) // 2 + 8 :])


def test_a_piece_at_its_own_rate_is_what_it_was():
    beep = tone.beep(sample_rate=8000)
    piece = Piece(beep, 8000, lambda reason: None)
    assert b"".join(iter(lambda: piece.frame(8000), None)).rstrip(b"\0") == beep.rstrip(b"\0")


def test_a_piece_without_audio_has_no_frame():
    assert Piece(b"", 8000, lambda reason: None).frame(8000) is None
