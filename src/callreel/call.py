"""A call as the embedding program knows it: legs, what is recorded of them, and what came of it.

Feed, then drain: `receive_rtp` (or its batch and PCM forms) takes what arrives, `handle_timeout` moves the recordings
on when `next_timeout` is due, `events` and `writes` hand out what there is to tell and to store. `now` is the host's
clock in seconds, any epoch, the same for all verbs of a call; nothing here reads a clock, opens a file or starts a
thread. A call belongs to one thread at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from callreel import keys
from callreel.actions import StartRecording
from callreel.dialects import chime
from callreel.errors import ActionConflictError, UsageError
from callreel.events import DigitReceived, Event, RecordingFinished, RecordingStarted
from callreel.formats import FORMATS, Write
from callreel.legs import RTP_SAMPLE_RATE, Direction, Leg, Track
from callreel.recording import MANIFEST_VERSION, Recording, rfc3339

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Call"]

STEP_S = 0.2
"""How often a running recording is moved on: a file on disk is at most this much behind the timeline."""

READ_SAMPLES = 32_768
"""Samples read of a track at a time: 4 s at 8 kHz bounds the memory after a long silence."""


class Call:
    """One call: add its legs, feed their media, start recordings, drain events and writes."""

    def __init__(
        self,
        call_id: str,
        *,
        started_at: datetime,
        now: float,
        transaction_id: str | None = None,
    ) -> None:
        """A call that began at `started_at` (UTC), which is `now` on the host's clock.

        `transaction_id` goes into object keys and metadata; by default the call's own id.
        """
        if started_at.tzinfo is None:
            raise UsageError("started_at must know its time zone: datetime.now(UTC), not datetime.now()")
        self.call_id = call_id
        self.transaction_id = transaction_id if transaction_id is not None else call_id
        self.started_at = started_at.astimezone(UTC)
        self.legs: dict[str, Leg] = {}
        self._origin_ns = _nanoseconds(now)
        self._recordings: dict[str, Recording] = {}
        self._recorded_legs: set[str] = set()
        self._events: list[Event] = []
        self._writes: list[tuple[str, Write]] = []
        self._moved_on_at: float = now
        self._ended = False

    # -- legs and media ------------------------------------------------------------------------------------------

    def add_leg(
        self,
        name: str = "LEG-A",
        *,
        payload_types: Mapping[int, str] | None = None,
        host_frames: bool = False,
        detect_digits: bool = True,
        render_events: bool = True,
    ) -> Leg:
        """Add a participant's connection.

        `payload_types` maps RTP payload types to codec names for both directions, by default the static ones. With
        `host_frames` the leg takes PCM (`receive_pcm`) in place of RTP. `render_events` lets keys sent as telephone
        events be heard in the recording where the stream has no audio of its own.
        """
        self._check_running()
        if name in self.legs:
            raise UsageError(f"the call has a leg {name} already")

        def track() -> Track:
            return Track(
                origin_ns=self._origin_ns,
                payload_types=payload_types,
                host_frames=host_frames,
                detect_digits=detect_digits,
                render_events=render_events,
            )

        self.legs[name] = Leg(name, track(), track())
        return self.legs[name]

    def receive_rtp(
        self, leg: str, packet: Buffer, *, now: float, direction: Direction | str = Direction.INCOMING
    ) -> None:
        """Take one RTP (or RTCP) packet of a leg. What is wrong with it is counted, never raised."""
        self._track(leg, direction).receive(packet, _nanoseconds(now))

    def receive_rtp_batch(
        self,
        leg: str,
        data: Buffer,
        records: Buffer,
        first: int = 0,
        count: int | None = None,
        *,
        until_ns: int | None = None,
        direction: Direction | str = Direction.INCOMING,
    ) -> int:
        """Take packet records (`kernels.pcap.DTYPE`), whose times are the host's clock in nanoseconds.

        Takes those up to `until_ns`; returns how many, fewer when recordings must be moved on first.
        """
        return self._track(leg, direction).receive_batch(data, records, first, count, until_ns=until_ns)

    def receive_pcm(
        self,
        leg: str,
        frames: Buffer,
        *,
        now: float,
        sample_rate: int | None = None,
        direction: Direction | str = Direction.INCOMING,
    ) -> None:
        """Take mono 16-bit PCM of a leg that was added with `host_frames`, its first sample at `now`."""
        self._track(leg, direction).receive_pcm(frames, _nanoseconds(now), sample_rate)

    # -- recording -----------------------------------------------------------------------------------------------

    def request(self, document: Mapping[str, Any] | list[Any], *, now: float) -> None:
        """Carry out what a vendor's document asks for: Amazon Chime's StartCallRecording.

        Raises ActionError, and does nothing, when the document cannot be carried out.
        """
        actions = chime.actions(document)
        for number, action in enumerate(actions):
            self._check_startable(action)
            if any(other.leg == action.leg for other in actions[:number]):
                raise self._recorded_already(action)
        for action in actions:
            self.start_recording(action, now=now)

    def start_recording(self, action: StartRecording, *, now: float) -> str:
        """Record a leg from `now` on; returns the recording's id.

        Raises ActionConflictError when the leg has been recorded already: a leg is recorded once (Amazon Chime SDK,
        "Using call recording").
        """
        self._check_startable(action)
        leg = self._leg(action.leg)
        now_ns = _nanoseconds(now)
        self._move_on(now_ns)
        started_at = self.started_at + timedelta(microseconds=(now_ns - self._origin_ns) // 1000)
        key = keys.call_recording_key(
            prefix=action.prefix,
            started_at=self.started_at,
            transaction_id=self.transaction_id,
            call_id=self.call_id,
            extension=FORMATS[action.format].extension,
        )
        recording = Recording(
            recording_id=f"{self.call_id}/{leg.name}",
            leg=leg,
            layout=action.layout,
            format_name=action.format,
            key=key,
            start_position=self._position(now_ns),
            started_at=started_at,
            sample_rate=RTP_SAMPLE_RATE,
            tags={
                "title": f"Call {self.call_id}",
                "date": rfc3339(started_at),
                "call-id": self.call_id,
                "transaction-id": self.transaction_id,
            },
        )
        for track in (leg.incoming, leg.outgoing):
            track.skip(recording.start_position)
        self._recorded_legs.add(leg.name)
        self._recordings[leg.name] = recording
        self._store(recording, recording.start())
        self._events.append(RecordingStarted(self.call_id, recording.recording_id, leg.name, started_at, key))
        return recording.recording_id

    def handle_timeout(self, *, now: float) -> None:
        """Move everything on to `now`: call it when `next_timeout` is due, or more often."""
        if not self._ended:
            self._move_on(_nanoseconds(now))
            self._moved_on_at = now

    def next_timeout(self) -> float | None:
        """When `handle_timeout` wants to be called next, on the host's clock; None after the end."""
        return None if self._ended else self._moved_on_at + STEP_S

    def end(self, *, now: float) -> None:
        """The call is over: recordings end at `now`, or where the audio that had arrived ends, if that is later."""
        self._check_running()
        now_ns = _nanoseconds(now)
        for leg in self.legs.values():
            leg.incoming.finish()
            leg.outgoing.finish()
            self._collect_digits(leg, final=True)
        for name, recording in list(self._recordings.items()):
            leg = self.legs[name]
            self._read(recording, self._position(now_ns))
            tracks = [leg.track(direction) for direction in recording.directions]
            # Step by step: the clock correction may still move the end by a sample.
            while (end := max(track.end for track in tracks)) > leg.incoming.position:
                self._read(recording, min(end, leg.incoming.position + RTP_SAMPLE_RATE // 50))
            self._finish(recording, "hangup")
        self._ended = True

    # -- drain ---------------------------------------------------------------------------------------------------

    def events(self) -> list[Event]:
        """What has happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def writes(self) -> list[tuple[str, Write]]:
        """What is to be stored since the last call, in order: (recording id, write).

        Whenever all of them have been applied the file is valid and says how much it holds.
        """
        writes, self._writes = self._writes, []
        return writes

    # -- within --------------------------------------------------------------------------------------------------

    def _check_running(self) -> None:
        if self._ended:
            raise UsageError(f"call {self.call_id} is over")

    def _check_startable(self, action: StartRecording) -> None:
        self._check_running()
        self._leg(action.leg)
        if action.leg in self._recorded_legs:
            raise self._recorded_already(action)
        if action.format not in FORMATS:
            raise UsageError(f"format {action.format!r}: one of {', '.join(FORMATS)} is possible")

    def _recorded_already(self, action: StartRecording) -> ActionConflictError:
        return ActionConflictError(
            f"{action.leg} has been recorded already", field="CallId", value=self.call_id
        )

    def _leg(self, name: str) -> Leg:
        try:
            return self.legs[name]
        except KeyError:
            raise UsageError(f"the call has no leg {name}") from None

    def _track(self, leg: str, direction: Direction | str) -> Track:
        self._check_running()
        return self._leg(leg).track(Direction(direction))

    def _position(self, now_ns: int) -> int:
        """The timeline position of a moment, rounded as the timeline rounds arrivals.

        `now` in seconds is true to a microsecond or so; in doubt the sample before, so that a packet which arrives at
        that very moment is not cut.
        """
        return max(0, int(((now_ns - self._origin_ns) * RTP_SAMPLE_RATE / 1e9 + 0.49) // 1))

    def _move_on(self, now_ns: int) -> None:
        for leg in self.legs.values():
            self._collect_digits(leg, final=False)
            ready = min(leg.incoming.ready(now_ns), leg.outgoing.ready(now_ns))
            recording = self._recordings.get(leg.name)
            if recording is not None:
                frames = recording.frames
                self._read(recording, ready)
                if recording.frames > frames:
                    self._store(recording, recording.flush())
            else:
                leg.incoming.skip(ready)
                leg.outgoing.skip(ready)

    def _read(self, recording: Recording, until: int) -> None:
        leg = recording.leg
        while leg.incoming.position < until:
            step = min(until, leg.incoming.position + READ_SAMPLES)
            self._store(recording, recording.add(leg.incoming.read(step), leg.outgoing.read(step)))

    def _collect_digits(self, leg: Leg, *, final: bool) -> None:
        for direction, track in leg.tracks:
            for digit in track.digits(final=final):
                leg.digits.append((direction, digit))
                self._events.append(
                    DigitReceived(
                        call_id=self.call_id,
                        leg=leg.name,
                        track=direction.value,
                        symbol=digit.symbol,
                        at_s=round(digit.position / RTP_SAMPLE_RATE, 6),
                        duration_s=round(digit.duration_samples / RTP_SAMPLE_RATE, 6),
                        source=digit.source.value,
                    )
                )

    def _store(self, recording: Recording, writes: list[Write]) -> None:
        self._writes.extend((recording.recording_id, write) for write in writes)

    def _finish(self, recording: Recording, end_reason: str) -> None:
        digits = sorted(recording.leg.digits, key=lambda entry: entry[1].position)
        self._store(recording, recording.finish(digits))
        manifest = {
            "version": MANIFEST_VERSION,
            "call_id": self.call_id,
            "transaction_id": self.transaction_id,
            "dialect": "chime",
            "action": "StartCallRecording",
            **recording.manifest(digits, end_reason),
        }
        del self._recordings[recording.leg.name]
        self._events.append(
            RecordingFinished(
                self.call_id, recording.recording_id, recording.leg.name, recording.key, end_reason, manifest
            )
        )


def _nanoseconds(now: float) -> int:
    return round(now * 1e9)
