"""Sinch's voice API: Manage Call, conferences, Drive.

Source: the voice API's reference, version 1 (2021 to 2026). Who asks is known by `Application` or `Basic`
authentication (`callreel.dialects.sinch_signing`). What is signed and changes something is done once: the same again
gets the answer of the first time.
"""

import asyncio
import contextlib
import heapq
import inspect
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from callreel.delivery.drive import Download, Drive, DriveError
from callreel.dialects.sinch import Sinch
from callreel.dialects.sinch_signing import WINDOW_S, AuthenticationError, authenticate
from callreel.encryption import Keys
from callreel.errors import UsageError
from callreel.notify.references import secret_of
from callreel.service.access import Access
from callreel.service.answers import Answers, StillAtWorkError
from callreel.service.audio import AUDIO, Pieces
from callreel.service.colleagues import Colleagues
from callreel.service.customers import Customers
from callreel.service.held import Clear
from callreel.service.host import Host, LiveCall
from callreel.service.refusals import Refused, json_response, session_response
from callreel.service.vendor_shapes import SINCH, gives, takes
from callreel.service.vendors import SinchApplication

__all__ = ["sinch_api"]

ILLEGAL, INVALID, NOT_FOUND = 40001, 40003, 40400
BAD_SIGNATURE: Final = 40102
PAGE_SIZE: Final = 100
PAGE_SIZE_MAX: Final = 1000
WHOLE = re.compile(r"\d{1,9}", re.ASCII)
FAR: Final = 1 << 62
"""Behind the end of every file."""
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)

LISTED: Final[dict[str, Any]] = {
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in (
            ("from", {"type": "string", "format": "date-time"}),
            ("to", {"type": "string", "format": "date-time"}),
            ("page", {"type": "integer", "minimum": 1, "maximum": 999_999_999}),
            ("pageSize", {"type": "integer", "minimum": 1, "maximum": 999_999_999}),
        )
    ]
}
ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"description": "40001 illegal parameter, 40002 missing parameter, 40003 invalid request"},
    401: {"description": "40100 authorization, 40101 timestamp, 40102 signature, 40108 credentials"},
    404: {"description": "40400 not found"},
    503: {"description": "50300 temporarily down: ask again"},
}


class _Asker(NamedTuple):
    """Who asks, and how that is known."""

    tenant: str
    signature: str | None
    """None where it is not a signature that says so."""


class _Secrets(Mapping[str, str]):
    """The applications' secrets, each read when it is asked for."""

    def __init__(self, applications: Mapping[str, SinchApplication]) -> None:
        self._applications = applications

    def __getitem__(self, key: str) -> str:
        return secret_of(self._applications[key].secret)

    def __contains__(self, key: object) -> bool:
        return key in self._applications

    def __iter__(self) -> Iterator[str]:
        return iter(self._applications)

    def __len__(self) -> int:
        return len(self._applications)


