"""The thread that keeps the books: it does one thing after the other, and what a disk refuses again until it goes.

Whoever has something for it puts it into its inbox and goes on.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from queue import Empty, SimpleQueue
from threading import Lock, Thread

__all__ = ["INSIST_EVERY_S", "Clerk"]

log = logging.getLogger("callreel.recorder")

Work = Callable[[], object]

INSIST_EVERY_S = 0.5
"""When that is tried again which a disk has refused and which must not be lost."""


class Clerk:
    """A thread with an inbox."""

    def __init__(self, *, then: Callable[[], None], next_s: Callable[[], float]) -> None:
        """Nothing is done before `start`.

        Its thread calls `then` after each piece of work, and when nothing has come for the seconds that `next_s` gives.
        """
        self._then, self._next_s = then, next_s
        self._inbox: SimpleQueue[Work | None] = SimpleQueue()
        self._waiting = 0
        """What has been put into the inbox and is not done."""
        self._counting = Lock()
        self._postponed: list[tuple[float, int, Work]] = []
        self._numbers = count()
        self._undone: deque[Work] = deque()
        """What the disk has refused, and what came after it."""
        self._thread = Thread(target=self._work, name="callreel-office", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """Do what is in the inbox, and end the thread."""
        self._inbox.put(None)
        self._thread.join()

    def finish(self) -> int:
        """Do in the caller's thread what has come in since `stop`; returns how much a disk still refuses."""
        while True:
            try:
                work = self._inbox.get_nowait()
            except Empty:
                break
            if work is not None:
                self.do(work)
        self._insist_on()
        return len(self._undone)

    def __len__(self) -> int:
        """How much is not done."""
        return self._waiting + len(self._undone)

    # -- any thread ------------------------------------------------------------------------------------------------

    def post(self, work: Work) -> None:
        """Have something done."""
        with self._counting:
            self._waiting += 1
        self._inbox.put(work)

    def wake(self) -> None:
        """Have it look whether there is something to do."""
        self._inbox.put(_nothing)

    def do(self, work: Work) -> None:
        """Do something now, in the caller's thread; what goes wrong is logged."""
        try:
            work()
        except Exception:
            log.exception("the office goes on, but something was not done")

    # -- its own thread --------------------------------------------------------------------------------------------

    def later(self, wait_s: float, work: Work) -> None:
        """Do something in a while."""
        heapq.heappush(self._postponed, (time.monotonic() + wait_s, next(self._numbers), work))

    def insist(self, work: Work) -> None:
        """Do what must not be lost: now, or as soon as no disk refuses it; all such work in its order."""
        self._undone.append(work)
        if len(self._undone) == 1:
            self._insist_on()

    def _insist_on(self) -> None:
        while self._undone:
            try:
                self._undone[0]()
            except OSError as error:
                log.error("the queue cannot be written, it is tried again: %s", error.strerror)
                self.later(INSIST_EVERY_S, self._insist_on)
                return
            except Exception:
                log.exception("the office goes on, but something was not done")
            self._undone.popleft()

    def _work(self) -> None:
        while True:
            work = self._next()
            if work is None:
                return
            self.do(work)
            self._do_postponed()
            self._then()
            if work is not _nothing:
                with self._counting:
                    self._waiting -= 1

    def _next(self) -> Work | None:
        wait_s = self._next_s()
        if self._postponed:
            wait_s = min(wait_s, self._postponed[0][0] - time.monotonic())
        try:
            return self._inbox.get(timeout=max(0.0, wait_s))
        except Empty:
            return _nothing

    def _do_postponed(self) -> None:
        while self._postponed and self._postponed[0][0] <= time.monotonic():
            self.do(heapq.heappop(self._postponed)[2])


def _nothing() -> None:
    pass
