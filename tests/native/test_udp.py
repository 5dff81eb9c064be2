"""UDP in and out: whose a datagram is, when it came, what is reported of it, when what is played goes out."""

import itertools
import os
import random
import socket
import struct
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from callreel.errors import UsageError
from callreel.kernels import pcap, rtp
from capture_writer import rtcp_sender_report, rtp_packet

if sys.platform != "linux":
    pytest.skip("callreel.kernels.udp needs Linux", allow_module_level=True)

from callreel.kernels import udp
from udp_peers import HOSTS, PACKET_S, Peer, bye, wait_for

MS_NS = 1_000_000
RELEARN_MS = 150
TYPES = (0, 8, 101)


class Bench:
    """A demultiplexer with one socket, and one beside it for RTCP."""

    def __init__(self, version=4, *, is_running=True, **options):
        self.demultiplexer = udp.Demultiplexer(relearn_ms=RELEARN_MS, **options)
        self.version = version
        self.peers: list[Peer] = []
        self.here, self.beside = Peer(version), Peer(version)
        self.thread = threading.Thread(target=self.demultiplexer.run)
        if is_running:
            self.thread.start()

    def add(self, **options):
        return self.demultiplexer.add_socket(self.here.socket.fileno(), **options)[0]

    def add_control(self, **options):
        return self.demultiplexer.add_socket(self.beside.socket.fileno(), control=True, **options)[0]

    def open(self, *, shared=False, control=False, **options):
        number = self.add(shared=shared)
        beside = self.add_control(shared=shared) if control else None
        return self.demultiplexer.open(number, control=beside, payload_types=TYPES, **options)

    def peer(self, **options):
        self.peers.append(Peer(self.version, **options))
        return self.peers[-1]

    @property
    def port(self):
        return self.here.port

    def close(self):
        self.demultiplexer.stop()
        if self.thread.ident is not None:
            self.thread.join()
        for one in (self.here, self.beside, *self.peers):
            one.socket.close()


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def bench(request):
    one = Bench(request.param)
    yield one
    one.close()


@pytest.fixture
def still():
    """One whose thread is not started yet."""
    one = Bench(is_running=False)
    yield one
    one.close()


class Heard:
    """What a stream has given, added up."""

    def __init__(self, stream):
        self.stream = stream
        self.packets = []
        self.times_ns = []

    def __call__(self, *, all=False):
        while taken := self.stream.take(all=all):
            data, records = taken
            for record in np.frombuffer(records, pcap.DTYPE):
                self.packets.append(data[record["offset"] : record["offset"] + record["length"]])
                self.times_ns.append(int(record["time_ns"]))
        return self.packets

    def sequences(self, **options):
        return [rtp.parse(one).sequence for one in self(**options) if one[1] & 0x7F < 72]


def settle():
    """Until the reading thread has had its turn."""
    time.sleep(0.03)


# ---- when a packet came ----------------------------------------------------------------------------


def test_a_stamp_is_taken_over_by_the_offset_of_both_clocks():
    found = udp.arrival_ns(1_500, offset_ns=1_000, offset_before_ns=1_000, low_ns=400, high_ns=600)
    assert found == 500


@pytest.mark.parametrize("step_s", [-7200, -3, -0.01, 0.01, 3, 86400])
def test_a_clock_that_is_set_moves_no_packet(step_s):
    step_ns = round(step_s * 1e9)
    day_ns = 1_700_000_000 * 10**9
    came_ns, now_ns = 50 * MS_NS, 52 * MS_NS
    for offset_of_stamp in (day_ns, day_ns + step_ns):  # stamped before or after the step, read after it
        found = udp.arrival_ns(
            came_ns + offset_of_stamp,
            offset_ns=day_ns + step_ns,
            offset_before_ns=day_ns,
            low_ns=48 * MS_NS,
            high_ns=now_ns,
        )
        assert found == came_ns


@pytest.mark.parametrize("stamp_ns", [-(2**63), -1, 0, 2**63 - 1])
def test_a_stamp_that_makes_no_sense_stays_between_what_is_known(stamp_ns):
    found = udp.arrival_ns(stamp_ns, offset_ns=0, offset_before_ns=5, low_ns=10**9, high_ns=10**9 + 5)
    assert 10**9 <= found <= 10**9 + 5


