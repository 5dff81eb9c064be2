"""A worker that is gone, stuck, or lost in the middle: what is answered, and what is done at most once."""

import contextlib
import socket
import threading
import time

import httpx2 as httpx
import pytest

from callreel.service import colleagues, forwarding
from fleet_host import fleet_of, id_of, settings_in
from service_host import until

NO_MEDIA = {"legs": [{"media": "none"}]}


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet")
    with fleet_of(2, settings_in(folder, workers=2, operators=frozenset({"acme"}))) as running:
        yield running


@pytest.fixture
def client(workers):
    return workers[0].client()


@pytest.fixture
def call_id(workers):
    return id_of(workers[1])


@contextlib.contextmanager
def gone(running):
    """Nobody listens where this worker did."""
    path = running.service.fleet.socket(running.service.fleet.index)
    there = path.with_suffix(".away")
    path.rename(there)
    for one in running.others:
        for client in one.service.colleagues._clients.values():
            client.close()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        there.rename(path)


@pytest.fixture(autouse=True)
def others(workers):
    for one in workers:
        one.others = [other for other in workers if other is not one]


class Impostor:
    """Listens in a worker's place, and does with each connection what it is told."""

    def __init__(self, path, serve):
        self.heard = []
        self._serve = serve
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                one, _ = self._listener.accept()
                with one:
                    self.heard.append(one.recv(65536))
                    self._serve(one)

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@contextlib.contextmanager
def impostor(running, serve):
    with gone(running) as path:
        one = Impostor(path, serve)
        try:
            yield one
        finally:
            one.close()


def lost(one):
    """It has read all, and dies."""


# ---- gone ----

GONE = {
    "/v1/calls/{}": lambda body, headers: body["error"]["code"] == "not_now",
    "/sip-media-applications/app/calls/{}": lambda body, headers: (
        (body["Code"], headers["x-amzn-ErrorType"]) == ("ServiceUnavailable", "ServiceUnavailableException")
    ),
    "/calling/v1/calls/id/{}": lambda body, headers: body["errorCode"] == 50300,
    "/calling/v1/conferences/id/room/{}": lambda body, headers: body["errorCode"] == 50300,
    "/v1.0/communications/calls/{}/record": lambda body, headers: (
        body["error"]["code"] == "serviceNotAvailable"
    ),
}


@pytest.mark.parametrize("path", GONE)
def test_the_owner_being_gone_is_said_in_the_words_of_the_api(workers, client, call_id, path, monkeypatch):
    monkeypatch.setattr(forwarding, "PATIENCE_S", 0.2)
    with gone(workers[1]):
        answer = client.post(path.format(call_id), json={})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert GONE[path](answer.json(), answer.headers)


def test_the_owner_being_gone_is_said_to_a_person_who_looks_at_its_call(
    workers, client, call_id, monkeypatch
):
    monkeypatch.setattr(forwarding, "PATIENCE_S", 0.2)
    with gone(workers[1]):
        answer = client.get("/page/call", params={"id": call_id})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "The part of the service that has this call starts anew." in answer.text
    assert '<a href="/page/">' in answer.text
    assert 'http-equiv="refresh"' in answer.text


def test_an_owner_that_comes_back_in_time_answers(workers, client, call_id):
    with contextlib.ExitStack() as away:
        away.enter_context(gone(workers[1]))
        back = threading.Timer(0.5, away.close)
        back.start()
        assert client.get(f"/v1/calls/{call_id}").status_code == 404
        back.join()


def test_a_new_call_that_any_worker_may_have_is_begun_although_one_is_gone(workers, client):
    with gone(workers[1]):
        made = [client.post("/v1/calls", json=NO_MEDIA).json()["call_id"] for _ in range(4)]
    assert {workers[0].service.fleet.owner(one) for one in made} == {0}
    for one in made:
        assert client.delete(f"/v1/calls/{one}").status_code == 204


