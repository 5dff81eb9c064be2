"""The WebSockets of legs: an ASGI application beside the HTTP APIs, on the same port.

    /v1/media/{call}/{leg}/{token}    one leg's own address; the token may come as `Authorization: Bearer` instead
    /v1/media-streams/{key}           a tenant's address, configured at a platform: the stream's start names the leg

Neither token nor key is logged, here or by the server: both are taken out of the scope before anything else sees it.
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
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from functools import partial
from itertools import count
from typing import Any, Final, Protocol

from callreel.errors import UsageError
from callreel.recorder import RecordedCall
from callreel.service import media_streams
from callreel.service.colleagues import IS_WITHIN
from callreel.service.host import LegWish
from callreel.service.links import SocketMedia
from callreel.service.media import Media
from callreel.service.media_streams import Other, Start
from callreel.service.websocket_legs import SHUT_S, StreamLink, StreamMedia, StreamOptions

__all__ = ["MESSAGE_BYTES", "Carry", "Elsewhere", "Keys", "WebSocketMedia", "without_secrets"]

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
CLOSE_S: Final = 0.5
"""In which a peer must take our last word."""
TURN_MESSAGES: Final = 64
"""After so many in a row others have their turn."""
NORMAL, NOT_UNDERSTOOD, POLICY = 1000, 1003, 1008
"""Codes of RFC 6455, 7.4.1."""
TAKEN: Final = "another leg waits for that call_sid or stream_sid"
OWN: Final = re.compile(
    r"/v1/media/(?P<call>[^/]{1,128})/(?P<leg>LEG-[A-Z]{1,2})(?:/(?P<token>[^/]{0,128}))?"
)
STREAMS: Final = re.compile(r"/v1/media-streams/(?P<key>[^/]{1,128})")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


Carry = Callable[[Sequence[str], Receive, Send], Awaitable[None]]
"""Carries a stream to its leg, from all that it has said on to its end."""
Elsewhere = Callable[[Scope, str, Start], Awaitable[Carry | None]]
"""Looks for the leg of a stream elsewhere: the scope as it came, the tenant, how it starts. None: nobody has it."""


class Keys(Protocol):
    """Whose address it is that a platform was given: `callreel.service.access.Access`."""

    def media_key(self, tenant: str) -> str:
        """The last part of a tenant's address."""
        ...

    def tenant_of_media_key(self, key: str) -> str | None:
        """Whose it is."""
        ...


