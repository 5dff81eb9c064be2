"""What the service is set up with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from callreel.errors import UsageError
from callreel.notify.references import SecretSource
from callreel.recorder import Settings
from callreel.service.overload import THRESHOLDS, Overload, Threshold
from callreel.service.vendors import VendorSettings

__all__ = ["ServiceSettings"]


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """Where the service listens, who may use it, and how it records."""

    recorder: Settings
    host: str = "127.0.0.1"
    """Of HTTP."""
    port: int = 8080
    """Of HTTP; 0 for one that is free."""
    tokens: Mapping[str, SecretSource] = field(default_factory=dict)
    """Where the token of each tenant is."""
    operators: frozenset[str] = frozenset()
    """Tenants who see the calls and recordings of all, and the figures of the process; one who is alone does anyway."""
    metrics_token: SecretSource | None = None
    """Where a token is that opens /metrics and nothing else."""
    is_open: bool = False
    """Whether nobody needs a token; on loopback only."""
    public_url: str = ""
    """How clients and customers reach the service, for what it tells them; by default by host and port."""
    vendors: VendorSettings = field(default_factory=VendorSettings)
    """The applications of the vendors' customers."""
    rtp_host: str = "127.0.0.1"
    """Where media comes in."""
    rtp_ports: tuple[int, int] = (20_000, 29_999)
    """The first and the last."""
    rtp_shared_port: int | None = None
    """One even port for the legs that ask for it ("shared"); each leg's address or SSRC is announced then."""
    rtp_advertised: str = ""
    """What media servers are told to send to; by default `rtp_host`."""
    audiosocket_host: str = "127.0.0.1"
    audiosocket_port: int | None = None
    """Where Asterisk connects; 0 for a port that is free, None when nobody does."""
    overload: Mapping[str, Threshold] = field(default_factory=lambda: THRESHOLDS)
    """When new recordings are refused, so that those that run stay whole."""
    drain_s: float = 30.0
    """How long running calls may go on when the service is told to end."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        first, last = self.rtp_ports
        if not 1024 <= first <= last <= 65_535:
            raise UsageError("rtp_ports are the first and the last port, of 1024 to 65535")
        if not 0 <= self.port <= 65_535:
            raise UsageError(f"port {self.port} is none")
        if not 0 <= (self.audiosocket_port or 0) <= 65_535:
            raise UsageError(f"port {self.audiosocket_port} is none")
        if not self.is_open and not self.tokens:
            raise UsageError("a tenant needs a token; is_open is for loopback only")
        if strangers := sorted(self.operators - self.tokens.keys()):
            raise UsageError(f"the operator {strangers[0]} is no tenant")
        Overload(self.overload)

    @property
    def url(self) -> str:
        """How clients and customers reach the service."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.public_url.rstrip("/") or f"http://{host}:{self.port}"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders from which recordings may be read."""
        folders = [self.recorder.spool / "drive", self.recorder.spool / "held"]
        destination = self.recorder.destination
        if destination is not None and not destination.startswith("s3://"):
            folders.append(Path(destination))
        return tuple(folders)
