"""Conference: who hears whom, what is recorded, and when it ends."""

import io
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from callreel.actions import EndReason, Layout, RecordingKind, StartRecording, StopRules
from callreel.call import STEP_S, Call
from callreel.conference import DELAY_MS, ROOM, Conference
from callreel.dialects.sinch import Sinch
from callreel.errors import ActionConflictError, UsageError
from callreel.events import (
    CallEnded,
    LegChanged,
    LegStatus,
    RecordingFinished,
    RecordingStarted,
    RecordingStored,
    VendorMessage,
)
from callreel.legs import Direction
from callreel.manifest import problems
from streams import MS, RATE, S_NS, arrive, codes, decoded, encoded, in_order_of_arrival, late, records, talk

STARTED_AT = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
NOW = 1000.0
DELAY = DELAY_MS * MS
FRAME = 160
WHOLE = StartRecording(kind=RecordingKind.CONFERENCE, layout=Layout.MIX)


class Host:
    """A media server with one conference: drives it to the packets' times and keeps what comes out."""

    def __init__(self, **options) -> None:
        self.conference = Conference("conf-1", started_at=STARTED_AT, now=NOW, **options)
        self.calls: dict[str, Call] = {}
        self.waiting: list[tuple[int, str, object]] = []  # (arrival, call, packet)
        self.frames: dict[str, list] = {}
        self.events: list = []
        self.files: dict[str, bytearray] = {}

    def call(self, name: str, packets=(), *, origin: float = 0.0, **options) -> Call:
        """A call with one leg, whose packets come at their times (of the conference)."""
        call = Call(name, started_at=STARTED_AT + timedelta(seconds=origin), now=NOW + origin)
        call.add_leg(**{"detect_digits": False, "host_frames": Direction.OUTGOING, **options})
        self.calls[name] = call
        self.waiting += [(packet.arrival_ns, name, packet) for packet in packets]
        self.waiting.sort(key=lambda one: one[0])
        return call

    def join(self, name: str, packets=(), *, at: float = 0.0, **options) -> Call:
        call = self.calls.get(name) or self.call(name, packets, **options)
        self.run(at)
        self.conference.join(call, now=NOW + at)
        return call

    def leave(self, name: str, at: float) -> None:
        self.run(at)
        self.conference.leave(self.calls[name], now=NOW + at)
        self.drain()

    def record(self, at: float = 0.0, action=None) -> str:
        self.run(at)
        return self.conference.start_recording(action, now=NOW + at)

    def run(self, until: float) -> None:
        """Packets and deadlines in order of time, up to and with `until` seconds."""
        while self.waiting and self.waiting[0][0] <= until * S_NS:
            arrival_ns, name, packet = self.waiting.pop(0)
            self._time(NOW + arrival_ns / S_NS)
            if self.calls[name].next_timeout() is not None:
                self.calls[name].receive_rtp("LEG-A", packet.wire(), now=NOW + arrival_ns / S_NS)
        self._time(NOW + until)

    def _time(self, now: float) -> None:
        while (due := self.conference.next_timeout()) is not None and due <= now:
            self.conference.handle_timeout(now=due)
            self.drain()

    def drain(self) -> None:
        for frame in self.conference.frames():
            self.frames.setdefault(frame.call_id, []).append(frame)
        for source in (self.conference, *self.calls.values()):
            self.events += source.events()
            for recording_id, (offset, data) in source.writes():
                file = self.files.setdefault(recording_id, bytearray())
                file[offset : offset + len(data)] = data

    def end(self, at: float) -> None:
        self.run(at)
        self.conference.end(now=NOW + at)
        self.run(at + 3)
        assert self.conference.is_over

    def heard(self, name: str) -> np.ndarray:
        """What was sent to someone without a break, silence before it, from 0 s on."""
        frames = self.frames[name]
        times = np.array([frame.now - NOW for frame in frames])
        np.testing.assert_allclose(np.diff(times), 0.02, atol=1e-6)
        sent = samples(b"".join(frame.pcm for frame in frames))
        return np.concatenate([np.zeros(round(times[0] * RATE), np.int16), sent])

    def audio(self, recording_id: str = "conf-1/ROOM/conference") -> np.ndarray:
        return soundfile.read(io.BytesIO(bytes(self.files[recording_id])), dtype="int16", always_2d=True)[0]

    def finished(self, call_id: str = "conf-1") -> RecordingFinished:
        (event,) = self.told(RecordingFinished, call_id)
        return event

    def told(self, kind, call_id: str = "conf-1") -> list:
        self.drain()
        return [event for event in self.events if isinstance(event, kind) and event.call_id == call_id]


