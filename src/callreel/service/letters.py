"""What waits in the queue and what was given up, for one tenant or for all; dead letters are tried again or dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from callreel.delivery.queue_files import (
    AGAIN,
    DEAD,
    QUEUE_FOLDER,
    WAITING,
    Record,
    drop,
    standing,
    try_again,
)

__all__ = ["Letter", "Letters"]

READ_MAX: Final = 5000
"""Files that are read for one answer: of a queue that is longer the oldest."""

KINDS: Final[Mapping[str, str]] = {
    "deliver": "delivery of a recording",
    "say": "message to a customer",
    "end": "terminal event",
    "replay": "terminal event",
}
"""By the first part of an entry's id."""


class Letter(NamedTuple):
    """An entry of the queue."""

    id: str
    kind: str
    take_id: str | None
    """Whose delivery it is."""
    call_id: str
    lane: str
    put_s: float
    due_s: float
    attempts: int
    failed_s: float | None
    error_class: str | None
    error: str | None


class Letters:
    """Reads the files of queues, also while a process is at work on it; any thread."""

    def __init__(
        self,
        spool: Path,
        tenant_of: Callable[[str | None, str], str | None],
        others: Callable[[], Sequence[Path]] = tuple,
    ) -> None:
        """`tenant_of` says whose a take, or with None a call, is; None when nobody knows. `others`: more spools."""
        self._spool = spool
        self._tenant_of = tenant_of
        self._others = others

    def waiting(self, tenant: str | None, most: int) -> list[Letter]:
        """What is to be tried, or tried again, the oldest first."""
        return [letter for letter, _ in self._found((WAITING, AGAIN), tenant, most)]

    def dead(self, tenant: str | None, most: int) -> list[Letter]:
        """What was given up, the oldest first."""
        return [letter for letter, _ in self._found((DEAD,), tenant, most)]

    def dead_one(self, letter_id: str, tenant: str | None) -> Letter | None:
        """The dead letter of that id."""
        return next((letter for letter, _ in self._wanted(tenant, letter_id)), None)

    def retry(self, tenant: str | None, letter_id: str | None = None) -> int:
        """Have the dead letter of that id, or with None all, tried again; returns how many."""
        return sum(try_again(path.parent.parent, path) for _, path in self._wanted(tenant, letter_id))

    def drop(self, tenant: str | None, letter_id: str) -> int:
        """Remove the dead letter of that id for good; returns how many."""
        return sum(drop(path) for _, path in self._wanted(tenant, letter_id))

    def _wanted(self, tenant: str | None, letter_id: str | None) -> list[tuple[Letter, Path]]:
        return [one for one in self._found((DEAD,), tenant) if letter_id in (None, one[0].id)]

    def _found(
        self, states: tuple[str, ...], tenant: str | None, most: int | None = None
    ) -> Iterator[tuple[Letter, Path]]:
        given = 0
        folders = [spool / QUEUE_FOLDER for spool in (self._spool, *self._others())]
        for read, one in enumerate((one for folder in folders for one in standing(folder, states)), 1):
            if most is not None and (given == most or read > READ_MAX):
                return
            if one.record is not None and tenant in (None, self._owner(one.record)):
                given += 1
                yield _letter(one.record), one.path

    def _owner(self, record: Record) -> str | None:
        letter = _letter(record)
        owner = self._tenant_of(letter.take_id, letter.call_id)
        if owner is None and isinstance(body := record.payload.get("body"), Mapping):
            manifest = body.get("manifest")
            labels = manifest.get("labels") if isinstance(manifest, Mapping) else None
            owner = labels.get("tenant") if isinstance(labels, Mapping) else None
        return owner if isinstance(owner, str) else None


def _letter(record: Record) -> Letter:
    what, _, which = record.id.partition(":")
    return Letter(
        id=record.id,
        kind=KINDS.get(what, what),
        take_id=which if what in ("deliver", "end", "replay") else None,
        call_id=str(record.payload.get("call_id", record.group)),
        lane=record.lane,
        put_s=record.put_s,
        due_s=record.due_s,
        attempts=record.attempts,
        failed_s=record.failed_s,
        error_class=record.error_class,
        error=record.error,
    )
