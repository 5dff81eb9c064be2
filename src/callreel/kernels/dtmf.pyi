"""DTMF digits in PCM audio (ITU-T Q.23, Q.24): where each starts, how long it lasts, how loud it is."""

from collections.abc import Sequence
from typing import NamedTuple

from typing_extensions import Buffer

class Digit(NamedTuple):
    """A key that was pressed; comparable by value."""

    symbol: str
    """One of `0123456789*#ABCD`."""
    start: int
    """Where the tone begins, in samples since the first feed; true within 10 ms."""
    duration: int
    """How long it lasts, in samples; true within 15 ms. An interruption of 10 ms or less is part of it."""
    level_dbm0: float
    """Mean of the two components' levels in dBm0; a sine of peak 32768 has +3.14 dBm0."""
    twist_db: float
    """Level of the high group less that of the low group, in dB: positive if the high group is stronger."""

class Detector:
    """Finds the DTMF digits of one channel, fed in any pieces.

    The digits found depend on the samples fed and not on how they were cut. A Detector belongs to one thread
    at a time.

    Raises ValueError if `sample_rate` is not within 8000 to 48000 Hz; every method raises UsageError while
    another thread is inside one.
    """

    def __init__(self, sample_rate: int = 8000) -> None: ...
    def feed(self, /, pcm: Buffer) -> list[Digit]:
        """Listen to 16-bit PCM; the digits that ended in it, as a list.

        A digit has ended when its tone has been away for 20 ms, so it is reported about 30 ms after its end.
        """

    def skip(self, samples: int) -> list[Digit]:
        """Pass over audio that is missing, as if so many zeros were fed; the digits that ended, as a list.

        Takes the same time for a gap of hours as for one of 200 ms.
        """

    def flush(self) -> list[Digit]:
        """End the stream: the digit that still sounds, if any. Later feeds start afresh at this position."""

    @property
    def active(self) -> Digit | None:
        """The digit that sounds now, with its duration so far, or None.

        Set at most 60 ms after 40 ms of tone were fed; `feed` reports the same symbol and start once it ends.
        """

    @property
    def position(self) -> int:
        """Samples fed and skipped so far."""

    @property
    def sample_rate(self) -> int:
        """Samples a second, as given."""

class Bank:
    """Detectors for many channels, fed together: a packet of each in one call, without the GIL.

    Finds what one Detector each would find. A Bank belongs to one thread at a time; 5 KB a channel at 8 kHz.

    Raises ValueError if `channels` is not at least 1 or `sample_rate` not within 8000 to 48000 Hz; every method raises
    UsageError while another thread is inside one.
    """

    def __init__(self, channels: int, sample_rate: int = 8000) -> None: ...
    def feed(self, audio: Buffer | list[Buffer] | tuple[Buffer, ...]) -> list[tuple[int, Digit]]:
        """Listen to the next audio of all channels; (channel, digit) for each digit that ended in it.

        `audio` is one buffer that holds equally many samples of each channel, channel after channel, or a list of
        a buffer for each channel, of any lengths. The result is in the order of channels, then of time.
        """

    def flush(self) -> list[tuple[int, Digit]]:
        """End all streams: (channel, digit) for each that still sounds. Later feeds start afresh."""

    @property
    def channels(self) -> int:
        """How many channels, as given."""

    @property
    def sample_rate(self) -> int:
        """Samples a second, as given."""

def detect_many(channels: Sequence[Buffer], sample_rate: int = 8000) -> list[list[Digit]]:
    """Find the digits of many channels, each a complete stream: a list of digits for each.

    The same as feeding and flushing a Detector for each, without the GIL for the whole work.
    """
