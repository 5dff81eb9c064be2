"""What the connections of legs have in common: audio of a peer on its way into a track, what is played on its way out.

    a peer's audio ──> Intake: its rate becomes the leg's, its arrival its place ──> the incoming track
    a prompt, a beep ──> Piece: frames of 20 ms ──> Link: each when it is due ──> the peer, and the outgoing track

A `SocketMedia` is there as long as its leg, a `Link` as long as the connection; a leg has one connection in its life.
Whatever a peer does, or does not do, costs that peer alone: nothing here waits for a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from callreel.errors import MediaError, UsageError
from callreel.events import LegStatus
from callreel.recorder import RecordedCall
from callreel.service.encodings import FRAMES_PER_S, LEG_RATE, Conversion, Encoding
from callreel.service.host import LegWish

__all__ = ["Feed", "Intake", "Link", "Piece", "SocketMedia"]

AHEAD_S: Final = 0.5
"""A peer may send so much more audio than time has passed; what is beyond is dropped, or it would be in the future."""
PAUSE_S: Final = 2.0
"""After so long a lag that stays is a pause the peer made, not audio that is still to come."""
HELD_UP_S: Final = 0.2
"""When we were held up for longer, what is played goes on from there, instead of all at once."""
STALLED_S: Final = 10.0
"""A peer that takes nothing of what is played for so long is taken for dead."""
KEY_S: Final = 0.1
"""How long a key is taken to have been pressed when a message says that it was."""
KEYS_PER_S: Final = 20
"""More nobody presses; what is beyond is dropped, or a call's memory would be the peer's to fill."""
KEYS: Final = frozenset("0123456789*#ABCD")

Done = Callable[[str | None], None]


class Feed:
    """One track of a leg, and audio for it that may be of another rate."""

    def __init__(self, recorded: RecordedCall, leg: str, direction: str, sample_rate: int) -> None:
        """MediaError for a rate that cannot be converted."""
        self._recorded, self._leg, self._direction = recorded, leg, direction
        self.sample_rate = sample_rate
        self._conversion = Conversion(sample_rate, LEG_RATE)
        self._lock = threading.Lock()
        self._end_s = 0.0

    def put(self, audio: bytes, start_s: float) -> None:
        """Take the next piece, its first sample at `start_s`; UsageError when the call is over."""
        with self._lock:
            held_back_s = self._conversion.held_back_s
            self._end_s = start_s + len(audio) / (2 * self.sample_rate)
            self._hand_on(self._conversion.feed(audio), start_s - held_back_s)

    def flush(self) -> None:
        """What comes next does not follow what came before; any thread."""
        with self._lock:
            held_back_s = self._conversion.held_back_s
            self._hand_on(self._conversion.flush(), self._end_s - held_back_s)

    def _hand_on(self, audio: bytes, start_s: float) -> None:
        if audio:
            self._recorded.receive_pcm(self._leg, audio, now=start_s, direction=self._direction)


class Intake(Feed):
    """A track that is fed as audio arrives; a stream's jitter is evened out by the track itself."""

    def __init__(self, recorded: RecordedCall, leg: str, direction: str, sample_rate: int) -> None:
        """As `Feed`."""
        super().__init__(recorded, leg, direction, sample_rate)
        self._sent_s: float | None = (
            None  # up to where the peer's audio reaches, if it has come without a pause
        )
        self._lags = [float("inf"), float("inf")]  # the least of this stretch of time, and of the one before
        self._turn_s = 0.0

    def take(self, audio: bytes, arrival_s: float) -> bool:
        """Take what has come: its last sample was sounding just now. False when it is dropped: there is too much."""
        duration_s = len(audio) / (2 * self.sample_rate)
        if not self._admits(duration_s, arrival_s):
            self._recorded.leave_out(self._leg, direction=self._direction)
            return False
        self.put(audio, arrival_s - duration_s)
        return True

    def _admits(self, duration_s: float, arrival_s: float) -> bool:
        if self._sent_s is None:
            self._sent_s, self._turn_s = arrival_s - duration_s, arrival_s
        lag_s = arrival_s - (self._sent_s + duration_s)
        if lag_s < -AHEAD_S:
            return False
        self._sent_s += duration_s
        self._lags[0] = min(self._lags[0], lag_s)
        if arrival_s - self._turn_s > PAUSE_S:
            self._sent_s += max(0.0, min(self._lags))
            self._lags, self._turn_s = [float("inf"), self._lags[0] - max(0.0, min(self._lags))], arrival_s
        return True


