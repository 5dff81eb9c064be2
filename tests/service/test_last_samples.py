"""What had come of a participant when it ended is in the recording, to the last sample, in whatever way it ended."""

import socket
import struct
import time

import numpy as np
import pytest

from audiosocket_peer import AsteriskPeer
from callreel.kernels import g711
from callreel.service.running import Service
from live_media import delivered, noise, read_wav, until
from media_stream_peer import BinaryPeer, PlatformPeer
from service_host import listening, settings_in

FRAME_S = 0.02
FRAMES = 24


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with listening(Service(settings_in(tmp_path_factory.mktemp("service"), audiosocket_port=0))) as one:
        yield one


@pytest.fixture
def client(running):
    return running.client()


class Asterisk:
    """16-bit audio over AudioSocket."""

    media, options = "audiosocket", {}

    def __init__(self, running, media, rate):
        self._peer = AsteriskPeer(media["address"], media["uuid"], kind={8000: 0x10, 16_000: 0x12}[rate])
        self.socket, self.close = self._peer.socket, self._peer.close

    def send(self, pcm):
        self._peer.send(self._peer.kind, pcm)

    def stop(self):
        self._peer.send(0x00)


class Platform:
    """µ-law in JSON."""

    media, options = "websocket", {}

    def __init__(self, running, media, rate):
        self._peer = PlatformPeer(f"ws://127.0.0.1:{running.port}{media['path']}")
        self._peer.start()
        self.socket, self.close = self._peer.socket.socket, self._peer.close
        self.stop = self._peer.stop

    def send(self, pcm):
        self._peer.media("inbound", g711.ulaw_encode(pcm))


class Binary:
    """16-bit audio in binary messages."""

    media, options = "websocket", {"format": "binary"}

    def __init__(self, running, media, rate):
        self._peer = BinaryPeer(f"ws://127.0.0.1:{running.port}{media['path']}")
        self.socket, self.close = self._peer.socket.socket, self._peer.close
        self.send = self._peer.socket.send


def exactly(number):
    return number * FRAME_S


def early(number):
    """Its jitter is up to 15 ms, and the last come early."""
    return number * FRAME_S - (0, 0.007, 0.015, 0.003)[number % 4] - 0.005 * (number >= FRAMES - 4)


def late(number):
    """The last 200 ms come at once."""
    return min(number, FRAMES - 10) * FRAME_S + 0.2 * (number >= FRAMES - 10)


def at_once(number):
    return 0.0


PACES = [exactly, early, late, at_once]
PEERS = [Asterisk, Platform, Binary]
ENDS = ["stop", "close", "break off", "reset", "hang_up", "delete"]


def recorded(running, client, kind, pace, end, *, rate=8000, holds_up_s=0.0, frames=FRAMES, seed=0):
    """What was said, and the recording's incoming track."""
    options = kind.options | ({"sample_rate": rate} if kind is Binary else {})
    leg = {"media": kind.media, "options": options}
    answer = client.post("/v1/calls", json={"legs": [leg], "record": {}})
    assert answer.status_code == 201, answer.text
    call = answer.json()
    path = f"/v1/calls/{call['call_id']}"
    said = noise(frames * FRAME_S, rate=rate, seed=seed)
    if kind is Platform:
        said = g711.ulaw_decode(g711.ulaw_encode(said))
    peer = kind(running, call["legs"][0]["media"], rate)
    try:
        media = running.service.host.call(call["call_id"]).media["LEG-A"]
        until(lambda: media.statistics["connected"])
        begin = time.monotonic() + 0.03
        size = 2 * round(rate * FRAME_S)
        for number in range(frames):
            if number == frames - 5 and holds_up_s:
                media._link._loop.call_soon_threadsafe(time.sleep, holds_up_s)
            time.sleep(max(0.0, begin + pace(number) - time.monotonic()))
            peer.send(said[number * size : (number + 1) * size])
        if end in ("hang_up", "delete"):  # another connection, which may be faster
            until(lambda: media.counts["received"] == frames)
        match end:
            case "stop":
                peer.stop()
            case "close":
                peer.close()
            case "break off":
                peer.socket.shutdown(socket.SHUT_RDWR)
            case "reset":
                peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.close()
            case "hang_up":
                answer = client.post(f"{path}/actions", json={"action": "hang_up", "leg": "LEG-A"})
                assert answer.status_code == 200, answer.text
            case "delete":
                assert client.delete(path).status_code == 204
        if end == "hang_up":
            assert client.delete(path).status_code == 204
        audio, _ = read_wav(client, delivered(client, call["call_id"]))
    finally:
        peer.close()
    return np.frombuffer(said, "<i2"), audio[:, 0]


def assert_whole(said, heard):
    """All of it in its order: no sample of it is zero, and a talker that was late itself has paused."""
    np.testing.assert_array_equal(heard[heard != 0], said)


def assert_as_long(said, heard):
    """The same audio at another rate: its last sample stands where it should."""
    sounding = np.flatnonzero(heard)
    assert abs(sounding[-1] + 1 - sounding[0] - len(said) // 2) < 40


@pytest.mark.parametrize(
    ("pace", "end"), [*((exactly, end) for end in ENDS), *((pace, "close") for pace in PACES[1:])]
)
@pytest.mark.parametrize("kind", PEERS)
def test_what_was_sent_before_the_end_is_recorded_to_the_last_sample(running, client, kind, pace, end):
    if kind is Binary and end == "stop":
        end = "close"
    assert_whole(*recorded(running, client, kind, pace, end))


@pytest.mark.parametrize("end", ["stop", "close", "break off"])
@pytest.mark.parametrize("kind", PEERS)
def test_so_it_is_when_we_were_held_up_meanwhile(running, client, kind, end):
    if kind is Binary and end == "stop":
        end = "close"
    assert_whole(*recorded(running, client, kind, exactly, end, holds_up_s=0.2))


@pytest.mark.parametrize("end", ["close", "hang_up", "delete"])
@pytest.mark.parametrize("kind", [Asterisk, Binary])
def test_the_last_of_audio_of_another_rate_is_recorded_too(running, client, kind, end):
    assert_as_long(*recorded(running, client, kind, at_once, end, rate=16_000))
