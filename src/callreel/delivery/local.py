"""What can be wrong with a parcel's own file, the same for every destination."""

from __future__ import annotations

import errno

from callreel.delivery import Parcel
from callreel.errors import DeliveryError

__all__ = ["changed", "unreadable"]

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
