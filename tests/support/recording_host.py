"""A host that records with a `Recorder`: calls that are fed as fast as the clock of a test runs."""

import contextlib
import threading
import time

import numpy as np

from callreel.actions import StartRecording
from callreel.delivery.folder import Folder
from callreel.errors import DeliveryInterruptedError
from callreel.recorder import Recorder, TakeEnded
from capture_writer import rtp_packet

PACKET_S = 0.02
RATE = 8000


class Clock:
    """Seconds, `speed` times as fast as those of the world."""

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed
        self._start = time.monotonic()

    def __call__(self) -> float:
        return (time.monotonic() - self._start) * self.speed

    def sleep_until(self, at: float) -> None:
        wait_s = (at - self()) / self.speed
        if wait_s > 0:
            time.sleep(wait_s)


class WallClock:
    """Seconds since 1970 that pass `speed` times as fast as the world's, and may be set back."""

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed
        self.stepped_s = 0.0
        self._begin = time.monotonic()
        self._from_s = time.time()

    def __call__(self) -> float:
        return self._from_s + self.passed_s() + self.stepped_s

    def passed_s(self) -> float:
        return (time.monotonic() - self._begin) * self.speed


@contextlib.contextmanager
def hurried(recorder: Recorder):
    """Let its office look at a `WallClock` that is faster than the world's, by which its thread waits."""
    over = threading.Event()

    def wake() -> None:
        while not over.wait(0.02):
            recorder._office.wake()

    thread = threading.Thread(target=wake)
    thread.start()
    try:
        yield recorder
    finally:
        over.set()
        thread.join()


def payload(number: int, seed: int = 0) -> bytes:
    """160 µ-law codes of loud noise, of packet `number`."""
    chance = np.random.default_rng(1000 * seed + number)
    return bytes(chance.integers(0, 96, 160, dtype=np.uint8))


def packet(number: int, seed: int = 0) -> bytes:
    return rtp_packet(payload(number, seed), seq=number & 0xFFFF, timestamp=number * 160, ssrc=seed + 1)


def feed(call, clock: Clock, seconds: float, *, first: int = 0, seed: int = 0) -> int:
    """Send so many seconds of packets both ways, each when it is due; returns the number of the next one."""
    start = clock()
    last = first + round(seconds / PACKET_S)
    for number in range(first, last):
        clock.sleep_until(start + (number - first + 1) * PACKET_S)
        for direction in ("incoming", "outgoing"):
            call.receive_rtp("LEG-A", packet(number, seed), direction=direction)
    return last


def record(
    recorder: Recorder, clock: Clock, call_id: str, seconds: float, action: StartRecording | None = None
):
    """A whole call."""
    call = recorder.add_call(call_id)
    call.add_leg()
    call.start_recording(action or StartRecording())
    feed(call, clock, seconds)
    call.end()
    return call


def ended(recorder: Recorder, number: int = 1, timeout_s: float = 20.0) -> list[TakeEnded]:
    """So many terminal events; everything else is dropped."""
    found: list[TakeEnded] = []
    until = time.monotonic() + timeout_s
    while len(found) < number:
        assert time.monotonic() < until, f"{len(found)} of {number} terminal events in {timeout_s} s"
        found += [event for event in recorder.events(0.05) if isinstance(event, TakeEnded)]
    return found


class Unreliable(Folder):
    """A folder that can be switched off."""

    def __init__(self, path, *, is_down: bool = False) -> None:
        super().__init__(path)
        self.is_down = is_down
        self.tries = 0
        self.error: BaseException = DeliveryInterruptedError("the folder is away", retryable=True)

    def deliver(self, parcel):
        self.tries += 1
        if self.is_down:
            raise self.error
        return super().deliver(parcel)
