"""Sinch's voice API: callbacks and notifications out, SVAML and Manage Call in.

Sources: "Recording calls" (2020), which is the contract, and the voice API's reference (2021 to 2026). Where they
contradict themselves, an argument of `Sinch` names the reading.

What is given to `Call.request`:

    {"event": "ice", "svaml": {...}}           the answer to a callback, "ice", "ace" or "pie"; null when none came
    {"callId": "...", "svaml": {...}}          the body of Manage Call, PATCH /calls/id/{callId}, for the `Response`
    {"callLeg": "callee", "svaml": {...}}      ... of PATCH /calls/id/{callId}/leg/{callLeg}
    {"conferenceId": "...", "command": {...}}  the body of PATCH /conferences/id/{conferenceId}/{callId}; with "kick" in
                                               place of "command", its DELETE
    {"instructions": [...], "action": {...}}   SVAML alone: the answer to the oldest callback that waits for one, or,
                                               when none does, the body of Manage Call

Instructions run in order, then the action. The host is told an action in `Perform`, and nothing waits for its end,
because a call may last as long; an instruction is over with `Call.performed`. A menu (`runMenu`) is waited for, too,
and its `result` is told as `menuResult` of PIE: see `MENU_RESULT`. A Manage Call request that does no more than start
and stop recordings leaves alone what is running; any other takes the place of the instructions that run and wait, and
of a menu.

A call's recording is that of its first leg, what the caller says and hears; `record` begins when that leg is connected.

What is wrong with a recording's options is told, and the call goes on without that recording; other SVAML that is wrong
ends the call. Manage Call does nothing at all in either case. `recordingOptions` are never handed on, nor is any member
that holds `credentials`, however it is called: there is a secret in it.

Manage Call that asks for a recording while the host has no room for one does nothing, either, and is answered 50300,
temporarily down ("Errors", 2021). What an answer to a callback asks for, or what waits, may find no room when its turn
comes: then `callingerror` 50000 is told, of those that the reference has the one that is not about SVAML.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from callreel import keys
from callreel.actions import (
    Action,
    Destination,
    EndReason,
    Layout,
    OtherAction,
    RecordingKind,
    StartRecording,
    StopRecording,
)
from callreel.dialects import OBJECT, Aftermath, Answer, Order, Response
from callreel.dialects.sinch_options import RecordingOptions, SvamlError, generated_name, read_options
from callreel.dialects.sinch_rooms import COMMANDS, Stay, read_command
from callreel.errors import ActionError, UsageError
from callreel.events import (
    ActionEnded,
    CallEnded,
    CallView,
    Event,
    LegChanged,
    LegStatus,
    Outcome,
    Participant,
    Perform,
    RecordingFinished,
    RecordingStarted,
    RecordingStored,
)

__all__ = ["Sinch", "error_response", "messages_after"]

ILLEGAL, MISSING, INVALID, NOT_FOUND, INTERNAL, DOWN = 40001, 40002, 40003, 40400, 50000, 50300
VERSION = 1
MAX_COOKIE_BYTES = 1024
MAX_CONFERENCE_ID = 64

CALLBACKS = ("ice", "ace", "pie", "dice")
CALL_LEGS = ("caller", "callee", "both")

INSTRUCTIONS = {
    name.lower(): name
    for name in ("answer", "playFiles", "say", "sendDtmf", "setCookie", "startRecording", "stopRecording")
}
"""By name in small letters: the pages write them in any case."""
ON_ONE_LEG = ("playFiles", "say")
ACTIONS = {
    "connectConf": ("ice", "ace", "pie", "patch"),
    "connectMxp": ("ice", "patch"),
    "connectPstn": ("ice", "pie", "patch"),
    "connectSip": ("ice", "pie", "patch"),
    "connectStream": ("ice", "patch"),
    "continue": ("ace", "pie", "patch"),
    "hangup": ("ice", "ace", "pie", "patch"),
    "park": ("ice", "patch"),
    "runMenu": ("ice", "ace", "pie", "patch"),
    "startRecording": ("patch",),
    "stopRecording": ("patch",),
}
"""Where they may stand."""
ACTION_NAMES = {name.lower(): name for name in ACTIONS}
RECORDABLE = ("continue", "connectPstn", "connectConf", "connectSip", "connectMxp")
"""Actions that have `record`."""
OF_RECORDINGS = ("startRecording", "stopRecording")
STAYING = ("continue", *OF_RECORDINGS)
"""Actions that leave a call in its conference."""
MENU = "runMenu"
MENU_RESULT = ("menuId", "type", "value", "inputMethod")
"""Members of `menuResult`, all text: "Prompt Input Event" (2026). `type` is "return", "sequence", "error", "timeout",
"hangup" or "invalidinput", `inputMethod` "dtmf" or "voice"."""
NOT_HANDED_ON = ("name", "record", "recording", "recordingoptions")

RESULT_OF_SIP_CODE = {480: ("NOANSWER", "TIMEOUT"), 486: ("BUSY", "N/A"), 487: ("NOANSWER", "CANCEL")}
NOT_RECORDED = {"errorCode": INTERNAL, "errorMsg": "Internal error"}
NOTHING_CHARGED = {"currencyId": "USD", "amount": 0}
"""As `userRate` of ICE is printed: "Incoming Call Event" (2023)."""
DRIVE_URL = "https://www.sinch.com/calling/v1/recording/"
"""As the notification on the page begins."""


def error_response(code: int, message: str, *, reference: str | None = None) -> Response:
    """The answer to a request that is refused: the first three digits of the code are the HTTP status."""
    body: dict[str, Any] = {"errorCode": code, "message": message}
    if reference is not None:
        body["reference"] = reference
    return Response(status=code // 100, body=body)


@dataclass(slots=True)
class _Asked:
    """A recording that was asked for."""

    action: StartRecording
    word: str
    """How: the vendor's name."""
    options: RecordingOptions
    location: str
    conference_id: str | None = None
    """Of a conference's recording."""
    began: bool = False
    """Whether it is not waiting for its turn any more."""


