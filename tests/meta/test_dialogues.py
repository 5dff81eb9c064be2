"""Every row of the vendors' edge-case tables is shown: by a dialogue, or by what the vendor's README names."""

import ast
import importlib.util
import json
import re
from functools import cache

import pytest

from dialogue import FOLDER, dialogues
from markdown_text import table
from project import ROOT

ROWS = {"chime": 50, "sinch": 50, "graph": 52}
"""How many rows each vendor's table has; the tables are not part of the project."""

MARKS = {"D", "C", "I", "X", "?"}
FILES = [path for vendor in ROWS for path in dialogues(vendor)]
NAMES = [f"{path.parent.name}-{path.stem}" for path in FILES]


@cache
def document(path):
    return json.loads(path.read_text("utf-8"))


def elsewhere(vendor):
    """(row, where) of the vendor's README."""
    rows = table((FOLDER / vendor / "README.md").read_text("utf-8"), "row")
    return [(int(re.match(r"\d+", row)[0]), where) for row, where in rows]


def names_of_tests(path):
    """The names of the tests in a file; none when it is not there."""
    if not path.is_file():
        return set()
    tree = ast.parse(path.read_text("utf-8"))
    return {
        one.name for one in tree.body if isinstance(one, ast.FunctionDef) and one.name.startswith("test_")
    }


def named_tests(where):
    """(file, test) that a cell names; the test is empty where the whole file is meant."""
    found, file = [], None
    for name in re.findall(r"tests/[\w/]+\.py|\btest_\w+\b(?!\.py)", where):
        if name.startswith("tests/"):
            file = name
            found.append((file, ""))
        else:
            found.append((file, name))
    return found


@pytest.mark.parametrize("vendor", ROWS)
def test_every_row_has_a_dialogue_or_a_test(vendor):
    shown = {int(path.name[:2]) for path in dialogues(vendor) if not path.name.startswith("seed ")}
    shown |= {row for row, where in elsewhere(vendor) if named_tests(where)}
    assert shown == set(range(1, ROWS[vendor] + 1))


@pytest.mark.parametrize("vendor", ROWS)
def test_every_test_that_a_readme_names_is_there(vendor):
    text = (FOLDER / vendor / "README.md").read_text("utf-8")
    named = [one for _, where in elsewhere(vendor) for one in named_tests(where)] + named_tests(text)
    assert named
    for file, name in named:
        tests = names_of_tests(ROOT / file)
        assert tests, f"{file} has no tests"
        assert not name or name in tests, f"{file} has no {name}"


def test_the_search_for_named_tests_finds_them():
    assert named_tests("`tests/unit/test_a.py`: `test_one`; tests/unit/test_b.py::test_two, test_three") == [
        ("tests/unit/test_a.py", ""),
        ("tests/unit/test_a.py", "test_one"),
        ("tests/unit/test_b.py", ""),
        ("tests/unit/test_b.py", "test_two"),
        ("tests/unit/test_b.py", "test_three"),
    ]
    assert named_tests("the service, which parses what it receives") == []


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_dialogue_is_named_after_its_row_and_marked(path):
    number, _, words = path.stem.partition(" ")
    case = document(path)["case"]
    assert words
    assert case == "seed" if number == "seed" else re.fullmatch(r"\d\d", number) and int(case) == int(number)
    assert document(path)["mark"] in MARKS
    assert document(path)["title"]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_dialogue_expects_something(path):
    expects = [document(path).get(part) for part in ("messages", "recordings", "performs")]
    expects += [step.get("response", step.get("http")) for step in document(path)["steps"]]
    assert any(expects)


def test_every_file_is_played():
    path = ROOT / "tests" / "conformance" / "test_dialogues.py"
    spec = importlib.util.spec_from_file_location("conformance_dialogues", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert {path for _, path in module.FILES} == set(FOLDER.rglob("*.json"))
    assert set(FILES) == set(FOLDER.rglob("*.json"))
