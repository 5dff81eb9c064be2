"""A recording whose process has died is told to the vendor's customer by the next one, in the vendor's words."""

import subprocess
import sys

import pytest

import worded_host
from callreel.delivery.folder import Folder
from callreel.notify.functions import PythonFunction
from callreel.recorder import Recorder, Settings, TakeEnded
from worded_host import BUCKET, CALL_ID, CONTEXT, RECORD_AUDIO


def kill_host(spool, dialect, until, *key_file):
    """Let a host record and kill it."""
    arguments = [sys.executable, worded_host.__file__, str(spool), dialect, until, *map(str, key_file)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout.readline() == f"{until}\n"
        host.kill()


def recover(spool, store, told, key_file=None):
    """The terminal event; what the customer is told goes to `told`."""
    function = PythonFunction(told.append)
    options = {"store_for": lambda _, key: (store, key), "notifier_for": lambda message: function}
    with Recorder(Settings(spool, key_file=key_file), **options) as recorder:
        assert recorder.drain(15.0)
        (event,) = (event for event in recorder.events() if isinstance(event, TakeEnded))
    return event


def bodies(told, dialect):
    assert all((one.call_id, one.dialect, one.kind) == (CALL_ID, dialect, "notification") for one in told)
    assert len({one.id for one in told}) == len(told)
    return [one.body for one in told]


@pytest.mark.parametrize("until", ["running", "finished"])
def test_chime_is_told_the_result_of_record_audio(tmp_path, until):
    kill_host(tmp_path / "spool", "chime", until)
    told = []
    event = recover(tmp_path / "spool", Folder(tmp_path / "out"), told)
    assert (event.error, event.end_reason) == (None, "recovered" if until == "running" else "terminator")
    (body,) = bodies(told, "chime")
    assert body["InvocationEventType"] == "ACTION_SUCCESSFUL"
    data = body["ActionData"]
    assert (data["Type"], data["Parameters"]) == ("RecordAudio", RECORD_AUDIO)
    assert data["RecordingDestination"] == {"Type": "S3", "BucketName": BUCKET, "Key": event.key}
    assert data.get("RecordingTerminatorUsed") == (None if until == "running" else "#")
    details = body["CallDetails"]
    assert details["SipMediaApplicationId"] == "sma-1"
    assert [(one["CallId"], one["Status"]) for one in details["Participants"]] == [(CALL_ID, "Disconnected")]


@pytest.mark.parametrize("until", ["running", "finished"])
def test_sinch_is_told_what_it_was_not_told_of_a_recording(tmp_path, until):
    kill_host(tmp_path / "spool", "sinch", until)
    told = []
    event = recover(tmp_path / "spool", Folder(tmp_path / "out"), told)
    assert event.error is None
    found = bodies(told, "sinch")
    kinds = ["recording_finished", "recording_available"]
    assert [body["type"] for body in found] == kinds[until == "finished" :]
    assert all((body["callid"], body["custom"], body["version"]) == (CALL_ID, "mine", 1) for body in found)
    assert found[-1]["destination"] == f"s3://{BUCKET}/{event.key}"


@pytest.mark.parametrize("until", ["running", "finished"])
def test_graph_is_told_that_the_operation_has_failed(tmp_path, until):
    kill_host(tmp_path / "spool", "graph", until)
    told = []
    assert recover(tmp_path / "spool", Folder(tmp_path / "out"), told).error is None
    (body,) = bodies(told, "graph")
    (notification,) = body["value"]
    assert notification["changeType"] == "deleted"
    operation = notification["resourceData"]
    assert (operation["status"], operation["resultInfo"]["code"]) == ("failed", 500)
    assert operation["clientContext"] == CONTEXT
    assert not operation["recordingLocation"]
    assert not operation["recordingAccessToken"]


@pytest.mark.parametrize(("dialect", "word"), [("chime", "ACTION_FAILED"), ("sinch", "callingerror")])
def test_what_cannot_be_delivered_is_told_as_failed_and_only_once(tmp_path, dialect, word):
    kill_host(tmp_path / "spool", dialect, "running")
    audio, *others = (tmp_path / "spool" / "takes").glob("*/audio.wav")
    assert not others
    audio.write_bytes(b"")
    told = []
    event = recover(tmp_path / "spool", Folder(tmp_path / "out"), told)
    assert event.error
    last = bodies(told, dialect)[-1]
    assert word in (last.get("InvocationEventType"), last.get("type"))
    with Recorder(
        Settings(tmp_path / "spool"), notifier_for=lambda message: pytest.fail("told again")
    ) as recorder:
        assert recorder.drain(15.0)


def test_who_dies_before_it_has_told_is_told_for_under_the_same_id(tmp_path, monkeypatch):
    kill_host(tmp_path / "spool", "sinch", "finished")
    told = []
    with monkeypatch.context() as patch:
        # The message is sent; that the take is told of does not reach the disk.
        patch.setattr("callreel.recorder.progress.Progress._end", lambda *_: None)
        function = PythonFunction(told.append)
        store = Folder(tmp_path / "out")
        options = {"store_for": lambda _, key: (store, key), "notifier_for": lambda message: function}
        with Recorder(Settings(tmp_path / "spool"), **options) as recorder:
            while not told:
                next(recorder.events(0.1), None)
    recover(tmp_path / "spool", Folder(tmp_path / "out"), told)
    assert len(told) == 2
    assert told[0].id == told[1].id


def test_words_are_sealed_with_the_recording(tmp_path):
    key_file = tmp_path / "key"
    key_file.write_bytes(bytes(range(32)))
    key_file.chmod(0o600)
    kill_host(tmp_path / "spool", "graph", "finished", key_file)
    (about,) = (tmp_path / "spool" / "takes").glob("*/about.json")
    assert CONTEXT not in about.read_text()
    told = []
    recover(tmp_path / "spool", Folder(tmp_path / "out"), told, key_file)
    (body,) = bodies(told, "graph")
    assert body["value"][0]["resourceData"]["clientContext"] == CONTEXT
