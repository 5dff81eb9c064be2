"""RTP and RTCP over UDP: ports for legs, what comes in to their calls, what is played out to their peers. Linux only.

    ports = RtpPorts("192.0.2.10", advertised="198.51.100.1")
    media = ports.open(call, "LEG-A", payload_types={0: "PCMU", 101: "telephone-event"})
    print(media.description)                      # where the media server sends
    media.play(prompt, 8000, done=...)            # to whoever has been learnt as the peer

One thread receives for all legs and one sends, neither with the GIL; the call takes its packets in the recorder's
steps, so no packet costs Python. Who is a leg's peer and who is a stranger: native/include/callreel/demultiplexer.h.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import Any, Literal

from callreel.call import Call
from callreel.errors import NoPortError, UsageError
from callreel.kernels import g711, udp
from callreel.legs import Direction
from callreel.recorder import RecordedCall
from callreel.service.encodings import Conversion
from callreel.service.media import Done
from callreel.service.rtp_lane import Lane
from callreel.service.rtp_sockets import Ends, PortRange, text_of

__all__ = ["Fork", "RtpMedia", "RtpPorts"]

log = logging.getLogger("callreel.service")

RATE = 8000
STATIC = {0: "PCMU", 8: "PCMA", 13: "CN"}
ENCODERS: Mapping[str, Callable[[bytes], bytes]] = {"PCMU": g711.ulaw_encode, "PCMA": g711.alaw_encode}

NICENESS = -10
"""Of the receiving and of the sending thread."""

LOOK_S = 0.25
"""How late a report, or a peer's BYE, may be seen."""

EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""Errors for which another port would be no better."""
QUARANTINE_S = 10.0
"""How long a port rests after use: what is on its way to the leg before must not reach the next one."""
OWN_BUFFER_BYTES = 1 << 20
"""Of a leg's socket: 20 s of its packets."""
SHARED_BUFFER_BYTES = 64 << 20
"""Of a shared one: 0.3 s of 200,000 packets a second, which take 0.9 KB each in the kernel."""


@dataclass(frozen=True, slots=True)
class Fork:
    """How the media server sends what the participant hears, if it does: on a port of its own, or beside the other."""

    own_port: bool = True
    expects: tuple[str, int] | None = None
    """The address that it comes from; else it is learnt."""
    ssrc: int | None = None
    """Needed where neither the port nor the address tells it from what the participant says."""


