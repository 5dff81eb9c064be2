"""What can be set, as keys of tables: taken from the dataclasses of a recorder's settings, with what each may be."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from callreel.delivery.s3_settings import MAX_PART_BYTES, MIN_PART_BYTES, S3Settings
from callreel.recorder.settings import Settings

__all__ = [
    "CLEAR",
    "KEYS",
    "NONE",
    "PREFIX",
    "REFERENCES",
    "TABLES",
    "VARIABLES",
    "Key",
    "Range",
    "as_toml",
    "spelt",
    "table_of",
    "without_none",
]

PREFIX: Final = "CALLREEL_"
"""Of our variables."""

NONE: Final = "none"
"""What is written for None, in the file too, where TOML has no word for it."""

REFERENCES: Final = ("_env", "_file")
"""Behind the name of a secret: where it is."""


class Range(NamedTuple):
    """Which numbers are allowed."""

    low: float = 1
    high: float = math.inf
    is_open: bool = False
    """Whether `low` itself is not allowed."""

    def allows(self, number: float) -> bool:
        """Whether a number is allowed."""
        return math.isfinite(number) and (
            self.low < number <= self.high if self.is_open else self.low <= number <= self.high
        )

    def __str__(self) -> str:
        """In words."""
        if self.is_open:
            return f"above {self.low:g}"
        return (
            f"of at least {self.low:g}"
            if self.high == math.inf
            else f"from {self.low:.0f} to {self.high:.0f}"
        )


COUNT, POSITIVE = Range(), Range(0, is_open=True)
"""Of whole numbers and of others, where the table has nothing else."""
RANGES: Final[Mapping[str, Range]] = {
    "space.refuse_below_bytes": Range(0),
    "space.refuse_below_percent": Range(0, 100),
    "space.accept_above_bytes": Range(0),
    "space.accept_above_percent": Range(0, 100),
    "space.refuse_below_files": Range(0),
    "retention.delivered_s": Range(0),
    "s3.part_bytes": Range(MIN_PART_BYTES, MAX_PART_BYTES),
    "ports": Range(1, 65535),
}
"""By table and name, or by name wherever it stands."""

CLEAR: Final = frozenset({"url", "proxy"})
"""Secrets that may be written in clear, if there is no password in them; path and query are not shown."""


READERS: Final[Mapping[Any, Callable[[str], Any]]] = {
    bool: lambda text: {"true": True, "false": False}.get(text.lower()),
    int: int,
    float: float,
    datetime: datetime.fromisoformat,
}
"""From the text of a variable or an option."""


class Key(NamedTuple):
    """Something that can be set."""

    table: str
    name: str
    type: Any
    """Without its None."""
    is_optional: bool
    """Whether it may be None."""
    default: Any
    """MISSING where there is none."""
    is_secret: bool

    @property
    def full_name(self) -> str:
        """Table and name."""
        return f"{self.table}.{self.name}"

    @property
    def spellings(self) -> list[str]:
        """The names under which it may be written."""
        references = [self.name + one for one in REFERENCES]
        if not self.is_secret:
            return [self.name]
        return [self.name, *references] if self.name in CLEAR else references

    def variable(self, spelling: str = "") -> str:
        """The name of the variable that sets it."""
        return _variable(self.table, spelling or self.name)

    @property
    def choices(self) -> Sequence[str]:
        """The words that are allowed, where only some are."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def allowed(self) -> str:
        """What it may be, in words."""
        words = self._allowed_type()
        return f'{words}, or "{NONE}"' if self.is_optional else words

    def value(self, given: Any, *, is_text: bool) -> Any:
        """What was given, as a value of its type: read from text, or as TOML has it.

        Raises:
            ValueError, OverflowError: it is none.
        """
        bare, origin = self.type, get_origin(self.type)
        if origin is tuple:
            items = [one.strip() for one in given.split(",")] if is_text else given
            one_of_them = self._replace(type=get_args(bare)[0])
            return tuple(one_of_them.value(one, is_text=is_text) for one in _checked(items, list))
        if origin is Literal:
            if given not in self.choices:
                raise ValueError(given)
            return given
        if origin is not None:
            pairs = dict(one.split("=", 1) for one in given.split(",")) if is_text else given
            return {name: _checked(one, str) for name, one in _checked(pairs, dict).items()}
        if is_text:
            given = READERS.get(bare, str)(given)
        if bare is float and type(given) is int:
            given = float(given)
        if bare is Path:
            given = Path(_checked(given, str))
        _checked(given, bare)
        if (
            (isinstance(given, str) and not given.strip())
            or (isinstance(given, int | float) and bare is not bool and not self._range().allows(given))
            or (isinstance(given, datetime) and given.tzinfo is None)
        ):
            raise ValueError(given)
        return given

    def _range(self) -> Range:
        default = COUNT if self.type is int else POSITIVE
        return RANGES.get(self.full_name, RANGES.get(self.name, default))

    def _allowed_type(self) -> str:
        bare, origin = self.type, get_origin(self.type)
        if origin is Literal:
            return ", ".join(f'"{one}"' for one in self.choices)
        if origin is tuple:
            return f"a list, each {self._replace(type=get_args(bare)[0])._allowed_type()}"
        if origin is not None:
            return "names with texts: a table, or in a variable name=text,name=text"
        words = {
            bool: "true or false",
            int: f"a whole number {self._range()}",
            float: f"a number {self._range()}",
            datetime: "a date and time with its time zone, such as 2027-01-31T12:00:00Z",
        }
        return words.get(bare, "text that is not empty")


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(value)
    return value


