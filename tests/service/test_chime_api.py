"""Amazon Chime SDK's API, spoken by boto3: updates of calls, calls that are made, and who may not."""

import datetime
import time

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from service_host import listening
from vendor_customers import ACCOUNT, REGION, begun, chime_client, service_in, tenant_called

ACME, OTHER = tenant_called("acme"), tenant_called("other")


@pytest.fixture
def chime(running):
    return chime_client(running.url, ACME)


@pytest.fixture
def call_id(running):
    ACME.chime.told.clear()
    return begun(running.client(), "chime")


def update(client, call_id, application=ACME.sip_media_application, **arguments):
    return client.update_sip_media_application_call(
        SipMediaApplicationId=application, TransactionId=call_id, Arguments=arguments
    )


def refused(call, *args, **named):
    """(HTTP status, code) of what boto3 raises."""
    with pytest.raises(ClientError) as error:
        call(*args, **named)
    response = error.value.response
    assert response["Error"]["Message"]
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def signed(
    running, method, path, body=b"", *, at=None, tenant=ACME, headers=None, region=REGION, service="chime"
):
    """Headers as botocore signs them; `at`: seconds from now."""
    request = AWSRequest(method, running.url + path, headers=headers or {}, data=body)
    auth = SigV4Auth(Credentials(tenant.access_key_id, tenant.secret_access_key), service, region)
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=at or 0)
    request.context["timestamp"] = moment.strftime("%Y%m%dT%H%M%SZ")
    request.headers["X-Amz-Date"] = request.context["timestamp"]
    request.headers["Host"] = running.url.removeprefix("http://")
    signature_of(auth, request)
    return dict(request.headers)


def signature_of(auth, request):
    canonical = auth.canonical_request(request)
    text = auth.string_to_sign(request, canonical)
    auth._inject_signature_to_request(request, auth.signature(text, request))


def path_of(call_id):
    return f"/sip-media-applications/{ACME.sip_media_application}/calls/{call_id}"


# ---- updates ----


def test_an_update_reaches_the_application_and_what_it_answers_is_done(running, service, chime, call_id):
    def answer(body):
        if body["InvocationEventType"] != "CALL_UPDATE_REQUESTED":
            return {"SchemaVersion": "1.0", "Actions": []}
        leg = body["CallDetails"]["Participants"][0]["CallId"]
        record = {
            "CallId": leg,
            "ParticipantTag": "LEG-A",
            "RecordingDestination": {"Type": "S3", "BucketName": "recordings"},
            "RecordingTerminators": ["#"],
        }
        return {"SchemaVersion": "1.0", "Actions": [{"Type": "RecordAudio", "Parameters": record}]}

    ACME.chime.answer = answer
    response = update(chime, call_id, action="record")
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert response["SipMediaApplicationCall"] == {"TransactionId": call_id}
    told = ACME.chime.wait_for(lambda body: body["InvocationEventType"] == "CALL_UPDATE_REQUESTED")
    assert told["ActionData"]["Parameters"]["Arguments"] == {"action": "record"}
    details = told["CallDetails"]
    assert details["SipMediaApplicationId"] == ACME.sip_media_application
    assert (details["AwsRegion"], details["AwsAccountId"]) == (REGION, ACCOUNT)
    live = service.host.call(call_id)
    end = time.monotonic() + 10
    while not live.recordings:
        assert time.monotonic() < end
        time.sleep(0.02)
    begun_there = [one.body for one in service.stream.since(0)[0] if one.body["event"] == "recording_started"]
    assert begun_there[-1]["call_id"] == call_id
    assert begun_there[-1]["key"].endswith(".wav")
    ACME.chime.answer = lambda body: None
    assert running.client().delete(f"/v1/calls/{call_id}").status_code == 204
    ACME.chime.wait_for(lambda body: body["InvocationEventType"] == "HANGUP")


def test_an_update_needs_texts_by_name(chime, call_id):
    too_many = {f"name{n}": "value" for n in range(21)}
    assert refused(update, chime, call_id, **too_many) == (400, "BadRequestException")


def test_an_update_of_a_call_that_is_over_finds_none(running, chime, call_id):
    running.client().delete(f"/v1/calls/{call_id}")
    assert refused(update, chime, call_id) == (404, "NotFoundException")


def test_an_update_names_the_application_of_the_call(chime, call_id):
    assert refused(update, chime, call_id, OTHER.sip_media_application) == (404, "NotFoundException")


