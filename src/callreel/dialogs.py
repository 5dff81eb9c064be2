"""Calls, their legs and their media, out of the SIP messages that a capture holds.

How a message finds its place:

* A **call** is a Call-ID. A back-to-back user agent begins another Call-ID, so its two halves are two calls.
* A **side** is the caller or the callee. The caller is whoever sent the INVITE that began the call (its
  From tag). So the From tag of a request tells which side sent it, and a response comes from the other
  side.
* A **hop** is a pair of signalling addresses, the caller's side first: a proxy that sends a call back to
  where it came from makes two hops. A message with the Via branch of a known INVITE is on that INVITE's hop
  whatever its addresses are (a port mirrored before and behind a NAT). In-dialog messages between other
  ports of the same two hosts are on their hop, if they have one only.
* An **exchange** is an offer and its answer (RFC 3264, RFC 6337) on one hop. Retransmissions and copies
  have the key of an exchange that is already there and change nothing.

      offer in                answer in
      INVITE, re-INVITE       1xx (early media), 2xx
      1xx, 2xx                PRACK, ACK                  the INVITE had no description
      UPDATE, PRACK           2xx

* A **leg** is all hops with the same media: their first descriptions have an address in common on the same
  side. Proxies leave the descriptions alone: one leg. A media relay rewrites them: `LEG-A` towards the
  caller, `LEG-B` towards the callee, with forking one more for each callee that got media through the
  relay. Forks without a relay send straight to the caller: they are media sessions of `LEG-A`.

State of a call: `unknown` when the capture does not hold the INVITE that began it; else `unanswered` until
a 2xx.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from callreel import sdp, sip
from callreel.errors import SipError
from callreel.sdp import AgreedMedia, Description

__all__ = ["Dialogs", "MediaSession", "SipCall", "SipLeg"]

MAX_CALLS = 65_536
MAX_HOPS = 64  # a call
MAX_OFFERS = 32  # a hop, for their answers to come; older ones are forgotten
MAX_EXCHANGES = 256  # a hop and a leg; only exchanges that change something are kept
MAX_KEPT_BYTES = 64 * 1024 * 1024  # text of all descriptions kept; read, they take about three times as much
MAX_TAGS = 64  # From tags of a caller, dialogs answered; more than 64 forks are nobody's telephone call
DESCRIPTION_CACHE = 1024  # descriptions read last

SignallingAddress = tuple[str, int]
State = Literal["answered", "unanswered", "unknown"]

_T = TypeVar("_T")

_CALL_METHODS = frozenset(("INVITE", "ACK", "BYE", "CANCEL", "PRACK", "UPDATE"))


@dataclass(frozen=True, slots=True)
class MediaSession:
    """What holds for the media of a leg from a moment on, until the next session of that leg."""

    valid_from_ns: int
    """When the answer was seen. Its sender may have begun to send a little earlier."""
    media: tuple[AgreedMedia, ...]
    """In the order of the m= lines."""
    answered: bool
    """False: only one side's description is known (no answer, or the other message was not captured)."""
    early: bool
    """Agreed before the call was answered."""
    dialog: str
    """The callee's tag: which of several forks it belongs to."""

    @property
    def audio(self) -> AgreedMedia | None:
        """The main audio line: the first that is active, else the first one, else None."""
        lines = [line for line in self.media if line.kind == "audio"]
        return next((line for line in lines if line.active), lines[0] if lines else None)


@dataclass(frozen=True, slots=True)
class SipLeg:
    """One participant's media connection."""

    name: str
    """"LEG-A", "LEG-B", … in order of appearance."""
    participant: Literal["caller", "callee"]
    """Who it is: *incoming* packets go to `server` endpoints, *outgoing* ones to `participant` endpoints."""
    hops: tuple[tuple[SignallingAddress, SignallingAddress], ...]
    """Signalling addresses, those of the caller's side first."""
    sessions: tuple[MediaSession, ...]
    """In time order."""


