"""Notifications on their way: webhooks and Lambda over real HTTP, functions, signatures, payloads."""

import base64
import contextlib
import dataclasses
import ipaddress
import json
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callreel import patience
from callreel.addresses import Policy, RefusedAddressError
from callreel.dialects.sinch_signing import CallbackSigner, authenticate
from callreel.errors import (
    DeliveryDeniedError,
    DeliveryError,
    DeliveryInterruptedError,
    DeliveryThrottledError,
    DestinationMissingError,
    UsageError,
)
from callreel.notify import (
    LIMITS,
    SECRET_MEMBERS,
    Answer,
    FirstThatAnswers,
    Limits,
    Notification,
    as_json,
    ask,
    from_payload,
    limits_for,
    read_answer,
    secrets_of,
    to_payload,
)
from callreel.notify.functions import PythonFunction
from callreel.notify.lambdas import LambdaFunction
from callreel.notify.references import FromEnvironment, FromFile, secret_of
from callreel.notify.signatures import BearerToken, HmacSignature, SignatureError, verify
from callreel.notify.webhooks import Webhook
from callreel.patience import Deadline, TooSlowError, within
from http_server import authority, plain, serving
from secret_watch import MARK, may_hold, secret_base64

AT = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)
NAME = "hooks.example"
SECRET = f"whsec_{secret_base64(32)}"
OTHER_SECRET = f"whsec_{secret_base64(32, 'other')}"


def told(kind="notification", dialect="chime", body=None, event_id="call-1:7"):
    return Notification(event_id, "call-1", dialect, kind, body or {"Sequence": 3, "ä": "ü"}, AT)


def limited(attempt_s=30.0, total_s=60.0, failures=2, is_queued=True):
    return lambda _: Limits(attempt_s, total_s, failures, is_queued)


def patient(notification):
    """As often as the vendor, with time enough for a busy machine."""
    return limits_for(notification)._replace(attempt_s=30.0, total_s=60.0)


@contextlib.contextmanager
def seconds(at_least, at_most):
    began = time.monotonic()
    yield
    assert at_least <= time.monotonic() - began < at_most


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    pytest.importorskip("cryptography")
    return authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def https(ca):
    """An HTTPS server and a webhook to it: `with https(answer, ...) as (server, webhook)`."""

    @contextlib.contextmanager
    def begin(answer, path="/hook?key=hunter2", **others):
        with serving(answer, tls=ca.certify(NAME)) as server:
            policy = Policy(
                ports=(server.port,), allowed=[ipaddress.ip_network("127.0.0.1")], ca_file=ca.file
            )
            given = {"policy": policy, "resolve": lambda *_: ["127.0.0.1"], "clock": lambda: AT, **others}
            yield server, Webhook(f"https://{NAME}:{server.port}{path}", **given)

    return begin


# ---- what a notification is ----------------------------------------------------------------------


@pytest.mark.parametrize("event_id", ["", "a.b", "a b", "a\r\nb", "ä", "a" * 201, "a/b"])
def test_an_id_is_safe_in_a_header_and_in_a_signed_text(event_id):
    with pytest.raises(UsageError):
        told(event_id=event_id)


def test_a_kind_is_one_of_two_and_a_moment_has_a_time_zone():
    with pytest.raises(UsageError):
        told(kind="question")
    with pytest.raises(UsageError):
        dataclasses.replace(told(), created_at=datetime(2024, 5, 1))


def test_a_repr_does_not_hold_the_body():
    assert "hunter2" not in repr(told(body={"recordingAccessToken": "hunter2"}))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text() | st.sampled_from(["credentials", "recordingAccessToken", "a/b~c"]), inner
        )
    ),
    max_leaves=20,
)


