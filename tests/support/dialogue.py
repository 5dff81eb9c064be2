"""Dialogues of a vendor's customer with a call, from files: what is asked and heard, and what must come of it.

A file is JSON:

    {"case": "19",                     row of the vendor's edge-case table, or "seed" for an example of its pages
     "title": "A terminator before any audio ...",
     "mark": "I",                      D documented, I inferred, X the sources contradict each other, C seen in code
     "session": {...},                 arguments of the dialect's session
     "call_id": "...", "started_at": "2018-09-06T15:58:40Z",                             of the call; may be left out
     "legs": [{"name": "LEG-A", "call_id": "call-id-1", "status": "connected", ...}],    as for Call.add_leg
     "media": [{"leg": "LEG-A", "from": 0, "to": 5, "sound": "speech"}, ...],            or "track": "outgoing"
     "host": {"play_s": 1.0, "perform_s": 0.5, "store_s": 0.1, "fails": {"CheckAccess": "denied", "store": "denied"}},
     "steps": [{"at": 0.5, "request": {...}, "response": {...}},
               {"at": 1.2, "press": "#"}, {"at": 2, "answered": "LEG-A"}, {"at": 3, "hang_up": "LEG-A"},
               {"at": 9, "end": true},      "http": {"status", "headers", "body"} is the whole response
               {"at": 11, "download": "/path", "token": "token-1", "status": 200}],    of Microsoft Graph
     "messages": [{...}, ...],         what the customer is told, in order: each holds at least this
     "recordings": [{"key": "...", "end_reason": "terminator", "duration": 1.3, "deliver": true, ...}],
     "performs": [{"name": "say", "leg": "LEG-A", ...}, ...]}    what the host is asked to carry out; may be left out

What is expected holds a part of what there is: of an object the named members, of a list all. "<any>" stands for
anything, "<text>" for any text that is not empty, "<absent>" for nothing. A duration may be 20 ms off, because time
goes by in packets. "tones" of a WAV recording are the stretches of nothing but 1 kHz in it, channel by channel:
[{"channel": 0, "from": 2.0, "to": 2.2}]. A request of Sinch with "signed", which has headers, method, path, body,
secrets and now, is authenticated first. The host answers what it is asked by itself: a prompt takes `play_s`, another
action `perform_s`, storing `store_s`.
Why it fails is a text, or {"message": ..., "field": ...} of an `ActionError`.
"""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from callreel.call import Call
from callreel.dialects.sinch import error_response
from callreel.dialects.sinch_signing import AuthenticationError, authenticate
from callreel.errors import ActionError
from callreel.events import (
    Event,
    LegStatus,
    Perform,
    Play,
    RecordingFinished,
    StopPlaying,
    VendorMessage,
)
from callreel.kernels import g711
from capture_writer import rtp_packet

__all__ = ["FOLDER", "Dialogue", "dialogues", "differences"]

FOLDER = Path(__file__).parents[1] / "conformance" / "dialogues"
STARTED_AT = datetime(2019, 3, 1, 17, 10, 0, 10_000, UTC)
CALL_ID, TRANSACTION_ID = "call-1", "c4640e3b-1478-40fb-8e38-6f6213adf70b"
PACKET_S = 0.02
TONE_HZ = 1000
"""Of a pause and of a resumption."""
TOLERANCE_S = 0.02


def dialogues(vendor: str) -> list[Path]:
    """The files of a vendor, in order."""
    return sorted((FOLDER / vendor).glob("*.json"))


def _sounds() -> dict[str, bytes]:
    """Half a second each, in u-law: something said, a whisper, silence."""
    time = np.arange(4000) / 8000
    voice = sum(np.sin(2 * np.pi * 147 * n * time + n * n) / n for n in range(1, 20))
    voice = voice / np.abs(voice).max()
    noise = np.random.default_rng(5).normal(0, 1, 4000)

    def coded(wave: np.ndarray) -> bytes:
        return g711.ulaw_encode(np.clip(np.round(wave), -32768, 32767).astype("<i2").tobytes())

    return {"speech": coded(9000 * voice), "whisper": coded(20 * noise), "silence": coded(0 * noise)}


SOUNDS = _sounds()