def test_another_tenants_call_is_not_there(running, call_id):
    other = chime_client(running.url, OTHER)
    assert refused(update, other, call_id) == (404, "NotFoundException")
    assert refused(update, other, call_id, OTHER.sip_media_application) == (404, "NotFoundException")


def test_a_call_without_chime_is_not_there(running, chime):
    call_id = begun(running.client(), "sinch")
    assert refused(update, chime, call_id) == (404, "NotFoundException")


# ---- calls that are made ----


def test_a_call_is_made_and_the_application_hears_of_it(running, service, chime):
    ACME.chime.told.clear()
    made = chime.create_sip_media_application_call(
        FromPhoneNumber="+15551230001",
        ToPhoneNumber="+15551230002",
        SipMediaApplicationId=ACME.sip_media_application,
        SipHeaders={"X-Reason": "survey"},
        ArgumentsMap={"FirstName": "John"},
    )
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    call_id = made["SipMediaApplicationCall"]["TransactionId"]
    told = ACME.chime.wait_for(lambda body: body["CallDetails"]["TransactionId"] == call_id)
    assert told["InvocationEventType"] == "NEW_OUTBOUND_CALL"
    assert told["ActionData"]["Parameters"]["Arguments"] == {"FirstName": "John"}
    participant = told["CallDetails"]["Participants"][0]
    assert (participant["From"], participant["To"]) == ("+15551230001", "+15551230002")
    assert participant["Direction"] == "Outbound"
    leg = running.client().get(f"/v1/calls/{call_id}").json()["legs"][0]
    assert (leg["status"], leg["sip_headers"]) == ("dialed", {"X-Reason": "survey"})
    running.client().post(f"/v1/calls/{call_id}/actions", json={"action": "answered"})
    ACME.chime.wait_for(lambda body: body["InvocationEventType"] == "CALL_ANSWERED")
    assert update(chime, call_id, a="b")["SipMediaApplicationCall"]["TransactionId"] == call_id


@pytest.mark.parametrize(
    "changes",
    [
        {"ToPhoneNumber": "not a number"},
        {"FromPhoneNumber": "+0123"},
        {"SipHeaders": {f"X-{n}": "v" for n in range(21)}},
        {"ArgumentsMap": {f"n{n}": "v" for n in range(21)}},
    ],
)
def test_a_call_that_cannot_be_made_is_refused(chime, changes):
    given = {"FromPhoneNumber": "+15551230001", "ToPhoneNumber": "+15551230002"} | changes
    assert refused(
        chime.create_sip_media_application_call, SipMediaApplicationId=ACME.sip_media_application, **given
    ) == (400, "BadRequestException")


def test_no_call_is_made_for_another_tenants_application(chime):
    assert refused(
        chime.create_sip_media_application_call,
        FromPhoneNumber="+15551230001",
        ToPhoneNumber="+15551230002",
        SipMediaApplicationId=OTHER.sip_media_application,
    ) == (404, "NotFoundException")


# ---- who asks ----


def test_a_wrong_secret_is_refused(running, call_id):
    wrong = chime_client(running.url, ACME, secret="wrong")
    assert refused(update, wrong, call_id) == (403, "InvalidSignatureException")


def test_an_unknown_key_is_refused(running, call_id):
    unknown = chime_client(running.url, tenant_called("nobody"))
    assert refused(update, unknown, call_id) == (403, "UnrecognizedClientException")


def test_another_region_is_refused(running, call_id):
    elsewhere = chime_client(running.url, ACME, region_name="us-east-1")
    assert refused(update, elsewhere, call_id) == (403, "InvalidSignatureException")


def test_a_session_token_is_signed_too(running, call_id):
    client = chime_client(running.url, ACME, aws_session_token="a-session")
    assert update(client, call_id, a="b")["SipMediaApplicationCall"]["TransactionId"] == call_id


def test_without_a_signature_nothing_is_done(running, call_id):
    answer = running.client(None).post(path_of(call_id), json={"Arguments": {}})
    assert answer.status_code == 403
    assert answer.headers["x-amzn-errortype"] == "MissingAuthenticationTokenException"
    token = running.client().post(path_of(call_id), json={"Arguments": {}})
    assert token.status_code == 400
    assert token.headers["x-amzn-errortype"] == "IncompleteSignatureException"