def holds_secret(value):
    if isinstance(value, dict):
        return any(
            (name.lower() in SECRET_MEMBERS and one is not None) or holds_secret(one)
            for name, one in value.items()
        )
    return isinstance(value, list) and any(map(holds_secret, value))


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_a_payload_is_json_without_secrets_and_with_them_gives_the_notification_back(body):
    notification = told(body=body)
    payload = json.loads(json.dumps(to_payload(notification)))
    assert not holds_secret(payload["body"])
    secrets = secrets_of(notification)
    assert sorted(secrets) == sorted(payload["secrets"])
    again = from_payload(payload, secrets)
    assert again == notification
    assert as_json(again.body) == as_json(notification.body)


def graph_body():
    return {"value": [{"resourceData": {"recordingAccessToken": "hunter2", "status": "completed"}}]}


def test_a_secret_that_is_gone_must_be_given_again_and_waits_until_it_is():
    notification = told(body=graph_body(), dialect="graph")
    payload = to_payload(notification)
    pointer = "/value/0/resourceData/recordingAccessToken"
    assert payload["secrets"] == [pointer]
    assert "hunter2" not in json.dumps(payload)
    with pytest.raises(DeliveryError, match=r"recordingAccessToken.*is gone") as caught:
        from_payload(payload)
    assert (caught.value.retryable, caught.value.key) == (True, notification.id)
    assert from_payload(payload, {pointer: "hunter2"}) == notification


@pytest.mark.parametrize(
    "change", [{"body": 1, "secrets": ["/a"]}, {"created_at": "noon"}, {"created_at": None}]
)
def test_what_is_no_payload_is_refused(change):
    with pytest.raises(UsageError):
        from_payload({**to_payload(told()), **change}, {"/a": "x"})
    with pytest.raises(UsageError):
        from_payload({})


@pytest.mark.parametrize("body", [{"a": float("nan")}, {"a": b"x"}, {"a": {1, 2}}])
def test_a_body_that_is_no_json_is_refused(body):
    with pytest.raises(UsageError):
        as_json(body)


@pytest.mark.parametrize(
    ("text", "document"),
    [
        (b'{"Actions": []}', {"Actions": []}),
        (b"\xef\xbb\xbf[1]", [1]),
        (b"null", None),
        (b"", None),
        (b" \r\n", None),
        (b"{", "{"),
        (b"NaN", "NaN"),
        (b"<html>", "<html>"),
        (b"\xff", "�"),
        (b"[" * 100_000, "[" * 100_000),
    ],
)
def test_an_answer_is_json_nothing_or_text(text, document):
    assert read_answer(text) == Answer(document)


# ---- how long, how often -------------------------------------------------------------------------


def test_the_limits_are_those_of_each_vendor():
    assert LIMITS == {
        ("chime", "invocation"): (5.0, 20.0, 2, False),
        ("chime", "notification"): (5.0, 20.0, 2, True),
        ("sinch", "invocation"): (5.0, 5.0, 1, False),
        ("sinch", "notification"): (5.0, 5.0, 1, False),
        ("graph", "notification"): (10.0, 10.0, 1, True),
    }
    assert limits_for(told("invocation", "chime")).total_s == 20.0
    assert not limits_for(told("invocation", "another")).is_queued
    assert limits_for(told("notification", "another")).is_queued


def failing(error):
    def attempt(_):
        tried.append(1)
        raise error

    tried = []
    return attempt, tried


@pytest.mark.parametrize("retryable", [True, False])
@pytest.mark.parametrize("failures", [1, 2, 3])
@pytest.mark.parametrize("is_queued", [True, False])
def test_an_error_is_tried_as_often_as_the_limits_say_and_later_only_if_it_can_help(
    failures, retryable, is_queued
):
    attempt, tried = failing(DeliveryError("no", retryable=retryable))
    with pytest.raises(DeliveryError, match="no") as caught:
        ask(Limits(1.0, 5.0, failures, is_queued), attempt, what="it")
    assert len(tried) == failures
    assert caught.value.retryable is (retryable and is_queued)


def test_what_is_too_slow_is_tried_until_the_time_is_over():
    given = []

    def attempt(limit_s):
        given.append(limit_s)
        time.sleep(limit_s)
        raise TooSlowError("it", limit_s)

    with seconds(0.5, 2.0), pytest.raises(TooSlowError):
        ask(Limits(0.2, 0.5, 2, True), attempt, what="it")
    assert given[0] == 0.2
    assert all(one <= 0.2 for one in given)
    assert sum(given) == pytest.approx(0.5, abs=0.1)


