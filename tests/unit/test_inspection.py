import argparse
import io
import json
import math
import os
import sys
import tracemalloc
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callreel import cli_inspect
from callreel.actions import Layout
from callreel.audiofile import NotDecodableError, open_audio
from callreel.errors import Mp3Error, WavError
from callreel.formats import Mp3, Wav
from callreel.inspection import inspect
from callreel.kernels import mp3, tone, wav
from callreel.verification import verify
from recordings import record, rewrite, run

SHIPPED = Path(__file__).parents[1] / "data"


def audio_files():
    """Every WAV and MP3 there is, each once, under its path in the folder it was found in."""
    found = {}
    for folder in (os.environ.get("CALLREEL_TEST_DATA"), SHIPPED):
        if folder is not None:
            for path in sorted(Path(folder).rglob("*")):
                if path.suffix in (".wav", ".mp3"):
                    found[path.relative_to(folder).as_posix()] = path
    return [pytest.param(path, id=name) for name, path in sorted(found.items())]


def write(path, writes):
    """Apply the writes of a format to a new file."""
    data = bytearray()
    for offset, piece in writes:
        data.extend(bytes(max(0, offset + len(piece) - len(data))))
        data[offset : offset + len(piece)] = piece
    path.write_bytes(data)
    return path


def encoded(path, kind, pcm, *, sample_rate=8000, channels=1):
    file = kind(sample_rate=sample_rate, channels=channels)
    return write(path, [*file.start(), *file.add(pcm), *file.finish()])


def samples_of(path):
    with open_audio(path) as audio:
        return np.frombuffer(b"".join(audio.pcm()), np.int16)


# -- every file there is -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", audio_files())
def test_every_file_passes_through_inspect_and_verify(path, tmp_path):
    words = run("inspect", path)
    plot = tmp_path / "plot.svg"
    objects = run("inspect", "--json", "--plot", plot, path)
    assert words.status == objects.status
    assert words.status in (0, 1)
    (report,) = objects.objects
    assert Path(report["file"]).name == path.name
    if "error" in report:
        assert words.status == 1
        assert report["error"] in words.err
    else:
        assert words.out.startswith(str(path))
        assert ElementTree.parse(plot).getroot().get("role") == "img"
        assert report["ok"] == (words.status == 0)

    checked = run("verify", path)
    (report,) = run("verify", "--json", path).objects
    assert checked.status == (0 if report["ok"] else 1)
    assert report["ok"] == (not report["findings"])
    assert checked.out.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("name", "frames", "sample_rate", "channels", "container", "encoding"),
    [
        ("dtmf/digits.1234.16000hz.wav", 27200, 16000, 1, "RIFF", "16-bit PCM"),
        ("dtmf/tino-stereo.wav", 8000, 8000, 2, "RIFF", "16-bit PCM"),
        ("wav/hound-pcmwaveformat-8bit-44100Hz-mono.wav", 4, 44100, 1, "RIFF", "8-bit PCM"),
        ("wav/hound-waveformatextensible-24bit-192kHz-mono.wav", 4, 192000, 1, "RIFF", "24-bit PCM"),
        ("wav/hound-waveformatextensible-ieeefloat-44100Hz-mono.wav", 4, 44100, 1, "RIFF", "32-bit float"),
        ("wav/pluck-pcm8.wav", 3307, 11025, 2, "RIFF", "8-bit PCM"),
        ("wav/test-1234Hz-le-1ch-10S-20bit-extra.wav", 10, 1234, 1, "RIFF", "20-bit PCM"),
        ("wav/test-44100Hz-be-1ch-4bytes.wav", 4410, 44100, 1, "RIFX", "32-bit PCM"),
        ("wav/test-48000Hz-2ch-64bit-float-le-wavex.wav", 480, 48000, 2, "RIFF", "64-bit float"),
        ("wav/test-8000Hz-le-1ch-1byte-ulaw.wav", 9, 8000, 1, "RIFF", "µ-law"),
        ("wav/test-8000Hz-le-3ch-5S-24bit-rf64.wav", 5, 8000, 3, "RF64", "24-bit PCM"),
        ("wav/tinytag-riff_extra_zero.wav", 5120, 44100, 2, "RIFF", "16-bit PCM"),
        ("mp3/tinytag-mpeg1_44_1khz_cbr.mp3", 4410, 44100, 2, "MP3", "MPEG-1 layer III, joint stereo"),
        ("mp3/tinytag-mpeg25_8khz_vbr.mp3", 800, 8000, 2, "MP3", "MPEG-2.5 layer III, joint stereo"),
        ("mp3/tinytag-mpeg2_16khz_vbr.mp3", 1600, 16000, 2, "MP3", "MPEG-2 layer III, joint stereo"),
        ("mp3/tinytag-silence-22khz-mono-1s.mp3", 23616, 22050, 1, "MP3", "MPEG-2 layer III, mono"),
        ("mp3/tinytag-vbr8.mp3", 72320, 8000, 1, "MP3", "MPEG-2.5 layer III, mono, variable"),
        ("mp3/l3-nonstandard-id3v1.bit.mp3", 1152, 48000, 1, "MP3", "MPEG-1 layer III, mono"),
        ("mp3/l3-nonstandard-apetag.bit.mp3", 1152, 48000, 1, "MP3", "MPEG-1 layer III, mono"),
    ],
)
def test_shipped_files_are_what_they_are_known_to_be(
    test_data, name, frames, sample_rate, channels, container, encoding
):
    outcome = run("inspect", "--json", test_data(name))
    (report,) = outcome.objects
    assert outcome.status == 0
    assert report["frames"] == frames
    assert report["duration"] == pytest.approx(frames / sample_rate, abs=1e-6)
    assert (report["sample_rate"], report["channels"], report["container"]) == (
        sample_rate,
        channels,
        container,
    )
    assert report["encoding"].startswith(encoding)
    assert len(report["measured"]) == channels
    assert len(samples_of(test_data(name))) == frames * channels


