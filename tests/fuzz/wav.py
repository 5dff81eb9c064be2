"""WAV: any bytes as a file, read whole and piece by piece, and its samples made PCM.

Accepted: WavError, when there is no RIFF/WAVE head, no usable fmt chunk before the data, or an encoding that is not
converted.
"""

from contextlib import suppress

from callreel.errors import WavError
from callreel.kernels import wav

DICTIONARY = [
    *(
        b"RIFF",
        b"RIFX",
        b"RF64",
        b"BW64",
        b"WAVE",
        b"fmt ",
        b"data",
        b"fact",
        b"LIST",
        b"INFO",
        b"adtl",
        b"bext",
    ),
    *(b"cue ", b"ds64", b"labl", b"note", b"ltxt", b"INAM", b"JUNK", b"\xff\xff\xff\xff", b"\xfe\xff"),
    bytes.fromhex("00001000800000AA00389B71"),
]


def run(data: bytes) -> None:
    try:
        info = wav.parse(data)
    except WavError:
        info = None
    assert info == walked(data)
    beginning(data)
    if info is None:
        return
    assert info.channels > 0
    assert info.sample_rate > 0
    assert info.block_align > 0
    assert 0 <= info.data_offset <= len(data)
    assert 0 <= info.data_bytes <= len(data) - info.data_offset
    assert len(info.chunks) <= wav.CHUNKS_MAX
    assert len(info.cues) <= wav.CUES_READ_MAX
    assert len(info.warnings) <= 101
    whole = info.data_bytes // info.block_align * info.block_align
    try:
        pcm = wav.to_pcm16(data[info.data_offset : info.data_offset + whole], info)
    except WavError:
        return
    assert len(pcm) == 2 * info.channels * (whole // info.block_align)


def walked(data: bytes) -> wav.Info | None:
    """The file read as the engine reads one: only what is asked for."""
    parser = wav.Parser(len(data))
    asked = steps = 0
    try:
        while parser.wanted is not None:
            offset, size = parser.wanted
            assert 0 <= offset <= offset + size <= len(data)
            assert size <= wav.METADATA_MAX_BYTES
            parser.feed(data[offset : offset + size])
            asked += size
            steps += 1
            # A chunk takes three steps at most: its head, its body, zeros behind it; 1 MiB of zeros is passed over.
            assert steps <= 3 * wav.CHUNKS_MAX + 260
            assert asked <= wav.METADATA_TOTAL_BYTES + 4096 * steps
        return parser.info
    except WavError:
        return None


def beginning(data: bytes) -> None:
    """The first bytes of a file that is said to be longer, and one that ends while it is read."""
    with suppress(WavError):
        wav.parse(data, file_bytes=len(data) + 1000)
    parser = wav.Parser(len(data) + 5000)
    with suppress(WavError):
        while parser.wanted is not None:
            offset, size = parser.wanted
            parser.feed(data[offset : offset + size])
