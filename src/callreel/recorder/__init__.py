"""`Recorder`: calls, spool, delivery and notification as one thing for a host.

    recorder = Recorder(Settings(Path("/var/spool/callreel"), destination="s3://bucket/prefix"))
    call = recorder.add_call("call-7f3", dialect=Chime(...))
    call.add_leg("LEG-A")
    call.receive_rtp("LEG-A", packet)          # from any thread; never waits for a disk or a network
    for event in recorder.events(): ...        # what the host is asked for, and each recording's terminal event

What dead processes left in the spool is taken up when a recorder is opened on it. docs/recorder.md tells the rest.
"""

from __future__ import annotations

import heapq
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from threading import Condition, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from callreel.actions import Destination
from callreel.call import Call
from callreel.delivery import Store
from callreel.encryption import ReadyKeys
from callreel.errors import ActionError, UsageError
from callreel.events import Event, RecordingStarted, VendorMessage
from callreel.notify import Notifier
from callreel.recorder.backlog import Backlog, EventsLost, HostEvent
from callreel.recorder.calls import RecordedCall
from callreel.recorder.figures import Figures, LaneFigures, Milestone, OnItsWay, Pace, Strain
from callreel.recorder.jobs import TakeEnded, TakeReplayed
from callreel.recorder.office import Office, Wake
from callreel.recorder.settings import Settings
from callreel.recorder.stores import Stores
from callreel.spool import Spool
from callreel.spool_rules import check_no_secrets
from callreel.spool_sealed import SealedFiles

if TYPE_CHECKING:
    from callreel.dialects import Session

__all__ = ["EventsLost", "HostEvent", "RecordedCall", "Recorder", "Settings", "TakeEnded", "TakeReplayed"]

log = logging.getLogger("callreel.recorder")

DRAINING = ActionError("no recordings are begun any more", field="system")
OVERLOADED = ActionError("too much is recorded already: try again later", field="system")

STEP_S = 0.14
"""How often a call is moved on, at the latest. With a packet of 20 ms, which is not there before it is whole, and 5 ms
in which the spool gathers, 35 ms are left for threads that wait for their turn: at most 200 ms of audio are not on the
disk's side when a process dies."""

FEW_CALLS, STEP_OF_FEW_S = 200, 0.1
"""With so few calls they are moved on more often: it costs little, and leaves threads twice as long to wait."""

TOGETHER_S = 0.01
"""Calls that are due within so short a time are moved on together."""


