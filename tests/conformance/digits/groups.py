"""The groups of audio on which detectors are compared, in the manner of spandsp's own test of its receiver.

Every case is PCM at 8 kHz with the digits that are in it; all of it is seeded and the same in each run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from callreel.kernels import g711

from ...native import dtmf_signals as signals
from ...native.dtmf_signals import SYMBOLS, Pcm, Signal, noise, pcm, sine, string


@dataclass(frozen=True)
class Case:
    """One string of digits as PCM."""

    audio: Pcm
    digits: str


@dataclass(frozen=True)
class Group:
    """Cases of one kind. `required` is the part of them that must be right to meet ITU-T Q.24."""

    name: str
    cases: Callable[[np.random.Generator], Iterator[Case]]
    required: float = 1.0
    tones_beneath: bool = False
    """Whether spandsp's filter against dial tones belongs here."""

    def make(self) -> list[Case]:
        return list(self.cases(np.random.default_rng([ord(letter) for letter in self.name])))


GROUPS: list[Group] = []


def group(
    name: str, **options: object
) -> Callable[[Callable[..., Iterator[Case]]], Callable[..., Iterator[Case]]]:
    def add(cases: Callable[..., Iterator[Case]]) -> Callable[..., Iterator[Case]]:
        GROUPS.append(replace(Group(name, cases), **options))
        return cases

    return add


def case(signal: Signal, digits: str = SYMBOLS) -> Case:
    return Case(pcm(signal), digits)


def together(dbm0: float, twist_db: float) -> float:
    """Level of both components, the stronger of which has `dbm0`."""
    return dbm0 + 10 * np.log10(1 + 10 ** (-abs(twist_db) / 10))


# ---- what must be found ----


@group("levels 0 to -36 dBm0")
def _(rng: np.random.Generator) -> Iterator[Case]:
    for dbm0 in range(-36, 1):
        yield case(string(rng, dbm0=dbm0, on_ms=50, off_ms=50))


@group("twist +4 to -8 dB")
def _(rng: np.random.Generator) -> Iterator[Case]:
    for twist_db in np.arange(-8, 4.25, 0.5):
        yield case(string(rng, twist_db=twist_db, dbm0=-5))
        yield case(string(rng, twist_db=twist_db, dbm0=-20))


@group("both frequencies off by up to 1.5 %")
def _(rng: np.random.Generator) -> Iterator[Case]:
    for offset in np.arange(-0.015, 0.0151, 0.001):
        for _ in range(2):
            yield case(string(rng, low_offset=offset, high_offset=offset))


@group("frequencies off by 1.5 %, in opposite directions")
def _(rng: np.random.Generator) -> Iterator[Case]:
    for offset in (-0.015, -0.0145, -0.01, 0.01, 0.0145, 0.015):
        for on_ms in (40, 50):
            for _ in range(4):
                yield case(string(rng, on_ms=on_ms, low_offset=offset, high_offset=-offset))


@group("16 digits of 50 ms at twist +3.8 dB")
def _(rng: np.random.Generator) -> Iterator[Case]:
    for _ in range(40):
        yield case(string(rng, twist_db=3.8))


@group("16 digits of 50 ms at twist -7.5 dB")
def _(rng: np.random.Generator) -> Iterator[Case]:
    for _ in range(40):
        yield case(string(rng, twist_db=-7.5))


@group("16 digits of 50 ms off by 1.45 %")
def _(rng: np.random.Generator) -> Iterator[Case]:
    for _ in range(20):
        yield case(string(rng, low_offset=0.0145, high_offset=0.0145))
        yield case(string(rng, low_offset=-0.0145, high_offset=-0.0145))


@group("16 digits of 50 ms off by 1.45 % and twisted")
def _(rng: np.random.Generator) -> Iterator[Case]:
    for _ in range(10):
        for offset in (-0.0145, 0.0145):
            for twist_db in (-7.5, 3.8):
                yield case(string(rng, low_offset=offset, high_offset=offset, twist_db=twist_db))


@group("tones and pauses of 40 to 100 ms")
def _(rng: np.random.Generator) -> Iterator[Case]:
    for on_ms in (40, 45, 50, 65, 80, 100):
        for off_ms in (40, 45, 50, 70, 100):
            yield case(string(rng, on_ms=on_ms, off_ms=off_ms))


@group("equal digits 40 ms apart")
def _(rng: np.random.Generator) -> Iterator[Case]:
    for symbol in SYMBOLS:
        for on_ms in (40, 50, 100):
            yield case(string(rng, symbol * 5, on_ms=on_ms, off_ms=40), symbol * 5)