def test_a_packet_has_the_kernels_time_however_late_it_is_read(still):
    heard = Heard(still.open())
    peer = still.peer()
    time.sleep(0.2)  # Linux begins to stamp packets a moment after the first socket has asked for it
    times = []
    for number in range(5):
        before = time.monotonic_ns()
        peer.rtp(still.port, [number])
        times.append((before, time.monotonic_ns()))
        time.sleep(0.03)
    still.thread.start()
    wait_for(lambda: len(heard()) == 5)
    for (before, after), came in zip(times, heard.times_ns, strict=True):
        assert before - 0.1 * MS_NS <= came <= after + 0.1 * MS_NS
    assert heard.stream.counts["wait_max_ms"] > 100


# ---- who is the peer --------------------------------------------------------------------------------


def test_the_first_source_of_sound_packets_becomes_the_peer_and_loses_none(bench):
    heard = Heard(bench.open())
    peer = bench.peer()
    peer.rtp(bench.port, range(10))
    wait_for(lambda: heard.sequences() == list(range(10)))
    assert heard.stream.peer == peer.address
    assert heard.stream.counts["received"] == 10
    assert heard.stream.counts["bytes"] == 10 * 172


def test_packets_of_strangers_are_counted_and_never_taken(bench):
    heard = Heard(bench.open())
    peer, stranger = bench.peer(), bench.peer()
    for number in range(10):
        peer.rtp(bench.port, [number])
        if number > 1:
            stranger.rtp(bench.port, [1000 + number], ssrc=9)
            stranger.rtp(bench.port, [number], ssrc=7)  # not even with the peer's SSRC
    wait_for(lambda: bench.demultiplexer.socket_counts(0)["datagrams"] == 26)
    assert bench.demultiplexer.socket_counts(0)["strangers"] == 16
    assert heard.sequences() == list(range(10))


def test_one_stray_packet_neither_takes_the_peers_place_nor_is_recorded(bench):
    heard = Heard(bench.open())
    bench.peer().rtp(bench.port, [500], ssrc=9)
    settle()
    assert heard.sequences() == []
    peer = bench.peer()
    peer.rtp(bench.port, range(10))
    wait_for(lambda: heard.sequences() == list(range(10)))
    assert heard.stream.peer == peer.address
    assert heard.stream.counts["strangers"] == 1


def test_a_lone_packet_is_taken_at_the_end_when_there_was_nobody_else(bench):
    heard = Heard(bench.open())
    bench.peer().rtp(bench.port, [3])
    wait_for(lambda: heard.stream.counts["received"])
    assert heard.sequences() == []
    assert heard.sequences(all=True) == [3]


def test_a_source_whose_payload_type_was_not_agreed_on_is_not_learnt(bench):
    heard = Heard(bench.open())
    bench.peer().rtp(bench.port, range(3), payload_type=96)
    wait_for(lambda: bench.demultiplexer.socket_counts(0)["strangers"] == 3)
    assert heard.stream.peer is None


def test_a_peer_is_left_only_after_a_silence(bench):
    heard = Heard(bench.open())
    first, second = bench.peer(), bench.peer()
    first.rtp(bench.port, range(5))
    settle()
    second.rtp(bench.port, range(100, 105), ssrc=8)
    settle()
    assert heard.stream.peer == first.address
    time.sleep(RELEARN_MS / 1000)
    second.rtp(bench.port, range(105, 110), ssrc=8)
    wait_for(lambda: heard.sequences() == [*range(5), *range(105, 110)])
    assert heard.stream.peer == second.address
    assert heard.stream.counts["relearnt"] == 1
    first.rtp(bench.port, [5])
    wait_for(lambda: bench.demultiplexer.socket_counts(0)["strangers"] == 6)


def test_a_peer_is_left_at_once_when_signalling_says_so(bench):
    heard = Heard(bench.open())
    first, second = bench.peer(), bench.peer()
    first.rtp(bench.port, range(5))
    settle()
    heard.stream.look_again()
    second.rtp(bench.port, range(100, 105))
    wait_for(lambda: heard.sequences() == [*range(5), *range(100, 105)])
    assert heard.stream.peer == second.address


def test_an_announced_peer_is_the_only_one(bench):
    peer, stranger = bench.peer(), bench.peer()
    heard = Heard(bench.open(peer=peer.address))
    stranger.rtp(bench.port, range(5))
    peer.rtp(bench.port, [77])
    wait_for(lambda: heard.sequences() == [77])
    time.sleep(2 * RELEARN_MS / 1000)
    stranger.rtp(bench.port, range(5))
    wait_for(lambda: bench.demultiplexer.socket_counts(0)["strangers"] == 10)
    heard.stream.announce(stranger.address)
    stranger.rtp(bench.port, [5])
    peer.rtp(bench.port, [78])
    wait_for(lambda: bench.demultiplexer.socket_counts(0)["strangers"] == 11)
    assert heard.sequences() == [77, 5]


