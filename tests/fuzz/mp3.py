"""MP3: any bytes as a file, scanned whole and in pieces, its frames, tags and Xing frames.

Input: how the file is cut (1 byte), then the file.

Accepted: Mp3Error, when there is no frame of MPEG audio layer III in it.
"""

from callreel.errors import Mp3Error
from callreel.kernels import mp3

DICTIONARY = [
    *(
        b"ID3\x03\x00",
        b"ID3\x04\x00",
        b"ID3\x02\x00",
        b"TAG",
        b"APETAGEX",
        b"LYRICSBEGIN",
        b"LYRICSEND",
        b"LYRICS200",
    ),
    *(
        b"TIT2",
        b"TT2\x00",
        b"TXXX",
        b"COMM",
        b"Xing",
        b"Info",
        b"VBRI",
        b"LAME3.100",
        b"Lavf",
        b"\x01\xff\xfe",
    ),
    *(b"\xff\xfb\x90\x00", b"\xff\xf3\x10\xc4", b"\xff\xe3\x18\xc4", b"\xff\xfb\x00\x00"),
]


def run(data: bytes) -> None:
    cut, data = data[:1], data[1:]
    found = list(mp3.frames(data))
    end = 0
    for frame in found:
        assert frame.offset >= end
        assert frame.size_bytes > 0
        end = frame.offset + frame.size_bytes
        assert end <= len(data)
        mp3.xing(data[frame.offset : end])
    mp3.xing(data)
    try:
        info = mp3.scan(data)
    except Mp3Error:
        info = None
        assert not found
    assert info == in_pieces(data, max(16 * cut[0] if cut else 1, len(data) // 64, 1))
    if info is None:
        return
    assert info.mpeg_frames == len(found) - (info.xing is not None)
    assert info.samples == sum(frame.samples for frame in found[info.xing is not None :])
    assert 0 <= info.frames_pcm <= info.samples
    assert info.duration_s >= 0
    assert info.music_bytes + info.junk_bytes <= len(data)
    assert sum(map(len, info.id3.values())) <= 4 * len(data) + 64


def in_pieces(data: bytes, size: int) -> mp3.Info | None:
    scanner = mp3.Scanner()
    for at in range(0, len(data), size):
        scanner.feed(data[at : at + size])
    try:
        return scanner.finish()
    except Mp3Error:
        return None
