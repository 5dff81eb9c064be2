"""Files encrypted at rest: AES-256-GCM in chunks, one data key a recording, wrapped by a key file or by AWS KMS.

A file is a header, a place for one record where the file is one that grows, and records, each a chunk of plain text:

     0               1               2               3
     0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7
    +---------------+---------------+---------------+---------------+
    |     0x89      |      'C'      |      'R'      |      'E'      |  0
    |      'N'      |      'C'      |      CR       |      LF       |  4
    +---------------+---------------+---------------+---------------+
    |  version = 1  | log2 of chunk |0 0 0 0 0 0 0 J| key id length |  8    J: a journal follows the header
    |     wrapped key length        |             0                 | 12    big-endian, as all numbers
    +-------------------------------+-------------------------------+
    |                  salt, 32 random bytes                    ... | 16
    |                  key id, UTF-8                            ... | 48
    |                  wrapped data key                         ... |
    |                  header tag, 16 bytes                     ... |
    +---------------------------------------------------------------+
    |  J: index of the record in the journal, 8 bytes           ... |
    |     its length, 4 bytes; the record, padded to the longest ... |
    +---------------------------------------------------------------+
    |  record 0 | record 1 | ... | record n-1                       |
    +---------------------------------------------------------------+

    record: | nonce, 12 random bytes | cipher text, a chunk or, in the last one, less | GCM tag, 16 bytes |
    additional data: index, 8 bytes | 1 for the last record of a finished file, else 0 |

    file key (32 bytes), header tag (16) = HMAC-SHA-512(data key, LABEL, everything before the header tag)

What is detected, and by what:

1. A flipped bit: in a record by its tag; in the header by the header tag, or because no key fits.
2. Truncation: record n-1 alone was sealed as the last one, and a reader looks at it before it gives anything. A file
   that was never finished is told apart from one that is damaged.
3. Reordering, duplication, something inserted: every record's index is authenticated.
4. Splicing between files, of the same recording too: each file has a salt, and with it a key of its own.

Writing anew. Every record is sealed with a fresh random nonce, so a chunk may be sealed again, longer or patched, at
any time: no nonce is chosen by position. NIST SP 800-38D, 8.3, allows 2**32 random nonces under one key, which is here
the key of one file; a recording that is flushed five times a second gets there after years, and is told.

A growing file (`SealedFile` with a journal) survives the death of its process at any moment: a record that is there
already is written to the journal first, then to its place, so that one of the two is whole. Limits: a power failure
keeps only what has been synchronised, as with any file; and whoever can write to the folder may put back older versions
of records of the same file, or cut a file that was never finished, unnoticed. Finished files that are written once
(`encrypt_file`, `Encryptor`) have no older versions. The journal is no part of the plain text: nobody looks at it in a
finished file.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import io
import logging
import os
import stat
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol

from callreel.durable import written_whole
from callreel.errors import CallreelError, MediaError, UsageError
from callreel.quiet import keep_boto3_quiet
from callreel.seeking import SeekingReader

if TYPE_CHECKING:
    from typing_extensions import Buffer

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

log = logging.getLogger("callreel.encryption")

MAGIC = b"\x89CRENC\r\n"
VERSION = 1
JOURNAL = 1
FIXED = struct.Struct(">8sBBBBHH32s")
ASSOCIATED = struct.Struct(">QB")
JOURNALLED = struct.Struct(">QI")

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
RECORD_EXTRA_BYTES = NONCE_BYTES + TAG_BYTES

CHUNK_BYTES = 64 << 10
"""Of a file written once: an overhead of 0.04 %."""
GROWING_CHUNK_BYTES = 4 << 10
"""Of a file that grows: what a flush writes twice; an overhead of 0.7 %."""
CHUNK_LOG2 = range(6, 21)
"""The chunk sizes there are: 64 bytes to 1 MiB, so that no header makes a reader ask for much memory."""
MOST_KEY_ID_BYTES = 255
MOST_WRAPPED_BYTES = 8192
"""AWS KMS gives at most 6,144 bytes."""
MOST_RECORDS = 1 << 32
"""Sealed under the key of one file, again and again the same ones included."""

MOST_HELD_CHUNKS = 32
"""Plain chunks that a file which is written holds back."""

LABEL = b"callreel encrypted file 1\0"
WRAP_LABEL = b"callreel data key 1\0"
SEALED_LABEL = b"callreel sealed text 1\0"
FILE_KEY_ID_LABEL = b"callreel key id 1\0"
KMS_CONTEXT = {"application": "callreel"}
"""AWS KMS wants the same again to decrypt; policies may demand it (kms:EncryptionContext:application)."""


class EncryptedFileError(MediaError):
    """Not an encrypted file of ours, or one that was damaged, cut or put together from others."""


class WrongKeyError(EncryptedFileError):
    """The file was encrypted for another key than the one given; the text says for which."""


class KeyServiceError(CallreelError, OSError):
    """AWS KMS refused, or was not reached; `retryable` says whether to try again."""

    def __init__(self, message: str, *, retryable: bool) -> None:
        """Keep whether another try can help."""
        super().__init__(message)
        self.retryable = retryable


# ---- keys ----------------------------------------------------------------------------------------------------


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
        sealed = _aes_gcm(self._secret).encrypt(nonce, secret, WRAP_LABEL + self.key_id.encode())
        return DataKey(self.key_id, nonce + sealed, secret)

    def open_data_key(self, key_id: str, wrapped: bytes) -> DataKey:
        """The data key that was wrapped by this file's key."""
        if key_id != self.key_id:
            raise WrongKeyError(f"it is encrypted for the key {key_id}, not for {self.key_id}")
        nonce, sealed = wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:]
        secret = None
        if len(sealed) == KEY_BYTES + TAG_BYTES:
            secret = _opened(_aes_gcm(self._secret), nonce, sealed, WRAP_LABEL + key_id.encode())
        if secret is None:
            raise EncryptedFileError("its header is damaged: the data key cannot be unwrapped")
        return DataKey(key_id, wrapped, secret)


