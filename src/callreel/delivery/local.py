"""What can be wrong with files: a parcel's own, the same for every destination, and those of destinations on a disk."""

from __future__ import annotations

import errno

from callreel.delivery import Parcel
from callreel.errors import (
    DeliveryDeniedError,
    DeliveryError,
    DeliveryInterruptedError,
    DeliveryThrottledError,
    DestinationMissingError,
)

__all__ = ["changed", "not_stored", "unreadable"]

# What the system says, and whose matter it is; another try helps where nobody need change anything first.
_FAULTS: tuple[tuple[type[DeliveryError], bool, tuple[str, ...]], ...] = (
    (
        DeliveryDeniedError,
        False,
        ("EACCES", "EPERM", "EROFS", "ENAMETOOLONG", "EISDIR", "EINVAL", "EILSEQ", "ELOOP"),
    ),
    (DestinationMissingError, False, ("ENOENT", "ENOTDIR", "ENODEV", "ENXIO")),
    (DeliveryThrottledError, True, ("ENOSPC", "EDQUOT", "EMFILE", "ENFILE", "ENOMEM", "EBUSY")),
    (
        DeliveryInterruptedError,
        True,
        ("EIO", "ESTALE", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETUNREACH"),
    ),
    (DeliveryInterruptedError, True, ("ECONNRESET", "ENOTCONN", "EREMOTEIO", "EINTR", "EAGAIN")),
)
_BY_ERRNO = {
    getattr(errno, name): (error, retryable)
    for error, retryable, names in _FAULTS
    for name in names
    if hasattr(errno, name)
}

# A shortage of this process or machine, or a disk that may answer next time.
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.EIO}


def changed(parcel: Parcel) -> DeliveryError:
    """Say that the file is not the one whose size and checksum the parcel has."""
    return DeliveryError(f"{parcel.path.name} is no longer what was to be delivered", key=parcel.key)


def unreadable(parcel: Parcel, error: OSError) -> DeliveryError:
    """Say that the file cannot be read."""
    return DeliveryError(
        f"cannot read {parcel.path.name}: {error.strerror or error}",
        key=parcel.key,
        retryable=error.errno in _PASSING,
    )


def not_stored(key: str, error: OSError) -> DeliveryError:
    """Make ours of what the system said when `key` was to be stored on a disk."""
    kind, retryable = _BY_ERRNO.get(error.errno or 0, (DeliveryInterruptedError, True))
    return kind(f"cannot store {key}: {error.strerror or error}", key=key, retryable=retryable)