def samples(pcm: bytes) -> np.ndarray:
    return np.frombuffer(pcm, np.int16)


def voice(seed: int, seconds: float = 3.0, *, start: float = 0.0, gain: float = 1.0):
    """Packets that come at their times from `start` seconds on, and what they say, in samples from 0 s on."""
    said = (decoded(codes(round(seconds * RATE), seed)) * gain).astype(np.int16)
    data = encoded(said)
    begin = round(start * RATE)
    return arrive(talk(data, start=begin)), np.concatenate([np.zeros(begin, np.int16), decoded(data)])


def total(*said, begin=0, end=None) -> np.ndarray:
    """The saturated sum, from `begin` to `end`."""
    length = max(len(one) for one in said) if end is None else end
    padded = [np.pad(one[:length], (0, max(0, length - len(one)))).astype(int) for one in said]
    return np.clip(np.sum(padded, axis=0), -32768, 32767)[begin:]


def during(said, begin, end):
    """What was said in a part of the time, silence around it; samples."""
    part = np.zeros_like(said)
    part[begin:end] = said[begin:end]
    return part


def later(said, by: int = DELAY) -> np.ndarray:
    return np.concatenate([np.zeros(by, np.int16), said])


# ---- hearing ----


def test_each_hears_the_sum_of_all_others_60_ms_later():
    host = Host()
    (a, said_a), (b, said_b), (c, said_c) = voice(1), voice(2, start=0.0055), voice(3, start=0.01)
    for name, packets in zip("abc", (a, b, c), strict=True):
        host.join(name, packets)
    host.run(2.0)
    for name, others in {"a": (said_b, said_c), "b": (said_a, said_c), "c": (said_a, said_b)}.items():
        np.testing.assert_array_equal(host.heard(name), later(total(*others))[: 101 * FRAME])


def test_what_is_heard_is_saturated_once_after_the_own_voice_is_taken_off():
    host = Host()
    up, down = np.full(RATE, 30_000, np.int16), np.full(RATE, -30_000, np.int16)
    voices = {name: decoded(encoded(one)) for name, one in (("a", up), ("b", up), ("c", up), ("d", down))}
    for name, said in voices.items():
        host.join(name, arrive(talk(encoded(said))))
    host.run(0.9)
    assert set(host.heard("a")[DELAY:]) == {min(32767, int(voices["b"][0]))}  # b + c + d
    assert set(host.heard("d")[DELAY:]) == {32767}


def test_someone_alone_hears_silence():
    host = Host()
    host.join("a", voice(1)[0])
    host.run(1.0)
    assert len(host.heard("a")) == RATE + FRAME
    assert not host.heard("a").any()


def test_frames_are_due_every_20_ms_while_someone_is_there():
    host = Host()
    host.run(0.5)
    host.join("a", at=0.507, origin=0.5)
    assert host.conference.next_timeout() == pytest.approx(NOW + 0.52)
    host.run(1.0)
    assert [frame.now for frame in host.frames["a"]] == pytest.approx([NOW + n / 50 for n in range(26, 51)])


def test_each_deadline_brings_one_frame_whatever_the_hosts_clock_began_with():
    now = 1_800_000_000.3  # seconds of this size are true to a quarter of a microsecond
    call = Call("a", started_at=STARTED_AT, now=now)
    call.add_leg()
    conference = Conference("conf-1", started_at=STARTED_AT, now=now)
    conference.join(call, now=now)
    sent = []
    while len(sent) < 500:
        due = conference.next_timeout()
        conference.handle_timeout(now=due)
        sent += [(frame.now, due) for frame in conference.frames()]
    assert [one for one, _ in sent] == [due for _, due in sent]
    assert len({one for one, _ in sent}) == 500


def test_who_joins_and_leaves_is_heard_exactly_from_then_to_then():
    host = Host()
    (a, said_a), (b, said_b) = voice(1), voice(2)
    host.join("a", a)
    host.join("b", b, at=0.5013)  # sample 4010
    host.leave("b", 1.2501)  # sample 10001
    host.run(2.0)
    np.testing.assert_array_equal(host.heard("a"), later(during(said_b, 4010, 10001))[: 101 * FRAME])
    # From the first frame after joining to the last one before leaving.
    np.testing.assert_array_equal(
        host.heard("b"), during(later(said_a), 26 * FRAME, 63 * FRAME)[: 63 * FRAME]
    )


