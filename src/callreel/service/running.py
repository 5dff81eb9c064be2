"""The service as a whole: put together, begun, ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import uvicorn

from callreel.notify import Answer, Notification, Notifier
from callreel.recorder import Recorder, TakeEnded
from callreel.service.access import Access, check_exposure
from callreel.service.app import make_app
from callreel.service.audio import AudioReader, FileSource, Source
from callreel.service.host import Host, MediaOpener
from callreel.service.library import Library
from callreel.service.prompts import Prompts
from callreel.service.settings import ServiceSettings
from callreel.service.stream import EventStream

__all__ = ["Service", "serve"]

log = logging.getLogger("callreel.service")

CONNECTIONS_MAX = 2000
KEEP_ALIVE_S = 30


class _Shelf:
    """Puts every recording that has ended into the library, and then tells whom the settings name."""

    lane = "library"

    def __init__(self, library: Library, beyond: Notifier | None) -> None:
        self._library, self._beyond = library, beyond

    def tell(self, notification: Notification) -> Answer | None:
        body = {name: value for name, value in notification.body.items() if name in TakeEnded._fields}
        ended = TakeEnded(**body)
        labels = ended.manifest.get("labels", {})
        self._library.add(str(labels.get("tenant", "")), ended, now_s=time.time())
        return None if self._beyond is None else self._beyond.tell(notification)


class Service:
    """Everything but the sockets of HTTP: `app` is what a server of ASGI runs."""

    def __init__(
        self,
        settings: ServiceSettings,
        *,
        openers: Callable[[Recorder], Mapping[str, MediaOpener]] = lambda recorder: {},
        events: Notifier | None = None,
    ) -> None:
        """Open the spool and begin to work. `openers`: the kinds of media that are offered."""
        self.settings = settings
        self.access = Access(settings.tokens, is_open=settings.is_open)
        check_exposure(settings.host, self.access)
        settings.recorder.spool.mkdir(parents=True, exist_ok=True)
        self.library = Library(settings.recorder.spool / "library.sqlite")
        self.stream = EventStream()
        self.recorder = Recorder(settings.recorder, events=_Shelf(self.library, events))
        self.host = Host(self.recorder, openers=openers(self.recorder), prompts=Prompts(), stream=self.stream)
        sources: dict[str, Source] = {"file": FileSource(settings.folders)}
        self.is_draining = False
        self.app: Any = make_app(
            self.host, self.library, AudioReader(sources), self.access, is_ready=self._why_not_ready
        )

    def _why_not_ready(self) -> str | None:
        if self.is_draining:
            return "it is about to end"
        return None if self.recorder.is_accepting else "the disk of the spool has no room"

    def drain(self, timeout_s: float) -> bool:
        """Begin no recordings any more, and wait for those that run; whether all have ended and are delivered."""
        self.is_draining = True
        return self.recorder.drain(timeout_s)

    def close(self) -> None:
        """End everything; what is not delivered is left to the next start."""
        self.host.close()
        self.recorder.close()
        self.library.close()


class _Server(uvicorn.Server):
    """A server whose signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(service: Service, *, on_listening: Callable[[int], None] = lambda port: None) -> None:
    """Serve HTTP until SIGTERM or SIGINT, then let what runs end; a second signal does not wait for it."""
    asyncio.run(_serve(service, on_listening))


async def _serve(service: Service, on_listening: Callable[[int], None]) -> None:
    settings = service.settings
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.create_server(
        (settings.host, settings.port), family=family, backlog=1024, reuse_port=False
    )
    config = uvicorn.Config(
        service.app,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=5,
        lifespan="off",
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    at_once = asyncio.Event()

    def on_signal() -> None:
        (at_once if told.is_set() else told).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    on_listening(listener.getsockname()[1])
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    ending = asyncio.create_task(told.wait())
    await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        log.info("draining: running recordings may take %g s", settings.drain_s)
        drained = asyncio.create_task(asyncio.to_thread(service.drain, settings.drain_s))
        impatient = asyncio.create_task(at_once.wait())
        await asyncio.wait({drained, impatient}, return_when=asyncio.FIRST_COMPLETED)
        impatient.cancel()
        server.should_exit = True
    ending.cancel()
    await serving
