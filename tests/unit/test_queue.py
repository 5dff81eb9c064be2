"""The delivery queue: its folder, its verbs, its patience, and that no crash loses anything."""

import errno
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest

from callreel import cli
from callreel.delivery import breaker, queue
from callreel.delivery.breaker import TRANSITIONS, Breaker, Sign, State
from callreel.delivery.error_classes import (
    DAY_S,
    LEAST_ATTEMPTS,
    LONGEST_RETRY_AFTER_S,
    RETRIES,
    TOLD,
    ErrorClass,
    class_of,
    delay_s,
    patience_asked_s,
    text_of,
)
from callreel.delivery.queue import LOOK_EVERY_S, Queue
from callreel.delivery.queue_files import (
    AGAIN,
    DAMAGED,
    DEAD,
    WAITING,
    Record,
    drop,
    file_name,
    standing,
    try_again,
)
from callreel.delivery.schedule import Item, Schedule
from callreel.dialects.chime import Chime
from callreel.dialects.graph import Graph
from callreel.dialects.sinch import Sinch
from callreel.errors import (
    DeliveryConflictError,
    DeliveryDeniedError,
    DeliveryError,
    DeliveryInterruptedError,
    DeliveryThrottledError,
    DestinationMissingError,
    UsageError,
)
from dialogue import FOLDER, Dialogue
from lossy_disk import LossyDisk, PowerLossError
from markdown_text import code_spans, section, table
from project import ROOT

T = 1_700_000_000.0
PAGE = (ROOT / "docs" / "queue.md").read_text("utf-8")
LOST = DeliveryInterruptedError("the connection was lost")
DENIED = DeliveryDeniedError("Access Denied")
TAKEN = DeliveryConflictError("something else has that key")


def opened(folder, *, now_s=T, **options):
    return Queue(folder, now_s=now_s, **{"random": lambda: 1.0, **options})


@pytest.fixture
def a_queue(tmp_path):
    with opened(tmp_path / "queue") as one:
        yield one


def put(into, *ids, lane="s3://bucket", group="call", ordered=False, now_s=T, payload=None):
    for entry_id in ids:
        into.put(entry_id, lane=lane, group=group, ordered=ordered, payload=payload or {}, now_s=now_s)


def leased(of, now_s=T):
    """The ids of all that may go now."""
    found = []
    while (entry := of.lease(now_s)) is not None:
        found.append(entry.id)
    return found


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.json*"))


# ---- the folder --------------------------------------------------------------------------------------------


def test_the_folder_explains_itself(tmp_path):
    folder = tmp_path / "queue"
    with opened(folder) as one:
        put(one, "call-1.stored", "a/ü b", "call-2.stored")
        one.lease(T)
        one.retry("call-1.stored", TAKEN, T)
        assert (folder / "lock").read_text() == f"{os.getpid()}\n"
    assert sorted(path.name for path in folder.iterdir()) == ["again", "damaged", "dead", "lock", "waiting"]
    assert files(folder) == [
        "dead/000000000001-call-1.stored.json",
        "waiting/000000000002-a%2F%C3%BC%20b.json",
        "waiting/000000000003-call-2.stored.json",
    ]


def test_an_entry_holds_the_members_of_the_page(a_queue):
    put(a_queue, "one", payload={"key": "ключ"})
    (path,) = (a_queue.folder / WAITING).iterdir()
    told = [name for row in table(PAGE, "member") for name in code_spans(row[0])]
    document = json.loads(path.read_bytes())
    assert sorted(document) == sorted(told)
    assert document["payload"] == {"key": "ключ"}


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_the_files_are_for_their_owner_alone(a_queue):
    put(a_queue, "one")
    everything = [a_queue.folder, *a_queue.folder.rglob("*")]
    assert [path.stat().st_mode & 0o077 for path in everything] == [0] * 7


def test_a_second_process_is_refused_and_told_which_has_it(a_queue):
    with pytest.raises(UsageError, match=f"the queue {a_queue.folder} is in use by process {os.getpid()}"):
        opened(a_queue.folder)
    a_queue.close()
    a_queue.close()
    opened(a_queue.folder).close()


@pytest.mark.parametrize("entry_id", ["", "x" * 201, "\ud800"])
def test_what_cannot_be_the_name_of_a_file_is_no_id(a_queue, entry_id):
    with pytest.raises(UsageError, match="is no id"):
        put(a_queue, entry_id)
    assert len(a_queue) == 0
    assert files(a_queue.folder) == []


@pytest.mark.parametrize("payload", [{"x": object()}, {"x": float("nan")}, {"x": b""}])
def test_a_payload_that_is_no_json_is_refused_without_being_shown(a_queue, payload):
    with pytest.raises(UsageError, match="the payload of one is no JSON"):
        put(a_queue, "one", payload=payload)
    assert files(a_queue.folder) == []


@pytest.mark.parametrize("wrong", [{"lane": 7}, {"now_s": 1e300}, {"payload": [1]}, {"ordered": None}])
def test_what_could_not_be_read_back_is_not_taken(a_queue, wrong):
    with pytest.raises(UsageError, match="could not be read back"):
        a_queue.put("a", **{"lane": "x", "group": "g", "payload": {}, "now_s": T, **wrong})
    assert files(a_queue.folder) == []


def test_a_lane_that_would_never_be_served_is_refused(tmp_path):
    with pytest.raises(UsageError):
        opened(tmp_path, lane_limits={"x": 0})


# ---- the four verbs ----------------------------------------------------------------------------------------


def test_what_was_put_is_leased_with_its_payload_in_the_order_it_came(a_queue):
    put(a_queue, "a", "b", payload={"n": [1]})
    entry = a_queue.lease(T)
    assert (entry.id, entry.lane, entry.group, entry.ordered) == ("a", "s3://bucket", "call", False)
    assert (entry.payload, entry.put_s, entry.attempts, entry.error_class) == ({"n": [1]}, T, 0, None)
    assert "[1]" not in repr(entry)
    assert a_queue.lease(T).id == "b"
    assert a_queue.lease(T) is None


