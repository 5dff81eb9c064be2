"""Sinch Drive as a store of one's own: recordings kept in a folder, listed, handed out, deleted, gone after a time.

What the vendor's pages say of it, and what they leave open (decided here, marked *):

    destinationUrl   sdrive://[file]; a folder part is ignored; without a file the dialect generates a name
    overwriting      "Sinch does not check if a filename exists": whoever delivers says so (`Parcel.overwrite`)
    list             from, to, page, pageSize -> [{key, url, createdOn, expiresOn, headers}]
                     * from <= createdOn < to; oldest first, so that pages stay as they are while recordings come in;
                     * page 1 and pageSize 100 unless given; a page behind the end is empty
    get, delete      by key; 40002 "No key specified", 40400 "Recording not found"
    expiresOn        * creation and the retention the host chose; null, and kept until deleted, when it chose none
    headers          * Content-Type, Content-Length, and the recording's metadata

On disk, below one folder:

    files/<digest>.<8 hex>    the recording; <digest>: the first 32 hexadecimal digits of its key's SHA-256
    index/<digest>.json       key, times, size, SHA-256, media type, metadata, and which of the files it is
    index/lock                locked by whoever is changing the index

There is no database: the index is what these files say. A recording is there when its JSON file is, which is renamed
into place after the recording itself is safe, so that after a crash the old one or the new one is there, whole. Whoever
reads one goes on reading it while it is replaced or deleted. Any number of threads may use one `Drive`, and several
processes one folder; `sweep` removes what has expired and what crashes left.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self
from urllib.parse import quote

from callreel.delivery import Parcel, Receipt
from callreel.delivery.local import not_stored, unreadable
from callreel.durable import PART_SUFFIX, sync_folder, written_whole
from callreel.errors import (
    ActionError,
    DeliveryConflictError,
    DeliveryError,
)

__all__ = ["DRIVE_URL", "Download", "Drive", "DriveError", "Recording", "Swept"]

DRIVE_URL = "https://www.sinch.com/calling/v1/recording/"
"""What stands before keys in the vendor's samples."""

ILLEGAL, NO_KEY, NOT_FOUND = 40001, 40002, 40400

PAGE_SIZE = 100
PIECE_BYTES = 1 << 20
MOST_KEY_BYTES = 1024
LOCK = "lock"
LEFT_AFTER_S = 3600.0
"""What no index file names is something a crash left, once it is so old: a delivery may be on its way."""

UNRESERVED = "!$'()*+,;=:@"
"""Besides letters, digits and _.-~ what stands for itself in a key's URL (RFC 3986: pchar without &)."""

STORED_NAME = re.compile(r"[0-9a-f]{32}\.[0-9a-f]{8}")


class DriveError(ActionError):
    """A request that cannot be carried out; `code` is the vendor's, its first three digits an HTTP status."""

    def __init__(self, code: int, message: str, *, field: str | None = None, value: object = None) -> None:
        """Keep the vendor's code."""
        super().__init__(message, field=field, value=value)
        self.code = code


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording in the drive."""

    key: str
    url: str
    created_on: datetime
    expires_on: datetime | None
    size_bytes: int
    sha256: str
    media_type: str
    metadata: Mapping[str, str]
    stored_name: str
    """Of its file, which is a new one each time."""

    @property
    def headers(self) -> dict[str, str]:
        """What it is handed out with."""
        return {
            "Content-Type": self.media_type,
            "Content-Length": str(self.size_bytes),
            **self.metadata,
        }

    def as_document(self) -> dict[str, Any]:
        """Itself as the vendor lists it."""
        return {
            "key": self.key,
            "url": self.url,
            "createdOn": _written(self.created_on),
            "expiresOn": None if self.expires_on is None else _written(self.expires_on),
            "headers": self.headers,
        }


class Swept(NamedTuple):
    """What `Drive.sweep` found."""

    expired: tuple[str, ...]
    """Keys of recordings that were removed because their time was over."""
    left_over: int
    """Files that belonged to nothing and were removed."""
    damaged: tuple[Path, ...]
    """Index files that say nothing sensible, or name a file that is not there; left for somebody to look at."""


class Download:
    """A recording, or a range of it, being read; it stays whole, whatever happens to its key."""

    def __init__(self, recording: Recording, file: BinaryIO, first: int, length: int) -> None:
        """Read `length` bytes of `file` from `first` on."""
        self.recording = recording
        self.first = first
        """Its first byte."""
        self.length = length
        """How many bytes there are of it."""
        self._file = file

    def pieces(self) -> Iterator[bytes]:
        """The bytes, in pieces."""
        self._file.seek(self.first)
        left = self.length
        while left:
            piece = self._file.read(min(left, PIECE_BYTES))
            if not piece:
                raise OSError(errno.EIO, "the stored file became shorter")
            left -= len(piece)
            yield piece

    def read(self) -> bytes:
        """All of the bytes at once."""
        return b"".join(self.pieces())

    def detach(self) -> BinaryIO:
        """The whole file, at its beginning; whoever takes it closes it."""
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Let go of the file."""
        self.close()


