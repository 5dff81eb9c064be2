"""HTTP/1.1 over Unix sockets, as one worker asks another; the grammar is h11's, which the server has, too.

What went wrong says what may be done about it: `UnreachableError` before anything was sent, `BrokenError` when nobody
knows any more whether the request was carried out.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from pathlib import Path
from typing import Final, NamedTuple

import h11

from callreel.errors import CallreelError

__all__ = ["Answer", "BrokenError", "Headers", "UnixClient", "UnreachableError"]

Headers = list[tuple[bytes, bytes]]

IDLE_MAX: Final = 64
"""Connections that are kept for the next request."""
IDLE_S: Final = 15.0
"""For so long: less than the server keeps them."""
READ_BYTES: Final = 64 << 10


class UnreachableError(CallreelError, ConnectionError):
    """Nobody listens there; nothing has been sent."""


class BrokenError(CallreelError, ConnectionError):
    """The connection ended before the answer did; whether the request was carried out is not known."""


class Answer(NamedTuple):
    """What was answered."""

    status: int
    headers: Headers
    pieces: AsyncIterator[bytes]
    """Its body, as it comes; a BrokenError when it ends too early."""

    async def body(self) -> bytes:
        """All of it."""
        return b"".join([piece async for piece in self.pieces])


class _Connection:
    """One connection, and one request at a time on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.CLIENT)
        self.idle_since_s = 0.0

    async def send(self, request: h11.Request, body: bytes) -> None:
        data = [self._http.send(request)]
        if body:
            data.append(self._http.send(h11.Data(data=body)))
        data.append(self._http.send(h11.EndOfMessage()))
        try:
            self._writer.write(b"".join(one for one in data if one))
            await self._writer.drain()
        except OSError:
            pass  # it may have been refused early, with an answer that says why: `event` tells

    async def event(self) -> h11.Event:
        """What comes next."""
        try:
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    self._http.receive_data(await self._reader.read(READ_BYTES))
                elif isinstance(event, h11.Event) and not isinstance(event, h11.InformationalResponse):
                    return event
                elif event is h11.PAUSED:
                    raise BrokenError("an answer behind the answer")
        except (OSError, h11.RemoteProtocolError) as error:
            raise BrokenError(f"the connection has ended: {error}") from None

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body of the answer."""
        while not isinstance(event := await self.event(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                raise BrokenError("the connection has ended")
            yield bytes(event.data)

    def is_usable_again(self) -> bool:
        """Whether another request may be sent on it: the last one is answered to its end."""
        if not (self._http.our_state is h11.DONE and self._http.their_state is h11.DONE):
            return False
        self._http.start_next_cycle()
        self.idle_since_s = time.monotonic()
        return True

    def is_stale(self) -> bool:
        """Whether it was idle for too long, or the other side has said something, such as that it has gone."""
        if time.monotonic() - self.idle_since_s > IDLE_S or self._writer.is_closing():
            return True
        look = select.poll()
        look.register(self._writer.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(look.poll(0))

    def abort(self) -> None:
        self._writer.transport.abort()


class UnixClient:
    """Asks whoever listens on one socket; of one event loop."""

    def __init__(self, path: Path) -> None:
        """Connect when something is to be asked."""
        self._path = path
        self._idle: list[_Connection] = []

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, target: bytes, headers: Iterable[tuple[bytes, bytes]], body: bytes = b""
    ) -> AsyncIterator[Answer]:
        """Send a request; the answer is there as long as the block lasts, and given up when that is left before.

        UnreachableError, BrokenError; ValueError for what is no HTTP.
        """
        try:
            request = h11.Request(method=method, target=target, headers=list(headers))
        except h11.LocalProtocolError as error:
            raise ValueError(str(error)) from None
        connection = await self._connected()
        try:
            await connection.send(request, body)
            head = await connection.event()
            if not isinstance(head, h11.Response):
                raise BrokenError("the connection has ended")
            async with contextlib.aclosing(connection.pieces()) as pieces:
                yield Answer(head.status_code, list(head.headers), pieces)
            if len(self._idle) < IDLE_MAX and connection.is_usable_again():
                self._idle.append(connection)
                return
        except BaseException:
            connection.abort()
            raise
        connection.abort()

    def close(self) -> None:
        """Let go of what is kept."""
        while self._idle:
            self._idle.pop().abort()

    async def _connected(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_stale():
                return connection
            connection.abort()
        try:
            return _Connection(*await asyncio.open_unix_connection(self._path, limit=READ_BYTES))
        except OSError as error:
            raise UnreachableError(f"{self._path.name}: {error.strerror or error}") from None
