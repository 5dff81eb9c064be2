"""Live audio: pieces as they arrive in, frames to send out, as little later as the network allows.

A recording can wait 1.1 s until its timeline is final; somebody who listens cannot. `Playout` holds a participant's
audio back by a fixed delay, which takes up the jitter and puts packets in order again. What comes later than that is
not lost: the delay grows by as much, and shrinks again, a frame at a time and where nothing is said, once it has not
been needed for a while.

    arrived       |--p1--|--p2--|      |--p4--|--p5--|        places on the timeline, as known now
    sent                 .delay.|--p1--|--p2--|      |--p4--  frames of 20 ms
                                                  ^ lost: silence

It works on decoded audio and does no concealment. Everything is samples at 8 kHz on the clock of whoever mixes.
"""

from __future__ import annotations

from callreel.kernels import pcm

__all__ = ["FRAME_SAMPLES", "Line", "Playout"]

FRAME_SAMPLES = 160
"""20 ms at 8 kHz."""

MAX_DELAY_SAMPLES = 3200
"""0.4 s: who is heard later than this cannot be talked with; beyond it audio is left out."""

MAX_HELD_SAMPLES = 8000
"""1 s, so that memory is bounded although nobody asks for frames."""

STEP_SAMPLES = 64
"""Steps this small between two pieces are the clock correction at work, not a loss: 8 ms, less than any packet."""

WINDOW_FRAMES = 200
"""The delay shrinks to what the last 4 to 8 s have needed."""

QUIET_DBM0 = -45.0
"""A frame fainter than this may be left out to catch up: pauses between words are, words are not."""


class Line:
    """Audio by position: pieces in, stretches out, both in order; where there is no piece there is silence."""

    __slots__ = ("_audio", "position")

    def __init__(self) -> None:
        """Start empty."""
        self._audio = bytearray()
        self.position = 0
        """Where what is held begins."""

    def __len__(self) -> int:
        """Samples held, silence between pieces included."""
        return len(self._audio) // 2

    @property
    def end(self) -> int:
        """One past the last sample held."""
        return self.position + len(self._audio) // 2

    def put(self, position: int, audio: bytes) -> None:
        """Take a piece; what of it lies before the end of the pieces held is left out."""
        if not self._audio:
            self.position = position
        gap = position - self.end
        if gap > 0:
            self._audio += bytes(2 * gap)
        self._audio += audio if gap >= 0 else audio[-2 * gap :]

    def drop(self, until: int) -> None:
        """Forget what lies before `until`."""
        if until > self.position:
            del self._audio[: 2 * (until - self.position)]
            self.position = until

    def peek(self, begin: int, end: int) -> bytes:
        """A stretch of what is held, silence around it; nothing is forgotten."""
        first, last = max(begin, self.position), min(end, self.end)
        if first >= last:
            return bytes(2 * (end - begin))
        held = self._audio[2 * (first - self.position) : 2 * (last - self.position)]
        return bytes(2 * (first - begin)) + bytes(held) + bytes(2 * (end - last))

    def take(self, begin: int, end: int) -> bytes | None:
        """Give out a stretch, and forget it and what lies before; None when nothing is held of it."""
        self.drop(begin)
        if not self._audio or self.position >= end:
            return None
        audio = bytes(2 * (self.position - begin)) + self._audio[: 2 * (end - self.position)]
        self.drop(end)
        return bytes(audio.ljust(2 * (end - begin), b"\0"))


class Playout:
    """One participant's audio on its way to the others."""

    def __init__(self, delay_samples: int, next_frame: int) -> None:
        """Hold audio back by `delay_samples` at least; the first frame asked for will be that at `next_frame`."""
        self.delay_samples = self._least = delay_samples
        """How long after its place on the timeline audio is sent, at present."""
        self._line = Line()
        self._end = 0  # one past the last sample that came, on the timeline
        self._next_frame = next_frame
        self._frames = 0  # in this window
        self._needed = [0, 0]  # the longest delay that audio needed, in this window and the one before

    @property
    def position(self) -> int:
        """What is sent next, on the timeline."""
        return self._next_frame - self.delay_samples

    def put(self, position: int, audio: bytes) -> None:
        """Take the next piece that has come, and where it stands."""
        step = position - self._end
        if self._end and 0 < abs(step) <= STEP_SAMPLES:
            # A clock correction: a few samples more, or less.
            audio = audio[:2] * step + audio if step > 0 else audio[-2 * step :]
            position = self._end
        elif self._end and step < 0:
            # All since the first packet is found to stand too late (or the stream starts anew): it moves back, and what
            # is held with it; what we send does not.
            self._line.position += step
            self.delay_samples -= step
        if not audio:
            return
        self._end = position + len(audio) // 2
        needed = self._next_frame - position
        self._needed[0] = max(self._needed[0], needed)
        self.delay_samples = min(max(self.delay_samples, needed), MAX_DELAY_SAMPLES)
        self._line.put(position, audio)
        self._line.drop(self._end - MAX_HELD_SAMPLES)

    def frame(self, position: int) -> bytes | None:
        """Give out the frame to be sent at `position`; None when there is nothing for it."""
        self._next_frame = position + FRAME_SAMPLES
        self._frames += 1
        if self._frames == WINDOW_FRAMES:
            self._frames = 0
            self._needed = [0, self._needed[0]]
        audio = self._take(position)
        spare = self.delay_samples - max(self._least, *self._needed)
        if spare >= FRAME_SAMPLES and (audio is None or pcm.level(audio)[0] < QUIET_DBM0):
            self.delay_samples -= FRAME_SAMPLES
            audio = self._take(position)
        return audio

    def _take(self, position: int) -> bytes | None:
        begin = position - self.delay_samples
        return self._line.take(begin, begin + FRAME_SAMPLES)
