"""Admission control: when new recordings are refused so that those that run stay whole. Rules alone, no clock.

A table says of each figure from which value on recordings are refused, below which they are accepted again, and for
how long it must be so. Between the two values nothing changes, so a load that swings around a limit does not make the
service swing with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

from callreel.errors import UsageError

__all__ = ["THRESHOLDS", "Load", "Overload", "Threshold"]


class Load(NamedTuple):
    """What was measured since the last look."""

    late_s: float
    """How much too late a call was moved on, at worst."""
    cpu_share: float
    """Of the processors that this process has for itself, 0 to 1."""
    waiting_share: float
    """Of the memory that audio may wait in for the disk, 0 to 1."""


class Threshold(NamedTuple):
    """When a figure refuses, and when it accepts again."""

    refuse_from: float
    accept_below: float
    refuse_after_s: float
    """For how long it must have been that much: one long step is no overload."""
    accept_after_s: float
    words: str
    """With the value in it."""


THRESHOLDS: Final[Mapping[str, Threshold]] = MappingProxyType(
    {
        # A call is moved on every 0.14 s; the timeline stands 2 s of delay, and a crash costs 0.2 s plus this.
        "late_s": Threshold(0.5, 0.1, 2.0, 5.0, "calls are moved on {:.2f} s late"),
        "cpu_share": Threshold(0.95, 0.8, 5.0, 5.0, "the processor is busy to {:.0%}"),
        # At the whole of it audio is dropped.
        "waiting_share": Threshold(
            0.5, 0.2, 1.0, 2.0, "{:.0%} of the memory for what waits for the disk is full"
        ),
    }
)
"""By the names of `Load`."""


@dataclass(slots=True)
class _Standing:
    """How one figure stands."""

    is_refusing: bool = False
    beyond_s: float | None = None
    """Since when it has been beyond the value that would change that."""


@dataclass(slots=True)
class Overload:
    """Judges loads, one after the other; belongs to one thread at a time."""

    thresholds: Mapping[str, Threshold] = field(default_factory=lambda: THRESHOLDS)
    _standings: dict[str, _Standing] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Refuse what would swing, or never end."""
        for name, one in self.thresholds.items():
            if name not in Load._fields:
                raise UsageError(f"{name} is not measured: one of {', '.join(Load._fields)} is")
            if not 0 < one.accept_below < one.refuse_from:
                raise UsageError(f"{name}: accept_below is more than 0 and less than refuse_from")
            if one.refuse_after_s < 0 or one.accept_after_s < 0:
                raise UsageError(f"{name}: times are not negative")
        self._standings = {name: _Standing() for name in self.thresholds}

    def judge(self, load: Load, now_s: float) -> str | None:
        """Why new recordings are to be refused from now on, in words; None when they are not. `now_s` never goes back.

        Several reasons are told together.
        """
        reasons = []
        for name, limits in self.thresholds.items():
            value, standing = getattr(load, name), self._standings[name]
            if standing.is_refusing:
                is_beyond, needed_s = value < limits.accept_below, limits.accept_after_s
            else:
                is_beyond, needed_s = value >= limits.refuse_from, limits.refuse_after_s
            if not is_beyond:
                standing.beyond_s = None
            else:
                since_s = standing.beyond_s = now_s if standing.beyond_s is None else standing.beyond_s
                if now_s - since_s >= needed_s:
                    standing.is_refusing, standing.beyond_s = not standing.is_refusing, None
            if standing.is_refusing:
                reasons.append(limits.words.format(value))
        return "; ".join(reasons) or None
