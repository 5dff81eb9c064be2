"""A host that is killed: records calls from standard input's word on, and says when each has begun.

python killed_host.py SPOOL OUT CALLS SECONDS
"""

import sys
import threading
from pathlib import Path

from callreel.actions import StartRecording
from callreel.recorder import Recorder, Settings
from recording_host import Clock, feed


def main() -> None:
    spool, out, calls, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    clock = Clock()
    recorder = Recorder(Settings(Path(spool), destination=out), clock=clock)
    for number in range(calls):
        call = recorder.add_call(f"c-{number}")
        call.add_leg()
        call.start_recording(StartRecording())
        threading.Thread(target=talk, args=(call, clock, seconds, number), daemon=True).start()
    print("running", flush=True)
    threading.Event().wait()


def talk(call, clock, seconds, number):
    start = clock()
    feed(call, clock, seconds, seed=number)
    print("ended", number, round(clock() - start, 2), flush=True)
    call.end()


if __name__ == "__main__":
    main()
