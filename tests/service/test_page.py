"""The operator's page as a browser without scripts gets it: who may see what, what forms do, what strangers say."""

import re
from html.parser import HTMLParser

import pytest

from busy_service import HOSTILE, busy, dead_letter, message_of, shelved
from callreel.delivery.folder import Folder
from callreel.delivery.queue_files import AGAIN, DEAD, QUEUE_FOLDER, WAITING
from callreel.errors import DeliveryConflictError
from callreel.recorder import Settings
from callreel.service.host import LegWish
from callreel.service.page import _sum
from callreel.service.running import Service
from callreel.service.settings import ServiceSettings
from recording_host import packet
from service_host import TOKENS, listening, settings_in, until

VOID = {"meta", "link", "img", "input", "br", "hr"}


class Document(HTMLParser):
    """What a page consists of."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self._open = [], [], []
        self.feed(text)
        self.close()
        assert self._open == [], "elements that nobody closes"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]

    def field(self, name):
        return next(one["value"] for one in self.all("input") if one.get("name") == name)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    with listening(Service(settings_in(folder))) as one:
        shelved(one.service, folder / "out", 30)
        shelved(one.service, folder / "out", 3, tenant="other")
        one.service.host.create("mine-1", tenant="acme", legs=[LegWish(media="none", from_="+151")])
        one.service.host.create("theirs-1", tenant="other", legs=[LegWish(media="none")])
        yield one


@pytest.mark.parametrize("path", ["/", "/page", "/page/"])
def test_the_page_is_found_by_whichever_address_is_typed(running, path):
    answer = running.client(None, follow_redirects=True).get(path)
    assert (answer.status_code, answer.url.path) == (200, "/page/login")


def logged_in(running, tenant="acme"):
    """A browser that has logged in."""
    browser = running.client(None, follow_redirects=True)
    page = Document(browser.get("/page/login").text)
    form = {"form_token": page.field("form_token"), "token": TOKENS[tenant], "next": ""}
    answer = browser.post("/page/login", data=form)
    assert answer.status_code == 200
    assert answer.url.path == "/page/"
    return browser


@pytest.fixture
def browser(running):
    return logged_in(running)


def read(browser, path, status=200):
    answer = browser.get(path)
    assert answer.status_code == status, answer.text
    return Document(answer.text)


PAGES = [
    "/page/",
    "/page/levels.json",
    "/page/call?id=mine-1",
    "/page/call/levels.json?id=mine-1",
    "/page/recordings",
    "/page/recordings/acme0000",
    "/page/recordings/acme0000/audio",
    "/page/recordings/acme0000/waveform.svg",
    "/page/deliveries",
    "/page/deliveries/drop?id=x",
]

# ---- who may ----


@pytest.mark.parametrize("path", PAGES)
def test_nobody_sees_anything_before_a_login(running, path):
    answer = running.client(None).get(path)
    if ".json" in path:
        assert answer.status_code == 401
    else:
        assert (answer.status_code, answer.content) == (303, b"")
        assert answer.headers["location"].startswith("/page/login")


def test_every_page_is_in_the_list_of_those_that_ask_who_it_is(running):
    routes = {re.sub(r"\{\w+\}", "*", path) for path in _paths(running)}
    listed = {re.sub(r"acme0000", "*", path.removeprefix("/page").split("?")[0]) for path in PAGES}
    posts = {"/logout", "/deliveries/retry", "/deliveries/retry-all"}
    assert routes == listed | posts | {"/login"}


def _paths(running):
    mounted = next(
        one for one in running.service.app._app._app.routes if getattr(one, "path", "") == "/page"
    ).app
    return {route.path for route in mounted.routes if hasattr(route, "endpoint")}


def test_a_login_leads_to_where_somebody_wanted_to_go(running):
    browser = running.client(None)
    to = browser.get("/page/recordings?text=a%26b").headers["location"]
    page = Document(browser.get(to).text)
    assert page.field("next") == "/recordings?text=a%26b"
    form = {"form_token": page.field("form_token"), "token": TOKENS["acme"], "next": page.field("next")}
    assert browser.post("/page/login", data=form).headers["location"] == "/page/recordings?text=a%26b"


@pytest.mark.parametrize(
    "target", ["//evil.example", "https://evil.example/", "/\\evil.example", "evil", "/login", "/a\r\nX: y"]
)
def test_a_login_leads_nowhere_else(running, target):
    browser = running.client(None)
    page = Document(browser.get("/page/login", params={"next": target}).text)
    form = {"form_token": page.field("form_token"), "token": TOKENS["acme"], "next": target}
    assert browser.post("/page/login", data=form).headers["location"] == "/page/"


def test_a_wrong_token_is_told_and_is_in_no_answer(running):
    browser = running.client(None)
    page = Document(browser.get("/page/login").text)
    form = {"form_token": page.field("form_token"), "token": "wrong-token-00000000000"}
    answer = browser.post("/page/login", data=form)
    assert answer.status_code == 403
    assert "Nobody has this token." in Document(answer.text).text
    assert "wrong-token" not in answer.text
    assert "callreel_session" not in answer.headers.get("set-cookie", "")


def test_the_cookie_is_for_this_site_and_not_for_scripts(running):
    browser = running.client(None)
    page = Document(browser.get("/page/login").text)
    form = {"form_token": page.field("form_token"), "token": TOKENS["acme"]}
    (cookie,) = browser.post("/page/login", data=form).headers.get_list("set-cookie")
    assert cookie.startswith("callreel_session=acme.")
    assert {"httponly", "samesite=strict", "path=/"} <= {one.strip().lower() for one in cookie.split(";")}
    assert TOKENS["acme"] not in cookie


def test_the_cookie_reads_the_api_and_changes_nothing_there(running, browser):
    assert browser.get("/v1/calls").status_code == 200
    assert browser.get("/v1/recordings/acme0000/audio").status_code == 200
    assert browser.post("/v1/calls", json={"legs": [{"media": "none"}]}).status_code == 401
    assert browser.delete("/v1/calls/mine-1").status_code == 401


@pytest.mark.parametrize(
    "spoil", [lambda text: text[:-1] + "0", lambda text: "other" + text[4:], lambda _: "."]
)
def test_a_cookie_that_is_not_ours_opens_nothing(running, browser, spoil):
    cookie = browser.cookies["callreel_session"]
    spoilt = spoil(cookie) if spoil(cookie) != cookie else cookie[:-1] + "1"
    answer = running.client(None).get("/page/", headers={"Cookie": f"callreel_session={spoilt}"})
    assert answer.status_code == 303


def test_who_logs_out_is_out(running, browser):
    token = read(browser, "/page/").field("form_token")
    answer = browser.post("/page/logout", data={"form_token": token})
    assert "You are logged out." in Document(answer.text).text
    assert browser.get("/page/", follow_redirects=False).status_code == 303


def test_a_tenant_sees_what_is_theirs(running, browser):
    live = read(browser, "/page/")
    assert "mine-1" in live.text
    assert "theirs-1" not in live.text
    assert "other-call" not in read(browser, "/page/recordings?text=call").text
    for path in ("/page/call?id=theirs-1", "/page/recordings/other0000", "/page/recordings/other0000/audio"):
        read(browser, path, 404)
    assert list(browser.get("/page/levels.json").json()["calls"]) == ["mine-1"]
    assert browser.get("/page/call/levels.json?id=theirs-1").json() == {"calls": {}}


def test_an_operator_sees_everybodys(tmp_path):
    with listening(Service(settings_in(tmp_path, operators=frozenset({"acme"})))) as running:
        running.service.host.create("theirs-1", tenant="other", legs=[LegWish(media="none")])
        assert "theirs-1" in read(logged_in(running), "/page/").text
        assert "theirs-1" in read(logged_in(running, "other"), "/page/").text
        running.service.host.create("mine-1", tenant="acme", legs=[LegWish(media="none")])
        assert "mine-1" not in read(logged_in(running, "other"), "/page/").text


def test_an_open_service_shows_its_page_to_this_machine_alone(tmp_path):
    settings = ServiceSettings(
        Settings(tmp_path / "spool", destination=str(tmp_path / "out")), port=0, is_open=True
    )
    with listening(Service(settings)) as running:
        browser = running.client(None)
        assert "No call goes on." in read(browser, "/page/").text
        elsewhere = {"Host": "evil.example"}
        assert browser.get("/page/", headers=elsewhere).status_code == 403
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert browser.get("/page/", headers=link).status_code == 200
        refused = browser.post("/page/deliveries/retry-all", headers={"Sec-Fetch-Site": "cross-site"})
        assert refused.status_code == 403
        token = re.search(r'name="form_token" value="(\w+)"', browser.get("/page/login").text)
        assert token is None


# ---- forms ----

FORMS = [
    "/page/login",
    "/page/logout",
    "/page/deliveries/retry",
    "/page/deliveries/retry-all",
    "/page/deliveries/drop",
]


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize("token", [None, "", "x" * 64, "é"])
def test_a_form_that_is_not_ours_does_nothing(running, browser, path, token):
    form = {"token": TOKENS["acme"]} | ({} if token is None else {"form_token": token})
    assert browser.post(path, data=form).status_code in (400, 403)
    assert browser.get("/page/", follow_redirects=False).status_code == 200


@pytest.mark.parametrize("path", FORMS)
def test_the_form_of_another_browser_does_nothing(running, browser, path):
    other = logged_in(running, "other")
    theirs = read(other, "/page/").field("form_token")
    anonymous = read(running.client(None), "/page/login").field("form_token")
    for token in (theirs, anonymous):
        assert browser.post(path, data={"form_token": token, "id": "x"}).status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_form_that_another_site_sends_does_nothing(browser, site):
    token = read(browser, "/page/").field("form_token")
    headers = {"Sec-Fetch-Site": site}
    answer = browser.post("/page/deliveries/retry-all", data={"form_token": token}, headers=headers)
    assert answer.status_code == 403


def test_every_form_that_changes_something_carries_its_token(running, browser):
    spool = running.service.settings.recorder.spool
    path = dead_letter(spool, "deliver:acme0004", number=800)
    try:
        for page in (
            "/page/",
            "/page/deliveries",
            "/page/recordings/acme0004",
            "/page/deliveries/drop?id=deliver:acme0004",
        ):
            text = browser.get(page).text
            forms = re.findall(r'<form[^>]*method="post".*?</form>', text, re.DOTALL)
            assert forms
            assert all('name="form_token"' in form for form in forms)
    finally:
        path.unlink()


# ---- recordings ----


def test_recordings_are_found_filtered_and_paged(browser):
    first = read(browser, "/page/recordings")
    assert "1 to 25 of 30 recordings" in first.text
    older = next(one["href"] for one in first.all("a") if one.get("rel") == "next")
    assert "26 to 30 of 30 recordings" in read(browser, older).text
    found = read(browser, "/page/recordings?text=acme-call-7")
    assert "1 to 1 of 1 recording" in found.text
    assert found.field("text") == "acme-call-7"
    assert "1 to 3 of 3 recordings" in read(browser, "/page/recordings?state=failed").text
    days = read(browser, "/page/recordings?since=2026-11-19&until=2026-11-19")
    assert "1 to 5 of 5 recordings" in days.text
    assert "No recording is like that." in read(browser, "/page/recordings?text=%25").text


def test_a_filter_goes_with_the_pages(browser):
    page = read(browser, "/page/recordings?state=delivered&text=acme")
    older = next(one["href"] for one in page.all("a") if one.get("rel") == "next")
    assert {"page=2", "text=acme", "state=delivered"} == set(older.partition("?")[2].split("&"))


def test_what_is_no_day_is_told_beside_its_field(browser):
    page = read(browser, "/page/recordings?since=yesterday", 422)
    assert "This is no day" in page.text
    (field,) = [one for one in page.all("input") if one.get("name") == "since"]
    assert field["aria-describedby"] in {one.get("id") for _, one in page.tags}


@pytest.mark.parametrize("query", ["state=odd", "page=0", "page=x", "text=" + "x" * 300])
def test_an_address_that_is_not_as_it_should_be_is_told_in_a_page(browser, query):
    assert "The address is not as it should be." in read(browser, f"/page/recordings?{query}", 422).text


def test_a_recording_that_was_not_delivered_says_why_and_how_to_try_again(running, browser):
    path = dead_letter(running.service.settings.recorder.spool, "deliver:acme0004", number=801)
    try:
        page = read(browser, "/page/recordings/acme0004")
        assert "the bucket refuses this access key" in page.text
        assert page.all("audio") == []
        assert "/page/deliveries/retry" in [one.get("action") for one in page.all("form")]
    finally:
        path.unlink()
    assert "/page/deliveries/retry" not in [
        one.get("action") for one in read(browser, "/page/recordings/acme0004").all("form")
    ]


def test_a_recording_whose_file_is_gone_has_a_picture_that_says_so(running, browser):
    (running.service.settings.folders[-1] / "acme0001.wav").unlink()
    answer = browser.get("/page/recordings/acme0001/waveform.svg")
    assert answer.headers["content-type"] == "image/svg+xml"
    assert "No waveform: it is not there any more: file:" in answer.text
    assert browser.get("/page/recordings/acme0001").status_code == 200
    read(browser, "/page/recordings/acme0001/audio", 404)


# ---- dead letters ----


@pytest.fixture
def letters(running):
    spool = running.service.settings.recorder.spool
    running.service.watch.close()  # nothing but the files is looked at here
    paths = [
        dead_letter(spool, "deliver:acme0004", number=901),
        dead_letter(spool, "end:gone", number=902, group="c-2", **message_of("acme")),
        dead_letter(spool, "end:theirs", number=903, group="c-3", **message_of("other")),
        dead_letter(spool, "say:whose", number=904, group="nobody-knows"),
    ]
    yield paths
    for folder in (DEAD, AGAIN, WAITING):
        for path in paths:
            (spool / QUEUE_FOLDER / folder / path.name).unlink(missing_ok=True)


def submit(browser, page, action, **fields):
    form = {"form_token": read(browser, page).field("form_token")} | fields
    return Document(browser.post(action, data=form).text)


def test_a_tenants_dead_letters_are_listed_and_no_others(running, browser, letters):
    text = read(browser, "/page/deliveries").text
    assert "Delivery of a recording: c-9" in text
    assert "Terminal event: c-2" in text
    assert "c-3" not in text
    assert "nobody-knows" not in text


def test_a_dead_letter_is_tried_again(running, browser, letters):
    page = submit(browser, "/page/deliveries", "/page/deliveries/retry", id="deliver:acme0004")
    assert "It is tried again within a few seconds." in page.text
    assert not letters[0].exists()
    again = submit(browser, "/page/deliveries", "/page/deliveries/retry", id="deliver:acme0004")
    assert "There is no such dead letter any more." in again.text


def test_all_that_are_mine_are_tried_again_together(running, browser, letters):
    submit(browser, "/page/deliveries", "/page/deliveries/retry-all")
    assert [path.exists() for path in letters] == [False, False, True, True]


def test_a_dead_letter_is_dropped_after_a_question(running, browser, letters):
    question = read(browser, "/page/deliveries/drop?id=deliver:acme0004")
    assert "Drop this dead letter?" in question.text
    assert letters[0].exists()
    fields = {"id": question.field("id")}
    page = submit(browser, "/page/deliveries/drop?id=deliver:acme0004", "/page/deliveries/drop", **fields)
    assert "The dead letter is gone." in page.text
    assert not letters[0].exists()


@pytest.mark.parametrize("letter_id", ["end:theirs", "say:whose", "../../library.sqlite", "", "x" * 500])
@pytest.mark.parametrize("action", ["retry", "drop"])
def test_what_is_not_mine_is_neither_tried_again_nor_dropped(running, browser, letters, letter_id, action):
    page = submit(browser, "/page/deliveries", f"/page/deliveries/{action}", id=letter_id)
    assert "There is no such dead letter any more." in page.text
    assert all(path.exists() for path in letters)


def test_what_waits_is_listed_with_its_next_try(running, browser):
    spool = running.service.settings.recorder.spool
    path = dead_letter(spool, "end:waits", number=905, group="c-77", state=WAITING, **message_of("acme"))
    try:
        text = read(browser, "/page/deliveries").text
        assert "c-77 Terminal event s3://acme-bucket 25 h 9 now denied" in text
    finally:
        path.unlink()


def test_a_recording_that_could_not_be_delivered_is_delivered_when_somebody_wants_it_again(
    tmp_path, monkeypatch
):
    deliver = Folder.deliver

    def refuse(self, parcel):
        raise DeliveryConflictError("something else is there", key=parcel.key)

    monkeypatch.setattr(Folder, "deliver", refuse)
    with listening(Service(settings_in(tmp_path))) as running:
        client, library = running.client(), running.service.library
        client.post("/v1/calls", json={"call_id": "c-1", "legs": [{"media": "none"}], "record": {}})
        running.service.recorder.call("c-1").receive_rtp("LEG-A", packet(0))
        client.delete("/v1/calls/c-1")
        (entry,) = until(lambda: library.find("acme", state="failed").entries)
        browser = logged_in(running)
        assert "1 dead letter" in read(browser, "/page/").text
        page = read(browser, f"/page/recordings/{entry.take_id}")
        assert "something else is there" in page.text
        monkeypatch.setattr(Folder, "deliver", deliver)
        submit(browser, f"/page/recordings/{entry.take_id}", "/page/deliveries/retry", id=page.field("id"))
        until(lambda: library.get(entry.take_id).error is None)
        assert read(browser, f"/page/recordings/{entry.take_id}").all("audio")
        assert "0 dead letters" in read(browser, "/page/").text


# ---- what there is to see, without scripts ----


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A service with something of everything, a browser of its tenant, and the recording that has all."""
    with busy(tmp_path_factory.mktemp("busy")) as (running, entry):
        yield running, logged_in(running), entry


