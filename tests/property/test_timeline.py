"""The timeline under streams nobody would think of: rules that must hold whatever comes, in whatever order."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from callreel.kernels import rtp
from callreel.legs import Track
from capture_writer import rtcp_sender_report, rtp_packet
from streams import (
    MS_NS,
    RATE,
    S_NS,
    Packet,
    arrive,
    codes,
    decoded,
    event,
    in_order_of_arrival,
    late,
    records,
    talk,
)

TYPES = {0: "PCMU", 8: "PCMA", 13: "CN", 101: "telephone-event"}

quick = settings(deadline=None, max_examples=80)


# ---- streams a sane sender makes, and a network that is not kind ----


@st.composite
def sane_streams(draw, *, lossy=True, jitter_ms=150, pauses=True, events=True):
    """Spurts of speech with pauses (with and without comfort noise), keys, loss, jitter and duplicates."""
    sequence = draw(st.integers(0, 0xFFFF))
    timestamp = draw(st.integers(0, 0xFFFFFFFF))
    seed = draw(st.integers(0, 2**32))
    chance = random.Random(seed)
    size = draw(st.sampled_from([80, 160, 240]))
    sent: float = 0
    packets: list[Packet] = []
    for spurt in range(draw(st.integers(1, 4))):
        data = codes(size * draw(st.integers(1, 40)), seed=seed + spurt)
        packets += talk(
            data,
            samples=size,
            sequence=sequence + len(packets),
            timestamp=timestamp + int(sent),
            start=sent,
        )
        sent += len(data)
        if events and draw(st.booleans()):
            code = draw(st.integers(0, 15))
            key = event(
                code,
                timestamp=timestamp + int(sent),
                sequence=sequence + len(packets),
                start=sent,
                duration=draw(st.sampled_from([400, 800, 2400])),
            )
            packets += key
            sent += 2800
        if pauses:
            pause = draw(st.sampled_from([0, 0, 160, 480, 800, 960, 4000, 12000]))
            if pause >= 480 and draw(st.booleans()):
                packets.append(
                    Packet(
                        sent,
                        (sequence + len(packets)) & 0xFFFF,
                        (timestamp + int(sent)) & 0xFFFFFFFF,
                        b"\x40",
                        13,
                    )
                )
            sent += pause
    packets = arrive(packets)
    loss = draw(st.sampled_from([0, 0.05, 0.3])) if lossy else 0
    kept = [p for n, p in enumerate(packets) if n == 0 or chance.random() >= loss]
    shaken = [late(p, chance.random() * jitter_ms) if n else p for n, p in enumerate(kept)]
    doubled = [late(p, chance.random() * 100) for p in shaken if chance.random() < 0.1]
    return in_order_of_arrival(shaken + doubled)


def whole(packets, *, until):
    """The result of reading once, after everything has come: PCM, counts and keys."""
    receiver = rtp.Receiver(TYPES, capacity_ms=60_000)
    for packet in packets:
        assert receiver.receive(packet.wire(), packet.arrival_ns)
    receiver.ready(packets[-1].arrival_ns + 3 * S_NS)
    receiver.finish()
    digits = receiver.digits()
    pcm = receiver.read(until)
    return (
        pcm,
        receiver.counts,
        digits,
        receiver.concealed_samples,
        receiver.silence_samples,
        joined(receiver.gaps()),
    )


def joined(gaps):
    """Gaps as they would come from one read."""
    found = []
    for position, samples in gaps:
        if found and abs(sum(found[-1]) - position) <= 16:
            position, samples = found[-1][0], samples + position - found.pop()[0]
        found.append((position, samples))
    return found


def end_of(packets):
    return packets[-1].arrival_ns * RATE // S_NS + 2 * RATE


@quick
@given(sane_streams(), st.lists(st.integers(1, 900), min_size=1, max_size=8))
def test_the_result_does_not_depend_on_when_it_is_read(packets, steps_ms):
    until = end_of(packets)
    expected = whole(packets, until=until)
    receiver = rtp.Receiver(TYPES, capacity_ms=60_000)
    pieces, digits = [], []
    now_ns, at, turn = 0, 0, 0
    while now_ns < packets[-1].arrival_ns + 3 * S_NS:
        now_ns += steps_ms[turn % len(steps_ms)] * MS_NS
        turn += 1
        while at < len(packets) and packets[at].arrival_ns <= now_ns:
            receiver.receive(packets[at].wire(), packets[at].arrival_ns)
            at += 1
        pieces.append(receiver.read(min(until, receiver.ready(now_ns))))
        digits += receiver.digits()
    receiver.finish()
    digits += receiver.digits()
    pieces.append(receiver.read(until))
    assert b"".join(pieces) == expected[0]
    assert (receiver.counts, digits) == expected[1:3]
    assert (receiver.concealed_samples, receiver.silence_samples) == expected[3:5]
    assert joined(receiver.gaps()) == expected[5]


@quick
@given(sane_streams(), st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_a_batch_is_its_packets_one_by_one(packets, sizes):
    until = end_of(packets)
    data, table = records(packets)
    receiver = rtp.Receiver(TYPES, capacity_ms=60_000)
    at = turn = 0
    while at < len(packets):
        count = min(sizes[turn % len(sizes)], len(packets) - at)
        assert receiver.receive_batch(data, table, at, count) == count
        at += count
        turn += 1
    receiver.ready(packets[-1].arrival_ns + 3 * S_NS)
    receiver.finish()
    assert receiver.digits() == whole(packets, until=until)[2]
    assert receiver.read(until) == whole(packets, until=until)[0]
    assert receiver.counts == whole(packets, until=until)[1]


@quick
@given(
    st.integers(2, 120),
    st.sampled_from([80, 160, 320]),
    st.randoms(use_true_random=False),
    st.integers(0, 2**32 - 1),
)
def test_reordering_and_duplicates_within_the_window_do_not_change_the_audio(count, size, chance, timestamp):
    data = codes(count * size)
    packets = arrive(talk(data, samples=size, sequence=chance.randrange(65536), timestamp=timestamp))
    shaken = [packets[0]] + [late(p, chance.random() * 190) for p in packets[1:]]
    shaken += [late(p, chance.random() * 190) for p in shaken if chance.random() < 0.3]
    until = len(data)
    pcm, counts, *_ = whole(in_order_of_arrival(shaken), until=until)
    assert pcm == decoded(data).tobytes()
    assert (counts["lost"], counts["late"], counts["duplicate"]) == (0, 0, len(shaken) - count)


def model(packets, until):
    """What the timeline must hold, in numpy: every packet at its timestamp, counted from the first packet's arrival."""
    first = packets[0]
    anchor = round(first.arrival_ns * RATE / S_NS)
    pcm, known = np.zeros(until, np.int16), np.zeros(until, bool)
    for packet in packets:
        at = anchor + (packet.timestamp - first.timestamp + 2**31) % 2**32 - 2**31
        if packet.payload_type == 0 and packet.arrival_ns * RATE / S_NS - at <= RATE:
            pcm[at : at + len(packet.payload)] = decoded(packet.payload)
            known[at : at + len(packet.payload)] = True
    return pcm, known


