"""Real captures and what others found in them: a test for each file of pcap/, with its manifest's figures.

The figures are those of tshark, capinfos and the captures' authors (`data/MANIFEST.md` quotes them); where
a row has no figure, it was counted with tshark.
"""

import os
import shutil
import struct
import subprocess
import wave
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import av
import miniaudio
import numpy as np
import pytest
import soundfile

from callreel.actions import StartRecording
from callreel.captures import CaptureReport, RecordOptions, record_capture
from callreel.kernels import g711


@dataclass(frozen=True)
class Track:
    """A track of a take."""

    codec: str | None = None
    ssrc: int | None = None
    received: int = 0
    lost: int = 0
    duplicate: int = 0
    undecoded: int = 0
    audio: int | None = None
    """Samples of received audio: what is neither silence nor concealment."""


SILENT = Track()


@dataclass(frozen=True)
class Take:
    incoming: Track
    outgoing: Track = SILENT
    frames: int | None = None
    digits: str = ""
    at: tuple[int, ...] = ()
    """Of the digits, samples: RTP timestamp less that of the track's first packet, plus `starts_after`."""
    durations: tuple[int, ...] = ()
    starts_after: int = 0
    degraded: bool | dict = False


@dataclass(frozen=True)
class Capture:
    frames: int
    """Packet records, by capinfos."""
    format: str = "pcap"
    calls: tuple[tuple[str, str, str | None, bool], ...] = ()
    """Call-ID or "" without SIP, signalling, end cause, recorded."""
    takes: tuple[Take, ...] = ()
    skipped: tuple[tuple[str, str, int, int, int, int], ...] = ()
    """Reason, codec, received, lost, duplicate, reordered."""
    sip: int = 0
    truncated: bool = False
    good: bool = False
    counts: dict[str, int] = field(default_factory=dict)


NO_SIP = ("", "none", None, True)
NO_SIP_UNDECODED = ("", "none", None, False)


def digit(symbol: str) -> Capture:
    """sip-tester's single keys: no audio; 10 packets, of which the last three are one, sent three times."""
    return Capture(
        10,
        calls=(NO_SIP,),
        takes=(
            Take(
                Track(None, 0x0E05384E, 10, duplicate=2),
                frames=2240,
                digits=symbol,
                at=(0,),
                durations=(2240,),
            ),
        ),
        good=True,
    )


def block_file(frames: int, udp: int | None = None, snapped: int = 0) -> Capture:
    """A pcapng conformance file: no call in it."""
    return Capture(frames, "pcapng", counts={"udp": frames if udp is None else udp, "snapped": snapped})


