"""Threads: functions may be called from any; an object belongs to one at a time and refuses a second.

The rules are in docs/architecture.md, "Threads". Under the GIL a second thread gets in only while the first works
without it, on long input; a free-threaded Python lets it in anywhere, and the same tests then say more.
"""

import contextlib
import random
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from callreel.errors import UsageError
from callreel.kernels import dtmf, g711, mp3, pcap, pcm, rtp, tone, wav
from capture_writer import capture, rtp_packet

THREADS = 4
LONG = 60_000  # samples or bytes: enough to be worked on without the GIL
SHORT = 160
PACKET_NS = 20_000_000

SPEECH = np.random.default_rng(1).integers(-9000, 9000, LONG, dtype=np.int16).tobytes()
CODES = np.random.default_rng(2).integers(0, 96, LONG, dtype=np.uint8).tobytes()
DIGITS_SAID = "159D" * 8
DIGITS = b"".join(tone.dtmf(symbol, seconds=0.1) + bytes(1600) for symbol in DIGITS_SAID)
PACKETS = [rtp_packet(CODES[n : n + SHORT], seq=n, timestamp=n * SHORT, ssrc=7) for n in range(400)]
MPEG_FRAME = b"\xff\xfb\x90\x00" + bytes(413)  # 128 kbit/s at 44.1 kHz
MP3 = MPEG_FRAME * 400
WAV = wav.header(sample_rate=8000, channels=1, frames=LONG) + SPEECH
CAPTURE = capture(
    (n / 50, ("10.0.0.1", 4000), ("10.0.0.2", 5000), packet) for n, packet in enumerate(PACKETS)
)

RECORDS = np.zeros(len(PACKETS), dtype=pcap.DTYPE)
RECORDS["length"] = [len(packet) for packet in PACKETS]
RECORDS["offset"] = np.cumsum(RECORDS["length"]) - RECORDS["length"]
RECORDS["time_ns"] = np.arange(len(PACKETS)) * PACKET_NS
PAYLOADS = b"".join(PACKETS)


@pytest.fixture(autouse=True)
def _threads_change_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def in_threads(work, count=THREADS):
    """What `work(number)` returns in each of `count` threads that start together."""
    together = threading.Barrier(count)

    def run(number):
        together.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


# ---- functions, and an object for each thread -----------------------------------------------------


def read_a_stream():
    receiver = rtp.Receiver()
    audio = b""
    for number, packet in enumerate(PACKETS):
        receiver.receive(packet, number * PACKET_NS)
        audio += receiver.read(receiver.ready(number * PACKET_NS))
    receiver.finish()
    return audio + receiver.read(receiver.end), receiver.counts


def read_a_stream_in_batches():
    receiver = rtp.Receiver()
    audio, done = b"", 0
    while done < len(PACKETS):
        done += receiver.receive_batch(PAYLOADS, RECORDS, done)
        audio += receiver.read(receiver.end)
    return audio, receiver.counts


def survey_a_flow():
    survey = rtp.Survey()
    survey.receive_batch(PAYLOADS, RECORDS)
    return survey.runs


def read_a_capture():
    reader = pcap.Reader()
    batch = reader.feed(CAPTURE)
    reader.finish()
    return bytes(batch.data), batch.groups, reader.counts, list(reader.flows)


def hear_a_channel():
    detector = dtmf.Detector()
    return detector.feed(DIGITS[:20_000]) + detector.feed(DIGITS[20_000:]) + detector.flush()


def convert_a_stream():
    resampler = pcm.Resampler(8000, 16000)
    return resampler.feed(SPEECH[:SHORT]) + resampler.feed(SPEECH[SHORT:]) + resampler.flush()


def scan_a_file():
    scanner = mp3.Scanner()
    for at in range(0, len(MP3), 10_001):
        scanner.feed(MP3[at : at + 10_001])
    return scanner.finish()


def walk_a_file():
    parser = wav.Parser(len(WAV))
    while parser.wanted is not None:
        offset, size = parser.wanted
        parser.feed(WAV[offset : offset + size])
    return parser.info


