"""Sinch's recordingOptions: where a recording goes, under which name, in which format, and who is told.

Sources: "Recording calls" (2020, 2021) and the voice API's reference (2026). Types are strict, unknown members are
passed over, null is as good as absent. No message and no error repeats what was given: it may hold a secret.

    s3://bucket[/folder ...][/file]       credentials key:secret:region
    sdrive://[file]                       folders are dropped; credentials, if any, are passed over
    azure://account/container[/file]      credentials in base64; read, and answered as not offered
    gs://bucket[/folder ...][/file]       likewise; gcs:// too

What ends in a slash is a folder; without a file a name is generated. The path is percent-decoded once.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from callreel import keys
from callreel.actions import Destination
from callreel.dialects import OBJECT
from callreel.errors import InvalidActionError

__all__ = ["RecordingOptions", "SvamlError", "generated_name", "read_options"]

ILLEGAL, MISSING, INVALID = 40001, 40002, 40003
"""Error codes: an illegal parameter, a missing one, an invalid request."""

FORMATS = ("mp3", "wav")
DEFAULT_LOCALE = "en-US"

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
BUCKET = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]"
)  # old buckets have capitals and underscores
REGION = re.compile(r"[A-Za-z0-9-]{1,40}")
SECRET = re.compile(r"[!-9;-~]+")
"""A part of the credentials: ASCII that is seen, without colon."""
LOCALE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}")
NOT_IN_A_KEY = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")
TOO_LONG = "is too long for the name of an object, or has characters that are not for one"
MAX_KEY_BYTES = 1024
"""S3 user guide, "Naming Amazon S3 objects"."""


class SvamlError(InvalidActionError):
    """What a customer asked for is wrong; `code` is Sinch's, of five digits."""

    def __init__(self, code: int, message: str, *, field: str | None = None) -> None:
        """Keep the `code` beside the message."""
        super().__init__(message, field=field)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingOptions:
    """recordingOptions as they are read."""

    destination: Destination
    folder: str = ""
    """Under which a generated name goes: empty, or with a slash at its end."""
    file: str | None = None
    """The object key with its folders; None when a name is to be generated."""
    url: str = ""
    """What the customer wrote, up to the file when there is none."""
    format: str = "mp3"
    notifies: bool = True
    transcription_locale: str | None = None
    """In which language it is to be transcribed; None for not at all."""

    def key(self, name: str) -> str:
        """The object key; `name` is that of a file whose name was not given."""
        if self.file is not None:
            return self.file
        key = self.folder + name
        if len(key.encode("utf-8")) > MAX_KEY_BYTES:
            raise _bad_url(TOO_LONG)
        return key

    def location(self, name: str, drive_url: str) -> str:
        """The file's address, as notifications tell it."""
        if self.destination.kind == "sdrive":
            return drive_url + _quoted(self.key(name))
        return self.url + _quoted(name) if self.file is None else self.url


def read_options(
    given: Any, *, default_url: str | None = None, locales: Collection[str] | None = None
) -> RecordingOptions:
    """Read recordingOptions; SvamlError says what is wrong with them.

    `default_url` is where recordings go whose options name no destination, with the host's own credentials; without it
    they must name one. `locales`, when given, are those that can be transcribed.
    """
    if given is None and default_url is None:
        raise SvamlError(MISSING, "the recording options are required", field="recordingOptions")
    if given is None:
        given = {}
    if not isinstance(given, OBJECT):
        raise SvamlError(ILLEGAL, "the recording options are no object", field="recordingOptions")
    url = given.get("destinationUrl")
    if url is None:
        url = given.get("destination")  # one of the pages' samples
    credentials, is_own = given.get("credentials"), url is None
    if url is None:
        url = default_url
    if url is None:
        raise SvamlError(MISSING, "'destinationUrl' is required", field="destinationUrl")
    destination, folder, file, url = _read_url(url, credentials, is_own)
    return RecordingOptions(
        destination=destination,
        folder=folder,
        file=file,
        url=url,
        format=_read_format(given.get("format")),
        notifies=_read_flag(given, "notificationEvents", default=True),
        transcription_locale=_read_transcription(given.get("transcriptionOptions"), locales),
    )


def generated_name(at: datetime, application_key: str, call_id: str, extension: str) -> str:
    """The name of a file whose name was not given: `(yyyyMMddHHmmss)_(applicationKey)_(callId).(format)`, UTC."""
    ids = [keys.safe_component(one, max_bytes=100) for one in (application_key, call_id)]
    return f"{at.astimezone(UTC):%Y%m%d%H%M%S}_{ids[0]}_{ids[1]}.{extension}"


def _bad_url(why: str) -> SvamlError:
    return SvamlError(ILLEGAL, f"'destinationUrl' {why}", field="destinationUrl")


def _bad_credentials(why: str) -> SvamlError:
    return SvamlError(ILLEGAL, f"'credentials' {why}", field="credentials")


