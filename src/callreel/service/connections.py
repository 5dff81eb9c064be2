"""Who is connected over HTTP: how long a request may take to come, how many may be here, and who makes room.

uvicorn bounds how long a connection rests between two requests, and nothing else: one that sends half a head stays for
ever, and at a number of connections it refuses everybody. Here a head has its time, and who comes when all places are
taken gets that of the one who has kept theirs without a whole request for longest. A request that is being answered,
and a WebSocket, is never made to leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import time
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator
from functools import partial
from typing import Any, Final, cast

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from callreel.service.access import is_loopback
from callreel.service.metrics import Family, Sample

__all__ = ["CONNECTIONS_MAX", "HEAD_S", "Connections", "raise_descriptors"]

log = logging.getLogger("callreel.service")

CONNECTIONS_MAX: Final = 10_000
"""At once, WebSockets among them."""
DESCRIPTORS_EACH: Final = 4
"""One of so many may be a connection of HTTP's: ports, spool and deliveries need the others."""
LEFT_PART: Final = 16
"""One of so many is left free, whoever has the others."""
ACCEPTED_AT_ONCE: Final = 1024
"""Connections that are taken in before those that had to leave are gone."""
OF_ONE_ADDRESS: Final = 4
"""The part of all places that one address beyond this machine may keep without a whole request."""
HEAD_S: Final = 10.0
"""In which a request's head must be there: from the connection's beginning, or from its first byte after an answer."""
HASTE_S: Final = 1.0
"""A request that has taken no longer to come is worth more than a connection that rests."""
TOLD_S: Final = 60.0
"""It is told no more often that it is crowded."""
DESCRIPTORS_MAX: Final = 1 << 20
"""Taken for what is unlimited."""

TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"
)

HEAD, BODY, REST = "head", "body", "rest"
"""What a connection waits for: the rest of a head, of a body (`callreel.service.limits` has its time), or a request."""


def raise_descriptors() -> int:
    """Let the process have as many open files as it may; how many that are."""
    soft, hard = (
        DESCRIPTORS_MAX if limit == resource.RLIM_INFINITY else limit
        for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    wanted = min(hard, DESCRIPTORS_MAX)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # a sandbox may forbid it
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            )
            soft = wanted
    return soft


