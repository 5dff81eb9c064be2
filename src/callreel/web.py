"""HTTP requests to URLs of customers: `fetch` for prompts, `post` for callbacks.

Every request goes through the guard of `callreel.addresses`, each redirect again, and to an address that was judged:
the name stands in SNI, certificate check and Host alone. TLS is verified. Time is limited in total, from looking up the
name to the last byte; headers, bodies and redirects are limited in number and size. No proxy of the environment is
used, because it would look the name up itself; nothing is kept for the next request: no connection, no cookie.

No error repeats more of a URL than scheme, host and port, and nothing of what the server wrote but its status.
"""

from __future__ import annotations

import errno
import http.client
import io
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

from callreel.addresses import (
    Address,
    Place,
    Policy,
    RefusedAddressError,
    Resolver,
    admitted,
    look_up,
    read_url,
)
from callreel.errors import (
    DeliveryDeniedError,
    DeliveryError,
    DeliveryInterruptedError,
    DeliveryThrottledError,
    DestinationMissingError,
)
from callreel.patience import Deadline

__all__ = ["Response", "error_of_status", "fetch", "post", "retry_after_s"]

MAX_HEAD_BYTES: Final = 64 * 1024
"""Status line and headers together, those of 1xx answers included."""
PIECE_BYTES: Final = 64 * 1024
REDIRECTS: Final = (301, 302, 303, 307, 308)
MAX_RETRY_AFTER_S: Final = 86_400.0
"""More patience than a day nobody may ask for."""

USER_AGENT: Final = "callreel"


@dataclass(frozen=True, slots=True)
class Response:
    """What a server answered. Its repr holds neither headers nor body."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case; of several of one name the last."""
    body: bytes = field(repr=False)

    @property
    def media_type(self) -> str:
        """Of the body, without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


# What is no success: the error, in words, and whether the same request may go well later.
STATUSES: Final[Mapping[int, tuple[type[DeliveryError], str, bool]]] = {
    401: (DeliveryDeniedError, "wants other credentials", True),
    403: (DeliveryDeniedError, "does not allow it", True),
    404: (DestinationMissingError, "has no such address", True),
    407: (DeliveryDeniedError, "wants a proxy's credentials", True),
    408: (DeliveryInterruptedError, "waited in vain", True),
    410: (DestinationMissingError, "has no such address any more", False),
    421: (DestinationMissingError, "is not the one for that name", True),
    425: (DeliveryThrottledError, "asks for patience", True),
    429: (DeliveryThrottledError, "asks for patience", True),
    501: (DeliveryError, "does not offer that", False),
    505: (DeliveryError, "does not offer that", False),
}
OTHER_REDIRECT = (DestinationMissingError, "redirects, which is not followed", True)
OTHER_REFUSAL = (DeliveryError, "cannot use the request", False)
OTHER_TROUBLE = (DeliveryInterruptedError, "is in trouble", True)


def error_of_status(
    who: str, status: int, headers: Mapping[str, str], *, now: datetime | None = None
) -> DeliveryError:
    """Make the error of a status that is no success: it says who must act, whether to try again and when."""
    other = OTHER_REDIRECT if status < 400 else OTHER_REFUSAL if status < 500 else OTHER_TROUBLE
    kind, words, retryable = STATUSES.get(status, other)
    after_s = retry_after_s(headers, now=now)
    if status == 503 and after_s is not None:
        kind, words = DeliveryThrottledError, "asks for patience"
    return kind(
        f"{who} {words} ({status})", retryable=retryable, retry_after_s=after_s if retryable else None
    )


def retry_after_s(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """How long the server asks to wait (Retry-After), at most a day; None when it does not, or not clearly."""
    given = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", given):
        return min(float(given), MAX_RETRY_AFTER_S)
    try:
        at = parsedate_to_datetime(given)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return min(max((at - (now or datetime.now(UTC))).total_seconds(), 0.0), MAX_RETRY_AFTER_S)


def fetch(url: str, policy: Policy, *, accept: str = "*/*", resolve: Resolver = look_up) -> Response:
    """Get what is at a URL, following as many redirects as the policy allows, each of them judged anew.

    Raises:
        RefusedAddressError: the URL, or where it redirects to, is closed.
        DeliveryError: it cannot be had; the class says why.
    """
    deadline = Deadline("the answer", policy.total_s)
    headers = {"Accept": accept}
    for _ in range(policy.max_redirects + 1):
        place = read_url(url, policy)
        got = _exchange("GET", place, headers, b"", policy, deadline, resolve, wants_body=True)
        if got.status == 200:
            if got.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
                raise DeliveryError(f"{place.origin} sends it compressed, which was not asked for")
            return got
        if got.status not in REDIRECTS or "location" not in got.headers:
            raise error_of_status(place.origin, got.status, got.headers)
        url = _redirected(url, place, got.headers["location"], policy)
    raise DeliveryError(f"{place.origin}: more than {policy.max_redirects} redirects")


def _redirected(url: str, place: Place, location: str, policy: Policy) -> str:
    """Where a redirect leads."""
    try:
        url = urljoin(url, location)
    except ValueError:
        raise RefusedAddressError(f"{place.origin} redirects to what is no URL") from None
    if place.scheme == "https" and read_url(url, policy).scheme != "https":
        raise RefusedAddressError(f"{place.origin} redirects to where nothing is encrypted")
    return url


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    policy: Policy,
    *,
    wants_body: bool = False,
    resolve: Resolver = look_up,
) -> Response:
    """Send a body to a URL; the answer's body is read only if it is wanted. Redirects are not followed.

    A redirect that was followed would carry signature or token to another place than the one they are for.

    Raises:
        RefusedAddressError: the URL is closed.
        DeliveryError: the server did not take it; the class says why.
    """
    place = read_url(url, policy)
    if not all(" " <= one <= "~" for pair in headers.items() for text in pair for one in text):
        raise DeliveryDeniedError("a header that is to be sent is not printable ASCII", retryable=True)
    deadline = Deadline(f"the answer of {place.origin}", policy.total_s)
    got = _exchange("POST", place, headers, body, policy, deadline, resolve, wants_body=wants_body)
    if not 200 <= got.status < 300:
        raise error_of_status(place.origin, got.status, got.headers)
    return got


# ---- one request ------------------------------------------------------------------------------------------------


def _exchange(
    method: str,
    place: Place,
    headers: Mapping[str, str],
    body: bytes,
    policy: Policy,
    deadline: Deadline,
    resolve: Resolver,
    *,
    wants_body: bool,
) -> Response:
    """Ask once, of an address that was judged; of a status but success no body is read."""
    addresses = admitted(place, policy, deadline, resolve=resolve)
    wire = None
    try:
        wire = _Wire(_connected(place, addresses, policy, deadline), deadline)
        connection = http.client.HTTPConnection(place.host, place.port)
        connection.sock = wire
        connection.request(method, place.target, body or None, {**_own_headers(place), **headers})
        response = connection.getresponse()
        wire.head_is_over()
        found = {name.lower(): value for name, value in response.getheaders()}
        wants_body = wants_body and 200 <= response.status < 300
        content = _body(response, place, policy) if wants_body else b""
        return Response(response.status, found, content)
    except TimeoutError:
        raise deadline.missed() from None
    except DeliveryError:
        raise
    except ssl.SSLError as error:
        raise _of_tls(place, error) from None
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise DeliveryInterruptedError(f"{place.origin}: {why}", retryable=True) from None
    except (http.client.HTTPException, ValueError):
        raise DeliveryInterruptedError(f"{place.origin} does not answer in HTTP", retryable=True) from None
    finally:
        if wire is not None:
            wire.hang_up()


def _own_headers(place: Place) -> dict[str, str]:
    host = f"[{place.host}]" if ":" in place.host else place.host
    if (place.scheme, place.port) not in (("http", 80), ("https", 443)):
        host = f"{host}:{place.port}"
    return {"Host": host, "User-Agent": USER_AGENT, "Accept-Encoding": "identity", "Connection": "close"}


def _connected(place: Place, addresses: list[Address], policy: Policy, deadline: Deadline) -> socket.socket:
    """Connect to the first address that can be, each having an equal share of the time that is left."""
    for number, address in enumerate(addresses):
        last = number == len(addresses) - 1
        share_s = deadline.left_s() / (len(addresses) - number)
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        plain = None
        try:
            plain = socket.socket(family, socket.SOCK_STREAM)
            plain.settimeout(share_s)
            plain.connect((str(address), place.port))
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            if plain is not None:
                plain.close()
            if last:
                raise
            continue
        if place.scheme == "http":
            return plain
        try:
            plain.settimeout(deadline.left_s())
            return _trusting(policy.ca_file).wrap_socket(
                plain, server_hostname=place.host, suppress_ragged_eofs=False
            )
        except BaseException:
            plain.close()
            raise
    raise AssertionError("at least one address")


@lru_cache(maxsize=16)
def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or newer, certificate and name checked."""
    context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _of_tls(place: Place, error: ssl.SSLError) -> DeliveryError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return DeliveryDeniedError(
            f"{place.origin} has a certificate that is not to be trusted: {error.verify_message}",
            retryable=True,
        )
    return DeliveryInterruptedError(f"{place.origin}: TLS failed ({error.reason})", retryable=True)


