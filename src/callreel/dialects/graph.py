"""Microsoft Graph's cloud communications: record (recordResponse), playPrompt, cancelMediaProcessing, subscribeToTone.

Sources: the pages "call: record" (beta, 2019; "call: recordResponse" in v1.0), "call: playPrompt", "call:
cancelMediaProcessing" and "call: subscribeToTone" of Microsoft's API reference; codes and messages from the tables
of Azure Communication Services, which has the same media platform. Where editions differ, an argument of `Graph` names
the reading.

A document for `Call.request` is an HTTP request as the host got it, and what comes back is its HTTP response:

    {"method": "POST",                         by default
     "path": "/app/calls/{id}/record",         with /v1.0 or /beta before it, or without
     "content_type": "application/json",       by default
     "body": {...}}                            JSON, as text or bytes, or as the value that was read from it

    POST   .../record  .../recordResponse  .../playPrompt  .../cancelMediaProcessing  .../subscribeToTone
    GET    .../operations/{id}                 DELETE  the call: hands out Perform "hangup"

below /app/calls/{id}, /applications/{id}/calls/{id} or /communications/calls/{id}. Who may ask is the host's to check.

record and playPrompt are operations: they are done one after the other, and each ends with exactly one notification.
When the call ends, the operations that have not come to their end fail (8528), and then the call is told to be
terminated. A host that cannot play a prompt says why in `ActionError.field`: "uri" when it cannot be had, "format" when
it is not WAV, 16 kHz, 16-bit, mono.

While the host has no room for a recording, record does nothing and is answered 503 with Retry-After, as the page
"Microsoft Graph error responses and resource types" (microsoft-graph-docs-contrib at 02b4cba) has it. An operation that
finds no room when its turn comes fails with that code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from callreel import keys
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
from callreel.dialects import OBJECT, Aftermath, Answer, Order, Response
from callreel.errors import UsageError
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
    Play,
    RecordingFinished,
    RecordingStarted,
)

__all__ = ["Download", "Graph", "Permit", "digest_of", "messages_after"]

MAX_TIMEOUT_S = {"seed": 300, "current": 120}
DEFAULT_TIMEOUT_S = 5
MAX_CONTEXT_UNITS = 256
MAX_RECORD_PROMPTS = 1
MAX_PLAY_PROMPTS = 20
MAX_URI_CHARACTERS = 2048
KEPT_OPERATIONS = 1000
"""So many of a call that have ended can be asked for, a megabyte or two: no page has a number."""
SAMPLE_RATE = 16_000

STOP_TONES = frozenset("0123456789*#")
TONES = (
    {"*": "star", "#": "pound"}
    | {one: one.lower() for one in "ABCD"}
    | {one: f"tone{one}" for one in "0123456789"}
)
"""Names of keys in toneInfo."""

TYPE = "#microsoft.graph."
PROMPT_TYPES = (None, "#microsoft.graph.mediaPrompt", "microsoft.graph.mediaPrompt")
RECORD_NAMES = ("record", "recordResponse")
NEEDS_AUDIO = (*RECORD_NAMES, "playPrompt")
VERBS = (*NEEDS_AUDIO, "cancelMediaProcessing", "subscribeToTone")
HANG_UP = "hangup"

PATH = re.compile(
    r"(?P<version>/v1\.0|/beta)?(?P<calls>/app/calls|/applications/[A-Za-z0-9-]{1,64}/calls|/communications/calls)"
    r"/(?P<call>[^/?#]+)(/(microsoft\.graph\.)?(?P<what>[A-Za-z]+)(/(?P<operation>[^/?#]+))?)?/?([?#].*)?",
    re.DOTALL,
)
GUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
HTTP_URI = re.compile(r"https?://[^\s/?#\x00-\x20]+([/?#][^\s\x00-\x20]*)?", re.IGNORECASE)
JSON_TYPE = re.compile(r"application/([a-z0-9.-]+\+)?json\s*(;.*)?", re.IGNORECASE | re.DOTALL)

INVALID_REQUEST, NOT_FOUND, NOT_AVAILABLE = "invalidRequest", "itemNotFound", "serviceNotAvailable"
RETRY_S = 5
"""How long to wait when there is no room: no page has a number."""
INVALID_MEDIA_MODE, NOT_ESTABLISHED, AUDIO_INACTIVE = "8500", "8501", "8503"
THROTTLED, CALL_NOT_FOUND, INVALID_ARGUMENT, RECORD_THROTTLED = "8516", "8522", "8523", "8589"
TOO_LONG, TOO_SMALL, BAD_FORMAT = "parameterIsTooLong", "parameterIsTooSmall", "invalidParameterFormat"
HANG_UP_SUBCODE = 7000

NOT_STARTED, RUNNING, COMPLETED, FAILED = "notStarted", "running", "completed", "failed"


@dataclass(frozen=True, slots=True)
class _End:
    """How an operation ends: a row of the outcome table."""

    status: str
    code: int
    subcode: int
    completion_reason: str
    message: str

    @property
    def result_info(self) -> dict[str, Any]:
        return {
            "@odata.type": TYPE + "resultInfo",
            "code": self.code,
            "subcode": self.subcode,
            "message": self.message,
        }


END_OF_RECORDING = {
    EndReason.MAX_DURATION: _End(
        COMPLETED, 200, 8515, "maxRecordDurationReached", "Action completed, max record duration reached."
    ),
    EndReason.TERMINATOR: _End(
        COMPLETED, 200, 8514, "stopToneDetected", "Action completed as stop tone was detected."
    ),
    EndReason.TRAILING_SILENCE: _End(
        COMPLETED, 200, 8509, "maxSilenceTimeout", "Action completed, max silence timeout reached."
    ),
    EndReason.STOP: _End(COMPLETED, 200, 0, "none", "Action completed successfully."),
    EndReason.INITIAL_SILENCE: _End(
        FAILED, 400, 8510, "initialSilenceTimeout", "Action failed, initial silence timeout reached."
    ),
    EndReason.MEDIA_TIMEOUT: _End(
        FAILED, 500, 8513, "mediaReceiveTimeout", "Action failed, media receive timeout reached."
    ),
    EndReason.HANGUP: _End(FAILED, 400, 8528, "operationCanceled", "Action failed, the call was terminated."),
    EndReason.CANCELLED: _End(
        FAILED, 400, 8508, "operationCanceled", "Action failed, the operation was cancelled."
    ),
}
PLAYED = END_OF_RECORDING[EndReason.STOP]
UNSPECIFIED = _End(FAILED, 500, 9999, "unspecifiedError", "Unspecified error.")
NO_ROOM = _End(FAILED, 503, 8589, "unspecifiedError", "Action failed, the service is not available.")
"""Of 8589 the table has the name, that records are throttled, and no message."""
PROMPT_FAILED = _End(
    FAILED,
    500,
    8511,
    "playPromptFailed",
    "Action failed, encountered failure while trying to play the prompt.",
)
PROMPT_FAILED_FOR = {
    "uri": _End(FAILED, 400, 8536, "playPromptFailed", "Action failed, file could not be downloaded."),
    "format": _End(FAILED, 400, 8535, "playPromptFailed", "Action failed, file format is invalid."),
}
BEEP_FAILED = _End(
    FAILED, 500, 8512, "playBeepFailed", "Action failed, encountered failure while trying to play the beep."
)
UNDELIVERED = frozenset(
    {
        EndReason.INITIAL_SILENCE,
        EndReason.MEDIA_TIMEOUT,
        EndReason.HANGUP,
        EndReason.CANCELLED,
        EndReason.INTERRUPTED,
        EndReason.FAILED,
    }
)


@dataclass(frozen=True, slots=True)
class Download:
    """What a request for a recording is to be answered."""

    status: int
    """200, 401 for a wrong token, 404 where there is no recording, 410 where there is none any more."""
    recording_id: str | None = None
    """Which recording of the call, with 200."""


@dataclass(frozen=True, slots=True)
class Permit:
    """That a recording may be downloaded with a token, of which only a digest is kept: it may be written down."""

    path: str
    """Of the recording's location."""
    recording_id: str
    key: str
    """Under which the recording is stored."""
    digests: frozenset[str]
    """Of the tokens that open it, by `digest_of`."""

    def status(self, token: str | None, *, over_at: datetime | None, grace_s: float, now: datetime) -> int:
        """What a request with this token is answered: 200, 401, or 410 from `grace_s` after the call on."""
        from hmac import compare_digest  # OpenSSL, which only downloads need

        if over_at is not None and now >= over_at + timedelta(seconds=grace_s):
            return 410
        given = "" if token is None else digest_of(token)
        opened = [compare_digest(given, one) for one in sorted(self.digests)]  # all are compared
        return 200 if any(opened) else 401


