"""Encrypted files: any bytes as one, read strictly and as one never finished; and any writes to one that grows.

The first byte says what the rest is: even, a file, which, whatever key it names, is opened with the test's; odd, writes
of (offset, length) to a growing file, which is then cut or flipped as the last bytes say.

Accepted: EncryptedFileError, when it is no encrypted file or was changed.
"""

import io

from callreel.encryption import (
    DataKey,
    EncryptedFileError,
    Encryptor,
    SealedFile,
    SealedReader,
    is_encrypted,
    key_id_of,
)

CHUNK_BYTES = 64
SECRET = bytes(range(32))
MOST_SIZE = 4096

DICTIONARY = [
    b"\x89CRENC\r\n",
    b"\x89CRENC\r\n\x01\x06\x00\x04\x00\x07\x00\x00",
    b"\x89CRENC\r\n\x01\x06\x01\x04\x00\x07\x00\x00",
    b"\xff\xff",
    bytes(28),
]


class AnyKey:
    """Unwraps whatever a header has to the key of the test."""

    def new_data_key(self) -> DataKey:
        return DataKey("test", b"wrapped", SECRET)

    def open_data_key(self, key_id: str, wrapped: bytes) -> DataKey:
        assert key_id.isprintable()
        assert len(key_id.encode()) <= 255
        assert 0 < len(wrapped) <= 8192
        return DataKey(key_id, wrapped, SECRET)


def run(data: bytes) -> None:
    if data[:1] and data[0] % 2:
        grow(data[1:])
    else:
        read(data[1:])


def read(raw: bytes) -> None:
    file = io.BytesIO(raw)
    begins_like_one = is_encrypted(file)
    try:
        key_id_of(file)
    except EncryptedFileError:
        assert opened(raw) is None
        assert opened(raw, unfinished=True) is None
        return
    assert begins_like_one
    strict, lenient = opened(raw), opened(raw, unfinished=True)
    if strict is not None:
        plain = strict.read()
        assert lenient is not None
        assert lenient.is_finished
        assert lenient.read() == plain
        assert lenient.lost_bytes == 0
        assert strict.size_bytes == len(plain)
    elif lenient is not None:
        assert len(lenient.read()) == lenient.size_bytes <= len(raw)
        assert lenient.lost_bytes <= lenient.size_bytes


def opened(raw: bytes, *, unfinished: bool = False) -> SealedReader | None:
    try:
        reader = SealedReader(io.BytesIO(raw), AnyKey(), unfinished=unfinished)
        reader.read()
        reader.seek(0)
    except EncryptedFileError:
        return None
    return reader


def grow(script: bytes) -> None:
    """Writes of four bytes each: flush or where, and how much; what follows a byte of 255 damages the file."""
    file, plain = io.BytesIO(), bytearray()
    sealed = SealedFile(file, AnyKey().new_data_key(), chunk_bytes=CHUNK_BYTES, journal=script[:1] < b"\x80")
    position = 1
    while position + 4 <= len(script) and script[position] != 255:
        word = script[position : position + 4]
        position += 4
        if word[0] == 254:
            sealed.flush()
            continue
        offset = int.from_bytes(word[:2], "big") % MOST_SIZE
        piece = bytes([word[3]]) * word[2]
        if piece:
            plain += bytes(max(0, offset - len(plain)))
        else:
            offset = min(offset, len(plain))
        plain[offset : offset + len(piece)] = piece
        sealed.write_at(offset, piece)
    assert sealed.read_at(0, 2 * MOST_SIZE) == plain
    sealed.finish()
    raw = bytearray(file.getvalue())
    whole = opened(bytes(raw))
    assert whole is not None
    assert whole.read() == plain
    damage(raw, script[position + 1 :], bytes(plain))


def damage(raw: bytearray, where: bytes, plain: bytes) -> None:
    """Flip bits, or cut: it is noticed, or was in the journal, where it changes nothing."""
    if len(where) < 3:
        return
    at = int.from_bytes(where[:2], "big") % len(raw)
    if where[2]:
        raw[at] ^= where[2]
    else:
        del raw[at:]
    strict = opened(bytes(raw))
    assert strict is None or strict.read() == plain
    lenient = opened(bytes(raw), unfinished=True)
    if lenient is not None:
        assert len(lenient.read()) <= len(plain)


def sample(plain: bytes, chunk_bytes: int = CHUNK_BYTES) -> bytes:
    """A file that is encrypted for the test's key."""
    encryptor = Encryptor(AnyKey().new_data_key(), chunk_bytes=chunk_bytes)
    return encryptor.start() + encryptor.add(plain) + encryptor.finish()
