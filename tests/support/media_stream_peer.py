"""A hosted platform's side of a media stream: it connects, says connected and start, then media in real time."""

import base64
import contextlib
import json
import threading
import time

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

FRAME_S = 0.02


class PlatformPeer:
    """As Twilio's page on WebSocket messages has it; keeps what comes back, and sends marks back when they are due."""

    def __init__(
        self, url, *, call_sid="CA" + "1" * 32, tracks=("inbound",), encoding=None, echo=True, **options
    ):
        self.call_sid, self.stream_sid = call_sid, "MZ" + "2" * 32
        self.tracks = list(tracks)
        self.encoding = encoding or {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
        self.echo = echo
        self.sequence = 0
        self.chunks = 0
        self.received = []
        """(time, message) of each."""
        self.close_code = None
        self.ended = threading.Event()
        self._there = contextlib.ExitStack()
        self.socket = self._there.enter_context(connect(url, compression=None, open_timeout=20, **options))
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, event, **body):
        message = {"event": event, **body}
        if event not in ("connected",):
            self.sequence += 1
            message |= {"sequenceNumber": str(self.sequence), "streamSid": self.stream_sid}
        with self._lock:
            self.socket.send(json.dumps(message))

    def start(self):
        self.send("connected", protocol="Call", version="1.0.0")
        self.send(
            "start",
            start={
                "accountSid": "AC" + "3" * 32,
                "streamSid": self.stream_sid,
                "callSid": self.call_sid,
                "tracks": self.tracks,
                "mediaFormat": self.encoding,
                "customParameters": {},
            },
        )

    def say(self, **tracks):
        """Codes of each track, `inbound` and `outbound`, in frames of 20 ms, each when it is due."""
        start = time.monotonic()
        size = 160
        for number in range(max(-(-len(codes) // size) for codes in tracks.values())):
            time.sleep(max(0.0, start + (number + 1) * FRAME_S - time.monotonic()))
            for track, codes in tracks.items():
                self.media(track, codes[number * size : (number + 1) * size], 20 * number)

    def media(self, track, codes, at_ms=0):
        """Codes of a track, at once."""
        self.chunks += 1
        payload = base64.b64encode(codes).decode()
        media = {"track": track, "chunk": str(self.chunks), "timestamp": str(at_ms), "payload": payload}
        self.send("media", media=media)

    def press(self, digit):
        self.send("dtmf", dtmf={"track": "inbound_track", "digit": digit})

    def stop(self):
        self.send("stop", stop={"accountSid": "AC" + "3" * 32, "callSid": self.call_sid})

    def of(self, event):
        return [(at, message) for at, message in list(self.received) if message["event"] == event]

    @property
    def played(self):
        return b"".join(base64.b64decode(message["media"]["payload"]) for _, message in self.of("media"))

    def _read(self):
        try:
            for text in self.socket:
                message = json.loads(text)
                self.received.append((time.monotonic(), message))
                if message["event"] == "mark" and self.echo:
                    self.send("mark", mark=message["mark"])
        except ConnectionClosed:
            pass
        self.close_code = self.socket.close_code
        self.ended.set()

    def close(self):
        self._there.close()


class BinaryPeer:
    """Sends and takes binary frames."""

    def __init__(self, url, **options):
        self.received = []
        self.ended = threading.Event()
        self._there = contextlib.ExitStack()
        self.socket = self._there.enter_context(connect(url, compression=None, open_timeout=20, **options))
        threading.Thread(target=self._read, daemon=True).start()

    def say(self, data, frame_bytes):
        start = time.monotonic()
        for number, at in enumerate(range(0, len(data), frame_bytes)):
            time.sleep(max(0.0, start + (number + 1) * FRAME_S - time.monotonic()))
            self.socket.send(data[at : at + frame_bytes])

    @property
    def played(self):
        return b"".join(data for _, data in self.received if isinstance(data, bytes))

    def _read(self):
        try:
            for data in self.socket:
                self.received.append((time.monotonic(), data))
        except ConnectionClosed:
            pass
        self.ended.set()

    def close(self):
        self._there.close()
