"""RTP in and out of a recorder over real sockets: what is recorded is what was sent, whoever else sends."""

import gc
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile

from callreel.actions import StartRecording
from callreel.errors import NoPortError, UsageError
from callreel.events import DigitReceived
from callreel.kernels import g711, rtp, tone
from callreel.legs import Direction
from callreel.recorder import Recorder, Settings, TakeEnded
from capture_writer import rtcp_sender_report, rtp_packet, telephone_event
from streams import codes, decoded

if sys.platform != "linux":
    pytest.skip("RTP over UDP needs Linux", allow_module_level=True)

from callreel.service.rtp import Fork, RtpPorts
from udp_peers import Peer, bye, wait_for

TYPES = {0: "PCMU", 8: "PCMA", 101: "telephone-event"}
PACKETS = 60
TRIES = 3
SETTLED_MS = 2.0
"""CR_SETTLED_MS of track.h: what stands no farther from its place stays as it was sent."""


class Host:
    """A recorder, ports, and calls that are recorded."""

    def __init__(self, folder: Path, **options) -> None:
        self.recorder = Recorder(Settings(folder / "spool", destination=str(folder / "out")))
        self.ports = RtpPorts(**options)
        self.events: list = []
        self.count = 0

    def call(self, *, legs=("LEG-A",), records=True):
        self.count += 1
        call = self.recorder.add_call(f"call-{self.count}")
        for leg in legs:
            call.add_leg(leg, payload_types=TYPES)
        if records:
            call.start_recording(StartRecording())
        return call

    def open(self, call, leg="LEG-A", **options):
        return self.ports.open(call, leg, payload_types=TYPES, **options)

    def poll(self):
        self.events += self.recorder.events(0.01)
        return self.events

    def take(self, number=0) -> TakeEnded:
        def takes():
            return [one for one in self.poll() if isinstance(one, TakeEnded)]

        wait_for(lambda: len(takes()) > number, 20)
        return takes()[number]

    def audio(self, number=0):
        """Both channels of a recording."""
        path = self.take(number).location.removeprefix("file://")
        return soundfile.read(path, dtype="int16", always_2d=True)[0].T

    def close(self):
        self.ports.close()
        self.recorder.close()


@pytest.fixture
def host(tmp_path):
    one = Host(tmp_path)
    yield one
    one.close()


@pytest.fixture
def peer():
    with Peer() as one:
        yield one


def starts_at(audio, said):
    """Where what was said begins in a channel, by its first packet."""
    first = np.flatnonzero(audio == said[0])
    for at in first:
        if np.array_equal(audio[at : at + 160], said[:160]):
            return at
    raise AssertionError("what was said is not in the recording")


def assert_holds(audio, said):
    """Every sample of `said`, one after the other, and silence around it."""
    at = starts_at(audio, said)
    np.testing.assert_array_equal(audio[at : at + len(said)], said)
    assert not audio[:at].any()
    assert not audio[at + len(said) :].any()


def packets_of(take, direction="incoming"):
    (track,) = [one for one in take.manifest["tracks"] if one["direction"] == direction]
    return track["packets"]


