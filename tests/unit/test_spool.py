"""The spool on real disks: what is there when, what faults cost, what a dead process leaves."""

import contextlib
import errno
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import callreel
from callreel.errors import SpoolFullError, UsageError
from callreel.spool import Limits, Retention, Space, State
from callreel.spool_desk import PASSES
from callreel.spool_files import Journal
from callreel.spool_rules import (
    Kept,
    Lost,
    check_no_secrets,
    declared,
    journal_line,
    read_journal,
    runs,
    shape_of,
    state_after,
    to_remove,
    whole_frames,
)
from small_disk import small_disk
from spool_parts import Fault, FaultyFiles, Speaker, hand, open_spool, read_wav

SUPPORT = Path(__file__).parents[1] / "support"


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def settle(spool):
    until(lambda: not spool._busy())


class Heard(list):
    """The reports of a spool."""

    def wait(self, spool, kind, take_id=None, seconds=10.0):
        def found():
            self.extend(spool.reports())
            return any(one.kind == kind and take_id in (None, one.take_id) for one in self)

        until(found, seconds)
        return next(one for one in self if one.kind == kind and take_id in (None, one.take_id))


def running(spool, take_id="one", *, pieces=5, **options):
    speaker = Speaker(**options)
    take = spool.begin(take_id, {"call_id": "c-1"})
    hand(take, speaker.start())
    for _ in range(pieces):
        hand(take, speaker.say())
    return take, speaker


def audio_of(folder, take_id="one"):
    return (folder / "takes" / take_id / "audio.wav").read_bytes()


# ---- the way of a take ------------------------------------------------------------------------------


def test_a_take_is_a_folder_with_about_audio_and_journal_and_in_the_end_a_manifest(tmp_path):
    with open_spool(tmp_path) as spool:
        take, speaker = running(spool)
        take.note("digit", symbol="5", at_s=0.25)
        Heard().wait(spool, "running")
        settle(spool)
        assert json.loads((take.folder / "about.json").read_bytes()) == {"call_id": "c-1"}
        assert audio_of(tmp_path) == bytes(speaker.truth)
        assert sorted(path.name for path in take.folder.iterdir()) == [
            "about.json",
            "audio.wav",
            "journal.jsonl",
        ]
        hand(take, speaker.finish(marks=[(100, 0, "5")]))
        take.finish({"version": 1})
        Heard().wait(spool, "finished")
        assert audio_of(tmp_path) == bytes(speaker.truth)
        assert json.loads((take.folder / "manifest.json").read_bytes()) == {"version": 1}
        (take.folder / "final.mp3.part").write_bytes(b"mp3")
        take.deliverable("final.mp3", {"version": 1, "sha256": "00"})
        Heard().wait(spool, "deliverable")
        assert (take.folder / "final.mp3").read_bytes() == b"mp3"
        assert json.loads((take.folder / "manifest.json").read_bytes())["sha256"] == "00"
        take.delivered({"location": "s3://b/k"})
        take.told()
        take.removed()
        Heard().wait(spool, "removed")
    assert list((tmp_path / "takes").iterdir()) == []
    assert take.degradation() is None


def test_each_flush_leaves_a_file_that_plays_and_holds_all_that_was_written(tmp_path):
    with open_spool(tmp_path) as spool:
        take, speaker = running(spool, pieces=0)
        for step in range(10):
            hand(take, speaker.say(800))
            if step > 3:
                hand(take, speaker.patch(800 * (step - 3), 800))
            settle(spool)
            assert audio_of(tmp_path) == bytes(speaker.truth)
            assert len(read_wav(audio_of(tmp_path))) == 800 * (step + 1)


def test_the_audio_of_a_finished_wav_is_delivered_as_it_is(tmp_path):
    with open_spool(tmp_path) as spool:
        take, speaker = running(spool)
        hand(take, speaker.finish())
        take.finish({})
        take.deliverable("audio.wav", {"key": "k"})
        Heard().wait(spool, "deliverable")
        assert audio_of(tmp_path) == bytes(speaker.truth)


def test_a_discarded_take_leaves_nothing(tmp_path):
    fault = Fault()
    with open_spool(tmp_path, files=FaultyFiles(fault)) as spool:
        take, speaker = running(spool)
        fault.free.clear()
        hand(take, speaker.say())
        take.discard()
        fault.free.set()
        Heard().wait(spool, "removed")
        assert list((tmp_path / "takes").iterdir()) == []
        assert list((tmp_path / "removed").iterdir()) == []
        until(lambda: spool.waiting_bytes == 0)


def test_a_take_that_cannot_come_to_its_end_is_discarded_all_the_same(tmp_path):
    fault = Fault()
    with open_spool(tmp_path, files=FaultyFiles(fault)) as spool:
        take, _ = running(spool)
        settle(spool)
        fault.error = errno.EIO
        take.finish({})
        take.discard()
        Heard().wait(spool, "removed")