def test_an_id_is_put_once(a_queue):
    put(a_queue, "a")
    assert not a_queue.put("a", lane="other", group="g", payload={}, now_s=T)
    entry = a_queue.lease(T)
    assert entry.lane == "s3://bucket"
    assert not a_queue.put("a", lane="other", group="g", payload={}, now_s=T)
    a_queue.retry("a", TAKEN, T)
    assert not a_queue.put("a", lane="other", group="g", payload={}, now_s=T)
    assert a_queue.is_dead("a")
    assert len(a_queue) == 0


def test_done_twice_is_done_once_and_also_without_a_lease(a_queue):
    put(a_queue, "a", "b")
    a_queue.lease(T)
    for entry_id in ("a", "a", "b", "never put"):
        a_queue.done(entry_id)
    assert len(a_queue) == 0
    assert files(a_queue.folder) == []
    assert a_queue.put("a", lane="x", group="g", payload={}, now_s=T)


def test_only_what_is_leased_can_be_retried(a_queue):
    put(a_queue, "a")
    for entry_id in ("a", "never put"):
        with pytest.raises(UsageError, match="is not leased"):
            a_queue.retry(entry_id, LOST, T)


def test_what_a_dead_process_had_leased_is_due(tmp_path):
    with opened(tmp_path) as one:
        put(one, "a")
        assert leased(one) == ["a"]
    with opened(tmp_path) as two:
        assert leased(two) == ["a"]


def test_numbers_go_on_where_they_were(tmp_path):
    with opened(tmp_path) as one:
        put(one, "a", "b")
        one.lease(T)
        one.lease(T)
        one.retry("b", TAKEN, T)
    with opened(tmp_path) as two:
        put(two, "c")
    assert files(tmp_path)[-1] == "waiting/000000000003-c.json"


def test_next_due_is_when_lease_gives_something_and_a_few_seconds_ahead_at_most(a_queue):
    assert a_queue.next_due(T) == T + LOOK_EVERY_S
    put(a_queue, "a")
    assert a_queue.next_due(T) == T
    a_queue.lease(T)
    assert a_queue.next_due(T + 1) == T + LOOK_EVERY_S
    due = a_queue.retry("a", LOST, T + 1)
    assert due == T + 2
    assert a_queue.next_due(T + 1) == due
    assert a_queue.lease(due - 0.001) is None
    assert a_queue.lease(due).attempts == 1


# ---- order, lanes, limits ----------------------------------------------------------------------------------


def test_ordered_entries_of_a_group_go_one_after_the_other_and_others_do_not_wait(a_queue):
    put(a_queue, "a1", "a2", group="a", ordered=True)
    put(a_queue, "b1", group="b", ordered=True)
    put(a_queue, "a3", group="a", ordered=False)
    assert leased(a_queue) == ["a1", "b1", "a3"]
    due = a_queue.retry("a1", LOST, T)
    assert leased(a_queue, due - 0.01) == []
    assert leased(a_queue, due) == ["a1"]
    a_queue.done("a1")
    assert leased(a_queue, due) == ["a2"]


def test_entries_are_ordered_unless_said_otherwise(a_queue):
    for entry_id in "ab":
        a_queue.put(entry_id, lane="x", group="g", payload={}, now_s=T)
    assert leased(a_queue) == ["a"]


def test_a_dead_letter_lets_the_next_of_its_group_go_and_comes_before_those_left(a_queue):
    put(a_queue, "1", "2", "3", "4", group="a", ordered=True)
    assert leased(a_queue) == ["1"]
    a_queue.retry("1", TAKEN, T)
    assert leased(a_queue) == ["2"]
    assert try_again(a_queue.folder, a_queue.folder / DEAD / file_name(1, "1"))
    later = T + LOOK_EVERY_S
    assert leased(a_queue, later) == []
    a_queue.done("2")
    assert leased(a_queue, later) == ["1"]


def test_a_dead_letter_that_comes_back_comes_before_the_one_that_was_next(a_queue):
    put(a_queue, "1", "2", group="a", ordered=True)
    a_queue.lease(T)
    a_queue.retry("1", TAKEN, T)
    assert a_queue.next_due(T) == T
    assert try_again(a_queue.folder, a_queue.folder / DEAD / file_name(1, "1"))
    assert leased(a_queue, T + LOOK_EVERY_S) == ["1"]
    a_queue.done("1")
    assert leased(a_queue, T + LOOK_EVERY_S) == ["2"]


def test_order_is_kept_across_lanes_and_a_restart(tmp_path):
    with opened(tmp_path) as one:
        put(one, "1", lane="x", ordered=True)
        put(one, "2", lane="y", ordered=True)
        assert leased(one) == ["1"]
        due = one.retry("1", LOST, T)
    with opened(tmp_path) as two:
        assert leased(two) == []
        assert leased(two, due) == ["1"]


def test_of_a_lane_only_so_many_are_on_their_way(tmp_path):
    with opened(tmp_path, lane_limit=2, lane_limits={"one": 1}) as a_queue:
        put(a_queue, "a", "b", lane="one")
        put(a_queue, "c", "d", "e", lane="two")
        assert sorted(leased(a_queue)) == ["a", "c", "d"]
        assert a_queue.next_due(T) == T + LOOK_EVERY_S
        a_queue.done("c")
        assert leased(a_queue) == ["e"]
        a_queue.retry("a", LOST, T)
        assert leased(a_queue) == ["b"]


def test_lanes_take_turns_however_much_one_of_them_has(tmp_path):
    with opened(tmp_path, lane_limit=100) as a_queue:
        put(a_queue, *(f"a{n}" for n in range(50)), lane="a")
        put(a_queue, "b1", "b2", lane="b", now_s=T + 1)
        got = [a_queue.lease(T + 1).id for _ in range(4)]
        assert sorted(got) == ["a0", "a1", "b1", "b2"]


def break_lane(a_queue, now_s=T, lane="s3://dead"):
    put(a_queue, *(f"x{n}" for n in range(10)), lane=lane)
    for n in range(5):
        assert a_queue.lease(now_s).id == f"x{n}"
        a_queue.retry(f"x{n}", LOST, now_s)


def test_a_lane_that_fails_five_times_rests_and_delays_no_other(a_queue):
    break_lane(a_queue)
    assert a_queue.lease(T) is None
    assert a_queue.next_due(T) == T + 5
    put(a_queue, "other", lane="s3://alive")
    assert leased(a_queue) == ["other"]


