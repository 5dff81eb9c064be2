"""What `record_capture` makes of captures that were written for one rule each."""

import gzip
import itertools
import json
import os
import pickle
import random
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import capture_writer as writer
from callreel import capture_plan, capture_survey, captures
from callreel.actions import Layout, StartRecording
from callreel.captures import CaptureReport, RecordOptions, Take, record_capture
from callreel.delivery import folder
from callreel.errors import CaptureError
from callreel.events import RecordingFinished, RecordingStarted
from callreel.kernels import g711
from capture_writer import Record, rtp_packet, telephone_event
from sip_messages import EVENTS, G722, G729, PCMA, PCMU, Dialog, audio, fax, session

START_S = 1_700_000_000
ALICE, BOB = ("10.0.0.1", 5060), ("10.0.0.2", 5060)
ALICE_AUDIO, BOB_AUDIO = ("10.0.0.1", 4000), ("10.0.0.2", 6000)
LOUD, SOFT = 0x90, 0xC0  # codes whose value a channel is then full of
Packet = tuple[float, tuple[str, int], tuple[str, int], bytes]


def value(code: int, law: str = "PCMU") -> int:
    decode = g711.ulaw_decode if law == "PCMU" else g711.alaw_decode
    return int(np.frombuffer(decode(bytes([code])), "<i2")[0])


def talk(
    source,
    destination,
    start_s: float,
    seconds: float,
    *,
    code: int = LOUD,
    ssrc: int = 0xA,
    payload_type: int = 0,
    seq: int = 100,
    timestamp: int = 8000,
    payload: bytes | None = None,
) -> list[Packet]:
    """RTP every 20 ms."""
    return [
        (
            start_s + n * 0.02,
            source,
            destination,
            rtp_packet(
                bytes([code]) * 160 if payload is None else payload,
                seq=seq + n,
                timestamp=timestamp + 160 * n,
                ssrc=ssrc,
                payload_type=payload_type,
                marker=n == 0,
            ),
        )
        for n in range(round(seconds * 50))
    ]


def both(start_s: float, seconds: float, a=ALICE_AUDIO, b=BOB_AUDIO, **changes) -> list[Packet]:
    """Two people talk: the caller LOUD (SSRC A), the callee SOFT (SSRC B)."""
    return talk(a, b, start_s, seconds, **changes) + talk(
        b, a, start_s, seconds, **({"code": SOFT, "ssrc": 0xB} | changes)
    )


def press(
    source,
    destination,
    start_s: float,
    key: int,
    *,
    payload_type: int,
    seq: int,
    timestamp: int,
    ssrc: int = 0xA,
) -> list[Packet]:
    """An RFC 4733 key of 100 ms, 3 end packets."""
    steps = [(n, 160 * (n + 1), False) for n in range(5)] + [(5 + n, 800, True) for n in range(3)]
    return [
        (
            start_s + n * 0.02,
            source,
            destination,
            rtp_packet(
                telephone_event(key, duration, end),
                seq=seq + n,
                timestamp=timestamp,
                ssrc=ssrc,
                payload_type=payload_type,
                marker=n == 0,
            ),
        )
        for n, duration, end in steps
    ]


@dataclass
class Call:
    """The signalling of a call between Alice and Bob; media is the test's own."""

    dialog: Dialog = field(default_factory=Dialog)
    offer: str = session("10.0.0.1", audio(4000))
    answer: str = session("10.0.0.2", audio(6000))
    a: tuple[str, int] = ALICE
    b: tuple[str, int] = BOB

    def begin(self, at_s: float = 0.0, answered_s: float = 1.0) -> list[Packet]:
        return [
            (at_s, self.a, self.b, self.dialog.invite(self.offer)),
            (at_s + 0.1, self.b, self.a, self.dialog.response(180)),
            (answered_s, self.b, self.a, self.dialog.response(200, self.answer)),
            (answered_s + 0.05, self.a, self.b, self.dialog.ack()),
        ]

    def change(self, at_s: float, offer: str, answer: str) -> list[Packet]:
        return [
            (at_s, self.a, self.b, self.dialog.reinvite(offer)),
            (at_s + 0.05, self.b, self.a, self.dialog.response(200, answer)),
            (at_s + 0.08, self.a, self.b, self.dialog.ack()),
        ]

    def end(self, at_s: float) -> list[Packet]:
        return [
            (at_s, self.a, self.b, self.dialog.bye()),
            (at_s + 0.02, self.b, self.a, self.dialog.response(200, method="BYE")),
        ]


def in_order(*packets: Iterable[Packet]) -> list[Packet]:
    return sorted((packet for some in packets for packet in some), key=lambda packet: packet[0])


@pytest.fixture
def record(tmp_path) -> Callable[..., CaptureReport]:
    def record(
        capture: bytes | list[Packet], action=None, name="test.pcap", out="out", **hooks
    ) -> CaptureReport:
        path = tmp_path / name
        path.write_bytes(capture if isinstance(capture, bytes) else writer.capture(capture))
        options = RecordOptions(out=tmp_path / out, action=action or StartRecording())
        report = record_capture(path, options, **hooks)
        assert not list(tmp_path.rglob("*.part"))
        return report

    return record


def channels(take: Take) -> np.ndarray:
    """The audio of a take, a row a channel."""
    with wave.open(str(take.path)) as file:
        assert file.getnframes() == take.manifest["frames"]
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return samples.reshape(-1, file.getnchannels()).T.copy()


def track(take: Take, direction: str) -> dict:
    return next(entry for entry in take.manifest["tracks"] if entry["direction"] == direction)


def received(take: Take) -> tuple[int, int]:
    return track(take, "incoming")["packets"]["received"], track(take, "outgoing")["packets"]["received"]


def only(report: CaptureReport) -> Take:
    (take,) = report.takes
    return take


# ---- SIP ----


def test_a_call_by_sip_is_recorded_from_its_first_media_to_its_bye(record):
    call = Call()
    report = record(in_order(call.begin(), both(1.0, 3), call.end(5)))
    take = only(report)
    assert report.all_good
    (found,) = report.calls
    assert (found.call_id, found.signalling, found.end_cause, found.recorded, found.note) == (
        "call-1@example.org",
        "answered",
        "bye",
        True,
        "",
    )
    assert take.manifest["frames"] == 4 * 8000  # one second after the last packet
    assert take.manifest["started_at"] == "2023-11-14T22:13:21.000Z"
    left, right = channels(take)
    assert set(left[: 3 * 8000]) == {value(LOUD)}
    assert set(right[: 3 * 8000]) == {value(SOFT)}
    assert not left[3 * 8000 + 600 :].any()
    assert received(take) == (150, 150)


def test_the_manifest_beside_the_audio_is_the_take_s(record):
    call = Call()
    take = only(record(in_order(call.begin(), both(1.0, 1), call.end(2))))
    beside = take.path.with_name(take.path.name + ".json")
    assert json.loads(beside.read_text()) == json.loads(json.dumps(take.manifest))


def test_headers_may_be_compact(record):
    call = Call(Dialog(compact=True))
    assert received(only(record(in_order(call.begin(), both(1, 1), call.end(2))))) == (50, 50)


