"""`callreel bench serve`: a short run measures all there is to measure, and finds nothing lost."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest

from callreel import bench_serve
from callreel.bench_serve import TARGETS, Figures, Plan, table

if sys.platform != "linux":
    pytest.skip("bench serve needs Linux", allow_module_level=True)


def test_a_short_run_records_every_packet_and_says_what_it_took(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CALLREEL_")}
    command = [
        sys.executable,
        "-m",
        "callreel",
        "bench",
        "serve",
        "--calls",
        "4",
        "--seconds",
        "2",
        "--window",
        "1",
    ]
    found = subprocess.run(
        [*command, "--json", "--folder", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode in (0, 1), found.stderr
    figures = Figures(**json.loads(found.stdout))
    assert (figures.calls, figures.refused) == (4, None)
    assert figures.lost == 0, found.stderr
    assert figures.recordings == figures.hung_up == 4 + figures.hang_ups
    assert figures.hang_ups == figures.starts == figures.turns == 2
    assert figures.sent > 0
    measured = {name: getattr(figures, name) for name in (field.name for field in fields(Figures))}
    words = {"refused", "problems", "lost", "lost_where", "degraded", "degraded_by", "keys", "system_share"}
    assert all(value > 0 for name, value in measured.items() if name not in words), measured
    assert list(tmp_path.iterdir()) == []  # nothing is left of it
    lines = table(Plan(4, 2.0, 1.0), figures).splitlines()
    assert sum(line.endswith("reached") for line in lines) == 1 + len(TARGETS)


GOOD = Figures(
    calls=2000,
    hung_up=2600,
    recordings=2600,
    share=0.6,
    bytes_per_call=150_000,
    turns=600,
    starts=600,
    start_p99_ms=20.0,
    hang_ups=600,
    hang_up_p99_s=1.0,
)


def test_what_is_not_reached_is_said():
    figures = replace(
        GOOD, calls=1500, refused="too much", lost=3, lost_where={"late": 3}, share=0.4, start_p99_ms=25.0
    )
    text = table(Plan(), figures)
    assert text.count("NOT reached") == 4
    assert "lost by us (late 3)" in text
    assert text.endswith("no more were recorded: too much")


def status_of(figures, monkeypatch):
    monkeypatch.setattr(bench_serve, "measure_service", lambda _plan, _tell: figures)
    monkeypatch.setattr(bench_serve.signal, "signal", lambda *_: None)
    return bench_serve.run_serve(Namespace(calls=2000, seconds=180.0, window=60.0, folder=None, json=False))


def test_all_that_is_asked_was_reached(monkeypatch, capsys):
    assert status_of(GOOD, monkeypatch) == 0
    assert capsys.readouterr().out.count("reached") == 1 + len(TARGETS)


def test_nothing_that_was_not_measured_is_reached():
    assert table(Plan(), Figures()).count("NOT reached") == 1 + len(TARGETS)


@pytest.mark.parametrize(
    ("changes", "not_reached"),
    [
        ({"turns": 0, "starts": 0, "hang_ups": 0}, 2),
        ({"starts": 599}, 1),  # a start without an event
        ({"hang_ups": 599}, 1),  # a hang-up without a file
        ({"hung_up": 0, "recordings": 0}, 2),
        ({"recordings": 2599}, 2),  # what it lacks may be lost, and came late at best
        ({"problems": ["bench-7 was not delivered: denied"]}, 2),
        ({"bytes_per_call": 0}, 1),
    ],
)
def test_a_figure_is_reached_only_where_all_that_it_is_of_was_measured(
    changes, not_reached, monkeypatch, capsys
):
    assert status_of(replace(GOOD, **changes), monkeypatch) == 1
    text = capsys.readouterr().out
    assert text.count("NOT reached") == not_reached
    assert all(problem in text.splitlines() for problem in changes.get("problems", ()))


def ended_run(tmp_path):
    """A run of three calls: of one the file is there, one was not delivered, of one the end never came."""
    run = SimpleNamespace(
        asked={"a": 1.0, "b": 2.0, "c": 3.0},
        hung_up={"a": 11.0, "b": 12.0, "c": 13.0},
        sent={"a": 100, "b": 100, "c": 100},
        timed_starts=["a", "b", "c"],
        timed_hang_ups=["a", "b", "c"],
        found={},
        problems=[],
        watcher=SimpleNamespace(started={"a": 1.01, "b": 2.01}, ended={"a": 11.5, "b": 12.1}),
    )
    (tmp_path / "a.wav").write_bytes(bytes(9))
    fates = {"received": 100, "late": 0, "discarded": 0, "undecoded": 0}
    manifest = {"bytes": 9, "tracks": [{"packets": fates}], "degraded": False, "digits": []}
    location = (tmp_path / "a.wav").as_uri()
    look_at = bench_serve._Run._look_at
    look_at(run, {"call_id": "a", "location": location, "error": None, "manifest": manifest})
    look_at(run, {"call_id": "b", "location": None, "error": "denied", "manifest": {"key": "b"}})
    return run


def test_what_was_not_delivered_has_neither_a_time_nor_packets_and_is_told(tmp_path):
    run, figures = ended_run(tmp_path), Figures(calls=3, turns=3)
    lateness = {'callreel_step_lateness_seconds_bucket{le="0.1"}': 5.0}
    bench_serve._compare(run, figures, lateness)
    bench_serve._times(run, figures)
    assert (figures.hung_up, figures.recordings, figures.sent, figures.lost) == (3, 1, 100, 0)
    assert (figures.starts, figures.hang_ups, figures.hang_up_p99_s) == (2, 1, 0.5)
    assert figures.problems == ["b was not delivered: denied"]
    assert "2 of 3" in table(Plan(3), figures)
    assert "1 of 3" in table(Plan(3), figures)


@pytest.mark.parametrize(
    ("size", "words"),
    [(None, "is not as it should be: No such file"), (8, "has not the size that its manifest says")],
)
def test_a_file_that_is_not_what_its_manifest_says_is_a_problem(tmp_path, size, words):
    path, run = tmp_path / "a.wav", SimpleNamespace(found={}, problems=[])
    if size is not None:
        path.write_bytes(bytes(size))
    ended = {"call_id": "a", "location": path.as_uri(), "error": None, "manifest": {"bytes": 9}}
    bench_serve._Run._look_at(run, ended)
    assert [words in one for one in run.problems] == [True]
    assert not path.exists()


def test_recordings_that_do_not_end_are_waited_for_and_then_told(monkeypatch):
    monkeypatch.setattr(bench_serve, "END_S", 0.0)
    run = SimpleNamespace(hung_up={"a": 1.0}, problems=[], watcher=SimpleNamespace(ended={}))
    bench_serve._wind_up(run, [], lambda _: None)
    assert run.problems == ["1 recordings have not ended within 0 s"]
