"""The operator's page: live calls, recordings, deliveries. Rendered here, without a build step; scripts are an extra.

Whoever it is is asked by `Access`, as everywhere: with the cookie that a login with a token gives, or with the token
itself. Everything on it may come from a stranger's call, so every text goes through the templates' escaping, and the
Content-Security-Policy allows nothing but the files beside them.
"""

import heapq
import json
import logging
import math
import secrets
import time
from collections import ChainMap
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import date, timedelta
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined

from callreel.recorder.figures import LaneFigures, OnItsWay
from callreel.service import words
from callreel.service.access import COOKIE, SESSION_S, Access
from callreel.service.audio import AudioReader
from callreel.service.colleagues import Away, Colleagues
from callreel.service.host import Host, LiveCall
from callreel.service.letters import Letter, Letters
from callreel.service.library import Entry, Library
from callreel.service.outlines import Outlines
from callreel.service.strip import draw_message, draw_strip, height_of
from callreel.service.traces import NONE_OF_FASTAPI

__all__ = ["Viewer", "make_page"]

log = logging.getLogger("callreel.service")

FOLDER: Final = Path(__file__).parent
FORM_COOKIE: Final = "callreel_form"
"""Of a browser that has not logged in."""
CALLS_A_PAGE: Final = 60
PAGE_SIZE: Final = 25
LETTERS_MAX: Final = 200
SILENCE_DBM0: Final = -90.0

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; media-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
PICTURE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; sandbox"

DONE: Final[Mapping[str, str]] = {
    "retried": "It is tried again within a few seconds.",
    "all-retried": "All of them are tried again within a few seconds.",
    "dropped": "The dead letter is gone.",
    "gone": "There is no such dead letter any more.",
    "out": "You are logged out.",
}
"""What a page says after a form: never words of the address."""


Text = Annotated[str, Query(max_length=200)]
CallId = Annotated[str, Query(max_length=2000)]
Number = Annotated[int, Query(ge=1, le=1_000_000)]


class Viewer(NamedTuple):
    """Who looks."""

    tenant: str
    is_operator: bool

    @property
    def scope(self) -> str | None:
        """Whose things they see: None for everybody's."""
        return None if self.is_operator else self.tenant


class _LogInError(Exception):
    """Nobody knows who it is."""


