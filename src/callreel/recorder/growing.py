"""Long recordings go to their store part by part while they run, so that little is left to send when they end.

What is sent is what the spool file holds some seconds behind the call: final, unless its disk was slow. That need not
be certain: the delivery compares every part with the finished file and sends those again that differ. So all that can
go wrong here costs a part that is sent twice, and a store that fails has its file when the recording has ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from callreel.actions import Destination
from callreel.delivery import GrowingStore, GrowingUpload, Parcel, Receipt
from callreel.delivery.error_classes import text_of
from callreel.errors import DeliveryError
from callreel.formats import FORMATS
from callreel.recorder.stores import StoreFor
from callreel.spool import Take

__all__ = ["UPLOAD", "Growing", "growing_of"]

log = logging.getLogger("callreel.recorder")

UPLOAD = "upload"
"""The note in a take's journal by which another process goes on: "upload_id"."""

BEHIND_S = 5.0
"""How far behind the call a part ends that is sent: what is read 1.1 s behind it is final."""
FIRST_PART = 2
"""Part 1 has the header, which is known last."""
AGAIN_S = 60.0
"""After an error."""


@dataclass(slots=True)
class Growing:
    """The upload of one take; `is_due` and `send` while it runs, then `deliver` or `abort`."""

    take: Take
    store: GrowingStore
    key: str
    """In the store."""
    begin: Callable[[], GrowingUpload]
    """Begins the upload, or goes on with that of a process that is dead."""
    is_left: bool = False
    """Whether a process that is dead began it: its parts are found when the file is delivered."""
    upload: GrowingUpload | None = None
    next_part: int = FIRST_PART
    is_busy: bool = False
    """Whether a thread is to send, or sends."""
    is_over: bool = False
    again_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def is_due(self) -> bool:
        """Whether another part could be sent; any thread."""
        shape = self.take.shape
        if self.is_busy or self.is_over or shape is None or time.monotonic() < self.again_at:
            return False
        end = self.next_part * self.store.part_bytes + round(BEHIND_S * shape.bytes_per_s)
        try:
            return self.take.audio_path.stat().st_size >= end
        except OSError:
            return False  # the spool tells

    def send(self) -> None:
        """Send the next part. What goes wrong is tried again later; nothing is lost by it."""
        with self._lock:
            try:
                if not self.is_over:
                    self._send()
            except DeliveryError as error:
                log.warning(
                    "part %d of %s is not sent yet: %s",
                    self.next_part,
                    self.key,
                    text_of(error),
                    extra={"call_id": self.take.about["call_id"], "take_id": self.take.take_id},
                )
                self.again_at = time.monotonic() + AGAIN_S
            except OSError:
                self.again_at = time.monotonic() + AGAIN_S  # of the spool's disk, which tells it itself
            finally:
                self.is_busy = False

    def _send(self) -> None:
        if self.upload is None:
            self.upload = self.begin()
            self.take.note(UPLOAD, upload_id=self.upload.upload_id)
        size = self.store.part_bytes
        with self.take.audio_path.open("rb") as file:
            file.seek((self.next_part - 1) * size)
            data = file.read(size)
        if len(data) == size:
            self.upload.part(self.next_part, data)
            self.next_part += 1

    def deliver(self, parcel: Parcel) -> Receipt:
        """Deliver the finished file; what was sent of it is used once, and never again after an error."""
        with self._lock:
            self.is_over = True
            upload, self.upload = self.upload, None
            if self.is_left:
                self.is_left = False
                with suppress(DeliveryError):  # it is not there any more: the file goes as any other
                    upload = self.begin()
            return self.store.deliver(parcel, upload)

    def abort(self) -> None:
        """Nobody is to have it."""
        with self._lock:
            self.is_over = True
            upload, self.upload = self.upload, None
            if upload is not None:
                upload.abort()


def growing_of(
    take: Take, destination: Destination | None, store_for: StoreFor, upload_id: str | None = None
) -> Growing | None:
    """How a take is sent while it runs, or was by a process that is dead; None where that cannot be.

    The file must be what the spool has, in the clear, and what is stored beside it must be known from the beginning.
    """
    about = take.about
    metadata = about["metadata"]
    if metadata is None or about["format"] != "wav":
        return None
    try:
        store, key = store_for(destination, about["key"])
    except Exception:
        return None  # told when it is delivered
    if not isinstance(store, GrowingStore):
        return None
    overwrite = about["destination"]["overwrite"]
    if upload_id is None:
        begin = partial(
            store.begin, key, media_type=FORMATS["wav"].media_type, metadata=metadata, overwrite=overwrite
        )
    else:
        begin = partial(store.resume, key, upload_id, metadata=metadata, overwrite=overwrite)
    return Growing(take, store, key, begin, is_left=upload_id is not None)
