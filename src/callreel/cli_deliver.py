"""Deliveries of the command line: `callreel record --destination` and `callreel recover`."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callreel.captures import Take
from callreel.delivery import Parcel, Receipt
from callreel.delivery.error_classes import RETRIES, TOLD, class_of, delay_s, patience_asked_s, text_of
from callreel.errors import CallreelError, DeliveryError, UsageError
from callreel.recorder import Recorder, Settings, TakeEnded
from callreel.recorder.stores import Stores

if TYPE_CHECKING:
    from callreel.delivery.s3_settings import S3Settings

__all__ = [
    "RECOVER_DESCRIPTION",
    "Deliveries",
    "add_destination_arguments",
    "add_recover_arguments",
    "reason_of",
    "run_recover",
]

GOOD, SOMETHING_WRONG, USAGE = 0, 1, 2

PATIENCE_S = 30.0
"""How long `record` tries to deliver a recording to a destination that does not answer."""
CARRIERS = 8
WAIT_S = 60.0

RECOVER_DESCRIPTION = """\
Finish what a recorder that died has left in its spool: recordings that were running become files that
can be played, with end_reason "recovered"; all that is not where it belongs is delivered; each ends
with one terminal event, which is printed. A spool may be finished on another machine. While another
process has the spool open there is nothing to recover: it does all this itself when it starts.
"""


def add_destination_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what tells a destination."""
    parser.add_argument("--destination", metavar="URL", help="deliver to s3://bucket[/prefix], or a folder")
    parser.add_argument("--endpoint-url", metavar="URL", help="of a store that speaks S3 and is not AWS's")
    parser.add_argument("--region", help="of the bucket (default: as boto3 finds it)")
    parser.add_argument(
        "--acl", help='canned ACL of what is stored in S3, such as "bucket-owner-full-control"'
    )


def _s3(options: argparse.Namespace) -> S3Settings | None:
    if not (options.endpoint_url or options.region or options.acl):
        return None
    from callreel.delivery.s3_settings import S3Settings

    return S3Settings(
        "any",  # the destination names the bucket
        endpoint_url=options.endpoint_url,
        region=options.region,
        acl=options.acl,
        path_style=True if options.endpoint_url else None,
    )


class Deliveries:
    """Takes recordings of captures to a destination."""

    def __init__(self, options: argparse.Namespace, kept_in: Path) -> None:
        """Look whether the destination is one; UsageError when it is not. `kept_in`: where the files lie."""
        self._stores = Stores(Settings(kept_in, destination=options.destination, s3=_s3(options)))

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
    parser.add_argument("--spool", metavar="DIR", type=Path, required=True, help="folder of the spool")
    add_destination_arguments(parser)
    parser.add_argument(
        "--wait",
        metavar="S",
        type=float,
        default=WAIT_S,
        help=f"how long to wait for destinations that are down (default: {WAIT_S:.0f} s); the rest stays in the spool",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object a line: every terminal event"
    )


def run_recover(options: argparse.Namespace) -> int:
    """Carry out `callreel recover`; returns the exit status."""
    if not (options.spool / "takes").is_dir():
        print(f"callreel: {options.spool}: no spool: it has no folder `takes`", file=sys.stderr)
        return USAGE
    try:
        recorder = Recorder(Settings(options.spool, destination=options.destination, s3=_s3(options)))
    except (UsageError, OSError) as error:
        print(f"callreel: {options.spool}: {error}", file=sys.stderr)
        return USAGE
    failed = delivered = 0
    until = time.monotonic() + options.wait
    with recorder:
        while True:
            is_done = recorder.drain(0.05)
            for event in recorder.events():
                if isinstance(event, TakeEnded):
                    failed += event.error is not None
                    delivered += event.location is not None
                    _print(event, as_json=options.json)
            if is_done or time.monotonic() >= until:
                break
        left = recorder.unfinished
    if not options.json:
        print(f"{delivered} delivered, {failed} failed, {left} left in the spool")
    for problem in recorder.problems():
        print(f"callreel: {problem}", file=sys.stderr)
    return SOMETHING_WRONG if failed or left else GOOD


def _print(event: TakeEnded, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"event": "take_ended", **event._asdict()}), flush=True)
        return
    where = event.location or f"not delivered: {event.error or 'it was called off'}"
    print(f"{event.call_id}  {_duration(event.manifest)}  {event.end_reason}  {where}", flush=True)


def _duration(manifest: Mapping[str, Any]) -> str:
    return f"{manifest['duration']:.3f} s" if "duration" in manifest else "-"


def reason_of(error: CallreelError) -> str:
    """Why a delivery went wrong, in words."""
    return f"{TOLD[class_of(error)].stored}: {text_of(error)}"
