"""Legs whose audio comes over a WebSocket: media streams of hosted platforms in JSON, or binary PCM and G.711.

    /v1/media/{call}/{leg}/{token}    one leg's own address; the token may come as `Authorization: Bearer` instead
    /v1/media-streams/{key}           a tenant's address, configured at a platform: the stream's start names the leg

An ASGI application beside the HTTP APIs, on the same port. Neither token nor key is logged, here or by the server: both
are taken out of the scope before anything else sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
import secrets
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import partial
from itertools import count
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote

from callreel.errors import UsageError
from callreel.kernels import pcm
from callreel.recorder import RecordedCall
from callreel.service import media_streams
from callreel.service.encodings import LEG_RATE, NAMES, Encoding
from callreel.service.host import LegWish
from callreel.service.links import Intake, Link, Piece, SocketMedia
from callreel.service.media import Media
from callreel.service.media_streams import Audio, Key, Mark, Other, Start, Stop, StreamMessage

__all__ = ["MESSAGE_BYTES", "Keys", "WebSocketMedia"]

log = logging.getLogger("callreel.service")

MESSAGE_BYTES: Final = 64 << 10
"""The longest message; the server closes a connection that sends a longer one."""
START_S: Final = 5.0
"""In which a stream at a tenant's address must have said whose it is."""
STRANGERS_MAX: Final = 1024
STRANGERS_OF_ONE_ADDRESS: Final = 256
"""Connections to tenants' addresses that have not said it yet."""
FIRST_MESSAGES: Final = 4
"""Among which the start must be."""
UNSENT_MESSAGES: Final = 50
"""What may wait for a peer to take it: 1 s of audio."""
MARK_S: Final = 1.0
"""How long the platform is waited for to say that it has played all."""
SHUT_S: Final = 2.0
"""In which a peer must have taken what was sent before we hung up."""
RATES: Final = (8_000, 16_000, 24_000, 48_000)
OPTIONS: Final = frozenset({"format", "encoding", "sample_rate", "channels", "call_sid", "stream_sid"})
NORMAL, NOT_UNDERSTOOD, POLICY = 1000, 1003, 1008
CLOSE_S: Final = 0.5
TURN_MESSAGES: Final = 64
"""After so many in a row others have their turn."""
OWN: Final = re.compile(
    r"/v1/media/(?P<call>[^/]{1,128})/(?P<leg>LEG-[A-Z]{1,2})(?:/(?P<token>[^/]{0,128}))?"
)
STREAMS: Final = re.compile(r"/v1/media-streams/(?P<key>[^/]{1,128})")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Keys(Protocol):
    """Whose address it is that a platform was given: `callreel.service.access.Access`."""

    def media_key(self, tenant: str) -> str:
        """The last part of a tenant's address."""
        ...

    def tenant_of_media_key(self, key: str) -> str | None:
        """Whose it is."""
        ...


class _Wish(NamedTuple):
    """The options of a leg."""

    is_json: bool
    encoding: Encoding
    channels: int
    call_sid: str
    stream_sid: str

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> _Wish:
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


class _Media(SocketMedia):
    """A leg that a peer connects to."""

    def __init__(
        self, recorded: RecordedCall, wish: LegWish, forget: Callable[[SocketMedia], None], key: str
    ) -> None:
        super().__init__(recorded, wish, forget)
        self.wish = _Wish.of(wish.options)
        self.tenant = recorded.labels.get("tenant", "")
        self.token = secrets.token_urlsafe(24)
        self._key = key

    @property
    def description(self) -> Mapping[str, Any]:
        path = f"/v1/media/{quote(self.recorded.call_id, safe='')}/{self.leg}"
        return {
            "kind": "websocket",
            "path": f"{path}/{self.token}",
            "stream_path": f"/v1/media-streams/{self._key}",
            "format": "json" if self.wish.is_json else "binary",
            "encoding": self.wish.encoding.name,
            "sample_rate": self.wish.encoding.sample_rate,
        }


