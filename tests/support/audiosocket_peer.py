"""Asterisk's side of AudioSocket: `app_audiosocket` as its documentation and its source have it."""

import contextlib
import socket
import threading
import time
import uuid

FRAME_S = 0.02


def written(kind, payload=b""):
    return bytes([kind]) + len(payload).to_bytes(2, "big") + payload


class AsteriskPeer:
    """Connects, says its UUID at once, then sends frames in real time; what comes back is kept with its time."""

    def __init__(self, address, identity, *, kind=0x10):
        host, _, port = address.rpartition(":")
        self.kind = kind
        self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = []
        """(time, kind, payload) of each message."""
        self.ended = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        try:
            if identity is not None:
                self.send(0x01, uuid.UUID(str(identity)).bytes)
        except OSError:
            self.close()
            raise
        self._reader.start()

    def send(self, kind, payload=b""):
        self.socket.sendall(written(kind, payload))

    def say(self, pcm, *, rate=8000, speed=1.0):
        """Frames of 20 ms, each when it is due."""
        size = rate // 50 * 2
        start = time.monotonic()
        for number, at in enumerate(range(0, len(pcm), size)):
            due = start + (number + 1) * FRAME_S / speed
            time.sleep(max(0.0, due - time.monotonic()))
            self.send(self.kind, pcm[at : at + size])

    @property
    def played(self):
        """The audio that came, in one."""
        return b"".join(payload for _, kind, payload in self.received if 0x10 <= kind <= 0x18)

    def _read(self):
        held = b""
        try:
            while data := self.socket.recv(65536):
                held += data
                while len(held) >= 3 and len(held) >= 3 + int.from_bytes(held[1:3], "big"):
                    size = int.from_bytes(held[1:3], "big")
                    self.received.append((time.monotonic(), held[0], held[3 : 3 + size]))
                    held = held[3 + size :]
        except OSError:
            pass
        self.ended.set()

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # while the reader waits, `close` alone would send nothing
        self.socket.close()