@pytest.mark.parametrize(
    ("name", "digits"),
    [
        ("digits.1234.16000hz.wav", ["1234"]),
        ("digits.321.unclean.8000hz.wav", ["321"]),
        ("tino-one_distorted.wav", ["1"]),
        ("tino-stereo.wav", ["12345", "67890"]),
        ("tonedetect-50by50-radio-0db-0123456789psABCD.wav", ["0123456789#*ABCD"]),
        ("digits.1234.44100hz.wav", ["1234"]),
        ("tino-whiteNoise.wav", [""]),
    ],
)
def test_digits_are_found_in_each_channel(test_data, name, digits):
    path = test_data(f"dtmf/{name}")
    (report,) = run("inspect", "--json", path).objects
    found = ["".join(digit["symbol"] for digit in channel["digits"]) for channel in report["measured"]]
    assert found == digits
    words = run("inspect", path).out
    assert all(f"tones heard: {one or 'none'}" in words for one in digits)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wav/test-44100Hz-le-1ch-4bytes-early-eof.wav", "the data chunk declares 17640 bytes"),
        ("wav/hound-crash-24728523ef4be15c838293b676f6853e73723bf4.wav", "the fmt chunk is cut off"),
        ("wav/hound-oom-48ae4cd061ff8578ad3f23dc87624bd365cf5216.wav", "no fmt chunk"),
        ("mp3/l3-nonstandard-vbrtag-corrupted.bit.mp3", "its own CRC is wrong"),
        ("mp3/l3-nonstandard-small.bit.mp3", "neither a WAV file nor an MP3 file"),
        ("mp3/tinytag-incomplete.mp3", "neither a WAV file nor an MP3 file"),
    ],
)
def test_damage_is_named_and_makes_the_exit_status_1(test_data, name, words):
    for command in ("inspect", "verify"):
        outcome = run(command, test_data(name))
        assert outcome.status == 1
        assert words in outcome.out + outcome.err


# -- what is measured ----------------------------------------------------------------------------------------


def test_levels_are_those_of_the_signal(tmp_path):
    rng = np.random.default_rng(7)
    left = np.frombuffer(tone.sine(1000, 20.0, -10.0, 8000), np.int16)
    right = rng.normal(0, 900, left.size).round().astype(np.int16)
    path = encoded(tmp_path / "x.wav", Wav, np.stack([left, right], 1).tobytes(), channels=2)
    for channel, samples in zip(inspect(path).measured, (left, right), strict=True):
        full = 3.14 + 20 * math.log10(math.sqrt(2) / 32768)
        rms = 20 * math.log10(math.sqrt(np.mean(samples.astype(float) ** 2))) + full
        peak = 20 * math.log10(np.abs(samples.astype(float)).max() / 32768) + 3.14
        assert channel.rms_dbm0 == pytest.approx(rms, abs=0.01)
        assert channel.peak_dbm0 == pytest.approx(peak, abs=0.01)
    assert inspect(path).measured[0].rms_dbm0 == pytest.approx(-10.0, abs=0.02)


