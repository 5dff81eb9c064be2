"""Settings from a TOML file, the environment and the command line, and where each of them is from.

    settings = Configuration(Path("callreel.toml")).settings()

A key of the table [s3] is overridden by the variable CALLREEL_S3_KEY, and that by an option of the command line. What
there is to set comes from the dataclasses (`callreel.recorder.settings`): a new field there is a new key here.

Secrets stand neither in the file nor in one of our variables, but where KEY_env (a variable) or KEY_file says; no error
and no row repeats one. All that is wrong is told at once: which file, table and key, what is there, what is allowed.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, get_type_hints
from urllib.parse import urlsplit

from callreel.delivery.s3_settings import S3Credentials, S3Settings
from callreel.errors import CallreelError, DeliveryDeniedError, UsageError
from callreel.notify.references import FromEnvironment, FromFile, SecretSource, secret_of
from callreel.recorder.settable import (
    CLEAR,
    KEYS,
    NONE,
    PREFIX,
    REFERENCES,
    TABLES,
    VARIABLES,
    Key,
    as_toml,
    spelt,
    table_of,
    without_none,
)
from callreel.recorder.settings import Settings
from callreel.recorder.stores import Stores

__all__ = ["DEFAULT", "NOT_SET", "OPTION", "Configuration", "Row"]

DEFAULT, NOT_SET, OPTION = "default", "not set", "command line"
"""Sources of a row; others are the name of a variable and that of the file."""

OF_OTHERS: Final = frozenset({"service"})
"""Tables of the same file that are not a recorder's: the service reads its own."""

ANY_BUCKET: Final = "any"
"""The settings of S3 are for every bucket: a destination names it."""

PATHS: Final = frozenset({"delivery.destination", "s3.ca_bundle"})
"""Texts that may be paths. In the file those are relative to its folder."""

HINTS: Final[Mapping[str, str]] = {
    "s3.bucket": 'the destination names it: [delivery] destination = "s3://bucket/prefix"',
    "s3.credentials": "they are access_key and secret_key, each with _env or _file behind its name",
}
"""For names that one would expect."""


class Row(NamedTuple):
    """A setting in force."""

    table: str
    name: str
    """As it may be written: `secret_env`, not `secret`, where that was given."""
    value: Any
    """Never a secret."""
    source: str
    is_whole: bool = True
    """Whether `value` could be written as it is: not a URL of which only the beginning is shown."""

    def __str__(self) -> str:
        """A line of a TOML file that says the same, a comment where it cannot."""
        text = f"{self.name} = {as_toml(self.value)}"
        return text if self.is_whole and self.value is not None else f"# {text}"


class _Given(NamedTuple):
    """A value as it was found."""

    name: str
    value: Any
    source: str
    where: str
    """For messages: file, table and key, or the variable, or the option."""
    is_text: bool
    """Whether it has to be read from text."""


class _NotAllowed(Exception):  # noqa: N818 - it never leaves this module
    """What is wrong with a value, to be written behind where it stands."""


# ---- what is set -------------------------------------------------------------------------------------------------


