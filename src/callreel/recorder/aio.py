"""`AsyncRecorder`: a `Recorder` for hosts that live in asyncio.

    async with AsyncRecorder(settings) as recorder:
        call = recorder.add_call("call-7f3")
        call.add_leg("LEG-A")
        call.receive_rtp("LEG-A", packet)            # plain: no verb of a call waits for a disk or a network
        async for event in recorder.events(): ...    # until it is closed

What may wait is awaitable, and waits in a thread of the loop's executor or, for events, in none. It belongs to no loop:
several may use one recorder, each event goes to one of them. Beside the service no other module imports asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from callreel.errors import UsageError
from callreel.recorder import HostEvent, RecordedCall, Recorder, Settings
from callreel.recorder.figures import Figures, LaneFigures, OnItsWay, Strain

if TYPE_CHECKING:
    from callreel.dialects import Session

__all__ = ["AsyncRecorder"]

DRAIN_S = 0.25
"""How long a thread waits before it looks whether somebody still wants it to."""


class AsyncRecorder:
    """Records many calls; the verbs are those of `Recorder`, for any task of any loop."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        """Keep what `Recorder` is to be made with; it is made when this is opened."""
        if "on_event" in options:
            raise UsageError("an AsyncRecorder has events() in place of on_event")
        self._settings = settings
        self._options = options
        self._opened: Recorder | None = None
        self._closing: Future[None] | None = None
        self._lock = threading.Lock()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    async def __aenter__(self) -> Self:
        """Open it."""
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it; what is not delivered is left to the next start."""
        await self.close()

    async def open(self) -> None:
        """Open the spool and take up what is left in it; who is cancelled meanwhile leaves nothing open."""
        if self._opened is not None or self._closing is not None:
            raise UsageError("an AsyncRecorder is opened once")
        opening = asyncio.ensure_future(
            asyncio.to_thread(Recorder, self._settings, on_event=self._ring, **self._options)
        )
        try:
            opened = await asyncio.shield(opening)
        except asyncio.CancelledError:
            await _end_of(opening)
            if not opening.cancelled() and opening.exception() is None:
                await _end_of(asyncio.ensure_future(asyncio.to_thread(opening.result().close)))
            raise
        if self._closing is not None:
            await _end_of(asyncio.ensure_future(asyncio.to_thread(opened.close)))
            raise UsageError("it was closed while it was being opened")
        self._opened = opened

    async def close(self) -> None:
        """Stop; calls that go on are cut off, and what is not delivered is left to the next start.

        Who is cancelled stops waiting; the closing goes on in its thread, and who awaits `close` again waits for it.
        """
        with self._lock:
            if self._closing is None:
                self._closing = Future()
                self._closing.set_running_or_notify_cancel()  # from now on nobody can cancel it
                threading.Thread(target=self._close, args=[self._closing], name="callreel-close").start()
        await asyncio.wrap_future(self._closing)

    def _close(self, closing: Future[None]) -> None:
        try:
            if self._opened is not None:
                self._opened.close()
        except BaseException as error:
            closing.set_exception(error)
        else:
            closing.set_result(None)
        self._ring()

    # -- what never waits ------------------------------------------------------------------------------------------

    def add_call(
        self,
        call_id: str,
        *,
        started_at: datetime | None = None,
        now: float | None = None,
        transaction_id: str | None = None,
        dialect: Session | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> RecordedCall:
        """A new call, as `Recorder.add_call` gives it: none of its verbs waits for a disk or a network."""
        return self._recorder.add_call(
            call_id,
            started_at=started_at,
            now=now,
            transaction_id=transaction_id,
            dialect=dialect,
            labels=labels,
        )

    def call(self, call_id: str) -> RecordedCall:
        """The call of that id, while it goes on; UsageError when there is none."""
        return self._recorder.call(call_id)

    def problems(self) -> list[str]:
        """What was found damaged in the queue, and what was done about it, since the last time."""
        return self._recorder.problems()

    @property
    def now(self) -> float:
        """Seconds of the recorder's clock, at which verbs without `now` take place."""
        return self._recorder.now

    @property
    def is_accepting(self) -> bool:
        """Whether recordings may begin."""
        return self._recorder.is_accepting

    def obstacles(self) -> list[str]:
        """Why no recordings may begin, in words; none when they may."""
        return self._recorder.obstacles()

    def refuse(self, overload: str | None) -> None:
        """Begin no recordings because of an overload, or with None begin them again."""
        self._recorder.refuse(overload)

    def figures(self) -> Figures:
        """How things stand."""
        return self._recorder.figures()

    def takes(self) -> tuple[OnItsWay, ...]:
        """Every recording that the spool has."""
        return self._recorder.takes()

    def lanes(self) -> Mapping[str, LaneFigures]:
        """What waits in each lane of the queue."""
        return self._recorder.lanes()

    def labels_of(self, take_id: str) -> Mapping[str, str] | None:
        """The labels of a recording that the spool has."""
        return self._recorder.labels_of(take_id)

    def strain(self) -> Strain:
        """How near it is to being too much, at worst since this was asked last."""
        return self._recorder.strain()

    # -- what waits ------------------------------------------------------------------------------------------------

    def events(self) -> AsyncIterator[HostEvent]:
        """What the host is asked for and told, in order, until the recorder is closed; a cancelled wait loses none."""
        return _Events(self)

    async def unfinished(self) -> int:
        """How many recordings run or are on their way, and messages not yet told."""
        return await asyncio.to_thread(lambda: self._recorder.unfinished)

    async def drain(self, timeout_s: float | None = None) -> bool:
        """Begin nothing new, and wait until all that runs has ended and is delivered and told; whether it is."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = DRAIN_S if until is None else min(DRAIN_S, until - time.monotonic())
            if await asyncio.to_thread(self._recorder.drain, max(0.0, left_s)):
                return True
            if until is not None and time.monotonic() >= until:
                return False

    @property
    def _recorder(self) -> Recorder:
        if self._opened is None:
            raise UsageError("the recorder is not open")
        return self._opened

    # -- bell ------------------------------------------------------------------------------------------------------

    def _ring(self) -> None:
        """There are events, or there will be none any more; from any thread."""
        with self._lock:
            waiters, self._waiters = self._waiters, []
        for loop, waiter in waiters:
            with contextlib.suppress(RuntimeError):  # that loop is closed
                loop.call_soon_threadsafe(_wake, waiter)

    async def _next_event(self) -> HostEvent | None:
        """The next event; None when the recorder is closed and all have been handed out."""
        while True:
            # The order matters: who is not listening when the bell rings looks once more before waiting.
            is_over = self._closing is not None and self._closing.done()
            loop = asyncio.get_running_loop()
            listening = loop, loop.create_future()
            with self._lock:
                self._waiters.append(listening)
            try:
                event = next(self._recorder.events(), None)
                if event is not None or is_over:
                    return event
                await listening[1]
            finally:
                with self._lock, contextlib.suppress(ValueError):
                    self._waiters.remove(listening)


class _Events:
    """An iterator that a cancelled wait does not end, as it would a generator."""

    def __init__(self, recorder: AsyncRecorder) -> None:
        self._recorder = recorder

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> HostEvent:
        event = await self._recorder._next_event()
        if event is None:
            raise StopAsyncIteration
        return event


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def _end_of(work: asyncio.Future[Any]) -> None:
    """Wait until it is done, whatever happens meanwhile."""
    while not work.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([work])
