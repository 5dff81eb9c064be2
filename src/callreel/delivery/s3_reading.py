"""An object of S3 as a file that is read: seekable, by range requests, never whole in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Final

from callreel.delivery.s3 import S3
from callreel.errors import DeliveryInterruptedError
from callreel.seeking import SeekingReader

__all__ = ["S3File"]

LEAST_BYTES: Final = 64 << 10
"""Of the first request after a seek."""
MOST_BYTES: Final = 1 << 20
"""Each request that goes on where the one before ended asks for twice as much, up to this."""


class S3File(SeekingReader):
    """The bytes of one object, as it was when it was opened; it belongs to one thread at a time.

    An object that is replaced meanwhile ends in a `DeliveryConflictError`, never in bytes of two.
    """

    def __init__(self, store: S3, key: str) -> None:
        """Look at the object: a `DestinationMissingError` when there is none, another `DeliveryError` for all else."""
        super().__init__()
        self._store, self._key = store, key
        found = store.call("head_object", key, "look at")
        self.size_bytes: int = found["ContentLength"]
        self.metadata: Mapping[str, str] = found.get("Metadata", {})
        """What is stored beside it."""
        self._etag: str = found["ETag"]
        self._first, self._window = 0, b""
        self._asks_for = LEAST_BYTES

    def _piece(self, position: int, most_bytes: int) -> bytes:
        """Raises a `DeliveryError` where the store does not give them."""
        if not 0 <= position - self._first < len(self._window):
            self._fetch(position)
        at = position - self._first
        return self._window[at : at + most_bytes]

    def _fetch(self, position: int) -> None:
        """Have the bytes at a position, and some behind it."""
        goes_on = self._window and position == self._first + len(self._window)
        self._asks_for = min(2 * self._asks_for, MOST_BYTES) if goes_on else LEAST_BYTES
        length = min(self._asks_for, self.size_bytes - position)
        asked = f"bytes={position}-{position + length - 1}"
        body = self._store.call("get_object", self._key, "read", Range=asked, IfMatch=self._etag)["Body"]
        with self._store.translated(self._key, "read"), contextlib.closing(body):
            window = body.read(length + 1)
        if len(window) != length:
            raise DeliveryInterruptedError(
                f"cannot read {self._key}: the store did not give {asked}", key=self._key, retryable=True
            )
        self._first, self._window = position, window
