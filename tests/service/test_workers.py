"""`callreel serve` with several workers: processes of their own, that die, are replaced and are told to end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from busy_service import dead_letter, message_of
from callreel.errors import UsageError
from callreel.keys import safe_component
from callreel.recorder import Recorder, Settings
from callreel.service.fleet import Fleet
from callreel.service.held import Held
from callreel.service.running import Service
from callreel.service.settings import ServiceSettings
from callreel.service.supervisor import Pauses
from recording_host import Clock, Unreliable, record
from secret_watch import may_hold, secret
from served_command import WAIT_S, Command, group, is_alive, until
from service_host import settings_in

SILENT = {"legs": [{"media": "none"}], "record": {}}


@pytest.fixture
def command(tmp_path):
    with Command(tmp_path, first_port=31_200) as one:
        yield one


def begun(client, **body):
    answer = client.post("/v1/calls", json=SILENT | body)
    assert answer.status_code == 201, answer.text
    return answer.json()["call_id"]


def recordings(client):
    return client.get("/v1/recordings", params={"page_size": 200}).json()["recordings"]


def taken_up(command, size):
    """Begin calls until every worker has one at least; their ids."""
    client, calls = command.client(), []
    while not all(command.takes(index) for index in range(size)):
        calls.append(begun(client))
        assert len(calls) < 100
        time.sleep(0.05)  # so long it may take until a take is on the disk
    # Of what has not begun nothing can be recovered.
    until(lambda: command.heard() == len(calls))
    return calls


def sockets_of(command):
    """The folder of the workers' sockets."""
    found = set()
    for pid in group(command.process.pid):
        numbers = {str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir() if one.is_symlink()}
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
            fields = line.split()
            if len(fields) == 8 and f"socket:[{fields[6]}]" in numbers:
                found.add(Path(fields[7]).parent)
    (folder,) = found
    return folder


# ---- settings ----


def settings(**changes):
    return ServiceSettings(Settings(Path("/spool"), destination="/out"), is_open=True, **changes)


def test_each_worker_has_a_spool_and_ports_of_its_own():
    whole = settings(workers=3, rtp_ports=(20_001, 20_099), rtp_shared_port=30_000)
    workers = [whole.of_worker(index) for index in range(3)]
    assert [one.recorder.spool for one in workers] == [
        Path("/spool"),
        Path("/spool/worker-1"),
        Path("/spool/worker-2"),
    ]
    assert [one.rtp_ports for one in workers] == [(20_002, 20_033), (20_034, 20_065), (20_066, 20_097)]
    assert [one.rtp_shared_port for one in workers] == [30_000, 30_002, 30_004]
    assert {one.shared_folder for one in workers} == {Path("/spool")}
    assert settings(workers=1).of_worker(0) == settings(workers=1)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"workers": 0}, "workers are 1 or more"),
        ({"workers": 3, "rtp_ports": (20_001, 20_006)}, "rtp_ports are 2 pairs, too few for 3 workers"),
        ({"workers": 4, "rtp_shared_port": 65_530}, "rtp_shared_port: each worker needs the next two ports"),
    ],
)
def test_workers_without_ports_are_refused(changes, problem):
    with pytest.raises(UsageError, match=problem):
        settings(**changes)


def test_without_a_number_there_is_one_for_each_processor_as_far_as_there_are_ports():
    processors = len(os.sched_getaffinity(0))
    assert settings().worker_count == processors
    assert settings(rtp_ports=(20_000, 20_001)).worker_count == 1
    assert settings(rtp_shared_port=65_534).worker_count == 1


def test_a_worker_that_keeps_dying_is_replaced_after_pauses_that_grow_to_half_a_minute():
    pauses = Pauses()
    assert [pauses.after(0.5) for _ in range(9)] == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    assert [pauses.after(3600.0), pauses.after(0.5), pauses.after(0.5)] == [0, 0, 0.5]


# ---- beginning ----


def test_all_workers_have_calls_and_every_recording_is_delivered(command):
    command.start(3)
    calls = taken_up(command, 3)
    client = command.client()
    for call_id in calls:
        assert client.delete(f"/v1/calls/{call_id}").status_code == 204
    until(lambda: len(recordings(client)) == len(calls))
    assert all(one["error"] is None for one in recordings(client))
    assert len(list(command.out.rglob("*.wav"))) == len(calls)
    assert {one["worker"] for one in command.log if "worker" in one} == {0, 1, 2}
    # Shared by all, and there for nobody else.
    for name in ("library.sqlite", "answers.sqlite"):
        assert (command.spool / name).stat().st_mode & 0o077 == 0
    folder = sockets_of(command)
    assert folder.stat().st_mode & 0o077 == 0
    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(WAIT_S) == 0
    assert not folder.exists()
    assert "Traceback" not in command.log_path.read_text()


