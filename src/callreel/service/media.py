"""What carries the audio of a leg; each kind is a module of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

__all__ = ["Media"]


class Media(Protocol):
    """The connection of one leg, both ways."""

    @property
    def description(self) -> Mapping[str, Any]:
        """JSON: where the media server has to send."""
        ...

    @property
    def statistics(self) -> Mapping[str, Any]:
        """JSON: packets by fate."""
        ...

    def play(self, pcm: bytes, sample_rate: int, done: Callable[[str | None], None]) -> None:
        """Send 16-bit mono PCM to the participant in real time, one piece at a time.

        `done(None)` when the last of it is out, `done(reason)` when it could not be; from any thread.
        """
        ...

    def stop(self) -> None:
        """End what is played; its `done` is not called."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...
