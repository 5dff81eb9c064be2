"""SIP messages out of datagrams and TCP streams, read tolerantly and never answered (RFC 3261).

We only listen: what two devices understood of each other must be understood here too, however it was
written. So line ends may be bare LF, headers folded, compact, repeated or in any case, the Content-Length
wrong or missing, and a header that cannot be read is left alone. A message is refused (`SipError`) only
when the fields that tie it to a call are not there: start line, Call-ID, CSeq, From, To.

The reader is our own: the grammar of `sipmessage`, the maintained parser in Python, is that of RFC 3261 to
the letter. It refuses real messages (a Via with an IPv6 `received`, a display name with stray quotes, a
head cut off by the capture, LF line ends, folded headers). Tests use it as the judge of well-formed
messages.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from callreel.errors import SipError

__all__ = ["Address", "Message", "StreamAssembler", "StreamMessage", "looks_like_sip", "parse", "sdp_body"]

MAX_MESSAGE_BYTES = 64 * 1024  # what one UDP datagram can hold; longer messages are read up to here
MAX_STREAM_BYTES = 1024 * 1024  # per TCP direction; a message that needs more is not worth waiting for
MAX_WAITING_BYTES = (
    64 * 1024
)  # beyond a hole in a TCP stream: a TCP window, after that the capture has lost it
SEGMENT_COST_BYTES = 128  # what keeping one segment costs beside its payload
CHANCES_IN_MID_STREAM = 4  # segments until one must begin with SIP when the capture has no SYN
MAX_LINE_BYTES = 8192  # longer than any start line that _START accepts
MAX_ID_CHARS = 1024  # Call-ID, tags, URIs; real ones stay below 256

COMPACT_NAMES = {  # IANA "SIP parameters", header fields with a compact form
    "a": "accept-contact",
    "b": "referred-by",
    "c": "content-type",
    "d": "request-disposition",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "j": "reject-contact",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "n": "identity-info",
    "o": "event",
    "r": "refer-to",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
    "x": "session-expires",
    "y": "identity",
}

# Request-Line = Method SP Request-URI SP SIP-Version CRLF
# Status-Line = SIP-Version SP Status-Code SP Reason-Phrase CRLF
_START = (
    rb"(?:(?i:SIP)/2\.0 [1-6]\d\d(?=[ \t\r\n]|\Z)"
    rb"|[A-Za-z0-9\-.!%*_+`'~]{1,64} (?i:sips?|tel|urn):[^\r\n]{1,4096} (?i:SIP)/2\.0[ \t]*(?=\r?\n|\Z))"
)
_START_LINE = re.compile(rb"(?:\r?\n){0,8}" + _START)
# Within a stream: what has come so far ends nowhere (\Z), the next byte may belong to the line.
_NEXT_START_LINE = re.compile(rb"\n\r*(?=" + _START.replace(rb"|\Z", b"") + rb")")
_START_LINE_SO_FAR = re.compile(rb"[A-Za-z0-9\-.!%*_+`'~/]{1,64}(?: [^\r\n]{0,4200})?\r?\Z")
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_FOLD = re.compile(r"\r?\n[ \t]+")
_CSEQ = re.compile(r"(\d{1,10})\s+(\S{1,64})")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_BRANCH = re.compile(r";\s*branch\s*=\s*([^;,\s]{1,1024})", re.IGNORECASE)
_BOUNDARY = re.compile(r';\s*boundary\s*=\s*(?:"([^"]{1,256})"|([^;\s]{1,256}))', re.IGNORECASE)
_NOT_SHOWN = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), "\N{REPLACEMENT CHARACTER}") | {
    0x09: " ",
    0x0A: "\n",
}


class Address(NamedTuple):
    """Who a From or To header names."""

    uri: str
    """The URI as it was written, without display name and brackets."""
    tag: str
    """The dialog tag, "" where there is none."""


@dataclass(frozen=True, slots=True)
class Message:
    """One SIP request or response: the fields that place it in a call, and all headers as they came."""

    method: str
    """Of a response: the method in its CSeq."""
    status: int | None
    """None in a request."""
    uri: str
    """The Request-URI; "" in a response."""
    call_id: str
    cseq: int
    sender: Address
    """From: who sent the request (also in its responses)."""
    recipient: Address
    """To."""
    branch: str
    """Of the topmost Via: names the transaction on this hop. "" where there is none."""
    headers: Mapping[str, list[str]]
    """Lower-case full names to the values in order."""
    body: bytes

    def header(self, name: str) -> str:
        """The first value of a header (full name in lower case), "" when it is absent."""
        values = self.headers.get(name)
        return values[0] if values else ""


def looks_like_sip(payload: bytes | bytearray | memoryview) -> bool:
    """Whether a datagram begins with a SIP start line; cheap enough to ask of every packet."""
    return _START_LINE.match(payload) is not None


def parse(data: bytes) -> Message:
    """Read one message.

    The body ends where Content-Length says, unless that is absent, invalid, beyond the data, or cuts a line
    in two (then it was miscounted): in these cases the body is all there is.

    Raises:
        SipError: not a SIP message, or without Call-ID, CSeq, From or To.
    """
    data = data.lstrip(b"\r\n")
    if _START_LINE.match(data) is None:
        raise SipError("no SIP start line", offset=0)
    blank = _BLANK_LINE.search(data)
    head, body = (data, b"") if blank is None else (data[: blank.start()], data[blank.end() :])
    start_line, *lines = _unfolded(head)
    headers = _headers(lines)

    def required(name: str) -> str:
        if not (value := headers.get(name, [""])[0]):
            raise SipError(f"no {name} header")
        return value

    call_id = required("call-id")
    if len(call_id) > MAX_ID_CHARS:
        raise SipError("call-id too long")
    sender, recipient = _address(required("from")), _address(required("to"))
    if (cseq := _CSEQ.match(required("cseq"))) is None:
        raise SipError("unreadable cseq header")
    method, status, uri = cseq[2], None, ""
    first, second = start_line.split(" ", 2)[:2]
    if first.upper() == "SIP/2.0":
        status = int(second[:3])
    else:
        method, uri = first, second[:MAX_ID_CHARS]

    if (length := _content_length(headers)) is not None and length < len(body):
        cuts_a_line = (
            length > 0 and body[length - 1 : length] != b"\n" and body[length : length + 1] not in b"\r\n"
        )
        if not cuts_a_line:
            body = body[:length]  # RFC 3261 18.3: what follows in the datagram is discarded
    via = headers.get("via", [""])[0].partition(",")[0]
    branch = match[1] if (match := _BRANCH.search(via)) else ""
    return Message(method, status, uri, call_id, int(cseq[1]), sender, recipient, branch, headers, body)


def sdp_body(message: Message) -> bytes | None:
    """The session description in a message, also inside multipart bodies (SIPREC); None when it has none.

    Of several descriptions the first counts that is not an early session of RFC 3959.
    """
    if not message.body.strip() or message.header("content-encoding").lower() not in ("", "identity"):
        return None
    return _find_sdp(message.header("content-type"), message.body, depth=0)


class StreamMessage(NamedTuple):
    """A message cut out of a TCP stream."""

    time_ns: int
    """Capture time of the segment that completed it."""
    data: bytes


class StreamAssembler:
    """One direction of a TCP connection, from captured segments to SIP messages.

    Segments come in capture order, with retransmissions, reordering and overlaps; of bytes that came twice
    the first copy counts. A stream that does not begin with SIP is `hopeless` after its first bytes; after
    four segments when the capture began in the middle of it. Where the capture lost a segment, reading goes
    on at the next start line (`gaps`). Memory is bounded by `MAX_STREAM_BYTES` and `MAX_WAITING_BYTES`.
    """

    def __init__(self) -> None:
        """Begin a direction of which nothing has been seen."""
        self.hopeless = False
        """Nothing will come out of this stream any more; stop feeding it."""
        self.reason = ""
        """Why it is hopeless."""
        self.gaps = 0
        """Places where captured bytes were missing."""
        self._connect(None)

    def _connect(self, first: int | None) -> None:
        self._next = first  # sequence number after the last byte in _buffer, not wrapped; None: nothing seen
        self._syn = first  # the same at the time of the SYN; None: the capture has no SYN
        self._waiting: list[tuple[int, int, int, bytes]] = []  # heap: position, arrival number, time, payload
        self._waiting_bytes = 0
        self._arrivals = 0
        self._proven = False  # a start line has been seen
        self._chances = 1 if first is not None else CHANCES_IN_MID_STREAM
        self._empty(seeking=False)

    def _empty(self, *, seeking: bool) -> None:
        self._buffer = bytearray()
        self._scanned = 0  # neither a blank line nor a start line begins before here
        self._head: tuple[int, int | None] | None = (
            None  # bytes of head and body (None: not known) of the message
        )
        self._head_time_ns = 0
        self._seeking = seeking  # the buffer may begin within a message: skip to a start line

    def receive(
        self,
        payload: bytes | bytearray | memoryview,
        *,
        seq: int,
        time_ns: int,
        syn: bool = False,
        fin: bool = False,
    ) -> list[StreamMessage]:
        """Take one segment; return the messages it completed."""
        out: list[StreamMessage] = []
        if syn:
            seq = (seq + 1) & 0xFFFFFFFF
            if seq != self._syn:  # not a copy of the same SYN: a new connection, maybe on used ports
                out = self.close()
                self._connect(seq)
        if self.hopeless or not (payload or fin):
            return out
        if self._next is None:
            self._next = seq
        distance = (seq - self._next) & 0xFFFFFFFF
        position = self._next + (distance - (1 << 32) if distance >= 1 << 31 else distance)
        if position > self._next and payload:
            self._arrivals += 1
            heapq.heappush(self._waiting, (position, self._arrivals, time_ns, bytes(payload)))
            self._waiting_bytes += len(payload) + SEGMENT_COST_BYTES
        elif payload:
            self._append(position, payload)
            while self._waiting and self._waiting[0][0] <= self._next:
                self._append_waiting()
            out += self._messages(time_ns)
        while self._waiting_bytes > MAX_WAITING_BYTES:
            out += self._skip_hole()
        return out + self.close() if fin and not self._waiting else out

    def close(self) -> list[StreamMessage]:
        """End the stream; return what it still holds, the last message perhaps incomplete."""
        out: list[StreamMessage] = []
        while self._waiting:
            out += self._skip_hole()
        return out + self._cut_rest()

    def _append(self, position: int, payload: bytes | bytearray | memoryview) -> None:
        assert self._next is not None
        fresh = payload[self._next - position :]
        self._buffer += fresh
        self._next += len(fresh)

    def _append_waiting(self) -> int:
        position, _, time_ns, payload = heapq.heappop(self._waiting)
        self._waiting_bytes -= len(payload) + SEGMENT_COST_BYTES
        self._append(position, payload)
        return time_ns

    def _skip_hole(self) -> list[StreamMessage]:
        """Give up the bytes missing before the first waiting segment; go on up to the next hole."""
        out = self._cut_rest()
        self.gaps += 1
        self._empty(seeking=self._proven)
        self._next = self._waiting[0][0]
        while self._waiting and self._waiting[0][0] <= self._next:
            time_ns = self._append_waiting()
            out += self._messages(time_ns)
        return out

    def _give_up(self, reason: str) -> None:
        self._connect(None)
        self.hopeless, self.reason = True, reason

    def _messages(self, time_ns: int) -> list[StreamMessage]:
        out: list[StreamMessage] = []
        while not self.hopeless and self._find_head(time_ns):
            assert self._head is not None
            head_bytes, body_bytes = self._head
            if body_bytes is not None:
                if len(self._buffer) < head_bytes + body_bytes:
                    break
                out.append(self._cut(head_bytes + body_bytes, time_ns))
            elif found := _NEXT_START_LINE.search(self._buffer, self._scanned):
                out.append(self._cut(found.end(), self._head_time_ns))
            elif len(self._buffer) > MAX_STREAM_BYTES:
                self._give_up("body without end")
            else:  # the last line may become a start line
                last_line = self._buffer.rfind(b"\n", self._scanned)
                self._scanned = max(self._scanned, last_line, len(self._buffer) - MAX_LINE_BYTES)
                break
        return out

    def _cut(self, size_bytes: int, time_ns: int) -> StreamMessage:
        data = bytes(self._buffer[:size_bytes])
        del self._buffer[:size_bytes]
        self._head, self._scanned = None, 0
        return StreamMessage(time_ns, data)

    def _cut_rest(self) -> list[StreamMessage]:
        return [self._cut(len(self._buffer), self._head_time_ns)] if self._head is not None else []

    def _find_head(self, time_ns: int) -> bool:
        """Bring a message to the front of the buffer and measure it; False while its head is not complete."""
        if self._head is not None:
            return True
        buffer = self._buffer
        if self._scanned == 0 and not self._at_start_line():
            return False
        blank = _BLANK_LINE.search(buffer, self._scanned)
        if blank is None:
            self._scanned = max(len(buffer) - 3, 1)
            if len(buffer) > MAX_MESSAGE_BYTES:
                self._give_up("headers without end")
            return False
        headers = _headers(_unfolded(bytes(buffer[: blank.start()]))[1:])
        body_bytes = _content_length(headers)
        if body_bytes is None and not headers.keys() & {"content-length", "content-type"}:
            body_bytes = 0
        if body_bytes is not None and blank.end() + body_bytes > MAX_STREAM_BYTES:
            self._give_up("message too large")
            return False
        self._head, self._head_time_ns, self._scanned = (blank.end(), body_bytes), time_ns, blank.end() - 1
        return True

    def _at_start_line(self) -> bool:
        """Whether the buffer begins with a start line, after dropping what cannot become one."""
        buffer = self._buffer
        while buffer.startswith((b"\r", b"\n")):  # keep-alives between messages, RFC 5626 3.5.1
            del buffer[:1]
        if not buffer:
            return False
        if self._seeking and not _START_LINE.match(buffer) and (found := _NEXT_START_LINE.search(buffer)):
            del buffer[: found.end()]
        first_line_complete = b"\n" in buffer[:MAX_LINE_BYTES]
        if first_line_complete and _START_LINE.match(buffer):
            self._proven, self._seeking = True, False
            return True
        may_become_one = _START_LINE.match(buffer) or _START_LINE_SO_FAR.match(buffer)
        if not first_line_complete and may_become_one and len(buffer) < MAX_LINE_BYTES:
            return False
        if self._proven and not self._seeking:  # a wrong Content-Length: the next message may be here already
            self._seeking = True
            return self._at_start_line()
        if self._proven:  # drop whole lines; the last one may become a start line
            del buffer[: max(buffer.rfind(b"\n"), len(buffer) - MAX_LINE_BYTES, 0)]
            return False
        self._chances -= 1
        buffer.clear()
        if self._chances == 0:
            self._give_up("not SIP")
        return False


def _unfolded(head: bytes) -> list[str]:
    """The lines of a head, continuations joined, safe to show: other control characters are replaced."""
    try:
        text = head.decode()
    except UnicodeDecodeError:
        text = head.decode("latin-1")  # keeps different bytes different
    return _FOLD.sub(" ", text).replace("\r\n", "\n").translate(_NOT_SHOWN).split("\n")


def _headers(lines: list[str]) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            name = name.strip().lower()
            headers.setdefault(COMPACT_NAMES.get(name, name), []).append(value.strip())
    return headers


def _address(value: str) -> Address:
    """From or To: `"name" <uri>;tag=x`, `name <uri>;tag=x` or `uri;tag=x`."""
    quoted = _QUOTED.match(value)
    rest = value[quoted.end() :] if quoted else value
    before, bracket, after = rest.partition("<")
    uri, _, parameters = after.partition(">") if bracket else before.partition(";")
    tag = ""
    for parameter in parameters.split(";", 64)[:64]:
        name, _, text = parameter.partition("=")
        if name.strip().lower() == "tag":
            tag = text.strip()
            break
    return Address(uri.strip()[:MAX_ID_CHARS], tag[:MAX_ID_CHARS])


def _content_length(headers: Mapping[str, list[str]]) -> int | None:
    value = headers.get("content-length", [""])[0]
    return int(value) if value.isascii() and value.isdigit() and len(value) < 12 else None


def _find_sdp(content_type: str, body: bytes, *, depth: int) -> bytes | None:
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "application/sdp":
        return body
    if not media_type:
        return body if body.lstrip().startswith(b"v=0") else None
    if not media_type.startswith("multipart/") or depth > 2:
        return None
    if match := _BOUNDARY.search(content_type):
        boundary = (match[1] or match[2]).encode("utf-8", "replace")
    else:  # no boundary told: the first line shows it
        boundary = body.lstrip().partition(b"\n")[0].strip()[2:258]
        if not boundary:
            return None
    delimiter = re.compile(rb"^--" + re.escape(boundary) + rb"(?:--)?[ \t]*\r?$", re.MULTILINE)
    for part in delimiter.split(body, 64)[1:]:
        head, _, content = part.replace(b"\r\n", b"\n").partition(b"\n\n")
        headers = _headers(_unfolded(head))
        if headers.get("content-disposition", [""])[0].lower().startswith("early-session"):
            continue
        part_type = headers.get("content-type", ["text/plain"])[0]
        if (found := _find_sdp(part_type, content, depth=depth + 1)) is not None:
            return found
    return None
