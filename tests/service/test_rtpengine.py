"""docs/running.md beside rtpengine and Kamailio: its configuration and examples/rtpengine.py, with calls of sipp.

Debian has all three: rtpengine-daemon, kamailio, sip-tester.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from callreel.kernels import g711
from callreel.service.running import Service
from live_media import delivered, manifest_of, noise, read_wav, starts_at, until
from markdown_text import fenced
from project import ROOT
from service_host import listening, settings_in
from sip_call import CALLEE, CALLER, scenario

EXAMPLE = ROOT / "examples" / "rtpengine.py"
MEDIA_PORTS = range(31000, 31200)
MISSING = [name for name in ("rtpengine", "kamailio", "sipp") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")
TALK_S = 1.5
WAIT_MS = 3000  # until rtpengine forks: the example is a process of its own, and the machine may be busy


def free_ports(count):
    """As many of UDP, all different."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


@contextlib.contextmanager
def running(folder, name, *command, environment=None):
    """A server of somebody's, until the block is left."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [name, *map(str, command)],
            env={**os.environ, **(environment or {})},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(port):
    """Whether rtpengine does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(0.2)
        asking.connect(("127.0.0.1", port))
        try:
            asking.send(b'1 {"command": "ping"}')
            return b"pong" in asking.recv(1000)
        except OSError:
            return False


