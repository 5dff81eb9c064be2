"""`callreel serve` and its settings: as a user starts it, in a process of its own, and spoken to by ffmpeg."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import httpx2 as httpx
import numpy as np
import pytest
import soundfile

from callreel.errors import UsageError
from callreel.kernels import g711
from callreel.service.answers import Answers
from callreel.service.configuration import read_settings
from callreel.service.customers import Routes
from callreel.service.library import Library
from callreel.service.overload import THRESHOLDS
from callreel.service.permits import Permits
from callreel.service.running import Service
from callreel.spool_files import FolderLock
from project import ROOT
from secret_watch import secret
from service_host import settings_in

SPEECH = ROOT / "tests" / "data" / "speech" / "fr_CA_f_June" / "demo-instruct.wav"
RATE = 8000


@pytest.fixture
def served(tmp_path):
    """The command in a fresh folder, with no settings; gives its URL and the process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CALLREEL_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "callreel", "serve", "--port", "0", "--rtp-ports", "30100-30199"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("callreel serves at http://127.0.0.1:"), process.stderr.read()
        yield line.split()[-1], process
    finally:
        process.kill()
        process.communicate()


def client_of(url, folder):
    token = (folder / "callreel" / "token").read_text().strip()
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=20)


def where(piece, heard):
    """Where it is most like `piece`."""
    heard = heard.astype(float)
    alike = np.correlate(heard, piece.astype(float), "valid")
    power = np.sqrt(np.convolve(heard**2, np.ones(len(piece)), "valid")) + 1
    return int(np.argmax(alike / power))


