"""What every entrance of the service withstands: which test says so, and the tests that are the same for all of them.

`WITHSTANDS` has a row for each entrance and in it every attack: the test that tries it, or why there is nothing to try.
"""

import base64
import contextlib
import re
import select
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from callreel.service.limits import BODY_BYTES
from project import ROOT
from service_host import TOKENS, listening, until
from vendor_customers import REGION, SIGNING, begun, service_in, tenant_called

ATTACKS = (
    "no token",
    "wrong token",
    "another tenant's token",
    "replay",
    "path traversal",
    "oversized body",
    "slow body",
    "a stranger's address",
    "half-open connections",
)
HERE = "service/test_withstands::"
BY_TOKEN = "-whoever has the token may come from anywhere"
CROWD = "service/test_connections::test_10_000_half_open_connections_keep_nobody_from_being_answered"
UNINVITED = "service/test_websocket_media::test_whoever_has_no_right_to_it_is_refused_before_anything_is_said"
COMMON = {
    "no token": HERE + "test_who_does_not_say_who_they_are_gets_nothing",
    "wrong token": HERE + "test_who_makes_something_up_gets_nothing",
    "path traversal": HERE + "test_a_path_that_leads_elsewhere_leads_nowhere",
    "oversized body": HERE + "test_a_body_that_is_too_large_is_refused",
    "slow body": HERE + "test_a_body_that_drips_is_given_up",
    "a stranger's address": BY_TOKEN,
    "half-open connections": CROWD,
}
"""Of all that is HTTP."""
WITHSTANDS = {
    "native API": COMMON
    | {
        "another tenant's token": "service/test_native_api::test_another_tenants_calls_and_recordings_are_not_there",
        "replay": "service/test_native_api::test_the_same_request_with_the_same_key_makes_one_call",
    },
    "Amazon Chime": COMMON
    | {
        "another tenant's token": "service/test_chime_api::test_another_tenants_call_is_not_there",
        "replay": "service/test_chime_api::test_a_signature_that_comes_again_gets_its_answer_and_does_nothing",
    },
    "Sinch": COMMON
    | {
        "another tenant's token": "service/test_sinch_api::test_another_tenants_call_is_not_found",
        "replay": "service/test_sinch_api::test_a_signature_that_comes_again_gets_its_answer_and_does_nothing",
    },
    "Sinch Drive": COMMON
    | {
        "another tenant's token": "service/test_sinch_api::test_every_tenant_has_a_drive_of_its_own",
        "replay": "service/test_sinch_api::test_a_deletion_that_comes_again_deletes_nothing_else",
    },
    "Microsoft Graph": COMMON
    | {
        "another tenant's token": "service/test_graph_api::test_another_tenants_call_is_not_found",
        "replay": "-a bearer token is good until its end, as Microsoft's are",
    },
    "Graph's recordings": COMMON
    | {
        "no token": "service/test_graph_api::test_a_recording_needs_its_own_token",
        "wrong token": "service/test_graph_api::test_a_recording_needs_its_own_token",
        "another tenant's token": "service/test_graph_api::test_a_recording_needs_its_own_token",
        "replay": "-a download changes nothing; its token ends with the recording",
    },
    "page": COMMON
    | {
        "another tenant's token": "service/test_page::test_a_tenant_sees_what_is_theirs",
        "replay": "service/test_page::test_the_form_of_another_browser_does_nothing",
    },
    "metrics": COMMON
    | {
        "another tenant's token": "service/test_metrics::"
        "test_a_tenant_who_is_no_operator_does_not_see_the_figures_of_all",
        "replay": "-reading changes nothing",
    },
    "WebSocket": {
        "no token": UNINVITED,
        "wrong token": UNINVITED,
        "another tenant's token": "service/test_websocket_media::test_the_configured_address_is_each_tenants_own",
        "replay": "service/test_websocket_media::test_a_second_connection_for_a_leg_is_refused_and_the_first_goes_on",
        "path traversal": HERE + "test_an_upgrade_to_a_path_that_leads_elsewhere_is_refused",
        "oversized body": "service/test_websocket_media::test_a_message_that_is_too_long_ends_the_connection",
        "slow body": "service/test_websocket_media::test_a_stranger_who_does_not_begin_with_start_is_refused",
        "a stranger's address": BY_TOKEN,
        "half-open connections": "service/test_websocket_media::"
        "test_1_500_strangers_are_bounded_keep_nobody_waiting_and_are_gone_in_time",
    },
    "AudioSocket": {
        "no token": "service/test_audiosocket::test_a_connection_that_begins_with_anything_but_a_uuid_is_closed",
        "wrong token": "service/test_audiosocket::test_an_unknown_uuid_is_refused",
        "another tenant's token": "-a UUID is that of one leg, whosever it is",
        "replay": "service/test_audiosocket::test_a_leg_that_has_hung_up_cannot_be_connected_to_again",
        "path traversal": "-there are no paths",
        "oversized body": "service/test_audiosocket::test_whatever_comes_behind_the_uuid_costs_the_peer_alone",
        "slow body": "service/test_audiosocket::test_a_connection_that_does_not_say_whose_it_is_is_closed_in_time",
        "a stranger's address": "-whoever knows the UUID may come from anywhere",
        "half-open connections": "service/test_audiosocket::"
        "test_10_000_half_open_connections_are_bounded_and_leave_nothing_behind",
    },
    "RTP": {
        "no token": "-packets carry none: the address says whose they are",
        "wrong token": "-packets carry none",
        "another tenant's token": "-packets carry none",
        "replay": "unit/test_service_rtp::"
        "test_loss_reordering_doubles_strangers_and_reports_leave_what_was_said_in_its_place",
        "path traversal": "-there are no paths",
        "oversized body": "native/test_udp::test_datagrams_of_any_size_and_content_are_data",
        "slow body": "-a datagram comes whole",
        "a stranger's address": "native/test_udp::test_packets_of_strangers_are_counted_and_never_taken",
        "half-open connections": "-there are no connections",
    },
}

