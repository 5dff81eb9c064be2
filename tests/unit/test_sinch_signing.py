"""Sinch's signatures: the vectors that are published, and what is refused with which code."""

import base64
from datetime import UTC, datetime, timedelta

import pytest

from callreel.dialects.sinch import error_response
from callreel.dialects.sinch_signing import (
    AuthenticationError,
    authenticate,
    authorization,
    content_md5,
    signature,
)
from callreel.errors import UsageError

KEY, SECRET = "669E367E-6BBA-48AB-AF15-266871C28135", "BeIukql3pTKJ8RGL5zo0DA=="
BODY = (
    b'{"event":"ace","callid":"822aa4b7-05b4-4d83-87c7-1f835ee0b6f6_257",'
    b'"timestamp":"2014-09-24T10:59:41Z","version":1}'
)
AT, PATH = "2014-09-24T10:59:41Z", "/sinch/callback/ace"
NOW = datetime(2014, 9, 24, 10, 59, 41, tzinfo=UTC)
SDK_SECRET = base64.b64encode(b"my-key-secret").decode()
SDK = {"timestamp": "2023-11-22T09:10:11.999Z", "path": "/path/pathParamValue", "secret": SDK_SECRET}

VECTORS = {
    "documented request": (
        {
            "secret": "JViE5vDor0Sw3WllZka15Q==",
            "method": "POST",
            "body": b'{"message":"Hello world"}',
            "content_type": "application/json",
            "timestamp": "2014-06-04T13:41:58Z",
            "path": "/v1/sms/+46700000000",
        },
        "jANzQ+rgAHyf1MWQFSwvYw==",
        "qDXMwzfaxCRS849c/2R0hg0nphgdHciTo7OdM6MsdnM=",
    ),
    "documented callback": (
        {
            "secret": SECRET,
            "method": "POST",
            "body": BODY,
            "content_type": "application/json",
            "timestamp": AT,
            "path": PATH,
        },
        "REWF+X220L4/Gw1spXOU7g==",
        "Tg6fMyo8mj9pYfWQ9ssbx3Tc1BNC87IEygAfLbJqZb4=",
    ),
    "SDK's POST": (
        {
            **SDK,
            "method": "POST",
            "body": b'{"identity":{"type":"number","endpoint":"+33444555666"},"method":"sms"}',
            "content_type": "application/json; charset=UTF-8",
        },
        None,
        "QP3OzQZVzRZAEev6DBLvJkgpiqyZPuXYsc7oyjUV0K8=",
    ),
    "SDK's GET without a body": (
        {**SDK, "method": "get", "body": b"", "content_type": "application/json"},
        "",
        "nsrLDvP6KVD/dAxb3IfAncdwjPFJVWSrseEFOcZge+A=",
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_the_published_vectors(name):
    arguments, md5, expected = VECTORS[name]
    assert signature(**arguments) == expected
    assert md5 is None or content_md5(arguments["body"]) == md5


def test_the_header_is_the_one_that_the_page_prints():
    value = authorization(KEY, SECRET, "POST", PATH, body=BODY, content_type="application/json", timestamp=AT)
    assert value == (
        "Application 669E367E-6BBA-48AB-AF15-266871C28135:Tg6fMyo8mj9pYfWQ9ssbx3Tc1BNC87IEygAfLbJqZb4="
    )


def headers(**changed):
    given = {
        "Authorization": authorization(
            KEY, SECRET, "POST", PATH, body=BODY, content_type="application/json", timestamp=AT
        ),
        "Content-Type": "application/json",
        "X-Timestamp": AT,
    }
    return {name: value for name, value in (given | changed).items() if value is not None}


def check(given, *, now=NOW, body=BODY, method="POST", path=PATH, secrets=None, **options):
    secrets = {KEY: SECRET} if secrets is None else secrets
    return authenticate(given, method, path, body=body, secrets=secrets, now=now, **options)


def refusal(given, **options):
    with pytest.raises(AuthenticationError) as caught:
        check(given, **options)
    assert SECRET not in str(caught.value)
    assert caught.value.value is None
    response = error_response(caught.value.code, str(caught.value))
    assert response.status == 401
    return response.body["errorCode"]


def test_a_request_that_is_signed_is_from_its_application():
    assert check(headers()) == KEY


def test_header_names_and_the_scheme_are_read_in_any_case():
    given = {
        name.lower(): value.replace("Application", "APPLICATION") if name == "Authorization" else value
        for name, value in headers().items()
    }
    assert check(given) == KEY


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "Application",
        "Application key",
        f"Application {KEY}:",
        "Application a:b:c",
        "Bearer a:b",
        "Basic ?",
    ],
)
def test_a_missing_or_malformed_authorization_is_40100(value):
    assert refusal(headers(Authorization=value)) == 40100


@pytest.mark.parametrize(
    "value", [None, "", "now", "2014-13-24T10:59:41Z", "2014-09-24", "2014-09-24T10:59:41", "1411556381"]
)
def test_a_missing_or_malformed_timestamp_is_40101(value):
    assert refusal(headers(**{"X-Timestamp": value})) == 40101


@pytest.mark.parametrize("late_s", [-301, 301])
def test_a_timestamp_outside_the_window_is_40101(late_s):
    assert refusal(headers(), now=NOW + timedelta(seconds=late_s)) == 40101
    assert check(headers(), now=NOW + timedelta(seconds=late_s), window_s=302) == KEY


@pytest.mark.parametrize("fraction", ["", ".5", ".999", ".2729234"])
def test_a_timestamp_may_have_fractions(fraction):
    at = f"2014-09-24T10:59:41{fraction}Z"
    signed = authorization(
        KEY, SECRET, "POST", PATH, body=BODY, content_type="application/json", timestamp=at
    )
    assert check(headers(Authorization=signed, **{"X-Timestamp": at})) == KEY


def test_whatever_is_changed_is_40102():
    assert refusal(headers(), body=BODY + b" ") == 40102
    assert refusal(headers(), body=b"") == 40102
    assert refusal(headers(), method="PUT") == 40102
    assert refusal(headers(), path=PATH + "/") == 40102
    assert refusal(headers(**{"Content-Type": "text/plain"})) == 40102
    assert refusal(headers(**{"X-Timestamp": "2014-09-24T10:59:42Z"})) == 40102
    assert refusal(headers(Authorization=f"Application {KEY}:ü\ud800")) == 40102


def test_an_application_that_is_not_known_is_40102_as_a_wrong_signature_is():
    assert refusal(headers(), secrets={}) == 40102
    unknown = authorization(
        "other", "", "POST", PATH, body=BODY, content_type="application/json", timestamp=AT
    )
    assert refusal(headers(Authorization=unknown)) == 40102


def basic(text):
    return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}


def test_key_and_secret_are_enough_in_the_basic_scheme():
    assert check(basic(f"{KEY}:{SECRET}")) == KEY


@pytest.mark.parametrize("text", ["", KEY, f"{KEY}:", f"{KEY}:{SECRET} ", "other:", f"other:{SECRET}"])
def test_a_wrong_key_or_secret_in_the_basic_scheme_is_40108(text):
    assert refusal(basic(text)) == 40108


def test_the_basic_scheme_can_be_turned_off():
    assert refusal(basic(f"{KEY}:{SECRET}"), allow_basic=False) == 40100


def test_a_secret_that_is_not_base64_is_the_hosts_mistake_and_not_repeated():
    with pytest.raises(UsageError) as caught:
        signature("no base64!", "GET", "/", body=b"", content_type="", timestamp=AT)
    assert "no base64!" not in str(caught.value)
