"""MP3 framing: the requirements at the head of callreel/mpeg_frame.h, each by name."""

import array
import contextlib
import importlib.util
import io
import struct
import time
import tracemalloc
from pathlib import Path

import av
import miniaudio
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from callreel.errors import Mp3Error
from callreel.kernels import mp3

_spec = importlib.util.spec_from_file_location("oracle_mp3", Path(__file__).with_name("oracle_mp3.py"))
oracle = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle)

STREAM = oracle.frame() * 10
ID3V1 = (
    b"TAG"
    + b"A title".ljust(30, b"\0")
    + b"Someone".ljust(30, b"\0")
    + bytes(30)
    + b"1999"
    + bytes(30)
    + b"\xff"
)
LYRICS3V1 = b"LYRICSBEGIN" + b"la la la" + b"LYRICSEND"
LYRICS3V2 = b"LYRICSBEGIN" + b"INF00002" + b"10" + b"000021" + b"LYRICS200"


def ape(version=2000, *, with_header=True):
    items = struct.pack("<II", 4, 0) + b"TITLE\0" + b"test"
    flags = 1 << 31 if with_header else 0
    fields = struct.pack("<IIII", version, len(items) + 32, 1, flags)
    header = b"APETAGEX" + struct.pack("<IIII", version, len(items) + 32, 1, flags | 1 << 29) + bytes(8)
    return (header if with_header else b"") + items + b"APETAGEX" + fields + bytes(8)


def id3v2(body, *, major=3, flags=0, footer=False):
    size = bytes(len(body) >> shift & 127 for shift in (21, 14, 7, 0))
    head = bytes([major, 0, flags | (0x10 if footer else 0)]) + size
    return b"ID3" + head + body + (b"3DI" + head if footer else b"")


def text_frame(name, text, *, flags=b"\0\0"):
    return name + struct.pack(">I", len(text)) + flags + text


def offsets(data):
    return [frame.offset for frame in mp3.frames(data)]


# ---- 1. frame lengths ----


@pytest.mark.parametrize("version", ["1", "2", "2.5"])
@pytest.mark.parametrize("padding", [0, 1])
def test_every_rate_and_bit_rate_has_the_length_of_the_standard(version, padding):
    for rate in oracle.RATES[version]:
        for kbps in oracle.bit_rates(version):
            one = oracle.frame(version, rate, kbps, padding=padding)
            found = list(mp3.frames(one * 3))
            assert [frame.size_bytes for frame in found] == [len(one)] * 3
            fields = (0, len(one), version, 3, kbps * 1000, rate, 1, "mono", oracle.samples(version))
            assert found[0] == (*fields, padding == 1, False)


@pytest.mark.parametrize("mode", oracle.MODES)
@pytest.mark.parametrize("crc", [False, True])
def test_mode_and_crc_are_read_from_the_header(mode, crc):
    (first, _) = mp3.frames(oracle.frame(mode=mode, crc=crc) * 2)
    assert (first.mode, first.channels, first.crc) == (mode, 1 if mode == "mono" else 2, crc)


@pytest.mark.parametrize(
    ("name", "bits", "mask"),
    [
        ("version 1 is reserved", 1 << 19, 3 << 19),
        ("layer I", 3 << 17, 3 << 17),
        ("layer II", 2 << 17, 3 << 17),
        ("layer 0 is reserved", 0, 3 << 17),
        ("bit rate 15 is forbidden", 15 << 12, 15 << 12),
        ("sample rate 3 is reserved", 3 << 10, 3 << 10),
        ("a sync bit is missing", 0, 1 << 21),
    ],
)
def test_what_is_no_layer_iii_header_is_no_frame(name, bits, mask):
    one = oracle.frame()
    word = int.from_bytes(one[:4], "big") & ~mask | bits
    assert offsets((word.to_bytes(4, "big") + one[4:]) * 5) == []


def test_header_builds_what_the_walker_reads():
    for version, rates in oracle.RATES.items():
        for rate in rates:
            for kbps in oracle.bit_rates(version):
                assert mp3.header(rate, 2, kbps) == oracle.head(version, rate, kbps)
                assert mp3.header(rate, 1, kbps) == oracle.head(version, rate, kbps, mode="mono")
    assert mp3.header(8000, 2, 32, mode="stereo") == oracle.head("2.5", 8000, 32, mode="stereo")


@pytest.mark.parametrize(
    ("arguments", "mode"),
    [
        ((8001, 1, 16), None), ((8000, 3, 16), None), ((8000, 1, 17), None), ((48000, 1, 8), None),
        ((8000, 1, 0), None), ((8000, 2, 16), "mono"), ((8000, 1, 16), "stereo"), ((8000, 2, 16), "quad"),
    ],
)  # fmt: skip
def test_a_header_that_mpeg_has_no_code_for_is_refused(arguments, mode):
    with pytest.raises(ValueError, match=r"channels|sample rate|kbit/s"):
        mp3.header(*arguments, mode=mode)


# ---- 2. free format ----


@pytest.mark.parametrize(
    ("version", "rate", "kbps"),
    [("1", 44100, 100), ("1", 32000, 640), ("2", 24000, 17), ("2.5", 8000, 13), ("2.5", 8000, 640)],
)
def test_free_format_length_is_the_distance_of_headers(version, rate, kbps):
    base = oracle.frame_bytes(version, rate, kbps * 1000, 0)
    pattern = [0, 1, 1, 0, 1]
    data = b"".join(oracle.free_frame(version, rate, base, padding=padding) for padding in pattern)
    found = list(mp3.frames(data))
    assert [frame.size_bytes for frame in found] == [base + padding for padding in pattern]
    assert {frame.bitrate_bps for frame in found} == {kbps * 1000}
    assert mp3.scan(data).samples == 5 * oracle.samples(version)


def test_free_format_beyond_640_kbit_is_not_searched_for():
    assert offsets(oracle.free_frame("2.5", 8000, 5761) * 4) == []


def test_a_lone_free_format_frame_has_no_length():
    with pytest.raises(Mp3Error):
        mp3.scan(oracle.free_frame("1", 44100, 417))


def test_free_format_ends_at_a_tag():
    data = oracle.free_frame("1", 44100, 326) * 2 + ID3V1
    assert offsets(data) == [0, 326]


# ---- 3. tags ----


