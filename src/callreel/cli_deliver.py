"""Deliveries of the command line: `callreel record --destination` and `callreel recover`."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from callreel.captures import Take
from callreel.delivery import Parcel, Receipt
from callreel.delivery.error_classes import RETRIES, TOLD, class_of, delay_s, patience_asked_s, text_of
from callreel.errors import CallreelError, DeliveryError, UsageError
from callreel.events import VendorMessage
from callreel.recorder import Recorder, Settings, TakeEnded, TakeReplayed
from callreel.recorder.configuration import Configuration
from callreel.recorder.stores import Stores
from callreel.spool import spools_in
from callreel.spool_files import FolderLock

__all__ = [
    "RECOVER_DESCRIPTION",
    "RECOVER_EXAMPLES",
    "Deliveries",
    "add_destination_arguments",
    "add_recover_arguments",
    "names_a_destination",
    "reason_of",
    "run_recover",
    "settings_of",
]

GOOD, SOMETHING_WRONG, USAGE = 0, 1, 2

PATIENCE_S = 30.0
"""How long `record` tries to deliver a recording to a destination that does not answer."""
CARRIERS = 8
WAIT_S = 60.0

RECOVER_DESCRIPTION = """\
Finish what a recorder that died has left in its spool.

Recordings that were running become files that can be played, with end_reason "recovered"; all that is not
where it belongs is delivered; each ends with one terminal event, which is printed. A spool may be finished
on another machine. What the workers of "callreel serve" have left in DIR/worker-1 and so on is finished with
it. While another process has the spool open there is nothing to recover: it does all this itself when it
starts.