def test_within_hands_on_what_a_function_returns_and_raises():
    assert within(Deadline("it", 1.0), lambda: 5, lane="a") == 5
    with pytest.raises(KeyError):
        within(Deadline("it", 1.0), lambda: {}["x"], lane="a")


def test_only_so_many_functions_that_nobody_waits_for_are_at_work(monkeypatch):
    monkeypatch.setattr(patience, "_places", patience._Places(1))
    over = threading.Event()
    with pytest.raises(TooSlowError):
        within(Deadline("it", 0.1), over.wait, lane="a")
    with pytest.raises(TooSlowError):
        within(Deadline("it", 0.1), lambda: 5, lane="b")
    over.set()
    assert within(Deadline("it", 1.0), lambda: 5, lane="a") == 5


def test_lanes_that_hang_leave_places_to_others(monkeypatch):
    monkeypatch.setattr(patience, "_places", patience._Places(64))
    over, hanging = threading.Event(), []
    for lane in ("a", "b", "c"):
        for _ in range(20):
            with pytest.raises(TooSlowError):
                within(
                    Deadline("it", 0.002), lambda lane=lane: (hanging.append(lane), over.wait()), lane=lane
                )
    assert within(Deadline("it", 1.0), lambda: 5, lane="d") == 5
    assert 1 <= hanging.count("c") <= hanging.count("b") <= hanging.count("a") <= 64 // patience.SHARE
    over.set()
    assert [within(Deadline("it", 1.0), lambda: 5, lane="a") for _ in range(65)] == [5] * 65


# ---- webhooks ------------------------------------------------------------------------------------


