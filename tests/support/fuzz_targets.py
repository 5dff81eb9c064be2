"""The fuzz targets: which there are, how they are built, and the inputs they begin with (tests/fuzz/README.md).

Nothing of callreel is imported before a seed or a target in Python asks for it: under Atheris it must be
instrumented on the way in.
"""

import importlib.util
import itertools
import os
import random
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from project import NATIVE, ROOT

FOLDER = ROOT / "tests" / "fuzz"
REGRESSIONS = FOLDER / "regressions"
"""A folder for each target, with the inputs that once broke something."""

Seeds = Callable[[], Iterable[bytes]]


@dataclass(frozen=True)
class Target:
    """One way of feeding hostile bytes to something."""

    path: Path
    most_bytes: int
    """How long an input may grow."""
    seeds: Seeds
    compiled: bool = True
    """Whether what it feeds is C or Cython, for the sanitizers to watch."""

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def is_c(self) -> bool:
        return self.path.suffix == ".c"

    @property
    def dictionary(self) -> list[bytes]:
        """Words that inputs are made of; targets in C need none, their comparisons are traced."""
        return [] if self.is_c else _module(self).DICTIONARY

    def inputs(self) -> Iterator[tuple[str, bytes]]:
        """Each seed and each input that once broke something, with a name."""
        for number, seed in enumerate(self.seeds()):
            yield f"seed {number}", seed[: self.most_bytes]
        for path in sorted((REGRESSIONS / self.name).glob("*")):
            yield path.name, path.read_bytes()