@pytest.mark.parametrize("major", [2, 3, 4, 5])
@pytest.mark.parametrize("footer", [False, True])
def test_id3v2_is_stepped_over_with_its_footer(major, footer):
    # A body that looks like frames must not be searched.
    tag = id3v2(STREAM[:1000], major=major, footer=footer)
    info = mp3.scan(tag + STREAM)
    assert (info.first_frame_offset, info.mpeg_frames, info.junk_bytes) == (len(tag), 10, 0)
    assert info.tags == ("ID3v2",)


@pytest.mark.parametrize(
    ("tag", "names"),
    [
        (ID3V1, ("ID3v1",)),
        (ape(), ("APE",)),
        (ape() + ID3V1, ("APE", "ID3v1")),
        (ape(1000, with_header=False), ("APE",)),
        (ape(1000, with_header=False) + ID3V1, ("APE", "ID3v1")),
        (LYRICS3V1 + ID3V1, ("Lyrics3", "ID3v1")),
        (LYRICS3V2 + ID3V1, ("Lyrics3", "ID3v1")),
        (ape() + LYRICS3V2 + ID3V1, ("APE", "Lyrics3", "ID3v1")),
        (id3v2(b"\0" * 50), ("ID3v2",)),
    ],
)
def test_tags_at_the_end_are_neither_frames_nor_junk(tag, names):
    info = mp3.scan(STREAM + tag)
    assert (info.tags, info.mpeg_frames, info.junk_bytes, info.truncated) == (names, 10, 0, False)


@pytest.mark.parametrize("tag", [ID3V1, ape(), LYRICS3V2 + ID3V1, id3v2(bytes(20))])
def test_a_single_frame_counts_when_a_tag_follows(tag):
    assert offsets(oracle.frame() + tag) == [0]


def test_an_apev2_tag_may_stand_at_the_beginning():
    assert offsets(ape() + STREAM)[0] == len(ape())


def test_two_files_in_one_are_walked_through():
    one = id3v2(bytes(30)) + STREAM + ID3V1
    info = mp3.scan(one + one)
    assert (info.mpeg_frames, info.junk_bytes, info.tags) == (20, 0, ("ID3v2", "ID3v1"))


def test_three_letters_are_no_tag_without_an_end_behind():
    data = STREAM + b"TAG" + b"\1" * 200
    info = mp3.scan(data)
    assert (info.tags, info.junk_bytes) == ((), 203)


def test_lyrics_without_an_end_hide_at_most_a_megabyte():
    data = STREAM + b"LYRICSBEGIN" + bytes(1_000_020) + STREAM
    assert mp3.scan(data).mpeg_frames == 20


# ---- 4. junk ----


@given(junk=st.binary(max_size=300).filter(lambda data: b"\xff" not in data and not set(data) & set(b"IATL")))
@settings(deadline=None, max_examples=30)
def test_junk_between_frames_is_counted_and_costs_no_frame(junk):
    info = mp3.scan(junk + STREAM + junk + STREAM)
    assert (info.mpeg_frames, info.junk_bytes, info.first_frame_offset) == (20, 2 * len(junk), len(junk))


def test_a_header_in_junk_counts_only_with_another_behind():
    lone = oracle.frame()[:4] + b"\1" * 200
    assert offsets(lone + STREAM) == [len(lone) + 144 * i for i in range(10)]


def test_another_sample_rate_needs_two_witnesses():
    other = oracle.frame("2.5", 11025, 16)
    assert len(offsets(STREAM + other * 2 + b"\1" * 9 + STREAM)) == 20
    assert len(offsets(STREAM + other * 3 + b"\1" * 9)) == 13
    assert len(offsets(STREAM + other * 4 + STREAM)) == 24
    info = mp3.scan(STREAM + other * 20)
    assert info.warnings == ("mixed sample rates: 8000 Hz, 11025 Hz",)
    assert info.duration_s == pytest.approx(10 * 576 / 8000 + 20 * 576 / 11025)


def test_mono_and_stereo_in_one_stream_are_told():
    info = mp3.scan(STREAM + oracle.frame(mode="stereo") * 3)
    assert (info.channels, info.mpeg_frames, info.warnings) == (1, 13, ("mixed mono and stereo frames",))


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 100, 143])
def test_a_last_frame_cut_short_is_told_and_not_counted(cut):
    info = mp3.scan(STREAM + STREAM[:cut])
    assert (info.mpeg_frames, info.truncated, info.junk_bytes) == (10, True, 0)
    assert info.warnings == ("the MPEG frame at byte 1440 is cut short",)


def test_a_frame_cut_short_by_a_tag_ends_there():
    info = mp3.scan(STREAM + STREAM[:50] + ID3V1)
    assert (info.mpeg_frames, info.truncated, info.tags, info.junk_bytes) == (10, True, ("ID3v1",), 0)


# ---- scan ----


def test_a_stream_without_an_info_frame_is_as_long_as_its_frames():
    info = mp3.scan(STREAM)
    assert (info.samples, info.frames_pcm, info.duration_s) == (5760, 5760, 0.72)
    assert (info.encoder_delay_samples, info.padding_samples, info.xing) == (None, None, None)
    assert (info.bitrate_min_bps, info.bitrate_avg_bps, info.bitrate_max_bps, info.vbr) == (16000,) * 3 + (
        False,
    )
    assert info.music_crc == oracle.crc16(STREAM)


def test_variable_bit_rate_is_what_the_frames_have():
    info = mp3.scan(oracle.frame(kbps=8) * 5 + oracle.frame(kbps=24) * 5)
    assert (info.bitrate_min_bps, info.bitrate_avg_bps, info.bitrate_max_bps, info.vbr) == (
        8000,
        16000,
        24000,
        True,
    )


def test_the_info_frame_is_no_music():
    info_frame = mp3.info_frame(STREAM, mpeg_frames=10, encoder_delay_samples=576, padding_samples=700)
    info = mp3.scan(info_frame + STREAM)
    assert (info.mpeg_frames, info.samples, info.frames_pcm) == (10, 5760, 5760 - 576 - 700)
    assert info.duration_s == pytest.approx(info.frames_pcm / 8000)
    assert info.warnings == ()


