"""The service as a whole: put together, begun, ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import uvicorn

from callreel.delivery.drive import Drive
from callreel.keys import safe_component
from callreel.notify import Answer, Notification, Notifier
from callreel.recorder import Recorder, TakeEnded
from callreel.recorder.figures import Milestone
from callreel.service.access import Access, check_exposure
from callreel.service.app import make_app
from callreel.service.audio import AudioReader
from callreel.service.audiosocket import AudioSocket
from callreel.service.customers import DRIVE_PATH, Customers, Routes
from callreel.service.held import Held
from callreel.service.host import Host, MediaOpener, PromptSource
from callreel.service.library import Library
from callreel.service.measures import Measures, rtp_families
from callreel.service.metrics import text_of
from callreel.service.overload import Overload
from callreel.service.page import make_page
from callreel.service.permits import Permits
from callreel.service.prompts import Prompts
from callreel.service.rtp import RtpPorts
from callreel.service.rtp_legs import rtp_opener
from callreel.service.settings import ServiceSettings
from callreel.service.sources import DriveSource, FileSource, S3Source, Source
from callreel.service.stream import EventStream
from callreel.service.watching import Watch
from callreel.service.websocket_media import MESSAGE_BYTES, WebSocketMedia

__all__ = ["Service", "serve", "serve_until"]

log = logging.getLogger("callreel.service")

CONNECTIONS_MAX = 10_000
"""Beyond so many no request is served; WebSockets count."""
KEEP_ALIVE_S = 30
SWEEP_S = 300.0
UNTAKEN_BYTES = 256 << 10
"""Of the kernel, of what is sent and has not been taken."""
UNTAKEN_MS = 30_000
"""Who takes nothing of what is sent for so long is gone."""
LOOK_S = 0.05
"""How often it is looked whether the service is to end."""


class _Shelf:
    """Puts every recording that has ended into the library, and then tells whom the settings name."""

    lane = "library"

    def __init__(self, library: Library, beyond: Notifier | None) -> None:
        self._library, self._beyond = library, beyond

    def tell(self, notification: Notification) -> Answer | None:
        ended = _ended(notification.body)
        labels = ended.manifest.get("labels", {})
        self._library.add(str(labels.get("tenant", "")), ended, now_s=time.time())
        return None if self._beyond is None else self._beyond.tell(notification)


def _ended(body: Mapping[str, Any]) -> TakeEnded:
    """A terminal event, or what has come of a recording after it: it is at its destination after all."""
    manifest = body["manifest"]
    later = {"end_reason": manifest.get("end_reason", ""), "error": None}
    return TakeEnded(**{name: body.get(name, later.get(name)) for name in TakeEnded._fields})


class Service:
    """Everything but the sockets of HTTP: `app` is what a server of ASGI runs."""

    def __init__(
        self,
        settings: ServiceSettings,
        *,
        openers: Callable[[Recorder], Mapping[str, MediaOpener]] = lambda recorder: {},
        events: Notifier | None = None,
        prompts: PromptSource | None = None,
        traces: Callable[[Milestone], None] | None = None,
    ) -> None:
        """Open the spool and begin to work.

        `openers`: the kinds of media that are offered besides ours. `prompts`: by default from anywhere that is public.
        `traces` is told of everything that took its time, such as a `callreel.service.traces.Traces`.
        """
        self.settings = settings
        self.access = Access(
            settings.tokens,
            is_open=settings.is_open,
            operators=settings.operators,
            metrics_token=settings.metrics_token,
        )
        check_exposure(settings.host, self.access)
        settings.recorder.spool.mkdir(parents=True, exist_ok=True)
        self.library = Library(settings.recorder.spool / "library.sqlite")
        self.stream = EventStream()
        self.measures = Measures()
        self._traces = traces
        self._routes = Routes(settings.recorder.spool / "routes.sqlite")
        self._permits = Permits(settings.recorder.spool / "permits.sqlite", now_s=time.time())
        self.customers = Customers(
            settings.vendors,
            self._routes,
            public_url=settings.url,
            permits=self._permits,
            others=settings.recorder.notify.notifiers(),
            is_open=settings.is_open,
        )
        self._recorder_settings = replace(settings.recorder, drive_url=settings.url + DRIVE_PATH)
        self.recorder = Recorder(
            self._recorder_settings,
            notifier_for=self.customers.notifier_for,
            secrets_again=self.customers.secrets_again,
            events=_Shelf(self.library, events),
            observe=self._observe,
        )
        self.websockets = WebSocketMedia(lambda: self.recorder.now, self.access)
        try:
            self.audiosocket = self._audiosocket()
            self.rtp = self._rtp()
        except OSError:
            self.recorder.close()
            self.library.close()
            self._routes.close()
            self._permits.close()
            raise
        self.measures.add_source(lambda: rtp_families(self.rtp.statistics))
        kinds = {
            "rtp": rtp_opener(self.rtp),
            "websocket": self.websockets.open,
            **openers(self.recorder),
        }
        if self.audiosocket is not None:
            kinds["audiosocket"] = self.audiosocket.open
        self.host = Host(
            self.recorder,
            openers=kinds,
            prompts=prompts or Prompts(),
            stream=self.stream,
            on_begun=self.customers.begun,
        )
        keys = settings.recorder.keys()
        self._held = Held(settings.recorder.spool / "held", keys)
        drives = DriveSource(self._drive)
        sources: dict[str, Source] = {
            "file": FileSource(settings.folders),
            "s3": S3Source(settings.recorder),
            "http": drives,
            "https": drives,
        }
        self.watch = Watch(self.recorder, Overload(settings.overload))
        audio = AudioReader(sources, keys)
        self.app: Any = make_app(
            self.host,
            self.library,
            audio,
            self.access,
            self.customers,
            drives=self._drive,
            held=self._held,
            permits=self._permits,
            keys=keys,
            obstacles=self.recorder.obstacles,
            metrics=self._metrics,
            answered=self.measures.answered,
            page=make_page(self.host, self.library, audio, self.access, settings.recorder.spool),
            websockets=self.websockets,
        )
        self._is_closed = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep_on, name="callreel-sweep", daemon=True)
        self._sweeper.start()

    def _audiosocket(self) -> AudioSocket | None:
        """Listen for Asterisk, if that is wanted."""
        if self.settings.audiosocket_port is None:
            return None
        return AudioSocket(
            lambda: self.recorder.now,
            host=self.settings.audiosocket_host,
            port=self.settings.audiosocket_port,
        )

    def _rtp(self) -> RtpPorts:
        """Ports for RTP."""
        first, last = self.settings.rtp_ports
        return RtpPorts(
            self.settings.rtp_host,
            range(first, last + 1),
            shared_port=self.settings.rtp_shared_port,
            advertised=self.settings.rtp_advertised or None,
        )

    def listening_on(self, port: int) -> None:
        """HTTP is served on that port: with port 0 nobody knew it before."""
        if not self.settings.public_url:
            self.customers.public_url = replace(self.settings, port=port).url

    def _drive(self, tenant: str | None) -> Drive:
        """A tenant's Sinch Drive; None for that of nobody in particular."""
        settings = self._recorder_settings
        return Drive(
            settings.drive_folder(tenant),
            retention_s=settings.drive_retention_s,
            url=self.customers.public_url + DRIVE_PATH,
        )

    def _sweep_on(self) -> None:
        while not self._is_closed.wait(SWEEP_S):
            try:
                self.sweep()
            except Exception:
                log.exception("what has expired was not removed")

    def sweep(self) -> None:
        """Remove recordings whose time is over, of Sinch Drive and of Microsoft Graph; forget whose old calls were."""
        grace_s = self.settings.vendors.graph.grace_s
        now = datetime.now(UTC)
        wanted = {
            safe_component(call.call_id)
            for call in self.host.calls(live=False)
            if call.ended_at is None or (now - call.ended_at).total_seconds() < grace_s
        }
        wanted |= self._permits.folders(grace_s=grace_s, now_s=now.timestamp())
        self._held.sweep(wanted, older_than_s=grace_s)
        self._permits.sweep(grace_s=grace_s, now_s=now.timestamp())
        self._routes.sweep()
        for folder in (self._recorder_settings.spool / "drives").glob("*"):
            swept = Drive(folder, retention_s=self._recorder_settings.drive_retention_s).sweep()
            for damaged in swept.damaged:
                log.error("%s is damaged", damaged)

    def _observe(self, milestone: Milestone) -> None:
        self.measures.observe(milestone)
        if self._traces is not None:
            self._traces(milestone)

    def _metrics(self) -> str:
        return text_of(self.measures.families(self.host, self.watch, self.settings.recorder.spool))

    def drain(self, timeout_s: float) -> bool:
        """Begin no recordings any more, and wait for those that run; whether all have ended and are delivered."""
        return self.recorder.drain(timeout_s)

    def close(self) -> None:
        """End everything; what is not delivered is left to the next start."""
        self.watch.close()
        self._is_closed.set()
        self._sweeper.join()
        self.host.close()
        if self.audiosocket is not None:
            self.audiosocket.close()
        self.rtp.close()
        self.recorder.close()
        self.library.close()
        self._routes.close()
        self._permits.close()


