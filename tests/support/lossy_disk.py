"""A disk in memory that fails at any operation, or loses its power and with it all that nobody has asked it to keep."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

from callreel.delivery.queue_files import Disk


class PowerLossError(BaseException):
    """The machine is gone in the middle of something; no `except OSError` sees it."""


class _Inode:
    def __init__(self):
        self.data = bytearray()
        self.kept = b""  # what fsync has made last


class LossyDisk(Disk):
    """Names last once their folder was synced, contents once the file was; of the rest a power loss keeps a part.

    `fail_at` counts down with every operation; at 0 it is a power loss, or `error` (an errno) for that operation and,
    while `for_good`, for all that come after.
    """

    def __init__(self, seed=0):
        self.random = random.Random(seed)
        self.names_now: dict[Path, _Inode] = {}
        self.names_kept: dict[Path, _Inode] = {}
        self.pending = []  # (source or None, target or None, inode): what was done to names since
        self.open_files = {}
        self.next_descriptor = 3
        self.fail_at = None
        self.error = None
        self.for_good = False
        self.is_off = False
        self.operations = []

    # -- what happens to it ----------------------------------------------------------------------------------

    def _step(self, operation, path=None):
        if self.is_off:
            raise PowerLossError(operation)
        self.operations.append((operation, path))
        if self.fail_at is None:
            return
        self.fail_at -= 1
        if self.fail_at == 0 or (self.fail_at < 0 and self.for_good):
            if self.error is None:
                self.lose_power()
                raise PowerLossError(operation)
            raise OSError(self.error, os.strerror(self.error), str(path))

    def lose_power(self):
        """What was not synced is lost, or not: every operation on names for itself, contents from some byte on."""
        self.is_off = True
        for source, target, inode in self.pending:
            if self.random.random() < 0.5:
                if source is not None and self.names_kept.get(source) is inode:
                    del self.names_kept[source]
                if target is not None:
                    self.names_kept[target] = inode
        self.pending.clear()
        self.open_files.clear()
        for inode in self.names_kept.values():
            if inode.kept != bytes(inode.data):
                inode.data = inode.data[: self.random.randint(0, len(inode.data))]
                inode.kept = bytes(inode.data)
        self.names_now = dict(self.names_kept)

    def start(self):
        """The machine runs again, and nothing fails."""
        self.is_off = False
        self.fail_at = None

    # -- what the queue asks of it ---------------------------------------------------------------------------

    def names(self, folder):
        self._step("names", folder)
        return [path.name for path in self.names_now if path.parent == folder]

    def exists(self, path):
        return path in self.names_now

    def read(self, path):
        self._step("read", path)
        return bytes(self._inode(path).data)

    def create(self, path):
        self._step("create", path)
        inode = _Inode()  # an older file of that name lives on if the new name is lost
        self.names_now[path] = inode
        self.pending.append((None, path, inode))
        self.next_descriptor += 1
        self.open_files[self.next_descriptor] = inode
        return self.next_descriptor

    def write(self, descriptor, data):
        self._step("write")
        most = max(1, len(data) // 2)  # never all at once
        self.open_files[descriptor].data += data[:most]
        return most

    def fsync(self, descriptor):
        self._step("fsync")
        inode = self.open_files[descriptor]
        inode.kept = bytes(inode.data)

    def close(self, descriptor):
        self.open_files.pop(descriptor, None)  # it is gone whatever close says
        self._step("close")

    def rename(self, source, target):
        self._step("rename", target)
        inode = self._inode(source)
        del self.names_now[source]
        self.names_now[target] = inode
        self.pending.append((source, target, inode))

    def unlink(self, path):
        self._step("unlink", path)
        inode = self._inode(path)
        del self.names_now[path]
        self.pending.append((path, None, inode))

    def sync_folder(self, path):
        self._step("sync_folder", path)
        left = []
        for source, target, inode in self.pending:
            if path not in (source and source.parent, target and target.parent):
                left.append((source, target, inode))
                continue
            if source is not None and self.names_kept.get(source) is inode:
                del self.names_kept[source]
            if target is not None:
                self.names_kept[target] = inode
        self.pending = left

    def _inode(self, path):
        try:
            return self.names_now[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