class WebSocketMedia:
    """The WebSocket legs of a process: an ASGI application, whose `open` is their `MediaOpener`."""

    def __init__(self, now: Callable[[], float], keys: Keys, elsewhere: Elsewhere | None = None) -> None:
        """`now` is the recorder's clock; `elsewhere` is asked about streams whose leg is not here."""
        self.now, self._keys, self._elsewhere = now, keys, elsewhere
        self._lock = threading.Lock()
        self._legs: dict[tuple[str, str], StreamMedia] = {}
        self._by_sid: dict[tuple[str, str, str], StreamMedia] = {}
        self._strangers: Counter[str] = Counter()

    def open(self, recorded: RecordedCall, wish: LegWish) -> Media:
        """A leg that one connection may be for."""
        media = StreamMedia(
            recorded, wish, self._forget, self._keys.media_key(recorded.labels.get("tenant", ""))
        )
        with self._lock:
            names = self._names(media.tenant, media.wish)
            if any(name in self._by_sid for name in names):
                raise UsageError(TAKEN)
            self._legs[recorded.call_id, wish.name] = media
            self._by_sid.update(dict.fromkeys(names, media))
        return media

    def problem(self, tenant: str, options: Mapping[str, Any]) -> str | None:
        """Why there can be no other leg with these options now; None when there can, or they are none."""
        with contextlib.suppress(UsageError), self._lock:
            if any(name in self._by_sid for name in self._names(tenant, StreamOptions.of(options))):
                return TAKEN
        return None

    def has_stream(self, tenant: str, call_sid: str, stream_sid: str) -> bool:
        """Whether a leg waits for this stream."""
        names = (tenant, "call", call_sid), (tenant, "stream", stream_sid)
        with self._lock:
            return any(name in self._by_sid for name in names)

    @property
    def strangers(self) -> int:
        """Connections that have not said whose they are."""
        return self._strangers.total()

    @staticmethod
    def _names(tenant: str, wish: StreamOptions) -> list[tuple[str, str, str]]:
        sids = ("call", wish.call_sid), ("stream", wish.stream_sid)
        return [(tenant, kind, sid) for kind, sid in sids if sid]

    def _forget(self, media: SocketMedia) -> None:
        assert isinstance(media, StreamMedia)
        with self._lock:
            if self._legs.get((media.recorded.call_id, media.leg)) is media:
                del self._legs[media.recorded.call_id, media.leg]
            for name in self._names(media.tenant, media.wish):
                self._by_sid.pop(name, None)

    # -- ASGI ------------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        as_it_came = dict(scope)
        path, authorization = str(scope["path"]), _authorization(scope)
        scope["path"], scope["raw_path"], scope["query_string"] = without_secrets(path), b"", b""
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
                elsewhere = None
                if self._elsewhere is not None and IS_WITHIN not in scope:
                    elsewhere = partial(self._elsewhere, as_it_came, tenant)
                try:
                    await _Conversation(self.now, receive, send).introduce(
                        partial(self._of_start, tenant), elsewhere, leave
                    )
                finally:
                    leave()
                return
        await send({"type": "websocket.close", "code": POLICY})

    def _of_token(self, call_id: str, leg: str, token: str) -> StreamMedia | None:
        with self._lock:
            media = self._legs.get((call_id, leg))
        expected = secrets.token_urlsafe(24) if media is None else media.token
        is_right = hmac.compare_digest(token.encode("utf-8", "surrogateescape"), expected.encode())
        return media if is_right else None

    def _of_start(self, tenant: str, start: Start) -> StreamMedia | None:
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

    async def hold(self, media: StreamMedia) -> None:
        """Talk about a leg that is known."""
        await self._send({"type": "websocket.accept"})
        await self._talk(media, None)

    async def introduce(
        self,
        find: Callable[[Start], StreamMedia | None],
        elsewhere: Callable[[Start], Awaitable[Carry | None]] | None,
        leave: Callable[[], None],
    ) -> None:
        """Hear which leg it is, then talk about it, or have that done where the leg is."""
        await self._send({"type": "websocket.accept"})
        said: list[str] = []
        try:
            start = await asyncio.wait_for(self._start(said), START_S)
        except (ValueError, TimeoutError):
            await self._close(NOT_UNDERSTOOD)
            return
        media = None if start is None else find(start)
        if media is not None:
            leave()
            await self._talk(media, start)
            return
        carry = None if start is None or elsewhere is None else await elsewhere(start)
        if carry is None:
            await self._close(POLICY)
            return
        leave()
        await carry(said, self._receive, self._send)

    async def _start(self, said: list[str]) -> Start | None:
        """The message that says it; None when the other side is gone, ValueError when it says something else.

        `said` gets all that came.
        """
        for _ in range(FIRST_MESSAGES):
            received = await self._receive()
            if received["type"] == "websocket.disconnect":
                self._is_closed = True
                return None
            said.append(received.get("text") or "")
            one = media_streams.read(said[-1])
            if isinstance(one, Start):
                return one
            if not isinstance(one, Other):
                break
        raise ValueError("no start")

    async def _talk(self, media: StreamMedia, start: Start | None) -> None:
        link = StreamLink(media, self._now, self._shut)
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
                    call_id = media.recorded.call_id
                    named = {"call_id": call_id}
                    log.error("a WebSocket of call %s failed", call_id, exc_info=outcome, extra=named)
            link.lose("the connection has ended")
            await self._close(NORMAL)

    async def _listen(self, link: StreamLink, start: Start | None) -> None:
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

    async def _send_on(self, link: StreamLink) -> None:
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


def without_secrets(path: str) -> str:
    """The path of a WebSocket, as it may be logged."""
    if match := OWN.fullmatch(path):
        return f"/v1/media/{match['call']}/{match['leg']}"
    return "/v1/media-streams" if STREAMS.fullmatch(path) else path
