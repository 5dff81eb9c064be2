"""docs/running.md and docs/operating.md say what is so: options, settings, metrics, limits, units."""

import configparser
import inspect
import json
import re
import tomllib
from dataclasses import fields

import pytest

from callreel import cli
from callreel.service import rtp_legs, websocket_legs
from callreel.service.bodies import ActionBody, CallBody
from callreel.service.configuration import read_settings
from callreel.service.host import LegWish
from callreel.service.measures import Measures
from callreel.service.metrics import of_workers
from callreel.service.overload import THRESHOLDS
from callreel.service.running import Service
from callreel.service.settings import ServiceSettings
from markdown_text import code_spans, fenced, table
from project import ROOT
from service_host import listening, settings_in

RUNNING = (ROOT / "docs" / "running.md").read_text("utf-8")
OPERATING = (ROOT / "docs" / "operating.md").read_text("utf-8")
SOCKETS = (ROOT / "docs" / "sockets.md").read_text("utf-8")
UNIT = ROOT / "packaging" / "callreel.service"
CONTAINER = (ROOT / "Containerfile").read_text("utf-8")
CALLS = [json.loads(text) for text in fenced(RUNNING, "json")]


MEDIA = {"rtp": rtp_legs.OPTIONS, "audiosocket": {"uuid"}, "websocket": websocket_legs.OPTIONS}
"""What each kind of media wants to know."""


# ---- docs/running.md ----


@pytest.mark.parametrize("body", CALLS, ids=lambda body: body["call_id"])
def test_a_call_of_the_page_is_one_that_the_api_takes(body):
    call = CallBody.model_validate(body)
    assert call.record is None or call.record.leg in [leg.name for leg in call.legs]
    if call.record is not None:
        call.record.action()


@pytest.mark.parametrize("kind", ["rtp", "audiosocket", "websocket"])
def test_an_option_of_the_page_is_one_of_that_kind_of_media(kind):
    used = {
        name
        for body in CALLS
        for leg in body["legs"]
        if leg["media"] == kind
        for name in leg.get("options", {})
    }
    assert used
    assert used <= MEDIA[kind]


SPOKEN_TO = {
    "host": r"(?:https?|ws)://(?!calls\.|agent\.|recorder\.)([\w.-]+:\d+)",
    "audiosocket_host": r"AudioSocket\(\$\{ID\},([^)]+)\)",
    "rtp_host": r"external_host=([\w.:-]+)",
}
"""How lines name the service; not its names in public, nor what is somebody else's."""


def the_service():
    (text,) = fenced(RUNNING, "toml")
    return tomllib.loads(text)["service"]


@pytest.mark.parametrize("text", [RUNNING, OPERATING, SOCKETS], ids=["running", "operating", "sockets"])
def test_lines_of_the_pages_speak_to_where_the_file_of_the_page_has_the_service(text):
    service = the_service()
    ports = {
        "host": service["port"],
        "audiosocket_host": service["audiosocket_port"],
        "rtp_host": service["rtp_ports"][0],
    }
    for name, pattern in SPOKEN_TO.items():
        named = set(re.findall(pattern, text))
        assert named <= {f"{service[name]}:{ports[name]}"}
        assert named or text is not RUNNING
    targets = re.findall(r'targets: \["([^"]+)"\]', OPERATING) + re.findall(
        r'SERVICE, TOKEN = "([^"]+)"', SOCKETS
    )
    assert targets == 2 * [f"{service['host']}:{service['port']}"]


@pytest.mark.parametrize("name", ["asterisk", "rtpengine"])
def test_an_example_of_the_page_speaks_to_the_service_of_its_file_unless_told_otherwise(name):
    service = the_service()
    source = (ROOT / "examples" / f"{name}.py").read_text("utf-8")
    assert f'"CALLREEL_URL", "http://{service["host"]}:{service["port"]}")' in source
    assert f'"CALLREEL_TOKEN_FILE", "{service["tokens"]["acme_file"]}")' in source


