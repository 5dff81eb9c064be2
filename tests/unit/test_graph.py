"""Microsoft Graph's side of a call: what the dialogues do not show, and what no JSON may do to it."""

import hmac
import json
from datetime import UTC, datetime, timedelta
from itertools import count

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from callreel.actions import (
    Destination,
    EndReason,
    Layout,
    OtherAction,
    Prompt,
    RecordingKind,
    StartRecording,
    StopRules,
)
from callreel.call import Call
from callreel.dialects import Order
from callreel.dialects.graph import Download, Graph, digest_of
from callreel.errors import ActionError, UsageError
from callreel.events import (
    CallView,
    LegStatus,
    Participant,
    Perform,
    Play,
    RecordingFinished,
    StopPlaying,
    VendorMessage,
)
from callreel.kernels import tone, wav
from secret_watch import secret
from streams import RATE, S_NS, arrive, encoded, event, renumbered, talk

START = datetime(2026, 5, 6, 7, 8, 9, 250_000, UTC)
CALL_ID = "57dab8b1-894c-409a-b240-bd8beae78896"
PATH = f"/app/calls/{CALL_ID}"


def session(**options):
    """A session whose ids are id-1, id-2 ... and whose tokens are `secret(1)`, `secret(2)` ..."""
    new_id = (f"id-{n}" for n in count(1)).__next__
    new_token = (secret(n) for n in count(1)).__next__
    options = {"base_url": "https://calls.example", **options}
    return Graph(new_id=new_id, new_token=new_token, **options)


def view(status=LegStatus.CONNECTED):
    leg = Participant("LEG-A", CALL_ID, "+1", "+2", True, status, START)
    return CallView(CALL_ID, "t-1", START, START, {"LEG-A": leg})


def ask(body, verb="record", **options):
    return session(**options).request({"path": f"{PATH}/{verb}", "body": body}, view())


class Host:
    """Calls with one leg, whose prompts and files are dealt with at once."""

    def __init__(self, graph):
        self.graph = graph
        self.call = Call(CALL_ID, started_at=START, now=0.0, dialect=graph)
        self.call.add_leg(detect_digits=False)
        self.events = []
        self.finished = []

    def drain(self, now):
        while events := self.call.events():
            for one in events:
                self.events.append(one)
                if isinstance(one, Play):
                    self.call.played(one.action_id, now=now)
                if isinstance(one, RecordingFinished) and one.deliver:
                    self.finished.append(one.recording_id)
                    self.call.stored(one.recording_id, now=now)

    def record(self, now=0.0, **body):
        self.call.request({"path": f"{PATH}/record", "body": {"stopTones": ["#"], **body}}, now=now)
        self.drain(now)

    def completed(self, now=0.0):
        """Record for a second, up to a stop tone; the operation as it is notified."""
        self.record(now)
        self.call.receive_digit("LEG-A", "#", now=now + 1)
        self.wait(now + 3)
        return self.notified[-1]

    def wait(self, until):
        while self.call.next_timeout() is not None and self.call.next_timeout() <= until:
            now = self.call.next_timeout()
            self.call.handle_timeout(now=now)
            self.drain(now)

    @property
    def notified(self):
        bodies = [one.body for one in self.events if isinstance(one, VendorMessage)]
        return [entry["resourceData"] for body in bodies for entry in body["value"]]


# ---- what is read ----


