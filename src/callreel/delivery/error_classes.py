"""What goes wrong with a delivery, as six classes: how patiently each is tried again, and what the customer is told.

Everything here is data; docs/queue.md shows the tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import NamedTuple

from callreel.errors import (
    CallreelError,
    DeliveryConflictError,
    DeliveryDeniedError,
    DeliveryError,
    DeliveryInterruptedError,
    DeliveryThrottledError,
    DestinationMissingError,
)

__all__ = [
    "DAY_S",
    "LEAST_ATTEMPTS",
    "LONGEST_RETRY_AFTER_S",
    "RETRIES",
    "TOLD",
    "ErrorClass",
    "Retries",
    "Told",
    "class_of",
    "delay_s",
    "patience_asked_s",
    "text_of",
]

DAY_S = 86_400.0

LEAST_ATTEMPTS = 5
"""No entry is given up before: a machine that was off for a week has not tried for a week."""

LONGEST_RETRY_AFTER_S = DAY_S
"""No destination may ask for more patience."""

MAX_TEXT = 500
"""Characters of an error's text that are kept."""


class ErrorClass(StrEnum):
    """Who must act before another try can go well."""

    DENIED = "denied"
    MISSING = "missing"
    THROTTLED = "throttled"
    INTERRUPTED = "interrupted"
    CONFLICT = "conflict"
    OTHER = "other"


class Retries(NamedTuple):
    """How a class of errors is tried again."""

    first_delay_s: float
    factor: float
    longest_delay_s: float
    budget_days: float | None
    """How long it is tried from the first failure on; None for not at all."""
    counts_against_lane: bool
    """Whether it says that the destination, and not this one delivery, is in trouble."""


RETRIES: Mapping[ErrorClass, Retries] = {
    ErrorClass.DENIED: Retries(30, 2, 3600, 7, True),
    ErrorClass.MISSING: Retries(30, 2, 3600, 7, True),
    ErrorClass.THROTTLED: Retries(1, 2, 600, 7, True),
    ErrorClass.INTERRUPTED: Retries(1, 2, 600, 7, True),
    ErrorClass.CONFLICT: Retries(0, 1, 0, None, False),
    ErrorClass.OTHER: Retries(10, 2, 3600, 1, False),
}
"""The policy. The next delay is random between 0 and first * factor ** (failures - 1), which is at most longest."""


class Told(NamedTuple):
    """What a host says to a call of an error, and what becomes of it in the words of the vendors."""

    stored: str
    """For `Call.stored(error=...)`; no vendor hands it on."""
    check_field: str | None
    """`ActionError.field` for `Call.performed` of Chime's CheckAccess: "system" where the customer is not at fault."""
    chime_start: tuple[str, str]
    """ErrorType and ErrorMessage of a StartCallRecording whose destination was looked at."""
    chime_record: tuple[str, str]
    """The same of a RecordAudio that could not be stored."""
    sinch: tuple[int, str]
    """errorCode and errorMsg of the `callingerror`, where the session tells storage failures."""
    graph: tuple[int, int, str]
    """code, subcode and completionReason of the recordOperation."""


_NO_ACCESS = ("NoAccessToDestination", "Error while accessing destination")
_SYSTEM = ("SystemException", "System error while executing an action.")
_UPLOAD = ("InvalidActionParameter", "Error occurred while uploading recording to S3 bucket.")
_CALLING_ERROR = (50000, "Internal error")
_UNSPECIFIED = (500, 9999, "unspecifiedError")


def _told(text: str, *, is_customers: bool) -> Told:
    field, start = (None, _NO_ACCESS) if is_customers else ("system", _SYSTEM)
    return Told(text, field, start, _UPLOAD, _CALLING_ERROR, _UNSPECIFIED)


TOLD: Mapping[ErrorClass, Told] = {
    ErrorClass.DENIED: _told("the destination denies access", is_customers=True),
    ErrorClass.MISSING: _told("there is no such destination", is_customers=True),
    ErrorClass.THROTTLED: _told("the destination asks for patience", is_customers=False),
    ErrorClass.INTERRUPTED: _told("the destination cannot be reached", is_customers=False),
    ErrorClass.CONFLICT: _told("something else is stored under that key", is_customers=False),
    ErrorClass.OTHER: _told("the recording could not be stored", is_customers=False),
}
"""No page names more than these; dialects/chime_words.py, sinch.py and graph.py make them."""

_CLASSES: tuple[tuple[type[Exception], ErrorClass], ...] = (
    (DeliveryDeniedError, ErrorClass.DENIED),
    (DestinationMissingError, ErrorClass.MISSING),
    (DeliveryThrottledError, ErrorClass.THROTTLED),
    (DeliveryInterruptedError, ErrorClass.INTERRUPTED),
    (ConnectionError, ErrorClass.INTERRUPTED),
    (TimeoutError, ErrorClass.INTERRUPTED),
)


def class_of(error: BaseException) -> ErrorClass:
    """Which class an error belongs to; whatever it is, there is one."""
    if isinstance(error, DeliveryConflictError):
        # Two at the same moment: the destination itself asks to try again.
        return ErrorClass.INTERRUPTED if error.retryable else ErrorClass.CONFLICT
    return next((found for kind, found in _CLASSES if isinstance(error, kind)), ErrorClass.OTHER)


def text_of(error: BaseException) -> str:
    """What is kept of an error: our own texts hold no secret, of others only what the system calls them."""
    if isinstance(error, CallreelError):
        text = str(error)
    elif isinstance(error, OSError) and error.strerror:
        text = f"{type(error).__name__}: {error.strerror}"
    else:
        text = type(error).__name__
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def delay_s(policy: Retries, failures: int, random: Callable[[], float]) -> float:
    """How long to wait after so many failures: exponential back-off with full jitter, `random` being in [0, 1)."""
    exponent = min(failures - 1, 60)  # the longest delay is reached long before, and floats end
    return random() * min(policy.longest_delay_s, policy.first_delay_s * policy.factor**exponent)


def patience_asked_s(error: BaseException) -> float:
    """How long the destination asks to wait (Retry-After), 0 if it does not: at most a day, whatever it says."""
    asked = error.retry_after_s if isinstance(error, DeliveryError) else None
    if asked is None or math.isnan(asked):
        return 0.0
    return min(max(asked, 0.0), LONGEST_RETRY_AFTER_S)
