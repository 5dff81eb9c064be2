"""The contract of a file format, for every one in FORMATS; then what WAV adds."""

import io
import itertools
import json
import re
import shutil
import subprocess

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_files import READERS, apply, correlation, encode, noise
from callreel import formats
from callreel.errors import UsageError
from callreel.formats import FORMATS, MAX_MARKS, Mark
from callreel.kernels import mp3, wav

RATES = [8000, 16000]

LOSSLESS = {"wav"}
# The most PCM frames that a file so far is short of what was added. MP3: LAME looks ahead, decoders hold
# back 529 samples, and the last MPEG frame is not whole; 576 samples in each at these rates.
BEHIND_FRAMES = {"wav": 0, "mp3": 5 * 576 + 288}

each_format = pytest.mark.parametrize("name", FORMATS)
each_rate = pytest.mark.parametrize("sample_rate", RATES)
each_layout = pytest.mark.parametrize("channels", [1, 2], ids=["mono", "stereo"])


def new(name, sample_rate=8000, channels=1, **arguments):
    return FORMATS[name](sample_rate=sample_rate, channels=channels, **arguments)


def assert_holds(name, decoded, pcm):
    assert decoded.shape == pcm.shape
    if name in LOSSLESS:
        assert np.array_equal(decoded, pcm)
        return
    for channel in range(pcm.shape[1]):
        assert correlation(pcm[:, channel].astype(float), decoded[:, channel]) > 0.9


def tags_of(name, data):
    with av.open(io.BytesIO(data), format=name) as container:
        return dict(container.metadata)


def id3_or_info(name, data):
    return wav.parse(data).info if name == "wav" else mp3.scan(data).id3


@each_format
def test_the_table_names_each_format_by_its_extension(name):
    kind = FORMATS[name]
    assert kind.extension == name
    assert kind.media_type.startswith("audio/")
    assert len(READERS[name]) >= 3


@each_format
@each_rate
@each_layout
def test_independent_readers_find_exactly_the_frames_added(name, sample_rate, channels):
    for frames in (0, 1, 2, 160, 577, 31_337):
        pcm = noise(frames, channels, seed=frames)
        data = encode(name, pcm, sample_rate)
        for reader, decode in READERS[name].items():
            decoded = decode(data)
            assert decoded.shape == pcm.shape, (reader, frames)
            if frames > 100:
                assert_holds(name, decoded, pcm)


@each_format
@each_rate
@each_layout
def test_readers_see_the_sample_rate_and_the_channels(name, sample_rate, channels):
    data = encode(name, noise(4000, channels), sample_rate)
    with av.open(io.BytesIO(data), format=name) as container:
        (stream,) = container.streams
        assert (stream.rate, stream.codec_context.channels) == (sample_rate, channels)


@each_format
@each_layout
def test_an_empty_recording_is_a_whole_file(name, channels):
    file = new(name, channels=channels)
    data = apply(file.start() + file.add(b"") + file.flush() + file.finish())
    assert (file.frames, file.size_bytes) == (0, len(data))
    for decode in READERS[name].values():
        assert decode(bytes(data)).shape == (0, channels)


@pytest.mark.parametrize("name", FORMATS)
@given(
    cuts=st.lists(st.integers(0, 3000), max_size=30),
    flushes=st.sets(st.integers(0, 30)),
    channels=st.integers(1, 2),
)
@settings(deadline=None, max_examples=25)
def test_the_same_pcm_in_other_chunks_is_the_same_file(name, cuts, flushes, channels):
    pcm = noise(3000, channels)
    file = new(name, channels=channels)
    data = apply(file.start())
    for number, (begin, end) in enumerate(itertools.pairwise([0, *sorted(cuts), 3000])):
        apply(file.add(pcm[begin:end]), data)
        if number in flushes:
            apply(file.flush(), data)
    apply(file.finish(), data)
    assert bytes(data) == encode(name, pcm, 8000)


