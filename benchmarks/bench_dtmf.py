"""Digits: one channel, and 1,000 channels, in packets of 20 ms, beside spandsp and scipy.signal.

What a call sounds like matters: silence and noise cost next to nothing, a tone that may be a digit most.
So each is measured on five kinds of audio, and must first find in it what is there.
"""

import numpy as np
import pytest
import scipy.signal

import spandsp_peer
from callreel.kernels import dtmf, tone

RANDOM = np.random.default_rng(24)
KEYS = "0123456789*#ABCD"
SECONDS = 20
SAMPLES = 8000 * SECONDS
PACKET_BYTES = 320
CHANNELS = 1000
LOW_HZ, HIGH_HZ = (697, 770, 852, 941), (1209, 1336, 1477, 1633)


def _noise(dbm0):
    return RANDOM.normal(0, 32768 * 10 ** ((dbm0 - 3.14) / 20) / np.sqrt(2), SAMPLES)


def _keys(on_ms, off_ms, every_s):
    """Four keys, 100 ms apart and then a pause, so that every `every_s` seconds as many have come."""
    audio = np.zeros(SAMPLES)
    symbols = ""
    for second in range(0, SECONDS, every_s):
        for order in range(4):
            symbols += KEYS[len(symbols) % 16]
            at = second * 8000 + order * 8 * (on_ms + off_ms) + 400
            pressed = np.frombuffer(tone.dtmf(symbols[-1], on_ms / 1000), np.int16)
            audio[at : at + len(pressed)] += pressed
    return audio, symbols


