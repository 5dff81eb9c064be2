"""What proves that S3 has what we sent: checksums, ETags, and how each looks for a file that went in parts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from callreel.kernels import crc

__all__ = ["Digests", "Expected", "Sum", "digests_of", "etag_of_parts", "md5", "pieces"]

READ_BYTES = 1 << 20


class Sum:
    """A checksum of S3's: "SHA256" or "CRC32C"."""

    def __init__(self, name: Literal["SHA256", "CRC32C"]) -> None:
        """Use the algorithm `name`."""
        self.name = name
        self.field = f"Checksum{name}"
        """The name of its value in requests and answers."""

    def of(self, data: bytes | memoryview) -> bytes:
        """Compute the checksum of `data`."""
        if self.name == "SHA256":
            return hashlib.sha256(data).digest()
        return crc.crc32c(data).to_bytes(4, "big")

    def of_parts(self, sums: Iterable[bytes]) -> str:
        """Compose what S3 keeps of a file in parts: the checksum of the parts' checksums, and how many there are."""
        each = list(sums)
        return f"{self.text(self.of(b''.join(each)))}-{len(each)}"

    @staticmethod
    def text(value: bytes) -> str:
        """Give the checksum as requests and answers have it."""
        return base64.b64encode(value).decode("ascii")


@dataclass(frozen=True, slots=True)
class Digests:
    """What a file is, read once."""

    size_bytes: int
    sha256: str
    parts: list[bytes]
    """The `Sum` of each part; SHA-256 when there is none to be sent."""


def pieces(path: Path, part_bytes: int) -> Iterator[bytes]:
    """Read a file part by part."""
    with path.open("rb") as file:
        while data := file.read(part_bytes):
            yield data


def digests_of(path: Path, part_bytes: int, sum_: Sum | None) -> Digests:
    """Read the file through."""
    whole, parts, size_bytes = hashlib.sha256(), [], 0
    for data in pieces(path, part_bytes):
        whole.update(data)
        size_bytes += len(data)
        parts.append((sum_ or Sum("SHA256")).of(data))
    return Digests(size_bytes, whole.hexdigest(), parts)


@dataclass(slots=True)
class Expected:
    """What has to be there when it is ours."""

    key: str
    size_bytes: int
    sha256: str
    metadata: Mapping[str, str]
    sums: set[str]
    """What a store may give as the checksum: of the file whole, or of its parts."""
    path: Path | None = None
    part_bytes: int = 0
    etags: set[str] = field(default_factory=set)
    """Known ETags that only this content has; those by MD5 are computed when a store keeps no checksum."""

    def checksum(self, stored: Mapping[str, Any], sum_: Sum | None) -> bool | None:
        """Compare the checksum of an answer: equal, different, or nothing that could be compared."""
        text = stored.get(sum_.field) if sum_ is not None else None
        if text is not None:
            if text in self.sums:
                return True
            form = text.partition("-")[2]
            if any(one.partition("-")[2] == form for one in self.sums):
                return False
        etag = str(stored.get("ETag", "")).strip('"')
        # An ETag by MD5 that differs says nothing: it need not be one.
        return True if etag and (etag in self.etags or etag in self._md5_etags(etag)) else None

    def _md5_etags(self, etag: str) -> set[str]:
        if self.path is None or len(etag.partition("-")[0]) != 32:
            return set()
        if "-" not in etag:
            with self.path.open("rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
            return {digest.hexdigest()}
        return {etag_of_parts(md5(data) for data in pieces(self.path, self.part_bytes))}


def md5(data: bytes) -> bytes:
    """Compute what most stores use as the ETag of a part."""
    return hashlib.md5(data, usedforsecurity=False).digest()


def etag_of_parts(md5s: Iterable[bytes]) -> str:
    """Compose what most stores use as the ETag of a file in parts."""
    each = list(md5s)
    return f"{hashlib.md5(b''.join(each), usedforsecurity=False).hexdigest()}-{len(each)}"
