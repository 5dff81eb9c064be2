"""What a host or a vendor can ask for, in callreel's own words: named tuples, no behaviour.

A dialect reads a vendor's document into these; `Call` carries them out. Actions of one list run in order: those about
recording here, the others (`OtherAction`) by the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

from callreel.errors import ActionError

__all__ = [
    "Action",
    "Destination",
    "EndReason",
    "InvalidAction",
    "Layout",
    "OtherAction",
    "PauseRecording",
    "Prompt",
    "RecordingKind",
    "ResumeRecording",
    "StartRecording",
    "StopRecording",
    "StopRules",
]


class Layout(StrEnum):
    """Which tracks of a leg a recording holds, and how."""

    STEREO = "stereo"
    """Incoming left, outgoing right (Amazon Chime SDK, "Using call recording")."""
    INCOMING = "incoming"
    """What the participant says, mono."""
    OUTGOING = "outgoing"
    """What the participant hears, mono."""
    MIX = "mix"
    """Both in one channel, saturating sum."""


class RecordingKind(StrEnum):
    """What a recording is of; a leg has at most one of each kind at a time."""

    CALL = "call"
    """The leg's call, in the background, until it ends or is told to."""
    MESSAGE = "message"
    """What the participant says now: a list of actions waits for its end."""
    CONFERENCE = "conference"
    """The mix of a conference, whoever leaves."""


class EndReason(StrEnum):
    """Why a recording ended, in the order that decides when two come at the same sample."""

    TERMINATOR = "terminator"
    """One of its terminators was pressed."""
    MAX_DURATION = "max_duration"
    INITIAL_SILENCE = "initial_silence"
    """Nothing was said within the time allowed for it."""
    TRAILING_SILENCE = "trailing_silence"
    """The participant has fallen silent."""
    MEDIA_TIMEOUT = "media_timeout"
    """No audio has arrived for too long."""
    STOP = "stop"
    """It was asked for."""
    HANGUP = "hangup"
    """The leg or the call ended."""
    CANCELLED = "cancelled"
    """Another request took its place, or called it off."""
    INTERRUPTED = "interrupted"
    """The host's program was asked for something else meanwhile."""
    FAILED = "failed"
    """It could not begin or could not go on."""


NOTHING: Mapping[str, Any] = MappingProxyType({})


class StopRules(NamedTuple):
    """What ends a recording by itself. Times in ms on its timeline; None and empty: never for this."""

    terminators: frozenset[str] = frozenset()
    """Keys of the participant that end it: of 0123456789*#."""
    keep_terminator: bool = True
    """Whether the tone of that key stays in the recording."""
    max_duration_ms: int | None = None
    initial_silence_ms: int | None = None
    """Silence from the beginning on."""
    trailing_silence_ms: int | None = None
    """Silence after something was said."""
    media_timeout_ms: int | None = None
    """Time without a packet."""
    silence_dbm0: float = -40.0
    """What is fainter than this, on average over 20 ms, is silence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a take goes, apart from its key. No tuple: what unpacks or dumps those would give away the secret."""

    kind: str
    """"s3", "sdrive", "held" (kept by the service for a download) or "folder"."""
    bucket: str | None = None
    credentials: str | None = field(default=None, repr=False)
    """A secret of the request, never to be written anywhere; None for the host's own."""
    region: str | None = None
    overwrite: bool = False
    """Whether an object of the same key is replaced."""


class Prompt(NamedTuple):
    """Something that is played to a participant: a file, or the beep when `uri` is None."""

    uri: str | None = None
    resource_id: str | None = None
    """Under which it may be cached."""


class StartRecording(NamedTuple):
    """Record a leg from now on, or from when the prompt and the beep have been played."""

    leg: str = "LEG-A"
    action_id: str = ""
    """Names it in the events that come of it; its dialect chose it."""
    kind: RecordingKind = RecordingKind.CALL
    layout: Layout = Layout.STEREO
    """Which tracks, and how."""
    format: str = "wav"
    """A name in `callreel.formats.FORMATS`."""
    sample_rate: int | None = None
    """Of the file, Hz; None for the leg's."""
    key: str | None = None
    """The object key; None for that of Amazon Chime's call recordings, under `prefix`."""
    prefix: str | None = None
    """Object key prefix without slashes at its ends; None for the dialect's default."""
    destination: Destination | None = None
    """None for wherever the host puts what has none."""
    prompt: Prompt | None = None
    """Played before; nothing of it is recorded."""
    beep: bool = False
    """Whether a beep tells the participant when to speak."""
    rules: StopRules = StopRules()
    once: bool = True
    """Whether a recording of this kind may be started on a leg only once."""
    undelivered: frozenset[EndReason] = frozenset(
        {EndReason.CANCELLED, EndReason.INTERRUPTED, EndReason.FAILED}
    )
    """Ends after which there is nothing to deliver."""


class StopRecording(NamedTuple):
    """End the recording of a leg."""

    leg: str = "LEG-A"
    action_id: str = ""
    """Names it in the events that come of it; its dialect chose it."""
    kind: RecordingKind = RecordingKind.CALL
    once: bool = True
    """Whether it is an error when none is running."""


class PauseRecording(NamedTuple):
    """Record a tone, then silence in place of the audio; time runs on."""

    leg: str = "LEG-A"
    action_id: str = ""
    """Names it in the events that come of it; its dialect chose it."""
    kind: RecordingKind = RecordingKind.CALL
    strict: bool = False
    """Whether it is an error when it is paused already."""


class ResumeRecording(NamedTuple):
    """Record a tone, then the audio again."""

    leg: str = "LEG-A"
    action_id: str = ""
    """Names it in the events that come of it; its dialect chose it."""
    kind: RecordingKind = RecordingKind.CALL
    strict: bool = False
    """Whether it is an error when it is not paused."""


class OtherAction(NamedTuple):
    """An action that the host carries out: saying, playing, connecting, hanging up."""

    name: str
    """In the vendor's word."""
    leg: str = "LEG-A"
    action_id: str = ""
    """Names it in the events that come of it; its dialect chose it."""
    parameters: Mapping[str, Any] = NOTHING
    interruptible: bool = False
    """Whether a newer request cuts it short."""
    awaited: bool = True
    """Whether the next action waits for its end."""


class InvalidAction(NamedTuple):
    """An action that fails when its turn comes: its parameters are wrong, and what stands before it is still done."""

    error: ActionError
    leg: str = "LEG-A"
    action_id: str = ""
    """Names it in the events that come of it; its dialect chose it."""


Action = StartRecording | StopRecording | PauseRecording | ResumeRecording | OtherAction | InvalidAction
"""What all actions have: `leg` and `action_id`."""