def _variable(table: str, name: str) -> str:
    return f"{PREFIX}{table.replace('.', '_')}_{name}".upper()


# ---- all of them -------------------------------------------------------------------------------------------------


def _keys_of(cls: Any, table: str) -> Iterator[Key]:
    hints = get_type_hints(cls)
    for one in fields(cls):
        bare, is_optional = without_none(hints[one.name])
        if is_dataclass(bare):
            yield from _keys_of(bare, f"{table}.{one.name}".lstrip("."))
        elif cls is S3Settings and one.name == "credentials":
            for name in ("access_key", "secret_key", "session_token"):
                yield Key(table, name, str, True, None, True)
        elif not (cls is S3Settings and one.name == "bucket"):
            default = one.default if one.default_factory is MISSING else one.default_factory()
            yield Key(
                one.metadata.get("table", table),
                one.metadata.get("key", one.name),
                bare,
                is_optional,
                default,
                not one.repr,
            )


def without_none(hint: Any) -> tuple[Any, bool]:
    """A type without its None, and whether it had one."""
    if get_origin(hint) not in (Union, UnionType):
        return hint, False
    (bare,) = (one for one in get_args(hint) if one is not NoneType)
    return bare, True


KEYS: Final[Mapping[str, Key]] = {key.full_name: key for key in _keys_of(Settings, "")}
"""All that can be set, by table and name."""
TABLES: Final = tuple(dict.fromkeys(key.table for key in KEYS.values()))


def spelt(table: str) -> dict[str, Key]:
    """The keys of a table by every name that may be written."""
    return {name: key for key in KEYS.values() if key.table == table for name in key.spellings}


VARIABLES: Final[Mapping[str, tuple[Key, str]]] = {
    _variable(table, name): (key, name) for table in TABLES for name, key in spelt(table).items()
}
"""By the name of a variable: the key that it sets, as which spelling."""


def table_of(variable: str) -> tuple[str, str]:
    """The table that a variable's name begins with, and the rest of it; empty where it is none's."""
    for table in TABLES:
        if variable.startswith(begin := _variable(table, "")):
            return table, variable.removeprefix(begin).lower()
    return "", ""


def as_toml(value: Any) -> str:
    """A value as TOML has it."""
    match value:
        case None:
            return NONE
        case bool() | int() | float():
            return json.dumps(value)
        case datetime():
            return value.isoformat()
        case tuple() | list():
            return f"[{', '.join(as_toml(one) for one in value)}]"
        case Mapping():
            return (
                "{" + ", ".join(f"{json.dumps(name)} = {as_toml(one)}" for name, one in value.items()) + "}"
            )
        case _:
            return json.dumps(str(value), ensure_ascii=False)
