"""From a spool file to the file that was asked for: what a recording would have written, whatever state it is in."""

import hashlib
import io
import os
import resource
import tracemalloc
import wave
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audio_files import apply, noise
from callreel import Call, finishing
from callreel.actions import Layout, StartRecording
from callreel.encryption import KeyFile, SealedFile, SealedReader, decrypt_file
from callreel.errors import UsageError, WavError
from callreel.finishing import ENCRYPTED_MEDIA_TYPE, Finishing, SpoolAudio, finish
from callreel.formats import FORMATS, Mark, Wav
from callreel.kernels import pcm, tone, wav
from secret_watch import may_hold, secret_bytes

SLOW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TAGS = {"title": "call-7f3", "date": "2026-03-01T12:00:00.000Z", "call-id": "c-1"}
MARKS = [Mark(100, 50, "1 incoming"), Mark(700, 0, "# outgoing"), Mark(300, 200, "pause")]


def spool_of(path, audio, *, sample_rate=8000, tags=TAGS, said_frames=None, extra=b""):
    """A spool file as it grows: header, frames, perhaps a header that is behind, perhaps half a frame."""
    channels = audio.shape[1]
    file = Wav(sample_rate=sample_rate, channels=channels, tags=tags)
    (begin,) = file.start()
    head = begin.data if said_frames == 0 else wav.patch(begin.data, said_frames or len(audio))
    path.write_bytes(head + audio.tobytes() + extra)
    return path


def streamed(audio, *, format, sample_rate=None, from_rate=8000, tags=TAGS, marks=(), cuts=()):
    """What `formats` makes of the same frames fed while a call runs, as a recording feeds them."""
    rate, channels = sample_rate or from_rate, audio.shape[1]
    file = FORMATS[format](sample_rate=rate, channels=channels, tags=tags)
    resamplers = [pcm.Resampler(from_rate, rate) for _ in range(channels)] if rate != from_rate else []

    def woven(pieces):
        return pcm.interleave(*pieces) if channels == 2 else pieces[0]

    data = apply(file.start())
    for piece in np.split(audio, sorted(cuts)):
        frames = piece.tobytes()
        if resamplers:
            tracks = [np.ascontiguousarray(piece[:, channel]).tobytes() for channel in range(channels)]
            frames = woven([one.feed(track) for one, track in zip(resamplers, tracks, strict=True)])
        apply(file.add(frames), data)
        apply(file.flush(), data)
    if resamplers:
        apply(file.add(woven([one.flush() for one in resamplers])), data)
    apply(file.finish(marks=marks), data)
    return bytes(data)


