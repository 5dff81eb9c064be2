"""How long anything outside is waited for: moments by which it is to be over, and waiting that ends there.

A time limit of a socket counts from byte to byte, and what looks up a name has none at all. Here a limit is for the
whole.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from callreel.errors import DeliveryInterruptedError

__all__ = ["MAX_WAITING", "Deadline", "TooSlowError", "within"]

MAX_WAITING: Final = 256
"""How many functions may be at work in `within` at a time, those included that nobody waits for any more."""

_waiting = threading.BoundedSemaphore(MAX_WAITING)

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


class _Work(Generic[T]):
    """A function at work in a thread of its own, and what came of it."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._result: T
        self.error: BaseException | None = None
        self.over = threading.Event()

    def run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self.error = error
        finally:
            _waiting.release()
            self.over.set()

    def result(self) -> T:
        if self.error is not None:
            raise self.error
        return self._result


def within(deadline: Deadline, function: Callable[[], T]) -> T:
    """What `function` returns or raises, unless it takes too long; then it is left to itself, in its thread.

    Raises:
        TooSlowError: the deadline came first.
    """
    if not _waiting.acquire(timeout=deadline.left_s()):
        raise deadline.missed()
    work = _Work(function)
    try:
        threading.Thread(target=work.run, name="callreel-waits", daemon=True).start()
    except BaseException:
        _waiting.release()
        raise
    if not work.over.wait(deadline.left_s()):
        raise deadline.missed()
    return work.result()
