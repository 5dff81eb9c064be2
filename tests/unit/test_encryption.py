"""Encrypted files: what goes in comes out, whatever is changed is noticed, and what was being written can be read."""

import base64
import contextlib
import hashlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.stub import Stubber
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callreel import cli, encryption
from callreel.encryption import (
    DataKey,
    EncryptedFileError,
    Encryptor,
    KeyFile,
    KeyServiceError,
    KmsKey,
    SealedFile,
    SealedReader,
    WrongKeyError,
    decrypt_file,
    encrypt_file,
    is_encrypted,
    key_id_of,
    open_text,
    seal_text,
)
from callreel.errors import UsageError
from project import PACKAGE
from secret_watch import MARK, may_hold, secret, secret_bytes

MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DATA_KEY = DataKey("test:1", b"wrapped", bytes(range(32)))
CHUNK = 64


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
    path = folder / name
    may_hold(path).write_bytes(secret_bytes(32, name) if secret is None else secret)
    path.chmod(0o600)
    return path


def encrypted(data, *, data_key=DATA_KEY, chunk_bytes=CHUNK, cuts=()):
    encryptor = Encryptor(data_key, chunk_bytes=chunk_bytes)
    pieces = [encryptor.start()]
    at = 0
    for cut in [*sorted(cuts), len(data)]:
        pieces.append(encryptor.add(data[at:cut]))
        at = max(at, cut)
    return b"".join([*pieces, encryptor.finish()])


def decrypted(raw, keys=None, **options):
    return SealedReader(io.BytesIO(raw), keys or OneKey(), **options).read()


def records_of(raw, chunk_bytes=CHUNK):
    """The header, and each record."""
    header = encryption._read_header(io.BytesIO(raw))
    at, step = header.records_offset, chunk_bytes + encryption.RECORD_EXTRA_BYTES
    return raw[:at], [raw[begin : begin + step] for begin in range(at, len(raw), step)]


# ---- what goes in comes out ----------------------------------------------------------------------------------------


