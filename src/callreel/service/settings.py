"""What the service is set up with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from callreel.errors import UsageError
from callreel.notify.references import SecretSource
from callreel.recorder import Settings
from callreel.service.access import is_loopback
from callreel.service.overload import THRESHOLDS, Overload, Threshold
from callreel.service.vendors import VendorSettings
from callreel.service.watching import processors
from callreel.spool import worker_spool

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
    workers: int | None = None
    """Processes, each with calls of its own; None for one a processor, as far as there are ports for them."""
    shared: Path | None = None
    """The folder of what all workers have together: the library, Drive, what is held; by default the spool."""

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
        if self.is_open and not is_loopback(self.host):
            raise UsageError(
                f"without authentication the service listens on loopback only, not on {self.host}: give tenants tokens"
            )
        if strangers := sorted(self.operators - self.tokens.keys()):
            raise UsageError(f"the operator {strangers[0]} is no tenant")
        Overload(self.overload)
        self._check_workers()

    def _check_workers(self) -> None:
        """Refuse more workers than there are ports for."""
        if self.workers is None:
            return
        if self.workers < 1:
            raise UsageError("workers are 1 or more")
        if self.workers > max(1, self._port_pairs):
            raise UsageError(f"rtp_ports are {self._port_pairs} pairs, too few for {self.workers} workers")
        if self.rtp_shared_port is not None and self.rtp_shared_port + 2 * self.workers > 65_536:
            raise UsageError("rtp_shared_port: each worker needs the next two ports, and there are too few")

    @property
    def _port_pairs(self) -> int:
        first, last = self.rtp_ports
        return (last + 1 - first - first % 2) // 2

    @property
    def worker_count(self) -> int:
        """How many workers there are."""
        if self.workers is not None:
            return self.workers
        limits = [processors(), self._port_pairs]
        if self.rtp_shared_port is not None:
            limits.append((65_536 - self.rtp_shared_port) // 2)
        return max(1, min(limits))

    @property
    def shared_folder(self) -> Path:
        """Where what all workers have together lies."""
        return self.shared or self.recorder.spool

    def of_worker(self, index: int) -> ServiceSettings:
        """The settings of one of the workers: a spool and ports of its own."""
        size = self.worker_count
        if size == 1:
            return self
        first, _ = self.rtp_ports
        each = 2 * (self._port_pairs // size)
        begin = first + first % 2 + each * index
        return replace(
            self,
            recorder=replace(self.recorder, spool=worker_spool(self.recorder.spool, index)),
            rtp_ports=(begin, begin + each - 1),
            rtp_shared_port=None if self.rtp_shared_port is None else self.rtp_shared_port + 2 * index,
            workers=1,
            shared=self.shared_folder,
        )

    @property
    def url(self) -> str:
        """How clients and customers reach the service."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.public_url.rstrip("/") or f"http://{host}:{self.port}"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders from which recordings may be read."""
        folders = [self.shared_folder / "drive", self.shared_folder / "held"]
        destination = self.recorder.destination
        if destination is not None and not destination.startswith("s3://"):
            folders.append(Path(destination))
        return tuple(folders)