def test_live_calls_are_counted_and_so_is_what_becomes_of_recordings(site):
    _, browser, _ = site
    text = read(browser, "/page/").text
    assert "2 live calls 1 recording now 0 to be delivered 1 dead letter quiet-2" in text
    text = read(browser, "/page/deliveries").text
    assert "1 recording now 0 being made 0 to be delivered 0 given up, kept" in text


def test_counts_of_several_workers_are_added_up():
    assert _sum([{"running": 2, "kept": 1}, {}, {"running": 3, "told": 4}]) == {
        "running": 5,
        "finished": 0,
        "deliverable": 0,
        "kept": 1,
        "told": 4,
    }


def test_a_call_says_what_becomes_of_its_recordings_in_the_list_and_on_its_page(site):
    _, browser, _ = site
    assert "live-1 recording for" in read(browser, "/page/").text
    assert "Recordings live-1/LEG-A recording" in read(browser, "/page/call?id=live-1").text
    text = read(browser, "/page/call?id=support-7f3").text
    assert "Recordings support-7f3/LEG-A delivered 2" in text  # and that day
    assert text.endswith("delivered degraded")


def test_a_level_is_told_in_words_and_as_a_meter(site):
    _, browser, _ = site

    def spoken():
        found = read(browser, "/page/")
        meters = {
            (one["data-call"], one["data-leg"], one["data-way"]): float(one["value"])
            for one in found.all("meter")
        }
        said = re.findall(r"(incoming|outgoing) (silent|−\d+ dBm0|\d+ dBm0)", found.text)
        return (meters, said) if meters["live-1", "LEG-A", "incoming"] > -50 else None

    meters, said = until(spoken)  # between two words nothing may be heard
    assert meters["quiet-2", "LEG-A", "incoming"] == meters["quiet-2", "LEG-A", "outgoing"] == -60
    assert [way for way, _ in said] == ["incoming", "outgoing"] * 3
    assert [words for _, words in said[:2]] == ["silent"] * 2
    assert f"{meters['live-1', 'LEG-A', 'incoming']:.0f} dBm0".replace("-", "−") == said[2][1]