@pytest.mark.parametrize("text", [RUNNING, SOCKETS], ids=["running", "sockets"])
def test_who_uses_a_token_has_read_it_from_the_file_of_the_page(text):
    path = the_service()["tokens"]["acme_file"]
    assert set(re.findall(r"\$\(cat ([^)]+)\)", text)) == {path}
    blocks = fenced(text, "sh") + re.findall(
        r"(?:^    .*\n)+", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M
    )
    users = [block for block in blocks if "$TOKEN" in block]
    assert users
    for block in users:
        assert block.lstrip().startswith(f"TOKEN=$(cat {path})\n")


def test_a_program_that_lines_of_the_page_run_was_put_there_by_one():
    run = set(re.findall(r"python3 (/\S+\.py)", RUNNING))
    put = dict(re.findall(r"^    install -D -m 644 (\S+) (\S+)$", RUNNING, re.MULTILINE))
    assert run == set(put.values()) != set()
    assert all((ROOT / source).exists() for source in put)


def test_every_kind_of_media_is_told_of():
    kinds = {leg["media"] for body in CALLS for leg in body["legs"]}
    (annotation,) = [one.annotation for name, one in CallBody.model_fields.items() if name == "legs"]
    (leg,) = annotation.__args__
    assert kinds == set(leg.model_fields["media"].annotation.__args__) - {"none"}
    assert LegWish._field_defaults["media"] in kinds


def test_an_action_of_the_page_is_one_of_the_api():
    named = [json.loads(one) for one in code_spans(RUNNING) if one.startswith('{"action"')]
    assert named
    for body in named:
        ActionBody.model_validate(body)


def test_the_file_of_the_page_is_one_that_can_be_read_and_says_the_defaults_where_it_may(tmp_path, capsys):
    (text,) = fenced(RUNNING, "toml")
    token = tmp_path / "acme.token"
    token.write_text("a" * 32)
    path = tmp_path / "callreel.toml"
    path.write_text(text.replace("/etc/callreel/acme.token", str(token)))
    settings = read_settings(path)
    assert settings.operators == {"acme"} == set(settings.tokens)
    assert settings.audiosocket_port == 9092
    defaults = {one.name: one.default for one in fields(ServiceSettings)}
    for name in ("port", "rtp_ports", "drain_s"):
        assert getattr(settings, name) == defaults[name]
    assert cli.main(["serve", "--check", "--config", str(path)]) == 0, capsys.readouterr().err


def options_of(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    return set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


def test_every_command_of_the_pages_has_its_options(capsys):
    commands = re.findall(r"^    (?:\S*/)?callreel ([a-z]+)(.*)$", RUNNING, re.MULTILINE)
    commands += re.findall(r"`callreel (serve)(.*?)`", RUNNING + OPERATING)
    commands += re.findall(r"/callreel (serve)(.*)$", UNIT.read_text("utf-8"), re.MULTILINE)
    (arguments,) = re.findall(r"^CMD (.*)$", CONTAINER, re.MULTILINE)
    commands.append(("serve", " ".join(json.loads(arguments))))
    assert len(commands) > 5
    for name, rest in commands:
        assert set(re.findall(r"--[a-z-]+", rest)) <= options_of(name, capsys)


def test_the_python_of_the_page_is_python():
    for text in fenced(RUNNING, "python"):
        compile(text, "running.md", "exec")


# ---- packaging ----


def unit():
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str
    parser.read(UNIT, "utf-8")
    return parser["Service"]


def test_the_unit_runs_the_command_of_the_page_and_gives_it_time_to_drain():
    service = unit()
    assert service["ExecStart"].partition("/bin/")[2] in RUNNING
    assert service["ExecStart"].startswith("/opt/callreel/bin/")
    assert "KillSignal" not in service  # SIGTERM, which drains
    (drain,) = [one.default for one in fields(ServiceSettings) if one.name == "drain_s"]
    assert int(service["TimeoutStopSec"]) >= 2 * drain


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DynamicUser", "yes"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateDevices", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("RestrictNamespaces", "yes"),
        ("SystemCallArchitectures", "native"),
        ("UMask", "0077"),
    ],
)
def test_the_unit_forbids_what_the_service_does_not_need(key, value):
    assert unit()[key] == value


