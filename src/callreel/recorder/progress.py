"""What becomes of a take once it has begun: spooled, made, delivered, told of, removed.

    recording ends ─> take.finish ─> "finished" ─> make the file ─> take.deliverable ─> "deliverable" ─> queue
    queue ─> store.deliver ─> take.delivered ─> "delivered" ─> call.stored, messages, terminal event ─> take.told
                └─ error ─> queue.retry ─> ... ─> dead letter ─> take.fail ─> "failed" ─> the same, with the error
    a dead letter that is tried again ─> take.deliverable ─> ... ─> "delivered" ─> `TakeReplayed` ─> take.told

A take is told of when that lasts in the queue, not before; so every crash in between leads to the same event once more,
with the same id.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Literal

from callreel.actions import Destination
from callreel.delivery import Parcel, Receipt
from callreel.delivery.error_classes import TOLD, ErrorClass, class_of, text_of
from callreel.delivery.queue import Entry
from callreel.dialects import Aftermath, messages_after
from callreel.encryption import KeyServiceError, ReadyKeys, WrongKeyError
from callreel.errors import ActionError, CallreelError, DeliveryDeniedError, DeliveryError, UsageError
from callreel.events import Event, Perform, RecordingFinished, RecordingStarted, VendorMessage
from callreel.notify import NOTIFICATION
from callreel.recorder.books import destination_of, words_of
from callreel.recorder.clerk import INSIST_EVERY_S, Clerk
from callreel.recorder.despatch import DELIVERY, NOWHERE, Despatch, Sending, which
from callreel.recorder.figures import Milestone
from callreel.recorder.growing import growing_of
from callreel.recorder.jobs import Job, Jobs, TakeEnded, TakeReplayed
from callreel.recorder.making import make_file
from callreel.recorder.messages import Messages
from callreel.recorder.settings import Settings
from callreel.recorder.stores import StoreFor
from callreel.spool import Report, Spool, State, Take, reason_of

if TYPE_CHECKING:
    from callreel.recorder.calls import RecordedCall

__all__ = ["ANSWERED", "KEY_AGAIN_S", "TERMINATOR", "Progress"]

log = logging.getLogger("callreel.recorder")

ANSWERED = "answered"
"""The note in a take's journal that its call was told before it was delivered: "error"."""
TERMINATOR = "terminator"
"""The note in a take's journal of the key that ended it: "key"."""

WAITED_FOR_S = 10.0
"""So long whoever waits for a recording waits for a destination that does not answer; it is delivered later."""
AT_ONCE = frozenset({ErrorClass.DENIED, ErrorClass.MISSING, ErrorClass.CONFLICT})
"""Errors that another try within a few seconds does not mend."""
KEY_AGAIN_S = 60.0
"""When a take is looked at again whose key is not there."""
GROWERS = 4
"""Parts of recordings that still run, sent at a time: what has ended goes first, and has threads of its own."""