@pytest.mark.parametrize(
    ("samples", "clipped"),
    [([32767, -32768, 32767, 0], 3), ([32766, -32767], 0), ([], 0), ([32124, -32124, 32256], 0)],
)
def test_samples_at_the_limit_of_16_bits_are_clipped(tmp_path, samples, clipped):
    path = encoded(tmp_path / "x.wav", Wav, np.array(samples, np.int16).tobytes())
    assert inspect(path).measured[0].clipped_samples == clipped


@pytest.mark.parametrize(
    ("encoding", "codes", "clipped"),
    [
        ("ulaw", bytes([0x80, 0x00, 0x81, 0x01, 0xFF]), 2),  # the two largest codes, their neighbours, zero
        ("alaw", bytes([0xAA, 0x2A, 0xAB, 0xD5]), 2),
    ],
)
def test_g711_clips_at_its_largest_codes(tmp_path, encoding, codes, clipped):
    path = tmp_path / "x.wav"
    header = wav.header(sample_rate=8000, channels=1, encoding=encoding, frames=len(codes))
    path.write_bytes(header + codes + bytes(len(codes) % 2))
    assert inspect(path).measured[0].clipped_samples == clipped


def test_8_bit_pcm_clips_at_its_largest_value(tmp_path):
    fmt = b"fmt " + (16).to_bytes(4, "little") + bytes.fromhex("0100 0100 401f0000 401f0000 0100 0800")
    body = b"WAVE" + fmt + b"data" + (4).to_bytes(4, "little") + bytes([255, 0, 254, 128])
    path = tmp_path / "x.wav"
    path.write_bytes(b"RIFF" + len(body).to_bytes(4, "little") + body)
    assert inspect(path).measured[0].clipped_samples == 2


def test_16_bit_pcm_that_was_g711_on_the_wire_clips_where_g711_does(tmp_path):
    recorded = record(tmp_path, seconds=0.5)
    header_bytes = inspect(recorded.path).wav.data_offset
    with recorded.path.open("r+b") as file:
        file.seek(header_bytes)
        file.write(np.array([32124, 0, -32124, 32124], np.int16).tobytes())
    channels = inspect(recorded.path).measured
    assert [channel.clipped_samples for channel in channels] == [2, 1]
    recorded.manifest_path.unlink()
    assert [channel.clipped_samples for channel in inspect(recorded.path).measured] == [0, 0]


def test_the_share_of_silence_is_that_of_20_ms_stretches(tmp_path):
    loud = tone.sine(400, 3.0, -20, 8000)
    quiet = tone.sine(400, 1.0, -60, 8000)
    path = encoded(tmp_path / "x.wav", Wav, bytes(loud) + bytes(quiet))
    assert inspect(path).measured[0].silent_share == pytest.approx(0.25, abs=0.006)
    short = encoded(tmp_path / "y.wav", Wav, bytes(100))
    assert inspect(short).measured[0].silent_share is None


