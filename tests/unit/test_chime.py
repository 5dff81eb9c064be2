"""Amazon Chime's words: parameters, error messages, attributes, limits; whole dialogues are in tests/conformance."""

import io
import itertools
import json
import re
import time
from datetime import UTC, datetime

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from callreel.actions import EndReason, InvalidAction, Layout, StartRecording
from callreel.call import Call
from callreel.dialects.chime import Chime
from callreel.dialects.chime_digits import DigitPattern, ReceiveDigits
from callreel.dialects.chime_parameters import (
    record_audio,
    record_audio_key,
    silence_dbm0,
    start_call_recording,
    whole,
)
from callreel.dialects.chime_words import failure
from callreel.errors import ActionConflictError, ActionError, InvalidActionError, UsageError
from callreel.events import (
    ActionEnded,
    CallView,
    LegStatus,
    Participant,
    Perform,
    RecordingFinished,
    VendorMessage,
)

STARTED_AT = datetime(2026, 5, 6, 7, 8, 9, 250_000, UTC)
DESTINATION = {"Type": "S3", "BucketName": "my-bucket"}
RECORD_AUDIO = {"CallId": "id-1", "RecordingTerminators": ["#"], "RecordingDestination": DESTINATION}
START = {"CallId": "id-1", "Track": "BOTH", "Destination": {"Type": "S3", "Location": "my-bucket/my/prefix"}}
PLAY = {"Type": "PlayAudio", "Parameters": {}}


def answer(*actions, **more):
    return {"SchemaVersion": "1.0", "Actions": list(actions), **more}


def record_audio_action(**more):
    return {"Type": "RecordAudio", "Parameters": {**RECORD_AUDIO, **more}}


def start_action(**more):
    return {"Type": "StartCallRecording", "Parameters": {**START, **more}}


def on_leg(kind, **more):
    return {"Type": kind, "Parameters": {"CallId": "id-1", **more}}


def person(leg="LEG-A", call_id="id-1", status=LegStatus.CONNECTED):
    return Participant(leg, call_id, "+15550199", "+15550100", True, status, STARTED_AT)


def view(*people):
    people = people or (person(),)
    return CallView("c-1", "t-1", STARTED_AT, STARTED_AT, {one.leg: one for one in people})


class Host:
    """A call with Chime's words, whose host plays at once and stores at once."""

    def __init__(self, session=None, **leg):
        self.call = Call(
            "c-1", started_at=STARTED_AT, now=0.0, transaction_id="t-1", dialect=session or Chime()
        )
        self.events, self.file = [], bytearray()
        self.call.add_leg(call_id="id-1", now=0.0, **leg)
        self.drain(0.0)

    def drain(self, now):
        for _, (offset, data) in self.call.writes():
            self.file[offset : offset + len(data)] = data
        while events := self.call.events():
            self.events += events
            for event in events:
                if isinstance(event, Perform):
                    self.call.performed(event.action_id, now=now)
                elif isinstance(event, RecordingFinished) and event.deliver:
                    self.call.stored(event.recording_id, now=now)

    def ask(self, document, now):
        response = self.call.request(document, now=now)
        self.drain(now)
        return response

    @property
    def messages(self):
        return [event for event in self.events if isinstance(event, VendorMessage)]

    @property
    def types(self):
        return [message.body["InvocationEventType"] for message in self.messages]


# ---- parameters of StartCallRecording ----


@pytest.mark.parametrize(
    ("track", "layout"),
    [("BOTH", Layout.STEREO), ("INCOMING", Layout.INCOMING), ("OUTGOING", Layout.OUTGOING)],
)
def test_the_track_decides_the_layout(track, layout):
    assert start_call_recording({**START, "Track": track}) == (layout, "my-bucket", "my/prefix")


@pytest.mark.parametrize(
    ("location", "bucket", "prefix"),
    [
        ("my-bucket", "my-bucket", None),
        ("my-bucket/", "my-bucket", None),
        ("my-bucket/a", "my-bucket", "a"),
        ("my-bucket/a/", "my-bucket", "a"),
        ("my-bucket/a/b c/ü", "my-bucket", "a/b c/ü"),
        ("myRecordingBucket/technicalSupport/english", "myRecordingBucket", "technicalSupport/english"),
    ],
)
def test_a_location_is_a_bucket_and_an_optional_prefix(location, bucket, prefix):
    given = {**START, "Destination": {"Type": "S3", "Location": location}}
    assert start_call_recording(given)[1:] == (bucket, prefix)


