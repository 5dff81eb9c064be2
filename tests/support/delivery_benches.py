"""A bench for each kind of destination: a store to try, what is in it, and how any of its steps can be made to fail."""

import contextlib
import hashlib
import os
import shutil
from pathlib import Path

from callreel.delivery import Parcel, s3_upload
from callreel.delivery.drive import LOCK, Drive
from callreel.delivery.folder import Folder
from callreel.delivery.s3 import S3
from fault_proxy import Answer, Cut, FaultProxy, LoseAnswer
from watched_disk import FAULTS as DISK_FAULTS
from watched_disk import WatchedDisk

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


class _DiskBench:
    """A destination that is a folder; its steps are what is asked of the disk, the parcel's own file included."""

    middle = 100_000
    large = 3 * MIB

    def __init__(self, folder, monkeypatch):
        self.folder = folder / "destination"
        self._patch = monkeypatch
        self.clear()

    def key(self, key):
        """What the destination makes of a parcel's key."""
        return key

    def clear(self):
        """Make it empty."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.begin_anew()

    def begin_anew(self):
        """The same place, and a store that knows nothing of it."""
        self.store = self._store(self.folder)

    def tidy(self):
        """What is done from time to time, and clears away what a dead process has left."""

    def is_left_for_tidying(self, steps):
        """Whether something may stay until then because the last of these steps has failed."""
        return False

    def elsewhere(self, folder):
        return self._store(folder / "another")

    def unreachable(self):
        (self.folder.parent / "file").write_bytes(b"")
        return self._store(self.folder.parent / "file" / "folder")

    def steps(self, deliver, parcel):
        """By the fault, how many steps of `deliver` can fail that way."""
        with WatchedDisk(self._patch, self.folder, parcel.path) as disk:
            deliver()
        return dict.fromkeys(DISK_FAULTS, len(disk.steps))

    @contextlib.contextmanager
    def failing(self, fault, at, parcel):
        """The block's step `at` fails; gives the steps as they are done."""
        with WatchedDisk(self._patch, self.folder, parcel.path, fault=fault, at=at) as disk:
            yield disk.steps
        assert len(disk.steps) > at


class FolderBench(_DiskBench):
    """A folder."""

    _store = staticmethod(Folder)

    def objects(self):
        there = [path for path in self.folder.rglob("*") if path.is_file() and path.suffix != ".part"]
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in there}

    def leftovers(self):
        return [path.name for path in self.folder.rglob("*.part")]


class DriveBench(_DiskBench):
    """What stands for Sinch Drive: it ignores the folder part of a key, and a sweep clears away what is left."""

    @staticmethod
    def _store(folder):
        return Drive(folder, retention_s=None)

    def key(self, key):
        return key.rpartition("/")[2]

    def objects(self):
        """As customers are given them."""
        found = {}
        for recording in self.store.list():
            with self.store.get(recording.key) as download:
                found[recording.key] = download.read()
        return found

    def leftovers(self):
        files = [path for path in self.folder.rglob("*") if path.is_file() and path.name != LOCK]
        named = {one.stored_name for one in self.store.list()}
        kept = [path for path in files if path.name in named or path.suffix == ".json"]
        return sorted(path.name for path in set(files) - set(kept))

    def tidy(self):
        for path in self.folder.rglob("*"):
            os.utime(path, (0, 0))
        assert self.store.sweep().damaged == ()

    def is_left_for_tidying(self, steps):
        """What was replaced stays if it is not certain that the new name lasts: the power may fail."""
        return any(step.startswith("replace") and ".json" in step for step in steps)


class S3Bench:
    """A bucket of a real server behind a proxy; its steps are the requests, and the reading of the parcel's file."""

    middle = large = 5 * MIB + 1000
    """Two parts."""

    def __init__(self, server, proxy, monkeypatch):
        self._server, self._proxy, self._patch = server, proxy, monkeypatch
        self.bucket = server.bucket()
        proxy.reset()
        self.begin_anew()

    def settings(self, bucket, **changes):
        given = {"endpoint_url": self._proxy.endpoint, "multipart_from_bytes": 50_000, "part_bytes": 5 * MIB}
        return self._server.settings(bucket, **given | changes)

    def key(self, key):
        return key

    def tidy(self):
        pass

    def is_left_for_tidying(self, steps):
        return False

    def objects(self):
        return self._server.objects(self.bucket)

    def leftovers(self):
        return self._server.unfinished(self.bucket)

    def clear(self):
        client = self._server.client()
        for one in client.list_objects_v2(Bucket=self.bucket).get("Contents", []):
            client.delete_object(Bucket=self.bucket, Key=one["Key"])
        self.begin_anew()

    def begin_anew(self):
        self.store = S3(self.settings(self.bucket))

    def elsewhere(self, folder):
        return S3(self.settings(self._server.bucket()))

    def unreachable(self):
        return S3(self.settings("no-such-bucket"))

    def steps(self, deliver, parcel):
        self._proxy.reset()
        with WatchedDisk(self._patch, parcel.path) as disk:
            deliver()
        requests = dict.fromkeys((*_REQUEST_FAULTS, _DEAD), len(self._proxy.seen))
        return requests | dict.fromkeys(_FILE_FAULTS, len(disk.steps))

    @contextlib.contextmanager
    def failing(self, fault, at, parcel):
        if fault in _FILE_FAULTS:
            with WatchedDisk(self._patch, parcel.path, fault=fault, at=at) as disk:
                yield disk.steps
            assert len(disk.steps) > at
            return
        if fault == _DEAD:
            self._proxy.reset(dict.fromkeys(range(at)), always=Cut())
        else:
            self._proxy.reset({at: _REQUEST_FAULTS[fault]})
        try:
            yield self._proxy.seen
        finally:
            assert len(self._proxy.seen) > at
            self._proxy.reset()


def _said(code):
    return f"<Error><Code>{code}</Code><Message>so it is</Message></Error>".encode()


_REQUEST_FAULTS = {
    "cut before": Cut(),
    "cut within": Cut(700),
    "answer lost": LoseAnswer(),
    "answered 500": Answer(500, body=_said("InternalError")),
    "answered 503": Answer(503, (("Retry-After", "0"),), _said("SlowDown")),
    "answered 403": Answer(403, body=_said("AccessDenied")),
}
_DEAD = "dead from there on"
_FILE_FAULTS = tuple(one for one in DISK_FAULTS if one != _DEAD)

BENCHES = ("folder", "drive", "s3")


def make_bench(name, request, folder):
    """The bench of that name; S3's skips where the server is not installed."""
    if name == "folder":
        return FolderBench(folder, request.getfixturevalue("monkeypatch"))
    if name == "drive":
        return DriveBench(folder, request.getfixturevalue("monkeypatch"))
    server = request.getfixturevalue("s3_server")
    request.getfixturevalue("monkeypatch").setattr(s3_upload, "FIRST_WAIT_S", 0.001)
    proxy = FaultProxy(server.port)
    request.addfinalizer(proxy.close)
    return S3Bench(server, proxy, request.getfixturevalue("monkeypatch"))