def test_a_record_is_one_neutral_action():
    body = {
        "prompts": [{"mediaInfo": {"uri": "https://cdn.example/a.wav", "resourceId": "r"}}],
        "initialSilenceTimeoutInSeconds": 3,
        "maxSilenceTimeoutInSeconds": 4,
        "maxRecordDurationInSeconds": 60,
        "stopTones": ["#", "1"],
        "bargeInAllowed": True,
    }
    action = StartRecording(
        action_id="id-1",
        kind=RecordingKind.MESSAGE,
        layout=Layout.INCOMING,
        format="wav",
        sample_rate=16_000,
        key=f"{CALL_ID}/id-1.wav",
        destination=Destination(kind="held"),
        prompt=Prompt(uri="https://cdn.example/a.wav", resource_id="r"),
        beep=True,
        rules=StopRules(
            terminators=frozenset("#1"),
            keep_terminator=False,
            max_duration_ms=60_000,
            initial_silence_ms=3_000,
            trailing_silence_ms=4_000,
            media_timeout_ms=30_000,
        ),
        once=False,
        undelivered=frozenset(EndReason)
        - {EndReason.TERMINATOR, EndReason.MAX_DURATION, EndReason.TRAILING_SILENCE, EndReason.STOP},
    )
    assert ask(body).order == Order(stop_running=EndReason.CANCELLED, drop_queue=True, actions=(action,))


def test_play_prompt_is_the_hosts_action_with_up_to_20_prompts():
    prompts = [{"mediaInfo": {"uri": f"https://cdn.example/{n}.wav"}} for n in range(21)]
    (action,) = ask({"prompts": prompts[:20]}, "playPrompt").order.actions
    assert isinstance(action, OtherAction)
    assert action.name == "playPrompt"
    assert action.parameters["prompts"][19] == {"uri": "https://cdn.example/19.wav", "resourceId": None}
    for refused in (prompts, [], None):
        assert ask({"prompts": refused}, "playPrompt").response.body["error"]["code"] == "8523"


@pytest.mark.parametrize("base_url", ["https://calls.example", "https://calls.example/"])
@pytest.mark.parametrize(
    ("path", "location"),
    [
        (f"{PATH}/record", f"{PATH}/operations/id-1"),
        (f"/v1.0{PATH}/record/", f"/v1.0{PATH}/operations/id-1"),
        (f"{PATH}/record?x=1", f"{PATH}/operations/id-1"),
        (f"/app/calls/{CALL_ID.upper().replace('-', '')}/record", f"{PATH}/operations/id-1"),
        (f"{PATH.replace('-', '%2D')}/microsoft.graph.recordResponse", f"{PATH}/operations/id-1"),
    ],
)
def test_a_path_names_the_call_in_any_form_of_its_id(base_url, path, location):
    answer = session(base_url=base_url).request({"path": path, "body": {}}, view())
    assert answer.response.headers == {"Location": f"https://calls.example{location}"}


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({"path": "/app/calls"}, 404),
        ({"path": f"{PATH}/answer"}, 404),
        ({"path": f"{PATH}/operations"}, 404),
        ({"path": f"/beta/users/1/calls/{CALL_ID}/record"}, 404),
        ({"path": f"/applications/a\r\nb/calls/{CALL_ID}/record"}, 404),
        ({"method": "GET", "path": f"{PATH}/record"}, 405),
        ({"method": "GET", "path": PATH}, 405),
        ({"method": "DELETE", "path": f"{PATH}/operations/1"}, 405),
        ({"path": PATH}, 405),
        ({}, 404),
        ([], 400),
        (None, 400),
    ],
)
def test_what_is_no_request_of_this_interface_is_refused(document, status):
    response = session().request(document, view()).response
    assert response.status == status
    code = "itemNotFound" if status == 404 else "invalidRequest"
    assert response.body["error"]["code"] == code


def test_an_error_has_graphs_body():
    answer = ask({"maxRecordDurationInSeconds": 0})
    assert answer.order is None
    assert answer.response.body == {
        "error": {
            "code": "8523",
            "message": "Invalid argument: maxRecordDurationInSeconds.",
            "innerError": {
                "code": "parameterIsTooSmall",
                "request-id": "id-1",
                "date": "2026-05-06T07:08:09Z",
            },
        }
    }