def test_a_notification_is_posted_as_json_under_its_id(https):
    with https(plain(202, b"not read")) as (server, webhook):
        assert webhook.tell(told()) is None
    (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/hook?key=hunter2")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == "call-1:7"
    assert request.body == b'{"Sequence":3,"\\u00e4":"\\u00fc"}'
    assert request.server_name == NAME


@pytest.mark.parametrize(
    ("answer", "document"),
    [
        (plain(200, b'{"action":{"name":"hangup"}}'), {"action": {"name": "hangup"}}),
        (plain(204), None),
        (plain(200, b"oops"), "oops"),
    ],
)
def test_of_an_invocation_the_body_that_comes_back_is_the_answer(https, answer, document):
    with https(answer) as (_, webhook):
        assert webhook.tell(told("invocation", "sinch")) == Answer(document)


def test_the_id_and_the_body_are_the_same_at_every_try(https):
    with https(plain(500), limits=limited(failures=3)) as (server, webhook):
        with pytest.raises(DeliveryInterruptedError) as caught:
            webhook.tell(told())
        with pytest.raises(DeliveryInterruptedError):
            webhook.tell(from_payload(to_payload(told())))
    assert len({(one.headers["webhook-id"], one.body) for one in server.requests}) == 1
    assert len(server.requests) == 6
    assert (caught.value.key, caught.value.retryable) == ("call-1:7", True)


def test_a_customer_who_asks_for_patience_gets_it(https):
    with (
        https(plain(429, Retry_After="17"), limits=limited(failures=1)) as (_, webhook),
        pytest.raises(DeliveryThrottledError) as caught,
    ):
        webhook.tell(told())
    assert (caught.value.retryable, caught.value.retry_after_s) == (True, 17.0)


def test_a_customer_who_never_answers_costs_no_more_than_the_limits(https):
    limits = limited(attempt_s=0.2, total_s=0.5)
    with (
        https(lambda request, connection: time.sleep(3), limits=limits) as (server, webhook),
        seconds(0.5, 2.0),
        pytest.raises(TooSlowError),
    ):
        webhook.tell(told())
    assert 1 <= len(server.requests) <= 3


def test_what_sinch_does_not_send_again_is_not_sent_again_unless_asked_for(https):
    with https(plain(500)) as (server, webhook), pytest.raises(DeliveryInterruptedError) as caught:
        webhook.tell(told(dialect="sinch"))
    assert (len(server.requests), caught.value.retryable) == (1, False)
    asked_for = {"limits": lambda one: limits_for(one)._replace(is_queued=True)}
    with (
        https(plain(500), **asked_for) as (server, webhook),
        pytest.raises(DeliveryInterruptedError) as caught,
    ):
        webhook.tell(told(dialect="sinch"))
    assert (len(server.requests), caught.value.retryable) == (1, True)


def test_a_webhook_to_the_inside_is_refused_when_it_is_made_or_when_it_is_told():
    with pytest.raises(RefusedAddressError):
        Webhook("http://example.org/")
    with pytest.raises(RefusedAddressError):
        Webhook("https://user:hunter2@example.org/")
    for url in ("https://127.0.0.1/", "https://[::1]/", "https://a.example/"):
        webhook = Webhook(url, resolve=lambda *_: ["10.0.0.1"])
        with pytest.raises(RefusedAddressError) as caught:
            webhook.tell(told())
        assert not caught.value.retryable


def test_a_lane_is_what_fails_together():
    assert Webhook("https://A.example/hunter2").lane == "https://a.example:443"
    assert repr(Webhook("https://a.example/hunter2?hunter2")) == "<Webhook https://a.example:443>"


def test_sinch_authenticates_what_its_signer_signed(https):
    secret = secret_base64(16)
    signer = CallbackSigner("app-key", lambda: secret)
    with https(plain(), signer=signer) as (server, webhook):
        webhook.tell(told(dialect="sinch"))
    (request,) = server.requests
    path = request.target.partition("?")[0]
    given = {"body": request.body, "secrets": {"app-key": secret}, "now": AT, "allow_basic": False}
    assert authenticate(request.headers, "POST", path, **given) == "app-key"
    assert request.headers["x-timestamp"] == "2024-05-01T12:00:00Z"


def test_graph_gets_the_bearer_token_that_is_there_now(https, tmp_path):
    file = tmp_path / "token"
    with https(plain(202), signer=BearerToken(FromFile(file))) as (server, webhook):
        for token in (f"{MARK}-1", f"{MARK}-2"):
            may_hold(file).write_text(f"{token}\n")
            webhook.tell(told(dialect="graph"))
    assert [one.headers["authorization"] for one in server.requests] == [
        f"Bearer {MARK}-1",
        f"Bearer {MARK}-2",
    ]


def test_a_webhook_that_cannot_be_signed_is_not_sent(https, tmp_path, monkeypatch):
    monkeypatch.delenv("HOOK_SECRET", raising=False)

    def raising():
        raise RuntimeError("hunter2")

    for signer, words in [
        (BearerToken(FromFile(tmp_path / "nothing")), "cannot read the secret"),
        (BearerToken(FromEnvironment("HOOK_SECRET")), "HOOK_SECRET is not set"),
        (BearerToken(raising), "raised RuntimeError"),
        (BearerToken(lambda: "hunter2\r\nX-Other: 1"), "printable ASCII"),
        (HmacSignature(lambda: "whsec_hunter2"), "a secret"),
        (CallbackSigner("key", lambda: "hunter2!"), "base64"),
        (CallbackSigner("key", raising), "RuntimeError"),
    ]:
        with (
            https(plain(), signer=signer, limits=limited()) as (server, webhook),
            pytest.raises(DeliveryDeniedError, match=words) as caught,
        ):
            webhook.tell(told())
        assert "hunter2" not in f"{caught.value!r}"
        assert caught.value.retryable
        assert server.requests == []


def test_a_fallback_is_told_when_what_is_before_it_has_failed(https):
    with https(plain(500)) as (first, one), https(plain(200, b'{"svaml":1}')) as (second, two):
        both = FirstThatAnswers(one, two)
        assert both.tell(told("invocation", "sinch")) == Answer({"svaml": 1})
        assert both.lane == f"{one.lane} {two.lane}"
    assert (len(first.requests), len(second.requests)) == (1, 1)
    with pytest.raises(DeliveryInterruptedError):
        both.tell(told("invocation", "sinch"))  # neither is there any more

    def refuses(_):
        raise DeliveryError("no")

    refusing = PythonFunction(refuses, limits=limited())
    with pytest.raises(DeliveryError, match="no") as caught:
        FirstThatAnswers(one, refusing).tell(told())  # a later try may reach the first
    assert caught.value.retryable
    with pytest.raises(DeliveryError, match="no") as caught:
        refusing.tell(told())
    assert not caught.value.retryable
    with pytest.raises(UsageError):
        FirstThatAnswers()


# ---- signatures ----------------------------------------------------------------------------------


def signed(body=b"{}", at=AT, secrets=(SECRET,), event_id="call-1:7"):
    sources = [lambda one=one: one for one in secrets]
    given = {"method": "POST", "path": "/", "content_type": "application/json"}
    return {
        "webhook-id": event_id,
        **HmacSignature(*sources).headers(event_id=event_id, body=body, at=at, **given),
    }


def test_the_signature_is_that_of_the_standards_own_example():
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    at = datetime.fromtimestamp(1614265330, UTC)
    assert signed(body, at, [secret], headers["webhook-id"]) == headers
    assert verify(headers, body, [secret], now=at) == headers["webhook-id"]


def test_what_a_webhook_sent_is_verified_as_the_page_says(https):
    with https(plain(), signer=HmacSignature(lambda: SECRET)) as (server, webhook):
        webhook.tell(told())
    (request,) = server.requests
    assert verify(request.headers, request.body, [SECRET], now=AT) == "call-1:7"


def test_while_a_secret_changes_either_is_good():
    both = signed(secrets=(SECRET, OTHER_SECRET))
    assert len(both["webhook-signature"].split()) == 2
    for known in ([SECRET], [OTHER_SECRET], [OTHER_SECRET, SECRET]):
        assert verify(both, b"{}", known, now=AT) == "call-1:7"
    assert verify(signed(), b"{}", [OTHER_SECRET, SECRET], now=AT) == "call-1:7"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"webhook-id": "call-1:8"}, "webhook-signature"),
        ({"webhook-id": ""}, "webhook-id"),
        ({"webhook-timestamp": str(int(AT.timestamp()) + 1)}, "webhook-signature"),
        ({"webhook-timestamp": "noon"}, "webhook-timestamp"),
        ({"webhook-timestamp": "٣"}, "webhook-timestamp"),
        ({"webhook-signature": ""}, "webhook-signature"),
        ({"webhook-signature": "v1,"}, "webhook-signature"),
        ({"webhook-signature": "v1a,ä"}, "webhook-signature"),
        ({"webhook-signature": "v1,\ud800ä"}, "webhook-signature"),
    ],
)
def test_what_was_changed_is_not_believed(change, field):
    with pytest.raises(SignatureError) as caught:
        verify({**signed(), **change}, b"{}", [SECRET], now=AT)
    assert caught.value.field == field


