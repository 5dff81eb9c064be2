"""Amazon Chime SDK SIP media applications: invocations of a Lambda function out, its answers in.

Sources: the developer guide's pages "RecordAudio", "StartCallRecording", "Using call recording" (2021, 2022),
"Understanding telephony events", "Responding to invocations with action lists", "Updating in-progress calls" and
"Debugging unexpected hangups" (2021 to 2023). Where these contradict themselves, an argument of `Chime` names the
reading.

Rules of the lists:

1. The actions of a list are done in order. When the last has succeeded there is one ACTION_SUCCESSFUL, with its data;
   the first that fails ends the list with one ACTION_FAILED.
2. A new list takes the place of what waits behind the running action, which thereby becomes the last of its own list.
3. A list in answer to CALL_UPDATE_REQUESTED also ends the running action, if it may be interrupted: ACTION_INTERRUPTED.
4. An answer without actions changes nothing.
5. When a participant hangs up, their RecordAudio is stored and told of first, then there is HANGUP. An action for them
   that waits fails when its turn comes. What is told when nobody is left wants no answer.
6. An answer that cannot be used is told with INVALID_LAMBDA_RESPONSE. When the answer to that is no better and nothing
   else goes on, the participant is hung up on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from callreel import keys
from callreel.actions import (
    Action,
    Destination,
    EndReason,
    InvalidAction,
    Layout,
    OtherAction,
    PauseRecording,
    RecordingKind,
    ResumeRecording,
    StartRecording,
    StopRecording,
)
from callreel.dialects import OBJECT, Aftermath, Answer, Order, Response
from callreel.dialects.chime_answers import RECORDINGS, SCHEMA_VERSION, InvalidResponseError, read_answer
from callreel.dialects.chime_digits import ReceiveDigits
from callreel.dialects.chime_parameters import (
    BAD_CALL_ID,
    BAD_CALL_ID_OR_TAG,
    MAX_KEY_BYTES,
    participant,
    record_audio,
    record_audio_key,
    start_call_recording,
)
from callreel.dialects.chime_words import ANSWER, CHECK, failure, participant_entry, refusal
from callreel.errors import ActionConflictError, ActionError, InvalidActionError, UsageError
from callreel.events import (
    ActionEnded,
    CallEnded,
    CallView,
    DigitReceived,
    Event,
    LegChanged,
    LegStatus,
    Outcome,
    Participant,
    Perform,
    RecordingFinished,
    RecordingStarted,
)

__all__ = ["Chime", "messages_after"]

MAX_INVOCATIONS = 1_000
MAX_ARGUMENTS = 20
FIRST_LEG = "LEG-A"

ANSWERING = frozenset({"PlayAudio", "PlayAudioAndGetDigits", "Speak", "SpeakAndGetDigits", "RecordAudio"})
"""Those that answer a call which has not been answered."""
INTERRUPTIBLE = frozenset({"PlayAudio", "Pause"})
"""... and RecordAudio ("Updating in-progress calls")."""


@dataclass(slots=True)
class _Asked:
    """An action of a list, as the customer wrote it, and what has come of it."""

    list_number: int
    kind: str
    parameters: Any
    leg: str
    is_last: bool
    """Whether its success ends its list."""
    action: Action | None = None
    before: tuple[Action, ...] = ()
    """What must be done before it can begin."""
    bucket: str = ""
    destination_name: str = ""
    """What RecordAudio's result is called, in the spelling that was asked."""
    counter: tuple[str, int] = ("", 0)
    """Of a RecordAudio: for which CallId, and which of its recordings it is going to be."""
    digits: ReceiveDigits | None = None
    result: dict[str, Any] = field(default_factory=dict)
    """What ActionData says of it besides."""