def test_after_its_rest_one_entry_shows_how_things_are(a_queue):
    break_lane(a_queue)
    (probe,) = leased(a_queue, T + 5)
    a_queue.retry(probe, LOST, T + 5)
    assert leased(a_queue, T + 5 + 9.9) == []
    (probe,) = leased(a_queue, T + 5 + 10)
    a_queue.done(probe)
    assert len(leased(a_queue, T + 15)) == 4


def test_what_was_under_way_before_a_lane_rested_does_not_fail_its_trial(a_queue):
    put(a_queue, "a", "b", "c", "d", "e")
    assert leased(a_queue) == ["a", "b", "c", "d"]
    patience = DeliveryThrottledError("slow down", retry_after_s=10)
    a_queue.retry("a", patience, T)
    a_queue.retry("b", LOST, T)
    assert leased(a_queue, T + 9) == []
    assert leased(a_queue, T + 10) == ["e"]
    a_queue.retry("c", LOST, T + 10)
    a_queue.retry("d", patience, T + 10)
    assert leased(a_queue, T + 11) == []
    a_queue.retry("e", LOST, T + 100)
    assert leased(a_queue, T + 109) == []
    assert leased(a_queue, T + 110) == ["b"]
    a_queue.done("b")
    assert sorted(leased(a_queue, T + 110)) == ["a", "c", "d", "e"]


def test_what_is_the_entrys_own_fault_does_not_break_its_lane(a_queue):
    put(a_queue, *(f"x{n}" for n in range(10)), lane="s3://odd")
    for n in range(9):
        assert a_queue.lease(T).id == f"x{n}"
        a_queue.retry(f"x{n}", TAKEN if n % 2 else DeliveryError("odd"), T)
    assert a_queue.lease(T).id == "x9"


def test_a_lane_that_asks_for_patience_rests_as_a_whole_and_its_entry_longer(a_queue):
    put(a_queue, "a", "b")
    a_queue.lease(T)
    assert a_queue.retry("a", DeliveryThrottledError("slow down", retry_after_s=120), T) == T + 120 + 1
    assert leased(a_queue, T + 119) == []
    assert leased(a_queue, T + 120) == ["b"]


def test_every_state_and_sign_of_the_breaker_leads_where_the_table_says():
    signs = {
        Sign.WORKED: lambda one: one.worked(),
        Sign.FAILED: lambda one: one.failed(T, lambda: 1.0),
        Sign.TRIPPED: lambda one: one.failed(T, lambda: 1.0, asked_s=1.0),
        Sign.RESTED: lambda one: one.rested(),
    }
    for state, row in TRANSITIONS.items():
        for sign, after in row.items():
            one = Breaker()
            one.state = state
            signs[sign](one)
            assert one.state is after, (state, sign)


def test_rests_double_up_to_the_longest_and_begin_anew_when_it_worked():
    one, rests = Breaker(), []
    for _ in range(breaker.BORNE - 1):
        one.failed(T, lambda: 1.0)
    for _ in range(9):
        one.failed(T, lambda: 1.0)
        rests.append(one.rests_until_s - T)
        one.rested()
    assert rests == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    one.worked()
    one.failed(T, lambda: 0.0, asked_s=1.0)
    assert one.rests_until_s - T == 2.5


def test_lanes_that_have_nothing_left_are_forgotten():
    schedule = Schedule(now_s=T, limit=4, limits={})
    for n in range(2000):
        schedule.add(Item(str(n), n, lane=str(n), group=str(n), ordered=True, due_s=T + n))
        schedule.worked(schedule.take(T + n))
    assert len(schedule._lanes) <= 256
    assert len(schedule._later) + len(schedule._now) <= 4 * 256 + 64
    assert len(schedule._groups) == 0


# ---- patience ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DeliveryDeniedError("x"), ErrorClass.DENIED),
        (DestinationMissingError("x"), ErrorClass.MISSING),
        (DeliveryThrottledError("x"), ErrorClass.THROTTLED),
        (DeliveryInterruptedError("x"), ErrorClass.INTERRUPTED),
        (DeliveryConflictError("x"), ErrorClass.CONFLICT),
        (DeliveryConflictError("two at once", retryable=True), ErrorClass.INTERRUPTED),
        (DeliveryError("x"), ErrorClass.OTHER),
        (ConnectionResetError(), ErrorClass.INTERRUPTED),
        (TimeoutError(), ErrorClass.INTERRUPTED),
        (PermissionError(), ErrorClass.OTHER),
        (ZeroDivisionError(), ErrorClass.OTHER),
    ],
)
def test_every_error_has_a_class(error, kind):
    assert class_of(error) is kind


def test_delays_are_random_below_a_bound_that_grows_to_the_longest():
    policy = RETRIES[ErrorClass.INTERRUPTED]
    bounds = [delay_s(policy, failures, lambda: 1.0) for failures in range(1, 13)]
    assert bounds == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]
    assert delay_s(policy, 5, lambda: 0.0) == 0
    assert delay_s(policy, 5, lambda: 0.25) == 4
    assert delay_s(policy, 100_000, lambda: 1.0) == 600


@pytest.mark.parametrize(
    ("asked", "given"),
    [(None, 0), (7.5, 7.5), (-1, 0), (float("nan"), 0), (float("inf"), DAY_S), (1e9, DAY_S)],
)
def test_patience_is_given_as_asked_up_to_a_day(asked, given):
    assert patience_asked_s(DeliveryThrottledError("x", retry_after_s=asked)) == given
    assert LONGEST_RETRY_AFTER_S == DAY_S


@pytest.mark.parametrize(
    "error", [DENIED, DestinationMissingError("x"), DeliveryThrottledError("x"), LOST, DeliveryError("x")]
)
def test_an_entry_is_given_up_when_its_budget_is_spent(tmp_path, error):
    budget_s = RETRIES[class_of(error)].budget_days * DAY_S
    disk = LossyDisk()
    a_queue = opened(tmp_path, disk=disk)
    put(a_queue, "a")
    now, tries = T, 0
    while True:
        assert a_queue.lease(now).attempts == tries
        tries += 1
        due = a_queue.retry("a", error, now)
        if due is None:
            break
        assert now < T + budget_s
        now = max(due, a_queue.next_due(due))
        while a_queue.next_due(now) > now:
            now = a_queue.next_due(now)
    assert (
        T + budget_s
        <= now
        <= T + budget_s + RETRIES[class_of(error)].longest_delay_s + breaker.LONGEST_REST_S
    )
    assert a_queue.is_dead("a")
    (dead,) = standing(tmp_path, [DEAD], disk=disk)
    assert (dead.record.error_class, dead.record.error, dead.record.attempts) == (
        class_of(error),
        str(error),
        tries,
    )
    a_queue.close()