class KmsKey:
    """A key that never leaves AWS KMS; every recording takes one GenerateDataKey, every file read one Decrypt."""

    is_remote = True

    def __init__(
        self,
        key_id: str | None = None,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        client: Any = None,
    ) -> None:
        """Use the KMS key of this id, alias or ARN; None decrypts with whichever key a file names.

        `client`: boto3's for "kms", when the default chain of credentials is not the one to take.
        """
        self._key_id = key_id
        keep_boto3_quiet()
        self._client = client
        self._client_settings = {"region_name": region, "endpoint_url": endpoint_url}

    def __repr__(self) -> str:
        """Name the key."""
        return f"KmsKey({self._key_id!r})"

    def new_data_key(self) -> DataKey:
        """A data key that KMS made and wrapped."""
        if self._key_id is None:
            raise UsageError("to encrypt, KmsKey needs the id of a key")
        answer = self._ask(
            "generate_data_key", KeyId=self._key_id, KeySpec="AES_256", EncryptionContext=KMS_CONTEXT
        )
        return DataKey(f"kms:{answer['KeyId']}", answer["CiphertextBlob"], answer["Plaintext"])

    def open_data_key(self, key_id: str, wrapped: bytes) -> DataKey:
        """The data key, unwrapped by KMS."""
        scheme, _, own_id = key_id.partition(":")
        if scheme != "kms" or not own_id:
            raise WrongKeyError(f"it is encrypted for the key {key_id}, not for one of AWS KMS")
        answer = self._ask(
            "decrypt",
            CiphertextBlob=wrapped,
            KeyId=self._key_id or own_id,
            EncryptionContext=KMS_CONTEXT,
        )
        secret: bytes = answer["Plaintext"]
        if len(secret) != KEY_BYTES:
            raise EncryptedFileError("its header is damaged: what KMS unwraps is no data key")
        return DataKey(key_id, wrapped, secret)

    def _ask(self, operation: str, **arguments: Any) -> Mapping[str, Any]:
        import botocore.exceptions

        try:
            if self._client is None:
                import boto3

                self._client = boto3.client("kms", **self._client_settings)
            answer: Mapping[str, Any] = getattr(self._client, operation)(**arguments)
        except botocore.exceptions.ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code == "IncorrectKeyException":
                raise WrongKeyError(f"it is encrypted for another key than {self._key_id}") from error
            if code == "InvalidCiphertextException":
                raise EncryptedFileError("its header is damaged: KMS cannot unwrap the data key") from error
            retryable = code in KMS_RETRYABLE or status >= 500
            raise KeyServiceError(f"AWS KMS refuses {operation}: {code}", retryable=retryable) from error
        except botocore.exceptions.BotoCoreError as error:
            lost = isinstance(
                error, botocore.exceptions.HTTPClientError | botocore.exceptions.ConnectionError
            )
            raise KeyServiceError(f"AWS KMS cannot be asked: {error}", retryable=lost) from error
        return answer


