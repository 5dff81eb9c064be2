"""WAV: what is written opens everywhere, what is read is true or a WavError."""

import io
import math
import pickle
import re
import shutil
import struct
import subprocess
import tracemalloc
import wave
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import scipy.io.wavfile
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from callreel.errors import WavError
from callreel.kernels import g711, wav

quick = settings(deadline=None, max_examples=60)

SAMPLE_BYTES = {"pcm16": 2, "ulaw": 1, "alaw": 1}
TAGS = {"pcm16": 1, "ulaw": 7, "alaw": 6}


def whole(data: bytes, *, cues: tuple[wav.Cue, ...] = (), **arguments: object) -> bytes:
    """A finished file around `data`, as an embedder would write it."""
    frame_bytes = arguments["channels"] * SAMPLE_BYTES[arguments.get("encoding", "pcm16")]
    tail = wav.trailer(cues=cues, data_bytes=len(data))
    return wav.header(**arguments, frames=len(data) // frame_bytes, trailer_bytes=len(tail)) + data + tail


def walk(file: io.BufferedIOBase, file_bytes: int) -> tuple[wav.Info, list[tuple[int, int]]]:
    """Parse by seeking, and what was read to do it."""
    parser = wav.Parser(file_bytes)
    reads = []
    while parser.wanted is not None:
        offset, size = parser.wanted
        reads.append((offset, size))
        file.seek(offset)
        parser.feed(file.read(size))
    return parser.info, reads


def chunk(ident: bytes, body: bytes, *, size: int | None = None, pad: bool = True, order: str = "<") -> bytes:
    """A chunk made the obvious way, with what may be wrong about it."""
    head = ident + struct.pack(f"{order}I", len(body) if size is None else size)
    return head + body + (b"\0" if pad and len(body) % 2 else b"")


def riff(*chunks: bytes, container: bytes = b"RIFF", size: int | None = None, order: str = "<") -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return container + struct.pack(f"{order}I", len(body) if size is None else size) + body


def fmt(
    tag: int = 1, channels: int = 1, rate: int = 8000, bits: int = 16, *, order: str = "<", extra: bytes = b""
) -> bytes:
    align = channels * ((bits + 7) // 8)
    body = struct.pack(f"{order}HHIIHH", tag, channels, rate, rate * align, align, bits)
    return chunk(b"fmt ", body + extra, order=order)


FMT = fmt()


# ---------------------------------------------------------------------------------------------------- writing

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
infos = st.dictionaries(st.sampled_from(["INAM", "IART", "ICMT", "ICRD", "ISFT", "ZZZZ"]), texts, max_size=4)
ascii_texts = st.text(st.characters(min_codepoint=1, max_codepoint=126), max_size=8)
bexts = st.builds(
    wav.Bext,
    description=ascii_texts,
    originator=ascii_texts,
    originator_reference=ascii_texts,
    origination_date=st.sampled_from(["", "2024-02-29"]),
    origination_time=st.sampled_from(["", "23:59:59"]),
    time_reference=st.integers(0, 2**64 - 1),
    coding_history=ascii_texts,
)
frame_counts = st.one_of(
    st.none(),
    st.integers(0, 1000),
    st.integers(2**31 - 200, 2**31 + 200),
    st.integers(2**32 - 800, 2**33),
    st.just(2**50),
)
kinds = st.fixed_dictionaries(
    {
        "channels": st.integers(1, 5),
        "encoding": st.sampled_from(["pcm16", "ulaw", "alaw"]),
        "info": st.one_of(st.none(), infos),
        "bext": st.one_of(st.none(), bexts),
    }
)
sizes = st.fixed_dictionaries(
    {"sample_rate": st.integers(1, 400_000), "frames": frame_counts, "trailer_bytes": st.integers(0, 5000)}
)


@quick
@given(kinds, sizes, sizes)
def test_a_header_keeps_its_length_whatever_the_frames_rate_and_trailer(kind, before, after) -> None:
    assert len(wav.header(**kind, **before)) == len(wav.header(**kind, **after))


@quick
@given(kinds, sizes, sizes)
@example(
    {"channels": 1, "encoding": "ulaw"},
    {"sample_rate": 8000, "frames": 5},
    {"sample_rate": 8000, "frames": 2**32},
)
@example({"channels": 2}, {"sample_rate": 8000, "frames": 2**31}, {"sample_rate": 8000, "frames": None})
def test_patching_gives_the_whole_header_again(kind, before, after) -> None:
    before = {**before, "sample_rate": after["sample_rate"]}
    patched = wav.patch(
        wav.header(**kind, **before), frames=after["frames"] or 0, trailer_bytes=after.get("trailer_bytes", 0)
    )
    assert patched == wav.header(**kind, **after)


@quick
@given(
    kinds,
    sizes,
    st.integers(0, 99),
    st.lists(st.tuples(st.integers(0, 99), texts, st.integers(0, 99), texts), max_size=5),
)
def test_what_is_written_is_what_is_read(kind, numbers, frames, marks) -> None:
    cues = tuple(wav.Cue(*mark) for mark in marks)
    frame_bytes = kind["channels"] * SAMPLE_BYTES[kind["encoding"]]
    data = bytes(range(1, 100)) * 10
    data = data[: frames * frame_bytes]
    frames = len(data) // frame_bytes
    file = whole(data, cues=cues, sample_rate=numbers["sample_rate"], **kind)
    info = wav.parse(file)
    assert info.warnings == ()
    assert not info.truncated
    assert (info.frames, info.data_bytes, info.channels) == (frames, len(data), kind["channels"])
    assert file[info.data_offset : info.data_offset + info.data_bytes] == data
    assert (info.format_tag, info.sample_rate) == (TAGS[kind["encoding"]], numbers["sample_rate"])
    assert info.info == (kind["info"] or {})
    assert info.bext == kind["bext"]
    assert info.cues == cues
    assert info.duration_s == frames / numbers["sample_rate"]
    assert info.fact_frames == (None if kind["encoding"] == "pcm16" and kind["channels"] <= 2 else frames)
    assert pickle.loads(pickle.dumps(info)) == info


def test_chunks_stand_in_the_documented_order() -> None:
    file = whole(
        bytes(5),
        cues=(wav.Cue(1, "5"),),
        sample_rate=8000,
        channels=1,
        encoding="ulaw",
        info={"title": "x"},
        bext={},
    )
    ids = [found.id for found in wav.parse(file).chunks]
    assert ids == ["JUNK", "fmt ", "fact", "LIST", "bext", "data", "cue ", "LIST"]
    assert file[12:20] == b"JUNK" + struct.pack("<I", 28)


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        ({"channels": 2}, struct.pack("<HHIIHH", 1, 2, 8000, 32000, 4, 16)),
        ({"channels": 2, "encoding": "ulaw"}, struct.pack("<HHIIHHH", 7, 2, 8000, 16000, 2, 8, 0)),
        ({"channels": 1, "encoding": "alaw"}, struct.pack("<HHIIHHH", 6, 1, 8000, 8000, 1, 8, 0)),
        (
            {"channels": 3},
            struct.pack("<HHIIHHHHIIHH", 0xFFFE, 3, 8000, 48000, 6, 16, 22, 16, 0, 1, 0, 16)
            + b"\x80\0\0\xaa\08\x9bq",
        ),
        (
            {"channels": 4, "encoding": "alaw"},
            struct.pack("<HHIIHHHHIIHH", 0xFFFE, 4, 8000, 32000, 4, 8, 22, 8, 0, 6, 0, 16)
            + b"\x80\0\0\xaa\08\x9bq",
        ),
    ],
)
def test_the_format_chunk_is_extensible_only_above_two_channels(arguments, body) -> None:
    file = wav.header(sample_rate=8000, **arguments)
    assert file[48 : 56 + len(body)] == b"fmt " + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    ("channels", "encoding", "expected"),
    [(1, "pcm16", False), (2, "pcm16", False), (3, "pcm16", True), (1, "ulaw", True), (2, "alaw", True)],
)
def test_fact_is_written_unless_the_format_is_plain_pcm(channels, encoding, expected) -> None:
    ids = [
        found.id
        for found in wav.parse(wav.header(sample_rate=8000, channels=channels, encoding=encoding)).chunks
    ]
    assert ("fact" in ids) is expected


