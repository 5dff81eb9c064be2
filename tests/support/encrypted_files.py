"""Encrypted files of a few chunks, and the keys for them."""

import io

from callreel.encryption import DataKey, Encryptor, SealedReader, WrongKeyError
from secret_watch import may_hold, secret_bytes

DATA_KEY = DataKey("test:1", b"wrapped", bytes(range(32)))
CHUNK = 64
SAMPLE = bytes(range(256)) * 2  # eight chunks


class OneKey:
    """Keys that have unwrapped already, so that tests of the file alone need no key file."""

    def __init__(self, data_key=DATA_KEY):
        self.data_key = data_key

    def new_data_key(self):
        return self.data_key

    def open_data_key(self, key_id, wrapped):
        if (key_id, wrapped) != (self.data_key.key_id, self.data_key.wrapped):
            raise WrongKeyError("another key")
        return self.data_key


def key_file(folder, name="recordings.key", secret=None):
    """A file with a key, which only its owner may read."""
    path = folder / name
    may_hold(path).write_bytes(secret_bytes(32, name) if secret is None else secret)
    path.chmod(0o600)
    return path


def encrypted(data, *, data_key=DATA_KEY, chunk_bytes=CHUNK, cuts=()):
    """The bytes of an encrypted file, whose plain text came in pieces cut there."""
    encryptor = Encryptor(data_key, chunk_bytes=chunk_bytes)
    pieces = [encryptor.start()]
    at = 0
    for cut in [*sorted(cuts), len(data)]:
        pieces.append(encryptor.add(data[at:cut]))
        at = max(at, cut)
    return b"".join([*pieces, encryptor.finish()])


def decrypted(raw, keys=None, **options):
    """The plain text of the bytes of an encrypted file."""
    return SealedReader(io.BytesIO(raw), keys or OneKey(), **options).read()