class Chime:
    """Amazon Chime's side of one call: a `callreel.dialects.Session`."""

    dialect = "chime"
    metadata_has_duration = True

    def __init__(
        self,
        *,
        account_id: str = "",
        region: str = "",
        sip_media_application_id: str = "",
        sip_rule_id: str | None = None,
        arguments: Mapping[str, str] | None = None,
        record_audio_format: str = "mp3",
        first_sequence: int = 1,
        checks_access: bool = False,
        strict_pauses: bool = False,
        requires_terminators: bool = True,
    ) -> None:
        """The four ids go into CallDetails; `arguments` is ArgumentsMap of CreateSipMediaApplicationCall.

        `record_audio_format`: "mp3" as the page prints its keys, or "wav" as later editions do. `first_sequence`: 1 as
        logs show, 2 as the guide's first sample. `checks_access`: ask the host to look at the bucket before a call
        recording begins (`Perform` "CheckAccess"); an `ActionError` with the field "system" says that the host could
        not, any other that it may not. `strict_pauses`: a pause while paused, and a resumption while
        running, fail. `requires_terminators`: a RecordAudio without RecordingTerminators fails, as the table says.
        """
        if record_audio_format not in ("mp3", "wav"):
            raise UsageError(f"RecordAudio makes mp3 or wav, not {record_audio_format!r}")
        self._details = {
            "AwsAccountId": account_id,
            "AwsRegion": region,
            "SipMediaApplicationId": sip_media_application_id,
            **({} if sip_rule_id is None else {"SipRuleId": sip_rule_id}),
        }
        self._arguments = arguments
        self._record_audio_format = record_audio_format
        self._checks_access = checks_access
        self._strict_pauses = strict_pauses
        self._requires_terminators = requires_terminators
        self._sequence = first_sequence
        self._invocations = 0
        self._attributes: Mapping[str, str] = {}
        self._lists = 0
        self._asked: dict[str, _Asked] = {}
        """Those that are running or wait, by action id."""
        self._running_id = ""
        """Of the action that takes its time; empty for none."""
        self._is_preparing = False
        """Whether what runs is a step before the running action."""
        self._behind: tuple[Action, ...] = ()
        """What waits behind an action whose preparation a new list has found running."""
        self._record_audios: set[str] = set()
        """Those that are recording."""
        self._counters: dict[str, int] = {}
        """The number of the last recording by RecordAudio that has begun, by CallId."""
        self._invoked_leg = FIRST_LEG
        self._is_new = self._is_updating = self._was_invalid = False
        """Whether the answer to NEW_INBOUND_CALL, CALL_UPDATE_REQUESTED, INVALID_LAMBDA_RESPONSE is still to come."""
        self._is_over = False
        self._hangups: dict[str, list[Mapping[str, Any]]] = {}
        """HANGUPs that wait for the end of an action, by its id."""
        self._listening: _Asked | None = None

    # -- what the customer says ----------------------------------------------------------------------------------

    def request(self, document: Any, call: CallView) -> Answer:
        """Read the answer of the Lambda function, or a request of UpdateSipMediaApplicationCall (`Arguments`)."""
        if isinstance(document, OBJECT) and "Arguments" in document and "SchemaVersion" not in document:
            return self._update(document, call)
        if not self._somebody(call):
            return Answer()
        is_new, self._is_new = self._is_new, False
        was_invalid, self._was_invalid = self._was_invalid, False
        try:
            listed, self._attributes = read_answer(document, attributes=self._attributes, is_new=is_new)
        except InvalidResponseError as error:
            return self._invalid(error, call, again=was_invalid)
        is_updating, self._is_updating = self._is_updating, False
        if listed:
            return self._new_list(listed, call, is_updating=is_updating)
        return Answer(order=self._give_up(call)) if was_invalid else Answer()

    def _update(self, document: Mapping[str, Any], call: CallView) -> Answer:
        ours = self._details["SipMediaApplicationId"], call.transaction_id
        ids = document.get("SipMediaApplicationId", ours[0]), document.get("TransactionId", ours[1])
        if not self._somebody(call) or ids != ours:
            return refusal(404, "NotFound", "There is no such call.")
        arguments = document["Arguments"]
        if (
            not isinstance(arguments, OBJECT)
            or len(arguments) > MAX_ARGUMENTS
            or not all(isinstance(one, str) for pair in arguments.items() for one in pair)
        ):
            return refusal(400, "BadRequest", f"Arguments has 0 to {MAX_ARGUMENTS} texts by name.")
        self._is_updating = True
        self._invoked_leg = FIRST_LEG
        data = {"Type": "CallUpdateRequest", "Parameters": {"Arguments": dict(arguments)}}
        invoked = self._invoke("CALL_UPDATE_REQUESTED", call, ActionData=data)
        body = {"SipMediaApplicationCall": {"TransactionId": call.transaction_id}}
        return Answer(
            messages=invoked.messages, order=invoked.order, response=Response(status=202, body=body)
        )

    def _invalid(self, error: InvalidResponseError, call: CallView, *, again: bool) -> Answer:
        self._was_invalid = not again
        about = {"ErrorType": error.kind, "ErrorMessage": error.message}
        # A second one wants no answer: it could go on like this for ever.
        invoked = self._invoke("INVALID_LAMBDA_RESPONSE", call, wants_answer=not again, **about)
        order = self._give_up(call) if again else None
        return Answer(messages=invoked.messages, order=invoked.order or order)

    def _give_up(self, call: CallView) -> Order | None:
        """Hang up on a participant for whom nothing more can happen."""
        somebody = self._somebody(call)
        if self._running_id or len(somebody) != 1 or somebody[0].status is not LegStatus.CONNECTED:
            return None
        return Order(actions=(OtherAction(leg=somebody[0].leg, action_id="give-up", name="Hangup"),))

    def _new_list(self, listed: list[Mapping[str, Any]], call: CallView, *, is_updating: bool) -> Answer:
        running_id, running = self._running
        told = Answer()
        prepared: list[Action] = []
        self._asked = {}
        if running is not None:
            if is_updating and self._is_preparing and running.kind == "RecordAudio":
                told = self._interrupted(running, call)
            else:
                running.is_last = True
                self._asked[running_id] = running
                if self._is_preparing and running.action is not None:
                    prepared = [running.action]
        self._behind = tuple(self._read_actions(listed, call))
        order = Order(
            stop_running=EndReason.INTERRUPTED if is_updating else None,
            drop_queue=True,
            actions=(*prepared, *self._behind),
        )
        return Answer(messages=told.messages, order=told.order or order)

    @property
    def _running(self) -> tuple[str, _Asked | None]:
        """The action that takes its time, and its id."""
        return self._running_id, self._asked.get(self._running_id)

    # -- its actions ---------------------------------------------------------------------------------------------

    def _read_actions(self, listed: list[Mapping[str, Any]], call: CallView) -> list[Action]:
        self._lists += 1
        actions: list[Action] = []
        answered: set[str] = set()
        default_leg = self._default_leg(call)
        for number, one in enumerate(listed, 1):
            action_id, kind = f"{self._lists}.{number}", one["Type"]
            asked = self._asked[action_id] = _Asked(
                self._lists, kind, one.get("Parameters", {}), default_leg, number == len(listed)
            )
            try:
                asked.action = self._read_action(action_id, asked, call)
            except ActionError as error:
                asked.action = InvalidAction(leg=asked.leg, action_id=action_id, error=error)
            asked.before = self._before(asked, call, answered)
            actions += (*asked.before, asked.action)
            if kind in ANSWERING:
                answered.add(asked.leg)
        return actions

    def _default_leg(self, call: CallView) -> str:
        """The leg that the function was invoked for, or when that is gone, the first that is there."""
        legs = [one.leg for one in self._somebody(call)]
        return self._invoked_leg if self._invoked_leg in legs else legs[0]

    def _read_action(self, action_id: str, asked: _Asked, call: CallView) -> Action:
        given = asked.parameters if isinstance(asked.parameters, OBJECT) else {}
        if asked.kind == "RecordAudio":
            return self._record_audio(action_id, asked, given, call)
        if asked.kind in RECORDINGS:
            return self._call_recording(action_id, asked, given, call)
        try:
            asked.leg = participant(given, call, default=asked.leg, message=BAD_CALL_ID_OR_TAG).leg
        except InvalidActionError:
            # The host knows whether that is wrong: some of its actions name nobody.
            if asked.kind == "ReceiveDigits":
                raise
        if asked.kind == "ReceiveDigits":
            asked.digits = ReceiveDigits(given)
        return OtherAction(
            leg=asked.leg,
            action_id=action_id,
            name=asked.kind,
            parameters=given,
            interruptible=asked.kind in INTERRUPTIBLE,
        )

    def _before(self, asked: _Asked, call: CallView, answered: set[str]) -> tuple[Action, ...]:
        """What must be done before a recording can begin."""
        action = asked.action
        if not isinstance(action, StartRecording):
            return ()
        if action.kind is RecordingKind.CALL:
            if not self._checks_access:
                return ()
            step, name = CHECK, "CheckAccess"
            parameters = {"Bucket": asked.bucket, "Key": action.key}
        else:
            if call.participants[action.leg].status is not LegStatus.OFFERED or action.leg in answered:
                return ()
            step, name, parameters = ANSWER, "Answer", {}
        step_id = f"{action.action_id}/{step}"
        return (OtherAction(leg=action.leg, action_id=step_id, name=name, parameters=parameters),)

    def _record_audio(
        self, action_id: str, asked: _Asked, given: Mapping[str, Any], call: CallView
    ) -> StartRecording:
        whom = participant(given, call, default=asked.leg, message=BAD_CALL_ID_OR_TAG)
        asked.leg = whom.leg
        wanted = record_audio(given, requires_terminators=self._requires_terminators)
        asked.bucket, asked.destination_name = wanted.bucket, wanted.destination_name
        number = self._next_counter(whom.call_id)
        asked.counter = whom.call_id, number
        return StartRecording(
            leg=whom.leg,
            action_id=action_id,
            kind=RecordingKind.MESSAGE,
            layout=Layout.INCOMING,
            format=self._record_audio_format,
            key=record_audio_key(wanted.prefix, whom.call_id, number, self._record_audio_format),
            destination=Destination(kind="s3", bucket=wanted.bucket),
            once=False,
            rules=wanted.rules,
        )

    def _next_counter(self, call_id: str) -> int:
        """The number of one more recording: no two have the same, and none is used up by what does not begin."""
        waiting = [one.counter[1] for one in self._asked.values() if one.counter[0] == call_id]
        return 1 + max([self._counters.get(call_id, 0), *waiting])

    def _call_recording(
        self, action_id: str, asked: _Asked, given: Mapping[str, Any], call: CallView
    ) -> Action:
        if given.get("CallId") is None and given.get("ParticipantTag") is None:
            raise InvalidActionError(BAD_CALL_ID, field="CallId")
        whom = participant(given, call, default=None, message=BAD_CALL_ID)
        asked.leg = whom.leg
        match asked.kind:
            case "StopCallRecording":
                return StopRecording(leg=whom.leg, action_id=action_id)
            case "PauseCallRecording":
                return PauseRecording(leg=whom.leg, action_id=action_id, strict=self._strict_pauses)
            case "ResumeCallRecording":
                return ResumeRecording(leg=whom.leg, action_id=action_id, strict=self._strict_pauses)
        layout, asked.bucket, prefix = start_call_recording(given)
        key = keys.call_recording_key(
            prefix=prefix,
            started_at=whom.started_at,
            transaction_id=call.transaction_id,
            call_id=whom.call_id,
            extension="wav",
        )
        if len(key.encode("utf-8")) > MAX_KEY_BYTES:
            raise InvalidActionError(BAD_CALL_ID, field="Destination.Location", value=prefix)
        return StartRecording(
            leg=whom.leg,
            action_id=action_id,
            layout=layout,
            format="wav",
            prefix=prefix,
            key=key,
            destination=Destination(kind="s3", bucket=asked.bucket),
        )

    # -- what the customer is told -------------------------------------------------------------------------------

    def tell(self, event: Event, call: CallView) -> Answer:
        """Word what has happened as invocations."""
        match event:
            case LegChanged():
                return self._leg_changed(event, call)
            case CallEnded():
                return self._call_ended(call)
            case ActionEnded():
                return self._action_ended(event, call)
            case DigitReceived(track="incoming"):
                return self._digit(event, call)
            case Perform():
                self._running_id, _, step = event.action_id.partition("/")
                self._is_preparing = bool(step)
            case RecordingStarted():
                self._recording_started(event)
            case RecordingFinished():
                self._recording_finished(event)
        return Answer()

    def _recording_started(self, event: RecordingStarted) -> None:
        asked = self._asked.get(event.action_id)
        if asked is None:
            return
        if asked.kind == "RecordAudio":
            self._running_id, self._is_preparing = event.action_id, False
            self._record_audios.add(event.action_id)
            call_id, number = asked.counter
            self._counters[call_id] = number
        else:
            location = f"{asked.bucket}/{event.key}"
            asked.result["CallRecordingDestination"] = {"Type": "S3", "Location": location}

    def _recording_finished(self, event: RecordingFinished) -> None:
        self._record_audios.discard(event.action_id)
        asked = self._asked.get(event.action_id)
        if asked is None:
            return
        asked.result |= _recorded(asked.destination_name, asked.bucket, event.key, event.terminator)

    def _leg_changed(self, event: LegChanged, call: CallView) -> Answer:
        whom = call.participants[event.leg]
        match event.status:
            case LegStatus.OFFERED if whom.inbound:
                self._is_new = True
                event_type = "NEW_INBOUND_CALL"
            case LegStatus.DIALED if event.leg == FIRST_LEG:
                event_type = "NEW_OUTBOUND_CALL"
            case LegStatus.RINGING:
                event_type = "RINGING"
            case LegStatus.CONNECTED if event.leg == FIRST_LEG and not whom.inbound:
                event_type = "CALL_ANSWERED"
            case LegStatus.DISCONNECTED:
                return self._hung_up(whom, event.sip_response_code, call)
            case _:
                return Answer()
        self._invoked_leg = event.leg
        if event_type == "NEW_OUTBOUND_CALL" and self._arguments is not None:
            # No page shows where they stand; so do those of an update.
            data = {"Type": "CallCreateRequest", "Parameters": {"Arguments": dict(self._arguments)}}
            return self._invoke(event_type, call, ActionData=data)
        return self._invoke(event_type, call)

    def _call_ended(self, call: CallView) -> Answer:
        """Those who have not hung up have now."""
        somebody = self._somebody(call)
        self._is_over = True
        answers = [self._hung_up(one, 0, call) for one in somebody]
        return Answer(messages=tuple(message for answer in answers for message in answer.messages))

    def _hung_up(self, whom: Participant, sip_response_code: int, call: CallView) -> Answer:
        parameters = {
            "SipResponseCode": sip_response_code,
            "CallId": whom.call_id,
            "ParticipantTag": whom.leg,
        }
        if self._listening is not None and self._listening.leg == whom.leg:
            self._listening = None
        running_id, running = self._running
        if running is not None and running.kind == "RecordAudio" and running.leg == whom.leg:
            # Its end is told first, when the file is where it belongs.
            self._hangups.setdefault(running_id, []).append(parameters)
            return Answer(order=self._without(whom, call))
        told = self._hangup(parameters, call)
        return Answer(messages=told.messages, order=told.order or self._without(whom, call))

    def _without(self, whom: Participant, call: CallView) -> Order | None:
        """What waits when a participant has left others: up to the first action for them, which fails in its turn."""
        running_id, running = self._running
        waiting = {action_id: one for action_id, one in self._asked.items() if action_id != running_id}
        lost = next((action_id for action_id, one in waiting.items() if one.leg == whom.leg), None)
        if lost is None or not self._somebody(call):
            return None
        left: list[Action] = []
        for action_id, asked in waiting.items():
            if action_id == lost:
                error = ActionConflictError(f"{whom.leg} has left", field="CallId", value=whom.call_id)
                left.append(InvalidAction(leg=whom.leg, action_id=action_id, error=error))
                break
            assert asked.action is not None
            left += (*asked.before, asked.action)
        self._behind = tuple(left)
        prepared = self._is_preparing and running is not None and running.action
        return Order(drop_queue=True, actions=(prepared, *left) if prepared else self._behind)

    def _hangup(self, parameters: Mapping[str, Any], call: CallView) -> Answer:
        return self._invoke("HANGUP", call, ActionData={"Type": "Hangup", "Parameters": parameters})

    def _action_ended(self, event: ActionEnded, call: CallView) -> Answer:
        action_id, _, step = event.action_id.partition("/")
        if action_id == self._running_id:
            self._running_id, self._is_preparing = "", False
        asked = self._asked.get(action_id)
        if asked is None or (step and event.outcome is Outcome.DONE):
            return Answer()
        del self._asked[action_id]
        hangups = self._hangups.pop(action_id, [])
        self._invoked_leg = asked.leg
        told = Answer()
        match event.outcome:
            case Outcome.DONE:
                if asked.digits is not None:
                    self._listening = asked
                if asked.is_last or hangups:
                    told = self._invoke("ACTION_SUCCESSFUL", call, ActionData=_data(asked, asked.result))
            case Outcome.FAILED:
                told = self._failed(asked, event.error, step, call)
            case Outcome.INTERRUPTED:
                told = self._interrupted(asked, call)
        for parameters in hangups:
            hangup = self._hangup(parameters, call)
            told = Answer(messages=told.messages + hangup.messages, order=hangup.order or told.order)
        return told

    def _failed(self, asked: _Asked, error: ActionError | None, step: str, call: CallView) -> Answer:
        invoked = self._invoke(
            "ACTION_FAILED", call, ActionData=_data(asked, failure(asked.kind, error, step))
        )
        if asked.list_number != self._lists:  # what waits is a newer list
            order = Order(drop_queue=True, actions=self._behind) if step else None
            return Answer(messages=invoked.messages, order=invoked.order or order)
        self._asked.clear()
        return Answer(messages=invoked.messages, order=invoked.order or Order(drop_queue=True))

    def _interrupted(self, asked: _Asked, call: CallView) -> Answer:
        return self._invoke("ACTION_INTERRUPTED", call, wants_answer=False, ActionData=_data(asked))

    def _digit(self, event: DigitReceived, call: CallView) -> Answer:
        asked = self._listening
        if asked is None or asked.digits is None or event.leg != asked.leg:
            return Answer()
        received = asked.digits.press(event.symbol, event.at_s, event.duration_s)
        if received is None:
            return Answer()
        self._invoked_leg = asked.leg
        return self._invoke("DIGITS_RECEIVED", call, ActionData=_data(asked, {"ReceivedDigits": received}))

    def _invoke(self, event_type: str, call: CallView, *, wants_answer: bool = True, **more: Any) -> Answer:
        if self._invocations >= MAX_INVOCATIONS:
            return Answer()
        self._invocations += 1
        somebody = self._somebody(call)
        body = {
            "SchemaVersion": SCHEMA_VERSION,
            "Sequence": self._sequence,
            "InvocationEventType": event_type,
            **more,
            "CallDetails": self._call_details(call, is_over=self._is_over),
        }
        self._sequence += 1
        order = None
        if self._invocations == MAX_INVOCATIONS and somebody:
            wants_answer = False
            hangup = tuple(
                OtherAction(leg=one.leg, action_id=f"limit-{one.leg}", name="Hangup") for one in somebody
            )
            order = Order(drop_queue=True, actions=hangup)
        kind = "invocation" if wants_answer and somebody else "notification"
        return Answer(messages=((kind, body),), order=order)

    def _call_details(self, call: CallView, *, is_over: bool) -> dict[str, Any]:
        details: dict[str, Any] = {"TransactionId": call.transaction_id}
        if self._attributes:
            details["TransactionAttributes"] = dict(self._attributes)
        entries = [participant_entry(one, is_over=is_over) for one in call.participants.values()]
        return {**details, **self._details, "Participants": entries}

    def _somebody(self, call: CallView) -> list[Participant]:
        """Those who have not hung up."""
        if self._is_over:
            return []
        return [one for one in call.participants.values() if one.status is not LegStatus.DISCONNECTED]

    def describe(
        self, action_id: str, *, leg: str, duration_s: float, media_type: str, call: CallView
    ) -> tuple[Mapping[str, str], Mapping[str, Any]]:
        """The object metadata that the StartCallRecording page lists, and the minutes that are billed."""
        if action_id in self._record_audios:
            return {}, {"action": "RecordAudio"}
        metadata = keys.call_recording_metadata(
            transaction_id=call.transaction_id,
            call_id=call.participants[leg].call_id,
            duration_s=duration_s,
            media_type=media_type,
        )
        # "Using call recording": by the minute, pauses included; a minute that has begun counts.
        return metadata, {"action": "StartCallRecording", "billed_minutes": -int(-duration_s // 60)}

    def last_words(self, event: RecordingStarted, call: CallView) -> Mapping[str, Any] | None:
        """Of a RecordAudio: of the end of a call's recording nothing is told.

        Its Sequence is that of what would come next if nothing else did.
        """
        asked = self._asked.get(event.action_id)
        if asked is None or asked.kind != "RecordAudio" or self._invocations >= MAX_INVOCATIONS:
            return None
        return {
            "parameters": asked.parameters,
            "destination_name": asked.destination_name,
            "bucket": asked.bucket,
            "sequence": self._sequence,
            "details": self._call_details(call, is_over=True),
        }


def messages_after(words: Mapping[str, Any], aftermath: Aftermath) -> tuple[Mapping[str, Any], ...]:
    """The result of a RecordAudio whose call is gone; see `callreel.dialects.messages_after`."""
    if aftermath.error is None:
        name, bucket = words["destination_name"], words["bucket"]
        event_type = "ACTION_SUCCESSFUL"
        result: Mapping[str, Any] = _recorded(name, bucket, aftermath.key, aftermath.terminator)
    else:
        event_type, result = "ACTION_FAILED", failure("RecordAudio", aftermath.error, "")
    return (
        {
            "SchemaVersion": SCHEMA_VERSION,
            "Sequence": words["sequence"],
            "InvocationEventType": event_type,
            "ActionData": {"Type": "RecordAudio", "Parameters": words["parameters"], **result},
            "CallDetails": words["details"],
        },
    )


def _recorded(name: str, bucket: str, key: str, terminator: str | None) -> dict[str, Any]:
    """What ActionData says of a RecordAudio besides."""
    where: dict[str, Any] = {name: {"Type": "S3", "BucketName": bucket, "Key": key}}
    return where if terminator is None else {**where, "RecordingTerminatorUsed": terminator}


def _data(asked: _Asked, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"Type": asked.kind, "Parameters": asked.parameters, **(more or {})}