def test_unknown_frames_write_the_sizes_of_an_empty_file() -> None:
    assert wav.header(sample_rate=8000, channels=2) == wav.header(sample_rate=8000, channels=2, frames=0)


def test_a_header_without_frames_and_audio_behind_it_is_read_as_far_as_it_goes() -> None:
    info = wav.parse(wav.header(sample_rate=8000, channels=2, info={"title": "growing"}) + b"\1" * 403)
    assert (info.frames, info.data_bytes, info.declared_data_bytes, info.truncated) == (100, 403, 0, True)
    assert any("declares 0 bytes" in warning for warning in info.warnings)


@pytest.mark.parametrize("trailer_bytes", [0, 1, 40, 41])
def test_the_pad_byte_counts_in_the_riff_size_once(trailer_bytes) -> None:
    head = wav.header(sample_rate=8000, channels=1, encoding="ulaw", frames=7, trailer_bytes=trailer_bytes)
    pad_and_rest = trailer_bytes if trailer_bytes % 2 else trailer_bytes + 1
    assert struct.unpack("<I", head[4:8])[0] == len(head) - 8 + 7 + pad_and_rest


def test_rf64_begins_where_the_riff_size_leaves_32_bits() -> None:
    arguments = {"sample_rate": 8000, "channels": 1, "encoding": "ulaw"}
    head_bytes = len(wav.header(**arguments))
    last = 0xFFFFFFFE + 8 - head_bytes  # the frame count at which the RIFF size is 2**32 - 2
    small, large = wav.header(**arguments, frames=last), wav.header(**arguments, frames=last + 1)
    assert struct.unpack("<4sI", small[:8]) == (b"RIFF", 0xFFFFFFFE)
    assert struct.unpack("<4sI", small[12:20]) == (b"JUNK", 28)
    assert struct.unpack("<4sI", large[:8]) == (b"RF64", 0xFFFFFFFF)
    ident, size, *ds64 = struct.unpack("<4sIQQQI", large[12:48])
    assert (ident, size) == (b"ds64", 28)
    assert ds64 == [head_bytes - 8 + last + 2, last + 1, last + 1, 0]  # odd data: one more for the pad
    assert large[-8:] == b"data\xff\xff\xff\xff"
    assert large[large.index(b"fact") + 8 :][:4] == b"\xff\xff\xff\xff"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"channels": 0}, ValueError),
        ({"channels": 32768}, ValueError),
        ({"channels": True}, TypeError),
        ({"channels": 1.0}, TypeError),
        ({"sample_rate": 0}, ValueError),
        ({"sample_rate": 2**32 // 2}, ValueError),
        ({"frames": -1}, ValueError),
        ({"frames": 2**63}, ValueError),
        ({"trailer_bytes": -1}, ValueError),
        ({"encoding": "mp3"}, ValueError),
        ({"info": {"TOOLONG": "x"}}, ValueError),
        ({"info": {"ÄBCD": "x"}}, ValueError),
        ({"info": {"A\0CD": "x"}}, ValueError),
        ({"info": {5: "x"}}, TypeError),
        ({"info": {"INAM": b"x"}}, TypeError),
        ({"info": {"INAM": "a\0b"}}, ValueError),
        ({"info": {"INAM": "\ud800"}}, ValueError),
        ({"info": 5}, TypeError),
        ({"info": {"INAM": "a", "title": "b"}}, ValueError),
        ({"info": {"INAM": "x" * wav.INFO_MAX_BYTES}}, ValueError),
        ({"bext": {"description": "x" * 257}}, ValueError),
        ({"bext": {"originator": "x" * 33}}, ValueError),
        ({"bext": {"originator_reference": "x" * 33}}, ValueError),
        ({"bext": {"origination_date": "2024-1-1"}}, ValueError),
        ({"bext": {"origination_time": "24:00"}}, ValueError),
        ({"bext": {"originator": "Zoë"}}, ValueError),
        ({"bext": {"originator": "a\0b"}}, ValueError),
        ({"bext": {"originator": 5}}, TypeError),
        ({"bext": {"time_reference": 2**64}}, ValueError),
        ({"bext": {"coding_history": "x" * (wav.INFO_MAX_BYTES + 1)}}, ValueError),
        ({"bext": {"author": "x"}}, ValueError),
    ],
)
def test_what_cannot_be_stored_is_refused_not_cut(arguments, error) -> None:
    with pytest.raises(error):
        wav.header(**{"sample_rate": 8000, "channels": 1, **arguments})


def test_friendly_info_names_are_ids() -> None:
    assert wav.header(sample_rate=8000, channels=1, info={"title": "x", "software": "y"}) == wav.header(
        sample_rate=8000, channels=1, info={"INAM": "x", "ISFT": "y"}
    )


def test_without_cues_the_trailer_is_the_pad_alone() -> None:
    assert wav.trailer(cues=(), data_bytes=8) == b""
    assert wav.trailer(cues=(), data_bytes=9) == b"\0"


def test_cues_beyond_32_bits_are_left_out() -> None:
    cues = [
        wav.Cue(2**32, "far"),
        wav.Cue(5, "long", 2**32),
        wav.Cue(7, "here", 2**32 - 1),
        wav.Cue(2**32 - 1),
    ]
    file = whole(b"", cues=tuple(cues), sample_rate=8000, channels=1)
    assert wav.parse(file).cues == (wav.Cue(7, "here", 2**32 - 1), wav.Cue(2**32 - 1))
    assert wav.trailer(cues=cues[:2], data_bytes=1) == b"\0"


def test_the_most_cues_that_are_written_are_read_and_one_more_is_refused() -> None:
    cues = [wav.Cue(frame) for frame in range(wav.CUES_MAX)]
    tail = wav.trailer(cues=cues, data_bytes=0)
    file = wav.header(sample_rate=8000, channels=1, frames=0, trailer_bytes=len(tail)) + tail
    info = wav.parse(file)
    assert info.cues == tuple(cues)
    assert info.warnings == ()
    with pytest.raises(ValueError, match="43691 cues"):
        wav.trailer(cues=[*cues, wav.Cue(0)], data_bytes=0)
    with pytest.raises(ValueError, match="labels"):
        wav.trailer(cues=[wav.Cue(0, "x" * wav.METADATA_MAX_BYTES)], data_bytes=0)


@pytest.mark.parametrize(
    ("cue", "error"),
    [
        (wav.Cue(-1), ValueError),
        (wav.Cue(0, "x", -1), ValueError),
        (wav.Cue(0, "a\0b"), ValueError),
        (wav.Cue(0, note="\0"), ValueError),
        (wav.Cue(0.5), TypeError),
        (wav.Cue(0, b"x"), TypeError),
        ((0, "x"), TypeError),
    ],
)
def test_a_cue_that_is_none_is_refused(cue, error) -> None:
    with pytest.raises(error):
        wav.trailer(cues=[cue], data_bytes=0)


