"""The command line: what it prints, how it ends, and what it leaves behind."""

import contextlib
import fnmatch
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
import wave
from pathlib import Path

import numpy as np
import pytest

import callreel
import capture_writer as writer
from callreel import cli
from callreel.kernels import g711
from capture_writer import rtp_packet
from secret_watch import MARK, may_hold
from sip_messages import G729, Dialog, audio, session

ALICE, BOB = ("10.0.0.1", 4000), ("10.0.0.2", 6000)
START_RECORDING = {
    "Type": "StartCallRecording",
    "Parameters": {
        "CallId": "call-id-1",
        "Track": "INCOMING",
        "Destination": {"Type": "S3", "Location": "bucket/front desk"},
    },
}


def talk(source, destination, seconds=1.0, code=0x90, ssrc=0xA, payload_type=0, lose=()):
    return [
        (
            n * 0.02,
            source,
            destination,
            rtp_packet(bytes([code]) * 160, n, 160 * n, ssrc=ssrc, payload_type=payload_type),
        )
        for n in range(round(seconds * 50))
        if n not in lose
    ]


def both(seconds=1.0, **changes):
    packets = talk(ALICE, BOB, seconds, **changes)
    packets += talk(BOB, ALICE, seconds, **({"code": 0xC0, "ssrc": 0xB} | changes))
    return sorted(packets, key=lambda packet: packet[0])


def value(code: int) -> int:
    return int(np.frombuffer(g711.ulaw_decode(bytes([code])), "<i2")[0])


@pytest.fixture
def capture(tmp_path):
    """Writes a capture; gives its path."""

    def capture(packets, name="call.pcap") -> Path:
        path = tmp_path / name
        path.write_bytes(packets if isinstance(packets, bytes) else writer.capture(packets))
        return path

    return capture


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command in this process: (status, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            status = exit_.code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert not list(tmp_path.rglob("*.part"))
        return status, out, err

    return run


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "callreel", *(str(argument) for argument in arguments)]


ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(callreel.__file__).parents[1])}


def takes_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in (".wav", ".mp3"))


# ---- what is printed ----


def test_a_table_says_what_was_made(run, capture, tmp_path):
    status, out, err = run("record", capture(both()), "--out", tmp_path / "out")
    assert (status, err) == (0, "")
    first, header, row = out.splitlines()
    assert first.endswith("call.pcap: 100 packets, 1 call, 1 recording")
    assert header.split() == ["duration", "in", "lost", "out", "lost", "digits", "state", "file"]
    *cells, path = row.split()
    assert cells == ["1.000", "s", "50", "0", "50", "0", "-", "good"]
    assert [tmp_path / "out" / path] == takes_of(tmp_path / "out")


def test_json_gives_every_event_a_line_and_then_every_manifest(run, capture, tmp_path):
    paths = [capture(both(), f"{n}.pcap") for n in range(2)]
    other = capture([(t + 100, ("10.3.0.1", 7), b, data) for t, _, b, data in both()], "other.pcap")
    status, out, _ = run("record", *paths, other, "--out", tmp_path / "out", "--json")
    assert status == 0
    lines = [json.loads(line) for line in out.splitlines()]
    events = [line for line in lines if "event" in line]
    manifests = lines[len(events) :]
    assert all("event" in line for line in lines[: len(events)])
    assert all(line["version"] == 1 and "sha256" in line for line in manifests)
    keys = [line["key"] for line in manifests]
    assert [event["key"] for event in events if event["event"] == "recording_started"] == keys
    assert [event["key"] for event in events if event["event"] == "recording_finished"] == keys
    assert [event["event"] for event in events].count("capture_read") == 3
    for manifest in manifests:
        beside = tmp_path / "out" / (manifest["key"] + ".json")
        assert json.loads(beside.read_text()) == manifest


def test_json_times_are_rfc_3339_in_utc(run, capture, tmp_path):
    _, out, _ = run("record", capture(both()), "--out", tmp_path / "out", "--json")
    started = json.loads(out.splitlines()[0])
    assert (started["event"], started["at"]) == ("recording_started", "2023-11-14T22:13:20.000Z")


def test_what_is_not_recorded_is_named(run, capture, tmp_path):
    status, out, _ = run("record", capture(both(payload_type=18)), "--out", tmp_path / "out")
    assert status == 1
    assert "not recorded: G729, which is not decoded: 10.0.0.1:4000 to 10.0.0.2:6000 (50 received)" in out
    assert "no recording of 10.0.0.1_4000-10.0.0.2_6000: none of its audio can be decoded" in out


