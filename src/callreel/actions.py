"""What a host or a vendor can ask for, in callreel's own words: frozen data, no behaviour.

A dialect reads a vendor's document into these; `Call` carries them out. Actions of one list run in order: those about
recording here, the others (`OtherAction`) by the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

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


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRules:
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
    """Where a take goes, apart from its key."""

    kind: str
    """"s3", "sdrive", "held" (kept by the service for a download) or "folder"."""
    bucket: str | None = None
    credentials: str | None = field(default=None, repr=False)
    """A secret of the request, never to be written anywhere; None for the host's own."""
    region: str | None = None
    overwrite: bool = False
    """Whether an object of the same key is replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Something that is played to a participant: a file, or the beep when `uri` is None."""

    uri: str | None = None
    resource_id: str | None = None
    """Under which it may be cached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What all actions have."""

    leg: str = "LEG-A"
    action_id: str = ""
    """Names it in the events that come of it; its dialect chose it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRecording(Action):
    """Record a leg from now on, or from when the prompt and the beep have been played."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRecording(Action):
    """End the recording of a leg."""

    kind: RecordingKind = RecordingKind.CALL
    once: bool = True
    """Whether it is an error when none is running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseRecording(Action):
    """Record a tone, then silence in place of the audio; time runs on."""

    kind: RecordingKind = RecordingKind.CALL
    strict: bool = False
    """Whether it is an error when it is paused already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRecording(Action):
    """Record a tone, then the audio again."""

    kind: RecordingKind = RecordingKind.CALL
    strict: bool = False
    """Whether it is an error when it is not paused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherAction(Action):
    """An action that the host carries out: saying, playing, connecting, hanging up."""

    name: str
    """In the vendor's word."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    interruptible: bool = False
    """Whether a newer request cuts it short."""
    awaited: bool = True
    """Whether the next action waits for its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidAction(Action):
    """An action that fails when its turn comes: its parameters are wrong, and what stands before it is still done."""

    error: ActionError