def test_calls_and_conference_may_have_begun_at_different_times():
    host = Host()
    (a, said_a), (b, said_b) = voice(1), voice(2)
    host.join("a", a, origin=-7.25)
    host.join("b", b, origin=-0.000125)
    host.record()
    host.run(1.5)
    np.testing.assert_array_equal(host.heard("a"), later(said_b)[: 76 * FRAME])
    host.end(1.5)
    np.testing.assert_array_equal(host.audio()[:, 0], total(said_a, said_b)[: round(1.5 * RATE)])


def test_packets_up_to_40_ms_late_are_heard_in_their_places():
    host = Host()
    packets, said = voice(2)
    jittered = [late(one, (0, 13, 39, 5)[number % 4]) for number, one in enumerate(packets)]
    host.join("a")
    host.join("b", in_order_of_arrival(jittered))
    host.run(2.0)
    np.testing.assert_array_equal(host.heard("a"), later(said)[: 101 * FRAME])


def test_a_lost_packet_is_silence_for_the_others_and_what_follows_is_not_late():
    host = Host()
    packets, said = voice(2)
    host.join("a")
    host.join("b", packets[:20] + packets[21:])
    host.run(2.0)
    expected = said.copy()
    expected[20 * FRAME : 21 * FRAME] = 0
    np.testing.assert_array_equal(host.heard("a"), later(expected)[: 101 * FRAME])


def test_who_comes_late_for_good_is_heard_later_and_not_torn():
    host = Host()
    packets, said = voice(2)
    slower = packets[:30] + [late(one, 130) for one in packets[30:]]
    host.join("a")
    host.join("b", slower)
    host.run(2.5)
    heard = host.heard("a")
    begin = 30 * FRAME
    found = max(
        range(DELAY, 2400),
        key=lambda delay: (heard[delay:][begin : begin + 8000] == said[begin:][:8000]).sum(),
    )
    assert 130 * MS <= found <= 160 * MS
    np.testing.assert_array_equal(heard[found + begin :][:8000], said[begin:][:8000])


@pytest.mark.parametrize("ppm", [-200, 200])
def test_a_clock_that_runs_wrong_neither_tears_what_is_heard_nor_delays_it(ppm):
    host = Host()
    host.join("a")
    call = host.join("b", arrive(talk(encoded(np.full(35 * RATE, 1000, np.int16)), ppm=ppm)))
    leaves_at = 34.0
    host.leave("b", leaves_at)
    host.run(leaves_at + 0.5)
    heard = host.heard("a") != 0
    (begin, end) = np.flatnonzero(np.diff(heard.astype(int)))
    assert begin + 1 == DELAY
    assert end + 1 == pytest.approx(leaves_at * RATE + DELAY, abs=2 * FRAME)
    assert call.legs["LEG-A"].incoming.drift_ppm == pytest.approx(ppm, abs=5)


def test_the_delay_shrinks_again_where_nothing_is_said():
    host = Host()
    said = np.zeros(14 * RATE, np.int16)
    loud = decoded(codes(RATE, 5))
    said[:RATE] = said[-RATE:] = loud
    packets = [late(one, 150) if 20 <= n < 28 else one for n, one in enumerate(arrive(talk(encoded(said))))]
    host.join("a")
    host.join("b", in_order_of_arrival(packets))
    host.run(14.0)
    heard = host.heard("a")
    at = 13 * RATE + DELAY
    np.testing.assert_array_equal(heard[at : at + 6000], decoded(encoded(loud))[:6000])


def test_a_host_that_stalls_sends_the_last_200_ms_only():
    host = Host()
    packets, said = voice(2)
    host.join("a")
    host.join("b", packets)
    host.run(1.0)
    for packet in packets[51:90]:
        host.calls["b"].receive_rtp("LEG-A", packet.wire(), now=NOW + packet.arrival_ns / S_NS)
    host.conference.handle_timeout(now=NOW + 1.78)
    frames = [frame for frame in host.conference.frames() if frame.call_id == "a"]
    assert [frame.now for frame in frames] == pytest.approx([NOW + n / 50 for n in range(80, 90)])
    heard = samples(b"".join(frame.pcm for frame in frames))
    np.testing.assert_array_equal(heard, later(said)[80 * FRAME : 90 * FRAME])


# ---- the recording of the room ----


