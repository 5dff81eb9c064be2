"""The plain text of encrypted files, and what can be told of one without its key."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from callreel.durable import written_whole
from callreel.encryption.errors import EncryptedFileError
from callreel.encryption.format import JOURNALLED, MAGIC, Records, read_header
from callreel.encryption.keys import Keys
from callreel.seeking import SeekingReader

__all__ = ["PIECE_BYTES", "SealedReader", "decrypt_file", "is_encrypted", "key_id_of"]

PIECE_BYTES = 1 << 18
"""Read at a time."""


def is_encrypted(file: BinaryIO | SealedReader) -> bool:
    """Whether a file begins like an encrypted one; it is left at its beginning."""
    file.seek(0)
    found = file.read(len(MAGIC)) == MAGIC
    file.seek(0)
    return found


def key_id_of(file: BinaryIO) -> str:
    """The id of the key that a file is encrypted for, not authenticated; EncryptedFileError when it has none."""
    return read_header(file).key_id


class SealedReader(SeekingReader):
    """The plain text of an encrypted file, seekable; no byte of it is given before it is known to be authentic."""

    def __init__(self, file: BinaryIO, keys: Keys, *, unfinished: bool = False) -> None:
        """Open an encrypted file.

        `unfinished`: take what is authentic of one that was still being written when its process died. Its end may be
        missing; chunks that cannot be read are zeros, and `lost_bytes` says how many.

        Raises WrongKeyError, EncryptedFileError, and what `keys` raises.
        """
        super().__init__()
        self._file = file
        self.header = header = read_header(file)
        self.data_key = keys.open_data_key(header.key_id, header.wrapped)
        """For files of the same recording."""
        self.records = Records(header, self.data_key)
        self._unfinished = unfinished
        self.is_finished = False
        """Whether its writer came to its end."""
        self._lost: set[int] = set()
        self._kept: tuple[int, bytes] = (-1, b"")
        file_bytes = file.seek(0, io.SEEK_END)
        self.count = max(0, -(-(file_bytes - header.records_offset) // header.record_bytes))
        self.last_chunk = self._find_last_chunk()
        self.size_bytes = max(0, self.count - 1) * header.chunk_bytes + len(self.last_chunk)
        """Of the plain text."""

    def _find_last_chunk(self) -> bytes:
        """The last chunk there is, which tells whether the file is whole."""
        at = self.count - 1
        record = self.record(at) if at >= 0 else b""
        last = self.records.open(at, record, last=True)
        if last is not None:
            self.is_finished = True
            return last
        if not self._unfinished:
            offset = self.header.records_offset + max(0, at) * self.header.record_bytes
            if at < 0 or self.records.open(at, record, last=False) is not None:
                raise EncryptedFileError("it has been cut, or was never finished", offset=offset)
            raise EncryptedFileError("its end is damaged or has been cut", offset=offset)
        while self.count:
            at = self.count - 1
            for last_too in (False, True):
                for found in (self.record(at), self._journalled(at)):
                    chunk = self.records.open(at, found, last=last_too)
                    if chunk is not None:
                        return chunk
            self.count -= 1  # it was being written
        return b""

    def record(self, index: int) -> bytes:
        """The record in its place, authentic or not."""
        self._file.seek(self.header.records_offset + index * self.header.record_bytes)
        return self._file.read(self.header.record_bytes)

    def journalled(self) -> tuple[int, bytes] | None:
        """The record in the journal and its index; None where there is none that is authentic."""
        if not self.header.has_journal:
            return None
        self._file.seek(self.header.journal_offset)
        head = self._file.read(JOURNALLED.size)
        if len(head) < JOURNALLED.size:
            return None
        index, size = JOURNALLED.unpack(head)
        record = self._file.read(size) if size <= self.header.record_bytes else b""
        return None if self.records.open(index, record, last=False) is None else (index, record)

    def _journalled(self, index: int) -> bytes:
        """The record of that index in the journal, if it is the one there."""
        found = self.journalled()
        return found[1] if found is not None and found[0] == index else b""

    def _chunk(self, index: int) -> bytes:
        if index == self.count - 1:
            return self.last_chunk
        if self._kept[0] == index:
            return self._kept[1]
        chunk = self._whole_chunk(index, self.record(index))
        if chunk is None and self._unfinished:
            chunk = self._whole_chunk(index, self._journalled(index))
            if chunk is None:
                chunk = bytes(self.header.chunk_bytes)
                self._lost.add(index)
        if chunk is None:
            offset = self.header.records_offset + index * self.header.record_bytes
            raise EncryptedFileError("it is damaged", offset=offset)
        self._kept = (index, chunk)
        return chunk

    def _whole_chunk(self, index: int, record: bytes) -> bytes | None:
        chunk = self.records.open(index, record, last=False)
        return chunk if chunk is not None and len(chunk) == self.header.chunk_bytes else None

    @property
    def lost_bytes(self) -> int:
        """How much of what was read so far could not be, and was given as zeros."""
        return len(self._lost) * self.header.chunk_bytes

    def _piece(self, position: int, most_bytes: int) -> bytes:
        """Raises EncryptedFileError where they are not authentic."""
        index, at = divmod(position, self.header.chunk_bytes)
        return self._chunk(index)[at : at + most_bytes]

    def readinto(self, buffer: Any, /) -> int:
        """Fill `buffer` as far as there is something."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def pieces(self) -> Iterator[bytes]:
        """All of it, in pieces."""
        self.seek(0)
        while piece := self.read(PIECE_BYTES):
            yield piece


def decrypt_file(source: Path, target: Path, keys: Keys, *, unfinished: bool = False) -> SealedReader:
    """Decrypt a file; `target` appears whole, for its owner alone, or not at all.

    Returns the reader, closed, which says what was lost of a file that was never finished.
    """
    with contextlib.ExitStack() as stack:
        reader = SealedReader(stack.enter_context(source.open("rb")), keys, unfinished=unfinished)
        with written_whole(target, mode=0o600) as file:
            for piece in reader.pieces():
                file.write(piece)
    return reader
