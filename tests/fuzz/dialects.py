"""A vendor's side of a call: any JSON between what a host does, to each of the three.

The first byte says which vendor and which options of its session, the second how the first leg begins. Then come steps
with zero bytes between them, a letter and what it takes:

    J text    the JSON document as a request; of Microsoft Graph also as a body, and what is no JSON too
    M bytes   the last document once more, three bytes for each change of a member
    A byte    audio for so many packets, with the top bit silence    T byte   time goes by, in steps of 100 ms
    K key     a key is pressed                                       P byte   the host answers a Play or a Perform
    S byte    the host has stored a recording, or could not          L byte   a second participant
    R C H     ringing, answered, hung up: of the leg the byte says   E        the end of the call
    D text    of Microsoft Graph: a download, its path and after a blank its token

Accepted: nothing but the UsageError of a request after the end. Held: every recording that began ends once by the end
of the call; what is to be told is JSON; no event, message or response has the secret of a recording's credentials.
"""

import copy
import json
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from callreel.call import Call
from callreel.dialects.chime import Chime
from callreel.dialects.graph import Graph
from callreel.dialects.sinch import Sinch
from callreel.errors import ActionError, UsageError
from callreel.events import LegStatus, Perform, Play, RecordingFinished, RecordingStarted, VendorMessage
from callreel.kernels import g711, tone

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
CREDENTIALS = f"AKIAIOSFODNN7EXAMPLE:{SECRET}:eu-central-1"
VENDORS = ("chime", "sinch", "graph")
STARTED_AT = datetime(2019, 3, 1, tzinfo=UTC)
LEGS = ("LEG-A", "LEG-B")
STATUSES = (LegStatus.CONNECTED, LegStatus.OFFERED, LegStatus.DIALED)
DEPTH_MAX = 5_000
SPEECH = g711.ulaw_encode(tone.sine(440, seconds=0.02, dbm0=-12))
SILENCE = g711.ulaw_encode(bytes(320))
FAILURES = (
    ActionError("it cannot be had", field="uri"),
    ActionError("it is no WAV file", field="format"),
    ActionError("it failed"),
)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        5,
        300,
        2**31,
        2**63,
        -(10**400),
        1.0,
        1.5,
        1e308,
        float("nan"),
        float("inf"),
    ),
    *(
        "",
        " ",
        "#",
        "0",
        "1",
        "10",
        "-1",
        "LEG-A",
        "LEG-B",
        "call-1",
        "\ud800",
        "\x00",
        "é",
        "x" * 300,
        "x" * 1100,
    ),
    *(
        "S3",
        "BOTH",
        "acme-bucket",
        "bucket/../up",
        "s3://acme-bucket",
        "sdrive://",
        "azure://a/b",
        CREDENTIALS,
    ),
    *([], {}, [[]], ["#"], ["#", "#"], [None], {"": None}, [{}] * 11, {str(n): "x" for n in range(21)}),
)
NAMES = (
    *("SchemaVersion", "Actions", "Type", "Parameters", "CallId", "ParticipantTag", "Track", "Destination"),
    *("Location", "RecordingDestination", "RecordinDestination", "BucketName", "Prefix", "DurationInSeconds"),
    *("SilenceDurationInSeconds", "SilenceThreshold", "RecordingTerminators", "TransactionAttributes"),
    *("Arguments", "DestinationType", "DestinationValue", "MaxDurationInSeconds", "StopRecordingOnDigits"),
    *(
        "event",
        "svaml",
        "callId",
        "callLeg",
        "instructions",
        "action",
        "name",
        "options",
        "record",
        "recording",
    ),
    *("recordingOptions", "destinationUrl", "credentials", "format", "notificationEvents", "conferenceId"),
    *("transcriptionOptions", "enabled", "locale", "key", "value", "method", "path", "content_type", "body"),
    *("prompts", "mediaInfo", "uri", "resourceId", "@odata.type", "bargeInAllowed", "playBeep", "stopTones"),
    *("initialSilenceTimeoutInSeconds", "maxSilenceTimeoutInSeconds", "maxRecordDurationInSeconds"),
    "clientContext",
)
WORDS = (
    *("RecordAudio", "StartCallRecording", "StopCallRecording", "PauseCallRecording", "ResumeCallRecording"),
    *("PlayAudio", "ReceiveDigits", "Hangup", "startRecording", "stopRecording", "say", "connectConf", "ice"),
    *("/app/calls/call-1/record", "/app/calls/call-1/playPrompt", "/app/calls/call-1/cancelMediaProcessing"),
    *("DELETE", "GET", "1.0", "mp3", "wav", *(value for value in VALUES if isinstance(value, str) and value)),
)
DICTIONARY = [
    *(f'"{name}": '.encode() for name in NAMES),
    *(json.dumps(word).encode() for word in WORDS),
    *(
        b"null",
        b"true",
        b"false",
        b"NaN",
        b"1e999",
        b"9223372036854775808",
        b"[[[[",
        b"{}",
        b"[]",
        b'"\\ud800"',
    ),
    *(
        b"\0J",
        b"\0M",
        b"\0A\x20",
        b"\0T\x14",
        b"\0K#",
        b"\0P\0",
        b"\0S\0",
        b"\0L\0",
        b"\0R\0",
        b"\0C\0",
        b"\0H\0",
        b"\0E",
    ),
]


