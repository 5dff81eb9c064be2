"""What tests of live media need: audio that is recognised, recordings as they were delivered, a server of prompts."""

import contextlib
import io
import ipaddress
import time

import numpy as np
import soundfile

from callreel.addresses import Policy
from callreel.service.prompts import Prompts
from http_server import plain, serving


def noise(seconds, *, rate=8000, seed=0):
    """16-bit PCM that resembles nothing else: no two stretches of it are alike, no sample is zero."""
    chance = np.random.default_rng(seed)
    samples = chance.integers(100, 8000, round(seconds * rate)) * chance.choice(
        (-1, 1), round(seconds * rate)
    )
    return samples.astype("<i2").tobytes()


def starts_at(audio, pcm):
    """Where in a channel the first samples of `pcm` stand."""
    first = np.frombuffer(pcm, "<i2")[:32]
    places = [
        at
        for at in np.flatnonzero(audio[: len(audio) - 31] == first[0])
        if (audio[at : at + 32] == first).all()
    ]
    assert len(places) == 1, f"{len(places)} times"
    return int(places[0])


def until(read, timeout_s=15.0):
    end = time.monotonic() + timeout_s
    while not (found := read()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def delivered(client, call_id):
    """The entry of a call's one recording, once it is there."""
    return until(lambda: client.get("/v1/recordings", params={"text": call_id}).json()["recordings"])[0]


def live(client, call_id):
    return call_id in [call["call_id"] for call in client.get("/v1/calls").json()["calls"]]


def read_wav(client, entry):
    answer = client.get(f"/v1/recordings/{entry['take_id']}/audio")
    assert answer.status_code == 200
    return soundfile.read(io.BytesIO(answer.content), dtype="int16", always_2d=True)


def manifest_of(client, entry):
    return client.get(f"/v1/recordings/{entry['take_id']}/manifest").json()


def wav_bytes(pcm, rate, *, channels=1, subtype="PCM_16"):
    file = io.BytesIO()
    samples = np.frombuffer(pcm, "<i2").reshape(-1, channels)
    soundfile.write(file, samples, rate, format="WAV", subtype=subtype)
    return file.getvalue()


class PromptServer:
    """Serves what it was given, and `prompts` may fetch it."""

    def __init__(self):
        self.files = {}
        self.requests = []
        self.port = 0
        self.prompts = None
        self.delay_s = 0.0

    def serve(self, name, data):
        self.files[name] = data
        return f"http://127.0.0.1:{self.port}/{name}"


@contextlib.contextmanager
def served_prompts(**policy):
    one = PromptServer()

    def answer(request):
        one.requests.append(request.target)
        time.sleep(one.delay_s)
        data = one.files.get(request.target.lstrip("/"))
        return plain(404) if data is None else plain(body=data)

    with serving(answer) as server:
        one.port = server.port
        given = {"total_s": 5.0, "max_bytes": 1 << 22, **policy}
        allowed = (ipaddress.ip_network("127.0.0.1/32"),)
        one.prompts = Prompts(Policy(schemes=("http",), ports={server.port}, allowed=allowed, **given))
        yield one