class Progress:
    """Brings takes to their end; in the clerk's thread, but for `check`. Of deliveries it is the `Errand`."""

    def __init__(
        self,
        clerk: Clerk,
        despatch: Despatch,
        messages: Messages,
        spool: Spool,
        jobs: Jobs,
        settings: Settings,
        *,
        keys: ReadyKeys | None,
        store_for: StoreFor,
        observe: Callable[[Milestone], None],
        tell_host: Callable[[Event | TakeEnded | TakeReplayed], None],
        wall_clock: Callable[[], float],
    ) -> None:
        """`keys`: to encrypt with, None for files in the clear."""
        self._clerk = clerk
        self._despatch = despatch
        self._messages = messages
        self._spool = spool
        self._jobs = jobs
        self._keys = keys
        self._store_for = store_for
        self._observe = observe
        self._tell_host = tell_host
        self._wall_clock = wall_clock
        self._give_up_s = settings.limits.give_up_s
        self._makers = ThreadPoolExecutor(settings.makers, "callreel-make")
        self._carriers = ThreadPoolExecutor(settings.carriers, "callreel-deliver")
        self._growers = ThreadPoolExecutor(GROWERS, "callreel-grow")
        despatch.errands[DELIVERY] = self

    def close(self) -> None:
        """Wait for what is being made and delivered; what waits is left to the next start."""
        for pool in (self._makers, self._carriers, self._growers):
            pool.shutdown(cancel_futures=True)

    # -- it is recorded --------------------------------------------------------------------------------------------

    def begun(self, take: Take, call: RecordedCall, event: RecordingStarted) -> None:
        """A take has begun."""
        job = Job(take, take.about, event.destination, call)
        if take.shape is not None and take.shape.sample_rate == event.sample_rate:
            self.grow_from(job)
        self._jobs.add(job)
        if take.is_safe:  # the spool was quicker
            call.is_safe(take.take_id)

    def finished(self, call: RecordedCall, event: RecordingFinished, take: Take | str) -> None:
        """The last sample of a recording has been written, or there was no take: the reason why not."""
        if isinstance(take, str):
            self._end_without_take(call, event, take)
            return
        job = self._jobs.live[take.take_id]
        job.manifest = {**event.manifest, "key": event.key}
        job.finished_at = time.monotonic()
        began_s = datetime.fromisoformat(job.about["started_at"]).timestamp()
        self._milestone("recording", job, began_s, began_s + float(event.manifest["duration"]))
        if event.terminator is not None and take.about["words"] is not None:
            self._clerk.do(partial(take.note, TERMINATOR, key=event.terminator))
        if event.deliver:
            self.attempt(job, lambda: take.finish({**job.manifest, "metadata": dict(event.metadata)}))
            return
        # It is removed when its event is out: so neither the event nor that it was called off can be lost.
        job.is_called_off = True
        take.note("called_off", reason=event.end_reason)
        self._stop_growing(job)
        self.fail(job, "called off")

    def _end_without_take(self, call: RecordedCall, event: RecordingFinished, reason: str) -> None:
        if event.deliver:
            self._clerk.do(partial(call.stored, event.recording_id, reason))
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
        self._tell_host(ended)
        self._clerk.insist(partial(self._messages.put_end, ended))

    def heard(self, job: Job, report: Report) -> None:
        """The spool has something to report of a take."""
        take = job.take
        if job.call is not None and report.kind != "degraded":
            self._clerk.do(partial(job.call.is_safe, take.take_id))
        match report.kind:
            case State.FINISHED:
                self.make(job)
            case State.DELIVERABLE if take.state is State.DELIVERABLE:
                self.deliver(job)
            case State.DELIVERED:
                self.tell_end(job)
            case State.FAILED:
                facts = dict(report.facts)
                reason = facts.pop("reason", None)
                job.reason = job.reason or reason
                if facts and "bytes" not in job.manifest:  # else it was said when its file was made
                    degraded = {**(job.manifest.get("degraded") or {}), "spool": facts}
                    job.manifest = {**job.manifest, "degraded": degraded}
                self.tell_end(job)
            case State.TOLD | "removed":
                self._jobs.drop(job)
            case State.KEPT if job.is_over:
                take.removed()
            case State.KEPT:
                self._jobs.keep(job)

    def attempt(self, job: Job, work: Callable[[], object]) -> None:
        """Do something for a take; when that cannot be done it fails, so that its event comes."""
        try:
            work()
        except Exception as error:
            log.exception("take %s cannot go on", job.take.take_id, extra=job.names)
            self.fail(job, text_of(error))

    # -- it grows --------------------------------------------------------------------------------------------------

    def grow_from(self, job: Job, upload_id: str | None = None) -> None:
        """Have it sent while it runs, where that can be; `upload_id`: it was, by a process that is dead."""
        if self._keys is None:
            job.growing = growing_of(job.take, job.destination, self._store_for, upload_id)

    def grow(self) -> None:
        """Send what has grown by a part."""
        for job in self._jobs.live.values():
            if job.growing is not None and job.take.state is State.RUNNING and job.growing.is_due():
                job.growing.is_busy = True
                self._growers.submit(self._clerk.do, job.growing.send)

    def _stop_growing(self, job: Job) -> None:
        if job.growing is not None:
            self._growers.submit(self._clerk.do, job.growing.abort)

    # -- it is made ------------------------------------------------------------------------------------------------

    def make(self, job: Job) -> None:
        """Make the file that was asked for."""
        job.make_until = time.monotonic() + self._give_up_s
        self._makers.submit(self._clerk.do, partial(self._make, job))

    def _make(self, job: Job) -> None:
        """In a maker's thread."""
        began_s = time.time()
        try:
            job.manifest = make_file(job, self._keys)
        except (WrongKeyError, KeyServiceError) as error:
            self._clerk.post(partial(self._wait_for_key, job, error))
        except OSError as error:
            self._clerk.post(partial(self._make_again, job, error))
        except Exception as error:
            log.exception("take %s cannot be made", job.take.take_id, extra=job.names)
            self._milestone("make", job, began_s, time.time(), error)
            self._clerk.post(partial(self.fail, job, text_of(error)))
        else:
            deliverable = partial(job.take.deliverable, job.manifest["file"], job.manifest)
            self._clerk.post(partial(self.attempt, job, deliverable))
            self._milestone("make", job, began_s, time.time())

    def _make_again(self, job: Job, error: OSError) -> None:
        """A disk has refused the file: as long as it is tried to write a take's end, this is tried too."""
        why = reason_of(error)
        if time.monotonic() >= job.make_until:
            self.fail(job, why)
            return
        log.warning("take %s cannot be made, it is tried again: %s", job.take.take_id, why, extra=job.names)
        self._make_later(job, INSIST_EVERY_S)

    def _wait_for_key(self, job: Job, error: CallreelError) -> None:
        """It stays as it is until its key is there, now or in another process: without it nobody can read it."""
        log.error("take %s waits: %s", job.take.take_id, error, extra=job.names)
        self._make_later(job, KEY_AGAIN_S)

    def _make_later(self, job: Job, wait_s: float) -> None:
        self._clerk.later(wait_s, partial(self._makers.submit, self._clerk.do, partial(self._make, job)))

    # -- it is delivered -------------------------------------------------------------------------------------------

    def check(self, event: Perform, call: RecordedCall) -> None:
        """See whether a recording could be delivered, before it begins; any thread."""
        with suppress(RuntimeError):  # it is closed, and so is the call
            self._carriers.submit(self._clerk.do, partial(self._check, event, call))

    def _check(self, event: Perform, call: RecordedCall) -> None:
        """In a carrier's thread."""
        bucket, key = str(event.parameters["Bucket"]), str(event.parameters["Key"])
        error = None
        try:
            store, place = self._store_for(Destination(kind="s3", bucket=bucket), key)
            store.check(place)
        except Exception as refused:
            told = TOLD[class_of(refused)]
            named = {"call_id": event.call_id}
            log.warning("a recording of %s is refused: %s", event.call_id, text_of(refused), extra=named)
            error = ActionError(told.stored, field=told.check_field)
        if not call.is_over:
            call.performed(event.action_id, error=error)

    def deliver(self, job: Job) -> None:
        """Its file is made: put it into the queue."""
        try:
            lane = self._store_for(job.destination, job.manifest["key"])[0].lane
        except Exception as error:
            if not isinstance(error, DeliveryError):
                log.exception("nobody knows where take %s is to go", job.take.take_id, extra=job.names)
            lane = NOWHERE
        self._clerk.insist(partial(self._put, job, lane))

    def _put(self, job: Job, lane: str) -> None:
        entry_id = f"{DELIVERY}:{job.take.take_id}"
        error = self._despatch.given_up(entry_id)
        if error is not None:  # by a process that died before the take was told
            self.fail(job, error)
            return
        self._despatch.put(
            entry_id,
            lane=lane,
            group=job.about["call_id"],
            ordered=False,
            payload={"take_id": job.take.take_id, "key": job.manifest["key"]},
            lasting=False,  # the take itself says that it is to be delivered
        )

    def sending(self, entry: Entry) -> Sending | None:
        """Deliver its file, unless that has been done."""
        take_id = which(entry)
        job = self._jobs.find(take_id)
        state = None if job is None else job.take.state
        if state is State.FAILED:  # tried again before it has been told of: that comes first
            self._despatch.again(entry)
            return None
        if job is not None and state is State.KEPT:  # a dead letter that is tried again
            job.manifest = self._spool.manifest(take_id)
            job.take.deliverable(job.manifest["file"], job.manifest)
            self._jobs.add(job)
        elif job is None or state is not State.DELIVERABLE:  # removed, or delivered by a process that died
            self._despatch.done(entry)
            return None
        return Sending(self._carriers, partial(self._carry, job), partial(self._delivered, job, entry))

    def _carry(self, job: Job) -> Receipt:
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

    def _delivered(self, job: Job, entry: Entry, receipt: Receipt) -> None:
        job.receipt = receipt
        self.attempt(job, partial(job.take.delivered, receipt._asdict()))
        self._despatch.done(entry)

    def failed(self, entry: Entry, error: BaseException, *, is_given_up: bool) -> None:
        """A delivery has failed: tell whoever waits, unless that can still mend soon."""
        job = self._jobs.live.get(which(entry))
        if job is None:
            return
        kind = class_of(error)
        if is_given_up:
            self.fail(job, f"{TOLD[kind].stored}: {text_of(error)}")
            return
        recording_id = job.about["recording_id"]
        if job.call is None or not job.call.awaits(recording_id):
            return
        if kind in AT_ONCE or time.monotonic() - job.finished_at > WAITED_FOR_S:
            call, job.call = job.call, None
            self._say_stored(job, call, TOLD[kind].stored)
            self._clerk.do(partial(job.take.note, ANSWERED, error=TOLD[kind].stored))

    def _say_stored(self, job: Job, call: RecordedCall, error: str | None) -> None:
        """Have the call's session say what became of a recording."""
        with self._messages.about(job.take.take_id):
            self._clerk.do(partial(call.stored, job.about["recording_id"], error))

    def _say_afterwards(self, job: Job, error: str | None) -> None:
        """Say it in place of a session that has died."""
        about, words = job.about, words_of(job.about, self._keys)
        if words is None:
            return
        why = None if error is None else ActionError(error, field="system" if job.is_empty else None)
        at = datetime.fromtimestamp(self._wall_clock(), UTC)
        aftermath = Aftermath(job.key, at, job.was_finished, job.terminator, why)
        with self._messages.about(job.take.take_id):
            for body in messages_after(about["dialect"], words, aftermath):
                self._messages.say(
                    VendorMessage(about["call_id"], about["dialect"], NOTIFICATION, body), None
                )

    # -- it ends ---------------------------------------------------------------------------------------------------

    def fail(self, job: Job, reason: str) -> None:
        """It cannot go on."""
        self._stop_growing(job)
        job.reason = reason
        if job.take.state is State.KEPT:  # it had failed before
            self._jobs.keep(job)
            return
        try:
            job.take.fail(reason)
        except UsageError as error:
            log.warning("take %s stays as it is: %s", job.take.take_id, error, extra=job.names)

    def tell_end(self, job: Job) -> None:
        """It lasts that a take is delivered, or has failed: say so to everyone."""
        error = None
        if job.receipt is None and not job.is_called_off:
            error = job.reason or "the recording could not be stored"
        call, job.call = job.call, None
        is_orphan, job.is_orphan = job.is_orphan, False
        # What is said comes into the inbox before what follows.
        if call is not None and not job.is_called_off:
            self._say_stored(job, call, error)
        elif is_orphan and not job.is_called_off:
            self._clerk.do(partial(self._say_afterwards, job, error))
        told: TakeEnded | TakeReplayed | None = None
        if not job.is_told:
            job.is_told, job.is_told_failed = True, error is not None
            told = job.ended(error)
        elif job.is_told_failed and job.receipt is not None:
            job.is_told_failed = False
            told = job.replayed(job.receipt.location)
        if told is not None:
            self._tell_host(told)
        end = partial(self._end, job, told)
        is_certain = told is None or not self._messages.has_events
        self._clerk.post(end if is_certain else partial(self._clerk.insist, end))

    def _end(self, job: Job, told: TakeEnded | TakeReplayed | None) -> None:
        if told is not None:
            try:
                self._messages.put_end(told)
            except OSError:
                if job.receipt is not None and self._spool.retention.delivered_s == 0:
                    job.take.shed()  # on a full disk what is delivered gives its room to the event
                raise
        if job.take.state is State.FAILED and job.receipt is not None:
            job.take.delivered(job.receipt._asdict())  # a disk had refused to note it down
        elif job.take.state in (State.DELIVERED, State.FAILED):
            job.take.told()

    def _milestone(
        self,
        what: Literal["recording", "make"],
        job: Job,
        began_s: float,
        ended_s: float,
        error: BaseException | None = None,
    ) -> None:
        self._observe(
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