def test_cue_and_adtl_are_laid_out_as_the_1991_text_says() -> None:
    tail = wav.trailer(cues=[wav.Cue(800, "5", 400)], data_bytes=0)
    point = struct.pack("<II4sIII", 1, 800, b"data", 0, 0, 800)
    label = chunk(b"labl", struct.pack("<I", 1) + b"5\0")
    length = chunk(b"ltxt", struct.pack("<II4sHHHH", 1, 400, b"rgn ", 0, 0, 0, 0))
    assert tail == chunk(b"cue ", struct.pack("<I", 1) + point) + chunk(b"LIST", b"adtl" + label + length)


def test_records_are_frozen() -> None:
    info = wav.parse(wav.header(sample_rate=8000, channels=1))
    for record, name in ((info, "frames"), (wav.Cue(0), "frame"), (wav.Bext(), "version")):
        with pytest.raises(AttributeError):
            setattr(record, name, 1)


# ---------------------------------------------------------------------------------------- independent readers

FORMS = [
    pytest.param(({"sample_rate": 8000, "channels": 2}, 801), id="pcm16-stereo"),
    pytest.param(({"sample_rate": 48000, "channels": 1}, 480), id="pcm16-mono"),
    pytest.param(({"sample_rate": 16000, "channels": 5}, 333), id="pcm16-5-channels"),
    pytest.param(({"sample_rate": 8000, "channels": 1, "encoding": "ulaw"}, 801), id="ulaw-odd"),
    pytest.param(({"sample_rate": 8000, "channels": 2, "encoding": "alaw"}, 640), id="alaw-stereo"),
    pytest.param(({"sample_rate": 8000, "channels": 3, "encoding": "ulaw"}, 77), id="ulaw-3-channels"),
]
METADATA = {
    "info": {
        "title": "Anruf für Zoë",
        "artist": "LEG-A",
        "comment": "odd",
        "created": "2024-05-06",
        "software": "callreel",
    },
    "bext": wav.Bext(
        "a call", "callreel", "ref-1", "2024-05-06", "07:08:09", 2**33 + 5, coding_history="A=PCM,F=8000\r\n"
    ),
}
MARKS = (wav.Cue(3, "5"), wav.Cue(20, "pause", 40), wav.Cue(70, "#", note="in-band"))


@pytest.fixture(params=FORMS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict, int, bytes]:
    """A file of ours with all metadata, its arguments, frames, and the PCM a reader should give."""
    arguments, frames = request.param
    encoding = arguments.get("encoding", "pcm16")
    samples = frames * arguments["channels"]
    data = np.random.default_rng(7).integers(0, 256, samples * SAMPLE_BYTES[encoding], np.uint8).tobytes()
    path = tmp_path / "ours.wav"
    path.write_bytes(whole(data, cues=MARKS, **METADATA, **arguments))
    pcm = {"pcm16": bytes, "ulaw": g711.ulaw_decode, "alaw": g711.alaw_decode}[encoding](data)
    return path, arguments, frames, pcm


def test_soundfile_reads_our_files_sample_for_sample(written) -> None:
    path, arguments, frames, pcm = written
    with soundfile.SoundFile(path) as file:
        assert (file.frames, file.channels, file.samplerate) == (
            frames,
            arguments["channels"],
            arguments["sample_rate"],
        )
        assert file.read(dtype="int16").tobytes() == pcm
        assert (file.title, file.artist, file.comment, file.date) == (
            "Anruf für Zoë",
            "LEG-A",
            "odd",
            "2024-05-06",
        )


def test_pyav_reads_our_files_sample_for_sample(written) -> None:
    path, arguments, frames, pcm = written
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.channels, stream.rate) == (
            arguments["channels"],
            arguments["sample_rate"],
        )
        assert stream.duration == frames
        decoded = b"".join(frame.to_ndarray().tobytes() for frame in container.decode(stream))
        assert container.metadata["title"] == "Anruf für Zoë"
        assert container.metadata["time_reference"] == str(2**33 + 5)
        assert container.metadata["coding_history"] == "A=PCM,F=8000\r\n"
        assert (container.metadata["encoded_by"], container.metadata["originator_reference"]) == (
            "callreel",
            "ref-1",
        )
        assert container.metadata["creation_time"] == "07:08:09"
    assert decoded == pcm


def test_sox_counts_our_frames(written) -> None:
    if shutil.which("soxi") is None:
        pytest.skip("sox is not installed")
    path, arguments, frames, _ = written
    for option, expected in (("-s", frames), ("-c", arguments["channels"]), ("-r", arguments["sample_rate"])):
        assert subprocess.run(["soxi", option, path], check=True, capture_output=True).stdout.split() == [
            b"%d" % expected
        ]


@pytest.mark.parametrize("channels", [1, 2])
def test_the_standard_library_reads_our_pcm16(tmp_path, channels) -> None:
    data = bytes(range(200)) * channels
    path = tmp_path / "ours.wav"
    path.write_bytes(whole(data, cues=MARKS, sample_rate=8000, channels=channels, **METADATA))
    with wave.open(str(path)) as file:
        assert (file.getnframes(), file.getnchannels(), file.getframerate()) == (100, channels, 8000)
        assert file.readframes(1000) == data


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_scipy_reads_our_pcm16(tmp_path, channels) -> None:
    data = bytes(range(200)) * channels
    path = tmp_path / "ours.wav"
    path.write_bytes(whole(data, sample_rate=8000, channels=channels, info=METADATA["info"]))
    rate, samples = scipy.io.wavfile.read(path)
    assert rate == 8000
    assert len(samples) == 100
    assert samples.tobytes() == data


def libsndfile(command: int, path: Path, room: int) -> bytes:
    """What libsndfile's sf_command answers for a file."""
    with soundfile.SoundFile(path) as file:
        answer = soundfile._ffi.new("char[]", room)
        assert soundfile._snd.sf_command(file._file, command, answer, room) == 1
        return soundfile._ffi.buffer(answer)[:]


def test_libsndfile_finds_our_cues_with_their_labels(written) -> None:
    point = struct.Struct("<iIiiiI256s")
    answer = libsndfile(
        0x10CE, written[0], 4 + 100 * point.size
    )  # SFC_GET_CUE: a count, then 100 of SF_CUE_POINT
    assert struct.unpack_from("<I", answer)[0] == len(MARKS)
    for number, mark in enumerate(MARKS):
        *_, position, name = point.unpack_from(answer, 4 + number * point.size)
        assert (position, name.split(b"\0")[0].decode()) == (mark.frame, mark.label)


def test_libsndfile_finds_our_bext(written) -> None:
    answer = libsndfile(0x10F0, written[0], 860)  # SFC_GET_BROADCAST_INFO
    assert answer[:6] == b"a call"
    assert answer[256:264] == b"callreel"
    assert answer[320:338] == b"2024-05-0607:08:09"
    assert struct.unpack_from("<IIh", answer, 340) == (5, 2, 1)


