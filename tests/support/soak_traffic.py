"""What a soak sends: calls of every kind whose audio is known, requests, watchers, pages, and what should not come."""

import base64
import contextlib
import io
import itertools
import json
import random
import socket
import struct
import subprocess
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx
import numpy as np
import soundfile

from audiosocket_peer import AsteriskPeer
from callreel.kernels import g711
from capture_writer import rtp_packet
from live_media import noise
from media_stream_peer import BinaryPeer, PlatformPeer
from project import ROOT
from secret_watch import look_at
from soak_host import BUCKET
from soak_service import ACME, TOKEN, by_fate
from udp_peers import bye
from vendor_customers import SIGNING, chime_client, sinch_client

SPEECH = ROOT / "tests/data/speech/fr_CA_f_June/demo-instruct.wav"
LATE_S = 0.25
"""A talker that was so late itself, the machine being busy, is not compared."""
QUIET_S = 0.008
"""One whose packets were later than its most punctual one by more than this on average may be brought to its clock."""
LATE_AT_END_S = 0.1
"""One over TCP, where only its arrival says where audio belongs: when it is 0.2 s late its last words are behind a
pause."""
DOWN = (httpx.TransportError, OSError, EOFError)
"""What happens to clients of a service that is killed."""


class RefusedError(Exception):
    """The service takes no recordings now, and says so."""


@dataclass
class Said:
    """A call, and what its recording must hold."""

    call_id: str
    kind: str
    life: int
    channels: dict = field(default_factory=dict)
    """16-bit samples by channel; empty where nothing is compared."""
    digits: str = ""
    seconds: float = 0.0
    """That there must be at least, where nothing is compared."""
    late_s: float = 0.0
    most_late_s: float = LATE_S
    jitter_s: float = 0.0
    """By which its first packets were late on average, when the most punctual one was not."""
    is_whole: bool = False
    """It was begun and ended by one life of the service."""
    bucket: bool = False
    flaws: frozenset = frozenset()
    """What its manifest may call damage."""