CAPTURES = {
    # ---- calls ----
    "calls/baresip-pcmu-47hash.pcap": Capture(
        1365,
        calls=(("980bd020f3276a5c", "answered", "bye", True),),
        takes=(
            Take(
                # 700 packets: 651 of audio, 49 of events; 13.0 s and the 5 samples by which left begins later
                Track("PCMU", 0xE562C30D, 700, audio=104_160),
                Track("PCMU", 0x1456F6FB, 651, audio=104_160),
                frames=104_165,
                digits="47#",
                at=(80601 - 48441, 88761 - 48441, 96761 - 48441),
                durations=(2240, 2080, 2080),
                starts_after=5,
            ),
        ),
        sip=6,
        good=True,
    ),
    "calls/sipnab-codec-negotiation.pcap": Capture(
        614,
        calls=(("1-3685341@127.0.0.1", "answered", "bye", True),),
        takes=(
            Take(
                # 151 packets of PCMU, then 151 of G.722, each way, with the same SSRC both ways
                Track("PCMU+G722", 0x0E330AF3, 302, undecoded=151, audio=151 * 160),
                Track("PCMU+G722", 0x0E330AF3, 302, undecoded=151, audio=151 * 160),
                degraded={"undecoded_packets": 302},
            ),
        ),
        skipped=(("codec", "G722", 151, 0, 0, 0),) * 2,
        sip=10,
    ),
    "calls/wireshark-sip-rtp.pcapng": Capture(
        562,
        "pcapng",
        calls=(
            ("12013223@200.57.7.195", "answered", None, True),
            ("12015624@200.57.7.195", "unanswered", None, False),
        ),
        # One direction only, 87,680 samples, with a pause of 5.84 s; the callee sends
        takes=(Take(SILENT, Track("PCMA", 0xD2BD4E3E, 548, audio=87_680)),),
        sip=14,
        good=True,
    ),
    "calls/trex-sip_call_g729.pcap": Capture(
        1651,
        # TRex rewrites addresses but not SDP: the media is not where the signalling says
        calls=(("1d71c3b016a2800@spirent.com", "answered", "bye", False), NO_SIP_UNDECODED),
        skipped=(("codec", "G729", 823, 0, 0, 7), ("codec", "G729", 821, 0, 0, 7)),
        sip=7,
    ),
    "calls/sngrep-aaa.pcap": Capture(
        691,
        calls=(
            ("105090259-446faf7a@192.168.1.2", "unanswered", "cancel", False),
            ("85216695-42dcdb1d@192.168.1.2", "unanswered", "rejected 403", False),
            ("24487391-449bf2a0@192.168.1.2", "unanswered", "rejected 403", False),
            ("11894297-4432a9f8@192.168.1.2", "unanswered", "rejected 480", True),
        ),
        # 9 packets between 183 and 480
        takes=(Take(Track("PCMA", 0x3796CB71, 9, audio=9 * 160), frames=9 * 160),),
        sip=81,
        good=True,
    ),
    # ---- events ----
    "events/dtmf_2833_0.pcap": digit("0"),
    "events/dtmf_2833_1.pcap": digit("1"),
    "events/dtmf_2833_2.pcap": digit("2"),
    "events/dtmf_2833_3.pcap": digit("3"),
    "events/dtmf_2833_4.pcap": digit("4"),
    "events/dtmf_2833_star.pcap": digit("*"),
    "events/cisco-spa-525G2-zendesk34432.pcap": Capture(
        632,
        calls=(NO_SIP,),
        takes=(
            Take(
                Track("PCMU", 0xA6EDAC97, 632),
                digits="6688#6688#",
                at=tuple(
                    72_000_000 + timestamp - 72_091_310
                    for timestamp in (
                        111_310,
                        114_590,
                        118_110,
                        121_310,
                        123_310,
                        148_110,
                        151_070,
                        154_190,
                        158_750,
                        161_310,
                    )
                ),
                durations=(960, 1120, 1120, 800, 960, 800, 800, 720, 640, 960),
            ),
        ),
        good=True,
    ),
    "events/restcomm-dtmf-oob-two-hash.cap": Capture(
        501,
        calls=(NO_SIP,),
        takes=(
            Take(
                # 429 packets of audio, events beside them all the time
                Track("PCMU", 0x3E6E7CB5, 501, audio=429 * 160),
                frames=429 * 160,
                digits="##",
                at=(163_760 - 156_160, 219_120 - 156_160),
                durations=(2520, 2680),
            ),
        ),
        good=True,
    ),
    "events/dtmf_rfc2833_4_digits_slow.pcap": Capture(
        48,
        calls=(NO_SIP,),
        # The audio between the keys is not in the file: its sequence numbers are missing (118 of them)
        takes=(
            Take(
                Track(None, 0x3B294DA3, 48, lost=118),
                digits="1234",
                at=(0, 6400, 14_720, 23_200),
                durations=(1280,) * 4,
                degraded={"lost_packets": 118},
            ),
        ),
    ),
    "events/dtmf_rfc2833_2_digit_pairs.pcap": Capture(
        48,
        calls=(NO_SIP,),
        takes=(
            Take(
                Track(None, 0x49E96B63, 48, lost=94),
                digits="1122",
                at=(0, 5440, 12_960, 19_360),
                durations=(1280,) * 4,
                degraded={"lost_packets": 94},
            ),
        ),
    ),
    "events/asterisk-ulaw-2013785496.pcap": Capture(
        974,
        calls=(NO_SIP,),
        # The keys are heard in the audio too (multimon-ng hears eight of them): each is one digit
        takes=(
            Take(
                Track("PCMU", 0x34D01D16, 974),
                digits="2013785496",
                at=tuple(
                    timestamp - 160
                    for timestamp in (
                        46_720,
                        52_960,
                        58_880,
                        72_960,
                        80_160,
                        86_720,
                        96_000,
                        104_960,
                        112_480,
                        117_280,
                    )
                ),
                durations=(1600,) * 10,
            ),
        ),
        good=True,
    ),
    # ---- g711 ----
    "g711/sipp-g711a.pcap": Capture(
        236,
        calls=(NO_SIP,),
        takes=(Take(Track("PCMA", 0xDEE0EE8F, 236, audio=56_640), frames=56_640),),
        good=True,
    ),
    "g711/rtpproxy-rtcp.o.pcap": Capture(
        230,
        calls=(NO_SIP,),
        # one packet of 30 ms lost; the 230th datagram is RTCP
        takes=(Take(Track("PCMA", 0xF3CB2001, 229, lost=1, audio=229 * 240), frames=230 * 240),),
        good=True,
    ),
    "g711/rtpproxy-call1_ulaw.pcap": Capture(
        1184,
        # Two streams between four addresses: nothing says that they are one call
        calls=(NO_SIP, NO_SIP),
        takes=(
            Take(Track("PCMU", 0xD2C7ADA6, 593, duplicate=1)),
            Take(Track("PCMU", 0xDB0DB55B, 591)),
        ),
        good=True,
    ),
    "g711/rtpproxy-call1_ulaw-leg.pcap": Capture(
        1184,
        calls=(NO_SIP,),
        takes=(Take(Track("PCMU", 0xD2C7ADA6, 593, duplicate=1), Track("PCMU", 0xDB0DB55B, 591)),),
        good=True,
    ),
    "g711/asterisk-40msalaw.pcap": Capture(
        826,
        calls=(NO_SIP,),
        takes=(Take(Track("PCMA", 0xD500CA81, 826, audio=264_320), frames=264_320),),
        good=True,
    ),
    "g711/freeswitch-milliwatt.pcmu.rtp.pcap": Capture(
        232,
        calls=(NO_SIP,),
        takes=(Take(Track("PCMU", 0x61DCF074, 232, audio=37_120)),),
        good=True,
    ),
    "g711/pcmu_8k_no_jitter.pcap": Capture(
        2528,
        "pcapng",
        calls=(NO_SIP,),
        takes=(Take(Track("PCMU", 0x00DD5028, 2524, audio=403_840), frames=403_840),),
        counts={"icmp_embedded": 4, "udp": 2524},
        good=True,
    ),
    # ---- quirks ----
    "quirks/rtpproxy-lost.a.pcap": Capture(
        244, calls=(NO_SIP_UNDECODED,), skipped=(("codec", "G729", 244, 321, 0, 0),)
    ),
    "quirks/rtpproxy-lost.o.pcap": Capture(
        246, calls=(NO_SIP_UNDECODED,), skipped=(("codec", "G729", 246, 0, 0, 0),)
    ),
    "quirks/rtpproxy-dups.a.pcap": Capture(
        384, calls=(NO_SIP_UNDECODED,), skipped=(("codec", "G729", 384, 0, 1, 0),)
    ),
    "quirks/rtpproxy-DLT_NULL.pcap": Capture(
        600,
        # the IPv4 source moves from port 12002 to 12004 in mid-stream: 51 + 249 packets, one call
        calls=(NO_SIP_UNDECODED, NO_SIP_UNDECODED),
        skipped=(
            ("codec", "GSM", 51, 0, 0, 0),
            ("codec", "GSM", 249, 0, 0, 0),
            ("codec", "GSM", 300, 0, 0, 0),
        ),
    ),
    "quirks/rtp.pcapng": Capture(
        112,
        "pcapng",
        calls=(NO_SIP_UNDECODED,) * 3,
        skipped=(
            ("codec", "H263", 15, 0, 0, 0),
            ("codec", "PT 120", 7, 0, 0, 0),
            ("codec", "PT 101", 12, 0, 0, 0),  # no telephone events
            ("codec", "PT 120", 6, 0, 0, 0),
            ("codec", "PT 111", 29, 0, 0, 0),
        ),
    ),
    "quirks/false_positives.pcapng": Capture(
        120,
        "pcapng",
        calls=(NO_SIP, NO_SIP_UNDECODED, NO_SIP, NO_SIP_UNDECODED),
        takes=(
            Take(Track("PCMA", 0x34127856, 15, audio=2400), Track("PCMA", 0x429FD390, 15, audio=2400)),
            Take(Track("PCMA", 0x34127856, 18, audio=2880), Track("PCMA", 0xB0AFE132, 12, audio=1920)),
        ),
        skipped=(
            ("codec", "PT 102", 22, 0, 0, 0),
            ("codec", "PT 102", 8, 0, 0, 0),
            ("codec", "PT 118", 20, 0, 0, 0),
        ),
    ),
    "quirks/rtcp_multiple_pkts_in_the_same_datagram.pcap": Capture(5),
    "quirks/rtp-534late-24loss-7000total.pcapng": Capture(
        7108, "pcapng", calls=(NO_SIP_UNDECODED,), skipped=(("codec", "PT 124", 7108, 24, 0, 30),)
    ),
    "quirks/asterisk-crash-27382.pcap": Capture(
        276,
        calls=(NO_SIP,),
        takes=(Take(Track("PCMU", 0x6A1B26D7, 274, audio=274 * 160), frames=274 * 160),),
        good=True,
    ),
    "quirks/rtp-seg-fault-1.pcapng": Capture(1, "pcapng"),
    # ---- sip ----
    "sip/ipv6frag.pcap": Capture(
        34,
        calls=(("71846-1647924829-397430@fd17:625c:f037:2:a00:27ff:feb9:1521", "answered", "bye", False),),
        sip=32,
        counts={"fragments": 4, "reassembled": 2},
    ),
    "sip/sdp.pcap": Capture(2, calls=(("105090259-446faf7a@192.168.1.2", "answered", None, False),), sip=2),
    "sip/sip_compact_form.pcap": Capture(
        1, calls=(("105090259-446faf7a@192.168.1.2", "unanswered", None, False),), sip=1
    ),
    "sip/sip-tcp.pcap": Capture(11, sip=2),
    "sip/sip-body-large.pcap": Capture(
        16, calls=(("test123@attacker.com", "unanswered", None, False),), sip=2
    ),
    "sip/invalid-content-length.pcap": Capture(
        2, calls=(("a84b4c76e66710@10.0.0.1", "answered", None, False),), sip=2
    ),
    "sip/sip_reqs.pcap": Capture(
        4,
        calls=(
            ("12013223@200.57.7.195", "unanswered", None, False),
            ("2091060b-146f-e011-809a-0019cb53db77@admind-desktop", "unknown", "cancel", False),
            ("1-4247@10.0.2.20", "unknown", "bye", False),
        ),
        sip=4,
    ),
    "sip/sip_hello.pcapng": Capture(30, "pcapng", sip=8),
    # ---- container: nothing to record ----
    "container/tcp-handshake-nano.pcap": Capture(3, counts={"tcp": 3}),
    "container/unaligned-nfs-1.pcap": Capture(1, counts={"tcp": 1}),
    "container/isup.pcap": Capture(6, counts={"other": 6}),
    "container/wireshark-trunc.pcap": Capture(47, truncated=True),
    "container/wireshark-empty.pcap": Capture(0),
    "container/wireshark-many_interfaces.1.pcapng": Capture(64, "pcapng"),
    "container/zeek-q-in-q.pcap": Capture(5),
    "container/zeek-ip4-trunc.pcap": Capture(1),
    "container/zeek-udp-truncated-oob.pcap": Capture(1, counts={"udp": 1, "snapped": 1}),
    "container/pcpp-frag_with_padding.pcap": Capture(8, counts={"fragments": 8, "reassembled": 1}),
    "container/pcpp-VlanPackets.pcap": Capture(26),
    "container/pcapng-le/test001.pcapng": block_file(4),
    "container/pcapng-le/test002.pcapng": block_file(0),
    "container/pcapng-le/test003.pcapng": block_file(0),
    "container/pcapng-le/test004.pcapng": block_file(4, snapped=4),
    "container/pcapng-le/test005.pcapng": block_file(4, snapped=4),
    "container/pcapng-le/test006.pcapng": block_file(5, snapped=4),
    "container/pcapng-le/test007.pcapng": block_file(1, snapped=1),
    "container/pcapng-le/test008.pcapng": block_file(4, snapped=4),
    "container/pcapng-le/test009.pcapng": block_file(2),
    "container/pcapng-le/test010.pcapng": block_file(4),
    "container/pcapng-le/test011.pcapng": block_file(4),
    "container/pcapng-le/test012.pcapng": block_file(4, snapped=2),
    "container/pcapng-le/test013.pcapng": block_file(0),
    "container/pcapng-le/test014.pcapng": block_file(0),
    "container/pcapng-le/test015.pcapng": block_file(0),
    "container/pcapng-le/test016.pcapng": block_file(4),
    "container/pcapng-le/test017.pcapng": block_file(0),
    "container/pcapng-le/test018.pcapng": block_file(4),
}