def session(number: int) -> Any:
    """A vendor's side of a call, with the options that the bits above the vendor's say."""
    options, vendor = divmod(number, len(VENDORS))
    first, second, third = (bool(options >> bit & 1) for bit in range(3))
    if VENDORS[vendor] == "chime":
        return Chime(
            record_audio_format="wav",
            checks_access=first,
            strict_pauses=second,
            requires_terminators=third,
        )
    if VENDORS[vendor] == "sinch":
        url = "sdrive://" if second else None
        return Sinch(
            application_key="app-key",
            domain="mxp" if first else "pstn",
            default_destination_url=url,
            callbacks=not third,
        )
    ids, tokens = (f"id-{n}" for n in count(1)), (f"token-{n}" for n in count(1))
    return Graph(
        new_id=ids.__next__,
        new_token=tokens.__next__,
        base_url="https://acme.example",
        revision="current" if first else "seed",
        keep_operations=second,
        max_operations=3,
        media_timeout_s=2 if third else None,
    )


def run(data: bytes) -> None:
    before = sys.getrecursionlimit()
    host = Host(session(data[0] if data else 0), STATUSES[data[1] % len(STATUSES) if len(data) > 1 else 0])
    try:
        for step in data[2:].split(b"\0")[:200]:
            host.step(step[:1], step[1:])
        host.end()
        # What was read within the limit may be a little too deep to be written within it.
        sys.setrecursionlimit(before + DEPTH_MAX)
        host.check()
    finally:
        sys.setrecursionlimit(before)


