"""The service's settings from the table [service] of a TOML file; all other tables are the recorder's.

Secrets stand in no file: where the file would have KEY it has KEY_env, the name of a variable, or KEY_file, a path
relative to the file's folder. What is wrong is told all at once: where it stands, and what is allowed.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from callreel.dialects.sinch_signing import CallbackSigner
from callreel.errors import CallreelError, UsageError
from callreel.notify import FirstThatAnswers, Notifier
from callreel.notify.references import FromEnvironment, FromFile, SecretSource, secret_of
from callreel.notify.signatures import BearerToken, HmacSignature, Signer
from callreel.recorder.configuration import Configuration
from callreel.recorder.settable import KEYS, NONE, Key
from callreel.recorder.ways import Address
from callreel.service.handlers import handler_of
from callreel.service.overload import THRESHOLDS, Threshold
from callreel.service.settings import ServiceSettings
from callreel.service.vendors import (
    AwsCredential,
    ChimeSettings,
    GraphApplication,
    GraphSettings,
    SinchApplication,
    SinchSettings,
    SipMediaApplication,
    VendorSettings,
)

__all__ = ["TABLE", "read_settings"]

T = TypeVar("T")

TABLE: Final = "service"
LONGEST_NAME: Final = 40
LIMITS: Final = ("refuse_from", "accept_below", "refuse_after_s", "accept_after_s")
SCHEME: Final = "://"
"""In every URL, and in nothing else that names a program."""
SECOND: Final = "second_secret"
REACH: Final = tuple(KEYS[f"notify.chime.{one.name}"] for one in fields(Address) if one.name != "url")
"""How an address is reached, as in the recorder's [notify]."""
WORDS: Final[Mapping[type, str]] = {
    str: "text that is not empty",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a table",
    list: "a list of texts",
}


class _Table:
    """A table of the file, whose keys are taken one by one; what is left is unknown."""

    def __init__(self, path: str, values: Mapping[str, Any], folder: Path, problems: list[str]) -> None:
        self.path = path
        self.problems = problems
        self._values = dict(values)
        self._folder = folder
        self._known: list[str] = []

    def take(self, name: str, kind: type[T], default: T) -> T:
        """The value of a key."""
        self._known.append(name)
        if name not in self._values:
            return default
        value = self._values.pop(name)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind or value == "" or (kind is list and not _are_texts(value)):
            self.problems.append(f"[{self.path}] {name} is not as it should be; allowed: {WORDS[kind]}")
            return default
        return value

    def value(self, key: Key) -> Any:
        """The value of a key that the recorder's tables have too."""
        self._known.append(key.name)
        value = self._values.pop(key.name, key.default)
        if value is key.default or (key.is_optional and value == NONE):
            return key.default
        try:
            made = key.value(value, is_text=False)
        except (ValueError, OverflowError):
            self.problems.append(f"[{self.path}] {key.name} is not as it should be; allowed: {key.allowed}")
            return key.default
        return self._folder / made if isinstance(made, Path) else made

    def table(self, name: str) -> _Table:
        """A table within."""
        return _Table(f"{self.path}.{name}", self.take(name, dict, {}), self._folder, self.problems)

    def tables(self, name: str) -> dict[str, _Table]:
        """Tables within, by names that are free."""
        found = self.take(name, dict, {})
        wrong = [key for key, value in found.items() if not isinstance(value, dict)]
        for key in wrong:
            self.problems.append(f"[{self.path}.{name}] {key} is no table")
        return {
            key: _Table(f"{self.path}.{name}.{key}", value, self._folder, self.problems)
            for key, value in found.items()
            if isinstance(value, dict)
        }

    def numbers(self, name: str, default: tuple[int, int]) -> tuple[int, int]:
        """Two whole numbers."""
        self._known.append(name)
        value = self._values.pop(name, list(default))
        if not isinstance(value, list) or [type(one) for one in value] != [int, int]:
            self.problems.append(f"[{self.path}] {name} is not as it should be; allowed: [first, last]")
            return default
        return value[0], value[1]

    def secrets(self) -> dict[str, SecretSource]:
        """Where the secrets of names are that are free: NAME_env or NAME_file each."""
        found = {}
        for key in list(self._values):
            name, _, kind = key.rpartition("_")
            if not name or kind not in ("env", "file"):
                shown = key if key.isprintable() and len(key) < LONGEST_NAME else "a key"
                self.problems.append(
                    f"[{self.path}] {shown}: allowed is NAME_env (a variable) or NAME_file (a path)"
                )
                del self._values[key]
            elif (source := self.secret(name)) is not None:
                found[name] = source
        return found

    def file(self, name: str) -> Path | None:
        """A path, relative to the folder of the file."""
        text = self.take(name, str, "")
        return self._folder / text if text else None

    def secret(self, name: str, *, is_needed: bool = False) -> SecretSource | None:
        """Where a secret is; it is looked at now, and kept nowhere."""
        if name in self._values:
            del self._values[name]
            self.problems.append(
                f"[{self.path}] {name}: a secret does not stand here; say where it is, by {name}_env or {name}_file"
            )
            return None
        variable, path = self.take(f"{name}_env", str, ""), self.file(f"{name}_file")
        if not variable and path is None:
            if is_needed:
                self.problems.append(f"[{self.path}] needs {name}_env (a variable) or {name}_file (a path)")
            return None
        source: SecretSource = FromEnvironment(variable) if variable else FromFile(path or Path())
        return self.tried(lambda: (secret_of(source), source)[1])

    def tried(self, make: Callable[[], T]) -> T | None:
        """What is made, or None, and a problem more."""
        try:
            return make()
        except CallreelError as error:
            self.problems.append(f"[{self.path}] {error}")
            return None

    def end(self) -> None:
        """Nothing more is known here."""
        for name in self._values:
            shown = name if name.isprintable() else ascii(name)
            close = difflib.get_close_matches(name, self._known, 1)
            meant = (
                f"; did you mean {close[0]}?" if close else f"; there are {', '.join(sorted(self._known))}"
            )
            self.problems.append(f"[{self.path}] {shown}: there is no such setting{meant}")


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and one for one in value)


