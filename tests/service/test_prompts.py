"""Prompts: from where they may come, how much, how long, what they are decoded to, and that they are kept."""

import ipaddress
import time
from dataclasses import replace

import numpy as np
import pytest

from callreel.addresses import Policy
from callreel.errors import DeliveryDeniedError, DeliveryError, MediaError
from callreel.kernels import g711, pcm
from callreel.service import prompts
from callreel.service.links import Piece
from callreel.service.prompts import Prompts, decode
from http_server import authority, plain, serving
from live_media import noise, served_prompts, wav_bytes
from project import ROOT

DATA = ROOT / "tests" / "data"


@pytest.fixture
def server():
    with served_prompts() as one:
        yield one


# ---- what is decoded ----


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_a_wav_of_any_rate_is_its_samples(rate):
    said = noise(0.1, rate=rate)
    assert decode(wav_bytes(said, rate)) == (said, rate)


@pytest.mark.parametrize(("subtype", "law"), [("ULAW", g711.ulaw_decode), ("ALAW", g711.alaw_decode)])
def test_a_wav_in_g711_is_what_its_codes_say(subtype, law):
    said = law(bytes(range(256)))
    audio, rate = decode(wav_bytes(said, 8000, subtype=subtype))
    assert (audio, rate) == (said, 8000)


def test_two_channels_become_their_mean():
    left, right = noise(0.1), noise(0.1, seed=1)
    audio, _ = decode(wav_bytes(pcm.interleave(left, right), 8000, channels=2))
    wanted = (np.frombuffer(left, "<i2").astype(int) + np.frombuffer(right, "<i2")) / 2
    assert np.abs(np.frombuffer(audio, "<i2") - wanted).max() <= 1


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("tinytag-mpeg1_44_1khz_cbr.mp3", 44_100),
        ("tinytag-mpeg2_16khz_vbr.mp3", 16_000),
        ("tinytag-mpeg25_8khz_vbr.mp3", 8000),
    ],
)
def test_an_mp3_is_decoded(name, rate):
    audio, found = decode((DATA / "mp3" / name).read_bytes())
    assert found == rate
    assert len(audio) > rate / 10


def test_an_mp3_sounds_like_what_it_was_made_of():
    lameenc = pytest.importorskip("lameenc")
    moments = np.arange(16_000) / 16_000
    said = (8000 * np.sin(2 * np.pi * 440 * moments)).astype("<i2")
    encoder = lameenc.Encoder()
    encoder.set_channels(1)
    encoder.set_in_sample_rate(16_000)
    encoder.set_bit_rate(64)
    encoder.silence()
    data = bytes(encoder.encode(said.tobytes())) + bytes(encoder.flush())
    audio, rate = decode(data)
    found = np.frombuffer(audio, "<i2")[4000:12_000].astype(float)
    spectrum = np.abs(np.fft.rfft(found * np.hanning(len(found))))
    assert rate == 16_000
    assert np.argmax(spectrum) * rate / len(found) == pytest.approx(440, abs=2)
    assert np.abs(found).max() == pytest.approx(8000, rel=0.05)


@pytest.mark.parametrize(
    "path", sorted((DATA / "wav").glob("*")) + sorted((DATA / "mp3").glob("*")), ids=lambda p: p.name
)
def test_any_file_is_audio_that_can_be_played_or_a_media_error(path):
    try:
        audio, rate = decode(path.read_bytes())
        piece = Piece(audio, rate, lambda reason: None)
        frames = 0
        while (frame := piece.frame(8000)) is not None:
            assert len(frame) == 320
            frames += 1
    except MediaError:
        return
    assert frames == pytest.approx(len(audio) / 2 / rate * 50, abs=1.01)


@pytest.mark.parametrize("data", [b"", b"RIFF", b"<html>no prompt</html>", bytes(10_000)])
def test_what_is_no_audio_is_a_media_error(data):
    with pytest.raises(MediaError):
        decode(data)


