"""`callreel queue list`, `retry` and `drop`: what waits in a spool's queue, and what to do with dead letters.

They go by the files alone (`callreel.delivery.queue_files`), so they may be used while a process has the queue open.
Exit status: 0 all is well, 1 there are dead letters or damaged files, or an id is not that of a dead letter, 2
wrong usage or no queue.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from callreel.delivery.queue import LOOK_EVERY_S
from callreel.delivery.queue_files import (
    AGAIN,
    DAMAGED,
    DEAD,
    QUEUE_FOLDER,
    WAITING,
    Record,
    Standing,
    drop,
    standing,
    try_again,
)
from callreel.spool import spools_in

__all__ = ["add_queue_commands"]

ALL_WELL, SOMETHING_WRONG, USAGE = 0, 1, 2

LISTED_MAX = 50
"""Dead letters in the report for people; --json gives all."""

TEXT_MAX = 100

EPILOG = """\
exit status: 0 all is well, 1 there are dead letters or damaged files, or an id is not that of a dead letter,
2 wrong usage, or no queue there
"""

DESCRIPTION = """\
What is still to be delivered or told, and what was given up (dead letters).

The queue is a folder in the spool: DIR/queue/waiting holds a file for each entry that is to be tried,
DIR/queue/dead one for each dead letter, with its last error. Those of the workers of "callreel serve" are in
DIR/worker-1/queue and so on, and are looked at together with it. These commands go by the files, so they may
be used at any time, also while a process is at work on the spool.
"""

LIST_DESCRIPTION = """\
Say what is in the queue: for each lane (a destination or an address: what fails together) how much waits, since
when, and how it failed last; then the dead letters.

An entry becomes a dead letter when it has failed for as many days as its kind of error is given, or at once
when another try cannot help: something else has its key.
"""

RETRY_DESCRIPTION = f"""\
Let dead letters be tried again, at once and with all the time a new entry has.

A process at work on the spool takes them up within {LOOK_EVERY_S:.0f} seconds, otherwise the next one that is
started on it.
"""

DROP_DESCRIPTION = """\
Remove dead letters for good: nobody will deliver them or tell them.

What they are about stays: the recording is still in the spool. To keep the entry itself, copy its file first;
"callreel queue list --json" says where it is.
"""

EXAMPLES = """\
examples:
  callreel queue list --spool /var/spool/callreel
  callreel queue list --spool /var/spool/callreel --json | jq 'select(.state == "dead")'
  callreel queue retry --spool /var/spool/callreel --lane s3://bucket
  callreel queue drop --spool /var/spool/callreel ID

