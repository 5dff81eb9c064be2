"""The ASGI application: every API of the service behind one authentication, with the same limits."""

import logging
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from callreel.delivery.drive import Drive
from callreel.encryption import Keys
from callreel.errors import CallreelError
from callreel.service.access import COOKIE, Access
from callreel.service.audio import AudioReader
from callreel.service.chime_api import chime_api
from callreel.service.customers import Customers
from callreel.service.graph_api import graph_api
from callreel.service.held import Held
from callreel.service.host import Host
from callreel.service.library import Library
from callreel.service.limits import App, Limited
from callreel.service.native_api import native_api, status_of
from callreel.service.refusals import refusal, vendor_of
from callreel.service.sinch_api import sinch_api

__all__ = ["make_app"]

log = logging.getLogger("callreel.service")


def make_app(
    host: Host,
    library: Library,
    audio: AudioReader,
    access: Access,
    customers: Customers,
    *,
    drives: Callable[[str], Drive],
    held: Held,
    keys: Keys | None = None,
    is_ready: Callable[[], str | None] = lambda: None,
    metrics: Callable[[], str] = lambda: "",
    clock: Callable[[], float] = time.time,
    websockets: App | None = None,
) -> Any:
    """The application.

    `drives` gives a tenant's Sinch Drive, `held` has what Microsoft Graph's customers download, `keys` are what both
    are encrypted with. `is_ready` says why the service is not, None when it is. `websockets` serves these.
    """
    app = FastAPI(
        title="callreel",
        version=version("callreel"),
        description="Records calls: media over the network in, true recordings out.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
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

    app.include_router(native_api(host, library, audio, customers, tenant_of))
    app.include_router(chime_api(host, customers, access, clock))
    app.include_router(sinch_api(host, customers, access, drives, keys, clock))
    app.include_router(graph_api(host, customers, access, held, clock))

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

    @app.exception_handler(StarletteHTTPException)
    async def told(request: Request, error: StarletteHTTPException) -> Response:
        detail: Any = error.detail
        code, message = detail if isinstance(detail, tuple) else (None, str(detail))
        return refusal(
            request.scope["path"],
            error.status_code,
            message,
            word=code or ("not_found" if error.status_code == 404 else "error"),
            code=code,
            headers=error.headers,
        )

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return refusal(request.scope["path"], 422, f"{where}: {first['msg']}", word="invalid")

    @app.exception_handler(CallreelError)
    async def refused(request: Request, error: CallreelError) -> Response:
        status, word = status_of(error)
        path = request.scope["path"]
        if vendor_of(path) is None:
            return refusal(path, status, str(error), word=word)
        # What is wrong with the service is the operator's to know, not the customer's.
        log.error("%s cannot be answered: %s", path, error)
        return refusal(path, status if status == 503 else 500, "The service cannot do that now.")

    @app.exception_handler(Exception)
    async def failed(request: Request, _: Exception) -> Response:
        return refusal(request.scope["path"], 500, "Internal error", word="failed")

    return Limited(app, websockets=websockets)