STATES = {"delivered": 54, "failed": 7, "degraded": 10}
"""Of 60 that were shelved, and one with everything."""


def test_a_recording_says_whether_it_was_delivered_and_lacks_audio(site):
    _, browser, entry = site
    text = read(browser, "/page/recordings").text
    called, ended = r"(support-7f3|acme-call-\d+)", r"(?:Hangup|Max duration|Terminator)"
    states = r"((?:not delivered|delivered|called off)(?: degraded)?)"
    rows = dict(re.findall(rf"{called} \S+ \S+ \S+ {ended} {states}", text))
    assert len(rows) == 25
    assert rows["support-7f3"] == rows["acme-call-3"] == "delivered degraded"
    assert rows["acme-call-4"] == "not delivered"
    assert rows["acme-call-0"] == "delivered"
    assert "not delivered" in read(browser, "/page/recordings/acme0004").text
    assert "delivered degraded" in read(browser, f"/page/recordings/{entry.take_id}").text


@pytest.mark.parametrize(("state", "count"), STATES.items())
def test_a_filter_of_a_state_gives_all_of_that_state_and_no_others_on_the_page_and_over_the_api(
    site, state, count
):
    _, browser, _ = site
    found = browser.get("/v1/recordings", params={"state": state, "page_size": 100}).json()
    assert found["total"] == len(found["recordings"]) == count
    for one in found["recordings"]:
        is_so = {"delivered": one["location"], "failed": one["error"], "degraded": one["is_degraded"]}
        assert is_so[state]
    page = read(browser, f"/page/recordings?state={state}")
    assert f"1 to {min(count, 25)} of {count} recordings" in page.text