def descriptors():
    """Sockets and what watches them: files of the spool come and go."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            found.append(path.readlink().as_posix().partition(":")[0])
        except FileNotFoundError:
            continue  # that of the folder itself
    return sum(one in ("socket", "anon_inode") for one in found)


# ---- what is sent is what is recorded ---------------------------------------------------------------


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
@pytest.mark.parametrize(("codec", "law", "packet_bytes"), [
    ("pcm_mulaw", "ulaw", 172), ("pcm_alaw", "alaw", 172), ("pcm_mulaw", "ulaw", 1400),
])  # fmt: skip
def test_what_ffmpeg_sends_is_recorded_sample_by_sample(host, tmp_path, codec, law, packet_bytes):
    said = decoded(codes(8000 * 3), law)  # what the law can say: every encoder makes the same codes of it
    with wave.open(str(tmp_path / "said.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(said.tobytes())
    for number in range(TRIES):
        call = host.call()
        media = host.open(call)
        port = media.description["port"]
        time.sleep(
            0.3
        )  # a packet of 173 ms begins so long before it comes, and all of it is to be in the recording
        subprocess.run(
            ["ffmpeg", "-loglevel", "error", "-re", "-i", str(tmp_path / "said.wav"), "-c:a", codec, "-f", "rtp",
             "-rtpflags", "send_bye",
             f"rtp://127.0.0.1:{port}?pkt_size={packet_bytes}&rtcpport={media.description['rtcp_port']}"],
            check=True, timeout=60, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for(lambda media=media: media.statistics["has_gone"])
        media.close()
        call.end()
        take = host.take(number)
        if take.manifest["alignment_error_ms"] <= SETTLED_MS:
            break  # else ffmpeg was held up: its packets came so unevenly that their clock was corrected
    assert_holds(host.audio(number)[0], said)
    assert packets_of(take)["lost"] == 0
    assert take.manifest["degraded"] is False
    assert media.statistics["reports"] >= 1
    assert media.statistics["strangers"] <= 1  # a report that ffmpeg sends before there is anything to report


@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
def test_loss_reordering_doubles_strangers_and_reports_leave_what_was_said_in_its_place(tmp_path, version):
    host = Host(tmp_path, host="127.0.0.1" if version == 4 else "::1")
    data = codes(160 * PACKETS)
    lost = {20, 21, 33}
    try:
        with Peer(version) as peer, Peer(version) as stranger:
            call = host.call()
            media = host.open(call)
            port = media.description["port"]
            order = [n for n in range(PACKETS) if n not in lost]
            for place in (10, 25, 40):
                order[place], order[place + 1] = order[place + 1], order[place]
            begin = time.monotonic()
            for number in order:
                time.sleep(max(0.0, begin + number * 0.02 - time.monotonic()))
                peer.rtp(port, [number], payload=data[160 * number : 160 * number + 160])
                if number > 2:
                    stranger.rtp(port, [number], payload=bytes(160), ssrc=7)
                if number % 10 == 5:
                    peer.rtp(port, [number], payload=data[160 * number : 160 * number + 160])
                    peer.send(rtcp_sender_report(7, 1_700_000_000 + number * 0.02, 160 * number), port)
                    stranger.send(os.urandom(900), port)
            media.close()
            call.end()
            audio = host.audio()[0]
            said = decoded(data)
            at = starts_at(audio, said)
            for number in range(PACKETS):
                if number not in lost:
                    piece = slice(160 * number, 160 * number + 160)
                    np.testing.assert_array_equal(audio[at:][piece], said[piece])
            counts = packets_of(host.take())
            assert counts["lost"] == len(lost)
            assert counts["reordered"] == 3
            assert counts["duplicate"] == 6
            assert counts["received"] == len(order) + 6
            assert media.statistics["received"] == len(order) + 6
            assert media.statistics["reports"] == 6
            assert media.statistics["strangers"] + media.statistics["foreign"] >= len(order) - 3
    finally:
        host.close()


def talk_both_ways(host, call, media, said_port, heard_port, *, heard_ssrc=8, one_socket=False):
    said, heard = codes(160 * PACKETS, 1), codes(160 * PACKETS, 2)
    with Peer() as first, Peer() as second:
        other = first if one_socket else second
        threads = [
            threading.Thread(target=first.talk, args=(said_port, said)),
            threading.Thread(target=other.talk, args=(heard_port, heard), kwargs={"ssrc": heard_ssrc}),
        ]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    media.close()
    call.end()
    audio = host.audio()
    assert_holds(audio[0], decoded(said))
    assert_holds(audio[1], decoded(heard))
    assert abs(starts_at(audio[0], decoded(said)) - starts_at(audio[1], decoded(heard))) < 400


def test_what_the_participant_hears_comes_on_a_port_of_its_own(host):
    call = host.call()
    media = host.open(call, fork=Fork())
    talk_both_ways(host, call, media, media.description["port"], media.description["outgoing"]["port"])


def test_what_the_participant_hears_comes_to_the_same_port_with_an_ssrc_of_its_own(host):
    call = host.call()
    media = host.open(call, fork=Fork(own_port=False, ssrc=8))
    port = media.description["port"]
    talk_both_ways(host, call, media, port, port, one_socket=True)


def test_what_the_participant_hears_comes_to_the_same_port_from_another_address(host):
    call = host.call()
    with Peer() as peer:
        heard_from = peer.name
    media = host.open(call, fork=Fork(own_port=False, expects=heard_from))
    said, heard = codes(160 * PACKETS, 1), codes(160 * PACKETS, 2)
    with Peer() as first, Peer(port=heard_from[1]) as second:
        threads = [
            threading.Thread(target=one.talk, args=(media.description["port"], data))
            for one, data in ((first, said), (second, heard))
        ]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    media.close()
    call.end()
    assert_holds(host.audio()[0], decoded(said))
    assert_holds(host.audio()[1], decoded(heard))


def test_one_port_serves_many_legs(tmp_path):
    with Peer() as one:
        shared = one.port & ~1
    host = Host(tmp_path, shared_port=shared)
    try:
        legs = []
        for number in range(5):
            call, peer = host.call(), Peer()
            known = {"expects": peer.name} if number % 2 else {"ssrc": number}
            fork = Fork(ssrc=100 + number)
            legs.append((call, peer, host.open(call, fork=fork, **known)))
        threads = []
        for number, (_, peer, media) in enumerate(legs):
            assert media.description["port"] == shared
            for ssrc in (number, 100 + number):
                options = {"ssrc": ssrc}
                data = codes(160 * PACKETS, ssrc + 1)
                threads.append(threading.Thread(target=peer.talk, args=(shared, data), kwargs=options))
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        for call, peer, media in legs:
            media.close()
            call.end()
            peer.socket.close()
        wait_for(lambda: len([one for one in host.poll() if isinstance(one, TakeEnded)]) == 5, 20)
        order = {one.call_id: n for n, one in enumerate(e for e in host.events if isinstance(e, TakeEnded))}
        for number, (call, _, media) in enumerate(legs):
            audio = host.audio(order[call.call_id])
            assert_holds(audio[0], decoded(codes(160 * PACKETS, number + 1)))
            assert_holds(audio[1], decoded(codes(160 * PACKETS, 101 + number)))
            assert media.statistics["received"] == 2 * PACKETS
        assert host.ports.statistics["received"] == 10 * PACKETS
        with pytest.raises(UsageError, match="address or an SSRC"):
            host.open(host.call())
    finally:
        host.close()


def test_a_recorder_that_stands_still_for_seconds_loses_nothing(host, peer):
    data = codes(160 * 300)
    call = host.call()
    media = host.open(call)
    sender = threading.Thread(target=peer.talk, args=(media.description["port"], data))
    sender.start()
    time.sleep(0.5)
    with call._lock:  # nobody moves it on
        time.sleep(5.0)
    sender.join()
    media.close()
    call.end()
    assert_holds(host.audio()[0], decoded(data))
    counts = packets_of(host.take())
    assert counts == {**counts, "received": 300, "late": 0, "discarded": 0, "lost": 0}


@pytest.mark.parametrize("ends_first", ["call", "media"])
def test_what_had_come_when_it_ended_is_in_the_recording(host, peer, ends_first):
    data = codes(160 * 50)
    call = host.call()
    media = host.open(call)
    peer.talk(media.description["port"], data)
    wait_for(lambda: media.statistics["received"] == 50)
    first, then = (call.end, media.close) if ends_first == "call" else (media.close, call.end)
    first()
    then()
    assert_holds(host.audio()[0], decoded(data))


@pytest.mark.parametrize("has_other", [False, True])
def test_what_had_come_when_its_leg_was_hung_up_is_in_the_recording(host, peer, has_other):
    data = codes(160 * 20)
    call = host.call(legs=("LEG-A", "LEG-B") if has_other else ("LEG-A",))
    media = host.open(call)
    peer.talk(media.description["port"], data)
    call.hang_up("LEG-A")  # the last packet has only just come, and holds 20 ms
    media.close()
    if not has_other:
        call.end()
    assert_holds(host.audio()[0], decoded(data))


def test_keys_are_told_while_the_call_goes_on(host, peer):
    call = host.call()
    media = host.open(call)
    port = media.description["port"]
    peer.rtp(port, range(2), payload=b"\xff" * 160)
    for number in range(2, 9):
        event = telephone_event(5, min(800, 160 * (number - 1)), number > 5)
        peer.send(rtp_packet(event, number, 320, 7, 101, number == 2), port)
        time.sleep(0.02)
    began = time.monotonic()
    wait_for(lambda: [one.symbol for one in host.poll() if isinstance(one, DigitReceived)] == ["5"], 1.0)
    assert time.monotonic() - began < 0.5
    inband = g711.ulaw_encode(tone.dtmf("7", seconds=0.1) + bytes(12_800))
    for number in range(len(inband) // 160):
        piece = inband[160 * number : 160 * number + 160]
        peer.rtp(port, [20 + number], payload=piece)
        time.sleep(0.02)
    wait_for(lambda: [one.symbol for one in host.poll() if isinstance(one, DigitReceived)] == ["5", "7"], 1.5)
    media.close()
    call.end()


def test_a_leg_that_is_signalled_to_another_address_follows_it(host, peer):
    call = host.call()
    with Peer() as other:
        media = host.open(call, expects=peer.name)
        port = media.description["port"]
        other.rtp(port, range(3), payload=codes(160, 9))
        peer.talk(port, codes(160 * 10, 1))
        wait_for(lambda: (media.statistics["strangers"], media.statistics["received"]) == (3, 10))
        media.expect(other.name)
        assert media.statistics["peer"] == f"127.0.0.1:{other.port}"
        # On a busy machine the first may have come late, and stand over the beginning of the second.
        time.sleep(0.3)
        other.talk(port, codes(160 * 10, 2), ssrc=8)
        wait_for(lambda: media.statistics["received"] == 20)
        media.expect(None)
        peer.rtp(port, range(500, 503), ssrc=9)
        wait_for(lambda: media.statistics["received"] == 23)
        with pytest.raises(UsageError, match="outgoing"):
            media.expect(None, Direction.OUTGOING)
        media.close()
    call.end()
    audio = host.audio()[0]
    for seed in (1, 2):
        at = starts_at(audio, decoded(codes(160 * 10, seed)))
        np.testing.assert_array_equal(audio[at : at + 1600], decoded(codes(160 * 10, seed)))


# ---- RTCP -------------------------------------------------------------------------------------------


def reports_of(peer, timeout_s=4.0):
    """The packets of the next compound RTCP packet: {type: body}."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        data = peer.received(0.5)
        if data is not None and 200 <= data[1] <= 204:
            found = {}
            while data:
                size = 4 * (struct.unpack_from(">H", data, 2)[0] + 1)
                found[data[1]] = data[:size]
                data = data[size:]
            return found
    raise AssertionError("no report came")


