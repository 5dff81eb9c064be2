"""Microsoft Graph's cloud communications, spoken by `msgraph-sdk`: operations, tones, downloads, and who may not."""

import asyncio
import contextlib
import os
import time
import uuid
import wave
from dataclasses import replace
from io import BytesIO

import pytest
from kiota_abstractions.api_error import APIError
from msgraph.generated.communications.calls.item.cancel_media_processing.cancel_media_processing_post_request_body import (  # noqa: E501
    CancelMediaProcessingPostRequestBody,
)
from msgraph.generated.communications.calls.item.play_prompt.play_prompt_post_request_body import (
    PlayPromptPostRequestBody,
)
from msgraph.generated.communications.calls.item.record_response.record_response_post_request_body import (
    RecordResponsePostRequestBody,
)
from msgraph.generated.communications.calls.item.subscribe_to_tone.subscribe_to_tone_post_request_body import (
    SubscribeToTonePostRequestBody,
)
from msgraph.generated.models.media_info import MediaInfo
from msgraph.generated.models.media_prompt import MediaPrompt
from msgraph.generated.models.operation_status import OperationStatus

from callreel.errors import DeliveryInterruptedError
from callreel.service.vendors import GraphSettings
from service_host import listening, settings_in
from vendor_customers import SIGNING, begun, graph_client, service_in, speak, tenant_called, vendors_of

ACME, OTHER = tenant_called("acme"), tenant_called("other")
# The client's own: it makes classes that it has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:msgraph"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:kiota_abstractions"),
]

PATHS = [
    "/app/calls/{}/record",
    "/applications/{app}/calls/{}/record",
    "/communications/calls/{}/recordResponse",
]


@pytest.fixture
def call_id(running):
    ACME.graph.told.clear()
    return begun(running.client(), "graph", call_id=str(uuid.uuid4()))


@pytest.fixture
def http(running):
    """A plain client with acme's token."""
    return bearing(running, SIGNING.token(ACME.graph_application))


def bearing(running, token):
    client = running.client(None)
    client.headers["Authorization"] = f"Bearer {token}"
    return client


def ask(running, call_id, verb, body=None, tenant=ACME):
    """What msgraph-sdk makes of the answer, in a loop of its own, as that library has it."""

    async def run():
        async with graph_client(running.url, SIGNING.token(tenant.graph_application)) as graph:
            call = graph.communications.calls.by_call_id(call_id)
            return await (call.delete() if verb == "delete" else getattr(call, verb).post(body))

    return asyncio.run(run())


def refused(*what):
    """(HTTP status, code) of what msgraph-sdk raises."""
    with pytest.raises(APIError) as error:
        ask(*what)
    assert error.value.error.message
    return error.value.response_status_code, error.value.error.code


def ended(body, operation_id):
    """Whether a notification tells the end of an operation."""
    (one,) = body["value"]
    return one["changeType"] == "deleted" and one["resourceData"].get("id") == operation_id


def record(**changes):
    body = RecordResponsePostRequestBody(play_beep=False, max_record_duration_in_seconds=1)
    for name, value in changes.items():
        setattr(body, name, value)
    return body


def recorded(running, service, call_id, tenant=ACME):
    """The notification of a recording that is complete."""
    operation = ask(running, call_id, "record_response", record(), tenant)
    speak(service, call_id, seconds=1.2)
    told = tenant.graph.wait_for(lambda body: ended(body, operation.id))
    return told["value"][0]["resourceData"]


# ---- operations ----


def test_what_a_caller_says_is_recorded_and_downloaded(running, service, call_id):
    asked = record(client_context="what they said", stop_tones=["#"])
    operation = ask(running, call_id, "record_response", asked)
    assert operation.status == OperationStatus.Running
    assert operation.client_context == "what they said"
    speak(service, call_id, seconds=1.2)
    told = ACME.graph.wait_for(lambda body: ended(body, operation.id))["value"][0]["resourceData"]
    assert (told["status"], told["completionReason"]) == ("completed", "maxRecordDurationReached")
    location, token = told["recordingLocation"], told["recordingAccessToken"]
    assert location.startswith(running.url)
    got = bearing(running, token).get(location)
    assert (got.status_code, got.headers["content-type"]) == (200, "application/octet-stream")
    assert got.headers["transfer-encoding"] == "chunked"
    with wave.open(BytesIO(got.content)) as audio:
        assert (audio.getframerate(), audio.getnchannels(), audio.getsampwidth()) == (16_000, 1, 2)
        assert audio.getnframes() == 16_000
    assert bearing(running, token).get(location).content == got.content