@each_format
@each_rate
@each_layout
def test_at_every_flush_the_file_so_far_can_be_played(name, sample_rate, channels):
    pcm = noise(2 * sample_rate, channels)
    file = new(name, sample_rate, channels, tags={"title": "so far"})
    data = apply(file.start())
    step = sample_rate // 5
    missing = []
    for at in range(0, len(pcm), step):
        apply(file.add(pcm[at : at + step]) + file.flush(), data)
        assert tags_of(name, bytes(data))["title"] == "so far"
        if at < sample_rate // 2:
            continue  # what mpg123 wants to see before it believes that this is an MP3
        for reader, decode in READERS[name].items():
            decoded = decode(bytes(data))
            if reader == "mpg123":  # does not heed the delay before it knows the count of frames
                decoded = decoded[1152:]
            missing.append(file.frames - len(decoded))
            # The last MPEG frame may not be whole: ffmpeg makes it up.
            sound = len(decoded) - (0 if name in LOSSLESS else 576)
            assert_holds(name, decoded[:sound], pcm[:sound])
    assert 0 <= max(missing) <= BEHIND_FRAMES[name]


@each_format
def test_a_file_cut_off_after_its_last_flush_gives_what_was_flushed(name):
    pcm = noise(16_000, 1)
    file = new(name)
    data = apply(file.start() + file.add(pcm[:12_000]) + file.flush() + file.add(pcm[12_000:]))
    for decode in READERS[name].values():
        if decode is READERS["wav"].get("sox") or (name == "mp3" and decode is READERS["mp3"]["mpg123"]):
            continue  # sox warns of the excess, mpg123 is tested above
        decoded = decode(bytes(data))
        assert len(decoded) >= 12_000 - BEHIND_FRAMES[name]
        sound = min(len(decoded) - 576, 12_000)
        assert_holds(name, decoded[:sound], pcm[:sound])


@each_format
def test_frames_and_size_are_true_at_every_moment(name):
    file = new(name, channels=2)
    assert (file.frames, file.size_bytes) == (0, 0)
    data = apply(file.start())
    assert (file.frames, file.size_bytes) == (0, len(data))
    for number in range(1, 60):
        apply(file.add(noise(160, 2).tobytes()), data)
        if number % 7 == 0:
            apply(file.flush(), data)
        assert (file.frames, file.size_bytes) == (160 * number, len(data))
    apply(file.finish(marks=[Mark(5, 5, "x")]), data)
    assert (file.frames, file.size_bytes) == (160 * 59, len(data))


@each_format
def test_no_write_leaves_a_hole_and_the_last_one_is_at_the_beginning(name):
    file = new(name)
    writes = file.start()
    assert [write.offset for write in writes] == [0]
    end = reserved = len(writes[0].data)
    for _ in range(100):
        for write in file.add(bytes(320)):
            assert write.offset == end
            end += len(write.data)
        for write in file.flush():
            assert write.offset + len(write.data) <= reserved
    *middle, last = file.finish(marks=[Mark(0, 10, "5")])
    for write in middle:
        assert write.offset == end
        end += len(write.data)
    assert (last.offset, len(last.data)) == (0, reserved)
    assert end == file.size_bytes


# ---- what is given --------------------------------------------------------------------------------


@each_format
def test_any_pcm_buffer_is_taken(name):
    pcm = noise(2000, 1)
    spread = np.zeros((4000, 1), "<i2")
    spread[::2] = pcm
    mapped = memoryview(pcm).cast("B")
    results = set()
    for form in (pcm, pcm.tobytes(), bytearray(pcm.tobytes()), memoryview(pcm), mapped, spread[::2]):
        file = new(name)
        results.add(bytes(apply(file.start() + file.add(form) + file.finish())))
    assert results == {encode(name, pcm, 8000)}


@each_format
def test_a_buffer_may_be_used_again_as_soon_as_it_was_added(name):
    pcm = noise(4000, 1)
    buffer = np.empty_like(pcm[:1000])
    file = new(name)
    writes = file.start()
    for at in range(0, 4000, 1000):
        buffer[:] = pcm[at : at + 1000]
        writes += file.add(buffer)
    buffer[:] = 0
    assert bytes(apply(writes + file.finish())) == encode(name, pcm, 8000)


@each_format
@each_layout
def test_part_of_a_frame_is_refused_and_nothing_is_added(name, channels):
    file = new(name, channels=channels)
    writes = file.start()
    size_bytes = file.size_bytes
    for size in (1, 3, 5, 4001, *([2, 4002] if channels == 2 else [])):
        with pytest.raises(ValueError, match="whole number of frames"):
            file.add(bytes(size))
    assert (file.frames, file.size_bytes) == (0, size_bytes)
    assert bytes(apply(writes + file.finish())) == encode(name, noise(0, channels), 8000)


