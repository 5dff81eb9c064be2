"""The ASGI application: every API of the service behind one authentication, with the same limits."""

import logging
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any, NamedTuple

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from callreel.delivery.drive import Drive
from callreel.encryption import Keys
from callreel.errors import CallreelError
from callreel.service.access import COOKIE, Access
from callreel.service.answers import Answers
from callreel.service.audio import AudioReader
from callreel.service.chime_api import chime_api
from callreel.service.colleagues import Away, Colleagues, Within
from callreel.service.counting import Counted
from callreel.service.customers import Customers
from callreel.service.document import allowed_methods, describe
from callreel.service.forwarding import Forwarding
from callreel.service.graph_api import graph_api
from callreel.service.held import Held
from callreel.service.host import Host
from callreel.service.library import Library
from callreel.service.limits import App, Limited
from callreel.service.metrics import CONTENT_TYPE, Family, of_workers, text_of
from callreel.service.native_api import native_api, status_of
from callreel.service.permits import Permits
from callreel.service.refusals import refusal, vendor_of
from callreel.service.relays import relay
from callreel.service.sinch_api import sinch_api
from callreel.service.traces import NONE_OF_FASTAPI

__all__ = ["Apps", "make_app"]

log = logging.getLogger("callreel.service")


class Apps(NamedTuple):
    """Applications of ASGI."""

    public: App
    """For everybody."""
    within: App | None
    """For the other workers; None when there are none."""


def make_app(
    host: Host,
    library: Library,
    audio: AudioReader,
    access: Access,
    customers: Customers,
    *,
    answers: Answers,
    drives: Callable[[str], Drive],
    held: Held,
    permits: Permits,
    keys: Keys | None = None,
    obstacles: Callable[[], list[str]] = list,
    colleagues: Colleagues,
    families: Callable[[], Iterable[Family]] = list,
    answered: Callable[[str, str, int, float], None] = lambda method, route, status, took_s: None,
    page: App | None = None,
    clock: Callable[[], float] = time.time,
    websockets: App,
) -> Apps:
    """The application.

    `answers` has those to requests that are carried out once. `drives` gives a tenant's Sinch Drive, `held` has what
    Microsoft Graph's customers download as `permits` say, `keys` are what both are encrypted with. `obstacles`: why no
    recordings are begun; `answered` hears of every request; see `Counted`. `page` is the operator's, below /page;
    `websockets` serves these. `colleagues` are the other workers, who are asked about what concerns all calls.
    """
    app = FastAPI(
        title="callreel",
        version=version("callreel"),
        description="Records calls: media over the network in, true recordings out.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        telemetry=NONE_OF_FASTAPI,
    )

    async def tenant_of(request: Request) -> str:
        # A browser sends the cookie along with what other pages make it send: it opens nothing but what is read.
        cookie = request.cookies.get(COOKIE) if request.method in ("GET", "HEAD") else None
        tenant = access.tenant_of(request.headers.get("authorization"), cookie, now_s=clock())
        if tenant is None:
            raise HTTPException(
                401,
                ("unauthorized", "send Authorization: Bearer and a token"),
                {"WWW-Authenticate": 'Bearer realm="callreel"'},
            )
        return tenant

    app.include_router(native_api(host, library, audio, customers, tenant_of, answers, colleagues))
    app.include_router(chime_api(host, customers, access, answers, clock, colleagues.fleet))
    app.include_router(sinch_api(host, customers, access, drives, keys, answers, clock, colleagues))
    app.include_router(graph_api(host, customers, access, held, permits, clock))

    @app.get(
        "/healthz",
        tags=["operation"],
        summary="Whether the process lives",
        response_class=PlainTextResponse,
    )
    async def healthz() -> Response:
        return PlainTextResponse("ok\n")

    @app.get(
        "/readyz",
        tags=["operation"],
        summary="Whether recordings can be begun",
        responses={503: {"description": "not now: why, a line each", "content": {"text/plain": {}}}},
        response_class=PlainTextResponse,
    )
    async def readyz() -> Response:
        reasons = colleagues.by_worker(await colleagues.each("obstacles"))
        text = "".join(f"{reason}\n" for reason in reasons)
        return PlainTextResponse(text or "ok\n", 503 if reasons else 200)

    colleagues.answer("obstacles", obstacles, is_quick=True)
    colleagues.answer("families", lambda: list(families()))

    @app.get(
        "/metrics",
        tags=["operation"],
        summary="Figures for Prometheus",
        description="For an operator, or whoever has the token for metrics.",
        responses={
            200: {"content": {"text/plain": {}}},
            401: {"description": "no token, or one that nobody has"},
            403: {"description": "a tenant who is no operator"},
        },
        response_class=Response,
    )
    async def read_metrics(request: Request) -> Response:
        if not access.may_measure(request.headers.get("authorization")):
            tenant = await tenant_of(request)
            if not access.is_operator(tenant):
                raise HTTPException(
                    403, ("forbidden", "these are the figures of all tenants: ask an operator")
                )
        found = await colleagues.each("families")
        told = [None if isinstance(one, Away) else one for one in found]
        return Response(text_of(found[0] if len(told) == 1 else of_workers(told)), media_type=CONTENT_TYPE)

    if page is not None:
        app.mount("/page", page)

        @app.get("/", include_in_schema=False)
        @app.get("/page", include_in_schema=False)
        async def to_page() -> Response:
            return RedirectResponse("/page/", 303)

    describe(app)

    @app.exception_handler(StarletteHTTPException)
    async def told(request: Request, error: StarletteHTTPException) -> Response:
        detail: Any = error.detail
        code, message = detail if isinstance(detail, tuple) else (None, str(detail))
        headers = dict(error.headers or {})
        if "Allow" in headers:
            headers["Allow"] = allowed_methods(app, request.scope["path"]) or headers["Allow"]
        return refusal(
            request.scope["path"],
            error.status_code,
            message,
            word=code or ("not_found" if error.status_code == 404 else "error"),
            code=code,
            headers=headers,
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

    def entered(app: App, websockets: App, *, is_open: bool) -> App:
        return Counted(Limited(app, websockets=websockets, is_open=is_open), answered)

    if colleagues.fleet.size == 1:
        return Apps(entered(app, websockets, is_open=access.is_open), None)
    forwarding = Forwarding(app, websockets, colleagues, relay)
    return Apps(
        entered(forwarding, forwarding, is_open=access.is_open),
        Within(entered(app, websockets, is_open=False), colleagues),  # what is handed on has come in already
    )
