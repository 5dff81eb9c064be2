"""The manifest of a recording: its shape, and how one from outside is read and judged.

A manifest is the JSON object beside the audio, `<audio file>.json`. `parse` takes its bytes and trusts
nothing in them; `problems` judges an object that has been loaded already. Nothing here opens a file.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal, NotRequired, TypedDict, TypeGuard, cast

from callreel.errors import ManifestError

__all__ = [
    "FILE_SUFFIX",
    "GAPS_MAX",
    "MANIFEST_MAX_BYTES",
    "MANIFEST_VERSION",
    "DigitEntry",
    "Manifest",
    "PacketCounts",
    "Span",
    "TrackEntry",
    "is_quantity",
    "load",
    "parse",
    "problems",
]

MANIFEST_VERSION = 1

FILE_SUFFIX = ".json"
"""Stands behind the whole name of the audio file."""

MANIFEST_MAX_BYTES = 4 << 20
"""The longest manifest that is read: 30,000 digits and all gaps fit; the worst of this size takes 130 MB."""

GAPS_MAX = 1000
"""The most gaps a track lists."""

PROBLEMS_MAX = 20
"""Problems named of one manifest; what is this wrong needs no longer list."""

DIRECTIONS = ("incoming", "outgoing")
FORMATS = ("wav", "mp3")
LAYOUTS = ("stereo", "incoming", "outgoing", "mix")
SOURCES = ("rfc4733", "inband")
SYMBOLS = "0123456789*#ABCD"

TIME_TOLERANCE_S = 1e-6
"""Times in seconds are written with six decimal places."""


# "from" is a Python keyword, so this one cannot be a class.
Span = TypedDict("Span", {"from": float, "to": float})
"""A stretch of the recording, seconds since its first frame."""


class PacketCounts(TypedDict):
    """Packets of a track by fate; `received` is every one that arrived, duplicates and late ones included."""

    received: int
    lost: int
    duplicate: int
    late: int
    malformed: int
    reordered: int
    undecoded: NotRequired[int]
    discarded: NotRequired[int]


class TrackEntry(TypedDict):
    """One direction of a leg, and what became of its packets."""

    leg: str
    direction: Literal["incoming", "outgoing"]
    channel: int
    codec: str | None
    ssrc: list[int]
    packets: PacketCounts
    concealed_ms: float
    silence_filled_ms: float
    drift_ppm: float | None
    gaps: NotRequired[list[Span]]


class DigitEntry(TypedDict):
    """A key that was pressed; `at` and `duration` in seconds."""

    symbol: str
    at: float
    duration: float
    track: Literal["incoming", "outgoing"]
    source: Literal["rfc4733", "inband"]


class Manifest(TypedDict):
    """All there is to say of a recording; the last keys are known once it is stored."""

    version: int
    call_id: str
    transaction_id: str | None
    dialect: str | None
    action: str | None
    tracks: list[TrackEntry]
    started_at: str
    duration: float
    sample_rate: int
    channels: int
    frames: int
    format: str
    layout: NotRequired[str]
    end_reason: str
    degraded: bool | dict[str, Any]
    alignment_error_ms: float
    digits: list[DigitEntry]
    pauses: list[Span]
    bytes: NotRequired[int]
    sha256: NotRequired[str]
    destination: NotRequired[Any]
    key: NotRequired[str]


def parse(data: bytes) -> Manifest:
    """Read a manifest from the bytes of its file.

    Raises:
        ManifestError: no JSON object in UTF-8, or one that `problems` finds something wrong with.

    """
    document = load(data)
    if found := problems(document):
        raise ManifestError(*found)
    return cast(Manifest, document)


def load(data: bytes) -> dict[str, Any]:
    """Read the JSON object in `data`; its keys are not judged.

    Raises:
        ManifestError: more than `MANIFEST_MAX_BYTES`, no UTF-8, no JSON, no object, a key that comes twice.

    """
    if len(data) > MANIFEST_MAX_BYTES:
        raise ManifestError(f"longer than {MANIFEST_MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError("not UTF-8 text", offset=error.start) from None
    try:
        document = json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite
        )
    except json.JSONDecodeError as error:
        raise ManifestError(f"not JSON: {error.msg}", offset=len(text[: error.pos].encode())) from None
    except RecursionError:
        raise ManifestError("nested too deeply") from None
    except ManifestError:
        raise
    except ValueError as error:  # a number with thousands of digits
        raise ManifestError(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ManifestError(f"not a JSON object: {reprlib.repr(document)}")
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ManifestError(f"the key {reprlib.repr(key)} comes twice")
            seen.add(key)
    return document


def _no_constant(name: str) -> Any:
    raise ManifestError(f"not JSON: {name}")


def _finite(text: str) -> float:
    """A number, unless it is larger than any: that would be read as infinity, which cannot be written again."""
    number = float(text)
    if math.isinf(number):
        raise ManifestError(f"a number that is too large: {reprlib.repr(text)}")
    return number


def problems(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Everything that is wrong with a manifest, in words; at most `PROBLEMS_MAX` and one that says so."""
    found: list[str] = []
    for problem in _problems(document):
        if len(found) == PROBLEMS_MAX:
            found.append("more problems than are listed here")
            break
        found.append(problem)
    return tuple(found)