@pytest.mark.parametrize(
    "location",
    ["", "/a", "ab", "bucket//", "bucket//a", "bucket/a//", "bucket/../a", "bucket/./a", "bucket/a/.."]
    + ["-bucket", "bucket-", "bu cket", "b..ucket", "10.0.0.1", "x" * 64, None, 5, ["bucket"]]
    + [f"bucket/a{character}c" for character in '\\:*?"<>|\x00\n\x7f\ud800'],
)
def test_a_location_that_would_break_keys_or_file_names(location):
    with pytest.raises(InvalidActionError, match=r"\ACallId parameter for action is invalid\Z") as error:
        start_call_recording({**START, "Destination": {"Type": "S3", "Location": location}})
    assert error.value.field == "Destination.Location"


def test_a_key_that_s3_would_not_take_is_refused_before_anything_is_recorded():
    def asked(length):
        location = "my-bucket/" + length * "x"
        document = answer(start_action(Destination={"Type": "S3", "Location": location}))
        (action,) = Chime().request(document, view()).order.actions
        return action

    room = 1024 - len("/2026/05/06/2026-05-06-07-08-09-250_t-1_id-1.wav")
    longest = asked(room)
    assert isinstance(longest, StartRecording)
    assert len(longest.key) == 1024
    assert isinstance(asked(room + 1), InvalidAction)


def test_a_call_recording_is_asked_for_by_call_id_or_tag_and_never_by_neither():
    tagged = {**START, "CallId": None, "ParticipantTag": "LEG-B"}
    document = answer({"Type": "StartCallRecording", "Parameters": tagged})
    people = person(), person("LEG-B", "id-2")
    (action,) = Chime().request(document, view(*people)).order.actions
    assert (action.leg, action.key[-8:]) == ("LEG-B", "id-2.wav")
    (action,) = Chime().request(answer(start_action(CallId=None)), view()).order.actions
    assert str(action.error) == "CallId parameter for action is invalid"


# ---- parameters of RecordAudio ----


def test_what_record_audio_is_given_becomes_rules():
    wanted = record_audio(
        {
            **RECORD_AUDIO,
            "DurationInSeconds": "10",
            "SilenceDurationInSeconds": 3,
            "SilenceThreshold": 100,
            "RecordingTerminators": ["#", "*", "#"],
        },
        requires_terminators=True,
    )
    rules = wanted.rules
    assert (wanted.bucket, wanted.prefix, wanted.destination_name) == (
        "my-bucket",
        None,
        "RecordingDestination",
    )
    assert (rules.terminators, rules.max_duration_ms) == (frozenset("#*"), 10_000)
    assert (rules.initial_silence_ms, rules.trailing_silence_ms, rules.silence_dbm0) == (3000, 3000, -55.0)


def test_without_duration_and_silence_only_a_key_ends_it():
    rules = record_audio(RECORD_AUDIO, requires_terminators=True).rules
    assert (rules.max_duration_ms, rules.initial_silence_ms, rules.trailing_silence_ms) == (None, None, None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"RecordinDestination": DESTINATION}, ("RecordinDestination", "my-bucket", None)),
        (
            {"RecordinDestination": {**DESTINATION, "Prefix": "a/"}},
            ("RecordinDestination", "my-bucket", "a"),
        ),
        (
            {"DestinationType": "S3", "DestinationValue": "/path/to/s3/bucket"},
            ("RecordinDestination", "path", "to/s3/bucket"),
        ),
        (
            {"DestinationType": "S3", "DestinationValue": "https://doc-bucket.s3.us-west-2.amazonaws.com/a"},
            ("RecordinDestination", "doc-bucket", "a"),
        ),
        (
            {"DestinationType": "S3", "DestinationValue": "s3://my-bucket"},
            ("RecordinDestination", "my-bucket", None),
        ),
    ],
)
def test_a_destination_by_any_of_the_pages_names(given, expected):
    wanted = record_audio({"StopRecordingOnDigits": ["#"], **given}, requires_terminators=True)
    assert (wanted.destination_name, wanted.bucket, wanted.prefix) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [("RecordingDestination", value) for value in (None, "s3", {}, {**DESTINATION, "Type": "s3"})]
    + [
        ("RecordingDestination", {**DESTINATION, "BucketName": value})
        for value in (None, "", 5, "a", "a/b", "ü" * 5)
    ]
    + [
        ("RecordingDestination", {**DESTINATION, "Prefix": value})
        for value in (5, "/a", "/", "a//b", "a/../b", "a b", "ä", "a" * 980)
    ]
    + [("DurationInSeconds", value) for value in (0, -1, "x", "", "1.5", 1.5, True, float("nan"), [], "١")]
    + [("SilenceDurationInSeconds", value) for value in (0, 1001, "x", False, {})]
    + [("SilenceThreshold", value) for value in (0, 1001, 0.5, "-1")]
    + [("RecordingTerminators", value) for value in (None, [], "#", ["##"], [""], ["A"], [1], [["#"]], {})],
)
def test_what_is_wrong_with_a_parameter_is_said_in_the_guides_words(name, value):
    with pytest.raises(InvalidActionError) as error:
        record_audio({**RECORD_AUDIO, "SilenceDurationInSeconds": 1, name: value}, requires_terminators=True)
    assert (str(error.value), error.value.field) == (f"{name} parameter value is invalid.", name)


