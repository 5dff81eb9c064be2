"""AudioSocket over real sockets: what Asterisk sends is recorded, what is played comes back, whatever a peer does."""

import contextlib
import socket
import threading
import time
import uuid

import numpy as np
import pytest

from audiosocket_peer import AsteriskPeer, written
from callreel.kernels import tone
from callreel.service import audiosocket
from callreel.service.encodings import Conversion
from callreel.service.links import AHEAD_S
from callreel.service.running import Service
from live_media import (
    delivered,
    live,
    manifest_of,
    noise,
    read_wav,
    served_prompts,
    starts_at,
    until,
    wav_bytes,
)
from service_host import listening, settings_in


@pytest.fixture(scope="module")
def prompt_server():
    with served_prompts() as server:
        yield server


@pytest.fixture(scope="module")
def running(tmp_path_factory, prompt_server):
    settings = settings_in(tmp_path_factory.mktemp("service"), audiosocket_port=0)
    with listening(Service(settings, prompts=prompt_server.prompts)) as one:
        yield one


@pytest.fixture
def client(running):
    return running.client()


def begun(client, *, legs=None, record=None, **options):
    body = {"legs": legs or [{"media": "audiosocket", "options": options}]}
    answer = client.post("/v1/calls", json=body if record is None else {**body, "record": record})
    assert answer.status_code == 201, answer.text
    return answer.json()


def media_of(call, leg=0):
    return call["legs"][leg]["media"]


@contextlib.contextmanager
def connected(media, **options):
    peer = AsteriskPeer(media["address"], media["uuid"], **options)
    try:
        yield peer
    finally:
        peer.close()


# ---- what is recorded ----


