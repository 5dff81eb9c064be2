"""MP3 files: exact lengths in three independent decoders, the Info frame, bit rates, tags."""

import io
import os
import subprocess
import sys
from functools import partial

import av
import numpy as np
import pytest

from audio_files import READERS, apply, by_mpg123, correlation, noise
from audio_files import encode as encode_any
from callreel.formats import Mp3
from callreel.kernels import mp3

encode = partial(encode_any, "mp3")
DECODERS = READERS["mp3"]
LENGTHS = [0, 1, 2, 46, 47, 48, 100, 575, 576, 577, 1104, 1105, 1151, 1152, 1153, 8000, 80_000, 31_337]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("sample_rate", [8000, 16000, 48000])
def test_decoders_give_back_exactly_the_frames_added_and_in_their_place(sample_rate, channels, decoder):
    for frames in LENGTHS:
        pcm = noise(frames, channels, seed=frames)
        data = encode(pcm, sample_rate)
        decoded = DECODERS[decoder](data)
        assert decoded.shape == pcm.shape, frames
        if frames < 100:
            continue
        for channel in range(channels):
            ours, theirs = pcm[:, channel].astype(float), decoded[:, channel]
            # One sample to either side fits worse: the place is right to the sample.
            exact = correlation(ours, theirs)
            assert exact > 0.9, frames
            assert exact > correlation(ours[1:], theirs[:-1])
            assert exact > correlation(ours[:-1], theirs[1:])
            # Nothing is lost at the beginning or at the end.
            assert correlation(ours[:80], theirs[:80]) > 0.85, frames
            assert correlation(ours[-80:], theirs[-80:]) > 0.85, frames


