"""Legs and their tracks: packets or frames in, gap-free PCM and digits on the call's clock out.

A `Track` is one direction of a leg. Its timeline is `kernels.rtp.Receiver` (the rules are on top of
native/include/callreel/timeline.h); here it meets the detectors: keys sent as telephone events (RFC 4733) and keys
heard in the audio become one list, in which a key that came both ways is one digit.

All positions are samples of the track's timeline: sample n is the moment origin + n / sample_rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from callreel.errors import UsageError
from callreel.kernels import pcm, rtp

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["CODECS", "Codec", "Digit", "DigitSource", "Direction", "Leg", "Timelines", "Track", "codec_of"]


class Direction(StrEnum):
    """Which way a track's audio goes, seen from the participant (design words of every vendor)."""

    INCOMING = "incoming"
    """From the participant to the server."""
    OUTGOING = "outgoing"
    """From the server to the participant."""


class DigitSource(StrEnum):
    """How a key reached us."""

    EVENT = "rfc4733"
    INBAND = "inband"
    HOST = "host"
    """The embedding program found it."""


@dataclass(frozen=True, slots=True)
class Codec:
    """What there is to know of an encoding on the wire."""

    name: str
    """As in SDP and RFC 3551."""
    clock_rate: int
    """RTP timestamps a second."""
    decodable: bool
    """Whether a recording can hold it."""


CODECS = {
    codec.name: codec
    for codec in (
        Codec("PCMU", 8000, True),
        Codec("PCMA", 8000, True),
        Codec("CN", 8000, True),
        Codec("telephone-event", 8000, True),
    )
}
"""The codecs a track understands; a new one is a line here and a decoder in native/include/callreel/reading.h."""


def codec_of(name: str, clock_rate: int = 8000) -> Codec:
    """Find a codec by its SDP name in any case; an unknown one, or one at another clock rate, is not decodable."""
    for codec in CODECS.values():
        if codec.name.upper() == name.upper() and codec.clock_rate == clock_rate:
            return codec
    return Codec(name, clock_rate, False)


@dataclass(frozen=True, slots=True)
class Digit:
    """A key the participant pressed."""

    symbol: str
    """One of 0123456789*#ABCD."""
    position: int
    """Where it begins, timeline samples."""
    duration_samples: int
    source: DigitSource


SAME_KEY_MS = 200
"""How far an event and a tone of the same key may stand apart and still be one press: a gateway's detector needs 40 ms
and more to turn a tone into an event, and may let some of the tone through."""

HOLD_MS = 400
"""How long a tone waits for the event of the same key, where the stream has events: longer than a sender takes from
the tone's end to the event's last packet."""

PCM_PAUSE_NS = 60_000_000
"""Host frames that begin this much off where the ones before ended are a new beginning for the resampler."""

RTP_SAMPLE_RATE = 8000


