"""`callreel bench serve`: a short run measures all there is to measure, and finds nothing lost."""

import json
import os
import subprocess
import sys
from dataclasses import fields

import pytest

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
    assert figures.recordings == 4 + figures.hang_ups
    assert figures.hang_ups == figures.starts == 2
    assert figures.sent > 0
    measured = {name: getattr(figures, name) for name in (field.name for field in fields(Figures))}
    words = {"refused", "lost", "lost_where", "degraded", "degraded_by", "keys", "system_share"}
    assert all(value > 0 for name, value in measured.items() if name not in words), measured
    assert list(tmp_path.iterdir()) == []  # nothing is left of it
    lines = table(Plan(4, 2.0, 1.0), figures).splitlines()
    assert sum(line.endswith("reached") for line in lines) == 1 + len(TARGETS)


def test_what_is_not_reached_is_said():
    figures = Figures(
        calls=1500, refused="too much", lost=3, lost_where={"late": 3}, share=0.4, start_p99_ms=25.0
    )
    text = table(Plan(), figures)
    assert text.count("NOT reached") == 4
    assert "lost by us (late 3)" in text
    assert text.endswith("no more were recorded: too much")
