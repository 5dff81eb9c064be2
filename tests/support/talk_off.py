"""How often speech and music are taken for digits: `python tests/support/talk_off.py FOLDER` prints it.

FOLDER holds recordings without digits, in any number of folders. Debian has many hours of them:

    for name in asterisk-core-sounds-{en,es,fr,it,ru}-wav asterisk-moh-opsound-wav \\
                asterisk-prompt-it-menardi-wav klettres-data ktuberling-data supertux-data gcin-voice; do
        apt-get download $name && dpkg -x $name*.deb FOLDER
    done
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import gcd
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.signal
import soundfile

import spandsp_peer
from callreel.kernels import dtmf

SUFFIXES = {".wav", ".ogg", ".flac", ".opus"}
RATE = 8000  # a telephone's, and the only one spandsp knows


@dataclass
class Survey:
    """What both detectors said to the recordings of a folder."""

    files: int = 0
    seconds: float = 0.0
    hits: list[tuple[str, dtmf.Digit]] = field(default_factory=list)
    peer_hits: list[tuple[str, str]] = field(default_factory=list)

    @property
    def hours(self) -> float:
        return self.seconds / 3600


def recordings(folder: Path) -> Iterator[tuple[str, npt.NDArray[np.int16]]]:
    """Read each channel of each recording at 8 kHz; what is no audio is passed over."""
    for path in sorted(folder.rglob("*")):
        if path.suffix not in SUFFIXES or path.is_symlink() or not path.is_file():
            continue
        try:
            frames, rate = soundfile.read(path, dtype="float64", always_2d=True)
        except soundfile.LibsndfileError:
            continue
        # Both channels of most stereo music are nearly the same: one of them is heard.
        audio = frames[:, 0] * 32768
        if rate != RATE:
            common = gcd(RATE, rate)
            audio = scipy.signal.resample_poly(audio, RATE // common, rate // common)
        yield str(path.relative_to(folder)), np.clip(np.round(audio), -32768, 32767).astype(np.int16)


def survey(folder: Path) -> Survey:
    """Let both detectors hear every recording of a folder."""
    result = Survey()
    for name, audio in recordings(folder):
        result.files += 1
        result.seconds += len(audio) / RATE
        detector = dtmf.Detector(RATE)
        result.hits += [(name, digit) for digit in detector.feed(audio) + detector.flush()]
        if spandsp_peer.LIBRARY is not None and (symbols := spandsp_peer.detect(audio.tobytes())):
            result.peer_hits.append((name, symbols))
    return result


def main() -> None:
    for argument in sys.argv[1:]:
        result = survey(Path(argument))
        print(f"{argument}: {result.files} files, {result.hours:.2f} hours, {len(result.hits)} digits found")
        for name, digit in result.hits:
            ms = 1000 / RATE
            print(
                f"  {name}: {digit.symbol} at {digit.start / RATE:.2f} s for {digit.duration * ms:.0f} ms,",
                end="",
            )
            print(f" {digit.level_dbm0:.1f} dBm0, twist {digit.twist_db:+.1f} dB")
        if spandsp_peer.LIBRARY is not None:
            total = sum(len(symbols) for _, symbols in result.peer_hits)
            print(f"  spandsp: {total} digits found in {len(result.peer_hits)} files")


if __name__ == "__main__":
    main()
