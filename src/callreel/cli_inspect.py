"""`callreel inspect` and `callreel verify`: their arguments, their words, their exit status.

Exit status: 0 all is well, 1 something is wrong with a file or with what was recorded, 2 a file that is not
there or cannot be read. Of several files the worst counts.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from callreel import waveform
from callreel.errors import MediaError
from callreel.inspection import Channel, Digit, Inspection, audio_of, inspect, is_there
from callreel.kernels import mp3, wav
from callreel.manifest import Manifest
from callreel.verification import Verification, verify
from callreel.waveform import clock

__all__ = ["add_inspect_arguments", "add_verify_arguments", "run_inspect", "run_verify"]

SOUND, WRONG, USAGE = 0, 1, 2

LISTED_MAX = 40
"""Entries of a list (chunks, texts, marks, digits) in the report for people; --json gives all."""

TEXT_MAX = 300
"""Characters of a text out of a file in the report for people."""

PROGRESS_AFTER_S = 1.0
"""Work shorter than this shows no progress."""

PROGRESS_EVERY_S = 0.1


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `callreel inspect` takes."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="a WAV or MP3 file, whatever its name is")
    parser.add_argument("--json", action="store_true", help="one JSON object a line for each file")
    parser.add_argument("--plot", metavar="SVG", help="draw the waveform of the one FILE into this file")


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `callreel verify` takes."""
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="a WAV or MP3 file, or its manifest (FILE.json beside it)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line for each file")


def run_inspect(args: argparse.Namespace) -> int:
    """Carry out `callreel inspect`; returns the exit status."""
    if args.plot is not None and len(args.files) > 1:
        _print(sys.stderr, "callreel inspect: --plot draws one FILE")
        return USAGE
    return max(_inspect_one(name, args) for name in args.files)


def run_verify(args: argparse.Namespace) -> int:
    """Carry out `callreel verify`; returns the exit status."""
    return max(_verify_one(name, args) for name in args.files)


# -- one file --------------------------------------------------------------------------------------------


def _inspect_one(name: str, args: argparse.Namespace) -> int:
    path = Path(name)
    progress = _Progress(sys.stderr, name)
    columns = waveform.COLUMNS if args.plot is not None else 0
    try:
        audio = audio_of(path)
        if audio != path and not is_there(audio):
            return _report_error(name, f"the audio file {audio.name} is missing", WRONG, as_json=args.json)
        inspection = inspect(audio, columns=columns, progress=progress)
    except MediaError as error:
        progress.clear()
        return _report_error(name, str(error), WRONG, as_json=args.json)
    except OSError as error:
        progress.clear()
        return _report_error(name, error.strerror or str(error), USAGE, as_json=args.json)
    progress.clear()
    if args.plot is not None:
        try:
            _write_plot(Path(args.plot), inspection)
        except OSError as error:
            _print(sys.stderr, f"callreel inspect: cannot write {args.plot}: {error.strerror or error}")
            return USAGE
    if args.json:
        _print(sys.stdout, json.dumps(_inspection_object(inspection)))
    else:
        for line in _inspection_lines(inspection):
            _print(sys.stdout, line)
    return SOUND if inspection.is_sound else WRONG


def _write_plot(target: Path, inspection: Inspection) -> None:
    if is_there(target) and target.samefile(inspection.path):
        raise OSError("it is the file to be drawn")
    target.write_text(waveform.draw(inspection), encoding="utf-8")


def _verify_one(name: str, args: argparse.Namespace) -> int:
    progress = _Progress(sys.stderr, name)
    try:
        verification = verify(Path(name), progress=progress)
    except OSError as error:
        progress.clear()
        return _report_error(name, error.strerror or str(error), USAGE, as_json=args.json)
    progress.clear()
    if args.json:
        _print(sys.stdout, json.dumps(_verification_object(verification)))
    else:
        _print(sys.stdout, _verification_line(verification))
    return SOUND if verification.is_sound else WRONG


