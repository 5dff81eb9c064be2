"""Bearer tokens of Microsoft Entra: JSON Web Tokens that say which application asks, and what it may.

Source: RFC 7519, RFC 7517 and "Access tokens in the Microsoft identity platform". PyJWT verifies them: it is the
library that most of Python uses for it, it has no dependency but `cryptography`, which we have anyway, and it takes
keys, issuers and audiences from us and fetches nothing by itself. What may go wrong in between is decided here:

1. Only signatures with a private key count (RS, PS, ES): no token says itself which kind its key is.
2. `exp`, `iss` and `aud` must be there, and be ours; clocks may be 5 minutes off, as Microsoft's own libraries have it.
3. An application asks for itself, with the role Calls.AccessMedia.All; who asks for a user (`scp`) may not.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from callreel.errors import InvalidActionError, UsageError
from callreel.service.vendors import GraphSettings

__all__ = ["ROLE", "TokenError", "Tokens"]

ROLE: Final = "Calls.AccessMedia.All"
LEEWAY_S: Final = 300
ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"}
)


class TokenError(InvalidActionError):
    """A token that does not do; `status` and `code` are those of Microsoft Graph."""

    def __init__(self, status: int, code: str, message: str) -> None:
        """Keep what is answered."""
        super().__init__(message)
        self.status, self.code = status, code


class Tokens:
    """Reads tokens; any thread."""

    def __init__(self, settings: GraphSettings) -> None:
        """Trust the issuers and keys of `settings`."""
        self._settings = settings
        self._read: tuple[Any, list[Any]] | None = None
        self._lock = threading.Lock()
        if settings.jwks is not None:
            self._keys()  # a mistake in them is told now

    def application_of(self, token: str) -> str:
        """The id of the application that asks; TokenError when it may not."""
        claims = self._claims(token)
        if "scp" in claims:
            raise TokenError(403, "accessDenied", "Delegated permissions are not supported.")
        roles = claims.get("roles")
        if not isinstance(roles, list) or ROLE not in roles:
            raise TokenError(403, "accessDenied", f"The application lacks the permission {ROLE}.")
        application = claims.get("azp", claims.get("appid"))
        if not isinstance(application, str) or application not in self._settings.applications:
            raise TokenError(403, "accessDenied", "The application is not registered here.")
        return application

    def _claims(self, token: str) -> Mapping[str, Any]:
        if self._settings.jwks is None:
            raise TokenError(401, "InvalidAuthenticationToken", "The access token is invalid.")
        import jwt

        try:
            header = jwt.get_unverified_header(token)
            for key in self._keys():
                if header.get("kid") is not None and key.key_id != header["kid"]:
                    continue
                try:
                    claims: Mapping[str, Any] = jwt.decode(
                        token,
                        key,
                        algorithms=[key.algorithm_name],
                        audience=list(self._settings.audiences),
                        issuer=list(self._settings.issuers),
                        leeway=LEEWAY_S,
                        options={"require": ["exp", "iss", "aud"]},
                    )
                except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError):
                    continue  # that of another key
                return claims
        except jwt.ExpiredSignatureError:
            raise TokenError(401, "InvalidAuthenticationToken", "The access token has expired.") from None
        except (jwt.PyJWTError, ValueError, TypeError):
            pass  # what is wrong with it is nobody's business
        raise TokenError(401, "InvalidAuthenticationToken", "The access token is invalid.")

    def _keys(self) -> list[Any]:
        """The issuers' keys."""
        source = self._settings.jwks
        with self._lock:
            state: Any = None
            if isinstance(source, Path):
                try:
                    about = source.stat()
                except OSError as error:
                    raise UsageError(f"cannot read the keys in {source}: {error.strerror}") from None
                state = about.st_mtime_ns, about.st_size, about.st_ino
            if self._read is None or self._read[0] != state:
                self._read = state, _keys_of(source)
            return self._read[1]


def _keys_of(source: Path | Mapping[str, Any] | None) -> list[Any]:
    try:
        import jwt
    except ImportError:
        raise UsageError("tokens of Microsoft Graph need PyJWT: pip install callreel[server]") from None

    where = source if isinstance(source, Path) else "jwks"
    try:
        document = json.loads(source.read_bytes()) if isinstance(source, Path) else source
        found = jwt.PyJWKSet.from_dict(dict(document or {})).keys
    except (OSError, ValueError, TypeError, AttributeError, jwt.PyJWTError) as error:
        raise UsageError(f"there are no keys in {where}: {type(error).__name__}") from None
    keys = [key for key in found if key.algorithm_name in ALGORITHMS]
    if not keys:
        raise UsageError(f"there are no public keys in {where} that tokens could be signed for")
    return keys