def test_what_asterisk_sends_is_recorded_sample_by_sample_and_its_hang_up_ends_the_call(client):
    call = begun(client, record={})
    said = noise(1.5)
    with connected(media_of(call)) as peer:
        peer.say(said)
        peer.send(0x00)
        assert peer.ended.wait(5)
    entry = delivered(client, call["call_id"])
    audio, rate = read_wav(client, entry)
    assert rate == 8000
    incoming = audio[:, 0]
    begin = starts_at(incoming, said)
    heard = incoming[begin : begin + len(said) // 2]
    np.testing.assert_array_equal(heard, np.frombuffer(said, "<i2")[: len(heard)])
    assert len(heard) == len(said) // 2
    assert not incoming[:begin].any()
    assert entry["end_reason"] == "hangup"
    assert not live(client, call["call_id"])


def test_a_closed_connection_is_a_hang_up_of_its_leg_alone(client):
    call = begun(client, legs=[{"name": f"LEG-{one}", "media": "audiosocket"} for one in "AB"])
    with connected(media_of(call, 0)), connected(media_of(call, 1)) as other:
        until(lambda: media_state(client, call, "LEG-B").get("connected"))
        other.close()
        until(lambda: statuses(client, call) == {"LEG-A": "connected", "LEG-B": "disconnected"})
        assert live(client, call["call_id"])


def statuses(client, call):
    legs = client.get(f"/v1/calls/{call['call_id']}").json()["legs"]
    return {leg["name"]: leg["status"] for leg in legs}


def media_state(client, call, leg="LEG-A"):
    return client.get(f"/v1/calls/{call['call_id']}").json()["media"][leg]


@pytest.mark.parametrize("kind", sorted(audiosocket.AUDIO_RATES))
def test_every_kind_of_audio_is_recorded_at_its_rate(client, kind):
    rate = audiosocket.AUDIO_RATES[kind]
    call = begun(client, record={"layout": "incoming"})
    frame = rate // 50 * 2
    sine = tone.sine(440.0, 1.0, -10.0, min(rate, 48_000))
    if rate > 48_000:
        sine = np.repeat(np.frombuffer(sine, "<i2"), rate // 48_000).astype("<i2").tobytes()
    with connected(media_of(call), kind=kind) as peer:
        peer.say(sine, rate=rate)
        peer.send(0x00)
        assert peer.ended.wait(5)
    assert len(sine) // frame == 50
    audio, _ = read_wav(client, delivered(client, call["call_id"]))
    loud = np.flatnonzero(np.abs(audio[:, 0].astype(int)) > 1000)
    assert loud[-1] - loud[0] == pytest.approx(8000, abs=200)
    middle = audio[loud[0] + 1000 : loud[0] + 6000, 0].astype(float)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * 8000 / len(middle) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("kind", sorted(audiosocket.AUDIO_RATES))
def test_every_kind_of_audio_is_recorded_sample_by_sample(client, kind):
    rate = audiosocket.AUDIO_RATES[kind]
    call = begun(client, record={"layout": "incoming"})
    said = noise(0.6, rate=rate, seed=kind)
    conversion = Conversion(rate, 8000)
    expected = np.frombuffer(conversion.feed(said) + conversion.flush(), "<i2")
    with connected(media_of(call), kind=kind) as peer:
        peer.say(said, rate=rate)
        peer.send(0x00)
        assert peer.ended.wait(5)
    audio, _ = read_wav(client, delivered(client, call["call_id"]))
    begin = starts_at(audio[:, 0], expected.tobytes())
    heard = audio[begin : begin + len(expected), 0]
    np.testing.assert_array_equal(heard, expected[: len(heard)])
    assert len(heard) == len(expected)
    assert not audio[:begin, 0].any()


def test_two_messages_in_one_segment_and_one_in_many_are_what_was_sent(client):
    call = begun(client, record={"layout": "incoming"})
    said = noise(0.6)
    with connected(media_of(call)) as peer:
        pieces = [written(0x10, said[at : at + 320]) for at in range(0, len(said), 320)]
        start = time.monotonic()
        for number in range(0, len(pieces), 2):
            time.sleep(max(0.0, start + (number + 2) * 0.02 - time.monotonic()))
            both = b"".join(pieces[number : number + 2])
            for at in range(0, len(both), 101 if number % 4 else len(both)):
                peer.socket.sendall(both[at : at + 101 if number % 4 else len(both)])
        peer.send(0x00)
        assert peer.ended.wait(5)
    audio, _ = read_wav(client, delivered(client, call["call_id"]))
    begin = starts_at(audio[:, 0], said)
    heard = audio[begin : begin + len(said) // 2, 0]
    np.testing.assert_array_equal(heard, np.frombuffer(said, "<i2")[: len(heard)])


def test_a_stall_of_the_network_moves_nothing(client):
    call = begun(client, record={"layout": "incoming"})
    said = noise(1.6)
    frames = [said[at : at + 320] for at in range(0, len(said), 320)]
    with connected(media_of(call)) as peer:
        start = time.monotonic()
        for number, frame in enumerate(frames):
            due = start + (number + 1) * 0.02
            if 30 <= number < 45:
                due = start + 46 * 0.02  # 0.3 s of them come at once
            time.sleep(max(0.0, due - time.monotonic()))
            peer.send(0x10, frame)
        peer.send(0x00)
        assert peer.ended.wait(5)
    audio, _ = read_wav(client, delivered(client, call["call_id"]))
    begin = starts_at(audio[:, 0], said)
    heard = audio[begin : begin + len(said) // 2, 0]
    np.testing.assert_array_equal(heard, np.frombuffer(said, "<i2")[: len(heard)])
    assert len(heard) == len(said) // 2


def test_a_pause_of_the_sender_is_silence_of_its_length(client):
    call = begun(client, record={"layout": "incoming"})
    first, second = noise(0.6), noise(0.6, seed=1)
    with connected(media_of(call)) as peer:
        peer.say(first)
        time.sleep(1.0)
        peer.say(second)
        peer.send(0x00)
        assert peer.ended.wait(5)
    audio, _ = read_wav(client, delivered(client, call["call_id"]))
    between = starts_at(audio[:, 0], second) - starts_at(audio[:, 0], first)
    assert between == pytest.approx(1.6 * 8000, abs=0.06 * 8000)


def test_audio_that_comes_faster_than_time_passes_is_dropped_beyond_half_a_second(client):
    call = begun(client, record={"layout": "incoming"})
    began = time.monotonic()
    with connected(media_of(call)) as peer:
        for _ in range(500):
            peer.send(0x10, noise(0.02))
        until(lambda: media_state(client, call).get("ahead", 0) > 400)
        marker = noise(0.6, seed=7)
        peer.say(marker)
        peer.send(0x00)
        assert peer.ended.wait(5)
    lasted_s = time.monotonic() - began
    audio, _ = read_wav(client, delivered(client, call["call_id"]))
    assert len(audio) <= (lasted_s + AHEAD_S + 0.1) * 8000
    loud = np.flatnonzero(audio[:, 0])
    assert (loud[-1] - loud[0]) / 8000 <= lasted_s + AHEAD_S


# ---- keys ----


def test_keys_that_asterisk_tells_of_are_in_the_manifest_once_although_they_sound(client):
    call = begun(client, record={})
    silence = bytes(320)
    with connected(media_of(call)) as peer:
        peer.say(silence * 25)
        for symbol in "4#":
            pressed = tone.dtmf(symbol, 0.12, dbm0=-10)
            peer.say(pressed + bytes(-len(pressed) % 320))
            peer.send(0x03, symbol.encode())
            peer.say(silence * 15)
        peer.send(0x03, b"x")
        peer.send(0x03, b"12")
        peer.send(0x00)
        assert peer.ended.wait(5)
    entry = delivered(client, call["call_id"])
    manifest = manifest_of(client, entry)
    assert [(one["symbol"], one["track"]) for one in manifest["digits"]] == [
        ("4", "incoming"),
        ("#", "incoming"),
    ]
    assert manifest["digits"][0]["at"] == pytest.approx(0.5, abs=0.15)


def test_a_key_that_asterisk_tells_of_ends_a_recording(client):
    call = begun(client, record={"message": True, "terminators": "#"})
    with connected(media_of(call)) as peer:
        peer.say(noise(0.6))
        peer.send(0x03, b"#")
        peer.say(bytes(320) * 10)
        entry = delivered(client, call["call_id"])
    assert entry["end_reason"] == "terminator"


# ---- what is played ----


def play(running, call, pcm, rate=8000, leg="LEG-A"):
    """Have a leg's media play; returns what its end will be told to, as (event, reasons)."""
    told, reasons = threading.Event(), []

    def done(reason):
        reasons.append(reason)
        told.set()

    running.service.host.call(call["call_id"]).media[leg].play(pcm, rate, done)
    return told, reasons


def test_a_prompt_and_a_beep_are_heard_in_time_before_the_recording_begins(client, prompt_server):
    prompt = noise(1.0, seed=3)
    call = begun(
        client, record={"prompt": prompt_server.serve("greeting.wav", wav_bytes(prompt, 8000)), "beep": True}
    )
    with connected(media_of(call)) as peer:
        said = noise(2.5)
        peer.say(said)
        peer.send(0x00)
        assert peer.ended.wait(5)
    frames = [(at, payload) for at, kind, payload in peer.received if kind == 0x10]
    assert all(len(payload) == 320 for _, payload in frames)
    assert peer.played[: len(prompt)] == prompt
    beep = tone.beep(sample_rate=8000)
    assert peer.played[len(prompt) :][: len(beep)] == beep
    times = np.array([at for at, _ in frames[:50]])
    assert np.abs(times - times[0] - 0.02 * np.arange(50)).max() < 0.08
    entry = delivered(client, call["call_id"])
    assert entry["duration_s"] < 2.5 - (len(prompt) + len(beep)) / 16_000 + 0.2
    audio, _ = read_wav(client, entry)
    assert np.isin(audio[400:8000, 0], np.frombuffer(said, "<i2")).all()  # it began while somebody spoke
    assert not audio[:, 1].any()  # and nothing of the prompt is in it


def test_what_is_played_while_it_records_is_the_outgoing_track_sample_by_sample(running, client):
    prompt = noise(0.8, seed=4)
    call = begun(client, record={})
    with connected(media_of(call)) as peer:
        peer.say(bytes(320) * 10)
        told, reasons = play(running, call, prompt)
        peer.say(bytes(320) * 60)
        assert told.wait(5)
        peer.send(0x00)
        assert peer.ended.wait(5)
    assert reasons == [None]
    audio, _ = read_wav(client, delivered(client, call["call_id"]))
    begin = starts_at(audio[:, 1], prompt)
    np.testing.assert_array_equal(audio[begin : begin + len(prompt) // 2, 1], np.frombuffer(prompt, "<i2"))
    assert not audio[:begin, 1].any()
    assert peer.played == prompt


def test_what_is_played_waits_for_the_connection(running, client):
    call = begun(client)
    told, reasons = play(running, call, noise(0.1))
    assert not told.wait(0.3)
    with connected(media_of(call)) as peer:
        assert told.wait(5)
        assert reasons == [None]
        until(lambda: len(peer.played) == 1600)


def test_it_answers_in_the_kind_of_audio_that_comes(running, client):
    call = begun(client)
    with connected(media_of(call), kind=0x12) as peer:
        peer.say(bytes(640), rate=16_000)
        until(lambda: media_state(client, call).get("received"))
        told, _ = play(running, call, tone.sine(440.0, 0.5, -10.0, 8000))
        assert told.wait(5)
        until(lambda: len(peer.played) >= 16_000)
    assert {kind for _, kind, _ in peer.received} == {0x12}
    assert {len(payload) for _, _, payload in peer.received} == {640}


def test_what_is_stopped_is_heard_no_more_and_nobody_is_told(running, client):
    call = begun(client)
    with connected(media_of(call)) as peer:
        told, _ = play(running, call, noise(2.0))
        until(lambda: len(peer.played) > 3200)
        running.service.host.call(call["call_id"]).media["LEG-A"].stop()
        heard = len(peer.played)
        assert not told.wait(0.5)
        assert len(peer.played) <= heard + 640


def test_what_plays_ends_when_the_participant_is_gone(running, client):
    call = begun(client)
    with connected(media_of(call)) as peer:
        told, reasons = play(running, call, noise(2.0))
        until(lambda: peer.played)
        peer.send(0x00)
        assert told.wait(5)
    assert reasons == ["the participant has hung up"]
    told, reasons = play(running, call, noise(0.1))
    assert told.is_set()
    assert reasons == ["LEG-A has no connection any more"]


# ---- the end ----


def test_a_hang_up_over_the_api_is_told_to_asterisk(client):
    call = begun(client)
    with connected(media_of(call)) as peer:
        peer.say(bytes(320) * 5)
        assert client.delete(f"/v1/calls/{call['call_id']}").status_code == 204
        assert peer.ended.wait(5)
    assert peer.received[-1][1:] == (0x00, b"")


# ---- who may connect ----


def is_refused(peer, timeout_s=3.0):
    return peer.ended.wait(timeout_s) and not peer.received


def test_the_uuid_may_be_that_of_the_dialplan(client):
    identity = str(uuid.uuid4())
    call = begun(client, uuid=identity)
    assert media_of(call)["uuid"] == identity
    with connected(media_of(call)):
        until(lambda: media_state(client, call)["connected"])


@pytest.mark.parametrize("options", [{"uuid": "no-uuid"}, {"uid": str(uuid.uuid4())}])
def test_options_that_are_none_are_refused(client, options):
    answer = client.post("/v1/calls", json={"legs": [{"media": "audiosocket", "options": options}]})
    assert answer.status_code == 400


def test_two_legs_cannot_have_one_uuid(client):
    identity = str(uuid.uuid4())
    begun(client, uuid=identity)
    leg = {"media": "audiosocket", "options": {"uuid": identity}}
    answer = client.post("/v1/calls", json={"call_id": "the-second", "legs": [leg]})
    assert answer.status_code == 400
    assert not live(client, "the-second")


def test_an_unknown_uuid_is_refused(client):
    call = begun(client)
    with connected(media_of(call) | {"uuid": uuid.uuid4()}) as peer:
        assert is_refused(peer)


def test_a_second_connection_for_a_leg_is_refused_and_the_first_goes_on(client):
    call = begun(client)
    with connected(media_of(call)) as first:
        until(lambda: media_state(client, call)["connected"])
        with connected(media_of(call)) as second:
            assert is_refused(second)
        first.say(noise(0.1))
        until(lambda: media_state(client, call).get("received", 0) >= 5)


def test_a_leg_that_has_hung_up_cannot_be_connected_to_again(client):
    call = begun(client)
    with connected(media_of(call)) as peer:
        peer.send(0x00)
        assert peer.ended.wait(5)
    with connected(media_of(call)) as again:
        assert is_refused(again)


@pytest.mark.parametrize(
    "sent", [written(0x10, bytes(320)), written(0x01, bytes(15)), b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 70_000]
)
def test_a_connection_that_begins_with_anything_but_a_uuid_is_closed(client, running, sent):
    call = begun(client)
    with connected(media_of(call) | {"uuid": None}) as peer:
        with contextlib.suppress(ConnectionError):
            peer.socket.sendall(sent)
        assert is_refused(peer)
    until(lambda: running.service.audiosocket.strangers == 0)


def test_a_connection_that_does_not_say_whose_it_is_is_closed_in_time(client, running, monkeypatch):
    monkeypatch.setattr(audiosocket, "IDENTIFIED_S", 0.3)
    call = begun(client)
    with connected(media_of(call) | {"uuid": None}) as peer:
        peer.socket.sendall(b"\x01\x00")
        assert is_refused(peer)
    assert running.service.audiosocket.strangers == 0


# ---- hostile peers ----


def test_whatever_comes_behind_the_uuid_costs_the_peer_alone(client):
    call = begun(client, record={"layout": "incoming"})
    said = noise(0.5)
    with connected(media_of(call)) as peer:
        for kind, payload in [
            (0x10, b"\1"),
            (0x12, bytes(640)),
            (0x10, b""),
            (0x01, bytes(16)),
            (0x03, b""),
            (0xFF, b"\4"),
            (0x77, bytes(65_535)),
            (0x19, bytes(7)),
        ]:
            peer.send(kind, payload)
        state = until(lambda: (one := media_state(client, call)).get("unknown", 0) == 2 and one)
        assert (state["malformed"], state["errors"]) == (4, 1)
        peer.say(said)
    audio, _ = read_wav(client, delivered(client, call["call_id"]))
    begin = starts_at(audio[:, 0], said)
    heard = audio[begin : begin + len(said) // 2, 0]
    np.testing.assert_array_equal(heard, np.frombuffer(said, "<i2")[: len(heard)])


def test_a_peer_that_reads_nothing_blocks_nobody_and_is_dropped(running, client, monkeypatch):
    monkeypatch.setattr("callreel.service.links.STALLED_S", 0.5)
    call, other = begun(client), begun(client)
    media = media_of(call)
    host, _, port = media["address"].rpartition(":")
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect((host, int(port)))
    deaf.sendall(written(0x01, uuid.UUID(media["uuid"]).bytes) + written(0x16, bytes(1920)))
    told, reasons = play(running, call, noise(60.0, rate=48_000), 48_000)
    with connected(media_of(other)) as peer:
        begin = time.monotonic()
        prompt = noise(1.0)
        heard, _ = play(running, other, prompt)
        assert heard.wait(5)
        assert time.monotonic() - begin < 1.5
        until(lambda: peer.played == prompt)
        assert told.wait(60)
    assert reasons == ["the other side takes nothing of what is played"]
    until(lambda: not live(client, call["call_id"]))
    deaf.close()


def test_10_000_half_open_connections_are_bounded_and_leave_nothing_behind(running, client):
    call = begun(client)
    host, _, port = media_of(call)["address"].rpartition(":")
    held = []

    def are_bounded():
        held[:] = [one for one in held if not _is_closed(one)]
        return len(held) <= audiosocket.STRANGERS_OF_ONE_ADDRESS

    try:
        for number in range(10_000):
            held.append(socket.create_connection((host, int(port)), timeout=20))
            if number % 500 == 499:
                until(are_bounded)
        with connected(media_of(call)) as late:  # no room for one more
            assert is_refused(late)
    finally:
        for one in held:
            one.close()
    until(lambda: running.service.audiosocket.strangers == 0)
    with connected(media_of(call)):
        until(lambda: media_state(client, call)["connected"])


def _is_closed(one):
    one.setblocking(False)
    try:
        one.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        pass
    one.close()
    return True


def test_connections_of_known_legs_do_not_count_as_strangers(running, client, monkeypatch):
    monkeypatch.setattr(audiosocket, "STRANGERS_OF_ONE_ADDRESS", 2)
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            call = begun(client)
            stack.enter_context(connected(media_of(call)))
            until(lambda call=call: media_state(client, call)["connected"])
        assert running.service.audiosocket.strangers == 0


def test_keys_without_end_are_dropped(client):
    call = begun(client)
    with connected(media_of(call)) as peer:
        peer.socket.sendall(written(0x03, b"5") * 5000)
        state = until(lambda: (one := media_state(client, call)).get("ahead", 0) > 4000 and one)
        assert state["digits"] < 200


def test_a_call_that_ends_while_audio_comes_hangs_up_in_an_orderly_way(client):
    for _ in range(5):
        call = begun(client)
        with connected(media_of(call)) as peer:
            stop = threading.Event()

            def talk(peer=peer, stop=stop):
                with contextlib.suppress(OSError):
                    while not stop.is_set():
                        peer.send(0x10, bytes(32))

            talking = threading.Thread(target=talk)
            talking.start()
            until(lambda call=call: media_state(client, call).get("received"))
            client.delete(f"/v1/calls/{call['call_id']}")
            assert peer.ended.wait(5)
            stop.set()
            talking.join()
        assert [(kind, payload) for _, kind, payload in peer.received] == [(0x00, b"")]


def test_a_leg_may_be_connected_to_over_ipv6(tmp_path):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    settings = settings_in(tmp_path, audiosocket_port=0, audiosocket_host="::1")
    with listening(Service(settings)) as one:
        call = begun(one.client())
        assert media_of(call)["address"].startswith("[::1]:")
        with connected(media_of(call)):
            until(lambda: media_state(one.client(), call)["connected"])


def test_a_port_that_is_taken_is_an_error_of_the_beginning_and_leaves_nothing_open(tmp_path, running):
    port = running.service.audiosocket.port
    with pytest.raises(OSError, match="in use"):
        Service(settings_in(tmp_path, audiosocket_port=port))
    Service(settings_in(tmp_path)).close()  # the spool is free again


def test_closing_the_service_ends_its_connections(tmp_path):
    with listening(Service(settings_in(tmp_path, audiosocket_port=0))) as one:
        call = begun(one.client())
        peer = AsteriskPeer(media_of(call)["address"], media_of(call)["uuid"])
        until(lambda: media_state(one.client(), call)["connected"])
    assert peer.ended.wait(5)
    peer.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "callreel-audiosocket"][1:]