@pytest.mark.parametrize(("encoding", "channels"), [("ulaw", 1), ("pcm16", 2)])
def test_a_file_beyond_4_gib_is_rf64_and_opens_elsewhere(tmp_path, encoding, channels) -> None:
    frame_bytes = channels * SAMPLE_BYTES[encoding]
    frames = 4_500_000_001 // frame_bytes
    arguments = {"sample_rate": 8000, "channels": channels, "encoding": encoding}
    tail = wav.trailer(cues=MARKS, data_bytes=frames * frame_bytes)
    head = wav.header(**arguments, **METADATA, frames=frames, trailer_bytes=len(tail))
    path = tmp_path / "large.wav"
    last = b"\x80" * frame_bytes
    with path.open("wb") as file:  # sparse: what is between is a hole
        file.write(head)
        file.seek(len(head) + (frames - 1) * frame_bytes)
        file.write(last + tail)
    try:
        with soundfile.SoundFile(path) as file:
            assert (file.format, file.frames, file.channels) == ("RF64", frames, channels)
            file.seek(frames - 1)
            decoded = {"ulaw": g711.ulaw_decode, "pcm16": bytes}[encoding](last)
            assert file.read(dtype="int16").tobytes() == decoded
        with av.open(str(path)) as container:
            assert container.streams.audio[0].duration == frames
        with path.open("rb") as file:
            info, reads = walk(file, path.stat().st_size)
    finally:
        path.unlink()
    assert info.warnings == ()
    assert (info.container, info.frames, info.cues) == ("RF64", frames, MARKS)
    assert info.fact_frames == (frames if encoding == "ulaw" else None)
    assert info.data_bytes == frames * frame_bytes
    assert sum(size for _, size in reads) < 2000


# -------------------------------------------------------------------------------------------- files of others

# What soxi and ffprobe say of each file, in frames, or the error; the reason where a figure differs.
FILES: dict[str, int | str] = {
    "wav/test-1234Hz-le-1ch-10S-20bit-extra.wav": 10,  # soxi: 12, as if 20 bits were packed
    "wav/test-44100Hz-be-1ch-4bytes.wav": 4410,
    "wav/test-44100Hz-le-1ch-4bytes-early-eof.wav": 236,  # soxi says 4410, as declared; 236 are there
    "wav/test-44100Hz-le-1ch-4bytes-rf64.wav": 4410,
    "wav/test-8000Hz-le-1ch-1byte-ulaw.wav": 9,
    "wav/test-8000Hz-le-2ch-1byteu.wav": 800,
    "wav/test-8000Hz-le-3ch-5S-24bit.wav": 5,
    "wav/test-8000Hz-le-3ch-5S-24bit-rf64.wav": 5,
    "wav/test-48000Hz-2ch-64bit-float-le-wavex.wav": 480,
    "wav/test-44100Hz-le-1ch-4bytes-incomplete-chunk.wav": "no fmt chunk (at byte 12)",
    "wav/hound-pcmwaveformat-16bit-44100Hz-mono.wav": 4,
    "wav/hound-pcmwaveformat-8bit-44100Hz-mono.wav": 4,
    "wav/hound-waveformatex-16bit-44100Hz-stereo.wav": 4,
    "wav/hound-waveformatextensible-24bit-192kHz-mono.wav": 4,
    "wav/hound-waveformatextensible-ieeefloat-44100Hz-mono.wav": 4,
    "wav/hound-nonstandard-01.wav": 1,
    "wav/hound-crash-24728523ef4be15c838293b676f6853e73723bf4.wav": (
        "the fmt chunk is cut off by the end of the file (at byte 20)"
    ),
    "wav/hound-crash-e5471f5b58397287b509db7d026e95f1724454f5.wav": (
        "the fmt chunk declares blocks of 0 bytes (at byte 32)"
    ),
    "wav/hound-oom-48ae4cd061ff8578ad3f23dc87624bd365cf5216.wav": "no fmt chunk (at byte 22)",
    "wav/pluck-pcm8.wav": 3307,
    "wav/pluck-pcm16.wav": 3307,
    "wav/pluck-pcm24.wav": 3307,
    "wav/pluck-pcm32.wav": 3307,
    "wav/goaudio-bwf.wav": 7287,
    "wav/goaudio-listinfo.wav": 88200,
    "wav/goaudio-padded24b.wav": 3713,
    "wav/tinytag-gsm_6_10.wav": 4410,  # soxi: 4480, whole blocks; fact and ffprobe: the last is not full
    "wav/tinytag-riff_extra_zero.wav": 5120,
    "wav/tinytag-mp3_audio.wav": 45205,  # soxi refuses; ffprobe: 1.025 s
    "dtmf/digits.1234.16000hz.wav": 27200,
    "dtmf/digits.1234.44100hz.wav": 74970,
    "dtmf/digits.1234.8000hz.wav": 13600,
    "dtmf/digits.321.unclean.8000hz.wav": 37920,
    "dtmf/dtmf-1.wav": 3998,
    "dtmf/dtmfs-1-9.wav": 59014,
    "dtmf/test_dtmf.wav": 114222,
    "dtmf/tino-0-9-8Khz.wav": 24200,
    "dtmf/tino-123.wav": 2400,
    "dtmf/tino-asterix-8kHz.wav": 8000,
    "dtmf/tino-b-8kHz.wav": 8000,
    "dtmf/tino-complete-sequence-8kHz-old1.wav": 32000,
    "dtmf/tino-complete_44100.wav": 44100,
    "dtmf/tino-one_distorted.wav": 8023,
    "dtmf/tino-seven-8kHz.wav": 8000,
    "dtmf/tino-stereo.wav": 8000,
    "dtmf/tino-whiteNoise.wav": 32000,
    "dtmf/tonedetect-100by100-0123456789psABCD.wav": 19200,
    "dtmf/tonedetect-50by50-radio-0db-0123456789psABCD.wav": 13122,
    "speech/short_nb_voice.wav": 96000,
    "speech/pjsua-input.8.wav": 33627,
    "tones/baresip-busy.wav": 64262,
    "tones/baresip-ringback.wav": 68026,
}
OTHER_THAN_SOXI = {name for name in FILES if re.search("20bit-extra|early-eof|gsm_6_10", name)}


@pytest.mark.parametrize(("name", "expected"), FILES.items())
def test_a_file_has_the_frames_that_other_tools_count(
    test_data: Callable[[str], Path], name, expected
) -> None:
    content = test_data(name).read_bytes()
    if isinstance(expected, str):
        with pytest.raises(WavError) as caught:
            wav.parse(content)
        assert str(caught.value) == expected
        assert caught.value.offset == int(expected.rsplit(" ", 1)[1][:-1])
    else:
        info = wav.parse(content)
        assert info.frames == expected
        if info.format not in ("gsm610", "mp3"):
            assert info.frames == info.data_bytes // info.block_align
        assert info.truncated is ("early-eof" in name)


def test_every_wav_of_the_manifest_has_the_frames_it_says(test_data: Callable[[str], Path]) -> None:
    manifest = test_data("MANIFEST.md")
    folder, seen, wrong = "", 0, {}
    for line in manifest.read_text().splitlines():
        if line.startswith("## "):
            folder = line[3:].strip()
        row = re.match(r"\| ([^|]+\.wav) \|.*soxi (\d+) frames", line)
        if row and f"{folder}/{row[1]}" not in OTHER_THAN_SOXI:
            seen += 1
            frames = wav.parse((manifest.parent / folder / row[1]).read_bytes()).frames
            if frames != int(row[2]):
                wrong[row[1]] = frames
    assert wrong == {}
    assert seen > 100


@pytest.mark.parametrize("name", [name for name, expected in FILES.items() if isinstance(expected, int)])
def test_walking_gives_the_same_as_all_at_once_and_reads_no_sample(
    test_data: Callable[[str], Path], name
) -> None:
    content = test_data(name).read_bytes()
    info, reads = walk(io.BytesIO(content), len(content))
    assert info == wav.parse(memoryview(content))
    for offset, size in reads:
        assert offset + size <= info.data_offset or offset >= info.data_offset + info.data_bytes


def field(test_data: Callable[[str], Path], name: str) -> wav.Info:
    return wav.parse(test_data(f"wav/{name}.wav").read_bytes())


