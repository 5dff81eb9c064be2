import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callreel import waveform
from callreel.inspection import inspect
from callreel.kernels import wav
from recordings import record, rewrite, run

SVG = "{http://www.w3.org/2000/svg}"
SIZE_MAX_BYTES = 400_000


def draw(path):
    text = waveform.draw(inspect(path, columns=waveform.COLUMNS))
    return text, ElementTree.fromstring(text)


def texts(root):
    return ["".join(one.itertext()) for one in root.iter(f"{SVG}text")]


def with_class(root, name):
    return [one for one in root.iter() if name in one.get("class", "").split()]


@pytest.fixture
def recorded(tmp_path):
    return record(tmp_path)


def test_both_channels_are_drawn_under_the_names_of_their_tracks(recorded):
    _, root = draw(recorded.path)
    assert {"incoming", "outgoing"} <= set(texts(root))
    assert len(with_class(root, "cr-lane")) == 2
    assert with_class(root, "cr-rms0")
    assert with_class(root, "cr-rms1")


def test_digits_stand_where_they_begin(recorded):
    _, root = draw(recorded.path)
    bars = [
        float(one.get("x"))
        for one in with_class(root, "cr-digit")
        if one.tag == f"{SVG}rect" and "rx" not in one.attrib
    ]
    expected = [waveform.LEFT + waveform.COLUMNS * digit["at"] / 2.0 for digit in recorded.manifest["digits"]]
    assert [digit["symbol"] for digit in recorded.manifest["digits"]] == ["1", "5", "#"]
    assert bars == pytest.approx(expected, abs=0.1)
    assert [one.text for one in with_class(root, "cr-digit") if one.tag == f"{SVG}text"] == ["1", "5", "#"]


def test_digits_come_from_the_marks_of_the_file_when_there_is_no_manifest(recorded):
    recorded.manifest_path.unlink()
    _, root = draw(recorded.path)
    assert [one.text for one in with_class(root, "cr-digit") if one.tag == f"{SVG}text"] == ["1", "5", "#"]
    assert any(
        "1 at 0:00:00.5" in (one.text or "") and "mark in the file" in one.text
        for one in root.iter(f"{SVG}title")
    )


def test_digits_are_those_heard_when_nothing_else_tells(test_data):
    _, root = draw(test_data("dtmf/digits.321.unclean.8000hz.wav"))
    assert [one.text for one in with_class(root, "cr-digit") if one.tag == f"{SVG}text"] == ["3", "2", "1"]


def test_pauses_and_lost_audio_are_marked_in_their_place(recorded):
    tracks = json.loads(json.dumps(recorded.manifest["tracks"]))
    tracks[1]["gaps"] = [{"from": 0.5, "to": 0.75}, {"from": 0.75, "to": 1.0}]
    rewrite(recorded, tracks=tracks, pauses=[{"from": 1.5, "to": 2.0}])
    _, root = draw(recorded.path)
    (gap,) = [one for one in with_class(root, "cr-gap") if "rx" not in one.attrib]
    outgoing = with_class(root, "cr-lane")[1]
    assert float(gap.get("x")) == waveform.LEFT + waveform.COLUMNS / 4
    assert float(gap.get("width")) == waveform.COLUMNS / 4
    assert gap.get("y") == outgoing.get("y")
    pauses = [one for one in with_class(root, "cr-pause") if "rx" not in one.attrib]
    assert [float(one.get("x")) for one in pauses] == [waveform.LEFT + waveform.COLUMNS * 3 / 4] * 2
    assert {"pause", "lost or concealed audio"} <= set(texts(root))


def test_the_outline_follows_the_audio(tmp_path):
    path = tmp_path / "step.wav"
    loud, quiet = (16384).to_bytes(2, "little") * 80_000, bytes(160_000)
    path.write_bytes(wav.header(sample_rate=8000, channels=1, frames=160_000) + quiet + loud)
    channel = inspect(path, columns=100).measured[0]
    assert channel.envelope is not None
    assert channel.envelope.high == pytest.approx([0.0] * 50 + [0.5] * 50, abs=1e-4)
    assert channel.envelope.rms == pytest.approx([0.0] * 50 + [0.5] * 50, abs=1e-4)


def test_an_outline_of_short_columns_tells_least_and_greatest_apart(tmp_path):
    path = tmp_path / "ramp.wav"
    samples = [-32768, -16384, 0, 8192, 16384, 32767]
    audio = b"".join(one.to_bytes(2, "little", signed=True) for one in samples)
    path.write_bytes(wav.header(sample_rate=8000, channels=1, frames=6) + audio)
    envelope = inspect(path, columns=3).measured[0].envelope
    assert envelope is not None
    assert envelope.low == pytest.approx([-1.0, 0.0, 0.5], abs=1e-4)
    assert envelope.high == pytest.approx([-0.5, 0.25, 1.0], abs=1e-4)


def test_three_hours_make_no_larger_a_picture_than_three_minutes(tmp_path):
    path = tmp_path / "long.wav"
    frames = 3 * 3600 * 8000
    header = wav.header(sample_rate=8000, channels=2, frames=frames)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 4 * frames)  # sparse: takes no room
    text, root = draw(path)
    assert len(text) < SIZE_MAX_BYTES
    assert "3:00:00" in texts(root)
    assert all(
        len(re.findall("[ML]", one.get("d", ""))) <= 2 * waveform.COLUMNS
        for one in with_class(root, "cr-peak0")
    )