def test_every_disagreement_of_the_info_frame_is_told():
    frame = bytearray(
        mp3.info_frame(
            STREAM,
            mpeg_frames=11,
            total_bytes=1,
            encoder_delay_samples=4000,
            padding_samples=4000,
            music_crc=1,
        )
    )
    frame[13 + 16 + 10] ^= (
        1  # the lowpass: behind header, side information, two counts and the encoder's name
    )
    info = mp3.scan(bytes(frame) + STREAM)
    assert info.warnings == (
        "Info frame: 11 MPEG frames, the file holds 10",
        f"Info frame: 1 bytes, the file holds {len(frame) + len(STREAM)}",
        "Info frame: its own CRC is wrong",
        "Info frame: the CRC of the music is wrong",
        "8000 samples of delay and padding, the file holds 5760",
    )
    assert (info.frames_pcm, info.duration_s) == (0, 0.0)


@pytest.mark.parametrize("data", [b"", b"\xff", b"RIFF" + bytes(500), bytes(1000), oracle.frame()[:-1]])
def test_no_frame_at_all_is_an_error(data):
    assert list(mp3.frames(data)) == []
    with pytest.raises(Mp3Error, match="no MPEG audio layer III frame") as caught:
        mp3.scan(data)
    assert caught.value.offset == 0


def test_the_error_says_where_audio_was_looked_for():
    with pytest.raises(Mp3Error) as caught:
        mp3.scan(id3v2(bytes(90)) + bytes(400))
    assert caught.value.offset == 100


def test_a_tag_that_runs_past_the_end_is_an_error_or_a_warning():
    tag = id3v2(bytes(300))[:-1]
    with pytest.raises(Mp3Error, match="ID3v2 tag of 310 bytes at byte 0 runs past the end"):
        mp3.scan(tag)
    assert mp3.scan(STREAM + tag).warnings == ("ID3v2 tag of 310 bytes at byte 1440 runs past the end",)


def test_arguments_of_the_wrong_kind_are_refused():
    pcm = array.array("h", [0, 0])
    for call in (mp3.scan, mp3.frames, mp3.xing, mp3.crc16, mp3.Scanner().feed):
        with pytest.raises(TypeError):
            call(pcm)
        with pytest.raises(TypeError):
            call("text")
    with pytest.raises(ValueError, match="offset=-1"):
        mp3.frames(STREAM, -1)


def test_frames_begin_at_the_offset_asked_for():
    assert [frame.offset for frame in mp3.frames(STREAM, 144 * 7)] == [1008, 1152, 1296]
    assert list(mp3.frames(STREAM, len(STREAM))) == list(mp3.frames(STREAM, 1 << 70)) == []


def test_a_buffer_that_shrinks_under_the_iterator_ends_it():
    data = bytearray(STREAM * 20)
    iterator = mp3.frames(data)
    assert next(iterator).offset == 0
    data.clear()  # the iterator holds no borrowed buffer
    assert len(list(iterator)) == 63  # the batch it had found


def test_any_contiguous_buffer_of_bytes_is_taken():
    for data in (bytearray(STREAM), memoryview(STREAM), memoryview(b"x" + STREAM)[1:]):
        assert mp3.scan(data) == mp3.scan(STREAM)


def test_a_finished_scanner_is_closed():
    scanner = mp3.Scanner()
    scanner.feed(STREAM)
    assert scanner.finish() == mp3.scan(STREAM)
    for call in (scanner.finish, lambda: scanner.feed(b"")):
        with pytest.raises(RuntimeError, match="finished"):
            call()


# ---- 5. time and memory, 7. pieces ----

_HOSTILE = {
    "sync bytes": b"\xff\xfb",
    "headers everywhere": b"\xff\xfb\x90\x00",
    "free format everywhere": b"\xff\xfb\x00\x00",
    "free format of every rate": b"".join(
        oracle.head(version, rate, 0, mode=mode, crc=crc, padding=padding)
        for version, rates in oracle.RATES.items()
        for rate in rates
        for mode in ("mono", "stereo")
        for crc in (False, True)
        for padding in (0, 1)
    ),
    "free format in bursts": b"".join(
        oracle.head(version, rate, 0, padding=padding) * 13
        for version, rates in oracle.RATES.items()
        for rate in rates
        for padding in (0, 1)
    )
    + b"\xff" * 4800,
    "ones": b"\xff",
    "empty ID3 tags": id3v2(b""),
    "huge ID3 tags": b"ID3\x03\x00\x00\x7f\x7f\x7f\x7f",
    "APE footers": b"APETAGEX" + bytes(24),
    "lyrics": b"LYRICSBEGIN",
    "tag letters": b"TAG",
    "frames of different rates": oracle.frame("2.5", 8000) + oracle.frame("2.5", 11025),
    "frames that end in nothing": oracle.frame(kbps=8) * 2 + b"LATI",
}


