"""Concealment of lost packets in speech, beside silence and beside spandsp: segmental SNR of what was lost."""

import numpy as np
import pytest
import soundfile

import spandsp_peer
from callreel.kernels import g711, rtp
from capture_writer import rtp_packet

SPEECH = ["speech/en_US_f_Allison/demo-congrats.wav", "speech/fr_CA_f_June/demo-instruct.wav"]
QUIET = 200  # below this RMS there is nothing to conceal

# Packet in samples, share of packets lost, packets lost at a time.
LOSSES = [(160, 0.05, 1), (160, 0.1, 1), (80, 0.1, 1), (240, 0.05, 1), (160, 0.05, 2), (160, 0.05, 3)]


def speech_of(path):
    pcm, rate = soundfile.read(path, dtype="int16")
    assert rate == 8000
    return g711.ulaw_encode(pcm.tobytes())


def lose(packets, share, burst, seed):
    chance = np.random.default_rng(seed)
    lost = np.zeros(packets, bool)
    for start in np.flatnonzero(chance.random(packets) < share / burst):
        lost[start : start + burst] = True
    lost[:2] = lost[-2:] = False
    return lost


def ours(codes, lost, size):
    receiver = rtp.Receiver({0: "PCMU"})
    pieces = []
    for number, is_lost in enumerate(lost):
        now_ns = number * size * 125_000
        if not is_lost:
            payload = codes[number * size : (number + 1) * size]
            receiver.receive(rtp_packet(payload, seq=number & 0xFFFF, timestamp=number * size), now_ns)
        pieces.append(receiver.read(receiver.ready(now_ns)))
    receiver.finish()
    pieces.append(receiver.read(len(lost) * size))
    return np.frombuffer(b"".join(pieces), np.int16)


def segmental_snr_db(truth, made, lost, size):
    """Mean over the lost packets that held speech, each clipped to -10 ... 35 dB as is usual."""
    values = []
    for number in np.flatnonzero(lost):
        part = slice(number * size, (number + 1) * size)
        wanted, got = truth[part].astype(float), made[part].astype(float)
        energy = np.sum(wanted**2)
        if energy >= size * QUIET**2:
            values.append(np.clip(10 * np.log10(energy / max(np.sum((wanted - got) ** 2), 1)), -10, 35))
    assert len(values) > 20
    return float(np.mean(values))


@pytest.mark.parametrize(("size", "share", "burst"), LOSSES)
@pytest.mark.parametrize("name", SPEECH)
def test_lost_speech_is_made_good_better_than_by_silence_and_by_spandsp(test_data, name, size, share, burst):
    codes = speech_of(test_data(name))
    packets = len(codes) // size
    truth = np.frombuffer(g711.ulaw_decode(codes), np.int16)[: packets * size]
    lost = lose(packets, share, burst, seed=size + burst)
    made = ours(codes, lost, size)
    received = np.repeat(~lost, size)
    np.testing.assert_array_equal(made[received], truth[received])
    snr_db = segmental_snr_db(truth, made, lost, size)
    if burst < 3:  # silence has 0 dB by definition; after 60 ms little of the voice before is left to repeat
        assert snr_db > 0
    if spandsp_peer.LIBRARY is not None:
        peer = spandsp_peer.concealed(truth, lost, size)
        assert snr_db > segmental_snr_db(truth, peer, lost, size)