@pytest.mark.parametrize("wrong", [
    lambda take: take.write(44, b"x"),
    lambda take: take.write(0, b"no header"),
    lambda take: take.deliverable("x", {}),
    lambda take: take.delivered({}),
    lambda take: take.told(),
    lambda take: take.removed(),
    lambda take: take.note("lost"),
    lambda take: take.note("digit", at=1),
])  # fmt: skip
def test_what_does_not_fit_the_state_is_a_usage_error(tmp_path, wrong):
    with open_spool(tmp_path) as spool:
        take = spool.begin("one", {})
        with pytest.raises(UsageError):
            wrong(take)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a\0b", "x" * 129, "ä"])
def test_the_id_of_a_take_is_the_name_of_a_folder(tmp_path, name):
    with open_spool(tmp_path) as spool, pytest.raises(UsageError):
        spool.begin(name, {})


def test_no_id_is_used_twice_not_even_after_a_restart(tmp_path):
    with open_spool(tmp_path) as spool:
        spool.begin("one", {})
        with pytest.raises(UsageError):
            spool.begin("one", {})
    with open_spool(tmp_path) as spool, pytest.raises(UsageError):
        spool.begin("one", {})


# ---- secrets ----------------------------------------------------------------------------------------

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCY"


@pytest.mark.parametrize("about", [
    {"credentials": f"key:{SECRET}:region"},
    {"destination": {"secret_access_key": SECRET}},
    {"destination": [{"Session-Token": SECRET}]},
    {"url": f"https://user:{SECRET}@example.com/x"},
    {"key": "AKIAIOSFODNN7EXAMPLE"},
    {"header": f"Bearer {SECRET}"},
])  # fmt: skip
def test_credentials_never_reach_the_disk_or_the_error(tmp_path, about):
    with open_spool(tmp_path) as spool:
        take = spool.begin("fine", {"token_env": "NAME_OF_A_VARIABLE", "credentials": None})
        for wrong in (
            lambda: spool.begin("one", about),
            lambda: take.note("x", **about),
            lambda: take.finish(about),
        ):
            with pytest.raises(UsageError) as caught:
                wrong()
            assert SECRET not in repr(caught.value)
            assert "AKIA" not in repr(caught.value)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes()


def test_names_of_secrets_are_allowed_where_they_only_refer_to_one():
    check_no_secrets(
        {"credentials_env": "X", "transaction_id": "t", "key": "a/b.wav", "token": None}, "about"
    )


def test_nothing_in_a_spool_names_the_machine_or_a_place_on_it(tmp_path):
    with open_spool(tmp_path) as spool:
        take, speaker = running(spool)
        hand(take, speaker.finish())
        take.finish({})
        Heard().wait(spool, "finished")
        found = b"".join(path.read_bytes() for path in tmp_path.rglob("*.json*"))
    assert str(tmp_path).encode() not in found
    assert os.uname().nodename.encode() not in found


# ---- lock -------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_with_the_folder_and_the_pid_of_the_first(tmp_path):
    with open_spool(tmp_path), pytest.raises(UsageError) as caught:
        open_spool(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert str(os.getpid()) in str(caught.value)
    open_spool(tmp_path).close()


def child(code, *arguments, **options):
    path = os.pathsep.join([str(Path(callreel.__file__).parents[1]), str(SUPPORT)])
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        **options,
    )


HOLD = """
import sys, os, time
from spool_parts import open_spool
spool = open_spool(sys.argv[1])
if os.fork() == 0:
    os.write(1, b"held\\n")
    os.close(1)
    time.sleep(30)
    os._exit(0)
time.sleep(30)
"""


def test_death_frees_the_lock_even_when_a_forked_child_lives_on(tmp_path):
    process = child(HOLD, tmp_path, start_new_session=True)
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match=str(process.pid)):
            open_spool(tmp_path)
        process.kill()
        process.wait()
        open_spool(tmp_path).close()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


# ---- a disk that stalls -----------------------------------------------------------------------------


def test_a_stall_of_two_seconds_costs_nothing_and_blocks_nobody(tmp_path):
    fault = Fault()
    with open_spool(tmp_path, files=FaultyFiles(fault), limits=Limits()) as spool:
        take, speaker = running(spool, pieces=8)
        settle(spool)
        fault.free.clear()
        longest = 0.0
        for step in range(10):  # 2 s, and each second twice: at once, and when it is final
            writes = [*speaker.patch(1600 * step, 1600), *speaker.say()]
            begun = time.perf_counter()
            hand(take, writes)
            longest = max(longest, time.perf_counter() - begun)
        take.note("digit", symbol="1")
        assert longest < 0.1
        assert spool.waiting_bytes == take.waiting_bytes == 2 * 10 * 6400
        fault.free.set()
        settle(spool)
        assert take.degradation() is None
        assert audio_of(tmp_path) == bytes(speaker.truth)
        assert spool.waiting_bytes == 0


