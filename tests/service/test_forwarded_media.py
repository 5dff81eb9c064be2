"""Audio that comes to a worker that does not have its leg: carried on, or the connection handed over."""

import asyncio
import contextlib
import json
import socket
import threading
import time
import uuid

import numpy as np
import pytest
from websockets.asyncio.server import unix_serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from audiosocket_peer import AsteriskPeer, written
from callreel.kernels import g711, tone
from callreel.service import handover, relays
from callreel.service.colleagues import Colleagues
from callreel.service.fleet import Fleet
from callreel.service.stream import EventStream
from fleet_host import fleet_of, id_of, settings_in
from live_media import delivered, noise, read_wav, starts_at, until
from media_stream_peer import BinaryPeer, PlatformPeer

NUMBERS = iter(range(1_000_000))


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    settings = settings_in(tmp_path_factory.mktemp("fleet"), workers=3, audiosocket_port=0)
    with fleet_of(3, settings) as running:
        yield running


def begun(owning, media, record=None, **options):
    """A call of this worker's with one leg."""
    body = {
        "call_id": id_of(owning, f"media-{next(NUMBERS)}"),
        "legs": [{"media": media, "options": options}],
    }
    answer = owning.client().post("/v1/calls", json=body if record is None else body | {"record": record})
    assert answer.status_code == 201, answer.text
    return answer.json()


def media_of(call):
    return call["legs"][0]["media"]


def url_at(asked, call, path="path"):
    return f"ws://127.0.0.1:{asked.port}{media_of(call)[path]}"


@contextlib.contextmanager
def ended(peer):
    try:
        yield peer
    finally:
        peer.close()


def codes(seconds, seed=0):
    return np.random.default_rng(seed).integers(0, 96, round(seconds * 8000), dtype=np.uint8).tobytes()


