"""Short by default, long with CALLREEL_FAULTS=long (`make faults`); figures and seeds are printed at the end."""

import os
import random
import tempfile
from pathlib import Path

import pytest

IS_LONG = os.environ.get("CALLREEL_FAULTS") == "long"
SEED = int(os.environ.get("CALLREEL_FAULTS_SEED") or random.SystemRandom().randrange(1 << 32))

_figures = []


@pytest.fixture
def scale():
    """Choose between the figure of the short run and that of the long one."""
    return lambda short, long: long if IS_LONG else short


@pytest.fixture
def seeds():
    """A seed of its own for everything that is left to chance."""
    return lambda name: f"{name} {SEED}"


@pytest.fixture
def figures():
    """Print a line at the end."""
    return _figures.append


@pytest.fixture
def fast_path(tmp_path):
    """A folder in memory where there is one: for tests that are not about disks, which others keep busy."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="callreel-") as folder:
        yield Path(folder)


def pytest_terminal_summary(terminalreporter):
    if _figures:
        terminalreporter.section(f"faults (CALLREEL_FAULTS_SEED={SEED})")
        for line in _figures:
            terminalreporter.line(line)


def pytest_runtest_logreport(report):
    if report.failed:
        report.sections.append(("seed", f"CALLREEL_FAULTS_SEED={SEED}"))
