"""Files that appear whole: written beside their name, made durable, renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["PART_SUFFIX", "sync_folder", "written_whole"]

PART_SUFFIX = ".part"
"""Behind the name of what is not whole yet; a crash may leave such files, and they are nothing to anybody."""


@contextlib.contextmanager
def written_whole(target: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A new file that is `target` when the block ends, in place of an older one, and is gone when it raises.

    Each has a name of its own until then, so several threads may write one `target`: it is whole, the last one's.
    `mode`: permissions, as far as the process' umask leaves them.
    """
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}{PART_SUFFIX}")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        with os.fdopen(os.open(part, flags, mode), "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def sync_folder(path: Path) -> None:
    """Make what was renamed or removed in a folder last; some systems (Windows) cannot open one, and need not."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