@pytest.mark.parametrize(
    ("options", "longest_s"), [({}, 300), ({"revision": "current"}, 120), ({"max_timeout_s": 60}, 60)]
)
def test_the_longest_timeout_is_that_of_the_revision_or_an_option(options, longest_s):
    name = "maxRecordDurationInSeconds"
    assert ask({name: longest_s}, **options).response.status == 200
    assert ask({name: longest_s + 1}, **options).response.status == 400


def test_every_digit_star_and_hash_may_be_a_stop_tone():
    (action,) = ask({"stopTones": list("0123456789*#")}).order.actions
    assert action.rules.terminators == frozenset("0123456789*#")


@pytest.mark.parametrize(
    ("media", "status"),
    [
        ({"uri": "https://cdn.example/" + "a" * 2028}, 200),
        ({"uri": "https://cdn.example/" + "a" * 2029}, 400),
        ({"uri": "https://cdn.example/a b"}, 400),
        ({"uri": "HTTP://cdn.example"}, 200),
        ({"uri": "https://cdn.example/a", "resourceId": None}, 200),
        ({"uri": "https://cdn.example/a", "resourceId": 5}, 400),
    ],
)
def test_a_prompt_has_an_address_of_at_most_2048_characters_and_perhaps_a_resource_id(media, status):
    assert ask({"prompts": [{"mediaInfo": media}]}).response.status == status


def test_a_prompts_type_may_be_written_without_the_hash():
    prompt = {"@odata.type": "microsoft.graph.mediaPrompt", "mediaInfo": {"uri": "https://cdn.example/a"}}
    assert ask({"prompts": [prompt]}).response.status == 200


def test_a_revision_must_be_one():
    with pytest.raises(UsageError, match="seed, current"):
        session(revision="2031")


# ---- any JSON ----

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
TIMEOUT = st.integers(-1, 302) | JSON
MEDIA = st.fixed_dictionaries(
    {}, optional={"uri": st.sampled_from(["https://a/b", "a"]) | JSON, "resourceId": JSON}
)
PROMPTS = st.fixed_dictionaries({}, optional={"@odata.type": JSON, "mediaInfo": MEDIA | JSON}) | JSON
BODY = st.fixed_dictionaries(
    {},
    optional={
        "prompts": st.lists(PROMPTS, max_size=2) | JSON,
        "bargeInAllowed": JSON,
        "playBeep": JSON,
        "initialSilenceTimeoutInSeconds": TIMEOUT,
        "maxSilenceTimeoutInSeconds": TIMEOUT,
        "maxRecordDurationInSeconds": TIMEOUT,
        "stopTones": st.lists(st.sampled_from("01#*A") | JSON, max_size=3) | JSON,
        "clientContext": st.text(st.characters(), max_size=300) | JSON,
    },
)
TEXT = st.text(max_size=20) | st.binary(max_size=20) | JSON.map(json.dumps)
VERB = st.sampled_from(
    ["record", "recordResponse", "playPrompt", "cancelMediaProcessing", "subscribeToTone", ""]
)
DOCUMENT = (
    st.fixed_dictionaries(
        {
            "path": VERB.map(lambda verb: f"{PATH}/{verb}")
            | st.text().map(lambda text: f"{PATH}/{text}")
            | JSON
        },
        optional={
            "body": BODY | BODY.map(json.dumps) | TEXT | JSON,
            "method": st.sampled_from(["POST", "GET", "DELETE"]) | JSON,
            "content_type": JSON,
        },
    )
    | JSON
)


@settings(max_examples=300, deadline=None)
@given(st.lists(DOCUMENT, max_size=4))
def test_any_json_gives_an_operation_or_graphs_error(documents):
    graph, call = session(), view()
    for document in documents:
        answer = graph.request(document, call)
        assert answer.messages == ()
        response = answer.response
        if response.status == 200:
            assert response.body["status"] in ("running", "notStarted", "completed")
            assert response.body["@odata.type"].endswith("Operation")
        elif response.status == 204:
            assert answer.order is not None
        else:
            assert answer.order is None
            assert 400 <= response.status < 500
            assert set(response.body["error"]) == {"code", "message", "innerError"}
        json.dumps(response.body)