def test_a_call_without_media_is_named(run, capture, tmp_path):
    dialog = Dialog()
    packets = [
        (
            0.0,
            ("10.0.0.1", 5060),
            ("10.0.0.2", 5060),
            dialog.invite(session("10.0.0.1", audio(4000, (G729,)))),
        ),
        (0.1, ("10.0.0.2", 5060), ("10.0.0.1", 5060), dialog.response(200, session("10.0.0.2", audio(6000)))),
    ]
    status, out, _ = run("record", capture(packets), "--out", tmp_path / "out")
    assert status == 1
    assert "no recording of call-1@example.org: it was answered, but the capture holds no media of it" in out


def test_help_explains_the_command_and_its_exit_status(run):
    status, out, _ = run("record", "--help")
    assert status == 0
    for word in (
        "--out DIR",
        "--format {wav,mp3}",
        "--layout",
        "--action FILE",
        "--json",
        "exit status: 0 all good",
    ):
        assert word in out
    status, out, _ = run("--help")
    assert status == 0
    assert all(word in out for word in ("record", "inspect", "verify"))


def test_version(run):
    assert run("--version")[:2] == (0, f"callreel {callreel.__version__}\n")


# ---- exit status ----


@pytest.mark.parametrize(
    ("packets", "status"),
    [
        (both(), 0),
        (both(lose=range(10, 14)), 1),
        (both(payload_type=18), 1),
        ([], 1),
        (writer.capture(both())[:-5], 1),
        (b"no capture at all", 2),
        (b"", 2),
    ],
    ids=["good", "loss", "codec", "no call", "cut short", "no capture", "empty"],
)
def test_exit_status(run, capture, tmp_path, packets, status):
    assert run("record", capture(packets), "--out", tmp_path / "out")[0] == status


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--out", "x"],
        ["call.pcap"],
        ["call.pcap", "--out", "x", "--format", "ogg"],
        ["call.pcap", "--out", "x", "--layout", "quad"],
        ["call.pcap", "--out", "x", "--wat"],
    ],
)
def test_wrong_usage_is_status_2(run, arguments):
    status, out, err = run("record", *arguments)
    assert (status, out) == (2, "")
    assert "usage: callreel" in err


def test_a_missing_capture_is_status_2_and_the_others_are_recorded(run, capture, tmp_path):
    status, _, err = run("record", tmp_path / "nowhere", capture(both()), "--out", tmp_path / "out")
    assert status == 2
    assert err == f"callreel: {tmp_path / 'nowhere'}: No such file or directory\n"
    assert len(takes_of(tmp_path / "out")) == 1


def test_a_folder_as_capture_is_status_2(run, tmp_path):
    status, _, err = run("record", tmp_path, "--out", tmp_path / "out")
    assert (status, err) == (2, f"callreel: {tmp_path}: Is a directory\n")


def test_a_file_as_out_is_status_2(run, capture, tmp_path):
    path = capture(both())
    status, _, err = run("record", path, "--out", path)
    assert (status, err) == (2, f"callreel: --out {path}: not a folder\n")


def test_an_out_that_cannot_be_written_is_status_1(run, capture, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "Amazon-Chime-SMA-Call-Recordings").write_bytes(b"in the way")
    status, out, _ = run("record", capture(both()), "--out", tmp_path / "out")
    assert status == 1
    assert "failed: cannot store Amazon-Chime-SMA-Call-Recordings/2023/11/14/" in out
    status, out, _ = run("record", capture(both()), "--out", tmp_path / "out", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert [event.get("end_reason") for event in events if event["event"] == "recording_finished"] == [
        "failed"
    ]
    assert [event["event"] for event in events].count("recording_failed") == 1


# ---- options ----


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("stereo", [{value(0x90)}, {value(0xC0)}]),
        ("incoming", [{value(0x90)}]),
        ("outgoing", [{value(0xC0)}]),
        ("mix", [{value(0x90) + value(0xC0)}]),
    ],
)
def test_layouts(run, capture, tmp_path, layout, expected):
    assert run("record", capture(both()), "--out", tmp_path / "out", "--layout", layout)[0] == 0
    (path,) = takes_of(tmp_path / "out")
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(8000), "<i2").reshape(-1, file.getnchannels()).T
    assert [set(row) for row in samples] == expected