def assert_heard(channel, pcm):
    begin = starts_at(channel, pcm)
    np.testing.assert_array_equal(channel[begin : begin + len(pcm) // 2], np.frombuffer(pcm, "<i2"))


def play(owning, call, pcm, rate=8000):
    told, reasons = threading.Event(), []

    def done(reason):
        reasons.append(reason)
        told.set()

    owning.service.host.call(call["call_id"]).media["LEG-A"].play(pcm, rate, done)
    return told, reasons


# ---- WebSockets ----


@pytest.mark.parametrize("path", ["path", "stream_path"])
def test_a_platforms_stream_that_comes_to_another_worker_is_recorded(workers, path):
    asked, owning = workers[0], workers[1]
    said, sid = codes(1.0), f"CA-{next(NUMBERS)}"
    call = begun(owning, "websocket", record={}, call_sid=sid)
    with ended(PlatformPeer(url_at(asked, call, path), call_sid=sid)) as peer:
        peer.start()
        peer.say(inbound=said)
        peer.stop()
        assert peer.ended.wait(5)
        assert peer.close_code == 1000
    entry = delivered(asked.client(), call["call_id"])
    audio, _ = read_wav(asked.client(), entry)
    assert_heard(audio[:, 0], g711.ulaw_decode(said))
    assert entry["end_reason"] == "hangup"


def test_what_is_played_comes_back_and_its_mark_is_heard(workers):
    asked, owning = workers[2], workers[0]
    call = begun(owning, "websocket", record={})
    with ended(PlatformPeer(url_at(asked, call))) as peer:
        peer.start()
        tones = tone.sine(440, 0.4, -10.0, 8000)
        told, reasons = play(owning, call, tones)
        assert told.wait(10)
        assert reasons == [None]
        assert peer.played == g711.ulaw_encode(tones)


def test_binary_audio_both_ways_and_keys_reach_a_leg_of_another_worker(workers):
    asked, owning = workers[1], workers[2]
    call = begun(owning, "websocket", record={}, format="binary", sample_rate=16000)
    said = noise(0.6, rate=16000)
    with ended(BinaryPeer(url_at(asked, call))) as peer:
        peer.say(said, 640)
        peer.socket.send(json.dumps({"event": "dtmf", "dtmf": {"digit": "7"}}))
        media = until(
            lambda: (
                (found := owning.client().get(f"/v1/calls/{call['call_id']}").json()["media"]["LEG-A"]).get(
                    "digits"
                )
                and found
            )
        )
    assert media["received"] == 30
    assert media["digits"] == 1


def test_a_token_in_a_header_opens_a_leg_of_another_worker_and_no_other_token_does(workers):
    asked, owning = workers[0], workers[2]
    call = begun(owning, "websocket", format="binary")
    path, _, token = media_of(call)["path"].rpartition("/")
    url = f"ws://127.0.0.1:{asked.port}{path}"
    for wrong in ({"Authorization": "Bearer wrong"}, {}):
        with pytest.raises(InvalidStatus) as refused:
            connect(url, additional_headers=wrong)
        assert refused.value.response.status_code == 403
    with connect(url, additional_headers={"Authorization": f"Bearer {token}"}) as socket_:
        socket_.send(b"\1\0" * 160)
        until(lambda: owning.service.host.call(call["call_id"]).media["LEG-A"].statistics.get("received"))


def test_the_end_of_a_call_ends_a_carried_websocket_with_the_same_code(workers):
    asked, owning = workers[0], workers[1]
    call = begun(owning, "websocket", format="binary")
    with connect(url_at(asked, call)) as one:
        with connect(url_at(asked, call)) as second, pytest.raises(ConnectionClosed):
            second.recv(timeout=5)
        assert second.close_code == 1008  # it has its connection
        assert asked.client().delete(f"/v1/calls/{call['call_id']}").status_code == 204
        with pytest.raises(ConnectionClosed):
            one.recv(timeout=5)
    assert one.close_code == 1000


def test_a_message_that_is_too_long_ends_a_carried_websocket(workers):
    asked, owning = workers[0], workers[1]
    call = begun(owning, "websocket", format="binary")
    with connect(url_at(asked, call), compression=None) as one:
        one.send(bytes(65_536))
        one.send(bytes(65_537))
        with pytest.raises(ConnectionClosed):
            one.recv(timeout=5)
    assert one.close_code == 1009
    until(
        lambda: (
            not owning.service.host.calls()
            or call["call_id"] not in [c.call_id for c in owning.service.host.calls()]
        )
    )


def test_a_peer_that_goes_away_hangs_up_the_leg_of_another_worker(workers):
    asked, owning = workers[0], workers[1]
    call = begun(owning, "websocket", format="binary")
    one = connect(url_at(asked, call))
    until(lambda: owning.service.host.call(call["call_id"]).media["LEG-A"].statistics["connected"])
    one.socket.shutdown(socket.SHUT_RDWR)
    until(lambda: owning.service.host.call(call["call_id"]).recorded.is_over)


def test_a_stream_that_nobody_waits_for_is_refused_at_every_worker(workers):
    call = begun(workers[0], "websocket", call_sid="CA-there")
    for asked in workers:
        with ended(PlatformPeer(url_at(asked, call, "stream_path"), call_sid="CA-nowhere")) as peer:
            peer.start()
            assert peer.ended.wait(5)
            assert peer.close_code == 1008
        assert until(lambda asked=asked: asked.service.websockets.strangers == 0)


def test_a_client_that_takes_nothing_is_not_sent_to_without_end(tmp_path):
    """What one side does not take the other is not read for."""
    fleet = Fleet(0, 2, tmp_path)
    sent = 0

    async def owner(there):
        nonlocal sent
        while True:
            await there.send(bytes(1000))
            sent += 1

    async def run():
        incoming = asyncio.Queue()
        incoming.put_nowait({"type": "websocket.connect"})
        stuck = asyncio.Event()

        async def send(message):
            if message["type"] == "websocket.send":
                stuck.set()
                await asyncio.sleep(3600)

        scope = {
            "type": "websocket",
            "scheme": "ws",
            "path": "/v1/media/x/LEG-A/token",
            "raw_path": b"/v1/media/x/LEG-A/token",
            "query_string": b"",
            "headers": [],
        }
        async with unix_serve(owner, str(fleet.socket(1))):
            relay = asyncio.create_task(
                relays.relay(Colleagues(EventStream(), fleet), 1, scope, incoming.get, send)
            )
            await asyncio.wait_for(stuck.wait(), 10)
            before = -1
            while before < sent:
                before = sent
                await asyncio.sleep(0.2)
            incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})
            await asyncio.wait_for(relay, 10)

    asyncio.run(run())
    assert 0 < sent < 2000


