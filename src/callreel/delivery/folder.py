"""A folder as destination: files appear whole, under their object keys, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from callreel.errors import DeliveryError

__all__ = ["Folder", "PartFile", "Stored"]

PART_SUFFIX = ".part"


@dataclass(frozen=True, slots=True)
class Stored:
    """What a stored file turned out to be."""

    path: Path
    size_bytes: int
    sha256: str


class Folder:
    """A folder that takes recordings; an older file of the same key is replaced in one step."""

    def __init__(self, path: Path) -> None:
        """Use the folder at `path`; it is made when the first file is."""
        self.path = path
        self._being_made: set[Path] = set()
        self._numbers = count(2)

    def open(self, key: str) -> PartFile:
        """Begin the file `key`; it appears under that name when it is closed.

        Of several files of one key that are made at the same time each is whole: the one that is closed last stays.
        """
        target = self.path.joinpath(*key.split("/"))
        if not target.resolve().is_relative_to(self.path.resolve()):
            raise DeliveryError(f"the key {key!r} leads out of the folder", key=key)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(target.name + PART_SUFFIX)
            while part in self._being_made:
                part = target.with_name(f"{target.name}.{next(self._numbers)}{PART_SUFFIX}")
            return PartFile(key, target, part, self._being_made)
        except OSError as error:
            raise _as_delivery_error(error, key) from error


class PartFile:
    """A file in the making: apply `write`s to it, then `close` it, or `discard` it."""

    def __init__(self, key: str, target: Path, part: Path, being_made: set[Path]) -> None:
        """Create `part`, which is to become `target`, and is in `being_made` until then."""
        self.key = key
        self._target = target
        self._part = part
        self._file: BinaryIO | None = part.open("wb")
        self._being_made = being_made
        being_made.add(part)
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
            raise _as_delivery_error(error, self.key) from error

    def close(self) -> Stored:
        """Make the file appear: flush, fsync, rename, fsync of the folder."""
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
            size_bytes = self._part.stat().st_size
            self._part.replace(self._target)
            self._being_made.discard(self._part)
            _sync_folder(self._target.parent)
        except OSError as error:
            self.discard()
            raise _as_delivery_error(error, self.key) from error
        return Stored(self._target, size_bytes, digest)

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
            _sync_folder(target.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise _as_delivery_error(error, self.key) from error
        return target


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(path: Path) -> None:
    """Make a rename last; some systems (Windows) cannot open a folder and need no such thing."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _as_delivery_error(error: OSError, key: str) -> DeliveryError:
    return DeliveryError(f"cannot store {key}: {error.strerror or error}", key=key)
