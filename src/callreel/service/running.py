"""The service as a whole: put together, begun, ended."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from callreel.delivery.drive import Drive
from callreel.errors import UsageError
from callreel.keys import safe_component
from callreel.notify import Answer, Notification, Notifier
from callreel.recorder import Recorder, TakeEnded, TakeReplayed
from callreel.recorder.figures import Milestone
from callreel.recorder.stores import Stores
from callreel.service.access import Access
from callreel.service.adoption import Adopted
from callreel.service.answers import Answers
from callreel.service.app import make_app
from callreel.service.audio import AudioReader
from callreel.service.audiosocket import STRANGERS_MAX, AudioSocket
from callreel.service.colleagues import Colleagues
from callreel.service.connections import Connections, raise_descriptors
from callreel.service.customers import DRIVE_PATH, Customers, Routes
from callreel.service.fleet import ALONE, Fleet
from callreel.service.held import Held
from callreel.service.host import Host, MediaOpener, PromptSource
from callreel.service.library import Library
from callreel.service.measures import Measures, rtp_families
from callreel.service.metrics import Family
from callreel.service.overload import Overload
from callreel.service.page import make_page
from callreel.service.permits import Permits
from callreel.service.prompts import Prompts
from callreel.service.relays import found
from callreel.service.rtp import RtpPorts
from callreel.service.rtp_legs import rtp_opener
from callreel.service.settings import ServiceSettings
from callreel.service.sources import DriveSource, FileSource, S3Source, Source
from callreel.service.stream import EventStream
from callreel.service.watching import Watch, processors
from callreel.service.websocket_media import MESSAGE_BYTES, WebSocketMedia

__all__ = [
    "Service",
    "Stop",
    "listen",
    "serve",
    "serve_on",
    "serve_until",
    "share_memory",
    "suit_many_calls",
]

log = logging.getLogger("callreel.service")

STRANGERS_PART = 16
"""One descriptor of so many may be a connection to the AudioSocket port that has not named its leg."""
KEEP_ALIVE_S = 30
SWEEP_S = 300.0
UNTAKEN_BYTES = 256 << 10
"""Of the kernel, of what is sent and has not been taken."""
UNTAKEN_MS = 30_000
"""Who takes nothing of what is sent for so long is gone."""
SWITCH_S = 0.0002
"""Python's own 5 ms would be waited for several times in each request while calls are moved on."""
COLLECT = 10_000, 20, 50
"""Of the collector: of thousands of calls a look through all objects takes 0.1 s, in which nobody is answered; one
through the youngest 10,000 takes a millisecond, and more of them hold some 1 MB of garbage."""
ARENAS = 2
"""Of malloc: it would have eight for each processor, and what one thread gives back is of no use to the others."""
M_ARENA_MAX = -8
"""glibc's malloc.h."""
BACKLOG = 1024
HEAD_BYTES = 128 << 10
"""Of a request that another worker hands on: more than one that comes from outside may have."""
LOOK_S = 0.05
"""How often it is looked whether the service is to end."""