@pytest.mark.parametrize(
    ("value", "number"), [(10, 10), ("10", 10), (10.0, 10), ("007", 7), (10**30, 10**30)]
)
def test_a_whole_number_may_be_text(value, number):
    assert whole("x", value) == number


def test_the_scale_of_silence_goes_through_the_guides_points():
    assert [silence_dbm0(threshold) for threshold in (1, 100, 200, 1000)] == [-70, -55, -40, -25]
    levels = [silence_dbm0(threshold) for threshold in range(1, 1001)]
    assert all(low < high for low, high in itertools.pairwise(levels))


@pytest.mark.parametrize("call_id", ["id-1", "7ab7748e-b47d-4620-ae2c-152617d3333c", "ü" * 300, "\ud800"])
@pytest.mark.parametrize("length", [0, 1, 900, 979])
def test_a_key_fits_into_s3_whatever_prefix_and_id(call_id, length):
    keys = {record_audio_key("p" * length or None, call_id, number, "mp3") for number in (1, 2, 1000)}
    assert len(keys) == 3
    assert all(len(key.encode()) <= 1024 and key.endswith(".mp3") for key in keys)


def test_recordings_of_a_list_are_counted_for_each_call_id():
    people = person(), person("LEG-B", "id-2"), person("LEG-C", "id-1")
    listed = [
        record_audio_action(CallId=None, ParticipantTag=leg) for leg in ("LEG-A", "LEG-B", "LEG-C", "LEG-A")
    ]
    actions = Chime().request(answer(*listed), view(*people)).order.actions
    assert [action.key for action in actions] == [
        "id-1-recordings-1.mp3",
        "id-2-recordings-1.mp3",
        "id-1-recordings-2.mp3",
        "id-1-recordings-3.mp3",
    ]


def test_legs_of_one_call_id_share_the_count_of_their_keys():
    host = Host()
    host.call.add_leg("LEG-B", call_id="id-1", now=0)
    by_tag = {"CallId": None, "DurationInSeconds": 1}
    first, second = (record_audio_action(**by_tag, ParticipantTag=leg) for leg in ("LEG-A", "LEG-B"))
    host.ask(answer(first, second), 1)
    host.call.handle_timeout(now=4)
    host.drain(4)
    host.ask(answer(second), 5)
    host.call.handle_timeout(now=8)
    host.drain(8)
    host.call.end(now=9)
    host.drain(9)
    keys = [event.key for event in host.events if isinstance(event, RecordingFinished)]
    assert keys == [f"id-1-recordings-{number}.mp3" for number in (1, 2, 3)]


def test_record_audio_makes_wav_on_request_and_nothing_else():
    (action,) = Chime(record_audio_format="wav").request(answer(record_audio_action()), view()).order.actions
    assert (action.format, action.key) == ("wav", "id-1-recordings-1.wav")
    with pytest.raises(UsageError, match="mp3 or wav"):
        Chime(record_audio_format="ogg")


# ---- errors ----


@pytest.mark.parametrize(
    ("kind", "error", "step", "expected"),
    [
        ("RecordAudio", InvalidActionError("x is wrong"), "", ("InvalidActionParameter", "x is wrong", None)),
        (
            "RecordAudio",
            ActionError("disk full"),
            "",
            (
                "InvalidActionParameter",
                "Error occurred while uploading recording to S3 bucket.",
                "NoAccessTODestination: Error while accessing destination",
            ),
        ),
        (
            "RecordAudio",
            ActionConflictError("", field="CallId"),
            "",
            (
                "InvalidActionParameter",
                "CallId or ParticipantTag parameter for action is invalid.",
                None,
            ),
        ),
        (
            "RecordAudio",
            ActionError(""),
            "answer",
            ("SystemException", "System error while running an action.", None),
        ),
        (
            "StartCallRecording",
            ActionError("denied"),
            "check",
            ("NoAccessToDestination", "Error while accessing destination", None),
        ),
        *(
            (kind, ActionError("no room", field="system"), "", ("SystemException", message, None))
            for kind, message in (
                ("RecordAudio", "System error while running an action."),
                ("StartCallRecording", "System error while executing an action."),
            )
        ),
        (
            "StartCallRecording",
            ActionError("the bucket did not answer", field="system"),
            "check",
            ("SystemException", "System error while executing an action.", None),
        ),
        (
            "StartCallRecording",
            ActionConflictError("", field="CallId"),
            "",
            ("InvalidActionParameter", "CallId parameter for action is invalid", None),
        ),
        (
            "StartCallRecording",
            ActionConflictError("", field="status"),
            "",
            ("CallNotAnswered", "Call not answered", None),
        ),
        *(
            (kind, ActionError("x"), "", ("SystemException", "System error while executing an action.", None))
            for kind in (
                "StartCallRecording",
                "StopCallRecording",
                "PauseCallRecording",
                "ResumeCallRecording",
            )
        ),
        ("Speak", ActionError("x"), "", ("SystemException", "System error while executing an action.", None)),
        (
            "PlayAudio",
            ActionConflictError("", field="CallId"),
            "",
            (
                "InvalidActionParameter",
                "CallId or ParticipantTag parameter for action is invalid.",
                None,
            ),
        ),
    ],
)
def test_a_failure_is_told_in_both_shapes(kind, error, step, expected):
    error_type, message, older = expected
    assert failure(kind, error, step) == {
        "ErrorType": error_type,
        "ErrorMessage": message,
        "Error": older or f"{error_type}: {message}",
    }


