"""Takes on a disk that stalls, refuses and comes back, with crashes at any write: no file is wrong in silence.

The machine is the spool's desk without its threads; the model is what was written. Every byte of audio says where it
belongs and whether it is the first version or the final one, so that a file can be judged by itself.
"""

import errno
import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from callreel.errors import UsageError
from callreel.formats import Wav
from callreel.kernels import wav
from callreel.spool import Limits, State
from callreel.spool_desk import PASSES, Desk, Take
from callreel.spool_files import PlainFiles
from callreel.spool_recovery import read_left
from callreel.spool_rules import (
    Admission,
    Kept,
    Lost,
    Retention,
    Space,
    check_no_secrets,
    journal_line,
    read_journal,
    runs,
    to_remove,
    without_secrets,
)
from spool_parts import Fault, FaultyFiles, hand, read_wav

DATA = 110
"""Where the audio of these files begins."""
LIMITS = Limits(take_s=0.1 / PASSES, spool_bytes=2600, open_files=1, retry_s=0.25, give_up_s=1e9)
NAMES = ("a", "b")
ERRORS = st.sampled_from([errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EMFILE, errno.EROFS])


def sound(first, end, final):
    """The bytes that belong there: never 0."""
    return ((np.arange(first, end) * 7 % 120) + (129 if final else 1)).astype(np.uint8).tobytes()


def marked(ranges, size):
    found = np.zeros(size, bool)
    for start, end, _ in ranges:
        found[start:end] = True
    return found