@MANY
@given(
    data=st.binary(max_size=5 * CHUNK),
    cuts=st.lists(st.integers(0, 5 * CHUNK), max_size=6),
    chunk_log2=st.integers(6, 9),
)
def test_any_bytes_in_any_pieces_come_out_again(data, cuts, chunk_log2):
    cuts = [min(cut, len(data)) for cut in cuts]
    assert decrypted(encrypted(data, chunk_bytes=1 << chunk_log2, cuts=cuts)) == data


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1])
def test_a_file_has_one_record_a_chunk_and_at_least_one(size):
    _, records = records_of(encrypted(bytes(size)))
    assert len(records) == max(1, -(-size // CHUNK))
    assert len(records[-1]) == encryption.RECORD_EXTRA_BYTES + (size and (size - 1) % CHUNK + 1)


@MANY
@given(
    data=st.binary(max_size=4 * CHUNK), whence=st.lists(st.tuples(st.integers(0, 300), st.integers(-1, 200)))
)
def test_a_reader_reads_at_any_position_as_a_file_does(data, whence):
    reader, plain = SealedReader(io.BytesIO(encrypted(data)), OneKey()), io.BytesIO(data)
    for offset, size in whence:
        assert reader.seek(offset) == plain.seek(offset) == reader.tell()
        assert reader.read(size) == plain.read(size)
    assert reader.seek(0, io.SEEK_END) == len(data) == reader.size_bytes
    buffer = bytearray(50)
    assert reader.seek(-min(20, len(data)), io.SEEK_CUR) + reader.readinto(buffer) == len(data)


def test_nothing_of_the_plain_text_is_in_the_file_and_no_two_files_are_alike():
    data = b"not for everybody" * 30
    first, second = encrypted(data), encrypted(data)
    assert b"everybody" not in first
    assert records_of(first)[1][0] != records_of(second)[1][0]
    nonces = [record[:12] for raw in (first, second) for record in records_of(raw)[1]]
    assert len(set(nonces)) == len(nonces)


def test_a_file_of_any_size_takes_little_memory(tmp_path):
    import tracemalloc

    source = tmp_path / "long"
    with source.open("wb") as file:
        for _ in range(40):
            file.write(os.urandom(1 << 20))
    keys = KeyFile(key_file(tmp_path))
    keys.new_data_key()  # imports
    tracemalloc.start()
    try:
        sealed = encrypt_file(source, tmp_path / "sealed", keys.new_data_key())
        decrypt_file(tmp_path / "sealed", tmp_path / "clear", keys)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert (tmp_path / "clear").read_bytes() == source.read_bytes()
    raw = (tmp_path / "sealed").read_bytes()
    assert sealed == (len(raw), hashlib.sha256(raw).hexdigest())
    assert len(raw) < 1.001 * source.stat().st_size
    assert (tmp_path / "clear").stat().st_mode & 0o777 == 0o600


# ---- whatever is changed is noticed --------------------------------------------------------------------------------

SAMPLE = bytes(range(256)) * 2  # eight chunks
RAW = encrypted(SAMPLE)


def test_any_flipped_bit_is_detected():
    for position in range(len(RAW)):
        for bit in (0, position % 7 + 1):
            changed = bytearray(RAW)
            changed[position] ^= 1 << bit
            with pytest.raises(EncryptedFileError):
                decrypted(bytes(changed))


def test_any_truncation_is_detected_before_a_byte_is_given():
    for size in range(len(RAW)):
        with pytest.raises(EncryptedFileError):
            SealedReader(io.BytesIO(RAW[:size]), OneKey())


@MANY
@given(
    order=st.lists(st.integers(0, 7), min_size=1, max_size=10).filter(lambda order: order != list(range(8))),
    extra=st.binary(max_size=3),
)
def test_records_in_another_order_twice_or_left_out_are_detected(order, extra):
    head, records = records_of(RAW)
    with pytest.raises(EncryptedFileError):
        decrypted(head + b"".join(records[index] for index in order) + extra)


@pytest.mark.parametrize("index", range(8))
def test_a_record_of_another_file_of_the_same_key_is_detected(index):
    head, records = records_of(RAW)
    _, others = records_of(encrypted(SAMPLE))
    with pytest.raises(EncryptedFileError):
        decrypted(head + b"".join([*records[:index], others[index], *records[index + 1 :]]))


def test_a_file_that_ends_too_early_at_a_record_says_that_it_was_cut():
    head, records = records_of(RAW)
    with pytest.raises(EncryptedFileError, match="cut, or was never finished"):
        decrypted(head + b"".join(records[:-1]))


@MANY
@given(data=st.binary(max_size=300))
def test_bytes_of_another_kind_are_no_encrypted_file(data):
    assert is_encrypted(io.BytesIO(data)) == data.startswith(encryption.MAGIC)
    for unfinished in (False, True):
        with pytest.raises(EncryptedFileError):
            decrypted(data, unfinished=unfinished)


def test_a_damaged_file_leaves_nothing_where_it_was_to_be_decrypted(tmp_path):
    (tmp_path / "sealed").write_bytes(RAW[:200] + b"x" + RAW[201:])
    with pytest.raises(EncryptedFileError):
        decrypt_file(tmp_path / "sealed", tmp_path / "clear", OneKey())
    assert [path.name for path in tmp_path.iterdir()] == ["sealed"]


# ---- files that grow -----------------------------------------------------------------------------------------------

WRITES = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 700), st.binary(max_size=200)),
        st.tuples(st.none(), st.binary(max_size=200)),
        st.just("flush"),
    ),
    max_size=25,
)


def carry_out(sealed, writes):
    """The writes, None for the end; what the file then holds in the clear, and held at the last flush."""
    plain, flushed = bytearray(), b""
    for write in writes:
        if write == "flush":
            sealed.flush()
            flushed = bytes(plain)
            continue
        offset, data = write
        offset = len(plain) if offset is None else offset
        sealed.write_at(offset, data)
        plain += bytes(max(0, offset - len(plain)))
        plain[offset : offset + len(data)] = data
    return bytes(plain), flushed


