"""AWS Signature Version 4, the server's side: whose request it is, and that it is as they sent it.

Source: "AWS Signature Version 4 for API requests" in the IAM user guide; the errors are those of "Common errors" in the
API references of AWS.

    CanonicalRequest = method, path, query, headers, names of the signed headers, SHA-256 of the body: by line feeds
    StringToSign     = "AWS4-HMAC-SHA256", time, scope, SHA-256 of CanonicalRequest
    Signature        = HMAC chain of secret, date, region, service, "aws4_request" over StringToSign

Rules beyond that:

1. `host`, `x-amz-date` and every other `x-amz-` header of a request must be signed.
2. The time may be 5 minutes off. What comes again within that time is for `callreel.service.answers`.
3. The body must be signed: UNSIGNED-PAYLOAD and streamed payloads are for S3. A presigned URL is not taken.
4. The scope is the service's region and name, of the day of the time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from callreel.errors import InvalidActionError
from callreel.notify.references import SecretSource, secret_of

__all__ = ["SignedRequest", "Unsigned", "Verified", "canonical_request", "verify"]

ALGORITHM: Final = "AWS4-HMAC-SHA256"
WINDOW_S: Final = 300.0
SCOPE_END: Final = "aws4_request"

AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 +Credential=([!-~]{1,512}?), *SignedHeaders=([!-~]{1,4096}?), *Signature=([0-9a-f]{64})"
)
TIME = re.compile(r"[0-9]{8}T[0-9]{6}Z")
KEY_ID = re.compile(r"[A-Za-z0-9_]{1,128}")

NOBODYS_SECRET = "a secret that nobody has, so that an unknown key takes as long as a known one"


class Unsigned(InvalidActionError):  # noqa: N818  (a request, not an accident)
    """A request that is not from whom it says; `code` and `status` are those of AWS."""

    def __init__(self, code: str, message: str, *, status: int = 403) -> None:
        """Keep AWS's code."""
        super().__init__(message)
        self.code, self.status = code, status


class SignedRequest(NamedTuple):
    """A request as it came."""

    method: str
    raw_path: str
    """As it was on the wire: percent-encoded, without query."""
    query: str
    headers: Sequence[tuple[str, str]]
    """Names in lower case, in the order in which they came."""
    body: bytes


class Verified(NamedTuple):
    """A request that is from whom it says."""

    key_id: str
    signature: str
    """Names the request: no other has it."""
    until: datetime
    """When the signature ceases to be good."""


def verify(
    request: SignedRequest,
    secrets: Mapping[str, SecretSource],
    *,
    region: str,
    service: str,
    now: datetime,
    window_s: float = WINDOW_S,
) -> Verified:
    """Who has signed a request; `secrets` by access key ids.

    Raises:
        Unsigned: it is not to be believed.
    """
    headers = _joined(request.headers)
    given = headers.get("authorization")
    if given is None:
        raise Unsigned("MissingAuthenticationTokenException", "Missing Authentication Token")
    parts = AUTHORIZATION.fullmatch(given.strip())
    if parts is None:
        raise Unsigned(
            "IncompleteSignatureException",
            "Authorization header requires 'Credential', 'SignedHeaders' and 'Signature' parameters.",
            status=400,
        )
    key_id, *scope = parts[1].split("/")
    time = headers.get("x-amz-date", "")
    _check_scope(key_id, scope, time, region, service)
    signed = parts[2].split(";")
    _check_signed(signed, headers)
    at = _moment(time)
    _check_time(at, now, window_s)
    body_hash = hashlib.sha256(request.body).hexdigest()
    if headers.get("x-amz-content-sha256", body_hash) != body_hash:
        raise Unsigned("InvalidSignatureException", "The payload must be signed, and be what was signed.")
    source = secrets.get(key_id)
    secret = NOBODYS_SECRET if source is None else secret_of(source)
    canonical = canonical_request(request, signed, body_hash)
    text = "\n".join((ALGORITHM, time, "/".join(scope), hashlib.sha256(canonical).hexdigest()))
    expected = _signature(secret, scope, text)
    is_right = hmac.compare_digest(expected, parts[3])
    if source is None:
        raise Unsigned(
            "UnrecognizedClientException", "The security token included in the request is invalid."
        )
    if not is_right:
        raise Unsigned(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
            "Access Key and signing method. Consult the service documentation for details.",
        )
    return Verified(key_id, f"{key_id}:{parts[3]}", at + timedelta(seconds=window_s))


