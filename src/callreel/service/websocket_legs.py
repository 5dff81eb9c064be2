"""A leg whose audio comes over a WebSocket, and its connection: JSON of a media stream, or binary audio.

Where the messages come from, and whose they are, is `callreel.service.websocket_media`'s business.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from callreel.errors import UsageError
from callreel.kernels import pcm
from callreel.recorder import RecordedCall
from callreel.service import media_streams
from callreel.service.encodings import LEG_RATE, NAMES, Encoding
from callreel.service.host import LegWish
from callreel.service.links import Intake, Link, Piece, SocketMedia
from callreel.service.media_streams import Audio, Key, Mark, Start, Stop, StreamMessage

__all__ = [
    "MARK_S",
    "OPTIONS",
    "RATES",
    "SHUT_S",
    "UNSENT_MESSAGES",
    "StreamLink",
    "StreamMedia",
    "StreamOptions",
]

UNSENT_MESSAGES: Final = 50
"""What may wait for a peer to take it: 1 s of audio."""
MARK_S: Final = 1.0
"""How long the platform is waited for to say that it has played all."""
SHUT_S: Final = 2.0
"""In which a peer must have taken what was sent before we hung up."""
RATES: Final = (8_000, 16_000, 24_000, 48_000)
OPTIONS: Final = frozenset({"format", "encoding", "sample_rate", "channels", "call_sid", "stream_sid"})


class StreamOptions(NamedTuple):
    """What a leg says of its stream."""

    is_json: bool
    encoding: Encoding
    channels: int
    call_sid: str
    stream_sid: str

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> StreamOptions:
        """Read them; UsageError for what is none."""
        if unknown := set(options) - OPTIONS:
            raise UsageError(
                f"websocket has no option {sorted(unknown)[0]!r}: one of {', '.join(sorted(OPTIONS))}"
            )
        kind = options.get("format", "json")
        name = options.get("encoding", "ulaw" if kind == "json" else "pcm16")
        rate, channels = options.get("sample_rate", LEG_RATE), options.get("channels", 1)
        sids = options.get("call_sid", ""), options.get("stream_sid", "")
        if kind not in ("json", "binary"):
            raise UsageError("format is json or binary")
        if name not in NAMES:
            raise UsageError(f"encoding is one of {', '.join(NAMES)}")
        if rate not in RATES or (rate != LEG_RATE and name != "pcm16"):
            raise UsageError("sample_rate is 8000, and with pcm16 also 16000, 24000 or 48000")
        if channels not in (1, 2) or (channels == 2 and kind == "json"):
            raise UsageError("channels are 1, or 2 with the binary format")
        if not all(isinstance(sid, str) and len(sid) <= media_streams.SID_CHARACTERS for sid in sids):
            raise UsageError("call_sid and stream_sid are text")
        return cls(kind == "json", Encoding(name, int(rate)), int(channels), *sids)


class StreamMedia(SocketMedia):
    """A leg that a peer connects to."""

    def __init__(
        self, recorded: RecordedCall, wish: LegWish, forget: Callable[[SocketMedia], None], key: str
    ) -> None:
        """UsageError for options that are none; `key` is the last part of the tenant's address."""
        super().__init__(recorded, wish, forget)
        self.wish = StreamOptions.of(wish.options)
        self.tenant = recorded.labels.get("tenant", "")
        self.token = secrets.token_urlsafe(24)
        self._key = key

    @property
    def description(self) -> Mapping[str, Any]:
        """JSON: the paths that lead here, with their secrets, and what is spoken there."""
        path = f"/v1/media/{quote(self.recorded.call_id, safe='')}/{self.leg}"
        return {
            "kind": "websocket",
            "path": f"{path}/{self.token}",
            "stream_path": f"/v1/media-streams/{self._key}",
            "format": "json" if self.wish.is_json else "binary",
            "encoding": self.wish.encoding.name,
            "sample_rate": self.wish.encoding.sample_rate,
        }