@pytest.mark.parametrize("version", ["", "/v1.0", "/beta"])
@pytest.mark.parametrize("path", PATHS)
def test_all_paths_of_the_reference_record(running, http, call_id, path, version):
    path = version + path.format(call_id, app=ACME.graph_application)
    answer = http.post(path, json={"maxRecordDurationInSeconds": 1})
    assert answer.status_code == 200
    operation = answer.json()
    assert operation["@odata.type"] == "#microsoft.graph.recordOperation"
    location = answer.headers["location"]
    assert location == f"{running.url}{path.rpartition('/')[0]}/operations/{operation['id']}"
    assert http.get(location).json()["id"] == operation["id"]
    compact = call_id.replace("-", "").upper()
    assert http.get(location.replace(call_id, compact)).json()["id"] == operation["id"]


def test_prompts_are_played_one_after_the_other(running, service, call_id, monkeypatch):
    asked = []

    def prompt(uri):
        asked.append(uri)
        return bytes(3200), 16_000

    monkeypatch.setattr(service.host, "_prompts", prompt)
    prompts = [
        MediaPrompt(
            odata_type="#microsoft.graph.mediaPrompt",
            media_info=MediaInfo(uri=f"https://cdn.example/{n}.wav"),
        )
        for n in range(3)
    ]
    asks = PlayPromptPostRequestBody(prompts=prompts, client_context="listen")
    operation = ask(running, call_id, "play_prompt", asks)
    told = ACME.graph.wait_for(lambda body: ended(body, operation.id))["value"][0]["resourceData"]
    assert (told["status"], told["clientContext"]) == ("completed", "listen")
    assert asked == [f"https://cdn.example/{n}.wav" for n in range(3)]
    assert service.host.call(call_id).media["LEG-A"].played == [0.1] * 3


def test_a_prompt_that_cannot_be_had_fails_the_operation(running, http, call_id):
    body = {"prompts": [{"mediaInfo": {"uri": "http://127.0.0.1:9/secret.wav"}}]}
    operation = http.post(f"/communications/calls/{call_id}/playPrompt", json=body).json()
    told = ACME.graph.wait_for(lambda told: ended(told, operation["id"]))["value"][0]["resourceData"]
    assert (told["status"], told["resultInfo"]["subcode"]) == ("failed", 8536)


def test_what_runs_is_cancelled(running, call_id):
    operation = ask(running, call_id, "record_response", record(max_record_duration_in_seconds=60))
    stop = CancelMediaProcessingPostRequestBody(client_context="stop")
    cancelled = ask(running, call_id, "cancel_media_processing", stop)
    assert (cancelled.status, cancelled.client_context) == (OperationStatus.Completed, "stop")
    told = ACME.graph.wait_for(lambda body: ended(body, operation.id))["value"][0]["resourceData"]
    assert (told["status"], told["resultInfo"]["subcode"], told["recordingLocation"]) == ("failed", 8508, "")


def test_keys_are_told_to_who_has_subscribed(running, call_id):
    keys = SubscribeToTonePostRequestBody(client_context="keys")
    assert ask(running, call_id, "subscribe_to_tone", keys).client_context == "keys"
    running.client().post(f"/v1/calls/{call_id}/actions", json={"action": "digit", "symbol": "5"})
    told = ACME.graph.wait_for(lambda body: "toneInfo" in body["value"][0]["resourceData"])
    assert told["value"][0]["resourceData"]["toneInfo"]["tone"] == "tone5"


def test_a_call_is_deleted(running, call_id):
    ask(running, call_id, "delete")
    told = ACME.graph.wait_for(lambda body: body["value"][0]["resourceData"].get("state") == "terminated")
    assert told["value"][0]["changeType"] == "deleted"
    assert refused(running, call_id, "delete") == (404, "8522")
    end = time.monotonic() + 5
    while running.client().get(f"/v1/calls/{call_id}").json()["ended_at"] is None:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_is_wrong_with_a_request_is_told(running, call_id):
    too_long = record(max_record_duration_in_seconds=121)
    assert refused(running, call_id, "record_response", too_long) == (400, "8523")
    assert refused(running, "nobody", "record_response", record()) == (404, "8522")


def operation_of(running, call_id, operation_id):
    """What msgraph-sdk reads at an operation's Location."""

    async def run():
        async with graph_client(running.url, SIGNING.token(ACME.graph_application)) as graph:
            call = graph.communications.calls.by_call_id(call_id)
            return await call.operations.by_comms_operation_id(operation_id).get()

    return asyncio.run(run())


