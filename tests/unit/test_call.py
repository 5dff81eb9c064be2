"""Call, the embedder's object: what its verbs do, what they refuse, and what comes out of it."""

import io
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

import callreel
import capture_writer
from callreel.actions import Layout, Prompt, RecordingKind, StartRecording, StopRules
from callreel.call import STEP_S, Call
from callreel.dialects.chime import Chime
from callreel.errors import ActionConflictError, ActionError, UsageError
from callreel.events import (
    ActionEnded,
    CallEnded,
    DigitReceived,
    LegChanged,
    LegStatus,
    Outcome,
    Play,
    RecordingFinished,
    RecordingStarted,
    StopPlaying,
    VendorMessage,
)
from callreel.kernels import wav
from callreel.legs import Direction
from capture_writer import rtp_packet
from streams import RATE, S_NS, arrive, codes, decoded, event, records, renumbered, talk

TYPES = {0: "PCMU", 8: "PCMA", 13: "CN", 101: "telephone-event"}
STARTED_AT = datetime(2026, 5, 6, 7, 8, 9, 250_000, UTC)
NOW = 1000.0
IN, OUT = codes(4 * RATE, seed=1), codes(4 * RATE, seed=2)

CHIME = {
    "SchemaVersion": "1.0",
    "Actions": [
        {
            "Type": "StartCallRecording",
            "Parameters": {
                "CallId": "c-1",
                "Track": "BOTH",
                "Destination": {"Type": "S3", "Location": "bucket/rec"},
            },
        }
    ],
}


def new_call(**options) -> Call:
    return Call("c-1", started_at=STARTED_AT, now=NOW, transaction_id="t-1", **options)


def only(kind, events):
    """The one event of its kind."""
    (event,) = [event for event in events if isinstance(event, kind)]
    return event


