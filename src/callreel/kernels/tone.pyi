"""Tones as 16-bit PCM: sine, dual tone, DTMF, beep (ITU-T Q.23, Q.24).

Every function returns PCM as bytes, signed 16-bit little-endian, of round(seconds * sample_rate) samples.
Levels are dBm0 of each component: a sine of full scale has +3.14 dBm0 (see `callreel.kernels.pcm.level`).
Values are rounded to the nearest integer and saturated; sines begin at phase 0. Raises ValueError unless 0 <
hz < sample_rate / 2, 0 <= seconds <= 3600, 0 <= ramp_ms <= 1000, levels are finite and at most +3.14 dBm0,
and 8000 <= sample_rate <= 48000.
"""

from typing import Final, SupportsIndex

DTMF_SYMBOLS: Final[str]
"""The 16 symbols, each at the index that is its event code in RFC 4733: 0123456789*#ABCD."""

def sine(hz: float, seconds: float, dbm0: float, sample_rate: SupportsIndex = 8000) -> bytes:
    """Render a sine that begins at phase 0, as PCM."""

def dual(
    hz_low: float,
    hz_high: float,
    seconds: float,
    dbm0_low: float,
    dbm0_high: float,
    sample_rate: SupportsIndex = 8000,
) -> bytes:
    """Render two sines added, each at its own level, as PCM; a sum beyond full scale saturates."""

def frequencies(symbol: str) -> tuple[int, int]:
    """Look up the (low, high) frequencies of a DTMF symbol, in Hz (ITU-T Q.23).

    Raises ValueError for a text that is not one of DTMF_SYMBOLS; letters are capital.
    """

def dtmf(
    symbol: str,
    seconds: float,
    dbm0: float = -6.0,
    sample_rate: SupportsIndex = 8000,
    twist_db: float = 0.0,
    ramp_ms: float = 0.0,
) -> bytes:
    """Render a DTMF symbol as PCM: low group at `dbm0`, high group at `dbm0 + twist_db`.

    The levels are per component, as ITU-T Q.24 counts them; both together carry 3 dB more. Without ramps the
    tone starts and ends hard, as a telephone's does.
    """

def dtmf_part(
    symbol: str,
    first_sample: SupportsIndex,
    samples: SupportsIndex,
    total_samples: SupportsIndex | None = None,
    dbm0: float = -6.0,
    sample_rate: SupportsIndex = 8000,
    twist_db: float = 0.0,
    ramp_ms: float = 5.0,
) -> bytes:
    """Render `samples` of a DTMF tone from its sample `first_sample` on; parts join into the whole tone.

    For a tone that arrives in pieces, as RFC 4733 events do. While its end is not known leave `total_samples`
    out: there is no ramp down then. Given before the last `ramp_ms` are rendered, it gives the same tone as
    if it had been known from the start; after it there is silence.
    """

def beep(
    hz: float = 1400.0,
    seconds: float = 0.4,
    dbm0: float = -12.0,
    sample_rate: SupportsIndex = 8000,
    ramp_ms: float = 10.0,
) -> bytes:
    """Render a sine with raised-cosine ramps at both ends, so that it does not click, as PCM."""
