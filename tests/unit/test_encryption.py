"""Encrypted files: what goes in comes out, whatever is changed is noticed, and what was being written can be read."""

import base64
import hashlib
import io
import json
import os
import signal
import struct
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callreel.encryption import (
    GROWING_CHUNK_BYTES,
    EncryptedFileError,
    Encryptor,
    KeyFile,
    SealedFile,
    SealedReader,
    decrypt_file,
    encrypt_file,
    is_encrypted,
    open_text,
    seal_text,
)
from callreel.encryption.format import MAGIC, MOST_RECORDS, RECORD_EXTRA_BYTES, read_header
from callreel.errors import UsageError
from encrypted_files import CHUNK, DATA_KEY, SAMPLE, OneKey, decrypted, encrypted, key_file
from project import PACKAGE
from secret_watch import may_hold, secret_bytes

MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def records_of(raw, chunk_bytes=CHUNK):
    """The header, and each record."""
    header = read_header(io.BytesIO(raw))
    at, step = header.records_offset, chunk_bytes + RECORD_EXTRA_BYTES
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
    assert len(records[-1]) == RECORD_EXTRA_BYTES + (size and (size - 1) % CHUNK + 1)


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
    assert is_encrypted(io.BytesIO(data)) == data.startswith(MAGIC)
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
    monkeypatch.setattr("callreel.encryption.writing.MOST_HELD_CHUNKS", held)
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
    assert max(costs[1:]) < 6 * GROWING_CHUNK_BYTES + 1000
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
    assert MOST_RECORDS == 1 << 32  # NIST SP 800-38D, 8.3
    monkeypatch.setattr("callreel.encryption.format.MOST_RECORDS", 3)
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


def test_without_cryptography_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(UsageError, match=r"pip install 'callreel\[encryption\]'"):
        Encryptor(DATA_KEY)


# ---- short secrets -------------------------------------------------------------------------------------------------


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
