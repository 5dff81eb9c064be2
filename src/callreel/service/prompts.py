"""Prompts: fetched within limits, decoded, mixed to one channel, kept for a while.

WAV of any encoding that `callreel.audiofile` reads and MP3. Where they may come from is `addresses.PROMPTS`'s to say,
or the operator's own policy.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from callreel.addresses import PROMPTS, Policy
from callreel.audiofile import open_audio
from callreel.errors import CallreelError, MediaError
from callreel.kernels import pcm
from callreel.web import fetch

__all__ = ["Prompts", "decode"]

KEPT_S: Final = 300.0
KEPT_BYTES: Final = 64 << 20
LONGEST_S: Final = 600.0
DECODED_BYTES: Final = 64 << 20
"""Of one prompt: what it is fetched as may be a hundredth of that."""
CHANNELS_MAX: Final = 2


class _Kept(NamedTuple):
    pcm: bytes
    sample_rate: int
    until: float


class Prompts:
    """Gives a prompt's audio; any thread."""

    def __init__(self, policy: Policy = PROMPTS, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Fetch what `policy` allows."""
        self._policy = policy
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __call__(self, uri: str) -> tuple[bytes, int]:
        """16-bit mono PCM and its rate; a `DeliveryError` when it cannot be fetched, MediaError when it is no audio."""
        with self._lock:
            kept = self._kept.get(uri)
            if kept is not None and kept.until > self._clock():
                self._kept.move_to_end(uri)
                return kept.pcm, kept.sample_rate
        response = fetch(uri, self._policy, accept="audio/wav, audio/mpeg, audio/*;q=0.8")
        audio, sample_rate = decode(response.body)
        with self._lock:
            old = self._kept.pop(uri, None)
            self._bytes += len(audio) - (0 if old is None else len(old.pcm))
            self._kept[uri] = _Kept(audio, sample_rate, self._clock() + KEPT_S)
            while self._bytes > KEPT_BYTES and self._kept:
                _, gone = self._kept.popitem(last=False)
                self._bytes -= len(gone.pcm)
        return audio, sample_rate


def decode(data: bytes) -> tuple[bytes, int]:
    """A WAV or MP3 file as 16-bit mono PCM and its rate; MediaError when it is neither, or too long."""
    with tempfile.TemporaryDirectory(prefix="callreel-prompt-") as folder:
        path = Path(folder) / "prompt"
        path.write_bytes(data)
        try:
            with open_audio(path) as audio:
                if audio.frames > LONGEST_S * audio.sample_rate:
                    raise MediaError(f"a prompt has at most {LONGEST_S:.0f} s")
                if not 1 <= audio.channels <= CHANNELS_MAX:
                    raise MediaError(f"a prompt has one or two channels, not {audio.channels}")
                if audio.frames * audio.channels * 2 > DECODED_BYTES:
                    raise MediaError(f"a prompt has at most {DECODED_BYTES >> 20} MiB of audio")
                frames = b"".join(audio.pcm())
                channels, sample_rate = audio.channels, audio.sample_rate
        except CallreelError:
            raise
        except (OSError, ValueError) as error:
            raise MediaError(f"the prompt cannot be read: {error}") from error
    if channels == CHANNELS_MAX:
        left, right = pcm.deinterleave(frames)
        frames = pcm.mix([pcm.gain(left, -6.0206), pcm.gain(right, -6.0206)])
    return frames, sample_rate