def test_nothing_is_given_up_before_its_fifth_failure_however_long_nobody_tried(a_queue):
    put(a_queue, "a")
    now = T
    for n in range(1, LEAST_ATTEMPTS + 1):
        assert a_queue.lease(now).id == "a"
        assert (a_queue.retry("a", LOST, now) is None) == (n == LEAST_ATTEMPTS)
        now += 100 * DAY_S


def fail(a_queue, times, now_s):
    """Let the one entry fail so often, and go on until it may go again; returns the time and what the last one said."""
    for _ in range(times):
        while (entry := a_queue.lease(now_s)) is None:
            assert len(a_queue) == 1
            now_s = a_queue.next_due(now_s)
        due = a_queue.retry(entry.id, LOST, now_s)
    return now_s, due


def test_a_dead_letter_that_is_tried_again_has_all_its_time_again(a_queue):
    put(a_queue, "a")
    fail(a_queue, 4, T)
    now, due = fail(a_queue, 1, T + 8 * DAY_S)
    assert due is None
    assert try_again(a_queue.folder, a_queue.folder / DEAD / file_name(1, "a"))
    now, due = fail(a_queue, 10, now + LOOK_EVERY_S)
    assert due is not None
    assert fail(a_queue, 1, now + 8 * DAY_S)[1] is None


def test_the_budget_of_an_entry_does_not_wait_for_a_clock_that_was_set_back(a_queue):
    put(a_queue, "a")
    fail(a_queue, 5, T)
    early = T - 10 * DAY_S
    a_queue.next_due(early)
    assert fail(a_queue, 1, early + 6 * DAY_S)[1] is not None
    assert fail(a_queue, 1, early + 8 * DAY_S)[1] is None


def test_a_conflict_is_given_up_at_once(a_queue):
    put(a_queue, "a")
    a_queue.lease(T)
    assert a_queue.retry("a", TAKEN, T) is None


def test_an_entry_that_lacked_something_can_be_woken(a_queue):
    put(a_queue, "a", "b", group="g", ordered=True)
    a_queue.wake("a", T)
    a_queue.wake("never put", T)
    a_queue.lease(T)
    a_queue.wake("a", T)
    assert leased(a_queue) == []
    a_queue.retry("a", DENIED, T)
    assert a_queue.next_due(T) > T
    a_queue.wake("b", T)
    assert leased(a_queue) == []
    a_queue.wake("a", T + 1)
    assert leased(a_queue, T + 1) == ["a"]


def test_the_state_of_an_entry_outlives_its_process(tmp_path):
    with opened(tmp_path) as one:
        put(one, "a", payload={"x": 1})
        one.lease(T)
        due = one.retry("a", DENIED, T)
    with opened(tmp_path) as two:
        assert two.lease(due - 0.01) is None
        entry = two.lease(due)
        assert (entry.attempts, entry.error_class, entry.error) == (1, ErrorClass.DENIED, "Access Denied")
        assert entry.payload == {"x": 1}
        assert two.retry("a", DENIED, due) == due + 60


def test_of_errors_that_are_not_ours_no_text_is_kept():
    assert text_of(ValueError("https://user:hunter2@host")) == "ValueError"
    assert (
        text_of(OSError(errno.ENOSPC, "No space left on device", "secret"))
        == "OSError: No space left on device"
    )
    assert text_of(DeliveryError("x" * 1000)) == "x" * 499 + "…"


def test_an_entry_does_not_wait_for_a_clock_that_was_set_back(tmp_path):
    with opened(tmp_path) as one:
        put(one, "a", "b")
        one.lease(T)
        one.lease(T)
        one.retry("a", DeliveryThrottledError("x", retry_after_s=100), T)
        early = T - 10 * DAY_S
        assert one.lease(early) is None
        assert leased(one, early + 101) == ["a"]
    with opened(tmp_path, now_s=early) as two:
        assert sorted(leased(two, early)) == ["a", "b"]


# ---- what is wrong with files ------------------------------------------------------------------------------


WHOLE = Record("x", "lane", "group", True, T, T, payload={"a": 1}).to_bytes()
DAMAGE = {
    "empty": b"",
    "zeros": bytes(200),
    "cut short": WHOLE[:-20],
    "no object": b"[1]",
    "no text": b"\xff\xfe\x00",
    "nested deeply": b"[" * 100_000,
    "another version": WHOLE.replace(b'"version": 1', b'"version": 2'),
    "a member missing": WHOLE.replace(b'"lane"', b'"line"'),
    "a text for a number": WHOLE.replace(b'"attempts": 0', b'"attempts": "0"'),
    "a truth for a number": WHOLE.replace(b'"attempts": 0', b'"attempts": true'),
    "no number": WHOLE.replace(b'"failed_s": null', b'"failed_s": NaN'),
    "an endless number": WHOLE.replace(b'"failed_s": null', b'"failed_s": 1e999'),
    "a huge number": WHOLE.replace(b'"attempts": 0', b'"attempts": 1' + b"0" * 400),
    "another class": WHOLE.replace(b'"error_class": null', b'"error_class": "odd"'),
    "another id": WHOLE.replace(b'"id": "x"', b'"id": "y"'),
    "no payload": WHOLE.replace(b'{"a": 1}', b"null"),
}


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("when", ["at the start", "while it runs", "again"])
def test_a_damaged_file_is_set_aside_and_told_and_all_else_goes_on(tmp_path, content, when):
    assert content != WHOLE
    with opened(tmp_path) as one:
        put(one, "x", "good")
        path = tmp_path / WAITING / file_name(1, "x")
        if when == "again":
            path = path.rename(tmp_path / AGAIN / path.name)
        path.write_bytes(content)
        if when == "while it runs":
            assert leased(one) == ["good"]
            (problem,) = one.problems()
    if when != "while it runs":
        with opened(tmp_path) as two:
            assert leased(two) == ["good"]
            (problem,) = two.problems()
            assert "x" not in two
    assert problem.path == path
    assert problem.text.startswith("set aside in damaged: ")
    assert (tmp_path / DAMAGED / path.name).read_bytes() == content
    with opened(tmp_path) as three:
        put(three, "next")
        assert (len(three), three.problems()) == (2, [])
        assert (tmp_path / WAITING / file_name(3, "next")).exists()


