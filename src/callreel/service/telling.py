"""The stream of events as one who watches gets it: what every worker tells, in one, with ids to take it up again by.

An id holds a number for each worker, with dots between them: how far what that worker tells had come when the event was
sent. So a call's events, which are all one worker's, keep their order, and who comes back with an id misses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Final, NamedTuple

from callreel.service.stream import EventStream

__all__ = [
    "ID",
    "ID_CHARACTERS",
    "KEEP_ALIVE_S",
    "TURN_EVENTS",
    "Line",
    "Place",
    "place_of",
    "told_by",
    "watch",
]

KEEP_ALIVE_S: Final = 15.0
"""A comment in the stream of events, so that nobody in between takes it for dead."""
ID: Final = r"^[0-9]{1,18}(\.[0-9]{1,18})*$"
ID_CHARACTERS: Final = 256 * 19  # of as many workers
QUEUED: Final = 256
"""Events that wait for a watcher to take them; where more happen they are waited for where they are told."""
TURN_EVENTS: Final = 64
"""After so many in a row others have their turn."""
BEGIN_S: Final = 2.0
"""So long it is waited until every worker has said where it is."""


class Line(NamedTuple):
    """What a worker tells: an event, a gap, or with no name only how far it is."""

    number: int
    event: str = ""
    data: str = ""


class Place(NamedTuple):
    """From where on somebody watches."""

    numbers: list[int | None]
    """By worker; 0 for its beginning, None for what happens from now on."""
    is_gap: bool = False
    """Whether it is known already that something is missing."""


Source = Callable[[int | None], AsyncGenerator[Line, None]]


def place_of(text: str | None, size: int) -> Place:
    """What an id, or nothing, says to so many workers. An id that they have not given tells of a gap."""
    if text is None:
        return Place([None] * size)
    if not re.fullmatch(ID, text, re.ASCII):
        return Place([0] * size, is_gap=True)
    numbers: list[int | None] = [int(one) for one in text.split(".")]
    if numbers == [0]:
        return Place([0] * size)
    return Place(numbers) if len(numbers) == size else Place([0] * size, is_gap=True)


async def told_by(stream: EventStream, tenant: str, number: int | None) -> AsyncGenerator[Line, None]:
    """What a process tells a tenant, from behind that number on, or with None from now on; first, from where on."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the watcher gone with it
            loop.call_soon_threadsafe(changed.set)

    leave = stream.watch(wake)
    try:
        at = stream.last_number if number is None else number
        yield Line(at)
        while True:
            changed.clear()
            since = stream.since(at, tenant)
            if since.is_gap:
                yield Line(since.first, "gap", "{}")
            for one in since.told:
                data = json.dumps(one.body, separators=(",", ":"), default=str)
                yield Line(one.number, str(one.body["event"]), data)
            at = since.last
            try:
                await asyncio.wait_for(changed.wait(), KEEP_ALIVE_S)
            except TimeoutError:
                yield Line(at)
    finally:
        leave()


async def watch(sources: Sequence[Source], place: Place) -> AsyncIterator[str]:
    """The stream, as server-sent events."""
    queue: asyncio.Queue[tuple[int, Line | Exception]] = asyncio.Queue(QUEUED)

    async def listen(index: int) -> None:
        try:
            async with contextlib.aclosing(sources[index](place.numbers[index])) as lines:
                async for line in lines:
                    await queue.put((index, line))
        except Exception as error:
            await queue.put((index, error))

    at: list[int | None] = [None] * len(sources)

    def block(*lines: str) -> str:
        id_ = ".".join(str(number or 0) for number in at)
        return "\n".join((f"id: {id_}", *lines, "", ""))

    listeners = [asyncio.create_task(listen(index)) for index in range(len(sources))]
    try:
        early: deque[tuple[int, Line | Exception]] = deque()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEGIN_S):
                while None in at:
                    index, line = await queue.get()
                    if at[index] is None and isinstance(line, Line):
                        at[index] = line.number
                    else:
                        early.append((index, line))
        yield block(": from here on")
        if place.is_gap:
            yield block("event: gap", "data: {}")
        clock = asyncio.get_running_loop().time
        said_s, said = clock(), 0
        while True:
            try:
                async with asyncio.timeout_at(said_s + KEEP_ALIVE_S):
                    index, line = early.popleft() if early else await queue.get()
            except TimeoutError:
                yield block(": still here")
                said_s = clock()
                continue
            if isinstance(line, Exception):
                raise line
            at[index] = line.number
            if line.event:
                yield block(f"event: {line.event}", f"data: {line.data}")
                said_s = clock()
                said += 1
                if said % TURN_EVENTS == 0:
                    await asyncio.sleep(0)  # others have their turn, and that the watcher is gone is noticed
    finally:
        for listener in listeners:
            listener.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
