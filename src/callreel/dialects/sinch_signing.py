"""Who a request of Sinch's is from: signing what goes out, authenticating what comes in.

Source: the voice API's pages "Authentication" and "Callback request signing" (2014 to 2026).

    Authorization: Application <applicationKey>:<Signature>
    Signature    = Base64(HMAC-SHA256(Base64Decode(applicationSecret), UTF8(StringToSign)))
    StringToSign = VERB, Content-MD5, Content-Type, "x-timestamp:" <its value>, path: joined by line feeds
    Content-MD5  = Base64(MD5(body)), empty without a body

or `Authorization: Basic Base64(<applicationKey>:<applicationSecret>)`, which needs no timestamp. Of a URL only the path
is signed. Secrets and signatures are compared in constant time, and no error repeats them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from callreel.dialects.sinch_options import SvamlError
from callreel.errors import UsageError

__all__ = [
    "AuthenticationError",
    "CallbackSigner",
    "authenticate",
    "authorization",
    "content_md5",
    "signature",
]

BAD_AUTHORIZATION, BAD_TIMESTAMP, BAD_SIGNATURE, BAD_CREDENTIALS = 40100, 40101, 40102, 40108
"""Error codes."""

WINDOW_S = 300.0
"""How far a timestamp may be off; no page says it."""

TIMESTAMP = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})"
)


class AuthenticationError(SvamlError):
    """A request is not from whom it says, or does not say it; `code` for `callreel.dialects.sinch.error_response`."""


def content_md5(body: bytes) -> str:
    """The body's part of the text that is signed."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode() if body else ""


def signature(secret: str, method: str, path: str, *, body: bytes, content_type: str, timestamp: str) -> str:
    """Sign a request; `secret` as Sinch gives it, in base64, `path` without host and query.

    Raises:
        UsageError: the secret is not base64.
    """
    try:
        key = base64.b64decode(secret, validate=True)
    except ValueError:
        raise UsageError("an application secret is in base64") from None
    text = "\n".join((method.upper(), content_md5(body), content_type, f"x-timestamp:{timestamp}", path))
    digest = hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256")
    return base64.b64encode(digest).decode()


def authorization(
    application_key: str,
    secret: str,
    method: str,
    path: str,
    *,
    body: bytes,
    content_type: str,
    timestamp: str,
) -> str:
    """The Authorization header of a callback or a request; `timestamp` goes out as x-timestamp."""
    signed = signature(secret, method, path, body=body, content_type=content_type, timestamp=timestamp)
    return f"Application {application_key}:{signed}"


class CallbackSigner:
    """Signs callbacks and notifications: a `callreel.notify.signatures.Signer`."""

    def __init__(self, application_key: str, secret: Callable[[], str]) -> None:
        """Sign as this application; `secret` is asked for it each time."""
        self._application_key = application_key
        self._secret = secret

    def headers(
        self, *, event_id: str, method: str, path: str, content_type: str, body: bytes, at: datetime
    ) -> Mapping[str, str]:
        """The headers for a request at a moment; a UsageError when the secret is none."""
        timestamp = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        signed = authorization(
            self._application_key,
            self._secret(),
            method,
            path,
            body=body,
            content_type=content_type,
            timestamp=timestamp,
        )
        return {"Authorization": signed, "x-timestamp": timestamp}


def authenticate(
    headers: Mapping[str, str],
    method: str,
    path: str,
    *,
    body: bytes,
    secrets: Mapping[str, str],
    now: datetime,
    window_s: float = WINDOW_S,
    allow_basic: bool = True,
) -> str:
    """The application key a request comes from; `secrets` has the secret of each.

    `now` must know its time zone; a timestamp may be `window_s` older or newer. A request may be repeated within that
    time: what must not be done twice is for the caller to remember.

    Raises:
        AuthenticationError: 40100 for no or no such Authorization, 40101 for the timestamp, 40102 for the signature,
            40108 for key and secret of the Basic scheme.
    """
    given = {name.lower(): value for name, value in headers.items()}
    scheme, _, value = given.get("authorization", "").strip().partition(" ")
    match scheme.lower():
        case "application":
            return _signed(given, value.strip(), method, path, body, secrets, now, window_s)
        case "basic" if allow_basic:
            return _basic(value.strip(), secrets)
    raise AuthenticationError(BAD_AUTHORIZATION, "Authorization header is missing or invalid")


def _signed(
    headers: Mapping[str, str],
    value: str,
    method: str,
    path: str,
    body: bytes,
    secrets: Mapping[str, str],
    now: datetime,
    window_s: float,
) -> str:
    parts = value.split(":")
    if len(parts) != 2 or not all(parts):
        raise AuthenticationError(BAD_AUTHORIZATION, "Authorization header is missing or invalid")
    application_key, given = parts
    timestamp = headers.get("x-timestamp", "")
    at = _moment(timestamp)
    if at is None or abs(now - at) > timedelta(seconds=window_s):
        raise AuthenticationError(BAD_TIMESTAMP, "x-timestamp header is missing, invalid or too old")
    expected = signature(
        secrets.get(application_key, ""),
        method,
        path,
        body=body,
        content_type=headers.get("content-type", ""),
        timestamp=timestamp,
    )
    if not _equal(expected, given) or application_key not in secrets:
        raise AuthenticationError(BAD_SIGNATURE, "Invalid signature")
    return application_key


def _basic(value: str, secrets: Mapping[str, str]) -> str:
    try:
        text = base64.b64decode(value, validate=True).decode("utf-8")
    except ValueError:
        raise AuthenticationError(BAD_AUTHORIZATION, "Authorization header is missing or invalid") from None
    application_key, _, given = text.partition(":")
    if not _equal(secrets.get(application_key, ""), given) or application_key not in secrets:
        raise AuthenticationError(BAD_CREDENTIALS, "Invalid credentials")
    return application_key


def _equal(expected: str, given: str) -> bool:
    return hmac.compare_digest(
        expected.encode("utf-8", "surrogatepass"), given.encode("utf-8", "surrogatepass")
    )


def _moment(timestamp: str) -> datetime | None:
    if not TIMESTAMP.fullmatch(timestamp):
        return None
    try:
        return datetime.fromisoformat(timestamp)
    except ValueError:
        return None
