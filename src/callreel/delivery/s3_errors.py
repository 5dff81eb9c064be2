"""What S3, and boto3 on the way to it, can say, and whose matter it is: one table.

The name is an error code of the store, or the name of an exception of botocore. A code that is not in the table goes
by its HTTP status. "Retryable" says whether another try can help though nobody changes anything.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from callreel.errors import (
    DeliveryConflictError,
    DeliveryDeniedError,
    DeliveryError,
    DeliveryInterruptedError,
    DeliveryThrottledError,
    DestinationMissingError,
)

__all__ = ["BY_NAME", "BY_STATUS", "Fault", "delivery_error", "store_said"]

MAX_SAID = 300
"""Characters of a store's own words in ours."""


class Fault(NamedTuple):
    """What a name or a status means."""

    error: type[DeliveryError]
    retryable: bool
    advice: str = ""


_DENIED = Fault(DeliveryDeniedError, False)
_CREDENTIALS = Fault(DeliveryDeniedError, False, "check the credentials")
_EXPIRED = Fault(DeliveryDeniedError, True, "the credentials have run out")
_CLOCK = Fault(DeliveryDeniedError, True, "set the clock of this machine")
_SETTING = Fault(DeliveryDeniedError, False, "check the settings of the destination")
_ACL = Fault(DeliveryDeniedError, False, "the bucket has ACLs disabled: leave `acl` out")
_REGION = Fault(DeliveryDeniedError, False, "check `region` and `endpoint_url`")
_LACKING = Fault(DeliveryDeniedError, False, "the store does not offer what was asked for")
_LENGTH = Fault(DeliveryDeniedError, False, 'set request_checksum_calculation="when_required"')
_KEY = Fault(DeliveryDeniedError, False, "check the KMS key and its policy")
_TLS = Fault(DeliveryDeniedError, True, "check `ca_bundle` and the store's certificate")
_MISSING = Fault(DestinationMissingError, False, "there is no such bucket")
_THROTTLED = Fault(DeliveryThrottledError, True)
_FULL = Fault(DeliveryThrottledError, True, "the store is full")
_LOST = Fault(DeliveryInterruptedError, True)
_CONFLICT = Fault(DeliveryConflictError, False)

_NAMES: tuple[tuple[Fault, str], ...] = (
    (_DENIED, "AccessDenied AllAccessDisabled AccountProblem NotSignedUp Forbidden UnauthorizedAccess"),
    (
        _CREDENTIALS,
        "InvalidAccessKeyId SignatureDoesNotMatch InvalidToken InvalidSecurity InvalidClientTokenId",
    ),
    (_CREDENTIALS, "IncompleteSignature AuthFailure UnrecognizedClientException MissingSecurityHeader"),
    (_EXPIRED, "ExpiredToken ExpiredTokenException TokenRefreshRequired RequestExpired"),
    (_CLOCK, "RequestTimeTooSkewed"),
    (_ACL, "AccessControlListNotSupported InvalidBucketAclWithObjectOwnership"),
    (_REGION, "AuthorizationHeaderMalformed PermanentRedirect IllegalLocationConstraintException"),
    (_REGION, "MovedPermanently UnsupportedSignature"),
    (_LACKING, "NotImplemented XNotImplemented MethodNotAllowed"),
    (_LENGTH, "MissingContentLength"),
    (
        _KEY,
        "KMS.DisabledException KMS.NotFoundException KMS.KMSInvalidStateException KMS.InvalidKeyUsageException",
    ),
    (_KEY, "KMS.KMSInvalidMacException KMS.AccessDeniedException KMS.KeyUnavailableException"),
    (_MISSING, "NoSuchBucket"),
    (_THROTTLED, "SlowDown SlowDownWrite SlowDownRead ServiceUnavailable Throttling ThrottlingException"),
    (_THROTTLED, "RequestLimitExceeded TooManyRequests TooManyRequestsException RequestThrottled Busy"),
    (
        _THROTTLED,
        "RequestThrottledException BandwidthLimitExceeded ThrottledException KMS.ThrottlingException",
    ),
    (_FULL, "XMinioStorageFull QuotaExceeded InsufficientCapacity XMinioAdminBucketQuotaExceeded"),
    (_LOST, "InternalError RequestTimeout BadDigest IncompleteBody XAmzContentSHA256Mismatch InvalidDigest"),
    (
        _LOST,
        "XAmzContentChecksumMismatch OperationAborted ConditionalRequestConflict NoSuchUpload InvalidPart",
    ),
    (_CONFLICT, "PreconditionFailed"),
    # What botocore raises of its own.
    (
        _CREDENTIALS,
        "NoCredentialsError PartialCredentialsError TokenRetrievalError NoAuthTokenError SSOTokenLoadError",
    ),
    (
        _CREDENTIALS,
        "UnauthorizedSSOTokenError LoginRefreshRequired LoginTokenLoadError LoginInsufficientPermissions",
    ),
    (_LOST, "CredentialRetrievalError MetadataRetrievalError"),
    (_SETTING, "ParamValidationError ProfileNotFound ConfigNotFound ConfigParseError InvalidConfigError"),
    (
        _SETTING,
        "EndpointResolutionError EndpointProviderError UnsupportedS3ConfigurationError InvalidDNSNameError",
    ),
    (_SETTING, "InvalidProxiesConfigError InvalidS3AddressingStyleError MissingDependencyException"),
    (_REGION, "NoRegionError InvalidRegionError UnknownRegionError UnknownEndpointError"),
    (_TLS, "SSLCertVerificationError"),
    (
        _LOST,
        "EndpointConnectionError ConnectTimeoutError ReadTimeoutError ConnectionClosedError ConnectionError",
    ),
    (
        _LOST,
        "HTTPClientError ProxyConnectionError ResponseStreamingError IncompleteReadError FlexibleChecksumError",
    ),
    (_LOST, "SSLError AwsChunkedWrapperError ResponseParserError"),
)

