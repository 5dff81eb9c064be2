"""Bearer tokens of Microsoft Entra: which are believed, and which are not."""

import base64
import hmac
import json
import os
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from callreel.errors import UsageError
from callreel.service.tokens import TokenError, Tokens
from callreel.service.vendors import GraphApplication, GraphSettings
from vendor_customers import AUDIENCE, ISSUER, ROLE, SIGNING, Signing

APP = "2891555a-92ff-42e6-80fa-6e1300c6b5c6"
HOUR = 3600
NOW = int(time.time())


def settings(**changes):
    options = {
        "applications": {APP: GraphApplication("acme")},
        "issuers": [ISSUER],
        "audiences": [AUDIENCE],
        "jwks": SIGNING.jwks,
    }
    return GraphSettings(**options | changes)


TOKENS = Tokens(settings())


def refused(token, tokens=TOKENS):
    with pytest.raises(TokenError) as error:
        tokens.application_of(token)
    return error.value.status, error.value.code


def test_a_token_of_an_application_is_believed():
    assert TOKENS.application_of(SIGNING.token(APP)) == APP


@pytest.mark.parametrize("algorithm", ["RS256", "RS512", "PS256", "PS512", "ES256", "ES384", "ES512"])
def test_a_token_is_believed_by_each_kind_of_key_that_is_promised(algorithm):
    if algorithm.startswith("ES"):
        curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
        key = ec.generate_private_key(curves[algorithm])
        public = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        key = SIGNING.key
        public = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    published = public | {"kid": "key-2", "use": "sig", "alg": algorithm}
    beside = Tokens(settings(jwks={"keys": [*SIGNING.jwks["keys"], published]}))
    token = SIGNING.token(APP, header={"kid": "key-2"}, key=key, algorithm=algorithm)
    assert beside.application_of(token) == APP
    assert beside.application_of(SIGNING.token(APP)) == APP
    if algorithm != "RS256":  # a key is for the algorithm that is published with it
        other = SIGNING.token(APP, header={"kid": "key-2"})
        assert refused(other, beside) == (401, "InvalidAuthenticationToken")


def test_version_two_names_the_application_otherwise():
    assert TOKENS.application_of(SIGNING.token(None, azp=APP)) == APP


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://somebody.example/"},
        {"iss": None},
        {"aud": "https://vault.azure.net"},
        {"aud": None},
        {"exp": None},
        {"exp": NOW - HOUR},
        {"nbf": NOW + HOUR},
        {"exp": "soon"},
    ],
)
def test_a_token_that_is_not_for_us_or_not_for_now_is_refused(claims):
    assert refused(SIGNING.token(APP, **claims)) == (401, "InvalidAuthenticationToken")


@pytest.mark.parametrize(("claim", "seconds"), [("exp", -240), ("nbf", 240)])
def test_a_clock_may_be_five_minutes_off(claim, seconds):
    assert TOKENS.application_of(SIGNING.token(APP, **{claim: int(time.time()) + seconds})) == APP


@pytest.mark.parametrize(
    "claims",
    [
        {"roles": None},
        {"roles": ["Calls.Initiate.All"]},
        {"roles": "Calls.AccessMedia.All"},
        {"scp": "Calls.AccessMedia.All"},
        {"appid": "another"},
        {"appid": 7},
        {"appid": None},
    ],
)
def test_who_may_not_is_told_so(claims):
    assert refused(SIGNING.token(APP, **claims)) == (403, "accessDenied")


def test_a_token_of_another_key_is_refused():
    assert refused(Signing().token(APP))[0] == 401
    assert refused(Signing("key-2").token(APP))[0] == 401


def test_an_altered_token_is_refused():
    head, body, signature = SIGNING.token(APP).split(".")
    _, other, _ = SIGNING.token("another").split(".")
    assert refused(f"{head}.{other}.{signature}")[0] == 401
    assert refused(f"{head}.{body}.")[0] == 401
    assert refused(f"{head}.{body}")[0] == 401


def by_secret(claims, headers, secret):
    """A token with the public key as the secret of an HMAC, which libraries do not make."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "typ": "JWT", **headers}, claims)
    ]
    text = b".".join(parts)
    signature = base64.urlsafe_b64encode(hmac.digest(secret, text, "sha256")).rstrip(b"=")
    return (text + b"." + signature).decode()


def test_a_token_does_not_choose_its_algorithm():
    claims = {"iss": ISSUER, "aud": AUDIENCE, "exp": NOW + HOUR, "appid": APP, "roles": [ROLE]}
    headers = {"kid": SIGNING.kid}
    unsigned = jwt.encode(claims, None, algorithm="none", headers=headers)
    shared = by_secret(
        claims,
        headers,
        SIGNING.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )
    other_hash = jwt.encode(claims, SIGNING.key, algorithm="RS512", headers=headers)
    assert [refused(one)[0] for one in (unsigned, shared, other_hash)] == [401] * 3


def test_keys_that_are_shared_are_none():
    shared = {"keys": [{"kty": "oct", "kid": "key-1", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"}]}
    with pytest.raises(UsageError, match="no public keys"):
        Tokens(settings(jwks=shared))


def test_keys_are_read_again_when_their_file_changes(tmp_path):
    path, newer = tmp_path / "jwks.json", Signing("key-2")
    path.write_text(json.dumps(SIGNING.jwks))
    tokens = Tokens(settings(jwks=path))
    assert tokens.application_of(SIGNING.token(APP)) == APP
    assert refused(newer.token(APP), tokens)[0] == 401
    path.write_text(json.dumps({"keys": [*SIGNING.jwks["keys"], *newer.jwks["keys"]]}))
    os.utime(path, ns=(1, 1))
    assert tokens.application_of(newer.token(APP)) == APP
    assert tokens.application_of(SIGNING.token(APP)) == APP


@pytest.mark.parametrize("text", ["", "{", "[]", '{"keys": []}', '{"keys": 7}', '{"keys": [{"kty": "RSA"}]}'])
def test_keys_that_are_none_are_a_mistake_of_the_operators(tmp_path, text):
    path = tmp_path / "jwks.json"
    path.write_text(text)
    with pytest.raises(UsageError):
        Tokens(settings(jwks=path))
    with pytest.raises(UsageError, match="cannot read"):
        Tokens(settings(jwks=tmp_path / "nothing"))


def test_applications_without_issuers_or_keys_are_a_mistake():
    for changes in ({"issuers": []}, {"jwks": None}, {"audiences": []}):
        with pytest.raises(UsageError):
            settings(**changes)


@given(
    st.one_of(st.text(max_size=80), st.from_regex(r"[\w-]{0,20}\.[\w-]{0,20}\.[\w-]{0,20}", fullmatch=True))
)
def test_whatever_comes_is_refused_and_nothing_else_is_raised(token):
    assert refused(token)[0] == 401
