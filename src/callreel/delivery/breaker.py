"""A circuit breaker: a destination that keeps failing is left alone for a while, then tried with one delivery.

    state      worked    failed     tripped    rested
    closed     closed    closed     open       .
    open       closed    open       open       half-open
    half-open  closed    open       open       .

*Tripped* is the failure that makes as many in a row as are borne, or one with which the destination asks for patience.
While it is half-open only the one delivery that passed may fail it: others began before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

__all__ = ["BORNE", "FIRST_REST_S", "LONGEST_REST_S", "TRANSITIONS", "Breaker", "Sign", "State"]

BORNE = 5
"""Failures in a row that open it."""

FIRST_REST_S, REST_FACTOR, LONGEST_REST_S = 5.0, 2.0, 300.0


class State(StrEnum):
    """What may pass."""

    CLOSED = "closed"
    """All."""
    OPEN = "open"
    """None."""
    HALF_OPEN = "half-open"
    """One, to see."""


class Sign(StrEnum):
    """What it goes by."""

    WORKED = "worked"
    FAILED = "failed"
    TRIPPED = "tripped"
    RESTED = "rested"


TRANSITIONS: Mapping[State, Mapping[Sign, State]] = {
    State.CLOSED: {
        Sign.WORKED: State.CLOSED,
        Sign.FAILED: State.CLOSED,
        Sign.TRIPPED: State.OPEN,
    },
    State.OPEN: {
        Sign.WORKED: State.CLOSED,
        Sign.FAILED: State.OPEN,
        Sign.TRIPPED: State.OPEN,
        Sign.RESTED: State.HALF_OPEN,
    },
    State.HALF_OPEN: {
        Sign.WORKED: State.CLOSED,
        Sign.FAILED: State.OPEN,
        Sign.TRIPPED: State.OPEN,
    },
}


class Breaker:
    """One destination's. It keeps no clock: `rests_until_s` counts while it is open."""

    __slots__ = ("_failures", "_openings", "rests_until_s", "state")

    def __init__(self) -> None:
        """Begin closed."""
        self.state = State.CLOSED
        self.rests_until_s = 0.0
        self._failures = 0  # in a row
        self._openings = 0  # since it was closed last

    def worked(self) -> None:
        """The destination has answered well."""
        self._failures = self._openings = 0
        self.state = TRANSITIONS[self.state][Sign.WORKED]

    def failed(self, now_s: float, random: Callable[[], float], asked_s: float = 0.0) -> None:
        """The destination has failed, and asks to be left alone for `asked_s`."""
        self._failures += 1
        before = self.state
        tripped = asked_s > 0 or self._failures >= BORNE
        self.state = TRANSITIONS[before][Sign.TRIPPED if tripped else Sign.FAILED]
        if self.state is State.OPEN and before is not State.OPEN:
            rest_s = min(FIRST_REST_S * REST_FACTOR ** min(self._openings, 60), LONGEST_REST_S)
            self._openings += 1
            # Half of the rest is random: many processes do not come back in the same moment.
            self.rests_until_s = now_s + max(rest_s * (1 + random()) / 2, asked_s)
        elif self.state is State.OPEN:
            self.rests_until_s = max(self.rests_until_s, now_s + asked_s)

    def rested(self) -> None:
        """Its rest is over: the next delivery is to show how things are."""
        self.state = TRANSITIONS[self.state][Sign.RESTED]
