"""How long a request may take to come, how many may be connected, who makes room; what happens when files run out."""

import contextlib
import os
import resource
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import httpx2 as httpx
import pytest
from websockets.sync.client import connect

from callreel.service import connections as module
from callreel.service import running as running_module
from callreel.service.host import LegWish
from callreel.service.running import Service
from callreel.service.telling import TURN_EVENTS
from service_host import TOKENS, listening, settings_in, until

HALF = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
WHOLE = HALF + b"\r\n"
BEARER = f"Authorization: Bearer {TOKENS['acme']}\r\n".encode()
HALF_BODY = b"POST /v1/calls HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"


@pytest.fixture
def running(tmp_path):
    with listening(Service(settings_in(tmp_path))) as one:
        yield one


@pytest.fixture
def quick(running):
    """The same, without much patience."""
    running.service.connections.head_s = 0.4
    return running


def connected(port, sent=b"", **options):
    one = socket.create_connection(("127.0.0.1", port), timeout=10, **options)
    one.sendall(sent)
    return one


def all_of(one):
    """What comes until the other side closes."""
    with contextlib.suppress(ConnectionResetError):
        return b"".join(iter(lambda: one.recv(65536), b""))
    return b""


def answered(one):
    """Whether /healthz says that all is well."""
    data = b""
    while not data.endswith(b"\r\n\r\nok\n"):
        data += one.recv(65536)
    return data.startswith(b"HTTP/1.1 200 ")


def is_open(one):
    one.setblocking(False)
    try:
        return one.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        one.setblocking(True)


# ---- a head has its time ----


def test_who_says_nothing_is_gone_in_time(quick):
    with connected(quick.port) as one:
        assert all_of(one) == b""


def test_half_a_head_is_answered_when_its_time_is_over(quick):
    with connected(quick.port, HALF) as one:
        assert all_of(one).startswith(b"HTTP/1.1 408 ")


def test_a_head_that_drips_has_no_more_time_than_another(quick):
    began = time.monotonic()
    with connected(quick.port) as one, contextlib.suppress(OSError):
        for octet in HALF * 10:
            one.sendall(bytes([octet]))
            time.sleep(0.02)
    assert time.monotonic() - began < 3


def test_between_requests_a_connection_may_rest_but_half_a_head_there_has_its_time_too(quick):
    with connected(quick.port, WHOLE) as one:
        assert answered(one)
        time.sleep(0.8)
        one.sendall(WHOLE)
        assert answered(one)
        one.sendall(b"G")
        assert b"HTTP/1.1 408 " in all_of(one)


def test_half_a_head_behind_a_whole_request_has_its_time(quick):
    with connected(quick.port, WHOLE + HALF) as one:
        answers = all_of(one)
    assert answers.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answers


def test_what_is_being_answered_is_not_disturbed(quick):
    path = b"GET /v1/events HTTP/1.1\r\nHost: x\r\n" + BEARER + b"\r\n"
    with connected(quick.port, path) as one:
        until(lambda: quick.service.stream._watchers)
        time.sleep(0.8)
        quick.service.host.create("told", tenant="acme", legs=[LegWish(media="none")])
        quick.service.host.end(quick.service.host.call("told"))
        seen = b""
        while b"call_ended" not in seen:
            seen += one.recv(65536)


def test_a_websocket_outlives_the_time_of_a_head(quick):
    from websockets.sync.client import connect

    client = quick.client()
    body = {"legs": [{"media": "websocket", "options": {"format": "binary"}}]}
    media = client.post("/v1/calls", json=body).json()["legs"][0]["media"]
    with connect(f"ws://127.0.0.1:{quick.port}{media['path']}", compression=None) as one:
        time.sleep(0.8)
        one.send(bytes(160))
        assert quick.service.connections.count >= 1


