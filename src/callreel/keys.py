"""Object keys: where a recording goes inside its bucket, drive or folder.

The layout is that of Amazon Chime SDK, "StartCallRecording", section "Specifying a recording destination":

    prefix/year/month/day/year-month-day-hour-minute-second-millisecond_transactionId_callId.wav

with the date of the call's start in UTC (the page names no time zone).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

__all__ = ["CHIME_DEFAULT_PREFIX", "call_recording_key", "call_recording_metadata", "safe_component"]

CHIME_DEFAULT_PREFIX = "Amazon-Chime-SMA-Call-Recordings"

MAX_COMPONENT_BYTES = 200
"""Bytes of an id in a key. File names end at 255 bytes on common file systems, S3 keys at 1,024."""

# Characters S3 calls safe (user guide, "Naming Amazon S3 objects") that every file system takes too, and `@`, which
# SIP Call-IDs have.
_SAFE = re.compile(r"[A-Za-z0-9!_.'()@+=,-]+")
_UNSAFE = re.compile(rb"[^A-Za-z0-9!_.'()@+=,-]")


def safe_component(text: str, *, max_bytes: int = MAX_COMPONENT_BYTES) -> str:
    """Make `text` fit for one component of a key: other characters become %XX of their UTF-8 bytes.

    Different texts stay different: what is too long is cut and ends in `~` and the start of its SHA-256.
    """
    if len(text) <= max_bytes and _SAFE.fullmatch(text) and text not in (".", ".."):
        return text
    raw = text.encode("utf-8", "surrogatepass")
    safe = _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], raw).decode("ascii")
    if safe in ("", ".", ".."):
        safe = "%2E" * len(safe) or "~"
    if len(safe) > max_bytes:
        import hashlib  # OpenSSL is a tenth of what `import callreel` takes, and few keys are too long

        digest = hashlib.sha256(raw).hexdigest()[:16]
        safe = f"{safe[: max_bytes - 17]}~{digest}"
    return safe


def call_recording_key(
    *,
    prefix: str | None,
    started_at: datetime,
    transaction_id: str,
    call_id: str,
    extension: str,
    number: int = 1,
) -> str:
    """Compose the key of a call recording; `started_at` is the call's start and must know its time zone.

    `number` counts those that would have the same key without it; the first goes without.
    """
    start = started_at.astimezone(UTC).isoformat(timespec="milliseconds")
    day, second = start[:10], start[11:23]
    stamp = f"{day}-{second.replace(':', '-').replace('.', '-')}"
    name = f"{stamp}_{safe_component(transaction_id, max_bytes=64)}_{safe_component(call_id, max_bytes=128)}"
    folder = CHIME_DEFAULT_PREFIX if prefix is None else prefix
    several = "" if number == 1 else f"_{number}"
    return f"{folder}/{day.replace('-', '/')}/{name}{several}.{extension}"


def call_recording_metadata(
    *, transaction_id: str, call_id: str, duration_s: float, media_type: str
) -> dict[str, str]:
    """What is stored beside the object of a call recording: the four entries of the same page."""
    return {
        "transaction-id": transaction_id,
        "call-id": call_id,
        "recording-duration": f"{duration_s:.3f}".rstrip("0").rstrip("."),
        "recording-audio-file-format": media_type,
    }
