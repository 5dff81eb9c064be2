"""A conference: calls that hear each other, and the recording of what is said in the room.

Each participant is a `Call` of its own, with its id, dialect and recordings, and joins with one leg. The host feeds
the calls as ever, moves everything on with `Conference.handle_timeout` (which moves the participants' calls on too),
sends each of `frames` to its participant, and drains `events` and `writes` of the conference as it drains those of
the calls.

There are two mixes, because one sum cannot be both true and live:

    what participants say ──┬─ as it arrives ──> Playout ──> mix minus own ──> frames to send, and outgoing tracks
      (incoming tracks)     └─ 1.1 s later, final ─────────> mix of all ─────> the conference's recording

* The *recording* is made of the true timelines: sample n is the saturated sum of what everybody present said at the
  moment n / 8000 s after it began, with late packets in their places, losses concealed and clocks corrected. That is
  known when the timelines are final.
* What a participant *hears* cannot wait for that. It is made of the audio that has arrived, in frames of 20 ms, 60 ms
  after its place on the timeline (`delay_ms`), more for a participant whose network needs more (`callreel.playout`).
  A packet that is lost is silence here, and a key sent as a telephone event is not heard.
* A participant's *call recording* holds both sides of that leg: incoming, what they said, true; outgoing, what was
  really sent to them. So these frames go into the outgoing track, each at the moment at which it is to be sent. Add
  the leg with `host_frames=Direction.OUTGOING` for that; to a track that takes RTP the host gives the packets it
  makes of the frames.

Rules:

1. Someone is in the room from the sample of `join` on, up to that of `leave`, in the recording and in what others
   hear.
2. Whose leg is hung up, or whose call ends, has left.
3. A participant's call recording ends when they leave.
4. A recording of the conference ends on command, when its own rules say so, or when the last one leaves.
5. Sums are exact and saturated once. Who joined first, and in what pieces audio came, changes nothing.
6. A frame costs two additions for each participant, however many there are. A host that comes late gets the frames of
   the last 200 ms; older ones are never sent, and their time is silence in the outgoing tracks.

The recording is that of a call within, whose only leg "ROOM" hears the sum: so all that is said of recordings in
`callreel.recording` holds here. Its events tell of the room too: `LegChanged` when it fills and when it has emptied,
and `CallEnded` at the end, under the conference's id.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from callreel.actions import Layout, RecordingKind, StartRecording
from callreel.call import Call
from callreel.errors import ActionConflictError, UsageError
from callreel.events import Event, LegStatus, Participant, RecordingFinished
from callreel.formats import Write
from callreel.kernels import pcm
from callreel.legs import RTP_SAMPLE_RATE, Direction, Leg, Track
from callreel.playout import FRAME_SAMPLES, Line, Playout
from callreel.takes import degradation, track_entry

__all__ = ["ROOM", "Conference", "Frame"]

ROOM = "ROOM"
"""The leg of a conference's own call, in its events."""

DELAY_MS = 60
"""Of live audio: a lost packet is given up 40 ms after it, and a frame begins every 20 ms."""

FRAME_NS = 1_000_000_000 * FRAME_SAMPLES // RTP_SAMPLE_RATE
MAX_FRAMES_BEHIND = 10
MAX_UNSENT_FRAMES = 50
"""So many frames that were not sent are silence in an outgoing track; it finds longer pauses by itself."""
NOW_SLACK_NS = 1_000
"""`now` in seconds is true to a microsecond or so."""

SILENCE = bytes(2 * FRAME_SAMPLES)

FAR = 1 << 62
"""A position that no timeline reaches, in samples."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What a participant is to be sent: 20 ms of all the others."""

    call_id: str
    leg: str
    now: float
    """When, on the host's clock: the moment of its first sample."""
    pcm: bytes
    """16-bit mono at 8 kHz."""


