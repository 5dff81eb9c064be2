"""Thousands of calls that begin, stop, pause and end at random, while everything fails at random: nothing is lost."""

import errno
import hashlib
import random
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from callreel.actions import EndReason, Layout, Prompt, RecordingKind, StartRecording, StopRules
from callreel.delivery.folder import Folder
from callreel.errors import (
    ActionError,
    DeliveryConflictError,
    DeliveryDeniedError,
    DeliveryInterruptedError,
    DeliveryThrottledError,
    UsageError,
)
from callreel.events import Play, RecordingStarted
from callreel.notify.functions import PythonFunction
from callreel.recorder import Recorder, Settings, TakeEnded, TakeReplayed
from callreel.spool import Limits
from recording_host import PACKET_S, Clock, WallClock, packet
from sick_disks import SickOs

SPEED = 25.0
OFFICE_SPEED = 60.0
AT_ONCE = 8
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)


class Moody(Folder):
    """A folder that fails at random; what it refuses for good it always does."""

    def __init__(self, path, seed):
        super().__init__(path)
        self.is_well = False
        self._seed = seed
        self._chance = random.Random(f"{seed} store")

    def deliver(self, parcel):
        if random.Random(f"{self._seed} {parcel.key}").random() < 0.02:
            raise DeliveryConflictError("something else is there", key=parcel.key)
        if not self.is_well:
            match self._chance.randrange(20):
                case 0 | 1:
                    raise DeliveryInterruptedError("away", key=parcel.key, retryable=True)
                case 2:
                    raise DeliveryThrottledError("busy", key=parcel.key, retryable=True, retry_after_s=3.0)
                case 3:
                    raise DeliveryDeniedError("no", key=parcel.key)
                case 4:
                    super().deliver(parcel)
                    raise TimeoutError("the answer is lost")
                case 5:
                    raise KeyError("a bug of a store")
        return super().deliver(parcel)


def action(chance, number):
    """A recording of some kind."""
    kind = RecordingKind.MESSAGE if chance.random() < 0.4 else RecordingKind.CALL
    rules = StopRules()
    if kind is RecordingKind.MESSAGE:
        rules = StopRules(
            terminators=frozenset("#") if chance.random() < 0.5 else frozenset(),
            keep_terminator=chance.random() < 0.5,
            max_duration_ms=chance.choice([None, 200, 900]),
        )
    return StartRecording(
        kind=kind,
        key=f"calls/{number:04d}-{kind}-{chance.getrandbits(40)}.x",
        layout=chance.choice(list(Layout)),
        format="mp3" if chance.random() < 0.2 else "wav",
        sample_rate=chance.choice([None, None, None, 16_000]),
        prompt=Prompt(uri="p") if chance.random() < 0.1 else None,
        beep=chance.random() < 0.1,
        rules=rules,
        once=False,
        undelivered=frozenset({EndReason.TERMINATOR} if chance.random() < 0.1 else {EndReason.FAILED}),
    )


def live(recorder, clock, number, seed):
    """One call, as chance has it; what it is told is wrong is none of this test's business."""
    chance = random.Random(f"{seed} call {number}")
    call = recorder.add_call(f"c-{number}")
    call.add_leg()
    start = clock()
    for at in range(round(chance.uniform(0.0, 3.0) / PACKET_S)):
        clock.sleep_until(start + (at + 1) * PACKET_S)
        if chance.random() < 0.97:
            one = packet(at, number)
            call.receive_rtp("LEG-A", one)
            call.receive_rtp("LEG-A", one, direction="outgoing")
        kind = chance.choice(list(RecordingKind)[:2])
        with suppress(ActionError):
            match chance.randrange(60) if at else 0:
                case 0 | 1:
                    call.start_recording(action(chance, number))
                case 2:
                    call.stop_recording(kind=kind)
                case 3:
                    call.pause_recording(kind=kind)
                case 4:
                    call.resume_recording(kind=kind)
                case 5:
                    call.receive_digit("LEG-A", chance.choice("0123456789*#"))
    if chance.random() < 0.5:
        call.hang_up("LEG-A")
    call.end()


class Host:
    """Takes what recorders tell, one after the other."""

    def __init__(self):
        self.begun, self.ended, self.replayed = Counter(), {}, {}
        self.told = Counter()

    def hear(self, recorder):
        for event in recorder.events():
            match event:
                case RecordingStarted():
                    self.begun[event.recording_id, event.key] += 1
                case TakeEnded():
                    assert event.take_id not in self.ended
                    self.ended[event.take_id] = event
                case TakeReplayed():
                    self.replayed[event.take_id] = event
                case Play():
                    with suppress(UsageError):
                        recorder.call(event.call_id).played(event.action_id)

    def notice(self, chance):
        def function(notification):
            if chance.random() < 0.05:
                raise RuntimeError("a bug of the host's")
            self.told[notification.id] += 1
            if chance.random() < 0.05:
                raise DeliveryInterruptedError("the answer is lost", key=notification.id, retryable=True)

        return PythonFunction(function)


