"""kernels.rtp: packets taken apart, who speaks on a port, the timeline's doors (rules: tests/unit/test_legs.py)."""

import struct

import numpy as np
import pytest

from callreel.errors import MediaError, RtpError, UsageError
from callreel.kernels import pcap, rtp, tone
from capture_writer import rtcp_sender_report, rtp_packet, telephone_event

S_NS = 1_000_000_000
EMPTY_RECORDS = np.zeros(0, dtype=pcap.DTYPE)


# ---- packets apart ----


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rtp", (0, 15743, 3937035252, False, (), 160)),
        ("rtp_dtmf", (101, 24152, 4021352124, True, (), 4)),
        ("rtp_with_csrc", (0, 16082, 144, False, (2882400001, 3735928559), 160)),
    ],
)
def test_packets_of_another_implementation(test_data, name, expected):
    packet = rtp.parse(test_data(f"rtp-packets/{name}.bin").read_bytes())
    assert (
        packet.payload_type,
        packet.sequence,
        packet.timestamp,
        packet.marker,
        packet.csrc,
        len(packet.payload),
    ) == expected
    assert (packet.extension, packet.padding_bytes) == (None, 0)


def test_every_field_of_a_packet():
    wire = rtp_packet(
        b"voice",
        65535,
        2**32 - 1,
        0xDEADBEEF,
        96,
        True,
        csrc=(1, 2**32 - 1),
        extension=(0xBEDE, b"12345678"),
        padding=3,
    )
    assert rtp.parse(wire) == rtp.Packet(
        payload_type=96,
        sequence=65535,
        timestamp=2**32 - 1,
        ssrc=0xDEADBEEF,
        marker=True,
        csrc=(1, 2**32 - 1),
        extension=(0xBEDE, b"12345678"),
        payload=b"voice",
        padding_bytes=3,
    )


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: np.frombuffer(b, np.uint8)])
def test_any_bytes_are_taken(kind):
    assert rtp.parse(kind(rtp_packet(b"ab", 7))).sequence == 7


def test_an_extension_and_a_payload_may_be_empty():
    packet = rtp.parse(rtp_packet(b"", extension=(1, b"")))
    assert (packet.extension, packet.payload) == ((1, b""), b"")


def test_padding_may_fill_the_payload():
    assert rtp.parse(rtp_packet(b"", padding=255)).payload == b""


def problem(wire: bytes) -> str:
    with pytest.raises(RtpError) as error:
        rtp.parse(wire)
    assert isinstance(error.value, MediaError)
    assert error.value.offset == 0
    return str(error.value).removesuffix(" (at byte 0)")


@pytest.mark.parametrize("size", [0, 1, 11])
def test_a_packet_shorter_than_its_header(size):
    assert problem(rtp_packet(b"x")[:size]) == "shorter than an RTP header"


def test_a_packet_longer_than_a_datagram():
    assert rtp.parse(rtp_packet(bytes(65535 - 12))).payload == bytes(65535 - 12)
    assert problem(rtp_packet(bytes(65536 - 12))) == "longer than a UDP datagram"


@pytest.mark.parametrize("first", [0x00, 0x40, 0xC0])
def test_a_packet_of_another_version(first):
    assert problem(bytes([first]) + rtp_packet(b"x")[1:]) == "not RTP version 2"


def test_a_csrc_list_that_runs_past_the_packet():
    assert problem(rtp_packet(csrc=range(15))[:-1]) == "the CSRC list runs past the packet"


@pytest.mark.parametrize("cut", [1, 4, 8, 11])
def test_an_extension_that_runs_past_the_packet(cut):
    wire = rtp_packet(extension=(1, bytes(8)))
    assert problem(wire[:-cut]) == "the header extension runs past the packet"


def test_an_extension_of_the_greatest_length():
    wire = bytearray(rtp_packet(bytes(100), extension=(1, b"")))
    wire[14:16] = b"\xff\xff"
    assert problem(bytes(wire)) == "the header extension runs past the packet"


@pytest.mark.parametrize("length", [0, 6, 255])
def test_padding_that_is_longer_than_the_payload_or_says_nothing(length):
    wire = bytearray(rtp_packet(b"voice"))
    wire[0] |= 0x20
    wire[-1] = length
    assert problem(bytes(wire)) == "the padding is longer than the payload"


