"""What has happened, numbered, for those who watch: they may come late, and take up where they were."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["EventStream", "Told"]

KEPT = 10_000
"""Events that a watcher may miss and still get."""


class Told(NamedTuple):
    """One event, as JSON."""

    number: int
    tenant: str
    body: Mapping[str, Any]


class EventStream:
    """The latest events of a process; any thread may tell and watch."""

    def __init__(self, kept: int = KEPT) -> None:
        """Keep so many."""
        self._told: deque[Told] = deque(maxlen=kept)
        self._number = 0
        self._watchers: dict[object, Callable[[], None]] = {}
        self._lock = threading.Lock()

    @property
    def last_number(self) -> int:
        """Of the latest event; 0 when there was none."""
        return self._number

    def tell(self, tenant: str, body: Mapping[str, Any]) -> None:
        """Add an event, and wake who watches."""
        with self._lock:
            self._number += 1
            self._told.append(Told(self._number, tenant, body))
            watchers = list(self._watchers.values())
        for wake in watchers:
            wake()

    def since(self, number: int, tenant: str | None = None) -> tuple[list[Told], bool]:
        """Events after that number, of one tenant or of all; and whether some before them are not kept any more."""
        with self._lock:
            oldest = self._number + 1 - len(self._told)
            newer = min(len(self._told), self._number - number)
            # The latest stand at the end: who watches all the time does not look through all that is kept.
            found = [self._told[place] for place in range(-newer, 0)]
        if tenant is not None:
            found = [one for one in found if one.tenant == tenant]
        return found, number + 1 < oldest

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Have `wake` called, from any thread, whenever there is something; returns what ends that."""
        name = object()
        with self._lock:
            self._watchers[name] = wake

        def leave() -> None:
            with self._lock:
                self._watchers.pop(name, None)

        return leave
