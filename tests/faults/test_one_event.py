"""Each recording that began has one terminal event, whatever is refused, and in whichever moment."""

import errno
import gc
import os
import threading
import time
import weakref
from pathlib import Path

import pytest

from callreel.actions import Layout, Prompt, RecordingKind, StartRecording, StopRules
from callreel.delivery.queue import Queue
from callreel.delivery.queue_files import DEAD, Disk, standing, try_again
from callreel.dialects.chime import Chime
from callreel.errors import DeliveryConflictError, UsageError
from callreel.events import Play, RecordingStarted, VendorMessage
from callreel.notify.functions import PythonFunction
from callreel.recorder import Recorder, Settings, TakeEnded, TakeReplayed, despatch, making, progress
from callreel.spool import Limits, Take
from callreel.spool_desk import Journal
from recording_host import Clock, Unreliable, ended, feed, record

PATIENT = Limits(take_s=60.0)


@pytest.fixture
def clock():
    return Clock(10.0)


def wait_for(condition, timeout_s=15.0):
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def recorder_at(tmp_path, clock, store=None, *, limits=PATIENT, **options):
    if store is not None:
        options["store_for"] = lambda destination, key: (store, key)
    settings = Settings(tmp_path / "spool", destination=str(tmp_path / "out"), limits=limits)
    return Recorder(settings, clock=clock, **options)


def terminal(events):
    return [event for event in events if isinstance(event, TakeEnded)]


def takes(tmp_path):
    return sorted(path.name for path in (tmp_path / "spool" / "takes").iterdir())


class FullDisk(Disk):
    """The queue's disk, on which for a while nothing new can be written."""

    def __init__(self):
        self.is_full = False
        self.cannot_remove = False
        self.refused = 0

    def create(self, path):
        if self.is_full:
            self.refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().create(path)

    def unlink(self, path):
        if self.cannot_remove:
            self.refused += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().unlink(path)


@pytest.fixture
def disk(monkeypatch):
    one = FullDisk()
    monkeypatch.setattr(despatch, "Queue", lambda folder, **options: Queue(folder, disk=one, **options))
    return one


# ---- what a disk refuses ----


def test_what_the_queues_disk_refuses_is_told_in_its_order_when_it_does_not(tmp_path, clock, disk):
    told = []
    function = PythonFunction(lambda notification: told.append(notification.body))
    options = {"events": function, "notifier_for": lambda message: function}
    with recorder_at(tmp_path, clock, **options) as recorder:
        disk.is_full = True
        call = recorder.add_call("c-1", dialect=Chime())
        call.add_leg(call_id="c-1")
        call.start_recording(StartRecording())
        feed(call, clock, 0.5)
        call.end()
        wait_for(lambda: disk.refused >= 2)
        assert told == []
        assert not recorder.drain(0.1)
        disk.is_full = False
        assert recorder.drain(15.0)
    events = [body.get("InvocationEventType", body.get("event")) for body in told]
    assert sorted(events) == sorted(set(events))
    assert "take_ended" in events


def test_what_is_done_and_cannot_be_removed_from_the_queue_is_not_done_twice(tmp_path, clock, disk):
    store = Unreliable(tmp_path / "out")
    with recorder_at(tmp_path, clock, store) as recorder:
        disk.cannot_remove = True
        record(recorder, clock, "c-1", 0.5)
        assert len(ended(recorder)) == 1
        wait_for(lambda: disk.refused >= 2)
        disk.cannot_remove = False
        assert recorder.drain(10.0)
        assert store.tries == 1


