"""A service with something to see on its page: a call that goes on, recordings of every kind, dead letters."""

import contextlib
import itertools
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import soundfile

from callreel.actions import StartRecording
from callreel.delivery.queue_files import DEAD, QUEUE_FOLDER, Record, file_name
from callreel.errors import UsageError
from callreel.kernels import g711, tone
from callreel.recorder import TakeEnded
from callreel.service.host import LegWish
from callreel.service.running import Service
from capture_writer import rtp_packet
from project import ROOT
from service_host import listening, settings_in, until

SPEECH = ROOT / "tests/data/speech/en_US_f_Allison/demo-congrats.wav"
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'\"&amp;"
"""What a caller may have called himself."""
BEGAN = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)


def speech():
    """µ-law codes of somebody who talks."""
    audio, rate = soundfile.read(SPEECH, dtype="int16")
    return g711.ulaw_encode(np.ascontiguousarray(audio[:: rate // 8000]).tobytes())


def packets(seconds, *, lost=(), digits=(), seed=0, first=0):
    """(moment, packet) of a talker, without the packets of those numbers, with keys pressed at those seconds."""
    codes = bytearray(speech()[first * 160 :][: round(seconds * 8000)])
    for symbol, at in digits:
        sound = g711.ulaw_encode(tone.dtmf(symbol, seconds=0.15))
        codes[round(at * 8000) : round(at * 8000) + len(sound)] = sound
    for number in range(len(codes) // 160):
        if number not in lost:
            payload = bytes(codes[160 * number : 160 * number + 160])
            yield (number + 1) * 0.02, rtp_packet(payload, seq=number, timestamp=160 * number, ssrc=seed + 7)


def talk(call, leg, seconds, **options):
    """Feed a leg both ways, each packet when it is due."""
    ways = [
        ("incoming", packets(seconds, **options)),
        ("outgoing", packets(seconds, first=300, seed=1)),
    ]
    due = sorted((at, way, packet) for way, some in ways for at, packet in some)
    began = time.monotonic()
    for at, way, packet in due:
        time.sleep(max(0.0, began + at - time.monotonic()))
        if call.recorded.is_over:
            return
        call.recorded.receive_rtp(leg, packet, direction=way)


def talk_on(call, legs):
    """Feed these legs both ways until the call is over."""
    codes, began = speech(), time.monotonic()
    for number in itertools.count():
        time.sleep(max(0.0, began + (number + 1) * 0.02 - time.monotonic()))
        for leg, (way, ahead) in itertools.product(legs, (("incoming", 0), ("outgoing", 300))):
            at = 160 * ((number + ahead) % (len(codes) // 160))
            packet = rtp_packet(codes[at : at + 160], seq=number, timestamp=160 * number, ssrc=len(way))
            if call.recorded.is_over:
                return
            with contextlib.suppress(UsageError):  # it ends at this moment
                call.recorded.receive_rtp(leg, packet, direction=way)


def recorded(running, call_id, *, seconds=4.0, tenant="acme"):
    """A recording with keys, a pause and lost audio, as it was delivered: its entry in the library."""
    legs = [LegWish(media="none", from_="+15551230001", to="+15559870002")]
    call = running.service.host.create(call_id, tenant=tenant, legs=legs)
    call.recorded.start_recording(StartRecording())
    lost = range(round(seconds * 40), round(seconds * 40) + 10)
    keys = [("5", 0.15 * seconds), ("#", 0.3 * seconds)]
    talker = threading.Thread(
        target=talk, args=(call, "LEG-A", seconds), kwargs={"lost": lost, "digits": keys}
    )
    talker.start()
    time.sleep(0.45 * seconds)
    call.recorded.pause_recording()
    time.sleep(0.2 * seconds)
    call.recorded.resume_recording()
    talker.join()
    running.service.host.end(call)
    return until(lambda: running.service.library.find(text=call_id).entries)[0]


def shelved(service, folder, count, *, tenant="acme", size_bytes=None, **changes):
    """Entries of recordings that ended long ago; their files are silent and short."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        take_id = f"{tenant}{number:04}"
        path = folder / f"{take_id}.wav"
        soundfile.write(path, np.zeros((800, 2), np.int16), 8000)
        began = BEGAN - timedelta(hours=5 * number)
        manifest = {
            "version": 1,
            "call_id": f"{tenant}-call-{number}",
            "dialect": ("chime", "sinch", "graph")[number % 3],
            "started_at": began.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "duration": 0.1 + 37.3 * number,
            "sample_rate": 8000,
            "channels": 2,
            "frames": 800,
            "format": "wav",
            "end_reason": ("hangup", "max_duration", "terminator")[number % 3],
            "degraded": {"lost_packets": 12} if number % 7 == 3 else False,
            "digits": [],
            "pauses": [],
            "tracks": [],
            "bytes": path.stat().st_size if size_bytes is None else size_bytes,
            "media_type": "audio/wav",
            "labels": {"tenant": tenant},
        }
        error = "denied: the bucket refuses this access key" if number % 9 == 4 else None
        ended = TakeEnded(
            take_id,
            manifest["call_id"],
            f"{manifest['call_id']}/LEG-A",
            f"calls/2026/11/{take_id}.wav",
            manifest["end_reason"],
            None if error else path.as_uri(),
            error,
            manifest,
        )
        service.library.add(tenant, ended._replace(**changes), now_s=time.time())


def dead_letter(
    spool, entry_id, *, number, group="c-9", lane="s3://acme-bucket", state=DEAD, age_s=90_000, **payload
):
    """Put a file into the queue as the queue itself would have left it."""
    now_s = time.time()
    record = Record(
        entry_id,
        lane,
        group,
        False,
        now_s - age_s,
        now_s,
        attempts=9,
        failures=9,
        failing_since_s=now_s - min(age_s, 80_000),
        failed_s=now_s - min(age_s, 4000),
        error_class="denied",
        error="AccessDenied: the bucket refuses this access key",
        is_dead=state == DEAD,
        payload=payload,
    )
    path = Path(spool) / QUEUE_FOLDER / state / file_name(number, entry_id)
    path.write_bytes(record.to_bytes())
    return path


def message_of(tenant, **more):
    """The payload of a terminal event of this tenant's."""
    return {"id": "x", "body": {"manifest": {"labels": {"tenant": tenant}}, **more}}


@contextlib.contextmanager
def busy(folder, *, seconds=4.0, **changes):
    """The service, and the entry of the recording that has everything."""
    service = Service(settings_in(folder, **changes))
    with listening(service) as running:
        entry = recorded(running, "support-7f3", seconds=seconds)
        shelved(service, folder / "out", 60)
        shelved(service, folder / "out", 3, tenant="other")
        dead_letter(service.settings.recorder.spool, "deliver:acme0004", number=900001, group="acme-call-4")
        dead_letter(
            service.settings.recorder.spool,
            "end:elsewhere",
            number=900002,
            group="other-call-1",
            lane="https://other.example.net",
            **message_of("other"),
        )
        legs = [
            LegWish("LEG-A", media="none", from_="+15551230001", to="+15559870002"),
            LegWish("LEG-B", media="none", from_="+15559870002", to="sip:agent-4@pbx.example.net"),
        ]
        call = service.host.create("live-1", tenant="acme", legs=legs)
        call.recorded.start_recording(StartRecording())
        talker = threading.Thread(target=talk_on, args=(call, ["LEG-A", "LEG-B"]))
        talker.start()
        hostile = [LegWish("LEG-A", media="none", from_=HOSTILE, to=HOSTILE)]
        service.host.create("quiet-2", tenant="acme", legs=hostile)
        service.host.create("theirs-3", tenant="other", legs=[LegWish(media="none")])
        try:
            yield running, entry
        finally:
            service.host.end(call)
            talker.join()
