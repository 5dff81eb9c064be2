"""Amazon Chime's StartCallRecording: what is read from it, and what is refused with which error."""

import pytest

from callreel.actions import Layout, StartRecording
from callreel.dialects import chime
from callreel.errors import ActionError, InvalidActionError, UnsupportedActionError


def start(track="BOTH", location="my-bucket/my/prefix", **others):
    return {
        "Type": "StartCallRecording",
        "Parameters": {
            "CallId": "id-1",
            "Track": track,
            "Destination": {"Type": "S3", "Location": location},
            **others,
        },
    }


@pytest.mark.parametrize(
    ("track", "layout"),
    [("BOTH", Layout.STEREO), ("INCOMING", Layout.INCOMING), ("OUTGOING", Layout.OUTGOING)],
)
def test_the_track_decides_the_layout(track, layout):
    assert chime.actions(start(track)) == [StartRecording(layout=layout, prefix="my/prefix")]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda action: action,
        lambda action: [action],
        lambda action: {"Actions": [action]},
        lambda action: {"SchemaVersion": "1.0", "Actions": [action]},
        lambda action: {"Statement": [action]},
        lambda action: {"Statement": action},
    ],
)
def test_every_form_of_the_document(wrap):
    assert chime.actions(wrap(start())) == [StartRecording(prefix="my/prefix")]


def test_a_response_without_actions_asks_for_nothing():
    assert chime.actions({"SchemaVersion": "1.0", "Actions": []}) == []


@pytest.mark.parametrize(
    "document",
    [
        None,
        5,
        "StartCallRecording",
        {},
        {"Actions": None},
        {"Actions": "x"},
        {"Actions": ["x"]},
        [None],
        {"Actions": {}},
    ],
)
def test_what_is_no_list_of_actions_is_invalid(document):
    with pytest.raises(InvalidActionError) as error:
        chime.actions(document)
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize("kind", sorted(chime.OTHER_ACTIONS))
def test_the_vendors_other_actions_are_not_offered_yet(kind):
    with pytest.raises(UnsupportedActionError, match=kind) as error:
        chime.actions([start(), {"Type": kind, "Parameters": {}}])
    assert (error.value.field, error.value.value) == ("Type", kind)


@pytest.mark.parametrize("kind", [None, "startcallrecording", "", 7, ["StartCallRecording"], {}])
def test_an_action_that_does_not_exist_is_invalid(kind):
    with pytest.raises(InvalidActionError, match="there is no action") as error:
        chime.actions({"Actions": [{"Type": kind}]})
    assert error.value.field == "Type"


@pytest.mark.parametrize("parameters", [None, [], "x"])
def test_parameters_are_needed(parameters):
    with pytest.raises(InvalidActionError) as error:
        chime.start_call_recording(parameters)
    assert error.value.field == "Parameters"


@pytest.mark.parametrize("track", [None, "both", "STEREO", 1, ["BOTH"], {}])
def test_a_track_the_vendor_does_not_have(track):
    with pytest.raises(InvalidActionError, match="BOTH, INCOMING, OUTGOING") as error:
        chime.actions(start(track))
    assert (error.value.field, error.value.value) == ("Track", track)


@pytest.mark.parametrize(
    "destination", [None, "my-bucket", {}, {"Type": "s3"}, {"Type": "FTP", "Location": "b"}]
)
def test_a_destination_that_is_not_s3(destination):
    with pytest.raises(InvalidActionError) as error:
        chime.actions(start(Destination=destination))
    assert error.value.field == "Destination.Type"


@pytest.mark.parametrize("location", [None, 5, ["b"]])
def test_a_location_that_is_no_text(location):
    with pytest.raises(InvalidActionError) as error:
        chime.actions(start(location=location))
    assert error.value.field == "Destination.Location"


@pytest.mark.parametrize(
    ("location", "prefix"),
    [
        ("my-bucket", None),
        ("my-bucket/", None),
        ("my-bucket/a", "a"),
        ("my-bucket/a/", "a"),
        ("my-bucket/a/b c/ü", "a/b c/ü"),
        ("my-bucket/" + "x" * 700, "x" * 700),
    ],
)
def test_a_location_is_a_bucket_and_an_optional_prefix(location, prefix):
    assert chime.actions(start(location=location))[0].prefix == prefix


@pytest.mark.parametrize(
    "path",
    ["", "/a", "b//", "b//a", "b/a//", "b/../a", "b/./a", "b/a/..", "b/" + "x" * 701, "b/" + "ü" * 351]
    + [f"b/a{character}c" for character in '\\:*?"<>|\x00\n\x7f\ud800'],
)
def test_a_location_that_would_break_keys_or_file_names(path):
    with pytest.raises(ActionError) as error:
        chime.actions(start(location=path))
    assert isinstance(error.value, InvalidActionError)
    assert error.value.field == "Destination.Location"


@pytest.mark.parametrize(
    ("duration_s", "text"), [(0, "0"), (1.5, "1.5"), (10, "10"), (3661.0625, "3661.062"), (0.0004, "0")]
)
def test_the_metadata_of_the_object(duration_s, text):
    assert chime.metadata(transaction_id="t", call_id="c", duration_s=duration_s, media_type="audio/wav") == {
        "transaction-id": "t",
        "call-id": "c",
        "recording-duration": text,
        "recording-audio-file-format": "audio/wav",
    }
