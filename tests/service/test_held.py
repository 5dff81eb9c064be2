"""What the service keeps for its customers, and how it hands that out."""

import pytest

from callreel.encryption import Encryptor, KeyFile, WrongKeyError
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