def _body(response: http.client.HTTPResponse, place: Place, policy: Policy) -> bytes:
    """The whole body, unless it is too long or breaks off."""
    too_long = DeliveryError(f"{place.origin} answers with more than {policy.max_bytes} bytes")
    if response.length is not None and response.length > policy.max_bytes:
        raise too_long
    body = bytearray()
    while piece := response.read(min(PIECE_BYTES, policy.max_bytes + 1 - len(body))):
        body += piece
        if len(body) > policy.max_bytes:
            raise too_long
    if response.length:
        raise DeliveryInterruptedError(f"{place.origin}: the answer breaks off", retryable=True)
    return bytes(body)


class _Wire:
    """A socket as `http.client` uses it, whose every wait ends with the deadline."""

    def __init__(self, plain: socket.socket, deadline: Deadline) -> None:
        self._socket = plain
        self._deadline = deadline
        self._reader: _Reader | None = None

    def sendall(self, data: Any) -> None:
        view = memoryview(data)
        while view:
            self._socket.settimeout(self._deadline.left_s())
            view = view[self._socket.send(view[:PIECE_BYTES]) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        self._reader = _Reader(self._socket, self._deadline)
        return io.BufferedReader(self._reader)

    def head_is_over(self) -> None:
        if self._reader is not None:
            self._reader.head_bytes = None

    def close(self) -> None:
        """Not yet: `http.client` lets go of the connection before it has read the body."""

    def hang_up(self) -> None:
        self._socket.close()


class _Reader(io.RawIOBase):
    """What comes in, as long as there is time, and as long as the head is not too long."""

    def __init__(self, plain: socket.socket, deadline: Deadline) -> None:
        self._socket = plain
        self._deadline = deadline
        self.head_bytes: int | None = MAX_HEAD_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(self._deadline.left_s())
        got = self._socket.recv_into(buffer)
        if self.head_bytes is not None:
            self.head_bytes -= got
            if self.head_bytes < 0:
                raise http.client.HTTPException("a head without end")
            if not got:  # which http.client would take for the end of the headers
                raise ConnectionResetError(errno.ECONNRESET, "the answer breaks off")
        return got