ACME, OTHER = tenant_called("acme"), tenant_called("other")
CANARY = "canary-5f1c"
"""Stands in files that no request may reach."""

ENTRANCES = {
    "native API": ("POST", "/v1/calls"),
    "Amazon Chime": ("POST", f"/sip-media-applications/{ACME.sip_media_application}/calls"),
    "Sinch": ("PATCH", "/calling/v1/calls/id/mine"),
    "Sinch Drive": ("GET", "/calling/v1/recording/a.wav"),
    "Microsoft Graph": ("POST", "/v1.0/communications/calls/message/recordResponse"),
    "Graph's recordings": ("GET", "/graph/recordings/message/a"),
    "page": ("POST", "/page/deliveries/drop"),
    "metrics": ("GET", "/metrics"),
}
MADE_UP = {
    "Amazon Chime": f"AWS4-HMAC-SHA256 Credential={ACME.access_key_id}/20260101/eu-central-1/chime/aws4_request, "
    f"SignedHeaders=host;x-amz-date, Signature={'0' * 64}",
    "Sinch": "Basic " + base64.b64encode(f"{ACME.sinch_key}:wrong".encode()).decode(),
    "Sinch Drive": "Basic " + base64.b64encode(f"{ACME.sinch_key}:wrong".encode()).decode(),
    "Microsoft Graph": "Bearer " + SIGNING.token(ACME.graph_application, key=None)[:-8] + "AAAAAAAA",
}
PATHS = {
    "native API": "/v1/recordings/{}/audio",
    "Amazon Chime": "/sip-media-applications/{}/calls/{}",
    "Sinch": "/calling/v1/calls/id/{}",
    "Sinch Drive": "/calling/v1/recording/{}",
    "Microsoft Graph": "/communications/calls/{}/operations/{}",
    "Graph's recordings": "/graph/recordings/{}/{}",
    "page": "/page/static/{}",
    "metrics": "/metrics/{}",
}
ELSEWHERE = [
    "../canary",
    "../../canary",
    "../../../../canary",
    "%2e%2e/%2e%2e/canary",
    "..%2f..%2fcanary",
    "%2e%2e%2f%2e%2e%2f%2e%2e%2fcanary",
    "..%5c..%5ccanary",
    "%252e%252e%252fcanary",
    "....//....//canary",
    "%2Fetc%2Fpasswd",
    "//etc/passwd",
    "canary%00.wav",
    "..;/canary",
]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A service that asks who you are; the canary is in its folder, its spool, and above them."""
    folder = tmp_path_factory.mktemp("up") / "service"
    folder.mkdir()
    service = service_in(folder, ACME, OTHER)
    spool = service.settings.recorder.spool
    for place in (folder.parent, folder, spool, spool / "drives", spool / "held", spool / "drives" / "acme"):
        place.mkdir(parents=True, exist_ok=True)
        (place / "canary").write_text(CANARY)
    with listening(service) as one:
        begun(one.client(), "sinch", call_id="mine")
        begun(one.client(), "graph", call_id="message")
        yield one


def ask(
    running, method, path, *, authorization=None, body=b"", length=None, drip=b"", cookie=None, date=None
):
    """Status and all that comes, of a request whose path is sent as it is; `drip` every 0.1 s until something comes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close"]
    lines += [f"X-Amz-Date: {date or f'{datetime.now(UTC):%Y%m%dT%H%M%SZ}'}"]
    lines += [f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"Authorization: {authorization}"] if authorization else []
    lines += [f"Cookie: {cookie}"] if cookie else []
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as one:
        with contextlib.suppress(ConnectionError):
            one.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            while drip and not select.select([one], [], [], 0.1)[0]:
                one.sendall(drip)
        data = b""
        with contextlib.suppress(ConnectionError):
            while piece := one.recv(65536):
                data += piece
    return int(data.split()[1]), data


