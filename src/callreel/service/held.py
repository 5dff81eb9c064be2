"""Recordings that the service itself keeps for its customers, handed out in the clear whether encrypted or not.

Microsoft Graph's are held until shortly after their call (`Held`), those of Sinch Drive until they expire.
"""

from __future__ import annotations

import io
import logging
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import unquote

from callreel.encryption import Keys, SealedReader, WrongKeyError, is_encrypted
from callreel.keys import safe_component

__all__ = ["Clear", "Held"]

log = logging.getLogger("callreel.service")

PIECE_BYTES: Final = 1 << 16


class Clear:
    """What a file holds in the clear."""

    def __init__(self, file: BinaryIO, keys: Keys | None) -> None:
        """Read `file`, from its beginning; `keys`: what it may be encrypted with.

        When it cannot be read, for instance as it is encrypted for another key, that is raised and the file closed.
        """
        self._file = file
        self._source: BinaryIO | SealedReader = file
        try:
            if is_encrypted(file):
                if keys is None:
                    raise WrongKeyError("it is encrypted, and there is no key: name one in [encryption]")
                self._source = SealedReader(file, keys)
            self.size_bytes = self._source.seek(0, io.SEEK_END)
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def pieces(self, first: int = 0, last: int | None = None) -> Iterator[bytes]:
        """Its bytes, from `first` to `last`, that one included; the file is closed in the end."""
        left = self.size_bytes - first if last is None else last + 1 - first
        with self._file:
            self._source.seek(first)
            while left > 0 and (piece := self._source.read(min(PIECE_BYTES, left))):
                left -= len(piece)
                yield piece


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
        return Clear(file, self._keys).pieces()

    def sweep(
        self,
        wanted: Collection[str],
        *,
        older_than_s: float,
        is_ours: Callable[[str], bool] = lambda call_id: True,
    ) -> int:
        """Remove what is older, but for the folders (those of calls) that are wanted; how many were removed.

        Of several processes each removes the folders that `is_ours` says so of, by their name.
        """
        removed = 0
        try:
            folders = list(self._folder.iterdir())
        except FileNotFoundError:
            return 0
        for folder in folders:
            if folder.name in wanted or not is_ours(folder.name):
                continue
            try:
                newest = max(one.stat().st_mtime for one in (folder, *folder.iterdir()))
                if time.time() - newest >= older_than_s:
                    shutil.rmtree(folder)
                    removed += 1
            except OSError as error:
                log.warning(
                    "%s cannot be removed: %s", folder, error.strerror or error, extra=_names(folder.name)
                )
        return removed


def _names(folder: str) -> dict[str, str]:
    """The id of the call that a folder is named after, where it can be read from that: what is too long is cut."""
    call_id = unquote(folder)
    return {"call_id": call_id} if safe_component(call_id) == folder else {}
