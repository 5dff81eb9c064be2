"""`callreel record --destination` and `callreel recover`: to a real bucket, and out of a real spool."""

import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile

import capture_writer as writer
import worded_host
from callreel import cli
from callreel.recorder import Recorder, Settings, making
from callreel.spool import Limits
from callreel.spool_files import FolderLock
from capture_writer import rtp_packet
from recording_host import Clock, Unreliable, ended, record
from s3_server import ADMIN, REGION

HERE = Path(__file__).parents[1] / "support"


def calls(seconds=1.0):
    """A capture of a call both ways."""
    alice, bob = ("10.0.0.1", 4000), ("10.0.0.2", 6000)
    packets = []
    for source, destination, ssrc in ((alice, bob, 1), (bob, alice, 2)):
        for number in range(round(seconds * 50)):
            wire = rtp_packet(bytes([0x90 + ssrc]) * 160, number, 160 * number, ssrc=ssrc)
            packets.append((number * 0.02, source, destination, wire))
    return sorted(packets, key=lambda packet: packet[0])


@pytest.fixture
def capture(tmp_path):
    path = tmp_path / "call.pcap"
    path.write_bytes(writer.capture(calls()))
    return path


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ADMIN.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ADMIN.secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    def run(*arguments):
        status = cli.main([str(one) for one in arguments])
        return status, *capsys.readouterr()

    return run


# ---- record ----


