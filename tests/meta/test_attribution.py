"""Test files of others: each has its row, its licence and its notice."""

import re
from pathlib import Path

import pytest

from markdown_text import table

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
ATTRIBUTION = DATA / "ATTRIBUTION.md"
TEXTS = DATA / "LICENSES"

LICENCE = re.compile(
    r"MIT|BSD-[23]-Clause|Apache-2\.0|CC0-1\.0|CC-BY-\d\.\d|CC-BY-SA-\d\.\d|Unlicense|PSF-2\.0"
)
# Their notices and texts go with the files; of the others a link is enough.
NEEDS_TEXT = re.compile(r"MIT|BSD-.*|Apache-2\.0|PSF-2\.0")
NEEDS_NAME = re.compile(r"CC-BY.*")

ROWS = table(ATTRIBUTION.read_text("utf-8"), "file")


def test_every_file_has_a_row_and_every_row_a_file():
    listed = [row[0] for row in ROWS]
    there = [
        path.relative_to(DATA).as_posix()
        for path in DATA.rglob("*")
        if path.is_file() and path != ATTRIBUTION and TEXTS not in path.parents
    ]
    assert listed == sorted(there)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_names_origin_licence_and_notice(row):
    file, origin, changed, licence, notice = row
    assert LICENCE.fullmatch(licence), licence
    assert origin
    if changed == "none":
        assert re.split(r"[/ ]", origin)[-1] == Path(file).name
    (link,) = re.findall(r"\[[^]]+\]\(([^)]+)\)", notice)
    if NEEDS_TEXT.fullmatch(licence):
        text = (DATA / link).resolve()
        assert text.is_relative_to(ROOT)
        assert len(text.read_text("utf-8")) > 500
    else:
        assert link.startswith("https://")
    if NEEDS_NAME.fullmatch(licence):
        assert not notice.startswith("["), "who made it?"


def test_every_licence_text_is_of_a_file_here():
    linked = {Path(link).name for row in ROWS for link in re.findall(r"\(LICENSES/([^)]+)\)", row[4])}
    assert linked == {path.name for path in TEXTS.iterdir()}
