"""What an S3 destination is made of: settings, credentials, and the boto3 client that they make."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, Literal, NoReturn
from urllib.parse import urlsplit

from callreel.errors import UsageError

__all__ = ["S3Credentials", "S3Settings", "make_client", "prepare"]

MIB = 1 << 20
MIN_PART_BYTES = 5 * MIB
"""S3 takes no smaller part, but for the last one."""

MAX_PART_BYTES = 5 << 30

DEFAULT_REGION = "us-east-1"

_making = threading.Lock()  # boto3 makes one client at a time: its sessions are not for several threads


class S3Credentials:
    """An access key and its secret, which no repr and no message of ours shows."""

    __slots__ = ("access_key", "secret_key", "session_token")

    def __init__(self, access_key: str, secret_key: str, session_token: str | None = None) -> None:
        """Keep what requests are signed with."""
        if not access_key or not secret_key:
            raise UsageError("an access key and a secret key are needed")
        self.access_key = access_key
        self.secret_key = secret_key
        self.session_token = session_token

    @classmethod
    def parse(cls, text: str) -> tuple[S3Credentials, str]:
        """Take Sinch's `key:secret:region` apart: the credentials and the region."""
        parts = text.split(":")
        if len(parts) != 3 or not all(parts):
            raise UsageError("credentials for S3 are AwsAccessKey:AwsSecretKey:AwsRegion")
        access_key, secret_key, region = parts
        return cls(access_key, secret_key), region

    def redacted(self, text: str) -> str:
        """Give `text` without any of these."""
        for secret in (self.secret_key, self.session_token, self.access_key):
            if secret:
                text = text.replace(secret, "***")
        return text

    def __repr__(self) -> str:
        """Show nothing."""
        return "S3Credentials(***)"

    def __reduce__(self) -> NoReturn:
        """Refuse to be written down: a pickle may end anywhere."""
        raise UsageError("credentials are not pickled: give them again where they are needed")

    def __eq__(self, other: object) -> bool:
        """Tell whether both sign the same way."""
        return isinstance(other, S3Credentials) and self._all == other._all

    def __hash__(self) -> int:
        """Hash what is compared."""
        return hash(self._all)

    @property
    def _all(self) -> tuple[str, str, str | None]:
        return self.access_key, self.secret_key, self.session_token