class Dialogue:
    """Plays a dialogue to a call, in packets of 20 ms, and keeps what comes out."""

    def __init__(self, document: dict[str, Any], session: Any) -> None:
        self.document = document
        self.host = {"play_s": 1.0, "perform_s": 0.5, "store_s": 0.1, "fails": {}, **document.get("host", {})}
        self.events: list[Event] = []
        self.responses: list[Any] = []
        self.files: dict[str, bytearray] = {}
        self.session = session
        self.started_at = datetime.fromisoformat(document.get("started_at", STARTED_AT.isoformat()))
        self.call = Call(
            document.get("call_id", CALL_ID),
            started_at=self.started_at,
            now=0.0,
            transaction_id=TRANSACTION_ID,
            dialect=session,
        )
        self._due: list[tuple[float, Any]] = []
        self._stopped: set[str] = set()
        for leg in document["legs"]:
            options = {**leg, "status": LegStatus(leg.get("status", "connected"))}
            self.call.add_leg(detect_digits=False, now=0.0, **options)
            self._drain(0.0)

    @property
    def messages(self) -> list[Any]:
        bodies = [event.body for event in self.events if isinstance(event, VendorMessage)]
        return json.loads(json.dumps(bodies))

    @property
    def performs(self) -> list[dict[str, Any]]:
        found = [event._asdict() for event in self.events if isinstance(event, Perform)]
        for one in found:
            one["parameters"] = _plain(one["parameters"])
        return json.loads(json.dumps(found, default=sorted))  # of what the core adds: enumerations and sets

    @property
    def recordings(self) -> list[dict[str, Any]]:
        return [
            {
                "key": event.key,
                "end_reason": event.end_reason,
                "terminator": event.terminator,
                "deliver": event.deliver,
                "metadata": dict(event.metadata),
                "destination": None if event.destination is None else asdict(event.destination),
                **{name: event.manifest[name] for name in ("duration", "layout", "format", "sample_rate")},
                "manifest": event.manifest,
                "tones": _tones(self.files[event.recording_id]),
            }
            for event in self.events
            if isinstance(event, RecordingFinished)
        ]

    def run(self) -> None:
        """Play it to its end: the last step, and three seconds more unless that ends the call."""
        steps = sorted(self.document["steps"], key=lambda step: step["at"])
        until = steps[-1]["at"] + (0 if "end" in steps[-1] else 3)
        for number in range(round(until / PACKET_S) + 1):
            now = number * PACKET_S
            while steps and steps[0]["at"] <= now + 1e-9:
                self._step(steps.pop(0), now)
                self._drain(now)
            for due in [one for one in self._due if one[0] <= now + 1e-9]:
                self._due.remove(due)
                due[1](now)
                self._drain(now)
            self._media(number, now)
            if self.call.next_timeout() is not None:
                self.call.handle_timeout(now=now)
            self._drain(now)
        while self._due:  # storing goes on after the call
            at, answer = self._due.pop(0)
            answer(at)
            self._drain(at)

    def _step(self, step: dict[str, Any], now: float) -> None:
        call, leg = self.call, step.get("leg", "LEG-A")
        if "request" in step:
            response = _refused(step) or call.request(step["request"], now=now)
            if "response" in step:
                body = None if response is None else {"status": response.status, **(response.body or {})}
                self.responses.append((step["response"], body))
            if "http" in step:
                self.responses.append((step["http"], _plain(response)))
        elif "press" in step:
            call.receive_digit(leg, step["press"], now=now)
        elif "ringing" in step:
            call.ringing(step["ringing"], now=now)
        elif "answered" in step:
            call.answered(step["answered"], now=now)
        elif "hang_up" in step:
            call.hang_up(step["hang_up"], now=now, sip_response_code=step.get("sip_response_code", 0))
        elif "add_leg" in step:
            options = {**step["add_leg"], "status": LegStatus(step["add_leg"].get("status", "connected"))}
            call.add_leg(detect_digits=False, now=now, **options)
        elif "end" in step:
            call.end(now=now)
        elif "download" in step:
            at = self.started_at + timedelta(seconds=now)
            download = self.session.authorize_download(step["download"], step.get("token"), at)
            self.responses.append((step["status"], download.status))
        else:
            raise ValueError(f"a step that does nothing: {step}")

    def _media(self, number: int, now: float) -> None:
        if self.call.next_timeout() is None:
            return
        for source, media in enumerate(self.document.get("media", [])):
            if media["leg"] in self.call.legs and media["from"] <= now + 1e-9 < media["to"]:
                sound = SOUNDS[media["sound"]]
                payload = (sound + sound)[number * 160 % 4000 :][:160]
                packet = rtp_packet(payload, seq=number & 0xFFFF, timestamp=number * 160, ssrc=source + 1)
                self.call.receive_rtp(media["leg"], packet, now=now, direction=media.get("track", "incoming"))

    def _drain(self, now: float) -> None:
        for recording_id, (offset, data) in self.call.writes():
            file = self.files.setdefault(recording_id, bytearray())
            file[offset : offset + len(data)] = data
        for event in self.call.events():
            self.events.append(event)
            self._answer(event, now)

    def _answer(self, event: Event, now: float) -> None:
        fails, call = self.host["fails"], self.call
        match event:
            case Play(action_id=action_id, prompt=prompt):
                name = "beep" if prompt.uri is None else "prompt"
                error = _error(fails.get(name))
                self._later(now, "play_s", action_id, lambda at: call.played(action_id, now=at, error=error))
            case Perform(action_id=action_id, name=name):
                error = _error(fails.get(name))
                self._later(
                    now, "perform_s", action_id, lambda at: call.performed(action_id, now=at, error=error)
                )
            case StopPlaying(action_id=action_id):
                self._stopped.add(action_id)
            case RecordingFinished(recording_id=recording_id, deliver=True):
                error = fails.get("store")
                self._later(
                    now, "store_s", recording_id, lambda at: call.stored(recording_id, now=at, error=error)
                )

    def _later(self, now: float, delay: str, name: str, answer: Any) -> None:
        def unless_stopped(at: float) -> None:
            if name not in self._stopped:
                answer(at)

        self._due.append((now + self.host[delay], unless_stopped))

    def check(self) -> list[str]:
        """What is not as the file expects."""
        found = []
        for expected, got in self.responses:
            found += differences(expected, got, "response")
        found += differences(self.document.get("messages", []), self.messages, "messages")
        found += differences(self.document.get("recordings", []), self.recordings, "recordings")
        if "performs" in self.document:
            found += differences(self.document["performs"], self.performs, "performs")
        return found


