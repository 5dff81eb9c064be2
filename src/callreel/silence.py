"""When a participant is silent: the two silence rules of a recording, on the audio as it is recorded."""

from __future__ import annotations

from callreel.actions import EndReason, StopRules
from callreel.kernels import pcm

__all__ = ["SilenceMeter"]

FRAME_MS = 20
"""What one level is measured over; silence is counted in such frames."""

SOUND_FRAMES = 3
"""So many loud frames in a row are something said; fewer are a click."""


class SilenceMeter:
    """Feed the audio of a recording in order; it says where a rule ends it. Chunks do not matter.

    With the same time for both rules (Amazon Chime's `SilenceDurationInSeconds`) it does not matter either whether
    anything was said before.
    """

    def __init__(self, rules: StopRules, sample_rate: int) -> None:
        """Measure at `sample_rate`; positions are samples since the first one fed."""
        self._frame_samples = sample_rate * FRAME_MS // 1000
        self._threshold_dbm0 = rules.silence_dbm0
        self._initial = self._frames(rules.initial_silence_ms)
        self._trailing = self._frames(rules.trailing_silence_ms)
        self._rest = b""
        self._silent = 0  # frames in a row up to now
        self._loud = 0
        self._spoken = False

    @staticmethod
    def _frames(duration_ms: int | None) -> int | None:
        return None if duration_ms is None else max(1, -(-duration_ms // FRAME_MS))

    @property
    def needed(self) -> bool:
        """Whether there is a rule at all."""
        return self._initial is not None or self._trailing is not None

    def restart(self) -> None:
        """Count silence anew: a pause is not the participant's."""
        self._rest = b""
        self._silent = self._loud = 0

    def feed(self, audio: bytes) -> tuple[int, EndReason] | None:
        """Take the next samples; (samples of them that still belong to the recording, why it ends), or None."""
        carried_samples = len(self._rest) // 2
        audio = self._rest + audio if self._rest else audio
        levels_dbm0 = memoryview(pcm.frame_levels(audio, self._frame_samples)).cast("f")
        self._rest = audio[2 * len(levels_dbm0) * self._frame_samples :]
        for number, level_dbm0 in enumerate(levels_dbm0, 1):
            self._loud = self._loud + 1 if level_dbm0 >= self._threshold_dbm0 else 0
            if self._loud >= SOUND_FRAMES:
                self._spoken = True
                self._silent = 0
                continue
            self._silent += 1
            limit = self._trailing if self._spoken else self._initial
            if limit is not None and self._silent >= limit:
                reason = EndReason.TRAILING_SILENCE if self._spoken else EndReason.INITIAL_SILENCE
                return number * self._frame_samples - carried_samples, reason
        return None