def test_a_longer_stall_drops_the_newest_audio_marks_it_and_keeps_length_and_offsets(tmp_path):
    fault = Fault()
    with open_spool(tmp_path, files=FaultyFiles(fault), limits=Limits(take_s=2 / PASSES)) as spool:
        take, speaker = running(spool, pieces=5)
        settle(spool)
        fault.free.clear()
        for _ in range(25):
            hand(take, speaker.say())
        assert take.waiting_bytes <= 2 * 32000
        fault.free.set()
        settle(spool)
        for _ in range(5):
            hand(take, speaker.say())
        hand(take, speaker.finish())
        take.finish({})
        heard = Heard()
        heard.wait(spool, "finished")
        first, last = [one for one in heard if one.kind == "degraded"]
        figures = take.degradation()
        found, truth = audio_of(tmp_path), bytes(speaker.truth)
        # 2 s of what comes once may wait: lost is from 1 + 2 s to 1 + 5 s
        assert figures["lost"] == [
            {"from_ms": 3000, "to_ms": 6000, "bytes": 3 * 32000, "reason": "disk too slow"}
        ]
        assert (figures["lost_ms"], figures["lost_bytes"]) == (3000, 3 * 32000)
        assert first.facts["lost_bytes"] == 6400
        assert last.facts == figures
        assert len(found) == len(truth)
        start = 110 + 3 * 32000
        assert found[:start] == truth[:start]
        assert found[start : start + 3 * 32000] == bytes(3 * 32000)
        assert found[start + 3 * 32000 :] == truth[start + 3 * 32000 :]
        assert len(read_wav(found)) == 35 * 1600
        lines, _, _ = read_journal((take.folder / "journal.jsonl").read_bytes())
        assert [line["ranges"] for line in lines if line["kind"] == "lost"][-1] == [
            [start, start + 3 * 32000, "disk too slow"]
        ]


def test_what_waits_of_all_takes_is_bounded(tmp_path):
    fault = Fault()
    limits = Limits(spool_bytes=100_000)
    with open_spool(tmp_path, files=FaultyFiles(fault), limits=limits) as spool:
        fault.free.clear()
        takes = [running(spool, f"t{i}", pieces=5) for i in range(8)]
        assert spool.waiting_bytes <= 100_000
        fault.free.set()
        settle(spool)
        for take, speaker in takes:
            found = audio_of(tmp_path, take.take_id)
            assert len(found) == len(speaker.truth)
            lost = take.degradation()
            assert (found == bytes(speaker.truth)) == (lost is None)
        assert sum(take.lost.lost_bytes for take, _ in takes) == 8 * 5 * 6400 - 96_000


def test_marks_that_were_dropped_are_left_out_and_told(tmp_path):
    fault = Fault()
    with open_spool(tmp_path, files=FaultyFiles(fault), limits=Limits(take_s=2 / PASSES)) as spool:
        take, speaker = running(spool, pieces=1)
        fault.free.clear()
        for _ in range(12):
            hand(take, speaker.say())
        hand(take, speaker.finish(marks=[(5, 0, "7")]))
        take.finish({})
        fault.free.set()
        Heard().wait(spool, "finished")
        found = audio_of(tmp_path)
        assert len(read_wav(found)) == 13 * 1600
        assert len(found) == 110 + 13 * 6400
        assert take.degradation()["doubts"] == ["marks left out: disk too slow"]
    with open_spool(tmp_path) as spool:
        (left,) = spool.recover()
        assert left.take.degradation() == take.degradation()


# ---- a disk that refuses ----------------------------------------------------------------------------

WORDS = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "quota used up",
    errno.EROFS: "read-only file system",
    errno.EIO: "input/output error",
    errno.EMFILE: "too many open files",
}


@pytest.mark.parametrize("number", WORDS)
def test_a_take_that_cannot_be_written_is_told_the_others_go_on_and_later_so_does_it(tmp_path, number):
    fault = Fault()
    fault.only = "one"
    limits = Limits(take_s=0.5, retry_s=0.01, give_up_s=0.3)
    with open_spool(tmp_path, files=FaultyFiles(fault), limits=limits) as spool:
        take, speaker = running(spool, pieces=2)
        other, good = running(spool, "two", pieces=2)
        settle(spool)
        fault.error = number
        for _ in range(10):
            hand(take, speaker.say())
            hand(other, good.say())
            until(lambda: other.waiting_bytes == 0)
        heard = Heard()
        assert heard.wait(spool, "degraded", "one").facts["lost"][0]["reason"] == WORDS[number]
        fault.error = None
        until(lambda: take.waiting_bytes == 0)
        hand(take, speaker.say())
        hand(take, speaker.finish())
        take.finish({})
        heard.wait(spool, "finished", "one")
        (lost,) = take.degradation()["lost"]
        assert lost["reason"] == WORDS[number]
        found, truth = audio_of(tmp_path), bytes(speaker.truth)
        start, end = (110 + 32 * lost[name] for name in ("from_ms", "to_ms"))
        assert found[:start] + found[end:] == truth[:start] + truth[end:]
        assert len(found) == len(truth)
        assert other.degradation() is None
        assert audio_of(tmp_path, "two") == bytes(good.truth)