def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("callreel.service"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {name: getattr(words, name) for name in words.__all__ if name != "title"}
    made.filters["words"] = words.title
    made.filters["tojson_readable"] = lambda value: json.dumps(
        value, indent=2, ensure_ascii=False, default=str
    )
    made.filters["part"] = lambda text: quote(str(text), safe="")
    return made


def make_page(
    host: Host,
    library: Library,
    audio: AudioReader,
    access: Access,
    spool: Path,
    colleagues: Colleagues,
    *,
    clock: Callable[[], float] = time.time,
) -> Any:
    """The application below /page."""
    page = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, telemetry=NONE_OF_FASTAPI)
    templates = _templates()
    outlines = Outlines(audio)

    def tenant_of_letter(take_id: str | None, call_id: str) -> str | None:
        if take_id is not None:
            labels = host.labels_of(take_id)
            if labels is not None:
                return labels.get("tenant")
            entry = library.get(take_id)
            return None if entry is None else entry.tenant
        call = host.call(call_id)
        return None if call is None else call.tenant

    letters = Letters(spool, tenant_of_letter, host.other_spools)

    # -- who, and with which form ------------------------------------------------------------------------------------

    async def viewer(request: Request) -> Viewer:
        tenant = access.tenant_of(
            request.headers.get("authorization"), request.cookies.get(COOKIE), now_s=clock()
        )
        if tenant is None:
            raise _LogInError
        return Viewer(tenant, access.is_operator(tenant))

    Who = Annotated[Viewer, Depends(viewer)]  # noqa: N806  (a type)

    async def form_of(request: Request) -> dict[str, str]:
        """The fields of one of our own forms; 403 for any other."""
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise HTTPException(403, "This form is of another page.")
        try:
            fields = dict(parse_qsl((await request.body()).decode("ascii"), max_num_fields=20))
        except ValueError:
            raise HTTPException(400, "This is no form.") from None
        # Bound to a cookie that nobody else's browser has; who logs in has another one than who has.
        cookie = request.cookies.get(FORM_COOKIE if request.url.path.endswith("/login") else COOKIE, "")
        if not access.is_form_token(fields.get("form_token", ""), cookie):
            raise HTTPException(403, "This form is too old, or of another page. Load the page again.")
        return fields

    Form = Annotated[dict[str, str], Depends(form_of)]  # noqa: N806

    def rendered(
        request: Request,
        name: str,
        who: Viewer | None,
        status: int = 200,
        cookie: str | None = None,
        **more: Any,
    ) -> HTMLResponse:
        text = templates.get_template(name).render(
            base=request.scope.get("root_path", ""),
            who=who,
            is_open=access.is_open,
            form_token=access.form_token(request.cookies.get(COOKIE, "") if cookie is None else cookie),
            done=DONE.get(request.query_params.get("done", ""), ""),
            **more,
        )
        return HTMLResponse(text, status)

    def to(request: Request, path: str) -> RedirectResponse:
        return RedirectResponse(request.scope.get("root_path", "") + path, 303)

    @page.middleware("http")
    async def guard(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call(request)
        if "/static/" in request.url.path:
            response.headers["Cache-Control"] = "no-cache"
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @page.exception_handler(_LogInError)
    async def ask(request: Request, _: _LogInError) -> Response:
        wanted = request.url.path.removeprefix(request.scope.get("root_path", ""))
        if request.method != "GET" or wanted.endswith(".json"):
            return JSONResponse({"error": "log in"}, 401)
        if request.url.query:
            wanted += f"?{request.url.query}"
        return to(request, "/login" + ("" if wanted == "/" else "?" + urlencode({"next": wanted})))

    @page.exception_handler(404)
    @page.exception_handler(HTTPException)
    async def told(request: Request, error: HTTPException) -> Response:
        detail: Any = error.detail
        words_of = detail[1] if isinstance(detail, tuple) else detail
        words_of = "There is nothing here." if words_of == "Not Found" else words_of
        tenant = access.tenant_of(None, request.cookies.get(COOKIE), now_s=clock())
        who = None if tenant is None else Viewer(tenant, access.is_operator(tenant))
        return rendered(
            request, "error.html", who, error.status_code, number=error.status_code, words=words_of
        )

    @page.exception_handler(Exception)
    async def failed(request: Request, _: Exception) -> Response:
        response = rendered(
            request, "error.html", None, 500, number=500, words="That did not work. The log says more."
        )
        response.headers.update(HEADERS)
        return response

    @page.exception_handler(RequestValidationError)
    async def invalid(request: Request, _: RequestValidationError) -> Response:
        return await told(request, HTTPException(422, "The address is not as it should be."))

    # -- logging in --------------------------------------------------------------------------------------------------

    def login_page(request: Request, to_path: str, status: int = 200, problem: str = "") -> Response:
        cookie = request.cookies.get(FORM_COOKIE) or secrets.token_urlsafe(18)
        response = rendered(request, "login.html", None, status, cookie=cookie, next=to_path, problem=problem)
        set_cookie(request, response, FORM_COOKIE, cookie)
        return response

    def set_cookie(
        request: Request, response: Response, name: str, value: str, seconds: int | None = None
    ) -> None:
        response.set_cookie(
            name,
            value,
            max_age=seconds,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )

    @page.get("/login")
    async def ask_token(request: Request, next: Annotated[str, Query(max_length=2000)] = "") -> Response:
        if access.is_open:
            return to(request, "/")
        return login_page(request, next)

    @page.post("/login")
    async def log_in(request: Request, form: Form) -> Response:
        tenant = access.tenant_of_token(form.get("token", "").strip())
        if tenant is None:
            log.warning(
                "a login with a token that nobody has, from %s", request.client and request.client.host
            )
            return login_page(request, form.get("next", ""), 403, "Nobody has this token.")
        response = to(request, _own_path(form.get("next", "")))
        set_cookie(request, response, COOKIE, access.cookie_for(tenant, now_s=clock()), SESSION_S)
        return response

    @page.post("/logout")
    async def log_out(request: Request, form: Form) -> Response:
        response = to(request, "/login?done=out")
        response.delete_cookie(COOKIE)
        return response

    # -- live calls --------------------------------------------------------------------------------------------------

    def of(ids: Sequence[str], scope: str | None) -> list[LiveCall]:
        """Those of this worker's calls."""
        return [call for id_ in ids if (call := host.call(id_, scope)) is not None]

    colleagues.answer(
        "live",
        lambda scope, text: [
            [call.started_at.isoformat(), call.call_id] for call in host.calls(scope) if text in call.call_id
        ],
    )
    colleagues.answer("shown", lambda scope, ids: [_of_call(call, clock()) for call in of(ids, scope)])
    colleagues.answer("levels", lambda scope, ids: {call.call_id: _levels(call) for call in of(ids, scope)})
    colleagues.answer(
        "at_a_glance",
        lambda scope: [_by_state(host.takes(), scope), len(letters.dead(scope, LETTERS_MAX))],
    )

    async def live_calls(who: Viewer, text: str, number: int) -> tuple[list[str], int]:
        """Ids of a page of the list, the latest first, and how many there are in all."""
        asked = colleagues.there(await colleagues.each("live", scope=who.scope, text=text))
        found = [id_ for _, id_ in heapq.merge(*asked, key=itemgetter(0), reverse=True)]
        return found[CALLS_A_PAGE * (number - 1) : CALLS_A_PAGE * number], len(found)

    @page.get("/")
    async def live(request: Request, who: Who, text: Text = "", page: Number = 1) -> Response:
        ids, total = await live_calls(who, text, page)
        shown = colleagues.there(await colleagues.each("shown", scope=who.scope, ids=ids))
        calls = {call["id"]: call for some in shown for call in some}
        glances = colleagues.there(await colleagues.each("at_a_glance", scope=who.scope))
        obstacles = await colleagues.each("obstacles")
        return await run_in_threadpool(
            rendered,
            request,
            "live.html",
            who,
            calls=[calls[id_] for id_ in ids if id_ in calls],
            total=total,
            text=text,
            page=page,
            pages=max(1, math.ceil(total / CALLS_A_PAGE)),
            query=urlencode({"text": text, "page": page}),
            obstacles=colleagues.by_worker(obstacles),
            is_any_free=[] in obstacles,
            on_their_way=_sum(states for states, _ in glances),
            dead=min(LETTERS_MAX, sum(dead for _, dead in glances)),
            dead_max=LETTERS_MAX,
        )

    @page.get("/levels.json")
    async def levels(who: Who, text: Text = "", page: Number = 1) -> Response:
        ids, _ = await live_calls(who, text, page)
        asked = colleagues.there(await colleagues.each("levels", scope=who.scope, ids=ids))
        found = dict(ChainMap(*asked))
        return JSONResponse({"calls": {id_: found[id_] for id_ in ids if id_ in found}})

    # By a query, for the id of a call may have a slash.
    @page.get("/call/levels.json")
    def levels_of_one(id: CallId, who: Who) -> Response:
        call = host.call(id, who.scope)
        return JSONResponse({"calls": {} if call is None else {id: _levels(call)}})

    @page.get("/call")
    def one_call(request: Request, id: CallId, who: Who) -> Response:
        call = host.call(id, who.scope)
        if call is None:
            raise HTTPException(404, "There is no such call any more.")
        ended = library.find(who.scope, text=id[:200], page_size=PAGE_SIZE)
        return rendered(
            request,
            "call.html",
            who,
            call=_of_call(call, clock()),
            media={leg: dict(one.statistics) for leg, one in call.media.items()},
            ended=[entry for entry in ended.entries if entry.call_id == id],
        )

    # -- recordings --------------------------------------------------------------------------------------------------

    @page.get("/recordings")
    def recordings(
        request: Request,
        who: Who,
        text: Text = "",
        state: Literal["", "delivered", "failed", "degraded"] = "",
        since: Annotated[str, Query(max_length=40)] = "",
        until: Annotated[str, Query(max_length=40)] = "",
        page: Number = 1,
    ) -> Response:
        first, last = _day(since), _day(until)
        problems = {
            name: "This is no day: 2026-11-29 is one."
            for name, given, day in (("since", since, first), ("until", until, last))
            if given and day is None
        }
        found = library.find(
            who.scope,
            text=text,
            state=state,
            after="" if first is None else first.isoformat(),
            before="" if last is None else (last + timedelta(days=1)).isoformat(),
            page=page,
            page_size=PAGE_SIZE,
        )
        wanted = {"text": text, "state": state, "since": since, "until": until}
        return rendered(
            request,
            "recordings.html",
            who,
            422 if problems else 200,
            entries=found.entries,
            total=found.total,
            page=page,
            pages=max(1, math.ceil(found.total / PAGE_SIZE)),
            first=PAGE_SIZE * (page - 1) + 1,
            wanted=wanted,
            problems=problems,
            query=urlencode({name: value for name, value in wanted.items() if value}),
        )

    def recording(take_id: str, who: Viewer) -> Entry:
        entry = library.get(take_id, who.scope)
        if entry is None:
            raise HTTPException(404, "There is no such recording.")
        return entry

    @page.get("/recordings/{take_id}")
    async def one_recording(request: Request, take_id: str, who: Who) -> Response:
        entry = await run_in_threadpool(recording, take_id, who)
        return await run_in_threadpool(
            rendered,
            request,
            "recording.html",
            who,
            entry=entry,
            letter=await dead_one(f"deliver:{take_id}", who),
            height=height_of(min(2, entry.manifest.get("channels", 1))),
            **_of_manifest(entry),
        )

    @page.get("/recordings/{take_id}/waveform.svg")
    def waveform(take_id: str, who: Who) -> Response:
        entry = recording(take_id, who)
        headers = {"Content-Security-Policy": PICTURE_POLICY}
        try:
            picture = draw_strip(outlines.of(entry), entry.manifest)
        except HTTPException as error:
            _, why = error.detail if isinstance(error.detail, tuple) else ("", str(error.detail))
            return Response(draw_message(f"No waveform: {why}"), media_type="image/svg+xml", headers=headers)
        headers["Cache-Control"] = "private, max-age=3600"
        return Response(picture, media_type="image/svg+xml", headers=headers)

    @page.get("/recordings/{take_id}/audio")
    def sound(request: Request, take_id: str, who: Who) -> Response:
        response = audio.response(
            recording(take_id, who), request.headers.get("range"), request.headers.get("if-range")
        )
        response.headers["Cache-Control"] = "private, max-age=3600"
        return response

    # -- deliveries --------------------------------------------------------------------------------------------------

    colleagues.answer("dead", lambda scope: letters.dead(scope, LETTERS_MAX))
    colleagues.answer("dead_one", lambda scope, letter_id: letters.dead_one(letter_id, scope))
    colleagues.answer("waiting", lambda scope: letters.waiting(scope, LETTERS_MAX))
    colleagues.answer("lanes", host.lanes)
    colleagues.answer("retry", lambda scope, letter_id: letters.retry(scope, letter_id))
    colleagues.answer("drop", lambda scope, letter_id: letters.drop(scope, letter_id))

    async def all_letters(which: Literal["dead", "waiting"], who: Viewer) -> list[Letter]:
        """Those of all workers, the oldest first."""
        asked = colleagues.there(await colleagues.each(which, scope=who.scope))
        found = heapq.merge(*([Letter(*one) for one in some] for some in asked), key=lambda one: one.put_s)
        return list(islice(found, LETTERS_MAX))

    async def dead_one(letter_id: str, who: Viewer) -> Letter | None:
        asked = colleagues.there(await colleagues.each("dead_one", scope=who.scope, letter_id=letter_id))
        return next((Letter(*one) for one in asked if one is not None), None)

    @page.get("/deliveries")
    async def deliveries(request: Request, who: Who) -> Response:
        asked = await colleagues.each("at_a_glance", scope=who.scope)
        dead = await all_letters("dead", who)
        lanes: dict[str, LaneFigures] = {}
        for some in colleagues.there(await colleagues.each("lanes")) if who.is_operator else ():
            for name, (entries, oldest_s) in some.items():
                before = lanes.get(name, LaneFigures(0, oldest_s))
                lanes[name] = LaneFigures(before.entries + entries, min(before.oldest_s, oldest_s))

        def known() -> set[str]:
            return {one.take_id for one in dead if one.take_id and library.get(one.take_id, who.scope)}

        return await run_in_threadpool(
            rendered,
            request,
            "deliveries.html",
            who,
            now_s=clock(),
            missing=colleagues.by_worker([one if isinstance(one, Away) else [] for one in asked]),
            on_their_way=_sum(states for states, _ in colleagues.there(asked)),
            lanes=sorted(lanes.items()),
            waiting=await all_letters("waiting", who),
            dead=dead,
            known=await run_in_threadpool(known),
            most=LETTERS_MAX,
        )

    @page.get("/deliveries/drop")
    async def ask_drop(request: Request, who: Who, id: Annotated[str, Query(max_length=600)]) -> Response:
        letter = await dead_one(id, who)
        if letter is None:
            return to(request, "/deliveries?done=gone")
        return await run_in_threadpool(rendered, request, "drop.html", who, letter=letter)

    async def done(what: Literal["drop", "retry"], who: Viewer, letter_id: str | None) -> int:
        """Have every worker do it with its letters; how many there were."""
        return sum(await colleagues.all(what, scope=who.scope, letter_id=letter_id))

    @page.post("/deliveries/drop")
    async def do_drop(request: Request, who: Who, form: Form) -> Response:
        count = await done("drop", who, form.get("id", ""))
        return to(request, f"/deliveries?done={'dropped' if count else 'gone'}")

    @page.post("/deliveries/retry")
    async def retry(request: Request, who: Who, form: Form) -> Response:
        count = await done("retry", who, form.get("id", ""))
        return to(request, f"/deliveries?done={'retried' if count else 'gone'}")

    @page.post("/deliveries/retry-all")
    async def retry_all(request: Request, who: Who, form: Form) -> Response:
        count = await done("retry", who, None)
        return to(request, f"/deliveries?done={'all-retried' if count else 'gone'}")

    page.mount("/static", StaticFiles(directory=FOLDER / "static"))
    return page


def _own_path(path: str) -> str:
    """Where a login leads: to one of these pages, whatever the address said."""
    is_ours = path.startswith("/") and not path.startswith(("//", "/\\", "/login", "/logout"))
    return path if is_ours and path.isascii() and path.isprintable() else "/"


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


# -- what the templates are given ------------------------------------------------------------------------------------


def _levels(call: LiveCall) -> dict[str, dict[str, float | None]]:
    """JSON has no infinity: silence is None."""
    return {
        leg: {way: round(level, 1) if level > SILENCE_DBM0 else None for way, level in both.items()}
        for leg, both in call.recorded.levels().items()
    }


def _of_call(call: LiveCall, now_s: float) -> dict[str, Any]:
    levels = call.recorded.levels()
    statuses = call.recorded.participants
    return {
        "id": call.call_id,
        "tenant": call.tenant,
        "dialect": call.dialect,
        "started_at": call.started_at.isoformat(timespec="seconds"),
        "is_over": call.recorded.is_over,
        "lasts_s": now_s - call.started_at.timestamp(),
        "recordings": dict(call.recordings),
        "packets": dict(call.recorded.packets()),
        "legs": [
            {
                "name": name,
                "from": wish.from_,
                "to": wish.to,
                "media": wish.media,
                "status": str(statuses.get(name, "disconnected")),
                "levels": levels.get(name, {}),
            }
            for name, wish in list(call.legs.items())
        ],
    }


def _by_state(takes: Iterable[OnItsWay], scope: str | None) -> dict[str, int]:
    """How many takes there are in each state."""
    found: dict[str, int] = {}
    for take in takes:
        if scope in (None, take.labels.get("tenant")):
            found[str(take.state)] = found.get(str(take.state), 0) + 1
    return found


def _sum(some: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found = {"running": 0, "finished": 0, "deliverable": 0, "kept": 0}
    for states in some:
        for state, count in states.items():
            found[state] = found.get(state, 0) + count
    return found


def _of_manifest(entry: Entry) -> dict[str, Any]:
    """The parts of a manifest that have a table of their own, and the rest."""
    manifest = entry.manifest
    gaps = [
        {**gap, "track": track["direction"]}
        for track in manifest.get("tracks", ())
        for gap in track.get("gaps", ())
    ]
    degraded = manifest.get("degraded")
    return {
        "manifest": manifest,
        "tracks": list(manifest.get("tracks", ())),
        "digits": list(manifest.get("digits", ())),
        "pauses": list(manifest.get("pauses", ())),
        "gaps": sorted(gaps, key=lambda gap: float(gap["from"])),
        "degraded": degraded if isinstance(degraded, Mapping) else {},
        "file_name": Path(entry.key).name or "recording",
    }