def test_a_prompt_is_no_longer_than_is_sensible(monkeypatch):
    with pytest.raises(MediaError, match="600 s"):
        decode(wav_bytes(bytes(2 * 8000 * 601), 8000, subtype="ULAW"))
    monkeypatch.setattr(prompts, "DECODED_BYTES", 1 << 20)
    with pytest.raises(MediaError, match="1 MiB"):
        decode(wav_bytes(bytes(2 * 96_000 * 10), 96_000, subtype="ULAW"))
    with pytest.raises(MediaError, match="channels"):
        decode(wav_bytes(bytes(2 * 3 * 800), 8000, channels=3))


# ---- what is fetched ----


def test_a_prompt_is_fetched_once_for_a_while(server):
    said = noise(0.2)
    uri = server.serve("hello.wav", wav_bytes(said, 16_000))
    now = [0.0]
    policy = server.prompts._policy
    kept = Prompts(policy, clock=lambda: now[0])
    assert [kept(uri) for _ in range(3)] == [(said, 16_000)] * 3
    assert server.requests == ["/hello.wav"]
    now[0] = prompts.KEPT_S + 1
    server.serve("hello.wav", wav_bytes(said[::-1], 16_000))
    assert kept(uri)[0] == said[::-1]
    assert len(server.requests) == 2


def test_what_is_kept_is_bounded_and_the_oldest_goes_first(server, monkeypatch):
    monkeypatch.setattr(prompts, "KEPT_BYTES", 3 * 3200)
    uris = [server.serve(f"{number}.wav", wav_bytes(noise(0.2, seed=number), 8000)) for number in range(4)]
    for uri in uris:
        server.prompts(uri)
    server.prompts(uris[3])
    assert len(server.requests) == 4
    server.prompts(uris[0])
    assert len(server.requests) == 5


def test_a_failure_is_not_kept(server):
    with pytest.raises(DeliveryError):
        server.prompts(f"http://127.0.0.1:{server.port}/later.wav")
    uri = server.serve("later.wav", wav_bytes(noise(0.1), 8000))
    assert server.prompts(uri)[1] == 8000


def test_a_file_that_is_too_large_is_refused():
    with served_prompts(max_bytes=1000) as server, pytest.raises(DeliveryError, match="more than 1000 bytes"):
        server.prompts(server.serve("large.wav", wav_bytes(noise(0.2), 8000)))


def test_a_server_that_is_too_slow_is_given_up(monkeypatch):
    with served_prompts(total_s=0.5) as server:
        server.delay_s = 3.0
        uri = server.serve("slow.wav", wav_bytes(noise(0.1), 8000))
        began = time.monotonic()
        with pytest.raises(DeliveryError):
            server.prompts(uri)
        assert time.monotonic() - began < 2


def test_over_https_a_prompt_is_fetched_from_whom_is_trusted_and_nothing_is_asked_of_others(tmp_path):
    said, ca = noise(0.2), authority(tmp_path)
    with serving(plain(body=wav_bytes(said, 8000)), tls=ca.certify("127.0.0.1")) as server:
        policy = Policy(ports={server.port}, allowed=(ipaddress.ip_network("127.0.0.1/32"),))
        uri = f"https://127.0.0.1:{server.port}/hello.wav"
        with pytest.raises(DeliveryDeniedError, match="not to be trusted"):
            Prompts(policy)(uri)
        assert server.requests == []
        assert Prompts(replace(policy, ca_file=ca.file))(uri) == (said, 8000)
        assert [one.target for one in server.requests] == ["/hello.wav"]


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1/prompt.wav",
        "http://[::1]/prompt.wav",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/prompt.wav",
        "https://user:password@example.com/prompt.wav",
        "file:///etc/passwd",
        "http://127.0.0.1:22/",
    ],
)
def test_by_default_only_what_is_public_is_fetched(uri):
    with pytest.raises(DeliveryDeniedError):
        Prompts()(uri)
