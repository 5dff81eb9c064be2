"""The keys that Amazon Chime's ReceiveDigits waits for (developer guide, "ReceiveDigits").

A pattern is found as soon as the keys pressed match it. Patterns are read and matched here and not by `re`, which a
customer's expression could keep busy for years: time grows with the length of pattern and keys, whatever they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from callreel.dialects.chime_parameters import bad, whole

__all__ = ["DigitPattern", "ReceiveDigits"]

KEYS = "0123456789ABCD*#"
MAX_KEYS = 32
MAX_ITEMS = 32
DEFAULT_BETWEEN_MS = 1_000
DEFAULT_FLUSH_MS = 10_000

ITEM = re.compile(r"(\[\^?(?:\\d|[0-9A-D*#-])+\]|\\[d*#]|[0-9A-D#.])(\{[0-9]{1,2}(?:,[0-9]{0,2})?\}|[*+?])?")


class DigitPattern:
    """A regular expression of keys: keys, `.`, `\\d` and classes, each with `?`, `*`, `+` or `{m,n}`, in a row."""

    def __init__(self, text: str) -> None:
        """Read it; ValueError for what has groups, alternatives or a meaning of its own."""
        rest = text.removeprefix("^").removesuffix("$")
        self._items: list[tuple[frozenset[str], int, int]] = []
        while rest:
            found = ITEM.match(rest)
            if found is None or len(self._items) == MAX_ITEMS:
                raise ValueError("not a pattern of keys in a row")
            least, most = _times(found[2] or "{1}")
            if least > most:
                raise ValueError("fewer at most than at least")
            self._items.append((_keys(found[1]), least, most))
            rest = rest[found.end() :]

    def matches(self, pressed: str) -> bool:
        """Whether all the keys in `pressed` are what it says."""
        reached = {0}
        for wanted, least, most in self._items:
            following: set[int] = set()
            for begin in reached:
                for end in range(begin, min(begin + most, len(pressed)) + 1):
                    if end - begin >= least:
                        following.add(end)
                    if pressed[end : end + 1] not in wanted:
                        break
            reached = following
        return len(pressed) in reached


class ReceiveDigits:
    """What one action waits for, and the keys that have come."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        """Read its parameters; InvalidActionError for wrong ones."""
        text = given.get("InputDigitsRegex")
        try:
            self._pattern = DigitPattern(text if isinstance(text, str) else "(")
        except ValueError:
            raise bad("InputDigitsRegex", text) from None
        self._between_s = _seconds(given, "InBetweenDigitsDurationInMilliseconds", DEFAULT_BETWEEN_MS)
        self._flush_s = _seconds(given, "FlushDigitsDurationInMilliseconds", DEFAULT_FLUSH_MS)
        self._pressed = ""
        self._begun_at_s = self._ended_at_s = 0.0

    def press(self, key: str, at_s: float, duration_s: float) -> str | None:
        """Take a key; the keys that match, when they do."""
        if (
            at_s - self._ended_at_s > self._between_s
            or at_s - self._begun_at_s > self._flush_s
            or not self._pressed
        ):
            self._pressed, self._begun_at_s = "", at_s
        self._pressed = (self._pressed + key)[-MAX_KEYS:]
        self._ended_at_s = at_s + duration_s
        if not self._pattern.matches(self._pressed):
            return None
        pressed, self._pressed = self._pressed, ""
        return pressed


def _keys(text: str) -> frozenset[str]:
    """The keys that one item stands for."""
    if text == ".":
        return frozenset(KEYS)
    if not text.startswith("["):
        return _keys("[0-9]") if text == "\\d" else frozenset(text[-1])
    inside = text[1:-1].replace("\\d", "0-9")
    wanted = inside.removeprefix("^")
    found: set[str] = set()
    while wanted:
        if len(wanted) > 2 and wanted[1] == "-":
            found.update(key for key in KEYS if wanted[0] <= key <= wanted[2])
            wanted = wanted[3:]
        else:
            found.add(wanted[0])
            wanted = wanted[1:]
    return frozenset(KEYS) - found if inside.startswith("^") else frozenset(found)


def _times(text: str) -> tuple[int, int]:
    """How often an item may come, least and most."""
    if text in ("?", "*", "+"):
        return {"?": (0, 1), "*": (0, MAX_KEYS), "+": (1, MAX_KEYS)}[text]
    least, comma, most = text[1:-1].partition(",")
    return int(least), int(most) if most else MAX_KEYS if comma else int(least)


def _seconds(given: Mapping[str, Any], name: str, default_ms: int) -> float:
    value_ms = whole(name, given.get(name))
    if value_ms is not None and not 0 <= value_ms <= 86_400_000:
        raise bad(name, value_ms)
    return (default_ms if value_ms is None else value_ms) / 1000
