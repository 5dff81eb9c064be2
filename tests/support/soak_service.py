"""The process that a soak is about: its settings, its lives, what it takes of the machine, what it has told."""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import httpx2 as httpx

from callreel.spool import spools_in
from http_server import authority, plain, serving
from live_media import noise, wav_bytes
from project import ROOT
from s3_server import ADMIN, REGION, S3Server, free_ports
from secret_watch import may_hold, secret, secret_base64
from served_command import group, until
from soak_host import BUCKET
from vendor_customers import AUDIENCE, ISSUER, SIGNING, Tenant

RTP = range(31_000, 31_800)
"""Below those that the system gives out by itself, as in all tests with ports of their own choice."""
ACME = Tenant(
    "acme",
    f"AKIA{'ACME':X<16}",
    secret("soak-aws"),
    "acme-0000-4000-8000-00000000soak",
    "acme-soak-key",
    secret_base64(24, "soak-sinch"),
    "acme-app-soak",
)
TOKEN, OTHER = secret("soak-token-of-acme-0123456789"), secret("soak-token-of-ops-0123456789")
GRACE_S = 5.0
"""For which Microsoft Graph's customers may fetch a recording."""

SETTINGS = """
[spool]
folder = "spool"
[delivery]
destination = "out"
[s3]
endpoint_url = "{s3}"
region = "{region}"
access_key_file = "secrets/access"
secret_key_file = "secrets/secret"
[notify.events]
url = "https://127.0.0.1:{webhook}/events"
secret_file = "secrets/webhook"
ca_file = "{ca}"
ports = [{webhook}]
allowed_networks = ["127.0.0.1/32"]
[service]
port = {port}
rtp_ports = [{first}, {last}]
audiosocket_port = {audiosocket}
drain_s = 10
operators = ["ops"]
[service.tokens]
acme_file = "secrets/acme"
ops_file = "secrets/ops"
[service.chime]
region = "eu-central-1"
[service.chime.credentials.{key}]
tenant = "acme"
secret_file = "secrets/aws"
[service.chime.applications.{sma}]
tenant = "acme"
handler = "soak_host:chime"
record_audio_format = "wav"
[service.sinch.applications.{sinch}]
tenant = "acme"
secret_file = "secrets/sinch"
backend = "soak_host:sinch"
[service.graph]
issuers = ["{issuer}"]
audiences = ["{audience}"]
jwks = "jwks.json"
revision = "current"
grace_s = {grace}
[service.graph.applications.{graph}]
tenant = "acme"
backend = "soak_host:graph"
"""


class Figures(NamedTuple):
    """What all processes of the service have at one moment."""

    at_s: float
    memory_kb: int
    """Resident, without the pages of files."""
    descriptors: int
    sockets: int
    sqlite: int
    threads: int
    processes: int
    temporary: int
    """Files in its folder for temporary ones."""


