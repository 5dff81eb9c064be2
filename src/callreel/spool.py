"""The spool: the folder where takes live until their delivery is confirmed; docs/spool.md has layout and guarantees.

A `Spool` is the folder, its lock, and two threads: one writes, one makes what is written last (fsync) and looks how
much room is left. No method of a `Take`, and none here but the first and the last, waits for the disk.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from os import PathLike, statvfs
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from callreel.errors import SpoolFullError, UsageError
from callreel.spool_desk import MANIFEST, TAKES_FOLDER, Desk, Limits, Policy, Report, Take
from callreel.spool_files import AudioFiles, FolderLock, PlainFiles, remove_tree
from callreel.spool_recovery import Left, LeftAudio, read_left
from callreel.spool_rules import (
    Kept,
    Retention,
    Space,
    State,
    check_no_secrets,
    check_take_id,
    reason_of,
    to_remove,
)

__all__ = [
    "TAKES_FOLDER",
    "Left",
    "LeftAudio",
    "Limits",
    "Policy",
    "Report",
    "Retention",
    "Space",
    "Spool",
    "State",
    "Take",
    "reason_of",
    "spools_in",
    "worker_spool",
]

POLICIES = ("none", "interval", "always")
LOOK_S = 1.0
"""How often it is looked how much is free."""
GATHER_S = 0.005
"""So long others may join what is written: of thousands of takes many have something at nearly the same moment."""
CLOSE_S = 30.0


WORKER = re.compile(r"worker-([1-9][0-9]{0,3})", re.ASCII)


def worker_spool(folder: Path, index: int) -> Path:
    """The spool of one of several processes that record into `folder`: of the first it is that itself."""
    return folder / f"worker-{index}" if index else folder


def spools_in(folder: Path) -> dict[int, Path]:
    """The spools of all processes that record, or did, into `folder`, by the number of each; itself is there anyway."""
    found = {0: folder}
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if (name := WORKER.fullmatch(path.name)) and path.is_dir():
                found[int(name[1])] = path
    return dict(sorted(found.items()))


class Spool:
    """A folder of takes, for one process at a time."""

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        fsync: Policy = "interval",
        interval_s: float = 1.0,
        limits: Limits | None = None,
        space: Space | None = None,
        retention: Retention | None = None,
        files: AudioFiles | None = None,
        on_report: Callable[[], None] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Open the spool in `folder`, which is made if need be, and take its lock: UsageError if another has it.

        `fsync`: what is done for a machine that dies, beyond what is done for a process that dies: "none" while a take
        runs, audio every `interval_s`, or "always" after each write. `files`: how audio is stored, plainly by default.
        `on_report` is called, from any thread, when there is something in `reports`; it may only set a flag.
        """
        if fsync not in POLICIES:
            raise UsageError(f"fsync is one of {', '.join(POLICIES)}, not {fsync!r}")
        self.folder = Path(folder)
        self.retention = retention or Retention()
        self._space = space or Space()
        self._interval_s = interval_s
        self._files = files or PlainFiles()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.folder)
        try:
            self._desk = Desk(
                self.folder,
                files=self._files,
                limits=limits or Limits(),
                fsync=fsync,
                now=now,
                monotonic=time.monotonic,
            )
            self._desk.on_report = on_report
            self._desk.takes.mkdir(exist_ok=True)
            remove_tree(self._desk.trash)
            self._left = sorted(path.name for path in self._desk.takes.iterdir() if path.is_dir())
            self._accepting = True
            self._look()
        except BaseException:
            self._lock.release()
            raise
        self._known: set[str] = set(self._left)
        self._takes: dict[str, Take] = {}
        self._found: dict[str, Left] = {}
        self._stop = False
        self._threads = [
            threading.Thread(target=self._write_on, name="callreel-spool-write", daemon=True),
            threading.Thread(target=self._keep_on, name="callreel-spool-keep", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        """Nothing to do: it is open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    # ---- takes ----

    @property
    def is_accepting(self) -> bool:
        """Whether there is room for new takes."""
        return self._accepting

    @property
    def waiting_bytes(self) -> int:
        """How much audio waits in memory for the disk."""
        return self._desk.waiting_bytes

    def begin(self, take_id: str, about: Mapping[str, Any]) -> Take:
        """Begin a take. `about`: all that is needed to bring it to its end after a crash, JSON without secrets.

        Raises UsageError for an id that is none or that a take of this spool has, and for secrets; SpoolFullError when
        too little is free.
        """
        check_take_id(take_id)
        check_no_secrets(about, "about")
        if not self._accepting:
            raise SpoolFullError("too little room is left where the spool is")
        with self._desk.lock:
            if self._stop:
                raise UsageError("the spool is closed")
            if take_id in self._known:
                raise UsageError(f"there is a take {take_id!r}")
            self._known.add(take_id)
            take = self._takes[take_id] = Take(self._desk, take_id, dict(about))
            self._desk.begun(take)
        return take

    def recover(self) -> Iterator[Left]:
        """What dead processes left, take by take; until it has been brought further the same comes every time.

        It reads the disk; what cannot be read is told as a problem of that take.
        """
        for take_id in list(self._left):
            left = self._found.get(take_id)
            if left is None or left.is_locked:
                left = self._found[take_id] = read_left(self._desk, self._files, take_id)
                with self._desk.lock:
                    self._takes[take_id] = left.take
            if left.take.state is left.state and not left.take._is_removed:
                yield left

    def manifest(self, take_id: str) -> dict[str, Any]:
        """The manifest of a take that is finished or further, as it is on the disk; OSError or ValueError."""
        manifest = json.loads((self._desk.takes / take_id / MANIFEST).read_bytes())
        if not isinstance(manifest, dict):
            raise ValueError(f"{MANIFEST} is damaged")
        return manifest

    def reports(self) -> list[Report]:
        """What has become of takes since the last time."""
        with self._desk.lock:
            reports = list(self._desk.reports)
            self._desk.reports.clear()
            for report in reports:
                if report.kind == "removed":
                    self._takes.pop(report.take_id, None)
                    self._known.discard(report.take_id)
                    if self._found.pop(report.take_id, None):
                        self._left.remove(report.take_id)
        return reports

    def retire(self, now_s: float) -> list[str]:
        """Remove what need not be kept any longer by `retention`; says which takes."""
        with self._desk.lock:
            kept = [
                Kept(take.take_id, take.state, take.since_s)
                for take in self._takes.values()
                # While it is busy it may not last yet that its event is out.
                if not (take._is_removed or take._is_busy)
            ]
        ids = to_remove(kept, self.retention, now_s)
        for take_id in ids:
            self._takes[take_id].removed()
        return ids

    def close(self, timeout_s: float = CLOSE_S) -> list[str]:
        """Write what waits, then give the folder back; says which takes were not written whole after `timeout_s`.

        Takes that run stay as they are, and `recover` of the next process finds them.
        """
        desk = self._desk
        until = time.monotonic() + timeout_s
        with desk.lock:
            if self._stop:
                return []
            for take in self._takes.values():
                take._seal()
                take._wake()
        unwritten = self._busy()
        while unwritten and time.monotonic() < until:
            time.sleep(0.005)
            unwritten = self._busy()
        with desk.lock:
            self._stop = True
            desk.to_write.notify_all()
            desk.to_keep.notify_all()
        for thread in self._threads:
            thread.join(max(0.1, until - time.monotonic()))
        if not any(
            thread.is_alive() for thread in self._threads
        ):  # else it is the end of the process that frees it
            desk.close_files()
            self._lock.release()
        return unwritten

    def _busy(self) -> list[str]:
        with self._desk.lock:
            return [take.take_id for take in self._takes.values() if take._is_busy]

    # ---- threads ----

    def _write_on(self) -> None:
        while not self._stop:
            self._desk.wait_for_writing(LOOK_S)
            self._desk.gather(GATHER_S)
            self._desk.write_round()

    def _keep_on(self) -> None:
        clock = time.monotonic
        sync_at = clock() + self._interval_s
        look_at = clock() + LOOK_S
        while not self._stop:
            self._desk.wait_for_keeping(min(sync_at, look_at) - clock())
            is_due = clock() >= sync_at
            self._desk.keep_round(sync_running=is_due)
            if is_due:
                sync_at = clock() + self._interval_s
            if clock() >= look_at:
                self._look()
                look_at = clock() + LOOK_S
        self._desk.keep_round(sync_running=True)

    def _look(self) -> None:
        try:
            found = statvfs(self.folder)
        except OSError:
            return  # takes that run will tell
        self._accepting = self._space.accepts(
            self._accepting,
            free_bytes=found.f_bavail * found.f_frsize,
            total_bytes=found.f_blocks * found.f_frsize,
            free_files=found.f_favail if found.f_files else None,
        )