# ---- many streams on one port ----------------------------------------------------------------------


def test_a_shared_port_tells_streams_by_the_address_announced(bench):
    number = bench.add(shared=True)
    peers = [bench.peer() for _ in range(20)]
    streams = [
        Heard(bench.demultiplexer.open(number, payload_types=TYPES, peer=one.address)) for one in peers
    ]
    for sequence in range(10):
        for which, peer in enumerate(peers):
            peer.rtp(bench.port, [100 * which + sequence])
    for which, heard in enumerate(streams):
        wait_for(lambda heard=heard: len(heard()) == 10)
        assert heard.sequences() == [100 * which + sequence for sequence in range(10)]
    bench.peer().rtp(bench.port, range(3))
    wait_for(lambda: bench.demultiplexer.socket_counts(0)["strangers"] == 3)


def test_a_shared_port_learns_an_unknown_source_by_the_ssrc_announced(bench):
    number = bench.add(shared=True)
    first = Heard(bench.demultiplexer.open(number, payload_types=TYPES, ssrc=11))
    second = Heard(bench.demultiplexer.open(number, payload_types=TYPES, ssrc=12))
    one, two, stranger = bench.peer(), bench.peer(), bench.peer()
    two.rtp(bench.port, range(20, 25), ssrc=12)
    one.rtp(bench.port, range(10, 15), ssrc=11)
    stranger.rtp(bench.port, range(5), ssrc=13)
    stranger.rtp(bench.port, range(5), ssrc=11)
    wait_for(lambda: bench.demultiplexer.socket_counts(0)["strangers"] == 10)
    one.rtp(bench.port, [15], ssrc=99)  # learnt once, it may change its SSRC
    wait_for(lambda: first.sequences() == [10, 11, 12, 13, 14, 15])
    assert second.sequences() == [20, 21, 22, 23, 24]
    assert (first.stream.peer, second.stream.peer) == (one.address, two.address)


def test_two_streams_of_one_source_are_told_by_their_ssrcs(bench):
    number = bench.add()
    said = Heard(bench.demultiplexer.open(number, payload_types=TYPES))
    sent = Heard(bench.demultiplexer.open(number, payload_types=TYPES, ssrc=12))
    peer = bench.peer()
    for sequence in range(5):
        peer.rtp(bench.port, [sequence], ssrc=11)
        peer.rtp(bench.port, [100 + sequence], ssrc=12)
    wait_for(lambda: len(said()) == len(sent()) == 5)
    assert said.sequences() == list(range(5))
    assert sent.sequences() == list(range(100, 105))


def test_thousands_of_streams_come_and_go(bench):
    number = bench.add(shared=True)
    chance = random.Random(1)
    streams = {}
    for _ in range(6000):
        port = chance.randrange(1, 2000)
        if port in streams:
            streams.pop(port).close()
        else:
            address = udp.Address(
                socket.inet_pton(bench.here.socket.family, HOSTS[bench.version]), 60_000 - port
            )
            streams[port] = bench.demultiplexer.open(number, payload_types=TYPES, peer=address, ssrc=port)
    peer = bench.peer()
    last = bench.demultiplexer.open(number, payload_types=TYPES, peer=peer.address)
    peer.rtp(bench.port, range(3))
    wait_for(lambda: last.counts["received"] == 3)


# ---- RTCP -------------------------------------------------------------------------------------------


def test_reports_are_taken_from_the_peers_host_on_the_port_beside(bench):
    heard = Heard(bench.open(control=True))
    peer, reporter = bench.peer(), bench.peer()
    reporter.send(bye(7), bench.beside.port)  # there is no peer yet
    wait_for(lambda: bench.demultiplexer.socket_counts(1)["strangers"] == 1)
    peer.rtp(bench.port, range(3))
    settle()
    reporter.send(rtcp_sender_report(7, 1_700_000_000, 0), bench.beside.port)
    wait_for(lambda: heard.stream.counts["reports"] == 1)
    assert len(heard()) == 4
    assert heard.stream.control_peer == reporter.address
    assert not heard.stream.has_gone
    reporter.send(bye(8), bench.beside.port)
    reporter.send(bye(7), bench.beside.port)
    wait_for(lambda: heard.stream.has_gone)