# ---- the function's answers ----


def test_attributes_have_at_most_a_hundred_pairs_and_20_kb():
    def told(attributes):
        host = Host()
        host.ask(answer(TransactionAttributes=attributes), 1)
        return [message.body.get("ErrorType") for message in host.messages]

    assert told({f"a{n}": "x" for n in range(100)}) == []
    assert told({f"a{n}": "x" for n in range(101)}) == ["TransactionAttributesInvalidMapSize"]
    assert told({"name": "x" * (20 * 1024 - 4)}) == []
    assert told({"name": "x" * (20 * 1024 - 3)}) == ["TransactionAttributesInvalidMapSize"]
    assert told({"name": "ü" * (10 * 1024 - 1)}) == ["TransactionAttributesInvalidMapSize"]
    assert told({"name": "\ud800"}) == []


@pytest.mark.parametrize("attributes", [[], "x", 0, {"a": 1}, {"a": None}, {"a": {"b": "c"}}])
def test_attributes_are_texts(attributes):
    host = Host()
    host.ask(answer(start_action(), TransactionAttributes=attributes), 1)
    assert [message.body["ErrorType"] for message in host.messages] == ["TransactionAttributesInvalid"]
    host.call.end(now=2)


def test_attributes_of_an_answer_that_cannot_be_used_are_forgotten():
    host = Host()
    host.ask(answer({"Type": "Nap"}, TransactionAttributes={"a": "1"}), 1)
    assert "TransactionAttributes" not in host.messages[0].body["CallDetails"]


@pytest.mark.parametrize(
    ("count", "kind"), [(10, "ACTION_SUCCESSFUL"), (11, "INVALID_LAMBDA_RESPONSE"), (0, None)]
)
def test_a_list_has_at_most_ten_actions(count, kind):
    host = Host()
    host.ask(answer(*[PLAY] * count), 1)
    assert host.types == ([] if kind is None else [kind])


@pytest.mark.parametrize(
    "document",
    [
        answer(start_action()),
        {"Statement": [start_action()]},
        {"Version": "2012-10-17", "Statement": start_action()},
        start_action(),
    ],
)
def test_every_form_that_the_pages_print(document):
    (action,) = Chime().request(document, view()).order.actions
    assert (action.layout, action.prefix) == (Layout.STEREO, "my/prefix")


def test_a_participant_for_whom_nothing_can_be_done_is_hung_up_on():
    host = Host()
    for now in (1, 2):
        host.ask(None, now)
    assert [message.kind for message in host.messages] == ["invocation", "notification"]
    assert [event.name for event in host.events if isinstance(event, Perform)] == ["Hangup"]


@pytest.mark.parametrize("better", [answer(PLAY), answer(record_audio_action())])
def test_an_answer_that_can_be_used_makes_up_for_one_that_could_not(better):
    host = Host()
    for now, document in enumerate((None, better, None), 1):
        host.ask(document, now)
    assert "Hangup" not in [event.name for event in host.events if isinstance(event, Perform)]


def test_nobody_is_hung_up_on_while_something_goes_on():
    host = Host()
    host.ask(answer(record_audio_action()), 1)
    for now in (2, 3, 4):
        host.ask(None, now)
    assert not [event for event in host.events if isinstance(event, Perform)]
    two = Host()
    two.call.add_leg("LEG-B", call_id="id-2", now=1)
    for now in (2, 3):
        two.ask(None, now)
    assert not [event for event in two.events if isinstance(event, Perform)]


def test_the_answers_for_a_call_that_nobody_is_on_are_ignored():
    host = Host()
    host.call.hang_up("LEG-A", now=1)
    host.ask(answer(start_action()), 2)
    host.ask(None, 3)
    assert host.types == ["HANGUP"]


def test_an_answer_that_names_its_schema_is_no_update():
    host = Host()
    assert host.ask(answer(PLAY, Arguments={}), 1) is None
    assert host.types == ["ACTION_SUCCESSFUL"]


# ---- what is told ----


