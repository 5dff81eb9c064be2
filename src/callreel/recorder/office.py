"""The office of a recorder: where calls hand in what they have, and who sees to it.

    Clerk       the one thread that keeps the books: it alone touches the queue and the jobs, and waits for disks
    Despatch    the queue, and what is on its way
    Messages    what customers, and whoever wants terminal events, are told
    Progress    what becomes of each take until its end
    Recovery    what dead processes left

Files are made, delivered and told of in pools of threads. No verb here waits for a disk or a network, but for `close`.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from callreel.encryption import ReadyKeys
from callreel.events import Event, Perform, RecordingFinished, RecordingStarted, VendorMessage
from callreel.notify import Notifier
from callreel.recorder.books import about_of
from callreel.recorder.clerk import Clerk
from callreel.recorder.despatch import DELIVERY, Despatch
from callreel.recorder.figures import LaneFigures, Milestone, OnItsWay
from callreel.recorder.jobs import Jobs, TakeEnded, TakeReplayed
from callreel.recorder.messages import Messages
from callreel.recorder.progress import Progress
from callreel.recorder.recovery import Recovery
from callreel.recorder.settings import Settings
from callreel.recorder.stores import StoreFor
from callreel.spool import Spool, State, Take

if TYPE_CHECKING:
    from callreel.call import Call
    from callreel.recorder.calls import RecordedCall

__all__ = ["Office", "Wake"]

log = logging.getLogger("callreel.recorder")

RETIRE_EVERY_S = 5.0
"""How often it is looked what of the spool need not be kept any longer, and what has grown."""


class Wake:
    """What the spool calls when it has something to report; the office comes to it later."""

    office: Office | None = None

    def __call__(self) -> None:
        """Let the office look."""
        if self.office is not None:
            self.office.wake()


class Office:
    """Keeps the books of a recorder; see above."""

    def __init__(
        self,
        spool: Spool,
        settings: Settings,
        *,
        keys: ReadyKeys | None,
        store_for: StoreFor,
        notifier_for: Callable[[VendorMessage], Notifier | None],
        secrets_again: Callable[[VendorMessage, Sequence[str]], Mapping[str, Any]],
        events: Notifier | None,
        observe: Callable[[Milestone], None],
        tell_host: Callable[[Event | TakeEnded | TakeReplayed], None],
        last_words: Callable[[RecordingStarted, Call], Mapping[str, Any] | None],
        wall_clock: Callable[[], float],
    ) -> None:
        """Open the queue in the spool's folder; nothing is done before `start`.

        `keys`: to encrypt with, None for files in the clear. `events` is told every terminal event, durably;
        `tell_host` hears of everything in this process. `last_words`: those of a call's session. `secrets_again`: see
        `Messages`. `wall_clock`: seconds since 1970, which may be set back.
        """
        self.tell_host = tell_host
        self._spool = spool
        self._keys = keys
        self._last_words = last_words
        self._wall_clock = wall_clock
        self._jobs = Jobs()
        self._retire_at = 0.0
        observed = partial(_observed, observe)
        self._clerk = clerk = Clerk(then=self._go_round, next_s=self._next_s)
        self._despatch = despatch = Despatch(
            spool.folder / "queue",
            clerk,
            lane_limit=settings.per_destination,
            wall_clock=wall_clock,
            observe=observed,
        )
        self._messages = messages = Messages(
            clerk,
            despatch,
            tellers=settings.tellers,
            notifier_for=notifier_for,
            secrets_again=secrets_again,
            events=events,
            tell_host=tell_host,
            wall_clock=wall_clock,
        )
        self._progress = Progress(
            clerk,
            despatch,
            messages,
            spool,
            self._jobs,
            settings,
            keys=keys,
            store_for=store_for,
            observe=observed,
            tell_host=tell_host,
            wall_clock=wall_clock,
        )
        self._recovery = Recovery(clerk, spool, self._jobs, self._progress, keys)

    def start(self) -> None:
        """Begin to work."""
        # Before anything is sent: the queue has entries of takes that are not known yet.
        self._clerk.post(self._recovery.take_up)
        self._clerk.start()

    def wake(self) -> None:
        """Something has become of a take."""
        self._clerk.wake()

    def problems(self) -> list[str]:
        """What was found damaged in the queue, and what was done about it, since the last time."""
        return self._despatch.problems()

    def close(self) -> None:
        """Finish what is on its way, and leave the rest to the next start."""
        self._clerk.stop()
        self._progress.close()
        self._messages.close()
        for job in self._jobs.live.values():
            if job.call is not None:
                self._clerk.do(job.call.let_go)
        undone = self._clerk.finish()
        if undone:
            log.error("%d things could not be written to the queue of %s", undone, self._spool.folder)
        self._despatch.close()

    def __len__(self) -> int:
        """How many takes are not yet where they belong, messages not yet told, and things not yet looked at."""
        jobs = [job.take for job in list(self._jobs.live.values())]
        # A take that waits for its delivery has an entry in the queue, which is none of the messages.
        in_both = sum(
            take.state is State.DELIVERABLE and f"{DELIVERY}:{take.take_id}" in self._despatch
            for take in jobs
        )
        return len(jobs) + len(self._despatch) - in_both + len(self._clerk)

    def takes(self) -> tuple[OnItsWay, ...]:
        """Every take that the spool has."""
        return tuple(
            OnItsWay(
                job.take.take_id,
                job.about["call_id"],
                job.key,
                job.take.state,
                job.take.since_s,
                job.about["labels"],
            )
            for job in list(self._jobs.live.values())
        )

    def labels_of(self, take_id: str) -> Mapping[str, str] | None:
        """The host's labels of a take that the spool has."""
        job = self._jobs.live.get(take_id)
        return None if job is None else job.about["labels"]

    def lanes(self) -> Mapping[str, LaneFigures]:
        """What waits in each lane of the queue."""
        return self._despatch.lanes()

    # -- from the calls, any thread --------------------------------------------------------------------------------

    def about(
        self, event: RecordingStarted, call: Call, labels: Mapping[str, str]
    ) -> tuple[str, Mapping[str, Any]]:
        """A new take's id, and what is to be known of it after a crash."""
        words = None
        try:
            words = self._last_words(event, call)
        except Exception:
            named = {"call_id": event.call_id}
            log.exception("nobody will be told of %s if this process dies", event.key, extra=named)
        return uuid.uuid4().hex, about_of(event, call, labels, self._keys, words)

    def begun(self, take: Take, call: RecordedCall, event: RecordingStarted) -> None:
        """A take has begun."""
        self._clerk.post(partial(self._progress.begun, take, call, event))

    def finished(self, call: RecordedCall, event: RecordingFinished, take: Take | str) -> None:
        """The last sample of a recording has been written."""
        self._clerk.post(partial(self._progress.finished, call, event, take))

    def say(self, event: VendorMessage, call: RecordedCall) -> None:
        """Tell a customer something."""
        self._messages.say(event, call)

    def check(self, event: Perform, call: RecordedCall) -> None:
        """See whether a recording could be delivered, before it begins."""
        self._progress.check(event, call)

    # -- the clerk's thread ----------------------------------------------------------------------------------------

    def _next_s(self) -> float:
        return min(self._despatch.next_s(), RETIRE_EVERY_S)

    def _go_round(self) -> None:
        """Hear what the spool has to report, and send what is due."""
        for report in self._spool.reports():
            job = self._jobs.find(report.take_id)
            if job is not None:
                self._clerk.do(partial(self._progress.heard, job, report))
                if report.kind == State.TOLD:
                    self._retire_at = 0.0
        if time.monotonic() >= self._retire_at:
            self._retire_at = time.monotonic() + RETIRE_EVERY_S
            self._clerk.do(lambda: self._spool.retire(self._wall_clock()))
            self._clerk.do(self._progress.grow)
        self._despatch.send()


def _observed(observe: Callable[[Milestone], None], milestone: Milestone) -> None:
    try:
        observe(milestone)
    except Exception:
        log.exception("who observes the recorder fails")