class Configuration:
    """What was set where."""

    def __init__(
        self, path: Path | None = None, *, options: Mapping[str, tuple[str, str | None]] | None = None
    ) -> None:
        """Read the file at `path`, if any, and the environment.

        `options`, which count most, are by table and name (such as "delivery.destination") the option's name and its
        text, which may be None.

        Raises:
            UsageError: something is not as it should be; each line says of one thing what.
        """
        self._problems: list[str] = []
        self._file = "" if path is None else str(path)
        self._folder = Path() if path is None else path.parent
        given: dict[str, _Given] = {}
        found = [*self._in_file(path), *_in_environment()]
        self._judge_variables({str(one.value) for _, one in found if one.name.endswith("_env")})
        for key, one in [*found, *_in_options(options or {})]:
            other = given.get(key.full_name)
            if other is not None and other.is_text == one.is_text and other.name != one.name:
                self._problems.append(f"{one.where}: it does not go together with {other.name}")
            given[key.full_name] = one
        self._given = given
        self._values: dict[str, Any] = {}
        """What was given, by table and name, secrets as references."""
        for full_name, one in given.items():
            try:
                self._values[full_name] = self._read(KEYS[full_name], one)
            except _NotAllowed as problem:
                self._problems.append(f"{one.where}{problem}")
        self._complain()

    def settings(self) -> Settings:
        """Make the settings; secrets that are needed at once are read now.

        Raises:
            UsageError: something is missing, or does not go together.
        """
        made = self._make(Settings, "")
        if made is not None:
            self._try("delivery", lambda: Stores(made))
            self._try("encryption", made.keys)
            for name in ("chime", "sinch", "graph", "events"):
                if (way := getattr(made.notify, name)) is not None:
                    self._try(f"notify.{name}", way.check)
        self._complain()
        assert isinstance(made, Settings)
        return made

    def rows(self) -> Iterator[Row]:
        """Every setting in force, defaults too, but of [notify] only the tables in which something is set."""
        for key in sorted(KEYS.values(), key=lambda key: TABLES.index(key.table)):
            if key.table.startswith("notify.") and not self._is_set(key.table):
                continue
            one = self._given.get(key.full_name)
            if one is None:
                is_missing = key.default is MISSING
                value = None if is_missing else key.default
                if key.full_name == "s3.path_style" and "s3.endpoint_url" in self._values:
                    value = True
                yield Row(key.table, key.spellings[0], value, NOT_SET if is_missing else DEFAULT)
                continue
            value, is_whole = self._values[key.full_name], True
            if isinstance(value, FromEnvironment):
                value = value.name
            elif isinstance(value, FromFile):
                value = str(value.path)
            elif key.is_secret and value is not None:
                value, is_whole = _beginning(value)
            yield Row(key.table, one.name, value, one.source, is_whole)

    def _complain(self) -> None:
        if self._problems:
            raise UsageError("\n".join(self._problems))

    def _is_set(self, table: str) -> bool:
        return any(key.table == table and name in self._given for name, key in KEYS.items())

    # -- where it stands -------------------------------------------------------------------------------------------

    def _in_file(self, path: Path | None) -> Iterator[tuple[Key, _Given]]:
        if path is None:
            return
        try:
            with path.open("rb") as file:
                document = tomllib.load(file)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or type(error).__name__}") from None
        except ValueError as error:
            raise UsageError(f"{path}: this is no TOML: {error}") from None
        yield from self._in_table(document, "")

    def _in_table(self, document: Mapping[str, Any], table: str) -> Iterator[tuple[Key, _Given]]:
        here = spelt(table)
        for name, value in document.items():
            full_name = f"{table}.{name}".lstrip(".")
            if full_name in OF_OTHERS:
                continue
            if name in here:
                where = f"{self._file}: [{table}] {name}"
                yield here[name], _Given(name, value, self._file, where, is_text=False)
            elif full_name in TABLES or any(one.startswith(f"{full_name}.") for one in TABLES):
                if isinstance(value, dict):
                    yield from self._in_table(value, full_name)
                else:
                    self._problems.append(f"{self._file}: {full_name} is {_kind(value)}; allowed: a table")
            elif isinstance(value, dict) and full_name not in HINTS:
                shown = full_name if full_name.isprintable() else ascii(full_name)
                meant = _meant(full_name, TABLES, "[{}]")
                self._problems.append(f"{self._file}: there is no table [{shown}]{meant}")
            else:
                shown = name if name.isprintable() else ascii(name)
                self._problems.append(f"{self._file}: {_unknown(table, shown)}")

    def _judge_variables(self, referred_to: set[str]) -> None:
        """Find misspelt variables; others that begin as ours do may be anybody's, or have a secret in them."""
        for variable in _ours().keys() - VARIABLES.keys() - referred_to:
            table, name = table_of(variable)
            key = KEYS.get(f"{table}.{name}")
            meant = _meant(variable, VARIABLES, cutoff=0.6 if table else 0.85)
            if key is not None:
                self._problems.append(f"environment: {variable}: {_as_reference(key, variable)}")
            elif table or meant:
                self._problems.append(f"environment: {variable}: there is no such setting{meant}")

    # -- what it says ----------------------------------------------------------------------------------------------

    def _read(self, key: Key, given: _Given) -> Any:
        """The value, with a path made whole, or the reference to a secret."""
        value = given.value
        if key.is_optional and value == NONE:
            return None
        if given.name != key.name:
            return self._reference(given)
        if isinstance(value, str) and re.search(r"://[^/?#]*@", value):
            if key.name in CLEAR:
                raise _NotAllowed(f": {_as_reference(key, key.name)}")
            raise _NotAllowed(" holds a user or a password, which a URL here must not")
        try:
            made = key.value(value, is_text=given.is_text)
        except (ValueError, OverflowError):
            found = _kind(value) if key.is_secret else _short(as_toml(value))
            meant = _meant(value, key.choices, '"{}"') if isinstance(value, str) else ""
            raise _NotAllowed(f" is {found}; allowed: {key.allowed}{meant}") from None
        if not given.is_text and (isinstance(made, Path) or (key.full_name in PATHS and "://" not in made)):
            return type(made)(self._folder / made)
        return made

    def _reference(self, given: _Given) -> SecretSource:
        """Where a secret is. What stands there is in no message: somebody may have written the secret itself."""
        text = given.value
        if not isinstance(text, str) or not text:
            raise _NotAllowed(f" is {_kind(text)}; allowed: text")
        source: SecretSource
        if given.name.endswith("_env"):
            source = FromEnvironment(text)
            if text not in os.environ:
                raise _NotAllowed(" names a variable that is not set")
        else:
            path = Path(text) if given.is_text else self._folder / text
            source = FromFile(path)
            try:
                path.open("rb").close()
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or "no path"
                raise _NotAllowed(f" names a file that cannot be read: {why}") from None
        try:
            secret_of(source)
        except DeliveryDeniedError:
            raise _NotAllowed(
                " leads to what is no secret; allowed: printable ASCII without spaces"
            ) from None
        return source

    # -- what it makes ---------------------------------------------------------------------------------------------

    def _make(self, cls: Any, table: str) -> Any:
        """The dataclass of a table, or None where it cannot be made."""
        before = len(self._problems)
        hints = get_type_hints(cls)
        values: dict[str, Any] = {}
        for one in fields(cls):
            bare, is_optional = without_none(hints[one.name])
            place, name = one.metadata.get("table", table), one.metadata.get("key", one.name)
            full_name = f"{place}.{name}"
            if is_dataclass(bare):
                inner = f"{table}.{one.name}".lstrip(".")
                if not is_optional or self._is_set(inner):
                    values[one.name] = self._make(bare, inner)
            elif full_name in self._values:
                value = self._values[full_name]
                # What a dataclass wants as text is read now, what it wants as a reference later.
                is_reference = isinstance(value, FromEnvironment | FromFile)
                values[one.name] = secret_of(value) if is_reference and bare is str else value
            elif full_name in KEYS and KEYS[full_name].default is MISSING:
                self._problems.append(
                    f"[{place}] {name} is not set: neither in a file nor as {KEYS[full_name].variable()}"
                )
        if cls is S3Settings:
            values |= self._s3_values()
        return self._try(table, lambda: cls(**values)) if len(self._problems) == before else None

    def _s3_values(self) -> dict[str, Any]:
        values: dict[str, Any] = {"bucket": ANY_BUCKET}
        if "s3.endpoint_url" in self._values and "s3.path_style" not in self._values:
            values["path_style"] = True  # few stores but AWS's have a name for every bucket
        found = [self._values.get(f"s3.{name}") for name in ("access_key", "secret_key", "session_token")]
        access_key, secret_key, token = ("" if one is None else secret_of(one) for one in found)
        if access_key and secret_key:
            values["credentials"] = S3Credentials(access_key, secret_key, token or None)
        elif access_key or secret_key or token:
            self._problems.append(
                "[s3]: access_key and secret_key go together, session_token with both of them"
            )
        return values

    def _try(self, table: str, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except CallreelError as error:
            file = f"{self._file}: " if self._file else ""
            self._problems.append(f"{file}[{table}]: {error}" if table else f"{file}{error}")


def _ours() -> dict[str, str]:
    """Our variables; an empty one is none."""
    return {name: text for name, text in sorted(os.environ.items()) if name.startswith(PREFIX) and text}


def _in_environment() -> Iterator[tuple[Key, _Given]]:
    for variable, text in _ours().items():
        if variable in VARIABLES:
            key, name = VARIABLES[variable]
            yield key, _Given(name, text, variable, f"environment: {variable}", is_text=True)


def _in_options(options: Mapping[str, tuple[str, str | None]]) -> Iterator[tuple[Key, _Given]]:
    for full_name, (option, text) in options.items():
        if text is not None:
            key = KEYS[full_name]
            yield key, _Given(key.name, text, OPTION, option, is_text=True)


# ---- words -------------------------------------------------------------------------------------------------------


def _unknown(table: str, name: str) -> str:
    """What is wrong with a name that is not one."""
    key = KEYS.get(f"{table}.{name}")
    if key is not None:
        return f"[{table}] {name}: {_as_reference(key, name)}"
    if hint := HINTS.get(f"{table}.{name}"):
        return f"[{table}] {name} is not set here: {hint}"
    elsewhere = [f"[{one}] {name}" for one in TABLES if name in spelt(one)]
    if not table:
        meant = f"; did you mean {elsewhere[0]}?" if elsewhere else _meant(name, TABLES, "[{}]")
        return f"there is no {name} outside of a table{meant}"
    meant = _meant(name, spelt(table)) or (f"; did you mean {elsewhere[0]}?" if elsewhere else "")
    return f"[{table}] {name}: there is no such setting{meant or '; there are ' + ', '.join(spelt(table))}"


def _as_reference(key: Key, name: str) -> str:
    env, file = (name + (one.upper() if name.isupper() else one) for one in REFERENCES)
    what = "a URL with a password" if key.name in CLEAR else "a secret"
    return f"{what} does not stand here; say where it is, by {env} (a variable) or {file}"


def _meant(name: str, names: Any, form: str = "{}", cutoff: float = 0.6) -> str:
    found = difflib.get_close_matches(name, [one for one in names if isinstance(one, str)], 1, cutoff)
    return f"; did you mean {form.format(found[0])}?" if found else ""


def _beginning(url: str) -> tuple[str, bool]:
    """As much of a URL as may be shown, and whether that is all."""
    parts = urlsplit(url)
    if parts.path in ("", "/") and not parts.query and not parts.fragment:
        return url, True
    return f"{parts.scheme}://{parts.netloc}/...", False


def _kind(value: Any) -> str:
    """What sort of value it is, for messages that do not repeat it."""
    words = {
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        dict: "a table",
        list: "a list",
    }
    return words.get(type(value), "something else") if value != "" else "empty"


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
