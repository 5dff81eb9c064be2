"""Recordings that the service keeps for a download: Microsoft Graph's, until shortly after their call."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from callreel.encryption import Keys, SealedReader, is_encrypted

__all__ = ["Held"]

log = logging.getLogger("callreel.service")

PIECE_BYTES: Final = 1 << 16


class Held:
    """The folder that destinations of the kind "held" are; any thread."""

    def __init__(self, folder: Path, keys: Keys | None = None) -> None:
        """`keys`: what the files are encrypted with; they are handed out in the clear."""
        self._folder = folder
        self._keys = keys

    def pieces(self, key: str) -> Iterator[bytes] | None:
        """A recording's bytes; None when it is not there (any more)."""
        path = self._folder.joinpath(*key.split("/"))
        if not path.resolve().is_relative_to(self._folder.resolve()):
            return None
        try:
            file = path.open("rb")
        except OSError:
            return None
        return self._read(file)

    def _read(self, file: BinaryIO) -> Iterator[bytes]:
        with file:
            encrypted = is_encrypted(file)
            file.seek(0)
            if encrypted and self._keys is not None:
                yield from SealedReader(file, self._keys).pieces()
                return
            while piece := file.read(PIECE_BYTES):
                yield piece

    def sweep(self, wanted: Collection[str], *, older_than_s: float) -> int:
        """Remove what is older, but for the folders (those of calls) that are wanted; how many were removed."""
        removed = 0
        try:
            folders = list(self._folder.iterdir())
        except FileNotFoundError:
            return 0
        for folder in folders:
            if folder.name in wanted:
                continue
            try:
                newest = max(one.stat().st_mtime for one in (folder, *folder.iterdir()))
                if time.time() - newest >= older_than_s:
                    shutil.rmtree(folder)
                    removed += 1
            except OSError as error:
                log.warning("%s cannot be removed: %s", folder, error.strerror or error)
        return removed
