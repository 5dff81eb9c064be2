"""In front of the APIs: whichever worker a request has come to, the one that owns its call answers.

Which part of a path names the call is a table. A request of another worker's call goes to that one as it came, with all
its headers, over its Unix socket, so that who may do what is asked where it is done; the answer comes back as it is
made. What concerns no call, or all of them, is answered here: `callreel.service.colleagues` asks the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import re
import time
import uuid
import zlib
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs

from callreel.service.colleagues import ASKED_FROM, RETRY_AFTER, Colleagues, asked_from
from callreel.service.counting import COUNTED_ELSEWHERE
from callreel.service.fleet import Fleet
from callreel.service.limits import App, Receive, Scope, Send, with_body
from callreel.service.refusals import refusal
from callreel.service.unix_http import Answer, BrokenError, Headers, UnreachableError

__all__ = ["PATIENCE_S", "Forwarding", "Meant", "meant"]

log = logging.getLogger("callreel.service")

PATIENCE_S: Final = 5.0
"""So long a worker that is not there is waited for: its successor is on its way."""
AGAIN_S: Final = 0.05
ANSWER_S: Final = 60.0
"""In which an answer must begin."""
OF_THE_CONNECTION: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"expect",
    }
)
"""Headers that are of one connection, and not of the request or the answer."""
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""Methods that may be sent again when nobody knows whether they have been carried out (RFC 9110, 9.2.2)."""


class Meant(NamedTuple):
    """Which worker a request is for."""

    worker: int
    """Its index."""
    may_be_another: bool = False
    """Whether any other would do, too."""


class _By(Enum):
    """What names the worker."""

    CALL = "the id of a call, in the path"
    GUID = "the same, and it may be written in several ways"
    QUERY = "the id of a call, in the query"
    TEXT = "a part of the path: the same request always comes to the same worker, which has done it before"
    SIGNATURE = "who has signed, and what: as before"
    NEW = "the body, or nothing"


GRAPH: Final = r"(?:/v1\.0|/beta)?/(?:app|communications|applications/[^/]+)/calls/(?P<key>[^/]+)(?:/.*)?"
ROUTES: Final[tuple[tuple[str | None, re.Pattern[str], _By], ...]] = tuple(
    (method, re.compile(path, re.DOTALL), by)
    for method, path, by in (
        ("POST", r"/v1/calls", _By.NEW),
        (None, r"/v1/calls/(?P<key>[^/]+)(?:/.*)?", _By.CALL),
        ("WEBSOCKET", r"/v1/media/(?P<key>[^/]+)/.*", _By.CALL),
        ("POST", r"/sip-media-applications/[^/]+/calls", _By.SIGNATURE),
        (None, r"/sip-media-applications/[^/]+/calls/(?P<key>[^/]+)", _By.CALL),
        (None, r"/calling/v1/calls/id/(?P<key>[^/]+)(?:/.*)?", _By.CALL),
        (None, r"/calling/v1/conferences/id/[^/]+/(?P<key>[^/]+)", _By.CALL),
        ("DELETE", r"/calling/v1/conferences/id/(?P<key>[^/]+)", _By.TEXT),
        ("DELETE", r"/calling/v1/recording/(?P<key>.+)", _By.TEXT),
        (None, GRAPH, _By.GUID),
        (None, r"/page/call(?:/levels\.json)?", _By.QUERY),
    )
)
"""Method (None for all), path as the routes have it, and what in it names the worker. The first that fits."""