def is_refused(status, data):
    """Whether nothing was given: who is not logged in at the page is sent to where they can."""
    return status in (401, 403) or (status == 303 and b"location: /page/login" in data.lower())


@pytest.mark.parametrize("entrance", sorted(set(ENTRANCES) - {"Graph's recordings"}))
def test_who_does_not_say_who_they_are_gets_nothing(running, entrance):
    assert is_refused(*ask(running, *ENTRANCES[entrance]))


@pytest.mark.parametrize("entrance", sorted(set(ENTRANCES) - {"Graph's recordings"}))
def test_who_makes_something_up_gets_nothing(running, entrance):
    made_up = MADE_UP.get(entrance, "Bearer something-that-is-made-up")
    assert is_refused(
        *ask(running, *ENTRANCES[entrance], authorization=made_up, cookie="callreel_session=made.up")
    )


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_a_body_that_is_too_large_is_refused(running, entrance):
    status, _ = ask(running, *ENTRANCES[entrance], body=b" " * (BODY_BYTES + 1))
    assert status == 413


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_a_body_that_drips_is_given_up(running, entrance, monkeypatch):
    monkeypatch.setattr(running.service.app._app, "_body_s", 0.5)
    status, _ = ask(running, *ENTRANCES[entrance], length=100, drip=b" ")  # for 10 s
    assert status == 408


def signed(method, path):
    """What `ask` is given for Amazon Chime, as botocore signs it."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    request = AWSRequest(method, f"http://127.0.0.1{path}", headers={"Host": "127.0.0.1"})
    SigV4Auth(Credentials(ACME.access_key_id, ACME.secret_access_key), "chime", REGION).add_auth(request)
    return {"authorization": request.headers["Authorization"], "date": request.headers["X-Amz-Date"]}


def credentials(running, entrance):
    """What opens an entrance for acme, as far as anything does."""
    if entrance in ("native API", "metrics"):
        return {"authorization": f"Bearer {TOKENS['acme']}"}
    if entrance.startswith("Sinch"):
        pair = base64.b64encode(f"{ACME.sinch_key}:{ACME.sinch_secret}".encode()).decode()
        return {"authorization": f"Basic {pair}"}
    if entrance == "page":
        browser = running.client(None)
        page = browser.get("/page/login").text
        form_token = re.search(r'name="form_token" value="([^"]+)"', page)[1]
        browser.post("/page/login", data={"form_token": form_token, "token": TOKENS["acme"], "next": ""})
        return {"cookie": f"callreel_session={browser.cookies['callreel_session']}"}
    return {"authorization": f"Bearer {SIGNING.token(ACME.graph_application)}"}


@pytest.mark.parametrize("entrance", PATHS)
def test_a_path_that_leads_elsewhere_leads_nowhere(running, entrance):
    is_chime = entrance == "Amazon Chime"
    method, given = ("POST", {}) if is_chime else ("GET", credentials(running, entrance))
    for part in ELSEWHERE:
        path = PATHS[entrance].replace("{}", part)
        status, data = ask(running, method, path, **(signed(method, path) if is_chime else given))
        assert status == 404 if is_chime else 300 <= status < 500, path
        assert CANARY.encode() not in data, path
        assert b"root:" not in data, path


@pytest.mark.parametrize("part", ELSEWHERE)
def test_an_upgrade_to_a_path_that_leads_elsewhere_is_refused(running, part):
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    for path in (f"/v1/media/{part}/LEG-A/x", f"/v1/media-streams/{part}"):
        with pytest.raises(WebSocketException):
            connect(f"ws://127.0.0.1:{running.port}{path}", open_timeout=20)
    until(lambda: running.service.websockets.strangers == 0)


# ---- the table ----


@pytest.mark.parametrize("entrance", WITHSTANDS)
def test_every_attack_on_an_entrance_has_a_test_or_a_reason_why_there_is_none(entrance):
    assert set(WITHSTANDS[entrance]) == set(ATTACKS)
    for attack, what in WITHSTANDS[entrance].items():
        if what.startswith("-"):
            assert len(what) > 10, attack
            continue
        file, _, name = what.partition("::")
        text = Path(ROOT / "tests" / f"{file}.py").read_text("utf-8")
        assert re.search(rf"^def {name}\(", text, re.MULTILINE), what


def test_nothing_else_answers_who_has_not_said_who_they_are(running):
    paths = running.client(None).get("/openapi.json").json()["paths"]
    whole = {path for path in paths if "{" not in path and "get" in paths[path]}
    assert {"/v1/calls", "/metrics", "/calling/v1/recording"} <= whole
    assert {path for path in whole if ask(running, "GET", path)[0] == 200} == {"/healthz", "/readyz"}
