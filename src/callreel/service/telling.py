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
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
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
"""As long as nothing is said at most: a comment tells everybody in between that the stream is not dead."""
ID: Final = r"^[0-9]{1,18}(\.[0-9]{1,18})*$"
ID_CHARACTERS: Final = 256 * 19  # of as many workers
TURN_EVENTS: Final = 64
"""After so many in a row others have their turn."""
QUEUED: Final = 4
"""Such rows may wait for a watcher to take them; what else happens is waited for where it is told."""
GATHER_S: Final = 0.001
"""So long after an event others may come that are told with it."""
WRITE: Final = json.JSONEncoder(separators=(",", ":"), default=str).encode
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


Source = Callable[[int | None], AsyncGenerator[list[Line], None]]


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


async def told_by(stream: EventStream, tenant: str, number: int | None) -> AsyncGenerator[list[Line], None]:
    """What a process tells a tenant, from behind that number on, or with None from now on; first, from where on.

    At most TURN_EVENTS lines at a time, and what happens within GATHER_S together: that costs a watcher little more
    than one event.
    """
    loop = asyncio.get_running_loop()
    changed, is_waiting = asyncio.Event(), False

    def wake() -> None:
        nonlocal is_waiting
        if is_waiting:
            is_waiting = False
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the watcher gone with it
                loop.call_soon_threadsafe(changed.set)

    with _ticking(changed.set), contextlib.ExitStack() as undo:
        undo.callback(stream.watch(wake))
        at = stream.last_number if number is None else number
        yield [Line(at)]
        while True:
            changed.clear()
            is_waiting = True
            since = stream.since(at, tenant)
            if since.is_gap:
                yield [Line(since.first, "gap", "{}")]
            for begin in range(0, len(since.told), TURN_EVENTS):
                yield [
                    Line(one.number, str(one.body["event"]), WRITE(one.body))
                    for one in since.told[begin : begin + TURN_EVENTS]
                ]
            at = since.last
            if since.told:
                await asyncio.sleep(GATHER_S)
            said = loop.time()
            await changed.wait()
            if is_waiting and loop.time() - said >= KEEP_ALIVE_S / 2:
                yield [Line(at)]


@contextlib.contextmanager
def _ticking(tick: Callable[[], None]) -> Iterator[None]:
    """Have `tick` called twice in KEEP_ALIVE_S."""
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []

    def again() -> None:
        timers[:] = [loop.call_later(KEEP_ALIVE_S / 2, again)]
        tick()

    timers.append(loop.call_later(KEEP_ALIVE_S / 2, again))
    try:
        yield
    finally:
        timers[0].cancel()


async def watch(sources: Sequence[Source], place: Place) -> AsyncIterator[str]:
    """The stream, as server-sent events: those that come together are one text."""
    queue: asyncio.Queue[tuple[int, list[Line] | Exception]] = asyncio.Queue(QUEUED)

    async def listen(index: int) -> None:
        try:
            async with contextlib.aclosing(sources[index](place.numbers[index])) as told:
                async for lines in told:
                    await queue.put((index, lines))
        except Exception as error:
            await queue.put((index, error))

    def tick() -> None:
        if queue.empty():
            queue.put_nowait((0, []))

    at: list[int | None] = [None] * len(sources)

    def block(*lines: str) -> str:
        id_ = ".".join(str(number or 0) for number in at)
        return "\n".join((f"id: {id_}", *lines, "", ""))

    listeners = [asyncio.create_task(listen(index)) for index in range(len(sources))]
    try:
        early: deque[tuple[int, list[Line] | Exception]] = deque()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEGIN_S):
                while None in at:
                    index, lines = await queue.get()
                    if at[index] is None and isinstance(lines, list):
                        at[index] = lines[0].number
                        lines = lines[1:]
                    if lines:
                        early.append((index, lines))
        yield block(": from here on")
        if place.is_gap:
            yield block("event: gap", "data: {}")
        clock = asyncio.get_running_loop().time
        said_s, said = clock(), 0
        with _ticking(tick):
            while True:
                index, lines = early.popleft() if early else await queue.get()
                if isinstance(lines, Exception):
                    raise lines
                blocks = []
                for line in lines:
                    at[index] = line.number
                    if line.event:
                        blocks.append(block(f"event: {line.event}", f"data: {line.data}"))
                if blocks:
                    yield "".join(blocks)
                    said_s = clock()
                elif clock() - said_s >= KEEP_ALIVE_S / 2:
                    yield block(": still here")
                    said_s = clock()
                said += len(blocks)
                if said >= TURN_EVENTS:
                    said = 0
                    await asyncio.sleep(0)  # others have their turn, and that the watcher is gone is noticed
    finally:
        for listener in listeners:
            listener.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
