"""A call as the embedding program knows it: legs, what is asked of them, what is recorded, and what came of it.

Feed, then drain: `receive_rtp` (or its batch and PCM forms) takes what arrives, `request` what the vendor's customer
asks for, `handle_timeout` moves everything on when `next_timeout` is due; `events` and `writes` hand out what there is
to tell and to store. `now` is the host's clock in seconds, any epoch, the same for all verbs of a call; nothing here
reads a clock, opens a file or starts a thread. A call belongs to one thread at a time.

What the host is asked for in events, and how it answers:

    Play                 play the prompt or the beep to the participant        `played`
    Perform              carry out an action that is not about recording       `performed`, unless it is one of these:
                         StartConferenceRecording, StopConferenceRecording:    nothing
                         the leg's conference, as parameters["recording"] asks
    StopPlaying          end what is being played or performed for an action   nothing
    RecordingFinished    store the recording where it belongs                  `stored`
    VendorMessage        tell the customer; an "invocation" wants an answer    `request`
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from callreel import keys
from callreel.actions import (
    Action,
    EndReason,
    InvalidAction,
    OtherAction,
    PauseRecording,
    Prompt,
    RecordingKind,
    ResumeRecording,
    StartRecording,
    StopRecording,
)
from callreel.errors import ActionConflictError, ActionError, UsageError
from callreel.events import (
    ActionEnded,
    CallEnded,
    CallView,
    DigitReceived,
    Event,
    LegChanged,
    LegStatus,
    Outcome,
    Participant,
    Perform,
    Play,
    RecordingFinished,
    RecordingStarted,
    RecordingStored,
    StopPlaying,
    VendorMessage,
)
from callreel.formats import FORMATS, Write
from callreel.legs import RTP_SAMPLE_RATE, Digit, DigitSource, Direction, Leg, Track
from callreel.recording import FAR, Recording, State, Trigger
from callreel.takes import MANIFEST_VERSION, rfc3339

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from callreel.dialects import Answer, Order, Response, Session

__all__ = ["Call"]

STEP_S = 0.2
"""How often a running recording is moved on: a file on disk is at most this much behind the timeline."""

HAND_ON_SAMPLES = 48 * RTP_SAMPLE_RATE // 100
"""How much final audio is handed on at a time where what has come has been written ahead, so that nobody waits for it:
most of what a step costs does not depend on how much audio it moves."""

READ_SAMPLES = 32_768
"""Samples read of a track at a time: 4 s at 8 kHz bounds the memory after a long silence."""

KEY_MS = 100
"""How long a key is taken to have been pressed that the host found."""

USUAL_DELAY_SAMPLES = RTP_SAMPLE_RATE // 10
"""How late audio usually is: what has not come by then is taken for silence in a preview."""

MAX_HOLD_SAMPLES = 2 * RTP_SAMPLE_RATE
"""How far the timeline waits for the end of a key that may end a recording where it began."""

AHEAD_SAMPLES = RTP_SAMPLE_RATE // 2
"""How far before its time audio that had come by a hang-up may stand: packets and frames do, by what they hold and by
the jitter that is evened out."""


class Call:
    """One call: add its legs, feed their media, ask for recordings, drain events and writes."""

    __slots__ = (
        "_as_pcm",
        "_ended",
        "_events",
        "_last_moment",
        "_last_view",
        "_moved_on_at",
        "_now",
        "_origin_ns",
        "_queue",
        "_recordings",
        "_refusal",
        "_running",
        "_session",
        "_started",
        "_stored_id",
        "_taking",
        "_writes",
        "call_id",
        "legs",
        "participants",
        "started_at",
        "transaction_id",
    )

    def __init__(
        self,
        call_id: str,
        *,
        started_at: datetime,
        now: float,
        transaction_id: str | None = None,
        dialect: Session | None = None,
        as_pcm: bool = False,
    ) -> None:
        """A call that began at `started_at` (UTC), which is `now` on the host's clock.

        `transaction_id` goes into object keys and metadata; by default the call's own id. `dialect` reads requests
        and words messages, for instance `callreel.dialects.chime.Chime(...)`; without one the host calls
        `start_recording` and its like. With `as_pcm` every recording is written as WAV at the leg's rate, with what has
        come written at once and again when it is final: the host makes the file that was asked for when it has ended,
        and a process that dies leaves all but the last step behind.
        """
        if started_at.tzinfo is None:
            raise UsageError("started_at must know its time zone: datetime.now(UTC), not datetime.now()")
        self.call_id = call_id
        self.transaction_id = transaction_id if transaction_id is not None else call_id
        self.started_at = started_at.astimezone(UTC)
        self.legs: dict[str, Leg] = {}
        self.participants: dict[str, Participant] = {}
        self._session = dialect
        self._as_pcm = as_pcm
        self._origin_ns = _nanoseconds(now)
        self._now = self._moved_on_at = now
        self._recordings: dict[str, Recording] = {}  # those whose audio has not ended, by id
        self._taking: defaultdict[str, list[Recording]] = defaultdict(list)  # the same, by leg
        self._refusal: ActionError | None = None
        self._started: dict[tuple[str, RecordingKind], int] = {}  # how many of a kind a leg has had
        self._queue: list[Action] = []
        self._running: Action | None = None
        self._stored_id: str | None = None  # the recording that the running action waits for
        self._events: list[Event] = []
        self._writes: list[tuple[str, Write]] = []
        self._ended = False
        view = CallView(
            self.call_id, self.transaction_id, self.started_at, self.started_at, self.participants
        )
        self._last_view: tuple[float, CallView] = now, view
        self._last_moment: tuple[float, datetime] = now, self.started_at

    @property
    def dialect(self) -> str:
        """The vendor whose words are used; without a session, Amazon Chime's."""
        return "chime" if self._session is None else self._session.dialect

    # -- legs and media ------------------------------------------------------------------------------------------

    def add_leg(
        self,
        name: str = "LEG-A",
        *,
        call_id: str | None = None,
        to: str = "",
        from_: str = "",
        status: LegStatus = LegStatus.CONNECTED,
        inbound: bool = True,
        now: float | None = None,
        payload_types: Mapping[int, str] | None = None,
        host_frames: bool | Direction = False,
        detect_digits: bool = True,
        render_events: bool = True,
        host_digits: bool = False,
    ) -> Leg:
        """Add a participant's connection.

        `call_id` is the leg's own id where the vendor has one for each, by default the call's; `to` and `from_` are
        numbers as the vendor writes them. `payload_types` maps RTP payload types to codec names for both
        directions, by default the static ones. With `host_frames` the leg takes PCM (`receive_pcm`) in place of RTP,
        with `host_frames=Direction.OUTGOING` only the track of that direction.
        `render_events` lets keys sent as telephone events be heard in the recording where the stream has no audio
        of its own. With `host_digits` keys may come by `receive_digit` whose tones sound in the audio too: each is one.
        """
        self._check_running()
        if name in self.legs:
            raise UsageError(f"the call has a leg {name} already")
        self._at(now)

        def track(direction: Direction) -> Track:
            return Track(
                origin_ns=self._origin_ns,
                payload_types=payload_types,
                host_frames=host_frames is True or host_frames == direction,
                detect_digits=detect_digits,
                render_events=render_events,
                host_digits=host_digits,
            )

        self.legs[name] = Leg(name, track(Direction.INCOMING), track(Direction.OUTGOING))
        self.participants[name] = Participant(
            leg=name,
            call_id=self.call_id if call_id is None else call_id,
            to=to,
            from_=from_,
            inbound=inbound,
            status=status,
            started_at=self._moment(self._now),
        )
        self._tell(LegChanged(self.call_id, name, status))
        self._run()
        return self.legs[name]

    def ringing(self, leg: str, *, now: float) -> None:
        """The participant who is called hears it."""
        self._change(leg, LegStatus.RINGING, now)

    def answered(self, leg: str, *, now: float) -> None:
        """The participant has answered, or has been answered."""
        self._change(leg, LegStatus.CONNECTED, now)

    def hang_up(self, leg: str, *, now: float, sip_response_code: int = 0) -> None:
        """A leg is over: its recordings end at `now`, or where the audio that had arrived ends, if that is later.

        What had come counts up to 0.5 s ahead of `now`. Nothing that waits for the leg is done any more.
        `sip_response_code` says why: 0 for a hang-up, 480 for no answer, 486 for busy.
        """
        self._check_running()
        self._leg(leg)
        if self.participants[leg].status is LegStatus.DISCONNECTED:
            return
        self._at(now)
        self._queue = [action for action in self._queue if action.leg != leg]
        for _, track in self.legs[leg].tracks:
            track.flush()
            track.settle()
        end = self._end_of(self.legs[leg])
        for _, track in self.legs[leg].tracks:
            if track.end > end:
                track.receiver.leave_out()
        self._end_recordings(end, self.legs[leg])
        if (
            self._running is not None
            and self._running.leg == leg
            and not isinstance(self._running, StartRecording)
        ):
            self._end_running(Outcome.CANCELLED, reason=EndReason.HANGUP)
        self._change(leg, LegStatus.DISCONNECTED, now, sip_response_code)

    def _change(self, leg: str, status: LegStatus, now: float, sip_response_code: int = 0) -> None:
        self._check_running()
        self._leg(leg)
        self._at(now)
        if self.participants[leg].status is LegStatus.DISCONNECTED:
            return  # signalling that comes late
        self.participants[leg] = self.participants[leg]._replace(status=status)
        self._tell(LegChanged(self.call_id, leg, status, sip_response_code))
        self._run()

    def receive_rtp(
        self, leg: str, packet: Buffer, *, now: float, direction: Direction | str = Direction.INCOMING
    ) -> None:
        """Take one RTP (or RTCP) packet of a leg. What is wrong with it is counted, never raised."""
        # The one verb that is called for every packet: the common case without further calls.
        if direction is Direction.INCOMING and leg in self.legs and not self._ended:
            self.legs[leg].incoming.receiver.receive(packet, round(now * 1e9), True)
        else:
            self._track(leg, direction).receive(packet, _nanoseconds(now))

    def receive_rtcp(
        self, leg: str, packet: Buffer, *, now: float, direction: Direction | str = Direction.INCOMING
    ) -> None:
        """Take one RTCP packet of a leg, which came on a port of its own."""
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

        Takes `count` of them (default: all) from the one with index `first` on, those up to `until_ns`; returns how
        many, fewer when recordings must be moved on first.
        """
        one = self.legs.get(leg)
        if one is None or self._ended:
            track = self._track(leg, direction)  # which says what is wrong
        elif direction == "incoming":  # the usual cases without a call
            track = one.incoming
        elif direction == "outgoing":
            track = one.outgoing
        else:
            track = one.track(Direction(direction))
        return track.receiver.receive_batch(data, records, first, count, until_ns)

    def track(self, leg: str, direction: Direction | str = Direction.INCOMING) -> Track:
        """A leg's timeline: packets may be handed in there without the call in between, as long as that goes on."""
        return self._track(leg, direction)

    def receive_pcm(
        self,
        leg: str,
        frames: Buffer,
        *,
        now: float,
        sample_rate: int | None = None,
        direction: Direction | str = Direction.INCOMING,
    ) -> None:
        """Take mono 16-bit PCM of a leg that was added with `host_frames`, its first sample at `now`.

        `sample_rate` is 8000 (the default), 16000, 24000 or 48000 Hz, and stays the same.
        """
        track = self._track(leg, direction)
        if not track.takes_pcm(frames, sample_rate):
            # A stall of seconds is over, and all that it held up comes at once.
            self._move_on(_nanoseconds(self._now))
        track.receive_pcm(frames, _nanoseconds(now), sample_rate)

    def leave_out(self, leg: str, *, direction: Direction | str = Direction.INCOMING) -> None:
        """Say that the host has left out a piece of a leg's audio that came: its recordings tell of the damage."""
        self._track(leg, direction).receiver.leave_out()

    def receive_digit(
        self,
        leg: str,
        symbol: str,
        *,
        now: float,
        duration_ms: int = KEY_MS,
        track: Direction | str = "incoming",
    ) -> None:
        """Take a key that the host found itself; add the leg with `detect_digits=False` or `host_digits=True`.

        `symbol` is one of 0123456789*#ABCD. It began at `now`, was pressed for `duration_ms` milliseconds, and was
        heard on `track`: "incoming" is the participant's own.
        """
        self._check_running()
        if len(symbol) != 1 or symbol not in "0123456789*#ABCD":
            raise UsageError(f"a key is one of 0123456789*#ABCD, not {symbol!r}")
        samples = duration_ms * RTP_SAMPLE_RATE // 1000
        digit = Digit(symbol, self._position(now), samples, DigitSource.HOST)
        self._leg(leg).track(Direction(track)).press(digit)
        self._press(self._leg(leg), Direction(track), digit)

    # -- requests ------------------------------------------------------------------------------------------------

    def request(self, document: Any, *, now: float) -> Response | None:
        """Take a document of the vendor's customer: an answer to a message, or a request of their own.

        What is wrong with it is told in the vendor's way: in a message, or in the response, which is what the vendor's
        HTTP interface answers; None where there is no such thing.
        """
        self._check_running()
        if self._session is None:
            raise UsageError(
                "a call without a dialect understands no vendor's documents: Call(..., dialect=...)"
            )
        self._at(now)
        response = self._follow(self._session.request(document, self._view()))
        self._run()
        return response

    def update_call(self, arguments: Mapping[str, str], *, now: float) -> Response | None:
        """Ask the customer's program what to do now, as Amazon Chime's UpdateSipMediaApplicationCall does.

        The answer to the message that comes of it may cut short what is running.
        """
        return self.request({"Arguments": arguments}, now=now)

    def start_recording(self, action: StartRecording, *, now: float) -> str:
        """Record a leg from `now` on, or from when what comes before has been played; returns the recording's id.

        Raises:
            ActionConflictError: the leg has, or has had, such a recording.
            UsageError: there is no such leg or format.
        """
        self._check_running()
        self._at(now)
        return self._start_recording(action)

    def stop_recording(
        self, leg: str = "LEG-A", *, now: float, kind: RecordingKind = RecordingKind.CALL
    ) -> None:
        """End a leg's recording at `now`; ActionConflictError when none is running."""
        self._check_running()
        self._at(now)
        self._control(StopRecording(leg=leg, kind=kind))

    def pause_recording(
        self, leg: str = "LEG-A", *, now: float, kind: RecordingKind = RecordingKind.CALL
    ) -> None:
        """Pause a leg's recording from `now` on; ActionConflictError when none is running."""
        self._check_running()
        self._at(now)
        self._control(PauseRecording(leg=leg, kind=kind))

    def resume_recording(
        self, leg: str = "LEG-A", *, now: float, kind: RecordingKind = RecordingKind.CALL
    ) -> None:
        """Go on with a leg's recording from `now` on; ActionConflictError when none is running."""
        self._check_running()
        self._at(now)
        self._control(ResumeRecording(leg=leg, kind=kind))

    def refuse_recordings(self, error: ActionError | None) -> None:
        """Let recordings that begin from now on fail with `error`, because the host has no room for them; None: not.

        With the field "system" it is the host's fault, in the vendor's words.
        """
        self._refusal = error
        moment, view = self._last_view
        self._last_view = moment, view._replace(refusal=error)

    def awaits(self, recording_id: str) -> bool:
        """Whether a list of actions waits for this recording to be `stored`."""
        return recording_id == self._stored_id

    # -- the host's answers --------------------------------------------------------------------------------------

    def played(self, action_id: str, *, now: float, error: ActionError | None = None) -> None:
        """What a `Play` asked for has been played to its end, or could not be (`error`)."""
        self._at(now)
        for recording in self._recordings.values():
            if recording.action.action_id == action_id and recording.started_at is None:
                break
        else:
            return  # called off meanwhile
        if error is not None:
            self._drop(recording, EndReason.FAILED, error)
        elif recording.state is State.PROMPTING and recording.action.beep:
            recording.trigger(Trigger.BEEP)
            self._tell(Play(self.call_id, recording.leg.name, action_id, Prompt()))
        else:
            self._begin(recording)
        self._run()

    def performed(
        self,
        action_id: str,
        *,
        now: float,
        error: ActionError | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        """What a `Perform` asked for is done, or could not be (`error`)."""
        self._at(now)
        if isinstance(self._running, OtherAction) and self._running.action_id == action_id:
            outcome = Outcome.DONE if error is None else Outcome.FAILED
            self._end_running(outcome, error=error, result=result or {})
            self._run()

    def stored(self, recording_id: str, *, now: float, error: str | None = None) -> None:
        """A recording that `RecordingFinished` told of is where it belongs, or could not be stored (`error`)."""
        self._at(now)
        awaited = recording_id == self._stored_id
        action_id = self._running.action_id if awaited and self._running is not None else ""
        self._tell(RecordingStored(self.call_id, recording_id, action_id, error))
        if awaited:
            failure = None if error is None else ActionError(error)
            self._end_running(Outcome.DONE if failure is None else Outcome.FAILED, error=failure)
            self._run()

    def tell_of_conference(self, event: Event, *, now: float) -> None:
        """Let the vendor's session hear an event of a conference whose recording this call has asked for.

        Of interest are RecordingFinished, and RecordingStored with the same `action_id`; also after the call's end.
        """
        self._at(now)
        if self._session is not None:
            self._follow(self._session.tell(event, self._view()))

    # -- time ----------------------------------------------------------------------------------------------------

    def handle_timeout(self, *, now: float) -> None:
        """Move everything on to `now`: call it when `next_timeout` is due, or more often."""
        if not self._ended:
            self._now = now
            self._move_on(round(now * 1e9))
            if self._queue:
                self._run()

    def next_timeout(self) -> float | None:
        """When `handle_timeout` wants to be called next, on the host's clock; None after the end."""
        return None if self._ended else self._moved_on_at + STEP_S

    def end(self, *, now: float) -> None:
        """The call is over: recordings end at `now`, or where the audio that had arrived ends, if that is later."""
        self._check_running()
        self._at(now)
        for leg in self.legs.values():
            leg.incoming.finish()
            leg.outgoing.finish()
            self._collect_digits(leg, final=True)
        self._queue.clear()
        position = self._position(now)
        for leg in self.legs.values():
            self._advance(leg, position)
            # Step by step: the clock correction may still move the end by a sample.
            while self._taking[leg.name] and (end := self._audio_end(leg)) > leg.timelines.position:
                self._advance(leg, min(end, leg.timelines.position + RTP_SAMPLE_RATE // 50))
            self._end_recordings(leg.timelines.position, leg)
            for recording in self._taking[leg.name]:
                recording.cut(leg.timelines.position)  # which may lie before the end that a hang-up told
            self._finish_complete(self._taking[leg.name])
        self._ended = True
        if self._running is not None and self._stored_id is None:
            self._end_running(Outcome.CANCELLED, reason=EndReason.HANGUP)
        self._tell(CallEnded(self.call_id))

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

    # -- what is asked, carried out ------------------------------------------------------------------------------

    def _follow(self, answer: Answer) -> Response | None:
        """Do what a session makes of a document or an event."""
        assert self._session is not None
        for kind, body in answer.messages:
            self._events.append(VendorMessage(self.call_id, self._session.dialect, kind, body))
        if answer.order is not None:
            self._obey(answer.order)
        return answer.response

    def _obey(self, order: Order) -> None:
        if order.stop_running is not None:
            self._stop_running(order.stop_running)
        if order.drop_queue:
            dropped, self._queue = self._queue, []
            for action in dropped if order.stop_running is EndReason.CANCELLED else ():
                self._tell(
                    ActionEnded(self.call_id, action.action_id, Outcome.CANCELLED, reason=EndReason.CANCELLED)
                )
        if order.at_once:
            for action in order.actions:
                self._carry_out(action)
        else:
            self._queue.extend(order.actions)

    def _run(self) -> None:
        """Carry out what waits, up to an action that takes time."""
        while self._running is None and self._queue and not self._ended:
            self._carry_out(self._queue.pop(0))

    def _carry_out(self, action: Action) -> None:
        try:
            match action:
                case InvalidAction():
                    raise action.error
                case OtherAction():
                    if action.awaited:
                        self._running = action
                    self._tell(
                        Perform(self.call_id, action.leg, action.action_id, action.name, action.parameters)
                    )
                    if action.awaited:
                        return
                case StartRecording(kind=RecordingKind.MESSAGE):
                    self._running = action
                    self._start_recording(action)
                    return
                case (
                    StartRecording(kind=RecordingKind.CONFERENCE)
                    | StopRecording(kind=RecordingKind.CONFERENCE)
                ):
                    verb = "Start" if isinstance(action, StartRecording) else "Stop"
                    name, parameters = f"{verb}ConferenceRecording", {"recording": action}
                    self._tell(Perform(self.call_id, action.leg, action.action_id, name, parameters))
                case StartRecording():
                    self._start_recording(action)
                case _:
                    self._control(action)
        except ActionError as error:
            if self._running is action:
                self._running = None
            self._tell(ActionEnded(self.call_id, action.action_id, Outcome.FAILED, error))
        else:
            self._tell(ActionEnded(self.call_id, action.action_id, Outcome.DONE))

    def _start_recording(self, action: StartRecording) -> str:
        leg = self._leg(action.leg)
        if action.format not in FORMATS:
            raise UsageError(f"format {action.format!r}: one of {', '.join(FORMATS)} is possible")
        participant = self.participants[action.leg]
        if participant.status is not LegStatus.CONNECTED:
            raise ActionConflictError(
                f"{action.leg} is not connected", field="status", value=participant.status
            )
        earlier = self._started.get((action.leg, action.kind), 0)
        if (action.once and earlier) or self._active(action.leg, action.kind) is not None:
            raise ActionConflictError(
                f"{action.leg} has been recorded already", field="CallId", value=participant.call_id
            )
        if self._refusal is not None:
            raise self._refusal
        self._started[action.leg, action.kind] = earlier + 1
        recording = Recording(
            action,
            recording_id=self._recording_id(action, earlier + 1),
            leg=leg,
            key=self._key(action, participant),
            tags={
                "title": f"Call {participant.call_id}",
                "date": rfc3339(self._moment(self._now)),
                "call-id": participant.call_id,
                "transaction-id": self.transaction_id,
            },
            as_pcm=self._as_pcm,
        )
        self._recordings[recording.recording_id] = recording
        self._taking[leg.name].append(recording)
        if action.prompt is not None:
            recording.trigger(Trigger.PROMPT)
            self._tell(Play(self.call_id, leg.name, action.action_id, action.prompt))
        elif action.beep:
            recording.trigger(Trigger.BEEP)
            self._tell(Play(self.call_id, leg.name, action.action_id, Prompt()))
        else:
            self._begin(recording)
        return recording.recording_id

    def _recording_id(self, action: StartRecording, number: int) -> str:
        name = f"{self.call_id}/{action.leg}"
        if action.kind is not RecordingKind.CALL:
            name = f"{name}/{action.kind}"
        return name if number == 1 else f"{name}/{number}"

    def _key(self, action: StartRecording, participant: Participant) -> str:
        if action.key is not None:
            return action.key

        def key_of(one: Participant, number: int = 1) -> str:
            return keys.call_recording_key(
                prefix=action.prefix,
                started_at=one.started_at,
                transaction_id=self.transaction_id,
                call_id=one.call_id,
                extension=FORMATS[action.format].extension,
                number=number,
            )

        # Legs that came in one millisecond, and kinds of recordings of one leg, differ in nothing else.
        plain = key_of(participant)
        alike = (
            count for (leg, _), count in self._started.items() if key_of(self.participants[leg]) == plain
        )
        return key_of(participant, sum(alike))

    def _begin(self, recording: Recording) -> None:
        """Record from now on."""
        leg, action = recording.leg, recording.action
        self._move_on(_nanoseconds(self._now))  # what came before is not part of it
        position = max(self._position(self._now), leg.timelines.position)
        started_at = self._moment(self._now)
        self._store(recording, recording.begin(position, started_at))
        self._tell(
            RecordingStarted(
                self.call_id,
                recording.recording_id,
                leg.name,
                started_at,
                recording.key,
                action.action_id,
                action.destination,
                action.format,
                recording.sample_rate,
                action.layout.value,
                recording.tags,
                self._metadata_of_what_begins(recording),
            )
        )

    def _metadata_of_what_begins(self, recording: Recording) -> Mapping[str, str] | None:
        """What will be stored beside it, where its end has nothing to add."""
        if self._session is None or self._session.metadata_has_duration:
            return None
        action = recording.action
        metadata, _ = self._session.describe(
            action.action_id,
            leg=action.leg,
            duration_s=0.0,
            media_type=recording.media_type,
            call=self._view(),
        )
        return metadata

    def _control(self, action: Action) -> None:
        """Stop, pause or resume the recording of a leg."""
        assert isinstance(action, StopRecording | PauseRecording | ResumeRecording)
        self._leg(action.leg)
        recording = self._active(action.leg, action.kind)
        if not isinstance(action, StopRecording) and recording is not None and recording.started_at is None:
            recording = None  # its prompt or its beep is being played: nothing runs that could pause
        if recording is None:
            if isinstance(action, StopRecording) and not action.once:
                return
            raise ActionConflictError(
                f"no recording of {action.leg} is running",
                field="CallId",
                value=self.participants[action.leg].call_id,
            )
        if not isinstance(action, StopRecording) and action.strict:
            is_paused = recording.state is State.PAUSED
            if is_paused is isinstance(action, PauseRecording):
                raise ActionConflictError(
                    f"the recording of {action.leg} is {recording.state}",
                    field="CallId",
                    value=self.participants[action.leg].call_id,
                )
        position = self._position(self._now)
        match action:
            case StopRecording():
                if recording.started_at is None:
                    self._tell(StopPlaying(self.call_id, action.leg, recording.action.action_id))
                    self._drop(recording, EndReason.STOP)
                else:
                    recording.end(position, EndReason.STOP)
            case PauseRecording():
                recording.pause(position)
            case ResumeRecording():
                recording.resume(position)

    def _active(self, leg: str, kind: RecordingKind) -> Recording | None:
        """The recording of a leg that nobody has ended yet."""
        for recording in self._recordings.values():
            if recording.leg.name == leg and recording.action.kind is kind and not recording.is_ended:
                return recording
        return None

    def _running_recording(self) -> Recording | None:
        """The recording that the list of actions waits for."""
        if isinstance(self._running, StartRecording) and self._stored_id is None:
            return self._active(self._running.leg, self._running.kind)
        return None

    def _stop_running(self, reason: EndReason) -> None:
        """Cut short what takes time: what may be interrupted, or with CANCELLED whatever it is."""
        outcome = Outcome.CANCELLED if reason is EndReason.CANCELLED else Outcome.INTERRUPTED
        running = self._running
        if isinstance(running, OtherAction):
            if running.interruptible or outcome is Outcome.CANCELLED:
                self._tell(StopPlaying(self.call_id, running.leg, running.action_id))
                self._end_running(outcome, reason=reason)
            return
        recording = self._running_recording()
        if recording is None:
            return
        if recording.started_at is None:
            self._tell(StopPlaying(self.call_id, recording.leg.name, recording.action.action_id))
            recording.end(0, reason)
            self._forget(recording)
        elif recording.is_over(self._position(self._now)):
            return
        else:
            recording.end(self._position(self._now), reason)
            recording.is_called_off = True
        self._end_running(outcome, reason=reason)

    def _end_running(
        self,
        outcome: Outcome,
        *,
        error: ActionError | None = None,
        reason: EndReason | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        assert self._running is not None
        action_id, self._running, self._stored_id = self._running.action_id, None, None
        self._tell(ActionEnded(self.call_id, action_id, outcome, error, reason, result or {}))

    def _drop(self, recording: Recording, reason: EndReason, error: ActionError | None = None) -> None:
        """Forget a recording that has not begun."""
        recording.end(0, reason)
        self._forget(recording)
        if self._running is recording.action:
            outcome = Outcome.CANCELLED if error is None else Outcome.FAILED
            self._end_running(outcome, error=error, reason=reason)

    def _end_recordings(self, position: int, leg: Leg) -> None:
        """The participant is gone."""
        for recording in list(self._taking[leg.name]):
            if recording.is_ended:
                continue
            if recording.started_at is None:
                self._drop(recording, EndReason.HANGUP)
            else:
                recording.end(position, EndReason.HANGUP)

    def _tell(self, event: Event) -> None:
        self._events.append(event)
        if self._session is not None:
            self._follow(self._session.tell(event, self._view()))

    # -- audio and keys ------------------------------------------------------------------------------------------

    def _move_on(self, now_ns: int) -> None:
        self._moved_on_at = self._now
        for leg in self.legs.values():
            timelines, recordings = leg.timelines, self._taking[leg.name]
            if timelines.listen() or leg.holds_keys:
                self._collect_digits(leg, final=False)
            ready = timelines.ready(now_ns)
            waits = self._as_pcm and ready - timelines.position < HAND_ON_SAMPLES
            hastes = False
            for recording in recordings:
                if recording.end_at < FAR:
                    recording.note_time(self._position(self._now))
                    waits = waits and recording.end_at > ready
                if recording.trims_keys:
                    ready = self._before_key(leg, ready)
                if recording.is_message:
                    waits = False
                    hastes = hastes or recording.is_awaited
            if not (waits and recordings):
                self._advance(leg, ready)
            if hastes and recordings:
                directions = {one for recording in recordings for one in recording.directions}
                self._advance(leg, min(leg.track(direction).complete for direction in directions))
            if self._as_pcm and recordings:
                self._write_ahead(leg, recordings)
            for recording in recordings:
                for write in recording.flush():
                    self._writes.append((recording.recording_id, write))

    def _write_ahead(self, leg: Leg, recordings: list[Recording]) -> None:
        """Write what has come and is not final: up to now, or where audio has come less than the usual delay ago."""
        now = self._position(self._now)
        until, least = self._audio_end(leg), now - USUAL_DELAY_SAMPLES
        until = now if until > now else least if until < least else until
        for recording in recordings:
            for write in recording.preview(until):
                self._writes.append((recording.recording_id, write))

    def _before_key(self, leg: Leg, position: int) -> int:
        """Not past the beginning of a key that is still pressed: it may be where a recording ends."""
        since = leg.timelines.sounding_since
        if since is None or position - since > MAX_HOLD_SAMPLES:
            return position
        return min(position, max(since, leg.timelines.position))

    def _advance(self, leg: Leg, until: int) -> None:
        """Hand the timeline of a leg up to `until` to its recordings."""
        recordings = self._taking[leg.name]
        at = leg.timelines.position
        if not recordings:
            while at < until:
                at = min(until, at + READ_SAMPLES)
                leg.timelines.skip(at)
            return
        self._finish_complete(recordings)
        while at < until:
            end = until if until - at < READ_SAMPLES else at + READ_SAMPLES
            for recording in recordings:
                boundary = recording.end_at if recording.ends_only else recording.boundary(at)
                if boundary < end:
                    end = boundary if boundary > at else at
            if end > at:
                self._hand_on(leg, at, end, recordings)
                at = end
            self._finish_complete(recordings)

    def _hand_on(self, leg: Leg, at: int, end: int, recordings: list[Recording]) -> None:
        listening = []
        for recording in recordings:
            if recording.position != at:
                continue
            if recording.ends_only or recording.listens:
                listening.append(recording)
            else:
                self._store(recording, recording.pass_over(end - at))
        if not listening:
            leg.timelines.skip(end)
            return
        audio = leg.timelines.read(end)
        for recording in listening:
            for write in recording.add(audio):
                self._writes.append((recording.recording_id, write))

    def _finish_complete(self, recordings: list[Recording]) -> None:
        """Finish those whose audio has come to its end."""
        for recording in recordings:
            if recording.position >= recording.end_at and recording.started_at is not None:
                break
        else:
            return  # nearly always
        for recording in tuple(recordings):
            if recording.position < recording.end_at or recording.started_at is None:
                continue
            if recording.recording_id in self._recordings:  # what one's end sets going may have ended another
                self._finish(recording)

    def _finish(self, recording: Recording) -> None:
        action = recording.action
        digits = sorted(recording.leg.digits, key=lambda entry: entry[1].position)
        self._store(recording, recording.finish(digits))
        self._forget(recording)
        assert recording.end_reason is not None
        reason = recording.end_reason
        manifest = {
            "version": MANIFEST_VERSION,
            "call_id": self.call_id,
            "transaction_id": self.transaction_id,
            "dialect": self.dialect,
            "action": "StartCallRecording",
            **recording.manifest(digits),
        }
        metadata: Mapping[str, str]
        if self._session is None:
            metadata = keys.call_recording_metadata(
                transaction_id=self.transaction_id,
                call_id=self.participants[action.leg].call_id,
                duration_s=recording.duration_s,
                media_type=recording.media_type,
            )
        else:
            metadata, more = self._session.describe(
                action.action_id,
                leg=action.leg,
                duration_s=recording.duration_s,
                media_type=recording.media_type,
                call=self._view(),
            )
            manifest |= more
        deliver = reason not in action.undelivered and not recording.is_called_off
        awaited = self._running is action
        if awaited and deliver:
            self._stored_id = recording.recording_id
        self._tell(
            RecordingFinished(
                call_id=self.call_id,
                recording_id=recording.recording_id,
                leg=action.leg,
                key=recording.key,
                end_reason=str(reason),
                manifest=manifest,
                action_id=action.action_id,
                terminator=recording.terminator,
                deliver=deliver,
                metadata=metadata,
                destination=action.destination,
                size_bytes=recording.size_bytes,
            )
        )
        if awaited and not deliver:
            self._end_running(Outcome.DONE, reason=reason)

    def _forget(self, recording: Recording) -> None:
        del self._recordings[recording.recording_id]
        self._taking[recording.leg.name].remove(recording)

    def _audio_end(self, leg: Leg) -> int:
        """Where the audio ends that the leg's recordings take."""
        recordings = self._taking[leg.name]
        for recording in recordings:
            if len(recording.directions) == 2:
                return leg.timelines.end  # nearly always
        directions = {direction for recording in recordings for direction in recording.directions}
        return max((leg.track(direction).end for direction in directions), default=0)

    def _end_of(self, leg: Leg) -> int:
        """Where a leg ends that is hung up now: what came before that, and stands a little ahead of it, is in."""
        now = self._position(self._now)
        return max(now, min(self._audio_end(leg), now + AHEAD_SAMPLES))

    def _collect_digits(self, leg: Leg, *, final: bool) -> None:
        for direction, track in leg.tracks:
            for digit in track.digits(final=final):
                self._press(leg, direction, digit)
        leg.holds_keys = leg.incoming.holds_keys or leg.outgoing.holds_keys

    def _press(self, leg: Leg, direction: Direction, digit: Digit) -> None:
        leg.digits.append((direction, digit))
        if direction is Direction.INCOMING:
            for recording in self._taking[leg.name]:
                recording.press(digit)
        self._tell(
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
        for write in writes:
            self._writes.append((recording.recording_id, write))

    def view(self, *, now: float) -> CallView:
        """The call as its session sees it at a moment, also after its end."""
        return CallView(
            self.call_id,
            self.transaction_id,
            self.started_at,
            self._moment_of(now),
            dict(self.participants),
            self._refusal,
        )

    # -- within --------------------------------------------------------------------------------------------------

    def _check_running(self) -> None:
        if self._ended:
            raise UsageError(f"call {self.call_id} is over")

    def _leg(self, name: str) -> Leg:
        try:
            return self.legs[name]
        except KeyError:
            raise UsageError(f"the call has no leg {name}") from None

    def _track(self, leg: str, direction: Direction | str) -> Track:
        self._check_running()
        one = self._leg(leg)
        if direction == "incoming":  # much quicker than asking the enumeration
            return one.incoming
        if direction == "outgoing":
            return one.outgoing
        return one.track(Direction(direction))

    def _at(self, now: float | None) -> None:
        if now is not None:
            self._now = now

    def _moment(self, now: float) -> datetime:
        """A moment of the host's clock, UTC."""
        if now != self._last_moment[0]:  # of what happens, most happens in the same one
            self._last_moment = now, self._moment_of(now)
        return self._last_moment[1]

    def _moment_of(self, now: float) -> datetime:
        return self.started_at + timedelta(microseconds=(_nanoseconds(now) - self._origin_ns) // 1000)

    def _view(self) -> CallView:
        if self._now != self._last_view[0]:
            moment = self._moment(self._now)
            view = CallView(
                self.call_id,
                self.transaction_id,
                self.started_at,
                moment,
                self.participants,
                self._refusal,
            )
            self._last_view = self._now, view
        return self._last_view[1]

    def _position(self, now: float) -> int:
        """The timeline position of a moment, rounded as the timeline rounds arrivals.

        `now` in seconds is true to a microsecond or so; in doubt the sample before, so that a packet which arrives at
        that very moment is not cut.
        """
        position = int(((round(now * 1e9) - self._origin_ns) * RTP_SAMPLE_RATE / 1e9 + 0.49) // 1)
        return position if position > 0 else 0


def _nanoseconds(now: float) -> int:
    return round(now * 1e9)