@dataclass(frozen=True, slots=True)
class SipCall:
    """What the signalling tells about one call."""

    call_id: str
    caller: str
    """URI of From."""
    callee: str
    """URI of To."""
    state: State
    started_at_ns: int
    """First INVITE; first message when that was not captured."""
    ringing_at_ns: int | None
    """First 180 or 183."""
    answered_at_ns: int | None
    """First 2xx, on whichever hop."""
    ended_at_ns: int | None
    """First BYE; else the final response, or the CANCEL that got none."""
    end_cause: str | None
    """"bye", "cancel", "rejected 486"; None when the capture ended first."""
    legs: tuple[SipLeg, ...]


@dataclass(slots=True)
class _Turn:
    """A message with its place in the call."""

    message: sip.Message
    description: Description | None
    time_ns: int
    by_caller: bool  # who sent the request, also when this is its response
    dialog: str  # the callee's tag


@dataclass(slots=True)
class _Exchange:
    """An offer with its answer; one of them None if it was not captured."""

    time_ns: int
    offer: Description | None
    answer: Description | None
    offered_by_caller: bool
    dialog: str

    @property
    def whole(self) -> bool:
        return self.offer is not None and self.answer is not None

    def description(self, *, of_caller: bool) -> Description | None:
        return self.offer if of_caller == self.offered_by_caller else self.answer

    def repeats(self, other: _Exchange) -> bool:
        """Nothing but the time differs: a session timer's re-INVITE, or a 2xx that says what the 1xx said."""
        return (
            self.dialog == other.dialog
            and self.offered_by_caller == other.offered_by_caller
            and self.offer == other.offer
            and self.answer == other.answer
        )


@dataclass(slots=True)
class _ResponseOffer:
    """An offer made in a response, waiting for PRACK or ACK."""

    time_ns: int
    description: Description
    answered_by: tuple[str, int] | None = None  # method and CSeq


_Path = tuple[SignallingAddress, SignallingAddress]  # the caller's side first


@dataclass(slots=True, eq=False)
class _Hop:
    """One hop of a call and the offers and answers on it."""

    path: _Path
    has_initial_invite: bool = False
    # Requests: sent by the caller?, CSeq, method. None: without a description.
    offers: dict[tuple[bool, int, str], tuple[int, Description | None]] = field(default_factory=dict)
    # Offers in responses to an INVITE: INVITE sent by the caller?, its CSeq, callee's tag.
    response_offers: dict[tuple[bool, int, str], _ResponseOffer] = field(default_factory=dict)
    # Answers: request sent by the caller?, its CSeq, method, final?, callee's tag, fingerprint.
    exchanges: dict[tuple[bool, int, str, bool, str, int], _Exchange] = field(default_factory=dict)
    last: _Exchange | None = None

    def last_of(self, dialog: str) -> _Exchange | None:
        """The latest exchange with this callee."""
        return next((known for known in reversed(self.exchanges.values()) if known.dialog == dialog), None)


