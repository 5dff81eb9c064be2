"""Packet captures: the calls in a pcap or pcapng file become recordings.

The file is read twice, so that memory stays flat and nothing is decided too early:

* The survey reads signalling and takes stock of every UDP flow (`kernels.rtp.Survey`); then it is known which flows are
  the two directions of which call. Where SIP tells, it decides; RTP that no call claims is paired by its addresses.
* The recording feeds the packets of those flows to a `Call` each, which is asked for StartCallRecording when its media
  begins, and stores what comes out.

`record_capture` is a function of a path and options to a report that can be pickled: a batch of captures is a map.
"""

from __future__ import annotations

import gzip
import uuid
from bisect import bisect_left
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO, Literal

from callreel import sdp, sip
from callreel.actions import StartRecording
from callreel.call import Call
from callreel.delivery.folder import Folder, PartFile
from callreel.dialogs import Dialogs, SipCall, SipLeg
from callreel.errors import CaptureError, DeliveryError
from callreel.events import Event, RecordingFinished
from callreel.kernels import pcap, rtp
from callreel.legs import CODECS, Direction, codec_of

__all__ = [
    "CallReport",
    "CaptureReport",
    "RecordOptions",
    "SkippedStream",
    "Take",
    "record_capture",
]

CHUNK_BYTES = 1 << 20
SECOND_NS = 1_000_000_000
SLICE_NS = SECOND_NS  # how much of a call is fed before its recording moves on; a track holds 4 s
IDLE_NS = 60 * SECOND_NS  # a pause this long ends a call that has no signalling (as in kernels.rtp.Survey)
AFTER_BYE_NS = SECOND_NS  # packets still under way when the call ends
AFTER_END_NS = (
    5 * SECOND_NS
)  # media that only begins after a call's end (an announcement after a rejection) is its own
SETTLED_NS = 3 * SECOND_NS  # a call is over for good when the capture is this much past its end
MAX_SURVEYS = 32_768  # flows that may hold RTP; 3 KB each
MAX_TCP_STREAMS = 16_384  # directions of TCP connections that may hold SIP at the same time
MAX_OPEN_FILES = 128
MIN_ORDERLY_PACKETS = (
    3  # RTP packets in sequence that make a flow a stream, where no signalling vouches for it
)
MIN_ORDERLY_SHARE = 0.5
COPY_OVERLAP = 0.8  # of its time that a stream shares with another of the same source to count as its copy

STATIC_NAMES = {number: codec.name for number, codec in sdp.STATIC_CODECS.items()}
KNOWN_NAMES = {name.upper(): name for name in CODECS}

_RECORD_TIME = Struct("=q")
RECORD_BYTES = 40  # pcap.DTYPE

SkipReason = Literal["codec", "encrypted", "fax", "video", "second audio line", "copy"]


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """What to make of a capture, and where to put it."""

    out: Path
    """The folder that takes recordings under their object keys."""
    action: StartRecording = field(default_factory=StartRecording)
    """What is asked for each call when its media begins."""


@dataclass(frozen=True, slots=True)
class SkippedStream:
    """RTP, or what SIP announced, that is in no recording; named so that nothing is missing silently."""

    reason: SkipReason
    """"codec": not decodable; "encrypted": SRTP; "fax": T.38; "copy": the same packets as a stream that is recorded."""
    codec: str
    """Its name, or `PT n` where nobody said what payload type n is."""
    source: str
    destination: str
    call_id: str | None
    """The call it belongs to by its signalling."""
    ssrc: int | None
    packets: Mapping[str, int]
    """received, lost, duplicate, reordered."""
    started_at: datetime | None
    duration_s: float


@dataclass(frozen=True, slots=True)
class CallReport:
    """A call that the capture holds, recorded or not."""

    call_id: str
    signalling: str
    """"answered", "unanswered", "unknown" (began before the capture), or "none" (RTP without SIP)."""
    end_cause: str | None
    caller: str
    callee: str
    started_at: datetime
    recorded: bool
    note: str
    """Why there is no recording, where one was to be expected; else empty."""


@dataclass(frozen=True, slots=True)
class Take:
    """A finished recording."""

    path: Path
    manifest: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CaptureReport:
    """All that became of a capture."""

    path: Path
    format: str | None
    frames: int
    truncated: bool
    problem: str | None
    """What stopped the reading before the end of the file."""
    counts: Mapping[str, int]
    """The reader's counts, SIP messages and what was left out for want of room."""
    calls: tuple[CallReport, ...]
    takes: tuple[Take, ...]
    skipped: tuple[SkippedStream, ...]
    failures: tuple[str, ...]
    """Recordings that could not be stored."""

    @property
    def all_good(self) -> bool:
        """Whether everything that was to be recorded is, undamaged."""
        return (
            bool(self.takes)
            and not self.truncated
            and not self.failures
            and not any(stream.reason != "copy" for stream in self.skipped)
            and not any(call.note for call in self.calls)
            and not any(take.manifest["degraded"] for take in self.takes)
        )


