"""The operator's page in a browser: by keyboard alone, with and without scripts, large and small, light and dark."""

import importlib.resources
import json
from xml.etree import ElementTree

import pytest

from browser import CHROMIUM, Browser
from busy_service import HOSTILE, busy
from callreel.delivery.queue_files import DEAD, QUEUE_FOLDER
from service_host import TOKENS, until

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")

AXE = importlib.resources.files("axe_core_python") / "axe.min.js"
"""Deque's rules of accessibility, which look at a page from within."""
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
FOCUSED = "document.activeElement"
LABEL = (
    "(document.activeElement.labels?.[0] ?? document.activeElement).innerText.replace(/\\s+/g, ' ').trim()"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with busy(tmp_path_factory.mktemp("service"), operators=frozenset({"acme"})) as found:
        yield found


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def tab(chromium):
    one = chromium.open()
    one.show_as()
    yield one
    assert one.log == []
    one.close()


@pytest.fixture
def inside(site, tab):
    """A tab that has logged in."""
    log_in(site[0], tab)
    return tab


def log_in(running, tab, path="/page/"):
    tab.go(running.url + path)
    tab.run("document.getElementById('token').focus()")
    tab.type(TOKENS["acme"])
    tab.loads(lambda: tab.press("Enter"))


def tab_to(tab, words, *, most=60):
    """Press Tab until something with these words has the focus; what was passed on the way."""
    passed = []
    for _ in range(most):
        tab.press("Tab")
        passed.append(tab.run(LABEL) or tab.run(f"{FOCUSED}.getAttribute('aria-label')") or "")
        is_seen = tab.run(f"getComputedStyle({FOCUSED}).outlineStyle !== 'none'")
        assert is_seen or tab.run(f"{FOCUSED}.tagName") == "AUDIO", " | ".join(
            passed
        )  # the browser marks its own controls
        if passed[-1].startswith(words):
            return passed
    raise AssertionError(f"{words} is not reached: {passed}")


def pages(entry):
    return [
        "/page/",
        "/page/call?id=live-1",
        "/page/recordings",
        f"/page/recordings/{entry.take_id}",
        "/page/recordings/acme0004",
        "/page/deliveries",
        "/page/deliveries/drop?id=deliver:acme0004",
        "/page/recordings?since=never",
        "/page/nowhere",
    ]


# ---- by keyboard alone ----


def test_somebody_without_a_mouse_logs_in_finds_a_recording_plays_it_and_logs_out(site, tab):
    running, entry = site
    tab.go(running.url + "/")
    assert tab.run(f"{FOCUSED}.id") == "token"  # where typing begins
    tab.type(TOKENS["acme"])
    tab.loads(lambda: tab.press("Enter"))
    assert tab.run("document.title") == "Live calls · callreel"
    tab.press("Tab")
    assert tab.run(LABEL) == "Skip to content"
    assert tab.run(f"{FOCUSED}.getBoundingClientRect().top") >= 0
    tab_to(tab, "Recordings")
    tab.loads(lambda: tab.press("Enter"))
    tab_to(tab, "Call, key or place")
    tab.type("support")
    tab.loads(lambda: tab.press("Enter"))
    assert tab.run("document.getElementById('count').innerText") == "1 to 1 of 1 recording"
    tab_to(tab, "support-7f3")
    tab.loads(lambda: tab.press("Enter"))
    tab_to(tab, "Position in the recording")
    tab.until("document.querySelector('audio').readyState >= 1")
    tab.press("End")
    assert tab.run("document.querySelector('audio').currentTime") == pytest.approx(entry.duration_s, abs=0.1)
    tab.press("Home")
    tab.press(" ")
    tab.until("document.querySelector('audio').currentTime > 0.3")
    tab.press(" ")
    assert tab.run("document.querySelector('audio').paused")
    tab_to(tab, "Play from")
    tab.press("Enter")
    at = entry.manifest["digits"][0]["at"]
    tab.until(f"document.querySelector('audio').currentTime >= {at - 0.01}")
    tab.press("Tab", shift=True)
    assert tab.run(LABEL) != ""
    tab.go(tab.run("location.href"))
    tab_to(tab, "Log out")
    tab.loads(lambda: tab.press("Enter"))
    assert tab.run("document.querySelector('[role=status]').innerText") == "You are logged out."
    tab.go(running.url + "/page/")
    assert tab.run("location.pathname") == "/page/login"


def test_somebody_without_a_mouse_skips_to_the_content(site, inside):
    inside.press("Tab")
    inside.press("Enter")
    assert inside.run(f"{FOCUSED}.id") == "main"
    inside.press("Tab")
    assert inside.run(LABEL) == "Refresh"


def test_nothing_traps_the_focus(site, inside):
    _, entry = site
    inside.go(site[0].url + f"/page/recordings/{entry.take_id}")
    seen = []
    for _ in range(60):
        inside.press("Tab")
        if inside.run(f"{FOCUSED} === document.body"):
            break
        seen.append(inside.run(LABEL))
    assert "The whole manifest" in seen
    assert len(seen) < 60


# ---- for everybody ----


def test_by_deques_rules_every_page_is_accessible_in_light_and_dark_large_and_small(site, inside):
    running, entry = site
    script = AXE.read_text("utf-8")
    found = []
    for path in [*pages(entry), "/page/login"]:
        inside.go(running.url + path)
        inside.run(script)
        for scheme, width in (("light", 1280), ("dark", 390)):
            inside.show_as(width=width, scheme=scheme)
            result = inside.run(
                f"axe.run(document, {{runOnly: {json.dumps(RULES)}}})"
                ".then((all) => all.violations.map((one) => [one.id, one.nodes.map((node) => node.html)]))"
            )
            found += [(path, scheme, *one) for one in result]
    inside.log.clear()  # 404 and 422, which were asked for
    assert found == []


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_no_page_is_wider_than_its_screen(site, inside, width):
    running, entry = site
    inside.show_as(width=width)
    for path in pages(entry):
        inside.go(running.url + path)
        assert inside.run("document.documentElement.scrollWidth") <= width, path
    inside.log.clear()


def test_what_is_pressed_is_large_enough_for_a_finger(site, inside):
    running, entry = site
    inside.show_as(width=390)
    for path in pages(entry):
        inside.go(running.url + path)
        small = inside.run(
            "[...document.querySelectorAll('button, .button, input:not([hidden], [type=hidden]), select, nav li a')]"
            ".map((one) => [one.innerText, one.getBoundingClientRect().height]).filter(([_, high]) => high < 44)"
        )
        assert small == [], path
    inside.log.clear()


# ---- with scripts ----


def test_levels_are_live(site, inside):
    meter = "meter[data-call='live-1'][data-leg='LEG-A'][data-way='incoming']"
    script = f'document.querySelector("{meter}").value'
    first = inside.run(script)
    assert -60 <= first <= 3
    inside.until(f"{script} !== {first}")
    quiet = "document.querySelector(\"meter[data-call='quiet-2']\")"
    assert inside.run(f"{quiet}.value") == -60
    assert inside.run(f"{quiet}.nextElementSibling.innerText") == "silent"


def test_a_call_that_begins_is_told_and_nothing_moves_before_somebody_wants_it(site, inside):
    running, _ = site
    from callreel.service.host import LegWish

    cards = "document.querySelectorAll('.calls > li').length"
    before = inside.run(cards)
    call = running.service.host.create("new-4", tenant="acme", legs=[LegWish(media="none")])
    assert inside.until("document.getElementById('changed').innerText") == "Calls: 1 begun. Show"
    assert inside.run(cards) == before
    inside.loads(lambda: inside.run("document.querySelector('#changed a').click()"))
    assert inside.run(cards) == before + 1
    running.service.host.end(call)
    assert inside.until("document.getElementById('changed').innerText") == "Calls: 1 ended. Show"


def test_the_cursor_goes_where_the_waveform_is_pressed(site, inside):
    running, entry = site
    inside.go(running.url + f"/page/recordings/{entry.take_id}")
    inside.until("document.querySelector('audio').readyState >= 1")
    box = inside.run("document.querySelector('.strip').getBoundingClientRect().toJSON()")
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + 50, "button": "left", "clickCount": 1}
    inside.say("Input.dispatchMouseEvent", type="mousePressed", buttons=1, **place)
    inside.say("Input.dispatchMouseEvent", type="mouseReleased", **place)
    at = inside.until("document.querySelector('audio').currentTime")
    assert at == pytest.approx(entry.duration_s / 2, abs=0.05)
    assert float(inside.run("document.querySelector('.cursor').style.left").rstrip("%")) == pytest.approx(
        50, abs=1
    )
    slider = "document.querySelector('[role=slider]')"
    assert inside.run(f"{slider}.getAttribute('aria-valuetext')") == "0:02 of 0:04"