# -- the values, one by one ------------------------------------------------------------------------------


def _is_number(value: object) -> TypeGuard[float]:
    # bool is an int to Python, not to JSON.
    if type(value) is int:
        return abs(value) < 1 << 63
    return type(value) is float and math.isfinite(value)


def is_quantity(value: object) -> TypeGuard[float]:
    """Whether a JSON value is a finite number of at least 0."""
    return _is_number(value) and value >= 0


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 1 << 63


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_null(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _is_moment(value: object) -> bool:
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class _Field:
    """What a key must hold, as a test and in words."""

    def __init__(self, holds: Callable[[Any], bool], words: str, *, required: bool = True) -> None:
        self.holds = holds
        self.words = words
        self.required = required


def _one_of(names: tuple[str, ...] | str) -> _Field:
    return _Field(
        lambda value: isinstance(value, str) and bool(value) and value in tuple(names), "|".join(names)
    )


_MANIFEST: Mapping[str, _Field] = {
    "version": _Field(lambda value: type(value) is int and value == MANIFEST_VERSION, str(MANIFEST_VERSION)),
    "call_id": _Field(_is_text, "text"),
    "transaction_id": _Field(_is_text_or_null, "text or null"),
    "dialect": _Field(_is_text_or_null, "text or null"),
    "action": _Field(_is_text_or_null, "text or null"),
    "tracks": _Field(_is_list, "a list"),
    "started_at": _Field(_is_moment, "a moment as in RFC 3339"),
    "duration": _Field(is_quantity, "seconds"),
    "sample_rate": _Field(lambda value: _is_count(value) and 1 <= value < 1 << 32, "frames per second"),
    "channels": _Field(lambda value: _is_count(value) and 1 <= value < 1 << 16, "a number of channels"),
    "frames": _Field(_is_count, "a number of frames"),
    "format": _one_of(FORMATS),
    "layout": _Field(lambda value: value in LAYOUTS, "|".join(LAYOUTS), required=False),
    "end_reason": _Field(_is_text, "text"),
    "degraded": _Field(lambda value: value is False or isinstance(value, dict), "false or an object"),
    "alignment_error_ms": _Field(is_quantity, "milliseconds"),
    "digits": _Field(_is_list, "a list"),
    "pauses": _Field(_is_list, "a list"),
    "bytes": _Field(_is_count, "a number of bytes", required=False),
    "sha256": _Field(
        lambda value: isinstance(value, str) and _SHA256.fullmatch(value) is not None,
        "64 lower-case hexadecimal digits",
        required=False,
    ),
    "key": _Field(_is_text_or_null, "text or null", required=False),
}

_TRACK: Mapping[str, _Field] = {
    "leg": _Field(_is_text, "text"),
    "direction": _one_of(DIRECTIONS),
    "channel": _Field(_is_count, "the number of a channel"),
    "codec": _Field(_is_text_or_null, "text or null"),
    "ssrc": _Field(
        lambda value: isinstance(value, list) and all(_is_count(one) and one < 1 << 32 for one in value),
        "a list of 32-bit numbers",
    ),
    "packets": _Field(lambda value: isinstance(value, dict), "an object"),
    "concealed_ms": _Field(is_quantity, "milliseconds"),
    "silence_filled_ms": _Field(is_quantity, "milliseconds"),
    "drift_ppm": _Field(lambda value: value is None or _is_number(value), "parts per million or null"),
    "gaps": _Field(_is_list, "a list", required=False),
}

_PACKETS: Mapping[str, _Field] = {
    **{
        fate: _Field(_is_count, "a number of packets")
        for fate in ("received", "lost", "duplicate", "late", "malformed", "reordered")
    },
    **{fate: _Field(_is_count, "a number of packets", required=False) for fate in ("undecoded", "discarded")},
}

_DIGIT: Mapping[str, _Field] = {
    "symbol": _one_of(SYMBOLS),
    "at": _Field(is_quantity, "seconds"),
    "duration": _Field(is_quantity, "seconds"),
    "track": _one_of(DIRECTIONS),
    "source": _one_of(SOURCES),
}

_SPAN: Mapping[str, _Field] = {
    "from": _Field(is_quantity, "seconds"),
    "to": _Field(is_quantity, "seconds"),
}


def _fields(where: str, entry: object, fields: Mapping[str, _Field]) -> Iterator[str]:
    if not isinstance(entry, Mapping):
        yield f"{where.rstrip('.')} is not an object: {reprlib.repr(entry)}"
        return
    for key, field in fields.items():
        if key not in entry:
            if field.required:
                yield f"{where}{key} is missing"
        elif not field.holds(entry[key]):
            yield f"{where}{key} is not {field.words}: {reprlib.repr(entry[key])}"


def _fits(entry: object, fields: Mapping[str, _Field]) -> bool:
    return next(_fields("", entry, fields), None) is None


def _entries(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    return value if isinstance(value, list) else []


# -- the manifest ----------------------------------------------------------------------------------------


def _problems(document: Mapping[str, Any]) -> Iterator[str]:
    yield from _fields("", document, _MANIFEST)
    duration, frames, sample_rate = (document.get(key) for key in ("duration", "frames", "sample_rate"))
    duration_s = duration if is_quantity(duration) else math.inf
    if is_quantity(duration) and _is_count(frames) and _is_count(sample_rate) and sample_rate:
        lasts_s = frames / sample_rate
        if abs(duration - lasts_s) > TIME_TOLERANCE_S:
            yield f"duration is {duration} s, {frames} frames at {sample_rate} Hz last {lasts_s:.6f} s"
    yield from _layout(document)
    for number, track in enumerate(_entries(document, "tracks")):
        yield from _track(f"tracks[{number}].", track, document, duration_s)
    for number, digit in enumerate(_entries(document, "digits")):
        where = f"digits[{number}]"
        yield from _fields(f"{where}.", digit, _DIGIT)
        if _fits(digit, _DIGIT) and digit["at"] > duration_s + TIME_TOLERANCE_S:
            yield f"{where} is at {digit['at']} s, the recording ends at {duration_s} s"
    yield from _spans("pauses", _entries(document, "pauses"), duration_s)


def _layout(document: Mapping[str, Any]) -> Iterator[str]:
    layout, channels = document.get("layout"), document.get("channels")
    if layout in LAYOUTS and _is_count(channels) and channels != (2 if layout == "stereo" else 1):
        yield f"layout {layout} with {channels} channels"


def _track(where: str, track: object, document: Mapping[str, Any], duration_s: float) -> Iterator[str]:
    yield from _fields(where, track, _TRACK)
    if not isinstance(track, Mapping):
        return
    if isinstance(track.get("packets"), Mapping):
        yield from _fields(f"{where}packets.", track["packets"], _PACKETS)
    channel, channels = track.get("channel"), document.get("channels")
    if _is_count(channel) and _is_count(channels) and channel >= channels:
        yield f"{where}channel is {channel}, the recording has {channels}"
    for key in ("concealed_ms", "silence_filled_ms"):
        if is_quantity(track.get(key)) and track[key] > 1000 * (duration_s + TIME_TOLERANCE_S):
            yield f"{where}{key} is {track[key]}, the recording lasts {duration_s} s"
    gaps = _entries(track, "gaps")
    if len(gaps) > GAPS_MAX:
        yield f"{where}gaps has {len(gaps)} entries, {GAPS_MAX} is the most"
    yield from _spans(f"{where}gaps", gaps, duration_s)


def _spans(where: str, spans: list[Any], duration_s: float) -> Iterator[str]:
    for number, span in enumerate(spans):
        yield from _fields(f"{where}[{number}].", span, _SPAN)
        if _fits(span, _SPAN) and not span["from"] <= span["to"] <= duration_s + TIME_TOLERANCE_S:
            yield (
                f"{where}[{number}] goes from {span['from']} to {span['to']} s,"
                f" the recording from 0 to {duration_s} s"
            )
