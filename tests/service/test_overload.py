"""Admission control: when recordings are refused and accepted again, and that a busy service does so."""

import hashlib
import json
import threading
import time
from itertools import count
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callreel.dialects.chime import Chime
from callreel.errors import UsageError
from callreel.recorder.figures import Strain
from callreel.service import watching
from callreel.service.host import LegWish
from callreel.service.overload import THRESHOLDS, Load, Overload, Threshold
from callreel.service.running import Service
from callreel.service.watching import Watch
from recording_host import packet
from service_host import listening, settings_in, until
from sick_disks import SickOs

IDLE = Load(0.0, 0.0, 0.0)


def at(name, value):
    return IDLE._replace(**{name: value})


def judge_steadily(overload, load, since_s, for_s):
    """One look a second; what the last one says."""
    said = None
    for second in range(round(for_s) + 1):
        said = overload.judge(load, since_s + second)
    return said


# ---- the rules ----


@pytest.mark.parametrize("name", THRESHOLDS)
def test_a_figure_refuses_once_it_has_been_that_much_for_long_enough(name):
    limits, overload = THRESHOLDS[name], Overload()
    load = at(name, limits.refuse_from)
    assert overload.judge(load, 0.0) is None
    assert overload.judge(load, limits.refuse_after_s - 0.01) is None
    assert overload.judge(load, limits.refuse_after_s) == limits.words.format(limits.refuse_from)


@pytest.mark.parametrize("name", THRESHOLDS)
def test_one_look_below_begins_the_time_anew(name):
    limits, overload = THRESHOLDS[name], Overload()
    overload.judge(at(name, limits.refuse_from), 0.0)
    overload.judge(at(name, limits.refuse_from * 0.99), 0.5)
    assert overload.judge(at(name, limits.refuse_from), limits.refuse_after_s) is None


@pytest.mark.parametrize("name", THRESHOLDS)
def test_it_accepts_again_below_the_other_value_and_not_between_the_two(name):
    limits, overload = THRESHOLDS[name], Overload()
    assert judge_steadily(overload, at(name, limits.refuse_from), 0, 10)
    between = (limits.refuse_from + limits.accept_below) / 2
    assert judge_steadily(overload, at(name, between), 11, 100)
    assert judge_steadily(overload, at(name, limits.accept_below), 112, 100)
    below = at(name, limits.accept_below * 0.99)
    assert overload.judge(below, 300.0)
    assert overload.judge(below, 300.0 + limits.accept_after_s - 0.01)
    assert overload.judge(below, 300.0 + limits.accept_after_s) is None


def test_several_reasons_are_told_together_and_each_must_end():
    overload = Overload()
    said = judge_steadily(overload, Load(1.5, 1.0, 0.9), 0, 10)
    assert said == (
        "calls are moved on 1.50 s late; the processor is busy to 100%; "
        "90% of the memory for what waits for the disk is full"
    )
    assert judge_steadily(overload, Load(0.0, 1.0, 0.0), 11, 20) == "the processor is busy to 100%"
    assert judge_steadily(overload, IDLE, 40, 20) is None


LIMITS = Threshold(1.0, 0.5, 2.0, 3.0, "{}")
STEPS = st.lists(st.tuples(st.floats(0.01, 2.0), st.sampled_from([0.0, 0.49, 0.5, 0.75, 0.99, 1.0, 5.0])))


@given(STEPS)
def test_whatever_the_load_does_it_changes_only_after_a_time_of_nothing_but_reasons_to(steps):
    overload, now_s, is_refusing, seen = Overload({"late_s": LIMITS}), 0.0, False, []
    for wait_s, value in steps:
        now_s += wait_s
        seen.append((now_s, value))
        before, is_refusing = is_refusing, overload.judge(at("late_s", value), now_s) is not None
        if is_refusing != before:
            needed_s = LIMITS.refuse_after_s if is_refusing else LIMITS.accept_after_s
            is_reason = [value >= 1.0 if is_refusing else value < 0.5 for _, value in seen]
            run = seen[len(seen) - is_reason[::-1].index(False) :] if False in is_reason else seen
            assert run[-1][0] - run[0][0] >= needed_s
            seen = []


@given(STEPS, st.floats(1.0, 1e6))
def test_a_load_that_stays_beyond_a_value_is_always_acted_upon(steps, value):
    overload, now_s = Overload({"late_s": LIMITS}), 0.0
    for wait_s, other in steps:
        now_s += wait_s
        overload.judge(at("late_s", other), now_s)
    assert judge_steadily(overload, at("late_s", value), now_s + 1, 3)
    assert judge_steadily(overload, IDLE, now_s + 5, 4) is None


@pytest.mark.parametrize(
    ("thresholds", "words"),
    [
        ({"heat": LIMITS}, "heat is not measured"),
        ({"late_s": LIMITS._replace(accept_below=1.0)}, "accept_below is more than 0"),
        ({"late_s": LIMITS._replace(accept_below=0.0)}, "accept_below is more than 0"),
        ({"late_s": LIMITS._replace(refuse_after_s=-1.0)}, "times are not negative"),
    ],
)
def test_a_table_that_would_swing_or_never_end_is_refused(thresholds, words):
    with pytest.raises(UsageError, match=words):
        Overload(thresholds)


# ---- what is measured ----


