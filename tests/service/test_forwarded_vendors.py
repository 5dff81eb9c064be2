"""The vendors' own clients, asking a worker that does not have the call."""

import asyncio
import datetime
import json
import uuid

import httpx2 as httpx
import pytest
from sinch.domains.voice.exceptions import VoiceException

from busy_service import dead_letter, message_of
from callreel.dialects.sinch_signing import authorization
from fleet_host import fleet_of, id_of, settings_in
from service_host import until
from vendor_customers import (
    SIGNING,
    Silence,
    begun,
    chime_client,
    graph_client,
    sinch_client,
    speak,
    tenant_called,
    vendors_of,
)

ACME, OTHER = tenant_called("acme"), tenant_called("other")
# The client's own: it makes classes that it has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:msgraph"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:kiota_abstractions"),
]
NUMBERS = iter(range(1_000_000))


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet")
    settings = settings_in(folder, workers=2, vendors=vendors_of(folder, (ACME, OTHER)))
    with fleet_of(2, settings, openers=lambda recorder: {"rtp": Silence}) as running:
        yield running


@pytest.fixture(params=[0, 1])
def pair(request, workers):
    """A worker that is asked, and the other, which has the call."""
    return workers[request.param], workers[1 - request.param]


def call_of(owning, dialect, **body):
    return begun(owning.client(), dialect, call_id=id_of(owning, f"vendor-{next(NUMBERS)}"), **body)


# ---- Amazon Chime ----


def test_boto3_updates_a_call_of_another_workers(pair):
    asked, owning = pair
    call_id = call_of(owning, "chime")
    ACME.chime.told.clear()
    answer = chime_client(asked.url, ACME).update_sip_media_application_call(
        SipMediaApplicationId=ACME.sip_media_application,
        TransactionId=call_id,
        Arguments={"a": "b"},
    )
    assert answer["SipMediaApplicationCall"]["TransactionId"] == call_id
    told = ACME.chime.wait_for(lambda body: body["InvocationEventType"] == "CALL_UPDATE_REQUESTED")
    assert told["CallDetails"]["TransactionId"] == call_id


def test_calls_that_boto3_makes_are_spread_over_the_workers_and_owned_by_whom_made_them(workers):
    client = chime_client(workers[0].url, ACME)
    made = [
        client.create_sip_media_application_call(
            FromPhoneNumber="+15551230001",
            ToPhoneNumber=f"+1555123{number:04}",
            SipMediaApplicationId=ACME.sip_media_application,
        )["SipMediaApplicationCall"]["TransactionId"]
        for number in range(12)
    ]
    owners = [workers[0].service.fleet.owner(call_id) for call_id in made]
    assert {*owners} == {0, 1}
    for call_id, owner in zip(made, owners, strict=True):
        assert workers[owner].service.host.call(call_id) is not None
        assert workers[1 - owner].client().delete(f"/v1/calls/{call_id}").status_code == 204


# ---- Sinch ----


def test_sinch_reads_and_manages_a_call_of_another_workers(pair):
    asked, owning = pair
    call_id = call_of(owning, "sinch")
    voice = sinch_client(asked.url, ACME).voice
    assert voice.calls.get(call_id).call_id == call_id
    voice.calls.update(call_id, [{"name": "say", "text": "x"}], {"name": "continue"})
    until(
        lambda: [
            one
            for one in owning.service.stream.since(0).told
            if one.body["call_id"] == call_id and one.body.get("name") == "say"
        ]
    )
    with pytest.raises(VoiceException) as refused:
        sinch_client(asked.url, OTHER).voice.calls.get(call_id)
    assert refused.value.http_response.status_code == 404


def test_a_conference_is_of_the_calls_of_all_workers(pair, workers):
    asked, _ = pair
    room = f"room-{next(NUMBERS)}"
    voice = sinch_client(asked.url, ACME).voice
    with pytest.raises(VoiceException):
        voice.conferences.get(room)
    calls = [call_of(workers[number % 2], "sinch", leg={"to": f"+1555{number:07}"}) for number in range(4)]
    for call_id in calls:
        voice.calls.update(call_id, [], {"name": "connectConf", "conferenceId": room})
    participants = voice.conferences.get(room).participants
    assert [one.id for one in participants] == calls
    for call_id in calls[:2]:
        voice.conferences.manage_participant(call_id, room, "mute")
    muted = {one.id: one.muted for one in voice.conferences.get(room).participants}
    assert muted == dict.fromkeys(calls[:2], True) | dict.fromkeys(calls[2:], False)
    voice.conferences.kick_participant(calls[0], room)
    assert [one.id for one in voice.conferences.get(room).participants] == calls[1:]
    with pytest.raises(VoiceException):
        sinch_client(asked.url, OTHER).voice.conferences.get(room)
    voice.conferences.kick_all(room)
    with pytest.raises(VoiceException) as none_left:
        voice.conferences.get(room)
    assert none_left.value.http_response.body["errorCode"] == 40400


