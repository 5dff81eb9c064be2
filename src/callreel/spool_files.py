"""The spool's files: audio written at offsets, journals, files that appear whole, the lock, what makes them last.

Everything here may wait for the disk and raises OSError. `AudioFiles` is the seam where an encrypted spool comes in.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import shutil
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from errno import EMFILE, ENFILE
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from callreel.encryption import WrongKeyError
from callreel.encryption.format import MAGIC as ENCRYPTED
from callreel.errors import UsageError
from callreel.kernels import disk

__all__ = [
    "AudioFile",
    "AudioFiles",
    "FolderLock",
    "Journal",
    "OpenFiles",
    "PlainFiles",
    "open_files_share",
    "publish_json",
    "remove_tree",
    "sync_all",
    "write_part",
    "write_together",
]

PART_SUFFIX = ".part"


# ---- audio ----------------------------------------------------------------------------------------


class AudioFile(Protocol):
    """The audio of one take, open. Offsets and sizes are those of the audio, however it is stored."""

    def write(self, offset: int, pieces: Sequence[bytes]) -> None:
        """Write all pieces one after the other from `offset` on, or raise; writing them again must be harmless."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` on; fewer where the file ends."""
        ...

    def size(self) -> int:
        """How long it is."""
        ...

    def resize(self, size: int) -> None:
        """Make it exactly so long; what is added is zeros."""
        ...

    def close(self) -> None:
        """Give back what it holds; nothing may be waiting in it."""
        ...


class AudioFiles(Protocol):
    """How the audio of takes is stored: plainly, or encrypted."""

    def open(self, path: Path) -> AudioFile:
        """Open the audio at `path`; it is made where there is none.

        It is opened and closed as often as the spool likes, by one thread at a time. Whatever else it needs to be read
        again (a wrapped key) it keeps in the folder of `path`.
        """
        ...


PIECES_MAX = 512
"""Of one call; systems take 1,024."""


