"""The compiled kernels, usable on their own: G.711, PCM, DTMF, tones, WAV, MP3, RTP and capture files."""

import os

__all__ = ["ISAS", "isa"]

ISAS = ("scalar",)
"""The instruction sets this build has versions for, best last."""


def isa() -> str:
    """Name the instruction set the kernels run on; `CALLREEL_ISA` forces one.

    Raises ValueError if `CALLREEL_ISA` names one this build does not have.
    """
    forced = os.environ.get("CALLREEL_ISA")
    if forced is None:
        return ISAS[-1]
    if forced not in ISAS:
        raise ValueError(f"CALLREEL_ISA={forced}: this build of callreel has {', '.join(ISAS)}")
    return forced


isa()  # a wrong CALLREEL_ISA is refused at import, not ignored
