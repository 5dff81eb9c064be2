"""What a recording is: levels, digits and structure of a WAV or MP3 file, and what its manifest tells of it.

`inspect` reads a file of any size in pieces and answers with plain data; `callreel.cli_inspect` puts it into
words and `callreel.waveform` into a picture.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from callreel import manifest as manifests
from callreel.audiofile import (
    ALAW_PEAK,
    ULAW_PEAK,
    AudioFile,
    Mp3File,
    NotDecodableError,
    Progress,
    WavFile,
    is_wav,
    open_audio,
    open_regular,
)
from callreel.errors import ManifestError
from callreel.kernels import dtmf, mp3, pcm, wav
from callreel.manifest import Manifest

__all__ = [
    "Channel",
    "Digit",
    "Envelope",
    "Inspection",
    "audio_of",
    "damage_of",
    "inspect",
    "is_there",
    "manifest_of",
    "read_manifest",
]

CHANNELS_MAX = 16
"""Channels that are measured; of a file with more, the rest is only counted."""

SILENCE_DBM0 = -50.0
"""20 ms below this count as silence: speech lies above, comfort noise and the noise of a line below."""

SILENCE_FRAMES_MAX = 1 << 16
"""The longest stretch looked at as one, whatever the sample rate says."""

EXACT_SAMPLES = 4096
"""The most samples whose least and greatest are told apart in an envelope; in more they are much the same."""

POWER_DB = 10.0


class Digit(NamedTuple):
    """A key heard in the audio."""

    symbol: str
    at_s: float
    """When it begins, seconds since the first frame."""
    duration_s: float
    level_dbm0: float
    twist_db: float


@dataclass(frozen=True, slots=True)
class Envelope:
    """The outline of a channel in columns of equal duration; samples as parts of full scale, -1 to 1."""

    low: Sequence[float]
    high: Sequence[float]
    rms: Sequence[float]


@dataclass(frozen=True, slots=True)
class Channel:
    """What one channel sounds like."""

    name: str
    """The direction of its track, from the manifest; else left, right, mono or a number."""
    rms_dbm0: float
    """Level of the whole channel; minus infinity for digital silence."""
    peak_dbm0: float
    clipped_samples: int
    """Samples at the least or greatest value that the encoding has."""
    silent_share: float | None
    """Share of 20 ms stretches below `SILENCE_DBM0`, 0 to 1; None when the channel is shorter than one."""
    digits: tuple[Digit, ...] | None
    """None when they were not looked for: the detector works at 8 to 48 kHz."""
    envelope: Envelope | None
    """None unless asked for."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What there is to say of one file."""

    path: Path
    size_bytes: int
    format: Literal["wav", "mp3"]
    container: str
    encoding: str
    sample_rate: int
    channels: int
    bits_per_sample: int | None
    frames: int
    measured: tuple[Channel, ...]
    """The first `CHANNELS_MAX` channels; none when `not_measured` says why."""
    not_measured: str | None
    wav: wav.Info | None
    mp3: mp3.Info | None
    manifest: Manifest | None
    """What lies beside the file as `<file>.json`, when it is sound."""
    manifest_problems: tuple[str, ...]
    """What is wrong with it."""
    warnings: tuple[str, ...]
    """Contradictions in the file that cost no audio."""
    damage: tuple[str, ...]
    """Audio that is missing, or may be."""

    @property
    def duration_s(self) -> float:
        """Length of the audio in seconds."""
        return self.frames / self.sample_rate

    @property
    def is_sound(self) -> bool:
        """Whether nothing is damaged; the manifest, if there is one, is sound and not `degraded`."""
        degraded = self.manifest is not None and self.manifest["degraded"] is not False
        return not (self.damage or self.manifest_problems or degraded)


def inspect(path: Path, *, columns: int = 0, progress: Progress | None = None) -> Inspection:
    """Read a file and measure it; with `columns` each channel also gets an envelope of at most that many.

    Raises:
        OSError: no such file, no regular file, not to be read.
        WavError, Mp3Error: not a WAV or MP3 file.

    """
    manifest: Manifest | None = None
    manifest_problems: tuple[str, ...] = ()
    beside = manifest_of(path)
    with open_audio(path, progress=progress) as audio:
        if is_there(beside):
            try:
                manifest = manifests.parse(read_manifest(beside))
            except ManifestError as error:
                manifest_problems = error.problems
            except OSError as error:
                manifest_problems = (f"not to be read: {error.strerror or error}",)
        warnings, damage = damage_of(audio)
        measured: tuple[Channel, ...] = ()
        not_measured = None
        try:
            measured, frames_there = _measure(audio, manifest, columns, progress)
        except NotDecodableError as error:
            not_measured = str(error)
            if isinstance(audio, Mp3File):
                damage.append(f"the audio cannot be decoded: {error}")
        else:
            if frames_there != audio.frames:
                damage.append(f"{frames_there} of {audio.frames} frames can be decoded")
        return Inspection(
            path=path,
            size_bytes=audio.size_bytes,
            format=audio.format,
            container=audio.container,
            encoding=audio.encoding,
            sample_rate=audio.sample_rate,
            channels=audio.channels,
            bits_per_sample=audio.bits_per_sample,
            frames=audio.frames,
            measured=measured,
            not_measured=not_measured,
            wav=audio.info if isinstance(audio, WavFile) else None,
            mp3=audio.info if isinstance(audio, Mp3File) else None,
            manifest=manifest,
            manifest_problems=manifest_problems,
            warnings=tuple(warnings),
            damage=tuple(damage),
        )