@pytest.mark.parametrize("has_mux", [False, True])
def test_receivers_reports_and_a_bye_go_to_the_peer(host, has_mux):
    reporter = None
    while reporter is None:
        peer = Peer()
        try:
            reporter = peer if has_mux else Peer(port=peer.port + 1)
        except OSError:
            peer.socket.close()
    call = host.call()
    media = host.open(call, rtcp_mux=has_mux)
    assert media.description["rtcp_mux"] is has_mux
    assert media.description["rtcp_port"] == media.description["port"] + (not has_mux)
    peer.rtp(media.description["port"], [*range(10), *range(20, 30)])
    found = reports_of(reporter)
    assert set(found) == {201, 202}
    _, ssrc, fraction_and_lost, highest = struct.unpack_from(">IIII", found[201], 4)
    assert (ssrc, highest) == (7, 29)
    assert fraction_and_lost == (256 * 10 // 30) << 24 | 10
    media.close()
    assert set(reports_of(reporter)) == {201, 202, 203}
    assert media.statistics["reports_sent"] == 2
    call.end()
    for one in {peer, reporter}:
        one.socket.close()


@pytest.mark.parametrize("has_mux", [False, True])
def test_the_senders_reports_of_a_peer_reach_its_track(host, peer, has_mux):
    call = host.call()
    media = host.open(call, rtcp_mux=has_mux)
    receiver = call._call.track("LEG-A").receiver
    peer.rtp(media.description["port"], range(10))
    wait_for(lambda: media.statistics["received"] == 10)
    for number in (10, 11):
        report = rtcp_sender_report(7, 1_700_000_000 + 0.02 * number, 160 * number)
        peer.send(report, media.description["rtcp_port"])
    wait_for(lambda: receiver.sender_reports == 2)
    assert media.statistics["reports"] == 2
    assert receiver.counts["received"] == 10
    media.close()
    call.end()


def test_a_senders_report_tells_what_was_played(host, peer):
    call = host.call()
    media = host.open(call, rtcp_mux=True)
    peer.rtp(media.description["port"], range(5))
    media.play(bytes(2 * 8000), 8000, lambda error: None)
    found = reports_of(peer)
    ssrc, ntp, _, packets, octets = struct.unpack_from(">IQIII", found[200], 4)
    assert abs(ntp / 2**32 - 2_208_988_800 - time.time()) < 4
    assert 0 < packets <= 50
    assert octets == 160 * packets
    assert found[202][4:8] == struct.pack(">I", ssrc)
    media.close()
    call.end()


def test_a_bye_of_the_peer_is_told_once(host, peer):
    call = host.call()
    told = []
    media = host.open(call, on_bye=lambda: told.append(threading.current_thread().name))
    peer.rtp(media.description["port"], range(5))
    time.sleep(0.05)
    for _ in range(3):
        peer.send(bye(7), media.description["port"])
    wait_for(lambda: told)
    time.sleep(0.4)
    assert told == ["callreel-send"]
    assert media.statistics["has_gone"] is True
    media.close()
    call.end()


# ---- what is played -------------------------------------------------------------------------------


def played(peer, count, timeout_s=3.0):
    found = []
    until = time.monotonic() + timeout_s
    while len(found) < count and time.monotonic() < until:
        data = peer.received(0.5)
        if data is not None and data[1] & 0x7F < 72:
            found.append(rtp.parse(data))
    return found


@pytest.mark.parametrize("rate", [6000, 8000, 16_000, 48_000, 88_200, 96_000, 192_000])
def test_a_prompt_is_heard_by_the_participant_and_recorded_where_nothing_comes_back(host, peer, rate):
    call = host.call()
    media = host.open(call)
    peer.rtp(media.description["port"], range(3))
    done = []
    peak = np.abs(np.frombuffer(tone.sine(440, 0.5, -12, 8000), np.int16)).max()
    prompt = peak * np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate)
    media.play(prompt.astype("<i2").tobytes(), rate, done.append)
    packets = played(peer, 25)
    heard = b"".join(one.payload for one in packets)
    wait_for(lambda: done == [None])
    media.close()
    call.end()
    assert len(packets) == 25
    expected = np.frombuffer(g711.ulaw_decode(g711.ulaw_encode(tone.sine(440, 0.5, -12, 8000))), np.int16)
    difference = decoded(heard).astype(int) - expected
    assert np.abs(difference[200:-200]).max() < 600  # a step of G.711
    audio = host.audio()
    at = starts_at(audio[1], decoded(heard))
    np.testing.assert_array_equal(audio[1][at : at + 4000], decoded(heard))