@pytest.mark.parametrize(("at", "status"), [(-299, 202), (299, 202), (-310, 403), (310, 403)])
def test_a_clock_may_be_five_minutes_off(running, call_id, at, status):
    body = b'{"Arguments":{}}'
    time.sleep(
        1 - time.time() % 1
    )  # a signature says whole seconds: at the end of one, it is nearly one older
    headers = signed(running, "POST", path_of(call_id), body, at=at)
    assert running.client(None).post(path_of(call_id), content=body, headers=headers).status_code == status


def test_an_altered_body_is_refused(running, call_id):
    headers = signed(running, "POST", path_of(call_id), b'{"Arguments":{}}')
    answer = running.client(None).post(path_of(call_id), content=b'{"Arguments":{"a":"b"}}', headers=headers)
    assert (answer.status_code, answer.json()["Code"]) == (403, "InvalidSignature")


def test_an_altered_path_is_refused(running, call_id):
    body = b'{"Arguments":{}}'
    headers = signed(running, "POST", path_of("another"), body)
    assert running.client(None).post(path_of(call_id), content=body, headers=headers).status_code == 403


@pytest.mark.parametrize("value", ["UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "0" * 64])
def test_a_body_must_be_signed(running, call_id, value):
    body = b'{"Arguments":{}}'
    headers = signed(running, "POST", path_of(call_id), body, headers={"X-Amz-Content-SHA256": value})
    assert running.client(None).post(path_of(call_id), content=body, headers=headers).status_code == 403


def test_every_header_of_aws_must_be_signed(running, call_id):
    body = b'{"Arguments":{}}'
    headers = signed(running, "POST", path_of(call_id), body) | {"X-Amz-Security-Token": "slipped in"}
    assert running.client(None).post(path_of(call_id), content=body, headers=headers).status_code == 403


def test_a_signature_that_comes_again_gets_its_answer_and_does_nothing(running, call_id):
    body = b'{"Arguments":{"once":"only"}}'
    headers = signed(running, "POST", path_of(call_id), body)
    client = running.client(None)
    first = client.post(path_of(call_id), content=body, headers=headers)
    again = client.post(path_of(call_id), content=body, headers=headers)
    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert first.status_code == 202
    ACME.chime.wait_for(lambda told: told["InvocationEventType"] == "CALL_UPDATE_REQUESTED")
    time.sleep(0.3)
    updates = [told for told in ACME.chime.told if told["InvocationEventType"] == "CALL_UPDATE_REQUESTED"]
    assert len(updates) == 1


def test_a_call_is_made_once_however_often_its_request_comes(running, service):
    path = f"/sip-media-applications/{ACME.sip_media_application}/calls"
    body = b'{"FromPhoneNumber":"+15551230001","ToPhoneNumber":"+15551230002"}'
    headers = signed(running, "POST", path, body)
    before = {call.call_id for call in service.host.calls(live=False)}
    answers = [running.client(None).post(path, content=body, headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 201]
    made = {call.call_id for call in service.host.calls(live=False)} - before
    assert made == {answer.json()["SipMediaApplicationCall"]["TransactionId"] for answer in answers}
    assert len(made) == 1


# ---- errors ----


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"text"', b"\xff"])
def test_what_is_no_json_object_is_refused_as_aws_does(running, call_id, body):
    headers = signed(running, "POST", path_of(call_id), body)
    answer = running.client(None).post(path_of(call_id), content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.headers["x-amzn-errortype"] in ("SerializationException", "BadRequestException")


def test_a_path_that_there_is_not_is_refused_as_aws_does(running):
    answer = running.client().get("/sip-media-applications/a/b/c/d")
    assert answer.status_code == 404
    assert answer.json() == {"Code": "NotFound", "Message": answer.json()["Message"]}
    method = running.client().put(f"/sip-media-applications/{ACME.sip_media_application}/calls")
    assert method.status_code == 405
    assert set(method.json()) == {"Code", "Message"}
    assert method.headers["allow"] == "POST"


def test_an_open_service_takes_any_credentials(tmp_path):
    service = service_in(tmp_path, ACME, tokens={}, is_open=True)
    with listening(service) as running:
        call_id = begun(running.client(None), "chime")
        client = chime_client(running.url, tenant_called("anybody"))
        assert update(client, call_id, a="b")["SipMediaApplicationCall"]["TransactionId"] == call_id