def test_big_endian_riff_is_read(test_data) -> None:
    info = field(test_data, "test-44100Hz-be-1ch-4bytes")
    assert (info.container, info.byte_order, info.format, info.extensible) == ("RIFX", "big", "pcm", True)
    assert (info.sample_rate, info.bits_per_sample, info.fact_frames, info.warnings) == (44100, 32, 4410, ())


def test_float_behind_an_extensible_header_is_float(test_data) -> None:
    info = field(test_data, "test-48000Hz-2ch-64bit-float-le-wavex")
    assert (info.format_tag, info.format, info.extensible, info.bits_per_sample) == (3, "float", True, 64)


def test_rf64_takes_its_sizes_from_ds64(test_data) -> None:
    info = field(test_data, "test-8000Hz-le-3ch-5S-24bit-rf64")
    assert (info.container, info.data_bytes, info.declared_data_bytes, info.warnings) == ("RF64", 45, 45, ())


def test_a_file_that_ends_early_names_every_contradiction(test_data) -> None:
    info = field(test_data, "test-44100Hz-le-1ch-4bytes-early-eof")
    assert (info.data_bytes, info.declared_data_bytes, info.fact_frames) == (944, 17640, 4410)
    assert info.warnings == (
        "the data chunk declares 17640 bytes, the file has 944 from there to its end",
        "the fact chunk says 4410 frames, the data holds 236",
        "the RIFF size says 17708 bytes, the file has 1024",
    )