"""


def add_queue_commands(commands: Any) -> None:
    """Declare `callreel queue` and its commands."""
    parser = _parser(commands, "queue", "list, retry or drop what is to be delivered", DESCRIPTION, EXAMPLES)
    actions = parser.add_subparsers(title="what to do", metavar="WHAT", required=True)
    one = _parser(actions, "list", "say what waits and what was given up", LIST_DESCRIPTION)
    _add_spool(one)
    one.add_argument(
        "--json", action="store_true", help="one JSON object a line for each entry and damaged file"
    )
    one.set_defaults(run=_run_list)
    for name, help_text, description, run in (
        ("retry", "let dead letters be tried again", RETRY_DESCRIPTION, _run_retry),
        ("drop", "remove dead letters for good", DROP_DESCRIPTION, _run_drop),
    ):
        one = _parser(actions, name, help_text, description)
        _add_spool(one)
        one.add_argument("ids", metavar="ID", nargs="*", help="of a dead letter, as list shows it")
        one.add_argument("--lane", metavar="LANE", help="all dead letters of this lane")
        one.add_argument("--all", action="store_true", help="all dead letters")
        one.add_argument("--json", action="store_true", help="one JSON object a line for each dead letter")
        one.set_defaults(run=run)


def _parser(
    commands: Any, name: str, help_text: str, description: str, examples: str = ""
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_text,
        description=description,
        epilog=examples + EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _add_spool(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--spool", metavar="DIR", type=Path, required=True, help="the spool; its queue is DIR/queue"
    )


# ---- list --------------------------------------------------------------------------------------------------


def _run_list(options: argparse.Namespace) -> int:
    folders = _queues_of(options.spool)
    if not folders:
        return USAGE
    try:
        found = [one for folder in folders for one in standing(folder)]
    except OSError as error:
        return _complain(f"{error.filename or options.spool}: {error.strerror or error}")
    if options.json:
        for one in found:
            _say(json.dumps(_object(one)))
    else:
        _report(found, time.time())
    is_well = all(one.state in (WAITING, AGAIN) and one.record is not None for one in found)
    return ALL_WELL if is_well else SOMETHING_WRONG


def _report(found: Sequence[Standing], now_s: float) -> None:
    waiting = [one.record for one in found if one.state in (WAITING, AGAIN) and one.record is not None]
    dead = [one.record for one in found if one.state == DEAD and one.record is not None]
    damaged = [one for one in found if one.state == DAMAGED or one.record is None]
    lanes: dict[str, list[Record]] = {}
    for record in waiting:
        lanes.setdefault(record.lane, []).append(record)
    _say(f"waiting: {len(waiting)}")
    if lanes:
        rows: list[tuple[str, ...]] = [("lane", "entries", "failing", "oldest", "next try", "last error")]
        rows += [_lane_row(lane, records, now_s) for lane, records in sorted(lanes.items())]
        _print_table(rows)
    _say(f"dead letters: {len(dead)}")
    if dead:
        letters: list[tuple[str, ...]] = [("id", "lane", "group", "tries", "put", "given up", "last error")]
        for record in dead[:LISTED_MAX]:
            letters.append(
                (
                    record.id,
                    record.lane,
                    record.group,
                    str(record.attempts),
                    _age(record.put_s, now_s),
                    _age(record.failed_s, now_s),
                    _error(record),
                )
            )
        _print_table(letters)
        if len(dead) > LISTED_MAX:
            _say(f"  … and {len(dead) - LISTED_MAX} more; --json gives all")
    if damaged:
        _say(f"damaged: {len(damaged)}")
        for one in damaged[:LISTED_MAX]:
            _say(f"  {one.path}" + (f": {one.problem}" if one.problem else ""))


def _lane_row(lane: str, records: Sequence[Record], now_s: float) -> tuple[str, ...]:
    failing = [record for record in records if record.failures]
    latest = max(failing, key=lambda record: record.failed_s or 0, default=None)
    return (
        lane,
        str(len(records)),
        str(len(failing)),
        _age(min(record.put_s for record in records), now_s),
        _ahead(min(record.due_s for record in records), now_s),
        "-" if latest is None else _error(latest),
    )


def _error(record: Record) -> str:
    if record.error_class is None:
        return "-"
    return _short(f"{record.error_class}: {record.error}")


def _object(one: Standing) -> dict[str, Any]:
    about: dict[str, Any] = {"state": one.state, "file": str(one.path)}
    record = one.record
    if record is None:
        return {**about, "problem": one.problem}
    error = None
    if record.error_class is not None:
        error = {"class": record.error_class, "message": record.error, "at": _date(record.failed_s)}
    return {
        **about,
        "id": record.id,
        "lane": record.lane,
        "group": record.group,
        "ordered": record.ordered,
        "put": _date(record.put_s),
        "due": None if one.state == DEAD else _date(record.due_s),
        "attempts": record.attempts,
        "failing_since": _date(record.failing_since_s),
        "error": error,
    }


# ---- retry and drop ----------------------------------------------------------------------------------------


def _run_retry(options: argparse.Namespace) -> int:
    return _for_each(options, "tried again", lambda folder, one: try_again(folder, one.path))


def _run_drop(options: argparse.Namespace) -> int:
    return _for_each(options, "dropped", lambda _, one: drop(one.path))


def _for_each(options: argparse.Namespace, done_word: str, act: Any) -> int:
    if bool(options.ids) + bool(options.lane) + options.all != 1:
        return _complain("say which dead letters: ID ..., or --lane LANE, or --all")
    folders = _queues_of(options.spool)
    if not folders:
        return USAGE
    wanted = set(options.ids)
    count = 0
    try:
        for folder, one in ((queue, found) for queue in folders for found in standing(queue, (DEAD,))):
            if one.record is None:
                continue
            if not (options.all or one.record.id in wanted or one.record.lane == options.lane):
                continue
            if act(folder, one):
                count += 1
                wanted.discard(one.record.id)
                if options.json:
                    _say(json.dumps({**_object(one), "state": done_word}))
    except OSError as error:
        return _complain(f"{error.filename or options.spool}: {error.strerror or error}")
    if not options.json:
        _say(f"{done_word}: {count}")
    for entry_id in sorted(wanted):
        _complain(f"no dead letter {entry_id}")
    return SOMETHING_WRONG if wanted else ALL_WELL


# ---- words -------------------------------------------------------------------------------------------------


def _queues_of(spool: Path) -> list[Path]:
    """The queues of the spool and of those of a service's workers within."""
    folders = [folder for one in spools_in(spool).values() if (folder := one / QUEUE_FOLDER).is_dir()]
    if not folders:
        _complain(f"{spool}: no queue there")
    return folders


def _complain(text: str) -> int:
    print(f"callreel queue: {_safe(text)}", file=sys.stderr)
    return USAGE


def _say(text: str) -> None:
    print(_safe(text))


def _safe(text: str) -> str:
    """Texts may come out of a file: nothing in them moves the cursor."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _print_table(rows: Iterable[tuple[str, ...]]) -> None:
    cells = [[_short(_safe(cell)) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        _say(f"  {line.rstrip()}")


def _short(text: str) -> str:
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…"


def _age(moment_s: float | None, now_s: float) -> str:
    return "-" if moment_s is None else f"{_span(now_s - moment_s)} ago"


def _ahead(moment_s: float, now_s: float) -> str:
    return "now" if moment_s <= now_s else f"in {_span(moment_s - now_s)}"


def _span(seconds: float) -> str:
    for size, word in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {word}"
    return f"{max(seconds, 0):.0f} s"


def _date(moment_s: float | None) -> str | None:
    if moment_s is None:
        return None
    try:
        moment = datetime.fromtimestamp(moment_s, UTC)
    except (OverflowError, OSError, ValueError):
        return str(moment_s)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
