"""Disks that fill up, refuse or stand still: who talks is not kept waiting, and what is lost is told."""

import errno
import random
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from callreel.actions import StartRecording
from callreel.kernels import g711
from callreel.recorder import Recorder, Settings, TakeEnded, TakeReplayed
from callreel.spool import Limits, Space, reason_of
from callreel.spool_desk import PASSES
from recording_host import PACKET_S, RATE, Clock, Unreliable, ended, feed, packet, payload, record
from sick_disks import RefusingDisk, SickOs, SmallDisk, may_mount, mount_tmpfs
from spool_parts import Fault, FaultyFiles

SPEED = 10.0
NO_THRESHOLDS = Space(0, 0.0, 0, 0.0, 0)
DISKS = ["refusing", "tmpfs"] if may_mount() else ["refusing"]
PATIENT = Limits(take_s=60.0, retry_s=0.05)


@pytest.fixture
def clock():
    return Clock(SPEED)


@pytest.fixture
def sick(monkeypatch):
    one = SickOs()
    one.apply(monkeypatch)
    yield one
    one.error = None
    one.moves.set()


@pytest.fixture(params=DISKS)
def small_disk(request, tmp_path):
    """A disk for a spool that can be filled: a small file system where one may be mounted, and injected errors."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "refusing":
        yield RefusingDisk(folder, request.getfixturevalue("sick"))
        return
    assert mount_tmpfs(folder, 12 << 20)
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def recorder_on(disk, tmp_path, clock, limits=PATIENT, **options):
    settings = Settings(
        disk.folder / "spool", destination=str(tmp_path / "out"), limits=limits, space=NO_THRESHOLDS
    )
    return Recorder(settings, clock=clock, **options)


def lacks(event):
    """What its disk has cost a recording; a sync that failed is a doubt, and packets may be dropped before that."""
    figures = (event.manifest["degraded"] or {}).get("spool")
    return figures if figures and figures["lost_bytes"] else None


def path_of(location):
    return Path(location.removeprefix("file://"))


def talk_all(recorder, clock, chance, calls, at_least_s=1.0):
    """So many calls at once, of which each lasts as long as chance has it."""

    def talk(number, seconds):
        call = recorder.add_call(f"c-{number}")
        call.add_leg()
        call.start_recording(StartRecording(format="mp3" if number % 4 == 0 else "wav"))
        feed(call, clock, seconds, seed=number)
        call.end()

    threads = [
        threading.Thread(target=talk, args=(number, chance.uniform(at_least_s, 12.0)))
        for number in range(calls)
    ]
    for thread in threads:
        thread.start()
    return threads


# ---- full ----


def test_a_disk_that_is_full_for_a_while_delays_recordings_and_loses_none(
    small_disk, tmp_path, clock, scale, seeds, figures
):
    chance = random.Random(seeds("full"))
    rounds, calls, ends = scale(1, 40), 12, []
    for _ in range(rounds):
        with recorder_on(small_disk, tmp_path, clock) as recorder:
            threads = talk_all(recorder, clock, chance, calls)
            time.sleep(chance.uniform(0.0, 0.8))
            small_disk.fill()
            time.sleep(chance.uniform(0.1, 1.0))
            small_disk.free()
            for thread in threads:
                thread.join()
            found = ended(recorder, calls)
            assert recorder.drain(10.0)
            assert not [event for event in recorder.events() if isinstance(event, TakeEnded)]
        assert sorted(event.call_id for event in found) == sorted(f"c-{number}" for number in range(calls))
        for event in found:
            assert event.error is None
            assert not lacks(event)
            assert soundfile.info(path_of(event.location)).frames == event.manifest["frames"]
            path_of(event.location).unlink()
        ends += found
    figures(
        f"disk full for a while ({type(small_disk).__name__}): {len(ends)} recordings, all delivered whole"
    )


def test_what_a_disk_that_stays_full_makes_fail_is_told_and_delivered_after_the_next_start(
    small_disk, tmp_path, clock, scale, seeds, figures
):
    chance = random.Random(seeds("stays full"))
    rounds, calls = scale(1, 25), 12
    failed = delivered = 0
    for _ in range(rounds):
        limits = Limits(take_s=60.0, retry_s=0.05, give_up_s=0.3)
        with recorder_on(small_disk, tmp_path, clock, limits) as recorder:
            threads = talk_all(recorder, clock, chance, calls, at_least_s=8.0)
            time.sleep(chance.uniform(0.2, 0.6))
            small_disk.fill()
            for thread in threads:
                thread.join()
            time.sleep(0.6)
            small_disk.free()
            found = ended(recorder, calls)
            assert recorder.drain(10.0)
        assert sorted(event.call_id for event in found) == sorted(f"c-{number}" for number in range(calls))
        lost = {event.take_id: event for event in found if event.error is not None}
        assert {event.error for event in lost.values()} <= {"disk full"}
        failed += len(lost)
        again = []
        with recorder_on(small_disk, tmp_path, clock) as recorder:
            until = time.monotonic() + 20
            while recorder.unfinished:
                assert time.monotonic() < until
                again += recorder.events(0.05)
            again += recorder.events()
        assert not [event for event in again if isinstance(event, TakeEnded)]
        replayed = {event.take_id: event for event in again if isinstance(event, TakeReplayed)}
        assert replayed.keys() <= lost.keys()
        for take_id, event in replayed.items():
            assert soundfile.info(path_of(event.location)).frames > 0
            path_of(event.location).unlink()
            del lost[take_id]
        # What is left had not come to the disk at all.
        for event in lost.values():
            assert event.manifest["degraded"]["spool"]["lost_ms"] > 0 or event.manifest["frames"] < RATE
        for event in found:
            if event.location is not None:
                path_of(event.location).unlink()
        delivered += len(replayed)
    assert failed
    figures(
        f"disk that stays full ({type(small_disk).__name__}): {rounds * calls} recordings, {failed} failed with their "
        f"event, {delivered} of these delivered after the next start"
    )


def test_a_recorder_starts_on_a_full_disk_and_delivers_what_lies_there(small_disk, tmp_path, clock):
    store = Unreliable(tmp_path / "out", is_down=True)
    with recorder_on(small_disk, tmp_path, clock, store_for=lambda _, key: (store, key)) as recorder:
        record(recorder, clock, "c-1", 1.0)
        until = time.monotonic() + 10
        while not store.tries:
            assert time.monotonic() < until
            time.sleep(0.01)
    small_disk.fill()
    store.is_down = False
    with recorder_on(small_disk, tmp_path, clock, store_for=lambda _, key: (store, key)):
        until = time.monotonic() + 10
        while not list((tmp_path / "out").rglob("*.wav")):
            assert time.monotonic() < until
            time.sleep(0.01)
        small_disk.free()


# ---- errors of one take's files ----

ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE]


@pytest.fixture
def fault(monkeypatch):
    one = Fault()
    monkeypatch.setattr("callreel.spool.PlainFiles", lambda: FaultyFiles(one))
    yield one
    one.error = None
    one.free.set()


def two_calls(recorder, clock):
    calls = []
    for name in ("sick", "well"):
        call = recorder.add_call(name)
        call.add_leg()
        call.start_recording(StartRecording())
        calls.append(call)
    until = time.monotonic() + 10
    while len(recorder._office._jobs.live) < 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    (take_id,) = (name for name, job in recorder._office._jobs.live.items() if job.about["call_id"] == "sick")
    return calls, take_id


def feed_both(calls, clock, seconds, first_s=0.0):
    first = round(first_s / PACKET_S)
    threads = [
        threading.Thread(target=feed, args=(call, clock, seconds), kwargs={"first": first}) for call in calls
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("number", ERRORS)
def test_a_take_that_is_refused_for_good_fails_with_the_reason_and_the_others_go_on(
    tmp_path, clock, fault, number
):
    settings = Settings(
        tmp_path / "spool",
        destination=str(tmp_path / "out"),
        limits=Limits(take_s=60.0, retry_s=0.02, give_up_s=0.3),
    )
    with Recorder(settings, clock=clock) as recorder:
        calls, fault.only = two_calls(recorder, clock)
        fault.error = number
        feed_both(calls, clock, 2.0)
        for call in calls:
            call.end()
        events = {event.call_id: event for event in ended(recorder, 2)}
        assert events["well"].error is None
        assert not lacks(events["well"])
        assert events["sick"].error == reason_of(OSError(number, ""))
        assert events["sick"].manifest["degraded"]["spool"]["lost_ms"] > 1000
        record(recorder, clock, "afterwards", 0.5)
        assert ended(recorder)[0].error is None


@pytest.mark.parametrize("number", ERRORS)
def test_a_take_that_is_refused_for_too_long_is_degraded_with_the_figures_and_the_others_go_on(
    fast_path, clock, fault, number
):
    settings = Settings(
        fast_path / "spool", destination=str(fast_path / "out"), limits=Limits(take_s=3.0, retry_s=0.02)
    )
    with Recorder(settings, clock=clock) as recorder:
        calls, fault.only = two_calls(recorder, clock)
        feed_both(calls, clock, 1.0)
        fault.error = number
        feed_both(calls, clock, 10.0, 1.0)
        fault.error = None
        feed_both(calls, clock, 1.0, 11.0)
        for call in calls:
            call.end()
        events = {event.call_id: event for event in ended(recorder, 2)}
        assert [event.error for event in events.values()] == [None, None]
        assert not lacks(events["well"])
        figures = events["sick"].manifest["degraded"]["spool"]
        assert 1000 < figures["lost_ms"] < 10_000
        assert sum(one["to_ms"] - one["from_ms"] for one in figures["lost"]) >= figures["lost_ms"] - 10
        frames = soundfile.info(path_of(events["sick"].location)).frames
        assert frames == events["sick"].manifest["frames"] >= 12 * RATE


# ---- a disk, or a destination, that stands still ----


def longest_wait_s(call, clock, seconds, seed):
    """Send a call's packets, each when it is due; the longest time that one of the calls took."""
    start, longest = clock(), 0.0
    for number in range(round(seconds / PACKET_S)):
        clock.sleep_until(start + (number + 1) * PACKET_S)
        for direction in ("incoming", "outgoing"):
            one = packet(number, seed)
            before = time.perf_counter()
            call.receive_rtp("LEG-A", one, direction=direction)
            longest = max(longest, time.perf_counter() - before)
    return longest