def test_what_is_tried_again_is_written_before_what_came_later(tmp_path):
    fault = Fault()
    with open_spool(tmp_path, files=FaultyFiles(fault)) as spool:
        take, speaker = running(spool, pieces=2)
        settle(spool)
        fault.free.clear()
        fault.error = errno.EIO
        hand(take, speaker.say())
        until(lambda: not take._audio)
        hand(take, speaker.patch(3200, 1600))
        fault.free.set()
        until(lambda: take._error)
        fault.error = None
        settle(spool)
        assert audio_of(tmp_path) == bytes(speaker.truth)


def test_no_hole_is_made_before_the_journal_tells_of_it(tmp_path, monkeypatch):
    fault = Fault()
    limits = Limits(take_s=0.2, retry_s=0.01)
    with open_spool(tmp_path, files=FaultyFiles(fault), limits=limits) as spool:
        take, speaker = running(spool, pieces=1)
        settle(spool)
        with monkeypatch.context() as patched:
            patched.setattr(Journal, "append", lambda *_: os.write(-1, b""))
            fault.free.clear()
            for _ in range(6):
                hand(take, speaker.say())
            fault.free.set()
            until(lambda: take._error)
            assert take.lost.ranges
            assert len(audio_of(tmp_path)) <= take.lost.ranges[0].start
        settle(spool)
        lines, _, _ = read_journal((take.folder / "journal.jsonl").read_bytes())
        assert [tuple(one) for one in lines[-1]["ranges"]] == take.lost.ranges
        assert len(audio_of(tmp_path)) == len(speaker.truth)


def test_a_take_that_cannot_be_brought_to_its_end_fails_with_the_reason_and_holds_no_memory(tmp_path):
    fault = Fault()
    with open_spool(tmp_path, files=FaultyFiles(fault)) as spool:
        take, speaker = running(spool, pieces=1)
        settle(spool)
        fault.error = errno.EIO
        hand(take, speaker.say())
        hand(take, speaker.finish())
        take.finish({})
        failed = Heard().wait(spool, "failed")
        assert failed.facts["reason"] == "input/output error"
        assert failed.facts["lost_ms"] == 200
        assert take.state is State.FAILED
        assert spool.waiting_bytes == 0
    assert len(read_wav(audio_of(tmp_path))) == 1600


def test_an_error_of_the_seam_that_is_none_of_the_disk_ends_no_thread(tmp_path):
    class Broken:
        def open(self, path):
            raise ValueError("a secret")

    with open_spool(tmp_path, files=Broken()) as spool:
        take, _ = running(spool)
        take.finish({})
        assert Heard().wait(spool, "failed").facts["reason"] == "ValueError"
        other = spool.begin("two", {})
        other.finish({})
        Heard().wait(spool, "finished", "two")


def test_a_disk_that_fills_up_and_is_freed_leaves_a_marked_hole(tmp_path):
    limits = Limits(take_s=2 / PASSES, retry_s=0.01)
    with small_disk(tmp_path / "disk", "1m") as folder, open_spool(folder / "spool", limits=limits) as spool:
        take, speaker = running(spool, pieces=5)
        settle(spool)
        with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        hand(take, speaker.say())
        until(lambda: take._error)
        for _ in range(14):
            hand(take, speaker.say())
        assert Heard().wait(spool, "degraded").facts["lost"][0]["reason"] == "disk full"
        (folder / "filler").unlink()
        until(lambda: take.waiting_bytes == 0)
        hand(take, speaker.say())
        hand(take, speaker.finish())
        take.finish({})
        Heard().wait(spool, "finished")
        found, truth = audio_of(folder / "spool"), bytes(speaker.truth)
        (lost,) = take.lost.ranges
        assert len(found) == len(truth)
        assert found[: lost.start] + found[lost.end :] == truth[: lost.start] + truth[lost.end :]
        assert found[lost.start : lost.end] == bytes(lost.end - lost.start)
        assert len(read_wav(found)) == 21 * 1600


def test_too_few_file_descriptors_slow_the_spool_down_and_lose_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open_spool(tmp_path, limits=Limits(open_files=1000, retry_s=0.01)) as spool:
        used = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 12, hard))
        try:
            takes = [running(spool, f"t{i}", pieces=0) for i in range(40)]
            for _ in range(4):
                for take, speaker in takes:
                    hand(take, speaker.say(160))
                settle(spool)
            for take, _ in takes:
                take.finish({})
            settle(spool)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert [take.degradation() for take, _ in takes] == [None] * 40
        for take, speaker in takes:
            assert audio_of(tmp_path, take.take_id) == bytes(speaker.truth)