@pytest.mark.parametrize("name", _HOSTILE)
def test_a_hostile_megabyte_takes_less_than_a_second(name):
    pattern = _HOSTILE[name]
    data = pattern * ((1 << 20) // len(pattern))
    began = time.perf_counter()
    with contextlib.suppress(Mp3Error):
        mp3.scan(data)
    sum(1 for _ in mp3.frames(data))
    assert time.perf_counter() - began < 1.0


def test_hostile_id3_text_is_read_in_linear_time():
    bodies = {
        "tiny frames": text_frame(b"TIT2", b"") * 100_000,
        "one huge text": text_frame(b"TIT2", b"\x03" + b"a\0" * 500_000),
        "unsynchronised": b"\xff\x00" * 500_000,
    }
    for name, body in bodies.items():
        began = time.perf_counter()
        mp3.scan(id3v2(body, flags=0x80 if name == "unsynchronised" else 0) + STREAM)
        assert time.perf_counter() - began < 1.0, name


def test_a_file_of_any_size_is_scanned_in_flat_memory():
    piece = STREAM * 500
    scanner = mp3.Scanner()
    tracemalloc.start()
    try:
        scanner.feed(b"ID3\x03\x00\x00" + bytes([2, 0, 0, 0]))  # a tag of 4 MiB
        for _ in range(64):
            scanner.feed(bytes(1 << 16))
        for _ in range(20):
            scanner.feed(piece)
        info = scanner.finish()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert info.mpeg_frames == 20 * 5000
    assert peak_bytes < 4 << 20  # at most 1 MiB of the tag is kept, and a piece or two


def _outcome(data, pieces=None):
    try:
        if pieces is None:
            return mp3.scan(data)
        scanner = mp3.Scanner()
        at = 0
        for size in pieces:
            scanner.feed(data[at : at + size])
            at += size
        scanner.feed(data[at:])
        return scanner.finish()
    except Mp3Error as error:
        return str(error), error.offset


_parts = st.one_of(
    st.sampled_from(
        [
            STREAM,
            STREAM[:-60],
            oracle.frame("1", 44100, 128) * 5,
            oracle.free_frame("2.5", 8000, 5000) * 4,
            oracle.free_frame("1", 44100, 326) * 4,
            mp3.info_frame(STREAM, mpeg_frames=10, encoder_delay_samples=576, padding_samples=600),
            ID3V1,
            ape(),
            ape(1000, with_header=False),
            LYRICS3V1,
            LYRICS3V2,
            b"LYRICSBEGIN",
            id3v2(text_frame(b"TIT2", b"\x03title") + bytes(9)),
            id3v2(bytes(40_000)),
            bytes(20_000),
        ]
    ),
    st.binary(max_size=40),
)


@given(parts=st.lists(_parts, max_size=8), pieces=st.lists(st.integers(0, 40_000), max_size=8))
@settings(deadline=None, max_examples=150)
def test_every_cutting_into_pieces_gives_the_same_result(parts, pieces):
    data = b"".join(parts)
    assert _outcome(data, pieces) == _outcome(data)


def test_byte_by_byte_gives_the_same_result():
    data = id3v2(bytes(300)) + STREAM + bytes(100) + STREAM * 15 + ape() + ID3V1
    assert _outcome(data, [1] * len(data)) == _outcome(data)


@given(data=st.binary(max_size=3000))
@settings(deadline=None, max_examples=100)
def test_arbitrary_bytes_are_an_info_or_an_mp3_error(data):
    _outcome(data)
    assert sum(frame.size_bytes for frame in mp3.frames(data)) <= len(data)


# ---- 6. Xing, Info, VBRI ----


def test_crc16_is_the_one_lame_uses():
    assert mp3.crc16(b"123456789") == 0xBB3D  # the check value published for this CRC (CRC-16/ARC)
    assert mp3.crc16(b"") == 0
    assert mp3.crc16(b"", 0x1234) == 0x1234
    with pytest.raises(ValueError, match="crc="):
        mp3.crc16(b"", 65536)


@given(data=st.binary(max_size=400), cut=st.integers(0, 400))
@settings(deadline=None, max_examples=50)
def test_crc16_goes_on_where_it_stopped(data, cut):
    assert mp3.crc16(data[cut:], mp3.crc16(data[:cut])) == mp3.crc16(data) == oracle.crc16(data)


def test_the_info_frame_fits_at_every_rate_and_its_length_depends_on_the_format_alone():
    for version, rates in oracle.RATES.items():
        for rate in rates:
            for kbps in (0, *oracle.bit_rates(version)):
                for mode in oracle.MODES:
                    head = oracle.head(version, rate, kbps, mode=mode, padding=1, crc=True)
                    bare = mp3.info_frame(head)
                    full = mp3.info_frame(
                        head,
                        vbr=True,
                        mpeg_frames=(1 << 32) - 1,
                        total_bytes=(1 << 32) - 1,
                        seek_table=range(100),
                        quality=100,
                        encoder_delay_samples=4095,
                        padding_samples=4095,
                        music_crc=0xFFFF,
                        lowpass_hz=25500,
                    )
                    assert len(bare) == len(full)
                    (found,) = mp3.frames(full)
                    assert (found.size_bytes, found.crc, found.padding) == (len(full), False, False)
                    assert (found.sample_rate, found.mode) == (rate, mode)
                    side_bytes = (
                        (17 if mode == "mono" else 32) if version == "1" else (9 if mode == "mono" else 17)
                    )
                    assert full[4 : 4 + side_bytes] == bytes(side_bytes)  # silence for those who know no Xing
                    assert found.bitrate_bps >= kbps * 1000
                    # No larger than it must be.
                    smaller = [k for k in oracle.bit_rates(version) if kbps <= k < found.bitrate_bps // 1000]
                    needed_bytes = 4 + side_bytes + 156
                    assert all(oracle.frame_bytes(version, rate, k * 1000, 0) < needed_bytes for k in smaller)


@given(
    mpeg_frames=st.none() | st.integers(0, (1 << 32) - 1),
    total_bytes=st.none() | st.integers(1, (1 << 32) - 1),
    table=st.none() | st.lists(st.integers(0, 255), min_size=100, max_size=100),
    quality=st.none() | st.integers(0, 100),
    encoder=st.text("LAME3.109", min_size=1, max_size=9).filter(lambda text: text[0] != "."),
    delay=st.integers(0, 4095),
    padding=st.integers(0, 4095),
    lowpass=st.integers(0, 255),
    crc=st.integers(0, 65535),
    vbr=st.booleans(),
    method=st.integers(0, 15),
)
@settings(deadline=None, max_examples=100)
def test_what_info_frame_writes_xing_reads(
    mpeg_frames, total_bytes, table, quality, encoder, delay, padding, lowpass, crc, vbr, method
):
    frame = mp3.info_frame(
        STREAM,
        vbr=vbr,
        mpeg_frames=mpeg_frames,
        total_bytes=total_bytes,
        seek_table=table,
        quality=quality,
        encoder=encoder,
        vbr_method=method,
        lowpass_hz=lowpass * 100,
        encoder_delay_samples=delay,
        padding_samples=padding,
        music_crc=crc,
    )
    said = mp3.xing(frame)
    if encoder[:6] == "LAME3." and encoder[6:7] in ("3", "4"):  # a version too old to have these fields
        assert said.encoder is None
        return
    assert said == mp3.Xing(
        kind="Xing" if vbr else "Info",
        mpeg_frames=mpeg_frames,
        total_bytes=total_bytes,
        seek_table=None if table is None else tuple(table),
        quality=quality,
        encoder=encoder,
        vbr_method=method,
        lowpass_hz=lowpass * 100,
        peak=0.0,
        radio_gain_db=None,
        audiophile_gain_db=None,
        bitrate_kbps=16,
        encoder_delay_samples=delay,
        padding_samples=padding,
        music_bytes=total_bytes or 0,
        music_crc=crc,
        music_crc_ok=None,
        tag_crc=said.tag_crc,
        tag_crc_ok=True,
    )
    absent = (
        4 * (mpeg_frames is None) + 4 * (total_bytes is None) + 100 * (table is None) + 4 * (quality is None)
    )
    covered = 4 + 9 + 154 - absent
    assert (
        said.tag_crc == oracle.crc16(frame[:covered]) == int.from_bytes(frame[covered : covered + 2], "big")
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"mpeg_frames": 1 << 32}, {"mpeg_frames": -1}, {"total_bytes": 1 << 32}, {"music_bytes": 1 << 32},
        {"seek_table": [0] * 99}, {"seek_table": [256] * 100}, {"quality": 101}, {"music_crc": 65536},
        {"encoder": "0123456789"}, {"encoder": ""}, {"encoder": "é"}, {"encoder": "-"}, {"vbr_method": 16},
        {"encoder_delay_samples": 4096}, {"padding_samples": 4096}, {"padding_samples": -1},
        {"lowpass_hz": 25600},
    ],
)  # fmt: skip
def test_what_has_no_room_in_the_info_frame_is_refused(wrong):
    with pytest.raises(ValueError, match=r"\S"):
        mp3.info_frame(STREAM, **wrong)


