"""The vendors' customers: whose credentials open which tenant's calls, and how each is told what happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from callreel.errors import UsageError
from callreel.notify import Notifier
from callreel.notify.references import SecretSource

__all__ = [
    "AwsCredential",
    "ChimeSettings",
    "GraphApplication",
    "GraphSettings",
    "SinchApplication",
    "SinchSettings",
    "SipMediaApplication",
    "VendorSettings",
]


@dataclass(frozen=True, slots=True)
class AwsCredential:
    """What an access key id stands for."""

    tenant: str
    secret: SecretSource
    """Where the secret access key is."""


@dataclass(frozen=True, slots=True)
class SipMediaApplication:
    """One of Amazon Chime SDK's SIP media applications."""

    tenant: str
    handler: Notifier | None = None
    """The customer's program (`callreel.service.handlers`); without one its invocations are in the event stream."""
    account_id: str = ""
    record_audio_format: str = "mp3"
    media: str = "rtp"
    """What carries the audio of calls that CreateSipMediaApplicationCall begins."""


@dataclass(frozen=True, slots=True)
class ChimeSettings:
    """Amazon Chime SDK."""

    credentials: Mapping[str, AwsCredential] = field(default_factory=dict)
    """By access key id."""
    applications: Mapping[str, SipMediaApplication] = field(default_factory=dict)
    """By SipMediaApplicationId."""
    region: str = "us-east-1"
    """Which clients must sign for; told in CallDetails."""


@dataclass(frozen=True, slots=True)
class SinchApplication:
    """An application of Sinch's voice API."""

    tenant: str
    secret: SecretSource
    """Where the application secret is, in base64 as Sinch gives it."""
    backend: Notifier | None = None
    """Who answers callbacks and hears notifications; without one they are in the event stream."""


@dataclass(frozen=True, slots=True)
class SinchSettings:
    """Sinch."""

    applications: Mapping[str, SinchApplication] = field(default_factory=dict)
    """By application key."""


@dataclass(frozen=True, slots=True)
class GraphApplication:
    """An application that is registered with Microsoft Entra."""

    tenant: str
    backend: Notifier | None = None
    """Who hears notifications; without one they are in the event stream."""


@dataclass(frozen=True, slots=True)
class GraphSettings:
    """Microsoft Graph."""

    applications: Mapping[str, GraphApplication] = field(default_factory=dict)
    """By application (client) id."""
    issuers: Sequence[str] = ()
    """Whose tokens are taken: `iss`."""
    audiences: Sequence[str] = ("https://graph.microsoft.com", "00000003-0000-0000-c000-000000000000")
    """Whom the tokens must be for: `aud`."""
    jwks: Path | Mapping[str, Any] | None = None
    """The issuers' public keys, RFC 7517: a file, which is read again when it changes, or what is in it."""
    revision: str = "seed"
    """Which edition of the reference notifications keep to: "seed" or "current"."""
    grace_s: float = 600.0
    """How long after its call a recording can be downloaded."""

    def __post_init__(self) -> None:
        """Refuse applications whose tokens nobody could verify."""
        if self.applications and not (self.issuers and self.audiences and self.jwks is not None):
            raise UsageError(
                "Graph's applications need issuers, audiences and jwks, or no token can be verified"
            )


@dataclass(frozen=True, slots=True)
class VendorSettings:
    """All of them."""

    chime: ChimeSettings = field(default_factory=ChimeSettings)
    sinch: SinchSettings = field(default_factory=SinchSettings)
    graph: GraphSettings = field(default_factory=GraphSettings)
