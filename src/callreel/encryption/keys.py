"""Data keys and where they come from: `Keys` in general, a file of one's own, and a supply that nobody waits for."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from callreel.encryption.cipher import KEY_BYTES, NONCE_BYTES, TAG_BYTES, aes_gcm, opened
from callreel.encryption.errors import EncryptedFileError, KeyServiceError, WrongKeyError
from callreel.errors import UsageError

__all__ = ["DataKey", "KeyFile", "Keys", "ReadyKeys"]

log = logging.getLogger("callreel.encryption")

WRAP_LABEL = b"callreel data key 1\0"
FILE_KEY_ID_LABEL = b"callreel key id 1\0"

KEYS_AHEAD = 32
"""Data keys that wait for recordings: so many may begin at one moment."""
KEYS_KNOWN = 1 << 16
"""Data keys that are kept; of recordings that were called off nobody says that they need theirs no more."""
KEY_RETRY_S = 1.0
"""Between questions to a key service that gives none."""


@dataclass(frozen=True, slots=True)
class DataKey:
    """The key of one recording, and how it is told to whoever may have it."""

    key_id: str
    """Of the key that it is wrapped by."""
    wrapped: bytes = field(repr=False)
    """Stands in the header of every file it encrypts."""
    secret: bytes = field(repr=False)
    """Never written anywhere."""


class Keys(Protocol):
    """Where data keys come from."""

    is_remote: bool
    """Whether each takes a request over the network."""

    def new_data_key(self) -> DataKey:
        """A data key for one recording."""
        ...

    def open_data_key(self, key_id: str, wrapped: bytes) -> DataKey:
        """The data key of a header.

        Raises WrongKeyError when it was wrapped by another key, EncryptedFileError when what is wrapped is damaged.
        """
        ...


class KeyFile:
    """A key in a file: 32 random bytes that nobody but the owner may read."""

    is_remote = False

    def __init__(self, path: Path) -> None:
        """Read the key; UsageError when the file is no such key, is not there, or others may read it."""
        self.path = path
        self._secret = _read_key(path)
        self.key_id = "file:" + hashlib.sha256(FILE_KEY_ID_LABEL + self._secret).hexdigest()[:16]
        """Tells keys apart and says nothing about this one."""

    def __repr__(self) -> str:
        """Name the file, never what is in it."""
        return f"KeyFile({str(self.path)!r})"

    def new_data_key(self) -> DataKey:
        """A random data key, wrapped by AES-256-GCM."""
        secret, nonce = os.urandom(KEY_BYTES), os.urandom(NONCE_BYTES)
        sealed = aes_gcm(self._secret).encrypt(nonce, secret, WRAP_LABEL + self.key_id.encode())
        return DataKey(self.key_id, nonce + sealed, secret)

    def open_data_key(self, key_id: str, wrapped: bytes) -> DataKey:
        """The data key that was wrapped by this file's key."""
        if key_id != self.key_id:
            raise WrongKeyError(f"it is encrypted for the key {key_id}, not for {self.key_id}")
        nonce, sealed = wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:]
        secret = None
        if len(sealed) == KEY_BYTES + TAG_BYTES:
            secret = opened(aes_gcm(self._secret), nonce, sealed, WRAP_LABEL + key_id.encode())
        if secret is None:
            raise EncryptedFileError("its header is damaged: the data key cannot be unwrapped")
        return DataKey(key_id, wrapped, secret)


def _read_key(path: Path) -> bytes:
    """The bytes of a key file, whose permissions are looked at; UsageError when it will not do."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise UsageError(f"the key file {path} cannot be read: {error.strerror or error}") from error
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"the key file {path} is not a regular file")
        if os.name == "posix":
            if found.st_mode & 0o077:
                raise UsageError(f"the key file {path} is open to others than its owner: chmod 600 {path}")
            if found.st_uid not in (os.geteuid(), 0):
                raise UsageError(f"the key file {path} belongs to another user")
        secret = file.read(KEY_BYTES + 1)
    if len(secret) != KEY_BYTES:
        raise UsageError(f"the key file {path} must hold exactly {KEY_BYTES} bytes")
    return secret


class ReadyKeys:
    """Data keys that are there when they are needed: made ahead where that takes a request, and known until forgotten.

    Any thread. Nobody waits for the key service but a thread of its own: where it has given no key, `new_data_key`
    raises a KeyServiceError that says why, and another try may succeed.
    """

    def __init__(self, keys: Keys) -> None:
        """Take data keys from `keys`; what it refuses for good is raised now."""
        self._keys = keys
        self._known: dict[bytes, DataKey] = {}
        self._ready: list[DataKey] = []
        self._error: KeyServiceError | None = None
        self._is_closed = False
        self._changed = threading.Condition()
        if keys.is_remote:
            try:
                self._ready.append(keys.new_data_key())
            except KeyServiceError as error:
                if not error.retryable:
                    raise
                self._error = error
            threading.Thread(target=self._make_ahead, name="callreel-keys", daemon=True).start()

    is_remote = False

    def new_data_key(self) -> DataKey:
        """A data key for one recording."""
        if not self._keys.is_remote:
            key = self._keys.new_data_key()
        else:
            with self._changed:
                if not self._ready:
                    raise KeyServiceError(
                        str(self._error or "AWS KMS has not given a key yet"), retryable=True
                    ) from self._error
                key = self._ready.pop()
                self._changed.notify()
        with self._changed:
            self._known[key.wrapped] = key
            if len(self._known) > KEYS_KNOWN:
                del self._known[next(iter(self._known))]
        return key

    def open_data_key(self, key_id: str, wrapped: bytes) -> DataKey:
        """The data key of a header: one that is known, or what the key service says."""
        known = self._known.get(wrapped)
        if known is not None and known.key_id == key_id:
            return known
        return self._keys.open_data_key(key_id, wrapped)

    def forget(self, data_key: DataKey) -> None:
        """Its recording needs it no more."""
        with self._changed:
            self._known.pop(data_key.wrapped, None)

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def _make_ahead(self) -> None:
        while True:
            with self._changed:
                while len(self._ready) >= KEYS_AHEAD and not self._is_closed:
                    self._changed.wait()
                if self._is_closed:
                    return
            try:
                key = self._keys.new_data_key()
            except Exception as error:
                refused = error
                if not isinstance(refused, KeyServiceError):  # of a library's, or our own: the thread goes on
                    log.exception("the key service could not be asked; it is asked again")
                    refused = KeyServiceError(f"there is no key: {type(error).__name__}", retryable=True)
                with self._changed:
                    self._error = refused
                    self._changed.wait(KEY_RETRY_S)
            else:
                with self._changed:
                    self._error = None
                    self._ready.append(key)