def test_an_operation_is_found_until_its_call_ends(running, service, http, call_id):
    told = recorded(running, service, call_id)
    found = operation_of(running, call_id, told["id"])
    assert (found.status, found.result_info.subcode) == (OperationStatus.Completed, 8515)
    assert found.recording_location == told["recordingLocation"]
    assert found.recording_access_token == told["recordingAccessToken"]
    assert bearing(running, found.recording_access_token).get(found.recording_location).status_code == 200
    for verb in ("cancelMediaProcessing", "subscribeToTone"):
        answer = http.post(f"/communications/calls/{call_id}/{verb}", json={"clientContext": verb})
        assert http.get(answer.headers["location"]).json() == answer.json()
    running.client().delete(f"/v1/calls/{call_id}")
    location = f"/communications/calls/{call_id}/operations/{told['id']}"
    assert http.get(location).status_code == 404


def test_without_a_word_notifications_are_those_of_the_page_of_2019(tmp_path):
    acme = tenant_called("acme")
    vendors = vendors_of(tmp_path, [acme])
    given = vendors.graph
    plain = GraphSettings(
        given.applications, issuers=given.issuers, audiences=given.audiences, jwks=given.jwks
    )
    service = service_in(tmp_path, acme, vendors=replace(vendors, graph=plain))
    with listening(service) as running:
        call_id = begun(running.client(), "graph", call_id=str(uuid.uuid4()))
        client = bearing(running, SIGNING.token(acme.graph_application))
        path = f"/app/calls/{call_id}/record"
        assert client.post(path, json={"maxRecordDurationInSeconds": 301}).status_code == 400
        asked = {
            "maxRecordDurationInSeconds": 300,
            "playBeep": False,
            "stopTones": ["#"],
            "clientContext": "x",
        }
        answer = client.post(path, json=asked)
        assert (answer.status_code, answer.json()["status"]) == (200, "running")
        speak(service, call_id, seconds=0.6)
        running.client().post(f"/v1/calls/{call_id}/actions", json={"action": "digit", "symbol": "#"})
        body = acme.graph.wait_for(lambda body: ended(body, answer.json()["id"]))
        compact = [one.replace("-", "").upper() for one in (call_id, answer.json()["id"])]
        name = "/app/calls/{}/operations/{}".format(*compact)
        (one,) = body["value"]
        assert list(body) == ["value"]
        assert (one["changeType"], one["resource"], "resourceUrl" in one) == ("deleted", name, False)
        told = one["resourceData"]
        assert (told["@odata.type"], told["@odata.id"]) == ("#microsoft.graph.recordOperation", name)
        assert (told["status"], told["completionReason"], told["clientContext"]) == (
            "completed",
            "stopToneDetected",
            "x",
        )
        got = bearing(running, told["recordingAccessToken"]).get(told["recordingLocation"])
        with wave.open(BytesIO(got.content)) as audio:
            assert audio.getnframes() / audio.getframerate() == pytest.approx(0.6, abs=0.3)
        running.client().delete(f"/v1/calls/{call_id}")
        body = acme.graph.wait_for(lambda body: body["value"][0]["resourceData"].get("state") == "terminated")
        assert body["value"][0]["resource"] == f"/app/calls/{compact[0]}"


def test_the_token_of_an_operation_is_written_nowhere(tmp_path):
    acme = tenant_called("acme")
    service = service_in(tmp_path, acme)
    with listening(service) as running:
        call_id = begun(running.client(), "graph")
        told = recorded(running, service, call_id, acme)
        path = f"/communications/calls/{call_id}/operations/{told['id']}"
        for headers in ({}, {"Idempotency-Key": "a key"}):
            asked = {"action": "request", "document": {"method": "GET", "path": path}}
            answer = running.client().post(f"/v1/calls/{call_id}/actions", json=asked, headers=headers)
            found = answer.json()["response"]["body"]
            assert found["recordingAccessToken"] == told["recordingAccessToken"]
        assert on_disk(tmp_path, told["recordingAccessToken"]) == []
    assert on_disk(tmp_path, told["recordingAccessToken"]) == []


# ---- downloads ----


def test_a_recording_needs_its_own_token(running, service, http, call_id):
    told = recorded(running, service, call_id)
    location, token = told["recordingLocation"], told["recordingAccessToken"]
    assert running.client(None).get(location).status_code == 401
    assert http.get(location).status_code == 401
    assert bearing(running, token + "x").get(location).status_code == 401
    other = begun(running.client("other"), "graph")
    theirs = recorded(running, service, other, OTHER)
    assert bearing(running, theirs["recordingAccessToken"]).get(location).status_code == 401
    missing = bearing(running, token).get(location + "x")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "itemNotFound")
    assert bearing(running, token).get("/graph/recordings/nobody/nothing").status_code == 404
    assert bearing(running, token).get(location).status_code == 200