@pytest.mark.parametrize("fsync", ["none", "interval", "always"])
def test_what_is_synced_when_follows_the_policy(tmp_path, monkeypatch, fsync):
    synced = []
    import callreel.spool_desk as desk

    real = desk.sync_all
    monkeypatch.setattr(desk, "sync_all", lambda folder, paths: synced.extend(paths) or real(folder, paths))
    with open_spool(tmp_path, fsync=fsync, interval_s=0.05) as spool:
        take, speaker = running(spool, pieces=1)
        until(lambda: take.folder / "about.json" in synced)
        settle(spool)
        time.sleep(0.3)
        assert (take.audio_path in synced) == (fsync != "none")
        before = synced.count(take.audio_path)
        for _ in range(5):
            hand(take, speaker.say())
            settle(spool)
        if fsync == "always":
            assert synced.count(take.audio_path) - before >= 5
        take.finish({})
        Heard().wait(spool, "finished")
        assert take.audio_path in synced
        assert take.folder in synced


def test_an_fsync_that_fails_is_a_doubt_that_is_told(tmp_path, monkeypatch):
    import callreel.spool_desk as desk

    def failing(folder, paths):
        return {path: OSError(errno.EIO, "") for path in paths if path.name == "audio.wav"}

    with open_spool(tmp_path, fsync="interval", interval_s=0.02) as spool:
        monkeypatch.setattr(desk, "sync_all", failing)
        take, _ = running(spool)
        assert Heard().wait(spool, "degraded").facts["doubts"] == ["input/output error"]
        assert take.degradation()["lost_bytes"] == 0
        take.finish({})
        assert Heard().wait(spool, "failed").facts["reason"] == "input/output error"


def test_many_files_are_synced_by_one_call(tmp_path):
    from callreel.spool_files import sync_all

    paths = [tmp_path / str(number) for number in range(40)]
    for path in paths:
        path.write_bytes(b"x")
    assert sync_all(tmp_path, paths) == {}
    assert sync_all(tmp_path, [tmp_path / "gone"]) == {}


# ---- room -------------------------------------------------------------------------------------------


def test_new_takes_are_refused_below_a_threshold_and_accepted_above_a_higher_one():
    rule = Space(100, 1.0, 200, 2.0, 10)

    def accepts(was, free, total=1000, files=None):
        return rule.accepts(was, free_bytes=free, total_bytes=total, free_files=files)

    assert accepts(True, 100)
    assert not accepts(True, 99)
    assert not accepts(False, 199)
    assert accepts(False, 200)
    assert not accepts(True, 150, total=20_000)
    assert not accepts(False, 250, total=20_000)
    assert not accepts(True, 500, files=9)
    with pytest.raises(UsageError):
        Space(refuse_below_bytes=3 << 30)


def test_a_spool_without_room_refuses_takes_and_goes_on_with_those_that_run(tmp_path, monkeypatch):
    with open_spool(tmp_path) as spool:
        take, speaker = running(spool)
        monkeypatch.setattr(spool, "_space", Space(1 << 60, 0.0, 1 << 61, 0.0, 0))
        until(lambda: not spool.is_accepting, 5.0)
        with pytest.raises(SpoolFullError):
            spool.begin("two", {})
        hand(take, speaker.finish())
        take.finish({})
        Heard().wait(spool, "finished")
        monkeypatch.setattr(spool, "_space", Space(0, 0.0, 0, 0.0, 0))
        until(lambda: spool.is_accepting, 5.0)
        spool.begin("two", {})


# ---- retention --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep_s", "now_s", "gone"),
    [(0.0, 50.0, True), (0.0, 150.0, True), (60.0, 159.0, False), (60.0, 160.0, True), (60.0, 50.0, False),
     (None, 1e12, False)],
)  # fmt: skip
def test_delivered_takes_go_at_once_after_a_time_or_never(keep_s, now_s, gone):
    takes = [Kept("x", State.TOLD, 100.0)]
    takes += [Kept(str(state), state, 0.0) for state in State if state is not State.TOLD]
    assert to_remove(takes, Retention(keep_s), now_s) == (["x"] if gone else [])


def test_what_failed_is_kept_until_it_is_replayed(tmp_path):
    with open_spool(tmp_path) as spool:
        take, speaker = running(spool)
        hand(take, speaker.finish())
        take.finish({})
        take.fail("no such bucket")
        take.told()
        settle(spool)
        assert spool.retire(1e12) == []
    with open_spool(tmp_path) as spool:
        (left,) = spool.recover()
        assert left.state is State.KEPT
        left.take.deliverable("audio.wav", {})
        left.take.delivered({})
        left.take.told()
        settle(spool)
        assert spool.retire(1e12) == ["one"]
        Heard().wait(spool, "removed")
        assert list((tmp_path / "takes").iterdir()) == []


def delivered(spool):
    take, speaker = running(spool)
    hand(take, speaker.finish())
    take.finish({})
    take.deliverable("audio.wav", {})
    take.delivered({})
    settle(spool)
    return take


