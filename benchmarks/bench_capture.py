"""A capture of two-way G.711 to a recording, everything included, beside plain Python that does the least.

What is compared is CPU time: we wait for the disk to have the recording, the peers do not.
"""

import shutil
import struct
import time
import wave

import numpy as np
import pytest

from callreel.actions import StartRecording
from callreel.captures import RecordOptions, record_capture
from callreel.kernels import g711
from capture_writer import capture, rtp_packet

SECONDS = 600
PACKETS = SECONDS * 50
ROUNDS = 21
CALLER, SERVER = ("198.51.100.7", 16384), ("192.0.2.1", 40000)


@pytest.fixture(scope="module")
def speech():
    random = np.random.default_rng(7)
    noise = np.cumsum(random.normal(0, 300, (2, PACKETS * 160)), axis=1)
    return [g711.ulaw_encode((track - track.mean()).clip(-20000, 20000).astype(np.int16)) for track in noise]


@pytest.fixture(scope="module")
def capture_file(speech, tmp_path_factory):
    packets = []
    for n in range(PACKETS):
        for side, (source, destination) in enumerate([(CALLER, SERVER), (SERVER, CALLER)]):
            payload = rtp_packet(
                speech[side][160 * n : 160 * n + 160], seq=n & 0xFFFF, timestamp=160 * n, ssrc=side + 1
            )
            packets.append((1_700_000_000 + n / 50 + side / 1000, source, destination, payload))
    path = tmp_path_factory.mktemp("capture") / "call.pcap"
    path.write_bytes(capture(packets))
    return path


def plain_python(path, out):
    """Unpack, decode with audioop, write with wave: no order, no placing, no digits, no checksum."""
    import audioop

    sides = {1: [], 2: []}
    with path.open("rb") as file:
        file.read(24)
        while header := file.read(16):
            packet = file.read(struct.unpack("<IIII", header)[2])
            (ssrc,) = struct.unpack_from("!I", packet, 50)
            sides[ssrc].append(audioop.ulaw2lin(packet[54:], 2))
    left, right = (b"".join(parts) for parts in sides.values())
    stereo = audioop.add(audioop.tostereo(left, 2, 1, 0), audioop.tostereo(right, 2, 0, 1), 2)
    with wave.open(str(out), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(stereo)


@pytest.fixture
def new_folder(tmp_path):
    """A function that gives an empty folder: to remove an old recording costs, and is not what is measured."""
    folder = tmp_path / "out"

    def make():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    return make


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("peer", ["callreel", "plain Python"])
def test_capture_to_stereo_wav(benchmark, peer, capture_file, new_folder):
    benchmark.group = f"capture to stereo WAV, {2 * PACKETS} packets, CPU"
    benchmark.extra_info["packets"] = 2 * PACKETS
    if peer == "callreel":
        report = record_capture(capture_file, RecordOptions(new_folder()))
        assert report.all_good
        assert abs(report.takes[0].manifest["frames"] - PACKETS * 160) < 16
        benchmark.pedantic(
            record_capture, setup=lambda: ((capture_file, RecordOptions(new_folder())), {}), rounds=ROUNDS
        )
    else:
        pytest.importorskip("audioop")
        path = new_folder() / "plain.wav"
        plain_python(capture_file, path)
        with wave.open(str(path)) as file:
            assert file.getnframes() == PACKETS * 160
        benchmark.pedantic(
            plain_python, setup=lambda: ((capture_file, new_folder() / "plain.wav"), {}), rounds=ROUNDS
        )


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("peer", ["callreel", "lameenc alone"])
def test_capture_to_mp3(benchmark, peer, capture_file, speech, new_folder):
    benchmark.group = f"capture to stereo MP3, {2 * PACKETS} packets, CPU"
    action = StartRecording(format="mp3")
    if peer == "callreel":
        assert record_capture(capture_file, RecordOptions(new_folder(), action)).all_good
        benchmark.pedantic(
            record_capture, setup=lambda: ((capture_file, RecordOptions(new_folder(), action)), {}), rounds=5
        )
    else:
        lameenc = pytest.importorskip("lameenc")
        stereo = np.stack(
            [np.frombuffer(g711.ulaw_decode(side), np.int16) for side in speech], axis=1
        ).tobytes()

        def encode():
            encoder = lameenc.Encoder()
            encoder.silence()
            encoder.set_channels(2)
            encoder.set_in_sample_rate(8000)
            encoder.set_out_sample_rate(8000)
            encoder.set_bit_rate(32)
            encoder.set_quality(5)
            return bytes(encoder.encode(stereo)) + bytes(encoder.flush())

        assert len(encode()) > SECONDS * 32_000 // 8 * 0.99
        benchmark.pedantic(encode, rounds=5)
