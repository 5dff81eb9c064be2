"""Sinch's session: callbacks and their answers, what it keeps to itself, and documents of any kind."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callreel.actions import Layout, RecordingKind, StartRecording
from callreel.call import Call
from callreel.dialects.sinch import Sinch, error_response
from callreel.dialects.sinch_options import SvamlError, generated_name, read_options
from callreel.errors import ActionError, UsageError
from callreel.events import (
    CallView,
    LegStatus,
    Perform,
    RecordingFinished,
    RecordingStarted,
    RecordingStored,
    StopPlaying,
    VendorMessage,
)

STARTED_AT = datetime(2019, 3, 1, 17, 10, tzinfo=UTC)
SECRET = "wJalrXUtnFEMI/K7MDENG"
S3 = {"destinationUrl": "s3://my-bucket/x.mp3", "credentials": f"AKID:{SECRET}:eu-central-1"}
DRIVE = {"destinationUrl": "sdrive://x.mp3"}
FREE = {"currencyId": "USD", "amount": 0}
START = {"name": "startRecording", "options": DRIVE}
SAY = {"name": "say", "text": "Hello"}


class Host:
    """A call with one leg, and everything that came of it."""

    def __init__(self, status=LegStatus.CONNECTED, *, legs=True, inbound=True, **options):
        self.session = Sinch(application_key="app-key", **options)
        self.call = Call("call-1", started_at=STARTED_AT, now=0.0, dialect=self.session)
        self.seen = []
        if legs:
            self.call.add_leg(
                "LEG-A", status=status, from_="+461", to="+462", inbound=inbound, now=0.0, detect_digits=False
            )

    def events(self, kind=object):
        self.seen += self.call.events()
        return [event for event in self.seen if isinstance(event, kind)]

    @property
    def messages(self):
        return [(event.kind, event.body) for event in self.events(VendorMessage)]

    @property
    def told(self):
        return [body.get("type", body["event"]) for _, body in self.messages]

    @property
    def performs(self):
        return [(event.leg, event.name) for event in self.events(Perform)]

    def answer(self, event, svaml, now=0.1):
        return self.call.request({"event": event, "svaml": svaml}, now=now)

    def manage(self, svaml, now=0.1, **more):
        return self.call.request({"callId": "call-1", "svaml": svaml, **more}, now=now)

    def finish(self, now):
        self.call.handle_timeout(now=now)
        for event in self.events(RecordingFinished):
            self.call.stored(event.recording_id, now=now)


# ---- callbacks ---------------------------------------------------------------------------------------------


def test_a_leg_that_is_offered_is_told_as_ice_which_wants_an_answer():
    host = Host(LegStatus.OFFERED, custom="of the host", calls_url="https://calls.example/calls/id/")
    assert host.messages == [
        (
            "invocation",
            {
                "event": "ice",
                "callid": "call-1",
                "timestamp": "2019-03-01T17:10:00Z",
                "version": 1,
                "custom": "of the host",
                "applicationKey": "app-key",
                "callResourceUrl": "https://calls.example/calls/id/call-1",
                "userRate": FREE,
                "cli": "+461",
                "to": {"type": "number", "endpoint": "+462"},
                "domain": "pstn",
                "originationType": "PSTN",
                "duration": 0,
                "rdnis": "",
                "callHeaders": [],
            },
        )
    ]


def test_ice_has_no_address_where_there_is_no_manage_call():
    assert "callResourceUrl" not in Host(LegStatus.OFFERED).messages[0][1]


def test_a_leg_that_is_offered_later_is_told_how_long_the_call_has_been_answered():
    host = Host()
    host.call.add_leg("LEG-B", status=LegStatus.OFFERED, now=7.5, detect_digits=False)
    assert host.messages[0][1]["duration"] == 7


def test_dice_has_all_that_the_page_has():
    host = Host(custom="of the host")
    host.call.hang_up("LEG-A", now=4.5)
    host.call.end(now=5)
    assert host.messages == [
        (
            "notification",
            {
                "event": "dice",
                "callid": "call-1",
                "timestamp": "2019-03-01T17:10:05Z",
                "version": 1,
                "custom": "of the host",
                "applicationKey": "app-key",
                "reason": "CALLERHANGUP",
                "result": "ANSWERED",
                "duration": 5,
                "debit": FREE,
                "userRate": FREE,
                "callHeaders": [],
                "from": "+461",
                "to": {"type": "number", "endpoint": "+462"},
            },
        )
    ]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([{"key": "foo", "value": "bar", "more": 1}], [{"key": "foo", "value": "bar"}]),
        ([{"key": "foo", "value": 1}, {"value": "bar"}, "foo", None], []),
        ({"foo": "bar"}, []),
        (None, []),
    ],
)
def test_dice_tells_the_headers_that_an_answer_gave_the_call(given, told):
    host = Host(LegStatus.OFFERED, domain="mxp")
    host.answer("ice", {"action": {"name": "connectMxp", "callHeaders": given}})
    host.call.end(now=5)
    assert host.messages[-1][1]["callHeaders"] == told


def test_svaml_alone_answers_the_callback_that_waits_and_is_manage_call_when_none_does():
    host = Host(LegStatus.OFFERED)
    assert host.call.request({"instructions": [SAY], "action": {"name": "park"}}, now=0.1) is None
    assert host.call.request({"action": {"name": "hangup"}}, now=0.2).status == 204
    assert host.performs == [("LEG-A", "say"), ("LEG-A", "hangup")]


def test_a_callback_that_was_answered_by_name_waits_no_longer():
    host = Host(LegStatus.OFFERED)
    host.answer("ice", {"action": {"name": "park"}})
    assert host.call.request({"action": {"name": "hangup"}}, now=0.2).status == 204


def test_a_leg_that_was_called_and_answers_is_told_as_ace():
    host = Host(LegStatus.DIALED, inbound=False)
    host.call.ringing("LEG-A", now=1)
    assert host.told == []
    host.call.answered("LEG-A", now=2)
    assert host.told == ["ace"]
    assert host.messages[0][0] == "invocation"


def test_a_call_between_apps_has_no_ace():
    host = Host(LegStatus.DIALED, inbound=False, domain="mxp")
    host.call.answered("LEG-A", now=2)
    assert host.told == []


def test_a_host_with_callbacks_of_its_own_turns_them_off():
    host = Host(LegStatus.OFFERED, callbacks=False)
    host.call.answered("LEG-A", now=1)
    host.call.end(now=2)
    assert host.told == []


@pytest.mark.parametrize(
    ("inbound", "status", "code", "reason", "result"),
    [
        (True, LegStatus.CONNECTED, 0, "CALLERHANGUP", "ANSWERED"),
        (False, LegStatus.CONNECTED, 0, "CALLEEHANGUP", "ANSWERED"),
        (False, LegStatus.RINGING, 486, "N/A", "BUSY"),
        (False, LegStatus.RINGING, 480, "TIMEOUT", "NOANSWER"),
        (False, LegStatus.RINGING, 487, "CANCEL", "NOANSWER"),
        (False, LegStatus.RINGING, 503, "GENERALERROR", "FAILED"),
    ],
)
def test_dice_says_how_the_call_ended_and_wants_no_answer(inbound, status, code, reason, result):
    host = Host(status, inbound=inbound)
    host.call.hang_up("LEG-A", now=4.5, sip_response_code=code)
    host.call.end(now=5)
    kind, body = host.messages[-1]
    assert kind == "notification"
    assert (body["event"], body["reason"], body["result"]) == ("dice", reason, result)
    assert body["duration"] == (5 if status is LegStatus.CONNECTED else 0)


def test_a_call_that_manage_call_hangs_up_says_so():
    host = Host()
    host.manage({"action": {"name": "hangup"}})
    host.call.hang_up("LEG-A", now=1)
    host.call.end(now=2)
    assert host.messages[-1][1]["reason"] == "MANAGERHANGUP"


def test_a_call_that_its_caller_ends_before_the_hangup_of_an_answer_says_so():
    host = Host()
    host.answer("ace", {"instructions": [SAY], "action": {"name": "hangup"}})
    host.call.hang_up("LEG-A", now=1)
    host.call.end(now=2)
    assert host.messages[-1][1]["reason"] == "CALLERHANGUP"


ALLOWED = {
    "hangup": {"ice", "ace", "pie"},
    "continue": {"ace", "pie"},
    "connectPstn": {"ice", "pie"},
    "connectMxp": {"ice"},
    "connectConf": {"ice", "ace", "pie"},
    "connectSip": {"ice", "pie"},
    "connectStream": {"ice"},
    "runMenu": {"ice", "ace", "pie"},
    "park": {"ice"},
    "startRecording": set(),
    "stopRecording": set(),
}
RECORDED = {"continue", "connectPstn", "connectConf", "connectSip", "connectMxp"}


@pytest.mark.parametrize("name", ALLOWED)
@pytest.mark.parametrize("event", ["ice", "ace", "pie"])
def test_an_action_stands_where_the_pages_allow_it_and_is_recorded_where_they_have_a_flag(event, name):
    host = Host(callbacks=False)
    flag = {"record": True, "recordingOptions": DRIVE}
    host.answer(event, {"action": {"name": name, "conferenceId": "room", **flag}})
    if event not in ALLOWED[name]:
        assert (host.told, host.performs) == (["callingerror"], [("LEG-A", "hangup")])
        return
    assert host.told == []
    asked = [one for _, one in host.performs]
    conference = name == "connectConf"
    assert asked == ([name, "StartConferenceRecording"] if conference else [name])
    assert len(host.events(RecordingStarted)) == (name in RECORDED and not conference)


@pytest.mark.parametrize("event", ["ice", "ace", "pie"])
def test_instructions_start_and_stop_recordings_in_the_answer_to_every_callback(event):
    host = Host(callbacks=False)
    action = {"name": "runMenu", "menus": []}
    host.answer(event, {"instructions": [START, SAY, {"name": "stopRecording"}], "action": action}, now=0.0)
    host.call.performed("1.2", now=1.0)
    host.finish(now=3.0)
    assert host.told == ["recording_finished", "recording_available"]
    assert host.performs == [("LEG-A", "say"), ("LEG-A", "runMenu")]


# ---- menus -------------------------------------------------------------------------------------------------

MENU = {"action": {"name": "runMenu", "menus": [{"id": "main", "maxDigits": 4}]}}
PRESSED = {"menuId": "main", "type": "sequence", "value": "1234", "inputMethod": "dtmf"}


def in_menu(**options):
    """A call whose menu has begun."""
    host = Host(LegStatus.OFFERED, **options)
    host.answer("ice", MENU)
    assert host.performs == [("LEG-A", "runMenu")]
    return host


def test_a_menus_result_is_told_as_pie_whose_answer_is_carried_out():
    host = in_menu(custom="of the host")
    assert host.told == ["ice"]
    host.call.performed("1.1", now=2.0, result=PRESSED)
    assert host.messages[1:] == [
        (
            "invocation",
            {
                "event": "pie",
                "callid": "call-1",
                "timestamp": "2019-03-01T17:10:02Z",
                "version": 1,
                "custom": "of the host",
                "applicationKey": "app-key",
                "menuResult": PRESSED,
            },
        )
    ]
    host.answer("pie", {"instructions": [SAY], "action": {"name": "connectPstn", "number": "+463"}}, now=2.1)
    host.call.performed("2.1", now=3.0)
    assert host.performs[1:] == [("LEG-A", "say"), ("LEG-A", "connectPstn")]


def test_a_menu_after_a_menu_is_told_again():
    host = in_menu()
    for n in (1, 2):
        host.call.performed(f"{n}.1", now=n, result=PRESSED | {"value": str(n)})
        host.answer("pie", MENU, now=n)
    assert [body["menuResult"]["value"] for _, body in host.messages[1:]] == ["1", "2"]


def test_svaml_alone_answers_pie():
    host = in_menu()
    host.call.performed("1.1", now=2.0, result=PRESSED)
    assert host.call.request({"action": {"name": "hangup"}}, now=2.1) is None
    assert host.performs[-1] == ("LEG-A", "hangup")


def test_a_call_whose_pie_has_no_answer_ends():
    host = in_menu()
    host.call.performed("1.1", now=2.0, result=PRESSED)
    host.call.request(None, now=3.0)
    assert host.performs[-1] == ("LEG-A", "hangup")
    host.call.end(now=4)
    assert host.messages[-1][1]["reason"] == "CALLBACKERROR"


def test_of_a_menus_result_only_what_the_page_has_is_told():
    host = in_menu()
    host.call.performed("1.1", now=2.0, result=PRESSED | {"value": 1234, "trace": "of the host"})
    assert host.messages[-1][1]["menuResult"] == {"menuId": "main", "type": "sequence", "inputMethod": "dtmf"}


@pytest.mark.parametrize(
    "how",
    [{"error": ActionError("no such file")}, {"result": {"trace": "of the host"}}, {"result": {"type": 1}}],
)
def test_a_menu_that_could_not_be_run_or_has_no_type_is_an_error(how):
    host = in_menu()
    host.call.performed("1.1", now=2.0, **how)
    assert host.messages[-1][1]["menuResult"] == {"type": "error"}


@pytest.mark.parametrize("how", ["without a result", "between apps", "callbacks off", "hung up", "replaced"])
def test_a_menu_that_comes_to_nothing_is_not_told(how):
    options = {"between apps": {"domain": "mxp"}, "callbacks off": {"callbacks": False}}.get(how, {})
    host = in_menu(**options)
    if how == "hung up":
        host.call.hang_up("LEG-A", now=1.0)
    elif how == "replaced":
        host.manage({"action": {"name": "hangup"}}, now=1.0)
    host.call.performed("1.1", now=2.0, result=None if how == "without a result" else PRESSED)
    assert "pie" not in host.told


def test_a_request_takes_the_place_of_a_menu_unless_it_is_about_recordings():
    host = in_menu()
    host.call.answered("LEG-A", now=0.5)
    host.manage({"instructions": [START], "action": {"name": "continue"}}, now=1.0)
    assert len(host.events(RecordingStarted)) == 1
    assert host.events(StopPlaying) == []
    host.manage({"instructions": [SAY], "action": {"name": "park"}}, now=2.0)
    assert [one.action_id for one in host.events(StopPlaying)] == ["1.1"]
    host.call.performed("3.1", now=3.0)
    assert host.performs == [("LEG-A", "runMenu"), ("LEG-A", "say"), ("LEG-A", "park")]


def test_a_call_leaves_its_conference_when_its_menu_begins():
    host = in_conference()
    host.manage(MENU, now=2.0)
    assert stay(host) is None


# ---- when a recording begins -------------------------------------------------------------------------------


def test_record_waits_until_the_call_is_answered():
    host = Host(LegStatus.OFFERED)
    host.answer(
        "ice",
        {"action": {"name": "connectPstn", "number": "+463", "record": True, "recordingOptions": DRIVE}},
    )
    assert host.performs == [("LEG-A", "connectPstn")]
    assert host.events(RecordingStarted) == []
    host.call.answered("LEG-A", now=3)
    assert [event.at for event in host.events(RecordingStarted)] == [STARTED_AT + timedelta(seconds=3)]


def test_a_recording_that_waits_is_called_off_by_a_stop():
    host = Host(LegStatus.RINGING, inbound=False)
    assert host.manage({"action": {"name": "startRecording", "recordingOptions": DRIVE}}).status == 204
    assert host.manage({"action": {"name": "startRecording", "recordingOptions": DRIVE}}).status == 400
    assert host.manage({"action": {"name": "stopRecording"}}).status == 204
    host.call.answered("LEG-A", now=3)
    assert host.events(RecordingStarted) == []


def test_a_recording_that_waits_for_a_leg_that_is_gone_is_forgotten():
    host = Host(LegStatus.RINGING, inbound=False)
    host.manage({"action": {"name": "startRecording", "recordingOptions": DRIVE}})
    host.call.hang_up("LEG-A", now=1)
    host.call.add_leg("LEG-B", now=2, detect_digits=False)
    assert host.events(RecordingStarted) == []


def test_start_recording_in_a_call_that_was_not_answered_answers_it_once():
    host = Host(LegStatus.OFFERED)
    host.answer("ice", {"instructions": [START, START, SAY], "action": {"name": "park"}})
    assert host.performs == [("LEG-A", "answer")]
    host.call.answered("LEG-A", now=1)
    host.call.performed("1.1/answer", now=1)
    assert host.performs == [("LEG-A", "answer"), ("LEG-A", "say")]
    assert len(host.events(RecordingStarted)) == 1


def test_an_instruction_that_answers_is_not_repeated():
    host = Host(LegStatus.OFFERED)
    host.answer("ice", {"instructions": [{"name": "answer"}, START], "action": {"name": "park"}})
    host.call.answered("LEG-A", now=1)
    host.call.performed("1.1", now=1)
    assert host.performs == [("LEG-A", "answer"), ("LEG-A", "park")]
    assert len(host.events(RecordingStarted)) == 1


def test_an_answer_that_comes_before_the_first_leg_records_that():
    host = Host(legs=False)
    host.answer("ice", {"instructions": [START], "action": {"name": "park"}})
    host.call.add_leg("LEG-X", now=1, detect_digits=False)
    assert [event.leg for event in host.events(RecordingStarted)] == ["LEG-X"]


def test_a_stop_before_the_first_leg_calls_off_what_would_have_begun_with_it():
    host = Host(legs=False)
    stop = {"name": "stopRecording"}
    host.answer("ice", {"instructions": [stop, START, stop], "action": {"name": "park"}})
    host.call.add_leg("LEG-X", now=1, detect_digits=False)
    assert host.events(RecordingStarted) == []
    assert host.performs == [("LEG-A", "park")]


def test_a_conference_is_recorded_although_the_call_has_no_leg_yet():
    host = Host(legs=False)
    room = {"name": "connectConf", "conferenceId": "room", "record": True, "recordingOptions": DRIVE}
    host.answer("ice", {"instructions": [START], "action": room})
    assert host.performs == [("LEG-A", "connectConf"), ("LEG-A", "StartConferenceRecording")]
    host.call.add_leg(now=1, detect_digits=False)
    assert len(host.events(RecordingStarted)) == 1


# ---- Manage Call -------------------------------------------------------------------------------------------


def test_a_request_about_recordings_leaves_alone_what_is_running():
    host = Host()
    host.answer("ace", {"instructions": [SAY, SAY], "action": {"name": "continue"}})
    assert host.manage({"instructions": [START], "action": {"name": "continue"}}).status == 204
    assert len(host.events(RecordingStarted)) == 1
    host.call.performed("1.1", now=0.2)
    assert host.performs == [("LEG-A", "say"), ("LEG-A", "say")]


def test_any_other_request_takes_the_place_of_instructions_but_not_of_the_action():
    host = Host()
    host.answer("ice", {"instructions": [], "action": {"name": "park"}})
    host.answer("ace", {"instructions": [SAY, SAY], "action": {"name": "continue"}})
    assert host.manage({"action": {"name": "hangup"}}).status == 204
    assert host.performs == [("LEG-A", "park"), ("LEG-A", "say"), ("LEG-A", "hangup")]


def test_what_another_request_replaces_is_forgotten_with_its_secrets():
    host = Host()
    for n in range(9):
        start = {"name": "startRecording", "options": {**S3, "destinationUrl": f"s3://my-bucket/{n}"}}
        listed = [SAY, start, {"name": "stopRecording"}]
        host.manage({"instructions": listed, "action": {"name": "hangup"}}, now=n)
    kept = [one for one in vars(host.session).values() if isinstance(one, dict | set)]
    assert max(map(len, kept)) == 1


@pytest.mark.parametrize("status", [LegStatus.CONNECTED, LegStatus.RINGING])
def test_a_recording_that_runs_or_waits_for_the_answer_goes_on_when_something_else_is_asked(status):
    host = Host(status, inbound=False, callbacks=False)
    host.manage({"instructions": [START]}, now=1)
    host.manage({"instructions": [SAY]}, now=2)
    host.call.answered("LEG-A", now=3)
    host.call.end(now=4)
    host.finish(now=4)
    assert host.told == ["recording_finished", "recording_available"]


def test_both_legs_hear_at_the_same_time():
    host = Host()
    host.call.add_leg("LEG-B", now=0.0, inbound=False, detect_digits=False)
    host.manage({"instructions": [SAY, SAY], "action": {"name": "continue"}}, callLeg="both")
    assert host.performs == [("LEG-B", "say"), ("LEG-A", "say")]


@pytest.mark.parametrize("call_leg", ["", "CALLER", "leg-a", 5, ["caller"], {}])
def test_a_leg_that_is_none_is_an_invalid_request(call_leg):
    response = Host().manage({"instructions": [SAY]}, callLeg=call_leg)
    assert (response.status, response.body["errorCode"]) == (400, 40003)


@pytest.mark.parametrize(
    ("svaml", "code"),
    [
        (None, 40003),
        ("hangup", 40003),
        ({"instructions": {}}, 40003),
        ({"instructions": [None]}, 40003),
        ({"instructions": [{}]}, 40003),
        ({"instructions": [{"name": ["say"]}]}, 40003),
        ({"instructions": [{"name": "reportCallStatus"}]}, 40003),
        ({"action": []}, 40003),
        ({"action": {"name": None}}, 40003),
        ({"instructions": [{"name": "setCookie", "key": "k", "value": 5}]}, 40001),
        ({"action": {"name": "connectConf"}}, 40002),
        ({"action": {"name": "connectConf", "conferenceId": ""}}, 40001),
        ({"action": {"name": "connectConf", "conferenceId": 5}}, 40001),
        ({"instructions": [{"name": "startRecording", "options": []}]}, 40001),
        ({"instructions": [{"name": "startRecording", "options": "s3://my-bucket"}]}, 40001),
    ],
)
def test_svaml_that_is_wrong_is_refused(svaml, code):
    response = Host().manage(svaml)
    assert (response.status, response.body["errorCode"]) == (400, code)


def test_there_must_be_a_callee_to_say_something_to():
    assert Host().manage({"instructions": [SAY]}, callLeg="callee").body["errorCode"] == 40003


def test_a_request_that_is_refused_changes_nothing():
    host = Host()
    cookie = {"name": "setCookie", "key": "k", "value": "x" * 600}
    bad = {"name": "continue", "record": 1}
    room = {"name": "connectConf", "conferenceId": "room", "record": True}
    unnamed = {"name": "startRecording", "options": {"destinationUrl": "sdrive://"}}
    for svaml in (
        {"instructions": [unnamed, cookie], "action": bad},
        {"instructions": [START], "action": room},
    ):
        assert host.manage(svaml).status == 400
    assert host.manage({"instructions": [cookie, unnamed]}).status == 204
    host.call.performed("3.1", now=0.2)
    assert [(event.action_id, event.key) for event in host.events(RecordingStarted)] == [
        ("3.2", "20190301171000_app-key_call-1.mp3")
    ]
    host.call.end(now=1)
    assert host.events(RecordingFinished)[0].manifest["layout"] == "mix"


def test_an_error_has_its_reference_from_the_host():
    host = Host(new_reference=lambda: "ref-1")
    assert host.manage([]).body["reference"] == "ref-1"
    assert error_response(50300, "Temporarily down").status == 503


# ---- no room ------------------------------------------------------------------------------------------------


NO_ROOM = ActionError("no room", field="system")
UNTOLD = {"name": "startRecording", "options": {**DRIVE, "notificationEvents": False}}


@pytest.mark.parametrize(
    "svaml",
    [
        {"instructions": [START]},
        {"instructions": [SAY, START], "action": {"name": "park"}},
        {"action": {"name": "startRecording", "recordingOptions": DRIVE}},
        {"action": {"name": "continue", "record": True, "recordingOptions": DRIVE}},
        {"instructions": [START], "action": {"name": "connectConf", "conferenceId": "room"}},
        {"instructions": [UNTOLD]},
    ],
)
@pytest.mark.parametrize("status", [LegStatus.CONNECTED, LegStatus.RINGING])
def test_manage_call_that_records_does_nothing_while_there_is_no_room(svaml, status):
    host = Host(status)
    host.manage({"instructions": [SAY, {**SAY, "text": "goes on"}]})
    host.call.refuse_recordings(NO_ROOM)  # at the same moment
    before = host.performs
    response = host.manage(svaml)
    assert (response.status, response.body["errorCode"]) == (503, 50300)
    assert response.body["message"] == "Temporarily down: no recordings are begun now"
    assert (host.performs, host.told) == (before, [])
    host.call.performed("1.1", now=0.2)
    assert host.performs == [*before, ("LEG-A", "say")]  # what ran and waited goes on
    host.call.refuse_recordings(None)
    assert host.manage(svaml).status == 204


def test_what_is_wrong_is_told_before_there_is_no_room():
    host = Host()
    host.call.refuse_recordings(NO_ROOM)
    assert host.manage({"instructions": [{"name": "startRecording"}]}).body["errorCode"] == 40002
    assert host.call.request({"callId": "other", "svaml": {"instructions": [START]}}, now=0.1).status == 404


def test_what_does_not_record_the_call_needs_no_room():
    host = Host()
    host.manage({"instructions": [START]})
    host.call.refuse_recordings(NO_ROOM)
    room = {"name": "connectConf", "conferenceId": "room", "record": True, "recordingOptions": DRIVE}
    for svaml in ({"instructions": [SAY]}, {"action": {"name": "stopRecording"}}, {"action": room}):
        assert host.manage(svaml).status == 204
    host.finish(3)
    assert host.told == ["recording_finished", "recording_available"]


@pytest.mark.parametrize(
    ("start", "options", "told"),
    [
        (START, {}, ["callingerror"]),
        (UNTOLD, {}, []),
        (START, {"tells_storage_failures": False}, []),
    ],
)
def test_a_recording_that_finds_no_room_when_its_turn_comes_is_told_and_the_rest_is_done(
    start, options, told
):
    host = Host(**options)
    host.call.refuse_recordings(NO_ROOM)
    host.answer("ace", {"instructions": [start, SAY], "action": {"name": "continue"}})
    assert (host.told, host.performs) == (told, [("LEG-A", "say")])
    for _, body in host.messages:
        assert (body["errorCode"], body["errorMsg"], body["callid"]) == (50000, "Internal error", "call-1")
    host.call.refuse_recordings(None)
    assert host.manage({"instructions": [START]}, now=0.5).status == 204
    assert len(host.events(RecordingStarted)) == 1


@pytest.mark.parametrize("has_room", [True, False])
def test_a_recording_that_waits_for_its_leg_needs_room_only_then(has_room):
    host = Host(LegStatus.RINGING, inbound=False)
    host.call.refuse_recordings(NO_ROOM)
    record = {"name": "continue", "record": True, "recordingOptions": DRIVE}
    host.answer("ace", {"action": record})
    assert host.told == []
    host.call.refuse_recordings(None if has_room else NO_ROOM)
    host.call.answered("LEG-A", now=1)
    assert len(host.events(RecordingStarted)) == has_room
    assert ("callingerror" in host.told) is not has_room


def test_a_second_start_is_passed_over_without_room_too():
    host = Host()
    host.answer("ace", {"instructions": [START], "action": {"name": "continue"}})
    host.call.refuse_recordings(NO_ROOM)
    host.answer("pie", {"instructions": [START], "action": {"name": "continue"}}, now=0.3)
    assert host.told == []


# ---- where it goes -----------------------------------------------------------------------------------------


def test_a_recording_replaces_an_object_of_the_same_name():
    for given_options in (S3, DRIVE):
        assert read_options(given_options).destination.overwrite


def test_a_default_destination_serves_options_that_are_not_there():
    assert read_options(None, default_url="sdrive://x.mp3").file == "x.mp3"


def test_the_parts_of_the_credentials_go_to_the_destination_only():
    options = read_options(S3)
    assert options.destination.credentials == f"AKID:{SECRET}"
    assert options.destination.region == "eu-central-1"
    assert SECRET not in repr(options)


def test_the_generated_name_is_in_utc_and_safe():
    at = datetime.fromisoformat("2024-05-01T01:02:03+02:00")
    assert generated_name(at, "a/b", "c d", "mp3") == "20240430230203_a%2Fb_c%20d.mp3"
    options = read_options({"destinationUrl": "sdrive://"})
    assert options.location("a%2Fb.mp3", "https://host/") == "https://host/a%252Fb.mp3"


@pytest.mark.parametrize("url", ["", "acme", "s3://", "gs://acme/x", "azure://acme/x"])
def test_a_default_destination_that_is_none_is_the_hosts_mistake(url):
    with pytest.raises(UsageError, match="default_destination_url"):
        Sinch(default_destination_url=url)


@pytest.mark.parametrize(
    "url",
    [
        "s3://my-bucket/a//b",
        "s3://my-bucket/./b",
        "s3://my-bucket/a/..",
        "s3://my-bucket/%zz",
        "s3://my-bucket/%",
        "s3://my-bucket/%ff",
        "s3://my-bucket/%00",
        "s3://my-bucket/a\nb",
        "s3://my-bucket/a%5Cb",
        "s3://my-bucket/\ud800",
        "s3://my-bucket/" + "x" * 1025,
        "s3://AKID:hunter2@host/x",
        "sdrive://..",
        "s3:/my-bucket/x",
        "",
        5,
        ["s3://my-bucket/x"],
    ],
)
def test_what_cannot_be_the_name_of_an_object_is_refused(url):
    with pytest.raises(SvamlError) as caught:
        read_options({**S3, "destinationUrl": url})
    assert (caught.value.code, caught.value.field) == (40001, "destinationUrl")


def test_one_of_the_samples_calls_the_destination_otherwise():
    assert read_options({"destination": "sdrive://x.mp3"}).file == "x.mp3"


@pytest.mark.parametrize("name", ["format", "notificationEvents", "transcriptionOptions", "credentials"])
@pytest.mark.parametrize("value", [0, 1, 1.5, [], ["x"], "\ud800"])
def test_types_are_strict(name, value):
    with pytest.raises(SvamlError) as caught:
        read_options({**S3, name: value})
    assert caught.value.code == 40001


@pytest.mark.parametrize(
    "options",
    [
        {"enabled": "true"},
        {"enabled": True, "locale": 5},
        {"enabled": True, "locale": ""},
        {"enabled": True, "locale": "en_US"},
    ],
)
def test_a_transcription_that_cannot_be_is_refused(options):
    with pytest.raises(SvamlError):
        read_options({**DRIVE, "transcriptionOptions": options})


def test_a_transcription_that_is_not_enabled_is_none():
    assert read_options({**DRIVE, "transcriptionOptions": {"locale": "sv-SE"}}).transcription_locale is None
    options = {"enabled": True, "locale": "sv-se"}
    read = read_options({**DRIVE, "transcriptionOptions": options}, locales=["sv-SE"])
    assert read.transcription_locale == "sv-se"


def test_the_host_says_where_sinch_drive_is():
    host = Host(drive_url="https://acme.example/recording/")
    host.manage({"instructions": [START]})
    host.manage({"action": {"name": "stopRecording"}}, now=1)
    host.finish(now=3)
    assert host.messages[-1][1]["destination"] == "https://acme.example/recording/x.mp3"


# ---- notifications -----------------------------------------------------------------------------------------


def recorded(**options):
    host = Host()
    host.manage({"instructions": [{"name": "startRecording", "options": {**S3, **options}}]}, now=0.0)
    host.manage({"action": {"name": "stopRecording"}}, now=1.0)
    host.finish(now=3.0)
    (finished,) = host.events(RecordingFinished)
    return host, finished.recording_id


def test_notifications_have_what_the_page_prints_and_nothing_else():
    host, _ = recorded()
    common = {"event": "notify", "callid": "call-1", "version": 1}
    assert host.messages == [
        ("notification", {**common, "type": "recording_finished"}),
        (
            "notification",
            {**common, "type": "recording_available", "destination": "s3://my-bucket/x.mp3"},
        ),
    ]
    assert json.dumps(host.messages[0][1]) == (
        '{"event": "notify", "callid": "call-1", "version": 1, "type": "recording_finished"}'
    )


def test_a_transcript_is_told_beside_its_recording_and_after_it():
    host, recording_id = recorded(transcriptionOptions={"enabled": True})
    assert host.told == ["recording_finished", "recording_available"]
    told = host.session.transcription_available(recording_id, "call-1")
    assert (told["type"], told["destination"]) == (
        "transcription_available",
        "s3://my-bucket/x-transcript.json",
    )
    assert host.session.transcription_available(recording_id, "call-1") is None


def test_a_transcript_that_was_not_asked_for_or_is_not_to_be_told_is_none():
    for options in ({}, {"transcriptionOptions": {"enabled": True}, "notificationEvents": False}):
        host, recording_id = recorded(**options)
        assert host.session.transcription_available(recording_id, "call-1") is None


def test_what_the_host_calls_custom_is_in_every_notification():
    host = Host(custom="of the host")
    host.answer("ace", {"action": {"name": "continue", "record": True}})
    assert [body["custom"] for _, body in host.messages] == ["of the host"]


def test_a_recording_of_the_hosts_own_is_told_to_nobody():
    host = Host()
    host.call.start_recording(StartRecording(format="wav"), now=0.1)
    host.call.end(now=1)
    host.finish(now=1)
    assert host.told == ["dice"]
    assert host.events(RecordingFinished)[0].manifest["action"] == "startRecording"


def test_every_participant_asks_for_the_recording_of_their_conference():
    room = {"name": "connectConf", "conferenceId": "room", "record": True, "recordingOptions": DRIVE}
    for options in ({}, {"layout": "stereo", "conference_layout": "incoming"}):
        host = Host(**options)
        host.answer("ice", {"action": room})
        assert host.performs == [("LEG-A", "connectConf"), ("LEG-A", "StartConferenceRecording")]
        action = host.events(Perform)[1].parameters["recording"]
        assert (action.kind, action.layout) == (RecordingKind.CONFERENCE, Layout.MIX)


def test_the_recording_of_a_conference_is_told_with_its_id():
    host = Host()
    room = {"name": "connectConf", "conferenceId": "room", "record": True, "recordingOptions": DRIVE}
    host.answer("ice", {"action": room})
    action = host.events(Perform)[1].parameters["recording"]
    view = CallView("call-1", "call-1", STARTED_AT, STARTED_AT, {})
    finished = RecordingFinished("room", "room/1", "LEG-A", "x.mp3", "hangup", {}, action.action_id)
    (body,) = [body for _, body in host.session.tell(finished, view).messages]
    assert body == {
        "event": "notify",
        "callid": "call-1",
        "version": 1,
        "type": "recording_finished",
        "conferenceId": "room",
    }
    told = host.session.tell(RecordingStored("room", "room/1", ""), view)
    assert (told.messages[0][1]["callid"], told.messages[0][1]["conferenceId"]) == ("call-1", "room")


def test_a_call_is_recorded_whole_and_in_a_conference_as_the_participant_heard_it():
    host = Host()
    host.answer("ice", {"action": {"name": "connectConf", "conferenceId": "room"}})
    host.manage({"instructions": [START]}, now=1)
    host.manage({"action": {"name": "stopRecording"}}, now=2)
    host.finish(now=4)
    host.manage({"instructions": [], "action": {"name": "connectPstn", "number": "+463"}}, now=5)
    host.manage({"instructions": [START]}, now=6)
    host.call.end(now=7)
    layouts = [event.manifest["layout"] for event in host.events(RecordingFinished)]
    assert layouts == ["outgoing", "mix"]


def test_the_host_says_which_tracks_of_a_call_are_recorded():
    host = Host(layout="stereo", conference_layout="incoming")
    host.manage({"instructions": [START, {"name": "stopRecording"}]}, now=1)
    host.answer("ace", {"action": {"name": "connectConf", "conferenceId": "room"}}, now=2)
    host.manage({"instructions": [START]}, now=3)
    host.call.end(now=7)
    layouts = [event.manifest["layout"] for event in host.events(RecordingFinished)]
    assert layouts == ["stereo", "incoming"]


def test_a_conference_that_the_call_never_came_to_changes_nothing():
    host = Host()
    room = {"name": "connectConf", "conferenceId": "room"}
    host.answer("ace", {"instructions": [SAY], "action": room})
    host.manage({"instructions": [SAY], "action": {"name": "continue"}}, now=1)
    host.manage({"instructions": [START]}, now=2)
    host.call.end(now=3)
    assert host.performs == [("LEG-A", "say"), ("LEG-A", "say")]
    assert [event.manifest["layout"] for event in host.events(RecordingFinished)] == ["mix"]


# ---- any document ------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        *("instructions", "action", "name", "options", "recordingOptions", "record", "recording", "event"),
        *("svaml", "callId", "callLeg", "destinationUrl", "credentials", "format", "notificationEvents"),
        *("transcriptionOptions", "enabled", "locale", "conferenceId", "key", "value", "call-1", "both"),
        *("ice", "ace", "pie", "dice", "startRecording", "StopRecording", "say", "continue", "connectConf"),
        *(
            "connectPstn",
            "hangup",
            "setCookie",
            "answer",
            "s3://my-bucket/x",
            "s3://",
            "sdrive://",
            "azure://a/b",
        ),
        *("AKID:", ":eu-central-1", "mp3", "en-US", "\ud800", "\x00", "ﬀ", "caller"),
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -1, 1e308])
    | st.floats()
    | WORDS
    | st.text(st.characters(codec=None), max_size=6)
)
ANY = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(WORDS | st.text(st.characters(codec=None), max_size=4), inner, max_size=5)
    ),
    max_leaves=20,
)
OPTIONS = ANY | st.fixed_dictionaries(
    {},
    optional={
        "destinationUrl": st.sampled_from(["s3://my-bucket/x", "sdrive://", "gs://b/x"]) | ANY,
        "credentials": st.just(f"AKID:{SECRET}:eu-central-1") | LEAVES,
        "format": st.sampled_from(["mp3", "wav"]) | LEAVES,
        "notificationEvents": LEAVES,
        "transcriptionOptions": ANY,
    },
)
NAMES = st.sampled_from(
    [
        *("startRecording", "stopRecording", "say", "setCookie", "answer", "continue", "connectConf"),
        *("connectPstn", "connectMxp", "hangup", "park", "runMenu"),
    ]
)
STEP = st.fixed_dictionaries(
    {"name": NAMES},
    optional={
        "options": OPTIONS,
        "recordingOptions": OPTIONS,
        "record": st.booleans() | LEAVES,
        "recording": LEAVES,
        "conferenceId": LEAVES,
        "key": LEAVES,
        "value": LEAVES,
    },
)
SVAML = st.fixed_dictionaries(
    {}, optional={"instructions": st.lists(STEP, max_size=4) | ANY, "action": STEP | ANY}
)
DOCUMENTS = (
    ANY
    | SVAML
    | st.fixed_dictionaries(
        {"svaml": SVAML | ANY},
        optional={
            "event": st.sampled_from(["ice", "ace", "pie", "dice"]) | ANY,
            "callId": st.just("call-1") | ANY,
            "callLeg": st.sampled_from(["caller", "callee", "both"]) | ANY,
        },
    )
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(DOCUMENTS, min_size=1, max_size=4), st.sampled_from(["connected", "offered", "ringing", "none"])
)
def test_any_document_gives_actions_or_the_vendors_error(documents, status):
    host = Host(legs=False) if status == "none" else Host(LegStatus(status))
    for number, document in enumerate(documents):
        response = host.call.request(document, now=0.1 * number)
        if response is not None and response.status != 204:
            assert response.status == response.body["errorCode"] // 100
            assert response.status in (400, 404)
        assert response is None or SECRET not in json.dumps(response.body)
    host.call.end(now=5)
    host.events()
    for kind, body in host.messages:
        assert kind in ("invocation", "notification")
        json.dumps(body)
        if body.get("type") == "callingerror":
            assert body["errorCode"] == 40001
        assert SECRET not in json.dumps({**body, "destination": None})
    for event in host.events(RecordingStarted | RecordingFinished):
        assert SECRET not in repr(event).replace(event.key, "")


def test_deep_nesting_costs_nothing():
    document = SAY
    for _ in range(50_000):
        document = {"name": "say", "instructions": [document], "svaml": document, "options": document}
    host = Host()
    assert host.manage(document).status == 204
    assert host.manage({"instructions": [{**START, "options": document}]}).body["errorCode"] == 40002
    assert host.answer("ice", document) is None
    assert host.told == ["callingerror"]


def test_no_secret_of_recording_options_is_handed_to_the_host_or_shown():
    host = Host()
    room = {"name": "connectConf", "conferenceId": "room", "record": True, "recordingOptions": S3}
    start = {"name": "startRecording", "options": S3}
    host.answer("ace", {"instructions": [start], "action": room})
    host.manage({"action": {"name": "park", "RecordingOptions": S3}}, now=0.2)
    host.call.end(now=1)
    assert SECRET not in repr(host.events())
    assert SECRET not in json.dumps([body for _, body in host.messages])
    assert SECRET not in repr(vars(host.session))


@pytest.mark.parametrize("name", ["recordingOption", "recording_options", "options", "Credentials"])
def test_credentials_under_a_wrong_name_are_not_handed_to_the_host(name):
    host = Host()
    misplaced = S3["credentials"] if name == "Credentials" else {"somewhere": [S3]}
    host.answer("ace", {"instructions": [SAY | {name: misplaced}], "action": {"name": "continue"}})
    (event, *_) = host.events(Perform)
    assert event.parameters == {"text": "Hello"}


# ---- conferences -------------------------------------------------------------------------------------------


def in_conference(**options):
    host = Host(**options)
    host.manage({"action": {"name": "connectConf", "conferenceId": "room"}}, now=1.0)
    return host


def stay(host, now=5.0):
    return host.session.read_stay(host.call.view(now=now))


def test_a_call_is_in_its_conference_from_being_connected_to_leaving():
    host = Host()
    assert stay(host) is None
    host.manage({"action": {"name": "connectConf", "conferenceId": "room"}}, now=1.0)
    assert stay(host) == {"cli": "+461", "id": "call-1", "duration": 4, "muted": False, "onhold": False}
    host.manage({"instructions": [SAY], "action": {"name": "continue"}}, now=2.0)
    assert stay(host)["duration"] == 4
    host.manage({"action": {"name": "park"}}, now=3.0)
    assert stay(host) is None


def test_a_participant_who_has_left_is_in_no_conference():
    host = in_conference()
    host.call.hang_up("LEG-A", now=2.0)
    assert stay(host) is None
    asked = host.call.request({"conferenceId": "room", "command": {"command": "mute"}}, now=3.0)
    assert (asked.status, asked.body["errorCode"]) == (404, 40400)


@pytest.mark.parametrize(
    ("command", "member", "value"),
    [
        ("mute", "muted", True),
        ("unmute", "muted", False),
        ("onhold", "onhold", True),
        ("resume", "onhold", False),
    ],
)
def test_a_command_is_handed_to_the_host_and_changes_the_participant(command, member, value):
    host = in_conference()
    response = host.call.request({"conferenceId": "room", "command": {"command": command}}, now=2.0)
    assert response.status == 204
    assert stay(host)[member] is value
    performed = host.events(Perform)[-1]
    assert (performed.name, performed.parameters) == (command, {"conferenceId": "room"})


def test_music_goes_with_hold():
    host = in_conference()
    hold = {"command": "onhold", "moh": "music2"}
    assert host.call.request({"conferenceId": "room", "command": hold}, now=2.0).status == 204
    assert host.events(Perform)[-1].parameters == {"conferenceId": "room", "moh": "music2"}


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (None, 40003),
        ([], 40003),
        ({}, 40002),
        ({"command": None}, 40002),
        ({"command": "hold"}, 40001),
        ({"command": 7}, 40001),
        ({"command": ["mute"]}, 40001),
        ({"command": "mute", "moh": "ring"}, 40001),
        ({"command": "onhold", "moh": "opera"}, 40001),
        ({"command": "onhold", "moh": 1}, 40001),
    ],
)
def test_a_command_that_is_none_changes_nothing(command, code):
    host = in_conference()
    response = host.call.request({"conferenceId": "room", "command": command}, now=2.0)
    assert (response.status, response.body["errorCode"]) == (400, code)
    assert (stay(host)["muted"], stay(host)["onhold"]) == (False, False)


def test_a_command_for_another_conference_finds_none():
    for document in ({"command": {"command": "mute"}}, {"kick": True}):
        response = in_conference().call.request({"conferenceId": "elsewhere", **document}, now=2.0)
        assert (response.status, response.body["message"]) == (404, "Conference not found")


def test_a_participant_who_is_made_to_leave_is_hung_up_on():
    host = in_conference()
    assert host.call.request({"conferenceId": "room", "kick": True}, now=2.0).status == 204
    assert host.performs[-1] == ("LEG-A", "hangup")
    host.call.hang_up("LEG-A", now=2.5)
    host.call.end(now=3.0)
    assert host.session.read_call(host.call.view(now=3.0))["reason"] == "MANAGERHANGUP"


# ---- reading a call ----------------------------------------------------------------------------------------


def read(host, now):
    return host.session.read_call(host.call.view(now=now))


def test_a_call_is_read_while_it_goes_on_and_afterwards():
    host = Host(LegStatus.OFFERED, custom="mine")
    offered = read(host, 1.0)
    assert (offered["status"], offered["result"], offered["reason"], offered["duration"]) == (
        "ONGOING",
        "N/A",
        "N/A",
        0,
    )
    assert offered["to"] == {"type": "number", "endpoint": "+462"}
    assert (offered["callId"], offered["custom"], offered["domain"]) == ("call-1", "mine", "pstn")
    host.call.answered("LEG-A", now=2.0)
    assert read(host, 5.0)["duration"] == 3
    host.call.hang_up("LEG-A", now=6.0)
    host.call.end(now=6.0)
    over = read(host, 100.0)
    assert (over["status"], over["result"], over["reason"], over["duration"]) == (
        "FINAL",
        "ANSWERED",
        "CALLERHANGUP",
        4,
    )


def test_the_drive_of_a_customer_is_where_drive_recordings_go():
    host = Host(drive="acme")
    host.manage({"instructions": [START], "action": {"name": "continue"}})
    (started,) = host.events(RecordingStarted)
    assert (started.destination.kind, started.destination.bucket) == ("sdrive", "acme")
    assert started.destination.overwrite
