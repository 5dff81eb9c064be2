"""Other people's live traffic: sipp plays its captures, captures are sent again, ffmpeg speaks; what we say to them.

It is compared sample by sample with what `callreel record` finds in the same capture, or with what was sent.
"""

import os
import shutil
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest

from callreel.kernels import g711, rtp, tone
from callreel.service.running import Service
from capture_writer import capture, rtp_packet
from live_media import delivered, manifest_of, noise, read_wav, served_prompts, wav_bytes
from replayed_captures import recorded_offline, send_all, stream_of
from service_host import listening, settings_in
from sip_call import plays_captures
from udp_peers import Peer

if sys.platform != "linux":
    pytest.skip("RTP over UDP needs Linux", allow_module_level=True)

SIPP_CAPTURES = Path("/usr/share/sip-tester")
CAPTURES = [
    "g711/sipp-g711a.pcap",
    "g711/freeswitch-milliwatt.pcmu.rtp.pcap",
    "g711/rtpproxy-rtcp.o.pcap",
    "g711/rtpproxy-call1_ulaw-leg.pcap",
    "events/cisco-spa-525G2-zendesk34432.pcap",
    "events/dtmf_rfc2833_2_digit_pairs.pcap",
    "events/dtmf_rfc2833_4_digits_slow.pcap",
    *(f"events/dtmf_2833_{key}.pcap" for key in ("0", "1", "2", "3", "4", "star")),
]


@pytest.fixture(scope="module", params=[4, 6], ids=["IPv4", "IPv6"])
def either(request, tmp_path_factory):
    """A service whose media is on IPv4 or on IPv6; the version."""
    host = {4: "127.0.0.1", 6: "::1"}[request.param]
    settings = settings_in(tmp_path_factory.mktemp("service"), rtp_host=host)
    with listening(Service(settings)) as running:
        yield running.client(), request.param


@pytest.fixture(scope="module")
def prompt_server():
    with served_prompts() as server:
        yield server


@pytest.fixture(scope="module")
def client(tmp_path_factory, prompt_server):
    settings = settings_in(tmp_path_factory.mktemp("service"))
    with listening(Service(settings, prompts=prompt_server.prompts)) as running:
        yield running.client()


def begun(client, payload_types):
    """A call whose one leg is recorded: its id, and where its media goes."""
    leg = {"media": "rtp", "payload_types": {str(number): name for number, name in payload_types.items()}}
    answer = client.post("/v1/calls", json={"legs": [leg], "record": {"layout": "incoming"}})
    assert answer.status_code == 201, answer.text
    call = answer.json()
    return call["call_id"], call["legs"][0]["media"]["port"]


def ended(client, call_id):
    """Its samples, its digits, its manifest."""
    client.delete(f"/v1/calls/{call_id}")
    entry = delivered(client, call_id)
    manifest = manifest_of(client, entry)
    return read_wav(client, entry)[0][:, 0], [one["symbol"] for one in manifest["digits"]], manifest


def assert_holds(heard, said):
    """Every sample of what was said, one after the other, and before that silence."""
    first = said[np.argmax(said != 0) :][:160]
    for at in np.flatnonzero(heard == first[0]):
        if np.array_equal(heard[at : at + len(first)], first):
            break
    else:
        raise AssertionError("what was said is not in the recording")
    begin = at - np.argmax(said != 0)
    np.testing.assert_array_equal(heard[max(begin, 0) : begin + len(said)], said[max(0, -begin) :])
    assert not heard[: max(begin, 0)].any()


# ---- captures, sent again ----


def test_a_capture_that_is_sent_again_is_recorded_like_the_capture(client, test_data, tmp_path):
    names = [name for name in CAPTURES if _is_there(test_data, f"pcap/{name}")]
    assert names
    running, streams = [], []
    for name in names:
        path = test_data(f"pcap/{name}")
        expected = recorded_offline(path, tmp_path / name)
        (ssrc,) = expected[2]["tracks"][0]["ssrc"]
        stream = stream_of(path, ssrc)
        call_id, port = begun(client, stream.payload_types)
        running.append((name, call_id, stream, expected))
        streams.append((stream, port))
    time.sleep(0.3)
    send_all(streams)
    time.sleep(0.5)
    for name, call_id, stream, (samples, digits, offline) in running:
        heard, pressed, manifest = ended(client, call_id)
        track, before = manifest["tracks"][0], offline["tracks"][0]
        assert track["packets"]["received"] == len(stream.packets), name
        assert (track["codec"], track["packets"]["lost"]) == (before["codec"], before["packets"]["lost"]), (
            name
        )
        assert pressed == digits, name
        assert_holds(heard, samples)


def _is_there(test_data, name):
    try:
        return bool(test_data(name))
    except pytest.skip.Exception:
        return False


# ---- sipp ----