class _PlainFile:
    """A file descriptor."""

    __slots__ = ("_descriptor",)

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            if os.pread(self._descriptor, len(ENCRYPTED), 0) == ENCRYPTED:
                raise WrongKeyError("it is encrypted, and the spool has no key")
        except BaseException:
            os.close(self._descriptor)  # a sick disk is tried again and again
            raise

    def write(self, offset: int, pieces: Sequence[bytes]) -> None:
        if len(pieces) == 1 and os.pwrite(self._descriptor, pieces[0], offset) == len(pieces[0]):
            return
        for first in range(0, len(pieces), PIECES_MAX):
            some = pieces[first : first + PIECES_MAX]
            size = sum(map(len, some))
            done = os.pwritev(self._descriptor, some, offset)
            if done < size:  # a disk that is nearly full takes a part; the rest says why
                rest = memoryview(b"".join(some))[done:]
                while rest:
                    count = os.pwrite(self._descriptor, rest, offset + size - len(rest))
                    rest = rest[count:]
            offset += size

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def resize(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def close(self) -> None:
        os.close(self._descriptor)


def write_together(writes: Sequence[tuple[int, int, bytes]]) -> dict[int, int]:
    """Write (descriptor, offset, bytes) of many plain files in one go; the numbers of those that failed, with errno."""
    return disk.write_all(writes)


class PlainFiles:
    """Audio as it is."""

    def open(self, path: Path) -> AudioFile:
        """Open or make the file; WrongKeyError for one that is encrypted."""
        return _PlainFile(path)


class OpenFiles:
    """The audio files that are open: at most `limit`; the one that was used longest ago is closed for another."""

    def __init__(self, files: AudioFiles, limit: int) -> None:
        """Open files with `files`."""
        self._files = files
        self._limit = max(1, limit)
        self._open: OrderedDict[str, AudioFile] = OrderedDict()

    def get(self, path: str) -> AudioFile:
        """The file at `path`, open. Where the process has no descriptor left, half of ours are given back."""
        file = self._open.get(path)
        if file is not None:
            self._open.move_to_end(path)
            return file
        while len(self._open) >= self._limit:
            self._close_oldest()
        while True:
            try:
                file = self._files.open(Path(path))
            except OSError as error:
                if error.errno not in (EMFILE, ENFILE) or not self._open:
                    raise
                for _ in range((len(self._open) + 1) // 2):
                    self._close_oldest()
            else:
                self._open[path] = file
                return file

    def descriptors(self, paths: Sequence[str]) -> list[int | None]:
        """Of each, as `get` opens it, the descriptor that may be written to directly, until another is opened.

        None where it is not stored plainly, cannot be opened, or was closed again for the others.
        """
        files = self._open
        found = [files.get(path) for path in paths]
        for path, file in zip(paths, found, strict=True):
            if file is not None:
                files.move_to_end(path)
        if None in found:
            for path, file in zip(paths, found, strict=True):
                if file is None:
                    with contextlib.suppress(OSError, WrongKeyError):
                        self.get(path)
            found = [files.get(path) for path in paths]
        return [file._descriptor if type(file) is _PlainFile else None for file in found]

    def close(self, path: str) -> None:
        """Close the file at `path` if it is open; what goes wrong is raised."""
        file = self._open.pop(path, None)
        if file is not None:
            file.close()

    def close_all(self) -> None:
        """Close every one."""
        while self._open:
            self._close_oldest()

    def _close_oldest(self) -> None:
        _, file = self._open.popitem(last=False)
        # An error of close belongs to writes that were told to be done; fsync tells it where that matters.
        with contextlib.suppress(OSError):
            file.close()


def open_files_share() -> int:
    """A quarter of the files that this process may have open, and 4,096 at most."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if soft == resource.RLIM_INFINITY else max(8, min(4096, soft // 4))


# ---- journal, JSON files ----------------------------------------------------------------------------


class Journal:
    """A file to which lines are appended. Two threads may append; after an error the same lines may be given again."""

    __slots__ = ("_lock", "path", "size_bytes")

    def __init__(self, path: Path, size_bytes: int = 0) -> None:
        """Go on after `size_bytes`, where the last good line ends."""
        self.path = path
        self.size_bytes = size_bytes
        self._lock = Lock()

    def append(self, lines: bytes) -> None:
        """Write whole lines at the end: over what an attempt that failed has left."""
        with self._lock:
            _put(self.path, lines, self.size_bytes, mode=0o640)
            self.size_bytes += len(lines)


def write_part(path: Path, value: Mapping[str, Any]) -> Path:
    """Write JSON beside `path`, where it is still to be synced and renamed; says what its name is until then."""
    part = path.with_name(path.name + PART_SUFFIX)
    _put(part, json.dumps(value).encode() + b"\n", empties=True)
    return part


def publish_json(path: Path, value: Mapping[str, Any]) -> None:
    """Make a file of JSON appear whole; it lasts once it and its folder are synced."""
    write_part(path, value).replace(path)


def _put(path: Path, data: bytes, offset: int = 0, **options: Any) -> None:
    """`disk.put`, whose error is raised."""
    error = disk.put(os.fsencode(path), data, offset, **options)
    if error:
        raise OSError(error, os.strerror(error), str(path))


def remove_tree(path: Path) -> None:
    """Remove a folder with all there is in it, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


# ---- what makes files last ---------------------------------------------------------------------------

SYNC_EACH_MAX = 16
"""More files than that are synced by one call for the whole file system, where there is such a call."""


@cache
def _syncfs() -> Callable[[int], int] | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).syncfs
    except (AttributeError, OSError):
        return None
    function.argtypes, function.restype = [ctypes.c_int], ctypes.c_int
    return function


def sync_all(folder: Path, paths: Iterable[Path]) -> dict[Path, OSError]:
    """Make files and folders below `folder` last: each by itself, or all by one call; says which could not be.

    What is not there any more needs none of it.
    """
    wanted = list(dict.fromkeys(paths))
    syncfs = _syncfs() if len(wanted) > SYNC_EACH_MAX else None
    if syncfs is None:
        failed = disk.sync_each([os.fsencode(path) for path in wanted])
        return {wanted[number]: OSError(error, os.strerror(error)) for number, error in failed.items()}
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if syncfs(descriptor) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return {}
    except OSError as error:
        return dict.fromkeys(wanted, error)
    return {}


# ---- lock -------------------------------------------------------------------------------------------

_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()


class FolderLock:
    """A folder that one process has to itself; death gives it back.

    The file names the process for people who wonder; it is the system's lock on it that counts, which another machine
    that got a copy of the folder does not have.
    """

    def __init__(self, folder: Path) -> None:
        """Take the lock, or raise UsageError with the folder and the process that has it."""
        self._descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            self.release()
            raise UsageError(f"the spool {folder} is used by another process (pid {holder})") from None
        except OSError:
            self.release()
            raise
        with contextlib.suppress(OSError):  # a full disk has no room for the number, but the lock holds
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)
        _held.add(self)

    def release(self) -> None:
        """Give it back; once is enough."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _forget_locks() -> None:
    """In a forked child: the lock belongs to the parent, and must not outlive it there."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_forget_locks)
