"""Peers on loopback: sockets that send RTP and RTCP as a test says, and remember what they are sent."""

import socket
import struct
import time
from collections.abc import Iterable

from callreel.kernels import udp
from capture_writer import rtp_packet

HOSTS = {4: "127.0.0.1", 6: "::1"}
PACKET_S = 0.02


class Peer:
    """One UDP socket."""

    def __init__(self, version: int = 4, port: int = 0, host: str | None = None) -> None:
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        self.host = HOSTS[version] if host is None else host
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.bind((self.host, port))
        self.port = self.socket.getsockname()[1]
        self.version = version

    @property
    def name(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def address(self) -> udp.Address:
        family = socket.AF_INET6 if self.version == 6 else socket.AF_INET
        return udp.Address(socket.inet_pton(family, self.host), self.port)

    def send(self, data: bytes, port: int, host: str | None = None) -> None:
        self.socket.sendto(data, (self.host if host is None else host, port))

    def rtp(
        self, port: int, numbers: Iterable[int], *, ssrc: int = 7, payload: bytes = bytes(160), **fields
    ) -> None:
        for number in numbers:
            self.send(rtp_packet(payload, seq=number, timestamp=160 * number, ssrc=ssrc, **fields), port)

    def talk(
        self, port: int, codes: bytes, *, ssrc: int = 7, first: int = 0, drop=(), payload_type: int = 0
    ) -> None:
        """Send codes in packets of 20 ms, each when it is due; those in `drop` are lost."""
        begin = time.monotonic()
        for number in range(len(codes) // 160):
            wait_s = begin + number * PACKET_S - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            if number not in drop:
                payload = codes[160 * number : 160 * number + 160]
                self.rtp(port, [first + number], ssrc=ssrc, payload=payload, payload_type=payload_type)

    def received(self, timeout_s: float = 1.0) -> bytes | None:
        self.socket.settimeout(timeout_s)
        try:
            return self.socket.recv(65536)
        except TimeoutError:
            return None

    def all_received(self) -> list[bytes]:
        """What has come by now."""
        found = []
        while (data := self.received(0.05)) is not None:
            found.append(data)
        return found

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.socket.close()


def bye(ssrc: int) -> bytes:
    """A receiver report without blocks, and a BYE."""
    return struct.pack(">BBHI", 0x80, 201, 1, ssrc) + struct.pack(">BBHI", 0x81, 203, 1, ssrc)


def wait_for(condition, timeout_s: float = 5.0):
    """Its value as soon as it is true."""
    until = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < until, "it did not become true"
        time.sleep(0.005)
    return value
