"""Sinch's voice API, spoken by the `sinch` package: Manage Call, conferences, Drive, callbacks, and who may not."""

import base64
import datetime
import json
import time
import wave
from dataclasses import replace
from ipaddress import ip_network

import pytest
from sinch.domains.voice.exceptions import VoiceException

from callreel.addresses import Policy
from callreel.dialects.sinch_signing import CallbackSigner, authenticate, authorization
from callreel.notify import FirstThatAnswers
from callreel.notify.webhooks import Webhook
from callreel.service.vendors import SinchSettings
from http_server import plain, serving
from service_host import listening, settings_in
from vendor_customers import begun, service_in, sinch_client, speak, tenant_called, vendors_of

ACME, OTHER = tenant_called("acme"), tenant_called("other")
CONTINUE = {"name": "continue"}
TO_DRIVE = {"destinationUrl": "sdrive://a%20call.wav", "format": "wav"}
JSON = "application/json; charset=UTF-8"


@pytest.fixture
def sinch(running):
    return sinch_client(running.url, ACME).voice


@pytest.fixture
def call_id(running):
    ACME.sinch.told.clear()
    return begun(running.client(), "sinch")


def refused(call, *args, **named):
    """(HTTP status, error code, message) of what the package raises."""
    with pytest.raises(VoiceException) as error:
        call(*args, **named)
    body = error.value.http_response.body
    return error.value.http_response.status_code, body["errorCode"], body["message"]


def signed(method, path, body=b"", *, at=0, tenant=ACME, secret=None, content_type=JSON):
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=at)
    timestamp = moment.isoformat()
    header = authorization(
        tenant.sinch_key,
        secret or tenant.sinch_secret,
        method,
        path,
        body=body,
        content_type=content_type,
        timestamp=timestamp,
    )
    return {"Authorization": header, "x-timestamp": timestamp, "Content-Type": content_type}


def basic(tenant=ACME, secret=None):
    pair = f"{tenant.sinch_key}:{secret or tenant.sinch_secret}".encode()
    return {"Authorization": "Basic " + base64.b64encode(pair).decode()}


def joined(running, conference_id, tenant="acme", **leg):
    """A call that is in a conference."""
    customer = ACME if tenant == "acme" else OTHER
    call_id = begun(running.client(tenant), "sinch", leg=leg)
    sinch_client(running.url, customer).voice.calls.update(
        call_id, [], {"name": "connectConf", "conferenceId": conference_id}
    )
    return call_id


def performed(running, call_id, name, timeout_s=10.0):
    """What the media server is asked for under that name, in the stream of events; waits for the first."""
    end = time.monotonic() + timeout_s
    while True:
        told = running.service.host.stream.since(0).told
        found = [
            one.body for one in told if one.body["event"] == "perform" and one.body["call_id"] == call_id
        ]
        if asked := [one["parameters"] for one in found if one["name"] == name]:
            return asked
        assert time.monotonic() < end
        time.sleep(0.02)


# ---- calls ----


def test_a_call_is_recorded_into_drive_and_fetched_from_there(running, service, sinch, call_id):
    start = [{"name": "startRecording", "options": TO_DRIVE}]
    sinch.calls.update(call_id, start, CONTINUE)
    speak(service, call_id, seconds=0.6)
    sinch.calls.update(call_id, [{"name": "stopRecording"}], CONTINUE)
    finished = ACME.sinch.wait_for(lambda body: body.get("type") == "recording_finished")
    assert finished["callid"] == call_id
    available = ACME.sinch.wait_for(lambda body: body.get("type") == "recording_available")
    assert available["destination"] == f"{running.url}/calling/v1/recording/a%20call.wav"
    client = running.client(None, follow_redirects=False)
    got = client.get("/calling/v1/recording/a%20call.wav", headers=basic())
    assert (got.status_code, got.headers["content-type"]) == (200, "audio/wav")
    path = service.settings.recorder.spool / "got.wav"
    path.write_bytes(got.content)
    with wave.open(str(path)) as audio:
        assert audio.getnframes() / audio.getframerate() == pytest.approx(0.6, abs=0.2)
    listed = client.get("/calling/v1/recording", headers=basic()).json()
    (entry,) = [one for one in listed if one["key"] == "a call.wav"]
    assert entry["url"] == available["destination"]
    assert entry["headers"]["Content-Length"] == str(len(got.content))


