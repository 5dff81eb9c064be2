"""AES-256-GCM, which seals data keys, files and texts: its sizes, and `cryptography`, imported when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from callreel.errors import UsageError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["KEY_BYTES", "NONCE_BYTES", "TAG_BYTES", "aes_gcm", "opened"]

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16


def aes_gcm(secret: bytes) -> Any:
    """The cipher of a key, an AESGCM; UsageError when `cryptography` is not installed."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise UsageError(
            f"encryption needs cryptography: pip install 'callreel[encryption]' ({error})"
        ) from None
    return AESGCM(secret)


def opened(cipher: Any, nonce: bytes, sealed: Buffer, associated: bytes) -> bytes | None:
    """The plain text, or None when it is not authentic."""
    from cryptography.exceptions import InvalidTag

    try:
        plain: bytes = cipher.decrypt(nonce, sealed, associated)
    except InvalidTag:
        return None
    return plain
