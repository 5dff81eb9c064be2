"""The rules of the spool, without disk, thread or clock: tests drive them directly.

What is written where, what a stalled disk may cost, which line of a journal counts, when new takes are refused, what is
removed when. `callreel.spool` acts on them.
"""

from __future__ import annotations

import errno
import json
import re
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from callreel.errors import UsageError, WavError
from callreel.kernels import wav

__all__ = [
    "NEXT",
    "Admission",
    "Declared",
    "Kept",
    "Lost",
    "LostRange",
    "Retention",
    "Shape",
    "Space",
    "State",
    "check_no_secrets",
    "check_take_id",
    "declared",
    "journal_line",
    "read_journal",
    "reason_of",
    "runs",
    "shape_of",
    "state_after",
    "to_remove",
    "whole_frames",
    "without_secrets",
]


# ---- states ---------------------------------------------------------------------------------------


class State(StrEnum):
    """How far a take has come; each is also the kind of the journal's line about it."""

    RUNNING = "running"
    """It is being recorded, or was when its process died."""
    FINISHED = "finished"
    """All its audio is there, and a manifest."""
    DELIVERABLE = "deliverable"
    """The file that was asked for has been made of it."""
    DELIVERED = "delivered"
    """The destination has confirmed it; nobody has been told."""
    TOLD = "told"
    """Its terminal event is out: nothing more is to be done but to remove it."""
    FAILED = "failed"
    """It could not be recorded or delivered; nobody has been told."""
    KEPT = "kept"
    """It failed, and that was told: it is kept until somebody replays it."""


NEXT: Mapping[State, frozenset[State]] = {
    State.RUNNING: frozenset({State.FINISHED, State.FAILED}),
    State.FINISHED: frozenset({State.DELIVERABLE, State.FAILED}),
    State.DELIVERABLE: frozenset({State.DELIVERABLE, State.DELIVERED, State.FAILED}),
    State.DELIVERED: frozenset({State.TOLD}),
    State.TOLD: frozenset(),
    State.FAILED: frozenset({State.DELIVERABLE, State.DELIVERED, State.KEPT}),
    State.KEPT: frozenset({State.DELIVERABLE}),
}
"""From each state where it may go; removed it may be in any."""


STATE_WORDS = frozenset(state.value for state in State)


def state_after(journal: Iterable[Mapping[str, Any]], *, has_manifest: bool) -> State:
    """How far a take had come by its journal; it is finished when its manifest is there, whatever the journal says."""
    state = State.FINISHED if has_manifest else State.RUNNING
    for entry in journal:
        kind = entry["kind"]
        if kind in NEXT[state] or (state is State.RUNNING and kind in STATE_WORDS):
            state = State(kind)
    if state is State.FINISHED and not has_manifest:
        return State.RUNNING
    return state


# ---- where in a WAV file what is -------------------------------------------------------------------


class Shape(NamedTuple):
    """What the header of a WAV file says that never changes."""

    data_offset: int
    """Where the first sample is, in bytes."""
    frame_bytes: int
    sample_rate: int

    @property
    def bytes_per_s(self) -> int:
        """Bytes of one second of audio."""
        return self.frame_bytes * self.sample_rate

    def ms_at(self, offset: int) -> int:
        """The moment of the byte at `offset`, in milliseconds since the first sample."""
        return max(0, offset - self.data_offset) * 1000 // self.bytes_per_s


def shape_of(header: bytes) -> Shape:
    """Read the header that a take begins with; UsageError for anything else."""
    try:
        info = wav.parse(header)
    except WavError as error:
        raise UsageError(f"a take begins with the header of a WAV file: {error}") from error
    if info.data_offset != len(header) or info.format != "pcm" or info.bits_per_sample != 16:
        raise UsageError("a take begins with the whole header of a WAV file with 16-bit PCM")
    return Shape(info.data_offset, info.block_align, info.sample_rate)


class Declared(NamedTuple):
    """What a header says of its file."""

    data_end: int
    """Where the audio ends, in bytes."""
    file_end: int
    """Where the file ends; that is more where marks follow the audio."""


def declared(header: bytes) -> Declared:
    """What the header of `callreel.kernels.wav` says; two numbers at fixed places, ten times a second and take."""
    if header.startswith(b"RF64"):
        riff_bytes, data_bytes = struct.unpack_from("<QQ", header, 20)
    else:
        riff_bytes = int.from_bytes(header[4:8], "little")
        data_bytes = int.from_bytes(header[-4:], "little")
    return Declared(len(header) + data_bytes, riff_bytes + 8)


def whole_frames(shape: Shape, said: Declared, size_bytes: int) -> int:
    """How many frames a file of `size_bytes` holds for certain.

    Audio is written before the header that counts it, and marks after the header that announces them. So what lies
    behind the counted audio is audio, unless marks are announced.
    """
    data_end = min(said.data_end, size_bytes) if said.file_end > said.data_end else size_bytes
    return max(0, data_end - shape.data_offset) // shape.frame_bytes


