"""Amazon Chime SDK's HTTP API, as far as calls of SIP media applications go.

Source: the API reference of "Amazon Chime SDK Voice": UpdateSipMediaApplicationCall, CreateSipMediaApplicationCall.
Requests are signed (`callreel.service.sigv4`); a signature that comes again gets its answer again, and does nothing.
"""

import json
import re
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from callreel.errors import UsageError
from callreel.events import LegStatus
from callreel.service.access import Access
from callreel.service.answers import Answers, StillAtWorkError
from callreel.service.customers import Customers
from callreel.service.fleet import Fleet
from callreel.service.host import Host, LegWish
from callreel.service.refusals import Refused, json_response, session_response
from callreel.service.sigv4 import SignedRequest, Unsigned, Verified, verify
from callreel.service.vendor_shapes import CHIME, gives, takes

__all__ = ["chime_api"]

SERVICE: Final = "chime"
"""As the clients sign for it."""
NUMBER = re.compile(r"\+?[1-9]\d{1,14}", re.ASCII)
MAX_PAIRS: Final = 20

ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"description": "BadRequestException, SerializationException, IncompleteSignatureException"},
    403: {"description": "the request is not signed, or not by who says so"},
    404: {"description": "NotFoundException"},
    503: {"description": "ServiceUnavailableException"},
}


def chime_api(
    host: Host,
    customers: Customers,
    access: Access,
    answers: Answers,
    clock: Callable[[], float],
    fleet: Fleet,
) -> APIRouter:
    """The routes below /sip-media-applications."""
    api = APIRouter(prefix="/sip-media-applications", tags=["chime"], responses=ERRORS)
    settings = customers.settings.chime
    secrets = {key_id: credential.secret for key_id, credential in settings.credentials.items()}

    def now() -> datetime:
        return datetime.fromtimestamp(clock(), UTC)

    def signed(request: Request, body: bytes) -> tuple[str, Verified | None]:
        """Whose request it is, and how that is known."""
        if access.is_open:
            return "local", None
        raw = SignedRequest(
            request.method,
            request.scope["raw_path"].decode("latin-1"),
            request.scope["query_string"].decode("latin-1"),
            [
                (name.decode("latin-1").lower(), value.decode("latin-1"))
                for name, value in request.headers.raw
            ],
            body,
        )
        try:
            verified = verify(raw, secrets, region=settings.region, service=SERVICE, now=now())
        except Unsigned as error:
            raise Refused(error.status, error.code, str(error)) from None
        return settings.credentials[verified.key_id].tenant, verified

    async def once(request: Request, work: Callable[[str, Mapping[str, Any]], Response]) -> Response:
        """Do what a request asks for; one that was done before is answered as it was then."""
        body = await request.body()
        tenant, verified = signed(request, body)
        if verified is None:
            return _named(work(tenant, _read(body)))
        try:
            return await answers.once(
                f"chime\0{verified.signature}",
                lambda: _named(work(tenant, _read(body))),
                until_s=verified.until.timestamp(),
                now_s=clock(),
            )
        except StillAtWorkError as error:
            raise Refused(503, "ServiceUnavailableException", str(error)) from None

    @api.post(
        "/{application_id}/calls/{transaction_id}",
        status_code=202,
        summary="UpdateSipMediaApplicationCall: ask a call's application what to do now",
        openapi_extra=takes(CHIME["update"]),
        responses={202: gives(CHIME["made"], "the application is asked")},
    )
    async def update_call(request: Request, application_id: str, transaction_id: str) -> Response:
        def work(tenant: str, body: Mapping[str, Any]) -> Response:
            call = host.call(transaction_id, tenant)
            if call is None or call.dialect != "chime":
                raise _not_found()
            document = {
                "Arguments": body.get("Arguments"),
                "SipMediaApplicationId": application_id,
                "TransactionId": transaction_id,
            }
            try:
                response = call.recorded.request(document)
            except UsageError:  # it is over
                raise _not_found() from None
            return session_response(response)

        return await once(request, work)

    @api.post(
        "/{application_id}/calls",
        status_code=201,
        summary="CreateSipMediaApplicationCall: begin a call to a number",
        openapi_extra=takes(CHIME["create"]),
        responses={201: gives(CHIME["made"], "the call begins")},
    )
    async def create_call(request: Request, application_id: str) -> Response:
        def work(tenant: str, body: Mapping[str, Any]) -> Response:
            if not customers.is_theirs("chime", application_id, tenant):
                raise Refused(404, "NotFoundException", "There is no such SIP media application.")
            numbers = [_number(body, name) for name in ("FromPhoneNumber", "ToPhoneNumber")]
            headers, arguments = _pairs(body, "SipHeaders"), _pairs(body, "ArgumentsMap")
            if not host.recorder.is_accepting:
                raise Refused(503, "ServiceUnavailableException", "No calls are begun now.")
            call_id = str(uuid.UUID(fleet.new_id()))
            options = {"sip_media_application_id": application_id}
            customer = customers.customer(
                "chime", options, tenant=tenant, call_id=call_id, arguments=arguments
            )
            leg = LegWish(
                media=settings.applications[application_id].media,
                from_=numbers[0],
                to=numbers[1],
                inbound=False,
                status=LegStatus.DIALED,
                sip_headers=headers or {},
            )
            try:
                host.create(
                    call_id,
                    tenant=tenant,
                    legs=[leg],
                    dialect=customer.session,
                    application=customer.application,
                )
            except UsageError as error:
                raise Refused(503, "ServiceUnavailableException", str(error)) from None
            return json_response({"SipMediaApplicationCall": {"TransactionId": call_id}}, 201)

        return await once(request, work)

    return api


def _named(answer: Response) -> Response:
    """An answer as AWS gives it: with the id of its request."""
    answer.headers.setdefault("x-amzn-RequestId", str(uuid.uuid4()))
    return answer


def _not_found() -> Refused:
    return Refused(404, "NotFoundException", "There is no such call.")


def _read(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise Refused(400, "SerializationException", "The body is not JSON.") from None
    if not isinstance(document, dict):
        raise Refused(400, "SerializationException", "The body is not a JSON object.")
    return document


def _number(body: Mapping[str, Any], name: str) -> str:
    number = body.get(name)
    if not isinstance(number, str) or not NUMBER.fullmatch(number):
        raise Refused(400, "BadRequestException", f"{name} is a phone number in E.164.")
    return number


def _pairs(body: Mapping[str, Any], name: str) -> Mapping[str, str] | None:
    pairs = body.get(name)
    if pairs is None:
        return None
    if (
        not isinstance(pairs, dict)
        or len(pairs) > MAX_PAIRS
        or not all(isinstance(value, str) for value in pairs.values())
    ):
        raise Refused(400, "BadRequestException", f"{name} has 0 to {MAX_PAIRS} texts by name.")
    return pairs