@quick
@given(sane_streams(events=False, jitter_ms=190))
def test_received_audio_stands_where_its_timestamp_says_and_is_not_changed(packets):
    until = end_of(packets)
    pcm, known = model(packets, until)
    heard, counts, _, concealed, silence, gaps = whole(packets, until=until)
    heard = np.frombuffer(heard, np.int16)
    assert counts["late"] == 0
    np.testing.assert_array_equal(heard[known], pcm[known])
    # All else is concealment or silence, and nothing is made up where nothing was lost.
    lost = np.zeros(until, bool)
    for position, samples in gaps:
        lost[position : position + samples] = True
    assert not np.any(heard[~known & ~lost])
    assert not np.any(lost & known)
    assert np.count_nonzero(heard[lost]) <= concealed
    assert concealed + silence == until - np.count_nonzero(known)


@quick
@given(sane_streams(lossy=False, jitter_ms=0))
def test_an_undisturbed_stream_has_no_gaps_and_nothing_concealed(packets):
    *_, counts, _, concealed, _, gaps = whole(packets, until=end_of(packets))
    assert (concealed, gaps, counts["lost"], counts["late"], counts["reordered"]) == (0, [], 0, 0, 0)


# ---- streams no sane sender makes ----


@st.composite
def hostile_streams(draw):
    """Anything: wild numbers, times that run backwards, and fields just off what would be right."""
    chance = random.Random(draw(st.integers(0, 2**32)))
    wildness = draw(st.sampled_from([0.02, 0.2, 0.7]))
    sequence, timestamp, ssrc, now_ns = (
        chance.randrange(65536),
        chance.randrange(2**32),
        7,
        chance.choice([0, 10**18]),
    )
    stream = []
    for _ in range(draw(st.integers(1, 250))):
        size = (
            chance.choice([0, 1, 3, 4, 8, 80, 160, 160, 160, 1600, 4001, 65000])
            if chance.random() < wildness
            else 160
        )
        sequence += (
            chance.choice([1, -1, 2, 900, -1500, 5000, chance.randrange(65536)])
            if chance.random() < wildness
            else 1
        )
        timestamp += (
            chance.choice(
                [0, -160, 801, -1900, 2500, 15000, -15999, 16001, 2**31 - 1, 2**31, chance.randrange(2**32)]
            )
            if chance.random() < wildness
            else size
        )
        if chance.random() < wildness / 3:
            ssrc = chance.choice([7, 8, chance.randrange(2**32)])
        if chance.random() < wildness:
            now_ns += chance.choice(
                [0, -S_NS, 400 * MS_NS, 5 * S_NS, -(10**15), 10**15, chance.randrange(-(2**62), 2**62)]
            )
            now_ns = max(-(2**63), min(2**63 - 1, now_ns))
        now_ns = min(2**63 - 1, now_ns + 20 * MS_NS)
        payload_type = chance.choice([0, 8, 13, 101, 101, 18, 126]) if chance.random() < wildness else 0
        payload = chance.randbytes(size)
        if payload_type == 101 and chance.random() < 0.8:
            payload = bytes([chance.randrange(20)]) + payload[1 : 4 * chance.randrange(1, 40)]
        kind = chance.random()
        if kind < wildness / 10:
            wire = rtcp_sender_report(ssrc, chance.choice([0, 1e9, 4e9, now_ns % 10**18 / 1e9]), timestamp)
        elif kind < wildness / 5:
            wire = chance.randbytes(chance.randrange(40))
        else:
            wire = rtp_packet(payload, sequence, timestamp, ssrc, payload_type)
            if chance.random() < wildness / 5:
                broken = bytearray(wire)
                broken[chance.randrange(12)] ^= 1 << chance.randrange(8)
                wire = bytes(broken)
        stream.append((now_ns, wire))
    return stream


