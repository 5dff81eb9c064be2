"""Signatures that have been used: whoever has listened to a request gains nothing by sending it again.

The clients of vendors send a request again when its answer was lost, and clocks of seconds make two equal requests of
one second look the same. So a signature that comes again is not refused: it gets the answer of the first time, and
nothing is done.
"""

from __future__ import annotations

import hashlib
import heapq
from datetime import datetime
from typing import Any, Final

__all__ = ["Replays"]

MOST: Final = 100_000
"""Kept at a time; beyond that those go first that would be forgotten first."""


class Replays:
    """The answers to signed requests, each as long as its signature is good. Of one process, and one thread."""

    def __init__(self, most: int = MOST) -> None:
        """Remember nothing yet."""
        self._most = most
        self._until: list[tuple[float, bytes]] = []
        self._answers: dict[bytes, Any] = {}

    def answer_to(self, signature: str, *, now: datetime) -> Any:
        """What the request was answered when it came before; None when it did not."""
        while self._until and self._until[0][0] < now.timestamp():
            self._forget()
        return self._answers.get(_digest(signature))

    def keep(self, signature: str, answer: Any, *, until: datetime) -> None:
        """Remember an answer; `until` then the signature is good."""
        while len(self._until) >= self._most:
            self._forget()
        digest = _digest(signature)
        if digest not in self._answers:
            heapq.heappush(self._until, (until.timestamp(), digest))
        self._answers[digest] = answer

    def _forget(self) -> None:
        del self._answers[heapq.heappop(self._until)[1]]


def _digest(signature: str) -> bytes:
    return hashlib.sha256(signature.encode("utf-8", "surrogateescape")).digest()