def canonical_request(request: SignedRequest, signed: Sequence[str], body_hash: str) -> bytes:
    """The text that is signed in the end."""
    headers = _joined(request.headers)
    lines = [f"{name}:{' '.join(headers.get(name, '').split())}\n" for name in signed]
    text = "\n".join(
        (
            request.method.upper(),
            _canonical_path(request.raw_path),
            _canonical_query(request.query),
            "".join(lines),
            ";".join(signed),
            body_hash,
        )
    )
    return text.encode("utf-8", "surrogateescape")


def _check_scope(key_id: str, scope: list[str], time: str, region: str, service: str) -> None:
    if not KEY_ID.fullmatch(key_id) or len(scope) != 4 or scope[3] != SCOPE_END:
        raise Unsigned(
            "IncompleteSignatureException",
            "Credential must have five parts: key, date, region, service, aws4_request.",
            status=400,
        )
    if not TIME.fullmatch(time):
        raise Unsigned(
            "IncompleteSignatureException", "x-amz-date must be in ISO8601 'basic format'.", status=400
        )
    if scope[0] != time[:8]:
        raise Unsigned(
            "InvalidSignatureException", "Date in Credential scope does not match YYYYMMDD from x-amz-date."
        )
    if scope[1] != region or scope[2] != service:
        raise Unsigned(
            "InvalidSignatureException",
            f"Credential should be scoped to the region '{region}' and the service '{service}'.",
        )


def _check_signed(signed: list[str], headers: Mapping[str, str]) -> None:
    needed = {"host", *(name for name in headers if name.startswith("x-amz-"))}
    if signed != sorted(set(signed)) or not needed <= set(signed) or not set(signed) <= headers.keys():
        raise Unsigned(
            "InvalidSignatureException", "'host' and every 'x-amz-' header must be signed, in their order."
        )


def _check_time(at: datetime, now: datetime, window_s: float) -> None:
    off = now - at
    if abs(off) > timedelta(seconds=window_s):
        word = "expired" if off > timedelta(0) else "not yet current"
        raise Unsigned(
            "InvalidSignatureException",
            f"Signature {word}: {at:%Y%m%dT%H%M%SZ} against {now:%Y%m%dT%H%M%SZ}.",
        )


def _moment(time: str) -> datetime:
    try:
        return datetime.strptime(time, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise Unsigned(
            "IncompleteSignatureException", "x-amz-date must be in ISO8601 'basic format'.", status=400
        ) from None


def _signature(secret: str, scope: Sequence[str], text: str) -> str:
    key = f"AWS4{secret}".encode()
    for part in scope:
        key = hmac.digest(key, part.encode("utf-8", "surrogateescape"), "sha256")
    return hmac.digest(key, text.encode("utf-8", "surrogateescape"), "sha256").hex()


def _joined(headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    """By name; several of one name with commas between."""
    found: dict[str, str] = {}
    for name, value in headers:
        found[name] = value if name not in found else f"{found[name]},{value}"
    return found


def _canonical_path(raw_path: str) -> str:
    """Without empty and upward parts, each part encoded once more: all services but S3."""
    parts: list[str] = []
    for part in raw_path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(quote(part, safe="-_.~"))
    path = "/" + "/".join(parts)
    return path + "/" if parts and raw_path.endswith("/") else path


def _canonical_query(query: str) -> str:
    pairs = []
    for pair in query.split("&") if query else []:
        name, _, value = pair.partition("=")
        pairs.append(tuple(quote(unquote_to_bytes(one), safe="-_.~") for one in (name, value)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))
