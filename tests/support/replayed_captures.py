"""Captures as live traffic: the RTP of a file, sent again with the times it had; and what `callreel record` finds."""

import json
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np
import soundfile

from callreel.kernels import pcap, rtp
from udp_peers import Peer

STATIC = {0: "PCMU", 8: "PCMA", 13: "CN"}
EVENT_BYTES = 4


class Stream(NamedTuple):
    """The packets of one SSRC, in the order in which they came, and when: seconds after the first."""

    packets: list
    times_s: list

    @property
    def payload_types(self):
        """What has to be agreed on for it: packets of 4 bytes that are no audio are telephone events."""
        seen = {(one.payload_type, len(one.payload)) for one in map(rtp.parse, self.packets)}
        events = {number: "telephone-event" for number, size in seen if size == EVENT_BYTES}
        return {number: STATIC[number] for number, _ in seen if number in STATIC} | events


def stream_of(path, ssrc):
    """The packets of that SSRC."""
    found = []
    for batch in pcap.packets(path.read_bytes()):
        records = np.frombuffer(batch.records, pcap.DTYPE)
        for record in records:
            data = bytes(batch.data[record["offset"] :][: record["length"]])
            if len(data) >= 12 and data[0] >> 6 == 2 and data[8:12] == ssrc.to_bytes(4, "big"):
                found.append((int(record["time_ns"]), data))
    found.sort(key=lambda one: one[0])
    return Stream([data for _, data in found], [(at - found[0][0]) / 1e9 for at, _ in found])


def recorded_offline(path, folder):
    """What `callreel record` makes of the first stream of a capture: samples, digits, manifest."""
    result = subprocess.run(
        [sys.executable, "-m", "callreel", "record", path, "--out", folder, "--layout", "incoming", "--json"],
        capture_output=True,
        text=True,
    )
    assert result.returncode in (0, 1), result.stderr  # 1: packets are missing in some
    (manifest, *_) = [one for one in map(json.loads, result.stdout.splitlines()) if "tracks" in one]
    (file,) = folder.rglob(manifest["key"].rpartition("/")[2])
    samples = soundfile.read(file, dtype="int16")[0]
    return samples, [one["symbol"] for one in manifest["digits"]], manifest


def send_all(streams, version=4):
    """Send streams to ports of the loopback, all at once, each packet when its time has come."""
    due = sorted(
        (at, number, data)
        for number, (stream, _) in enumerate(streams)
        for at, data in zip(stream.times_s, stream.packets, strict=True)
    )
    peers = [Peer(version) for _ in streams]
    try:
        begin = time.monotonic()
        for at, number, data in due:
            time.sleep(max(0.0, begin + at - time.monotonic()))
            peers[number].send(data, streams[number][1])
    finally:
        for peer in peers:
            peer.socket.close()
