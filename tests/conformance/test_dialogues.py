"""What the vendors' pages and the edge-case tables of the reference ask for, one file a case in `dialogues`."""

import json
from itertools import chain, count

import pytest

from callreel.dialects.chime import Chime
from callreel.dialects.graph import Graph
from callreel.dialects.sinch import Sinch
from dialogue import Dialogue, dialogues


def graph(*, ids=(), tokens=(), audio_active=True, **options):
    """Ids and tokens as given, then id-1, id-2 ... and token-1, token-2 ..."""
    new_id = chain(ids, (f"id-{n}" for n in count(1))).__next__
    new_token = chain(tokens, (f"token-{n}" for n in count(1))).__next__
    options = {"base_url": "https://graph.microsoft.com", **options}
    session = Graph(new_id=new_id, new_token=new_token, **options)
    session.audio_active = audio_active
    return session


SESSIONS = {"chime": Chime, "graph": graph, "sinch": Sinch}
FILES = [(vendor, path) for vendor in SESSIONS for path in dialogues(vendor)]


@pytest.mark.parametrize(("vendor", "path"), FILES, ids=[f"{vendor}-{path.stem}" for vendor, path in FILES])
def test_a_dialogue_goes_as_its_file_says(vendor, path):
    document = json.loads(path.read_text("utf-8"))
    dialogue = Dialogue(document, SESSIONS[vendor](**document.get("session", {})))
    dialogue.run()
    assert dialogue.check() == []