class Host:
    """A call and what its host knows of it."""

    def __init__(self, vendor: Any, status: LegStatus) -> None:
        self.vendor = vendor
        self.now = 0.0
        self.call = Call("call-1", started_at=STARTED_AT, now=0.0, dialect=vendor)
        self.events: list[Any] = []
        self.responses: list[Any] = []
        self.asked: list[Play | Perform] = []
        self.unstored: list[str] = []
        self.packets = 0
        self.document: Any = {}
        self.told_secret = False
        self.ended = False
        self.add_leg("LEG-A", status)

    def step(self, letter: bytes, given: bytes) -> None:
        number = given[0] if given else 0
        leg = LEGS[number & 1]
        if self.ended and letter not in b"JPSD":
            return
        match letter:
            case b"J":
                for document in documents(given, self.vendor.dialect):
                    self.document = document
                    self.request(document)
            case b"M":
                self.document = changed(self.document, given)
                self.request(self.document)
            case b"A":
                self.hear(number & 0x7F, SILENCE if number & 0x80 else SPEECH)
            case b"T":
                for _ in range(number):
                    self.now += 0.1
                    self.call.handle_timeout(now=self.now)
            case b"K":
                for key in given.decode("latin-1")[:8]:
                    if key in "0123456789*#ABCD":
                        self.call.receive_digit("LEG-A", key, now=self.now)
            case b"P" if self.asked:
                self.answer(self.asked[(number >> 4) % len(self.asked)], number & 15)
            case b"S" if self.unstored:
                error = "it is full" if number & 1 else None
                self.call.stored(self.unstored.pop(0), now=self.now, error=error)
            case b"L" if "LEG-B" not in self.call.legs:
                self.add_leg("LEG-B", STATUSES[number % len(STATUSES)])
            case b"R" | b"C" | b"H" if leg in self.call.legs:
                if letter == b"H":
                    self.call.hang_up(
                        leg, now=self.now, sip_response_code=(0, 480, 486, 487)[number >> 1 & 3]
                    )
                else:
                    (self.call.ringing if letter == b"R" else self.call.answered)(leg, now=self.now)
            case b"D" if isinstance(self.vendor, Graph):
                path, _, token = given.decode("utf-8", "surrogateescape").partition(" ")
                at = STARTED_AT + timedelta(seconds=self.now)
                download = self.vendor.authorize_download(path, token or None, at)
                assert download.status in (200, 401, 404, 410)
                assert (download.status == 200) == (download.recording_id is not None)
            case b"E":
                self.end()
        self.drain()

    def add_leg(self, name: str, status: LegStatus) -> None:
        inbound = status is not LegStatus.DIALED
        call_id = f"call-id-{LEGS.index(name) + 1}"
        self.call.add_leg(
            name, call_id=call_id, status=status, inbound=inbound, detect_digits=False, now=self.now
        )
        self.drain()

    def request(self, document: Any) -> None:
        if self.ended:
            try:
                self.call.request(document, now=self.now)
            except UsageError:
                return
            raise AssertionError("a request after the end of the call")
        self.told_secret |= tells(document)
        self.responses.append(self.call.request(document, now=self.now))

    def hear(self, packets: int, payload: bytes) -> None:
        for _ in range(packets):
            header = struct.pack("!BBHII", 0x80, 0, self.packets & 0xFFFF, 160 * self.packets & 0xFFFFFFFF, 1)
            self.packets += 1
            self.now += 0.02
            self.call.receive_rtp("LEG-A", header + payload, now=self.now)
            if self.packets % 10 == 0:
                self.call.handle_timeout(now=self.now)

    def answer(self, event: Play | Perform, how: int) -> None:
        error = FAILURES[how % len(FAILURES)] if how > 11 else None
        if isinstance(event, Play):
            self.call.played(event.action_id, now=self.now, error=error)
        else:
            result = {"ReceivedDigits": "1"} if how & 1 else None
            self.call.performed(event.action_id, now=self.now, error=error, result=result)

    def end(self) -> None:
        if not self.ended:
            self.call.end(now=self.now)
            self.ended = True
            self.drain()
        for recording_id in self.unstored:
            self.call.stored(recording_id, now=self.now)
        self.unstored = []
        self.drain()

    def drain(self) -> None:
        self.call.writes()
        for event in self.call.events():
            self.events.append(event)
            if isinstance(event, Play | Perform):
                self.asked.append(event)
            elif isinstance(event, RecordingFinished) and event.deliver:
                self.unstored.append(event.recording_id)

    def check(self) -> None:
        started = Counter(one.recording_id for one in self.events if isinstance(one, RecordingStarted))
        finished = Counter(one.recording_id for one in self.events if isinstance(one, RecordingFinished))
        assert started == finished
        assert all(number == 1 for number in started.values())
        told = [repr(event) for event in self.events]
        for event in self.events:
            if isinstance(event, VendorMessage):
                assert event.kind in ("invocation", "notification")
                told.append(json.dumps(event.body, ensure_ascii=False))
            elif isinstance(event, RecordingFinished):
                told.append(json.dumps([event.manifest, dict(event.metadata)], ensure_ascii=False))
        for response in self.responses:
            if response is not None:
                assert 200 <= response.status < 600
                assert all(isinstance(part, str) for header in response.headers.items() for part in header)
                told.append(json.dumps(response.body, ensure_ascii=False))
        if self.vendor.dialect == "sinch" and not self.told_secret:  # the others have no credentials
            assert not any(SECRET in text for text in told)


def documents(text: bytes, dialect: str) -> Iterator[Any]:
    """What a request may be that was this text."""
    if dialect == "graph":
        yield {"path": "/app/calls/call-1/record", "body": text}
    try:
        yield json.loads(text)
    except (ValueError, RecursionError):
        return


def members(value: Any) -> list[tuple[Any, Any]]:
    """Every member of every object and list: what holds it, and its name or number."""
    found, waiting = [], [value]
    while waiting and len(found) < 1000:
        one = waiting.pop(0)
        names = list(one) if isinstance(one, dict) else list(range(len(one))) if isinstance(one, list) else []
        found += [(one, name) for name in names]
        waiting += [one[name] for name in names]
    return found


def changed(document: Any, how: bytes) -> Any:
    """A copy with a member replaced, taken out, joined by another or by a copy, for each three bytes."""
    try:
        document = copy.deepcopy(document)
    except RecursionError:
        return document
    for which, kind, what in struct.iter_unpack("BBB", how[: len(how) // 3 * 3]):
        found = members(document)
        if not found:
            return copy.deepcopy(VALUES[what % len(VALUES)])
        holder, name = found[which % len(found)]
        value = copy.deepcopy(VALUES[what % len(VALUES)])
        match kind % 5:
            case 0:
                holder[name] = value
            case 1:
                del holder[name]
            case 2 if isinstance(holder, dict):
                holder[NAMES[what % len(NAMES)]] = holder[name]
            case 3 if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[name]))
            case 3:
                holder[name] = [holder[name]]
            case _:
                holder[name] = WORDS[what % len(WORDS)]
    return document


def tells(document: Any) -> bool:
    """Whether the secret stands where no secret belongs: then it may be told again."""
    found = [
        (name, holder[name])
        for holder, name in members({"document": document})
        if isinstance(holder[name], str) and SECRET in holder[name]
    ]
    keys = any(SECRET in name for _, name in members(document) if isinstance(name, str))
    return keys or any(name != "credentials" for name, _ in found)
