"""The JSON of media streams as hosted platforms speak it over a WebSocket: connected, start, media, dtmf, mark, stop.

Sources: the pages on WebSocket messages of Twilio's Media Streams, Telnyx' media streaming and Exotel's AgentStream.
They differ in the spelling of names (streamSid, stream_sid, stream_id) and in the encodings they offer.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from callreel.service.encodings import Encoding, Name

__all__ = [
    "Audio",
    "Key",
    "Mark",
    "Other",
    "Start",
    "Stop",
    "StreamMessage",
    "clear",
    "mark",
    "media",
    "read",
]

ENCODINGS: Final[Mapping[str, Name]] = {
    "audio/x-mulaw": "ulaw",
    "audio/mulaw": "ulaw",
    "pcmu": "ulaw",
    "audio/x-alaw": "alaw",
    "audio/alaw": "alaw",
    "pcma": "alaw",
    "audio/x-l16": "pcm16",
    "audio/l16": "pcm16",
    "audio/x-raw": "pcm16",
    "raw/slin": "pcm16",
    "base64": "pcm16",  # of Exotel's: that of the payload, which is PCM
    "l16": "pcm16",
}
"""What platforms call them, in lower case."""
TRACKS: Final = {"inbound": "incoming", "outbound": "outgoing"}
SID_CHARACTERS: Final = 256


class Start(NamedTuple):
    """The stream begins."""

    stream_sid: str
    call_sid: str
    encoding: Encoding | None
    """None for one that is not known."""
    has_outgoing: bool
    """Whether the platform sends both tracks."""
    sid_name: str
    """How this platform spells the stream's id."""


class Audio(NamedTuple):
    """A chunk of it."""

    direction: str
    data: bytes


class Key(NamedTuple):
    """A key was pressed."""

    symbol: str


class Mark(NamedTuple):
    """What was sent before this mark has been played, or was called off."""

    name: str


class Stop(NamedTuple):
    """The stream ends."""


class Other(NamedTuple):
    """Something that is not about audio."""

    event: str


StreamMessage = Start | Audio | Key | Mark | Stop | Other


def read(text: str) -> StreamMessage:
    """Read one message; ValueError for what is none."""
    try:
        document = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("no object")
    event = document.get("event")
    if not isinstance(event, str):
        raise ValueError("no event")
    match event:
        case "media":
            body = _object(document, "media")
            direction = TRACKS.get(str(body.get("track", "inbound")))
            payload = body.get("payload")
            if direction is None or not isinstance(payload, str):
                raise ValueError("media without track or payload")
            try:
                return Audio(direction, base64.b64decode(payload, validate=True))
            except (binascii.Error, ValueError):
                raise ValueError("a payload that is no base64") from None
        case "start":
            return _start(document)
        case "dtmf" | "websocket:dtmf":
            body = document.get("dtmf", document)
            symbol = body.get("digit") if isinstance(body, dict) else body
            if not isinstance(symbol, str):
                raise ValueError("dtmf without digit")
            return Key(symbol)
        case "mark":
            name = _object(document, "mark").get("name")
            if not isinstance(name, str):
                raise ValueError("mark without name")
            return Mark(name)
        case "stop":
            return Stop()
    return Other(event)


def _start(document: Mapping[str, Any]) -> Start:
    body = _object(document, "start")
    stream_sid = sid_name = ""
    for sid_name in ("streamSid", "stream_sid", "stream_id", "streamId"):
        stream_sid = _text(document, sid_name) or _text(body, sid_name)
        if stream_sid:
            break
    else:
        sid_name = "streamSid"
    call_sid = next(
        (sid for name in ("callSid", "call_sid", "call_control_id", "callId") if (sid := _text(body, name))),
        "",
    )
    given = body.get("mediaFormat", body.get("media_format", {}))
    given = given if isinstance(given, dict) else {}
    name = ENCODINGS.get(str(given.get("encoding", "audio/x-mulaw")).lower())
    rate = str(given.get("sampleRate", given.get("sample_rate", 8000)))
    channels = str(given.get("channels", 1))
    encoding = None
    if name is not None and rate in ("8000", "16000", "24000", "48000") and channels == "1":
        encoding = Encoding(name, int(rate))
    tracks = body.get("tracks", body.get("track", ()))
    return Start(
        stream_sid, call_sid, encoding, "outbound" in tracks if isinstance(tracks, list) else False, sid_name
    )


def _object(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    body = document.get(name)
    if not isinstance(body, dict):
        raise ValueError(f"no {name}")
    return body


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name, "")
    return value if isinstance(value, str) and len(value) <= SID_CHARACTERS else ""


# ---- what is sent back ------------------------------------------------------------------------------------------


def media(sid_name: str, stream_sid: str, data: bytes) -> str:
    """A chunk that is to be played."""
    return _written("media", sid_name, stream_sid, {"payload": base64.b64encode(data).decode()})


def mark(sid_name: str, stream_sid: str, name: str) -> str:
    """What the platform is to send back when all before it has been played."""
    return _written("mark", sid_name, stream_sid, {"name": name})


def clear(sid_name: str, stream_sid: str) -> str:
    """What was sent and has not been played yet is called off."""
    return json.dumps({"event": "clear", sid_name: stream_sid}, separators=(",", ":"))


def _written(event: str, sid_name: str, stream_sid: str, body: Mapping[str, str]) -> str:
    return json.dumps({"event": event, sid_name: stream_sid, event: body}, separators=(",", ":"))
