"""A host that records call after call until it is killed, and takes up what the one before it has left.

Everything happens in real time. What it has handed to the recorder stands in a shared file, and its terminal events are
appended to another: both outlive it.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import random
import re
import struct
import threading
import time
from pathlib import Path
from typing import NamedTuple

from callreel.actions import Layout, RecordingKind, StartRecording, StopRules
from callreel.delivery.folder import Folder
from callreel.errors import DeliveryConflictError, DeliveryInterruptedError
from callreel.events import RecordingStarted
from callreel.notify import Limits
from callreel.notify.functions import PythonFunction
from callreel.recorder import Recorder, Settings

PACKET_S, PACKET_SAMPLES = 0.02, 160
SLOTS_A_LIFE = 400
AT_ONCE = 6
"""Calls that go on at the same time."""

NOISE = [random.Random(number).randbytes(2 * PACKET_SAMPLES) for number in range(499)]


def said(slot: int, number: int, side: int) -> bytes:
    """The µ-law codes of a packet: loud noise, of call `slot`, and of the caller (0) or the other side (1)."""
    noise = NOISE[(37 * slot + number) % len(NOISE)]
    half = noise[side * PACKET_SAMPLES : (side + 1) * PACKET_SAMPLES]
    return half.translate(LOUD)


LOUD = bytes(code % 96 for code in range(256))


class Kind(NamedTuple):
    """What is recorded of a call, and what becomes of it."""

    action: StartRecording
    is_refused: bool
    """Its destination says that something else is there."""


def kind_of(slot: int) -> Kind:
    """Every call is of one kind, whoever asks."""
    chance = random.Random(f"kind {slot}")
    match chance.randrange(10):
        case 0 | 1:
            action = StartRecording(format="mp3")
        case 2:
            action = StartRecording(sample_rate=16_000, layout=Layout.INCOMING)
        case 3:
            rules = StopRules(max_duration_ms=400)
            action = StartRecording(
                kind=RecordingKind.MESSAGE, rules=rules, undelivered=frozenset({"max_duration"})
            )
        case _:
            action = StartRecording()
    return Kind(action, chance.random() < 0.05)


class Ledger:
    """What of each call has been done: shared memory, which a kill cannot tear away."""

    WORDS = struct.Struct("<II")  # whether it was told that it has begun, packets handed over on each side

    def __init__(self, path: Path, slots: int) -> None:
        size = slots * self.WORDS.size
        with path.open("a+b") as file:
            file.truncate(size)
            self._memory = mmap.mmap(file.fileno(), size)
        self.words = memoryview(self._memory).cast("I")

    def has_begun(self, slot: int) -> bool:
        return bool(self.words[2 * slot])

    def packets(self, slot: int) -> int:
        return self.words[2 * slot + 1]


class Ticks:
    """When a thread of a process had its turn, last of all before a kill: a machine that is busy gives it none."""

    EVERY_S = 0.004
    USUAL_MS = 15.0
    NUMBER = 64

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(8 * self.NUMBER)
            self._memory = mmap.mmap(file.fileno(), 8 * self.NUMBER)
        self._ticks_ns = memoryview(self._memory).cast("Q")

    def tick(self) -> None:
        for number in itertools.count():
            self._ticks_ns[number % self.NUMBER] = time.monotonic_ns()
            time.sleep(self.EVERY_S)

    def waited_ms(self, until_ns: int) -> float:
        """How long altogether it waited for its turn, longer than is usual, in the last ticks before that moment."""
        ticks_ns = [*sorted(tick_ns for tick_ns in self._ticks_ns if tick_ns), until_ns]
        waits_ms = [(b - a) / 1e6 for a, b in itertools.pairwise(ticks_ns)]
        return sum(max(0.0, wait_ms - self.USUAL_MS) for wait_ms in waits_ms)


class Doubtful(Folder):
    """A folder that takes its time, and now and then does not work."""

    def __init__(self, path: Path, chance: random.Random) -> None:
        super().__init__(path)
        self._chance = chance

    def deliver(self, parcel):
        time.sleep(self._chance.random() * 0.1)
        if kind_of(slot_of(re.search(r"call-\d+", parcel.key)[0])).is_refused:
            raise DeliveryConflictError("something else is there", key=parcel.key)
        if self._chance.random() < 0.15:
            raise DeliveryInterruptedError("away", key=parcel.key, retryable=True)
        receipt = super().deliver(parcel)
        time.sleep(self._chance.random() * 0.05)
        return receipt


def call_id(slot: int) -> str:
    return f"call-{slot}"


def slot_of(name: str) -> int:
    return int(name.removeprefix("call-"))


def live(folder: str, life: int, seed: int, calls: bool) -> None:
    """Live until killed; without `calls` only until all is done that others have left."""
    place = Path(folder)
    chance = random.Random(f"{seed} {life}")
    events = os.open(place / "events", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(notification):
        time.sleep(chance.random() * 0.02)
        os.write(events, json.dumps({"id": notification.id, **notification.body}).encode() + b"\n")
        if chance.random() < 0.1:
            raise DeliveryInterruptedError("the answer is lost", key=notification.id, retryable=True)

    recorder = Recorder(
        Settings(place / "spool"),
        store_for=lambda destination, key: (Doubtful(place / "out", chance), key),
        events=PythonFunction(note, limits=lambda one: Limits(5.0, 5.0, 1, True)),
    )
    if not calls:
        if not recorder.drain(120.0):
            raise TimeoutError(f"{recorder.unfinished} left")
        recorder.close()
        return
    threading.Thread(target=Ticks(place / f"ticks-{life}").tick, daemon=True).start()
    ledger = Ledger(place / "ledger", 64 * SLOTS_A_LIFE)
    threading.Thread(target=_listen, args=(recorder, ledger), daemon=True).start()
    _talk(recorder, ledger, chance, life * SLOTS_A_LIFE)


def _listen(recorder, ledger):
    while True:
        for event in recorder.events(1.0):
            if isinstance(event, RecordingStarted):
                ledger.words[2 * slot_of(event.call_id)] = 1


def _talk(recorder, ledger, chance, slot):
    active = {}
    due = time.monotonic()
    while True:
        while len(active) < AT_ONCE:
            call = recorder.add_call(call_id(slot))
            call.add_leg()
            call.start_recording(kind_of(slot).action)
            active[slot] = call, round(chance.uniform(0.1, 2.0) / PACKET_S)
            slot += 1
        due += PACKET_S
        time.sleep(max(0.0, due - time.monotonic()))
        for one, (call, packets) in list(active.items()):
            number = ledger.words[2 * one + 1]
            head = struct.pack(">BBHII", 0x80, 0, number, PACKET_SAMPLES * number, one + 1)
            call.receive_rtp("LEG-A", head + said(one, number, 0))
            call.receive_rtp("LEG-A", head + said(one, number, 1), direction="outgoing")
            ledger.words[2 * one + 1] = number + 1
            if number + 1 >= packets:
                del active[one]
                call.end()