def test_measures_do_not_depend_on_how_the_file_is_read(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    audio = rng.integers(-3000, 3000, 40_000).astype(np.int16).tobytes()
    path = encoded(tmp_path / "x.wav", Wav, audio, channels=2)
    whole = inspect(path, columns=50).measured
    monkeypatch.setattr("callreel.audiofile.PIECE_BYTES", 1234)
    for one, other in zip(inspect(path, columns=50).measured, whole, strict=True):
        assert one.rms_dbm0 == pytest.approx(other.rms_dbm0, abs=1e-9)
        assert (one.peak_dbm0, one.silent_share, one.digits) == (
            other.peak_dbm0,
            other.silent_share,
            other.digits,
        )
        assert one.envelope.low == other.envelope.low
        assert one.envelope.rms == pytest.approx(other.envelope.rms, abs=1e-9)


def test_digits_are_not_looked_for_where_the_detector_cannot_work(test_data):
    for name, rate in (
        ("wav/hound-waveformatextensible-24bit-192kHz-mono.wav", 192000),
        ("wav/test-1234Hz-le-1ch-10S-20bit-extra.wav", 1234),
    ):
        assert inspect(test_data(name)).measured[0].digits is None
        assert f"not looked for at {rate} Hz" in run("inspect", test_data(name)).out


def test_audio_in_a_foreign_encoding_is_described_and_not_measured(test_data):
    for name, encoding in (("gsm_6_10", "GSM 6.10"), ("mp3_audio", "MPEG layer III")):
        path = test_data(f"wav/tinytag-{name}.wav")
        outcome = run("inspect", path)
        assert encoding in outcome.out
        assert "not measured" in outcome.out
        with open_audio(path) as audio, pytest.raises(NotDecodableError):
            next(audio.pcm())


def test_three_hours_are_read_in_little_memory(tmp_path):
    path = tmp_path / "long.wav"
    header = wav.header(sample_rate=8000, channels=1, frames=3 * 3600 * 8000)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 2 * 3 * 3600 * 8000)  # sparse: takes no room
    tracemalloc.start()
    try:
        inspection = inspect(path)
        verify(path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert inspection.duration_s == 3 * 3600
    assert inspection.measured[0].rms_dbm0 == -math.inf
    assert peak_bytes < 16 << 20


@pytest.mark.parametrize("channels", [1, 2, 255, 65535])
def test_a_header_that_promises_much_is_not_believed(tmp_path, channels):
    path = tmp_path / "x.wav"
    # A chunk of 4 GiB, as many channels as the field can hold, at a sample rate of 4 GHz.
    fmt = (1).to_bytes(2, "little") + channels.to_bytes(2, "little") + bytes(4 * [255]) * 2
    fmt += min(65535, channels).to_bytes(2, "little") + (8).to_bytes(2, "little")
    body = b"WAVEfmt " + (16).to_bytes(4, "little") + fmt + b"data" + bytes(4 * [254]) + bytes(70_000)
    path.write_bytes(b"RIFF" + bytes(4 * [254]) + body)
    tracemalloc.start()
    try:
        inspection = inspect(path, columns=1000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert inspection.channels == channels
    assert inspection.frames == 70_000 // channels
    assert peak_bytes < 8 << 20
    assert run("inspect", path).status == 1


# -- MP3 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample_rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("frames", [1, 1151, 1152, 30_000])
def test_mp3_decodes_to_exactly_the_frames_that_went_in(tmp_path, sample_rate, frames):
    rng = np.random.default_rng(frames)
    audio = np.convolve(rng.normal(0, 6000, frames + 63), np.ones(64) / 8, "valid").round().astype(np.int16)
    path = encoded(tmp_path / "x.mp3", Mp3, audio.tobytes(), sample_rate=sample_rate)
    decoded = samples_of(path)
    assert len(decoded) == frames
    assert inspect(path).is_sound
    assert verify(path).findings == ()
    if frames > 10_000:
        correlation = np.correlate(decoded.astype(float), audio[1000:-1000].astype(float), "valid")
        assert int(correlation.argmax()) == 1000


ID3V1 = b"TAG" + b"x" * 125
APE = b"APETAGEX" + bytes.fromhex("d0070000 20000000 00000000 00000000 00000000 00000000")


@pytest.mark.parametrize("behind", [ID3V1, APE, APE + ID3V1], ids=["ID3v1", "APE", "both"])
@pytest.mark.parametrize("name", ["tinytag-vbr8.mp3", "tinytag-mpeg1_44_1khz_cbr.mp3"])
def test_a_tag_behind_the_music_costs_no_frame(test_data, tmp_path, name, behind):
    data = test_data(f"mp3/{name}").read_bytes()
    path = tmp_path / "x.mp3"
    path.write_bytes(data + behind)
    expected = samples_of(test_data(f"mp3/{name}"))
    assert len(expected)
    assert np.array_equal(samples_of(path), expected)


@pytest.mark.parametrize("between", [bytes(300), b"zz" * 5000, ID3V1], ids=["zeros", "letters", "ID3v1"])
def test_junk_amid_the_music_costs_no_frame_and_is_told(test_data, tmp_path, between):
    data = test_data("mp3/tinytag-vbr8.mp3").read_bytes()
    middle = list(mp3.frames(data))[60].offset
    path = tmp_path / "x.mp3"
    path.write_bytes(data[:middle] + between + data[middle:])
    assert np.array_equal(samples_of(path), samples_of(test_data("mp3/tinytag-vbr8.mp3")))
    outcome = run("verify", path)
    assert outcome.status == 1
    assert "the file holds" in outcome.out


@pytest.mark.parametrize("piece_bytes", [20_000, 21_001, 40_000])
def test_what_is_decoded_does_not_depend_on_how_the_file_is_read(
    test_data, tmp_path, monkeypatch, piece_bytes
):
    data = test_data("mp3/tinytag-silence-22khz-mono-1s.mp3").read_bytes()
    path = tmp_path / "x.mp3"
    path.write_bytes(data * 40)
    expected = samples_of(path)
    monkeypatch.setattr("callreel.audiofile.PIECE_BYTES", piece_bytes)
    assert len(expected) == 40 * 23616
    assert np.array_equal(samples_of(path), expected)


def test_mpeg_frames_that_lean_on_lost_ones_are_damage(tmp_path):
    speech = np.random.default_rng(5).normal(0, 4000, 60_000).round().astype(np.int16)
    path = encoded(tmp_path / "x.mp3", Mp3, speech.tobytes())
    data = path.read_bytes()
    frames = list(mp3.frames(data))
    path.write_bytes(data[frames[40].offset :])  # begins in the midst of the bit reservoir
    whole = mp3.scan(path.read_bytes()).frames_pcm
    there = len(samples_of(path))
    assert there < whole
    for command in ("inspect", "verify"):
        outcome = run(command, path)
        assert outcome.status == 1
        assert f"{there} of {whole} frames can be decoded" in outcome.out


def test_an_mp3_without_a_decoder_is_still_described(test_data, monkeypatch):
    monkeypatch.setitem(sys.modules, "miniaudio", None)
    outcome = run("inspect", test_data("mp3/tinytag-vbr8.mp3"))
    assert outcome.status == 1
    assert "decoding MP3 needs the package miniaudio" in outcome.out
    assert "72320 frames" in outcome.out


# -- chunks, tags, manifest ----------------------------------------------------------------------------------


def test_a_wav_file_is_shown_with_its_chunks_texts_marks_and_bext(tmp_path):
    path = tmp_path / "x.wav"
    cues = [wav.Cue(frame=800, label="5 incoming", duration_frames=960)]
    end = wav.trailer(cues=cues, data_bytes=16_000)
    head = wav.header(
        sample_rate=8000,
        channels=1,
        frames=8000,
        info={"title": "Call 7"},
        bext=wav.Bext(originator="callreel"),
        trailer_bytes=len(end),
    )
    path.write_bytes(head + bytes(16_000) + end)
    outcome = run("inspect", path)
    assert outcome.status == 0
    for words in (
        "'data' at byte",
        "INAM: Call 7",
        "originator: callreel",
        "0:00:00.100 for 120 ms 5 incoming",
    ):
        assert words in outcome.out
    (report,) = run("inspect", "--json", path).objects
    assert [chunk["id"] for chunk in report["wav"]["chunks"]][-3:] == ["data", "cue ", "LIST"]
    assert report["wav"]["cues"] == [
        {"frame": 800, "duration_frames": 960, "label": "5 incoming", "note": ""}
    ]
    assert report["wav"]["bext"]["originator"] == "callreel"


def test_an_mp3_file_is_shown_with_its_tags_and_the_encoders_words(tmp_path):
    recorded = record(tmp_path, format="mp3")
    outcome = run("inspect", recorded.path)
    assert outcome.status == 0
    for words in (
        "encoder delay 623, padding",
        "Info frame, encoder LAME3.100",
        "CRC of the frame right, of the music right",
        "tags       ID3v2",
        "TIT2: Call call-7f3",
        "TLEN: 2000",
    ):
        assert words in outcome.out


def test_the_manifest_beside_a_file_is_shown_with_it(tmp_path):
    recorded = record(tmp_path)
    outcome = run("inspect", recorded.path)
    assert outcome.status == 0
    for words in (
        "incoming   RMS",
        "outgoing   RMS",
        "call call-7f3, began 2026-03-01T12:00:00.000Z, ended by hangup",
        "LEG-A incoming: PCMU, 100 received; 0 ms concealed, 0 ms filled with silence",
        "digits: 1 (incoming), 5 (incoming), # (incoming)",
    ):
        assert words in outcome.out
    assert run("inspect", "--json", recorded.path).objects[0]["manifest"] == recorded.manifest
    assert run("inspect", recorded.manifest_path).out == outcome.out


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        (Layout.INCOMING, ["incoming"]),
        (Layout.OUTGOING, ["outgoing"]),
        (Layout.MIX, ["incoming + outgoing"]),
        (Layout.STEREO, ["incoming", "outgoing"]),
    ],
)
def test_channels_are_named_by_their_tracks(tmp_path, layout, names):
    recorded = record(tmp_path, layout=layout)
    assert [channel.name for channel in inspect(recorded.path).measured] == names
    assert verify(recorded.path).is_sound