KMS_RETRYABLE = frozenset(
    {
        "DependencyTimeoutException",
        "KMSInternalException",
        "KeyUnavailableException",
        "LimitExceededException",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
    }
)


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


KEYS_AHEAD = 32
"""Data keys that wait for recordings: so many may begin at one moment."""
KEYS_KNOWN = 1 << 16
"""Data keys that are kept; of recordings that were called off nobody says that they need theirs no more."""
KEY_RETRY_S = 1.0
"""Between questions to a key service that gives none."""


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


def _aes_gcm(secret: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise UsageError(
            f"encryption needs cryptography: pip install 'callreel[encryption]' ({error})"
        ) from None
    return AESGCM(secret)


def _opened(cipher: Any, nonce: bytes, sealed: Buffer, associated: bytes) -> bytes | None:
    """The plain text, or None when it is not authentic."""
    from cryptography.exceptions import InvalidTag

    try:
        plain: bytes = cipher.decrypt(nonce, sealed, associated)
    except InvalidTag:
        return None
    return plain


# ---- headers and records -------------------------------------------------------------------------------------


class _Header(NamedTuple):
    """The beginning of an encrypted file."""

    raw: bytes
    """Without its tag."""
    tag: bytes
    key_id: str
    wrapped: bytes
    chunk_bytes: int
    has_journal: bool

    @property
    def journal_offset(self) -> int:
        return len(self.raw) + TAG_BYTES

    @property
    def record_bytes(self) -> int:
        """Of a whole chunk."""
        return self.chunk_bytes + RECORD_EXTRA_BYTES

    @property
    def records_offset(self) -> int:
        return self.journal_offset + self.has_journal * (JOURNALLED.size + self.record_bytes)


def _new_header(data_key: DataKey, chunk_bytes: int, has_journal: bool) -> _Header:
    log2 = chunk_bytes.bit_length() - 1
    if log2 not in CHUNK_LOG2 or chunk_bytes != 1 << log2:
        raise ValueError(f"chunk_bytes={chunk_bytes} is no power of two from 64 to 1,048,576")
    key_id = data_key.key_id.encode()
    if not 0 < len(key_id) <= MOST_KEY_ID_BYTES or not 0 < len(data_key.wrapped) <= MOST_WRAPPED_BYTES:
        raise ValueError("the key's id or the wrapped data key does not fit into a header")
    flags = JOURNAL if has_journal else 0
    fixed = FIXED.pack(MAGIC, VERSION, log2, flags, len(key_id), len(data_key.wrapped), 0, os.urandom(32))
    raw = fixed + key_id + data_key.wrapped
    _, tag = _derive(data_key.secret, raw)
    return _Header(raw, tag, data_key.key_id, data_key.wrapped, chunk_bytes, has_journal)


def _read_header(file: BinaryIO) -> _Header:
    """Read what stands at the beginning of `file`; EncryptedFileError when it is no header."""
    file.seek(0)
    fixed = file.read(FIXED.size)
    if fixed[: len(MAGIC)] != MAGIC:
        raise EncryptedFileError("it is not a file encrypted by callreel", offset=0)
    if len(fixed) < FIXED.size:
        raise EncryptedFileError("it ends within its header", offset=len(fixed))
    _, version, log2, flags, id_bytes, wrapped_bytes, zero, _ = FIXED.unpack(fixed)
    if version != VERSION:
        raise EncryptedFileError(f"it has version {version} of the format, this is for {VERSION}", offset=8)
    if log2 not in CHUNK_LOG2 or flags & ~JOURNAL or zero or not id_bytes:
        raise EncryptedFileError("its header is damaged", offset=9)
    if not 0 < wrapped_bytes <= MOST_WRAPPED_BYTES:
        raise EncryptedFileError("its header is damaged", offset=12)
    rest = file.read(id_bytes + wrapped_bytes + TAG_BYTES)
    if len(rest) < id_bytes + wrapped_bytes + TAG_BYTES:
        raise EncryptedFileError("it ends within its header", offset=FIXED.size + len(rest))
    try:
        key_id = rest[:id_bytes].decode()
    except UnicodeDecodeError:
        key_id = ""
    if not key_id.isprintable() or not key_id:
        raise EncryptedFileError("its header is damaged", offset=FIXED.size)
    raw, tag = fixed + rest[:-TAG_BYTES], rest[-TAG_BYTES:]
    return _Header(raw, tag, key_id, rest[id_bytes:-TAG_BYTES], 1 << log2, bool(flags & JOURNAL))


def _derive(secret: bytes, raw_header: bytes) -> tuple[bytes, bytes]:
    """The key of one file and the tag of its header."""
    derived = hmac.digest(secret, LABEL + raw_header, "sha512")
    return derived[:KEY_BYTES], derived[KEY_BYTES : KEY_BYTES + TAG_BYTES]


class _Records:
    """Seals and opens the records of one file."""

    def __init__(self, header: _Header, data_key: DataKey) -> None:
        file_key, tag = _derive(data_key.secret, header.raw)
        if not hmac.compare_digest(tag, header.tag):
            raise EncryptedFileError("its header is damaged", offset=0)
        self._cipher = _aes_gcm(file_key)
        self._sealed = 0

    def seal(self, index: int, plain: Buffer, *, last: bool) -> bytes:
        self._sealed += 1
        if self._sealed > MOST_RECORDS:
            raise UsageError("too much has been written under one key; begin another file")
        nonce = os.urandom(NONCE_BYTES)
        sealed: bytes = self._cipher.encrypt(nonce, plain, ASSOCIATED.pack(index, last))
        return nonce + sealed

    def open(self, index: int, record: bytes, *, last: bool) -> bytes | None:
        if len(record) < RECORD_EXTRA_BYTES:
            return None
        sealed = memoryview(record)[NONCE_BYTES:]
        return _opened(self._cipher, record[:NONCE_BYTES], sealed, ASSOCIATED.pack(index, last))


def seal_text(text: str, keys: Keys) -> dict[str, str]:
    """A short secret, such as the credentials of a request, sealed for `keys`: JSON that may be written anywhere.

    Raises what `keys` raises.
    """
    data_key = keys.new_data_key()
    nonce = os.urandom(NONCE_BYTES)
    sealed = nonce + _aes_gcm(data_key.secret).encrypt(nonce, text.encode(), SEALED_LABEL)
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
        plain = _opened(_aes_gcm(data_key.secret), record[:NONCE_BYTES], record[NONCE_BYTES:], SEALED_LABEL)
    if plain is None:
        raise EncryptedFileError("it is damaged")
    return plain.decode()


def is_encrypted(file: BinaryIO | SealedReader) -> bool:
    """Whether a file begins like an encrypted one; it is left at its beginning."""
    file.seek(0)
    found = file.read(len(MAGIC)) == MAGIC
    file.seek(0)
    return found


def key_id_of(file: BinaryIO) -> str:
    """The id of the key that a file is encrypted for, not authenticated; EncryptedFileError when it has none."""
    return _read_header(file).key_id


# ---- writing -------------------------------------------------------------------------------------------------


class Encryptor:
    """Encrypts a stream: `start`, any number of `add`, `finish`; each gives the next bytes of the file."""

    def __init__(self, data_key: DataKey, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        """Encrypt for `data_key`; `chunk_bytes`: a power of two from 64 to 1,048,576."""
        self._header = _new_header(data_key, chunk_bytes, has_journal=False)
        self._records = _Records(self._header, data_key)
        self._held = bytearray()
        self._index = 0

    def start(self) -> bytes:
        """The header."""
        return self._header.raw + self._header.tag

    def add(self, plain: Buffer) -> bytes:
        """The records that are full; what may become the last one is held back."""
        self._held += plain
        step = self._header.chunk_bytes
        full = max(0, len(self._held) - 1) // step
        if not full:
            return b""
        held = memoryview(self._held)
        sealed = [
            self._records.seal(self._index + number, held[number * step : (number + 1) * step], last=False)
            for number in range(full)
        ]
        held.release()
        del self._held[: full * step]
        self._index += full
        return b"".join(sealed)

    def finish(self) -> bytes:
        """The last record."""
        return self._records.seal(self._index, self._held, last=True)


class SealedFile:
    """A file that is encrypted as it is written, at any offset; nothing of it is on disk in the clear.

    It belongs to one thread at a time. What was written is on disk after `flush`, and whole after `finish`.
    """

    def __init__(
        self,
        file: BinaryIO,
        data_key: DataKey,
        *,
        chunk_bytes: int = GROWING_CHUNK_BYTES,
        journal: bool = True,
    ) -> None:
        """Begin an encrypted file in `file`, which is empty, seekable, and open for reading and writing.

        `journal`: so that it can be read when its process dies, at any moment; not needed where it is then written
        anew anyway. `chunk_bytes`: a power of two from 64 to 1,048,576; a flush writes a few of these.
        """
        self._file = file
        self._header = _new_header(data_key, chunk_bytes, journal)
        self._records = _Records(self._header, data_key)
        self._held: dict[int, bytearray] = {}  # plain chunks, of which the last one is always there
        self._dirty: set[int] = set()
        self._stored = 0  # records that are in the file
        self._size_bytes = 0
        self._finished = False
        self._write(0, self._header.raw + self._header.tag)
        if journal:
            self._write(self._header.journal_offset, bytes(JOURNALLED.size + self._header.record_bytes))

    @classmethod
    def reopened(cls, file: BinaryIO, keys: Keys) -> SealedFile:
        """Go on with a growing file that was closed, or that a dead process left, with what had been flushed in it.

        Raises WrongKeyError, EncryptedFileError, and what `keys` raises; UsageError when it was finished, or has no
        journal and so cannot go on.
        """
        reader = SealedReader(file, keys, unfinished=True)
        if reader.is_finished or not reader.header.has_journal:
            raise UsageError("a file that was finished, or has no journal, does not grow any more")
        self = cls.__new__(cls)
        self._file, self._header, self._records = file, reader.header, reader.records
        self._size_bytes, self._stored, self._finished = reader.size_bytes, reader.count, False
        self._dirty = set()
        self._held = {reader.count - 1: bytearray(reader.last_chunk)} if reader.count else {}
        found = reader.journalled()
        if found is not None and found[0] < self._stored:
            index, record = found
            if self._records.open(index, reader.record(index), last=False) is None:
                self._write(self._place(index), record)  # its process died between the journal and the place
        self._cut()
        return self

    @property
    def size_bytes(self) -> int:
        """How much has been written, in the clear."""
        return self._size_bytes

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write at `offset`, over what is there or behind it; a gap is filled with zeros."""
        if self._finished:
            raise UsageError("this file has been finished")
        if offset < 0:
            raise ValueError(f"offset={offset}")
        while offset > self._size_bytes:
            self._put(self._size_bytes, bytes(min(offset - self._size_bytes, self._header.chunk_bytes)))
        self._put(offset, data)

    def _put(self, offset: int, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        step = self._header.chunk_bytes
        done = 0
        while done < len(view):
            index, at = divmod(offset + done, step)
            piece = view[done : done + step - at]
            chunk = self._held.get(index)
            if chunk is None:
                chunk = self._held[index] = bytearray(self._read(index) if index < self._stored else b"")
            chunk[at : at + len(piece)] = piece
            self._dirty.add(index)
            done += len(piece)
            self._size_bytes = max(self._size_bytes, offset + done)
            if len(self._held) > MOST_HELD_CHUNKS:
                self._store(all_but_last=True)

    def truncate(self, size_bytes: int) -> None:
        """Make it shorter; on the disk too, whenever its process dies."""
        if not 0 <= size_bytes < self._size_bytes:
            return
        step = self._header.chunk_bytes
        self._store(all_but_last=False)
        tail = max(0, size_bytes - 1) // step
        chunk = bytearray(self.read_at(tail * step, step))
        self._size_bytes, self._stored = min(self._size_bytes, (tail + 1) * step), tail + 1
        self._held = {tail: chunk}
        self._cut()  # whole chunks first: what is left is whole at any moment
        del chunk[size_bytes - tail * step :]
        self._size_bytes = size_bytes
        self._write_record(tail, self._records.seal(tail, chunk, last=False))
        self._cut()

    def _place(self, index: int) -> int:
        return self._header.records_offset + index * self._header.record_bytes

    def _cut(self) -> None:
        """Let the file end where its last record does."""
        end = self._place(0)
        if self._stored:
            at = self._stored - 1
            end = self._place(at) + RECORD_EXTRA_BYTES + self._size_bytes - at * self._header.chunk_bytes
        self._file.truncate(end)

    def read_at(self, offset: int, size: int) -> bytes:
        """Read what was written, flushed or not; less where it ends."""
        step = self._header.chunk_bytes
        end = min(offset + size, self._size_bytes)
        pieces = []
        while offset < end:
            index, at = divmod(offset, step)
            chunk = self._held.get(index)
            piece = bytes((self._read(index) if chunk is None else chunk)[at : at + end - offset])
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces)

    def flush(self) -> None:
        """Put everything written into the file."""
        if not self._finished:
            self._store(all_but_last=False)
        self._file.flush()

    def finish(self) -> None:
        """Flush, and mark the end: from now on the file is whole."""
        if self._finished:
            return
        self._store(all_but_last=True)
        tail = self._tail_index
        self._write_record(tail, self._records.seal(tail, self._held.get(tail, b""), last=True))
        self._dirty.clear()
        self._finished = True
        self._file.flush()

    @property
    def _tail_index(self) -> int:
        return max(0, self._size_bytes - 1) // self._header.chunk_bytes

    def _store(self, *, all_but_last: bool) -> None:
        tail = self._tail_index
        for index in sorted(self._dirty):
            if not (all_but_last and index == tail):
                self._write_record(index, self._records.seal(index, self._held[index], last=False))
                self._dirty.discard(index)
        for index in [index for index in self._held if index != tail]:
            del self._held[index]

    def _write_record(self, index: int, record: bytes) -> None:
        if self._header.has_journal and index < self._stored:
            # In this order, or a death in between could leave neither.
            self._write(self._header.journal_offset, JOURNALLED.pack(index, len(record)) + record)
        self._write(self._place(index), record)
        self._stored = max(self._stored, index + 1)

    def _write(self, offset: int, data: bytes) -> None:
        self._file.seek(offset)
        done = self._file.write(data)
        while done < len(data):  # only files without a buffer write less than they are given
            done += self._file.write(data[done:])
        self._file.flush()

    def _read(self, index: int) -> bytes:
        self._file.seek(self._place(index))
        plain = self._records.open(index, self._file.read(self._header.record_bytes), last=False)
        if plain is None:
            raise EncryptedFileError("the file was changed while it was written", offset=self._place(index))
        return plain


class Encrypted(NamedTuple):
    """What an encrypted file turned out to be."""

    size_bytes: int
    sha256: str
    """Of the encrypted file, hexadecimal."""


def encrypt_file(
    source: Path, target: Path, data_key: DataKey, *, chunk_bytes: int = CHUNK_BYTES
) -> Encrypted:
    """Encrypt a file; `target` appears whole or not at all."""
    encryptor = Encryptor(data_key, chunk_bytes=chunk_bytes)
    digest = hashlib.sha256()
    with source.open("rb") as plain, written_whole(target) as file:
        pieces = iter(lambda: plain.read(PIECE_BYTES), b"")
        for piece in _encrypted(encryptor, pieces):
            digest.update(piece)
            file.write(piece)
        size_bytes = file.tell()
    return Encrypted(size_bytes, digest.hexdigest())


def _encrypted(encryptor: Encryptor, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield encryptor.start()
    for piece in pieces:
        yield encryptor.add(piece)
    yield encryptor.finish()


PIECE_BYTES = 1 << 18
"""Read at a time."""


# ---- reading -------------------------------------------------------------------------------------------------


class SealedReader(SeekingReader):
    """The plain text of an encrypted file, seekable; no byte of it is given before it is known to be authentic."""

    def __init__(self, file: BinaryIO, keys: Keys, *, unfinished: bool = False) -> None:
        """Open an encrypted file.

        `unfinished`: take what is authentic of one that was still being written when its process died. Its end may be
        missing; chunks that cannot be read are zeros, and `lost_bytes` says how many.

        Raises WrongKeyError, EncryptedFileError, and what `keys` raises.
        """
        super().__init__()
        self._file = file
        self.header = header = _read_header(file)
        self.data_key = keys.open_data_key(header.key_id, header.wrapped)
        """For files of the same recording."""
        self.records = _Records(header, self.data_key)
        self._unfinished = unfinished
        self.is_finished = False
        """Whether its writer came to its end."""
        self._lost: set[int] = set()
        self._kept: tuple[int, bytes] = (-1, b"")
        file_bytes = file.seek(0, io.SEEK_END)
        self.count = max(0, -(-(file_bytes - header.records_offset) // header.record_bytes))
        self.last_chunk = self._find_last_chunk()
        self.size_bytes = max(0, self.count - 1) * header.chunk_bytes + len(self.last_chunk)
        """Of the plain text."""

    def _find_last_chunk(self) -> bytes:
        """The last chunk there is, which tells whether the file is whole."""
        at = self.count - 1
        record = self.record(at) if at >= 0 else b""
        last = self.records.open(at, record, last=True)
        if last is not None:
            self.is_finished = True
            return last
        if not self._unfinished:
            offset = self.header.records_offset + max(0, at) * self.header.record_bytes
            if at < 0 or self.records.open(at, record, last=False) is not None:
                raise EncryptedFileError("it has been cut, or was never finished", offset=offset)
            raise EncryptedFileError("its end is damaged or has been cut", offset=offset)
        while self.count:
            at = self.count - 1
            for last_too in (False, True):
                for found in (self.record(at), self._journalled(at)):
                    chunk = self.records.open(at, found, last=last_too)
                    if chunk is not None:
                        return chunk
            self.count -= 1  # it was being written
        return b""

    def record(self, index: int) -> bytes:
        """The record in its place, authentic or not."""
        self._file.seek(self.header.records_offset + index * self.header.record_bytes)
        return self._file.read(self.header.record_bytes)

    def journalled(self) -> tuple[int, bytes] | None:
        """The record in the journal and its index; None where there is none that is authentic."""
        if not self.header.has_journal:
            return None
        self._file.seek(self.header.journal_offset)
        head = self._file.read(JOURNALLED.size)
        if len(head) < JOURNALLED.size:
            return None
        index, size = JOURNALLED.unpack(head)
        record = self._file.read(size) if size <= self.header.record_bytes else b""
        return None if self.records.open(index, record, last=False) is None else (index, record)

    def _journalled(self, index: int) -> bytes:
        """The record of that index in the journal, if it is the one there."""
        found = self.journalled()
        return found[1] if found is not None and found[0] == index else b""

    def _chunk(self, index: int) -> bytes:
        if index == self.count - 1:
            return self.last_chunk
        if self._kept[0] == index:
            return self._kept[1]
        chunk = self._whole_chunk(index, self.record(index))
        if chunk is None and self._unfinished:
            chunk = self._whole_chunk(index, self._journalled(index))
            if chunk is None:
                chunk = bytes(self.header.chunk_bytes)
                self._lost.add(index)
        if chunk is None:
            offset = self.header.records_offset + index * self.header.record_bytes
            raise EncryptedFileError("it is damaged", offset=offset)
        self._kept = (index, chunk)
        return chunk

    def _whole_chunk(self, index: int, record: bytes) -> bytes | None:
        chunk = self.records.open(index, record, last=False)
        return chunk if chunk is not None and len(chunk) == self.header.chunk_bytes else None

    @property
    def lost_bytes(self) -> int:
        """How much of what was read so far could not be, and was given as zeros."""
        return len(self._lost) * self.header.chunk_bytes

    def _piece(self, position: int, most_bytes: int) -> bytes:
        """Raises EncryptedFileError where they are not authentic."""
        index, at = divmod(position, self.header.chunk_bytes)
        return self._chunk(index)[at : at + most_bytes]

    def readinto(self, buffer: Any, /) -> int:
        """Fill `buffer` as far as there is something."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def pieces(self) -> Iterator[bytes]:
        """All of it, in pieces."""
        self.seek(0)
        while piece := self.read(PIECE_BYTES):
            yield piece


def decrypt_file(source: Path, target: Path, keys: Keys, *, unfinished: bool = False) -> SealedReader:
    """Decrypt a file; `target` appears whole, for its owner alone, or not at all.

    Returns the reader, closed, which says what was lost of a file that was never finished.
    """
    with contextlib.ExitStack() as stack:
        reader = SealedReader(stack.enter_context(source.open("rb")), keys, unfinished=unfinished)
        with written_whole(target, mode=0o600) as file:
            for piece in reader.pieces():
                file.write(piece)
    return reader
