"""A recording's beginning, end and pauses, whatever happens in whatever order, against a short model."""

import io
from datetime import UTC, datetime

import numpy as np
import soundfile
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from callreel.actions import EndReason, Layout, Prompt, RecordingKind, StartRecording, StopRules
from callreel.call import Call
from callreel.dialects import Answer, Order
from callreel.errors import ActionConflictError
from callreel.events import ActionEnded, Play, RecordingFinished, RecordingStarted
from callreel.kernels import g711, pcm
from callreel.recording import PAUSE_TONE
from capture_writer import rtp_packet

RATE, PACKET, KEY = 8000, 160, 800
LOUD = bytes(np.random.default_rng(1).permutation(np.tile(np.array([0x10, 0x90], np.uint8), 80)))
QUIET = b"\xff" * PACKET
TONE = round(PAUSE_TONE["seconds"] * RATE)
SILENCE_DBM0 = -40.0
FINAL_MS = 1400
"""How much longer than its time a gap must be to be found for certain, which is when the audio is final."""
FAR = (1 << 62,)
ORDER = [
    "terminator",
    "max_duration",
    "initial_silence",
    "trailing_silence",
    "media_timeout",
    "stop",
    "hangup",
    "cancelled",
    "interrupted",
]
UNDELIVERED = frozenset({EndReason.INITIAL_SILENCE})
"""Besides what was called off."""
RARELY = st.sampled_from([False] * 11 + [True])
"""What ends a recording is seldom done, so that there is something to end."""


def known(machine):
    """All that is known at once to end it: (position, why, which key)."""
    rules, ends = machine.rules, list(machine.commands)
    tail = KEY if rules.keep_terminator else 0
    ends += [(at + tail, EndReason.TERMINATOR, key) for at, key in machine.keys if key in rules.terminators]
    if rules.max_duration_ms is not None:
        ends.append((machine.start + 8 * rules.max_duration_ms, EndReason.MAX_DURATION, None))
    return ends