def test_that_no_recordings_are_begun_is_told_with_its_reason(site):
    running, browser, _ = site
    words = "No recordings are begun now. overloaded: too much"
    running.service.recorder.refuse("too much")
    try:
        assert words in read(browser, "/page/").text
    finally:
        running.service.recorder.refuse(None)
    assert "No recordings are begun now." not in read(browser, "/page/").text


# ---- what strangers say ----


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    with listening(Service(settings_in(folder))) as running:
        spool = running.service.settings.recorder.spool
        legs = [LegWish("LEG-A", media="none", from_=HOSTILE, to=HOSTILE)]
        running.service.host.create(HOSTILE, tenant="acme", legs=legs)
        shelved(
            running.service,
            folder / "out",
            1,
            call_id=HOSTILE,
            recording_id=HOSTILE,
            key=f"calls/{HOSTILE}",
            end_reason=HOSTILE,
            error=HOSTILE,
            manifest={
                "call_id": HOSTILE,
                "dialect": HOSTILE,
                "started_at": HOSTILE,
                "transaction_id": HOSTILE,
                "labels": {"tenant": "acme", HOSTILE: HOSTILE},
                "degraded": {HOSTILE: HOSTILE, "spool": {HOSTILE: HOSTILE}},
                "digits": [
                    {"symbol": HOSTILE, "at": 0.01, "duration": 0.1, "track": HOSTILE, "source": HOSTILE}
                ],
                "layout": HOSTILE,
                "format": HOSTILE,
                "sha256": HOSTILE,
            },
        )
        dead_letter(spool, f"say:{HOSTILE[:20]}", number=1, group=HOSTILE, lane=HOSTILE, **message_of("acme"))
        waiting = f"end:{HOSTILE[:20]}"
        dead_letter(
            spool, waiting, number=2, group=HOSTILE, lane=HOSTILE, state=WAITING, **message_of("acme")
        )
        yield logged_in(running)


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page/recordings",
        "/page/recordings/acme0000",
        "/page/deliveries",
        "/page/deliveries/drop?id=say:%3Cscript%3Edocument.ti",
        "/page/nowhere/%3Cscript%3E",
        "/page/recordings?text=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
        "/page/recordings?since=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
        "/page/?text=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
        "/page/deliveries?done=%3Cscript%3E",
    ],
)
def test_a_strangers_text_stays_text(hostile, path):
    answer = hostile.get(path)
    page = Document(answer.text)
    assert [one.get("src") for one in page.all("script")] == ["/page/static/page.js"]
    assert {one.get("src", "").split("/")[1] for one in page.all("img")} == {"page"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert not (attributes.get("href") or "").lower().startswith(("javascript:", "data:", "//"))
    if (
        "text=" not in path
        and "nowhere" not in path
        and "done" not in path
        and "drop" not in path
        and "since" not in path
    ):
        assert "<script>document.title" in page.text


def test_the_page_of_a_call_whose_id_is_hostile_is_found(hostile):
    page = Document(hostile.get("/page/").text)
    (link,) = [one["href"] for one in page.all("a") if "/page/call?" in one["href"]]
    call = hostile.get(link)
    assert call.status_code == 200
    assert f"Call {HOSTILE}" in Document(call.text).text
    assert [one.get("src") for one in Document(call.text).all("script")] == ["/page/static/page.js"]


# ---- what every answer says ----


@pytest.mark.parametrize(
    "path", [*PAGES, "/page/login", "/page/static/page.js", "/page/static/style.css", "/page/nowhere"]
)
def test_every_answer_forbids_what_is_not_from_here(browser, path):
    headers = browser.get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy or path.endswith(".svg")
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] != ""