def _report_error(name: str, words: str, status: int, *, as_json: bool) -> int:
    if as_json:
        _print(sys.stdout, json.dumps({"file": name, "error": words}))
    else:
        _print(sys.stderr, f"{name}: {words}")
    return status


# -- verify, in words ------------------------------------------------------------------------------------


def _verification_line(verification: Verification) -> str:
    name = str(verification.path)
    if verification.findings:
        return f"{name}: " + "; ".join(_short(finding) for finding in verification.findings)
    if verification.degraded is not None:
        return f"{name}: intact, but the recording is degraded: {_pairs(verification.degraded)}"
    return f"{name}: ok" + (" (no manifest)" if verification.manifest_path is None else "")


def _verification_object(verification: Verification) -> dict[str, Any]:
    return {
        "file": str(verification.path),
        "manifest": None if verification.manifest_path is None else str(verification.manifest_path),
        "ok": verification.is_sound,
        "findings": list(verification.findings),
        "degraded": verification.degraded if verification.degraded is not None else False,
    }


# -- inspect, in words -----------------------------------------------------------------------------------


def _inspection_lines(of: Inspection) -> Iterator[str]:
    yield str(of.path)
    container = "MP3" if of.format == "mp3" else f"WAV ({of.container})"
    yield from _entry(
        "format", f"{container}, {of.encoding}, {of.sample_rate} Hz, {_count(of.channels, 'channel')}"
    )
    total_ms = (of.frames * 1000 + of.sample_rate // 2) // of.sample_rate
    yield from _entry("duration", f"{clock(total_ms / 1000)} ({of.frames} frames)")
    yield from _entry("size", f"{of.size_bytes} bytes")
    if of.not_measured is not None:
        yield from _entry("levels", f"not measured: {of.not_measured}")
    for channel in of.measured:
        yield from _channel_lines(channel, of.sample_rate)
    if of.measured and of.channels > len(of.measured):
        yield from _entry("", f"{of.channels - len(of.measured)} more channels are not measured")
    if of.wav is not None:
        yield from _wav_lines(of.wav)
    if of.mp3 is not None:
        yield from _mp3_lines(of.mp3)
    if of.manifest is not None:
        yield from _manifest_lines(of.manifest)
    for label, texts in (
        ("manifest", of.manifest_problems),
        ("warning", of.warnings),
        ("damage", of.damage),
    ):
        for text in texts:
            yield from _entry(label, text)


def _channel_lines(channel: Channel, sample_rate: int) -> Iterator[str]:
    facts = [f"RMS {_level(channel.rms_dbm0)}", f"peak {_level(channel.peak_dbm0)} dBm0"]
    facts.append(f"{channel.clipped_samples} clipped" if channel.clipped_samples else "no clipping")
    if channel.silent_share is not None:
        facts.append(f"{channel.silent_share:.0%} silence")
    yield from _entry(channel.name, ", ".join(facts))
    if channel.digits is None:
        yield from _entry("", f"tones: not looked for at {sample_rate} Hz")
    elif channel.digits:
        yield from _entry("", "tones heard: " + "".join(digit.symbol for digit in channel.digits))
        yield from _listed("", [_digit_words(digit) for digit in channel.digits])
    else:
        yield from _entry("", "tones heard: none")


def _digit_words(digit: Digit) -> str:
    return (
        f"  {digit.symbol} at {clock(digit.at_s)} for {1000 * digit.duration_s:.0f} ms,"
        f" {digit.level_dbm0:.1f} dBm0, twist {digit.twist_db:+.1f} dB"
    )


def _wav_lines(info: wav.Info) -> Iterator[str]:
    yield from _listed(
        "chunks", [f"{chunk.id!r} at byte {chunk.offset}, {chunk.size} bytes" for chunk in info.chunks]
    )
    yield from _listed("texts", [f"{ident}: {text}" for ident, text in info.info.items()])
    if info.bext is not None:
        yield from _listed(
            "bext", [f"{key}: {value}" for key, value in _bext_object(info.bext).items() if value != ""]
        )
    yield from _listed("marks", [_cue_words(cue, info.sample_rate) for cue in info.cues])


def _cue_words(cue: wav.Cue, sample_rate: int) -> str:
    lasts = f" for {1000 * cue.duration_frames / sample_rate:.0f} ms" if cue.duration_frames else ""
    note = f" ({cue.note})" if cue.note else ""
    return f"{clock(cue.frame / sample_rate)}{lasts} {cue.label}{note}"


def _mp3_lines(info: mp3.Info) -> Iterator[str]:
    held = _count(info.mpeg_frames, "MPEG frame")
    yield from _entry("music", f"{held}, {info.music_bytes} bytes, CRC {info.music_crc:#06x}")
    if info.encoder_delay_samples is not None:
        yield from _entry(
            "", f"encoder delay {info.encoder_delay_samples}, padding {info.padding_samples} samples"
        )
    else:
        yield from _entry("", "encoder delay and padding unknown: the length is that of the MPEG frames")
    if info.xing is not None:
        said = info.xing
        facts = [f"{said.kind} frame"]
        facts += [] if said.encoder is None else [f"encoder {said.encoder}"]
        facts += [] if said.mpeg_frames is None else [_count(said.mpeg_frames, "MPEG frame")]
        facts += [] if said.total_bytes is None else [f"{said.total_bytes} bytes"]
        facts += [] if said.seek_table is None else ["seek table"]
        facts += [] if said.quality is None else [f"quality {said.quality}"]
        facts += [] if said.lowpass_hz is None else [f"lowpass {said.lowpass_hz} Hz"]
        facts.append(
            f"CRC of the frame {_verdict(said.tag_crc_ok)}, of the music {_verdict(said.music_crc_ok)}"
        )
        yield from _entry("header", ", ".join(facts))
    if info.tags:
        yield from _entry("tags", ", ".join(info.tags))
    yield from _listed("texts", [f"{name}: {text}" for name, text in info.id3.items()])


def _manifest_lines(manifest: Manifest) -> Iterator[str]:
    yield from _entry(
        "manifest",
        f"call {manifest['call_id']}, began {manifest['started_at']}, ended by {manifest['end_reason']}",
    )
    for track in manifest["tracks"]:
        packets = ", ".join(
            f"{count} {fate}" for fate, count in track["packets"].items() if count or fate == "received"
        )
        yield from _entry(
            "",
            f"{track['leg']} {track['direction']}: {track['codec'] or 'no codec'}, {packets};"
            f" {track['concealed_ms']:g} ms concealed, {track['silence_filled_ms']:g} ms filled with silence",
        )
    if manifest["digits"]:
        yield from _entry(
            "",
            "digits: "
            + ", ".join(f"{one['symbol']} ({one['track']})" for one in manifest["digits"][:LISTED_MAX]),
        )
    if manifest["degraded"] is not False:
        assert isinstance(manifest["degraded"], Mapping)
        yield from _entry("degraded", _pairs(manifest["degraded"]))


def _entry(label: str, text: str) -> Iterator[str]:
    yield f"  {_short(label, 20):<10} {_short(text)}"


def _listed(label: str, entries: list[str]) -> Iterator[str]:
    for number, entry in enumerate(entries[:LISTED_MAX]):
        yield from _entry(label if number == 0 else "", entry)
    if len(entries) > LISTED_MAX:
        yield from _entry("", f"… and {len(entries) - LISTED_MAX} more")


def _short(text: str, limit: int = TEXT_MAX) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _level(dbm0: float) -> str:
    return "-inf" if dbm0 == -math.inf else f"{dbm0:z.1f}"


def _verdict(ok: bool | None) -> str:
    return "not given" if ok is None else "right" if ok else "wrong"


def _pairs(reasons: Mapping[str, Any]) -> str:
    return (
        ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in list(reasons.items())[:LISTED_MAX])
        or "yes"
    )


