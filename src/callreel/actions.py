"""What a host or a vendor can ask for, in callreel's own words: frozen data, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Layout", "StartRecording"]


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


@dataclass(frozen=True, slots=True)
class StartRecording:
    """Record a leg from now until told otherwise or until the call ends."""

    leg: str = "LEG-A"
    """The leg to record."""
    layout: Layout = Layout.STEREO
    """Which tracks, and how."""
    format: str = "wav"
    """A name in `callreel.formats.FORMATS`."""
    prefix: str | None = None
    """Object key prefix without slashes at its ends; None for the dialect's default."""
