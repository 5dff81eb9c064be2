"""Short by default, long with CALLREEL_FAULTS=long (`make faults`); figures and seeds are printed at the end."""

import os
import random

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


def pytest_terminal_summary(terminalreporter):
    if _figures:
        terminalreporter.section(f"faults (CALLREEL_FAULTS_SEED={SEED})")
        for line in _figures:
            terminalreporter.line(line)


def pytest_runtest_logreport(report):
    if report.failed:
        report.sections.append(("seed", f"CALLREEL_FAULTS_SEED={SEED}"))
