"""A service that asks nobody who they are does not do what pages of other sites have a browser of this machine ask."""

import json

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from callreel.recorder import Settings
from callreel.service.settings import ServiceSettings
from fleet_host import fleet_of, id_of
from service_host import listening
from vendor_customers import check_shape, service_in, tenant_called

ACME = tenant_called("acme")
CREATE = f"/sip-media-applications/{ACME.sip_media_application}/calls"
NUMBERS = json.dumps({"FromPhoneNumber": "+15551230001", "ToPhoneNumber": "+15551230002"})
ENTRANCES = {
    "native": ("POST", "/v1/calls", '{"legs": [{"media": "none"}]}', 201),
    "chime": ("POST", CREATE, NUMBERS, 201),
    "sinch": ("GET", "/calling/v1/calls/id/a", "", 404),
    "drive": ("GET", "/calling/v1/recording", "", 200),
    "graph": ("GET", "/communications/calls/a/operations/b", "", 404),
    "download": ("GET", "/graph/recordings/a/b", "", 404),
    "metrics": ("GET", "/metrics", "", 200),
    "document": ("GET", "/openapi.json", "", 200),
    "page": ("GET", "/page/", "", 200),
}
"""Method, path, body, and how that is answered to a program of this machine."""
ELSEWHERE = [
    {"Host": "evil.example"},
    {"Host": "evil.example:8080", "Origin": "http://evil.example:8080"},
    {"Host": "localhost.evil.example"},
    {"Host": "192.0.2.1"},
    {"Host": "[::1"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://localhost:1"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
]
HERE = [
    {},
    {"Host": "localhost"},
    {"Host": "LOCALHOST:8080"},
    {"Host": "127.0.0.2:8080"},
    {"Host": "[::1]:8080"},
    {"Host": "localhost:8080", "Origin": "http://localhost:8080", "Sec-Fetch-Site": "same-origin"},
    {"Host": "localhost", "Origin": "https://localhost"},
    {"Sec-Fetch-Site": "none"},
]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    with listening(service_in(tmp_path_factory.mktemp("opened"), ACME, tokens={}, is_open=True)) as one:
        yield one


def ask(running, entrance, **headers):
    method, path, body, _ = ENTRANCES[entrance]
    kind = "application/json" if entrance == "native" else "text/plain"
    given = {"Content-Type": kind} | headers
    return running.client(None).request(method, path, content=body.encode(), headers=given)


@pytest.mark.parametrize("headers", HERE)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_programs_and_the_page_of_this_machine_are_answered(opened, entrance, headers):
    assert ask(opened, entrance, **headers).status_code == ENTRANCES[entrance][3]


@pytest.mark.parametrize("headers", ELSEWHERE)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_what_a_page_of_another_site_has_a_browser_ask_is_refused_and_not_done(opened, entrance, headers):
    before = len(opened.service.host.calls())
    answer = ask(opened, entrance, **headers)
    assert answer.status_code == 403
    assert len(opened.service.host.calls()) == before
    if entrance in ("chime", "sinch", "drive", "graph", "download"):
        check_shape({"drive": "sinch"}.get(entrance, entrance), answer)
    elif entrance == "page":
        assert answer.headers["content-type"].startswith("text/html")
    else:
        assert answer.json()["error"]["code"] == "forbidden"


def test_a_link_of_another_site_may_be_followed_and_a_form_of_it_not_sent(opened):
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(opened, "page", **link).status_code == 200
    assert ask(opened, "chime", **link).status_code == 403


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_a_websocket_of_another_sites_page_is_refused(opened, headers):
    address = f"ws://127.0.0.1:{opened.port}/v1/media-streams/any"
    with connect(address):
        pass
    with pytest.raises(InvalidStatus, match="403"):
        connect(address, additional_headers=headers)


def test_a_service_that_asks_for_tokens_has_any_name(tmp_path):
    with listening(service_in(tmp_path, ACME)) as running:
        for headers in ELSEWHERE[:4] + ELSEWHERE[5:]:
            assert running.client().get("/v1/calls", headers=headers).status_code == 200


def test_every_worker_of_an_open_service_refuses_and_hands_on_the_same(tmp_path):
    settings = ServiceSettings(Settings(tmp_path / "spool"), port=0, is_open=True, workers=2, overload={})
    with fleet_of(2, settings) as workers:
        made = [ask(one, "native").json()["call_id"] for one in workers]
        for one in workers:
            for call_id in made:
                client = one.client(None)
                assert client.get(f"/v1/calls/{call_id}").status_code == 200
                refused = client.get(f"/v1/calls/{call_id}", headers={"Host": "evil.example"})
                assert refused.status_code == 403
        body = {"call_id": id_of(workers[0]), "legs": [{"media": "websocket"}]}
        path = workers[0].client(None).post("/v1/calls", json=body).json()["legs"][0]["media"]["path"]
        address = f"ws://127.0.0.1:{workers[1].port}{path}"
        with pytest.raises(InvalidStatus, match="403"):
            connect(address, origin="http://evil.example")
        with connect(address):
            pass