def test_a_full_disk_gets_room_by_what_is_delivered(tmp_path, clock, disk):
    told = []
    options = {"events": PythonFunction(lambda notification: told.append(notification.body))}
    store = Unreliable(tmp_path / "out", is_down=True)
    with recorder_at(tmp_path, clock, store, **options) as recorder:
        record(recorder, clock, "c-1", 0.5)
        wait_for(lambda: store.tries)
        disk.is_full, store.is_down = True, False
        wait_for(lambda: disk.refused)
        ended(recorder)
        (take_id,) = takes(tmp_path)
        wait_for(lambda: not list((tmp_path / "spool" / "takes" / take_id).glob("*.wav")))
        assert told == []
        disk.is_full = False
        assert recorder.drain(10.0)
    assert [one["take_id"] for one in told] == [take_id]


def test_a_file_that_a_disk_refuses_is_made_when_it_does_not(tmp_path, clock, monkeypatch):
    made, finish = [], making.finish

    def refuse_twice(*arguments, **options):
        made.append(arguments)
        if len(made) <= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return finish(*arguments, **options)

    monkeypatch.setattr(making, "finish", refuse_twice)
    with recorder_at(tmp_path, clock) as recorder:
        record(recorder, clock, "c-1", 0.5)
        (event,) = ended(recorder)
    assert event.error is None
    assert len(made) == 3


