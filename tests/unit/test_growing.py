"""Long recordings are sent while they run: what is there early, what is sent again, and what nobody is to have."""

import io
import shutil
import time

import numpy as np
import pytest
import soundfile

from callreel.actions import EndReason, StartRecording
from callreel.delivery.s3 import S3, Upload
from callreel.dialects.chime import Chime
from callreel.dialects.sinch import Sinch
from callreel.errors import DeliveryInterruptedError
from callreel.recorder import Recorder, Settings, office
from callreel.spool import Limits
from fault_proxy import Answer, FaultProxy
from recording_host import ended

MIB = 1 << 20
RATE = 8000
STEP_S = 1.0
ENOUGH_S = 340.0
"""Of stereo: more than two parts of 5 MiB and five seconds."""
KEY = "long.wav"


class Hand:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(office, "RETIRE_EVERY_S", 0.02)


@pytest.fixture
def bucket(s3_server):
    return s3_server.bucket()


def open_recorder(spool, store, clock):
    patient = Limits(take_s=600.0)  # of a call that comes a hundred times too fast
    return Recorder(Settings(spool, limits=patient), store_for=lambda _, key: (store, KEY), clock=clock)


def begin(recorder, session=None, action=StartRecording()):  # noqa: B008  (a tuple)
    """A call that is recorded; Sinch stores nothing beside its objects."""
    call = recorder.add_call("c-1", dialect=session or Sinch())
    call.add_leg(host_frames=True, detect_digits=False)
    call.start_recording(action)
    return call


def talk(call, clock, seconds, seed=1):
    """Noise both ways, faster than it can be said."""
    chance = np.random.default_rng(seed)
    for _ in range(round(seconds / STEP_S)):
        clock.now += STEP_S
        for direction in ("incoming", "outgoing"):
            frames = chance.integers(-9000, 9000, round(RATE * STEP_S), dtype=np.int16)
            call.receive_pcm("LEG-A", frames, sample_rate=RATE, direction=direction)
        call.step(clock.now)