def test_a_degraded_recording_has_exit_status_1_though_the_file_is_intact(tmp_path):
    recorded = record(tmp_path, lost=range(20, 40))
    assert recorded.manifest["degraded"]
    outcome = run("inspect", recorded.path)
    assert outcome.status == 1
    assert "degraded   lost packets 40" in outcome.out
    outcome = run("verify", recorded.path)
    assert outcome.status == 1
    assert outcome.out.endswith("intact, but the recording is degraded: lost packets 40\n")
    (report,) = run("verify", "--json", recorded.path).objects
    assert report["findings"] == []
    assert report["degraded"] == {"lost_packets": 40}


def test_an_unreadable_manifest_is_told_and_the_file_still_shown(tmp_path):
    recorded = record(tmp_path)
    recorded.manifest_path.write_bytes(b"\xff\xfe{")
    outcome = run("inspect", recorded.path)
    assert outcome.status == 1
    assert "not UTF-8 text (at byte 0)" in outcome.out
    assert "2 channels" in outcome.out


def test_nothing_in_a_file_moves_the_cursor_of_the_terminal(tmp_path):
    path = tmp_path / "x.wav"
    text = "\x1b[2J\r\n\u202ehidden"
    path.write_bytes(wav.header(sample_rate=8000, channels=1, frames=0, info={"title": text}))
    outcome = run("inspect", path)
    assert r"INAM: \x1b[2J\r\n\u202ehidden" in outcome.out
    recorded = record(tmp_path)
    rewrite(recorded, call_id="\ud800\x1b]0;x\x07")
    outcome = run("inspect", recorded.path)
    assert r"call \ud800\x1b]0;x\x07, began" in outcome.out


