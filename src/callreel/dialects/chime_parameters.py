"""Parameters of Amazon Chime's recording actions: what is read from them, and what is said of those that are wrong.

Sources: the developer guide's pages "RecordAudio" (2021: names and spellings that later editions dropped; 2023: all
others) and "StartCallRecording" (2022). A parameter that is null counts as absent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from callreel import keys
from callreel.actions import Layout, StopRules
from callreel.dialects import OBJECT
from callreel.errors import InvalidActionError
from callreel.events import CallView, LegStatus, Participant

__all__ = [
    "BAD_CALL_ID",
    "BAD_CALL_ID_OR_TAG",
    "MAX_KEY_BYTES",
    "RecordAudio",
    "bad",
    "participant",
    "record_audio",
    "record_audio_key",
    "silence_dbm0",
    "start_call_recording",
    "whole",
]

LAYOUT_OF_TRACK = {"BOTH": Layout.STEREO, "INCOMING": Layout.INCOMING, "OUTGOING": Layout.OUTGOING}
TERMINATORS = frozenset("0123456789*#")
MAX_SILENCE = 1_000
"""Of SilenceDurationInSeconds and of SilenceThreshold."""
DEFAULT_SILENCE_THRESHOLD = 200
MAX_DIGITS = 9
"""Of a whole number in a text."""
MAX_PREFIX_CHARACTERS = 979
MAX_KEY_BYTES = 1_024
"""S3 user guide, "Naming Amazon S3 objects"."""

SILENCE_DB_OF_THRESHOLD = ((1, 30.0), (100, 45.0), (200, 60.0), (1000, 75.0))
"""The guide's scale of SilenceThreshold, in dB of sound: a quiet room, a whisper, a crowded office, a loud person."""
DBM0_OF_DB = -100.0
"""What makes them dBm0: the default threshold is -40 dBm0, below quiet speech and above what lines and rooms add."""

