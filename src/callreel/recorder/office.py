"""What becomes of a take once it has begun: spooled, made, delivered, told of, removed.

    recording ends ─> take.finish ─> "finished" ─> make the file ─> take.deliverable ─> "deliverable" ─> queue
    queue ─> store.deliver ─> take.delivered ─> "delivered" ─> call.stored, messages, terminal event ─> take.told
                └─ error ─> queue.retry ─> ... ─> dead letter ─> take.fail ─> "failed" ─> the same, with the error
    a dead letter that is tried again ─> take.deliverable ─> ... ─> "delivered" ─> `TakeReplayed` ─> take.told

One thread keeps the books: it alone touches the queue and the jobs, and waits for disks. Others, of three pools, make
files, deliver and tell. Whoever has something for it puts it into its inbox and goes on. What a disk refuses that must
not be lost is tried again until it goes (`_insist`). A take is told of when that lasts in the queue, not before; so
every crash in between leads to the same event once more, with the same id.
"""

from __future__ import annotations

import heapq
import logging
import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import count
from queue import Empty, SimpleQueue
from threading import Event as Flag
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from callreel.actions import Destination
from callreel.delivery import GrowingStore, Parcel, Receipt, Store
from callreel.delivery.error_classes import TOLD, ErrorClass, class_of, text_of
from callreel.delivery.queue import Entry, Queue
from callreel.encryption import KeyServiceError, ReadyKeys, SealedReader, WrongKeyError
from callreel.errors import (
    ActionError,
    CallreelError,
    DeliveryDeniedError,
    DeliveryError,
    UsageError,
)
from callreel.events import Event, Perform, RecordingFinished, RecordingStarted, VendorMessage
from callreel.finishing import finish
from callreel.formats import FORMATS
from callreel.notify import (
    INVOCATION,
    NOTIFICATION,
    Answer,
    Notification,
    Notifier,
    from_payload,
    limits_for,
    secrets_of,
    to_payload,
)
from callreel.recorder.books import about_of, destination_of, marks_of, recovered_manifest
from callreel.recorder.figures import LaneFigures, Milestone, OnItsWay
from callreel.recorder.growing import UPLOAD, Growing
from callreel.recorder.settings import Settings
from callreel.spool import Left, Report, Spool, State, Take, reason_of
from callreel.spool_sealed import opened

if TYPE_CHECKING:
    from callreel.call import Call
    from callreel.recorder.calls import RecordedCall

__all__ = ["Office", "TakeEnded", "TakeReplayed", "Wake"]

log = logging.getLogger("callreel.recorder")

NOWHERE = "nowhere"
"""The lane of what has no destination that is offered, and of messages whose notifier cannot be found."""

DELIVERY, MESSAGE, TERMINAL, REPLAY = "deliver", "say", "end", "replay"
"""What an entry of the queue is for: the first part of its id."""

WAITED_FOR_S = 10.0
"""So long whoever waits for a recording waits for a destination that does not answer; it is delivered later."""
AT_ONCE = frozenset({ErrorClass.DENIED, ErrorClass.MISSING, ErrorClass.CONFLICT})
"""Errors that another try within a few seconds does not mend."""
KEY_AGAIN_S = 60.0
"""When a take is looked at again whose key is not there."""
GROWERS = 4
"""Parts of recordings that still run, sent at a time: what has ended goes first, and has threads of its own."""
INSIST_EVERY_S = 0.5
"""When that is tried again which a disk has refused and which must not be lost."""
RETIRE_EVERY_S = 5.0
"""How often it is looked what of the spool need not be kept any longer."""


class TakeEnded(NamedTuple):
    """The terminal event of a recording: exactly one for each that began, whatever dies on the way."""

    take_id: str
    """Globally unique, and the same after a restart."""
    call_id: str
    recording_id: str
    key: str
    end_reason: str
    """A value of `callreel.actions.EndReason`, or "recovered" for what a dead process left."""
    location: str | None
    """Where it is, as a URL; None when it was not delivered."""
    error: str | None
    """Why not; None also for what was called off and is not to be delivered."""
    manifest: Mapping[str, Any]


class TakeReplayed(NamedTuple):
    """A recording whose terminal event said that it failed is at its destination after all."""

    take_id: str
    call_id: str
    recording_id: str
    key: str
    location: str
    manifest: Mapping[str, Any]


class Wake:
    """What the spool calls when it has something to report; the office comes to it later."""

    office: Office | None = None

    def __call__(self) -> None:
        """Let the office look."""
        if self.office is not None:
            self.office.wake()


@dataclass(slots=True)
class _Job:
    """A take on its way."""

    take: Take
    about: Mapping[str, Any]
    destination: Destination | None
    """With its secret, which is nowhere else."""
    call: RecordedCall | None = None
    """Who wants to be told that it is stored; None when nobody does (any more)."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    finished_at: float = 0.0
    receipt: Receipt | None = None
    reason: str | None = None
    """Of its failure."""
    growing: Growing | None = None
    """Where it goes part by part while it runs."""
    is_called_off: bool = False
    """Nobody is to have it."""
    is_told: bool = False
    """Its terminal event is out, or waits to be written into the queue."""
    is_told_failed: bool = False
    """That event says that it failed."""
    is_empty: bool = False
    """There is nothing in it that anybody could have."""
    make_until: float = 0.0
    """How long a disk that refuses the finished file is tried."""

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to be replayed, although it has failed."""
        return self.is_called_off or self.is_empty


