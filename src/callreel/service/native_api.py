"""callreel's own HTTP API: calls, their legs and what is asked of them; recordings; the stream of events."""

import heapq
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Header, HTTPException, Path, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from callreel.actions import RecordingKind
from callreel.errors import ActionConflictError, ActionError, DeliveryError, NoPortError, UsageError
from callreel.service.answers import Answers, KeyReusedError, StillAtWorkError
from callreel.service.audio import AUDIO, UNREAD, AudioReader
from callreel.service.bodies import ActionBody, CallBody, ErrorBody, LegBody, RecordingBody
from callreel.service.colleagues import Colleagues
from callreel.service.customers import Customers
from callreel.service.host import Host, LegWish, LiveCall
from callreel.service.library import Entry, Library
from callreel.service.shapes import (
    ActionAnswer,
    CallAnswer,
    CallDetails,
    CallsAnswer,
    ManifestAnswer,
    RecordingAnswer,
    RecordingsAnswer,
    WaveformAnswer,
)
from callreel.service.telling import ID, ID_CHARACTERS, place_of

__all__ = ["native_api", "status_of"]

REMEMBERED_S: Final = 24 * 3600
"""What was answered to an idempotency key."""
COLUMNS_MAX: Final = 4000
EVENTS: Final = (
    "each with an `id`, the event's name, and as `data` a JSON object with `event`, `call_id` and what there is to "
    "say; `gap` where some are not kept any more"
)


ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    code: {"model": ErrorBody, "description": words}
    for code, words in {
        400: "something else is wrong with the request",
        401: "no token, or one that nobody has",
        404: "there is no such thing, or it is another tenant's",
        409: "not in this state",
        413: "the body is too large",
        422: "the body is not as it should be",
        503: "no recordings are begun now",
    }.items()
}


