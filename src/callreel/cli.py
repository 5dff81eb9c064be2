"""The command `callreel`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

import callreel
from callreel import (
    bench,
    bench_serve,
    cli_config,
    cli_decrypt,
    cli_deliver,
    cli_inspect,
    cli_policy,
    cli_queue,
    cli_serve,
)
from callreel.actions import Destination, Layout, Prompt, StartRecording, StopRecording
from callreel.capture_script import Script, rehearse, script_of
from callreel.captures import CaptureReport, RecordOptions, SkippedStream, Take, record_capture
from callreel.errors import ActionError, CallreelError, UsageError
from callreel.events import Event
from callreel.formats import FORMATS
from callreel.takes import rfc3339

__all__ = ["main"]

ALL_GOOD, SOMETHING_WRONG, USAGE, INTERRUPTED = 0, 1, 2, 130

MAX_ACTION_BYTES = 1 << 20

EPILOG = """\
exit status: 0 all good, 1 something is degraded or missing, 2 wrong usage, no such file, or a file of
another kind
"""

RECORD_DESCRIPTION = """\
Turn the calls in packet captures (pcap or pcapng, gzipped or not) into recordings.

Every call found is treated as if Amazon Chime's StartCallRecording with Track BOTH had been asked for
the caller's leg when its media began, unless --action says what is asked instead. The calls come from
SIP and SDP where the capture has them, else RTP is paired by its addresses. Each recording goes to DIR
under the vendor's key,

  Amazon-Chime-SMA-Call-Recordings/year/month/day/date-time_transactionId_callId.wav

with a manifest beside it (the same name and .json). In stereo the incoming track (what the caller says)
is left, the outgoing one right. Streams that cannot be decoded (other codecs, SRTP, T.38) are named.

