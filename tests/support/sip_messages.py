"""Writes SIP and SDP for tests: the messages of a call between two parties, plain or as odd as wanted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

Address = tuple[str, int]

PCMU, PCMA, G722, G729 = "0 PCMU/8000", "8 PCMA/8000", "9 G722/8000", "18 G729/8000"
EVENTS = "101 telephone-event/8000"

COMPACT = {
    "Via": "v",
    "From": "f",
    "To": "t",
    "Call-ID": "i",
    "Contact": "m",
    "Content-Type": "c",
    "Content-Length": "l",
}


def audio(
    port: int,
    codecs: Sequence[str] = (PCMU,),
    direction: str = "sendrecv",
    transport: str = "RTP/AVP",
    extra: Iterable[str] = (),
    kind: str = "audio",
) -> str:
    """An m= section; each codec is a payload type with its rtpmap."""
    types = [codec.split(" ")[0] for codec in codecs]
    lines = [f"m={kind} {port} {transport} {' '.join(types)}"]
    lines += [f"a=rtpmap:{codec}" for codec in codecs]
    return "\r\n".join([*lines, f"a={direction}", *extra, ""])


def fax(port: int) -> str:
    """An m= section for T.38."""
    return f"m=image {port} udptl t38\r\na=T38FaxVersion:0\r\n"


def session(address: str, *media: str) -> str:
    """A session description."""
    family = "IP6" if ":" in address else "IP4"
    head = f"v=0\r\no=- 1 1 IN {family} {address}\r\ns=-\r\nc=IN {family} {address}\r\nt=0 0\r\n"
    return head + "".join(media)


@dataclass
class Dialog:
    """The messages of one call; each method gives the bytes of a message."""

    call_id: str = "call-1@example.org"
    caller: str = "sip:alice@example.org"
    callee: str = "sip:bob@example.org"
    caller_tag: str = "tag-a"
    callee_tag: str = "tag-b"
    compact: bool = False
    via: str = "10.0.0.1:5060"
    cseq: int = field(default=1)

    def invite(self, sdp: str = "") -> bytes:
        """The first INVITE."""
        return self._message("INVITE sip:bob@example.org SIP/2.0", "INVITE", sdp, answered=False)

    def reinvite(self, sdp: str) -> bytes:
        """A later INVITE of the caller."""
        self.cseq += 1
        return self._message("INVITE sip:bob@example.org SIP/2.0", "INVITE", sdp)

    def response(self, status: int, sdp: str = "", method: str = "INVITE") -> bytes:
        """A response of the callee."""
        return self._message(f"SIP/2.0 {status} Reason", method, sdp)

    def ack(self, sdp: str = "") -> bytes:
        """The caller's ACK."""
        return self._message("ACK sip:bob@example.org SIP/2.0", "ACK", sdp)

    def bye(self, *, by_callee: bool = False) -> bytes:
        """A BYE."""
        return self._message("BYE sip:x@example.org SIP/2.0", "BYE", "", by_callee=by_callee)

    def _message(
        self, start: str, method: str, sdp: str, *, answered: bool = True, by_callee: bool = False
    ) -> bytes:
        caller = f"<{self.caller}>;tag={self.caller_tag}"
        callee = f"<{self.callee}>" + (f";tag={self.callee_tag}" if answered else "")
        headers = {
            "Via": f"SIP/2.0/UDP {self.via};branch=z9hG4bK{self.via}-{self.cseq}{method}",
            "From": callee if by_callee else caller,
            "To": caller if by_callee else callee,
            "Call-ID": self.call_id,
            "CSeq": f"{self.cseq} {method}",
            "Max-Forwards": "70",
        }
        if sdp:
            headers["Content-Type"] = "application/sdp"
        headers["Content-Length"] = str(len(sdp))
        lines = [f"{COMPACT.get(name, name) if self.compact else name}: {headers[name]}" for name in headers]
        return "\r\n".join([start, *lines, "", sdp]).encode()