def record_capture(
    path: Path,
    options: RecordOptions,
    *,
    on_event: Callable[[Event], None] | None = None,
    on_take: Callable[[Take], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> CaptureReport:
    """Record every call of a capture file.

    `on_event` is told what happens in each call, `on_take` of each finished recording, `on_progress` how many bytes of
    how many have been read (of the two readings together).

    Raises:
        CaptureError: the file is no capture.
        OSError: the file cannot be read.
    """
    size_bytes = path.stat().st_size

    def progress(reading: int) -> Callable[[int], None]:
        return lambda done: on_progress(reading * size_bytes + done, 2 * size_bytes) if on_progress else None

    survey = _Survey()
    survey.read(path, progress(0))
    plan = _plan(survey)
    recorder = _CaptureRecorder(plan.calls, options, survey, on_event=on_event, on_take=on_take)
    recorder.read(path, progress(1))
    return CaptureReport(
        path=path,
        format=survey.reader.format,
        frames=survey.reader.counts["frames"],
        truncated=survey.reader.truncated,
        problem=survey.reader.problem,
        counts={
            **{name: int(count) for name, count in survey.reader.counts.items()},  # type: ignore[call-overload]
            "sip_messages": survey.dialogs.messages,
            "sip_malformed": sum(survey.dialogs.malformed.values()),
            "streams_dropped": survey.dropped,
        },
        calls=tuple(report for report in recorder.reports(plan.reports)),
        takes=tuple(recorder.takes),
        skipped=tuple(plan.skipped),
        failures=tuple(recorder.failures),
    )


# ---- reading -------------------------------------------------------------------------------------------------------


def _open(path: Path) -> tuple[BinaryIO, BinaryIO]:
    """Open a capture, gzipped or not: (what to read, the file itself, whose position tells the progress)."""
    file = path.open("rb")
    magic = file.read(2)
    file.seek(0)
    if magic == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=file), file  # type: ignore[return-value]
    return file, file


def _batches(path: Path, reader: pcap.Reader, progress: Callable[[int], None]) -> Iterator[pcap.Batch]:
    stream, file = _open(path)
    with file:
        while True:
            try:
                chunk = stream.read(CHUNK_BYTES)
            except (EOFError, gzip.BadGzipFile, OSError) as error:
                if stream is file:
                    raise
                if not reader.counts["bytes"]:
                    raise CaptureError(f"the gzip file cannot be unpacked: {error}") from error
                return  # a torn gzip gives what it holds; the reader will find the last packet cut
            if not chunk:
                break
            yield reader.feed(chunk)
            progress(file.tell())
        reader.finish()


class _Survey:
    """The first reading: all signalling, and the runs of RTP in every flow."""

    def __init__(self) -> None:
        self.reader = pcap.Reader()
        self.dialogs = Dialogs()
        self.streams: dict[int, rtp.Survey] = {}
        self.dropped = 0
        self._sip_flows: set[int] = set()
        self._tcp: dict[int, sip.StreamAssembler] = {}
        self._messages: list[tuple[int, int, int, bytes]] = []  # frame, time, flow, SIP: of the present batch

    def read(self, path: Path, progress: Callable[[int], None]) -> None:
        for batch in _batches(path, self.reader, progress):
            for flow, first, count in batch.groups:
                if self.reader.flow(flow).protocol == "tcp":
                    self._receive_tcp(batch, flow, first, count)
                else:
                    self._receive_udp(batch, flow, first, count)
            self._receive_sip()
        for flow, assembler in self._tcp.items():
            self._messages += [(0, message.time_ns, flow, message.data) for message in assembler.close()]
        self._receive_sip()

    def _receive_udp(self, batch: pcap.Batch, flow: int, first: int, count: int) -> None:
        stream = self.streams.get(flow)
        if stream is None and flow not in self._sip_flows:
            head = _payload(batch, first)
            if sip.looks_like_sip(head):
                self._sip_flows.add(flow)
            elif head[:1] and 128 <= head[0] <= 191:
                if len(self.streams) >= MAX_SURVEYS:
                    self.dropped += 1
                    self.reader.ignore(flow)
                    return
                stream = self.streams[flow] = rtp.Survey()
        if stream is not None:
            stream.receive_batch(batch.data, batch.records, first, count)
            return
        # Neither yet: keep-alives and other things come before the first real packet.
        for index in range(first, first + count):
            payload = _payload(batch, index)
            if sip.looks_like_sip(payload):
                self._sip_flows.add(flow)
                self._messages.append((_frame(batch, index), _time(batch, index), flow, bytes(payload)))
            elif flow not in self._sip_flows and 128 <= payload[0] <= 191:
                self._receive_udp(batch, flow, index, first + count - index)
                return

    def _receive_tcp(self, batch: pcap.Batch, flow: int, first: int, count: int) -> None:
        assembler = self._tcp.get(flow)
        if assembler is None:
            if len(self._tcp) >= MAX_TCP_STREAMS:
                self.dropped += 1
                self.reader.ignore(flow)
                return
            assembler = self._tcp[flow] = sip.StreamAssembler()
        for index in range(first, first + count):
            flags = _flags(batch, index)
            messages = assembler.receive(
                _payload(batch, index),
                seq=_tcp_sequence(batch, index),
                time_ns=_time(batch, index),
                syn=bool(flags & pcap.TCP_SYN),
                fin=bool(flags & (pcap.TCP_FIN | pcap.TCP_RST)),
            )
            frame = _frame(batch, index)
            self._messages += [(frame, message.time_ns, flow, message.data) for message in messages]
            if assembler.hopeless:
                del self._tcp[flow]
                self.reader.ignore(flow)
                return

    def _receive_sip(self) -> None:
        """Hand over the messages of a batch in the order of the capture, which the flows' groups have lost."""
        for _, time_ns, flow, message in sorted(self._messages, key=lambda entry: entry[:2]):
            ends = self.reader.flow(flow)
            self.dialogs.receive(
                message,
                time_ns=time_ns,
                source=(ends.source, ends.source_port),
                destination=(ends.destination, ends.destination_port),
                transport=ends.protocol,
            )
        self._messages.clear()


_RECORD = Struct("=qQIIIIIHH")  # packet_record.h


def _payload(batch: pcap.Batch, index: int) -> memoryview:
    _, _, offset, length, *_ = _RECORD.unpack_from(batch.records, index * RECORD_BYTES)
    return batch.data[offset : offset + length]


def _frame(batch: pcap.Batch, index: int) -> int:
    return int(_RECORD.unpack_from(batch.records, index * RECORD_BYTES)[1])


def _flags(batch: pcap.Batch, index: int) -> int:
    return int(_RECORD.unpack_from(batch.records, index * RECORD_BYTES)[7])


def _tcp_sequence(batch: pcap.Batch, index: int) -> int:
    return int(_RECORD.unpack_from(batch.records, index * RECORD_BYTES)[6])


def _time(batch: pcap.Batch, index: int) -> int:
    return int(_RECORD_TIME.unpack_from(batch.records, index * RECORD_BYTES)[0])


# ---- planning ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Route:
    """Packets of a flow, within a time, that belong to one track of a call."""

    flow: int
    direction: Direction
    from_ns: int
    to_ns: int


@dataclass(slots=True)
class _PlannedCall:
    """A call to be recorded: which packets are its media, when it began and when it ends."""

    call_id: str
    started_ns: int
    media_start_ns: int
    end_ns: int
    routes: list[_Route]
    payload_types: dict[Direction, list[tuple[int, dict[int, str]]]]
    """From when on payload types mean what; the first entry holds from the beginning."""
    cut_packets: int
    open_at_end: bool
    """The capture ends before the call does."""


@dataclass(slots=True)
class _Plan:
    calls: list[_PlannedCall] = field(default_factory=list)
    reports: list[CallReport] = field(default_factory=list)
    skipped: list[SkippedStream] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Stream:
    """One run of RTP with its flow."""

    flow: int
    ends: pcap.Flow
    run: rtp.Run

    @property
    def source(self) -> tuple[str, int]:
        return (self.ends.source, self.ends.source_port)

    @property
    def destination(self) -> tuple[str, int]:
        return (self.ends.destination, self.ends.destination_port)

    def within(self, from_ns: int, to_ns: int) -> bool:
        return self.run.first_ns <= to_ns and self.run.last_ns >= from_ns


def _plan(survey: _Survey) -> _Plan:
    plan = _Plan()
    planner = _Planner(survey, plan)
    for call in survey.dialogs.calls():
        planner.plan_sip_call(call)
    planner.plan_calls_without_signalling()
    plan.calls.sort(key=lambda call: call.media_start_ns)
    plan.reports.sort(key=lambda report: report.started_at)
    return plan


class _Planner:
    """Matches streams with calls."""

    def __init__(self, survey: _Survey, plan: _Plan) -> None:
        self._plan = plan
        self._survey = survey
        self._streams: list[_Stream] = []
        self._rtcp: dict[tuple[tuple[str, int], tuple[str, int]], int] = {}
        self._claimed: set[tuple[int, int, int]] = set()
        self._recorded: list[_Stream] = []
        for flow, stream in survey.streams.items():
            ends = survey.reader.flow(flow)
            self._streams += [_Stream(flow, ends, run) for run in stream.runs]
            if stream.rtcp:
                self._rtcp[(ends.source, ends.source_port), (ends.destination, ends.destination_port)] = flow
        self._by_destination: dict[tuple[str, int], list[_Stream]] = defaultdict(list)
        self._by_source: dict[tuple[str, int], list[_Stream]] = defaultdict(list)
        for one in self._streams:
            self._by_destination[one.destination].append(one)
            self._by_source[one.source].append(one)

    # -- with signalling -----------------------------------------------------------------------------------------

    def plan_sip_call(self, call: SipCall) -> None:
        window = _window(call)
        note = ""
        recorded = False
        if call.legs:
            incoming, outgoing = self._media_of(call.legs[0], window)
            for leg in call.legs:
                self._claim_leg(call, leg, window)
            streams = [(one, Direction.INCOMING) for one in incoming]
            streams += [(one, Direction.OUTGOING) for one in outgoing if one not in incoming]
            for one, _ in streams:
                self._claim(one)
            encrypted = any(
                session.audio is not None and session.audio.encrypted for session in call.legs[0].sessions
            )
            payload_types = _payload_types_of(call.legs[0])
            if streams and encrypted:
                note = "its media is encrypted (SRTP)"
                self._skip((one for one, _ in streams), "encrypted", call.call_id, payload_types)
            elif streams:
                recorded = self._plan_streams(
                    call_id=call.call_id,
                    started_ns=call.started_at_ns,
                    end_ns=call.ended_at_ns,
                    streams=streams,
                    payload_types=payload_types,
                    signalled=True,
                )
                note = "" if recorded else "none of its audio can be decoded"
        if not recorded and not note and call.state == "answered":
            note = "it was answered, but the capture holds no media of it"
        self._plan.reports.append(
            CallReport(
                call_id=call.call_id,
                signalling=call.state,
                end_cause=call.end_cause,
                caller=call.caller,
                callee=call.callee,
                started_at=_moment(call.started_at_ns),
                recorded=recorded,
                note=note,
            )
        )

    def _media_of(self, leg: SipLeg, window: tuple[int, int]) -> tuple[list[_Stream], list[_Stream]]:
        """The streams of a leg by the addresses it agreed on; where NAT hides these, by what answers them."""
        to_server: dict[tuple[str, int], None] = {}
        to_participant: dict[tuple[str, int], None] = {}
        for session in leg.sessions:
            audio = session.audio
            if audio is None:
                continue
            if audio.server is not None:
                to_server[audio.server.ip, audio.server.port] = None
            if audio.participant is not None:
                to_participant[audio.participant.ip, audio.participant.port] = None

        def found(
            index: Mapping[tuple[str, int], list[_Stream]], ends: Iterable[tuple[str, int]]
        ) -> list[_Stream]:
            return [
                one
                for end in ends
                for one in index.get(end, ())
                if one.within(*window) and one.run.packets and not self._is_claimed(one)
            ]

        incoming = found(self._by_destination, to_server)
        outgoing = found(self._by_destination, to_participant)
        if not incoming:
            incoming = found(self._by_source, to_participant)
        if not outgoing:
            outgoing = found(self._by_source, to_server)
        if not outgoing:
            outgoing = self._answers_to(incoming, window)
        if not incoming:
            incoming = self._answers_to(outgoing, window)
        return incoming, outgoing

    def _answers_to(self, streams: list[_Stream], window: tuple[int, int]) -> list[_Stream]:
        return [
            one
            for stream in streams
            for one in self._by_destination.get(stream.source, ())
            if one.source == stream.destination and one.within(*window) and not self._is_claimed(one)
        ]

    def _claim_leg(self, call: SipCall, leg: SipLeg, window: tuple[int, int]) -> None:
        """Whatever else SIP announced: other legs' audio is theirs, other media is named in the report."""
        for session in leg.sessions:
            for line in session.media:
                if line is session.audio and leg is call.legs[0]:
                    continue
                for end in (line.server, line.participant):
                    if end is None:
                        continue
                    for one in self._by_destination.get((end.ip, end.port), ()):
                        if not one.within(*window) or self._is_claimed(one) or _is_main_audio(call, one):
                            continue
                        self._claim(one)
                        if line.kind != "audio":
                            reason: SkipReason = "fax" if line.kind == "image" else "video"
                            self._skip([one], reason, call.call_id, {})
                        elif leg is call.legs[0]:
                            self._skip([one], "second audio line", call.call_id, {})
                if line.kind == "image" and not line.declined and leg is call.legs[0]:
                    self._skip_fax(call, line)

    def _skip_fax(self, call: SipCall, line: sdp.AgreedMedia) -> None:
        """T.38 is no RTP: only the signalling tells of it."""
        server, participant = line.server, line.participant
        entry = SkippedStream(
            reason="fax",
            codec="T.38",
            source=f"{participant.ip}:{participant.port}" if participant else "",
            destination=f"{server.ip}:{server.port}" if server else "",
            call_id=call.call_id,
            ssrc=None,
            packets={},
            started_at=None,
            duration_s=0.0,
        )
        if entry not in self._plan.skipped:
            self._plan.skipped.append(entry)

    # -- without signalling --------------------------------------------------------------------------------------

    def plan_calls_without_signalling(self) -> None:
        pairs: dict[frozenset[tuple[str, int]], list[_Stream]] = defaultdict(list)
        moved: dict[tuple[str, str, int, int], frozenset[tuple[str, int]]] = {}
        for one in self._streams:
            unique = one.run.packets - one.run.duplicate
            orderly = one.run.orderly >= MIN_ORDERLY_PACKETS and one.run.orderly >= MIN_ORDERLY_SHARE * (
                unique - 1
            )
            if orderly and not self._is_claimed(one):
                # A source that goes on from another port (NAT rebinding) stays in its pair.
                source = (one.ends.source, one.ends.destination, one.ends.destination_port, one.run.ssrc)
                pair = moved.setdefault(source, frozenset((one.source, one.destination)))
                pairs[pair].append(one)
        for streams in pairs.values():
            streams.sort(key=lambda one: one.run.first_ns)
            group: list[_Stream] = []
            until_ns = 0
            for one in streams:
                if group and one.run.first_ns > until_ns + IDLE_NS:
                    self._plan_pair(group)
                    group = []
                group.append(one)
                until_ns = max(until_ns, one.run.last_ns)
            self._plan_pair(group)

    def _plan_pair(self, streams: list[_Stream]) -> None:
        originals = [one for one in streams if not self._is_copy(one)]
        self._skip((one for one in streams if one not in originals), "copy", None, {})
        if not originals:
            return
        first = originals[0]
        call_id = "{}_{}-{}_{}".format(*first.source, *first.destination)
        directions = [
            (one, Direction.OUTGOING if one.destination == first.source else Direction.INCOMING)
            for one in originals
        ]
        payload_types = {
            direction: [(0, self._unannounced_types(one for one, its in directions if its is direction))]
            for direction in Direction
        }
        recorded = self._plan_streams(
            call_id=call_id,
            started_ns=first.run.first_ns,
            end_ns=None,
            streams=directions,
            payload_types=payload_types,
            signalled=False,
        )
        self._plan.reports.append(
            CallReport(
                call_id=call_id,
                signalling="none",
                end_cause=None,
                caller="{}:{}".format(*first.source),
                callee="{}:{}".format(*first.destination),
                started_at=_moment(first.run.first_ns),
                recorded=recorded,
                note="" if recorded else "none of its audio can be decoded",
            )
        )

    def _unannounced_types(self, streams: Iterable[_Stream]) -> dict[int, str]:
        """Payload types by RFC 3551, and those that behave like telephone events all the time."""
        types = dict(STATIC_NAMES)
        for one in streams:
            types |= dict.fromkeys(self._survey.streams[one.flow].event_payload_types, "telephone-event")
        return types

    def _is_copy(self, one: _Stream) -> bool:
        """Whether the same packets are recorded already: a mirrored port, or the far side of a relay."""
        span = max(1, one.run.last_ns - one.run.first_ns)
        return any(
            other.run.ssrc == one.run.ssrc
            and other.flow != one.flow
            and other.run.payload_types == one.run.payload_types
            and min(other.run.last_ns, one.run.last_ns) - max(other.run.first_ns, one.run.first_ns)
            >= COPY_OVERLAP * span
            for other in self._recorded
        )

    # -- both ----------------------------------------------------------------------------------------------------

    def _plan_streams(
        self,
        *,
        call_id: str,
        started_ns: int,
        end_ns: int | None,
        streams: list[tuple[_Stream, Direction]],
        payload_types: dict[Direction, list[tuple[int, dict[int, str]]]],
        signalled: bool,
    ) -> bool:
        """Plan the recording of a call if there is anything in it to decode; name what there is not."""
        decodable = False
        for one, direction in streams:
            names = {_name(number, payload_types[direction]) for number in one.run.payload_types}
            if not any(codec_of(name).decodable for name in names):
                self._skip([one], "codec", call_id if signalled else None, payload_types[direction])
            decodable |= any(codec_of(name).decodable and name != "CN" for name in names)
        if not decodable:
            return False
        media_start_ns = max(min(one.run.first_ns for one, _ in streams), started_ns)
        last_ns = max(one.run.last_ns for one, _ in streams)
        if end_ns is None or media_start_ns > end_ns:
            over_ns = accept_until_ns = last_ns
        else:
            over_ns, accept_until_ns = end_ns, end_ns + AFTER_BYE_NS
        routes = [
            _Route(one.flow, direction, media_start_ns, min(one.run.last_ns, accept_until_ns))
            for one, direction in streams
        ]
        for one, direction in streams:
            rtcp = self._rtcp.get(
                ((one.source[0], one.source[1] + 1), (one.destination[0], one.destination[1] + 1))
            )
            if rtcp is not None:
                routes.append(_Route(rtcp, direction, media_start_ns, accept_until_ns))
        self._recorded += [one for one, _ in streams if signalled]
        self._plan.calls.append(
            _PlannedCall(
                call_id=call_id,
                started_ns=started_ns,
                media_start_ns=media_start_ns,
                end_ns=max(over_ns, media_start_ns),
                routes=_merged(routes),
                payload_types=payload_types,
                cut_packets=sum(one.run.cut for one, _ in streams),
                open_at_end=end_ns is None,
            )
        )
        return True

    def _skip(
        self,
        streams: Iterable[_Stream],
        reason: SkipReason,
        call_id: str | None,
        payload_types: Any,
    ) -> None:
        for one in streams:
            announced = payload_types if isinstance(payload_types, list) else []
            names = [_name(number, announced) for number in one.run.payload_types]
            run = one.run
            self._plan.skipped.append(
                SkippedStream(
                    reason=reason,
                    codec="+".join(dict.fromkeys(names)),
                    source="{}:{}".format(*one.source),
                    destination="{}:{}".format(*one.destination),
                    call_id=call_id,
                    ssrc=run.ssrc,
                    packets={
                        "received": run.packets,
                        "lost": run.lost,
                        "duplicate": run.duplicate,
                        "reordered": run.reordered,
                    },
                    started_at=_moment(run.first_ns),
                    duration_s=round((run.last_ns - run.first_ns) / SECOND_NS, 3),
                )
            )

    def _claim(self, one: _Stream) -> None:
        self._claimed.add((one.flow, one.run.ssrc, one.run.first_ns))

    def _is_claimed(self, one: _Stream) -> bool:
        return (one.flow, one.run.ssrc, one.run.first_ns) in self._claimed


def _window(call: SipCall) -> tuple[int, int]:
    from_ns = call.started_at_ns if call.state != "unknown" else 0
    to_ns = call.ended_at_ns + AFTER_END_NS if call.ended_at_ns is not None else 1 << 62
    return from_ns, to_ns


def _is_main_audio(call: SipCall, one: _Stream) -> bool:
    ends = {
        (end.ip, end.port)
        for session in call.legs[0].sessions
        if session.audio is not None
        for end in (session.audio.server, session.audio.participant)
        if end is not None
    }
    return one.destination in ends


def _payload_types_of(leg: SipLeg) -> dict[Direction, list[tuple[int, dict[int, str]]]]:
    """What payload types mean in each direction, by time.

    An earlier session's numbers stay known when a later one leaves them out, and a later one's are known beforehand:
    packets overtake signalling. A device that uses the other side's number for a codec is understood too.
    """
    changes: dict[Direction, list[tuple[int, dict[int, str]]]] = {}
    for direction in Direction:
        sessions = [
            (session.valid_from_ns, session.audio) for session in leg.sessions if session.audio is not None
        ]
        known = dict(STATIC_NAMES)
        for _, audio in reversed(sessions):
            own = audio.to_server if direction is Direction.INCOMING else audio.to_participant
            other = audio.to_participant if direction is Direction.INCOMING else audio.to_server
            known |= _names(other)
            known |= _names(own)
        entries = [(0, dict(known))]
        for valid_from_ns, audio in sessions:
            own = audio.to_server if direction is Direction.INCOMING else audio.to_participant
            known |= _names(own)
            if known != entries[-1][1]:
                entries.append((valid_from_ns, dict(known)))
        changes[direction] = entries
    return changes


def _names(codecs: Mapping[int, sdp.Codec]) -> dict[int, str]:
    """Names as `legs.CODECS` has them; with the clock rate behind where it is not the one we decode."""
    names = {}
    for number, codec in codecs.items():
        name = KNOWN_NAMES.get(codec.name, codec.name)
        known = CODECS.get(name)
        names[number] = (
            name if known is None or known.clock_rate == codec.clock_rate else f"{name}/{codec.clock_rate}"
        )
    return names


def _name(number: int, announced: list[tuple[int, dict[int, str]]]) -> str:
    for _, names in reversed(announced):
        if number in names:
            return names[number]
    return STATIC_NAMES.get(number, f"PT {number}")


def _merged(routes: list[_Route]) -> list[_Route]:
    """One route for each flow and direction: runs of one flow follow each other."""
    merged: dict[tuple[int, Direction], _Route] = {}
    for route in routes:
        known = merged.setdefault((route.flow, route.direction), route)
        if known is not route:
            merged[route.flow, route.direction] = replace(
                known, from_ns=min(known.from_ns, route.from_ns), to_ns=max(known.to_ns, route.to_ns)
            )
    return list(merged.values())


def _moment(time_ns: int) -> datetime:
    try:
        return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=time_ns // 1000)
    except OverflowError:
        return datetime.fromtimestamp(0, UTC)


# ---- recording -----------------------------------------------------------------------------------------------------

LEG = "LEG-A"  # the caller's leg is the one that is recorded


@dataclass(slots=True)
class _RunningCall:
    plan: _PlannedCall
    call: Call
    file: PartFile | None = None
    changes: list[tuple[int, Direction, dict[int, str]]] = field(default_factory=list)
    failure: str | None = None


@dataclass(slots=True)
class _Piece:
    """Records of one flow in a batch that are still to be fed."""

    direction: Direction
    first: int
    count: int


class _CaptureRecorder:
    """The second reading: packets to calls, writes to files."""

    def __init__(
        self,
        plans: list[_PlannedCall],
        options: RecordOptions,
        survey: _Survey,
        *,
        on_event: Callable[[Event], None] | None,
        on_take: Callable[[Take], None] | None,
    ) -> None:
        self.takes: list[Take] = []
        self.failures: list[str] = []
        self._options = options
        self._folder = Folder(options.out)
        self._on_event = on_event
        self._on_take = on_take
        self._truncated = survey.reader.truncated
        self._plans = plans
        self._routes: dict[int, list[tuple[int, _Route]]] = defaultdict(list)
        for number, plan in enumerate(plans):
            for route in plan.routes:
                self._routes[route.flow].append((number, route))
        self._running: dict[int, _RunningCall] = {}
        self._over: set[int] = set()
        self._open_files: OrderedDict[int, PartFile] = OrderedDict()
        self._failed_calls: set[str] = set()

    def read(self, path: Path, progress: Callable[[int], None]) -> None:
        if not self._plans:
            return
        reader = pcap.Reader()
        for batch in _batches(path, reader, progress):
            pieces: dict[int, list[_Piece]] = defaultdict(list)
            for flow, first, count in batch.groups:
                if flow not in self._routes:
                    reader.ignore(flow)
                    continue
                for number, route in self._routes[flow]:
                    low = _index_from(batch, first, count, route.from_ns)
                    high = _index_from(batch, first, count, route.to_ns + 1)
                    if low < high and number not in self._over:
                        pieces[number].append(_Piece(route.direction, low, high - low))
            for number, its_pieces in pieces.items():
                self._feed(number, batch, its_pieces)
            if batch.last_time_ns is not None:
                self._end_calls(batch.last_time_ns - SETTLED_NS)
        self._end_calls(None)

    def reports(self, planned: list[CallReport]) -> list[CallReport]:
        """The plan's reports, with what went wrong since."""
        return [
            replace(report, recorded=False, note="its recording could not be stored")
            if report.recorded and report.call_id in self._failed_calls
            else report
            for report in planned
        ]

    def _begin(self, number: int) -> _RunningCall:
        plan = self._plans[number]
        call = Call(
            plan.call_id,
            started_at=_moment(plan.started_ns),
            now=plan.started_ns / SECOND_NS,
            transaction_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"callreel:{plan.call_id}:{plan.started_ns}")),
        )
        leg = call.add_leg(LEG)
        running = self._running[number] = _RunningCall(plan, call)
        for direction, entries in plan.payload_types.items():
            leg.track(direction).set_payload_types(entries[0][1])
            running.changes += [(valid_from_ns, direction, names) for valid_from_ns, names in entries[1:]]
        running.changes.sort(key=lambda change: change[0])
        call.start_recording(replace(self._options.action, leg=LEG), now=plan.media_start_ns / SECOND_NS)
        self._drain(number, running)
        return running

    def _feed(self, number: int, batch: pcap.Batch, pieces: list[_Piece]) -> None:
        running = self._running.get(number) or self._begin(number)
        call = running.call
        last_ns = batch.last_time_ns or 0
        while pieces:
            slice_ns = min(_time(batch, piece.first) for piece in pieces) + SLICE_NS
            while running.changes and running.changes[0][0] <= slice_ns - SLICE_NS:
                _, direction, names = running.changes.pop(0)
                call.legs[LEG].track(direction).set_payload_types(names)
            if running.changes:
                slice_ns = min(slice_ns, running.changes[0][0] - 1)
            taken = 0
            for piece in pieces:
                n = call.receive_rtp_batch(
                    LEG,
                    batch.data,
                    batch.records,
                    piece.first,
                    piece.count,
                    until_ns=slice_ns,
                    direction=piece.direction,
                )
                piece.first += n
                piece.count -= n
                taken += n
            call.handle_timeout(now=min(slice_ns, last_ns) / SECOND_NS)
            self._drain(number, running)
            if not taken:
                # All that can be read has been read: what finds no room is from the future, sent faster than time.
                for piece in pieces:
                    n = (
                        call.legs[LEG]
                        .track(piece.direction)
                        .receive_batch(
                            batch.data, batch.records, piece.first, piece.count, until_ns=slice_ns, force=True
                        )
                    )
                    piece.first += n
                    piece.count -= n
            pieces = [piece for piece in pieces if piece.count]

    def _end_calls(self, before_ns: int | None) -> None:
        for number, running in list(self._running.items()):
            plan = running.plan
            last_packet_ns = max(route.to_ns for route in plan.routes)
            if before_ns is not None and max(plan.end_ns, last_packet_ns) > before_ns:
                continue
            running.call.end(now=plan.end_ns / SECOND_NS)
            self._drain(number, running)
            del self._running[number]
            self._over.add(number)

    def _drain(self, number: int, running: _RunningCall) -> None:
        writes = [write for _, write in running.call.writes()]
        finished: RecordingFinished | None = None
        events = running.call.events()
        for event in events:
            if isinstance(event, RecordingFinished):
                finished = event
            if self._on_event is not None:
                self._on_event(event)
        if running.failure is None:
            try:
                if running.file is None and writes:
                    key = next(event.key for event in events if hasattr(event, "key"))
                    running.file = self._folder.open(key)
                if running.file is not None:
                    self._keep_open(number, running.file)
                    running.file.write(writes)
                    if finished is not None:
                        self._open_files.pop(number, None)
                        self._store(running, running.file, finished)
            except DeliveryError as error:
                running.failure = str(error)
                self._open_files.pop(number, None)
                self._failed_calls.add(running.plan.call_id)
                self.failures.append(str(error))

    def _keep_open(self, number: int, file: PartFile) -> None:
        """Bound the number of files that are open at the same time."""
        self._open_files[number] = file
        self._open_files.move_to_end(number)
        if len(self._open_files) > MAX_OPEN_FILES:
            _, oldest = self._open_files.popitem(last=False)
            oldest.suspend()

    def _store(self, running: _RunningCall, file: PartFile, finished: RecordingFinished) -> None:
        stored = file.close()
        manifest = dict(finished.manifest)
        degraded = dict(manifest["degraded"] or {})
        if running.plan.cut_packets:
            degraded["cut_packets"] = running.plan.cut_packets
        if self._truncated and running.plan.open_at_end:
            degraded["capture_truncated"] = True
        manifest["degraded"] = degraded or False
        manifest |= {
            "bytes": stored.size_bytes,
            "sha256": stored.sha256,
            "destination": str(self._options.out),
            "key": finished.key,
        }
        file.write_manifest(manifest)
        take = Take(stored.path, manifest)
        self.takes.append(take)
        if self._on_take is not None:
            self._on_take(take)


def _index_from(batch: pcap.Batch, first: int, count: int, time_ns: int) -> int:
    """The first record of a group that is not before `time_ns`; groups are in order of time, or nearly."""
    return bisect_left(range(first, first + count), time_ns, key=lambda index: _time(batch, index)) + first
