"""Secrets by reference: where a secret is to be found, not the secret. A repr shows the reference."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from callreel.errors import DeliveryDeniedError

__all__ = ["FromEnvironment", "FromFile", "SecretSource", "secret_of"]

SecretSource = Callable[[], str]
"""Asked each time the secret is needed, so that it may change."""


@dataclass(frozen=True, slots=True)
class FromEnvironment:
    """A secret in an environment variable."""

    name: str

    def __call__(self) -> str:
        """Read it."""
        try:
            return os.environ[self.name]
        except KeyError:
            raise DeliveryDeniedError(
                f"the environment variable {self.name} is not set", retryable=True
            ) from None


@dataclass(frozen=True, slots=True)
class FromFile:
    """A secret in a file; a line feed at its end is none of it."""

    path: Path

    def __call__(self) -> str:
        """Read it."""
        try:
            return self.path.read_text("ascii").rstrip("\r\n")
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or "it is not ASCII"
            raise DeliveryDeniedError(
                f"cannot read the secret in {self.path}: {why}", retryable=True
            ) from None


def secret_of(source: SecretSource) -> str:
    """Ask for a secret; whatever a host's function raises, its text is not repeated.

    Raises:
        DeliveryDeniedError: there is none, or none that could stand in a header.
    """
    try:
        secret = source()
    except DeliveryDeniedError:
        raise
    except Exception as error:
        raise DeliveryDeniedError(
            f"the function that gives the secret raised {type(error).__name__}", retryable=True
        ) from None
    if not isinstance(secret, str) or not secret or not all("!" <= one <= "~" for one in secret):
        raise DeliveryDeniedError("a secret is text of printable ASCII without spaces", retryable=True)
    return secret
