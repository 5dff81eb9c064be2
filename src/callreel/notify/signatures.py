"""How a customer knows who is telling: an HMAC over id, time and body, or a bearer token.

The HMAC is that of Standard Webhooks 1.0 (symmetric, "v1"), for which most languages have a library:

    webhook-id:        the notification's id, the same at every try
    webhook-timestamp: when this try was made, seconds since 1970
    webhook-signature: v1,<Base64(HMAC-SHA256(secret, id "." timestamp "." body))>, of each secret one, spaces between

A secret is 24 to 64 bytes, written "whsec_" and Base64. Two of them for a while make a change without a gap.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final, Protocol

from callreel.errors import DeliveryDeniedError, InvalidActionError, UsageError
from callreel.notify import ID_HEADER
from callreel.notify.references import SecretSource, secret_of

__all__ = [
    "SIGNATURE_HEADER",
    "TIMESTAMP_HEADER",
    "TOLERANCE_S",
    "BearerToken",
    "HmacSignature",
    "SignatureError",
    "Signer",
    "verify",
]

TIMESTAMP_HEADER: Final = "webhook-timestamp"
SIGNATURE_HEADER: Final = "webhook-signature"
TOLERANCE_S: Final = 300.0
"""How far a timestamp may be off, as the libraries of Standard Webhooks have it."""

VERSION: Final = "v1"
PREFIX: Final = "whsec_"
MIN_KEY_BYTES, MAX_KEY_BYTES = 24, 64


class SignatureError(InvalidActionError):
    """A webhook is not from whom it says, is too old, or has been changed; `field` is the header that shows it."""


class Signer(Protocol):
    """Makes the headers by which a customer knows who is telling."""

    def headers(
        self, *, event_id: str, method: str, path: str, content_type: str, body: bytes, at: datetime
    ) -> Mapping[str, str]:
        """The headers for a request at a moment; `path` without its query."""
        ...


class BearerToken:
    """A token in the Authorization header, asked for at every try."""

    def __init__(self, source: SecretSource) -> None:
        """Take the token from `source`."""
        self._source = source

    def headers(
        self, *, event_id: str, method: str, path: str, content_type: str, body: bytes, at: datetime
    ) -> Mapping[str, str]:
        """The Authorization header; a DeliveryDeniedError when there is no token."""
        return {"Authorization": f"Bearer {secret_of(self._source)}"}


class HmacSignature:
    """The headers of Standard Webhooks."""

    def __init__(self, *sources: SecretSource) -> None:
        """Sign with the secret of each source."""
        if not sources:
            raise UsageError("a signature needs a secret")
        self._sources = sources

    def headers(
        self, *, event_id: str, method: str, path: str, content_type: str, body: bytes, at: datetime
    ) -> Mapping[str, str]:
        """Timestamp and signature; a DeliveryDeniedError when there is no secret."""
        timestamp = str(int(at.timestamp()))
        signatures = []
        for source in self._sources:
            try:
                key = _key(secret_of(source))
            except SignatureError as error:
                raise DeliveryDeniedError(str(error), retryable=True) from None
            signatures.append(f"{VERSION},{_signed(key, event_id, timestamp, body)}")
        return {TIMESTAMP_HEADER: timestamp, SIGNATURE_HEADER: " ".join(signatures)}


def verify(
    headers: Mapping[str, str],
    body: bytes,
    secrets: Iterable[str],
    *,
    now: datetime,
    tolerance_s: float = TOLERANCE_S,
) -> str:
    """The id of a webhook that one of the secrets signed; `body` as it came, not parsed and written again.

    What has been told is told again under the same id: whoever keeps the ids does nothing twice.

    Raises:
        SignatureError: it is not to be believed.
    """
    given = {name.lower(): value for name, value in headers.items()}
    event_id, timestamp = given.get(ID_HEADER, ""), given.get(TIMESTAMP_HEADER, "")
    if not event_id:
        raise SignatureError(f"{ID_HEADER} is missing", field=ID_HEADER)
    if not re.fullmatch(r"[0-9]{1,12}", timestamp) or abs(now.timestamp() - int(timestamp)) > tolerance_s:
        raise SignatureError(f"{TIMESTAMP_HEADER} is missing, invalid or too old", field=TIMESTAMP_HEADER)
    signatures = [
        one.partition(",")[2].encode("utf-8", "surrogatepass")
        for one in given.get(SIGNATURE_HEADER, "").split(" ")
        if one.startswith(f"{VERSION},")
    ]
    expected = [_signed(_key(secret), event_id, timestamp, body).encode() for secret in secrets]
    matches = [hmac.compare_digest(ours, theirs) for ours in expected for theirs in signatures]
    if not any(matches):
        raise SignatureError(f"{SIGNATURE_HEADER} is missing or wrong", field=SIGNATURE_HEADER)
    return event_id


def _signed(key: bytes, event_id: str, timestamp: str, body: bytes) -> str:
    text = f"{event_id}.{timestamp}.".encode("utf-8", "surrogatepass") + body
    return base64.b64encode(hmac.digest(key, text, "sha256")).decode()


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        raise SignatureError(f"a secret is {PREFIX} and Base64") from None
    if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        raise SignatureError(f"a secret has {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes")
    return key