@settings(max_examples=100, deadline=None)
@given(BODY, st.sampled_from(["record", "playPrompt"]))
def test_a_call_carries_out_whatever_was_accepted(body, verb):
    host = Host(session())
    accepted = host.call.request({"path": f"{PATH}/{verb}", "body": body}, now=0.0).status == 200
    host.drain(0.0)
    host.call.end(now=1.0)
    host.drain(1.0)
    ended = [one for one in host.notified if one["@odata.type"] != "#microsoft.graph.call"]
    assert len(ended) == accepted
    assert host.notified[-1]["state"] == "terminated"


@pytest.mark.parametrize(
    "body",
    [
        "[" * 100_000,
        '{"maxRecordDurationInSeconds": 1' + "0" * 10_000 + "}",
        '{"maxRecordDurationInSeconds": NaN}',
        b"\xff\xfe\x00",
        '{"clientContext": "' + "\\ud800" * 257 + '"}',
    ],
    ids=["deep", "huge", "nan", "bytes", "surrogates"],
)
def test_hostile_text_is_refused(body):
    assert ask(body).response.status == 400


# ---- operations ----


def test_an_operation_that_ended_is_gone_or_can_be_kept_until_the_call_ends():
    for keeps, status in ((False, 404), (True, 200)):
        host = Host(session(keep_operations=keeps))
        operation = host.completed()
        found = host.call.request({"method": "GET", "path": f"{PATH}/operations/{operation['id']}"}, now=3)
        assert found.status == status
    assert found.body["recordingLocation"] == operation["recordingLocation"]
    host.call.hang_up("LEG-A", now=4)
    assert host.call.request({"method": "GET", "path": f"{PATH}/operations/id-1"}, now=4).status == 404


@pytest.mark.parametrize("verb", ["cancelMediaProcessing", "subscribeToTone"])
def test_what_is_completed_at_once_can_be_kept_too(verb):
    for keeps, status in ((False, 404), (True, 200)):
        host = Host(session(keep_operations=keeps))
        asked = host.call.request({"path": f"{PATH}/{verb}", "body": {"clientContext": "x"}}, now=1)
        found = host.call.request(
            {"method": "GET", "path": asked.headers["Location"].removeprefix("https://calls.example")}, now=2
        )
        assert found.status == status
    assert found.body == asked.body


def test_what_is_kept_is_in_nobodys_way():
    host = Host(session(keep_operations=True))
    host.completed()
    host.call.request({"path": f"{PATH}/cancelMediaProcessing", "body": {}}, now=3)
    assert host.call.request({"path": f"{PATH}/record", "body": {}}, now=3).body["status"] == "running"


def test_of_many_operations_the_latest_are_kept_and_none_that_lives_is_lost(monkeypatch):
    monkeypatch.setattr("callreel.dialects.graph.KEPT_OPERATIONS", 3)
    host = Host(session(keep_operations=True))
    lives = host.call.request({"path": f"{PATH}/record", "body": {}}, now=1).body["id"]
    many = [
        host.call.request({"path": f"{PATH}/subscribeToTone", "body": {}}, now=1).body["id"] for _ in range(5)
    ]
    found = [
        host.call.request({"method": "GET", "path": f"{PATH}/operations/{one}"}, now=1).status
        for one in (lives, *many)
    ]
    assert found == [200, 404, 404, 200, 200, 200]


def test_no_token_is_kept_once_the_call_is_over_though_a_recording_still_waits_for_being_stored():
    graph = session(keep_operations=True)
    host = Host(graph)
    host.completed()
    host.call.request({"path": f"{PATH}/record", "body": {"playBeep": False}}, now=4)
    assert [one.token for one in graph._operations.values() if one.token] == [secret(1)]
    host.call.hang_up("LEG-A", now=4.5)
    assert [(one.lives, one.token) for one in graph._operations.values()] == [(True, None)]