def test_ten_thousand_digits_and_all_gaps_stay_within_bounds(recorded):
    tracks = json.loads(json.dumps(recorded.manifest["tracks"]))
    for track in tracks:
        track["gaps"] = [{"from": n / 500, "to": n / 500 + 0.001} for n in range(1000)]
    digit = {"symbol": "5", "duration": 0.0, "track": "incoming", "source": "rfc4733"}
    rewrite(recorded, tracks=tracks, digits=[{**digit, "at": n / 5000} for n in range(10_000)])
    text, root = draw(recorded.path)
    assert len(text) < 1_000_000
    assert "9000 more digits" in texts(root)


def test_texts_of_others_are_escaped_and_stay_texts(tmp_path):
    hostile = '</text><script>alert("&")</script>\x07\ud800'
    recorded = record(tmp_path, call_id="call")
    rewrite(recorded, call_id=hostile, end_reason="<&>\"'")
    text, root = draw(recorded.path)
    assert "<script" not in text
    assert not list(root.iter(f"{SVG}script"))
    line = next(one for one in texts(root) if one.startswith("call </text>"))
    assert '<script>alert("&")</script>\ufffd\ufffd' in line
    assert "<&>\"'" in line


@given(label=st.text(max_size=40), name=st.text(max_size=40))
@settings(deadline=None, max_examples=60)
def test_any_text_gives_well_formed_xml(sound_inspection, label, name):
    assert sound_inspection.wav is not None
    cue = wav.Cue(frame=10, label=label)
    changed = dataclasses.replace(
        sound_inspection,
        path=sound_inspection.path.with_name("x" + name.replace("/", "").replace("\0", "")),
        wav=dataclasses.replace(sound_inspection.wav, cues=(cue,)),
    )
    root = ElementTree.fromstring(waveform.draw(changed))
    assert root.tag == f"{SVG}svg"


@pytest.fixture(scope="module")
def sound_inspection(tmp_path_factory):
    recorded = record(tmp_path_factory.mktemp("drawn"))
    recorded.manifest_path.unlink()
    return inspect(recorded.path, columns=waveform.COLUMNS)


def test_the_picture_stands_for_itself_and_names_itself(recorded):
    text, root = draw(recorded.path)
    assert root.get("role") == "img"
    title, desc = (root.find(f"{SVG}{name}") for name in ("title", "desc"))
    assert root.get("aria-labelledby").split() == [title.get("id"), desc.get("id")]
    assert recorded.path.name in title.text
    assert "1 at 0:00:00.5" in desc.text
    assert not re.search(r"<script|<image|@import|@font-face|href|https?://(?!www\.w3\.org/2000/svg)", text)
    assert "prefers-color-scheme:dark" in text


def test_what_cannot_be_decoded_is_a_lane_that_says_so(test_data):
    _, root = draw(test_data("wav/tinytag-gsm_6_10.wav"))
    assert any("gsm610" in one for one in texts(root))


def test_no_audio_at_all_is_a_picture_too(tmp_path):
    path = tmp_path / "empty.wav"
    path.write_bytes(wav.header(sample_rate=8000, channels=2, frames=0))
    _, root = draw(path)
    assert {"left", "right", "0 s"} <= set(texts(root))


@pytest.mark.parametrize("seconds", [1 / 8000, 0.004, 0.9, 1.0, 59.99, 61, 3599, 86400, 1e7])
def test_the_time_axis_has_few_ticks_within_the_recording(sound_inspection, seconds):
    changed = dataclasses.replace(sound_inspection, frames=round(8000 * seconds))
    ticks = waveform._Picture(changed)._ticks()
    assert 1 <= len(ticks) <= waveform.TICKS_MAX + 1
    assert ticks[0] == 0
    assert ticks[-1] <= seconds * (1 + 1e-6)


def test_more_channels_than_are_drawn_are_counted(tmp_path):
    path = tmp_path / "many.wav"
    path.write_bytes(wav.header(sample_rate=8000, channels=40, frames=10) + bytes(800))
    _, root = draw(path)
    assert len(with_class(root, "cr-lane")) == 16
    assert "24 more channels" in texts(root)


def test_the_command_writes_the_picture(recorded, tmp_path):
    outcome = run("inspect", recorded.path, "--plot", tmp_path / "out.svg")
    assert outcome.status == 0
    assert ElementTree.parse(tmp_path / "out.svg").getroot().tag == f"{SVG}svg"


def test_the_command_draws_one_file_and_never_over_it(recorded, tmp_path):
    before = recorded.path.read_bytes()
    assert run("inspect", recorded.path, recorded.path, "--plot", tmp_path / "out.svg").status == 2
    assert not (tmp_path / "out.svg").exists()
    outcome = run("inspect", recorded.path, "--plot", recorded.path)
    assert outcome.status == 2
    assert "it is the file to be drawn" in outcome.err
    assert recorded.path.read_bytes() == before
    assert run("inspect", recorded.path, "--plot", tmp_path / "no" / "such" / "folder.svg").status == 2
