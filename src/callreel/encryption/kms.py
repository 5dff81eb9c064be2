"""Data keys that AWS KMS makes and unwraps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from callreel.encryption.cipher import KEY_BYTES
from callreel.encryption.errors import EncryptedFileError, KeyServiceError, WrongKeyError
from callreel.encryption.keys import DataKey
from callreel.errors import UsageError
from callreel.quiet import keep_boto3_quiet

__all__ = ["KmsKey"]

KMS_CONTEXT = {"application": "callreel"}
"""AWS KMS wants the same again to decrypt; policies may demand it (kms:EncryptionContext:application)."""
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
