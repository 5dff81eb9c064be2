"""SIP: any bytes as one message, and as a TCP stream cut in any way.

Input: how the stream is cut (1 byte), then the stream.

Accepted: SipError, when there is no start line, or one of Call-ID, CSeq, From and To is missing or cannot be read.
"""

from callreel import sip
from callreel.errors import SipError

DICTIONARY = [
    b"INVITE sip:a SIP/2.0\r\n",
    b"SIP/2.0 200 OK\r\n",
    b"Content-Length: ",
    b"Content-Type: multipart/mixed;boundary=",
    b"Content-Type: application/sdp\r\n",
    b"\r\n\r\n",
    b"\r\n\t",
    b"From: ",
    b"To: ",
    b"Call-ID: ",
    b"CSeq: 1 INVITE\r\n",
    b"Via: ",
    b";branch=",
    b";tag=",
    b"<sip:",
    b"--",
]


def run(data: bytes) -> None:
    cut, stream = data[:1], data[1:]
    one_message(stream)
    at_once = in_pieces(stream, len(stream) or 1)
    for message in at_once:
        one_message(message)
    piece = max((cut[0] if cut else 0) + 1, len(stream) // 64)
    assert in_pieces(stream, piece) == at_once
    shuffled(stream, piece)


def one_message(data: bytes) -> None:
    assert isinstance(sip.looks_like_sip(data), bool)
    try:
        message = sip.parse(data)
    except SipError:
        return
    assert message.method
    assert message.status is None or 100 <= message.status <= 699
    for text in (message.uri, message.call_id, message.branch, *message.sender, *message.recipient):
        assert len(text) <= sip.MAX_ID_CHARS
        assert not any(ord(letter) < 0x20 and letter != "\t" for letter in text)
    assert len(message.body) <= len(data)
    body = sip.sdp_body(message)
    assert body is None or len(body) <= len(message.body)


def in_pieces(stream: bytes, size: int) -> list[bytes]:
    """The messages of a connection that begins with `stream`, in segments of `size` bytes, all in order."""
    assembler = sip.StreamAssembler()
    messages = assembler.receive(b"", seq=99, time_ns=0, syn=True)
    for at in range(0, len(stream), size):
        messages += assembler.receive(stream[at : at + size], seq=100 + at, time_ns=at)
    messages += assembler.close()
    assert assembler.gaps == 0
    assert sum(len(message.data) for message in messages) <= len(stream)
    return [message.data for message in messages]


def shuffled(stream: bytes, size: int) -> None:
    """Segments that overlap, come twice, out of order, or not at all, around the wrap of the numbers."""
    assembler = sip.StreamAssembler()
    segments = [(at, stream[at : at + size + 3]) for at in range(0, len(stream), size)]
    order = sorted(range(len(segments)), key=lambda n: (n * 7919 + size) % 1009)
    messages = []
    for n in order + order[::3]:
        if n % 11 != 10:
            at, payload = segments[n]
            messages += assembler.receive(payload, seq=(0xFFFFFF00 + at) & 0xFFFFFFFF, time_ns=n)
        assert assembler._waiting_bytes <= sip.MAX_WAITING_BYTES + len(stream)
        assert len(assembler._buffer) <= sip.MAX_STREAM_BYTES + sip.MAX_WAITING_BYTES
    messages += assembler.receive(b"", seq=0, time_ns=0, fin=True)
    messages += assembler.close()
    for message in messages:
        one_message(message.data)
