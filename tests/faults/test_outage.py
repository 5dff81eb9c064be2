"""A destination that is down for ten minutes while recordings come in: all of them are there afterwards, once."""

import hashlib
import random
import threading
import time
from collections import Counter

from callreel.actions import StartRecording
from callreel.notify.functions import PythonFunction
from callreel.recorder import Recorder, Settings, TakeEnded
from callreel.spool import Limits
from fault_proxy import Answer, Cut, FaultProxy, LoseAnswer, Slow
from recording_host import Clock, WallClock, feed

MEDIA_SPEED = 20.0
OUTAGE_S = 600.0
"""By the clock of the office, which is faster than the world's."""
WAYS_DOWN = (
    Cut(),
    Answer(503),
    Answer(503, (("Retry-After", "20"),)),
    Answer(500),
    Slow(3.0),
    Cut(after_bytes=2000),
)


def record_some(recorder, clock, names, seconds):
    for name in names:
        call = recorder.add_call(name)
        call.add_leg()
        call.start_recording(StartRecording())
        feed(call, clock, seconds, seed=int(name.removeprefix("call-")))
        call.end()


def test_ten_minutes_without_a_destination_lose_nothing_and_double_nothing(
    s3_server, tmp_path, scale, seeds, figures
):
    takes, real_s = scale((500, 9.0), (2500, 60.0))
    chance = random.Random(seeds("outage"))
    bucket, proxy = s3_server.bucket(), FaultProxy(s3_server.port)
    s3 = s3_server.settings(bucket, endpoint_url=proxy.endpoint, connect_timeout_s=1.0, read_timeout_s=1.0)
    settings = Settings(
        tmp_path / "spool",
        destination=f"s3://{bucket}/calls",
        s3=s3,
        limits=Limits(take_s=3.0 * MEDIA_SPEED),
    )
    told = Counter()
    wall, clock = WallClock(OUTAGE_S / real_s), Clock(MEDIA_SPEED)
    proxy.reset(always=WAYS_DOWN[0])
    names = [f"call-{number}" for number in range(takes)]
    ends, most_waiting = [], 0
    with Recorder(
        settings, clock=clock, wall_clock=wall, events=PythonFunction(lambda one: told.update([one.id]))
    ) as recorder:
        threads = [
            threading.Thread(target=record_some, args=(recorder, clock, names[n::8], 1.0)) for n in range(8)
        ]
        for thread in threads:
            thread.start()
        turn = 0
        while wall.passed_s() < OUTAGE_S or any(thread.is_alive() for thread in threads):
            if wall.passed_s() > (turn + 1) * OUTAGE_S / len(WAYS_DOWN) and turn + 1 < len(WAYS_DOWN):
                turn += 1
                proxy.reset(always=WAYS_DOWN[turn])
            recorder._office.wake()  # its thread waits by the world's clock
            ends += [event for event in recorder.events() if isinstance(event, TakeEnded)]
            most_waiting = max(most_waiting, recorder.unfinished)
            time.sleep(0.05)
        assert not ends
        down_s = wall.passed_s()
        # It is there again, but not every answer comes back.
        lost = {number: LoseAnswer() for number in range(300) if chance.random() < 0.1}
        proxy.reset(lost)
        began = time.monotonic()
        while len(ends) < takes or recorder.unfinished:
            recorder._office.wake()
            ends += [event for event in recorder.events() if isinstance(event, TakeEnded)]
            assert time.monotonic() - began < 120, f"{len(ends)} of {takes}, {recorder.unfinished} left"
            time.sleep(0.02)
        emptied_s = time.monotonic() - began
    proxy.close()
    client = s3_server.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [one["Key"] for page in pages for one in page["Contents"]]
    bodies = {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}
    stored = {key: hashlib.sha256(body).hexdigest() for key, body in bodies.items()}
    assert [event.error for event in ends] == [None] * takes
    assert sorted(event.call_id for event in ends) == sorted(names)
    assert sorted(told) == sorted(f"end:{event.take_id}" for event in ends)
    assert {f"calls/{event.key}": event.manifest["sha256"] for event in ends} == stored
    assert len(stored) == takes
    assert s3_server.unfinished(bucket) == []
    for left in ("spool/queue/waiting", "spool/queue/dead", "spool/takes"):
        assert list((tmp_path / left).iterdir()) == []
    figures(
        f"destination down for {down_s:.0f} s of the office's clock: {takes} takes, at most {most_waiting} things "
        f"waited, {len(stored)} delivered with their checksums, {len(lost)} answers lost, "
        f"queue empty {emptied_s:.1f} s after it was back"
    )