@pytest.mark.parametrize("kind", ["RecordAudio", "StopCallRecording", "PauseCallRecording"])
def test_parameters_come_back_as_an_object_even_when_there_were_none(kind):
    host = Host()
    host.ask(answer({"Type": kind}), 1)
    assert host.messages[0].body["ActionData"]["Parameters"] == {}


def test_sequence_grows_by_one():
    host = Host(Chime(first_sequence=2))
    for now in range(1, 5):
        host.ask(answer(PLAY), now)
    assert [message.body["Sequence"] for message in host.messages] == [2, 3, 4, 5]


def test_call_details_name_the_call_and_who_is_on_it():
    session = Chime(account_id="1", region="eu-1", sip_media_application_id="sma-1", sip_rule_id="rule-1")
    host = Host(session, to="+15550199", from_="+15550100", status=LegStatus.OFFERED)
    (message,) = host.messages
    assert (message.call_id, message.dialect, message.kind) == ("c-1", "chime", "invocation")
    assert message.body == {
        "SchemaVersion": "1.0",
        "Sequence": 1,
        "InvocationEventType": "NEW_INBOUND_CALL",
        "CallDetails": {
            "TransactionId": "t-1",
            "AwsAccountId": "1",
            "AwsRegion": "eu-1",
            "SipMediaApplicationId": "sma-1",
            "SipRuleId": "rule-1",
            "Participants": [
                {
                    "CallId": "id-1",
                    "ParticipantTag": "LEG-A",
                    "To": "+15550199",
                    "From": "+15550100",
                    "Direction": "Inbound",
                    "StartTimeInMilliseconds": "1778051289250",
                }
            ],
        },
    }


def test_a_call_that_is_made_is_told_of_as_it_rings_and_is_answered():
    host = Host(inbound=False, status=LegStatus.DIALED)
    host.call.ringing("LEG-A", now=1)
    host.call.answered("LEG-A", now=2)
    host.call.add_leg("LEG-B", call_id="id-2", inbound=False, status=LegStatus.DIALED, now=3)
    host.call.ringing("LEG-B", now=4)
    host.call.answered("LEG-B", now=5)
    host.drain(5)
    assert host.types == ["NEW_OUTBOUND_CALL", "RINGING", "CALL_ANSWERED", "RINGING"]


def test_what_a_participant_hears_is_no_key_of_theirs():
    host = Host()
    host.ask(answer(on_leg("ReceiveDigits", InputDigitsRegex="#"), record_audio_action()), 1)
    host.call.receive_digit("LEG-A", "#", now=2, track="outgoing")
    host.call.handle_timeout(now=4)
    host.drain(4)
    assert host.types == []
    host.call.end(now=5)


def test_only_what_somebody_is_left_for_wants_an_answer():
    host = Host()
    host.call.add_leg("LEG-B", call_id="id-2", now=0)
    host.call.hang_up("LEG-B", now=1, sip_response_code=486)
    host.call.hang_up("LEG-A", now=2)
    host.drain(2)
    assert [message.kind for message in host.messages] == ["invocation", "notification"]
    codes = [message.body["ActionData"]["Parameters"]["SipResponseCode"] for message in host.messages]
    assert codes == [486, 0]


def test_after_a_thousand_invocations_the_call_is_hung_up_on():
    host = Host()
    for number in range(1001):
        host.ask(answer(PLAY), number)
    assert len(host.messages) == 1000
    assert host.messages[-1].kind == "notification"
    assert [event.name for event in host.events if isinstance(event, Perform)].count("Hangup") == 1


@pytest.mark.parametrize("arguments", [None, [], "x", {"a": 1}, {f"a{n}": "" for n in range(21)}])
def test_an_update_takes_up_to_twenty_texts(arguments):
    host = Host()
    response = host.ask({"Arguments": arguments}, 1)
    assert (response.status, response.body["Code"]) == (400, "BadRequest")
    assert response.headers == {"x-amzn-ErrorType": "BadRequestException"}
    assert host.messages == []


def test_an_update_is_accepted_and_told():
    host = Host()
    arguments = {f"a{n}": "x" for n in range(20)}
    response = host.ask({"Arguments": arguments}, 1)
    assert (response.status, response.body) == (202, {"SipMediaApplicationCall": {"TransactionId": "t-1"}})
    (message,) = host.messages
    assert message.kind == "invocation"
    assert message.body["ActionData"] == {
        "Type": "CallUpdateRequest",
        "Parameters": {"Arguments": arguments},
    }


@pytest.mark.parametrize(("name", "stops"), [("PlayAudio", True), ("Pause", True), ("Speak", False)])
def test_the_answer_to_an_update_ends_what_may_be_interrupted(name, stops):
    call = Call("c-1", started_at=STARTED_AT, now=0.0, dialect=Chime())
    call.add_leg(call_id="id-1")
    call.request(answer(on_leg(name), on_leg("Hangup")), now=1)
    call.request({"Arguments": {}}, now=2)
    call.request(answer(on_leg("Speak")), now=3)
    ended = [event.outcome for event in call.events() if isinstance(event, ActionEnded)]
    assert ended == (["interrupted"] if stops else [])


