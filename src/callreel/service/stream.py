"""What has happened, numbered, for those who watch: they may come late, and take up where they were."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["EventStream", "Since", "Told"]

KEPT = 10_000
"""Events that a watcher may miss and still get."""


class Told(NamedTuple):
    """One event, as JSON."""

    number: int
    tenant: str
    body: Mapping[str, Any]


class Since(NamedTuple):
    """What has happened behind a number."""

    told: list[Told]
    is_gap: bool
    """Whether there was more before it that is not kept any more, or of which this process knows nothing."""
    first: int
    """Behind this number begins what is kept of it."""
    last: int
    """Of the latest event, whosever it is."""


class EventStream:
    """The latest events of a process; any thread may tell and watch.

    Numbers begin with the microsecond of the start, so that no number of an earlier process is one of this one's: who
    comes back with such a one is told that something may be missing.
    """

    def __init__(self, kept: int = KEPT) -> None:
        """Keep so many."""
        self._told: deque[Told] = deque(maxlen=kept)
        self._before = time.time_ns() // 1000
        self._number = self._before
        self._watchers: dict[object, Callable[[], None]] = {}
        self._lock = threading.Lock()

    @property
    def last_number(self) -> int:
        """Of the latest event, or the one before the first."""
        return self._number

    def tell(self, tenant: str, body: Mapping[str, Any]) -> None:
        """Add an event, and wake who watches."""
        with self._lock:
            self._number += 1
            self._told.append(Told(self._number, tenant, body))
            watchers = list(self._watchers.values())
        for wake in watchers:
            wake()

    def since(self, number: int, tenant: str | None = None) -> Since:
        """Events after that number, or with 0 from the beginning, of one tenant or of all."""
        with self._lock:
            last = self._number
            first = last - len(self._told)
            number = number or self._before
            is_gap = not first <= number <= last
            begin = first if is_gap else number
            # The latest stand at the end: who watches all the time does not look through all that is kept.
            found = [self._told[place] for place in range(begin - last, 0)]
        told = [one for one in found if tenant is None or one.tenant == tenant]
        return Since(told, is_gap, begin, last)

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Have `wake` called, from any thread, whenever there is something; returns what ends that."""
        name = object()
        with self._lock:
            self._watchers[name] = wake

        def leave() -> None:
            with self._lock:
                self._watchers.pop(name, None)

        return leave
