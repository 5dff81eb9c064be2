"""The audio of recordings that have ended: read from where it was delivered, handed out in the clear."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from fastapi import HTTPException
from fastapi.responses import Response, StreamingResponse

from callreel.encryption import Keys, is_encrypted
from callreel.errors import CallreelError, DestinationMissingError, MediaError
from callreel.inspection import inspect
from callreel.service.held import Clear
from callreel.service.library import Entry
from callreel.service.limits import Receive, Scope, Send
from callreel.service.sources import Source

__all__ = ["AUDIO", "UNREAD", "AudioReader", "Pieces"]

UNREAD: Final[dict[str, Any]] = {"description": "the destination does not give it, or not whole"}
_FILES: Final = {
    kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("audio/wav", "audio/mpeg")
}
_LENGTHS: Final[dict[str, Any]] = {
    "Accept-Ranges": {"schema": {"const": "bytes"}},
    "ETag": {"schema": {"type": "string"}},
}
AUDIO: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "the whole", "content": _FILES, "headers": _LENGTHS},
    206: {
        "description": "a part",
        "content": _FILES,
        "headers": {**_LENGTHS, "Content-Range": {"required": True, "schema": {"type": "string"}}},
    },
    416: {"description": "no such part"},
    502: UNREAD,
}
"""What is answered who asks for audio, for the OpenAPI document."""

RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")


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

    def __init__(self, sources: Mapping[str, Source], keys: Keys | None = None) -> None:
        """`sources` by the scheme of a location: "file", "s3", "https"; `keys`: what files are encrypted with."""
        self._sources = sources
        self._keys = keys

    def _opened(self, entry: Entry) -> Clear:
        if entry.location is None:
            raise HTTPException(
                404, ("not_delivered", "it was not delivered: " + (entry.error or "called off"))
            )
        source = self._sources.get(urlsplit(entry.location).scheme)
        if source is None:
            raise HTTPException(404, ("not_there", f"it is not to be had from {entry.location}"))
        with _told(entry):
            file = source.open(entry, entry.location)
            if self._keys is None and is_encrypted(file):
                file.close()
                key_id = entry.manifest.get("encrypted_for", "another key")
                raise HTTPException(502, ("encrypted", f"it is encrypted for {key_id}"))
            clear = Clear(file, self._keys)
        if not _is_of(entry, file.seek(0, 2)):
            clear.close()
            raise HTTPException(404, ("not_there", "something else is stored in its place now"))
        return clear

    def response(self, entry: Entry, range_header: str | None, if_range: str | None = None) -> Response:
        """The file, or what of it is asked for; the whole if the client's part is of another (RFC 9110, 13.1.5)."""
        clear = self._opened(entry)
        size = clear.size_bytes
        media_type = str(entry.manifest.get("media_type", "application/octet-stream"))
        headers = {"Accept-Ranges": "bytes", "ETag": f'"{entry.manifest.get("sha256", "")}"'}
        if if_range is not None and if_range.strip() != headers["ETag"]:
            range_header = None
        try:
            part = _range_of(range_header, size)
        except ValueError:
            clear.close()
            headers["Content-Range"] = f"bytes */{size}"
            raise HTTPException(416, ("no_such_range", f"it has {size} bytes"), headers) from None
        first, last = part or _Range(0, size - 1)
        pieces = clear.pieces(first, last)
        with _told(entry):  # as long as something else than the audio can be said
            begin = next(pieces, b"")
        headers["Content-Length"] = str(last - first + 1)
        if part is not None:
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return Pieces(
            _behind(begin, pieces), 200 if part is None else 206, headers=headers, media_type=media_type
        )

    def waveform(self, entry: Entry, columns: int) -> dict[str, Any]:
        """The outline of each channel, in columns of equal duration."""
        clear = self._opened(entry)
        suffix = Path(entry.key).suffix
        with tempfile.NamedTemporaryFile(prefix="callreel-waveform-", suffix=suffix) as file:
            with _told(entry):
                file.writelines(clear.pieces())
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


class _told:  # noqa: N801  (a context, as a function would be)
    """What goes wrong while a file is read, told to who asks for it."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        match error:
            case DestinationMissingError():
                raise HTTPException(
                    404, ("not_there", f"it is not there any more: {self._entry.location}")
                ) from None
            case CallreelError():
                raise HTTPException(502, ("destination", str(error))) from None
            case OSError():
                why = error.strerror or type(error).__name__
                raise HTTPException(502, ("destination", f"it cannot be read: {why}")) from None


def _is_of(entry: Entry, size_bytes: int) -> bool:
    """Whether a file of that size can be this recording."""
    expected = entry.manifest.get("bytes")
    return not isinstance(expected, int) or size_bytes == expected


def _behind(begin: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield begin
    yield from pieces
