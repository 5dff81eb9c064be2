"""How moments, lengths, sizes and levels are written on the operator's page."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

__all__ = ["age", "decibels", "duration", "moment", "size", "title"]

UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))


def moment(at: Any) -> str:
    """An RFC 3339 text or epoch seconds, as day and time of day in UTC."""
    try:
        when = (
            datetime.fromtimestamp(at, UTC)
            if isinstance(at, int | float)
            else datetime.fromisoformat(str(at))
        )
    except (OverflowError, OSError, ValueError):
        return str(at) or "—"
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """A position or a duration: h:mm:ss.d, without hours where there are none."""
    tenths = round(10 * max(0.0, seconds))
    hours, minutes, rest = tenths // 36_000, tenths // 600 % 60, tenths % 600
    text = f"{minutes:02}:{rest // 10:02}.{rest % 10}" if hours else f"{minutes}:{rest // 10:02}.{rest % 10}"
    return f"{hours}:{text}" if hours else text


def age(seconds: float) -> str:
    """Roughly how long: one number and its unit."""
    for unit_s, word in UNITS:
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {word}"
    return f"{max(0.0, seconds):.0f} s"


def size(count: float) -> str:
    """Bytes, in the unit in which they are a handful."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def decibels(level: float) -> str:
    """A level in dBm0, or that there is nothing to hear."""
    return "silent" if level < -90 or math.isnan(level) else f"{level:.0f} dBm0".replace("-", "−")


def title(name: str) -> str:
    """A name of ours as words: `media_timeout` is "Media timeout"."""
    return name.replace("_", " ").replace("-", " ").strip().capitalize()