def test_padding_without_a_payload():
    wire = bytearray(rtp_packet(b"", csrc=(3,)))
    wire[0] |= 0x20
    assert problem(bytes(wire)) == "the padding is longer than the payload"


@pytest.mark.parametrize("wrong", ["text", 5, None, np.zeros(4, np.int16), memoryview(bytes(40))[::2]])
def test_what_is_no_bytes_is_refused(wrong):
    with pytest.raises((TypeError, BufferError)):
        rtp.parse(wrong)


# ---- sender reports ----


def test_a_sender_report_of_another_implementation(test_data):
    report = rtp.sender_report(test_data("rtp-packets/rtcp_sr.bin").read_bytes())
    assert (report.ssrc, report.timestamp) == (1831097322, 1722342718)


@pytest.mark.parametrize("name", ["rtcp_bye", "rtcp_sdes"])
def test_a_packet_without_a_sender_report(test_data, name):
    assert rtp.sender_report(test_data(f"rtp-packets/{name}.bin").read_bytes()) is None


def test_a_sender_report_too_short_for_its_fields(test_data):
    with pytest.raises(RtpError, match="do not add up"):
        rtp.sender_report(test_data("rtp-packets/rtcp_sr_invalid.bin").read_bytes())


def test_every_field_of_a_sender_report():
    wire = rtcp_sender_report(5, 1_700_000_000.5, 99, 7, 1120)
    assert rtp.sender_report(wire) == (5, ((1_700_000_000 + 2_208_988_800) << 32) + 2**31, 99, 7, 1120)


def test_the_first_sender_report_of_a_compound_packet_counts():
    receiver_report = struct.pack(">BBHI", 0x80, 201, 1, 9)
    wire = receiver_report + rtcp_sender_report(5, 0, 1) + rtcp_sender_report(6, 0, 2)
    assert rtp.sender_report(wire).ssrc == 5


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        bytes(7),
        rtcp_sender_report(5)[:-1],
        rtcp_sender_report(5) + b"\x80",
        rtcp_sender_report(5) + struct.pack(">BBHI", 0x40, 201, 1, 9),
        rtcp_sender_report(5) + struct.pack(">BBHI", 0x80, 201, 2, 9),
        b"\x81" + rtcp_sender_report(5)[1:],
    ],
    ids=["empty", "short", "cut", "rest", "version", "overrun", "report blocks missing"],
)
def test_a_compound_packet_whose_lengths_do_not_add_up(wire):
    with pytest.raises(RtpError, match="do not add up"):
        rtp.sender_report(wire)


# ---- who speaks on the port ----


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\x80",
        b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12),  # STUN
        b"\x10" + bytes(20),  # ZRTP
        b"\x16\xfe\xff" + bytes(20),  # DTLS
        b"\x40\x00" + bytes(20),  # TURN channel data
        b"\xc0" + bytes(20),
        b"\r\n\r\n",
    ],
)
def test_other_protocols_of_the_port_are_not_counted(datagram):
    receiver = rtp.Receiver()
    assert receiver.receive(datagram, 0)
    assert not any(receiver.counts.values())
    survey = surveyed([datagram])
    assert (survey.runs, survey.rtcp, survey.malformed) == ([], 0, 0)


@pytest.mark.parametrize("second", range(192, 224))
def test_rtcp_of_the_port_is_never_rtp(second):
    datagram = bytes([0x80, second]) + bytes(30)
    receiver = rtp.Receiver()
    assert receiver.receive(datagram, 0)
    assert not any(receiver.counts.values())
    assert surveyed([datagram]).rtcp == 1


def test_sender_reports_of_the_port_are_counted():
    receiver = rtp.Receiver()
    receiver.receive(rtcp_sender_report(), 0)
    receiver.receive(rtcp_sender_report()[:-2], 0)
    assert receiver.sender_reports == 1


def test_what_begins_like_rtp_and_is_not_is_malformed():
    receiver = rtp.Receiver()
    receiver.receive(rtp_packet()[:11], 0)
    assert receiver.counts["malformed"] == 1
    assert surveyed([rtp_packet()[:11]]).malformed == 1


# ---- Receiver: its doors ----


def batch(datagrams, times_ns=None, flags=0):
    lengths = np.array([len(d) for d in datagrams], dtype=np.int64)
    table = np.zeros(len(datagrams), dtype=pcap.DTYPE)
    table["length"] = lengths
    table["offset"] = np.cumsum(lengths) - lengths
    table["time_ns"] = np.arange(len(datagrams)) * 20_000_000 if times_ns is None else times_ns
    table["flags"] = flags
    return b"".join(datagrams), table


