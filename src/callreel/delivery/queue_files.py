"""The queue as files: where what lies, what stands in it, and the few operations on files it is made of.

    queue/
      lock                                      the process that has it open
      waiting/000000000007-<entry id>.json      what is to be done, in the order in which it was put
      dead/…                                    what was given up, with its last error
      again/…                                   dead letters that an operator wants to be tried again
      damaged/…                                 files that are no entries; nobody reads them

An entry is one file, which is in one folder at a time: whatever state it comes to is written beside it, made durable,
and takes its place in one step. Only the process that holds the lock touches `waiting`, and files in `again`; anybody
may move a file from `dead` to `again`, or remove it, and so needs neither the lock nor the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.parse import quote, unquote

from callreel import durable
from callreel.delivery.error_classes import ErrorClass
from callreel.errors import UsageError

__all__ = [
    "AGAIN",
    "DAMAGED",
    "DEAD",
    "DISK",
    "FOLDERS",
    "PART_SUFFIX",
    "QUEUE_FOLDER",
    "WAITING",
    "Disk",
    "Lock",
    "Record",
    "Standing",
    "drop",
    "file_name",
    "identity",
    "standing",
    "store",
    "try_again",
]

QUEUE_FOLDER = "queue"
"""Its name in a spool."""

WAITING, DEAD, AGAIN, DAMAGED = FOLDERS = ("waiting", "dead", "again", "damaged")

PART_SUFFIX = ".part"
"""Of a file in the making."""

VERSION = 1
MAX_ID_CHARACTERS = 200
NAME = re.compile(r"(\d{12,})-(.+)\.json", re.ASCII)


class Disk:
    """What the queue asks of the file system; tests put others in its place, which fail."""

    def make_folder(self, path: Path) -> None:
        """Make a folder, and those above it, if they are not there."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def names(self, folder: Path) -> list[str]:
        """The names of the files in a folder."""
        return os.listdir(folder)  # noqa: PTH208

    def exists(self, path: Path) -> bool:
        """Whether there is such a file."""
        return path.exists()

    def read(self, path: Path) -> bytes:
        """All of a file."""
        with open(path, "rb") as file:  # noqa: PTH123  (a hundred thousand of them when a queue is opened)
            return file.read()

    def create(self, path: Path) -> int:
        """Begin a file, in place of another of its name; returns the descriptor."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
        return os.open(path, flags, 0o600)

    def write(self, descriptor: int, data: bytes) -> int:
        """Write a part of `data`; returns how much."""
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """Make what was written last."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Give the descriptor back."""
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, in place of another that has it."""
        os.replace(source, target)  # noqa: PTH105

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        os.unlink(path)  # noqa: PTH108

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder last."""
        durable.sync_folder(path)


DISK = Disk()


class Lock:
    """That one process has the queue open; it ends with the process, however that dies."""

    def __init__(self, folder: Path) -> None:
        """Take it, or raise a `UsageError` that names the folder and who has it."""
        path = folder / "lock"
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(self._descriptor)
        except OSError:
            other = os.read(self._descriptor, 20).decode("ascii", "replace").strip() or "unknown"
            self.release()
            raise UsageError(f"the queue {folder} is in use by process {other}") from None
        with contextlib.suppress(OSError):  # a full disk has no room for the number, but the lock holds
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let others have it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # behind what others are to read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


# ---- names and contents ------------------------------------------------------------------------------------


def file_name(number: int, entry_id: str) -> str:
    """The name of an entry's file: in the order of `ls` they are in the order in which they were put."""
    try:
        quoted = quote(entry_id, safe="")
    except UnicodeEncodeError:
        quoted = ""
    if not 0 < len(quoted) <= MAX_ID_CHARACTERS:
        raise UsageError(
            f"{entry_id!r} is no id: 1 to {MAX_ID_CHARACTERS} characters, others than a-z as %XX"
        )
    return f"{number:012d}-{quoted}.json"


def identity(name: str) -> tuple[int, str] | None:
    """Number and id in a file's name; None if it is none of ours."""
    match = NAME.fullmatch(name)
    return None if match is None else (int(match[1]), unquote(match[2], errors="surrogateescape"))