def test_the_recording_is_the_saturated_sum_of_the_true_timelines():
    host = Host()
    (a, said_a), (b, said_b) = voice(1), voice(2, start=0.0101)
    host.join("a", a)
    host.join("b", b)
    host.record()
    host.end(2.0)
    np.testing.assert_array_equal(host.audio()[:, 0], total(said_a, said_b, end=2 * RATE))
    assert said_a[:RATE].astype(int).min() + said_b[:RATE].astype(int).min() < -32768 == host.audio().min()


def test_what_came_too_late_to_be_heard_is_in_the_recording_in_its_place():
    host = Host()
    packets, said = voice(2)
    straggling = in_order_of_arrival(
        [late(one, 300) if n % 25 == 7 else one for n, one in enumerate(packets)]
    )
    host.join("b", straggling)
    host.record()
    host.end(2.0)
    np.testing.assert_array_equal(host.audio()[:, 0], said[: 2 * RATE])


def test_the_recording_begins_at_its_moment_and_holds_stays_to_the_sample():
    host = Host()
    (a, said_a), (b, said_b) = voice(1), voice(2)
    host.join("a", a)
    host.join("b", b, at=0.6)
    host.record(0.2501)  # sample 2001
    host.leave("b", 1.00015)  # sample 8001
    host.join("c", at=1.1)
    host.leave("a", 1.5)
    host.end(2.0)
    expected = total(during(said_a, 0, 12_000), during(said_b, 4800, 8001), end=2 * RATE)
    np.testing.assert_array_equal(host.audio()[:, 0], expected[2001:])
    (started,) = host.told(RecordingStarted)
    assert started.at == STARTED_AT + timedelta(seconds=0.2501)


def test_it_ends_with_the_room_although_who_started_it_has_long_left():
    host = Host()
    host.join("a", voice(1)[0])
    host.record()
    host.join("b", voice(2)[0], at=0.2)
    host.leave("a", 0.5)
    host.run(1.0)
    host.leave("b", 1.25)
    host.run(4.0)
    finished = host.finished()
    assert finished.end_reason == EndReason.HANGUP
    assert len(host.audio()) == round(1.25 * RATE)
    statuses = [event.status for event in host.told(LegChanged)]
    assert statuses == [LegStatus.CONNECTED, LegStatus.DISCONNECTED]


def test_what_is_said_is_written_at_once_and_again_when_it_is_final():
    host, plain = Host(as_pcm=True), Host()
    for one in (host, plain):
        one.join("a", voice(1)[0])
        one.record()
        one.join("b", voice(2)[0], at=0.4)
        one.leave("a", 1.9)
    expected = total(
        during(voice(1)[1], 0, round(1.9 * RATE)), during(voice(2)[1], round(0.4 * RATE), 3 * RATE)
    )
    for at in np.arange(2.0, 3.0, 0.1):
        host.run(at)
        written = host.audio()
        assert len(written) >= round((at - STEP_S - 0.02) * RATE)
        said = round((at - STEP_S - 0.1) * RATE)  # both have been heard by then
        np.testing.assert_array_equal(written[:said, 0], expected[:said])
    host.end(3.0)
    plain.run(3.0)
    plain.end(3.0)
    final = host.files["conf-1/ROOM/conference"][: host.finished().size_bytes]
    host.files["conf-1/ROOM/conference"] = final
    np.testing.assert_array_equal(host.audio(), plain.audio())


def test_it_ends_on_command_while_the_room_goes_on():
    host = Host()
    (a, said_a), (b, said_b) = voice(1), voice(2)
    host.join("a", a)
    host.join("b", b)
    host.record()
    host.run(1.0)
    host.conference.stop_recording(now=NOW + 1.0)
    host.run(2.5)
    assert host.finished().end_reason == EndReason.STOP
    np.testing.assert_array_equal(host.audio()[:, 0], total(said_a, said_b)[:RATE])
    assert host.conference.participants == [("a", "LEG-A"), ("b", "LEG-A")]
    with pytest.raises(ActionConflictError):
        host.conference.stop_recording(now=NOW + 2.5)


def test_a_second_recording_is_another_file():
    host = Host()
    _, said = voice(1)
    host.join("a", voice(1)[0])
    host.record()
    host.run(0.5)
    host.conference.stop_recording(now=NOW + 0.5)
    assert host.record(0.7) == "conf-1/ROOM/conference/2"
    with pytest.raises(ActionConflictError):
        host.record(0.8)
    host.end(1.5)
    np.testing.assert_array_equal(host.audio()[:, 0], said[:4000])
    np.testing.assert_array_equal(host.audio("conf-1/ROOM/conference/2")[:, 0], said[5600:12_000])


