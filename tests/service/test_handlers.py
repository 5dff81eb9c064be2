"""Ways to customers' programs, as settings name them."""

import json
from datetime import UTC, datetime
from ipaddress import ip_network

import pytest

from callreel.addresses import Policy, RefusedAddressError
from callreel.errors import UsageError
from callreel.notify import Notification
from callreel.notify.functions import PythonFunction
from callreel.notify.lambdas import LambdaFunction
from callreel.notify.signatures import HmacSignature, verify
from callreel.notify.webhooks import Webhook
from callreel.service.handlers import handler_of
from http_server import plain, serving

NOW = datetime.now(UTC)
SECRET = "whsec_" + "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
ARN = "arn:aws:lambda:eu-central-1:111122223333:function:calls"


def told(dialect="chime", kind="invocation"):
    return Notification("id-1", "call-1", dialect, kind, {"event": "ice"}, NOW)


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
    handler = handler_of("callreel.notify:as_json")
    assert isinstance(handler, PythonFunction)
    assert handler.lane == "python:callreel.notify:as_json"


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
