"""How long anything outside is waited for: moments by which it is to be over, and waiting that ends there.

A time limit of a socket counts from byte to byte, and what looks up a name has none at all. Here a limit is for the
whole.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from callreel.errors import DeliveryInterruptedError

__all__ = ["MAX_WAITING", "Deadline", "TooSlowError", "within"]

MAX_WAITING: Final = 256
"""How many functions may be at work in `within` at a time, those included that nobody waits for any more."""

SHARE: Final = 4
"""A lane has at most one for every so many places that are free."""

T = TypeVar("T")


class TooSlowError(DeliveryInterruptedError, TimeoutError):
    """It took longer than it may."""

    def __init__(self, what: str, limit_s: float) -> None:
        """Say what took longer than `limit_s`."""
        super().__init__(f"{what} took longer than {limit_s:g} s", retryable=True)


class Deadline:
    """A moment by which something is to be over."""

    def __init__(self, what: str, limit_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin to count now; `what` goes into the error."""
        self._what = what
        self._limit_s = limit_s
        self._clock = clock
        self._end = clock() + limit_s

    def left_s(self) -> float:
        """Say how much time is left, always more than none.

        Raises:
            TooSlowError: there is none.
        """
        left = self._end - self._clock()
        if left <= 0:
            raise self.missed()
        return left

    def missed(self) -> TooSlowError:
        """Make the error of having missed it."""
        return TooSlowError(self._what, self._limit_s)


class _Places:
    """Who is at work. What one lane may take shrinks with what is left, so those that hang leave room for others."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._taken: Counter[str] = Counter()
        self._changed = threading.Condition()

    def take(self, lane: str, deadline: Deadline) -> None:
        """Wait for a place: the first of a lane is there as long as any is."""
        with self._changed:
            while not self._free or 0 < self._taken[lane] >= self._free // SHARE:
                self._changed.wait(deadline.left_s())
            self._free -= 1
            self._taken[lane] += 1

    def give_back(self, lane: str) -> None:
        """Its work is over."""
        with self._changed:
            self._free += 1
            self._taken[lane] -= 1
            if not self._taken[lane]:
                del self._taken[lane]
            self._changed.notify_all()


_places = _Places(MAX_WAITING)


class _Work(Generic[T]):
    """A function at work in a thread of its own, and what came of it."""

    def __init__(self, function: Callable[[], T], lane: str) -> None:
        self._function = function
        self._lane = lane
        self._result: T
        self.error: BaseException | None = None
        self.over = threading.Event()

    def run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self.error = error
        finally:
            _places.give_back(self._lane)
            self.over.set()

    def result(self) -> T:
        if self.error is not None:
            raise self.error
        return self._result


def within(deadline: Deadline, function: Callable[[], T], *, lane: str) -> T:
    """What `function` returns or raises, unless it takes too long; then it is left to itself, in its thread.

    `lane`: what hangs together, such as a host. One that hangs keeps no place from the others.

    Raises:
        TooSlowError: the deadline came first.
    """
    _places.take(lane, deadline)
    work = _Work(function, lane)
    try:
        threading.Thread(target=work.run, name="callreel-waits", daemon=True).start()
    except BaseException:
        _places.give_back(lane)
        raise
    if not work.over.wait(deadline.left_s()):
        raise deadline.missed()
    return work.result()
