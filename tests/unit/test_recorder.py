"""Recorder: calls in, recordings at their destination and one terminal event each out."""

import gc
import hashlib
import itertools
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from callreel.actions import Destination, Layout, Prompt, RecordingKind, StartRecording, StopRules
from callreel.delivery import Parcel
from callreel.dialects.chime import Chime
from callreel.errors import (
    ActionError,
    DeliveryConflictError,
    DeliveryDeniedError,
    DeliveryInterruptedError,
    UsageError,
)
from callreel.events import CallEnded, RecordingStarted, RecordingStored, VendorMessage
from callreel.kernels import g711, pcap
from callreel.legs import Leg
from callreel.notify.functions import PythonFunction
from callreel.recorder import Recorder, Settings, TakeEnded
from callreel.recorder.stores import Stores
from callreel.spool import Limits, Retention, Space
from callreel.spool_files import _PlainFile, write_together
from capture_writer import rtp_packet
from recording_host import PACKET_S, RATE, Clock, Unreliable, ended, feed, packet, payload, record
from secret_watch import MARK

SPEED = 10.0


class Hand:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock(SPEED)


@pytest.fixture
def recorder(tmp_path, clock):
    with Recorder(settings(tmp_path), clock=clock) as one:
        yield one


def settings(tmp_path, **changes):
    # Audio comes SPEED times as fast as the disk is told that it would.
    changes.setdefault("limits", Limits(take_s=3.0 * SPEED))
    return Settings(tmp_path / "spool", destination=str(tmp_path / "out"), **changes)


def with_store(tmp_path, clock, store, **options):
    return Recorder(
        Settings(tmp_path / "spool"), store_for=lambda destination, key: (store, key), clock=clock, **options
    )


def heard(seconds: float) -> np.ndarray:
    codes = b"".join(payload(number) for number in range(round(seconds * 50)))
    return np.frombuffer(g711.ulaw_decode(codes), np.int16)


def path_of(event: TakeEnded) -> Path:
    assert event.location is not None
    assert event.location.startswith("file://")
    return Path(event.location.removeprefix("file://"))


def takes(tmp_path):
    return sorted((tmp_path / "spool" / "takes").iterdir())


def wait_for(condition, timeout_s=10.0):
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


# ---- the whole way ----


def test_a_recording_ends_as_a_file_at_its_destination_and_one_terminal_event(recorder, clock):
    record(recorder, clock, "c-1", 2.0)
    (event,) = ended(recorder)
    audio, rate = soundfile.read(path_of(event), dtype="int16", always_2d=True)
    assert rate == RATE
    assert len(audio) == event.manifest["frames"] >= 2 * RATE
    assert (event.call_id, event.recording_id, event.error) == ("c-1", "c-1/LEG-A", None)
    assert event.end_reason == "hangup"
    assert event.manifest["bytes"] == path_of(event).stat().st_size
    assert event.manifest["degraded"] is False
    assert recorder.drain(5.0)
    assert not [one for one in recorder.events() if isinstance(one, TakeEnded)]