def test_the_container_has_a_user_of_its_own_and_the_ports_of_the_settings():
    defaults = {one.name: one.default for one in fields(ServiceSettings)}
    first, last = defaults["rtp_ports"]
    (exposed,) = re.findall(r"^EXPOSE (.*)$", CONTAINER, re.MULTILINE)
    assert {f"{defaults['port']}/tcp", f"{first}-{last}/udp"} <= set(exposed.split())
    users = re.findall(r"^USER (\S+)$", CONTAINER, re.MULTILINE)
    assert users
    assert users[-1] not in ("0", "root")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    (asked,) = re.findall(r"\[([a-z,]+)\]", CONTAINER.replace('["', ""))
    assert set(asked.split(",")) <= set(extras)


def test_the_container_is_given_what_a_build_needs_and_no_more():
    kept = {
        line[1:]
        for line in (ROOT / ".containerignore").read_text("utf-8").splitlines()
        if line.startswith("!")
    }
    assert all((ROOT / name).exists() for name in kept)
    assert {"native", "src", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"} <= kept


# ---- docs/operating.md ----


def test_every_metric_is_in_the_table_with_its_kind_and_labels(tmp_path):
    listed = {code_spans(row[0])[0]: (row[1], set(code_spans(row[2]))) for row in table(OPERATING, "metric")}
    with listening(Service(settings_in(tmp_path))) as running:
        service = running.service
        client = running.client()
        client.post("/v1/calls", json={"legs": [{"media": "none"}], "record": {}})
        families = list(
            service.measures.families(service.host, service.watch, service.settings.recorder.spool)
        )
        assert isinstance(service.measures, Measures)
    families += [family for family in of_workers([[]]) if family.name == "callreel_worker_up"]
    assert {family.name: family.kind for family in families} == {
        name: kind for name, (kind, _) in listed.items()
    }
    for family in families:
        for sample in family.samples:
            assert set(sample.labels) - {"le", "worker"} == listed[family.name][1], family.name


def test_the_limits_of_admission_are_those_of_the_code():
    for row in table(OPERATING, "figure"):
        limits = THRESHOLDS[code_spans(row[0])[0]]
        assert float(row[1]) == limits.refuse_from
        assert float(row[2].removesuffix(" s")) == limits.refuse_after_s
        assert float(row[3]) == limits.accept_below
        assert float(row[4].removesuffix(" s")) == limits.accept_after_s
    assert len(table(OPERATING, "figure")) == len(THRESHOLDS)


def test_the_reasons_of_readiness_are_those_of_the_code():
    from callreel.recorder import Recorder

    source = inspect.getsource(Recorder.obstacles)
    (row,) = [row for row in table(OPERATING, "path") if "readyz" in row[0]]
    reasons = [one.removesuffix("…").strip() for one in code_spans(row[1])]
    assert len(reasons) == 4
    assert [one for one in reasons if one not in source] == []


@pytest.mark.parametrize("text", [RUNNING, OPERATING], ids=["running", "operating"])
def test_every_file_that_is_named_is_there(text):
    linked = re.findall(r"\]\(([^)#]+)\)", text)
    named = [one for one in code_spans(text) if re.fullmatch(r"(src|tests|docs|packaging)/[\w./]+", one)]
    assert linked
    assert [one for one in linked if not (ROOT / "docs" / one).exists()] == []
    assert [one for one in named if not (ROOT / one).exists()] == []
