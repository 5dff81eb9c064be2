"""A call in one of Sinch's conferences: since when, whether it is muted or on hold, and what is asked of it.

Source: the voice API's reference, "Conferences": get, manage participant, kick (2021 to 2026). The pages differ on what
`onhold` is called; this is the spelling of the reference and of the vendor's libraries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from callreel.dialects.sinch_options import SvamlError

__all__ = ["COMMANDS", "Stay", "read_command"]

ILLEGAL, MISSING, INVALID = 40001, 40002, 40003

COMMANDS: Mapping[str, tuple[str, bool]] = {
    "mute": ("muted", True),
    "unmute": ("muted", False),
    "onhold": ("onhold", True),
    "resume": ("onhold", False),
}
"""What each makes of a participant."""
MUSIC = ("ring", "music1", "music2", "music3")


@dataclass(slots=True)
class Stay:
    """A call in a conference."""

    conference_id: str
    since: datetime
    muted: bool = False
    onhold: bool = False


def read_command(given: Any) -> tuple[str, Mapping[str, Any]]:
    """A command and what it is handed on with; SvamlError says what is wrong with it."""
    if not isinstance(given, Mapping):
        raise SvamlError(INVALID, "the body is an object")
    command, moh = given.get("command"), given.get("moh")
    if command is None:
        raise SvamlError(MISSING, "'command' is required", field="command")
    if not isinstance(command, str) or command not in COMMANDS:
        raise SvamlError(ILLEGAL, f"'command' must be one of {', '.join(COMMANDS)}", field="command")
    if moh is None:
        return command, {}
    if command != "onhold" or not isinstance(moh, str) or moh not in MUSIC:
        raise SvamlError(ILLEGAL, f"'moh' goes with onhold, and is one of {', '.join(MUSIC)}", field="moh")
    return command, {"moh": moh}
