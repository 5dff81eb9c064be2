"""What the vendors' APIs take and give, for the OpenAPI document; sessions (`callreel.dialects`) read and make it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["CHIME", "GRAPH", "GRAPH_VERBS", "SINCH", "gives", "takes"]

JSON: Final = "application/json"
TEXT: Final = {"type": "string"}
FLAG: Final = {"type": "boolean"}
MOMENT: Final = {"type": "string", "format": "date-time"}
NULL_OR_TEXT: Final = {"type": ["string", "null"]}
NUMBER: Final = {"type": "string", "pattern": r"^\+?[1-9][0-9]{1,14}$"}


def _object(required: str = "", **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": properties}


def takes(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON body of a request, as FastAPI's `openapi_extra`."""
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}


def gives(schema: Mapping[str, Any], words: str, headers: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A JSON answer, as one of FastAPI's `responses`."""
    answer = {"description": words, "content": {JSON: {"schema": schema}}}
    return answer if headers is None else {**answer, "headers": headers}


PAIRS: Final = {
    "type": "object",
    "additionalProperties": TEXT,
    "maxProperties": 20,
}
_MADE: Final = _object(
    "SipMediaApplicationCall", SipMediaApplicationCall=_object("TransactionId", TransactionId=TEXT)
)
CHIME: Final[Mapping[str, Any]] = {
    "update": _object("Arguments", Arguments=PAIRS),
    "create": _object(
        "FromPhoneNumber ToPhoneNumber",
        FromPhoneNumber=NUMBER,
        ToPhoneNumber=NUMBER,
        SipHeaders=PAIRS,
        ArgumentsMap=PAIRS,
    ),
    "made": _MADE,
}
"""Bodies of the API reference of "Amazon Chime SDK Voice"."""

_MONEY: Final = _object("currencyId amount", currencyId=TEXT, amount={"type": "number"})
_NAMED: Final = _object("name", name=TEXT)
SINCH: Final[Mapping[str, Any]] = {
    "svaml": _object(instructions={"type": ["array", "null"], "items": _NAMED}, action=_NAMED),
    "command": _object(
        "command",
        command={"enum": ["mute", "unmute", "onhold", "resume"]},
        moh={"type": "string", "description": "music on hold: ring, music1, music2 or music3"},
    ),
    "call": _object(
        "callId status duration timestamp userRate debit",
        domain=TEXT,
        callId=TEXT,
        to=_object("type endpoint", type=TEXT, endpoint=TEXT),
        status={"enum": ["ONGOING", "FINAL"]},
        result=TEXT,
        reason=TEXT,
        duration={"type": "integer", "minimum": 0},
        timestamp=MOMENT,
        custom={},
        userRate=_MONEY,
        debit=_MONEY,
    ),
    "conference": _object(
        "participants",
        participants={
            "type": "array",
            "minItems": 1,
            "items": _object(
                "cli id duration muted onhold",
                cli=TEXT,
                id=TEXT,
                duration={"type": "integer", "minimum": 0},
                muted=FLAG,
                onhold=FLAG,
            ),
        },
    ),
    "recordings": {
        "type": "array",
        "maxItems": 1000,
        "items": _object(
            "key url createdOn expiresOn headers",
            key=TEXT,
            url=TEXT,
            createdOn=MOMENT,
            expiresOn={"type": ["string", "null"], "format": "date-time"},
            headers={"type": "object", "additionalProperties": TEXT},
        ),
    },
}
"""Bodies of Sinch's voice API and Drive; SVAML is told of on the vendor's pages."""

GRAPH_VERBS: Final = ("record", "recordResponse", "playPrompt", "cancelMediaProcessing", "subscribeToTone")
_PROMPTS: Final = {
    "type": ["array", "null"],
    "items": _object("mediaInfo", mediaInfo=_object("uri", uri=TEXT, resourceId=NULL_OR_TEXT)),
}
_SECONDS: Final = {"type": ["integer", "null"], "minimum": 1, "maximum": 300}
GRAPH: Final[Mapping[str, Any]] = {
    "verb": {
        **_object(
            clientContext={"type": ["string", "null"], "maxLength": 256},
            prompts=_PROMPTS,
            bargeInAllowed={"type": ["boolean", "null"]},
            playBeep={"type": ["boolean", "null"]},
            maxRecordDurationInSeconds=_SECONDS,
            initialSilenceTimeoutInSeconds=_SECONDS,
            maxSilenceTimeoutInSeconds=_SECONDS,
            stopTones={
                "type": ["array", "null"],
                "items": {"enum": [*"0123456789*#"]},
            },
        ),
        "description": "playPrompt has clientContext and prompts, cancelMediaProcessing and subscribeToTone "
        "clientContext alone; record and recordResponse have all",
    },
    "operation": _object(
        "@odata.type id status createdDateTime lastActionDateTime resultInfo clientContext",
        **{"@odata.type": {"type": "string", "pattern": r"^#microsoft\.graph\.[A-Za-z]+Operation$"}},
        id=TEXT,
        status={"enum": ["notStarted", "running", "completed", "failed"]},
        createdDateTime=MOMENT,
        lastActionDateTime=MOMENT,
        resultInfo={
            "type": ["object", "null"],
            "properties": {"code": {"type": "integer"}, "subcode": {"type": "integer"}, "message": TEXT},
        },
        clientContext=NULL_OR_TEXT,
        completionReason=NULL_OR_TEXT,
        recordingLocation=NULL_OR_TEXT,
        recordingAccessToken=NULL_OR_TEXT,
    ),
}
"""Bodies of Microsoft Graph's cloud communications."""