def test_reports_may_come_on_the_port_of_the_packets(bench):
    heard = Heard(bench.open())
    peer, stranger = bench.peer(), bench.peer()
    peer.rtp(bench.port, range(3))
    settle()
    stranger.send(bye(7), bench.port)
    wait_for(lambda: bench.demultiplexer.socket_counts(0)["strangers"] == 1)
    assert not heard.stream.has_gone
    peer.send(bye(7), bench.port)
    wait_for(lambda: heard.stream.has_gone)
    assert heard.stream.control_peer == peer.address


def test_a_shared_port_takes_reports_from_the_port_above_the_peers(bench):
    number, beside = bench.add(shared=True), bench.add_control(shared=True)
    peer = above = None
    while above is None:
        peer = bench.peer()
        try:
            above = bench.peer(port=peer.port + 1)
        except OSError:
            continue
    stream = bench.demultiplexer.open(number, control=beside, payload_types=TYPES, peer=peer.address)
    peer.rtp(bench.port, range(2))
    above.send(rtcp_sender_report(7, 1_700_000_000, 0), bench.beside.port)
    wait_for(lambda: stream.counts["reports"] == 1)
    bench.peer().send(rtcp_sender_report(7, 1_700_000_000, 0), bench.beside.port)
    wait_for(lambda: bench.demultiplexer.socket_counts(1)["strangers"] == 1)


def reference_report(packets, prior=None):
    """RFC 3550 A.1, A.3 and A.8 over [(sequence, timestamp, arrival in timestamps)], in plain arithmetic."""
    extended, jitter, last_transit, last_timestamp = [], 0.0, None, None
    highest = packets[0][0]
    for sequence, timestamp, arrival in packets:
        step = (sequence - highest + 32768) % 65536 - 32768
        extended.append((extended[0] if not extended else max(extended)) + step if extended else sequence)
        highest = sequence if step > 0 else highest
        transit = arrival - timestamp
        if last_transit is not None and timestamp != last_timestamp:
            jitter += (abs(transit - last_transit) - jitter) / 16
        last_transit, last_timestamp = transit, timestamp
    expected = max(extended) - extended[0] + 1
    return max(extended), expected - len(packets), expected, jitter


@pytest.mark.parametrize("first", [100, 65_500])
def test_a_report_tells_loss_and_jitter_as_the_rfc_computes_them(still, first):
    stream = still.open()
    heard = Heard(stream)
    peer = still.peer()
    chance = random.Random(first)
    numbers = [n for n in range(first, first + 60) if n in (first, first + 1) or chance.random() > 0.2]
    for place in range(5, len(numbers) - 1, 9):
        numbers[place], numbers[place + 1] = numbers[place + 1], numbers[place]
    still.thread.start()
    for number in numbers:
        peer.rtp(still.port, [number])
        time.sleep(chance.uniform(0, 0.004))
    wait_for(lambda: stream.counts["received"] == len(numbers))
    heard()
    arrivals = [
        (number & 0xFFFF, 160 * number, at / 125_000)
        for number, at in zip(numbers, heard.times_ns, strict=True)
    ]
    highest, lost, expected, jitter = reference_report(arrivals)
    report = stream.report()
    assert report is not None
    assert (report.ssrc, report.highest_sequence, report.lost) == (7, highest, lost)
    assert report.fraction_lost == 256 * lost // expected
    assert report.jitter == pytest.approx(jitter, abs=2 + 0.02 * jitter)
    assert (report.last_report, report.delay) == (0, 0)
    again = stream.report()
    assert again is not None
    assert (again.fraction_lost, again.lost) == (0, lost)


def test_a_report_tells_the_last_sender_report_and_how_long_ago_it_came(bench):
    stream = bench.open()
    peer = bench.peer()
    peer.rtp(bench.port, range(3))
    settle()
    peer.send(rtcp_sender_report(9, 1_700_000_000.5, 0), bench.port)  # of another source
    peer.send(rtcp_sender_report(7, 1_700_000_001.5, 0), bench.port)
    wait_for(lambda: stream.counts["reports"] == 2)
    time.sleep(0.25)
    report = stream.report()
    assert report is not None
    ntp = (1_700_000_001 + 2_208_988_800 << 32) + (1 << 31)
    assert report.last_report == ntp >> 16 & 0xFFFFFFFF
    assert 0.25 <= report.delay / 65_536 < 0.4


