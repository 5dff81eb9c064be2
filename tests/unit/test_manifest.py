import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callreel import manifest
from callreel.errors import CallreelError, ManifestError
from recordings import record


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return record(tmp_path_factory.mktemp("recordings"), lost=range(20, 30)).manifest


def changed(document, path, value):
    """A copy with the value at `path` replaced, or removed where `value` is `...`."""
    document = copy.deepcopy(document)
    *parents, last = path
    target = document
    for step in parents:
        target = target[step]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return document


def parse(document):
    return manifest.parse(json.dumps(document).encode())


def test_a_manifest_of_a_recording_is_taken_as_it_is(sound):
    assert parse(sound) == sound
    assert manifest.problems(sound) == ()


def test_keys_that_nobody_knows_are_no_problem(sound):
    assert manifest.problems({**sound, "x-retention": {"days": 30}}) == ()


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("version",), 2, "version is not 1: 2"),
        (("version",), True, "version is not 1: True"),
        (("version",), ..., "version is missing"),
        (("call_id",), None, "call_id is not text: None"),
        (("tracks",), {}, "tracks is not a list"),
        (("tracks", 0), "LEG-A", "tracks[0] is not an object"),
        (("tracks", 0, "direction"), "inward", "tracks[0].direction is not incoming|outgoing"),
        (("tracks", 1, "channel"), 2, "tracks[1].channel is 2, the recording has 2"),
        (("tracks", 0, "ssrc"), [1 << 32], "tracks[0].ssrc is not a list of 32-bit numbers"),
        (("tracks", 0, "packets"), [], "tracks[0].packets is not an object"),
        (("tracks", 0, "packets", "lost"), ..., "tracks[0].packets.lost is missing"),
        (("tracks", 0, "packets", "late"), -1, "tracks[0].packets.late is not a number of packets: -1"),
        (("tracks", 0, "packets", "received"), 1.5, "tracks[0].packets.received is not a number of packets"),
        (
            ("tracks", 0, "concealed_ms"),
            2001.0,
            "tracks[0].concealed_ms is 2001.0, the recording lasts 2.0 s",
        ),
        (("tracks", 0, "drift_ppm"), "fast", "tracks[0].drift_ppm is not parts per million or null"),
        (("tracks", 0, "gaps"), [{"from": 1, "to": 0.5}], "tracks[0].gaps[0] goes from 1 to 0.5 s"),
        (("tracks", 0, "gaps"), [{"from": 1, "to": 2.1}], "tracks[0].gaps[0] goes from 1 to 2.1 s"),
        (("tracks", 0, "gaps"), [{"from": 0, "to": 1}] * 1001, "tracks[0].gaps has 1001 entries"),
        (("started_at",), "yesterday", "started_at is not a moment"),
        (("started_at",), "2026-02-30T12:00:00.000Z", "started_at is not a moment"),
        (("duration",), -1, "duration is not seconds: -1"),
        (("duration",), 2.1, "duration is 2.1 s, 16000 frames at 8000 Hz last 2.000000 s"),
        (("sample_rate",), 0, "sample_rate is not frames per second: 0"),
        (("frames",), 16001, "duration is 2.0 s, 16001 frames at 8000 Hz last 2.000125 s"),
        (("channels",), 1, "layout stereo with 1 channels"),
        (("format",), "ogg", "format is not wav|mp3: 'ogg'"),
        (("layout",), ["stereo"], "layout is not stereo|incoming|outgoing|mix"),
        (("degraded",), True, "degraded is not false or an object: True"),
        (("digits", 0, "symbol"), "E", "digits[0].symbol is not 0|1|"),
        (("digits", 0, "symbol"), "", "digits[0].symbol is not"),
        (("digits", 0, "at"), 2.5, "digits[0] is at 2.5 s, the recording ends at 2.0 s"),
        (("digits", 0, "source"), "guess", "digits[0].source is not rfc4733|inband"),
        (("digits",), [7], "digits[0] is not an object: 7"),
        (("pauses",), [{"from": 0.5}], "pauses[0].to is missing"),
        (("pauses",), [{"from": 0.5, "to": 3}], "pauses[0] goes from 0.5 to 3 s"),
        (("bytes",), "64", "bytes is not a number of bytes: '64'"),
        (("sha256",), "F" * 64, "sha256 is not 64 lower-case hexadecimal digits"),
    ],
)
def test_each_contradiction_is_named(sound, path, value, words):
    assert any(words in problem for problem in manifest.problems(changed(sound, path, value)))
    with pytest.raises(ManifestError) as caught:
        parse(changed(sound, path, value))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object: []"),
        (b"null", "not a JSON object: None"),
        (b'{"version": 1', "not JSON"),
        (b'{"version": NaN}', "not JSON: NaN"),
        (b'{"version": 1, "more": 1e999}', "a number that is too large: '1e999'"),
        (b'{"version": 1, "version": 1}', "the key 'version' comes twice"),
        (b'{"frames": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b" " * (manifest.MANIFEST_MAX_BYTES + 1), "longer than"),
        ('{"call_id": "\u00e9"}'.encode("latin-1"), "not UTF-8 text (at byte 13)"),
        ('{"version": 1}'.encode("utf-16"), "not UTF-8 text"),
        (b"\xef\xbb\xbf{}", "not JSON"),
    ],
)
def test_what_is_no_json_object_is_refused_with_a_reason(data, words):
    with pytest.raises(ManifestError) as caught:
        manifest.parse(data)
    assert words in str(caught.value)
    assert isinstance(caught.value, CallreelError)


