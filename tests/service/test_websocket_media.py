"""Media streams over WebSockets, as platforms speak them, and binary audio; what is refused, and what a peer can do."""

import asyncio
import contextlib
import json
import logging
import resource
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from callreel.kernels import g711, tone
from callreel.recorder import Recorder, Settings
from callreel.service import media_streams, websocket_legs, websocket_media
from callreel.service.encodings import Conversion, Encoding
from callreel.service.host import LegWish
from callreel.service.links import AHEAD_S
from callreel.service.running import Service
from live_media import delivered, live, manifest_of, noise, read_wav, starts_at, until
from media_stream_peer import BinaryPeer, ExotelPeer, PlatformPeer, TelnyxPeer
from service_host import listening, settings_in

FILES = Path("/proc/self/fd")


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with listening(Service(settings_in(tmp_path_factory.mktemp("service")))) as one:
        yield one


@pytest.fixture
def client(running):
    return running.client()


def begun(client, record=None, **options):
    body = {"legs": [{"media": "websocket", "options": options}]}
    answer = client.post("/v1/calls", json=body if record is None else {**body, "record": record})
    assert answer.status_code == 201, answer.text
    return answer.json()


def media_of(call):
    return call["legs"][0]["media"]


def media_state(client, call):
    return client.get(f"/v1/calls/{call['call_id']}").json()["media"]["LEG-A"]


def url_of(running, call, path="path"):
    return f"ws://127.0.0.1:{running.port}{media_of(call)[path]}"


@contextlib.contextmanager
def platform(running, call, path="path", kind=PlatformPeer, **options):
    peer = kind(url_of(running, call, path), **options)
    try:
        yield peer
    finally:
        peer.close()


@contextlib.contextmanager
def binary(running, call):
    peer = BinaryPeer(url_of(running, call))
    try:
        yield peer
    finally:
        peer.close()


def codes(seconds, seed=0):
    """µ-law codes whose audio resembles nothing else."""
    return np.random.default_rng(seed).integers(0, 96, round(seconds * 8000), dtype=np.uint8).tobytes()


def assert_heard(channel, pcm):
    begin = starts_at(channel, pcm)
    heard = channel[begin : begin + len(pcm) // 2]
    np.testing.assert_array_equal(heard, np.frombuffer(pcm, "<i2")[: len(heard)])
    assert len(heard) == len(pcm) // 2
    return begin


def play(running, call, pcm, rate=8000):
    told, reasons = threading.Event(), []

    def done(reason):
        reasons.append(reason)
        told.set()

    running.service.host.call(call["call_id"]).media["LEG-A"].play(pcm, rate, done)
    return told, reasons


# ---- what is recorded ----


def test_what_a_platform_streams_is_recorded_by_g711_code_and_stop_ends_the_call(running, client):
    call = begun(client, record={})
    said = codes(1.2)
    with platform(running, call) as peer:
        peer.start()
        peer.say(inbound=said)
        peer.stop()
        assert peer.ended.wait(5)
    entry = delivered(client, call["call_id"])
    audio, rate = read_wav(client, entry)
    assert rate == 8000
    assert_heard(audio[:, 0], g711.ulaw_decode(said))
    assert not audio[:, 1].any()
    assert entry["end_reason"] == "hangup"
    assert not live(client, call["call_id"])


def test_both_tracks_of_a_platform_are_both_tracks_of_the_leg_side_by_side(running, client):
    call = begun(client, record={})
    said, answered = codes(1.0), codes(1.0, seed=1)
    with platform(running, call, tracks=("inbound", "outbound")) as peer:
        peer.start()
        peer.say(inbound=said, outbound=answered)
        peer.stop()
        assert peer.ended.wait(5)
    audio, _ = read_wav(client, delivered(client, call["call_id"]))
    begin = assert_heard(audio[:, 0], g711.ulaw_decode(said))
    other = assert_heard(audio[:, 1], g711.ulaw_decode(answered))
    assert abs(begin - other) < 80  # 10 ms: they came one behind the other


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ({"encoding": "PCMA", "sample_rate": 8000, "channels": 1}, g711.alaw_encode),
        ({"encoding": "audio/x-l16", "sampleRate": 8000}, bytes),
    ],
)
def test_the_encoding_that_a_stream_begins_with_is_understood(running, client, encoding, written):
    call = begun(client, record={"layout": "incoming"})
    said = g711.alaw_decode(codes(0.8, seed=2))
    with platform(running, call, encoding=encoding) as peer:
        peer.start()
        data = written(said)
        frame = len(data) // 40
        start = time.monotonic()
        for number in range(40):
            time.sleep(max(0.0, start + (number + 1) * 0.02 - time.monotonic()))
            chunk = data[number * frame : (number + 1) * frame]
            peer.send("media", media={"track": "inbound", "payload": _base64(chunk)})
        peer.stop()
        assert peer.ended.wait(5)
    audio, _ = read_wav(client, delivered(client, call["call_id"]))
    assert_heard(audio[:, 0], said)


