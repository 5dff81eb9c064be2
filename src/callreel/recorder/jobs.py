"""A take on its way: what its recorder knows of it, and the terminal event that comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from callreel.actions import Destination
from callreel.delivery import Receipt
from callreel.recorder.growing import Growing
from callreel.spool import Take

if TYPE_CHECKING:
    from callreel.recorder.calls import RecordedCall

__all__ = ["Job", "Jobs", "TakeEnded", "TakeReplayed"]


class TakeEnded(NamedTuple):
    """The terminal event of a recording: exactly one for each that began, whatever dies on the way."""

    take_id: str
    """Globally unique, and the same after a restart."""
    call_id: str
    recording_id: str
    key: str
    end_reason: str
    """A value of `callreel.actions.EndReason`, or "recovered" for what a dead process left."""
    location: str | None
    """Where it is, as a URL; None when it was not delivered."""
    error: str | None
    """Why not; None also for what was called off and is not to be delivered."""
    manifest: Mapping[str, Any]


class TakeReplayed(NamedTuple):
    """A recording whose terminal event said that it failed is at its destination after all."""

    take_id: str
    call_id: str
    recording_id: str
    key: str
    location: str
    manifest: Mapping[str, Any]


@dataclass(slots=True)
class Job:
    """A take on its way."""

    take: Take
    about: Mapping[str, Any]
    destination: Destination | None
    """With its secret, which is nowhere else."""
    call: RecordedCall | None = None
    """Who wants to be told that it is stored; None when nobody does (any more)."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    finished_at: float = 0.0
    receipt: Receipt | None = None
    reason: str | None = None
    """Of its failure."""
    growing: Growing | None = None
    """Where it goes part by part while it runs."""
    is_orphan: bool = False
    """Its call has died before the customer was told of it: that is still to be done."""
    was_finished: bool = False
    """Whether the session of that call had heard of its end."""
    terminator: str | None = None
    """The key that ended it, of an orphan."""
    is_called_off: bool = False
    """Nobody is to have it."""
    is_told: bool = False
    """Its terminal event is out, or waits to be written into the queue."""
    is_told_failed: bool = False
    """That event says that it failed."""
    is_empty: bool = False
    """There is nothing in it that anybody could have."""
    make_until: float = 0.0
    """How long a disk that refuses the finished file is tried."""

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to be replayed, although it has failed."""
        return self.is_called_off or self.is_empty

    @property
    def key(self) -> str:
        """Under which it is stored; some vendors' keys are known at the end."""
        return str(self.manifest.get("key", self.about["key"]))

    @property
    def names(self) -> dict[str, str]:
        """What a log says of it beside its text."""
        return {"call_id": self.about["call_id"], "take_id": self.take.take_id}

    def ended(self, error: str | None) -> TakeEnded:
        """Its terminal event."""
        return TakeEnded(
            self.take.take_id,
            self.about["call_id"],
            self.about["recording_id"],
            self.key,
            str(self.manifest.get("end_reason", "failed")),
            None if self.receipt is None else self.receipt.location,
            error,
            self._labelled(),
        )

    def replayed(self, location: str) -> TakeReplayed:
        """What is told when it is delivered after its terminal event."""
        return TakeReplayed(
            self.take.take_id,
            self.about["call_id"],
            self.about["recording_id"],
            self.key,
            location,
            self._labelled(),
        )

    def _labelled(self) -> Mapping[str, Any]:
        labels = self.about["labels"]
        return {**self.manifest, "labels": labels} if labels else self.manifest


@dataclass(slots=True)
class Jobs:
    """All of a recorder, by take id; the clerk's thread alone changes them."""

    live: dict[str, Job] = field(default_factory=dict)
    kept: dict[str, Job] = field(default_factory=dict)
    """Those that failed and were told of: they wait for somebody who replays them."""

    def find(self, take_id: str) -> Job | None:
        """The job of a take, on its way or kept."""
        return self.live.get(take_id) or self.kept.get(take_id)

    def add(self, job: Job) -> None:
        """It is on its way, for the first time or again."""
        self.live[job.take.take_id] = job
        self.kept.pop(job.take.take_id, None)

    def keep(self, job: Job) -> None:
        """It has failed, and lies in the spool until somebody replays it; there may be very many of these."""
        job.manifest = {}
        self.kept[job.take.take_id] = job
        self.drop(job)

    def drop(self, job: Job) -> None:
        """Nothing more is to be done."""
        self.live.pop(job.take.take_id, None)