def until(condition, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def parts_there(s3_server, bucket):
    client = s3_server.client()
    found = []
    for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()):
        listed = client.list_parts(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        found += [part["PartNumber"] for part in listed.get("Parts", ())]
    return found


def sent_through(proxy):
    return [target.partition("partNumber=")[2][:1] for _, target in proxy.seen if "partNumber=" in target]


def is_whole(event, s3_server, bucket):
    stored = s3_server.objects(bucket)[KEY]
    assert len(stored) == event.manifest["bytes"]
    assert soundfile.info(io.BytesIO(stored)).frames == event.manifest["frames"]
    return stored


def test_parts_of_a_long_recording_are_there_before_it_ends_and_are_not_sent_again(
    tmp_path, s3_server, bucket
):
    proxy = FaultProxy(s3_server.port)
    clock = Hand()
    store = S3(s3_server.settings(bucket, endpoint_url=proxy.endpoint, part_bytes=5 * MIB))
    with open_recorder(tmp_path, store, clock) as recorder:
        call = begin(recorder)
        talk(call, clock, ENOUGH_S)
        until(lambda: parts_there(s3_server, bucket) == [2])
        assert s3_server.objects(bucket) == {}
        call.end()
        (event,) = ended(recorder)
    is_whole(event, s3_server, bucket)
    assert event.manifest["degraded"] is False
    assert sent_through(proxy) == ["2", "3", "1"]
    assert s3_server.unfinished(bucket) == []
    proxy.close()


def test_a_part_that_was_not_final_when_it_was_sent_is_sent_again(tmp_path, s3_server, bucket, monkeypatch):
    clock = Hand()
    store = S3(s3_server.settings(bucket, part_bytes=5 * MIB))
    truly = Upload.part
    with open_recorder(tmp_path, store, clock) as recorder, monkeypatch.context() as patched:
        patched.setattr(Upload, "part", lambda self, number, data: truly(self, number, bytes(len(data))))
        call = begin(recorder)
        talk(call, clock, ENOUGH_S)
        until(lambda: parts_there(s3_server, bucket) == [2])
        patched.undo()
        patched.setattr(office, "RETIRE_EVERY_S", 0.02)
        call.end()
        (event,) = ended(recorder)
    audio, _ = soundfile.read(io.BytesIO(is_whole(event, s3_server, bucket)), dtype="int16", always_2d=True)
    middle = audio[6 * MIB // 4 : 9 * MIB // 4]
    assert (middle != 0).mean() > 0.9


def test_an_upload_of_a_process_that_died_is_gone_on_with(tmp_path, s3_server, bucket):
    def is_dead(*_arguments, **_options):
        raise DeliveryInterruptedError("the process is dead", retryable=True)

    clock = Hand()
    store = S3(s3_server.settings(bucket, part_bytes=5 * MIB))
    with open_recorder(tmp_path / "spool", store, clock) as recorder:
        call = begin(recorder)
        talk(call, clock, ENOUGH_S)
        until(lambda: parts_there(s3_server, bucket) == [2])
        until(lambda: b"upload_id" in next((tmp_path / "spool").rglob("journal.jsonl")).read_bytes())
        shutil.copytree(tmp_path / "spool", tmp_path / "left")
        store.call = is_dead
    proxy = FaultProxy(s3_server.port)
    again = S3(s3_server.settings(bucket, endpoint_url=proxy.endpoint, part_bytes=5 * MIB))
    with open_recorder(tmp_path / "left", again, clock) as recorder:
        (event,) = ended(recorder)
    assert event.end_reason == "recovered"
    is_whole(event, s3_server, bucket)
    assert sent_through(proxy) == ["3", "1"]
    assert s3_server.unfinished(bucket) == []
    proxy.close()


def test_a_recording_that_is_called_off_leaves_no_upload(tmp_path, s3_server, bucket):
    clock = Hand()
    store = S3(s3_server.settings(bucket, part_bytes=5 * MIB))
    with open_recorder(tmp_path, store, clock) as recorder:
        call = begin(recorder, action=StartRecording(undelivered=frozenset({EndReason.HANGUP})))
        talk(call, clock, ENOUGH_S)
        until(lambda: parts_there(s3_server, bucket) == [2])
        call.end()
        (event,) = ended(recorder)
        assert (event.location, event.error) == (None, None)
        until(lambda: s3_server.unfinished(bucket) == [])
    assert s3_server.objects(bucket) == {}


def test_a_store_that_fails_while_it_runs_has_the_file_when_it_has_ended(tmp_path, s3_server, bucket, caplog):
    proxy = FaultProxy(s3_server.port)
    clock = Hand()
    store = S3(s3_server.settings(bucket, endpoint_url=proxy.endpoint, part_bytes=5 * MIB))
    with open_recorder(tmp_path, store, clock) as recorder:
        call = begin(recorder)
        proxy.reset(always=Answer(503))
        talk(call, clock, ENOUGH_S)
        until(lambda: "is not sent yet" in caplog.text)
        proxy.reset()
        call.end()
        (event,) = ended(recorder)
    is_whole(event, s3_server, bucket)
    proxy.close()


@pytest.mark.parametrize("session", [Chime(checks_access=False), None])
def test_what_is_stored_with_its_duration_waits_for_its_end(tmp_path, s3_server, bucket, session):
    clock = Hand()
    store = S3(s3_server.settings(bucket, part_bytes=5 * MIB))
    with open_recorder(tmp_path, store, clock) as recorder:
        call = recorder.add_call("c-1", dialect=session)
        call.add_leg(host_frames=True, detect_digits=False)
        call.start_recording(StartRecording())
        talk(call, clock, ENOUGH_S)
        time.sleep(0.3)
        assert s3_server.unfinished(bucket) == []
        call.end()
        (event,) = ended(recorder)
    is_whole(event, s3_server, bucket)