def test_a_recording_is_gone_shortly_after_its_call(tmp_path):
    acme = tenant_called("acme")
    vendors = vendors_of(tmp_path, [acme])
    short = replace(vendors, graph=replace(vendors.graph, grace_s=1.0))
    service = service_in(tmp_path, acme, vendors=short)
    with listening(service) as running:
        call_id = begun(running.client(), "graph")
        told = recorded(running, service, call_id, acme)
        location, client = told["recordingLocation"], bearing(running, told["recordingAccessToken"])
        held = list((tmp_path / "spool" / "held").rglob("*.wav"))
        assert len(held) == 1
        time.sleep(1.1)
        service.sweep()
        assert client.get(location).status_code == 200
        running.client().delete(f"/v1/calls/{call_id}")
        assert client.get(location).status_code == 200
        time.sleep(1.2)
        assert client.get(location).status_code == 410
        service.sweep()
        assert not held[0].exists()


def on_disk(folder, text):
    """The files below a folder that hold a text."""
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # what the service is done with goes
            if path.is_file() and text.encode() in path.read_bytes():
                found.append(path)
    return found


def test_a_recording_outlives_restarts_until_its_time_is_over(tmp_path):
    acme = tenant_called("acme")
    vendors = vendors_of(tmp_path, [acme])
    service = service_in(tmp_path, acme, vendors=vendors)
    with listening(service) as running:
        call_id = begun(running.client(), "graph")
        told = recorded(running, service, call_id, acme)
        token, url = told["recordingAccessToken"], running.url
        whole = bearing(running, token).get(told["recordingLocation"]).content
    assert on_disk(tmp_path, token) == []
    (held,) = (tmp_path / "spool" / "held").rglob("*.wav")
    os.utime(held, (1, 1))  # recorded long ago, in a call that went on until the restart
    os.utime(held.parent, (1, 1))
    service = service_in(tmp_path, acme, vendors=vendors)
    with listening(service) as running:
        location = told["recordingLocation"].replace(url, running.url)
        service.sweep()
        got = bearing(running, token).get(location)
        assert (got.status_code, got.content) == (200, whole)
        assert bearing(running, token + "x").get(location).status_code == 401
        assert running.client(None).get(location).status_code == 401
        assert bearing(running, token).get(location + "x").status_code == 404
    over = replace(vendors, graph=replace(vendors.graph, grace_s=0.001))
    service = service_in(tmp_path, acme, vendors=over)
    with listening(service) as running:
        location = told["recordingLocation"].replace(url, running.url)
        assert bearing(running, token).get(location).status_code == 410
        service.sweep()
        assert not held.exists()
        assert bearing(running, token).get(location).status_code == 410


def test_notifications_that_a_restart_has_cut_off_are_told_with_a_token_that_opens_the_recording(tmp_path):
    acme = tenant_called("acme")
    first_told = []

    def away(body):
        first_told.append(body["value"][0]["resourceData"])
        raise DeliveryInterruptedError("nobody answers", retryable=True)

    acme.graph.answer = away
    service = service_in(tmp_path, acme)
    with listening(service) as running:
        call_id = begun(running.client(), "graph")
        operation = ask(running, call_id, "record_response", record(), acme)
        speak(service, call_id, seconds=1.2)
        acme.graph.wait_for(lambda body: ended(body, operation.id))
        other = begun(running.client(), "graph")
        failed = ask(running, other, "record_response", record(max_record_duration_in_seconds=60), acme)
        ask(running, other, "cancel_media_processing", CancelMediaProcessingPostRequestBody(), acme)
        acme.graph.wait_for(lambda body: ended(body, failed.id))
        url = running.url
    first = next(one["recordingAccessToken"] for one in first_told if one["id"] == operation.id)
    acme.graph.told.clear()
    acme.graph.answer = lambda body: None
    with listening(service_in(tmp_path, acme)) as running:
        told = acme.graph.wait_for(lambda body: ended(body, operation.id), 60)["value"][0]["resourceData"]
        location = told["recordingLocation"].replace(url, running.url)
        again = told["recordingAccessToken"]
        assert again not in (None, "", first)
        for token in (first, again):  # the first may have arrived all the same
            assert bearing(running, token).get(location).status_code == 200
            assert on_disk(tmp_path, token) == []
        told = acme.graph.wait_for(lambda body: ended(body, failed.id), 60)["value"][0]["resourceData"]
        assert (told["status"], told["recordingLocation"], told["recordingAccessToken"]) == ("failed", "", "")