def test_there_is_no_report_before_there_was_a_packet(bench):
    assert bench.open().report() is None


# ---- hostile and too much --------------------------------------------------------------------------


def test_datagrams_of_any_size_and_content_are_data(bench):
    peer = bench.peer()
    heard = Heard(bench.open(peer=peer.address))
    chance = random.Random(2)
    sizes = [*range(60), 171, 172, 1500, 2047, 2048, 2049, 4096, 9000, 65_000]
    sent = 0
    for size in sizes:
        for first in (b"", b"\x80\x00", b"\x80\xc8", b"\xbf\x00", b"\x16\xfe", b"\x00\x01"):
            peer.send((first + chance.randbytes(size))[:size], bench.port)
            sent += 1
        wait_for(lambda sent=sent: bench.demultiplexer.socket_counts(0)["datagrams"] == sent)
    peer.rtp(bench.port, [4321])
    wait_for(
        lambda: heard.stream.counts["received"] and rtp_packet(bytes(160), 4321, 160 * 4321, 7) in heard()
    )
    counts, of_socket = heard.stream.counts, bench.demultiplexer.socket_counts(0)
    assert of_socket["too_long"] == 6 * len([one for one in sizes if one > udp.PACKET_BYTES_MAX])
    assert of_socket["foreign"] > 0 < counts["malformed"]
    assert bench.demultiplexer.counts["errors"] == 0
    total = counts["received"] + counts["reports"] + counts["malformed"]
    total += of_socket["malformed"] + of_socket["foreign"] + of_socket["too_long"] + of_socket["strangers"]
    assert total == of_socket["datagrams"]


def test_nobody_taking_for_20_s_loses_nothing_of_a_stream_and_later_ones_are_dropped_and_counted(still):
    peer = still.peer()
    heard = Heard(still.open(peer=peer.address))
    still.thread.start()
    for number in range(2000):  # 40 s
        peer.rtp(still.port, [number])
        if number % 100 == 99:
            wait_for(lambda number=number: heard.stream.counts["received"] == number + 1)
    lost = heard.stream.counts["overflowed"]
    assert heard.sequences() == list(range(2000 - lost))
    assert 0 < lost < 1000
    peer.rtp(still.port, [2000])
    wait_for(lambda: heard.sequences()[-1:] == [2000])


def test_memory_for_all_streams_together_is_bounded(still):
    still.demultiplexer = udp.Demultiplexer(memory_bytes=1 << 20)
    still.thread = threading.Thread(target=still.demultiplexer.run)
    number = still.add(shared=True)
    peers = [still.peer() for _ in range(8)]
    streams = [still.demultiplexer.open(number, payload_types=TYPES, peer=one.address) for one in peers]
    still.thread.start()
    for sequence in range(1500):
        for peer in peers:
            peer.rtp(still.port, [sequence])
        if sequence % 20 == 19:
            wait_for(
                lambda least=8 * sequence: still.demultiplexer.socket_counts(number)["datagrams"] >= least
            )
    wait_for(lambda: sum(one.counts["received"] for one in streams) == 12_000)
    assert still.demultiplexer.counts["waiting_bytes"] == 1 << 20
    assert sum(one.counts["overflowed"] for one in streams) > 0
    taken = [Heard(one) for one in streams]
    kept = sum(len(one()) for one in taken)
    assert kept == 12_000 - sum(one.counts["overflowed"] for one in streams)
    assert still.demultiplexer.counts["waiting_bytes"] == 0


def test_what_the_kernel_dropped_is_counted(still):
    peer = still.peer()
    number, granted = still.demultiplexer.add_socket(still.here.socket.fileno(), receive_buffer_bytes=4096)
    stream = still.demultiplexer.open(number, payload_types=TYPES, peer=peer.address)
    assert granted < 16_384
    peer.rtp(still.port, range(200))
    still.thread.start()
    settle()
    peer.rtp(still.port, [200])  # tells what was dropped before it
    wait_for(lambda: still.demultiplexer.socket_counts(number)["kernel_dropped"])
    settle()
    assert stream.counts["received"] + still.demultiplexer.socket_counts(number)["kernel_dropped"] == 201


def test_a_buffer_beyond_the_systems_limit_is_had_where_that_is_allowed(still):
    _, granted = still.demultiplexer.add_socket(still.here.socket.fileno(), receive_buffer_bytes=32 << 20)
    assert granted >= (64 << 20 if os.geteuid() == 0 else 200_000)


