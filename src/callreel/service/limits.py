"""What a request may be: its size, its depth, its time; of an open service, whose. A layer in front of all else."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from callreel.service.access import is_of_this_machine
from callreel.service.refusals import refusal

__all__ = [
    "BODY_BYTES",
    "BODY_S",
    "NESTING",
    "App",
    "Limited",
    "Receive",
    "Scope",
    "Send",
    "error_body",
    "is_too_deep",
    "is_utf_8",
    "with_body",
]

BODY_BYTES: Final = 256 << 10
NESTING: Final = 32
BODY_S: Final = 10.0
"""In which the whole body must be there."""
STRING_OR_BRACKET: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{\]}]', re.DOTALL)
"""A string without an end goes to that of the body: it is looked through once."""

ELSEWHERE: Final = "Without authentication the service is there for this machine alone."

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def error_body(code: str, message: str) -> dict[str, Any]:
    """The native API's error."""
    return {"error": {"code": code, "message": message}}


def is_utf_8(body: bytes) -> bool:
    """Whether JSON is read as UTF-8, as it has to be (RFC 8259, 8.1): Python's reader also takes UTF-16 and UTF-32."""
    return json.detect_encoding(body) in ("utf-8", "utf-8-sig")


def is_too_deep(body: bytes) -> bool:
    """Whether JSON in UTF-8 is nested more than `NESTING` deep; other bytes are whatever they are."""
    if body.count(b"[") + body.count(b"{") <= NESTING:
        return False
    depth = 0
    for match in STRING_OR_BRACKET.finditer(body):
        if match[0] in (b"[", b"{"):
            depth += 1
            if depth > NESTING:
                return True
        elif match[0] in (b"]", b"}"):
            depth -= 1
    return False


def with_body(body: bytes, receive: Receive) -> Receive:
    """What gives a request's body, which has been read, and then whatever comes."""
    given: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> MutableMapping[str, Any]:
        return given.pop() if given else await receive()

    return replay


class _GoneError(Exception):
    """The client has gone in the middle of its body: half a request is none."""


class Limited:
    """Reads a request's body before the application sees it, and refuses what may not be."""

    def __init__(
        self,
        app: App,
        *,
        websockets: App | None = None,
        is_open: bool = False,
        body_bytes: int = BODY_BYTES,
        body_s: float = BODY_S,
    ) -> None:
        """Stand in front of `app`, and hand WebSockets to an application of their own.

        `is_open`: nobody is asked who they are, so it must be somebody of this machine.
        """
        self._is_open = is_open
        self._app, self._body_bytes, self._body_s = app, body_bytes, body_s
        self._websockets = websockets or app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if self._is_open and scope["type"] in ("http", "websocket") and not is_of_this_machine(scope):
            if scope["type"] == "websocket":
                await receive()  # websocket.connect
                await send({"type": "websocket.close", "code": 1008})
            else:
                await _refuse(send, scope["path"], 403, "forbidden", ELSEWHERE)
            return
        if scope["type"] != "http":
            await (self._websockets if scope["type"] == "websocket" else self._app)(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(self._body(receive), self._body_s)
        except TimeoutError:
            await _refuse(
                send, scope["path"], 408, "too_slow", f"the body did not come within {self._body_s:g} s"
            )
            return
        except _GoneError:
            return
        if body is None:
            await _refuse(
                send, scope["path"], 413, "too_large", f"a body has at most {self._body_bytes} bytes"
            )
            return
        if not is_utf_8(body):
            await _refuse(send, scope["path"], 400, "not_utf_8", "JSON is in UTF-8")
            return
        if is_too_deep(body):
            await _refuse(send, scope["path"], 400, "too_deep", f"JSON is nested at most {NESTING} deep")
            return
        await self._app(scope, with_body(body, receive), send)

    async def _body(self, receive: Receive) -> bytes | None:
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _GoneError
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > self._body_bytes:
                return None
            if not message.get("more_body"):
                return b"".join(pieces)


async def _refuse(send: Send, path: str, status: int, word: str, message: str) -> None:
    response = refusal(path, status, message, word=word, headers={"Connection": "close"})
    await send({"type": "http.response.start", "status": status, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": bytes(response.body)})