RECORDED = [name for name, expected in CAPTURES.items() if expected.takes]


def record(path: Path, out: Path, audio_format: str = "wav") -> CaptureReport:
    return record_capture(path, RecordOptions(out=out, action=StartRecording(format=audio_format)))


def test_every_capture_of_the_collection_is_named_here():
    if "CALLREEL_TEST_DATA" not in os.environ:
        pytest.skip("set CALLREEL_TEST_DATA to the folder of the whole collection")
    root = Path(os.environ["CALLREEL_TEST_DATA"]) / "pcap"
    assert {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} == set(CAPTURES)


@pytest.mark.parametrize("name", CAPTURES)
def test_capture(name, test_data, tmp_path):
    expected = CAPTURES[name]
    report = record(test_data(f"pcap/{name}"), tmp_path)
    assert (report.format, report.frames, report.truncated) == (
        expected.format,
        expected.frames,
        expected.truncated,
    )
    assert report.counts["sip_messages"] == expected.sip
    assert {count: report.counts[count] for count in expected.counts} == expected.counts
    assert [
        (call.call_id if call.signalling != "none" else "", call.signalling, call.end_cause, call.recorded)
        for call in report.calls
    ] == list(expected.calls)
    skipped = [
        (s.reason, s.codec, *(s.packets[n] for n in ("received", "lost", "duplicate", "reordered")))
        for s in report.skipped
    ]
    assert Counter(skipped) == Counter(expected.skipped)
    assert report.failures == ()
    assert report.all_good is expected.good
    assert len(report.takes) == len(expected.takes)
    for take, row in zip(report.takes, expected.takes, strict=True):
        check_take(take.manifest, row)