class _Server(uvicorn.Server):
    """A server whose signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(service: Service, *, on_listening: Callable[[int], None] = lambda port: None) -> None:
    """Serve HTTP until SIGTERM or SIGINT, then let what runs end; a second signal does not wait for it."""
    told, at_once = threading.Event(), threading.Event()

    def on_signal(*_: object) -> None:
        (at_once if told.is_set() else told).set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        asyncio.run(_serve(service, told, at_once, on_listening))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def serve_until(
    service: Service, stop: threading.Event, on_listening: Callable[[int], None] = lambda port: None
) -> None:
    """Serve HTTP, in any thread, until `stop` is set; running recordings are not waited for."""
    asyncio.run(_serve(service, stop, stop, on_listening))


async def _serve(
    service: Service, told: threading.Event, at_once: threading.Event, on_listening: Callable[[int], None]
) -> None:
    settings = service.settings
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    listener.setsockopt(
        socket.SOL_SOCKET, socket.SO_SNDBUF, UNTAKEN_BYTES
    )  # connections take over what it has
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNTAKEN_MS)
    server = _Server(
        uvicorn.Config(
            service.app,
            log_config=None,
            log_level="info",  # below that are whole requests, with tokens, and audio
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_keep_alive=KEEP_ALIVE_S,
            ws="websockets-sansio",
            ws_max_size=MESSAGE_BYTES,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=1,
            lifespan="off",
        )
    )
    service.listening_on(listener.getsockname()[1])
    on_listening(listener.getsockname()[1])
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not (told.is_set() or serving.done()):
        await asyncio.sleep(LOOK_S)
    if not (serving.done() or at_once.is_set()):
        log.info("draining: running recordings may take %g s", settings.drain_s)
        until = time.monotonic() + settings.drain_s
        while not (service.drain(0.0) or at_once.is_set() or time.monotonic() >= until):
            await asyncio.sleep(LOOK_S)
    server.should_exit = True
    await serving
