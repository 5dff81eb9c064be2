"""Whatever comes, however late, and however a call ends: each recording that began has ended when its call has.

One that had not would be neither delivered nor told of until its process starts anew.
"""

import random
from collections import Counter
from datetime import UTC, datetime
from functools import partial

import pytest

from callreel.actions import Layout, StartRecording, StopRules
from callreel.call import Call
from callreel.events import RecordingFinished, RecordingStarted
from callreel.legs import Direction
from capture_writer import rtp_packet

PACKET_S, STEP_S, LEG = 0.02, 0.14, "LEG-A"


def packets(chance):
    """(arrival, direction, packet) of up to two streams, each with its own delay, jitter, clock and losses."""
    found = []
    for direction in Direction:
        first_s, jitter_s = chance.random() * 0.3, chance.choice([0.0, 0.001, 0.02, 0.06, 0.2])
        clock = chance.choice([1.0, 1.0, 1.0005, 0.9995, 1.003, 0.99])
        for number in range(chance.choice([0, 10, 60, 150])):
            if chance.random() >= 0.02:
                at = first_s + number * PACKET_S * clock + chance.random() * jitter_s
                found.append((at, direction, rtp_packet(bytes(160), number, 160 * number, 7)))
    return found


def course(call, chance):
    """(moment, verb) of all that happens to a call, in order; every verb takes `now`."""
    came = packets(chance)
    over = chance.random() * (max((at for at, _, _ in came), default=1.0) + 0.3) + 0.1
    ended = over + chance.choice([0.0, 0.0, 0.0001, 0.01, 0.3])
    action = StartRecording(
        layout=chance.choice(list(Layout)),
        rules=StopRules(
            max_duration_ms=chance.choice([None, None, 1000]),
            initial_silence_ms=chance.choice([None, None, 400]),
            media_timeout_ms=chance.choice([None, None, 200]),
        ),
    )
    steps = [number * STEP_S + chance.random() * 0.01 for number in range(100)]
    found = [
        (chance.random() * 0.1, partial(call.start_recording, action)),
        *((at, partial(call.receive_rtp, LEG, packet, direction=way)) for at, way, packet in came),
        *((at, call.handle_timeout) for at in steps),
    ]
    if chance.random() < 0.7:  # it says up to where there is audio, which may move afterwards
        found.append((over, partial(call.hang_up, LEG)))
    found = sorted((one for one in found if one[0] <= ended), key=lambda one: one[0])
    return [*found, (ended, call.end)]


@pytest.mark.parametrize("seed", range(8))
def test_every_recording_that_began_ends_with_its_call(seed):
    chance = random.Random(f"every end {seed}")
    for _ in range(400):
        call = Call("c", started_at=datetime(2026, 5, 6, tzinfo=UTC), now=0.0, as_pcm=chance.random() < 0.7)
        call.add_leg(LEG, now=0.0)
        for now, verb in course(call, chance):
            verb(now=now)
        told = Counter(type(event) for event in call.events())
        assert told[RecordingStarted] == told[RecordingFinished] == 1
