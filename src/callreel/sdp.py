"""Session descriptions: who receives which media where, and what an offer and its answer agree on.

Reads RFC 8866 (SDP) line by line and skips every line it cannot use; compares offer and answer as RFC 3264
has it. Addresses are those of the c= and m= lines; ICE candidates are not followed.

The reader is our own, a hundred lines: a telephone skips a line it does not understand and talks on, so a
parser that refuses the description for it would lose the call.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from callreel.errors import SipError

__all__ = [
    "STATIC_CODECS",
    "AgreedMedia",
    "Codec",
    "Description",
    "Endpoint",
    "MediaDescription",
    "agree",
    "parse",
]

MAX_MEDIA = 32  # m= lines a description; conferences with video have about ten
MAX_FORMATS = 64  # payload types an m= line; browsers offer about thirty
MAX_FMTP_CHARS = 256

_SEND_RECV = {
    "sendrecv": (True, True),
    "sendonly": (True, False),
    "recvonly": (False, True),
    "inactive": (False, False),
}
_DIRECTIONS = {both: name for name, both in _SEND_RECV.items()}

# m=<media> <port>[/<count>] <proto> <fmt> ...
_MEDIA_LINE = re.compile(r"([!-~]{1,32})\s+(\d{1,5})(?:/\d+)?\s+(\S{1,64})\s*(.*)", re.ASCII)
# c=<nettype> <addrtype> <address>[/<ttl>[/<count>]]
_CONNECTION_LINE = re.compile(r"IN\s+IP[46]\s+([^\s/]{1,255})", re.ASCII | re.IGNORECASE)
# a=rtpmap:<payload type> <name>/<clock rate>[/<channels>]
_RTPMAP = re.compile(r"(\d{1,3})\s+([^\s/]{1,64})\s*/\s*(\d{1,9})(?:\s*/\s*(\d{1,3}))?", re.ASCII)
_FMTP = re.compile(r"(\d{1,3})\s+(.*)", re.ASCII)
_NUMBER = re.compile(r"\s*(\d{1,5})", re.ASCII)


class Endpoint(NamedTuple):
    """Where packets are to be sent."""

    ip: str
    """Canonical text of an IP address; a host name where the description has one."""
    port: int
    rtcp_port: int | None
    """None where there is no RTCP (T.38); equal to `port` when RTP and RTCP share it."""


@dataclass(frozen=True, slots=True)
class Codec:
    """What a payload type stands for."""

    name: str
    """Upper case: "PCMU", "TELEPHONE-EVENT"."""
    clock_rate: int
    """Of the RTP timestamps, in Hz."""
    channels: int = 1
    fmtp: str = ""
    """Format parameters as announced by the receiver."""

    @property
    def identity(self) -> tuple[str, int, int]:
        """What makes it the same codec under another payload type."""
        return self.name, self.clock_rate, self.channels


STATIC_CODECS: Mapping[int, Codec] = {  # RFC 3551 tables 4 and 5
    0: Codec("PCMU", 8000),
    3: Codec("GSM", 8000),
    4: Codec("G723", 8000),
    5: Codec("DVI4", 8000),
    6: Codec("DVI4", 16000),
    7: Codec("LPC", 8000),
    8: Codec("PCMA", 8000),
    9: Codec("G722", 8000),
    10: Codec("L16", 44100, 2),
    11: Codec("L16", 44100),
    12: Codec("QCELP", 8000),
    13: Codec("CN", 8000),
    14: Codec("MPA", 90000),
    15: Codec("G728", 8000),
    16: Codec("DVI4", 11025),
    17: Codec("DVI4", 22050),
    18: Codec("G729", 8000),
    25: Codec("CELB", 90000),
    26: Codec("JPEG", 90000),
    28: Codec("NV", 90000),
    31: Codec("H261", 90000),
    32: Codec("MPV", 90000),
    33: Codec("MP2T", 90000),
    34: Codec("H263", 90000),
}


@dataclass(frozen=True, slots=True)
class MediaDescription:
    """One m= line with its attributes, those of the session included."""

    kind: str
    transport: str
    port: int
    """0: declined or switched off."""
    endpoint: Endpoint | None
    """None when it receives nowhere: port 0, no address, or the address 0.0.0.0 of an old-style hold."""
    direction: str
    """"sendrecv", "sendonly", "recvonly" or "inactive", from the view of who describes."""
    codecs: Mapping[int, Codec]
    ptime_ms: int | None
    maxptime_ms: int | None
    has_keys: bool
    """Offers or accepts SRTP keys: a=crypto (SDES) or a=fingerprint (DTLS)."""
    rtcp_mux: bool
    label: str


@dataclass(frozen=True, slots=True)
class Description:
    """What one side announced."""

    media: tuple[MediaDescription, ...]
    dropped: int
    """m= lines beyond MAX_MEDIA, or unreadable."""
    fingerprint: int = field(compare=False)
    """Hash of its text: tells a repeated description from a new one (within one process)."""
    size_bytes: int = field(compare=False)
    """Of its text: a measure of what keeping it costs."""

    @property
    def addresses(self) -> frozenset[tuple[str, int]]:
        """Where this side receives anything."""
        return frozenset((line.endpoint.ip, line.endpoint.port) for line in self.media if line.endpoint)


@dataclass(frozen=True, slots=True)
class AgreedMedia:
    """One m= line after offer and answer, seen by the participant of a leg."""

    kind: str
    """"audio", "video", "image" (T.38), …"""
    transport: str
    """"RTP/AVP", "RTP/SAVP", "UDPTL", … in upper case."""
    participant: Endpoint | None
    """Where the participant receives. None: nowhere (declined, old-style hold), or not known."""
    server: Endpoint | None
    """Where the other side receives."""
    direction: str
    """"sendrecv", "sendonly" (the participant only sends), "recvonly" or "inactive"."""
    to_participant: Mapping[int, Codec]
    """Payload types of packets to the participant: the numbers the participant announced."""
    to_server: Mapping[int, Codec]
    """Payload types of packets to the other side; they may differ for dynamic types."""
    ptime_ms: int | None
    """What the answer asks for, else the offer."""
    maxptime_ms: int | None
    encrypted: bool
    """SRTP: the audio cannot be read."""
    declined: bool
    rtcp_mux: bool
    label: str
    """a=label, which SIPREC metadata refers to; "" where there is none."""

    @property
    def active(self) -> bool:
        """Media can flow in at least one direction."""
        return not self.declined and self.direction != "inactive"


@dataclass(slots=True)
class _Section:
    """The lines of the session, or of one m= line, on the way to a MediaDescription."""

    line: re.Match[str] | None = None
    address: str = ""
    attributes: dict[str, str] = field(default_factory=dict)  # the first of each name
    rtpmap: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    fmtp: dict[int, str] = field(default_factory=dict)


def parse(body: bytes) -> Description:
    """Read a session description; lines that cannot be used are skipped.

    Raises:
        SipError: not one line of it is that of a session description.
    """
    session = _Section()
    sections = [session]
    dropped = known_lines = 0
    full = False
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = body.decode("latin-1")
    for line in text.replace("\r", "\n").split("\n"):
        kind, equals, value = line.strip().partition("=")
        if not equals or len(kind) != 1:
            continue
        value = value.strip()
        known_lines += kind in "voscmat"
        if kind == "m":
            full = len(sections) > MAX_MEDIA
            match = _MEDIA_LINE.fullmatch(value)
            dropped += full or match is None
            if not full:  # an unreadable line keeps its place, so that later ones still meet their answers
                sections.append(_Section(match))
        elif full:
            continue
        elif kind == "c":
            if match := _CONNECTION_LINE.match(value):
                sections[-1].address = _canonical(match[1])
        elif kind == "a":
            _attribute(sections[-1], value)
    if not known_lines:
        raise SipError("not a session description", offset=0)
    return Description(
        tuple(_media(session, section) for section in sections[1:]), dropped, hash(body), len(body)
    )


def _attribute(section: _Section, text: str) -> None:
    name, _, value = text.partition(":")
    name, value = name.strip().lower(), value.strip()
    if name == "rtpmap":
        if (match := _RTPMAP.match(value)) and int(match[1]) < 128:
            codec = match[2].upper(), int(match[3]), int(match[4] or 1)
            section.rtpmap.setdefault(int(match[1]), codec)
    elif name == "fmtp":
        if (match := _FMTP.match(value)) and int(match[1]) < 128:
            section.fmtp.setdefault(int(match[1]), match[2][:MAX_FMTP_CHARS])
    elif name in _SEND_RECV:
        section.attributes.setdefault("direction", name)
    elif name in ("ptime", "maxptime", "rtcp", "rtcp-mux", "label", "crypto", "fingerprint"):
        section.attributes.setdefault(name, value[:MAX_FMTP_CHARS])


def _media(session: _Section, section: _Section) -> MediaDescription:
    if section.line is None:
        return MediaDescription("", "", 0, None, "inactive", {}, None, None, False, False, "")
    kind, port_text, transport, formats = section.line.groups()
    kind, transport, port = kind.lower(), transport.upper(), int(port_text)
    attributes = session.attributes | section.attributes
    address = section.address or session.address
    sends, receives = _SEND_RECV[attributes.get("direction", "sendrecv")]
    port = port if port < 65536 else 0
    is_rtp = "RTP/" in transport
    endpoint = None
    if address in ("0.0.0.0", "::"):  # RFC 3264 8.4: hold as RFC 2543 had it
        receives = False
    elif port and address:
        endpoint = Endpoint(address, port, _rtcp_port(port, attributes) if is_rtp else None)
    return MediaDescription(
        kind=kind,
        transport=transport,
        port=port,
        endpoint=endpoint,
        direction=_DIRECTIONS[sends, receives],
        codecs=_codecs(*_formats(formats, section)) if is_rtp else {},
        ptime_ms=_number(attributes.get("ptime")),
        maxptime_ms=_number(attributes.get("maxptime")),
        has_keys=bool(attributes.keys() & {"crypto", "fingerprint"}),
        rtcp_mux="rtcp-mux" in attributes,
        label=attributes.get("label", ""),
    )


_Announced = tuple[int, tuple[str, int, int] | None, str]  # payload type, its a=rtpmap, its a=fmtp


def _formats(text: str, section: _Section) -> Iterator[_Announced]:
    for word in text.split(None, MAX_FORMATS)[:MAX_FORMATS]:
        number = _number(word)
        if number is not None and number < 128:
            yield number, section.rtpmap.get(number), section.fmtp.get(number, "")


@lru_cache(maxsize=256)  # telephones say the same in every call: one map, never changed, for all of them
def _codecs(*announced: _Announced) -> Mapping[int, Codec]:
    codecs: dict[int, Codec] = {}
    for number, mapped, fmtp in announced:
        if mapped:
            codecs[number] = Codec(*mapped, fmtp)
        elif static := STATIC_CODECS.get(number):
            codecs[number] = Codec(*static.identity, fmtp) if fmtp else static
        # A dynamic payload type without a=rtpmap stands for nothing that could be decoded.
    return codecs


def _rtcp_port(port: int, attributes: Mapping[str, str]) -> int | None:
    told = _number(attributes.get("rtcp"))  # RFC 3605; otherwise the next port, RFC 3550 11
    rtcp_port = told or port + 1
    return rtcp_port if rtcp_port < 65536 else None


def _number(text: str | None) -> int | None:
    match = _NUMBER.match(text) if text else None
    return int(match[1]) if match else None


def _canonical(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address.strip("[]")))
    except ValueError:
        return address


def agree(
    participant: Description | None, server: Description | None, *, participant_offered: bool
) -> tuple[AgreedMedia, ...]:
    """What the descriptions of both sides make together, m= line by m= line.

    A side that is None has not answered, or was not captured: its endpoints are then None, and it is taken to
    use the payload types of the other.
    """
    offer, answer = (participant, server) if participant_offered else (server, participant)
    if offer is None or answer is None:
        one = offer or answer
        lines = one.media if one else ()
        return tuple(
            _agreed(
                line if one is participant else None,
                line if one is server else None,
                line,
                declined=line.port == 0,
            )
            for line in lines
        )
    agreed = []
    for index, offered in enumerate(offer.media):
        answered = answer.media[index] if index < len(answer.media) else None
        declined = offered.port == 0 or answered is None or answered.port == 0
        ours, theirs = (offered, answered) if participant_offered else (answered, offered)
        agreed.append(_agreed(ours, theirs, answered or offered, declined=declined, kind=offered.kind))
    return tuple(agreed)


def _agreed(
    ours: MediaDescription | None,
    theirs: MediaDescription | None,
    last_word: MediaDescription,
    *,
    declined: bool,
    kind: str = "",
) -> AgreedMedia:
    """Join two m= lines; `last_word` is the answer if there is one."""
    we_send, we_receive = _SEND_RECV[ours.direction] if ours else (True, True)
    they_send, they_receive = _SEND_RECV[theirs.direction] if theirs else (True, True)
    lines = [line for line in (last_word, ours, theirs) if line is not None]
    both = ours is not None and theirs is not None
    mux = both and all(line.rtcp_mux for line in lines)
    # RFC 8643: keys within RTP/AVP are used only when both sides have them.
    encrypted = "SAVP" in last_word.transport or (both and all(line.has_keys for line in lines))
    direction = _DIRECTIONS[we_send and they_receive, we_receive and they_send]
    return AgreedMedia(
        kind=kind or last_word.kind,
        transport=next((line.transport for line in lines if line.transport), ""),
        participant=_endpoint(ours, mux=mux, declined=declined),
        server=_endpoint(theirs, mux=mux, declined=declined),
        direction="inactive" if declined else direction,
        to_participant=_common(ours, theirs),
        to_server=_common(theirs, ours),
        ptime_ms=next((line.ptime_ms for line in lines if line.ptime_ms), None),
        maxptime_ms=next((line.maxptime_ms for line in lines if line.maxptime_ms), None),
        encrypted=encrypted,
        declined=declined,
        rtcp_mux=mux,
        label=next((line.label for line in lines if line.label), ""),
    )


def _endpoint(line: MediaDescription | None, *, mux: bool, declined: bool) -> Endpoint | None:
    if line is None or line.endpoint is None or declined:
        return None
    return line.endpoint._replace(rtcp_port=line.endpoint.port) if mux else line.endpoint


def _common(receiver: MediaDescription | None, sender: MediaDescription | None) -> Mapping[int, Codec]:
    """The payload types in packets to `receiver`: its own numbers, for the codecs that both sides named."""
    if receiver is None or sender is None:
        known = receiver or sender
        return known.codecs if known else {}
    numbers: dict[tuple[str, int, int], set[int]] = {}
    for number, codec in sender.codecs.items():
        numbers.setdefault(codec.identity, set()).add(number)
    common = {number: codec for number, codec in receiver.codecs.items() if codec.identity in numbers}
    # One codec under several numbers (AMR with different fmtp): those that both sides use, if there are any.
    same = {codec.identity for number, codec in common.items() if number in numbers[codec.identity]}
    common = {
        number: codec
        for number, codec in common.items()
        if codec.identity not in same or number in numbers[codec.identity]
    }
    return common or receiver.codecs  # no name in common, yet the two talk: better its own list than nothing