def test_texts_that_the_output_cannot_hold_are_escaped(tmp_path, monkeypatch):
    recorded = record(tmp_path, call_id="Grüße")
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    parser = argparse.ArgumentParser()
    cli_inspect.add_inspect_arguments(parser)
    assert cli_inspect.run_inspect(parser.parse_args([str(recorded.path)])) == 0
    sys.stdout.flush()
    assert rb"call Gr\xfc\xdfe, began" in raw.getvalue()


# -- verify --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["wav", "mp3"])
def recorded(request, tmp_path):
    return record(tmp_path, format=request.param)


def test_a_recording_is_verified_by_its_own_name_and_by_its_manifests(recorded):
    for path in (recorded.path, recorded.manifest_path):
        outcome = run("verify", path)
        assert outcome.out == f"{recorded.path}: ok\n"
        assert outcome.status == 0


def test_without_a_manifest_a_file_is_held_against_itself(recorded):
    recorded.manifest_path.unlink()
    outcome = run("verify", recorded.path)
    assert outcome.out == f"{recorded.path}: ok (no manifest)\n"
    assert outcome.status == 0
    assert verify(recorded.path).manifest_path is None


def test_a_flipped_byte_of_the_audio_is_found(recorded):
    data = bytearray(recorded.path.read_bytes())
    data[len(data) // 2] ^= 0x10
    recorded.path.write_bytes(data)
    outcome = run("verify", recorded.path)
    assert outcome.status == 1
    assert "sha256: the manifest says" in outcome.out


@pytest.mark.parametrize(
    ("format", "offset", "value", "words"),
    [
        ("wav", 0, ord("X"), "neither a WAV file nor an MP3 file"),
        ("wav", 4, 0xEE, "the RIFF size says"),
        ("wav", 58, 1, "channels: the manifest says 2, the file has 1"),
        ("wav", 60, 0x41, "sample_rate: the manifest says 8000, the file has 8001"),
        ("wav", 64, 1, "the byte rate says"),
        ("wav", 70, 8, "frame has 4 bytes"),
        ("mp3", 0, ord("X"), "bytes are in no MPEG frame and no tag"),
        ("mp3", 1024 + 40, 0xEE, "Info frame: its own CRC is wrong"),
    ],
)
def test_a_changed_byte_of_the_header_is_found_and_named(tmp_path, format, offset, value, words):
    recorded = record(tmp_path, format=format)
    data = bytearray(recorded.path.read_bytes())
    assert data[offset] != value
    data[offset] = value
    recorded.path.write_bytes(data)
    outcome = run("verify", recorded.path)
    assert outcome.status == 1
    assert "sha256: the manifest says" in outcome.out
    assert words in outcome.out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frames": 15_999, "duration": 1.999875}, "frames: the manifest says 15999, the file has 16000"),
        (
            {"frames": 15_999, "duration": 1.999875},
            "duration: the manifest says 1.999875 s, the file lasts 2.0",
        ),
        ({"duration": 2.001}, "duration is 2.001 s, 16000 frames at 8000 Hz last 2.000000 s"),
        ({"sample_rate": 16_000, "duration": 1.0}, "sample_rate: the manifest says 16000, the file has 8000"),
        ({"channels": 1, "layout": "mix"}, "channels: the manifest says 1, the file has 2"),
        ({"bytes": 17}, "bytes: the manifest says 17, the file has"),
        ({"bytes": None}, "bytes: the manifest does not say"),
        ({"sha256": "0" * 64}, f"sha256: the manifest says {'0' * 64}, the file has"),
        ({"sha256": 5}, "sha256 is not 64 lower-case hexadecimal digits: 5"),
        ({"version": 2}, "version is not 1: 2"),
        ({"digits": [{"symbol": "E"}]}, "digits[0].symbol is not"),
        ({"frames": 10**400}, "frames is not a number of frames"),
        ({"duration": 10**400}, "duration is not seconds"),
    ],
)
def test_a_manifest_that_says_otherwise_is_found_and_named(recorded, changes, words):
    rewrite(recorded, **changes)
    outcome = run("verify", recorded.path)
    assert outcome.status == 1
    assert words in outcome.out