# -- files beside each other -----------------------------------------------------------------------------


def manifest_of(audio: Path) -> Path:
    """Where the manifest of an audio file lies."""
    return audio.with_name(audio.name + manifests.FILE_SUFFIX)


def audio_of(path: Path) -> Path:
    """The audio file that is meant: of a manifest the one it lies beside, else the file itself.

    Raises OSError when `path` is no file to be read.
    """
    with open_regular(path) as file:
        if is_wav(file):
            return path
    stem = path.name.removesuffix(manifests.FILE_SUFFIX)
    return path.with_name(stem) if stem and stem != path.name else path


def is_there(path: Path) -> bool:
    """Whether something of this name exists; a name too long to be one does not."""
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def read_manifest(path: Path) -> bytes:
    """The bytes of a manifest file, no more of them than decide that there are too many."""
    with open_regular(path) as file:
        return file.read(manifests.MANIFEST_MAX_BYTES + 1)


def damage_of(audio: AudioFile) -> tuple[list[str], list[str]]:
    """Sort what the structure of a file tells: (contradictions without loss, audio lost or altered)."""
    warnings = list(audio.info.warnings)
    if isinstance(audio, WavFile):
        return ([], warnings) if audio.info.truncated else (warnings, [])
    if audio.info.junk_bytes:
        warnings.append(f"{audio.info.junk_bytes} bytes are in no MPEG frame and no tag")
    said = audio.info.xing
    damaged = audio.info.truncated or (
        said is not None
        and (
            said.tag_crc_ok is False
            or said.music_crc_ok is False
            or (said.mpeg_frames is not None and said.mpeg_frames != audio.info.mpeg_frames)
        )
    )
    return ([], warnings) if damaged else (warnings, [])


# -- measuring -------------------------------------------------------------------------------------------


def _measure(
    audio: AudioFile, manifest: Manifest | None, columns: int, progress: Progress | None
) -> tuple[tuple[Channel, ...], int]:
    """The channels, and how many frames there were of each."""
    names = _channel_names(audio.channels, manifest)
    meters = [
        _Meter(name, audio, _extremes(audio, manifest, number), columns) for number, name in enumerate(names)
    ]
    frames = 0
    for piece in audio.pcm():
        samples = array("h", piece)
        frames += len(samples) // audio.channels
        for number, meter in enumerate(meters):
            meter.feed(samples[number :: audio.channels] if audio.channels > 1 else samples)
        if progress is not None:
            progress(frames / audio.frames)
    return tuple(meter.finish() for meter in meters), frames


def _channel_names(channels: int, manifest: Manifest | None) -> list[str]:
    """Of the channels that are measured."""
    directions: list[list[str]] = [[] for _ in range(min(channels, CHANNELS_MAX))]
    for track in manifest["tracks"] if manifest is not None else ():
        if track["channel"] < len(directions):
            directions[track["channel"]].append(track["direction"])
    usual = {1: ["mono"], 2: ["left", "right"]}.get(channels)
    return [
        " + ".join(held) or (usual[number] if usual else f"channel {number + 1}")
        for number, held in enumerate(directions)
    ]


def _extremes(audio: AudioFile, manifest: Manifest | None, channel: int) -> tuple[int, int]:
    """Where a channel clips: G.711 does so below the limit of the file that holds its samples."""
    codecs = [
        track["codec"] for track in (manifest["tracks"] if manifest else ()) if track["channel"] == channel
    ]
    if isinstance(audio, WavFile) and codecs in (["PCMU"], ["PCMA"]):
        peak = ULAW_PEAK if codecs == ["PCMU"] else ALAW_PEAK
        return -peak, peak
    return audio.extremes


