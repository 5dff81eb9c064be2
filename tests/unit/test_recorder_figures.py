"""What a recorder says of itself: packets, lateness, takes and lanes, milestones, why it refuses."""

import errno
import math
import os
import time

import pytest

from callreel.actions import StartRecording
from callreel.delivery.folder import Folder
from callreel.dialects.chime import Chime
from callreel.errors import ActionError, DeliveryConflictError
from callreel.recorder import Recorder, Settings
from callreel.recorder.figures import LATENESS_BOUNDS_S, Pace
from callreel.spool import State
from recording_host import Clock, Unreliable, ended, feed, packet, record


@pytest.fixture
def clock():
    return Clock(10.0)


def settings(tmp_path):
    return Settings(tmp_path / "spool", destination=str(tmp_path / "out"))


def wait_for(condition, timeout_s=10.0):
    until = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return found


def test_packets_are_counted_by_fate_while_a_call_goes_on_and_after_it(tmp_path, clock):
    with Recorder(settings(tmp_path), clock=clock) as recorder:
        call = recorder.add_call("c-1")
        call.add_leg()
        feed(call, clock, 0.5)
        call.receive_rtp("LEG-A", packet(24))  # once more
        assert recorder.figures().calls == 1
        assert recorder.figures().packets["received"] == 51
        assert recorder.figures().packets["duplicate"] == 1
        call.end()
        wait_for(lambda: recorder.figures().calls == 0)
        assert recorder.figures().packets["received"] == 51


def test_a_level_is_that_of_the_latest_audio_and_of_nothing_once_it_stays_away(tmp_path, clock):
    with Recorder(settings(tmp_path), clock=clock) as recorder:
        call = recorder.add_call("c-1")
        call.add_leg()
        assert call.levels() == {"LEG-A": {"incoming": -math.inf, "outgoing": -math.inf}}
        feed(call, clock, 1.0)
        loud = call.levels()["LEG-A"]
        assert all(-30 < level < 6 for level in loud.values())
        clock.sleep_until(clock() + 2.0)
        assert set(call.levels()["LEG-A"].values()) == {-math.inf}


def test_takes_are_listed_with_their_state_and_labels_and_lanes_with_what_waits(tmp_path, clock):
    store = Unreliable(tmp_path / "out", is_down=True)
    with Recorder(
        Settings(tmp_path / "spool"), store_for=lambda destination, key: (store, key), clock=clock
    ) as recorder:
        call = recorder.add_call("c-1", labels={"tenant": "acme"})
        call.add_leg()
        call.start_recording(StartRecording())
        feed(call, clock, 0.5)
        (running,) = wait_for(lambda: recorder.figures().takes)
        assert (running.call_id, running.state, running.labels) == ("c-1", State.RUNNING, {"tenant": "acme"})
        before_s = time.time()
        call.end()
        (lane,) = wait_for(lambda: recorder.figures().lanes.values())
        assert lane.entries == 1
        assert before_s - 1 <= lane.oldest_s <= time.time()
        (waiting,) = recorder.figures().takes
        assert (waiting.take_id, waiting.state) == (running.take_id, State.DELIVERABLE)
        assert waiting.key.endswith(".wav")


def test_what_took_its_time_is_observed_in_order(tmp_path, clock):
    seen = []
    with Recorder(settings(tmp_path), clock=clock, observe=seen.append) as recorder:
        record(recorder, clock, "c-1", 1.0)
        (event,) = ended(recorder)
        assert recorder.drain(5.0)
    assert [one.what for one in seen] == ["recording", "make", "deliver"]
    assert {one.id for one in seen} == {event.take_id}
    assert {one.call_id for one in seen} == {"c-1"}
    assert all(one.began_s <= one.ended_s and one.error_class is None for one in seen)
    assert seen[0].ended_s - seen[0].began_s == pytest.approx(event.manifest["duration"])
    assert seen[2].lane


def test_a_delivery_that_fails_is_observed_with_its_class_and_whether_it_is_tried_again(tmp_path, clock):
    class Taken(Folder):
        def deliver(self, parcel):
            raise DeliveryConflictError("something else is there", key=parcel.key)

    seen = []
    store = Taken(tmp_path / "out")
    with Recorder(
        Settings(tmp_path / "spool"),
        store_for=lambda destination, key: (store, key),
        clock=clock,
        observe=seen.append,
    ) as recorder:
        record(recorder, clock, "c-1", 0.5)
        wait_for(lambda: len(seen) == 3)
    assert (seen[2].what, seen[2].error_class, seen[2].is_given_up) == ("deliver", "conflict", True)
    assert "something else is there" in seen[2].error


def test_an_observer_that_fails_costs_nothing_but_its_observations(tmp_path, clock):
    def fails(milestone):
        raise RuntimeError("no")

    with Recorder(settings(tmp_path), clock=clock, observe=fails) as recorder:
        record(recorder, clock, "c-1", 0.5)
        (event,) = ended(recorder)
        assert event.error is None