def test_an_update_while_the_call_is_answered_for_record_audio_calls_that_off():
    call = Call("c-1", started_at=STARTED_AT, now=0.0, dialect=Chime())
    call.add_leg(call_id="id-1", status=LegStatus.OFFERED)
    call.request(answer(record_audio_action()), now=1)
    call.request({"Arguments": {}}, now=2)
    call.request(answer(PLAY), now=3)
    call.answered("LEG-A", now=4)
    call.performed("1.1/answer", now=4)
    events = call.events()
    told = [event.body["InvocationEventType"] for event in events if isinstance(event, VendorMessage)]
    assert told == ["NEW_INBOUND_CALL", "CALL_UPDATE_REQUESTED", "ACTION_INTERRUPTED"]
    assert [event.name for event in events if isinstance(event, Perform)] == ["Answer", "PlayAudio"]


def two_legs(status=LegStatus.CONNECTED):
    call = Call("c-1", started_at=STARTED_AT, now=0.0, dialect=Chime(checks_access=True))
    call.add_leg("LEG-A", call_id="id-1", status=status)
    call.add_leg("LEG-B", call_id="id-2")
    return call


def told_and_performed(call):
    events = call.events()
    told = [event.body for event in events if isinstance(event, VendorMessage)]
    types = [(body["InvocationEventType"], body.get("ActionData", {}).get("Type")) for body in told]
    return types, [event.name for event in events if isinstance(event, Perform)]


def test_the_step_before_an_action_is_still_done_when_another_leg_hangs_up():
    call = two_legs()
    call.request(answer(PLAY, start_action(), on_leg("Speak", CallId="id-2")), now=1)
    call.hang_up("LEG-B", now=2)
    call.performed("1.1", now=3)
    call.performed("1.2/check", now=4)
    assert told_and_performed(call) == (
        [("HANGUP", "Hangup"), ("ACTION_FAILED", "Speak")],
        ["PlayAudio", "CheckAccess"],
    )
    call.stop_recording("LEG-A", now=5)


@pytest.mark.parametrize("error", [None, ActionError("broken")])
def test_a_call_that_is_being_answered_for_record_audio_is_when_another_leg_hangs_up(error):
    call = two_legs(LegStatus.OFFERED)
    call.request(answer(record_audio_action(DurationInSeconds=1)), now=1)
    call.request(answer(on_leg("Speak", CallId="id-2")), now=1)
    call.hang_up("LEG-B", now=2)
    call.answered("LEG-A", now=3)
    call.performed("1.1/answer", now=3, error=error)
    call.handle_timeout(now=6)
    call.stored("c-1/LEG-A/message", now=6)
    assert told_and_performed(call) == (
        [
            ("NEW_INBOUND_CALL", None),
            ("HANGUP", "Hangup"),
            ("ACTION_SUCCESSFUL" if error is None else "ACTION_FAILED", "RecordAudio"),
            ("ACTION_FAILED", "Speak"),
        ],
        ["Answer"],
    )


def test_what_waits_is_forgotten_when_nobody_is_left():
    host = Host()
    host.ask(answer(record_audio_action(), PLAY), 1)
    host.call.hang_up("LEG-A", now=2)
    host.call.handle_timeout(now=4)
    host.drain(4)
    assert host.types == ["ACTION_SUCCESSFUL", "HANGUP"]


def test_an_action_that_answers_makes_record_audio_wait_for_no_other():
    people = view(person(status=LegStatus.OFFERED))
    actions = Chime().request(answer(PLAY, record_audio_action()), people).order.actions
    assert [getattr(action, "name", "RecordAudio") for action in actions] == ["PlayAudio", "RecordAudio"]