def digest_of(token: str) -> str:
    """SHA-256 of an access token, hexadecimal: nobody gets from it to the token."""
    import hashlib

    return hashlib.sha256(_octets(token)).hexdigest()


class _AccessToken(str):
    """A token in a message: JSON has it, a repr does not."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'<access token>'"


@dataclass(slots=True)
class _Operation:
    """What was accepted, and what has come of it."""

    operation_id: str
    verb: str
    calls: str
    """The path before the call's id, as it was asked."""
    client_context: str | None
    created_at: datetime
    acted_at: datetime
    status: str
    end: _End | None = None
    plays: str | None = None
    """"prompt" or "beep" while that is being played."""
    recording_id: str | None = None
    """Once its recording has begun."""
    end_reason: EndReason | None = None
    """Once its recording has ended."""
    location: str | None = None
    token: str | None = field(default=None, repr=False)

    @property
    def lives(self) -> bool:
        return self.status in (NOT_STARTED, RUNNING)


class _RequestError(Exception):
    """A request that is answered with an error."""

    def __init__(
        self, status: int, code: str, message: str, *, detail: str | None = None, retry_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.detail = detail
        self.retry_s = retry_s


class Graph:
    """Microsoft Graph's side of one call: a `callreel.dialects.Session`.

    A Graph call has one participant: the leg that was added first.
    """

    dialect = "graph"
    metadata_has_duration = False

    def __init__(
        self,
        *,
        new_id: Callable[[], str],
        new_token: Callable[[], str],
        base_url: str,
        recordings_url: str | None = None,
        revision: str = "seed",
        max_timeout_s: int | None = None,
        grace_s: float = 600,
        media_timeout_s: float | None = 30,
        max_operations: int = 100,
        keep_operations: bool = False,
        service_hosted_media: bool = True,
        on_permit: Callable[[Permit], None] | None = None,
        on_over: Callable[[datetime], None] | None = None,
    ) -> None:
        """`new_id` gives a new GUID, `new_token` a new secret such as `secrets.token_urlsafe()`.

        `base_url` is what stands before the path of a request, for Location; `recordings_url` what stands before the
        id of a recording, by default `base_url`/recordings. `revision`: notifications and the longest timeout as in
        the page of 2019 ("seed": `resource`, 300 s) or since ("current": `resourceUrl`, 120 s); `max_timeout_s` is the
        latter alone. `grace_s`: how long recordings can be downloaded after the call. `media_timeout_s`: how long no
        packet may come before a recording fails. `max_operations`: more that wait are refused (429).
        `keep_operations`: whether GET finds an operation from its end to that of the call. `service_hosted_media`:
        whether this service has the call's media; if not, all is refused (8500). `on_permit` is told of every recording
        that may be downloaded, before its customer is, and `on_over` when the call is over: for a host whose downloads
        outlive its process.
        """
        if revision not in MAX_TIMEOUT_S:
            raise UsageError(f"revision {revision!r}: one of {', '.join(MAX_TIMEOUT_S)} is possible")
        self.audio_active = True
        """Whether the participant can be heard; the host makes it False while the call is on hold: then record and
        playPrompt are refused (8503)."""
        self._new_id = new_id
        self._new_token = new_token
        self._base_url = base_url.rstrip("/")
        self._recordings_url = (recordings_url or f"{self._base_url}/recordings").rstrip("/")
        self._is_current = revision == "current"
        self._max_timeout_s = MAX_TIMEOUT_S[revision] if max_timeout_s is None else max_timeout_s
        self._grace_s = grace_s
        self._media_timeout_ms = None if media_timeout_s is None else round(1000 * media_timeout_s)
        self._max_operations = max_operations
        self._keeps_operations = keep_operations
        self._service_hosted_media = service_hosted_media
        self._operations: dict[str, _Operation] = {}
        self._on_permit, self._on_over = on_permit, on_over
        self._permits: dict[str, Permit] = {}  # by path
        self._hears_tones = False
        self._tones = 0
        self._notified = 0
        self._calls = "/communications/calls" if self._is_current else "/app/calls"
        self._deleted = False
        """Whether the customer has asked for the end of the call."""
        self._over_at: datetime | None = None
        self._sip_response_code = 0
        self._terminated = False
        """Whether the customer was told."""

    # -- what the customer asks ----------------------------------------------------------------------------------

    def request(self, document: Any, call: CallView) -> Answer:
        """Read an HTTP request, in the form that the head of this module shows."""
        try:
            return self._read(document, call)
        except _RequestError as refused:
            return Answer(response=self._error(refused, call))

    def _read(self, document: Any, call: CallView) -> Answer:
        if not isinstance(document, OBJECT):
            raise _RequestError(400, INVALID_REQUEST, "The request is malformed.")
        path, method = document.get("path"), document.get("method", "POST")
        found = PATH.fullmatch(path) if isinstance(path, str) else None
        if found is None:
            raise _RequestError(404, NOT_FOUND, "There is no such resource.")
        if self._deleted or self._over_at is not None or not _is_id(found["call"], call.call_id):
            raise _RequestError(404, CALL_NOT_FOUND, "Call not found.")
        match method, found["what"], found["operation"]:
            case "GET", "operations", str() as operation_id:
                return self._get(operation_id)
            case "DELETE", None, None:
                return self._delete(call)
            case "POST", verb, None if verb in VERBS:
                return self._post(verb, document, found, call)
            case _, verb, operation_id if verb in (None, *VERBS) or operation_id is not None:
                raise _RequestError(405, INVALID_REQUEST, "The method is not allowed for this resource.")
        raise _RequestError(404, NOT_FOUND, "There is no such resource.")

    def _post(self, verb: str, document: Mapping[str, Any], found: re.Match[str], call: CallView) -> Answer:
        given = _body(document)
        participant = self._participant(call)
        if participant is None or participant.status is not LegStatus.CONNECTED:
            raise _RequestError(400, NOT_ESTABLISHED, "Call is not established.")
        if not self._service_hosted_media:
            raise _RequestError(400, INVALID_MEDIA_MODE, "Invalid media mode.")
        if verb in NEEDS_AUDIO and not self.audio_active:
            raise _RequestError(400, AUDIO_INACTIVE, "Audio is inactive.")
        context = _context(given)
        self._calls = found["calls"]
        if verb in RECORD_NAMES:
            return self._record(verb, given, context, participant.leg, found, call)
        if verb == "playPrompt":
            return self._play(given, context, participant.leg, found, call)
        operation = self._operation(verb, context, COMPLETED, call)
        if verb == "subscribeToTone":
            self._hears_tones = True
            return self._accept(operation, found, call, None)
        order = Order(stop_running=EndReason.CANCELLED, drop_queue=True)
        return self._accept(operation, found, call, order)

    def _record(
        self,
        verb: str,
        given: Mapping[str, Any],
        context: str | None,
        leg: str,
        found: re.Match[str],
        call: CallView,
    ) -> Answer:
        prompts = _prompts(given, MAX_RECORD_PROMPTS)
        rules = StopRules(
            terminators=_stop_tones(given),
            keep_terminator=False,
            max_duration_ms=self._timeout_ms(given, "maxRecordDurationInSeconds"),
            initial_silence_ms=self._timeout_ms(given, "initialSilenceTimeoutInSeconds"),
            trailing_silence_ms=self._timeout_ms(given, "maxSilenceTimeoutInSeconds"),
            media_timeout_ms=self._media_timeout_ms,
        )
        barges_in = _flag(given, "bargeInAllowed", default=False)
        beep = _flag(given, "playBeep", default=True)
        if call.refusal is not None:
            raise _RequestError(503, NOT_AVAILABLE, "No recordings are begun now.", retry_s=RETRY_S)
        status = self._place(barges_in=barges_in, code=RECORD_THROTTLED)
        operation = self._operation(verb, context, status, call)
        action = StartRecording(
            leg=leg,
            action_id=operation.operation_id,
            kind=RecordingKind.MESSAGE,
            layout=Layout.INCOMING,
            format="wav",
            sample_rate=SAMPLE_RATE,
            key=_key(call, operation),
            destination=Destination(kind="held"),
            prompt=prompts[0] if prompts else None,
            beep=beep,
            rules=rules,
            once=False,
            undelivered=UNDELIVERED,
        )
        stop = EndReason.CANCELLED if barges_in else None
        order = Order(stop_running=stop, drop_queue=barges_in, actions=(action,))
        return self._accept(operation, found, call, order)

    def _play(
        self, given: Mapping[str, Any], context: str | None, leg: str, found: re.Match[str], call: CallView
    ) -> Answer:
        prompts = _prompts(given, MAX_PLAY_PROMPTS)
        if not prompts:
            raise _invalid("prompts")
        status = self._place(barges_in=False, code=THROTTLED)
        operation = self._operation("playPrompt", context, status, call)
        action = OtherAction(
            leg=leg,
            action_id=operation.operation_id,
            name="playPrompt",
            parameters={"prompts": [{"uri": one.uri, "resourceId": one.resource_id} for one in prompts]},
            interruptible=True,
        )
        return self._accept(operation, found, call, Order(actions=(action,)))

    def _place(self, *, barges_in: bool, code: str) -> str:
        """The status of an operation that is added now: whether it begins at once."""
        before = [one for one in self._living() if not barges_in or one.end_reason is not None]
        if len(before) >= self._max_operations:
            raise _RequestError(429, code, "Too many operations wait for their turn.", retry_s=1)
        return NOT_STARTED if before else RUNNING

    def _operation(self, verb: str, context: str | None, status: str, call: CallView) -> _Operation:
        return _Operation(self._new_id(), verb, self._calls, context, call.now, call.now, status)

    def _accept(
        self, operation: _Operation, found: re.Match[str], call: CallView, order: Order | None
    ) -> Answer:
        if operation.lives:
            self._operations[operation.operation_id] = operation
        else:
            self._has_ended(operation)
        path = f"{found['version'] or ''}{operation.calls}/{keys.safe_component(call.call_id)}"
        location = f"{self._base_url}{path}/operations/{operation.operation_id}"
        response = Response(status=200, body=_resource(operation), headers={"Location": location})
        return Answer(order=order, response=response)

    def _has_ended(self, operation: _Operation) -> None:
        """Keep it for who asks, the latest of them; GET finds nothing, and no token is kept, once the call is over."""
        if not self._keeps_operations or self._over_at is not None:
            self._operations.pop(operation.operation_id, None)
            return
        self._operations[operation.operation_id] = operation
        ended = [name for name, one in self._operations.items() if not one.lives]
        for name in ended[:-KEPT_OPERATIONS]:
            del self._operations[name]

    def _get(self, operation_id: str) -> Answer:
        for operation in self._operations.values():
            if _is_id(operation_id, operation.operation_id):
                return Answer(response=Response(status=200, body=_resource(operation)))
        raise _RequestError(404, NOT_FOUND, "There is no such operation.")

    def _delete(self, call: CallView) -> Answer:
        participant = self._participant(call)
        if participant is None:
            raise _RequestError(404, CALL_NOT_FOUND, "Call not found.")
        self._deleted = True
        hang_up = OtherAction(leg=participant.leg, action_id=HANG_UP, name=HANG_UP, awaited=False)
        # At once: a recording that is complete may still wait for being stored.
        order = Order(stop_running=EndReason.HANGUP, drop_queue=True, actions=(hang_up,), at_once=True)
        return Answer(order=order, response=Response(status=204))

    def _timeout_ms(self, given: Mapping[str, Any], name: str) -> int:
        seconds = given.get(name)
        if seconds is None:
            seconds = DEFAULT_TIMEOUT_S
        if not isinstance(seconds, int) or isinstance(seconds, bool):
            raise _invalid(name, BAD_FORMAT)
        if not 1 <= seconds <= self._max_timeout_s:
            raise _invalid(name, TOO_SMALL if seconds < 1 else None)
        return 1000 * seconds

    def _error(self, refused: _RequestError, call: CallView) -> Response:
        inner = {"request-id": self._new_id(), "date": _date(call.now)}
        if refused.detail is not None:
            inner = {"code": refused.detail, **inner}
        headers = {} if refused.retry_s is None else {"Retry-After": str(refused.retry_s)}
        body = {"error": {"code": refused.code, "message": refused.message, "innerError": inner}}
        return Response(status=refused.status, body=body, headers=headers)

    @staticmethod
    def _participant(call: CallView) -> Participant | None:
        return next(iter(call.participants.values()), None)

    # -- what the customer is told -------------------------------------------------------------------------------

    def tell(self, event: Event, call: CallView) -> Answer:
        """Word what has happened as notifications."""
        told: list[Mapping[str, Any]] = []
        match event:
            case Play() | Perform() | RecordingStarted():
                self._began(event, call)
            case RecordingFinished() if event.action_id in self._operations:
                self._operations[event.action_id].end_reason = EndReason(event.end_reason)
            case ActionEnded():
                operation = self._operations.get(event.action_id)
                if operation is not None and operation.lives:
                    told = [self._end(operation, _end_of(operation, event), call), *self._terminate(call)]
            case DigitReceived(track="incoming") if self._hears_tones and self._is_ours(event.leg, call):
                told = [self._tone(event.symbol, call)]
            case LegChanged(status=LegStatus.DISCONNECTED) if self._is_ours(event.leg, call):
                told = self._over(event.sip_response_code, call)
            case CallEnded():
                told = self._over(0, call)
        return Answer(messages=tuple(("notification", body) for body in told))

    def _is_ours(self, leg: str, call: CallView) -> bool:
        participant = self._participant(call)
        return participant is not None and participant.leg == leg

    def _began(self, event: Play | Perform | RecordingStarted, call: CallView) -> None:
        operation = self._operations.get(event.action_id)
        if operation is None:
            return
        if operation.status == NOT_STARTED:
            operation.status, operation.acted_at = RUNNING, call.now
        operation.plays = None
        if isinstance(event, Play):
            operation.plays = "beep" if event.prompt.uri is None else "prompt"
        elif isinstance(event, RecordingStarted):
            operation.recording_id = event.recording_id

    def _living(self) -> list[_Operation]:
        return [one for one in self._operations.values() if one.lives]

    def _over(self, sip_response_code: int, call: CallView) -> list[Mapping[str, Any]]:
        """The call is over: what never began fails now, what has begun when its last audio is in."""
        if self._over_at is None:
            self._over_at, self._sip_response_code = call.now, sip_response_code
            self._operations = {one.operation_id: one for one in self._living()}
            if self._on_over is not None:
                self._on_over(call.now)
        hang_up = END_OF_RECORDING[EndReason.HANGUP]
        failed = [self._end(one, hang_up, call) for one in self._living() if one.recording_id is None]
        return [*failed, *self._terminate(call)]

    def _terminate(self, call: CallView) -> list[Mapping[str, Any]]:
        """The last notification, once nothing else is to come."""
        if self._over_at is None or self._terminated or self._living():
            return []
        self._terminated = True
        self._operations.clear()
        end = _End(COMPLETED, self._sip_response_code or 200, HANG_UP_SUBCODE, "", "Call terminated.")
        path = f"{self._calls}/{_compact(call.call_id)}"
        return [self._notification("deleted", path, "call", state="terminated", resultInfo=end.result_info)]

    def _end(self, operation: _Operation, end: _End, call: CallView) -> Mapping[str, Any]:
        operation.end, operation.status, operation.acted_at = end, end.status, call.now
        operation.location = operation.token = ""
        if end.status == COMPLETED and operation.recording_id is not None:
            operation.location = f"{self._recordings_url}/{self._new_id()}"
            operation.token = _AccessToken(self._new_token())
            path, key = _path(operation.location), _key(call, operation)
            permit = Permit(path, operation.recording_id, key, frozenset({digest_of(operation.token)}))
            self._permits[path] = permit
            if self._on_permit is not None:
                self._on_permit(permit)
            if self._over_at is not None and self._on_over is not None:  # it was still being stored
                self._on_over(self._over_at)
        self._has_ended(operation)
        path = _operation_path(operation, call)
        resource = _resource(operation)
        return self._notification("deleted", path, resource.pop("@odata.type").removeprefix(TYPE), **resource)

    def _tone(self, symbol: str, call: CallView) -> Mapping[str, Any]:
        self._tones += 1
        tone = {"@odata.type": TYPE + "toneInfo", "sequenceId": self._tones, "tone": TONES[symbol]}
        path = f"{self._calls}/{_compact(call.call_id)}"
        return self._notification("updated", path, "call", state="established", toneInfo=tone)

    def _notification(self, change_type: str, path: str, kind: str, **data: Any) -> Mapping[str, Any]:
        self._notified += 1
        return _notification(
            change_type, path, kind, data, number=self._notified, is_current=self._is_current
        )

    def describe(
        self, action_id: str, *, leg: str, duration_s: float, media_type: str, call: CallView
    ) -> tuple[Mapping[str, str], Mapping[str, Any]]:
        """What was asked: record, or recordResponse."""
        operation = self._operations.get(action_id)
        return {}, {"action": RECORD_NAMES[0] if operation is None else operation.verb}

    def last_words(self, event: RecordingStarted, call: CallView) -> Mapping[str, Any] | None:
        """Of an operation."""
        operation = self._operations.get(event.action_id)
        if operation is None or not operation.lives:
            return None
        return {
            "path": _operation_path(operation, call),
            "resource": _resource(operation),
            "number": self._notified + 1,
            "is_current": self._is_current,
        }

    # -- downloads -----------------------------------------------------------------------------------------------

    def authorize_download(self, path: str, token: str | None, now: datetime) -> Download:
        """Whether a GET of a recordingLocation with this bearer token may have the file, also after the call.

        `path` is the location or its path; `now` must know its time zone. A token opens its own recording only, as
        often as it is asked for, until `grace_s` after the call.
        """
        permit = self._permits.get(_path(path))
        if permit is None:
            return Download(404)
        status = permit.status(token, over_at=self._over_at, grace_s=self._grace_s, now=now)
        return Download(status, permit.recording_id if status == 200 else None)


# ---- what a request holds ------------------------------------------------------------------------------------


def _body(document: Mapping[str, Any]) -> Mapping[str, Any]:
    content_type = document.get("content_type", "application/json")
    if not isinstance(content_type, str) or not JSON_TYPE.fullmatch(content_type):
        raise _RequestError(415, INVALID_REQUEST, "The content type must be application/json.")
    body = document.get("body")
    if isinstance(body, str | bytes | bytearray):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            raise _RequestError(400, INVALID_REQUEST, "The body is not JSON.") from None
    if not isinstance(body, OBJECT):
        raise _RequestError(400, INVALID_REQUEST, "The body is not a JSON object.")
    return body


def _invalid(name: str, detail: str | None = None) -> _RequestError:
    return _RequestError(400, INVALID_ARGUMENT, f"Invalid argument: {name}.", detail=detail)


def _context(given: Mapping[str, Any]) -> str | None:
    context = given.get("clientContext")
    if context is None:
        return None
    if not isinstance(context, str):
        raise _invalid("clientContext", BAD_FORMAT)
    if len(context.encode("utf-16-le", "surrogatepass")) > 2 * MAX_CONTEXT_UNITS:
        raise _invalid("clientContext", TOO_LONG)
    return context


def _flag(given: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = given.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _invalid(name, BAD_FORMAT)
    return value


def _stop_tones(given: Mapping[str, Any]) -> frozenset[str]:
    tones = given.get("stopTones")
    if tones is None:
        return frozenset()
    if not _is_list(tones) or not all(isinstance(one, str) and one in STOP_TONES for one in tones):
        raise _invalid("stopTones")
    return frozenset(tones)


def _prompts(given: Mapping[str, Any], most: int) -> list[Prompt]:
    prompts = given.get("prompts")
    if prompts is None:
        return []
    if not _is_list(prompts) or len(prompts) > most:
        raise _invalid("prompts")
    return [_prompt(one) for one in prompts]


def _prompt(given: Any) -> Prompt:
    media = given.get("mediaInfo") if isinstance(given, OBJECT) else None
    if not isinstance(media, OBJECT) or given.get("@odata.type") not in PROMPT_TYPES:
        raise _invalid("prompts")
    uri, resource_id = media.get("uri"), media.get("resourceId")
    if not isinstance(uri, str) or len(uri) > MAX_URI_CHARACTERS or not HTTP_URI.fullmatch(uri):
        raise _invalid("prompts.mediaInfo.uri")
    if resource_id is not None and not isinstance(resource_id, str):
        raise _invalid("prompts.mediaInfo.resourceId")
    return Prompt(uri=uri, resource_id=resource_id)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


# ---- words ---------------------------------------------------------------------------------------------------


def _resource(operation: _Operation) -> dict[str, Any]:
    """An operation as JSON."""
    kind = "recordOperation" if operation.verb in RECORD_NAMES else f"{operation.verb}Operation"
    resource = {
        "@odata.type": TYPE + kind,
        "id": operation.operation_id,
        "status": operation.status,
        "createdDateTime": _date(operation.created_at),
        "lastActionDateTime": _date(operation.acted_at),
        "resultInfo": None if operation.end is None else operation.end.result_info,
        "clientContext": operation.client_context,
    }
    if operation.verb in RECORD_NAMES:
        resource |= {
            "completionReason": None if operation.end is None else operation.end.completion_reason,
            "recordingLocation": operation.location,
            "recordingAccessToken": operation.token,
        }
    return resource


def messages_after(words: Mapping[str, Any], aftermath: Aftermath) -> tuple[Mapping[str, Any], ...]:
    """The end of an operation whose call is gone; see `callreel.dialects.messages_after`.

    It fails wherever its file may be: who could let the customer have that has died.
    """
    resource = {
        **words["resource"],
        "status": UNSPECIFIED.status,
        "lastActionDateTime": _date(aftermath.at),
        "resultInfo": UNSPECIFIED.result_info,
        "completionReason": UNSPECIFIED.completion_reason,
        "recordingLocation": "",
        "recordingAccessToken": "",
    }
    kind = resource.pop("@odata.type").removeprefix(TYPE)
    number, is_current = words["number"], words["is_current"]
    return (_notification("deleted", words["path"], kind, resource, number=number, is_current=is_current),)


def _notification(
    change_type: str, path: str, kind: str, data: Mapping[str, Any], *, number: int, is_current: bool
) -> Mapping[str, Any]:
    resource = {
        "@odata.type": TYPE + kind,
        "@odata.id": path,
        "@odata.etag": f'W/"{number}"',
        **data,
    }
    if not is_current:
        return {"value": [{"changeType": change_type, "resource": path, "resourceData": resource}]}
    notification = {
        "@odata.type": TYPE + "commsNotification",
        "changeType": change_type,
        "resourceUrl": path,
        "resourceData": resource,
    }
    return {"@odata.type": TYPE + "commsNotifications", "value": [notification]}


def _operation_path(operation: _Operation, call: CallView) -> str:
    return f"{operation.calls}/{_compact(call.call_id)}/operations/{_compact(operation.operation_id)}"


def _end_of(operation: _Operation, event: ActionEnded) -> _End:
    """Which row of the outcome table an operation has come to."""
    match event.outcome:
        case Outcome.DONE if operation.verb == "playPrompt":
            return PLAYED
        case Outcome.DONE:
            reason = operation.end_reason if event.reason is None else EndReason(event.reason)
            return UNSPECIFIED if reason is None else END_OF_RECORDING.get(reason, UNSPECIFIED)
        case Outcome.FAILED if operation.plays == "beep":
            return BEEP_FAILED
        case Outcome.FAILED if operation.plays == "prompt" or operation.verb == "playPrompt":
            why = None if event.error is None else event.error.field
            return PROMPT_FAILED if why is None else PROMPT_FAILED_FOR.get(why, PROMPT_FAILED)
        case Outcome.FAILED if event.error is not None and event.error.field == "system":
            return NO_ROOM
        case Outcome.FAILED:
            return UNSPECIFIED
    is_hang_up = event.reason == EndReason.HANGUP
    return END_OF_RECORDING[EndReason.HANGUP if is_hang_up else EndReason.CANCELLED]


def _date(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _compact(name: str) -> str:
    """An id as notifications print it: GUIDs in capitals without hyphens."""
    return name.replace("-", "").upper() if GUID.fullmatch(name) else keys.safe_component(name)


def _is_id(segment: str, name: str) -> bool:
    """Whether a segment of a path is this id, in either of the forms that are printed."""
    plain = re.sub(rb"%([0-9A-Fa-f]{2})", lambda two: bytes.fromhex(two[1].decode()), _octets(segment))
    forms = (segment, plain.decode("utf-8", "replace"))
    return _folded(forms[0]) == _folded(keys.safe_component(name)) or _folded(forms[1]) == _folded(name)


def _folded(name: str) -> str:
    return name.replace("-", "").casefold()


def _key(call: CallView, operation: _Operation) -> str:
    """Under which an operation's recording is stored."""
    return f"{keys.safe_component(call.call_id)}/{keys.safe_component(operation.operation_id)}.wav"


def _path(location: str) -> str:
    return re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/]*", "", location)


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
