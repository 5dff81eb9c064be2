"""RTP over UDP on Linux: datagrams of many sockets sorted by stream, and what is played sent in time.

    demultiplexer = Demultiplexer()
    number, _ = demultiplexer.add_socket(socket.fileno())
    stream = demultiplexer.open(number, payload_types=[0])
    Thread(target=demultiplexer.run).start()          # reads without the GIL, until demultiplexer.stop()
    ...
    while taken := stream.take():
        receiver.receive_batch(*taken)                # kernels.rtp

Who is a stream's peer and who a stranger is on top of native/include/callreel/demultiplexer.h. All objects may be used
from any thread at any time. This kernel alone does I/O, on descriptors that its caller opened and closes. On other
systems than Linux its import raises ImportError.
"""

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple, final

from typing_extensions import Buffer

PACKET_BYTES_MAX: Final[int]
"""Longer datagrams are counted, not taken."""

class Address(NamedTuple):
    """Where datagrams come from: 4 or 16 address bytes in network order, port, and scope of a local IPv6 one."""

    packed: bytes
    port: int
    scope: int = 0

class Report(NamedTuple):
    """A report block, RFC 3550 section 6.4.1."""

    ssrc: int
    fraction_lost: int
    """Of 256, since the report before."""
    lost: int
    highest_sequence: int
    jitter: int
    """Timestamps of 8 kHz."""
    last_report: int
    delay: int
    """1/65536 s."""

class Sent(NamedTuple):
    """What a voice has sent, for a sender report."""

    ssrc: int
    timestamp: int
    packets: int
    octets: int

def arrival_ns(stamp_ns: int, *, offset_ns: int, offset_before_ns: int, low_ns: int, high_ns: int) -> int:
    """When a packet arrived on the monotonic clock, by its stamp of the time of day; see arrival_clock.h.

    The offsets are those of the time of day from it, now and before the clock was last set; the packet came between
    `low_ns` and `high_ns`.
    """

@final
class Demultiplexer:
    """Reads many sockets in one thread and keeps what has come, by stream, until it is taken."""

    def __init__(self, *, memory_bytes: int = 268435456, relearn_ms: int = 3000) -> None:
        """Keep at most so many bytes that wait; a peer that is silent for `relearn_ms` may be followed by another."""
    def add_socket(
        self,
        descriptor: int,
        *,
        shared: bool = False,
        control: bool = False,
        receive_buffer_bytes: int = 1048576,
    ) -> tuple[int, int]:
        """Read a bound UDP socket from now on; (its number here, the bytes that its buffer was granted).

        `shared`: many streams come to it, and none is learnt without its SSRC. `control`: RTCP alone comes to it.
        Raises OSError where the system refuses.
        """
    def remove_socket(self, number: int) -> None:
        """Read it no more; then its descriptor may be closed. Its streams are closed before."""
    def sweep(self, number: int) -> None:
        """Read at once what has come to a socket, so that its streams have all of it."""
    def open(
        self,
        socket: int | None = None,
        *,
        control: int | None = None,
        payload_types: Iterable[int] = (),
        peer: Address | None = None,
        ssrc: int | None = None,
    ) -> Stream:
        """A stream of `socket`, its RTCP coming to `control` or to the same; without any, what we send is put there.

        `peer`: it comes from there and from nowhere else. `ssrc` tells it from others on a shared socket, or from the
        other one of the same source.
        """
    def run(self) -> None:
        """Read until `stop`, without the GIL; one thread, once."""
    def stop(self) -> None:
        """Let `run` return."""
    def socket_counts(self, number: int) -> dict[str, int]:
        """Datagrams of a socket by fate, those that its streams count left out."""
    @property
    def counts(self) -> dict[str, int]:
        """Turns of the reading thread, errors of sockets, and the bytes that wait to be taken."""

@final
class Stream:
    """What comes from one source, and waits to be taken."""

    def take(self, /, all: bool = False) -> tuple[bytes, bytes] | None:
        """What has come, as (payloads, packet records): see `pcap.DTYPE`; None when there is nothing.

        Times are those of the monotonic clock. With `all` also what a peer has sent that no second packet has
        confirmed: for the end, when there was no other.
        """
    def announce(self, peer: Address) -> None:
        """From now on it comes from there, and from nowhere else."""
    def look_again(self) -> None:
        """The next other source of sound packets is the peer, if one comes within the time of a silence."""
    def report(self) -> Report | None:
        """What a receiver reports of it now, since the last time; None before there was a packet."""
    def close(self) -> None:
        """Take nothing more; what waits is gone. Voices that speak to its peer are closed before."""
    @property
    def peer(self) -> Address | None:
        """Where it comes from; None while nobody has been learnt."""
    @property
    def control_peer(self) -> Address | None:
        """Where reports go: where they come from, or by its rule the port above; None while nobody has been learnt."""
    @property
    def has_gone(self) -> bool:
        """Whether its source has said BYE."""
    @property
    def counts(self) -> dict[str, float]:
        """Packets by fate, and how late they were.

        `received`: RTP of the peer, `overflowed` ones included; `reports`: RTCP; `strangers`: those of a source that
        was the peer until another came; `wait_max_ms`: the longest that one lay in the kernel.
        """

@final
class Pacer:
    """Sends what is played, for all voices in one thread."""

    def __init__(self, demultiplexer: Demultiplexer) -> None:
        """Speak to the peers that it knows."""
    def voice(
        self,
        descriptor: int,
        stream: Stream,
        *,
        ssrc: int,
        sequence: int,
        timestamp: int,
        heard: Stream | None = None,
    ) -> Voice:
        """Who speaks to the peer of `stream` through a socket; what is sent is put into `heard`, too.

        `sequence` and `timestamp` are those of its first packet, if that were sent now.
        """
    def run(self) -> list[tuple[Voice, int, str | None]]:
        """Send what is due, without the GIL, until something ends or `wake`; what did: (voice, talk, error)."""
    def wake(self) -> None:
        """Let `run` return."""

@final
class Voice:
    """Who speaks to one peer: an RTP source."""

    def play(self, codes: Buffer, *, payload_type: int, codec: Literal["PCMU", "PCMA"] = "PCMU") -> int:
        """Send G.711 codes from now on; the number of this talk, which `Pacer.run` tells the end of."""
    def stop(self) -> None:
        """Send no more of it; its end is not told."""
    def close(self) -> None:
        """Be gone; then the socket may be closed."""
    @property
    def talk(self) -> int:
        """The number of what is played now."""
    @property
    def sent(self) -> Sent:
        """What it has sent by now, and the timestamp of this moment."""
    @property
    def counts(self) -> dict[str, float]:
        """Packets sent and refused by the system, and the latest that one was, in ms."""