@pytest.mark.parametrize("header", [b"", b"\xff\xe3", b"RIFF"])
def test_a_template_that_is_no_header_is_refused(header):
    with pytest.raises(ValueError, match="header="):
        mp3.info_frame(header)


def test_the_info_frame_is_found_behind_a_crc_and_where_careless_writers_put_it():
    plain = mp3.info_frame(oracle.head("1", 44100, 128), mpeg_frames=7)
    protected = oracle.head("1", 44100, 128, crc=True)
    careful = protected + b"\x12\x34" + plain[4:-2]
    careless = protected + plain[4:]
    assert mp3.xing(careful).mpeg_frames == mp3.xing(careless).mpeg_frames == 7


def test_a_field_the_frame_is_too_short_for_is_not_there():
    frame = mp3.info_frame(STREAM, mpeg_frames=1, total_bytes=2, seek_table=range(100), quality=3)
    seen = set()
    for size in range(len(frame)):
        said = mp3.xing(frame[:size])
        if said is not None:
            fields = (said.mpeg_frames, said.total_bytes, said.seek_table, said.quality, said.encoder)
            present = tuple(field is not None for field in fields)
            assert list(present) == sorted(present, reverse=True)
            seen.add(sum(present))
    assert seen == {0, 1, 2, 3, 4, 5}


def test_lame_before_3_90_has_a_longer_version_and_no_delay():
    frame = bytearray(mp3.info_frame(STREAM, encoder_delay_samples=576))
    frame[21:41] = b"LAME3.88 (alpha 1)  "
    said = mp3.xing(frame)
    assert (said.kind, said.encoder, said.encoder_delay_samples) == ("Info", None, None)


def test_a_delay_by_an_unknown_writer_is_believed_only_with_a_right_crc():
    frame = bytearray(mp3.info_frame(STREAM, encoder="XYZ1", encoder_delay_samples=576))
    assert mp3.xing(frame).encoder_delay_samples == 576
    frame[21 + 10] ^= 1
    assert mp3.xing(frame).encoder_delay_samples is None


def test_replay_gain_and_peak_are_read():
    frame = bytearray(mp3.info_frame(STREAM))
    frame[21 + 11 : 21 + 15] = struct.pack(">I", 1 << 22)  # half of full scale
    frame[21 + 15 : 21 + 17] = struct.pack(
        ">H", 1 << 13 | 3 << 10 | 1 << 9 | 65
    )  # radio, automatic, minus 6.5 dB
    frame[21 + 17 : 21 + 19] = struct.pack(">H", 2 << 13 | 3 << 10 | 12)
    said = mp3.xing(frame)
    assert (said.peak, said.radio_gain_db, said.audiophile_gain_db) == (0.5, -6.5, 1.2)


def test_a_vbri_frame_is_read_and_is_no_music():
    vbri = b"VBRI" + struct.pack(">HHHIIHHHH", 1, 0, 75, 1440 + 417, 10, 0, 1, 2, 1)
    one = oracle.frame("1", 44100, 128)
    frame = one[:36] + vbri + one[36 + len(vbri) :]
    assert mp3.xing(frame)[:5] == ("VBRI", 10, 1857, None, 75)
    info = mp3.scan(frame + one * 10)
    assert (info.mpeg_frames, info.vbr, info.frames_pcm) == (10, True, 11520)


def test_a_frame_of_music_is_no_xing_frame():
    assert mp3.xing(oracle.frame()) is None
    assert mp3.xing(b"") is None
    assert mp3.xing(b"Xing") is None


@given(frame=st.binary(max_size=300), at=st.integers(0, 60))
@settings(deadline=None, max_examples=100)
def test_xing_reads_any_bytes(frame, at):
    head = STREAM[:4] + frame[:at] + b"Xing" + frame[at:]
    assert mp3.xing(head) is None or mp3.xing(head).kind in ("Xing", "Info", "VBRI")


# ---- seek table ----


@given(sizes=st.lists(st.integers(24, 1441), min_size=1, max_size=512), lead=st.integers(0, 500))
@settings(deadline=None, max_examples=60)
def test_up_to_512_frames_the_seek_table_is_exact(sizes, lead):
    positions = [lead + sum(sizes[:i]) for i in range(len(sizes))]
    total = lead + sum(sizes)
    assert mp3.seek_table(positions, total) == oracle.seek_table(positions, total)


@given(frames=st.integers(513, 5000), step=st.integers(24, 1441))
@settings(deadline=None, max_examples=30)
def test_beyond_512_frames_a_constant_bit_rate_is_still_exact(frames, step):
    positions = [200 + i * step for i in range(frames)]
    total = 200 + frames * step
    assert mp3.seek_table(positions, total) == oracle.seek_table(positions, total)