@pytest.mark.parametrize(
    ("field", "subcode"), [(None, 8511), ("uri", 8536), ("format", 8535), ("volume", 8511)]
)
def test_play_prompt_fails_for_the_hosts_reason(field, subcode):
    host = Host(session())
    prompts = [{"mediaInfo": {"uri": "https://cdn.example/a.wav"}}]
    host.call.request({"path": f"{PATH}/playPrompt", "body": {"prompts": prompts}}, now=0)
    (asked,) = [one for one in host.call.events() if isinstance(one, Perform)]
    host.call.performed(asked.action_id, now=1, error=ActionError("no", field=field))
    host.drain(1)
    assert host.notified[0]["status"] == "failed"
    assert host.notified[0]["resultInfo"]["subcode"] == subcode


def test_a_file_that_cannot_be_stored_fails_the_operation_without_a_location():
    host = Host(session())
    host.record()
    host.call.receive_digit("LEG-A", "#", now=1)
    host.call.handle_timeout(now=3)
    (finished,) = [one for one in host.call.events() if isinstance(one, RecordingFinished)]
    host.call.stored(finished.recording_id, now=3, error="the disk is full")
    host.drain(3)
    told = host.notified[-1]
    assert told["resultInfo"] == {
        "@odata.type": "#microsoft.graph.resultInfo",
        "code": 500,
        "subcode": 9999,
        "message": "Unspecified error.",
    }
    assert (told["status"], told["completionReason"]) == ("failed", "unspecifiedError")
    assert (told["recordingLocation"], told["recordingAccessToken"]) == ("", "")
    assert "disk" not in json.dumps(told)


@pytest.mark.parametrize("ended_by", ["cancelMediaProcessing", "record"])
@pytest.mark.parametrize("running", ["playPrompt", "record"])
def test_who_cancels_or_barges_in_stops_what_plays(running, ended_by):
    host = Host(session())
    prompts = [{"mediaInfo": {"uri": "https://cdn.example/a.wav"}}]
    host.call.request({"path": f"{PATH}/{running}", "body": {"prompts": prompts}}, now=0)
    host.call.events()
    host.call.request({"path": f"{PATH}/{ended_by}", "body": {"bargeInAllowed": True}}, now=1)
    events = host.call.events()
    assert events[0] == StopPlaying(CALL_ID, "LEG-A", "id-1")
    told = [one.body["value"][0]["resourceData"] for one in events if isinstance(one, VendorMessage)]
    assert [(one["id"], one["resultInfo"]["subcode"]) for one in told] == [("id-1", 8508)]
    assert [one.action_id for one in events if isinstance(one, Play)] == ["id-2"] * (ended_by == "record")


def test_a_call_that_is_deleted_is_hung_up_at_once_although_a_recording_is_being_stored():
    host = Host(session())
    host.record()
    host.call.receive_digit("LEG-A", "#", now=1)
    host.call.handle_timeout(now=3)
    (finished,) = [one for one in host.call.events() if isinstance(one, RecordingFinished)]
    host.call.request({"method": "DELETE", "path": PATH}, now=3)
    (hang_up,) = [one for one in host.call.events() if isinstance(one, Perform)]
    assert (hang_up.name, hang_up.leg) == ("hangup", "LEG-A")
    host.call.hang_up("LEG-A", now=4)
    assert not any(isinstance(one, VendorMessage) for one in host.call.events())
    host.call.stored(finished.recording_id, now=5)
    host.drain(5)
    operation, call = host.notified
    assert (operation["status"], operation["completionReason"]) == ("completed", "stopToneDetected")
    assert (call["state"], call["resultInfo"]["message"]) == ("terminated", "Call terminated.")


