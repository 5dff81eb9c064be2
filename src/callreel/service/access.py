"""Who may do what: a bearer token for each tenant, compared in constant time; a cookie for the operator's page."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Container, Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit

from callreel.notify.references import SecretSource, secret_of

__all__ = ["COOKIE", "SESSION_S", "Access", "is_loopback", "is_of_this_machine"]

COOKIE: Final = "callreel_session"
SESSION_S: Final = 12 * 3600
"""How long the cookie is good for."""
LEAST_TOKEN_CHARACTERS: Final = 16


class Access:
    """Tells whose request it is; any thread. Tokens are in no repr and no log."""

    def __init__(
        self,
        tokens: Mapping[str, SecretSource],
        *,
        is_open: bool = False,
        operators: Container[str] = (),
        metrics_token: SecretSource | None = None,
        key: bytes | None = None,
    ) -> None:
        """`tokens`: where each tenant's token is. `is_open`: everybody is the tenant "local", whatever they say.

        `operators`: tenants who see what is everybody's; a tenant who is alone is one. `metrics_token`: who has it may
        read the metrics and nothing else. `key`: 32 random bytes that cookies and forms are signed with, for processes
        that serve one address; by default drawn now.
        """
        self._tokens = dict(tokens)
        self._is_open = is_open
        self._operators = operators
        self._metrics_token = metrics_token
        self._key = key or secrets.token_bytes(32)

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
        given = _digest(token)
        found = None
        for tenant, source in self._tokens.items():
            if _is_same(given, source):
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

    def is_operator(self, tenant: str) -> bool:
        """Whether a tenant may see what is everybody's: calls and recordings of others, the figures of the process."""
        return self._is_open or tenant in self._operators or len(self._tokens) == 1

    def may_measure(self, authorization: str | None) -> bool:
        """Whether a request with this Authorization header brings the token for metrics."""
        scheme, _, token = (authorization or "").partition(" ")
        if self._metrics_token is None or scheme.lower() != "bearer":
            return False
        return _is_same(_digest(token.strip()), self._metrics_token)

    def form_token(self, cookie: str) -> str:
        """What a form of the page brings back to show that it is one of ours; `cookie` is the browser's."""
        return self._signed("form", cookie)

    def is_form_token(self, token: str, cookie: str) -> bool:
        """Whether a form was made for the browser with this cookie."""
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.form_token(cookie).encode())

    def cookie_for(self, tenant: str, *, now_s: float) -> str:
        """What the page's cookie says: whose it is, until when, and our signature; it does not outlive the key."""
        text = f"{tenant}.{int(now_s) + SESSION_S}"
        return f"{text}.{self._signed('session', text)}"

    def _tenant_of_cookie(self, cookie: str, now_s: float) -> str | None:
        text, _, signature = cookie.rpartition(".")
        tenant, _, until = text.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signed("session", text).encode()):
            return None
        return tenant if until.isdigit() and int(until) > now_s and tenant in self._tokens else None

    def _signed(self, purpose: str, text: str) -> str:
        return hmac.digest(self._key, f"{purpose}\0{text}".encode("utf-8", "surrogatepass"), "sha256").hex()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _is_same(given: bytes, source: SecretSource) -> bool:
    """Whether a token with this digest is the secret; one that is too short is nobody's."""
    expected = secret_of(source)
    is_same = hmac.compare_digest(given, hashlib.sha256(expected.encode()).digest())
    return is_same and len(expected) >= LEAST_TOKEN_CHARACTERS


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host in ("localhost", "[::1]"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_of_this_machine(scope: MutableMapping[str, Any]) -> bool:
    """Whether a request (ASGI) asks for a name of this machine, and no page of another site has a browser ask it.

    Such a page sends an Origin, or its browser says so in Sec-Fetch-Site; or it has a name of its own lead here. A link
    may stand on any page: who follows it sees what is there, and the page with the link does not.
    """
    given = {bytes(name): bytes(value).decode("latin-1") for name, value in scope["headers"]}
    host, origin = given.get(b"host"), given.get(b"origin")
    try:
        if host is not None and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            return False
        if origin is not None and urlsplit(origin).netloc != host:
            return False
    except ValueError:  # an address that is none
        return False
    is_link = scope.get("method") in ("GET", "HEAD") and given.get(b"sec-fetch-mode") == "navigate"
    return is_link or given.get(b"sec-fetch-site") != "cross-site"
