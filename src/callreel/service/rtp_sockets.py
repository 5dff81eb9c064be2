"""The sockets of RTP ports, which ports are free, and addresses as sockets and people write them."""

from __future__ import annotations

import random
import socket
import time
from collections import Counter, deque
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from callreel.kernels import udp

__all__ = ["Ends", "PortRange", "name_of", "text_of"]


class Ends:
    """A port's sockets: RTP, and RTCP unless it is multiplexed."""

    __slots__ = ("is_shared", "media", "media_number", "port", "report_number", "reports")

    def __init__(
        self, port: int, media: socket.socket, reports: socket.socket | None, *, is_shared: bool
    ) -> None:
        """Bound sockets; without `reports` RTCP comes with RTP."""
        self.port = port
        self.media = media
        self.reports = reports
        self.is_shared = is_shared
        self.media_number = -1
        self.report_number: int | None = None

    def join(self, demultiplexer: udp.Demultiplexer, buffer_bytes: int) -> int:
        """Be read from now on; returns what the buffer was granted."""
        self.media_number, granted = demultiplexer.add_socket(
            self.media.fileno(), shared=self.is_shared, receive_buffer_bytes=buffer_bytes
        )
        if self.reports is not None:
            self.report_number, _ = demultiplexer.add_socket(
                self.reports.fileno(), shared=self.is_shared, control=True, receive_buffer_bytes=buffer_bytes
            )
        return granted

    def sweep(self, demultiplexer: udp.Demultiplexer) -> None:
        """Read at once what has come."""
        demultiplexer.sweep(self.media_number)
        if self.report_number is not None:
            demultiplexer.sweep(self.report_number)

    def leave(self, demultiplexer: udp.Demultiplexer) -> None:
        """Be closed; streams on it were closed before."""
        if self.media_number >= 0:
            demultiplexer.remove_socket(self.media_number)
        if self.report_number is not None:
            demultiplexer.remove_socket(self.report_number)
        self.media.close()
        if self.reports is not None:
            self.reports.close()

    def counts(self, demultiplexer: udp.Demultiplexer) -> Counter[str]:
        """Datagrams by fate that belong to no stream."""
        total: Counter[str] = Counter()
        for number in (self.media_number, self.report_number):
            if number is not None and number >= 0:
                total.update(demultiplexer.socket_counts(number))
        return total

    @property
    def description(self) -> dict[str, Any]:
        """JSON: which ports they are."""
        has_mux = self.reports is None
        return {"port": self.port, "rtcp_port": self.port + (not has_mux), "rtcp_mux": has_mux}


class PortRange:
    """Even ports with the odd ones above them; each rests after use. Not guarded against a second thread."""

    def __init__(self, ports: Iterable[int], quarantine_s: float) -> None:
        """Those of `ports` that are even; each rests for `quarantine_s` after use."""
        chosen = [port for port in ports if port % 2 == 0 and 0 < port < 65535]
        random.SystemRandom().shuffle(chosen)  # nobody knows where the next call will be
        self._fresh = deque(chosen)
        self._resting: deque[tuple[float, int]] = deque()
        self._quarantine_s = quarantine_s

    def __len__(self) -> int:
        """How many are free, or will be after their rest."""
        return len(self._fresh) + len(self._resting)

    def take(self) -> int | None:
        """One that is free; None when there is none."""
        while self._resting and self._resting[0][0] <= time.monotonic():
            self._fresh.append(self._resting.popleft()[1])
        return self._fresh.popleft() if self._fresh else None

    def put_back(self, port: int) -> None:
        """It was not used."""
        self._fresh.append(port)

    def give_back(self, port: int) -> None:
        """It is not used any more."""
        self._resting.append((time.monotonic() + self._quarantine_s, port))


def name_of(address: udp.Address) -> tuple[Any, ...]:
    """As a socket's `sendto` takes it."""
    host = str(ip_address(address.packed))
    return (host, address.port) if len(address.packed) == 4 else (host, address.port, 0, address.scope)


def text_of(address: udp.Address) -> str:
    """As people write it."""
    host = str(ip_address(address.packed))
    return f"{host}:{address.port}" if len(address.packed) == 4 else f"[{host}]:{address.port}"