def test_an_offset_counts_bytes_and_not_characters():
    with pytest.raises(ManifestError) as caught:
        manifest.parse('{"call_id": "ééé", }'.encode())
    assert caught.value.offset is not None
    assert caught.value.offset >= len('{"call_id": "ééé"'.encode())


def test_numbers_too_large_for_a_float_are_a_problem_and_no_crash(sound):
    data = json.dumps(sound).replace('"duration": 2.0', '"duration": 1e999')
    with pytest.raises(ManifestError, match="a number that is too large: '1e999'"):
        manifest.parse(data.encode())
    assert "duration is not seconds" in "".join(manifest.problems({**sound, "duration": float("inf")}))
    for key in ("frames", "duration", "bytes"):
        assert any(key in problem for problem in manifest.problems({**sound, key: 10**4000}))


def test_the_list_of_problems_is_bounded(sound):
    wrong = {**sound, "digits": [None] * 1_000_000}
    found = manifest.problems(wrong)
    assert len(found) == manifest.PROBLEMS_MAX + 1
    assert found[-1] == "more problems than are listed here"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(
    path=st.sampled_from(
        [
            *((key,) for key in ("version", "tracks", "started_at", "duration", "sample_rate", "frames")),
            *((key,) for key in ("channels", "layout", "degraded", "digits", "pauses", "bytes", "sha256")),
            *(("tracks", 0, key) for key in ("channel", "ssrc", "packets", "concealed_ms", "gaps")),
            *(("digits", 0, key) for key in ("symbol", "at", "duration", "track")),
            ("tracks", 0),
            ("tracks", 0, "packets", "lost"),
        ]
    ),
    value=json_values,
)
@settings(deadline=None, max_examples=200)
def test_any_value_anywhere_is_taken_or_refused(sound, path, value):
    data = json.dumps(changed(sound, path, value)).encode()
    try:
        taken = manifest.parse(data)
    except ManifestError as error:
        assert error.problems  # noqa: PT017
    else:
        assert taken["duration"] == pytest.approx(taken["frames"] / taken["sample_rate"], abs=1e-5)


@given(st.binary(max_size=60))
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_refused(data):
    with pytest.raises(ManifestError):
        manifest.parse(data)
