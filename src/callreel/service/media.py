"""What carries the audio of one leg of a call, both ways: what the service plays on and records from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

__all__ = ["Done", "Media"]

Done = Callable[[str | None], None]
"""Told once how playing ended: with None when the last of it is out, with the reason when it could not be."""


class Media(Protocol):
    """What carries the audio of one leg of a call, both ways. Any thread may use it.

    What the participant says reaches the call by itself, in the recorder's steps.
    """

    @property
    def description(self) -> Mapping[str, Any]:
        """JSON: where the media server has to send; "kind" says what the rest is."""
        ...

    @property
    def statistics(self) -> Mapping[str, Any]:
        """JSON: packets by fate (received, strangers, malformed, overflowed, ...), how late they were, bytes."""
        ...

    def play(self, pcm: bytes, sample_rate: int, done: Done) -> None:
        """Play mono 16-bit PCM to the participant in real time; UsageError while something is being played.

        `done` is called in a thread of the media's own, and may play what is next.
        """
        ...

    def stop(self) -> None:
        """End what is being played; its `done` is not called."""
        ...

    def settle(self) -> None:
        """Hand on what was held back of what has come: the leg is about to end. Any thread."""
        ...

    def close(self) -> None:
        """Give back what it holds; what has come still reaches the call. What is played ends, as by `stop`."""
        ...