class _Call:
    """One call in the making.

    There may be MAX_CALLS of them with an entry or two in each list: sets and dicts would double their size.
    """

    __slots__ = (
        "answered_at_ns",
        "branches",
        "call_id",
        "callee",
        "caller",
        "caller_ids",
        "cancelled_at_ns",
        "dialogs_over",
        "dialogs_up",
        "end_cause",
        "ended_at_ns",
        "hops",
        "initial_cseq",
        "paths",
        "ringing_at_ns",
        "started_at_ns",
    )

    def __init__(self, message: sip.Message, time_ns: int) -> None:
        self.call_id = message.call_id
        self.caller = message.sender.uri
        self.callee = message.recipient.uri
        self.caller_ids = [_identity(message.sender)]
        self.initial_cseq: int | None = None  # of the latest INVITE outside a dialog
        self.started_at_ns = time_ns
        self.ringing_at_ns: int | None = None
        self.answered_at_ns: int | None = None
        self.cancelled_at_ns: int | None = None
        self.ended_at_ns: int | None = None
        self.end_cause: str | None = None
        self.dialogs_up: list[str] = []  # callee's tags, as the caller was told
        self.dialogs_over: list[str] = []
        self.hops: list[_Hop] = []
        self.paths: list[tuple[_Path, _Hop]] = []
        self.branches: list[tuple[str, _Hop]] = []

    @property
    def state(self) -> State:
        if self.initial_cseq is None:
            return "unknown"
        return "unanswered" if self.answered_at_ns is None else "answered"

    @property
    def end(self) -> tuple[int | None, str | None]:
        """When and why the call ended. A CANCEL ends it also when its 487 was not captured."""
        if self.end_cause is None and self.answered_at_ns is None and self.cancelled_at_ns is not None:
            return self.cancelled_at_ns, "cancel"
        return self.ended_at_ns, self.end_cause

    def follow_request(self, turn: _Turn, hop: _Hop) -> None:
        """Beginnings and ends that a request tells."""
        method = turn.message.method
        if _is_initial_invite(turn.message):
            if self.initial_cseq is None or turn.message.cseq > self.initial_cseq:
                self.initial_cseq = turn.message.cseq
                if self.answered_at_ns is None:  # another try after a challenge or a redirection
                    self.ended_at_ns = self.end_cause = self.cancelled_at_ns = None
        elif method == "CANCEL":
            # On later hops a proxy cancels forks that lost; that does not end the call.
            if hop is self.hops[0] and self.cancelled_at_ns is None:
                self.cancelled_at_ns = turn.time_ns
        elif method == "BYE":
            if turn.dialog in self.dialogs_up:
                self.dialogs_up.remove(turn.dialog)
            _note(self.dialogs_over, turn.dialog)
            if not self.dialogs_up and self.end_cause is None:
                self.ended_at_ns, self.end_cause = turn.time_ns, "bye"

    def follow_response(self, turn: _Turn, hop: _Hop) -> None:
        """What a response to the INVITE that began the call tells."""
        status = turn.message.status or 0
        if status < 200:
            if status in (180, 183) and self.ringing_at_ns is None:
                self.ringing_at_ns = turn.time_ns
        elif status < 300:
            if turn.dialog in self.dialogs_over:
                return
            # Only where the caller sees it: a proxy ends the dialogs of forks that came too late by itself.
            if hop is self.hops[0]:
                _note(self.dialogs_up, turn.dialog)
            if self.answered_at_ns is None:
                self.answered_at_ns = turn.time_ns
            self.ended_at_ns = self.end_cause = None
        elif hop is self.hops[0] and self.answered_at_ns is None and self.end_cause is None:
            cancelled = status == 487 or self.cancelled_at_ns is not None
            self.ended_at_ns, self.end_cause = turn.time_ns, "cancel" if cancelled else f"rejected {status}"

    def hop_of(self, message: sip.Message, path: _Path, *, initial: bool) -> _Hop | None:
        """The hop that a message between these addresses is on; None when there are too many."""
        known_path = True
        hop = next((hop for known, hop in self.paths if known == path), None)
        if hop is None:
            known_path = False
            hop = next((hop for known, hop in self.branches if known == message.branch), None)
        if hop is None and not initial:
            hosts = path[0][0], path[1][0]
            same = [known for known in self.hops if (known.path[0][0], known.path[1][0]) == hosts]
            hop = same[0] if len(same) == 1 else None
        if hop is None:
            if len(self.hops) >= MAX_HOPS:
                return None
            hop = _Hop(path)
            self.hops.append(hop)
        if not known_path and len(self.paths) < 2 * MAX_HOPS:
            self.paths.append((path, hop))
        if initial:
            hop.has_initial_invite = True
            if message.branch:
                _note(self.branches, (message.branch, hop), 2 * MAX_HOPS)
        return hop