WORK = [
    lambda: g711.ulaw_decode(CODES),
    lambda: g711.alaw_decode(CODES[:SHORT]),
    lambda: g711.ulaw_encode(SPEECH),
    lambda: g711.alaw_encode(SPEECH[:SHORT]),
    lambda: pcm.interleave(SPEECH, SPEECH[::-1]),
    lambda: pcm.deinterleave(SPEECH),
    lambda: pcm.mix([SPEECH, SPEECH[::-1], DIGITS[: len(SPEECH)].ljust(len(SPEECH), b"\0")]),
    lambda: pcm.gain(SPEECH, -4.5),
    lambda: pcm.level(SPEECH),
    lambda: pcm.frame_levels(SPEECH, SHORT),
    lambda: pcm.resample(SPEECH, 8000, 11025),
    lambda: tone.sine(440, 1, -10),
    lambda: dtmf.detect_many([DIGITS, SPEECH]),
    lambda: list(mp3.frames(MP3)),
    lambda: mp3.scan(MP3),
    lambda: wav.parse(WAV),
    lambda: rtp.parse(PACKETS[3]),
    read_a_stream,
    read_a_stream_in_batches,
    survey_a_flow,
    read_a_capture,
    hear_a_channel,
    convert_a_stream,
    scan_a_file,
    walk_a_file,
]


def test_the_work_of_these_tests_is_work():
    assert [digit.symbol for digit in hear_a_channel()] == list(DIGITS_SAID)
    assert len(list(mp3.frames(MP3))) == 400
    for read in (read_a_stream, read_a_stream_in_batches):
        audio, counts = read()
        assert audio == g711.ulaw_decode(b"".join(packet[12:] for packet in PACKETS))
        assert counts["received"] == len(PACKETS)
    assert survey_a_flow()[0].packets == len(PACKETS)
    assert read_a_capture()[2]["udp"] == len(PACKETS)
    assert walk_a_file().frames == LONG


def test_functions_and_separate_objects_give_in_threads_what_they_give_in_one():
    expected = [work() for work in WORK]

    def all_of_it(number):
        order = list(range(len(WORK))) * 3
        random.Random(number).shuffle(order)
        return [at for at in order if WORK[at]() != expected[at]]

    assert in_threads(all_of_it) == [[]] * THREADS


def test_an_output_that_two_threads_fill_holds_what_one_of_them_wrote():
    out = bytearray(2 * LONG)
    codes = [bytes([20 + number]) * LONG for number in range(THREADS)]
    in_threads(lambda number: [g711.ulaw_decode(codes[number], out) for _ in range(50)])
    written = {g711.ulaw_decode(bytes([20 + number])) for number in range(THREADS)}
    assert {bytes(out[at : at + 2]) for at in range(0, len(out), 2)} <= written


# ---- one object, many threads ---------------------------------------------------------------------


class Shared:
    """An object, what threads do to it all at once, and what must be true of it afterwards."""

    def __init__(self):
        self.done = Counter()

    def check(self):
        """Whether every call that was let in took effect once, and no other did."""
        raise NotImplementedError


class SharedReceiver(Shared):
    def __init__(self):
        super().__init__()
        self.receiver = rtp.Receiver()
        self.batch = rtp.Receiver()
        self.calls = [self.one, self.many, self.read, self.look]

    def one(self):
        self.receiver.receive(PACKETS[0], 0, force=True)
        return "received", 1

    def many(self):
        return "received", self.receiver.receive_batch(PAYLOADS, RECORDS, force=True)

    def read(self):
        self.receiver.hear()
        self.receiver.digits()
        self.receiver.gaps()
        return "read", len(self.receiver.read(self.receiver.position + LONG)) // 2

    def look(self):
        for name in ("end", "counts", "ssrcs", "payload_types_seen", "drift_ppm", "alignment_error_ms"):
            getattr(self.receiver, name)
        return "looked", 1

    def check(self):
        assert self.receiver.counts["received"] == self.done["received"]
        assert self.receiver.position == self.done["read"]


class SharedPair(Shared):
    def __init__(self):
        super().__init__()
        self.receivers = [rtp.Receiver(detect_digits=True), rtp.Receiver(detect_digits=True)]
        self.pair = rtp.Pair(*self.receivers)
        self.calls = [self.read, self.skip, self.look]

    def read(self):
        return "read", len(self.pair.read(self.pair.position + LONG)) // 4

    def skip(self):
        self.pair.skip(0)
        return "looked", 1

    def look(self):
        self.pair.listen()
        self.pair.ready(0)
        return "looked", self.pair.sounding_since is None

    def check(self):
        assert [one.position for one in self.receivers] == [self.done["read"]] * 2


