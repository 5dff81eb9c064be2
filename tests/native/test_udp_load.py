"""What receivers are measured with: sources that speak when they are told to, and the loop that only reads."""

import itertools
import socket
import sys
import threading
import time
from array import array

import pytest

from callreel.kernels import rtp

if sys.platform != "linux":
    pytest.skip("callreel.kernels.udp_load needs Linux", allow_module_level=True)

from callreel.kernels import udp_load

CODES = b"".join(bytes([voice * 16 + packet]) * 160 for voice in range(2) for packet in range(3))
"""Two voices of three packets."""


class Bench:
    """A port, and sources that are connected to it."""

    def __init__(self, streams):
        self.port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.port.bind(("127.0.0.1", 0))
        self.port.settimeout(0.3)
        self.senders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(streams)]
        for one in self.senders:
            one.connect(self.port.getsockname())
        self.is_on = bytearray(streams + 1)
        self.sent = array("I", [0] * streams)
        self.sources = udp_load.Sources(self.descriptors, CODES, self.is_on, self.sent, voices=2)

    @property
    def descriptors(self):
        return array("i", [one.fileno() for one in self.senders])

    def received(self):
        """All that has come, by the port it came from."""
        found = {one.getsockname()[1]: [] for one in self.senders}
        try:
            while True:
                data, source = self.port.recvfrom(2048)
                found[source[1]].append(data)
        except TimeoutError:
            return list(found.values())

    def close(self):
        for one in (self.port, *self.senders):
            one.close()


@pytest.fixture
def bench():
    made = []

    def make(streams):
        made.append(Bench(streams))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_source_that_is_off_sends_nothing_and_one_that_is_on_counts_what_it_sends(bench):
    one, results = bench(3), []
    thread = threading.Thread(target=lambda: results.append(one.sources.send()))
    thread.start()
    one.is_on[1] = 1
    while one.sent[1] < 5:
        time.sleep(0.01)
    one.is_on[1] = 0
    time.sleep(0.1)
    one.is_on[1] = 1
    while one.sent[1] < 10:
        time.sleep(0.01)
    one.is_on[3] = 1
    thread.join()
    first, second, third = one.received()
    assert first == third == []
    assert len(second) == one.sent[1]
    packets = [rtp.parse(data) for data in second]
    assert [packet.sequence for packet in packets] == list(range(len(packets)))
    assert {packet.ssrc for packet in packets} == {2}
    steps = [(later.timestamp - earlier.timestamp) // 160 for earlier, later in itertools.pairwise(packets)]
    assert all(step >= 1 for step in steps)
    assert max(steps) >= 4  # the pause is in the time
    assert {data[12:] for data in second} == {CODES[at : at + 160] for at in range(480, 960, 160)}
    ((refused, late_s),) = results
    assert refused == 0
    assert late_s > 0


def test_what_the_system_refuses_is_counted_and_has_no_sequence_number(bench):
    one = bench(1)
    one.port.close()  # nobody listens: the kernel says so with every second packet
    one.is_on[0] = 1
    results = []
    thread = threading.Thread(target=lambda: results.append(one.sources.send()))
    thread.start()
    while one.sent[0] < 3:
        time.sleep(0.01)
    time.sleep(0.05)
    one.is_on[1] = 1
    thread.join()
    assert results[0][0] > 0


def test_the_loop_reads_all_that_is_sent_as_fast_as_it_goes(bench):
    one, found = bench(2), []
    one.port.setblocking(True)
    one.port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    thread = threading.Thread(target=lambda: found.append(udp_load.read_bare(one.port.fileno(), idle_ms=200)))
    thread.start()
    sent = one.sources.flood(0.05)
    thread.join()
    assert 0 < found[0].packets < sent  # the first one is what it waits for
    assert found[0].cpu_s > 0
    assert found[0].lasted_s > 0


@pytest.mark.parametrize(
    ("sockets", "codes", "is_on", "sent", "voices"),
    [
        (array("q", [1]), bytes(160), bytes(2), bytearray(4), 1),
        (array("i", []), bytes(160), bytes(1), bytearray(0), 1),
        (array("i", [1]), bytes(100), bytes(2), bytearray(4), 1),
        (array("i", [1]), bytes(160), bytes(2), bytearray(4), 2),
        (array("i", [1]), bytes(160), bytes(1), bytearray(4), 1),
        (array("i", [1]), bytes(160), bytes(2), bytearray(8), 1),
    ],
    ids=["not descriptors", "none", "half a packet", "more voices than packets", "no end", "another size"],
)
def test_what_does_not_fit_together_is_refused(sockets, codes, is_on, sent, voices):
    with pytest.raises(ValueError, match=r"sockets are|codes are|is_on has"):
        udp_load.Sources(sockets, codes, is_on, sent, voices=voices)
