"""Whatever a settings file or the environment holds: it is settings or a UsageError, and no secret is in either."""

import datetime
import os
import tomllib
from pathlib import Path
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from callreel.errors import UsageError
from callreel.recorder.configuration import Configuration
from callreel.recorder.settable import KEYS, PREFIX, TABLES, VARIABLES, as_toml, spelt
from secret_watch import may_hold, secret

HUSH = secret("0123456789")
TEXTS = st.text(st.sampled_from([chr(one) for one in range(1, 127)] + ["é", "€"]), max_size=20)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    TEXTS,
    st.sampled_from(
        [HUSH, f"https://a:{HUSH}@b.example/", f"https://b.example/{HUSH}", "none", "s3://b", "HUSH"]
    ),
    st.datetimes(timezones=st.sampled_from([None, datetime.UTC])),
)
VALUES = (
    SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.sampled_from("abc"), SCALARS, max_size=2)
)
NAMES = [(table, name) for table in TABLES for name in [*spelt(table), "unknown"]]
NAMES += [(key.table, key.name) for key in KEYS.values() if key.is_secret]
DOCUMENTS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6)


def holds_a_secret(table, name):
    key = spelt(table).get(name) or KEYS.get(f"{table}.{name}")
    return key is not None and key.is_secret


def read(path):
    """What can be seen of reading it."""
    try:
        configuration = Configuration(path, options={"spool.folder": ("--spool", "x")})
        seen = "".join(f"{row}{row.value}{row.source}" for row in configuration.rows())
        return seen + repr(configuration.settings())
    except UsageError as error:
        return str(error)


def toml(value):
    """As TOML has it; infinities and numbers that are none have words of their own there."""
    return {"Infinity": "inf", "-Infinity": "-inf", "NaN": "nan"}.get(as_toml(value), as_toml(value))


def text_of(document):
    tables = {}
    for (table, name), value in document.items():
        values = [value] if not isinstance(value, list) else value
        written = f"[{', '.join(map(toml, values))}]" if isinstance(value, list) else toml(value)
        if isinstance(value, dict):
            written = "{" + ", ".join(f"{one} = {toml(it)}" for one, it in value.items()) + "}"
        tables.setdefault(table, []).append(f"{name} = {written}")
    return "\n".join(f"[{table}]\n" + "\n".join(lines) for table, lines in tables.items())


@given(document=DOCUMENTS)
def test_any_document_is_settings_or_a_usage_error_that_shows_no_secret(tmp_path_factory, document):
    document = {
        place: value
        for place, value in document.items()
        if holds_a_secret(*place)
        or HUSH not in repr(value)  # what stands in the place of something else may be shown
    }
    path = may_hold(tmp_path_factory.getbasetemp() / "callreel.toml")
    path.write_text(text_of(document), "utf-8")
    tomllib.loads(path.read_text("utf-8"))
    with mock.patch.dict(os.environ, {"HUSH": HUSH}):
        assert HUSH not in read(path)


@given(found=st.dictionaries(st.sampled_from(sorted(VARIABLES)), TEXTS | st.just(HUSH), max_size=5))
def test_any_environment_is_settings_or_a_usage_error_that_shows_no_secret(found):
    found = {name: text for name, text in found.items() if text != HUSH or VARIABLES[name][0].is_secret}
    with mock.patch.dict(os.environ, found):
        assert HUSH not in read(None)


@given(data=st.binary(max_size=200))
def test_any_bytes_are_settings_or_a_usage_error(tmp_path_factory, data):
    path = Path(tmp_path_factory.getbasetemp()) / "any.toml"
    path.write_bytes(data)
    read(path)


def test_what_the_tests_set_is_ours():
    assert all(name.startswith(PREFIX) for name in VARIABLES)
