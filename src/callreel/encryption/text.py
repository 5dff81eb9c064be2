"""A short secret, sealed as JSON that may be written anywhere."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping

from callreel.encryption.cipher import NONCE_BYTES, TAG_BYTES, aes_gcm, opened
from callreel.encryption.errors import EncryptedFileError
from callreel.encryption.keys import Keys

__all__ = ["open_text", "seal_text"]

SEALED_LABEL = b"callreel sealed text 1\0"


def seal_text(text: str, keys: Keys) -> dict[str, str]:
    """A short secret, such as the credentials of a request, sealed for `keys`: JSON that may be written anywhere.

    Raises what `keys` raises.
    """
    data_key = keys.new_data_key()
    nonce = os.urandom(NONCE_BYTES)
    sealed = nonce + aes_gcm(data_key.secret).encrypt(nonce, text.encode(), SEALED_LABEL)
    return {
        "key_id": data_key.key_id,
        "wrapped": base64.b64encode(data_key.wrapped).decode(),
        "sealed": base64.b64encode(sealed).decode(),
    }


def open_text(sealed: Mapping[str, str], keys: Keys) -> str:
    """What `seal_text` has sealed; WrongKeyError, EncryptedFileError, and what `keys` raises."""
    try:
        wrapped, record = base64.b64decode(sealed["wrapped"]), base64.b64decode(sealed["sealed"])
        key_id = sealed["key_id"]
    except (KeyError, ValueError, TypeError) as error:
        raise EncryptedFileError("it is damaged") from error
    data_key = keys.open_data_key(key_id, wrapped)
    plain = None
    if len(record) >= NONCE_BYTES + TAG_BYTES:
        plain = opened(aes_gcm(data_key.secret), record[:NONCE_BYTES], record[NONCE_BYTES:], SEALED_LABEL)
    if plain is None:
        raise EncryptedFileError("it is damaged")
    return plain.decode()