def _read_url(url: Any, credentials: Any, is_own: bool) -> tuple[Destination, str, str | None, str]:
    """Where it goes, the folder, the file, and the address up to what has to be generated.

    What `is_own`, the host's, needs no credentials.
    """
    match = URL.fullmatch(url) if isinstance(url, str) else None
    if match is None:
        raise _bad_url("must be a URI such as s3://bucket/folder/file")
    scheme, rest = match[1].lower(), match[2]
    if "?" in rest or "#" in rest:
        raise _bad_url("has a query or a fragment")
    if scheme == "sdrive":
        file = _key(rest.rpartition("/")[2])
        return Destination(kind="sdrive", overwrite=True), "", file.rpartition("/")[2] or None, url
    if scheme == "s3":
        return _read_s3(url, rest, credentials, is_own)
    if scheme in ("azure", "gs", "gcs"):
        place, _, path = rest.partition("/")
        if not place or (scheme == "azure" and not path.partition("/")[0]):
            raise _bad_url("names no container" if scheme == "azure" else "names no bucket")
        _key(path)
        if credentials is None:
            raise SvamlError(MISSING, "'credentials' are required", field="credentials")
        if not _is_base64(credentials):
            raise _bad_credentials("must be in base64")
        raise _bad_url(f"names a destination that is not offered: {scheme}")
    raise _bad_url("has a scheme that is not known")


def _read_s3(url: str, rest: str, credentials: Any, is_own: bool) -> tuple[Destination, str, str | None, str]:
    bucket, slash, path = rest.partition("/")
    if not BUCKET.fullmatch(bucket):
        raise _bad_url("names no bucket")
    key = _key(path)
    destination = Destination(kind="s3", bucket=bucket, overwrite=True)
    if not is_own:
        key_and_secret, region = _read_s3_credentials(credentials)
        destination = replace(destination, credentials=key_and_secret, region=region)
    is_folder = not key or key.endswith("/")
    return destination, key if is_folder else "", None if is_folder else key, url if slash else url + "/"


def _read_s3_credentials(credentials: Any) -> tuple[str, str]:
    """Key and secret, and the region."""
    if credentials is None:
        raise SvamlError(MISSING, "'credentials' are required", field="credentials")
    parts = credentials.split(":") if isinstance(credentials, str) else []
    if len(parts) != 3 or not all(SECRET.fullmatch(part) for part in parts) or not REGION.fullmatch(parts[2]):
        raise _bad_credentials("must be AwsAccessKey:AwsSecretKey:AwsRegion")
    return f"{parts[0]}:{parts[1]}", parts[2]


def _key(path: str) -> str:
    """An object key from the path of a URI; empty, or with a slash at its end, for a folder."""
    raw = path.encode("utf-8", "surrogatepass")
    if b"%" in raw:
        if re.search(rb"%(?![0-9A-Fa-f]{2})", raw):
            raise _bad_url("has a % that stands for nothing")
        raw = re.sub(rb"%(..)", lambda match: bytes.fromhex(match[1].decode("ascii")), raw)
    try:
        key = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise _bad_url("is not UTF-8") from None
    if len(raw) > MAX_KEY_BYTES or NOT_IN_A_KEY.search(key):
        raise _bad_url(TOO_LONG)
    if key and any(part in ("", ".", "..") for part in key.removesuffix("/").split("/")):
        raise _bad_url("has a folder without a name")
    return key


def _quoted(name: str) -> str:
    """A name in a URI."""
    raw = name.encode("utf-8")
    return re.sub(rb"[^A-Za-z0-9._~!$'()*+,;=:@-]", lambda match: b"%%%02X" % match[0][0], raw).decode(
        "ascii"
    )


def _is_base64(text: Any) -> bool:
    try:
        return isinstance(text, str) and len(base64.b64decode(text, validate=True)) > 0
    except ValueError:
        return False


def _read_format(value: Any) -> str:
    if value is None or value == "":
        return FORMATS[0]
    if isinstance(value, str) and value.lower() in FORMATS:
        return value.lower()
    raise SvamlError(ILLEGAL, "'format' must be mp3 or wav", field="format")


def _read_flag(given: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = given.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise SvamlError(ILLEGAL, f"'{name}' must be true or false", field=name)
    return value


def _read_transcription(given: Any, locales: Collection[str] | None) -> str | None:
    if given is None:
        return None
    if not isinstance(given, OBJECT):
        raise SvamlError(ILLEGAL, "'transcriptionOptions' are no object", field="transcriptionOptions")
    locale = given.get("locale")
    if locale is None:
        locale = DEFAULT_LOCALE
    known = isinstance(locale, str) and LOCALE.fullmatch(locale) is not None
    if known and locales is not None:
        known = locale.lower() in {one.lower() for one in locales}
    if not known:
        raise SvamlError(ILLEGAL, "'locale' is not supported", field="locale")
    return locale if _read_flag(given, "enabled", default=False) else None