def stream(count: int, first: int = 0) -> list[bytes]:
    return [rtp_packet(b"\x31" * 160, n, 160 * n) for n in range(first, first + count)]


@pytest.mark.parametrize(
    "options",
    [
        {"sample_rate": 7999},
        {"sample_rate": 49_000, "host_frames": True},
        {"sample_rate": 8_500, "host_frames": True},
        {"sample_rate": 16_000},
        {"late_ms": 10_001},
        {"capacity_ms": 2_999},
        {"capacity_ms": 120_001},
        {"payload_types": {128: "PCMU"}},
        {"payload_types": {-1: "PCMU"}},
        {"payload_types": {2**70: "PCMU"}},
    ],
)
def test_a_number_out_of_range_is_refused(options):
    with pytest.raises(ValueError, match=r"possible|needed|sampled at"):
        rtp.Receiver(**options)


@pytest.mark.parametrize(
    "options", [{"payload_types": {"0": "PCMU"}}, {"payload_types": [0]}, {"payload_types": 5}]
)
def test_payload_types_that_are_no_mapping_of_numbers_are_refused(options):
    with pytest.raises((TypeError, AttributeError)):
        rtp.Receiver(**options)


def test_codec_names_are_known_in_any_case_and_others_are_undecoded():
    receiver = rtp.Receiver({0: "pcmu", 8: "PcmA", 101: "TELEPHONE-EVENT", 9: "G722"})
    for n, payload_type in enumerate([0, 8, 9, 55]):
        receiver.receive(rtp_packet(bytes(160), n, 160 * n, payload_type=payload_type), 0)
    receiver.receive(rtp_packet(telephone_event(1, 800, True), 4, 640, payload_type=101), 0)
    assert (receiver.counts["undecoded"], receiver.digits()) == (2, [("1", 640, 800)])
    assert receiver.payload_types_seen == (0, 8, 9, 55, 101)


def test_without_payload_types_the_static_ones_hold():
    assert rtp.STATIC_PAYLOAD_TYPES == {0: "PCMU", 8: "PCMA", 13: "CN"}
    receiver = rtp.Receiver()
    for n, payload_type in enumerate([0, 8, 13, 101]):
        receiver.receive(rtp_packet(b"\x10" * 160, n, 160 * n, payload_type=payload_type), 0)
    assert receiver.counts["undecoded"] == 1


def test_set_payload_types_replaces_all_of_them():
    receiver = rtp.Receiver({0: "PCMU"})
    receiver.set_payload_types({96: "PCMA"})
    receiver.receive(rtp_packet(bytes(160), 0, 0), 0)
    receiver.receive(rtp_packet(bytes(160), 1, 160, payload_type=96), 0)
    assert receiver.counts["undecoded"] == 1
    with pytest.raises(ValueError, match="payload type 300"):
        receiver.set_payload_types({300: "PCMU"})


def test_a_refused_mapping_of_payload_types_changes_nothing():
    receiver = rtp.Receiver({0: "PCMU"})
    with pytest.raises(ValueError, match="payload type 128"):
        receiver.set_payload_types({8: "PCMA", 128: "PCMU"})
    receiver.receive(rtp_packet(bytes(160), 0, 0), 0)
    assert receiver.counts["undecoded"] == 0


def test_a_batch_stops_before_the_first_record_later_than_asked():
    data, table = batch(stream(10))
    receiver = rtp.Receiver()
    assert receiver.receive_batch(data, table, until_ns=59_999_999) == 3
    assert receiver.receive_batch(data, table, 3, until_ns=60_000_000) == 1
    assert receiver.receive_batch(data, table, 4, 2) == 2
    assert receiver.receive_batch(data, table, 6) == 4
    assert receiver.counts["received"] == 10


@pytest.mark.parametrize(
    ("first", "count"),
    [(-1, 1), (0, 11), (11, 0), (5, 6), (5, -1), (2**62, 2**62), (0, 2**62), (1, 2**63 - 1)],
)
def test_records_that_are_not_there_are_refused(first, count):
    data, table = batch(stream(10))
    for taker in (rtp.Receiver(), rtp.Survey()):
        with pytest.raises(ValueError, match="records"):
            taker.receive_batch(data, table, first, count)