def test_mp3(run, capture, tmp_path):
    status, out, _ = run("record", capture(both()), "--out", tmp_path / "out", "--format", "mp3", "--json")
    assert status == 0
    assert json.loads(out.splitlines()[-1])["format"] == "mp3"
    assert [path.suffix for path in takes_of(tmp_path / "out")] == [".mp3"]


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda a: a,
        lambda a: [a],
        lambda a: {"Actions": [a]},
        lambda a: {"SchemaVersion": "1.0", "Actions": [a]},
        lambda a: {"Version": "2012-10-17", "Statement": [a]},
    ],
)
def test_an_action_chooses_layout_and_prefix(run, capture, tmp_path, wrapped):
    action = tmp_path / "action.json"
    action.write_text(json.dumps(wrapped(START_RECORDING)))
    status, _, _ = run("record", capture(both()), "--out", tmp_path / "out", "--action", action)
    assert status == 0
    (path,) = takes_of(tmp_path / "out")
    assert path.is_relative_to(tmp_path / "out" / "front desk" / "2023" / "11" / "14")
    with wave.open(str(path)) as file:
        assert file.getnchannels() == 1


@pytest.mark.parametrize("option", [("--layout", "stereo"), ("--format", "mp3")])
def test_what_an_action_says_is_not_said_again(run, capture, tmp_path, option):
    action = tmp_path / "action.json"
    action.write_text(json.dumps(START_RECORDING))
    status, _, err = run("record", capture(both()), "--out", tmp_path / "out", "--action", action, *option)
    assert status == 2
    assert "--format and --layout do not go with it" in err


RECORD_AUDIO = {
    "Type": "RecordAudio",
    "Parameters": {
        "CallId": "whatever",
        "DurationInSeconds": "1",
        "RecordingTerminators": ["#"],
        "RecordingDestination": {"Type": "S3", "BucketName": "bucket", "Prefix": "voicemail"},
    },
}
SVAML = {
    "instructions": [
        {"name": "Say", "text": "Hello"},
        {
            "name": "StartRecording",
            "options": {"destinationUrl": "s3://bucket/calls/", "credentials": f"KEY:{MARK}:eu-west-1"},
        },
    ],
    "action": {"name": "Continue"},
}
GRAPH = {"playBeep": True, "stopTones": ["#"], "maxRecordDurationInSeconds": 1}


@pytest.mark.parametrize(
    ("document", "vendor", "action", "names"),
    [
        (RECORD_AUDIO, "chime", "RecordAudio", ["*-recordings-1.mp3"]),
        ([RECORD_AUDIO], "chime", "RecordAudio", ["*-recordings-1.mp3"]),
        (SVAML, "sinch", "startRecording", ["*_callreel_*.mp3"]),
        (GRAPH, "graph", "record", ["operation-1.wav"]),
        ({"path": "/app/calls/1/record", "body": GRAPH}, "graph", "record", ["operation-1.wav"]),
        (
            {"path": "/v1.0/communications/calls/1/recordResponse", "body": GRAPH},
            "graph",
            "recordResponse",
            ["operation-1.wav"],
        ),
    ],
)
def test_every_vendors_document_is_carried_out(run, capture, tmp_path, document, vendor, action, names):
    path = may_hold(tmp_path / "action.json")
    path.write_text(json.dumps(document))
    out = tmp_path / "out"
    status, text, err = run("record", capture(both()), "--out", out, "--action", path, "--json")
    assert (status, err) == (0, "")
    manifests = [json.loads(file.read_text()) for file in out.rglob("*.json")]
    assert {(one["dialect"], one["action"]) for one in manifests} == {(vendor, action)}
    found = sorted(file.name for file in out.rglob("*") if file.is_file() and file.suffix != ".json")
    assert all(fnmatch.fnmatch(*pair) for pair in zip(found, names, strict=True))
    assert MARK not in text + "".join(file.read_text() for file in out.rglob("*.json"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "no JSON"),
        (b"", "no JSON"),
        (bytes(range(256)), "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b" " * (2 << 20), "too large"),
        (b"17", "an action is a JSON object"),
        (b"[]", "asks for no recording"),
        (json.dumps([START_RECORDING] * 2).encode(), "recorded already"),
        (b'{"Type": "Hangup", "Parameters": {}}', "asks for no recording"),
        (b'{"Type": "Dance"}', "Unsupported action name"),
        (b'{"Type": "StartCallRecording"}', "CallId"),
        (
            json.dumps(START_RECORDING).replace("INCOMING", "SIDEWAYS").encode(),
            "Track: ",
        ),
        (
            json.dumps(START_RECORDING).replace("bucket/front desk", "b/../../x").encode(),
            "Destination.Location: ",
        ),
        (b'{"instructions": [{"name": "Sing"}]}', "instructions[0]"),
        (b'{"stopTones": ["A"]}', "stopTones"),
        (
            b'{"path": "/app/calls/1/playPrompt", "body": {"prompts": [{"mediaInfo": {"uri": "http://a"}}]}}',
            "asks for no recording",
        ),
        (b'{"path": "/app/calls/1/dance", "body": {}}', "no such resource"),
        (b'{"path": 5, "body": {}}', "no such resource"),
        (b'{"hello": "world"}', "no vendor's action"),
    ],
)
def test_an_action_that_cannot_be_carried_out_is_wrong_usage(run, capture, tmp_path, content, words):
    action = tmp_path / "action.json"
    action.write_bytes(content)
    status, out, err = run("record", capture(both()), "--out", tmp_path / "out", "--action", action)
    assert (status, out) == (2, "")
    assert err.startswith(f"callreel: {action}: ")
    assert words in err
    assert not (tmp_path / "out").exists()