@pytest.mark.parametrize("duration_s", [0.0, 0.0004, 1.5, 10.0, 3661.0625])
def test_the_metadata_of_the_object(duration_s):
    metadata, more = Chime().describe(
        "", leg="LEG-A", duration_s=duration_s, media_type="audio/wav", call=view()
    )
    texts = {0.0: "0", 0.0004: "0", 1.5: "1.5", 10.0: "10", 3661.0625: "3661.062"}
    assert metadata == {
        "transaction-id": "t-1",
        "call-id": "id-1",
        "recording-duration": texts[duration_s],
        "recording-audio-file-format": "audio/wav",
    }
    assert more == {"action": "StartCallRecording", "billed_minutes": -(-duration_s // 60)}


def test_an_interrupted_record_audio_is_still_called_by_its_name():
    host = Host()
    host.ask(answer(record_audio_action()), 0)
    host.ask({"Arguments": {}}, 1)
    host.ask(answer(PLAY), 1)
    host.call.handle_timeout(now=4)
    host.drain(4)
    (finished,) = [event for event in host.events if isinstance(event, RecordingFinished)]
    assert (finished.end_reason, finished.deliver) == (EndReason.INTERRUPTED, False)
    assert (finished.manifest["action"], finished.metadata) == ("RecordAudio", {})


def spoken_to(session, document, *later):
    """The samples of a recording of 3 s, of which something is said (1,000) and heard (2,000) all the time."""
    host = Host(session, host_frames=True)
    host.ask(document, 0)
    for now in range(3):
        for at, command in later:
            if at == now:
                host.ask(answer(on_leg(command)), now)
        for direction, value in (("incoming", 1000), ("outgoing", 2000)):
            frames = np.full(8000, value, "<i2").tobytes()
            host.call.receive_pcm("LEG-A", frames, now=now, direction=direction)
    host.call.end(now=3)
    host.drain(3)
    audio, rate = soundfile.read(io.BytesIO(bytes(host.file)), dtype="int16", always_2d=True)
    assert (rate, len(audio)) == (8000, 24_000)
    return audio


@pytest.mark.parametrize(
    ("track", "values"), [("BOTH", [1000, 2000]), ("INCOMING", [1000]), ("OUTGOING", [2000])]
)
def test_a_track_is_a_channel_incoming_left_and_outgoing_right(track, values):
    audio = spoken_to(None, answer(start_action(Track=track)))
    assert audio.shape[1] == len(values)
    assert (audio == values).all()


def test_record_audio_holds_what_the_participant_says_in_one_channel():
    audio = spoken_to(Chime(record_audio_format="wav"), answer(record_audio_action()))
    assert audio.shape[1] == 1
    assert (audio == 1000).all()


def test_what_is_said_in_a_pause_is_silence_between_two_tones():
    audio = spoken_to(None, answer(start_action()), (1, "PauseCallRecording"), (2, "ResumeCallRecording"))
    said, tone_samples = np.array([1000, 2000]), 1600
    tones = audio[8000 : 8000 + tone_samples]
    assert (audio[:8000] == said).all()
    assert (tones[:, 0] == tones[:, 1]).all()
    assert abs(tones.mean()) < 1 < 2000 < tones.max()
    assert not audio[8000 + tone_samples : 16_000].any()
    assert (audio[16_000 : 16_000 + tone_samples] == tones + said).all()
    assert (audio[16_000 + tone_samples :] == said).all()


@pytest.mark.parametrize("again", [[], [(1.5, "PauseCallRecording"), (2.5, "ResumeCallRecording")]])
def test_a_pause_and_a_resumption_sound_once_in_both_channels(again):
    host = Host()
    host.ask(answer(start_action()), 0)
    commands = [(1, "PauseCallRecording"), (2, "ResumeCallRecording"), *again]
    for now, command in sorted(commands):
        host.ask(answer(on_leg(command)), now)
    host.call.end(now=3)
    host.drain(3)
    audio, rate = soundfile.read(io.BytesIO(bytes(host.file)), dtype="int16")
    assert (rate, audio.shape) == (8000, (24_000, 2))
    np.testing.assert_array_equal(audio[:, 0], audio[:, 1])
    loud = audio[:, 0].reshape(-1, 800).any(axis=1)
    assert loud.nonzero()[0].tolist() == [10, 11, 20, 21]


# ---- keys that are waited for ----


@pytest.mark.parametrize(
    "text",
    [r"^\d{2}#$", r"\d+", r"^[1-3]?#", r"[^0-9]{1,2}", r"\*\d{0,3}#", ".{2,}", "5", "1*#?", r"[\d#]{3}"],
)
def test_a_pattern_of_keys_matches_what_the_regular_expression_does(text):
    pattern, expression = DigitPattern(text), re.compile(text)
    keys = ["", *"0159*#"]
    texts = {a + b + c + d for a in keys for b in keys for c in keys for d in keys}
    assert [one for one in texts if pattern.matches(one)] == [
        one for one in texts if expression.fullmatch(one)
    ]


@pytest.mark.parametrize("text", ["(1|2)", "(", "[", "a", "{2}", r"\d{3,1}", "1**", "5$5", "1" * 33, None, 7])
def test_a_pattern_that_is_not_understood_is_told(text):
    with pytest.raises(InvalidActionError, match=r"\AInputDigitsRegex parameter value is invalid\.\Z"):
        ReceiveDigits({"InputDigitsRegex": text})


def test_no_pattern_takes_long():
    pattern = DigitPattern(r"\d{0,99}" * 31 + "#")
    begun_at = time.perf_counter()
    assert not pattern.matches("1" * 32)
    assert time.perf_counter() - begun_at < 1


def test_keys_far_apart_are_not_of_one_entry():
    digits = ReceiveDigits({"InputDigitsRegex": r"\d\d"})
    assert digits.press("1", 0.0, 0.1) is None
    assert digits.press("2", 1.2, 0.1) is None
    assert digits.press("3", 2.2, 0.1) == "23"
    digits = ReceiveDigits({"InputDigitsRegex": r"\d{3}", "FlushDigitsDurationInMilliseconds": 1500})
    assert [digits.press(key, at_s, 0.1) for key, at_s in (("1", 0.0), ("2", 0.9), ("3", 1.8))] == [None] * 3


# ---- any JSON ----

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 10**400, 2**63])
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(["S3", "#", "LEG-A", "id-1", "BOTH", "my-bucket/a", "10", r"\d{2}", "1.0"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)
KINDS = [
    "RecordAudio",
    "StartCallRecording",
    "StopCallRecording",
    "PauseCallRecording",
    "ResumeCallRecording",
    "ReceiveDigits",
    "PlayAudio",
]
NAMES = [
    "CallId",
    "ParticipantTag",
    "RecordingDestination",
    "RecordinDestination",
    "DestinationType",
    "DestinationValue",
    "DurationInSeconds",
    "MaxDurationInSeconds",
    "SilenceDurationInSeconds",
    "SilenceThreshold",
    "RecordingTerminators",
    "StopRecordingOnDigits",
    "Track",
    "Destination",
    "InputDigitsRegex",
    "InBetweenDigitsDurationInMilliseconds",
    "FlushDigitsDurationInMilliseconds",
]
DESTINATIONS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("Type", "BucketName", "Prefix", "Location"), JSON)
)
DAMAGED = st.builds(
    lambda kind, changes: {"Type": kind, "Parameters": {**RECORD_AUDIO, **START, **changes}},
    st.sampled_from(KINDS),
    st.dictionaries(st.sampled_from(NAMES), JSON | DESTINATIONS, max_size=3),
)
DOCUMENTS = (
    JSON
    | st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("SchemaVersion", "Actions", "TransactionAttributes"), JSON)
    )
    | st.builds(lambda actions: answer(*actions), st.lists(DAMAGED | JSON, max_size=3))
    | st.builds(lambda attributes: answer(TransactionAttributes=attributes), JSON)
    | st.builds(
        lambda kind, parameters: answer({"Type": kind, "Parameters": parameters}),
        st.sampled_from(KINDS),
        JSON,
    )
    | DAMAGED
    | st.builds(lambda arguments, more: {"Arguments": arguments, "TransactionId": more}, JSON, JSON)
)