class Dialogs:
    """Feed it every SIP message of a capture in time order, then ask for the calls.

    Nothing raises for what a message says: unreadable ones are counted by reason in `malformed`, what
    exceeded a bound in `dropped`, messages that concern no call (REGISTER, OPTIONS, …) in `other`.
    """

    def __init__(self) -> None:
        """Begin with no calls."""
        self.messages = 0
        """Messages received, whatever became of them."""
        self.other = 0
        """Well-formed messages that belong to no call."""
        self.malformed: Counter[str] = Counter()
        """Reason to count."""
        self.dropped: Counter[str] = Counter()
        """What was left out because of a bound ("calls", "hops", "descriptions", …) to count."""
        self._calls: list[_Call] = []
        self._by_id: dict[str, _Call] = {}
        self._kept_bytes = 0
        self._cache: dict[bytes, Description] = {}

    def receive(
        self,
        message: bytes | bytearray | memoryview,
        *,
        time_ns: int,
        source: SignallingAddress,
        destination: SignallingAddress,
        transport: Literal["udp", "tcp"] = "udp",
    ) -> None:
        """Take one SIP message as it was captured between two signalling addresses.

        `transport` is for the record only: calls that change it are the same calls.
        """
        self.messages += 1
        if len(message) > sip.MAX_MESSAGE_BYTES:
            self.dropped["ends of long messages"] += 1
        try:
            parsed = sip.parse(bytes(message[: sip.MAX_MESSAGE_BYTES]))
        except SipError as error:
            self.malformed[str(error)] += 1
            return
        if parsed.method not in _CALL_METHODS:
            self.other += 1
            return
        initial = _is_initial_invite(parsed)
        call = self._call_of(parsed, time_ns, initial=initial)
        if call is None:
            self.dropped["calls"] += 1
            return
        if initial:
            _note(call.caller_ids, _identity(parsed.sender))
        by_caller = _identity(parsed.sender) in call.caller_ids
        sent_by_caller = by_caller == (parsed.status is None)
        path = (source, destination) if sent_by_caller else (destination, source)
        hop = call.hop_of(parsed, path, initial=initial)
        if hop is None:
            self.dropped["hops"] += 1
            return
        dialog = parsed.recipient.tag if by_caller else parsed.sender.tag
        turn = _Turn(parsed, self._description(parsed), time_ns, by_caller, dialog)
        if parsed.status is None:
            call.follow_request(turn, hop)
            self._request(hop, turn)
        else:
            if parsed.method == "INVITE" and by_caller and parsed.cseq == call.initial_cseq:
                call.follow_response(turn, hop)
            if parsed.status < 300:
                self._response(hop, turn)

    def calls(self) -> list[SipCall]:
        """The calls so far, in the order in which they began."""
        return [
            SipCall(
                call_id=call.call_id,
                caller=call.caller,
                callee=call.callee,
                state=call.state,
                started_at_ns=call.started_at_ns,
                ringing_at_ns=call.ringing_at_ns,
                answered_at_ns=call.answered_at_ns,
                ended_at_ns=call.end[0],
                end_cause=call.end[1],
                legs=tuple(_legs(call)),
            )
            for call in self._calls
        ]

    def _call_of(self, message: sip.Message, time_ns: int, *, initial: bool) -> _Call | None:
        call = self._by_id.get(message.call_id)
        if call is not None:
            # A Call-ID may be used again when the call is over; a late copy of its INVITE has a known From
            # tag.
            over = call.end_cause == "bye"
            if not (initial and over and _identity(message.sender) not in call.caller_ids):
                return call
        if len(self._calls) >= MAX_CALLS:
            return None
        call = _Call(message, time_ns)
        self._calls.append(call)
        self._by_id[message.call_id] = call
        return call

    def _description(self, message: sip.Message) -> Description | None:
        body = sip.sdp_body(message)
        if body is None:
            return None
        # The same description comes once a hop and once a retransmission: read it once, keep it once.
        description = self._cache.get(body)
        if description is None:
            try:
                description = sdp.parse(body)
            except SipError as error:
                self.malformed[str(error)] += 1
                return None
            if len(self._cache) >= DESCRIPTION_CACHE:
                self._cache.clear()
            self._cache[body] = description
        if description.dropped:
            self.dropped["media lines"] += description.dropped
        return description

    def _keep(self, description: Description | None) -> bool:
        size_bytes = description.size_bytes if description else 0
        if self._kept_bytes + size_bytes > MAX_KEPT_BYTES:
            self.dropped["descriptions"] += 1
            return False
        self._kept_bytes += size_bytes
        return True

    def _forget(self, description: Description | None) -> None:
        self._kept_bytes -= description.size_bytes if description else 0

    def _request(self, hop: _Hop, turn: _Turn) -> None:
        """An offer, or with PRACK and ACK the answer to an offer in a response."""
        message, description = turn.message, turn.description
        method, cseq = message.method, message.cseq
        if method in ("PRACK", "ACK"):
            if description is None:
                return
            invite_cseq = _rack_cseq(message) if method == "PRACK" else cseq
            pending = hop.response_offers.get((turn.by_caller, invite_cseq, turn.dialog))
            if pending is not None and pending.answered_by in (None, (method, cseq)):
                pending.answered_by = method, cseq
                self._exchange(
                    hop, turn, pending.description, description, offered_by_caller=not turn.by_caller
                )
                return
        if method in ("INVITE", "UPDATE", "PRACK"):
            key = turn.by_caller, cseq, method
            if key not in hop.offers and self._keep(description):
                if len(hop.offers) >= MAX_OFFERS:
                    self._forget(hop.offers.pop(next(iter(hop.offers)))[1])
                hop.offers[key] = turn.time_ns, description

    def _response(self, hop: _Hop, turn: _Turn) -> None:
        """An answer; an offer if the INVITE had none."""
        message, description = turn.message, turn.description
        method, cseq = message.method, message.cseq
        if method not in ("INVITE", "UPDATE", "PRACK"):
            return
        if description is None:
            # A 2xx without a description confirms that of its dialog's 1xx, although another fork spoke
            # since.
            previous = hop.last_of(turn.dialog)
            if method == "INVITE" and (message.status or 0) >= 200 and previous and previous is not hop.last:
                by_caller = previous.offered_by_caller
                self._exchange(hop, turn, previous.offer, previous.answer, offered_by_caller=by_caller)
            return
        _, offer = hop.offers.get((turn.by_caller, cseq, method), (0, None))
        if offer is not None or (turn.by_caller, cseq, method) not in hop.offers:  # not there: not captured
            self._exchange(hop, turn, offer, description, offered_by_caller=turn.by_caller)
        elif method == "INVITE":
            key = turn.by_caller, cseq, turn.dialog
            pending = hop.response_offers.get(key)
            if (pending is not None and pending.answered_by is not None) or not self._keep(description):
                return
            if pending is not None:
                self._forget(pending.description)
            elif len(hop.response_offers) >= MAX_OFFERS:
                self._forget(hop.response_offers.pop(next(iter(hop.response_offers))).description)
            hop.response_offers[key] = _ResponseOffer(turn.time_ns, description)

    def _exchange(
        self,
        hop: _Hop,
        turn: _Turn,
        offer: Description | None,
        answer: Description | None,
        *,
        offered_by_caller: bool,
    ) -> None:
        message = turn.message
        final = message.status is None or message.status >= 200
        fingerprint = answer.fingerprint if answer else 0
        key = turn.by_caller, message.cseq, message.method, final, turn.dialog, fingerprint
        exchange = _Exchange(turn.time_ns, offer, answer, offered_by_caller, turn.dialog)
        if key in hop.exchanges or (hop.last is not None and exchange.repeats(hop.last)):
            return
        if len(hop.exchanges) >= MAX_EXCHANGES:
            self.dropped["descriptions"] += 1
        elif self._keep(answer):
            hop.exchanges[key] = hop.last = exchange