def is_bound(port):
    """Whether somebody listens there; looking must not take the port from them."""
    lines = Path("/proc/net/udp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(f":{port:04X}") for line in lines)


class Telephony:
    """Kamailio with rtpengine, which have their calls recorded."""

    def __init__(self, folder, client, environment, sip_port, callee_port, caller_port):
        self.folder, self.client, self.environment = folder, client, environment
        self.sip_port, self.callee_port, self.caller_port = sip_port, callee_port, caller_port

    def call(self, call_id, *, payload_type=0, audio):
        """Make a call; `audio` is what the caller says and what the callee does, as it goes over the wire."""
        files = []
        for name, codes in zip(("caller", "callee"), audio, strict=True):
            files.append(self.folder / f"{name}.audio")
            files[-1].write_bytes(codes)
        how = {"payload_type": payload_type, "wait_ms": WAIT_MS, "talk_ms": round(1000 * TALK_S) + 300}
        caller = scenario(CALLER, self.folder / "caller.xml", audio=files[0], **how)
        callee = scenario(CALLEE, self.folder / "callee.xml", audio=files[1], **how)
        common = ("-i", "127.0.0.1", "-m", 1, "-nostdin", "-timeout", 20)
        with running(
            self.folder,
            "sipp",
            *("-sf", callee, "-p", self.callee_port, *common),
        ):
            until(lambda: is_bound(self.callee_port))
            done = subprocess.run(
                [
                    *("sipp", "-sf", caller, "-p", str(self.caller_port), "-cid_str", call_id),
                    *(*map(str, common), f"127.0.0.1:{self.sip_port}"),
                ],
                cwd=self.folder,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr

    def example(self, *arguments):
        return subprocess.run(
            [sys.executable, EXAMPLE, *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


@pytest.fixture(scope="module")
def telephony(tmp_path_factory):
    folder = tmp_path_factory.mktemp("telephony")
    ng_port, sip_port, callee_port, caller_port = free_ports(4)
    (configuration,) = fenced((ROOT / "docs" / "running.md").read_text("utf-8"), "kamailio")
    for of_the_page, here in {
        "udp:192.0.2.10:5060": f"udp:127.0.0.1:{sip_port}",
        "sip:192.0.2.20:5060": f"sip:127.0.0.1:{callee_port}",
        "udp:127.0.0.1:22222": f"udp:127.0.0.1:{ng_port}",
        "python3 /opt/callreel/rtpengine.py": f"{sys.executable} {EXAMPLE}",
    }.items():
        assert of_the_page in configuration
        configuration = configuration.replace(of_the_page, here)
    (folder / "kamailio.cfg").write_text(configuration)
    with contextlib.ExitStack() as stack:
        service = Service(settings_in(folder, rtp_ports=(30600, 30699)))
        served = stack.enter_context(listening(service))
        environment = {
            "CALLREEL_URL": served.url,
            "CALLREEL_TOKEN_FILE": str(folder / "acme.token"),
            "RTPENGINE_NG": f"127.0.0.1:{ng_port}",
        }
        stack.enter_context(
            running(
                folder,
                "rtpengine",
                *(
                    "--config-file=none",
                    "--table=-1",
                    "--interface=127.0.0.1",
                    f"--listen-ng=127.0.0.1:{ng_port}",
                    "--foreground",
                ),
                *(f"--port-min={MEDIA_PORTS[0]}", f"--port-max={MEDIA_PORTS[-1]}", "--log-stderr"),
                f"--pidfile={folder}/rtpengine.pid",
            )
        )
        until(lambda: answers(ng_port))
        stack.enter_context(
            running(
                folder,
                "kamailio",
                *("-f", folder / "kamailio.cfg", "-DD", "-E", "-m", 32, "-M", 4, "-n", 1),
                *("-Y", folder, "-P", folder / "kamailio.pid"),
                environment=environment,
            )
        )
        until(lambda: is_bound(sip_port))
        yield Telephony(folder, served.client(), environment, sip_port, callee_port, caller_port)


@pytest.mark.parametrize(("payload_type", "law"), [(0, "ulaw"), (8, "alaw")])
def test_both_parties_are_recorded_left_and_right_sample_by_sample(telephony, payload_type, law):
    encode, decode = getattr(g711, f"{law}_encode"), getattr(g711, f"{law}_decode")
    said = [encode(noise(TALK_S, seed=seed)) for seed in (1, 2)]
    telephony.call(f"{law}`id>hit`", payload_type=payload_type, audio=said)  # a caller chooses it
    entry = delivered(telephony.client, f"{law}_id_hit_")
    assert not (telephony.folder / "hit").exists()
    audio, rate = read_wav(telephony.client, entry)
    assert rate == 8000
    for channel, codes in enumerate(said):
        expected = np.frombuffer(decode(codes), "<i2")
        at = starts_at(audio[:, channel], decode(codes))
        assert np.array_equal(audio[at : at + len(expected), channel], expected)
        assert not audio[:at, channel].any()
        assert not audio[at + len(expected) :, channel].any()
    tracks = manifest_of(telephony.client, entry)["tracks"]
    assert [(one["direction"], one["packets"]["lost"]) for one in tracks] == [
        ("incoming", 0),
        ("outgoing", 0),
    ]
    assert entry["is_degraded"] is False
    call = telephony.client.get(f"/v1/calls/{law}_id_hit_").json()
    assert [call["legs"][0][name].partition("@")[0] for name in ("from", "to")] == [
        "<sip:+15551230001",
        "<sip:+15559870002",
    ]
    assert call["ended_at"] is not None


def test_a_codec_that_is_not_known_is_transcoded_by_rtpengine(telephony):
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    said = []
    for hertz in (440, 1000):
        sine = f"sine=frequency={hertz}:sample_rate=16000:duration={TALK_S}"
        command = ("ffmpeg", "-v", "error", "-f", "lavfi", "-i", sine, "-f", "g722", "-")
        said.append(subprocess.run(command, capture_output=True, check=True).stdout)
    telephony.call("g722-1", payload_type=9, audio=said)
    audio, rate = read_wav(telephony.client, delivered(telephony.client, "g722-1"))
    for channel, hertz in enumerate((440, 1000)):
        sounding = audio[:, channel][np.flatnonzero(np.abs(audio[:, channel]) > 500)]
        assert len(sounding) > 0.5 * TALK_S * rate
        spectrum = np.abs(np.fft.rfft(audio[:, channel]))
        assert np.argmax(spectrum) * rate / len(audio) == pytest.approx(hertz, abs=5)


def test_a_call_that_rtpengine_does_not_have_is_not_begun(telephony):
    done = telephony.example("begin", "no-such-call", "<sip:a@example.com>;tag=1")
    assert done.returncode == 1
    assert done.stderr.startswith("rtpengine: subscribe request: ")
    assert telephony.client.get("/v1/calls/no-such-call").status_code == 404


def test_an_rtpengine_that_does_not_answer_is_said_not_to(telephony):
    (port,) = free_ports(1)
    done = subprocess.run(
        [sys.executable, EXAMPLE, "begin", "a", "<sip:a@example.com>;tag=1"],
        env={**os.environ, **telephony.environment, "RTPENGINE_NG": f"127.0.0.1:{port}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, f"rtpengine does not answer at 127.0.0.1:{port}\n")
