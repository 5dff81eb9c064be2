"""Microsoft Graph's cloud communications: what an application asks of a call, and the download of its recordings.

Source: the pages of the API reference that `callreel.dialects.graph` names, whose session answers; here it is told who
asks (`callreel.service.tokens`), and which call is meant. The paths are those of all editions, each with /v1.0 or /beta
before it, or without. A recording is downloaded with the access token of its notification, and with no other.
"""

import uuid
from collections.abc import Callable
from typing import Annotated, Any, Final
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response, StreamingResponse

from callreel.errors import UsageError
from callreel.service.access import Access
from callreel.service.audio import Pieces
from callreel.service.customers import HELD_PATH, Customers
from callreel.service.held import Held
from callreel.service.host import Host, LiveCall
from callreel.service.permits import Permits
from callreel.service.refusals import Refused, session_response
from callreel.service.tokens import TokenError, Tokens
from callreel.service.vendor_shapes import GRAPH, GRAPH_VERBS, gives, takes

__all__ = ["graph_api"]

Endpoints = tuple[Callable[..., Any], ...]

VERSIONS: Final = ("", "/v1.0", "/beta")
ASKED: Final = (
    ("/{call_id}", "DELETE", "The call is over"),
    (
        "/{call_id}/{verb}",
        "POST",
        "record, recordResponse, playPrompt, cancelMediaProcessing, subscribeToTone",
    ),
    ("/{call_id}/operations/{operation_id}", "GET", "An operation that goes on"),
)
"""Paths behind each of those of calls."""
CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="callreel"'}
CALL_NOT_FOUND: Final = "8522"

Verb = Annotated[str, Path(json_schema_extra={"enum": list(GRAPH_VERBS)})]
LOCATION: Final = {"Location": {"required": True, "schema": {"type": "string"}}}
ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"description": "a parameter, or the state of the call, does not allow it"},
    401: {"description": "no token, or one that is not to be believed"},
    403: {"description": "the application may not"},
    404: {"description": "there is no such call or operation"},
    405: {"description": "the method is not allowed for this resource"},
    415: {"description": "the content type must be application/json"},
    429: {"description": "too many operations wait"},
    503: {"description": "no recordings are begun now; Retry-After says when to ask again"},
}
GIVEN: Final[dict[str, dict[int | str, dict[str, Any]]]] = {
    "POST": {200: gives(GRAPH["operation"], "it is accepted", LOCATION)},
    "GET": {200: gives(GRAPH["operation"], "the operation")},
    "DELETE": {},
}
GONE: Final = {
    401: ("InvalidAuthenticationToken", "The access token is invalid."),
    404: ("itemNotFound", "There is no such recording."),
    410: ("itemNotFound", "The recording is not kept any more."),
}


def graph_api(
    host: Host,
    customers: Customers,
    access: Access,
    held: Held,
    permits: Permits,
    clock: Callable[[], float],
) -> APIRouter:
    """The routes of calls and recordings."""
    api = APIRouter(tags=["graph"])
    applications = customers.settings.graph.applications
    tokens = Tokens(customers.settings.graph)

    def asker(request: Request) -> tuple[str, str | None]:
        """The tenant that asks, and its application; None for any."""
        if access.is_open:
            return "local", None
        token = _bearer(request)
        if token is None:
            raise Refused(401, "InvalidAuthenticationToken", "Access token is empty.", CHALLENGE)
        try:
            application = tokens.application_of(token)
        except TokenError as error:
            headers = CHALLENGE if error.status == 401 else {}
            raise Refused(error.status, error.code, str(error), headers) from None
        return applications[application].tenant, application

    def found(call_id: str, tenant: str) -> LiveCall:
        for form in _forms(call_id):
            call = host.call(form, tenant)
            if call is not None and call.dialect == "graph":
                return call
        raise Refused(404, CALL_NOT_FOUND, "Call not found.")

    async def ask(request: Request, call_id: str, application_id: str | None = None) -> Response:
        """Have the call's session answer; `application_id`: in whose name it is asked."""
        tenant, application = asker(request)
        if (
            None not in (application_id, application)
            and str(application_id).lower() != str(application).lower()
        ):
            raise Refused(404, CALL_NOT_FOUND, "Call not found.")
        call = found(call_id, tenant)
        document: dict[str, Any] = {
            "method": request.method,
            "path": request.scope["raw_path"].decode("latin-1"),
            "body": await request.body(),
        }
        if "content-type" in request.headers:
            document["content_type"] = request.headers["content-type"]
        try:
            return session_response(call.recorded.request(document))
        except UsageError:  # it is over
            raise Refused(404, CALL_NOT_FOUND, "Call not found.") from None

    # The parameters of the paths, for the OpenAPI document; the session reads the path itself.

    async def delete(request: Request, call_id: str) -> Response:
        return await ask(request, call_id)

    async def act(request: Request, call_id: str, verb: Verb) -> Response:
        return await ask(request, call_id)

    async def read_operation(request: Request, call_id: str, operation_id: str) -> Response:
        return await ask(request, call_id)

    async def delete_of(request: Request, application_id: str, call_id: str) -> Response:
        return await ask(request, call_id, application_id)

    async def act_of(request: Request, application_id: str, call_id: str, verb: Verb) -> Response:
        return await ask(request, call_id, application_id)

    async def read_operation_of(
        request: Request, application_id: str, call_id: str, operation_id: str
    ) -> Response:
        return await ask(request, call_id, application_id)

    plain: Endpoints = (delete, act, read_operation)
    places: dict[str, Endpoints] = {
        "/app/calls": plain,
        "/communications/calls": plain,
        "/applications/{application_id}/calls": (delete_of, act_of, read_operation_of),
    }
    for version in VERSIONS:
        for calls, endpoints in places.items():
            for (path, method, summary), endpoint in zip(ASKED, endpoints, strict=True):
                api.add_api_route(
                    f"{version}{calls}{path}",
                    endpoint,
                    methods=[method],
                    summary=summary,
                    status_code=204 if method == "DELETE" else 200,
                    responses=ERRORS | GIVEN[method],
                    response_class=Response,
                    include_in_schema=not version,
                    operation_id=f"{method.lower()} {calls}{path}",
                    openapi_extra=takes(GRAPH["verb"]) if method == "POST" else None,
                )

    @api.get(
        HELD_PATH + "{call_id}/{recording_id}",
        summary="A recording, with the access token of its notification",
        responses={
            200: {
                "description": "its file, chunked",
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            },
            401: {"description": "not the token of this recording"},
            404: {"description": "there is no such recording"},
            410: {"description": "the recording is not kept any more"},
        },
        response_class=StreamingResponse,
    )
    async def download(request: Request, call_id: str, recording_id: str) -> Response:
        path = f"{urlsplit(customers.public_url).path}{HELD_PATH}{quote(call_id, safe='')}/{recording_id}"
        grace_s = customers.settings.graph.grace_s
        status, key = permits.look(path, _bearer(request), grace_s=grace_s, now_s=clock())
        pieces = None if key is None else held.pieces(key)
        if pieces is None:
            status = 410 if status == 200 else status
            code, message = GONE[status]
            raise Refused(status, code, message, CHALLENGE if status == 401 else {})
        return Pieces(pieces, headers={}, media_type="application/octet-stream")

    return api


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _forms(call_id: str) -> list[str]:
    """How a call's id may be written: notifications print GUIDs in capitals, without hyphens."""
    forms = [call_id]
    try:
        guid = uuid.UUID(call_id)
    except ValueError:
        return forms
    return [*dict.fromkeys((call_id, str(guid), guid.hex, str(guid).upper(), guid.hex.upper()))]