def test_beyond_512_frames_a_variable_bit_rate_is_right_to_a_256th_of_the_frames():
    sizes = [72 + 1300 * ((i // 700) % 2) for i in range(20_000)]
    positions = [0]
    for size in sizes:
        positions.append(positions[-1] + size)
    total = positions.pop()
    table = mp3.seek_table(positions, total)
    for i in range(1, 100):
        nearest = len(positions) * i // 100
        low = positions[max(0, nearest - len(positions) // 256)]
        high = positions[min(len(positions) - 1, nearest + len(positions) // 256)]
        assert 256 * low // total <= table[i] <= 256 * high // total
    assert table == sorted(table)


def test_a_seek_table_of_nothing_or_of_nonsense():
    assert mp3.seek_table([], 0) == mp3.seek_table([], 100) == [0] * 100
    for positions, total in (([5, 4], 10), ([11], 10), ([-1], 10), ([], 1 << 40), ([0], -1)):
        with pytest.raises(ValueError, match=r"\S"):
            mp3.seek_table(positions, total)


def test_the_scanner_gives_the_same_seek_table():
    data = oracle.frame(kbps=8) * 300 + oracle.frame(kbps=24) * 100
    positions = [216 + frame.offset for frame in mp3.frames(data)]
    scanner = mp3.Scanner()
    scanner.feed(data)
    scanner.finish()
    assert scanner.seek_table(216 + len(data), 216) == mp3.seek_table(positions, 216 + len(data))
    with pytest.raises(ValueError, match="bytes fed"):
        scanner.seek_table(100)


# ---- ID3 ----

TAGS = {
    "TIT2": "Call 4711",
    "TPE1": "Zoë",
    "TDRC": "2024-05-01T10:00:00",
    "TXXX:call_id": "日本-42",
    "TLEN": "1250",
}


def test_the_tags_written_are_the_tags_read():
    data = mp3.id3(TAGS) + STREAM
    assert mp3.scan(data).id3 == TAGS


def test_another_reader_finds_the_tags_too():
    with av.open(io.BytesIO(mp3.id3(TAGS, 100) + STREAM * 3), format="mp3") as container:
        metadata = container.metadata
    assert (metadata["title"], metadata["artist"], metadata["call_id"]) == ("Call 4711", "Zoë", "日本-42")


def test_a_tag_can_be_padded_by_or_to_a_number_of_bytes():
    bare = mp3.id3(TAGS)
    assert len(mp3.id3(TAGS, 33)) == len(bare) + 33
    for size in (len(bare), len(bare) + 1, 4096):
        tag = mp3.id3(TAGS, size_bytes=size)
        assert len(tag) == size
        info = mp3.scan(tag + STREAM)
        assert (info.id3, info.first_frame_offset, info.junk_bytes) == (TAGS, size, 0)
    with pytest.raises(ValueError, match="needs"):
        mp3.id3(TAGS, size_bytes=len(bare) - 1)
    with pytest.raises(ValueError, match="exclude"):
        mp3.id3(TAGS, 1, size_bytes=4096)


@pytest.mark.parametrize(
    "key", ["", "TIT", "tit2", "TIT22", "COMM", "TXXX", "TXXX:", "APIC", "TI 2", "TXXX:a\0b"]
)
def test_a_key_that_is_no_text_frame_is_refused(key):
    with pytest.raises(ValueError, match=r"text frame|NUL"):
        mp3.id3({key: "value"})


def test_values_that_cannot_be_written_are_refused():
    with pytest.raises(ValueError, match="NUL"):
        mp3.id3({"TIT2": "a\0b"})
    with pytest.raises(ValueError, match="at least one"):
        mp3.id3({})
    with pytest.raises(TypeError):
        mp3.id3({"TLEN": 5})
    with pytest.raises(ValueError, match="tag size"):
        mp3.id3({"TLEN": "5"}, (1 << 28) - 1)


@pytest.mark.parametrize(
    ("major", "body", "texts"),
    [
        (3, text_frame(b"TIT2", b"\x00Caf\xe9"), {"TIT2": "Café"}),
        (3, text_frame(b"TIT2", b"\x01" + "日本".encode("utf-16")), {"TIT2": "日本"}),
        (3, text_frame(b"TIT2", b"\x01\xfe\xff" + "日本".encode("utf-16-be")), {"TIT2": "日本"}),
        (3, text_frame(b"TIT2", b"\x01" + "日本".encode("utf-16-le")), {"TIT2": "日本"}),
        (4, text_frame(b"TIT2", b"\x02" + "日本".encode("utf-16-be")), {"TIT2": "日本"}),
        (4, text_frame(b"TIT2", b"\x03" + "日本".encode()), {"TIT2": "日本"}),
        (4, text_frame(b"TPE1", b"\x03one\0two\0"), {"TPE1": "one/two"}),
        (4, text_frame(b"TXXX", b"\x03who\0me"), {"TXXX:who": "me"}),
        (
            3,
            text_frame(b"TXXX", b"\x01" + "who\0".encode("utf-16") + "me".encode("utf-16")),
            {"TXXX:who": "me"},
        ),
        (3, text_frame(b"TXXX", b"\x01" + "who\0".encode("utf-16") + b"\xfe\xff\0m\0e"), {"TXXX:who": "me"}),
        (3, text_frame(b"TIT2", b"\x00one") + text_frame(b"TIT2", b"\x00two"), {"TIT2": "one"}),
        (3, text_frame(b"APIC", bytes(500)) + text_frame(b"TIT2", b"\x00t") + bytes(20), {"TIT2": "t"}),
        (3, text_frame(b"TIT2", b"\x09t") + text_frame(b"TPE1", b""), {}),
        (3, text_frame(b"TXXX", b"\x00no value"), {}),
        (3, text_frame(b"TIT2", b"\x00t", flags=b"\0\x80"), {}),  # compressed
        (3, text_frame(b"TIT2", b"G\x00t", flags=b"\0\x20"), {"TIT2": "t"}),  # in a group
        (4, text_frame(b"TIT2", b"G\0\0\0\2\x03t", flags=b"\0\x41"), {"TIT2": "t"}),  # group and data length
        (4, text_frame(b"TIT2", b"\x01\xff\x00\xfet\0", flags=b"\0\x02"), {"TIT2": "t"}),  # unsynchronised
        (4, text_frame(b"TIT2", b"\x03t", flags=b"\0\x04"), {}),  # encrypted
        (2, b"TT2\0\0\2\0t" + b"TXX\0\0\4\0a\0b" + b"TZZ\0\0\2\0x", {"TIT2": "t", "TXXX:a": "b"}),
        (5, b"whatever", {}),
    ],
)
def test_text_frames_of_every_version_and_encoding_are_read(major, body, texts):
    assert mp3.scan(id3v2(body, major=major) + STREAM).id3 == texts


def test_an_unsynchronised_tag_is_read():
    body = text_frame(b"TIT2", b"\x01\xff\xfet\0").replace(b"\xff", b"\xff\x00")
    assert mp3.scan(id3v2(body, flags=0x80) + STREAM).id3 == {"TIT2": "t"}


@pytest.mark.parametrize(("major", "extended"), [(3, b"\0\0\0\6" + bytes(6)), (4, b"\0\0\0\6\1\0")])
def test_an_extended_header_is_stepped_over(major, extended):
    body = extended + text_frame(b"TIT2", b"\x00t")
    assert mp3.scan(id3v2(body, major=major, flags=0x40) + STREAM).id3 == {"TIT2": "t"}


def test_a_24_frame_whose_size_is_not_syncsafe_is_read():
    long_text = b"\x03" + b"x" * 299  # 300 is 0x012C: read as syncsafe it would be 172
    body = text_frame(b"TIT2", long_text) + text_frame(b"TPE1", b"\x03me")
    assert mp3.scan(id3v2(body, major=4) + STREAM).id3 == {"TIT2": "x" * 299, "TPE1": "me"}


def test_a_damaged_id3_tag_is_told_and_costs_no_audio():
    body = text_frame(b"TIT2", b"\x00t") + b"TPE1" + b"\x00\x0f\x00\x00" + b"\0\0" + b"rest"
    info = mp3.scan(id3v2(body) + STREAM)
    assert (info.id3, info.mpeg_frames) == ({"TIT2": "t"}, 10)
    assert info.warnings == ("ID3v2 frame TPE1 runs past the end of its tag",)
    info = mp3.scan(id3v2(text_frame(b"TIT2", b"\x00t") + b"....junk...") + STREAM)
    assert info.warnings == ("ID3v2 tag: no frame at byte 22 of it",)


def test_text_behind_a_megabyte_of_picture_is_not_read_and_that_is_told():
    body = (
        text_frame(b"TIT2", b"\x00t") + text_frame(b"APIC", bytes(1 << 20)) + text_frame(b"TPE1", b"\x00me")
    )
    info = mp3.scan(id3v2(body) + STREAM)
    assert (info.id3, info.mpeg_frames) == ({"TIT2": "t"}, 10)
    assert info.warnings == (f"ID3v2 tag of {len(body) + 10} bytes: text was looked for in {1 << 20}",)


def test_id3v1_fills_in_what_id3v2_does_not_say():
    assert mp3.scan(STREAM + ID3V1).id3 == {"TIT2": "A title", "TPE1": "Someone", "TDRC": "1999"}
    both = mp3.id3({"TIT2": "Another"}) + STREAM + ID3V1
    assert mp3.scan(both).id3 == {"TIT2": "Another", "TPE1": "Someone", "TDRC": "1999"}
    v11 = ID3V1[:97] + b"note".ljust(28, b"\0") + bytes([0, 9, 17])
    assert mp3.scan(STREAM + v11).id3.items() >= {"TRCK": "9", "COMM": "note", "TCON": "17"}.items()


@given(body=st.binary(max_size=200), major=st.integers(2, 4), flags=st.integers(0, 255))
@settings(deadline=None, max_examples=100)
def test_an_id3_tag_of_any_bytes_is_read(body, major, flags):
    tag = id3v2(text_frame(b"TIT2", b"\x01" + body) + body, major=major, flags=flags & 0xEF)
    assert mp3.scan(tag + STREAM).mpeg_frames == 10


# ---- real files ----

# MPEG frames with music, PCM frames, encoder delay and padding, what ffmpeg decodes (None: no audio).
FILES = {
    "l3-si.bit": (118, 135936, None, 135936),
    "l3-hecommon.bit": (30, 34560, None, 34560),
    "l3-compl.bit": (216, 248832, None, 249984),
    "M2L3_compl24.bit": (212, 122112, None, 122112),
    "l3-nonstandard-id3v1.bit": (1, 1152, None, None),
    "l3-nonstandard-id3v2.bit": (1, 1152, None, None),
    "l3-nonstandard-apetag.bit": (1, 1152, None, None),
    "l3-nonstandard-id3v2-only.bit": None,
    "l3-nonstandard-vbrtag-only.bit": (0, 0, (576, 576), None),
    "l3-nonstandard-vbrtag-corrupted.bit": (0, 0, (576, 576), None),
    "l3-nonstandard-small.bit": None,
    "l3-nonstandard-sin1k0db_lame_vbrtag.bit": (316, 362880, (576, 576), 362880),
    "l3-compl-cut": (1, 1152, None, None),
    "tinytag-vbr8": (128, 72320, (576, 832), 72320),
    "tinytag-vbr8stereo": (128, 72320, (576, 832), 72320),
    "tinytag-vbr16": (254, 144640, (576, 1088), 144640),
    "tinytag-vbr_xing_header": (151, 172740, (576, 636), 172740),
    "tinytag-vbr_xing_header_short": (2, 0, (576, 576), 529),
    "tinytag-mpeg25_8khz_vbr": (4, 800, (576, 928), 800),
    "tinytag-mpeg2_16khz_vbr": (5, 1600, (576, 704), 1600),
    "tinytag-mpeg1_44_1khz_cbr": (5, 4410, (576, 774), 4410),
    "tinytag-silence-22khz-mono-1s": (41, 23616, None, 23616),
    "tinytag-incomplete": None,
    "tinytag-invalid_file_larger": None,
    "tinytag-id3_broken_frame_size": (5, 4410, (576, 774), 4410),
    "lame-testcase": (23, 25000, (576, 920), 25000),
}
# Where ffmpeg and we count differently:
DEVIATIONS = {
    # The last frame has 23 of its 192 bytes. ffmpeg conceals it; the reference decode of the file (497,664
    # bytes) and we leave it out.
    "l3-compl.bit": 1152,
    # A recording of nothing. Its end lies in the MPEG frame in which ffmpeg still has 529 samples of delay to
    # drop, and it forgets these.
    "tinytag-vbr_xing_header_short": 529,
}
# PCM bytes (16 bit, interleaved) of the reference decoder, where the repository of the file has them.
REFERENCE_BYTES = {
    # The reference ends one MPEG frame early; ffmpeg, mpg123 and dr_mp3 decode them all.
    "l3-si.bit": (269568, -1152),
    "l3-hecommon.bit": (133632, -1152),
    "l3-compl.bit": (497664, 0),
    "M2L3_compl24.bit": (244224, 0),
    "l3-nonstandard-id3v1.bit": (2304, 0),
    "l3-nonstandard-id3v2.bit": (2304, 0),
    "l3-nonstandard-apetag.bit": (2304, 0),
    "l3-nonstandard-sin1k0db_lame_vbrtag.bit": (1451520, 0),
}


@pytest.mark.parametrize("name", FILES)
def test_a_real_file_is_what_its_manifest_says(test_data, name):
    data = test_data(f"mp3/{name}.mp3").read_bytes()
    expected = FILES[name]
    if expected is None:
        assert list(mp3.frames(data)) == []
        with pytest.raises(Mp3Error):
            mp3.scan(data)
        return
    info = mp3.scan(data)
    mpeg_frames, frames_pcm, delay, decoded = expected
    assert (info.mpeg_frames, info.frames_pcm, info.junk_bytes) == (mpeg_frames, frames_pcm, 0)
    assert (info.encoder_delay_samples, info.padding_samples) == (delay or (None, None))
    assert len(list(mp3.frames(data))) == mpeg_frames + (info.xing is not None)
    assert info.truncated == (name == "l3-compl.bit")
    if decoded is not None:
        assert decoded - frames_pcm == DEVIATIONS.get(name, 0)
    if name in REFERENCE_BYTES:
        size, fewer = REFERENCE_BYTES[name]
        assert size // (2 * info.channels) == frames_pcm + fewer
    if info.xing is not None and "vbrtag" not in name.replace("lame_vbrtag", ""):
        # LAME wrote these: both CRCs and all counts are right.
        assert (info.xing.mpeg_frames, info.xing.tag_crc_ok, info.xing.music_crc_ok) == (
            mpeg_frames,
            True,
            True,
        )
        assert info.xing.total_bytes == info.xing.music_bytes == len(data) - info.first_frame_offset
        assert info.xing.encoder == ("LAME3.99r" if name == "tinytag-vbr_xing_header" else "LAME3.100")
    assert _outcome(data, [1000] * (len(data) // 1000)) == info


@pytest.mark.parametrize("name", [name for name, expected in FILES.items() if expected and expected[3]])
def test_mpg123_and_dr_mp3_decode_the_number_of_frames_we_count(test_data, name):
    data = test_data(f"mp3/{name}.mp3").read_bytes()
    frames_pcm = mp3.scan(data).frames_pcm
    assert len(soundfile.read(io.BytesIO(data))[0]) == frames_pcm
    if frames_pcm == 0:
        with pytest.raises(miniaudio.DecodeError):  # how it says that there is no audio
            miniaudio.mp3_read_s16(data)
        return
    decoded = miniaudio.mp3_read_s16(data)
    assert len(decoded.samples) // decoded.nchannels == frames_pcm


@pytest.mark.parametrize(
    "name", ["tinytag-vbr8", "tinytag-vbr_xing_header", "l3-nonstandard-sin1k0db_lame_vbrtag.bit"]
)
def test_the_seek_table_is_that_of_lame_to_a_256th_of_the_file(test_data, name):
    data = test_data(f"mp3/{name}.mp3").read_bytes()
    positions = [frame.offset for frame in mp3.frames(data)][1:]
    ours = mp3.seek_table(positions, len(data))
    theirs = mp3.scan(data).xing.seek_table
    # LAME keeps every nth frame only, counts from the end of each, and leaves its tag frame out.
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) <= 8


def test_the_warnings_about_damaged_files(test_data):
    def warnings(name):
        return mp3.scan(test_data(f"mp3/{name}.mp3").read_bytes()).warnings

    assert warnings("tinytag-id3_broken_frame_size") == ("ID3v2 frame TIT2 runs past the end of its tag",)
    assert warnings("l3-nonstandard-vbrtag-corrupted.bit") == (
        "Info frame: 316 MPEG frames, the file holds 0",
        "Info frame: 132492 bytes, the file holds 417",
        "Info frame: its own CRC is wrong",
        "Info frame: the CRC of the music is wrong",
        "1152 samples of delay and padding, the file holds 0",
    )


def test_the_tags_of_real_files(test_data):
    def info(name):
        return mp3.scan(test_data(f"mp3/{name}.mp3").read_bytes())

    assert info("l3-nonstandard-id3v2.bit").id3 == {"TIT2": "test title"}
    assert info("l3-nonstandard-id3v1.bit").id3 == {"TIT2": "test", "TCON": "12"}
    assert info("l3-nonstandard-apetag.bit").tags == ("APE",)


@pytest.mark.parametrize(
    "name",
    [
        "tinytag-mpeg25_8khz_vbr",
        "tinytag-mpeg1_44_1khz_cbr",
        "tinytag-id3_broken_frame_size",
        "lame-testcase",
    ],
)
def test_a_file_cut_off_anywhere_is_an_info_or_an_mp3_error(test_data, name):
    data = test_data(f"mp3/{name}.mp3").read_bytes()
    counts = []
    for size in range(len(data)):
        result = _outcome(data[:size])
        counts.append(result.mpeg_frames if isinstance(result, mp3.Info) else -1)
    assert counts == sorted(counts)  # more bytes, never fewer frames
    assert counts[-1] == mp3.scan(data).mpeg_frames - 1


@pytest.mark.parametrize(
    "name", ["tinytag-mpeg25_8khz_vbr", "tinytag-mpeg1_44_1khz_cbr", "l3-nonstandard-apetag.bit"]
)
@given(flips=st.lists(st.integers(0, 30_000), min_size=1, max_size=20))
@settings(deadline=None, max_examples=60)
def test_a_file_with_bits_flipped_is_an_info_or_an_mp3_error(name, flips):
    data = bytearray((Path(__file__).parents[1] / "data" / "mp3" / f"{name}.mp3").read_bytes())
    for flip in flips:
        data[flip // 8 % len(data)] ^= 1 << flip % 8
    result = _outcome(bytes(data))
    assert isinstance(result, mp3.Info) or result[1] is not None
    assert _outcome(bytes(data), [len(data) // 2]) == result