With --destination, or settings that name one, recordings are delivered under that key, with the vendor's
metadata, and kept in DIR only if --out says so. A destination that does not answer is tried for 30 s; what
it does not take is kept, and it is said where. The credentials for S3 are those that boto3 finds (AWS_...
variables, ~/.aws, the machine's role), unless settings say otherwise.
"""

RECORD_EXAMPLES = """\
examples:
  callreel record call.pcap --out recordings
  callreel record *.pcapng.gz --out recordings --format mp3 --json > report.jsonl
  callreel record call.pcap --out recordings --action start-recording.json
  callreel record call.pcap --destination s3://bucket/prefix --region eu-central-1
  callreel record call.pcap --destination s3://bucket/prefix --endpoint-url http://localhost:8333
  callreel record call.pcap --config callreel.toml

The file for --action holds what a customer would send, in the vendor's words: Amazon Chime's RecordAudio
or StartCallRecording, alone, in a list or in a Lambda function's answer; Sinch's SVAML; the body of
Microsoft Graph's record, alone or as {"path": ..., "body": ...}. It is carried out for the caller's leg
of every call when its media begins, whatever call id is written in it; what is said or played before a
recording takes no time.

exit status: 0 all good, 1 something is degraded, missing or not delivered, 2 wrong usage, no such file, or
a file of another kind
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (default: those of the process); returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no text in any encoding
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        _close_stdout()
        return SOMETHING_WRONG
    except KeyboardInterrupt:
        print("callreel: interrupted", file=sys.stderr)
        return INTERRUPTED
    return status


def _close_stdout() -> None:
    """Whoever read our output has seen enough; keep the interpreter from complaining about it at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _say(text: str) -> None:
    """Print a line of a report. That nobody reads it any more is no reason to stop recording."""
    try:
        print(text)
    except BrokenPipeError:
        _close_stdout()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="callreel",
        description="The call-recording engine: captures in, true recordings out.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"callreel {callreel.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_record(commands)
    _add(
        commands,
        "inspect",
        "say what is in WAV and MP3 files",
        cli_inspect.add_inspect_arguments,
        cli_inspect.run_inspect,
    )
    _add(
        commands,
        "verify",
        "check recordings against their manifests",
        cli_inspect.add_verify_arguments,
        cli_inspect.run_verify,
    )
    decrypt = commands.add_parser(
        "decrypt",
        help="decrypt a recording that was encrypted",
        description=cli_decrypt.DESCRIPTION,
        epilog=cli_decrypt.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli_decrypt.add_decrypt_arguments(decrypt)
    decrypt.set_defaults(run=cli_decrypt.run_decrypt)
    recover = commands.add_parser(
        "recover",
        help="finish and deliver what a recorder that died has left in its spool",
        description=cli_deliver.RECOVER_DESCRIPTION,
        epilog=cli_deliver.RECOVER_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli_deliver.add_recover_arguments(recover)
    recover.set_defaults(run=cli_deliver.run_recover)
    cli_config.add_config_command(commands)
    cli_serve.add_serve_command(commands)
    cli_queue.add_queue_commands(commands)
    policy = commands.add_parser(
        "policy",
        help="print the bucket policy that lets recordings into S3",
        description=cli_policy.DESCRIPTION,
        epilog=cli_policy.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli_policy.add_policy_arguments(policy)
    policy.set_defaults(run=cli_policy.run_policy)
    _add_bench(commands)
    return parser


def _add_bench(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure what recording costs on this machine",
        description="Measure what recording costs on this machine.",
    )
    benchmarks = parser.add_subparsers(title="what to measure", metavar="WHAT", required=True)
    _add(
        benchmarks,
        "calls",
        "many calls at once, everything included up to the bytes of their files",
        bench.add_calls_arguments,
        bench.run_calls,
    )
    _add(
        benchmarks,
        "serve",
        "calls of the live service at once, over real sockets, and how quickly it answers then",
        bench_serve.add_serve_arguments,
        bench_serve.run_serve,
    )


def _add(
    commands: Any,
    name: str,
    help_text: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], int],
) -> None:
    parser = commands.add_parser(
        name, help=help_text, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


# ---- record ------------------------------------------------------------------------------------------------


def _add_record(commands: Any) -> None:
    parser = commands.add_parser(
        "record",
        help="turn the calls in packet captures into recordings",
        description=RECORD_DESCRIPTION,
        epilog=RECORD_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("captures", metavar="CAPTURE", nargs="+", type=Path, help="pcap or pcapng file")
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="folder for the recordings; made if missing. With --destination it may be left out",
    )
    cli_deliver.add_destination_arguments(parser)
    parser.add_argument("--format", choices=list(FORMATS), help="file format (default: wav)")
    parser.add_argument(
        "--layout", choices=[layout.value for layout in Layout], help="tracks and channels (default: stereo)"
    )
    parser.add_argument(
        "--action",
        metavar="FILE",
        type=Path,
        help="JSON of Amazon Chime, Sinch or Microsoft Graph to carry out",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object a line: every event, then each manifest"
    )
    parser.set_defaults(run=_record, parser=parser)


def _record(options: argparse.Namespace) -> int:
    script, action = None, StartRecording(format=options.format or "wav")
    if options.layout:
        action = action._replace(layout=Layout(options.layout))
    if options.action is not None:
        if options.format or options.layout:
            return _complain(
                "--action says what to record, so --format and --layout do not go with it", USAGE
            )
        try:
            script = _script_of(options.action)
        except (ActionError, OSError, ValueError) as error:
            return _complain(f"{options.action}: {_reason(error)}", USAGE)
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        return _complain(f"--out {options.out}: not a folder", USAGE)
    if options.out is not None and not cli_deliver.names_a_destination(options):
        return _record_into(options, options.out, action, script)
    try:
        settings = cli_deliver.settings_of(options, options.out or Path(tempfile.gettempdir()))
        if settings.destination is None:
            options.parser.error("where to? --out DIR, --destination URL, or both")
        deliveries = cli_deliver.Deliveries(settings)
    except UsageError as error:
        return _complain(str(error), USAGE)
    if options.out is not None:
        return _record_and_deliver(options, options.out, action, script, deliveries)[0]
    out = Path(tempfile.mkdtemp(prefix="callreel-"))
    kept = True
    try:
        status, kept = _record_and_deliver(options, out, action, script, deliveries)
    finally:
        if kept and any(path.is_file() for path in out.rglob("*")):
            _complain(f"what was not delivered is kept in {out}", SOMETHING_WRONG)
        else:
            shutil.rmtree(out, ignore_errors=True)
    return status


def _record_and_deliver(
    options: argparse.Namespace,
    out: Path,
    action: StartRecording,
    script: Script | None,
    deliveries: cli_deliver.Deliveries,
) -> tuple[int, bool]:
    """Record into `out` and deliver what was made; the status, and whether something is not delivered."""
    takes: list[Take] = []
    status = _record_into(options, out, action, script, takes)
    progress = _Progress(f"delivering {_count(len(takes), 'recording')}")
    outcomes = deliveries.deliver(takes)
    progress.done()
    for take, outcome in zip(takes, outcomes, strict=True):
        if isinstance(outcome, CallreelError):
            status = max(status, _complain(f"{take.path}: {cli_deliver.reason_of(outcome)}", SOMETHING_WRONG))
        elif options.json:
            _print_json({"event": "delivered", "location": outcome.location, "checksum": outcome.checksum})
        else:
            _say(f"delivered: {outcome.location}")
    return status, any(isinstance(outcome, CallreelError) for outcome in outcomes)


def _record_into(
    options: argparse.Namespace,
    out: Path,
    action: StartRecording,
    script: Script | None,
    made: list[Take] | None = None,
) -> int:
    status = ALL_GOOD
    takes: list[Take] = []
    for path in options.captures:
        progress = _Progress(f"reading {path.name}")
        try:
            report = record_capture(
                path,
                RecordOptions(out=out, action=action, script=script),
                on_event=_print_event if options.json else None,
                on_progress=progress.show,
            )
        except (CallreelError, OSError) as error:
            progress.done()
            status = max(status, _complain(f"{path}: {_reason(error)}", USAGE))
            continue
        progress.done()
        takes += report.takes
        if options.json:
            _print_report_events(report)
        else:
            _print_report(report, out)
        status = max(status, ALL_GOOD if report.all_good else SOMETHING_WRONG)
    if options.json:
        for take in takes:
            _print_json(take.manifest)
    if made is not None:
        made += takes
    return status


def _script_of(path: Path) -> Script:
    """Read and rehearse a vendor's document; ValueError, OSError or ActionError when it cannot be carried out."""
    with path.open("rb") as file:
        text = file.read(MAX_ACTION_BYTES + 1)
    if len(text) > MAX_ACTION_BYTES:
        raise ValueError("too large for an action")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from error
    script = script_of(document)
    problem = rehearse(script)
    if problem is not None:
        raise ValueError(problem)
    return script


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)


