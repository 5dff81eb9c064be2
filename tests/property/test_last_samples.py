"""However a peer's audio comes, what was taken of it before the hang-up is in the recording, whole and in its order."""

import io
from datetime import UTC, datetime

import numpy as np
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from callreel.actions import StartRecording
from callreel.call import Call
from callreel.service.links import Intake
from live_media import noise

NOW = 1000.0
CHUNKS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 0.001, 0.01, 0.019, 0.02, 0.021, 0.06, 0.3]),
        st.sampled_from([40, 160, 161, 320, 800]),
    ),
    min_size=1,
    max_size=40,
)
"""Seconds since the one before, and samples."""


@given(CHUNKS, st.sampled_from([0.0, 0.0, 0.001, 0.2]), st.booleans())
def test_what_was_taken_before_a_hang_up_is_in_the_recording(chunks, wait_s, ends_too):
    call = Call("c-1", started_at=datetime(2026, 5, 6, tzinfo=UTC), now=NOW)
    call.add_leg(host_frames=True)
    call.start_recording(StartRecording(), now=NOW)
    intake = Intake(call, "LEG-A", "incoming", 8000)
    audio, at, now, taken, file = noise(5), 0, NOW + 0.2, b"", bytearray()
    for since_s, samples in chunks:
        now += since_s
        while (due := call.next_timeout()) <= now:
            call.handle_timeout(now=due)
        piece = audio[at : at + 2 * samples]
        at += len(piece)
        taken += piece if intake.take(piece, now) else b""
    call.hang_up("LEG-A", now=now + wait_s)
    if ends_too:
        call.end(now=now + wait_s)
    else:
        call.handle_timeout(now=now + 5)
    for _, (offset, data) in call.writes():
        file[offset : offset + len(data)] = data
    heard = soundfile.read(io.BytesIO(bytes(file)), dtype="int16", always_2d=True)[0][:, 0]
    np.testing.assert_array_equal(heard[heard != 0], np.frombuffer(taken, "<i2"))
