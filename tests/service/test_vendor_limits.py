"""What any request to a vendor's path may be: errors in the vendor's own shape, and never one of ours."""

import json
import socket
import threading
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callreel.service.vendors import VendorSettings
from service_host import listening
from vendor_customers import SIGNING, begun, check_shape, service_in, tenant_called

ACME = tenant_called("acme")
PATHS = {
    "chime": "/sip-media-applications/a/calls/b",
    "sinch": "/calling/v1/calls/id/a",
    "graph": "/v1.0/communications/calls/a/recordResponse",
    "download": "/graph/recordings/a/b",
}
METHODS = {"chime": "POST", "sinch": "PATCH", "graph": "POST", "download": "GET"}


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    """A service that asks who you are."""
    with listening(service_in(tmp_path_factory.mktemp("closed"), ACME)) as one:
        yield one


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A service that does not, so that more of it is reached."""
    with listening(service_in(tmp_path_factory.mktemp("opened"), ACME, tokens={}, is_open=True)) as one:
        yield one


@pytest.mark.parametrize("vendor", PATHS)
def test_a_body_that_is_too_large_or_too_deep_is_refused_as_the_vendor_does(closed, vendor):
    client = closed.client(None)
    large = client.request(METHODS[vendor], PATHS[vendor], content=b" " * 300_000)
    assert large.status_code == 413
    check_shape(vendor, large)
    deep = client.request(METHODS[vendor], PATHS[vendor], content=b"[" * 1000 + b"]" * 1000)
    assert deep.status_code == 400
    check_shape(vendor, deep)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16", "utf-32"])
@pytest.mark.parametrize("vendor", PATHS)
def test_json_in_another_encoding_than_utf_8_is_refused_as_the_vendor_does(opened, vendor, encoding):
    # Read as bytes, the escaped quote hides the brackets behind it: they were not counted.
    body = r'{"a": "\"", "b": ' + "[" * 300 + "]" * 300 + "}"
    answer = opened.client(None).request(METHODS[vendor], PATHS[vendor], content=body.encode(encoding))
    assert answer.status_code == 400
    assert "UTF-8" in answer.text
    check_shape(vendor, answer)


class Raw:
    """An answer as it came over a socket."""

    def __init__(self, data):
        head, _, self.body = data.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        self.status_code = int(status.split()[1])
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}

    def json(self):
        return json.loads(self.body)


@pytest.mark.parametrize("vendor", PATHS)
def test_a_body_that_drips_is_refused_as_the_vendor_does(closed, vendor, monkeypatch):
    monkeypatch.setattr(closed.service.app._app, "_body_s", 0.3)
    with socket.create_connection(("127.0.0.1", closed.port), timeout=10) as connection:
        head = f"{METHODS[vendor]} {PATHS[vendor]} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{"
        connection.sendall(head.encode())
        answer = Raw(b"".join(iter(lambda: connection.recv(65536), b"")))
    assert (answer.status_code, answer.headers["connection"]) == (408, "close")
    check_shape(vendor, answer)


def test_a_service_without_customers_lets_nobody_in(tmp_path):
    with listening(service_in(tmp_path, vendors=VendorSettings())) as running:
        client = running.client(None)
        signature = f"Credential=a/20260101/r/chime/aws4_request, SignedHeaders=host, Signature={'0' * 64}"
        for vendor, value in {
            "chime": f"AWS4-HMAC-SHA256 {signature}",
            "sinch": "Basic YTpi",
            "graph": f"Bearer {SIGNING.token(ACME.graph_application)}",
        }.items():
            answer = client.request(METHODS[vendor], PATHS[vendor], headers={"Authorization": value})
            assert answer.status_code in (400, 401, 403)
            check_shape(vendor, answer)


def test_a_thousand_slow_bodies_keep_nobody_from_being_answered(closed):
    connections = []
    try:
        for _ in range(1000):
            connection = socket.create_connection(("127.0.0.1", closed.port), timeout=10)
            connection.sendall(b"POST /calling/v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            connections.append(connection)
        assert closed.client(None).get("/healthz").status_code == 200
    finally:
        for connection in connections:
            connection.close()


def test_a_secret_that_cannot_be_read_is_no_matter_of_the_customers(closed, tmp_path, caplog):
    folder = closed.service.settings.recorder.spool.parent
    secret = folder / "acme-sinch.secret"
    text = secret.read_text()
    secret.unlink()
    try:
        answer = closed.client(None).get(
            PATHS["sinch"], headers={"Authorization": "Basic " + _base64(f"{ACME.sinch_key}:x")}
        )
    finally:
        secret.write_text(text)
    assert answer.status_code == 500
    check_shape("sinch", answer)
    assert str(folder) not in answer.text
    assert "acme-sinch.secret" in caplog.text


def _base64(text):
    import base64

    return base64.b64encode(text.encode()).decode()


# ---- whatever comes ----

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
NAMES = [
    "Arguments",
    "FromPhoneNumber",
    "ToPhoneNumber",
    "SipHeaders",
    "ArgumentsMap",
    "instructions",
    "action",
    "command",
    "moh",
    "prompts",
    "stopTones",
    "clientContext",
    "maxRecordDurationInSeconds",
    "playBeep",
]
VALUES = [
    "+15551230001",
    "mute",
    "onhold",
    "music1",
    "\ud800",
    {"name": "continue"},
    {"name": "hangup"},
    {"name": "startRecording"},
    [{"name": "say"}],
    {"a": "b"},
    ["#"],
    [{"mediaInfo": {"uri": "https://a/b"}}],
    1,
    True,
]
KNOWN = st.dictionaries(st.sampled_from(NAMES), JSON | st.sampled_from(VALUES), max_size=4)
BODIES = st.one_of(
    JSON.map(lambda value: json.dumps(value).encode()),
    KNOWN.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=60),
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "Authorization",
            "x-timestamp",
            "X-Amz-Date",
            "X-Amz-Content-SHA256",
            "Content-Type",
            "Range",
            "Cookie",
        ]
    ),
    st.one_of(
        st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=30),
        st.sampled_from(
            ["application/json", "bytes=0-1", "bytes=-1", "Application a:b", "Basic YTpi", "Bearer a.b.c"]
        )
        | st.just(
            "AWS4-HMAC-SHA256 Credential=a/20260101/r/chime/aws4_request, SignedHeaders=host, Signature="
            + "0" * 64
        ),
    ),
    max_size=4,
)
SEGMENTS = st.one_of(
    st.text(max_size=6).map(
        lambda text: "".join(f"%{octet:02X}" for octet in text.encode("utf-8", "replace"))
    ),
    st.sampled_from(
        ["..", "%2e%2e", "%2F", "%FF", "%00", "a b".replace(" ", "%20"), ACME.sip_media_application]
    ),
)
TEMPLATES = [
    "/sip-media-applications/{}/calls",
    "/sip-media-applications/{}/calls/{}",
    f"/sip-media-applications/{ACME.sip_media_application}/calls/{{chime}}",
    f"/sip-media-applications/{ACME.sip_media_application}/calls",
    "/calling/v1/calls/id/{}",
    "/calling/v1/calls/id/{sinch}",
    "/calling/v1/calls/id/{sinch}/leg/{}",
    "/calling/v1/conferences/id/{}",
    "/calling/v1/conferences/id/{}/{sinch}",
    "/calling/v1/recording",
    "/calling/v1/recording?page={}&pageSize={}&from={}",
    "/calling/v1/recording/{}",
    "/app/calls/{graph}/record",
    "/v1.0/communications/calls/{graph}/recordResponse",
    "/beta/applications/{}/calls/{graph}/{}",
    "/communications/calls/{graph}/playPrompt",
    "/communications/calls/{graph}/cancelMediaProcessing",
    "/communications/calls/{graph}/operations/{}",
    "/communications/calls/{graph}",
    "/graph/recordings/{graph}/{}",
]


@pytest.fixture(scope="module")
def calls(closed, opened):
    """A call of each dialect in either service, by its port."""
    return {
        one.port: {
            dialect: begun(one.client(tenant), dialect, call_id=str(uuid.uuid4()))
            for dialect in ("chime", "sinch", "graph")
        }
        for one, tenant in ((closed, "acme"), (opened, None))
    }


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(TEMPLATES),
    st.lists(SEGMENTS, min_size=3, max_size=3),
    st.sampled_from(["GET", "POST", "PATCH", "DELETE", "PUT", "HEAD"]),
    BODIES,
    HEADERS,
    st.booleans(),
)
def test_whatever_comes_is_answered_and_never_with_500(
    closed, opened, calls, template, segments, method, body, headers, is_open
):
    running = opened if is_open else closed
    ids = calls[running.port]
    if running.service.host.call(ids["sinch"]).recorded.is_over or method == "DELETE":
        for dialect, call_id in list(ids.items()):
            if running.service.host.call(call_id).recorded.is_over:
                ids[dialect] = begun(running.client("acme" if running is closed else None), dialect)
    target = template.format(*segments, **ids)
    lines = [
        f"{method} {target} HTTP/1.1",
        "Host: localhost",
        "Connection: close",
        f"Content-Length: {len(body)}",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
        answer = Raw(b"".join(iter(lambda: connection.recv(65536), b"")))
    assert answer.status_code < 500, answer.body
    if answer.status_code >= 400 and method != "HEAD":
        path = target.partition("?")[0]
        vendor = "chime" if path.startswith("/sip") else "sinch" if path.startswith("/calling") else "graph"
        check_shape(vendor, answer)
    if not is_open:
        assert answer.status_code >= 400


def test_threads_of_requests_for_one_call_are_all_answered(opened, calls):
    statuses = []

    def ask():
        client = opened.client(None)
        for _ in range(20):
            path = f"/calling/v1/calls/id/{calls[opened.port]['sinch']}"
            statuses.append(client.patch(path, json={"action": {"name": "continue"}}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == 80
    assert set(statuses) <= {204, 404}