def read_settings(path: Path | None, *, options: Mapping[str, Any] | None = None) -> ServiceSettings:
    """The service's settings and its recorder's.

    `options`: fields of `ServiceSettings` that count more than the file; "spool", "destination" and "tokens" fill in
    what neither the file nor the environment says.

    Raises:
        UsageError: something is not as it should be; each line says of one thing what.
    """
    given = dict(options or {})
    defaults = {
        "spool.folder": ("--spool", given.pop("spool", None)),
        "delivery.destination": ("--destination", given.pop("destination", None)),
    }
    recorder = Configuration(path, options=defaults).settings()
    problems: list[str] = []
    document: Mapping[str, Any] = {}
    if path is not None:
        with path.open("rb") as file:
            document = tomllib.load(file).get(TABLE, {})
    if not isinstance(document, dict):
        raise UsageError(f"{path}: {TABLE} is no table")
    folder = Path() if path is None else path.parent
    values = _read(_Table(TABLE, document, folder, problems))
    tokens = given.pop("tokens", {})
    if not values["tokens"] and not values["is_open"] and not given.get("is_open"):
        values["tokens"] = tokens
    if not problems:
        try:
            return ServiceSettings(recorder, **values | given)
        except UsageError as error:
            problems.append(f"[{TABLE}] {error}")
    where = "" if path is None else f"{path}: "
    raise UsageError("\n".join(f"{where}{problem}" for problem in problems))


def _read(table: _Table) -> dict[str, Any]:
    values: dict[str, Any] = {
        "host": table.take("host", str, "127.0.0.1"),
        "port": table.take("port", int, 8080),
        "public_url": table.take("public_url", str, ""),
        "is_open": table.take("is_open", bool, False),
        "rtp_host": table.take("rtp_host", str, "127.0.0.1"),
        "rtp_ports": table.numbers("rtp_ports", (20_000, 29_999)),
        "rtp_advertised": table.take("rtp_advertised", str, ""),
        "audiosocket_host": table.take("audiosocket_host", str, "127.0.0.1"),
        "drain_s": table.take("drain_s", float, 30.0),
        "operators": frozenset(table.take("operators", list, [])),
        "metrics_token": table.secret("metrics_token"),
    }
    for name in ("audiosocket_port", "rtp_shared_port"):
        port = table.take(name, int, -1)
        values[name] = None if port < 0 else port
    workers = table.take("workers", int, -1)
    values["workers"] = None if workers == -1 else workers
    values["tokens"] = table.table("tokens").secrets()
    values["vendors"] = VendorSettings(
        chime=_chime(table.table("chime")),
        sinch=_sinch(table.table("sinch")),
        graph=_graph(table.table("graph")),
    )
    values["overload"] = _overload(table.table("overload"))
    table.end()
    return values


