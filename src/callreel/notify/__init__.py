"""Telling customers what has happened: in their AWS Lambda function, at their HTTPS address, in a function of the host.

A notifier tells one notification once, within its time, or raises a `DeliveryError` that says whether to try again. It
keeps nothing: to be durable, to try again later and to keep a call's notifications in order is the queue's, whose
entries hold what `to_payload` makes. So a notification is told at least once, always under the same id.

What knows vendors is the table below alone: how long their platforms wait, and what they do then.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol

from callreel.errors import DeliveryError, UsageError
from callreel.patience import Deadline, TooSlowError

__all__ = [
    "ID_HEADER",
    "INVOCATION",
    "NOTIFICATION",
    "SECRET_MEMBERS",
    "Answer",
    "FirstThatAnswers",
    "Limits",
    "Notification",
    "Notifier",
    "as_json",
    "ask",
    "from_payload",
    "limits_for",
    "read_answer",
    "secrets_of",
    "to_payload",
]

INVOCATION: Final = "invocation"
"""A kind of notification: wants an answer."""
NOTIFICATION: Final = "notification"
"""A kind of notification: wants none."""

ID_HEADER: Final = "webhook-id"
"""The header, or the member of a Lambda function's client context, that has a notification's id."""

ID = re.compile(r"[0-9A-Za-z_:-]{1,200}")  # no full stop: the signed text is id.timestamp.body

SECRET_MEMBERS: Final = frozenset({"recordingaccesstoken", "accesstoken", "credentials", "authorization"})
"""Members of a body that never reach a disk, in lower case: Microsoft Graph's token for a download, Sinch's keys."""


@dataclass(frozen=True, slots=True)
class Notification:
    """What is to be told to a customer. Its repr does not hold the body."""

    id: str
    """Stable and globally unique: letters, digits, "_", ":" and "-"."""
    call_id: str
    dialect: str
    kind: str
    """As in `callreel.events.VendorMessage`."""
    body: Mapping[str, Any] = field(repr=False)
    """JSON."""
    created_at: datetime

    def __post_init__(self) -> None:
        """Refuse what could not be told."""
        if not ID.fullmatch(self.id):
            raise UsageError("the id of a notification is 1 to 200 letters, digits, '_', ':' and '-'")
        if self.kind not in (INVOCATION, NOTIFICATION):
            raise UsageError("a notification is an invocation or a notification")
        if self.created_at.tzinfo is None:
            raise UsageError("when a notification was created needs a time zone")


class Answer(NamedTuple):
    """What a customer answered to an invocation: for `Call.request`."""

    document: Any
    """JSON; None where the answer was empty, the text itself where it was no JSON."""


class Notifier(Protocol):
    """A way to a customer."""

    @property
    def lane(self) -> str:
        """What fails together, such as "https://host:443": while one lane is down the others go on."""
        ...

    def tell(self, notification: Notification) -> Answer | None:
        """Tell it: an invocation gives an answer, a notification None. A `DeliveryError` if it was not taken."""
        ...


# ---- how long vendors wait ---------------------------------------------------------------------------------------


class Limits(NamedTuple):
    """How long a customer's program may take, and how often it is asked."""

    attempt_s: float
    """After which an attempt without an answer is given up, and the next begins."""
    total_s: float
    """After which no further one begins or goes on."""
    failures: int
    """At which failed attempt it is over; those that were too slow are not counted, they take time enough."""
    is_queued: bool
    """Whether another try later can help: what a call waits for cannot be told when it is over."""


LIMITS: Final[Mapping[tuple[str, str], Limits]] = {
    # Amazon Chime SDK's guide, "Understanding timeouts and retries": waits 5 s before the next invocation, hangs up
    # after 20 s, retries once after an error of 4xx, then 480. What it does after one of 5xx, or of the function's own,
    # it does not say: the same.
    ("chime", INVOCATION): Limits(5.0, 20.0, 2, False),
    # It invokes the function for a hang-up in the same way. That nobody waits for, so the queue may try again.
    ("chime", NOTIFICATION): Limits(5.0, 20.0, 2, True),
    # Sinch: no page has a time for callbacks of version 1; of version 2 it is 5 s. They are sent once; a fallback URL
    # is `FirstThatAnswers`.
    ("sinch", INVOCATION): Limits(5.0, 5.0, 1, False),
    # "If there is no response within the timeout, the notification is discarded."
    ("sinch", NOTIFICATION): Limits(5.0, 5.0, 1, False),
    # Microsoft Graph: the pages of the communications API say nothing; that of change notifications by webhooks has
    # 10 s (3 s in some editions), and tries again.
    ("graph", NOTIFICATION): Limits(10.0, 10.0, 1, True),
}
OTHER_INVOCATION: Final = Limits(5.0, 20.0, 2, False)
OTHER_NOTIFICATION: Final = Limits(10.0, 10.0, 1, True)


def limits_for(notification: Notification) -> Limits:
    """How long to wait for it and how often to ask, as its vendor does."""
    other = OTHER_INVOCATION if notification.kind == INVOCATION else OTHER_NOTIFICATION
    return LIMITS.get((notification.dialect, notification.kind), other)


