"""A recording's end and pauses, whatever happens in whatever order, against a model of ten lines."""

import io
from datetime import UTC, datetime

import numpy as np
import soundfile
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from callreel.actions import EndReason, Layout, RecordingKind, StartRecording, StopRules
from callreel.call import Call
from callreel.errors import ActionConflictError
from callreel.events import RecordingFinished
from callreel.kernels import g711, pcm
from callreel.recording import PAUSE_TONE
from capture_writer import rtp_packet

RATE, PACKET, KEY = 8000, 160, 800
LOUD = bytes(np.random.default_rng(1).permutation(np.tile(np.array([0x10, 0x90], np.uint8), 80)))
QUIET = b"\xff" * PACKET
TONE = round(PAUSE_TONE["seconds"] * RATE)
SILENCE_DBM0 = -40.0
RARELY = st.sampled_from([False] * 7 + [True])
"""What ends a recording is seldom done, so that there is something to end."""


def model(machine):
    """Where it ends and why: the earliest of all that ends it, in the order of EndReason at one sample."""
    rules, first, ends = machine.rules, machine.start, list(machine.commands)
    ends += [(at + KEY, EndReason.TERMINATOR, key) for at, key in machine.keys if key in rules.terminators]
    if rules.max_duration_ms is not None:
        ends.append((first + 8 * rules.max_duration_ms, EndReason.MAX_DURATION, None))
    run, spoken, loud_run = 0, False, 0
    for number, loud in enumerate(machine.heard[first // PACKET :]):
        paused = any(begin <= first + number * PACKET < end for begin, end in machine.pauses)
        loud_run = loud_run + 1 if loud and not paused else 0
        spoken = spoken or loud_run >= 3
        run = 0 if paused or loud_run >= 3 else run + 1
        limit = rules.trailing_silence_ms if spoken else rules.initial_silence_ms
        if limit is not None and run * 20 >= limit:
            reason = EndReason.TRAILING_SILENCE if spoken else EndReason.INITIAL_SILENCE
            ends.append((first + (number + 1) * PACKET, reason, None))
            break
    order = list(EndReason)
    return min(ends, key=lambda end: (end[0], order.index(end[1])))


class Rules(RuleBasedStateMachine):
    """A participant speaks, falls silent and presses keys; the host pauses, resumes, stops and hangs up."""

    @initialize(
        terminators=st.frozensets(st.sampled_from("12#")),
        max_duration_ms=st.one_of(st.none(), st.sampled_from([20, 500, 1000, 3000])),
        initial_silence_ms=st.one_of(st.none(), st.sampled_from([20, 80, 100, 500])),
        trailing_silence_ms=st.one_of(st.none(), st.sampled_from([20, 80, 100, 500])),
        before=st.integers(0, 30),
    )
    def begin(self, before, **rules):
        self.rules = StopRules(**rules, silence_dbm0=SILENCE_DBM0)
        self.call = Call("c", started_at=datetime(2026, 1, 2, tzinfo=UTC), now=0.0)
        self.call.add_leg(detect_digits=False)
        self.heard, self.keys, self.commands, self.pauses = [], [], [], []
        self.paused = self.ended = False
        self.file, self.finished = bytearray(), []
        self.speak(before, loud=True)
        self.start = self.position
        self.call.start_recording(
            StartRecording(kind=RecordingKind.MESSAGE, layout=Layout.INCOMING, rules=self.rules),
            now=self.now,
        )

    @property
    def position(self):
        return len(self.heard) * PACKET

    @property
    def now(self):
        return len(self.heard) * PACKET / RATE

    @rule(packets=st.one_of(st.integers(1, 4), st.integers(1, 60)), loud=st.booleans())
    def speak(self, packets, loud):
        for _ in range(packets):
            number = len(self.heard)
            packet = rtp_packet(
                LOUD if loud else QUIET, seq=number & 0xFFFF, timestamp=number * PACKET, ssrc=9
            )
            self.call.receive_rtp("LEG-A", packet, now=self.now)
            self.heard.append(loud)
        self.call.handle_timeout(now=self.now)

    @rule(key=st.sampled_from("0129#"))
    def press(self, key):
        self.keys.append((self.position, key))
        self.call.receive_digit("LEG-A", key, now=self.now)

    def _command(self, verb):
        try:
            verb("LEG-A", now=self.now, kind=RecordingKind.MESSAGE)
        except ActionConflictError:
            return False
        return True

    @precondition(lambda self: not self.ended)
    @rule()
    def pause(self):
        if self._command(self.call.pause_recording) and not self.paused:
            self.paused = True
            self.pauses.append((self.position, 1 << 62))

    @precondition(lambda self: not self.ended)
    @rule()
    def resume(self):
        if self._command(self.call.resume_recording) and self.paused:
            self.paused = False
            self.pauses[-1] = (self.pauses[-1][0], self.position)

    @precondition(lambda self: not self.ended)
    @rule(really=RARELY)
    def stop(self, really):
        if not really:
            return
        if self._command(self.call.stop_recording):
            self.ended = True
            self.commands.append((self.position, EndReason.STOP, None))

    @precondition(lambda self: not self.ended)
    @rule(really=RARELY)
    def hang_up(self, really):
        if not really:
            return
        self.call.hang_up("LEG-A", now=self.now)
        self.commands.append((self.position, EndReason.HANGUP, None))
        self.ended = True

    @invariant()
    def the_file_is_whole(self):
        for _, (offset, data) in self.call.writes():
            assert offset <= len(self.file)
            self.file[offset : offset + len(data)] = data
        self.finished += [event for event in self.call.events() if isinstance(event, RecordingFinished)]
        assert len(self.finished) <= 1

    def teardown(self):
        if not hasattr(self, "call"):
            return
        if not self.ended:
            self.commands.append((self.position, EndReason.HANGUP, None))
        self.call.end(now=self.now)
        self.the_file_is_whole()
        end, reason, key = model(self)
        (finished,) = self.finished
        manifest = finished.manifest
        assert (finished.end_reason, finished.terminator) == (reason, key)
        assert manifest["frames"] == end - self.start
        audio, _ = soundfile.read(io.BytesIO(bytes(self.file)), dtype="int16")
        assert len(audio) == end - self.start
        assert self.call.legs["LEG-A"].incoming.counts["late"] == 0
        self._check_audio(audio, end)

    def _check_audio(self, audio, end):
        sent = b"".join(g711.ulaw_decode(LOUD if loud else QUIET) for loud in self.heard)
        expected = np.frombuffer(sent, "<i2")[self.start : end].copy()
        expected = np.pad(expected, (0, len(audio) - len(expected)))
        toned = np.zeros(len(audio), bool)
        for begin, stop in self.pauses:
            first, last = begin - self.start, min(stop, end) - self.start
            expected[max(first, 0) : max(last, 0)] = 0
            for edge in (begin, stop):
                toned[max(edge - self.start, 0) : max(edge - self.start + TONE, 0)] = True
            if stop < end:
                assert pcm.level(audio[last : last + TONE].tobytes())[0] > -24
        np.testing.assert_array_equal(audio[~toned], expected[~toned])


Rules.TestCase.settings = settings(max_examples=400, stateful_step_count=25, deadline=None)
test_a_recording_follows_its_rules_whatever_comes = Rules.TestCase
