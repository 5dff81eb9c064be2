"""The audio of recordings that have ended: read from where it was delivered."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from fastapi import HTTPException
from fastapi.responses import Response, StreamingResponse

from callreel.errors import CallreelError, MediaError
from callreel.inspection import inspect
from callreel.service.library import Entry
from callreel.service.limits import Receive, Scope, Send

__all__ = ["AudioReader", "FileSource", "Pieces", "Source"]

PIECE_BYTES: Final = 1 << 16
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Source(Protocol):
    """Where files of a kind of place are read."""

    def size_bytes(self, location: str) -> int | None:
        """How long the file is; None when it is not there."""
        ...

    def read(self, location: str, first: int, length: int) -> Iterator[bytes]:
        """So many bytes of it."""
        ...


class FileSource:
    """Files of this machine, below the folders that recordings are delivered to."""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        """Read nothing outside of `folders`."""
        self._folders = tuple(folder.resolve() for folder in folders)

    def _path(self, location: str) -> Path | None:
        path = Path(unquote(urlsplit(location).path)).resolve()
        is_ours = any(path.is_relative_to(folder) for folder in self._folders)
        return path if is_ours and path.is_file() else None

    def size_bytes(self, location: str) -> int | None:
        """How long the file is."""
        path = self._path(location)
        return None if path is None else path.stat().st_size

    def read(self, location: str, first: int, length: int) -> Iterator[bytes]:
        """So many bytes of it."""
        path = self._path(location)
        if path is None:
            return
        with path.open("rb") as file:
            file.seek(first)
            while length > 0 and (piece := file.read(min(PIECE_BYTES, length))):
                length -= len(piece)
                yield piece


class Pieces(StreamingResponse):
    """A file as it is read. When the client is gone the file is closed, not when somebody collects garbage."""

    def __init__(
        self, pieces: Iterator[bytes], status: int = 200, *, headers: Mapping[str, str], media_type: str
    ) -> None:
        """`pieces` is a generator, which owns the file."""
        super().__init__(pieces, status, headers=headers, media_type=media_type)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            close = getattr(self._pieces, "close", None)
            if close is not None:
                close()


class _Range(NamedTuple):
    """A part of a file."""

    first: int
    last: int


def _range_of(text: str | None, size_bytes: int) -> _Range | None:
    """What a Range header asks for (RFC 9110, 14.2); None for the whole; ValueError when it cannot be given."""
    if text is None:
        return None
    match = RANGE.fullmatch(text.strip())
    if match is None or not (match[1] or match[2]):
        return None  # another unit, or several ranges: the whole is a right answer
    if match[1]:
        first, last = int(match[1]), min(int(match[2]) if match[2] else size_bytes - 1, size_bytes - 1)
    else:
        first, last = max(0, size_bytes - int(match[2])), size_bytes - 1
    if first > last:
        raise ValueError(text)
    return _Range(first, last)


class AudioReader:
    """Gives the files of recordings, and their outlines."""

    def __init__(self, sources: dict[str, Source]) -> None:
        """`sources` by the scheme of a location: "file", "s3", ..."""
        self._sources = sources

    def _source(self, entry: Entry) -> tuple[Source, str, int]:
        if entry.location is None:
            raise HTTPException(
                404, ("not_delivered", "it was not delivered: " + (entry.error or "called off"))
            )
        source = self._sources.get(urlsplit(entry.location).scheme)
        size = None if source is None else source.size_bytes(entry.location)
        if source is None or size is None:
            raise HTTPException(404, ("not_there", f"it is not to be had from {entry.location}"))
        return source, entry.location, size

    def response(self, entry: Entry, range_header: str | None) -> Response:
        """The file, or what of it is asked for."""
        source, location, size = self._source(entry)
        media_type = str(entry.manifest.get("media_type", "application/octet-stream"))
        headers = {"Accept-Ranges": "bytes", "ETag": f'"{entry.manifest.get("sha256", "")}"'}
        try:
            part = _range_of(range_header, size)
        except ValueError:
            headers["Content-Range"] = f"bytes */{size}"
            raise HTTPException(416, ("no_such_range", f"it has {size} bytes"), headers) from None
        if part is None:
            headers["Content-Length"] = str(size)
            return Pieces(source.read(location, 0, size), 200, headers=headers, media_type=media_type)
        length = part.last - part.first + 1
        headers |= {
            "Content-Length": str(length),
            "Content-Range": f"bytes {part.first}-{part.last}/{size}",
        }
        return Pieces(source.read(location, part.first, length), 206, headers=headers, media_type=media_type)

    def waveform(self, entry: Entry, columns: int) -> dict[str, Any]:
        """The outline of each channel, in columns of equal duration."""
        source, location, size = self._source(entry)
        suffix = Path(entry.key).suffix
        with tempfile.NamedTemporaryFile(prefix="callreel-waveform-", suffix=suffix) as file:
            for piece in source.read(location, 0, size):
                file.write(piece)
            file.flush()
            try:
                found = inspect(Path(file.name), columns=columns)
            except (MediaError, CallreelError) as error:
                raise HTTPException(422, ("no_audio", str(error))) from None
        names = [f"{track['direction']}" for track in entry.manifest.get("tracks", ())]
        channels = []
        for number, channel in enumerate(found.measured):
            envelope = channel.envelope
            channels.append(
                {
                    "name": names[number] if len(names) == len(found.measured) else channel.name,
                    "low": [] if envelope is None else [round(value, 4) for value in envelope.low],
                    "high": [] if envelope is None else [round(value, 4) for value in envelope.high],
                    "rms": [] if envelope is None else [round(value, 4) for value in envelope.rms],
                }
            )
        return {"duration": found.duration_s, "sample_rate": found.sample_rate, "channels": channels}