# S3 user guide, "Naming Amazon S3 objects": safe characters. The RecordAudio page allows no others in a prefix.
SAFE_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()/-]+")
# What object keys and file names do not share.
UNSHARED = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|\ud800-\udfff]')
# "General purpose bucket naming rules", and the capitals and underscores of buckets from before them: the
# StartCallRecording page has "myRecordingBucket".
BUCKET = re.compile(r"(?!.*\.\.)(?![0-9.]+\Z)[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
# What stands between slashes and names no folder.
NO_FOLDERS = frozenset({"", ".", ".."})
# A virtual-hosted address of S3, as an old sample writes a destination.
S3_HOST = re.compile(r"\.s3[a-z0-9.-]*\.amazonaws\.com\Z")

# Messages as the tables of the pages print them.
BAD_CALL_ID = "CallId parameter for action is invalid"
BAD_CALL_ID_OR_TAG = "CallId or ParticipantTag parameter for action is invalid."
BAD_VALUE = "{} parameter value is invalid."


@dataclass(frozen=True, slots=True)
class RecordAudio:
    """The parameters of RecordAudio but the participant."""

    bucket: str
    prefix: str | None
    destination_name: str
    """What the result is called: in the spelling that was asked."""
    rules: StopRules


def bad(name: str, value: object) -> InvalidActionError:
    """Say that the parameter `name` is wrong, in the guide's words."""
    return InvalidActionError(BAD_VALUE.format(name), field=name, value=value)


def participant(
    given: Mapping[str, Any], call: CallView, *, default: str | None, message: str
) -> Participant:
    """Whom CallId names, else ParticipantTag, else the leg `default`; InvalidActionError(message) for nobody."""
    call_id, tag = given.get("CallId"), given.get("ParticipantTag")
    wanted_leg = default if tag is None else tag
    for one in call.participants.values():
        is_meant = one.leg == wanted_leg if call_id is None else one.call_id == call_id
        if is_meant and one.status is not LegStatus.DISCONNECTED:
            return one
    if call_id is not None:
        raise InvalidActionError(message, field="CallId", value=call_id)
    raise InvalidActionError(message, field="ParticipantTag", value=tag)


def start_call_recording(given: Mapping[str, Any]) -> tuple[Layout, str, str | None]:
    """Layout, bucket and prefix of StartCallRecording; for any wrong parameter the page has one message."""
    track, destination = given.get("Track"), given.get("Destination")
    if not isinstance(track, str) or track not in LAYOUT_OF_TRACK:
        raise InvalidActionError(BAD_CALL_ID, field="Track", value=track)
    if not isinstance(destination, OBJECT) or destination.get("Type") != "S3":
        raise InvalidActionError(BAD_CALL_ID, field="Destination", value=destination)
    location = destination.get("Location")
    bucket, _, prefix = location.partition("/") if isinstance(location, str) else ("", "", "")
    prefix = prefix.removesuffix("/")
    if (
        not BUCKET.fullmatch(bucket)
        or UNSHARED.search(prefix)
        or not _has_whole_parts(prefix)
        or location == f"{bucket}//"
    ):
        raise InvalidActionError(BAD_CALL_ID, field="Destination.Location", value=location)
    return LAYOUT_OF_TRACK[track], bucket, prefix or None


def record_audio(given: Mapping[str, Any], *, requires_terminators: bool) -> RecordAudio:
    """The parameters of RecordAudio but the participant, by any of the pages' names."""
    destination_name, bucket, prefix = _destination(given)
    duration_s = whole("DurationInSeconds", _first(given, "DurationInSeconds", "MaxDurationInSeconds"))
    if duration_s is not None and duration_s < 1:
        raise bad("DurationInSeconds", duration_s)
    silence_s, threshold = _silence(given)
    silence_ms = None if silence_s is None else 1000 * silence_s
    return RecordAudio(
        bucket=bucket,
        prefix=prefix,
        destination_name=destination_name,
        rules=StopRules(
            terminators=_terminators(given, required=requires_terminators),
            max_duration_ms=None if duration_s is None else 1000 * duration_s,
            initial_silence_ms=silence_ms,
            trailing_silence_ms=silence_ms,
            silence_dbm0=silence_dbm0(threshold),
        ),
    )


def record_audio_key(prefix: str | None, call_id: str, number: int, extension: str) -> str:
    """`[prefix/]<CallId>-recordings-<number>.<extension>`, shortened where a long prefix leaves no room for that."""
    folder = "" if prefix is None else f"{prefix}/"
    key = f"{folder}{keys.safe_component(call_id)}-recordings-{number}.{extension}"
    if len(key) > MAX_KEY_BYTES:
        end = f"-{number}.{extension}"
        key = f"{folder}{keys.safe_component(call_id, max_bytes=MAX_KEY_BYTES - len(folder) - len(end))}{end}"
    return key


@cache
def silence_dbm0(threshold: int) -> float:
    """The level below which it is silent, by SilenceThreshold: in straight lines between the guide's points."""
    points = SILENCE_DB_OF_THRESHOLD
    for (low, low_db), (high, high_db) in pairwise(points):
        if threshold <= high:
            return low_db + (high_db - low_db) * (threshold - low) / (high - low) + DBM0_OF_DB
    return points[-1][1] + DBM0_OF_DB


def whole(name: str, value: Any) -> int | None:
    """A whole number, or its digits as text as the pages print it; None for none."""
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and len(value) <= MAX_DIGITS and value.isascii() and value.isdecimal():
        return int(value)
    raise bad(name, value)


def _first(given: Mapping[str, Any], *names: str) -> Any:
    """The first of these parameters that is there."""
    for name in names:
        if given.get(name) is not None:
            return given[name]
    return None


def _destination(given: Mapping[str, Any]) -> tuple[str, str, str | None]:
    """What the destination is called in the answer, its bucket and prefix."""
    for name in ("RecordingDestination", "RecordinDestination"):
        destination = given.get(name)
        if destination is None:
            continue
        if not isinstance(destination, OBJECT) or destination.get("Type") != "S3":
            raise bad("RecordingDestination", destination)
        return name, _bucket(destination.get("BucketName")), _prefix(destination.get("Prefix"))
    address = given.get("DestinationValue")
    if given.get("DestinationType") != "S3" or not isinstance(address, str):
        raise bad("RecordingDestination", None)
    # The samples have a path and a web address; the page that has these names answers with the misspelt one.
    path = re.sub(r"\A(https?://|s3://)", "", address).strip("/")
    host, _, prefix = path.partition("/")
    return "RecordinDestination", _bucket(S3_HOST.sub("", host)), _prefix(prefix)


def _bucket(name: Any) -> str:
    if not isinstance(name, str) or not BUCKET.fullmatch(name):
        raise bad("RecordingDestination", name)
    return name


def _prefix(prefix: Any) -> str | None:
    """A key prefix without the slash at its end; None for none."""
    if prefix is None or prefix == "":
        return None
    if (
        not isinstance(prefix, str)
        or len(prefix) > MAX_PREFIX_CHARACTERS
        or not SAFE_PREFIX.fullmatch(prefix)
        or not _has_whole_parts(prefix.removesuffix("/"))
        or prefix == "/"
    ):
        raise bad("RecordingDestination", prefix)
    return prefix.removesuffix("/")


def _has_whole_parts(path: str) -> bool:
    """Whether nothing between its slashes is empty or leads elsewhere."""
    return not path or NO_FOLDERS.isdisjoint(path.split("/"))


def _silence(given: Mapping[str, Any]) -> tuple[int | None, int]:
    """Seconds of silence that end it, and the threshold, which counts only with them."""
    silence_s = whole("SilenceDurationInSeconds", given.get("SilenceDurationInSeconds"))
    if silence_s is None:
        return None, DEFAULT_SILENCE_THRESHOLD
    if not 1 <= silence_s <= MAX_SILENCE:
        raise bad("SilenceDurationInSeconds", silence_s)
    threshold = whole("SilenceThreshold", given.get("SilenceThreshold"))
    if threshold is None:
        threshold = DEFAULT_SILENCE_THRESHOLD
    if not 1 <= threshold <= MAX_SILENCE:
        raise bad("SilenceThreshold", threshold)
    return silence_s, threshold


def _terminators(given: Mapping[str, Any], *, required: bool) -> frozenset[str]:
    listed = _first(given, "RecordingTerminators", "StopRecordingOnDigits")
    if not required and (listed is None or listed == []):
        return frozenset()
    if (
        not isinstance(listed, list)
        or not listed
        or not all(isinstance(one, str) and one in TERMINATORS for one in listed)
    ):
        raise bad("RecordingTerminators", listed)
    return frozenset(listed)
