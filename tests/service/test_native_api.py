"""callreel's own HTTP API: calls, actions, recordings, events; what is refused, and to whom."""

import json
import socket
import threading
import time
from dataclasses import replace

import pytest

from callreel.notify.references import FromFile
from callreel.recorder import Settings
from callreel.recorder.ways import Signed, Ways
from callreel.service.running import Service
from callreel.service.settings import ServiceSettings
from http_server import authority, plain, serving
from secret_watch import may_hold, secret_base64
from service_host import TOKENS, listening, read_events, settings_in
from vendor_customers import speak

NO_MEDIA = {"legs": [{"media": "none"}]}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with listening(Service(settings_in(tmp_path_factory.mktemp("service")))) as one:
        yield one


@pytest.fixture
def client(running):
    return running.client()


def begun(client, **body):
    answer = client.post("/v1/calls", json=NO_MEDIA | body)
    assert answer.status_code == 201, answer.text
    return answer.json()["call_id"]


def until(read, timeout_s=15.0):
    end = time.monotonic() + timeout_s
    while not (found := read()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def recorded(client, seconds=0.3, **record):
    """A recording that has been delivered."""
    call_id = begun(client, record=record)
    time.sleep(seconds)
    assert client.delete(f"/v1/calls/{call_id}").status_code == 204
    return until(lambda: client.get("/v1/recordings", params={"text": call_id}).json()["recordings"])[0]


def act(client, call_id, **body):
    return client.post(f"/v1/calls/{call_id}/actions", json=body)


def test_a_message_beside_a_calls_recording_and_every_legs_recording_are_all_delivered(client):
    legs = [{"name": name, "media": "none"} for name in ("LEG-A", "LEG-B")]
    call_id = begun(client, legs=legs, record={})
    for recording in ({"leg": "LEG-A", "message": True}, {"leg": "LEG-B"}):
        assert act(client, call_id, action="start_recording", recording=recording).status_code == 200
    assert client.delete(f"/v1/calls/{call_id}").status_code == 204

    def all_of_them():
        found = client.get("/v1/recordings", params={"text": call_id}).json()["recordings"]
        return found if len(found) == 3 else None

    found = until(all_of_them)
    assert [one["error"] for one in found] == [None] * 3
    assert len({one["location"] for one in found}) == 3


# ---- calls ----


def test_a_call_begins_goes_on_and_ends(client):
    call_id = begun(client)
    assert call_id in [call["call_id"] for call in client.get("/v1/calls").json()["calls"]]
    call = client.get(f"/v1/calls/{call_id}").json()
    assert [(leg["name"], leg["status"]) for leg in call["legs"]] == [("LEG-A", "connected")]
    assert client.delete(f"/v1/calls/{call_id}").status_code == 204
    assert call_id not in [call["call_id"] for call in client.get("/v1/calls").json()["calls"]]
    assert until(lambda: client.get(f"/v1/calls/{call_id}").json()["ended_at"])
    every = client.get("/v1/calls", params={"live": "false"}).json()["calls"]
    assert call_id in [call["call_id"] for call in every]


def test_a_call_may_bring_its_own_id_once(client):
    assert begun(client, call_id="mine-1") == "mine-1"
    again = client.post("/v1/calls", json=NO_MEDIA | {"call_id": "mine-1"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "wrong_use")


def test_participants_join_and_leave(client):
    call_id = begun(client)
    answer = client.post(f"/v1/calls/{call_id}/legs", json={"name": "LEG-B", "media": "none", "to": "+461"})
    assert [leg["name"] for leg in answer.json()["legs"]] == ["LEG-A", "LEG-B"]
    assert act(client, call_id, action="hang_up", leg="LEG-B").status_code == 200
    legs = client.get(f"/v1/calls/{call_id}").json()["legs"]
    assert [leg["status"] for leg in legs] == ["connected", "disconnected"]


def test_the_same_request_with_the_same_key_makes_one_call(client):
    headers = {"Idempotency-Key": "once-1"}
    first = client.post("/v1/calls", json=NO_MEDIA, headers=headers)
    second = client.post("/v1/calls", json=NO_MEDIA, headers=headers)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    other = client.post("/v1/calls", json=NO_MEDIA | {"call_id": "x"}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "key_reused")


def test_the_same_key_of_two_tenants_makes_two_calls(running, client):
    headers = {"Idempotency-Key": "of-two"}
    answers = [
        one.post("/v1/calls", json=NO_MEDIA, headers=headers) for one in (client, running.client("other"))
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    call_id, other_id = (answer.json()["call_id"] for answer in answers)
    assert call_id != other_id
    assert running.client("other").delete(f"/v1/calls/{other_id}").status_code == 204


def test_every_post_takes_a_key_and_the_document_says_so(client):
    paths = client.get("/openapi.json").json()["paths"]
    posts = {path: one["post"] for path, one in paths.items() if path.startswith("/v1/") and "post" in one}
    assert set(posts) == {"/v1/calls", "/v1/calls/{call_id}/legs", "/v1/calls/{call_id}/actions"}
    for post in posts.values():
        assert ("header", "idempotency-key") in [
            (one["in"], one["name"].lower()) for one in post["parameters"]
        ]


def test_the_same_leg_with_the_same_key_joins_once(client):
    call_id, headers = begun(client), {"Idempotency-Key": "leg-1"}
    path, leg = f"/v1/calls/{call_id}/legs", {"name": "LEG-B", "media": "none"}
    first, second = (client.post(path, json=leg, headers=headers) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert client.post(path, json=leg).status_code == 409
    other = client.post(path, json=leg | {"name": "LEG-C"}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "key_reused")
    assert len(client.get(f"/v1/calls/{call_id}").json()["legs"]) == 2


def test_the_same_action_with_the_same_key_is_carried_out_once(client):
    call_id, headers = begun(client), {"Idempotency-Key": "action-1"}
    path = f"/v1/calls/{call_id}/actions"
    first, second = (client.post(path, json={"action": "start_recording"}, headers=headers) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json() == second.json() == {"recording_id": f"{call_id}/LEG-A"}
    assert act(client, call_id, action="start_recording").status_code == 409
    other = client.post(path, json={"action": "stop_recording"}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "key_reused")


def test_what_was_done_with_a_key_is_answered_so_when_the_call_is_forgotten(client, monkeypatch):
    call_id = begun(client)
    asked = [
        ("legs", {"name": "LEG-B", "media": "none"}, {"Idempotency-Key": "forgotten-1"}),
        ("actions", {"action": "hang_up"}, {"Idempotency-Key": "forgotten-2"}),
    ]

    def answers():
        return [client.post(f"/v1/calls/{call_id}/{one}", json=body, headers=key) for one, body, key in asked]

    first = answers()
    assert [answer.status_code for answer in first] == [201, 200]
    monkeypatch.setattr("callreel.service.host.ENDED_KEPT", 0)
    assert client.delete(f"/v1/calls/{call_id}").status_code == 204
    until(lambda: client.get(f"/v1/calls/{call_id}").status_code == 404)
    assert act(client, call_id, action="hang_up").status_code == 404
    again = answers()
    assert [answer.status_code for answer in again] == [201, 200]
    assert [answer.json() for answer in again] == [answer.json() for answer in first]


def test_what_is_asked_of_a_call_is_done_and_conflicts_are_told(client):
    call_id = begun(client)
    started = act(client, call_id, action="start_recording")
    assert started.json() == {"recording_id": f"{call_id}/LEG-A"}
    assert act(client, call_id, action="start_recording").status_code == 409
    for name in ("pause_recording", "resume_recording", "stop_recording"):
        assert act(client, call_id, action=name).json() == {}
    assert act(client, call_id, action="stop_recording").status_code == 409
    assert act(client, call_id, action="digit", symbol="5").status_code == 200
    assert act(client, call_id, action="digit").json()["error"]["message"] == "digit needs a symbol"
    assert act(client, call_id, action="hang_up", leg="LEG-Z").json()["error"]["message"] == (
        "the call has no leg LEG-Z"
    )
    client.delete(f"/v1/calls/{call_id}")
    assert act(client, call_id, action="start_recording").json()["error"]["message"] == (
        f"call {call_id} is over"
    )


def test_a_vendors_document_is_carried_out(client):
    call_id = begun(client, dialect="sinch", dialect_options={"application_key": "k"})
    svaml = {
        "instructions": [{"name": "startRecording", "options": {"destinationUrl": "sdrive://x.wav"}}],
        "action": {"name": "continue"},
    }
    assert act(client, call_id, action="request", document=svaml).json() == {
        "response": {"status": 204, "body": None, "headers": {}}
    }
    assert until(lambda: client.get(f"/v1/calls/{call_id}").json()["recordings"]) == {
        f"{call_id}/LEG-A": "recording"
    }
    wrong = act(client, call_id, action="request", document={"instructions": 5}).json()["response"]
    assert wrong["status"] == 400


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"legs": []}, 422),
        ({"legs": [{"media": "smoke"}]}, 422),
        ({"legs": [{"media": "audiosocket"}]}, 400),
        ({"legs": [{"media": "none"}, {"media": "none"}]}, 422),
        ({"unknown": 1}, 422),
        ({"call_id": "../../etc/passwd"}, 422),
        (NO_MEDIA | {"dialect": "chime", "dialect_options": {"secret": 1}}, 400),
        (NO_MEDIA | {"record": {"leg": "LEG-B"}}, 422),
        (NO_MEDIA | {"record": {"max_duration_ms": 0}}, 422),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_reason(client, body, status):
    before = len(client.get("/v1/calls").json()["calls"])
    answer = client.post("/v1/calls", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert len(client.get("/v1/calls").json()["calls"]) == before


# ---- recordings ----


def test_a_recording_is_found_with_its_manifest_its_audio_and_its_outline(client):
    entry = recorded(client, 0.5)
    assert entry["error"] is None
    path = f"/v1/recordings/{entry['take_id']}"
    assert client.get(path).json() == entry
    manifest = client.get(f"{path}/manifest").json()
    assert manifest["call_id"] == entry["call_id"]
    audio = client.get(f"{path}/audio")
    assert audio.headers["content-type"] == "audio/wav"
    assert len(audio.content) == manifest["bytes"] == int(audio.headers["content-length"])
    outline = client.get(f"{path}/waveform", params={"columns": 10}).json()
    assert [channel["name"] for channel in outline["channels"]] == ["incoming", "outgoing"]
    assert all(1 <= len(channel["low"]) <= 10 for channel in outline["channels"])


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=0-0", 0, 0), ("bytes=10-19", 10, 19), ("bytes=-5", -5, None), ("bytes=44-", 44, None)],
)
def test_a_part_of_the_audio_can_be_had(client, asked, first, last):
    path = f"/v1/recordings/{recorded(client)['take_id']}/audio"
    whole = client.get(path).content
    part = client.get(path, headers={"Range": asked})
    first, last = first % len(whole), len(whole) - 1 if last is None else last
    assert part.status_code == 206
    assert part.content == whole[first : last + 1]
    assert part.headers["content-range"] == f"bytes {first}-{last}/{len(whole)}"


def test_a_part_that_is_not_there_is_refused_and_odd_ranges_give_the_whole(client):
    path = f"/v1/recordings/{recorded(client)['take_id']}/audio"
    whole = client.get(path)
    beyond = client.get(path, headers={"Range": "bytes=999999999-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(whole.content)}")
    for odd in ("bytes=0-1,5-6", "frames=0-1", "bytes=-", "nonsense"):
        assert client.get(path, headers={"Range": odd}).content == whole.content


def test_a_part_of_something_else_is_answered_with_the_whole(client):
    path = f"/v1/recordings/{recorded(client)['take_id']}/audio"
    whole = client.get(path)
    tag = whole.headers["etag"]
    same = client.get(path, headers={"Range": "bytes=10-19", "If-Range": tag})
    assert (same.status_code, same.content) == (206, whole.content[10:20])
    for other in (f"W/{tag}", '"another"', tag.strip('"'), "Sun, 29 Nov 2026 00:00:00 GMT", ""):
        for asked in ("bytes=10-19", "bytes=999999999-"):
            answer = client.get(path, headers={"Range": asked, "If-Range": other})
            assert (answer.status_code, answer.content) == (200, whole.content)
    assert client.get(path, headers={"If-Range": tag}).status_code == 200


def test_the_outline_of_each_channel_is_that_of_its_sound(running, client):
    call_id = begun(client, record={})
    speak(running.service, call_id, seconds=1)
    assert client.delete(f"/v1/calls/{call_id}").status_code == 204
    entry = until(lambda: client.get("/v1/recordings", params={"text": call_id}).json()["recordings"])[0]
    answer = client.get(f"/v1/recordings/{entry['take_id']}/waveform", params={"columns": 20})
    outline = answer.json()
    assert outline["sample_rate"] == 8000
    loud, silent = outline["channels"]
    assert (loud["name"], silent["name"]) == ("incoming", "outgoing")
    assert silent["high"] == silent["low"] == silent["rms"] == [0.0] * 20
    # The sound goes up and down from sample to sample, to 15,996 of 32,768: the value of 0x90 in G.711's µ-law.
    peak = round(15_996 / 32_768, 4)
    columns = list(zip(loud["high"], loud["low"], loud["rms"], strict=True))
    full = columns.count((peak, -peak, peak))
    assert len(columns) == 20
    assert 0 <= 20 * 1.0 / outline["duration"] - full < 2
    assert columns.count((0.0, 0.0, 0.0)) >= 20 - full - 2


def test_recordings_are_searched_filtered_and_paged(client):
    entries = [recorded(client, 0.1) for _ in range(3)]
    first = client.get("/v1/recordings", params={"page_size": 2}).json()
    second = client.get("/v1/recordings", params={"page_size": 2, "page": 2}).json()
    ids = [one["take_id"] for one in first["recordings"] + second["recordings"]]
    assert ids[:3] == [entry["take_id"] for entry in reversed(entries)]
    assert first["total"] >= 3
    assert client.get("/v1/recordings", params={"state": "failed"}).json()["total"] == 0
    assert client.get("/v1/recordings", params={"text": "%"}).json()["total"] == 0
    since = entries[2]["started_at"]
    assert client.get("/v1/recordings", params={"after": since}).json()["total"] == 1


def test_recordings_are_there_after_a_restart_also_those_that_were_running(tmp_path):
    with listening(Service(settings_in(tmp_path))) as running:
        client = running.client()
        done = recorded(client)
        call_id = begun(client, record={})
        time.sleep(0.5)
    with listening(Service(settings_in(tmp_path))) as running:
        client = running.client()
        found = until(lambda: client.get("/v1/recordings", params={"text": call_id}).json()["recordings"])
        assert found[0]["error"] is None
        assert client.get(f"/v1/recordings/{done['take_id']}").json() == done
        assert running.client("other").get(f"/v1/recordings/{done['take_id']}").status_code == 404


# ---- events ----


def test_what_happens_is_told_in_order_and_can_be_had_again(client):
    entry = recorded(client)

    def is_its_end(event):
        return event.get("event") == "take_ended" and event["call_id"] == entry["call_id"]

    seen = read_events(client, is_its_end, params={"since": 0})
    names = [one["event"] for one in seen if one["call_id"] == entry["call_id"]]
    assert names[0] == "leg_changed"
    assert {"recording_started", "call_ended", "recording_stored"} <= set(names)
    assert [int(one["id"]) for one in seen] == sorted({int(one["id"]) for one in seen})
    headers = {"Last-Event-ID": seen[-2]["id"]}
    assert read_events(client, is_its_end, headers=headers) == seen[-1:]


def test_who_watches_is_told_at_once(client, running):
    numbers = running.service.stream.last_number
    seen = []

    def is_ours(event):
        return event["call_id"] == "watched"

    def watch():
        seen.extend(read_events(client, is_ours, params={"since": numbers}))

    watcher = threading.Thread(target=watch)
    watcher.start()
    time.sleep(0.3)
    began = time.monotonic()
    begun(running.client(), call_id="watched")
    watcher.join(10)
    assert seen[-1]["event"] == "leg_changed"
    assert time.monotonic() - began < 5


def test_whom_the_settings_name_is_told_and_the_list_of_recordings_does_not_wait_for_that(tmp_path):
    key, told, is_broken = tmp_path / "key", [], threading.Event()
    key.write_text("whsec_" + secret_base64(32, "events"))
    key.chmod(0o600)
    may_hold(key)

    def answer(request):
        if is_broken.is_set():
            return plain(500)
        told.append(json.loads(request.body))
        return plain(200)

    trusted = authority(tmp_path)
    is_broken.set()
    with serving(answer, tls=trusted.certify("127.0.0.1")) as server:
        way = Signed(
            url=f"https://127.0.0.1:{server.port}/ended",
            secret=FromFile(key),
            ca_file=trusted.file,
            ports=(server.port,),
            allowed_networks=("127.0.0.1/32",),
        )
        settings = settings_in(tmp_path)
        settings = replace(settings, recorder=replace(settings.recorder, notify=Ways(events=way)))
        with listening(Service(settings)) as running:
            entry = recorded(running.client())
            assert told == []
            is_broken.clear()
            until(lambda: told)
    assert (told[0]["event"], told[0]["take_id"]) == ("take_ended", entry["take_id"])


# ---- who may ----


@pytest.mark.parametrize("path", ["/v1/calls", "/v1/recordings", "/v1/events", "/metrics"])
@pytest.mark.parametrize("token", [None, "wrong-token-000000000000", "x"])
def test_without_a_token_there_is_nothing(running, path, token):
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    answer = running.client(None).get(path, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("header", ["Basic YWNtZTp4", "Bearer", f"Bearer x {TOKENS['acme']}", TOKENS["acme"]])
def test_another_scheme_is_no_token(running, header):
    assert running.client(None).get("/v1/calls", headers={"Authorization": header}).status_code == 401


def test_another_tenants_calls_and_recordings_are_not_there(running, client):
    call_id, entry = begun(client), recorded(client)
    other = running.client("other")
    assert other.get("/v1/calls").json() == {"calls": []}
    for answer in (
        other.get(f"/v1/calls/{call_id}"),
        other.delete(f"/v1/calls/{call_id}"),
        act(other, call_id, action="hang_up"),
        other.post(f"/v1/calls/{call_id}/legs", json={"name": "LEG-B", "media": "none"}),
        other.get(f"/v1/recordings/{entry['take_id']}"),
        other.get(f"/v1/recordings/{entry['take_id']}/audio"),
        other.get(f"/v1/recordings/{entry['take_id']}/manifest"),
        other.get(f"/v1/recordings/{entry['take_id']}/waveform"),
    ):
        assert answer.status_code == 404
    assert other.get("/v1/recordings").json()["total"] == 0
    assert client.get(f"/v1/calls/{call_id}").status_code == 200


def test_health_needs_no_token(running):
    client = running.client(None)
    assert client.get("/healthz").text == "ok\n"
    assert client.get("/readyz").text == "ok\n"


def test_who_listens_beyond_loopback_asks_for_tokens(tmp_path):
    from callreel.errors import UsageError

    with pytest.raises(UsageError, match="on loopback only"):
        ServiceSettings(Settings(tmp_path / "spool"), host="0.0.0.0", is_open=True)
    with pytest.raises(UsageError, match="a tenant needs a token"):
        ServiceSettings(Settings(tmp_path / "spool"))


# ---- limits ----


def test_a_body_that_is_too_large_or_too_deep_is_refused(client):
    large = client.post("/v1/calls", content=b'{"call_id": "' + b"x" * 300_000 + b'"}')
    assert (large.status_code, large.json()["error"]["code"]) == (413, "too_large")
    deep = client.post("/v1/calls", content=b"[" * 1000 + b"]" * 1000)
    assert (deep.status_code, deep.json()["error"]["code"]) == (400, "too_deep")
    text = json.dumps(NO_MEDIA | {"dialect_options": {"x": "[" * 100}})
    shallow = client.post("/v1/calls", content=text, headers={"Content-Type": "application/json"})
    assert shallow.status_code == 201


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16", "utf-32"])
def test_json_in_another_encoding_than_utf_8_is_refused(client, encoding):
    # Read as bytes, the escaped quote hides the brackets behind it: they were not counted.
    body = (
        r'{"legs": [{"media": "none", "from": "\""}], "dialect_options": {"x": '
        + "[" * 300
        + "]" * 300
        + "}}"
    )
    headers = {"Content-Type": "application/json"}
    answer = client.post("/v1/calls", content=body.encode(encoding), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_utf_8")
    marked = json.dumps(NO_MEDIA).encode("utf-8-sig")
    assert client.post("/v1/calls", content=marked, headers=headers).status_code == 201


def test_a_body_that_drips_is_given_up(running, monkeypatch):
    monkeypatch.setattr(running.service.app._app, "_body_s", 0.3)
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        head = f"POST /v1/calls HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKENS['acme']}\r\n"
        connection.sendall(head.encode() + b"Content-Length: 100\r\n\r\n{")
        connection.settimeout(5)
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_draining_refuses_new_recordings_and_says_that_it_is_not_ready(tmp_path):
    with listening(Service(settings_in(tmp_path))) as running:
        client = running.client()
        call_id = begun(client)
        running.service.drain(0.0)
        assert client.get("/readyz").status_code == 503
        answer = act(client, call_id, action="start_recording")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_recordings_now")