def _note(known: list[_T], entry: _T, limit: int = MAX_TAGS) -> None:
    """Add to a short list what is not in it yet."""
    if entry not in known and len(known) < limit:
        known.append(entry)


def _identity(address: sip.Address) -> str:
    return address.tag or address.uri  # RFC 2543 devices may leave the tag out


def _is_initial_invite(message: sip.Message) -> bool:
    return message.method == "INVITE" and message.status is None and not message.recipient.tag


def _rack_cseq(message: sip.Message) -> int:
    """CSeq of the INVITE that a PRACK is about; RAck = response-num LWS CSeq-num LWS Method."""
    words = message.header("rack").split(None, 2)
    number = words[1] if len(words) > 1 else ""
    return int(number) if number.isascii() and number.isdigit() and len(number) <= 10 else -1


_Addresses = tuple[set[tuple[str, int]], set[tuple[str, int]]]  # of the caller's side, of the callee's


@dataclass(slots=True)
class _Group:
    """Hops with the same media, on the way to a SipLeg."""

    hops: list[_Hop]
    first: _Addresses
    all: _Addresses


def _legs(call: _Call) -> Iterator[SipLeg]:
    groups: list[_Group] = []
    for hop in call.hops:
        exchanges = _known_exchanges(hop)
        first, everything = _addresses(exchanges[:1]), _addresses(exchanges)
        for group in groups:
            # A relay that leaves the media path later (re-INVITE) makes the addresses on its hops equal. So
            # hops of the INVITE compare by what they began with; hops that came later join at any address.
            known = group.first if hop.has_initial_invite else group.all
            if first[0] & known[0] or first[1] & known[1]:
                group.hops.append(hop)
                for side in (0, 1):
                    group.first[side].update(first[side])
                    group.all[side].update(everything[side])
                break
        else:
            if not groups or any(exchange.whole for exchange in exchanges):
                groups.append(_Group([hop], first, everything))
    for index, group in enumerate(groups):
        yield SipLeg(
            name=_leg_name(index),
            participant="caller" if index == 0 else "callee",
            hops=tuple(hop.path for hop in group.hops),
            sessions=tuple(_sessions(call, group, participant_is_caller=index == 0)),
        )