def test_a_call_is_read_while_it_goes_on_and_when_it_is_over(running, sinch, call_id):
    call = sinch.calls.get(call_id)
    assert (call.call_id, call.status, call.domain) == (call_id, "ONGOING", "pstn")
    assert call.to["endpoint"] == "+15551230001"
    assert call.timestamp.tzinfo is not None
    assert (call.user_rate.amount, call.debit.currency_id) == (0, "USD")
    running.client().delete(f"/v1/calls/{call_id}")
    over = sinch.calls.get(call_id)
    assert (over.status, over.result) == ("FINAL", "ANSWERED")


def test_managing_one_leg_plays_to_it(running, sinch, call_id):
    sinch.calls.manage_with_call_leg(
        call_id, "caller", [{"name": "say", "text": "hello", "locale": "en-US"}], CONTINUE
    )
    assert performed(running, call_id, "say")[0]["text"] == "hello"


def test_what_is_wrong_with_svaml_is_told(sinch, call_id):
    status, code, message = refused(sinch.calls.update, call_id, [], {"name": "dance"})
    assert (status, code) == (400, 40003)
    assert message.startswith("Invalid request")
    options = {"destinationUrl": "ftp://there"}
    start = [{"name": "startRecording", "options": options}]
    assert refused(sinch.calls.update, call_id, start, CONTINUE)[:2] == (400, 40001)


def test_a_call_that_is_over_or_was_never_there_is_not_found(running, sinch, call_id):
    running.client().delete(f"/v1/calls/{call_id}")
    for one in (call_id, "nobody"):
        assert refused(sinch.calls.update, one, [], CONTINUE) == (404, 40400, "Call not found")
    assert refused(sinch.calls.get, "nobody") == (404, 40400, "Call not found")


def test_another_tenants_call_is_not_found(running, call_id):
    other = sinch_client(running.url, OTHER).voice.calls
    assert refused(other.get, call_id) == (404, 40400, "Call not found")
    assert refused(other.update, call_id, [], CONTINUE) == (404, 40400, "Call not found")
    assert refused(other.manage_with_call_leg, call_id, "caller", [], CONTINUE) == (
        404,
        40400,
        "Call not found",
    )


def test_callbacks_reach_the_backend_and_its_answer_is_done(running, service):
    ACME.sinch.told.clear()
    ACME.sinch.answer = lambda body: (
        {"instructions": [{"name": "answer"}], "action": {"name": "park"}} if body["event"] == "ice" else None
    )
    try:
        call_id = begun(running.client(), "sinch", leg={"status": "offered"})
        ice = ACME.sinch.wait_for(lambda body: body["event"] == "ice")
        assert (ice["callid"], ice["applicationKey"], ice["cli"]) == (call_id, ACME.sinch_key, "+15551230002")
        assert ice["callResourceUrl"] == f"{running.url}/calling/v1/calls/id/{call_id}"
        assert running.client(None).get(ice["callResourceUrl"], headers=basic()).json()["callId"] == call_id
        assert (ice["userRate"]["amount"], ice["duration"], ice["rdnis"], ice["callHeaders"]) == (
            0,
            0,
            "",
            [],
        )
        assert performed(running, call_id, "answer")
    finally:
        ACME.sinch.answer = lambda body: None
    running.client().delete(f"/v1/calls/{call_id}")
    dice = ACME.sinch.wait_for(lambda body: body["event"] == "dice")
    assert (dice["callid"], dice["callHeaders"]) == (call_id, [])
    assert dice["debit"] == dice["userRate"] == {"currencyId": "USD", "amount": 0}


