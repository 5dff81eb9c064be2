"""AudioSocket: any bytes, whole and in pieces.

Input: a byte that says how large the pieces are, then the stream.
"""

from callreel.service.audiosocket import HEADER_BYTES, Parser, message

DICTIONARY = [
    b"\x00\x00\x00",
    b"\x01\x00\x10",
    b"\x03\x00\x01",
    b"\x10\x01\x40",
    b"\x12\x02\x80",
    b"\xff\x00\x01",
    b"\x10\xff\xff",
]


def run(data: bytes) -> None:
    size, stream = 1 + (data[0] if data else 0), data[1:]
    whole, pieces = Parser(), Parser()
    found = whole.feed(stream)
    parts = []
    for at in range(0, len(stream), size):
        parts += pieces.feed(stream[at : at + size])
    assert parts == found
    assert pieces.begun == whole.begun
    read = b"".join(message(*one) for one in found)
    assert stream.startswith(read)
    rest = stream[len(read) :]
    assert whole.begun is None or len(rest) < HEADER_BYTES + whole.begun[1]