class RtpMedia:
    """The RTP of one leg; a `Media`. `RtpPorts.open` makes it."""

    def __init__(
        self,
        ports: RtpPorts,
        call: RecordedCall,
        lanes: list[Lane],
        *,
        payload_types: Mapping[int, str],
        heard: udp.Stream | None,
        on_bye: Callable[[], None] | None,
    ) -> None:
        """Of the first lane is what the participant says; `heard` takes what is sent to them."""
        self._ports = ports
        self._call = call
        self._lanes = lanes
        self._payload_types = dict(payload_types)
        self._heard = heard
        self._on_bye = on_bye
        self._look_at = 0.0
        """When it is asked next whether reports are due or the peer has gone."""
        self._voice: udp.Voice | None = None
        self._talk = 0
        self._done: Done | None = None
        self._is_closed = False
        self._final: dict[str, Any] | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        """Its call and port."""
        return f"<RtpMedia of {self._call.call_id} on port {self._lanes[0].ends.port}>"

    @property
    def description(self) -> dict[str, Any]:
        """JSON: "host", "port", "rtcp_port" (the same with "rtcp_mux"), "payload_types", and of a fork "outgoing"."""
        first = self._lanes[0].ends
        found: dict[str, Any] = {"kind": "rtp", "host": self._ports.advertised, **first.description}
        found["payload_types"] = {str(number): name for number, name in self._payload_types.items()}
        if len(self._lanes) > 1 and self._lanes[1].is_received:
            found["outgoing"] = self._lanes[1].ends.description
        return found

    @property
    def statistics(self) -> dict[str, Any]:
        """JSON: packets by fate over both directions, then each direction's own under its name; "peer", "has_gone"."""
        with self._lock:
            return self._statistics() if self._final is None else self._final

    def _statistics(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        total: dict[str, float] = defaultdict(int)
        most: dict[str, float] = {"jitter_ms": 0.0, "wait_max_ms": 0.0}
        for lane in self._lanes:
            if not lane.is_received:
                continue
            counts = lane.statistics
            found[lane.direction.value] = counts
            for name, value in counts.items():
                if name in most:
                    most[name] = max(most[name], value)
                else:
                    total[name] += value
        for ends in {id(lane.ends): lane.ends for lane in self._lanes if not lane.ends.is_shared}.values():
            for name, value in ends.counts(self._ports.demultiplexer).items():
                total[name] += value
        sent = {"sent": 0, "refused": 0, "late_max_ms": 0.0} if self._voice is None else self._voice.counts
        found = {**total, **most, **{f"send_{name}": value for name, value in sent.items()}, **found}
        peer = self._lanes[0].stream.peer
        found["peer"] = None if peer is None else text_of(peer)
        found["has_gone"] = self._lanes[0].stream.has_gone
        return found

    def expect(self, address: tuple[str, int] | None, direction: Direction = Direction.INCOMING) -> None:
        """Signalling says that packets come from there from now on; None: from somewhere else, to be learnt."""
        lane = next((one for one in self._lanes if one.direction is direction and one.is_received), None)
        if lane is None:
            raise UsageError(f"nothing {direction.value} comes from outside")
        if address is None:
            lane.stream.look_again()
        else:
            lane.stream.announce(self._ports.address(address))

    def play(self, pcm_data: bytes, sample_rate: int, done: Done) -> None:
        """Play mono 16-bit PCM in packets of 20 ms; see `Media.play`.

        It waits up to 5 s until somebody has been learnt to send it to.
        """
        payload_type, codec = self._encoding()
        conversion = Conversion(sample_rate, RATE)
        codes = ENCODERS[codec](conversion.feed(pcm_data) + conversion.flush())
        with self._lock:
            if self._is_closed:
                raise UsageError("this media is closed")
            if self._done is not None:
                raise UsageError("something is being played: one thing at a time")
            if self._voice is None:
                self._voice = self._ports.voice(self._lanes[0], self._heard, self)
            if codes:
                self._done = done
                self._talk = self._voice.play(codes, payload_type=payload_type, codec=codec)
                return
        done(None)

    def _encoding(self) -> tuple[int, Literal["PCMU", "PCMA"]]:
        for number, name in self._payload_types.items():
            if name.upper() == "PCMU":
                return number, "PCMU"
            if name.upper() == "PCMA":
                return number, "PCMA"
        raise UsageError("no G.711 was agreed on: nothing can be played")

    def stop(self) -> None:
        """End what is being played; its `done` is not called."""
        with self._lock:
            if self._voice is not None and not self._is_closed:
                self._voice.stop()
            self._done = None

    def played(self, talk: int, error: str | None) -> None:
        """What the sending thread says: that talk has ended."""
        with self._lock:
            done = self._done if talk == self._talk else None
            if done is not None:
                self._done = None
        if done is not None:
            done(error)

    def settle(self) -> None:
        """Nothing: what has come is asked for at the end (`finish`)."""

    def close(self) -> None:
        """Say BYE, hand the call what is left, and give the ports back."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._done = None
        self._call.detach(self)
        for lane in self._lanes:
            lane.report(self._voice, bye=True)
        with self._lock:
            self._final = self._statistics()
            if self._voice is not None:
                self._ports.silence(self._voice)
            for lane in self._lanes:
                lane.close()
        self._ports.give_back(self, self._final)

    def feed(self, call: Call, until_ns: int | None) -> None:
        """Hand the call what has come; the recorder's step asks for it (`recorder.calls.Source`)."""
        for lane in self._lanes:
            lane.feed(call, until_ns)
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        for lane in self._lanes:
            if now >= lane.report_at:
                lane.report(self._voice)
        if self._on_bye is not None and self._lanes[0].stream.has_gone:
            on_bye, self._on_bye = self._on_bye, None
            self._ports.soon(on_bye)

    def finish(self, call: Call, leg: str | None = None) -> None:
        """Hand the call the last that has come, if it is of that leg."""
        lanes = [lane for lane in self._lanes if leg in (None, lane.leg)]
        for ends in {id(lane.ends): lane.ends for lane in lanes}.values():
            ends.sweep(self._ports.demultiplexer)
        for lane in lanes:
            lane.feed(call, None, is_last=True)

    @property
    def ends(self) -> Iterable[Ends]:
        """The sockets of its own."""
        return {id(lane.ends): lane.ends for lane in self._lanes if not lane.ends.is_shared}.values()


class RtpPorts:
    """Where media of legs comes in: a range of ports, two to a leg or one, or one port for all of them. Any thread."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        ports: Iterable[int] = range(20_000, 30_000),
        *,
        shared_port: int | None = None,
        advertised: str | None = None,
        quarantine_s: float = QUARANTINE_S,
        relearn_s: float = 3.0,
        memory_bytes: int = 256 << 20,
        name: str | None = None,
        descriptors: int | None = None,
    ) -> None:
        """Bind to `host`, an address of this machine; `advertised` is what the media server is told.

        `shared_port`: one even port for all legs, RTCP on the one above; then each leg's address or SSRC is announced.
        `relearn_s`: how long a peer is silent before another may take its place. `memory_bytes`: what may wait for its
        calls, of all legs. `name`: our CNAME in RTCP. `descriptors`: how many files the process may have open; a
        quarter of them is left to others. OSError where a shared port cannot be had.
        """
        self.advertised = host if advertised is None else advertised
        address = ip_address(host)
        self._host = host
        self._last_descriptor = sys.maxsize if descriptors is None else descriptors * 3 // 4
        self._family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        self._name = f"callreel-{secrets.token_hex(6)}" if name is None else name
        self.demultiplexer = udp.Demultiplexer(memory_bytes=memory_bytes, relearn_ms=round(1000 * relearn_s))
        self._pacer = udp.Pacer(self.demultiplexer)
        self._range = PortRange(ports, quarantine_s)
        self._lock = threading.Lock()
        self._media: dict[int, RtpMedia] = {}
        self._speakers: dict[udp.Voice, RtpMedia] = {}
        self._soon: deque[Callable[[], None]] = deque()
        self._totals: Counter[str] = Counter()
        self._is_closed = False
        self.receive_buffer_bytes = 0
        """What the shared port's buffer was granted."""
        self._shared: Ends | None = None
        if shared_port is not None:
            if shared_port % 2:
                raise UsageError(f"a shared port is even, RTCP is on the one above: not {shared_port}")
            self._shared = self._bind(shared_port, has_mux=False, is_shared=True)
            self.receive_buffer_bytes = self._shared.join(self.demultiplexer, SHARED_BUFFER_BYTES)
        self._threads = [
            threading.Thread(
                target=_first, args=(self.demultiplexer.run,), name="callreel-receive", daemon=True
            ),
            threading.Thread(target=_first, args=(self._send,), name="callreel-send", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def open(
        self,
        call: RecordedCall,
        leg: str = "LEG-A",
        *,
        payload_types: Mapping[int, str] | None = None,
        expects: tuple[str, int] | None = None,
        ssrc: int | None = None,
        fork: Fork | None = None,
        rtcp_mux: bool = False,
        records_sent: bool | None = None,
        on_bye: Callable[[], None] | None = None,
    ) -> RtpMedia:
        """Media for a leg that the call has; from now on the call takes what comes.

        `payload_types` as the leg was added with, what is played being encoded in the first of them that is G.711.
        `expects`: the address the participant's packets come from, and from no other; else the first source of sound
        packets is the peer. `ssrc` tells them from others on a shared port. `fork`: what the participant hears is sent
        to us, too. `records_sent`: what is played is put into the leg's outgoing track, by default where there is no
        fork. `on_bye` is called once, in the sending thread, when the peer says that it leaves.

        Raises:
            NoPortError: all ports are in use or rest.
            UsageError: there is no such leg, or nothing would tell it from others.
        """
        if leg not in call.participants:
            raise UsageError(f"the call has no leg {leg}")
        known = STATIC if payload_types is None else payload_types
        puts_sent = fork is None if records_sent is None else records_sent
        if puts_sent and fork is not None:
            raise UsageError("what is sent comes back by the fork, and would be recorded twice")
        wanted = [(Direction.INCOMING, expects, ssrc, True)]
        if fork is not None:
            wanted.append((Direction.OUTGOING, fork.expects, fork.ssrc, fork.own_port))
            if not fork.own_port and fork.expects is None and fork.ssrc is None:
                raise UsageError("a fork without a port of its own needs an address or an SSRC")
        ends: list[Ends] = []
        lanes: list[Lane] = []
        try:
            for direction, peer, source, own_port in wanted:
                if self._shared is not None and peer is None and source is None:
                    raise UsageError("on a shared port an address or an SSRC is needed")
                if own_port and self._shared is None:
                    ends.append(self._own(rtcp_mux))
                end = ends[-1] if self._shared is None else self._shared
                stream = self.demultiplexer.open(
                    end.media_number,
                    control=None if rtcp_mux else end.report_number,
                    payload_types=known,
                    peer=None if peer is None else self.address(peer),
                    ssrc=source,
                )
                lanes.append(Lane(leg, direction, stream, end, self._name))
            heard = self.demultiplexer.open() if puts_sent else None
            if heard is not None:
                lanes.append(
                    Lane(leg, Direction.OUTGOING, heard, ends[-1] if ends else end, "", is_received=False)
                )
        except BaseException:
            for lane in lanes:
                lane.close()
            for end in ends:
                self._release(end)
            raise
        media = RtpMedia(self, call, lanes, payload_types=known, heard=heard, on_bye=on_bye)
        with self._lock:
            self._media[id(media)] = media
        call.attach(media)
        return media

    @property
    def statistics(self) -> dict[str, Any]:
        """JSON: packets by fate of all legs that are and were, of the shared port, and of the receiving thread."""
        with self._lock:
            media = list(self._media.items())
        found = [(key, _sums(one.statistics)) for key, one in media]
        with self._lock:
            total = Counter(self._totals)
            for key, sums in found:
                if key in self._media:  # else it is among the totals by now
                    total.update(sums)
        if self._shared is not None and not self._is_closed:
            total.update(self._shared.counts(self.demultiplexer))
        return {**total, **self.demultiplexer.counts, "legs": len(media), "ports_free": len(self._range)}

    def close(self) -> None:
        """Close all media and end both threads."""
        with self._lock:
            if self._is_closed:
                return
            media = list(self._media.values())
        for one in media:
            one.close()
        self._is_closed = True
        self.demultiplexer.stop()
        self._pacer.wake()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        if self._shared is not None:
            self._totals.update(self._shared.counts(self.demultiplexer))
            self._shared.leave(self.demultiplexer)

    # -- for the media -------------------------------------------------------------------------------------------

    def address(self, name: tuple[str, int]) -> udp.Address:
        """An address of the network that ports are in; UsageError for another, or for a name in place of a number."""
        host, port = name
        try:
            found = ip_address(host)
        except ValueError:
            raise UsageError(f"{host!r} is no IP address") from None
        if (found.version == 6) != (self._family == socket.AF_INET6):
            raise UsageError(f"{host} is IPv{found.version}, the ports here are not")
        if not 0 < port < 65536:
            raise UsageError(f"{port} is no port")
        scope = 0
        if isinstance(found, IPv6Address) and found.scope_id is not None:
            scope = int(found.scope_id) if found.scope_id.isdigit() else socket.if_nametoindex(found.scope_id)
        return udp.Address(found.packed, port, scope)

    def voice(self, lane: Lane, heard: udp.Stream | None, media: RtpMedia) -> udp.Voice:
        """Who speaks to the peer of a lane."""
        voice = self._pacer.voice(
            lane.ends.media.fileno(),
            lane.stream,
            ssrc=lane.ssrc,
            sequence=secrets.randbits(16),
            timestamp=secrets.randbits(32),
            heard=heard,
        )
        with self._lock:
            self._speakers[voice] = media
        return voice

    def silence(self, voice: udp.Voice) -> None:
        """It is heard no more."""
        voice.close()
        with self._lock:
            del self._speakers[voice]

    def soon(self, what: Callable[[], None]) -> None:
        """Have it done in the sending thread."""
        self._soon.append(what)
        self._pacer.wake()

    def give_back(self, media: RtpMedia, statistics: Mapping[str, Any]) -> None:
        """Take back the ports of media whose streams are closed."""
        with self._lock:
            del self._media[id(media)]
            self._totals.update(_sums(statistics))
        for ends in media.ends:
            self._release(ends)

    # -- within --------------------------------------------------------------------------------------------------

    def _own(self, has_mux: bool) -> Ends:
        tried = 0
        while True:
            with self._lock:
                if self._is_closed:
                    raise UsageError("these ports are closed")
                port = self._range.take()
                most = len(self._range) + 1
            if port is None:
                raise NoPortError("no port is free for another leg")
            try:
                ends = self._bind(port, has_mux=has_mux, is_shared=False)
            except OSError as error:
                if error.errno in EXHAUSTED:
                    with self._lock:
                        self._range.put_back(port)
                    raise NoPortError(f"no port can be opened for another leg: {error.strerror}") from None
                with self._lock:
                    self._range.give_back(port)  # somebody else has it
                tried += 1
                if tried >= most:
                    raise NoPortError("no port is free for another leg") from None
                continue
            try:
                ends.join(self.demultiplexer, OWN_BUFFER_BYTES)
            except BaseException:
                self._release(ends)
                raise
            return ends

    def _bind(self, port: int, *, has_mux: bool, is_shared: bool) -> Ends:
        made: list[socket.socket] = []
        try:
            for number in (port,) if has_mux else (port, port + 1):
                one = socket.socket(self._family, socket.SOCK_DGRAM)
                made.append(one)
                if one.fileno() > self._last_descriptor:  # the lowest that is free is given
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                if self._family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.bind((self._host, number))
        except BaseException:
            for one in made:
                one.close()
            raise
        return Ends(port, made[0], None if has_mux else made[1], is_shared=is_shared)

    def _release(self, ends: Ends) -> None:
        ends.leave(self.demultiplexer)
        with self._lock:
            self._range.give_back(ends.port)

    def _send(self) -> None:
        """The sending thread: what it plays goes out without the GIL; here is what has ended."""
        while not self._is_closed:
            for voice, talk, error in self._pacer.run():
                with self._lock:
                    media = self._speakers.get(voice)
                if media is not None:
                    self._guarded(partial(media.played, talk, error))
            while self._soon:
                self._guarded(self._soon.popleft())

    @staticmethod
    def _guarded(what: Callable[[], None]) -> None:
        try:
            what()
        except Exception:
            log.exception("after something was played")  # the others go on


def _first(run: Callable[[], None]) -> None:
    """Run it before what can wait, where the process may say so: neither thread takes long, and both are waited for."""
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
    run()


LATENESS = {"jitter_ms", "wait_max_ms", "send_late_max_ms"}


def _sums(statistics: Mapping[str, Any]) -> dict[str, int]:
    """Those of a leg's statistics that add up."""
    return {
        name: value
        for name, value in statistics.items()
        if isinstance(value, int) and not isinstance(value, bool) and name not in LATENESS
    }
