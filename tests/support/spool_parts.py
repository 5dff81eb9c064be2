"""What tests of the spool share: the core's writes, disks that stall or refuse, the truth to compare with."""

import io
import os
import threading
from collections import Counter

import numpy as np
import soundfile

from callreel.formats import Mark, Wav
from callreel.spool import Limits, Space, Spool
from callreel.spool_files import PlainFiles

NO_THRESHOLDS = Space(0, 0.0, 0, 0.0, 0)
QUICK = Limits(retry_s=0.01, give_up_s=0.5)


def open_spool(folder, **settings):
    settings.setdefault("space", NO_THRESHOLDS)
    settings.setdefault("limits", QUICK)
    return Spool(folder, **settings)


class Speaker:
    """A recording as the core writes it: audio at once, the same place again when it is final."""

    def __init__(self, *, channels=2, sample_rate=8000, seed=1):
        self.wav = Wav(sample_rate=sample_rate, channels=channels)
        self.frame_bytes = 2 * channels
        self.random = np.random.default_rng(seed)
        self.truth = bytearray()
        """The file after all writes so far."""

    def apply(self, writes):
        for offset, data in writes:
            if len(self.truth) < offset + len(data):
                self.truth.extend(bytes(offset + len(data) - len(self.truth)))
            self.truth[offset : offset + len(data)] = data
        return writes

    def noise(self, frames):
        return self.random.integers(1, 255, frames * self.frame_bytes, np.uint8).tobytes()

    def start(self):
        return self.apply(self.wav.start())

    def say(self, frames=1600):
        return self.apply([*self.wav.add(self.noise(frames)), *self.wav.flush()])

    def patch(self, first, frames):
        """Audio that is there already, now final."""
        first = max(0, min(first, self.wav.frames - 1))
        frames = min(frames, self.wav.frames - first)
        if frames <= 0:
            return []
        offset = self.wav.size_bytes - (self.wav.frames - first) * self.frame_bytes
        return self.apply([(offset, self.noise(frames))])

    def finish(self, marks=()):
        return self.apply(self.wav.finish(marks=[Mark(*one) for one in marks]))


def hand(take, writes):
    for offset, data in writes:
        take.write(offset, data)
    take.flush()


def read_wav(data):
    """The samples as libsndfile reads them."""
    return soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)[0]


class Fault:
    """What a disk does at the seam; `error` is an errno, `hold` a stall."""

    def __init__(self):
        self.error = None
        self.only = None
        self.writes_left = None
        """How many more writes go well."""
        self.free = threading.Event()
        self.free.set()
        self.on_write = lambda: None
        self.opened = Counter()

    def check(self, path):
        self.free.wait()
        if self.only is not None and self.only not in path.parts:
            return
        if self.writes_left:
            self.writes_left -= 1
            return
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))


class FaultyFiles:
    """`PlainFiles` on a disk with faults."""

    def __init__(self, fault):
        self.fault = fault
        self.plain = PlainFiles()

    def open(self, path):
        return FaultyFile(self.plain.open(path), path, self.fault)


class FaultyFile:
    def __init__(self, file, path, fault):
        self.file, self.path, self.fault = file, path, fault
        self.read, self.size, self.close = file.read, file.size, file.close

    def write(self, offset, pieces):
        self.fault.check(self.path)
        self.file.write(offset, pieces)
        self.fault.on_write()

    def resize(self, size):
        self.fault.check(self.path)
        self.file.resize(size)
        self.fault.on_write()
