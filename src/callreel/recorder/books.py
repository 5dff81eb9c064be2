"""What is written down of a take: enough to bring it to its end after a crash, without a secret."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from callreel.actions import Destination
from callreel.encryption import EncryptedFileError, Keys, KeyServiceError, open_text, seal_text
from callreel.events import RecordingStarted
from callreel.formats import FORMATS, Mark
from callreel.keys import call_recording_metadata
from callreel.spool_rules import without_secrets
from callreel.takes import MANIFEST_VERSION, rfc3339

if TYPE_CHECKING:
    from callreel.call import Call
    from callreel.spool import Left

__all__ = ["RECOVERED", "about_of", "destination_of", "marks_of", "recovered_manifest", "words_of"]

log = logging.getLogger("callreel.recorder")

ABOUT_VERSION = 1

RECOVERED = "recovered"
"""How a recording ended whose process died meanwhile."""


def about_of(
    event: RecordingStarted,
    call: Call,
    labels: Mapping[str, str],
    keys: Keys | None,
    words: Mapping[str, Any] | None,
) -> Mapping[str, Any]:
    """What is to be known of a take that begins.

    With `keys` also the credentials of its request, sealed, and so are the `words` in which its end is to be told;
    without, these lack what looks like a secret.
    """
    destination = event.destination
    sealed = None
    if keys is not None and destination is not None and destination.credentials is not None:
        try:
            sealed = seal_text(destination.credentials, keys)
        except KeyServiceError as error:
            log.warning(
                "the credentials for %s will not outlive this process: %s",
                event.key,
                error,
                extra={"call_id": event.call_id},
            )
    return {
        "version": ABOUT_VERSION,
        "call_id": event.call_id,
        "transaction_id": call.transaction_id,
        "dialect": call.dialect,
        "recording_id": event.recording_id,
        "leg": event.leg,
        "action_id": event.action_id,
        "started_at": rfc3339(event.at),
        "key": event.key,
        "format": event.format,
        "sample_rate": event.sample_rate,
        "layout": event.layout,
        "labels": dict(labels),
        "tags": dict(event.tags),
        "metadata": None if event.metadata is None else dict(event.metadata),
        "words": None if words is None else _written(words, event, keys),
        "destination": {
            "kind": None if destination is None else destination.kind,
            "bucket": None if destination is None else destination.bucket,
            "region": None if destination is None else destination.region,
            "overwrite": destination is not None and destination.overwrite,
            "has_secret": destination is not None and destination.credentials is not None,
            "sealed": sealed,
        },
    }


def _written(words: Mapping[str, Any], event: RecordingStarted, keys: Keys | None) -> Any:
    if keys is None:
        return without_secrets(words)
    try:
        return seal_text(json.dumps(words), keys)
    except KeyServiceError as error:
        named = {"call_id": event.call_id}
        log.warning("nobody will be told of %s if this process dies: %s", event.key, error, extra=named)
        return None


def words_of(about: Mapping[str, Any], keys: Keys | None) -> Mapping[str, Any] | None:
    """The `callreel.dialects.Session.last_words` of a take's session; None when there are none that can be read now."""
    words: Mapping[str, Any] | None = about.get("words")
    if words is None or "wrapped" not in words:
        return words
    named = {"call_id": about["call_id"]}
    if keys is None:
        why = "that is encrypted, and there is no key"
        log.error("the customer will not be told of %s: %s", about["key"], why, extra=named)
        return None
    try:
        opened: Mapping[str, Any] = json.loads(open_text(words, keys))
    except (EncryptedFileError, KeyServiceError) as error:
        log.error("the customer will not be told of %s: %s", about["key"], error, extra=named)
        return None
    return opened


def destination_of(about: Mapping[str, Any], keys: Keys | None) -> Destination | None:
    """Where a take of a dead process goes; with its credentials, if they were sealed and can be opened now."""
    wanted = about["destination"]
    if wanted["kind"] is None:
        return None
    credentials = None
    if wanted["sealed"] is not None and keys is not None:
        try:
            credentials = open_text(wanted["sealed"], keys)
        except (EncryptedFileError, KeyServiceError) as error:
            named = {"call_id": about["call_id"]}
            log.error("the credentials for %s cannot be opened: %s", about["key"], error, extra=named)
    return Destination(
        kind=wanted["kind"],
        bucket=wanted["bucket"],
        credentials=credentials,
        region=wanted["region"],
        overwrite=wanted["overwrite"],
    )


def marks_of(manifest: Mapping[str, Any]) -> list[Mark]:
    """The marks of a file, by its manifest: keys and pauses."""
    rate = manifest["sample_rate"]

    def frames(seconds: float) -> int:
        return round(seconds * float(rate))

    marks = [
        Mark(frames(digit["at"]), frames(digit["duration"]), f"{digit['symbol']} {digit['track']}")
        for digit in manifest["digits"]
    ]
    marks += [
        Mark(frames(pause["from"]), frames(pause["to"]) - frames(pause["from"]), "pause")
        for pause in manifest["pauses"]
    ]
    return sorted(marks)


def recovered_manifest(left: Left) -> dict[str, Any]:
    """The manifest of a take whose process died while it was recorded: what its file and its journal tell."""
    about, audio = left.about, left.audio
    assert audio is not None
    rate = about["sample_rate"]
    frames = audio.frames * rate // audio.sample_rate
    return {
        "version": MANIFEST_VERSION,
        "call_id": about["call_id"],
        "transaction_id": about["transaction_id"],
        "dialect": about["dialect"],
        "action": None,
        "tracks": [],
        "started_at": about["started_at"],
        "duration": round(frames / rate, 6),
        "sample_rate": rate,
        "channels": audio.channels,
        "frames": frames,
        "format": about["format"],
        "layout": about["layout"],
        "end_reason": RECOVERED,
        "degraded": {"recovered": "its process died while it was recorded", "problems": list(left.problems)},
        "alignment_error_ms": 0.0,
        "digits": [],
        "pauses": [],
        "key": about["key"],
        "metadata": about["metadata"]
        if about["metadata"] is not None
        else call_recording_metadata(
            transaction_id=about["transaction_id"],
            call_id=about["tags"]["call-id"],
            duration_s=frames / rate,
            media_type=FORMATS[about["format"]].media_type,
        ),
    }