@MANY
@given(writes=WRITES, journal=st.booleans(), held=st.sampled_from([1, 2, 32]))
def test_a_growing_file_holds_what_was_written_in_any_order(writes, journal, held, monkeypatch):
    monkeypatch.setattr(encryption, "MOST_HELD_CHUNKS", held)
    file = io.BytesIO()
    sealed = SealedFile(file, DATA_KEY, chunk_bytes=CHUNK, journal=journal)
    plain, _ = carry_out(sealed, writes)
    assert sealed.size_bytes == len(plain)
    for offset in (0, 50, len(plain) // 2):
        assert sealed.read_at(offset, 130) == plain[offset : offset + 130]
    sealed.finish()
    assert decrypted(file.getvalue()) == plain
    assert sealed.read_at(0, 10_000) == plain
    with pytest.raises(UsageError):
        sealed.write_at(0, b"x")


class Dying(io.BytesIO):
    """A file whose process dies after so many bytes have been written."""

    def __init__(self, left):
        super().__init__()
        self.left = left

    def write(self, data):
        taken = min(len(data), self.left)
        self.left -= taken
        super().write(bytes(data)[:taken])
        if taken < len(data):
            raise InterruptedError
        return taken


@MANY
@given(writes=WRITES.filter(lambda writes: "flush" in writes), share=st.floats(0, 1))
def test_a_process_that_dies_while_it_writes_loses_nothing_that_was_flushed(writes, share):
    whole = Dying(1 << 30)
    sealed = SealedFile(whole, DATA_KEY, chunk_bytes=CHUNK)
    carry_out(sealed, writes)
    written = (1 << 30) - whole.left
    dying = Dying(int(share * written))
    plain, flushed, alive = bytearray(), b"", False
    versions = []  # what the file held when it was flushed, and any time since
    try:
        sealed = SealedFile(dying, DATA_KEY, chunk_bytes=CHUNK)
        alive = True
        for write in writes:
            if write == "flush":
                sealed.flush()
                flushed, versions = bytes(plain), []
                continue
            offset, piece = write
            offset = len(plain) if offset is None else offset
            plain += bytes(max(0, offset - len(plain)))
            plain[offset : offset + len(piece)] = piece
            versions.append(bytes(plain))
            sealed.write_at(offset, piece)
    except InterruptedError:
        pass
    if not alive:
        return  # nothing was promised yet
    reader = SealedReader(io.BytesIO(dying.getvalue()), OneKey(), unfinished=True)
    found = reader.read()
    assert reader.lost_bytes == 0
    assert len(found) >= len(flushed)
    for position, byte in enumerate(found):  # each as flushed, or as written since
        assert byte in {version[position] for version in (flushed, *versions) if position < len(version)}


def test_a_growing_file_is_not_taken_for_a_finished_one():
    file = io.BytesIO()
    sealed = SealedFile(file, DATA_KEY, chunk_bytes=CHUNK)
    sealed.write_at(0, SAMPLE)
    sealed.flush()
    with pytest.raises(EncryptedFileError, match="cut, or was never finished"):
        decrypted(file.getvalue())
    reader = SealedReader(io.BytesIO(file.getvalue()), OneKey(), unfinished=True)
    assert reader.read() == SAMPLE
    assert not reader.is_finished
    sealed.finish()
    assert SealedReader(io.BytesIO(file.getvalue()), OneKey(), unfinished=True).is_finished


def test_what_cannot_be_read_of_an_unfinished_file_is_zeros_and_told():
    head, records = records_of(RAW)
    records[2] = bytes(len(records[2]))
    reader = SealedReader(io.BytesIO(head + b"".join(records)), OneKey(), unfinished=True)
    expected = SAMPLE[: 2 * CHUNK] + bytes(CHUNK) + SAMPLE[3 * CHUNK :]
    assert [reader.seek(0) or reader.read() for _ in range(2)] == [expected] * 2
    assert reader.lost_bytes == CHUNK


def test_a_flush_writes_a_few_chunks_however_long_the_file_is():
    file = Dying(1 << 30)
    sealed = SealedFile(file, DATA_KEY)
    sealed.write_at(0, bytes(44))
    costs = []
    for flush in range(400):
        sealed.write_at(sealed.size_bytes, bytes(6400))  # 200 ms of stereo at 8 kHz
        sealed.write_at(4, struct.pack("<I", flush))
        before = file.left
        sealed.flush()
        costs.append(before - file.left)
    assert max(costs[1:]) < 6 * encryption.GROWING_CHUNK_BYTES + 1000
    sealed.finish()
    assert decrypted(file.getvalue())[4:8] == struct.pack("<I", 399)


def test_a_file_that_was_killed_while_it_grew_is_read_up_to_its_last_flush(tmp_path):
    program = """
import sys, os
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from callreel.encryption import KeyFile, SealedFile
with open(sys.argv[1], "w+b") as file:
    sealed = SealedFile(file, KeyFile(Path(sys.argv[2])).new_data_key())
    number = 0
    while True:
        sealed.write_at(sealed.size_bytes, number.to_bytes(4, "big") * 1600)
        sealed.write_at(0, number.to_bytes(4, "big"))
        sealed.flush()
        number += 1
        os.write(1, number.to_bytes(4, "big"))
"""
    key = key_file(tmp_path)
    for wait in range(4):
        path = tmp_path / f"grows{wait}"
        with subprocess.Popen(
            [sys.executable, "-c", program, path, key, PACKAGE.parent], stdout=subprocess.PIPE
        ) as process:
            for _ in range(50 + 31 * wait):
                flushed = int.from_bytes(process.stdout.read(4), "big")
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read()
            flushed = int.from_bytes(rest[-4:], "big") if len(rest) >= 4 else flushed
        with path.open("rb") as file:
            reader = SealedReader(file, KeyFile(key), unfinished=True)
            found = reader.read()
        assert reader.lost_bytes == 0
        assert len(found) >= flushed * 6400
        assert int.from_bytes(found[:4], "big") >= flushed - 1
        for number in range(1, flushed):
            assert found[number * 6400 : number * 6400 + 6400] == number.to_bytes(4, "big") * 1600


def test_no_more_is_sealed_under_one_key_than_random_nonces_allow(monkeypatch):
    assert encryption.MOST_RECORDS == 1 << 32  # NIST SP 800-38D, 8.3
    monkeypatch.setattr(encryption, "MOST_RECORDS", 3)
    sealed = SealedFile(io.BytesIO(), DATA_KEY, chunk_bytes=CHUNK)
    for _ in range(3):
        sealed.write_at(0, b"x")
        sealed.flush()
    sealed.write_at(0, b"x")
    with pytest.raises(UsageError, match="too much"):
        sealed.flush()


class Sparing(io.BytesIO):
    """A file without a buffer, which takes as much as it likes."""

    def write(self, data):
        return super().write(data[:7])


def test_a_file_that_takes_less_than_it_is_given_gets_all_of_it():
    file = Sparing()
    sealed = SealedFile(file, DATA_KEY, chunk_bytes=CHUNK)
    sealed.write_at(0, SAMPLE)
    sealed.finish()
    assert decrypted(file.getvalue()) == SAMPLE


def test_chunk_sizes_are_powers_of_two_within_bounds():
    for chunk_bytes in (0, 32, 100, 1 << 21):
        with pytest.raises(ValueError, match="chunk_bytes"):
            Encryptor(DATA_KEY, chunk_bytes=chunk_bytes)


# ---- keys ----------------------------------------------------------------------------------------------------------


def test_each_recording_has_a_key_of_its_own_and_the_key_file_opens_them_all(tmp_path):
    path = key_file(tmp_path)
    one, other = KeyFile(path).new_data_key(), KeyFile(path).new_data_key()
    assert one.secret != other.secret
    assert one.secret not in one.wrapped
    assert KeyFile(path).open_data_key(one.key_id, one.wrapped) == one
    assert key_id_of(io.BytesIO(encrypted(b"", data_key=one))) == one.key_id == KeyFile(path).key_id


def test_another_key_file_is_told_apart_from_a_damaged_file(tmp_path):
    mine, other = KeyFile(key_file(tmp_path)), KeyFile(key_file(tmp_path, "other"))
    raw = encrypted(SAMPLE, data_key=mine.new_data_key())
    with pytest.raises(WrongKeyError, match=mine.key_id):
        decrypted(raw, other)
    at = raw.index(mine.key_id.encode()) + len(mine.key_id) + 20  # in the wrapped key
    with pytest.raises(EncryptedFileError, match="unwrapped") as raised:
        decrypted(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :], mine)
    assert not isinstance(raised.value, WrongKeyError)
    assert decrypted(raw, mine) == SAMPLE


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o622])
def test_a_key_file_that_others_may_touch_is_refused(tmp_path, mode):
    path = key_file(tmp_path)
    path.chmod(mode)
    with pytest.raises(UsageError, match="chmod 600"):
        KeyFile(path)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_key_file_of_another_length_is_refused(tmp_path, size):
    with pytest.raises(UsageError, match="exactly 32 bytes"):
        KeyFile(key_file(tmp_path, secret=bytes(size)))