def check_take(manifest, row: Take) -> None:
    assert manifest["end_reason"] == "hangup"
    assert manifest["degraded"] == row.degraded
    if row.frames is not None:
        assert manifest["frames"] == row.frames
    assert manifest["duration"] == pytest.approx(manifest["frames"] / 8000, abs=1e-6)
    for entry, track in zip(manifest["tracks"], (row.incoming, row.outgoing), strict=True):
        packets = entry["packets"]
        assert (entry["codec"], entry["ssrc"][:1]) == (
            track.codec,
            [] if track.ssrc is None else [track.ssrc],
        )
        assert packets == {
            **dict.fromkeys(packets, 0),
            "received": track.received,
            "lost": track.lost,
            "duplicate": track.duplicate,
            "undecoded": track.undecoded,
        }
        if track.audio is not None:
            made_up_ms = entry["silence_filled_ms"] + entry["concealed_ms"]
            assert manifest["frames"] - round(made_up_ms * 8) == track.audio
    assert "".join(digit["symbol"] for digit in manifest["digits"]) == row.digits
    assert {digit["source"] for digit in manifest["digits"]} <= {"rfc4733"}
    assert {digit["track"] for digit in manifest["digits"]} <= {"incoming"}
    assert [round(digit["duration"] * 8000) for digit in manifest["digits"]] == list(row.durations)
    assert [round(digit["at"] * 8000) for digit in manifest["digits"]] == [
        at + row.starts_after for at in row.at
    ]