@each_format
@pytest.mark.parametrize("wrong", [None, 5, "text", [1, 2], np.zeros(8, "f4"), np.zeros(8, ">i2")])
def test_what_is_no_16_bit_pcm_is_refused(name, wrong):
    file = new(name)
    file.start()
    with pytest.raises(TypeError):
        file.add(wrong)
    assert file.frames == 0


@each_format
def test_calls_out_of_order_are_usage_errors_and_change_nothing(name):
    file = new(name)
    for call in (lambda: file.add(b"\1\1"), file.flush, file.finish):
        with pytest.raises(UsageError, match="not been started"):
            call()
    data = apply(file.start())
    with pytest.raises(UsageError, match="has been started"):
        file.start()
    apply(file.add(b"\1\1" * 800) + file.finish(), data)
    size_bytes = file.size_bytes
    for call in (lambda: file.add(b"\1\1"), file.flush, file.finish):
        with pytest.raises(UsageError, match="has been finished"):
            call()
    with pytest.raises(UsageError, match="has been started"):
        file.start()
    assert (file.frames, file.size_bytes) == (800, size_bytes)
    assert bytes(data) == encode(name, np.full((800, 1), 0x0101, "<i2"), 8000)


@each_format
@pytest.mark.parametrize(
    "wrong", [{"channels": 0}, {"channels": -1}, {"sample_rate": 0}, {"sample_rate": -8000}]
)
def test_what_no_format_has_is_refused_before_anything_is_written(name, wrong):
    with pytest.raises(ValueError, match=r"\S"):
        new(name, **wrong)


# ---- tags -----------------------------------------------------------------------------------------

TEXTS = {
    "title": "Anruf von Jürgen, 東京",
    "artist": "LEG-A",
    "comment": "zweiter Versuch",
    "date": "2024-05-01T10:00:00",
    "software": "switchboard 3",
}
OWN = {"call-id": "8d3c@192.0.2.1", "transaction-id": "7f; x=y"}


def assert_all_texts(name, metadata):
    metadata = {key.lower(): value for key, value in metadata.items()}
    assert {key: metadata[key] for key in ("title", "artist", "date")} == {
        key: TEXTS[key] for key in ("title", "artist", "date")
    }
    assert metadata["encoder"] == TEXTS["software"]
    if name == "wav":
        assert metadata["comment"] == "; ".join([TEXTS["comment"], *(f"{k}={v}" for k, v in OWN.items())])
    else:
        assert metadata["comment"] == TEXTS["comment"]
        assert {key: metadata[key] for key in OWN} == OWN


@each_format
def test_another_reader_finds_every_tag(name):
    assert_all_texts(name, tags_of(name, encode(name, noise(800, 1), 8000, tags=TEXTS | OWN)))


@each_format
@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="needs ffprobe")
def test_ffprobe_finds_every_tag(name, tmp_path):
    path = tmp_path / f"call.{name}"
    path.write_bytes(encode(name, noise(80_000, 1), 8000, tags=TEXTS | OWN))
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_format", "-show_streams", str(path)]
    said = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert_all_texts(name, said["format"]["tags"])
    seconds = float(said["streams"][0]["duration"])
    # What ffprobe calls the duration of an MP3 holds the encoder's delay and padding too.
    assert 10 <= seconds <= 10 + (0 if name in LOSSLESS else 3 * 576 / 8000)


@each_format
def test_without_tags_the_file_says_what_made_it(name):
    assert tags_of(name, encode(name, noise(800, 1), 8000))["encoder"].startswith("callreel")


HOSTILE = {
    "NUL": "call\0id",
    "controls": "".join(map(chr, range(32))) + "\x7f" + "".join(map(chr, range(0x80, 0xA0))),
    "terminal escape": "\x1b]0;gone\x07\x1b[2J",
    "lines": "a\r\nContact: b\u2028c\u2029d\x85e",
    "direction": "\u202efdp.exe\u2066",
    "half a surrogate pair": "\ud800 and \udc80\udcff",
    "64 KiB": "x" * 65_536,
    "64 KiB of four bytes each": "\U0001f4de" * 65_536,
    "nothing": "",
    "blanks": " \t ",
    "bytes of no text": bytes(range(256)).decode("latin-1"),
}