def test_the_waveform_is_drawn_with_both_channels_and_all_that_happened(site, inside):
    running, entry = site
    inside.go(running.url + f"/page/recordings/{entry.take_id}")
    assert inside.until("document.querySelector('.strip img').complete")
    assert inside.run("document.querySelector('.strip img').naturalHeight") == 240
    text = inside.run("fetch(document.querySelector('.strip img').src).then((answer) => answer.text())")
    picture = ElementTree.fromstring(text.replace(' xmlns="http://www.w3.org/2000/svg"', ""))

    def drawn(name):
        return [one for one in picture.iter() if name in (one.get("class") or "").split()]

    assert [one.text for one in picture.iter("text") if one.get("class") is None] == ["incoming", "outgoing"]
    assert "".join(one.text for one in drawn("digit") if one.tag == "text") == "5#"
    assert len(drawn("lane")) == len(drawn("pause")) == 2
    assert len(drawn("gap")) == 1
    assert [one.get("d").count("L") for one in drawn("peak")] == [1999, 1999]
    script = "[...document.querySelectorAll('[aria-labelledby=marks] tbody tr')].map((one) => one.cells[1].innerText)"
    assert inside.run(script) == ["digit 5", "digit #", "pause", "lost audio"]


def test_what_is_downloaded_is_the_recording(site, inside):
    running, entry = site
    inside.go(running.url + f"/page/recordings/{entry.take_id}")
    link = "document.querySelector('a[download]')"
    assert inside.run(f"{link}.download").endswith(".wav")
    digest = inside.run(
        f"fetch({link}.href).then((answer) => answer.arrayBuffer())"
        ".then((data) => crypto.subtle.digest('SHA-256', data))"
        ".then((sum) => [...new Uint8Array(sum)].map((one) => one.toString(16).padStart(2, '0')).join(''))"
    )
    assert digest == entry.manifest["sha256"]


