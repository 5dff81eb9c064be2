"""How audio is written on a connection, and from any sample rate to any other."""

from __future__ import annotations

from math import gcd
from typing import Final, Literal, NamedTuple

from callreel.errors import MediaError
from callreel.kernels import g711, pcm

__all__ = ["FRAMES_PER_S", "LEG_RATE", "NAMES", "Conversion", "Encoding"]

LEG_RATE: Final = 8000
"""Of the tracks of a leg, in Hz."""
FRAMES_PER_S: Final = 50
"""What is played goes out in frames of 20 ms."""

Name = Literal["pcm16", "ulaw", "alaw"]
NAMES: Final[tuple[Name, ...]] = ("pcm16", "ulaw", "alaw")

MOST_PHASES: Final = 4096
"""Of `pcm.Resampler`: the output rate divided by the greatest common divisor of both."""


class Encoding(NamedTuple):
    """One channel of audio as bytes."""

    name: Name = "pcm16"
    """16-bit little-endian PCM, or G.711."""
    sample_rate: int = LEG_RATE

    def decode(self, data: bytes) -> bytes:
        """16-bit PCM; ValueError for half a sample."""
        match self.name:
            case "ulaw":
                return g711.ulaw_decode(data)
            case "alaw":
                return g711.alaw_decode(data)
        if len(data) % 2:
            raise ValueError("half a sample")
        return data

    def encode(self, audio: bytes) -> bytes:
        """The bytes of 16-bit PCM."""
        match self.name:
            case "ulaw":
                return g711.ulaw_encode(audio)
            case "alaw":
                return g711.alaw_encode(audio)
        return audio


class Conversion:
    """A stream's way from one sample rate to another, in as many steps as it takes; belongs to one thread at a time.

    `pcm.Resampler` serves rates of 8 to 48 kHz, whose ratio counts, not their names: what is beyond goes up or down by
    two at a time. A rate so odd that it would need too many filters is taken for its neighbour, by less than 0.05 %.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        """MediaError when there is no way: rates are 1 to 384 kHz."""
        if not (1000 <= from_rate <= 384_000 and 1000 <= to_rate <= 384_000):
            raise MediaError(f"audio of {from_rate} Hz cannot become one of {to_rate} Hz: 1 to 384 kHz can")
        self._from_rate, self._to_rate = from_rate, to_rate
        self._fed = self._made = 0
        self._steps: list[pcm.Resampler] = []
        behind: list[pcm.Resampler] = []
        while from_rate > 48_000:
            from_rate = from_rate // 2
            self._steps.append(pcm.Resampler(16_000, 8_000))
        while from_rate < 8_000:
            from_rate *= 2
            self._steps.append(pcm.Resampler(8_000, 16_000))
        while to_rate > 48_000:
            to_rate //= 2
            behind.append(pcm.Resampler(8_000, 16_000))
        while to_rate < 8_000:
            to_rate *= 2
            behind.append(pcm.Resampler(16_000, 8_000))
        if from_rate != to_rate:
            if to_rate // gcd(from_rate, to_rate) > MOST_PHASES:
                multiple = -(-to_rate // MOST_PHASES)
                while to_rate % multiple:
                    multiple += 1
                from_rate = round(from_rate / multiple) * multiple
            self._steps.append(pcm.Resampler(from_rate, to_rate))
        self._steps += behind

    @property
    def held_back_s(self) -> float:
        """How much of what was fed has not come out yet."""
        return self._fed / self._from_rate - self._made / self._to_rate

    def feed(self, audio: bytes) -> bytes:
        """Convert the next piece; returns what it completes."""
        self._fed += len(audio) // 2
        for step in self._steps:
            audio = step.feed(audio)
        self._made += len(audio) // 2
        return audio

    def flush(self) -> bytes:
        """End the stream; returns the rest, and begins anew."""
        audio = b""
        for step in self._steps:
            audio = step.feed(audio) + step.flush()
        self._fed = self._made = 0
        return audio
