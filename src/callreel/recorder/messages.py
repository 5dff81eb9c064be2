"""Whom a recorder tells: customers, in their vendor's words, and whoever wants the terminal events.

What is told outside goes through the queue, so it is told at least once, each time under the same id; what nobody
outside wants goes to the host. Secrets of a message stay in memory.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from callreel.delivery.queue import Entry
from callreel.errors import DeliveryDeniedError
from callreel.events import Event, Perform, VendorMessage
from callreel.notify import (
    INVOCATION,
    NOTIFICATION,
    Answer,
    Notification,
    Notifier,
    from_payload,
    limits_for,
    secrets_of,
    to_payload,
)
from callreel.recorder.clerk import Clerk
from callreel.recorder.despatch import MESSAGE, NOWHERE, REPLAY, TERMINAL, Despatch, Sending, purpose_of
from callreel.recorder.jobs import TakeEnded, TakeReplayed

if TYPE_CHECKING:
    from callreel.recorder.calls import RecordedCall

__all__ = ["Messages"]

log = logging.getLogger("callreel.recorder")


class _NobodyError(DeliveryDeniedError):
    """Another process of the host's knows whom to tell; one that only recovers must not take it for told."""


class _Own(NamedTuple):
    """What only this process knows of a message in the queue."""

    call: RecordedCall | None
    secrets: Mapping[str, Any]
    """They are in no file."""


class Messages:
    """Puts messages and terminal events into the queue, and tells them: the `Errand` of both."""

    def __init__(
        self,
        clerk: Clerk,
        despatch: Despatch,
        *,
        tellers: int,
        notifier_for: Callable[[VendorMessage], Notifier | None],
        secrets_again: Callable[[VendorMessage, Sequence[str]], Mapping[str, Any]],
        events: Notifier | None,
        tell_host: Callable[[Event | TakeEnded | TakeReplayed], None],
        wall_clock: Callable[[], float],
    ) -> None:
        """Tell at most `tellers` at a time; `events`, if there is one, is told every terminal event.

        `secrets_again` gives the secrets of a message that an earlier process has left, by where they stood in it.
        """
        self._clerk = clerk
        self._despatch = despatch
        self._notifier_for = notifier_for
        self._secrets_again = secrets_again
        self._events = events
        self._tell_host = tell_host
        self._wall_clock = wall_clock
        self._tellers = ThreadPoolExecutor(tellers, "callreel-tell")
        self._about = threading.local()
        """Its `ids`, those of messages that a thread says now, where they are not to be new ones."""
        self._own: dict[str, _Own] = {}
        """By id, the messages of this process."""
        despatch.errands |= dict.fromkeys((MESSAGE, TERMINAL, REPLAY), self)

    def close(self) -> None:
        """Wait for what is being told."""
        self._tellers.shutdown(cancel_futures=True)

    # -- customers -------------------------------------------------------------------------------------------------

    @contextmanager
    def about(self, take_id: str) -> Iterator[None]:
        """What this thread says meanwhile is about the end of a take: it has the same ids whenever it is said again.

        So a customer who was told shortly before a process died knows what the next one says.
        """
        self._about.ids = (uuid.uuid5(uuid.NAMESPACE_OID, f"{take_id} {number}").hex for number in count())
        try:
            yield
        finally:
            self._about.ids = None

    def say(self, event: VendorMessage, call: RecordedCall | None) -> None:
        """Tell a customer something; any thread. `call`: who wants the answer."""
        try:
            notifier = self._notifier_for(event)
        except Exception:
            # The host's own function: what it is asked about is kept, and it is asked again.
            named = {"call_id": event.call_id}
            log.exception("nobody knows whom a message of call %s is for", event.call_id, extra=named)
            lane = NOWHERE
        else:
            if notifier is None:
                self._tell_host(event)
                return
            lane = notifier.lane
        kind = INVOCATION if event.kind == INVOCATION else NOTIFICATION
        ids = getattr(self._about, "ids", None)
        told = Notification(
            uuid.uuid4().hex if ids is None else next(ids),
            event.call_id,
            event.dialect,
            kind,
            event.body,
            self._wall_time(),
        )
        self._clerk.post(partial(self._put, told, lane, call))

    def _put(self, told: Notification, lane: str, call: RecordedCall | None) -> None:
        self._own[told.id] = _Own(call, secrets_of(told))
        payload = to_payload(told)
        self._clerk.insist(
            lambda: self._despatch.put(f"{MESSAGE}:{told.id}", lane=lane, group=told.call_id, payload=payload)
        )

    # -- terminal events -------------------------------------------------------------------------------------------

    @property
    def has_events(self) -> bool:
        """Whether somebody outside wants terminal events."""
        return self._events is not None

    def put_end(self, ended: TakeEnded | TakeReplayed) -> None:
        """Put a terminal event into the queue; an OSError says that it may not be there: put it again."""
        if self._events is None:
            return
        what, name = (TERMINAL, "take_ended") if isinstance(ended, TakeEnded) else (REPLAY, "take_replayed")
        entry_id = f"{what}:{ended.take_id}"
        body = {"event": name, **ended._asdict()}
        told = Notification(entry_id, ended.call_id, "callreel", NOTIFICATION, body, self._wall_time())
        self._despatch.put(
            entry_id,
            lane=self._events.lane,
            # Apart from what the call's customer is told: one who does not listen does not keep it from the host.
            group=f"{TERMINAL}:{ended.call_id}",
            payload=to_payload(told),
        )

    # -- the errand ------------------------------------------------------------------------------------------------

    def sending(self, entry: Entry) -> Sending:
        """Tell it."""
        return Sending(self._tellers, partial(self._tell, entry), partial(self._told, entry))

    def _tell(self, entry: Entry) -> Answer | None:
        """In a teller's thread."""
        own = self._own.get(str(entry.payload["id"]))
        is_message = purpose_of(entry) == MESSAGE
        secrets = {} if own is None else own.secrets
        if is_message and own is None and entry.payload["secrets"]:
            bare = from_payload({**entry.payload, "secrets": []})
            message = VendorMessage(bare.call_id, bare.dialect, bare.kind, bare.body)
            secrets = self._secrets_again(message, entry.payload["secrets"])
        told = from_payload(entry.payload, secrets)
        notifier = self._events
        if is_message:
            notifier = self._notifier_for(VendorMessage(told.call_id, told.dialect, told.kind, told.body))
        if notifier is None:
            whom = (
                f"{told.dialect} messages, [notify.{told.dialect}]"
                if is_message
                else "terminal events, [notify.events]"
            )
            raise _NobodyError(f"it is not set who is told of {whom}", key=entry.id, retryable=True)
        return notifier.tell(told)

    def _told(self, entry: Entry, answer: Answer | None) -> None:
        self._despatch.done(entry)
        own = self._own.pop(str(entry.payload["id"]), None)
        if own is not None and own.call is not None and answer is not None:
            own.call.answer(answer.document)

    def failed(self, entry: Entry, error: BaseException, *, is_given_up: bool) -> None:
        """A call that waits for an answer does not get one any more."""
        if purpose_of(entry) != MESSAGE or isinstance(error, _NobodyError):
            return
        told = from_payload({**entry.payload, "secrets": []})
        if limits_for(told).is_queued and not is_given_up:
            return
        self._despatch.done(entry)
        own = self._own.pop(told.id, None)
        if told.kind == INVOCATION and own is not None:
            self._tell_host(Perform(told.call_id, "", "unanswered", "Hangup", {}))

    def _wall_time(self) -> datetime:
        return datetime.fromtimestamp(self._wall_clock(), UTC)
