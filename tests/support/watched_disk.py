"""Counts what code asks of the system about files below some folders, and makes one such step fail."""

import contextlib
import errno
import io
import os
from pathlib import Path

FAULTS = ("error before", "error after", "dead from there on")
"""It is not done; it is done, and told as if it were not; it is not done, nor is anything after it."""

BY_PATH = ("open", "mkdir", "rmdir", "replace", "rename", "link", "unlink", "remove", "scandir", "listdir")
LOOKS = ("stat", "lstat")
BY_DESCRIPTOR = ("fsync", "close", "fstat", "ftruncate", "write", "read")


class WatchedDisk:
    """Patches `os` and `io` while it is entered; a step is a call about one of `paths` or what is below it."""

    def __init__(self, patch, *paths, fault=None, at=None):
        self.steps = []
        """What was done, such as "open one.wav.part"."""
        self._patch = patch
        self._paths = [os.fspath(path) for path in paths]
        self._fault, self._at = fault, at
        self._descriptors = {}

    def __enter__(self):
        self._context = self._patch.context()
        patch = self._context.__enter__()
        for name in (*BY_PATH, *LOOKS):
            patch.setattr(os, name, self._by_path(name, getattr(os, name)))
        for name in BY_DESCRIPTOR:
            patch.setattr(os, name, self._by_descriptor(name, getattr(os, name)))
        patch.setattr(io, "open", self._io_open(io.open))
        return self

    def __exit__(self, *error):
        self._context.__exit__(*error)

    def step(self, what, do):
        number = len(self.steps)
        self.steps.append(what)
        fails = number == self._at or (self._fault == "dead from there on" and number > self._at)
        if fails and self._fault != "error after":
            raise _error(what)
        result = do()
        if fails:
            if what.startswith("open"):
                os.close(result) if isinstance(result, int) else result.close()
            raise _error(what)
        return result

    def _is_watched(self, path):
        if not isinstance(path, str | os.PathLike):
            return False
        text = os.fspath(path)
        return any(text == one or text.startswith(one + os.sep) for one in self._paths)

    def _by_path(self, name, real):
        def wrapped(path, *arguments, **more):
            if not self._is_watched(path) or more.get("dir_fd") is not None:
                return real(path, *arguments, **more)
            result = self.step(f"{name} {Path(path).name}", lambda: real(path, *arguments, **more))
            if name == "open":
                self._descriptors[result] = Path(path).name
            return result

        return wrapped

    def _by_descriptor(self, name, real):
        def wrapped(descriptor, *arguments, **more):
            path = self._descriptors.get(descriptor)
            if path is None:
                return real(descriptor, *arguments, **more)
            if name != "close":
                return self.step(f"{name} {path}", lambda: real(descriptor, *arguments, **more))
            del self._descriptors[descriptor]
            # Whatever close says, the descriptor is gone.
            real(descriptor)
            return self.step(f"{name} {path}", lambda: None)

        return wrapped

    def _io_open(self, real):
        def wrapped(file, *arguments, **more):
            if isinstance(file, int):
                path = self._descriptors.get(file)
                return (
                    real(file, *arguments, **more)
                    if path is None
                    else self._file(path, real(file, *arguments, **more))
                )
            if not self._is_watched(file):
                return real(file, *arguments, **more)
            path = Path(file).name
            return self._file(path, self.step(f"open {path}", lambda: real(file, *arguments, **more)))

        return wrapped

    def _file(self, path, file):
        self._descriptors[file.fileno()] = path
        return _File(path, file, self)

    def forget(self, descriptor):
        self._descriptors.pop(descriptor, None)


class _File:
    """A file whose every use is a step."""

    def __init__(self, path, file, disk):
        self._path, self._file, self._disk = path, file, disk

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __iter__(self):
        return iter(self._file)

    def _step(self, name, *arguments):
        return self._disk.step(f"{name} {self._path}", lambda: getattr(self._file, name)(*arguments))

    def read(self, *arguments):
        return self._step("read", *arguments)

    def readinto(self, buffer):
        return self._step("readinto", buffer)

    def write(self, data):
        return self._step("write", data)

    def seek(self, *arguments):
        return self._step("seek", *arguments)

    def truncate(self, *arguments):
        return self._step("truncate", *arguments)

    def flush(self):
        return self._step("flush")

    def close(self):
        if self._file.closed:
            return
        self._disk.forget(self._file.fileno())
        error = None
        try:
            self._file.close()
        except OSError as caught:
            error = caught
        self._disk.step(f"close {self._path}", lambda: None)
        if error is not None:
            raise error


def _error(what):
    return OSError(errno.EIO, os.strerror(errno.EIO), what)


@contextlib.contextmanager
def counted(patch, *paths):
    """What the block asks of the disk: the list fills while it runs."""
    with WatchedDisk(patch, *paths) as disk:
        yield disk.steps