def test_another_body_another_secret_and_another_time_are_not_believed():
    for body, secrets, late_s in [
        (b"{ }", [SECRET], 0),
        (b"{}", [OTHER_SECRET], 0),
        (b"{}", [], 0),
        (b"{}", [SECRET], 301),
        (b"{}", [SECRET], -301),
    ]:
        with pytest.raises(SignatureError):
            verify(signed(), body, secrets, now=AT + timedelta(seconds=late_s))
    assert verify(signed(), b"{}", [SECRET], now=AT + timedelta(seconds=300)) == "call-1:7"


@pytest.mark.parametrize("size", [23, 65])
def test_a_secret_that_is_too_short_or_too_long_signs_nothing(size):
    with pytest.raises(DeliveryDeniedError, match="24 to 64 bytes"):
        signed(secrets=[base64.b64encode(bytes(size)).decode()])
    with pytest.raises(UsageError):
        HmacSignature()


@pytest.mark.parametrize("secret", ["", "a b", "a\n", "ä", None, b"bytes"])
def test_a_secret_is_printable_text_without_spaces(secret):
    with pytest.raises(DeliveryDeniedError, match="printable ASCII without spaces"):
        secret_of(lambda: secret)


def test_references_show_where_a_secret_is_and_not_the_secret(tmp_path, monkeypatch):
    may_hold(tmp_path / "secret").write_text("hunter2\n")
    monkeypatch.setenv("HOOK_SECRET", "hunter2")
    for source in (FromFile(tmp_path / "secret"), FromEnvironment("HOOK_SECRET")):
        assert secret_of(source) == "hunter2"
        assert "hunter2" not in repr(source)
    for signer in (BearerToken(source), HmacSignature(source), CallbackSigner("key", source)):
        assert "hunter2" not in repr(signer)