class Service:
    """`callreel serve`, again and again in the same folder."""

    def __init__(self, folder, *, failing=0.0, workers=None):
        """`failing`: the part of what customers' programs are told of which they know nothing."""
        self.folder, self.workers, self.failing = folder, workers, failing
        self.life = 0
        self.is_up = threading.Event()
        self.ends = threading.Lock()
        self.process = None
        self.webhook_is_broken = threading.Event()
        self.events, self.told_twice = {}, Counter()
        """Terminal events by recording: by its id, each id of a take with what was told."""
        self.s3_is_away, self._s3_back = False, -1e9
        self._lock = threading.Lock()
        self._offset = 0
        self._graph = {}
        self._there = contextlib.ExitStack()
        for name in ("out", "tmp", "secrets", "s3"):
            (folder / name).mkdir()
        may_hold(folder / "secrets")
        self.s3 = S3Server(may_hold(folder / "s3"))

    def __enter__(self):
        try:
            return self._begin()
        except BaseException:
            self.__exit__()
            raise

    def _begin(self):
        self._there.callback(self.s3.kill)
        self.s3.start()
        self.s3.client().create_bucket(Bucket=BUCKET)
        trusted = authority(self.folder)
        webhook = self._there.enter_context(
            serving(lambda request: self._webhook(request), tls=trusted.certify("127.0.0.1"))
        )
        self._prompt = wav_bytes(noise(0.4, seed=9), 8000)
        prompts = self._there.enter_context(serving(lambda request: plain(body=self._prompt)))
        self.prompt = f"http://127.0.0.1:{prompts.port}/prompt.wav"
        self.port, self.audiosocket = free_ports(2)
        self.url = f"http://127.0.0.1:{self.port}"
        secrets = {
            "acme": TOKEN,
            "ops": OTHER,
            "aws": ACME.secret_access_key,
            "sinch": ACME.sinch_secret,
            "webhook": "whsec_" + secret_base64(32, "soak-webhook"),
            "access": ADMIN.access_key,
            "secret": ADMIN.secret_key,
        }
        for name, text in secrets.items():
            path = self.folder / "secrets" / name
            path.write_text(text)
            path.chmod(0o600)
        (self.folder / "jwks.json").write_text(json.dumps(SIGNING.jwks))
        (self.folder / "callreel.toml").write_text(
            SETTINGS.format(
                s3=self.s3.endpoint,
                region=REGION,
                webhook=webhook.port,
                ca=trusted.file,
                port=self.port,
                first=RTP.start,
                last=RTP.stop - 1,
                audiosocket=self.audiosocket,
                key=ACME.access_key_id,
                sma=ACME.sip_media_application,
                sinch=ACME.sinch_key,
                graph=ACME.graph_application,
                issuer=ISSUER,
                audience=AUDIENCE,
                grace=GRACE_S,
            )
        )
        self.start(prompts.port)
        return self

    def __exit__(self, *error):
        self.is_up.clear()
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._there.close()

    # -- its lives -------------------------------------------------------------------------------------------------

    def start(self, prompt_port=None):
        """A new life."""
        if prompt_port is not None:
            self._prompt_port = prompt_port
        environment = {name: text for name, text in os.environ.items() if not name.startswith("CALLREEL_")}
        environment["TMPDIR"] = str(self.folder / "tmp")
        paths = [str(ROOT / "tests" / "support"), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        environment["SOAK_FAILING"] = str(self.failing)
        host = ROOT / "tests" / "support" / "soak_host.py"
        options = ["--config", self.folder / "callreel.toml", "--log", "json"]
        if self.workers is not None:
            options += ["--workers", str(self.workers)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, host, str(self._prompt_port), self.folder / "told", *options],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while True:
            assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/healthz", timeout=2).status_code == 200:
                    break
            assert time.monotonic() < deadline, "the service does not start"
            time.sleep(0.05)
        with self.ends:
            self.life += 1
        self.is_up.set()

    def kill(self):
        """SIGKILL of all its processes."""
        with self.ends:
            self.life += 1
        self.is_up.clear()
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        # One that the disk keeps waiting has its spool until it is gone.
        until(lambda: not group(self.process.pid))

    def stop(self):
        """SIGTERM; its exit status."""
        self.is_up.clear()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def s3_was_away(self, seconds):
        """Whether it was at any time of the last so many seconds."""
        return self.s3_is_away or time.monotonic() - self._s3_back < seconds

    def take_s3_away(self):
        """Kill it."""
        self.s3_is_away = True
        self.s3.kill()

    def bring_s3_back(self):
        """Start it again."""
        self.s3.start()
        self._s3_back, self.s3_is_away = time.monotonic(), False

    # -- what it takes ---------------------------------------------------------------------------------------------

    def figures(self):
        """Of all processes of its group."""
        total, group = Counter(), self.process.pid
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.getpgid(int(path.name)) != group:
                    continue
                total["processes"] += 1
                for line in (path / "status").read_text().splitlines():
                    name, _, text = line.partition(":")
                    if name == "RssAnon":
                        total["memory_kb"] += int(text.split()[0])
                    elif name == "Threads":
                        total["threads"] += int(text)
                for one in (path / "fd").iterdir():
                    with contextlib.suppress(OSError):
                        target = str(one.readlink())
                        total["descriptors"] += 1
                        total["sockets"] += target.startswith("socket:")
                        total["sqlite"] += ".sqlite" in target
        temporary = sum(path.is_file() for path in (self.folder / "tmp").rglob("*"))
        return Figures(
            time.monotonic(), **{name: total[name] for name in Figures._fields[1:-1]}, temporary=temporary
        )

    def client(self, token=TOKEN, **options):
        """Of a tenant."""
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, **options)

    def metric(self, name):
        """The sum of a metric's samples."""
        with self.client(OTHER) as client:
            lines = client.get("/metrics").text.splitlines()
        return sum(
            float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{"))
        )

    def left_in_spool(self):
        """Files of takes and of the queue, and of the latter whose they are."""
        spool, found = self.folder / "spool", []
        for one, name in itertools.product(spools_in(spool).values(), ("takes", "queue")):
            for path in (one / name).rglob("*"):
                with contextlib.suppress(FileNotFoundError):
                    if path.is_file() and (name == "takes" or path.suffix == ".json"):
                        text = path.read_text("latin-1") if name == "queue" else ""
                        found.append((str(path.relative_to(spool)), _group(text)))
        return found

    def closed_ports(self):
        """Ports of RTP that nobody has: as many as there should be."""
        found = 0
        for port in RTP:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, contextlib.suppress(OSError):
                one.bind(("127.0.0.1", port))
                found += 1
        return found

    # -- what it tells ---------------------------------------------------------------------------------------------

    def _webhook(self, request):
        if self.webhook_is_broken.is_set():
            return plain(500)
        body = json.loads(request.body)
        if body["event"] == "take_ended":
            with self._lock:
                takes = self.events.setdefault((body["call_id"], body["recording_id"]), {})
                if body["take_id"] in takes:
                    self.told_twice[body["take_id"]] += 1
                    before = takes[body["take_id"]]
                    assert {**body, "manifest": 0} == {**before, "manifest": 0}
                takes[body["take_id"]] = body
        return plain(200)

    def ended(self, call_id):
        """The terminal events of a call."""
        with self._lock:
            return [
                body for (one, _), takes in self.events.items() if one == call_id for body in takes.values()
            ]

    def all_ended(self):
        """Takes by call and recording."""
        with self._lock:
            return {name: dict(takes) for name, takes in self.events.items()}

    def graph_recording(self, call_id):
        """(location, token) of what Microsoft Graph's customer was told, once it was."""
        path = self.folder / "told"
        with self._lock:
            if path.exists():
                with path.open("rb") as file:
                    file.seek(self._offset)
                    for line in file:
                        if not line.endswith(b"\n"):
                            break
                        self._offset += len(line)
                        self._remember(json.loads(line))
            return self._graph.get(call_id)

    def _remember(self, told):
        for one in told.get("value", ()):
            data = one.get("resourceData") or {}
            if isinstance(data, dict) and data.get("recordingLocation"):
                call_id = data["recordingLocation"].split("/recordings/")[1].split("/")[0]
                self._graph[call_id] = data["recordingLocation"], data["recordingAccessToken"]


def _group(text):
    """Of an entry of the queue: the call."""
    with contextlib.suppress(ValueError):
        return next((json.loads(line).get("group") for line in text.splitlines()), None)
    return None


def by_fate(errors):
    """Counts of what went wrong, for people."""
    return ", ".join(f"{count} {what}" for what, count in Counter(errors).most_common())