def model(machine):
    """Where it ends, why, and by which key: the earliest, in the order of EndReason at one sample."""
    rules, ends = machine.rules, known(machine)
    missing = loud = quiet = spoken = 0
    for at in range(machine.start, machine.position, PACKET):
        sound = machine.heard[at // PACKET]
        paused = any(begin <= at < end for begin, end in machine.pauses)
        missing = missing + 1 if sound is None else 0
        loud = loud + 1 if sound and not paused else 0
        spoken = spoken or loud >= 3
        quiet = 0 if paused or loud >= 3 else quiet + 1
        if 20 * missing == rules.media_timeout_ms:
            ends.append((at + PACKET, EndReason.MEDIA_TIMEOUT, None))
        if 20 * quiet == (rules.trailing_silence_ms if spoken else rules.initial_silence_ms):
            reason = EndReason.TRAILING_SILENCE if spoken else EndReason.INITIAL_SILENCE
            ends.append((at + PACKET, reason, None))
    return min(ends, key=lambda end: (end[0], ORDER.index(end[1])))


class Obedient:
    """A session whose customer writes orders."""

    dialect = "none"

    def request(self, document, call):
        return Answer(order=document)

    def tell(self, event, call):
        return Answer()

    metadata_has_duration = False

    def describe(self, action_id, **about):
        return {}, {"action": "record"}

    def last_words(self, event, call):
        return None


class Rules(RuleBasedStateMachine):
    """A participant speaks, falls silent and presses keys; prompts end; others pause, resume, stop, cancel, hang up."""

    @initialize(
        terminators=st.frozensets(st.sampled_from("12#")),
        keep_terminator=st.booleans(),
        max_duration_ms=st.one_of(st.none(), st.sampled_from([20, 500, 1000, 3000])),
        initial_silence_ms=st.one_of(st.none(), st.sampled_from([20, 80, 100, 500])),
        trailing_silence_ms=st.one_of(st.none(), st.sampled_from([20, 80, 100, 500])),
        media_timeout_ms=st.one_of(st.none(), st.sampled_from([60, 500])),
        before=st.integers(0, 30),
        after=st.lists(st.tuples(st.booleans(), st.integers(1, 60)), max_size=3),
        prompt=RARELY,
        beep=RARELY,
    )
    def begin(self, before, after, prompt, beep, **rules):
        self.rules = StopRules(**rules, silence_dbm0=SILENCE_DBM0)
        self.call = Call("c", started_at=datetime(2026, 1, 2, tzinfo=UTC), now=0.0, dialect=Obedient())
        self.call.add_leg(detect_digits=False)
        self.heard, self.keys, self.commands, self.pauses = [], [], [], []
        self.paused = self.ended = self.called_off = False
        self.start = self.plays = None
        self.packets, self.after = 0, after
        self.file, self.finished, self.told = bytearray(), [], []
        self._send(before, loud=True, moves_on=False)
        action = StartRecording(
            action_id="a",
            kind=RecordingKind.MESSAGE,
            layout=Layout.INCOMING,
            rules=self.rules,
            prompt=Prompt(uri="p") if prompt else None,
            beep=beep,
            undelivered=UNDELIVERED,
        )
        self.call.request(Order(actions=(action,)), now=self.now)

    @property
    def position(self):
        return len(self.heard) * PACKET

    @property
    def now(self):
        return len(self.heard) * PACKET / RATE

    @property
    def runs(self):
        return self.start is not None and not self.ended

    @rule(packets=st.integers(1, 60), moves_on=st.booleans())
    def speak(self, packets, moves_on):
        self._send(packets, loud=True, moves_on=moves_on)

    @rule(packets=st.integers(1, 4))
    def click(self, packets):
        self._send(packets, loud=True, moves_on=False)

    @rule(packets=st.one_of(st.integers(1, 4), st.integers(1, 60)), moves_on=st.booleans())
    def fall_silent(self, packets, moves_on):
        self._send(packets, loud=False, moves_on=moves_on)

    def _send(self, packets, *, loud, moves_on):
        for _ in range(packets):
            packet = rtp_packet(
                LOUD if loud else QUIET, seq=self.packets & 0xFFFF, timestamp=self.position, ssrc=9
            )
            self.packets += 1
            self.call.receive_rtp("LEG-A", packet, now=self.now)
            self.heard.append(loud)
            if moves_on:
                self.call.handle_timeout(now=self.now)
        self.call.handle_timeout(now=self.now)

    @precondition(lambda self: self.rules.media_timeout_ms is not None)
    @rule(long=st.booleans())
    def nothing_comes(self, long):
        self._send(1, loud=False, moves_on=False)
        ms = self.rules.media_timeout_ms
        for _ in range((ms + FINAL_MS if long else ms - 20) // 20):
            self.heard.append(None)
            self.call.handle_timeout(now=self.now)

    @rule(key=st.sampled_from("0129#"))
    def press(self, key):
        if self.start is not None:
            self.keys.append((self.position, key))
        self.call.receive_digit("LEG-A", key, now=self.now)

    @precondition(lambda self: self.plays is not None)
    @rule()
    def what_plays_ends(self):
        self.plays = None
        self.call.played("a", now=self.now)

    def _command(self, verb):
        try:
            verb("LEG-A", now=self.now, kind=RecordingKind.MESSAGE)
        except ActionConflictError:
            return False
        return True

    @precondition(lambda self: self.runs)
    @rule()
    def pause(self):
        if self._command(self.call.pause_recording) and not self.paused:
            self.paused = True
            self.pauses.append((self.position, 1 << 62))

    @precondition(lambda self: self.runs)
    @rule()
    def resume(self):
        if self._command(self.call.resume_recording) and self.paused:
            self.paused = False
            self.pauses[-1] = (self.pauses[-1][0], self.position)

    @precondition(lambda self: self.runs and not self.paused)
    @rule(packets=st.integers(1, 40), loud=st.booleans())
    def hold(self, packets, loud):
        self.pause()
        self._send(packets, loud=loud, moves_on=False)
        self.resume()

    @precondition(lambda self: not self.ended)
    @rule(really=RARELY)
    def stop(self, really):
        if really and self._command(self.call.stop_recording):
            self._end(EndReason.STOP)

    @precondition(lambda self: not self.ended)
    @rule(really=RARELY, reason=st.sampled_from([EndReason.CANCELLED, EndReason.INTERRUPTED]))
    def call_off(self, really, reason):
        if not really:
            return
        over = self.finished or (self.start is not None and min(known(self), default=FAR)[0] <= self.position)
        self.call.request(Order(stop_running=reason), now=self.now)
        if not over:
            self.called_off = True
            self._end(reason)

    @precondition(lambda self: not self.ended)
    @rule(really=RARELY)
    def hang_up(self, really):
        if really:
            self.call.hang_up("LEG-A", now=self.now)
            self._end(EndReason.HANGUP)

    @precondition(lambda self: self.runs and self.rules.max_duration_ms is not None)
    @rule(
        loud=st.booleans(),
        key=st.sampled_from("12#"),
        what=st.sampled_from(["press", "stop", "hang_up", "nothing"]),
        called_off=st.booleans(),
    )
    def come_to_the_last_moment(self, loud, key, what, called_off):
        """Something happens at the very sample of the longest duration, and it is called off a little later."""
        tail = KEY if what == "press" and self.rules.keep_terminator else 0
        packets = (self.start + 8 * self.rules.max_duration_ms - tail - self.position) // PACKET
        if packets < 0:
            return
        self._send(packets, loud=loud, moves_on=True)
        if what == "press":
            self.press(key)
        elif what != "nothing":
            getattr(self, what)(True)
        if called_off and not self.ended:
            self._send(tail // PACKET + 1, loud=loud, moves_on=False)
            self.the_file_is_whole()
            self.call_off(True, EndReason.CANCELLED)

    def _end(self, reason):
        self.commands.append((self.position, reason, None))
        self.ended = True

    @invariant()
    def the_file_is_whole(self):
        for _, (offset, data) in self.call.writes():
            assert offset <= len(self.file)
            self.file[offset : offset + len(data)] = data
        for event in self.call.events():
            match event:
                case Play():
                    self.plays = event
                case RecordingStarted():
                    assert self.start is None
                    assert not self.ended
                    self.start = self.position
                case RecordingFinished():
                    self.finished.append(event)
                case ActionEnded():
                    self.told.append(event)
        assert len(self.finished) <= 1

    def teardown(self):
        if not hasattr(self, "call"):
            return
        for loud, packets in self.after:
            self._send(packets, loud=loud, moves_on=False)
        if not self.ended:
            self.commands.append((self.position, EndReason.HANGUP, None))
        self.call.end(now=self.now)
        self.the_file_is_whole()
        assert self.call.legs["LEG-A"].incoming.counts["late"] == 0
        if self.start is None:
            assert (self.finished, self.file, len(self.told)) == ([], b"", 1)
            return
        end, reason, key = model(self)
        (finished,) = self.finished
        if finished.deliver:
            assert self.told == []
            self.call.stored(finished.recording_id, now=self.now)
            self.the_file_is_whole()
        assert len(self.told) == 1
        assert (finished.end_reason, finished.terminator) == (reason, key)
        assert finished.deliver is not (self.called_off or reason in UNDELIVERED)
        assert finished.manifest["frames"] == end - self.start
        audio, _ = soundfile.read(io.BytesIO(bytes(self.file)), dtype="int16")
        assert len(audio) == end - self.start
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


Rules.TestCase.settings = settings(max_examples=600, stateful_step_count=30, deadline=None)
test_a_recording_follows_its_rules_whatever_comes = Rules.TestCase
