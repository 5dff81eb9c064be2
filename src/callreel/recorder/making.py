"""The file that was asked for, made of what the spool has of a take."""

from __future__ import annotations

from typing import Any

from callreel.encryption import ReadyKeys, SealedReader
from callreel.finishing import finish
from callreel.formats import FORMATS
from callreel.recorder.books import marks_of
from callreel.recorder.jobs import Job
from callreel.spool_sealed import opened

__all__ = ["make_file"]


def make_file(job: Job, keys: ReadyKeys | None) -> dict[str, Any]:
    """Make the file in the take's folder; returns its manifest, which names it.

    Raises:
        WrongKeyError, KeyServiceError: its key is not there now.
        OSError: a disk refuses it now.
    """
    take, about, manifest = job.take, job.about, dict(job.manifest)
    metadata = manifest.pop("metadata", {})
    missing = take.degradation()
    if missing is not None:
        _degrade(manifest, "spool", missing)
    name = f"recording.{FORMATS[about['format']].extension}"
    with opened(take.audio_path, keys) as (source, data_key):
        made = finish(
            source,
            take.folder / f"{name}.part",
            format=about["format"],
            sample_rate=about["sample_rate"],
            tags=about["tags"],
            marks=marks_of(manifest),
            data_key=data_key,
        )
    manifest |= {"bytes": made.size_bytes, "sha256": made.sha256, "frames": made.frames}
    if data_key is not None:
        manifest["encrypted_for"] = data_key.key_id
        if isinstance(source, SealedReader) and source.lost_bytes:
            _degrade(manifest, "encryption", {"unreadable_bytes": source.lost_bytes})
        if keys is not None:
            keys.forget(data_key)
    manifest["destination"] = about["destination"]
    return {**manifest, "metadata": metadata, "media_type": made.media_type, "file": name}


def _degrade(manifest: dict[str, Any], what: str, figures: dict[str, Any]) -> None:
    manifest["degraded"] = {**(manifest.get("degraded") or {}), what: figures}