def test_what_a_menu_came_to_reaches_the_backend_and_its_answer_is_done(running):
    ACME.sinch.told.clear()
    answers = {
        "ice": {"action": {"name": "runMenu", "menus": [{"id": "main", "maxDigits": 4}]}},
        "pie": {"instructions": [{"name": "say", "text": "thank you"}], "action": {"name": "hangup"}},
    }
    ACME.sinch.answer = lambda body: answers.get(body["event"])
    try:
        client = running.client()
        call_id = begun(client, "sinch", leg={"status": "offered"})
        assert performed(running, call_id, "runMenu") == [{"menus": [{"id": "main", "maxDigits": 4}]}]
        pressed = {"menuId": "main", "type": "sequence", "value": "1234", "inputMethod": "dtmf"}
        done = {"action": "performed", "action_id": "1.1", "result": pressed | {"took_s": 2}}
        assert client.post(f"/v1/calls/{call_id}/actions", json=done).status_code == 200
        pie = ACME.sinch.wait_for(lambda body: body["event"] == "pie")
        assert (pie["callid"], pie["applicationKey"], pie["menuResult"]) == (call_id, ACME.sinch_key, pressed)
        assert performed(running, call_id, "say")[0]["text"] == "thank you"
        done = {"action": "performed", "action_id": "2.1"}
        assert client.post(f"/v1/calls/{call_id}/actions", json=done).status_code == 200
        assert ACME.sinch.wait_for(lambda body: body["event"] == "dice")["reason"] == "MANAGERHANGUP"
    finally:
        ACME.sinch.answer = lambda body: None


def test_callbacks_are_signed_and_go_to_the_fallback_when_they_must(tmp_path):
    acme = tenant_called("acme")
    with (
        serving(lambda request: plain(500)) as broken,
        serving(lambda request: plain(body=b'{"action": {"name": "hangup"}}')) as backend,
    ):
        ports = (broken.port, backend.port)
        policy = Policy(schemes=("http",), ports=ports, allowed=(ip_network("127.0.0.0/8"),))
        signer = CallbackSigner(acme.sinch_key, lambda: acme.sinch_secret)
        urls = [f"http://127.0.0.1:{port}/calls" for port in ports]
        ways = FirstThatAnswers(*(Webhook(url, signer=signer, policy=policy) for url in urls))
        vendors = vendors_of(tmp_path, [acme])
        application = replace(vendors.sinch.applications[acme.sinch_key], backend=ways)
        vendors = replace(vendors, sinch=SinchSettings({acme.sinch_key: application}))
        with listening(service_in(tmp_path, acme, vendors=vendors)) as running:
            call_id = begun(running.client(), "sinch", leg={"status": "offered"})
            end = time.monotonic() + 10
            while running.client().get(f"/v1/calls/{call_id}").json()["ended_at"] is None:
                assert time.monotonic() < end
                time.sleep(0.02)
        ice = backend.requests[0]
        assert json.loads(ice.body)["event"] == "ice"
        assert json.loads(broken.requests[0].body) == json.loads(ice.body)
        now = datetime.datetime.now(datetime.UTC)
        secrets = {acme.sinch_key: acme.sinch_secret}
        assert authenticate(ice.headers, "POST", "/calls", body=ice.body, secrets=secrets, now=now)


# ---- conferences ----


def test_who_is_in_a_conference_is_told(running, sinch):
    first = joined(running, "a room", **{"from": "+15550000001"})
    second = joined(running, "a room", **{"from": "+15550000002"})
    joined(running, "another room")
    there = sinch.conferences.get("a room").participants
    assert [(one.id, one.cli, one.muted, one.onhold) for one in there] == [
        (first, "+15550000001", False, False),
        (second, "+15550000002", False, False),
    ]
    running.client().delete(f"/v1/calls/{first}")
    assert [one.id for one in sinch.conferences.get("a room").participants] == [second]


def test_a_participant_is_muted_and_put_on_hold(running, sinch):
    call_id = joined(running, "mute")
    sinch.conferences.manage_participant(call_id, "mute", "mute")
    sinch.conferences.manage_participant(call_id, "mute", "onhold", "music1")
    (there,) = sinch.conferences.get("mute").participants
    assert (there.muted, there.onhold) == (True, True)
    sinch.conferences.manage_participant(call_id, "mute", "unmute")
    sinch.conferences.manage_participant(call_id, "mute", "resume")
    (there,) = sinch.conferences.get("mute").participants
    assert (there.muted, there.onhold) == (False, False)
    assert performed(running, call_id, "resume")
    assert performed(running, call_id, "onhold") == [{"conferenceId": "mute", "moh": "music1"}]


