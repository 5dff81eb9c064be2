"""The rules of the timeline (docs/architecture.md), one test each, on simulated senders."""

from dataclasses import replace

import numpy as np
import pytest

from callreel.errors import UsageError
from callreel.kernels import g711, rtp, tone
from callreel.legs import Codec, Digit, DigitSource, Direction, Leg, Track, codec_of
from capture_writer import rtcp_sender_report, rtp_packet, telephone_event
from heap import allocated_bytes, needs_the_heap
from streams import (
    MS,
    MS_NS,
    RATE,
    S_NS,
    Packet,
    arrive,
    codes,
    decoded,
    encoded,
    event,
    feed,
    in_order_of_arrival,
    late,
    play,
    records,
    renumbered,
    talk,
)

TYPES = {0: "PCMU", 8: "PCMA", 13: "CN", 101: "telephone-event"}
CONCEALED = 60 * MS  # at most, samples


def receiver(**options) -> rtp.Receiver:
    return rtp.Receiver(TYPES, **options)


def track(**options) -> Track:
    return Track(origin_ns=0, payload_types=TYPES, **options)


def sine(samples: int, hz: float = 400, peak: float = 8000) -> np.ndarray:
    return np.round(peak * np.sin(2 * np.pi * hz * np.arange(samples) / RATE)).astype(np.int16)


def without(packets, *sequences):
    return [packet for packet in packets if packet.sequence not in sequences]


# ---- what is complete ----


def test_what_came_without_a_gap_is_complete_100_ms_back_once_the_anchor_is_weighed():
    one = receiver()
    for number, packet in enumerate(arrive(talk(codes(3 * RATE)))):
        one.receive(packet.wire(), packet.arrival_ns)
        end = (number + 1) * 160
        assert one.complete == (0 if packet.arrival_ns < S_NS else end - 100 * MS)


