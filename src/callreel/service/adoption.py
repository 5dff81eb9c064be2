"""Spools of workers that there are no more: the service was begun with fewer. What is in them is brought to its end.

Each is the spool of a `Recorder` that takes no calls: it recovers, delivers and tells until nothing is left.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from callreel.recorder import Recorder
from callreel.service.fleet import Fleet
from callreel.service.measures import dead_letters
from callreel.spool import spools_in

__all__ = ["Adopted"]

log = logging.getLogger("callreel.service")


class Adopted:
    """Those that this worker has adopted; any thread, but `sweep` and `close` only one at a time."""

    def __init__(self, folder: Path, fleet: Fleet, recorder_of: Callable[[Path], Recorder]) -> None:
        """Open those below `folder`, the spool of the first worker, that fall to this one.

        UsageError when another process has one of them.
        """
        self._recorders: dict[Path, Recorder] = {}
        with ExitStack() as undo:
            for index, spool in spools_in(folder).items():
                if index >= fleet.size and index % fleet.size == fleet.index:
                    self._recorders[spool] = undo.enter_context(recorder_of(spool))
                    log.info("what is left in %s is brought to its end", spool)
            undo.pop_all()

    @property
    def recorders(self) -> Mapping[Path, Recorder]:
        """Their recorders, by where they are."""
        return dict(self._recorders)

    def drain(self, timeout_s: float) -> bool:
        """Wait until all is delivered and told; whether it is."""
        until = time.monotonic() + timeout_s
        return all(one.drain(max(0.0, until - time.monotonic())) for one in self.recorders.values())

    def sweep(self) -> None:
        """Let go of those that nothing is left in."""
        for spool, recorder in self.recorders.items():
            if not recorder.unfinished and not recorder.takes() and not dead_letters(spool):
                recorder.close()
                del self._recorders[spool]
                log.info("nothing is left in %s", spool)

    def close(self) -> None:
        """Let go of all; what is not delivered is left to the next start."""
        for recorder in self.recorders.values():
            recorder.close()
        self._recorders.clear()