def test_files_with_other_names_are_set_aside_or_left_alone(tmp_path):
    opened(tmp_path).close()
    (tmp_path / WAITING / "notes.txt").write_text("keep")
    (tmp_path / WAITING / "odd.json").write_bytes(WHOLE)
    (tmp_path / WAITING / (file_name(7, "x") + ".part")).write_bytes(WHOLE[:10])
    (tmp_path / WAITING / file_name(1, "x")).write_bytes(WHOLE)
    (tmp_path / WAITING / file_name(2, "x")).write_bytes(WHOLE)
    with opened(tmp_path) as one:
        assert leased(one) == ["x"]
        assert [problem.path.name for problem in one.problems()] == [file_name(2, "x"), "odd.json"]
    assert sorted(path.name for path in (tmp_path / WAITING).iterdir()) == [file_name(1, "x"), "notes.txt"]


def test_a_file_that_has_vanished_is_told_and_forgotten(a_queue):
    put(a_queue, "a", "b", ordered=True)
    (a_queue.folder / WAITING / file_name(1, "a")).unlink()
    assert leased(a_queue) == ["b"]
    (problem,) = a_queue.problems()
    assert "vanished" in problem.text
    assert "a" not in a_queue


def test_a_file_that_the_disk_does_not_give_is_tried_again_and_all_else_goes_on(tmp_path):
    class Bad(LossyDisk):
        def read(self, path):
            if path.name.endswith("-bad.json") and self.is_bad:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(path)

    disk = Bad()
    disk.is_bad = True
    with opened(tmp_path, disk=disk) as one:
        put(one, "bad", "good")
        assert leased(one) == ["good"]
        assert "tried again" in one.problems()[0].text
        disk.is_bad = False
        assert leased(one, T + 59) == []
        assert leased(one, T + 60) == ["bad"]


def test_a_full_disk_keeps_nothing_from_being_tried_again(tmp_path):
    disk = LossyDisk()
    with opened(tmp_path, disk=disk, lane_limit=10) as one:
        put(one, "a", "b")
        leased(one)
        disk.error, disk.for_good, disk.fail_at = errno.ENOSPC, True, 1
        assert one.retry("a", LOST, T) == T + 1
        assert one.retry("b", TAKEN, T) == T + 3600
        disk.start()
        assert len(one.problems()) == 2
        assert leased(one, T + 3600) == ["a", "b"]
        assert one.retry("b", TAKEN, T + 3600) is None


# ---- crashes -----------------------------------------------------------------------------------------------


def state_of(folder, disk):
    """All that lies there: folder and number of failures of each id."""
    return {
        one.record.id: (one.state, one.record.failures)
        for one in standing(folder, disk=disk)
        if one.record is not None
    }


def act_put(one):
    put(one, "new")


def act_done(one):
    one.done("waits")


@pytest.mark.parametrize("seed", range(8))
def test_what_a_start_finds_gone_does_not_come_back_when_the_power_fails(tmp_path, seed):
    disk = LossyDisk(seed)
    options = {"now_s": T, "random": lambda: 0.5, "disk": disk}
    first = Queue(tmp_path / "queue", **options)
    first.put("one", lane="s3://bucket", group="call", payload={}, now_s=T)
    assert first.lease(T).id == "one"
    disk.error, disk.fail_at = errno.EIO, 2  # the file is removed, and that is not made last
    with pytest.raises(OSError, match="Input/output"):
        first.done("one")
    first.close()
    disk.start()
    second = Queue(tmp_path / "queue", **options)
    assert "one" not in second
    second.close()
    disk.lose_power()
    disk.start()
    third = Queue(tmp_path / "queue", **options)
    assert "one" not in third
    third.close()


def act_put_not_lasting(one):
    one.put("new", lane="s3://bucket", group="call", ordered=False, payload={}, now_s=T, lasting=False)


def act_done_not_lasting(one):
    one.done("waits", lasting=False)


def act_retry(one):
    one.retry("waits", LOST, T)


def act_bury(one):
    one.retry("waits", TAKEN, T)


def act_again(one):
    one.lease(T + LOOK_EVERY_S)


OLD = {"waits": (WAITING, 0), "given up": (AGAIN, 1)}
ACTS = {
    "put": (act_put, OLD | {"new": (WAITING, 0)}),
    "done": (act_done, {"given up": (AGAIN, 1)}),
    "put, not lasting": (act_put_not_lasting, OLD | {"new": (WAITING, 0)}),
    "done, not lasting": (act_done_not_lasting, {"given up": (AGAIN, 1)}),
    "retry": (act_retry, OLD | {"waits": (WAITING, 1)}),
    "bury": (act_bury, OLD | {"waits": (DEAD, 1)}),
    "again": (act_again, OLD | {"given up": (WAITING, 0)}),
}
TAKEN_UP = {(AGAIN, 1): (WAITING, 0), (AGAIN, 0): (WAITING, 0)}


def prepared(tmp_path, seed):
    """A queue with a leased entry, and a dead letter that somebody wants to be tried again."""
    disk = LossyDisk(seed)
    one = opened(tmp_path, disk=disk)
    put(one, "given up", "waits")
    leased(one)
    one.retry("given up", TAKEN, T)
    name = file_name(1, "given up")
    disk.rename(tmp_path / DEAD / name, tmp_path / AGAIN / name)
    disk.sync_folder(tmp_path / AGAIN)
    assert state_of(tmp_path, disk) == OLD
    return disk, one