def test_a_take_is_not_removed_before_it_lasts_that_its_event_is_out(tmp_path, monkeypatch):
    with open_spool(tmp_path) as spool:
        take = delivered(spool)
        with monkeypatch.context() as patched:
            patched.setattr(Journal, "append", lambda *_: os.write(-1, b""))
            take.told()
            time.sleep(0.05)
            assert spool.retire(1e12) == []
        Heard().wait(spool, "told")
        assert spool.retire(1e12) == ["one"]


def test_a_removal_that_the_disk_refuses_is_done_when_it_no_longer_does(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.EIO, "no")

    limits = Limits(retry_s=0.01, give_up_s=0.1)
    with open_spool(tmp_path, limits=limits) as spool:
        take, heard = delivered(spool), Heard()
        take.told()
        settle(spool)
        with monkeypatch.context() as patched:
            patched.setattr("callreel.spool_desk.remove_tree", refuse)
            assert spool.retire(1e12) == ["one"]
            time.sleep(0.4)
            assert take.state is State.TOLD
        heard.wait(spool, "removed")
        assert "failed" not in {report.kind for report in heard}
    with open_spool(tmp_path) as spool:
        assert list(spool.recover()) == []


# ---- recovery ---------------------------------------------------------------------------------------

WAY = {
    State.RUNNING: lambda take: None,
    State.FINISHED: lambda take: take.finish({"n": 1}),
    State.DELIVERABLE: lambda take: take.deliverable("audio.wav", {"n": 2}),
    State.DELIVERED: lambda take: take.delivered({"location": "x"}),
    State.TOLD: lambda take: take.told(),
}


@pytest.mark.parametrize("last", WAY)
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "copied"])
def test_what_a_process_left_comes_back_in_the_state_it_was_in(tmp_path, last, elsewhere):
    folder = tmp_path / "spool"
    with open_spool(folder) as spool:
        take, speaker = running(spool)
        take.note("digit", symbol="5")
        for state, step in WAY.items():
            if state is State.FINISHED:
                hand(take, speaker.finish(marks=[(7, 0, "5")]))
            step(take)
            if state is last:
                break
        settle(spool)
    if elsewhere:
        folder = shutil.copytree(folder, tmp_path / "other" / "place")
        shutil.rmtree(tmp_path / "spool")
    for _ in range(2):  # twice in each process, in two processes
        with open_spool(folder) as spool:
            for _ in range(2):
                (left,) = spool.recover()
                assert left.state is last
                assert left.about == {"call_id": "c-1"}
                assert [one["symbol"] for one in left.journal if one["kind"] == "digit"] == ["5"]
                assert (left.audio.frames, left.audio.sample_rate, left.audio.channels) == (8000, 8000, 2)
                assert left.audio.path.is_relative_to(folder)
                assert left.problems == ()
                assert (left.manifest is not None) == (last is not State.RUNNING)
                assert (left.file is not None) == (list(WAY).index(last) >= 2)
                assert (left.receipt is not None) == (list(WAY).index(last) >= 3)
            if last is State.RUNNING:
                assert audio_of(folder) == bytes(speaker.truth)


def test_a_take_that_was_left_is_brought_to_its_end_and_not_recovered_again(tmp_path):
    with open_spool(tmp_path) as spool:
        running(spool)
        settle(spool)
    with open_spool(tmp_path) as spool:
        (left,) = spool.recover()
        with pytest.raises(UsageError):
            left.take.write(0, b"x")
        left.take.finish({"end_reason": "recovered"})
        assert list(spool.recover()) == []
        left.take.deliverable("audio.wav", {})
        left.take.delivered({})
        left.take.told()
        left.take.removed()
        settle(spool)
    with open_spool(tmp_path) as spool:
        assert list(spool.recover()) == []


def test_takes_of_a_living_process_are_not_recovered(tmp_path):
    with open_spool(tmp_path) as spool:
        running(spool)
        settle(spool)
        assert list(spool.recover()) == []


def test_a_removal_that_was_interrupted_is_completed_at_the_next_start(tmp_path):
    (tmp_path / "removed" / "x").mkdir(parents=True)
    (tmp_path / "removed" / "x" / "audio.wav").write_bytes(b"x")
    with open_spool(tmp_path) as spool:
        assert list(spool.recover()) == []
    assert not (tmp_path / "removed").exists()


def left_of(folder):
    with open_spool(folder) as spool:
        (left,) = spool.recover()
    return left


def left_running(folder):
    with open_spool(folder) as spool:
        take, speaker = running(spool)
        settle(spool)
    return take.folder, speaker


def test_audio_that_its_header_does_not_count_yet_is_kept(tmp_path):
    folder, speaker = left_running(tmp_path)
    more = speaker.noise(100)
    with (folder / "audio.wav").open("ab") as file:
        file.write(more + b"\0")  # and a part of a frame
    assert left_of(tmp_path).audio.frames == 8100
    assert audio_of(tmp_path)[110:] == bytes(speaker.truth)[110:] + more
    assert len(read_wav(audio_of(tmp_path))) == 8100


