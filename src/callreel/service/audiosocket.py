"""Asterisk's AudioSocket: a TCP connection a leg, with audio and keys both ways in messages of kind, length, payload.

The first message names the leg by its UUID, which only who created it knows: there is no other authentication. The
protocol is that of https://docs.asterisk.org/Configuration/Channel-Drivers/AudioSocket/ with its later kinds of audio.
All connections of a process are served by one thread, and none of them is waited for. One whose leg another worker has
is handed to that one.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from callreel.errors import UsageError
from callreel.recorder import RecordedCall
from callreel.service.encodings import Encoding
from callreel.service.fleet import ALONE, Fleet
from callreel.service.handover import Handover
from callreel.service.host import LegWish
from callreel.service.links import Intake, Link, SocketMedia
from callreel.service.media import Media

__all__ = ["AUDIO_RATES", "STRANGERS_MAX", "AudioSocket", "Kind", "Message", "Parser", "listen", "message"]


class Kind:
    """The first byte of a message."""

    HANGUP: Final = 0x00
    UUID: Final = 0x01
    DTMF: Final = 0x03
    ERROR: Final = 0xFF


AUDIO_RATES: Final[Mapping[int, int]] = {
    0x10: 8_000,
    0x11: 12_000,
    0x12: 16_000,
    0x13: 24_000,
    0x14: 32_000,
    0x15: 44_100,
    0x16: 48_000,
    0x17: 96_000,
    0x18: 192_000,
}
"""Kinds of messages with 16-bit little-endian mono PCM, and its rate in Hz."""
KIND_OF_RATE: Final = {rate: kind for kind, rate in AUDIO_RATES.items()}

HEADER_BYTES: Final = 3
UUID_BYTES: Final = 16
IDENTIFIED_S: Final = 5.0
"""In which a connection must have named its leg."""
STRANGERS_MAX: Final = 1024
STRANGERS_OF_ONE_ADDRESS: Final = 256
"""Connections that have not named their leg yet."""
UNSENT_S: Final = 1.0
"""Audio that may wait for a peer to take it, besides what the kernel holds."""
UNSENT_BYTES: Final = 64 << 10
"""Of the kernel."""
SHUT_S: Final = 2.0
"""In which a peer must have closed the connection after we hung up."""
KEEP_ALIVE: Final = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
BACKLOG: Final = 1024


class Message(NamedTuple):
    """One message."""

    kind: int
    payload: bytes = b""


def message(kind: int, payload: bytes = b"") -> bytes:
    """The bytes of one; ValueError for more than 65,535 bytes of payload."""
    if len(payload) > 0xFFFF:
        raise ValueError("a message has at most 65,535 bytes")
    return bytes((kind,)) + len(payload).to_bytes(2, "big") + payload


class Parser:
    """Takes a stream of bytes apart, however it is cut. Any bytes are messages; at most one of them is held."""

    def __init__(self) -> None:
        """At the beginning of a stream."""
        self._held = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that these bytes complete."""
        self._held += data
        found = []
        at = 0
        while len(self._held) - at >= HEADER_BYTES:
            end = at + HEADER_BYTES + int.from_bytes(self._held[at + 1 : at + 3], "big")
            if end > len(self._held):
                break
            found.append(Message(self._held[at], bytes(self._held[at + HEADER_BYTES : end])))
            at = end
        del self._held[:at]
        return found

    @property
    def begun(self) -> tuple[int, int] | None:
        """Kind and payload length of the message of which only a part has come; None before its header is there."""
        if len(self._held) < HEADER_BYTES:
            return None
        return self._held[0], int.from_bytes(self._held[1:3], "big")


class _Media(SocketMedia):
    """A leg that Asterisk connects to."""

    def __init__(
        self,
        recorded: RecordedCall,
        wish: LegWish,
        forget: Callable[[SocketMedia], None],
        identity: uuid.UUID,
        address: str,
    ) -> None:
        super().__init__(recorded, wish, forget)
        self.identity = identity
        self._address = address

    @property
    def description(self) -> Mapping[str, Any]:
        return {"kind": "audiosocket", "address": self._address, "uuid": str(self.identity)}


