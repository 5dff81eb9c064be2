"""What dead processes left in a spool, taken up: each take goes on from where its own process had brought it.

Their locks, keys and disks may be away for now: such takes are left as they are, and looked at again.
"""

from __future__ import annotations

import logging
from collections.abc import Container
from functools import partial

from callreel.delivery import Receipt
from callreel.encryption import ReadyKeys
from callreel.recorder.books import RECOVERED, destination_of, recovered_manifest
from callreel.recorder.clerk import Clerk
from callreel.recorder.growing import UPLOAD
from callreel.recorder.jobs import Job, Jobs
from callreel.recorder.progress import ANSWERED, KEY_AGAIN_S, TERMINATOR, Progress
from callreel.spool import Left, Spool, State

__all__ = ["Recovery"]

log = logging.getLogger("callreel.recorder")


class Recovery:
    """Takes up what is left; in the clerk's thread."""

    def __init__(
        self, clerk: Clerk, spool: Spool, jobs: Jobs, progress: Progress, keys: ReadyKeys | None
    ) -> None:
        """`progress` brings to their end what is found."""
        self._clerk = clerk
        self._spool = spool
        self._jobs = jobs
        self._progress = progress
        self._keys = keys

    def take_up(self, only: Container[str] | None = None) -> None:
        """Take up what is left, or only those takes."""
        locked = set()
        for left in self._spool.recover():
            if only is None or left.take.take_id in only:
                self._clerk.do(partial(self._take_up, left))
                if left.state is State.RUNNING and left.is_locked:
                    locked.add(left.take.take_id)
        if locked:
            self._clerk.later(KEY_AGAIN_S, partial(self.take_up, locked))

    def _take_up(self, left: Left) -> None:
        take = left.take
        if not left.about:
            named = {"take_id": take.take_id}
            if not _is_empty(left):
                why = left.problems
                log.error("take %s is let alone, nobody knows what it is: %s", take.take_id, why, extra=named)
            else:
                log.error("take %s was dead before it had begun", take.take_id, extra=named)
                take.discard()
            return
        job = Job(take, left.about, None)
        self._jobs.live[take.take_id] = job
        self._progress.attempt(job, partial(self._go_on, job, left))

    def _go_on(self, job: Job, left: Left) -> None:
        self._read_journal(job, left)
        match left.state:
            case State.RUNNING if job.is_called_off:
                self._progress.fail(job, "called off")
            case State.RUNNING if left.is_locked:
                why = "; ".join(left.problems)
                log.error("take %s waits: %s", job.take.take_id, why, extra=job.names)
            case State.RUNNING if left.audio is None or left.audio.frames == 0:
                job.is_empty = _is_empty(left)
                job.manifest = {"key": left.about["key"], "end_reason": RECOVERED}
                why = "; ".join(left.problems) or "nothing of it had been recorded when its process died"
                self._progress.fail(job, why)
            case State.RUNNING:
                job.manifest = recovered_manifest(left)
                job.take.finish(job.manifest)
            case State.FINISHED:
                self._progress.make(job)
            case State.DELIVERABLE:
                self._progress.deliver(job)
            case State.DELIVERED | State.FAILED:
                self._progress.tell_end(job)
            case State.KEPT if job.is_over or _is_empty(left):
                job.take.removed()
            case State.KEPT if left.file is None and left.audio is not None:
                # Its disk had refused what was to be made of it: perhaps it does not any more.
                job.manifest = dict(left.manifest or recovered_manifest(left))
                self._progress.make(job)
            case State.KEPT:
                self._jobs.keep(job)
            case State.TOLD:
                self._jobs.drop(job)

    def _read_journal(self, job: Job, left: Left) -> None:
        """How far it had come, and what is known of it besides."""
        last = {line["kind"]: line for line in left.journal}
        job.is_told_failed = State.KEPT in last
        job.is_told = job.is_told_failed or State.TOLD in last
        job.manifest = left.manifest or {}
        job.reason = last.get(State.FAILED, {}).get("reason")
        job.destination = destination_of(left.about, self._keys)
        job.is_orphan = not job.is_told and ANSWERED not in last
        job.was_finished = left.manifest is not None and left.manifest["end_reason"] != RECOVERED
        job.terminator = last.get(TERMINATOR, {}).get("key")
        if left.receipt is not None:
            job.receipt = Receipt(**left.receipt)
        if UPLOAD in last and left.state in (State.RUNNING, State.FINISHED, State.DELIVERABLE):
            self._progress.grow_from(job, last[UPLOAD]["upload_id"])
        if "called_off" in last:
            job.is_called_off = True
            job.manifest = {"key": left.about["key"], "end_reason": last["called_off"]["reason"]}


def _is_empty(left: Left) -> bool:
    """Whether there is for certain no audio of it; what cannot be read may be readable another time."""
    if left.audio is not None or left.is_locked:
        return left.audio is not None and left.audio.frames == 0
    path = left.take.audio_path
    return not path.exists() or path.stat().st_size == 0
