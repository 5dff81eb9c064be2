"""A recording: layouts, formats, the manifest, and when it counts as degraded."""

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import av
import numpy as np
import pytest
import soundfile

from callreel import recording as recording_module
from callreel.actions import EndReason, Layout, StartRecording
from callreel.errors import UsageError
from callreel.kernels import wav
from callreel.legs import Digit, DigitSource, Direction, Leg, Track
from callreel.recording import LAYOUT_DIRECTIONS, NEXT, Recording, State, Trigger
from callreel.takes import rfc3339
from streams import RATE, S_NS, arrive, codes, decoded, event, feed, late, renumbered, talk

TYPES = {0: "PCMU", 8: "PCMA", 13: "CN", 18: "G729", 101: "telephone-event"}
IN, OUT = codes(2 * RATE, seed=1), codes(2 * RATE, seed=2)
STARTED_AT = datetime(2026, 5, 6, 7, 8, 9, 123_000, UTC)


def new_leg() -> Leg:
    return Leg("LEG-A", *(Track(origin_ns=0, payload_types=TYPES) for _ in range(2)))


def recording_of(leg: Leg, layout=Layout.STEREO, format_name="wav", start_position=0, **options) -> Recording:
    for track in (leg.incoming, leg.outgoing):
        track.skip(start_position)
    return Recording(
        StartRecording(layout=layout, format=format_name, **options),
        recording_id="call/LEG-A",
        leg=leg,
        key="key.wav",
        tags={"title": "Call x", "call-id": "x"},
    )


def applied(writes) -> bytes:
    file = bytearray()
    for offset, data in writes:
        assert offset <= len(file)
        file[offset : offset + len(data)] = data
    return bytes(file)