@pytest.mark.parametrize(
    "head",
    [
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 7\r\n",
    ],
)
def test_an_upgrade_that_is_none_is_refused_and_closed(quick, head):
    request = b"GET /v1/media/a/LEG-A/b HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n"
    with connected(quick.port, request) as one:
        assert all_of(one).startswith(b"HTTP/1.1 4")


# ---- what is no request ----


def test_half_a_body_is_not_taken_for_a_whole_one(running):
    body = b'{"call_id": "half", "legs": [{"media": "none"}]}'
    head = b"POST /v1/calls HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + BEARER
    with connected(running.port, head + f"Content-Length: {len(body) + 1}\r\n\r\n".encode() + body):
        time.sleep(0.2)
    client = running.client()
    time.sleep(0.2)
    assert client.get("/v1/calls/half").status_code == 404
    assert (
        client.post("/v1/calls", content=body, headers={"Content-Type": "application/json"}).status_code
        == 201
    )


@pytest.mark.parametrize(
    "garbage", [b"\0\1\2\r\n\r\n", b"GET\r\n\r\n", b"{}\r\n\r\n", b"GET / HTTP/1.1\r\n:\r\n\r\n"]
)
def test_garbage_behind_a_request_is_refused_and_the_request_is_answered(running, garbage):
    with connected(running.port, WHOLE + garbage) as one:
        answers = all_of(one)
    assert answers.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 400 " in answers


@pytest.mark.parametrize(
    "head", [b"GET /" + b"a" * 70_000, HALF + b"x: " + b"a" * 70_000, HALF + b"x: y\r\n" * 20_000]
)
def test_a_head_that_is_too_large_is_refused(running, head):
    with connected(running.port) as one:
        with contextlib.suppress(ConnectionError):
            one.sendall(head)
        assert all_of(one)[:12] in (b"HTTP/1.1 400", b"")
    assert running.client(None).get("/healthz").status_code == 200


# ---- who makes room ----


@pytest.fixture
def small(running):
    """A service with room for eight."""
    running.service.connections.most = 8
    return running


def test_who_has_kept_a_place_longest_without_a_whole_request_makes_room(small, monkeypatch):
    monkeypatch.setattr(module, "HASTE_S", 0.0)
    halves = (b"", HALF, HALF_BODY)
    with contextlib.ExitStack() as held:
        kept = []
        for number in range(8):
            kept.append(held.enter_context(connected(small.port, halves[number % 3])))
            until(lambda: small.service.connections.count == len(kept))
        late = [held.enter_context(connected(small.port, WHOLE)) for _ in range(3)]
        for one in late:
            assert answered(one)
        assert [is_open(one) for one in kept] == [False] * 3 + [True] * 5
    until(lambda: small.service.connections.count == 0)


def test_a_request_on_its_way_is_worth_more_than_a_connection_that_rests(small, monkeypatch):
    monkeypatch.setattr(module, "HASTE_S", 60.0)
    with contextlib.ExitStack() as held:
        resting = [held.enter_context(connected(small.port, WHOLE)) for _ in range(4)]
        assert all(answered(one) for one in resting)
        on_their_way = [held.enter_context(connected(small.port, HALF)) for _ in range(4)]
        until(lambda: small.service.connections.count == 8)
        late = held.enter_context(connected(small.port, WHOLE))
        assert answered(late)
        assert [is_open(one) for one in resting] == [False, True, True, True]
        assert all(is_open(one) for one in on_their_way)


def test_what_is_answered_is_never_made_to_leave_and_who_comes_then_is_told(small):
    path = b"GET /v1/events HTTP/1.1\r\nHost: x\r\n" + BEARER + b"\r\n"
    with contextlib.ExitStack() as held:
        watchers = [held.enter_context(connected(small.port, path)) for _ in range(8)]
        until(lambda: len(small.service.stream._watchers) == 8)
        with connected(small.port) as late:
            assert all_of(late).startswith(b"HTTP/1.1 503 ")
        assert all(is_open(one) for one in watchers)
    until(lambda: small.service.connections.count == 0)
    assert small.client(None).get("/healthz").status_code == 200
    metrics = small.client(None).get("/metrics", headers={"Authorization": "Bearer x"})
    assert metrics.status_code == 401
    ended = next(one for one in small.service.connections.families() if one.name.endswith("ended_total"))
    assert {sample.labels["why"]: sample.value for sample in ended.samples}["full"] == 1


