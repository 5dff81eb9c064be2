"""Proxies that do what networks and servers do: cut, lose, refuse, dawdle; one knows HTTP, one does not."""

import contextlib
import itertools
import socket
import struct
import threading
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Cut:
    """The connection breaks after so many bytes of the body; the server never sees the rest."""

    after_bytes: int = 0


@dataclass(frozen=True)
class LoseAnswer:
    """The server does it; nobody is told."""


@dataclass(frozen=True)
class Answer:
    """The server never sees the request; this is the answer."""

    status: int
    headers: tuple = ()
    body: bytes = b""


@dataclass(frozen=True)
class Slow:
    """The answer comes late."""

    seconds: float


class FaultProxy:
    """Stands in front of a server; `faults` are met by requests in turn, `seen` is what came by."""

    def __init__(self, port):
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.faults = {}
        """By the number of the request since `reset`, from 0."""
        self.always = None
        """Of every request that has no other."""
        self.seen = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def reset(self, faults=None, always=None):
        with self._lock:
            self.faults = faults or {}
            self.always = always
            self.seen = []
            self._numbers = itertools.count()

    def close(self):
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with client, contextlib.suppress(OSError):
            client.settimeout(30)
            while self._one(client):
                pass

    def _one(self, client):
        head = _read_head(client)
        if not head:
            return False
        start, body = head
        line, *lines = start.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ", 2)
        headers = {name.lower(): text.strip() for name, _, text in (one.partition(":") for one in lines)}
        size_bytes = int(headers.get("content-length", 0))
        with self._lock:
            number = next(self._numbers)
            fault = self.faults.get(number, self.always)
            self.seen.append((method, target))
        if headers.get("expect"):
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if isinstance(fault, Cut):
            while len(body) < min(fault.after_bytes, size_bytes) and (data := client.recv(65536)):
                body += data
            if fault.after_bytes:
                with self._connect() as server:
                    server.sendall(start + b"\r\n\r\n" + body[: fault.after_bytes])
                    time.sleep(0.02)
            _break(client)
            return False
        while len(body) < size_bytes and (data := client.recv(1 << 18)):
            body += data
        if isinstance(fault, Answer):
            lines = [f"HTTP/1.1 {fault.status} Because", f"Content-Length: {len(fault.body)}"]
            lines += [f"{name}: {text}" for name, text in fault.headers]
            client.sendall("\r\n".join([*lines, "", ""]).encode() + (fault.body if method != "HEAD" else b""))
            return True
        kept = [one for one in lines if not one.lower().startswith(("connection:", "expect:"))]
        with self._connect() as server:
            server.sendall("\r\n".join([line, *kept, "Connection: close", "", ""]).encode("latin-1") + body)
            answer = b""
            while data := server.recv(1 << 18):
                answer += data
        if isinstance(fault, LoseAnswer):
            _break(client)
            return False
        if isinstance(fault, Slow):
            time.sleep(fault.seconds)
        client.sendall(answer)
        return False

    def _connect(self):
        return socket.create_connection(("127.0.0.1", self._upstream), timeout=30)


def _read_head(client):
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        if not more:
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


def _break(client):
    """A reset, not a goodbye."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class ByteProxy:
    """Passes bytes on; once, after so many of them from the client, it breaks the connection they came by."""

    def __init__(self, port):
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.passed_bytes = 0
        self.cuts = 0
        self.on_cut = lambda: None
        self._cut_at_bytes = None
        self._open_ones = set()
        self._threads = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, count):
        """Break the connection when so many more bytes have come from the client."""
        with self._lock:
            self._cut_at_bytes = self.passed_bytes + count

    def close(self):
        self._listener.close()
        for one in tuple(self._open_ones):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._upstream), timeout=30)
            except OSError:
                client.close()
                continue
            thread = threading.Thread(target=self._serve, args=(client, server), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client, server):
        self._open_ones |= {client, server}
        back = threading.Thread(target=self._pass, args=(server, client, False), daemon=True)
        back.start()
        self._pass(client, server, True)
        back.join()
        self._open_ones -= {client, server}
        client.close()
        server.close()

    def _pass(self, source, target, is_from_client):
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                if is_from_client and self._is_cut(len(data)):
                    self.on_cut()
                    break
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _is_cut(self, count):
        with self._lock:
            self.passed_bytes += count
            if self._cut_at_bytes is None or self.passed_bytes < self._cut_at_bytes:
                return False
            self._cut_at_bytes = None
            self.cuts += 1
            return True