NAMES = ("through-0", "through-1", "through-2", "through-3", "ends", "begins")
SEEDS = {name: number for number, name in enumerate(NAMES)}


def check_all_but_what_is_lost(event, seconds):
    """What is not told to be lost is there as it was said; of what is told, something is silent."""
    audio = soundfile.read(path_of(event.location), dtype="int16", always_2d=True)[0][:, 0]
    assert len(audio) == event.manifest["frames"]
    codes = b"".join(payload(number, SEEDS[event.call_id]) for number in range(round(seconds / PACKET_S)))
    spoken = np.frombuffer(g711.ulaw_decode(codes), np.int16)
    begin = np.flatnonzero(audio)[0]
    said = np.zeros(len(audio) + len(spoken), np.int16)
    said[begin : begin + len(spoken)] = spoken
    is_there = np.ones(len(audio), bool)
    for one in event.manifest["degraded"]["spool"]["lost"]:
        is_there[one["from_ms"] * 8 : one["to_ms"] * 8 + 8] = False
    if seconds < 10:  # from there on the sender's clock is followed, by resampling
        np.testing.assert_array_equal(audio[is_there], said[: len(audio)][is_there])
    assert np.count_nonzero(audio[is_there][begin:]) > 0.95 * np.count_nonzero(is_there[begin:])
    assert np.count_nonzero(audio[~is_there] == 0) > np.count_nonzero(~is_there) // 3


