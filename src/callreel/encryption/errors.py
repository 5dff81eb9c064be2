"""What can be wrong with an encrypted file, with the key for it, or with who keeps that key."""

from __future__ import annotations

from callreel.errors import CallreelError, MediaError

__all__ = ["EncryptedFileError", "KeyServiceError", "WrongKeyError"]


class EncryptedFileError(MediaError):
    """Not an encrypted file of ours, or one that was damaged, cut or put together from others."""


class WrongKeyError(EncryptedFileError):
    """The file was encrypted for another key than the one given; the text says for which."""


class KeyServiceError(CallreelError, OSError):
    """AWS KMS refused, or was not reached; `retryable` says whether to try again."""

    def __init__(self, message: str, *, retryable: bool) -> None:
        """Keep whether another try can help."""
        super().__init__(message)
        self.retryable = retryable
