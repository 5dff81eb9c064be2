"""Frames that a host hands over have no timestamps: what a stall held up stands where it was said, a pause stays one.

However late, and in whatever bursts they come: none is missing, unless the timeline was final before it came.
"""

import io
import random
from datetime import UTC, datetime

import numpy as np
import pytest
import soundfile

from callreel.actions import StartRecording
from callreel.call import Call
from callreel.events import RecordingFinished

RATE, FRAME_SAMPLES, FRAME_S, STEP_S = 8000, 160, 0.02, 0.1
LATE_S = 1.0
"""What comes later than this is too late for the timeline."""


def recorded(arrivals, end, *, hangs_up=False, seed=0):
    """The positions of the frames that were whole at those moments, in samples, None for those that are missing; and
    the manifest."""
    audio = np.random.default_rng(seed).integers(1000, 9000, len(arrivals) * FRAME_SAMPLES).astype("<i2")
    call = Call("c", started_at=datetime(2026, 5, 6, tzinfo=UTC), now=0.0)
    call.add_leg("LEG-A", now=0.0, host_frames=True)
    call.start_recording(StartRecording(), now=0.0)
    due = [(at, number) for number, at in enumerate(arrivals)]
    due += [(number * STEP_S, None) for number in range(1, int(end / STEP_S) + 1)]
    for now, number in sorted(due, key=lambda one: one[0]):
        if number is None:
            call.handle_timeout(now=now)
        else:
            frame = audio[number * FRAME_SAMPLES : (number + 1) * FRAME_SAMPLES]
            call.receive_pcm("LEG-A", frame.tobytes(), now=now - FRAME_S)
    if hangs_up:
        call.hang_up("LEG-A", now=end)
    call.end(now=end)
    file = bytearray()
    for _, write in call.writes():
        at = len(file) if write.offset is None else write.offset
        file[at : at + len(write.data)] = write.data
    heard = soundfile.read(io.BytesIO(bytes(file)), dtype="int16", always_2d=True)[0][:, 0].astype("<i2")
    places = []
    for begin in range(0, len(audio), FRAME_SAMPLES):
        at = heard.tobytes().find(audio[begin : begin + FRAME_SAMPLES].tobytes())
        places.append(None if at < 0 else at // 2)
    (manifest,) = [event.manifest for event in call.events() if isinstance(event, RecordingFinished)]
    return places, manifest


def breaks(places):
    """Where a frame does not follow the one before, and how much silence is between, in seconds."""
    return {
        number: (places[number] - places[number - 1] - FRAME_SAMPLES) / RATE
        for number in range(1, len(places))
        if places[number] != places[number - 1] + FRAME_SAMPLES
    }


def spoken(number, begin_s=0.3):
    return [begin_s + FRAME_S * (one + 1) for one in range(number)]


def held_up(moments, first, stall_s):
    """From frame `first` on nothing comes for so long, then all that is due at once."""
    return [max(at, moments[first] + stall_s) if at >= moments[first] else at for at in moments]


@pytest.mark.parametrize("hangs_up", [False, True])
@pytest.mark.parametrize("last", [1, 3, 5, 8, 10])
@pytest.mark.parametrize("stall_s", [0.05, 0.08, 0.15, 0.19])
def test_what_a_stall_holds_up_at_the_very_end_follows_what_was_said_before(stall_s, last, hangs_up):
    moments = held_up(spoken(100), 100 - last, stall_s)
    places, manifest = recorded(moments, moments[-1] + 0.001, hangs_up=hangs_up)
    assert None not in places
    assert breaks(places) == {}
    assert manifest["degraded"] is False


@pytest.mark.parametrize("burst_s", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("pause_s", [0.5, 1.0, 3.0, 10.0])
def test_a_burst_behind_a_pause_is_there_whole_and_behind_the_pause(pause_s, burst_s):
    moments = spoken(50)
    begin_s, burst = moments[-1] + pause_s, round(burst_s / FRAME_S)
    moments += [begin_s] * burst + [begin_s + FRAME_S * (number + 1) for number in range(50)]
    places, manifest = recorded(moments, moments[-1] + 0.5)
    assert None not in places
    assert manifest["degraded"] is False
    ((number, silence_s),) = breaks(places).items()
    assert number == 50
    assert pause_s - burst_s - 0.021 <= silence_s <= pause_s


@pytest.mark.parametrize("burst_s", [0.1, 0.2, 0.38, 0.46, 0.5])
def test_a_stream_that_begins_with_a_burst_is_there_whole(burst_s):
    moments = [0.5] * round(burst_s / FRAME_S) + [0.5 + FRAME_S * (one + 1) for one in range(100)]
    places, manifest = recorded(moments, moments[-1] + 0.001)
    assert None not in places
    assert breaks(places) == {}
    assert manifest["degraded"] is False


@pytest.mark.parametrize("stall_s", [0.5, 1.0, 1.2, 1.5, 2.5, 3.0, 3.4, 4.0])
def test_of_a_long_stall_is_missing_what_came_more_than_a_second_late_and_it_is_counted(stall_s):
    moments = spoken(300)
    places, manifest = recorded(held_up(moments, 100, stall_s), moments[-1] + 0.5)
    missing = [number for number, place in enumerate(places) if place is None]
    assert (
        missing == list(range(100, 100 + round((stall_s - LATE_S) / FRAME_S)))
        if stall_s > LATE_S
        else not missing
    )
    there = [(number, place) for number, place in enumerate(places) if place is not None]
    assert all(place - places[0] == number * FRAME_SAMPLES for number, place in there)
    assert manifest["tracks"][0]["packets"]["late"] == len(missing)
    assert bool(manifest["degraded"]) is bool(missing)


def test_after_a_stall_that_finds_no_room_audio_stands_where_it_came_from_the_next_pause_on():
    moments = held_up(spoken(500), 50, 6.0)
    moments += spoken(100, moments[-1] + 3.0)
    places, manifest = recorded(moments, moments[-1] + 0.5)
    assert manifest["tracks"][0]["packets"]["discarded"]
    assert manifest["degraded"]
    for place, at in zip(places[500:], moments[500:], strict=True):
        assert abs(place / RATE - (at - FRAME_S)) < 0.03


@pytest.mark.parametrize("after_s", [0.01, 0.2, 0.6])
@pytest.mark.parametrize("stall_s", [1.5, 2.5, 3.4])
def test_what_a_hang_up_right_behind_a_burst_cuts_off_is_told(stall_s, after_s):
    spoken_s = 1.9 if stall_s > 1.9 else 1.0
    moments = spoken(50)
    moments += [moments[-1] + stall_s] * round(spoken_s / FRAME_S)
    places, manifest = recorded(moments, moments[-1] + after_s, hangs_up=True)
    assert bool(manifest["degraded"]) is (None in places)


def course(chance, *, pauses):
    """When frames come: continuous but for stalls of up to 0.19 s, and with pauses and bursts if they are wanted."""
    moments, late, shift, calm = [], 0.0, 0.3 + chance.random() * 0.2, 40
    for number in range(chance.randrange(60, 250)):
        due = shift + FRAME_S * (number + 1)
        if pauses and number >= calm and chance.random() < 0.015:
            burst_s = chance.choice([0.0, 0.1, 0.4])
            silent_s = chance.uniform(0.3, 5.0)
            shift += silent_s - burst_s
            due += silent_s - burst_s
            late, calm = due + burst_s, number + 40
        elif number >= calm and chance.random() < 0.03:
            late, calm = due + chance.uniform(0.02, 0.19), number + 40
        moments.append(max(due + chance.choice([0.0, 0.001, 0.004]) * chance.random(), late))
    return moments


@pytest.mark.parametrize("pauses", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_whatever_stalls_and_pauses_there_are_no_frame_is_missing_and_none_stands_far_from_its_arrival(
    seed, pauses
):
    chance = random.Random(f"host frames {seed} {pauses}")
    moments = course(chance, pauses=pauses)
    end = moments[-1] + chance.choice([0.0005, 0.01, 0.3])
    places, manifest = recorded(moments, end, hangs_up=chance.random() < 0.6, seed=seed)
    assert None not in places
    assert manifest["degraded"] is False
    if not pauses:
        assert breaks(places) == {}
    for place, at in zip(places, moments, strict=True):
        assert -0.5 < place / RATE - (at - FRAME_S) < 0.03
