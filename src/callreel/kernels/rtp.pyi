"""RTP: one stream's packets in, its true timeline out (RFC 3550, RFC 4733, RFC 3389)."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, final

from typing_extensions import Buffer

STATIC_PAYLOAD_TYPES: dict[int, str]
"""What payload types mean that nobody announced (RFC 3551): those a timeline understands."""

class Packet(NamedTuple):
    """One RTP packet, RFC 3550 section 5.1."""

    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    marker: bool
    csrc: tuple[int, ...]
    extension: tuple[int, bytes] | None
    """Profile-defined number and content of the header extension."""
    payload: bytes
    padding_bytes: int

class SenderReport(NamedTuple):
    """A sender's wall clock and media clock at one instant, RFC 3550 section 6.4.1."""

    ssrc: int
    ntp: int
    """Seconds since 1900 as 32.32 fixed point."""
    timestamp: int
    packets: int
    octets: int

class Run(NamedTuple):
    """What one source sent in one go, without a pause of a minute."""

    ssrc: int
    first_ns: int
    last_ns: int
    packets: int
    lost: int
    duplicate: int
    reordered: int
    orderly: int
    """Packets whose sequence number followed those before it."""
    cut: int
    """Packets that the capture holds in part only."""
    early_ns: int
    """How much before its first packet arrived its audio begins on a timeline, if it is G.711."""
    payload_types: tuple[int, ...]

def parse(packet: Buffer) -> Packet:
    """Take one RTP packet apart.

    Raises:
        RtpError: it is none.
    """

def sender_report(packet: Buffer) -> SenderReport | None:
    """The sender report in a compound RTCP packet, or None if it holds none.

    Raises:
        RtpError: the packet is malformed.
    """

@final
class Receiver:
    """One track's true timeline: packets or host frames in, gap-free PCM out.

    The rules are on top of native/include/callreel/timeline.h. Positions are samples of the timeline; position 0 is the
    moment `origin_ns`. The object belongs to one thread at a time.
    """

    def __init__(
        self,
        payload_types: Mapping[int, str] | None = None,
        *,
        origin_ns: int = 0,
        sample_rate: int = 8000,
        late_ms: int = 1000,
        capacity_ms: int = 3600,
        host_frames: bool = False,
        render_events: bool = True,
        detect_digits: bool = False,
    ) -> None:
        """Start an empty timeline.

        `payload_types` maps RTP payload types to "PCMU", "PCMA", "CN" or "telephone-event" (by default the static
        ones); packets of any other name are counted as undecoded. `late_ms`: how late a packet may be and still land in
        its place. `capacity_ms` bounds the memory: what has arrived and has not been read. With `host_frames` it takes
        PCM (`push`) in place of RTP. With `render_events` telephone events sound where the stream has no audio.
        With `detect_digits` keys can be listened for in the audio (`listen`).

        Raises:
            ValueError: a number out of range.
        """

    def set_payload_types(self, payload_types: Mapping[int, str]) -> None:
        """Replace the meaning of all payload types from now on, as a new SDP answer does."""

    def receive(self, /, packet: Buffer, arrival_ns: int, force: bool = False) -> bool:
        """Take one datagram: RTP, or RTCP of the same port. Wire faults are counted, not raised.

        Returns False, and takes nothing, when the memory is full of unread audio: read, then offer it again. With
        `force` a packet that finds no room is counted as discarded.
        """

    def receive_batch(
        self,
        /,
        data: Buffer,
        records: Buffer,
        first: int = 0,
        count: int | None = None,
        until_ns: int | None = None,
        force: bool = False,
    ) -> int:
        """Take many datagrams at once: packet records (`pcap.DTYPE`) over one buffer of payloads.

        `first` and `count` choose some of the records; of these, taking stops before the first one later than
        `until_ns`. Returns how many were taken: fewer also when the memory is full of unread audio. With `force` those
        that find no room are counted as discarded.
        """

    def push(self, pcm: Buffer, arrival_ns: int) -> int:
        """Take 16-bit PCM from the host, its first sample at `arrival_ns`; returns the number of samples taken.

        It is counted in pieces of 20 ms; those that find the memory full of unread audio are discarded and counted.
        """

    def takes_frames(self, samples: int) -> bool:
        """Whether there is room for so many samples of the host's; where not, audio must be read first."""

    def settle(self) -> None:
        """Say that nothing is awaited that could tell a pause of the sender's from a queue."""

    def leave_out(self) -> None:
        """Count a piece that came and that its host leaves out: as received, and as discarded."""

    def finish(self) -> None:
        """Say that no packet will come any more: all that arrived is final."""

    def ready(self, now_ns: int) -> int:
        """The position up to which the timeline is final at time `now_ns`: later packets could not change it."""

    @property
    def complete(self) -> int:
        """The position up to which nothing is missing and nothing in doubt, 100 ms behind what has come.

        Whoever cannot wait for `ready` may read so far; later packets could change it only by what they tell of the
        sender's clock.
        """

    def read(self, until: int) -> bytes:
        """The timeline from `position` up to `until` as 16-bit PCM, gaps filled; moves `position` there.

        What has come and was not listened to is heard first, before it is gone.
        """

    def preview(self, begin: int, until: int) -> bytes:
        """What has come by now of the timeline from `begin` up to `until`; `position` stays, later it may be better.

        It is silent where nothing has come; nothing is repaired or resampled, and what has been read is gone.

        Raises:
            ValueError: `begin` is negative, or behind `until`, or too much is asked for.
        """

    def skip(self, until: int) -> None:
        """Move `position` to `until`; nothing is kept, but it is listened for keys, and `on_read` is told."""

    def hear(self) -> list[tuple[int, bytes]]:
        """Audio that arrived since the last call, in order, as a list of (position, pcm): for detectors.

        It comes long before `ready`, as soon as nothing before it is missing, or 40 ms of later audio have come.
        """

    def listen(self, *, final: bool = False) -> bool:
        """Listen for keys in what `hear` would give; whether there are any that ended, for `tones` or `digits`.

        What was not heard by the time it is read or skipped counts as silence. With `final` a key that still sounds
        ends.
        """

    def tones(self) -> list[tuple[str, int, int]]:
        """Keys heard that have ended since the last call, as a list of (symbol, position, duration_samples)."""

    @property
    def on_hear(self) -> list[Callable[[int, bytes], None]]:
        """Who is handed (position, pcm) of what is listened to."""
    @property
    def on_read(self) -> list[Callable[[int, bytes], None]]:
        """Who is handed (position, pcm) of what is read or skipped."""
    @property
    def heard(self) -> int:
        """Position up to which keys have been listened for."""

    @property
    def sounding(self) -> tuple[str, int] | None:
        """The key heard right now, as (symbol, position), or None: at most 60 ms after 40 ms of it have come."""

    def digits(self) -> list[tuple[str, int, int]]:
        """Telephone events that have ended since the last call, as a list of (symbol, position, duration_samples)."""

    def gaps(self) -> list[tuple[int, int]]:
        """Stretches read so far whose audio was lost, as a list of (position, samples), in order: the first 1,000.

        They were concealed, or silent when long.
        """

    @property
    def host_frames(self) -> bool:
        """Whether it takes PCM in place of RTP."""
    @property
    def sample_rate(self) -> int:
        """Samples a second of the timeline."""
    @property
    def position(self) -> int:
        """The next timeline sample to be read."""
    @property
    def end(self) -> int:
        """One past the last timeline sample that has arrived, or `position`."""
    @property
    def ssrcs(self) -> tuple[int, ...]:
        """The sources heard, in order of their first packet (at most 16 are kept)."""
    @property
    def payload_types_seen(self) -> tuple[int, ...]:
        """The payload types of the packets received, in order of their number."""
    @property
    def counts(self) -> dict[str, int]:
        """Packets by fate.

        `received` counts every RTP packet that arrived, duplicates and late ones included; `lost` those that never
        came; `undecoded` those of an unknown payload type; `discarded` those of a second source at the same time, or
        that found no room.
        """
    @property
    def sender_reports(self) -> int:
        """RTCP sender reports that came with the stream."""
    @property
    def concealed_samples(self) -> int:
        """Samples read that were made up from the audio around a loss."""
    @property
    def silence_samples(self) -> int:
        """Samples read that were silent because there was no audio."""
    @property
    def drift_ppm(self) -> float | None:
        """How fast the sender's clock runs against ours, or None before 10 s were seen; positive: fast."""
    @property
    def alignment_error_ms(self) -> float:
        """The farthest any audio stood from where the sender's clock puts it, as far as arrivals tell."""