def test_a_prompt_is_not_recorded_twice_where_the_media_server_sends_it_back(host, peer):
    call = host.call()
    media = host.open(call, fork=Fork())
    peer.rtp(media.description["port"], range(3))
    done = threading.Event()
    media.play(tone.sine(440, 0.3, -12, 8000), 8000, lambda error: done.set())
    assert done.wait(3)
    media.close()
    call.end()
    assert not host.audio()[1].any()
    with pytest.raises(UsageError, match="twice"):
        host.open(host.call(), fork=Fork(), records_sent=True)


def test_what_was_agreed_on_first_is_what_is_spoken(host, peer):
    call = host.call()
    media = host.ports.open(call, "LEG-A", payload_types={101: "telephone-event", 8: "PCMA", 0: "PCMU"})
    peer.rtp(media.description["port"], range(3))
    media.play(bytes(320), 8000, lambda error: None)
    (packet,) = played(peer, 1)
    assert (packet.payload_type, packet.payload, packet.marker) == (8, b"\xd5" * 160, True)
    media.close()
    nothing = host.ports.open(call, "LEG-A", payload_types={101: "telephone-event"})
    with pytest.raises(UsageError, match=r"G\.711"):
        nothing.play(bytes(320), 8000, lambda error: None)
    nothing.close()
    call.end()