def test_what_keeps_one_worker_from_beginning_keeps_all_and_is_told(command, tmp_path):
    with Recorder(Settings(command.spool / "worker-1")):
        command.begin(3)
        assert command.process.wait(WAIT_S) == 2
    (line,) = [one for one in command.log_path.read_text().splitlines() if one.startswith("callreel: ")]
    assert f"{command.spool.relative_to(tmp_path) / 'worker-1'} is used by another process" in line
    assert group(command.process.pid) == []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command.begin(3, "--port", str(port))
        assert command.process.wait(WAIT_S) == 2
    assert f"callreel: 127.0.0.1:{port}: Address already in use" in command.log_path.read_text()
    assert "Traceback" not in command.log_path.read_text()


# ---- dying ----


def test_a_worker_that_dies_is_replaced_and_what_it_recorded_is_delivered(command):
    command.start(2)
    calls = taken_up(command, 2)
    lost = command.takes(1)
    pid = command.kill(1)
    assert command.successor(1, pid) != pid
    assert command.logged("worker 1 has ended: killed by SIGKILL; another one takes its place now")
    client = command.client()
    until(lambda: len(recordings(client)) == lost)
    gone = {one["call_id"] for one in recordings(client)}
    for call_id in set(calls) - gone:
        assert client.delete(f"/v1/calls/{call_id}").status_code == 204
    until(lambda: len(recordings(client)) == len(calls))
    for entry in recordings(client):
        assert entry["end_reason"] == ("recovered" if entry["call_id"] in gone else "hangup")
        assert entry["error"] is None


def test_a_worker_that_cannot_begin_again_is_tried_with_pauses_and_the_others_go_on(command):
    command.start(2)
    spool = command.spool_of(1)
    aside = command.folder / "aside"
    pid = command.pid(1)
    spool.rename(aside)
    spool.write_text("no folder")
    os.kill(pid, signal.SIGKILL)
    until(lambda: command.logged("another one takes its place in 1 s"))
    told = command.logged("worker 1 has ended")
    pauses = dict.fromkeys(one.rpartition("place ")[2] for one in told)
    assert list(pauses)[:3] == ["now", "in 0.5 s", "in 1 s"]
    assert "killed by SIGKILL" in told[0]
    assert "worker-1" in told[1]
    assert command.client().get("/healthz").status_code == 200
    spool.unlink()
    aside.rename(spool)
    command.successor(1, pid)


def test_a_worker_that_alone_is_told_to_end_is_replaced(command):
    command.start(2)
    pid = command.pid(1)
    os.kill(pid, signal.SIGTERM)
    command.successor(1, pid)
    assert command.logged("worker 1 has ended: exit status 0")


def test_when_the_supervisor_is_killed_its_workers_end_and_the_next_start_recovers_all(command):
    command.start(3)
    calls = taken_up(command, 3)
    session, folder = command.process.pid, sockets_of(command)
    command.process.kill()
    command.process.wait()
    until(lambda: not group(session))
    assert not folder.exists()
    command.start(3)
    client = command.client()
    until(lambda: len(recordings(client)) == len(calls))
    assert {one["call_id"] for one in recordings(client)} == set(calls)
    assert all(one["error"] is None for one in recordings(client))


def test_fewer_workers_bring_to_its_end_what_the_others_have_left(command):
    command.start(4)
    calls = taken_up(command, 4)
    os.killpg(command.process.pid, signal.SIGKILL)
    command.process.wait()
    assert all(command.takes(index) for index in range(4))
    command.start(1)
    client = command.client()
    until(lambda: len(recordings(client)) == len(calls))
    assert all(one["error"] is None for one in recordings(client))
    assert len(list(command.out.rglob("*.wav"))) == len(calls)
    until(lambda: not any(command.takes(index) for index in range(4)))
    recovering = subprocess.run(
        [sys.executable, "-m", "callreel", "recover", "--spool", command.spool],
        capture_output=True,
        text=True,
        check=False,
    )
    assert recovering.returncode == 2  # all of them are in use
    assert "is used by another process" in recovering.stderr