class SharedSurvey(Shared):
    def __init__(self):
        super().__init__()
        self.survey = rtp.Survey()
        self.calls = [self.many, self.look]

    def many(self):
        self.survey.receive_batch(PAYLOADS, RECORDS)
        return "received", len(PACKETS)

    def look(self):
        assert len(self.survey.runs) <= 8
        return "looked", self.survey.malformed

    def check(self):
        assert sum(run.packets for run in self.survey.runs) == self.done["received"]
        assert self.done["looked"] == 0


class SharedReader(Shared):
    def __init__(self):
        super().__init__()
        self.reader = pcap.Reader()
        self.reader.feed(CAPTURE[:24])
        self.calls = [self.feed, self.look]

    def feed(self):
        self.reader.feed(CAPTURE[24:])
        return "udp", len(PACKETS)

    def look(self):
        return "flows", len(list(self.reader.flows)) > 1

    def check(self):
        self.reader.finish()
        assert self.reader.counts["udp"] == self.done["udp"]
        assert not self.reader.truncated
        assert self.done["flows"] == 0


class SharedDetector(Shared):
    def __init__(self):
        super().__init__()
        self.detector = dtmf.Detector()
        self.calls = [self.feed, self.feed_little, self.look]

    def feed(self):
        self.detector.feed(DIGITS)
        return "samples", len(DIGITS) // 2

    def feed_little(self):
        self.detector.feed(bytes(2 * SHORT))
        return "samples", SHORT

    def look(self):
        _ = self.detector.active
        return "looked", 1

    def check(self):
        assert self.detector.position == self.done["samples"]


class SharedBank(Shared):
    def __init__(self):
        super().__init__()
        self.bank = dtmf.Bank(3)
        self.calls = [self.feed, self.feed_little]

    def feed(self):
        return "digits", len(self.bank.feed([DIGITS] * 3)), "fed", 1

    def feed_little(self):
        return "digits", len(self.bank.feed(bytes(3 * 2 * SHORT)))

    def check(self):
        assert self.done["digits"] + len(self.bank.flush()) == 3 * len(DIGITS_SAID) * self.done["fed"]