def ask(limits: Limits, attempt: Callable[[float], Answer | None], *, what: str) -> Answer | None:
    """Make attempts, each with the seconds that it may take, until one goes well.

    Raises:
        DeliveryError: none did; that of the last one, and retryable only if the limits have it so.
    """
    deadline = Deadline(what, limits.total_s)
    failures = 0
    while True:
        try:
            return attempt(min(limits.attempt_s, deadline.left_s()))
        except DeliveryError as error:
            failures += not isinstance(error, TooSlowError)
            try:
                deadline.left_s()
            except TooSlowError:
                failures = limits.failures
            if failures >= limits.failures:
                error.retryable = error.retryable and limits.is_queued
                raise


class FirstThatAnswers:
    """Several ways to one customer, in order: a later one is gone when those before it have failed.

    So is Sinch's fallback URL, and the order of SIP media applications in a rule of Amazon Chime's.
    """

    def __init__(self, *notifiers: Notifier) -> None:
        """Try these, in this order."""
        if not notifiers:
            raise UsageError("at least one notifier")
        self._notifiers = notifiers

    @property
    def lane(self) -> str:
        """The lanes of all."""
        return " ".join(one.lane for one in self._notifiers)

    def tell(self, notification: Notification) -> Answer | None:
        """Tell it to the first that takes it; the error is that of the last, retryable if that of any is."""
        *earlier, last = self._notifiers
        retryable = False
        for one in earlier:
            try:
                return one.tell(notification)
            except DeliveryError as error:
                retryable |= error.retryable
        try:
            return last.tell(notification)
        except DeliveryError as error:
            error.retryable |= retryable
            raise


# ---- JSON --------------------------------------------------------------------------------------------------------


def as_json(body: Any) -> bytes:
    """The bytes that are sent and signed: ASCII, without spaces, members in their order.

    Raises:
        UsageError: it cannot be written as JSON.
    """
    try:
        return json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError):
        raise UsageError("the body of a notification is JSON") from None


def read_answer(body: bytes) -> Answer:
    """Read what came back; what is no JSON becomes text, which every session refuses in its vendor's words."""
    if not body.strip():
        return Answer(None)
    text = body.decode("utf-8-sig", errors="replace")
    try:
        return Answer(json.loads(text, parse_constant=_not_json))
    except (ValueError, RecursionError):
        return Answer(text)


def _not_json(constant: str) -> None:
    raise ValueError(constant)


def to_payload(notification: Notification) -> dict[str, Any]:
    """A notification as a JSON object without secrets, for a queue on disk.

    Members of the body that are secrets (`SECRET_MEMBERS`) become null, and the payload says where they were;
    `secrets_of` gives what stood there.
    """
    body = json.loads(as_json(notification.body))
    paths = [path for path, _ in _secrets_in(body, ())]
    for *parents, name in paths:
        _at(body, parents)[name] = None
    return {
        "id": notification.id,
        "call_id": notification.call_id,
        "dialect": notification.dialect,
        "kind": notification.kind,
        "body": body,
        "created_at": notification.created_at.isoformat(),
        "secrets": [_pointer(path) for path in paths],
    }


def secrets_of(notification: Notification) -> dict[str, Any]:
    """The secrets in a body, by where they stand (JSON pointers): to be kept in memory, or encrypted."""
    return {_pointer(path): value for path, value in _secrets_in(json.loads(as_json(notification.body)), ())}


def from_payload(payload: Mapping[str, Any], secrets: Mapping[str, Any] | None = None) -> Notification:
    """The notification that a payload was made of; `secrets` as `secrets_of` gave them.

    Raises:
        DeliveryError: a secret is gone, as after a restart, and must be given again.
        UsageError: it is no such payload.
    """
    try:
        body = json.loads(as_json(payload["body"]))
        for pointer in payload["secrets"]:
            if pointer not in (secrets or {}):
                raise DeliveryError(  # its lane is not at fault: others are told meanwhile
                    f"the secret at {pointer} of notification {payload['id']} is gone, and must be given again",
                    key=str(payload["id"]),
                    retryable=True,
                )
            *parents, name = _path(pointer, body)
            _at(body, parents)[name] = (secrets or {})[pointer]
        return Notification(
            id=payload["id"],
            call_id=payload["call_id"],
            dialect=payload["dialect"],
            kind=payload["kind"],
            body=body,
            created_at=datetime.fromisoformat(payload["created_at"]),
        )
    except (KeyError, IndexError, TypeError, ValueError):
        raise UsageError("this is not the payload of a notification") from None


Path = Sequence[str | int]


def _secrets_in(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[Path, Any]]:
    """(where, what) of every secret, the outermost alone; null is none."""
    if isinstance(value, dict):
        for name, one in value.items():
            if name.lower() in SECRET_MEMBERS and one is not None:
                yield (*path, name), one
            else:
                yield from _secrets_in(one, (*path, name))
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _secrets_in(one, (*path, number))


def _at(body: Any, path: Path) -> Any:
    for one in path:
        body = body[one]
    return body


def _pointer(path: Path) -> str:
    """A path as RFC 6901 writes it."""
    return "".join("/" + str(one).replace("~", "~0").replace("/", "~1") for one in path)


def _path(pointer: str, body: Any) -> Path:
    path: list[str | int] = []
    for part in pointer.split("/")[1:]:
        name: str | int = part.replace("~1", "/").replace("~0", "~")
        name = int(name) if isinstance(body, list) else name
        path.append(name)
        body = body[name]
    return path
