"""Customers of the vendors: their applications in a service, their own client libraries, what they have been told."""

import base64
import contextlib
import json
import re
import secrets
import threading
import time
import uuid
from dataclasses import dataclass, field, replace

from callreel.notify.functions import PythonFunction
from callreel.notify.references import FromFile
from callreel.service.running import Service
from callreel.service.vendors import (
    AwsCredential,
    ChimeSettings,
    GraphApplication,
    GraphSettings,
    SinchApplication,
    SinchSettings,
    SipMediaApplication,
    VendorSettings,
)
from capture_writer import rtp_packet
from service_host import settings_in

REGION = "eu-central-1"
ACCOUNT = "111122223333"
ISSUER = "https://sts.windows.net/f4b5a7e2-63b0-4b39-8d36-6ad9b10d6d7e/"
AUDIENCE = "https://graph.microsoft.com"
ROLE = "Calls.AccessMedia.All"


@dataclass
class Backend:
    """A customer's program: keeps what it is told, and answers what `answer` makes of it."""

    answer: object = lambda body: None
    told: list = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, notification):
        body = json.loads(json.dumps(dict(notification.body)))
        with self.changed:
            self.told.append(body)
            self.changed.notify_all()
        return self.answer(body)

    def wait_for(self, is_it, timeout_s=15.0):
        """The first that it is told for which `is_it` holds."""
        end = time.monotonic() + timeout_s
        with self.changed:
            while True:
                for body in self.told:
                    if is_it(body):
                        return body
                if not self.changed.wait(end - time.monotonic()):
                    raise AssertionError(f"not told; what was: {self.told}")


@dataclass
class Tenant:
    """A tenant with one application of each vendor's."""

    name: str
    access_key_id: str
    secret_access_key: str
    sip_media_application: str
    sinch_key: str
    sinch_secret: str
    graph_application: str
    chime: Backend = field(default_factory=Backend)
    sinch: Backend = field(default_factory=Backend)
    graph: Backend = field(default_factory=Backend)


def tenant_called(name):
    return Tenant(
        name,
        f"AKIA{name.upper():X<16}",
        secrets.token_urlsafe(30),
        f"{name}-0000-4000-8000-00000000sma0",
        f"{name}-application-key",
        base64.b64encode(secrets.token_bytes(16)).decode(),
        f"{name}-app-4b39-8d36",
    )


class Silence:
    """The media of a leg to which everything is played at once, and heard by nobody."""

    def __init__(self, recorded, wish):
        self.description, self.statistics, self.played = {"kind": "silence"}, {}, []

    def play(self, pcm, sample_rate, done):
        self.played.append(len(pcm) / 2 / sample_rate)
        done(None)

    def stop(self):
        pass

    def settle(self):
        pass

    def close(self):
        pass


class Signing:
    """Microsoft Entra as far as tokens go: a key, and tokens that it signs."""

    def __init__(self, kid="key-1"):
        from cryptography.hazmat.primitives.asymmetric import rsa

        self.kid = kid
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def jwks(self):
        import jwt

        public = jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {"keys": [public | {"kid": self.kid, "use": "sig"}]}

    def token(self, application, *, header=None, algorithm="RS256", key=None, **claims):
        import jwt

        now = int(time.time())
        body = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": now,
            "nbf": now,
            "exp": now + 3600,
            "appid": application,
            "roles": [ROLE],
        } | claims
        body = {name: value for name, value in body.items() if value is not None}
        headers = {"kid": self.kid} | (header or {})
        return jwt.encode(body, key or self.key, algorithm=algorithm, headers=headers)


SIGNING = Signing()


def vendors_of(folder, tenants):
    """What a service is set up with for these tenants."""

    def secret(name, text):
        path = folder / f"{name}.secret"
        path.write_text(text)
        path.chmod(0o600)
        return FromFile(path)

    jwks = folder / "jwks.json"
    jwks.write_text(json.dumps(SIGNING.jwks))
    return VendorSettings(
        ChimeSettings(
            {
                one.access_key_id: AwsCredential(one.name, secret(f"{one.name}-aws", one.secret_access_key))
                for one in tenants
            },
            {
                one.sip_media_application: SipMediaApplication(
                    one.name, PythonFunction(one.chime, name=f"{one.name}.chime"), ACCOUNT, "wav"
                )
                for one in tenants
            },
            REGION,
        ),
        SinchSettings(
            {
                one.sinch_key: SinchApplication(
                    one.name,
                    secret(f"{one.name}-sinch", one.sinch_secret),
                    PythonFunction(one.sinch, name=f"{one.name}.sinch"),
                )
                for one in tenants
            }
        ),
        GraphSettings(
            {
                one.graph_application: GraphApplication(
                    one.name, PythonFunction(one.graph, name=f"{one.name}.graph")
                )
                for one in tenants
            },
            issuers=[ISSUER],
            audiences=[AUDIENCE],
            jwks=jwks,
            revision="current",
        ),
    )