@dataclass(slots=True)
class Record:
    """What stands in an entry's file."""

    id: str
    lane: str
    group: str
    ordered: bool
    put_s: float
    due_s: float
    attempts: int = 0
    """That failed, ever."""
    failures: int = 0
    """That failed since it was put, or taken in again."""
    failing_since_s: float | None = None
    failed_s: float | None = None
    """When it failed last."""
    error_class: str | None = None
    error: str | None = None
    is_dead: bool = False
    payload: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def to_bytes(self) -> bytes:
        """As it is stored."""
        try:
            members = {name: getattr(self, name) for name in FIELDS}
            text = json.dumps({"version": VERSION, **members}, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"the payload of {self.id} is no JSON: {type(error).__name__}") from None
        return text.encode("ascii") + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Record:
        """As it was stored; a ValueError says in what it is not."""
        try:
            document = json.loads(data, parse_constant=_no_constant)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        except ValueError:
            raise ValueError("it is no JSON") from None
        if not isinstance(document, dict) or document.pop("version", None) != VERSION:
            raise ValueError(f"it is no entry of version {VERSION}")
        if document.keys() != FIELDS.keys():
            raise ValueError("members are missing or unknown")
        for name, kinds in FIELDS.items():
            value = document[name]
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise ValueError(f"{name} is no {kinds[0].__name__}")
            if isinstance(value, float | int) and not abs(value) < NUMBER_MAX:
                raise ValueError(f"{name} is out of range")
        if document["error_class"] not in (None, *ErrorClass):
            raise ValueError("error_class is none of ours")
        return cls(**document)


NUMBER_MAX = 1e12
"""A moment tens of thousands of years from now is none."""

NONE = type(None)
FIELDS: Mapping[str, tuple[type, ...]] = {
    "id": (str,),
    "lane": (str,),
    "group": (str,),
    "ordered": (bool,),
    "put_s": (float, int),
    "due_s": (float, int),
    "attempts": (int,),
    "failures": (int,),
    "failing_since_s": (float, int, NONE),
    "failed_s": (float, int, NONE),
    "error_class": (str, NONE),
    "error": (str, NONE),
    "is_dead": (bool,),
    "payload": (dict,),
}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def store(disk: Disk, path: Path, data: bytes, *, lasting: bool = True) -> None:
    """Let `data` be what `path` holds: all of it, or what was there before, perhaps again after a loss of power."""
    part = path.with_name(path.name + PART_SUFFIX)
    try:
        descriptor = disk.create(part)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[disk.write(descriptor, bytes(rest)) :]
            disk.fsync(descriptor)
        finally:
            disk.close(descriptor)
        disk.rename(part, path)
    except OSError:
        with contextlib.suppress(OSError):  # else it is removed when the queue is opened
            disk.unlink(part)
        raise
    if lasting:
        disk.sync_folder(path.parent)


# ---- what an operator does, beside a running process or without one ---------------------------------------------


class Standing(NamedTuple):
    """An entry as it lies on the disk."""

    state: str
    """The folder it is in."""
    path: Path
    record: Record | None
    """None when the file cannot be read as an entry."""
    problem: str = ""


def standing(folder: Path, states: Iterable[str] = FOLDERS, *, disk: Disk = DISK) -> Iterator[Standing]:
    """What lies in a queue, folder by folder, in the order in which it was put; what goes meanwhile is left out."""
    for state in states:
        try:
            names = sorted(disk.names(folder / state))
        except FileNotFoundError:
            continue
        for name in names:
            path = folder / state / name
            if state != DAMAGED and identity(name) is None:
                continue
            try:
                yield Standing(state, path, Record.from_bytes(disk.read(path)))
            except FileNotFoundError:
                continue
            except ValueError as error:
                yield Standing(state, path, None, str(error))
            except OSError as error:
                yield Standing(state, path, None, error.strerror or str(error))


def try_again(folder: Path, path: Path, *, disk: Disk = DISK) -> bool:
    """Let a dead letter be tried again, at once and with a new budget; False when it is no longer there."""
    target = folder / AGAIN / path.name
    try:
        disk.rename(path, target)
    except FileNotFoundError:
        return False
    disk.sync_folder(target.parent)
    disk.sync_folder(path.parent)
    return True


def drop(path: Path, *, disk: Disk = DISK) -> bool:
    """Remove a dead letter for good; False when it is no longer there."""
    try:
        disk.unlink(path)
    except FileNotFoundError:
        return False
    disk.sync_folder(path.parent)
    return True
