"""A service that listens on loopback, in a thread of the test."""

import contextlib
import threading
import time

import httpx2 as httpx

from callreel.notify.references import FromFile
from callreel.recorder import Settings
from callreel.service.running import serve_until
from callreel.service.settings import ServiceSettings

TOKENS = {"acme": "acme-token-0123456789abcdef", "other": "other-token-0123456789abcdef"}


def settings_in(folder, *, tokens=TOKENS, port=0, **changes):
    """Settings with a token file for each tenant; recordings go to `folder`/out."""
    sources = {}
    for tenant, token in tokens.items():
        path = folder / f"{tenant}.token"
        path.write_text(token + "\n")
        path.chmod(0o600)
        sources[tenant] = FromFile(path)
    recorder = Settings(folder / "spool", destination=str(folder / "out"))
    return ServiceSettings(recorder, port=port, tokens=sources, **changes)


class Running:
    """A service and clients of its tenants."""

    def __init__(self, service, port):
        self.service, self.port = service, port
        self.url = f"http://127.0.0.1:{port}"
        self._clients = []

    def client(self, tenant="acme", **options):
        headers = {} if tenant is None else {"Authorization": f"Bearer {TOKENS.get(tenant, tenant)}"}
        client = httpx.Client(base_url=self.url, headers=headers, timeout=20, **options)
        self._clients.append(client)
        return client

    def close(self):
        for client in self._clients:
            client.close()


@contextlib.contextmanager
def listening(service):
    """Serve HTTP until the block is left."""
    ports, is_there, stop = [], threading.Event(), threading.Event()

    def on_listening(port):
        ports.append(port)
        is_there.set()

    thread = threading.Thread(target=serve_until, args=(service, stop, on_listening))
    thread.start()
    assert is_there.wait(20)
    running = Running(service, ports[0])
    try:
        yield running
    finally:
        running.close()
        stop.set()
        thread.join()
        service.close()


def until(read, timeout_s=15.0):
    """What `read` gives as soon as it gives something."""
    end = time.monotonic() + timeout_s
    while not (found := read()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found
