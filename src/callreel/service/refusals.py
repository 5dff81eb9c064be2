"""How each API says no, by the path of a request: callreel's own way, that of each vendor, and a page to a person."""

from __future__ import annotations

import html
import json
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from fastapi import HTTPException
from fastapi.responses import Response

from callreel.dialects import Response as Answered

__all__ = ["Refused", "json_response", "refusal", "session_response", "vendor_of"]

VENDORS: Final = (
    ("chime", re.compile(r"/sip-media-applications(/.*)?", re.DOTALL)),
    ("sinch", re.compile(r"/calling(/.*)?", re.DOTALL)),
    ("graph", re.compile(r"((/v1\.0|/beta)?/(app|applications|communications)|/graph)(/.*)?", re.DOTALL)),
)
"""Which paths are whose."""

AWS: Final = {
    400: "BadRequestException",
    401: "UnauthorizedClientException",
    403: "ForbiddenException",
    404: "NotFoundException",
    408: "RequestTimeoutException",
    413: "RequestEntityTooLargeException",
    429: "ThrottledClientException",
    503: "ServiceUnavailableException",
}
"""Errors of Chime's API; 408 and 413 are those of AWS at large."""

GRAPH: Final = {
    401: "unauthenticated",
    403: "accessDenied",
    404: "itemNotFound",
    429: "activityLimitReached",
    500: "generalException",
    502: "generalException",
    503: "serviceNotAvailable",
    504: "generalException",
}

PAGE: Final = re.compile(r"/page(/.*)?(?<!\.json)", re.DOTALL)
"""Paths that a person looks at; what ends in .json is read by a script of the page."""
PAGE_TEXT: Final = """\
<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{status} - callreel</title>{again}</head>
<body><main><h1>{status}</h1><p>{message}</p><p><a href="/page/">Live calls</a></p></main></body>
</html>
"""
AGAIN: Final = '<meta http-equiv="refresh" content="3">'
"""Of a 503: it goes by itself."""


class Refused(HTTPException):
    """A request that is answered with an error, in the words of the API whose path it has."""

    def __init__(
        self, status: int, code: str | int, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """`code` is the API's own."""
        super().__init__(status, (code, message), dict(headers or {}))


class _Words(NamedTuple):
    body: Mapping[str, Any]
    headers: Mapping[str, str] = {}


def vendor_of(path: str) -> str | None:
    """Whose API a path belongs to; None for callreel's own."""
    return next((vendor for vendor, paths in VENDORS if paths.fullmatch(path)), None)


def refusal(
    path: str,
    status: int,
    message: str,
    *,
    word: str = "error",
    code: str | int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error as whoever asks for that path expects it.

    `word` is callreel's own for it, `code` that of the vendor whose path it is, by default one for the status.
    """
    if PAGE.fullmatch(path):
        again = AGAIN if status == 503 else ""
        text = PAGE_TEXT.format(status=status, message=html.escape(message), again=again)
        return Response(text, status, dict(headers or {}), media_type="text/html")
    match vendor_of(path):
        case "chime":
            words = _chime(status, message, code)
        case "sinch":
            words = _Words(
                {
                    "errorCode": code if isinstance(code, int) else 100 * status,
                    "message": message,
                    "reference": str(uuid.uuid4()),
                }
            )
        case "graph":
            date = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            inner = {"request-id": str(uuid.uuid4()), "date": date}
            name = code or GRAPH.get(status, "invalidRequest")
            words = _Words({"error": {"code": str(name), "message": message, "innerError": inner}})
        case _:
            words = _Words({"error": {"code": word, "message": message}})
    return json_response(words.body, status, {**words.headers, **(headers or {})})


def _chime(status: int, message: str, code: str | int | None) -> _Words:
    kind = str(code or AWS.get(status, "ServiceFailureException" if status >= 500 else AWS[400]))
    request_id = str(uuid.uuid4())
    return _Words(
        {"Code": kind.removesuffix("Exception"), "Message": message},
        {"x-amzn-ErrorType": kind, "x-amzn-RequestId": request_id},
    )


def session_response(answer: Answered | None) -> Response:
    """What a session answers, as HTTP."""
    if answer is None:
        return Response(status_code=204)
    if answer.body is None:
        return Response(status_code=answer.status, headers=dict(answer.headers))
    return json_response(answer.body, answer.status, answer.headers)


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON in ASCII: half a surrogate, which a request may hold, is no UTF-8."""
    content = json.dumps(body, separators=(",", ":")).encode("ascii")
    return Response(content, status, dict(headers or {}), media_type="application/json")
