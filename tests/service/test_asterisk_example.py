"""examples/asterisk.py: what it asks of Asterisk and of the service, and that what Asterisk then sends is recorded."""

import os
import socket
import struct
import subprocess
import sys
import time
from base64 import b64encode

import numpy as np
import pytest

from ari_peer import CHANNEL, AriPeer
from callreel.kernels import g711
from callreel.service.running import Service
from live_media import delivered, live, noise, read_wav, starts_at, until
from project import ROOT
from service_host import listening, settings_in

LOGIN = "callreel:a-long-random-password"
NAME = CHANNEL["id"]


@pytest.fixture
def client(tmp_path):
    with listening(Service(settings_in(tmp_path, rtp_ports=(30700, 30799)))) as served:
        yield served.client()


@pytest.fixture
def asterisk(tmp_path, client):
    peer = AriPeer(f"Basic {b64encode(LOGIN.encode()).decode()}")
    (tmp_path / "ari.login").write_text(LOGIN + "\n")
    process = subprocess.Popen(
        [sys.executable, ROOT / "examples" / "asterisk.py"],
        env={
            **os.environ,
            "ARI": peer.address,
            "ARI_LOGIN_FILE": str(tmp_path / "ari.login"),
            "CALLREEL_URL": str(client.base_url).rstrip("/"),
            "CALLREEL_TOKEN_FILE": str(tmp_path / "acme.token"),
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert peer.is_followed.wait(20)
        yield peer
    finally:
        process.terminate()
        said, _ = process.communicate()
        peer.close()
    assert said == ""


def send(codes, addresses):
    """As two channels of externalMedia do."""
    start = time.monotonic()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second,
    ):
        for n in range(len(codes[0]) // 160):
            time.sleep(max(0.0, start + 0.02 * n - time.monotonic()))
            for sending, said, where in zip((first, second), codes, addresses, strict=True):
                host, _, port = where.rpartition(":")
                header = struct.pack("!BBHII", 0x80, 0, n, 160 * n, 7)
                sending.sendto(header + said[160 * n : 160 * n + 160], (host, int(port)))


def test_a_channel_that_the_dialplan_names_is_listened_to_both_ways_and_recorded(asterisk, client):
    asterisk.tell("ChannelVarset", variable="SOMETHING", value="else")
    asterisk.tell("ChannelVarset", variable="CALLREEL", value="yes")
    until(lambda: len(asterisk.asked) == 8)
    media = client.get(f"/v1/calls/{NAME}").json()["legs"][0]["media"]
    addresses = [f"{media['host']}:{port}" for port in (media["port"], media["outgoing"]["port"])]
    expected = []
    for way, address in zip(("in", "out"), addresses, strict=True):
        ids = {"app": "callreel", "channelId": f"rtp-{way}-{NAME}"}
        expected += [
            ("POST", f"channels/{NAME}/snoop", {"spy": way, "app": "callreel", "snoopId": f"{way}-{NAME}"}),
            ("POST", "channels/externalMedia", {**ids, "external_host": address, "format": "ulaw"}),
            ("POST", "bridges", {"type": "mixing", "bridgeId": f"{way}-{NAME}"}),
            ("POST", f"bridges/{way}-{NAME}/addChannel", {"channel": f"{way}-{NAME},rtp-{way}-{NAME}"}),
        ]
    assert asterisk.asked == expected
    said = [g711.ulaw_encode(noise(1.0, seed=seed)) for seed in (1, 2)]
    send(said, addresses)
    asterisk.tell("ChannelDestroyed", cause=16)
    until(lambda: len(asterisk.asked) == 12)
    assert not live(client, NAME)
    assert [(method, path) for method, path, _ in asterisk.asked[8:]] == [
        ("DELETE", f"channels/rtp-in-{NAME}"),
        ("DELETE", f"bridges/in-{NAME}"),
        ("DELETE", f"channels/rtp-out-{NAME}"),
        ("DELETE", f"bridges/out-{NAME}"),
    ]
    audio, _ = read_wav(client, delivered(client, NAME))
    for channel, codes in enumerate(said):
        pcm = g711.ulaw_decode(codes)
        at = starts_at(audio[:, channel], pcm)
        assert np.array_equal(audio[at : at + len(codes), channel], np.frombuffer(pcm, "<i2"))