def test_a_command_that_is_none_is_refused(running, sinch):
    call_id = joined(running, "commands")
    manage = sinch.conferences.manage_participant
    assert refused(manage, call_id, "commands", "shout")[:2] == (400, 40001)
    assert refused(manage, call_id, "commands", "mute", "music1")[:2] == (400, 40001)
    assert refused(manage, call_id, "commands", "onhold", "opera")[:2] == (400, 40001)
    assert refused(manage, call_id, "commands", None)[:2] == (400, 40002)
    assert refused(manage, call_id, "elsewhere", "mute") == (404, 40400, "Conference not found")


def test_participants_are_made_to_leave(running, sinch):
    first, second, third = (joined(running, "leaving") for _ in range(3))
    sinch.conferences.kick_participant(first, "leaving")
    end = time.monotonic() + 5
    while [one.id for one in sinch.conferences.get("leaving").participants] != [second, third]:
        assert time.monotonic() < end
    sinch.conferences.kick_all("leaving")
    while running.client().get(f"/v1/calls/{third}").json()["ended_at"] is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert refused(sinch.conferences.get, "leaving") == (404, 40400, "Conference not found")
    assert refused(sinch.conferences.kick_all, "leaving") == (404, 40400, "Conference not found")
    assert sinch.calls.get(second).reason == "MANAGERHANGUP"


def test_another_tenants_conference_is_not_found(running, sinch):
    call_id = joined(running, "theirs", tenant="other")
    assert refused(sinch.conferences.get, "theirs") == (404, 40400, "Conference not found")
    assert refused(sinch.conferences.kick_all, "theirs") == (404, 40400, "Conference not found")
    assert refused(sinch.conferences.kick_participant, call_id, "theirs") == (404, 40400, "Call not found")
    joined(running, "theirs")
    assert len(sinch.conferences.get("theirs").participants) == 1


# ---- Drive ----


@pytest.fixture
def stored(service, tmp_path):
    """Recordings in the drives of both tenants."""
    import hashlib

    from callreel.delivery import Parcel

    for tenant in (ACME, OTHER):
        path = tmp_path / "file"
        path.write_bytes(tenant.name.encode() * 100)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        for key in ("one.mp3", "two.mp3"):
            parcel = Parcel(path, key, path.stat().st_size, digest, "audio/mpeg", {}, overwrite=True)
            service._drive(tenant.name).deliver(parcel)


def test_every_tenant_has_a_drive_of_its_own(running, stored):
    client = running.client(None)
    for tenant in (ACME, OTHER):
        got = client.get("/calling/v1/recording/one.mp3", headers=basic(tenant))
        assert got.content == tenant.name.encode() * 100
    assert client.delete("/calling/v1/recording/one.mp3", headers=basic(OTHER)).status_code == 204
    assert client.get("/calling/v1/recording/one.mp3", headers=basic(OTHER)).status_code == 404
    assert client.get("/calling/v1/recording/one.mp3", headers=basic()).status_code == 200


def test_a_range_of_a_recording_is_given(running, stored):
    client = running.client(None)

    def part(text):
        got = client.get("/calling/v1/recording/two.mp3", headers=basic() | {"Range": text})
        return got.status_code, got.content, got.headers.get("content-range")

    assert part("bytes=0-3") == (206, b"acme", "bytes 0-3/400")
    assert part("bytes=-2") == (206, b"me", "bytes 398-399/400")
    assert part("bytes=398-") == (206, b"me", "bytes 398-399/400")
    assert part("bytes=390-9999")[0] == 206
    assert part("lines=1-2")[0] == part("bytes=5-2")[0] == 200
    assert part("bytes=400-")[0] == part("bytes=-0")[0] == 400