def talk_through(recorder, clock, stall, *, seconds, stalled_s):
    """Several calls in real time, of which some begin and end while everything stands still."""
    calls, longest, threads = [], [], []

    def begin(name):
        before = time.perf_counter()
        call = recorder.add_call(name)
        call.add_leg()
        call.start_recording(StartRecording())
        longest.append(time.perf_counter() - before)
        calls.append(call)
        return call

    def talk(name, length_s, delay_s):
        time.sleep(delay_s)
        call = begin(name)
        longest.append(longest_wait_s(call, clock, length_s, SEEDS[name]))
        before = time.perf_counter()
        call.end()
        longest.append(time.perf_counter() - before)

    for number in range(4):
        threads.append(threading.Thread(target=talk, args=(f"through-{number}", seconds, 0.0)))
    threads.append(threading.Thread(target=talk, args=("ends", 1.0 + stalled_s / 2, 0.0)))
    threads.append(
        threading.Thread(target=talk, args=("begins", seconds - 1.0 - stalled_s / 2, 1.0 + stalled_s / 2))
    )
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    stall.clear()
    most_bytes, until = 0, time.monotonic() + stalled_s
    while time.monotonic() < until:
        most_bytes = max(most_bytes, recorder._spool.waiting_bytes)
        time.sleep(0.02)
    stall.set()
    for thread in threads:
        thread.join()
    return {event.call_id: event for event in ended(recorder, 6, 40.0)}, max(longest), most_bytes