# ---- sample for sample ----


def rtp_of(path: Path) -> dict[int, list[tuple[int, int, bytes]]]:
    """SSRC to (timestamp, payload type, payload), read out of a pcap file by hand."""
    data = path.read_bytes()
    assert data[:4] == b"\xd4\xc3\xb2\xa1"
    (link_type,) = struct.unpack_from("<I", data, 20)
    to_ip = {1: 14, 101: 0, 113: 16}[link_type]
    streams = defaultdict(list)
    at = 24
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at + 8)
        packet = data[at + 16 + to_ip : at + 16 + length]
        at += 16 + length
        if packet[0] >> 4 != 4 or packet[9] != 17:
            continue
        ip_header = (packet[0] & 15) * 4
        datagram_end = ip_header + struct.unpack_from(">H", packet, ip_header + 4)[0]
        rtp = packet[ip_header + 8 : datagram_end]
        if len(rtp) > 12 and rtp[0] == 0x80 and not 64 <= rtp[1] & 0x7F <= 95:
            timestamp, ssrc = struct.unpack_from(">II", rtp, 4)
            streams[ssrc].append((timestamp, rtp[1] & 0x7F, rtp[12:]))
    return streams


def decoded(packets: list[tuple[int, int, bytes]]) -> tuple[np.ndarray, np.ndarray]:
    """A stream by its timestamps: samples, and where there are any."""
    first = min(timestamp for timestamp, _, _ in packets)
    audio = [
        (timestamp - first, number, payload) for timestamp, number, payload in packets if number in (0, 8)
    ]
    size = max(at + len(payload) for at, _, payload in audio)
    samples, there = np.zeros(size, np.int16), np.zeros(size, bool)
    for at, number, payload in audio:
        decode = g711.ulaw_decode if number == 0 else g711.alaw_decode
        samples[at : at + len(payload)] = np.frombuffer(decode(payload), "<i2")
        there[at : at + len(payload)] = True
    return samples, there