def test_the_events_printed_name_what_is_asked_of_the_host_but_no_secret(run, capture, tmp_path):
    options = {"destinationUrl": "s3://bucket/x", "credentials": f"AKIA:{MARK}:us-east-1"}
    conference = {"name": "connectConf", "conferenceId": "c", "record": True, "recordingOptions": options}
    document = {"instructions": [{"name": "StartRecording", "options": options}], "action": conference}
    action = may_hold(tmp_path / "action.json")
    action.write_text(json.dumps(document))
    status, text, _ = run("record", capture(both()), "--out", tmp_path / "out", "--action", action, "--json")
    events = [json.loads(line) for line in text.splitlines()]
    asked = {one["name"]: one["parameters"] for one in events if one.get("event") == "perform"}
    assert (status, asked["StartConferenceRecording"]) == (
        0,
        {"recording": {"kind": "conference", "key": "x"}},
    )
    assert {"kind": "s3", "bucket": "bucket"} in [one.get("destination") for one in events]
    assert MARK not in text
    assert "AKIA" not in text


def test_the_call_id_of_another_call_does_no_harm(run, capture, tmp_path):
    path = tmp_path / "action.json"
    start = {"name": "startRecording", "recordingOptions": {"destinationUrl": "sdrive://x.mp3"}}
    path.write_text(json.dumps({"callId": "another", "svaml": {"action": start}}))
    status, _, err = run("record", capture(both()), "--out", tmp_path / "out", "--action", path)
    assert (status, err) == (0, "")
    assert [one.name for one in takes_of(tmp_path / "out")] == ["x.mp3"]


def test_of_recordings_with_one_name_at_one_time_the_last_stays_whole(run, capture, tmp_path):
    path, out = tmp_path / "action.json", tmp_path / "out"
    options = {"destinationUrl": "sdrive://x.wav", "format": "wav"}
    path.write_text(json.dumps({"instructions": [{"name": "StartRecording", "options": options}]}))
    carol, dave = ("10.0.0.3", 4000), ("10.0.0.4", 6000)
    other = talk(carol, dave, 2.0, ssrc=0xC) + talk(dave, carol, 2.0, ssrc=0xD)
    other = [(at + 0.5, *rest) for at, *rest in other]
    packets = sorted(both(1.0) + other, key=lambda packet: packet[0])
    status, text, err = run("record", capture(packets), "--out", out, "--action", path)
    assert (status, err) == (0, "")
    assert [line.split()[-1] for line in text.splitlines()[2:]] == ["x.wav", "x.wav"]
    assert sorted(file.name for file in out.iterdir()) == ["x.wav", "x.wav.json"]
    assert json.loads((out / "x.wav.json").read_text())["duration"] == 2.0
    assert run("verify", out / "x.wav")[0] == 0