def _complain(text: str, status: int) -> int:
    for line in text.splitlines():
        print(f"callreel: {line}", file=sys.stderr)
    return status


# ---- what was made -----------------------------------------------------------------------------------------


def _print_report(report: CaptureReport, out: Path) -> None:
    _say(
        f"{report.path}: {_count(report.frames, 'packet')}, {_count(len(report.calls), 'call')}, "
        f"{_count(len(report.takes), 'recording')}"
    )
    if report.takes:
        header = ("duration", "in", "lost", "out", "lost", "digits", "state", "file")
        _print_table([header, *(_row(take, out) for take in report.takes)])
    for call in report.calls:
        if call.note:
            _say(f"  no recording of {call.call_id}: {call.note}")
        if call.same_media_as is not None:
            _say(f"  no recording of {call.call_id}: its media is that of {call.same_media_as}")
    for stream in report.skipped:
        _say(f"  not recorded: {_skipped_text(stream)}")
    for failure in report.failures:
        _say(f"  failed: {failure}")
    if report.problem:
        _say(f"  the capture is damaged: {report.problem}")
    elif report.truncated:
        _say("  the capture is cut short: it ends in the middle of a packet")
    if not report.calls:
        _say("  no call found: neither SIP nor RTP that can be paired")
    left_out = {
        "streams_dropped": "streams",
        "flows_dropped": "packets of further flows",
        "sip_dropped": "parts of the signalling",
    }
    for name, what in left_out.items():
        if report.counts.get(name):
            _say(f"  left out for want of room: {report.counts[name]} {what}")