def test_one_address_beyond_this_machine_has_a_part_of_the_places(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "is_loopback", lambda host: host == "127.0.0.1")
    monkeypatch.setattr(module, "CONNECTIONS_MAX", 16)
    with listening(Service(settings_in(tmp_path))) as running, contextlib.ExitStack() as held:
        far = [
            held.enter_context(connected(running.port, HALF, source_address=("127.0.0.2", 0)))
            for _ in range(6)
        ]
        until(lambda: [is_open(one) for one in far] == [False] * 2 + [True] * 4)
        near = [held.enter_context(connected(running.port, HALF)) for _ in range(6)]
        time.sleep(0.2)
        assert all(is_open(one) for one in near)
        far[2].sendall(b"\r\n")  # a whole request does not count
        assert answered(far[2])
        held.enter_context(connected(running.port, HALF, source_address=("127.0.0.2", 0)))
        time.sleep(0.2)
        assert [is_open(one) for one in far[3:]] == [True] * 3


# ---- who reads nothing ----


def test_audio_for_a_client_that_reads_nothing_waits_on_the_disk_and_the_client_is_dropped(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(running_module, "UNTAKEN_MS", 1500)
    service = Service(settings_in(tmp_path))
    path = tmp_path / "out" / "large.wav"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(64 << 20)
    from busy_service import shelved

    shelved(service, tmp_path / "out", 1, location=path.as_uri(), size_bytes=64 << 20)
    with listening(service) as running, contextlib.ExitStack() as held:
        deaf = held.enter_context(socket.socket())
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", running.port))
        deaf.sendall(b"GET /v1/recordings/acme0000/audio HTTP/1.1\r\nHost: x\r\n" + BEARER + b"\r\n")
        until(lambda: _places_in(path))
        time.sleep(0.5)
        (at,) = _places_in(path)
        assert 0 < at < 4 << 20
        until(lambda: not _places_in(path))
        until(lambda: service.connections.count == 0)


def _places_in(path):
    """Where this process reads a file."""
    found = []
    for one in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if one.readlink() == path:
                found.append(int(Path("/proc/self/fdinfo", one.name).read_text().split()[1]))
    return found


def test_events_for_a_client_that_reads_nothing_are_kept_once_and_the_client_is_dropped(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(running_module, "UNTAKEN_MS", 1500)
    service = Service(settings_in(tmp_path))
    with listening(service) as running, contextlib.ExitStack() as held:
        deaf = held.enter_context(socket.socket())
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", running.port))
        deaf.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n" + BEARER + b"\r\n")
        until(lambda: service.stream._watchers)
        before_kb = _anonymous_kb()
        body = {"event": "told", "text": "x" * 1000}
        for _ in range(60_000):
            service.stream.tell("acme", body)
        assert _anonymous_kb() - before_kb < 16 << 10
        until(lambda: not service.stream._watchers)
        until(lambda: service.connections.count == 0)


def test_a_watcher_that_is_gone_while_it_catches_up_is_noticed_soon(running, caplog):
    for _ in range(10_000):
        running.service.stream.tell("acme", {"event": "told"})
    request = b"GET /v1/events?since=0 HTTP/1.1\r\nHost: x\r\n" + BEARER + b"\r\n"
    with connected(running.port, request) as one:
        assert one.recv(1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    until(lambda: running.service.connections.count == 0)
    in_vain = [record for record in caplog.records if "socket.send() raised" in record.getMessage()]
    assert len(in_vain) < 4 * TURN_EVENTS


def test_a_websocket_counts_as_long_as_it_is_there(running):
    key = running.service.access.media_key("acme")
    counted = running.service.connections
    with connect(f"ws://127.0.0.1:{running.port}/v1/media-streams/{key}"):
        until(lambda: counted.count == 1)
    until(lambda: counted.count == 0)


def _anonymous_kb():
    (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("RssAnon")]
    return int(line.split()[1])


# ---- thousands, and few files ----


@contextlib.contextmanager
def served(folder, files=None):
    """`callreel serve` in a process of its own, which may have so many open files: URL, port, token and process."""
    command = [sys.executable, "-m", "callreel", "serve", "--port", "0", "--rtp-ports", "30300-30499"]
    command += ["--workers", "1"]  # whose files are counted
    if files is not None:
        command = ["sh", "-c", f'ulimit -S -n 64; ulimit -H -n {files}; exec "$@"', "sh", *command]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CALLREEL_")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        line = process.stdout.readline()
        assert line.startswith("callreel serves at http://127.0.0.1:"), (folder / "log").read_text()
        url = line.split()[-1]
        yield (
            url,
            int(url.rpartition(":")[2]),
            (folder / "callreel" / "token").read_text().strip(),
            process.pid,
        )
    finally:
        process.kill()
        process.communicate()


def test_10_000_half_open_connections_keep_nobody_from_being_answered(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 10_500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"a process may have {hard} files open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    halves = (b"", b"G", HALF, HALF_BODY)
    with served(tmp_path) as (url, port, token, pid), contextlib.ExitStack() as held:
        client = held.enter_context(httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}))
        watcher = held.enter_context(client.stream("GET", "/v1/events", timeout=60))
        slowest = 0.0
        for number in range(10_000):
            one = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            with contextlib.suppress(ConnectionError):
                one.sendall(halves[number % 4])
            if number % 1000 == 999:
                began = time.monotonic()
                with httpx.Client(base_url=url, headers=client.headers, timeout=20) as late:
                    assert late.get("/healthz").status_code == 200
                    body = {"call_id": f"c-{number}", "legs": [{"media": "none"}]}
                    assert late.post("/v1/calls", json=body).status_code == 201
                slowest = max(slowest, time.monotonic() - began)
        assert slowest < 5
        lines = watcher.iter_lines()
        while "c-9999" not in next(lines):
            pass
        most = module.Connections(resource.getrlimit(resource.RLIMIT_NOFILE)[1]).most
        assert len(list(Path(f"/proc/{pid}/fd").iterdir())) < most + 200
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_few_open_files_are_enough_for_calls_whoever_connects(tmp_path):
    with served(tmp_path, files=256) as (url, port, token, pid), contextlib.ExitStack() as held:
        limits = Path(f"/proc/{pid}/limits").read_text()
        (line,) = [one for one in limits.splitlines() if one.startswith("Max open files")]
        assert line.split()[3:5] == ["256", "256"]
        for number in range(400):
            one = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            with contextlib.suppress(ConnectionError):
                one.sendall((b"", HALF, HALF_BODY)[number % 3])
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=20) as client:
            assert client.get("/healthz").status_code == 200
            statuses = []
            while not statuses or (statuses[-1] == 201 and len(statuses) < 200):
                answer = client.post("/v1/calls", json={"call_id": f"c-{len(statuses)}"})
                statuses.append(answer.status_code)
            assert len(statuses) > 20
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_port"), answer.text
            before_s = _cpu_s(pid)
            for _ in range(10):
                held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            time.sleep(1.0)
            assert _cpu_s(pid) - before_s < 0.7  # accepting does not spin
            for number in range(len(statuses) - 1):
                assert client.delete(f"/v1/calls/c-{number}").status_code == 204
            assert client.post("/v1/calls", json={"call_id": "again"}).status_code == 201


def _cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