def sinch_api(
    host: Host,
    customers: Customers,
    access: Access,
    drives: Callable[[str], Drive],
    keys: Keys | None,
    answers: Answers,
    clock: Callable[[], float],
    colleagues: Colleagues,
) -> APIRouter:
    """The routes below /calling/v1; `drives` gives the drive of a tenant, whose files are encrypted with `keys`."""
    api = APIRouter(prefix="/calling/v1", tags=["sinch"], responses=ERRORS)
    applications = customers.settings.sinch.applications
    secrets = _Secrets(applications)

    def now() -> datetime:
        return datetime.fromtimestamp(clock(), UTC)

    async def asker(request: Request) -> _Asker:
        if access.is_open:
            return _Asker("local", None)
        body = await request.body()
        raw_path = request.scope["raw_path"].decode("latin-1")
        headers = dict(request.headers.items())  # of several of one name the last, here and below
        try:
            key = _authenticated(request.method, headers, raw_path, body)
        except AuthenticationError as error:
            challenge = {"WWW-Authenticate": 'Application realm="sinch", Basic realm="sinch"'}
            raise Refused(error.code // 100, error.code, str(error), challenge) from None
        scheme, _, value = headers["authorization"].strip().partition(" ")
        signature = value.strip() if scheme.lower() == "application" else None
        return _Asker(applications[key].tenant, signature)

    def _authenticated(method: str, headers: Mapping[str, str], raw_path: str, body: bytes) -> str:
        # Some of the vendor's libraries sign a path before they encode it.
        for path in dict.fromkeys((unquote(raw_path), raw_path)):
            try:
                return authenticate(headers, method, path, body=body, secrets=secrets, now=now())
            except AuthenticationError as error:
                refused = error
                if error.code != BAD_SIGNATURE:
                    break
        raise refused

    Asker = Depends(asker)  # noqa: N806  (a marker)

    async def once(who: _Asker, work: Callable[[], Response | Awaitable[Response]]) -> Response:
        """Do what changes something; what was done before is answered as it was then."""
        if who.signature is None:
            answer = work()
            return await answer if inspect.isawaitable(answer) else answer
        try:
            return await answers.once(
                f"sinch\0{who.signature}", work, until_s=clock() + 2 * WINDOW_S, now_s=clock()
            )
        except StillAtWorkError as error:
            raise Refused(503, 50300, str(error)) from None

    def wanted(call_id: str, tenant: str) -> tuple[LiveCall, Sinch]:
        call = host.call(call_id, tenant)
        if call is None or not isinstance(call.session, Sinch):
            raise Refused(404, NOT_FOUND, "Call not found")
        return call, call.session

    def asked(call: LiveCall, document: Mapping[str, Any]) -> Response:
        try:
            answer = call.recorded.request(document)
        except UsageError:  # it is over
            raise Refused(404, NOT_FOUND, "Call not found") from None
        if answer is not None and answer.body is not None and answer.status == 503:
            # Raised, so that it is not kept: the same request may find room when it comes again.
            raise Refused(503, answer.body["errorCode"], answer.body["message"])
        return session_response(answer)

    def those_in(conference_id: str, tenant: str) -> list[tuple[LiveCall, Mapping[str, Any]]]:
        """Who of this worker's calls is in a conference."""
        found = []
        for call in reversed(host.calls(tenant)):
            session = call.session
            if isinstance(session, Sinch) and session.stay is not None:
                stay = session.read_stay(call.recorded.view())
                if stay is not None and session.stay.conference_id == conference_id:
                    found.append((call, stay))
        return found

    def participants(tenant: str, conference_id: str) -> list[list[Any]]:
        """When each of their calls began, and their stay."""
        return [[call.started_at.isoformat(), stay] for call, stay in those_in(conference_id, tenant)]

    def kick_ours(tenant: str, conference_id: str) -> int:
        """Have all of this worker's leave; how many there were."""
        found = those_in(conference_id, tenant)
        for call, _ in found:
            with contextlib.suppress(UsageError):  # they have just left
                call.recorded.request({"conferenceId": conference_id, "kick": True})
        return len(found)

    colleagues.answer("participants", participants)
    colleagues.answer("kick", kick_ours)

    # -- calls -----------------------------------------------------------------------------------------------------

    @api.get("/calls/id/{call_id}", summary="A call", responses={200: gives(SINCH["call"], "the call")})
    async def read_call(call_id: str, who: _Asker = Asker) -> Response:
        call, session = wanted(call_id, who.tenant)
        return json_response(session.read_call(call.recorded.view()))

    @api.patch(
        "/calls/id/{call_id}",
        status_code=204,
        summary="Manage Call: SVAML",
        openapi_extra=takes(SINCH["svaml"]),
    )
    async def manage_call(request: Request, call_id: str, who: _Asker = Asker) -> Response:
        svaml = _read(await request.body())

        def work() -> Response:
            call, _ = wanted(call_id, who.tenant)
            return asked(call, {"callId": call_id, "svaml": svaml})

        return await once(who, work)

    @api.patch(
        "/calls/id/{call_id}/leg/{call_leg}",
        status_code=204,
        summary="Manage Call: say or play something on one leg",
        openapi_extra=takes(SINCH["svaml"]),
    )
    async def manage_leg(request: Request, call_id: str, call_leg: str, who: _Asker = Asker) -> Response:
        svaml = _read(await request.body())

        def work() -> Response:
            call, _ = wanted(call_id, who.tenant)
            return asked(call, {"callId": call_id, "callLeg": call_leg, "svaml": svaml})

        return await once(who, work)

    # -- conferences -----------------------------------------------------------------------------------------------

    @api.get(
        "/conferences/id/{conference_id}",
        summary="Who is in a conference",
        responses={200: gives(SINCH["conference"], "who is there")},
    )
    async def read_conference(conference_id: str, who: _Asker = Asker) -> Response:
        asked = await colleagues.all("participants", tenant=who.tenant, conference_id=conference_id)
        found = [stay for _, stay in heapq.merge(*asked, key=itemgetter(0))]
        if not found:
            raise Refused(404, NOT_FOUND, "Conference not found")
        return json_response({"participants": found})

    @api.delete("/conferences/id/{conference_id}", status_code=204, summary="Everybody leaves")
    async def kick_all(conference_id: str, who: _Asker = Asker) -> Response:
        async def work() -> Response:
            if not sum(await colleagues.all("kick", tenant=who.tenant, conference_id=conference_id)):
                raise Refused(404, NOT_FOUND, "Conference not found")
            return Response(status_code=204)

        return await once(who, work)

    @api.patch(
        "/conferences/id/{conference_id}/{call_id}",
        status_code=204,
        summary="Mute a participant, or put them on hold",
        openapi_extra=takes(SINCH["command"]),
    )
    async def manage_participant(
        request: Request, conference_id: str, call_id: str, who: _Asker = Asker
    ) -> Response:
        command = _read(await request.body())

        def work() -> Response:
            call, _ = wanted(call_id, who.tenant)
            return asked(call, {"conferenceId": conference_id, "command": command})

        return await once(who, work)

    @api.delete("/conferences/id/{conference_id}/{call_id}", status_code=204, summary="A participant leaves")
    async def kick(conference_id: str, call_id: str, who: _Asker = Asker) -> Response:
        def work() -> Response:
            call, _ = wanted(call_id, who.tenant)
            return asked(call, {"conferenceId": conference_id, "kick": True})

        return await once(who, work)

    # -- Drive -----------------------------------------------------------------------------------------------------

    @api.get(
        "/recording",
        summary="Drive: recordings by the time of their creation",
        responses={200: gives(SINCH["recordings"], "a page of them, oldest first")},
        openapi_extra=LISTED,
    )
    def list_recordings(request: Request, who: _Asker = Asker) -> Response:
        query = request.query_params
        with _drive_words():
            found = drives(who.tenant).list(
                from_=_moment(query.get("from"), "from"),
                to=_moment(query.get("to"), "to"),
                page=_whole(query.get("page"), 1, "'pageNumber' must be greater than 0"),
                page_size=min(
                    PAGE_SIZE_MAX,
                    _whole(query.get("pageSize"), PAGE_SIZE, "'pageSize' must be a positive integer"),
                ),
            )
        return json_response([one.as_document() for one in found])

    @api.get(
        "/recording/{key:path}",
        summary="Drive: a recording's file, whole or a range",
        responses={status: AUDIO[status] for status in (200, 206)},
        response_class=Response,
    )
    def read_recording(request: Request, key: str, who: _Asker = Asker) -> Response:
        wanted = _range(request.headers.get("range"))
        with _drive_words():
            part = _part(drives(who.tenant), key, wanted, keys)
        headers = {"Content-Length": str(part.last + 1 - part.first), "Accept-Ranges": "bytes"}
        if wanted is not None:
            headers["Content-Range"] = f"bytes {part.first}-{part.last}/{part.size_bytes}"
        return Pieces(
            part.pieces, 200 if wanted is None else 206, headers=headers, media_type=part.media_type
        )

    @api.delete("/recording/{key:path}", status_code=204, summary="Drive: delete a recording")
    async def delete_recording(key: str, who: _Asker = Asker) -> Response:
        async def work() -> Response:
            with _drive_words():
                await asyncio.to_thread(drives(who.tenant).delete, key)
            return Response(status_code=204)

        return await once(who, work)

    return api


class _drive_words:  # noqa: N801  (a context, as a function would be)
    """What Drive refuses, refused in its words."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, DriveError):
            raise Refused(error.code // 100, error.code, str(error)) from None


class _Part(NamedTuple):
    """A recording, or some of it."""

    pieces: Iterator[bytes]
    first: int
    last: int
    size_bytes: int
    """Of the whole."""
    media_type: str


def _part(drive: Drive, key: str, wanted: tuple[int, int | None] | None, keys: Keys | None) -> _Part:
    """What is wanted of a recording; a DriveError when it is not to be had."""
    first, last = wanted or (0, None)
    if keys is None:
        download = drive.get(key, first=first, last=last)
        size_bytes, end = download.recording.size_bytes, download.first + download.length - 1
        return _Part(_pieces(download), download.first, end, size_bytes, download.recording.media_type)
    download = drive.get(key)
    clear = Clear(download.detach(), keys)
    try:
        first, end = _within(wanted, clear.size_bytes)
    except DriveError:
        clear.close()
        raise
    return _Part(clear.pieces(first, end), first, end, clear.size_bytes, download.recording.media_type)


def _pieces(download: Download) -> Iterator[bytes]:
    with download:
        yield from download.pieces()


def _read(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, INVALID, "Invalid request: the body is not JSON") from None


def _moment(text: str | None, name: str) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Refused(400, ILLEGAL, f"'{name}' must be a date and time") from None


def _whole(text: str | None, default: int, words: str) -> int:
    if text is None:
        return default
    if not WHOLE.fullmatch(text) or int(text) == 0:
        raise Refused(400, ILLEGAL, words)
    return int(text)


def _range(text: str | None) -> tuple[int, int | None] | None:
    """First and last byte of what is asked for, as Drive takes them; None for the whole."""
    found = None if text is None else RANGE.fullmatch(text.strip())
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        return -int(found[2]) or FAR, None
    if found[2] and int(found[1]) > int(found[2]):
        return None
    return int(found[1]), int(found[2]) if found[2] else None


def _within(wanted: tuple[int, int | None] | None, size_bytes: int) -> tuple[int, int]:
    """First and last byte, of a file of that size."""
    first, last = wanted or (0, None)
    first = max(0, size_bytes + first) if first < 0 else first
    last = size_bytes - 1 if last is None else min(last, size_bytes - 1)
    if first > last and wanted is not None:
        raise DriveError(ILLEGAL, "the range is not within the recording", field="range")
    return first, last
