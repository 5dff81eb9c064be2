"""`callreel decrypt`: what it gives back, what it says, its exit status."""

import os
import threading
from pathlib import Path

import pytest

from callreel import cli
from callreel.encryption import KeyFile, KmsKey, SealedFile, encrypt_file
from encrypted_files import SAMPLE, key_file
from local_kms import kms_client, local_kms
from secret_watch import secret


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