@pytest.mark.parametrize(
    "path", ["/page/", "/page/recordings", "/page/recordings/acme0000", "/page/deliveries", "/page/login"]
)
def test_a_page_has_landmarks_a_title_one_heading_and_nothing_from_elsewhere(browser, path):
    answer = browser.get(path)
    page = Document(answer.text)
    assert answer.text.startswith("<!doctype html>")
    assert page.all("html") == [{"lang": "en"}]
    for landmark in ("main", "header", "title", "h1"):
        assert len(page.all(landmark)) == 1, landmark
    for _, attributes in page.tags:
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "/page/").startswith(("/page/", "#"))
    ids = [one["id"] for _, one in page.tags if "id" in one]
    assert len(ids) == len(set(ids))
    labelled = {one.get("for") for one in page.all("label")}
    fields = [
        one
        for one in (*page.all("input"), *page.all("select"))
        if one.get("type") != "hidden" and "hidden" not in one
    ]
    assert {one["id"] for one in fields} <= labelled


def test_what_goes_wrong_is_told_in_a_page_without_what_it_was(running, browser, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("the inside of it")

    monkeypatch.setattr(running.service.library, "find", fails)
    answer = browser.get("/page/recordings")
    assert answer.status_code == 500
    assert "That did not work." in Document(answer.text).text
    assert "inside" not in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_a_failed_login_is_logged_with_its_address_and_without_the_token(running, caplog):
    browser = running.client(None)
    page = Document(browser.get("/page/login").text)
    form = {"form_token": page.field("form_token"), "token": "wrong-token-00000000000"}
    browser.post("/page/login", data=form)
    assert "a login with a token that nobody has, from 127.0.0.1" in caplog.text
    assert "wrong-token" not in caplog.text


def test_the_address_of_the_service_leads_to_the_page(running):
    answer = running.client(None).get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/page/")


def test_of_many_calls_a_page_shows_some_and_the_rest_is_found(tmp_path):
    tokens = {"acme": TOKENS["acme"]}
    with listening(Service(settings_in(tmp_path, tokens=tokens))) as running:
        for number in range(130):
            running.service.host.create(f"call-{number:03}", tenant="acme", legs=[LegWish(media="none")])
        browser = logged_in(running)
        first = read(browser, "/page/")
        assert "130 live calls" in first.text
        assert len([one for one in first.all("li") if one.get("class") == "card"]) == 60
        assert "call-129" in first.text
        assert "call-000" in read(browser, "/page/?page=3").text
        assert "1 live call found" in read(browser, "/page/?text=call-042").text
        assert list(browser.get("/page/levels.json?text=call-042").json()["calls"]) == ["call-042"]
