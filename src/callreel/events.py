"""What callreel tells its host, in its own words: frozen data, no behaviour.

A recording that began ends with exactly one `RecordingFinished`, whatever happened to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

__all__ = ["DigitReceived", "Event", "RecordingFinished", "RecordingStarted"]


@dataclass(frozen=True, slots=True)
class RecordingStarted:
    """A recording has begun; its audio will be stored under `key`."""

    call_id: str
    recording_id: str
    """Which recording of the call: names it in `Call.writes` and in the events that follow."""
    leg: str
    at: datetime
    """When sample 0 of the recording is, UTC."""
    key: str
    """The object key, without bucket."""


@dataclass(frozen=True, slots=True)
class DigitReceived:
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
    """"rfc4733" or "inband"."""


@dataclass(frozen=True, slots=True)
class RecordingFinished:
    """A recording has ended and its last write is out."""

    call_id: str
    recording_id: str
    leg: str
    key: str
    end_reason: str
    """Why it ended: "hangup" (the call ended)."""
    manifest: Mapping[str, Any]
    """All there is to say of it but what only a stored file can tell: bytes, sha256, destination."""


Event = RecordingStarted | DigitReceived | RecordingFinished
