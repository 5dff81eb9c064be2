"""Amazon Chime SDK SIP media applications: the StartCallRecording action.

Source: the developer guide's pages "StartCallRecording" and "Using call recording" (as of 2022), which also fix the key
layout, the channel layout (incoming left, outgoing right, mono for a single track) and the object's metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from callreel.actions import Layout, StartRecording
from callreel.errors import InvalidActionError, UnsupportedActionError

__all__ = ["actions", "metadata", "start_call_recording"]

MAX_PREFIX_BYTES = 700
"""S3 keys end at 1,024 bytes; date and ids need the rest."""

LAYOUT_OF_TRACK = {"BOTH": Layout.STEREO, "INCOMING": Layout.INCOMING, "OUTGOING": Layout.OUTGOING}

OTHER_ACTIONS = frozenset(
    {
        "AlexaSkill",
        "CallAndBridge",
        "Hangup",
        "JoinChimeMeeting",
        "ModifyChimeMeetingAttendees",
        "Pause",
        "PauseCallRecording",
        "PlayAudio",
        "PlayAudioAndGetDigits",
        "ReceiveDigits",
        "RecordAudio",
        "ResumeCallRecording",
        "SendDigits",
        "Speak",
        "SpeakAndGetDigits",
        "StartBotConversation",
        "StopCallRecording",
        "VoiceFocus",
    }
)
"""Actions the guide documents that this version does not carry out."""


def actions(document: Any) -> list[StartRecording]:
    """Read a Lambda response: `{"Actions": [...]}`, the page's `{"Statement": [...]}`, a list, or a single action.

    Raises:
        InvalidActionError: not such a document, or an action with a wrong parameter.
        UnsupportedActionError: an action other than StartCallRecording.
    """
    listed = document
    if isinstance(document, Mapping) and "Type" not in document:
        listed = document.get("Actions", document.get("Statement"))
    if isinstance(listed, Mapping):
        listed = [listed]
    if not isinstance(listed, list) or not all(isinstance(one, Mapping) for one in listed):
        raise InvalidActionError('an action is an object with "Type" and "Parameters"', value=document)
    return [_action(one) for one in listed]


def _action(action: Mapping[str, Any]) -> StartRecording:
    kind = action.get("Type")
    if kind == "StartCallRecording":
        return start_call_recording(action.get("Parameters"))
    if isinstance(kind, str) and kind in OTHER_ACTIONS:
        raise UnsupportedActionError(
            f"{kind} is not offered yet; StartCallRecording is", field="Type", value=kind
        )
    raise InvalidActionError(f"there is no action {kind!r}", field="Type", value=kind)


def start_call_recording(parameters: Any) -> StartRecording:
    """Read the parameters of StartCallRecording; `CallId` is not checked, the caller knows its calls."""
    if not isinstance(parameters, Mapping):
        raise InvalidActionError("StartCallRecording needs Parameters", field="Parameters", value=parameters)
    track = parameters.get("Track")
    if not isinstance(track, str) or track not in LAYOUT_OF_TRACK:
        raise InvalidActionError(
            f"Track is one of {', '.join(LAYOUT_OF_TRACK)}, not {track!r}", field="Track", value=track
        )
    destination = parameters.get("Destination")
    if not isinstance(destination, Mapping) or destination.get("Type") != "S3":
        raise InvalidActionError("Destination.Type is S3", field="Destination.Type", value=destination)
    location = destination.get("Location")
    if not isinstance(location, str):
        raise InvalidActionError(
            "Destination.Location is a bucket and an optional prefix",
            field="Destination.Location",
            value=location,
        )
    return StartRecording(layout=LAYOUT_OF_TRACK[track], prefix=_prefix_of(location))


def _prefix_of(location: str) -> str | None:
    """The prefix in `bucket/prefix`; None asks for the default prefix. A slash at the end is no part of it."""
    bucket, _, path = location.partition("/")
    prefix = path.removesuffix("/")
    parts = prefix.split("/") if path else []
    size_bytes = len(prefix.encode("utf-8", "surrogatepass"))
    if not bucket or "" in parts or ".." in parts or "." in parts or size_bytes > MAX_PREFIX_BYTES:
        raise InvalidActionError(
            f"Destination.Location is a bucket and an optional prefix, not {location!r}",
            field="Destination.Location",
            value=location,
        )
    if any(
        character < " " or "\ud800" <= character <= "\udfff" or character in '\\:*?"<>|\x7f'
        for character in prefix
    ):
        raise InvalidActionError(
            "the prefix in Destination.Location has a character that object keys and file names do not share",
            field="Destination.Location",
            value=location,
        )
    return prefix or None


def metadata(*, transaction_id: str, call_id: str, duration_s: float, media_type: str) -> dict[str, str]:
    """The object metadata the StartCallRecording page lists, duration in seconds."""
    return {
        "transaction-id": transaction_id,
        "call-id": call_id,
        "recording-duration": f"{duration_s:.3f}".rstrip("0").rstrip("."),
        "recording-audio-file-format": media_type,
    }