# ---- AudioSocket ----


@contextlib.contextmanager
def asterisk(asked, call, **options):
    address = f"127.0.0.1:{asked.service.audiosocket.port}"
    with ended(AsteriskPeer(address, media_of(call)["uuid"], **options)) as peer:
        yield peer


def test_asterisk_at_another_worker_is_recorded_sample_by_sample_and_hears_what_is_played(workers):
    asked, owning = workers[0], workers[1]
    call = begun(owning, "audiosocket", record={})
    said, tones = noise(1.0), tone.sine(440, 0.4, -10.0, 8000)
    with asterisk(asked, call) as peer:
        told, reasons = play(owning, call, tones)
        peer.say(said)
        assert told.wait(10)
        assert reasons == [None]
        assert peer.played.startswith(tones[:6400])
        peer.send(0x00)
        assert peer.ended.wait(5)
    audio, _ = read_wav(asked.client(), delivered(asked.client(), call["call_id"]))
    assert_heard(audio[:, 0], said)
    assert until(lambda: not asked.service.audiosocket.connections)
    assert asked.service.audiosocket.strangers == owning.service.audiosocket.strangers == 0


def test_what_was_said_before_a_connection_is_handed_over_is_heard(workers):
    asked, owning = workers[2], workers[0]
    call = begun(owning, "audiosocket", record={})
    said = noise(0.3)
    time.sleep(0.5)  # what comes at once was sounding before
    with socket.create_connection(("127.0.0.1", asked.service.audiosocket.port)) as one:
        frames = b"".join(written(0x10, said[at : at + 320]) for at in range(0, len(said), 320))
        one.sendall(written(0x01, uuid.UUID(media_of(call)["uuid"]).bytes) + frames[:2000])
        time.sleep(0.05)
        one.sendall(frames[2000:] + written(0x03, b"5"))
        media = owning.service.host.call(call["call_id"]).media["LEG-A"]
        until(lambda: media.statistics.get("digits"))
        time.sleep(0.5)  # it came faster than it sounds
    assert media.statistics["received"] == 15
    assert not media.statistics.get("malformed")
    audio, _ = read_wav(asked.client(), delivered(asked.client(), call["call_id"]))
    assert_heard(audio[:, 0], said)


def test_a_second_connection_for_a_leg_is_ended_wherever_it_comes(workers):
    call = begun(workers[0], "audiosocket")
    with asterisk(workers[1], call):
        media = workers[0].service.host.call(call["call_id"]).media["LEG-A"]
        until(lambda: media.statistics["connected"])
        for asked in workers:
            with asterisk(asked, call) as second:
                assert second.ended.wait(5)
        assert media.statistics["connected"]


def test_a_uuid_of_nobodys_is_refused_at_every_worker(workers):
    for asked in workers:
        with ended(AsteriskPeer(f"127.0.0.1:{asked.service.audiosocket.port}", uuid.uuid4())) as peer:
            assert peer.ended.wait(5)
        assert until(lambda asked=asked: not asked.service.audiosocket.connections)
        assert asked.service.audiosocket.strangers == 0


def test_a_worker_that_is_stuck_does_not_hold_up_connections_for_others(workers, monkeypatch):
    monkeypatch.setattr(handover, "ASK_S", 0.3)
    call = begun(workers[1], "audiosocket")
    path = workers[0].service.fleet.socket(2).with_suffix(".hand")
    there = path.with_suffix(".away")
    path.rename(there)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
        deaf.listen()
        with asterisk(workers[0], call):
            media = workers[1].service.host.call(call["call_id"]).media["LEG-A"]
            until(lambda: media.statistics["connected"])
    there.rename(path)


def test_a_worker_that_is_gone_takes_no_websocket_and_it_is_said_so(workers, monkeypatch):
    monkeypatch.setattr(relays, "PATIENCE_S", 0.3)
    call = begun(workers[1], "websocket", format="binary")
    path = workers[0].service.fleet.socket(1)
    there = path.with_suffix(".away")
    path.rename(there)
    try:
        with pytest.raises(InvalidStatus) as refused:
            connect(url_at(workers[0], call))
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"] == "2"
    finally:
        there.rename(path)
    with connect(url_at(workers[0], call)):
        pass
