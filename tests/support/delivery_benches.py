"""A bench for each kind of destination: a store to try, what is in it, and how any of its steps can be made to fail."""

import contextlib
import errno
import hashlib
import os
import shutil
from pathlib import Path

from callreel.delivery import Parcel, s3_upload
from callreel.delivery.folder import Folder
from callreel.delivery.s3 import S3
from fault_proxy import Answer, Cut, FaultProxy, LoseAnswer

MIB = 1 << 20


def parcel(folder, content, key="calls/2026/one.wav", **changes):
    """A file and what is to be known of it."""
    path = Path(folder) / f"{hashlib.sha256(content).hexdigest()[:16]}.wav"
    if not path.exists():
        path.write_bytes(content)
    metadata = {
        "transaction-id": "t-1",
        "call-id": "c-1",
        "recording-duration": "12.345",
        "recording-audio-file-format": "audio/wav",
    }
    given = {
        "path": path,
        "key": key,
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "media_type": "audio/wav",
        "metadata": metadata,
    }
    return Parcel(**given | changes)


class FolderBench:
    """A folder; its steps are the calls into the operating system."""

    faults = ("error before", "error after", "dead from there on")
    middle = 100_000
    large = 3 * MIB

    def __init__(self, folder, monkeypatch):
        self.folder = folder / "destination"
        self._patch = monkeypatch
        self.store = Folder(self.folder)

    def objects(self):
        there = [path for path in self.folder.rglob("*") if path.is_file() and path.suffix != ".part"]
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in there}

    def leftovers(self):
        return [path.name for path in self.folder.rglob("*.part")]

    def clear(self):
        """Make it new: empty, and a store that has seen nothing."""
        self.store = Folder(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    def elsewhere(self, folder):
        return Folder(folder / "another")

    def unreachable(self):
        (self.folder.parent / "file").write_bytes(b"")
        return Folder(self.folder.parent / "file" / "folder")

    def steps(self, deliver):
        """How many steps `deliver` has."""
        with self._watched() as watch:
            deliver()
        return watch.count

    @contextlib.contextmanager
    def failing(self, fault, at):
        with self._watched(fault, at) as watch:
            yield
        assert watch.count > at

    @contextlib.contextmanager
    def _watched(self, fault=None, at=None):
        watch = _Watch(fault, at)
        inside = str(self.folder)
        with self._patch.context() as patch:

            def wrap(owner, name):
                original = getattr(owner, name)

                def wrapped(first, *arguments, **more):
                    if isinstance(first, Path) and not str(first).startswith(inside):
                        return original(first, *arguments, **more)
                    return watch.step(lambda: original(first, *arguments, **more))

                patch.setattr(owner, name, wrapped)

            wrap(os, "fsync")
            wrap(Path, "mkdir")
            wrap(Path, "replace")
            wrap(Path, "hardlink_to")
            wrap(Path, "unlink")
            opened = Path.open

            def open_(path, mode="r", *arguments, **more):
                if mode == "wb" and str(path).startswith(inside):
                    return _File(watch.step(lambda: opened(path, mode, *arguments, **more)), watch)
                return opened(path, mode, *arguments, **more)

            patch.setattr(Path, "open", open_)
            yield watch


class _Watch:
    def __init__(self, fault, at):
        self.count = 0
        self._fault, self._at = fault, at

    def step(self, do):
        number = self.count
        self.count += 1
        fails = number == self._at or (self._fault == "dead from there on" and number >= self._at)
        if fails and self._fault != "error after":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        result = do()
        if fails:
            close = getattr(result, "close", None)
            if close is not None:
                close()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return result


class _File:
    def __init__(self, file, watch):
        self._file, self._watch = file, watch

    def write(self, data):
        return self._watch.step(lambda: self._file.write(data))

    def flush(self):
        return self._watch.step(self._file.flush)

    def __getattr__(self, name):
        return getattr(self._file, name)


class S3Bench:
    """A bucket of a real server behind a proxy; its steps are the requests."""

    faults = (
        "cut before",
        "cut within",
        "answer lost",
        "answered 500",
        "answered 503",
        "answered 403",
        "dead from there on",
    )
    middle = 100_000
    """One part."""
    large = 5 * MIB + 1000
    """Two parts."""

    def __init__(self, server, proxy):
        self._server, self._proxy = server, proxy
        self.bucket = server.bucket()
        proxy.reset()
        self.store = S3(self.settings(self.bucket))

    def settings(self, bucket, **changes):
        given = {"endpoint_url": self._proxy.endpoint, "multipart_from_bytes": 50_000, "part_bytes": 5 * MIB}
        return self._server.settings(bucket, **given | changes)

    def objects(self):
        return self._server.objects(self.bucket)

    def leftovers(self):
        return self._server.unfinished(self.bucket)

    def clear(self):
        client = self._server.client()
        for one in client.list_objects_v2(Bucket=self.bucket).get("Contents", []):
            client.delete_object(Bucket=self.bucket, Key=one["Key"])
        self.store = S3(self.settings(self.bucket))

    def elsewhere(self, folder):
        return S3(self.settings(self._server.bucket()))

    def unreachable(self):
        return S3(self.settings("no-such-bucket"))

    def steps(self, deliver):
        self._proxy.reset()
        deliver()
        return len(self._proxy.seen)

    @contextlib.contextmanager
    def failing(self, fault, at):
        one = {
            "cut before": Cut(),
            "cut within": Cut(700),
            "answer lost": LoseAnswer(),
            "answered 500": Answer(500, body=_said("InternalError")),
            "answered 503": Answer(503, (("Retry-After", "0"),), _said("SlowDown")),
            "answered 403": Answer(403, body=_said("AccessDenied")),
        }
        if fault == "dead from there on":
            self._proxy.reset(dict.fromkeys(range(at)), always=Cut())
        else:
            self._proxy.reset({at: one[fault]})
        try:
            yield
        finally:
            assert len(self._proxy.seen) > at
            self._proxy.reset()


def _said(code):
    return f"<Error><Code>{code}</Code><Message>so it is</Message></Error>".encode()


BENCHES = ("folder", "s3")


def make_bench(name, request, folder):
    """The bench of that name; S3's skips where the server is not installed."""
    if name == "folder":
        return FolderBench(folder, request.getfixturevalue("monkeypatch"))
    server = request.getfixturevalue("s3_server")
    request.getfixturevalue("monkeypatch").setattr(s3_upload, "FIRST_WAIT_S", 0.001)
    proxy = FaultProxy(server.port)
    request.addfinalizer(proxy.close)
    return S3Bench(server, proxy)
