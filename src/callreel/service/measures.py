"""The figures of a service: gathered from where they are when somebody asks, counted here where they are nowhere."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from callreel.delivery.queue_files import DEAD, QUEUE_FOLDER
from callreel.recorder.figures import LATENESS_BOUNDS_S, Figures, Milestone
from callreel.service.host import Host
from callreel.service.metrics import Family, Histogram, Sample, histogram, one
from callreel.service.watching import Watch
from callreel.spool import TAKES_FOLDER, State

__all__ = ["Measures", "dead_letters", "rtp_families", "taken_bytes"]

WORK_BOUNDS_S: Final = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0)
REQUEST_BOUNDS_S: Final = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
WINDOW_S: Final = 10.0
"""At least so long a time the CPU time of a packet is taken over."""
LANES_MAX: Final = 200
"""Lanes that are told one by one; of thousands of customers' buckets the fullest."""

RTP_FATES: Final = (
    "received",
    "reports",
    "reports_sent",
    "strangers",
    "foreign",
    "malformed",
    "too_long",
    "overflowed",
    "kernel_dropped",
    "relearnt",
    "send_sent",
    "send_refused",
)

Source = Callable[[], Iterable[Family]]


class _Look(NamedTuple):
    at_s: float
    cpu_s: float
    packets: int


