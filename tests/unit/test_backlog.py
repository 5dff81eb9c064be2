"""What a host has not read yet: bounded, and no terminal event is lost."""

import errno
import os
import threading

from hypothesis import given
from hypothesis import strategies as st

from callreel.events import CallEnded, LegChanged, LegStatus
from callreel.recorder import EventsLost, Recorder, Settings, TakeEnded, TakeReplayed
from callreel.recorder.backlog import Backlog
from recording_host import Clock, record


def ended(number):
    return TakeEnded(f"t-{number}", "c", "r", "key", "stop", None, None, {"digits": [], "number": number})


def told(number):
    return LegChanged(f"c-{number}", "LEG-A", LegStatus.CONNECTED)


def all_of(backlog):
    return list(iter(backlog.get, None))


def test_events_come_in_their_order(tmp_path):
    backlog = Backlog(tmp_path)
    put = [told(1), ended(2), told(3), TakeReplayed("t", "c", "r", "key", "there", {}), CallEnded("c")]
    for event in put:
        backlog.put(event)
    assert all_of(backlog) == put


def test_of_what_nobody_reads_the_oldest_go_and_that_is_told_first(tmp_path):
    backlog = Backlog(tmp_path, max_events=3)
    for number in range(10):
        backlog.put(told(number))
    backlog.put(CallEnded("c"))
    assert all_of(backlog) == [
        EventsLost("", 8, {"LegChanged": 8}),
        told(8),
        told(9),
        CallEnded("c"),
    ]
    backlog.put(told(11))
    assert all_of(backlog) == [told(11)]


def test_what_was_lost_is_told_behind_the_terminal_events_before_it(tmp_path):
    backlog = Backlog(tmp_path, max_events=1)
    for event in (ended(1), told(2), told(3), ended(4)):
        backlog.put(event)
    assert all_of(backlog) == [ended(1), EventsLost("", 1, {"LegChanged": 1}), told(3), ended(4)]


@given(
    kinds=st.lists(st.sampled_from(["ended", "told", "read"]), max_size=80),
    max_events=st.integers(1, 5),
    max_terminal_events=st.integers(1, 5),
)
def test_no_terminal_event_is_lost_or_out_of_order_and_others_are_counted(
    tmp_path_factory, kinds, max_events, max_terminal_events
):
    backlog = Backlog(
        tmp_path_factory.getbasetemp(), max_events=max_events, max_terminal_events=max_terminal_events
    )
    put, got = [], []
    for number, kind in enumerate(kinds):
        if kind == "read":
            got.append(backlog.get())
        else:
            put.append(ended(number) if kind == "ended" else told(number))
            backlog.put(put[-1])
    got = [event for event in [*got, *all_of(backlog)] if event is not None]
    lost = sum(event.events for event in got if isinstance(event, EventsLost))
    kept = [event for event in got if not isinstance(event, EventsLost)]
    assert len(kept) + lost == len(put)
    assert [one for one in kept if isinstance(one, TakeEnded)] == [
        one for one in put if isinstance(one, TakeEnded)
    ]
    places = [put.index(one) for one in kept]
    assert places == sorted(places)


def test_the_file_has_no_name_and_gives_back_its_room(tmp_path):
    backlog = Backlog(tmp_path, max_terminal_events=2)
    for number in range(100):
        backlog.put(ended(number))
    assert list(tmp_path.iterdir()) == []
    assert os.fstat(backlog._file.fileno()).st_size > 0
    assert all_of(backlog) == [ended(number) for number in range(100)]
    assert os.fstat(backlog._file.fileno()).st_size == 0


def test_a_disk_that_refuses_loses_no_terminal_event(tmp_path, monkeypatch):
    backlog = Backlog(tmp_path, max_terminal_events=2)
    for number in range(4):
        backlog.put(ended(number))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(backlog, "_write", full)
        for number in range(4, 8):
            backlog.put(ended(number))
    for number in range(8, 12):
        backlog.put(ended(number))
    assert all_of(backlog) == [ended(number) for number in range(12)]


def test_several_threads_read_each_event_once(tmp_path):
    backlog, got, over = Backlog(tmp_path, max_terminal_events=3), [], threading.Event()

    def read():
        while not over.is_set():
            event = backlog.get(0.01)
            if event is not None:
                got.append(event)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(500):
        backlog.put(ended(number))
    while len(got) < 500:
        over.wait(0.005)
    over.set()
    for reader in readers:
        reader.join()
    assert sorted(event.manifest["number"] for event in got) == list(range(500))


def test_who_waits_is_woken(tmp_path):
    backlog = Backlog(tmp_path)
    threading.Timer(0.05, backlog.put, [told(1)]).start()
    assert backlog.get(10.0) == told(1)
    assert backlog.get(0.0) is None


def test_a_recorder_that_nobody_reads_keeps_each_terminal_event(tmp_path, monkeypatch):
    monkeypatch.setattr(Backlog.__init__, "__kwdefaults__", {"max_events": 5, "max_terminal_events": 2})
    clock = Clock(10.0)
    with Recorder(Settings(tmp_path / "spool", destination=str(tmp_path / "out")), clock=clock) as recorder:
        for number in range(6):
            record(recorder, clock, f"c-{number}", 0.1)
        assert recorder.drain(20.0)
        events = list(recorder.events())
    ended = [event.call_id for event in events if isinstance(event, TakeEnded)]
    assert sorted(ended) == [f"c-{number}" for number in range(6)]
    (lost,) = (event for event in events if isinstance(event, EventsLost))
    assert lost.kinds["RecordingStarted"] >= 1
    assert sum(not isinstance(event, TakeEnded | EventsLost) for event in events) == 5
