"""AWS Lambda: a notification as the event of a function, invoked synchronously (`Invoke`, "RequestResponse").

The event is the notification's body as it is; its id is in the client context (`context.client_context.custom` in
Python, `context.clientContext.custom` in JavaScript), under "webhook-id". What the function returns to an invocation is
the answer. boto3's own retries are off: `callreel.notify.LIMITS` has those of the vendor.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from callreel import web
from callreel.errors import (
    DeliveryDeniedError,
    DeliveryError,
    DeliveryInterruptedError,
    DeliveryThrottledError,
    DestinationMissingError,
)
from callreel.notify import (
    ID_HEADER,
    INVOCATION,
    Answer,
    Limits,
    Notification,
    as_json,
    ask,
    limits_for,
    read_answer,
)
from callreel.patience import Deadline, TooSlowError, within
from callreel.quiet import keep_boto3_quiet

__all__ = ["LambdaFunction"]

MAX_ANSWER_BYTES: Final = 6 * 1024 * 1024
"""Of a synchronous invocation, as Lambda's quotas have it."""
PIECE_BYTES: Final = 64 * 1024

# Lambda's errors whose status does not say who must act; all others are told by it. Source: the Invoke page of its API.
CODES: Final[Mapping[str, tuple[type[DeliveryError], bool]]] = {
    "ResourceNotFoundException": (DestinationMissingError, True),
    "AccessDeniedException": (DeliveryDeniedError, True),
    "ExpiredTokenException": (DeliveryDeniedError, True),
    "IncompleteSignatureException": (DeliveryDeniedError, True),
    "InvalidSignatureException": (DeliveryDeniedError, True),
    "MissingAuthenticationTokenException": (DeliveryDeniedError, True),
    "UnrecognizedClientException": (DeliveryDeniedError, True),
    "TooManyRequestsException": (DeliveryThrottledError, True),
    "ThrottlingException": (DeliveryThrottledError, True),
    "ResourceConflictException": (DeliveryInterruptedError, True),
    "ResourceNotReadyException": (DeliveryInterruptedError, True),
    "SnapStartNotReadyException": (DeliveryInterruptedError, True),
    "EC2ThrottledException": (DeliveryThrottledError, True),
}


class LambdaFunction:
    """A function of a customer's in AWS Lambda."""

    def __init__(
        self,
        function: str,
        *,
        region: str | None = None,
        qualifier: str | None = None,
        endpoint_url: str | None = None,
        ca_file: str | None = None,
        session: Any = None,
        limits: Callable[[Notification], Limits] = limits_for,
    ) -> None:
        """Invoke `function`, a name or an ARN; `qualifier` names a version or an alias.

        Credentials are those of `session` (boto3.Session), by default what boto3 finds.
        """
        self._function = function
        keep_boto3_quiet()
        self._region = region
        self._qualifier = qualifier
        self._endpoint_url = endpoint_url
        self._ca_file = ca_file
        self._session = session
        self._limits = limits
        self._client: Any = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        """Without the session."""
        return f"<LambdaFunction {self._function}>"

    @property
    def lane(self) -> str:
        """The function."""
        return f"lambda:{self._function}"

    def tell(self, notification: Notification) -> Answer | None:
        """Invoke it, as often as its limits have it.

        Raises:
            DeliveryError: it failed, cannot be reached or invoked, or the time is over.
        """
        try:
            event = as_json(notification.body)
            limits = self._limits(notification)
            return ask(
                limits,
                lambda attempt_s: within(
                    Deadline(f"the function {self._function}", attempt_s),
                    lambda: self._invoke(notification, event, limits),
                    lane=self.lane,
                ),
                what=f"the function {self._function}",
            )
        except DeliveryError as error:
            error.key = notification.id
            raise

    def _invoke(self, notification: Notification, event: bytes, limits: Limits) -> Answer | None:
        from botocore.exceptions import BotoCoreError, ClientError

        context = json.dumps({"custom": {ID_HEADER: notification.id}}, separators=(",", ":")).encode()
        try:
            got = self._connected(limits).invoke(
                FunctionName=self._function,
                InvocationType="RequestResponse",
                ClientContext=base64.b64encode(context).decode(),
                Payload=event,
                **({} if self._qualifier is None else {"Qualifier": self._qualifier}),
            )
            if "FunctionError" in got:
                raise DeliveryError(f"the function {self._function} failed", retryable=True)
            return self._answer(got["Payload"]) if notification.kind == INVOCATION else None
        except ClientError as error:
            raise self._of_answer(error.response) from None
        except BotoCoreError as error:
            raise self._of_failure(error, limits) from None
        except (DeliveryError, MemoryError):
            raise
        except (OSError, ValueError) as error:
            raise DeliveryInterruptedError(
                f"the function {self._function}: {type(error).__name__}", retryable=True
            ) from None

    def _answer(self, stream: Any) -> Answer:
        body = bytearray()
        while piece := stream.read(PIECE_BYTES):
            body += piece
            if len(body) > MAX_ANSWER_BYTES:
                raise DeliveryError(
                    f"the function {self._function} returns more than {MAX_ANSWER_BYTES} bytes"
                )
        return read_answer(bytes(body))

    def _connected(self, limits: Limits) -> Any:
        """The client, made when it is first needed: boto3 may be imported, but not from two threads at once."""
        with self._lock:
            if self._client is None:
                import boto3
                from botocore.config import Config

                session = self._session or boto3.Session()
                self._client = session.client(
                    "lambda",
                    region_name=self._region,
                    endpoint_url=self._endpoint_url,
                    verify=self._ca_file,
                    config=Config(
                        connect_timeout=limits.attempt_s,
                        read_timeout=limits.attempt_s,
                        retries={"total_max_attempts": 1, "mode": "standard"},
                        max_pool_connections=64,
                    ),
                )
            return self._client

    def _of_answer(self, response: Mapping[str, Any]) -> DeliveryError:
        """The error of an answer that is one; its message is not repeated."""
        code = str(response.get("Error", {}).get("Code", ""))
        about = response.get("ResponseMetadata", {})
        status, headers = int(about.get("HTTPStatusCode", 500)), about.get("HTTPHeaders", {})
        who = f"the function {self._function}"
        if code in CODES:
            kind, retryable = CODES[code]
            after_s = web.retry_after_s(headers)
            return kind(f"{who}: {code}", retryable=retryable, retry_after_s=after_s)
        return web.error_of_status(who, status, headers)

    def _of_failure(self, error: Any, limits: Limits) -> DeliveryError:
        """The error of an invocation that came to no answer."""
        from botocore import exceptions

        who = f"the function {self._function}"
        if isinstance(error, exceptions.ReadTimeoutError | exceptions.ConnectTimeoutError):
            return TooSlowError(who, limits.attempt_s)
        denied = (
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.CredentialRetrievalError,
            exceptions.TokenRetrievalError,
            exceptions.NoRegionError,
            exceptions.ProfileNotFound,
        )
        words = f"{who}: {type(error).__name__}"
        # botocore has one exception for a certificate that is not to be trusted and for all else that TLS can say.
        distrusted = isinstance(error, exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error)
        if distrusted or isinstance(error, denied):
            return DeliveryDeniedError(words, retryable=True)
        if isinstance(error, exceptions.ParamValidationError):
            return DeliveryError(words)
        return DeliveryInterruptedError(words, retryable=True)
