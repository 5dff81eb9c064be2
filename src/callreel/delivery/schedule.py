"""Which entry of a queue is next: lanes, order and limits, in memory.

Every lane has a heap of its entries by the time they are due; of a group whose order is kept only the first entry is
in it. The lanes stand in two heaps: `_later` by the moment at which something of them may go, and, once that has come,
`_now`, where the lane that has fewest on their way comes first, and of those the one whose turn is longest ago. So
adding, taking and finishing cost O(log n), however many entries and lanes there are. What no longer holds is left in
the heaps and passed over when it comes up; its stamp tells.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from itertools import count

from callreel.delivery.breaker import Breaker, State

__all__ = ["Item", "Schedule"]

CLOCK_SLACK_S = 1.0
"""A clock that goes back by less is that of another thread; by more it has been set."""

LANES_KEPT = 256
"""More lanes than these are looked through for such that have nothing left."""


class Item:
    """What is known of an entry without its payload."""

    __slots__ = (
        "attempts",
        "due_s",
        "failing_since_s",
        "failures",
        "group",
        "id",
        "is_leased",
        "is_over",
        "lane",
        "number",
        "ordered",
        "put_s",
        "stamp",
    )

    def __init__(
        self,
        entry_id: str,
        number: int,
        *,
        lane: str,
        group: str,
        ordered: bool,
        due_s: float,
        put_s: float = 0.0,
    ) -> None:
        """Describe an entry; `number` says which of two came first."""
        self.id = entry_id
        self.number = number
        self.lane = lane
        self.group = group
        self.ordered = ordered
        self.due_s = due_s
        self.put_s = put_s
        self.attempts = 0  # that failed, ever
        self.failures = 0  # that failed since it was put or taken in again
        self.failing_since_s: float | None = None
        self.is_leased = False
        self.is_over = False
        self.stamp = 0


class _Lane:
    __slots__ = ("breaker", "heap", "limit", "name", "on_their_way", "probe", "stamp", "turn")

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self.breaker = Breaker()
        self.heap: list[tuple[float, int, int, Item]] = []  # due, number, stamp
        self.on_their_way = 0
        self.probe: Item | None = None
        self.stamp = 0
        self.turn = 0

    def next_at(self) -> float | None:
        """When something of it may go; None while nothing may, whatever the time is."""
        heap = self.heap
        while heap and heap[0][2] != heap[0][3].stamp:
            heapq.heappop(heap)
        if not heap or self.on_their_way >= self.limit:
            return None
        if self.breaker.state is State.CLOSED:
            return heap[0][0]
        if self.probe is not None:
            return None
        if self.breaker.state is State.OPEN:
            return max(heap[0][0], self.breaker.rests_until_s)
        return heap[0][0]

    def is_idle(self, now_s: float) -> bool:
        """Whether nothing is lost when it is forgotten."""
        is_well = self.breaker.state is State.CLOSED or self.breaker.rests_until_s <= now_s
        return not self.heap and not self.on_their_way and is_well


class _Group:
    """The entries of a group whose order is kept."""

    __slots__ = ("head", "heap")

    def __init__(self) -> None:
        self.heap: list[tuple[int, Item]] = []
        self.head: Item | None = None  # in its lane's heap, or leased

    def first(self) -> Item | None:
        while self.heap and self.heap[0][1].is_over:
            heapq.heappop(self.heap)
        return self.heap[0][1] if self.heap else None


class Schedule:
    """The entries of a queue, and which of them is next."""

    def __init__(self, *, now_s: float, limit: int, limits: Mapping[str, int]) -> None:
        """Let `limit` entries of a lane be on their way at once, or what `limits` says of it."""
        self.items: dict[str, Item] = {}
        self._limit = limit
        self._limits = limits
        self._lanes: dict[str, _Lane] = {}
        self._groups: dict[str, _Group] = {}
        self._later: list[tuple[float, int, _Lane]] = []  # at, stamp
        self._now: list[tuple[int, int, int, _Lane]] = []  # on their way, turn, stamp
        self._stamps = count(1)
        self._turns = count(1)
        self._clock_s = now_s
        self._lanes_max = LANES_KEPT

    def add(self, item: Item) -> None:
        """Take an entry in."""
        self.items[item.id] = item
        if item.ordered:
            group = self._groups.setdefault(item.group, _Group())
            heapq.heappush(group.heap, (item.number, item))
            self._advance(item.group)
        else:
            self._line_up(item)

    def take(self, now_s: float) -> Item | None:
        """The next entry, which is then leased; None when nothing may go now."""
        self.follow(now_s)
        self._bring_in(now_s)
        while self._now:
            lane = self._now[0][3]
            if self._now[0][2] != lane.stamp:
                heapq.heappop(self._now)
                continue
            at = lane.next_at()
            if at is None or at > now_s:  # the clock was a little behind
                self._place(lane)
                continue
            item = heapq.heappop(lane.heap)[3]
            if lane.breaker.state is State.OPEN:
                lane.breaker.rested()
            if lane.breaker.state is State.HALF_OPEN:
                lane.probe = item
            item.is_leased = True
            item.stamp = next(self._stamps)
            lane.on_their_way += 1
            lane.turn = next(self._turns)
            self._place(lane)
            return item
        return None

    def give_back(self, item: Item, due_s: float) -> None:
        """A leased entry waits again; nothing is known of its lane."""
        lane = self._release(item)
        item.due_s = due_s
        self._wait(item)
        self._place(lane)

    def wake(self, item: Item, now_s: float) -> None:
        """A waiting entry is due now, if it was not."""
        if item.is_leased or item.due_s <= now_s:
            return
        item.due_s = now_s
        if not item.ordered or self._groups[item.group].head is item:
            self._line_up(item)

    def worked(self, item: Item) -> None:
        """An entry is done, leased or not."""
        self.remove(item, answered=item.is_leased)

    def failed(
        self, item: Item, due_s: float | None, now_s: float, random: Callable[[], float], asked_s: float
    ) -> None:
        """A leased entry has failed by its lane's fault; it is due again then, or gone (None)."""
        lane = self._lanes[item.lane]
        if lane.probe is None or lane.probe is item:  # else it began before the lane rested
            lane.breaker.failed(now_s, random, asked_s)
        if due_s is None:
            self.remove(item)
        else:
            self.give_back(item, due_s)

    def failed_itself(self, item: Item, due_s: float | None) -> None:
        """A leased entry has failed by its own fault: its lane has answered."""
        self._lanes[item.lane].breaker.worked()
        if due_s is None:
            self.remove(item)
        else:
            self.give_back(item, due_s)

    def remove(self, item: Item, *, answered: bool = False) -> None:
        """Forget an entry, leased or not."""
        del self.items[item.id]
        item.is_over = True
        item.stamp = next(self._stamps)
        lane = self._lane(item.lane)
        if answered:
            lane.breaker.worked()
        if item.is_leased:
            self._release(item)
        if item.ordered:
            self._advance(item.group)
        self._place(lane)

    def next_at(self, now_s: float) -> float | None:
        """When `take` may give something; None while nothing can but by another verb."""
        self.follow(now_s)
        self._bring_in(now_s)
        if self._now:
            return now_s
        while self._later and self._later[0][1] != self._later[0][2].stamp:
            heapq.heappop(self._later)
        return self._later[0][0] if self._later else None

    def follow(self, now_s: float) -> None:
        """When the clock has been set back, no entry waits for it to come to where it was."""
        step = self._clock_s - now_s
        if step <= CLOCK_SLACK_S:
            self._clock_s = max(self._clock_s, now_s)
            return
        self._clock_s = now_s
        for item in self.items.values():
            item.due_s -= step
            if item.failing_since_s is not None:
                item.failing_since_s -= step
        for lane in self._lanes.values():
            lane.breaker.rests_until_s -= step
            lane.heap = [
                (item.due_s, item.number, item.stamp, item)
                for _, _, stamp, item in lane.heap
                if stamp == item.stamp
            ]
            heapq.heapify(lane.heap)
            self._place(lane)

    # -- what stands where -------------------------------------------------------------------------------------

    def _release(self, item: Item) -> _Lane:
        lane = self._lanes[item.lane]
        lane.on_their_way -= 1
        if lane.probe is item:
            lane.probe = None
        item.is_leased = False
        return lane

    def _wait(self, item: Item) -> None:
        if item.ordered:
            self._groups[item.group].head = None
            self._advance(item.group)
        else:
            self._line_up(item)

    def _advance(self, name: str) -> None:
        """Let the first of a group stand in its lane, and no other."""
        group = self._groups[name]
        head, first = group.head, group.first()
        if head is not None and (head.is_leased or head is first):
            return
        if head is not None and not head.is_over:  # an older one has come
            head.stamp = next(self._stamps)
            self._place(self._lane(head.lane))
        group.head = first
        if first is None:
            del self._groups[name]
        else:
            self._line_up(first)

    def _line_up(self, item: Item) -> None:
        lane = self._lane(item.lane)
        item.stamp = next(self._stamps)
        heapq.heappush(lane.heap, (item.due_s, item.number, item.stamp, item))
        if lane.heap[0][3] is item:
            self._place(lane)

    def _place(self, lane: _Lane) -> None:
        """Put a lane where it belongs now, after anything about it has changed."""
        lane.stamp = next(self._stamps)
        at = lane.next_at()
        if at is not None:
            heapq.heappush(self._later, (at, lane.stamp, lane))
        if len(self._later) + len(self._now) > 4 * len(self._lanes) + 64:
            self._later = [entry for entry in self._later if entry[1] == entry[2].stamp]
            self._now = [entry for entry in self._now if entry[2] == entry[3].stamp]
            heapq.heapify(self._later)
            heapq.heapify(self._now)

    def _bring_in(self, now_s: float) -> None:
        while self._later and self._later[0][0] <= now_s:
            _, stamp, lane = heapq.heappop(self._later)
            if stamp == lane.stamp:
                heapq.heappush(self._now, (lane.on_their_way, lane.turn, stamp, lane))
        while self._now and self._now[0][2] != self._now[0][3].stamp:
            heapq.heappop(self._now)

    def _lane(self, name: str) -> _Lane:
        lane = self._lanes.get(name)
        if lane is None:
            if len(self._lanes) >= self._lanes_max:
                self._lanes = {
                    one.name: one for one in self._lanes.values() if not one.is_idle(self._clock_s)
                }
                self._lanes_max = max(LANES_KEPT, 2 * len(self._lanes))
            lane = self._lanes[name] = _Lane(name, self._limits.get(name, self._limit))
        return lane
