"""The compiled kernels, usable on their own: G.711, PCM, DTMF, tones, WAV, MP3, RTP and capture files."""

import os

from callreel.kernels.cpu import isas

__all__ = ["ISAS", "isa"]

ISAS = isas()
"""The instruction sets of this machine that the kernels have versions for, best last."""


def _choose(forced: str | None) -> str:
    if forced is None:
        return ISAS[-1]
    if forced not in ISAS:
        raise ValueError(f"CALLREEL_ISA={forced}: this machine has {', '.join(ISAS)}")
    return forced


# Once, before any kernel is imported: all run on the same one, and a wrong name is refused, not ignored.
_IN_USE = _choose(os.environ.get("CALLREEL_ISA"))


def isa() -> str:
    """Name the instruction set the kernels run on: the best of `ISAS`, unless `CALLREEL_ISA` forces one.

    The variable is read when this package is imported, which raises ValueError if it names one that this
    machine lacks.
    """
    return _IN_USE
