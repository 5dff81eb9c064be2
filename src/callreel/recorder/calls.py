"""A call in a recorder: the verbs of `callreel.Call` on the recorder's clock, for any thread.

Every verb holds the call's lock for as long as the core takes, microseconds for a packet, and hands what comes of it to
the spool and to the office, neither of which waits for a disk or a network.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from callreel.actions import RecordingKind, StartRecording
from callreel.call import Call
from callreel.errors import ActionError, SpoolFullError, UsageError
from callreel.events import (
    ActionEnded,
    CallEnded,
    CallView,
    Event,
    LegStatus,
    Perform,
    Play,
    RecordingFinished,
    RecordingStarted,
    StopPlaying,
    VendorMessage,
)
from callreel.formats import Write
from callreel.kernels import pcm
from callreel.legs import Direction, Track

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from callreel.dialects import Response
    from callreel.recorder.office import Office
    from callreel.spool import Spool, Take

__all__ = ["RecordedCall", "Source"]

log = logging.getLogger("callreel.recorder")

T = TypeVar("T")

CATCH_UP_S = 1.0
"""As far as a call is moved on in one step. After a stall it hears piece by piece what waited, as if it had been
there, and no more of it is written at a time than the spool lets wait."""

BREATH_S = 0.1
"""How long the spool is waited for between two pieces, where a verb cannot wait for the next step."""

LEVEL_S = 0.2
"""How much of the latest audio a level is of."""

NO_ROOM = ActionError("there is no room for another recording", field="system")

HELD_S = 2.0
"""So long what happens may remain untold because a disk does not take a recording that begins."""


class Source(Protocol):
    """Where a call's packets wait until it takes them; see `RecordedCall.attach`."""

    def feed(self, call: Call, until_ns: int | None) -> None:
        """Hand the call what has come: by the batch verbs, up to that moment, or all."""
        ...

    def finish(self, call: Call, leg: str | None = None) -> None:
        """Hand it the last that has come, of all legs or of one: that ends, or the source is detached."""
        ...


