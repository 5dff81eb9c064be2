"""Files of SQLite that all workers read and write at once."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Final

__all__ = ["BUSY_S", "open_file"]

BUSY_S: Final = 10.0
"""So long one process waits for the others; none of them writes for more than a moment."""
AGAIN_S: Final = 0.02
CACHE_KB: Final = 256
"""Of each file's pages: SQLite's own 2,000 fill up with what is written and hardly read; the system keeps them, too."""


def open_file(path: Path, schema: str) -> sqlite3.Connection:
    """Open it for any thread, one at a time; it is made if need be, readable for its owner alone.

    Each statement is a transaction; one that cannot be had within `BUSY_S` raises a `sqlite3.OperationalError`. What is
    written outlives the process, though not a failure of the machine in the next moments.
    """
    path.touch(mode=0o600)
    until = time.monotonic() + BUSY_S
    while True:
        file = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False, isolation_level=None)
        try:
            file.execute("pragma journal_mode=wal")
            file.execute("pragma synchronous=normal")
            file.execute(f"pragma cache_size=-{CACHE_KB}")
            file.executescript(schema)
        except sqlite3.OperationalError:
            # Of several that make it at the same moment not all are let wait for the others.
            file.close()
            if time.monotonic() >= until:
                raise
            time.sleep(AGAIN_S)
        else:
            return file