class Piece:
    """Something that is played, in frames of 20 ms."""

    def __init__(self, audio: bytes, sample_rate: int, done: Done) -> None:
        """16-bit mono PCM; `done` is called once, when it is out or cannot be."""
        self._audio, self._from_rate = memoryview(audio), sample_rate
        self._at = 0
        self._conversion: Conversion | None = None
        self._ready = bytearray()
        self._has_ended = False
        self.done = done

    def frame(self, sample_rate: int) -> bytes | None:
        """The next 20 ms at that rate, which stays the same; None behind the last.

        MediaError when there is no way to it.
        """
        if self._conversion is None:
            self._conversion = Conversion(self._from_rate, sample_rate)
        size = sample_rate // FRAMES_PER_S * 2
        step = max(2, self._from_rate // FRAMES_PER_S * 2)
        while len(self._ready) < size and not self._has_ended:
            source = bytes(self._audio[self._at : self._at + step])
            self._at += len(source)
            self._has_ended = not source
            self._ready += self._conversion.feed(source) if source else self._conversion.flush()
        if not self._ready:
            return None
        frame = bytes(self._ready[:size]).ljust(size, b"\0")
        del self._ready[:size]
        return frame


class SocketMedia:
    """The media of a leg that a peer connects to: `callreel.service.media.Media`, for any thread."""

    def __init__(self, recorded: RecordedCall, wish: LegWish, forget: Callable[[SocketMedia], None]) -> None:
        """`forget` is called when nobody can connect any more."""
        self.recorded, self.leg = recorded, wish.name
        self.counts: Counter[str] = Counter()
        """Messages by fate."""
        self._forget = forget
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._piece: Piece | None = None
        self._is_closed = False
        self._keys, self._keys_since_s = 0, 0.0

    @property
    def description(self) -> Mapping[str, Any]:
        """JSON: where to connect."""
        raise NotImplementedError

    @property
    def statistics(self) -> Mapping[str, Any]:
        """JSON: messages by fate."""
        return {"connected": self._link is not None, **self.counts}

    # -- of the host -----------------------------------------------------------------------------------------------

    def play(self, pcm: bytes, sample_rate: int, done: Done) -> None:
        """Send PCM in real time, as soon as somebody has connected; what is playing ends here."""
        piece = Piece(pcm, sample_rate, done)
        with self._lock:
            is_closed, link = self._is_closed, self._link
            before = self._piece
            if not is_closed:
                self._piece = piece
        if before is not None and not is_closed:
            before.done("something else is played")
        if is_closed:
            done(f"{self.leg} has no connection any more")
        elif link is not None:
            link.wake()

    def stop(self) -> None:
        """End what is played; its `done` is not called."""
        with self._lock:
            self._piece, link = None, self._link
        if link is not None:
            link.hush()

    def settle(self) -> None:
        """Hand on what was held back of what has come; the leg is about to end."""
        link = self._link
        if link is not None:
            link.flush()

    def close(self) -> None:
        """Hang up: tell the peer, and let go of the connection."""
        with self._lock:
            is_first, self._is_closed = not self._is_closed, True
            self._piece, link = None, self._link
        if is_first:
            self._forget(self)
        if link is not None:
            link.end()

    # -- of its connection -----------------------------------------------------------------------------------------

    @property
    def piece(self) -> Piece | None:
        """What is to be played."""
        return self._piece

    def attach(self, link: Link) -> bool:
        """Take a connection; False when there is one, or was."""
        with self._lock:
            if self._is_closed or self._link is not None:
                return False
            self._link = link
        link.wake()
        return True

    def detach(self, link: Link, reason: str) -> None:
        """The connection is gone, and so is the participant."""
        with self._lock:
            if self._link is not link:
                return
            self._link = None
            piece, self._piece = self._piece, None
            was_closed, self._is_closed = self._is_closed, True
        if piece is not None:
            piece.done(reason)
        if was_closed:
            return
        self._forget(self)
        with contextlib.suppress(UsageError):  # the call has ended meanwhile
            self.recorded.hang_up(self.leg)
            if all(one is LegStatus.DISCONNECTED for one in self.recorded.participants.values()):
                self.recorded.end()

    def take_out(self, piece: Piece) -> bool:
        """Whether this piece was still to be played; from now on it is not."""
        with self._lock:
            is_it, self._piece = self._piece is piece, None if self._piece is piece else self._piece
        return is_it

    def press(self, symbol: str, arrival_s: float) -> None:
        """A message says that a key was pressed, and has been let go."""
        if symbol.upper() not in KEYS:
            self.counts["malformed"] += 1
            return
        if arrival_s - self._keys_since_s >= 1.0:
            self._keys_since_s, self._keys = arrival_s, 0
        self._keys += 1
        if self._keys > KEYS_PER_S:
            self.counts["ahead"] += 1
            return
        self.counts["digits"] += 1
        self.recorded.receive_digit(self.leg, symbol.upper(), now=arrival_s - KEY_S)


class Link:
    """A leg's connection. `wake`, `hush` and `end` are for any thread, all else for that of its event loop."""

    def __init__(self, media: SocketMedia, now: Callable[[], float], encoding: Encoding) -> None:
        """Made in a running event loop; `now` is the recorder's clock."""
        self.media = media
        self._encoding = encoding
        self._has_begun = False
        self.feeds_outgoing = True
        """Whether the outgoing track is made of what we play, or comes from the peer."""
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._outgoing: Feed | None = None
        self._next_s = 0.0
        self._stalled_since_s: float | None = None
        self._is_lost = False
        self.feeds: list[Feed] = []
        """What the peer says, by track."""

    @property
    def encoding(self) -> Encoding:
        """Of what is sent."""
        return self._encoding

    def speak(self, encoding: Encoding) -> None:
        """Send in this one from now on, unless something was played already: then it stays as it is."""
        if not self._has_begun:
            self._encoding = encoding

    # -- what a kind of connection does ----------------------------------------------------------------------------

    def send_audio(self, data: bytes) -> bool:
        """Send a frame; False when the peer has not taken those before it."""
        raise NotImplementedError

    def sent(self, piece: Piece) -> None:
        """All of it is out."""
        piece.done(None)

    def hushed(self) -> None:
        """What was sent is to be heard no more."""

    def shut(self) -> None:
        """End the connection in an orderly way."""
        raise NotImplementedError

    def abort(self) -> None:
        """End the connection at once."""
        raise NotImplementedError

    # -- any thread ------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """There is something to be played."""
        self._soon(self._begin)

    def hush(self) -> None:
        """What was played is called off."""
        self._soon(self.hushed)

    def end(self) -> None:
        """Hang up."""
        self._soon(self.shut)

    def _soon(self, work: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the connection with it
            self._loop.call_soon_threadsafe(work)

    # -- playing ---------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._timer is None and not self._is_lost and self.media.piece is not None:
            self._next_s = self._now()
            self._tick()

    def _tick(self) -> None:
        self._timer = None
        moment = self._now()
        if moment - self._next_s > HELD_UP_S:
            self._next_s = moment
        try:
            while self._next_s <= moment:
                if not self._play_on(moment):
                    return
        except UsageError:  # the call is over
            self.shut()
            return
        self._timer = self._loop.call_later(max(0.0, self._next_s - self._now()), self._tick)

    def _play_on(self, moment: float) -> bool:
        """Send the frame that is due; whether there may be another."""
        piece = self.media.piece
        if piece is None:
            if self._outgoing is not None:
                self._outgoing.flush()
            return False
        self._has_begun = True
        try:
            frame = piece.frame(self.encoding.sample_rate)
        except MediaError as error:
            if self.media.take_out(piece):
                piece.done(str(error))
            return True
        if frame is None:
            if self.media.take_out(piece):
                self.sent(piece)
            return True
        data = self.encoding.encode(frame)
        if self.send_audio(data):
            self._stalled_since_s = None
            self.media.counts["sent"] += 1
            if self.feeds_outgoing:
                if self._outgoing is None:
                    self._outgoing = self._feed()
                self._outgoing.put(self.encoding.decode(data), self._next_s)
        else:
            self.media.counts["unsent"] += 1
            self._stalled_since_s = self._stalled_since_s or moment
            if moment - self._stalled_since_s > STALLED_S:
                self.lose("the other side takes nothing of what is played")
                return False
        self._next_s += 1 / FRAMES_PER_S
        return True

    def _feed(self) -> Feed:
        return Feed(self.media.recorded, self.media.leg, "outgoing", self.encoding.sample_rate)

    def lose(self, reason: str) -> None:
        """The connection is of no use any more."""
        if self._is_lost:
            return
        self._is_lost = True
        if self._timer is not None:
            self._timer.cancel()
        self.abort()
        self.flush()
        self.media.detach(self, reason)

    def flush(self) -> None:
        """Hand on what was held back of what the peer has said; any thread."""
        for feed in list(self.feeds):
            with contextlib.suppress(UsageError):  # the call is over
                feed.flush()
