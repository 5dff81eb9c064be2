"""A hosted platform's side of a media stream: it connects, says connected and start, then media in real time."""

import base64
import contextlib
import json
import threading
import time
from typing import ClassVar

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

FRAME_S = 0.02


class PlatformPeer:
    """As Twilio's page on WebSocket messages has it; keeps what comes back, and sends marks back when they are due."""

    SEQUENCE, SID = "sequenceNumber", "streamSid"
    ENCODING: ClassVar = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
    FRAME_S, FRAME_BYTES = FRAME_S, 160

    def __init__(
        self, url, *, call_sid="CA" + "1" * 32, tracks=("inbound",), encoding=None, echo=True, **options
    ):
        self.call_sid, self.stream_sid = call_sid, "MZ" + "2" * 32
        self.tracks = list(tracks)
        self.encoding = encoding or self.ENCODING
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
            message |= {self.SEQUENCE: str(self.sequence), self.SID: self.stream_sid}
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
        """Codes of each track, `inbound` and `outbound`, in the platform's frames, each when it is due."""
        start = time.monotonic()
        size = self.FRAME_BYTES
        for number in range(max(-(-len(codes) // size) for codes in tracks.values())):
            time.sleep(max(0.0, start + (number + 1) * self.FRAME_S - time.monotonic()))
            for track, codes in tracks.items():
                self.media(
                    track, codes[number * size : (number + 1) * size], round(1000 * self.FRAME_S) * number
                )

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


class TelnyxPeer(PlatformPeer):
    """As Telnyx' page on media streaming has it."""

    SEQUENCE, SID = "sequence_number", "stream_id"
    ENCODING: ClassVar = {"encoding": "PCMU", "sample_rate": 8000, "channels": 1}

    def start(self):
        self.send("connected", version="1.0.0")
        self.send(
            "start",
            start={
                "user_id": "3e6f995f-85f7-4705-9741-53b116d28237",
                "call_control_id": self.call_sid,
                "call_session_id": "ff55a038-6f5d-11ef-9692-02420aeffb1f",
                "from": "+13122010094",
                "to": "+13122123456",
                "client_state": "aGF2ZSBhIG5pY2UgZGF5ID1d",
                "media_format": self.encoding,
            },
        )

    def press(self, digit):
        self.send("dtmf", occurred_at="2026-01-01T00:00:00.000000Z", dtmf={"digit": digit})

    def stop(self):
        user_id = "3e6f995f-85f7-4705-9741-53b116d28237"
        self.send("stop", stop={"user_id": user_id, "call_control_id": self.call_sid})


class ExotelPeer(PlatformPeer):
    """As Exotel's pages on AgentStream have it: 16-bit PCM, 100 ms at a time, of one track that has no name."""

    SEQUENCE, SID = "sequence_number", "stream_sid"
    ENCODING: ClassVar = {"encoding": "audio/x-raw", "sample_rate": "8000", "bit_rate": "16"}
    FRAME_S, FRAME_BYTES = 0.1, 1600

    def start(self):
        self.send("connected")
        self.send(
            "start",
            start={
                "stream_sid": self.stream_sid,
                "call_sid": self.call_sid,
                "account_sid": "AC" + "3" * 32,
                "from": "+919876543210",
                "to": "+918047491899",
                "custom_parameters": {"key1": "value1"},
                "media_format": self.encoding,
            },
        )

    def media(self, track, codes, at_ms=0):
        assert track == "inbound"
        self.chunks += 1
        payload = base64.b64encode(codes).decode()
        self.send("media", media={"chunk": str(self.chunks), "timestamp": str(at_ms), "payload": payload})

    def press(self, digit):
        self.send("dtmf", dtmf={"digit": digit, "duration": "100"})

    def stop(self):
        self.send(
            "stop",
            stop={"call_sid": self.call_sid, "account_sid": "AC" + "3" * 32, "reason": "callended"},
        )


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
