"""The retrying queue on disk: what is to be delivered or told, until it is.

    put      an entry is there, durably                    lease    the next one that may go now
    done     it is not there any more, durably             retry    it failed: it is due again later, or a dead letter

Entries of a lane (what fails together, such as a bucket) are limited in number and rest together when it is down, so
that one dead destination delays no other. Of a group (a call) the ordered entries go one after the other: the next
one when the one before is done or a dead letter. A process that dies leaves its leased entries due.

It starts no thread, reads no clock and belongs to one thread at a time: whoever delivers does that elsewhere, in
between. Payloads hold no secret, for they are stored as they are.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from callreel.delivery import error_classes
from callreel.delivery.error_classes import DAY_S, LEAST_ATTEMPTS, RETRIES, ErrorClass
from callreel.delivery.queue_files import (
    AGAIN,
    DAMAGED,
    DEAD,
    DISK,
    FOLDERS,
    PART_SUFFIX,
    WAITING,
    Disk,
    Lock,
    Record,
    file_name,
    identity,
    store,
)
from callreel.delivery.schedule import Item, Schedule
from callreel.errors import UsageError

__all__ = ["LOOK_EVERY_S", "Entry", "Problem", "Queue"]

LOOK_EVERY_S = 5.0
"""How long a dead letter that is to be tried again lies unseen at most."""

UNREADABLE_REST_S = 60.0
"""How long an entry waits that the disk does not give."""

UNREADABLE_MAX = 16
"""Such entries met in one `lease`; with more the disk is at fault, or the process has no descriptor left."""

PROBLEMS_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """A leased entry: say `done` or `retry` of it."""

    id: str
    lane: str
    group: str
    ordered: bool
    payload: Mapping[str, Any] = field(repr=False)
    put_s: float
    attempts: int
    """How often it has failed."""
    error_class: ErrorClass | None
    """How it failed last."""
    error: str | None


class Problem(NamedTuple):
    """A file of the queue that is not as it should be, and what was done about it."""

    path: Path
    text: str


class Queue:
    """The queue in a folder, which one process has open at a time."""

    def __init__(
        self,
        folder: Path,
        *,
        now_s: float,
        random: Callable[[], float],
        lane_limit: int = 4,
        lane_limits: Mapping[str, int] | None = None,
        disk: Disk = DISK,
    ) -> None:
        """Open, or make, the queue in `folder`; a `UsageError` says which process has it open.

        Of a lane `lane_limit` entries are on their way at once, or as many as `lane_limits` has for it. `random` gives
        numbers from 0 to 1, which spread the delays.
        """
        if lane_limit < 1 or any(limit < 1 for limit in (lane_limits or {}).values()):
            raise UsageError("a lane whose limit is below 1 would never be served")
        self.folder = folder
        self._disk = disk
        self._random = random
        self._problems: list[Problem] = []
        self._leased: dict[str, bytes] = {}
        self._names: dict[str, str] = {}  # of those that wait or are leased, and of those whose put failed
        self._dead: dict[str, str] = {}
        self._next_number = 1
        for path in (folder, *(folder / name for name in FOLDERS)):
            self._disk.make_folder(path)
            # What a process that died has left in the air is decided now: what is seen gone does not come back.
            with contextlib.suppress(OSError):
                self._disk.sync_folder(path)
        self._lock = Lock(folder)
        self._schedule = Schedule(now_s=now_s, limit=lane_limit, limits=dict(lane_limits or {}))
        try:
            self._scan(now_s)
        except BaseException:
            self._lock.release()
            raise

    # -- the four verbs ----------------------------------------------------------------------------------------

    def put(
        self,
        entry_id: str,
        *,
        lane: str,
        group: str,
        payload: Mapping[str, Any],
        now_s: float,
        ordered: bool = True,
        lasting: bool = True,
    ) -> bool:
        """Take an entry in: it is durable when this returns. One that is here already stays as it is (False).

        An OSError says that it may not be stored: put it again. `ordered` entries of a group go one after the other.
        What is put again after a crash in any case need not be `lasting`: then it survives the process, and a loss of
        power only perhaps.
        """
        if entry_id in self:
            return False
        name = self._names.get(entry_id)
        if name is None:
            name = file_name(self._next_number, entry_id)
        record = Record(entry_id, lane, group, ordered, now_s, now_s, payload=payload)
        data = record.to_bytes()
        try:
            _checked(data, entry_id)
        except ValueError as error:
            raise UsageError(f"{entry_id} could not be read back: {error}") from None
        if entry_id not in self._names:
            # Should it fail half-way, and be put once more, then it is the same file.
            self._names[entry_id] = name
            self._next_number += 1
        store(self._disk, self.folder / WAITING / name, data, lasting=lasting)
        self._take_in(record, name)
        return True

    def lease(self, now_s: float) -> Entry | None:
        """The next entry that is due and may go; None when there is none until `next_due`."""
        self._look_again(now_s)
        for _ in range(UNREADABLE_MAX):
            item = self._schedule.take(now_s)
            if item is None:
                return None
            path = self._path(item.id)
            try:
                data = self._disk.read(path)
                record = _checked(data, item.id)
            except FileNotFoundError:
                self._problem(path, "has vanished: it is not delivered")
                self._forget(item)
                continue
            except OSError as error:
                self._problem(path, f"cannot be read, is tried again: {error.strerror}")
                self._schedule.give_back(item, now_s + UNREADABLE_REST_S)
                continue
            except ValueError as error:
                self._set_aside(path, str(error))
                self._forget(item)
                continue
            self._leased[item.id] = data
            return Entry(
                id=item.id,
                lane=item.lane,
                group=item.group,
                ordered=item.ordered,
                payload=record.payload,
                put_s=record.put_s,
                attempts=item.attempts,
                error_class=None if record.error_class is None else ErrorClass(record.error_class),
                error=record.error,
            )
        return None

    def done(self, entry_id: str, *, lasting: bool = True) -> None:
        """An entry is done, durably when this returns; of one that is not here nothing is to be done.

        An OSError says that it may come back: it stays leased, and `done` may be said again. Where it does no harm that
        it comes back after a loss of power, that need not be `lasting`.
        """
        item = self._schedule.items.get(entry_id)
        if item is None:
            return
        path = self._path(entry_id)
        with contextlib.suppress(FileNotFoundError):  # removed by a `done` that failed after it
            self._disk.unlink(path)
        if lasting:
            self._disk.sync_folder(path.parent)
        self._schedule.worked(item)
        self._drop_names(entry_id)

    def retry(self, entry_id: str, error: BaseException, now_s: float) -> float | None:
        """A leased entry has failed. Returns when it is due again, None when it is a dead letter now.

        That the disk does not take its new state is told among the `problems`: the entry keeps the older one there.
        """
        item = self._schedule.items.get(entry_id)
        if item is None or not item.is_leased:
            raise UsageError(f"{entry_id} is not leased")
        self._schedule.follow(now_s)
        kind = error_classes.class_of(error)
        policy, asked_s = RETRIES[kind], error_classes.patience_asked_s(error)
        item.attempts += 1
        item.failures += 1
        if item.failing_since_s is None:
            item.failing_since_s = now_s
        due_s: float | None = None
        if policy.budget_days is not None and (
            item.failures < LEAST_ATTEMPTS or now_s - item.failing_since_s < policy.budget_days * DAY_S
        ):
            due_s = now_s + asked_s + error_classes.delay_s(policy, item.failures, self._random)
        record = _checked(self._leased[entry_id], entry_id)
        record.attempts, record.failures = item.attempts, item.failures
        record.failing_since_s, record.failed_s = item.failing_since_s, now_s
        record.error_class, record.error = kind, error_classes.text_of(error)
        record.is_dead = due_s is None
        record.due_s = now_s if due_s is None else due_s
        path = self._path(entry_id)
        try:
            store(self._disk, path, record.to_bytes())
            if due_s is None:
                self._bury(path)
        except OSError as failure:
            self._problem(path, f"its failure could not be written down: {failure.strerror}")
            if due_s is None:
                due_s = now_s + RETRIES[ErrorClass.OTHER].longest_delay_s
        del self._leased[entry_id]
        if policy.counts_against_lane:
            self._schedule.failed(item, due_s, now_s, self._random, asked_s)
        else:
            self._schedule.failed_itself(item, due_s)
        if due_s is None:
            self._drop_names(entry_id)
            self._dead[entry_id] = path.name
        return due_s

    # -- what else a host asks ---------------------------------------------------------------------------------

    def wake(self, entry_id: str, now_s: float) -> None:
        """A waiting entry is due now: what it lacked, such as a secret that only the host has, is there again."""
        item = self._schedule.items.get(entry_id)
        if item is not None:
            self._schedule.follow(now_s)
            self._schedule.wake(item, now_s)

    def next_due(self, now_s: float) -> float:
        """When to `lease` next, unless another verb comes before: in a few seconds at the latest."""
        at = self._schedule.next_at(now_s)
        looks_at = min(max(now_s, self._looked_s + LOOK_EVERY_S), now_s + LOOK_EVERY_S)
        return looks_at if at is None else min(max(at, now_s), looks_at)

    def __len__(self) -> int:
        """How many entries wait or are leased; dead letters do not count."""
        return len(self._schedule.items)

    def __contains__(self, entry_id: object) -> bool:
        """Whether an entry is here: waiting, leased, or as a dead letter."""
        if entry_id in self._schedule.items:
            return True
        name = self._dead.get(entry_id) if isinstance(entry_id, str) else None
        if name is None:
            return False
        # An operator may have moved it, from the first folder to the second, or dropped it.
        return any(self._disk.exists(self.folder / state / name) for state in (DEAD, AGAIN))

    def lanes(self) -> dict[str, tuple[int, float]]:
        """How many entries wait or are leased in each lane, and when the oldest of them was put; any thread may ask."""
        found: dict[str, tuple[int, float]] = {}
        for item in list(self._schedule.items.values()):
            entries, oldest_s = found.get(item.lane, (0, item.put_s))
            found[item.lane] = entries + 1, min(oldest_s, item.put_s)
        return found

    def is_dead(self, entry_id: str) -> bool:
        """Whether an entry is a dead letter."""
        return entry_id not in self._schedule.items and entry_id in self

    def last_error(self, entry_id: str) -> str | None:
        """How a dead letter has failed last; None when that cannot be read."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            return _checked(self._disk.read(self.folder / DEAD / self._dead[entry_id]), entry_id).error
        return None

    def problems(self) -> list[Problem]:
        """What has been found wrong with files of the queue since this was asked last."""
        found, self._problems = self._problems, []
        return found

    def close(self) -> None:
        """Let another process have it; what is leased is due there."""
        self._lock.release()

    def __enter__(self) -> Self:
        """It is open already."""
        return self

    def __exit__(self, *about: object) -> None:
        """Close it."""
        self.close()

    # -- files -------------------------------------------------------------------------------------------------

    def _scan(self, now_s: float) -> None:
        self._names_in(DAMAGED)  # so that no number is given twice
        # In the order in which an operator moves them, so that none is missed.
        for name in self._names_in(DEAD):
            found = identity(name)
            if found is not None:
                self._dead[found[1]] = name
        self._looked_s = -math.inf
        self._look_again(now_s)
        for name in self._names_in(WAITING):
            path = self.folder / WAITING / name
            try:
                found = identity(name)
                if found is None:
                    raise ValueError("its name is that of no entry")
                record = _checked(self._disk.read(path), found[1])
                if record.id in self._schedule.items:
                    if self._names[record.id] != name:
                        raise ValueError("there is another entry with that id")
                elif record.is_dead:
                    self._bury(path)
                    self._dead[record.id] = name
                else:
                    if max(record.put_s, record.failed_s or 0) > now_s:  # the clock has been set back
                        record.due_s = now_s
                    self._take_in(record, name)
            except ValueError as error:
                self._set_aside(path, str(error))
            except OSError as error:
                self._problem(path, f"cannot be read, is left until the next start: {error.strerror}")

    def _names_in(self, state: str) -> list[str]:
        """The files of a folder, in the order in which they were put; half-made ones are removed."""
        found = []
        for name in sorted(self._disk.names(self.folder / state)):
            if name.endswith(PART_SUFFIX):
                self._disk.unlink(self.folder / state / name)
            elif name.endswith(".json"):
                found.append(name)
                known = identity(name)
                if known is not None:
                    self._next_number = max(self._next_number, known[0] + 1)
        return found

    def _look_again(self, now_s: float) -> None:
        """Take in the dead letters that are to be tried again."""
        if 0 <= now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        try:
            names = self._names_in(AGAIN)
        except OSError as error:
            self._problem(self.folder / AGAIN, f"cannot be read: {error.strerror}")
            return
        for name in names:
            path = self.folder / AGAIN / name
            try:
                found = identity(name)
                if found is None:
                    raise ValueError("its name is that of no entry")
                record = _checked(self._disk.read(path), found[1])
                if record.id in self._schedule.items:
                    raise ValueError("there is another entry with that id")
                record.due_s, record.failures, record.failing_since_s = now_s, 0, None
                record.is_dead = False
                store(self._disk, path, record.to_bytes())
                target = self.folder / WAITING / name
                self._disk.rename(path, target)
                self._disk.sync_folder(target.parent)
                self._disk.sync_folder(path.parent)
            except ValueError as error:
                self._set_aside(path, str(error))
            except OSError as error:
                self._problem(path, f"cannot be taken in again yet: {error.strerror}")
            else:
                self._dead.pop(record.id, None)
                self._take_in(record, name)

    def _take_in(self, record: Record, name: str) -> None:
        found = identity(name)
        assert found is not None
        item = Item(
            record.id,
            found[0],
            lane=record.lane,
            group=record.group,
            ordered=record.ordered,
            due_s=record.due_s,
            put_s=record.put_s,
        )
        item.attempts, item.failures = record.attempts, record.failures
        item.failing_since_s = record.failing_since_s
        self._names[record.id] = name
        self._schedule.add(item)

    def _bury(self, path: Path) -> None:
        target = self.folder / DEAD / path.name
        self._disk.rename(path, target)
        self._disk.sync_folder(target.parent)
        self._disk.sync_folder(path.parent)

    def _set_aside(self, path: Path, why: str) -> None:
        try:
            self._disk.rename(path, self.folder / DAMAGED / path.name)
            self._problem(path, f"set aside in {DAMAGED}: {why}")
        except OSError as error:
            self._problem(path, f"passed over: {why}; it cannot be set aside: {error.strerror}")

    def _problem(self, path: Path, text: str) -> None:
        if len(self._problems) < PROBLEMS_KEPT:
            self._problems.append(Problem(path, text))

    def _forget(self, item: Item) -> None:
        self._schedule.remove(item)
        self._drop_names(item.id)

    def _drop_names(self, entry_id: str) -> None:
        self._names.pop(entry_id, None)
        self._leased.pop(entry_id, None)

    def _path(self, entry_id: str) -> Path:
        return self.folder / WAITING / self._names[entry_id]


def _checked(data: bytes, entry_id: str) -> Record:
    record = Record.from_bytes(data)
    if record.id != entry_id:
        raise ValueError("its id is not that of its name")
    return record
