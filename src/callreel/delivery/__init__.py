"""Where recordings go: one module a destination. They know no call and no dialect.

A store takes a finished file whole or not at all, and delivering the same parcel again gives the same receipt, so that
whoever does not know whether a delivery went well may simply try again. What goes wrong is a `DeliveryError` of the
class that says who must act; no error text and no repr holds a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

__all__ = ["GrowingStore", "GrowingUpload", "Parcel", "Receipt", "Store"]


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


class GrowingUpload(Protocol):
    """A file that is sent while it still grows; it belongs to one thread at a time."""

    key: str
    upload_id: str
    """By it another process goes on with it."""

    def part(self, number: int, data: bytes) -> None:
        """Send a part, the first one is 1; sent again it replaces itself."""
        ...

    def abort(self) -> None:
        """Leave nothing of it."""
        ...


@runtime_checkable
class GrowingStore(Store, Protocol):
    """A destination that takes a file part by part, before its end is known."""

    @property
    def part_bytes(self) -> int:
        """How large each part is, but for the last one."""
        ...

    def begin(
        self, key: str, *, media_type: str, metadata: Mapping[str, str], overwrite: bool = False
    ) -> GrowingUpload:
        """Begin a file of which parts are sent before `deliver`; what is stored beside it is said now."""
        ...

    def resume(
        self, key: str, upload_id: str, *, metadata: Mapping[str, str], overwrite: bool = False
    ) -> GrowingUpload:
        """Go on with a file that another process began."""
        ...

    def deliver(self, parcel: Parcel, begun: GrowingUpload | None = None) -> Receipt:
        """Deliver the file; parts of `begun` that are not as the file is now are sent again."""
        ...