def test_a_file_that_cannot_be_made_fails_and_the_next_start_makes_it(tmp_path, clock, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(making, "finish", refuse)
        with recorder_at(tmp_path, clock, limits=Limits(take_s=60.0, give_up_s=0.2)) as recorder:
            record(recorder, clock, "c-1", 0.5)
            (event,) = ended(recorder)
            assert event.error == "read-only file system"
            assert recorder.drain(5.0)
            assert takes(tmp_path) == [event.take_id]
    told = []
    options = {"events": PythonFunction(lambda notification: told.append(notification.body))}
    with recorder_at(tmp_path, clock, **options) as recorder:
        assert recorder.drain(10.0)
        (again,) = recorder.events()
        assert isinstance(again, TakeReplayed)
        assert again.take_id == event.take_id
        assert Path(again.location.removeprefix("file://")).exists()
    assert [one["event"] for one in told] == ["take_replayed"]
    wait_for(lambda: not takes(tmp_path))


def test_a_take_whose_end_cannot_be_written_has_one_event_however_long_that_lasts(
    tmp_path, clock, monkeypatch
):
    append, is_broken = Journal.append, threading.Event()

    def refuse(journal, lines):
        if is_broken.is_set():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        append(journal, lines)

    monkeypatch.setattr(Journal, "append", refuse)
    limits = Limits(take_s=60.0, give_up_s=0.1, retry_s=0.02)
    told = []
    options = {"events": PythonFunction(lambda notification: told.append(notification.body["take_id"]))}
    with recorder_at(tmp_path, clock, limits=limits, **options) as recorder:
        call = recorder.add_call("c-1")
        call.add_leg()
        call.start_recording(StartRecording())
        feed(call, clock, 0.5)
        is_broken.set()
        call.end()
        (event,) = ended(recorder)
        assert event.error == "input/output error"
        time.sleep(1.0)
        assert terminal(recorder.events()) == []
        is_broken.clear()
        assert recorder.drain(10.0)
        assert terminal(recorder.events()) == []
    assert told == [event.take_id]


def test_what_is_delivered_and_cannot_be_noted_down_is_no_failure_and_not_told_twice(
    tmp_path, clock, monkeypatch
):
    append, is_broken = Journal.append, threading.Event()

    def refuse(journal, lines):
        if is_broken.is_set():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        append(journal, lines)

    class Breaking(Unreliable):
        def deliver(self, parcel):
            receipt = super().deliver(parcel)
            is_broken.set()
            return receipt

    monkeypatch.setattr(Journal, "append", refuse)
    limits = Limits(take_s=60.0, give_up_s=0.1, retry_s=0.02)
    told = []
    options = {"events": PythonFunction(lambda notification: told.append(notification.body["take_id"]))}
    store = Breaking(tmp_path / "out")
    with recorder_at(tmp_path, clock, store, limits=limits, **options) as recorder:
        record(recorder, clock, "c-1", 0.5)
        (event,) = ended(recorder)
        assert (event.error, event.location is None) == (None, False)
        time.sleep(0.4)
        is_broken.clear()
        assert recorder.drain(10.0)
        assert list(recorder.events()) == []
        wait_for(lambda: not takes(tmp_path))
    assert told == [event.take_id]
    assert store.tries == 1


def test_a_take_that_cannot_go_on_for_whatever_reason_has_its_event(tmp_path, clock, monkeypatch):
    def refuse(take, manifest):
        raise UsageError("no")

    monkeypatch.setattr(Take, "finish", refuse)
    with recorder_at(tmp_path, clock) as recorder:
        record(recorder, clock, "c-1", 0.5)
        (event,) = ended(recorder)
        assert (event.error, event.end_reason) == ("no", "hangup")


# ---- dead letters ----


def test_a_dead_letter_that_is_tried_again_is_no_second_terminal_event(tmp_path, clock):
    told = []
    options = {"events": PythonFunction(lambda notification: told.append(notification.body))}
    store = Unreliable(tmp_path / "out", is_down=True)
    store.error = DeliveryConflictError("something else is there", key="k")
    folder = tmp_path / "spool" / "queue"
    with recorder_at(tmp_path, clock, store, **options) as recorder:
        record(recorder, clock, "c-1", 0.5)
        assert ended(recorder)[0].error is not None
        assert recorder.drain(10.0)
        (dead,) = standing(folder, (DEAD,))
        assert try_again(folder, dead.path)
        before = store.tries
        wait_for(lambda: store.tries > before)  # and it is refused again
        wait_for(lambda: list(standing(folder, (DEAD,))))
        assert recorder.drain(10.0)
        assert terminal(recorder.events()) == []
    store.is_down = False
    (dead,) = standing(folder, (DEAD,))
    try_again(folder, dead.path)
    with recorder_at(tmp_path, clock, store, **options) as recorder:
        wait_for(lambda: len(told) == 2)
        assert recorder.drain(10.0)
    ended_body, replayed = told
    assert (ended_body["event"], replayed["event"]) == ("take_ended", "take_replayed")
    assert ended_body["take_id"] == replayed["take_id"]
    assert replayed["manifest"]["sha256"] == ended_body["manifest"]["sha256"]
    assert Path(replayed["location"].removeprefix("file://")).exists()
    wait_for(lambda: not takes(tmp_path))


def test_what_was_given_up_by_a_process_that_died_at_it_fails_at_the_next_start(tmp_path, clock):
    store = Unreliable(tmp_path / "out", is_down=True)
    with recorder_at(tmp_path, clock, store) as recorder:
        record(recorder, clock, "c-1", 0.5)
        wait_for(lambda: store.tries)
    with Queue(tmp_path / "spool" / "queue", now_s=time.time(), random=lambda: 0.0) as queue:
        wait_for(lambda: (entry := queue.lease(time.time())) and entry.id.startswith("deliver:"))
        (entry_id,) = queue._schedule.items
        queue.retry(entry_id, DeliveryConflictError("taken", key="k"), time.time())
    with recorder_at(tmp_path, clock, store) as recorder:
        (event,) = ended(recorder)
        assert (event.error, event.location) == ("taken", None)
        assert recorder.drain(10.0)


# ---- what is called off ----


def test_what_was_called_off_is_not_brought_back_by_a_crash(tmp_path, clock, monkeypatch):
    action = StartRecording(
        kind=RecordingKind.MESSAGE,
        layout=Layout.INCOMING,
        rules=StopRules(max_duration_ms=500),
        undelivered=frozenset({"max_duration"}),
    )
    with monkeypatch.context() as patch:
        # The process dies when that it was called off is on the disk, and nobody has been told.
        patch.setattr(progress.Progress, "tell_end", lambda progress, job: None)
        with recorder_at(tmp_path, clock) as recorder:
            call = recorder.add_call("c-1")
            call.add_leg()
            call.start_recording(action)
            feed(call, clock, 1.0)
            call.end()
            wait_for(
                lambda: (
                    "called_off"
                    in (
                        journal := (
                            next(iter((tmp_path / "spool" / "takes").iterdir())) / "journal.jsonl"
                        ).read_text()
                    )
                    and '"failed"' in journal
                )
            )
    with recorder_at(tmp_path, clock) as recorder:
        (event,) = ended(recorder)
        assert (event.location, event.error, event.end_reason) == (None, None, "max_duration")
        assert recorder.drain(10.0)
    assert takes(tmp_path) == []
    assert not (tmp_path / "out").exists()


# ---- when a recording has begun ----


def test_that_a_recording_has_begun_is_said_when_a_crash_cannot_undo_it(tmp_path, clock, monkeypatch):
    from callreel import spool_desk

    held = threading.Event()
    sync_all = spool_desk.sync_all

    def wait_and_sync(folder, paths):
        held.wait(20)
        return sync_all(folder, paths)

    monkeypatch.setattr(spool_desk, "sync_all", wait_and_sync)
    with recorder_at(tmp_path, clock, Unreliable(tmp_path / "out")) as recorder:
        call = recorder.add_call("c-1", dialect=Chime())
        call.add_leg(call_id="c-1")
        list(recorder.events(0.1))
        call.request(
            {
                "SchemaVersion": "1.0",
                "Actions": [
                    {
                        "Type": "StartCallRecording",
                        "Parameters": {
                            "CallId": "c-1",
                            "Track": "BOTH",
                            "Destination": {"Type": "S3", "Location": "bucket/calls"},
                        },
                    }
                ],
            }
        )
        call.start_recording(
            StartRecording(kind=RecordingKind.MESSAGE, layout=Layout.INCOMING, prompt=Prompt(uri="p"))
        )
        time.sleep(0.3)
        assert [type(event) for event in recorder.events()] == [Play]
        held.set()
        told, until = [], time.monotonic() + 10
        while len(told) < 2 and time.monotonic() < until:
            told += [
                one for one in recorder.events(0.05) if isinstance(one, RecordingStarted | VendorMessage)
            ]
        assert [type(event) for event in told] == [RecordingStarted, VendorMessage]
        assert told[1].body["InvocationEventType"] == "ACTION_SUCCESSFUL"
        call.end()


def test_a_disk_that_stands_still_keeps_nobody_from_being_told_for_long(tmp_path, clock, monkeypatch):
    from callreel import spool_desk

    held = threading.Event()
    sync_all = spool_desk.sync_all
    monkeypatch.setattr(
        spool_desk, "sync_all", lambda folder, paths: (held.wait(20), sync_all(folder, paths))[1]
    )
    with recorder_at(tmp_path, clock) as recorder:
        call = recorder.add_call("c-1")
        call.add_leg()
        list(recorder.events(0.1))
        call.start_recording(StartRecording())
        began, until = time.monotonic(), time.monotonic() + 10
        while not any(isinstance(event, RecordingStarted) for event in recorder.events(0.05)):
            assert time.monotonic() < until
        assert 1.5 < time.monotonic() - began < 4.0
        held.set()
        call.end()
        ended(recorder)


# ---- messages ----


def test_a_process_that_knows_nobody_to_tell_leaves_messages_to_one_that_does(tmp_path, clock):
    deaf = PythonFunction(lambda notification: 1 / 0)
    with recorder_at(tmp_path, clock, notifier_for=lambda message: deaf, events=deaf) as recorder:
        call = recorder.add_call("c-1", dialect=Chime())
        call.add_leg(call_id="c-1")
        call.start_recording(StartRecording())
        feed(call, clock, 0.5)
        call.end()
        ended(recorder)
        wait_for(lambda: len(recorder._office._despatch) >= 2)
    left = {one.record.id for one in standing(tmp_path / "spool" / "queue")}
    assert len(left) >= 2
    with recorder_at(tmp_path, clock) as recorder:
        assert not recorder.drain(1.0)
    assert {one.record.id for one in standing(tmp_path / "spool" / "queue")} == left
    told = []
    function = PythonFunction(lambda notification: told.append(notification.id))
    with recorder_at(tmp_path, clock, notifier_for=lambda message: function, events=function) as recorder:
        queue = recorder._office._despatch._queue
        for entry_id in left:
            recorder._office._clerk.post(lambda entry_id=entry_id: queue.wake(entry_id, time.time()))
        assert recorder.drain(15.0)
    assert {f"say:{one}" if ":" not in one else one for one in told} == left


def test_a_host_that_does_not_know_whom_to_tell_at_once_loses_no_recording(tmp_path, clock):
    told, is_ready = [], threading.Event()
    function = PythonFunction(lambda notification: told.append(notification.body["InvocationEventType"]))

    def notifier_for(message):
        if not is_ready.is_set():
            raise LookupError(message.call_id)
        return function

    with recorder_at(tmp_path, clock, notifier_for=notifier_for) as recorder:
        call = recorder.add_call("c-1", dialect=Chime())
        call.add_leg(call_id="c-1", status="offered")
        call.answered("LEG-A")
        call.start_recording(StartRecording())
        feed(call, clock, 0.5)
        call.end()
        assert len(ended(recorder)) == 1


def test_a_customer_who_does_not_listen_does_not_keep_terminal_events_from_the_host(tmp_path, clock):
    told = []
    deaf = PythonFunction(lambda notification: 1 / 0, name="deaf")
    options = {
        "notifier_for": lambda message: deaf,
        "events": PythonFunction(lambda notification: told.append(notification.body)),
    }
    with recorder_at(tmp_path, clock, **options) as recorder:
        call = recorder.add_call("c-1", dialect=Chime())
        call.add_leg(call_id="c-1")
        call.start_recording(StartRecording())
        feed(call, clock, 0.5)
        call.end()
        wait_for(lambda: told)


# ---- what is kept in memory ----


@pytest.mark.parametrize("undelivered", [frozenset(), frozenset({"hangup"})])
def test_nothing_is_kept_of_a_call_that_is_over_and_delivered(tmp_path, clock, undelivered):
    with recorder_at(tmp_path, clock) as recorder:
        call = record(recorder, clock, "c-1", 0.3, StartRecording(undelivered=undelivered))
        gone = weakref.ref(call)
        ended(recorder)
        assert recorder.drain(10.0)
        del call
        wait_for(lambda: gc.collect() >= 0 and gone() is None)
        wait_for(lambda: not recorder._office._jobs.live)


def test_the_media_of_a_call_that_is_over_is_not_kept_while_its_destination_is_down(tmp_path, clock):
    store = Unreliable(tmp_path / "out", is_down=True)
    with recorder_at(tmp_path, clock, store) as recorder:
        call = recorder.add_call("c-1")
        call.add_leg()
        assert call._call.legs
        call.start_recording(StartRecording())
        feed(call, clock, 0.3)
        call.end()
        wait_for(lambda: store.tries)
        assert not call._call.legs
        store.is_down = False
        ended(recorder)


# ---- clocks ----


def test_a_clock_that_is_set_back_delays_nothing(tmp_path, clock):
    step = [0.0]
    store = Unreliable(tmp_path / "out", is_down=True)
    with recorder_at(tmp_path, clock, store, wall_clock=lambda: time.time() + step[0]) as recorder:
        record(recorder, clock, "c-1", 0.5)
        wait_for(lambda: store.tries)
        step[0] = -86_400.0
        store.is_down = False
        (event,) = ended(recorder)
        assert event.error is None
        record(recorder, clock, "c-2", 0.5)
        ended(recorder)
        wait_for(lambda: not takes(tmp_path))
        assert recorder.drain(5.0)