def _module(target: Target):
    spec = importlib.util.spec_from_file_location(f"fuzz_{target.name}", target.path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python_target(target: Target) -> Callable[[bytes], None]:
    """The function that takes one input; whatever it raises is a finding."""
    return _module(target).run


def build(target: Target, program: Path, compiler: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Compile a target in C; `options` say with which checks and whether libFuzzer or files feed it."""
    command = [compiler, "-std=c11", "-g", "-Wall", "-Wextra", "-Wno-unused-function", "-ffp-contract=off"]
    command += [*options, f"-I{NATIVE / 'include'}", str(target.path), "-lm", "-o", str(program)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# ---- the test files -------------------------------------------------------------------------------------------


def files(*patterns: str) -> list[Path]:
    """Test files: those that ship, and those below CALLREEL_TEST_DATA."""
    folders = [ROOT / "tests" / "data"]
    if elsewhere := os.environ.get("CALLREEL_TEST_DATA"):
        folders.append(Path(elsewhere))
    found = {
        path.relative_to(folder): path
        for folder in reversed(folders)
        for pattern in patterns
        for path in folder.glob(pattern)
        if path.is_file()
    }
    return [found[name] for name in sorted(found)]


def captures() -> list[Path]:
    return files("pcap/**/*.pcap", "pcap/**/*.pcapng", "pcap/**/*.cap")


def datagrams(path: Path) -> list[list[tuple[int, bytes, tuple[str, int], tuple[str, int]]]]:
    """The flows of a capture, each a list of (time in ns, payload, source, destination)."""
    import numpy as np

    from callreel.errors import CaptureError
    from callreel.kernels import pcap

    reader = pcap.Reader()
    flows: dict[int, list] = {}
    try:
        for batch in pcap.packets(path.read_bytes(), reader=reader):
            table = np.frombuffer(batch.records, pcap.DTYPE)
            for record in table:
                flow = reader.flow(record["flow"])
                payload = bytes(batch.data[record["offset"] : record["offset"] + record["length"]])
                flows.setdefault(record["flow"], []).append(
                    (int(record["time_ns"]), payload, (flow.source, flow.source_port), flow[3:5])
                )
    except CaptureError:
        pass
    return list(flows.values())


def sip_messages(path: Path) -> list[tuple[int, bytes, tuple[str, int], tuple[str, int]]]:
    """The SIP of a capture in time order; of TCP the segments that begin a message."""
    from callreel import sip

    found = [one for flow in datagrams(path) for one in flow if sip.looks_like_sip(one[1])]
    return sorted(found, key=lambda one: one[0])


def descriptions(messages: Iterable[bytes]) -> list[bytes]:
    from callreel import sip
    from callreel.errors import SipError

    found = []
    for message in messages:
        try:
            found.append(sip.sdp_body(sip.parse(message)))
        except SipError:
            continue
    return [body for body in found if body]


# ---- seeds ----------------------------------------------------------------------------------------------------


def rtp_seeds() -> Iterator[bytes]:
    ready, hear, fetch = b"\xc0", b"\xd8", b"\xe0"

    def play(flow: Sequence[tuple], settings: int) -> bytes:
        actions = [bytes([settings])]
        before = flow[0][0]
        for number, (time_ns, payload, *_) in enumerate(flow, 1):
            wait = max(-32768, min(32767, (time_ns - before) // 125_000))
            before = time_ns
            actions += [
                b"\0",
                wait.to_bytes(2, "little", signed=True),
                len(payload).to_bytes(2, "little"),
                payload,
            ]
            if number % 8 == 0:
                actions += [ready, hear, fetch]
        return b"".join([*actions, b"\xff", ready, fetch])

    for path in captures():
        for flow in datagrams(path)[:8]:
            if flow[0][1][:1] >= b"\x80" and len(flow) > 1:
                yield play(flow[:40], 4)
                yield play(flow[-20:], 2)
                yield play(flow[:40], 4 | 32)
    for path in files("rtp-packets/*"):
        yield play([(0, path.read_bytes())] * 3, 4)
    yield b"\x0c" + b"".join(b"\xf8\xa0" + bytes(range(160)) * 2 + b"\xf0\x14\x00" for _ in range(20)) + ready


def sample_store_seeds() -> Iterator[bytes]:
    write, alaw, silence, forget, read, runs = range(6)

    def played(settings: int, *actions: tuple[int, int, int]) -> bytes:
        return bytes([settings]) + b"".join(struct.pack("<BHH", *action) for action in actions)

    packets = [(write, 160 * n, 160) for n in range(31)]
    for settings in range(4):
        yield played(settings, *packets, (runs, 0, 5000), (read, 1015, 0), (read, 2000, 0), *packets)
        yield played(settings, *packets[::2], *packets[1::2], (silence, 100, 4000), (forget, 700, 900))
        yield played(settings, (write, 0, 500), (silence, 400, 2000), (alaw, 1000, 100), (forget, 0, 450))
        yield played(
            settings, (silence, 10, 300), (write, 310, 20), (read, 4999, 0), (write, 0, 5000), (runs, 0, 9)
        )
        yield played(
            settings, (write, 4990, 60), (alaw, 0, 1016), (write, 1016, 1), (read, 5099, 0), (runs, 0, 99)
        )


def demultiplexer_seeds() -> Iterator[bytes]:
    """Streams of each kind, their peers and strangers, sound packets and any bytes, taken in between."""
    chance = random.Random(1)
    for settings in range(0, 16, 5):
        for socket in (0, 16, 32, 64, 128, 144, 192):
            actions = [bytes([128, socket, ssrc]) for ssrc in (0, 1)]
            for number in range(60):
                where = (socket & 16) << 1 | chance.randrange(3)
                kind = chance.randrange(256)
                actions.append(struct.pack("<BBBHH", 0, where, kind, number, chance.choice([0, 160, 2100])))
                if number % 7 == 6:
                    actions.append(bytes([176 + chance.randrange(24)]))
                if number % 11 == 10:
                    actions.append(struct.pack("<BH", 232, chance.choice([20, 700, 3000])))
                if number % 13 == 12:
                    report = struct.pack(">BBHIQIII", 0x80, 200, 6, kind & 3, 1 << 40, 0, 0, 0)
                    bye = struct.pack(">BBHI", 0x81, 203, 1, kind & 3)
                    actions.append(struct.pack("<BBH", 64, where | 16, len(report + bye)) + report + bye)
                if number % 17 == 16:
                    actions.append(bytes([chance.randrange(200, 232)]))
            yield bytes([settings]) + b"".join(actions) + bytes([160, 161, 162])


def pcap_seeds() -> Iterator[bytes]:
    return (bytes([size % 97, 0]) + path.read_bytes() for size, path in enumerate(captures()))


def wav_samples_seeds() -> Iterator[bytes]:
    from callreel.errors import WavError
    from callreel.kernels import wav

    for path in files("**/*.wav"):
        data = path.read_bytes()
        try:
            info = wav.parse(data)
        except WavError:
            continue
        for chunk in info.chunks:
            if chunk.id == "fmt ":
                fmt = data[chunk.offset + 8 : chunk.offset + 8 + min(chunk.size, 255)]
                yield bytes([len(fmt)]) + fmt + data[info.data_offset : info.data_offset + 400]


def mp3_seeds() -> Iterator[bytes]:
    return (bytes([size % 251]) + path.read_bytes() for size, path in enumerate(files("mp3/*.mp3")))


def mpeg_frame_seeds() -> Iterator[bytes]:
    return (path.read_bytes() for path in files("mp3/*.mp3"))


def kernels_seeds() -> Iterator[bytes]:
    for path in files("dtmf/*.wav", "g711/**/*", "speech/**/*.wav"):
        data = path.read_bytes()
        for size in (0, 1, 31, 160, 321, 1024):
            yield bytes([size % 64, size % 8, 0, 0, 0, 0x3F]) + data[1000 : 1000 + size]
        yield bytes([2, 1, 0x12, 0x34, 0x56, 0xBF]) + data[1000:3000]


def dtmf_seeds() -> Iterator[bytes]:
    for number in range(16):
        key = bytes([number, 60, 3 * number, 128, 50])
        yield bytes([number % 4, 37 * number % 256]) + key + key
    yield bytes([0, 160, 200, 255]) + bytes(range(255)) * 2


def sip_seeds() -> Iterator[bytes]:
    for path in captures():
        messages = [message for _, message, *_ in sip_messages(path)]
        for message in messages[:12]:
            yield b"\x3c" + message
        if messages:
            yield b"\xff" + b"".join(messages[:4])
    for path in files("siprec/*"):
        yield b"\x9f" + path.read_bytes()


def sdp_seeds() -> Iterator[bytes]:
    for path in captures():
        bodies = descriptions(message for _, message, *_ in sip_messages(path))
        for offer, answer in itertools.islice(itertools.zip_longest(bodies, bodies[1:], fillvalue=b""), 12):
            yield offer + b"\0" + answer
    yield from descriptions(path.read_bytes() for path in files("siprec/*"))


def dialogs_seeds() -> Iterator[bytes]:
    for path in captures():
        hosts: dict[str, int] = {}
        messages = []
        for _, message, (source, _), (destination, _) in sip_messages(path)[:20]:
            ends = [hosts.setdefault(host, len(hosts)) & 3 for host in (source, destination)]
            messages.append(bytes([0x40 | ends[1] << 2 | ends[0]]) + message)
        if messages:
            yield b"\0".join(messages)


def manifest_seeds() -> Iterator[bytes]:
    import tempfile

    from callreel.captures import RecordOptions, record_capture

    with tempfile.TemporaryDirectory() as folder:
        for path in captures():
            if "calls" in path.parts or "events" in path.parts:
                record_capture(path, RecordOptions(Path(folder)))
        for path in sorted(Path(folder).rglob("*.json")):
            yield path.read_bytes()


def dialects_seeds() -> Iterator[bytes]:
    import json

    from dialogue import dialogues

    def after(seconds: float) -> list[bytes]:
        """Packets, then time without any."""
        packets = min(100, round(50 * seconds))
        rest = round(10 * seconds - packets / 5)
        return [b"A%c" % packets if packets else b"", b"T%c" % min(255, rest) if rest > 0 else b""]

    for vendor, name in enumerate(("chime", "sinch", "graph")):
        for number, path in enumerate(dialogues(name)):
            document = json.loads(path.read_text("utf-8"))
            status = {"offered": 1, "dialed": 2}.get(document["legs"][0].get("status"), 0)
            steps, now = [], 0.0
            for step in sorted(document["steps"], key=lambda step: step["at"]):
                steps += after(step["at"] - now)
                now = step["at"]
                leg = b"" if "LEG-A" in step.values() else b"\1"
                if "request" in step:
                    steps += [
                        b"J" + json.dumps(step["request"]).encode(),
                        b"P",
                        b"M" + bytes([number + 1] * 3),
                    ]
                elif "press" in step:
                    steps.append(b"K" + step["press"].encode())
                elif "add_leg" in step:
                    steps.append(b"L")
                elif "download" in step:
                    steps.append(f"D{step['download']} {step.get('token', '')}".encode())
                else:
                    letters = {"ringing": b"R", "answered": b"C", "hang_up": b"H", "end": b"E"}
                    (letter,) = (letters[word] for word in step if word in letters)
                    steps.append(letter + leg)
                steps.append(b"P")
            steps += [*after(2), b"P", b"S", *after(1), b"E"]
            options = number % 8 * 3 + vendor
            yield bytes([options, status]) + b"\0".join(step for step in steps if step)


def encrypted_seeds() -> Iterator[bytes]:
    import io

    from callreel.encryption import SealedFile

    module = _module(TARGETS["encrypted"])
    for size in (0, 1, 63, 64, 65, 300):
        yield b"\0" + module.sample(bytes(size))
        yield b"\0" + module.sample(bytes(size), 512)
        file = io.BytesIO()
        sealed = SealedFile(file, module.AnyKey().new_data_key(), chunk_bytes=module.CHUNK_BYTES)
        for at in range(0, size, 50):
            sealed.write_at(at, bytes(50))
            sealed.flush()
            sealed.write_at(0, b"header")
        sealed.flush()
        yield b"\0" + file.getvalue()
        whole = module.sample(bytes(size))
        yield b"\0" + whole[: len(whole) - 40]
    for journal in (0, 128):
        for damage in (b"", b"\xff\x00\x50\x01", b"\xff\x01\x00\x00"):
            yield bytes([1, journal]) + b"\0\0\xc8\1\0\x10\x20\2\xfe\0\0\0\0\xf0\x90\3\xfe\0\0\0" + damage


def audiosocket_seeds() -> Iterator[bytes]:
    from callreel.service.audiosocket import message

    stream = message(0x01, bytes(range(16)))
    for kind in range(0x10, 0x19):
        stream += message(kind, bytes(320)) + message(0x03, b"5")
    stream += message(0xFF, b"\4") + message(0x00)
    for size in (0, 2, 30, 255):
        yield bytes([size]) + stream
        yield bytes([size]) + stream[:-200]


def media_streams_seeds() -> Iterator[bytes]:
    import json

    start = {"accountSid": "AC1", "streamSid": "MZ1", "callSid": "CA1", "tracks": ["inbound", "outbound"]}
    twilio = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
    telnyx = {"encoding": "PCMA", "sample_rate": 8000, "channels": 1}
    media = {"track": "outbound", "chunk": "2", "timestamp": "40", "payload": "fn+AgQ=="}
    for document in (
        {"event": "connected", "protocol": "Call", "version": "1.0.0"},
        {
            "event": "start",
            "sequenceNumber": "1",
            "start": start | {"mediaFormat": twilio},
            "streamSid": "MZ1",
        },
        {"event": "start", "start": {"call_control_id": "v3:1", "media_format": telnyx}, "stream_id": "1"},
        {"event": "media", "sequenceNumber": "3", "media": media, "streamSid": "MZ1"},
        {"event": "dtmf", "dtmf": {"track": "inbound_track", "digit": "#"}},
        {"event": "websocket:dtmf", "digit": "5", "duration": 260},
        {"event": "mark", "mark": {"name": "callreel-1"}},
        {"event": "stop", "stop": {"callSid": "CA1"}},
    ):
        yield json.dumps(document).encode()


def wav_seeds() -> Iterator[bytes]:
    return (path.read_bytes() for path in files("**/*.wav"))


TARGETS = {
    target.name: target
    for target in (
        Target(FOLDER / "rtp.c", 16_384, rtp_seeds),
        Target(FOLDER / "sample_store.c", 1_024, sample_store_seeds),
        Target(FOLDER / "demultiplexer.c", 8_192, demultiplexer_seeds),
        Target(FOLDER / "pcap.c", 32_768, pcap_seeds),
        Target(FOLDER / "wav_samples.c", 1_024, wav_samples_seeds),
        Target(FOLDER / "mpeg_frame.c", 16_384, mpeg_frame_seeds),
        Target(FOLDER / "kernels.c", 2_048, kernels_seeds),
        Target(FOLDER / "dtmf.c", 512, dtmf_seeds),
        Target(FOLDER / "sip.py", 4_096, sip_seeds, compiled=False),
        Target(FOLDER / "sdp.py", 4_096, sdp_seeds, compiled=False),
        Target(FOLDER / "dialogs.py", 8_192, dialogs_seeds, compiled=False),
        Target(FOLDER / "manifest.py", 4_096, manifest_seeds, compiled=False),
        Target(FOLDER / "dialects.py", 4_096, dialects_seeds, compiled=False),
        Target(FOLDER / "audiosocket.py", 8_192, audiosocket_seeds, compiled=False),
        Target(FOLDER / "media_streams.py", 4_096, media_streams_seeds, compiled=False),
        Target(FOLDER / "encrypted.py", 4_096, encrypted_seeds, compiled=False),
        Target(FOLDER / "wav.py", 8_192, wav_seeds),
        Target(FOLDER / "mp3.py", 40_960, mp3_seeds),
    )
}
