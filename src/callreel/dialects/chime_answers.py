"""What a Lambda function answers to Amazon Chime: a list of actions and the call's attributes, or something unusable.

Sources: the developer guide's pages "Responding to invocations with action lists", "Transaction attributes" and, for
the messages, the log table of "Debugging unexpected hangups".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from callreel.dialects import OBJECT

__all__ = ["RECORDINGS", "SCHEMA_VERSION", "InvalidResponseError", "read_answer"]

SCHEMA_VERSION = "1.0"
MAX_ACTIONS = 10
MAX_ATTRIBUTES = 100
MAX_ATTRIBUTES_BYTES = 20 << 10

RECORDINGS = frozenset(
    {"RecordAudio", "StartCallRecording", "StopCallRecording", "PauseCallRecording", "ResumeCallRecording"}
)
OTHERS = frozenset(
    {
        "AlexaSkill",
        "CallAndBridge",
        "Hangup",
        "JoinChimeMeeting",
        "ModifyChimeMeetingAttendees",
        "Pause",
        "PlayAudio",
        "PlayAudioAndGetDigits",
        "ReceiveDigits",
        "SendDigits",
        "Speak",
        "SpeakAndGetDigits",
        "StartBotConversation",
        "VoiceFocus",
    }
)
"""The guide's actions that the host carries out."""
ACTIONS = RECORDINGS | OTHERS


class InvalidResponseError(Exception):
    """An answer that cannot be used; `kind` and `message` are the vendor's."""

    def __init__(self, kind: str, message: str) -> None:
        """Keep both."""
        super().__init__(message)
        self.kind = kind
        self.message = message


def read_answer(
    document: Any, *, attributes: Mapping[str, str], is_new: bool
) -> tuple[list[Mapping[str, Any]], Mapping[str, str]]:
    """The actions of an answer, each an object with a known Type, and the attributes as they are from now on.

    An answer is understood in the envelope of the StartCallRecording page too (`Statement`), and a single action
    without any, as the RecordAudio page prints it. That to a call which `is_new` must have actions.
    """
    if not isinstance(document, OBJECT):
        raise InvalidResponseError("InvalidResponse", "Response is blank or null")
    if "SchemaVersion" in document or not ("Statement" in document or "Type" in document):
        listed = document.get("Actions")
        if document.get("SchemaVersion") != SCHEMA_VERSION:
            raise InvalidResponseError(
                "InvalidSchemaVersion",
                "The schema version in the invocation request does not match the schema version in the response.",
            )
    else:
        listed = document.get("Statement", document)
        if isinstance(listed, OBJECT):
            listed = [listed]
    merged = _read_attributes(document.get("TransactionAttributes"), attributes)
    if listed is None:
        listed = []
    if not isinstance(listed, list) or not all(isinstance(one, OBJECT) for one in listed):
        raise InvalidResponseError("InvalidActionsList", "Error while reading actions list.")
    if len(listed) > MAX_ACTIONS:
        raise InvalidResponseError("InvalidActionsList", "Too many actions specified in the response.")
    if is_new and not listed:
        raise InvalidResponseError("InvalidActionsList", "Actions list is empty.")
    if not all(isinstance(one.get("Type"), str) and one["Type"] in ACTIONS for one in listed):
        raise InvalidResponseError("UnsupportedAction", "Unsupported action name specified")
    return listed, merged


def _read_attributes(attributes: Any, earlier: Mapping[str, str]) -> Mapping[str, str]:
    """The attributes as they are from now on: none leaves them, an empty object erases them, others are added."""
    if attributes is None:
        return earlier
    if not isinstance(attributes, OBJECT) or not all(
        isinstance(one, str) for pair in attributes.items() for one in pair
    ):
        raise InvalidResponseError(
            "TransactionAttributesInvalid", "Transaction attributes are not texts by name."
        )
    merged = {**earlier, **attributes} if attributes else {}
    size_bytes = sum(len(one.encode("utf-8", "replace")) for pair in merged.items() for one in pair)
    if len(merged) > MAX_ATTRIBUTES or size_bytes > MAX_ATTRIBUTES_BYTES:
        raise InvalidResponseError(
            "TransactionAttributesInvalidMapSize",
            "Transaction attributes has too many mappings or is too large. "
            f"Maximum number of mappings is {MAX_ATTRIBUTES}",
        )
    return merged