@each_format
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_text_is_stored_as_far_as_it_can_be_shown(name, text):
    tags = {"title": text, "call-id": text, f"x{text}": "a name can be hostile too"}
    pcm = noise(800, 1)
    data = encode(name, pcm, 8000, tags=tags)
    for decode in READERS[name].values():
        assert decode(data).shape == pcm.shape
    stored = id3_or_info(name, data)
    assert stored == {key: value for key, value in stored.items() if value.isprintable()}
    title = stored["INAM" if name == "wav" else "TIT2"]
    assert len(title.encode()) <= formats.MAX_TAG_BYTES
    shown = "".join(one if one.isprintable() else "\ufffd" for one in text)
    if len(shown.encode()) <= formats.MAX_TAG_BYTES:
        assert title == shown
    else:
        assert title[-1] == "…"
        assert shown.startswith(title[:-1])
        assert len(title.encode()) > formats.MAX_TAG_BYTES - 4


@each_format
def test_a_text_of_exactly_the_limit_is_not_shortened(name):
    for text in ("x" * formats.MAX_TAG_BYTES, "é" * (formats.MAX_TAG_BYTES // 2)):
        for given_text, stored in ((text, text), (text + "x", re.sub("(x{3}|é{2})$", "…", text))):
            data = encode(name, noise(0, 1), 8000, tags={"title": given_text})
            assert id3_or_info(name, data)["INAM" if name == "wav" else "TIT2"] == stored


@each_format
def test_any_number_of_the_longest_tags_fits(name):
    tags = {f"{number} {'☎' * 70_000}": "☎" * 70_000 for number in range(60)}
    data = encode(name, noise(800, 1), 8000, tags=dict.fromkeys(formats.TAGS, "☎" * 70_000) | tags)
    assert len(data) < 70_000
    for decode in READERS[name].values():
        assert len(decode(data)) == 800
    everything = "".join(f"{key}{value}" for key, value in id3_or_info(name, data).items())
    assert f"{formats.MAX_TAGS - len(formats.TAGS) - 1} ☎" in everything
    assert f"{formats.MAX_TAGS - len(formats.TAGS)} ☎" not in everything


@pytest.mark.parametrize("name", FORMATS)
@given(
    tags=st.dictionaries(st.text(st.characters()), st.text(st.characters()), max_size=5),
    marks=st.lists(
        st.builds(
            Mark,
            st.integers(-(1 << 70), 1 << 70) | st.integers(-900, 900),
            st.integers(-(1 << 70), 1 << 70) | st.integers(-900, 900),
            st.text(st.characters()),
        ),
        max_size=5,
    ),
)
@settings(deadline=None, max_examples=60)
def test_whatever_the_tags_and_marks_are_the_file_is_whole(name, tags, marks):
    pcm = noise(800, 1)
    data = encode(name, pcm, 8000, tags=tags, marks=marks)
    info = wav.parse(data) if name == "wav" else mp3.scan(data)
    assert info.warnings == ()
    assert not info.truncated
    for reader in ("libsndfile", "ffmpeg", "mpg123"):
        if reader in READERS[name]:
            assert READERS[name][reader](data).shape == pcm.shape


# ---- marks ----------------------------------------------------------------------------------------


@each_format
def test_marks_do_not_change_the_audio(name):
    pcm = noise(8000, 2)
    marks = [Mark(100, 320, "5 incoming"), Mark(4000, 0, "pause")]
    data = encode(name, pcm, 8000, marks=marks)
    for decode in READERS[name].values():
        assert_holds(name, decode(data), pcm)


def test_a_format_without_marks_ignores_them():
    pcm = noise(8000, 1)
    assert encode("mp3", pcm, 8000, marks=[Mark(100, 320, "5")]) == encode("mp3", pcm, 8000)


def cues(marks, frames=8000):
    return wav.parse(encode("wav", noise(frames, 1), 8000, marks=marks)).cues


def test_marks_become_cues_in_wav():
    marks = [Mark(100, 320, "5 incoming"), Mark(4000, 0, "Pause, für 2 s"), Mark(8000, 0, "end")]
    assert cues(marks) == tuple(
        wav.Cue(frame=mark.frame, label=mark.label, duration_frames=mark.duration_frames) for mark in marks
    )


def test_another_reader_finds_the_cues():
    data = encode("wav", noise(8000, 1), 8000, marks=[Mark(100, 320, "5 incoming"), Mark(4000, 0, "9")])
    with av.open(io.BytesIO(data), format="wav") as container:
        chapters = container.chapters()
    assert [(one["start"], one["metadata"]["title"]) for one in chapters] == [
        (100, "5 incoming"),
        (4000, "9"),
    ]


@pytest.mark.parametrize(
    ("mark", "frame", "duration_frames"),
    [
        (Mark(-50, 80, ""), 0, 30),
        (Mark(-1, 1 << 80, ""), 0, 8000),
        (Mark(7990, 320, ""), 7990, 10),
        (Mark(100, 1 << 80, ""), 100, 7900),
        (Mark(100, -7, ""), 100, 0),
        (Mark(8000, 5, ""), 8000, 0),
        (Mark(0, 0, ""), 0, 0),
    ],
)
def test_a_mark_is_cut_to_the_recording(mark, frame, duration_frames):
    (cue,) = cues([mark])
    assert (cue.frame, cue.duration_frames) == (frame, duration_frames)


@pytest.mark.parametrize(
    "mark",
    [Mark(-80, 80, ""), Mark(-1, 0, ""), Mark(-(1 << 70), 5, ""), Mark(8001, 5, ""), Mark(1 << 70, 5, "")],
)
def test_a_mark_outside_the_recording_is_left_out(mark):
    assert cues([mark, Mark(5, 5, "inside")]) == (wav.Cue(frame=5, label="inside", duration_frames=5),)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_label_is_stored_as_far_as_it_can_be_shown(text):
    (cue,) = cues([Mark(5, 5, text)])
    assert cue.label.isprintable()
    assert len(cue.label.encode()) <= formats.MAX_LABEL_BYTES
    shown = "".join(one if one.isprintable() else "\ufffd" for one in text)
    assert cue.label in shown or (cue.label[-1] == "…" and shown.startswith(cue.label[:-1]))


def test_more_marks_than_a_file_takes_are_cut_to_the_first_ones():
    marks = [Mark(number - 1000, 1, f"{number} {'☎' * 100}") for number in range(20_000)]
    found = cues(marks, frames=12_000)
    assert len(found) == MAX_MARKS
    assert [cue.frame for cue in found] == list(range(MAX_MARKS))  # those before the recording do not count
    assert found[0].label.startswith("1000 ☎")
    assert all(cue.label[-1] == "…" and cue.duration_frames == 1 for cue in found)


def test_a_recording_longer_than_cues_can_count_keeps_the_marks_they_can():
    file = new("wav")
    file.start()
    file.frames = 1 << 33  # 298 hours, without writing them
    trailer, _ = file.finish(marks=[Mark(5, 1 << 33, "long"), Mark(1 << 32, 5, "too far"), Mark(9, 1, "9")])
    assert trailer.offset == file.size_bytes - len(trailer.data)
    assert trailer.data.count(b"labl") == 2
    assert b"long" in trailer.data
    assert b"too far" not in trailer.data


# ---- WAV ------------------------------------------------------------------------------------------


def test_above_4_gib_the_header_turns_into_rf64_in_its_place():
    file = new("wav", channels=2)
    (header,) = file.start()
    file.frames, file.size_bytes = 1 << 30, len(header.data) + (1 << 32)  # without writing them
    flushed = apply(file.flush(), bytearray(header.data))
    (finished,) = file.finish()
    assert len(finished.data) == len(header.data)
    assert flushed == finished.data
    info = wav.parse(finished.data, file_bytes=file.size_bytes)
    assert (info.container, info.frames, info.data_bytes) == ("RF64", 1 << 30, 1 << 32)


def test_wav_takes_more_than_two_channels():
    pcm = noise(800, 4)
    data = encode("wav", pcm, 8000)
    assert np.array_equal(READERS["wav"]["libsndfile"](data), pcm)
