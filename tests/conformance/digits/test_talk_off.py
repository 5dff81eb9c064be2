"""Speech and music are no digits: hours of them, from the folder that CALLREEL_TALKOFF_DATA names."""

import os
from pathlib import Path

import pytest

import talk_off


@pytest.mark.skipif("CALLREEL_TALKOFF_DATA" not in os.environ, reason="CALLREEL_TALKOFF_DATA names no folder")
def test_at_most_one_false_digit_in_three_hours() -> None:
    result = talk_off.survey(Path(os.environ["CALLREEL_TALKOFF_DATA"]))
    print(f"{result.files} files, {result.hours:.2f} hours: {result.hits}, spandsp {result.peer_hits}")
    assert result.hours >= 3, "too little to judge by"
    assert len(result.hits) <= result.hours / 3
    assert len(result.hits) <= sum(len(symbols) for _, symbols in result.peer_hits) + 1