@pytest.mark.parametrize("pieces", [1, 3])
def test_sip_over_tcp_is_read_whatever_its_segments(record, pieces):
    call = Call()
    sequence = {ALICE: 1000, BOB: 9000}
    records = []
    for at_s, source, destination, data in in_order(call.begin(), both(1, 1), call.end(2)):
        time_ns = START_S * 10**9 + round(at_s * 1e9)
        if source[1] != 5060:
            segments = [writer.udp(data, source[1], destination[1])]
            protocol = writer.UDP
        else:
            step = -(-len(data) // pieces)
            segments, protocol = [], writer.TCP
            for at in range(0, len(data), step):
                segments.append(
                    writer.tcp(data[at : at + step], source[1], destination[1], seq=sequence[source])
                )
                sequence[source] += len(data[at : at + step])
        for n, segment in enumerate(segments):
            frame = writer.ethernet(writer.ip(segment, source[0], destination[0], protocol))
            records.append(Record(time_ns + n, frame))
    report = record(writer.pcap(records))
    assert received(only(report)) == (50, 50)
    assert report.calls[0].end_cause == "bye"


def test_a_reinvite_changes_the_codec_and_g722_is_named(record):
    call = Call(
        offer=session("10.0.0.1", audio(4000, (PCMU, PCMA))), answer=session("10.0.0.2", audio(6000, (PCMU,)))
    )
    to = [session("10.0.0.1", audio(4000, (codec,))) for codec in (PCMA, G722)]
    back = [session("10.0.0.2", audio(6000, (codec,))) for codec in (PCMA, G722)]
    report = record(
        in_order(
            call.begin(),
            both(1, 1),
            call.change(2, to[0], back[0]),
            both(2.1, 1, payload_type=8, code=0x55, seq=150, timestamp=16800),
            call.change(3.2, to[1], back[1]),
            both(3.3, 1, payload_type=9, seq=200, timestamp=26400),
            call.end(4.5),
        )
    )
    take = only(report)
    assert track(take, "incoming")["codec"] == "PCMU+PCMA+G722"
    assert track(take, "incoming")["packets"]["undecoded"] == 50
    assert take.manifest["degraded"] == {"undecoded_packets": 100}
    left, _ = channels(take)
    assert set(left[:8000]) == {value(LOUD)}
    assert set(left[8800:16800]) == {value(0x55, "PCMA")}
    assert not left[18400 + 600 : 26400].any()
    assert not report.all_good


def test_a_dynamic_payload_type_means_what_the_latest_answer_says(record):
    """96 is PCMU first, PCMA later."""
    call = Call(
        offer=session("10.0.0.1", audio(4000, ("96 PCMU/8000",))),
        answer=session("10.0.0.2", audio(6000, ("96 PCMU/8000",))),
    )
    later = "96 PCMA/8000"
    report = record(
        in_order(
            call.begin(),
            both(1, 1, payload_type=96),
            call.change(
                2.1, session("10.0.0.1", audio(4000, (later,))), session("10.0.0.2", audio(6000, (later,)))
            ),
            both(2.5, 1, payload_type=96, code=0x55, seq=150, timestamp=20000),
            call.end(3.5),
        )
    )
    left, _ = channels(only(report))
    assert set(left[:8000]) == {value(LOUD)}
    assert set(left[12000:20000]) == {value(0x55, "PCMA")}


@pytest.mark.parametrize(
    "hold",
    [
        session("10.0.0.1", audio(4000, direction="sendonly")),
        session("10.0.0.1", audio(4000, direction="inactive")),
        session("0.0.0.0", audio(4000)),
    ],
    ids=["sendonly", "inactive", "0.0.0.0"],
)
def test_a_call_on_hold_keeps_its_time(record, hold):
    call = Call()
    report = record(
        in_order(
            call.begin(),
            both(1, 1),
            call.change(2, hold, session("10.0.0.2", audio(6000, direction="recvonly"))),
            call.change(92, call.offer, call.answer),
            both(92.1, 1, seq=150, timestamp=8000 + 728_800),
            call.end(93.1),
        )
    )
    take = only(report)
    assert report.all_good
    left, right = channels(take)
    assert left.size == round(92.1 * 8000)
    assert set(left[round(91.1 * 8000) : -8]) == {value(LOUD)}
    assert set(right[round(91.1 * 8000) : -8]) == {value(SOFT)}
    assert not left[8600 : round(91.1 * 8000) - 8].any()


def test_early_media_is_part_of_the_recording(record):
    call = Call()
    packets = [
        (0.0, ALICE, BOB, call.dialog.invite(call.offer)),
        (0.2, BOB, ALICE, call.dialog.response(183, call.answer)),
        *talk(BOB_AUDIO, ALICE_AUDIO, 0.3, 2, code=SOFT, ssrc=0xB),
        (2.5, BOB, ALICE, call.dialog.response(200, call.answer)),
        *talk(ALICE_AUDIO, BOB_AUDIO, 2.6, 1),
        *talk(BOB_AUDIO, ALICE_AUDIO, 2.3, 1.3, code=SOFT, ssrc=0xB, seq=200, timestamp=24000),
        *call.end(3.6),
    ]
    take = only(record(in_order(packets)))
    assert take.manifest["started_at"].endswith("20.300Z")
    assert received(take) == (50, 165)
    left, right = channels(take)
    assert not left[: round(2.3 * 8000) - 1].any()
    assert set(right[:16000]) == {value(SOFT)}


def test_an_announcement_instead_of_an_answer_is_recorded(record):
    call = Call()
    packets = [
        (0.0, ALICE, BOB, call.dialog.invite(call.offer)),
        (0.2, BOB, ALICE, call.dialog.response(183, call.answer)),
        (0.5, BOB, ALICE, call.dialog.response(480)),
        *talk(BOB_AUDIO, ALICE_AUDIO, 0.6, 2, code=SOFT, ssrc=0xB),
    ]
    report = record(packets)
    assert report.calls[0].signalling == "unanswered"
    assert received(only(report)) == (0, 100)
    assert only(report).manifest["frames"] == 16000


def test_the_hops_of_a_proxy_are_one_call(record):
    call = Call()
    proxy = ("10.0.0.9", 5060)
    packets = []
    for at_s, source, _, data in call.begin() + call.end(3):
        path = (ALICE, proxy, BOB) if source == ALICE else (BOB, proxy, ALICE)
        onward = data.replace(b"10.0.0.1:5060;", b"10.0.0.9:5060;").replace(b"bK10.0.0.1", b"bK10.0.0.9")
        packets += [(at_s, path[0], path[1], data), (at_s + 0.001, path[1], path[2], onward)]
    report = record(in_order(packets, both(1, 2)))
    assert len(report.calls) == 1
    assert received(only(report)) == (100, 100)
    assert report.all_good


RELAY = "10.0.0.9"


def relayed(ssrc_kept: bool = True) -> list[Packet]:
    call = Call()
    towards_alice, towards_bob = (RELAY, 7000), (RELAY, 7002)
    proxy = (RELAY, 5060)
    d, onward = call.dialog, replace(call.dialog, via="10.0.0.9:5060")
    signalling = [
        (0.0, ALICE, proxy, d.invite(call.offer)),
        (0.01, proxy, BOB, onward.invite(session(RELAY, audio(7002)))),
        (1.0, BOB, proxy, onward.response(200, call.answer)),
        (1.01, proxy, ALICE, d.response(200, session(RELAY, audio(7000)))),
        (1.05, ALICE, proxy, d.ack()),
        (1.06, proxy, BOB, onward.ack()),
        (3.5, ALICE, proxy, d.bye()),
        (3.51, proxy, BOB, onward.bye()),
    ]
    far = {} if ssrc_kept else {"seq": 5000, "timestamp": 77777}
    return in_order(
        signalling,
        both(1.1, 2, ALICE_AUDIO, towards_alice),
        talk(towards_bob, BOB_AUDIO, 1.101, 2, ssrc=0xA if ssrc_kept else 0x1A, **far),
        talk(BOB_AUDIO, towards_bob, 1.099, 2, code=SOFT, ssrc=0xB if ssrc_kept else 0x1B, **far),
    )


@pytest.mark.parametrize("ssrc_kept", [True, False])
def test_of_a_media_relay_only_the_caller_s_leg_is_recorded(record, ssrc_kept):
    report = record(relayed(ssrc_kept))
    assert len(report.calls) == 1
    take = only(report)
    assert received(take) == (100, 100)
    left, right = channels(take)
    assert set(left[8:15000]) == {value(LOUD)}
    assert set(right[8:15000]) == {value(SOFT)}
    assert report.all_good


def test_two_calls_with_the_same_media_are_recorded_once(record):
    """A back-to-back user agent that leaves the descriptions alone."""
    first, second = Call(), Call(Dialog(call_id="other@b2bua"), a=("10.0.0.9", 5060))
    report = record(
        in_order(first.begin(), second.begin(0.02, 0.98), both(1, 2), first.end(4), second.end(4.01))
    )
    assert received(only(report)) == (100, 100)
    assert {call.call_id: (call.recorded, call.same_media_as) for call in report.calls} == {
        "call-1@example.org": (True, None),
        "other@b2bua": (False, "call-1@example.org"),
    }
    assert report.all_good


def test_behind_nat_the_answers_tell_where_media_goes(record):
    """Alice's description has a private address; her packets come from the NAT's."""
    call = Call(offer=session("192.168.1.5", audio(4000)))
    seen = ("198.51.100.7", 33333)
    report = record(in_order(call.begin(), both(1, 2, seen, BOB_AUDIO), call.end(3.5)))
    take = only(report)
    assert received(take) == (100, 100)
    assert len(report.calls) == 1
    left, _ = channels(take)
    assert set(left[8:15000]) == {value(LOUD)}


def test_behind_nat_on_both_sides_symmetric_media_is_found_by_its_source(record):
    """Only what Bob sends from is what his description says."""
    call = Call(offer=session("192.168.1.5", audio(4000)))
    seen = ("198.51.100.7", 33333)
    packets = talk(BOB_AUDIO, seen, 1, 2, code=SOFT, ssrc=0xB)
    take = only(record(in_order(call.begin(), packets, call.end(3.5))))
    assert received(take) == (0, 100)


def test_media_may_have_other_addresses_than_signalling(record):
    call = Call(offer=session("172.16.0.1", audio(4444)), answer=session("172.16.0.2", audio(6666)))
    take = only(
        record(in_order(call.begin(), both(1, 1, ("172.16.0.1", 4444), ("172.16.0.2", 6666)), call.end(2)))
    )
    assert received(take) == (50, 50)


@pytest.mark.parametrize(("to_alice", "to_bob"), [(97, 97), (101, 96)])
def test_keys_come_under_the_payload_type_of_their_receiver(record, to_alice, to_bob):
    """What Alice sends has the number that Bob announced."""
    call = Call(
        offer=session("10.0.0.1", audio(4000, (PCMU, f"{to_alice} telephone-event/8000"))),
        answer=session("10.0.0.2", audio(6000, (PCMU, f"{to_bob} telephone-event/8000"))),
    )
    keys = press(ALICE_AUDIO, BOB_AUDIO, 2.0, 5, payload_type=to_bob, seq=150, timestamp=16000)
    keys += press(BOB_AUDIO, ALICE_AUDIO, 2.5, 11, payload_type=to_alice, seq=150, timestamp=20000, ssrc=0xB)
    take = only(record(in_order(call.begin(), both(1, 1), keys, call.end(3))))
    assert [(d["symbol"], d["track"], d["at"], d["duration"]) for d in take.manifest["digits"]] == [
        ("5", "incoming", 1.0, 0.1),
        ("#", "outgoing", 1.5, 0.1),
    ]
    assert take.manifest["degraded"] is False


@pytest.mark.parametrize(
    ("line", "reason", "codec"),
    [
        (audio(6000, (PCMU,), transport="RTP/SAVP"), "encrypted", "PCMU"),
        (audio(6000, (G729,)), "codec", "G729"),
        (audio(6000, ("98 opus/48000/2",)), "codec", "OPUS"),
        (audio(6000, ("98 PCMU/16000",)), "codec", "PCMU/16000"),
    ],
    ids=["srtp", "g729", "opus", "wideband pcmu"],
)
def test_what_cannot_be_recorded_is_named(record, line, reason, codec):
    call = Call(offer=session("10.0.0.1", line.replace(" 6000 ", " 4000 ")), answer=session("10.0.0.2", line))
    payload_type = int(line.split("AVP ")[1].split("\r")[0])
    report = record(in_order(call.begin(), both(1, 1, payload_type=payload_type), call.end(2)))
    assert report.takes == ()
    assert [(s.reason, s.codec, s.call_id, s.packets["received"]) for s in report.skipped] == [
        (reason, codec, "call-1@example.org", 50)
    ] * 2
    assert len(report.calls) == 1
    assert report.calls[0].note
    assert not report.all_good


def test_a_fax_is_named(record):
    call = Call()
    report = record(
        in_order(
            call.begin(),
            both(1, 1),
            call.change(2.1, session("10.0.0.1", fax(4000)), session("10.0.0.2", fax(6000))),
            call.end(4),
        )
    )
    assert [(s.reason, s.codec, s.source, s.destination) for s in report.skipped] == [
        ("fax", "T.38", "10.0.0.1:4000", "10.0.0.2:6000")
    ]
    assert received(only(report)) == (50, 50)


def test_video_is_named_and_is_no_call(record):
    line = "96 H264/90000"
    call = Call(
        offer=session("10.0.0.1", audio(4000), audio(4002, (line,), kind="video")),
        answer=session("10.0.0.2", audio(6000), audio(6002, (line,), kind="video")),
    )
    video = both(1, 1, ("10.0.0.1", 4002), ("10.0.0.2", 6002), payload_type=96)
    report = record(in_order(call.begin(), both(1, 1), video, call.end(2)))
    assert [s.reason for s in report.skipped] == ["video", "video"]
    assert len(report.calls) == 1
    assert received(only(report)) == (50, 50)


def test_a_second_audio_line_is_named(record):
    call = Call(
        offer=session("10.0.0.1", audio(4000), audio(4002)),
        answer=session("10.0.0.2", audio(6000), audio(6002)),
    )
    second = both(1, 1, ("10.0.0.1", 4002), ("10.0.0.2", 6002), seq=7000)
    report = record(in_order(call.begin(), both(1, 1), second, call.end(2)))
    assert [s.reason for s in report.skipped] == ["second audio line", "second audio line"]
    assert len(report.calls) == 1
    assert received(only(report)) == (50, 50)


def test_after_the_last_packet_the_recording_goes_on_until_the_bye(record):
    call = Call()
    take = only(record(in_order(call.begin(), both(1, 2), call.end(33))))
    assert take.manifest["frames"] == 32 * 8000
    assert track(take, "incoming")["silence_filled_ms"] == pytest.approx(30_000, abs=100)


def test_a_bye_years_later_does_not_make_years_of_silence(record):
    call = Call()
    take = only(record(in_order(call.begin(), both(1, 2), call.end(10 * 365 * 86400))))
    assert take.manifest["duration"] <= 3 + capture_plan.MAX_PAUSE_NS / 1e9


def test_stragglers_after_the_bye_are_part_of_the_call(record):
    call = Call()
    take = only(record(in_order(call.begin(), both(1, 2), call.end(2.9))))
    assert received(take) == (100, 100)
    assert take.manifest["frames"] == 16000


def test_media_that_begins_after_the_bye_is_a_call_of_its_own(record):
    call = Call()
    report = record(in_order(call.begin(), both(1, 2), call.end(3.5), both(6, 1, ssrc=9)))
    assert [received(take) for take in report.takes] == [(100, 100), (50, 50)]
    assert [found.signalling for found in report.calls] == ["answered", "none"]


@pytest.mark.parametrize("link_type", [writer.ETHERNET, writer.COOKED, writer.COOKED_V2, writer.RAW])
def test_ipv6(record, link_type):
    a, b = ("2001:db8::1", 4000), ("2001:db8::2", 6000)
    call = Call(
        offer=session(a[0], audio(4000)),
        answer=session("2001:DB8:0::2", audio(6000)),
        a=("2001:db8::1", 5060),
        b=("2001:db8::2", 5060),
    )
    packets = in_order(call.begin(), both(1, 1, a, b), call.end(2))
    report = record(writer.capture(packets, link_type=link_type, vlans=[3, 4]))
    assert received(only(report)) == (50, 50)
    assert report.all_good


def test_a_participant_may_move_in_mid_call(record):
    """A re-INVITE with another port; the new stream has another SSRC and other numbers."""
    call = Call()
    moved = ("10.0.0.77", 4444)
    packets = in_order(
        call.begin(),
        both(1, 2),
        call.change(3, session(moved[0], audio(moved[1])), call.answer),
        both(3.2, 2, moved, BOB_AUDIO, seq=9000, timestamp=12345, ssrc=0xAB),
        call.end(5.5),
    )
    take = only(record(packets))
    assert received(take) == (200, 200)
    assert track(take, "incoming")["ssrc"] == [0xA, 0xAB]
    assert set(channels(take)[0][8 * 2210 : 8 * 4190]) == {value(LOUD)}


# ---- many calls ----


def test_calls_one_after_the_other_on_the_same_ports_are_told_apart(record):
    """Each has its own SSRC."""
    packets = []
    for n in range(12):
        call = Call(Dialog(call_id=f"c{n}", caller_tag=f"a{n}", callee_tag=f"b{n}"))
        at = 4 * n
        packets += call.begin(at, at + 0.5) + both(at + 0.6, 1 + n / 10, ssrc=1000 + n) + call.end(at + 3)
    report = record(in_order(packets))
    assert [received(take) for take in report.takes] == [(50 + 5 * n, 50 + 5 * n) for n in range(12)]
    assert [take.manifest["call_id"] for take in report.takes] == [f"c{n}" for n in range(12)]
    assert [take.manifest["duration"] for take in report.takes] == [2.4] * 12
    assert report.all_good


def test_calls_one_after_the_other_in_one_run_of_rtp_are_told_apart(record):
    """A test tool that plays the same capture in every call: same ports, same SSRC, same numbers."""
    packets = []
    for n in range(12):
        call = Call(Dialog(call_id=f"c{n}", caller_tag=f"a{n}", callee_tag=f"b{n}"))
        at = 4 * n
        packets += call.begin(at, at + 0.5) + both(at + 0.6, 1 + n / 10) + call.end(at + 3)
    report = record(in_order(packets))
    assert [received(take) for take in report.takes] == [(50 + 5 * n, 50 + 5 * n) for n in range(12)]
    assert [take.manifest["duration"] for take in report.takes] == [2.4] * 12
    assert len(report.calls) == 12
    assert report.all_good


def test_the_next_call_on_the_ports_ends_one_whose_bye_was_not_captured(record):
    packets = []
    for n in range(3):
        call = Call(Dialog(call_id=f"c{n}", caller_tag=f"a{n}", callee_tag=f"b{n}"))
        packets += call.begin(10 * n, 10 * n + 0.5) + both(10 * n + 0.6, 2)
    report = record(in_order(packets))
    assert [received(take) for take in report.takes] == [(100, 100)] * 3
    assert [take.manifest["duration"] for take in report.takes] == [2.0] * 3


def test_calls_at_the_same_time_are_told_apart(record):
    packets = []
    for n in range(20):
        call = Call(
            Dialog(call_id=f"c{n}", caller_tag=f"a{n}", callee_tag=f"b{n}"),
            offer=session("10.0.0.1", audio(4000 + 2 * n)),
            answer=session("10.0.0.2", audio(6000 + 2 * n)),
        )
        ends = ("10.0.0.1", 4000 + 2 * n), ("10.0.0.2", 6000 + 2 * n)
        packets += call.begin(0.01 * n, 0.5 + 0.01 * n) + call.end(4)
        packets += both(1 + 0.001 * n, 1 + n / 10, *ends, code=0x80 + n)
    report = record(in_order(packets))
    by_call = {take.manifest["call_id"]: take for take in report.takes}
    assert len(by_call) == 20
    for n in range(20):
        assert received(by_call[f"c{n}"]) == (50 + 5 * n, 50 + 5 * n)
        assert set(channels(by_call[f"c{n}"])[:, 8:8000].flat) == {value(0x80 + n)}


def test_a_call_id_may_be_used_again(record):
    first = Call()
    second = Call(Dialog(caller_tag="other", callee_tag="other-b"))
    report = record(
        in_order(first.begin(), both(1, 1), first.end(2), second.begin(10, 10.5), both(11, 2), second.end(13))
    )
    assert [received(take) for take in report.takes] == [(50, 50), (100, 100)]
    assert len({take.path for take in report.takes}) == 2
    assert len({take.manifest["transaction_id"] for take in report.takes}) == 2


@pytest.mark.parametrize("state", ["bye", "re-invite"])
def test_a_call_that_began_before_the_capture_is_recorded_from_its_start(record, state):
    call = Call()
    call.dialog.cseq = 7
    late = (
        call.end(4)
        if state == "bye"
        else [
            (2.5, ALICE, BOB, call.dialog.reinvite(call.offer)),
            (2.6, BOB, ALICE, call.dialog.response(200, call.answer)),
        ]
    )
    report = record(in_order(both(0, 4), late))
    assert [received(take) for take in report.takes] == [(200, 200)]
    assert only(report).manifest["started_at"].endswith(":20.000Z")
    assert any(call.signalling == "unknown" for call in report.calls)


# ---- without SIP ----


def test_two_directions_of_an_address_pair_are_a_call(record):
    report = record(in_order(both(0, 2)))
    take = only(report)
    (found,) = report.calls
    assert found.signalling == "none"
    assert (found.caller, found.callee) == ("10.0.0.1:4000", "10.0.0.2:6000")
    assert received(take) == (100, 100)
    left, right = channels(take)
    assert set(left) == {value(LOUD)}
    assert set(right) == {value(SOFT)}
    assert report.all_good


def test_whoever_is_heard_first_is_incoming(record):
    packets = both(0, 1)
    take = only(record(in_order([(t + (p[0] == ALICE_AUDIO) * 0.005, p[0], *p[1:]) for t, *p in packets])))
    assert track(take, "incoming")["ssrc"] == [0xB]


def test_the_same_ssrc_in_both_directions_is_no_copy(record):
    take = only(record(in_order(both(0, 1, ssrc=77))))
    assert received(take) == (50, 50)


def test_without_signalling_a_pause_of_a_minute_ends_a_call(record):
    packets = both(0, 1) + both(55, 1, seq=150, timestamp=448000) + both(120, 1, seq=200, timestamp=960000)
    report = record(in_order(packets))
    assert [received(take) for take in report.takes] == [(100, 100), (50, 50)]
    assert [take.manifest["duration"] for take in report.takes] == [56.0, 1.0]
    assert len(report.calls) == 2


@pytest.mark.parametrize("calls", [3, 20])
def test_ten_years_between_packets_make_no_giant_file(record, calls):
    years = 10 * 365 * 86400
    packets = [p for n in range(calls) for p in both(n * years // calls, 1, seq=100 + 50 * n)]
    report = record(in_order(packets))
    assert sum(take.manifest["duration"] for take in report.takes) < calls * 61
    assert sum(take.path.stat().st_size for take in report.takes) < 100e6
    total = sum(sum(received(take)) for take in report.takes)
    strayed = sum((take.manifest["degraded"] or {}).get("stray_packets", 0) for take in report.takes)
    assert total + strayed == 100 * calls


def test_payload_type_101_without_sdp_is_events_if_it_behaves_so(record):
    keys = press(ALICE_AUDIO, BOB_AUDIO, 1.0, 7, payload_type=101, seq=150, timestamp=16000)
    take = only(record(in_order(both(0, 1), keys, both(1.2, 1, seq=158, timestamp=8000 + 9600))))
    assert [digit["symbol"] for digit in take.manifest["digits"]] == ["7"]


def test_payload_type_101_without_sdp_is_nothing_if_it_does_not(record):
    report = record(talk(ALICE_AUDIO, BOB_AUDIO, 0, 1, payload_type=101, payload=b"\x05\x0a\x00\xa0" * 10))
    assert report.takes == ()
    assert [(s.reason, s.codec) for s in report.skipped] == [("codec", "PT 101")]


def test_a_source_that_moves_to_another_port_stays_in_its_call(record):
    """A NAT binding lost in mid-call."""
    packets = talk(ALICE_AUDIO, BOB_AUDIO, 0, 2)
    packets += talk(("10.0.0.1", 4077), BOB_AUDIO, 2, 2, seq=200, timestamp=24000)
    packets += talk(BOB_AUDIO, ALICE_AUDIO, 0, 2, code=SOFT, ssrc=0xB)
    packets += talk(BOB_AUDIO, ("10.0.0.1", 4077), 2, 2, code=SOFT, ssrc=0xB, seq=200, timestamp=24000)
    report = record(in_order(packets))
    assert [received(take)[0] for take in report.takes][:1] == [200]
    assert set(channels(report.takes[0])[0]) == {value(LOUD)}


def test_rtcp_on_the_next_port_and_on_the_same_is_no_media(record):
    reports = [
        (
            t,
            (a[0], a[1] + odd),
            (b[0], b[1] + odd),
            writer.rtcp_sender_report(0xA, START_S + t, 8000 + 8000 * t),
        )
        for t in range(4)
        for a, b in ((ALICE_AUDIO, BOB_AUDIO), (BOB_AUDIO, ALICE_AUDIO))
        for odd in (0, 1)
    ]
    report = record(in_order(both(0, 4), reports))
    assert received(only(report)) == (200, 200)
    assert report.all_good


def test_keep_alives_before_the_first_packet_do_not_hide_a_stream(record):
    before = [(n * 0.05, ALICE_AUDIO, BOB_AUDIO, b"\0" * (4 if n % 2 else 20)) for n in range(200)]
    before += [(9.99, ALICE_AUDIO, BOB_AUDIO, b"")]
    assert received(only(record(in_order(before, both(10, 1))))) == (50, 50)


def test_rtp_quoted_by_icmp_errors_does_not_count(record):
    records = []
    for at_s, source, destination, data in in_order(both(0, 1)):
        packet = writer.ip(writer.udp(data, source[1], destination[1]), source[0], destination[0])
        time_ns = START_S * 10**9 + round(at_s * 1e9)
        records.append(Record(time_ns, writer.ethernet(packet)))
        error = writer.ip(b"\x03\x03\0\0\0\0\0\0" + packet, destination[0], source[0], writer.ICMP)
        records.append(Record(time_ns + 1000, writer.ethernet(error)))
    report = record(writer.pcap(records))
    assert received(only(report)) == (50, 50)
    assert report.counts["icmp_embedded"] == 100


# ---- seen twice ----


@pytest.mark.parametrize("vlan", [None, 12])
def test_a_mirrored_port_shows_every_packet_twice(record, vlan):
    call = Call()
    records = []
    for at_s, source, destination, data in in_order(call.begin(), both(1, 2), call.end(3)):
        packet = writer.ip(writer.udp(data, source[1], destination[1]), source[0], destination[0])
        time_ns = START_S * 10**9 + round(at_s * 1e9)
        records.append(Record(time_ns, writer.ethernet(packet)))
        records.append(Record(time_ns + 20_000, writer.ethernet(packet, [] if vlan is None else [vlan])))
    report = record(writer.pcap(records))
    take = only(report)
    assert len(report.calls) == 1
    assert track(take, "incoming")["packets"]["duplicate"] == 100
    assert set(channels(take)[0][:16000]) == {value(LOUD)}
    assert report.all_good


@pytest.mark.parametrize("with_sip", [True, False])
def test_before_and_behind_a_nat_is_a_copy(record, with_sip):
    call = Call(offer=session("192.168.1.5", audio(4000)))
    inside, outside = ("192.168.1.5", 4000), ("198.51.100.7", 33333)
    packets = both(1, 2, inside, BOB_AUDIO) + [
        (t + 0.0002, {inside: outside}.get(a, a), {inside: outside}.get(b, b), data)
        for t, a, b, data in both(1, 2, inside, BOB_AUDIO)
    ]
    if with_sip:
        packets += call.begin() + call.end(4)
    report = record(in_order(packets))
    assert received(only(report)) == (100, 100)
    assert sorted((s.reason, s.packets["received"]) for s in report.skipped) == [("copy", 100)] * 2
    assert len(report.calls) == 1
    assert report.all_good


def test_calls_of_a_test_tool_with_one_ssrc_are_no_copies(record):
    """Same content, same SSRC, at nearly the same time, without signalling."""
    packets = []
    for n in range(5):
        packets += both(0.001 * n, 1, ("10.0.0.1", 4000 + 2 * n), ("10.0.0.2", 6000 + 2 * n))
    report = record(in_order(packets))
    assert [received(take) for take in report.takes] == [(50, 50)] * 5


# ---- files as they come ----


def packets_of_a_call() -> list[Packet]:
    call = Call()
    return in_order(call.begin(), both(1, 2), call.end(3.5))


@pytest.mark.parametrize("container", ["pcap", "pcap-ns", "pcapng"])
def test_gzip_makes_no_difference(record, container):
    capture = writer.capture(packets_of_a_call(), container=container)
    plain, packed = record(capture, out="plain"), record(gzip.compress(capture), out="packed")
    two = record(gzip.compress(capture[:5000]) + gzip.compress(capture[5000:]) + bytes(512), out="two")
    assert only(plain).manifest["sha256"] == only(packed).manifest["sha256"] == only(two).manifest["sha256"]
    assert packed.all_good


def test_a_capture_cut_short_gives_what_it_holds_and_says_so(record):
    capture = writer.capture(packets_of_a_call())
    report = record(capture[: len(capture) // 2])
    assert report.truncated
    assert only(report).manifest["degraded"] == {"capture_truncated": True}
    assert 40 < received(only(report))[0] < 60
    assert not report.all_good


@pytest.mark.parametrize("damage", ["torn", "broken"])
def test_a_damaged_gzip_file_gives_what_comes_before_the_damage(record, damage):
    rng = random.Random(4)
    packets = [
        (t, a, b, data[:12] + rng.randbytes(160) if a[1] != 5060 else data)
        for t, a, b, data in in_order(Call().begin(), both(1, 40))
    ]
    packed = gzip.compress(writer.capture(packets))
    if damage == "torn":
        packed = packed[: len(packed) * 3 // 4]
    else:
        at = len(packed) * 3 // 4
        packed = packed[:at] + bytes(64) + packed[at + 64 :]
    report = record(packed)
    assert report.truncated
    assert 1000 < received(only(report))[0] < 1800


def test_a_torn_gzip_file_says_so_even_at_the_edge_of_a_record(record):
    capture = writer.capture(packets_of_a_call())
    packed = gzip.compress(capture)[:-8]  # all of the data, no checksum
    report = record(packed)
    assert received(only(report)) == (100, 100)
    assert report.truncated
    assert not report.all_good


def test_packets_cut_by_the_snap_length_are_counted(record):
    records = [
        Record(
            START_S * 10**9 + round(t * 1e9),
            writer.ethernet(writer.ip(writer.udp(data, a[1], b[1]), a[0], b[0])),
        ).cut(96)
        for t, a, b, data in in_order(both(0, 1))
    ]
    report = record(writer.pcap(records, snap_bytes=96))
    assert only(report).manifest["degraded"]["cut_packets"] == 100
    assert not report.all_good


def test_frames_out_of_order_in_the_file_make_no_difference(record):
    """Several capture queues, merged badly: up to 100 ms out of order."""
    packets = packets_of_a_call()
    rng = random.Random(7)
    shuffled = sorted(packets, key=lambda packet: packet[0] + rng.random() * 0.1)
    assert shuffled != packets
    tidy, untidy = record(packets, out="tidy"), record(shuffled, out="untidy")
    assert received(only(untidy)) == (100, 100)
    assert only(untidy).manifest["sha256"] == only(tidy).manifest["sha256"]


def test_packets_with_the_same_time_are_in_order_of_their_numbers(record):
    """A capture whose clock ticks once in 100 ms."""
    packets = [(int(t * 10) / 10, *rest) for t, *rest in in_order(both(1, 2))]
    take = only(record(packets))
    assert received(take) == (100, 100)
    assert take.manifest["frames"] == pytest.approx(16000, abs=1600)
    assert take.manifest["degraded"] is False


def test_a_clock_that_is_set_back_harms_nothing(record):
    packets = in_order(both(100, 2)) + in_order(both(40, 2, seq=200, timestamp=24000))
    report = record(packets)
    assert sum(sum(received(take)) for take in report.takes) == 400
    assert sum(take.manifest["duration"] for take in report.takes) < 200


@pytest.mark.parametrize("at", [0, 2**63 // 10**9 - 400, -(2**63) // 10**9 + 400, 2**32])
def test_absurd_times_are_times_like_others(record, at):
    packets = [
        Record(
            at * 10**9 + round(t * 1e9),
            writer.ethernet(writer.ip(writer.udp(data, a[1], b[1]), a[0], b[0])),
        )
        for t, a, b, data in packets_of_a_call()
    ]
    offset = [writer.Interface(resolution=9, offset_s=at - 10)]
    report = record(writer.pcapng(packets, offset))
    take = only(report)
    assert received(take) == (100, 100)
    assert take.manifest["duration"] == pytest.approx(2.5, abs=0.001)
    year = int(take.manifest["started_at"][:4])
    assert abs(year - (1970 + at / 31556952)) <= 1


@pytest.mark.parametrize("at", [2**63 // 10**9 - 12, 2**63 // 10**9 - 3, -(2**63) // 10**9 + 1])
def test_at_the_ends_of_time_nothing_breaks(record, at):
    packets = [
        Record(
            at * 10**9 + round(t * 1e9),
            writer.ethernet(writer.ip(writer.udp(data, a[1], b[1]), a[0], b[0])),
        )
        for t, a, b, data in packets_of_a_call()
    ]
    report = record(writer.pcapng(packets, [writer.Interface(resolution=9, offset_s=at - 10)]))
    assert sum(sum(received(take)) for take in report.takes) <= 200
    assert sum(take.manifest["duration"] for take in report.takes) < 10 + 2 * capture_plan.MAX_PAUSE_NS / 1e9


@pytest.mark.parametrize("with_sip", [True, False])
@pytest.mark.parametrize("absurd_s", [-START_S, 7e9])
def test_one_packet_with_an_absurd_time_does_not_spoil_a_call(record, absurd_s, with_sip):
    call = Call()
    packets = in_order(call.begin() if with_sip else [], both(1, 10), call.end(11) if with_sip else [])
    middle = next(i for i, packet in enumerate(packets) if packet[0] > 5 and packet[1] == ALICE_AUDIO)
    packets[middle] = (absurd_s, *packets[middle][1:])
    report = record(writer.capture(packets, container="pcapng"))
    takes = [take for take in report.takes if sum(received(take)) > 100]
    assert sum(sum(received(take)) for take in takes) >= 990
    assert sum(take.manifest["duration"] for take in report.takes) < 30


def test_a_packet_of_another_flow_with_an_absurd_time_ends_no_call(record, monkeypatch):
    monkeypatch.setattr(capture_survey, "CHUNK_BYTES", 4096)
    packets = in_order(both(0, 10))
    other = talk(("10.9.9.9", 1000), ("10.9.9.8", 1000), 7e9, 0.1)
    report = record(writer.capture(packets[:300] + other + packets[300:], container="pcapng"))
    assert received(report.takes[0]) == (500, 500)


def test_the_result_does_not_depend_on_how_the_file_is_read(record, monkeypatch, tmp_path):
    rng = random.Random(11)
    call = Call(
        offer=session("10.0.0.1", audio(4000, (PCMU, EVENTS))),
        answer=session("10.0.0.2", audio(6000, (PCMU, EVENTS))),
    )
    packets = call.begin() + call.end(9)
    for n, (t, a, b, data) in enumerate(both(1, 7)):
        if rng.random() > 0.05:
            packets.append((t + rng.random() * 0.03, a, b, data[:12] + rng.randbytes(160)))
        if n % 40 == 0:
            packets.append((t + 0.05, a, b, data))
    packets += press(ALICE_AUDIO, BOB_AUDIO, 8.1, 3, payload_type=101, seq=450, timestamp=64000)
    packets += both(0.5, 6, ("10.5.0.1", 100), ("10.5.0.2", 100), ssrc=5)
    capture = writer.capture(in_order(packets))

    def made(name: str) -> dict[str, bytes]:
        record(capture, out=name)
        root = tmp_path / name
        return {
            str(path.relative_to(root)): path.read_bytes().replace(str(root).encode(), b"")
            for path in root.rglob("*")
            if path.is_file()
        }

    whole = made("whole")
    assert len(whole) == 4
    for chunk_bytes in (97, 1009, 40_000):
        monkeypatch.setattr(capture_survey, "CHUNK_BYTES", chunk_bytes)
        assert made(f"in-{chunk_bytes}") == whole


def test_a_capture_can_be_recorded_again(record, tmp_path):
    first = record(packets_of_a_call())
    names = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    before = [path.read_bytes() for path in names]
    second = record(packets_of_a_call())
    assert only(first).manifest == only(second).manifest
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == names
    assert [path.read_bytes() for path in names] == before


def test_the_report_can_be_pickled(record):
    report = record(relayed())
    assert pickle.loads(pickle.dumps(report)) == report


# ---- layouts and events ----


@pytest.mark.parametrize("layout", list(Layout))
def test_layouts(record, layout):
    take = only(record(packets_of_a_call(), StartRecording(layout=layout)))
    audio_of = channels(take)
    body = audio_of[:, 8:15000]
    expected = {
        Layout.STEREO: [value(LOUD), value(SOFT)],
        Layout.INCOMING: [value(LOUD)],
        Layout.OUTGOING: [value(SOFT)],
        Layout.MIX: [max(-32768, min(32767, value(LOUD) + value(SOFT)))],
    }[layout]
    assert [set(row) for row in body] == [{one} for one in expected]


def test_every_recording_that_began_ends_and_its_file_is_there_by_then(record, tmp_path):
    packets = in_order(packets_of_a_call(), both(1, 1, ("10.5.0.1", 100), ("10.5.0.2", 100), seq=7))
    events = []

    def tell(event):
        if isinstance(event, RecordingFinished):
            assert (tmp_path / "out" / event.key).exists()
        events.append(event)

    record(packets, on_event=tell)
    started = [event.recording_id for event in events if isinstance(event, RecordingStarted)]
    finished = [event.recording_id for event in events if isinstance(event, RecordingFinished)]
    assert len(started) == len(set(started)) == 2
    assert sorted(started) == sorted(finished)


def test_progress_ends_at_the_end(record):
    seen = []
    record(packets_of_a_call(), on_progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] > 0


# ---- what goes wrong ----


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"RIFF" + bytes(100), b"\x1f\x8b", gzip.compress(b"no capture")]
)
def test_what_is_no_capture_is_refused(record, content):
    with pytest.raises(CaptureError):
        record(content)


def test_a_folder_as_capture_is_refused(tmp_path):
    with pytest.raises(OSError, match="directory"):
        record_capture(tmp_path, RecordOptions(out=tmp_path))


def test_a_pipe_as_capture_is_refused(tmp_path):
    """It could be read only once, and opening it would wait for somebody to write."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CaptureError, match="read twice"):
        record_capture(tmp_path / "pipe", RecordOptions(out=tmp_path))


def test_a_missing_capture_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        record_capture(tmp_path / "nowhere", RecordOptions(out=tmp_path))


def test_a_destination_that_cannot_be_written_is_reported(record, tmp_path):
    (tmp_path / "out").write_bytes(b"in the way")
    events = []
    report = record(packets_of_a_call(), on_event=events.append)
    assert report.takes == ()
    assert len(report.failures) == 1
    assert [call.recorded for call in report.calls] == [False]
    assert report.calls[0].note
    assert [event.end_reason for event in events if isinstance(event, RecordingFinished)] == ["failed"]


class FullDisk:
    """Lets `room` bytes through to each file whose name has `name` in it."""

    def __init__(self, monkeypatch, name: str, room: int) -> None:
        original = Path.open
        disk = self

        def opened(path, mode="r", *arguments, **options):
            file = original(path, mode, *arguments, **options)
            if name not in path.name or (mode[0] == "r" and "+" not in mode):
                return file
            return disk.limited(file, room)

        monkeypatch.setattr(Path, "open", opened)

    @staticmethod
    def limited(file, room):
        class Limited:
            def __getattr__(self, attribute):
                return getattr(file, attribute)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def write(self, data):
                if file.tell() + len(data) > room:
                    raise OSError(28, "No space left on device")
                return file.write(data)

        return Limited()


@pytest.mark.parametrize("room", [0, 1000, 40_000])
def test_a_full_disk_spoils_one_recording_and_not_the_others(record, monkeypatch, tmp_path, room):
    packets = packets_of_a_call() + both(1, 2, ("10.5.0.1", 100), ("10.5.0.2", 100), seq=7)
    FullDisk(monkeypatch, "call-1", room)
    report = record(in_order(packets))
    assert len(report.failures) == 1
    assert "No space left" in report.failures[0]
    assert "10.5.0.1" in only(report).manifest["call_id"]
    assert {call.call_id: call.recorded for call in report.calls}["call-1@example.org"] is False
    assert not report.all_good


def test_a_full_disk_while_other_files_are_open_hits_the_right_recording(record, monkeypatch):
    """With more calls than open files, a file is closed on behalf of another."""
    monkeypatch.setattr(captures, "MAX_OPEN_FILES", 2)
    packets = []
    for n in range(6):
        packets += both(0.001 * n, 5, (f"10.5.0.{n + 1}", 100), ("10.6.0.1", 100 + n))
    original = folder.PartFile.suspend
    full = []

    def suspend(part):
        if "10.5.0.3" in part.key and not full and part._file is not None:
            full.append(part.key)
            part._file.close()
            part._file = open("/dev/full", "wb")  # noqa: SIM115, PTH123
            part._file.write(b"x" * 100)
        original(part)

    monkeypatch.setattr(folder.PartFile, "suspend", suspend)
    monkeypatch.setattr(capture_survey, "CHUNK_BYTES", 65536)
    report = record(in_order(packets))
    assert len(full) == 1
    assert len(report.failures) == 1
    assert len(report.takes) == 5
    assert not any("10.5.0.3" in take.manifest["call_id"] for take in report.takes)
    assert [received(take) for take in report.takes] == [(250, 250)] * 5


def test_a_manifest_that_cannot_be_written_is_a_failure(record, monkeypatch):
    FullDisk(monkeypatch, ".json", 10)
    report = record(packets_of_a_call())
    assert report.takes == ()
    assert len(report.failures) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, BrokenPipeError, RuntimeError])
def test_an_interrupt_leaves_no_file_half_made(tmp_path, error):
    path = tmp_path / "test.pcap"
    path.write_bytes(writer.capture(in_order(both(0, 30))))

    def interrupt(done, total):
        if done > total // 2:
            assert done == total or list(tmp_path.rglob("*.part"))
            raise error

    capture_bytes = path.stat().st_size // 20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture_survey, "CHUNK_BYTES", capture_bytes)
        with pytest.raises(error):
            record_capture(path, RecordOptions(out=tmp_path / "out"), on_progress=interrupt)
    assert not list(tmp_path.rglob("*.part"))
    assert not list(tmp_path.rglob("*.wav"))


# ---- limits ----


def test_noise_that_looks_like_rtp_makes_room_for_real_streams(record, monkeypatch):
    """DNS answers with random ids: one in four begins like RTP."""
    monkeypatch.setattr(capture_survey, "MAX_SURVEYS", 64)
    noise = [
        (n * 0.01, ("10.9.0.1", 1024 + n), ("10.9.0.2", 53), b"\x80\x81" + bytes(30)) for n in range(3000)
    ]
    report = record(in_order(noise, both(24, 9)))
    assert min(received(only(report))) > 300
    assert report.counts["streams_dropped"] > 0  # at this rate there was no room for all of it
    assert not report.all_good


def test_flows_that_are_neither_sip_nor_rtp_are_given_up(record):
    noise = [(n * 0.001, ("10.9.0.1", 443), ("10.9.0.2", 50_000), b"\x41" + bytes(50)) for n in range(2000)]
    report = record(in_order(noise, both(0, 1)))
    assert received(only(report)) == (50, 50)


def test_thousands_of_calls_on_the_same_ports_are_planned_in_no_time(tmp_path):
    """A load test: every call on one pair of ports, in one run of RTP."""
    calls = 4000
    packets = []
    for n in range(calls):
        call = Call(Dialog(call_id=f"c{n}", caller_tag=f"a{n}", callee_tag=f"b{n}"))
        packets += call.begin(n, n + 0.1)[::2] + talk(ALICE_AUDIO, BOB_AUDIO, n + 0.2, 0.04, seq=2 * n)
        packets += call.end(n + 0.5)[:1]
    path = tmp_path / "load.pcap"
    path.write_bytes(writer.capture(packets))
    survey = capture_survey.CaptureSurvey()
    survey.read(path, lambda done: None)
    started = time.process_time()
    plan = capture_plan.plan_calls(survey)
    assert time.process_time() - started < 2  # 0.2 s; the square of it would be a minute
    assert [call.call_id for call in plan.calls] == [f"c{n}" for n in range(calls)]
    routes = [route for call in plan.calls for route in call.routes]
    assert len(routes) == calls
    assert all(one.to_ns < next_one.from_ns for one, next_one in itertools.pairwise(routes))


def test_a_descriptor_for_each_call_is_not_needed(record, monkeypatch):
    monkeypatch.setattr(captures, "MAX_OPEN_FILES", 3)
    packets = []
    for n in range(10):
        packets += both(0.001 * n, 3, (f"10.5.0.{n + 1}", 100), ("10.6.0.1", 100 + n), code=0x80 + n)
    monkeypatch.setattr(capture_survey, "CHUNK_BYTES", 30_000)
    report = record(in_order(packets))
    assert [received(take) for take in report.takes] == [(150, 150)] * 10
    for take in report.takes:
        assert np.unique(channels(take)).size == 1


PEAK_PROGRAM = """
import sys
from pathlib import Path
from callreel.captures import RecordOptions, record_capture
report = record_capture(Path(sys.argv[1]), RecordOptions(out=Path(sys.argv[2])))
# not getrusage: its maximum begins with that of the process that started this one
peak_kb = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak_kb) / 1024, len(report.takes))
"""


def write_long_capture(path: Path, mebibytes: int, calls: int) -> None:
    """Calls all the time, written without keeping them."""
    frames = []
    for n in range(calls):
        a, b = (f"10.1.{n // 200}.{n % 200 + 1}", 4000), (f"10.2.{n // 200}.{n % 200 + 1}", 6000)
        for source, destination in ((a, b), (b, a)):
            data = rtp_packet(bytes([0x80 + n % 64]) * 160, ssrc=2 * n + (source == b))
            frame = writer.ethernet(
                writer.ip(writer.udp(data, source[1], destination[1]), source[0], destination[0])
            )
            frames.append(np.frombuffer(bytes(16) + frame, np.uint8))
    tick = np.stack(frames)
    rows, size = tick.shape
    written = n = 0
    with path.open("wb") as file:
        file.write(writer.pcap([]))
        while written < mebibytes << 20:
            time_us = n * 20_000 + np.arange(rows)
            tick[:, 0:4] = (START_S + time_us // 1_000_000).astype("<u4").view(np.uint8).reshape(rows, 4)
            tick[:, 4:8] = (time_us % 1_000_000).astype("<u4").view(np.uint8).reshape(rows, 4)
            tick[:, 8:12] = tick[:, 12:16] = np.frombuffer(np.uint32(size - 16).tobytes(), np.uint8)
            rtp = 16 + 42
            tick[:, rtp + 2 : rtp + 4] = np.frombuffer(np.array(n & 0xFFFF, ">u2").tobytes(), np.uint8)
            tick[:, rtp + 4 : rtp + 8] = np.frombuffer(np.array(160 * n, ">u4").tobytes(), np.uint8)
            file.write(tick.tobytes())
            written += tick.size
            n += 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
@pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer keeps freed memory for a while"
)
def test_memory_does_not_grow_with_the_capture(tmp_path):
    peaks = []
    for mebibytes in (10, 100):
        path = tmp_path / f"{mebibytes}.pcap"
        write_long_capture(path, mebibytes, calls=8)
        out = subprocess.run(
            [sys.executable, "-c", PEAK_PROGRAM, str(path), str(tmp_path / "out")],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        peak, takes = out.stdout.split()
        assert int(takes) == 8
        peaks.append(float(peak))
        path.unlink()
    assert peaks[1] < 100
    assert peaks[1] - peaks[0] < 10


# ---- anything at all ----


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 400))
def test_a_damaged_capture_never_raises_anything_else(tmp_path_factory, rng, flips):
    capture = bytearray(writer.capture(relayed()[:120], container=rng.choice(["pcap", "pcapng"])))
    for _ in range(flips):
        capture[rng.randrange(24, len(capture))] = rng.randrange(256)
    folder_path = tmp_path_factory.mktemp("fuzz")
    path = folder_path / "fuzz.pcap"
    path.write_bytes(capture[: rng.randrange(30, len(capture) + 1)])
    try:
        report = record_capture(path, RecordOptions(out=folder_path / "out"))
    except CaptureError:
        return
    assert isinstance(report.all_good, bool)
    assert not list(folder_path.rglob("*.part"))
    for take in report.takes:
        assert take.path.exists()


def test_replacing_a_field_of_the_options_is_enough_for_another_format(record):
    action = StartRecording(format="mp3")
    take = only(record(packets_of_a_call(), action))
    assert take.path.suffix == ".mp3"
    assert take.manifest["format"] == "mp3"
