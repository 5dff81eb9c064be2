"""Send a running `callreel serve` a call: what is in an audio file, by ffmpeg, as RTP. Shows the recording.

    python send_call.py speech.wav [URL]

Beside the folder `callreel` that the service has made, where its token is.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

URL = "http://127.0.0.1:8080"
TOKEN = Path("callreel/token")


def ask(method: str, url: str, body: object = None) -> dict:
    """Make a request of the service; returns what it answers."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {TOKEN.read_text().strip()}", "Content-Type": "application/json"}
    with urlopen(Request(url, data, headers, method=method)) as answer:
        return json.loads(answer.read() or b"{}")


def main(audio: str, url: str = URL) -> None:
    """Begin a call that is recorded, send its media, end it, and wait for the recording."""
    call = ask("POST", f"{url}/v1/calls", {"record": {}})
    media = call["legs"][0]["media"]
    ffmpeg = ["ffmpeg", "-nostdin", "-v", "error", "-re", "-i", audio]
    where = [
        "-ar",
        "8000",
        "-ac",
        "1",
        "-c:a",
        "pcm_mulaw",
        "-f",
        "rtp",
        f"rtp://{media['host']}:{media['port']}",
    ]
    try:
        subprocess.run([*ffmpeg, *where], check=True, stdout=subprocess.DEVNULL)
    finally:
        ask("DELETE", f"{url}/v1/calls/{call['call_id']}")
    while not (found := ask("GET", f"{url}/v1/recordings?text={call['call_id']}")["recordings"]):
        time.sleep(0.1)
    print(found[0]["location"], f"{found[0]['duration_s']} s", found[0]["error"] or "delivered")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except HTTPError as error:
        sys.exit(f"the service says: {error.code} {error.read().decode()}")
    except (URLError, FileNotFoundError) as error:
        sys.exit(f"{error}: is `callreel serve` running, begun in this folder, and ffmpeg installed?")
    except subprocess.CalledProcessError:
        sys.exit("ffmpeg could not send it")