class Measures:
    """Counts what happens, and gives all there is to measure; any thread."""

    def __init__(self) -> None:
        """Begin to count."""
        self._lock = threading.Lock()
        self._work: Counter[tuple[str, str, str]] = Counter()
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._work_s = Histogram(WORK_BOUNDS_S)
        self._request_s = Histogram(REQUEST_BOUNDS_S)
        self._looks: deque[_Look] = deque(maxlen=64)
        self._sources: list[Source] = []

    def add_source(self, source: Source) -> None:
        """Have somebody else's families told too, such as those of the media."""
        self._sources.append(source)

    def observe(self, milestone: Milestone) -> None:
        """Count something that the recorder has done."""
        outcome = (
            "done" if milestone.error_class is None else "given_up" if milestone.is_given_up else "failed"
        )
        with self._lock:
            self._work[milestone.what, outcome, milestone.error_class or ""] += 1
        if milestone.what != "recording":
            self._work_s.add(milestone.ended_s - milestone.began_s, what=milestone.what)

    def answered(self, method: str, route: str, status: int, took_s: float) -> None:
        """Count a request."""
        with self._lock:
            self._requests[method, route, str(status)] += 1
        self._request_s.add(took_s, route=route)

    def families(self, host: Host, watch: Watch, spool: Path) -> Iterator[Family]:
        """All of them."""
        figures, now_s = host.recorder.figures(), time.time()
        figures = figures._replace(takes=tuple(host.takes()), lanes=host.lanes())
        yield from _calls(host, figures)
        spools = [spool, *host.other_spools()]
        yield from _spool(figures, spools, now_s)
        yield from _queue(figures, spools, now_s)
        yield from self._counted()
        yield from _load(host, watch)
        yield from self._process(figures)
        for source in self._sources:
            yield from source()

    def _counted(self) -> Iterator[Family]:
        with self._lock:
            work, requests = dict(self._work), dict(self._requests)
        yield _counter(
            "callreel_work_total",
            "What was recorded, made, delivered and told, by outcome and class of error.",
            ("what", "outcome", "class"),
            work,
        )
        yield Family(
            "callreel_work_seconds",
            "histogram",
            "How long it took to make, deliver and tell.",
            self._work_s.samples(),
        )
        yield _counter(
            "callreel_http_requests_total",
            "Requests, by method, route and status.",
            ("method", "route", "status"),
            requests,
        )
        yield Family(
            "callreel_http_request_seconds",
            "histogram",
            "How long requests took, by route.",
            self._request_s.samples(),
        )

    def _process(self, figures: Figures) -> Iterator[Family]:
        look = _Look(time.monotonic(), time.process_time(), figures.packets["received"])
        with self._lock:
            self._looks.append(look)
            while len(self._looks) > 2 and look.at_s - self._looks[1].at_s >= WINDOW_S:
                self._looks.popleft()
            first = self._looks[0]
        packets = look.packets - first.packets
        yield Family(
            "callreel_cpu_seconds_per_packet",
            "gauge",
            "CPU time of the whole process for each packet that came since an earlier scrape; NaN when none did.",
            one((look.cpu_s - first.cpu_s) / packets if packets else float("nan")),
        )
        yield Family("process_cpu_seconds_total", "counter", "CPU time of the process.", one(look.cpu_s))
        yield Family(
            "process_resident_memory_bytes", "gauge", "Memory of the process.", one(_resident_bytes())
        )
        yield Family("process_open_fds", "gauge", "Open descriptors.", one(_descriptors()))
        yield Family(
            "process_max_fds",
            "gauge",
            "Descriptors that may be open.",
            one(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        )


def _counter(
    name: str, help_text: str, labels: tuple[str, str, str], counts: Mapping[tuple[str, str, str], int]
) -> Family:
    """Counts by the values of some labels."""
    samples = [Sample(dict(zip(labels, values, strict=True)), count) for values, count in counts.items()]
    return Family(name, "counter", help_text, samples)


def _calls(host: Host, figures: Figures) -> Iterator[Family]:
    begun, ended = host.begun, dict(host.ended)
    yield Family("callreel_live_calls", "gauge", "Calls that go on.", one(figures.calls))
    yield Family("callreel_calls_total", "counter", "Calls that have begun.", one(begun))
    yield Family(
        "callreel_packets_total",
        "counter",
        "Packets of all calls, by fate; received counts every one that came.",
        [Sample({"fate": fate}, count) for fate, count in sorted(figures.packets.items())],
    )
    lateness = figures.lateness
    yield Family(
        "callreel_step_lateness_seconds",
        "histogram",
        "How much later than they should calls were moved on.",
        list(histogram(LATENESS_BOUNDS_S, lateness.counts, lateness.total_s)),
    )
    outcomes = ("delivered", "failed", "called_off")
    yield Family(
        "callreel_takes_total",
        "counter",
        "Recordings that have ended, by what became of them.",
        [
            Sample({"outcome": outcome}, ended.get((outcome, True), 0) + ended.get((outcome, False), 0))
            for outcome in outcomes
        ],
    )
    yield Family(
        "callreel_degraded_takes_total",
        "counter",
        "Recordings that have ended and lack audio.",
        one(sum(count for (_, is_degraded), count in ended.items() if is_degraded)),
    )


def _spool(figures: Figures, spools: Sequence[Path], now_s: float) -> Iterator[Family]:
    yield Family(
        "callreel_spool_waiting_bytes",
        "gauge",
        "Audio that waits in memory for the disk.",
        one(figures.waiting_bytes),
    )
    yield Family(
        "callreel_spool_waiting_limit_bytes",
        "gauge",
        "How much may wait before audio is dropped.",
        one(figures.waiting_limit_bytes),
    )
    yield Family(
        "callreel_spool_bytes",
        "gauge",
        "What the takes in the spool hold on the disk.",
        one(sum(map(taken_bytes, spools))),
    )
    numbers = Counter(take.state for take in figures.takes)
    oldest: dict[State, float] = {}
    for take in figures.takes:
        oldest[take.state] = min(take.since_s, oldest.get(take.state, take.since_s))
    yield Family(
        "callreel_spool_takes",
        "gauge",
        "Takes in the spool, by how far they are.",
        [Sample({"state": state.value}, numbers[state]) for state in State],
    )
    yield Family(
        "callreel_spool_oldest_take_age_seconds",
        "gauge",
        "How long the take has been there that is longest in a state.",
        [Sample({"state": state.value}, max(0.0, now_s - since_s)) for state, since_s in oldest.items()],
    )
    found = os.statvfs(spools[0])
    yield Family(
        "callreel_disk_free_bytes",
        "gauge",
        "What is free where the spool is.",
        one(found.f_bavail * found.f_frsize),
    )
    yield Family(
        "callreel_disk_size_bytes", "gauge", "How large that is.", one(found.f_blocks * found.f_frsize)
    )


def _queue(figures: Figures, spools: Sequence[Path], now_s: float) -> Iterator[Family]:
    lanes = sorted(figures.lanes.items(), key=lambda item: -item[1].entries)[:LANES_MAX]
    yield Family(
        "callreel_queue_entries",
        "gauge",
        f"What waits to be delivered or told, by lane; the {LANES_MAX} fullest.",
        [Sample({"lane": lane}, found.entries) for lane, found in lanes],
    )
    yield Family(
        "callreel_queue_oldest_age_seconds",
        "gauge",
        "How long the oldest of a lane has waited.",
        [Sample({"lane": lane}, max(0.0, now_s - found.oldest_s)) for lane, found in lanes],
    )
    yield Family(
        "callreel_dead_letters",
        "gauge",
        "What was given up and waits for somebody to look at it.",
        one(sum(map(dead_letters, spools))),
    )


def _load(host: Host, watch: Watch) -> Iterator[Family]:
    load = watch.load
    yield Family(
        "callreel_load",
        "gauge",
        "What admission control goes by.",
        [Sample({"figure": name}, value) for name, value in load._asdict().items()],
    )
    yield Family(
        "callreel_is_accepting",
        "gauge",
        "1 when recordings may begin, 0 when they are refused.",
        one(host.recorder.is_accepting),
    )


def rtp_families(statistics: Mapping[str, Any]) -> Iterator[Family]:
    """What came in over RTP and went out, by `RtpPorts.statistics`."""
    yield Family(
        "callreel_rtp_packets_total",
        "counter",
        "What came to the ports of RTP, and what was played, by fate; see docs/rtp.md.",
        [Sample({"fate": fate}, statistics.get(fate, 0)) for fate in RTP_FATES],
    )
    yield Family("callreel_rtp_legs", "gauge", "Legs that have ports.", one(statistics["legs"]))
    yield Family(
        "callreel_rtp_ports_free", "gauge", "Ports that a leg could have now.", one(statistics["ports_free"])
    )


def dead_letters(spool: Path) -> int:
    """How many dead letters there are in the queue of a spool."""
    try:
        return sum(name.endswith(".json") for name in os.listdir(spool / QUEUE_FOLDER / DEAD))  # noqa: PTH208
    except FileNotFoundError:
        return 0


def taken_bytes(spool: Path) -> int:
    """Sizes of all files of the takes in a spool, together."""
    total, folders = 0, [spool / TAKES_FOLDER]
    while folders:
        with suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:  # a take may go meanwhile
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                else:
                    with suppress(FileNotFoundError):
                        total += entry.stat(follow_symlinks=False).st_size
    return total


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:  # no Linux: the most it ever was
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return pages * resource.getpagesize()


def _descriptors() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    except OSError:
        return len(os.listdir("/dev/fd"))  # noqa: PTH208