# ---- sockets and threads ----------------------------------------------------------------------------


def test_sockets_come_and_go_while_packets_come(bench):
    stop = threading.Event()
    targets = [0] * 4

    def send():
        with Peer(bench.version) as peer:
            number = 0
            while not stop.is_set():
                for port in targets:
                    if port:
                        peer.rtp(port, [number])
                number += 1

    sender = threading.Thread(target=send)
    sender.start()
    try:
        for turn in range(300):
            with Peer(bench.version) as one:
                number, _ = bench.demultiplexer.add_socket(one.socket.fileno())
                stream = bench.demultiplexer.open(number, payload_types=TYPES)
                targets[turn % 4] = one.port
                if turn % 10 == 0:
                    wait_for(lambda stream=stream: stream.take() is not None)
                stream.close()
                bench.demultiplexer.remove_socket(number)
    finally:
        stop.set()
        sender.join()
    assert bench.demultiplexer.counts["errors"] == 0
    assert bench.demultiplexer.counts["waiting_bytes"] == 0


def test_a_closed_socket_is_not_read_although_its_number_is_another_files(bench):
    number = bench.add()
    bench.demultiplexer.remove_socket(number)
    peer = bench.peer()
    peer.rtp(bench.port, [5])
    settle()
    assert bench.here.received() is not None


def test_what_is_asked_wrongly_is_a_usage_error(bench):
    stream = bench.open()
    with pytest.raises(UsageError, match="has streams"):
        bench.demultiplexer.remove_socket(0)
    second = bench.demultiplexer.open(0)
    with pytest.raises(UsageError, match="at most two"):
        bench.demultiplexer.open(0)
    second.close()
    with pytest.raises(UsageError, match="no socket 7"):
        bench.demultiplexer.open(7)
    wait_for(lambda: bench.demultiplexer.counts["wakeups"] or bench.peer().rtp(bench.port, [1]))
    with pytest.raises(UsageError, match="one thread"):
        bench.demultiplexer.run()
    stream.close()
    stream.close()
    with pytest.raises(UsageError, match="closed"):
        stream.take()
    with pytest.raises(ValueError, match="payload type 128"):
        bench.demultiplexer.open(0, payload_types=[128])
    with pytest.raises(ValueError, match="address"):
        bench.demultiplexer.open(0, peer=udp.Address(b"123", 5))
    with pytest.raises(OSError, match="descriptor"):
        bench.demultiplexer.add_socket(-1)


def test_a_demultiplexer_that_never_ran_leaves_no_descriptor():
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        pacer = udp.Pacer(udp.Demultiplexer())
        del pacer
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# ---- what is played ---------------------------------------------------------------------------------


class Stage:
    """A pacer whose thread runs, with a voice that speaks to one peer."""

    def __init__(self, bench, *, peer=None, heard=None):
        self.peer = bench.peer() if peer is None else peer
        self.stream = bench.open(peer=self.peer.address)
        self.pacer = udp.Pacer(bench.demultiplexer)
        self.voice = self.pacer.voice(
            bench.here.socket.fileno(),
            self.stream,
            ssrc=0xABCD,
            sequence=65_530,
            timestamp=2**32 - 300,
            heard=heard,
        )
        self.ended = []
        self.is_over = False
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        while not self.is_over:
            self.ended += self.pacer.run()

    def close(self):
        self.is_over = True
        self.pacer.wake()
        self.thread.join()


@pytest.fixture
def stage(bench):
    one = Stage(bench)
    yield one
    one.close()


def collect(peer, count):
    found = []
    for _ in range(count):
        data = peer.received()
        assert data is not None
        found.append((time.monotonic(), rtp.parse(data)))
    return found


def test_what_is_played_goes_out_in_packets_of_20_ms_on_an_absolute_schedule(stage):
    codes = bytes(range(256)) * 50  # 80 packets
    began = time.monotonic()
    talk = stage.voice.play(codes, payload_type=8, codec="PCMA")
    found = collect(stage.peer, 80)
    offsets = [at - began - number * PACKET_S for number, (at, _) in enumerate(found)]
    assert np.median(offsets) < 0.010  # on a machine that does other things
    assert min(offsets) > -0.002
    assert (
        abs(min(offsets[-20:]) - min(offsets[:20])) < 0.005
    )  # no drift: the quickest are as quick as before
    packets = [one for _, one in found]
    assert b"".join(one.payload for one in packets) == codes
    assert [one.sequence for one in packets] == [(65_530 + n) & 0xFFFF for n in range(80)]
    steps = {(b.timestamp - a.timestamp) & 0xFFFFFFFF for a, b in itertools.pairwise(packets)}
    assert steps == {160}
    assert [one.marker for one in packets] == [True] + 79 * [False]
    assert {(one.ssrc, one.payload_type) for one in packets} == {(0xABCD, 8)}
    wait_for(lambda: stage.ended == [(stage.voice, talk, None)])
    assert stage.voice.sent[2:] == (80, 80 * 160)
    assert stage.voice.counts["refused"] == 0