class _Meter:
    """Takes the samples of one channel, in pieces, and adds them up."""

    def __init__(self, name: str, audio: AudioFile, extremes: tuple[int, int], columns: int) -> None:
        self._name = name
        self._low, self._high = extremes
        self._samples = 0
        self._power = 0.0  # sum of squares, full scale sine 0 dBm0
        self._peak_dbm0 = -math.inf
        self._clipped = 0
        self._stretch_samples = min(max(1, audio.sample_rate // 50), SILENCE_FRAMES_MAX)
        self._rest = b""  # of a stretch
        self._stretches = 0
        self._silent = 0
        self._sample_rate = audio.sample_rate
        self._detector = dtmf.Detector(audio.sample_rate) if 8000 <= audio.sample_rate <= 48000 else None
        self._digits: list[dtmf.Digit] = []
        self._outline = _Outline(audio.frames, columns) if columns and audio.frames else None

    def feed(self, samples: array[int]) -> None:
        rms_dbm0, peak_dbm0 = pcm.level(samples)
        self._samples += len(samples)
        self._power += _power(rms_dbm0) * len(samples)
        self._peak_dbm0 = max(self._peak_dbm0, peak_dbm0)
        # Counting takes longer than all else, so it is left out where nothing can be found.
        if peak_dbm0 >= _peak_dbm0(min(self._high, -self._low)) - 0.001:
            self._clipped += sum(samples.count(value) for value in {self._low, self._high})
        self._count_silence(samples)
        if self._detector is not None:
            self._digits += self._detector.feed(samples)
        if self._outline is not None:
            self._outline.add(samples)

    def _count_silence(self, samples: array[int]) -> None:
        audio = self._rest + samples.tobytes()
        levels = array("f", pcm.frame_levels(audio, self._stretch_samples))
        self._rest = audio[2 * self._stretch_samples * len(levels) :]
        self._stretches += len(levels)
        self._silent += sum(level < SILENCE_DBM0 for level in levels)

    def finish(self) -> Channel:
        digits = None
        if self._detector is not None:
            self._digits += self._detector.flush()
            rate = self._sample_rate
            digits = tuple(
                Digit(one.symbol, one.start / rate, one.duration / rate, one.level_dbm0, one.twist_db)
                for one in self._digits
            )
        return Channel(
            name=self._name,
            rms_dbm0=POWER_DB * math.log10(self._power / self._samples) if self._power else -math.inf,
            peak_dbm0=self._peak_dbm0,
            clipped_samples=self._clipped,
            silent_share=self._silent / self._stretches if self._stretches else None,
            digits=digits,
            envelope=self._outline.envelope() if self._outline is not None else None,
        )


def _power(dbm0: float) -> float:
    return math.pow(10.0, dbm0 / POWER_DB)


def _peak_dbm0(sample: int) -> float:
    return pcm.level(array("h", [min(sample, 32767)]))[1]


FULL_SCALE_SINE_DBM0 = 3.14
"""ITU-T G.711 (11/88): the sine that reaches the overload point of A-law."""

FULL_SCALE_POWER = _power(FULL_SCALE_SINE_DBM0 + POWER_DB * math.log10(2))
"""Of a square wave of full scale: 3 dB above the sine."""


class _Outline:
    """An envelope in the making: columns of equal duration over a known number of frames."""

    def __init__(self, frames: int, columns: int) -> None:
        self._frames = frames
        self._columns = min(columns, frames)
        self._low: list[float] = []
        self._high: list[float] = []
        self._rms: list[float] = []
        self._position = 0  # frames
        self._open()

    def _open(self) -> None:
        self._begin = self._position
        self._end = (len(self._low) + 1) * self._frames // self._columns
        self._least, self._greatest, self._sum = 1.0, -1.0, 0.0

    def add(self, samples: array[int]) -> None:
        at = 0
        while at < len(samples) and len(self._low) < self._columns:
            part = samples[at : at + self._end - self._position]
            at += len(part)
            self._position += len(part)
            rms_dbm0, peak_dbm0 = pcm.level(part)
            if len(part) <= EXACT_SAMPLES:
                least, greatest = min(part) / 32768, max(part) / 32768
            else:
                greatest = 10 ** ((peak_dbm0 - FULL_SCALE_SINE_DBM0) / 20)
                least = -greatest
            self._least = min(self._least, least)
            self._greatest = max(self._greatest, greatest)
            self._sum += _power(rms_dbm0) / FULL_SCALE_POWER * len(part)
            if self._position == self._end:
                self._close()

    def _close(self) -> None:
        self._low.append(self._least)
        self._high.append(self._greatest)
        self._rms.append(math.sqrt(self._sum / (self._position - self._begin)))
        self._open()

    def envelope(self) -> Envelope:
        if self._position > self._begin:  # the file was shorter than it said
            self._close()
        missing = [0.0] * (self._columns - len(self._low))
        return Envelope(tuple(self._low + missing), tuple(self._high + missing), tuple(self._rms + missing))