def test_its_own_rules_end_it():
    host = Host()
    host.join("a", voice(1)[0])
    host.record(action=WHOLE._replace(rules=StopRules(max_duration_ms=700)))
    host.run(3.0)
    assert host.finished().end_reason == EndReason.MAX_DURATION
    assert len(host.audio()) == 5600


def test_a_pause_is_silence_between_two_tones():
    host = Host()
    host.join("a", voice(1)[0])
    host.record()
    host.run(0.5)
    host.conference.pause_recording(now=NOW + 0.5)
    host.run(1.0)
    host.conference.resume_recording(now=NOW + 1.0)
    host.end(2.0)
    audio = host.audio()[:, 0]
    assert not audio[round(0.7 * RATE) : RATE].any()
    np.testing.assert_array_equal(audio[round(1.2 * RATE) :], voice(1)[1][round(1.2 * RATE) : 2 * RATE])
    assert host.finished().manifest["pauses"] == [{"from": 0.5, "to": 1.0}]


def test_the_manifest_says_who_was_there_when_and_what_became_of_their_packets():
    host = Host()
    (a, _), (b, _) = voice(1), voice(2)
    host.join("a", a[:60] + a[61:])
    host.record(0.5)
    host.join("b", b, at=1.0)
    host.leave("b", 1.5)
    host.run(2.8)
    host.leave("a", 2.8)
    host.run(6.0)
    manifest = dict(host.finished().manifest)
    assert not problems(manifest)
    first, second = sorted(manifest["tracks"], key=lambda track: track["call_id"])
    assert (first["call_id"], first["from"], first["to"]) == ("a", 0.0, 2.3)
    assert (second["call_id"], second["from"], second["to"]) == ("b", 0.5, 1.0)
    assert (first["leg"], first["direction"], first["codec"]) == ("LEG-A", "incoming", "PCMU")
    assert first["packets"]["lost"] == 1
    assert first["gaps"] == [{"from": pytest.approx(0.7), "to": pytest.approx(0.72)}]
    assert second["gaps"] == []
    assert (manifest["call_id"], manifest["layout"], manifest["channels"]) == ("conf-1", "mix", 1)


def test_the_host_says_when_a_recording_is_stored():
    host = Host()
    host.join("a", voice(1)[0])
    host.record()
    host.end(0.5)
    host.conference.stored(host.finished().recording_id, now=NOW + 4)
    assert len(host.told(RecordingStored)) == 1


# ---- a participant's own recording ----


def test_a_call_recording_holds_what_they_say_and_what_was_sent_to_them():
    host = Host()
    (a, said_a), (b, said_b) = voice(1), voice(2)
    call = host.join("a", a)
    call.start_recording(StartRecording(), now=NOW)
    host.join("b", in_order_of_arrival([late(one, 150) if n == 30 else one for n, one in enumerate(b)]))
    host.run(2.0)
    call.end(now=NOW + 2.0)
    host.drain()
    audio = host.audio("a/LEG-A")
    heard = host.heard("a")[: 2 * RATE]
    np.testing.assert_array_equal(audio[: 2 * RATE], np.stack([said_a[: 2 * RATE], heard], axis=1))
    assert not np.array_equal(heard, later(said_b)[: 2 * RATE])  # what was sent, not what was said


def test_a_call_recording_ends_when_they_leave_and_the_others_go_on():
    host = Host()
    calls = [host.join(name, voice(seed)[0]) for seed, name in enumerate("ab", 1)]
    for call in calls:
        call.start_recording(StartRecording(), now=NOW)
    host.record()
    host.leave("a", 1.0)
    host.run(3.0)
    assert host.finished("a").manifest["duration"] == 1.0
    assert host.told(RecordingFinished, "b") == []
    assert host.told(RecordingFinished, "conf-1") == []
    host.leave("b", 3.0)
    host.run(5.0)
    assert host.finished("b").manifest["duration"] == 3.0
    assert host.finished("conf-1").manifest["duration"] == 3.0


