"""Measures the load of the process once a second, and has the recorder refuse what would be too much."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Final

from callreel.recorder import Recorder
from callreel.service.overload import Load, Overload

__all__ = ["Watch", "processors"]

log = logging.getLogger("callreel.service")

LOOK_S: Final = 1.0


def processors() -> int:
    """How many this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Watch:
    """The thread that measures; what it found may be read from any other."""

    def __init__(self, recorder: Recorder, overload: Overload, *, share: float | None = None) -> None:
        """Begin. `share`: how many processors the process has for itself; None for all that it may run on."""
        self._recorder, self._overload = recorder, overload
        self._processors = share or processors()
        self.load = Load(0.0, 0.0, 0.0)
        """What was measured last."""
        self.reason: str | None = None
        """Why recordings are refused; None when they are not."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="callreel-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop measuring."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        at, cpu_s = time.monotonic(), time.process_time()
        while not self._stop.wait(LOOK_S):
            now, now_cpu_s = time.monotonic(), time.process_time()
            try:
                self._look(now, (now_cpu_s - cpu_s) / (now - at))
            except Exception:
                log.exception("the load was not measured")
            at, cpu_s = now, now_cpu_s

    def _look(self, now: float, cpu_per_s: float) -> None:
        strain = self._recorder.strain()
        self.load = Load(strain.late_s, cpu_per_s / self._processors, strain.waiting_share)
        reason = self._overload.judge(self.load, now)
        if (reason is None) != (self.reason is None):
            log.warning(
                "recordings are begun again" if reason is None else f"no recordings are begun: {reason}"
            )
            self._recorder.refuse(reason)
        self.reason = reason
