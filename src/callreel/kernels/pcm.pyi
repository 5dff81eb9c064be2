"""Linear 16-bit PCM: interleave, mix, mix-minus, gain, level, sample-rate conversion.

PCM is signed 16-bit little-endian, in any contiguous bytes-like object: bytes of even length, or int16 items.
With `out=` a function fills that buffer, which may be larger than needed, and returns a number of samples;
without, it returns bytes. `out` must not overlap an input, but `gain` and `mix` may write exactly over one.
Every function raises TypeError for items that are not bytes or int16, ValueError for half a sample or for an
`out` without room (nothing is written then), and what the object itself raises, BufferError or ValueError,
for memory that is not contiguous or, as `out`, not writable.
"""

from collections.abc import Sequence
from typing import SupportsIndex, final, overload

from typing_extensions import Buffer

@overload
def interleave(left: Buffer, right: Buffer, out: None = None) -> bytes: ...
@overload
def interleave(left: Buffer, right: Buffer, out: Buffer) -> int:
    """Weave two channels into stereo: bytes, or with `out=` the samples written there (2 per frame).

    The frames are left, right, left, right, ...; n samples a channel give n frames, which are 2 * n samples.
    Raises ValueError if the channels differ in length.
    """

@overload
def deinterleave(stereo: Buffer, left: None = None, right: None = None) -> tuple[bytes, bytes]: ...
@overload
def deinterleave(stereo: Buffer, left: Buffer, right: Buffer | None = None) -> int: ...
@overload
def deinterleave(stereo: Buffer, left: None = None, *, right: Buffer) -> int:
    """Take stereo apart: (left, right) as bytes, or with buffers the samples written to each given one.

    With only one buffer given, only that channel is extracted. Raises ValueError for an odd number of
    samples.
    """

@overload
def mix(tracks: Sequence[Buffer], out: None = None) -> bytes: ...
@overload
def mix(tracks: Sequence[Buffer], out: Buffer) -> int:
    """Add tracks of equal length, saturated once: bytes, or with `out=` the samples written there.

    The sum is exact before it is limited to 16 bits, so the order of the tracks does not matter. One track is
    copied. Raises ValueError for no track, more than 65,535 tracks, or tracks that differ in length.
    """

def mix_minus(tracks: Sequence[Buffer]) -> list[bytes]:
    """Add for each track all the others, saturated once: what each participant of a conference hears.

    Item i is the mix of all tracks but the one at i; of a single track it is silence. The cost grows with the number
    of tracks, not with its square. Raises what `mix` does.
    """

@overload
def gain(pcm: Buffer, db: float, out: None = None) -> bytes: ...
@overload
def gain(pcm: Buffer, db: float, out: Buffer) -> int:
    """Change the level by `db` decibels, saturating: bytes, or with `out=` the samples written there.

    Each sample is multiplied by 10 ** (db / 20) in float32 and rounded to the nearest integer, ties to even.
    0 dB changes nothing. Raises ValueError if `db` is not finite or outside -200 to +200.
    """

def level(pcm: Buffer) -> tuple[float, float]:
    """Measure (rms_dbm0, peak_dbm0) of PCM; both minus infinity where it is empty or all zeros.

    A sine of full scale (peak 32768) has +3.14 dBm0 in both: ITU-T G.711 (11/88), the overload point of
    A-law. The µ-law tables put theirs, peak 32636, at +3.17 dBm0; it reads +3.10 here. `peak_dbm0` is the
    level of the sine that has the same peak.
    """

@overload
def frame_levels(pcm: Buffer, frame_samples: SupportsIndex, out: None = None) -> bytes: ...
@overload
def frame_levels(pcm: Buffer, frame_samples: SupportsIndex, out: Buffer) -> int:
    """Measure rms_dbm0 of every whole frame: float32 as bytes, or with `out=` the levels written there.

    `frame_samples` consecutive samples of one channel are a frame; a rest shorter than a frame is left out.
    All zeros have minus infinity. `out` holds float32 items or bytes. Raises ValueError if `frame_samples` is
    below 1.
    """

@final
class SilenceMeter:
    """The silence at the end of what is fed: its frames are counted, and those of sound in between."""

    def __init__(
        self, frame_samples: int, threshold_dbm0: float, sound_frames: int, initial: int, trailing: int
    ) -> None:
        """Measure frames of `frame_samples`, at most 960; those of `threshold_dbm0` and more are loud.

        `sound_frames` loud ones in a row are something said; fewer count as silence. So much silence is waited for, in
        frames, 0 for ever: `initial` before anything is said, `trailing` after that.
        """

    def restart(self) -> None:
        """Count silence anew; what was said is remembered."""

    def feed(self, stereo: Buffer) -> tuple[int, bool] | None:
        """Take the next frames of stereo, any number, and measure the left channel.

        Returns None, or, where the silence was long enough, how many of these frames belong to it, and whether anything
        was said before it. What comes behind it is not taken.
        """

class Resampler:
    """A stream's converter from one sample rate to another; belongs to one thread at a time.

    Sample k of all output is the moment k / to_rate of the input: the delay of the filter is taken out, so
    the output lags the input while feeding (by 4.5 ms from 8 to 16 kHz) and `flush` gives the rest. n
    samples in give ceil(n * to_rate / from_rate) out, the same ones however the input is cut. Flat to 0.85
    of the lower Nyquist frequency (3.4 kHz at 8 kHz), more than 60 dB down from 1.0 on. Equal rates give
    the input back, late.
    """

    def __init__(self, from_rate: SupportsIndex, to_rate: SupportsIndex) -> None:
        """Design the filter for these rates, in Hz; ValueError for a rate or ratio not served.

        Rates are 8,000 to 48,000 Hz; to_rate divided by their greatest common divisor is at most 4,096.
        """

    @property
    def from_rate(self) -> int:
        """Sample rate of the input, in Hz."""

    @property
    def to_rate(self) -> int:
        """Sample rate of the output, in Hz."""

    def feed(self, pcm: Buffer) -> bytes:
        """Convert the next piece of the input; returns the output it completes, as bytes.

        Raises UsageError while another thread is inside this object.
        """

    def flush(self) -> bytes:
        """End the input; returns the rest of the output as bytes and makes the resampler as new.

        Raises UsageError while another thread is inside this object.
        """

def resample(pcm: Buffer, from_rate: SupportsIndex, to_rate: SupportsIndex) -> bytes:
    """Convert PCM from one sample rate to another in one go: ceil(samples * to_rate / from_rate) samples.

    Rates and errors are those of `Resampler`.
    """