BY_NAME: Mapping[str, Fault] = {name: fault for fault, names in _NAMES for name in names.split()}

BY_STATUS: Mapping[int, Fault] = {
    301: _REGION,
    307: _LOST,
    400: _SETTING,
    401: _CREDENTIALS,
    403: _DENIED,
    404: _MISSING,
    405: _LACKING,
    408: _LOST,
    409: _LOST,
    411: _LENGTH,
    412: _CONFLICT,
    429: _THROTTLED,
    500: _LOST,
    501: _LACKING,
    502: _LOST,
    503: _THROTTLED,
    504: _LOST,
    507: _FULL,
}


def delivery_error(
    error: Exception, what: str, key: str, redacted: Callable[[str], str] = str
) -> DeliveryError:
    """Make ours of what boto3 raised while `what` was done with `key`; `redacted` takes secrets out of a text."""
    code, status = _code_of(error), _status_of(error)
    fault = BY_NAME.get(code) or BY_STATUS.get(status)
    if fault is None:
        # An answer that nobody knows is the store's word; an exception that nobody knows is no word at all.
        fault = _SETTING if 400 <= status < 500 else _LOST
    said = _said(error)
    text = f"cannot {what} {key}: {code}" + (f" ({said})" if said and said != code else "")
    if fault.advice:
        text += f"; {fault.advice}"
    return fault.error(
        redacted(text), key=key, retryable=fault.retryable, retry_after_s=_retry_after_s(error)
    )


def store_said(error: DeliveryError) -> tuple[str, int]:
    """Give the code and the HTTP status behind one of these; an exception's name and 0 when there was no answer."""
    cause = error.__context__
    return (_code_of(cause), _status_of(cause)) if isinstance(cause, Exception) else ("", 0)


def _code_of(error: Exception) -> str:
    """Name what went wrong: the store's error code, or the exception."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code") or _status_of(error))
    return "SSLCertVerificationError" if _distrusts(error) else type(error).__name__


def _distrusts(error: BaseException | None) -> bool:
    """Tell whether it is about the certificate: botocore's exception is the same for all that TLS can say."""
    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        inner = next((one for one in error.args if isinstance(one, BaseException)), None)
        error, seen = inner or error.__cause__ or error.__context__, seen + 1
    return False


def _status_of(error: Exception) -> int:
    """Give the HTTP status of the store's answer, 0 when there was none."""
    return int(_metadata(error).get("HTTPStatusCode") or 0)


def _said(error: Exception) -> str:
    response = getattr(error, "response", None)
    said = response.get("Error", {}).get("Message", "") if isinstance(response, dict) else str(error)
    said = " ".join(str(said).split())
    return said if len(said) <= MAX_SAID else f"{said[:MAX_SAID]}…"


def _metadata(error: Exception) -> dict[str, Any]:
    response = getattr(error, "response", None)
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    return metadata if isinstance(metadata, dict) else {}


def _retry_after_s(error: Exception) -> float | None:
    """Read Retry-After: seconds, or a moment on the store's own clock."""
    headers = _metadata(error).get("HTTPHeaders") or {}
    said = headers.get("retry-after")
    if said is None:
        return None
    if said.strip().isdecimal():
        return float(said)
    try:
        until = parsedate_to_datetime(said)
        date = headers.get("date")
        now = parsedate_to_datetime(date) if date else datetime.now(UTC)
        return max(0.0, (until - now).total_seconds())
    except (TypeError, ValueError):
        return None
