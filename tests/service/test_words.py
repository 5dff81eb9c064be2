"""How moments, lengths, sizes and levels are written on the operator's page."""

import math

import pytest

from callreel.service import words


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (words.moment("2026-11-20T10:30:00.250+01:00"), "2026-11-20 09:30:00"),
        (words.moment(0), "1970-01-01 00:00:00"),
        (words.moment("yesterday"), "yesterday"),
        (words.moment(1e20), "1e+20"),
        (words.moment(""), "—"),
        (words.duration(0), "0:00.0"),
        (words.duration(59.96), "1:00.0"),
        (words.duration(754.25), "12:34.2"),
        (words.duration(36_605.5), "10:10:05.5"),
        (words.duration(-1), "0:00.0"),
        (words.age(0.4), "0 s"),
        (words.age(119), "119 s"),
        (words.age(120), "2 min"),
        (words.age(86_400), "24 h"),
        (words.age(3 * 86_400), "3 d"),
        (words.age(-5), "0 s"),
        (words.size(999), "999 bytes"),
        (words.size(1500), "1.5 kB"),
        (words.size(194_000), "194 kB"),
        (words.size(2.5e12), "2.5 TB"),
        (words.decibels(-14.4), "−14 dBm0"),
        (words.decibels(-math.inf), "silent"),
        (words.title("media_timeout"), "Media timeout"),
    ],
)
def test_it_is_written_so(written, expected):
    assert written == expected