def test_a_manifest_of_the_other_format_is_found(recorded):
    there = recorded.manifest["format"]
    said = {"wav": "mp3", "mp3": "wav"}[there]
    rewrite(recorded, format=said)
    assert f"format: the manifest says {said}, the file has {there}" in run("verify", recorded.path).out


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "manifest: not JSON"),
        (b"[1, 2]", "manifest: not a JSON object"),
        (b"[" * 100_000, "manifest: nested too deeply"),
        (b"{" + b" " * (9 << 20), "manifest: longer than"),
        (b"\xff", "manifest: not UTF-8 text"),
        (b"{}", "manifest: version is missing"),
    ],
)
def test_a_hostile_manifest_is_a_finding(recorded, data, words):
    recorded.manifest_path.write_bytes(data)
    for path in (recorded.path, recorded.manifest_path):
        outcome = run("verify", path)
        assert outcome.status == 1
        assert words in outcome.out


def test_a_manifest_that_is_a_folder_is_a_finding(recorded):
    recorded.manifest_path.unlink()
    recorded.manifest_path.mkdir()
    for command in ("inspect", "verify"):
        outcome = run(command, recorded.path)
        assert outcome.status == 1
        assert "not to be read" in outcome.out


def test_audio_that_is_gone_is_a_finding(recorded):
    recorded.path.unlink()
    for command in ("inspect", "verify"):
        outcome = run(command, recorded.manifest_path)
        assert outcome.status == 1
        assert f"the audio file {recorded.path.name} is missing" in outcome.out + outcome.err


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_truncated_file_is_found(recorded, share, with_manifest):
    data = recorded.path.read_bytes()
    recorded.path.write_bytes(data[: int(share * len(data))])
    if not with_manifest:
        recorded.manifest_path.unlink()
    outcome = run("verify", recorded.path)
    assert outcome.status == 1
    assert (f"bytes: the manifest says {len(data)}" in outcome.out) == with_manifest
    assert run("inspect", recorded.path).status == 1


# -- what is no recording ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_what_is_no_readable_file_has_exit_status_2(tmp_path, command):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder.wav").mkdir()
    for name in ("missing.wav", "missing.wav.json", "pipe", "folder.wav", "x" * 300):
        outcome = run(command, tmp_path / name)
        assert outcome.status == 2
        assert outcome.out == ""
        assert str(tmp_path / name) in outcome.err
        outcome = run(command, "--json", tmp_path / name)
        assert outcome.status == 2
        assert "error" in outcome.objects[0]


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_of_several_files_the_worst_counts(test_data, tmp_path, command):
    good = test_data("dtmf/tino-one_distorted.wav")
    bad = test_data("mp3/tinytag-incomplete.mp3")
    assert run(command, good, good).status == 0
    assert run(command, good, bad, good).status == 1
    assert run(command, tmp_path / "missing", bad, good).status == 2
    assert len(run(command, "--json", tmp_path / "missing", bad, good).objects) == 3


def test_the_name_of_a_file_decides_nothing(test_data, tmp_path):
    for name, shown in (("dtmf/tino-one_distorted.wav", "WAV"), ("mp3/tinytag-vbr8.mp3", "MP3")):
        for other in ("x.mp3", "x.wav", "x"):
            path = tmp_path / other
            path.write_bytes(test_data(name).read_bytes())
            assert f"format     {shown}" in run("inspect", path).out
    renamed = tmp_path / "x.json"
    renamed.write_bytes(test_data("dtmf/tino-one_distorted.wav").read_bytes())
    assert run("verify", renamed).status == 0
    assert run("inspect", renamed).status == 0