def test_an_adopted_spool_is_held_as_long_as_something_is_left_in_it(tmp_path):
    spool, clock = tmp_path / "spool" / "worker-5", Clock(10)
    away = Unreliable(tmp_path / "away", is_down=True)
    with Recorder(Settings(spool), store_for=lambda _, key: (away, key), clock=clock) as recorder:
        record(recorder, clock, "c-1", 0.5)
    letter = dead_letter(spool, "end:other", number=99, **message_of("acme"))
    service = Service(settings_in(tmp_path))
    try:
        with pytest.raises(UsageError, match="is used by another process"):
            Recorder(Settings(spool))
        until(lambda: service.library.find().total == 1)
        told = until(lambda: service.stream.since(0, "")[0])
        assert [one.body["event"] for one in told] == ["take_ended"]
        until(lambda: not service.host.takes())
        assert service.drain(5.0)
        service.sweep()
        assert service.host.other_spools() == [spool]
        letter.unlink()
        until(lambda: (service.sweep(), not service.host.other_spools())[1])
        Recorder(Settings(spool)).close()
    finally:
        service.close()


def test_recordings_that_are_held_are_removed_by_the_worker_of_their_call(tmp_path):
    calls = [f"call {number}" for number in range(20)]
    for call_id in calls:
        (tmp_path / safe_component(call_id)).mkdir()
    held = Held(tmp_path)
    fleets = [Fleet(index, 3) for index in range(3)]
    for fleet in fleets[1:]:
        held.sweep((), older_than_s=0.0, is_ours=fleet.owns_folder)
    left = {safe_component(call_id) for call_id in calls if fleets[0].is_ours(call_id)}
    assert left
    assert {path.name for path in tmp_path.iterdir()} == left


# ---- ending ----


def test_sigterm_waits_for_the_recordings_of_all_workers(command):
    command.start(2)
    calls = taken_up(command, 2)
    client = command.client()
    command.process.send_signal(signal.SIGTERM)
    until(lambda: client.get("/readyz").status_code == 503)
    first = calls[0]
    for call_id in calls[1:]:
        assert client.delete(f"/v1/calls/{call_id}").status_code == 204
    until(lambda: len(recordings(client)) == len(calls) - 1)
    time.sleep(0.3)
    assert (
        len(group(command.process.pid)) == 3
    )  # a worker that has nothing more to do still answers for the others
    assert client.get(f"/v1/calls/{first}").status_code == 200
    assert client.delete(f"/v1/calls/{first}").status_code == 204
    assert command.process.wait(WAIT_S) == 0
    assert len(list(command.out.rglob("*.wav"))) == len(calls)


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_ends_after_drain_s_what_still_runs_and_after_the_next_start_it_is_there(command, workers):
    (command.folder / "callreel").mkdir()
    (command.folder / "callreel" / "token").write_text(f"{secret('of-the-tenant-0123456789')}\n")
    may_hold(command.folder / "callreel" / "token")
    config = command.folder / "callreel.toml"
    config.write_text(f"""
        spool.folder = "{command.spool}"
        delivery.destination = "{command.out}"
        service = {{drain_s = 1, tokens = {{local_file = "{command.folder}/callreel/token"}}}}
        """)
    command.start(workers, "--config", str(config))
    calls = taken_up(command, workers)
    told_at = time.monotonic()
    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(WAIT_S) == 0
    assert 1.0 <= time.monotonic() - told_at < 8.0
    command.start(workers, "--config", str(config))
    client = command.client()
    entries = until(lambda: (found := recordings(client)) and len(found) >= len(calls) and found)
    assert sorted(entry["call_id"] for entry in entries) == sorted(calls)
    assert {(entry["error"], entry["end_reason"]) for entry in entries} == {(None, "hangup")}


@pytest.mark.parametrize("whom", ["supervisor", "terminal"])
def test_a_second_signal_waits_for_nothing(command, whom):
    def tell():
        if whom == "terminal":  # Ctrl-C reaches the whole group
            os.killpg(command.process.pid, signal.SIGINT)
        else:
            command.process.send_signal(signal.SIGTERM)

    command.start(2)
    calls = taken_up(command, 2)
    tell()
    time.sleep(0.5)
    assert len(group(command.process.pid)) == 3
    tell()
    assert command.process.wait(WAIT_S) == 0
    assert not any(is_alive(pid) for pid in group(command.process.pid))
    left = [json.loads(path.read_text()) for path in command.spool.rglob("takes/*/about.json")]
    assert {one["call_id"] for one in left} == set(calls)
