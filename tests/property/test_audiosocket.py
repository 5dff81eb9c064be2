"""AudioSocket's stream of messages: however it is cut, the same messages; whatever the bytes, bounded memory."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from callreel.service.audiosocket import HEADER_BYTES, Message, Parser, message

MESSAGES = st.lists(
    st.builds(
        Message,
        st.integers(0, 255),
        st.binary(max_size=700) | st.sampled_from([bytes(320), b"\xff" * 65_535]),
    ),
    max_size=12,
)


def cut(data, places):
    edges = [0, *sorted({min(place, len(data)) for place in places}), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(edges)]


@given(MESSAGES, st.lists(st.integers(0, 5000), max_size=40))
def test_any_chunks_give_the_messages_that_were_sent(sent, places):
    parser = Parser()
    found = [
        one for piece in cut(b"".join(message(*one) for one in sent), places) for one in parser.feed(piece)
    ]
    assert found == sent
    assert parser.begun is None


@given(MESSAGES)
def test_byte_by_byte_a_message_is_there_with_its_last_byte_and_not_before(sent):
    parser = Parser()
    for one in sent[:3]:
        data = message(one.kind, one.payload[:40])
        found = [parser.feed(data[at : at + 1]) for at in range(len(data))]
        assert found == [[]] * (len(data) - 1) + [[Message(one.kind, one.payload[:40])]]


@given(st.binary(max_size=4000), st.lists(st.integers(0, 4000), max_size=20))
def test_any_bytes_are_messages_and_the_beginning_of_one(data, places):
    parser = Parser()
    found = [one for piece in cut(data, places) for one in parser.feed(piece)]
    read = b"".join(message(*one) for one in found)
    assert data.startswith(read)
    rest = data[len(read) :]
    if len(rest) < HEADER_BYTES:
        assert parser.begun is None
    else:
        assert parser.begun == (rest[0], int.from_bytes(rest[1:3], "big"))
        assert len(rest) < HEADER_BYTES + int.from_bytes(rest[1:3], "big")