@group("tones interrupted for up to 10 ms")
def _(rng: np.random.Generator) -> Iterator[Case]:
    for gap_ms in (2, 4, 6, 8, 10):
        for symbol in SYMBOLS:
            tone = signals.key(symbol, 100, phases=tuple(rng.uniform(0, 2 * np.pi, 2)))
            at = int(rng.integers(240, 480))
            tone[at : at + 8 * gap_ms] = 0
            lead = np.zeros(int(rng.integers(240, 320)))
            yield case(np.concatenate([lead, tone, signals.silence(60)]), symbol)


def _in_noise(
    rng: np.random.Generator, snr_db: float, on_ms: float, twist_db: float = 0, offset: float = 0
) -> Case:
    clean = string(rng, on_ms=on_ms, twist_db=twist_db, low_offset=offset, high_offset=offset)
    return case(clean + noise(rng, len(clean), together(-10, twist_db) - snr_db))


@group("white noise 15 to 30 dB below")
def _(rng: np.random.Generator) -> Iterator[Case]:
    for snr_db in (15, 18, 24, 30):
        for on_ms in (40, 50, 100):
            for _ in range(5):
                yield _in_noise(rng, snr_db, on_ms)


@group("white noise 15 dB below twisted digits of 50 ms")
def _(rng: np.random.Generator) -> Iterator[Case]:
    for twist_db in (-7.5, 3.8):
        for _ in range(20):
            yield _in_noise(rng, 15, 50, twist_db)


@group("white noise 15 dB below digits of 50 ms off by 1.5 %")
def _(rng: np.random.Generator) -> Iterator[Case]:
    for offset in (-0.015, 0.015):
        for _ in range(20):
            yield _in_noise(rng, 15, 50, 0, offset)


# Beyond Q.24, which asks for one impairment at a time: everything at its limit, and the shortest digit.
@group("white noise 15 dB below digits of 40 ms at -8 dB twist off by 1.5 %", required=0.8)
def _(rng: np.random.Generator) -> Iterator[Case]:
    for offset in (-0.015, 0.015):
        for _ in range(20):
            yield _in_noise(rng, 15, 40, -8, offset)


@group("white noise 6 to 12 dB below", required=0.8)
def _(rng: np.random.Generator) -> Iterator[Case]:
    for snr_db in (6, 8, 10, 12):
        for _ in range(10):
            yield _in_noise(rng, snr_db, 50)


def _above(rng: np.random.Generator, tones_hz: tuple[float, ...], above_db: float, twist_db: float) -> Case:
    clean = string(rng, dbm0=-20, twist_db=twist_db)
    beneath = sum(sine(hz, -20 + above_db, len(clean), 8000, float(rng.uniform(0, 6))) for hz in tones_hz)
    return case(clean + beneath)


@group("dial tones beneath, as loud as the digits and 6 dB louder", tones_beneath=True)
def _(rng: np.random.Generator) -> Iterator[Case]:
    for tones_hz in ((350, 440), (425,), (400,), (440,), (350, 450)):
        for above_db in (0, 6):
            for twist_db in (-7.5, 0, 3.8):
                yield _above(rng, tones_hz, above_db, twist_db)


@group("ringing and busy tones beneath, 3 to 15 dB fainter", tones_beneath=True)
def _(rng: np.random.Generator) -> Iterator[Case]:
    for tones_hz, levels in (((440, 480), (-3, -9)), ((480, 620), (-10, -15)), ((400, 450), (-3, -9))):
        for above_db in levels:
            for twist_db in (-7.5, 0, 3.8):
                yield _above(rng, tones_hz, above_db, twist_db)


# 620 Hz lies 77 Hz from the lowest key frequency: no filter takes it away and leaves 697 Hz less 1.8 % alone.
@group("busy tone 480 + 620 Hz beneath, 3 to 8 dB fainter", required=0.6, tones_beneath=True)
def _(rng: np.random.Generator) -> Iterator[Case]:
    for above_db in (-8, -6, -5, -4, -3):
        for twist_db in (-7.5, -4, 0, 3.8):
            for _ in range(3):
                yield _above(rng, (480, 620), above_db, twist_db)


@group("mains hum and DC 20 dB louder", tones_beneath=True)
def _(rng: np.random.Generator) -> Iterator[Case]:
    for hz in (0, 50, 60, 100):
        for twist_db in (-7.5, 0, 3.8):
            clean = string(rng, dbm0=-24, twist_db=twist_db)
            yield case(clean + sine(hz, -4, len(clean), 8000, 1))


