"""Headless Chromium, driven by its DevTools protocol."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
import urllib.request

from websockets.sync.client import connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

KEYS = {
    "Tab": ("Tab", 9, ""),
    "Enter": ("Enter", 13, "\r"),
    " ": ("Space", 32, " "),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowLeft": ("ArrowLeft", 37, ""),
    "Home": ("Home", 36, ""),
    "End": ("End", 35, ""),
}
SHIFT = 8


class BrowserError(Exception):
    """What Chromium did not do, or a script threw."""


class Browser:
    """A Chromium with a profile of its own."""

    def __init__(self, folder):
        self._process = subprocess.Popen(
            [
                CHROMIUM,
                "--headless=new",
                "--no-sandbox",  # as root it has none
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
                "--mute-audio",
                "--autoplay-policy=no-user-gesture-required",
                "--remote-debugging-port=0",
                f"--user-data-dir={folder}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        told = folder / "DevToolsActivePort"
        end = time.monotonic() + 30
        while not (told.exists() and told.read_text().count("\n")):
            assert time.monotonic() < end, "Chromium did not begin"
            time.sleep(0.05)
        self._port = int(told.read_text().split("\n")[0])

    def open(self):
        """A new tab."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/json/new", method="PUT")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return Tab(json.load(answer)["webSocketDebuggerUrl"])

    def close(self):
        self._process.terminate()
        self._process.wait(20)


class Tab:
    """A page of a browser, as somebody in front of it sees and uses it."""

    def __init__(self, url):
        self._held = contextlib.ExitStack()
        self._socket = self._held.enter_context(connect(url, max_size=None, open_timeout=20))
        self._numbers = itertools.count(1)
        self.log = []
        """What scripts and the browser itself complained of."""
        self._loaded = 0
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.say(f"{domain}.enable")
        self.say("Network.clearBrowserCookies")

    def say(self, method, **parameters):
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            told = json.loads(self._socket.recv(timeout=30))
            if told.get("id") == number:
                if "error" in told:
                    raise BrowserError(f"{method}: {told['error']['message']}")
                return told["result"]
            self._hear(told)

    def _hear(self, told):
        match told["method"]:
            case "Page.loadEventFired":
                self._loaded += 1
            case "Log.entryAdded":
                self.log.append(told["params"]["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.log.append(told["params"]["exceptionDetails"]["text"])

    def loads(self, act):
        """Do something that loads a page, and wait for that."""
        before = self._loaded
        act()
        end = time.monotonic() + 30
        while self._loaded == before:
            assert time.monotonic() < end, "no page was loaded"
            self.run("0")
            time.sleep(0.02)

    def go(self, url):
        self.loads(lambda: self.say("Page.navigate", url=url))

    def run(self, script):
        """The value of an expression, which may be a promise."""
        try:
            result = self.say("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        except BrowserError as error:
            if "context" in str(error) or "navigated" in str(error):
                return None  # between two pages
            raise
        if "exceptionDetails" in result:
            raise BrowserError(result["exceptionDetails"]["exception"].get("description", "?"))
        return result["result"].get("value")

    def until(self, script, timeout_s=15.0):
        """The value of an expression as soon as it is true."""
        end = time.monotonic() + timeout_s
        while not (value := self.run(script)):
            assert time.monotonic() < end, script
            time.sleep(0.05)
        return value

    def press(self, key, *, shift=False):
        code, number, text = KEYS[key]
        about = {
            "key": key,
            "code": code,
            "windowsVirtualKeyCode": number,
            "modifiers": SHIFT if shift else 0,
        }
        self.say("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        self.say("Input.dispatchKeyEvent", type="keyUp", **about)

    def type(self, text):
        self.say("Input.insertText", text=text)

    def show_as(self, *, width=1280, height=900, scheme="light"):
        """Be a screen of that size, whose owner likes it light or dark."""
        self.say(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.say("Emulation.setEmulatedMedia", features=features)

    def without_scripts(self):
        self.say("Emulation.setScriptExecutionDisabled", value=True)

    def screenshot(self, path):
        """All of the page, however long."""
        shot = self.say("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        self._held.close()