class _Link(Link):
    """The connection of a leg."""

    def __init__(self, media: SocketMedia, now: Callable[[], float], transport: asyncio.Transport) -> None:
        super().__init__(media, now, Encoding())
        self._transport = transport
        self._intake: Intake | None = None
        self.is_shut = False
        """Whether we have hung up, so that what still comes is of no interest."""

    def take(self, one: Message, arrival_s: float) -> None:
        """Do what a message says; UsageError when the call is over."""
        counts = self.media.counts
        if (rate := AUDIO_RATES.get(one.kind)) is not None:
            if self._intake is None and one.payload:
                # What is played goes back in the same kind, which is what Asterisk is prepared for.
                self._intake = Intake(self.media.recorded, self.media.leg, "incoming", rate)
                self.feeds.append(self._intake)
                self.speak(Encoding("pcm16", rate))
            if self._intake is None or self._intake.sample_rate != rate or len(one.payload) % 2:
                counts["malformed"] += 1
            else:
                counts["received" if self._intake.take(one.payload, arrival_s) else "ahead"] += 1
        elif one.kind == Kind.DTMF and len(one.payload) == 1:
            self.media.press(one.payload.decode("latin-1"), arrival_s)
        elif one.kind == Kind.HANGUP:
            self.lose("the participant has hung up")
        elif one.kind == Kind.ERROR:
            counts["errors"] += 1
        else:
            counts["malformed" if one.kind in (Kind.UUID, Kind.DTMF) else "unknown"] += 1

    def send_audio(self, data: bytes) -> bool:
        if self.is_shut:
            return False
        if self._transport.get_write_buffer_size() > UNSENT_S * 2 * self.encoding.sample_rate:
            return False
        self._transport.write(message(KIND_OF_RATE[self.encoding.sample_rate], data))
        return True

    def shut(self) -> None:
        # Closed now, with audio of the peer's unread, the connection would be reset, and our last message lost with it.
        if not (self.is_shut or self._transport.is_closing()):
            self.is_shut = True
            self._transport.write(message(Kind.HANGUP))
            self._transport.write_eof()
            self._loop.call_later(SHUT_S, self._transport.abort)

    def abort(self) -> None:
        self._transport.abort()