class Traffic:
    """Workers that do one thing after the other; each thing is a method below `calls` or `troubles`."""

    def __init__(self, service, seed, *, workers=10, seconds=(1.5, 4.0)):
        self.service, self.seed, self.seconds = service, seed, seconds
        self.calls, self.done, self.errors = {}, Counter(), []
        self.begun, self.events = defaultdict(Counter), Counter()
        """What watchers were told: recordings begun, by call and its recording."""
        self.refused, self.torn = Counter(), Counter()
        self._numbers = itertools.count()
        self._own = threading.local()
        self._boto = chime_client(service.url, ACME)
        self.over, self.rests, self._busy = threading.Event(), threading.Event(), 0
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(workers)]
        self._threads.append(threading.Thread(target=self._watch_all))
        for thread in self._threads:
            thread.start()

    @property
    def is_idle(self):
        return self._busy == 0

    def end(self):
        self.over.set()
        for thread in self._threads[:-1]:
            thread.join()

    def close(self):
        self.over.set()
        self.has_all = True
        for thread in self._threads:
            thread.join()

    has_all = False

    def _work(self, number):
        chance = random.Random(f"{self.seed} {number}")
        things = [(getattr(self, name), weight) for name, weight in THINGS.items()]
        while not self.over.is_set():
            if self.rests.is_set() or not self.service.is_up.is_set():
                time.sleep(0.05)
                continue
            (thing,) = chance.choices([one for one, _ in things], [weight for _, weight in things])
            with self._lock:
                self._busy += 1
            life = self.service.life
            try:
                thing(chance)
                self.done[thing.__name__] += 1
            except RefusedError as error:
                self.refused[str(error)] += 1
                time.sleep(0.5)
            except Exception as error:
                if self.service.life == life and self.service.is_up.is_set():
                    self.errors.append(f"{thing.__name__}: {type(error).__name__} {error}"[:400])
                else:
                    self.torn[thing.__name__] += 1
            finally:
                with self._lock:
                    self._busy -= 1
        if hasattr(self._own, "client"):
            self._own.client.close()

    @property
    def client(self):
        if not hasattr(self._own, "client"):
            self._own.client = self.service.client()
        return self._own.client

    def _checked(self, answer, *statuses):
        look_at(answer.text, "answer")
        if answer.status_code == 503:
            raise RefusedError(json.dumps(answer.json())[:120])
        assert answer.status_code in statuses, (
            f"{answer.request.url.path} {answer.status_code} {answer.text[:200]}"
        )
        return answer.json() if answer.content else None

    @contextlib.contextmanager
    def _call(self, kind, *, media="rtp", options=None, record=None, ends=True, **body):
        said = Said(f"soak-{next(self._numbers)}", kind, self.service.life)
        leg = {"media": media, "options": options or {}, "from": "+15551230001", "to": "+15559870002"}
        leg |= body.pop("leg", {})
        whole = {"call_id": said.call_id, "legs": [leg], **body}
        call = self._checked(
            self.client.post("/v1/calls", json=whole if record is None else {**whole, "record": record}), 201
        )
        self.calls[said.call_id] = said
        try:
            yield said, call["legs"][0]["media"]
        except BaseException:
            with contextlib.suppress(*DOWN):
                self.client.delete(f"/v1/calls/{said.call_id}")
            raise
        if ends:
            self._checked(self.client.delete(f"/v1/calls/{said.call_id}"), 204)
        said.is_whole = self.service.life == said.life

    def _act(self, said, **body):
        return self._checked(self.client.post(f"/v1/calls/{said.call_id}/actions", json=body), 200)

    # -- calls over RTP --------------------------------------------------------------------------------------------

    def _codes(self, chance):
        size = 160 * round(chance.uniform(*self.seconds) * 50)
        return np.random.default_rng(chance.randrange(1 << 30)).integers(0, 96, size, np.uint8).tobytes()

    def _talk(self, said, ways, packet, *, every=lambda number: None):
        """Codes by socket and port, each when it is due; the first so late that a late one is not before the call."""
        begin = time.monotonic() + LATE_S
        size = max(len(codes) for _, _, codes in ways) // 160
        late_s = []
        for number in range(size):
            due = begin + number * 0.02
            time.sleep(max(0.0, due - time.monotonic()))
            late_s.append(time.monotonic() - due)
            for one, port, codes in ways:
                payload = codes[160 * number : 160 * number + 160]
                if payload:
                    one.sendto(packet(payload, number), ("127.0.0.1", port))
            every(number)
        said.late_s, first = max(late_s), late_s[:50]
        said.jitter_s = sum(first) / len(first) - min(late_s)

    def rtp_ulaw(self, chance):
        """Two ways, forked; strangers and noise in between, reports, a BYE."""
        here, there = self._codes(chance), self._codes(chance)
        ssrc = chance.randrange(1 << 32)
        with (
            _udp() as one,
            _udp() as other,
            _udp() as stranger,
            self._call("fork", options={"fork": {}, "rtcp_mux": True}, record={}) as (said, media),
        ):
            port, beside = media["port"], media["outgoing"]["port"]

            def every(number):
                if number % 50 == 10:
                    one.sendto(_report(ssrc, number), ("127.0.0.1", port))
                # Once the peer has been silent for 3 s, the next one to speak is taken for it.
                if 5 < number < len(here) // 160 and number % 7 == 0:
                    stranger.sendto(rtp_packet(bytes(160), number, 160 * number, 3), ("127.0.0.1", port))
                    odd = bytes([chance.randrange(64)]) + chance.randbytes(chance.randrange(40))
                    one.sendto(
                        chance.choice([odd, b"", b"\x80", rtp_packet(b"", number)[:11]]), ("127.0.0.1", port)
                    )

            def packet(payload, number):
                return rtp_packet(payload, number, 160 * number, ssrc)

            self._talk(said, [(one, port, here), (other, beside, there)], packet, every=every)
            one.sendto(bye(ssrc), ("127.0.0.1", port))
        said.channels, said.flaws = {0: _decoded(here), 1: _decoded(there)}, frozenset({"malformed_packets"})

    def rtp_alaw(self, chance):
        """A-law at a payload type of its own, and keys as events."""
        codes, ssrc, key = self._codes(chance), chance.randrange(1 << 32), chance.choice("0123456789*#")
        types = {"96": "PCMA", "101": "telephone-event"}
        leg = {"payload_types": types}
        with _udp() as one, self._call("alaw", record={"layout": "incoming"}, leg=leg) as (said, media):

            def packet(payload, number):
                return rtp_packet(payload, number, 160 * number, ssrc, payload_type=96)

            self._talk(said, [(one, media["port"], codes)], packet)
            first = len(codes) // 160
            for number in range(first, first + 8):
                time.sleep(0.02)
                ends = number >= first + 5
                lasted = 160 * (min(number, first + 5) - first + 1)
                event = struct.pack(">BBH", "0123456789*#".index(key), 10 | ends << 7, lasted)
                one.sendto(
                    rtp_packet(event, number, 160 * first, ssrc, payload_type=101, marker=number == first),
                    ("127.0.0.1", media["port"]),
                )
            time.sleep(0.1)
        said.channels, said.digits = {0: np.frombuffer(g711.alaw_decode(codes), "<i2")}, key

    def ffmpeg(self, chance):
        """Speech by ffmpeg, as MP3 or WAV."""
        seconds = chance.uniform(1.0, 2.0)
        form = chance.choice(["mp3", "wav"])
        with self._call("ffmpeg", record={"format": form, "layout": "mix"}) as (said, media):
            codec = chance.choice(["pcm_mulaw", "pcm_alaw"])
            ended = subprocess.run(
                ["ffmpeg", "-v", "error", "-re", "-t", f"{seconds}", "-i", SPEECH, "-ar", "8000", "-ac", "1",
                 "-c:a", codec, "-f", "rtp", f"rtp://127.0.0.1:{media['port']}?pkt_size=172"],
                check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60,
            )  # fmt: skip
            if b"bind failed" in ended.stderr:  # it takes ports by chance, and does not try others
                self.done["ffmpeg found no port"] += 1
                return
            assert ended.returncode == 0, ended.stderr
        said.seconds = seconds - 0.3

    def commands(self, chance):
        """Pause, resume, stop and a second recording; a prompt and a beep that the caller hears."""
        codes, ssrc = self._codes(chance), chance.randrange(1 << 32)
        with _udp() as one, self._call("commands") as (said, media):
            self._act(
                said,
                action="start_recording",
                recording={"beep": True, "prompt": self.service.prompt if chance.random() < 0.5 else None},
            )
            marks = {
                20: "pause_recording",
                35: "resume_recording",
                50: "stop_recording",
                60: "start_recording",
            }

            def every(number):
                if (action := marks.get(number)) is not None:
                    with contextlib.suppress(AssertionError):  # it may not have begun yet
                        self._act(said, action=action)

            def packet(payload, number):
                return rtp_packet(payload, number, 160 * number, ssrc)

            self._talk(said, [(one, media["port"], codes)], packet, every=every)

    def vanish(self, chance):
        """Peers that are gone in the middle of a word."""
        match chance.randrange(3):
            case 0:
                with _udp() as one, self._call("gone", record={}) as (said, media):
                    codes = self._codes(chance)[: 160 * 30]
                    self._talk(said, [(one, media["port"], codes)], _plain_packet)
                    time.sleep(1.0)
            case 1:
                with (
                    self._call("gone", media="audiosocket", record={}, ends=False) as (_, media),
                    contextlib.closing(AsteriskPeer(media["address"], media["uuid"])) as peer,
                ):
                    peer.say(noise(0.4))
                    _reset(peer.socket)
            case _:
                with (
                    self._call("gone", media="websocket", record={}, ends=False) as (_, media),
                    contextlib.closing(
                        PlatformPeer(f"ws://127.0.0.1:{self.service.port}{media['path']}")
                    ) as peer,
                ):
                    peer.start()
                    peer.say(inbound=self._codes(chance)[: 160 * 20])
                    _reset(peer.socket.socket)
                    peer.socket.socket.shutdown(socket.SHUT_RDWR)

    # -- calls over TCP --------------------------------------------------------------------------------------------

    def audiosocket(self, chance):
        """Asterisk."""
        pcm = noise(chance.uniform(*self.seconds), seed=chance.randrange(1 << 30))
        with self._call("audiosocket", media="audiosocket", record={}, ends=False) as (said, media):
            peer = AsteriskPeer(media["address"], media["uuid"])
            try:
                begin = time.monotonic()
                peer.say(pcm)
                said.late_s, said.most_late_s = time.monotonic() - begin - len(pcm) / 16_000, LATE_AT_END_S
                peer.send(0x00)
                assert peer.ended.wait(10), "no answer to a hang-up"
            finally:
                peer.close()
        said.channels = {0: np.frombuffer(pcm, "<i2")}

    def websocket(self, chance):
        """A hosted platform, or binary audio."""
        codes = self._codes(chance)
        is_binary = chance.random() < 0.4
        options = {"format": "binary", "encoding": "ulaw"} if is_binary else {}
        with self._call("websocket", media="websocket", options=options, record={}, ends=False) as (
            said,
            media,
        ):
            url = f"ws://127.0.0.1:{self.service.port}{media['path']}"
            peer = BinaryPeer(url) if is_binary else PlatformPeer(url)
            try:
                begin = time.monotonic()
                if is_binary:
                    peer.say(codes, 160)
                else:
                    peer.start()
                    peer.say(inbound=codes)
                said.late_s, said.most_late_s = time.monotonic() - begin - len(codes) / 8000, LATE_AT_END_S
                if not is_binary:
                    peer.stop()
                    assert peer.ended.wait(10), "no answer to a stop"
            finally:
                peer.close()
        said.channels = {0: _decoded(codes)}

    # -- vendors' customers ----------------------------------------------------------------------------------------

    def chime(self, chance):
        """boto3 asks, the application answers, and S3 gets it."""
        codes = self._codes(chance)
        with _udp() as one, self._call("chime", dialect="chime") as (said, media):
            self._boto.update_sip_media_application_call(
                SipMediaApplicationId=ACME.sip_media_application,
                TransactionId=said.call_id,
                Arguments={"do": "record"},
            )
            said.bucket = True
            try:
                self._wait_begun(said)
            except TimeoutError:
                if self.service.s3_was_away(20.0):
                    return  # the vendor refuses a recording then
                raise
            self._talk(said, [(one, media["port"], codes)], _plain_packet)
        said.channels = {0: _decoded(codes)}

    def sinch(self, chance):
        """Into Drive, read from there, deleted there."""
        if not hasattr(self._own, "sinch"):
            self._own.sinch = sinch_client(self.service.url, ACME).voice
        codes = self._codes(chance)
        basic = base64.b64encode(f"{ACME.sinch_key}:{ACME.sinch_secret}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}"}
        with _udp() as one, self._call("sinch", dialect="sinch") as (said, media):
            options = {"destinationUrl": f"sdrive://{said.call_id}.wav", "format": "wav"}
            self._own.sinch.calls.update(
                said.call_id, [{"name": "startRecording", "options": options}], {"name": "continue"}
            )
            self._wait_begun(said)
            self._talk(said, [(one, media["port"], codes)], _plain_packet)
        path = f"{self.service.url}/calling/v1/recording/{said.call_id}.wav"
        got = _until(lambda: (one := httpx.get(path, headers=headers, timeout=20)).status_code == 200 and one)
        said.channels = {0: _decoded(codes)}
        self.compare(said, got.content)
        said.channels = {}
        self.done["compared in Drive"] += 1
        assert httpx.delete(path, headers=headers, timeout=20).status_code in (200, 204)

    def graph(self, chance):
        """A message, held and downloaded."""
        headers = {"Authorization": f"Bearer {SIGNING.token(ACME.graph_application)}"}
        with _udp() as one, self._call("graph", dialect="graph") as (said, media):
            answer = httpx.post(
                f"{self.service.url}/v1.0/communications/calls/{said.call_id}/recordResponse",
                headers=headers,
                json={"playBeep": False, "maxRecordDurationInSeconds": 1, "clientContext": said.call_id},
                timeout=20,
            )
            self._checked(answer, 200)
            self._talk(said, [(one, media["port"], self._codes(chance)[: 160 * 70])], _plain_packet)
            with contextlib.suppress(TimeoutError):  # its customer may never have been told
                location, token = _until(lambda: self.service.graph_recording(said.call_id), 3.0)
                with httpx.stream("GET", location, headers={"Authorization": f"Bearer {token}"}) as got:
                    assert got.status_code == 200
                    assert len(got.read()) > 16_000

    def _wait_begun(self, said):
        path = f"/v1/calls/{said.call_id}"
        _until(lambda: self._checked(self.client.get(path), 200)["recordings"], 10.0)

    # -- who looks on ----------------------------------------------------------------------------------------------

    def watch(self, chance):
        """A watcher of events who comes and goes."""
        until = time.monotonic() + chance.uniform(0.5, 3.0)
        with self.client.stream("GET", "/v1/events", params={"since": 0}, timeout=5) as answer:
            assert answer.status_code == 200
            with contextlib.suppress(httpx.ReadTimeout):
                for _ in answer.iter_lines():
                    if time.monotonic() > until:
                        break

    def pages(self, chance):
        """The operator's page, by its login."""
        with httpx.Client(base_url=self.service.url, follow_redirects=True, timeout=20) as browser:
            page = browser.get("/page/login").text
            token = page.split('name="form_token" value="')[1].split('"')[0]
            form = {"form_token": token, "token": TOKEN, "next": ""}
            assert browser.post("/page/login", data=form).url.path == "/page/"
            for path in ("/page/", "/page/levels.json", "/page/recordings", "/page/deliveries"):
                answer = browser.get(path)
                assert answer.status_code == 200
                look_at(answer.text, path)
        for path in ("/v1/calls", "/v1/recordings", "/metrics", "/healthz"):
            assert self.client.get(path).status_code in (200, 403), path
        found = self.client.get("/v1/recordings", params={"state": "delivered"}).json()["recordings"]
        for entry in found[:2]:
            audio = self.client.get(
                f"/v1/recordings/{entry['take_id']}/audio", headers={"Range": "bytes=0-99"}
            )
            assert audio.status_code in (206, 404, 502), audio.status_code  # 502 while S3 is away
            self.client.get(f"/v1/recordings/{entry['take_id']}/waveform")

    # -- what should not come --------------------------------------------------------------------------------------

    def hostile(self, chance):
        """Requests and tokens that are none, halves of heads, bodies that drip, connections that say nothing."""
        place = ("127.0.0.1", self.service.port)
        for _ in range(3):
            with socket.create_connection(place, timeout=10) as one:
                one.sendall(chance.choice(GARBAGE) or chance.randbytes(300) + b"\r\n\r\n")
                with contextlib.suppress(ConnectionError):
                    answer = one.recv(4096)
                    assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 3")), answer
        assert (
            httpx.get(f"{self.service.url}/v1/calls", headers={"Authorization": "Bearer x"}).status_code
            == 401
        )
        assert self.client.post("/v1/calls", content=b"{" * 40).status_code == 400
        assert self.client.post("/v1/calls", content=b" " * 300_000).status_code == 413
        with contextlib.ExitStack() as held:
            for number in range(30):
                half = held.enter_context(socket.create_connection(place, timeout=10))
                half.sendall(
                    (b"", b"GET /v1/ca", b"POST /v1/calls HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")[
                        number % 3
                    ]
                )
            for _ in range(10):
                held.enter_context(
                    socket.create_connection(("127.0.0.1", self.service.audiosocket), timeout=10)
                )
            time.sleep(chance.uniform(0.2, 3.0))

    # -- what watchers are told ------------------------------------------------------------------------------------

    def _watch_all(self):
        life, place = -1, "0"
        while not self.has_all:
            if not self.service.is_up.is_set():
                time.sleep(0.02)
                continue
            if self.service.life != life:
                life, place = self.service.life, "0"
            with (
                contextlib.suppress(*DOWN),
                self.service.client() as client,
                client.stream("GET", "/v1/events", params={"since": place}, timeout=1.0) as answer,
            ):
                for line in answer.iter_lines():
                    if line.startswith("id: "):
                        place = line[4:]
                    if line.startswith("data: "):
                        self._told(json.loads(line[6:]))
                    if self.has_all:
                        break

    def _told(self, body):
        event = body.get("event", "gap")
        self.events[event] += 1
        if event == "recording_started":
            self.begun[body["call_id"]][body["recording_id"]] += 1

    # -- what is compared ------------------------------------------------------------------------------------------

    def compare(self, said, data, manifest=None):
        """Whether a file is what was said, sample by sample; False when the talker itself was too late for that, or
        so unsteady that the recorder may bring it to its clock (native/include/callreel/drift.h)."""
        if said.late_s > said.most_late_s or said.jitter_s > QUIET_S:
            return False
        audio, rate = soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)
        where = f"{said.kind} {said.call_id}"
        assert len(audio) >= said.seconds * rate, where
        for channel, expected in said.channels.items():
            heard = audio[:, channel]
            at = _place(heard, expected, where)
            size = min(len(expected), len(heard) - at)
            assert size == len(expected), f"{where}: {len(expected) - size} samples are missing"
            wrong = np.flatnonzero(heard[at : at + size] != expected)
            assert not len(wrong), f"{where}: {len(wrong)} of {size} samples from {wrong[0]} on are wrong"
        if manifest is not None:
            assert set(manifest["degraded"] or ()) <= said.flaws, f"{where}: {manifest['degraded']}"
            if said.digits:
                assert [one["symbol"] for one in manifest["digits"]] == list(said.digits), where
        return True

    def file_of(self, said, event):
        """What was delivered, which is then taken away."""
        if said.bucket:
            bucket = self.service.s3.client()
            data = bucket.get_object(Bucket=BUCKET, Key=event["key"])["Body"].read()
            bucket.delete_object(Bucket=BUCKET, Key=event["key"])
            return data
        path = Path(event["location"].removeprefix("file://"))
        data = path.read_bytes()
        path.unlink()
        path.with_name(path.name + ".json").unlink(missing_ok=True)
        return data

    def __str__(self):
        done = ", ".join(f"{name} {count}" for name, count in sorted(self.done.items()))
        return f"{done}; torn by a kill: {self.torn.total()}; refused: {by_fate(self.refused.elements()) or 'none'}"


