"""What the workers of a fleet ask each other: questions about all calls, and the events that each of them tells.

Every worker answers over the Unix socket of its own, in a folder that nobody else may enter; who asked it is known to
the worker that asks, and not asked again. With one worker nothing is sent anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from enum import Enum
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs, urlencode

from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from callreel.service.fleet import ALONE, Fleet
from callreel.service.limits import App, Receive, Scope, Send
from callreel.service.refusals import Refused, json_response
from callreel.service.stream import EventStream
from callreel.service.telling import Line, Place, told_by, watch
from callreel.service.unix_http import BrokenError, UnixClient, UnreachableError

__all__ = ["ASKED_FROM", "IS_WITHIN", "RETRY_AFTER", "Away", "Colleagues", "Within", "asked_from"]

log = logging.getLogger("callreel.service")

ASK_S: Final = 2.0
"""In which a worker must have answered a question."""
AGAIN_S: Final = 0.1
"""After so long a worker is looked for again."""
RETRY_AFTER: Final = {"Retry-After": "2"}
ASKED_FROM: Final = b"callreel-asked-from"
"""The header in which a worker tells another who asks: their address, the one they asked, the scheme."""
IS_WITHIN: Final = "callreel.within"
"""In the scope of what another worker has handed on: nobody else is asked any more."""
PREFIX: Final = "/-/"
"""Of what only workers ask."""


class Away(Enum):
    """Why a worker has not answered."""

    GONE = "it is not there"
    """And so none of its calls is: its successor begins without any."""
    SILENT = "it does not answer"


class Colleagues:
    """The workers of a fleet, as one of them asks them; of one event loop."""

    def __init__(self, stream: EventStream, fleet: Fleet = ALONE) -> None:
        """`stream`: what this worker tells."""
        self.fleet = fleet
        self.stream = stream
        self._answers: dict[str, Callable[..., Any]] = {}
        self._quick: set[str] = set()
        self._clients: dict[int, UnixClient] = {}

    def answer(self, question: str, answer: Callable[..., Any], *, is_quick: bool = False) -> None:
        """Have a question answered by a function, which is called in any thread; both ways it is JSON.

        `is_quick`: it waits for nothing, and is called where it stands.
        """
        self._answers[question] = answer
        if is_quick:
            self._quick.add(question)

    def client(self, index: int) -> UnixClient:
        """For requests to another worker."""
        if index not in self._clients:
            self._clients[index] = UnixClient(self.fleet.socket(index))
        return self._clients[index]

    def close(self) -> None:
        """Let go of connections that are kept; those that are in use end by themselves."""
        for client in self._clients.values():
            client.close()

    # -- questions ---------------------------------------------------------------------------------------------------

    async def each(self, question: str, **given: Any) -> list[Any]:
        """What each worker answers, by its index, or why it has not."""
        return await asyncio.gather(*(self._ask(index, question, given) for index in range(self.fleet.size)))

    async def all(self, question: str, **given: Any) -> list[Any]:
        """What the workers answer that there are; 503 when one of them does not."""
        return self.whole(await self.each(question, **given))

    async def first_other(self, question: str, **given: Any) -> tuple[int, Any] | None:
        """The first other worker that answers something, and what; None when none does."""
        others = [index for index in range(self.fleet.size) if index != self.fleet.index]
        asked = {asyncio.create_task(self._ask(index, question, given)): index for index in others}
        left = set(asked)
        try:
            while left:
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                for one in done:
                    if (answer := one.result()) and not isinstance(answer, Away):
                        return asked[one], answer
            return None
        finally:
            for one in left:
                one.cancel()

    @staticmethod
    def whole(answers: list[Any]) -> list[Any]:
        """Answers without those of workers that are gone; 503 when one is missing."""
        if Away.SILENT in answers:
            raise Refused(503, "not_now", "A part of the service does not answer.", RETRY_AFTER)
        return [one for one in answers if one is not Away.GONE]

    @staticmethod
    def there(answers: list[Any]) -> list[Any]:
        """Answers without the missing ones."""
        return [one for one in answers if not isinstance(one, Away)]

    def by_worker(self, answers: list[Any]) -> list[str]:
        """Texts of all workers in one list; where there are several, with whose they are, or why there are none."""
        if len(answers) == 1:
            return list(answers[0])
        return [
            f"worker {index}: {text}"
            for index, answer in enumerate(answers)
            for text in ([answer.value] if isinstance(answer, Away) else answer)
        ]

    async def _ask(self, index: int, question: str, given: Mapping[str, Any]) -> Any:
        if index == self.fleet.index:
            return await self.answer_to(question, given)
        body = json.dumps(given).encode()
        headers = [(b"host", b"worker"), (b"content-length", str(len(body)).encode())]
        target = f"{PREFIX}{question}".encode()
        try:
            async with (
                asyncio.timeout(ASK_S),
                self.client(index).request("POST", target, headers, body) as answer,
            ):
                answered = await answer.body()
        except (UnreachableError, BrokenError):
            return Away.GONE
        except TimeoutError:
            log.warning("worker %d does not answer", index)
            return Away.SILENT
        if answer.status != 200:
            log.error("worker %d answers %d to %s", index, answer.status, question)
            return Away.SILENT
        return json.loads(answered)

    async def answer_to(self, question: str, given: Mapping[str, Any]) -> Any:
        """What this worker says."""
        if question in self._quick:
            return self._answers[question](**given)
        return await run_in_threadpool(self._answers[question], **given)

    # -- events ------------------------------------------------------------------------------------------------------

    def watch(self, tenant: str, place: Place) -> AsyncIterator[str]:
        """What all workers tell a tenant, as server-sent events."""
        return watch(
            [
                partial(told_by, self.stream, tenant)
                if index == self.fleet.index
                else partial(self._told, index, tenant)
                for index in range(self.fleet.size)
            ],
            place,
        )

    async def _told(self, index: int, tenant: str, number: int | None) -> AsyncGenerator[list[Line], None]:
        """What another worker tells, and after it its successor."""
        while True:
            given = {"tenant": tenant} | ({} if number is None else {"number": str(number)})
            target = f"{PREFIX}events?{urlencode(given, errors='surrogateescape')}".encode()
            try:
                async with self.client(index).request("GET", target, [(b"host", b"worker")]) as answer:
                    if answer.status != 200:
                        log.error("worker %d answers %d to who watches", index, answer.status)
                        await asyncio.sleep(ASK_S)
                        continue
                    held = b""
                    async for piece in answer.pieces:
                        *written, held = (held + piece).split(b"\n")
                        lines = [_line(one) for one in written]
                        if lines:
                            number = lines[-1].number
                            yield lines
            except UnreachableError:
                number = number or 0  # whatever its successor tells happens from now on
            except BrokenError:
                pass
            await asyncio.sleep(AGAIN_S)


class Within:
    """An ASGI layer: what other workers ask of this one, and the requests that they hand on to it."""

    def __init__(self, app: App, colleagues: Colleagues) -> None:
        """Stand in front of `app`."""
        self._app, self._colleagues = app, colleagues

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            await self._answer(scope["path"].removeprefix(PREFIX), scope, receive, send)
            return
        told = [value for name, value in scope["headers"] if name == ASKED_FROM]
        if told:
            client, server, scope["scheme"] = json.loads(told[0])
            scope["client"], scope["server"] = _pair(client), _pair(server)
            scope["headers"] = [one for one in scope["headers"] if one[0] != ASKED_FROM]
        scope[IS_WITHIN] = True
        await self._app(scope, receive, send)

    async def _answer(self, question: str, scope: Scope, receive: Receive, send: Send) -> None:
        if question == "events":
            given = parse_qs(scope["query_string"].decode(), keep_blank_values=True, errors="surrogateescape")
            number = int(given["number"][0]) if "number" in given else None
            told = told_by(self._colleagues.stream, given["tenant"][0], number)
            await StreamingResponse(_written(told), media_type="text/plain")(scope, receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        answer = await self._colleagues.answer_to(question, json.loads(body))
        await json_response(answer)(scope, receive, send)


async def _written(told: AsyncGenerator[list[Line], None]) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(told):
        async for lines in told:
            yield "".join(f"{line.number} {line.event} {line.data}\n" for line in lines).encode("ascii")


def _line(written: bytes) -> Line:
    number, event, data = written.decode("ascii").split(" ", 2)
    return Line(int(number), event, data)


def asked_from(scope: Scope) -> tuple[bytes, bytes]:
    """The header that tells another worker who asks."""
    told = json.dumps([scope.get("client"), scope.get("server"), scope["scheme"]], separators=(",", ":"))
    return ASKED_FROM, told.encode("ascii")


def _pair(address: list[Any] | None) -> tuple[Any, ...] | None:
    return None if address is None else tuple(address)
