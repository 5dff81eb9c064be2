"""Ways to customers' programs, as settings name them."""

import contextlib
import json
import uuid
from datetime import UTC, datetime
from ipaddress import ip_network
from types import SimpleNamespace

import pytest

from callreel.addresses import Policy, RefusedAddressError
from callreel.dialects.sinch_signing import authenticate
from callreel.errors import DeliveryDeniedError, UsageError
from callreel.notify import Notification
from callreel.notify.functions import PythonFunction
from callreel.notify.lambdas import LambdaFunction
from callreel.notify.signatures import HmacSignature, verify
from callreel.notify.webhooks import Webhook
from callreel.service.configuration import read_settings
from callreel.service.handlers import handler_of
from callreel.service.running import Service
from http_server import authority, plain, serving
from secret_watch import may_hold, secret, secret_base64
from service_host import listening, until
from vendor_customers import ISSUER, REGION, SIGNING, Backend, Silence, Tenant, begun, chime_client

NOW = datetime.now(UTC)
SECRET = "whsec_" + "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
ARN = "arn:aws:lambda:eu-central-1:111122223333:function:calls"


def told(dialect="chime", kind="invocation"):
    return Notification("id-1", "call-1", dialect, kind, {"event": "ice"}, NOW)


def hang_up(body):
    """As a customer's program of Amazon Chime's: hangs up on who asks for an update."""
    actions = []
    if body.get("InvocationEventType") == "CALL_UPDATE_REQUESTED":
        leg = body["CallDetails"]["Participants"][0]["CallId"]
        actions.append({"Type": "Hangup", "Parameters": {"SipResponseCode": "480", "CallId": leg}})
    return {"SchemaVersion": "1.0", "Actions": actions}


PROGRAM = Backend(hang_up)


def program(notification):
    """The same, as settings name it."""
    return PROGRAM(notification)


def here(port):
    return Policy(schemes=("http",), ports=(port,), allowed=(ip_network("127.0.0.0/8"),))


def test_a_function_in_lambda_is_invoked_in_its_region():
    def answer(request):
        assert request.target == f"/2015-03-31/functions/{ARN.replace(':', '%3A')}/invocations"
        assert "/eu-central-1/lambda/" in request.headers["authorization"]
        return plain(body=b'{"SchemaVersion": "1.0"}')

    with serving(answer) as server, pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "AKID")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        handler = handler_of(ARN, lambda_endpoint_url=f"http://127.0.0.1:{server.port}")
        assert isinstance(handler, LambdaFunction)
        assert handler.tell(told()).document == {"SchemaVersion": "1.0"}
        assert json.loads(server.requests[0].body) == {"event": "ice"}


def test_an_address_is_told_with_a_signature():
    with serving(lambda request: plain(body=b'{"SchemaVersion": "1.0"}')) as server:
        url = f"http://127.0.0.1:{server.port}/calls"
        handler = handler_of(url, signer=HmacSignature(lambda: SECRET), policy=here(server.port))
        assert isinstance(handler, Webhook)
        assert handler.tell(told()).document == {"SchemaVersion": "1.0"}
        (request,) = server.requests
        assert verify(request.headers, request.body, [SECRET], now=datetime.now(UTC)) == "id-1"


def test_a_python_function_is_called():
    PROGRAM.told.clear()
    handler = handler_of(f"{__name__}:program")
    assert isinstance(handler, PythonFunction)
    assert handler.lane == f"python:{__name__}:program"
    assert handler.tell(told()).document == {"SchemaVersion": "1.0", "Actions": []}
    assert PROGRAM.told == [{"event": "ice"}]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "calls",
        "callreel.nothing:here",
        "callreel.notify:nothing",
        "callreel.notify:ID_HEADER",
        "arn:aws:s3:::a",
    ],
)
def test_what_names_no_program_is_a_mistake(text):
    with pytest.raises(UsageError):
        handler_of(text)


@pytest.mark.parametrize("url", ["http://customer.example/", "https://user:pw@customer.example/", "ftp://a/"])
def test_an_address_goes_through_the_guard(url):
    with pytest.raises(RefusedAddressError):
        handler_of(url)