def test_what_is_of_all_calls_is_answered_without_a_worker_that_is_gone(workers, client):
    ours = id_of(workers[0])
    assert client.post("/v1/calls", json=NO_MEDIA | {"call_id": ours}).status_code == 201
    with gone(workers[1]):
        assert ours in [one["call_id"] for one in client.get("/v1/calls").json()["calls"]]
        ready = client.get("/readyz")
        assert (ready.status_code, ready.text) == (503, "worker 1: it is not there\n")
        measured = client.get("/metrics").text
        assert 'callreel_worker_up{worker="0"} 1\ncallreel_worker_up{worker="1"} 0\n' in measured
        page = client.get("/page/")
        assert ours in page.text
        assert "worker 1: it is not there" in page.text
        assert "No recordings are begun now" not in page.text
        assert "worker 1: it is not there" in client.get("/page/deliveries").text
    assert "worker 1" not in client.get("/page/").text
    client.delete(f"/v1/calls/{ours}")


# ---- stuck ----


def test_what_is_of_all_calls_is_not_answered_in_part(workers, client, monkeypatch):
    monkeypatch.setattr(colleagues, "ASK_S", 0.2)
    with impostor(workers[1], lambda one: time.sleep(0.5)):
        answer = client.get("/v1/calls")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.json()["error"]["code"] == "not_now"
        assert client.get("/readyz").text == "worker 1: it does not answer\n"
        assert 'callreel_worker_up{worker="1"} 0\n' in client.get("/metrics").text
        assert "worker 1: it does not answer" in client.get("/page/").text


def test_an_owner_that_does_not_answer_is_given_up(workers, client, call_id, monkeypatch):
    monkeypatch.setattr(forwarding, "ANSWER_S", 0.2)
    with impostor(workers[1], lambda one: time.sleep(0.5)):
        answer = client.get(f"/v1/calls/{call_id}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "too_slow")


def test_a_client_that_goes_away_ends_the_request_at_the_owner(workers, client, call_id):
    ended = threading.Event()

    def serve(one):
        one.settimeout(10)
        if one.recv(1) == b"":
            ended.set()

    with impostor(workers[1], serve):
        with pytest.raises(httpx.ReadTimeout):
            client.get(f"/v1/calls/{call_id}", timeout=0.2)
        assert ended.wait(5)


# ---- lost ----


def test_what_may_have_been_carried_out_is_not_sent_again(workers, client, call_id):
    with impostor(workers[1], lost) as there:
        answer = client.post(f"/v1/calls/{call_id}/actions", json={"action": "ringing"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "lost")
        assert len(there.heard) == 1


@pytest.mark.parametrize(
    ("method", "headers"), [("GET", {}), ("DELETE", {}), ("POST", {"Idempotency-Key": "a-key"})]
)
def test_what_may_be_carried_out_twice_is_sent_again(workers, client, call_id, method, headers, monkeypatch):
    monkeypatch.setattr(forwarding, "PATIENCE_S", 0.3)
    with impostor(workers[1], lost) as there:
        answer = client.request(method, f"/v1/calls/{call_id}", headers=headers)
        assert answer.status_code == 502
        assert len(there.heard) > 2
        assert len(set(there.heard)) == 1


def test_an_answer_that_breaks_off_is_no_whole_answer(workers, client, call_id):
    def serve(one):
        one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it")

    with impostor(workers[1], serve), pytest.raises(httpx.RemoteProtocolError):
        client.get(f"/v1/calls/{call_id}")


def test_a_connection_that_was_kept_and_has_ended_is_not_used_again(workers, client, call_id):
    assert client.get(f"/v1/calls/{call_id}").status_code == 404
    idle = workers[0].service.colleagues.client(1)._idle
    until(lambda: idle)  # it is put back when the answer has gone out
    kept = idle[-1]
    kept._writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
    until(kept.is_stale)
    answer = client.post(f"/v1/calls/{call_id}/actions", json={"action": "ringing"})
    assert answer.status_code == 404
