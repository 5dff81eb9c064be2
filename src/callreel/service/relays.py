"""A WebSocket whose leg another worker has: its messages go there and come back, over that worker's Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from callreel.service.colleagues import RETRY_AFTER, Colleagues, asked_from
from callreel.service.limits import Receive, Scope, Send
from callreel.service.media_streams import Start
from callreel.service.websocket_media import MESSAGE_BYTES, Carry, without_secrets

__all__ = ["GONE", "found", "relay"]

log = logging.getLogger("callreel.service.relays")
log.setLevel(logging.INFO)  # below that are whole requests, with tokens, and audio

PATIENCE_S: Final = 5.0
"""So long a worker that is not there is waited for."""
AGAIN_S: Final = 0.05
QUEUED: Final = 16
"""Messages that wait to be taken; beyond that the other side is not read."""
UNSENT_BYTES: Final = 64 << 10
CLOSE_S: Final = 0.5
GONE: Final = 1012
"""The code that ends a WebSocket whose worker has gone: "service restart" in IANA's registry."""
UNSAYABLE: Final = (1005, 1006, 1015)
"""Codes that no message may have: there was none, or no orderly end."""


async def relay(colleagues: Colleagues, index: int, scope: Scope, receive: Receive, send: Send) -> None:
    """Carry a WebSocket that has not been accepted yet to the worker that is meant."""
    target = _target(scope)
    headers = _headers(scope)
    scope["path"], scope["raw_path"], scope["query_string"] = without_secrets(str(scope["path"])), b"", b""
    await receive()  # websocket.connect
    until = time.monotonic() + PATIENCE_S
    is_there = False
    while True:
        try:
            async with _connected(colleagues, index, target, headers) as there:
                is_there = True
                await send({"type": "websocket.accept"})
                await _carry(there, receive, send)
            return
        except InvalidStatus as refused:
            await _refuse(send, scope, refused.response.status_code)
            return
        except (OSError, InvalidHandshake) as error:
            if is_there:
                return  # the client has gone
            if time.monotonic() > until:
                log.warning("worker %d takes no WebSocket: %s", index, error)
                await _refuse(send, scope, 503)
                return
        await asyncio.sleep(AGAIN_S)


async def found(colleagues: Colleagues, scope: Scope, tenant: str, start: Start) -> Carry | None:
    """What carries a stream to the worker that has its leg; `scope` is as it came. None when no worker has it."""
    has = await colleagues.first_other(
        "has_stream", tenant=tenant, call_sid=start.call_sid, stream_sid=start.stream_sid
    )
    return None if has is None else partial(_carry_on, colleagues, has[0], scope)


async def _carry_on(
    colleagues: Colleagues, index: int, scope: Scope, said: Sequence[str], receive: Receive, send: Send
) -> None:
    try:
        async with _connected(colleagues, index, _target(scope), _headers(scope)) as there:
            for one in said:
                await there.send(one)
            await _carry(there, receive, send)
    except (OSError, InvalidHandshake, ConnectionClosed) as error:
        log.warning("the worker that has a stream's leg does not take it: %s", error)
        await _close(send, GONE)


async def _carry(there: ClientConnection, receive: Receive, send: Send) -> None:
    """Carry messages both ways, until one side has ended it; the other is told so in the same words."""

    async def to_there() -> None:
        with contextlib.suppress(ConnectionClosed):  # `from_there` hears of it
            while (received := await receive())["type"] != "websocket.disconnect":
                text = received.get("text")
                await there.send(received.get("bytes") or b"" if text is None else text)
            code = received.get("code", 1005)
            await there.close(*(() if code in UNSAYABLE else (code, received.get("reason") or "")))

    async def from_there() -> None:
        try:
            while True:
                one = await there.recv()
                await send(
                    {"type": "websocket.send", "text": one}
                    if isinstance(one, str)
                    else {"type": "websocket.send", "bytes": one}
                )
        except ConnectionClosed as ended:
            frame = ended.rcvd
            if frame is None:
                log.warning("the worker of a WebSocket's leg has gone")
            await _close(send, GONE if frame is None else frame.code, "" if frame is None else frame.reason)
        except OSError:
            return  # the client has gone: `to_there` hears of it

    both = [asyncio.create_task(to_there()), asyncio.create_task(from_there())]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in both:
            task.cancel()
        outcomes = await asyncio.gather(*both, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome


def _connected(colleagues: Colleagues, index: int, target: str, headers: list[tuple[str, str]]) -> connect:
    return unix_connect(
        str(colleagues.fleet.socket(index)),
        f"ws://worker{target}",
        additional_headers=headers,
        user_agent_header=None,
        compression=None,
        ping_interval=None,  # the server at either end asks for signs of life
        max_size=MESSAGE_BYTES,
        max_queue=QUEUED,
        write_limit=UNSENT_BYTES,
        close_timeout=CLOSE_S,
        logger=log,
    )


def _target(scope: Scope) -> str:
    query, path = bytes(scope["query_string"]), bytes(scope["raw_path"])
    return (path + b"?" + query if query else path).decode("ascii")


def _headers(scope: Scope) -> list[tuple[str, str]]:
    """What the other worker has to know: who asks, and their token."""
    told = [asked_from(scope), *(one for one in scope["headers"] if one[0] == b"authorization")]
    return [(name.decode("ascii"), value.decode("latin-1")) for name, value in told]


async def _refuse(send: Send, scope: Scope, status: int) -> None:
    """Say no to a WebSocket that has not been accepted."""
    if status == 403 or "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(name.encode(), value.encode()) for name, value in RETRY_AFTER.items()]
    await send({"type": "websocket.http.response.start", "status": 503, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": b"The service cannot do that now.\n"})


async def _close(send: Send, code: int, reason: str = "") -> None:
    with contextlib.suppress(
        OSError, TimeoutError, RuntimeError
    ):  # it is gone, takes nothing, or has been told
        await asyncio.wait_for(send({"type": "websocket.close", "code": code, "reason": reason}), CLOSE_S)