def test_an_encrypted_recording_is_given_in_the_clear(tmp_path):
    acme, key = tenant_called("acme"), tmp_path / "recordings.key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    recorder = replace(settings_in(tmp_path).recorder, key_file=key)
    service = service_in(tmp_path, acme, recorder=recorder)
    with listening(service) as running:
        call_id = begun(running.client(), "sinch")
        start = [{"name": "startRecording", "options": TO_DRIVE}]
        sinch_client(running.url, acme).voice.calls.update(call_id, start, CONTINUE)
        speak(service, call_id, seconds=0.3)
        running.client().delete(f"/v1/calls/{call_id}")
        acme.sinch.wait_for(lambda body: body.get("type") == "recording_available")
        (stored,) = (tmp_path / "spool" / "drives" / "acme" / "files").iterdir()
        assert not stored.read_bytes().startswith(b"RIFF")

        def got(**headers):
            return running.client(None).get(
                "/calling/v1/recording/a%20call.wav", headers=basic(acme) | headers
            )

        whole = got()
        assert whole.content.startswith(b"RIFF")
        assert int(whole.headers["content-length"]) == len(whole.content)
        part = got(Range="bytes=8-11")
        assert (part.status_code, part.content) == (206, b"WAVE")
        assert part.headers["content-range"] == f"bytes 8-11/{len(whole.content)}"
        assert got(Range="bytes=-4").content == whole.content[-4:]
        assert got(Range=f"bytes={len(whole.content)}-").status_code == 400


def test_recordings_are_listed_by_page_and_time(running, stored):
    client = running.client(None)

    def listed(**query):
        answer = client.get("/calling/v1/recording", params=query, headers=basic())
        body = answer.json()
        return body["message"] if answer.status_code == 400 else [one["key"] for one in body]

    assert {"one.mp3", "two.mp3"} <= set(listed())
    assert len(listed(pageSize=1)) == 1
    assert listed(page=50) == []
    assert listed(to="2020-01-01T00:00:00Z") == []
    assert len(listed(**{"from": "2020-01-01T00:00:00+00:00"})) >= 2
    assert listed(page=0) == "'pageNumber' must be greater than 0"
    assert listed(pageSize="x") == "'pageSize' must be a positive integer"
    assert listed(**{"from": "2021-01-01", "to": "2020-01-01"}) == "'to' must be greater than 'from'"
    assert listed(to="yesterday") == "'to' must be a date and time"


@pytest.mark.parametrize(
    "path",
    [
        "..%2F..%2Flibrary.sqlite",
        "../../library.sqlite",
        "%2e%2e/%2e%2e/library.sqlite",
        "/etc/passwd",
        "a%00b",
    ],
)
def test_nothing_outside_of_a_drive_is_reached(running, stored, path):
    import socket

    target = f"/calling/v1/recording/{path}"
    for method in ("GET", "DELETE"):
        lines = [f"{method} {target} HTTP/1.1", "Host: a", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in basic().items()]
        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
            connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b" 404 " in head.splitlines()[0]
        assert json.loads(body)["errorCode"] == 40400


def test_what_is_not_in_drive_is_not_found(running):
    client = running.client(None)
    for method in ("GET", "DELETE"):
        answer = client.request(method, "/calling/v1/recording/nothing.mp3", headers=basic())
        assert (answer.status_code, answer.json()["message"]) == (404, "Recording not found")
        empty = client.request(method, "/calling/v1/recording/", headers=basic())
        assert (empty.status_code, empty.json()["errorCode"]) == (400, 40002)


# ---- who asks ----


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 40100),
        ({"Authorization": "Bearer acme-token-0123456789abcdef"}, 40100),
        ({"Authorization": "Application nobody"}, 40100),
        (basic(secret="d3Jvbmc="), 40108),
        (basic(tenant_called("nobody")), 40108),
        ({"Authorization": "Basic !!"}, 40100),
    ],
)
def test_who_does_not_say_who_they_are_is_refused(running, call_id, headers, code):
    answer = running.client(None).get(f"/calling/v1/calls/id/{call_id}", headers=headers)
    assert (answer.status_code, answer.json()["errorCode"]) == (401, code)
    assert "application" in answer.headers["www-authenticate"].lower()