@settings(deadline=None, max_examples=200)
@given(
    hostile_streams(),
    st.sampled_from([(1000, 4000), (0, 2000), (200, 2203), (10_000, 12_000)]),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_hostile_streams_cost_nothing_but_their_own_audio(stream, sizes, renders, seed):
    chance = random.Random(seed)
    receiver = rtp.Receiver(TYPES, late_ms=sizes[0], capacity_ms=sizes[1], render_events=renders)
    received = 0
    for now_ns, wire in stream:
        receiver.receive(wire, now_ns, force=True)
        received = receiver.counts["received"]
        action = chance.random()
        if action < 0.1:
            ready = min(receiver.ready(now_ns), receiver.position + 5 * RATE)
            length = max(0, ready - receiver.position)
            assert len(receiver.read(ready)) == 2 * length
        elif action < 0.15:
            until = receiver.position + chance.choice([1, 159, 160, 5000, 40_000])
            assert len(receiver.read(until)) == 2 * (until - receiver.position) or receiver.position == until
        elif action < 0.2:
            receiver.skip(receiver.position + chance.choice([1, 500, 2**40]) * (chance.random() < 0.3))
        elif action < 0.3:
            for _, audio in receiver.hear():
                assert 0 < len(audio) <= 2 * 4096
        elif action < 0.4:
            assert all(symbol in "0123456789*#ABCD" for symbol, _, _ in receiver.digits())
        elif action < 0.5:
            assert len(receiver.gaps()) <= 256
        elif action < 0.52:
            receiver.finish()
    before = receiver.position
    assert len(receiver.read(before + 12_345)) == 2 * 12_345
    counts = receiver.counts
    assert all(count >= 0 for count in counts.values())
    assert counts["duplicate"] + counts["reordered"] <= received <= len(stream)
    assert len(receiver.ssrcs) <= 16
    assert np.isfinite(receiver.alignment_error_ms)


@quick
@given(
    st.lists(
        st.tuples(st.integers(0, 3000), st.integers(-(2**63), 2**63 - 1) | st.integers(0, 10**11)),
        max_size=60,
    )
)
def test_hostile_host_frames_cost_nothing_but_their_own_audio(pushes):
    receiver = rtp.Receiver(host_frames=True, sample_rate=11_000, capacity_ms=3_001)
    for samples, now_ns in pushes:
        assert 0 <= receiver.push(bytes(2 * samples), now_ns) <= samples
        ready = min(receiver.ready(now_ns), receiver.position + 60_000)
        expected = max(0, ready - receiver.position)
        assert len(receiver.read(ready)) == 2 * expected
    receiver.finish()
    assert len(receiver.read(receiver.position + 40_000)) == 80_000


@quick
@given(hostile_streams())
def test_a_hostile_stream_does_not_trouble_a_track_or_a_survey(stream):
    track = Track(origin_ns=0, payload_types=TYPES)
    for now_ns, wire in stream:
        track.receive(wire, now_ns)
        track.digits()
        track.read(min(track.ready(now_ns), track.position + RATE))
    track.finish()
    for digit in track.digits(final=True):
        assert digit.duration_samples >= 0
    assert all(samples > 0 for _, samples in track.gaps)

    data = b"".join(wire for _, wire in stream)
    table = np.zeros(len(stream), dtype=[*records([])[1].dtype.descr])
    lengths = np.array([len(wire) for _, wire in stream])
    table["time_ns"] = [now_ns for now_ns, _ in stream]
    table["length"] = lengths
    table["offset"] = np.cumsum(lengths) - lengths
    survey = rtp.Survey()
    survey.receive_batch(data, table)
    assert len(survey.runs) <= 8
    assert sum(run.packets for run in survey.runs) + survey.rtcp + survey.malformed <= len(stream)


@quick
@given(sane_streams(lossy=False, jitter_ms=190, events=False))
def test_jitter_alone_never_makes_a_pause_a_loss(packets):
    *_, counts, _, concealed, _, gaps = whole(packets, until=end_of(packets))
    assert (concealed, gaps, counts["lost"], counts["late"]) == (0, [], 0, 0)


@quick
@given(
    sane_streams(lossy=False, jitter_ms=0, events=False),
    st.lists(st.tuples(st.integers(1, 9000), st.booleans()), min_size=1, max_size=6),
)
def test_what_is_read_between_skips_is_what_reading_all_gives(packets, steps):
    whole, other = (rtp.Receiver(TYPES, origin_ns=0) for _ in range(2))
    expected, number = b"", 0
    for packet in packets:
        for one in (whole, other):
            assert one.receive(packet.wire(), packet.arrival_ns)
        ready = whole.ready(packet.arrival_ns)
        expected += whole.read(ready)
        while other.position < ready:
            size, reads = steps[number % len(steps)]
            begin, end = other.position, min(ready, other.position + size)
            if reads:
                assert other.read(end) == expected[2 * begin : 2 * end]
            else:
                other.skip(end)
            number += 1
    assert whole.counts == other.counts
