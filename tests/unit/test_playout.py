"""Live audio of one participant: what is held back, for how long, and what is left out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callreel.playout import FRAME_SAMPLES, Line, Playout

DELAY = 480


def noise(samples: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(-9000, 9000, samples).astype("<i2").tobytes()


def played(playout: Playout, first: int, frames: int) -> bytes:
    """So many frames from the one at `first` on."""
    taken = [playout.frame(first + FRAME_SAMPLES * n) for n in range(frames)]
    return b"".join(one if one is not None else bytes(2 * FRAME_SAMPLES) for one in taken)


def test_a_line_is_looked_at_without_forgetting():
    def samples(*values):
        return np.array(values, np.int16).tobytes()

    line = Line()
    line.put(100, samples(3, 4, 5))
    looks = [(98, 105, (0, 0, 3, 4, 5, 0, 0)), (101, 102, (4,)), (0, 3, (0, 0, 0)), (200, 202, (0, 0))]
    for begin, end, expected in looks:
        assert line.peek(begin, end) == samples(*expected)
    assert line.take(100, 103) == samples(3, 4, 5)


@given(st.data())
def test_a_line_gives_out_its_pieces_in_their_places_however_it_is_asked(data):
    truth, line = np.zeros(400, np.int16), Line()
    at = data.draw(st.integers(0, 50))
    while at < 250:
        samples = data.draw(st.integers(30, 100))
        audio = np.arange(at + 1, at + 1 + samples, dtype=np.int16)
        truth[at : at + samples] = audio
        line.put(at, audio.tobytes())
        at += samples + data.draw(st.integers(0, 40))
    taken, at = b"", 0
    while at < 400:
        samples = min(data.draw(st.integers(40, 200)), 400 - at)
        stretch = line.take(at, at + samples)
        taken += bytes(2 * samples) if stretch is None else stretch
        at += samples
    assert taken == truth.tobytes()


def test_a_line_takes_no_sample_twice():
    line = Line()
    line.put(100, noise(50))
    line.put(130, noise(50, seed=2))
    assert line.take(100, 180) == noise(50) + noise(50, seed=2)[40:]


def test_what_is_asked_of_an_empty_line_is_nothing():
    assert Line().take(0, 160) is None


def test_audio_is_held_back_by_the_delay():
    playout, audio = Playout(DELAY, 0), noise(800)
    playout.put(0, audio)
    assert played(playout, 0, 8) == bytes(2 * DELAY) + audio


def test_audio_that_comes_later_than_the_delay_lengthens_it_and_is_whole():
    playout, audio = Playout(DELAY, 1600), noise(800)
    playout.put(1000, audio)
    assert playout.delay_samples == 600
    assert played(playout, 1600, 5) == audio


def test_no_audio_is_played_later_than_400_ms():
    playout, audio = Playout(DELAY, 8000), noise(4800)
    playout.put(4000, audio)
    assert playout.delay_samples == 3200
    assert played(playout, 8000, 25) == audio[2 * 800 :]


@pytest.mark.parametrize("step", [-3, 3])
def test_a_clock_correction_takes_or_adds_a_sample_and_tears_nothing(step):
    playout, audio = Playout(DELAY, 0), noise(320)
    playout.put(1, audio)
    playout.put(321 + step, audio)
    second = audio[6:] if step < 0 else audio[:2] * 3 + audio
    assert played(playout, DELAY, 4)[2:1282].startswith((audio + second)[:1270])


def test_audio_that_is_found_to_belong_earlier_goes_on_without_a_break():
    playout, audio = Playout(DELAY, 0), noise(1600)
    playout.put(240, audio[:1600])
    heard = played(playout, 0, 6)
    playout.put(800, audio[1600:])  # all stood 30 ms too late
    assert playout.delay_samples == DELAY + 240
    assert heard + played(playout, 960, 9) == bytes(2 * 720) + audio + bytes(2 * 80)


def test_the_delay_shrinks_frame_by_frame_where_nothing_is_said_but_not_before_4_s():
    playout = Playout(DELAY, 1600)
    playout.put(800, noise(800))
    assert playout.delay_samples == 800
    delays = []
    for number in range(10, 500):
        playout.frame(160 * number)
        delays.append(playout.delay_samples)
    assert set(delays) == {800, 640, 480}
    assert delays.index(640) >= 200
    assert delays.index(480) == delays.index(640) + 1


def test_the_delay_does_not_shrink_while_someone_speaks():
    playout = Playout(DELAY, 1600)
    playout.put(800, noise(800))
    for number in range(10, 600):
        playout.put(160 * number, noise(160, seed=number))
        assert playout.frame(160 * number) is not None
    assert playout.delay_samples == 800


def test_no_more_than_a_second_is_held():
    playout = Playout(DELAY, 0)
    for number in range(500):
        playout.put(1 + 160 * number, noise(160, seed=number))
    assert playout.frame(160 * 449 + DELAY + 1) is None
    assert playout.frame(160 * 450 + DELAY + 1) == noise(160, seed=450)
