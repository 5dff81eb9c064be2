"""AWS KMS for tests: a client of boto3's, and a server that stands in for the real one."""

import contextlib
import json
import threading
from base64 import b64decode, b64encode
from http.server import BaseHTTPRequestHandler, HTTPServer

import boto3
from botocore.config import Config

from secret_watch import secret, secret_bytes

ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def kms_client(endpoint_url=None):
    """A client that asks once and waits a second, with credentials of the tests."""
    return boto3.client(
        "kms",
        region_name="eu-central-1",
        endpoint_url=endpoint_url,
        aws_access_key_id="test",
        aws_secret_access_key=secret("kms"),
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=1),
    )


@contextlib.contextmanager
def local_kms():
    """An HTTP server that answers as AWS KMS does, with one key."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            secret = secret_bytes(32, "plain")
            if self.headers["X-Amz-Target"].endswith("GenerateDataKey"):
                body = {"KeyId": ARN, "CiphertextBlob": b64encode(b"W" + secret[::-1]).decode()}
                body["Plaintext"] = b64encode(secret).decode()
            else:
                secret = b64decode(asked["CiphertextBlob"])[:0:-1]
                body = {"KeyId": asked["KeyId"], "Plaintext": b64encode(secret).decode()}
            raw = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