def test_audio_that_its_header_counts_and_that_is_not_there_is_told(tmp_path):
    folder, _ = left_running(tmp_path)
    os.truncate(folder / "audio.wav", 110 + 4000 * 4)
    for _ in range(2):
        left = left_of(tmp_path)
        assert left.audio.frames == 4000
        assert left.take.degradation()["lost"] == [
            {"from_ms": 500, "to_ms": 1000, "bytes": 16000, "reason": "process died"}
        ]
    assert len(read_wav(audio_of(tmp_path))) == 4000


@pytest.mark.parametrize("damage", [bytes(110), b"RIFF" + bytes(50)])
def test_a_header_that_was_lost_is_made_again_from_the_journal(tmp_path, damage):
    folder, speaker = left_running(tmp_path)
    with (folder / "audio.wav").open("r+b") as file:
        file.write(damage)
    assert left_of(tmp_path).audio.frames == 8000
    assert audio_of(tmp_path) == bytes(speaker.truth)


@pytest.mark.parametrize("kept", range(1, 46, 7))
def test_marks_that_are_not_all_there_are_cut_off_and_never_taken_for_audio(tmp_path, kept):
    with open_spool(tmp_path) as spool:
        take, speaker = running(spool)
        hand(take, speaker.finish(marks=[(5, 0, "7")]))
        settle(spool)
    os.truncate(take.audio_path, 110 + 5 * 6400 + kept)
    assert left_of(tmp_path).audio.frames == 8000
    assert len(audio_of(tmp_path)) == 110 + 5 * 6400
    assert len(read_wav(audio_of(tmp_path))) == 8000


def test_a_torn_line_at_the_end_of_a_journal_is_recognised_and_written_over(tmp_path):
    folder, _ = left_running(tmp_path)
    whole = (folder / "journal.jsonl").read_bytes()
    (folder / "journal.jsonl").write_bytes(whole + journal_line({"at": 1, "kind": "digit"})[:-5])
    with open_spool(tmp_path) as spool:
        (left,) = spool.recover()
        assert [one["kind"] for one in left.journal] == ["header"]
        assert left.problems == ()
        left.take.note("digit", symbol="1")
        settle(spool)
    lines, end, damaged = read_journal((folder / "journal.jsonl").read_bytes())
    assert [line["kind"] for line in lines] == ["header", "digit"]
    assert (end, damaged) == ((folder / "journal.jsonl").stat().st_size, 0)


def test_every_cut_and_every_changed_byte_of_a_journal_is_recognised():
    lines = [journal_line({"at": n, "kind": "note", "text": "ä\ud800\n"}) for n in range(3)]
    whole = b"".join(lines)
    for cut in range(len(whole)):
        entries, end, damaged = read_journal(whole[:cut])
        assert len(entries) == whole[:cut].count(b"\n")
        assert end == sum(map(len, lines[: len(entries)]))
        assert damaged == 0
    for at in range(len(lines[0])):
        changed = bytearray(whole)
        changed[at] ^= 1
        entries, end, damaged = read_journal(bytes(changed))
        assert [entry["at"] for entry in entries][-1] == 2
        assert 0 not in [entry["at"] for entry in entries]
        assert damaged >= 1
    assert read_journal(whole + bytes(100) + b"\n")[1:] == (len(whole), 0)


@pytest.mark.parametrize("about", [None, b"", b"{", b"[]"])
def test_a_take_whose_about_is_missing_or_damaged_comes_back_all_the_same(tmp_path, about):
    folder, _ = left_running(tmp_path)
    (folder / "about.json").unlink()
    if about is not None:
        (folder / "about.json").write_bytes(about)
    left = left_of(tmp_path)
    assert left.about == {}
    assert len(left.problems) == 1
    assert left.audio.frames == 8000


def test_a_take_whose_audio_cannot_be_read_hides_no_other(tmp_path):
    for name in "ab":
        with open_spool(tmp_path) as spool:
            running(spool, name)
            settle(spool)
    fault = Fault()

    class Unreadable(FaultyFiles):
        def open(self, path):
            if "a" in path.parts:
                raise OSError(errno.EIO, "")
            return super().open(path)

    with open_spool(tmp_path, files=Unreadable(fault)) as spool:
        first, second = spool.recover()
    assert (first.audio, first.problems) == (None, ("the audio cannot be read: input/output error",))
    assert second.audio.frames == 8000


def test_an_empty_folder_comes_back_as_a_take_without_anything(tmp_path):
    (tmp_path / "takes" / "one").mkdir(parents=True)
    left = left_of(tmp_path)
    assert (left.state, left.audio, left.manifest) == (State.RUNNING, None, None)