@pytest.mark.parametrize(
    ("revision", "member", "path"),
    [("seed", "resource", PATH), ("current", "resourceUrl", f"/communications/calls/{CALL_ID}")],
)
def test_a_call_of_which_nothing_was_asked_is_told_by_the_path_of_its_revision(revision, member, path):
    host = Host(session(revision=revision))
    host.call.end(now=1)
    (told,) = [one.body["value"][0] for one in host.call.events() if isinstance(one, VendorMessage)]
    assert told[member] == path.replace(CALL_ID, CALL_ID.replace("-", "").upper())


def test_the_end_of_a_call_is_told_once_and_each_notification_has_a_tag_of_its_own():
    host = Host(session())
    host.completed()
    host.call.hang_up("LEG-A", now=4)
    host.call.end(now=6)
    host.drain(6)
    assert [one["@odata.type"] for one in host.notified] == [
        "#microsoft.graph.recordOperation",
        "#microsoft.graph.call",
    ]
    assert [one["@odata.etag"] for one in host.notified] == ['W/"1"', 'W/"2"']
    kinds = [(one.dialect, one.kind) for one in host.events if isinstance(one, VendorMessage)]
    assert kinds == [("graph", "notification")] * 2


def test_keys_and_hang_up_of_another_leg_are_none_of_this_call():
    host = Host(session())
    host.call.add_leg("LEG-B", detect_digits=False)
    host.call.request({"path": f"{PATH}/subscribeToTone", "body": {}}, now=0)
    host.call.receive_digit("LEG-B", "1", now=1)
    host.call.hang_up("LEG-B", now=2)
    host.drain(2)
    assert host.notified == []
    assert host.call.request({"path": f"{PATH}/record", "body": {}}, now=3).status == 200


def test_a_record_that_the_host_stops_is_completed_for_no_reason_of_its_own():
    host = Host(session())
    host.record(playBeep=False)
    host.call.stop_recording("LEG-A", now=1, kind=RecordingKind.MESSAGE)
    host.wait(3)
    (told,) = host.notified
    assert (told["status"], told["completionReason"]) == ("completed", "none")
    assert (told["resultInfo"]["code"], told["resultInfo"]["subcode"]) == (200, 0)
    assert told["recordingLocation"] == "https://calls.example/recordings/id-2"


def test_every_key_has_its_name_in_tone_info():
    host = Host(session())
    host.call.request({"path": f"{PATH}/subscribeToTone", "body": {}}, now=0)
    names = [f"tone{n}" for n in range(10)] + ["star", "pound", "a", "b", "c", "d"]
    for key in "0123456789*#ABCD":
        host.call.receive_digit("LEG-A", key, now=1)
    host.drain(1)
    assert [one["toneInfo"]["tone"] for one in host.notified] == names
    assert [one["toneInfo"]["sequenceId"] for one in host.notified] == list(range(1, 17))


def test_a_busy_callee_is_told_by_the_sip_code():
    host = Host(session())
    host.call.hang_up("LEG-A", now=1, sip_response_code=486)
    host.drain(1)
    assert host.notified[-1]["resultInfo"]["code"] == 486


# ---- downloads ----


def test_a_download_with_a_wrong_token_or_none_is_unauthorized():
    host = Host(session())
    first, second = host.completed(0), host.completed(5)
    now = START + timedelta(seconds=10)
    for token in (None, "", secret(3), first["recordingAccessToken"] + "x", "\ud800", "é"):
        assert host.graph.authorize_download(first["recordingLocation"], token, now) == Download(401)
    other = second["recordingAccessToken"]
    assert host.graph.authorize_download(first["recordingLocation"], other, now) == Download(401)
    assert host.graph.authorize_download(second["recordingLocation"], other, now).status == 200


def test_tokens_are_compared_in_constant_time(monkeypatch):
    host = Host(session())
    told = host.completed()
    compared = []
    monkeypatch.setattr(hmac, "compare_digest", lambda *pair: compared.append(pair))
    assert host.graph.authorize_download(told["recordingLocation"], secret(1), START) == Download(401)
    assert compared == [(digest_of(secret(1)), digest_of(told["recordingAccessToken"]))]