class Connections:
    """Those of one server, and of the thread of its event loop; its figures may be read by any."""

    def __init__(self, descriptors: int, *, head_s: float = HEAD_S) -> None:
        """`descriptors`: how many open files the process may have."""
        self.most = max(1, min(CONNECTIONS_MAX, descriptors // DESCRIPTORS_EACH))
        """At once."""
        self.at_once = min(ACCEPTED_AT_ONCE, self.most)
        """Of which so many are taken in in one go."""
        self.head_s = head_s
        self._last_descriptor = descriptors - descriptors // LEFT_PART
        self._share = max(1, self.most // OF_ONE_ADDRESS)
        self._waiting: dict[str, OrderedDict[_Protocol, float]] = {
            what: OrderedDict() for what in (HEAD, BODY, REST)
        }
        """Since when, the longest first."""
        self._of_address: dict[str, OrderedDict[_Protocol, None]] = {}
        """Those that wait for a head or a body, of addresses beyond this machine."""
        self._ended: Counter[str] = Counter()
        self._told_at = -TOLD_S
        self._there: Collection[Any] = ()

    @property
    def count(self) -> int:
        """How many there are, WebSockets too."""
        return len(self._there)

    @property
    def protocol(self) -> type[asyncio.Protocol]:
        """What uvicorn is given as `http`."""
        return cast("type[asyncio.Protocol]", partial(_Protocol, self))

    def families(self) -> Iterator[Family]:
        """Metrics."""
        yield Family("callreel_http_connections", "gauge", "Connections over HTTP.", [Sample({}, self.count)])
        yield Family(
            "callreel_http_connections_ended_total",
            "counter",
            "Connections over HTTP that were not let go on: slow, crowded, or full.",
            [Sample({"why": why}, self._ended[why]) for why in ("slow", "crowded", "full")],
        )

    # -- of its connections ----------------------------------------------------------------------------------------

    def admit(self, one: _Protocol, there: Collection[Any], descriptor: int) -> bool:
        """Whether it may stay, being one of those that are there; another may have to leave for it."""
        self._there = there
        is_crowded = (
            self.count > self.most or descriptor > self._last_descriptor
        )  # the lowest that is free is given
        if is_crowded and not self._make_room():
            self._end(None, "full")
            return False
        mine = self._of_address.get(one.address, ())
        if len(mine) >= self._share:
            self._end(next(iter(mine)), "crowded")
        return True

    def wait(self, one: _Protocol, what: str | None) -> None:
        """It waits for that from now on; None: for nothing, it is being answered or is gone."""
        for waiting in self._waiting.values():
            waiting.pop(one, None)
        if what is not None:
            self._waiting[what][one] = time.monotonic()
        if not one.address:
            return
        if what in (HEAD, BODY):
            self._of_address.setdefault(one.address, OrderedDict())[one] = None
        elif one.address in self._of_address:
            self._of_address[one.address].pop(one, None)
            if not self._of_address[one.address]:
                del self._of_address[one.address]

    def ended_slow(self) -> None:
        """A head did not come in time."""
        self._ended["slow"] += 1

    def _make_room(self) -> bool:
        now = time.monotonic()
        first = {what: next(iter(waiting.items())) for what, waiting in self._waiting.items() if waiting}
        if not first:
            return False
        unheard = [one for what, one in first.items() if what != REST]
        oldest = min(unheard, key=lambda one: one[1]) if unheard else first[REST]
        if REST in first and now - oldest[1] < HASTE_S:
            oldest = first[REST]
        self._end(oldest[0], "crowded")
        return True

    def _end(self, one: _Protocol | None, why: str) -> None:
        self._ended[why] += 1
        if time.monotonic() - self._told_at >= TOLD_S:
            self._told_at = time.monotonic()
            log.warning("%d connections over HTTP: %d at most, the slowest make room", self.count, self.most)
        if one is not None:
            one.leave()
            one.transport.abort()


class _Protocol(H11Protocol):
    """A connection that the book is kept of."""

    def __init__(
        self,
        book: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._book = book
        self._awaits: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False
        self.address = ""
        """Where it comes from; empty for this machine."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None and not is_loopback(self.client[0]):
            self.address = self.client[0]
        descriptor = transport.get_extra_info("socket").fileno()
        if self._book.admit(self, self.connections, descriptor):
            self._await(HEAD)
        else:
            self._is_over = True
            transport.write(FULL)
            transport.close()

    def data_received(self, data: bytes) -> None:
        if not self._is_over:
            super().data_received(data)
            self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.leave()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self.leave()
        super().handle_websocket_upgrade(event)

    def leave(self) -> None:
        """The book has no more to do with it."""
        self._await(None)
        self._is_over = True

    def _look(self) -> None:
        """See what is waited for now."""
        if self._is_over:
            return
        if self.transport.is_closing():
            self.leave()
            return
        has_answered = self.cycle is not None and self.cycle.response_complete
        match self.conn.their_state:
            case h11.IDLE:
                self._await(REST if has_answered and not self.conn.trailing_data[0] else HEAD)
            case h11.SEND_BODY:
                self._await(HEAD if has_answered else BODY)  # nobody waits for what is sent after the answer
            case _:
                self._await(None)

    def _await(self, what: str | None) -> None:
        if what == self._awaits or self._is_over:
            return
        self._awaits = what
        self._book.wait(self, what)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if what == HEAD:
            self._timer = self.loop.call_later(self._book.head_s, self._is_too_slow)

    def _is_too_slow(self) -> None:
        if self.transport.is_closing():
            return
        self._book.ended_slow()
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self.transport.write(TOO_SLOW)
        self.leave()
        self.transport.close()
