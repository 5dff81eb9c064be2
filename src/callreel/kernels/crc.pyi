"""CRC-32C, which S3 takes as a checksum (RFC 3720)."""

from typing import SupportsIndex

from typing_extensions import Buffer

def crc32c(data: Buffer, so_far: SupportsIndex = 0) -> int:
    """Compute the CRC-32C of `data`, behind other data whose sum `so_far` is; ValueError if that has over 32 bits."""