class _NobodyError(DeliveryDeniedError):
    """Another process of the host's knows whom to tell; one that only recovers must not take it for told."""


class _Message(NamedTuple):
    """What only this process knows of a message in the queue."""

    call: RecordedCall
    secrets: Mapping[str, Any]
    """They are in no file."""


class Office:
    """Keeps the books of a recorder; see above."""

    def __init__(
        self,
        spool: Spool,
        settings: Settings,
        *,
        keys: ReadyKeys | None,
        store_for: Callable[[Destination | None, str], tuple[Store, str]],
        notifier_for: Callable[[VendorMessage], Notifier | None],
        secrets_again: Callable[[VendorMessage, Sequence[str]], Mapping[str, Any]],
        events: Notifier | None,
        observe: Callable[[Milestone], None],
        tell_host: Callable[[Event | TakeEnded | TakeReplayed], None],
        wall_clock: Callable[[], float],
    ) -> None:
        """Open the queue in the spool's folder; nothing is done before `start`.

        `keys`: to encrypt with, None for files in the clear.
        `store_for` gives the store and the key there of a destination and a key; any thread may ask it. `events` is
        told every terminal event, durably; `secrets_again` gives the secrets of a message that a dead process has left;
        `tell_host` hears of everything in this process. `wall_clock`: seconds since
        1970, which may be set back.
        """
        self.tell_host = tell_host
        self._spool = spool
        self._keys = keys
        self._store_for = store_for
        self._notifier_for = notifier_for
        self._secrets_again = secrets_again
        self._events = events
        self._wall_clock = wall_clock
        self._observe = observe
        self._inbox: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._queue = Queue(
            spool.folder / "queue",
            now_s=wall_clock(),
            random=random.random,
            lane_limit=settings.per_destination,
        )
        self._jobs: dict[str, _Job] = {}
        self._kept: dict[str, _Job] = {}
        """Those that failed and were told of: they wait for somebody who replays them."""
        self._messages: dict[str, _Message] = {}
        """By id, those of this process."""
        self._undone: deque[Callable[[], object]] = deque()
        """What the disk has refused, and what came after it."""
        self._sent: set[str] = set()
        """Entries that are on their way."""
        self._makers = ThreadPoolExecutor(settings.makers, "callreel-make")
        self._carriers = ThreadPoolExecutor(settings.carriers, "callreel-deliver")
        self._tellers = ThreadPoolExecutor(settings.tellers, "callreel-tell")
        self._growers = ThreadPoolExecutor(GROWERS, "callreel-grow")
        self._waiting = 0
        """What has been put into the inbox and is not done."""
        self._counting = Lock()
        self._postponed: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()
        self._give_up_s = settings.limits.give_up_s
        self._retire_at = 0.0
        self._thread = Thread(target=self._work, name="callreel-office", daemon=True)
        self.is_idle = Flag()
        """Set while nothing is to be done but what waits for its time."""

    def start(self) -> None:
        """Begin to work."""
        self._post(
            self._recover
        )  # before anything is sent: the queue has entries of takes that are not known yet
        self._thread.start()

    def wake(self) -> None:
        """Something has become of a take."""
        self._inbox.put(_nothing)

    def problems(self) -> list[str]:
        """What was found damaged in the queue, and what was done about it, since the last time."""
        return [f"{problem.path.name} {problem.text}" for problem in self._queue.problems()]

    def close(self) -> None:
        """Finish what is on its way, and leave the rest to the next start."""
        self._inbox.put(None)
        self._thread.join()
        for pool in (self._makers, self._carriers, self._tellers, self._growers):
            pool.shutdown(cancel_futures=True)
        for job in self._jobs.values():
            if job.call is not None:
                self._do(job.call.let_go)
        self._do_the_rest()
        self._insist_on()
        if self._undone:
            log.error(
                "%d things could not be written to the queue of %s", len(self._undone), self._spool.folder
            )
        self._queue.close()

    def __len__(self) -> int:
        """How many takes are not yet where they belong, messages not yet told, and things not yet looked at."""
        jobs = [job.take for job in list(self._jobs.values())]
        # A take that waits for its delivery has an entry in the queue, which is none of the messages.
        in_both = sum(
            take.state is State.DELIVERABLE and f"{DELIVERY}:{take.take_id}" in self._queue for take in jobs
        )
        return len(jobs) + len(self._queue) - in_both + self._waiting + len(self._undone)

    def takes(self) -> tuple[OnItsWay, ...]:
        """Every take that the spool has."""
        return tuple(
            OnItsWay(
                job.take.take_id,
                job.about["call_id"],
                str(job.manifest.get("key", job.about["key"])),
                job.take.state,
                job.take.since_s,
                job.about["labels"],
            )
            for job in list(self._jobs.values())
        )

    def labels_of(self, take_id: str) -> Mapping[str, str] | None:
        """The host's labels of a take that the spool has."""
        job = self._jobs.get(take_id)
        return None if job is None else job.about["labels"]

    def lanes(self) -> Mapping[str, LaneFigures]:
        """What waits in each lane of the queue."""
        return {lane: LaneFigures(*found) for lane, found in self._queue.lanes().items()}

    # -- from the calls, any thread --------------------------------------------------------------------------------

    def about(
        self, event: RecordingStarted, call: Call, labels: Mapping[str, str]
    ) -> tuple[str, Mapping[str, Any]]:
        """A new take's id, and what is to be known of it after a crash."""
        return uuid.uuid4().hex, about_of(event, call, labels, self._keys)

    def begun(self, take: Take, call: RecordedCall, event: RecordingStarted) -> None:
        """A take has begun."""
        self._post(partial(self._begun, take, call, event))

    def finished(self, call: RecordedCall, event: RecordingFinished, take: Take | str) -> None:
        """The last sample of a recording has been written."""
        self._post(partial(self._finished, call, event, take))

    def say(self, event: VendorMessage, call: RecordedCall) -> None:
        """Tell a customer something."""
        try:
            notifier = self._notifier_for(event)
        except Exception:
            # The host's own function: what it is asked about is kept, and it is asked again.
            log.exception("nobody knows whom a message of call %s is for", event.call_id)
            lane = NOWHERE
        else:
            if notifier is None:
                self.tell_host(event)
                return
            lane = notifier.lane
        kind = INVOCATION if event.kind == INVOCATION else NOTIFICATION
        told = Notification(
            uuid.uuid4().hex,
            event.call_id,
            event.dialect,
            kind,
            event.body,
            datetime.fromtimestamp(self._wall_clock(), UTC),
        )
        self._post(partial(self._put_message, told, lane, call))

    def check(self, event: Perform, call: RecordedCall) -> None:
        """See whether a recording could be delivered, before it begins."""
        with suppress(RuntimeError):  # it is closed, and so is the call
            self._carriers.submit(self._do, partial(self._check, event, call))

    # -- the thread ------------------------------------------------------------------------------------------------

    def _post(self, work: Callable[[], object]) -> None:
        with self._counting:
            self._waiting += 1
        self._inbox.put(work)

    def _work(self) -> None:
        while True:
            work = self._next()
            if work is None:
                return
            self._do(work)
            self._do_postponed()
            self._hear_spool()
            self._send()
            if work is not _nothing:
                self._done()

    def _next(self) -> Callable[[], object] | None:
        now_s = self._wall_clock()
        wait_s = min(self._queue.next_due(now_s) - now_s, RETIRE_EVERY_S)
        if self._postponed:
            wait_s = min(wait_s, self._postponed[0][0] - time.monotonic())
        wait_s = max(0.0, wait_s)
        if self._inbox.empty() and not self._sent:
            self.is_idle.set()
        try:
            work = self._inbox.get(timeout=wait_s)
        except Empty:
            return _nothing
        self.is_idle.clear()
        return work

    def _later(self, wait_s: float, work: Callable[[], object]) -> None:
        """Do something in a while."""
        heapq.heappush(self._postponed, (time.monotonic() + wait_s, next(self._numbers), work))

    def _do_postponed(self) -> None:
        while self._postponed and self._postponed[0][0] <= time.monotonic():
            self._do(heapq.heappop(self._postponed)[2])

    def _do(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception:
            log.exception("the office goes on, but something was not done")

    def _insist(self, work: Callable[[], object]) -> None:
        """Do what must not be lost: now, or as soon as no disk refuses it; all such work in its order."""
        self._undone.append(work)
        if len(self._undone) == 1:
            self._insist_on()

    def _insist_on(self) -> None:
        while self._undone:
            try:
                self._undone[0]()
            except OSError as error:
                log.error("the queue cannot be written, it is tried again: %s", error.strerror)
                self._later(INSIST_EVERY_S, self._insist_on)
                return
            except Exception:
                log.exception("the office goes on, but something was not done")
            self._undone.popleft()

    def _for(self, job: _Job, work: Callable[[], object]) -> None:
        """Do something for a take; when that cannot be done it fails, so that its event comes."""
        try:
            work()
        except Exception as error:
            log.exception("take %s cannot go on", job.take.take_id)
            self._fail(job, text_of(error))

    def _done(self) -> None:
        with self._counting:
            self._waiting -= 1

    def _hear_spool(self) -> None:
        for report in self._spool.reports():
            job = self._jobs.get(report.take_id) or self._kept.get(report.take_id)
            if job is not None:
                self._do(partial(self._heard, job, report))
        if time.monotonic() >= self._retire_at:
            self._retire_at = time.monotonic() + RETIRE_EVERY_S
            self._do(lambda: self._spool.retire(self._wall_clock()))
            self._do(self._grow)

    def _heard(self, job: _Job, report: Report) -> None:
        take = job.take
        if job.call is not None and report.kind != "degraded":
            self._do(partial(job.call.is_safe, take.take_id))
        match report.kind:
            case State.FINISHED:
                self._submit_making(job)
            case State.DELIVERABLE if take.state is State.DELIVERABLE:
                self._put_delivery(job)
            case State.DELIVERED:
                self._tell_end(job)
            case State.FAILED:
                facts = dict(report.facts)
                reason = facts.pop("reason", None)
                job.reason = job.reason or reason
                if facts and "bytes" not in job.manifest:  # else it was said when its file was made
                    degraded = {**(job.manifest.get("degraded") or {}), "spool": facts}
                    job.manifest = {**job.manifest, "degraded": degraded}
                self._tell_end(job)
            case State.TOLD:
                self._jobs.pop(take.take_id, None)
                self._retire_at = 0.0
            case State.KEPT if job.is_over:
                take.removed()
            case State.KEPT:
                self._keep(job)
            case "removed":
                self._jobs.pop(take.take_id, None)

    def _grow(self) -> None:
        for job in self._jobs.values():
            if job.growing is not None and job.take.state is State.RUNNING and job.growing.is_due():
                job.growing.is_busy = True
                self._growers.submit(self._do, job.growing.send)

    def _growing(
        self, take: Take, destination: Destination | None, upload_id: str | None = None
    ) -> Growing | None:
        """How a take is sent while it runs, or was by a process that is dead; None where that cannot be.

        The file must be what the spool has, and what is stored beside it must be known from the beginning.
        """
        about = take.about
        metadata = about["metadata"]
        if metadata is None or about["format"] != "wav" or self._keys is not None:
            return None
        try:
            store, key = self._store_for(destination, about["key"])
        except Exception:
            return None  # told when it is delivered
        if not isinstance(store, GrowingStore):
            return None
        overwrite = about["destination"]["overwrite"]
        if upload_id is None:
            begin = partial(
                store.begin, key, media_type=FORMATS["wav"].media_type, metadata=metadata, overwrite=overwrite
            )
        else:
            begin = partial(store.resume, key, upload_id, metadata=metadata, overwrite=overwrite)
        return Growing(take, store, key, begin, is_left=upload_id is not None)

    def _check(self, event: Perform, call: RecordedCall) -> None:
        """In a carrier's thread."""
        bucket, key = str(event.parameters["Bucket"]), str(event.parameters["Key"])
        error = None
        try:
            store, place = self._store_for(Destination(kind="s3", bucket=bucket), key)
            store.check(place)
        except Exception as refused:
            told = TOLD[class_of(refused)]
            log.warning(
                "a recording of %s is refused: %s",
                event.call_id,
                text_of(refused),
                extra={"call_id": event.call_id},
            )
            error = ActionError(told.stored, field=told.check_field)
        if not call.is_over:
            call.performed(event.action_id, error=error)

    # -- calls and takes ------------------------------------------------------------------------------------------

    def _begun(self, take: Take, call: RecordedCall, event: RecordingStarted) -> None:
        growing = None
        if take.shape is not None and take.shape.sample_rate == event.sample_rate:
            growing = self._growing(take, event.destination)
        self._jobs[take.take_id] = _Job(take, take.about, event.destination, call, growing=growing)
        if take.is_safe:  # the spool was quicker
            call.is_safe(take.take_id)

    def _finished(self, call: RecordedCall, event: RecordingFinished, take: Take | str) -> None:
        if isinstance(take, str):
            self._end_without_take(call, event, take)
            return
        job = self._jobs[take.take_id]
        job.manifest = {**event.manifest, "key": event.key}
        job.metadata, job.finished_at = event.metadata, time.monotonic()
        began_s = datetime.fromisoformat(job.about["started_at"]).timestamp()
        self._milestone("recording", job, began_s, began_s + float(event.manifest["duration"]))
        if event.deliver:
            self._for(job, lambda: take.finish({**job.manifest, "metadata": dict(event.metadata)}))
            return
        # It is removed when its event is out: so neither the event nor that it was called off can be lost.
        job.is_called_off = True
        take.note("called_off", reason=event.end_reason)
        self._stop_growing(job)
        self._fail(job, "called off")

    def _end_without_take(self, call: RecordedCall, event: RecordingFinished, reason: str) -> None:
        if event.deliver:
            self._do(partial(call.stored, event.recording_id, reason))
        manifest = {**event.manifest, "key": event.key}
        if call.labels:
            manifest["labels"] = dict(call.labels)
        ended = TakeEnded(
            uuid.uuid4().hex,
            event.call_id,
            event.recording_id,
            event.key,
            event.end_reason,
            None,
            reason,
            manifest,
        )
        self.tell_host(ended)
        self._insist(partial(self._put_end, ended))

    def _submit_making(self, job: _Job) -> None:
        job.make_until = time.monotonic() + self._give_up_s
        self._makers.submit(self._do, partial(self._make, job))

    def _make(self, job: _Job) -> None:
        """Make the file that was asked for; in a maker's thread."""
        take, about, began_s = job.take, job.about, time.time()
        manifest = dict(job.manifest)
        metadata = manifest.pop("metadata", {})
        missing = take.degradation()
        if missing is not None:
            manifest["degraded"] = {**(manifest.get("degraded") or {}), "spool": missing}
        name = f"recording.{FORMATS[about['format']].extension}"
        try:
            with opened(take.audio_path, self._keys) as (source, data_key):
                made = finish(
                    source,
                    take.folder / f"{name}.part",
                    format=about["format"],
                    sample_rate=about["sample_rate"],
                    tags=about["tags"],
                    marks=marks_of(manifest),
                    data_key=data_key,
                )
        except (WrongKeyError, KeyServiceError) as error:
            self._post(partial(self._wait_for_key, job, error))
            return
        except OSError as error:
            self._post(partial(self._make_again, job, error))
            return
        except Exception as error:
            log.exception("take %s cannot be made", take.take_id, extra=_named(job))
            self._milestone("make", job, began_s, time.time(), error)
            self._post(partial(self._fail, job, text_of(error)))
            return
        manifest |= {"bytes": made.size_bytes, "sha256": made.sha256, "frames": made.frames}
        if data_key is not None:
            manifest["encrypted_for"] = data_key.key_id
            if isinstance(source, SealedReader) and source.lost_bytes:
                damage = {"unreadable_bytes": source.lost_bytes}
                manifest["degraded"] = {**(manifest.get("degraded") or {}), "encryption": damage}
            if self._keys is not None:
                self._keys.forget(data_key)
        manifest["destination"] = about["destination"]
        job.manifest = {**manifest, "metadata": metadata, "media_type": made.media_type, "file": name}
        self._post(partial(self._for, job, partial(take.deliverable, name, job.manifest)))
        self._milestone("make", job, began_s, time.time())

    def _make_again(self, job: _Job, error: OSError) -> None:
        """A disk has refused the file: as long as it is tried to write a take's end, this is tried too."""
        if time.monotonic() >= job.make_until:
            self._fail(job, reason_of(error))
            return
        log.warning(
            "take %s cannot be made, it is tried again: %s",
            job.take.take_id,
            reason_of(error),
            extra=_named(job),
        )
        self._later(INSIST_EVERY_S, partial(self._makers.submit, self._do, partial(self._make, job)))

    def _milestone(
        self,
        what: Literal["recording", "make"],
        job: _Job,
        began_s: float,
        ended_s: float,
        error: BaseException | None = None,
    ) -> None:
        self._tell_observer(
            Milestone(
                what,
                job.take.take_id,
                job.about["call_id"],
                began_s,
                ended_s,
                error_class=None if error is None else ErrorClass.OTHER,
                error=None if error is None else text_of(error),
                is_given_up=error is not None,
            )
        )

    def _tell_observer(self, milestone: Milestone) -> None:
        try:
            self._observe(milestone)
        except Exception:
            log.exception("who observes the recorder fails")

    def _wait_for_key(self, job: _Job, error: CallreelError) -> None:
        """It stays as it is until its key is there, now or in another process: without it nobody can read it."""
        log.error("take %s waits: %s", job.take.take_id, error, extra=_named(job))
        self._later(KEY_AGAIN_S, partial(self._makers.submit, self._do, partial(self._make, job)))

    def _put_delivery(self, job: _Job) -> None:
        try:
            lane = self._store_for(job.destination, job.manifest["key"])[0].lane
        except Exception as error:
            if not isinstance(error, DeliveryError):
                log.exception("nobody knows where take %s is to go", job.take.take_id)
            lane = NOWHERE
        self._insist(partial(self._put_delivery_in, job, lane))

    def _put_delivery_in(self, job: _Job, lane: str) -> None:
        entry_id = f"{DELIVERY}:{job.take.take_id}"
        if self._queue.is_dead(entry_id):
            # Given up by a process that died before the take was told.
            self._fail(job, self._queue.last_error(entry_id) or "it was given up")
            return
        self._queue.put(
            entry_id,
            lane=lane,
            group=job.about["call_id"],
            ordered=False,
            payload={"take_id": job.take.take_id, "key": job.manifest["key"]},
            now_s=self._wall_clock(),
            lasting=False,  # the take itself says that it is to be delivered
        )

    def _stop_growing(self, job: _Job) -> None:
        if job.growing is not None:
            self._growers.submit(self._do, job.growing.abort)

    def _fail(self, job: _Job, reason: str) -> None:
        """It cannot go on."""
        self._stop_growing(job)
        job.reason = reason
        if job.take.state is State.KEPT:  # it had failed before
            self._keep(job)
            return
        try:
            job.take.fail(reason)
        except UsageError as error:
            log.warning("take %s stays as it is: %s", job.take.take_id, error)

    def _keep(self, job: _Job) -> None:
        """It has failed, and lies in the spool until somebody replays it; there may be very many of these."""
        job.manifest = {}
        self._kept[job.take.take_id] = job
        self._jobs.pop(job.take.take_id, None)

    def _tell_end(self, job: _Job) -> None:
        """It lasts that a take is delivered, or has failed: say so to everyone."""
        error = None
        if job.receipt is None and not job.is_called_off:
            error = job.reason or "the recording could not be stored"
        call, job.call = job.call, None
        if call is not None and not job.is_called_off:
            # What its session says comes into the inbox before what follows.
            self._do(partial(call.stored, job.about["recording_id"], error))
        told: TakeEnded | TakeReplayed | None = None
        if not job.is_told:
            job.is_told, job.is_told_failed = True, error is not None
            told = self._terminal(job, error)
        elif job.is_told_failed and job.receipt is not None:
            job.is_told_failed = False
            told = self._replayed(job, job.receipt.location)
        if told is not None:
            self.tell_host(told)
        end = partial(self._end, job, told)
        self._post(end if told is None or self._events is None else partial(self._insist, end))

    def _end(self, job: _Job, told: TakeEnded | TakeReplayed | None) -> None:
        if told is not None:
            try:
                self._put_end(told)
            except OSError:
                if job.receipt is not None and self._spool.retention.delivered_s == 0:
                    job.take.shed()  # on a full disk what is delivered gives its room to the event
                raise
        if job.take.state is State.FAILED and job.receipt is not None:
            job.take.delivered(job.receipt._asdict())  # a disk had refused to note it down
        elif job.take.state in (State.DELIVERED, State.FAILED):
            job.take.told()

    def _terminal(self, job: _Job, error: str | None) -> TakeEnded:
        about = job.about
        return TakeEnded(
            job.take.take_id,
            about["call_id"],
            about["recording_id"],
            str(job.manifest.get("key", about["key"])),
            str(job.manifest.get("end_reason", "failed")),
            None if job.receipt is None else job.receipt.location,
            error,
            _labelled(job),
        )

    def _replayed(self, job: _Job, location: str) -> TakeReplayed:
        about = job.about
        key = str(job.manifest.get("key", about["key"]))
        return TakeReplayed(
            job.take.take_id, about["call_id"], about["recording_id"], key, location, _labelled(job)
        )

    def _put_end(self, ended: TakeEnded | TakeReplayed) -> None:
        if self._events is None:
            return
        what, name = (TERMINAL, "take_ended") if isinstance(ended, TakeEnded) else (REPLAY, "take_replayed")
        entry_id = f"{what}:{ended.take_id}"
        body = {"event": name, **ended._asdict()}
        now_s = self._wall_clock()
        told = Notification(
            entry_id, ended.call_id, "callreel", NOTIFICATION, body, datetime.fromtimestamp(now_s, UTC)
        )
        self._queue.put(
            entry_id,
            lane=self._events.lane,
            # Apart from what the call's customer is told: one who does not listen does not keep it from the host.
            group=f"{TERMINAL}:{ended.call_id}",
            payload=to_payload(told),
            now_s=now_s,
        )

    # -- messages --------------------------------------------------------------------------------------------------

    def _put_message(self, told: Notification, lane: str, call: RecordedCall) -> None:
        self._messages[told.id] = _Message(call, secrets_of(told))
        payload = to_payload(told)
        self._insist(
            lambda: self._queue.put(
                f"{MESSAGE}:{told.id}",
                lane=lane,
                group=told.call_id,
                payload=payload,
                now_s=self._wall_clock(),
            )
        )

    # -- what is sent ----------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Send all that may go now."""
        try:
            while (entry := self._queue.lease(self._wall_clock())) is not None:
                self._sent.add(entry.id)
                self._send_one(entry)
        except Exception:
            log.exception("the queue gives nothing")

    def _send_one(self, entry: Entry) -> None:
        what, _, which = entry.id.partition(":")
        try:
            if what == DELIVERY:
                self._carry(entry, which)
            else:
                self._submit(self._tellers, entry, partial(self._tell, what, entry), self._told)
        except Exception as error:
            log.exception("%s cannot be sent", entry.id)
            self._sent.discard(entry.id)
            self._queue.retry(entry.id, error, self._wall_clock())

    def _finish_entry(self, entry: Entry) -> None:
        """It is done; where a disk refuses that, it is said again.

        Should it come back with the power: what is delivered is known by its take, and an event has its id.
        """
        try:
            self._queue.done(entry.id, lasting=False)
        except OSError as error:
            log.error("%s is done, but not in the queue: %s", entry.id, error.strerror)
            self._later(INSIST_EVERY_S, partial(self._do, partial(self._finish_entry, entry)))

    def _submit(
        self,
        pool: ThreadPoolExecutor,
        entry: Entry,
        work: Callable[[], Any],
        then: Callable[[Entry, Any], None],
    ) -> None:
        began: list[float] = []

        def timed() -> Any:
            began.append(time.time())
            return work()

        def done(future: Future[Any]) -> None:
            if not future.cancelled():
                self._post(partial(self._settle, entry, future, then, began[0], time.time()))

        pool.submit(timed).add_done_callback(done)

    def _settle(
        self,
        entry: Entry,
        future: Future[Any],
        then: Callable[[Entry, Any], None],
        began_s: float,
        ended_s: float,
    ) -> None:
        self._sent.discard(entry.id)
        error = future.exception()
        what, _, which = entry.id.partition(":")
        milestone = Milestone(
            "deliver" if what == DELIVERY else "tell", which, _call_id(entry), began_s, ended_s, entry.lane
        )
        if error is None:
            self._tell_observer(milestone)
            then(entry, future.result())
            return
        named = {"call_id": _call_id(entry), "lane": entry.lane}
        if not isinstance(error, DeliveryError):
            log.error("%s went wrong", entry.id, exc_info=error, extra=named)
        due_s = self._queue.retry(entry.id, error, self._wall_clock())
        log.warning("%s failed, %s: %s", entry.id, class_of(error), text_of(error), extra=named)
        self._tell_observer(
            milestone._replace(error_class=class_of(error), error=text_of(error), is_given_up=due_s is None)
        )
        if what == DELIVERY:
            self._not_delivered(which, error, is_given_up=due_s is None)
        elif what == MESSAGE and not isinstance(error, _NobodyError):
            self._not_told(entry, is_given_up=due_s is None)

    def _carry(self, entry: Entry, take_id: str) -> None:
        job = self._jobs.get(take_id) or self._kept.get(take_id)
        state = None if job is None else job.take.state
        if (
            job is not None and state is State.FAILED
        ):  # tried again before it has been told of: that comes first
            self._later(INSIST_EVERY_S, partial(self._send_one, entry))
            return
        if job is not None and state is State.KEPT:  # a dead letter that is tried again
            job.manifest = self._spool.manifest(take_id)
            job.take.deliverable(job.manifest["file"], job.manifest)
            self._jobs[take_id] = job
            self._kept.pop(take_id, None)
        elif (
            job is None or state is not State.DELIVERABLE
        ):  # removed by hand, or delivered by a process that died
            self._sent.discard(entry.id)
            self._finish_entry(entry)
            return
        self._submit(self._carriers, entry, partial(self._deliver, job), partial(self._delivered, job))

    def _deliver(self, job: _Job) -> Receipt:
        """In a carrier's thread."""
        manifest, wanted = job.manifest, job.about["destination"]
        if wanted["has_secret"] and (job.destination is None or job.destination.credentials is None):
            job.destination = destination_of(job.about, self._keys)
        if wanted["has_secret"] and (job.destination is None or job.destination.credentials is None):
            raise DeliveryDeniedError(
                f"the credentials for {manifest['key']} were of a request and are gone: give them again",
                key=manifest["key"],
                retryable=True,
            )
        store, key = self._store_for(job.destination, manifest["key"])
        parcel = Parcel(
            path=job.take.folder / manifest["file"],
            key=key,
            size_bytes=manifest["bytes"],
            sha256=manifest["sha256"],
            media_type=manifest["media_type"],
            metadata=manifest["metadata"],
            overwrite=wanted["overwrite"],
        )
        return store.deliver(parcel) if job.growing is None else job.growing.deliver(parcel)

    def _delivered(self, job: _Job, entry: Entry, receipt: Receipt) -> None:
        job.receipt = receipt
        self._for(job, partial(job.take.delivered, receipt._asdict()))
        self._finish_entry(entry)

    def _not_delivered(self, take_id: str, error: BaseException, *, is_given_up: bool) -> None:
        job = self._jobs.get(take_id)
        if job is None:
            return
        kind = class_of(error)
        if is_given_up:
            self._fail(job, f"{TOLD[kind].stored}: {text_of(error)}")
            return
        recording_id = job.about["recording_id"]
        if job.call is None or not job.call.awaits(recording_id):
            return
        if kind in AT_ONCE or time.monotonic() - job.finished_at > WAITED_FOR_S:
            call, job.call = job.call, None
            self._do(partial(call.stored, recording_id, TOLD[kind].stored))

    def _tell(self, what: str, entry: Entry) -> Answer | None:
        """In a teller's thread."""
        ours = self._messages.get(str(entry.payload["id"]))
        gone: Sequence[str] = entry.payload["secrets"] if ours is None else ()
        secrets = {} if ours is None else ours.secrets
        if gone and what == MESSAGE:
            bare = from_payload({**entry.payload, "secrets": []})
            message = VendorMessage(bare.call_id, bare.dialect, bare.kind, bare.body)
            secrets = self._secrets_again(message, gone)
        told = from_payload(entry.payload, secrets)
        notifier = self._events
        if what == MESSAGE:
            notifier = self._notifier_for(VendorMessage(told.call_id, told.dialect, told.kind, told.body))
        if notifier is None:
            whom = (
                f"{told.dialect} messages, [notify.{told.dialect}]"
                if what == MESSAGE
                else "terminal events, [notify.events]"
            )
            raise _NobodyError(f"it is not set who is told of {whom}", key=entry.id, retryable=True)
        return notifier.tell(told)

    def _told(self, entry: Entry, answer: Answer | None) -> None:
        self._finish_entry(entry)
        ours = self._messages.pop(str(entry.payload["id"]), None)
        if ours is not None and answer is not None:
            ours.call.answer(answer.document)

    def _not_told(self, entry: Entry, *, is_given_up: bool) -> None:
        told = from_payload({**entry.payload, "secrets": []})
        if limits_for(told).is_queued and not is_given_up:
            return
        # A call waits for an answer that cannot come any more.
        self._finish_entry(entry)
        ours = self._messages.pop(told.id, None)
        if told.kind == INVOCATION and ours is not None:
            self.tell_host(Perform(told.call_id, "", "unanswered", "Hangup", {}))

    # -- what dead processes left ------------------------------------------------------------------------------------

    def _recover(self, only: Container[str] | None = None) -> None:
        """Take up what is left, or only those takes."""
        locked = set()
        for left in self._spool.recover():
            if only is None or left.take.take_id in only:
                self._do(partial(self._take_up, left))
                if left.state is State.RUNNING and left.is_locked:
                    locked.add(left.take.take_id)
        if locked:
            self._later(KEY_AGAIN_S, partial(self._recover, locked))

    def _take_up(self, left: Left) -> None:
        take, about = left.take, left.about
        if not about:
            if not _is_empty(left):
                log.error("take %s is let alone, nobody knows what it is: %s", take.take_id, left.problems)
            else:
                log.error("take %s was dead before it had begun", take.take_id)
                take.discard()
            return
        job = self._jobs[take.take_id] = _Job(take, about, None)
        self._for(job, partial(self._go_on, job, left))

    def _go_on(self, job: _Job, left: Left) -> None:
        take, about = left.take, left.about
        last = {line["kind"]: line for line in left.journal}
        job.is_told_failed = State.KEPT in last
        job.is_told = job.is_told_failed or State.TOLD in last
        job.manifest = left.manifest or {}
        job.reason = last.get(State.FAILED, {}).get("reason")
        job.destination = destination_of(about, self._keys)
        if left.receipt is not None:
            job.receipt = Receipt(**left.receipt)
        upload_ids = [line["upload_id"] for line in left.journal if line["kind"] == UPLOAD]
        if upload_ids and left.state in (State.RUNNING, State.FINISHED, State.DELIVERABLE):
            job.growing = self._growing(take, job.destination, upload_ids[-1])
        if "called_off" in last:
            job.is_called_off = True
            job.manifest = {"key": about["key"], "end_reason": last["called_off"]["reason"]}
        match left.state:
            case State.RUNNING if job.is_called_off:
                self._fail(job, "called off")
            case State.RUNNING if left.is_locked:
                log.error("take %s waits: %s", take.take_id, "; ".join(left.problems), extra=_named(job))
            case State.RUNNING:
                if left.audio is None or left.audio.frames == 0:
                    job.is_empty = _is_empty(left)
                    job.manifest = {"key": about["key"], "end_reason": "recovered"}
                    why = "; ".join(left.problems) or "nothing of it had been recorded when its process died"
                    self._fail(job, why)
                    return
                job.manifest = recovered_manifest(left)
                take.finish(job.manifest)
            case State.FINISHED:
                self._submit_making(job)
            case State.DELIVERABLE:
                self._put_delivery(job)
            case State.DELIVERED | State.FAILED:
                self._tell_end(job)
            case State.KEPT if job.is_over or _is_empty(left):
                take.removed()
            case State.KEPT if left.file is None and left.audio is not None:
                # Its disk had refused what was to be made of it: perhaps it does not any more.
                job.manifest = dict(left.manifest or recovered_manifest(left))
                self._submit_making(job)
            case State.KEPT:
                self._keep(job)
            case State.TOLD:
                del self._jobs[take.take_id]

    def _do_the_rest(self) -> None:
        """Do what came in while the threads were ending."""
        while True:
            try:
                work = self._inbox.get_nowait()
            except Empty:
                return
            if work is not None:
                self._do(work)


def _labelled(job: _Job) -> Mapping[str, Any]:
    labels = job.about["labels"]
    return {**job.manifest, "labels": labels} if labels else job.manifest


def _is_empty(left: Left) -> bool:
    """Whether there is for certain no audio of it; what cannot be read may be readable another time."""
    if left.audio is not None or left.is_locked:
        return left.audio is not None and left.audio.frames == 0
    path = left.take.audio_path
    return not path.exists() or path.stat().st_size == 0


def _named(job: _Job) -> dict[str, str]:
    """What a log says of a take beside its text."""
    return {"call_id": job.about["call_id"], "take_id": job.take.take_id}


def _call_id(entry: Entry) -> str:
    """Of which call an entry of the queue is: terminal events have a group of their own."""
    return entry.group.removeprefix(f"{TERMINAL}:")


def _nothing() -> None:
    pass