def recorded(packets, until=2 * RATE, digits=(), step=RATE // 5, **options):
    """The file and the manifest of packets that come in and go out, those from `start_position` on."""
    leg = new_leg()
    tracks = list(zip((leg.incoming, leg.outgoing), packets, strict=False))
    start_ns = options.get("start_position", 0) * S_NS // RATE
    for track, some in tracks:
        feed(track, [packet for packet in some if packet.arrival_ns < start_ns])
    recording = recording_of(leg, **options)
    writes = recording.begin(options.get("start_position", 0), STARTED_AT)
    for track, some in tracks:
        feed(track, [packet for packet in some if packet.arrival_ns >= start_ns])
    leg.incoming.finish()
    leg.outgoing.finish()
    while leg.incoming.position < until:
        stop = min(until, leg.incoming.position + step)
        writes += recording.add(leg.timelines.read(stop))
    recording.end(recording.position, EndReason.HANGUP)
    writes += recording.finish(list(digits))
    return applied(writes), recording.manifest(list(digits))


def samples_of(file: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(file), dtype="int16", always_2d=True)[0]


def both():
    return arrive(talk(IN)), arrive(talk(OUT))


def test_stereo_has_incoming_left_and_outgoing_right():
    file, manifest = recorded(both())
    np.testing.assert_array_equal(samples_of(file), np.stack([decoded(IN), decoded(OUT)], axis=1))
    assert [(t["direction"], t["channel"]) for t in manifest["tracks"]] == [("incoming", 0), ("outgoing", 1)]
    assert (manifest["channels"], manifest["layout"]) == (2, "stereo")


@pytest.mark.parametrize(("layout", "data"), [(Layout.INCOMING, IN), (Layout.OUTGOING, OUT)])
def test_a_single_track_is_mono(layout, data):
    file, manifest = recorded(both(), layout=layout)
    np.testing.assert_array_equal(samples_of(file)[:, 0], decoded(data))
    assert [(t["direction"], t["channel"]) for t in manifest["tracks"]] == [(layout.value, 0)]
    assert (manifest["channels"], manifest["layout"]) == (1, layout.value)


def test_a_mix_is_the_saturating_sum():
    file, manifest = recorded(both(), layout=Layout.MIX)
    total = np.clip(decoded(IN).astype(int) + decoded(OUT), -32768, 32767)
    np.testing.assert_array_equal(samples_of(file)[:, 0], total)
    assert np.any(np.abs(total) >= 32767)
    assert [(t["direction"], t["channel"]) for t in manifest["tracks"]] == [("incoming", 0), ("outgoing", 0)]


def test_every_layout_has_its_directions():
    assert set(LAYOUT_DIRECTIONS) == set(Layout)


@pytest.mark.parametrize("layout", Layout)
def test_mp3_has_as_many_frames_as_wav(layout):
    file, manifest = recorded(both(), layout=layout, format_name="mp3")
    with av.open(io.BytesIO(file), format="mp3") as container:
        frames = sum(frame.samples for frame in container.decode(audio=0))
        channels = container.streams.audio[0].channels
    assert (frames, channels) == (2 * RATE, manifest["channels"])
    assert manifest["format"] == "mp3"


def test_the_same_leg_gives_the_same_file_for_every_step():
    files = {recorded(both(), step=step)[0] for step in (160, 999, 16_000)}
    assert len(files) == 1


def test_a_file_is_valid_at_every_flush():
    leg = new_leg()
    recording = recording_of(leg)
    feed(leg.incoming, both()[0])
    writes = recording.begin(0, STARTED_AT)
    for n in range(1, 6):
        writes += recording.add(leg.timelines.read(n * 160))
        writes += recording.flush()
        info = wav.parse(applied(writes))
        assert (info.frames, info.truncated, info.warnings) == (160 * n, False, ())


def test_the_manifest_says_what_the_file_holds():
    _, manifest = recorded(both())
    assert manifest == {
        "tracks": manifest["tracks"],
        "started_at": "2026-05-06T07:08:09.123Z",
        "duration": 2.0,
        "sample_rate": 8000,
        "channels": 2,
        "frames": 16_000,
        "format": "wav",
        "layout": "stereo",
        "end_reason": "hangup",
        "degraded": False,
        "alignment_error_ms": 0.0,
        "digits": [],
        "pauses": [],
    }
    assert manifest["tracks"][0] == {
        "leg": "LEG-A",
        "direction": "incoming",
        "channel": 0,
        "codec": "PCMU",
        "ssrc": [0x1111],
        "packets": {
            "received": 100,
            "lost": 0,
            "duplicate": 0,
            "late": 0,
            "malformed": 0,
            "reordered": 0,
            "undecoded": 0,
            "discarded": 0,
        },
        "concealed_ms": 0.0,
        "silence_filled_ms": 0.0,
        "drift_ppm": None,
        "gaps": [],
    }


def test_a_silent_track_is_in_the_manifest():
    file, manifest = recorded([arrive(talk(IN))])
    track = manifest["tracks"][1]
    assert (track["codec"], track["ssrc"], track["silence_filled_ms"]) == (None, [], 2000.0)
    assert not samples_of(file)[:, 1].any()
    assert manifest["degraded"] is False


def test_the_codec_names_what_was_heard_without_events_and_noise():
    a_law = talk(IN[:160], payload_type=8, timestamp=5000 + 1600, start=1600)
    key = event(1, timestamp=5000 + 1760, sequence=0, start=1760)
    packets = arrive(renumbered(talk(IN[:1600]) + a_law + key))
    assert recorded([packets])[1]["tracks"][0]["codec"] == "PCMU+PCMA"


def test_gaps_say_where_audio_was_lost_since_the_recording_began():
    packets = [p for p in arrive(talk(IN)) if p.sequence not in (110, 111, 150, 170, 171, 172, 173)]
    # The first loss is before the recording, the second across its beginning: nothing is left to conceal it from.
    file, manifest = recorded([packets], start_position=50 * 160 + 80, until=2 * RATE)
    assert manifest["tracks"][0]["gaps"] == [{"from": 0.0, "to": 0.01}, {"from": 0.39, "to": 0.47}]
    assert manifest["tracks"][1]["gaps"] == []
    assert manifest["tracks"][0]["concealed_ms"] == 60.0
    assert len(samples_of(file)) == manifest["frames"] == 2 * RATE - 8080


def test_what_was_before_the_recording_does_not_count():
    packets = [p for p in arrive(talk(IN)) if not 105 <= p.sequence < 125]
    manifest = recorded([packets], start_position=RATE)[1]
    assert manifest["tracks"][0]["packets"]["received"] == 50
    assert manifest["tracks"][0]["packets"]["lost"] == 0
    assert manifest["degraded"] is False


def test_a_loss_of_up_to_1_percent_is_concealed_well_enough():
    packets = [p for p in arrive(talk(IN)) if p.sequence != 150]
    assert recorded([packets])[1]["degraded"] is False
    packets = [p for p in arrive(talk(IN)) if p.sequence not in (150, 160)]
    assert recorded([packets, packets])[1]["degraded"] == {"lost_packets": 4}


def test_a_track_that_is_not_recorded_does_not_degrade_the_recording():
    packets = arrive(talk(IN)), arrive(talk(OUT))[::3]
    assert recorded(packets)[1]["degraded"] == {"lost_packets": 66}
    manifest = recorded(packets, layout=Layout.INCOMING)[1]
    assert manifest["degraded"] is False


def test_late_undecoded_discarded_and_malformed_packets_degrade():
    def degraded(packets):
        return recorded([sorted(packets, key=lambda p: p.arrival_ns)], until=3 * RATE)[1]["degraded"]

    packets = arrive(talk((IN + IN)[: 3 * RATE]))
    assert degraded(packets) is False
    assert degraded([replace(p, payload_type=18) if n == 20 else p for n, p in enumerate(packets)]) == {
        "undecoded_packets": 1
    }
    assert degraded([replace(p, payload=bytes(4001)) if n == 30 else p for n, p in enumerate(packets)]) == {
        "malformed_packets": 1
    }
    assert degraded([late(p, 1200) if n == 60 else p for n, p in enumerate(packets)]) == {"late_packets": 1}
    # Another source sends once; the first one counts again 200 ms later.
    other = replace(packets[9], ssrc=0x2222, arrival_ns=packets[9].arrival_ns + 1)
    assert degraded([*packets, other])["discarded_packets"] == 10


def test_digits_of_the_recorded_tracks_and_time_are_told():
    def digit(symbol, position):
        return Digit(symbol, position, 800, DigitSource.EVENT)

    digits = [
        (Direction.INCOMING, digit("1", 3999)),
        (Direction.INCOMING, digit("2", 4000)),
        (Direction.OUTGOING, digit("3", 6000)),
        (Direction.INCOMING, digit("4", 15_999)),
        (Direction.INCOMING, digit("5", 16_000)),
    ]
    file, manifest = recorded(both(), start_position=4000, digits=digits)
    assert manifest["digits"] == [
        {"symbol": "2", "at": 0.0, "duration": 0.1, "track": "incoming", "source": "rfc4733"},
        {"symbol": "3", "at": 0.25, "duration": 0.1, "track": "outgoing", "source": "rfc4733"},
        {"symbol": "4", "at": 1.499875, "duration": 0.1, "track": "incoming", "source": "rfc4733"},
    ]
    assert [(cue.frame, cue.label, cue.duration_frames) for cue in wav.parse(file).cues] == [
        (0, "2 incoming", 800),
        (2000, "3 outgoing", 800),
        (11_999, "4 incoming", 1),
    ]
    _, manifest = recorded(both(), start_position=4000, digits=digits, layout=Layout.OUTGOING)
    assert [entry["symbol"] for entry in manifest["digits"]] == ["3"]


def test_an_empty_recording_is_a_whole_file():
    file, manifest = recorded(both(), start_position=RATE, until=RATE)
    assert (manifest["frames"], manifest["duration"]) == (0, 0.0)
    assert wav.parse(file).frames == 0


def test_drift_and_alignment_are_rounded_and_of_the_recorded_tracks():
    ppm = 150
    leg = new_leg()
    data = codes(60 * RATE)
    recording = recording_of(leg)
    recording.begin(0, STARTED_AT)
    for packet in arrive(talk(data, ppm=ppm)):
        leg.incoming.receive(packet.wire(), packet.arrival_ns)
        ready = max(leg.incoming.position, leg.incoming.ready(packet.arrival_ns))
        recording.add(leg.timelines.read(ready))
    manifest = recording.manifest([])
    assert manifest["tracks"][0]["drift_ppm"] == pytest.approx(ppm, abs=1)
    assert round(manifest["tracks"][0]["drift_ppm"], 2) == manifest["tracks"][0]["drift_ppm"]
    assert 0 < manifest["alignment_error_ms"] < 5


def test_moments_are_written_in_utc_with_milliseconds():
    assert (
        rfc3339(datetime(2026, 1, 1, 1, 2, 3, 4999, timezone(timedelta(hours=1))))
        == "2026-01-01T00:02:03.004Z"
    )


# ---- states ----


def test_the_table_of_states_is_the_one_in_the_prose():
    lines = recording_module.__doc__.splitlines()
    first = next(number for number, line in enumerate(lines) if "trigger" in line and "PROMPT" in line)
    triggers = [Trigger(word.lower()) for word in lines[first].split()[3:]]
    assert triggers == list(Trigger)
    table = {}
    for line in lines[first + 1 : first + 6]:
        state, *following = line.split()
        for trigger, word in zip(triggers, following, strict=True):
            if word != "-":
                table[State(state), trigger] = State(word)
    assert table == NEXT


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("trigger", Trigger)
def test_what_the_table_does_not_have_is_refused_and_changes_nothing(state, trigger):
    recording = recording_of(new_leg())
    recording.state = state
    if (state, trigger) in NEXT:
        recording.trigger(trigger)
        assert recording.state is NEXT[state, trigger]
    else:
        with pytest.raises(UsageError, match=f"{state} cannot {trigger}"):
            recording.trigger(trigger)
        assert recording.state is state