def test_compressed_formats_are_named(test_data) -> None:
    gsm, mp3 = field(test_data, "tinytag-gsm_6_10"), field(test_data, "tinytag-mp3_audio")
    assert (gsm.format, gsm.format_tag, gsm.data_bytes // gsm.block_align * 320) == ("gsm610", 0x31, 4480)
    assert (mp3.format, mp3.format_tag, mp3.info) == ("mp3", 0x55, {"ISFT": "Lavf61.7.100"})
    assert round(mp3.duration_s, 3) == 1.025
    for info in (gsm, mp3):
        with pytest.raises(WavError, match="no conversion to PCM"):
            wav.to_pcm16(b"", info)


def test_info_texts_are_found_with_zeros_between_them(test_data) -> None:
    info = field(test_data, "tinytag-riff_extra_zero")
    assert (info.info["IART"], info.info["INAM"], info.info["IPRT"]) == ("B.O.S.E.", "Mission Bass", "03")


def test_bext_of_another_maker_is_read(test_data) -> None:
    info = field(test_data, "hound-nonstandard-01")
    assert info.bext == wav.Bext(
        "", "Pro Tools", "eMUV8xD!wolaaaGk", "2017-10-06", "21:23:15", time_reference=275188816, version=0
    )


# -------------------------------------------------------------------------------------------- chunks, by rule


def test_every_chunk_is_listed_with_where_its_id_stands() -> None:
    file = riff(FMT, chunk(b"junk", b"abc"), chunk(b"data", b"\1\2"), chunk(b"zzZ ", b""))
    assert wav.parse(file).chunks == (("fmt ", 12, 16), ("junk", 36, 3), ("data", 48, 2), ("zzZ ", 58, 0))
    assert wav.parse(file).warnings == ()


@pytest.mark.parametrize("size", [14, 15, 16, 17, 18, 20, 40, 41, 99])
def test_a_format_chunk_of_any_size_from_14_is_read(size) -> None:
    body = (struct.pack("<HHIIHH", 1, 2, 8000, 32000, 4, 16) + bytes(99))[:size]
    info = wav.parse(riff(chunk(b"fmt ", body), chunk(b"data", bytes(8))))
    assert (info.channels, info.sample_rate, info.block_align, info.bits_per_sample) == (2, 8000, 4, 16)
    assert (info.frames, info.warnings) == (2, ())


@pytest.mark.parametrize(
    "guid",
    [
        struct.pack("<IHH", 1, 0x0721, 0x11D3) + b"\x86\x44\xc8\xc1\xca\0\0\0",
        struct.pack("<IHH", 0x10001, 0, 16) + b"\x80\0\0\xaa\08\x9bq",
        struct.pack("<IHH", 1, 1, 16) + b"\x80\0\0\xaa\08\x9bq",
        struct.pack("<IHH", 1, 0, 17) + b"\x80\0\0\xaa\08\x9bq",
        struct.pack("<IHH", 1, 0, 16) + b"\x80\0\0\xaa\08\x9br",
    ],
)
def test_a_sub_format_of_another_family_stays_extensible(guid) -> None:
    extra = struct.pack("<HHI", 22, 16, 0) + guid
    fact = chunk(b"fact", struct.pack("<I", 3))
    info = wav.parse(riff(fmt(0xFFFE, extra=extra), fact, chunk(b"data", bytes(8))))
    assert (info.format_tag, info.format, info.extensible, info.frames) == (0xFFFE, "other", True, 3)


@pytest.mark.parametrize(
    ("file", "message", "offset"),
    [
        (b"", "begins with none of", 0),
        (b"RIF", "begins with none of", 0),
        (b"ID3\4" + bytes(40), "begins with none of", 0),
        (b"RIFF\0\0\0\0WAV", "form type", 8),
        (b"RIFF\0\0\0\0AVI LIST", "form type", 8),
        (riff(), "no fmt chunk", 12),
        (riff(chunk(b"data", b"\1\2"), FMT), "before the data", 12),
        (riff(chunk(b"fmt ", bytes(13))), "13 bytes", 20),
        (riff(chunk(b"fmt ", b"")), "0 bytes", 20),
        (riff(chunk(b"fmt ", FMT[8:], size=40)), "cut off", 20),
        (riff(fmt(channels=0)), "0 channels", 22),
        (riff(fmt(rate=0)), "sample rate", 24),
        (riff(fmt(bits=0)), "blocks of 0 bytes", 32),
    ],
)
def test_without_a_usable_format_there_is_an_error_with_its_offset(file, message, offset) -> None:
    with pytest.raises(WavError, match=message) as caught:
        wav.parse(file)
    assert caught.value.offset == offset


@pytest.mark.parametrize("container", [b"RF64", b"BW64"])
def test_64_bit_sizes_count_where_the_32_bit_ones_are_unset(container) -> None:
    rest = FMT + struct.pack("<4sI", b"zzzz", 2**32 - 1) + b"abcd"
    rest += struct.pack("<4sI", b"data", 2**32 - 1) + b"\1\2" * 5 + chunk(b"junk", b"x")
    table = struct.pack("<I4sQ", 1, b"zzzz", 4)
    ds64 = chunk(b"ds64", struct.pack("<QQQ", 4 + 48 + len(rest), 10, 5) + table)
    file = riff(ds64, rest, container=container, size=2**32 - 1)
    info = wav.parse(file)
    assert (info.container, info.frames, info.declared_data_bytes) == (container.decode(), 5, 10)
    assert info.warnings == ()
    assert [found.id for found in info.chunks] == ["ds64", "fmt ", "zzzz", "data", "junk"]


@pytest.mark.parametrize("size", [0, 2**32 - 1, 2**31 - 1, 1000])
def test_a_data_chunk_of_unknown_size_reaches_to_the_end(size) -> None:
    file = riff(FMT, chunk(b"data", bytes(range(100)), size=size), size=36 if size == 0 else 2**32 - 1)
    info = wav.parse(file)
    assert (info.data_bytes, info.frames, info.declared_data_bytes, info.truncated) == (100, 50, size, True)


@pytest.mark.parametrize("audio", [b"\x80\x90" * 50, bytes(100)])
def test_an_empty_data_chunk_with_audio_behind_it_was_never_patched(audio) -> None:
    info = wav.parse(riff(FMT, chunk(b"data", b""), audio))
    assert (info.data_bytes, info.frames, info.declared_data_bytes, info.truncated) == (100, 50, 0, True)


def test_an_empty_data_chunk_with_chunks_behind_it_is_empty() -> None:
    info = wav.parse(riff(FMT, chunk(b"data", b""), chunk(b"LIST", b"INFO" + chunk(b"INAM", b"x\0"))))
    assert (info.data_bytes, info.frames, info.truncated, info.info, info.warnings) == (
        0,
        0,
        False,
        {"INAM": "x"},
        (),
    )


def test_a_file_without_data_chunk_is_known_but_empty_and_truncated() -> None:
    info = wav.parse(riff(FMT))
    assert (info.frames, info.data_bytes, info.data_offset, info.truncated) == (0, 0, 36, True)
    assert info.warnings == ("no data chunk",)


@pytest.mark.parametrize("pad", [True, False])
def test_an_odd_chunk_may_lack_its_pad_byte(pad) -> None:
    file = riff(
        FMT, chunk(b"abcd", b"x", pad=pad), chunk(b"data", b"\1\2\3", pad=pad), chunk(b"LIST", b"INFO")
    )
    info = wav.parse(file)
    assert [found.id for found in info.chunks] == ["fmt ", "abcd", "data", "LIST"]
    assert (info.frames, info.data_bytes) == (1, 3)
    assert sum("pad byte" in warning for warning in info.warnings) == (0 if pad else 2)


def test_a_missing_pad_byte_shows_even_where_the_shifted_id_could_be_one() -> None:
    audio = b"\1\2" * 32  # 64 bytes: with its size, `data` read one byte late is `ata@`
    info = wav.parse(riff(FMT, chunk(b"abcd", b"x", pad=False), chunk(b"data", audio)))
    assert [found.id for found in info.chunks] == ["fmt ", "abcd", "data"]
    assert (info.frames, info.warnings) == (32, ("the pad byte at byte 45 is missing",))


def test_a_pad_byte_need_not_be_zero() -> None:
    file = riff(FMT, chunk(b"abcd", b"x", pad=False) + b"P", chunk(b"data", b"\1\2"))
    assert [found.id for found in wav.parse(file).chunks] == ["fmt ", "abcd", "data"]


def test_zeros_between_chunks_are_stepped_over() -> None:
    info = wav.parse(riff(FMT, bytes(9001), chunk(b"data", b"\1\2"), bytes(6)))
    assert (info.frames, [found.id for found in info.chunks]) == (1, ["fmt ", "data"])
    assert sum("zero bytes" in warning for warning in info.warnings) == 2


def test_zeros_without_end_are_not_searched_for_ever() -> None:
    file = riff(FMT, bytes(3 << 20), chunk(b"data", b"\1\2"))
    info, reads = walk(io.BytesIO(file), len(file))
    assert (info.frames, info.truncated) == (0, True)
    assert sum(size for _, size in reads) < (1 << 20) + 5000


@pytest.mark.parametrize(
    ("fact", "frames", "warnings"), [(None, 960, 0), (900, 900, 0), (961, 960, 1), (2**32 - 1, 960, 1)]
)
def test_blocks_bound_the_frames_of_a_block_codec_and_fact_trims_the_last(fact, frames, warnings) -> None:
    gsm = chunk(b"fmt ", struct.pack("<HHIIHHHH", 0x31, 1, 8000, 1625, 65, 0, 2, 320))
    chunks = [
        gsm,
        *([] if fact is None else [chunk(b"fact", struct.pack("<I", fact))]),
        chunk(b"data", bytes(3 * 65)),
    ]
    info = wav.parse(riff(*chunks))
    assert (info.frames, len(info.warnings)) == (frames, warnings)


def test_of_texts_and_lists_that_come_twice_the_first_counts() -> None:
    def titles(first: bytes, second: bytes) -> bytes:
        return chunk(b"LIST", b"INFO" + chunk(b"INAM", first) + chunk(b"INAM", second))

    file = riff(FMT, titles(b"a\0", b"b\0"), titles(b"c\0", b"d\0"), chunk(b"data", b"\1\2"))
    assert wav.parse(file).info == {"INAM": "a"}


def test_texts_are_utf_8_or_else_latin_1_and_end_at_their_nul() -> None:
    texts = chunk(b"IART", "Zoë".encode()) + chunk(b"INAM", b"Zo\xeb") + chunk(b"ICMT", b"x\0junk")
    info = wav.parse(riff(FMT, chunk(b"LIST", b"INFO" + texts), chunk(b"data", b"\1\2")))
    assert info.info == {"IART": "Zoë", "INAM": "Zoë", "ICMT": "x"}


def test_what_follows_the_riff_chunk_and_is_no_chunk_is_left_out() -> None:
    file = riff(FMT, chunk(b"data", b"\1\2")) + b"more audio than the header knows"
    info = wav.parse(file)
    assert (info.frames, len(info.chunks), info.truncated) == (1, 2, False)
    assert any("are no chunk" in warning for warning in info.warnings)
    assert any("the RIFF size says 46 bytes, the file has 78" in warning for warning in info.warnings)


def test_a_chunk_beyond_the_declared_end_is_still_read() -> None:
    file = riff(FMT, chunk(b"data", b"\1\2"))
    late = wav.parse(file + chunk(b"LIST", b"INFO" + chunk(b"INAM", b"late\0")))
    assert late.info == {"INAM": "late"}


@pytest.mark.parametrize(
    ("file", "warning"),
    [
        (riff(FMT, chunk(b"data", b"\1\2"), size=99), "the RIFF size says 107 bytes, the file has 46"),
        (riff(FMT, chunk(b"data", b"\1\2"), size=0), "the RIFF size is not set"),
        (riff(FMT, chunk(b"data", b"\1\2\3")), "3 bytes of data are no whole number of 2-byte frames"),
        (
            riff(FMT, chunk(b"fact", struct.pack("<I", 9)), chunk(b"data", b"\1\2")),
            "the fact chunk says 9 frames",
        ),
        (riff(FMT, chunk(b"fact", b"x"), chunk(b"data", b"\1\2")), "the fact chunk is too short"),
        (riff(FMT, FMT, chunk(b"data", b"\1\2")), "a second fmt chunk at byte 36"),
        (riff(FMT, chunk(b"data", b"\1\2"), chunk(b"data", b"\3\4")), "a second data chunk at byte 46"),
        (
            riff(FMT, chunk(b"data", b"\1\2"), chunk(b"LIST", b"INFO", size=50)),
            "declares 50 bytes, 4 are there",
        ),
        (riff(FMT, chunk(b"data", b"\1\2"), b"\x80\x81\x82"), "the last 3 bytes, from byte 46, are no chunk"),
        (riff(FMT, chunk(b"data", b"\1\2\3", pad=False)), "the pad byte at byte 47 is missing"),
        (
            riff(FMT[:16] + b"\0\0\0\0" + FMT[20:], chunk(b"data", b"\1\2")),
            "the byte rate says 0, it is 16000",
        ),
        (
            riff(FMT[:20] + b"\3\0" + FMT[22:], chunk(b"data", b"\1\2\3")),
            "a frame has 3 bytes, 1 channels of 16 bits",
        ),
        (riff(FMT, chunk(b"ds64", bytes(28)), chunk(b"data", b"\1\2")), "it has no place there"),
        (riff(FMT, chunk(b"data", b"\1\2"), container=b"RF64"), "RF64 without a ds64 chunk"),
        (riff(FMT, chunk(b"data", b"\1\2"), chunk(b"cue ", b"\5\0\0\0")), "declares 5 points, it holds 0"),
        (riff(FMT, chunk(b"data", b"\1\2"), chunk(b"bext", bytes(400))), "a bext chunk of 400 bytes"),
        (riff(fmt(0x1234), chunk(b"data", b"\1\2")), "no fact chunk"),
        (
            riff(chunk(b"ds64", bytes(20)), FMT, chunk(b"data", b"\1\2"), container=b"RF64"),
            "a ds64 chunk of 20 bytes",
        ),
        (
            riff(
                chunk(b"ds64", struct.pack("<QQQI", 82, 7, 0, 0)),
                FMT,
                chunk(b"data", b"\1\2"),
                container=b"RF64",
            ),
            "ds64 says 7 bytes of data, the data chunk 2",
        ),
    ],
)
def test_each_contradiction_is_named(file, warning) -> None:
    assert any(warning in found for found in wav.parse(file).warnings)


def test_labels_may_come_before_their_cues_and_texts_of_a_range_serve_as_labels() -> None:
    def point(ident: int, frame: int) -> bytes:
        return struct.pack("<II4sIII", ident, 0, b"data", 0, 0, frame)

    def span(ident: int, frames: int, text: bytes) -> bytes:
        return chunk(b"ltxt", struct.pack("<II4sHHHH", ident, frames, b"rgn ", 0, 0, 0, 0) + text)

    labels = (
        chunk(b"labl", b"\7\0\0\0seven\0")
        + chunk(b"note", b"\7\0\0\0caf\xe9")
        + span(9, 50, b"nine")
        + span(7, 8, b"x")
    )
    file = riff(
        FMT,
        chunk(b"LIST", b"adtl" + labels),
        chunk(b"cue ", struct.pack("<I", 3) + point(9, 90) + point(7, 70) + point(1, 10)),
        chunk(b"data", b"\1\2"),
    )
    assert wav.parse(file).cues == (wav.Cue(90, "nine", 50), wav.Cue(70, "seven", 8, "café"), wav.Cue(10))


def test_only_the_beginning_of_a_file_gives_all_but_what_lies_behind_it() -> None:
    file = whole(bytes(5000), cues=MARKS, sample_rate=8000, channels=1, info={"title": "x"})
    info = wav.parse(file[:400], file_bytes=len(file))
    assert (info.frames, info.data_bytes, info.info, info.cues, info.truncated) == (
        2500,
        5000,
        {"INAM": "x"},
        (),
        False,
    )
    assert any("later chunks are unknown" in warning for warning in info.warnings)
    assert wav.parse(file, file_bytes=len(file)).cues == MARKS
    with pytest.raises(ValueError, match="file_bytes"):
        wav.parse(file, file_bytes=10)
    with pytest.raises(WavError, match="no fmt chunk"):
        wav.parse(file[:30], file_bytes=len(file))


# --------------------------------------------------------------------------------------------------- the walk


def test_the_parser_refuses_to_be_fed_wrongly() -> None:
    file = riff(FMT, chunk(b"data", b"\1\2"))
    parser = wav.Parser(len(file))
    assert parser.wanted == (0, 12)
    with pytest.raises(ValueError, match="not over"):
        _ = parser.info
    with pytest.raises(ValueError, match="13 bytes are fed where 12"):
        parser.feed(file[:13])
    with pytest.raises(TypeError):
        parser.feed("RIFF")
    with pytest.raises(TypeError):
        parser.feed(np.zeros(3, np.int32))
    while parser.wanted:
        offset, size = parser.wanted
        parser.feed(bytearray(file[offset : offset + size]))
    assert parser.info.frames == 1
    with pytest.raises(ValueError, match="over"):
        parser.feed(b"")
    parser.close()
    assert parser.info.frames == 1


def test_a_parser_that_failed_keeps_its_error() -> None:
    parser = wav.Parser(40)
    with pytest.raises(WavError):
        parser.feed(b"RIFF\0\0\0\0WAVX")
    assert parser.wanted is None
    with pytest.raises(WavError) as caught:
        _ = parser.info
    assert (str(caught.value), caught.value.offset) == (
        "not a WAV file: its form type is not WAVE (at byte 8)",
        8,
    )


def test_a_file_that_shrinks_while_it_is_walked_ends_where_it_ends() -> None:
    file = whole(bytes(100), sample_rate=8000, channels=1, info={"title": "x" * 40})
    info, _ = walk(io.BytesIO(file[:90]), len(file))
    assert (info.frames, info.truncated) == (0, True)
    assert any("ends at byte 90, earlier than announced" in warning for warning in info.warnings)


@pytest.mark.parametrize(
    ("size", "error"), [(-1, ValueError), (2**63, ValueError), (1.5, TypeError), (None, TypeError)]
)
def test_a_file_size_that_is_none_is_refused(size, error) -> None:
    with pytest.raises(error):
        wav.Parser(size)


def test_metadata_too_large_is_listed_but_not_loaded() -> None:
    large = chunk(b"LIST", b"INFO" + chunk(b"INAM", b"x" * wav.METADATA_MAX_BYTES))
    file = riff(FMT, large, chunk(b"LIST", b"INFO" + chunk(b"IART", b"y\0")), chunk(b"data", b"\1\2"))
    info, reads = walk(io.BytesIO(file), len(file))
    assert info.info == {"IART": "y"}
    assert info.skipped == (("LIST", 36, wav.METADATA_MAX_BYTES + 12),)
    assert sum(size for _, size in reads) < 200


def test_many_large_chunks_are_loaded_up_to_a_total_only() -> None:
    one = chunk(b"LIST", b"INFO" + bytes(1_000_000))
    file = riff(FMT, *[one] * 12, chunk(b"data", b"\1\2"))
    info, reads = walk(io.BytesIO(file), len(file))
    assert (info.frames, len(info.skipped)) == (1, 4)
    assert sum(size for _, size in reads) < wav.METADATA_TOTAL_BYTES + 1000


def test_chunks_cues_and_warnings_are_counted_and_bounded() -> None:
    many = wav.parse(riff(FMT, chunk(b"data", b"\1\2"), chunk(b"fact", b"") * 5000))
    assert len(many.chunks) == wav.CHUNKS_MAX
    assert len(many.warnings) == 101
    points = chunk(b"cue ", struct.pack("<I", 40_000) + bytes(24 * 40_000))
    assert len(wav.parse(riff(FMT, points, points, chunk(b"data", b"\1\2"))).cues) == wav.CUES_READ_MAX


def test_sizes_in_a_file_allocate_nothing() -> None:
    heads = [
        struct.pack("<4sI", ident, 2**32 - 2)
        for ident in (b"LIST", b"cue ", b"bext", b"fact", b"data", b"zzzz")
    ]
    files = [riff(FMT, head, bytes(20)) for head in heads]
    files.append(
        riff(
            chunk(b"ds64", struct.pack("<QQQI", *[2**64 - 1] * 3, 2**32 - 1)),
            FMT,
            heads[0],
            container=b"RF64",
        )
    )
    tracemalloc.start()
    try:
        for file in files:
            assert wav.parse(file, file_bytes=2**62).frames >= 0
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------------------------------------- hostile bytes

VALID = whole(b"\1\2\3\4" * 20 + b"\5", cues=MARKS, sample_rate=8000, channels=1, encoding="ulaw", **METADATA)


def attempt(file: bytes) -> wav.Info | None:
    """Parse and check what must hold of every result."""
    try:
        info = wav.parse(file)
    except WavError as error:
        offset = error.offset
        info = None
    if info is None:
        assert 0 <= offset <= len(file)
        return None
    assert 0 <= info.data_offset <= info.data_offset + info.data_bytes <= len(file)
    assert info.frames >= 0
    assert len(info.warnings) <= 101
    assert len(info.chunks) <= wav.CHUNKS_MAX
    if info.truncated:
        assert info.warnings
    return info


def test_every_truncation_of_a_valid_file_parses_or_is_a_wav_error() -> None:
    complete = wav.parse(VALID)
    for length in range(len(VALID)):
        info = attempt(VALID[:length])
        if info is None:
            assert length < 48 + 8 + 18  # the end of the fmt chunk
            continue
        held = max(0, min(length - complete.data_offset, complete.frames))
        assert info.frames == held
        assert info.truncated is (length < complete.data_offset + complete.frames) or held == complete.frames
        assert info.warnings


@quick
@given(st.binary(max_size=300), st.sampled_from([b"RIFF", b"RIFX", b"RF64", b"BW64", b""]), st.booleans())
def test_arbitrary_bytes_parse_or_are_a_wav_error(junk, container, with_fmt) -> None:
    attempt(container + b"\xff" * 4 * bool(container) + b"WAVE" + (FMT if with_fmt else b"") + junk)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.binary(min_size=1, max_size=8)), max_size=6))