@final
class Pair:
    """Two receivers that are read side by side: what a participant says, and what they hear."""

    def __init__(self, left: Receiver, right: Receiver) -> None:
        """Put them side by side; they stay what they are."""

    def listen(self, /, final: bool = False) -> bool:
        """Listen for keys on both; whether one has any that ended."""

    def ready(self, /, now_ns: int) -> int:
        """The position up to which both are final at `now_ns`."""

    def read(self, /, until: int) -> bytes:
        """Both from `position` up to `until`, woven into stereo.

        Raises:
            UsageError: one was read further than the other before.
        """

    def preview(self, /, begin: int, until: int) -> bytes:
        """What has come by now of both from `begin` up to `until`, woven into stereo; `position` stays."""

    def skip(self, until: int) -> None:
        """Move `position` to `until` on both, without reading."""

    @property
    def position(self) -> int:
        """The next sample to be read."""
    @property
    def end(self) -> int:
        """One past the last sample that has arrived on either, or `position`."""
    @property
    def sounding_since(self) -> int | None:
        """Where the key begins that is heard on the left right now, or None."""

@final
class Survey:
    """What a flow of datagrams holds, without decoding it: is it RTP, from whom, when, in which payload types.

    Memory is fixed at 3 KB; the object belongs to one thread at a time.
    """

    def receive_batch(self, data: Buffer, records: Buffer, first: int = 0, count: int | None = None) -> None:
        """Look at packet records (`pcap.DTYPE`) over one buffer of payloads."""

    @property
    def runs(self) -> list[Run]:
        """What the sources sent, in order of their first packets (at most 8; the rest counts with the last)."""
    @property
    def event_payload_types(self) -> tuple[int, ...]:
        """Payload types whose packets are telephone events by all they show: each is one, none contradicts another."""
    @property
    def rtcp(self) -> int:
        """RTCP packets seen."""
    @property
    def malformed(self) -> int:
        """Datagrams that begin like RTP and are not."""
