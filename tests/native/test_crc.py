"""CRC-32C against the vectors of RFC 3720, its definition bit by bit, and itself in pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callreel.kernels import crc


def by_definition(data):
    total = 0xFFFFFFFF
    for byte in data:
        total ^= byte
        for _ in range(8):
            total = total >> 1 ^ (0x82F63B78 if total & 1 else 0)
    return total ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "total"),
    [  # RFC 3720, appendix B.4, and the usual check value
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_the_vectors_of_the_rfc(data, total):
    assert crc.crc32c(data) == total


@given(st.binary(max_size=300), st.integers(0, 16))
def test_every_length_at_every_alignment_is_as_defined(data, offset):
    shifted = memoryview(bytes(offset) + data)[offset:]
    assert crc.crc32c(shifted) == by_definition(data)


@given(st.binary(max_size=300), st.integers(0, 300))
def test_in_pieces_it_is_as_at_once(data, cut):
    assert crc.crc32c(data[cut:], crc.crc32c(data[:cut])) == crc.crc32c(data)


def test_a_long_piece_is_as_short_ones():
    data = bytes(range(256)) * 400
    total = 0
    for at in range(0, len(data), 1000):
        total = crc.crc32c(data[at : at + 1000], total)
    assert crc.crc32c(data) == total


@pytest.mark.parametrize("wrong", [-1, 1 << 32])
def test_a_sum_so_far_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="32-bit"):
        crc.crc32c(b"", wrong)