def test_what_was_not_sent_in_a_stall_is_silence_in_the_call_recording():
    host = Host()
    call = host.join("a")
    call.start_recording(StartRecording(layout=Layout.OUTGOING), now=NOW)
    packets, said = voice(2)
    host.join("b", packets)
    host.run(1.0)
    for packet in packets[51:63]:
        host.calls["b"].receive_rtp("LEG-A", packet.wire(), now=NOW + packet.arrival_ns / S_NS)
    del host.waiting[:12]
    host.conference.handle_timeout(now=NOW + 1.24)
    host.run(2.0)
    call.end(now=NOW + 2.0)
    host.drain()
    expected = later(said)[: 2 * RATE].copy()
    expected[51 * FRAME : 53 * FRAME] = 0
    np.testing.assert_array_equal(host.audio("a/LEG-A")[: 2 * RATE, 0], expected)


def test_legs_may_take_pcm_both_ways():
    host = Host()
    call = host.join("a", host_frames=True)
    host.join("b")
    host.record()
    said = decoded(codes(RATE))
    for at in range(0, RATE, FRAME):
        host.run(at / RATE)
        call.receive_pcm("LEG-A", said[at : at + FRAME].tobytes(), now=NOW + at / RATE)
    host.end(1.0)
    np.testing.assert_array_equal(host.heard("b")[: 48 * FRAME], later(said)[: 48 * FRAME])
    np.testing.assert_array_equal(host.audio()[:, 0], said)


def test_a_leg_that_takes_rtp_both_ways_is_not_fed():
    host = Host()
    host.join("a", host_frames=False)
    host.run(0.5)
    assert len(host.frames["a"]) == 25
    assert host.calls["a"].legs["LEG-A"].outgoing.counts["received"] == 0


# ---- coming and going ----


def test_whose_leg_is_hung_up_or_whose_call_ends_has_left():
    host = Host()
    (a, said_a), (b, said_b) = voice(1), voice(2)
    host.join("a", a)
    host.join("b", b)
    host.record()
    host.run(0.75)
    host.calls["a"].end(now=NOW + 0.75)
    host.run(1.0)
    assert host.conference.participants == [("b", "LEG-A")]
    host.run(1.5)
    host.calls["b"].hang_up("LEG-A", now=NOW + 1.5)
    host.run(4.0)
    assert host.conference.participants == []
    assert host.finished().manifest["duration"] == pytest.approx(
        1.5, abs=0.021
    )  # noticed with the next frame
    audio = host.audio()[:, 0]
    expected = total(during(said_a, 0, 6000), said_b)[: len(audio)]
    np.testing.assert_array_equal(audio[:12_000], expected[:12_000])


def test_the_end_of_the_last_call_ends_the_recording_there():
    host = Host()
    packets, said = voice(1)
    host.join("a", packets)
    host.record()
    host.run(0.755)
    host.calls["a"].end(now=NOW + 0.755)
    host.run(2.0)
    np.testing.assert_array_equal(host.audio()[:, 0], said[: round(0.755 * RATE)])


def test_who_comes_back_at_once_is_there_twice_in_the_recording():
    host = Host()
    packets, said = voice(1)
    host.join("a", packets)
    host.record()
    host.join("b")
    host.leave("a", 0.5)
    host.join("a", at=0.75)
    host.end(1.5)
    expected = total(during(said, 0, 4000), during(said, 6000, 12_000))[:12_000]
    np.testing.assert_array_equal(host.audio()[:, 0], expected)
    stays = [(t["from"], t["to"]) for t in host.finished().manifest["tracks"] if t["call_id"] == "a"]
    assert sorted(stays) == [(0.0, 0.5), (0.75, 1.5)]


def test_who_goes_from_one_room_to_another_is_recorded_in_both():
    host, other = Host(), Host()
    packets, said = voice(1)
    host.join("a", packets)
    host.record()
    host.run(0.5)
    call = host.calls["a"]
    host.conference.leave(call, now=NOW + 0.5)
    other.conference.handle_timeout(now=NOW + 0.5)
    other.conference.join(call, now=NOW + 0.5)
    other.record(0.5)
    host.run(1.0)
    other.end(1.0)
    host.end(2.0)
    np.testing.assert_array_equal(host.audio()[:, 0], said[:4000])
    np.testing.assert_array_equal(other.audio()[:, 0], said[4000:8000])


def test_the_end_of_the_conference_waits_until_all_is_final():
    host = Host()
    packets, said = voice(1)
    host.join("a", packets)
    host.record()
    host.run(1.0)
    host.conference.end(now=NOW + 1.0)
    assert not host.conference.is_over
    host.run(2.05)
    assert host.told(CallEnded) == []
    host.run(2.5)
    assert host.conference.is_over
    assert host.conference.next_timeout() is None
    assert len(host.told(CallEnded)) == 1
    np.testing.assert_array_equal(host.audio()[:, 0], said[:RATE])
    host.conference.handle_timeout(now=NOW + 9)
    host.conference.leave(host.calls["a"], now=NOW + 9)
    assert host.conference.events() == []
    with pytest.raises(UsageError, match="over"):
        host.conference.join(host.calls["a"], now=NOW + 9)