@pytest.mark.parametrize(("offset", "length"), [(0, 10_000), (2**32 - 1, 2), (1720, 1), (1719, 2)])
def test_a_record_outside_the_data_is_refused_before_anything_is_taken(offset, length):
    data, table = batch(stream(10))
    table[7]["offset"], table[7]["length"] = offset, length
    receiver = rtp.Receiver()
    with pytest.raises(ValueError, match="record 7 lies outside the data"):
        receiver.receive_batch(data, table)
    assert receiver.counts["received"] == 0


def test_records_must_be_whole():
    data, table = batch(stream(2))
    with pytest.raises(ValueError, match="79 bytes are not a whole number of packet records"):
        rtp.Receiver().receive_batch(data, table.tobytes()[:79])


def test_an_empty_batch_is_legal():
    assert rtp.Receiver().receive_batch(b"", EMPTY_RECORDS) == 0
    rtp.Survey().receive_batch(b"", EMPTY_RECORDS)


def test_a_long_read_without_the_gil_is_the_same():
    data, table = batch(stream(150))
    outcomes = []
    for step in (160, 24_000):
        receiver = rtp.Receiver()
        receiver.receive_batch(data, table)
        receiver.finish()
        outcomes.append(b"".join(receiver.read(at) for at in range(step, 24_001, step)))
    assert outcomes[0] == outcomes[1]
    assert any(outcomes[0])


def test_reading_backwards_gives_nothing_and_reading_too_much_is_refused():
    receiver = rtp.Receiver()
    assert receiver.read(160) == bytes(320)
    assert receiver.read(160) == receiver.read(0) == receiver.read(-(2**63)) == b""
    with pytest.raises(ValueError, match="read at most"):
        receiver.read(2**62)
    assert receiver.position == 160


def test_pushing_is_for_host_frames_only():
    with pytest.raises(TypeError, match="host_frames=True"):
        rtp.Receiver().push(bytes(320), 0)
    receiver = rtp.Receiver(host_frames=True)
    with pytest.raises(ValueError, match="whole number"):
        receiver.push(bytes(3), 0)
    assert receiver.push(b"", 0) == 0
    assert receiver.push(np.zeros(500, np.int16), 0) == 500
    assert (receiver.host_frames, receiver.counts["received"], receiver.end) == (True, 4, 500)


def test_pushing_into_a_full_store_says_how_much_was_taken():
    receiver = rtp.Receiver(host_frames=True, capacity_ms=3000)
    taken = receiver.push(bytes(2 * 8000 * 10), 0)
    assert 2 * 8000 < taken < 3 * 8000
    assert receiver.counts["discarded"] == 500 - taken // 160


def test_hearing_comes_before_reading_and_waits_40_ms_for_what_is_missing():
    receiver = rtp.Receiver()
    datagrams = stream(10)
    receiver.receive(datagrams[0], 0)
    assert [(position, len(pcm)) for position, pcm in receiver.hear()] == [(0, 320)]
    receiver.receive(datagrams[2], 40_000_000)
    receiver.receive(datagrams[3], 60_000_000)
    assert receiver.hear() == []
    receiver.receive(datagrams[4], 80_000_000)
    assert [(position, len(pcm)) for position, pcm in receiver.hear()] == [(320, 960)]
    receiver.receive(datagrams[6], 120_000_000)
    receiver.receive(datagrams[5], 121_000_000)
    assert [(position, len(pcm)) for position, pcm in receiver.hear()] == [(800, 640)]
    receiver.receive(datagrams[8], 160_000_000)
    receiver.finish()
    assert [position for position, _ in receiver.hear()] == [1280]


def test_at_most_16_sources_are_named():
    receiver = rtp.Receiver()
    for n in range(40):
        receiver.receive(rtp_packet(bytes(160), n, 160 * n, ssrc=n), n * S_NS)
    assert receiver.ssrcs == tuple(range(16))


def test_many_packets_that_are_late_beyond_the_window_never_make_the_losses_negative():
    receiver = rtp.Receiver()
    for at, n in enumerate([*range(3000), *[5] * 50, *[6] * 50]):
        receiver.receive(rtp_packet(bytes(160), n, 160 * n), at * 20_000_000)
        receiver.skip(receiver.ready(at * 20_000_000))
    assert receiver.counts["lost"] == 0
    assert receiver.counts["late"] == 100


