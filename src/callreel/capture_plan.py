"""Which packets of a capture are which call: streams matched with what SIP and SDP say, or paired by address.

How a stream (a run of RTP in a flow) finds its call:

* Where SIP tells, it decides. A stream belongs to the call whose SDP names its destination; where NAT hides
  that, to the call whose SDP names its source, or whose other direction it answers.
* Ports are used again, by the next call or by the next thousand. So a call has a stream only for its time:
  from its INVITE to its end, or to the next call that names the same address. One run may go on through
  several calls; each gets its part.
* What no signalling claims is paired by its two addresses; a pause of a minute ends a call.
* A stream that is there twice (mirrored before and behind a NAT, or the far side of a relay) is recorded once
  and named as a copy.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal, NamedTuple

from callreel import sdp
from callreel.capture_survey import CaptureSurvey
from callreel.dialogs import SipCall, SipLeg
from callreel.kernels import pcap, rtp
from callreel.legs import CODECS, Direction, codec_of

__all__ = [
    "MAX_PAUSE_NS",
    "CallReport",
    "Plan",
    "PlannedCall",
    "Route",
    "SkippedStream",
    "moment",
    "plan_calls",
]

SECOND_NS = 1_000_000_000
IDLE_NS = 60 * SECOND_NS  # a pause this long ends a call without signalling (as in kernels.rtp.Survey)
MAX_PAUSE_NS = 3600 * SECOND_NS  # not even a call on hold is without any packet for longer
AFTER_BYE_NS = SECOND_NS  # packets still under way when the call ends
AFTER_END_NS = 5 * SECOND_NS  # media that begins after the end (an announcement after a rejection) is its own
EARLY_MEDIA_NS = SECOND_NS  # how long media may be seen before the answer that announces it
COPY_DELAY_NS = SECOND_NS // 10  # a copy of a stream begins at most this much apart
COPY_OVERLAP = 0.8  # of its time that a stream shares with another of the same source to count as its copy
MIN_ORDERLY_PACKETS = 3  # RTP in sequence that makes a flow a stream, where no signalling vouches for it
MIN_ORDERLY_SHARE = 0.5
MAX_CANDIDATES = 256  # streams of one address that are looked at for a call
FOREVER_NS = 1 << 62

STATIC_NAMES = {number: codec.name for number, codec in sdp.STATIC_CODECS.items()}
KNOWN_NAMES = {name.upper(): name for name in CODECS}

Address = tuple[str, int]
_Claim = tuple[int, int, str]  # from when to when a stream is whose
PayloadTypes = dict[Direction, list[tuple[int, dict[int, str]]]]
"""By direction: from when on (ns) payload types mean what; the first entry holds from the beginning."""

SkipReason = Literal["codec", "encrypted", "fax", "video", "second audio line", "copy"]


@dataclass(frozen=True, slots=True)
class SkippedStream:
    """RTP, or what SIP announced, that is in no recording; named so that nothing is missing silently."""

    reason: SkipReason
    """"codec": not decodable; "encrypted": SRTP; "fax": T.38; "copy": it is recorded already, under other
    addresses."""
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
    same_media_as: str | None = None
    """The call whose recording holds this one's media too: the other half of a back-to-back user agent that
    leaves the media alone."""


@dataclass(slots=True)
class Route:
    """Packets of a flow, within a time, that belong to one track of a call."""

    flow: int
    direction: Direction
    from_ns: int
    to_ns: int
    is_rtcp: bool = False


@dataclass(slots=True)
class PlannedCall:
    """A call to be recorded: which packets are its media, when it began and when it ends."""

    call_id: str
    started_ns: int
    media_start_ns: int
    starts_with_packet: bool
    """Media begins with the first packet on its routes: it is not known yet when that is."""
    end_ns: int | None
    """None: with its last packet."""
    routes: list[Route]
    payload_types: PayloadTypes
    cut_packets: int
    open_at_end: bool
    """The capture ends before the call does."""

    @property
    def last_ns(self) -> int:
        """When the last packet of its media comes, at the latest."""
        return max(route.to_ns for route in self.routes if not route.is_rtcp)


@dataclass(slots=True)
class Plan:
    """What is to be made of a capture."""

    calls: list[PlannedCall] = field(default_factory=list)
    """In order of their media."""
    reports: list[CallReport] = field(default_factory=list)
    """In order of their beginning."""
    skipped: list[SkippedStream] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class _Stream:
    """One run of RTP with its flow."""

    flow: int
    ends: pcap.Flow
    run: rtp.Run

    @property
    def source(self) -> Address:
        return (self.ends.source, self.ends.source_port)

    @property
    def destination(self) -> Address:
        return (self.ends.destination, self.ends.destination_port)


class _Share(NamedTuple):
    """A stream, or the part of it that is one call's, in one direction."""

    stream: _Stream
    direction: Direction
    from_ns: int
    to_ns: int

    @property
    def first_ns(self) -> int:
        return max(self.stream.run.first_ns, self.from_ns)

    @property
    def begins_ns(self) -> int:
        """Where its audio will begin, if it is G.711: before its first packet's arrival if that packet was late."""
        run = self.stream.run
        return run.first_ns - run.early_ns if run.first_ns >= self.from_ns else self.from_ns

    @property
    def last_ns(self) -> int:
        return min(self.stream.run.last_ns, self.to_ns)


