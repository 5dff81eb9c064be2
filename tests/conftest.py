"""Fixtures every test may use; nothing clever."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

SHIPPED = Path(__file__).parent / "data"


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