def test_a_key_file_that_is_none_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(UsageError, match="not a regular file"):
        KeyFile(tmp_path / "pipe")
    with pytest.raises(UsageError, match="No such file"):
        KeyFile(tmp_path / "none")


def test_no_secret_is_in_a_repr(tmp_path):
    path = key_file(tmp_path, secret=secret_bytes(32))
    keys = KeyFile(path)
    data_key = DataKey("id", b"wrapped", secret_bytes(32, "data"))
    shown = repr(keys) + repr(data_key) + str(data_key) + repr(KmsKey("alias/x")) + keys.key_id
    assert MARK not in shown


def test_without_cryptography_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(UsageError, match=r"pip install 'callreel\[encryption\]'"):
        Encryptor(DATA_KEY)


# ---- AWS KMS -------------------------------------------------------------------------------------------------------

ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def kms_client(endpoint_url=None):
    return boto3.client(
        "kms",
        region_name="eu-central-1",
        endpoint_url=endpoint_url,
        aws_access_key_id="test",
        aws_secret_access_key=secret("kms"),
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=1),
    )


def test_stubbed_kms_makes_and_opens_a_data_key_in_the_context_of_callreel():
    client = kms_client()
    with Stubber(client) as stub:
        context = {"application": "callreel"}
        made = {"KeyId": ARN, "CiphertextBlob": b"wrapped by kms", "Plaintext": bytes(32)}
        asked = {"KeyId": "alias/recordings", "KeySpec": "AES_256", "EncryptionContext": context}
        stub.add_response("generate_data_key", made, asked)
        asked = {"CiphertextBlob": b"wrapped by kms", "KeyId": ARN, "EncryptionContext": context}
        stub.add_response("decrypt", {"KeyId": ARN, "Plaintext": bytes(32)}, asked)
        data_key = KmsKey("alias/recordings", client=client).new_data_key()
        assert data_key.key_id == f"kms:{ARN}"
        assert decrypted(encrypted(SAMPLE, data_key=data_key), KmsKey(client=client)) == SAMPLE
        stub.assert_no_pending_responses()