# ---- functions of the host -----------------------------------------------------------------------


def test_a_function_of_the_host_is_told_and_answers_invocations():
    got = []

    def customer(notification):
        got.append(notification.id)
        return {"Actions": []}

    function = PythonFunction(customer)
    assert function.tell(told("invocation")) == Answer({"Actions": []})
    assert function.tell(told()) is None
    assert got == ["call-1:7", "call-1:7"]
    assert (function.lane, repr(function)) == ("python:customer", "<PythonFunction customer>")


def test_what_a_function_raises_is_told_by_its_class_alone():
    def customer(_):
        raise ValueError("hunter2")

    with pytest.raises(DeliveryError, match="customer raised ValueError") as caught:
        PythonFunction(customer, limits=limited()).tell(told())
    assert caught.value.retryable
    assert caught.value.__cause__ is None
    assert "hunter2" not in str(caught.value)


def test_a_function_may_say_itself_what_went_wrong():
    def customer(_):
        raise DeliveryThrottledError("later", retryable=True, retry_after_s=3.0)

    with pytest.raises(DeliveryThrottledError) as caught:
        PythonFunction(customer, limits=limited()).tell(told())
    assert caught.value.retry_after_s == 3.0


def test_a_function_that_never_returns_costs_no_more_than_the_limits():
    function = PythonFunction(lambda _: time.sleep(4), name="sleeper", limits=limited(0.2, 0.5))
    with seconds(0.5, 2.0), pytest.raises(TooSlowError):
        function.tell(told())


def test_a_coroutine_function_is_refused():
    async def customer(_):
        return None

    with pytest.raises(UsageError):
        PythonFunction(customer)


# ---- AWS Lambda: boto3 over HTTP to a server that speaks its Invoke API --------------------------


@pytest.fixture
def aws(monkeypatch):
    """A server and a function behind it: `with aws(answer, ...) as (server, function)`."""
    boto3 = pytest.importorskip("boto3")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    @contextlib.contextmanager
    def begin(answer, tls=None, **others):
        with serving(answer, tls=tls) as server:
            given = {
                "region": "us-east-1",
                "endpoint_url": f"http{'s' if tls else ''}://127.0.0.1:{server.port}",
                "session": boto3.Session(
                    aws_access_key_id="AKIAEXAMPLE", aws_secret_access_key="hunter2-secret"
                ),
                "limits": patient,
                **others,
            }
            yield server, LambdaFunction("ivr", **given)

    return begin


def refused(status, code, **headers):
    body = json.dumps({"Message": "the message says hunter2", "Type": "User"}).encode()
    return plain(status, body, X_Amzn_ErrorType=code, Content_Type="application/json", **headers)


def test_boto3_invokes_the_function_and_what_it_returns_is_the_answer(aws):
    with aws(plain(200, b'{"SchemaVersion":"1.0","Actions":[]}'), qualifier="live") as (server, function):
        assert function.tell(told("invocation")) == Answer({"SchemaVersion": "1.0", "Actions": []})
    (request,) = server.requests
    assert request.method == "POST"
    assert request.target == "/2015-03-31/functions/ivr/invocations?Qualifier=live"
    assert request.headers["x-amz-invocation-type"] == "RequestResponse"
    assert json.loads(request.body) == {"Sequence": 3, "ä": "ü"}
    context = json.loads(base64.b64decode(request.headers["x-amz-client-context"]))
    assert context == {"custom": {"webhook-id": "call-1:7"}}
    assert function.lane == "lambda:ivr"


