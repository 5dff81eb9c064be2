"""Where the files of recordings are read again: one class for each kind of destination.

Each gives what is stored, as a file that can be sought; `callreel.service.audio` takes it out of its encryption.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final, Protocol, cast
from urllib.parse import unquote, urlsplit

from callreel.actions import Destination
from callreel.delivery.drive import Drive, DriveError
from callreel.delivery.s3 import S3, TRANSACTION_ID, as_sent
from callreel.delivery.s3_reading import S3File
from callreel.delivery.s3_settings import S3Settings
from callreel.errors import DeliveryDeniedError, DestinationMissingError
from callreel.recorder import Settings
from callreel.recorder.stores import Stores
from callreel.service.library import Entry

__all__ = ["DriveSource", "FileSource", "S3Source", "Source"]

CONNECT_S: Final = 5.0
READ_S: Final = 15.0
"""Who waits for audio is a person; nobody waits as long as for a delivery."""


class Source(Protocol):
    """Where files of a kind of place are read; any thread."""

    def open(self, entry: Entry, location: str) -> BinaryIO:
        """The file as it is stored, to be read and closed by one thread.

        A `DestinationMissingError` when it is not there, another `DeliveryError` when it cannot be had.
        """
        ...


class FileSource:
    """Files of this machine, below the folders that recordings are delivered to."""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        """Read nothing outside of `folders`."""
        self._folders = tuple(folder.resolve() for folder in folders)

    def open(self, entry: Entry, location: str) -> BinaryIO:
        """The file."""
        path = Path(unquote(urlsplit(location).path)).resolve()
        if not any(path.is_relative_to(folder) for folder in self._folders) or path.is_dir():
            raise _missing(entry)
        try:
            return path.open("rb")
        except FileNotFoundError:
            raise _missing(entry) from None
        except OSError as error:
            raise DeliveryDeniedError(f"cannot read {entry.key}: {error.strerror}", key=entry.key) from None


class DriveSource:
    """Recordings in Sinch Drive, each tenant's in a folder of its own."""

    def __init__(self, drive_of: Callable[[str | None], Drive]) -> None:
        """`drive_of` gives the drive of that name."""
        self._drive_of = drive_of

    def open(self, entry: Entry, location: str) -> BinaryIO:
        """The file; one that another recording of the same name has replaced is not there."""
        name = entry.manifest.get("destination", {}).get("bucket")
        try:
            download = self._drive_of(name).get(entry.key)
        except DriveError:
            raise _missing(entry) from None
        except OSError as error:
            raise DeliveryDeniedError(f"cannot read {entry.key}: {error.strerror}", key=entry.key) from None
        if download.recording.sha256 != entry.manifest.get("sha256"):
            download.close()
            raise _missing(entry)
        return download.detach()


class S3Source:
    """Objects of S3, read by ranges as the recorder's settings for S3 say, with the credentials that stand there.

    Those of a request (Sinch) are not kept: its objects can be read if the settings' own may.
    """

    def __init__(self, settings: Settings) -> None:
        """Reach S3 as the recorder does."""
        s3 = settings.s3 or S3Settings(bucket="any")
        s3 = replace(
            s3,
            connect_timeout_s=min(CONNECT_S, s3.connect_timeout_s),
            read_timeout_s=min(READ_S, s3.read_timeout_s),
        )
        self._stores = Stores(replace(settings, s3=s3))

    def open(self, entry: Entry, location: str) -> BinaryIO:
        """The object; one that another recording of the same key has replaced is not there."""
        bucket, _, key = location.removeprefix("s3://").partition("/")
        region = entry.manifest.get("destination", {}).get("region")
        store, _ = self._stores.place(Destination(kind="s3", bucket=bucket, region=region), key)
        assert isinstance(store, S3)
        file = S3File(store, key)
        stored = file.metadata.get(TRANSACTION_ID)
        ours = as_sent(entry.manifest.get("metadata") or {}).get(TRANSACTION_ID)
        if None not in (stored, ours) and stored != ours:
            raise _missing(entry)
        return cast(BinaryIO, file)


def _missing(entry: Entry) -> DestinationMissingError:
    return DestinationMissingError(f"{entry.key} is not there any more", key=entry.key)