class Machine(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        (self.folder / "takes").mkdir()
        self.clock = 0.0
        self.fault = Fault()
        self.fault.on_write = self.look
        self.wrong = []
        self.desk = Desk(
            self.folder,
            files=FaultyFiles(self.fault),
            limits=LIMITS,
            fsync="none",
            now=lambda: 1e9,
            monotonic=lambda: self.clock,
        )
        self.takes, self.wavs, self.final, self.safe, self.held = {}, {}, {}, {}, {}
        for name in NAMES:
            self.takes[name] = Take(self.desk, name, {"name": name})
            self.wavs[name] = Wav(sample_rate=8000, channels=1)
            self.final[name] = set()
            self.safe[name] = 0
            hand(self.takes[name], self.wavs[name].start())

    def teardown(self):
        if not hasattr(self, "folder"):
            return
        self.disk_is_well()
        for name, take in self.takes.items():
            hand(take, self.wavs[name].finish())
            take.finish({"name": name})
        for _ in range(10):
            self.rounds()
        told = {report.take_id: report for report in self.desk.reports if report.kind == "degraded"}
        for name, take in self.takes.items():
            assert not take._is_busy
            data = (take.folder / "audio.wav").read_bytes()
            end = DATA + 2 * self.wavs[name].frames
            assert len(data) == end
            truth = np.frombuffer(sound(0, end, False), np.uint8).copy()
            for first, last in self.final[name]:
                truth[first:last] = np.frombuffer(sound(first, last, True), np.uint8)
            wrong = np.frombuffer(data, np.uint8) != truth
            wrong[:DATA] = False
            assert not (wrong & ~marked(take.lost.ranges, end)).any()
            assert (take.lost.dropped_bytes > 0) == (name in told)
            assert len(read_wav(data)) == self.wavs[name].frames
        assert self.desk.waiting_bytes == 0
        assert self.wrong == []
        shutil.rmtree(self.folder)

    # ---- what a call does ----

    @rule(name=st.sampled_from(NAMES), frames=st.integers(1, 200), flush=st.booleans())
    def say(self, name, frames, flush):
        file = self.wavs[name]
        first = file.size_bytes
        writes = file.add(sound(first, first + 2 * frames, False)) + file.flush()
        for offset, data in writes:
            self.takes[name].write(offset, data)
        if flush:
            self.takes[name].flush()

    @rule(name=st.sampled_from(NAMES), back=st.integers(1, 800), frames=st.integers(1, 200))
    def make_final(self, name, back, frames):
        end = self.wavs[name].size_bytes
        first = max(DATA, end - 2 * back)
        last = min(end, first + 2 * frames)
        if last > first:
            hand(self.takes[name], [(first, sound(first, last, True))])
            self.final[name].add((first, last))

    @rule(name=st.sampled_from(NAMES))
    def note(self, name):
        self.takes[name].note("digit", symbol="5")

    # ---- what the disk does ----

    @rule(error=ERRORS, only=st.sampled_from([None, *NAMES]), good=st.integers(0, 5))
    def disk_refuses(self, error, only, good):
        self.fault.error, self.fault.only, self.fault.writes_left = error, only, good

    @rule()
    def disk_is_well(self):
        self.fault.error = self.fault.only = self.fault.writes_left = None

    @rule()
    def write(self):
        self.desk.write_round()

    @rule()
    def rounds(self):
        self.clock += 1.0
        self.desk.write_round()
        self.desk.keep_round(sync_running=False)
        if self.fault.error is None:
            for name, take in self.takes.items():
                if take._error is None and not take._open and take._open_header is None:
                    self.safe[name] = self.wavs[name].frames

    # ---- what must hold ----

    def look(self):
        try:
            self.check_files()
        except Exception as error:  # the desk would take it for one of the disk
            self.wrong.append(error)

    @invariant()
    def nothing_was_wrong_at_any_write(self):
        for error in getattr(self, "wrong", ()):
            raise error

    def check_files(self):
        """At every single write: each byte is true, or a hole of which the journal on the disk tells."""
        for name, take in self.takes.items():
            path = take.folder / "audio.wav"
            if path.exists() and path.stat().st_size:
                journal, _, damaged = read_journal((take.folder / "journal.jsonl").read_bytes())
                assert damaged == 0
                ranges = [entry["ranges"] for entry in journal if entry["kind"] == "lost"]
                self.check_audio(path.read_bytes(), ranges[-1] if ranges else [])
                assert name in self.wavs

    @staticmethod
    def check_audio(data, ranges):
        info = wav.parse(data)
        assert info.data_offset == DATA
        assert not info.truncated or info.declared_data_bytes < info.data_bytes
        assert info.declared_data_bytes <= len(data) - DATA
        found = np.frombuffer(data, np.uint8)
        first = np.frombuffer(sound(0, len(data), False), np.uint8)
        final = np.frombuffer(sound(0, len(data), True), np.uint8)
        silent = (found != first) & (found != final) & ~marked(ranges, len(data))
        assert not silent[DATA:].any()

    @invariant()
    def memory_is_bounded(self):
        if hasattr(self, "takes"):
            assert self.desk.waiting_bytes == sum(take.waiting_bytes for take in self.takes.values())
            assert self.desk.waiting_bytes <= LIMITS.spool_bytes
            assert all(take.waiting_bytes <= 0.1 * 16000 for take in self.takes.values())

    @precondition(lambda self: any((take.folder / "audio.wav").exists() for take in self.takes.values()))
    @rule()
    def crash(self):
        with tempfile.TemporaryDirectory() as other:
            copy = shutil.copytree(self.folder, Path(other) / "copy")
            desk = Desk(
                copy, files=PlainFiles(), limits=LIMITS, fsync="none", now=lambda: 1e9, monotonic=lambda: 0.0
            )
            for name in NAMES:
                if not (copy / "takes" / name).exists():
                    continue
                left = read_left(desk, PlainFiles(), name)
                again = read_left(desk, PlainFiles(), name)
                assert left.state is again.state is State.RUNNING
                assert left.problems == again.problems == ()
                assert left.audio == again.audio
                assert left.take.degradation() == again.take.degradation()
                if left.audio is not None:
                    assert left.audio.frames >= self.safe[name]
                    data = left.audio.path.read_bytes()
                    self.check_audio(data, left.take.lost.ranges)
                    assert len(read_wav(data)) == left.audio.frames


TestTakes = Machine.TestCase
TestTakes.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# ---- the rules one by one ---------------------------------------------------------------------------

SPANS = st.lists(st.tuples(st.booleans(), st.integers(0, 3000), st.integers(1, 300)), max_size=150)


@given(SPANS)
def test_what_is_lost_is_what_was_dropped_and_not_written_since_or_more_when_there_are_too_many(spans):
    lost, model, dropped = Lost(), np.zeros(4000, bool), 0
    exact = True
    for drops, start, size in spans:
        model[start : start + size] = drops
        if drops:
            before = lost.lost_bytes
            lost.add(start, start + size, "x")
            exact = exact and lost.lost_bytes <= before + size and len(lost.ranges) < 100
            dropped += size
        else:
            lost.cover(start, start + size)
        found = marked(lost.ranges, 4000)
        assert not (model & ~found).any()
        assert not exact or (model == found).all()
        assert lost.ranges == sorted(lost.ranges)
        assert len(lost.ranges) <= 100
    assert lost.dropped_bytes == dropped


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 50)), max_size=200), st.integers(50, 200))
def test_no_more_waits_than_may_and_after_a_refusal_half_goes_first(steps, limit):
    admission, waiting, refused = Admission(limit), 0, False
    for writes, size in steps:
        if not writes:
            waiting = max(0, waiting - size)
            continue
        admitted = admission.admits(size, waiting, waiting, 10 * limit)
        assert admitted == (waiting + size <= limit and not (refused and 2 * waiting > limit))
        waiting += size if admitted else 0
        refused = not admitted
        assert waiting <= limit


