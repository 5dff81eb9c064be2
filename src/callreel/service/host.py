"""Calls of one process: their recorder, their media, and what the recorder asks a host for.

What can be done here is done here: prompts, beeps and tones are played, pauses waited for, legs hung up. All else that
a call asks for (say, connect, join) is told to whoever controls it, in the stream of events, and waits for their word.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from callreel.actions import NOTHING, Destination
from callreel.errors import ActionError, CallreelError, MediaError, UsageError
from callreel.events import (
    CallEnded,
    LegChanged,
    LegStatus,
    Perform,
    Play,
    RecordingFinished,
    RecordingStarted,
    StopPlaying,
)
from callreel.kernels import tone
from callreel.recorder import EventsLost, HostEvent, RecordedCall, Recorder, TakeEnded, TakeReplayed
from callreel.recorder.figures import LaneFigures, OnItsWay
from callreel.service.media import Media
from callreel.service.stream import EventStream

if TYPE_CHECKING:
    from callreel.dialects import Session

__all__ = ["Host", "LegWish", "LiveCall", "MediaOpener", "PromptSource", "as_json"]

log = logging.getLogger("callreel.service")

EVENTS_WAIT_S = 0.25
BEEP_RATE = 8000
TEMPORARILY_UNAVAILABLE = 480
"""SIP's code for a call whose program does not answer."""
ENDED_KEPT = 10_000
"""Calls that are over and can still be asked for."""

MediaOpener = Callable[[RecordedCall, "LegWish"], Media]
PromptSource = Callable[[str], tuple[bytes, int]]
"""16-bit mono PCM and its rate, of a prompt's URI; raises a `CallreelError`."""


class LegWish(NamedTuple):
    """A leg as whoever controls a call asks for it."""

    name: str = "LEG-A"
    media: str = "rtp"
    """A kind of media."""
    options: Mapping[str, Any] = NOTHING
    """What that kind wants to know."""
    to: str = ""
    from_: str = ""
    inbound: bool = True
    status: LegStatus = LegStatus.CONNECTED
    payload_types: Mapping[int, str] | None = None
    detect_digits: bool = True
    sip_headers: Mapping[str, str] = NOTHING
    """Of a call that is to be made: what its INVITE has besides."""


@dataclass(slots=True)
class LiveCall:
    """A call, as long as it goes on and for a while after that."""

    recorded: RecordedCall
    tenant: str
    dialect: str | None
    started_at: datetime
    session: Session | None = None
    """The vendor's side of it."""
    media: dict[str, Media] = field(default_factory=dict)
    legs: dict[str, LegWish] = field(default_factory=dict)
    recordings: dict[str, str] = field(default_factory=dict)
    """How far each is, by id: "recording", "ended", "delivered", "failed"."""
    playing: dict[str, str] = field(default_factory=dict)
    """What plays on a leg: its action."""
    ended_at: datetime | None = None

    @property
    def call_id(self) -> str:
        """As whoever controls it knows it."""
        return self.recorded.call_id

    def as_json(self) -> dict[str, Any]:
        """All there is to say of it."""
        statuses = self.recorded.participants
        return {
            "call_id": self.call_id,
            "dialect": self.dialect,
            "started_at": _written(self.started_at),
            "ended_at": None if self.ended_at is None else _written(self.ended_at),
            "legs": [
                {
                    "name": name,
                    "status": str(statuses.get(name, LegStatus.DISCONNECTED)),
                    "to": wish.to,
                    "from": wish.from_,
                    **({"sip_headers": dict(wish.sip_headers)} if wish.sip_headers else {}),
                    "media": dict(self.media[name].description) if name in self.media else None,
                }
                for name, wish in list(self.legs.items())
            ],
            "recordings": dict(self.recordings),
        }