# ---- without scripts ----


def test_without_scripts_a_dead_letter_is_found_asked_about_and_dropped_and_another_tried_again(
    site, chromium
):
    running, _ = site
    tab = chromium.open()
    tab.without_scripts()
    log_in(running, tab)
    dead = running.service.settings.recorder.spool / QUEUE_FOLDER / DEAD
    before = len(list(dead.iterdir()))
    tab.go(running.url + "/page/deliveries")
    tab_to(tab, "Drop …")
    tab.loads(lambda: tab.press("Enter"))
    assert tab.run("document.querySelector('h1').innerText") == "Drop this dead letter?"
    tab_to(tab, "Drop it")
    tab.loads(lambda: tab.press("Enter"))
    assert tab.run("document.querySelector('[role=status]').innerText") == "The dead letter is gone."
    assert len(list(dead.iterdir())) == before - 1
    tab_to(tab, "Try again")
    tab.loads(lambda: tab.press("Enter"))
    told = tab.run("document.querySelector('[role=status]').innerText")
    assert told == "It is tried again within a few seconds."
    until(lambda: len(list(dead.iterdir())) == before - 2)
    tab.close()


def test_without_scripts_the_player_plays_and_a_mark_leads_to_its_place(site, chromium):
    running, entry = site
    tab = chromium.open()
    tab.without_scripts()
    log_in(running, tab, f"/page/recordings/{entry.take_id}")
    assert tab.run("location.pathname") == f"/page/recordings/{entry.take_id}"
    assert tab.run("document.querySelector('audio').controls")
    assert tab.until("document.querySelector('audio').duration") == pytest.approx(entry.duration_s, abs=0.01)
    assert tab.run("document.querySelector('.cursor').hidden")
    tab.run("document.querySelector('audio').play()")
    tab.until("document.querySelector('audio').currentTime > 0.2")
    href = tab.run("document.querySelector('a[data-at]').href")
    assert href.partition("#t=")[2] == str(entry.manifest["digits"][0]["at"])
    tab.close()


# ---- strangers ----


def test_a_strangers_text_is_shown_and_does_nothing(site, inside):
    running, _ = site
    for path in ("/page/", "/page/call?id=quiet-2"):
        inside.go(running.url + path)
        assert HOSTILE in inside.run("document.body.innerText")
        assert "owned" not in inside.run("document.title")
        assert inside.run("document.querySelectorAll('main img, main script').length") == 0


def test_the_policy_stops_a_script_that_came_in_all_the_same(site, inside):
    inside.run(
        "document.addEventListener('securitypolicyviolation', (event) => (window.stopped = event.violatedDirective));"
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title = 1\">')"
    )
    assert inside.until("window.stopped")
    assert inside.run("document.title") == "Live calls · callreel"
    inside.log.clear()
