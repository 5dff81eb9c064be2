"""The ASGI application: every API of the service behind one authentication, with the same limits."""

import secrets
import time
import uuid
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from callreel.dialects.chime import Chime
from callreel.dialects.graph import Graph
from callreel.dialects.sinch import Sinch
from callreel.errors import CallreelError, UsageError
from callreel.service.access import COOKIE, Access
from callreel.service.audio import AudioReader
from callreel.service.host import Host
from callreel.service.library import Library
from callreel.service.limits import Limited, error_body
from callreel.service.native_api import native_api, status_of

__all__ = ["make_app", "make_session"]

OPTIONS: Mapping[str, frozenset[str]] = {
    "chime": frozenset(
        {"account_id", "region", "sip_media_application_id", "sip_rule_id", "record_audio_format"}
    ),
    "sinch": frozenset({"application_key", "custom", "domain", "layout"}),
    "graph": frozenset({"revision"}),
}
"""What of a session a request may set; all else is the operator's."""


def make_session(dialect: str, options: Mapping[str, Any], *, base_url: str = "") -> Any:
    """A vendor's session; UsageError for options that it does not have. `base_url`: where Graph's requests come to."""
    unknown = set(options) - OPTIONS[dialect]
    if unknown:
        raise UsageError(
            f"{dialect} has no option {sorted(unknown)[0]!r}: one of {', '.join(sorted(OPTIONS[dialect]))}"
        )
    try:
        match dialect:
            case "chime":
                return Chime(checks_access=True, **options)
            case "sinch":
                return Sinch(**options)
        return Graph(
            new_id=lambda: str(uuid.uuid4()), new_token=secrets.token_urlsafe, base_url=base_url, **options
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"{dialect}: {error}") from None


def make_app(
    host: Host,
    library: Library,
    audio: AudioReader,
    access: Access,
    *,
    is_ready: Callable[[], str | None] = lambda: None,
    metrics: Callable[[], str] = lambda: "",
    clock: Callable[[], float] = time.time,
) -> Any:
    """The application. `is_ready` says why the service is not, None when it is."""
    app = FastAPI(
        title="callreel",
        version=version("callreel"),
        description="Records calls: media over the network in, true recordings out.",
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
    )

    async def tenant_of(request: Request) -> str:
        tenant = access.tenant_of(
            request.headers.get("authorization"), request.cookies.get(COOKIE), now_s=clock()
        )
        if tenant is None:
            raise HTTPException(
                401,
                ("unauthorized", "send Authorization: Bearer and a token"),
                {"WWW-Authenticate": 'Bearer realm="callreel"'},
            )
        return tenant

    app.include_router(native_api(host, library, audio, make_session, tenant_of))

    @app.get("/healthz", tags=["operation"], summary="Whether the process lives")
    async def healthz() -> Response:
        return PlainTextResponse("ok\n")

    @app.get(
        "/readyz",
        tags=["operation"],
        summary="Whether recordings can be begun",
        responses={503: {"description": "not now"}},
    )
    async def readyz() -> Response:
        reason = is_ready()
        return PlainTextResponse("ok\n" if reason is None else f"{reason}\n", 200 if reason is None else 503)

    @app.get("/metrics", tags=["operation"], summary="Figures for Prometheus")
    async def read_metrics(request: Request) -> Response:
        await tenant_of(request)
        return PlainTextResponse(metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.exception_handler(HTTPException)
    async def told(_: Request, error: HTTPException) -> Response:
        code, message = error.detail if isinstance(error.detail, tuple) else ("error", str(error.detail))
        return JSONResponse(error_body(code, message), error.status_code, error.headers)

    @app.exception_handler(404)
    async def nowhere(_: Request, error: HTTPException) -> Response:
        detail: Any = getattr(error, "detail", None)
        code, message = detail if isinstance(detail, tuple) else ("not_found", "there is no such path")
        return JSONResponse(error_body(code, message), 404)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return JSONResponse(error_body("invalid", f"{where}: {first['msg']}"), 422)

    @app.exception_handler(CallreelError)
    async def refused(_: Request, error: CallreelError) -> Response:
        status, code = status_of(error)
        return JSONResponse(error_body(code, str(error)), status)

    return Limited(app)
