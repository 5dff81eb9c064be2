"""Data keys: a key file that only its owner may read makes and opens them, or AWS KMS does."""

import io
import os

import pytest
from botocore.stub import Stubber

from callreel.encryption import (
    DataKey,
    EncryptedFileError,
    KeyFile,
    KeyServiceError,
    KmsKey,
    WrongKeyError,
    key_id_of,
)
from callreel.errors import UsageError
from encrypted_files import SAMPLE, decrypted, encrypted, key_file
from local_kms import ARN, kms_client
from secret_watch import MARK, secret_bytes

# ---- key files -----------------------------------------------------------------------------------------------------


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


# ---- AWS KMS -------------------------------------------------------------------------------------------------------


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
