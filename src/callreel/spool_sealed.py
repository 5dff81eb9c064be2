"""The audio of takes, encrypted as it is written: `AudioFiles` of a spool over files of `callreel.encryption`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from callreel.encryption import (
    DataKey,
    Keys,
    SealedFile,
    SealedReader,
    WrongKeyError,
    is_encrypted,
    key_id_of,
)
from callreel.spool_files import AudioFile, PlainFiles

__all__ = ["SealedFiles", "opened"]

NO_KEY = "it is encrypted for the key {}, and there is none"

NEW_SUFFIX = ".new"


class _SealedAudio:
    """One file, open."""

    __slots__ = ("_file", "_sealed")

    def __init__(self, path: Path, keys: Keys) -> None:
        if not path.exists():
            # A name is given only to what has a whole header: whatever has the name can be gone on with.
            new = path.with_name(path.name + NEW_SUFFIX)
            data_key = keys.new_data_key()
            with new.open("w+b", buffering=0) as file:
                SealedFile(file, data_key)
            new.chmod(0o640)
            new.replace(path)
        self._file = path.open("r+b", buffering=0)
        try:
            self._sealed = SealedFile.reopened(self._file, keys)
        except BaseException:
            self._file.close()
            raise

    def write(self, offset: int, pieces: Sequence[bytes]) -> None:
        if data := b"".join(pieces):
            self._sealed.write_at(offset, data)
            self._sealed.flush()

    def read(self, offset: int, size: int) -> bytes:
        return self._sealed.read_at(offset, size)

    def size(self) -> int:
        return self._sealed.size_bytes

    def resize(self, size: int) -> None:
        self._sealed.truncate(size)
        self._sealed.write_at(size, b"")
        self._sealed.flush()

    def close(self) -> None:
        self._file.close()


class SealedFiles:
    """Audio encrypted under a data key for each take; what was spooled in the clear before is read as it is."""

    def __init__(self, keys: Keys) -> None:
        """Take data keys from `keys`, which nobody should have to wait for (`ReadyKeys`)."""
        self._keys = keys

    def open(self, path: Path) -> AudioFile:
        """Open or make the file."""
        if path.exists():
            with path.open("rb", buffering=0) as file:
                is_plain = not is_encrypted(file)
            if is_plain:
                return PlainFiles().open(path)
        return _SealedAudio(path, self._keys)


@contextmanager
def opened(path: Path, keys: Keys | None) -> Iterator[tuple[Path | SealedReader, DataKey | None]]:
    """A take's audio that has ended, as `finishing.finish` takes it, and the key for what is made of it.

    With `keys` everything is encrypted, what was spooled in the clear too. Raises WrongKeyError (also where there are
    none and it is encrypted), EncryptedFileError, and what `keys` raises.
    """
    with path.open("rb") as file:
        if is_encrypted(file):
            if keys is None:
                raise WrongKeyError(NO_KEY.format(key_id_of(file)))
            reader = SealedReader(file, keys, unfinished=True)
            yield reader, reader.data_key
            return
    yield path, None if keys is None else keys.new_data_key()