class Host:
    """The calls of a process; any thread."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        openers: Mapping[str, MediaOpener],
        prompts: PromptSource,
        stream: EventStream,
        on_begun: Callable[[str, str], None] = lambda call_id, application: None,
        others: Callable[[], Mapping[Path, Recorder]] = dict,
        on_ended: Callable[[TakeEnded | TakeReplayed], None] = lambda event: None,
        players: int = 16,
    ) -> None:
        """Hear what `recorder` has to say from now on.

        `openers`: kinds of media; "none" is always there, for legs whose audio nobody sends. `on_begun`: is told the id
        and the application of every call that has a session, before that says anything. `on_ended`: is told of every
        recording that has ended. `others`: recorders without calls that are heard, too, by their spools. So many
        prompts are fetched at a time.
        """
        self.recorder = recorder
        self.stream = stream
        self._openers = openers
        self._prompts = prompts
        self._on_begun = on_begun
        self._others = others
        self._on_ended = on_ended
        self.begun = 0
        """Calls there have been."""
        self.ended: Counter[tuple[str, bool]] = Counter()
        """Recordings that have ended: "delivered", "failed" or "called_off", and whether they lack audio."""
        self._calls: dict[str, LiveCall] = {}
        self._over: deque[LiveCall] = deque()
        """Those of them that are over, in the order in which they ended."""
        self._lock = threading.Lock()
        self._players = ThreadPoolExecutor(players, "callreel-prompt")
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._is_closed = False
        self._thread = threading.Thread(target=self._hear_on, name="callreel-host", daemon=True)
        self._thread.start()

    # -- calls -----------------------------------------------------------------------------------------------------

    def create(
        self,
        call_id: str,
        *,
        tenant: str,
        legs: Sequence[LegWish],
        dialect: Session | None = None,
        application: str = "",
        started_at: datetime | None = None,
        transaction_id: str | None = None,
    ) -> LiveCall:
        """A new call with these legs; UsageError when there is one of that id, or a kind of media is not offered.

        `application`: which of the vendor's it is of.
        """
        for wish in legs:
            self._check_media(wish)
        before = self._calls.get(call_id)
        if before is not None and before.tenant != tenant:
            raise UsageError(f"there is a call {call_id}")  # what is still told of it is another tenant's
        began = started_at or datetime.now(UTC)
        recorded = self.recorder.add_call(
            call_id,
            started_at=began,
            dialect=dialect,
            transaction_id=transaction_id,
            labels={"tenant": tenant},
        )
        call = LiveCall(recorded, tenant, None if dialect is None else dialect.dialect, began, dialect)
        with self._lock:
            self.begun += 1
            self._calls[call_id] = call
        try:
            if dialect is not None:
                self._on_begun(call_id, application)
            for wish in legs:
                self.add_leg(call, wish)
        except BaseException:
            self.end(call)
            raise
        return call

    def add_leg(self, call: LiveCall, wish: LegWish) -> Media | None:
        """Another participant."""
        self._check_media(wish)
        host_frames = wish.media not in ("rtp", "none")
        call.recorded.add_leg(
            wish.name,
            to=wish.to,
            from_=wish.from_,
            inbound=wish.inbound,
            status=wish.status,
            payload_types=wish.payload_types,
            host_frames=host_frames,
            host_digits=host_frames,
            detect_digits=wish.detect_digits,
        )
        call.legs[wish.name] = wish
        if wish.media == "none":
            return None
        media = call.media[wish.name] = self._openers[wish.media](call.recorded, wish)
        return media

    def _check_media(self, wish: LegWish) -> None:
        if wish.media != "none" and wish.media not in self._openers:
            kinds = ", ".join(sorted({*self._openers, "none"}))
            raise UsageError(f"media {wish.media!r} is not offered: one of {kinds} is")

    def call(self, call_id: str, tenant: str | None = None) -> LiveCall | None:
        """The call of that id, if it is this tenant's, or with None anybody's."""
        call = self._calls.get(call_id)
        return call if call is not None and tenant in (None, call.tenant) else None

    def calls(self, tenant: str | None = None, *, live: bool = True) -> list[LiveCall]:
        """Calls that go on, or all that are known, the latest first."""
        with self._lock:
            found = list(self._calls.values())
        return [
            call
            for call in reversed(found)
            if tenant in (None, call.tenant) and not (live and call.recorded.is_over)
        ]

    def hang_up(self, call: LiveCall, leg: str, *, sip_response_code: int = 0) -> None:
        """A participant is gone, or is hung up on."""
        media = call.media.get(leg)
        if media is not None:
            media.settle()
        if not call.recorded.is_over:
            call.recorded.hang_up(leg, sip_response_code=sip_response_code)
        if media is not None:
            media.close()

    def end(self, call: LiveCall) -> None:
        """The call is over."""
        for media in call.media.values():
            media.settle()
        if not call.recorded.is_over:
            call.recorded.end()
        for media in call.media.values():
            media.close()

    def performed(
        self,
        call: LiveCall,
        action_id: str,
        *,
        error: str | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        """What was asked for is done, or could not be."""
        call.recorded.performed(action_id, error=None if error is None else ActionError(error), result=result)

    # -- what is on its way ----------------------------------------------------------------------------------------

    def other_spools(self) -> list[Path]:
        """The spools of recorders without calls."""
        return list(self._others())

    def takes(self) -> list[OnItsWay]:
        """Every recording that a spool has; see `Recorder.takes`."""
        return [take for recorder in self._recorders() for take in recorder.takes()]

    def lanes(self) -> dict[str, LaneFigures]:
        """What waits in each lane; see `Recorder.lanes`."""
        found: dict[str, LaneFigures] = {}
        for recorder in self._recorders():
            for lane, (entries, oldest_s) in recorder.lanes().items():
                before = found.get(lane, LaneFigures(0, oldest_s))
                found[lane] = LaneFigures(before.entries + entries, min(before.oldest_s, oldest_s))
        return found

    def labels_of(self, take_id: str) -> Mapping[str, str] | None:
        """The labels of such a recording; None when no spool has it."""
        found = (recorder.labels_of(take_id) for recorder in self._recorders())
        return next((labels for labels in found if labels is not None), None)

    def _recorders(self) -> list[Recorder]:
        return [self.recorder, *self._others().values()]

    def close(self) -> None:
        """End what is played and heard; calls go on until the recorder is closed."""
        self._is_closed = True
        self._thread.join()
        self._players.shutdown(cancel_futures=True)
        for call in self.calls(live=False):
            for media in call.media.values():
                media.close()

    def _is_over(self, call: LiveCall) -> None:
        """It has ended: forget the ones that ended first, if too many have."""
        call.ended_at = datetime.now(UTC)
        for media in call.media.values():
            media.close()
        with self._lock:
            self._over.append(call)
            while len(self._over) > ENDED_KEPT:
                oldest = self._over.popleft()
                if self._calls.get(oldest.call_id) is oldest:  # else another has had its id since
                    del self._calls[oldest.call_id]

    # -- what the recorder says ------------------------------------------------------------------------------------

    def _hear_on(self) -> None:
        while not self._is_closed:
            wait_s = EVENTS_WAIT_S
            if self._timers:
                wait_s = max(0.001, min(wait_s, self._timers[0][0] - time.monotonic()))
            for event in self.recorder.events(wait_s):
                self._guarded(partial(self._hear, event), event.call_id)
            for recorder in self._others().values():
                for event in recorder.events():
                    self._guarded(partial(self._hear, event), event.call_id)
            while self._timers and self._timers[0][0] <= time.monotonic():
                self._guarded(heapq.heappop(self._timers)[2])

    def _guarded(self, work: Callable[[], None], call_id: str = "") -> None:
        try:
            work()
        except Exception:
            log.exception("the host goes on, but something was not done", extra={"call_id": call_id})

    def _hear(self, event: HostEvent) -> None:
        if isinstance(event, EventsLost):
            for one in reversed(self.calls(live=False)):  # the end of any may be among them
                if one.recorded.is_over and one.ended_at is None:
                    self._is_over(one)
        if isinstance(event, TakeEnded):
            outcome = "failed" if event.error else "called_off" if event.location is None else "delivered"
            self.ended[outcome, bool(event.manifest.get("degraded"))] += 1
        call = self._calls.get(event.call_id)
        tenant = call.tenant if call is not None else _tenant_of(event)
        self.stream.tell(tenant, as_json(event))
        if isinstance(event, TakeEnded | TakeReplayed):
            self._on_ended(event)
        if call is None:
            return
        match event:
            case Play():
                uri = event.prompt.uri
                self._play(call, event.leg, event.action_id, () if uri is None else (uri,))
            case StopPlaying():
                self._stop_playing(call, event.leg, event.action_id)
            case Perform(action_id="unanswered"):
                self._unanswered(call)
            case Perform():
                self._perform(call, event)
            case RecordingStarted():
                call.recordings[event.recording_id] = "recording"
            case RecordingFinished():
                call.recordings[event.recording_id] = "ended"
            case TakeEnded():
                call.recordings[event.recording_id] = "failed" if event.error else "delivered"
            case TakeReplayed():
                call.recordings[event.recording_id] = "delivered"
            case LegChanged() if event.status is LegStatus.DISCONNECTED:
                media = call.media.get(event.leg)
                if media is not None:
                    media.close()
            case CallEnded() if (
                call.recorded.is_over and call.ended_at is None
            ):  # not of one before with its id
                self._is_over(call)
            case _:
                pass

    # -- playing ---------------------------------------------------------------------------------------------------

    def _play(self, call: LiveCall, leg: str, action_id: str, uris: Sequence[str]) -> None:
        """Play these, one after the other; without any, the beep."""
        call.playing[leg] = action_id
        if uris:
            self._players.submit(self._guarded, lambda: self._fetch_and_send(call, leg, action_id, uris))
        else:
            self._send(call, leg, action_id, tone.beep(sample_rate=BEEP_RATE), BEEP_RATE, ())

    def _fetch_and_send(self, call: LiveCall, leg: str, action_id: str, uris: Sequence[str]) -> None:
        try:
            pcm, sample_rate = self._prompts(uris[0])
        except CallreelError as error:
            field = "format" if isinstance(error, MediaError) else "uri"
            self._done(call, leg, action_id, ActionError(str(error), field=field))
            return
        self._send(call, leg, action_id, pcm, sample_rate, uris[1:])

    def _send(
        self, call: LiveCall, leg: str, action_id: str, pcm: bytes, sample_rate: int, then: Sequence[str]
    ) -> None:
        media = call.media.get(leg)
        if call.playing.get(leg) != action_id:
            return  # called off while it was fetched
        if media is None:
            self._done(call, leg, action_id, ActionError(f"{leg} has no media that could be played to"))
            return

        def done(reason: str | None) -> None:
            if reason is None and then and call.playing.get(leg) == action_id:
                self._play(call, leg, action_id, then)
            else:
                self._done(call, leg, action_id, None if reason is None else ActionError(reason))

        try:
            media.play(pcm, sample_rate, done)
        except (MediaError, UsageError) as error:
            if not call.recorded.is_over:  # else nobody waits for it any more
                self._done(call, leg, action_id, ActionError(str(error)))

    def _done(self, call: LiveCall, leg: str, action_id: str, error: ActionError | None) -> None:
        if call.playing.get(leg) == action_id:
            del call.playing[leg]
        # One of the two waits for it; to the other it is nothing.
        call.recorded.played(action_id, error=error)
        call.recorded.performed(action_id, error=error)

    def _stop_playing(self, call: LiveCall, leg: str, action_id: str) -> None:
        if call.playing.get(leg) == action_id:
            del call.playing[leg]
            media = call.media.get(leg)
            if media is not None:
                media.stop()

    # -- what is not about recording -------------------------------------------------------------------------------

    def _perform(self, call: LiveCall, event: Perform) -> None:
        """Do what can be done here; for all else somebody has to answer."""
        name, parameters = event.name.lower(), event.parameters
        if name == "hangup":
            self._hang_up_for(call, event)
        elif name == "pause" and isinstance(wait_ms := _milliseconds(parameters), int):
            heapq.heappush(
                self._timers,
                (
                    time.monotonic() + wait_ms / 1000,
                    next(self._numbers),
                    lambda: self.performed(call, event.action_id),
                ),
            )
        elif uris := _prompts_of(name, parameters):
            self._play(call, event.leg or next(iter(call.legs)), event.action_id, uris)

    def _unanswered(self, call: LiveCall) -> None:
        """The customer's program has not said what to do: what the vendor does then (docs/notify.md)."""
        if call.recorded.is_over:
            return
        if call.dialect == "sinch":
            call.recorded.request(None)
            return
        for leg in list(call.legs):
            self.hang_up(call, leg, sip_response_code=TEMPORARILY_UNAVAILABLE)
        self.end(call)

    def _hang_up_for(self, call: LiveCall, event: Perform) -> None:
        legs = [event.leg] if event.leg in call.legs else list(call.legs)
        for leg in legs:
            self.hang_up(call, leg)
        self.performed(call, event.action_id)
        if not call.recorded.is_over and all(
            status is LegStatus.DISCONNECTED for status in call.recorded.participants.values()
        ):
            self.end(call)


