"""A folder as destination: files appear whole, under their object keys, or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from callreel.delivery import Parcel, Receipt
from callreel.delivery.local import changed, not_stored, unreadable
from callreel.durable import sync_folder
from callreel.errors import (
    DeliveryConflictError,
    DeliveryDeniedError,
    DeliveryError,
    DeliveryInterruptedError,
    DestinationMissingError,
)

__all__ = ["Folder", "PartFile", "Stored"]

PART_SUFFIX = ".part"
COPY_BYTES = 256 << 10
"""Read at a time."""

_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.EXDEV}


@dataclass(frozen=True, slots=True)
class Stored:
    """What a stored file turned out to be."""

    path: Path
    size_bytes: int
    sha256: str


class Folder:
    """A folder that takes recordings; an older file of the same key is replaced in one step, where that is asked for.

    What comes with `open` replaces; what comes with `deliver` does as its parcel says.
    """

    def __init__(self, path: Path) -> None:
        """Use the folder at `path`; it is made when the first file is."""
        self.path = path
        self._being_made: set[Path] = set()
        self._numbers = count(2)
        self._naming = threading.Lock()

    def open(self, key: str) -> PartFile:
        """Begin the file `key`; it appears under that name when it is closed.

        Of several files of one key that are made at the same time each is whole: the one that is closed last stays.
        """
        target = self._target(key)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(target.name + PART_SUFFIX)
            with self._naming:
                while part in self._being_made:
                    part = target.with_name(f"{target.name}.{next(self._numbers)}{PART_SUFFIX}")
                self._being_made.add(part)
            return PartFile(key, target, part, self._being_made)
        except OSError as error:
            raise not_stored(key, error) from error

    @property
    def lane(self) -> str:
        """What fails together: the folder."""
        return self.path.absolute().as_uri()

    def check(self, key: str) -> None:
        """Say now whether a file of that key could be delivered: whether its folder is there or can be made."""
        folder = self._target(key).parent
        while not os.path.lexists(folder) and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            raise DestinationMissingError(f"cannot store {key}: {folder} is no folder", key=key)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise DeliveryDeniedError(f"cannot store {key}: {folder} may not be written to", key=key)

    def deliver(self, parcel: Parcel) -> Receipt:
        """Deliver the file whole, or raise a `DeliveryError` and leave nothing of it.

        A file has nothing beside it to tell whose it is: one with the same content is taken for ours.
        """
        target = self._target(parcel.key)
        try:
            if not parcel.overwrite and self._is_there(target, parcel):
                return _receipt(target, parcel)
            try:
                source = parcel.path.open("rb")
            except OSError as error:
                raise unreadable(parcel, error) from error
            with source:
                file = self.open(parcel.key)
                try:
                    return self._copy(source, file, target, parcel)
                except BaseException:
                    file.discard()
                    raise
        except DeliveryError:
            raise
        except OSError as error:
            raise not_stored(parcel.key, error) from error

    def _copy(self, source: BinaryIO, file: PartFile, target: Path, parcel: Parcel) -> Receipt:
        offset = 0
        while data := _read(source, parcel):
            file.write([(offset, data)])
            offset += len(data)
        if offset != parcel.size_bytes:
            raise changed(parcel)
        try:
            file.close(replace=parcel.overwrite, sha256=parcel.sha256)
        except FileExistsError:  # it came meanwhile
            self._is_there(target, parcel)
        except DeliveryInterruptedError:  # which of the two is not right?
            if _sum_of(parcel) != parcel.sha256:
                raise changed(parcel) from None
            raise
        return _receipt(target, parcel)

    def _is_there(self, target: Path, parcel: Parcel) -> bool:
        """Tell whether it was delivered before; something else there is a conflict."""
        try:
            size_bytes = target.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return False
        if size_bytes == parcel.size_bytes and _sha256(target) == parcel.sha256:
            # Whoever put it there may have died right behind that.
            with self._naming:
                part = target.with_name(target.name + PART_SUFFIX)
                if part not in self._being_made:
                    part.unlink(missing_ok=True)
            sync_folder(target.parent)
            return True
        raise DeliveryConflictError(f"something else is stored as {parcel.key}", key=parcel.key)

    def _target(self, key: str) -> Path:
        target = self.path.joinpath(*key.split("/"))
        if not target.resolve().is_relative_to(self.path.resolve()):
            raise DeliveryDeniedError(f"the key {key!r} leads out of the folder", key=key)
        return target


class PartFile:
    """A file in the making: apply `write`s to it, then `close` it, or `discard` it."""

    def __init__(self, key: str, target: Path, part: Path, being_made: set[Path]) -> None:
        """Create `part`, which is to become `target`, and stays in `being_made` until then."""
        self.key = key
        self._target = target
        self._part = part
        try:
            self._file: BinaryIO | None = part.open("wb")
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            being_made.discard(part)
            raise
        self._being_made = being_made
        self._size_bytes = 0
        # Of bytes that are there already only the last version counts, and nobody sees the file before it is closed.
        self._patches: dict[int, bytes] = {}
        self._error: OSError | None = None  # of a suspend: whoever asked for that writes another file

    def write(self, writes: Iterable[tuple[int, bytes]]) -> None:
        """Take writes, (offset, bytes) each: what comes at the end is written, what lies before it when closing."""
        try:
            file = self._opened()
            for offset, data in writes:
                if offset == self._size_bytes:
                    file.write(data)
                    self._size_bytes += len(data)
                else:
                    self._patches.pop(offset, None)
                    self._patches[offset] = data
        except OSError as error:
            self.discard()
            raise not_stored(self.key, error) from error

    def close(self, *, replace: bool = True, sha256: str | None = None) -> Stored:
        """Make the file appear: flush, fsync, rename, fsync of the folder.

        Without `replace` a file that is there already is a FileExistsError, and stays. `sha256`: what it must be, read
        back; else it is a DeliveryInterruptedError, and does not appear.
        """
        try:
            file = self._opened()
            for offset, data in self._patches.items():
                file.seek(offset)
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
            self.suspend()
            if self._error is not None:
                raise self._error
            digest = _sha256(self._part)
            if sha256 not in (None, digest):
                raise DeliveryInterruptedError(
                    f"cannot store {self.key}: what is stored has another checksum",
                    key=self.key,
                    retryable=True,
                )
            size_bytes = self._part.stat().st_size
            if replace or not self._link():
                self._part.replace(self._target)
            self._being_made.discard(self._part)
            sync_folder(self._target.parent)
        except OSError as error:
            self.discard()
            if isinstance(error, FileExistsError):
                raise
            raise not_stored(self.key, error) from error
        return Stored(self._target, size_bytes, digest)

    def _link(self) -> bool:
        """Give the file its name unless another has it, in one step; False where the file system cannot."""
        try:
            self._target.hardlink_to(self._part)
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if self._target.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            return False
        self._part.unlink()
        return True

    def discard(self) -> None:
        """Leave nothing half made behind."""
        self.suspend()
        if self._part in self._being_made:
            self._being_made.discard(self._part)
            with contextlib.suppress(OSError):
                self._part.unlink(missing_ok=True)

    def suspend(self) -> None:
        """Give the file descriptor back until the next write: a process may have few.

        What goes wrong is raised there.
        """
        file, self._file = self._file, None
        try:
            if file is not None:
                file.close()
        except OSError as error:
            self._error = error

    def _opened(self) -> BinaryIO:
        if self._error is not None:
            raise self._error
        if self._file is None:
            self._file = self._part.open("r+b")
            self._file.seek(self._size_bytes)
        return self._file

    def write_manifest(self, manifest: Mapping[str, Any]) -> Path:
        """Store the manifest beside the audio, as `<audio file>.json`."""
        target = self._target.with_name(self._target.name + ".json")
        part = target.with_name(target.name + PART_SUFFIX)
        try:
            with part.open("w", encoding="utf-8", errors="backslashreplace") as file:
                json.dump(manifest, file, indent=2, ensure_ascii=False)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
            sync_folder(target.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise not_stored(self.key, error) from error
        return target


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(source: BinaryIO, parcel: Parcel) -> bytes:
    try:
        return source.read(COPY_BYTES)
    except OSError as error:
        raise unreadable(parcel, error) from error


def _sum_of(parcel: Parcel) -> str:
    try:
        return _sha256(parcel.path)
    except OSError as error:
        raise unreadable(parcel, error) from error


def _receipt(target: Path, parcel: Parcel) -> Receipt:
    return Receipt(target.absolute().as_uri(), parcel.size_bytes, f"sha256:{parcel.sha256}")