def _speech():
    """Vowels: harmonics of a moving pitch under two formants, in syllables."""
    time = np.arange(SAMPLES) / 8000
    pitch = 120 * 2 ** (0.3 * np.sin(2 * np.pi * 0.7 * time) + 0.1 * np.sin(2 * np.pi * 3.1 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / 8000
    first, second = 500 + 250 * np.sin(2 * np.pi * 1.3 * time), 1500 + 500 * np.sin(2 * np.pi * 0.9 * time)
    voice = sum(
        (1 / (1 + ((order * pitch - first) / 90) ** 2) + 0.3 / (1 + ((order * pitch - second) / 110) ** 2))
        * np.sin(order * phase)
        for order in range(1, 25)
    )
    return 6000 * voice * np.clip(np.sin(2 * np.pi * 2.3 * time), 0, 1) + _noise(-50)


def _signals():
    sparse, few = _keys(100, 100, 4)
    dense, many = _keys(50, 50, 1)
    pcm = {
        "silence and noise": (_noise(-50), ""),
        "noise at -20 dBm0": (_noise(-20), ""),
        "speech": (_speech(), ""),
        "speech and keys": (np.where(sparse == 0, _speech(), sparse), few),
        "keys only, 4 a second": (dense, many),
    }
    return {
        name: (np.clip(np.round(audio), -32768, 32767).astype("<i2"), digits)
        for name, (audio, digits) in pcm.items()
    }


SIGNALS = _signals()


@pytest.fixture(params=SIGNALS)
def signal(request):
    return request.param, *SIGNALS[request.param]


def _packets(audio):
    data = audio.tobytes()
    return [data[at : at + PACKET_BYTES] for at in range(0, len(data), PACKET_BYTES)]


def _by_callreel(packets):
    detector = dtmf.Detector()
    feed = detector.feed
    found = []
    for packet in packets:
        found += feed(packet)
    return "".join(digit.symbol for digit in found + detector.flush())


def _by_spandsp(packets):
    """The receiver's function itself and nothing else for each packet; digits are fetched once a second."""
    receiver = spandsp_peer.Receiver()
    receive, state = spandsp_peer.LIBRARY.dtmf_rx, receiver.state
    found = ""
    for at in range(0, len(packets), 50):
        for packet in packets[at : at + 50]:
            receive(state, packet, PACKET_BYTES // 2)
        found += receiver.feed(b"")
    return found + receiver.feed(bytes(1600))


NEEDS_SPANDSP = pytest.mark.skipif(spandsp_peer.LIBRARY is None, reason="libspandsp2 is not installed")
PEERS = {"callreel": _by_callreel, "spandsp": _by_spandsp}


@pytest.mark.parametrize("peer", ["callreel", pytest.param("spandsp", marks=NEEDS_SPANDSP)])
def test_one_channel_in_packets(benchmark, peer, signal):
    name, audio, digits = signal
    benchmark.group = f"DTMF, one channel in packets of 20 ms, {name}"
    packets = _packets(audio)
    assert PEERS[peer](packets) == digits or (peer == "spandsp" and not digits)
    benchmark.extra_info["packets"] = len(packets)
    benchmark(PEERS[peer], packets)


def _shifted(audio):
    """A second of 1,000 channels in packets: each hears the audio from another place on."""
    starts = RANDOM.integers(0, len(_packets(audio)) - 50, CHANNELS)
    packets = _packets(audio)
    return [[packets[start + step] for start in starts] for step in range(50)]


@pytest.mark.parametrize("peer", ["callreel", pytest.param("spandsp", marks=NEEDS_SPANDSP)])
def test_thousand_channels_in_packets(benchmark, peer, signal):
    name, audio, _ = signal
    benchmark.group = f"DTMF, 1,000 channels for a second in packets of 20 ms, {name}"
    steps = _shifted(audio)
    benchmark.extra_info["packets"] = 50 * CHANNELS
    if peer == "callreel":
        planar = [b"".join(step) for step in steps]

        bank = dtmf.Bank(CHANNELS)

        def listen():
            found = [hit for step in planar for hit in bank.feed(step)]
            return found + bank.flush()

        singly = dtmf.detect_many([b"".join(step[channel] for step in steps) for channel in range(CHANNELS)])
        expected = [(channel, digit) for channel, digits in enumerate(singly) for digit in digits]
        assert sorted(listen()) == sorted(expected)
        benchmark(listen)  # positions run on, all else is as in the first turn
    else:
        # One call for a second of a channel, so that ctypes costs next to nothing; memory stays warmer than
        # in packets, which is to spandsp's advantage.
        whole = [b"".join(step[channel] for step in steps) for channel in range(CHANNELS)]
        receivers = [spandsp_peer.Receiver() for _ in range(CHANNELS)]

        def listen():
            for receiver, second in zip(receivers, whole, strict=True):
                spandsp_peer.LIBRARY.dtmf_rx(receiver.state, second, 8000)

        listen()
        assert len(receivers) == CHANNELS
        benchmark(listen)


def _by_scipy(audio):
    """The same work with scipy: high-pass, eight sums of 20 ms every 5 ms, energy, the strongest pair."""
    sos = scipy.signal.ellip(4, 0.3, 35, 670, "highpass", fs=8000, output="sos")
    passed = scipy.signal.sosfilt(sos, audio / 32768)
    energy = scipy.signal.lfilter(np.ones(160) / 160, 1, passed**2)[159::40]
    turn = np.exp(-2j * np.pi * np.arange(160)[::-1] / 8000 * np.array([*LOW_HZ, *HIGH_HZ])[:, None]) / 80
    powers = np.stack(
        [np.abs(scipy.signal.oaconvolve(passed, one[::-1])[159 : len(passed) : 40]) ** 2 for one in turn]
    )
    low, high = powers[:4].argmax(0), powers[4:].argmax(0)
    share = (powers[:4].max(0) + powers[4:].max(0)) / 2 / np.maximum(energy, 1e-9)
    heard = (share > 0.7) & (powers[:4].max(0) > 1e-4) & (powers[4:].max(0) > 1e-4)
    symbols, run = "", 0
    for now, row, column in zip(heard, low, high, strict=True):
        run = run + 1 if now else 0
        if run == 4:
            symbols += "123A456B789C*0#D"[row * 4 + column]
    return symbols


@pytest.mark.parametrize("peer", ["callreel", "scipy"])
def test_one_channel_at_once(benchmark, peer):
    benchmark.group = "DTMF, one channel of 20 s in one call, keys only"
    audio, digits = SIGNALS["keys only, 4 a second"]
    assert _by_scipy(audio) == digits

    def by_callreel(audio):
        detector = dtmf.Detector()
        return "".join(digit.symbol for digit in detector.feed(audio) + detector.flush())

    assert by_callreel(audio) == digits
    benchmark(by_callreel if peer == "callreel" else _by_scipy, audio)