def _known_exchanges(hop: _Hop) -> list[_Exchange]:
    """The whole exchanges in time order; without any, what there is of one side only."""
    exchanges = list(hop.exchanges.values())
    if whole := [exchange for exchange in exchanges if exchange.whole]:
        return whole
    for (by_caller, _, _), (time_ns, offer) in hop.offers.items():
        if offer is not None:
            exchanges.append(_Exchange(time_ns, offer, None, by_caller, ""))
    for (by_caller, _, dialog), pending in hop.response_offers.items():
        exchanges.append(_Exchange(pending.time_ns, pending.description, None, not by_caller, dialog))
    return exchanges


def _addresses(exchanges: list[_Exchange]) -> _Addresses:
    addresses: _Addresses = (set(), set())
    for exchange in exchanges:
        for side, of_caller in zip(addresses, (True, False), strict=True):
            if (description := exchange.description(of_caller=of_caller)) is not None:
                side |= description.addresses
    return addresses


def _sessions(call: _Call, group: _Group, *, participant_is_caller: bool) -> Iterator[MediaSession]:
    exchanges = [exchange for hop in group.hops for exchange in _known_exchanges(hop)]
    if any(exchange.whole for exchange in exchanges):
        exchanges = [exchange for exchange in exchanges if exchange.whole]
    exchanges.sort(key=lambda exchange: exchange.time_ns)
    last: tuple[AgreedMedia, ...] = ()
    count = 0
    for exchange in exchanges:
        media = sdp.agree(
            exchange.description(of_caller=participant_is_caller),
            exchange.description(of_caller=not participant_is_caller),
            participant_offered=exchange.offered_by_caller == participant_is_caller,
        )
        if media == last:  # the same on the next hop, or nothing changed
            continue
        last = media
        count += 1
        if count > MAX_EXCHANGES:
            return
        early = call.state == "unanswered" or exchange.time_ns < (call.answered_at_ns or 0)
        yield MediaSession(exchange.time_ns, media, exchange.whole, early, exchange.dialog)


def _leg_name(index: int) -> str:
    """LEG-A to LEG-Z, then LEG-AA."""
    letters = ""
    index += 1
    while index:
        index, digit = divmod(index - 1, 26)
        letters = chr(ord("A") + digit) + letters
    return f"LEG-{letters}"