class Track:
    """One direction of a leg: packets or host frames in, PCM and digits out.

    Feed it with `receive`, `receive_batch` or `receive_pcm`; drain `digits`, and `read` up to `ready`. It belongs to
    one thread at a time and its memory is bounded (35 KB for RTP).
    """

    __slots__ = (
        "_codec_names",
        "_events",
        "_expects_events",
        "_fed_samples",
        "_fed_until_ns",
        "_held",
        "_resampled_samples",
        "_resampler",
        "host_frames",
        "origin_ns",
        "receiver",
        "sample_rate",
    )

    def __init__(
        self,
        *,
        origin_ns: int,
        payload_types: Mapping[int, str] | None = None,
        sample_rate: int = RTP_SAMPLE_RATE,
        host_frames: bool = False,
        detect_digits: bool = True,
        render_events: bool = True,
        host_digits: bool = False,
    ) -> None:
        """Start an empty timeline at `origin_ns`.

        `payload_types` maps RTP payload types to codec names, by default the static ones. With `host_frames` the track
        takes PCM at `sample_rate` in place of RTP. `render_events` lets telephone events sound where the stream has no
        audio of its own. With `host_digits` the host may be told of keys (`press`) whose tones sound in the audio too.
        """
        self.origin_ns = origin_ns
        self.sample_rate = sample_rate
        self.host_frames = host_frames
        """Whether it takes PCM in place of RTP."""
        self._codec_names: Mapping[int, str] = {}
        self.receiver = rtp.Receiver(
            origin_ns=origin_ns,
            sample_rate=sample_rate,
            host_frames=host_frames,
            render_events=render_events,
            detect_digits=detect_digits,
        )
        """Where packets may be handed in, and the timeline be read, without the track in between."""
        self._resampler: pcm.Resampler | None = None
        self._fed_samples = 0  # at the host's rate
        self._resampled_samples = 0  # at the track's
        self._fed_until_ns = 0
        self._held: Sequence[Digit] = ()  # keys heard, waiting for their event
        self._events: Sequence[Digit] = ()  # recent events, to recognise their tone when it is reported later
        self._expects_events = host_digits
        self.set_payload_types(rtp.STATIC_PAYLOAD_TYPES if payload_types is None else payload_types)

    def set_payload_types(self, payload_types: Mapping[int, str]) -> None:
        """Take over what a new SDP answer says; packets of other types are counted as undecoded from now on."""
        self.receiver.set_payload_types(payload_types)
        self._codec_names = _shared_names(tuple({**self._codec_names, **payload_types}.items()))
        self._expects_events |= any(name.lower() == "telephone-event" for name in payload_types.values())

    # -- feed ----------------------------------------------------------------------------------------------------

    def receive(self, packet: Buffer, arrival_ns: int) -> None:
        """Take one datagram that arrived at `arrival_ns`: RTP, or RTCP. Wire faults are counted, never raised.

        If more than 3 s of audio wait to be read and nothing can be, the packet is counted as discarded.
        """
        self.receiver.receive(packet, arrival_ns, force=True)

    def receive_batch(
        self,
        data: Buffer,
        records: Buffer,
        first: int = 0,
        count: int | None = None,
        *,
        until_ns: int | None = None,
        force: bool = False,
    ) -> int:
        """Take packet records (`kernels.pcap`) over one buffer, those up to `until_ns`; returns how many.

        It stops when audio must be read first; with `force` what finds no room is counted as discarded.
        """
        return self.receiver.receive_batch(data, records, first, count, until_ns=until_ns, force=force)

    def receive_pcm(self, frames: Buffer, arrival_ns: int, sample_rate: int | None = None) -> None:
        """Take mono 16-bit PCM from the host, its first sample at `arrival_ns`.

        `sample_rate` is 8000, 16000, 24000 or 48000 Hz, by default the track's; another than the track's is resampled,
        and must then stay the same. What finds no room because nobody reads is counted as discarded.
        """
        if sample_rate is None or sample_rate == self.sample_rate:
            self.receiver.push(frames, arrival_ns)
            return
        if self._resampler is None:
            self._resampler = pcm.Resampler(sample_rate, self.sample_rate)
        elif self._resampler.from_rate == sample_rate and abs(arrival_ns - self._fed_until_ns) > PCM_PAUSE_NS:
            self.flush()
        elif self._resampler.from_rate != sample_rate:
            raise UsageError(f"frames of {self._resampler.from_rate} Hz so far, now of {sample_rate} Hz")
        # The resampler holds back what it needs to look ahead, so its output begins before these frames do.
        held_back_ns = self._held_back_ns()
        resampled = self._resampler.feed(frames)
        self._fed_samples += memoryview(frames).nbytes // 2
        self._resampled_samples += len(resampled) // 2
        self._fed_until_ns = arrival_ns + memoryview(frames).nbytes // 2 * 1_000_000_000 // sample_rate
        self.receiver.push(resampled, arrival_ns - held_back_ns)

    def _held_back_ns(self) -> int:
        assert self._resampler is not None
        fed_ns = self._fed_samples * 1_000_000_000 // self._resampler.from_rate
        return fed_ns - self._resampled_samples * 1_000_000_000 // self.sample_rate

    def takes_pcm(self, frames: Buffer, sample_rate: int | None = None) -> bool:
        """Whether there is room for all of it; where not, audio must be read first."""
        samples = memoryview(frames).nbytes // 2
        if sample_rate is not None:
            samples = samples * self.sample_rate // sample_rate + 1
        return self.receiver.takes_frames(samples)

    def settle(self) -> None:
        """Say that what has come is all that there is to tell a pause from a queue."""
        self.receiver.settle()

    def flush(self) -> None:
        """Take the last of the host's frames, which their resampling has held back."""
        if self._resampler is not None and self._fed_samples:
            held_back_ns = self._held_back_ns()
            self.receiver.push(self._resampler.flush(), self._fed_until_ns - held_back_ns)
            self._fed_samples = self._resampled_samples = 0

    def press(self, digit: Digit) -> None:
        """Learn of a key that the host was told of: a tone of it at the same time is the same press."""
        self._events = (*self._events, digit)
        self._expects_events = True

    def finish(self) -> None:
        """Say that nothing more will come."""
        self.flush()
        self.receiver.finish()

    # -- drain ---------------------------------------------------------------------------------------------------

    def digits(self, *, final: bool = False) -> list[Digit]:
        """Keys that have ended since the last call, in order of their beginning; all of them with `final`.

        A key heard in a stream that has telephone events is held back for 0.4 s of audio, so that its event can take
        its place.
        """
        if not self.listen(final=final) and not self._held:
            return []
        events = [
            Digit(symbol, position, duration, DigitSource.EVENT)
            for symbol, position, duration in self.receiver.digits()
        ]
        tones = [
            Digit(symbol, position, duration, DigitSource.INBAND)
            for symbol, position, duration in self.receiver.tones()
        ]
        hold = self._samples(HOLD_MS) if self._expects_events and not final else 0
        self._events = [
            event
            for event in (*self._events, *events)
            if event.position + event.duration_samples > self.receiver.heard - self._samples(10_000)
        ]
        still_held, heard = [], []
        for tone in (*self._held, *tones):
            if any(self._is_same_press(event, tone) for event in self._events):
                continue
            waits = tone.position + tone.duration_samples + hold > self.receiver.heard
            if waits and hold and not any(event.position > tone.position for event in events):
                still_held.append(tone)
            else:
                heard.append(tone)
        self._held = still_held
        return sorted(events + heard, key=lambda digit: digit.position)

    @property
    def holds_keys(self) -> bool:
        """Whether keys are held back, so that `digits` may give some although `listen` finds none."""
        return bool(self._held)

    @property
    def sounding(self) -> str | None:
        """The key that is being heard right now, at most 60 ms after 40 ms of it have come."""
        sounding = self.receiver.sounding
        return None if sounding is None else sounding[0]

    @property
    def sounding_since(self) -> int | None:
        """Where the key begins that is being heard right now, on the timeline."""
        sounding = self.receiver.sounding
        return None if sounding is None else sounding[1]

    def _is_same_press(self, event: Digit, tone: Digit) -> bool:
        slack = self._samples(SAME_KEY_MS)
        return (
            event.symbol == tone.symbol
            and tone.position < event.position + event.duration_samples + slack
            and event.position < tone.position + tone.duration_samples + slack
        )

    def listen(self, *, final: bool = False) -> bool:
        """Let the detector, and whoever is in `on_hear`, hear what has come; whether a key has ended."""
        return self.receiver.listen(final=final)

    @property
    def on_hear(self) -> list[Callable[[int, bytes], None]]:
        """Who is handed (position, pcm) as it comes, in order: losses left out, positions still open to correction."""
        return self.receiver.on_hear

    @property
    def on_read(self) -> list[Callable[[int, bytes], None]]:
        """Who is handed (position, pcm) of the timeline as it is read or skipped: final."""
        return self.receiver.on_read

    def ready(self, now_ns: int) -> int:
        """Position up to which the timeline is final at `now_ns`: 1.1 s back, more while a packet is in doubt."""
        return self.receiver.ready(now_ns)

    @property
    def complete(self) -> int:
        """Position up to which nothing is missing and no key in doubt: how far to read who cannot wait for `ready`."""
        if not self._held:
            return self.receiver.complete
        return max(self.position, min(self.receiver.complete, self._held[0].position))

    def read(self, until: int) -> bytes:
        """The timeline up to position `until`: mono 16-bit PCM."""
        return self.receiver.read(until)

    def preview(self, begin: int, until: int) -> bytes:
        """What has come by now of the timeline from `begin` on, which has not been read, up to `until`."""
        return self.receiver.preview(begin, until)

    def skip(self, until: int) -> None:
        """Pass over the timeline up to `until`; nothing of it is kept, but keys are heard."""
        self.receiver.skip(until)

    @property
    def position(self) -> int:
        """The next sample that `read` gives."""
        return self.receiver.position

    @property
    def end(self) -> int:
        """One past the last sample that has arrived."""
        return self.receiver.end

    @property
    def counts(self) -> dict[str, int]:
        """Packets by fate; see `kernels.rtp.Receiver.counts`."""
        return self.receiver.counts

    @property
    def heard_codecs(self) -> tuple[str, ...]:
        """What the packets received were encoded in, by their payload types; `PT n` where nobody said what n is."""
        if self.host_frames:
            return ("L16",) if self.counts["received"] else ()
        return tuple(self._codec_names.get(n, f"PT {n}") for n in self.receiver.payload_types_seen)

    @property
    def ssrcs(self) -> tuple[int, ...]:
        """The sources heard so far."""
        return self.receiver.ssrcs

    @property
    def concealed_samples(self) -> int:
        """Samples read that were made up around a loss."""
        return self.receiver.concealed_samples

    @property
    def silence_samples(self) -> int:
        """Samples read that were silent for want of audio."""
        return self.receiver.silence_samples

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """Stretches read whose audio was lost, as (position, samples), in order: the first 1,000 of them."""
        return self.receiver.gaps()

    @property
    def drift_ppm(self) -> float | None:
        """How fast the sender's clock runs; None before 10 s were seen."""
        return self.receiver.drift_ppm

    @property
    def alignment_error_ms(self) -> float:
        """The farthest any audio stood from where the sender's clock puts it."""
        return self.receiver.alignment_error_ms

    def _samples(self, ms: int) -> int:
        return ms * self.sample_rate // 1000