def plan_calls(survey: CaptureSurvey) -> Plan:
    """Decide what the calls of a surveyed capture are."""
    planner = _Planner(survey)
    planner.plan_sip_calls(survey.dialogs.calls())
    planner.plan_calls_without_signalling()
    return planner.finish()


class _Index:
    """Streams by address, in order of time."""

    def __init__(self) -> None:
        self._streams: dict[Address, list[_Stream]] = defaultdict(list)

    def add(self, address: Address, one: _Stream) -> None:
        self._streams[address].append(one)

    def sort(self) -> None:
        for streams in self._streams.values():
            streams.sort(key=lambda one: one.run.first_ns)

    def get(self, address: Address, from_ns: int = 0) -> list[_Stream]:
        """The streams of an address; where there are very many, those that begin from `from_ns` on."""
        streams = self._streams.get(address, [])
        if len(streams) <= MAX_CANDIDATES:
            return streams
        first = bisect_left(streams, from_ns, key=lambda one: one.run.first_ns)
        return streams[max(0, first - MAX_CANDIDATES // 4) :][:MAX_CANDIDATES]


class _Planner:
    """Matches streams with calls."""

    def __init__(self, survey: CaptureSurvey) -> None:
        self._plan = Plan()
        self._survey = survey
        self._streams: list[_Stream] = []
        self._rtcp: dict[tuple[Address, Address], int] = {}
        self._claims: dict[_Stream, list[_Claim]] = defaultdict(list)  # in order; they do not overlap
        self._originals: dict[int, list[_Stream]] = defaultdict(list)  # what is recorded, by SSRC
        self._owner: str | None = None  # of the media that the call in hand named and did not get
        self._starts: dict[Address, list[int]] = defaultdict(list)  # of the calls that name an address
        self._by_destination, self._by_source = _Index(), _Index()
        for flow, stream in survey.streams.items():
            runs = stream.runs
            if not runs and not stream.rtcp:
                continue
            ends = survey.reader.flow(flow)
            self._streams += [_Stream(flow, ends, run) for run in runs]
            if stream.rtcp:
                source = (ends.source, ends.source_port)
                self._rtcp[source, (ends.destination, ends.destination_port)] = flow
        for one in self._streams:
            self._by_destination.add(one.destination, one)
            self._by_source.add(one.source, one)
        self._by_destination.sort()
        self._by_source.sort()

    def finish(self) -> Plan:
        """The plan: no packet is in two calls."""
        plan = self._plan
        plan.calls.sort(key=lambda call: call.media_start_ns)
        plan.reports.sort(key=lambda report: report.started_at)
        latest: dict[int, tuple[PlannedCall, Route]] = {}
        for call in plan.calls:
            for route in call.routes:
                if route.flow in latest:
                    earlier_call, earlier = latest[route.flow]
                    if earlier_call is not call and earlier.to_ns >= route.from_ns:
                        earlier.to_ns = route.from_ns - 1
                latest[route.flow] = call, route
        return plan

    # -- with signalling ---------------------------------------------------------------------------------

    def plan_sip_calls(self, calls: list[SipCall]) -> None:
        """Plan the calls that SIP tells of."""
        calls = sorted(calls, key=lambda call: call.started_at_ns)
        for call in calls:
            for address in {end for leg in call.legs for end in _ends(leg)}:
                self._starts[address].append(call.started_at_ns)
        for call in calls:
            self._plan_sip_call(call)

    def _plan_sip_call(self, call: SipCall) -> None:
        note = ""
        planned: PlannedCall | None = None
        self._owner = None
        if call.legs:
            shares = self._media_of(call)
            for share in shares:
                insort(self._claims[share.stream], (share.from_ns, share.to_ns, call.call_id))
            self._claim_other_media(call)
            audio = [session.audio for session in call.legs[0].sessions if session.audio is not None]
            payload_types = _payload_types_of(call.legs[0])
            originals = self._without_copies(shares, call.call_id)
            if originals and any(line.encrypted for line in audio):
                note = "its media is encrypted (SRTP)"
                self._skip((share.stream for share in originals), "encrypted", call.call_id)
            elif originals:
                planned = self._plan_call(call.call_id, originals, payload_types, call=call)
                note = "" if planned else "none of its audio can be decoded"
        same_media_as = self._owner if planned is None else None
        if planned is None and not note and call.state == "answered" and same_media_as is None:
            note = "it was answered, but the capture holds no media of it"
        self._plan.reports.append(
            CallReport(
                call_id=call.call_id,
                signalling=call.state,
                end_cause=call.end_cause,
                caller=call.caller,
                callee=call.callee,
                started_at=moment(planned.started_ns if planned else call.started_at_ns),
                recorded=planned is not None,
                note=note,
                same_media_as=same_media_as,
            )
        )

    def _media_of(self, call: SipCall) -> list[_Share]:
        """The streams of the recorded leg by the addresses it agreed on; behind NAT, by what answers them."""
        to_server: dict[Address, None] = {}
        to_participant: dict[Address, None] = {}
        for session in call.legs[0].sessions:
            audio = session.audio
            if audio is None:
                continue
            if audio.server is not None:
                to_server[audio.server.ip, audio.server.port] = None
            if audio.participant is not None:
                to_participant[audio.participant.ip, audio.participant.port] = None
        incoming = self._found(call, self._by_destination, to_server)
        outgoing = self._found(call, self._by_destination, to_participant)
        if not incoming:
            incoming = self._found(call, self._by_source, to_participant)
        if not outgoing:
            outgoing = self._found(call, self._by_source, to_server)
        if not outgoing:
            outgoing = self._answers_to(call, incoming)
        if not incoming:
            incoming = self._answers_to(call, outgoing)
        shares = [_Share(one, Direction.INCOMING, *span) for one, span in incoming.items()]
        shares += [
            _Share(one, Direction.OUTGOING, *span) for one, span in outgoing.items() if one not in incoming
        ]
        shares.sort(key=lambda share: share.first_ns)
        end_ns = call.ended_at_ns
        if end_ns is not None and shares and shares[0].first_ns <= end_ns:
            # Only a call without media can have it after its end; this is somebody else's.
            shares = [share for share in shares if share.first_ns <= end_ns + AFTER_BYE_NS]
        until_ns = shares[0].first_ns if shares else 0
        for number, share in enumerate(shares):
            if share.first_ns > until_ns + MAX_PAUSE_NS:
                return shares[:number]  # whatever that is, it is not this call any more
            until_ns = max(until_ns, share.last_ns)
        return shares

    def _found(
        self, call: SipCall, index: _Index, addresses: Iterable[Address]
    ) -> dict[_Stream, tuple[int, int]]:
        return {
            one: span
            for address in addresses
            for one in index.get(address, call.started_at_ns)
            if (span := self._span(call, one)) is not None
        }

    def _answers_to(self, call: SipCall, streams: Iterable[_Stream]) -> dict[_Stream, tuple[int, int]]:
        return {
            one: span
            for stream in streams
            for one in self._by_destination.get(stream.source, call.started_at_ns)
            if one.source == stream.destination and (span := self._span(call, one)) is not None
        }

    def _span(self, call: SipCall, one: _Stream) -> tuple[int, int] | None:
        """The time of a stream that is this call's, (from, to); None if there is none, or another has it."""
        claims = self._claims.get(one, ())
        run = one.run
        end_ns = call.ended_at_ns
        if call.state == "unknown":  # its beginning was not captured
            known = bisect_left(claims, call.started_at_ns, key=lambda claim: claim[1])
            from_ns = claims[known - 1][1] + 1 if known else 0
        else:
            from_ns = call.started_at_ns
        to_ns = FOREVER_NS if end_ns is None else end_ns + AFTER_END_NS
        # Its addresses are its own until it has ended; without a captured end, until its media has begun.
        own_ns = max(call.started_at_ns, run.first_ns) if end_ns is None else end_ns
        for address in (one.destination, one.source):
            if (starts := self._starts.get(address)) is not None:
                next_start = bisect_right(starts, own_ns)
                if next_start < len(starts):
                    to_ns = min(to_ns, starts[next_start] - 1)
        if claims and from_ns > run.first_ns and call.state != "unknown":
            # The port was in use before: what comes until the answer is still the last call's.
            answered_ns = min((s.valid_from_ns for s in call.legs[0].sessions), default=from_ns)
            from_ns = max(from_ns, answered_ns - EARLY_MEDIA_NS)
        if run.first_ns > to_ns or run.last_ns < from_ns or not run.packets:
            return None
        known = bisect_left(claims, from_ns, key=lambda claim: claim[1])  # the first that ends later
        if known < len(claims) and claims[known][0] <= to_ns:
            if claims[known][2] != call.call_id:
                self._owner = claims[known][2]
            return None
        return from_ns, to_ns

    def _claim_other_media(self, call: SipCall) -> None:
        """Whatever else SIP announced: other legs' audio is theirs, other media is named in the report."""
        main = call.legs[0]
        main_audio = {
            (end.ip, end.port)
            for session in main.sessions
            if session.audio is not None
            for end in (session.audio.server, session.audio.participant)
            if end is not None
        }
        seen: set[tuple[Address, str, bool]] = set()
        fax: set[tuple[str, str]] = set()
        for leg in call.legs:
            for session in leg.sessions:
                for line in session.media:
                    if line is session.audio and leg is main:
                        continue
                    for end in (line.server, line.participant):
                        if end is None or ((end.ip, end.port), line.kind, leg is main) in seen:
                            continue
                        seen.add(((end.ip, end.port), line.kind, leg is main))
                        for one in self._by_destination.get((end.ip, end.port), call.started_at_ns):
                            span = None if one.destination in main_audio else self._span(call, one)
                            if span is None:
                                continue
                            insort(self._claims[one], (*span, call.call_id))
                            if line.kind != "audio":
                                self._skip([one], "fax" if line.kind == "image" else "video", call.call_id)
                            elif leg is main:
                                self._skip([one], "second audio line", call.call_id)
                    if line.kind == "image" and not line.declined and leg is main:
                        self._skip_fax(call, line, fax)

    def _skip_fax(self, call: SipCall, line: sdp.AgreedMedia, known: set[tuple[str, str]]) -> None:
        """T.38 is no RTP: only the signalling tells of it."""
        server, participant = line.server, line.participant
        source = f"{participant.ip}:{participant.port}" if participant else ""
        destination = f"{server.ip}:{server.port}" if server else ""
        if (source, destination) not in known:
            known.add((source, destination))
            self._plan.skipped.append(
                SkippedStream("fax", "T.38", source, destination, call.call_id, None, {}, None, 0.0)
            )

    def _without_copies(self, shares: list[_Share], call_id: str) -> list[_Share]:
        """Leave out what is there twice in the same direction: mirrored before and behind a NAT."""
        originals: list[_Share] = []
        by_source: dict[tuple[int, Direction], list[_Stream]] = defaultdict(list)
        for share in shares:
            others = by_source[share.stream.run.ssrc, share.direction]
            if any(_overlaps(share.stream, other) for other in others):
                self._skip([share.stream], "copy", call_id)
                continue
            others.append(share.stream)
            originals.append(share)
        return originals

    # -- without signalling ------------------------------------------------------------------------------

    def plan_calls_without_signalling(self) -> None:
        """Pair what is left by its addresses."""
        pairs: dict[frozenset[Address], list[_Stream]] = defaultdict(list)
        moved: dict[tuple[str, str, int, int], tuple[int, frozenset[Address]]] = {}
        for one in sorted(self._streams, key=lambda one: one.run.first_ns):
            unique = one.run.packets - one.run.duplicate
            orderly = one.run.orderly
            if orderly < MIN_ORDERLY_PACKETS or orderly < MIN_ORDERLY_SHARE * (unique - 1):
                continue
            if one in self._claims:
                continue
            # A source that goes on from another port (NAT rebinding) stays in its pair.
            source = (one.ends.source, one.ends.destination, one.ends.destination_port, one.run.ssrc)
            pair = frozenset((one.source, one.destination))
            until_ns, known_pair = moved.get(source, (0, pair))
            if one.run.first_ns <= until_ns + IDLE_NS and one.run.last_ns > until_ns:
                pair = known_pair
            moved[source] = max(until_ns, one.run.last_ns), pair
            pairs[pair].append(one)
        for streams in pairs.values():
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
        copies = {one for one in streams if self._is_copy(one)}
        self._skip((one for one in streams if one in copies), "copy", None)
        originals = [one for one in streams if one not in copies]
        if not originals:
            return
        first = originals[0]
        call_id = "{}_{}-{}_{}".format(*first.source, *first.destination)
        shares = [_Share(one, _direction(one, first), one.run.first_ns, one.run.last_ns) for one in originals]
        payload_types: PayloadTypes = {
            direction: [(0, self._unannounced_types(s.stream for s in shares if s.direction is direction))]
            for direction in Direction
        }
        planned = self._plan_call(call_id, shares, payload_types, call=None)
        self._plan.reports.append(
            CallReport(
                call_id=call_id,
                signalling="none",
                end_cause=None,
                caller="{}:{}".format(*first.source),
                callee="{}:{}".format(*first.destination),
                started_at=moment(first.run.first_ns),
                recorded=planned is not None,
                note="" if planned else "none of its audio can be decoded",
            )
        )

    def _unannounced_types(self, streams: Iterable[_Stream]) -> dict[int, str]:
        """Payload types by RFC 3551, and those that behave like telephone events all the time."""
        events = {number for one in streams for number in self._survey.streams[one.flow].event_payload_types}
        return STATIC_NAMES | dict.fromkeys(sorted(events), "telephone-event") if events else STATIC_NAMES

    def _is_copy(self, one: _Stream) -> bool:
        """Whether the same packets are recorded already: a mirrored port, or the far side of a relay.

        An SSRC alone proves nothing (test tools use the same one in every call): the copy must begin at the
        same time with the same packet and, where no signalling says which streams are a call's, share an
        address.
        """
        heads = self._survey.heads
        head = heads.get(one.flow)
        return head is not None and any(
            heads.get(other.flow) == head
            and abs(one.run.first_ns - other.run.first_ns) <= COPY_DELAY_NS
            and _overlaps(one, other)
            and (other in self._claims or one.source == other.source or one.destination == other.destination)
            for other in self._originals.get(one.run.ssrc, ())
        )

    # -- both --------------------------------------------------------------------------------------------

    def _plan_call(
        self, call_id: str, shares: list[_Share], payload_types: PayloadTypes, *, call: SipCall | None
    ) -> PlannedCall | None:
        """Plan the recording of a call if there is anything in it to decode; name what there is not."""
        decodable = False
        begins_ns = []
        for share in shares:
            codecs = {
                codec_of(_name(number, payload_types[share.direction]))
                for number in share.stream.run.payload_types
            }
            if any(codec.decodable for codec in codecs):
                begins_ns.append(share.begins_ns)
            else:
                begins_ns.append(share.first_ns)
                self._skip(
                    [share.stream], "codec", call.call_id if call else None, payload_types[share.direction]
                )
            decodable |= any(codec.decodable and codec.name != "CN" for codec in codecs)
        if not decodable:
            return None
        media_start_ns = min(begins_ns)
        last_ns = max(share.last_ns for share in shares)
        started_ns = media_start_ns if call is None else call.started_at_ns
        if call is not None and call.state == "unknown":
            started_ns = min(started_ns, media_start_ns)
        end_ns = call.ended_at_ns if call is not None else None
        accept_until_ns = last_ns
        if end_ns is not None and media_start_ns <= end_ns:
            accept_until_ns = end_ns + AFTER_BYE_NS
        elif end_ns is not None:  # it began after the end
            end_ns = None
        routes = [
            Route(share.stream.flow, share.direction, share.from_ns, min(share.last_ns, accept_until_ns))
            for share in shares
        ]
        for share in shares:
            source, destination = share.stream.source, share.stream.destination
            rtcp = self._rtcp.get(((source[0], source[1] + 1), (destination[0], destination[1] + 1)))
            if rtcp is not None:
                routes.append(
                    Route(rtcp, share.direction, media_start_ns, min(share.to_ns, accept_until_ns), True)
                )
        for share in shares:
            others = self._originals[share.stream.run.ssrc]
            if len(others) < MAX_CANDIDATES:
                others.append(share.stream)
        planned = PlannedCall(
            call_id=call_id,
            started_ns=started_ns,
            media_start_ns=media_start_ns,
            starts_with_packet=any(share.stream.run.first_ns < share.from_ns for share in shares),
            end_ns=end_ns,
            routes=_merged(routes),
            payload_types=payload_types,
            cut_packets=sum(share.stream.run.cut for share in shares),
            open_at_end=call is None or call.ended_at_ns is None,
        )
        self._plan.calls.append(planned)
        return planned

    def _skip(
        self,
        streams: Iterable[_Stream],
        reason: SkipReason,
        call_id: str | None,
        announced: list[tuple[int, dict[int, str]]] | None = None,
    ) -> None:
        for one in streams:
            run = one.run
            names = [_name(number, announced or []) for number in run.payload_types]
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
                    started_at=moment(run.first_ns),
                    duration_s=round((run.last_ns - run.first_ns) / SECOND_NS, 3),
                )
            )