def trouble(sick, wall, chance, over):
    """What happens to the disk and to the clock."""
    while not over.wait(chance.uniform(0.05, 0.5)):
        match chance.randrange(4):
            case 0:
                sick.error = chance.choice(ERRORS)
                time.sleep(chance.uniform(0.0, 0.3))
                sick.error = None
            case 1:
                sick.moves.clear()
                time.sleep(chance.uniform(0.0, 0.1))
                sick.moves.set()
            case 2:
                wall.stepped_s -= chance.uniform(0.0, 3600.0)
            case _:
                wall.stepped_s += chance.uniform(0.0, 60.0)


def test_of_thousands_of_calls_every_recording_that_began_is_delivered_or_reported(
    fast_path, monkeypatch, scale, seeds, figures
):
    calls, lives = scale((1000, 3), (3000, 10))
    seed = seeds("calls")
    sick, wall, clock = SickOs(), WallClock(OFFICE_SPEED), Clock(SPEED)
    sick.apply(monkeypatch)
    store, host = Moody(fast_path / "out", seed), Host()
    settings = Settings(fast_path / "spool", limits=Limits(take_s=3.0 * SPEED, retry_s=0.05, give_up_s=1.5))

    def recorder():
        chance = random.Random(f"{seed} notices")
        return Recorder(
            settings,
            store_for=lambda _, key: (store, key),
            events=host.notice(chance),
            clock=clock,
            wall_clock=wall,
        )

    began = time.monotonic()
    for life in range(lives):
        numbers = iter(range(life * calls // lives, (life + 1) * calls // lives))
        taking = threading.Lock()
        over = threading.Event()
        with recorder() as one:
            chance = random.Random(f"{seed} trouble {life}")
            troubles = threading.Thread(target=trouble, args=(sick, wall, chance, over))

            def work(numbers=numbers, taking=taking, one=one):
                while True:
                    with taking:
                        number = next(numbers, None)
                    if number is None:
                        return
                    live(one, clock, number, seed)

            threads = [threading.Thread(target=work) for _ in range(AT_ONCE)]
            for thread in (troubles, *threads):
                thread.start()
            # Some calls are cut off in the middle, with their recorder.
            cut_off = one.add_call(f"cut-{life}")
            cut_off.add_leg()
            cut_off.start_recording(action(random.Random(1), 10_000 + life)._replace(prompt=None, beep=False))
            while any(thread.is_alive() for thread in threads):
                host.hear(one)
                one._office.wake()  # its thread waits by the world's clock
                time.sleep(0.01)
            over.set()
            troubles.join()
        host.hear(one)
    store.is_well = True
    recorded_s = time.monotonic() - began
    with recorder() as one:
        until = time.monotonic() + 120
        while one.unfinished:
            assert time.monotonic() < until, f"{one.unfinished} are left"
            host.hear(one)
            one._office.wake()
            time.sleep(0.02)
    host.hear(one)
    _check(host, fast_path)
    delivered = sum(event.location is not None for event in host.ended.values())
    failed = sum(event.error is not None for event in host.ended.values())
    figures(
        f"{calls} calls at random in {recorded_s:.0f} s, {lives} starts: {len(host.begun)} recordings began, "
        f"{len(host.ended)} terminal events, {delivered} delivered, {failed} failures reported "
        f"({len(host.replayed)} of these delivered later), {len(host.ended) - delivered - failed} called off"
    )


def _check(host, folder):
    assert set(host.begun.values()) == {1}
    ended = Counter((event.recording_id, event.key) for event in host.ended.values())
    assert ended == host.begun
    assert host.told.keys() == {f"end:{name}" for name in host.ended} | {
        f"replay:{name}" for name in host.replayed
    }
    assert all(host.ended[name].error is not None for name in host.replayed)
    delivered = [event for event in host.ended.values() if event.location is not None]
    delivered += host.replayed.values()
    files = {path.as_uri() for path in (folder / "out").rglob("*") if path.is_file()}
    assert Counter(event.location for event in delivered) == Counter(files)
    for event in delivered:
        path = Path(event.location.removeprefix("file://"))
        assert hashlib.sha256(path.read_bytes()).hexdigest() == event.manifest["sha256"]
    assert list((folder / "spool" / "queue" / "waiting").iterdir()) == []
    kept = {path.name for path in (folder / "spool" / "takes").iterdir()}
    failed = {name for name, event in host.ended.items() if event.error is not None} - host.replayed.keys()
    assert kept <= failed
    for name in failed - kept:  # there was nothing of it to be kept
        event = host.ended[name]
        lost_ms = (event.manifest.get("degraded") or {}).get("spool", {}).get("lost_ms", 0)
        assert 1000 * event.manifest.get("duration", 0) - lost_ms < 200, event