@settings(max_examples=300, deadline=None)
@given(documents=st.lists(DOCUMENTS, min_size=1, max_size=3), options=st.booleans())
def test_any_json_gives_messages_and_never_an_exception(documents, options):
    host = Host(
        Chime(
            record_audio_format="wav",
            strict_pauses=options,
            checks_access=options,
            requires_terminators=options,
        )
    )
    for now, document in enumerate(documents, 1):
        host.ask(document, now)
        host.call.receive_digit("LEG-A", "1", now=now + 0.5)
        host.drain(now + 0.5)
    host.call.end(now=len(documents) + 1)
    host.drain(len(documents) + 1)
    for number, message in enumerate(host.messages, 1):
        assert message.body["Sequence"] == number
        json.dumps(message.body)
    assert host.types[-1] == "HANGUP"
    assert host.types.count("HANGUP") == 1


@settings(max_examples=300, deadline=None)
@given(changes=st.dictionaries(st.sampled_from(NAMES), JSON | DESTINATIONS, min_size=1, max_size=3))
def test_any_parameter_of_record_audio_gives_a_recording_or_one_failure(changes):
    host = Host(Chime(record_audio_format="wav"))
    host.ask(answer(record_audio_action(**changes)), 1)
    recorded = any(type(event).__name__ == "RecordingStarted" for event in host.events)
    failed = host.types == ["ACTION_FAILED"]
    assert recorded is not failed
    if failed:
        data = host.messages[0].body["ActionData"]
        assert data["ErrorType"] == "InvalidActionParameter"
        assert data["Error"] == f"{data['ErrorType']}: {data['ErrorMessage']}"


def test_the_arguments_of_a_call_that_is_made_are_told_when_it_is_dialed():
    session = Chime(arguments={"FirstName": "John"})
    call = Call("c-1", started_at=STARTED_AT, now=0.0, dialect=session)
    call.add_leg("LEG-A", status=LegStatus.DIALED, inbound=False, now=0.0)
    call.ringing("LEG-A", now=1.0)
    dialed, ringing = (event.body for event in call.events() if isinstance(event, VendorMessage))
    assert dialed["InvocationEventType"] == "NEW_OUTBOUND_CALL"
    assert dialed["ActionData"]["Parameters"] == {"Arguments": {"FirstName": "John"}}
    assert "ActionData" not in ringing