# -- inspect, as JSON ------------------------------------------------------------------------------------


def _inspection_object(of: Inspection) -> dict[str, Any]:
    return {
        "file": str(of.path),
        "format": of.format,
        "container": of.container,
        "encoding": of.encoding,
        "sample_rate": of.sample_rate,
        "channels": of.channels,
        "bits_per_sample": of.bits_per_sample,
        "bytes": of.size_bytes,
        "frames": of.frames,
        "duration": round(of.duration_s, 6),
        "measured": [_channel_object(channel) for channel in of.measured],
        "not_measured": of.not_measured,
        "wav": None if of.wav is None else _wav_object(of.wav),
        "mp3": None if of.mp3 is None else _mp3_object(of.mp3),
        "manifest": of.manifest,
        "manifest_problems": list(of.manifest_problems),
        "warnings": list(of.warnings),
        "damage": list(of.damage),
        "ok": of.is_sound,
    }


def _channel_object(channel: Channel) -> dict[str, Any]:
    return {
        "name": channel.name,
        "rms_dbm0": _finite(channel.rms_dbm0),
        "peak_dbm0": _finite(channel.peak_dbm0),
        "clipped_samples": channel.clipped_samples,
        "silent_share": None if channel.silent_share is None else round(channel.silent_share, 4),
        "digits": None
        if channel.digits is None
        else [
            {
                "symbol": digit.symbol,
                "at": round(digit.at_s, 6),
                "duration": round(digit.duration_s, 6),
                "level_dbm0": _finite(digit.level_dbm0),
                "twist_db": _finite(digit.twist_db),
            }
            for digit in channel.digits
        ],
    }