def test_a_recording_is_in_the_bucket_with_the_metadata_of_the_vendor(run, capture, s3_server, tmp_path):
    bucket = s3_server.bucket()
    where = ("--destination", f"s3://{bucket}/calls", "--endpoint-url", s3_server.endpoint)
    status, out, err = run("record", capture, *where, "--json")
    assert (status, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    (location,) = (line["location"] for line in lines if line.get("event") == "delivered")
    (manifest,) = (line for line in lines if "version" in line)
    key = location.removeprefix(f"s3://{bucket}/")
    assert key.startswith("calls/Amazon-Chime-SMA-Call-Recordings/")
    stored = s3_server.client().get_object(Bucket=bucket, Key=key)
    body = stored["Body"].read()
    assert hashlib.sha256(body).hexdigest() == manifest["sha256"]
    assert soundfile.info(io.BytesIO(body)).frames == manifest["frames"] == 8000
    assert stored["ContentType"] == "audio/wav"
    assert stored["Metadata"] == {
        "transaction-id": manifest["transaction_id"],
        "call-id": manifest["call_id"],
        "recording-duration": "1",
        "recording-audio-file-format": "audio/wav",
    }
    # Once more it is the same recording of the same call: nothing is stored twice, and nothing is amiss.
    assert run("record", capture, *where)[0] == 0
    assert s3_server.client().list_objects_v2(Bucket=bucket)["KeyCount"] == 1


def test_files_are_kept_where_a_folder_is_named_and_nowhere_else(
    run, capture, s3_server, tmp_path, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    bucket = s3_server.bucket()
    where = ("--destination", f"s3://{bucket}", "--endpoint-url", s3_server.endpoint)
    status, out, _ = run("record", capture, *where)
    assert status == 0
    assert f"delivered: s3://{bucket}/Amazon-Chime-SMA-Call-Recordings/" in out
    assert not list((tmp_path / "temporary").iterdir())
    assert run("record", capture, *where, "--out", tmp_path / "out")[0] == 0
    assert len(list((tmp_path / "out").rglob("*.wav"))) == 1


def test_what_cannot_be_delivered_is_kept_and_the_reason_is_said(
    run, capture, s3_server, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    where = ("--destination", "s3://no-such-bucket-here", "--endpoint-url", s3_server.endpoint)
    status, _, err = run("record", capture, *where)
    assert status == 1
    assert "there is no such destination" in err
    (kept,) = (
        line.removeprefix("callreel: what was not delivered is kept in ") for line in err.splitlines()[1:]
    )
    assert len(list(Path(kept).rglob("*.wav"))) == 1


def test_a_folder_may_be_the_destination(run, capture, tmp_path):
    status, out, _ = run("record", capture, "--destination", tmp_path / "shelf")
    assert status == 0
    (file,) = (tmp_path / "shelf").rglob("*.wav")
    assert f"delivered: {file.as_uri()}" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--destination", "s3://"), "not a bucket"),
        (("--destination", "s3:///x"), "not a bucket"),
    ],
)
def test_a_destination_that_is_none_is_wrong_usage(run, capture, arguments, words):
    status, _, err = run("record", capture, *arguments)
    assert status == 2
    assert words in err


# ---- settings ----


@pytest.fixture
def config(tmp_path):
    def config(text):
        path = tmp_path / "callreel.toml"
        path.write_text(text)
        return path

    return config


def test_a_file_says_where_recordings_go_and_how(run, capture, s3_server, config):
    bucket = s3_server.bucket()
    path = config(
        f"[delivery]\ndestination = 's3://{bucket}/of-the-file'\n[s3]\nendpoint_url = '{s3_server.endpoint}'\n"
        "tags = {team = 'support'}\n"
    )
    status, out, err = run("record", capture, "--config", path)
    assert (status, err) == (0, "")
    assert f"delivered: s3://{bucket}/of-the-file/" in out
    (key,) = s3_server.objects(bucket)
    assert s3_server.client().get_object_tagging(Bucket=bucket, Key=key)["TagSet"] == [
        {"Key": "team", "Value": "support"}
    ]
    status, out, _ = run("record", capture, "--config", path, "--destination", f"s3://{bucket}/of-the-option")
    assert f"delivered: s3://{bucket}/of-the-option/" in out


def test_the_environment_says_so_too_unless_a_folder_is_all_that_was_asked_for(
    run, capture, tmp_path, monkeypatch
):
    monkeypatch.setenv("CALLREEL_DELIVERY_DESTINATION", str(tmp_path / "shelf"))
    assert run("record", capture, "--out", tmp_path / "out")[0] == 0
    assert not (tmp_path / "shelf").exists()
    assert run("record", capture)[0] == 0
    assert len(list((tmp_path / "shelf").rglob("*.wav"))) == 1
    monkeypatch.setenv("CALLREEL_DELIVERY_CARRIERS", "none")
    assert run("record", capture, "--out", tmp_path / "other")[0] == 0


@pytest.mark.parametrize("command", ["record", "recover", "config"])
def test_settings_that_are_wrong_are_wrong_usage_line_by_line(run, capture, config, command):
    path = config("[spool]\nfolder = 'x'\nfsync = 'no'\n[delivery]\nmaker = 3\n")
    status, out, err = run(command, *([capture] if command == "record" else []), "--config", path)
    assert (status, out) == (2, "")
    assert err == (
        f"callreel: {path}: [delivery] maker: there is no such setting; did you mean makers?\n"
        f'callreel: {path}: [spool] fsync is "no"; allowed: "none", "interval", "always"; did you mean "none"?\n'
    )


def test_a_capture_is_not_delivered_in_the_clear_where_encryption_is_asked_for(
    run, capture, config, tmp_path
):
    (tmp_path / "key").write_bytes(bytes(32))
    (tmp_path / "key").chmod(0o600)
    path = config("[delivery]\ndestination = 'shelf'\n[encryption]\nkey_file = 'key'\n")
    status, _, err = run("record", capture, "--config", path)
    assert status == 2
    assert "[encryption] is for a recorder's recordings" in err
    assert not (tmp_path / "shelf").exists()


def test_recover_takes_the_spool_and_all_else_from_a_file(run, config, tmp_path):
    path = config("[spool]\nfolder = 'spool'\n[delivery]\ndestination = 'out'\n")
    clock = Clock(10)
    store = Unreliable(tmp_path / "elsewhere", is_down=True)
    with Recorder(
        Settings(tmp_path / "spool"), store_for=lambda _, key: (store, key), clock=clock
    ) as recorder:
        record(recorder, clock, "c-1", 0.5)
    status, out, err = run("recover", "--config", path)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "1 delivered, 0 failed, 0 left in the spool"
    assert list((tmp_path / "out").rglob("*.wav"))


def test_recover_without_a_spool_says_how_to_name_one(run):
    status, _, err = run("recover")
    assert status == 2
    assert err == "callreel: [spool] folder is not set: neither in a file nor as CALLREEL_SPOOL_FOLDER\n"


# ---- recover ----


def test_a_killed_recording_is_brought_back_and_delivered(run, s3_server, tmp_path):
    bucket = s3_server.bucket()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    child = subprocess.Popen(
        [sys.executable, HERE / "killed_host.py", tmp_path / "spool", tmp_path / "out", "2", "60"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert child.stdout.readline() == "running\n"
    time.sleep(1.0)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    where = ("--destination", f"s3://{bucket}", "--endpoint-url", s3_server.endpoint)
    status, out, err = run("recover", "--spool", tmp_path / "spool", *where)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "2 delivered, 0 failed, 0 left in the spool"
    assert all("  recovered  s3://" in line for line in out.splitlines()[:-1])
    for stored in s3_server.client().list_objects_v2(Bucket=bucket)["Contents"]:
        body = s3_server.client().get_object(Bucket=bucket, Key=stored["Key"])["Body"].read()
        assert soundfile.info(io.BytesIO(body)).duration >= 0.8
    assert (
        run("recover", "--spool", tmp_path / "spool", *where)[1]
        == "0 delivered, 0 failed, 0 left in the spool\n"
    )


def test_what_a_destination_that_is_down_does_not_take_stays_in_the_spool(run, tmp_path):
    clock = Clock(10)
    store = Unreliable(tmp_path / "out", is_down=True)
    with Recorder(
        Settings(tmp_path / "spool"), store_for=lambda _, key: (store, key), clock=clock
    ) as recorder:
        record(recorder, clock, "c-1", 0.5)
    nowhere = ("--destination", "s3://bucket", "--endpoint-url", "http://127.0.0.1:9")
    status, out, _ = run("recover", "--spool", tmp_path / "spool", *nowhere, "--wait", "0.5")
    assert (status, out) == (1, "0 delivered, 0 failed, 1 left in the spool\n")
    status, out, _ = run(
        "recover", "--spool", tmp_path / "spool", "--destination", tmp_path / "out", "--json"
    )
    (event,) = (json.loads(line) for line in out.splitlines())
    assert (status, event["event"], event["call_id"]) == (0, "take_ended", "c-1")
    assert Path(event["location"].removeprefix("file://")).exists()


def test_the_spools_of_a_services_workers_are_finished_with_its_own(run, tmp_path):
    clock = Clock(10)
    store = Unreliable(tmp_path / "nowhere", is_down=True)
    for name in (".", "worker-1", "worker-3"):
        with Recorder(
            Settings(tmp_path / "spool" / name), store_for=lambda _, key: (store, key), clock=clock
        ) as recorder:
            record(recorder, clock, f"c-{name}", 0.5)
    (tmp_path / "spool" / "worker-x").mkdir()
    lock = FolderLock(tmp_path / "spool" / "worker-3")
    status, out, err = run("recover", "--spool", tmp_path / "spool", "--destination", tmp_path / "out")
    lock.release()
    assert (status, out) == (2, "")
    assert f"the spool {tmp_path / 'spool' / 'worker-3'} is used by another process" in err
    status, out, _ = run("recover", "--spool", tmp_path / "spool", "--destination", tmp_path / "out")
    assert (status, out.splitlines()[-1]) == (0, "3 delivered, 0 failed, 0 left in the spool")


def test_a_spool_that_is_in_use_is_let_alone(run, tmp_path):
    with Recorder(Settings(tmp_path / "spool", destination=str(tmp_path / "out"))):
        status, _, err = run("recover", "--spool", tmp_path / "spool")
    assert status == 2
    assert str(os.getpid()) in err


def test_a_folder_that_is_no_spool_is_wrong_usage(run, tmp_path):
    status, _, err = run("recover", "--spool", tmp_path)
    assert (status, err) == (2, f"callreel: {tmp_path}: no spool: it has no folder `takes`\n")


def test_what_had_failed_by_its_disk_and_is_delivered_now_is_said_to_be_replayed(run, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    clock, settings = Clock(10), Settings(tmp_path / "spool", limits=Limits(take_s=30.0, give_up_s=0.1))
    with monkeypatch.context() as patch:
        patch.setattr(making, "finish", refuse)
        with Recorder(settings, clock=clock) as recorder:
            record(recorder, clock, "c-1", 0.5)
            assert ended(recorder)[0].error == "read-only file system"
            assert recorder.drain(5.0)
    where = ("recover", "--spool", tmp_path / "spool", "--destination", tmp_path / "out")
    status, out, _ = run(*where)
    (file,) = (tmp_path / "out").rglob("*.wav")
    assert (status, out.splitlines()[-1]) == (0, "1 delivered, 0 failed, 0 left in the spool")
    assert out.splitlines()[0].endswith(f"replayed  {file.as_uri()}")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_recover_prints_what_it_does_not_know_whom_to_tell(run, tmp_path, options):
    spool = tmp_path / "spool"
    arguments = [sys.executable, worded_host.__file__, str(spool), "chime", "running"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout.readline() == "running\n"
        host.kill()
    (audio,) = spool.glob("takes/*/audio.wav")
    audio.write_bytes(b"")
    _, out, _ = run("recover", "--spool", spool, "--destination", tmp_path / "out", *options)
    if options:
        events = {event.pop("event"): event for event in map(json.loads, out.splitlines())}
        assert events["vendor_message"]["body"]["InvocationEventType"] == "ACTION_FAILED"
    else:
        assert "c-1  its customer is not told: there is no [notify.chime]" in out.splitlines()