@dataclass(slots=True)
class _Plan:
    """What a document comes to."""

    where: str
    """The callback that it answers, or "patch"."""
    actions: list[Action] = field(default_factory=list)
    faults: list[SvamlError] = field(default_factory=list)
    """What is wrong with recordings."""
    asked: list[_Asked] = field(default_factory=list)
    only_recordings: bool = False
    records: bool = False
    """Whether the call is recorded when it has been done so far."""
    answers: bool = False
    """Whether the call has been answered by then."""
    conference_id: str | None = None
    """Where the call is after that."""
    cookies: dict[str, int] = field(default_factory=dict)
    """Bytes of each, after that."""


class Sinch:
    """Sinch's side of one call: a `callreel.dialects.Session`."""

    dialect = "sinch"
    metadata_has_duration = False

    def __init__(
        self,
        *,
        application_key: str = "",
        custom: str | None = None,
        domain: str = "pstn",
        callbacks: bool = True,
        layout: Layout | str = Layout.MIX,
        conference_layout: Layout | str = Layout.OUTGOING,
        calls_url: str | None = None,
        drive_url: str = DRIVE_URL,
        drive: str | None = None,
        default_destination_url: str | None = None,
        transcription_locales: Collection[str] | None = None,
        tells_storage_failures: bool = True,
        new_reference: Callable[[], str] | None = None,
    ) -> None:
        """`application_key` goes into generated names and callbacks, `custom` into all that is told.

        `domain`: "pstn", or "mxp" for a call between apps, which has no ACE and no PIE and is not managed. `callbacks`:
        tell ICE for a leg that is offered, ACE when one that was called answers, PIE when a menu has a result, DiCE at
        the end; a host that has its own turns them off. `layout`: what is recorded of a call, which no page says;
        `conference_layout`: and of one that is in a conference, "the mix from the conference that was sent to that
        channel". `calls_url`: what stands before a call's id in `callResourceUrl`, which ICE has not without it.
        `drive_url`: what stands before the names of files in Sinch Drive, `drive` which one it is where a host has
        several. `default_destination_url`: where recordings go whose options name no destination, with the host's own
        credentials; without it they must. `transcription_locales`: those the host can transcribe, None for any.
        `tells_storage_failures`: tell `callingerror` 50000 when a file could not be stored, or not be begun; the pages
        have no notification for that. `new_reference` makes the `reference` of an error.
        """
        self._application_key = application_key
        self._custom = custom
        self._domain = domain
        self._callbacks = callbacks
        self._layout = Layout(layout)
        self._conference_layout = Layout(conference_layout)
        self._calls_url = calls_url
        self._drive_url = drive_url
        self._drive = drive
        if default_destination_url is not None:
            try:
                read_options(None, default_url=default_destination_url)
            except SvamlError as error:
                raise UsageError(f"default_destination_url: {error}") from None
        self._default_url = default_destination_url
        self._locales = transcription_locales
        self._tells_storage_failures = tells_storage_failures
        self._new_reference = new_reference
        self._documents = 0
        self._open: list[str] = []
        """Callbacks that wait for an answer."""
        self._called: set[str] = set()
        """Legs that are being called."""
        self._asked: dict[str, _Asked] = {}
        """By action."""
        self._finished: dict[str, str] = {}
        """The action of a recording that is being stored."""
        self._transcribed: dict[str, _Asked] = {}
        """Recordings that are to be transcribed, by id."""
        self._stops: set[str] = set()
        """Actions that stop the recording."""
        self._recording: tuple[str, str] | None = None
        """The recording of the call that runs: its leg, its id."""
        self._armed: StartRecording | None = None
        """Begins when its leg is connected."""
        self._last_stamp: datetime | None = None
        self._cookies: dict[str, int] = {}
        """Bytes of each."""
        self.stay: Stay | None = None
        """In which conference the call is."""
        self._moves: dict[str, str | None] = {}
        """Actions that will take the call to a conference, or out of one."""
        self._hangups: set[str] = set()
        """Actions that will hang up."""
        self._menus: set[str] = set()
        """Actions whose end is told as PIE."""
        self._call_headers: list[dict[str, str]] = []
        """Those of connectMxp, which DiCE tells."""
        self._answered_at: datetime | None = None
        self._ended_at: datetime | None = None
        self._reason: str | None = None
        """Why the call ends; the first that is known stays."""
        self._result: str | None = None

    # -- what the customer says ----------------------------------------------------------------------------------

    def request(self, document: Any, call: CallView) -> Answer:
        """Read the answer to a callback, the body of Manage Call, or what is asked of who is in a conference."""
        if isinstance(document, OBJECT) and ("command" in document or "kick" in document):
            return self._in_conference(document, call)
        if isinstance(document, OBJECT) and "svaml" in document:
            event, svaml = document.get("event"), document["svaml"]
            if isinstance(event, str) and event in CALLBACKS:
                if event in self._open:
                    self._open.remove(event)
                return self._answered(event, svaml, call)
            call_id, call_leg = document.get("callId", call.call_id), document.get("callLeg")
            return self._manage(svaml, call, call_id=call_id, call_leg=call_leg)
        if self._open:
            return self._answered(self._open.pop(0), document, call)
        return self._manage(document, call, call_id=call.call_id, call_leg=None)

    def _answered(self, event: str, svaml: Any, call: CallView) -> Answer:
        """Do what the answer to a callback says."""
        if event == "dice":
            return Answer()  # nothing can be done any more
        self._documents += 1
        if svaml is None:
            if event == "ace":
                return Answer(
                    order=Order(actions=(self._other("continue", {}, self._leg(call), 1, "action"),))
                )
            return self._end_call("CALLBACKERROR", call)
        try:
            plan = self._read(svaml, event, call)
        except SvamlError as error:
            ended = self._end_call("INVALIDSVAMLACTION", call)
            return Answer(messages=(self._calling_error(error, call),), order=ended.order)
        self._settle(plan, call)
        return Answer(
            messages=tuple(self._calling_error(fault, call) for fault in plan.faults),
            order=Order(actions=tuple(plan.actions)),
        )

    def _settle(self, plan: _Plan, call: CallView) -> None:
        """Keep what a document that will be carried out says."""
        self._asked |= {asked.action.action_id: asked for asked in plan.asked}
        self._cookies = plan.cookies
        if not call.participants:  # the call's recording begins with the first of them
            listed, plan.actions = plan.actions, []
            for one in listed:
                if isinstance(one, StopRecording):
                    self._disarm()
                elif isinstance(one, StartRecording) and one.kind is RecordingKind.CALL:
                    self._armed = self._armed or one
                else:
                    plan.actions.append(one)
        for one in plan.actions:
            if isinstance(one, StopRecording):
                self._stops.add(one.action_id)
            elif isinstance(one, OtherAction) and one.name in ACTIONS and one.name not in STAYING:
                self._moves[one.action_id] = plan.conference_id
                if one.name == "hangup":
                    self._hangups.add(one.action_id)
                elif one.name == "connectMxp":
                    self._call_headers = _call_headers(one.parameters.get("callHeaders"))
                elif one.name == MENU:
                    self._menus.add(one.action_id)

    def _forget_what_waits(self) -> None:
        """Another document takes the place of what has not been done."""
        self._stops.clear()
        self._moves.clear()
        self._hangups.clear()
        self._menus.clear()
        armed = None if self._armed is None else self._armed.action_id
        self._asked = {name: one for name, one in self._asked.items() if one.began or name == armed}

    def _end_call(self, reason: str, call: CallView) -> Answer:
        self._forget_what_waits()
        self._reason = self._reason or reason
        hangup = self._other("hangup", {}, self._leg(call), 1, "action")
        return Answer(order=Order(stop_running=EndReason.INTERRUPTED, drop_queue=True, actions=(hangup,)))

    def _manage(self, svaml: Any, call: CallView, *, call_id: Any, call_leg: Any) -> Answer:
        live = [one for one in call.participants.values() if one.status is not LegStatus.DISCONNECTED]
        if call_id != call.call_id or not live:
            return self._refuse(NOT_FOUND, "Call not found")
        if self._domain == "mxp":
            return self._refuse(INVALID, "Invalid request: only calls from or to a telephone can be managed")
        self._documents += 1
        last_stamp = self._last_stamp
        try:
            plan = self._read(svaml, "patch", call)
            if plan.faults:
                raise plan.faults[0]
            if call_leg is not None:
                plan.actions = self._on_legs(plan.actions, call_leg, live)
        except SvamlError as error:
            self._last_stamp = last_stamp
            return self._refuse(error.code, f"{'Invalid request: ' if error.code == INVALID else ''}{error}")
        # A conference's recording is not of this call: whoever has the conference says whether there is room.
        if call.refusal is not None and any(one.conference_id is None for one in plan.asked):
            self._last_stamp = last_stamp
            return self._refuse(DOWN, "Temporarily down: no recordings are begun now")
        if not plan.only_recordings:
            self._forget_what_waits()
        self._settle(plan, call)
        order = Order(
            stop_running=None if plan.only_recordings else EndReason.INTERRUPTED,
            drop_queue=not plan.only_recordings,
            at_once=plan.only_recordings,
            actions=tuple(plan.actions),
        )
        return Answer(order=order, response=Response(status=204))

    def _in_conference(self, document: Mapping[str, Any], call: CallView) -> Answer:
        """Mute or hold a participant, who is the call, or have them leave."""
        stay = self.stay
        live = any(one.status is not LegStatus.DISCONNECTED for one in call.participants.values())
        if stay is None or stay.conference_id != document.get("conferenceId") or not live:
            return self._refuse(NOT_FOUND, "Conference not found")
        self._documents += 1
        if "command" not in document:
            ended = self._end_call("MANAGERHANGUP", call)
            return Answer(order=ended.order, response=Response(status=204))
        try:
            command, more = read_command(document["command"])
        except SvamlError as error:
            return self._refuse(error.code, str(error))
        name, value = COMMANDS[command]
        setattr(stay, name, value)
        parameters = {"conferenceId": stay.conference_id, **more}
        action = OtherAction(
            leg=self._leg(call),
            action_id=self._action_id(1, command),
            name=command,
            parameters=parameters,
            awaited=False,
        )
        return Answer(order=Order(actions=(action,), at_once=True), response=Response(status=204))

    def _refuse(self, code: int, message: str) -> Answer:
        reference = None if self._new_reference is None else self._new_reference()
        return Answer(response=error_response(code, message, reference=reference))

    def _on_legs(self, actions: list[Action], call_leg: Any, live: list[Participant]) -> list[Action]:
        """The actions on the legs that a request names: saying and playing only."""
        if not isinstance(call_leg, str) or call_leg not in CALL_LEGS:
            raise SvamlError(INVALID, "the call leg must be caller, callee or both")
        if not all(isinstance(one, OtherAction) and one.name in (*ON_ONE_LEG, "continue") for one in actions):
            raise SvamlError(INVALID, "on one leg there is only PlayFiles and Say")
        if self.stay is not None or not live[0].inbound:
            call_leg = (
                "caller"  # which leg says nothing in a conference, and in a call that the platform made
            )
        if call_leg != "caller" and len(live) < 2:
            raise SvamlError(INVALID, "there is no callee")
        found: list[Action] = []
        for one in actions:
            assert isinstance(one, OtherAction)
            if one.name == "continue" or call_leg == "caller":
                found.append(one)
            elif call_leg == "callee":
                found.append(one._replace(leg=live[1].leg))
            else:  # at the same time; the caller's is waited for
                callee = one._replace(leg=live[1].leg, action_id=one.action_id + "/callee", awaited=False)
                found += [callee, one]
        return found

    # -- SVAML ---------------------------------------------------------------------------------------------------

    def _read(self, svaml: Any, where: str, call: CallView) -> _Plan:
        """Read a document; `where` it came is a callback, or "patch"."""
        if not isinstance(svaml, OBJECT):
            raise SvamlError(INVALID, "SVAML is an object")
        listed, action = svaml.get("instructions"), svaml.get("action")
        if listed is None:
            listed = []
        if not isinstance(listed, list) or not all(isinstance(one, OBJECT) for one in listed):
            raise SvamlError(INVALID, "'instructions' is a list of objects")
        if action is None and (where in ("ice", "pie") or (where == "patch" and not listed)):
            raise SvamlError(INVALID, "there is no action")
        instructions = [
            (_name(one, INSTRUCTIONS, f"instructions[{number}]"), one) for number, one in enumerate(listed)
        ]
        if action is not None and not isinstance(action, OBJECT):
            raise SvamlError(INVALID, "'action' is an object")
        action_name = "" if action is None else _name(action, ACTION_NAMES, "action")
        if action_name and where not in ACTIONS[action_name]:
            raise SvamlError(INVALID, f"{action_name} cannot be the action here")
        plan = _Plan(where)
        plan.only_recordings = (
            where == "patch"
            and all(name in OF_RECORDINGS for name, _ in instructions)
            and action_name in ("", "continue", *OF_RECORDINGS)
        )
        plan.records = self._recording is not None or self._armed is not None
        self._check_limits(plan, instructions, action_name, action)
        for number, (name, given) in enumerate(instructions, 1):
            if name == "startRecording" and action_name == "connectMxp":
                continue  # not supported there; `record` is
            self._plan_one(plan, number, name, given, call)
        if action is not None:
            self._plan_action(plan, len(instructions) + 1, action_name, action, call)
        return plan

    def _plan_one(
        self, plan: _Plan, number: int, name: str, given: Mapping[str, Any], call: CallView
    ) -> None:
        """An instruction, or what Manage Call has as actions."""
        leg = self._leg(call)
        if name == "startRecording":
            options = given.get("options")
            self._plan_start(
                plan, name, given.get("recordingOptions") if options is None else options, number, call
            )
        elif name == "stopRecording":
            plan.actions.append(StopRecording(leg=leg, action_id=self._action_id(number), once=False))
            plan.records = False
        else:
            plan.answers = plan.answers or name == "answer"
            plan.actions.append(self._other(name, given, leg, number))

    def _plan_action(
        self, plan: _Plan, number: int, name: str, given: Mapping[str, Any], call: CallView
    ) -> None:
        if name in OF_RECORDINGS:
            self._plan_one(plan, number, name, given, call)
            return
        of_conference = name == "connectConf"
        carry_out = [] if plan.only_recordings else [self._other(name, given, self._leg(call), number)]
        if of_conference:
            plan.actions += carry_out
        if name in RECORDABLE:
            try:
                if _is_recorded(given):
                    self._plan_start(
                        plan, "record", given.get("recordingOptions"), number, call, of_conference
                    )
            except SvamlError as error:
                plan.faults.append(error)
        if not of_conference:
            plan.actions += carry_out

    def _plan_start(
        self, plan: _Plan, word: str, given: Any, number: int, call: CallView, of_conference: bool = False
    ) -> None:
        if plan.where == "patch" and plan.records and not of_conference:
            raise SvamlError(INVALID, "the call is being recorded")
        try:
            asked = self._start(plan, word, given, number, call, of_conference)
        except SvamlError as error:
            plan.faults.append(error)
            return
        plan.asked.append(asked)
        leg = asked.action.leg
        offered = leg in call.participants and call.participants[leg].status is LegStatus.OFFERED
        if word == "startRecording" and offered and plan.where != "patch" and not plan.answers:
            # What follows is to be heard and recorded; `record` waits for whoever answers.
            plan.actions.append(self._other("answer", {}, leg, number, "answer"))
            plan.answers = True
        plan.actions.append(asked.action)
        plan.records = plan.records or not of_conference

    def _check_limits(
        self,
        plan: _Plan,
        instructions: list[tuple[str, Any]],
        action_name: str,
        action: Mapping[str, Any] | None,
    ) -> None:
        plan.cookies = dict(self._cookies)
        for name, given in instructions:
            if name == "setCookie":
                key, value = given.get("key"), given.get("value")
                if not isinstance(key, str) or not isinstance(value, str):
                    raise SvamlError(ILLEGAL, "a cookie has a 'key' and a 'value'")
                plan.cookies[key] = sum(len(one.encode("utf-8", "surrogatepass")) for one in (key, value))
        if sum(plan.cookies.values()) > MAX_COOKIE_BYTES:
            raise SvamlError(ILLEGAL, f"the cookies of a call have {MAX_COOKIE_BYTES} bytes at most")
        if action is not None and action_name == "connectConf":
            conference_id = action.get("conferenceId")
            if conference_id is None:
                raise SvamlError(MISSING, "'conferenceId' is required")
            if not isinstance(conference_id, str) or not 0 < len(conference_id) <= MAX_CONFERENCE_ID:
                raise SvamlError(ILLEGAL, f"'conferenceId' has 1 to {MAX_CONFERENCE_ID} characters")
            plan.conference_id = conference_id
        elif action_name in ("", *STAYING):
            plan.conference_id = None if self.stay is None else self.stay.conference_id

    def _leg(self, call: CallView) -> str:
        """The leg whose call it is: the first that is there."""
        legs = [one.leg for one in call.participants.values() if one.status is not LegStatus.DISCONNECTED]
        return (legs or [*call.participants, "LEG-A"])[0]

    def _action_id(self, number: int, part: str = "") -> str:
        return f"{self._documents}.{number}{part and '/' + part}"

    def _other(
        self, name: str, given: Mapping[str, Any], leg: str, number: int, part: str = ""
    ) -> OtherAction:
        takes_time = name not in ACTIONS or name == MENU
        return OtherAction(
            leg=leg,
            action_id=self._action_id(number, part),
            name=name,
            parameters={
                key: value
                for key, value in given.items()
                if str(key).lower() not in NOT_HANDED_ON and not _holds_credentials({key: value})
            },
            interruptible=takes_time,
            awaited=takes_time,
        )

    def _start(
        self, plan: _Plan, word: str, given: Any, number: int, call: CallView, of_conference: bool
    ) -> _Asked:
        """A recording of the call, or of the conference that it is connected to."""
        conference_id = plan.conference_id if of_conference else None
        options = read_options(given, default_url=self._default_url, locales=self._locales)
        name = ""
        if options.file is None:
            stamp = call.now.replace(microsecond=0)
            if self._last_stamp is not None and stamp <= self._last_stamp:
                stamp = self._last_stamp + timedelta(seconds=1)  # two of one second are two files
            self._last_stamp = stamp
            of = call.call_id if conference_id is None else conference_id
            name = generated_name(stamp, self._application_key, of, options.format)
        layout = self._layout if plan.conference_id is None else self._conference_layout
        if conference_id is not None:
            layout = Layout.MIX  # a conference has no other
        action = StartRecording(
            leg=self._leg(call),
            action_id=self._action_id(number, "record" if word == "record" else ""),
            kind=RecordingKind.CALL if conference_id is None else RecordingKind.CONFERENCE,
            layout=layout,
            format=options.format,
            key=options.key(name),
            destination=self._placed(options.destination),
            once=False,
        )
        return _Asked(action, word, options, options.location(name, self._drive_url), conference_id)

    def _placed(self, destination: Destination) -> Destination:
        """The destination, in the customer's own drive where it is in Drive."""
        is_drive = destination.kind == "sdrive" and self._drive is not None
        return replace(destination, bucket=self._drive) if is_drive else destination

    # -- what the customer is told -------------------------------------------------------------------------------

    def tell(self, event: Event, call: CallView) -> Answer:
        """Word what has happened as callbacks and notifications.

        A host that records a conference gives the session the events of that recording too, with the `action_id` of the
        StartRecording it was handed.
        """
        match event:
            case LegChanged():
                return self._leg_changed(event, call)
            case Perform() if event.action_id in self._moves:
                conference_id = self._moves.pop(event.action_id)
                self.stay = None if conference_id is None else Stay(conference_id, call.now)
            case ActionEnded() if event.action_id in self._menus:
                return self._menu_ended(event, call)
            case ActionEnded():
                return self._action_ended(event, call)
            case RecordingStarted() if event.action_id in self._asked:
                if self._asked[event.action_id].conference_id is None:
                    self._recording = event.leg, event.recording_id
            case RecordingFinished() if event.action_id in self._asked:
                return self._recording_finished(event, call)
            case RecordingStored() if event.recording_id in self._finished:
                return self._recording_stored(event, call)
            case CallEnded():
                self._ended_at = call.now
                return self._ended(call)
            case _:
                pass
        return Answer()

    def _leg_changed(self, event: LegChanged, call: CallView) -> Answer:
        participant, leg = call.participants[event.leg], event.leg
        match event.status:
            case LegStatus.OFFERED if participant.inbound:
                return self._callback("ice", call, **self._ice(participant, call))
            case LegStatus.DIALED | LegStatus.RINGING:
                self._called.add(leg)
            case LegStatus.CONNECTED:
                self._answered_at = self._answered_at or call.now
                armed, order = self._armed, None
                if armed is not None and (armed.leg == leg or armed.leg not in call.participants):
                    self._armed = None
                    order = Order(actions=(armed._replace(leg=leg),), at_once=True)
                told = Answer()
                if leg in self._called and not participant.inbound and self._domain != "mxp":
                    told = self._callback("ace", call)
                self._called.discard(leg)
                return Answer(messages=told.messages, order=order)
            case LegStatus.DISCONNECTED:
                self._hung_up(event, participant)
        return Answer()

    def _hung_up(self, event: LegChanged, participant: Participant) -> None:
        was_called = event.leg in self._called
        self._called.discard(event.leg)
        if self._armed is not None and self._armed.leg == event.leg:
            self._disarm()
        if self._recording is not None and self._recording[0] == event.leg:
            self._recording = None  # that is told when its audio is final
        if was_called and event.sip_response_code:
            failed = "FAILED", "GENERALERROR"
            result, reason = RESULT_OF_SIP_CODE.get(event.sip_response_code, failed)
            self._result = self._result or result
        else:
            reason = "CALLERHANGUP" if participant.inbound else "CALLEEHANGUP"
        self._reason = self._reason or reason

    def _menu_ended(self, event: ActionEnded, call: CallView) -> Answer:
        """PIE, where the menu came to something; what has no type, as of one that could not be run, is an error."""
        self._menus.discard(event.action_id)
        failed = event.outcome is Outcome.FAILED
        if self._domain == "mxp" or not (failed or (event.outcome is Outcome.DONE and event.result)):
            return Answer()
        told = {name: event.result[name] for name in MENU_RESULT if isinstance(event.result.get(name), str)}
        return self._callback("pie", call, menuResult=told if "type" in told else {"type": "error"})

    def _action_ended(self, event: ActionEnded, call: CallView) -> Answer:
        action_id = event.action_id
        if action_id in self._hangups:
            self._hangups.discard(action_id)
            self._reason = self._reason or "MANAGERHANGUP"
        if action_id in self._stops:
            self._stops.discard(action_id)
            if event.outcome is Outcome.DONE:
                self._recording = None
                self._disarm()
            return Answer()
        asked = self._asked.get(action_id)
        if asked is None:
            return Answer()
        if event.outcome is Outcome.DONE:
            asked.began = True
            return Answer()
        participant = call.participants[asked.action.leg]
        why = event.error.field if isinstance(event.error, ActionError) else None
        if why == "status" and self._armed is None and participant.status is not LegStatus.DISCONNECTED:
            self._armed = asked.action
            return Answer()
        del self._asked[action_id]
        if why == "system" and self._tells_storage_failures:
            return self._notify(asked, "callingerror", call, **NOT_RECORDED)
        return Answer()  # a second start while one is running is passed over

    def _disarm(self) -> None:
        if self._armed is not None:
            self._asked.pop(self._armed.action_id, None)
            self._armed = None

    def _recording_finished(self, event: RecordingFinished, call: CallView) -> Answer:
        asked = self._asked[event.action_id]
        if self._recording == (event.leg, event.recording_id):
            self._recording = None
        self._finished[event.recording_id] = event.action_id
        return self._notify(asked, "recording_finished", call)

    def _recording_stored(self, event: RecordingStored, call: CallView) -> Answer:
        asked = self._asked.pop(self._finished.pop(event.recording_id))
        if event.error is None:
            if asked.options.transcription_locale is not None:
                self._transcribed[event.recording_id] = asked
            return self._notify(asked, "recording_available", call, destination=asked.location)
        if not self._tells_storage_failures:
            return Answer()
        return self._notify(asked, "callingerror", call, **NOT_RECORDED)

    def transcription_available(self, recording_id: str, call_id: str) -> Mapping[str, Any] | None:
        """The notification that a host sends when it has stored the transcript of a recording; None when it must not.

        The transcript stands beside the recording: its name without the extension, and `-transcript.json`.
        """
        asked = self._transcribed.pop(recording_id, None)
        if asked is None or not asked.options.notifies:
            return None
        folder, slash, name = asked.location.rpartition("/")
        stem = name.rpartition(".")[0] or name
        return self._body(
            asked, "transcription_available", call_id, destination=f"{folder}{slash}{stem}-transcript.json"
        )

    def _notify(self, asked: _Asked, kind: str, call: CallView, **members: Any) -> Answer:
        if not asked.options.notifies:
            return Answer()
        return Answer(messages=(("notification", self._body(asked, kind, call.call_id, **members)),))

    def _body(self, asked: _Asked, kind: str, call_id: str, **members: Any) -> Mapping[str, Any]:
        if asked.conference_id is not None:
            members["conferenceId"] = asked.conference_id
        return self._notification(kind, call_id, **members)[1]

    def _notification(self, kind: str, call_id: str, **members: Any) -> tuple[str, Mapping[str, Any]]:
        return "notification", _notified(kind, call_id, self._custom, members)

    def _calling_error(self, error: SvamlError, call: CallView) -> tuple[str, Mapping[str, Any]]:
        return self._notification(
            "callingerror", call.call_id, errorCode=ILLEGAL, errorMsg=f"Illegal SVAML: {error}"
        )

    def _callback(self, event: str, call: CallView, **members: Any) -> Answer:
        if not self._callbacks:
            return Answer()
        kind = "notification" if event == "dice" else "invocation"
        if kind == "invocation":
            self._open.append(event)
        body: dict[str, Any] = {
            "event": event,
            "callid": call.call_id,
            "timestamp": f"{call.now:%Y-%m-%dT%H:%M:%SZ}",
            "version": VERSION,
        }
        if self._custom is not None:
            body["custom"] = self._custom
        body |= {"applicationKey": self._application_key, **members}
        return Answer(messages=((kind, body),))

    def _ice(self, participant: Participant, call: CallView) -> dict[str, Any]:
        """Nobody tells a host's session of a redirection, or of headers from the vendor's apps."""
        where = {}
        if self._calls_url is not None:
            where["callResourceUrl"] = self._calls_url + keys.safe_component(call.call_id)
        return {
            **where,
            "userRate": NOTHING_CHARGED,
            "cli": participant.from_,
            "to": self._to(participant),
            "domain": self._domain,
            "originationType": self._domain.upper(),
            "duration": self._outcome(call.now)["duration"],
            "rdnis": "",
            "callHeaders": [],
        }

    def _to(self, participant: Participant) -> dict[str, Any]:
        return {"type": "username" if self._domain == "mxp" else "number", "endpoint": participant.to}

    def _ended(self, call: CallView) -> Answer:
        first = next(iter(call.participants.values()), None)
        members = self._outcome(call.now) | {
            "debit": NOTHING_CHARGED,
            "userRate": NOTHING_CHARGED,
            "callHeaders": self._call_headers,
        }
        if first is not None:
            members |= {"from": first.from_, "to": self._to(first)}
        return self._callback("dice", call, **members)

    def _outcome(self, now: datetime) -> dict[str, Any]:
        answered_at = self._answered_at
        until = now if self._ended_at is None else self._ended_at
        return {
            "reason": self._reason or "N/A",
            "result": "ANSWERED" if answered_at is not None else self._result or "N/A",
            "duration": 0 if answered_at is None else int((until - answered_at).total_seconds()),
        }

    def read_call(self, call: CallView) -> Mapping[str, Any]:
        """The answer to GET /calls/id/{callId}, also after the call.

        It has no `from`: the vendor's library for Python (1.1.4) reads none that is there. Nothing is charged.
        """
        body: dict[str, Any] = {
            "domain": self._domain,
            "callId": call.call_id,
            "status": "ONGOING" if self._ended_at is None else "FINAL",
            **self._outcome(call.now),
            "timestamp": f"{call.started_at:%Y-%m-%dT%H:%M:%SZ}",
            "userRate": NOTHING_CHARGED,
            "debit": NOTHING_CHARGED,
        }
        for first in list(call.participants.values())[:1]:
            body["to"] = self._to(first)
        if self._custom is not None:
            body["custom"] = self._custom
        return body

    def read_stay(self, call: CallView) -> Mapping[str, Any] | None:
        """The call as one of the participants of its conference; None when it is in none."""
        stay = self.stay
        live = [one for one in call.participants.values() if one.status is not LegStatus.DISCONNECTED]
        if stay is None or not live or self._ended_at is not None:
            return None
        return {
            "cli": live[0].from_,
            "id": call.call_id,
            "duration": int((call.now - stay.since).total_seconds()),
            "muted": stay.muted,
            "onhold": stay.onhold,
        }

    def describe(
        self, action_id: str, *, leg: str, duration_s: float, media_type: str, call: CallView
    ) -> tuple[Mapping[str, str], Mapping[str, Any]]:
        """No object metadata; for the manifest, how it was asked for, and the language if it is to be transcribed."""
        asked = self._asked.get(action_id)
        if asked is None:
            return {}, {"action": "startRecording"}
        said: dict[str, Any] = {"action": asked.word}
        if asked.options.transcription_locale is not None:
            said["transcription_locale"] = asked.options.transcription_locale
        return {}, said

    def last_words(self, event: RecordingStarted, call: CallView) -> Mapping[str, Any] | None:
        """Of a recording whose options ask for notifications."""
        asked = self._asked.get(event.action_id)
        if asked is None or not asked.options.notifies:
            return None
        return {
            "callid": call.call_id,
            "conferenceId": asked.conference_id,
            "custom": self._custom,
            "location": asked.location,
            "tells_storage_failures": self._tells_storage_failures,
        }