def test_one_thing_is_played_at_a_time_and_the_end_may_begin_the_next(host, peer):
    call = host.call()
    media = host.open(call, expects=peer.name)
    order = []

    def then(error):
        order.append(error)
        if len(order) < 3:
            media.play(bytes(640), 8000, then)

    media.play(bytes(640), 8000, then)
    with pytest.raises(UsageError, match="one thing at a time"):
        media.play(bytes(640), 8000, then)
    wait_for(lambda: order == [None] * 3)
    assert len(played(peer, 7, 0.5)) == 6
    media.play(b"", 8000, order.append)
    assert order == [None] * 4
    media.close()
    with pytest.raises(UsageError, match="closed"):
        media.play(bytes(640), 8000, then)
    call.end()


def test_what_is_stopped_or_closed_says_no_more(host, peer):
    call = host.call()
    media = host.open(call, expects=peer.name)
    told = []
    media.play(bytes(16_000), 8000, told.append)
    assert len(played(peer, 3)) == 3
    media.stop()
    media.stop()
    peer.all_received()
    assert played(peer, 1, 0.2) == []
    media.play(bytes(16_000), 8000, told.append)
    media.close()
    media.stop()
    peer.all_received()
    assert played(peer, 1, 0.2) == []
    assert told == []
    call.end()


