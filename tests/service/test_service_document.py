"""docs/service.md: its settings can be set, its paths are there, its figures are those of the code."""

import json
import re

import pytest

from callreel.service import limits
from callreel.service.vendors import VendorSettings
from markdown_text import code_spans, section, table
from project import ROOT
from service_host import listening
from vendor_customers import SIGNING, service_in

TEXT = (ROOT / "docs" / "service.md").read_text("utf-8")
VENDORS = ("## Amazon Chime SDK", "## Sinch", "## Microsoft Graph")
PATHS = [code_spans(path)[0] for one in VENDORS for _, path in table(section(TEXT, one), "operation")]


def test_the_settings_that_it_shows_can_be_set(tmp_path):
    code = re.search(r"```python\n(from pathlib.*?)```", TEXT, re.DOTALL)[1]
    code = code.replace("/etc/callreel", str(tmp_path))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "entra-keys.json").write_text(json.dumps(SIGNING.jwks))
    names = {}
    exec(compile(code, "docs/service.md", "exec"), names)
    vendors = names["vendors"]
    assert isinstance(vendors, VendorSettings)
    with listening(service_in(tmp_path, vendors=vendors)) as running:
        assert running.client().get("/healthz").status_code == 200


@pytest.fixture(scope="module")
def routes(tmp_path_factory):
    with listening(service_in(tmp_path_factory.mktemp("service"))) as running:
        document = running.client().get("/openapi.json").json()
    return {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}


def test_every_path_that_it_names_is_there_and_none_is_missing(routes):
    named = set(PATHS)
    assert len(named) == len(PATHS)
    assert named <= routes
    rest = {one for one in routes - named if not re.match(r"\w+ /(v1|healthz|readyz|metrics)", one)}
    assert all(
        re.search(r" /(app|applications/\{application_id\}|communications)/calls/", one) for one in rest
    ), rest


def test_the_limits_that_it_names_are_those_of_the_code():
    row = next(line for line in TEXT.splitlines() if line.startswith("| body |"))
    figures = [int(one) for one in re.findall(r"\d+", row)]
    assert figures == [limits.BODY_BYTES >> 10, limits.NESTING, limits.BODY_S, 413, 400, 408]
