"""What a recorder says of itself, as plain data for metrics and pages: figures, what is on its way, what took long."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from callreel.spool import State

__all__ = [
    "LATENESS_BOUNDS_S",
    "Figures",
    "LaneFigures",
    "Lateness",
    "Milestone",
    "OnItsWay",
    "Pace",
    "Strain",
]

LATENESS_BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Milestone(NamedTuple):
    """Something that took its time is over, well or not."""

    what: Literal["recording", "make", "deliver", "tell"]
    id: str
    """The take's, or with "tell" that of what was told."""
    call_id: str
    began_s: float
    """Epoch seconds."""
    ended_s: float
    lane: str = ""
    """Of a delivery or a message: what fails together, such as a bucket."""
    error_class: str | None = None
    """A value of `callreel.delivery.error_classes.ErrorClass`; None where all went well."""
    error: str | None = None
    is_given_up: bool = False
    """Whether it will not be tried again."""


class OnItsWay(NamedTuple):
    """A take that the spool has."""

    take_id: str
    call_id: str
    key: str
    state: State
    since_s: float
    """When it came into this state, in epoch seconds."""
    labels: Mapping[str, str]
    """Of the host."""


class LaneFigures(NamedTuple):
    """What waits in a lane of the queue."""

    entries: int
    oldest_s: float
    """When the oldest of them was put, in epoch seconds."""


class Lateness(NamedTuple):
    """How late calls were moved on, since the recorder was opened."""

    counts: tuple[int, ...]
    """Of each bound of `LATENESS_BOUNDS_S` those that were at most so late and later than the bound before; then all
    that were later."""
    total_s: float


class Strain(NamedTuple):
    """How near a recorder is to being too much."""

    late_s: float
    """How much later than it should a call was moved on."""
    waiting_share: float
    """How full the memory is in which audio waits for the disk, 0 to 1: at 1 audio is dropped."""


class Figures(NamedTuple):
    """A recorder at a moment."""

    calls: int
    """That go on."""
    packets: Mapping[str, int]
    """Of all calls there have been, by fate; see `kernels.rtp.Receiver.counts`."""
    lateness: Lateness
    waiting_bytes: int
    """Audio that waits in memory for the disk."""
    waiting_limit_bytes: int
    takes: tuple[OnItsWay, ...]
    lanes: Mapping[str, LaneFigures]


class Pace:
    """How late calls are moved on; one thread adds, any other may look."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._counts = [0] * (len(LATENESS_BOUNDS_S) + 1)
        self._total_s = 0.0
        self._worst_s = 0.0

    def add(self, late_s: float, calls: int) -> None:
        """So many calls were moved on so much later than they should have been."""
        late_s = max(0.0, late_s)
        self._counts[bisect_left(LATENESS_BOUNDS_S, late_s)] += calls
        self._total_s += calls * late_s
        if late_s > self._worst_s:
            self._worst_s = late_s

    @property
    def lateness(self) -> Lateness:
        """All there have been."""
        return Lateness(tuple(self._counts), self._total_s)

    def take_worst_s(self) -> float:
        """The latest since this was asked last."""
        worst_s, self._worst_s = self._worst_s, 0.0
        return worst_s