def test_a_missing_packet_holds_what_is_complete_until_it_comes():
    packets = arrive(talk(codes(3 * RATE)))
    packets[80] = late(packets[80], 300)
    one = receiver()
    seen = []
    for packet in in_order_of_arrival(packets):
        one.receive(packet.wire(), packet.arrival_ns)
        seen.append((packet.arrival_ns // MS_NS, one.complete))
    held = {complete for at, complete in seen if 1700 <= at < 1900}
    assert held == {80 * 160 - 100 * MS}
    assert dict(seen)[1920] > 90 * 160


def test_a_pause_without_a_loss_is_complete():
    talked = talk(codes(2 * RATE))
    later = talk(codes(RATE // 2), sequence=200, timestamp=5000 + 3 * RATE, start=3 * RATE)
    one = receiver()
    feed(one, arrive([*talked, *later]))
    assert one.complete == 7 * RATE // 2 - 100 * MS


def test_what_is_behind_a_lost_spurts_end_is_not_complete():
    talked = talk(codes(2 * RATE))
    later = talk(codes(RATE // 2), sequence=201, timestamp=5000 + 3 * RATE, start=3 * RATE)
    one = receiver()
    feed(one, arrive([*talked, *later]))
    assert one.complete == 2 * RATE - 100 * MS


@pytest.mark.parametrize("seed", range(6))
def test_what_is_read_as_soon_as_it_is_complete_is_what_is_read_when_it_is_final(seed):
    chance = np.random.default_rng(seed)
    spurts = [talk(codes(2 * RATE, seed), sequence=100, timestamp=5000)]
    for n in range(1, 6):
        start = spurts[-1][-1].sent + 160 + int(chance.integers(0, 8000))
        first = spurts[-1][-1].sequence + 1 + int(chance.integers(0, 2))
        data = codes(int(chance.integers(1, 80)) * 160, 10 * seed + n)
        spurts.append(talk(data, sequence=first, timestamp=5000 + int(start), start=start))
    packets = [packet for spurt in spurts for packet in spurt]
    packets = [packet for packet in packets if packet.sent < 2000 or chance.random() > 0.03]
    packets = in_order_of_arrival(late(packet, chance.uniform(0, 60)) for packet in arrive(packets))
    early, final, early_ends = receiver(), receiver(), []
    heard: dict[rtp.Receiver, list[bytes]] = {early: [], final: []}
    until_ns = packets[-1].arrival_ns + 2 * S_NS
    for packet in [*packets, None]:
        now_ns = until_ns if packet is None else packet.arrival_ns
        for one in (early, final):
            if packet is not None:
                one.receive(packet.wire(), now_ns)
            ready = one.ready(now_ns)
            heard[one].append(one.read(max(ready, one.complete) if one is early else ready))
        early_ends.append(early.position - final.position)
    assert max(early_ends) > RATE // 2
    assert b"".join(heard[early]) == b"".join(heard[final])
    assert early.counts == final.counts
    assert early.concealed_samples == final.concealed_samples


def test_a_preview_is_what_has_come_and_changes_nothing():
    one, other = receiver(), receiver()
    packets = without(arrive(talk(codes(2 * RATE))), 110)
    feed(one, packets)
    feed(other, packets)
    expected = decoded(codes(2 * RATE)).copy()
    expected[10 * 160 : 11 * 160] = 0
    for begin, until in [(0, 2 * RATE), (777, 9001), (5, 5), (2 * RATE, 2 * RATE + 3)]:
        preview = np.frombuffer(one.preview(begin, until), np.int16)
        np.testing.assert_array_equal(preview, np.pad(expected, (0, 3))[begin:until])
    assert one.position == 0
    assert one.read(2 * RATE) == other.read(2 * RATE)
    assert one.counts == other.counts


def test_a_pair_is_previewed_as_it_is_read():
    left, right = receiver(), receiver()
    feed(left, arrive(talk(codes(RATE, 1))))
    feed(right, arrive(talk(codes(RATE, 2))))
    pair = rtp.Pair(left, right)
    assert pair.preview(100, 7000) == pair.read(7000)[400:]


@pytest.mark.parametrize(("begin", "until"), [(-1, 5), (5, 4), (0, 1 << 40)])
def test_a_preview_of_no_stretch_is_refused(begin, until):
    with pytest.raises(ValueError, match=f"from {begin} up to {until}"):
        receiver().preview(begin, until)


# ---- placing ----


def test_an_undisturbed_stream_comes_out_bit_exact():
    data = codes(RATE)
    one = receiver()
    assert play(one, arrive(talk(data))).tolist() == decoded(data).tolist()
    assert (one.concealed_samples, one.silence_samples) == (0, 0)
    assert one.counts == {
        "received": 50,
        "lost": 0,
        "duplicate": 0,
        "late": 0,
        "malformed": 0,
        "reordered": 0,
        "undecoded": 0,
        "discarded": 0,
    }


def test_the_first_packet_stands_at_its_arrival_and_later_ones_by_timestamp():
    data = codes(320)
    first, second = arrive(talk(data), delay=1234)
    pcm = play(receiver(), [first, late(second, 150)])
    np.testing.assert_array_equal(pcm[1234:], decoded(data))
    assert not pcm[:1234].any()


def test_an_arrival_is_rounded_to_the_nearest_sample():
    for arrival_ns, sample in [(0, 0), (62_499, 0), (62_501, 1), (1_000_000_000, 8000)]:
        one = receiver()
        one.receive(rtp_packet(codes(160)), arrival_ns)
        assert one.end == sample + 160


def test_the_origin_is_where_the_timeline_begins():
    one = receiver(origin_ns=1_700_000_000 * S_NS)
    one.receive(rtp_packet(codes(160)), 1_700_000_001 * S_NS)
    assert one.end == RATE + 160


def test_a_packet_from_before_the_origin_stands_at_the_beginning():
    one = receiver(origin_ns=S_NS)
    one.receive(rtp_packet(codes(160)), S_NS - 10 * MS_NS)
    assert one.end == 160


def test_reordered_packets_are_put_in_order_and_counted():
    packets = arrive(talk(codes(1600)))
    packets[4] = late(packets[4], 50)
    one = receiver()
    pcm = play(one, in_order_of_arrival(packets))
    np.testing.assert_array_equal(pcm, decoded(codes(1600)))
    assert (one.counts["reordered"], one.counts["lost"], one.concealed_samples) == (1, 0, 0)


def test_a_packet_that_overtakes_the_first_one_lands_before_it():
    packets = arrive(talk(codes(800)), delay=400)
    one = receiver()
    pcm = play(one, [packets[1], packets[0], *packets[2:]])
    np.testing.assert_array_equal(pcm[560 - 160 :], decoded(codes(800)))
    assert one.counts["reordered"] == 1


@pytest.mark.parametrize("delay_ms", [300, 990])
def test_a_packet_up_to_one_second_late_lands_in_its_place(delay_ms):
    packets = arrive(talk(codes(3 * RATE)))
    packets[40] = late(packets[40], delay_ms)
    one = receiver()
    np.testing.assert_array_equal(play(one, in_order_of_arrival(packets)), decoded(codes(3 * RATE)))
    assert one.counts["late"] == 0


def test_a_packet_more_than_one_second_late_is_counted_late_and_left_out():
    packets = arrive(talk(codes(3 * RATE)))
    packets[40] = late(packets[40], 1030)
    one = receiver()
    pcm = play(one, in_order_of_arrival(packets))
    assert (one.counts["late"], one.counts["lost"]) == (1, 0)
    assert one.concealed_samples == 160
    expected = decoded(codes(3 * RATE)).copy()
    expected[40 * 160 : 41 * 160] = pcm[40 * 160 : 41 * 160]
    np.testing.assert_array_equal(pcm, expected)


@pytest.mark.parametrize("gap_ms", [160, 400, 900])
def test_packets_that_come_late_into_a_long_hole_land_in_their_places(gap_ms):
    data = codes(3 * RATE)
    packets = arrive(talk(data))
    hole = range(50, 50 + gap_ms // 20)
    packets = [late(p, gap_ms + 10) if n in hole else p for n, p in enumerate(packets)]
    one = receiver()
    np.testing.assert_array_equal(play(one, in_order_of_arrival(packets)), decoded(data))
    assert (one.counts["late"], one.counts["reordered"], one.gaps()) == (0, len(hole), [])


def test_duplicates_are_dropped_by_sequence_number_and_counted():
    packets = arrive(talk(codes(1600)))
    other = replace(packets[3], payload=bytes(160))  # the same number again: whatever it says
    one = receiver()
    pcm = play(one, [*packets[:5], packets[3], other, *packets[5:]])
    np.testing.assert_array_equal(pcm, decoded(codes(1600)))
    assert (one.counts["duplicate"], one.counts["received"]) == (2, 12)


def test_the_sequence_number_and_the_timestamp_wrap():
    data = codes(2 * RATE)
    one = receiver()
    pcm = play(one, arrive(talk(data, sequence=0xFFFF - 50, timestamp=0xFFFFFFFF - 7000)))
    np.testing.assert_array_equal(pcm, decoded(data))
    assert one.counts["lost"] == 0


def test_a_loss_across_the_wrap_is_counted_and_lands_in_its_place():
    data = codes(2 * RATE)
    packets = arrive(talk(data, sequence=0xFFFF - 50, timestamp=0xFFFFFFFF - 50 * 160))
    one = receiver()
    pcm = play(one, packets[:49] + packets[54:])
    np.testing.assert_array_equal(pcm[54 * 160 :], decoded(data)[54 * 160 :])
    assert one.counts["lost"] == 5


@pytest.mark.parametrize("packet_ms", [10, 20, 30, 40, 60, 120, 200])
def test_any_packet_time_from_10_to_200_ms(packet_ms):
    data = codes(packet_ms * MS * 8)
    one = receiver()
    np.testing.assert_array_equal(play(one, arrive(talk(data, samples=packet_ms * MS))), decoded(data))


def test_the_packet_time_may_change_within_a_stream():
    data = codes(RATE * 2)
    packets, at = [], 0
    for samples in [160, 80, 1600, 240, 480, 160, 1600, 80] * 3:
        # A packet leaves when the last of its samples has been spoken.
        sent = at + samples
        packets.append(Packet(sent, 7 + len(packets), 900 + at, data[at : at + samples]))
        at += samples
    one = receiver()
    pcm = play(one, arrive(packets))
    np.testing.assert_array_equal(pcm[160:], decoded(data[:at]))
    assert one.counts["late"] == 0


def test_the_payload_type_may_change_between_pcmu_and_pcma():
    data = codes(3200)
    mu, a = talk(data[:1600]), talk(data[1600:], start=1600, sequence=110, timestamp=6600, payload_type=8)
    one = track()
    pcm = play(one, arrive(mu + a))
    np.testing.assert_array_equal(pcm, np.concatenate([decoded(data[:1600]), decoded(data[1600:], "alaw")]))
    assert one.heard_codecs == ("PCMU", "PCMA")


def test_padding_csrc_and_header_extension_are_no_audio():
    data = codes(480)
    one = receiver()
    one.receive(rtp_packet(data[:160], 1, 0, padding=12), 0)
    one.receive(rtp_packet(data[160:320], 2, 160, csrc=(1, 2, 3)), 20 * MS_NS)
    one.receive(
        rtp_packet(data[320:], 3, 320, extension=(0xBEDE, bytes(8)), padding=1, csrc=(9,)), 40 * MS_NS
    )
    np.testing.assert_array_equal(play(one, []), decoded(data))


def test_unknown_payload_types_are_counted_and_not_recorded():
    packets = arrive(talk(codes(1600)))
    packets[5] = replace(packets[5], payload_type=18)
    one = track()
    pcm = play(one, packets)
    assert not pcm[800:960].any()
    assert (one.counts["undecoded"], one.counts["lost"], one.concealed_samples) == (1, 0, 0)
    assert one.heard_codecs == ("PCMU", "PT 18")


def test_a_leg_without_a_packet_is_a_silent_channel():
    one = track()
    one.finish()
    assert one.read(RATE) == bytes(2 * RATE)
    assert (one.end, one.silence_samples, one.concealed_samples, one.drift_ppm) == (RATE, RATE, 0, None)
    assert (one.heard_codecs, one.ssrcs, one.digits(final=True), one.gaps) == ((), (), [], [])


def test_one_way_audio_leaves_the_other_direction_silent():
    leg = Leg("LEG-A", track(), track())
    feed(leg.track(Direction.INCOMING), arrive(talk(codes(800))))
    for one in (leg.incoming, leg.outgoing):
        one.finish()
    assert np.frombuffer(leg.incoming.read(800), np.int16).any()
    assert leg.outgoing.read(800) == bytes(1600)


def test_packets_without_payload_are_keep_alives():
    one = receiver()
    one.receive(rtp_packet(b"", 1, 0), 0)
    one.receive(rtp_packet(codes(160), 2, 5000), S_NS)
    assert (one.end, one.counts["malformed"]) == (RATE + 160, 0)


def test_more_than_a_quarter_of_a_second_in_one_packet_is_malformed():
    one = receiver()
    one.receive(rtp_packet(bytes(2000), 1, 0), 0)
    one.receive(rtp_packet(bytes(2001), 2, 2000), S_NS // 4)
    assert (one.counts["malformed"], one.end) == (1, 2000)


def test_what_is_not_rtp_is_malformed_or_not_ours():
    one = receiver()
    one.receive(b"\x80\x00\x00", 0)
    one.receive(b"\x16\xfe\xfd" + bytes(20), 0)  # DTLS
    one.receive(b"", 0)
    assert (one.counts["malformed"], one.counts["received"]) == (1, 0)


# ---- loss ----


def test_a_lost_packet_is_concealed_and_its_neighbours_are_not_changed():
    wave = sine(RATE)
    data = encoded(wave)
    one = receiver()
    pcm = play(one, without(arrive(talk(data)), 120))
    lost = slice(20 * 160, 21 * 160)
    np.testing.assert_array_equal(np.delete(pcm, np.r_[lost]), np.delete(decoded(data), np.r_[lost]))
    assert np.sqrt(np.mean(np.square(pcm[lost] - wave[lost].astype(float)))) < 500  # a tone of peak 8000
    assert (one.concealed_samples, one.silence_samples, one.counts["lost"]) == (160, 0, 1)
    assert one.gaps() == [(20 * 160, 160)]


@pytest.mark.parametrize("lost_packets", [3, 4, 5, 6, 20, 48])
def test_concealment_fades_within_60_ms_then_there_is_silence(lost_packets):
    data = encoded(sine(4 * RATE))
    gone = range(140, 140 + lost_packets)
    one = receiver()
    pcm = play(one, without(arrive(talk(data)), *gone))
    begin, end = 40 * 160, (40 + lost_packets) * 160
    known = end - begin <= CONCEALED
    audible = np.flatnonzero(pcm[begin:end])
    assert audible.size > 300
    assert known or audible.max() < CONCEALED
    assert one.concealed_samples == min(end - begin, CONCEALED)
    assert one.silence_samples == end - begin - one.concealed_samples
    np.testing.assert_array_equal(pcm[end:], decoded(data)[end:])
    assert one.gaps() == [(begin, end - begin)]


def test_a_loss_longer_than_packets_are_waited_for_is_silence():
    data = encoded(sine(4 * RATE))
    one = receiver()
    pcm = play(one, without(arrive(talk(data)), *range(140, 240)))
    assert not pcm[40 * 160 : 140 * 160].any()
    assert (one.concealed_samples, one.gaps()) == (0, [(40 * 160, 100 * 160)])


def test_silence_before_a_loss_gives_silence_in_it():
    data = g711.ulaw_encode(bytes(2 * RATE))
    pcm = play(receiver(), without(arrive(talk(data)), 110, 111))
    assert not pcm.any()


def test_a_loss_at_the_end_of_a_spurt_is_counted():
    packets = without(arrive(talk(codes(RATE))), 149)
    more = arrive(talk(codes(RATE), sequence=150, timestamp=5000 + 3 * RATE, start=3 * RATE))
    one = receiver()
    play(one, packets + more)
    assert one.counts["lost"] == 1
    assert one.gaps() == [(49 * 160, 3 * RATE - 49 * 160)]


@pytest.mark.parametrize("pause", [400, 4000])
def test_a_pause_is_no_loss_although_the_first_packets_behind_it_change_places(pause):
    data = codes(1600)
    after = talk(data, sequence=110, timestamp=5000 + 1600 + pause, start=1600 + pause)
    packets = arrive(talk(data) + after)
    packets[10] = late(packets[10], 45)
    one = receiver()
    pcm = play(one, in_order_of_arrival(packets))
    np.testing.assert_array_equal(pcm, np.concatenate([decoded(data), np.zeros(pause), decoded(data)]))
    assert (one.counts["reordered"], one.concealed_samples, one.gaps()) == (1, 0, [])


def test_a_long_outage_does_not_move_what_follows():
    data = codes(40 * RATE)
    packets = arrive(talk(data))
    kept = packets[:200] + packets[1500:]
    one = receiver()
    pcm = play(one, kept)
    np.testing.assert_array_equal(pcm[1500 * 160 :], decoded(data)[1500 * 160 :])
    assert (one.counts["lost"], len(pcm)) == (1300, 40 * RATE)


def test_an_outage_longer_than_the_sequence_numbers_can_tell_does_not_move_what_follows():
    data = codes(100 * RATE, seed=2)
    packets = arrive(talk(data))
    one = receiver()
    pcm = play(one, packets[:50] + packets[4500:])
    np.testing.assert_array_equal(pcm[4500 * 160 :], decoded(data)[4500 * 160 :])
    assert one.counts["lost"] == 4450


# ---- pauses ----


@pytest.mark.parametrize("pause", [160, 800, 4000, 30_000])
def test_a_pause_the_sender_made_is_silence_of_the_right_length(pause):
    data = codes(1600)
    after = talk(data, sequence=110, timestamp=5000 + 1600 + pause, start=1600 + pause)
    one = receiver()
    pcm = play(one, arrive(talk(data) + after))
    np.testing.assert_array_equal(pcm, np.concatenate([decoded(data), np.zeros(pause), decoded(data)]))
    assert (one.concealed_samples, one.silence_samples, one.gaps()) == (0, pause, [])


@pytest.mark.parametrize("every", [None, 1600, 400])
def test_comfort_noise_is_silence_of_the_right_length(every):
    data, pause = codes(1600), 8000
    times = [0] if every is None else range(0, pause, every)
    noise = [Packet(1600 + at, 0, 5000 + 1600 + at, b"\x3f", 13) for at in times]
    after = talk(data, timestamp=5000 + 1600 + pause, start=1600 + pause)
    one = receiver()
    pcm = play(one, arrive(renumbered(talk(data) + noise + after)))
    np.testing.assert_array_equal(pcm, np.concatenate([decoded(data), np.zeros(pause), decoded(data)]))
    assert (one.concealed_samples, one.silence_samples, one.gaps()) == (0, pause, [])


def test_a_stream_may_begin_with_comfort_noise():
    noise = Packet(0, 0, 5000, b"\x3f", 13)
    pcm = play(receiver(), arrive(renumbered([noise, *talk(codes(800), timestamp=9000, start=4000)])))
    np.testing.assert_array_equal(pcm[4000:], decoded(codes(800)))


def test_a_hold_in_which_the_timestamps_go_on_is_silence():
    data = codes(RATE)
    after = talk(data, sequence=150, timestamp=5000 + 61 * RATE, start=61 * RATE)
    pcm = play(receiver(), arrive(talk(data) + after))
    np.testing.assert_array_equal(pcm[61 * RATE :], decoded(data))
    assert not pcm[RATE : 61 * RATE].any()


@pytest.mark.parametrize("stop_ms", [300, 500, 1000, 1200, 1900, 2500, 5000, 30_000])
def test_a_hold_in_which_the_timestamps_stand_still_is_silence(stop_ms):
    stop = stop_ms * MS
    data = codes(2 * RATE)
    after = talk(data, sequence=200, timestamp=5000 + 2 * RATE, start=2 * RATE + stop)
    one = receiver()
    pcm = play(one, arrive(talk(data) + after))
    np.testing.assert_array_equal(pcm, np.concatenate([decoded(data), np.zeros(stop), decoded(data)]))
    assert (one.counts["late"], one.counts["lost"], one.gaps()) == (0, 0, [])


def test_a_stopped_clock_is_taken_for_real_although_the_stream_ends_soon_after():
    data = codes(1600)
    after = talk(data[:320], sequence=110, timestamp=5000 + 1600, start=1600 + RATE)
    pcm = play(receiver(), arrive(talk(data) + after))
    np.testing.assert_array_equal(pcm[1600 + RATE :], decoded(data[:320]))


@pytest.mark.parametrize("last", [1, 5])
@pytest.mark.parametrize("late_ms", [150, 205, 500, 900])
def test_the_last_packets_of_a_stream_stand_in_their_place_although_nothing_comes_behind_them(late_ms, last):
    data = codes(RATE)
    packets = talk(data)
    held = [late(packet, late_ms) for packet in packets[-last:]]
    one = receiver()
    pcm = play(one, packets[:-last] + held)
    np.testing.assert_array_equal(pcm, decoded(data))
    assert one.counts["late"] == 0


@pytest.mark.parametrize("last", [1, 5])
@pytest.mark.parametrize("late_ms", [205, 500, 900])
def test_the_last_packets_before_a_pause_stand_in_their_place_although_the_call_goes_on(late_ms, last):
    data = codes(RATE)
    packets = arrive(talk(data))
    held = [late(packet, late_ms) for packet in packets[-last:]]
    one = receiver()
    after = arrive(talk(data, sequence=150, timestamp=5000 + 4 * RATE, start=4 * RATE))
    pcm = play(one, packets[:-last] + held + after)
    np.testing.assert_array_equal(pcm, np.concatenate([decoded(data), np.zeros(3 * RATE), decoded(data)]))
    assert one.counts["late"] == 0


@pytest.mark.parametrize("burst_ms", [200, 460, 600])
def test_a_stream_that_begins_with_a_burst_loses_nothing(burst_ms):
    data = codes(3 * RATE)
    burst = burst_ms // 20
    packets = [
        replace(packet, arrival_ns=max(0, number - burst) * 20_000_000)
        for number, packet in enumerate(talk(data))
    ]
    one = receiver()
    pcm = play(one, packets)
    assert one.counts["discarded"] == one.counts["late"] == 0
    heard = np.trim_zeros(pcm)
    np.testing.assert_array_equal(heard, np.trim_zeros(decoded(data)))


def test_a_source_that_had_to_wait_for_the_one_before_comes_back_to_its_place():
    one, packets, start = receiver(), [], 0
    for source in range(4):
        packets += arrive(talk(codes(30 * RATE), start=start, timestamp=source << 20, ssrc=100 + source))
        start += 30 * RATE - 80  # the next begins half a packet before this one has ended
    play(one, packets)
    assert one.alignment_error_ms == pytest.approx(10, abs=2)
    assert one.end <= start + 160


# ---- queues in the network ----


@pytest.mark.parametrize("stall_ms", [500, 900, 1500, 3000])
@pytest.mark.parametrize("speed", [None, 4, 2])
def test_a_burst_after_a_stall_of_the_network_moves_nothing_for_good(stall_ms, speed):
    data = codes(12 * RATE)
    begin = 3 * RATE
    packets = []
    for packet in talk(data):
        arrival = packet.sent
        if begin <= packet.sent:
            at_once = begin + stall_ms * MS
            # Drained at once, or `speed` times as fast as it is spoken.
            arrival = max(arrival, at_once if speed is None else at_once + (packet.sent - begin) / speed)
        packets.append(replace(packet, arrival_ns=round(arrival * S_NS / RATE)))
    one = receiver()
    pcm = play(one, packets)
    expected = decoded(data)
    assert len(pcm) == len(expected)
    # What came within a second stands where it belongs; what came later is missing and counted.
    missing = [n for n, p in enumerate(packets) if p.arrival_ns - p.sent * S_NS / RATE > S_NS + 1]
    assert one.counts["late"] == len(missing)
    for n in range(len(packets)):
        if n not in missing:
            part = slice(n * 160, (n + 1) * 160)
            np.testing.assert_array_equal(pcm[part], expected[part], err_msg=f"packet {n}")
    if missing:
        gaps = one.gaps()
        assert [(missing[0] * 160, len(missing) * 160)] == gaps


def test_the_host_can_stall_2_seconds_without_loss():
    data = codes(6 * RATE)
    packets = arrive(talk(data))
    one = receiver()
    pieces = []
    for packet in packets:
        assert one.receive(packet.wire(), packet.arrival_ns)
        now = packet.arrival_ns
        if not 2 * S_NS < now < 4 * S_NS:
            pieces.append(one.read(one.ready(now)))
    one.finish()
    pieces.append(one.read(one.end))
    np.testing.assert_array_equal(np.frombuffer(b"".join(pieces), np.int16), decoded(data))
    assert one.counts["discarded"] == 0


def test_a_full_store_takes_nothing_until_it_is_read():
    packets = arrive(talk(codes(10 * RATE)))
    data, table = records(packets)
    one = receiver()
    taken = one.receive_batch(data, table)
    assert 150 < taken < 200  # 3 s and more fit into 4 s of memory
    assert not one.receive(packets[taken].wire(), packets[taken].arrival_ns)
    assert (one.counts["received"], one.counts["discarded"]) == (taken, 0)
    pieces = []
    while taken < len(packets):
        pieces.append(one.read(one.ready(packets[taken - 1].arrival_ns)))
        taken += one.receive_batch(data, table, taken)
    one.finish()
    pieces.append(one.read(one.end))
    np.testing.assert_array_equal(np.frombuffer(b"".join(pieces), np.int16), decoded(codes(10 * RATE)))


def test_with_force_what_finds_no_room_is_counted_as_discarded():
    packets = arrive(talk(codes(10 * RATE)))
    one = track()
    feed(one, packets)
    assert one.counts["received"] == 500
    assert 300 < one.counts["discarded"] < 350
    kept = 500 - one.counts["discarded"]
    np.testing.assert_array_equal(
        np.frombuffer(one.read(kept * 160), np.int16), decoded(codes(10 * RATE))[: kept * 160]
    )


# ---- a stream that begins anew ----


def test_a_new_ssrc_is_anchored_by_arrival():
    data = codes(1600)
    second = talk(data, ssrc=0x2222, sequence=40_000, timestamp=99, start=4000)
    one = receiver()
    pcm = play(one, arrive(talk(data) + second))
    np.testing.assert_array_equal(pcm, np.concatenate([decoded(data), np.zeros(2400), decoded(data)]))
    assert (one.ssrcs, one.counts["lost"]) == ((0x1111, 0x2222), 0)


def test_a_new_ssrc_that_arrives_early_does_not_overlap():
    data = codes(1600)
    first = arrive(talk(data), delay=100)
    second = arrive(talk(data, ssrc=0x2222, sequence=40_000, timestamp=99, start=1600))
    pcm = play(receiver(), first + second)
    audio = pcm[pcm.nonzero()[0][0] :]
    np.testing.assert_array_equal(audio, np.concatenate([decoded(data)] * 2))


def test_of_two_sources_at_once_the_newer_one_is_the_track():
    old, new = codes(3200, seed=5), codes(1600, seed=6)
    first = arrive(talk(old))
    second = arrive(talk(new, ssrc=0x2222, start=1600), delay=1)
    one = receiver()
    pcm = play(one, in_order_of_arrival(first + second))
    np.testing.assert_array_equal(pcm[1760:3360], decoded(new))
    assert one.counts["discarded"] == 9


def test_an_earlier_source_comes_back_once_the_newer_one_is_quiet():
    back = codes(800, seed=7)
    first, second = talk(codes(1600)), talk(codes(1600), ssrc=0x2222, start=1600)
    third = talk(back, start=3200 + 2000, sequence=130, timestamp=5000 + 5200)
    one = receiver()
    pcm = play(one, arrive(first + second + third))
    np.testing.assert_array_equal(pcm[5200:], decoded(back))
    assert (one.ssrcs, one.counts["discarded"]) == ((0x1111, 0x2222), 0)


def test_a_second_source_that_cannot_be_decoded_never_takes_over():
    data = codes(1600)
    beside = [Packet(4000 + 160 * n, n, 160 * n, bytes(20), 18, 0x9999) for n in range(40)]
    after = talk(data, sequence=110, timestamp=5000 + 8000, start=8000)
    one = receiver()
    pcm = play(one, in_order_of_arrival(arrive(talk(data) + beside + after)))
    np.testing.assert_array_equal(pcm[8000 : 8000 + 1600], decoded(data))
    assert (one.counts["undecoded"], one.counts["discarded"], one.ssrcs) == (40, 0, (0x1111,))


def test_a_stream_behind_one_that_cannot_be_decoded_is_found():
    unknown = [Packet(160 * n, n, 160 * n, bytes(20), 18, 0x9999) for n in range(10)]
    data = codes(1600)
    pcm = play(receiver(), in_order_of_arrival(arrive(unknown + talk(data, start=400))))
    np.testing.assert_array_equal(pcm[400:], decoded(data))


def test_a_source_of_every_packet_another_does_not_run_away_with_the_timeline():
    packets = [replace(p, ssrc=0x1000 + n) for n, p in enumerate(arrive(talk(codes(4 * RATE))))]
    one = receiver()
    play(one, packets)
    assert len(one.ssrcs) == 16
    assert one.end <= 4 * RATE + 160


@pytest.mark.parametrize("jump", [3 * RATE, 2**31 - 1, -3 * RATE, -(2**31), -20 * RATE, 2 * RATE + 1])
def test_a_timestamp_jump_of_more_than_2_s_is_anchored_anew(jump):
    data = codes(1600)
    after = talk(data, sequence=110, timestamp=(5000 + 1600 + jump) % 2**32, start=1600)
    one = receiver()
    pcm = play(one, arrive(talk(data) + after))
    np.testing.assert_array_equal(pcm, np.concatenate([decoded(data)] * 2))
    assert one.counts["late"] == 0


@pytest.mark.parametrize("sequence", [20_000, 45_000])
@pytest.mark.parametrize("timestamp", [123, 8000, 3_000_000_000])
def test_a_sequence_restart_is_anchored_anew(sequence, timestamp):
    data = codes(1600)
    after = talk(data, sequence=sequence, timestamp=timestamp, start=4000)
    one = receiver()
    pcm = play(one, arrive(talk(data) + after))
    np.testing.assert_array_equal(pcm, np.concatenate([decoded(data), np.zeros(2400), decoded(data)]))
    assert one.counts["lost"] == 0


@pytest.mark.parametrize("seconds", [5, 18, 30])
def test_a_sender_that_starts_over_from_its_first_numbers_is_heard_after_40_ms(seconds):
    data = codes(seconds * RATE)
    again = codes(3 * RATE, seed=9)
    stream = talk(data, sequence=0, timestamp=0) + talk(
        again, sequence=0, timestamp=0, start=(seconds + 2) * RATE
    )
    one = receiver()
    pcm = play(one, arrive(stream))
    begin = (seconds + 2) * RATE + 320
    np.testing.assert_array_equal(pcm[begin:], decoded(again)[320:])
    assert one.counts["lost"] == 0


def test_old_packets_beside_new_ones_are_no_restart():
    data = codes(6 * RATE)
    packets = arrive(talk(data))
    again = [late(p, 2000) for p in packets[50:150]]  # the same stream by another way, 2 s behind
    one = receiver()
    pcm = play(one, in_order_of_arrival(packets + again))
    np.testing.assert_array_equal(pcm, decoded(data))
    assert one.counts["duplicate"] == 100


# ---- sender clocks ----


def marked(seconds: int, *, every: int = 4 * RATE) -> tuple[np.ndarray, list[int]]:
    """A quiet tone with a loud click of its own at known places."""
    wave = sine(seconds * RATE, hz=440, peak=500).astype(np.int16)
    marks = list(range(RATE, seconds * RATE - RATE, every))
    for mark in marks:
        wave[mark : mark + 40] = 20_000
    return wave, marks


def found_marks(pcm: np.ndarray, near: list[float]) -> list[float]:
    """Where the clicks are, in samples; NaN for those that were lost."""
    places = []
    for place in near:
        begin = max(0, int(place) - 900)
        window = np.abs(pcm[begin : begin + 1800].astype(float))
        loud = np.flatnonzero(window > 10_000)
        places.append(begin + (loud[0] + loud[-1] - 39) / 2 if 36 <= loud.size <= 44 else np.nan)
    return places


@pytest.mark.parametrize("ppm", [100, -100, 30, 0])
@pytest.mark.parametrize("rough", [False, True])
def test_a_drifting_clock_is_followed_within_5_ms(ppm, rough):
    wave, marks = marked(600)
    packets = arrive(talk(encoded(wave), ppm=ppm))
    if rough:
        chance = np.random.default_rng(3)
        packets = [
            late(p, 60 * chance.random()) if n else p
            for n, p in enumerate(packets)
            if n == 0 or chance.random() >= 0.05
        ]
    data, table = records(in_order_of_arrival(packets))
    one = receiver()
    pieces, at = [], 0
    while at < len(table):
        at += one.receive_batch(data, table, at, min(100, len(table) - at))
        pieces.append(one.read(one.ready(int(table["time_ns"][at - 1]))))
    one.finish()
    pieces.append(one.read(one.end))
    pcm = np.frombuffer(b"".join(pieces), np.int16)
    truth = [mark / (1 + ppm * 1e-6) for mark in marks]
    errors_ms = (np.array(found_marks(pcm, truth)) - truth) / MS
    known = errors_ms[~np.isnan(errors_ms)]
    assert known.size > 0.8 * len(marks)
    assert np.abs(known).max() < 5
    settled = errors_ms[len(marks) // 4 :]
    assert np.nanmax(np.abs(settled)) < 2.5
    assert one.drift_ppm == pytest.approx(ppm, abs=8 if rough else 1)
    assert one.counts["late"] == 0


def test_four_hours_of_talk_at_100_ppm_stay_in_place():
    seconds, samples = 4 * 3600, 1600
    ppm = -100
    quiet, loud = encoded(np.zeros(samples)), encoded(np.full(samples, 20_000))
    count = seconds * RATE // samples
    one = receiver()
    pieces = 0
    worst = 0.0
    one_wire = len(rtp_packet(quiet))
    table = np.zeros(count, dtype=rtp_dtype())
    table["length"] = one_wire
    block = 500
    for begin in range(0, count, block):
        wires = []
        for n in range(begin, min(begin + block, count)):
            wires.append(rtp_packet(loud if n % 600 == 599 else quiet, n, n * samples))
        part = table[begin : begin + len(wires)].copy()
        part["offset"] = np.arange(len(wires)) * one_wire
        numbers = np.arange(begin, begin + len(wires))
        part["time_ns"] = np.round(numbers * samples / (1 + ppm * 1e-6) * (S_NS / RATE))
        data = b"".join(wires)
        at = 0
        while at < len(wires):
            at += one.receive_batch(data, part, at, min(10, len(wires) - at))
            position = one.position
            pcm = np.frombuffer(one.read(one.ready(int(part["time_ns"][at - 1]))), np.int16)
            rise = np.flatnonzero((pcm[1:] > 10_000) & (pcm[:-1] <= 10_000))
            for place in rise:
                mark = position + place + 1
                number = round(mark / samples * (1 + ppm * 1e-6))
                if number % 600 == 599:
                    pieces += 1
                    worst = max(worst, abs(mark - number * samples / (1 + ppm * 1e-6)) / MS)
    assert one.counts["late"] == 0
    assert pieces >= count // 600 - 2
    assert worst < 5


def rtp_dtype():
    return records([])[1].dtype


def test_a_call_of_less_than_10_s_is_never_resampled():
    data = codes(9 * RATE)
    one = receiver()
    np.testing.assert_array_equal(play(one, arrive(talk(data, ppm=100))), decoded(data))
    assert one.drift_ppm is None


def test_a_clock_that_does_not_drift_is_never_resampled():
    data = codes(120 * RATE)
    chance = np.random.default_rng(1)
    packets = arrive(talk(data))
    packets = packets[:1] + [late(p, 1.5 * chance.random()) for p in packets[1:]]
    np.testing.assert_array_equal(play(receiver(), in_order_of_arrival(packets)), decoded(data))


def test_jitter_alone_moves_nothing_by_more_than_the_settled_2_ms():
    data = codes(60 * RATE)
    chance = np.random.default_rng(1)
    packets = arrive(talk(data))
    packets = packets[:1] + [late(p, 60 * chance.random()) for p in packets[1:]]
    one = receiver()
    pcm = play(one, in_order_of_arrival(packets))
    np.testing.assert_array_equal(pcm, decoded(data))
    assert abs(one.drift_ppm) < 20


def test_a_late_first_packet_is_made_good_without_a_jump():
    wave = sine(60 * RATE, hz=440, peak=8000)
    packets = arrive(talk(encoded(wave)))
    packets[0] = late(packets[0], 19)  # all others come 19 ms sooner than it makes believe
    one = receiver()
    pcm = play(one, packets).astype(float)
    spectrum_start, spectrum_end = pcm[RATE : 2 * RATE], pcm[50 * RATE : 51 * RATE]
    for part in (spectrum_start, spectrum_end):
        assert 7500 < part.max() < 8500
    jumps = np.abs(np.diff(pcm[200 : 55 * RATE]))
    assert jumps.max() < 1.15 * 2 * 8000 * np.sin(np.pi * 440 / RATE)
    begin = 58 * RATE
    reference = np.exp(-2j * np.pi * 440 * np.arange(begin, begin + RATE) / RATE)
    phase = np.angle(np.dot(pcm[begin : begin + RATE], reference) * 1j)
    assert abs(phase / (2 * np.pi * 440)) < 0.0005  # seconds off


def purity_db(pcm) -> float:
    """Level of the strongest tone over all else, in two seconds a minute into the stream."""
    part = pcm[60 * RATE : 62 * RATE].astype(float) * np.blackman(2 * RATE)
    power = np.abs(np.fft.rfft(part)) ** 2
    peak = int(np.argmax(power))
    own = power[peak - 5 : peak + 6].sum()
    return 10 * np.log10(own / (power.sum() - own))


@pytest.mark.parametrize(("hz", "least_db"), [(1000, 65), (3000, 60)])
def test_a_resampled_tone_stays_pure(hz, least_db):
    wave = sine(70 * RATE, hz=hz, peak=16_000)
    stream = [(pcm, round(now_ns / (1 + 100e-6))) for pcm, now_ns in frames_of(wave, RATE)]
    one = host_track()
    pcm = played_pcm(one, stream, rate=RATE)
    assert one.drift_ppm == pytest.approx(100, abs=2)
    assert purity_db(pcm) > least_db


def test_a_resampled_stream_is_the_same_in_pieces_of_any_size():
    chance = np.random.default_rng(6)
    packets = arrive(talk(codes(30 * RATE), ppm=400))
    packets = in_order_of_arrival([late(p, 30 * chance.random()) for p in packets if chance.random() > 0.05])

    def pieces(most: int) -> bytes:
        one, result = receiver(), []
        for packet in packets:
            one.receive(packet.wire(), packet.arrival_ns)
            ready = one.ready(packet.arrival_ns)
            while one.position < ready:
                result.append(one.read(min(ready, one.position + int(chance.integers(1, most + 1)))))
        assert one.concealed_samples > 0
        return b"".join(result)

    whole = pieces(100_000)
    for most in (1, 7, 100, 400):
        assert pieces(most) == whole


def test_a_constant_stays_as_it_is_when_resampled():
    wave = np.full(70 * RATE, 1234, np.int16)
    stream = [(pcm, round(now_ns / (1 + 100e-6))) for pcm, now_ns in frames_of(wave, RATE)]
    one = host_track()
    pcm = played_pcm(one, stream, rate=RATE)
    assert one.drift_ppm == pytest.approx(100, abs=2)
    np.testing.assert_array_equal(pcm[RATE : 60 * RATE], 1234)


def test_resampling_adds_little_to_the_noise_of_g711():
    data = encoded(sine(70 * RATE, hz=1000, peak=16_000))
    pcm = play(receiver(), arrive(talk(data, ppm=100)))
    assert purity_db(pcm) > purity_db(decoded(data)) - 2


def test_sender_reports_tell_the_drift_before_arrivals_can():
    ppm = 80
    chance = np.random.default_rng(4)
    packets = [late(p, 60 * chance.random()) for p in arrive(talk(codes(30 * RATE), ppm=ppm))]
    one = receiver()
    for n, packet in enumerate(in_order_of_arrival(packets)):
        if n and n % 150 == 0:
            sent_s = packet.sent / RATE
            report = rtcp_sender_report(packet.ssrc, 1_700_000_000 + sent_s, packet.timestamp)
            one.receive(report, packet.arrival_ns)
        one.receive(packet.wire(), packet.arrival_ns)
        one.read(one.ready(packet.arrival_ns))
    assert one.sender_reports == 9
    assert one.drift_ppm == pytest.approx(ppm, abs=5)


def test_sender_reports_of_another_source_are_only_counted():
    one = receiver()
    for packet in arrive(talk(codes(14 * RATE))):
        one.receive(packet.wire(), packet.arrival_ns)
        one.receive(
            rtcp_sender_report(0x7777, packet.sent * 1.0005 / RATE, packet.timestamp), packet.arrival_ns
        )
        one.read(one.ready(packet.arrival_ns))
    assert (one.sender_reports, round(one.drift_ppm)) == (700, 0)


# ---- keys as telephone events ----


def keys(one, packets, **options):
    """The keys, as (symbol, position, duration), and the audio."""
    pcm = play(one, packets, **options)
    found = one.digits(final=True) if isinstance(one, Track) else one.digits()
    return [
        tuple(key)[:3] if isinstance(key, tuple) else (key.symbol, key.position, key.duration_samples)
        for key in found
    ], pcm


def dialled(*parts, step: int = 160) -> list[Packet]:
    """Parts of one stream, numbered through and ordered by the moment they leave."""
    return arrive(renumbered(sorted((p for part in parts for p in part), key=lambda p: p.sent)))


def test_one_digit_per_event_however_many_packets_repeat_it():
    packets = dialled(talk(codes(800)), event(5, timestamp=5800, sequence=0, start=800, ends=9))
    digits, _ = keys(receiver(), packets)
    assert digits == [("5", 800, 800)]


def test_every_symbol():
    parts = [
        event(code, timestamp=5000 + 1600 * code, sequence=0, start=1600 * code, duration=800)
        for code in range(16)
    ]
    digits, _ = keys(receiver(), dialled(*parts))
    # The first packet of a stream comes when its first 20 ms have passed.
    assert digits == [(symbol, 1600 * n, 800) for n, symbol in enumerate("0123456789*#ABCD")]


def test_a_marker_on_every_packet_is_still_one_digit():
    packets = dialled(event(7, timestamp=5000, sequence=0, start=0, markers=True))
    assert keys(receiver(), packets)[0] == [("7", 0, 800)]


def test_an_event_whose_end_packets_are_lost_ends_by_itself():
    one = receiver()
    packets = dialled(
        event(3, timestamp=5000, sequence=0, start=0, ends=0), talk(codes(8000), timestamp=5800, start=800)
    )
    feed(one, packets[:15])
    assert one.digits() == [("3", 0, 640)]
    one = receiver()
    feed(one, packets[:4])
    assert one.digits() == []
    one.ready(packets[3].arrival_ns + 199 * MS_NS)
    assert one.digits() == []
    one.ready(packets[3].arrival_ns + 201 * MS_NS)
    assert one.digits() == [("3", 0, 640)]


def test_an_event_whose_first_packets_are_lost_begins_at_its_timestamp():
    packets = dialled(talk(codes(800)), event(3, timestamp=5800, sequence=0, start=800, duration=1600))
    assert keys(receiver(), packets[:5] + packets[10:])[0] == [("3", 800, 1600)]


def test_an_event_of_which_only_an_end_packet_came():
    packets = dialled(talk(codes(800)), event(3, timestamp=5800, sequence=0, start=800, duration=1600))
    assert keys(receiver(), packets[:5] + packets[-1:])[0] == [("3", 800, 1600)]


def test_equal_keys_one_after_the_other_are_not_merged():
    parts = [event(4, timestamp=5000 + 1200 * n, sequence=0, start=1200 * n, duration=800) for n in range(3)]
    assert keys(receiver(), dialled(*parts))[0] == [("4", 0, 800), ("4", 1200, 800), ("4", 2400, 800)]


def test_reordered_event_packets_are_one_digit():
    packets = dialled(talk(codes(800)), event(9, timestamp=5800, sequence=0, start=800, duration=1600))
    packets = [*packets[:5], *(packets[n] for n in (7, 6, 5, 9, 8)), *packets[10:]]
    assert keys(receiver(), packets)[0] == [("9", 800, 1600)]


def test_an_event_beside_audio_leaves_the_audio_untouched():
    data = codes(8000)
    packets = dialled(talk(data), event(1, timestamp=6600, sequence=0, start=1601, duration=1600))
    one = receiver()
    digits, pcm = keys(one, packets)
    np.testing.assert_array_equal(pcm, decoded(data))
    assert (digits, one.silence_samples) == ([("1", 1600, 1600)], 0)


def beside(*keys_at, duration: int = 800, timestamp: int = 2**32 - 700, **more) -> list[Packet]:
    """Keys under an SSRC of their own, with timestamps and sequence numbers of their own."""
    parts = [
        event(code, timestamp=timestamp + at, sequence=7, start=at, duration=duration, ssrc=0x9999, **more)
        for code, at in keys_at
    ]
    return [packet for part in parts for packet in part]


def test_keys_under_an_ssrc_of_their_own_are_told_and_leave_the_audio_untouched():
    data = codes(16_000)
    one = receiver()
    packets = in_order_of_arrival(arrive(talk(data) + beside((1, 1600), (1, 3200), (11, 8003))))
    digits, pcm = keys(one, packets)
    np.testing.assert_array_equal(pcm, decoded(data))
    assert digits == [("1", 1600, 800), ("1", 3200, 800), ("#", 8003, 800)]
    assert (one.counts["discarded"], one.counts["undecoded"], one.ssrcs) == (0, 0, (0x1111,))


def test_keys_under_an_ssrc_of_their_own_may_take_the_place_of_audio():
    data = codes(1600)
    after = talk(data, start=4800, timestamp=5000 + 4800, sequence=110)
    one = receiver()
    packets = in_order_of_arrival(arrive(talk(data) + beside((4, 1600), duration=3200) + after))
    digits, pcm = keys(one, packets)
    assert digits == [("4", 1600, 3200)]
    np.testing.assert_array_equal(pcm[:1600], decoded(data))
    np.testing.assert_array_equal(pcm[4800:], decoded(data))
    assert tone_frequencies(pcm[1600:4800]) == [770, 1210]
    assert (one.counts["discarded"], one.counts["lost"], one.ssrcs) == (0, 0, (0x1111,))


@pytest.mark.parametrize("pause", [500, 4000, 40_000])
def test_keys_under_an_ssrc_of_their_own_stand_where_they_came_in_a_pause(pause):
    data = codes(1600)
    again = 1600 + 2 * pause
    after = talk(data, start=again, timestamp=5000 + again, sequence=110)
    one = receiver()
    at = 1600 + pause - 400
    packets = in_order_of_arrival(arrive(talk(data) + beside((2, at), (3, at + 400), duration=320) + after))
    digits, pcm = keys(one, packets)
    assert digits == [("2", at, 320), ("3", at + 400, 320)]
    np.testing.assert_array_equal(pcm[again:], decoded(data))
    assert (one.counts["discarded"], one.counts["lost"]) == (0, 0)


def test_a_key_under_an_ssrc_of_its_own_is_one_whatever_becomes_of_its_packets():
    data = codes(8000)
    sent = beside((9, 1600), duration=1600)
    one = receiver()
    lost = [packet for number, packet in enumerate(sent) if number not in (0, 1, 5)]
    swapped = [*lost[:2], lost[3], lost[2], *lost[4:], lost[3]]
    late = [
        replace(packet, arrival_ns=round(at))
        for packet, at in zip(
            swapped, np.linspace(lost[0].sent, lost[-1].sent, len(swapped)) * 125_000, strict=True
        )
    ]
    digits, pcm = keys(one, in_order_of_arrival(arrive(talk(data)) + late))
    assert [(symbol, duration) for symbol, _, duration in digits] == [("9", 1600)]
    assert abs(digits[0][1] - 1600) <= 160
    np.testing.assert_array_equal(pcm, decoded(data))


def test_a_key_of_more_than_65535_samples_under_an_ssrc_of_its_own_is_one():
    data = codes(90_000)
    first = beside((6, 800), duration=0xFFFF, ends=0)
    second = [
        replace(packet, sent=packet.sent + 0xFFFF)
        for packet in beside((6, 800), duration=1600, timestamp=2**32 - 700 + 0xFFFF)
    ]
    digits, pcm = keys(receiver(), in_order_of_arrival(arrive(talk(data) + first + second)))
    assert digits == [("6", 800, 0xFFFF + 1600)]
    np.testing.assert_array_equal(pcm, decoded(data))


def test_an_ssrc_that_begins_with_a_key_and_goes_on_with_audio_becomes_the_source():
    data = codes(1600)
    key = event(8, timestamp=900, sequence=40, start=1600, ssrc=0x2222)
    second = talk(data, ssrc=0x2222, sequence=50, timestamp=900 + 1600, start=3200)
    one = receiver()
    digits, pcm = keys(one, in_order_of_arrival(arrive(talk(data) + key + second)))
    assert digits == [("8", 1600, 800)]
    np.testing.assert_array_equal(pcm[3200:4800], decoded(data))
    assert one.ssrcs == (0x1111, 0x2222)


def tone_frequencies(pcm) -> list[int]:
    """The two strongest frequencies of a stretch, to the nearest 10 Hz."""
    power = np.abs(np.fft.rfft(pcm * np.hanning(len(pcm)), 8000))
    first = int(np.argmax(power))
    power[max(0, first - 60) : first + 60] = 0
    return sorted(int(round(f, -1)) for f in (first, int(np.argmax(power))))


@pytest.mark.parametrize(
    ("code", "expected"), [(0, [940, 1340]), (5, [770, 1340]), (11, [940, 1480]), (15, [940, 1630])]
)
def test_an_event_in_place_of_audio_is_rendered_audible(code, expected):
    data = codes(1600)
    key = event(code, timestamp=6600, sequence=0, start=1600, duration=1600, volume=10)
    packets = dialled(talk(data), key, talk(data, timestamp=5000 + 3200, start=3200.5))
    one = receiver()
    digits, pcm = keys(one, packets)
    rendered = pcm[1600:3200]
    assert tone_frequencies(rendered) == expected
    level = 20 * np.log10(np.sqrt(np.mean(np.square(rendered.astype(float)))) / 32768) + 3.14 + 3.01
    assert level == pytest.approx(-10, abs=0.5)  # the volume is that of both components together
    np.testing.assert_array_equal(pcm[3200:], decoded(data))
    assert one.silence_samples == one.concealed_samples == 0
    assert len(digits) == 1


def test_an_event_may_be_left_silent():
    key = event(5, timestamp=6600, sequence=0, start=1600, duration=1600)
    one = receiver(render_events=False)
    digits, pcm = keys(one, dialled(talk(codes(1600)), key))
    assert not pcm[1600:].any()
    assert (digits, len(pcm), one.silence_samples) == ([("5", 1600, 1600)], 3200, 1600)


def test_a_key_held_for_seconds_sounds_all_the_time():
    key = event(8, timestamp=5000, sequence=0, start=0, duration=5 * RATE)
    digits, pcm = keys(receiver(), dialled(key))
    assert digits == [("8", 0, 5 * RATE)]
    for begin in range(0, 5 * RATE, 1600):
        assert tone_frequencies(pcm[begin : begin + 1600]) == [850, 1340]


def test_an_event_longer_than_65535_goes_on_in_another_part():
    total = 0xFFFF + 20_000
    first = [Packet(at, 0, 5000, telephone_event(2, at), 101) for at in range(160, 0xFFFF, 160)]
    first.append(Packet(0xFFFF, 0, 5000, telephone_event(2, 0xFFFF), 101))
    second = [
        Packet(0xFFFF + at, 0, 5000 + 0xFFFF, telephone_event(2, at), 101) for at in range(160, 20_000, 160)
    ]
    second += [Packet(total, 0, 5000 + 0xFFFF, telephone_event(2, 20_000, True), 101)] * 3
    digits, pcm = keys(receiver(), dialled(first, second))
    assert digits == [("2", 160, total)]
    assert tone_frequencies(pcm[80_000:81_600]) == [700, 1340]


def test_the_same_key_again_65535_later_is_another_one_when_the_first_has_ended():
    parts = [
        event(2, timestamp=5000, sequence=0, start=0),
        event(2, timestamp=5000 + 0xFFFF, sequence=0, start=0xFFFF),
    ]
    assert [symbol for symbol, _, _ in keys(receiver(), dialled(*parts))[0]] == ["2", "2"]


def test_several_events_in_one_packet_follow_each_other():
    payload = telephone_event(1, 400, True) + telephone_event(2, 480, True) + telephone_event(3, 560)
    stream = dialled(talk(codes(800)), [Packet(800 + 1440, 0, 5800, payload, 101)] * 3)
    digits, _ = keys(
        receiver(), [*stream[:5], *(replace(p, sequence=105 + n) for n, p in enumerate(stream[5:]))]
    )
    assert digits == [("1", 800, 400), ("2", 1200, 480), ("3", 1680, 560)]


def test_a_packet_full_of_events_does_not_fill_the_memory():
    payload = b"".join(telephone_event(n % 16, 1200, True) for n in range(300))
    one = receiver()
    feed(one, dialled(talk(codes(1600)), [Packet(1600, 0, 6600, payload, 101)]))
    assert len(one.digits()) <= 64
    assert one.end < 5 * RATE


def test_events_above_15_are_no_digits_and_make_no_sound():
    flash = event(16, timestamp=5000, sequence=0, start=0, duration=1600)
    digits, pcm = keys(receiver(), dialled(flash))
    assert (digits, pcm.any()) == ([], False)


def test_an_event_packet_without_a_whole_event_is_malformed():
    one = receiver()
    one.receive(rtp_packet(b"\x01\x0a\x00", 1, 0, payload_type=101), 0)
    assert (one.counts["malformed"], one.digits()) == (1, [])


def test_more_keys_than_anyone_collects_cost_the_oldest():
    one = receiver()
    for n in range(80):
        feed(one, arrive(event(n % 10, timestamp=8000 * n, sequence=20 * n, start=8000 * n, duration=400)))
        one.skip(8000 * n)
    digits = one.digits()
    assert len(digits) == 24
    assert [symbol for symbol, *_ in digits] == [str(n % 10) for n in range(56, 80)]


# ---- keys in the audio ----


def pressed(symbols: str, *, tone_samples: int = 800, gap: int = 800) -> np.ndarray:
    parts = [np.zeros(1600, np.int16)]
    for symbol in symbols:
        parts.append(np.frombuffer(tone.dtmf(symbol, tone_samples / RATE, dbm0=-10), np.int16))
        parts.append(np.zeros(gap, np.int16))
    return np.concatenate([*parts, np.zeros(8000, np.int16)])


def test_keys_in_the_audio_are_found_in_order_and_in_place():
    one = track()
    play(one, arrive(talk(encoded(pressed("159#")))))
    digits = one.digits(final=True)
    assert [(d.symbol, d.source) for d in digits] == [(s, DigitSource.INBAND) for s in "159#"]
    for n, digit in enumerate(digits):
        assert abs(digit.position - (1600 + 1600 * n)) <= 80
        assert abs(digit.duration_samples - 800) <= 120


def test_a_key_in_the_audio_is_known_at_most_60_ms_after_40_ms_of_it():
    one = track()
    for packet in arrive(talk(encoded(pressed("7", tone_samples=2400)))):
        one.receive(packet.wire(), packet.arrival_ns)
        one.digits()
        heard_until = packet.sent + 160
        if heard_until <= 1600:
            assert one.sounding is None
        if 1600 + 100 * MS <= heard_until <= 1600 + 2400:
            assert one.sounding == "7"
    assert one.sounding is None


def test_keys_in_the_audio_stand_in_place_behind_a_pause_and_a_loss():
    wave = pressed("1")
    first = talk(encoded(wave))
    second = talk(encoded(pressed("2")), sequence=100 + len(first), timestamp=5000 + 40_000, start=40_000)
    one = track()
    play(one, without(arrive(first + second), 102, 103, 104, 105))
    digits = one.digits(final=True)
    assert [d.symbol for d in digits] == ["1", "2"]
    assert abs(digits[1].position - 41_600) <= 80


def test_a_key_before_silence_suppression_is_told_without_waiting_for_more_audio():
    wave = pressed("6")[: 1600 + 800]
    one = Track(origin_ns=0, payload_types={0: "PCMU"})
    feed(one, arrive(talk(encoded(wave))))
    assert one.digits() == []
    now_ns = 3 * S_NS
    one.read(one.ready(now_ns))
    assert [d.symbol for d in one.digits()] == ["6"]


def test_keys_in_the_audio_of_a_fast_clock_stand_where_the_recording_has_them():
    ppm = 400
    talkative = sine(200 * RATE, hz=300, peak=300)
    wave = np.concatenate([talkative, pressed("5")])
    one = track()
    pcm = play(one, arrive(talk(encoded(wave), ppm=ppm)))
    (digit,) = one.digits(final=True)
    truth = (200 * RATE + 1600) / (1 + ppm * 1e-6)
    loud = np.flatnonzero(np.abs(pcm.astype(int)) > 3000)[0]
    assert abs(loud - truth) < 5 * MS
    assert abs(digit.position - truth) < 15 * MS


def test_detection_may_be_turned_off():
    one = track(detect_digits=False)
    play(one, arrive(talk(encoded(pressed("159")))))
    assert (one.digits(final=True), one.sounding) == ([], None)


@pytest.mark.parametrize("lag_ms", [0, 60, 150])
@pytest.mark.parametrize("event_ms", [100, 60])
def test_the_same_key_in_the_audio_and_as_event_is_one_digit(lag_ms, event_ms):
    wave = pressed("4")
    begin = 1600 + lag_ms * MS
    key = event(4, timestamp=5000 + begin, sequence=0, start=begin + 0.5, duration=event_ms * MS)
    one = track()
    play(one, dialled(talk(encoded(wave)), key))
    digits = one.digits(final=True)
    assert [(d.symbol, d.source) for d in digits] == [("4", DigitSource.EVENT)]


def test_the_same_key_both_ways_is_one_digit_when_asked_all_the_time():
    wave = pressed("444")
    parts = [
        event(4, timestamp=5000 + 1600 + 1600 * n, sequence=0, start=1600 + 1600 * n + 400.5, duration=800)
        for n in range(3)
    ]
    one = track()
    digits = []
    for packet in dialled(talk(encoded(wave)), *parts):
        one.receive(packet.wire(), packet.arrival_ns)
        digits += one.digits()
        one.read(one.ready(packet.arrival_ns))
    digits += one.digits(final=True)
    assert [(d.symbol, d.source) for d in digits] == [("4", DigitSource.EVENT)] * 3


def test_different_keys_both_ways_are_two_digits():
    key = event(9, timestamp=5000 + 4000, sequence=0, start=4000.5)
    one = track()
    play(one, dialled(talk(encoded(pressed("4"))), key))
    assert [d.symbol for d in one.digits(final=True)] == ["4", "9"]


@pytest.mark.parametrize("told_after_ms", [30, 120, 350])
def test_a_key_that_the_host_is_told_of_and_that_sounds_is_one_digit(told_after_ms):
    wave = pressed("44")  # at 0.2 and 0.4 s, 0.1 s each
    one = Track(origin_ns=0, host_frames=True, host_digits=True)
    presses = [Digit("4", 1600 * (n + 1), 800, DigitSource.HOST) for n in range(2)]
    heard = []
    for pcm, now_ns in frames_of(np.concatenate([wave, np.zeros(8000, np.int16)]), 8000):
        one.receive_pcm(pcm, now_ns)
        while presses and now_ns // 125_000 >= presses[0].position + told_after_ms * MS:
            one.press(presses.pop(0))
        heard += one.digits()
    assert not presses
    assert heard + one.digits(final=True) == []


def test_a_key_that_sounds_and_that_the_host_is_not_told_of_is_heard():
    one = Track(origin_ns=0, host_frames=True, host_digits=True)
    for pcm, now_ns in frames_of(pressed("42"), 8000):
        one.receive_pcm(pcm, now_ns)
    one.press(Digit("4", 1600, 800, DigitSource.HOST))
    assert [(digit.symbol, digit.source) for digit in one.digits(final=True)] == [("2", DigitSource.INBAND)]


def test_a_key_only_in_the_audio_is_told_after_04_s_where_events_are_possible():
    wave = pressed("4")
    one = track()
    told_at = None
    for packet in arrive(talk(encoded(wave))):
        one.receive(packet.wire(), packet.arrival_ns)
        if told_at is None and one.digits():
            told_at = packet.sent + 160
    assert 1600 + 800 + 400 * MS <= told_at <= 1600 + 800 + 450 * MS


# ---- host frames ----


def frames_of(wave: np.ndarray, rate: int, *, frame_ms: int = 20, start_ns: int = 0):
    size = rate * frame_ms // 1000
    for at in range(0, len(wave), size):
        yield wave[at : at + size].astype("<i2").tobytes(), start_ns + at * S_NS // rate


def played_pcm(one, *streams, rate):
    pieces = []
    for stream in streams:
        for pcm, now_ns in stream:
            one.receive_pcm(pcm, now_ns, rate)
            pieces.append(one.read(one.ready(now_ns)))
    one.finish()
    while one.position < one.end:
        pieces.append(one.read(one.end))
    return np.frombuffer(b"".join(pieces), np.int16)


def host_track(sample_rate: int = RATE) -> Track:
    return Track(origin_ns=0, sample_rate=sample_rate, host_frames=True)


@pytest.mark.parametrize("rate", [8000, 16_000, 24_000, 48_000])
def test_frames_of_the_recordings_rate_come_out_bit_exact(rate):
    wave = np.random.default_rng(2).integers(-20_000, 20_000, 3 * rate).astype(np.int16)
    one = host_track(rate)
    np.testing.assert_array_equal(played_pcm(one, frames_of(wave, rate), rate=rate), wave)
    assert one.heard_codecs == ("L16",)


@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
def test_frames_of_another_rate_are_resampled_in_place(rate):
    wave = np.round(8000 * np.sin(2 * np.pi * 440 * np.arange(3 * rate) / rate))
    pcm = played_pcm(host_track(), frames_of(wave, rate), rate=rate).astype(float)
    assert abs(len(pcm) - 3 * RATE) <= 1
    middle = slice(1000, 2 * RATE)
    expected = 8000 * np.sin(2 * np.pi * 440 * np.arange(3 * RATE) / RATE)
    assert np.abs(pcm[middle] - expected[middle]).max() < 200


@pytest.mark.parametrize("rate", [8000, 16_000])
@pytest.mark.parametrize("pause_ms", [100, 300, 1500, 10_000])
def test_a_pause_between_frames_is_silence_of_the_right_length(rate, pause_ms):
    wave = np.round(8000 * np.sin(2 * np.pi * 500 * np.arange(2 * rate) / rate))
    start_ns = 2 * S_NS + pause_ms * MS_NS
    one = host_track()
    pcm = played_pcm(one, frames_of(wave, rate), frames_of(wave, rate, start_ns=start_ns), rate=rate)
    begin = 2 * RATE + pause_ms * MS
    assert abs(len(pcm) - begin - 2 * RATE) <= 1
    pause = pcm[2 * RATE + 40 : begin - 40]
    assert not pause.any()
    expected = 8000 * np.sin(2 * np.pi * 500 * np.arange(2 * RATE) / RATE)
    assert np.abs(pcm[begin + 100 : begin + RATE] - expected[100:RATE]).max() < 200
    assert one.counts["late"] == 0


def test_a_host_that_stalls_2_s_and_then_delivers_all_loses_nothing():
    wave = np.random.default_rng(2).integers(-20_000, 20_000, 6 * RATE).astype(np.int16)
    one = host_track()
    pieces = []
    for pcm, now_ns in frames_of(wave, RATE):
        one.receive_pcm(pcm, now_ns)
        if not 2 * S_NS < now_ns < 4 * S_NS:
            pieces.append(one.read(one.ready(now_ns)))
    one.finish()
    pieces.append(one.read(one.end))
    np.testing.assert_array_equal(np.frombuffer(b"".join(pieces), np.int16), wave)


def test_jitter_of_the_hosts_clock_moves_nothing():
    wave = np.random.default_rng(2).integers(-20_000, 20_000, 8 * RATE).astype(np.int16)
    chance = np.random.default_rng(5)
    stream = [
        (pcm, now_ns + int(chance.integers(0, 40 * MS_NS)) * (now_ns > 0))
        for pcm, now_ns in frames_of(wave, RATE)
    ]
    np.testing.assert_array_equal(played_pcm(host_track(), stream, rate=RATE), wave)


def test_the_rate_of_host_frames_must_stay():
    one = host_track()
    one.receive_pcm(bytes(640), 0, 16_000)
    with pytest.raises(UsageError, match="16000 Hz so far, now of 24000"):
        one.receive_pcm(bytes(960), 20 * MS_NS, 24_000)


def test_frames_are_for_a_track_that_takes_frames():
    with pytest.raises(TypeError, match="host_frames"):
        track().receive_pcm(bytes(320), 0)


def test_keys_are_found_in_host_frames_of_16_khz():
    wave = np.concatenate(
        [
            np.zeros(3200, np.int16),
            np.frombuffer(tone.dtmf("8", 0.1, dbm0=-10, sample_rate=16_000), np.int16),
            np.zeros(9600, np.int16),
        ]
    )
    one = host_track(16_000)
    played_pcm(one, frames_of(wave, 16_000), rate=16_000)
    (digit,) = one.digits(final=True)
    assert digit.symbol == "8"
    assert abs(digit.position - 3200) <= 160


# ---- the object ----


@needs_the_heap
def test_memory_per_leg_is_bounded_and_given_back():
    data, table = records(arrive(talk(codes(60 * RATE))))
    last = len(table) - 100  # 2 s in which nothing is read
    before = allocated_bytes()
    leg = Leg("LEG-A", track(), track())
    tracks = (leg.incoming, leg.outgoing)
    at = 0
    while at < last:
        for one in tracks:
            one.receive_batch(data, table, at, 10, force=True)
            one.digits()
            one.read(one.ready(int(table["time_ns"][at + 9])))
        at += 10
    while_read = allocated_bytes() - before
    for one in tracks:
        one.receive_batch(data, table, at, force=True)
        assert one.counts["discarded"] == 0
    unread = allocated_bytes() - before
    for one in tracks:
        one.read(one.end)
    assert while_read < 50_000  # bytes, both tracks
    assert unread < 80_000
    assert allocated_bytes() - before < 36_000  # its state, and what the C library keeps at hand


def test_skipped_audio_is_not_in_what_follows_and_not_counted():
    data = codes(4 * RATE)
    one = receiver()
    feed(one, arrive(talk(data))[:150])
    one.skip(RATE + 77)
    np.testing.assert_array_equal(
        np.frombuffer(one.read(2 * RATE), np.int16), decoded(data)[RATE + 77 : 2 * RATE]
    )
    assert (one.silence_samples, one.concealed_samples) == (0, 0)


def test_what_was_read_before_makes_no_difference_to_skipping():
    data = codes(30 * RATE)
    one = receiver()
    for packet in arrive(talk(data)):
        assert one.receive(packet.wire(), packet.arrival_ns)  # there is room
        ready = one.ready(packet.arrival_ns)
        if 3 * RATE < one.position < 25 * RATE:
            one.skip(ready)
        elif ready > one.position:
            begin = one.position
            np.testing.assert_array_equal(
                np.frombuffer(one.read(ready), np.int16), decoded(data)[begin:ready]
            )
    assert one.position > 28 * RATE
    assert one.counts["late"] == 0


def test_skipping_takes_no_time_however_far():
    one = receiver()
    one.skip(2**60)
    assert one.position == 2**60


def test_a_packet_in_time_for_audio_that_was_skipped_is_not_late():
    packets = arrive(talk(codes(2 * RATE)))
    one = receiver()
    feed(one, packets[:49])
    one.skip(RATE)
    feed(one, [late(packets[49], 15), *packets[50:]])
    np.testing.assert_array_equal(
        np.frombuffer(one.read(2 * RATE), np.int16), decoded(codes(2 * RATE))[RATE:]
    )
    assert one.counts["late"] == 0


def test_gaps_of_a_track_add_up_over_reads_and_are_bounded():
    one = track()
    data = codes(80 * RATE)
    packets = [p for n, p in enumerate(arrive(talk(data, samples=80, sequence=0))) if n % 4 != 2]
    for packet in packets:
        one.receive(packet.wire(), packet.arrival_ns)
        one.read(min(one.ready(packet.arrival_ns), one.position + 37))  # gaps come in pieces
        one.read(one.ready(packet.arrival_ns))
    assert one.gaps == [(160 + 320 * n, 80) for n in range(1000)]


def test_payload_types_may_change_with_a_new_answer():
    one = Track(origin_ns=0, payload_types={0: "PCMU"})
    feed(one, arrive(talk(codes(160), payload_type=96)))
    one.set_payload_types({96: "pcma"})
    feed(one, arrive(talk(codes(160), payload_type=96, sequence=101, timestamp=5160, start=160)))
    assert (one.counts["undecoded"], one.heard_codecs) == (1, ("pcma",))
    np.testing.assert_array_equal(np.frombuffer(one.read(320), np.int16)[160:], decoded(codes(160), "alaw"))


def test_codecs_are_found_by_name_in_any_case_and_by_clock_rate():
    assert codec_of("pcmu") == Codec("PCMU", 8000, True)
    assert codec_of("Telephone-Event").decodable
    assert codec_of("PCMU", 16_000) == Codec("PCMU", 16_000, False)
    assert codec_of("opus", 48_000) == Codec("opus", 48_000, False)


def test_digits_are_plain_data():
    assert Digit("1", 2, 3, DigitSource.EVENT) == Digit("1", 2, 3, DigitSource.EVENT)
    assert (DigitSource.EVENT, DigitSource.INBAND) == ("rfc4733", "inband")


# ---- others who want the audio ----


def test_who_follows_a_track_is_handed_its_timeline_whether_it_is_read_or_skipped():
    data = codes(RATE)
    track, followed, heard = Track(origin_ns=0, detect_digits=False), [], []
    track.on_read.append(lambda position, audio: followed.append((position, audio)))
    track.on_hear.append(lambda position, audio: heard.append((position, audio)))
    for packet in arrive(talk(data)):
        track.receive(packet.wire(), packet.arrival_ns)
    track.listen()
    assert b"".join(audio for _, audio in heard) == decoded(data).tobytes()
    track.read(2000)
    track.skip(5000)
    track.read(8000)
    assert [position for position, _ in followed] == [0, 2000, 5000]
    assert b"".join(audio for _, audio in followed) == decoded(data).tobytes()
