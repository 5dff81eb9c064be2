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

ROW_MARKS = {
    vendor: marks.split()
    for vendor, marks in {
        "chime": """
            D DI I DI D D X DI DI C DI D D D DI I DI I I D I D I D I CI DI D DC DI D DI I I I DI DI
            D I I I DI D D I I D DI D I
        """,
        "sinch": """
            DI IX X I I D DI DI I C I D DI I I D D D I I DI D I D I I I DI DI I I I I DI D D I D D I
            D D DX D D D D I DI DI
        """,
        "graph": """
            D D D C I DI I DI D DI I I I D I D I I DI I I I DX I I I I DI D DI D I DI D I DI D I DI
            I I CI DI I D I DI I I I? DI D
        """,
    }.items()
}
"""The marks of each row of a vendor's table, in order; the tables are not part of the project. What only the pages of a
predecessor say is inferred."""

ROWS = {vendor: len(marks) for vendor, marks in ROW_MARKS.items()}

NO_DIALOGUE = {("graph", 3)}
"""Rows about what comes before a request reaches a call; their README names the tests that show them."""

MARKS = {"D", "C", "I", "X", "?"}
SEEDS = {"chime": 13, "sinch": 10, "graph": 3}
"""How many examples the vendor's pages print, of requests, messages, tables of errors and keys."""
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


def test_the_tables_have_as_many_rows_as_the_reference():
    assert ROWS == {"chime": 50, "sinch": 50, "graph": 52}


@pytest.mark.parametrize("vendor", ROWS)
def test_every_row_is_a_file_with_its_mark(vendor):
    elsewhere_only = {row for of, row in NO_DIALOGUE if of == vendor}
    shown = {}
    for path in dialogues(vendor):
        if not path.name.startswith("seed "):
            shown.setdefault(int(path.name[:2]), set()).add(document(path)["mark"])
    assert not shown.keys() & elsewhere_only
    assert shown.keys() | elsewhere_only == set(range(1, ROWS[vendor] + 1))
    assert [row for row, marks in sorted(shown.items()) if not marks & set(ROW_MARKS[vendor][row - 1])] == []


@pytest.mark.parametrize("vendor", ROWS)
def test_every_example_of_the_pages_is_a_file(vendor):
    assert len([path for path in dialogues(vendor) if path.name.startswith("seed ")]) == SEEDS[vendor]


@pytest.mark.parametrize("vendor", ROWS)
def test_a_row_without_a_dialogue_has_tests(vendor):
    where = dict(elsewhere(vendor))
    for row in (row for of, row in NO_DIALOGUE if of == vendor):
        assert named_tests(where[row])


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
