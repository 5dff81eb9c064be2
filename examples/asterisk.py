"""Have `callreel serve` record channels of Asterisk, in calls of two: what is said left, what is heard right.

    python asterisk.py

follows Asterisk's events (ARI) and records each channel from the moment the dialplan says `Set(CALLREEL=yes)` on it.
Needs `websockets`, which callreel[server] brings. docs/running.md has the lines for Asterisk.
"""

import json
import os
from base64 import b64encode
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from websockets.sync.client import connect

APP = "callreel"
URL = os.environ.get("CALLREEL_URL", "http://127.0.0.1:8080")
TOKEN = Path(os.environ.get("CALLREEL_TOKEN_FILE", "/etc/callreel/acme.token"))
ARI = os.environ.get("ARI", "127.0.0.1:8088")
LOGIN = Path(os.environ.get("ARI_LOGIN_FILE", "/etc/callreel/ari.login"))  # NAME:PASSWORD, of ari.conf


def request(method: str, url: str, authorization: str, body: object = None) -> dict:
    """Make a request; returns what is answered."""
    headers = {"Authorization": authorization, "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data, headers, method=method), timeout=10) as answer:
        return json.loads(answer.read() or b"{}")


def callreel(method: str, path: str, body: object = None) -> dict:
    """Ask the recorder."""
    return request(method, f"{URL}/v1/{path}", f"Bearer {TOKEN.read_text().strip()}", body)


def basic() -> str:
    """How Asterisk knows us."""
    return f"Basic {b64encode(LOGIN.read_bytes().strip()).decode()}"


def ari(method: str, path: str, **wanted: str) -> dict:
    """Ask Asterisk."""
    return request(method, f"http://{ARI}/ari/{path}?{urlencode(wanted)}", basic())


def begin(channel: dict) -> None:
    """Listen to the channel both ways, and send each way to a port of the leg."""
    name = channel["id"]
    leg = {
        "options": {"fork": {}},
        "payload_types": {"0": "PCMU"},
        "from": channel["caller"]["number"],
        "to": channel["dialplan"]["exten"],
    }
    media = callreel("POST", "calls", {"call_id": name, "legs": [leg], "record": {}})["legs"][0]["media"]
    for way, port in (("in", media["port"]), ("out", media["outgoing"]["port"])):
        where = f"{media['host']}:{port}"
        ari("POST", f"channels/{name}/snoop", spy=way, app=APP, snoopId=f"{way}-{name}")
        ari(
            "POST",
            "channels/externalMedia",
            app=APP,
            external_host=where,
            format="ulaw",
            channelId=f"rtp-{way}-{name}",
        )
        ari("POST", "bridges", type="mixing", bridgeId=f"{way}-{name}")
        ari("POST", f"bridges/{way}-{name}/addChannel", channel=f"{way}-{name},rtp-{way}-{name}")


def end(name: str) -> None:
    """The channel is gone, and with it those that listened; what sent their audio is not."""
    callreel("DELETE", f"calls/{name}")
    for way in ("in", "out"):
        ari("DELETE", f"channels/rtp-{way}-{name}")
        ari("DELETE", f"bridges/{way}-{name}")


def main() -> None:
    """Follow Asterisk until it ends."""
    recorded = set()
    url = f"ws://{ARI}/ari/events?app={APP}&subscribeAll=true"
    with connect(url, additional_headers={"Authorization": basic()}) as events:
        for event in map(json.loads, events):
            name = event.get("channel", {}).get("id")
            try:
                if (
                    event["type"] == "ChannelVarset"
                    and event["variable"] == "CALLREEL"
                    and name not in recorded
                ):
                    begin(event["channel"])
                    recorded.add(name)
                elif event["type"] == "ChannelDestroyed" and name in recorded:
                    recorded.remove(name)
                    end(name)
            except OSError as error:  # what one call has is no other's; HTTP's refusals are of this kind, too
                print(f"{name}: {error}", flush=True)


if __name__ == "__main__":
    main()
