"""docs/engine.md says what is so: events, arguments, the order of ends, and every behaviour that was inferred."""

import inspect
import json
import re

import pytest

from callreel import events
from callreel.actions import EndReason
from callreel.dialects.chime import Chime
from callreel.dialects.graph import Graph
from callreel.dialects.sinch import Sinch
from callreel.recording import PAUSE_TONE
from dialogue import dialogues
from markdown_text import code_spans, section, table
from project import ROOT

TEXT = (ROOT / "docs" / "engine.md").read_text("utf-8")
SESSIONS = {
    "chime": ("### Amazon Chime", Chime),
    "sinch": ("### Sinch", Sinch),
    "graph": ("### Microsoft Graph", Graph),
}


def inferred(vendor):
    for path in dialogues(vendor):
        document = json.loads(path.read_text("utf-8"))
        if document["mark"] in ("I", "X"):
            number, _, words = path.stem.partition(" ")
            yield [number, words, document["title"], document["mark"]]


@pytest.mark.parametrize("vendor", SESSIONS)
def test_every_inferred_behaviour_that_a_dialogue_shows_is_listed(vendor):
    listed = table(section(TEXT, SESSIONS[vendor][0]), "row")
    assert listed == list(inferred(vendor))


@pytest.mark.parametrize("vendor", SESSIONS)
def test_every_argument_of_a_session_is_listed_with_its_default(vendor):
    heading, session = SESSIONS[vendor]
    listed = {
        code_spans(name)[0]: default
        for name, default, _ in table(section(TEXT, heading), f"argument of `{session.__name__}`")
    }

    def written(default):
        if default is inspect.Parameter.empty:
            return "required"
        return f"`{str(default)!r}`" if isinstance(default, str) else f"`{default!r}`"

    there = {
        name: written(parameter.default) for name, parameter in inspect.signature(session).parameters.items()
    }
    assert listed == there


def test_the_order_of_the_ends_is_that_of_the_code():
    listed = re.findall(r"^\d+\. `(\w+)`:", TEXT, re.MULTILINE)
    assert listed == [reason.value for reason in EndReason]


def test_every_event_is_in_the_table():
    listed = [name for row in table(TEXT, "an event") for name in code_spans(row[0])]
    assert sorted(listed) == sorted(one.__name__ for one in events.Event.__args__)


def test_the_tone_of_a_pause_is_the_one_it_names():
    assert PAUSE_TONE == {"hz": 1000.0, "seconds": 0.2, "dbm0": -18.0}
    assert "1 kHz, 0.2 s, -18 dBm0" in TEXT


def test_every_file_it_names_is_there():
    named = [one for one in code_spans(TEXT) if re.fullmatch(r"(src|tests|docs)/[\w./]+", one)]
    assert len(named) > 10
    assert [one for one in named if not (ROOT / one).exists()] == []
