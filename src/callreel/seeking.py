"""A file that is read anywhere, whose bytes have to be got first: decrypted, or asked of a store."""

from __future__ import annotations

import errno
import io
import os

__all__ = ["SeekingReader"]


class SeekingReader(io.RawIOBase):
    """Seeks and reads by the pieces that a subclass gives; it belongs to one thread at a time."""

    size_bytes: int
    """How much there is to read."""

    def __init__(self) -> None:
        """Begin at the beginning."""
        super().__init__()
        self._position = 0

    def _piece(self, position: int, most_bytes: int) -> bytes:
        """Some of the bytes from a position on, one at least, where there are any."""
        raise NotImplementedError

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a position, which may be behind the end; OSError for one before the beginning."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size_bytes}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """As many bytes as asked for, fewer only at the end; what getting them raises."""
        left = max(0, self.size_bytes - self._position)
        size = left if size is None or size < 0 else min(size, left)
        pieces = []
        while size:
            piece = self._piece(self._position, size)
            pieces.append(piece)
            self._position += len(piece)
            size -= len(piece)
        return b"".join(pieces)
