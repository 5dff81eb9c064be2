"""No room for a recording (an overload, a drain, a full disk), as each vendor's customer is told by their library."""

import asyncio
import contextlib
import datetime
import threading
import uuid
from dataclasses import replace

import pytest
from kiota_abstractions.api_error import APIError
from kiota_abstractions.base_request_configuration import RequestConfiguration
from kiota_http.middleware.options import RetryHandlerOption
from msgraph.generated.communications.calls.item.record_response.record_response_post_request_body import (
    RecordResponsePostRequestBody,
)
from msgraph.generated.models.operation_status import OperationStatus
from sinch.domains.voice.exceptions import VoiceException

from callreel.delivery.s3 import S3
from callreel.dialects.sinch_signing import authorization
from callreel.spool_rules import Space
from service_host import listening, settings_in, until
from vendor_customers import (
    SIGNING,
    begun,
    chime_client,
    graph_client,
    service_in,
    sinch_client,
    speak,
    tenant_called,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:msgraph"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:kiota_abstractions"),
]
FULL = Space(refuse_below_bytes=1 << 60, accept_above_bytes=1 << 61)
WHYS = ["overload", "drain", "full disk"]
OPTIONS = {"destinationUrl": "sdrive://a.wav", "format": "wav"}
START = [{"name": "startRecording", "options": OPTIONS}]
CONTINUE = {"name": "continue"}
INTERNAL_ERROR = {"errorCode": 50000, "errorMsg": "Internal error"}


@contextlib.contextmanager
def served(folder, acme, why=None):
    """A service for one customer; `fill` takes away its room for recordings."""
    recorder = settings_in(folder).recorder
    recorder = replace(recorder, space=FULL) if why == "full disk" else recorder
    service = service_in(folder, acme, recorder=recorder)

    def fill():
        if why == "drain":
            service.recorder.drain(0)
        elif why == "overload":
            service.recorder.refuse("busy")
        assert not service.recorder.is_accepting

    with listening(service) as running:
        running.fill = fill
        yield running


@pytest.fixture
def acme():
    return tenant_called("acme")


def told(running, event, call_id):
    """What the stream of events has told of a call under that name."""
    bodies = [one.body for one in running.service.host.stream.since(0).told]
    return [one for one in bodies if one["event"] == event and one["call_id"] == call_id]


# ---- Sinch ----


@pytest.mark.parametrize("why", WHYS)
def test_sinch_manage_call_that_records_is_temporarily_down_and_nothing_of_it_is_done(tmp_path, acme, why):
    with served(tmp_path, acme, why) as running:
        call_id = begun(running.client(), "sinch")
        running.fill()
        calls = sinch_client(running.url, acme).voice.calls
        say = {"name": "say", "text": "this call is recorded", "locale": "en-US"}
        with pytest.raises(VoiceException) as error:
            calls.update(call_id, [say, *START], CONTINUE)
        answer = error.value.http_response
        assert (answer.status_code, answer.body["errorCode"]) == (503, 50300)
        assert answer.body["message"].startswith("Temporarily down")
        assert uuid.UUID(answer.body["reference"])
        calls.update(call_id, [say | {"text": "later"}], {"name": "park"})
        asked = until(lambda: told(running, "perform", call_id))
        assert [one["parameters"].get("text") for one in asked][:1] == ["later"]
        assert running.service.host.call(call_id).recordings == {}


def test_a_request_that_sinch_had_no_room_for_is_carried_out_when_it_comes_again(tmp_path, acme):
    with served(tmp_path, acme, "overload") as running:
        call_id = begun(running.client(), "sinch")
        path, client = f"/calling/v1/calls/id/{call_id}", running.client(None)
        body = b'{"instructions":[{"name":"startRecording","options":{"destinationUrl":"sdrive://a.wav"}}]}'
        moment = datetime.datetime.now(datetime.UTC).isoformat()
        header = {"Content-Type": "application/json", "x-timestamp": moment}
        header["Authorization"] = authorization(
            acme.sinch_key,
            acme.sinch_secret,
            "PATCH",
            path,
            body=body,
            content_type="application/json",
            timestamp=moment,
        )
        running.fill()
        assert client.patch(path, content=body, headers=header).json()["errorCode"] == 50300
        running.service.recorder.refuse(None)
        assert client.patch(path, content=body, headers=header).status_code == 204
        until(lambda: told(running, "recording_started", call_id))
        assert client.patch(path, content=body, headers=header).status_code == 204  # as it was answered


@pytest.mark.parametrize("why", WHYS)
def test_a_recording_of_sinch_s_answer_without_room_is_told_the_backend_the_watcher_and_the_log(
    tmp_path, acme, why, caplog
):
    acme.sinch.answer = lambda body: (
        {"instructions": [{"name": "answer"}, *START], "action": {"name": "park"}}
        if body["event"] == "ice"
        else None
    )
    with served(tmp_path, acme, why) as running:
        running.fill()
        call_id = begun(running.client(), "sinch", leg={"status": "offered"})
        answer = until(lambda: [one for one in told(running, "perform", call_id) if one["name"] == "answer"])
        client = running.client()
        leg = {"action": "answered", "leg": "LEG-A"}
        assert client.post(f"/v1/calls/{call_id}/actions", json=leg).status_code == 200
        done = {"action": "performed", "action_id": answer[0]["action_id"]}
        assert client.post(f"/v1/calls/{call_id}/actions", json=done).status_code == 200
        error = acme.sinch.wait_for(lambda body: body.get("type") == "callingerror")
        assert error == {"event": "notify", "callid": call_id, "version": 1, "type": "callingerror"} | (
            INTERNAL_ERROR
        )
        (failed,) = [one for one in told(running, "action_ended", call_id) if one["error"]]
        assert (failed["outcome"], failed["error"]["field"]) == ("failed", "system")
        until(lambda: [one for one in told(running, "perform", call_id) if one["name"] == "park"])
        (line,) = [one for one in caplog.records if "is refused" in one.getMessage()]
        assert line.call_id == call_id
        assert failed["error"]["message"] in line.getMessage()


