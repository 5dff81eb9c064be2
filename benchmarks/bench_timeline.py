"""One leg through a million packets: lost, out of order and drifting, beside the same packets as they were sent."""

import numpy as np
import pytest

from callreel.kernels import pcap, rtp

PACKETS = 1_000_000
PAYLOAD = 160
WIRE = 12 + PAYLOAD


def stream(rough):
    """Payloads and packet records; the rough one drifts by 100 ppm, jitters by 60 ms and loses 5 %."""
    chance = np.random.default_rng(1)
    number = np.arange(PACKETS)
    wires = chance.integers(0, 256, (PACKETS, WIRE), dtype=np.uint8)
    wires[:, :12] = 0
    wires[:, 0] = 0x80
    wires[:, 2:4] = (number & 0xFFFF).astype(">u2")[:, None].view(np.uint8)
    wires[:, 4:8] = (number * PAYLOAD & 0xFFFFFFFF).astype(">u4")[:, None].view(np.uint8)
    sent_ns = number * 20_000_000
    if rough:
        arrival = sent_ns / (1 + 100e-6) + 60e6 * chance.random(PACKETS)
        kept = np.flatnonzero(chance.random(PACKETS) >= 0.05)
        kept = kept[np.argsort(arrival[kept], kind="stable")]
        wires, sent_ns = wires[kept], arrival[kept].astype(np.int64)
    table = np.zeros(len(wires), dtype=pcap.DTYPE)
    table["time_ns"] = sent_ns
    table["offset"] = np.arange(len(wires)) * WIRE
    table["length"] = WIRE
    return wires.tobytes(), table


@pytest.fixture(scope="module")
def streams():
    return {"clean": stream(False), "rough": stream(True)}


def run(data, table):
    receiver = rtp.Receiver({0: "PCMU"}, origin_ns=-1_000_000_000)
    last_ns = int(table["time_ns"][-1])
    taken = samples = 0
    for now_ns in range(1_000_000_000, last_ns + 1_000_000_000, 1_000_000_000):
        taken += receiver.receive_batch(data, table, taken, until_ns=now_ns)
        samples += len(receiver.read(receiver.ready(now_ns))) // 2
    assert taken == len(table)
    return receiver, samples


@pytest.mark.parametrize("kind", ["clean", "rough"])
def test_a_million_packets(benchmark, streams, kind):
    benchmark.group = "one leg, 1,000,000 packets sent: placed, decoded, read"
    data, table = streams[kind]
    receiver, samples = run(data, table)
    assert samples > 0.999 * PACKETS * PAYLOAD
    assert receiver.counts["late"] == receiver.counts["discarded"] == 0
    if kind == "rough":
        assert receiver.drift_ppm == pytest.approx(100, abs=5)
        assert 0.04 < receiver.counts["lost"] / PACKETS < 0.06
    benchmark.extra_info["packets"] = len(table)
    benchmark.pedantic(run, (data, table), rounds=5)