def test_a_signature_that_comes_again_at_another_worker_does_nothing_again(workers):
    owning = workers[1]
    call_id, room = call_of(owning, "sinch"), f"room-{next(NUMBERS)}"
    sinch_client(workers[0].url, ACME).voice.calls.update(
        call_id, [], {"name": "connectConf", "conferenceId": room}
    )
    timestamp = datetime.datetime.now(datetime.UTC).isoformat()
    path = f"/calling/v1/conferences/id/{room}"
    header = authorization(
        ACME.sinch_key,
        ACME.sinch_secret,
        "DELETE",
        path,
        body=b"",
        content_type="",
        timestamp=timestamp,
    )
    headers = {"Authorization": header, "x-timestamp": timestamp}
    answers = [httpx.delete(one.url + path, headers=headers) for one in workers * 2]
    assert [answer.status_code for answer in answers] == [204] * 4


# ---- Microsoft Graph ----


def test_msgraph_records_and_downloads_at_another_worker(pair):
    from msgraph.generated.communications.calls.item.record_response.record_response_post_request_body import (
        RecordResponsePostRequestBody,
    )

    asked, owning = pair
    ACME.graph.told.clear()
    call_id = call_of(owning, "graph")

    async def record():
        async with graph_client(asked.url, SIGNING.token(ACME.graph_application)) as client:
            return await client.communications.calls.by_call_id(call_id).record_response.post(
                RecordResponsePostRequestBody(
                    max_record_duration_in_seconds=10,
                    initial_silence_timeout_in_seconds=10,
                    max_silence_timeout_in_seconds=1,
                    client_context="a",
                )
            )

    operation = asyncio.run(record())
    assert operation.id
    speak(owning.service, call_id, seconds=0.6)
    told = ACME.graph.wait_for(lambda body: "recordingLocation" in json.dumps(body), 20)
    value = told["value"][0]["resourceData"]
    path = "/" + value["recordingLocation"].split("/", 3)[3]
    token = {"Authorization": f"Bearer {value['recordingAccessToken']}"}
    downloaded = httpx.get(asked.url + path, headers=token)
    assert downloaded.status_code == 200
    assert downloaded.headers["transfer-encoding"] == "chunked"
    assert downloaded.content == httpx.get(owning.url + path, headers=token).content
    assert downloaded.content.startswith(b"RIFF")
    assert httpx.get(asked.url + path).status_code == 401


def test_a_graph_call_is_found_however_its_id_is_written(workers):
    call_id = begun(workers[0].client(), "graph", call_id=str(uuid.UUID(workers[1].service.fleet.new_id())))
    headers = {"Authorization": f"Bearer {SIGNING.token(ACME.graph_application)}"}
    guid = uuid.UUID(call_id)
    for one in workers:
        for form in (str(guid), guid.hex, str(guid).upper(), guid.hex.upper()):
            answer = httpx.get(f"{one.url}/beta/app/calls/{form}/operations/none", headers=headers)
            assert answer.json()["error"]["code"] != "8522", answer.text
    assert httpx.delete(f"{workers[0].url}/app/calls/{guid.hex.upper()}", headers=headers).status_code == 204


# ---- the page ----


def test_the_page_of_any_worker_shows_and_levels_all_calls(workers):
    names = [call_of(one, "sinch") for one in workers]
    for asked in workers:
        client = asked.client()
        live = client.get("/page/").text
        levels = client.get("/page/levels.json").json()["calls"]
        for name in names:
            assert name in live
            assert "LEG-A" in levels[name]
            assert name in client.get("/page/call", params={"id": name}).text
            assert name in client.get("/page/call/levels.json", params={"id": name}).json()["calls"]
        assert names[0] not in client.get("/page/", params={"text": names[1]}).text
        assert asked.client("other").get("/page/call", params={"id": names[0]}).status_code == 404
    for name in names:
        workers[0].client().delete(f"/v1/calls/{name}")


def test_dead_letters_of_all_workers_are_shown_tried_again_and_dropped_at_any(workers):
    """Each stands in the queue of its worker alone."""

    def put(number):
        spool = workers[number].service.settings.recorder.spool
        dead_letter(spool, f"end:of-{number}", number=900 + number, group=f"c-{number}", **message_of("acme"))

    clients = [one.client() for one in workers]

    def dead(client):
        page = client.get("/page/deliveries").text
        section = page[page.index('id="dead"') : page.index('aria-labelledby="waiting"')]
        return [number for number in (0, 1) if f"<bdi>c-{number}</bdi>" in section]

    def do(client, what, **fields):
        token = client.get("/page/deliveries").text.split('name="form_token" value="')[1].split('"')[0]
        return client.post(f"/page/deliveries/{what}", data={"form_token": token} | fields).headers[
            "location"
        ]

    put(0)
    put(1)
    for client in clients:
        assert dead(client) == [0, 1]
        assert "2</span> dead letters" in client.get("/page/").text
        assert dead(workers[0].client("other")) == []
        assert "Drop this dead letter?" in client.get("/page/deliveries/drop", params={"id": "end:of-1"}).text
    assert do(clients[0], "drop", id="end:of-1").endswith("done=dropped")
    assert do(clients[1], "drop", id="end:of-1").endswith("done=gone")
    assert dead(clients[1]) == [0]
    assert do(clients[1], "retry", id="end:of-0").endswith("done=retried")
    assert dead(clients[0]) == []
    put(0)
    put(1)
    assert do(clients[1], "retry-all").endswith("done=all-retried")
    assert dead(clients[0]) == []
