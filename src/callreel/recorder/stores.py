"""Which store a recording goes to: by the destination of its request, or the recorder's own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from callreel.actions import Destination
from callreel.delivery import Store
from callreel.delivery.folder import Folder
from callreel.errors import DestinationMissingError, UsageError
from callreel.recorder.settings import Settings

__all__ = ["StoreFor", "Stores"]

StoreFor = Callable[[Destination | None, str], tuple[Store, str]]
"""Gives the store, and the key there, of a destination and a key; any thread may ask it."""

log = logging.getLogger("callreel.recorder")

MAX_STORES = 256
"""Clients that are kept: a customer's credentials that are not used any more go."""


class Stores:
    """Finds the store of a destination; any thread."""

    def __init__(self, settings: Settings) -> None:
        """Drive and what a service keeps for a download are in the folder of the spool."""
        self._settings = settings
        default = settings.destination
        self._prefix = ""
        self._default: Destination | None = None
        if default is not None and default.startswith("s3://"):
            parts = urlsplit(default)
            if not parts.netloc or "@" in parts.netloc:
                raise UsageError(
                    "not a bucket: s3://bucket or s3://bucket/prefix is one, without credentials"
                )
            self._default = Destination(kind="s3", bucket=parts.netloc)
            self._prefix = parts.path.strip("/")
        elif default is not None and "://" in default:
            raise UsageError("a destination is s3://bucket, s3://bucket/prefix, or a folder")
        elif default is not None:
            self._default = Destination(kind="folder", bucket=default)
        self._stores: dict[Any, Store] = {}
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Have done by a thread of its own what the first delivery would wait for, where S3 is set up."""
        is_s3 = self._default is not None and self._default.kind == "s3"
        if is_s3 or self._settings.s3 is not None:
            threading.Thread(target=_prepare_s3, name="callreel-prepare", daemon=True).start()

    def place(self, destination: Destination | None, key: str) -> tuple[Store, str]:
        """The store and the key there of what a request has called `key`."""
        if destination is not None:
            return self._store(destination), key
        if self._default is None:
            raise DestinationMissingError(
                "the request names no destination, and the recorder has none of its own", key=key
            )
        return self._store(self._default), f"{self._prefix}/{key}" if self._prefix else key

    def _store(self, destination: Destination) -> Store:
        # An overwriting request and another one to the same bucket share its client: the parcel says which it is.
        name = (destination.kind, destination.bucket, destination.region, destination.credentials)
        with self._lock:
            store = self._stores.pop(name, None) or self._new(destination)
            self._stores[name] = store  # the youngest last
            while len(self._stores) > MAX_STORES:
                del self._stores[next(iter(self._stores))]
            return store

    def _new(self, destination: Destination) -> Store:
        match destination.kind:
            case "s3":
                from callreel.delivery.s3 import S3
                from callreel.delivery.s3_settings import S3Credentials, S3Settings

                settings = self._settings.s3 or S3Settings(bucket=str(destination.bucket))
                changes: Mapping[str, Any] = {"bucket": str(destination.bucket)}
                if destination.region is not None:
                    changes = {**changes, "region": destination.region}
                if destination.credentials is not None:
                    access_key, _, secret_key = destination.credentials.partition(":")
                    changes = {**changes, "credentials": S3Credentials(access_key, secret_key)}
                return S3(replace(settings, **changes))
            case "sdrive":
                from callreel.delivery.drive import Drive

                return Drive(
                    self._settings.drive_folder(destination.bucket),
                    retention_s=self._settings.drive_retention_s,
                    url=self._settings.drive_url,
                )
            case "held":
                return Folder(self._settings.spool / "held")
            case "folder":
                return Folder(Path(str(destination.bucket)))
        raise DestinationMissingError(f"a destination of the kind {destination.kind!r} is not offered")


def _prepare_s3() -> None:
    from callreel.delivery.s3_settings import prepare

    try:
        prepare()
    except Exception as error:
        log.warning("the first delivery to S3 will take longer: %s", type(error).__name__)