def test_a_state_is_what_the_manifest_and_the_journal_prove():
    def after(*kinds, has_manifest=True):
        return state_after([{"kind": kind} for kind in kinds], has_manifest=has_manifest)

    assert after(has_manifest=False) is State.RUNNING
    assert after("finished", has_manifest=False) is State.RUNNING
    assert after() is State.FINISHED
    assert after("finished", "deliverable", "deliverable") is State.DELIVERABLE
    assert after("deliverable", "told") is State.DELIVERABLE
    assert after("deliverable", "failed", "kept") is State.KEPT
    assert after("failed", "kept", "deliverable", "delivered") is State.DELIVERED


def test_writes_are_joined_where_they_continue_one_another():
    writes = [(0, b"ab"), (2, b"c"), (9, b"d"), (2, b"e"), (3, b"f")]
    assert runs(writes) == [(0, [b"ab", b"c"]), (9, [b"d"]), (2, [b"e", b"f"])]
    assert runs([]) == []


def test_a_header_says_where_audio_and_file_end_above_4_gib_too():
    from callreel.kernels import wav

    for frames, marks in ((0, 0), (5, 0), (5, 60), (1 << 31, 0), (1 << 31, 60)):
        header = wav.header(sample_rate=8000, channels=2, frames=frames, trailer_bytes=marks)
        end = len(header) + 4 * frames
        assert declared(header) == (end, end + marks)
        assert shape_of(wav.patch(header, 0)).data_offset == len(header)
        assert whole_frames(shape_of(wav.patch(header, 0)), declared(header), end + marks) == frames


def test_lost_ranges_are_joined_taken_back_and_never_too_many():
    lost = Lost()
    lost.add(10, 20, "a")
    lost.add(20, 30, "b")
    assert lost.ranges == [(10, 30, "a")]
    assert lost.cover(15, 18)
    assert not lost.cover(15, 18)
    assert lost.ranges == [(10, 15, "a"), (18, 30, "a")]
    lost.cut(25)
    assert (lost.lost_bytes, lost.dropped_bytes) == (12, 20)
    for n in range(1000):
        lost.add(100 + 10 * n, 105 + 10 * n, "c")
    assert len(lost.ranges) <= 100
    for n in range(1000):
        assert any(one.start <= 100 + 10 * n and 105 + 10 * n <= one.end for one in lost.ranges)


# ---- kill -9 ----------------------------------------------------------------------------------------

TAKES, STEP = 4, 160


def record_until_killed(folder, pipe):
    spool = open_spool(folder, fsync="none")
    speakers = [Speaker(seed=n) for n in range(TAKES)]
    takes = [spool.begin(f"t{n}", {"n": n}) for n in range(TAKES)]
    for take, speaker in zip(takes, speakers, strict=True):
        hand(take, speaker.start())
    for step in itertools.count():
        for take, speaker in zip(takes, speakers, strict=True):
            hand(take, [*speaker.patch(STEP * (step - 5), STEP), *speaker.say(STEP)])
        os.write(pipe, b"%d\n" % (STEP * (step + 1)))
        time.sleep(0.002)


@pytest.fixture(scope="module")
def spoken():
    """The sound of each take for long enough, and from which step on a place in it is final."""
    speakers = [Speaker(seed=n) for n in range(TAKES)]
    for speaker in speakers:
        speaker.start()
        for step in range(400):
            speaker.patch(STEP * (step - 5), STEP)
            speaker.say(STEP)
    return [bytes(speaker.truth)[110:] for speaker in speakers]


def killed_at(folder, moment):
    """Record in a process of its own, kill it, and say how many frames of each take it had handed over."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.close(reading)
            record_until_killed(folder, writing)
        os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        said = b""
        while said.count(b"\n") < 1 + moment % 7:
            said += pipe.read(1)
        time.sleep(0.0007 * (moment % 13))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        said += pipe.read(100_000) or b""
    return int(said.split(b"\n")[-2])


@pytest.mark.parametrize("moment", range(50))
def test_kill_9_at_any_moment_leaves_files_that_play_and_lack_at_most_the_last_200_ms(
    fast_path, spoken, moment
):
    handed = killed_at(fast_path, moment)
    left_there = {path.parent.name: path.read_bytes() for path in fast_path.glob("takes/*/audio.wav")}
    assert len(left_there) == TAKES or handed <= 1600
    with open_spool(fast_path) as spool:
        recovered = {left.take.take_id: left for left in spool.recover()}
    for name, found in left_there.items():
        left, truth = recovered[name], spoken[int(name[1:])]
        assert left.problems == ()
        assert left.take.degradation() is None
        for data in (found, audio_of(fast_path, name)):
            if not data and handed <= 1600:
                continue
            samples = read_wav(data)
            assert len(samples) >= handed - 1600
            final = 4 * STEP * (len(samples) // STEP - 7)
            if final > 0:
                assert samples.tobytes()[:final] == truth[:final]
        assert left.audio.frames == len(read_wav(audio_of(fast_path, name)))
