"""`callreel serve --workers 2`: one address, and any worker answers for any call."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest

from audiosocket_peer import AsteriskPeer
from callreel.kernels import g711
from callreel.service.fleet import Fleet
from live_media import delivered, noise, read_wav, starts_at
from media_stream_peer import PlatformPeer
from service_host import until

NO_MEDIA = {"legs": [{"media": "none"}]}


TOKEN = "processes-token-0123456789abcdef"
SETTINGS = """
[spool]
folder = "spool"

[delivery]
destination = "out"

[service]
workers = 2
port = 0
rtp_ports = [30300, 30399]
audiosocket_port = 0
operators = ["acme"]

[service.tokens]
acme_file = "token"
"""


class Served:
    """The command, with two workers."""

    def __init__(self, folder):
        (folder / "callreel.toml").write_text(SETTINGS)
        token = folder / "token"
        token.write_text(TOKEN)
        token.chmod(0o600)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CALLREEL_")}
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "callreel", "serve", "--config", "callreel.toml"],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.url = self.process.stdout.readline().split()[-1:]
        self.log = folder / "log"

    def client(self, **headers):
        return httpx.Client(
            base_url=self.url,
            verify=False,
            headers={"Authorization": f"Bearer {TOKEN}"} | headers,
            timeout=20,
        )

    def workers(self):
        """Their processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(child) for child in children]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    one = Served(tmp_path_factory.mktemp("served"))
    try:
        assert one.url, one.log.read_text()
        (one.url,) = one.url
        yield one
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(30) == 0
    finally:
        one.process.kill()
        one.process.communicate()


def anew(served, method, path, **options):
    """A request on a connection of its own: whichever worker takes it."""
    with served.client() as client:
        return client.request(method, path, **options)


def test_calls_from_one_connection_are_spread_and_every_connection_reaches_them_all(served):
    fleet = Fleet(0, 2)
    with served.client() as client:
        made = [client.post("/v1/calls", json=NO_MEDIA).json()["call_id"] for _ in range(8)]
    assert sorted(map(fleet.owner, made)) == [0] * 4 + [1] * 4
    for call_id in made:
        for _ in range(4):
            assert anew(served, "GET", f"/v1/calls/{call_id}").json()["call_id"] == call_id
        assert anew(served, "GET", "/v1/calls").json()["calls"][-1]["call_id"] == made[0]
    for call_id in made:
        assert anew(served, "DELETE", f"/v1/calls/{call_id}").status_code == 204
    assert anew(served, "GET", "/v1/calls").json() == {"calls": []}


def test_what_all_peers_send_is_recorded_whichever_worker_takes_their_connections(served):
    said = noise(0.6)
    codes = g711.ulaw_encode(said)
    calls = []
    with contextlib.ExitStack() as peers, served.client() as client:
        for number in range(8):
            sid = f"CA-{number}"
            leg = [
                {"media": "audiosocket"},
                {"media": "websocket", "options": {"call_sid": sid}},
            ][number % 2]
            call = client.post("/v1/calls", json={"legs": [leg], "record": {}}).json()
            calls.append(call["call_id"])
            media = call["legs"][0]["media"]
            if number % 2 == 0:
                peer = AsteriskPeer(media["address"], media["uuid"])
                speak = partial(peer.say, said)
            else:
                path = media["path" if number % 4 == 1 else "stream_path"]
                peer = PlatformPeer(f"ws{served.url.removeprefix('http')}{path}", call_sid=sid)
                peer.start()
                speak = partial(peer.say, inbound=codes)
            peers.callback(peer.close)
            speak()
        time.sleep(0.3)
        for call_id in calls:
            assert anew(served, "DELETE", f"/v1/calls/{call_id}").status_code == 204
        for number, call_id in enumerate(calls):
            entry = delivered(client, call_id)
            heard = read_wav(client, entry)[0][:, 0]
            pcm = said if number % 2 == 0 else g711.ulaw_decode(codes)
            begin = starts_at(heard, pcm)
            np.testing.assert_array_equal(heard[begin : begin + len(pcm) // 2], np.frombuffer(pcm, "<i2"))


def test_a_login_is_good_at_every_worker(served):
    with served.client() as client:
        client.headers.pop("Authorization")
        page = client.get("/page/login").text
        form = page.split('name="form_token" value="')[1].split('"')[0]
        client.post("/page/login", data={"form_token": form, "token": TOKEN})
        cookies = dict(client.cookies)
    for _ in range(8):
        with httpx.Client(base_url=served.url, cookies=cookies, verify=False) as browser:
            assert "Live calls" in browser.get("/page/").text


def test_while_a_worker_is_replaced_the_other_answers_and_then_all_is_ready_again(served):
    fleet = Fleet(0, 2)
    stays, goes = (
        next(name for n in range(1000) if fleet.owner(name := f"kill-{n}") == owner) for owner in (0, 1)
    )
    for name in (stays, goes):
        assert anew(served, "POST", "/v1/calls", json=NO_MEDIA | {"call_id": name}).status_code == 201
    _, second = served.workers()  # begun in the order of their numbers
    os.kill(second, signal.SIGKILL)
    statuses = [status_or_none(served, f"/v1/calls/{stays}") for _ in range(20)]
    assert {*statuses} <= {200, None}
    assert statuses.count(200) > 10
    assert until(lambda: status_or_none(served, f"/v1/calls/{goes}")) == 404
    assert until(lambda: status_or_none(served, "/readyz") == 200)
    assert anew(served, "GET", "/v1/calls").json()["calls"][0]["call_id"] == stays
    assert anew(served, "POST", "/v1/calls", json=NO_MEDIA | {"call_id": goes}).status_code == 201
    for name in (stays, goes):
        assert anew(served, "DELETE", f"/v1/calls/{name}").status_code == 204


def status_or_none(served, path):
    """The status; None when the connection itself was lost with its worker."""
    try:
        return anew(served, "GET", path).status_code
    except httpx.TransportError:
        return None