def _overload(table: _Table) -> Mapping[str, Threshold]:
    """A table for each figure, of which the defaults fill in what is not there."""
    found = {}
    for figure, plain in THRESHOLDS.items():
        one = table.table(figure)
        found[figure] = plain._replace(
            **{name: one.take(name, float, getattr(plain, name)) for name in LIMITS}
        )
        one.end()
    table.end()
    return found


def _handler(table: _Table, *names: str, signer: Signer | None) -> Notifier | None:
    """Who is told: the program that the first of the names names, and when it does not answer that of the next.

    `signer`, and the settings of `REACH`, are for those that have an address.
    """
    texts = [table.take(name, str, "") for name in names]
    reach = {key.name: table.value(key) for key in REACH}
    told = [text for text in texts if text]
    if told and not texts[0]:
        table.problems.append(f"[{table.path}] {names[1]} goes with a {names[0]}")
    if not any(SCHEME in text for text in told):
        for key in REACH:
            if reach[key.name] != key.default:
                table.problems.append(f"[{table.path}] {key.name} goes with a URL")
    ways = [table.tried(partial(_way, text, signer, reach)) for text in told]
    made = [way for way in ways if way is not None]
    return FirstThatAnswers(*made) if len(made) > 1 else next(iter(made), None)


def _way(text: str, signer: Signer | None, reach: Mapping[str, Any]) -> Notifier:
    return Address(text, **reach).webhook(signer) if SCHEME in text else handler_of(text)


def _chime(table: _Table) -> ChimeSettings:
    credentials = {}
    for key_id, one in table.tables("credentials").items():
        secret = one.secret("secret", is_needed=True)
        if secret is not None:
            credentials[key_id] = AwsCredential(one.take("tenant", str, ""), secret)
        one.end()
    applications = {}
    for name, one in table.tables("applications").items():
        tenant, first, second = one.take("tenant", str, ""), one.secret("signing_secret"), one.secret(SECOND)
        if first is None and second is not None:
            one.problems.append(f"[{one.path}] {SECOND} goes with a signing_secret")
        secrets = [secret for secret in (first, second) if secret is not None]
        applications[name] = SipMediaApplication(
            tenant,
            _handler(one, "handler", signer=HmacSignature(*secrets) if secrets else None),
            one.take("account_id", str, ""),
            one.take("record_audio_format", str, "mp3"),
            one.take("media", str, "rtp"),
        )
        one.end()
    region = table.take("region", str, "us-east-1")
    table.end()
    return ChimeSettings(credentials, applications, region)


def _sinch(table: _Table) -> SinchSettings:
    applications = {}
    for key, one in table.tables("applications").items():
        tenant, secret = one.take("tenant", str, ""), one.secret("secret", is_needed=True)
        signer = None if secret is None else CallbackSigner(key, partial(secret_of, secret))
        backend = _handler(one, "backend", "fallback", signer=signer)
        if secret is not None:
            applications[key] = SinchApplication(tenant, secret, backend)
        one.end()
    table.end()
    return SinchSettings(applications)


def _graph(table: _Table) -> GraphSettings:
    applications = {}
    for name, one in table.tables("applications").items():
        tenant, token = one.take("tenant", str, ""), one.secret("backend_token")
        signer = None if token is None else BearerToken(token)
        applications[name] = GraphApplication(tenant, _handler(one, "backend", signer=signer))
        one.end()
    plain = GraphSettings()
    values: dict[str, Any] = {
        "issuers": table.take("issuers", list, []),
        "audiences": table.take("audiences", list, list(plain.audiences)),
        "jwks": table.file("jwks"),
        "revision": table.take("revision", str, plain.revision),
        "grace_s": table.take("grace_s", float, plain.grace_s),
    }
    table.end()
    made = table.tried(lambda: GraphSettings(applications=applications, **values))
    return made or plain