def _wav_object(info: wav.Info) -> dict[str, Any]:
    return {
        "chunks": [chunk._asdict() for chunk in info.chunks],
        "info": info.info,
        "bext": None if info.bext is None else _bext_object(info.bext),
        "cues": [
            {
                "frame": cue.frame,
                "duration_frames": cue.duration_frames,
                "label": cue.label,
                "note": cue.note,
            }
            for cue in info.cues
        ],
    }


def _bext_object(bext: wav.Bext) -> dict[str, Any]:
    return {name: getattr(bext, name) for name in wav.Bext.__dataclass_fields__}


def _mp3_object(info: mp3.Info) -> dict[str, Any]:
    document = info._asdict()
    del document["warnings"]  # they stand among those of the file
    document["xing"] = None if info.xing is None else info.xing._asdict()
    return document


def _finite(level: float) -> float | None:
    """JSON has no infinity."""
    return round(level, 2) if math.isfinite(level) else None


# -- the terminal ----------------------------------------------------------------------------------------


def _print(stream: TextIO, line: str) -> None:
    """Print a line whose texts may come out of a file: nothing in it moves the cursor."""
    safe = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in line)
    encoding = stream.encoding or "utf-8"
    print(safe.encode(encoding, "backslashreplace").decode(encoding), file=stream)


class _Progress:
    """A line on the terminal that says how far the work on a file is, once it takes long."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = Path(name).name
        self._on_terminal = stream.isatty()
        self._next = time.monotonic() + PROGRESS_AFTER_S
        self._shown = 0  # characters

    def __call__(self, share: float) -> None:
        if not self._on_terminal or (now := time.monotonic()) < self._next:
            return
        self._next = now + PROGRESS_EVERY_S
        line = f"{_short(ascii(self._name)[1:-1], 50)} {share:4.0%}"
        self._stream.write(f"\r{line:<{self._shown}}")
        self._stream.flush()
        self._shown = len(line)

    def clear(self) -> None:
        """Leave an empty line."""
        if self._shown:
            self._stream.write(f"\r{'':<{self._shown}}\r")
            self._stream.flush()
