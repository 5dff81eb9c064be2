"""What a recording writes ahead: whenever a process dies, all but the last step is in a file that can be played."""

import io
from datetime import UTC, datetime

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from callreel.actions import Layout, RecordingKind, StartRecording, StopRules
from callreel.call import STEP_S, Call
from callreel.events import RecordingFinished
from callreel.formats import FORMATS
from callreel.kernels import g711
from callreel.recording import LAYOUT_DIRECTIONS
from capture_writer import rtp_packet

RATE, PACKET = 8000, 160
FINAL = round(1.8 * RATE)
"""What lies so far back, in samples, is final: it is handed on 1.1 s late, 0.48 s at a time, with the next step."""
SECRET = b"\x80" * PACKET
"""What is said while a recording pauses: the loudest sample there is, which nothing else has."""
LOUDEST = int(np.frombuffer(g711.ulaw_decode(b"\x80"), np.int16)[0])


def played(file: bytes | bytearray) -> np.ndarray:
    return soundfile.read(io.BytesIO(bytes(file)), dtype="int16", always_2d=True)[0]


class Take:
    """The file that writes make, as a process that dies would leave it."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.file = bytearray()
        self.written = []

    def drain(self) -> None:
        for _, (offset, data) in self.call.writes():
            assert offset <= len(self.file)
            self.file[offset : offset + len(data)] = data
            self.written.append(bytes(data))


def record(packets, *, as_pcm, until, watch=None, pauses=(), **options):
    """Record (arrival_s, direction, wire) up to `until`; `watch(take, now)` looks after every step."""
    call = Call("c", started_at=datetime(2026, 1, 2, tzinfo=UTC), now=0.0, as_pcm=as_pcm)
    call.add_leg()
    take = Take(call)
    recording_id = call.start_recording(StartRecording(**options), now=0.0)
    due = [(at, "step", None) for at in np.arange(STEP_S, until, STEP_S)]
    due += [(at, "packet", (direction, wire)) for at, direction, wire in packets if at < until]
    due += [
        (at, "pause" if number % 2 == 0 else "resume", None) for number, at in enumerate(pauses) if at < until
    ]
    for now, what, thing in sorted(due, key=lambda one: (one[0], one[1])):
        if what == "step":
            call.handle_timeout(now=now)
            take.drain()
            if watch is not None:
                watch(take, now)
        elif what == "packet":
            call.receive_rtp("LEG-A", thing[1], now=now, direction=thing[0])
        elif what == "pause":
            call.pause_recording(now=now)
        else:
            call.resume_recording(now=now)
    call.end(now=until)
    take.drain()
    (finished,) = [event for event in call.events() if isinstance(event, RecordingFinished)]
    assert finished.recording_id == recording_id
    return take, finished


def talk(seed, seconds, *, lost=0.0, jitter_s=0.0, silent=()):
    """Packets of loud noise, (arrival_s, direction, wire); what is said in `silent` is the secret."""
    chance = np.random.default_rng(seed)
    packets = []
    for number in range(round(seconds * 50)):
        at = number * PACKET / RATE
        secret = any(begin <= at < end for begin, end in silent)
        payload = SECRET if secret else bytes(chance.integers(1, 96, PACKET, dtype=np.uint8))
        wire = rtp_packet(payload, seq=number, timestamp=number * PACKET, ssrc=seed)
        if chance.random() >= lost:
            packets.append((at + 0.02 + chance.uniform(0, jitter_s), wire))
    return packets


def both(seed, seconds, **options):
    return [
        (at, direction, wire)
        for number, direction in enumerate(("incoming", "outgoing"))
        for at, wire in talk(2 * seed + number + 1, seconds, **options)
    ]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from(Layout),
    st.sampled_from([0.0, 0.05]),
    st.sampled_from([0.0, 0.06]),
    st.sampled_from([(), (1.0, 2.5), (0.7, 1.3, 3.0)]),
)
def test_at_any_step_the_file_holds_all_that_came_and_in_the_end_what_it_would_have_held(
    seed, layout, lost, jitter_s, pauses
):
    seconds = 4.0
    packets = both(seed, seconds, lost=lost, jitter_s=jitter_s)
    seen = []

    def watch(take, now):
        audio = played(take.file)
        came = max(
            (at for at, one, _ in packets if at <= now and one in LAYOUT_DIRECTIONS[layout]), default=0.0
        )
        assert len(audio) >= (came - 0.02 - jitter_s) * RATE - 2
        seen.append((round(now * RATE), audio))

    take, finished = record(packets, as_pcm=True, until=seconds, watch=watch, pauses=pauses, layout=layout)
    plain, expected = record(packets, as_pcm=False, until=seconds, pauses=pauses, layout=layout)
    final = played(take.file[: finished.size_bytes])
    np.testing.assert_array_equal(final, played(plain.file))
    assert finished.manifest == expected.manifest
    for now, audio in seen:
        known = max(0, now - FINAL)
        np.testing.assert_array_equal(audio[:known], final[:known])
    if not lost and not jitter_s and not pauses:
        for _, audio in seen:
            np.testing.assert_array_equal(audio, final[: len(audio)])


@pytest.mark.parametrize("seed", range(5))
def test_packets_that_change_places_are_in_their_places_a_step_later(seed):
    seen = []
    packets = both(seed, 4.0, jitter_s=0.06)
    record(packets, as_pcm=True, until=4.0, watch=lambda take, now: seen.append((now, played(take.file))))
    for now, audio in seen:
        if now > 2.4:  # what was written ahead before the anchor was weighed is final by now
            settled = audio[round(0.1 * RATE) : round((now - 0.1 - 0.06) * RATE)]
            assert np.all(np.any(sliding_window_view(settled != 0, PACKET, axis=0), axis=-1))


@pytest.mark.parametrize(("jitter_s", "again_s"), [(0.0, 0.04), (0.01, 0.04), (0.07, 0.1)])
def test_more_is_written_again_where_packets_come_late(jitter_s, again_s):
    ahead = []

    def watch(take, now):
        if now > 2.4:
            *_, audio, header = take.written
            assert header.startswith(b"RIFF")
            ahead.append(len(audio))

    record(both(3, 4.0, jitter_s=jitter_s), as_pcm=True, until=4.0, watch=watch)
    again = [size / 4 / RATE - STEP_S for size in ahead]
    assert max(again) >= again_s - 0.021
    assert np.median(again) <= 0.04 + 0.021
    assert jitter_s > 0.04 or max(again) <= 0.04 + 0.021


def test_nothing_behind_a_known_end_is_written():
    lengths = []
    rules = StopRules(max_duration_ms=1500)
    record(
        both(1, 4.0),
        as_pcm=True,
        until=4.0,
        rules=rules,
        watch=lambda take, now: lengths.append(len(played(take.file))),
    )
    assert max(lengths) == round(1.5 * RATE)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.3, 2.0), st.floats(0.1, 2.0), st.sampled_from(Layout), st.integers(0, 9))
def test_nothing_said_in_a_pause_is_in_any_write(begin, length, layout, seed):
    # The secret begins with the first packet that is sent in the pause, and ends before the pause does.
    pause = (begin, begin + length)
    silent = [(begin, begin + length - 0.04)]
    packets = [
        (at, direction, wire)
        for number, direction in enumerate(("incoming", "outgoing"))
        for at, wire in talk(2 * seed + number + 1, 4.0, silent=silent)
    ]
    take, _ = record(packets, as_pcm=True, until=4.0, pauses=pause, layout=layout)
    values = [
        np.frombuffer(data[: len(data) // 2 * 2], np.int16) for data in take.written if len(data) > 1000
    ]
    assert values
    assert not any(np.any(np.abs(one.astype(int)) == abs(LOUDEST)) for one in values)


def test_what_was_written_ahead_of_a_key_that_is_cut_off_stands_behind_the_size_told():
    rules = StopRules(terminators=frozenset("#"), keep_terminator=False)

    def press(take, now):
        if now == pytest.approx(2.6):
            take.call.receive_digit("LEG-A", "#", now=2.05)

    options = {"rules": rules, "layout": Layout.INCOMING, "once": False, "kind": RecordingKind.MESSAGE}
    take, finished = record(both(1, 4.0), as_pcm=True, until=4.0, watch=press, **options)
    plain, _ = record(both(1, 4.0), as_pcm=False, until=4.0, watch=press, **options)
    assert len(take.file) > finished.size_bytes
    np.testing.assert_array_equal(played(take.file[: finished.size_bytes]), played(plain.file))
    assert len(played(plain.file)) == round(2.05 * RATE)


@pytest.mark.parametrize(("name", "rate"), [("mp3", None), ("wav", 16_000)])
def test_what_was_asked_for_is_told_and_what_is_written_is_pcm_at_the_legs_rate(name, rate):
    packets = both(2, 2.0)
    options = {"format": name, "sample_rate": rate, "layout": Layout.INCOMING}
    take, finished = record(packets, as_pcm=True, until=2.0, **options)
    plain, expected = record(packets, as_pcm=False, until=2.0, **options)
    assert finished.manifest == expected.manifest
    pcm = played(take.file)
    assert len(pcm) == 2 * RATE
    asked = FORMATS[name](sample_rate=rate or RATE, channels=1)
    assert finished.manifest["frames"] == 2 * (rate or RATE)
    assert finished.key.endswith(asked.extension)
    assert plain.file[:4] != take.file[:4] or rate is not None


@pytest.mark.parametrize("late_ms", [3, 10, 20, 45])
@pytest.mark.parametrize("layout", [Layout.STEREO, Layout.INCOMING])
def test_when_all_packets_move_because_the_first_was_late_what_was_written_ahead_moves_too(late_ms, layout):
    (_, direction, wire), *others = both(7, 3.0)
    packets = [(0.02 + late_ms / 1000, direction, wire), *others]
    seen = []
    take, finished = record(
        packets, as_pcm=True, until=3.0, watch=lambda take, _: seen.append(played(take.file)), layout=layout
    )
    final = played(take.file[: finished.size_bytes])
    for audio in seen:
        for before, after in zip(audio.T, final.T, strict=True):
            said = before[np.flatnonzero(before)[0] :]
            np.testing.assert_array_equal(said, after[np.flatnonzero(after)[0] :][: len(said)])
