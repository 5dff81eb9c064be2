"""The delivery queue, whatever is asked of it in whatever order and whenever it dies, against a short model."""

import errno
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from callreel.delivery.breaker import BORNE, FIRST_REST_S, LONGEST_REST_S, REST_FACTOR
from callreel.delivery.error_classes import DAY_S, LEAST_ATTEMPTS, RETRIES, ErrorClass
from callreel.delivery.queue import LOOK_EVERY_S, Queue
from callreel.delivery.queue_files import AGAIN, DAMAGED, DEAD, WAITING, drop, standing, try_again
from callreel.errors import (
    DeliveryConflictError,
    DeliveryDeniedError,
    DeliveryError,
    DeliveryInterruptedError,
    DeliveryThrottledError,
)
from lossy_disk import LossyDisk, PowerLossError

LANES = ["s3://a", "s3://b", "https://c"]
LIMITS = {"s3://a": 1, "s3://b": 2}  # https://c has the default, 3
HALF = 0.5
"""What `random` gives: the delays themselves are looked at in tests/unit/test_queue.py."""
ERRORS = st.sampled_from(
    [
        (DeliveryInterruptedError("lost"), ErrorClass.INTERRUPTED, 0),
        (DeliveryThrottledError("slow down", retry_after_s=1), ErrorClass.THROTTLED, 1),
        (DeliveryDeniedError("no"), ErrorClass.DENIED, 0),
        (DeliveryThrottledError("slow down", retry_after_s=30), ErrorClass.THROTTLED, 30),
        (DeliveryConflictError("taken"), ErrorClass.CONFLICT, 0),
        (DeliveryError("what is that"), ErrorClass.OTHER, 0),
    ]
)


@dataclass
class Known:
    """An entry as the model has it."""

    number: int
    lane: str
    group: str
    ordered: bool
    due: float
    state: str = WAITING
    leased: bool = False
    failures: int = 0
    since: float | None = None


class Lane:
    """Of a lane: how often it has failed in a row, and until when it rests."""

    def __init__(self):
        self.failures = self.openings = 0
        self.rests_until = None  # while it is not closed
        self.probe = None

    def worked(self):
        self.failures = self.openings = 0
        self.rests_until = None

    def failed(self, entry_id, now, asked):
        if self.probe not in (None, entry_id):
            return
        self.failures += 1
        is_open = self.rests_until is not None and self.probe is None
        if is_open:
            self.rests_until = max(self.rests_until, now + asked)
        elif self.probe == entry_id or asked or self.failures >= BORNE:
            rest = min(FIRST_REST_S * REST_FACTOR**self.openings, LONGEST_REST_S) * 0.75
            self.openings += 1
            self.rests_until = now + max(rest, asked)