def test_that_nobody_is_known_to_play_to_is_told(host):
    call = host.call()
    media = host.open(call)
    told = []
    media.play(bytes(640), 8000, told.append)
    wait_for(lambda: told, 8)
    assert "nobody has sent" in told[0]
    media.close()
    call.end()


def test_trouble_of_one_who_is_told_harms_no_other(host, peer, caplog):
    call = host.call()
    media = host.open(call, expects=peer.name)
    media.play(bytes(320), 8000, lambda error: 1 / 0)
    wait_for(lambda: "ZeroDivisionError" in caplog.text)
    told = []
    media.play(bytes(320), 8000, told.append)
    wait_for(lambda: told == [None])
    media.close()
    call.end()


# ---- ports --------------------------------------------------------------------------------------------


def test_a_port_is_used_again_only_after_a_rest(tmp_path):
    host = Host(tmp_path, ports=range(39_000, 39_003), quarantine_s=0.4)
    try:
        call = host.call(records=False)
        first, second = host.open(call), host.open(call)
        assert {first.description["port"], second.description["port"]} == {39_000, 39_002}
        with pytest.raises(NoPortError):
            host.open(call)
        first.close()
        began = time.monotonic()
        with pytest.raises(NoPortError):
            host.open(call)

        def again():
            try:
                return host.open(call)
            except NoPortError:
                return None

        third = wait_for(again)
        assert time.monotonic() - began > 0.35
        assert third.description["port"] == first.description["port"]
        call.end()
    finally:
        host.close()