class StreamLink(Link):
    """The connection of a leg."""

    def __init__(self, media: StreamMedia, now: Callable[[], float], shut: Callable[[], None]) -> None:
        """`shut` ends the connection; what is to be sent stands in `unsent`."""
        super().__init__(media, now, media.wish.encoding)
        self.wish = media.wish
        self.unsent: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        """None behind the last."""
        self._shut = shut
        self._heard = media.wish.encoding
        self._intakes: dict[str, Intake] = {}
        self._sid_name, self._stream_sid = "streamSid", ""
        self._marks: dict[str, tuple[Piece, asyncio.TimerHandle]] = {}
        self._numbers = count(1)

    # -- what comes ------------------------------------------------------------------------------------------------

    def take_text(self, text: str, arrival_s: float) -> None:
        """Do what a text message says; UsageError when the call is over."""
        try:
            self.take(media_streams.read(text), arrival_s)
        except ValueError:
            self.media.counts["malformed"] += 1

    def take(self, one: StreamMessage, arrival_s: float) -> None:
        """Do what a message says; ValueError for audio that is none."""
        match one:
            case Audio():
                if not self.wish.is_json:
                    raise ValueError("this leg's audio is binary")
                self._hear(one.direction, self._heard.decode(one.data), arrival_s)
            case Key():
                self.media.press(one.symbol, arrival_s)
            case Mark():
                self._played(one.name)
            case Start():
                if one.encoding is None:
                    raise ValueError("an encoding that is not known")
                self._sid_name, self._stream_sid = one.sid_name, one.stream_sid
                if self.wish.is_json and not self._intakes:
                    self._heard = one.encoding
                    self.speak(one.encoding)
                if one.has_outgoing:
                    self.feeds_outgoing = False
            case Stop():
                self.lose("the stream has ended")
            case _:
                self.media.counts["other"] += 1

    def take_bytes(self, data: bytes, arrival_s: float) -> None:
        """Take audio as the leg's options say it is; UsageError when the call is over."""
        if self.wish.is_json:
            self.media.counts["malformed"] += 1
            return
        try:
            audio = self._heard.decode(data)
            if self.wish.channels == 1:
                self._hear("incoming", audio, arrival_s)
                return
            incoming, outgoing = pcm.deinterleave(audio)
        except ValueError:
            self.media.counts["malformed"] += 1
            return
        self._hear("incoming", incoming, arrival_s)
        self._hear("outgoing", outgoing, arrival_s)

    def _hear(self, direction: str, audio: bytes, arrival_s: float) -> None:
        if direction == "outgoing":
            self.feeds_outgoing = False
        intake = self._intakes.get(direction)
        if intake is None:
            intake = self._intakes[direction] = Intake(
                self.media.recorded, self.media.leg, direction, self._heard.sample_rate
            )
            self.feeds.append(intake)
        self.media.counts["received" if intake.take(audio, arrival_s) else "ahead"] += 1

    # -- what goes -------------------------------------------------------------------------------------------------

    def send_audio(self, data: bytes) -> bool:
        """Send a frame; False when 1 s of them waits."""
        return self._send(
            media_streams.media(self._sid_name, self._stream_sid, data) if self.wish.is_json else data
        )

    def _send(self, one: str | bytes) -> bool:
        if self.unsent.qsize() >= UNSENT_MESSAGES:
            return False
        self.unsent.put_nowait(one)
        return True

    def sent(self, piece: Piece) -> None:
        """All of it is out: the platform says when it has been heard."""
        name = f"callreel-{next(self._numbers)}"
        if self.wish.is_json and self._send(media_streams.mark(self._sid_name, self._stream_sid, name)):
            self._marks[name] = piece, self._loop.call_later(MARK_S, self._played, name)
        else:
            piece.done(None)

    def _played(self, name: str) -> None:
        piece, timer = self._marks.pop(name, (None, None))
        if piece is not None and timer is not None:
            timer.cancel()
            piece.done(None)

    def hushed(self) -> None:
        """What was sent is to be heard no more."""
        self._forget_marks()
        is_last = False
        while not self.unsent.empty():  # of what the peer has not taken yet nothing goes
            is_last |= self.unsent.get_nowait() is None
        if self.wish.is_json:
            self._send(media_streams.clear(self._sid_name, self._stream_sid))
        if is_last:
            self.unsent.put_nowait(None)

    def _forget_marks(self) -> list[Piece]:
        waiting, self._marks = self._marks, {}
        for _, timer in waiting.values():
            timer.cancel()
        return [piece for piece, _ in waiting.values()]

    def shut(self) -> None:
        """Send what waits, then end the connection."""
        self.unsent.put_nowait(None)
        self._loop.call_later(SHUT_S, self._shut)

    def abort(self) -> None:
        """End the connection at once."""
        for piece in self._forget_marks():
            piece.done("the connection has ended")
        self._shut()