@pytest.mark.parametrize(
    ("code", "status", "kind", "retryable"),
    [
        ("AccessDeniedException", 400, KeyServiceError, False),
        ("NotFoundException", 400, KeyServiceError, False),
        ("DisabledException", 400, KeyServiceError, False),
        ("KMSInvalidStateException", 400, KeyServiceError, False),
        ("ThrottlingException", 400, KeyServiceError, True),
        ("KMSInternalException", 500, KeyServiceError, True),
        ("SomethingNew", 503, KeyServiceError, True),
        ("IncorrectKeyException", 400, WrongKeyError, None),
        ("InvalidCiphertextException", 400, EncryptedFileError, None),
    ],
)
def test_stubbed_kms_that_refuses_says_whose_fault_it_is(code, status, kind, retryable):
    client = kms_client()
    with Stubber(client) as stub:
        stub.add_client_error("decrypt", code, http_status_code=status, expected_params=None)
        with pytest.raises(kind) as raised:
            KmsKey(client=client).open_data_key(f"kms:{ARN}", b"wrapped")
    assert type(raised.value) is kind
    assert getattr(raised.value, "retryable", None) is retryable


def test_kms_that_is_not_there_may_be_asked_again():
    with pytest.raises(KeyServiceError) as raised:
        KmsKey(ARN, client=kms_client("http://127.0.0.1:9")).new_data_key()
    assert raised.value.retryable