def _ends(leg: SipLeg) -> set[Address]:
    """All addresses that a leg names for its media."""
    return {
        (end.ip, end.port)
        for session in leg.sessions
        for line in session.media
        for end in (line.server, line.participant)
        if end is not None
    }


def _direction(one: _Stream, first: _Stream) -> Direction:
    """Whoever is heard first is the participant; moved ports do not matter, the ends that stay tell."""
    if one.source == first.source or one.destination == first.destination:
        return Direction.INCOMING
    return Direction.OUTGOING


def _overlaps(one: _Stream, other: _Stream) -> bool:
    """Whether a stream of the same source elsewhere was there for most of this one's time."""
    span = max(1, one.run.last_ns - one.run.first_ns)
    shared = min(other.run.last_ns, one.run.last_ns) - max(other.run.first_ns, one.run.first_ns)
    return (
        other.flow != one.flow
        and other.run.payload_types == one.run.payload_types
        and shared >= COPY_OVERLAP * span
    )


def _payload_types_of(leg: SipLeg) -> PayloadTypes:
    """What payload types mean in each direction, by time.

    An earlier session's numbers stay known when a later one leaves them out, and a later one's are known
    beforehand: packets overtake signalling. A device that uses the other side's number for a codec is
    understood too.
    """
    changes: PayloadTypes = {}
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
        entries = [(0, _shared(known))]
        for valid_from_ns, audio in sessions:
            own = audio.to_server if direction is Direction.INCOMING else audio.to_participant
            known |= _names(own)
            if known != entries[-1][1]:
                entries.append((valid_from_ns, _shared(known)))
        changes[direction] = entries
    return changes


def _shared(names: dict[int, str]) -> dict[int, str]:
    """A copy of a map, the same for all calls that say the same; nobody changes it."""
    return _map_of(tuple(names.items()))


@lru_cache(maxsize=256)
def _map_of(items: tuple[tuple[int, str], ...]) -> dict[int, str]:
    return dict(items)


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


def _merged(routes: list[Route]) -> list[Route]:
    """One route for each flow and direction: runs of one flow follow each other."""
    merged: dict[tuple[int, Direction], Route] = {}
    for route in routes:
        known = merged.setdefault((route.flow, route.direction), route)
        if known is not route:
            merged[route.flow, route.direction] = replace(
                known,
                from_ns=min(known.from_ns, route.from_ns),
                to_ns=max(known.to_ns, route.to_ns),
                is_rtcp=known.is_rtcp and route.is_rtcp,
            )
    return list(merged.values())


def moment(time_ns: int) -> datetime:
    """A capture's time as UTC; the years 1677 to 2262 are possible."""
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=time_ns // 1000)
