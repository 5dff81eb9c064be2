"""Signature Version 4, compared with the signer of botocore."""

import datetime
from urllib.parse import quote

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from callreel.service.sigv4 import SignedRequest, Unsigned, verify

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
SECRETS = {KEY: lambda: SECRET}
NOW = datetime.datetime(2026, 11, 29, 12, 0, 0, tzinfo=datetime.UTC)

SEGMENT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12).filter(
    lambda text: text not in (".", "..")
)
NAME = st.from_regex(r"x-[a-z0-9-]{1,12}", fullmatch=True).filter(lambda name: name != "x-amz-date")
VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20).map(str.strip)


def signed(method, path, query, headers, body, *, secret=SECRET):
    """A request as botocore signs it, and as it comes to a server."""
    url = f"https://voice.example{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method, url, headers=dict(headers), data=body)
    auth = SigV4Auth(Credentials(KEY, secret), "chime", "us-east-1")
    request.context["timestamp"] = NOW.strftime("%Y%m%dT%H%M%SZ")
    request.context["payload_signing_enabled"] = True
    request.headers["X-Amz-Date"] = request.context["timestamp"]
    request.headers["Host"] = "voice.example"
    canonical = auth.canonical_request(request)
    text = auth.string_to_sign(request, canonical)
    auth._inject_signature_to_request(request, auth.signature(text, request))
    pairs = [(name.lower(), value) for name, value in request.headers.items()]
    return SignedRequest(method, path, query, pairs, body)


def verified(request, **changes):
    options = {"region": "us-east-1", "service": "chime", "now": NOW} | changes
    return verify(request, SECRETS, **options)


@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    st.lists(SEGMENT, max_size=5),
    st.lists(st.tuples(SEGMENT, SEGMENT), max_size=4),
    st.dictionaries(NAME, VALUE, max_size=4),
    st.binary(max_size=200),
)
def test_what_botocore_signs_is_believed(method, segments, query, headers, body):
    path = "/" + "/".join(quote(one, safe="") for one in segments)
    pairs = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query)
    assert verified(signed(method, path, pairs, headers, body)).key_id == KEY


@pytest.mark.parametrize(
    "change",
    [
        {"method": "GET"},
        {"raw_path": "/b"},
        {"query": "a=c"},
        {"query": ""},
        {"body": b"other"},
    ],
)
def test_whatever_is_altered_is_refused(change):
    request = signed("POST", "/a", "a=b", {"x-own": "1"}, b"body")
    assert verified(request).key_id == KEY
    with pytest.raises(Unsigned) as error:
        verified(request._replace(**change))
    assert (error.value.status, error.value.code) == (403, "InvalidSignatureException")


def test_an_altered_header_that_is_signed_is_refused():
    request = signed("POST", "/a", "", {"x-own": "1"}, b"")
    headers = [(name, "2" if name == "x-own" else value) for name, value in request.headers]
    with pytest.raises(Unsigned):
        verified(request._replace(headers=headers))


def test_a_second_header_of_a_signed_name_is_refused():
    request = signed("POST", "/a", "", {"x-own": "1"}, b"")
    with pytest.raises(Unsigned):
        verified(request._replace(headers=[*request.headers, ("x-own", "2")]))


def authorized(request, text):
    headers = [(name, text if name == "authorization" else value) for name, value in request.headers]
    return request._replace(headers=headers)


CREDENTIAL = f"Credential={KEY}/20261129/us-east-1/chime/aws4_request"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("Bearer abc", 400),
        ("AWS4-HMAC-SHA256", 400),
        (f"AWS4-HMAC-SHA256 {CREDENTIAL}, SignedHeaders=host;x-amz-date", 400),
        (f"AWS4-HMAC-SHA256 {CREDENTIAL}, SignedHeaders=host;x-amz-date, Signature={'A' * 64}", 400),
        (f"AWS4-HMAC-SHA256 Credential={KEY}, SignedHeaders=host;x-amz-date, Signature={'a' * 64}", 400),
        (f"AWS4-HMAC-SHA256 {CREDENTIAL}, SignedHeaders=x-amz-date, Signature={'a' * 64}", 403),
        (f"AWS4-HMAC-SHA256 {CREDENTIAL}, SignedHeaders=x-amz-date;host, Signature={'a' * 64}", 403),
        (f"AWS4-HMAC-SHA256 {CREDENTIAL}, SignedHeaders=host;host;x-amz-date, Signature={'a' * 64}", 403),
        (f"AWS4-HMAC-SHA256 {CREDENTIAL}, SignedHeaders=host;nothing;x-amz-date, Signature={'a' * 64}", 403),
        (f"AWS4-HMAC-SHA256 {CREDENTIAL}, SignedHeaders=host;x-amz-date, Signature={'a' * 64}", 403),
    ],
)
def test_an_authorization_that_is_none_is_refused(text, status):
    request = authorized(signed("POST", "/a", "", {}, b""), text)
    with pytest.raises(Unsigned) as error:
        verified(request)
    assert error.value.status == status


@pytest.mark.parametrize("changes", [{"region": "us-west-2"}, {"service": "s3"}])
def test_the_scope_must_be_ours(changes):
    with pytest.raises(Unsigned) as error:
        verified(signed("POST", "/a", "", {}, b""), **changes)
    assert error.value.code == "InvalidSignatureException"


@pytest.mark.parametrize("seconds", [-301, 301])
def test_the_time_must_be_within_five_minutes(seconds):
    request = signed("POST", "/a", "", {}, b"")
    assert verified(request, now=NOW + datetime.timedelta(seconds=seconds - seconds // 301))
    with pytest.raises(Unsigned, match=r"Signature (expired|not yet current)"):
        verified(request, now=NOW + datetime.timedelta(seconds=seconds))


@pytest.mark.parametrize("date", ["", "20261129", "20261399T120000Z", "2026-11-29T12:00:00Z"])
def test_a_time_that_is_none_is_refused(date):
    request = signed("POST", "/a", "", {}, b"")
    headers = [(name, date if name == "x-amz-date" else value) for name, value in request.headers]
    with pytest.raises(Unsigned):
        verified(request._replace(headers=headers))


def test_the_secret_is_in_no_error_and_no_canonical_request():
    request = signed("POST", "/a", "", {}, b"", secret="another")
    with pytest.raises(Unsigned) as error:
        verified(request)
    assert SECRET not in str(error.value)


@given(st.text(max_size=200), st.text(max_size=40), st.binary(max_size=40))
def test_whatever_comes_is_refused_and_nothing_else_is_raised(authorization, date, body):
    headers = [("authorization", authorization), ("x-amz-date", date), ("host", "a")]
    with pytest.raises(Unsigned):
        verified(SignedRequest("POST", "/a", "", headers, body))