@pytest.mark.parametrize("error", [None, errno.EIO], ids=["power loss", "an error"])
@pytest.mark.parametrize("name", ACTS)
def test_every_point_of_failure_leaves_the_old_state_or_the_new_one(tmp_path, name, error):
    act, new = ACTS[name]
    points = 0
    for at in count(1):
        for seed in range(6):
            disk, one = prepared(tmp_path, seed)
            disk.error, disk.fail_at = error, at
            raised = False
            try:
                act(one)
            except (OSError, PowerLossError):
                raised = True
            is_through = disk.fail_at is not None and disk.fail_at > 0
            one.close()
            disk.start()
            with opened(tmp_path, disk=disk, now_s=T + 60) as two:
                there = state_of(tmp_path, disk)
                taken_up = [
                    {key: TAKEN_UP.get(value, value) for key, value in state.items()} for state in (OLD, new)
                ]
                assert there in taken_up
                assert two.problems() == []
                if not raised and name in ("put", "done"):
                    assert there == taken_up[1]
                assert sorted(leased(two, T + 3600)) == sorted(
                    key for key in there if there[key][0] == WAITING
                )
                assert [path for path in disk.names_now if path.suffix == ".part"] == []
        points += not is_through
        if is_through:
            break
    assert points >= (1 if name == "done, not lasting" else 2)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", ["put, not lasting", "done, not lasting"])
def test_what_need_not_last_is_whole_or_not_there_after_a_loss_of_power(tmp_path, name, seed):
    act, new = ACTS[name]
    disk, one = prepared(tmp_path, seed)
    act(one)
    assert state_of(tmp_path, disk) == new
    one.close()
    disk.lose_power()
    disk.start()
    with opened(tmp_path, disk=disk) as two:
        assert {key: value for key, value in state_of(tmp_path, disk).items() if key != "given up"} in [
            {key: value for key, value in state.items() if key != "given up"} for state in (OLD, new)
        ]
        assert two.problems() == []
        two.put("new", lane="s3://bucket", group="call", payload={}, now_s=T)
        assert "new" in two


@pytest.mark.parametrize("seed", range(20))
def test_what_an_operator_has_dropped_does_not_come_back_with_the_power(tmp_path, seed):
    disk, one = prepared(tmp_path, seed)
    one.retry("waits", TAKEN, T)
    assert drop(tmp_path / DEAD / file_name(2, "waits"), disk=disk)
    disk.lose_power()
    disk.start()
    assert "waits" not in state_of(tmp_path, disk)


def test_opening_may_fail_at_every_point(tmp_path):
    for at in count(1):
        disk, one = prepared(tmp_path, at)
        put(one, "buried half")
        one.close()
        path = tmp_path / WAITING / file_name(3, "buried half")
        disk.names_now[path].data = bytearray(
            disk.names_now[path].data.replace(b'"is_dead": false', b'"is_dead": true')
        )
        disk.names_now[path].kept = bytes(disk.names_now[path].data)
        disk.create(tmp_path / WAITING / (file_name(4, "half made") + ".part"))
        disk.fail_at = at
        try:
            opened(tmp_path, disk=disk).close()
        except PowerLossError:
            pass
        else:
            break
        disk.start()
        with opened(tmp_path, disk=disk):
            there = state_of(tmp_path, disk)
            assert there == {"waits": (WAITING, 0), "given up": (WAITING, 0), "buried half": (DEAD, 0)}
    assert at > 10


def test_a_put_that_failed_is_put_again_as_the_same_file(tmp_path):
    disk = LossyDisk()
    with opened(tmp_path, disk=disk) as one:
        for at in count(1):
            disk.error, disk.fail_at = errno.EIO, at
            try:
                put(one, f"e{at}")
                disk.start()
                break
            except OSError:
                assert f"e{at}" not in one
                disk.start()
                put(one, f"e{at}")
        assert len(state_of(tmp_path, disk)) == len(one) == at