def test_a_straggler_from_before_the_first_packet_is_not_taken_for_one_that_was_lost():
    receiver = rtp.Receiver()
    for number, lost in ((5000, 0), (5002, 1), (2990, 1), (5001, 0)):
        receiver.receive(rtp_packet(bytes(160), number, 160 * number), 0)
        assert receiver.counts["lost"] == lost
    assert receiver.counts["late"] == 1


def test_a_packet_that_comes_again_beyond_the_window_never_makes_the_losses_negative():
    receiver = rtp.Receiver()
    for at, number in enumerate([*range(2990), *range(2991, 3000), 5, 2990]):
        receiver.receive(rtp_packet(bytes(160), number, 160 * number), at * 20_000_000)
        receiver.skip(receiver.ready(at * 20_000_000))
        assert receiver.counts["lost"] >= 0


# ---- Survey ----


def surveyed(datagrams, times_ns=None, flags=0):
    survey = rtp.Survey()
    survey.receive_batch(*batch(datagrams, times_ns, flags))
    return survey


def test_a_run_tells_who_when_and_how_much():
    datagrams = stream(50)
    datagrams[20], datagrams[21] = datagrams[21], datagrams[20]
    datagrams.append(datagrams[-1])
    del datagrams[30:33]
    (run,) = surveyed(datagrams).runs
    assert (run.ssrc, run.first_ns, run.last_ns) == (0x12345678, 0, 47 * 20_000_000)
    assert (run.packets, run.lost, run.duplicate, run.reordered) == (48, 3, 1, 1)
    assert (run.payload_types, run.cut) == ((0,), 0)


def test_records_that_were_cut_are_counted():
    (run,) = surveyed(stream(5), flags=pcap.CUT).runs
    assert run.cut == 5


def test_sources_are_runs_of_their_own_and_so_is_one_after_a_minutes_pause():
    first, second = stream(5), [rtp_packet(b"x", n, n, ssrc=9) for n in range(5)]
    runs = surveyed(first + second + stream(5, 5), [*range(10), *range(61 * S_NS, 61 * S_NS + 5)]).runs
    assert [(run.ssrc, run.packets) for run in runs] == [(0x12345678, 5), (9, 5), (0x12345678, 5)]
    assert [run.first_ns for run in runs] == [0, 5, 61 * S_NS]


def test_a_pause_of_a_minute_less_a_bit_is_the_same_run():
    assert len(surveyed(stream(2), [0, 60 * S_NS]).runs) == 1


def test_runs_beyond_8_are_tallied_in_the_last_one():
    survey = surveyed([rtp_packet(b"", n, ssrc=n) for n in range(20)])
    assert [run.packets for run in survey.runs] == [1] * 7 + [13]


def test_times_at_the_ends_of_the_world_are_taken():
    runs = surveyed(stream(4), [-(2**63), 2**63 - 1, -(2**63), 0]).runs
    assert sum(run.packets for run in runs) == 4


def test_bytes_that_merely_begin_like_rtp_are_not_in_order():
    noise = np.random.default_rng(1).integers(0, 256, (200, 40), dtype=np.uint8)
    noise[:, 0] = 0x80
    noise[:, 1] &= 0x3F
    noise[:, 8:12] = 7
    (run,) = surveyed([row.tobytes() for row in noise]).runs
    assert run.packets == 200
    assert run.orderly < 5
    (speech,) = surveyed(stream(200)).runs
    assert speech.orderly == 199


def keys(payload_type=101, code=5, timestamp=8000):
    return [
        rtp_packet(telephone_event(code, 160 * (n + 1), n >= 3), n, timestamp, payload_type=payload_type)
        for n in range(6)
    ]


def test_payloads_that_behave_like_events_from_first_to_last_are_events():
    assert surveyed(keys() + keys(code=6, timestamp=9600)).event_payload_types == (101,)
    assert surveyed(keys(100) + keys(96)).event_payload_types == (96, 100)


def test_payload_type_101_alone_proves_nothing():
    speech = [rtp_packet(b"\x05\x0a\x00\xa0" * 8, n, 160 * n, payload_type=101) for n in range(50)]
    assert surveyed(speech).event_payload_types == ()
    # Four bytes a packet, but none goes on with another.
    narrow = [rtp_packet(telephone_event(n % 16, 160), n, 160 * n, payload_type=101) for n in range(50)]
    assert surveyed(narrow).event_payload_types == ()