class Host:
    """Drives a call as a media server does, and keeps the files its writes make."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.files: dict[str, bytearray] = {}
        self.events = []
        self.frames_at_flush = []

    def drain(self) -> None:
        for recording_id, (offset, data) in self.call.writes():
            file = self.files.setdefault(recording_id, bytearray())
            assert offset <= len(file)
            file[offset : offset + len(data)] = data
        self.events += self.call.events()

    def run(self, incoming=(), outgoing=(), *, until: float, actions=()) -> None:
        """Feed packets and requests at their times, and `handle_timeout` whenever it is due, up to `until`."""
        due = [(NOW + p.arrival_ns / S_NS, 0, "incoming", p) for p in incoming]
        due += [(NOW + p.arrival_ns / S_NS, 1, "outgoing", p) for p in outgoing]
        due = [one for one in due if one[0] <= NOW + until]
        due += [(NOW + at, -1, "request", action) for at, action in actions]
        for now, _, what, thing in [*sorted(due, key=lambda d: d[:2]), (NOW + until, 9, "end", None)]:
            while (timeout := self.call.next_timeout()) <= now:
                self.call.handle_timeout(now=timeout)
                self.drain()
            if what == "end":
                break
            if what == "request":
                if isinstance(thing, StartRecording):
                    self.call.start_recording(thing, now=now)
                else:
                    self.call.request(thing, now=now)
            else:
                self.call.receive_rtp("LEG-A", thing.wire(), now=now, direction=what)

    def end(self, at: float) -> None:
        self.call.end(now=NOW + at)
        self.drain()

    def audio(self, recording_id="c-1/LEG-A") -> np.ndarray:
        return soundfile.read(io.BytesIO(bytes(self.files[recording_id])), dtype="int16", always_2d=True)[0]

    @property
    def manifest(self):
        return only(RecordingFinished, self.events).manifest


def hosted(dialect=None, **options) -> Host:
    host = Host(new_call(dialect=dialect))
    host.call.add_leg(payload_types=TYPES, **options)
    return host


def both():
    return arrive(talk(IN)), arrive(talk(OUT))


# ---- the whole way ----


@pytest.mark.parametrize("layout", Layout)
def test_a_call_is_recorded_from_its_start_to_its_end(layout):
    host = hosted()
    host.run(*both(), until=4, actions=[(0, StartRecording(layout=layout))])
    host.end(4)
    left, right = decoded(IN), decoded(OUT)
    expected = {
        Layout.STEREO: np.stack([left, right], axis=1),
        Layout.INCOMING: left[:, None],
        Layout.OUTGOING: right[:, None],
        Layout.MIX: np.clip(left.astype(int) + right, -32768, 32767)[:, None],
    }[layout]
    np.testing.assert_array_equal(host.audio(), expected)
    assert host.manifest["frames"] == 4 * RATE


def test_a_call_is_recorded_as_mp3():
    host = hosted()
    host.run(*both(), until=4, actions=[(0, StartRecording(format="mp3"))])
    host.end(4)
    with av.open(io.BytesIO(bytes(host.files["c-1/LEG-A"])), format="mp3") as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) == 4 * RATE
    assert host.manifest["format"] == "mp3"
    assert only(RecordingFinished, host.events).key.endswith("_t-1_c-1.mp3")


def test_a_recording_that_starts_later_holds_what_comes_from_then_on():
    host = hosted()
    host.run(*both(), until=4, actions=[(1.505, StartRecording())])
    host.end(4)
    np.testing.assert_array_equal(host.audio(), np.stack([decoded(IN), decoded(OUT)], axis=1)[12_040:])
    assert host.manifest["started_at"] == "2026-05-06T07:08:10.755Z"
    started = only(RecordingStarted, host.events)
    assert started.at == STARTED_AT + timedelta(seconds=1.505)
    # The key has the start of the call.
    assert started.key == "Amazon-Chime-SMA-Call-Recordings/2026/05/06/2026-05-06-07-08-09-250_t-1_c-1.wav"
    assert host.manifest["tracks"][0]["packets"]["late"] == 0
    assert host.manifest["degraded"] is False


def test_a_vendors_request_starts_the_recording():
    host = hosted(Chime())
    host.run(*both(), until=4, actions=[(0, CHIME)])
    host.end(4)
    assert only(RecordingStarted, host.events).key == "rec/2026/05/06/2026-05-06-07-08-09-250_t-1_c-1.wav"
    assert host.manifest["dialect"] == "chime"
    assert host.manifest["action"] == "StartCallRecording"
    assert (host.manifest["call_id"], host.manifest["transaction_id"]) == ("c-1", "t-1")
    assert host.manifest["version"] == 1


def test_no_two_recordings_of_a_call_have_one_key():
    call = new_call()
    for leg in ("LEG-A", "LEG-B"):
        call.add_leg(leg, now=0.0)
        for kind in (RecordingKind.CALL, RecordingKind.MESSAGE):
            action = StartRecording(leg=leg, action_id=f"{leg} {kind}", kind=kind, once=False)
            for now in (0.1, 0.2):
                call.start_recording(action, now=now)
                call.stop_recording(leg, now=now, kind=kind)
    found = [event.key for event in call.events() if isinstance(event, RecordingStarted)]
    assert len(set(found)) == len(found) == 8


def test_without_a_transaction_id_the_calls_own_id_serves():
    call = Call("c-9", started_at=STARTED_AT, now=NOW)
    call.add_leg()
    call.start_recording(StartRecording(), now=NOW)
    assert only(RecordingStarted, call.events()).key.endswith("_c-9_c-9.wav")


def test_the_recording_ends_at_the_hang_up_although_audio_ended_before():
    host = hosted()
    host.run(*both(), until=6, actions=[(0, StartRecording())])
    host.end(6)
    audio = host.audio()
    assert len(audio) == 6 * RATE
    assert not audio[4 * RATE :].any()


def test_the_recording_ends_with_the_audio_that_had_arrived_by_the_hang_up():
    host = hosted()
    host.run(*both(), until=3.001, actions=[(0, StartRecording())])
    host.end(3.001)
    # The packet that arrived at 3.000 s holds 20 ms.
    np.testing.assert_array_equal(host.audio()[:, 0], decoded(IN)[: round(3.02 * RATE)])


@pytest.mark.parametrize("then", ["end", "goes on"])
def test_so_it_does_when_a_leg_is_hung_up(then):
    host = hosted()
    host.run(*both(), until=3.001, actions=[(0, StartRecording())])
    host.call.hang_up("LEG-A", now=NOW + 3.001)
    if then == "goes on":  # what comes afterwards is nobody's
        for packet in both()[0]:
            if packet.arrival_ns > 3.001 * S_NS:
                host.call.receive_rtp("LEG-A", packet.wire(), now=NOW + packet.arrival_ns / S_NS)
        host.run(until=5)
    host.end(5)
    audio = host.audio()
    assert len(audio) == round(3.02 * RATE)
    np.testing.assert_array_equal(audio[:, 0], decoded(IN)[: len(audio)])


def test_what_runs_ahead_of_a_hang_up_by_more_than_half_a_second_is_not_waited_for():
    call = new_call()
    call.add_leg(host_frames=True)
    host = Host(call)
    call.start_recording(StartRecording(layout=Layout.INCOMING), now=NOW)
    call.receive_pcm("LEG-A", decoded(IN)[:RATE].astype("<i2").tobytes(), now=NOW)
    call.hang_up("LEG-A", now=NOW + 0.1)
    host.end(0.1)
    np.testing.assert_array_equal(host.audio()[:, 0], decoded(IN)[: round(0.6 * RATE)])


def test_what_resampling_holds_back_is_in_when_a_leg_is_hung_up():
    call = new_call()
    call.add_leg(host_frames=True)
    host = Host(call)
    call.start_recording(StartRecording(layout=Layout.INCOMING), now=NOW)
    call.receive_pcm("LEG-A", np.full(3200, 900, "<i2").tobytes(), now=NOW, sample_rate=16_000)
    call.hang_up("LEG-A", now=NOW + 0.15)
    host.end(0.2)
    assert abs(len(host.audio()) - 1600) <= 8


def test_two_legs_are_recorded_side_by_side():
    call = new_call()
    host = Host(call)
    for name in ("LEG-A", "LEG-B"):
        call.add_leg(name)
        call.start_recording(StartRecording(leg=name, layout=Layout.INCOMING), now=NOW)
    for name, data in (("LEG-A", IN), ("LEG-B", OUT)):
        for packet in arrive(talk(data))[:50]:
            call.receive_rtp(name, packet.wire(), now=NOW + packet.arrival_ns / S_NS)
    host.end(1)
    np.testing.assert_array_equal(host.audio("c-1/LEG-A")[:, 0], decoded(IN)[:RATE])
    np.testing.assert_array_equal(host.audio("c-1/LEG-B")[:, 0], decoded(OUT)[:RATE])
    assert [e.leg for e in host.events if isinstance(e, RecordingFinished)] == ["LEG-A", "LEG-B"]


def test_batches_and_packets_give_the_same_file():
    host = hosted()
    host.run(*both(), until=4, actions=[(0, StartRecording())])
    host.end(4)

    other = hosted()
    other.call.start_recording(StartRecording(), now=NOW)
    for direction, packets in zip(("incoming", "outgoing"), both(), strict=True):
        data, table = records(packets)
        table["time_ns"] += round(NOW * 1e9)
        half = round((NOW + 2) * 1e9)
        assert other.call.receive_rtp_batch("LEG-A", data, table, until_ns=half, direction=direction) == 101
    other.call.handle_timeout(now=NOW + 2)
    for direction, packets in zip(("incoming", "outgoing"), both(), strict=True):
        data, table = records(packets)
        table["time_ns"] += round(NOW * 1e9)
        assert other.call.receive_rtp_batch("LEG-A", data, table, 101, direction=direction) == 99
    other.end(4)
    assert other.files == host.files


def test_host_frames_are_recorded():
    call = new_call()
    host = Host(call)
    call.add_leg(host_frames=True)
    call.start_recording(StartRecording(), now=NOW)
    wave = np.round(9000 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)).astype("<i2")
    wide = np.round(9000 * np.sin(2 * np.pi * 440 * np.arange(4 * RATE) / 2 / RATE)).astype("<i2")
    for n in range(100):
        now = NOW + n * 0.02
        call.receive_pcm("LEG-A", wave[n * 160 : (n + 1) * 160].tobytes(), now=now)
        frames = wide[n * 320 : (n + 1) * 320].tobytes()
        call.receive_pcm("LEG-A", frames, now=now, sample_rate=16_000, direction="outgoing")
        call.handle_timeout(now=now)
        host.drain()
    host.end(2)
    audio = host.audio()
    np.testing.assert_array_equal(audio[:, 0], wave)
    assert np.abs(audio[200:-200, 1].astype(int) - wave[200:-200]).max() < 150
    assert [t["codec"] for t in host.manifest["tracks"]] == ["L16", "L16"]


def test_a_call_without_media_gives_a_silent_recording():
    host = hosted()
    host.run(until=2, actions=[(0, StartRecording())])
    host.end(2)
    assert host.audio().shape == (2 * RATE, 2)
    assert not host.audio().any()


# ---- time, writes, events ----


MESSAGE = StartRecording(kind=RecordingKind.MESSAGE, layout=Layout.INCOMING, once=False)


def finished_by(host: Host, s: float, end_s: float = 2.0) -> bool:
    """Whether a recording that ends at `end_s` is told to have by `s`."""
    message = MESSAGE._replace(rules=StopRules(max_duration_ms=round(1000 * end_s)))
    host.run(*both(), until=s, actions=[(0, message)])
    return any(isinstance(event, RecordingFinished) for event in host.events)


def test_who_waits_for_a_recording_is_told_at_the_next_step_at_which_nothing_is_missing():
    host = hosted()
    assert finished_by(host, 2.25)
    np.testing.assert_array_equal(host.audio("c-1/LEG-A/message")[:, 0], decoded(IN)[: 2 * RATE])
    assert host.manifest["degraded"] is False


def test_a_call_recording_beside_it_makes_nobody_wait():
    host = hosted()
    host.call.start_recording(StartRecording(), now=NOW)
    assert finished_by(host, 2.25)


def test_nobody_hastes_for_a_call_recording():
    host = hosted()
    host.run(*both(), until=2.4, actions=[(0, StartRecording(rules=StopRules(max_duration_ms=2000)))])
    assert not any(isinstance(event, RecordingFinished) for event in host.events)


@pytest.mark.parametrize(
    ("missing", "by_s", "told"), [(90, 2.85, False), (90, 3.05, True), (106, 2.25, True)]
)
def test_a_packet_that_is_missing_in_it_is_waited_for_and_one_behind_it_is_not(missing, by_s, told):
    host = hosted()
    incoming, outgoing = both()
    message = MESSAGE._replace(rules=StopRules(max_duration_ms=2000))
    host.run([*incoming[:missing], *incoming[missing + 1 :]], outgoing, until=by_s, actions=[(0, message)])
    assert any(isinstance(event, RecordingFinished) for event in host.events) is told


@pytest.mark.parametrize("keep", [True, False])
def test_a_key_ends_it_within_half_a_second_and_is_kept_or_cut_off(keep):
    host = hosted()
    rules = StopRules(terminators=frozenset("#"), keep_terminator=keep)
    pressed = event(11, timestamp=5000 + 2 * RATE, sequence=200, start=2 * RATE)
    before = talk(codes(2 * RATE))
    after = talk(codes(RATE), sequence=207, timestamp=5000 + 2 * RATE + 800, start=2 * RATE + 800)
    packets = arrive(renumbered([*before, *pressed, *after]))
    host.run(packets, until=2.6, actions=[(0, MESSAGE._replace(rules=rules))])
    assert host.manifest["end_reason"] == "terminator"
    assert host.manifest["frames"] == 2 * RATE + (800 if keep else 0)


def test_the_file_is_valid_and_complete_whenever_the_call_was_moved_on():
    host = hosted()
    lengths = []

    def check():
        file = host.files.get("c-1/LEG-A")
        if file:
            info = wav.parse(bytes(file))
            assert (info.truncated, info.warnings) == (False, ())
            assert info.declared_data_bytes == info.data_bytes == len(file) - info.data_offset
            lengths.append(info.frames)

    drain = host.drain
    host.drain = lambda: (drain(), check())
    host.run(*both(), until=4, actions=[(0, StartRecording())])
    host.end(4)
    assert lengths == sorted(lengths)
    # What is on disk is never further behind than the time packets are waited for, and a step.
    assert len(set(lengths)) >= 14
    assert lengths[-1] == 4 * RATE


def test_moving_on_without_new_audio_writes_nothing():
    call = new_call()
    call.add_leg()
    call.start_recording(StartRecording(), now=NOW)
    call.writes()
    call.handle_timeout(now=NOW + 0.2)
    assert call.writes() == []
    call.handle_timeout(now=NOW + 2)
    assert call.writes()
    call.handle_timeout(now=NOW + 2)
    assert call.writes() == []


def test_the_next_timeout_is_one_step_on_and_none_after_the_end():
    call = new_call()
    assert call.next_timeout() == NOW + STEP_S == NOW + 0.2
    call.handle_timeout(now=NOW + 7)
    assert call.next_timeout() == NOW + 7.2
    call.end(now=NOW + 8)
    assert call.next_timeout() is None
    assert call.events() == [CallEnded("c-1")]
    call.handle_timeout(now=NOW + 9)
    assert (call.events(), call.writes()) == ([], [])


def test_events_come_in_order_and_once():
    key = event(5, timestamp=5000 + 4 * RATE, sequence=0, start=4 * RATE)
    host = hosted()
    host.run(arrive(renumbered(talk(IN) + key)), until=6, actions=[(0, StartRecording())])
    host.end(6)
    joined, started, digit, finished, ended = host.events
    assert joined == LegChanged("c-1", "LEG-A", LegStatus.CONNECTED)
    assert ended == CallEnded("c-1")
    assert digit == DigitReceived("c-1", "LEG-A", "incoming", "5", 4.0, 0.1, "rfc4733")
    tags = {
        "title": "Call c-1",
        "date": "2026-05-06T07:08:09.250Z",
        "call-id": "c-1",
        "transaction-id": "t-1",
    }
    assert started == RecordingStarted("c-1", "c-1/LEG-A", "LEG-A", STARTED_AT, finished.key, tags=tags)
    assert (finished.call_id, finished.recording_id, finished.end_reason) == ("c-1", "c-1/LEG-A", "hangup")
    assert finished.manifest["digits"] == [
        {"symbol": "5", "at": 4.0, "duration": 0.1, "track": "incoming", "source": "rfc4733"}
    ]
    assert host.call.events() == []


def test_a_digit_is_told_while_the_call_runs_and_without_a_recording():
    host = hosted()
    host.run(arrive(event(5, timestamp=0, sequence=0, start=0)), until=0.5)
    assert only(DigitReceived, host.events).symbol == "5"


def test_what_a_vendor_asks_for_ends_with_what_became_of_it():
    host = hosted(Chime())
    host.run(until=1, actions=[(0, CHIME), (0.5, CHIME)])
    host.end(1)
    ended = [e for e in host.events if isinstance(e, ActionEnded)]
    assert [e.outcome for e in ended] == [Outcome.DONE, Outcome.FAILED]
    assert isinstance(ended[1].error, ActionConflictError)
    told = [e for e in host.events if isinstance(e, VendorMessage)]
    assert [(e.call_id, e.dialect, e.body["InvocationEventType"]) for e in told] == [
        ("c-1", "chime", "ACTION_SUCCESSFUL"),
        ("c-1", "chime", "ACTION_FAILED"),
        ("c-1", "chime", "HANGUP"),
    ]
    # Each is told right behind what it tells of.
    for what, message in zip([*ended, only(CallEnded, host.events)], told, strict=True):
        assert host.events.index(message) == host.events.index(what) + 1


def test_a_leg_that_hangs_up_ends_its_recording_and_no_other():
    call = new_call()
    for name in ("LEG-A", "LEG-B"):
        call.add_leg(name)
        call.start_recording(StartRecording(leg=name), now=NOW)
    call.events()
    call.hang_up("LEG-B", now=NOW + 1, sip_response_code=486)
    assert call.events() == [LegChanged("c-1", "LEG-B", LegStatus.DISCONNECTED, 486)]
    call.hang_up("LEG-B", now=NOW + 2)
    call.handle_timeout(now=NOW + 4)
    finished = only(RecordingFinished, call.events())
    assert (finished.leg, finished.end_reason, finished.manifest["duration"]) == ("LEG-B", "hangup", 1.0)


def test_a_host_without_room_lets_recordings_fail_until_it_has_some():
    host = hosted()
    host.call.refuse_recordings(ActionError("the disk is full", field="system"))
    with pytest.raises(ActionError, match="the disk is full"):
        host.call.start_recording(StartRecording(), now=NOW)
    host.call.refuse_recordings(None)
    host.call.start_recording(StartRecording(), now=NOW)


def test_without_room_only_a_recording_that_could_begin_is_refused_for_that():
    call = new_call()
    call.add_leg(status=LegStatus.RINGING)
    call.refuse_recordings(ActionError("the disk is full", field="system"))
    with pytest.raises(ActionError, match="is not connected"):
        call.start_recording(StartRecording(), now=NOW)
    call.refuse_recordings(None)
    call.answered("LEG-A", now=NOW)
    call.start_recording(StartRecording(), now=NOW)
    call.refuse_recordings(ActionError("the disk is full", field="system"))
    with pytest.raises(ActionError, match="has been recorded already"):
        call.start_recording(StartRecording(), now=NOW)


def test_signalling_that_comes_after_the_hang_up_brings_nobody_back():
    host = hosted()
    host.call.hang_up("LEG-A", now=NOW + 1)
    host.call.answered("LEG-A", now=NOW + 1.1)
    host.call.ringing("LEG-A", now=NOW + 1.2)
    host.call.hang_up("LEG-A", now=NOW + 1.3)
    assert host.call.participants["LEG-A"].status is LegStatus.DISCONNECTED
    changes = [event.status for event in host.call.events() if isinstance(event, LegChanged)]
    assert changes == [LegStatus.CONNECTED, LegStatus.DISCONNECTED]


def test_rendering_and_detection_can_be_turned_off():
    key = event(5, timestamp=5000, sequence=0, start=0, duration=1600)
    for options, audible in (({}, True), ({"render_events": False}, False)):
        host = hosted(detect_digits=False, **options)
        host.run(arrive(key), until=1, actions=[(0, StartRecording())])
        host.end(1)
        assert bool(host.audio().any()) is audible
        assert [d["symbol"] for d in host.manifest["digits"]] == ["5"]


def test_memory_of_a_long_wait_is_bounded_by_pieces():
    call = new_call()
    call.add_leg()
    call.start_recording(StartRecording(), now=NOW)
    call.handle_timeout(now=NOW + 3600)
    assert max(len(write.data) for _, write in call.writes()) <= 32_768 * 4


# ---- what is refused ----


def test_the_start_must_know_its_time_zone():
    with pytest.raises(UsageError, match="time zone"):
        Call("c", started_at=datetime(2026, 1, 1), now=0)


def test_a_leg_has_one_name():
    call = new_call()
    call.add_leg("LEG-A")
    with pytest.raises(UsageError, match="a leg LEG-A already"):
        call.add_leg("LEG-A")


@pytest.mark.parametrize(
    "verb",
    [
        lambda call: call.receive_rtp("LEG-B", b"", now=NOW),
        lambda call: call.receive_rtp_batch("LEG-B", b"", b""),
        lambda call: call.receive_pcm("LEG-B", b"", now=NOW),
        lambda call: call.start_recording(StartRecording(leg="LEG-B"), now=NOW),
    ],
)
def test_a_leg_must_be_there(verb):
    call = new_call()
    call.add_leg("LEG-A")
    with pytest.raises(UsageError, match="no leg LEG-B"):
        verb(call)


def test_a_direction_must_be_one():
    call = new_call()
    call.add_leg()
    with pytest.raises(ValueError, match="sideways"):
        call.receive_rtp("LEG-A", b"", now=NOW, direction="sideways")


def test_a_leg_is_recorded_once():
    call = new_call()
    call.add_leg()
    call.start_recording(StartRecording(), now=NOW)
    with pytest.raises(ActionConflictError, match="recorded already") as error:
        call.start_recording(StartRecording(layout=Layout.INCOMING), now=NOW)
    assert (error.value.field, error.value.value) == ("CallId", "c-1")
    assert only(RecordingStarted, call.events()).recording_id == "c-1/LEG-A"


def prompted(**options):
    """A call whose host has asked for a recording after a prompt, and perhaps a beep; the prompt plays."""
    call = new_call()
    call.add_leg()
    action = StartRecording(action_id="m", kind=RecordingKind.MESSAGE, prompt=Prompt(uri="a.wav"), **options)
    call.start_recording(action, now=NOW)
    assert only(Play, call.events()).prompt == Prompt(uri="a.wav")
    return call


def test_a_recording_that_the_host_asks_for_begins_when_prompt_and_beep_have_been_played():
    call = prompted(beep=True)
    call.played("another", now=NOW + 0.5)
    assert call.events() == []
    call.played("m", now=NOW + 1)
    assert only(Play, call.events()).prompt == Prompt()
    call.played("m", now=NOW + 1.5)
    assert only(RecordingStarted, call.events()).at == STARTED_AT + timedelta(seconds=1.5)
    call.played("m", now=NOW + 2)  # once too often
    assert call.events() == []


def test_a_recording_whose_prompt_cannot_be_played_is_forgotten():
    call = prompted()
    call.played("m", now=NOW + 1, error=ActionError("no such file"))
    assert call.events() == []
    call.end(now=NOW + 2)
    assert only(CallEnded, call.events())


def test_a_stop_before_the_recording_has_begun_stops_the_prompt():
    call = prompted()
    call.stop_recording("LEG-A", now=NOW + 0.5, kind=RecordingKind.MESSAGE)
    assert call.events() == [StopPlaying("c-1", "LEG-A", "m")]
    call.played("m", now=NOW + 1)
    assert call.events() == []


@pytest.mark.parametrize("verb", ["pause_recording", "resume_recording"])
def test_what_has_not_begun_neither_pauses_nor_resumes(verb):
    call = prompted(beep=True)
    for moment in (0.5, 1.5):
        with pytest.raises(ActionConflictError, match="no recording of LEG-A is running"):
            getattr(call, verb)("LEG-A", now=NOW + moment, kind=RecordingKind.MESSAGE)
        call.played("m", now=NOW + 1)
    assert only(RecordingStarted, call.events())


@pytest.mark.parametrize(("pressed_at", "reason"), [(0.9, "hangup"), (1.0, "terminator")])
def test_a_key_that_began_before_the_recording_does_not_end_it(pressed_at, reason):
    call = new_call()
    call.add_leg(detect_digits=False)
    rules = StopRules(terminators=frozenset("#"))
    call.start_recording(StartRecording(kind=RecordingKind.MESSAGE, rules=rules), now=NOW + 1)
    call.receive_digit("LEG-A", "#", now=NOW + pressed_at, duration_ms=300)  # told when it has ended
    call.end(now=NOW + 2)
    assert only(RecordingFinished, call.events()).end_reason == reason


def test_a_format_must_be_known():
    call = new_call()
    call.add_leg()
    with pytest.raises(UsageError, match=r"format 'ogg': one of wav, mp3"):
        call.start_recording(StartRecording(format="ogg"), now=NOW)
    call.start_recording(StartRecording(), now=NOW)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({**CHIME, "Actions": [*CHIME["Actions"], {"Type": "Nap"}]}, "INVALID_LAMBDA_RESPONSE"),
        ({**CHIME, "Actions": [{"Type": "StopCallRecording"}, *CHIME["Actions"]]}, "ACTION_FAILED"),
        ({**CHIME, "SchemaVersion": "0.9"}, "INVALID_LAMBDA_RESPONSE"),
        (None, "INVALID_LAMBDA_RESPONSE"),
    ],
)
def test_a_document_that_cannot_be_carried_out_starts_nothing(document, told):
    call = new_call(dialect=Chime())
    call.add_leg()
    assert call.request(document, now=NOW) is None
    events = call.events()
    assert only(VendorMessage, events).body["InvocationEventType"] == told
    assert not [e for e in events if isinstance(e, RecordingStarted)]
    assert call.writes() == []
    call.request(CHIME, now=NOW)
    assert only(RecordingStarted, call.events())
    call.request(CHIME, now=NOW)
    assert only(VendorMessage, call.events()).body["InvocationEventType"] == "ACTION_FAILED"


def test_a_call_without_a_dialect_understands_no_documents():
    call = new_call()
    call.add_leg()
    with pytest.raises(UsageError, match="dialect="):
        call.request(CHIME, now=NOW)


@pytest.mark.parametrize(
    "verb",
    [
        lambda call: call.add_leg("LEG-B"),
        lambda call: call.receive_rtp("LEG-A", b"", now=NOW),
        lambda call: call.receive_pcm("LEG-A", b"", now=NOW),
        lambda call: call.start_recording(StartRecording(), now=NOW),
        lambda call: call.request(CHIME, now=NOW),
        lambda call: call.end(now=NOW),
    ],
)
def test_a_call_that_is_over_takes_nothing(verb):
    call = new_call()
    call.add_leg()
    call.end(now=NOW)
    with pytest.raises(UsageError, match="call c-1 is over"):
        verb(call)


def test_hostile_packets_never_raise():
    host = hosted()
    host.call.start_recording(StartRecording(), now=NOW)
    for n, wire in enumerate([b"", b"\x80", b"\xff" * 30, rtp_packet(b"x")[:11], rtp_packet(bytes(4500))]):
        host.call.receive_rtp("LEG-A", wire, now=NOW + n)
    host.end(5)
    assert host.manifest["degraded"] == {"malformed_packets": 2}


def test_call_is_found_at_the_top():
    assert callreel.Call is Call


def test_one_direction_of_a_leg_may_be_pcm():
    call = new_call()
    leg = call.add_leg(host_frames=Direction.OUTGOING)
    assert (leg.incoming.host_frames, leg.outgoing.host_frames) == (False, True)
    call.receive_pcm("LEG-A", bytes(320), now=NOW, direction="outgoing")
    with pytest.raises(TypeError):
        call.receive_pcm("LEG-A", bytes(320), now=NOW)


def test_updating_a_call_asks_the_customers_program_and_cuts_short_what_may_be():
    call = new_call(dialect=Chime())
    call.add_leg()
    record_audio = {
        "Type": "RecordAudio",
        "Parameters": {
            "CallId": "c-1",
            "RecordingTerminators": ["#"],
            "RecordingDestination": {"Type": "S3", "BucketName": "bucket"},
        },
    }
    call.request({"SchemaVersion": "1.0", "Actions": [record_audio]}, now=NOW)
    response = call.update_call({"why": "supervisor"}, now=NOW + 1)
    assert (response.status, response.body) == (
        202,
        {"SipMediaApplicationCall": {"TransactionId": "t-1"}},
    )
    hang_up = {"Type": "Hangup", "Parameters": {"SipResponseCode": "0", "ParticipantTag": "LEG-A"}}
    call.request({"SchemaVersion": "1.0", "Actions": [hang_up]}, now=NOW + 1.1)
    told = [one.body["InvocationEventType"] for one in call.events() if isinstance(one, VendorMessage)]
    assert told == ["CALL_UPDATE_REQUESTED", "ACTION_INTERRUPTED"]


def test_the_manifest_counts_what_came_while_it_was_recorded_and_nothing_after():
    host = hosted()
    sent = both()[0]
    lost = [packet for number, packet in enumerate(sent) if number < 100 or number % 2]  # half, after 2 s
    action = StartRecording(layout=Layout.INCOMING, rules=StopRules(max_duration_ms=1000))
    host.run(lost, until=4, actions=[(0, action)])
    (track,) = host.manifest["tracks"]
    assert track["packets"]["lost"] == 0
    assert 50 <= track["packets"]["received"] <= 60  # and those up to the next step
    assert host.manifest["degraded"] is False


def test_what_was_concealed_in_one_recording_is_not_counted_in_the_next():
    host = hosted()
    kept = [packet for number, packet in enumerate(both()[0]) if number not in (20, 21)]
    message = StartRecording(
        kind=RecordingKind.MESSAGE,
        layout=Layout.INCOMING,
        once=False,
        rules=StopRules(max_duration_ms=1000),
    )
    host.run(kept, until=4, actions=[(0, message), (2.4, message)])
    host.end(4)
    first, second = [e.manifest["tracks"][0] for e in host.events if isinstance(e, RecordingFinished)]
    assert first["concealed_ms"] == 40
    assert (second["concealed_ms"], second["silence_filled_ms"]) == (0, 0)


MANY_CALLS = """
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from callreel.actions import StartRecording, StopRules
from callreel.call import Call
from capture_writer import rtp_packet