def test_the_end_of_an_empty_conference_is_at_once():
    host = Host()
    host.conference.end(now=NOW + 1)
    assert host.conference.is_over


def test_what_cannot_be_is_refused():
    host = Host()
    call = host.call("a")
    with pytest.raises(ActionConflictError):
        host.conference.start_recording(now=NOW)  # nobody is there
    with pytest.raises(UsageError, match="LEG-B"):
        host.conference.join(call, "LEG-B", now=NOW)
    call.add_leg("LEG-B", status=LegStatus.RINGING)
    with pytest.raises(UsageError, match="not connected"):
        host.conference.join(call, "LEG-B", now=NOW)
    host.conference.join(call, now=NOW)
    with pytest.raises(UsageError, match="already"):
        host.conference.join(call, now=NOW)
    with pytest.raises(UsageError, match="MIX"):
        host.conference.start_recording(StartRecording(), now=NOW)
    with pytest.raises(UsageError, match="beep"):
        host.conference.start_recording(WHOLE._replace(beep=True), now=NOW)
    with pytest.raises(UsageError, match="delay"):
        Conference("c", started_at=STARTED_AT, now=NOW, delay_ms=-1)
    host.conference.start_recording(WHOLE, now=NOW)
    host.conference.stop_recording(now=NOW)
    with pytest.raises(ActionConflictError):
        host.conference.start_recording(WHOLE, now=NOW)  # it says once
    assert ROOM not in host.conference.participants


# ---- size, order and time ----


def test_a_hundred_participants_hear_and_are_recorded():
    host = Host()
    voices = [voice(seed, 1.0, start=seed / RATE, gain=0.02) for seed in range(100)]
    for number, (packets, _) in enumerate(voices):
        host.join(f"p{number}", packets)
    host.record()
    host.run(1.0)
    everybody = np.sum([np.pad(said, (0, 200))[:RATE].astype(int) for _, said in voices], axis=0)
    for number in (0, 42, 99):
        own = np.pad(voices[number][1], (0, 200))[:RATE]
        expected = later(np.clip(everybody - own, -32768, 32767))
        np.testing.assert_array_equal(host.heard(f"p{number}"), expected[: 51 * FRAME])
    host.end(1.0)
    np.testing.assert_array_equal(host.audio()[:, 0], np.clip(everybody, -32768, 32767))
    assert len(host.finished().manifest["tracks"]) == 100


def test_memory_is_bounded_by_who_is_there_not_by_how_long():
    def taken(seconds: int) -> int:
        host = Host()
        for seed in range(4):
            host.join(f"p{seed}", voice(seed, seconds)[0])
        host.record()
        tracemalloc.start()
        host.drain = lambda: (
            host.conference.frames(),
            host.conference.events(),
            host.conference.writes(),
            *((call.events(), call.writes()) for call in host.calls.values()),
        )
        host.run(seconds)
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return size

    assert taken(12) < taken(4) + 20_000


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_order_and_chunks_change_nothing(data):
    count = data.draw(st.integers(2, 5))
    starts, joins, lengths = (
        [data.draw(st.integers(0, most)) for _ in range(count)] for most in (400, 4000, 6000)
    )  # samples
    leaves = [join + length for join, length in zip(joins, lengths, strict=True)]
    voices = [voice(n, 1.5, start=start / RATE) for n, start in enumerate(starts)]
    begin = data.draw(st.integers(min(joins), leaves[joins.index(min(joins))]))
    recorded = begin < leaves[joins.index(min(joins))]

    def play(order, *, in_batches):
        host = Host()
        calls = [host.call(f"p{n}") for n in range(count)]
        steps = [(joins[n], 0, host.conference.join, n) for n in order]
        steps += [(leaves[n], 2, host.conference.leave, n) for n in order]
        steps.append((begin, 1, host.conference.start_recording, None))
        steps.sort(key=lambda step: step[:2])
        for until in range(0, round(1.6 * RATE), FRAME):
            for n in order:
                mine = [
                    packet
                    for packet in voices[n][0]
                    if until - FRAME < packet.arrival_ns * RATE // S_NS <= until
                ]
                if in_batches:
                    on_clock = [
                        replace(packet, arrival_ns=packet.arrival_ns + round(NOW * S_NS)) for packet in mine
                    ]
                    calls[n].receive_rtp_batch("LEG-A", *records(on_clock))
                for packet in () if in_batches else mine:
                    calls[n].receive_rtp("LEG-A", packet.wire(), now=NOW + packet.arrival_ns / S_NS)
            while steps and steps[0][0] <= until:
                at, _, do, n = steps.pop(0)
                if n is not None:
                    do(calls[n], now=NOW + at / RATE)
                elif recorded:
                    do(now=NOW + at / RATE)
            host.conference.handle_timeout(now=NOW + until / RATE)
            host.drain()
        host.end(1.6)
        heard = {name: [(frame.now, frame.pcm) for frame in frames] for name, frames in host.frames.items()}
        return bytes(host.files.get("conf-1/ROOM/conference", b"")), heard, host

    file, heard, host = play(range(count), in_batches=False)
    assert play(data.draw(st.permutations(range(count))), in_batches=True)[:2] == (file, heard)
    if recorded:
        said = [
            during(np.pad(one, (0, 2 * RATE)), join, leave)
            for (_, one), join, leave in zip(voices, joins, leaves, strict=True)
        ]
        audio = host.audio()[:, 0]
        np.testing.assert_array_equal(audio, total(*said)[begin : begin + len(audio)])