def test_one_packet_that_is_no_event_takes_the_word_back():
    assert surveyed([*keys(), rtp_packet(bytes(20), 99, 1, payload_type=101)]).event_payload_types == ()


@pytest.mark.parametrize(
    "contradiction",
    [
        telephone_event(6, 1600),
        telephone_event(5, 10),
        telephone_event(17, 1600),
        b"\x05\x4a\x06\x40",
        b"\x05\x0a\x06",
    ],
    ids=["another key at one timestamp", "shorter than before", "no key", "reserved bit", "three bytes"],
)
def test_an_event_that_contradicts_the_one_before_is_none(contradiction):
    survey = surveyed([*keys(), rtp_packet(contradiction, 6, 8000, payload_type=101)])
    assert survey.event_payload_types == ()


def test_static_payload_types_are_never_events():
    assert surveyed(keys(95) + keys(0)).event_payload_types == ()


def test_payload_types_beyond_8_are_left_out():
    datagrams = [rtp_packet(bytes(20), n, n, payload_type=n) for n in range(8)]
    survey = surveyed(datagrams + keys())
    assert survey.event_payload_types == ()
    assert survey.runs[0].payload_types == (*range(8), 101)


# ---- two side by side ----


def side_by_side(count=200):
    """Two receivers that were fed, the same again, and what reads the first two."""
    ones = [rtp.Receiver(detect_digits=True), rtp.Receiver(detect_digits=True)]
    others = [rtp.Receiver(detect_digits=True), rtp.Receiver(detect_digits=True)]
    for number, (first, second) in enumerate(zip(ones, others, strict=True)):
        for n, datagram in enumerate(stream(count)):
            if n % 7 != number:
                first.receive(datagram, (n + 3 * number) * 20_000_000)
                second.receive(datagram, (n + 3 * number) * 20_000_000)
    return rtp.Pair(*ones), ones, others


def test_a_pair_reads_and_skips_what_its_receivers_would():
    pair, ones, (left, right) = side_by_side(120)
    now_ns = 121 * 20_000_000
    assert pair.ready(now_ns) == min(left.ready(now_ns), right.ready(now_ns)) > 0
    stereo = np.frombuffer(pair.read(5000), np.int16)
    assert stereo[::2].tobytes() == left.read(5000)
    assert stereo[1::2].tobytes() == right.read(5000)
    pair.skip(7000)
    left.skip(7000)
    right.skip(7000)
    assert (pair.position, ones[1].position) == (7000, 7000)
    stereo = np.frombuffer(pair.read(8000), np.int16)
    assert (stereo[::2].tobytes(), stereo[1::2].tobytes()) == (left.read(8000), right.read(8000))
    assert [one.gaps() for one in ones] == [left.gaps(), right.gaps()]
    assert pair.read(8000) == b""


def test_a_pair_hears_the_keys_of_both():
    for number in range(2):
        ones = [rtp.Receiver(host_frames=True, detect_digits=True) for _ in range(2)]
        pair = rtp.Pair(*ones)
        assert not pair.listen()
        ones[number].push(tone.dtmf("5", seconds=0.1, sample_rate=8000), 0)
        assert not pair.listen()
        assert (pair.sounding_since is None) == (number == 1)
        ones[number].push(bytes(3200), 100_000_000)
        assert pair.listen()
        assert [len(one.tones()) for one in ones] == [1 - number, number]
        assert (pair.listen(), pair.sounding_since) == (False, None)


def test_receivers_that_were_read_apart_are_no_pair():
    pair, ones, _ = side_by_side(120)
    ones[0].read(160)
    with pytest.raises(UsageError, match="side by side"):
        pair.read(320)


def test_names_of_arguments_are_those_of_the_stub():
    receiver = rtp.Receiver()
    assert receiver.receive(arrival_ns=0, packet=stream(1)[0], force=False)
    for wrong in ({}, {"packet": b""}, {"packet": b"", "arrival_ns": 0, "until": 1}):
        with pytest.raises(TypeError):
            receiver.receive(**wrong)
    with pytest.raises(TypeError, match="multiple values"):
        receiver.receive(b"", 0, packet=b"")
    with pytest.raises(TypeError, match="at most 3"):
        receiver.receive(b"", 0, True, None)
