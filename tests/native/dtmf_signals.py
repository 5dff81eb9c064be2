"""Synthesised DTMF for conformance tests: every parameter of ITU-T Q.23 and Q.24 under control, seeded.

Signals are float arrays in units of 16-bit PCM until `pcm` rounds and clips them.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

SYMBOLS = "123A456B789C*0#D"
LOW_HZ = (697.0, 770.0, 852.0, 941.0)
HIGH_HZ = (1209.0, 1336.0, 1477.0, 1633.0)

Signal = npt.NDArray[np.float64]
Pcm = npt.NDArray[np.int16]


def pcm(signal: Signal) -> Pcm:
    return np.clip(np.round(signal), -32768, 32767).astype(np.int16)


def samples(ms: float, rate: int) -> int:
    return round(ms * rate / 1000)


def silence(ms: float, rate: int = 8000) -> Signal:
    return np.zeros(samples(ms, rate))


def sine(hz: float, dbm0: float, count: int, rate: int, phase: float = 0.0) -> Signal:
    """Make a sine; peak 32768 is +3.14 dBm0."""
    peak = 32768 * 10 ** ((dbm0 - 3.14) / 20)
    return peak * np.sin(2 * np.pi * hz / rate * np.arange(count) + phase)


def key(
    symbol: str,
    ms: float,
    *,
    rate: int = 8000,
    dbm0: float = -10.0,
    twist_db: float = 0.0,
    low_offset: float = 0.0,
    high_offset: float = 0.0,
    phases: tuple[float, float] = (0.0, 0.0),
) -> Signal:
    """Make one key's tone; `dbm0` is that of the stronger component, offsets are parts of the frequency."""
    row, column = divmod(SYMBOLS.index(symbol), 4)
    count = samples(ms, rate)
    low_dbm0 = dbm0 - max(twist_db, 0.0)
    low = sine(LOW_HZ[row] * (1 + low_offset), low_dbm0, count, rate, phases[0])
    return low + sine(HIGH_HZ[column] * (1 + high_offset), low_dbm0 + twist_db, count, rate, phases[1])


def string(
    rng: np.random.Generator,
    symbols: Iterable[str] = SYMBOLS,
    *,
    on_ms: float = 50.0,
    off_ms: float = 50.0,
    rate: int = 8000,
    **of_key: float,
) -> Signal:
    """Make a string of keys with random phases after 30 to 40 ms of silence, so that blocks fall anywhere."""
    parts = [np.zeros(int(rng.integers(30 * rate // 1000, 40 * rate // 1000)))]
    for symbol in symbols:
        low, high = rng.uniform(0, 2 * np.pi, 2)
        parts.append(key(symbol, on_ms, rate=rate, phases=(low, high), **of_key))
        parts.append(silence(off_ms, rate))
    return np.concatenate(parts)


def noise(rng: np.random.Generator, count: int, dbm0: float) -> Signal:
    """Make white noise; a sine of the same RMS has `dbm0`."""
    return rng.normal(0, 32768 * 10 ** ((dbm0 - 3.14) / 20) / np.sqrt(2), count)


def speech_like(rng: np.random.Generator, seconds: float, rate: int = 8000) -> Signal:
    """Make syllables of gliding harmonics under three moving formants, with pauses."""
    parts = []
    total = 0
    while total < seconds * rate:
        count = int(rng.integers(rate // 10, rate // 2))
        time = np.arange(count) / rate
        pitch = rng.uniform(85, 255) * 2 ** (np.linspace(0, rng.normal(0, 0.25), count))
        pitch = pitch * (1 + 0.01 * np.sin(2 * np.pi * rng.uniform(4, 7) * time))
        phase = 2 * np.pi * np.cumsum(pitch) / rate
        formants = [rng.uniform(250, 900), rng.uniform(800, 2300), rng.uniform(2200, 3200)]
        drift = [rng.normal(0, 150) for _ in formants]
        syllable = np.zeros(count)
        for harmonic in range(1, int(3600 / pitch.max()) + 1):
            weight = np.zeros(count)
            for order, (centre, move) in enumerate(zip(formants, drift, strict=True)):
                distance = (harmonic * pitch - centre - move * time / time[-1]) / 90.0
                weight += 10 ** (-order * 0.5) / (1 + distance**2)
            syllable += weight * np.sin(harmonic * phase)
        syllable *= np.sin(np.pi * np.arange(count) / count) ** 0.5 * rng.uniform(1500, 9000)
        parts += [syllable + rng.normal(0, 20, count), np.zeros(int(rng.integers(0, rate // 10)))]
        total += len(parts[-1]) + count
    return np.concatenate(parts)