def _refused(step: dict[str, Any]) -> Any:
    """The answer to a signed request that is not from whom it says; None to one that is, or that is not signed."""
    if "signed" not in step:
        return None
    signed = dict(step["signed"])
    now, body = datetime.fromisoformat(signed.pop("now")), signed.pop("body").encode()
    headers, method, path = (signed.pop(name) for name in ("headers", "method", "path"))
    try:
        authenticate(headers, method, path, body=body, now=now, **signed)
    except AuthenticationError as error:
        return error_response(error.code, str(error))
    return None


def _tones(file: bytearray) -> list[dict[str, Any]] | None:
    """Where a WAV file sounds of nothing but TONE_HZ, channel by channel; None of another file."""
    if file[:4] != b"RIFF":
        return None
    with wave.open(io.BytesIO(file)) as wav:
        rate, channels = wav.getframerate(), wav.getnchannels()
        samples = np.frombuffer(wav.readframes(wav.getnframes()), "<i2").reshape(-1, channels).astype(float)
    size = round(PACKET_S * rate)
    turning = np.exp(-2j * np.pi * TONE_HZ * np.arange(size) / rate)
    found = []
    for channel in range(channels):
        frames = samples[: len(samples) // size * size, channel].reshape(-1, size)
        energy = (frames**2).sum(axis=1)
        is_tone = (np.abs(frames @ turning) ** 2 * 2 / size > 0.9 * energy) & (energy > size * 100**2)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], is_tone, [False]]))) * PACKET_S
        found += [
            {"channel": channel, "from": float(begin), "to": float(end)}
            for begin, end in edges.reshape(-1, 2)
        ]
    return found


def _plain(value: Any) -> Any:
    """Named tuples and frozen data as objects."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _error(failure: str | dict[str, str] | None) -> ActionError | None:
    if failure is None:
        return None
    return ActionError(failure) if isinstance(failure, str) else ActionError(**failure)


def differences(expected: Any, got: Any, where: str) -> list[str]:
    """Where `got` does not hold what is `expected`, one line each."""
    if expected == "<any>" or (expected == "<text>" and isinstance(got, str) and got):
        return []
    if isinstance(expected, dict) and isinstance(got, dict):
        found = []
        for name, value in expected.items():
            if value == "<absent>":
                found += [f"{where}.{name} is there: {got[name]!r}"] if name in got else []
            elif name not in got:
                found.append(f"{where}.{name} is missing")
            else:
                found += differences(value, got[name], f"{where}.{name}")
        return found
    if isinstance(expected, list) and isinstance(got, list):
        if len(expected) != len(got):
            return [f"{where}: {len(got)} in place of {len(expected)}: {json.dumps(got, default=str)[:2000]}"]
        return [
            line
            for number, pair in enumerate(zip(expected, got, strict=True))
            for line in differences(*pair, f"{where}[{number}]")
        ]
    if isinstance(expected, float) and isinstance(got, float):
        return [] if abs(expected - got) <= TOLERANCE_S + 1e-9 else [f"{where} is {got}, not {expected}"]
    return (
        [] if expected == got and type(expected) is type(got) else [f"{where} is {got!r}, not {expected!r}"]
    )