def test_an_overload_refuses_what_is_new_in_calls_old_and_new_and_lets_the_rest_go_on(tmp_path, clock):
    with Recorder(settings(tmp_path), clock=clock) as recorder:
        running, waiting = recorder.add_call("running"), recorder.add_call("waiting")
        for call in (running, waiting):
            call.add_leg()
        running.start_recording(StartRecording())
        recorder.refuse("calls are moved on 0.6 s late")
        late = recorder.add_call("late")
        late.add_leg()
        for call in (waiting, late):
            with pytest.raises(ActionError, match="too much is recorded already") as refused:
                call.start_recording(StartRecording())
            assert refused.value.field == "system"
        assert recorder.obstacles() == ["overloaded: calls are moved on 0.6 s late"]
        assert not recorder.is_accepting
        feed(running, clock, 0.5)
        running.end()
        (event,) = ended(recorder)
        assert (event.call_id, event.error) == ("running", None)
        recorder.refuse(None)
        assert recorder.is_accepting
        waiting.start_recording(StartRecording())


def test_a_recorder_that_drains_says_so_although_an_overload_is_over(tmp_path, clock):
    with Recorder(settings(tmp_path), clock=clock) as recorder:
        call = recorder.add_call("c-1")
        call.add_leg()
        recorder.refuse("busy")
        assert recorder.drain(5.0)
        recorder.refuse(None)
        assert recorder.obstacles() == ["it drains"]
        with pytest.raises(ActionError, match="no recordings are begun any more"):
            call.start_recording(StartRecording())


def test_lateness_falls_into_the_first_bound_that_holds_it():
    pace = Pace()
    for late_s in (-1.0, 0.0, 0.005, 0.006, 0.5, 60.0):
        pace.add(late_s, 1)
    counts = dict(zip([*LATENESS_BOUNDS_S, math.inf], pace.lateness.counts, strict=True))
    assert {bound: count for bound, count in counts.items() if count} == {
        0.005: 3,
        0.01: 1,
        0.5: 1,
        math.inf: 1,
    }
    assert pace.lateness.total_s == pytest.approx(60.511)
    assert pace.take_worst_s() == 60.0
    assert pace.take_worst_s() == 0.0


def test_calls_that_are_moved_on_are_on_time(tmp_path):
    with Recorder(settings(tmp_path)) as recorder:
        recorder.add_call("c-1").add_leg()
        wait_for(lambda: sum(recorder.figures().lateness.counts) >= 3)
        assert 0 < recorder.strain().late_s < 5
        assert recorder.strain().waiting_share < 0.1


def test_what_is_logged_of_a_call_names_it_beside_its_text(tmp_path, clock, caplog):
    store = Unreliable(tmp_path / "out", is_down=True)
    with Recorder(
        Settings(tmp_path / "spool"), store_for=lambda destination, key: (store, key), clock=clock
    ) as recorder:
        record(recorder, clock, "c-1", 0.5)
        wait_for(lambda: [one for one in caplog.records if "failed" in one.getMessage()])
    (first, *_) = [one for one in caplog.records if "failed" in one.getMessage()]
    assert (first.call_id, first.lane) == ("c-1", store.lane)


def test_what_is_logged_where_the_hosts_functions_fail_names_the_call_and_its_take(tmp_path, clock, caplog):
    def fails(*_):
        raise LookupError("nobody")

    with Recorder(Settings(tmp_path / "spool"), store_for=fails, notifier_for=fails, clock=clock) as recorder:
        call = recorder.add_call("c-1", dialect=Chime())
        call.add_leg(call_id="c-1", status="offered")
        call.answered("LEG-A")
        call.start_recording(StartRecording())
        feed(call, clock, 0.3)
        call.end()
        wait_for(lambda: "nobody knows where take" in caplog.text)
        (take_id,) = [one.take_id for one in recorder.takes()]
    told = [one for one in caplog.records if one.name == "callreel.recorder"]
    whom = [one for one in told if one.getMessage().startswith("nobody knows whom")]
    where = [one for one in told if one.getMessage().startswith("nobody knows where")]
    assert {one.call_id for one in whom} == {one.call_id for one in where} == {"c-1"}
    assert {one.take_id for one in where} == {take_id}


def test_what_is_done_but_cannot_be_noted_is_logged_with_its_call(tmp_path, clock, caplog, monkeypatch):
    with Recorder(settings(tmp_path), clock=clock) as recorder:
        queue = recorder._office._despatch._queue
        done = queue.done

        def refuses(*arguments, **options):
            monkeypatch.setattr(queue, "done", done)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(queue, "done", refuses)
        record(recorder, clock, "c-1", 0.3)
        ended(recorder)
        wait_for(lambda: "is done, but not in the queue" in caplog.text)
    (told,) = [one for one in caplog.records if "is done, but not in the queue" in one.getMessage()]
    assert (told.call_id, told.lane) == ("c-1", Folder(tmp_path / "out").lane)
