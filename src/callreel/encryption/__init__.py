"""Files encrypted at rest: AES-256-GCM in chunks, one data key a recording, wrapped by a key file or by AWS KMS.

One module an idea: `keys` and `kms`, where data keys come from; `format`, a file bit by bit; `writing` and `reading`,
how one is made and read; `text`, short secrets; `cipher`, what these seal with; `errors`, what can be wrong.
"""

from __future__ import annotations

from callreel.encryption.errors import EncryptedFileError, KeyServiceError, WrongKeyError
from callreel.encryption.keys import DataKey, KeyFile, Keys, ReadyKeys
from callreel.encryption.kms import KmsKey
from callreel.encryption.reading import SealedReader, decrypt_file, is_encrypted, key_id_of
from callreel.encryption.text import open_text, seal_text
from callreel.encryption.writing import (
    CHUNK_BYTES,
    GROWING_CHUNK_BYTES,
    Encrypted,
    Encryptor,
    SealedFile,
    encrypt_file,
)

__all__ = [
    "CHUNK_BYTES",
    "GROWING_CHUNK_BYTES",
    "DataKey",
    "Encrypted",
    "EncryptedFileError",
    "Encryptor",
    "KeyFile",
    "KeyServiceError",
    "Keys",
    "KmsKey",
    "ReadyKeys",
    "SealedFile",
    "SealedReader",
    "WrongKeyError",
    "decrypt_file",
    "encrypt_file",
    "is_encrypted",
    "key_id_of",
    "open_text",
    "seal_text",
]
