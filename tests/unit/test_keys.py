"""Object keys: the vendor's layout, and ids that cannot break out of it."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callreel.keys import CHIME_DEFAULT_PREFIX, MAX_COMPONENT_BYTES, call_recording_key, safe_component

# Lone surrogates too: JSON can carry them.
texts = st.text(st.characters(), max_size=300) | st.text(
    st.sampled_from("a%2E.~/\\é\udcc3\udca9\ud800 _"), max_size=12
)
quick = settings(deadline=None, max_examples=300)


def key(**options) -> str:
    values = {
        "prefix": None,
        "started_at": datetime(2026, 1, 2, 3, 4, 5, 678_999, UTC),
        "transaction_id": "tx-1",
        "call_id": "call-1",
        "extension": "wav",
    }
    return call_recording_key(**{**values, **options})


def test_the_layout_is_the_vendors_to_the_millisecond():
    assert CHIME_DEFAULT_PREFIX == "Amazon-Chime-SMA-Call-Recordings"
    assert key() == "Amazon-Chime-SMA-Call-Recordings/2026/01/02/2026-01-02-03-04-05-678_tx-1_call-1.wav"


def test_what_would_have_the_same_key_is_counted_from_the_second_on():
    assert key(number=1) == key()
    assert key(number=2).endswith("_tx-1_call-1_2.wav")


def test_a_given_prefix_takes_the_place_of_the_default():
    assert key(prefix="a/b", extension="mp3") == "a/b/2026/01/02/2026-01-02-03-04-05-678_tx-1_call-1.mp3"


def test_milliseconds_have_three_digits_and_are_not_rounded_up():
    assert "-05-000_" in key(started_at=datetime(2026, 1, 2, 3, 4, 5, 999, UTC))
    assert "-59-999_" in key(started_at=datetime(2026, 12, 31, 23, 59, 59, 999_999, UTC))


def test_the_date_is_that_of_utc():
    local = datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert key(started_at=local).startswith(f"{CHIME_DEFAULT_PREFIX}/2025/12/31/2025-12-31-23-30-00-000_")


@quick
@given(texts, texts)
def test_no_id_adds_a_folder_or_grows_the_name_without_bound(transaction_id, call_id):
    composed = key(transaction_id=transaction_id, call_id=call_id)
    assert composed.count("/") == 4
    name = composed.rsplit("/", 1)[1]
    assert len(name) <= 23 + 1 + 64 + 1 + 128 + 4
    assert name.isascii()


@quick
@given(texts, st.integers(40, 250))
def test_a_component_is_short_and_safe(text, max_bytes):
    safe = safe_component(text, max_bytes=max_bytes)
    assert 0 < len(safe) <= max_bytes
    assert safe not in (".", "..")
    assert set(safe) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!_.'()@+=,-%~")


@quick
@given(texts, texts)
def test_different_texts_stay_different(one, other):
    assert (safe_component(one, max_bytes=64) == safe_component(other, max_bytes=64)) == (one == other)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain-Call.ID_1", "plain-Call.ID_1"),
        ("abc@10.0.0.1", "abc@10.0.0.1"),
        ("", "~"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("...", "..."),
        ("../../etc", "..%2F..%2Fetc"),
        ("a b%é", "a%20b%25%C3%A9"),
        ("\0", "%00"),
    ],
)
def test_characters_outside_the_common_ones_become_percent_codes(text, expected):
    assert safe_component(text) == expected


def test_what_is_too_long_is_cut_and_ends_in_a_digest():
    long, longer = "x" * 200, "x" * 201
    assert safe_component(long) == long
    cut = safe_component(longer)
    assert len(cut) == MAX_COMPONENT_BYTES
    assert cut[:-16] == "x" * 183 + "~"
    assert cut != safe_component("x" * 202)