def runs(writes: Sequence[tuple[int, bytes]]) -> list[tuple[int, list[bytes]]]:
    """The same writes in the same order, those that continue one another put together."""
    joined: list[tuple[int, list[bytes]]] = []
    pieces: list[bytes] = []
    end = -1
    for offset, data in writes:
        if offset == end:
            pieces.append(data)
        else:
            pieces = [data]
            joined.append((offset, pieces))
        end = offset + len(data)
    return joined


# ---- what a stalled disk costs ---------------------------------------------------------------------


class Admission:
    """Whether a take's next write may wait in memory. When it has been refused, half must be written first.

    So a disk that is too slow makes few long holes and not many short ones.
    """

    __slots__ = ("limit_bytes", "refusing")

    def __init__(self, limit_bytes: int) -> None:
        """Let a take wait with at most `limit_bytes`."""
        self.limit_bytes = limit_bytes
        self.refusing = False

    def admits(self, size: int, waiting: int, spool_waiting: int, spool_limit: int) -> bool:
        """Say whether `size` bytes may join those of this take, and of all takes, that wait."""
        if self.refusing:
            self.refusing = 2 * waiting > self.limit_bytes or 8 * spool_waiting > 7 * spool_limit
        if not self.refusing:
            self.refusing = waiting + size > self.limit_bytes or spool_waiting + size > spool_limit
        return not self.refusing


class LostRange(NamedTuple):
    """Bytes of a take's audio that were dropped and are not true: zeros, or an earlier version."""

    start: int
    end: int
    reason: str


MAX_RANGES = 100


class Lost:
    """What of a take is lost: ranges of its file, in order, apart from each other.

    A range that is written again later (audio comes at once, and when it is final) is not lost any more. Beyond
    MAX_RANGES the two that are nearest become one: what is told is then more than was lost, never less.
    """

    __slots__ = ("dropped_bytes", "ranges")

    def __init__(self, ranges: Iterable[LostRange] = ()) -> None:
        """Begin with what is known to be lost."""
        self.ranges = list(ranges)
        self.dropped_bytes = 0
        """Everything ever dropped, whether or not it came again."""

    @property
    def lost_bytes(self) -> int:
        """What is lost now."""
        return sum(one.end - one.start for one in self.ranges)

    def add(self, start: int, end: int, reason: str) -> None:
        """Mark what was dropped."""
        self.dropped_bytes += end - start
        self.mark(start, end, reason)

    def mark(self, start: int, end: int, reason: str) -> None:
        """Mark as lost; what touches becomes one range with the first reason."""
        apart: list[LostRange] = []
        for one in self.ranges:
            if one.end < start or one.start > end:
                apart.append(one)
            else:
                if one.start <= start:
                    reason = one.reason
                start, end = min(start, one.start), max(end, one.end)
        self.ranges = sorted([*apart, LostRange(start, end, reason)])
        if len(self.ranges) > MAX_RANGES:
            gaps = [b.start - a.end for a, b in zip(self.ranges, self.ranges[1:], strict=False)]
            at = gaps.index(min(gaps))
            first, second = self.ranges[at : at + 2]
            self.ranges[at : at + 2] = [LostRange(first.start, second.end, first.reason)]

    def cover(self, start: int, end: int) -> bool:
        """Take back what is written after all; say whether that changed anything."""
        if not any(one.start < end and one.end > start for one in self.ranges):
            return False
        left = []
        for one in self.ranges:
            left.append(LostRange(one.start, min(one.end, start), one.reason))
            left.append(LostRange(max(one.start, end), one.end, one.reason))
        self.ranges = [one for one in left if one.start < one.end]
        return True

    def cut(self, end: int) -> None:
        """Forget what lies behind the audio."""
        cut = [LostRange(one.start, min(one.end, end), one.reason) for one in self.ranges]
        self.ranges = [one for one in cut if one.start < one.end]

    def figures(self, shape: Shape) -> dict[str, Any]:
        """What is lost, for events and manifests: bytes, milliseconds, from when to when, and why."""
        told = [
            {
                "from_ms": shape.ms_at(one.start),
                "to_ms": shape.ms_at(one.end),
                "bytes": one.end - one.start,
                "reason": one.reason,
            }
            for one in self.ranges
        ]
        lost_ms = self.lost_bytes * 1000 // shape.bytes_per_s
        return {"lost_bytes": self.lost_bytes, "lost_ms": lost_ms, "lost": told}


REASONS = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "quota used up",
    errno.EROFS: "read-only file system",
    errno.EIO: "input/output error",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOENT: "folder missing",
    errno.EFBIG: "file too large",
}
STALLED = "disk too slow"


def reason_of(error: BaseException) -> str:
    """Why a file cannot be written, in words that hold neither a path nor anything else of the error's text."""
    number = error.errno if isinstance(error, OSError) else None
    if number in REASONS:
        return REASONS[number]
    return type(error).__name__ if number is None else errno.errorcode.get(number, str(number))


# ---- journal ---------------------------------------------------------------------------------------

# The checksum is the last member; it is that of the object without it.
LINE = re.compile(rb'(\{.+),"crc32":"([0-9a-f]{8})"\}', re.DOTALL)