Where recordings go that name no destination of their own, how S3 is reached, and who is told is set as for
the recorder: by options, by variables CALLREEL_TABLE_KEY, by a file (--config), in this order.
"callreel config" shows what is in force. The credentials for S3 are those that boto3 finds (AWS_... variables,
~/.aws, the machine's role), unless settings say otherwise. Encrypted recordings need the key they were
encrypted with, in the settings' [encryption].
"""

RECOVER_EXAMPLES = """\
examples:
  callreel recover --spool /var/spool/callreel --destination recovered
  callreel recover --spool /var/spool/callreel --destination s3://bucket/prefix --wait 600
  callreel recover --config callreel.toml --json

exit status: 0 everything is delivered, 1 something could not be recorded or delivered, or is left in the
spool, 2 wrong usage, no spool there, or another process has it open
"""


def add_destination_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what tells a destination."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help='settings (TOML); "callreel config --help" tells of them',
    )
    parser.add_argument(
        "--destination", metavar="URL", help="deliver to s3://bucket[/prefix], or to a folder"
    )
    parser.add_argument(
        "--endpoint-url",
        metavar="URL",
        help="of a store that speaks S3 and is not AWS's, such as http://localhost:8333",
    )
    parser.add_argument("--region", help="of the bucket (default: as boto3 finds it)")
    parser.add_argument(
        "--acl", help='canned ACL of what is stored in S3, such as "bucket-owner-full-control"'
    )


def names_a_destination(options: argparse.Namespace) -> bool:
    """Whether one of the options is about where recordings are delivered."""
    return any((options.config, options.destination, options.endpoint_url, options.region, options.acl))


def settings_of(options: argparse.Namespace, spool: Path | None) -> Settings:
    """The settings by the options, the environment and the file; `spool` where it was given."""
    return Configuration(
        options.config,
        options={
            "spool.folder": ("--spool", None if spool is None else str(spool)),
            "delivery.destination": ("--destination", options.destination),
            "s3.endpoint_url": ("--endpoint-url", options.endpoint_url),
            "s3.region": ("--region", options.region),
            "s3.acl": ("--acl", options.acl),
        },
    ).settings()


class Deliveries:
    """Takes recordings of captures to a destination."""

    def __init__(self, settings: Settings) -> None:
        """Deliver to the destination of these; UsageError where they want what only a recorder does."""
        if settings.keys() is not None:
            raise UsageError(
                "[encryption] is for a recorder's recordings; those of a capture are delivered as they are, so unset"
                ' it for this command (CALLREEL_ENCRYPTION_KEY_FILE and CALLREEL_ENCRYPTION_KMS_KEY_ID: "none")'
            )
        self._stores = Stores(settings)

    def deliver(self, takes: Sequence[Take]) -> list[Receipt | DeliveryError]:
        """Deliver them, several at once, and say of each where it is or why it is not."""
        with ThreadPoolExecutor(CARRIERS) as carriers:
            return list(carriers.map(self._deliver, takes))

    def _deliver(self, take: Take) -> Receipt | DeliveryError:
        until = time.monotonic() + PATIENCE_S
        failures = 0
        while True:
            try:
                store, key = self._stores.place(None, take.manifest["key"])
                return store.deliver(
                    Parcel(
                        path=take.path,
                        key=key,
                        size_bytes=take.manifest["bytes"],
                        sha256=take.manifest["sha256"],
                        media_type=take.media_type,
                        metadata=take.metadata,
                    )
                )
            except DeliveryError as error:
                failures += 1
                policy = RETRIES[class_of(error)]
                wait_s = max(delay_s(policy, failures, random.random), patience_asked_s(error))
                if not error.retryable or time.monotonic() + wait_s > until:
                    return error
                time.sleep(wait_s)


# ---- recover -----------------------------------------------------------------------------------------------


def add_recover_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `callreel recover` takes."""
    parser.add_argument(
        "--spool", metavar="DIR", type=Path, help="folder of the spool, unless it is set elsewhere"
    )
    add_destination_arguments(parser)
    parser.add_argument(
        "--wait",
        metavar="S",
        type=float,
        default=WAIT_S,
        help=f"how long to wait for destinations that are down (default: {WAIT_S:.0f} s); the rest stays in the spool",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object a line: every terminal event, and every message that no setting says whom to tell",
    )


def run_recover(options: argparse.Namespace) -> int:
    """Carry out `callreel recover`; returns the exit status."""
    try:
        settings = settings_of(options, options.spool)
    except UsageError as error:
        return _complain(str(error))
    if not (settings.spool / "takes").is_dir():
        return _complain(f"{settings.spool}: no spool: it has no folder `takes`")
    store_for = Stores(settings).place  # Drive is in the first of them
    failed = delivered = 0
    until = time.monotonic() + options.wait
    spools = spools_in(settings.spool).values()
    with ExitStack() as opened:
        recorders = []
        for spool in spools:  # all of them or none: what one delivers would else be told to nobody
            try:
                FolderLock(spool).release()
            except (CallreelError, OSError) as error:
                return _complain(f"{spool}: {error}")
        for spool in spools:
            try:
                recorder = Recorder(replace(settings, spool=spool), store_for=store_for)
            except (CallreelError, OSError) as error:
                return _complain(f"{spool}: {error}")
            recorders.append(opened.enter_context(recorder))
        while True:
            is_done = [recorder.drain(0.05) for recorder in recorders]
            for event in (event for recorder in recorders for event in recorder.events()):
                if isinstance(event, TakeEnded | TakeReplayed):
                    failed += isinstance(event, TakeEnded) and event.error is not None
                    delivered += event.location is not None
                    _print(event, as_json=options.json)
                elif isinstance(event, VendorMessage):
                    _print_untold(event, as_json=options.json)
            if all(is_done) or time.monotonic() >= until:
                break
        left = sum(recorder.unfinished for recorder in recorders)
    if not options.json:
        print(f"{delivered} delivered, {failed} failed, {left} left in the spool")
    for problem in (problem for recorder in recorders for problem in recorder.problems()):
        print(f"callreel: {problem}", file=sys.stderr)
    return SOMETHING_WRONG if failed or left else GOOD


def _complain(text: str) -> int:
    for line in text.splitlines():
        print(f"callreel: {line}", file=sys.stderr)
    return USAGE


def _print(event: TakeEnded | TakeReplayed, *, as_json: bool) -> None:
    if as_json:
        name = "take_ended" if isinstance(event, TakeEnded) else "take_replayed"
        print(json.dumps({"event": name, **event._asdict()}), flush=True)
        return
    if isinstance(event, TakeReplayed):
        print(f"{event.call_id}  {_duration(event.manifest)}  replayed  {event.location}", flush=True)
        return
    where = event.location or f"not delivered: {event.error or 'it was called off'}"
    print(f"{event.call_id}  {_duration(event.manifest)}  {event.end_reason}  {where}", flush=True)


def _print_untold(event: VendorMessage, *, as_json: bool) -> None:
    """What a customer should be told, and no setting says how."""
    if as_json:
        print(json.dumps({"event": "vendor_message", **event._asdict()}), flush=True)
    else:
        print(f"{event.call_id}  its customer is not told: there is no [notify.{event.dialect}]", flush=True)


def _duration(manifest: Mapping[str, Any]) -> str:
    return f"{manifest['duration']:.3f} s" if "duration" in manifest else "-"


def reason_of(error: CallreelError) -> str:
    """Why a delivery went wrong, in words."""
    return f"{TOLD[class_of(error)].stored}: {text_of(error)}"
