"""A service that listens on loopback, in a thread of the test."""

import contextlib
import json
import threading
import time

import httpx2 as httpx

from callreel.notify.references import FromFile
from callreel.recorder import Settings
from callreel.service.running import serve_until
from callreel.service.settings import ServiceSettings

TOKENS = {"acme": "acme-token-0123456789abcdef", "other": "other-token-0123456789abcdef"}


def settings_in(folder, *, tokens=TOKENS, port=0, **changes):
    """Settings with a token file for each tenant; recordings go to `folder`/out.

    No load is too much by default: services of a test share one process, and a machine that may be busy besides.
    """
    sources = {}
    for tenant, token in tokens.items():
        path = folder / f"{tenant}.token"
        path.write_text(token + "\n")
        path.chmod(0o600)
        sources[tenant] = FromFile(path)
    recorder = Settings(folder / "spool", destination=str(folder / "out"))
    return ServiceSettings(recorder, port=port, tokens=sources, **{"overload": {}, **changes})


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

    def end():
        stop.set()
        thread.join()
        service.close()

    running.end = end
    try:
        yield running
    finally:
        running.close()
        if not stop.is_set():
            end()


def events_of(lines):
    """Server-sent events by the rules of HTML's section 9.2: an id stays until another one comes."""
    number, name, data = None, "message", []
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "id" and line:
            number = value
        elif field == "event" and line:
            name = value
        elif field == "data" and line:
            data.append(value)
        elif not line:
            if data:
                yield {"id": number, "event": name} | json.loads("\n".join(data))
            name, data = "message", []


def read_events(client, is_last, **options):
    """Server-sent events until one that is the last to be read."""
    found = []
    with client.stream("GET", "/v1/events", **options) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for event in events_of(answer.iter_lines()):
            found.append(event)
            if is_last(event):
                return found
    raise AssertionError(found)


def until(read, timeout_s=15.0):
    """What `read` gives as soon as it gives something."""
    end = time.monotonic() + timeout_s
    while not (found := read()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found
