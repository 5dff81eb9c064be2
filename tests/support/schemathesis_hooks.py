"""How Schemathesis says who it is, in each API's own way: credentials come from the environment."""

import os

import requests
import schemathesis


class Bearer(requests.auth.AuthBase):
    """A token of the native API, or one of Microsoft Entra."""

    def __init__(self, token):
        self.token = token

    def __call__(self, request):
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


class Signed(requests.auth.AuthBase):
    """Signature Version 4, by botocore."""

    def __init__(self, key_id, secret, region):
        from botocore.auth import SigV4Auth
        from botocore.credentials import Credentials

        self.signer = SigV4Auth(Credentials(key_id, secret), "chime", region)

    def __call__(self, request):
        from botocore.awsrequest import AWSRequest

        made = AWSRequest(request.method, request.url, data=request.body or b"")
        self.signer.add_auth(made)
        request.headers.update(dict(made.headers.items()))
        return request


def _is(pattern, auth):
    schemathesis.auth.set_from_requests(auth).apply_to(path_regex=pattern)


_is(r"^/(v1/|metrics)", Bearer(os.environ["NATIVE_TOKEN"]))
_is(r"^/(app|applications|communications)/", Bearer(os.environ["GRAPH_TOKEN"]))
_is(
    r"^/sip-media-applications/",
    Signed(os.environ["CHIME_KEY_ID"], os.environ["CHIME_SECRET"], os.environ["CHIME_REGION"]),
)
_is(r"^/calling/", requests.auth.HTTPBasicAuth(os.environ["SINCH_KEY"], os.environ["SINCH_SECRET"]))
