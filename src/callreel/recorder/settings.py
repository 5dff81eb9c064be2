"""What a recorder is set up with; docs/recorder.md has a table of it.

`callreel.recorder.configuration` reads it from a TOML file and the environment. A field is a key of the table that its
metadata names, a field that is a dataclass is a table of its own; what is not in a repr is a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from callreel.delivery.drive import DRIVE_URL
from callreel.delivery.s3_settings import S3Settings
from callreel.encryption import KeyFile, Keys, KmsKey
from callreel.errors import UsageError
from callreel.keys import safe_component
from callreel.recorder.ways import Ways
from callreel.spool import Limits, Policy, Retention, Space

__all__ = ["Settings"]

SPOOL: Final[Mapping[str, Any]] = {"table": "spool"}
DELIVERY: Final[Mapping[str, Any]] = {"table": "delivery"}
ENCRYPTION: Final[Mapping[str, Any]] = {"table": "encryption"}


@dataclass(frozen=True, slots=True)
class Settings:
    """Where recordings lie, where they go, who is told, and how many may be on their way at a time."""

    spool: Path = field(metadata={**SPOOL, "key": "folder"})
    """The folder of the spool, which is made if need be."""
    destination: str | None = field(default=None, metadata=DELIVERY)
    """Where recordings go whose requests name no destination: "s3://bucket/prefix" or a folder."""
    s3: S3Settings | None = None
    """How S3 is reached and how files are stored there, whatever the bucket; by default as boto3 does."""
    drive_retention_s: float | None = field(default=None, metadata=DELIVERY)
    """How long Sinch Drive keeps recordings; None for ever."""
    drive_url: str = field(default=DRIVE_URL, metadata=DELIVERY)
    """What stands before the keys of Sinch Drive: the URL that customers are told."""

    fsync: Policy = field(default="interval", metadata=SPOOL)
    """What is done for a machine that dies: "none", audio every `fsync_interval_s`, or "always" after each write."""
    fsync_interval_s: float = field(default=1.0, metadata=SPOOL)
    limits: Limits = field(default_factory=Limits)
    """What may wait for the disk."""
    space: Space = field(default_factory=Space)
    """When new recordings are refused, and accepted again."""
    retention: Retention = field(default_factory=Retention)
    """How long the spool keeps what has been delivered."""

    key_file: Path | None = field(default=None, metadata=ENCRYPTION)
    """Encrypt what is spooled and what is delivered: a file of 32 random bytes (docs/encryption.md)."""
    kms_key_id: str | None = field(default=None, metadata=ENCRYPTION)
    """The same, by a key of AWS KMS: its id, alias or ARN."""
    kms_region: str | None = field(default=None, metadata=ENCRYPTION)
    kms_endpoint_url: str | None = field(default=None, metadata=ENCRYPTION)

    makers: int = field(default=2, metadata=DELIVERY)
    """Files that are made at a time."""
    carriers: int = field(default=64, metadata=DELIVERY)
    """Deliveries at a time, to all destinations together."""
    tellers: int = field(default=64, metadata=DELIVERY)
    """Messages and events that are told at a time."""
    per_destination: int = field(default=8, metadata=DELIVERY)
    """Of these at most so many to one bucket or address at a time: one that hangs leaves room for others."""

    notify: Ways = field(default_factory=Ways)
    """How customers and whoever wants terminal events are told, where the host has no ways of its own."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        object.__setattr__(self, "spool", Path(self.spool))
        for name in ("makers", "carriers", "tellers", "per_destination", "fsync_interval_s"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is more than 0, not {getattr(self, name)}")
        if self.key_file is not None:
            object.__setattr__(self, "key_file", Path(self.key_file))
            if self.kms_key_id is not None:
                raise UsageError("recordings are encrypted by key_file or by kms_key_id, not by both")

    def drive_folder(self, name: str | None = None) -> Path:
        """Where Sinch Drive keeps its recordings; `name` that of a drive of somebody's own."""
        return self.spool / "drive" if name is None else self.spool / "drives" / safe_component(name)

    def keys(self) -> Keys | None:
        """What recordings are encrypted with; UsageError for a key file that will not do."""
        if self.key_file is not None:
            return KeyFile(self.key_file)
        if self.kms_key_id is not None:
            return KmsKey(self.kms_key_id, region=self.kms_region, endpoint_url=self.kms_endpoint_url)
        return None