def messages_after(words: Mapping[str, Any], aftermath: Aftermath) -> tuple[Mapping[str, Any], ...]:
    """The notifications of a recording whose call is gone; see `callreel.dialects.messages_after`."""
    told: list[tuple[str, Mapping[str, Any]]] = []
    if not aftermath.was_finished:
        told.append(("recording_finished", {}))
    if aftermath.error is None:
        told.append(("recording_available", {"destination": words["location"]}))
    elif words["tells_storage_failures"]:
        told.append(("callingerror", NOT_RECORDED))
    conference = {} if words["conferenceId"] is None else {"conferenceId": words["conferenceId"]}
    return tuple(
        _notified(kind, words["callid"], words["custom"], {**members, **conference}) for kind, members in told
    )


def _notified(kind: str, call_id: str, custom: str | None, members: Mapping[str, Any]) -> Mapping[str, Any]:
    body: dict[str, Any] = {"event": "notify", "callid": call_id, "version": VERSION, "type": kind, **members}
    return body if custom is None else {**body, "custom": custom}


def _call_headers(given: Any) -> list[dict[str, str]]:
    """Those of them that are what the page says: "Call Headers" (2021)."""
    found = []
    for one in given if isinstance(given, list) else ():
        key, value = (one.get("key"), one.get("value")) if isinstance(one, OBJECT) else (None, None)
        if isinstance(key, str) and isinstance(value, str):
            found.append({"key": key, "value": value})
    return found


def _name(given: Mapping[str, Any], known: Mapping[str, str], where: str) -> str:
    """What an instruction or action is called, in the reference's spelling."""
    name = given.get("name")
    if not isinstance(name, str) or name.lower() not in known:
        raise SvamlError(INVALID, f"{where} has no name that is known")
    return known[name.lower()]


def _holds_credentials(value: Any) -> bool:
    """Whether there is a secret in it, by the name of a member at any depth."""
    waiting, seen = [value], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, OBJECT):
            if any(str(name).lower() == "credentials" for name in one):
                return True
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return False


def _is_recorded(given: Mapping[str, Any]) -> bool:
    """Whether `record` says so, or `recording`, as the page spells it; the former wins."""
    for name in ("record", "recording"):
        value = given.get(name)
        if isinstance(value, bool):
            return value
        if value is not None:
            raise SvamlError(ILLEGAL, f"'{name}' must be true or false", field=name)
    return False
