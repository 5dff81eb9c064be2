"""What callreel tells its host, in its own words: named tuples, no behaviour.

A recording that began ends with exactly one `RecordingFinished`, whatever happened to it. `VendorMessage` holds what is
to be told to the customer, in the vendor's words.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from callreel.actions import NOTHING, Destination, Prompt
from callreel.errors import ActionError

__all__ = [
    "ActionEnded",
    "CallEnded",
    "CallView",
    "DigitReceived",
    "Event",
    "LegChanged",
    "LegStatus",
    "Outcome",
    "Participant",
    "Perform",
    "Play",
    "RecordingFinished",
    "RecordingStarted",
    "RecordingStored",
    "StopPlaying",
    "VendorMessage",
]


class LegStatus(StrEnum):
    """How far a participant's connection is."""

    OFFERED = "offered"
    """They are calling, and nobody has answered yet."""
    DIALED = "dialed"
    """They are being called."""
    RINGING = "ringing"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"


class Participant(NamedTuple):
    """Who is on a leg, as dialects tell of them."""

    leg: str
    call_id: str
    """The leg's own id; of a vendor that has none, the call's."""
    to: str
    from_: str
    inbound: bool
    status: LegStatus
    started_at: datetime


class CallView(NamedTuple):
    """A call as a dialect sees it, at one moment."""

    call_id: str
    transaction_id: str
    started_at: datetime
    now: datetime
    participants: Mapping[str, Participant]
    """By leg, in the order in which they joined."""
    refusal: ActionError | None = None
    """Why a recording that begins now fails, because the host has no room for it; None when it may begin."""


class LegChanged(NamedTuple):
    """A participant's connection is there, has been answered, or is over."""

    call_id: str
    leg: str
    status: LegStatus
    sip_response_code: int = 0
    """Why it is over: 0 for a hang-up, 480 for no answer, 486 for busy."""


class CallEnded(NamedTuple):
    """The call is over; recordings have ended, some may still have to be stored."""

    call_id: str


class RecordingStarted(NamedTuple):
    """A recording has begun; its audio will be stored under `key`."""

    call_id: str
    recording_id: str
    """Which recording of the call: names it in `Call.writes` and in the events that follow."""
    leg: str
    at: datetime
    """When sample 0 of the recording is, UTC."""
    key: str
    """The object key, without bucket."""
    action_id: str = ""
    destination: Destination | None = None
    format: str = "wav"
    """A name in `callreel.formats.FORMATS`: what was asked for."""
    sample_rate: int = 8000
    """Of that file, Hz."""
    layout: str = "stereo"
    """A value of `callreel.actions.Layout`."""
    tags: Mapping[str, str] = NOTHING
    """Texts that it holds, as `callreel.formats` takes them."""
    metadata: Mapping[str, str] | None = None
    """What will be stored beside the object; None when that tells how long it is, so that only its end knows."""


class DigitReceived(NamedTuple):
    """A participant pressed a key; it came as a telephone event, as a tone, or as both (and is one digit)."""

    call_id: str
    leg: str
    track: str
    """"incoming" or "outgoing"."""
    symbol: str
    at_s: float
    """When it began, seconds since the call began."""
    duration_s: float
    source: str
    """"rfc4733", "inband", or "host" when the host found it."""


class RecordingFinished(NamedTuple):
    """A recording has ended and its last write is out; the host stores it and says so with `Call.stored`."""

    call_id: str
    recording_id: str
    leg: str
    key: str
    end_reason: str
    """A value of `callreel.actions.EndReason`."""
    manifest: Mapping[str, Any]
    """All there is to say of it but what only a stored file can tell: bytes, sha256, destination."""
    action_id: str = ""
    terminator: str | None = None
    """The key that ended it."""
    deliver: bool = True
    """Whether it is to be delivered: what was cancelled or interrupted is not."""
    metadata: Mapping[str, str] = NOTHING
    """What the vendor stores beside the object."""
    destination: Destination | None = None
    size_bytes: int = 0
    """Of the file that the writes have made: what stands behind that was a preview, and is cut off."""


class RecordingStored(NamedTuple):
    """The host has stored a recording where it belongs, or could not."""

    call_id: str
    recording_id: str
    action_id: str
    error: str | None = None
    """What went wrong, or None."""


class Play(NamedTuple):
    """The host is to play something to a participant, and to say `Call.played` when it is over."""

    call_id: str
    leg: str
    action_id: str
    prompt: Prompt
    """With `uri` None the beep: `kernels.tone.beep`."""


class StopPlaying(NamedTuple):
    """The host is to end what it plays or performs for an action; no answer is expected."""

    call_id: str
    leg: str
    action_id: str


class Perform(NamedTuple):
    """The host is to carry out an action that is not about recording, and to say `Call.performed`."""

    call_id: str
    leg: str
    action_id: str
    name: str
    parameters: Mapping[str, Any]


class Outcome(StrEnum):
    """What became of an action."""

    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """Cut short by a newer request."""
    CANCELLED = "cancelled"
    """Called off before or while it ran."""


class ActionEnded(NamedTuple):
    """What became of an action of a vendor's document."""

    call_id: str
    action_id: str
    outcome: Outcome
    error: ActionError | None = None
    """Why it failed."""
    reason: str | None = None
    """A value of `callreel.actions.EndReason`: how its recording ended, or what called it off."""
    result: Mapping[str, Any] = NOTHING
    """What the host answered, for an action of its own."""


class VendorMessage(NamedTuple):
    """What is to be told to the customer, in the vendor's words."""

    call_id: str
    dialect: str
    kind: str
    """"invocation" wants an answer, which goes to `Call.request`; "notification" does not."""
    body: Mapping[str, Any]
    """JSON."""


Event = (
    LegChanged
    | CallEnded
    | RecordingStarted
    | DigitReceived
    | RecordingFinished
    | RecordingStored
    | Play
    | StopPlaying
    | Perform
    | ActionEnded
    | VendorMessage
)