class Drive:
    """The recordings in a folder; a `Store` that can also list, hand out and delete."""

    def __init__(
        self,
        folder: Path,
        *,
        retention_s: float | None,
        url: str = DRIVE_URL,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Use the folder, which is made when the first recording is delivered.

        `retention_s`: how long recordings are kept, None for ever; the vendor's pages give no figure. `url`: what
        stands before keys; the one the dialect tells customers. `clock`: seconds since 1970.
        """
        self.folder = folder
        self._index = folder / "index"
        self._files = folder / "files"
        self._retention_s = retention_s
        self._url = url
        self._clock = clock
        self._changing_here = threading.Lock()
        self._cache: dict[str, tuple[tuple[int, int, int], Recording | None]] = {}
        self._listing = threading.Lock()  # the cache

    # -- a store -------------------------------------------------------------------------------------------------

    @property
    def lane(self) -> str:
        """All of one drive fails together."""
        return f"sdrive://{self.folder.absolute()}"

    def check(self, key: str) -> None:
        """Say now whether a recording of that key could be stored."""
        key = _key_of(key)
        try:
            self._make_folders()
            probe = self._files / f"{_digest(key)}.{secrets.token_hex(4)}{PART_SUFFIX}"
            probe.touch(exist_ok=False)
            probe.unlink()
        except OSError as error:
            raise not_stored(key, error) from error

    def deliver(self, parcel: Parcel) -> Receipt:
        """Store the file under the last part of its key.

        The same parcel again gives the same receipt, and changes nothing.
        """
        key = _key_of(parcel.key)
        there = self._settled(parcel, key)
        if there is not None:
            return there
        stored_name = f"{_digest(key)}.{secrets.token_hex(4)}"
        try:
            source = parcel.path.open("rb")
        except OSError as error:
            raise unreadable(parcel, error) from error
        try:
            with source:
                self._make_folders()
                with written_whole(self._files / stored_name) as file:
                    shutil.copyfileobj(source, file, PIECE_BYTES)
                    _check_same(file, parcel, key)
            with self._changing():
                there = self._settled(parcel, key)
                if there is not None:
                    self._remove_file(stored_name)
                    return there
                before = self._read(key)
                recording = self._new(parcel, key, stored_name)
                with written_whole(self._index_file(key)) as file:
                    file.write(_as_json(recording))
                if before is not None:
                    self._remove_file(before.stored_name)
        except OSError as error:
            self._remove_file(stored_name, unless_named=key)
            if isinstance(error, DeliveryError):
                raise
            raise not_stored(key, error) from error
        return _receipt(recording)

    def _settled(self, parcel: Parcel, key: str) -> Receipt | None:
        """The receipt when the parcel is there already; DeliveryConflictError when something else is and must stay."""
        try:
            there = self._current(key)
            if there is None or not self._is_stored(there):
                return None
            same_bytes = (there.sha256, there.size_bytes) == (parcel.sha256, parcel.size_bytes)
            if same_bytes and there.metadata.get("transaction-id") == parcel.metadata.get("transaction-id"):
                sync_folder(self._index)  # it may be there because this, and nothing else, failed before
                return _receipt(there)
        except OSError as error:
            raise not_stored(key, error) from error
        if not parcel.overwrite:
            raise DeliveryConflictError(f"there is another recording {key}", key=key)
        return None

    def _new(self, parcel: Parcel, key: str, stored_name: str) -> Recording:
        now = self._clock()
        expires_on = None if self._retention_s is None else _moment(now + self._retention_s)
        return Recording(
            key=key,
            url=self._url + quote(key, safe=UNRESERVED),
            created_on=_moment(now),
            expires_on=expires_on,
            size_bytes=parcel.size_bytes,
            sha256=parcel.sha256,
            media_type=parcel.media_type,
            metadata=dict(parcel.metadata),
            stored_name=stored_name,
        )

    # -- what customers ask of it ---------------------------------------------------------------------------------

    def list(
        self,
        *,
        from_: datetime | None = None,
        to: datetime | None = None,
        page: int = 1,
        page_size: int = PAGE_SIZE,
    ) -> Sequence[Recording]:
        """One page of the recordings created from `from_` on and before `to`, oldest first.

        Raises DriveError in the vendor's words.
        """
        if not _is_positive(page):
            raise DriveError(ILLEGAL, "'pageNumber' must be greater than 0", field="page", value=page)
        if not _is_positive(page_size):
            raise DriveError(
                ILLEGAL, "'pageSize' must be a positive integer", field="pageSize", value=page_size
            )
        if from_ is not None and to is not None and to <= from_:
            raise DriveError(ILLEGAL, "'to' must be greater than 'from'", field="to", value=to)
        now = self._clock()
        found = [
            recording
            for _, recording in self._scan()
            if recording is not None
            and not _is_over(recording, now)
            and (from_ is None or recording.created_on >= from_)
            and (to is None or recording.created_on < to)
        ]
        found.sort(key=lambda recording: (recording.created_on, recording.key))
        return found[(page - 1) * page_size : page * page_size]

    def get(self, key: str, *, first: int = 0, last: int | None = None) -> Download:
        """The recording, or its bytes from `first` to `last`, that one included.

        A negative `first` counts from the end. A range that goes beyond the end stops there; DriveError when none of it
        is within the recording, or there is none.
        """
        _check_given(key)
        for _ in range(8):  # it may be replaced between a look at the index and one at the file
            recording = self._current(key)
            if recording is None:
                break
            try:
                file = (self._files / recording.stored_name).open("rb")
            except FileNotFoundError:
                continue
            begin = max(0, recording.size_bytes + first) if first < 0 else first
            end = recording.size_bytes if last is None else min(last + 1, recording.size_bytes)
            if begin >= end and (first or last is not None):
                file.close()
                raise DriveError(ILLEGAL, "the range is not within the recording", field="range")
            return Download(recording, file, begin, end - begin)
        raise DriveError(NOT_FOUND, "Recording not found", field="key", value=key)

    def delete(self, key: str) -> None:
        """Remove the recording; DriveError when there is none."""
        _check_given(key)
        with self._changing():
            if self._current(key) is None:
                raise DriveError(NOT_FOUND, "Recording not found", field="key", value=key)
            self._remove(key)

    def sweep(self) -> Swept:
        """Remove what has expired and what crashes left; a look at every file, so once an hour is plenty."""
        now = self._clock()
        expired: list[str] = []
        damaged: list[Path] = []
        named: set[str] = set()
        before = _names(self._files)  # so that what is delivered meanwhile is not looked at
        for name, recording in self._scan():
            if recording is None:
                damaged.append(self._index / name)
                named.add(name.removesuffix(".json"))  # whatever it was about stays
            elif not _is_over(recording, now):
                named.add(recording.stored_name)
                if not self._is_stored(recording) and self._read(recording.key) == recording:
                    damaged.append(self._index / name)
            else:
                with self._changing():
                    current = self._read(recording.key)
                    if current is not None and _is_over(current, now):
                        self._remove(recording.key)
                        expired.append(recording.key)
        left_over = 0
        for folder, names in ((self._files, before), (self._index, _names(self._index))):
            for name in names:
                is_part = name.endswith(PART_SUFFIX)
                if folder == self._index and not is_part:
                    continue
                if name in named or name.partition(".")[0] in named:
                    continue
                left_over += _removed_when_old(folder / name)
        return Swept(tuple(sorted(expired)), left_over, tuple(sorted(damaged)))

    # -- the index -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Nobody else changes which file a key has: no other thread, and no other process."""
        with self._changing_here:
            if os.name != "posix":
                yield
                return
            import fcntl

            self._make_folders()
            with (self._index / LOCK).open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield

    def _index_file(self, key: str) -> Path:
        return self._index / f"{_digest(key)}.json"

    def _current(self, key: str) -> Recording | None:
        """The recording of a key, if its time is not over."""
        recording = self._read(key)
        return None if recording is None or _is_over(recording, self._clock()) else recording

    def _read(self, key: str) -> Recording | None:
        try:
            recording = _from_json(self._index_file(key).read_bytes(), self._url)
        except FileNotFoundError:
            return None
        return recording if recording is not None and recording.key == key else None

    def _is_stored(self, recording: Recording) -> bool:
        try:
            return (self._files / recording.stored_name).stat().st_size == recording.size_bytes
        except FileNotFoundError:
            return False

    def _scan(self) -> Sequence[tuple[str, Recording | None]]:
        """Every index file, with None for one that is damaged; each is read again only when it has changed."""
        found = []
        with self._listing:
            cache, self._cache = self._cache, {}
            try:
                entries = os.scandir(self._index)
            except FileNotFoundError:
                return []
            with entries:
                for entry in entries:
                    if not entry.name.endswith(".json"):
                        continue
                    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                        status = entry.stat()
                        state = (status.st_ino, status.st_mtime_ns, status.st_size)
                        kept = cache.get(entry.name)
                        if kept is None or kept[0] != state:
                            kept = (state, _from_json(Path(entry.path).read_bytes(), self._url))
                        self._cache[entry.name] = kept
                        found.append((entry.name, kept[1]))
        return found

    def _remove(self, key: str) -> None:
        recording = self._read(key)
        self._index_file(key).unlink(missing_ok=True)
        sync_folder(self._index)
        if recording is not None:
            self._remove_file(recording.stored_name)

    def _remove_file(self, stored_name: str, *, unless_named: str | None = None) -> None:
        """Remove a file that nothing names any more; what cannot be removed now is left to `sweep`."""
        with contextlib.suppress(OSError):
            if unless_named is not None:
                recording = self._read(unless_named)
                if recording is not None and recording.stored_name == stored_name:
                    return
            (self._files / stored_name).unlink(missing_ok=True)

    def _make_folders(self) -> None:
        for folder in (self._index, self._files):
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                sync_folder(self.folder)


def _check_same(file: BinaryIO, parcel: Parcel, key: str) -> None:
    """Read back what was stored: it must be what the parcel says."""
    digest = hashlib.sha256()
    file.flush()
    size_bytes = file.tell()
    file.seek(0)
    while piece := file.read(PIECE_BYTES):
        digest.update(piece)
    if (size_bytes, digest.hexdigest()) != (parcel.size_bytes, parcel.sha256):
        raise DeliveryError(f"what was stored of {key} is not what its parcel says", key=key)


def _receipt(recording: Recording) -> Receipt:
    return Receipt(recording.url, recording.size_bytes, f"sha256:{recording.sha256}")


def _key_of(path: str) -> str:
    """The key of a recording that was to go to `path`: its folder part is ignored."""
    key = path.rpartition("/")[2]
    try:
        size_bytes = len(key.encode())
    except UnicodeEncodeError:
        raise DeliveryError("a key must be text", key=None) from None
    if not key or size_bytes > MOST_KEY_BYTES:
        raise DeliveryError("there is no key" if not key else "the key is too long", key=key[:MOST_KEY_BYTES])
    return key


def _check_given(key: str) -> None:
    if not key:
        raise DriveError(NO_KEY, "No key specified", field="key", value=key)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _is_positive(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number > 0


def _is_over(recording: Recording, now: float) -> bool:
    return recording.expires_on is not None and recording.expires_on.timestamp() <= now


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))  # noqa: PTH208 - names are all that is wanted
    except FileNotFoundError:
        return set()