def test_a_wrong_secret_is_refused(running, call_id):
    wrong = sinch_client(running.url, ACME, secret=OTHER.sinch_secret).voice
    assert refused(wrong.calls.get, call_id)[:2] == (401, 40102)
    unknown = sinch_client(running.url, tenant_called("nobody")).voice
    assert refused(unknown.calls.get, call_id)[:2] == (401, 40102)


@pytest.mark.parametrize(("at", "status"), [(-290, 204), (290, 204), (-310, 401), (310, 401)])
def test_a_clock_may_be_five_minutes_off(running, call_id, at, status):
    path, body = f"/calling/v1/calls/id/{call_id}", b'{"action":{"name":"continue"}}'
    answer = running.client(None).patch(path, content=body, headers=signed("PATCH", path, body, at=at))
    assert answer.status_code == status
    if status == 401:
        assert answer.json()["errorCode"] == 40101


def test_an_altered_body_or_path_is_refused(running, call_id):
    path, body = f"/calling/v1/calls/id/{call_id}", b'{"action":{"name":"continue"}}'
    client, headers = running.client(None), signed("PATCH", path, body)
    altered = client.patch(path, content=b'{"action":{"name":"hangup"}}', headers=headers)
    assert (altered.status_code, altered.json()["errorCode"]) == (401, 40102)
    elsewhere = client.patch(path + "/leg/caller", content=body, headers=headers)
    assert (elsewhere.status_code, elsewhere.json()["errorCode"]) == (401, 40102)


def test_a_signature_that_comes_again_gets_its_answer_and_does_nothing(running, call_id):
    path = f"/calling/v1/calls/id/{call_id}"
    body = b'{"instructions":[{"name":"say","text":"once"}],"action":{"name":"continue"}}'
    client, headers = running.client(None), signed("PATCH", path, body)
    assert [client.patch(path, content=body, headers=headers).status_code for _ in range(3)] == [204] * 3
    assert performed(running, call_id, "say")
    time.sleep(0.2)
    assert len(performed(running, call_id, "say")) == 1


def test_a_second_authorization_does_not_make_an_old_request_new(running, call_id):
    path = f"/calling/v1/calls/id/{call_id}"
    body = b'{"instructions":[{"name":"say","text":"once"}],"action":{"name":"continue"}}'
    headers = signed("PATCH", path, body)
    for number in range(3):
        pairs = [("Authorization", f"Application nobody:{number}"), *headers.items(), ("X-Own", str(number))]
        assert running.client(None).patch(path, content=body, headers=pairs).status_code == 204
    assert performed(running, call_id, "say")
    time.sleep(0.2)
    assert len(performed(running, call_id, "say")) == 1


def test_a_deletion_that_comes_again_deletes_nothing_else(running, service, stored):
    path = "/calling/v1/recording/one.mp3"
    client, headers = running.client(None), signed("DELETE", path)
    assert client.delete(path, headers=headers).status_code == 204
    assert client.delete(path, headers=headers).status_code == 204
    assert client.get(path, headers=basic()).status_code == 404


# ---- errors ----


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff", b'{"action":7}', b'{"instructions":{}}']
)
def test_what_is_no_svaml_is_refused_as_sinch_does(running, call_id, body):
    path = f"/calling/v1/calls/id/{call_id}"
    answer = running.client(None).patch(path, content=body, headers=basic())
    assert (answer.status_code, answer.json()["errorCode"]) == (400, 40003)


def test_a_path_that_there_is_not_is_refused_as_sinch_does(running):
    answer = running.client(None).get("/calling/v1/nothing")
    assert (answer.status_code, answer.json()["errorCode"]) == (404, 40400)
    method = running.client(None).put("/calling/v1/recording")
    assert (method.status_code, method.json()["errorCode"]) == (405, 40500)


def test_nobody_needs_to_say_who_they_are_in_an_open_service(tmp_path):
    with listening(service_in(tmp_path, ACME, tokens={}, is_open=True)) as running:
        call_id = begun(running.client(None), "sinch")
        assert running.client(None).get(f"/calling/v1/calls/id/{call_id}").json()["status"] == "ONGOING"
