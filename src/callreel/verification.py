"""Whether a file is what its manifest says, and agrees with itself.

`verify` reads everything: the SHA-256 is computed, MP3 is decoded to its last frame. What is wrong is a
finding, a sentence; no finding means that the file is sound.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from callreel import manifest as manifests
from callreel.audiofile import (
    AudioFile,
    Mp3File,
    NotDecodableError,
    Progress,
    open_audio,
    open_regular,
    sha256_of,
)
from callreel.errors import ManifestError, MediaError
from callreel.inspection import audio_of, damage_of, is_there, manifest_of, read_manifest

__all__ = ["Verification", "verify"]


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of looking at one file."""

    path: Path
    """The audio file."""
    manifest_path: Path | None
    """Its manifest; None when there is none, and the file was held against itself alone."""
    findings: tuple[str, ...]
    """What is wrong, a sentence each."""
    degraded: Mapping[str, Any] | None
    """What the manifest says is missing from the recording, though the file is what it should be."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong, with the file or with what was recorded."""
        return not self.findings and self.degraded is None


def verify(path: Path, *, progress: Progress | None = None) -> Verification:
    """Hold a file against its manifest, `<file>.json`, and against itself; `path` may also be the manifest's.

    Raises:
        OSError: no such file, no regular file, not to be read.

    """
    audio_path = audio_of(path)
    manifest_path = manifest_of(audio_path)
    document: dict[str, Any] = {}
    findings: list[str] = []
    found = is_there(manifest_path)
    if found:
        try:
            document = manifests.load(read_manifest(manifest_path))
            findings += [f"manifest: {problem}" for problem in manifests.problems(document)]
        except ManifestError as error:
            findings += [f"manifest: {problem}" for problem in error.problems]
        except OSError as error:
            findings.append(f"manifest: not to be read: {error.strerror or error}")

    if audio_path != path and not is_there(audio_path):
        findings.append(f"the audio file {audio_path.name} is missing")
    else:
        try:
            with open_audio(audio_path, progress=progress) as audio:
                if document:
                    findings += _against_manifest(audio, document, progress)
                findings += _against_itself(audio, progress)
        except MediaError as error:
            if document:
                findings += _bytes_alone(audio_path, document)
            findings.append(str(error))
    degraded = document.get("degraded")
    return Verification(
        path=audio_path,
        manifest_path=manifest_path if found else None,
        findings=tuple(findings),
        degraded=degraded if isinstance(degraded, dict) else None,
    )


def _against_manifest(
    audio: AudioFile, document: Mapping[str, Any], progress: Progress | None
) -> Iterator[str]:
    yield from _compare_bytes(audio.size_bytes, audio.sha256(progress), document)
    for key, there in (
        ("format", audio.format),
        ("sample_rate", audio.sample_rate),
        ("channels", audio.channels),
        ("frames", audio.frames),
    ):
        said = document.get(key)
        # Of another type, it has been named already.
        if type(said) is type(there) and said != there:
            yield f"{key}: the manifest says {said}, the file has {there}"
    said = document.get("duration")
    if (
        manifests.is_quantity(said)
        and abs(said - audio.frames / audio.sample_rate) > manifests.TIME_TOLERANCE_S
    ):
        yield f"duration: the manifest says {said} s, the file lasts {audio.frames / audio.sample_rate:.6f} s"


def _bytes_alone(path: Path, document: Mapping[str, Any]) -> Iterator[str]:
    """What can be said of a file that is no audio."""
    with open_regular(path) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        yield from _compare_bytes(size_bytes, sha256_of(file, size_bytes), document)


def _compare_bytes(size_bytes: int, sha256: str, document: Mapping[str, Any]) -> Iterator[str]:
    for key, there in (("bytes", size_bytes), ("sha256", sha256)):
        said = document.get(key)
        if said is None:
            yield f"{key}: the manifest does not say"
        elif type(said) is type(there) and said != there:
            yield f"{key}: the manifest says {said}, the file has {there}"


def _against_itself(audio: AudioFile, progress: Progress | None) -> Iterator[str]:
    warnings, damage = damage_of(audio)
    yield from damage
    yield from warnings
    if not isinstance(audio, Mp3File):
        return
    frames = 0
    try:
        for piece in audio.pcm():
            frames += len(piece) // (2 * audio.channels)
            if progress is not None:
                progress(frames / audio.frames)
    except NotDecodableError as error:
        yield f"the audio cannot be decoded: {error}"
        return
    if frames != audio.frames:
        yield f"{frames} of {audio.frames} frames can be decoded"