def test_graphs_notification_of_a_recorded_call_is_printed(run, capture, tmp_path):
    (tmp_path / "action.json").write_text(json.dumps(GRAPH | {"clientContext": "message-1"}))
    arguments = ("--out", tmp_path / "out", "--action", tmp_path / "action.json", "--json")
    _, text, _ = run("record", capture(both()), *arguments)
    lines = [json.loads(line) for line in text.splitlines()]
    bodies = [line["body"] for line in lines if line.get("event") == "vendor_message"]
    operation, call = (entry for body in bodies for entry in body["value"])
    (manifest,) = (line for line in lines if "version" in line)
    told = operation["resourceData"]
    assert operation["changeType"] == "deleted"
    assert told["@odata.type"] == "#microsoft.graph.recordOperation"
    assert (told["status"], told["completionReason"]) == ("completed", "maxRecordDurationReached")
    assert told["clientContext"] == "message-1"
    assert call["resourceData"]["state"] == "terminated"
    assert (manifest["sample_rate"], manifest["channels"], manifest["duration"]) == (16_000, 1, 1.0)


def test_an_endless_action_file_is_not_read_to_its_end(run, capture, tmp_path):
    status, _, err = run("record", capture(both()), "--out", tmp_path / "out", "--action", "/dev/zero")
    assert (status, err) == (2, "callreel: /dev/zero: too large for an action\n")


def test_a_name_that_is_no_text_can_be_printed(capture, tmp_path):
    path = capture(both(), os.fsdecode(b"na\xefve.pcap"))
    out = tmp_path / os.fsdecode(b"\xff")
    done = subprocess.run(
        [*command("record"), os.fsencode(path), "--out", os.fsencode(out)],
        capture_output=True,
        env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"na\\udcefve.pcap: 100 packets" in done.stdout
    (manifest,) = out.rglob("*.wav.json")
    assert os.fsencode(json.loads(manifest.read_text())["destination"]) == os.fsencode(out)


# ---- terminals, pipes, interrupts ----


def with_terminal(arguments: list[str]) -> tuple[int, str]:
    """Run with a terminal as standard error; its exit status and what the terminal got."""
    reader, terminal = pty.openpty()
    got = []

    def collect() -> None:
        with contextlib.suppress(OSError):  # the way a terminal says that nobody writes any more
            while piece := os.read(reader, 4096):
                got.append(piece)

    thread = threading.Thread(target=collect)
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=terminal, env=ENVIRONMENT)
    os.close(terminal)
    thread.start()
    status = process.wait(30)
    thread.join(30)
    os.close(reader)
    return status, b"".join(got).decode()


def test_a_terminal_gets_a_progress_bar_that_goes_away(capture, tmp_path):
    status, shown = with_terminal(command("record", capture(both(10)), "--out", tmp_path / "out"))
    assert status == 0
    assert "\rreading call.pcap [" in shown
    assert "100 %" in shown
    assert shown.endswith("\r" + " " * len("reading call.pcap [] 100 %") + " " * 32 + "\r")


def test_without_a_terminal_there_is_no_progress_bar(capture, tmp_path):
    done = subprocess.run(
        command("record", capture(both()), "--out", tmp_path / "out"),
        capture_output=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout


@pytest.mark.parametrize("json_lines", [True, False])
def test_nobody_reading_the_report_is_no_reason_not_to_record(capture, tmp_path, json_lines):
    paths = []
    for n in range(30):
        packets = [(t + 100 * n, (f"10.3.0.{n}", 7), b, data) for t, a, b, data in both() if a == ALICE]
        paths.append(capture(packets, f"{n}.pcap"))
    process = subprocess.Popen(
        command("record", *paths, "--out", tmp_path / "out", *(["--json"] if json_lines else [])),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=30)
    assert err == b""
    assert process.returncode in (0, 1)
    assert len(takes_of(tmp_path / "out")) == 30


def test_an_interrupt_is_said_and_leaves_no_file_half_made(capture, tmp_path):
    path = capture(both(1000))
    process = subprocess.Popen(
        command("record", path, "--out", tmp_path / "out", "--format", "mp3"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        # What a shell runs in the background, these tests too, ignores interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 30
    while not list(tmp_path.rglob("*.part")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"callreel: interrupted\n")
    assert not list(tmp_path.rglob("*.part"))
    assert not takes_of(tmp_path / "out")