def test_open_audio_tells_a_broken_wav_file_from_no_audio_at_all(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"RIFF\0\0\0\0WAVE")
    with pytest.raises(WavError):
        open_audio(path)
    path.write_bytes(b"hello")
    with pytest.raises(Mp3Error, match="neither a WAV file nor an MP3 file"):
        open_audio(path)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_long_work_shows_its_progress_on_a_terminal_only(tmp_path, monkeypatch):
    recorded = record(tmp_path, format="mp3")
    monkeypatch.setattr(cli_inspect, "PROGRESS_AFTER_S", 0.0)
    monkeypatch.setattr(cli_inspect, "PROGRESS_EVERY_S", 0.0)
    assert run("inspect", recorded.path).err == ""
    for command in ("inspect", "verify"):
        terminal = Terminal()
        progress = cli_inspect._Progress(terminal, "call.mp3")
        {"inspect": inspect, "verify": verify}[command](recorded.path, progress=progress)
        assert "\rcall.mp3 100%" in terminal.getvalue()
        progress.clear()
        assert terminal.getvalue().endswith(" \r")


def test_short_work_shows_no_progress(tmp_path):
    terminal = Terminal()
    verify(record(tmp_path).path, progress=cli_inspect._Progress(terminal, "x"))
    assert terminal.getvalue() == ""


# -- anything at all -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A folder to write in, and the bytes of a recording in each format with its manifest."""
    folder = tmp_path_factory.mktemp("bench")
    made = {kind: record(folder / kind, format=kind, seconds=0.3) for kind in ("wav", "mp3")}
    return folder, {
        kind: (one.path.read_bytes(), one.manifest_path.read_bytes()) for kind, one in made.items()
    }


def check_passes(path):
    for command in ("inspect", "verify"):
        outcome = run(command, "--json", path)
        assert outcome.status in (0, 1)
        (report,) = outcome.objects
        assert ("error" in report) or (report["ok"] == (outcome.status == 0))


@given(
    start=st.sampled_from(
        [b"", b"RIFF", b"RIFF\0\0\0\0WAVEfmt ", b"RF64\xff\xff\xff\xffWAVEds64", b"ID3\x04", b"\xff\xfb"]
    ),
    data=st.binary(max_size=300),
)
@settings(deadline=None, max_examples=150)
def test_any_bytes_pass_through(bench, start, data):
    path = bench[0] / "any"
    path.write_bytes(start + data)
    check_passes(path)


@given(
    kind=st.sampled_from(["wav", "mp3"]),
    edits=st.lists(
        st.tuples(st.integers(0, 3000), st.binary(min_size=1, max_size=6)), min_size=1, max_size=4
    ),
    drop=st.tuples(st.integers(0, 3000), st.integers(0, 500)),
)
@settings(deadline=None, max_examples=100)
def test_any_change_of_a_file_passes_through_and_is_found(bench, kind, edits, drop):
    folder, originals = bench
    original, manifest = originals[kind]
    data = bytearray(original)
    for offset, piece in edits:
        data[offset : offset + len(piece)] = piece
    del data[drop[0] : sum(drop)]
    path = folder / f"changed.{kind}"
    path.write_bytes(data)
    path.with_name(path.name + ".json").write_bytes(manifest)
    check_passes(path)
    assert (run("verify", path).status == 0) == (data == original)


@given(
    edits=st.lists(
        st.tuples(st.integers(0, 2000), st.sampled_from(list(b'{}[],:"0919eE-.ntx\xff\\ '))),
        min_size=1,
        max_size=3,
    )
)
@settings(deadline=None, max_examples=100)
def test_any_change_of_a_manifest_passes_through(bench, edits):
    folder, originals = bench
    original, manifest = originals["wav"]
    changed = bytearray(manifest)
    for offset, byte in edits:
        changed[offset % len(changed)] = byte
    path = folder / "manifest.wav"
    path.write_bytes(original)
    path.with_name(path.name + ".json").write_bytes(changed)
    check_passes(path)


@given(
    document=st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["version", "tracks", "digits", "degraded", "frames", "sha256"]), inner
            )
        ),
        max_leaves=6,
    )
)
@settings(deadline=None, max_examples=60)
def test_any_json_as_manifest_is_a_finding(bench, document):
    folder, originals = bench
    path = folder / "json.wav"
    path.write_bytes(originals["wav"][0])
    path.with_name(path.name + ".json").write_text(json.dumps(document))
    check_passes(path)
    outcome = run("verify", path)
    assert outcome.status == 1
    assert "manifest: " in outcome.out