def test_what_is_recorded_is_what_was_said(recorder, clock):
    record(recorder, clock, "c-1", 2.0)
    (event,) = ended(recorder)
    audio = soundfile.read(path_of(event), dtype="int16", always_2d=True)[0]
    said = heard(2.0)
    begin = np.flatnonzero(
        (audio[: RATE // 2, 0] == said[0]) & (np.roll(audio[: RATE // 2, 0], -1) == said[1])
    )[0]
    np.testing.assert_array_equal(audio[begin : begin + len(said), 0], said[: len(audio) - begin])


@pytest.mark.parametrize(("name", "rate"), [("wav", 16_000), ("mp3", None)])
def test_the_file_that_was_asked_for_is_made(recorder, clock, name, rate):
    action = StartRecording(format=name, sample_rate=rate, layout=Layout.INCOMING)
    record(recorder, clock, "c-1", 1.0, action)
    (event,) = ended(recorder)
    assert event.key.endswith(f".{name}")
    info = soundfile.info(path_of(event))
    assert (info.samplerate, info.channels) == (rate or RATE, 1)
    assert event.manifest["duration"] >= 0.9
    assert info.frames == event.manifest["frames"]
    assert info.frames == pytest.approx((rate or RATE) * event.manifest["duration"], abs=1)


def test_nothing_is_left_in_the_spool_of_what_was_delivered(recorder, clock, tmp_path):
    record(recorder, clock, "c-1", 0.5)
    ended(recorder)
    wait_for(lambda: not takes(tmp_path))


def test_what_was_delivered_is_kept_as_long_as_is_wanted(tmp_path, clock):
    with Recorder(settings(tmp_path, retention=Retention(delivered_s=None)), clock=clock) as one:
        record(one, clock, "c-1", 0.5)
        ended(one)
        assert one.drain(5.0)
        time.sleep(0.2)
        assert len(takes(tmp_path)) == 1


def test_many_calls_at_once_lose_nothing_and_double_nothing(recorder, clock):
    calls = []
    for number in range(12):
        call = recorder.add_call(f"c-{number}")
        call.add_leg()
        call.start_recording(StartRecording())
        calls.append(call)
    feeders = [threading.Thread(target=feed, args=(call, clock, 2.0)) for call in calls]
    for feeder in feeders:
        feeder.start()
    for feeder in feeders:
        feeder.join()
    for call in calls:
        call.end()
    events = ended(recorder, len(calls))
    assert sorted(event.call_id for event in events) == sorted(call.call_id for call in calls)
    assert len({event.take_id for event in events}) == len(calls)
    for event in events:
        assert event.error is None
        assert event.manifest["tracks"][0]["packets"]["received"] == 100


def test_packets_of_one_call_may_come_from_many_threads(recorder, clock):
    call = recorder.add_call("c-1")
    call.add_leg()
    call.start_recording(StartRecording())

    def send(first):
        for number in range(first, 400, 4):
            call.receive_rtp("LEG-A", packet(number))

    senders = [threading.Thread(target=send, args=(first,)) for first in range(4)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    call.end()
    (event,) = ended(recorder)
    assert event.manifest["tracks"][0]["packets"]["received"] == 400


def test_who_begins_and_ends_a_call_is_told_in_order(recorder, clock):
    record(recorder, clock, "c-1", 0.3)
    events, until = [], time.monotonic() + 10
    while not any(isinstance(event, TakeEnded) for event in events):
        assert time.monotonic() < until
        events += recorder.events(0.05)
    kinds = [type(event) for event in events if not isinstance(event, VendorMessage)][1:]
    assert kinds == [RecordingStarted, CallEnded, RecordingStored, TakeEnded]


def test_the_hosts_labels_are_in_the_manifest_also_after_a_restart(tmp_path, clock):
    store = Unreliable(tmp_path / "out", is_down=True)
    with with_store(tmp_path, clock, store) as recorder:
        call = recorder.add_call("c-1", labels={"agent": "7"})
        call.add_leg()
        call.start_recording(StartRecording())
        feed(call, clock, 0.5)
        call.end()
        wait_for(lambda: store.tries)
    store.is_down = False
    with with_store(tmp_path, clock, store) as recorder:
        (event,) = ended(recorder)
    assert event.manifest["labels"] == {"agent": "7"}


def test_a_secret_is_no_label(recorder):
    with pytest.raises(UsageError, match="a secret is not written to the spool: labels has 'api_key'"):
        recorder.add_call("c-1", labels={"api_key": "hush"})


@pytest.mark.parametrize("packet_ms", [10, 20, 40])
def test_how_often_the_disk_is_written_does_not_depend_on_packets(tmp_path, monkeypatch, packet_ms):
    writes = []
    truly = _PlainFile.write

    def counted(self, offset, pieces):
        writes.append(offset)
        truly(self, offset, pieces)

    def counted_together(some):
        writes.extend(offset for _, offset, _ in some)
        return write_together(some)

    monkeypatch.setattr(_PlainFile, "write", counted)
    monkeypatch.setattr("callreel.spool_desk.write_together", counted_together)
    hand = Hand()
    with Recorder(settings(tmp_path), clock=hand) as recorder:
        call = recorder.add_call("c-1")
        call.add_leg()
        call.start_recording(StartRecording())
        for step in range(20):
            for number in range(120 // packet_ms * step, 120 // packet_ms * (step + 1)):
                samples = 8 * packet_ms
                wire = rtp_packet(bytes(samples), seq=number, timestamp=number * samples, ssrc=1)
                call.receive_rtp("LEG-A", wire, now=(number + 1) * packet_ms / 1000)
            hand.now = 0.12 * (step + 1)
            call.step(hand.now)
            wait_for(lambda: not recorder._spool.waiting_bytes)
        written = len(writes)
        call.end()
    assert 20 <= written <= 4 * 20


def test_a_call_id_is_one_calls_at_a_time(recorder, clock):
    call = recorder.add_call("c-1")
    with pytest.raises(UsageError, match="there is a call c-1"):
        recorder.add_call("c-1")
    assert recorder.call("c-1") is call
    call.end()
    wait_for(lambda: not recorder._calls)
    with pytest.raises(UsageError, match="there is no call c-1"):
        recorder.call("c-1")
    recorder.add_call("c-1")


# ---- what goes wrong ----


def test_a_destination_that_is_down_gets_the_file_later(tmp_path, clock):
    store = Unreliable(tmp_path / "out", is_down=True)
    with with_store(tmp_path, clock, store) as recorder:
        record(recorder, clock, "c-1", 0.5)
        wait_for(lambda: store.tries >= 2)
        store.is_down = False
        (event,) = ended(recorder)
        assert event.error is None
        assert path_of(event).exists()


def test_who_waits_is_told_at_once_that_a_destination_refuses_and_the_file_goes_when_it_does_not(
    tmp_path, clock
):
    store = Unreliable(tmp_path / "out", is_down=True)
    store.error = DeliveryDeniedError("no", key="k")
    document = {
        "SchemaVersion": "1.0",
        "Actions": [
            {
                "Type": "RecordAudio",
                "Parameters": {
                    "DurationInSeconds": "1",
                    "RecordingTerminators": ["#"],
                    "RecordingDestination": {"Type": "S3", "BucketName": "bucket"},
                },
            }
        ],
    }
    with with_store(tmp_path, clock, store) as recorder:
        call = recorder.add_call("c-1", dialect=Chime())
        call.add_leg()
        call.request(document)
        feed(call, clock, 3.0)
        told, until = [], time.monotonic() + 10
        while not told:
            assert time.monotonic() < until
            told = [event.body for event in recorder.events(0.05) if isinstance(event, VendorMessage)]
        assert told[0]["InvocationEventType"] == "ACTION_FAILED"
        assert (
            told[0]["ActionData"]["ErrorMessage"] == "Error occurred while uploading recording to S3 bucket."
        )
        call.end()


def test_a_take_that_is_given_up_says_why_and_is_kept(tmp_path, clock):
    store = Unreliable(tmp_path / "out", is_down=True)
    store.error = DeliveryConflictError("something else is there", key="k")
    with with_store(tmp_path, clock, store) as recorder:
        record(recorder, clock, "c-1", 0.5)
        (event,) = ended(recorder)
        assert event.location is None
        assert event.error == "something else is stored under that key: something else is there"
        time.sleep(0.3)
        assert len(takes(tmp_path)) == 1


def test_what_was_called_off_is_not_delivered_and_has_its_event(recorder, clock, tmp_path):
    call = recorder.add_call("c-1")
    call.add_leg()
    action = StartRecording(
        kind=RecordingKind.MESSAGE, layout=Layout.INCOMING, rules=StopRules(max_duration_ms=500)
    )
    undelivered = action._replace(undelivered=frozenset({"max_duration"}))
    call.start_recording(undelivered)
    feed(call, clock, 1.0)
    (event,) = ended(recorder)
    assert (event.location, event.error, event.end_reason) == (None, None, "max_duration")
    call.end()
    wait_for(lambda: not takes(tmp_path))


def test_a_recording_that_never_began_has_no_event(recorder, clock):
    call = recorder.add_call("c-1")
    call.add_leg()
    call.start_recording(
        StartRecording(prompt=Prompt(uri="p"), kind=RecordingKind.MESSAGE, layout=Layout.INCOMING)
    )
    call.end()
    assert recorder.drain(5.0)
    assert not [event for event in recorder.events(0.2) if isinstance(event, TakeEnded)]


def test_without_room_recordings_are_refused_in_the_vendors_words(tmp_path, clock):
    space = Space(refuse_below_bytes=1 << 60, accept_above_bytes=1 << 61)
    with Recorder(settings(tmp_path, space=space), clock=clock) as recorder:
        call = recorder.add_call("c-1")
        call.add_leg()
        with pytest.raises(ActionError, match="no room"):
            call.start_recording(StartRecording())
        call.end()


def test_a_destination_that_is_not_offered_is_said_to_be_missing(tmp_path, clock):
    with Recorder(Settings(tmp_path / "spool"), clock=clock) as recorder:
        record(recorder, clock, "c-1", 0.3)
        wait_for(lambda: len(recorder._office._despatch) == 1)
        assert recorder.unfinished


# ---- notification ----


def test_a_customers_program_answers_and_its_actions_are_carried_out(tmp_path, clock):
    asked = []

    def handler(notification):
        asked.append(notification.body["InvocationEventType"])
        if asked[-1] != "NEW_INBOUND_CALL":
            return {"SchemaVersion": "1.0", "Actions": []}
        destination = {"Type": "S3", "Location": "bucket/calls"}
        start = {"CallId": "c-1", "Track": "BOTH", "Destination": destination}
        return {"SchemaVersion": "1.0", "Actions": [{"Type": "StartCallRecording", "Parameters": start}]}

    function = PythonFunction(handler)
    store = Unreliable(tmp_path / "out")
    with with_store(tmp_path, clock, store, notifier_for=lambda message: function) as recorder:
        call = recorder.add_call("c-1", dialect=Chime())
        call.add_leg(call_id="c-1", status="offered")
        call.answered("LEG-A")
        wait_for(lambda: "ACTION_SUCCESSFUL" in asked)
        feed(call, clock, 1.0)
        call.end()
        (event,) = ended(recorder)
        assert event.key.startswith("calls/")
        assert recorder.drain(5.0)
    assert asked == ["NEW_INBOUND_CALL", "ACTION_SUCCESSFUL", "HANGUP"]


@pytest.mark.parametrize("is_down", [False, True])
def test_a_call_recording_begins_when_its_bucket_has_been_looked_at(tmp_path, clock, is_down):
    class Looked(Unreliable):
        def check(self, key):
            if self.is_down:
                raise DeliveryDeniedError("no", key=key)
            looked.append(key)

    looked = []
    store = Looked(tmp_path / "out", is_down=is_down)
    destination = {"Type": "S3", "Location": "bucket/calls"}
    start = {"CallId": "c-1", "Track": "BOTH", "Destination": destination}
    document = {"SchemaVersion": "1.0", "Actions": [{"Type": "StartCallRecording", "Parameters": start}]}
    with with_store(tmp_path, clock, store) as recorder:
        call = recorder.add_call("c-1", dialect=Chime(checks_access=True))
        call.add_leg(call_id="c-1")
        call.request(document)
        told, until = [], time.monotonic() + 10
        while not told:
            assert time.monotonic() < until
            told = [event.body for event in recorder.events(0.05) if isinstance(event, VendorMessage)]
        if is_down:
            assert told[0]["ActionData"]["ErrorType"] == "NoAccessToDestination"
        else:
            assert told[0]["InvocationEventType"] == "ACTION_SUCCESSFUL"
            location = told[0]["ActionData"]["CallRecordingDestination"]["Location"]
            assert [f"bucket/{key}" for key in looked] == [location]
        call.end()


def test_every_terminal_event_is_told_durably_too(tmp_path, clock):
    told = []

    def notice(notification):
        told.append(notification.body)

    options = {"events": PythonFunction(notice)}
    with Recorder(settings(tmp_path), clock=clock, **options) as recorder:
        record(recorder, clock, "c-1", 0.5)
        (event,) = ended(recorder)
        wait_for(lambda: told)
    assert [one["take_id"] for one in told] == [event.take_id]
    assert told[0]["manifest"]["sha256"] == event.manifest["sha256"]


def test_a_terminal_event_that_could_not_be_told_waits_for_a_start_that_knows_whom_to_tell(
    tmp_path, clock, caplog
):
    def fails(notification):
        raise DeliveryInterruptedError("no", retryable=True)

    with Recorder(settings(tmp_path), clock=clock, events=PythonFunction(fails)) as recorder:
        record(recorder, clock, "c-1", 0.3)
        ended(recorder)
        wait_for(lambda: "end:" in caplog.text)
    caplog.clear()
    with Recorder(settings(tmp_path), clock=clock) as recorder:
        wait_for(lambda: "it is not set who is told" in caplog.text)
        assert recorder.unfinished == 1
    assert "Traceback" not in caplog.text
    (entry,) = (tmp_path / "spool" / "queue" / "waiting").iterdir()
    assert '"error_class":"denied"' in entry.read_text().replace(" ", "")


# ---- the end, and the next start ----


def test_draining_begins_nothing_new_and_waits_for_what_runs(recorder, clock):
    call = recorder.add_call("c-1")
    call.add_leg()
    call.start_recording(StartRecording())
    feed(call, clock, 0.5)
    assert not recorder.drain(0.1)
    other = recorder.add_call("c-2")
    other.add_leg()
    with pytest.raises(ActionError, match="no recordings are begun any more"):
        other.start_recording(StartRecording())
    call.end()
    assert recorder.drain(10.0)
    assert len(ended(recorder)) == 1


def test_what_is_not_delivered_when_it_closes_goes_at_the_next_start_once(tmp_path, clock):
    store = Unreliable(tmp_path / "out", is_down=True)
    with with_store(tmp_path, clock, store) as recorder:
        record(recorder, clock, "c-1", 0.5)
        wait_for(lambda: store.tries >= 1)
    store.is_down = False
    with with_store(tmp_path, clock, store) as recorder:
        (event,) = ended(recorder)
        assert event.error is None
        assert soundfile.info(path_of(event)).frames == event.manifest["frames"]
        assert recorder.drain(5.0)
        assert not [one for one in recorder.events(0.3) if isinstance(one, TakeEnded)]
    with with_store(tmp_path, clock, store) as recorder:
        assert recorder.drain(5.0)
        assert not [one for one in recorder.events(0.3) if isinstance(one, TakeEnded)]


def test_calls_that_go_on_when_it_closes_are_cut_off_and_delivered_later(tmp_path, clock):
    out = str(tmp_path / "out")
    with Recorder(settings(tmp_path), clock=clock) as recorder:
        call = recorder.add_call("c-1")
        call.add_leg()
        call.start_recording(StartRecording())
        feed(call, clock, 1.0)
    with Recorder(settings(tmp_path), clock=clock) as recorder:
        (event,) = ended(recorder) if not list(Path(out).rglob("*.wav")) else [None]
        assert list(Path(out).rglob("*.wav"))
        assert event is None or event.error is None


def test_a_recorder_that_cannot_be_opened_leaves_nothing_open(tmp_path):
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "queue").write_text("in the way")
    before = threading.active_count()
    for _ in range(2):  # the second one is told the same, not that somebody has the spool
        with pytest.raises(OSError, match="queue"):
            Recorder(settings(tmp_path))
    assert threading.active_count() == before


def test_who_has_a_loop_of_its_own_is_told_that_there_are_events(tmp_path, clock):
    rung = threading.Event()
    with Recorder(settings(tmp_path), clock=clock, on_event=rung.set) as recorder:
        assert not rung.is_set()
        record(recorder, clock, "c-1", 0.3)
        assert rung.wait(5)
        assert list(recorder.events())


# ---- secrets ----


def test_credentials_of_a_request_are_in_no_file_no_event_and_no_log(tmp_path, clock, caplog):
    caplog.set_level("DEBUG")
    store = Unreliable(tmp_path / "out", is_down=True)
    secret = f"AKIDSECRET:{MARK}"
    destination = Destination(kind="s3", bucket="b", credentials=secret, region="r")
    told = []
    with with_store(tmp_path, clock, store) as recorder:
        record(recorder, clock, "c-1", 0.5, StartRecording(destination=destination))
        wait_for(lambda: store.tries >= 1)
        told += recorder.events(0.1)
    found = [path for path in tmp_path.rglob("*") if path.is_file() and MARK.encode() in path.read_bytes()]
    assert found == []
    assert MARK not in caplog.text
    assert MARK not in repr(told)
    # The secret is gone with the process: the take waits until it is given again.
    store.is_down = False
    with with_store(tmp_path, clock, store) as recorder:
        wait_for(lambda: "give them again" in caplog.text)
        assert recorder.unfinished


def test_a_call_can_be_looked_at_also_when_it_is_over(recorder):
    call = recorder.add_call("call-1", transaction_id="t-1")
    call.add_leg("LEG-A", to="+461")
    before = call.view()
    assert (before.call_id, before.transaction_id) == ("call-1", "t-1")
    call.end()
    assert before.participants["LEG-A"].to == "+461"
    assert call.view().now >= before.now
    assert call.view().participants.keys() == before.participants.keys()


def test_every_drive_has_a_folder_of_its_own(tmp_path):
    settings = Settings(tmp_path, drive_url="https://calls.example/recording/")
    one, other = (
        Stores(settings).place(Destination(kind="sdrive", bucket=name), "a.mp3")[0]
        for name in ("one", "../two")
    )
    assert one.folder == tmp_path / "drives" / "one"
    assert other.folder.parent == tmp_path / "drives"
    assert Stores(settings).place(Destination(kind="sdrive"), "a.mp3")[0].folder == tmp_path / "drive"
    path = tmp_path / "a.mp3"
    path.write_bytes(b"")
    receipt = one.deliver(Parcel(path, "a.mp3", 0, hashlib.sha256(b"").hexdigest(), "audio/mpeg", {}))
    assert receipt.location == "https://calls.example/recording/a.mp3"


def test_a_call_that_is_over_keeps_no_audio(recorder):
    call = recorder.add_call("call-1")
    call.add_leg("LEG-ZZ")

    def legs():
        return [one for one in gc.get_objects() if isinstance(one, Leg) and one.name == "LEG-ZZ"]

    assert len(legs()) == 1
    call.end()
    gc.collect()
    assert legs() == []
    assert "LEG-ZZ" in call.participants


# ---- packets that are fetched ----


class Queue:
    """Packets of a whole call that are there already; hands over those that have come."""

    def __init__(self, clock, seconds, began):
        wires = [packet(number) for number in range(round(seconds * 50))]
        self.records = np.zeros(len(wires), pcap.DTYPE)
        self.records["length"] = [len(one) for one in wires]
        self.records["offset"] = np.cumsum(self.records["length"]) - self.records["length"]
        self.records["time_ns"] = [round((began + 0.02 * number) * 1e9) for number in range(len(wires))]
        self.data = b"".join(wires)
        self.clock = clock
        self.first = 0
        self.asked = []
        self.finished = 0

    def feed(self, call, until_ns):
        self.asked.append((self.clock(), until_ns))
        self._hand_over(call, min(until_ns or 2**62, round(self.clock() * 1e9)))

    def finish(self, call, leg=None):
        self.finished += 1
        self._hand_over(call, 2**62)

    def _hand_over(self, call, until_ns):
        records = self.records[self.first :].tobytes()
        self.first += call.receive_rtp_batch("LEG-A", self.data, records, until_ns=until_ns)


@pytest.mark.parametrize("ends", ["end", "detach"])
def test_a_source_is_asked_at_every_step_and_a_last_time_at_the_end(tmp_path, ends):
    clock = Clock()
    recorder = Recorder(settings(tmp_path), clock=clock)
    call = recorder.add_call("c-1")
    call.add_leg()
    call.start_recording(StartRecording())
    source = Queue(clock, 3.0, clock())
    call.attach(source)
    clock.sleep_until(clock() + 2.9)
    assert len(source.asked) >= 8
    if ends == "detach":
        call.detach(source)
        call.detach(source)
    call.end()
    call.detach(source)
    assert source.finished == 1
    asked = len(source.asked)
    (event,) = ended(recorder)
    audio = soundfile.read(path_of(event), dtype="int16", always_2d=True)[0][:, 0]
    said = heard(3.0)
    begin = next(
        at for at in np.flatnonzero(audio == said[0]) if np.array_equal(audio[at : at + 160], said[:160])
    )
    np.testing.assert_array_equal(audio[begin : begin + len(said)], said)
    assert len(source.asked) == asked
    recorder.close()


def test_a_call_that_stood_still_hears_a_second_of_what_waited_at_a_step(recorder, clock):
    call = recorder.add_call("c-1")
    call.add_leg()
    call.start_recording(StartRecording())
    source = Queue(clock, 8.0, clock())
    call.attach(source)
    with call._lock:
        clock.sleep_until(clock() + 8.0)
    wait_for(lambda: source.first == 400)
    behind = [until_ns for _, until_ns in source.asked if until_ns is not None]
    assert len(behind) >= 6
    assert {b - a for a, b in itertools.pairwise(behind)} == {1_000_000_000}
    call.end()
    (event,) = ended(recorder)
    assert event.manifest["degraded"] is False
    counts = event.manifest["tracks"][0]["packets"]
    assert (counts["received"], counts["lost"], counts["late"], counts["discarded"]) == (400, 0, 0, 0)


def test_what_is_asked_of_a_call_that_stood_still_finds_it_where_it_is_now(recorder, clock):
    call = recorder.add_call("c-1")
    call.add_leg()
    began = clock()
    call.start_recording(StartRecording())
    has_begun = clock()
    source = Queue(clock, 6.0, began)
    call.attach(source)
    with call._lock:
        clock.sleep_until(clock() + 6.0)
        stands = clock()
    call.stop_recording()
    has_stopped = clock()
    assert source.first >= 245
    call.end()
    (event,) = ended(recorder)
    # Times of audio are known to a packet.
    assert stands - has_begun - PACKET_S <= event.manifest["duration"] <= has_stopped - began + PACKET_S
    assert event.manifest["degraded"] is False


def test_a_call_whose_source_fails_ends_and_what_it_had_recorded_is_delivered(recorder, clock, caplog):
    class Failing(Queue):
        def feed(self, call, until_ns):
            super().feed(call, until_ns)
            if self.first >= 100:
                raise RuntimeError("no packets any more")

        finish = feed

    call, other = recorder.add_call("c-1"), recorder.add_call("c-2")
    call.add_leg()
    call.start_recording(StartRecording())
    call.attach(Failing(clock, 4.0, clock()))
    clock.sleep_until(clock() + 3.0)
    (event,) = ended(recorder)
    assert event.error is None
    assert event.manifest["tracks"][0]["packets"]["received"] >= 100
    assert (call.is_over, other.is_over) == (True, False)
    assert "c-1 cannot be moved on" in caplog.text
    with pytest.raises(UsageError):
        call.end()


@pytest.mark.parametrize(
    ("destination", "is_imported"), [("s3://bucket/calls", True), ("out", False), (None, False)]
)
def test_boto3_is_there_before_the_first_delivery_to_s3_and_for_nobody_else(
    tmp_path, destination, is_imported
):
    program = f"""
import sys, threading
from pathlib import Path
from callreel.recorder import Recorder, Settings
assert "boto3" not in sys.modules and "botocore" not in sys.modules
with Recorder(Settings(Path({str(tmp_path / "spool")!r}), destination={destination!r})):
    for thread in threading.enumerate():
        if thread.name == "callreel-prepare":
            thread.join()
    print("botocore.client" in sys.modules)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert (ran.stdout, ran.stderr) == (f"{is_imported}\n", "")
