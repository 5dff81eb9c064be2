"""Disks that fill up, refuse or stand still under everything that a recorder writes in its spool."""

import contextlib
import errno
import os
import subprocess
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

from callreel.kernels import disk


def mount_tmpfs(folder, size_bytes):
    """Mount a small file system of its own at `folder`; whether this machine allows that."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def may_mount():
    with tempfile.TemporaryDirectory() as folder:
        if not mount_tmpfs(folder, 1 << 16):
            return False
        subprocess.run(["umount", folder], check=True)
        return True


class SmallDisk:
    """A file system of a few megabytes, which a file of the test's own can fill."""

    def __init__(self, folder):
        self.folder = folder
        self._balloon = folder / "balloon"

    def fill(self):
        with self._balloon.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            for size in (1 << 16, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def free(self):
        self._balloon.unlink(missing_ok=True)


class SickOs:
    """`os` and `disk` for the modules that write the spool: what changes a file may wait, or raise."""

    CHANGES = ("pwrite", "pwritev", "write", "fsync", "ftruncate")

    def __init__(self):
        self.error = None
        """An errno, raised by every change while it is set."""
        self.moves = threading.Event()
        """Cleared while the disk stands still."""
        self.moves.set()
        for name in self.CHANGES:
            setattr(self, name, self._changing(getattr(os, name)))

    def __getattr__(self, name):
        return getattr(os, name)

    def _changing(self, function):
        def change(*arguments):
            self.moves.wait()
            if self.error is not None:
                raise OSError(self.error, os.strerror(self.error))
            return function(*arguments)

        return change

    def _changing_many(self, function):
        def change(many):
            self.moves.wait()
            return function(many) if self.error is None else dict.fromkeys(range(len(many)), self.error)

        return change

    def _put(self, *arguments, **options):
        self.moves.wait()
        return disk.put(*arguments, **options) if self.error is None else self.error

    def apply(self, monkeypatch):
        for module in ("spool_files", "durable", "delivery.queue_files", "finishing"):
            monkeypatch.setattr(f"callreel.{module}.os", self)
        changes = {name: self._changing_many(getattr(disk, name)) for name in ("write_all", "sync_each")}
        sick = SimpleNamespace(put=self._put, **changes)
        monkeypatch.setattr("callreel.spool_files.disk", sick)
        opened = Path.write_bytes

        def write_bytes(path, data):
            self.moves.wait()
            if self.error is not None:
                raise OSError(self.error, os.strerror(self.error))
            return opened(path, data)

        monkeypatch.setattr(Path, "write_bytes", write_bytes)


class RefusingDisk:
    """In place of a `SmallDisk`, where nothing may be mounted: every change is refused as a full disk refuses it."""

    def __init__(self, folder, sick):
        self.folder = folder
        self._sick = sick

    def fill(self):
        self._sick.error = errno.ENOSPC

    def free(self):
        self._sick.error = None