def test_a_load_is_that_of_the_processors_that_the_process_has_and_of_the_memory_that_waits(monkeypatch):
    clock = SimpleNamespace(monotonic=count(0, 1).__next__, process_time=count(0, 0.5).__next__)
    monkeypatch.setattr(watching, "time", clock)
    monkeypatch.setattr(watching, "LOOK_S", 0.01)
    seen = []
    overload = SimpleNamespace(judge=lambda load, _: seen.append(load))
    watch = Watch(SimpleNamespace(strain=lambda: Strain(0.125, 0.75)), overload, share=2.0)
    try:
        until(lambda: len(seen) >= 3)
    finally:
        watch.close()
    assert set(seen) == {watch.load} == {(0.125, 0.25, 0.75)}


# ---- in a service ----


def load_of(client):
    """What the service says of its load, by figure, and of the memory that audio waits in for the disk."""
    values = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
    figures = {name: float(values[f'callreel_load{{figure="{name}"}}']) for name in Load._fields}
    waiting = [float(values[f"callreel_spool_waiting_{name}"]) for name in ("bytes", "limit_bytes")]
    return figures, waiting[0] / waiting[1]


def is_refused(client, words):
    body = {"call_id": "refused", "legs": [{"media": "none"}], "record": {}}
    assert client.get("/readyz").text.startswith(f"overloaded: {words}")
    refused = client.post("/v1/calls", json=body)
    return (refused.status_code, refused.json()["error"]["code"]) == (503, "no_recordings_now")


def test_a_service_whose_processors_are_busy_refuses_new_recordings(tmp_path):
    """With very little, for others may take most of this machine."""
    limits = Threshold(0.05, 0.01, 0.0, 1000.0, "busy to {:.0%}")
    settings = settings_in(tmp_path, overload={"cpu_share": limits}, operators=frozenset({"acme"}))
    is_over = threading.Event()

    def burn():
        while not is_over.is_set():
            hashlib.pbkdf2_hmac("sha256", b"", b"", 20_000)

    burners = [threading.Thread(target=burn) for _ in range(watching.processors())]
    with listening(Service(settings)) as running:
        client = running.client()
        for one in burners:
            one.start()
        try:
            until(lambda: client.get("/readyz").status_code == 503, 60)
            assert is_refused(client, "busy to ")
            until(lambda: load_of(client)[0]["cpu_share"] >= 0.05, 60)
        finally:
            is_over.set()
            for one in burners:
                one.join()


def test_a_service_whose_disk_stands_still_refuses_new_recordings_until_it_moves(tmp_path, monkeypatch):
    disk = SickOs()
    disk.apply(monkeypatch)
    limits = Threshold(1e-5, 5e-6, 0.0, 0.0, "waiting")
    settings = settings_in(tmp_path, overload={"waiting_share": limits}, operators=frozenset({"acme"}))
    with listening(Service(settings)) as running:
        client, numbers = running.client(), count()
        body = {"legs": [{"media": "none"}], "record": {}}
        assert client.post("/v1/calls", json=body | {"call_id": "c-1"}).status_code == 201
        until(lambda: client.get("/v1/calls/c-1").json()["recordings"] == {"c-1/LEG-A": "recording"})
        call = running.service.recorder.call("c-1")
        disk.moves.clear()
        try:

            def is_refusing():
                call.receive_rtp("LEG-A", packet(next(numbers)))
                return client.get("/readyz").status_code == 503

            until(is_refusing, 60)
            assert is_refused(client, "waiting")

            def is_told():  # what was looked at last is what waits now that nothing comes
                figures, share = load_of(client)
                return figures["waiting_share"] == pytest.approx(share) and share >= 1e-5

            until(is_told, 60)
        finally:
            disk.moves.set()
        until(lambda: client.get("/readyz").text == "ok\n", 60)
        assert client.post("/v1/calls", json=body | {"call_id": "c-2"}).status_code == 201


def test_a_service_whose_calls_are_late_refuses_new_recordings_until_they_are_not(tmp_path):
    overload = {"late_s": Threshold(1.0, 0.9, 0.0, 0.0, "calls are moved on {:.2f} s late")}
    with listening(Service(settings_in(tmp_path, overload=overload))) as running:
        client, recorder = running.client(), running.service.recorder
        body = {"legs": [{"media": "none"}], "record": {}}
        assert client.post("/v1/calls", json=body | {"call_id": "before"}).status_code == 201
        slow = recorder.add_call("slow")
        slow.add_leg()
        with slow._lock:  # nobody can move it on, and so no other
            time.sleep(1.6)
        until(lambda: client.get("/readyz").status_code == 503)
        assert client.get("/readyz").text.startswith("overloaded: calls are moved on 1.")
        refused = client.post("/v1/calls", json=body | {"call_id": "during"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_recordings_now")
        assert client.get("/v1/calls/before").json()["recordings"] == {"before/LEG-A": "recording"}
        until(lambda: client.get("/readyz").text == "ok\n")
        assert client.post("/v1/calls", json=body | {"call_id": "after"}).status_code == 201


def test_a_vendors_customer_is_refused_in_the_vendors_words(tmp_path):
    with listening(Service(settings_in(tmp_path))) as running:
        legs = [LegWish(media="none")]
        call = running.service.host.create("c-1", tenant="acme", legs=legs, dialect=Chime())
        running.service.recorder.refuse("too late")
        where = {"Type": "S3", "Location": "acme-bucket"}
        what = {"CallId": "c-1", "Track": "BOTH", "Destination": where}
        start = {
            "SchemaVersion": "1.0",
            "Actions": [{"Type": "StartCallRecording", "Parameters": what}],
        }
        call.recorded.request(start)

        def failed():
            told = [one.body for one in running.service.stream.since(0).told]
            return [one for one in told if "ACTION_FAILED" in json.dumps(one, default=str)]

        (message,) = until(failed)
        assert message["body"]["ActionData"]["ErrorType"] == "SystemException"
