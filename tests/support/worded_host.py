"""A host that is killed while, or after, it records what a vendor's customer has asked for.

python worded_host.py SPOOL DIALECT running|finished [KEY_FILE]

It says "running" when the recording has begun and half a second of it is spooled, or "finished" when all of it is, and
its destination is down.
"""

import sys
import threading
import time
from itertools import count
from pathlib import Path

from callreel.dialects.chime import Chime
from callreel.dialects.graph import Graph
from callreel.dialects.sinch import Sinch
from callreel.events import Play, RecordingStarted
from callreel.recorder import Recorder, Settings
from recording_host import Clock, Unreliable, feed

CALL_ID = "c-1"
BUCKET = "acme-calls"

RECORD_AUDIO = {
    "CallId": CALL_ID,
    "DurationInSeconds": "60",
    "SilenceDurationInSeconds": "60",
    "SilenceThreshold": "200",
    "RecordingTerminators": ["#"],
    "RecordingDestination": {"Type": "S3", "BucketName": BUCKET, "Prefix": "said"},
}
CONTEXT = "order 4711"

DOCUMENTS = {
    "chime": {"SchemaVersion": "1.0", "Actions": [{"Type": "RecordAudio", "Parameters": RECORD_AUDIO}]},
    "sinch": {
        "callId": CALL_ID,
        "svaml": {
            "instructions": [{"name": "startRecording", "options": {"notificationEvents": True}}],
            "action": {"name": "continue"},
        },
    },
    "graph": {
        "path": f"/app/calls/{CALL_ID}/record",
        "body": {
            "playBeep": False,
            "maxRecordDurationInSeconds": 60,
            "initialSilenceTimeoutInSeconds": 60,
            "maxSilenceTimeoutInSeconds": 60,
            "stopTones": ["#"],
            "clientContext": CONTEXT,
        },
    },
}


def session_of(dialect):
    match dialect:
        case "chime":
            return Chime(sip_media_application_id="sma-1")
        case "sinch":
            return Sinch(default_destination_url=f"s3://{BUCKET}/said", callbacks=False, custom="mine")
    return Graph(
        new_id=(f"id-{number}" for number in count(1)).__next__,
        new_token=(f"no-secret-{number}" for number in count(1)).__next__,
        base_url="https://calls.example",
    )


def main() -> None:
    spool, dialect, until, *key_file = sys.argv[1:]
    clock = Clock()
    down = Unreliable(Path(spool) / "down", is_down=True)
    recorder = Recorder(
        Settings(Path(spool), key_file=Path(*key_file) if key_file else None),
        clock=clock,
        store_for=lambda _, key: (down, key),
    )
    call = recorder.add_call(CALL_ID, dialect=session_of(dialect))
    call.add_leg(call_id=CALL_ID)
    call.request(DOCUMENTS[dialect])
    has_begun = threading.Event()

    def hear() -> None:
        while True:
            for event in recorder.events(0.1):
                match event:
                    case Play():
                        call.played(event.action_id)
                    case RecordingStarted():
                        has_begun.set()

    threading.Thread(target=hear, daemon=True).start()
    feed(call, clock, 0.8)
    assert has_begun.wait(10.0)
    if until == "finished":
        if dialect == "sinch":
            call.stop_recording()
        else:
            call.receive_digit("LEG-A", "#")
        feed(call, clock, 0.3, first=40)
        while not down.tries:
            time.sleep(0.01)
    print(until, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
