"""Packet captures: the calls in a pcap or pcapng file become recordings.

The file is read twice, so that memory stays flat and nothing is decided too early:

* The survey (`capture_survey`) reads signalling and takes stock of every UDP flow; the plan (`capture_plan`)
  says which packets are the two directions of which call.
* The recording feeds these packets to a `Call` each, which is asked for StartCallRecording when its media
  begins, and stores what comes out.

`record_capture` is a function of a path and options to a report that can be pickled: a batch of captures is a
map.
"""

from __future__ import annotations

import stat
import uuid
from bisect import bisect_left
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from callreel.actions import StartRecording
from callreel.call import Call
from callreel.capture_plan import (
    MAX_PAUSE_NS,
    CallReport,
    PlannedCall,
    Route,
    SkippedStream,
    moment,
    plan_calls,
)
from callreel.capture_script import Script
from callreel.capture_survey import MAX_FLOWS, CaptureSurvey, batches, last_time, record_time
from callreel.delivery.folder import Folder, PartFile
from callreel.errors import CaptureError, DeliveryError
from callreel.events import (
    CallEnded,
    Event,
    LegChanged,
    Perform,
    Play,
    RecordingFinished,
    RecordingStarted,
    RecordingStored,
)
from callreel.formats import FORMATS, Write
from callreel.kernels import pcap
from callreel.legs import Direction

__all__ = [
    "CallReport",
    "CaptureReport",
    "RecordOptions",
    "SkippedStream",
    "Take",
    "record_capture",
]

SECOND_NS = 1_000_000_000
SLICE_NS = 2 * SECOND_NS  # of a call that is fed at a time: as much as its tracks have room for
SCRIPT_SLICE_NS = SECOND_NS // 5  # what a vendor's list does next, it does when a live call would
TIMES_LOOKED_AT = 64  # of a flow's records, to find the middle one
SETTLED_NS = 3 * SECOND_NS  # a call is over for good when the capture is this much past its end
PAUSE_STEP_NS = 10 * SECOND_NS  # of a pause that is recorded at a time: 320 KB in stereo
MAX_OPEN_FILES = 128

LAST_NS = (1 << 63) - 1  # the year 2262

LEFT_OUT = ("streams_dropped", "flows_dropped", "sip_dropped")  # counts of what found no room

UNTOLD = (LegChanged, RecordingStored, CallEnded)  # events that say nothing new of a capture

LEG = "LEG-A"  # the caller's leg is the one that is recorded


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """What to make of a capture, and where to put it."""

    out: Path
    """The folder that takes recordings under their object keys."""
    action: StartRecording = field(default_factory=StartRecording)
    """What is asked for each call when its media begins."""
    script: Script | None = None
    """A vendor's document that is asked instead."""


@dataclass(frozen=True, slots=True)
class Take:
    """A finished recording."""

    path: Path
    manifest: Mapping[str, Any]
    metadata: Mapping[str, str]
    """What is stored beside it in a bucket."""
    media_type: str


@dataclass(frozen=True, slots=True)
class CaptureReport:
    """All that became of a capture."""

    path: Path
    format: str | None
    frames: int
    truncated: bool
    problem: str | None
    """What stopped the reading before the end of the file."""
    counts: Mapping[str, int]
    """The reader's counts, SIP messages and what was left out for want of room."""
    calls: tuple[CallReport, ...]
    takes: tuple[Take, ...]
    """In order of their beginning."""
    skipped: tuple[SkippedStream, ...]
    failures: tuple[str, ...]
    """Recordings that could not be stored."""

    @property
    def all_good(self) -> bool:
        """Whether everything that was to be recorded is, undamaged."""
        return (
            bool(self.takes)
            and not self.truncated
            and not self.failures
            and not any(self.counts.get(name) for name in LEFT_OUT)
            and not any(stream.reason != "copy" for stream in self.skipped)
            and not any(call.note for call in self.calls)
            and not any(take.manifest["degraded"] for take in self.takes)
        )


