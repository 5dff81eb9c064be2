"""What it costs to have recordings on disk while they run, and how soon after its end a recording is where it belongs.

The spool is fed as a `Recorder` feeds it: every 140 ms, for each take, what has come, what has become final, and the
header. It is done in real time, for the disk and its cache have a pace of their own; what is counted is CPU.
"""

import os
import resource
import statistics
import time
from pathlib import Path

import pytest

from callreel.actions import StartRecording
from callreel.delivery.s3 import S3
from callreel.kernels import wav
from callreel.recorder import STEP_S as RECORDER_STEP_S
from callreel.recorder import Recorder, Settings, TakeEnded
from callreel.spool import Limits, Spool
from s3_server import running

CALLS = int(os.environ.get("CALLREEL_BENCH_CALLS", "2000"))
SECONDS = 10.0
RATE = 8000
CHANNELS = 2
STEP_FRAMES = round(RATE * RECORDER_STEP_S)
FINAL_AFTER_FRAMES = round(RATE * 1.1)
CALL_S = 180


def is_served():
    """Whether this process may have as many files open as there are takes, and some besides."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * CALLS + 1000
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    return min(wanted, hard) == wanted or soft >= wanted


def in_real_time(takes, header):
    """Feed all takes for some seconds; returns the CPU that the whole process took, and how many flushes there were."""
    piece = os.urandom(2 * CHANNELS * STEP_FRAMES)
    frame_bytes = 2 * CHANNELS
    began, cpu = time.monotonic(), time.process_time()
    step = 0
    while (due := began + step * RECORDER_STEP_S) < began + SECONDS:
        time.sleep(max(0.0, due - time.monotonic()))
        end = (step + 1) * STEP_FRAMES
        writes = [(len(header) + frame_bytes * (end - STEP_FRAMES), piece)]
        if (final := end - STEP_FRAMES - FINAL_AFTER_FRAMES) > 0:
            writes.insert(0, (len(header) + frame_bytes * final, piece))
        writes.append((0, wav.patch(header, end)))
        for take in takes:
            take.add(writes)
        step += 1
    return time.process_time() - cpu, step * len(takes)


def test_takes_on_disk(benchmark, tmp_path):
    benchmark.group = f"{CALLS} takes in the spool, in real time"
    assert is_served(), "ulimit -n is too low"
    header = wav.header(sample_rate=RATE, channels=CHANNELS)
    shares = []

    def once():
        with Spool(tmp_path / f"spool-{len(shares)}") as spool:
            takes = [spool.begin(f"t-{number}", {}) for number in range(CALLS)]
            for take in takes:
                take.add([(0, header)])
            while any(take.waiting_bytes for take in takes) or not takes[-1].audio_path.exists():
                time.sleep(0.1)
            cpu_s, flushes = in_real_time(takes, header)
            shares.append((cpu_s / SECONDS, 1e6 * cpu_s / flushes))
            assert not any(take.degradation() for take in takes)
            for take in takes:
                take.discard()

    benchmark.pedantic(once, rounds=3)
    share, per_flush_us = (statistics.median(column) for column in zip(*shares, strict=True))
    benchmark.extra_info |= {"of_a_core": round(share, 3), "us_a_flush": round(per_flush_us, 1)}
    print(f"\n{benchmark.group}: {share:.1%} of a core, {per_flush_us:.1f} us a flush")


class Hand:
    """A clock that is moved."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.mark.parametrize("format", ["wav", "mp3"])
def test_end_of_a_call_to_confirmed_delivery(benchmark, tmp_path, server, format):
    benchmark.group = f"3-minute call, from its end to its confirmed delivery to S3, {format}"
    bucket = server.bucket()
    store = S3(server.settings(bucket))
    clock = Hand()
    settings = Settings(tmp_path / "spool", limits=Limits(take_s=600.0))
    speech = Path(__file__).parents[1] / "tests" / "data" / "speech" / "fr_CA_f_June" / "demo-instruct.wav"
    said = speech.read_bytes()[44:]
    took = []
    with Recorder(settings, store_for=lambda _, key: (store, f"{len(took)}-{key}"), clock=clock) as recorder:

        def recorded():
            call = recorder.add_call(f"c-{len(took)}")
            call.add_leg(host_frames=True)
            call.start_recording(StartRecording(format=format))
            for second in range(CALL_S):
                clock.now += 1.0
                at = 2 * RATE * second % (len(said) - 2 * RATE)
                for direction in ("incoming", "outgoing"):
                    call.receive_pcm("LEG-A", said[at : at + 2 * RATE], sample_rate=RATE, direction=direction)
                call.step(clock.now)
            while recorder._spool.waiting_bytes:
                time.sleep(0.01)
            return (call,), {}

        def ends(call):
            began = time.perf_counter()
            call.end()
            event = None
            while event is None:
                event = next((one for one in recorder.events(0.5) if isinstance(one, TakeEnded)), None)
            took.append(time.perf_counter() - began)
            assert event.error is None
            assert event.manifest["duration"] == pytest.approx(CALL_S, abs=1)

        benchmark.pedantic(ends, setup=recorded, rounds=7)
    print(
        f"\n{benchmark.group}: {1000 * statistics.median(took):.0f} ms ({1000 * max(took):.0f} at the most)"
    )