WORKER = """
import os, random, sys, time
from pathlib import Path
from callreel.delivery.queue import Queue
from callreel.errors import DeliveryConflictError, DeliveryDeniedError

def work(folder, seed, log):
    rng = random.Random(seed)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    say = lambda *words: os.write(out, (" ".join(words) + "\\n").encode())
    with Queue(Path(folder), now_s=time.time(), random=rng.random, lane_limit=1000) as queue:
        say("ready")
        for n in range(1_000_000):
            entry_id = f"{seed}.{n}"
            say("putting", entry_id)
            queue.put(entry_id, lane=f"lane {n % 3}", group=f"call {n % 5}", payload={"n": n}, now_s=time.time())
            say("put", entry_id)
            entry = queue.lease(time.time())
            if entry is None:
                continue
            if rng.random() < 0.6:
                say("ending", entry.id)
                queue.done(entry.id)
                say("done", entry.id)
            else:
                error = DeliveryConflictError("taken") if rng.random() < 0.2 else DeliveryDeniedError("no")
                queue.retry(entry.id, error, time.time())

while line := sys.stdin.readline():  # a process that has all imported makes those that are killed
    folder, seed, log = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if not child:
        work(folder, int(seed), log)
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fifty_kills_at_random_moments_lose_nothing(tmp_path):
    rng = __import__("random").Random(50)
    folder, log = tmp_path / "queue", tmp_path / "log"
    source = str(Path(queue.__file__).parents[2])
    maker = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        env={**os.environ, "PYTHONPATH": source},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    left = set()  # what is there for certain
    with maker:
        for seed in range(50):
            log.write_bytes(b"")
            maker.stdin.write(f"{folder}\t{seed}\t{log}\n")
            maker.stdin.flush()
            child = int(maker.stdout.readline())
            while not log.stat().st_size:
                time.sleep(0.001)
            time.sleep(rng.random() * 0.03)
            os.kill(child, signal.SIGKILL)
            assert maker.stdout.readline() == "gone\n"
            unsure = set()
            for line in log.read_text().splitlines():
                verb, _, entry_id = line.partition(" ")
                if verb == "put":
                    left.add(entry_id)
                elif verb in ("putting", "ending"):
                    left.discard(entry_id)
                    unsure = {entry_id}
            with opened(folder, now_s=time.time()) as one:
                there = {entry.record.id for entry in standing(folder)}
                assert left <= there <= left | unsure
                assert one.problems() == []
                left = there
        maker.stdin.close()
    assert len(left) > 50


# ---- size --------------------------------------------------------------------------------------------------


def cost_of_a_lease(entries):
    """Seconds for taking and finishing one of so many, the quickest of several rounds."""
    schedule = Schedule(now_s=T, limit=4, limits={})
    for n in range(entries):
        schedule.add(
            Item(str(n), n, lane=f"lane {n % 50}", group=str(n % 5000), ordered=True, due_s=T + n % 977)
        )
    rounds = []
    for _ in range(15):
        began = time.perf_counter()
        for _ in range(50):
            schedule.worked(schedule.take(T + 1000))
        rounds.append((time.perf_counter() - began) / 50)
    return min(rounds)


def test_a_lease_among_a_hundred_thousand_costs_about_what_it_costs_among_a_thousand():
    assert cost_of_a_lease(100_000) < 10 * cost_of_a_lease(1000)


def test_of_many_entries_each_costs_its_own_file_alone(tmp_path):
    disk = LossyDisk()
    (tmp_path / WAITING).mkdir()
    data = Record("ID", "LANE", "GROUP", True, T, T, payload={"key": "a" * 100}).to_bytes()
    for n in range(1, 20_001):
        path = tmp_path / WAITING / file_name(n, f"e{n}")
        disk.create(path)
        inode = disk.names_now[path]
        inode.data += (
            data.replace(b"ID", b"e%d" % n).replace(b"LANE", b"%d" % (n % 40)).replace(b"GROUP", b"%d" % n)
        )
    disk.pending.clear()
    with opened(tmp_path, disk=disk) as one:
        assert len(one) == 20_000
        disk.operations.clear()
        costs, names = [], set()
        for _ in range(100):
            began = time.perf_counter()
            entry = one.lease(T)
            costs.append(time.perf_counter() - began)
            names.add(file_name(int(entry.id[1:]), entry.id))
            one.retry(entry.id, LOST, T)
        assert statistics.median(costs) < 0.005
        # Of each entry only its own file is touched.
        read = [path.name for operation, path in disk.operations if operation == "read"]
        assert (len(read), set(read)) == (100, names)


# ---- dead letters ------------------------------------------------------------------------------------------


@pytest.fixture
def spool(tmp_path):
    """A spool whose queue a process has open: two dead letters, one that fails, one that waits."""
    with opened(tmp_path / "queue", now_s=time.time()) as one:
        now = time.time()
        put(one, "gone.1", "gone.2", lane="s3://full", now_s=now)
        put(one, "failing", lane="s3://shut\x1b[2J", now_s=now)
        put(one, "fresh", lane="https://a.example", now_s=now)
        leased(one, now)
        one.retry("gone.1", TAKEN, now)
        one.retry("gone.2", TAKEN, now)
        one.retry("failing", DENIED, now)
        yield tmp_path, one


def run(capsys, *arguments):
    status = cli.main(["queue", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def test_list_shows_lanes_and_dead_letters_beside_a_running_process(spool, capsys):
    status, out, err = run(capsys, "list", "--spool", spool[0])
    assert (status, err) == (1, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["waiting:", "2"]
    assert lines[2][:3] == ["https://a.example", "1", "0"]
    assert lines[3][:3] == [r"s3://shut\x1b[2J", "1", "1"]
    assert out.splitlines()[3].endswith("denied: Access Denied")
    assert lines[4] == ["dead", "letters:", "2"]
    assert [line[0] for line in lines[6:]] == ["gone.1", "gone.2"]
    assert "conflict: something else has that key" in out


def test_list_as_json_has_the_members_of_the_page(spool, capsys):
    (spool[0] / "queue" / DAMAGED / "x.json").write_bytes(b"x")
    status, out, _ = run(capsys, "list", "--spool", spool[0], "--json")
    assert status == 1
    found = [json.loads(line) for line in out.splitlines()]
    by_id = {one["id"]: one for one in found if "id" in one}
    told = code_spans(section(PAGE, "## Dead letters").partition("`list --json`")[2])
    assert set(by_id["fresh"]) == set(told) - {"list"}  # of the exit status
    assert by_id["gone.1"]["state"] == "dead"
    assert by_id["gone.1"]["error"]["class"] == "conflict"
    assert by_id["fresh"]["error"] is None
    assert found[-1] == {
        "state": "damaged",
        "file": str(spool[0] / "queue" / DAMAGED / "x.json"),
        "problem": "it is no JSON",
    }


def test_list_of_a_queue_without_dead_letters_is_well(tmp_path, capsys):
    opened(tmp_path / "queue").close()
    assert run(capsys, "list", "--spool", tmp_path) == (0, "waiting: 0\ndead letters: 0\n", "")


def test_retry_lets_the_running_process_take_a_dead_letter_up_at_once_with_a_new_budget(spool, capsys):
    folder, one = spool
    assert run(capsys, "retry", "--spool", folder, "gone.1") == (0, "tried again: 1\n", "")
    assert one.is_dead("gone.1")
    assert not one.put("gone.1", lane="x", group="g", payload={}, now_s=time.time())
    later = time.time() + LOOK_EVERY_S
    assert one.next_due(later - LOOK_EVERY_S) <= later
    assert leased(one, later) == ["gone.1"]
    assert one.retry("gone.1", LOST, later) == later + 1
    assert run(capsys, "retry", "--spool", folder, "gone.1")[0] == 1


def test_retry_without_a_process_is_for_the_next_one(spool, capsys):
    folder, one = spool
    one.close()
    assert run(capsys, "retry", "--spool", folder, "--lane", "s3://full") == (0, "tried again: 2\n", "")
    with opened(folder / "queue", now_s=time.time()) as two:
        assert sorted(leased(two, time.time())) == ["fresh", "gone.1", "gone.2"]


def test_drop_removes_dead_letters_and_nothing_else(spool, capsys):
    folder, one = spool
    assert run(capsys, "drop", "--spool", folder, "gone.2") == (0, "dropped: 1\n", "")
    assert "gone.2" not in one
    status, out, err = run(capsys, "drop", "--spool", folder, "gone.2", "fresh")
    assert (status, out) == (1, "dropped: 0\n")
    assert err == "callreel queue: no dead letter fresh\ncallreel queue: no dead letter gone.2\n"
    status, out, _ = run(capsys, "drop", "--spool", folder, "--all", "--json")
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["gone.1"]
    assert [path for path in files(folder) if path.startswith("queue/dead")] == []
    assert len(one) == 2


def test_the_queues_of_a_services_workers_are_those_of_its_spool(spool, capsys):
    folder, _ = spool
    with opened(folder / "worker-1" / "queue", now_s=time.time()) as other:
        put(other, "gone.3", lane="s3://full", now_s=time.time())
        leased(other, time.time())
        other.retry("gone.3", TAKEN, time.time())
        found = [
            json.loads(line) for line in run(capsys, "list", "--spool", folder, "--json")[1].splitlines()
        ]
        assert sorted(one["id"] for one in found if one["state"] == "dead") == ["gone.1", "gone.2", "gone.3"]
        assert run(capsys, "retry", "--spool", folder, "gone.3", "gone.1") == (0, "tried again: 2\n", "")
        assert leased(other, time.time() + LOOK_EVERY_S) == ["gone.3"]
        assert run(capsys, "drop", "--spool", folder, "--lane", "s3://full") == (0, "dropped: 1\n", "")


@pytest.mark.parametrize("which", [[], ["id", "--all"], ["--lane", "x", "--all"]])
@pytest.mark.parametrize("verb", ["retry", "drop"])
def test_which_dead_letters_has_to_be_said_one_way(spool, capsys, verb, which):
    status, out, err = run(capsys, verb, "--spool", spool[0], *which)
    assert (status, out) == (2, "")
    assert "say which dead letters" in err


@pytest.mark.parametrize("verb", [["list"], ["retry", "x"], ["drop", "x"]])
def test_a_folder_without_a_queue_is_wrong_usage(tmp_path, capsys, verb):
    status, _, err = run(capsys, verb[0], "--spool", tmp_path, *verb[1:])
    assert (status, err) == (2, f"callreel queue: {tmp_path}: no queue there\n")


@pytest.mark.parametrize("verb", [[], ["list"], ["retry"], ["drop"]])
def test_help_tells_the_exit_status_and_fits_a_terminal(capsys, verb, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as end:
        cli.main(["queue", *verb, "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0
    assert "exit status: 0 all is well" in out
    assert max(map(len, out.splitlines())) <= 120


# ---- the page ----------------------------------------------------------------------------------------------


def test_the_page_has_the_policy_of_the_code():
    told = {}
    for row in table(PAGE, "class")[: len(ErrorClass)]:
        name, _, first, factor, longest, budget, lane = row
        days = None if budget.startswith("none") else float(budget.split()[0])
        seconds = [float(cell.removesuffix(" s")) for cell in (first, longest)]
        told[code_spans(name)[0]] = (seconds[0], float(factor), seconds[1], days, lane == "yes")
    assert told == {str(kind): tuple(policy) for kind, policy in RETRIES.items()}
    assert list(RETRIES) == list(ErrorClass)
    assert f"never before its {LEAST_ATTEMPTS}th failure" in PAGE


def test_the_page_has_the_breaker_of_the_code():
    signs = [Sign.WORKED, Sign.FAILED, Sign.TRIPPED, Sign.RESTED]
    told = {}
    for row in table(PAGE, "state"):
        state, *after = row
        told[code_spans(state)[0]] = {
            sign: code_spans(cell)[0] for sign, cell in zip(signs, after, strict=True) if cell
        }
    assert told == TRANSITIONS
    assert f"the {breaker.BORNE}th failure in a row" in PAGE
    assert f"rests: {breaker.FIRST_REST_S:g} s, twice as" in PAGE
    assert breaker.REST_FACTOR == 2
    assert f"at most {breaker.LONGEST_REST_S:g} s" in PAGE
    assert f"within {LOOK_EVERY_S:g} seconds" in PAGE
    assert list(State) == list(TRANSITIONS)


def test_the_page_has_the_words_of_the_code():
    rows = table(section(PAGE, "## What the customer is told"), "class")
    told = {code_spans(row[0])[0]: [code_spans(cell)[0] for cell in row[1:]] for row in rows}
    assert told == {
        str(kind): [one.chime_start[0], one.chime_record[0], str(one.sinch[0]), one.graph[2]]
        for kind, one in TOLD.items()
    }


# ---- the words of the vendors ------------------------------------------------------------------------------


def messages(vendor, name, session, fails):
    document = json.loads((FOLDER / vendor / f"{name}.json").read_text("utf-8"))
    document["host"] = {**document.get("host", {}), "fails": fails}
    dialogue = Dialogue(document, session(**document.get("session", {})))
    dialogue.run()
    return dialogue.messages


@pytest.mark.parametrize("kind", ErrorClass)
def test_amazon_chime_says_of_each_class_what_the_table_says(kind):
    told = TOLD[kind]
    fails = {"CheckAccess": {"message": told.stored, "field": told.check_field}}
    start = messages("chime", "24 call recording may not write", Chime, fails)[-1]["ActionData"]
    assert (start["ErrorType"], start["ErrorMessage"]) == told.chime_start
    record = messages("chime", "25 record audio finds out at the upload", Chime, {"store": told.stored})
    data = record[0]["ActionData"]
    assert (data["ErrorType"], data["ErrorMessage"]) == told.chime_record


@pytest.mark.parametrize("kind", ErrorClass)
def test_sinch_says_of_each_class_what_the_table_says(kind):
    said = messages("sinch", "26 the storage refuses", Sinch, {"store": TOLD[kind].stored})[-1]
    assert (said["errorCode"], said["errorMsg"]) == TOLD[kind].sinch


@pytest.mark.parametrize("kind", ErrorClass)
def test_graph_says_of_each_class_what_the_table_says(kind):
    ids = count(1)

    def session(**options):
        for name in ("ids", "tokens", "audio_active"):
            options.pop(name, None)
        return Graph(
            new_id=lambda: f"id-{next(ids)}",
            new_token=lambda: "hunter2",
            **{"base_url": "https://graph.microsoft.com", **options},
        )

    said = messages("graph", "25 another key", session, {"store": TOLD[kind].stored})[-1]
    operation = said["value"][0]["resourceData"]
    info = operation["resultInfo"]
    assert (info["code"], info["subcode"], operation["completionReason"]) == TOLD[kind].graph
