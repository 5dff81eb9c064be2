"""kill -9 of a recording process, again and again: what it leaves is taken up by the next, which is killed as well."""

import json
import multiprocessing
import random
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

import mortal_host
from callreel.kernels import g711
from callreel.verification import verify
from mortal_host import PACKET_SAMPLES, SLOTS_A_LIFE, Ledger, Ticks, call_id, kind_of, said, slot_of

LIVES = 10
"""Recording processes on one spool, each of which is killed."""
MOST_MISSING_MS = 200
IN_PARALLEL = 4
RATE = 8000


class Chain(NamedTuple):
    """What is known of one spool after all its processes."""

    begun: int
    events: int
    delivered: int
    recovered: int
    failed: int
    called_off: int
    missing_ms: list[float]
    excused: int
    """Recordings that lack more, because the machine was too busy to give their process its turn."""


def process(folder, life, seed, calls):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mortal_host"])
    return context.Process(target=mortal_host.live, args=(str(folder), life, seed, calls), daemon=True)


def kill(folder, life, seed, chance, *, calls):
    """Start a process and kill it at a random moment of its life."""
    one = process(folder, life, seed, calls)
    one.start()
    time.sleep(chance.uniform(0.02, 1.5) if calls else chance.uniform(0.01, 0.4))
    at_ns = time.monotonic_ns()
    one.kill()
    one.join()
    return Ticks(folder / f"ticks-{life}").waited_ms(at_ns) if calls else 0.0


def run_chain(folder, seed):
    folder.mkdir()
    chance = random.Random(seed)
    waited_ms = []
    for life in range(LIVES):
        waited_ms.append(kill(folder, life, seed, chance, calls=True))
        if chance.random() < 0.3:  # what only recovers dies too
            kill(folder, 1000 + life, seed, chance, calls=False)
    last = process(folder, 2000, seed, False)
    last.start()
    last.join(150)
    assert last.exitcode == 0, f"seed {seed}: the last process left something"
    try:
        return look(folder, waited_ms)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, {folder}: {error}") from error


def look(folder, waited_ms):
    ledger = Ledger(folder / "ledger", 64 * SLOTS_A_LIFE)
    by_call = defaultdict(dict)
    for line in (folder / "events").read_text().splitlines():
        event = json.loads(line)
        before = by_call[event["call_id"]].setdefault(event["id"], event)
        assert (before["location"], before["error"] is None) == (event["location"], event["error"] is None)
    begun = [slot for slot in range(LIVES * SLOTS_A_LIFE) if ledger.has_begun(slot)]
    untold = [slot for slot in begun if call_id(slot) not in by_call]
    assert not untold, f"no terminal event of {untold}"
    assert all(len(events) == 1 for events in by_call.values())
    missing_ms, excused, counts = [], 0, Counter()
    for name, events in by_call.items():
        (event,) = events.values()
        assert event["event"] == "take_ended"
        slot = slot_of(name)
        most_ms = MOST_MISSING_MS + waited_ms[slot // SLOTS_A_LIFE]
        became, lacks_ms = what_became_of(event, ledger.packets(slot))
        assert lacks_ms <= most_ms, f"{lacks_ms} ms of {name} are missing, more than {most_ms}"
        missing_ms.append(lacks_ms)
        excused += lacks_ms > MOST_MISSING_MS
        counts[became] += 1
        counts["recovered"] += event["end_reason"] == "recovered"
    assert not list((folder / "spool" / "queue" / "waiting").iterdir())
    files = [path for path in (folder / "out").rglob("*") if path.is_file()]
    assert len(files) == counts["delivered"]
    return Chain(
        len(begun),
        len(by_call),
        counts["delivered"],
        counts["recovered"],
        counts["failed"],
        counts["called off"],
        missing_ms,
        excused,
    )


def what_became_of(event, packets):
    """Look at everything there is of a recording; also gives how much of its end is missing, in ms."""
    slot = slot_of(event["call_id"])
    kind = kind_of(slot)
    handed_ms = 1000 * packets * PACKET_SAMPLES / RATE
    if event["location"] is None and event["error"] is None:
        assert event["end_reason"] == "max_duration"
        assert kind.action.undelivered == {"max_duration"}
        return "called off", 0.0
    if event["error"] is not None:
        if kind.is_refused and "something else is there" in event["error"]:
            return "failed", 0.0
        assert event["error"] == "nothing of it had been recorded when its process died"
        return "failed", handed_ms
    assert event["end_reason"] != "max_duration"
    path = Path(event["location"].removeprefix("file://"))
    manifest = event["manifest"]
    beside = Path(f"{path}.json")
    beside.write_text(json.dumps(manifest))
    assert verify(path).findings == ()
    beside.unlink()
    audio, rate = soundfile.read(path, dtype="int16", always_2d=True)
    assert len(audio) == manifest["frames"]
    heard = len(audio) * RATE // rate
    if rate == RATE and path.suffix == ".wav":
        heard = same_as_said(audio, slot, packets)
    ends_ms = kind.action.rules.max_duration_ms
    if ends_ms is not None and handed_ms >= ends_ms:
        return "delivered", 0.0
    return "delivered", 1000 * max(0, packets * PACKET_SAMPLES - heard) / RATE


def same_as_said(audio, slot, packets):
    """Compare sample by sample; gives how much of what was said is there, of the side that has less."""
    there = []
    for side in range(audio.shape[1]):
        codes = b"".join(said(slot, number, side) for number in range(packets))
        spoken = np.frombuffer(g711.ulaw_decode(codes), np.int16)
        loud = np.flatnonzero(audio[:, side])
        if not len(loud):
            return 0
        # Where the first packet was late, what was said begins with the recording, or a little before it.
        before = spoken.tobytes().find(audio[:, side][:32].tobytes()) // 2 if loud[0] == 0 else 0
        heard = audio[loud[0] : loud[-1] + 1, side]  # where one side ends, the other may be a little ahead
        expected = spoken[before : before + len(heard)]
        np.testing.assert_array_equal(heard, expected, f"{call_id(slot)}, side {side}")
        assert 0 <= before <= 2 * PACKET_SAMPLES
        there.append(before + len(heard))
    return min(there)


def test_kill_9_loses_at_most_200_ms_and_no_terminal_event(fast_path, scale, figures, seeds):
    chains = scale(200, 1000) // LIVES
    seed = seeds("kills")
    with ThreadPoolExecutor(IN_PARALLEL) as pool:
        found = list(pool.map(lambda n: run_chain(fast_path / str(n), f"{seed}-{n}"), range(chains)))
    missing_ms = sorted(one for chain in found for one in chain.missing_ms)
    total = {name: sum(getattr(chain, name) for chain in found) for name in Chain._fields[:6]}
    figures(
        f"{chains * LIVES} kills of recording processes: {total['begun']} recordings had begun, {total['events']} "
        f"terminal events, {total['delivered']} delivered ({total['recovered']} recovered), {total['failed']} failed "
        f"(refused by the destination, or begun less than 200 ms before), {total['called_off']} called off; missing at "
        f"their ends: at most {missing_ms[-1]:.0f} ms, median {missing_ms[len(missing_ms) // 2]:.0f} ms, "
        f"{sum(chain.excused for chain in found)} more than 200 ms because the machine was too busy"
    )
    assert sum(chain.recovered for chain in found) >= chains * LIVES
