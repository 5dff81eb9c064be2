"""What Amazon Chime tells a Lambda function: the parts of an invocation.

Sources: the developer guide's pages "Understanding telephony events", "RecordAudio" and "StartCallRecording".
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from callreel.dialects import Answer, Response
from callreel.dialects.chime_parameters import BAD_CALL_ID, BAD_CALL_ID_OR_TAG
from callreel.errors import ActionError, InvalidActionError
from callreel.events import LegStatus, Participant

__all__ = ["ANSWER", "CHECK", "failure", "participant_entry", "refusal"]

INVALID_PARAMETER, SYSTEM_EXCEPTION = "InvalidActionParameter", "SystemException"
UPLOAD_FAILED = "Error occurred while uploading recording to S3 bucket."
NO_ACCESS = "Error while accessing destination"
SYSTEM_ERROR_OF_RECORD_AUDIO = "System error while running an action."
SYSTEM_ERROR = "System error while executing an action."

ANSWER, CHECK = "answer", "check"
"""Steps before an action, behind a slash in their ids: they are not the customer's."""


def refusal(status: int, code: str, message: str) -> Answer:
    """An error of an API of AWS."""
    headers = {"x-amzn-ErrorType": f"{code}Exception"}
    return Answer(response=Response(status=status, body={"Code": code, "Message": message}, headers=headers))


def failure(kind: str, error: ActionError | None, step: str) -> dict[str, str]:
    """What ActionData says of a failure: ErrorType and ErrorMessage of later editions, Error of the first."""
    error_type, message = SYSTEM_EXCEPTION, SYSTEM_ERROR
    older = None
    if step == CHECK and (error is None or error.field != "system"):
        error_type, message = "NoAccessToDestination", NO_ACCESS
    elif error is not None and error.field == "system":
        message = SYSTEM_ERROR_OF_RECORD_AUDIO if kind == "RecordAudio" else SYSTEM_ERROR
    elif isinstance(error, InvalidActionError):
        error_type, message = INVALID_PARAMETER, str(error)
    elif error is not None and error.field == "status":
        error_type, message = "CallNotAnswered", "Call not answered"
    elif error is not None and error.field == "CallId":
        error_type = INVALID_PARAMETER
        message = BAD_CALL_ID if kind.endswith("CallRecording") else BAD_CALL_ID_OR_TAG
    elif kind == "RecordAudio" and step:
        message = SYSTEM_ERROR_OF_RECORD_AUDIO
    elif kind == "RecordAudio":
        error_type, message = INVALID_PARAMETER, UPLOAD_FAILED
        older = f"NoAccessTODestination: {NO_ACCESS}"
    return {
        "ErrorType": error_type,
        "ErrorMessage": message,
        "Error": older if older is not None else f"{error_type}: {message}",
    }


def participant_entry(one: Participant, *, is_over: bool) -> dict[str, Any]:
    """One of CallDetails.Participants."""
    entry = {
        "CallId": one.call_id,
        "ParticipantTag": one.leg,
        "To": one.to,
        "From": one.from_,
        "Direction": "Inbound" if one.inbound else "Outbound",
        "StartTimeInMilliseconds": str(_epoch_ms(one.started_at)),
    }
    if is_over or one.status is LegStatus.DISCONNECTED:
        entry["Status"] = "Disconnected"
    elif one.status is LegStatus.CONNECTED:
        entry["Status"] = "Connected"
    return entry


def _epoch_ms(moment: datetime) -> int:
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000