class Forwarding:
    """An ASGI layer; behind it is this worker's own application, before it what limits requests."""

    def __init__(self, app: App, websockets: App, colleagues: Colleagues, relay: Callable[..., Any]) -> None:
        """`websockets` serves these; `relay` carries one to another worker: `callreel.service.relays.relay`."""
        self._app, self._websockets, self._relay = app, websockets, relay
        self._colleagues = colleagues
        self._turns = itertools.cycle(range(colleagues.fleet.size))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, whose body is there, or one WebSocket."""
        fleet = self._colleagues.fleet
        if scope["type"] == "websocket":
            to = meant(fleet, scope, b"", self._turns)
            if to is None or to.worker == fleet.index:
                await self._websockets(scope, receive, send)
            else:
                await self._relay(self._colleagues, to.worker, scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = (await receive()).get("body", b"")
        to = meant(fleet, scope, body, self._turns)
        if to is None or to.worker == fleet.index:
            await self._app(scope, with_body(body, receive), send)
        else:
            await self._forward(to, scope, body, receive, send)

    async def _forward(self, to: Meant, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Have another worker answer, as long as the client waits for it."""
        work = asyncio.create_task(self._answered(to, scope, body, send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
            outcome, _ = await asyncio.gather(work, gone, return_exceptions=True)
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is False:  # nobody is there, and another will do
            await self._app(scope, with_body(body, receive), send)

    async def _answered(self, to: Meant, scope: Scope, body: bytes, send: Send) -> bool:
        """Answer with what that worker answers, or with why it does not; False when another is to be asked."""
        client = self._colleagues.client(to.worker)
        target, headers = _target(scope), _headers(scope, body)
        is_idempotent = scope["method"] in IDEMPOTENT or any(
            name == b"idempotency-key" for name, _ in headers
        )
        until = time.monotonic() + PATIENCE_S
        while True:
            has_begun = False
            try:
                async with contextlib.AsyncExitStack() as there:
                    async with asyncio.timeout(ANSWER_S):
                        answer = await there.enter_async_context(
                            client.request(scope["method"], target, headers, body)
                        )
                    has_begun = True
                    scope[COUNTED_ELSEWHERE] = True
                    await _handed_back(answer, send)
                return True
            except UnreachableError:
                if to.may_be_another:
                    return False
                problem = 503, "not_now", "The part of the service that has this call starts anew."
            except BrokenError as error:
                if has_begun:
                    log.error("worker %d has ended in the middle of an answer: %s", to.worker, error)
                    return True  # the server ends the connection: the answer was not all
                problem = (
                    502,
                    "lost",
                    "The part of the service that has this call was lost; it may be done, or not.",
                )
                if not is_idempotent:
                    until = 0.0
            except TimeoutError:
                problem = 504, "too_slow", "The part of the service that has this call does not answer."
                until = 0.0
            except ValueError as error:
                problem = 400, "invalid", f"The request cannot be handed on: {error}"
                until = 0.0
            if time.monotonic() > until:
                await _refuse(scope, send, *problem)
                return True
            await asyncio.sleep(AGAIN_S)


def meant(fleet: Fleet, scope: Scope, body: bytes, turns: itertools.cycle[int]) -> Meant | None:
    """Which worker is to answer; None for whichever was asked. `turns` says whose turn it is to have a new call."""
    method = "WEBSOCKET" if scope["type"] == "websocket" else scope["method"]
    for of, path, by in ROUTES:
        if of not in (None, method):
            continue
        found = path.fullmatch(scope["path"])
        if found is None:
            continue
        match by:
            case _By.CALL | _By.TEXT:
                return Meant(fleet.owner(found["key"]))
            case _By.GUID:
                return Meant(fleet.owner(_plain(found["key"])))
            case _By.QUERY:
                ids = parse_qs(scope["query_string"].decode("latin-1"), errors="surrogateescape").get("id")
                return None if ids is None else Meant(fleet.owner(ids[-1]))
            case _By.SIGNATURE:
                signature = _header(scope, b"authorization")
                return Meant(zlib.crc32(signature) % fleet.size) if signature else Meant(next(turns), True)
            case _By.NEW:
                return _of_new(fleet, scope, body, turns)
    return None


def _of_new(fleet: Fleet, scope: Scope, body: bytes, turns: itertools.cycle[int]) -> Meant | None:
    """A call that is to begin: by its id; by the key that it may come with again; or whoever's turn it is."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    call_id = document.get("call_id")
    if isinstance(call_id, str):
        return Meant(fleet.owner(call_id))
    key = _header(scope, b"idempotency-key")
    if key:
        return Meant(zlib.crc32(_header(scope, b"authorization") + b"\0" + key) % fleet.size)
    return Meant(next(turns), may_be_another=True)


def _plain(guid: str) -> str:
    """As `callreel.service.graph_api` takes ids: what is a GUID may have braces and more."""
    try:
        return uuid.UUID(guid).hex
    except ValueError:
        return guid


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for one, value in scope["headers"] if one == name), b"")


def _target(scope: Scope) -> bytes:
    query: bytes = scope["query_string"]
    return bytes(scope["raw_path"]) + (b"?" + query if query else b"")


def _headers(scope: Scope, body: bytes) -> Headers:
    """Those of a request, for another worker."""
    kept = [
        (name, value)
        for name, value in scope["headers"]
        if name not in OF_THE_CONNECTION and name != ASKED_FROM
    ]
    names = {name for name, _ in kept}
    if b"host" not in names:  # HTTP/1.0
        host, port = scope.get("server") or ("", None)
        kept.append((b"host", f"{host}:{port}".encode()))
    if body and b"content-length" not in names:
        kept.append((b"content-length", str(len(body)).encode()))
    return [asked_from(scope), *kept]


async def _gone(receive: Receive) -> None:
    """Wait until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _handed_back(answer: Answer, send: Send) -> None:
    headers = [(name, value) for name, value in answer.headers if name not in OF_THE_CONNECTION]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    async for piece in answer.pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _refuse(scope: Scope, send: Send, status: int, word: str, message: str) -> None:
    response = refusal(
        scope["path"], status, message, word=word, headers=RETRY_AFTER if status == 503 else None
    )
    await send({"type": "http.response.start", "status": status, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": bytes(response.body)})
