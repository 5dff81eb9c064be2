"""Who may do what: a bearer token for each tenant, compared in constant time; a cookie for the operator's page."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from typing import Final

from callreel.errors import UsageError
from callreel.notify.references import SecretSource, secret_of

__all__ = ["COOKIE", "Access", "check_exposure", "is_loopback"]

COOKIE: Final = "callreel_session"
SESSION_S: Final = 12 * 3600
LEAST_TOKEN_CHARACTERS: Final = 16


class Access:
    """Tells whose request it is; any thread. Tokens are in no repr and no log."""

    def __init__(self, tokens: Mapping[str, SecretSource], *, is_open: bool = False) -> None:
        """`tokens`: where each tenant's token is. `is_open`: everybody is the tenant "local", whatever they say."""
        self._tokens = dict(tokens)
        self._is_open = is_open
        self._key = secrets.token_bytes(32)

    def __repr__(self) -> str:
        """Name the tenants."""
        return f"Access({sorted(self._tokens)})"

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a token."""
        return self._is_open

    def tenant_of(self, authorization: str | None, cookie: str | None = None, *, now_s: float) -> str | None:
        """Whose request it is by its Authorization header, or by the page's cookie; None for nobody's."""
        if self._is_open:
            return "local"
        if authorization is not None:
            scheme, _, token = authorization.partition(" ")
            return self.tenant_of_token(token.strip()) if scheme.lower() == "bearer" else None
        return None if cookie is None else self._tenant_of_cookie(cookie, now_s)

    def tenant_of_token(self, token: str) -> str | None:
        """Whose token it is. Every tenant's is compared, whichever it is."""
        given = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = None
        for tenant, source in self._tokens.items():
            expected = secret_of(source)
            if len(expected) < LEAST_TOKEN_CHARACTERS:
                continue
            if hmac.compare_digest(given, hashlib.sha256(expected.encode()).digest()):
                found = tenant
        return found

    def media_key(self, tenant: str) -> str:
        """What a tenant's media streams come with in their URL: made of the tenant's token, which it does not tell."""
        source = self._tokens.get(tenant)
        secret = "" if source is None else secret_of(source)
        return hmac.digest(secret.encode(), f"media streams of {tenant}".encode(), "sha256").hex()[:32]

    def tenant_of_media_key(self, key: str) -> str | None:
        """Whose media streams come with that key. Every tenant's is compared, whichever it is."""
        if self._is_open:
            return "local"
        found = None
        for tenant, source in self._tokens.items():
            is_theirs = hmac.compare_digest(
                key.encode("utf-8", "surrogateescape"), self.media_key(tenant).encode()
            )
            if is_theirs and len(secret_of(source)) >= LEAST_TOKEN_CHARACTERS:
                found = tenant
        return found

    def cookie_for(self, tenant: str, *, now_s: float) -> str:
        """What the page's cookie says: whose it is, until when, and our signature; it does not outlive the process."""
        text = f"{tenant}.{int(now_s) + SESSION_S}"
        return f"{text}.{self._signed(text)}"

    def _tenant_of_cookie(self, cookie: str, now_s: float) -> str | None:
        text, _, signature = cookie.rpartition(".")
        tenant, _, until = text.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signed(text).encode()):
            return None
        return tenant if until.isdigit() and int(until) > now_s and tenant in self._tokens else None

    def _signed(self, text: str) -> str:
        return hmac.digest(self._key, text.encode(), "sha256").hex()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, access: Access) -> None:
    """Refuse to listen where others come in and nobody is asked who they are."""
    if access.is_open and not is_loopback(host):
        raise UsageError(
            f"without authentication the service listens on loopback only, not on {host}: give tenants tokens"
        )
