"""What the host has been told and has not read yet: bounded in memory, however long it does not read.

Terminal events are never dropped: those that find no room in memory wait in a nameless file in the spool's folder. Of
all others the oldest are dropped, and how many they were is the first that the host reads afterwards.
"""

from __future__ import annotations

import errno
import logging
import os
import pickle
import tempfile
import time
import weakref
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from threading import Condition, Lock
from typing import Any, BinaryIO, NamedTuple, TypeAlias

from callreel.events import Event
from callreel.recorder.jobs import TakeEnded, TakeReplayed

__all__ = ["MAX_EVENTS", "MAX_TERMINAL_EVENTS", "Backlog", "EventsLost", "HostEvent"]

log = logging.getLogger("callreel.recorder")

MAX_EVENTS = 100_000
"""Events in memory: a burst of 2,000 calls that begin and end at once is a fifth of these."""
MAX_TERMINAL_EVENTS = 10_000
"""Terminal events in memory, which are larger."""


class EventsLost(NamedTuple):
    """So many events were not read in time, and are gone; terminal events never are."""

    call_id: str
    """Empty: they are of any calls. What a call waits for that the host did not hear of does not come."""
    events: int
    kinds: Mapping[str, int]
    """How many of each class of `callreel.events`."""


HostEvent: TypeAlias = Event | TakeEnded | TakeReplayed | EventsLost


class Backlog:
    """Events in the order in which they were put; any thread."""

    def __init__(
        self,
        folder: Path,
        *,
        max_events: int = MAX_EVENTS,
        max_terminal_events: int = MAX_TERMINAL_EVENTS,
    ) -> None:
        """What finds no room in memory goes to a file in `folder`, made when that happens."""
        self._folder = folder
        self._max_events, self._max_terminal = max_events, max_terminal_events
        self._changed = Condition()
        self._next_number = 0
        self._events: deque[tuple[int, Event]] = deque()
        self._terminal: deque[tuple[int, TakeEnded | TakeReplayed]] = deque()
        self._lost: Counter[str] = Counter()
        self._lost_number = 0
        """Of the latest that was lost."""
        self._filing = Lock()
        """Is held while the file is written and read, which no call waits for."""
        self._file: BinaryIO | None = None
        self._filed = 0
        """How many wait in the file, behind those in memory."""
        self._read_at = self._written_to = 0

    def put(self, event: Event | TakeEnded | TakeReplayed) -> None:
        """Have it read; with a terminal event a disk may be waited for."""
        if isinstance(event, TakeEnded | TakeReplayed):
            with self._filing:
                self._put_terminal(event)
            return
        with self._changed:
            self._events.append((self._number(), event))
            if len(self._events) > self._max_events:
                if not self._lost:
                    log.error("nobody reads the recorder's events: the oldest are dropped")
                self._lost_number, dropped = self._events.popleft()
                self._lost[type(dropped).__name__] += 1
            self._changed.notify()

    def _number(self) -> int:
        self._next_number += 1
        return self._next_number

    def _put_terminal(self, event: TakeEnded | TakeReplayed) -> None:
        with self._changed:
            numbered = self._number(), event
            has_room = not self._filed and len(self._terminal) < self._max_terminal
            if has_room:
                self._terminal.append(numbered)
                self._changed.notify()
        if has_room:
            return
        try:
            self._write(numbered)
        except Exception:
            log.exception("terminal events that nobody reads stay in memory")
            self._read(self._filed)
            with self._changed:
                self._terminal.append(numbered)
                self._changed.notify()

    def get(self, timeout_s: float = 0.0) -> HostEvent | None:
        """The next; None when there is none for so long."""
        until = time.monotonic() + timeout_s
        while True:
            if self._filed and not self._terminal:
                with self._filing:
                    if not self._terminal:  # else another thread has read them
                        self._read(self._max_terminal)
            with self._changed:
                if self._filed and not self._terminal:
                    continue  # the next may be one of these
                found = self._next()
                left_s = until - time.monotonic()
                if found is not None or left_s <= 0:
                    return found
                self._changed.wait(left_s)

    def _next(self) -> HostEvent | None:
        number = self._terminal[0][0] if self._terminal else None
        if self._lost and (number is None or self._lost_number < number):
            lost, self._lost = self._lost, Counter()
            return EventsLost("", lost.total(), dict(lost))
        if self._events and (number is None or self._events[0][0] < number):
            return self._events.popleft()[1]
        return self._terminal.popleft()[1] if number is not None else None

    # -- the file ------------------------------------------------------------------------------------------------

    def _write(self, numbered: tuple[int, Any]) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
            weakref.finalize(self, self._file.close)
        body = pickle.dumps(numbered)
        data = len(body).to_bytes(4, "big") + body
        self._file.seek(self._written_to)  # behind what a full disk has taken half of
        if self._file.write(data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._written_to += len(data)
        with self._changed:
            self._filed += 1
            self._changed.notify()

    def _read(self, at_most: int) -> None:
        """Take up to so many from the file into memory."""
        if self._file is None:
            return
        wanted = min(at_most, self._filed)
        self._file.seek(self._read_at)
        found = []
        for _ in range(wanted):
            size = int.from_bytes(self._file.read(4), "big")
            found.append(pickle.loads(self._file.read(size)))
        self._read_at = self._file.tell()
        with self._changed:
            self._terminal.extend(found)
            self._filed -= wanted
        if not self._filed:
            self._file.truncate(0)
            self._read_at = self._written_to = 0