class _Link(Link):
    """The connection of a leg."""

    def __init__(self, media: _Media, now: Callable[[], float], shut: Callable[[], None]) -> None:
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
        self.media.counts["received" if intake.take(audio, arrival_s) else "ahead"] += 1

    # -- what goes -------------------------------------------------------------------------------------------------

    def send_audio(self, data: bytes) -> bool:
        return self._send(
            media_streams.media(self._sid_name, self._stream_sid, data) if self.wish.is_json else data
        )

    def _send(self, one: str | bytes) -> bool:
        if self.unsent.qsize() >= UNSENT_MESSAGES:
            return False
        self.unsent.put_nowait(one)
        return True

    def sent(self, piece: Piece) -> None:
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
        self._forget_marks()
        if self.wish.is_json:
            self._send(media_streams.clear(self._sid_name, self._stream_sid))

    def _forget_marks(self) -> list[Piece]:
        waiting, self._marks = self._marks, {}
        for _, timer in waiting.values():
            timer.cancel()
        return [piece for piece, _ in waiting.values()]

    def shut(self) -> None:
        self.unsent.put_nowait(None)
        self._loop.call_later(SHUT_S, self._shut)

    def abort(self) -> None:
        for piece in self._forget_marks():
            piece.done("the connection has ended")
        self._shut()


class WebSocketMedia:
    """The WebSocket legs of a process: an ASGI application, whose `open` is their `MediaOpener`."""

    def __init__(self, now: Callable[[], float], keys: Keys) -> None:
        """`now` is the recorder's clock."""
        self.now, self._keys = now, keys
        self._lock = threading.Lock()
        self._legs: dict[tuple[str, str], _Media] = {}
        self._by_sid: dict[tuple[str, str, str], _Media] = {}
        self._strangers: Counter[str] = Counter()

    def open(self, recorded: RecordedCall, wish: LegWish) -> Media:
        """A leg that one connection may be for."""
        media = _Media(recorded, wish, self._forget, self._keys.media_key(recorded.labels.get("tenant", "")))
        with self._lock:
            names = self._names(media)
            if any(name in self._by_sid for name in names):
                raise UsageError("another leg waits for that call_sid or stream_sid")
            self._legs[recorded.call_id, wish.name] = media
            self._by_sid.update(dict.fromkeys(names, media))
        return media

    @property
    def strangers(self) -> int:
        """Connections that have not said whose they are."""
        return self._strangers.total()

    @staticmethod
    def _names(media: _Media) -> list[tuple[str, str, str]]:
        sids = ("call", media.wish.call_sid), ("stream", media.wish.stream_sid)
        return [(media.tenant, kind, sid) for kind, sid in sids if sid]

    def _forget(self, media: SocketMedia) -> None:
        assert isinstance(media, _Media)
        with self._lock:
            if self._legs.get((media.recorded.call_id, media.leg)) is media:
                del self._legs[media.recorded.call_id, media.leg]
            for name in self._names(media):
                self._by_sid.pop(name, None)

    # -- ASGI ------------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        path, authorization = str(scope["path"]), _authorization(scope)
        scope["path"], scope["raw_path"], scope["query_string"] = _without_secrets(path), b"", b""
        await receive()  # websocket.connect
        address = str((scope.get("client") or ("?",))[0])
        if match := OWN.fullmatch(path):
            media = self._of_token(match["call"], match["leg"], match["token"] or authorization)
            if media is not None:
                await _Conversation(self.now, receive, send).hold(media)
                return
        elif match := STREAMS.fullmatch(path):
            tenant = self._keys.tenant_of_media_key(match["key"])
            leave = None if tenant is None else self._admitted(address)
            if tenant is not None and leave is not None:
                try:
                    await _Conversation(self.now, receive, send).introduce(
                        partial(self._of_start, tenant), leave
                    )
                finally:
                    leave()
                return
        await send({"type": "websocket.close", "code": POLICY})

    def _of_token(self, call_id: str, leg: str, token: str) -> _Media | None:
        with self._lock:
            media = self._legs.get((call_id, leg))
        expected = secrets.token_urlsafe(24) if media is None else media.token
        is_right = hmac.compare_digest(token.encode("utf-8", "surrogateescape"), expected.encode())
        return media if is_right else None

    def _of_start(self, tenant: str, start: Start) -> _Media | None:
        with self._lock:
            return self._by_sid.get((tenant, "call", start.call_sid)) or self._by_sid.get(
                (tenant, "stream", start.stream_sid)
            )

    def _admitted(self, address: str) -> Callable[[], None] | None:
        """Let a connection say whose it is; returns what it has to call then, or None when there are too many."""
        if self.strangers >= STRANGERS_MAX or self._strangers[address] >= STRANGERS_OF_ONE_ADDRESS:
            return None
        self._strangers[address] += 1
        there = [address]

        def leave() -> None:
            if there:
                self._strangers[there.pop()] -= 1
                self._strangers += Counter()  # without those that are zero

        return leave


