"""Which worker has which call: several processes serve one address, and each owns the calls whose ids fall to it.

Nobody keeps a table: the id says it. So a request finds its call whichever worker was asked, and the successor of a
worker that died owns what it owned.
"""

from __future__ import annotations

import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path

from callreel.keys import safe_component

__all__ = ["ALONE", "Fleet"]


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers, as one of them sees them."""

    index: int = 0
    """Of this worker, from 0 on."""
    size: int = 1
    folder: Path = Path()
    """Where the workers' sockets are; nobody else may enter it."""

    def owner(self, call_id: str) -> int:
        """The worker that owns calls of this id, now and as long as there are so many workers.

        Capitals and hyphens make no difference: Microsoft Graph's clients write one GUID in several ways.
        """
        return self._owner_of(safe_component(call_id))

    def owns_folder(self, name: str) -> bool:
        """Whether a folder that `callreel.keys.safe_component` has named after a call is of one of ours."""
        return self._owner_of(name) == self.index

    def _owner_of(self, name: str) -> int:
        plain = name.replace("-", "").lower()
        return zlib.crc32(plain.encode("utf-8", "surrogateescape")) % self.size

    def is_ours(self, call_id: str) -> bool:
        """Whether this worker does."""
        return self.owner(call_id) == self.index

    def new_id(self) -> str:
        """An id for a call of this worker's."""
        while True:
            call_id = uuid.uuid4().hex
            if self.is_ours(call_id):
                return call_id

    def socket(self, index: int) -> Path:
        """Where that worker is asked by the others: HTTP over a Unix socket."""
        return self.folder / f"worker-{index}.sock"


ALONE = Fleet()
"""One process that owns all calls."""
