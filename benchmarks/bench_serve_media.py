"""What it costs to take RTP of thousands of calls from one port and record it, beside a loop that only reads the port.

A program in C (udp_load.c) sends from the other core: two streams to a call, what the participant says and what they
hear, each from a port of its own, in real time. Every call is recorded in stereo, with digits listened for, into a
spool in a temporary folder. The recorder's process is kept on one core; what counts is all CPU that it takes. Nothing
may be lost.
"""

import os
import resource
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

from callreel import bench
from callreel.actions import StartRecording, StopRules
from callreel.recorder import Recorder, Settings, TakeEnded
from callreel.service.rtp import Fork, RtpPorts

CALLS = int(os.environ.get("CALLREEL_BENCH_CALLS", "2000"))
SECONDS = float(os.environ.get("CALLREEL_BENCH_SECONDS", "20"))
FOLDER = os.environ.get("CALLREEL_BENCH_FOLDER")
"""Where the spool is: on a shared machine rather in memory than on a disk that others use, too."""
PORT = 19_000
TYPES = {0: "PCMU", 101: "telephone-event"}
OUR_CORE, OTHER_CORE = 0, 1


@pytest.fixture(scope="session")
def udp_load(tmp_path_factory):
    program = tmp_path_factory.mktemp("load") / "udp_load"
    source = Path(__file__).with_name("udp_load.c")
    subprocess.run(["cc", "-O2", "-std=gnu11", "-o", program, source], check=True)
    return program


def on_core(core, *command, **options):
    return subprocess.Popen(
        ["taskset", "-c", str(core), *map(str, command)], stdout=subprocess.PIPE, text=True, **options
    )


def bare_rates(program):
    """Packets a second that a loop of recvmmsg reads while those sources send all they can: by the clock, by CPU."""
    by_clock, by_cpu = [], []
    for _ in range(3):
        with on_core(OUR_CORE, program, "bare", PORT) as reader:
            assert reader.stdout.readline() == "ready\n"
            with on_core(OTHER_CORE, program, "flood", PORT, 2 * CALLS, 3):
                pass
            packets, cpu_s, lasted_s = reader.stdout.readline().split()
            by_clock.append(int(packets) / float(lasted_s))
            by_cpu.append(int(packets) / float(cpu_s))
    return statistics.median(by_clock), statistics.median(by_cpu)


def codes_of(path):
    """Four seconds of sixteen voices."""
    packets = [bench._stream(number, 4).data for number in range(0, 32, 2)]
    with path.open("wb") as file:
        for data in packets:
            codes = b"".join(data[at + 12 : at + 172] for at in range(0, len(data) - 171, 172))
            file.write((codes + codes)[: 160 * 190])
    return path


def thread_cpu():
    """CPU seconds of each thread of this process, by name."""
    found = {}
    for thread in threading.enumerate():
        stat = Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(")")[2].split()
        found[thread.name] = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    return found


def memory_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def whole_path(program, folder):
    """Record all calls for some seconds: (packets a CPU second, share of a core, what was lost, figures)."""
    os.sched_setaffinity(0, {OUR_CORE})
    command = [program, "send", PORT, 2 * CALLS, SECONDS, codes_of(folder / "codes")]
    with (
        Recorder(Settings(folder / "spool", destination=str(folder / "out"))) as recorder,
        on_core(OTHER_CORE, *command, stdin=subprocess.PIPE) as sender,
    ):
        ports = RtpPorts(shared_port=PORT)
        sources = [int(one) for one in sender.stdout.readline().split()[1:]]
        before_bytes = memory_bytes()
        calls, media = [], []
        rules = StopRules(terminators=frozenset("A"), trailing_silence_ms=3_600_000)
        for number in range(CALLS):
            call = recorder.add_call(f"call-{number}")
            call.add_leg(payload_types=TYPES)
            said, heard = sources[2 * number : 2 * number + 2]
            fork = Fork(expects=("127.0.0.1", heard))
            media.append(ports.open(call, payload_types=TYPES, expects=("127.0.0.1", said), fork=fork))
            call.start_recording(StartRecording(rules=rules))
            calls.append(call)
        time.sleep(0.5)
        cpu, threads = time.process_time(), thread_cpu()
        began = time.monotonic()
        sender.stdin.write("\n")
        sender.stdin.flush()
        time.sleep(SECONDS * 0.9)
        memory = (memory_bytes() - before_bytes) / CALLS
        sent, failed, worst_ms, _ = sender.stdout.readline().split()
        lasted = time.monotonic() - began
        time.sleep(0.3)
        cpu = time.process_time() - cpu
        after = thread_cpu()
        found = ports.statistics
        waits = max(one.statistics["wait_max_ms"] for one in media)
        for one in media:
            one.close()
        for call in calls:
            call.end()
        assert recorder.drain(120)
        takes = [one for one in recorder.events(0.1) if isinstance(one, TakeEnded)]
        tracks = [track for one in takes for track in one.manifest["tracks"]]
        lost = {
            "kernel": found["kernel_dropped"],
            "overflowed": found["overflowed"],
            "strangers": found["strangers"],
            "of the sender's": int(failed),
            "tracks": sum(track["packets"]["lost"] + track["packets"]["late"] for track in tracks),
            "discarded": sum(track["packets"]["discarded"] for track in tracks),
            "degraded takes": sum(bool(one.manifest["degraded"]) for one in takes),
            "not recorded": int(sent) - sum(track["packets"]["received"] for track in tracks),
        }
        ports.close()
    shares = {name: (after[name] - threads.get(name, 0.0)) / lasted for name in after}
    figures = {
        "packets": int(sent),
        "packets_per_s": int(sent) / lasted,
        "takes": len(takes),
        "cpu": cpu / lasted,
        "us_per_packet": 1e6 * cpu / int(sent),
        "threads": {name: round(share, 3) for name, share in sorted(shares.items()) if share >= 0.005},
        "bytes_per_call": round(memory),
        "wait_max_ms": waits,
        "sender_late_ms": float(worst_ms),
    }
    return int(sent) / cpu, lost, figures


@pytest.fixture
def folder(tmp_path):
    if FOLDER is None:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        yield Path(name)


def test_whole_receive_path(benchmark, udp_load, folder, capsys):
    benchmark.group = f"RTP of {CALLS} calls from one port, recorded on one core"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4 * CALLS + 1000), hard), hard))
    bare, bare_cpu = bare_rates(udp_load)
    rate, lost, figures = benchmark.pedantic(whole_path, (udp_load, folder), rounds=1)
    benchmark.extra_info |= {"bare": bare, "bare_cpu": bare_cpu, "ours": rate, "lost": lost, **figures}
    with capsys.disabled():
        print(f"\nbare recvmmsg: {bare:,.0f} packets a second, {bare_cpu:,.0f} a CPU second")
        print(
            f"ours: {figures['packets_per_s']:,.0f} a second, {rate:,.0f} a CPU second, {rate / bare:.0%} of bare"
        )
        print(figures)
        print("lost:", lost)
    assert figures["takes"] == CALLS
    assert not any(lost.values())
