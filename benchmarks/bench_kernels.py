"""The kernels beside audioop and numpy: one packet of 20 ms, and 1 MiB."""

import numpy as np
import pytest

from callreel.kernels import dtmf, g711, pcm, tone

audioop = pytest.importorskip("audioop", reason="audioop left the standard library with Python 3.13")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

RANDOM = np.random.default_rng(20)
SIZES = {"packet": 160, "1 MiB": 1 << 20}


@pytest.fixture(params=SIZES)
def codes(request):
    return RANDOM.integers(0, 256, SIZES[request.param], dtype=np.uint8).tobytes()


@pytest.mark.parametrize("law", ["ulaw", "alaw"])
@pytest.mark.parametrize("peer", ["callreel", "audioop"])
def test_decode(benchmark, law, peer, codes):
    benchmark.group = f"{law} decode, {len(codes)} samples"
    ours, theirs = getattr(g711, f"{law}_decode"), getattr(audioop, f"{law}2lin")
    assert ours(codes) == theirs(codes, 2)
    if peer == "callreel":
        out = bytearray(2 * len(codes))
        benchmark(ours, codes, out)
    else:
        benchmark(theirs, codes, 2)


@pytest.mark.parametrize("law", ["ulaw", "alaw"])
@pytest.mark.parametrize("peer", ["callreel", "audioop"])
def test_encode(benchmark, law, peer, codes):
    benchmark.group = f"{law} encode, {len(codes)} samples"
    audio = getattr(g711, f"{law}_decode")(codes)
    ours, theirs = getattr(g711, f"{law}_encode"), getattr(audioop, f"lin2{law}")
    differing = np.frombuffer(ours(audio), np.uint8) != np.frombuffer(theirs(audio, 2), np.uint8)
    assert differing.mean() < 0.01  # audioop differs from ITU-T G.191 at decision boundaries, and in -0
    if peer == "callreel":
        benchmark(ours, audio)
    else:
        benchmark(theirs, audio, 2)


@pytest.mark.parametrize("peer", ["callreel", "numpy"])
@pytest.mark.parametrize("samples", SIZES.values(), ids=SIZES)
def test_interleave(benchmark, peer, samples):
    benchmark.group = f"interleave, {samples} samples a side"
    left, right = RANDOM.integers(-32768, 32768, (2, samples), dtype=np.int16)
    out = np.empty(2 * samples, np.int16)

    def by_numpy():
        out[0::2] = left
        out[1::2] = right

    by_numpy()
    assert pcm.interleave(left, right) == out.tobytes()
    if peer == "callreel":
        benchmark(pcm.interleave, left, right, out)
    else:
        benchmark(by_numpy)


@pytest.mark.parametrize("peer", ["callreel", "numpy"])
def test_mix_of_eight(benchmark, peer):
    benchmark.group = "mix of 8 tracks, 1 MiB each"
    tracks = RANDOM.integers(-32768, 32768, (8, 1 << 19), dtype=np.int16)
    parts = list(tracks)

    def by_numpy():
        return np.clip(tracks.sum(axis=0, dtype=np.int32), -32768, 32767).astype(np.int16)

    assert pcm.mix(parts) == by_numpy().tobytes()
    if peer == "callreel":
        out = bytearray(1 << 20)
        benchmark(pcm.mix, parts, out)
    else:
        benchmark(by_numpy)


def test_dtmf_detection(benchmark):
    benchmark.group = "DTMF detection, 60 s of digits"
    silence = bytes(2 * 400)
    audio = b"".join(tone.dtmf(symbol, 0.05) + silence for symbol in "0123456789*#ABCD" * 37)

    def detect():
        detector = dtmf.Detector()
        return detector.feed(audio) + detector.flush()

    assert "".join(digit.symbol for digit in detect()) == "0123456789*#ABCD" * 37
    benchmark.extra_info["samples"] = len(audio) // 2
    benchmark(detect)
