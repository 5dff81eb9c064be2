"""What a process that died has left of a take: read, made playable, and told.

Reading the same folder again gives the same. Nothing in it depends on the machine: a copy is as good.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from callreel.encryption import KeyServiceError, WrongKeyError
from callreel.errors import CallreelError, UsageError
from callreel.kernels import wav
from callreel.spool_desk import ABOUT, AUDIO, JOURNAL, MANIFEST, Desk, Take
from callreel.spool_files import AudioFile, AudioFiles, Journal
from callreel.spool_rules import (
    Declared,
    Lost,
    LostRange,
    Shape,
    State,
    declared,
    journal_line,
    read_journal,
    reason_of,
    shape_of,
    state_after,
    whole_frames,
)

__all__ = ["Left", "LeftAudio", "read_left"]

NOT_WRITTEN = "process died"
HEADER_MAX_BYTES = 128 << 10


@dataclass(frozen=True, slots=True)
class LeftAudio:
    """The audio of a take, playable."""

    path: Path
    frames: int
    sample_rate: int
    channels: int

    @property
    def duration_s(self) -> float:
        """How long it is."""
        return self.frames / self.sample_rate


@dataclass(frozen=True, slots=True)
class Left:
    """A take that a dead process left, and how far it had come."""

    take: Take
    """To bring it to its end: `finish` what was running, or whatever comes after its state."""
    state: State
    about: Mapping[str, Any]
    """As it was given to `Spool.begin`; empty if the process died in that."""
    journal: Sequence[Mapping[str, Any]]
    """Every whole line of it, with "at" and "kind"."""
    audio: LeftAudio | None
    """None when none had been written."""
    manifest: Mapping[str, Any] | None
    file: Path | None
    """The finished file, of what is deliverable or further."""
    receipt: Mapping[str, Any] | None
    """Of what has been delivered."""
    problems: tuple[str, ...]
    """What was found damaged."""
    is_locked: bool = False
    """Whether its audio is encrypted for a key that is not there, or not now: `Spool.recover` looks again."""


def read_left(desk: Desk, files: AudioFiles, take_id: str) -> Left:
    """Read what is left of a take, and make its audio playable where it was still running."""
    folder = desk.takes / take_id
    problems: list[str] = []
    about = _json(folder / ABOUT, problems)
    if about is None and not problems:
        problems.append(f"there is no {ABOUT}")
    manifest = _json(folder / MANIFEST, problems)
    data = b""
    try:
        data = (folder / JOURNAL).read_bytes()
    except FileNotFoundError:
        pass
    except OSError as error:
        problems.append(f"the journal cannot be read: {reason_of(error)}")
    entries, end, damaged = read_journal(data)
    if damaged:
        problems.append(f"{damaged} damaged lines in the journal")
    if end < len(data):
        try:
            with (folder / JOURNAL).open("r+b") as file:
                file.truncate(end)
        except OSError as error:  # what comes is written over it
            problems.append(f"the journal cannot be mended: {reason_of(error)}")

    state = state_after(entries, has_manifest=manifest is not None)
    last = {entry["kind"]: entry for entry in entries}
    lost = Lost(LostRange(*one) for one in last.get("lost", {}).get("ranges", ()))
    doubts = [entry["reason"] for entry in entries if entry["kind"] == "doubt"]
    journal = Journal(folder / JOURNAL, end)
    shape, audio, is_locked = None, None, False
    if (folder / AUDIO).exists():
        header = base64.b64decode(last["header"]["base64"]) if "header" in last else None
        try:
            opened = files.open(folder / AUDIO)
            try:
                shape, audio = _audio(opened, folder / AUDIO, header, state, lost, journal, desk)
            finally:
                opened.close()
            if audio is None and (folder / AUDIO).stat().st_size > 0:
                problems.append("the audio has no header")
        except (WrongKeyError, KeyServiceError) as error:
            is_locked = True
            problems.append(f"the audio cannot be read: {error}")
        except (OSError, CallreelError) as error:
            problems.append(f"the audio cannot be read: {reason_of(error)}")
    since_s = max(
        (entry["at"] for entry in entries if entry["kind"] == state),
        default=entries[-1]["at"] if entries else desk.now(),
    )
    take = Take.left_behind(
        desk,
        take_id,
        about or {},
        state=state,
        since_s=since_s,
        journal_bytes=journal.size_bytes,
        shape=shape,
        lost=lost,
        doubts=list(dict.fromkeys(doubts)),
    )
    finished = folder / last["deliverable"]["file"] if "deliverable" in last else None
    return Left(
        take,
        state,
        about or {},
        tuple(entries),
        audio,
        manifest,
        finished if finished is not None and finished.exists() else None,
        last.get("delivered", {}).get("receipt"),
        tuple(problems),
        is_locked,
    )


def _json(path: Path, problems: list[str]) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, OSError):
        value = None
    if not isinstance(value, dict):
        problems.append(f"{path.name} is damaged")
        return None
    return value


def _audio(
    file: AudioFile,
    path: Path,
    header: bytes | None,
    state: State,
    lost: Lost,
    journal: Journal,
    desk: Desk,
) -> tuple[Shape | None, LeftAudio | None]:
    """What audio there is; a file that was being written gets the header and the length that fit it."""
    size = file.size()
    begin = file.read(0, HEADER_MAX_BYTES if header is None else len(header))
    if header is None:
        with suppress(UsageError, ValueError):
            header = begin[: wav.parse(begin, file_bytes=size).data_offset]
    if header is None:
        return None, None
    try:
        shape = shape_of(header)
    except UsageError:
        return None, None
    current = begin[: len(header)]
    said = Declared(len(header), len(header))
    with suppress(ValueError):
        if wav.patch(current, 0) == wav.patch(header, 0):
            said = declared(current)
    frames = whole_frames(shape, said, size)
    info = wav.parse(header)
    audio = LeftAudio(path, frames, shape.sample_rate, info.channels)
    data_end = shape.data_offset + frames * shape.frame_bytes
    with_marks = said.file_end > said.data_end and size >= said.file_end
    if state is not State.RUNNING or with_marks:
        return shape, audio
    if said.data_end > data_end:  # the machine died, not only the process: what was not synced is gone
        lost.mark(data_end, said.data_end, NOT_WRITTEN)
        journal.append(journal_line({"at": round(desk.now(), 3), "kind": "lost", "ranges": lost.ranges}))
    mended = wav.patch(header, frames)
    if size != data_end:
        file.resize(data_end)
    if mended != current:
        file.write(0, [mended])
    return shape, audio
