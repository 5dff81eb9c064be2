"""docs/notify.md says what is so: its examples run, its tables are those of the code."""

import json
import re
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from callreel import addresses, errors, notify, web
from callreel.notify import functions, lambdas, references, signatures, webhooks
from callreel.notify.signatures import HmacSignature, verify
from http_server import plain, serving
from markdown_text import code_spans, fenced, section, table
from project import ROOT
from secret_watch import may_hold, secret_base64

TEXT = (ROOT / "docs" / "notify.md").read_text("utf-8")
SECRET = f"whsec_{secret_base64(32)}"
TELLING, VERIFYING, FETCHING = fenced(TEXT, "python")


@pytest.fixture
def opened(monkeypatch):
    """Loopback by plain HTTP for whatever asks: `with opened(server)`."""

    def open_to(server):
        policy = addresses.Policy(
            schemes=("https", "http"),
            ports=(443, server.port),
            allowed=[addresses.ipaddress.ip_network("127.0.0.1")],
        )
        read_url = addresses.read_url
        at_server = f"http://127.0.0.1:{server.port}/calls"

        def redirected(url, _):
            return read_url(at_server if "customer.example" in url else url, policy)

        monkeypatch.setattr(webhooks, "read_url", redirected)
        monkeypatch.setattr(web, "read_url", redirected)
        monkeypatch.setattr(web, "admitted", lambda *_, **__: [addresses.ipaddress.ip_address("127.0.0.1")])
        return at_server

    return open_to


def test_the_webhook_of_the_example_is_signed_and_its_answer_goes_to_the_call(opened, tmp_path):
    may_hold(tmp_path / "secret").write_text(SECRET)
    requests = []
    message = SimpleNamespace(call_id="c", dialect="chime", kind="invocation", body={"Sequence": 1})
    given = {
        "secret_file": tmp_path / "secret",
        "event_id": "c:1",
        "message": message,
        "now": datetime.now(UTC),
        "call": SimpleNamespace(request=lambda document, *, now: requests.append((document, now))),
        "clock": lambda: 7.0,
    }
    with serving(plain(200, b'{"Actions": []}')) as server:
        opened(server)
        exec(TELLING, given)
    (request,) = server.requests
    assert json.loads(request.body) == {"Sequence": 1}
    assert requests == [({"Actions": []}, 7.0)]

    there = {}
    exec(VERIFYING, there)
    verified = there["verified"]
    assert verified(request.headers, request.body, SECRET) == "c:1"
    assert verify(request.headers, request.body, [SECRET], now=datetime.now(UTC)) == "c:1"
    assert verified(request.headers, request.body + b" ", SECRET) is None
    assert verified({**request.headers, "webhook-id": "c:2"}, request.body, SECRET) is None
    assert verified(request.headers, request.body, SECRET[:-4] + "AAA=") is None


def test_the_verification_of_the_example_refuses_what_is_old_and_takes_one_secret_of_two():
    there = {}
    exec(VERIFYING, there)
    signer = HmacSignature(lambda: SECRET[:-4] + "AAA=", lambda: SECRET)

    def signed(at):
        given = {"method": "POST", "path": "/", "content_type": "application/json", "body": b"{}"}
        moment = datetime.fromtimestamp(at, UTC)
        return {"webhook-id": "c:1", **signer.headers(event_id="c:1", at=moment, **given)}

    assert there["verified"](signed(time.time()), b"{}", SECRET) == "c:1"
    assert there["verified"](signed(time.time() - 301), b"{}", SECRET) is None


def test_the_prompt_of_the_example_is_fetched(opened):
    with serving(plain(200, b"RIFF")) as server:
        given = {"play": SimpleNamespace(prompt=SimpleNamespace(uri=opened(server)))}
        exec(FETCHING, given)
    assert given["audio"] == b"RIFF"


def test_the_limits_are_those_of_the_code():
    listed = {}
    for dialect, kind, *cells in table(TEXT, "dialect"):
        attempt, total, failures, queued = (cell.removesuffix(" s") for cell in cells)
        listed[dialect, kind] = (float(attempt), float(total), int(failures), queued == "yes")
    assert listed == {
        **notify.LIMITS,
        ("any other", notify.INVOCATION): notify.OTHER_INVOCATION,
        ("any other", notify.NOTIFICATION): notify.OTHER_NOTIFICATION,
    }


def test_the_statuses_are_those_of_the_code():
    for status, error, again in table(TEXT, "status"):
        headers = {"retry-after": "1"} if "Retry-After" in status else {}
        number = {"3xx": 302, "other 4xx": 499, "other 5xx": 599}.get(status) or int(status[:3])
        got = web.error_of_status("it", number, headers)
        assert type(got) is getattr(errors, code_spans(error)[0]), status
        assert got.retryable is (again == "yes"), status
    listed = {int(row[0]) for row in table(TEXT, "status") if row[0].isdecimal()}
    assert listed == set(web.STATUSES)


def test_the_policies_are_those_of_the_code():
    rows = table(TEXT, "policy")
    assert len(rows) == 2
    for name, schemes, ports, redirects, size, total in rows:
        policy = getattr(addresses, code_spans(name)[0])
        number, unit = size.split()
        assert schemes.split(", ") == list(policy.schemes)
        assert [int(one) for one in ports.split(", ")] == list(policy.ports)
        assert int(redirects) == policy.max_redirects
        assert int(number) * {"KiB": 1024, "MiB": 1024**2}[unit] == policy.max_bytes
        assert total in (f"{policy.total_s:g} s", "by the table above")


def test_the_headers_are_those_of_the_code():
    listed = {code_spans(row[0])[0] for row in table(section(TEXT, "## Headers"), "header")}
    assert {notify.ID_HEADER, signatures.TIMESTAMP_HEADER, signatures.SIGNATURE_HEADER} <= listed
    assert f"`{webhooks.CONTENT_TYPE}`" in TEXT


def test_every_name_it_has_is_there():
    for module, name in re.findall(r"`notify\.(\w+)\.(\w+)", TEXT):
        place = {"lambdas": lambdas, "webhooks": webhooks, "functions": functions, "signatures": signatures}
        assert hasattr(place[module], name)
    for name in ("FromFile", "FromEnvironment"):
        assert hasattr(references, name)
    for name in ("FirstThatAnswers", "to_payload", "secrets_of", "from_payload"):
        assert f"`{name}" in TEXT
        assert hasattr(notify, name)