def journal_line(facts: Mapping[str, Any]) -> bytes:
    """One line of a journal: a JSON object whose last member is its checksum."""
    body = json.dumps(facts, separators=(",", ":")).encode()
    return b'%s,"crc32":"%08x"}\n' % (body[:-1], zlib.crc32(body))


def read_journal(data: bytes) -> tuple[list[dict[str, Any]], int, int]:
    """Read a journal: its whole lines, how many bytes the last of them ends at, how many before that were damaged."""
    entries: list[dict[str, Any]] = []
    end = damaged = damaged_since = position = 0
    for line in data.split(b"\n")[:-1]:
        position += len(line) + 1
        match = LINE.fullmatch(line)
        entry = None
        if match is not None and zlib.crc32(match[1] + b"}") == int(match[2], 16):
            try:
                entry = json.loads(match[1] + b"}")
            except ValueError:
                entry = None
        if isinstance(entry, dict) and isinstance(entry.get("kind"), str):
            entries.append(entry)
            end, damaged = position, damaged + damaged_since
            damaged_since = 0
        else:
            damaged_since += 1
    return entries, end, damaged


# ---- secrets, names --------------------------------------------------------------------------------

_SECRET_WORDS = """
    accesskey accesskeyid accesstoken apikey applicationsecret appsecret authorization bearer clientsecret cookie
    credential credentials passphrase passwd password privatekey pwd secret secretaccesskey secretkey securitytoken
    sessiontoken sharedsecret signature token
"""
SECRET_NAMES = frozenset(_SECRET_WORDS.split())
SECRET_VALUES = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY|^\s*(?:Bearer|Basic) \S|://[^/\s:@]*:[^/\s@]+@",
)


def check_no_secrets(value: object, where: str) -> None:
    """Refuse what is a secret by its name or looks like one: UsageError, which does not repeat it."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if _is_secret_name(name) and inner is not None:
                raise UsageError(f"a secret is not written to the spool: {where} has {name!r}")
            check_no_secrets(inner, f"{where}.{name}")
    elif isinstance(value, list | tuple):
        for inner in value:
            check_no_secrets(inner, where)
    elif isinstance(value, str) and SECRET_VALUES.search(value):
        raise UsageError(f"a secret is not written to the spool: {where} looks like one")


def without_secrets(value: Any) -> Any:
    """The same JSON with null in place of every secret that `check_no_secrets` would refuse."""
    if isinstance(value, Mapping):
        return {
            name: None if _is_secret_name(name) else without_secrets(inner) for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(inner) for inner in value]
    return None if isinstance(value, str) and SECRET_VALUES.search(value) else value


def _is_secret_name(name: object) -> bool:
    return re.sub(r"[^a-z0-9]", "", str(name).lower()) in SECRET_NAMES


TAKE_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


def check_take_id(take_id: str) -> None:
    """A take's id is the name of its folder: UsageError for one that cannot be."""
    if not TAKE_ID.fullmatch(take_id):
        raise UsageError(f"not the id of a take: {take_id!r}")


# ---- room, retention -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Space:
    """How much must be free for new takes. What is refused is accepted again only when clearly more is free."""

    refuse_below_bytes: int = 1 << 30
    refuse_below_percent: float = 2.0
    accept_above_bytes: int = 2 << 30
    accept_above_percent: float = 3.0
    refuse_below_files: int = 1000

    def __post_init__(self) -> None:
        """Refuse thresholds that contradict each other."""
        if (
            self.accept_above_bytes < self.refuse_below_bytes
            or self.accept_above_percent < self.refuse_below_percent
        ):
            raise UsageError("takes are accepted again above the threshold below which they are refused")

    def accepts(
        self, accepting: bool, *, free_bytes: int, total_bytes: int, free_files: int | None = None
    ) -> bool:
        """Say whether new takes are accepted, given whether they were until now."""
        if free_files is not None and free_files < self.refuse_below_files:
            return False
        percent = 100.0 * free_bytes / total_bytes if total_bytes else 100.0
        if accepting:
            return free_bytes >= self.refuse_below_bytes and percent >= self.refuse_below_percent
        return free_bytes >= self.accept_above_bytes and percent >= self.accept_above_percent


class Kept(NamedTuple):
    """A take that lies in the spool."""

    take_id: str
    state: State
    since_s: float
    """When it came into that state, in epoch seconds."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long delivered takes stay: 0 for not at all, None for ever. What failed stays until it is replayed."""

    delivered_s: float | None = 0.0


def to_remove(takes: Iterable[Kept], retention: Retention, now_s: float) -> list[str]:
    """The ids of takes to remove at `now_s`: those that were delivered and told, long enough ago.

    By a clock that was set back none is old enough, unless it need not be old.
    """
    if retention.delivered_s is None:
        return []
    keep_s = retention.delivered_s
    return [
        one.take_id
        for one in takes
        if one.state is State.TOLD and (keep_s <= 0 or now_s - one.since_s >= keep_s)
    ]