def ulaw_capture(path, said):
    """A capture of µ-law, as sipp reads them."""
    source, destination = ("192.0.2.1", 5000), ("192.0.2.2", 6000)
    path.write_bytes(
        capture(
            (0.02 * number, source, destination, rtp_packet(said[160 * number :][:160], number, 160 * number))
            for number in range(len(said) // 160)
        )
    )
    return path


@pytest.mark.skipif(
    shutil.which("sipp") is None or not SIPP_CAPTURES.is_dir(), reason="needs sipp (Debian: sip-tester)"
)
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() != 0, reason="sipp plays captures for root alone")
@pytest.mark.parametrize("law", ["alaw", "ulaw"])
def test_what_sipp_plays_is_recorded_like_its_captures(client, tmp_path, law):
    if law == "alaw":
        played, payload_types = SIPP_CAPTURES / "g711a.pcap", {8: "PCMA", 96: "telephone-event"}
    else:
        played = ulaw_capture(tmp_path / "ulaw.pcap", g711.ulaw_encode(noise(3.0)))
        payload_types = {0: "PCMU", 96: "telephone-event"}
    samples, _, offline = recorded_offline(played, tmp_path / "offline")
    keys, packets = [], offline["tracks"][0]["packets"]["received"]
    for name in ("1", "9", "pound"):
        _, digits, manifest = recorded_offline(SIPP_CAPTURES / f"dtmf_2833_{name}.pcap", tmp_path / name)
        (ssrc,) = manifest["tracks"][0]["ssrc"]
        stream = stream_of(SIPP_CAPTURES / f"dtmf_2833_{name}.pcap", ssrc)
        payload_types |= stream.payload_types
        packets += len(stream.packets)
        keys += digits
    assert keys == ["1", "9", "#"]
    call_id, port = begun(client, payload_types)
    plays_captures(
        tmp_path,
        port,
        audio=played,
        keys=[SIPP_CAPTURES / f"dtmf_2833_{name}.pcap" for name in ("1", "9", "pound")],
        audio_ms=round(1000 * offline["duration"]) + 500,
        payload_types=payload_types,
    )
    heard, pressed, manifest = ended(client, call_id)
    assert pressed == keys
    assert manifest["tracks"][0]["codec"] == offline["tracks"][0]["codec"]
    assert manifest["tracks"][0]["packets"]["received"] == packets
    assert_holds(heard, samples)


# ---- ffmpeg ----


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
@pytest.mark.parametrize("law", ["ulaw", "alaw"])
def test_what_ffmpeg_sends_to_the_service_is_recorded_sample_by_sample(either, tmp_path, law):
    client, version = either
    encode, decode = getattr(g711, f"{law}_encode"), getattr(g711, f"{law}_decode")
    said = decode(encode(noise(2.0)))  # what the law can say: every encoder makes the same codes of it
    with wave.open(str(tmp_path / "said.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(said)
    call_id, port = begun(client, {0: "PCMU", 8: "PCMA"})
    time.sleep(0.3)  # a packet begins so long before it comes, and all of it is to be in the recording
    host = "127.0.0.1" if version == 4 else "[::1]"
    subprocess.run(
        [
            *("ffmpeg", "-loglevel", "error", "-re", "-i", tmp_path / "said.wav"),
            *("-c:a", {"ulaw": "pcm_mulaw", "alaw": "pcm_alaw"}[law], "-f", "rtp"),
            f"rtp://{host}:{port}?pkt_size=172",
        ],
        check=True,
        timeout=60,
        stdout=subprocess.DEVNULL,
    )
    time.sleep(0.3)
    heard, _, manifest = ended(client, call_id)
    assert_holds(heard, np.frombuffer(said, "<i2"))
    assert manifest["degraded"] is False
    assert manifest["tracks"][0]["codec"] == {"ulaw": "PCMU", "alaw": "PCMA"}[law]


# ---- what the participant hears ----


def heard_by(peer, count, timeout_s=15.0):
    """Packets of audio and when each came."""
    found, until = [], time.monotonic() + timeout_s
    while len(found) < count and time.monotonic() < until:
        data = peer.received(0.5)
        if data is not None and data[1] & 0x7F < 72:
            found.append((time.monotonic(), rtp.parse(data)))
    return found


@pytest.mark.parametrize(("law", "number"), [("ulaw", 0), ("alaw", 8)])
def test_a_prompt_and_a_beep_go_out_in_time_with_timestamps_and_markers_sample_by_sample(
    client, prompt_server, law, number
):
    encode, decode = getattr(g711, f"{law}_encode"), getattr(g711, f"{law}_decode")
    prompt, beep = decode(encode(noise(1.0, seed=8))), tone.beep(sample_rate=8000)
    url = prompt_server.serve(f"{law}.wav", wav_bytes(prompt, 8000))
    codec = {"ulaw": "PCMU", "alaw": "PCMA"}[law]
    leg = {"media": "rtp", "payload_types": {str(number): codec}}
    call = client.post("/v1/calls", json={"legs": [leg]}).json()
    port = call["legs"][0]["media"]["port"]
    with Peer() as peer:
        peer.rtp(port, range(3), payload_type=number)
        ask = {"action": "start_recording", "recording": {"prompt": url, "beep": True}}
        assert client.post(f"/v1/calls/{call['call_id']}/actions", json=ask).status_code == 200
        packets = heard_by(peer, 50 + 20)
    client.delete(f"/v1/calls/{call['call_id']}")
    assert len(packets) == 70
    times, found = np.array([at for at, _ in packets]), [one for _, one in packets]
    assert {one.payload_type for one in found} == {number}
    assert len({one.ssrc for one in found}) == 1
    assert [one.sequence for one in found] == [(found[0].sequence + n) & 0xFFFF for n in range(70)]
    assert [n for n, one in enumerate(found) if one.marker] == [0, 50]
    for pcm, first, last in ((prompt, 0, 50), (beep, 50, 70)):
        assert b"".join(one.payload for one in found[first:last]) == encode(pcm)
        steps = np.diff([one.timestamp for one in found[first:last]])
        assert (steps % (1 << 32) == 160).all()
        early = times[first:last] - 0.02 * np.arange(last - first)
        assert np.ptp(early) < 0.1  # of a schedule that does not slip
    pause = (found[50].timestamp - found[0].timestamp) % (1 << 32) / 8000
    assert pause == pytest.approx(times[50] - times[0], abs=0.1)