@lru_cache(64)
def _shared_names(names: tuple[tuple[int, str], ...]) -> Mapping[int, str]:
    """Codec names by payload type: most tracks have the same, and share them."""
    return MappingProxyType(dict(names))


class Timelines(Protocol):
    """Both timelines of a leg, side by side: what `kernels.rtp.Pair` is of two receivers."""

    def listen(self) -> bool:
        """Let the detectors hear what has come; whether a key has ended."""
        ...

    def ready(self, now_ns: int, /) -> int:
        """Position up to which both are final at `now_ns`."""
        ...

    def read(self, until: int, /) -> bytes:
        """Both up to position `until`: 16-bit stereo, incoming on the left."""
        ...

    def preview(self, begin: int, until: int, /) -> bytes:
        """What has come by now of both from `begin` on, which has not been read, up to `until`."""
        ...

    def skip(self, until: int, /) -> None:
        """Pass over both up to `until`."""
        ...

    @property
    def position(self) -> int:
        """The next sample that `read` gives."""
        ...

    @property
    def end(self) -> int:
        """One past the last sample that has arrived on either."""
        ...

    @property
    def sounding_since(self) -> int | None:
        """Where the incoming key begins that is being heard right now."""
        ...


@dataclass(slots=True)
class Leg:
    """One participant's connection: what they say and what they hear."""

    name: str
    incoming: Track
    outgoing: Track
    digits: list[tuple[Direction, Digit]] = field(default_factory=list)
    holds_keys: bool = False
    """Whether a track holds keys back, by what was last collected of it."""
    timelines: Timelines = field(default=None)  # type: ignore[assignment]
    """Both as they are recorded; by default those of the tracks' receivers."""

    def __post_init__(self) -> None:
        """Put the tracks side by side."""
        if self.timelines is None:
            self.timelines = rtp.Pair(self.incoming.receiver, self.outgoing.receiver)

    @property
    def tracks(self) -> tuple[tuple[Direction, Track], ...]:
        """Both, with their directions."""
        return (Direction.INCOMING, self.incoming), (Direction.OUTGOING, self.outgoing)

    def track(self, direction: Direction) -> Track:
        """The track of one direction."""
        return self.incoming if direction is Direction.INCOMING else self.outgoing