def record_capture(
    path: Path,
    options: RecordOptions,
    *,
    on_event: Callable[[Event], None] | None = None,
    on_take: Callable[[Take], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> CaptureReport:
    """Record every call of a capture file.

    `on_event` is told what happens in each call, `on_take` of each finished recording, `on_progress` how many
    bytes of how many have been read (of the two readings together). What they raise ends the recording, and
    leaves no file half made.

    Raises:
        CaptureError: the file is no capture, or no file: it is read twice.
        OSError: the file cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise CaptureError("a capture is read twice, so it must be a file, not a pipe or a device")
    size_bytes = status.st_size

    def progress(reading: int) -> Callable[[int], None]:
        return lambda done: on_progress(reading * size_bytes + done, 2 * size_bytes) if on_progress else None

    survey = CaptureSurvey()
    survey.read(path, progress(0))
    plan = plan_calls(survey)
    counts = {
        **{name: int(count) for name, count in survey.reader.counts.items()},  # type: ignore[call-overload]
        "sip_messages": survey.dialogs.messages,
        "sip_malformed": sum(survey.dialogs.malformed.values()),
        "sip_dropped": sum(survey.dialogs.dropped.values()),
        "streams_dropped": survey.dropped,
    }
    file_format = survey.reader.format
    truncated = survey.reader.truncated or bool(survey.problems)
    problem = "; ".join([*survey.problems, *filter(None, [survey.reader.problem])]) or None
    del survey  # the second reading needs its memory
    recorder = _CaptureRecorder(plan.calls, options, truncated=truncated, on_event=on_event, on_take=on_take)
    recorder.read(path, progress(1))
    return CaptureReport(
        path=path,
        format=file_format,
        frames=counts["frames"],
        truncated=truncated,
        problem=problem,
        counts=counts,
        calls=tuple(recorder.reports(plan.reports)),
        takes=tuple(
            sorted(recorder.takes, key=lambda take: (take.manifest["started_at"], take.manifest["key"]))
        ),
        skipped=tuple(plan.skipped),
        failures=tuple(recorder.failures),
    )


@dataclass(slots=True)
class _RunningCall:
    plan: PlannedCall
    call: Call
    moved_ns: int
    """How far its recording has been moved on."""
    last_ns: int
    """Its last packet so far."""
    until_ns: int
    """When it is over: nothing of it comes later."""
    now: float
    """The call's time by now, on its clock."""
    keys: dict[str, str] = field(default_factory=dict)
    """Of its recordings, by their id."""
    changes: list[tuple[int, Direction, dict[int, str]]] = field(default_factory=list)
    """Payload types to come, the next one last."""
    strayed: int = 0
    """Packets whose time is farther from the others' than a pause in a call."""


@dataclass(slots=True)
class _Piece:
    """Records of one flow in a batch that are still to be fed."""

    route: Route
    first: int
    count: int


class _CaptureRecorder:
    """The second reading: packets to calls, writes to files."""

    def __init__(
        self,
        plans: list[PlannedCall],
        options: RecordOptions,
        *,
        truncated: bool,
        on_event: Callable[[Event], None] | None,
        on_take: Callable[[Take], None] | None,
    ) -> None:
        self.takes: list[Take] = []
        self.failures: list[str] = []
        self._options = options
        self._folder = Folder(options.out)
        self._slice_ns = SLICE_NS if options.script is None else SCRIPT_SLICE_NS
        self._on_event = on_event
        self._on_take = on_take
        self._truncated = truncated
        self._plans = plans
        self._routes: dict[int, list[tuple[int, Route]]] = defaultdict(list)
        for number, plan in enumerate(plans):
            for route in plan.routes:
                self._routes[route.flow].append((number, route))
        for routes in self._routes.values():
            routes.sort(key=lambda entry: entry[1].from_ns)
        self._running: dict[int, _RunningCall] = {}
        self._over: set[int] = set()
        self._files: dict[tuple[int, str], PartFile] = {}
        """By the call's number and the recording's id."""
        self._open_files: OrderedDict[tuple[int, str], PartFile] = OrderedDict()
        self._broken: set[tuple[int, str]] = set()
        self._failed: set[tuple[str, datetime]] = set()

    def read(self, path: Path, progress: Callable[[int], None]) -> None:
        """Record the planned calls; an exception, an interrupt included, leaves no file half made."""
        if not self._plans:
            return
        reader = pcap.Reader(max_flows=MAX_FLOWS)
        try:
            for batch in batches(path, reader, progress):
                if not batch:
                    continue
                over_ns = last_time(batch)
                if abs(over_ns - (batch.first_time_ns or 0)) > MAX_PAUSE_NS:
                    # A packet from the far future must not end the calls of the present.
                    over_ns = batch.first_time_ns or 0
                over_ns -= SETTLED_NS
                for number, pieces in self._pieces(batch, reader).items():
                    self._feed(number, batch, pieces)
                    if number in self._running:  # a batch may hold hundreds of calls, one after the other
                        self._end_if_over(number, over_ns)
                for number in list(self._running):
                    self._end_if_over(number, over_ns)
            for number in list(self._running):
                self._end(number)
        finally:
            for file in self._files.values():
                file.discard()

    def reports(self, planned: list[CallReport]) -> list[CallReport]:
        """The plan's reports, with what went wrong since."""
        return [
            replace(report, recorded=False, note="its recording could not be stored")
            if report.recorded and (report.call_id, report.started_at) in self._failed
            else report
            for report in planned
        ]

    def _pieces(self, batch: pcap.Batch, reader: pcap.Reader) -> dict[int, list[_Piece]]:
        """What of a batch goes to which call, the earliest first."""
        pieces: dict[int, list[_Piece]] = defaultdict(list)
        for flow, first, count in batch.groups:
            routes = self._routes.get(flow)
            if routes is None:
                reader.ignore(flow)
                continue
            begin_ns, end_ns = record_time(batch, first), record_time(batch, first + count - 1)
            # A port that is used again has a route for each call, one after the other.
            at = max(0, bisect_left(routes, begin_ns, key=lambda entry: entry[1].from_ns) - 1)
            for number, route in islice(routes, at, None):
                if route.from_ns > end_ns and route.from_ns > begin_ns:
                    break
                if number in self._over:
                    continue
                low, high = first, first + count
                if len(routes) > 1 or route.from_ns > begin_ns:
                    low = _index_from(batch, first, count, route.from_ns)
                if len(routes) > 1 or route.to_ns < end_ns:
                    high = _index_from(batch, first, count, route.to_ns + 1)
                if low < high:
                    pieces[number].append(_Piece(route, low, high - low))
        return pieces

    def _begin(self, number: int, batch: pcap.Batch, pieces: list[_Piece]) -> _RunningCall:
        plan = self._plans[number]
        # A few packets may have an absurd time; the middle one has not.
        times = sorted(
            record_time(batch, index)
            for piece in pieces
            if not piece.route.is_rtcp
            for index in range(piece.first, piece.first + piece.count, 1 + piece.count // TIMES_LOOKED_AT)
        )
        earliest_ns = times[len(times) // 2] - MAX_PAUSE_NS
        start_ns = plan.media_start_ns
        if plan.starts_with_packet or start_ns < earliest_ns:
            start_ns = max(start_ns, times[bisect_left(times, earliest_ns)])
        started_ns = max(plan.started_ns, start_ns - MAX_PAUSE_NS)
        script = self._options.script
        call = Call(
            plan.call_id,
            started_at=moment(started_ns),
            now=_seconds(started_ns),
            transaction_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"callreel:{plan.call_id}:{started_ns}")),
            dialect=None if script is None else script.session(),
        )
        leg = call.add_leg(LEG)
        running = self._running[number] = _RunningCall(
            plan,
            call,
            moved_ns=start_ns,
            last_ns=start_ns,
            until_ns=max(plan.end_ns or 0, plan.last_ns),
            now=_seconds(start_ns),
        )
        for direction, entries in plan.payload_types.items():
            leg.track(direction).set_payload_types(entries[0][1])
            running.changes += [(valid_from_ns, direction, names) for valid_from_ns, names in entries[1:]]
        running.changes.sort(key=lambda change: change[0], reverse=True)
        if script is None:
            call.start_recording(self._options.action._replace(leg=LEG), now=running.now)
        else:
            call.request(script.request_for(plan.call_id), now=running.now)
        self._drain(number, running)
        return running

    def _feed(self, number: int, batch: pcap.Batch, pieces: list[_Piece]) -> None:
        running = self._running.get(number)
        if running is None:
            if all(piece.route.is_rtcp for piece in pieces):
                return
            running = self._begin(number, batch, pieces)
        call = running.call
        batch_end_ns = batch.last_time_ns or 0
        while pieces:
            first = min(pieces, key=lambda piece: record_time(batch, piece.first))
            first_ns = record_time(batch, first.first)
            if abs(first_ns - running.last_ns) > MAX_PAUSE_NS:
                running.strayed += 1
                first.first += 1
                first.count -= 1
                pieces = [piece for piece in pieces if piece.count]
                continue
            self._move_on(number, running, first_ns)
            while running.changes and running.changes[-1][0] <= first_ns:
                _, direction, names = running.changes.pop()
                call.legs[LEG].track(direction).set_payload_types(names)
            slice_ns = min(first_ns + self._slice_ns, LAST_NS)
            if running.changes:
                slice_ns = min(slice_ns, running.changes[-1][0] - 1)
            taken = self._take(running, batch, pieces, slice_ns, force=False)
            # Never past the call's end: what is read is recorded.
            now_ns = min(slice_ns, batch_end_ns, running.until_ns)
            running.moved_ns = max(running.moved_ns, now_ns)
            running.now = _seconds(now_ns)
            call.handle_timeout(now=running.now)
            self._drain(number, running)
            if not taken:
                # All that can be read has been read: what finds no room is sent faster than time goes by.
                self._take(running, batch, pieces, slice_ns, force=True)
            pieces = [piece for piece in pieces if piece.count]

    @staticmethod
    def _take(
        running: _RunningCall, batch: pcap.Batch, pieces: list[_Piece], until_ns: int, *, force: bool
    ) -> int:
        leg = running.call.legs[LEG]
        taken = 0
        for piece in pieces:
            n = leg.track(piece.route.direction).receive_batch(
                batch.data, batch.records, piece.first, piece.count, until_ns=until_ns, force=force
            )
            piece.first += n
            piece.count -= n
            taken += n
            if n:
                running.last_ns = max(running.last_ns, record_time(batch, piece.first - 1))
        return taken

    def _move_on(self, number: int, running: _RunningCall, to_ns: int) -> None:
        """Record a pause piece by piece: what is not stored yet is in memory."""
        while running.moved_ns + PAUSE_STEP_NS < to_ns:
            running.moved_ns += PAUSE_STEP_NS
            running.now = _seconds(running.moved_ns)
            running.call.handle_timeout(now=running.now)
            self._drain(number, running)

    def _end_if_over(self, number: int, before_ns: int) -> None:
        if self._running[number].until_ns <= before_ns:
            self._end(number)

    def _end(self, number: int) -> None:
        running = self._running[number]
        plan = running.plan
        end_ns = running.last_ns if plan.end_ns is None else plan.end_ns
        end_ns = min(end_ns, running.last_ns + MAX_PAUSE_NS)
        self._move_on(number, running, end_ns)
        running.now = _seconds(end_ns)
        running.call.end(now=running.now)
        self._drain(number, running)
        del self._running[number]
        self._over.add(number)

    def _drain(self, number: int, running: _RunningCall) -> None:
        """Store what a call wrote and answer what it asks for, until it asks for nothing more."""
        call = running.call
        while True:
            events, writes = call.events(), call.writes()
            if not events and not writes:
                return
            for event in events:
                if isinstance(event, RecordingStarted):
                    running.keys[event.recording_id] = event.key
            pieces: dict[str, list[Write]] = defaultdict(list)
            for recording_id, write in writes:
                pieces[recording_id].append(write)
            for recording_id, own in pieces.items():
                self._write((number, recording_id), running, own)
            for event in events:
                self._handle(number, running, event)

    def _handle(self, number: int, running: _RunningCall, event: Event) -> None:
        """Tell an event; a capture's host plays and performs in no time."""
        call, take = running.call, None
        if isinstance(event, RecordingFinished):
            name = (number, event.recording_id)
            if event.deliver:
                take = self._finish(name, running, event)
            else:
                self._forget(name)
            if name in self._broken:
                event = event._replace(end_reason="failed")
            error = self.failures[-1] if name in self._broken else None
            call.stored(event.recording_id, now=running.now, error=error)
        elif isinstance(event, Play):
            call.played(event.action_id, now=running.now)
        elif isinstance(event, Perform):
            call.performed(event.action_id, now=running.now)
        if self._on_event is not None and not isinstance(event, UNTOLD):
            self._on_event(event)
        if take is not None:
            self.takes.append(take)
            if self._on_take is not None:
                self._on_take(take)

    def _write(self, name: tuple[int, str], running: _RunningCall, writes: list[Write]) -> None:
        if name in self._broken:
            return
        try:
            file = self._files.get(name)
            if file is None:
                file = self._files[name] = self._folder.open(running.keys[name[1]])
            self._keep_open(name, file)
            file.write(writes)
        except DeliveryError as error:
            self._break(name, running, error)

    def _break(self, name: tuple[int, str], running: _RunningCall, error: DeliveryError) -> None:
        """A recording cannot be stored: the others go on."""
        self._forget(name)
        self._broken.add(name)
        self._failed.add((running.plan.call_id, moment(running.plan.started_ns)))
        self.failures.append(str(error))

    def _forget(self, name: tuple[int, str]) -> None:
        self._open_files.pop(name, None)
        file = self._files.pop(name, None)
        if file is not None:
            file.discard()

    def _finish(
        self, name: tuple[int, str], running: _RunningCall, finished: RecordingFinished
    ) -> Take | None:
        """Make a recording's file appear, with its manifest."""
        if name in self._broken:
            return None
        file = self._files[name]
        self._open_files.pop(name, None)
        try:
            stored = file.close()
            manifest = dict(finished.manifest)
            degraded = dict(manifest["degraded"] or {})
            if running.plan.cut_packets:
                degraded["cut_packets"] = running.plan.cut_packets
            if running.strayed:
                degraded["stray_packets"] = running.strayed
            if self._truncated and running.plan.open_at_end:
                degraded["capture_truncated"] = True
            manifest["degraded"] = degraded or False
            manifest |= {
                "bytes": stored.size_bytes,
                "sha256": stored.sha256,
                "destination": str(self._options.out),
                "key": finished.key,
            }
            file.write_manifest(manifest)
        except DeliveryError as error:
            self._break(name, running, error)
            return None
        del self._files[name]
        return Take(stored.path, manifest, finished.metadata, FORMATS[manifest["format"]].media_type)

    def _keep_open(self, name: tuple[int, str], file: PartFile) -> None:
        """Bound the number of files that are open at the same time."""
        self._open_files[name] = file
        self._open_files.move_to_end(name)
        if len(self._open_files) > MAX_OPEN_FILES:
            _, oldest = self._open_files.popitem(last=False)
            oldest.suspend()


def _seconds(time_ns: int) -> float:
    """A capture's time on the clock of `Call`: not quite up to the ends of what 64 bits hold."""
    return max(2 * SECOND_NS - LAST_NS, min(LAST_NS - 2 * SECOND_NS, time_ns)) / SECOND_NS


def _index_from(batch: pcap.Batch, first: int, count: int, time_ns: int) -> int:
    """The first record of a group that is not before `time_ns`; groups are in order of time, or nearly."""
    return (
        bisect_left(range(first, first + count), time_ns, key=lambda index: record_time(batch, index)) + first
    )