def test_a_recording_can_be_downloaded_more_than_once():
    host = Host(session(recordings_url="https://file.location"))
    told = host.completed()
    assert told["recordingLocation"].startswith("https://file.location/id-")
    path = told["recordingLocation"].removeprefix("https://file.location")
    for _ in range(2):
        found = host.graph.authorize_download(path, str(told["recordingAccessToken"]), START)
        assert found == Download(200, host.finished[0])


@pytest.mark.parametrize("grace_s", [600, 0.5])
def test_a_recording_can_be_downloaded_until_the_grace_after_the_call_is_over(grace_s):
    host = Host(session(grace_s=grace_s))
    told = host.completed()
    host.call.hang_up("LEG-A", now=100)
    host.call.end(now=200)
    over = START + timedelta(seconds=100)
    args = told["recordingLocation"], told["recordingAccessToken"]
    last = over + timedelta(seconds=grace_s - 0.001)
    assert host.graph.authorize_download(*args, last).status == 200
    assert host.graph.authorize_download(*args, over + timedelta(seconds=grace_s)) == Download(410)


def test_a_host_is_told_what_may_be_downloaded_before_the_customer_is_and_when_the_call_is_over():
    said = []
    host = Host(session(on_permit=said.append, on_over=said.append))
    told = host.completed()
    (permit,) = said
    assert told["recordingLocation"].endswith(permit.path)
    assert permit.digests == {digest_of(told["recordingAccessToken"])}
    assert permit.recording_id == host.finished[0]
    assert told["recordingAccessToken"] not in repr(permit)
    host.call.hang_up("LEG-A", now=100)
    host.call.end(now=200)
    assert said[1:] == [START + timedelta(seconds=100)]


def test_what_never_was_a_recording_is_not_found():
    host = Host(session())
    host.completed()
    for path in ("", "/recordings/id-9", "https://calls.example/recordings/"):
        assert host.graph.authorize_download(path, secret(1), START) == Download(404)


def test_a_token_is_in_the_message_and_in_no_repr():
    host = Host(session())
    told = host.completed()
    assert json.loads(json.dumps(told))["recordingAccessToken"] == secret(1)
    kept = Host(session(keep_operations=True))
    kept.completed()
    for thing in (host.events, host.graph, kept.graph, kept.graph.__dict__):
        assert secret(1) not in repr(thing)


# ---- the file ----


def sound(hz, seconds):
    return np.frombuffer(tone.sine(hz, seconds, -10.0), np.int16)


def strength(audio, hz):
    """How much of a tone is in some audio, -10 dBm0 being 1."""
    time = np.arange(len(audio)) / 16_000
    amplitude = 2 * np.abs(np.mean(audio * np.exp(-2j * np.pi * hz * time)))
    return amplitude / np.abs(sound(1000, 1.0)).max()


