"""The outlines of the recordings that were looked at last: a file is read once, however often its page is loaded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Final

from callreel.service.audio import AudioReader
from callreel.service.library import Entry
from callreel.service.strip import COLUMNS

__all__ = ["Outlines"]

KEPT: Final = 64
"""Of 50 KB each."""
AT_A_TIME: Final = 2
"""Files that are read for their outlines: a page must not take the processor from the calls."""


class Outlines:
    """Remembers outlines; any thread."""

    def __init__(self, audio: AudioReader) -> None:
        """Read files from `audio`."""
        self._audio = audio
        self._kept: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()
        self._turns = threading.Semaphore(AT_A_TIME)

    def of(self, entry: Entry) -> dict[str, Any]:
        """See `AudioReader.waveform`; raises as that does."""
        name = entry.take_id, str(entry.manifest.get("sha256", ""))
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        with self._turns:
            found = self._audio.waveform(entry, COLUMNS)
        with self._lock:
            self._kept[name] = found
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found