# ---- Microsoft Graph ----


def post(running, acme, call_id, *, retries=0):
    """A recording as msgraph-sdk asks for it."""

    async def run():
        async with graph_client(running.url, SIGNING.token(acme.graph_application)) as graph:
            body = RecordResponsePostRequestBody(play_beep=False, max_record_duration_in_seconds=1)
            options = RequestConfiguration(options=[RetryHandlerOption(max_retries=retries)])
            call = graph.communications.calls.by_call_id(call_id)
            return await call.record_response.post(body, request_configuration=options)

    return asyncio.run(run())


@pytest.mark.parametrize("why", WHYS)
def test_graph_s_record_without_room_is_503_with_a_time_to_ask_again(tmp_path, acme, why):
    with served(tmp_path, acme, why) as running:
        call_id = begun(running.client(), "graph", call_id=str(uuid.uuid4()))
        running.fill()
        with pytest.raises(APIError) as error:
            post(running, acme, call_id)
        assert (error.value.response_status_code, error.value.error.code) == (503, "serviceNotAvailable")
        assert error.value.response_headers["retry-after"] == "5"
        assert error.value.error.inner_error.request_id
        assert running.service.host.call(call_id).recordings == {}
        assert acme.graph.told == []


def test_msgraph_sdk_asks_again_after_that_time_and_records(tmp_path, acme):
    with served(tmp_path, acme, "overload") as running:
        call_id = begun(running.client(), "graph", call_id=str(uuid.uuid4()))
        running.fill()
        again = threading.Timer(1, running.service.recorder.refuse, [None])
        again.start()
        assert post(running, acme, call_id, retries=1).status is OperationStatus.Running
        again.join()
        until(lambda: told(running, "recording_started", call_id))


@pytest.mark.parametrize("why", ["overload", "drain"])
def test_an_operation_of_graph_s_that_finds_no_room_when_its_turn_comes_fails_with_503(tmp_path, acme, why):
    with served(tmp_path, acme, why) as running:
        call_id = begun(running.client(), "graph", call_id=str(uuid.uuid4()))
        first, second = post(running, acme, call_id), post(running, acme, call_id)
        assert (first.status, second.status) == (OperationStatus.Running, OperationStatus.NotStarted)
        running.fill()
        speak(running.service, call_id, seconds=1.2)

        def of(operation):
            def is_it(body):
                return body["value"][0]["resourceData"].get("id") == operation.id

            return acme.graph.wait_for(is_it)["value"][0]["resourceData"]

        assert of(first)["status"] == "completed"
        end = of(second)
        assert (end["status"], end["completionReason"]) == ("failed", "unspecifiedError")
        assert (end["resultInfo"]["code"], end["resultInfo"]["subcode"]) == (503, 8589)
        assert end["recordingLocation"] == ""


# ---- Amazon Chime ----


@pytest.mark.parametrize("kind", ["StartCallRecording", "RecordAudio"])
@pytest.mark.parametrize("why", WHYS)
def test_chime_s_application_is_told_a_system_exception(tmp_path, acme, why, kind, monkeypatch):
    monkeypatch.setattr(S3, "check", lambda store, key: None)  # its bucket is there

    def answer(body):
        if body["InvocationEventType"] != "CALL_UPDATE_REQUESTED":
            return {"SchemaVersion": "1.0", "Actions": []}
        leg = body["CallDetails"]["Participants"][0]["CallId"]
        parameters = {
            "StartCallRecording": {
                "CallId": leg,
                "Track": "BOTH",
                "Destination": {"Type": "S3", "Location": "recordings"},
            },
            "RecordAudio": {
                "CallId": leg,
                "RecordingDestination": {"Type": "S3", "BucketName": "recordings"},
                "RecordingTerminators": ["#"],
            },
        }[kind]
        return {"SchemaVersion": "1.0", "Actions": [{"Type": kind, "Parameters": parameters}]}

    acme.chime.answer = answer
    with served(tmp_path, acme, why) as running:
        call_id = begun(running.client(), "chime")
        running.fill()
        updated = chime_client(running.url, acme).update_sip_media_application_call(
            SipMediaApplicationId=acme.sip_media_application,
            TransactionId=call_id,
            Arguments={"action": "record"},
        )
        assert updated["ResponseMetadata"]["HTTPStatusCode"] == 202
        failed = acme.chime.wait_for(lambda body: body["InvocationEventType"] == "ACTION_FAILED")[
            "ActionData"
        ]
        verb = "running" if kind == "RecordAudio" else "executing"
        assert (failed["Type"], failed["ErrorType"]) == (kind, "SystemException")
        assert failed["ErrorMessage"] == f"System error while {verb} an action."
        assert running.service.host.call(call_id).recordings == {}