def stereo_of(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (2, 8000, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2).T


SAMPLE_FOR_SAMPLE = {  # SSRC to (channel, frames by which it begins after the file)
    "calls/baresip-pcmu-47hash.pcap": {0xE562C30D: (0, 5), 0x1456F6FB: (1, 0)},
    "events/restcomm-dtmf-oob-two-hash.cap": {0x3E6E7CB5: (0, 0)},
    "g711/sipp-g711a.pcap": {0xDEE0EE8F: (0, 0)},
    "g711/rtpproxy-rtcp.o.pcap": {0xF3CB2001: (0, 0)},
    "g711/asterisk-40msalaw.pcap": {0xD500CA81: (0, 0)},
    "quirks/asterisk-crash-27382.pcap": {0x6A1B26D7: (0, 0)},
}


@pytest.mark.parametrize("name", SAMPLE_FOR_SAMPLE)
def test_the_recording_holds_what_was_sent_sample_for_sample(name, test_data, tmp_path):
    path = test_data(f"pcap/{name}")
    (take,) = record(path, tmp_path).takes
    channels = stereo_of(take.path)
    streams = rtp_of(path)
    for ssrc, (channel, begins_at) in SAMPLE_FOR_SAMPLE[name].items():
        samples, there = decoded(streams[ssrc])
        recorded = channels[channel][begins_at : begins_at + samples.size]
        assert recorded.size == samples.size
        assert np.array_equal(recorded[there], samples[there])
        assert not channels[channel][:begins_at].any()


@pytest.mark.parametrize(
    ("channel", "begins_at", "speech", "other_codes"),
    [
        (0, 5, "speech/en_US_f_Allison/demo-congrats.wav", 2378),
        (1, 0, "speech/fr_CA_f_June/demo-instruct.wav", 2591),
    ],
)
def test_both_channels_of_the_real_call_hold_their_source_speech(
    channel, begins_at, speech, other_codes, test_data, tmp_path
):
    """At decision boundaries the sender's encoder chose another code than the ITU's would: one step apart."""
    (take,) = record(test_data("pcap/calls/baresip-pcmu-47hash.pcap"), tmp_path).takes
    recorded = stereo_of(take.path)[channel][begins_at:][:104_160]
    with wave.open(str(test_data(speech))) as file:
        assert (file.getframerate(), file.getnchannels()) == (8000, 1)
        source = file.readframes(104_160)
    source += bytes(2 * 104_160 - len(source))  # the sender goes on with silence
    levels = np.unique(np.frombuffer(g711.ulaw_decode(bytes(range(256))), "<i2"))
    coded = np.frombuffer(g711.ulaw_decode(g711.ulaw_encode(source)), "<i2")
    steps = np.searchsorted(levels, recorded) - np.searchsorted(levels, coded)
    assert np.abs(steps).max() == 1
    assert np.count_nonzero(steps) == other_codes


# ---- the files, read by others ----


def by_av(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(frame.samples for frame in container.decode(audio=0))


def by_sox(path: Path) -> int:
    return int(subprocess.run(["soxi", "-s", str(path)], capture_output=True, check=True).stdout)


def by_ffmpeg(path: Path) -> int:
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "s16le", "-"]
    out = subprocess.run(command, capture_output=True, check=True)
    assert not out.stderr
    return len(out.stdout)


@pytest.mark.parametrize("name", RECORDED)
def test_wav_files_open_elsewhere_with_the_exact_length(name, test_data, tmp_path):
    for take in record(test_data(f"pcap/{name}"), tmp_path).takes:
        frames = take.manifest["frames"]
        with wave.open(str(take.path)) as file:
            assert file.getnframes() == frames
        with soundfile.SoundFile(take.path) as file:
            assert (file.frames, file.samplerate, file.channels) == (frames, 8000, 2)
            assert file.read(dtype="int16").shape == (frames, 2)
        assert by_av(take.path) == frames
        if shutil.which("soxi"):
            assert by_sox(take.path) == frames


@pytest.mark.parametrize("name", RECORDED)
def test_mp3_files_open_elsewhere_and_decode_to_as_many_samples_as_the_wav(name, test_data, tmp_path):
    path = test_data(f"pcap/{name}")
    wavs, mp3s = record(path, tmp_path / "wav").takes, record(path, tmp_path / "mp3", "mp3").takes
    for plain, packed in zip(wavs, mp3s, strict=True):
        frames = plain.manifest["frames"]
        assert packed.manifest["frames"] == frames
        same = ("tracks", "digits", "started_at", "duration", "end_reason", "degraded")
        assert {key: packed.manifest[key] for key in same} == {key: plain.manifest[key] for key in same}
        assert by_av(packed.path) == frames
        decoded_samples, rate = soundfile.read(packed.path)
        assert (decoded_samples.shape, rate) == ((frames, 2), 8000)
        assert miniaudio.mp3_read_s16(packed.path.read_bytes()).num_frames == frames
        if shutil.which("ffmpeg"):
            assert by_ffmpeg(packed.path) == frames * 4


def test_the_oracle_reads_what_the_manifest_says(test_data):
    """700 and 651 packets, 104,160 samples each way."""
    streams = rtp_of(test_data("pcap/calls/baresip-pcmu-47hash.pcap"))
    assert {ssrc: len(packets) for ssrc, packets in streams.items()} == {0xE562C30D: 700, 0x1456F6FB: 651}
    for packets in streams.values():
        samples, there = decoded(packets)
        assert samples.size == there.sum() == 104_160