class _Connection(asyncio.Protocol):
    """A TCP connection: a stranger's, until it names its leg."""

    def __init__(self, server: AudioSocket, handed_over: bytes | None = None) -> None:
        """`handed_over`: what another worker has read of it."""
        self._server = server
        self._handed_over = handed_over
        self._parser = Parser()
        self._said = bytearray()
        """All that has come, until the leg is known."""
        self._search: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport
        self._address: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._link: _Link | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(self)
        address = str((transport.get_extra_info("peername") or ("?",))[0])
        if not self._server.admit(address):
            transport.abort()
            return
        self._address = address
        one = transport.get_extra_info("socket")
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does not see that it is TCP
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNSENT_BYTES)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEP_ALIVE:
            if hasattr(socket, name):
                one.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._timer = asyncio.get_running_loop().call_later(IDENTIFIED_S, transport.abort)
        if self._handed_over is not None:
            self.data_received(self._handed_over)

    def data_received(self, data: bytes) -> None:
        arrival_s = self._server.now()
        if self._link is None:
            self._said += data
        for one in self._parser.feed(data):
            if self._transport.is_closing() or (self._link is not None and self._link.is_shut):
                return
            if self._search is not None:
                return  # whoever has the leg gets all that was said
            if self._link is None:
                self._identify(one)
                continue
            try:
                self._link.take(one, arrival_s)
            except UsageError:  # the call is over
                self._link.shut()
        if (
            self._link is None
            and self._search is None
            and self._parser.begun not in (None, (Kind.UUID, UUID_BYTES))
        ):
            self._transport.abort()

    def _identify(self, one: Message) -> None:
        media = None
        if one.kind == Kind.UUID and len(one.payload) == UUID_BYTES:
            media = self._server.find(uuid.UUID(bytes=one.payload))
            handover = self._server.handover
            if media is None and handover is not None and self._handed_over is None:
                self._transport.pause_reading()
                self._search = asyncio.create_task(self._hand_over(handover, one.payload))
                return
        if media is not None:
            link = _Link(media, self._server.now, self._transport)
            if media.attach(link):
                self._link = link
                self._said.clear()
                self._is_known()
                return
        self._transport.abort()

    async def _hand_over(self, handover: Handover, name: bytes) -> None:
        try:
            await handover.hand(name, self._transport, bytes(self._said))
        finally:
            self._transport.abort()  # of ours: whoever has it has a descriptor of their own

    def _is_known(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._address is not None:
            self._server.release(self._address)
            self._address = None

    def abort(self) -> None:
        """End it at once."""
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._is_known()
        if self._link is not None:
            self._link.lose("the connection has ended")


def listen(host: str, port: int) -> socket.socket:
    """A socket that Asterisk may connect to; OSError when it cannot be had. Port 0 is one that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


class AudioSocket:
    """A listener for the legs of a process, with a thread of its own; `open` is its `MediaOpener`."""

    def __init__(
        self,
        now: Callable[[], float],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        listener: socket.socket | None = None,
        strangers_max: int = STRANGERS_MAX,
        fleet: Fleet = ALONE,
    ) -> None:
        """Listen; OSError when that cannot be. `now` is the recorder's clock; port 0 is one that is free.

        `listener`: a socket of `listen` that the other workers of a fleet listen on, too. `strangers_max`: connections
        that have not named their leg yet.
        """
        self.now = now
        self._strangers_max = strangers_max
        self._backlog = max(1, min(BACKLOG, strangers_max))
        self._legs: dict[uuid.UUID, _Media] = {}
        self._lock = threading.Lock()
        self._strangers: Counter[str] = Counter()
        self.connections: set[_Connection] = set()
        """All there are; of the thread that serves them."""
        listener = listener or listen(host, port)
        self.handover: Handover | None = None
        """To the other workers; None when there are none."""
        if fleet.size > 1:
            try:
                self.handover = Handover(fleet, self._has, self._take)
            except OSError:
                listener.close()
                raise
        self.port: int = listener.getsockname()[1]
        self._address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._serve, args=(listener,), name="callreel-audiosocket", daemon=True
        )
        self._thread.start()

    def open(self, recorded: RecordedCall, wish: LegWish) -> Media:
        """A leg that one connection may name, by the UUID of its options or by a new one."""
        if unknown := set(wish.options) - {"uuid"}:
            raise UsageError(f"audiosocket has no option {sorted(unknown)[0]!r}: uuid is one")
        try:
            identity = uuid.UUID(str(wish.options.get("uuid") or uuid.uuid4()))
        except ValueError:
            raise UsageError(f"{wish.options['uuid']!r} is no UUID") from None
        media = _Media(recorded, wish, self._forget, identity, self._address)
        with self._lock:
            if identity in self._legs:
                raise UsageError(_taken(identity))
            self._legs[identity] = media
        return media

    def problem(self, options: Mapping[str, Any]) -> str | None:
        """Why there can be no other leg with these options now; None when there can, or they are none."""
        try:
            identity = uuid.UUID(str(options.get("uuid")))
        except ValueError:
            return None
        return None if self.find(identity) is None else _taken(identity)

    def close(self) -> None:
        """End all connections, and listen no more."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    # -- of its connections ----------------------------------------------------------------------------------------

    @property
    def strangers(self) -> int:
        """Connections that have not named their leg."""
        return self._strangers.total()

    def find(self, identity: uuid.UUID) -> _Media | None:
        """Whose leg that is."""
        with self._lock:
            return self._legs.get(identity)

    def admit(self, address: str) -> bool:
        """Whether another connection from there may try to name its leg."""
        if (
            self._strangers.total() >= self._strangers_max
            or self._strangers[address] >= STRANGERS_OF_ONE_ADDRESS
        ):
            return False
        self._strangers[address] += 1
        return True

    def release(self, address: str) -> None:
        """It has, or it is gone."""
        self._strangers[address] -= 1
        if not self._strangers[address]:
            del self._strangers[address]

    def _forget(self, media: SocketMedia) -> None:
        assert isinstance(media, _Media)
        with self._lock:
            self._legs.pop(media.identity, None)

    def _has(self, name: bytes) -> bool:
        return self.find(uuid.UUID(bytes=name)) is not None

    async def _take(self, connection: socket.socket, said: bytes) -> None:
        """Another worker hands over a connection, of which it has read this much."""
        await self._loop.connect_accepted_socket(lambda: _Connection(self, said), connection)

    def _serve(self, listener: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            self._loop.create_server(lambda: _Connection(self), sock=listener, backlog=self._backlog)
        )
        if self.handover is not None:
            self.handover.begin(self._loop)
        try:
            self._loop.run_forever()
        finally:
            server.close()
            for connection in list(self.connections):
                connection.abort()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, asyncio.sleep(0), return_exceptions=True))
            self._loop.close()


def _taken(identity: uuid.UUID) -> str:
    return f"another leg has the UUID {identity}"
