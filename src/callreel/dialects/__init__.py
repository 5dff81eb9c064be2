"""Vendors' words, both ways: one module a vendor. They know nothing of audio and do no I/O.

A `Session` is a vendor's side of one call. It reads documents into orders, and it hears every event of the call and
answers with messages in the vendor's words, and with orders of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol

from callreel.actions import NOTHING, Action, EndReason
from callreel.errors import ActionError, UsageError
from callreel.events import CallView, Event, RecordingStarted

__all__ = ["OBJECT", "Aftermath", "Answer", "Order", "Response", "Session", "messages_after"]

OBJECT: Final = (dict, Mapping)
"""What an object of JSON may be, for `isinstance`: nearly always the first, which is quick to tell."""


class Order(NamedTuple):
    """What a call is to do; the parts in this order."""

    stop_running: EndReason | None = None
    """INTERRUPTED ends the running action if it may be interrupted, CANCELLED in any case."""
    drop_queue: bool = False
    """Whether actions that wait for their turn are forgotten."""
    actions: tuple[Action, ...] = ()
    """To be carried out one after the other, behind those that wait."""
    at_once: bool = False
    """Whether these do not wait."""


class Response(NamedTuple):
    """What a vendor's HTTP request is answered."""

    status: int
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = NOTHING


class Answer(NamedTuple):
    """What a session makes of a document or an event."""

    order: Order | None = None
    messages: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """(kind, body) each, for `callreel.events.VendorMessage`."""
    response: Response | None = None


class Session(Protocol):
    """A vendor's side of one call."""

    dialect: str
    """The vendor's name in manifests and messages."""
    metadata_has_duration: bool
    """Whether what is stored beside an object tells how long its recording is."""

    def request(self, document: Any, call: CallView) -> Answer:
        """Read a document of the customer's: an answer to a message, or a request of their own."""
        ...

    def tell(self, event: Event, call: CallView) -> Answer:
        """Hear what has happened."""
        ...

    def describe(
        self, action_id: str, *, leg: str, duration_s: float, media_type: str, call: CallView
    ) -> tuple[Mapping[str, str], Mapping[str, Any]]:
        """What is stored beside the object of a finished recording, and what its manifest says besides.

        The latter has at least "action", the vendor's word for what was asked.
        """
        ...

    def last_words(self, event: RecordingStarted, call: CallView) -> Mapping[str, Any] | None:
        """What `messages_after` wants to know, should this session die before the recording's end is told.

        JSON; None for a recording whose end the vendor tells nothing of.
        """
        ...


class Aftermath(NamedTuple):
    """What became of a recording whose session has died with its process."""

    key: str
    at: datetime
    was_finished: bool
    """Whether the session has lived to hear its `RecordingFinished`."""
    terminator: str | None
    """The key that ended it."""
    error: ActionError | None
    """Why it could not be stored; None when it is where it belongs."""


def messages_after(
    dialect: str, words: Mapping[str, Any], aftermath: Aftermath
) -> tuple[Mapping[str, Any], ...]:
    """What the customer is still to be told of such a recording: the bodies of notifications, in order.

    `words`: the `last_words` of a session of that dialect. The call is over for its vendor, so nothing wants an answer.
    """
    match dialect:
        case "chime":
            from callreel.dialects.chime import messages_after as of_chime

            return of_chime(words, aftermath)
        case "sinch":
            from callreel.dialects.sinch import messages_after as of_sinch

            return of_sinch(words, aftermath)
        case "graph":
            from callreel.dialects.graph import messages_after as of_graph

            return of_graph(words, aftermath)
    raise UsageError(f"the last words of {dialect!r} are no vendor's")