class _Shelf:
    """Puts every recording that has ended into the library, and then tells whom the settings name."""

    def __init__(self, library: Library, beyond: Notifier | None) -> None:
        self._library, self._beyond = library, beyond
        self.lane = "library" if beyond is None else beyond.lane

    def tell(self, notification: Notification) -> Answer | None:
        self.put(_ended(notification.body))
        return None if self._beyond is None else self._beyond.tell(notification)

    def hear(self, event: TakeEnded | TakeReplayed) -> None:
        """Put it there at once: whoever else is told may not be there for a while."""
        if self._beyond is not None:
            self.put(_ended(event._asdict()))

    def put(self, ended: TakeEnded) -> None:
        labels = ended.manifest.get("labels", {})
        self._library.add(str(labels.get("tenant", "")), ended, now_s=time.time())


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
        fleet: Fleet = ALONE,
        session_key: bytes | None = None,
        audiosocket_listener: socket.socket | None = None,
    ) -> None:
        """Open the spool and begin to work.

        `openers`: the kinds of media that are offered besides ours. `prompts`: by default from anywhere that is public.
        `traces` is told of everything that took its time, such as a `callreel.service.traces.Traces`. `fleet`: the
        workers of which this is one, whose settings are those of `ServiceSettings.of_worker`; they have `session_key`
        (see `Access`) and `audiosocket_listener` in common.
        """
        self.settings = settings
        self.fleet = fleet
        self.access = Access(
            settings.tokens,
            is_open=settings.is_open,
            operators=settings.operators,
            metrics_token=settings.metrics_token,
            key=session_key,
        )
        shared = settings.shared_folder
        shared.mkdir(parents=True, exist_ok=True)
        self.stream = EventStream()
        self.measures = Measures()
        self._traces = traces
        descriptors = raise_descriptors()
        self.connections = Connections(descriptors)
        """Those of HTTP."""
        self.measures.add_source(self.connections.families)
        self.colleagues = Colleagues(self.stream, fleet)
        self.websockets = WebSocketMedia(
            lambda: self.recorder.now,
            self.access,
            partial(found, self.colleagues) if fleet.size > 1 else None,
        )
        self._places = replace(settings.recorder, spool=shared, drive_url=settings.url + DRIVE_PATH)
        with contextlib.ExitStack() as undo:  # what is open already, where something cannot be opened
            self.library = Library(shared / "library.sqlite")
            undo.callback(self.library.close)
            self._routes = Routes(shared / "routes.sqlite")
            undo.callback(self._routes.close)
            self._permits = Permits(shared / "permits.sqlite", fleet, now_s=time.time())
            undo.callback(self._permits.close)
            self.answers = Answers(shared / "answers.sqlite", fleet)
            undo.callback(self.answers.close)
            self.customers = Customers(
                settings.vendors,
                self._routes,
                public_url=settings.url,
                permits=self._permits,
                others=settings.recorder.notify.notifiers(),
                is_open=settings.is_open,
            )
            self._shelf = _Shelf(self.library, events or settings.recorder.notify.notifiers().get("events"))
            self.recorder = self._recorder(settings.recorder.spool)
            undo.callback(self.recorder.close)
            first = settings.recorder.spool.parent if fleet.index else settings.recorder.spool
            self._adopted = Adopted(first, fleet, self._recorder)
            undo.callback(self._adopted.close)
            self.audiosocket = self._audiosocket(audiosocket_listener, descriptors)
            if self.audiosocket is not None:
                undo.callback(self.audiosocket.close)
            self.rtp = self._rtp(descriptors)
            undo.pop_all()
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
            others=lambda: self._adopted.recorders,
            on_ended=self._shelf.hear,
        )
        keys = settings.recorder.keys()
        self._held = Held(shared / "held", keys)
        drives = DriveSource(self._drive)
        sources: dict[str, Source] = {
            "file": FileSource(settings.folders),
            "s3": S3Source(settings.recorder),
            "http": drives,
            "https": drives,
        }
        self.watch = Watch(self.recorder, Overload(settings.overload), share=processors() / fleet.size)
        audio = AudioReader(sources, keys)
        self.colleagues.answer("has_stream", self.websockets.has_stream, is_quick=True)
        self.colleagues.answer("leg_problem", self._leg_problem, is_quick=True)
        self.app, self.within = make_app(
            self.host,
            self.library,
            audio,
            self.access,
            self.customers,
            answers=self.answers,
            drives=self._drive,
            held=self._held,
            permits=self._permits,
            keys=keys,
            obstacles=self.recorder.obstacles,
            colleagues=self.colleagues,
            families=self._families,
            answered=self.measures.answered,
            page=make_page(
                self.host, self.library, audio, self.access, settings.recorder.spool, self.colleagues
            ),
            websockets=self.websockets,
        )
        self._is_closed = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep_on, name="callreel-sweep", daemon=True)
        self._sweeper.start()

    def _recorder(self, spool: Path) -> Recorder:
        """A recorder on that spool."""
        stores = Stores(self._places)
        stores.prepare()
        return Recorder(
            replace(self.settings.recorder, spool=spool),
            store_for=stores.place,
            notifier_for=self.customers.notifier_for,
            secrets_again=self.customers.secrets_again,
            events=self._shelf,
            observe=self._observe,
        )

    def _audiosocket(self, listener: socket.socket | None, descriptors: int) -> AudioSocket | None:
        """Listen for Asterisk, if that is wanted."""
        if self.settings.audiosocket_port is None:
            return None
        return AudioSocket(
            lambda: self.recorder.now,
            host=self.settings.audiosocket_host,
            port=self.settings.audiosocket_port,
            listener=listener,
            strangers_max=min(STRANGERS_MAX, descriptors // STRANGERS_PART),
            fleet=self.fleet,
        )

    def _rtp(self, descriptors: int) -> RtpPorts:
        """Ports for RTP."""
        first, last = self.settings.rtp_ports
        return RtpPorts(
            self.settings.rtp_host,
            range(first, last + 1),
            shared_port=self.settings.rtp_shared_port,
            advertised=self.settings.rtp_advertised or None,
            descriptors=descriptors,
        )

    def listening_on(self, port: int) -> None:
        """HTTP is served on that port: with port 0 nobody knew it before."""
        if not self.settings.public_url:
            self.customers.public_url = replace(self.settings, port=port).url

    def _drive(self, tenant: str | None) -> Drive:
        """A tenant's Sinch Drive; None for that of nobody in particular."""
        return Drive(
            self._places.drive_folder(tenant),
            retention_s=self._places.drive_retention_s,
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
        self._permits.sweep(grace_s=grace_s, now_s=now.timestamp())
        self._held.sweep(wanted, older_than_s=grace_s, is_ours=self.fleet.owns_folder)
        self._routes.sweep()
        self.answers.sweep(now.timestamp())
        self._adopted.sweep()
        for folder in (self._places.spool / "drives").glob("*"):
            if not self.fleet.owns_folder(folder.name):
                continue
            swept = Drive(folder, retention_s=self._places.drive_retention_s).sweep()
            for damaged in swept.damaged:
                log.error("%s is damaged", damaged)

    def _observe(self, milestone: Milestone) -> None:
        self.measures.observe(milestone)
        if self._traces is not None:
            self._traces(milestone)

    def _families(self) -> Iterator[Family]:
        return self.measures.families(self.host, self.watch, self.settings.recorder.spool)

    def _leg_problem(self, tenant: str, legs: Sequence[tuple[str, Mapping[str, Any]]]) -> str | None:
        """Why another worker can have no such legs: a connection would find one of ours by what names them."""
        for media, options in legs:
            problem = None
            if media == "websocket":
                problem = self.websockets.problem(tenant, options)
            elif media == "audiosocket" and self.audiosocket is not None:
                problem = self.audiosocket.problem(options)
            if problem is not None:
                return problem
        return None

    def drain(self, timeout_s: float) -> bool:
        """Begin no recordings any more, and wait for those that run; whether all have ended and are delivered."""
        until = time.monotonic() + timeout_s
        is_done = self.recorder.drain(timeout_s)
        return self._adopted.drain(max(0.0, until - time.monotonic())) and is_done

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
        self._adopted.close()
        self.library.close()
        self._routes.close()
        self._permits.close()
        self.answers.close()


class _Server(uvicorn.Server):
    """A server whose signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Stop:
    """Whether the service is to end, and whether at once. Signals ask for the first, a second one for the other."""

    def __init__(self, is_orphaned: Callable[[], bool] = lambda: False) -> None:
        """`is_orphaned`: whether the process that would say so is gone."""
        self._told, self._hurried = threading.Event(), threading.Event()
        self._is_orphaned = is_orphaned

    def ask(self, *_: object) -> None:
        """It is; a handler of signals."""
        (self._hurried if self._told.is_set() else self._told).set()

    def hurry(self, *_: object) -> None:
        """It is, at once; a handler of signals."""
        self._told.set()
        self._hurried.set()

    @property
    def is_told(self) -> bool:
        """Whether it is to end."""
        return self._told.is_set() or self._is_orphaned()

    @property
    def is_hurried(self) -> bool:
        """Whether what runs is not waited for."""
        return self._hurried.is_set() or self._is_orphaned()


def listen(settings: ServiceSettings) -> socket.socket:
    """The socket that HTTP is served on; UsageError when it cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(f"{settings.host}:{settings.port}: {error.strerror or error}") from None
    # Connections take over what it has; asyncio does not see that these are TCP, and would leave Nagle's delay on.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNTAKEN_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNTAKEN_MS)
    return listener


def share_memory() -> None:
    """Have all threads take memory from the same few places, where the C library can; before the first one begins.

    There are some two hundred, nearly all of which wait nearly always: with places of their own the process grows for
    days, until each of them has had its largest file.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


def suit_many_calls() -> None:
    """Make of this process one that moves thousands of calls and answers all the same.

    Whoever waits for the interpreter's lock has it after `SWITCH_S`. What is there by now is not looked through by the
    collector of cycles, and calls, which have none, seldom.
    """
    sys.setswitchinterval(SWITCH_S)
    gc.freeze()
    gc.set_threshold(*COLLECT)


def serve(service: Service, *, on_listening: Callable[[int], None] = lambda port: None) -> None:
    """Serve HTTP until SIGTERM or SIGINT, then let what runs end; a second signal does not wait for it."""
    suit_many_calls()
    stop = Stop()
    before = {number: signal.signal(number, stop.ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        asyncio.run(serve_on(service, listen(service.settings), stop, on_listening=on_listening))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def serve_until(
    service: Service, stop: threading.Event, on_listening: Callable[[int], None] = lambda port: None
) -> None:
    """Serve HTTP, in any thread, until `stop` is set; running recordings are not waited for."""
    asyncio.run(serve_on(service, listen(service.settings), Stop(stop.is_set), on_listening=on_listening))


async def serve_on(
    service: Service,
    listener: socket.socket,
    stop: Stop,
    *,
    on_listening: Callable[[int], None] = lambda port: None,
    on_drained: Callable[[], None] | None = None,
) -> None:
    """Serve HTTP until `stop` says so, then let what runs end.

    `on_drained` is called when it has; then it goes on until it is hurried, for others that may still need it.
    """
    settings = service.settings
    async with contextlib.AsyncExitStack() as others:
        if service.within is not None:
            await others.enter_async_context(_served_within(service))
        service.listening_on(listener.getsockname()[1])
        on_listening(listener.getsockname()[1])
        connections = service.connections
        server = _Server(_config(service.app, http=connections.protocol, backlog=connections.at_once))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not (stop.is_told or serving.done()):
            await asyncio.sleep(LOOK_S)
        if not (serving.done() or stop.is_hurried):
            log.info("draining: running recordings may take %g s", settings.drain_s)
            until = time.monotonic() + settings.drain_s
            while not (service.drain(0.0) or stop.is_hurried or time.monotonic() >= until):
                await asyncio.sleep(LOOK_S)
            if on_drained is not None:
                on_drained()
                while not (stop.is_hurried or serving.done()):
                    await asyncio.sleep(LOOK_S)
        server.should_exit = True
        await serving


def _config(app: Any, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        log_level="info",  # below that are whole requests, with tokens, and audio
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        ws="websockets-sansio",
        ws_max_size=MESSAGE_BYTES,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=1,
        lifespan="off",
        **more,
    )


@contextlib.asynccontextmanager
async def _served_within(service: Service) -> AsyncIterator[None]:
    """Have the other workers ask, over this one's Unix socket."""
    path = service.fleet.socket(service.fleet.index)
    path.unlink(missing_ok=True)  # of a worker that was killed
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(BACKLOG)
    # Dates, and whom a proxy stands for, are the business of the worker that was asked first. It adds a header.
    server = _Server(
        _config(
            service.within,
            http="h11",
            backlog=BACKLOG,
            date_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=HEAD_BYTES,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving
        service.colleagues.close()
        await asyncio.sleep(0)  # in which they end