class SharedResampler(Shared):
    def __init__(self):
        super().__init__()
        self.resampler = pcm.Resampler(8000, 16000)
        self.calls = [self.feed, self.feed_little]

    def feed(self):
        return ("in", LONG, "out", len(self.resampler.feed(SPEECH)) // 2)

    def feed_little(self):
        return ("in", SHORT, "out", len(self.resampler.feed(SPEECH[: 2 * SHORT])) // 2)

    def check(self):
        assert self.done["out"] + len(self.resampler.flush()) // 2 == 2 * self.done["in"]


class SharedScanner(Shared):
    def __init__(self):
        super().__init__()
        self.scanner = mp3.Scanner()
        self.scanner.feed(MPEG_FRAME)
        self.calls = [self.feed, self.look]

    def feed(self):
        self.scanner.feed(MP3)
        return "frames", len(MP3) // len(MPEG_FRAME)

    def look(self):
        return "entries", len(self.scanner.seek_table((1 << 40) - 1)) != 100

    def check(self):
        info = self.scanner.finish()
        assert info.mpeg_frames == self.done["frames"] + 1
        assert self.done["entries"] == 0


class SharedFrames(Shared):
    def __init__(self):
        super().__init__()
        self.frames = mp3.frames(MPEG_FRAME * 20_000)
        self.calls = [self.next]

    def next(self):
        frame = next(self.frames, None)
        return ("frame", 0) if frame is None else (frame.offset, 1)

    def check(self):
        rest = Counter(frame.offset for frame in self.frames)
        del self.done["frame"]
        assert self.done + rest == dict.fromkeys(range(0, 20_000 * len(MPEG_FRAME), len(MPEG_FRAME)), 1)


class SharedParser(Shared):
    """What is wanted may change between asking and feeding: the walk may go wrong, nothing else may."""

    def __init__(self):
        super().__init__()
        self.parser = wav.Parser(len(WAV))
        self.calls = [self.feed, self.look]

    def feed(self):
        if self.parser.wanted is None:
            self.parser = wav.Parser(len(WAV))
        parser = self.parser
        try:
            while wanted := parser.wanted:
                parser.feed(WAV[wanted[0] : sum(wanted)])
            return "walks", parser.info is not None
        except ValueError:
            return "walks", 0

    def look(self):
        try:
            return "looked", self.parser.info is not None
        except ValueError:  # the walk is not over
            return "looked", 0

    def check(self):
        assert self.done["walks"] > 0


SHARED = [
    SharedReceiver,
    SharedPair,
    SharedSurvey,
    SharedReader,
    SharedDetector,
    SharedBank,
    SharedResampler,
    SharedScanner,
    SharedFrames,
    SharedParser,
]


@pytest.mark.parametrize("make", SHARED, ids=lambda make: make.__name__)
def test_a_call_from_a_second_thread_is_done_once_or_refused(make):
    shared = make()

    def hammer(number):
        chance = random.Random(number)
        done = Counter()
        for _ in range(150):
            try:
                told = chance.choice(shared.calls)()
            except UsageError:
                done["refused"] += 1
                continue
            for what, how_many in zip(told[::2], told[1::2], strict=True):
                done[what] += how_many
        return done

    for done in in_threads(hammer):
        shared.done += done
    refused = shared.done.pop("refused", 0)
    shared.check()
    assert refused < THREADS * 150


LONG_BATCH = np.tile(RECORDS, 500)


def occupied_receiver():
    receiver = rtp.Receiver()
    return (
        lambda: receiver.receive_batch(PAYLOADS, LONG_BATCH, force=True),
        [lambda: receiver.receive(PACKETS[0], 0), lambda: receiver.read(1), lambda: receiver.counts],
    )


def occupied_survey():
    survey = rtp.Survey()
    return lambda: survey.receive_batch(PAYLOADS, LONG_BATCH), [lambda: survey.runs, lambda: survey.rtcp]


def occupied_scanner():
    scanner = mp3.Scanner()
    return lambda: scanner.feed(MP3 * 100), [
        lambda: scanner.feed(b""),
        lambda: scanner.seek_table((1 << 40) - 1),
    ]


def occupied_detector():
    detector = dtmf.Detector()
    return lambda: detector.feed(DIGITS * 40), [lambda: detector.feed(b""), lambda: detector.position]


def occupied_bank():
    bank = dtmf.Bank(2)
    return lambda: bank.feed([DIGITS * 20] * 2), [lambda: bank.feed(bytes(4)), bank.flush]


def occupied_resampler():
    resampler = pcm.Resampler(48000, 8000)
    return lambda: resampler.feed(SPEECH * 20), [lambda: resampler.feed(b"")]


def occupied_reader():
    reader = pcap.Reader()
    reader.feed(CAPTURE[:24])
    return lambda: reader.feed(CAPTURE[24:] * 100), [lambda: reader.ignore(0), lambda: list(reader.flows)]


@pytest.mark.parametrize(
    "make",
    [
        occupied_receiver,
        occupied_survey,
        occupied_scanner,
        occupied_detector,
        occupied_bank,
        occupied_resampler,
        occupied_reader,
    ],
    ids=lambda make: make.__name__,
)
def test_a_second_thread_is_refused_while_the_first_is_at_work(make):
    for _ in range(40):  # a busy machine may let the first finish before this thread runs again
        work, others = make()

        def until_it_is_let_in(work=work):
            while True:
                with contextlib.suppress(UsageError):  # one of the others was at work when this thread began
                    return work()

        worker = threading.Thread(target=until_it_is_let_in)
        refused = set()
        worker.start()
        while worker.is_alive() and len(refused) < len(others):
            for number, other in enumerate(others):
                try:
                    other()
                except UsageError:
                    refused.add(number)
                except (IndexError, ValueError):
                    pass  # let in before or after the work, and told what is wrong with the call
        worker.join()
        if len(refused) == len(others):
            return
    pytest.fail(f"only {refused} of {len(others)} calls were ever refused")


def test_an_object_is_free_again_when_a_call_fails():
    receiver, survey, scanner = rtp.Receiver(), rtp.Survey(), mp3.Scanner()
    for _ in range(2):
        with pytest.raises(TypeError):
            receiver.receive("text", 0)
        with pytest.raises(ValueError, match="records"):
            receiver.receive_batch(PAYLOADS, RECORDS, 401)
        with pytest.raises(ValueError, match="at once"):
            receiver.read(1 << 40)
        with pytest.raises(ValueError, match="payload type"):
            receiver.set_payload_types({128: "PCMU"})
        with pytest.raises(TypeError):
            rtp.Receiver(host_frames=True).push("text", 0)
        with pytest.raises(ValueError, match="records"):
            survey.receive_batch(PAYLOADS, RECORDS, 401)
        with pytest.raises(TypeError):
            scanner.feed("text")
        with pytest.raises(ValueError, match="bytes fed"):
            scanner.seek_table(-1)
    assert receiver.receive(PACKETS[0], 0)
    assert receiver.counts["received"] == 1