def _row(take: Take, out: Path) -> tuple[str, ...]:
    manifest = take.manifest
    packets = {track["direction"]: track["packets"] for track in manifest["tracks"]}

    def number(direction: str, fate: str) -> str:
        return str(packets[direction][fate]) if direction in packets else "-"

    degraded = manifest["degraded"]
    state = (
        "degraded: " + ", ".join(f"{name} {value}" for name, value in degraded.items())
        if degraded
        else "good"
    )
    return (
        f"{manifest['duration']:.3f} s",
        number("incoming", "received"),
        number("incoming", "lost"),
        number("outgoing", "received"),
        number("outgoing", "lost"),
        "".join(digit["symbol"] for digit in manifest["digits"]) or "-",
        state,
        str(take.path.relative_to(out) if take.path.is_relative_to(out) else take.path),
    )


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[:5], widths[:5], strict=True)]
        cells += [cell.ljust(width) for cell, width in zip(row[5:], widths[5:], strict=True)]
        _say("  " + "  ".join(cells).rstrip())


def _skipped_text(stream: SkippedStream) -> str:
    reasons = {
        "codec": f"{stream.codec}, which is not decoded",
        "encrypted": f"{stream.codec} encrypted (SRTP)",
        "fax": "fax (T.38)",
        "video": f"video or other media ({stream.codec})",
        "second audio line": f"a second audio line ({stream.codec})",
        "copy": "packets that are recorded already, seen a second time",
    }
    counts = ", ".join(f"{value} {name}" for name, value in stream.packets.items() if value)
    return f"{reasons[stream.reason]}: {stream.source} to {stream.destination}" + (
        f" ({counts})" if counts else ""
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# ---- JSON --------------------------------------------------------------------------------------------------


def _print_event(event: Event) -> None:
    entry: dict[str, Any] = {"event": _snake_case(type(event).__name__)}
    entry |= {name: _plain(value) for name, value in event._asdict().items() if name != "manifest"}
    _print_json(entry)


def _print_report_events(report: CaptureReport) -> None:
    for call in report.calls:
        _print_json({"event": "call_found", **dataclasses.asdict(call)})
    for stream in report.skipped:
        _print_json({"event": "stream_skipped", **dataclasses.asdict(stream)})
    for failure in report.failures:
        _print_json({"event": "recording_failed", "reason": failure})
    _print_json(
        {
            "event": "capture_read",
            "path": str(report.path),
            "format": report.format,
            "frames": report.frames,
            "truncated": report.truncated,
            "problem": report.problem,
            "counts": dict(report.counts),
        }
    )


def _print_json(entry: Any) -> None:
    _say(json.dumps(entry, default=_json_value, ensure_ascii=True))


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, CallreelError):
        return str(value)
    if isinstance(value, Destination):  # without its credentials
        return {"kind": value.kind, "bucket": value.bucket}
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _plain(value: Any) -> Any:
    """What an event holds, without the tuples and mappings that JSON would not show as what they are."""
    match value:
        case Mapping():
            return {name: _plain(one) for name, one in value.items()}
        case Prompt():
            return {"uri": value.uri}
        case StartRecording() | StopRecording():
            return {"kind": value.kind.value, "key": getattr(value, "key", None)}
        case _:
            return value


def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


# ---- progress ----------------------------------------------------------------------------------------------


class _Progress:
    """A bar on the terminal, if there is one; otherwise silent."""

    WIDTH = 32

    def __init__(self, label: str, stream: TextIO = sys.stderr) -> None:
        self._label = label
        self._stream = stream
        self._shown = -1
        self._visible = stream.isatty()

    def show(self, done: int, total: int) -> None:
        percent = 100 * done // max(1, total)
        if not self._visible or percent == self._shown:
            return
        self._shown = percent
        filled = self.WIDTH * percent // 100
        self._stream.write(f"\r{self._label} [{'#' * filled}{'.' * (self.WIDTH - filled)}] {percent:3d} %")
        self._stream.flush()

    def done(self) -> None:
        if self._visible and self._shown >= 0:
            self._stream.write("\r" + " " * (len(self._label) + self.WIDTH + 9) + "\r")
            self._stream.flush()
