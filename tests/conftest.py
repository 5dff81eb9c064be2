"""Fixtures every test may use; nothing clever."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _pytest._code.code import TracebackEntry

if TYPE_CHECKING:
    from s3_server import S3Server

SHIPPED = Path(__file__).parent / "data"

with contextlib.suppress(ImportError):  # the tests of a built wheel have no need of it
    from hypothesis import settings

    # What something costs is measured where it matters; here the machine may be busy with anything.
    settings.register_profile("patient", deadline=None)
    settings.load_profile("patient")


def _line_of(entry: TracebackEntry) -> int:
    line = entry._rawentry.tb_lineno
    return (entry._rawentry.tb_frame.f_code.co_firstlineno if line is None else line) - 1


# CPython 3.11 knows no line of some instructions; without this pytest ends the whole run there, and tells nothing.
TracebackEntry.lineno = property(_line_of)  # type: ignore[assignment, method-assign]


def pytest_configure(config: pytest.Config) -> None:
    """Watch that no secret is shown."""
    config.pluginmanager.import_plugin("secret_watch")


@pytest.fixture
def test_data() -> Callable[[str], Path]:
    """Find a test file: shipped in tests/data, else below CALLREEL_TEST_DATA, else skip the test."""

    def find(relative_path: str) -> Path:
        folders = [SHIPPED]
        if elsewhere := os.environ.get("CALLREEL_TEST_DATA"):
            folders.append(Path(elsewhere))
        for folder in folders:
            if (folder / relative_path).exists():
                return folder / relative_path
        pytest.skip(f"{relative_path} is not shipped; set CALLREEL_TEST_DATA to the folder that holds it")

    return find


@pytest.fixture
def fast_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: for tests that are not about disks, which others keep busy."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="callreel-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator["S3Server"]:
    """Run a real S3 server, one for each worker; skips where it is not installed."""
    from s3_server import running

    with running(tmp_path_factory.mktemp("s3")) as server:
        yield server
