"""Both detectors on the same audio: `PYTHONPATH=.:tests/support python -m tests.conformance.digits.report`."""

from dataclasses import dataclass

import spandsp_peer
from tests.conformance.digits.groups import GROUPS, Group

from callreel.kernels import dtmf


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


if __name__ == "__main__":
    main()