class _Stay:
    """Someone in the room, from joining to leaving. Positions are the conference's."""

    def __init__(self, call: Call, leg: Leg, *, offset: int, joined: int, playout: Playout) -> None:
        self.call = call
        self.leg = leg
        self.offset = offset
        """From positions of the leg to the conference's."""
        self.joined = joined
        self.left = FAR
        self.live: Playout | None = playout
        """None when all that they said has been heard."""
        self.said = Line()
        """What they said, final, not yet mixed; only while the conference is recorded."""
        leg.incoming.on_hear.append(self._hear)

    def record(self, wanted: bool) -> None:
        """Begin or cease to keep what they say for the recording."""
        takers = self.leg.incoming.on_read
        if wanted and self._keep not in takers:
            takers.append(self._keep)
        elif not wanted and self._keep in takers:
            takers.remove(self._keep)
            self.said = Line()

    def close(self) -> None:
        """Let go of the leg."""
        self.leg.incoming.on_hear.remove(self._hear)
        self.record(False)

    @property
    def has_call(self) -> bool:
        """Whether the call goes on, and the leg is connected."""
        status = self.call.participants[self.leg.name].status
        return self.call.next_timeout() is not None and status is LegStatus.CONNECTED

    @property
    def final(self) -> int:
        """Up to where it is known what they say."""
        return FAR if self.call.next_timeout() is None else self.leg.incoming.position + self.offset

    @property
    def is_present(self) -> bool:
        """Whether they have not left."""
        return self.left == FAR

    def _hear(self, position: int, audio: bytes) -> None:
        if self.live is not None:
            position, audio = self._within(position, audio)
            if audio:
                self.live.put(position, audio)

    def _keep(self, position: int, audio: bytes) -> None:
        position, audio = self._within(position, audio)
        if audio:
            self.said.put(position, audio)

    def preview(self, begin: int, until: int) -> bytes:
        """What they have said by now from `begin` up to `until`, which the room has not read."""
        audio = self.said.peek(begin, until)
        at = max(begin, self.joined, self.leg.incoming.position + self.offset)
        end = min(until, self.left)
        if at >= end or not self.has_call:
            return audio
        coming = self.leg.incoming.preview(at - self.offset, end - self.offset)
        return audio[: 2 * (at - begin)] + coming + audio[2 * (end - begin) :]

    def _within(self, position: int, audio: bytes) -> tuple[int, bytes]:
        """What of a piece of the leg's timeline falls into the stay, on the conference's."""
        position += self.offset
        begin, end = max(position, self.joined), min(position + len(audio) // 2, self.left)
        return begin, audio[2 * (begin - position) : 2 * max(0, end - position)]


class _Mix(Track):
    """What is said in the room: a track that is read, and never fed; what comes in goes out as well."""

    def __init__(self, origin_ns: int) -> None:
        super().__init__(origin_ns=origin_ns, detect_digits=False)
        self.stays: list[_Stay] = []
        self._read_until = 0

    @property
    def position(self) -> int:
        return self._read_until

    @property
    def end(self) -> int:
        ends = [min(stay.leg.incoming.end + stay.offset, stay.left) for stay in self.stays]
        return max([self._read_until, *ends])

    def ready(self, now_ns: int) -> int:
        """Up to where nobody can say more: now, or where the last timeline is final."""
        now = (now_ns - self.origin_ns) * RTP_SAMPLE_RATE // 1_000_000_000
        return min([now, *(stay.final for stay in self.stays if stay.final < stay.left)])

    def read(self, until: int) -> bytes:
        begin, self._read_until = self._read_until, max(until, self._read_until)
        said = [stay.said.take(begin, until) for stay in self.stays]
        audible = [audio for audio in said if audio is not None]
        mixed = pcm.mix(audible) if audible else bytes(2 * max(0, until - begin))
        return pcm.interleave(mixed, mixed)

    def preview(self, begin: int, until: int) -> bytes:
        said = [stay.preview(begin, until) for stay in self.stays]
        mixed = pcm.mix(said) if said else bytes(2 * (until - begin))
        return pcm.interleave(mixed, mixed)

    def skip(self, until: int) -> None:
        self._read_until = max(until, self._read_until)
        for stay in self.stays:
            stay.said.drop(until)


@dataclass(slots=True)
class _Recorded:
    """A recording of the conference, until it is finished."""

    start: int
    """Its first sample."""
    before: dict[_Stay, dict[str, int]]
    """Packets of each participant that came before it, or before they joined."""
    tracks: list[tuple[int, int, dict[str, Any]]] = field(default_factory=list)
    """Of those who have left: (joined, left, track as in the manifest)."""


class Conference:
    """A room: calls join and leave; drain what is to be sent to them, events and writes."""

    def __init__(
        self,
        conference_id: str,
        *,
        started_at: datetime,
        now: float,
        delay_ms: int = DELAY_MS,
        as_pcm: bool = False,
    ) -> None:
        """An empty room, which begins at `started_at` (UTC), which is `now` on the host's clock.

        `delay_ms` is how long after its place on the timeline audio is sent to the others, at least. It takes up the
        jitter of the network; below 60 ms a lost packet may tear a larger hole. `as_pcm` is that of `Call`.
        """
        if not 0 <= delay_ms <= 200:
            raise UsageError(f"a delay of {delay_ms} ms: 0 to 200 are possible")
        self.conference_id = conference_id
        self._delay_samples = delay_ms * RTP_SAMPLE_RATE // 1000
        self._origin_ns = _nanoseconds(now)
        self._room = Call(conference_id, started_at=started_at, now=now, as_pcm=as_pcm)
        self._mix = _Mix(self._origin_ns)
        self._room.legs[ROOM] = Leg(ROOM, self._mix, self._mix, timelines=self._mix)
        self._room.participants[ROOM] = Participant(
            leg=ROOM,
            call_id=conference_id,
            to="",
            from_="",
            inbound=True,
            status=LegStatus.DISCONNECTED,
            started_at=self._room.started_at,
        )
        self._recorded: dict[str, _Recorded] = {}
        self._next_frame = 0  # its number
        self._frames: list[Frame] = []
        self._events: list[Event] = []
        self._ending = False

    # -- coming and going ----------------------------------------------------------------------------------------

    def join(self, call: Call, leg: str = "LEG-A", *, now: float) -> None:
        """Let a leg of a call into the room: from `now` on they hear the others and are heard.

        Raises:
            UsageError: there is no such leg, it is not connected, or it is in the room.
        """
        self._check_running()
        if leg not in call.legs:
            raise UsageError(f"the call has no leg {leg}")
        if call.next_timeout() is None or call.participants[leg].status is not LegStatus.CONNECTED:
            raise UsageError(f"{leg} of call {call.call_id} is not connected")
        self._move_on(now)
        if any((stay.call.call_id, stay.leg.name) == (call.call_id, leg) for stay in self._present):
            raise UsageError(f"{leg} of call {call.call_id} is in the room already")
        if not self._present:
            room = self._room.participants[ROOM]
            self._room.participants[ROOM] = room._replace(
                status=LegStatus.OFFERED
            )  # it opens, again or for the first time
            self._room.answered(ROOM, now=now)
        joined = call.legs[leg]
        stay = _Stay(
            call,
            joined,
            offset=_samples(joined.incoming.origin_ns - self._origin_ns),
            joined=self._position(now),
            playout=Playout(self._delay_samples, self._next_frame * FRAME_SAMPLES),
        )
        self._mix.stays.append(stay)
        for recorded in self._recorded.values():
            recorded.before[stay] = joined.incoming.counts
        stay.record(bool(self._recorded))
        self._collect()

    def leave(self, call: Call, leg: str = "LEG-A", *, now: float) -> None:
        """Let a participant go; their call recording ends, and with the last one the conference's.

        Leaving twice does nothing.
        """
        self.handle_timeout(now=now)
        for stay in self._present:
            if stay.call is call and stay.leg.name == leg:
                self._let_go(stay, now)
        self._collect()

    def _let_go(self, stay: _Stay, now: float) -> None:
        stay.left = self._position(now)
        if stay.has_call:
            with suppress(ActionConflictError):  # not recorded
                stay.call.stop_recording(stay.leg.name, now=now)
        elif stay.final == FAR:
            stay.left = max(stay.joined, min(stay.left, stay.leg.incoming.position + stay.offset))
        if not self._present:
            emptied = max(stay.left for stay in self._mix.stays)
            self._room.hang_up(ROOM, now=self._origin_ns / 1e9 + emptied / RTP_SAMPLE_RATE)

    @property
    def participants(self) -> list[tuple[str, str]]:
        """Who is in the room, as (call id, leg), in the order in which they joined."""
        return [(stay.call.call_id, stay.leg.name) for stay in self._present]

    @property
    def _present(self) -> list[_Stay]:
        return [stay for stay in self._mix.stays if stay.is_present]

    # -- the recording of the conference -------------------------------------------------------------------------

    def start_recording(self, action: StartRecording | None = None, *, now: float) -> str:
        """Record the room from `now` on; returns the recording's id. `action.leg` says nothing here.

        Raises:
            ActionConflictError: nobody is in the room, or it is being recorded, or has been and `action.once` is set.
            UsageError: the action is not about a conference, or there is no such format.
        """
        self._check_running()
        if action is None:
            action = StartRecording(kind=RecordingKind.CONFERENCE, layout=Layout.MIX, once=False)
        if action.kind is not RecordingKind.CONFERENCE or action.layout is not Layout.MIX:
            raise UsageError("of a conference there is a recording of kind CONFERENCE and layout MIX")
        if action.prompt is not None or action.beep:
            raise UsageError("a prompt or a beep is played to a participant, not to a conference")
        self._move_on(now)
        recording_id = self._room.start_recording(
            action._replace(leg=ROOM, layout=Layout.INCOMING),  # the sum is the room's one track
            now=now,
        )
        self._recorded[recording_id] = _Recorded(
            start=max(self._position(now), self._mix.position),
            before={stay: stay.leg.incoming.counts for stay in self._mix.stays},
        )
        for stay in self._mix.stays:
            stay.record(True)
        self._collect()
        return recording_id

    def stop_recording(self, *, now: float) -> None:
        """End the conference's recording at `now`; ActionConflictError when none is running."""
        self._check_running()
        self._move_on(now)
        self._room.stop_recording(ROOM, now=now, kind=RecordingKind.CONFERENCE)
        self._collect()

    def pause_recording(self, *, now: float) -> None:
        """Pause the conference's recording from `now` on; ActionConflictError when none is running."""
        self._check_running()
        self._move_on(now)
        self._room.pause_recording(ROOM, now=now, kind=RecordingKind.CONFERENCE)
        self._collect()

    def resume_recording(self, *, now: float) -> None:
        """Go on with the conference's recording from `now` on; ActionConflictError when none is running."""
        self._check_running()
        self._move_on(now)
        self._room.resume_recording(ROOM, now=now, kind=RecordingKind.CONFERENCE)
        self._collect()

    def stored(self, recording_id: str, *, now: float, error: str | None = None) -> None:
        """A recording that `RecordingFinished` told of is where it belongs, or could not be stored (`error`)."""
        self._room.stored(recording_id, now=now, error=error)
        self._collect()

    # -- time ----------------------------------------------------------------------------------------------------

    def handle_timeout(self, *, now: float) -> None:
        """Mix what is due, and move the recording and the participants' calls on to `now`."""
        if not self.is_over:
            self._move_on(now)

    def next_timeout(self) -> float | None:
        """When `handle_timeout` wants to be called next, on the host's clock; None after the end."""
        times = [self._room.next_timeout(), *(stay.call.next_timeout() for stay in self._mix.stays)]
        if self.is_over:
            return None
        if self._present:
            times.append((self._origin_ns + self._next_frame * FRAME_NS) / 1e9)
        return min(time for time in times if time is not None)

    def end(self, *, now: float) -> None:
        """Close the room: everybody leaves. What was said is final 1.1 s later; then comes `CallEnded`."""
        self._check_running()
        self._move_on(now)
        for stay in self._present:
            self._let_go(stay, now)
        self._ending = True
        self._move_on(now)

    @property
    def is_over(self) -> bool:
        """Whether the room is closed, and all that was said in it is recorded."""
        return self._room.next_timeout() is None

    # -- drain ---------------------------------------------------------------------------------------------------

    def frames(self) -> list[Frame]:
        """What is to be sent since the last call, in order of time."""
        frames, self._frames = self._frames, []
        return frames

    def events(self) -> list[Event]:
        """What has happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def writes(self) -> list[tuple[str, Write]]:
        """What is to be stored since the last call, in order: (recording id, write)."""
        return self._room.writes()

    # -- within --------------------------------------------------------------------------------------------------

    def _move_on(self, now: float) -> None:
        for stay in self._present:
            if not stay.has_call:
                self._let_go(stay, now)
        for stay in self._mix.stays:
            due = stay.call.next_timeout()
            if due is not None and due <= now:
                stay.call.handle_timeout(now=now)
        self._send(now)
        due = self._room.next_timeout()
        if due is not None and (due <= now or self._ending):
            self._room.handle_timeout(now=now)
        self._forget_those_who_left()
        if self._ending and not self._mix.stays:
            self._room.end(now=now)
        self._collect()

    def _send(self, now: float) -> None:
        """Mix the frames that are due."""
        due = (_nanoseconds(now) + NOW_SLACK_NS - self._origin_ns) // FRAME_NS
        if due < self._next_frame:
            return
        if not self._present:
            self._next_frame = due + 1
            return
        for stay in self._mix.stays:
            if stay.live is not None:
                stay.leg.incoming.listen()
        first = max(self._next_frame, due - MAX_FRAMES_BEHIND + 1)
        for number in range(max(self._next_frame, first - MAX_UNSENT_FRAMES), first):
            for stay in self._present:
                self._note_sent(stay, SILENCE, number)
        for number in range(first, due + 1):
            self._send_frame(number)
        self._next_frame = due + 1

    def _send_frame(self, number: int) -> None:
        talking: list[_Stay] = []
        said: list[bytes] = []
        for stay in self._mix.stays:
            if stay.live is None:
                continue
            audio = stay.live.frame(number * FRAME_SAMPLES)
            if audio is not None:
                talking.append(stay)
                said.append(audio)
            if stay.live.position >= stay.left:
                stay.live = None
        # Who says nothing hears everybody: one sum for all of them.
        *heard, everybody = pcm.mix_minus([*said, SILENCE])
        heard_by = dict(zip(talking, heard, strict=True))
        for stay in self._present:
            audio = heard_by.get(stay, everybody)
            now = (self._origin_ns + number * FRAME_NS) / 1e9
            self._frames.append(Frame(stay.call.call_id, stay.leg.name, now, audio))
            self._note_sent(stay, audio, number)

    def _note_sent(self, stay: _Stay, audio: bytes, number: int) -> None:
        if stay.leg.outgoing.host_frames:
            stay.leg.outgoing.receive_pcm(audio, self._origin_ns + number * FRAME_NS)

    def _forget_those_who_left(self) -> None:
        """Let go of those whose audio is final and mixed, and write down what became of their packets."""
        nobody_listens = not self._present
        for stay in list(self._mix.stays):
            is_heard = stay.live is None or nobody_listens
            if not is_heard or min(stay.final, self._mix.position) < stay.left:
                continue
            self._mix.stays.remove(stay)
            stay.close()
            for recorded in self._recorded.values():
                recorded.tracks.append((stay.joined, stay.left, _track(stay, recorded)))
                del recorded.before[stay]

    def _collect(self) -> None:
        for event in self._room.events():
            if isinstance(event, RecordingFinished):
                recorded = self._recorded.pop(event.recording_id)
                self._events.append(event._replace(manifest=self._manifest(event, recorded)))
                for stay in self._mix.stays:
                    stay.record(bool(self._recorded))
            else:
                self._events.append(event)

    def _manifest(self, event: RecordingFinished, recorded: _Recorded) -> dict[str, Any]:
        """The manifest of a recording: who was in the room, in place of the room."""
        samples = round(event.manifest["duration"] * RTP_SAMPLE_RATE)
        stays = recorded.tracks + [
            (stay.joined, stay.left, _track(stay, recorded)) for stay in recorded.before
        ]
        tracks = []
        for joined, left, track in stays:
            begin = (max(joined, recorded.start) - recorded.start) / RTP_SAMPLE_RATE
            end = (min(left - recorded.start, samples)) / RTP_SAMPLE_RATE
            if begin < end:
                gaps = [
                    {"from": max(gap["from"], begin), "to": min(gap["to"], end)}
                    for gap in track["gaps"]
                    if gap["from"] < end and gap["to"] > begin
                ]
                tracks.append(track | {"from": begin, "to": end, "gaps": gaps})
        errors = [track.pop("alignment_error_ms") for track in tracks]
        return {
            **event.manifest,
            "dialect": None,
            "action": None,
            "layout": Layout.MIX.value,
            "tracks": tracks,
            "degraded": degradation(tracks),
            "alignment_error_ms": max(errors, default=0.0),
        }

    def _check_running(self) -> None:
        if self._ending:
            raise UsageError(f"conference {self.conference_id} is over")

    def _position(self, now: float) -> int:
        """The sample of a moment; in doubt the one before, as for a call."""
        since_ns = _nanoseconds(now) - self._origin_ns
        return max(0, int((since_ns * RTP_SAMPLE_RATE / 1e9 + 0.49) // 1))


def _track(stay: _Stay, recorded: _Recorded) -> dict[str, Any]:
    """What the manifest says of a participant, with all gaps since the recording began."""
    entry = track_entry(
        stay.leg,
        Direction.INCOMING,
        channel=0,
        start_position=recorded.start - stay.offset,
        samples=FAR,
        counts_before=recorded.before[stay],
    )
    error_ms = round(stay.leg.incoming.alignment_error_ms, 3)
    return {"call_id": stay.call.call_id, **entry, "alignment_error_ms": error_ms}


def _samples(nanoseconds: int) -> int:
    """The nearest number of samples."""
    return (nanoseconds * RTP_SAMPLE_RATE + 500_000_000) // 1_000_000_000


def _nanoseconds(now: float) -> int:
    return round(now * 1e9)
