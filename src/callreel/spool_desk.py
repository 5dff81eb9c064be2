"""Takes between those who write them and the disk: what waits in memory, and the rounds that bring it to the files.

A `Desk` has no thread. `callreel.spool` calls `write_round` in one thread and `keep_round` in another; tests call them
as they like. Callers of a `Take` never wait for the disk: they leave what they have under a lock that nobody holds
while he reads, writes or syncs a file.

    caller ──write, note──> open group ──flush──> sealed ──write_round──> files ──keep_round──> files that last
                              │                                             ^ an error: all of it again, a little later
                              └─ too much waits: dropped, counted, marked (`Lost`), told (`Report`)

Order on disk, for every take and round: journal, audio, the header that counts it, marks behind the audio. A file is
therefore valid after each of these steps, and no hole is in a file whose journal does not tell of it.
"""

from __future__ import annotations

import base64
import heapq
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from errno import EMFILE, ENFILE
from pathlib import Path
from threading import Condition, Lock
from typing import Any, Literal, NamedTuple

from callreel.errors import UsageError
from callreel.kernels import wav
from callreel.spool_files import (
    PART_SUFFIX,
    AudioFiles,
    Journal,
    OpenFiles,
    open_files_share,
    publish_json,
    remove_tree,
    sync_all,
    write_part,
    write_together,
)
from callreel.spool_rules import (
    NEXT,
    STALLED,
    Admission,
    Lost,
    Shape,
    State,
    check_no_secrets,
    declared,
    journal_line,
    reason_of,
    runs,
    shape_of,
)

__all__ = ["PASSES", "TAKES_FOLDER", "Desk", "Limits", "Policy", "Report", "Take"]

Policy = Literal["none", "interval", "always"]

TAKES_FOLDER = "takes"
"""Below a spool: a folder for each take."""
ABOUT, AUDIO, JOURNAL, MANIFEST = "about.json", "audio.wav", "journal.jsonl", "manifest.json"
OURS = frozenset(state.value for state in State) | {"header", "lost", "doubt"}
"""Kinds of lines that only the spool writes."""
LINES_MAX_BYTES = 256 << 10
"""Of one take's journal that may wait."""
TOGETHER = 64
"""So many takes are written in one go: then others may have Python's lock, and audio does not wait twice in memory."""
MARKS_LOST = "marks left out: " + STALLED
PASSES = 3.0
"""How much more is written than is heard: audio comes at once, its last 100 ms (of a calm network 40) again with each
step of 140 ms, and all of it when it is final; once in a while a second comes again, because packets have moved."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What may wait, how often and how long is tried."""

    take_s: float = 3.0
    """How long a disk may stand still before audio of a take is dropped."""
    spool_bytes: int = 512 << 20
    """How much may wait of all takes together."""
    open_files: int | None = None
    """None for a quarter of what the process may have, so that the host has the rest."""
    retry_s: float = 0.25
    """When a file that could not be written is tried again."""
    give_up_s: float = 30.0
    """How long it is tried to bring a take to its end."""


class Report(NamedTuple):
    """What became of a take."""

    take_id: str
    kind: str
    """"degraded" and "failed", or, once that lasts, a `State` or "removed"."""
    facts: Mapping[str, Any]
    """The figures of what is lost; the "reason" of a failure."""


class _Step(NamedTuple):
    """What is to last, one after the other, when all that waits has been written."""

    state: State | None
    """None removes the take."""
    line: bytes = b""
    manifest: Mapping[str, Any] | None = None
    file: str | None = None
    """The finished file, there with PART_SUFFIX behind its name."""


class _Waiting(NamedTuple):
    """What is on its way into a file."""

    audio: list[tuple[int, bytes]]
    size: int
    header: bytes | None