def test_an_encrypted_recording_is_downloaded_in_the_clear(tmp_path):
    acme = tenant_called("acme")
    key = tmp_path / "recordings.key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    recorder = replace(settings_in(tmp_path).recorder, key_file=key)
    service = service_in(tmp_path, acme, recorder=recorder)
    with listening(service) as running:
        call_id = begun(running.client(), "graph")
        told = recorded(running, service, call_id, acme)
        (held,) = (tmp_path / "spool" / "held").rglob("*.wav")
        assert not held.read_bytes().startswith(b"RIFF")
        got = bearing(running, told["recordingAccessToken"]).get(told["recordingLocation"])
        with wave.open(BytesIO(got.content)) as audio:
            assert audio.getnframes() == 16_000


# ---- who asks ----


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Basic YTpi", "Bearer a.b.c", "Bearer acme-token-0123456789abcdef"],
)
def test_who_has_no_token_is_refused(running, call_id, authorization):
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = running.client(None).post(
        f"/communications/calls/{call_id}/recordResponse", json={}, headers=headers
    )
    assert answer.status_code == 401
    error = answer.json()["error"]
    assert error["code"] == "InvalidAuthenticationToken"
    assert uuid.UUID(error["innerError"]["request-id"])
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"exp": 1}, 401),
        ({"iss": "https://somebody.example"}, 401),
        ({"aud": "somebody"}, 401),
        ({"roles": []}, 403),
        ({"scp": "Calls.AccessMedia.All"}, 403),
    ],
)
def test_a_token_that_does_not_do_is_refused(running, call_id, claims, status):
    client = bearing(running, SIGNING.token(ACME.graph_application, **claims))
    answer = client.post(f"/communications/calls/{call_id}/recordResponse", json={})
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_another_tenants_call_is_not_found(running, http, call_id):
    assert refused(running, call_id, "record_response", record(), OTHER) == (404, "8522")
    operation = http.post(
        f"/communications/calls/{call_id}/recordResponse", json={"maxRecordDurationInSeconds": 1}
    )
    other = bearing(running, SIGNING.token(OTHER.graph_application))
    assert other.get(operation.headers["location"]).status_code == 404
    assert other.delete(f"/communications/calls/{call_id}").status_code == 404
    assert http.get(operation.headers["location"]).status_code == 200


def test_an_application_asks_in_its_own_name(http, call_id):
    answer = http.post(f"/applications/{OTHER.graph_application}/calls/{call_id}/record", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "8522")


def test_a_call_without_graph_is_not_found(running, http):
    call_id = begun(running.client(), "sinch")
    assert http.post(f"/app/calls/{call_id}/record", json={}).status_code == 404


# ---- errors ----


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff"])
def test_what_is_no_json_object_is_refused_as_graph_does(http, call_id, body):
    headers = {"Content-Type": "application/json"}
    answer = http.post(f"/communications/calls/{call_id}/recordResponse", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalidRequest")


def test_another_content_type_is_refused(http, call_id):
    headers = {"Content-Type": "text/plain"}
    answer = http.post(f"/communications/calls/{call_id}/recordResponse", content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "invalidRequest")


def test_a_path_that_there_is_not_is_refused_as_graph_does(http, call_id):
    for path in (f"/communications/calls/{call_id}/dance", "/v1.0/communications/nothing", "/beta/app/x/y/z"):
        answer = http.post(path, json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "itemNotFound")
    method = http.put(f"/communications/calls/{call_id}/recordResponse")
    assert (method.status_code, method.json()["error"]["code"]) == (405, "invalidRequest")


def test_a_context_that_is_half_a_character_is_told_back(http, call_id):
    body = b'{"clientContext": "\\ud800", "maxRecordDurationInSeconds": 1}'
    headers = {"Content-Type": "application/json"}
    answer = http.post(f"/communications/calls/{call_id}/recordResponse", content=body, headers=headers)
    assert (answer.status_code, answer.json()["clientContext"]) == (200, "\ud800")


def test_nobody_needs_a_token_in_an_open_service(tmp_path):
    acme = tenant_called("acme")
    with listening(service_in(tmp_path, acme, tokens={}, is_open=True)) as running:
        call_id = begun(running.client(None), "graph")
        answer = running.client(None).post(
            f"/app/calls/{call_id}/record", json={"maxRecordDurationInSeconds": 1}
        )
        assert answer.status_code == 200
