"""Participants of one call whose media comes in different ways."""

import threading

import numpy as np
import pytest

from audiosocket_peer import AsteriskPeer
from callreel.kernels import g711
from callreel.service.running import Service
from live_media import live, manifest_of, noise, read_wav, starts_at, until
from media_stream_peer import PlatformPeer
from service_host import listening, settings_in
from udp_peers import Peer

SECONDS = 1.5


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with listening(Service(settings_in(tmp_path_factory.mktemp("service"), audiosocket_port=0))) as one:
        yield one


def assert_alone(channel, pcm):
    """Nothing but this, whole and in one piece."""
    begin, said = starts_at(channel, pcm), np.frombuffer(pcm, "<i2")
    np.testing.assert_array_equal(channel[begin : begin + len(said)], said)
    assert np.count_nonzero(channel) == np.count_nonzero(said)


def test_legs_over_rtp_a_websocket_and_audiosocket_are_each_recorded_sample_by_sample_in_one_call(running):
    client = running.client()
    legs = [
        {"name": f"LEG-{letter}", "media": media}
        for letter, media in zip("ABC", ("rtp", "websocket", "audiosocket"), strict=True)
    ]
    answer = client.post("/v1/calls", json={"legs": legs})
    assert answer.status_code == 201, answer.text
    call = answer.json()
    call_id, (rtp, websocket, audiosocket) = call["call_id"], [leg["media"] for leg in call["legs"]]
    path = f"/v1/calls/{call_id}"
    # Two laws of G.711 know what is said here, the third way takes any sample.
    codes = [g711.ulaw_encode(noise(SECONDS, seed=seed)) for seed in (1, 2)]
    said = {
        "LEG-A": g711.ulaw_decode(codes[0]),
        "LEG-B": g711.ulaw_decode(codes[1]),
        "LEG-C": noise(SECONDS, seed=3),
    }
    phone = Peer()
    platform = PlatformPeer(f"ws://127.0.0.1:{running.port}{websocket['path']}")
    asterisk = AsteriskPeer(audiosocket["address"], audiosocket["uuid"])
    try:
        platform.start()
        until(lambda: client.get(path).json()["media"]["LEG-B"]["connected"])
        until(lambda: client.get(path).json()["media"]["LEG-C"]["connected"])
        for leg in said:
            start = {"action": "start_recording", "recording": {"leg": leg}}
            assert client.post(f"{path}/actions", json=start).status_code == 200
        talkers = [
            threading.Thread(target=phone.talk, args=(rtp["port"], codes[0])),
            threading.Thread(target=platform.say, kwargs={"inbound": codes[1]}),
            threading.Thread(target=asterisk.say, args=(said["LEG-C"],)),
        ]
        for talker in talkers:
            talker.start()
        for talker in talkers:
            talker.join()
        platform.stop()
        asterisk.send(0x00)
        states = {"LEG-A": "connected", "LEG-B": "disconnected", "LEG-C": "disconnected"}
        until(lambda: {leg["name"]: leg["status"] for leg in client.get(path).json()["legs"]} == states)
        assert live(client, call_id)
        client.post(f"{path}/actions", json={"action": "hang_up", "leg": "LEG-A"})
        client.delete(path)

        def entries():
            found = client.get("/v1/recordings", params={"text": call_id}).json()["recordings"]
            return found if len(found) == len(said) else None

        recordings = {manifest_of(client, entry)["tracks"][0]["leg"]: entry for entry in until(entries)}
    finally:
        phone.socket.close()
        platform.close()
        asterisk.close()
    for leg, pcm in said.items():
        audio, rate = read_wav(client, recordings[leg])
        assert rate == 8000
        assert_alone(audio[:, 0], pcm)
        assert not audio[:, 1].any()
        assert recordings[leg]["end_reason"] == "hangup"