class Take:
    """A take of the spool. Its methods never wait for the disk; UsageError tells what the caller did wrong.

    `write`, `flush` and `finish` belong to one thread at a time, the others may come from any.
    """

    __slots__ = (
        "_admission",
        "_audio",
        "_audio_bytes",
        "_audio_name",
        "_desk",
        "_dirty",
        "_dropped_notes",
        "_error",
        "_give_up_at",
        "_header",
        "_is_gone",
        "_is_kept",
        "_is_made",
        "_is_queued",
        "_is_removed",
        "_journal",
        "_lines",
        "_lines_bytes",
        "_lost_changed",
        "_open",
        "_open_bytes",
        "_open_header",
        "_size",
        "_steps",
        "_waiting_bytes",
        "about",
        "audio_path",
        "doubts",
        "folder",
        "is_safe",
        "lost",
        "shape",
        "since_s",
        "state",
        "take_id",
    )

    def __init__(self, desk: Desk, take_id: str, about: Mapping[str, Any]) -> None:
        """Begin a take; `Spool.begin` does."""
        self.take_id = take_id
        self.about = about
        self.folder = desk.takes / take_id
        self.audio_path = self.folder / AUDIO
        self._audio_name = str(self.audio_path)  # quicker to look up
        self.state = State.RUNNING
        """How far it has been brought; `Report` says when that lasts."""
        self.since_s = desk.now()
        """When that was."""
        self.is_safe = False
        """Whether a process that dies now leaves a take behind: "running" has been reported."""
        self.shape: Shape | None = None
        self.lost = Lost()
        self.doubts: list[str] = []
        """Why it is not certain that what was written has reached the disk."""
        self._desk = desk
        self._open: list[tuple[int, bytes]] = []
        self._open_bytes = 0
        self._open_header: bytes | None = None
        self._audio: list[tuple[int, bytes]] = []
        self._audio_bytes = 0
        self._header: bytes | None = None
        self._lines: list[bytes] = []
        self._lines_bytes = 0
        self._dropped_notes = 0
        self._lost_changed = False
        self._waiting_bytes = 0
        self._admission = Admission(0)
        self._journal = Journal(self.folder / JOURNAL)
        self._steps: deque[_Step] = deque()
        self._give_up_at = 0.0
        self._error: str | None = None
        self._size = 0
        self._is_made = self._is_queued = self._is_kept = self._is_removed = self._is_gone = False
        self._dirty = False

    @classmethod
    def left_behind(
        cls,
        desk: Desk,
        take_id: str,
        about: Mapping[str, Any],
        *,
        state: State,
        since_s: float,
        journal_bytes: int,
        shape: Shape | None,
        lost: Lost,
        doubts: list[str],
    ) -> Take:
        """Take up what a dead process left; no audio can be added to it."""
        take = cls(desk, take_id, about)
        take.state, take.since_s, take.lost, take.doubts = state, since_s, lost, doubts
        take.shape = shape
        take._journal = Journal(take.folder / JOURNAL, journal_bytes)
        take._is_made = take.is_safe = True
        take._admission.refusing = True
        take._admission.limit_bytes = -1
        return take

    def __repr__(self) -> str:
        """Name and state, nothing of what it holds."""
        return f"<Take {self.take_id} {self.state}>"

    @property
    def waiting_bytes(self) -> int:
        """How much of its audio waits for the disk."""
        return self._waiting_bytes

    def degradation(self) -> dict[str, Any] | None:
        """What the disk has cost, for the manifest and for events; None if nothing is missing."""
        with self._desk.lock:
            return self._degradation()

    def _degradation(self) -> dict[str, Any] | None:
        if not (self.lost.ranges or self.doubts or self._dropped_notes):
            return None
        figures: dict[str, Any] = {"lost_bytes": 0, "lost_ms": 0, "lost": []}
        if self.shape is not None:
            figures = self.lost.figures(self.shape)
        return {**figures, "lost_notes": self._dropped_notes, "doubts": list(self.doubts)}

    # ---- while it runs ----

    def write(self, offset: int, data: bytes) -> None:
        """Take bytes of the WAV file: the whole header first, then anything at any offset, the header again any time.

        They go to the disk with the next `flush`. What does not fit into memory because the disk is too slow is
        dropped, but for headers: the file keeps its length, and `lost` says what is missing in it.
        """
        with self._desk.lock:
            self._write(offset, data)

    def add(self, writes: Iterable[tuple[int, bytes]]) -> None:
        """`write` all of these, then `flush`."""
        with self._desk.lock:
            for offset, data in writes:
                self._write(offset, data)
            self._seal()
            self._wake()

    def _write(self, offset: int, data: bytes) -> None:
        desk, size = self._desk, len(data)
        shape = self.shape
        if self.state is not State.RUNNING or self._admission.limit_bytes < 0:
            raise UsageError(f"{self.take_id} takes no audio any more: it is {self.state}")
        if shape is None:
            shape = self._begin_audio(offset, bytes(data))
        if offset == 0 and size == shape.data_offset:
            self._open_header = bytes(data)
            return
        if offset < shape.data_offset:
            raise UsageError("the header is written whole")
        refused = self._admission.refusing
        if self._admission.admits(size, self._waiting_bytes, desk.waiting_bytes, desk.limits.spool_bytes):
            self._open.append((offset, bytes(data)))
            self._open_bytes += size
            self._waiting_bytes += size
            desk.waiting_bytes += size
            if self.lost.ranges and self.lost.cover(offset, offset + size):
                self._lost_changed = True
            if refused:
                self._tell_degraded()
        else:
            self.lost.add(offset, offset + size, self._error or STALLED)
            self._lost_changed = True
            if not refused:
                self._tell_degraded()

    def flush(self) -> None:
        """Send to the disk what has been written since the last time; it is applied together."""
        with self._desk.lock:
            self._seal()
            self._wake()

    def note(self, kind: str, **facts: Any) -> None:
        """Add a line to the journal: a JSON object with the time, `kind` and `facts`, without secrets."""
        if kind in OURS or not facts.keys().isdisjoint({"kind", "at", "crc32"}):
            raise UsageError(f"a note is not called {kind!r}, or has a fact of a name that every line has")
        check_no_secrets(facts, "a note")
        line = self._line(kind, facts)
        with self._desk.lock:
            self._check_there()
            if self._lines_bytes + len(line) > LINES_MAX_BYTES:
                self._dropped_notes += 1
                if self._dropped_notes == 1:
                    self._tell_degraded()
                return
            self._add_line(line)
            self._wake()

    # ---- how it ends ----

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Say that all audio has come. Once it lasts, the `Report` "finished" comes, and the file can be worked on."""
        check_no_secrets(manifest, "the manifest")
        self._go(_Step(State.FINISHED, manifest=dict(manifest)))

    def deliverable(self, file: str, manifest: Mapping[str, Any]) -> None:
        """Say that the finished file has been written.

        It lies in `folder` as `file` with ".part" behind it, and gets its name when it lasts; the take's own audio may
        be that file, under its name. `manifest` takes the place of the one before.
        """
        check_no_secrets(manifest, "the manifest")
        if Path(file).name != file or file in (ABOUT, JOURNAL, MANIFEST, ""):
            raise UsageError(f"not the name of a finished file: {file!r}")
        self._go(_Step(State.DELIVERABLE, manifest=dict(manifest), file=file), file=file)

    def delivered(self, receipt: Mapping[str, Any]) -> None:
        """Say that the destination has confirmed it; the receipt is kept in the journal."""
        check_no_secrets(receipt, "the receipt")
        self._go(_Step(State.DELIVERED), receipt=dict(receipt))

    def fail(self, reason: str) -> None:
        """Say that it cannot be recorded or delivered, in words without secrets; it is kept until it is replayed."""
        check_no_secrets(reason, "the reason")
        self._go(_Step(State.FAILED), reason=reason)

    def told(self) -> None:
        """Say that its terminal event is out."""
        self._go(_Step(State.KEPT if self.state is State.FAILED else State.TOLD))

    def removed(self) -> None:
        """Remove it, because its event is out; the `Report` "removed" comes when it is gone."""
        if self.state not in (State.TOLD, State.KEPT):
            raise UsageError(f"{self.take_id} is {self.state}: nobody has been told")
        self.discard()

    def shed(self) -> None:
        """Remove the audio of what is delivered, where room is needed; unlike the rest this waits for the disk."""
        if self.state not in (State.DELIVERED, State.TOLD):
            raise UsageError(f"{self.take_id} is {self.state}: its audio is needed")
        for path in list(self.folder.iterdir()):
            if path.name not in (ABOUT, JOURNAL, MANIFEST):
                path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove it, whatever it is, and do not even write what waits: nobody is to have it."""
        with self._desk.lock:
            if not self._is_removed:
                self._is_removed = True
                self._drop_what_waits()
                begun = [self._steps[0]] if self._is_kept else []
                self._steps = deque([*begun, _Step(None)])
                self._start_steps()

    # ---- with the lock held ----

    def _begin_audio(self, offset: int, header: bytes) -> Shape:
        if offset != 0:
            raise UsageError("a take begins with the header of a WAV file")
        self.shape = shape_of(header)
        limits = self._desk.limits
        self._admission.limit_bytes = round(PASSES * limits.take_s * self.shape.bytes_per_s)
        self._add_line(self._line("header", {"base64": base64.b64encode(header).decode()}))
        return self.shape

    def _line(self, kind: str, facts: Mapping[str, Any]) -> bytes:
        return journal_line({"at": round(self._desk.now(), 3), "kind": kind, **facts})

    def _add_line(self, line: bytes) -> None:
        self._lines.append(line)
        self._lines_bytes += len(line)

    def _check_there(self) -> None:
        if self._is_removed:
            raise UsageError(f"{self.take_id} has been removed")

    def _go(self, step: _Step, **facts: Any) -> None:
        assert step.state is not None
        with self._desk.lock:
            self._check_there()
            if step.state not in NEXT[self.state]:
                raise UsageError(f"{self.take_id} is {self.state}, and cannot become {step.state}")
            self._seal()
            self.state, self.since_s = step.state, self._desk.now()
            self._steps.append(step._replace(line=self._line(step.state, facts)))
            self._start_steps()

    def _start_steps(self) -> None:
        if len(self._steps) == 1:
            self._give_up_at = self._desk.monotonic() + self._desk.limits.give_up_s
        self._wake()

    @property
    def _is_busy(self) -> bool:
        return self._is_queued or self._is_kept or bool(self._steps)

    def _seal(self) -> None:
        if self._open:
            self._audio += self._open
            self._audio_bytes += self._open_bytes
            self._open, self._open_bytes = [], 0
        if self._open_header is not None:
            self._header, self._open_header = self._open_header, None

    def _wake(self) -> None:
        if not self._is_queued:
            self._is_queued = True
            self._desk.ready.append(self)
            if self._desk.is_idle:
                self._desk.is_idle = False
                self._desk.to_write.notify()

    def _take_waiting(self) -> _Waiting:
        waiting = _Waiting(self._audio, self._audio_bytes, self._header)
        self._audio, self._audio_bytes, self._header = [], 0, None
        return waiting

    def _tell_degraded(self) -> None:
        self._desk.report(self.take_id, "degraded", self._degradation() or {})

    def _drop_what_waits(self) -> None:
        self._open, self._audio, self._header, self._open_header = [], [], None, None
        # What is being written meanwhile is subtracted when that is over.
        dropped = self._open_bytes + self._audio_bytes
        self._open_bytes = self._audio_bytes = 0
        self._waiting_bytes -= dropped
        self._desk.waiting_bytes -= dropped
        self._lines, self._lines_bytes = [], 0