class _Conversation:
    """One WebSocket, from its acceptance to its end."""

    def __init__(self, now: Callable[[], float], receive: Receive, send: Send) -> None:
        self._now, self._receive, self._send = now, receive, send
        self._is_closed = False
        self._tasks: list[asyncio.Task[None]] = []

    async def hold(self, media: _Media) -> None:
        """Talk about a leg that is known."""
        await self._send({"type": "websocket.accept"})
        await self._talk(media, None)

    async def introduce(self, find: Callable[[Start], _Media | None], leave: Callable[[], None]) -> None:
        """Hear which leg it is, then talk about it."""
        await self._send({"type": "websocket.accept"})
        try:
            start = await asyncio.wait_for(self._start(), START_S)
        except (ValueError, TimeoutError):
            await self._close(NOT_UNDERSTOOD)
            return
        media = None if start is None else find(start)
        if media is None:
            await self._close(POLICY)
            return
        leave()
        await self._talk(media, start)

    async def _start(self) -> Start | None:
        """The message that says it; None when the other side is gone, ValueError when it says something else."""
        for _ in range(FIRST_MESSAGES):
            received = await self._receive()
            if received["type"] == "websocket.disconnect":
                self._is_closed = True
                return None
            one = media_streams.read(received.get("text") or "")
            if isinstance(one, Start):
                return one
            if not isinstance(one, Other):
                break
        raise ValueError("no start")

    async def _talk(self, media: _Media, start: Start | None) -> None:
        link = _Link(media, self._now, self._shut)
        if not media.attach(link):
            await self._close(POLICY)
            return
        self._tasks = [
            asyncio.create_task(self._listen(link, start)),
            asyncio.create_task(self._send_on(link)),
        ]
        try:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            if not self._tasks[0].done():  # we hang up; the other side has time to answer that
                await asyncio.wait(self._tasks[:1], timeout=SHUT_S)
        finally:
            self._shut()
            for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
                if isinstance(outcome, Exception):
                    log.error("a WebSocket of call %s failed", media.recorded.call_id, exc_info=outcome)
            link.lose("the connection has ended")
            await self._close(NORMAL)

    async def _listen(self, link: _Link, start: Start | None) -> None:
        try:
            if start is not None:
                link.take(start, self._now())
            for number in count(1):
                received = await self._receive()
                if received["type"] == "websocket.disconnect":
                    self._is_closed = True
                    return
                text = received.get("text")
                if text is not None:
                    link.take_text(text, self._now())
                else:
                    link.take_bytes(received.get("bytes") or b"", self._now())
                if number % TURN_MESSAGES == 0:
                    await asyncio.sleep(0)
        except ValueError:
            link.lose("audio of a kind that is not known")
        except UsageError:
            return  # the call is over

    async def _send_on(self, link: _Link) -> None:
        while (one := await link.unsent.get()) is not None:
            try:
                await self._send(
                    {"type": "websocket.send", "text": one}
                    if isinstance(one, str)
                    else {"type": "websocket.send", "bytes": one}
                )
            except OSError:
                return  # `_listen` hears of it
        await self._close(NORMAL)

    def _shut(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _close(self, code: int) -> None:
        """Say that it is over, unless that is known, or the other side takes nothing."""
        if not self._is_closed:
            self._is_closed = True
            with contextlib.suppress(OSError, TimeoutError, RuntimeError):
                await asyncio.wait_for(self._send({"type": "websocket.close", "code": code}), CLOSE_S)


def _authorization(scope: Scope) -> str:
    """The bearer token of the request; empty without one."""
    for name, value in scope.get("headers", ()):
        if name == b"authorization":
            scheme, _, token = bytes(value).decode("latin-1").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else ""
    return ""


def _without_secrets(path: str) -> str:
    if match := OWN.fullmatch(path):
        return f"/v1/media/{match['call']}/{match['leg']}"
    return "/v1/media-streams" if STREAMS.fullmatch(path) else path