def test_who_could_send_nothing_for_200_ms_goes_on_from_now_with_a_marker_behind_a_gap(bench):
    peer = bench.peer()
    pacer = udp.Pacer(bench.demultiplexer)
    stream = bench.open(peer=peer.address)
    voice = pacer.voice(bench.here.socket.fileno(), stream, ssrc=1, sequence=65_530, timestamp=2**32 - 300)
    codes = bytes(range(256)) * 25  # 40 packets
    began = time.monotonic()
    talk = voice.play(codes, payload_type=0)
    for pause_s in (0.1, 0.5):
        pacer.wake()
        assert pacer.run() == []  # one packet is sent
        time.sleep(pause_s)
    assert pacer.run() == [(voice, talk, None)]
    took_s = time.monotonic() - began
    packets = [rtp.parse(one) for one in peer.all_received()]
    assert b"".join(one.payload for one in packets) == codes
    assert [one.sequence for one in packets] == [(65_530 + n) & 0xFFFF for n in range(40)]
    steps = [(b.timestamp - a.timestamp) & 0xFFFFFFFF for a, b in itertools.pairwise(packets)]
    assert [one.marker for one in packets] == [True, *(step != 160 for step in steps)]
    gaps = [step / 8000 for step in steps if step != 160]  # on a busy machine more than one
    assert min(gaps) > 0.22  # what is less late is caught up
    assert max(gaps) > 0.49  # as long as nothing was sent
    assert sum(steps) / 8000 < took_s + 0.001  # and no packet goes before its time


def test_the_last_packet_is_filled_up_with_silence(stage):
    stage.voice.play(b"\x11" * 200, payload_type=0)
    packets = [one for _, one in collect(stage.peer, 2)]
    assert packets[1].payload == b"\x11" * 40 + b"\xff" * 120
    wait_for(lambda: len(stage.ended) == 1)
    stage.voice.play(b"\x11", payload_type=8, codec="PCMA")
    assert collect(stage.peer, 1)[0][1].payload == b"\x11" + b"\xd5" * 159


def test_a_second_talk_begins_with_a_marker_at_the_timestamp_of_its_time(stage):
    stage.voice.play(bytes(480), payload_type=0)
    first = collect(stage.peer, 3)
    wait_for(lambda: len(stage.ended) == 1)
    time.sleep(0.3)
    stage.voice.play(bytes(320), payload_type=0)
    second = collect(stage.peer, 2)
    assert [one.marker for _, one in second] == [True, False]
    assert second[0][1].sequence == (first[-1][1].sequence + 1) & 0xFFFF
    elapsed = (second[0][1].timestamp - first[0][1].timestamp) & 0xFFFFFFFF
    assert elapsed / 8000 == pytest.approx(second[0][0] - first[0][0], abs=0.03)


def test_what_is_stopped_is_not_told_and_the_next_may_begin(stage):
    stage.voice.play(bytes(80_000), payload_type=0)
    collect(stage.peer, 2)
    with pytest.raises(UsageError, match="one thing at a time"):
        stage.voice.play(bytes(160), payload_type=0)
    stage.voice.stop()
    talk = stage.voice.play(bytes(160), payload_type=0)
    wait_for(lambda: stage.ended)
    assert stage.ended == [(stage.voice, talk, None)]
    assert len(stage.peer.all_received()) <= 4


def test_what_is_played_may_be_kept_in_a_stream(bench):
    heard = bench.demultiplexer.open()
    stage = Stage(bench, heard=heard)
    try:
        stage.voice.play(bytes(range(160)) * 3, payload_type=0)
        packets = [stage.peer.received() for _ in range(3)]
        kept = Heard(heard)
        wait_for(lambda: kept() == packets)
        steps = [b - a for a, b in itertools.pairwise(kept.times_ns)]
        assert steps == [20 * MS_NS] * 2
    finally:
        stage.close()