# ---- from callreel.toml to the program ----

ACME = Tenant(
    "acme",
    f"AKIA{'ACME':X<16}",
    secret("acme-aws"),
    "acme-0000-4000-8000-00000000sma0",
    "acme-application-key",
    secret_base64(24, "acme-sinch"),
    "acme-app-4b39-8d36",
)
SIGNED, SIGNED_TOO = (f"whsec_{secret_base64(32, name)}" for name in ("old", "new"))
BEARER = secret("acme-graph")
SECRETS = {
    "token": secret("a-token-of-acme-0123456789"),
    "aws": ACME.secret_access_key,
    "sinch": ACME.sinch_secret,
    "signed": SIGNED,
    "signed-too": SIGNED_TOO,
    "bearer": BEARER,
}
SETTINGS = f"""
[spool]
folder = "spool"
[delivery]
destination = "out"
[service]
port = 0
tokens.acme_file = "token"
[service.chime]
region = "{REGION}"
[service.chime.credentials.{ACME.access_key_id}]
tenant = "acme"
secret_file = "aws"
[service.graph]
issuers = ["{ISSUER}"]
jwks = "jwks.json"
revision = "current"
"""
CHIME = f"[service.chime.applications.{ACME.sip_media_application}]"
SINCH = f'[service.sinch.applications.{ACME.sinch_key}]\nsecret_file = "sinch"'
GRAPH = f"[service.graph.applications.{ACME.graph_application}]"


@pytest.fixture
def reached(tmp_path):
    """Serves with settings and an application's; `ports`: of this machine, to which its HTTPS addresses lead."""

    @contextlib.contextmanager
    def reached(*lines, ports=()):
        for name, text in SECRETS.items():
            may_hold(tmp_path / name)
            (tmp_path / name).write_text(text)
        (tmp_path / "jwks.json").write_text(json.dumps(SIGNING.jwks))
        reach = ['ca_file = "ca.pem"', 'allowed_networks = ["127.0.0.1/32"]', f"ports = {list(ports)}"]
        path = tmp_path / "callreel.toml"
        path.write_text("\n".join([SETTINGS, *lines, 'tenant = "acme"', *(reach if ports else ())]))
        with listening(Service(read_settings(path), openers=lambda recorder: {"rtp": Silence})) as running:
            yield running, running.client(SECRETS["token"])

    return reached


@pytest.fixture
def certified(tmp_path):
    """Certificate and key of this machine, of an authority of nobody's but the settings'."""
    return authority(tmp_path).certify("127.0.0.1")


def over(client, call_id):
    return until(lambda: client.get(f"/v1/calls/{call_id}").json()["ended_at"])


def answered(request):
    """What the program at an address, or in Lambda, answers."""
    return plain(body=json.dumps(PROGRAM(SimpleNamespace(body=json.loads(request.body)))).encode())