def _removed_when_old(path: Path) -> bool:
    """Remove what a crash left, unless it is so young that somebody may be writing it."""
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime >= LEFT_AFTER_S:
            path.unlink()
            return True
    return False


def _as_json(recording: Recording) -> bytes:
    document = {
        "key": recording.key,
        "created_on": recording.created_on.isoformat(),
        "expires_on": None if recording.expires_on is None else recording.expires_on.isoformat(),
        "size_bytes": recording.size_bytes,
        "sha256": recording.sha256,
        "media_type": recording.media_type,
        "metadata": dict(recording.metadata),
        "file": recording.stored_name,
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def _from_json(data: bytes, url: str) -> Recording | None:
    """What an index file says, or None when that is nothing sensible."""
    try:
        document = json.loads(data)
        key, metadata, expires_on = document["key"], document["metadata"], document["expires_on"]
        recording = Recording(
            key=key,
            url=url + quote(key, safe=UNRESERVED),
            created_on=datetime.fromisoformat(document["created_on"]),
            expires_on=None if expires_on is None else datetime.fromisoformat(expires_on),
            size_bytes=int(document["size_bytes"]),
            sha256=document["sha256"],
            media_type=str(document["media_type"]),
            metadata={str(name): str(value) for name, value in metadata.items()},
            stored_name=document["file"],
        )
        sound = (
            STORED_NAME.fullmatch(recording.stored_name) is not None
            and recording.stored_name.startswith(_digest(key))
            and recording.size_bytes >= 0
            and all(
                moment is None or moment.tzinfo is not None
                for moment in (recording.created_on, recording.expires_on)
            )
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return recording if sound else None