class Desk:
    """All takes of one spool, and what of them waits."""

    def __init__(
        self,
        folder: Path,
        *,
        files: AudioFiles,
        limits: Limits,
        fsync: Policy,
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        """Work below `folder`; `now` is the time of day, `monotonic` one that never steps back."""
        self.folder = folder
        self.takes = folder / TAKES_FOLDER
        self.trash = folder / "removed"
        self.limits = limits
        self.fsync = fsync
        self.now = now
        self.monotonic = monotonic
        self.lock = Lock()
        self.to_write = Condition(self.lock)
        self.to_keep = Condition(self.lock)
        self.is_idle = False
        """Whether the writing thread waits to be told that something is ready."""
        self.ready: deque[Take] = deque()
        self._is_urgent = False
        self.waiting_bytes = 0
        self.reports: deque[Report] = deque()
        self.on_report: Callable[[], None] | None = None
        self._numbers = itertools.count()
        self._later: list[tuple[float, int, Take]] = []
        self._kept: list[Take] = []
        self._kept_later: list[tuple[float, int, Take]] = []
        self._fresh: list[Take] = []
        self._dirty: list[Take] = []
        self._files = OpenFiles(files, limits.open_files or open_files_share())

    def report(self, take_id: str, kind: str, facts: Mapping[str, Any]) -> None:
        """Leave something for whoever drains the reports."""
        self.reports.append(Report(take_id, kind, facts))
        if self.on_report is not None:
            self.on_report()

    # ---- writing ----

    def write_round(self) -> None:
        """Bring to the files what is ready now, and what is due to be tried again."""
        now = self.monotonic()
        with self.lock:
            while self._later and self._later[0][0] <= now:
                self.ready.append(heapq.heappop(self._later)[2])
            takes, self.ready = self.ready, deque()
            self._is_urgent = False
        written: list[Take] = []
        fresh = [take for take in takes if not take._is_made]
        if fresh:
            takes = deque(take for take in takes if take._is_made)
            written += [take for take in fresh if self._write(take)]
        while takes:
            some = [takes.popleft() for _ in range(min(TOGETHER, len(takes)))]
            others = self._write_together(some, written)
            written += [take for take in others if self._write(take)]
            if self._is_urgent:
                with self.lock:
                    self.ready.extendleft(reversed(takes))
                break
        if self.fsync == "always" and written:
            self._sync_running(written)

    def begun(self, take: Take) -> None:
        """A take has begun, whose beginning somebody waits for: it goes before all else. With the lock held."""
        self._is_urgent = True
        take._wake()
        self.to_write.notify()

    def gather(self, longest_s: float) -> None:
        """Let others join what is to be written, unless it is urgent."""
        until = self.monotonic() + longest_s
        with self.lock:
            while not self._is_urgent and (left_s := until - self.monotonic()) > 0:
                self.to_write.wait(left_s)

    def _write_together(self, takes: list[Take], written: list[Take]) -> list[Take]:
        """Write what waits of those with which nothing is special, all in one go; returns the others."""
        others: list[Take] = []
        plain: list[Take] = []
        for take in takes:
            is_usual = take._is_made and take._size and not take._lines and not take._steps
            (plain if is_usual else others).append(take)
        descriptors = self._files.descriptors([take._audio_name for take in plain])
        writes: list[tuple[int, int, bytes]] = []
        parts: list[tuple[Take, _Waiting, int, int]] = []
        with self.lock:
            for take, descriptor in zip(plain, descriptors, strict=True):
                size, header, audio = take._size, take._header, take._audio
                for offset, data in audio:
                    end = offset + len(data)
                    size = end if end > size else size
                data_end, file_end = (0, 0) if header is None else declared(header)
                is_special = file_end > data_end or data_end > size  # it ends, or something is missing
                if descriptor is None or is_special or take._is_gone or take._lost_changed or take._lines:
                    others.append(take)
                    continue
                for offset, data in audio:
                    writes.append((descriptor, offset, data))
                if header is not None:
                    writes.append((descriptor, 0, header))
                parts.append((take, take._take_waiting(), size, len(writes)))
        failed = write_together(writes)
        if failed:
            parts = self._without_failed(parts, failed)
        over: list[Take] = []
        with self.lock:
            for take, waiting, size, _ in parts:
                take._size = size
                if self._note_written(take, waiting):
                    over.append(take)
                if waiting.audio:
                    written.append(take)
        for take in over:
            self._hand_over(take)
        return others

    def _without_failed(
        self, parts: list[tuple[Take, _Waiting, int, int]], failed: Mapping[int, int]
    ) -> list[tuple[Take, _Waiting, int, int]]:
        """Those of which no write failed; the others wait again."""
        good, begin = [], 0
        for part in parts:
            take, waiting, _, end = part
            error = next((failed[number] for number in range(begin, end) if number in failed), 0)
            begin = end
            if error:
                self._not_written(take, waiting, OSError(error, os.strerror(error)))
            else:
                good.append(part)
        return good

    def wait_for_writing(self, longest_s: float) -> None:
        """Wait until there is something for `write_round`."""
        with self.lock:
            if not self.ready:
                if self._later:
                    longest_s = min(longest_s, self._later[0][0] - self.monotonic())
                if longest_s > 0:
                    self.is_idle = True
                    self.to_write.wait(longest_s)
                    self.is_idle = False

    def close_files(self) -> None:
        """Close the files that are open."""
        self._files.close_all()

    def _write(self, take: Take) -> bool:
        """Write all that waits of a take; when that fails it waits again. Says whether audio was written."""
        with self.lock:
            if take._is_gone:
                take._drop_what_waits()
                take._is_queued = False
                return False
            waiting = take._take_waiting()
            lines, take._lines = take._lines, []
            tells_lost, take._lost_changed = take._lost_changed, False
            if tells_lost:
                lines = [*lines, take._line("lost", {"ranges": take.lost.ranges})]
        try:
            if not take._is_made and not take._is_removed:
                self._make(take)
            if lines:
                take._journal.append(b"".join(lines))
                lines, tells_lost = [], False
            if waiting.audio or waiting.header is not None:
                self._apply(take, waiting.audio, waiting.header)
        except Exception as error:  # the disk's, or the seam's: neither may end this thread
            with self.lock:
                if not take._is_removed:
                    take._lines[:0] = lines[:-1] if tells_lost else lines
                take._lost_changed |= tells_lost
            self._not_written(take, waiting, error)
            return False
        return self._written(take, waiting)

    def _not_written(self, take: Take, waiting: _Waiting, error: Exception) -> None:
        """It waits again."""
        with suppress(Exception):
            self._files.close(take._audio_name)
        if _is_shortage(error):
            self._files.close_all()
        with self.lock:
            self._put_back(take, waiting)
            self._try_again(self._later, take, reason_of(error))

    def _written(self, take: Take, waiting: _Waiting) -> bool:
        """It is in the file; says whether it was audio."""
        with self.lock:
            is_over = self._note_written(take, waiting)
        if is_over:
            self._hand_over(take)
        return bool(waiting.audio)

    def _note_written(self, take: Take, waiting: _Waiting) -> bool:
        """It is in the file; says whether the take is to be brought further. With the lock held."""
        take._error = None
        take._waiting_bytes -= waiting.size
        self.waiting_bytes -= waiting.size
        take._lines_bytes = sum(map(len, take._lines)) if take._lines else 0
        if waiting.audio and not take._dirty and self.fsync == "interval":
            take._dirty = True
            self._dirty.append(take)
        if take._audio or take._header is not None or take._lines:
            self.ready.append(take)
            return False
        take._is_queued = False
        return bool(take._steps) and not take._is_kept

    def _hand_over(self, take: Take) -> None:
        """All of it is written, and it waits to be brought further."""
        self._close_for(take)
        with self.lock:
            take._is_kept = True
            self._kept.append(take)
            self.to_keep.notify()

    def _put_back(self, take: Take, waiting: _Waiting) -> None:
        if take._is_removed:  # meanwhile: nobody is to have it
            take._waiting_bytes -= waiting.size
            self.waiting_bytes -= waiting.size
            return
        take._audio[:0] = waiting.audio
        take._audio_bytes += waiting.size
        if take._header is None:
            take._header = waiting.header

    def _make(self, take: Take) -> None:
        take.folder.mkdir(exist_ok=True)
        publish_json(take.folder / ABOUT, take.about)
        take._is_made = True
        with self.lock:
            self._fresh.append(take)
            self.to_keep.notify()

    def _apply(self, take: Take, audio: Sequence[tuple[int, bytes]], header: bytes | None) -> None:
        file = self._files.get(take._audio_name)
        marks: list[tuple[int, bytes]] = []
        data_end = 0
        if header is not None:
            data_end, file_end = declared(header)
            if file_end > data_end:
                header, audio, marks = self._with_marks(take, header, data_end, audio)
            if take._size == 0:  # a file begins with a header, even if this is as far as it comes
                file.write(0, [wav.patch(header, 0)])
        for offset, pieces in runs(audio):
            file.write(offset, pieces)
            take._size = max(
                take._size, offset + (sum(map(len, pieces)) if len(pieces) > 1 else len(pieces[0]))
            )
        if header is None:
            return
        if data_end > take._size:  # the end was dropped: zeros
            take._size = max(data_end, file.size())
            file.resize(take._size)
        file.write(0, [header])
        for offset, data in marks:
            file.write(offset, [data])

    def _with_marks(
        self, take: Take, header: bytes, data_end: int, audio: Sequence[tuple[int, bytes]]
    ) -> tuple[bytes, list[tuple[int, bytes]], list[tuple[int, bytes]]]:
        """Split what is behind the audio; where a part of it was dropped the file does without."""
        marks = [one for one in audio if one[0] >= data_end]
        audio = [one for one in audio if one[0] < data_end]
        with self.lock:
            complete = not any(one.end > data_end for one in take.lost.ranges)
        if not complete and take.shape is not None:
            header = wav.patch(header, (data_end - take.shape.data_offset) // take.shape.frame_bytes)
            marks = []
            with self.lock:
                take.lost.cut(data_end)
                take._lost_changed = True
                self._doubt(take, MARKS_LOST)
        return header, audio, marks

    def _close_for(self, take: Take) -> None:
        try:
            self._files.close(take._audio_name)
        except OSError as error:
            with self.lock:
                self._doubt(take, reason_of(error))

    def _doubt(self, take: Take, reason: str) -> None:
        if reason not in take.doubts:
            take.doubts.append(reason)
            take._add_line(take._line("doubt", {"reason": reason}))
            take._wake()
            take._tell_degraded()

    def _try_again(self, queue: list[tuple[float, int, Take]], take: Take, reason: str) -> None:
        take._error = reason
        now, wait_s = self.monotonic(), self.limits.retry_s
        if take._is_removed and len(take._steps) > 1:
            take._steps.popleft()  # it need not come any further
        if take._steps and now >= take._give_up_at:
            if not take._is_removed:
                self._give_up(take, reason)
                return
            wait_s = self.limits.give_up_s  # nothing is lost if it goes later
        heapq.heappush(queue, (now + wait_s, next(self._numbers), take))

    def _give_up(self, take: Take, reason: str) -> None:
        """Its end cannot be brought to the disk: tell, and hold no memory for it."""
        for offset, data in take._audio:
            take.lost.add(offset, offset + len(data), reason)
        take._drop_what_waits()
        take._steps.clear()
        take._is_queued = take._is_kept = False
        take.state, take.since_s = State.FAILED, self.now()
        self.report(take.take_id, "failed", {"reason": reason, **(take._degradation() or {})})

    # ---- what lasts ----

    def wait_for_keeping(self, longest_s: float) -> None:
        """Wait until a take is to be brought to the next state."""
        with self.lock:
            if not (self._kept or self._fresh):
                if self._kept_later:
                    longest_s = min(longest_s, self._kept_later[0][0] - self.monotonic())
                if longest_s > 0:
                    self.to_keep.wait(longest_s)

    def keep_round(self, *, sync_running: bool) -> None:
        """Make lasting what waits for it: new takes, steps, and with `sync_running` the audio written meanwhile."""
        now = self.monotonic()
        with self.lock:
            while self._kept_later and self._kept_later[0][0] <= now:
                self._kept.append(heapq.heappop(self._kept_later)[2])
            takes, self._kept = self._kept, []
            fresh, self._fresh = self._fresh, []
            dirty: list[Take] = []
            if sync_running:
                dirty, self._dirty = self._dirty, []
                for take in dirty:
                    take._dirty = False
        if fresh:
            self._begin(fresh)
        if dirty:
            self._sync_running(dirty)
        if takes:
            self._keep(takes)

    def _begin(self, fresh: list[Take]) -> None:
        common = {self.takes, self.folder}
        paths = {take: {take.folder / ABOUT, take.folder} for take in fresh}
        errors = sync_all(self.folder, [*common, *itertools.chain(*paths.values())])
        with self.lock:
            for take in fresh:
                error = next((errors[path] for path in paths[take] | common if path in errors), None)
                if error is None:
                    take.is_safe = True
                    self.report(take.take_id, State.RUNNING, {})
                elif _is_shortage(error):
                    self._fresh.append(take)  # nothing was tried: next time
                else:
                    self._doubt(take, reason_of(error))

    def _sync_running(self, takes: Iterable[Take]) -> None:
        self._sync_for(takes, lambda take: [take.audio_path, take._journal.path])

    def _sync_for(self, takes: Iterable[Take], paths: Callable[[Take], list[Path]]) -> None:
        wanted = {path: take for take in takes for path in paths(take)}
        for path, error in sync_all(self.folder, wanted).items():
            with self.lock:
                take = wanted[path]
                if not _is_shortage(error):
                    self._doubt(take, reason_of(error))
                elif not take._dirty:  # nothing was tried: next time
                    take._dirty = True
                    self._dirty.append(take)

    def _keep(self, takes: list[Take]) -> None:
        """Do one step of each: write and sync, rename, sync the folders; a step that fails is done again, whole."""
        left = {take: take._steps[0] for take in takes if take._steps}
        self._each(left, self._prepare)
        self._synced(left, self._paths_before)
        self._each(left, self._commit)
        self._synced(left, self._paths_after)
        for take, step in left.items():
            if step.state is None:
                with suppress(OSError):  # the next start tries again
                    remove_tree(self.trash / take.take_id)
        with self.lock:
            for take, step in left.items():
                take._error = None
                take._is_kept = False
                take._is_gone = step.state is None
                take._steps.popleft()
                self.report(take.take_id, step.state or "removed", take._degradation() or {})
                if take._steps:
                    take._give_up_at = self.monotonic() + self.limits.give_up_s
                    take._wake()

    def _each(self, left: dict[Take, _Step], action: Callable[[Take, _Step], None]) -> None:
        for take, step in list(left.items()):
            try:
                action(take, step)
            except Exception as error:  # neither the disk nor one take's trouble ends this thread
                self._failed_step(left, take, error)

    def _synced(self, left: dict[Take, _Step], paths: Callable[[Take, _Step], list[Path]]) -> None:
        wanted = {path: take for take, step in left.items() for path in paths(take, step)}
        errors = sync_all(self.folder, wanted)
        for path, error in errors.items():
            if wanted[path] in left:
                self._failed_step(left, wanted[path], error)

    def _failed_step(self, left: dict[Take, _Step], take: Take, error: BaseException) -> None:
        del left[take]
        with self.lock:
            self._try_again(self._kept_later, take, reason_of(error))

    def _prepare(self, take: Take, step: _Step) -> None:
        if step.manifest is not None:
            write_part(take.folder / MANIFEST, step.manifest)
        if step.state is None:
            self.trash.mkdir(exist_ok=True)
            remove_tree(self.trash / take.take_id)

    def _paths_before(self, take: Take, step: _Step) -> list[Path]:
        if step.state is None:
            return []
        paths = [take.audio_path, take._journal.path] if step.state is State.FINISHED else []
        if step.file is not None:
            paths += [take.folder / step.file, take.folder / (step.file + PART_SUFFIX)]
        return paths if step.manifest is None else [*paths, take.folder / (MANIFEST + PART_SUFFIX)]

    def _commit(self, take: Take, step: _Step) -> None:
        if step.state is None:
            with suppress(FileNotFoundError):
                take.folder.rename(self.trash / take.take_id)
            return
        if step.file is not None:
            target = take.folder / step.file
            part = target.with_name(target.name + PART_SUFFIX)
            if part.exists() or not target.exists():  # else: the audio itself, or this is tried again
                part.replace(target)
        if step.manifest is not None:
            (take.folder / (MANIFEST + PART_SUFFIX)).replace(take.folder / MANIFEST)
        take._journal.append(step.line)

    def _paths_after(self, take: Take, step: _Step) -> list[Path]:
        return [self.takes] if step.state is None else [take._journal.path, take.folder]


def _is_shortage(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (EMFILE, ENFILE)