def service_in(folder, *tenants, vendors=None, recorder=None, **changes):
    """A service with these tenants' applications, whose legs of kind "rtp" are fed by the test."""
    settings = settings_in(folder, vendors=vendors or vendors_of(folder, tenants), **changes)
    if recorder is not None:
        settings = replace(settings, recorder=recorder)
    return Service(settings, openers=lambda recorder: {"rtp": Silence})


def begun(client, dialect, *, leg=None, **body):
    """A call that the media server has told the service of; its id."""
    legs = [{"to": "+15551230001", "from": "+15551230002"} | (leg or {})]
    answer = client.post("/v1/calls", json={"dialect": dialect, "legs": legs} | body)
    assert answer.status_code == 201, answer.text
    return answer.json()["call_id"]


def speak(service, call_id, *, seconds=0.5, leg="LEG-A", code=0x90):
    """Send a loud sound into a call's leg, in real time; `code` is that of µ-law."""
    recorded = service.host.call(call_id).recorded
    for number in range(round(seconds / 0.02)):
        payload = bytes((code, code ^ 0x80)) * 80
        recorded.receive_rtp(leg, rtp_packet(payload, number, 160 * number))
        time.sleep(0.02)


def check_shape(vendor, answer):
    """Whether an error is as the vendor's clients read it."""
    body = answer.json()
    match vendor:
        case "chime":
            assert set(body) == {"Code", "Message"}
            kind = answer.headers["x-amzn-errortype"]
            assert re.fullmatch(r"[A-Z][A-Za-z]+Exception", kind)
            assert kind.removesuffix("Exception") == body["Code"]
        case "sinch":
            assert body["errorCode"] // 100 == answer.status_code
            assert body["message"]
            assert uuid.UUID(body["reference"])
        case _:
            error = body["error"]
            assert isinstance(error["code"], str)
            assert error["message"]
            assert {"request-id", "date"} <= set(error["innerError"])


# ---- their client libraries ----


def chime_client(url, tenant, **credentials):
    """boto3's client, with another endpoint."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "chime-sdk-voice",
        region_name=credentials.pop("region_name", REGION),
        endpoint_url=url,
        aws_access_key_id=tenant.access_key_id,
        aws_secret_access_key=credentials.pop("secret", tenant.secret_access_key),
        config=Config(retries={"total_max_attempts": 1}),
        **credentials,
    )


def sinch_client(url, tenant, secret=None):
    """The `sinch` package's client, with another endpoint."""
    from sinch import SinchClient

    client = SinchClient(application_key=tenant.sinch_key, application_secret=secret or tenant.sinch_secret)
    client.configuration.voice_origin = url.removeprefix("http://")
    client.configuration.disable_https = True
    return client


@contextlib.asynccontextmanager
async def graph_client(url, token):
    """The `msgraph-sdk` package's client, with another base URL."""
    from kiota_abstractions.authentication import (
        AccessTokenProvider,
        AllowedHostsValidator,
        BaseBearerTokenAuthenticationProvider,
    )
    from msgraph import GraphServiceClient
    from msgraph.graph_request_adapter import GraphRequestAdapter, options
    from msgraph_core import GraphClientFactory

    class Given(AccessTokenProvider):
        async def get_authorization_token(self, uri, additional_authentication_context=None):
            return token

        def get_allowed_hosts_validator(self):
            return AllowedHostsValidator([])

    client = GraphClientFactory.create_with_default_middleware(options=options)
    adapter = GraphRequestAdapter(BaseBearerTokenAuthenticationProvider(Given()), client)
    adapter.base_url = f"{url}/v1.0"
    try:
        yield GraphServiceClient(request_adapter=adapter)
    finally:  # its transport does not hand on that it is closed
        await client._transport.transport.aclose()