@pytest.mark.parametrize("sample_rate", [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_rate_is_encoded_as_it_is(sample_rate, channels):
    pcm = noise(sample_rate // 2, channels)
    data = encode(pcm, sample_rate)
    info = mp3.scan(data)
    assert (info.sample_rate, info.channels, info.frames_pcm) == (sample_rate, channels, len(pcm))
    assert (info.warnings, info.junk_bytes, info.vbr) == ((), 0, False)
    assert by_mpg123(data).shape == pcm.shape


def test_the_default_bit_rate_is_two_bits_a_sample():
    expected = {(8000, 1): 16, (8000, 2): 32, (16000, 1): 32, (16000, 2): 64, (44100, 1): 96, (48000, 2): 192}
    for (sample_rate, channels), kbps in expected.items():
        assert Mp3(sample_rate=sample_rate, channels=channels).bitrate_kbps == kbps
        info = mp3.scan(encode(noise(3000, channels), sample_rate))
        assert (info.bitrate_min_bps, info.bitrate_max_bps) == (kbps * 1000,) * 2


@pytest.mark.parametrize(
    ("sample_rate", "kbps"), [(8000, 8), (8000, 64), (16000, 160), (48000, 320), (48000, 32)]
)
def test_a_bit_rate_asked_for_is_the_bit_rate_of_every_frame(sample_rate, kbps):
    pcm = noise(sample_rate, 1)
    data = encode(pcm, sample_rate, bitrate_kbps=kbps)
    assert {frame.bitrate_bps for frame in list(mp3.frames(data))[1:]} == {kbps * 1000}
    assert by_mpg123(data).shape == pcm.shape


def test_the_info_frame_says_all_and_is_right():
    data = encode(noise(40_000, 2), 8000)
    info = mp3.scan(data)
    said = info.xing
    assert (said.kind, said.encoder, said.vbr_method, said.bitrate_kbps) == ("Info", "LAME3.100", 1, 32)
    assert (said.tag_crc_ok, said.music_crc_ok) == (True, True)
    assert said.mpeg_frames == info.mpeg_frames == len(list(mp3.frames(data))) - 1
    assert said.total_bytes == said.music_bytes == len(data) - info.first_frame_offset
    assert said.encoder_delay_samples == 623
    assert said.encoder_delay_samples + said.padding_samples + 40_000 == info.samples
    positions = [frame.offset - info.first_frame_offset for frame in mp3.frames(data)][1:]
    assert list(said.seek_table) == mp3.seek_table(positions, said.total_bytes)
    assert (info.truncated, info.duration_s) == (False, 5.0)


def test_another_reader_agrees_on_duration_and_tags():
    tags = {"call_id": "4711", "date": "2024-05-01T10:00:00"}
    data = encode(noise(80_000, 1), 8000, tags=tags)
    with av.open(io.BytesIO(data), format="mp3") as container:
        (stream,) = container.streams
        metadata = container.metadata
        packets = sum(1 for packet in container.demux(stream) if packet.size)
    assert packets == mp3.scan(data).mpeg_frames  # it knows that the Info frame is no music
    assert (metadata["call_id"], metadata["date"]) == ("4711", "2024-05-01T10:00:00")
    assert metadata["TLEN"] == "10000"
    assert stream.rate == 8000


def test_the_last_write_is_at_the_beginning_and_no_write_leaves_a_hole():
    file = Mp3(sample_rate=8000, channels=1)
    writes = file.start()
    assert [write.offset for write in writes] == [0]
    reserved = len(writes[0].data)
    for _ in range(100):
        writes += file.add(bytes(320))
    middle = writes[1:]
    writes += file.finish()
    assert writes[-1].offset == 0
    assert len(writes[-1].data) == reserved
    at = reserved
    for write in [*middle, *writes[len(middle) + 1 : -1]]:
        assert write.offset == at
        at += len(write.data)
    assert at == file.size_bytes == len(apply(writes))


@pytest.mark.parametrize(("sample_rate", "channels"), [(8000, 1), (8000, 2), (16000, 2)])
def test_the_file_so_far_can_be_played_at_every_moment(sample_rate, channels):
    pcm = noise(2 * sample_rate, channels)
    file = Mp3(sample_rate=sample_rate, channels=channels)
    data = apply(file.start())
    assert mp3.scan(data).mpeg_frames == 0
    packet = sample_rate // 50
    missing_frames = []
    for at in range(0, len(pcm), packet):
        apply(file.add(pcm[at : at + packet].tobytes()), data)
        info = mp3.scan(data)
        assert not info.junk_bytes
        if at < sample_rate // 2 or at // packet % 5:
            continue
        for name, decode in DECODERS.items():
            decoded = decode(bytes(data))
            if name == "mpg123":  # does not heed the delay before it knows the count of frames
                decoded = decoded[1152:]
            missing_frames.append(file.frames - len(decoded))
            # What there is, is in its place, but for a last MPEG frame that is not whole: ffmpeg makes it up.
            whole = slice(0, len(decoded) - 576)
            assert correlation(pcm[whole, 0].astype(float), decoded[whole, 0]) > 0.95, name
    # LAME looks ahead, a decoder holds back 529 samples, the last MPEG frame is not whole.
    assert 0 < max(missing_frames) < 5.5 * 576


def test_a_voice_on_one_channel_is_not_heard_on_the_other():
    # LAME codes what both channels share together; independent voices keep apart by more than 35 dB.
    voice = noise(32_000, 1)
    gate = (np.arange(32_000) // 4000 % 2).astype(bool)
    pcm = np.stack([np.where(gate, voice[:, 0], 0), np.where(gate, 0, voice[::-1, 0])], axis=1).astype("<i2")
    decoded = by_mpg123(encode(pcm, 8000))
    # More than half an MPEG frame from a switch:
    settled = np.convolve(~gate, np.ones(1153), mode="same") > 1152
    leak = np.mean(decoded[settled, 0] ** 2) / np.mean(decoded[settled, 1] ** 2)
    assert 10 * np.log10(leak) < -35


def test_the_tag_gets_the_duration_and_keeps_its_place():
    file = Mp3(sample_rate=8000, channels=1, tags={"title": "call", "end": "?"})
    data = apply(file.start())
    begin = {"TIT2": "call", "TXXX:end": "?", "TSSE": "callreel, LAME3.100"}
    assert mp3.scan(data).id3 == begin
    music_offset = mp3.scan(data).first_frame_offset
    apply(file.add(bytes(2 * 12_345)) + file.finish(), data)
    assert mp3.scan(data).id3 == {**begin, "TLEN": "1543"}
    assert mp3.scan(data).first_frame_offset == music_offset


def test_the_date_is_one_that_id3_has():
    # ID3v2.4.0 structure, section 4: seconds are the finest, the time zone is always UTC.
    for given, stored in {
        "2024-05-01T10:00:00.123Z": "2024-05-01T10:00:00",
        "2024-05-01T10:00:00Z": "2024-05-01T10:00:00",
        "2024-05": "2024-05",
    }.items():
        assert mp3.scan(encode(noise(0, 1), 8000, tags={"date": given})).id3["TDRC"] == stored


@pytest.mark.parametrize(
    "wrong",
    [
        {"sample_rate": 9000}, {"channels": 0}, {"channels": 3}, {"bitrate_kbps": 17}, {"bitrate_kbps": 80},
        {"quality": -1}, {"quality": 10}, {"bitrate_kbps": 0},
    ],
)  # fmt: skip
def test_parameters_that_mp3_does_not_have_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\S"):
        Mp3(**{"sample_rate": 8000, "channels": 1, **wrong})


def test_lame_is_imported_only_when_a_file_is_started():
    program = (
        "import sys, callreel.formats as f; m = f.Mp3(sample_rate=8000, channels=1);"
        "assert 'lameenc' not in sys.modules; m.start(); assert 'lameenc' in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