def test_a_port_that_somebody_else_has_is_passed_over(tmp_path):
    with Peer(port=39_105):  # odd: the first pair's for RTCP
        host = Host(tmp_path, ports=range(39_104, 39_108))
        try:
            call = host.call(records=False)
            assert host.open(call).description["port"] == 39_106
            with pytest.raises(NoPortError):
                host.open(call)
            call.end()
        finally:
            host.close()


def test_what_is_asked_wrongly_leaves_no_port_in_use(host):
    call = host.call(records=False)
    free = host.ports.statistics["ports_free"]
    for wrong, options in [
        ("no leg", {"leg": "LEG-Z"}),
        ("no IP address", {"expects": ("media.example.net", 5)}),
        ("IPv6", {"expects": ("::1", 5)}),
        ("no port", {"expects": ("127.0.0.1", 0)}),
        ("address or an SSRC", {"fork": Fork(own_port=False)}),
        ("IPv6", {"fork": Fork(expects=("::1", 5))}),
    ]:
        with pytest.raises(UsageError, match=wrong):
            host.open(call, **{"leg": "LEG-A", **options})
    assert host.ports.statistics["ports_free"] == free
    with pytest.raises(UsageError, match="even"):
        RtpPorts(shared_port=40_001)
    call.end()


def test_10_000_openings_leave_no_descriptor_thread_or_port(tmp_path):
    host = Host(tmp_path, ports=range(39_200, 39_240), quarantine_s=0.0)
    try:
        call = host.call(records=False)
        with Peer() as peer:
            for number in range(5000):
                if number == 50:
                    before = descriptors(), threading.active_count()
                media = host.open(call, fork=Fork())
                if number % 500 == 0:
                    peer.rtp(media.description["port"], range(3))
                    media.play(bytes(3200), 8000, lambda error: None)
                media.close()
                media.close()
            assert (descriptors(), threading.active_count()) == before
        assert host.ports.statistics["ports_free"] == 20
        assert host.ports.statistics["waiting_bytes"] == 0
        call.end()
    finally:
        host.close()


def test_closing_the_ports_closes_all_media_and_both_threads(tmp_path):
    gc.collect()
    before = descriptors(), threading.active_count()
    ports = RtpPorts()
    with Recorder(Settings(tmp_path / "spool", destination=str(tmp_path / "out"))) as recorder:
        call = recorder.add_call("c")
        call.add_leg("LEG-A", payload_types=TYPES)
        media = ports.open(call, "LEG-A", payload_types=TYPES)
        ports.close()
        ports.close()
        with pytest.raises(UsageError, match="closed"):
            media.play(bytes(320), 8000, lambda error: None)
        with pytest.raises(UsageError, match="closed"):
            ports.open(call)
    del ports, media, call, recorder
    gc.collect()
    assert (descriptors(), threading.active_count()) == before


def test_a_range_is_even_ports_with_the_odd_ones_above(host):
    call = host.call(records=False)
    for _ in range(20):
        about = host.open(call).description
        assert about["port"] % 2 == 0
        assert about["rtcp_port"] == about["port"] + 1
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken,
            pytest.raises(OSError, match="in use"),
        ):
            taken.bind(("127.0.0.1", about["rtcp_port"]))
    call.end()