def _base64(data):
    import base64

    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("options", "written"),
    [
        ({}, bytes),
        ({"encoding": "pcm16", "sample_rate": 8000}, bytes),
        ({"encoding": "ulaw"}, g711.ulaw_encode),
        ({"encoding": "alaw"}, g711.alaw_encode),
    ],
)
def test_binary_audio_is_recorded_sample_by_sample(running, client, options, written):
    call = begun(client, record={"layout": "incoming"}, format="binary", **options)
    said = g711.ulaw_decode(codes(0.8, seed=3)) if written is g711.ulaw_encode else noise(0.8)
    said = g711.alaw_decode(g711.alaw_encode(said)) if written is g711.alaw_encode else said
    data = written(said)
    with binary(running, call) as peer:
        peer.say(data, len(data) // 40)
    audio, _ = read_wav(client, delivered(client, call["call_id"]))
    assert_heard(audio[:, 0], said)


@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
def test_binary_pcm_of_other_rates_is_recorded_in_time(running, client, rate):
    call = begun(client, record={"layout": "incoming"}, format="binary", sample_rate=rate)
    with binary(running, call) as peer:
        peer.say(tone.sine(440.0, 1.0, -10.0, rate), rate // 50 * 2)
    audio, _ = read_wav(client, delivered(client, call["call_id"]))
    loud = np.flatnonzero(np.abs(audio[:, 0].astype(int)) > 1000)
    assert loud[-1] - loud[0] == pytest.approx(8000, abs=200)
    middle = audio[loud[0] + 500 : loud[0] + 6500, 0].astype(float)
    found = np.sin(2 * np.pi * 440 * np.arange(6000) / 8000), np.cos(2 * np.pi * 440 * np.arange(6000) / 8000)
    amplitude = np.hypot(*(2 * (middle * one).mean() for one in found))
    left = middle - sum(2 * (middle * one).mean() * one for one in found)
    assert 20 * np.log10(np.sqrt((left**2).mean()) / amplitude) < -50


@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
def test_binary_pcm_of_other_rates_is_recorded_sample_by_sample(running, client, rate):
    call = begun(client, record={"layout": "incoming"}, format="binary", sample_rate=rate)
    said = noise(0.6, rate=rate, seed=rate)
    conversion = Conversion(rate, 8000)
    expected = conversion.feed(said) + conversion.flush()
    with binary(running, call) as peer:
        peer.say(said, rate // 50 * 2)
    audio, _ = read_wav(client, delivered(client, call["call_id"]))
    assert_heard(audio[:, 0], expected)


def test_binary_stereo_is_both_tracks(running, client):
    call = begun(client, record={}, format="binary", channels=2)
    said, answered = noise(0.8), noise(0.8, seed=1)
    both = np.stack([np.frombuffer(said, "<i2"), np.frombuffer(answered, "<i2")], axis=1).tobytes()
    with binary(running, call) as peer:
        peer.say(both, 640)
    audio, _ = read_wav(client, delivered(client, call["call_id"]))
    assert assert_heard(audio[:, 0], said) == assert_heard(audio[:, 1], answered)


def test_a_stream_that_breaks_off_is_a_hang_up(running, client):
    call = begun(client, record={})
    with platform(running, call) as peer:
        peer.start()
        peer.say(inbound=codes(0.4))
        peer.socket.socket.shutdown(socket.SHUT_RDWR)
        assert delivered(client, call["call_id"])["end_reason"] == "hangup"


# ---- keys ----


def test_keys_of_a_stream_are_in_the_manifest_once_although_they_sound(running, client):
    call = begun(client, record={})
    silence = g711.ulaw_encode(bytes(16_000))
    with platform(running, call) as peer:
        peer.start()
        peer.say(inbound=silence[:4000])
        for symbol in "9*":
            peer.say(inbound=g711.ulaw_encode(tone.dtmf(symbol, 0.12, dbm0=-10)))
            peer.press(symbol)
            peer.say(inbound=silence[:2400])
        peer.press("Q")
        peer.send("dtmf", dtmf={"digit": 5})
        peer.stop()
        assert peer.ended.wait(5)
    manifest = manifest_of(client, delivered(client, call["call_id"]))
    assert [(one["symbol"], one["track"]) for one in manifest["digits"]] == [
        ("9", "incoming"),
        ("*", "incoming"),
    ]
    assert manifest["digits"][0]["at"] == pytest.approx(0.5, abs=0.15)


def test_keys_in_binary_audio_are_heard_and_those_in_text_are_taken(running, client):
    call = begun(client, record={}, format="binary")
    with binary(running, call) as peer:
        peer.say(bytes(3200) + tone.dtmf("7", 0.12, dbm0=-10) + bytes(8000), 320)
        peer.socket.send(json.dumps({"event": "websocket:dtmf", "digit": "8", "duration": 260}))
        peer.say(bytes(1600), 320)
    manifest = manifest_of(client, delivered(client, call["call_id"]))
    assert [one["symbol"] for one in manifest["digits"]] == ["7", "8"]


# ---- what is played ----


def test_what_is_played_goes_out_as_media_in_time_and_ends_with_a_mark_that_comes_back(running, client):
    call = begun(client, record={})
    prompt = g711.ulaw_decode(codes(1.0, seed=5))
    with platform(running, call) as peer:
        peer.start()
        peer.say(inbound=codes(0.2))
        told, reasons = play(running, call, prompt)
        peer.say(inbound=codes(1.4, seed=6))
        assert told.wait(2)
        peer.stop()
        assert peer.ended.wait(5)
    assert reasons == [None]
    assert peer.played == g711.ulaw_encode(prompt)
    media = peer.of("media")
    assert {message["streamSid"] for _, message in media} == {peer.stream_sid}
    times = np.array([at for at, _ in media])
    assert len(times) == 50
    assert np.abs(times - times[0] - 0.02 * np.arange(50)).max() < 0.08
    ((marked, mark),) = peer.of("mark")
    assert marked >= times[-1]
    assert mark["streamSid"] == peer.stream_sid
    audio, _ = read_wav(client, delivered(client, call["call_id"]))
    assert_heard(audio[:, 1], prompt)


def test_a_platform_that_does_not_send_marks_back_is_waited_for_no_longer_than_a_second(running, client):
    call = begun(client)
    with platform(running, call, echo=False) as peer:
        peer.start()
        told, reasons = play(running, call, bytes(1600))
        until(lambda: peer.of("mark"))
        began = time.monotonic()
        assert told.wait(3)
        assert time.monotonic() - began == pytest.approx(websocket_legs.MARK_S, abs=0.3)
        assert reasons == [None]


def test_what_is_stopped_is_cleared_at_the_platform(running, client):
    call = begun(client)
    with platform(running, call) as peer:
        peer.start()
        told, _ = play(running, call, noise(2.0))
        until(lambda: len(peer.of("media")) > 5)
        running.service.host.call(call["call_id"]).media["LEG-A"].stop()
        until(lambda: peer.of("clear"))
        heard = len(peer.of("media"))
        assert not told.wait(0.3)
        assert len(peer.of("media")) <= heard + 1


def test_what_is_played_is_not_recorded_twice_where_the_platform_sends_what_it_plays(running, client):
    call = begun(client, record={})
    with platform(running, call, tracks=("inbound", "outbound")) as peer:
        peer.start()
        silence = g711.ulaw_encode(bytes(3200))
        peer.say(inbound=silence, outbound=silence)
        told, _ = play(running, call, noise(0.4))
        peer.say(inbound=silence * 4, outbound=silence * 4)
        assert told.wait(3)
        peer.stop()
        assert peer.ended.wait(5)
    assert len(peer.played) == 3200
    audio, _ = read_wav(client, delivered(client, call["call_id"]))
    assert not audio[:, 1].any()


@pytest.mark.parametrize(
    ("encoding", "written", "read"),
    [
        ({"encoding": "PCMA", "sample_rate": 8000, "channels": 1}, g711.alaw_encode, g711.alaw_decode),
        ({"encoding": "audio/x-l16", "sampleRate": 8000}, bytes, bytes),
    ],
)
def test_what_is_played_is_in_the_encoding_that_the_stream_began_with(
    running, client, encoding, written, read
):
    call = begun(client, record={})
    prompt = noise(0.4)
    with platform(running, call, encoding=encoding) as peer:
        peer.start()
        until(lambda: media_state(client, call)["connected"])
        told, reasons = play(running, call, prompt)
        assert told.wait(5)
        peer.stop()
        assert peer.ended.wait(5)
    assert (reasons, peer.played) == ([None], written(prompt))
    audio, _ = read_wav(client, delivered(client, call["call_id"]))
    assert_heard(audio[:, 1], read(written(prompt)))


@pytest.mark.parametrize(
    ("options", "written"),
    [
        ({"sample_rate": 16_000}, bytes),
        ({"encoding": "ulaw"}, g711.ulaw_encode),
        ({"encoding": "alaw"}, g711.alaw_encode),
    ],
)
def test_what_is_played_on_a_binary_leg_is_binary_as_its_options_say(running, client, options, written):
    call = begun(client, format="binary", **options)
    with binary(running, call) as peer:
        rate = options.get("sample_rate", 8000)
        prompt = noise(0.4, rate=rate)
        told, reasons = play(running, call, prompt, rate)
        assert told.wait(3)
        until(lambda: len(peer.played) >= len(written(prompt)))
    assert (reasons, peer.played) == ([None], written(prompt))


def test_a_hang_up_over_the_api_closes_the_socket(running, client):
    call = begun(client)
    with platform(running, call) as peer:
        peer.start()
        assert client.delete(f"/v1/calls/{call['call_id']}").status_code == 204
        assert peer.ended.wait(5)
        assert peer.close_code == 1000


# ---- platforms that spell it otherwise ----


@pytest.mark.parametrize("known_by", ["call_sid", "stream_sid"])
@pytest.mark.parametrize(
    ("kind", "written", "read"),
    [(TelnyxPeer, g711.ulaw_encode, g711.ulaw_decode), (ExotelPeer, bytes, bytes)],
    ids=["Telnyx", "Exotel"],
)
def test_a_platforms_own_spelling_is_understood_and_spoken(running, client, kind, written, read, known_by):
    sid = f"{known_by}-{kind.__name__}"
    call = begun(client, record={}, **{known_by: sid})
    said, prompt = noise(0.6), noise(0.4, seed=1)
    with platform(running, call, "stream_path", kind) as peer:
        setattr(peer, known_by, sid)
        peer.start()
        peer.say(inbound=written(said))
        peer.press("5")
        told, reasons = play(running, call, prompt)
        assert told.wait(5)
        assert (reasons, peer.played) == ([None], written(prompt))
        assert peer.of("mark")
        play(running, call, noise(2.0, seed=2))
        until(lambda: len(peer.played) > len(written(prompt)))
        running.service.host.call(call["call_id"]).media["LEG-A"].stop()
        until(lambda: peer.of("clear"))
        peer.stop()
        assert peer.ended.wait(5)
    for _, message in peer.received:
        assert set(message) - {message["event"]} == {"event", kind.SID}
        assert message[kind.SID] == peer.stream_sid
    entry = delivered(client, call["call_id"])
    audio, _ = read_wav(client, entry)
    assert_heard(audio[:, 0], read(written(said)))
    assert_heard(audio[:, 1], read(written(prompt)))
    assert [one["symbol"] for one in manifest_of(client, entry)["digits"]] == ["5"]
    assert entry["end_reason"] == "hangup"


@pytest.mark.parametrize("encoding", ["audio/x-raw", "raw/slin", "base64"])
@pytest.mark.parametrize("rate", ["8000", "16000", "24000"])
def test_every_name_and_rate_that_exotel_gives_its_pcm_is_known(encoding, rate):
    body = {"stream_sid": "s", "call_sid": "c", "media_format": {"encoding": encoding, "sample_rate": rate}}
    start = media_streams.read(json.dumps({"event": "start", "stream_sid": "s", "start": body}))
    assert (start.stream_sid, start.call_sid, start.sid_name) == ("s", "c", "stream_sid")
    assert start.encoding == Encoding("pcm16", int(rate))


# ---- whose stream it is ----


def test_a_platform_that_connects_to_its_configured_address_says_which_leg_it_is(running, client):
    call = begun(client, record={"layout": "incoming"}, call_sid="CA" + "7" * 32)
    said = codes(0.6)
    with platform(running, call, "stream_path", call_sid="CA" + "7" * 32) as peer:
        peer.start()
        peer.say(inbound=said)
        peer.stop()
        assert peer.ended.wait(5)
    audio, _ = read_wav(client, delivered(client, call["call_id"]))
    assert_heard(audio[:, 0], g711.ulaw_decode(said))
    assert running.service.websockets.strangers == 0


def test_a_leg_may_be_known_by_its_stream(running, client):
    call = begun(client, stream_sid="MZ" + "2" * 32)
    with platform(running, call, "stream_path") as peer:
        peer.start()
        until(lambda: media_state(client, call)["connected"])


def test_the_configured_address_is_each_tenants_own(running, client):
    begun(client, call_sid="CA-of-acme")
    theirs = begun(running.client("other"))
    assert media_of(theirs)["stream_path"] != media_of(begun(client))["stream_path"]
    with platform(running, theirs, "stream_path", call_sid="CA-of-acme") as peer:
        peer.start()
        assert peer.ended.wait(5)
        assert peer.close_code == 1008


def test_two_legs_cannot_wait_for_one_stream(client):
    begun(client, call_sid="CA-once")
    legs = [{"media": "websocket", "options": {"call_sid": "CA-once"}}]
    assert client.post("/v1/calls", json={"legs": legs}).status_code == 400


def status_of_refusal(url):
    with pytest.raises(InvalidStatus) as refused, connect(url, compression=None):
        pass
    return refused.value.response.status_code


def test_the_token_may_come_in_a_header(running, client):
    call = begun(client)
    path, _, token = media_of(call)["path"].rpartition("/")
    url = f"ws://127.0.0.1:{running.port}{path}"
    assert status_of_refusal(url) == 403
    with connect(url, compression=None, additional_headers={"Authorization": f"Bearer {token}"}):
        until(lambda: media_state(client, call)["connected"])


@pytest.mark.parametrize(
    "path",
    [
        "/v1/media/{call}/LEG-A/wrong",
        "/v1/media/{call}/LEG-A/",
        "/v1/media/{call}/LEG-A",
        "/v1/media/{call}/LEG-B/{token}",
        "/v1/media/no-such-call/LEG-A/{token}",
        "/v1/media-streams/{token}",
        "/v1/media-streams/" + "0" * 32,
        "/v1/events",
        "/",
    ],
)
def test_whoever_has_no_right_to_it_is_refused_before_anything_is_said(running, client, path):
    call = begun(client)
    token = media_of(call)["path"].rpartition("/")[2]
    assert (
        status_of_refusal(f"ws://127.0.0.1:{running.port}{path.format(call=call['call_id'], token=token)}")
        == 403
    )


def test_a_second_connection_for_a_leg_is_refused_and_the_first_goes_on(running, client):
    call = begun(client)
    with platform(running, call) as first:
        first.start()
        until(lambda: media_state(client, call)["connected"])
        with platform(running, call) as second:
            assert second.ended.wait(5)
            assert second.close_code == 1008
        first.say(inbound=codes(0.1))
        until(lambda: media_state(client, call).get("received") == 5)


def test_no_token_and_no_key_reaches_a_log(running, client, caplog):
    caplog.set_level(logging.DEBUG)
    call = begun(client)
    with platform(running, call) as peer:
        peer.start()
        until(lambda: media_state(client, call)["connected"])
    with platform(running, begun(client, call_sid="CA-log"), "stream_path", call_sid="CA-log") as peer:
        peer.start()
    assert (
        status_of_refusal(f"ws://127.0.0.1:{running.port}/v1/media/{call['call_id']}/LEG-A/some-secret-token")
        == 403
    )
    ours = [one.getMessage() for one in caplog.records if not one.name.startswith(("websockets", "http"))]
    assert any("WebSocket" in text for text in ours)
    secrets = media_of(call)["path"].rpartition("/")[2], media_of(call)["stream_path"].rpartition("/")[2]
    for secret in (*secrets, "some-secret-token"):
        assert not [text for text in ours if secret in text]


@pytest.mark.parametrize(
    "options",
    [
        {"format": "xml"},
        {"encoding": "opus"},
        {"sample_rate": 16_000},
        {"format": "binary", "sample_rate": 11_025},
        {"format": "binary", "encoding": "ulaw", "sample_rate": 16_000},
        {"format": "binary", "channels": 3},
        {"channels": 2},
        {"call_sid": 5},
        {"sample_rate": [8000]},
        {"token": "mine"},
    ],
)
def test_options_that_are_none_are_refused(client, options):
    answer = client.post("/v1/calls", json={"legs": [{"media": "websocket", "options": options}]})
    assert answer.status_code == 400, answer.text


# ---- hostile peers ----

HOSTILE = [
    "",
    "null",
    "[" * 60_000,
    '{"event":"media"}',
    '{"event":"media","media":[]}',
    '{"event":"media","media":{"payload":"%%%"}}',
    '{"event":"media","media":{"payload":7}}',
    '{"event":"media","media":{"track":"sideways","payload":""}}',
    '{"event":"start"}',
    '{"event":"mark"}',
    '{"event":"dtmf","dtmf":{"digit":"\\ud800"}}',
    '{"event":{}}',
    '{"n":1e999}',
]


def test_whatever_a_peer_says_costs_that_peer_alone(running, client):
    call = begun(client, record={"layout": "incoming"})
    said = codes(0.6)
    with platform(running, call) as peer:
        peer.start()
        for text in HOSTILE:
            peer.socket.send(text)
        peer.socket.send(b"\0\1\2")
        peer.send("no such event")
        peer.send("mark", mark={"name": "nobody's"})
        until(lambda: media_state(client, call).get("malformed") == len(HOSTILE) + 1)
        peer.say(inbound=said)
        peer.stop()
        assert peer.ended.wait(5)
    audio, _ = read_wav(client, delivered(client, call["call_id"]))
    assert_heard(audio[:, 0], g711.ulaw_decode(said))


def test_a_stream_of_an_unknown_encoding_is_refused_and_not_recorded_as_noise(running, client):
    call = begun(client, call_sid="CA-opus")
    opus = {"encoding": "audio/opus", "sampleRate": 48_000, "channels": 2}
    with platform(running, call, "stream_path", call_sid="CA-opus", encoding=opus) as peer:
        peer.start()
        assert peer.ended.wait(5)


def test_a_message_that_is_too_long_ends_the_connection(running, client):
    call = begun(client)
    with platform(running, call) as peer:
        peer.start()
        with contextlib.suppress(ConnectionClosed):
            peer.socket.send("x" * (websocket_media.MESSAGE_BYTES + 1))
        assert peer.ended.wait(5)
        assert peer.close_code == 1009
    until(lambda: not live(client, call["call_id"]))


@pytest.mark.parametrize("first", ["{}", "not JSON", b"\0", '{"event":"media","media":{"payload":""}}', None])
def test_a_stranger_who_does_not_begin_with_start_is_refused(running, client, monkeypatch, first):
    monkeypatch.setattr(websocket_media, "START_S", 0.5)
    with platform(running, begun(client), "stream_path") as peer:
        if first is not None:
            peer.socket.send(first)
        assert peer.ended.wait(5)
        assert peer.close_code == 1003
    until(lambda: running.service.websockets.strangers == 0)


def test_strangers_are_bounded_and_leave_nothing_behind(running, client, monkeypatch):
    monkeypatch.setattr(websocket_media, "STRANGERS_OF_ONE_ADDRESS", 3)
    call = begun(client, call_sid="CA-late")
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(platform(running, call, "stream_path"))
        assert status_of_refusal(url_of(running, call, "stream_path")) == 403
    until(lambda: running.service.websockets.strangers == 0)
    with platform(running, call, "stream_path", call_sid="CA-late") as peer:
        peer.start()
        until(lambda: media_state(client, call)["connected"])


def test_1_500_strangers_are_bounded_keep_nobody_waiting_and_are_gone_in_time(running, client):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4000
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"a process may have {hard} files open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    path = media_of(begun(client))["stream_path"]
    accepted, counts, slowest_s = [], [], 0.0
    with contextlib.ExitStack() as stack:
        began = time.monotonic()
        for host in range(2, 7):
            asked = [stack.enter_context(asking(running, path, host=f"127.0.0.{host}")) for _ in range(300)]
            statuses = {one: one.recv(4096)[9:12] for one in asked}
            assert set(statuses.values()) <= {b"101", b"403"}
            accepted += [one for one in asked if statuses[one] == b"101"]
            counts.append(sum(one == b"101" for one in statuses.values()))
            assert running.service.websockets.strangers <= websocket_media.STRANGERS_MAX
            moment = time.monotonic()
            begun(client)
            slowest_s = max(slowest_s, time.monotonic() - moment)
        took_s = time.monotonic() - began
        if took_s < websocket_media.START_S:  # else the first have made room
            assert counts == [websocket_media.STRANGERS_OF_ONE_ADDRESS] * 4 + [0]
        assert slowest_s < 5
        until(lambda: running.service.websockets.strangers == 0)
        assert {one.recv(4) for one in accepted} == {b"\x88\x02\x03\xeb"}  # closed with 1003


def test_a_peer_that_reads_nothing_blocks_nobody_and_is_dropped(running, client, monkeypatch):
    monkeypatch.setattr("callreel.service.links.STALLED_S", 0.5)
    call, other = begun(client, format="binary", sample_rate=48_000), begun(client)
    deaf = asking(running, media_of(call)["path"], receive_buffer=4096)
    assert deaf.recv(4096).startswith(b"HTTP/1.1 101 ")
    told, reasons = play(running, call, noise(120.0, rate=48_000), 48_000)
    with platform(running, other) as peer:
        peer.start()
        began = time.monotonic()
        heard, _ = play(running, other, noise(1.0))
        assert heard.wait(5)
        assert time.monotonic() - began < 1.5
        assert told.wait(120)
    assert reasons == ["the other side takes nothing of what is played"]
    until(lambda: not live(client, call["call_id"]))
    deaf.close()


def test_what_a_peer_has_not_taken_yet_is_not_sent_when_it_is_stopped(tmp_path):
    async def stop(recorder):
        call = recorder.add_call("c-1")
        call.add_leg(host_frames=True)
        media = websocket_legs.StreamMedia(call, LegWish(media="websocket"), lambda media: None, "key")
        link = websocket_legs.StreamLink(media, lambda: recorder.now, lambda: None)
        while link.send_audio(bytes(160)):
            pass
        link.hushed()
        assert json.loads(link.unsent.get_nowait())["event"] == "clear"
        assert link.unsent.empty()
        link.send_audio(bytes(160))
        link.shut()
        link.hushed()
        assert json.loads(link.unsent.get_nowait())["event"] == "clear"
        assert link.unsent.get_nowait() is None

    with Recorder(Settings(tmp_path / "spool")) as recorder:
        asyncio.run(stop(recorder))


def asking(running, path, *, host="127.0.0.1", receive_buffer=None):
    """A connection that asks for a WebSocket and says no more."""
    one = socket.socket()
    if receive_buffer is not None:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    one.settimeout(20)
    one.bind((host, 0))
    one.connect(("127.0.0.1", running.port))
    one.sendall(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    return one


def test_audio_that_comes_faster_than_time_passes_is_dropped(running, client):
    call = begun(client, record={"layout": "incoming"}, format="binary")
    began = time.monotonic()
    with binary(running, call) as peer:
        for _ in range(400):
            peer.socket.send(noise(0.02))
        until(lambda: media_state(client, call).get("ahead", 0) > 300)
    entry = delivered(client, call["call_id"])
    assert manifest_of(client, entry)["degraded"]["discarded_packets"] > 300
    audio, _ = read_wav(client, entry)
    assert len(audio) <= (time.monotonic() - began + AHEAD_S) * 8000


@pytest.mark.skipif(not FILES.is_dir(), reason="Linux tells how many files are open")
def test_a_hundred_streams_come_and_go_and_nothing_of_them_stays(running, client):
    threads, files = threading.active_count(), len(list(FILES.iterdir()))
    for _ in range(100):
        call = begun(client)
        with connect(url_of(running, call), compression=None) as one:
            one.send(json.dumps({"event": "stop"}))
            with pytest.raises(ConnectionClosed):
                one.recv(timeout=5)
        until(lambda call_id=call["call_id"]: not live(client, call_id))
        assert status_of_refusal(url_of(running, call)) == 403
    assert threading.active_count() <= threads + 1
    until(lambda: len(list(FILES.iterdir())) <= files + 5)
