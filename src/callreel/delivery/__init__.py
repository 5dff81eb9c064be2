"""Where recordings go: one module a destination. They know no call and no dialect.

A store takes a finished file whole or not at all, and delivering the same parcel again gives the same receipt, so that
whoever does not know whether a delivery went well may simply try again. What goes wrong is a `DeliveryError` of the
class that says who must act; no error text and no repr holds a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

__all__ = ["Parcel", "Receipt", "Store"]


@dataclass(frozen=True, slots=True)
class Parcel:
    """A finished file on its way."""

    path: Path
    key: str
    """Its name there."""
    size_bytes: int
    sha256: str
    """Of the file, hexadecimal."""
    media_type: str
    metadata: Mapping[str, str]
    """What is stored beside it, at least "transaction-id": by it a parcel recognises itself where it has arrived."""
    overwrite: bool = False
    """Whether something else of that key is replaced."""


class Receipt(NamedTuple):
    """What the destination has confirmed."""

    location: str
    """Where it is, as a URL."""
    size_bytes: int
    checksum: str
    """Of what is stored there, as "sha256:<hexadecimal>"."""


class Store(Protocol):
    """A destination."""

    @property
    def lane(self) -> str:
        """What fails together, such as "s3://bucket": while one lane is down the others go on."""
        ...

    def check(self, key: str) -> None:
        """Say now whether a file of that key could be delivered: a `DeliveryError` if not."""
        ...

    def deliver(self, parcel: Parcel) -> Receipt:
        """Deliver the file whole, or raise a `DeliveryError` and leave nothing of it."""
        ...