class Recorder:
    """Records many calls; thread-safe."""

    def __init__(
        self,
        settings: Settings,
        *,
        store_for: Callable[[Destination | None, str], tuple[Store, str]] | None = None,
        notifier_for: Callable[[VendorMessage], Notifier | None] | None = None,
        secrets_again: Callable[[VendorMessage, Sequence[str]], Mapping[str, Any]] | None = None,
        events: Notifier | None = None,
        on_event: Callable[[], None] | None = None,
        observe: Callable[[Milestone], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Open the spool of `settings`, take up what is left in it, and begin to work.

        A `store_for` of the host's own gives the store, and the key there, of any destination and key. `notifier_for`
        says how a vendor's message reaches its customer; what has none is among the `events` of this object. A message
        that an earlier process has not told lacks its secrets: `secrets_again` gives them, or others as good, by where
        they stood in its body (JSON pointers). `events` is told of every terminal event, also after a restart. Both are
        by default those of the settings. `on_event` is called, from any thread, when there is something in `events()`;
        it may only set a flag. `observe` is called, by any thread, when something that took its time is over, and must
        not wait. `clock`: seconds, of any epoch, that never step back. `wall_clock`: seconds since 1970, UTC, that may.
        """
        self._clock = clock
        self._wall_clock = wall_clock
        self._on_event = on_event
        stores = None
        if store_for is None:
            stores = Stores(settings)
            store_for = stores.place
        notifiers = settings.notify.notifiers()
        keys = settings.keys()
        wake = Wake()
        with ExitStack() as undo:  # what is open already, where something cannot be opened
            self._keys = None if keys is None else ReadyKeys(keys)
            if self._keys is not None:
                undo.callback(self._keys.close)
            self._spool = Spool(
                settings.spool,
                fsync=settings.fsync,
                interval_s=settings.fsync_interval_s,
                limits=settings.limits,
                space=settings.space,
                retention=settings.retention,
                files=None if self._keys is None else SealedFiles(self._keys),
                on_report=wake,
                now=wall_clock,
            )
            undo.callback(self._spool.close)
            self._host = Backlog(self._spool.folder)
            self._office = wake.office = Office(
                self._spool,
                settings,
                keys=self._keys,
                store_for=store_for,
                notifier_for=notifier_for or (lambda message: notifiers.get(message.dialect)),
                secrets_again=secrets_again or (lambda message, pointers: {}),
                events=events or notifiers.get("events"),
                observe=observe or _unobserved,
                tell_host=self._tell,
                last_words=self._last_words,
                wall_clock=wall_clock,
            )
            undo.pop_all()
        self._calls: dict[str, RecordedCall] = {}
        self._sessions: dict[str, Session] = {}
        """Of these calls, where they have one."""
        self._due: dict[float, list[RecordedCall]] = {}
        self._moments: list[float] = []
        """A heap of the keys of `_due`."""
        self._changed = Condition()
        self._is_draining = self._is_closed = False
        self._overload: str | None = None
        self._refusal: ActionError | None = None
        self._limit_bytes = settings.limits.spool_bytes
        self._pace = Pace()
        self._packets: Counter[str] = Counter()
        """Of calls that are over, by fate."""
        self._mover = Thread(target=self._move, name="callreel-move", daemon=True)
        self._office.start()
        self._mover.start()
        if stores is not None:
            stores.prepare()

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it; what is not delivered is left to the next start."""
        self.close()

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
        """A new call, which has begun now or at `started_at`; see `callreel.Call`.

        `labels`: what the host wants to find again in the manifest of each of its recordings, also after a restart.
        """
        check_no_secrets(labels or {}, "labels")
        moment = self._clock() if now is None else now
        call = Call(
            call_id,
            started_at=started_at or datetime.fromtimestamp(self._wall_clock(), UTC),
            now=moment,
            transaction_id=transaction_id,
            dialect=dialect,
            as_pcm=True,
        )
        recorded = RecordedCall(
            call, spool=self._spool, office=self._office, clock=self._clock, labels=labels or {}
        )
        with self._changed:
            if self._is_closed:
                raise UsageError("the recorder is closed")
            if call_id in self._calls:
                raise UsageError(f"there is a call {call_id}")
            recorded.refusal = self._refusal
            self._calls[call_id] = recorded
            if dialect is not None:
                self._sessions[call_id] = dialect
            self._put_due(moment + self._step_s, [recorded])
            self._changed.notify()
        return recorded

    def call(self, call_id: str) -> RecordedCall:
        """The call of that id, while it goes on; UsageError when there is none."""
        with self._changed:
            try:
                return self._calls[call_id]
            except KeyError:
                raise UsageError(f"there is no call {call_id}") from None

    def events(self, timeout_s: float = 0.0) -> Iterator[HostEvent]:
        """What the host is asked for and told, in order; waits at most so long for the first.

        A host that does not read for long finds `EventsLost` in place of the oldest, but every terminal event.
        """
        event = self._host.get(timeout_s)
        while event is not None:
            yield event
            event = self._host.get()

    @property
    def now(self) -> float:
        """Seconds of the recorder's clock, which verbs without `now` take place at."""
        return self._clock()

    def problems(self) -> list[str]:
        """What was found damaged in the queue, and what was done about it, since the last time."""
        return self._office.problems()

    @property
    def is_accepting(self) -> bool:
        """Whether recordings may begin."""
        return not self.obstacles()

    def obstacles(self) -> list[str]:
        """Why no recordings may begin, in words; none when they may."""
        found = {
            "it is closed": self._is_closed,
            "it drains": self._is_draining,
            f"overloaded: {self._overload}": self._overload is not None,
            "too little room is left where the spool is": not self._spool.is_accepting,
        }
        return [words for words, is_so in found.items() if is_so]

    def refuse(self, overload: str | None) -> None:
        """Begin no recordings from now on because of an overload, in words, or with None begin them again.

        What runs goes on; whoever asks for more is told so in the vendor's words.
        """
        with self._changed:
            self._overload = overload
            self._spread_refusal()

    def figures(self) -> Figures:
        """How things stand; any thread."""
        with self._changed:
            calls, packets = list(self._calls.values()), Counter(self._packets)
        for call in calls:
            packets.update(call.packets())
        return Figures(
            calls=sum(not call.is_over for call in calls),
            packets=packets,
            lateness=self._pace.lateness,
            waiting_bytes=self._spool.waiting_bytes,
            waiting_limit_bytes=self._limit_bytes,
            takes=self.takes(),
            lanes=self.lanes(),
        )

    def takes(self) -> tuple[OnItsWay, ...]:
        """Every recording that the spool has: those that run, are on their way, or could not be delivered."""
        return self._office.takes()

    def lanes(self) -> Mapping[str, LaneFigures]:
        """What waits in each lane of the queue."""
        return self._office.lanes()

    def labels_of(self, take_id: str) -> Mapping[str, str] | None:
        """The labels of such a recording; None when the spool has it no more."""
        return self._office.labels_of(take_id)

    def strain(self) -> Strain:
        """How near it is to being too much, at worst since this was asked last: for one who decides to `refuse`."""
        return Strain(self._pace.take_worst_s(), self._spool.waiting_bytes / self._limit_bytes)

    @property
    def unfinished(self) -> int:
        """How many recordings run or are on their way, and messages not yet told."""
        return len(self._office)

    def drain(self, timeout_s: float | None = None) -> bool:
        """Begin nothing new, and wait until all that runs has ended and is delivered and told; whether it is.

        Calls go on, but none begins to record. Whoever does not want to wait for calls ends them.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            self._is_draining = True
            self._spread_refusal()
        while self._office:
            if until is not None and time.monotonic() >= until:
                return False
            time.sleep(0.01)
        return True

    def close(self) -> None:
        """Stop; calls that go on are cut off, and what is not delivered is left to the next start."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            calls = list(self._calls.values())
            self._changed.notify()
        self._mover.join()
        for call in calls:
            if not call.is_over:
                self._cut_off(call)
        self._office.close()
        self._spool.close()
        if self._keys is not None:
            self._keys.close()

    def _tell(self, event: Event | TakeEnded | TakeReplayed) -> None:
        self._host.put(event)
        if self._on_event is not None:
            self._on_event()

    def _last_words(self, event: RecordingStarted, call: Call) -> Mapping[str, Any] | None:
        session = self._sessions.get(event.call_id)
        return None if session is None else session.last_words(event, call.view(now=self._clock()))

    def _cut_off(self, call: RecordedCall) -> None:
        try:
            call.end()
        except UsageError:
            pass  # its host ends it in this very moment
        except Exception:
            # What it has recorded so far stays in the spool, and is found by the next start.
            log.exception("call %s cannot be ended", call.call_id, extra={"call_id": call.call_id})

    def _spread_refusal(self) -> None:
        self._refusal = DRAINING if self._is_draining else None if self._overload is None else OVERLOADED
        for call in self._calls.values():
            call.refusal = self._refusal

    def _move(self) -> None:
        """The thread that moves calls on."""
        while not self._is_closed:
            self._move_on(*self._wait_for_due())

    def _put_due(self, at: float, calls: list[RecordedCall]) -> None:
        """Have them moved on at a moment, with all that are due then."""
        at = math.floor(at / TOGETHER_S) * TOGETHER_S
        together = self._due.get(at)
        if together is None:
            self._due[at] = calls
            heapq.heappush(self._moments, at)
        else:
            together += calls

    @property
    def _step_s(self) -> float:
        """How soon a call that has been moved on is moved on again."""
        return STEP_OF_FEW_S if len(self._calls) <= FEW_CALLS else STEP_S

    def _wait_for_due(self) -> tuple[float, float, list[RecordedCall]]:
        """The time, and the calls that are due, with the moment when they were; none when it is closed."""
        with self._changed:
            while not self._is_closed:
                now = self._clock()
                if self._moments and self._moments[0] <= now:
                    at = heapq.heappop(self._moments)
                    return now, at, self._due.pop(at)
                self._changed.wait(min(STEP_S, self._moments[0] - now) if self._moments else None)
        return 0.0, 0.0, []

    def _move_on(self, now: float, at: float, due: list[RecordedCall]) -> None:
        self._pace.add(now - at, len(due))
        going_on: list[RecordedCall] = []
        over: list[RecordedCall] = []
        for call in due:
            (going_on if self._step(call, now) else over).append(call)
        with self._changed:
            for call in over:
                if self._calls.get(call.call_id) is call:
                    del self._calls[call.call_id]
                    self._sessions.pop(call.call_id, None)
                    self._packets.update(call.packets())
            if going_on:
                self._put_due(now + self._step_s, going_on)

    def _step(self, call: RecordedCall, now: float) -> bool:
        try:
            return call.step(now) is not None
        except Exception:
            # One call's trouble is not the others'; what it has recorded so far is delivered.
            log.exception(
                "call %s cannot be moved on, it ends", call.call_id, extra={"call_id": call.call_id}
            )
            call.forsake()
            self._cut_off(call)
            return False


def _unobserved(milestone: Milestone) -> None:
    """Nobody wants to know."""