@dataclass(frozen=True, slots=True)
class S3Settings:
    """A bucket, how it is reached, and how files are stored there; `docs/s3.md` tells more of each."""

    bucket: str

    endpoint_url: str | None = None
    """Of a store that is not AWS's; the default is the region's."""
    region: str | None = None
    """The default is that of the environment, and us-east-1 if there is none."""
    path_style: bool | None = None
    """The bucket in the path (True) or in the host name (False); the default is boto3's choice."""
    proxy: str | None = field(default=None, repr=False)
    ca_bundle: str | None = None
    """A PEM file; TLS certificates are always verified."""
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    max_connections: int = 16

    credentials: S3Credentials | None = field(default=None, repr=False)
    """The default is boto3's chain: environment, files, container, instance."""
    role_arn: str | None = None
    """Assumed with those credentials, again whenever it is about to run out."""
    role_external_id: str | None = field(default=None, repr=False)
    sts_endpoint_url: str | None = None

    acl: str | None = None
    """Such as "bucket-owner-full-control"."""
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    sse_kms_key_id: str | None = None
    storage_class: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    object_lock_mode: Literal["GOVERNANCE", "COMPLIANCE"] | None = None
    object_lock_until: datetime | None = None
    legal_hold: bool = False
    expected_bucket_owner: str | None = None
    """The account id; a bucket that belongs to somebody else is refused."""

    overwrite: bool = False
    """Whether something else of a key is replaced, whatever a parcel says."""
    conditional_put: bool = True
    """Whether the store knows `If-None-Match`. Without, we look before we put."""
    checksum: Literal["SHA256", "CRC32C"] | None = "SHA256"
    """What is sent with a file and compared with what is stored; None for a store that refuses such headers."""
    request_checksum_calculation: Literal["when_supported", "when_required"] = "when_supported"
    """boto3's own checksums, of requests that have none of ours."""
    always_look: bool = False
    """Whether every object is looked at after its put, though its answer had the right SHA-256."""
    multipart_from_bytes: int = 8 * MIB
    """A file of this size or more goes in parts."""
    part_bytes: int = 8 * MIB

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not self.bucket or "/" in self.bucket:
            raise UsageError(f"not the name of a bucket: {self.bucket!r}")
        if self.endpoint_url is not None:
            parts = urlsplit(self.endpoint_url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
                raise UsageError("an endpoint is http(s)://host[:port], without credentials")
        if self.sse_kms_key_id is not None and self.sse not in ("aws:kms", "aws:kms:dsse"):
            raise UsageError("sse_kms_key_id goes with sse aws:kms")
        if (self.object_lock_mode is None) != (self.object_lock_until is None):
            raise UsageError("object_lock_mode and object_lock_until go together")
        if self.object_lock_until is not None and self.object_lock_until.tzinfo is None:
            raise UsageError("object_lock_until must know its time zone")
        if not MIN_PART_BYTES <= self.part_bytes <= MAX_PART_BYTES:
            raise UsageError("a part has 5 MiB to 5 GiB")
        if self.multipart_from_bytes < 1:
            raise UsageError("multipart_from_bytes is at least 1")
        object.__setattr__(self, "tags", dict(self.tags))


def make_client(settings: S3Settings) -> Any:
    """Make the boto3 client of `settings`; where credentials come from the default chain, they are looked up now."""
    import boto3.session
    from botocore.config import Config

    with _making:
        core = _session(None if settings.role_arn else settings.credentials)
        if settings.role_arn is not None:
            core.get_component("credential_provider").providers.insert(0, _role(settings))
        session = boto3.session.Session(region_name=settings.region, botocore_session=core)
        style = {None: "auto", True: "path", False: "virtual"}[settings.path_style]
        return session.client(
            "s3",
            region_name=session.region_name or DEFAULT_REGION,
            endpoint_url=settings.endpoint_url,
            verify=settings.ca_bundle,
            config=Config(
                s3={"addressing_style": style},
                connect_timeout=settings.connect_timeout_s,
                read_timeout=settings.read_timeout_s,
                max_pool_connections=settings.max_connections,
                proxies=_proxies(settings),
                request_checksum_calculation=settings.request_checksum_calculation,
                tcp_keepalive=True,
                # Who waits how long is the queue's business; what has to be tried again at once, `S3` does itself.
                retries={"mode": "standard", "total_max_attempts": 1},
            ),
        )


def prepare() -> None:
    """Import boto3 and read what it knows of S3, which takes about a second, so that the first delivery need not.

    Nothing is asked for outside: no credentials are looked up.
    """
    with _making:
        _session(S3Credentials("none", "none")).create_client("s3", region_name=DEFAULT_REGION)


def _session(credentials: S3Credentials | None) -> Any:
    from botocore.session import Session

    core = Session()
    core.register_component("data_loader", _data_loader())
    if credentials is not None:
        core.set_credentials(credentials.access_key, credentials.secret_key, credentials.session_token)
    return core


@cache
def _data_loader() -> Any:
    """What boto3 knows of S3, read once: a client of a recording's own credentials then takes 8 ms, not 80."""
    from botocore.loaders import create_loader

    return create_loader()


def _proxies(settings: S3Settings) -> dict[str, str] | None:
    return {"http": settings.proxy, "https": settings.proxy} if settings.proxy else None


def _role(settings: S3Settings) -> Any:
    """A source of credentials that assumes the role, when they are first needed and whenever they run out."""
    from botocore.config import Config
    from botocore.credentials import (
        AssumeRoleCredentialFetcher,
        CredentialProvider,
        DeferredRefreshableCredentials,
    )
    from botocore.exceptions import NoCredentialsError

    source = _session(settings.credentials)

    def make_sts(service_name: str, **arguments: Any) -> Any:
        return source.create_client(
            service_name,
            region_name=settings.region or DEFAULT_REGION,
            endpoint_url=settings.sts_endpoint_url,
            verify=settings.ca_bundle,
            config=Config(
                connect_timeout=settings.connect_timeout_s,
                read_timeout=settings.read_timeout_s,
                proxies=_proxies(settings),
            ),
            **arguments,
        )

    def assume() -> Any:
        with _making:
            own = source.get_credentials()
            if own is None:
                raise NoCredentialsError
            extra = {"RoleSessionName": "callreel"}
            if settings.role_external_id is not None:
                extra["ExternalId"] = settings.role_external_id
            fetcher = AssumeRoleCredentialFetcher(make_sts, own, settings.role_arn, extra_args=extra)
            return fetcher.fetch_credentials()

    class Role(CredentialProvider):  # type: ignore[misc]  # botocore is untyped
        METHOD = CANONICAL_NAME = "custom-callreel-role"

        def load(self) -> Any:
            return DeferredRefreshableCredentials(assume, self.METHOD)

    return Role()