@pytest.mark.parametrize(
    ("body", "document"), [(b"null", None), (b"", None), (b'"text"', "text"), (b"{oops", "{oops")]
)
def test_whatever_the_function_returns_is_handed_on(aws, body, document):
    with aws(plain(200, body)) as (_, function):
        assert function.tell(told("invocation")) == Answer(document)


def test_what_the_function_returns_to_a_notification_is_no_answer(aws):
    with aws(plain(200, b'{"Actions":[{}]}')) as (server, function):
        assert function.tell(told()) is None
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refused(404, "ResourceNotFoundException"), DestinationMissingError),
        (refused(403, "AccessDeniedException"), DeliveryDeniedError),
        (refused(403, "InvalidSignatureException"), DeliveryDeniedError),
        (refused(429, "TooManyRequestsException", Retry_After="2"), DeliveryThrottledError),
        (refused(400, "InvalidRequestContentException"), DeliveryError),
        (refused(413, "RequestTooLargeException"), DeliveryError),
        (refused(500, "ServiceException"), DeliveryInterruptedError),
        (refused(502, "EC2UnexpectedException"), DeliveryInterruptedError),
        (plain(503, b"<html>"), DeliveryInterruptedError),
        (plain(200, b'{"errorMessage":"hunter2"}', X_Amz_Function_Error="Unhandled"), DeliveryError),
    ],
)
@pytest.mark.parametrize("kind", ["invocation", "notification"])
def test_an_error_is_tried_once_more_and_then_told(aws, answer, error, kind):
    with aws(answer) as (server, function), pytest.raises(DeliveryError) as caught:
        function.tell(told(kind))
    assert len(server.requests) == 2
    assert type(caught.value) is error
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert caught.value.key == "call-1:7"
    if kind == "invocation":
        assert not caught.value.retryable
    if error is DeliveryThrottledError:
        assert caught.value.retry_after_s == 2.0


def test_an_error_that_passes_leaves_an_answer(aws):
    def answer(request):
        return refused(500, "ServiceException") if len(server.requests) == 1 else plain(200, b"[]")

    with aws(answer) as (server, function):
        assert function.tell(told("invocation")) == Answer([])
    assert len({one.headers["x-amz-client-context"] for one in server.requests}) == 1


def test_a_function_that_is_too_slow_is_invoked_again_until_the_time_is_over(aws):
    with (
        aws(lambda request, connection: time.sleep(3), limits=limited(0.4, 2.0)) as (server, function),
        seconds(2.0, 3.5),
        pytest.raises(TooSlowError),
    ):
        function.tell(told("invocation"))
    assert 2 <= len(server.requests) <= 6


def test_a_function_that_is_slow_once_is_asked_again_and_answers(aws):
    def answer(request):
        if len(server.requests) == 1:
            time.sleep(4)
        return plain(200, b'"second"')

    with aws(answer, limits=limited(1.0, 8.0)) as (server, function), seconds(1.0, 3.5):
        assert function.tell(told("invocation")) == Answer("second")


