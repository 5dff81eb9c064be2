"""The OpenAPI document is served, and Schemathesis holds the service to it: every route of every API, authenticated.

In `make test` it is short; CALLREEL_SCHEMATHESIS=minutes has it go on for so long, with another seed each time.
"""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from callreel.service.document import SCHEMES
from live_media import delivered
from service_host import TOKENS, listening
from vendor_customers import REGION, SIGNING, begun, service_in, speak, tenant_called

PROGRAM = Path(sys.executable).with_name("schemathesis")
SUPPORT = Path(__file__).parents[1] / "support"
SEED = 20_261_129
VENDORS = "^/(sip-media-applications|calling|app|applications|communications|graph)/"
EXAMPLES = 3
"""Of each kind, an operation."""

SETTINGS = """
# Where a status says something that no schema can: two legs of one name, an option that this kind of media has not,
# a parameter that the call's state forbids.
[[operations]]
include-path-regex = "^/(v1/calls|v1/calls/[^/]+/(legs|actions)|v1/recordings/[^/]+/waveform)$"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 404, 409, 422]

[[operations]]
include-path-regex = "^/(calling|app|applications|communications)/"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 404, 429]

# AWS says 403 of a request without a signature, and 400 of one whose signature is none.
[[operations]]
include-path-regex = "^/sip-media-applications/"
checks.missing_required_header.enabled = false
checks.ignored_auth.enabled = false

# A call that is over can still be read.
[[operations]]
include-path-regex = "^/v1/calls/"
checks.use_after_free.enabled = false
"""
SHORT = """
# The same code answers for all three places of Microsoft Graph.
[[operations]]
include-path-regex = "^/(app|applications)/"
phases.coverage.enabled = false
"""
CALLS_OF_EACH = 8


def known(running, service, acme):
    """What there is to ask for, by the parameter of a path that names it."""
    client, calls, conference = running.client(), [], "a-conference"
    for dialect in ("chime", "sinch", "graph", None):
        calls += [begun(client, dialect) for _ in range(CALLS_OF_EACH)]
    for call_id in calls[CALLS_OF_EACH : 2 * CALLS_OF_EACH]:
        join = {"action": {"name": "connectConf", "conferenceId": conference}}
        client.post(f"/v1/calls/{call_id}/actions", json={"action": "request", "document": join})
    ended = begun(client, None, leg={"media": "none"}, record={})
    in_drive = begun(client, "sinch")
    options = {"destinationUrl": "sdrive://one.wav", "format": "wav"}
    svaml = {
        "instructions": [{"name": "startRecording", "options": options}],
        "action": {"name": "continue"},
    }
    client.post(f"/v1/calls/{in_drive}/actions", json={"action": "request", "document": svaml})
    speak(service, in_drive, seconds=0.3)
    takes = []
    for call_id in (ended, in_drive):
        client.delete(f"/v1/calls/{call_id}")
        takes.append(delivered(client, call_id)["take_id"])
    return {
        "call_id": calls,
        "transaction_id": calls[:CALLS_OF_EACH],
        "application_id": [acme.sip_media_application, acme.graph_application],
        "conference_id": [conference],
        "take_id": takes,
        "key": ["one.wav"],
    }


def written(settings, names):
    """Settings with dictionaries of what there is."""
    lines = [settings]
    lines += [f"[dictionaries.{name}]\nvalues = {json.dumps(values)}" for name, values in names.items()]
    lines.append("[parameters]")
    lines += [f'"path.{name}" = {{ dictionary = "{name}", probability = 0.8 }}' for name in names]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def acme():
    return tenant_called("acme")


@pytest.fixture
def service(acme, tmp_path):
    return service_in(tmp_path, acme, operators=frozenset({"acme"}))


@pytest.fixture
def running(service):
    with listening(service) as one:
        yield one


def test_the_document_is_served_without_a_token_and_names_who_may_ask(running):
    answer = running.client(None).get("/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    document = answer.json()
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert document["components"]["securitySchemes"] == SCHEMES
    open_paths = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            if "security" not in operation:
                open_paths.add(path)
            for status, response in operation["responses"].items():
                assert response["description"], (method, path, status)
                has_content = status not in ("202", "204") and not path.endswith("z")
                schemas = [one.get("schema") for one in response.get("content", {}).values()]
                if has_content and path not in ("/metrics", "/v1/events"):
                    assert schemas, (method, path, status)
                    assert all(schemas), (method, path, status)
    assert open_paths == {"/healthz", "/readyz"}


def test_a_path_names_all_of_its_methods_to_who_asks_with_another(running):
    client = running.client()
    for path, methods in (
        ("/v1/calls", "GET, POST"),
        ("/v1/calls/x", "DELETE, GET"),
        ("/calling/v1/recording/a/b.wav", "DELETE, GET"),
        ("/beta/app/calls/x", "DELETE"),
        ("/sip-media-applications/x/calls", "POST"),
    ):
        answer = client.put(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)


def test_what_only_resembles_what_is_asked_for_is_refused(running):
    client = running.client()
    call_id = begun(client, None)
    for body in (
        {"action": "digit", "symbol": "5", "message": 0},
        {"action": "start_recording", "recording": {"max_duration_ms": "100"}},
        {"action": "start_recording", "recording": {"beep": "yes"}},
    ):
        assert client.post(f"/v1/calls/{call_id}/actions", json=body).status_code == 422
    assert client.get("/v1/events", params={"since": -1}).status_code == 422


def test_every_route_does_what_the_document_says(running, service, acme, tmp_path):
    if not PROGRAM.exists():
        pytest.skip("Schemathesis is not installed here: `pip install --group contract`")
    minutes = float(os.environ.get("CALLREEL_SCHEMATHESIS", "0"))
    seed = random.randrange(1 << 31) if minutes else SEED
    folder = tmp_path / "schemathesis"
    folder.mkdir()
    settings = SETTINGS if minutes else SETTINGS + SHORT
    (folder / "schemathesis.toml").write_text(written(settings, known(running, service, acme)))
    how_long = ("--max-time", str(round(60 * minutes))) if minutes else ("--max-examples", str(EXAMPLES))
    credentials = {
        "NATIVE_TOKEN": TOKENS["acme"],
        "GRAPH_TOKEN": SIGNING.token(acme.graph_application),
        "CHIME_KEY_ID": acme.access_key_id,
        "CHIME_SECRET": acme.secret_access_key,
        "CHIME_REGION": REGION,
        "SINCH_KEY": acme.sinch_key,
        "SINCH_SECRET": acme.sinch_secret,
    }
    command = [
        *(PROGRAM, "--config-file", "schemathesis.toml", "run", f"{running.url}/openapi.json"),
        *("--phases", "examples,coverage,fuzzing,stateful", "--seed", str(seed)),
        *("--exclude-path", "/v1/events"),  # it never ends
        *("--generation-database", "none", "--request-timeout", "20", "--warnings", "off"),
        *("--no-color", "--continue-on-failure", *how_long),
    ]
    environment = {
        **{name: text for name, text in os.environ.items() if not name.startswith("SCHEMATHESIS")},
        **credentials,
        "PYTHONPATH": str(SUPPORT),
        "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
    }
    # Two at a time, and each with one thread: what they try depends on the seed alone.
    both = [
        subprocess.Popen(
            [*command, which, VENDORS],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for which in ("--include-path-regex", "--exclude-path-regex")
    ]
    tried = 0
    for process, (said, _) in [(one, one.communicate()) for one in both]:
        assert process.returncode == 0, said
        tried += int(re.search(r"(\d+) generated, (\d+) passed", said)[1])
    assert tried > 1000
