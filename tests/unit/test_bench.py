"""`callreel bench calls`: what it counts and writes; how fast it is depends on the machine."""

import json
import wave
from datetime import UTC, datetime

import pytest

from callreel import Call, cli
from callreel.bench import ACTIONS, _call
from callreel.events import ActionEnded, RecordingStarted


@pytest.fixture
def bench(capsys):
    def run(*arguments):
        status = cli.main(["bench", "calls", *map(str, arguments)])
        return status, capsys.readouterr()

    return run


def test_a_line_says_what_so_many_calls_cost(bench):
    status, told = bench("--calls", 3, "--seconds", 6, "--json")
    line, besides = map(json.loads, told.out.splitlines())
    assert status == 0
    assert (line["calls"], line["seconds"]) == (3, 6)
    assert 0.97 * 3 * 2 * 300 < line["packets"] < 3 * 2 * 300  # 1 % are lost
    assert line["us_per_packet"] > 0
    assert line["calls_per_core"] == pytest.approx(1e6 / (100 * line["us_per_packet"]), rel=0.02)
    assert line["digits"] >= 3  # one every five seconds
    assert line["bytes_written"] >= 3 * 6 * 8000 * 4
    assert besides["action_us"].keys() == ACTIONS.keys()
    assert 0 < min(besides["action_us"].values()) < max(besides["action_us"].values()) < 10_000
    assert 0 < besides["packet_us"] < 100


@pytest.mark.parametrize("name", ACTIONS)
def test_an_action_that_is_measured_begins_a_recording(name):
    session, document = ACTIONS[name]
    call = Call("call", started_at=datetime(2026, 1, 1, tzinfo=UTC), now=0.0, dialect=session())
    call.add_leg()
    call.request(document, now=0.0)
    events = call.events()
    assert any(isinstance(event, RecordingStarted) for event in events)
    assert not any(isinstance(event, ActionEnded) and event.error for event in events)


def test_every_call_has_two_legs():
    assert list(_call(1).legs) == ["LEG-A", "LEG-B"]


def test_the_recordings_are_written_to_a_folder_when_it_is_named(bench, tmp_path):
    status, _ = bench("--calls", 2, "--seconds", 1, "--out", tmp_path)
    files = sorted(tmp_path.rglob("*.wav"))
    assert status == 0
    assert len(files) == 2
    for path in files:
        with wave.open(str(path)) as file:
            assert file.getnchannels() == 2
            assert file.getnframes() / file.getframerate() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("option", [("--calls", 0), ("--seconds", 0)])
def test_there_must_be_something_to_measure(bench, option):
    status, told = bench(*option)
    assert status == 2
    assert "at least 1" in told.err