def test_many_voices_speak_at_once(bench):
    number = bench.add(shared=True)
    peers = [bench.peer() for _ in range(100)]
    pacer = udp.Pacer(bench.demultiplexer)
    voices = []
    for which, peer in enumerate(peers):
        stream = bench.demultiplexer.open(number, payload_types=TYPES, peer=peer.address)
        voices.append(pacer.voice(bench.here.socket.fileno(), stream, ssrc=which, sequence=0, timestamp=0))
    ended = []

    def run():
        while len(ended) < len(voices):
            ended.extend(pacer.run())

    thread = threading.Thread(target=run)
    thread.start()
    for which, voice in enumerate(voices):
        voice.play(bytes([which]) * 1600, payload_type=0)
    thread.join(10)
    assert {voice for voice, _, error in ended if error is None} == set(voices)
    for which, peer in enumerate(peers):
        packets = [rtp.parse(one) for one in peer.all_received()]
        assert [one.sequence for one in packets] == list(range(10))
        assert {(one.ssrc, one.payload) for one in packets} == {(which, bytes([which]) * 160)}


def test_nobody_to_send_to_and_no_way_there_are_told(bench):
    nobody = bench.demultiplexer.open(bench.add(), payload_types=TYPES)
    pacer = udp.Pacer(bench.demultiplexer)
    voice = pacer.voice(bench.here.socket.fileno(), nobody, ssrc=1, sequence=0, timestamp=0)
    began = time.monotonic()
    voice.play(bytes(160), payload_type=0)
    ((_, _, error),) = pacer.run()
    assert "nobody has sent" in error
    assert 4.5 < time.monotonic() - began < 7
    if bench.version == 4:  # a broadcast that nobody has allowed
        nobody.announce(udp.Address(bytes([255] * 4), 9))
    else:  # a link that is not there
        nobody.announce(udp.Address(socket.inet_pton(socket.AF_INET6, "fe80::1"), 9, 99_999))
    voice.play(bytes(16_000), payload_type=0)
    ((_, _, error),) = pacer.run()
    assert "cannot be sent" in error
    assert voice.counts["refused"] >= 25


def test_a_voice_waits_for_the_peer_to_be_learnt(bench):
    stream = bench.open()
    pacer = udp.Pacer(bench.demultiplexer)
    voice = pacer.voice(bench.here.socket.fileno(), stream, ssrc=1, sequence=0, timestamp=0)
    thread = threading.Thread(target=pacer.run)
    thread.start()
    voice.play(b"\x22" * 320, payload_type=0)
    time.sleep(0.2)
    peer = bench.peer()
    peer.rtp(bench.port, range(3))
    assert [one.payload for _, one in collect(peer, 2)] == [b"\x22" * 160] * 2
    thread.join(5)


def test_a_stream_outlives_the_voices_that_speak_to_its_peer(stage):
    with pytest.raises(UsageError, match="Voice"):
        stage.stream.close()
    stage.voice.close()
    stage.voice.close()
    stage.stream.close()
    with pytest.raises(UsageError, match="closed"):
        stage.voice.play(bytes(160), payload_type=0)


def test_streams_and_voices_may_be_used_from_many_threads(bench):
    number = bench.add(shared=True)
    pacer = udp.Pacer(bench.demultiplexer)
    over = threading.Event()

    def run():
        while not over.is_set():
            pacer.run()

    def use(which):
        peer = Peer(bench.version)
        for _ in range(40):
            stream = bench.demultiplexer.open(number, payload_types=TYPES, peer=peer.address)
            voice = pacer.voice(bench.here.socket.fileno(), stream, ssrc=which, sequence=0, timestamp=0)
            voice.play(bytes(1600), payload_type=0)
            peer.rtp(bench.port, range(3))
            stream.take()
            assert stream.counts["malformed"] == 0
            voice.stop()
            voice.close()
            stream.close()
        peer.socket.close()

    runner = threading.Thread(target=run)
    users = [threading.Thread(target=use, args=(which,)) for which in range(6)]
    for one in (runner, *users):
        one.start()
    for one in users:
        one.join(60)
    over.set()
    pacer.wake()
    runner.join(5)
    assert not runner.is_alive()


def test_the_record_is_that_of_captures():
    assert struct.calcsize("=qQIIIIIHH") == sum(np.dtype(kind).itemsize for _, kind in pcap.DTYPE) == 40
    assert len(rtp_packet(bytes(160))) == 172