def test_a_disk_that_stands_still_for_two_seconds_costs_nothing_and_keeps_nobody_waiting(
    fast_path, sick, figures
):
    clock = Clock()
    with Recorder(Settings(fast_path / "spool", destination=str(fast_path / "out")), clock=clock) as recorder:
        events, longest_s, _ = talk_through(recorder, clock, sick.moves, seconds=4.5, stalled_s=2.0)
    assert longest_s < 0.5
    for event in events.values():
        assert event.error is None
        assert not lacks(event)
        assert soundfile.info(path_of(event.location)).frames == event.manifest["frames"]
    assert events["through-0"].manifest["frames"] >= 4.4 * RATE
    figures(f"disk that stands still for 2 s: nothing lost, longest call of a verb {1000 * longest_s:.1f} ms")


def test_a_disk_that_stands_still_for_long_costs_memory_up_to_a_limit_then_audio_that_is_told(
    fast_path, sick, figures, scale
):
    clock, stalled_s = Clock(), scale(7.0, 60.0)
    with Recorder(Settings(fast_path / "spool", destination=str(fast_path / "out")), clock=clock) as recorder:
        events, longest_s, most_bytes = talk_through(
            recorder, clock, sick.moves, seconds=stalled_s + 2.5, stalled_s=stalled_s
        )
    assert longest_s < 0.5
    assert most_bytes <= 6 * 3.0 * PASSES * 4 * RATE
    for name in ("through-0", "through-1", "through-2", "through-3"):
        event = events[name]
        assert event.error is None
        lost = event.manifest["degraded"]["spool"]
        assert 1000 * (stalled_s - 4.5) < lost["lost_ms"] < 1000 * (stalled_s + 0.5)
        assert {one["reason"] for one in lost["lost"]} == {"disk too slow"}
        assert event.manifest["frames"] >= (stalled_s + 2.4) * RATE
        check_all_but_what_is_lost(event, stalled_s + 2.5)
    lost_ms = events["through-0"].manifest["degraded"]["spool"]["lost_ms"]
    figures(
        f"disk that stands still for {stalled_s:.0f} s: longest call of a verb {1000 * longest_s:.1f} ms, "
        f"{most_bytes / 6e3:.0f} kB a call waited, {lost_ms} ms lost and told"
    )


def test_a_destination_that_stands_still_keeps_nobody_waiting(fast_path):
    class Standing(Unreliable):
        moves = threading.Event()

        def deliver(self, parcel):
            self.moves.wait()
            return super().deliver(parcel)

    clock, store = Clock(), Standing(fast_path / "out")
    store.moves.set()
    with Recorder(
        Settings(fast_path / "spool"), store_for=lambda _, key: (store, key), clock=clock
    ) as recorder:
        events, longest_s, _ = talk_through(recorder, clock, store.moves, seconds=3.5, stalled_s=1.0)
    assert longest_s < 0.25
    assert [lacks(event) for event in events.values()] == [None] * 6
    assert [event.error for event in events.values()] == [None] * 6