def test_damaged_files_parse_or_are_a_wav_error(damage) -> None:
    file = bytearray(VALID)
    for offset, piece in damage:
        file[offset : offset + len(piece)] = piece
    attempt(bytes(file))


@quick
@given(st.lists(st.tuples(
    st.sampled_from([b"fmt ", b"fact", b"LIST", b"cue ", b"bext", b"ds64", b"data", b"zzzz", b"\0\0\0\0"]),
    st.sampled_from([0, 1, 2, 3, 20, 2**31, 2**32 - 1]),
    st.one_of(st.just(FMT[8:]), st.binary(max_size=60), st.just(b"adtl" + chunk(b"labl", b"\1\0\0\0x")))
), max_size=12), st.sampled_from([b"RIFF", b"RIFX", b"RF64"]))  # fmt: skip
def test_chunks_with_false_sizes_parse_or_are_a_wav_error(parts, container) -> None:
    attempt(riff(FMT, *[chunk(ident, body, size=size) for ident, size, body in parts], container=container))


# ------------------------------------------------------------------------------------------------ sample data


def described(tag: int, bits: int, channels: int = 1, order: str = "<") -> wav.Info:
    container = b"RIFF" if order == "<" else b"RIFX"
    data = chunk(b"data", b"", order=order)
    return wav.parse(riff(fmt(tag, channels, bits=bits, order=order), data, container=container, order=order))