@given(st.lists(st.tuples(st.integers(0, 40), st.binary(max_size=10)), max_size=30))
def test_joined_writes_do_what_the_single_ones_do(writes):
    one, other = bytearray(60), bytearray(60)
    for offset, data in writes:
        one[offset : offset + len(data)] = data
    for offset, pieces in runs(writes):
        joined = b"".join(pieces)
        other[offset : offset + len(joined)] = joined
    assert one == other


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(st.lists(JSON, max_size=8), st.integers(0, 10_000), st.binary(max_size=40))
def test_a_journal_that_is_cut_anywhere_gives_its_whole_lines_and_nothing_else(values, cut, rubbish):
    lines = [journal_line({"kind": "note", "value": value}) for value in values]
    whole = b"".join(lines)
    cut = min(cut, len(whole))
    entries, end, _ = read_journal(whole[:cut] + rubbish.replace(b"\n", b""))
    count = whole[:cut].count(b"\n")
    if len(entries) != count:  # the rubbish was the very end of the line
        count += 1
    assert [entry["value"] for entry in entries] == values[:count]
    assert end == sum(map(len, lines[:count]))


@given(st.lists(st.floats(0, 1000), max_size=60))
def test_takes_are_not_refused_and_accepted_in_turn_while_room_stays_between_the_thresholds(free):
    rule, accepting = Space(300, 0.0, 600, 0.0, 0), True
    for one in free:
        was, accepting = accepting, rule.accepts(accepting, free_bytes=int(one), total_bytes=1000)
        if accepting != was:
            assert int(one) >= 600 if accepting else int(one) < 300


@given(
    st.lists(st.tuples(st.sampled_from(list(State)), st.floats(-1e9, 1e9)), max_size=20),
    st.none() | st.floats(0, 1e6),
    st.floats(-1e9, 1e9),
)
def test_nothing_is_removed_that_was_not_delivered_and_told(found, keep_s, now_s):
    takes = [Kept(str(n), *one) for n, one in enumerate(found)]
    for take_id in to_remove(takes, Retention(keep_s), now_s):
        assert takes[int(take_id)].state is State.TOLD
        assert keep_s is not None
        assert keep_s == 0 or now_s - takes[int(take_id)].since_s >= keep_s


JSON = st.recursive(
    st.none()
    | st.integers()
    | st.sampled_from(["text", "Bearer abc", "AKIAABCDEFGHIJKLMNOP", "https://a:b@c.example/"]),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["name", "token", "Secret-Key", "to"]), inner)
    ),
)


@given(JSON)
def test_without_secrets_nothing_is_left_that_would_be_refused_and_all_else_is(value):
    cleaned = without_secrets(value)
    check_no_secrets(cleaned, "it")
    assert without_secrets(cleaned) == cleaned
    try:
        check_no_secrets(value, "it")
    except UsageError:
        assert cleaned != value
    else:
        assert cleaned == value