THINGS = {
    "rtp_ulaw": 4, "rtp_alaw": 3, "ffmpeg": 2, "commands": 2, "vanish": 2, "audiosocket": 2, "websocket": 2,
    "chime": 2, "sinch": 2, "graph": 2, "watch": 1, "pages": 1, "hostile": 1,
}  # fmt: skip
GARBAGE = (
    b"",
    b"\0\1\2\3\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /%00/../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"POST /v1/calls HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"GET /v1/calls HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGARBAGE\r\n\r\n",
    b"GET /" + b"a" * 70_000,
    b"GET /v1/media/x/LEG-A/y HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
)


def _udp():
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind(("127.0.0.1", 0))
    return one


def _plain_packet(payload, number):
    return rtp_packet(payload, number, 160 * number, 7)


def _decoded(codes):
    return np.frombuffer(g711.ulaw_decode(codes), "<i2")


def _report(ssrc, number):
    """A sender report of the packet with that number, by its own clock."""
    moment = number * 0.02 + 3_900_000_000
    return struct.pack(
        ">BBHIIIIII",
        0x80,
        200,
        6,
        ssrc,
        int(moment),
        int(moment % 1 * (1 << 32)),
        160 * number,
        number,
        160 * number,
    )


def _reset(one):
    """When it is closed the other side gets a reset."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _until(read, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not (found := read()):
        if time.monotonic() > end:
            raise TimeoutError("it did not come")
        time.sleep(0.05)
    return found


def _place(heard, expected, where):
    first = expected[:160]
    for at in np.flatnonzero(heard[: max(0, len(heard) - 159)] == first[0]):
        if np.array_equal(heard[at : at + 160], first):
            return int(at)
    raise AssertionError(f"{where}: what was said is not there")