def rounded(values: np.ndarray, drop: int) -> bytes:
    """The nearest 16-bit values after dropping `drop` low bits, halves upwards."""
    return np.minimum((values.astype(np.int64) + (1 << drop >> 1)) >> drop, 32767).astype("<i2").tobytes()


RANDOM = np.random.default_rng(3)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("count", [0, 7, 5000])
def test_integer_samples_become_the_nearest_16_bit_ones(order, count) -> None:
    wide = RANDOM.integers(-(2**31), 2**31, count, np.int64)
    wide[:7] = [-(2**31), 2**31 - 1, 0x7FFF7FFF, 0x7FFF8000, -0x8000, -0x8001, 0x8000][:count]
    s32 = wide.astype(f"{order}i4").tobytes()
    assert wav.to_pcm16(s32, described(1, 32, order=order)) == rounded(wide, 16)
    columns = slice(1, 4) if order == ">" else slice(0, 3)
    s24 = (
        np.frombuffer((wide >> 8).astype(f"{order}i4").tobytes(), np.uint8)
        .reshape(-1, 4)[:, columns]
        .tobytes()
    )
    assert wav.to_pcm16(s24, described(1, 24, order=order)) == rounded(wide >> 8, 8)
    s16 = (wide >> 16).astype(f"{order}i2").tobytes()
    assert wav.to_pcm16(s16, described(1, 16, order=order)) == (wide >> 16).astype("<i2").tobytes()
    u8 = ((wide >> 24) + 128).astype(np.uint8).tobytes()
    assert wav.to_pcm16(u8, described(1, 8, order=order)) == ((wide >> 24) * 256).astype("<i2").tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("count", [11, 5000])
def test_float_samples_are_scaled_by_32768_and_saturate(order, width, count) -> None:
    values = RANDOM.uniform(-1.1, 1.1, count).astype(f"f{width}")
    values[:11] = [
        0,
        1,
        -1,
        0.5,
        math.inf,
        -math.inf,
        math.nan,
        1e30,
        0.5 / 32768,
        -0.5 / 32768,
        -1.5 / 32768,
    ]
    expected = np.floor(np.clip(np.nan_to_num(values.astype("f8"), posinf=2, neginf=-2), -2, 2) * 32768 + 0.5)
    expected = np.clip(expected, -32768, 32767).astype("<i2")
    assert list(expected[:11]) == [0, 32767, -32768, 16384, 32767, -32768, 0, 32767, 1, 0, -1]
    got = wav.to_pcm16(values.astype(f"{order}f{width}").tobytes(), described(3, 8 * width, order=order))
    assert got == expected.tobytes()


@pytest.mark.parametrize("repeats", [1, 20])
def test_g711_samples_are_decoded_as_the_g711_kernel_does(repeats) -> None:
    codes = bytes(range(256)) * repeats
    assert wav.to_pcm16(codes, described(7, 8)) == g711.ulaw_decode(codes)
    assert wav.to_pcm16(codes, described(6, 8, channels=2)) == g711.alaw_decode(codes)


@pytest.mark.parametrize(("tag", "bits"), [(1, 40), (1, 64), (3, 16), (3, 24), (7, 16), (0x55, 16), (2, 8)])
def test_formats_without_conversion_are_a_wav_error(tag, bits) -> None:
    with pytest.raises(WavError, match="no conversion"):
        wav.to_pcm16(b"", described(tag, bits))


def test_only_whole_frames_are_converted() -> None:
    with pytest.raises(ValueError, match="5 bytes are not a whole number of 4-byte frames"):
        wav.to_pcm16(bytes(5), described(1, 16, channels=2))
    with pytest.raises(TypeError):
        wav.to_pcm16(bytes(4), None)


@pytest.mark.parametrize(
    "name",
    [
        "test-1234Hz-le-1ch-10S-20bit-extra",
        "test-44100Hz-be-1ch-4bytes",
        "test-8000Hz-le-2ch-1byteu",
        "test-8000Hz-le-3ch-5S-24bit",
        "test-48000Hz-2ch-64bit-float-le-wavex",
        "test-8000Hz-le-1ch-1byte-ulaw",
        "pluck-pcm8",
        "hound-waveformatextensible-24bit-192kHz-mono",
    ],
)
def test_real_files_convert_to_within_one_step_of_libsndfile(test_data, name) -> None:
    path = test_data(f"wav/{name}.wav")
    content = path.read_bytes()
    info = wav.parse(content)
    pcm = wav.to_pcm16(content[info.data_offset :][: info.frames * info.block_align], info)
    ours = np.frombuffer(pcm, "<i2").reshape(-1, info.channels).astype(int)
    theirs, _ = soundfile.read(path, dtype="float64", always_2d=True)
    assert len(ours) == len(theirs) == info.frames
    assert np.abs(ours - np.clip(theirs * 32768, -32768, 32767)).max() <= 0.5
