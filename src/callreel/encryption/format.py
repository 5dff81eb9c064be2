"""An encrypted file bit by bit: its header and records, and what of a change is noticed.

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

import hmac
import os
import struct
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from callreel.encryption.cipher import KEY_BYTES, NONCE_BYTES, TAG_BYTES, aes_gcm, opened
from callreel.encryption.errors import EncryptedFileError
from callreel.encryption.keys import DataKey
from callreel.errors import UsageError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "JOURNALLED",
    "MAGIC",
    "RECORD_EXTRA_BYTES",
    "Header",
    "Records",
    "new_header",
    "read_header",
]

MAGIC = b"\x89CRENC\r\n"
VERSION = 1
JOURNAL = 1
FIXED = struct.Struct(">8sBBBBHH32s")
ASSOCIATED = struct.Struct(">QB")
JOURNALLED = struct.Struct(">QI")

RECORD_EXTRA_BYTES = NONCE_BYTES + TAG_BYTES

CHUNK_LOG2 = range(6, 21)
"""The chunk sizes there are: 64 bytes to 1 MiB, so that no header makes a reader ask for much memory."""
MOST_KEY_ID_BYTES = 255
MOST_WRAPPED_BYTES = 8192
"""AWS KMS gives at most 6,144 bytes."""
MOST_RECORDS = 1 << 32
"""Sealed under the key of one file, again and again the same ones included."""

LABEL = b"callreel encrypted file 1\0"


class Header(NamedTuple):
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
        """Where the journal is, if there is one."""
        return len(self.raw) + TAG_BYTES

    @property
    def record_bytes(self) -> int:
        """The size of the record of a whole chunk."""
        return self.chunk_bytes + RECORD_EXTRA_BYTES

    @property
    def records_offset(self) -> int:
        """Where record 0 is."""
        return self.journal_offset + self.has_journal * (JOURNALLED.size + self.record_bytes)


def new_header(data_key: DataKey, chunk_bytes: int, has_journal: bool) -> Header:
    """A header with a salt of its own; ValueError when something does not fit into it."""
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
    return Header(raw, tag, data_key.key_id, data_key.wrapped, chunk_bytes, has_journal)


def read_header(file: BinaryIO) -> Header:
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
    return Header(raw, tag, key_id, rest[id_bytes:-TAG_BYTES], 1 << log2, bool(flags & JOURNAL))


def _derive(secret: bytes, raw_header: bytes) -> tuple[bytes, bytes]:
    """The key of one file and the tag of its header."""
    derived = hmac.digest(secret, LABEL + raw_header, "sha512")
    return derived[:KEY_BYTES], derived[KEY_BYTES : KEY_BYTES + TAG_BYTES]


class Records:
    """Seals and opens the records of one file."""

    def __init__(self, header: Header, data_key: DataKey) -> None:
        """Derive the key of the file; EncryptedFileError when the header is not authentic."""
        file_key, tag = _derive(data_key.secret, header.raw)
        if not hmac.compare_digest(tag, header.tag):
            raise EncryptedFileError("its header is damaged", offset=0)
        self._cipher = aes_gcm(file_key)
        self._sealed = 0

    def seal(self, index: int, plain: Buffer, *, last: bool) -> bytes:
        """The record of a chunk, with a nonce of its own; UsageError after `MOST_RECORDS`."""
        self._sealed += 1
        if self._sealed > MOST_RECORDS:
            raise UsageError("too much has been written under one key; begin another file")
        nonce = os.urandom(NONCE_BYTES)
        sealed: bytes = self._cipher.encrypt(nonce, plain, ASSOCIATED.pack(index, last))
        return nonce + sealed

    def open(self, index: int, record: bytes, *, last: bool) -> bytes | None:
        """The chunk in a record, or None when it is not authentic."""
        if len(record) < RECORD_EXTRA_BYTES:
            return None
        sealed = memoryview(record)[NONCE_BYTES:]
        return opened(self._cipher, record[:NONCE_BYTES], sealed, ASSOCIATED.pack(index, last))
