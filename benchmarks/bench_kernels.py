"""The kernels beside audioop and numpy: one packet of 20 ms, and 1 MiB."""

import numpy as np
import pytest

from callreel.kernels import dtmf, g711, pcm, tone

audioop = pytest.importorskip("audioop", reason="audioop left the standard library with Python 3.13")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

RANDOM = np.random.default_rng(20)
SIZES = {"packet": 160, "1 MiB": 1 << 20}
CALLS = {160: 1000, 1 << 20: 1}
"""How many calls one round of a benchmark makes: a packet takes less time than the benchmark's own loop."""


@pytest.fixture(params=SIZES)
def codes(request):
    return RANDOM.integers(0, 256, SIZES[request.param], dtype=np.uint8).tobytes()


def group(what, samples):
    calls = CALLS.get(samples, 1)
    return f"{what}, {samples} samples" + (f", {calls} calls" if calls > 1 else "")


@pytest.mark.parametrize("law", ["ulaw", "alaw"])
@pytest.mark.parametrize("peer", ["callreel", "audioop"])
def test_decode(benchmark, law, peer, codes):
    calls = range(CALLS[len(codes)])
    benchmark.group = group(f"{law} decode", len(codes))
    ours, theirs = getattr(g711, f"{law}_decode"), getattr(audioop, f"{law}2lin")
    assert ours(codes) == theirs(codes, 2)
    if peer == "callreel":
        out = bytearray(2 * len(codes))

        @benchmark
        def decode():
            for _ in calls:
                ours(codes, out=out)

    else:

        @benchmark
        def decode():
            for _ in calls:
                theirs(codes, 2)


@pytest.mark.parametrize("law", ["ulaw", "alaw"])
@pytest.mark.parametrize("peer", ["callreel", "audioop"])
def test_encode(benchmark, law, peer, codes):
    calls = range(CALLS[len(codes)])
    benchmark.group = group(f"{law} encode", len(codes))
    audio = getattr(g711, f"{law}_decode")(codes)
    ours, theirs = getattr(g711, f"{law}_encode"), getattr(audioop, f"lin2{law}")
    differing = np.frombuffer(ours(audio), np.uint8) != np.frombuffer(theirs(audio, 2), np.uint8)
    assert differing.mean() < 0.01  # audioop differs from ITU-T G.191 at decision boundaries, and in -0
    if peer == "callreel":
        out = bytearray(len(codes))

        @benchmark
        def encode():
            for _ in calls:
                ours(audio, out=out)

    else:

        @benchmark
        def encode():
            for _ in calls:
                theirs(audio, 2)


@pytest.mark.parametrize("peer", ["callreel", "numpy", "memcpy of the output"])
@pytest.mark.parametrize("samples", [160, 1 << 19, 1 << 20], ids=["packet", "1 MiB", "2 MiB"])
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
    elif peer == "numpy":
        benchmark(by_numpy)
    else:
        benchmark(np.copyto, np.empty_like(out), out)


@pytest.mark.parametrize("peer", ["callreel", "numpy", "numpy, tracks in one array"])
@pytest.mark.parametrize("samples", [160, 8000, 1 << 19], ids=["packet", "1 s", "1 MiB"])
def test_mix_of_eight(benchmark, peer, samples):
    benchmark.group = f"mix of 8 tracks, {samples} samples each"
    tracks = RANDOM.integers(-32768, 32768, (8, samples), dtype=np.int16)
    parts = [track.copy() for track in tracks]  # as legs have them: each on its own
    read = [part.tobytes() for part in parts]

    def by_numpy():
        return np.clip(np.sum(parts, axis=0, dtype=np.int32), -32768, 32767).astype(np.int16)

    def by_numpy_in_one_array():
        return np.clip(tracks.sum(axis=0, dtype=np.int32), -32768, 32767).astype(np.int16)

    assert pcm.mix(parts) == by_numpy().tobytes() == by_numpy_in_one_array().tobytes()
    if peer == "callreel":
        out = bytearray(2 * samples)
        benchmark(pcm.mix, read, out)
    else:
        benchmark(by_numpy if peer == "numpy" else by_numpy_in_one_array)


@pytest.mark.parametrize("peer", ["callreel", "numpy", "memcpy of the output"])
@pytest.mark.parametrize("samples", [160, 8000, 1 << 19], ids=["packet", "1 s", "1 MiB"])
def test_gain(benchmark, peer, samples):
    benchmark.group = f"gain, {samples} samples"
    audio = RANDOM.integers(-32768, 32768, samples, dtype=np.int16)
    multiplier = np.float32(10 ** (3 / 20))

    def by_numpy():
        return np.rint(np.clip(audio * multiplier, -32768, 32767)).astype(np.int16)

    assert pcm.gain(audio, 3) == by_numpy().tobytes()
    out = np.empty_like(audio)
    if peer == "callreel":
        benchmark(pcm.gain, audio, 3, out)
    elif peer == "numpy":
        benchmark(by_numpy)
    else:
        benchmark(np.copyto, out, audio)


@pytest.mark.parametrize("peer", ["callreel", "numpy"])
@pytest.mark.parametrize("samples", [160, 8000, 1 << 19], ids=["packet", "1 s", "1 MiB"])
def test_level(benchmark, peer, samples):
    benchmark.group = f"level, {samples} samples"
    audio = RANDOM.integers(-32768, 32768, samples, dtype=np.int16)

    def by_numpy():
        wide = audio.astype(np.float64)
        mean_square, peak = np.mean(wide * wide), np.abs(wide).max()
        return 10 * np.log10(mean_square / 2**30) + 3.14 + 10 * np.log10(2), 20 * np.log10(
            peak / 32768
        ) + 3.14

    assert pcm.level(audio) == pytest.approx(by_numpy(), abs=1e-9)
    benchmark(*((pcm.level, audio) if peer == "callreel" else (by_numpy,)))


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