def test_an_answer_that_drips_costs_no_more_than_the_limits(aws):
    def answer(request, connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(80):
                connection.sendall(b" ")
                time.sleep(0.05)

    with (
        aws(answer, limits=limited(0.3, 0.5)) as (_, function),
        seconds(0.5, 2.0),
        pytest.raises(TooSlowError),
    ):
        function.tell(told("invocation"))


def test_an_answer_that_breaks_off_is_no_answer(aws):
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"SchemaVersion"'
    with aws(answer) as (server, function), pytest.raises(DeliveryInterruptedError):
        function.tell(told("invocation"))
    assert len(server.requests) == 2


def test_an_answer_longer_than_lambda_allows_is_no_answer(aws):
    body = b" " * (6 * 1024 * 1024 + 1)
    with (
        aws(plain(200, body)) as (_, function),
        pytest.raises(DeliveryError, match="more than 6291456 bytes"),
    ):
        function.tell(told("invocation"))


def test_without_credentials_nothing_is_sent_and_somebody_must_act(aws, tmp_path, monkeypatch):
    import boto3

    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    with (
        aws(plain(), session=boto3.Session()) as (server, function),
        pytest.raises(DeliveryDeniedError, match="NoCredentialsError") as caught,
    ):
        function.tell(told())
    assert caught.value.retryable
    assert server.requests == []


@pytest.mark.parametrize("is_trusted", [True, False])
def test_over_tls_the_certificate_is_checked_before_anything_is_sent(aws, ca, is_trusted):
    given = {"tls": ca.certify("127.0.0.1"), "ca_file": str(ca.file) if is_trusted else None}
    with aws(plain(200, b"[]"), **given) as (server, function):
        if is_trusted:
            assert function.tell(told("invocation")) == Answer([])
            return
        with pytest.raises(DeliveryDeniedError, match="SSLError") as caught:
            function.tell(told())
    assert caught.value.retryable
    assert server.requests == []


def test_over_tls_a_connection_that_breaks_is_an_interruption(aws, ca):
    given = {"tls": ca.certify("127.0.0.1"), "ca_file": str(ca.file)}

    def answer(request, connection):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)

    with aws(answer, **given) as (_, function), pytest.raises(DeliveryInterruptedError) as caught:
        function.tell(told())
    assert caught.value.retryable


def test_when_lambda_cannot_be_reached_another_try_may_go_well(aws):
    with aws(plain()) as (_, function):
        pass
    with pytest.raises(DeliveryInterruptedError, match="EndpointConnectionError") as caught:
        function.tell(told())
    assert caught.value.retryable


# ---- many at once --------------------------------------------------------------------------------


def test_a_notifier_may_be_told_from_many_threads_at_once(https, aws):
    def answer(request):
        return plain(200, json.dumps(request.headers["webhook-id"]).encode())

    def echo(request):
        context = json.loads(base64.b64decode(request.headers["x-amz-client-context"]))
        return plain(200, json.dumps(context["custom"]["webhook-id"]).encode())

    def ask_all(notifier):
        with ThreadPoolExecutor(24) as threads:
            return list(
                threads.map(lambda one: notifier.tell(told("invocation", event_id=one)).document, ids)
            )

    ids = [f"call-{number}" for number in range(72)]
    with https(answer) as (_, webhook), aws(echo) as (_, function):
        assert ask_all(webhook) == ids
        assert ask_all(function) == ids
        assert ask_all(PythonFunction(lambda one: one.id)) == ids


# ---- secrets -------------------------------------------------------------------------------------


def test_secrets_are_in_no_log_no_output_and_no_repr(https, aws, caplog, capfd):
    import boto3

    caplog.set_level(logging.DEBUG)  # of everything that was not asked for by name
    session = boto3.Session("AKIAEXAMPLE", "hunter2-secret", "hunter2-session-token")
    secret = "whsec_" + base64.b64encode(b"hunter2-hunter2-hunter2-hunter2").decode()
    with (
        https(plain(500, b"hunter2"), signer=HmacSignature(lambda: secret), limits=limited()) as (_, webhook),
        pytest.raises(DeliveryError) as caught,
    ):
        webhook.tell(told(body={"recordingAccessToken": "hunter2"}))
    with (
        aws(refused(403, "AccessDeniedException"), session=session) as (_, function),
        pytest.raises(DeliveryError) as denied,
    ):
        function.tell(told(body={"recordingAccessToken": "hunter2"}))
    everything = "".join(
        [
            caplog.text,
            *capfd.readouterr(),
            repr(webhook),
            repr(function),
            repr(caught.value),
            repr(denied.value),
        ]
    )
    assert "hunter2" not in everything
    assert secret not in everything