def until(read, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not (found := read()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def test_alone_it_asks_for_a_token_and_records_what_ffmpeg_sends(served, tmp_path):
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    url, process = served
    assert httpx.get(f"{url}/v1/calls").status_code == 401
    assert (tmp_path / "callreel" / "token").stat().st_mode & 0o077 == 0
    with client_of(url, tmp_path) as client:
        call = client.post("/v1/calls", json={"record": {}}).json()
        media = call["legs"][0]["media"]
        time.sleep(
            0.3
        )  # a packet of ffmpeg's is 128 ms long, and what was said before the recording is not in it
        subprocess.run(
            [
                *("ffmpeg", "-v", "error", "-re", "-t", "3", "-i", SPEECH, "-ar", "8000", "-ac", "1"),
                *("-c:a", "pcm_mulaw", "-f", "rtp", f"rtp://{media['host']}:{media['port']}"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        client.delete(f"/v1/calls/{call['call_id']}")
        (entry,) = until(lambda: client.get("/v1/recordings").json()["recordings"])
        assert (entry["error"], entry["is_degraded"]) == (None, False)
        audio = client.get(f"/v1/recordings/{entry['take_id']}/audio").content
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    (file,) = (tmp_path / "callreel" / "recordings").rglob("*.wav")
    assert file.read_bytes() == audio
    heard = soundfile.read(file, dtype="int16", always_2d=True)[0][:, 0]
    said = soundfile.read(SPEECH, dtype="int16", frames=3 * RATE)[0]
    codes = np.frombuffer(g711.ulaw_decode(g711.ulaw_encode(said.tobytes())), np.int16)
    at = where(codes[8000:16000], heard) - 8000
    size = len(codes) - 1024  # what ffmpeg has cut off at the end
    step = np.maximum(np.abs(codes[:size].astype(int)) / 8, 32)  # its encoder is not ITU's to the last bit
    assert (np.abs(heard[at : at + size].astype(int) - codes[:size]) <= step).all()


def test_the_lines_that_it_prints_send_it_a_call_and_end_it(served, tmp_path):
    if shutil.which("ffmpeg") is None or shutil.which("curl") is None:
        pytest.skip("needs ffmpeg and curl")
    _, process = served
    patience = threading.Timer(20, process.kill)
    patience.start()
    told = []
    while "the recording is below" not in (line := process.stdout.readline()):
        assert line
        told.append(line)
    patience.cancel()
    folder = tmp_path / line.split()[-1]
    lines = "".join(line for line in told if line.startswith("    "))
    token, begin, send, end = re.sub(r"\\\n +", "", lines).splitlines()

    def run(*commands):
        return subprocess.run(
            ["sh", "-euc", "\n".join(commands)],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=True,
            timeout=60,
        ).stdout

    said = soundfile.read(SPEECH, dtype="int16", frames=3 * RATE)[0]
    soundfile.write(tmp_path / "speech.wav", said, RATE)
    call = json.loads(run(token, begin))
    media = call["legs"][0]["media"]
    send = send.replace("HOST", media["host"]).replace("PORT", str(media["port"]))
    run(token, send, end.replace("CALL_ID", call["call_id"]))
    (file,) = until(lambda: list(folder.rglob("*.wav")))
    heard = soundfile.read(file, dtype="int16", always_2d=True)[0][:, 0]
    piece = said[8000:16000].astype(float)
    at = where(piece, heard)
    assert np.corrcoef(heard[at : at + len(piece)].astype(float), piece)[0, 1] > 0.8  # ffmpeg may be late


def test_the_example_sends_a_call_and_shows_its_recording(served, tmp_path):
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    url, _ = served
    short = tmp_path / "short.wav"
    subprocess.run(["ffmpeg", "-v", "error", "-t", "2", "-i", SPEECH, short], check=True)
    result = subprocess.run(
        [sys.executable, ROOT / "examples" / "send_call.py", short, url],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    location, seconds, _, outcome = result.stdout.split()
    assert outcome == "delivered"
    assert 2.0 <= float(seconds) < 4.0
    assert soundfile.info(location.removeprefix("file://")).channels == 2


def test_sigterm_waits_for_what_runs_and_a_second_one_does_not(served, tmp_path):
    url, process = served
    with client_of(url, tmp_path) as client:
        client.post("/v1/calls", json={"legs": [{"media": "none"}], "record": {}})
        process.send_signal(signal.SIGTERM)
        time.sleep(1.0)
        assert process.poll() is None
        assert client.get("/readyz").status_code == 503
        process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_a_port_that_is_taken_is_said_to_be(served, tmp_path):
    url, _ = served
    port = url.rpartition(":")[2]
    other = tmp_path / "other"
    other.mkdir()
    result = subprocess.run(
        [sys.executable, "-m", "callreel", "serve", "--port", port, "--rtp-ports", "30200-30299"],
        cwd=other,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 2
    assert f"callreel: 127.0.0.1:{port}: Address already in use" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_service_whose_spool_is_in_use_leaves_nothing_open(tmp_path, monkeypatch):
    settings = settings_in(tmp_path)
    settings.recorder.spool.mkdir(parents=True)
    closed = []
    for kind in (Library, Routes, Permits, Answers):

        def close(one, close=kind.close):
            closed.append(type(one))
            close(one)

        monkeypatch.setattr(kind, "close", close)
    lock = FolderLock(settings.recorder.spool)
    with pytest.raises(UsageError, match="is used by another process"):
        Service(settings)
    lock.release()
    assert set(closed) == {Library, Routes, Permits, Answers}
    Service(settings).close()


# ---- settings ----

WHOLE = """
[spool]
folder = "spool"
[delivery]
destination = "out"
[service]
host = "127.0.0.1"
port = 9000
public_url = "https://calls.example"
rtp_host = "127.0.0.1"
rtp_ports = [30000, 30999]
rtp_shared_port = 40000
rtp_advertised = "198.51.100.1"
audiosocket_host = "127.0.0.1"
audiosocket_port = 9092
drain_s = 5
operators = ["ops"]
metrics_token_file = "secret"
[service.tokens]
acme_file = "secret"
ops_env = "OPS_TOKEN"
[service.chime]
region = "eu-central-1"
[service.chime.credentials.AKIDEXAMPLE]
tenant = "acme"
secret_file = "secret"
[service.chime.applications.sma-1]
tenant = "acme"
handler = "https://customer.example/chime"
signing_secret_file = "signing"
record_audio_format = "wav"
[service.sinch.applications.app-key]
tenant = "acme"
secret_file = "base64"
backend = "https://customer.example/sinch"
[service.overload.late_s]
refuse_from = 0.8
accept_after_s = 9
[service.graph]
issuers = ["https://sts.windows.net/acme/"]
jwks = "keys.json"
revision = "current"
[service.graph.applications.app-id]
tenant = "acme"
backend = "https://customer.example/graph"
backend_token_env = "OPS_TOKEN"
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.setenv("OPS_TOKEN", secret("ops-token-0123456789"))
    (tmp_path / "secret").write_text(secret("of-a-tenant-0123456789"))
    (tmp_path / "base64").write_text("aHVudGVyMi1iYXNlNjQtc2VjcmV0LW9mLXNpbmNo")
    (tmp_path / "signing").write_text("whsec_aHVudGVyMi1zaWduaW5nLXNlY3JldC1vZi13ZWI=")
    (tmp_path / "keys.json").write_text(json.dumps({"keys": []}))
    for name in ("secret", "base64", "signing"):
        (tmp_path / name).chmod(0o600)
    from secret_watch import may_hold

    for name in ("secret", "base64", "signing"):
        may_hold(tmp_path / name)

    def write(text=WHOLE):
        path = tmp_path / "callreel.toml"
        path.write_text(text)
        return path

    return write


def test_everything_can_be_set_in_the_file(written, tmp_path):
    settings = read_settings(written())
    assert (settings.port, settings.public_url, settings.drain_s) == (9000, "https://calls.example", 5.0)
    assert settings.recorder.spool == tmp_path / "spool"
    assert settings.rtp_ports == (30000, 30999)
    assert (settings.rtp_shared_port, settings.rtp_advertised) == (40000, "198.51.100.1")
    assert (settings.audiosocket_host, settings.audiosocket_port) == ("127.0.0.1", 9092)
    assert settings.tokens.keys() == {"acme", "ops"}
    assert settings.operators == {"ops"}
    late, plain = settings.overload["late_s"], THRESHOLDS["late_s"]
    assert (late.refuse_from, late.accept_below) == (0.8, plain.accept_below)
    assert (late.refuse_after_s, late.accept_after_s) == (plain.refuse_after_s, 9.0)
    assert settings.overload["cpu_share"] == THRESHOLDS["cpu_share"]
    vendors = settings.vendors
    assert vendors.chime.region == "eu-central-1"
    assert vendors.chime.credentials["AKIDEXAMPLE"].tenant == "acme"
    assert vendors.chime.applications["sma-1"].handler.lane == "https://customer.example:443"
    assert vendors.sinch.applications["app-key"].backend.lane == "https://customer.example:443"
    assert vendors.graph.applications["app-id"].tenant == "acme"
    assert vendors.graph.revision == "current"
    assert "hunter2" not in repr(settings)


def test_a_file_can_be_checked_without_serving(written, tmp_path):
    command = (sys.executable, "-m", "callreel", "serve", "--check", "--config", written())
    good = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "")
    written(WHOLE.replace("port = 9000", "prot = 9000"))
    wrong = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("callreel: ")
    assert "did you mean port?" in wrong.stderr


@pytest.mark.parametrize("more", [("--check",), ("--workers", "1"), ("--workers", "2")])
def test_an_open_service_beyond_loopback_is_refused_by_the_check_as_when_it_begins(tmp_path, more):
    file = tmp_path / "callreel.toml"
    file.write_text(
        '[spool]\nfolder = "spool"\n[delivery]\ndestination = "out"\n'
        '[service]\nis_open = true\nhost = "0.0.0.0"\nport = 0\n'
    )
    command = (sys.executable, "-m", "callreel", "serve", "--config", file)
    wrong = subprocess.run((*command, *more), cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert wrong.returncode == 2
    assert "listens on loopback only, not on 0.0.0.0" in wrong.stderr
    here = (*command, "--host", "127.0.0.1", "--check")
    assert subprocess.run(here, cwd=tmp_path, timeout=60).returncode == 0


def test_options_count_more_than_the_file(written):
    settings = read_settings(written(), options={"port": 1234, "host": "::1"})
    assert (settings.port, settings.host, settings.url) == (1234, "::1", "https://calls.example")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("port = 9000", 'port = "9000"', "[service] port is not as it should be; allowed: a whole number"),
        ("port = 9000", "prot = 9000", "[service] prot: there is no such setting; did you mean port?"),
        (
            "overload.late_s]",
            "overload.heat]",
            "[service.overload] heat: there is no such setting; there are cpu_share, late_s, waiting_share",
        ),
        (
            "refuse_from = 0.8",
            'refuse_from = "0.8"',
            "[service.overload.late_s] refuse_from is not as it should be; allowed: a number",
        ),
        (
            "refuse_from = 0.8",
            "accept_below = 1",
            "[service] late_s: accept_below is more than 0 and less than refuse_from",
        ),
        ("port = 9000", "port = 70000", "[service] port 70000 is none"),
        (
            'secret_file = "base64"',
            'secret = "clear"',
            "[service.sinch.applications.app-key] secret: a secret does not stand here; say where it is, by secret_env "
            "or secret_file",
        ),
        (
            'secret_file = "secret"',
            "",
            "[service.chime.credentials.AKIDEXAMPLE] needs secret_env (a variable)",
        ),
        ('acme_file = "secret"', 'acme = "clear"', "[service.tokens] acme: allowed is NAME_env (a variable)"),
        ('ops_env = "OPS_TOKEN"', 'ops_env = "NO_SUCH_VARIABLE"', "NO_SUCH_VARIABLE"),
        ("[30000, 30999]", "[30000]", "[service] rtp_ports is not as it should be; allowed: [first, last]"),
        ('operators = ["ops"]', 'operators = ["nobody"]', "the operator nobody is no tenant"),
        ('handler = "https://customer.example/chime"', 'handler = "nonsense"', "is neither the ARN"),
        (
            '"https://customer.example/chime"',
            '"https://10.0.0.5/chime"',
            "[service.chime.applications.sma-1] https://10.0.0.5:443 is not to be connected to: its address is "
            "private; allowed_networks opens it",
        ),
        (
            'backend = "https://customer.example/sinch"',
            'backend = "https://customer.example/sinch"\nfallback = "https://[::1]/sinch"',
            "[service.sinch.applications.app-key] https://[::1]:443 is not to be connected to: its address is "
            "loopback; allowed_networks opens it",
        ),
        (
            'backend = "https://customer.example/graph"',
            'backend = "https://customer.example/graph"\nallowed_networks = ["10.0.0.1/8"]',
            "[service.graph.applications.app-id] allowed_networks: 10.0.0.1/8 has host bits set",
        ),
        (
            'backend = "https://customer.example/graph"',
            'backend = "https://customer.example/graph"\nports = [0]',
            "[service.graph.applications.app-id] ports is not as it should be; allowed: a list, each a whole number "
            "from 1 to 65535",
        ),
        (
            '"https://customer.example/chime"',
            '"callreel.notify:as_json"\nca_file = "ca.pem"',
            "[service.chime.applications.sma-1] ca_file goes with a URL",
        ),
        (
            'signing_secret_file = "signing"',
            'second_secret_file = "signing"',
            "[service.chime.applications.sma-1] second_secret goes with a signing_secret",
        ),
        (
            'backend = "https://customer.example/sinch"',
            'fallback = "https://customer.example/sinch"',
            "[service.sinch.applications.app-key] fallback goes with a backend",
        ),
        ('issuers = ["https://sts.windows.net/acme/"]', "", "Graph's applications need issuers"),
        (
            "[service.graph]",
            "[service.grahp]",
            "[service] grahp: there is no such setting; did you mean graph?",
        ),
    ],
)
def test_what_is_wrong_in_the_file_is_told_with_its_place(written, old, new, said):
    assert old in WHOLE
    with pytest.raises(UsageError) as error:
        read_settings(written(WHOLE.replace(old, new, 1)))
    assert said in str(error.value)
    assert "hunter2" not in str(error.value)
    assert "clear" not in str(error.value)


def test_a_recorder_passes_over_the_services_table(written):
    from callreel.recorder.configuration import Configuration

    assert Configuration(written()).settings().destination is not None
