"""What the service keeps for its customers, and how it hands that out."""

import logging
import shutil

import pytest

from callreel.encryption import Encryptor, KeyFile, WrongKeyError
from callreel.keys import MAX_COMPONENT_BYTES, safe_component
from callreel.service.held import Clear, Held


def key(tmp_path, name, first):
    path = tmp_path / name
    path.write_bytes(bytes(range(first, first + 32)))
    path.chmod(0o600)
    return KeyFile(path)


@pytest.mark.parametrize("has_key", [False, True])
def test_a_file_that_cannot_be_opened_is_closed(tmp_path, has_key):
    path = tmp_path / "a.wav"
    with path.open("wb") as file:
        encryptor = Encryptor(key(tmp_path, "one", 0).new_data_key())
        file.write(encryptor.start() + encryptor.add(b"audio") + encryptor.finish())
    file = path.open("rb")
    with pytest.raises(WrongKeyError):
        Clear(file, key(tmp_path, "other", 1) if has_key else None)
    assert file.closed


def test_nothing_outside_its_folder_is_held(tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "held" / "c-1").mkdir(parents=True)
    (tmp_path / "held" / "c-1" / "a.wav").write_bytes(b"audio")
    held = Held(tmp_path / "held")
    assert b"".join(held.pieces("c-1/a.wav")) == b"audio"
    assert held.pieces("../secret") is None
    assert held.pieces("c-1/none.wav") is None


@pytest.mark.parametrize(
    ("folder", "call_id"),
    [
        ("c-1", "c-1"),
        (safe_component("a:b@c"), "a:b@c"),
        (safe_component("50%41"), "50%41"),
        (safe_component(":" * MAX_COMPONENT_BYTES), None),
        ("not~ours", None),
    ],
)
def test_a_folder_that_cannot_be_removed_is_logged_with_its_calls_id(
    tmp_path, monkeypatch, caplog, folder, call_id
):
    def refuses(path):
        raise PermissionError(13, "Permission denied")

    (tmp_path / folder).mkdir()
    monkeypatch.setattr(shutil, "rmtree", refuses)
    with caplog.at_level(logging.WARNING, "callreel.service"):
        assert Held(tmp_path).sweep((), older_than_s=0) == 0
    (record,) = caplog.records
    assert record.getMessage() == f"{tmp_path / folder} cannot be removed: Permission denied"
    assert getattr(record, "call_id", None) == call_id
