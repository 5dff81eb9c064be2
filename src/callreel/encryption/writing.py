"""Encrypted files as they are made: `Encryptor` writes one from beginning to end, `SealedFile` one that grows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from callreel.durable import written_whole
from callreel.encryption.errors import EncryptedFileError
from callreel.encryption.format import JOURNALLED, RECORD_EXTRA_BYTES, Records, new_header
from callreel.encryption.keys import DataKey, Keys
from callreel.encryption.reading import PIECE_BYTES, SealedReader
from callreel.errors import UsageError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "CHUNK_BYTES",
    "GROWING_CHUNK_BYTES",
    "Encrypted",
    "Encryptor",
    "SealedFile",
    "encrypt_file",
]

CHUNK_BYTES = 64 << 10
"""Of a file written once: an overhead of 0.04 %."""
GROWING_CHUNK_BYTES = 4 << 10
"""Of a file that grows: what a flush writes twice; an overhead of 0.7 %."""

MOST_HELD_CHUNKS = 32
"""Plain chunks that a file which is written holds back."""


class Encryptor:
    """Encrypts a stream: `start`, any number of `add`, `finish`; each gives the next bytes of the file."""

    def __init__(self, data_key: DataKey, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        """Encrypt for `data_key`; `chunk_bytes`: a power of two from 64 to 1,048,576."""
        self._header = new_header(data_key, chunk_bytes, has_journal=False)
        self._records = Records(self._header, data_key)
        self._held = bytearray()
        self._index = 0

    def start(self) -> bytes:
        """The header."""
        return self._header.raw + self._header.tag

    def add(self, plain: Buffer) -> bytes:
        """The records that are full; what may become the last one is held back."""
        self._held += plain
        step = self._header.chunk_bytes
        full = max(0, len(self._held) - 1) // step
        if not full:
            return b""
        held = memoryview(self._held)
        sealed = [
            self._records.seal(self._index + number, held[number * step : (number + 1) * step], last=False)
            for number in range(full)
        ]
        held.release()
        del self._held[: full * step]
        self._index += full
        return b"".join(sealed)

    def finish(self) -> bytes:
        """The last record."""
        return self._records.seal(self._index, self._held, last=True)


class SealedFile:
    """A file that is encrypted as it is written, at any offset; nothing of it is on disk in the clear.

    It belongs to one thread at a time. What was written is on disk after `flush`, and whole after `finish`.
    """

    def __init__(
        self,
        file: BinaryIO,
        data_key: DataKey,
        *,
        chunk_bytes: int = GROWING_CHUNK_BYTES,
        journal: bool = True,
    ) -> None:
        """Begin an encrypted file in `file`, which is empty, seekable, and open for reading and writing.

        `journal`: so that it can be read when its process dies, at any moment; not needed where it is then written
        anew anyway. `chunk_bytes`: a power of two from 64 to 1,048,576; a flush writes a few of these.
        """
        self._file = file
        self._header = new_header(data_key, chunk_bytes, journal)
        self._records = Records(self._header, data_key)
        self._held: dict[int, bytearray] = {}  # plain chunks, of which the last one is always there
        self._dirty: set[int] = set()
        self._stored = 0  # records that are in the file
        self._size_bytes = 0
        self._finished = False
        self._write(0, self._header.raw + self._header.tag)
        if journal:
            self._write(self._header.journal_offset, bytes(JOURNALLED.size + self._header.record_bytes))

    @classmethod
    def reopened(cls, file: BinaryIO, keys: Keys) -> SealedFile:
        """Go on with a growing file that was closed, or that a dead process left, with what had been flushed in it.

        Raises WrongKeyError, EncryptedFileError, and what `keys` raises; UsageError when it was finished, or has no
        journal and so cannot go on.
        """
        reader = SealedReader(file, keys, unfinished=True)
        if reader.is_finished or not reader.header.has_journal:
            raise UsageError("a file that was finished, or has no journal, does not grow any more")
        self = cls.__new__(cls)
        self._file, self._header, self._records = file, reader.header, reader.records
        self._size_bytes, self._stored, self._finished = reader.size_bytes, reader.count, False
        self._dirty = set()
        self._held = {reader.count - 1: bytearray(reader.last_chunk)} if reader.count else {}
        found = reader.journalled()
        if found is not None and found[0] < self._stored:
            index, record = found
            if self._records.open(index, reader.record(index), last=False) is None:
                self._write(self._place(index), record)  # its process died between the journal and the place
        self._cut()
        return self

    @property
    def size_bytes(self) -> int:
        """How much has been written, in the clear."""
        return self._size_bytes

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write at `offset`, over what is there or behind it; a gap is filled with zeros."""
        if self._finished:
            raise UsageError("this file has been finished")
        if offset < 0:
            raise ValueError(f"offset={offset}")
        while offset > self._size_bytes:
            self._put(self._size_bytes, bytes(min(offset - self._size_bytes, self._header.chunk_bytes)))
        self._put(offset, data)

    def _put(self, offset: int, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        step = self._header.chunk_bytes
        done = 0
        while done < len(view):
            index, at = divmod(offset + done, step)
            piece = view[done : done + step - at]
            chunk = self._held.get(index)
            if chunk is None:
                chunk = self._held[index] = bytearray(self._read(index) if index < self._stored else b"")
            chunk[at : at + len(piece)] = piece
            self._dirty.add(index)
            done += len(piece)
            self._size_bytes = max(self._size_bytes, offset + done)
            if len(self._held) > MOST_HELD_CHUNKS:
                self._store(all_but_last=True)

    def truncate(self, size_bytes: int) -> None:
        """Make it shorter; on the disk too, whenever its process dies."""
        if not 0 <= size_bytes < self._size_bytes:
            return
        step = self._header.chunk_bytes
        self._store(all_but_last=False)
        tail = max(0, size_bytes - 1) // step
        chunk = bytearray(self.read_at(tail * step, step))
        self._size_bytes, self._stored = min(self._size_bytes, (tail + 1) * step), tail + 1
        self._held = {tail: chunk}
        self._cut()  # whole chunks first: what is left is whole at any moment
        del chunk[size_bytes - tail * step :]
        self._size_bytes = size_bytes
        self._write_record(tail, self._records.seal(tail, chunk, last=False))
        self._cut()

    def _place(self, index: int) -> int:
        return self._header.records_offset + index * self._header.record_bytes

    def _cut(self) -> None:
        """Let the file end where its last record does."""
        end = self._place(0)
        if self._stored:
            at = self._stored - 1
            end = self._place(at) + RECORD_EXTRA_BYTES + self._size_bytes - at * self._header.chunk_bytes
        self._file.truncate(end)

    def read_at(self, offset: int, size: int) -> bytes:
        """Read what was written, flushed or not; less where it ends."""
        step = self._header.chunk_bytes
        end = min(offset + size, self._size_bytes)
        pieces = []
        while offset < end:
            index, at = divmod(offset, step)
            chunk = self._held.get(index)
            piece = bytes((self._read(index) if chunk is None else chunk)[at : at + end - offset])
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces)

    def flush(self) -> None:
        """Put everything written into the file."""
        if not self._finished:
            self._store(all_but_last=False)
        self._file.flush()

    def finish(self) -> None:
        """Flush, and mark the end: from now on the file is whole."""
        if self._finished:
            return
        self._store(all_but_last=True)
        tail = self._tail_index
        self._write_record(tail, self._records.seal(tail, self._held.get(tail, b""), last=True))
        self._dirty.clear()
        self._finished = True
        self._file.flush()

    @property
    def _tail_index(self) -> int:
        return max(0, self._size_bytes - 1) // self._header.chunk_bytes

    def _store(self, *, all_but_last: bool) -> None:
        tail = self._tail_index
        for index in sorted(self._dirty):
            if not (all_but_last and index == tail):
                self._write_record(index, self._records.seal(index, self._held[index], last=False))
                self._dirty.discard(index)
        for index in [index for index in self._held if index != tail]:
            del self._held[index]

    def _write_record(self, index: int, record: bytes) -> None:
        if self._header.has_journal and index < self._stored:
            # In this order, or a death in between could leave neither.
            self._write(self._header.journal_offset, JOURNALLED.pack(index, len(record)) + record)
        self._write(self._place(index), record)
        self._stored = max(self._stored, index + 1)

    def _write(self, offset: int, data: bytes) -> None:
        self._file.seek(offset)
        done = self._file.write(data)
        while done < len(data):  # only files without a buffer write less than they are given
            done += self._file.write(data[done:])
        self._file.flush()

    def _read(self, index: int) -> bytes:
        self._file.seek(self._place(index))
        plain = self._records.open(index, self._file.read(self._header.record_bytes), last=False)
        if plain is None:
            raise EncryptedFileError("the file was changed while it was written", offset=self._place(index))
        return plain


class Encrypted(NamedTuple):
    """What an encrypted file turned out to be."""

    size_bytes: int
    sha256: str
    """Of the encrypted file, hexadecimal."""


def encrypt_file(
    source: Path, target: Path, data_key: DataKey, *, chunk_bytes: int = CHUNK_BYTES
) -> Encrypted:
    """Encrypt a file; `target` appears whole or not at all."""
    encryptor = Encryptor(data_key, chunk_bytes=chunk_bytes)
    digest = hashlib.sha256()
    with source.open("rb") as plain, written_whole(target) as file:
        pieces = iter(lambda: plain.read(PIECE_BYTES), b"")
        for piece in _encrypted(encryptor, pieces):
            digest.update(piece)
            file.write(piece)
        size_bytes = file.tell()
    return Encrypted(size_bytes, digest.hexdigest())


def _encrypted(encryptor: Encryptor, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield encryptor.start()
    for piece in pieces:
        yield encryptor.add(piece)
    yield encryptor.finish()