def test_a_file_of_a_key_file_is_not_for_kms_and_the_other_way_round(tmp_path):
    keys = KeyFile(key_file(tmp_path))
    with pytest.raises(WrongKeyError, match="AWS KMS"):
        decrypted(encrypted(b"", data_key=keys.new_data_key()), KmsKey(client=kms_client()))
    with pytest.raises(WrongKeyError, match=ARN):
        decrypted(encrypted(b"", data_key=DataKey(f"kms:{ARN}", b"w", bytes(32))), keys)


@contextlib.contextmanager
def local_kms():
    """An HTTP server that answers as AWS KMS does, with one key."""
    from base64 import b64decode, b64encode

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            secret = secret_bytes(32, "plain")
            if self.headers["X-Amz-Target"].endswith("GenerateDataKey"):
                body = {"KeyId": ARN, "CiphertextBlob": b64encode(b"W" + secret[::-1]).decode()}
                body["Plaintext"] = b64encode(secret).decode()
            else:
                secret = b64decode(asked["CiphertextBlob"])[:0:-1]
                body = {"KeyId": asked["KeyId"], "Plaintext": b64encode(secret).decode()}
            raw = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# ---- callreel decrypt ----------------------------------------------------------------------------------------------


@pytest.fixture
def sealed(tmp_path):
    """An encrypted file, and its key file."""
    key = key_file(tmp_path)
    (tmp_path / "clear").write_bytes(SAMPLE * 1000)
    encrypt_file(tmp_path / "clear", tmp_path / "call.wav", KeyFile(key).new_data_key())
    return tmp_path / "call.wav", key


def decrypt(*arguments):
    return cli.main(["decrypt", *map(str, arguments)])


def test_decrypt_gives_the_file_back(sealed, tmp_path):
    file, key = sealed
    assert decrypt(file, "--key-file", key, "--out", tmp_path / "out") == 0
    assert (tmp_path / "out").read_bytes() == SAMPLE * 1000


def test_decrypt_gives_the_file_to_standard_output(sealed, capfdbinary):
    file, key = sealed
    assert decrypt(file, "--key-file", key, "--out", "-") == 0
    assert capfdbinary.readouterr().out == SAMPLE * 1000


def test_decrypt_writes_into_a_device_or_a_pipe_and_does_not_replace_it(sealed, tmp_path):
    file, key = sealed
    assert decrypt(file, "--key-file", key, "--out", os.devnull) == 0
    assert Path(os.devnull).is_char_device()
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    assert decrypt(file, "--key-file", key, "--out", tmp_path / "pipe") == 0
    reader.join()
    assert read == [SAMPLE * 1000]


