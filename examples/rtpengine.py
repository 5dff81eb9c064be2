"""Have `callreel serve` record a call that goes through rtpengine: the caller left, the other party right.

    python rtpengine.py begin CALL-ID FROM [TO]      when the call is answered
    python rtpengine.py end CALL-ID                  when it is over

CALL-ID, FROM and TO are the headers of SIP; FROM with the caller's tag. docs/running.md has the lines by which Kamailio
runs this.
"""

import json
import os
import re
import secrets
import socket
import sys
from pathlib import Path
from urllib.request import Request, urlopen

NG = os.environ.get("RTPENGINE_NG", "127.0.0.1:22222")  # rtpengine's listen-ng
URL = os.environ.get("CALLREEL_URL", "http://127.0.0.1:8080")
TOKEN = Path(os.environ.get("CALLREEL_TOKEN_FILE", "/etc/callreel/acme.token"))
RECORDED = ("PCMU", "PCMA", "telephone-event")
STATIC = {"0": "PCMU", "8": "PCMA"}  # payload types that need no rtpmap


def ng(command: str, **wanted: object) -> dict:
    """Ask rtpengine; by the cookie it knows a question that is sent again."""
    host, _, port = NG.rpartition(":")
    body = {"command": command} | {name.replace("_", "-"): value for name, value in wanted.items()}
    cookie = secrets.token_hex(8).encode() + b" "
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(0.5)
        for _ in range(4):
            asking.sendto(cookie + json.dumps(body).encode(), (host, int(port)))
            try:
                answer = json.loads(asking.recv(65535).removeprefix(cookie))
            except TimeoutError:
                continue
            if answer["result"] != "ok":
                raise SystemExit(f"rtpengine: {command}: {answer.get('error-reason', answer['result'])}")
            return answer
    raise SystemExit(f"rtpengine does not answer at {NG}")


def ask(method: str, path: str, body: object = None) -> dict:
    """Make a request of the service; returns what it answers."""
    headers = {"Authorization": f"Bearer {TOKEN.read_text().strip()}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(Request(f"{URL}{path}", data, headers, method=method), timeout=10) as answer:
            return json.loads(answer.read() or b"{}")
    except OSError as error:  # HTTP's refusals, too
        raise SystemExit(f"callreel: {method} {path}: {error}") from None


def name_of(call_id: str) -> str:
    """The call's id with the service, which takes not every letter that SIP does."""
    return re.sub(r"[^\w.:@-]", "_", call_id, flags=re.ASCII)[:128]


def medias_of(sdp: str) -> list[str]:
    """What follows each m= of SDP."""
    return re.split(r"^m=", sdp, flags=re.MULTILINE)[1:]


def codecs(media: str) -> dict[str, str]:
    """What a medium of SDP offers, of what can be recorded: payload types to codecs."""
    offered = media.partition("\r\n")[0].split()[3:]
    known = STATIC | dict(re.findall(r"^a=rtpmap:(\d+) ([\w-]+)/8000", media, re.MULTILINE))
    return {number: known[number] for number in offered if known.get(number) in RECORDED}


def begin(call_id: str, caller: str, callee: str = "") -> None:
    """The three steps: rtpengine offers what each party says, the service says where to send it, rtpengine does."""
    offer = ng("subscribe request", call_id=call_id, flags=["all", "siprec"])
    if any(
        not {"PCMU", "PCMA"} & set(codecs(media).values())
        for media in medias_of(offer["sdp"])
        if media.startswith("audio")
    ):
        # Only then: an rtpengine that may transcode sends keys under an SSRC of their own.
        asked = {"flags": ["all", "siprec"], "codec": {"transcode": ["PCMA"]}, "to_tag": offer["to-tag"]}
        offer = ng("subscribe request", call_id=call_id, **asked)
    (caller_tag,) = re.findall(r";\s*tag=([^;\s]+)", caller)
    ports, taken = {}, {}  # of the m= lines, by their place: which port of the answer; which codecs
    medias = medias_of(offer["sdp"])
    for place, media in enumerate(medias):
        (label,) = re.findall(r"^a=label:(\S+)", media, re.MULTILINE)
        is_callers = offer["media-labels"][label]["tag"] == caller_tag
        if media.startswith("audio") and is_callers not in ports.values():
            ports[place] = is_callers
            taken[place] = codecs(media)
    leg = {
        "options": {"fork": {}},
        "payload_types": {number: codec for one in taken.values() for number, codec in one.items()},
        "from": caller.partition(";tag=")[0][:256],
        "to": callee.partition(";tag=")[0][:256],
    }
    call = ask("POST", "/v1/calls", {"call_id": name_of(call_id), "legs": [leg], "record": {}})
    media = call["legs"][0]["media"]
    host, family = media["host"], "IP6" if ":" in media["host"] else "IP4"
    answer = ["v=0", f"o=- 1 1 IN {family} {host}", "s=-", f"c=IN {family} {host}", "t=0 0"]
    for place, one in enumerate(medias):
        if place not in ports:
            answer += [f"m={one.split()[0]} 0 {one.split()[2]} {one.split()[3]}"]
            continue
        port = media["port"] if ports[place] else media["outgoing"]["port"]
        answer += [f"m=audio {port} RTP/AVP {' '.join(taken[place])}"]
        answer += [f"a=rtpmap:{number} {codec}/8000" for number, codec in taken[place].items()] + [
            "a=recvonly"
        ]
    try:
        sdp = "\r\n".join([*answer, ""])
        ng("subscribe answer", call_id=call_id, to_tag=offer["to-tag"], flags=["allow transcoding"], sdp=sdp)
    except SystemExit:
        end(call_id)
        raise


def end(call_id: str) -> None:
    """The recording ends, and is delivered."""
    ask("DELETE", f"/v1/calls/{name_of(call_id)}")


if __name__ == "__main__":
    {"begin": begin, "end": end}[sys.argv[1]](*sys.argv[2:])