def native_api(
    host: Host,
    library: Library,
    audio: AudioReader,
    customers: Customers,
    tenant_of: Callable[..., Any],
    answers: Answers,
    colleagues: Colleagues,
) -> APIRouter:
    """The routes below /v1; `tenant_of` is the dependency that says whose request it is."""
    api = APIRouter(prefix="/v1", responses=ERRORS, tags=["native"])
    Tenant = Annotated[str, Depends(tenant_of)]  # noqa: N806  (a type)
    CallId = Annotated[str, Path(max_length=128)]  # noqa: N806

    async def once(
        request: Request, tenant: str, key: str | None, work: Callable[[], Awaitable[Response]]
    ) -> Response:
        """Do what is asked; what was asked before with the same key is answered as it was then."""
        if key is None:
            return await work()
        asked = f"{request.method} {request.scope['path']}\0".encode("utf-8", "surrogatepass")
        return await answers.once(
            f"native\0{tenant}\0{key}",
            work,
            request=asked + await request.body(),
            until_s=time.time() + REMEMBERED_S,
        )

    def wanted(call_id: str, tenant: str) -> LiveCall:
        call = host.call(call_id, tenant)
        if call is None:
            raise HTTPException(404, ("no_such_call", f"there is no call {call_id}"))
        return call

    async def check_names(tenant: str, legs: list[LegWish]) -> None:
        """UsageError where a leg of another worker's has a name that a connection would find one of these by."""
        named = [[leg.media, dict(leg.options)] for leg in legs if leg.options]
        if named and colleagues.fleet.size > 1:
            problem = await colleagues.first_other("leg_problem", tenant=tenant, legs=named)
            if problem is not None:
                raise UsageError(problem[1])

    colleagues.answer(
        "calls", lambda tenant, live: [call.as_json() for call in host.calls(tenant, live=live)]
    )

    def recording(take_id: str, tenant: str) -> Entry:
        entry = library.get(take_id, tenant)
        if entry is None:
            raise HTTPException(404, ("no_such_recording", f"there is no recording {take_id}"))
        return entry

    @api.post(
        "/calls",
        status_code=201,
        summary="Begin a call; says where to send its media",
        responses={201: {"model": CallAnswer}},
    )
    async def create_call(
        request: Request,
        body: CallBody,
        tenant: Tenant,
        idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
    ) -> Any:
        return await once(request, tenant, idempotency_key, lambda: begun(body, tenant))

    async def begun(body: CallBody, tenant: str) -> Response:
        legs = [leg.wish() for leg in body.legs]
        await check_names(tenant, legs)
        call_id = body.call_id or colleagues.fleet.new_id()
        customer = None
        if body.dialect is not None:
            customer = customers.customer(body.dialect, body.dialect_options, tenant=tenant, call_id=call_id)
        names = [leg.name for leg in body.legs]
        if len(set(names)) < len(names):
            raise HTTPException(422, ("two_legs_of_one_name", "every leg has a name of its own"))
        if body.record is not None and body.record.leg not in names:
            raise HTTPException(422, ("no_such_leg", f"the call has no leg {body.record.leg}"))
        call = host.create(
            call_id,
            tenant=tenant,
            legs=legs,
            dialect=None if customer is None else customer.session,
            application="" if customer is None else customer.application,
        )
        try:
            if body.record is not None:
                call.recorded.start_recording(body.record.action())
        except ActionError:
            host.end(call)
            raise
        return JSONResponse(call.as_json(), 201)

    @api.get(
        "/calls", summary="Calls that go on, or all that are known", responses={200: {"model": CallsAnswer}}
    )
    async def list_calls(tenant: Tenant, live: bool = True) -> Any:
        found = await colleagues.all("calls", tenant=tenant, live=live)
        latest_first = heapq.merge(*found, key=lambda call: str(call["started_at"]), reverse=True)
        return {"calls": list(latest_first)}

    @api.get("/calls/{call_id}", summary="One call", responses={200: {"model": CallDetails}})
    async def read_call(call_id: CallId, tenant: Tenant) -> Any:
        call = wanted(call_id, tenant)
        return call.as_json() | {"media": {leg: dict(media.statistics) for leg, media in call.media.items()}}

    @api.delete("/calls/{call_id}", status_code=204, summary="The call is over")
    async def end_call(call_id: CallId, tenant: Tenant) -> Response:
        host.end(wanted(call_id, tenant))
        return Response(status_code=204)

    @api.post(
        "/calls/{call_id}/legs",
        status_code=201,
        summary="Another participant joins",
        responses={201: {"model": CallAnswer}},
    )
    async def add_leg(
        request: Request,
        call_id: CallId,
        body: LegBody,
        tenant: Tenant,
        idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
    ) -> Any:
        async def work() -> Response:
            wanted(call_id, tenant)
            await check_names(tenant, [body.wish()])
            call = wanted(call_id, tenant)
            host.add_leg(call, body.wish())
            return JSONResponse(call.as_json(), 201)

        return await once(request, tenant, idempotency_key, work)

    @api.post(
        "/calls/{call_id}/actions",
        summary="Ask something of a call",
        responses={200: {"model": ActionAnswer}},
    )
    async def act(
        request: Request,
        call_id: CallId,
        body: ActionBody,
        tenant: Tenant,
        idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
    ) -> Any:
        async def work() -> Response:
            return JSONResponse(_carried_out(host, wanted(call_id, tenant), body))

        return await once(request, tenant, None if _only_reads(body) else idempotency_key, work)

    @api.get(
        "/recordings",
        summary="Recordings that have ended, the latest first",
        responses={200: {"model": RecordingsAnswer}},
    )
    def list_recordings(
        tenant: Tenant,
        text: Annotated[str, Query(max_length=200)] = "",
        state: Literal["", "delivered", "failed", "degraded"] = "",
        after: Annotated[str, Query(max_length=40)] = "",
        before: Annotated[str, Query(max_length=40)] = "",
        page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
        page_size: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> Any:
        found = library.find(
            tenant, text=text, state=state, after=after, before=before, page=page, page_size=page_size
        )
        entries = [_without_manifest(entry) for entry in found.entries]
        return {"recordings": entries, "total": found.total, "page": page, "page_size": page_size}

    @api.get("/recordings/{take_id}", summary="One recording", responses={200: {"model": RecordingAnswer}})
    def read_recording(take_id: str, tenant: Tenant) -> Any:
        return _without_manifest(recording(take_id, tenant))

    @api.get(
        "/recordings/{take_id}/manifest",
        summary="All there is to say of a recording",
        responses={200: {"model": ManifestAnswer}},
    )
    def read_manifest(take_id: str, tenant: Tenant) -> Any:
        return dict(recording(take_id, tenant).manifest)

    @api.get(
        "/recordings/{take_id}/audio",
        summary="Its file, whole or a range",
        responses=AUDIO,
        response_class=Response,
    )
    def read_audio(take_id: str, request: Request, tenant: Tenant) -> Response:
        return audio.response(
            recording(take_id, tenant), request.headers.get("range"), request.headers.get("if-range")
        )

    @api.get(
        "/recordings/{take_id}/waveform",
        summary="The outline of each channel",
        responses={200: {"model": WaveformAnswer}, 502: UNREAD},
    )
    def read_waveform(
        take_id: str, tenant: Tenant, columns: Annotated[int, Query(ge=1, le=COLUMNS_MAX)] = 1000
    ) -> Any:
        return audio.waveform(recording(take_id, tenant), columns)

    @api.get(
        "/events",
        summary="What happens, as server-sent events",
        responses={200: {"description": EVENTS, "content": {"text/event-stream": {}}}},
        response_class=StreamingResponse,
    )
    async def watch(
        tenant: Tenant,
        last_event_id: Annotated[str | None, Header(max_length=ID_CHARACTERS)] = None,
        since: Annotated[str | None, Query(pattern=ID, max_length=ID_CHARACTERS)] = None,
    ) -> StreamingResponse:
        place = place_of(last_event_id or since, colleagues.fleet.size)
        return StreamingResponse(
            colleagues.watch(tenant, place),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    return api


def _only_reads(body: ActionBody) -> bool:
    """Whether it does nothing: the answer is not kept on disk then, for one of Microsoft Graph's may hold a token."""
    document = body.document
    return body.action == "request" and isinstance(document, dict) and document.get("method") == "GET"


def _carried_out(host: Host, call: LiveCall, body: ActionBody) -> dict[str, Any]:
    """Do what is asked; what goes wrong is raised."""
    recorded = call.recorded
    kind = RecordingKind.MESSAGE if body.message else RecordingKind.CALL
    if call.recorded.is_over and body.action != "performed":
        raise ActionConflictError(f"call {call.call_id} is over")
    match body.action:
        case "start_recording":
            action = (body.recording or RecordingBody(leg=body.leg)).action()
            return {"recording_id": recorded.start_recording(action)}
        case "stop_recording":
            recorded.stop_recording(body.leg, kind=kind)
        case "pause_recording":
            recorded.pause_recording(body.leg, kind=kind)
        case "resume_recording":
            recorded.resume_recording(body.leg, kind=kind)
        case "hang_up":
            host.hang_up(call, body.leg)
        case "answered":
            recorded.answered(body.leg)
        case "ringing":
            recorded.ringing(body.leg)
        case "digit":
            if body.symbol is None:
                raise ActionError("digit needs a symbol", field="symbol")
            recorded.receive_digit(body.leg, body.symbol)
        case "performed":
            if body.action_id is None:
                raise ActionError("performed needs an action_id", field="action_id")
            host.performed(call, body.action_id, error=body.error, result=body.result)
        case "request":
            response = recorded.request(body.document)
            if response is not None:
                return {
                    "response": {
                        "status": response.status,
                        "body": None if response.body is None else dict(response.body),
                        "headers": dict(response.headers),
                    }
                }
    return {}


def _without_manifest(entry: Entry) -> dict[str, Any]:
    body = entry._asdict()
    del body["manifest"], body["tenant"]
    return body


def status_of(error: Exception) -> tuple[int, str]:
    """Which status and code an error is told with."""
    match error:
        case StillAtWorkError():
            return 409, "in_progress"
        case KeyReusedError():
            return 422, "key_reused"
        case ActionConflictError():
            return 409, "conflict"
        case ActionError(field="system"):
            return 503, "no_recordings_now"
        case ActionError():
            return 400, "cannot_be_done"
        case NoPortError():
            return 503, "no_port"
        case UsageError():
            is_there = "there is a call" in str(error) or str(error).endswith(" already")
            return 409 if is_there else 400, "wrong_use"
        case DeliveryError():
            return 502, "destination"
        case _:
            return 500, "failed"