def test_decrypt_says_that_it_is_another_key(sealed, tmp_path, capsys):
    file, key = sealed
    assert decrypt(file, "--key-file", key_file(tmp_path, "other"), "--out", tmp_path / "out") == 3
    assert f"encrypted for the key {KeyFile(key).key_id}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_decrypt_says_that_a_file_is_damaged_cut_or_none(sealed, tmp_path, capsys):
    file, key = sealed
    raw = file.read_bytes()
    for damaged, words in (
        (raw[:1000] + bytes([raw[1000] ^ 4]) + raw[1001:], "damaged"),
        (raw[:-1], "damaged or has been cut"),
        (raw[:60], "ends within its header"),
        (b"RIFF" + raw[4:], "not a file encrypted by callreel"),
    ):
        file.write_bytes(damaged)
        assert decrypt(file, "--key-file", key, "--out", tmp_path / "out") == 1
        assert words in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_decrypt_says_what_is_wrong_with_its_arguments(sealed, tmp_path, capsys):
    file, key = sealed
    out = tmp_path / "out"
    assert decrypt(tmp_path / "none", "--key-file", key, "--out", out) == 2
    assert decrypt(file, "--key-file", tmp_path / "none", "--out", out) == 2
    assert decrypt(file, "--key-file", file, "--out", out) == 2
    assert decrypt(file, "--key-file", key, "--out", file) == 2
    assert decrypt(file, "--key-file", key, "--out", tmp_path) == 2
    assert decrypt(file, "--key-file", key, "--region", "x", "--out", out) == 2
    assert decrypt(file, "--key-file", key, "--out", tmp_path / "none" / "out") == 2
    for arguments in ([file, "--out", out], [file, "--key-file", key, "--kms", "--out", out]):
        with pytest.raises(SystemExit):
            decrypt(*arguments)
    assert "OUT is FILE" in capsys.readouterr().err
    assert not out.exists()


def test_decrypt_takes_what_an_unfinished_file_holds_and_says_so(tmp_path, capsys):
    key = key_file(tmp_path)
    with (tmp_path / "spool").open("w+b") as file:
        growing = SealedFile(file, KeyFile(key).new_data_key())
        growing.write_at(0, SAMPLE * 50)
        growing.flush()
    arguments = (tmp_path / "spool", "--key-file", key, "--out", tmp_path / "out")
    assert decrypt(*arguments) == 1
    assert decrypt(*arguments, "--unfinished") == 0
    assert "never finished" in capsys.readouterr().err
    assert (tmp_path / "out").read_bytes() == SAMPLE * 50


def test_decrypt_asks_kms_by_way_of_a_local_stand_in(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret("kms"))
    (tmp_path / "clear").write_bytes(SAMPLE)
    with local_kms() as url:
        keys = KmsKey("alias/recordings", client=kms_client(url))
        encrypt_file(tmp_path / "clear", tmp_path / "sealed", keys.new_data_key())
        arguments = (tmp_path / "sealed", "--kms", "--region", "eu-central-1", "--out", tmp_path / "out")
        assert decrypt(*arguments, "--endpoint-url", url) == 0
    assert (tmp_path / "out").read_bytes() == SAMPLE
    assert decrypt(*arguments, "--endpoint-url", "http://127.0.0.1:9") == 4


def test_decrypt_explains_itself(capsys):
    with pytest.raises(SystemExit) as left:
        decrypt("--help")
    assert left.value.code == 0
    said = capsys.readouterr().out
    for word in ("--key-file", "--kms", "--unfinished", "exit status", "umask 077"):
        assert word in said


def test_a_short_secret_is_sealed_and_every_change_to_it_is_noticed(tmp_path):
    path = may_hold(tmp_path / "short.key")
    path.write_bytes(secret_bytes(32))
    path.chmod(0o600)
    keys = KeyFile(path)
    sealed = seal_text("AKID:secret", keys)
    assert open_text(sealed, keys) == "AKID:secret"
    assert "secret" not in json.dumps(sealed)
    raw = bytearray(base64.b64decode(sealed["sealed"]))
    for at in range(len(raw)):
        changed = bytes(raw[:at]) + bytes([raw[at] ^ 1]) + bytes(raw[at + 1 :])
        with pytest.raises(EncryptedFileError):
            open_text({**sealed, "sealed": base64.b64encode(changed).decode()}, keys)
    for broken in ({}, {**sealed, "sealed": ""}, {**sealed, "wrapped": "!"}, {**sealed, "sealed": None}):
        with pytest.raises(EncryptedFileError):
            open_text(broken, keys)