@contextlib.contextmanager
def program_as(kind, certified, environment):
    """The program, of one kind: the lines of settings, its ports for HTTPS, and the requests that it gets."""
    if kind == "function":
        yield [f'handler = "{__name__}:program"'], [], []
        return
    with serving(answered, tls=certified if kind == "address" else None) as server:
        if kind == "address":
            secrets = 'signing_secret_file = "signed"\nsecond_secret_file = "signed-too"'
            yield [f'handler = "https://127.0.0.1:{server.port}/x"', secrets], [server.port], server.requests
            return
        environment.setenv("AWS_ENDPOINT_URL_LAMBDA", f"http://127.0.0.1:{server.port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "AKID")
        environment.setenv("AWS_SECRET_ACCESS_KEY", secret("lambda"))
        yield [f'handler = "{ARN}"'], [], server.requests


@pytest.mark.parametrize("kind", ["address", "function", "lambda"])
def test_an_update_by_boto3_reaches_the_program_that_settings_name_and_its_answer_is_done(
    reached, certified, monkeypatch, kind
):
    PROGRAM.told.clear()
    with (
        program_as(kind, certified, monkeypatch) as (lines, ports, requests),
        reached(CHIME, *lines, ports=ports) as (running, client),
    ):
        call_id = begun(client, "chime")
        chime_client(running.url, ACME).update_sip_media_application_call(
            SipMediaApplicationId=ACME.sip_media_application,
            TransactionId=call_id,
            Arguments={"please": "hang up"},
        )
        update = PROGRAM.wait_for(lambda body: body["InvocationEventType"] == "CALL_UPDATE_REQUESTED")
        assert update["CallDetails"]["TransactionId"] == call_id
        assert update["ActionData"]["Parameters"]["Arguments"] == {"please": "hang up"}
        over(client, call_id)
        PROGRAM.wait_for(lambda body: body["InvocationEventType"] == "HANGUP")
    assert len(requests) == (0 if kind == "function" else len(PROGRAM.told))
    for one in requests if kind == "address" else ():
        for known in (SIGNED, SIGNED_TOO):
            assert verify(one.headers, one.body, [known], now=datetime.now(UTC))


@pytest.mark.parametrize("has_fallback", [False, True])
def test_sinchs_callbacks_reach_the_address_that_settings_name_and_its_fallback(
    reached, certified, has_fallback
):
    hangs_up = plain(body=b'{"action": {"name": "hangup"}}')
    with (
        serving(plain(500) if has_fallback else hangs_up, tls=certified) as first,
        serving(hangs_up, tls=certified) as second,
    ):
        names = ["backend", "fallback"][: 1 + has_fallback]
        ports = [first.port, second.port][: 1 + has_fallback]
        urls = [
            f'{name} = "https://127.0.0.1:{port}/{name}"' for name, port in zip(names, ports, strict=True)
        ]
        with reached(SINCH, *urls, ports=ports) as (_, client):
            call_id = begun(client, "sinch", leg={"status": "offered"})
            over(client, call_id)
            for server in (first, second)[: 1 + has_fallback]:
                until(lambda server=server: len(server.requests) == 2)
    assert len(second.requests) == 2 * has_fallback
    secrets, now = {ACME.sinch_key: ACME.sinch_secret}, datetime.now(UTC)
    for server, name in zip((first, second), names, strict=False):
        assert [json.loads(one.body)["event"] for one in server.requests] == ["ice", "dice"]
        for one in server.requests:
            assert json.loads(one.body)["callid"] == call_id
            assert authenticate(one.headers, "POST", f"/{name}", body=one.body, secrets=secrets, now=now)


def test_graphs_notifications_reach_the_address_that_settings_name(reached, certified):
    with serving(plain(202), tls=certified) as server:
        lines = [f'backend = "https://127.0.0.1:{server.port}/graph"', 'backend_token_file = "bearer"']
        with reached(GRAPH, *lines, ports=[server.port]) as (_, client):
            call_id = begun(client, "graph", call_id=str(uuid.uuid4()))
            client.delete(f"/v1/calls/{call_id}")
            (request,) = until(lambda: server.requests)
    (told,) = json.loads(request.body)["value"]
    assert told["resourceUrl"] == f"/communications/calls/{call_id.replace('-', '').upper()}"
    assert told["resourceData"]["state"] == "terminated"
    assert request.headers["authorization"] == f"Bearer {BEARER}"


def test_an_authority_that_settings_do_not_name_is_not_believed(reached, certified, tmp_path):
    with (
        serving(plain(202), tls=certified) as server,
        reached(CHIME, f'handler = "https://127.0.0.1:{server.port}/x"', ports=[server.port]),
    ):
        text = (tmp_path / "callreel.toml").read_text().replace('ca_file = "ca.pem"', "")
        (tmp_path / "callreel.toml").write_text(text)
        settings = read_settings(tmp_path / "callreel.toml")
        handler = settings.vendors.chime.applications[ACME.sip_media_application].handler
        with pytest.raises(DeliveryDeniedError, match="certificate"):
            handler.tell(told())
    assert not server.requests
