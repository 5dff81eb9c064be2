"""The groups of audio with the detector's answers, and with spandsp's where it is installed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

import spandsp_peer
from callreel.kernels import dtmf

from . import report
from .groups import GROUPS, RECORDINGS, Group


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_a_group_meets_what_is_required(group: Group) -> None:
    cases = group.make()
    right = sum(report.detect(case.audio) == case.digits for case in cases)
    assert right >= group.required * len(cases)


@pytest.mark.skipif(spandsp_peer.LIBRARY is None, reason="libspandsp2 is not installed")
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_spandsp_is_not_better_in_a_group(group: Group) -> None:
    score = report.score(group)
    assert score.peer is not None
    assert score.ours >= score.peer


@pytest.mark.parametrize(("name", "expected"), RECORDINGS.items(), ids=RECORDINGS)
def test_a_recording_leaves_nothing_to_be_better_at(
    name: str, expected: str, test_data: Callable[[str], Path]
) -> None:
    audio, rate = soundfile.read(test_data(f"dtmf/{name}"), dtype="int16")
    assert rate == 8000
    assert report.detect(audio) == expected


def test_a_digit_is_known_60_ms_after_its_first_40_ms() -> None:
    for group in GROUPS:
        if group.required < 1 or not group.make()[0].digits:
            continue
        detector = dtmf.Detector()
        audio, known, latest = group.make()[0].audio, {}, 0
        for at in range(0, len(audio), 8):
            detector.feed(audio[at : at + 8])
            if (active := detector.active) is not None and active.start not in known:
                known[active.start] = at + 8
                latest = max(latest, at + 8 - active.start)
        assert known
        assert latest <= 8 * (40 + 60 + 3), group.name  # 3 ms for the start, which is itself measured