def _milliseconds(parameters: Mapping[str, Any]) -> int | None:
    text = str(parameters.get("DurationInMilliseconds", ""))
    return int(text) if text.isdigit() else None


def _prompts_of(name: str, parameters: Mapping[str, Any]) -> list[str]:
    """The URLs of what an action plays; none where it plays something else."""
    found: Any = []
    match name:
        case "playprompt":  # Microsoft Graph
            prompts = parameters.get("prompts")
            found = [one.get("uri") for one in prompts] if isinstance(prompts, list) else []
        case "playfiles":  # Sinch
            found = parameters.get("ids")
        case "playaudio":  # Amazon Chime
            source = parameters.get("AudioSource")
            found = [source.get("Key")] if isinstance(source, Mapping) else []
    if isinstance(found, list) and all(str(one).startswith(("https://", "http://")) for one in found):
        return [str(one) for one in found]
    return []


def as_json(event: HostEvent) -> dict[str, Any]:
    """An event as those who watch are told it, without a secret."""
    words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in type(event).__name__)
    body: dict[str, Any] = {"event": words.lstrip("_")}
    for name, value in event._asdict().items():
        body[name] = _plain(value)
    return body


def _plain(value: Any) -> Any:
    if isinstance(value, Destination):
        return {"kind": value.kind, "bucket": value.bucket, "region": value.region}
    if isinstance(value, datetime):
        return _written(value)
    if isinstance(value, ActionError):
        return {"message": str(value), "field": value.field}
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _plain(inner) for name, inner in value._asdict().items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    return value


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _tenant_of(event: HostEvent) -> str:
    """Whose recording it is that another process began."""
    labels = event.manifest.get("labels", {}) if isinstance(event, TakeEnded | TakeReplayed) else {}
    return str(labels.get("tenant", ""))