@group("clipped by 3 to 20 dB")
def _(rng: np.random.Generator) -> Iterator[Case]:
    for gain_db in (3, 6, 10, 15, 20):
        for on_ms in (40, 50, 100):
            yield case(string(rng, dbm0=gain_db, on_ms=on_ms))


@group("coded by G.711")
def _(rng: np.random.Generator) -> Iterator[Case]:
    coders = ((g711.ulaw_encode, g711.ulaw_decode), (g711.alaw_encode, g711.alaw_decode))
    for encode, decode in coders:
        for dbm0 in (0, -10, -20, -28):
            for twist_db in (-7.5, 0, 3.8):
                coded = decode(encode(pcm(string(rng, dbm0=dbm0, twist_db=twist_db))))
                yield Case(np.frombuffer(coded, np.int16), SYMBOLS)


@group("echo 16 dB below, 20 to 60 ms later", required=0.9)
def _(rng: np.random.Generator) -> Iterator[Case]:
    for delay_ms in (20, 30, 40, 60):
        for _ in range(5):
            clean = string(rng, on_ms=60, off_ms=60)
            echo = np.concatenate([np.zeros(8 * delay_ms), clean])[: len(clean)]
            yield case(clean + echo * 10 ** (-16 / 20))


# ---- what must not be found ----


@group("tones of 10 to 23 ms are no digits")
def _(rng: np.random.Generator) -> Iterator[Case]:
    for on_ms in (10, 15, 20, 23):
        for _ in range(5):
            yield case(string(rng, on_ms=on_ms, off_ms=60), "")


@group("frequencies off by 3.5 % and more are no digits")
def _(rng: np.random.Generator) -> Iterator[Case]:
    for offset in (-0.05, -0.035, 0.035, 0.05):
        for low, high in ((offset, 0), (0, offset), (offset, offset), (offset, -offset)):
            for on_ms in (50, 100):
                yield case(string(rng, on_ms=on_ms, low_offset=low, high_offset=high), "")


@group("twist beyond +7 and -11 dB is no digit")
def _(rng: np.random.Generator) -> Iterator[Case]:
    for twist_db in (-16, -14, -12, -11, 7, 8, 10, 12):
        for on_ms in (50, 100):
            yield case(string(rng, on_ms=on_ms, twist_db=twist_db), "")


@group("levels below -45 dBm0 are no digits")
def _(rng: np.random.Generator) -> Iterator[Case]:
    for dbm0 in (-60, -50, -47, -45):
        for _ in range(3):
            yield case(string(rng, dbm0=dbm0, on_ms=100), "")


@group("single frequencies and signalling tones are no digits")
def _(rng: np.random.Generator) -> Iterator[Case]:
    tones = [(hz,) for hz in (*signals.LOW_HZ, *signals.HIGH_HZ)]
    tones += [
        (350, 440),
        (480, 620),
        (440, 480),
        (425,),
        (950, 1400, 1800),
        (2100,),
        (1100,),
        (697, 770),
        (1209, 1336),
    ]
    for tones_hz in tones:
        for dbm0 in (-25, -6):
            yield case(sum(sine(hz, dbm0, 8000, 8000) for hz in tones_hz), "")


@group("noise alone is no digit")
def _(rng: np.random.Generator) -> Iterator[Case]:
    for dbm0 in (-40, -20, -6):
        yield case(noise(rng, 8000 * 60, dbm0), "")


# ---- recordings at 8 kHz, the only rate of spandsp; tests/native/test_dtmf.py hears the others too ----

RECORDINGS = {
    "tino-complete-sequence-8kHz-old1.wav": "1234567890*#ABCD",
    "tino-0-9-8Khz.wav": "0123456789",
    "tino-asterix-8kHz.wav": "****",
    "tino-b-8kHz.wav": "BBBB",
    "tino-seven-8kHz.wav": "7777",
    "test_dtmf.wav": "012345678901234567890",
    "digits.1234.8000hz.wav": "1234",
    "digits.321.unclean.8000hz.wav": "321",
    "dtmfs-1-9.wav": "12345#6789",
    "dtmf-1.wav": "1",
    "tonedetect-100by100-0123456789psABCD.wav": "0123456789#*ABCD",
    "tonedetect-50by50-radio-0db-0123456789psABCD.wav": "0123456789#*ABCD",
}