class RecordedCall:
    """A call whose recordings are spooled, delivered and told of. `now` is by default the recorder's clock."""

    def __init__(
        self,
        call: Call,
        *,
        spool: Spool,
        office: Office,
        clock: Callable[[], float],
        labels: Mapping[str, str],
    ) -> None:
        """Take over a call that was made with `as_pcm`; `Recorder.add_call` does."""
        self.call_id = call.call_id
        self.labels = labels
        """Of the host, for the manifests."""
        self._call = call
        self._spool = spool
        self._office = office
        self._clock = clock
        self._lock = threading.Lock()
        self._takes: dict[str, Take | str] = {}
        """By recording id; the reason where there is none."""
        self._sources: list[Source] = []
        self._fed_at = 0.0
        """Up to when sources have been asked."""
        self._packets: Counter[str] | None = None
        """Of the whole call, when it is over."""
        self.refusal: ActionError | None = None
        """Why the recorder begins nothing new, when it does not."""
        self._refused: ActionError | None = None
        """What the call knows of that."""
        self._unsafe: set[str] = set()
        """Takes that are not yet on the disk: a process that dies now knows nothing of them afterwards."""
        self._held: list[Event] = []
        """What is not told before they are."""
        self._held_until = 0.0

    def __repr__(self) -> str:
        """Its id."""
        return f"<RecordedCall {self.call_id}>"

    # -- media ---------------------------------------------------------------------------------------------------

    def receive_rtp(
        self,
        leg: str,
        packet: Buffer,
        *,
        now: float | None = None,
        direction: Direction | str = Direction.INCOMING,
    ) -> None:
        """Take one RTP (or RTCP) packet of a leg; see `Call.receive_rtp`."""
        with self._lock:
            self._call.receive_rtp(
                leg, packet, now=self._clock() if now is None else now, direction=direction
            )

    def receive_rtp_batch(self, leg: str, data: Buffer, records: Buffer, *args: Any, **options: Any) -> int:
        """Take packet records; see `Call.receive_rtp_batch`."""
        with self._lock:
            return self._call.receive_rtp_batch(leg, data, records, *args, **options)

    def receive_rtcp(
        self,
        leg: str,
        packet: Buffer,
        *,
        now: float | None = None,
        direction: Direction | str = Direction.INCOMING,
    ) -> None:
        """Take one RTCP packet of a leg; see `Call.receive_rtcp`."""
        with self._lock:
            self._call.receive_rtcp(
                leg, packet, now=self._clock() if now is None else now, direction=direction
            )

    def receive_pcm(
        self,
        leg: str,
        frames: Buffer,
        *,
        now: float | None = None,
        sample_rate: int | None = None,
        direction: Direction | str = Direction.INCOMING,
    ) -> None:
        """Take 16-bit PCM of a leg; see `Call.receive_pcm`."""
        with self._lock:
            self._call.receive_pcm(
                leg,
                frames,
                now=self._clock() if now is None else now,
                sample_rate=sample_rate,
                direction=direction,
            )

    def leave_out(self, leg: str, *, direction: Direction | str = Direction.INCOMING) -> None:
        """Say that the host has left out a piece of audio; see `Call.leave_out`."""
        with self._lock:
            self._call.leave_out(leg, direction=direction)

    def attach(self, source: Source) -> None:
        """Have `source` asked for packets at every step, on the recorder's clock, with the call's lock held.

        For hosts that take packets without Python, thousands of calls at a time. It is given the `Call`, to whose batch
        verbs it hands what has come.
        """
        with self._lock:
            if not self._sources:
                self._fed_at = self._clock()
            self._sources.append(source)

    def detach(self, source: Source) -> None:
        """Ask `source` a last time, unless the call is over, and not again."""
        with self._lock:
            if source in self._sources:
                self._catch_up(self._clock())
                source.finish(self._call)
                self._sources.remove(source)

    def forsake(self) -> None:
        """Ask no source any more, not even for the last that has come: one of them fails."""
        with self._lock:
            self._sources.clear()

    # -- everything else -----------------------------------------------------------------------------------------

    def add_leg(self, name: str = "LEG-A", *, now: float | None = None, **options: Any) -> None:
        """Add a participant's connection; see `Call.add_leg`."""
        self._do(lambda moment: self._call.add_leg(name, now=moment, **options), now)

    def ringing(self, leg: str, *, now: float | None = None) -> None:
        """The participant who is called hears it."""
        self._do(lambda moment: self._call.ringing(leg, now=moment), now)

    def answered(self, leg: str, *, now: float | None = None) -> None:
        """The participant has answered, or has been answered."""
        self._do(lambda moment: self._call.answered(leg, now=moment), now)

    def hang_up(self, leg: str, *, now: float | None = None, sip_response_code: int = 0) -> None:
        """A leg is over, and what had come of it is in its recordings; see `Call.hang_up`."""

        def hang_up(moment: float) -> None:
            for source in self._sources:
                source.finish(self._call, leg)
            self._call.hang_up(leg, now=moment, sip_response_code=sip_response_code)

        self._do(hang_up, now)

    def receive_digit(self, leg: str, symbol: str, *, now: float | None = None, **options: Any) -> None:
        """Take a key that the host found; see `Call.receive_digit`."""
        self._do(lambda moment: self._call.receive_digit(leg, symbol, now=moment, **options), now)

    def request(self, document: Any, *, now: float | None = None) -> Response | None:
        """Take a document of the vendor's customer; see `Call.request`."""
        return self._do(lambda moment: self._call.request(document, now=moment), now)

    def update_call(self, arguments: Mapping[str, str], *, now: float | None = None) -> Response | None:
        """Ask the customer's program what to do now; see `Call.update_call`."""
        return self._do(lambda moment: self._call.update_call(arguments, now=moment), now)

    def start_recording(self, action: StartRecording, *, now: float | None = None) -> str:
        """Record a leg; see `Call.start_recording`."""
        return self._do(lambda moment: self._call.start_recording(action, now=moment), now)

    def stop_recording(
        self, leg: str = "LEG-A", *, now: float | None = None, kind: RecordingKind = RecordingKind.CALL
    ) -> None:
        """End a leg's recording; see `Call.stop_recording`."""
        self._do(lambda moment: self._call.stop_recording(leg, now=moment, kind=kind), now)

    def pause_recording(
        self, leg: str = "LEG-A", *, now: float | None = None, kind: RecordingKind = RecordingKind.CALL
    ) -> None:
        """Pause a leg's recording; see `Call.pause_recording`."""
        self._do(lambda moment: self._call.pause_recording(leg, now=moment, kind=kind), now)

    def resume_recording(
        self, leg: str = "LEG-A", *, now: float | None = None, kind: RecordingKind = RecordingKind.CALL
    ) -> None:
        """Go on with a leg's recording; see `Call.resume_recording`."""
        self._do(lambda moment: self._call.resume_recording(leg, now=moment, kind=kind), now)

    def played(self, action_id: str, *, now: float | None = None, error: ActionError | None = None) -> None:
        """What a `Play` asked for has been played, or could not be."""
        self._do(lambda moment: self._call.played(action_id, now=moment, error=error), now)

    def performed(
        self,
        action_id: str,
        *,
        now: float | None = None,
        error: ActionError | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        """What a `Perform` asked for is done, or could not be."""
        self._do(lambda moment: self._call.performed(action_id, now=moment, error=error, result=result), now)

    def end(self, *, now: float | None = None) -> None:
        """The call is over; what it has recorded is delivered and told of."""

        def end(moment: float) -> None:
            for source in self._sources:
                source.finish(self._call)
            self._sources.clear()
            self._call.end(now=moment)

        self._do(end, now)

    # -- what the recorder does with it --------------------------------------------------------------------------

    def step(self, now: float) -> float | None:
        """Move the call on; returns when it wants that again, None after its end."""
        with self._lock:
            self._check_room()
            self._call.handle_timeout(now=self._feed(now) if self._sources else now)
            self._drain()
            if self._held and time.monotonic() >= self._held_until:
                self._let_go()
            return self._call.next_timeout()

    def stored(self, recording_id: str, error: str | None) -> None:
        """Say what became of a recording; also after the call's end."""
        with self._lock:
            self._call.stored(recording_id, now=self._clock(), error=error)
            self._drain()

    def awaits(self, recording_id: str) -> bool:
        """Whether a list of actions waits for a recording to be stored."""
        with self._lock:
            return self._call.awaits(recording_id)

    def is_safe(self, take_id: str) -> None:
        """A take that has begun is on the disk, or never will be: what waited for it is told."""
        with self._lock:
            self._unsafe.discard(take_id)
            if not self._unsafe:
                self._let_go()

    def let_go(self) -> None:
        """Tell what waits, whether or not it is safe."""
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        self._unsafe.clear()
        held, self._held = self._held, []
        for event in held:
            self._tell(event)

    def answer(self, document: Any) -> None:
        """Hand in what a customer answered to an invocation; nothing any more after the call's end."""
        with self._lock:
            if self._call.next_timeout() is not None:
                self._check_room()
                self._call.request(document, now=self._clock())
                self._drain()

    @property
    def is_over(self) -> bool:
        """Whether the call has ended."""
        return self._call.next_timeout() is None

    @property
    def participants(self) -> Mapping[str, LegStatus]:
        """How far everybody's connection is, by leg."""
        with self._lock:
            return {leg: one.status for leg, one in self._call.participants.items()}

    def view(self, *, now: float | None = None) -> CallView:
        """The call as its session sees it, also after its end."""
        with self._lock:
            return self._call.view(now=self._clock() if now is None else now)

    def packets(self) -> Counter[str]:
        """Packets of all legs so far, by fate; see `kernels.rtp.Receiver.counts`."""
        with self._lock:
            return self._count_packets() if self._packets is None else self._packets

    def levels(self) -> dict[str, dict[str, float]]:
        """How loud the latest audio of each leg is in each direction, in dBm0: minus infinity for silence.

        It is looked at when this is asked, so it costs nothing while nobody does.
        """
        with self._lock:
            now_ns = round(self._clock() * 1e9)
            return {
                name: {str(direction): _level_of(track, now_ns) for direction, track in leg.tracks}
                for name, leg in self._call.legs.items()
            }

    def _count_packets(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for leg in self._call.legs.values():
            for _, track in leg.tracks:
                found.update(track.counts)
        return found

    def _do(self, verb: Callable[[float], T], now: float | None) -> T:
        with self._lock:
            self._check_room()
            moment = self._clock() if now is None else now
            try:
                self._catch_up(moment)
                return verb(moment)
            finally:
                self._drain()

    def _feed(self, now: float) -> float:
        """Ask the sources for what has come; returns up to when: after a stall that is before `now`."""
        until_ns = None
        if now - self._fed_at > CATCH_UP_S:
            now = self._fed_at + CATCH_UP_S
            until_ns = round(now * 1e9)
        for source in self._sources:
            source.feed(self._call, until_ns)
        self._fed_at = now
        return now

    def _catch_up(self, now: float) -> None:
        """Be no further behind than one step, for what is done at `now`."""
        while self._sources and now - self._fed_at > CATCH_UP_S:
            self._call.handle_timeout(now=self._feed(now))
            self._drain()
            until = time.monotonic() + BREATH_S
            while time.monotonic() < until and any(
                take.waiting_bytes for take in self._takes.values() if not isinstance(take, str)
            ):
                time.sleep(BREATH_S / 50)

    def _check_room(self) -> None:
        refusal = self.refusal
        if refusal is None and not self._spool.is_accepting:
            refusal = NO_ROOM
        if refusal is not self._refused:
            self._refused = refusal
            self._call.refuse_recordings(refusal)

    def _drain(self) -> None:
        """Hand on what has come of the last verb: first what begins, then audio, then what ends."""
        events, writes = self._call.events(), self._call.writes()
        for event in events:
            if isinstance(event, RecordingStarted):
                self._begin(event)
        pieces: dict[str, list[Write]] = {}
        for recording_id, write in writes:
            pieces.setdefault(recording_id, []).append(write)
        for recording_id, own in pieces.items():
            take = self._takes[recording_id]
            if not isinstance(take, str):
                take.add(own)
        for event in events:
            self._hand_on(event)

    def _begin(self, event: RecordingStarted) -> None:
        take_id, about = self._office.about(event, self._call, self.labels)
        try:
            take = self._takes[event.recording_id] = self._spool.begin(take_id, about)
        except (SpoolFullError, UsageError) as error:
            self._takes[event.recording_id] = str(error)
        else:
            self._unsafe.add(take_id)
            self._held_until = time.monotonic() + HELD_S
            self._office.begun(take, self, event)

    def _hand_on(self, event: Event) -> None:
        if isinstance(event, ActionEnded) and event.error is self._refused is not None:
            named = {"call_id": event.call_id}
            log.warning("a recording of %s is refused: %s", event.call_id, event.error, extra=named)
        match event:
            case RecordingFinished():
                take = self._takes.pop(event.recording_id)
                self._office.finished(self, event, take)
            case Play() | StopPlaying() | Perform():
                self._tell(event)  # what the host is to do, it does at once
            case _ if self._unsafe:
                self._held.append(event)
            case _:
                self._tell(event)
        if isinstance(event, CallEnded):
            self._packets = self._count_packets()
            self._call.legs.clear()  # they are large, and its recordings may be on their way for days

    def _tell(self, event: Event) -> None:
        match event:
            case VendorMessage():
                self._office.say(event, self)
            case Perform(name="CheckAccess"):
                self._office.check(event, self)
            case _:
                self._office.tell_host(event)


def _level_of(track: Track, now_ns: int) -> float:
    """Of what has come last, unless nothing has come for a while."""
    end, window = track.end, round(LEVEL_S * track.sample_rate)
    begin = max(track.position, end - window)
    is_over = end + 2 * window < (now_ns - track.origin_ns) * track.sample_rate // 1_000_000_000
    return -math.inf if is_over or begin >= end else pcm.level(track.preview(begin, end))[0]