def check_told(finished, target):
    data = target.read_bytes()
    assert finished.path == target
    assert (finished.size_bytes, finished.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    return data


WHAT = [("wav", None), ("wav", 16000), ("mp3", None), ("mp3", 16000)]
AUDIO = {channels: noise(8000, channels) for channels in (1, 2)}


# ---- the bytes of the file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "sample_rate"), WHAT)
@SLOW
@given(
    channels=st.sampled_from([1, 2]),
    frames=st.integers(0, 8000),
    cuts=st.lists(st.integers(0, 8000), max_size=5),
    piece_frames=st.integers(1, 5000).filter(lambda size: size > 50),
    said=st.sampled_from([None, 0, 17]),
    extra=st.binary(max_size=1),
    marks=st.lists(
        st.builds(Mark, st.integers(-10, 20_000), st.integers(0, 900), st.text(max_size=5)), max_size=4
    ),
)
def test_it_is_what_the_format_writes_while_the_call_runs_however_either_is_cut(
    tmp_path, monkeypatch, format, sample_rate, channels, frames, cuts, piece_frames, said, extra, marks
):
    monkeypatch.setattr(finishing, "PIECE_FRAMES", piece_frames)
    audio = AUDIO[channels][:frames]
    cuts = [min(cut, frames) for cut in cuts]
    spool = spool_of(tmp_path / "spool.wav", audio, said_frames=said, extra=extra)
    target = tmp_path / f"call.{format}"
    finished = finish(spool, target, format=format, sample_rate=sample_rate, tags=TAGS, marks=marks)
    expected = streamed(audio, format=format, sample_rate=sample_rate, marks=marks, cuts=cuts)
    assert check_told(finished, target) == expected
    assert finished.frames == -(-frames * (sample_rate or 8000) // 8000)
    assert finished.media_type == FORMATS[format].media_type


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize(("format", "sample_rate"), WHAT)
def test_it_is_what_a_recording_writes_of_the_same_call(tmp_path, layout, format, sample_rate):
    def recorded(format, sample_rate):
        call = Call("call-7f3", started_at=datetime(2026, 3, 1, 12, tzinfo=UTC), now=0.0)
        call.add_leg("LEG-A", host_frames=True)
        action = StartRecording(format=format, layout=layout, sample_rate=sample_rate)
        call.start_recording(action, now=0.0)
        said = (
            tone.sine(300, 2.0, -20, 8000) + tone.dtmf("5", 0.12, -10, 8000) + tone.sine(500, 1.0, -20, 8000)
        )
        heard = tone.sine(440, len(said) / 16000, -13, 8000)
        for number in range(len(said) // 320):
            for direction, audio in (("incoming", said), ("outgoing", heard)):
                piece = audio[320 * number : 320 * (number + 1)]
                call.receive_pcm("LEG-A", piece, now=number * 0.02, direction=direction)
            call.handle_timeout(now=number * 0.02)
        call.hang_up("LEG-A", now=number * 0.02 + 0.02)
        call.end(now=number * 0.02 + 0.02)
        return apply(write for _, write in call.writes())

    as_spooled = bytes(recorded("wav", None))
    info = wav.parse(as_spooled)
    assert [cue.label for cue in info.cues] == ([] if layout is Layout.OUTGOING else ["5 incoming"])
    spool = tmp_path / "spool.wav"
    spool.write_bytes(as_spooled[: info.data_offset + info.data_bytes])
    rate = sample_rate or 8000
    marks = [
        Mark(cue.frame * rate // 8000, cue.duration_frames * rate // 8000, cue.label) for cue in info.cues
    ]
    wanted = bytes(recorded(format, sample_rate))
    tags = tags_of(as_spooled, info)
    finish(spool, tmp_path / "file", format=format, sample_rate=sample_rate, tags=tags, marks=marks)
    assert (tmp_path / "file").read_bytes() == wanted


def tags_of(data, info):
    """The tags a recording gave its file."""
    from callreel.formats import TAGS as NAMES

    names = {tag.wav_info: name for name, tag in NAMES.items()}
    tags = {
        names[ident]: text for ident, text in info.info.items() if names[ident] not in ("software", "comment")
    }
    comment = info.info.get("ICMT", "")
    return tags | dict(part.split("=", 1) for part in comment.split("; ") if part)


# ---- the spool file itself -----------------------------------------------------------------------------------------


def test_where_nothing_changes_the_file_is_the_spool_file_by_a_second_name(tmp_path):
    spool = spool_of(tmp_path / "spool.wav", AUDIO[2])
    target = tmp_path / "call.wav"
    finish(spool, target, format="wav", tags=TAGS, marks=MARKS)
    assert target.samefile(spool)
    assert [cue.label for cue in wav.parse(target.read_bytes()).cues] == [mark.label for mark in MARKS]


@pytest.mark.parametrize("case", ["another rate", "another title", "encrypted", "no links"])
def test_where_anything_changes_the_spool_file_stays_as_it_is(tmp_path, monkeypatch, case):
    spool = spool_of(tmp_path / "spool.wav", AUDIO[2], said_frames=5)
    before, target = spool.read_bytes(), tmp_path / "call.wav"
    options = {"tags": TAGS}
    if case == "another rate":
        options["sample_rate"] = 16000
    elif case == "another title":
        options["tags"] = {"title": "another"}
    elif case == "encrypted":
        options["data_key"] = keys_in(tmp_path).new_data_key()
    else:
        monkeypatch.setattr(os, "link", failing(OSError(18, "Invalid cross-device link")))
    check_told(finish(spool, target, format="wav", marks=MARKS, **options), target)
    assert spool.read_bytes() == before
    if case == "no links":
        assert target.read_bytes() == streamed(AUDIO[2], format="wav", marks=MARKS)


def failing(error):
    def fails(*_, **__):
        raise error

    return fails


@pytest.mark.parametrize("format", ["wav", "mp3"])
@pytest.mark.parametrize("step", ["fsync", "link", "replace", "unlink"])
def test_who_died_or_failed_while_finishing_does_it_again_and_gets_the_same(
    tmp_path, monkeypatch, format, step
):
    spool = spool_of(tmp_path / "spool.wav", AUDIO[2], said_frames=0, extra=b"x")
    target = tmp_path / f"call.{format}"
    expected = streamed(AUDIO[2], format=format, marks=MARKS)
    place = {"fsync": os, "link": os, "replace": type(target), "unlink": type(target)}[step]
    monkeypatch.setattr(place, step, failing(KeyboardInterrupt()))
    try:
        finish(spool, target, format=format, tags=TAGS, marks=MARKS)
    except KeyboardInterrupt:
        if step != "unlink":
            assert not target.exists()
    monkeypatch.undo()
    for _ in range(2):
        check_told(finish(spool, target, format=format, tags=TAGS, marks=MARKS), target)
        assert target.read_bytes() == expected
        if step != "unlink":
            assert {path.name for path in tmp_path.iterdir()} == {"spool.wav", target.name}


@SLOW
@given(
    lived=st.integers(0, 3),
    other_marks=st.booleans(),
    frames=st.integers(0, 2000),
    said=st.sampled_from([None, 0, 3]),
)
def test_at_whichever_write_it_dies_in_the_spool_file_the_next_one_completes_it(
    tmp_path, lived, other_marks, frames, said
):
    audio = AUDIO[2][:frames]
    spool = spool_of(tmp_path / "spool.wav", audio, said_frames=said, extra=b"xyz"[: frames % 4])
    ends = finishing._WavEnds(frames, 2, 8000, TAGS, MARKS)
    raw = bytearray(spool.read_bytes())
    size = len(ends.header) + 4 * frames
    # The steps of `_finish_in_place`, each of which may have been the last one.
    if lived > 0:
        raw[: len(ends.header)] = ends.header
    if lived > 1:
        del raw[size:]
    if lived > 2:
        raw += ends.trailer[: len(ends.trailer) // 2]
    spool.write_bytes(raw)
    marks = MARKS[:1] if other_marks else MARKS
    finish(spool, tmp_path / "call.wav", format="wav", tags=TAGS, marks=marks)
    assert (tmp_path / "call.wav").read_bytes() == streamed(audio, format="wav", marks=marks)


def test_a_target_that_is_there_is_replaced(tmp_path):
    spool, target = spool_of(tmp_path / "spool.wav", AUDIO[1]), tmp_path / "call.mp3"
    target.write_bytes(b"old")
    finish(spool, target, format="mp3")
    assert target.read_bytes() == streamed(AUDIO[1], format="mp3", tags=None)


def test_a_header_that_says_more_frames_than_there_are_is_not_believed(tmp_path):
    spool = spool_of(tmp_path / "spool.wav", AUDIO[2], said_frames=1_000_000)
    finish(spool, tmp_path / "call.wav", format="wav", tags=TAGS)
    assert (tmp_path / "call.wav").read_bytes() == streamed(AUDIO[2], format="wav")


def test_an_ordinary_reader_finds_every_frame(tmp_path):
    spool = spool_of(tmp_path / "spool.wav", AUDIO[2], said_frames=0)
    finish(spool, tmp_path / "call.wav", format="wav", tags=TAGS, marks=MARKS)
    with wave.open(str(tmp_path / "call.wav")) as reader:
        assert reader.readframes(10_000) == AUDIO[2].tobytes()


def test_a_file_beyond_4_gib_is_finished_without_reading_it_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(finishing, "_sum", lambda file: (file.seek(0, io.SEEK_END), "not taken here"))
    frames = (1 << 30) + 1000  # sparse: nothing of it is written
    spool = spool_of(tmp_path / "spool.wav", AUDIO[2][:10])
    with spool.open("r+b") as file:
        file.truncate(SpoolAudio(file).data_offset + 4 * frames)
    finished = finish(spool, tmp_path / "call.wav", format="wav", tags=TAGS, marks=MARKS)
    assert finished.frames == frames
    with (tmp_path / "call.wav").open("rb") as file:
        info = wav.parse(file.read(4096), file_bytes=finished.size_bytes)
        assert (info.container, info.frames) == ("RF64", frames)
        assert SpoolAudio(file).frames == frames  # what stands behind is no audio
    finish(spool, tmp_path / "call.wav", format="wav", tags=TAGS, marks=MARKS)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF",
        b"not audio" * 100,
        wav.header(sample_rate=8000, channels=1, encoding="ulaw"),
        wav.header(sample_rate=8000, channels=1)[:60],
    ],
)
def test_what_is_no_spool_file_is_refused_and_leaves_nothing(tmp_path, data):
    (tmp_path / "spool.wav").write_bytes(data)
    for format in ("wav", "mp3"):
        with pytest.raises(WavError):
            finish(tmp_path / "spool.wav", tmp_path / "call", format=format)
    assert [path.name for path in tmp_path.iterdir()] == ["spool.wav"]


# ---- encrypted -----------------------------------------------------------------------------------------------------


def keys_in(folder):
    path = folder / "key"
    if not path.exists():
        may_hold(path).write_bytes(secret_bytes(32))
        path.chmod(0o600)
    return KeyFile(path)


@pytest.mark.parametrize(("format", "sample_rate"), WHAT)
def test_an_encrypted_spool_file_becomes_an_encrypted_file_of_the_same_data_key(
    tmp_path, format, sample_rate
):
    keys, target = keys_in(tmp_path), tmp_path / "call"
    with (tmp_path / "spool").open("w+b") as file:
        sealed = SealedFile(file, keys.new_data_key())
        sealed.write_at(0, Wav(sample_rate=8000, channels=2, tags=TAGS).start()[0].data)
        sealed.write_at(sealed.size_bytes, AUDIO[2].tobytes())
        sealed.flush()  # and dies
    with (tmp_path / "spool").open("rb") as file:
        reader = SealedReader(file, keys, unfinished=True)
        arguments = {"format": format, "sample_rate": sample_rate, "tags": TAGS, "marks": MARKS}
        finished = finish(reader, target, **arguments, data_key=reader.data_key)
        in_clear = finish(reader, tmp_path / "also", **arguments)
    check_told(finished, target)
    assert finished.media_type == ENCRYPTED_MEDIA_TYPE
    decrypt_file(target, tmp_path / "clear", keys)
    expected = streamed(AUDIO[2], format=format, sample_rate=sample_rate, marks=MARKS)
    assert (tmp_path / "clear").read_bytes() == check_told(in_clear, tmp_path / "also") == expected
    assert finished.frames == in_clear.frames
    assert AUDIO[2].tobytes()[1000:1100] not in target.read_bytes()


def test_an_encrypted_spool_file_is_not_taken_for_a_damaged_one(tmp_path):
    with (tmp_path / "spool").open("w+b") as file:
        SealedFile(file, keys_in(tmp_path).new_data_key()).finish()
    with pytest.raises(UsageError, match="encrypted"):
        finish(tmp_path / "spool", tmp_path / "call.wav", format="wav")


# ---- while the call runs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "sample_rate"), WHAT)
@SLOW
@given(cuts=st.lists(st.integers(0, 8000), max_size=5))
def test_a_file_that_was_begun_while_the_call_ran_ends_as_the_same(tmp_path, format, sample_rate, cuts):
    spool, target = spool_of(tmp_path / "spool.wav", AUDIO[2]), tmp_path / "call"
    begun = Finishing(target, format=format, channels=2, from_rate=8000, sample_rate=sample_rate, tags=TAGS)
    edges = sorted(cuts)
    for begin, end in zip([0, *edges], edges, strict=False):
        begun.add(AUDIO[2][begin:end].tobytes())
    assert begun.frames_taken == (edges[-1] if edges else 0)
    finished = finish(
        spool, target, format=format, sample_rate=sample_rate, tags=TAGS, marks=MARKS, begun=begun
    )
    expected = streamed(AUDIO[2], format=format, sample_rate=sample_rate, marks=MARKS)
    assert check_told(finished, target) == expected


def test_a_file_that_is_discarded_leaves_nothing(tmp_path):
    begun = Finishing(tmp_path / "call.mp3", format="mp3", channels=2, from_rate=8000)
    begun.add(AUDIO[2].tobytes())
    begun.discard()
    begun.discard()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="whole number"):
        Finishing(tmp_path / "call.mp3", format="mp3", channels=2, from_rate=8000).add(b"123")


# ---- what it costs -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three_minutes(tmp_path_factory):
    audio = np.tile(noise(80_000, 2), (18, 1))
    return spool_of(tmp_path_factory.mktemp("spool") / "spool.wav", audio)


def test_three_minutes_of_stereo_mp3_take_little_more_cpu_than_lame(three_minutes, tmp_path):
    frames = three_minutes.read_bytes()[-180 * 32_000 :]

    def cpu_s(work):
        times = []
        for _ in range(2):
            before = resource.getrusage(resource.RUSAGE_THREAD)
            work()
            after = resource.getrusage(resource.RUSAGE_THREAD)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(times)

    def encode():
        file = FORMATS["mp3"](sample_rate=8000, channels=2)
        file.start()
        for at in range(0, len(frames), 1 << 17):
            file.add(frames[at : at + (1 << 17)])
        file.finish()

    alone = cpu_s(encode)
    assert cpu_s(lambda: finish(three_minutes, tmp_path / "call.mp3", format="mp3")) < 1.5 * alone + 0.05


@pytest.mark.parametrize(("format", "sample_rate"), WHAT)
def test_memory_does_not_grow_with_the_recording(three_minutes, tmp_path, format, sample_rate):
    spool = tmp_path / "spool.wav"
    spool.write_bytes(three_minutes.read_bytes())
    finish(spool, tmp_path / "first", format=format, sample_rate=sample_rate)
    tracemalloc.start()
    try:
        finish(spool, tmp_path / "second", format=format, sample_rate=sample_rate)
        assert tracemalloc.get_traced_memory()[1] < 2_500_000
    finally:
        tracemalloc.stop()
