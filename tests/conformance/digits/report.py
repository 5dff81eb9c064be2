"""Both detectors on the same audio: `PYTHONPATH=tests/support python -m tests.conformance.digits.report`."""

import os
from dataclasses import dataclass
from pathlib import Path

import soundfile

import spandsp_peer
from callreel.kernels import dtmf

from .groups import GROUPS, RECORDINGS, Group


@dataclass(frozen=True)
class Score:
    """How many cases of a group were right, for ours and for spandsp (None: not installed)."""

    group: Group
    cases: int
    ours: int
    peer: int | None

    @property
    def line(self) -> str:
        peer = "" if self.peer is None else f"{self.peer:8d}"
        return f"{self.group.name:72s}{self.cases:6d}{self.ours:10d}{peer}"


def detect(audio: object) -> str:
    detector = dtmf.Detector()
    return "".join(digit.symbol for digit in detector.feed(audio) + detector.flush())


def score(group: Group) -> Score:
    """Let both detectors hear a group; spandsp with its filter against dial tones where that helps it."""
    cases = group.make()
    ours = sum(detect(one.audio) == one.digits for one in cases)
    peer = None
    if spandsp_peer.LIBRARY is not None:
        filters = (False, True) if group.tones_beneath else (False,)
        peer = max(
            sum(spandsp_peer.detect(one.audio.tobytes(), with_filter) == one.digits for one in cases)
            for with_filter in filters
        )
    return Score(group, len(cases), ours, peer)


def main() -> None:
    print(f"{'strings without an error, of':72s}{'cases':>6s}{'callreel':>10s} spandsp")
    for group in GROUPS:
        print(score(group).line)
    folder = os.environ.get("CALLREEL_TEST_DATA")
    for name, digits in RECORDINGS.items() if folder else ():
        audio, _ = soundfile.read(Path(folder) / "dtmf" / name, dtype="int16")
        peer = spandsp_peer.detect(audio.tobytes()) if spandsp_peer.LIBRARY is not None else ""
        print(f"{name:60s} {digits}: {detect(audio)} {peer}")


if __name__ == "__main__":
    main()