def test_who_leaves_a_conference_is_told_of_their_recording_while_their_call_goes_on():
    host = Host()
    call = Call(
        "guest", started_at=STARTED_AT, now=NOW, dialect=Sinch(application_key="app", callbacks=False)
    )
    call.add_leg(detect_digits=False, host_frames=Direction.OUTGOING)
    host.calls["guest"] = call
    host.join("guest")
    packets, _ = voice(2)
    host.join("other", packets)
    start = {
        "name": "StartRecording",
        "options": {"destinationUrl": "sdrive://guest.wav", "format": "wav"},
    }
    room = {"name": "connectConf", "conferenceId": "conf-1"}
    call.request({"event": "ice", "svaml": {"instructions": [start], "action": room}}, now=NOW)
    host.leave("guest", 1.0)
    assert call.next_timeout() is not None
    call.handle_timeout(now=NOW + 2.5)
    finished = host.finished("guest")
    assert (finished.key, finished.end_reason) == ("guest.wav", "stop")
    assert (finished.manifest["duration"], finished.manifest["layout"]) == (1.0, "outgoing")
    call.stored(finished.recording_id, now=NOW + 2.6)
    told = [event.body["type"] for event in host.told(VendorMessage, "guest")]
    assert told == ["recording_finished", "recording_available"]
    np.testing.assert_array_equal(host.audio("guest/LEG-A")[:RATE, 0], host.heard("guest")[:RATE])


def test_what_sinch_asks_of_a_conference_is_recorded_and_told_although_who_asked_has_left():
    host = Host()
    starter = Call(
        "starter", started_at=STARTED_AT, now=NOW, dialect=Sinch(application_key="app", callbacks=False)
    )
    starter.add_leg(detect_digits=False, host_frames=Direction.OUTGOING)
    host.calls["starter"] = starter
    host.join("starter")
    host.join("other", arrive(talk(codes(3 * RATE))))
    room = {
        "name": "connectConf",
        "conferenceId": "room",
        "record": True,
        "recordingOptions": {"destinationUrl": "sdrive://room.wav", "format": "wav"},
    }
    starter.request({"svaml": {"action": room}}, now=NOW)
    (asked,) = [one for one in starter.events() if getattr(one, "name", "") == "StartConferenceRecording"]
    host.conference.start_recording(asked.parameters["recording"], now=NOW)
    host.run(1)
    starter.end(now=NOW + 1)
    host.leave("other", 2)
    host.run(4)
    (finished,) = [one for one in host.events if isinstance(one, RecordingFinished)]
    assert (finished.key, finished.end_reason, finished.manifest["duration"]) == ("room.wav", "hangup", 2.0)
    starter.tell_of_conference(finished, now=NOW + 4)
    starter.tell_of_conference(
        RecordingStored("conf-1", finished.recording_id, finished.action_id), now=NOW + 4
    )
    told = [one.body for one in starter.events() if isinstance(one, VendorMessage)]
    assert [(one["type"], one["callid"], one["conferenceId"]) for one in told] == [
        ("recording_finished", "starter", "room"),
        ("recording_available", "starter", "room"),
    ]
