"""docs/service.md: its settings can be set, its paths are there, its figures are those of the code."""

import json
import re
from dataclasses import fields

import pytest

from callreel.errors import UsageError
from callreel.service import limits
from callreel.service.configuration import read_settings
from callreel.service.vendors import VendorSettings
from markdown_text import code_spans, fenced, section, table
from project import ROOT
from secret_watch import may_hold, secret
from service_host import listening
from vendor_customers import SIGNING, service_in

TEXT = (ROOT / "docs" / "service.md").read_text("utf-8")
VENDORS = ("## Amazon Chime SDK", "## Sinch", "## Microsoft Graph")
PATHS = [code_spans(path)[0] for one in VENDORS for _, path in table(section(TEXT, one), "operation")]


def shown(folder):
    """The settings in Python, with their files in another folder."""
    code = re.search(r"```python\n(from pathlib.*?)```", TEXT, re.DOTALL)[1]
    return code.replace("/etc/callreel", str(folder))


def test_the_settings_that_it_shows_can_be_set(tmp_path):
    code = shown(tmp_path)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "entra-keys.json").write_text(json.dumps(SIGNING.jwks))
    names = {}
    exec(compile(code, "docs/service.md", "exec"), names)
    vendors = names["vendors"]
    assert isinstance(vendors, VendorSettings)
    with listening(service_in(tmp_path, vendors=vendors)) as running:
        assert running.client().get("/healthz").status_code == 200


def settings_of(tmp_path, text):
    """The settings of an open service, with those of a text in TOML."""
    path = tmp_path / "callreel.toml"
    spool = '[spool]\nfolder = "spool"\n[delivery]\ndestination = "out"\n'
    path.write_text(f"{spool}[service]\nis_open = true\n{text}")
    return read_settings(path)


def test_the_file_that_it_shows_says_the_same(tmp_path):
    (tmp_path / "secrets").mkdir()
    for name in ("aws", "webhook", "sinch", "graph"):
        (tmp_path / "secrets" / f"acme-{name}").write_text(secret(name))
        may_hold(tmp_path / "secrets" / f"acme-{name}")
    names = {}
    (text,) = fenced(TEXT, "toml")
    exec(compile(shown(tmp_path), "docs/service.md", "exec"), names)
    code, file = names["vendors"], settings_of(tmp_path, text.replace("/etc/callreel", str(tmp_path))).vendors
    for name in ("chime", "sinch", "graph"):
        one, other = getattr(code, name), getattr(file, name)
        assert told(one) == told(other)


def told(settings):
    """What the settings of a vendor say, programs by where they are."""
    said = {field.name: getattr(settings, field.name) for field in fields(settings)}
    said["applications"] = {
        key: [getattr(value, "lane", value) for value in (getattr(one, part.name) for part in fields(one))]
        for key, one in settings.applications.items()
    }
    return said | {"audiences": list(said.get("audiences", ()))}


@pytest.mark.parametrize(("column", "vendor"), [(1, "chime"), (2, "sinch"), (3, "graph")])
def test_what_an_application_has_in_the_file_is_in_the_table(tmp_path, column, vendor):
    listed = set()
    for row in table(TEXT, "key"):
        (key,) = code_spans(row[0])
        if row[column] == "yes":
            is_secret = row[4].startswith("secret: ")
            listed |= {f"{key}_env", f"{key}_file"} if is_secret else {key}
    with pytest.raises(UsageError) as error:
        settings_of(tmp_path, f"[service.{vendor}.applications.a]\n'?' = 1\n")
    (known,) = re.findall(r"\?: there is no such setting; there are (.*)", str(error.value))
    assert set(known.split(", ")) == listed


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