CALLS = 150
TRACKS = [(leg, direction) for leg in ("LEG-A", "LEG-B") for direction in ("incoming", "outgoing")]


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(number, stalled_s):
    calls = []
    rules = StopRules(terminators=frozenset("#"), trailing_silence_ms=60_000)
    for name in range(number):
        call = Call(str(name), started_at=datetime(2026, 1, 1, tzinfo=UTC), now=0.0)
        for leg in ("LEG-A", "LEG-B"):
            call.add_leg(leg)
        call.start_recording(StartRecording(rules=rules), now=0.0)
        calls.append(call)
    for packet in range(500):
        if packet % 100 == 50:
            continue  # lost
        data = rtp_packet(bytes(range(160)), seq=packet, timestamp=160 * packet, ssrc=1)
        for call in calls:
            for leg, direction in TRACKS:
                call.receive_rtp(leg, data, now=packet * 0.02, direction=direction)
            if packet % 10 == 9 and packet * 0.02 < 10 - stalled_s:
                call.handle_timeout(now=packet * 0.02)
                call.writes()
                call.events()
    return calls


stalled_s = float(sys.argv[1])
some = run(100, stalled_s)  # what every further call takes, when nothing is left over from the beginning
before = resident_bytes()
calls = run(CALLS, stalled_s)
print((resident_bytes() - before) // CALLS)
if calls[0].legs["LEG-A"].incoming.counts["discarded"]:
    print("audio was lost")
"""


def bytes_of_a_call(stalled_s: float) -> int:
    """Memory of a call of two legs, all four tracks of which are fed, and one of which is recorded."""
    folder = Path(callreel.__file__).parents[1]
    support = Path(capture_writer.__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(support)])}
    done = subprocess.run(
        [sys.executable, "-c", MANY_CALLS, str(stalled_s)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell in /proc")
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer takes memory of its own")
@pytest.mark.parametrize(("stalled_s", "most"), [(0.2, 150_000), (2.0, 150_000)])
def test_a_call_of_two_legs_takes_at_most_150_kb(stalled_s, most):
    assert bytes_of_a_call(stalled_s) < most
