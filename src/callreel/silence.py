"""When a participant is silent: the two silence rules of a recording, on the audio as it is recorded."""

from __future__ import annotations

from callreel.actions import StopRules
from callreel.kernels import pcm

__all__ = ["silence_meter"]

FRAME_MS = 20
"""What one level is measured over; silence is counted in such frames."""

SOUND_FRAMES = 3
"""So many loud frames in a row are something said; fewer are a click."""


def silence_meter(rules: StopRules, sample_rate: int) -> pcm.SilenceMeter | None:
    """What measures the silence of the left channel by these rules, fed with the recording in order; None for none.

    With the same time for both rules (Amazon Chime's `SilenceDurationInSeconds`) it does not matter whether anything
    was said before.
    """
    initial, trailing = rules.initial_silence_ms, rules.trailing_silence_ms
    if initial is None and trailing is None:
        return None
    return pcm.SilenceMeter(
        sample_rate * FRAME_MS // 1000, rules.silence_dbm0, SOUND_FRAMES, _frames(initial), _frames(trailing)
    )


def _frames(duration_ms: int | None) -> int:
    """Whole frames; 0 where there is no such rule."""
    return 0 if duration_ms is None else max(1, -(-duration_ms // FRAME_MS))