@pytest.mark.parametrize("way", ["inband", "event"])
def test_the_file_is_what_was_said_between_beep_and_stop_tone(tmp_path, way):
    # 0 to 1.5 s prompt and beep, to 3 s what is to be recorded, to 3.2 s the stop tone.
    inband = np.frombuffer(tone.dtmf("#", 0.2), np.int16) if way == "inband" else sound(700, 0.2)
    said = np.concatenate([sound(300, 1.0), sound(500, 0.5), sound(700, 1.5), inband, sound(900, 2.0)])
    packets = talk(encoded(said))
    if way == "event":
        packets = packets[: 3 * 50] + event(
            11, timestamp=5000 + 3 * RATE, sequence=0, start=3 * RATE, duration=1600
        )
        packets += talk(encoded(sound(900, 2.0)), timestamp=5000 + 16 * 1600, start=16 * 1600)
    packets = arrive(renumbered(packets))

    call = Call(CALL_ID, started_at=START, now=0.0, dialect=session())
    call.add_leg(payload_types={0: "PCMU", 101: "telephone-event"} if way == "event" else None)
    prompts = [{"mediaInfo": {"uri": "https://cdn.example/a.wav"}}]
    body = {"prompts": prompts, "stopTones": ["#"], "maxRecordDurationInSeconds": 60}
    call.request({"path": f"{PATH}/record", "body": body}, now=0.0)
    file, played, manifest = bytearray(), [1.0, 1.5], None
    for packet in packets:
        now = packet.arrival_ns / S_NS
        if played and played[0] <= now:
            call.played("id-1", now=played.pop(0))
        call.receive_rtp("LEG-A", packet.wire(), now=now)
        call.handle_timeout(now=now)
        for _, write in call.writes():
            file[write.offset : write.offset + len(write.data)] = write.data
        for one in call.events():
            manifest = one.manifest if isinstance(one, RecordingFinished) else manifest

    info = wav.parse(bytes(file))
    assert (info.sample_rate, info.channels, info.bits_per_sample) == (16_000, 1, 16)
    assert manifest["end_reason"] == "terminator"
    assert manifest["started_at"] == "2026-05-06T07:08:10.750Z"
    (tmp_path / "a.wav").write_bytes(file)
    audio, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert len(audio) == pytest.approx(24_000, abs=160)
    for part in (audio[:1600], audio[-1600:]):
        assert strength(part, 700) == pytest.approx(1, abs=0.15)
    whole = audio[: len(audio) // 1600 * 1600]
    for hz in (300, 500, 900, *tone.frequencies("#")):
        assert strength(whole, hz) < 0.02


# ---- no room ----


NO_ROOM = ActionError("no room", field="system")


def test_record_without_room_is_503_and_nothing_of_it_is_done():
    host = Host(session())
    host.record(maxRecordDurationInSeconds=60, playBeep=False)
    host.call.refuse_recordings(NO_ROOM)  # at the same moment
    body = {"bargeInAllowed": True, "prompts": []}
    response = host.call.request({"path": f"{PATH}/record", "body": body}, now=0.0)
    assert (response.status, response.headers) == (503, {"Retry-After": "5"})
    error = response.body["error"]
    assert (error["code"], error["message"]) == ("serviceNotAvailable", "No recordings are begun now.")
    assert {"request-id", "date"} <= set(error["innerError"])
    wrong = {"path": f"{PATH}/record", "body": {"stopTones": ["A"]}}
    assert host.call.request(wrong, now=0.0).status == 400
    play = {"path": f"{PATH}/playPrompt", "body": {"prompts": [{"mediaInfo": {"uri": "https://a.example"}}]}}
    assert host.call.request(play, now=0.0).status == 200
    host.call.receive_digit("LEG-A", "#", now=1.0)
    host.wait(3.0)
    assert [one["status"] for one in host.notified] == ["completed"]  # it was not cut into
    host.call.refuse_recordings(None)
    assert host.call.request({"path": f"{PATH}/record", "body": {}}, now=3.0).status == 200


def test_a_record_that_finds_no_room_when_its_turn_comes_fails_with_503():
    host = Host(session())
    for _ in range(2):
        host.record(playBeep=False)
    host.call.refuse_recordings(NO_ROOM)
    host.call.receive_digit("LEG-A", "#", now=1.0)
    host.wait(3.0)
    first, second = host.notified
    assert first["status"] == "completed"
    assert (second["status"], second["completionReason"]) == ("failed", "unspecifiedError")
    assert second["resultInfo"] == {
        "@odata.type": "#microsoft.graph.resultInfo",
        "code": 503,
        "subcode": 8589,
        "message": "Action failed, the service is not available.",
    }
    assert second["recordingLocation"] == second["recordingAccessToken"] == ""
