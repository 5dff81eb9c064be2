"""`import callreel` is quick, because it brings nothing that is not needed yet."""

import os
import re
import subprocess
import sys
from pathlib import Path

import callreel

SOURCE = str(Path(callreel.__file__).parents[1])
LIMIT_MS = 100  # 25 on the machine it was written on; numpy alone takes about this
HEAVY = {
    "numpy",
    "scipy",
    "boto3",
    "botocore",
    "lameenc",
    "miniaudio",
    "asyncio",
    "hashlib",
    "ssl",
    "logging",
}


def import_times():
    """Milliseconds, nested imports included, of each module that is imported, in a new interpreter."""
    result = subprocess.run(
        [
            sys.executable,
            "-I",
            "-X",
            "importtime",
            "-c",
            f"import sys; sys.path[:0] = [{SOURCE!r}]; import callreel",
        ],
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = re.findall(r"^import time:\s+\d+ \|\s+(\d+) \|\s+(\S+)$", result.stderr, re.MULTILINE)
    return {name: int(microseconds) / 1000 for microseconds, name in lines}


def test_import_is_quick():
    # The quickest of a few: other programs may hold the machine.
    assert min(import_times()["callreel"] for _ in range(5)) < LIMIT_MS


def test_import_loads_no_heavy_library():
    loaded = {name.partition(".")[0] for name in import_times()}
    assert "callreel" in loaded
    assert loaded.isdisjoint(HEAVY)
