"""The waveform below the player: what is drawn where, for recordings of any kind and length."""

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from callreel.service.strip import COLUMNS, draw_message, draw_strip, gaps_of, height_of

NAMES = ["incoming", "outgoing"]


def outline(channels=2, columns=4, duration=10.0, peak=0.5):
    one = {"high": [peak] * columns, "low": [-peak] * columns, "rms": [peak / 2] * columns}
    return {"duration": duration, "channels": [one | {"name": name} for name in NAMES[:channels]]}


def manifest(**more):
    tracks = [{"direction": name, "channel": number, "gaps": []} for number, name in enumerate(NAMES)]
    return {"tracks": tracks, "digits": [], "pauses": []} | more


def drawn(text, name=None):
    root = ElementTree.fromstring(text.replace(' xmlns="http://www.w3.org/2000/svg"', ""))
    return [one for one in root.iter() if name is None or name in (one.get("class") or "").split()]


def digit(symbol, at, track="incoming"):
    return {"symbol": symbol, "at": at, "duration": 0.1, "track": track, "source": "inband"}


def test_a_lane_for_each_channel_with_its_outline():
    for channels in (1, 2):
        text = draw_strip(outline(channels), manifest())
        assert len(drawn(text, "lane")) == channels
        assert len(drawn(text, "peak")) == channels
        assert drawn(text)[0].get("height") == str(height_of(channels))


def test_a_digit_stands_in_the_lane_of_its_track_at_its_share_of_the_time():
    text = draw_strip(outline(), manifest(digits=[digit("5", 2.5), digit("#", 7.5, "outgoing")]))
    lines = [one for one in drawn(text, "digit") if one.tag == "rect"]
    assert [one.get("x") for one in lines] == ["25%", "75%"]
    lanes = [int(one.get("y")) for one in drawn(text, "lane")]
    assert [int(one.get("y")) + 4 for one in lines] == lanes
    assert [one.text for one in drawn(text, "digit") if one.tag == "text"] == ["5", "#"]


def test_keys_that_are_close_together_are_all_marked_and_written_where_there_is_room():
    text = draw_strip(outline(), manifest(digits=[digit(str(n), 1 + n / 10) for n in range(10)]))
    assert len([one for one in drawn(text, "digit") if one.tag == "rect"]) == 10
    assert [one.text for one in drawn(text, "digit") if one.tag == "text"] == ["0", "2", "4", "6", "8"]


def test_a_pause_is_in_every_lane_and_lost_audio_in_its_own():
    tracks = manifest()["tracks"]
    tracks[1]["gaps"] = [{"from": 5.0, "to": 6.0}]
    text = draw_strip(outline(), manifest(tracks=tracks, pauses=[{"from": 1.0, "to": 3.0}]))
    assert [(one.get("x"), one.get("width")) for one in drawn(text, "pause")] == [("10%", "20%")] * 2
    (gap,) = drawn(text, "gap")
    assert (gap.get("x"), gap.get("width")) == ("50%", "10%")
    assert gap.get("y") == drawn(text, "lane")[1].get("y")
    assert gaps_of({"tracks": tracks}) == [(5.0, 6.0)]
    assert gaps_of({"tracks": tracks}, 0) == []


def test_a_loss_that_is_short_can_be_seen_and_many_of_them_stay_a_bounded_picture():
    tracks = manifest()["tracks"]
    tracks[0]["gaps"] = [{"from": n * 0.9, "to": n * 0.9 + 0.02} for n in range(1000)]
    digits = [digit("1", n * 0.1) for n in range(30_000)]
    text = draw_strip(outline(columns=COLUMNS, duration=3600.0), manifest(tracks=tracks, digits=digits))
    assert len(text) < 500_000
    assert all(float(one.get("width").rstrip("%")) >= 0.1 for one in drawn(text, "gap"))
    assert len([one for one in drawn(text, "digit") if one.tag == "rect"]) <= COLUMNS + 1


def test_a_quiet_recording_fills_its_lane_and_silence_is_a_line():
    for peak, least in ((0.02, 0.9), (0.0, 0.01)):
        (path, _) = drawn(draw_strip(outline(peak=peak), manifest()), "peak")
        heights = [abs(float(point.split()[1])) for point in path.get("d")[1:-1].split("L")]
        assert min(heights) >= least
        assert max(heights) <= 1


@given(
    st.integers(0, 2),
    st.floats(0, 1e9),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn"]), max_size=5),
    st.lists(st.tuples(st.floats(-10, 1e10), st.floats(-10, 1e10)), max_size=5),
)
def test_whatever_a_manifest_says_the_picture_is_xml_and_within_its_frame(channels, duration, symbol, spans):
    stretches = [{"from": begin, "to": end} for begin, end in spans]
    text = draw_strip(
        outline(channels, duration=duration),
        {"pauses": stretches, "digits": [digit(symbol, begin, symbol) for begin, _ in spans]},
    )
    for one in drawn(text):
        for name in ("x", "width"):
            place = one.get(name, "0")
            if place.endswith("%"):
                assert 0 <= float(place[:-1]) <= 100.2
    assert "<script" not in text


def test_a_message_is_shown_as_it_is():
    (text,) = [one.text for one in drawn(draw_message("No <b>waveform</b> & nothing")) if one.tag == "text"]
    assert text == "No <b>waveform</b> & nothing"