class Rules(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1 << 30))
    def begin(self, seed):
        self.folder = Path(tempfile.mkdtemp()) / "queue"
        self.disk = LossyDisk(seed)
        self.now = 1.7e9
        self.known = {}
        self.count = 0
        self.queue = None
        self.open()

    def open(self):
        """Start a process: what lies on the disk must be what the model has, but for what may have been under way."""
        if self.queue is not None:
            self.queue.close()
        self.look(at_once=True)
        self.disk.start()
        self.queue = Queue(
            self.folder,
            now_s=self.now,
            random=lambda: HALF,
            lane_limit=3,
            lane_limits=LIMITS,
            disk=self.disk,
        )
        self.lanes = {name: Lane() for name in LANES}
        self.looked = self.now
        there = {one.record.id: one for one in standing(self.folder, disk=self.disk)}
        assert not [one for one in there.values() if one.state == DAMAGED]
        assert there.keys() == self.known.keys()
        for entry_id, one in self.known.items():
            record = there[entry_id].record
            one.leased = False
            assert one.state == there[entry_id].state
            if one.state == WAITING:
                assert one.failures == record.failures
                was_set_back = max(record.put_s, record.failed_s or 0) > self.now
                one.due = self.now if was_set_back else record.due_s
                one.since = record.failing_since_s

    # -- the four verbs ------------------------------------------------------------------------------------

    @rule(
        lane=st.sampled_from(LANES),
        group=st.sampled_from("xyz"),
        ordered=st.booleans(),
        times=st.integers(1, 4),
    )
    def put(self, lane, group, ordered, times):
        for _ in range(times):
            self.put_one(lane, group, ordered)

    def put_one(self, lane, group, ordered):
        self.count += 1
        entry_id = f"entry {self.count}"
        assert self.queue.put(
            entry_id, lane=lane, group=group, ordered=ordered, payload={"n": self.count}, now_s=self.now
        )
        self.known[entry_id] = Known(self.count, lane, group, ordered, self.now)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def put_again(self, data):
        entry_id = data.draw(st.sampled_from(sorted(self.known)))
        assert not self.queue.put(entry_id, lane="other", group="other", payload={}, now_s=self.now)

    @rule(times=st.integers(1, 4))
    def lease(self, times):
        for _ in range(times):
            self.lease_one()

    def lease_one(self):
        self.look()
        entry = self.queue.lease(self.now)
        free = self.may_go()
        if entry is None:
            assert free == []
            return
        assert entry.id in free
        one = self.known[entry.id]
        assert (entry.lane, entry.group, entry.ordered) == (one.lane, one.group, one.ordered)
        assert entry.payload == {"n": one.number}
        one.leased = True
        lane = self.lanes[one.lane]
        if lane.rests_until is not None:
            lane.probe = entry.id

    @precondition(lambda self: self.leased())
    @rule(data=st.data())
    def done(self, data):
        entry_id = data.draw(st.sampled_from(self.leased()))
        self.queue.done(entry_id)
        self.queue.done(entry_id)
        self.over(entry_id)
        del self.known[entry_id]

    @precondition(lambda self: self.leased())
    @rule(data=st.data(), failure=ERRORS)
    def retry(self, data, failure):
        entry_id = data.draw(st.sampled_from(self.leased()))
        error, kind, asked = failure
        one = self.known[entry_id]
        due = self.queue.retry(entry_id, error, self.now)
        self.failed(entry_id, kind, asked)
        assert (due is None) == (one.state == DEAD)
        if due is not None:
            assert self.now + asked <= due <= self.now + asked + RETRIES[kind].longest_delay_s
            one.due = due

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def wake(self, data):
        entry_id = data.draw(st.sampled_from(sorted(self.known)))
        one = self.known[entry_id]
        self.queue.wake(entry_id, self.now)
        if one.state == WAITING and not one.leased:
            one.due = min(one.due, self.now)

    def failed(self, entry_id, kind, asked):
        one, lane, policy = self.known[entry_id], self.lanes[self.known[entry_id].lane], RETRIES[kind]
        one.failures += 1
        one.since = self.now if one.since is None else one.since
        if policy.budget_days is None or (
            one.failures >= LEAST_ATTEMPTS and self.now - one.since >= policy.budget_days * DAY_S
        ):
            one.state = DEAD
        one.leased = False
        if policy.counts_against_lane:
            lane.failed(entry_id, self.now, asked)
        else:
            lane.worked()
        if lane.probe == entry_id:
            lane.probe = None

    def over(self, entry_id):
        lane = self.lanes[self.known[entry_id].lane]
        lane.worked()
        if lane.probe == entry_id:
            lane.probe = None

    # -- what happens ----------------------------------------------------------------------------------------

    @rule(step=st.sampled_from([0.1, 1, 4, 20, 400, 4000, DAY_S, 3 * DAY_S]))
    def time_passes(self, step):
        self.now += step

    @rule(step=st.sampled_from([0.5, 5, 4000, DAY_S]))
    def the_clock_is_set_back(self, step):
        before = self.now
        self.queue.next_due(before)
        self.now -= step
        self.queue.next_due(self.now)
        if step <= 1:
            self.now = before
            return
        for one in self.known.values():
            one.due -= step
            one.since = None if one.since is None else one.since - step
        for lane in self.lanes.values():
            lane.rests_until = None if lane.rests_until is None else lane.rests_until - step

    @rule()
    def the_process_is_killed(self):
        self.open()

    @rule()
    def the_power_fails(self):
        self.disk.lose_power()
        self.open()

    @precondition(lambda self: self.dead())
    @rule(data=st.data(), again=st.booleans())
    def an_operator_acts(self, data, again):
        entry_id = data.draw(st.sampled_from(self.dead()))
        (path,) = [
            one.path for one in standing(self.folder, (DEAD,), disk=self.disk) if one.record.id == entry_id
        ]
        assert try_again(self.folder, path, disk=self.disk) if again else drop(path, disk=self.disk)
        if again:
            self.known[entry_id].state = AGAIN
        else:
            del self.known[entry_id]
            assert entry_id not in self.queue

    @rule(
        verb=st.sampled_from(["put", "done", "retry", "look"]),
        at=st.integers(1, 14),
        error=st.sampled_from([None, errno.EIO, errno.ENOSPC, errno.EMFILE]),
        for_good=st.booleans(),
        data=st.data(),
        failure=ERRORS,
    )
    def something_fails_in_the_middle(self, verb, at, error, for_good, data, failure):
        """After it each entry is as it was or as it was to be; then the process starts anew."""
        self.disk.error, self.disk.for_good, self.disk.fail_at = error, for_good, at
        leased = self.leased()
        entry_id = data.draw(st.sampled_from(leased)) if leased and verb in ("done", "retry") else "none"
        told = None
        try:
            match verb:
                case "put":
                    self.count += 1
                    entry_id = f"entry {self.count}"
                    lane, group = LANES[self.count % 3], "xyz"[self.count % 2]
                    told = self.queue.put(
                        entry_id, lane=lane, group=group, payload={"n": self.count}, now_s=self.now
                    )
                case "done" if leased:
                    self.queue.done(entry_id)
                    told = True
                case "retry" if leased:
                    told = self.queue.retry(entry_id, failure[0], self.now) is None
                case _:
                    self.now += LOOK_EVERY_S
                    self.queue.lease(self.now)
        except (OSError, PowerLossError):
            pass
        self.disk.start()
        there = {one.record.id: one for one in standing(self.folder, disk=self.disk) if one.record}
        match verb:
            case "put":
                assert not told or entry_id in there
                if entry_id in there:
                    self.known[entry_id] = Known(self.count, lane, group, True, self.now)
            case "done" if leased:
                assert not told or entry_id not in there
                if entry_id not in there:
                    del self.known[entry_id]
            case "retry" if leased:
                one = self.known[entry_id]
                state, record = there[entry_id].state, there[entry_id].record
                assert told is not True or state == DEAD
                assert record.failures in (one.failures, one.failures + 1)
                if record.failures > one.failures:
                    self.failed(entry_id, failure[1], failure[2])
                assert (one.state == DEAD) == (record.is_dead or state == DEAD)
        for entry_id, one in self.known.items():
            if one.state == AGAIN and not there[entry_id].record.is_dead:
                one.state, one.failures = WAITING, 0
        self.open()

    def look(self, at_once=False):
        """Dead letters that are to be tried again are taken in every few seconds, and at the start."""
        if at_once or not 0 <= self.now - self.looked < LOOK_EVERY_S:
            self.looked = self.now
            for one in self.known.values():
                if one.state == AGAIN:
                    one.state, one.failures, one.since, one.due = WAITING, 0, None, self.now

    # -- what must hold --------------------------------------------------------------------------------------

    def leased(self):
        return sorted(entry_id for entry_id, one in self.known.items() if one.leased)

    def dead(self):
        return sorted(entry_id for entry_id, one in self.known.items() if one.state == DEAD)

    def goes_at(self, one):
        """When an entry may go, None while another one stands before it."""
        if one.leased or one.state != WAITING:
            return None
        lane = self.lanes[one.lane]
        on_their_way = sum(other.leased for other in self.known.values() if other.lane == one.lane)
        if on_their_way >= LIMITS.get(one.lane, 3) or lane.probe is not None:
            return None
        before = [
            other
            for other in self.known.values()
            if other.ordered and other.group == one.group and other.state == WAITING
        ]
        if one.ordered and any(other.leased or other.number < one.number for other in before):
            return None
        return max(one.due, lane.rests_until or 0)

    def may_go(self):
        """The entries that may go now: neither a broken lane nor a full one delays those of another."""
        times = {entry_id: self.goes_at(one) for entry_id, one in self.known.items()}
        return [entry_id for entry_id, at in times.items() if at is not None and at <= self.now]

    @invariant()
    def nothing_is_lost(self):
        assert len(self.queue) == sum(one.state == WAITING for one in self.known.values())
        assert all(entry_id in self.queue for entry_id in self.known)
        assert self.queue.problems() == []

    @invariant()
    def it_says_when_to_come_back(self):
        times = [at for one in self.known.values() if (at := self.goes_at(one)) is not None]
        looks = max(self.looked + LOOK_EVERY_S, self.now)
        assert self.queue.next_due(self.now) == min(
            [max(at, self.now) for at in times] + [looks, self.now + LOOK_EVERY_S]
        )

    def teardown(self):
        """In the end everything has been done once, or is a dead letter."""
        if not hasattr(self, "queue"):
            return
        for entry_id in self.leased():
            self.queue.done(entry_id)
            del self.known[entry_id]
        for _ in range(100 + 20 * len(self.known)):
            self.now = self.queue.next_due(self.now)
            while (entry := self.queue.lease(self.now)) is not None:
                self.queue.done(entry.id)
                del self.known[entry.id]
            if self.now > 1.7e9 and len(self.queue) == 0:
                break
            if self.queue.next_due(self.now) - self.now == LOOK_EVERY_S:
                self.now += 600
        assert {one.state for one in self.known.values()} <= {DEAD, AGAIN}
        self.queue.close()
        shutil.rmtree(self.folder.parent)


Rules.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
test_the_queue_keeps_its_rules = Rules.TestCase
