"""`callreel serve` as it is, but for prompts, which may come from one port of this machine, and for what else would
grow for thousands of calls before it stays as it is: how many ended calls and events are kept, and how often cycles
are collected; and its customers' programs.

    soak_host.py PROMPT_PORT TOLD ...    TOLD: a file to which programs append what they are told; ...: the options
"""

import ipaddress
import json
import os
import random
import sys
from functools import partial

BUCKET = "recordings"
KEPT_CALLS, KEPT_EVENTS = 40, 200
COLLECT = 10_000, 2, 2
NAMES = 60_000


def _note(vendor, notification):
    line = {"vendor": vendor, "id": notification.id, **json.loads(json.dumps(dict(notification.body)))}
    descriptor = os.open(os.environ["SOAK_TOLD"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    finally:
        os.close(descriptor)


def chime(notification):
    """Records into a bucket when it is asked to."""
    body = notification.body
    _note("chime", notification)
    actions = []
    if body["InvocationEventType"] == "CALL_UPDATE_REQUESTED":
        leg = body["CallDetails"]["Participants"][0]["CallId"]
        place = {"Type": "S3", "Location": f"{BUCKET}/calls"}
        given = {"CallId": leg, "Track": "BOTH", "Destination": place}
        actions.append({"Type": "StartCallRecording", "Parameters": given})
    return {"SchemaVersion": "1.0", "Actions": actions}


def sinch(notification):
    """Says nothing, and fails at times."""
    _note("sinch", notification)
    _fail()


def graph(notification):
    """The same."""
    _note("graph", notification)
    _fail()


def _fail():
    if random.random() < float(os.environ["SOAK_FAILING"]):
        raise RuntimeError("a program of a customer's that fails")


def load():
    """What each worker loads when it first reads an MP3, some of them after an hour; and have Python make its table of
    names as large as it comes to be after some thousand calls, which is 4 MB once."""
    import boto3  # noqa: F401
    import miniaudio  # noqa: F401

    for _ in [sys.intern(f"name {number}") for number in range(NAMES)]:
        pass


def main():
    from callreel import cli
    from callreel.addresses import Policy
    from callreel.service import host, running
    from callreel.service.prompts import Prompts

    port, os.environ["SOAK_TOLD"], *options = sys.argv[1:]
    allowed = (ipaddress.ip_network("127.0.0.1/32"),)

    def prompts(*given, **others):  # each worker has its own, from its beginning on
        load()
        policy = Policy(schemes=("http",), ports={int(port)}, allowed=allowed)
        return Prompts(policy, *given, **others)

    running.Prompts = prompts
    running.EventStream = partial(running.EventStream, KEPT_EVENTS)
    host.ENDED_KEPT = KEPT_CALLS
    running.COLLECT = COLLECT
    return cli.main(["serve", *options])


if __name__ == "__main__":
    sys.exit(main())
