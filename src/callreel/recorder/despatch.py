"""The queue of a recorder at work: what is due goes out by one of its pools, and what comes of it comes back.

What an entry is for is the first part of its id; an `Errand` for each knows what is done with it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from callreel.delivery.error_classes import class_of, text_of
from callreel.delivery.queue import Entry, Queue
from callreel.errors import DeliveryError
from callreel.recorder.clerk import INSIST_EVERY_S, Clerk
from callreel.recorder.figures import LaneFigures, Milestone

__all__ = [
    "DELIVERY",
    "MESSAGE",
    "NOWHERE",
    "REPLAY",
    "TERMINAL",
    "Despatch",
    "Errand",
    "Sending",
    "purpose_of",
    "which",
]

log = logging.getLogger("callreel.recorder")

NOWHERE: Final = "nowhere"
"""The lane of what has no destination that is offered, and of messages whose notifier cannot be found."""

DELIVERY, MESSAGE, TERMINAL, REPLAY = "deliver", "say", "end", "replay"
"""What an entry of the queue is for: the first part of its id. A group of terminal events begins so, too."""


class Sending(NamedTuple):
    """How an entry goes out."""

    pool: ThreadPoolExecutor
    work: Callable[[], Any]
    """In a thread of the pool."""
    then: Callable[[Any], None]
    """With what came of it, in the clerk's thread."""


class Errand(Protocol):
    """What is done with the entries of one purpose; in the clerk's thread."""

    def sending(self, entry: Entry) -> Sending | None:
        """How it is sent; None when there is nothing to send: then it is `done` already, or comes `again`."""
        ...

    def failed(self, entry: Entry, error: BaseException, *, is_given_up: bool) -> None:
        """It could not be sent; it comes again, or is a dead letter now."""
        ...


class Despatch:
    """Sends what is in the queue; but for `lanes`, `problems` and its length it belongs to the clerk's thread."""

    def __init__(
        self,
        folder: Path,
        clerk: Clerk,
        *,
        lane_limit: int,
        wall_clock: Callable[[], float],
        observe: Callable[[Milestone], None],
    ) -> None:
        """Open the queue in `folder`; of a lane at most `lane_limit` entries are sent at a time."""
        self.errands: dict[str, Errand] = {}
        """By purpose."""
        self._clerk = clerk
        self._wall_clock = wall_clock
        self._observe = observe
        self._queue = Queue(folder, now_s=wall_clock(), random=random.random, lane_limit=lane_limit)

    def __len__(self) -> int:
        """How many entries wait or are on their way."""
        return len(self._queue)

    def __contains__(self, entry_id: str) -> bool:
        """Whether an entry is there, or a dead letter."""
        return entry_id in self._queue

    def lanes(self) -> Mapping[str, LaneFigures]:
        """What waits in each lane."""
        return {lane: LaneFigures(*found) for lane, found in self._queue.lanes().items()}

    def problems(self) -> list[str]:
        """What was found damaged, and what was done about it, since the last time."""
        return [f"{problem.path.name} {problem.text}" for problem in self._queue.problems()]

    def next_s(self) -> float:
        """In how many seconds `send` is wanted."""
        now_s = self._wall_clock()
        return self._queue.next_due(now_s) - now_s

    def close(self) -> None:
        """Close the queue."""
        self._queue.close()

    def put(
        self,
        entry_id: str,
        *,
        lane: str,
        group: str,
        payload: Mapping[str, Any],
        ordered: bool = True,
        lasting: bool = True,
    ) -> None:
        """Put something into the queue; see `Queue.put`."""
        self._queue.put(
            entry_id,
            lane=lane,
            group=group,
            payload=payload,
            now_s=self._wall_clock(),
            ordered=ordered,
            lasting=lasting,
        )

    def given_up(self, entry_id: str) -> str | None:
        """How a dead letter has failed last; None when it is none."""
        if not self._queue.is_dead(entry_id):
            return None
        return self._queue.last_error(entry_id) or "it was given up"

    def send(self) -> None:
        """Send all that may go now."""
        try:
            while (entry := self._queue.lease(self._wall_clock())) is not None:
                self._send(entry)
        except Exception:
            log.exception("the queue gives nothing")

    def _send(self, entry: Entry) -> None:
        try:
            sending = self.errands[purpose_of(entry)].sending(entry)
            if sending is not None:
                self._submit(entry, sending)
        except Exception as error:
            log.exception("%s cannot be sent", entry.id, extra=_names(entry))
            self._queue.retry(entry.id, error, self._wall_clock())

    def again(self, entry: Entry) -> None:
        """It cannot be sent now: in a moment."""
        self._clerk.later(INSIST_EVERY_S, partial(self._send, entry))

    def done(self, entry: Entry) -> None:
        """It is done; where a disk refuses that, it is said again.

        Should it come back with the power: what is delivered is known by its take, and an event has its id.
        """
        try:
            self._queue.done(entry.id, lasting=False)
        except OSError as error:
            log.error("%s is done, but not in the queue: %s", entry.id, error.strerror, extra=_names(entry))
            self._clerk.later(INSIST_EVERY_S, partial(self.done, entry))

    def _submit(self, entry: Entry, sending: Sending) -> None:
        began: list[float] = []

        def timed() -> Any:
            began.append(time.time())
            return sending.work()

        def over(future: Future[Any]) -> None:
            if not future.cancelled():
                settle = partial(self._settle, entry, future, sending.then, began[0], time.time())
                self._clerk.post(settle)

        sending.pool.submit(timed).add_done_callback(over)

    def _settle(
        self, entry: Entry, future: Future[Any], then: Callable[[Any], None], began_s: float, ended_s: float
    ) -> None:
        error = future.exception()
        call_id, purpose = _call_id(entry), purpose_of(entry)
        milestone = Milestone(
            "deliver" if purpose == DELIVERY else "tell", which(entry), call_id, began_s, ended_s, entry.lane
        )
        if error is None:
            self._observe(milestone)
            then(future.result())
            return
        named = _names(entry)
        if not isinstance(error, DeliveryError):
            log.error("%s went wrong", entry.id, exc_info=error, extra=named)
        due_s = self._queue.retry(entry.id, error, self._wall_clock())
        log.warning("%s failed, %s: %s", entry.id, class_of(error), text_of(error), extra=named)
        self._observe(
            milestone._replace(error_class=class_of(error), error=text_of(error), is_given_up=due_s is None)
        )
        self.errands[purpose].failed(entry, error, is_given_up=due_s is None)


def purpose_of(entry: Entry) -> str:
    """What an entry is for."""
    return entry.id.partition(":")[0]


def which(entry: Entry) -> str:
    """The take, or what is told, that an entry is about."""
    return entry.id.partition(":")[2]


def _call_id(entry: Entry) -> str:
    """Of which call an entry is: terminal events have a group of their own."""
    return entry.group.removeprefix(f"{TERMINAL}:")


def _names(entry: Entry) -> dict[str, str]:
    """What a log says of an entry beside its text."""
    return {"call_id": _call_id(entry), "lane": entry.lane}
