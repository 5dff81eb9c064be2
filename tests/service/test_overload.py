"""Admission control: when recordings are refused and accepted again, and that a busy service does so."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callreel.dialects.chime import Chime
from callreel.errors import UsageError
from callreel.service.host import LegWish
from callreel.service.overload import THRESHOLDS, Load, Overload, Threshold
from callreel.service.running import Service
from service_host import listening, settings_in, until

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


# ---- in a service ----


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
