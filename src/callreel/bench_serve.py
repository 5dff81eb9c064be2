"""`callreel bench serve`: how many calls a worker of the live service records at once, and how quickly it answers then.

    bench_sources ──UDP──> callreel serve, kept on one core <──HTTP── this process
      on the other core         │ spool, folder                    requests, and the stream of events
                                └─> recordings ──> counted by their manifests

First the loop that nothing can beat is measured: recvmmsg alone, while the same sources send all they can. Then a
service is begun, with one worker, and told of calls one after the other, until all of them are recorded at once. It
runs like that until the first calls are as old as was asked. From then on calls end and others take their place, so
that the load stays what it is: from these come the times. At last all others are hung up on, and what was recorded is
compared with what was sent, call by call.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from callreel.bench_sources import Shared

__all__ = ["TARGETS", "Figures", "Plan", "add_serve_arguments", "measure_service", "run_serve", "table"]

DESCRIPTION = """\
Begin a service with one worker on one core, send it calls in real time from another, and measure.

A call is two streams of 50 packets a second: what the participant says, and what they hear. Each is recorded as stereo
WAV, with digits and silence listened for. The table has, beside what is asked of callreel:

  calls       recorded at once, and how many of their packets were lost by us
  packets     a second of CPU time, as a share of what a loop of recvmmsg and nothing else reads, in the same run
  memory      each call takes
  start       from the request of a recording to its event, at that load, over HTTP and its stream of events
  hang-up     from the request to the event that says that the recording is in its folder, for calls of --seconds

What it takes: twice --calls sockets, and in --folder about 8 MB a call with the defaults. Packets for which the machine
had no time are counted as lost whoever's fault it was: look at "latest packet", which says how late they were sent.
"""

EPILOG = """\
examples:
  callreel bench serve
  callreel bench serve --calls 100 --seconds 10 --window 10
  callreel bench serve --folder /dev/shm --json
  callreel bench serve --calls 4000 --seconds 60     beyond what one core bears: new recordings are refused

exit status: 0 all that is asked was reached, 1 it was not, 2 it could not be measured
"""

GOOD, NOT_REACHED, USAGE = 0, 1, 2

TENANT: Final = "bench"
TOKEN: Final = "CALLREEL_BENCH_TOKEN"
BARE_GOES: Final = 3
BARE_S: Final = 3.0
STARTS_PER_S: Final = 40.0
"""As calls come one after the other: not quicker than a service may be asked."""
SILENT_S: Final = 0.05
"""From the last packet of a call to the hang-up."""
END_S: Final = 180.0
"""So long all that runs at the end may take to be delivered."""
IDLE_S: Final = 15.0
"""A connection that has been idle for longer may be closed by the service at this very moment."""
PACKETS_PER_S: Final = 100
"""Of a call."""
TOLD_MOST: Final = 10
"""Problems: of thousands of recordings it may be the same with all."""
CONFIG = """\
[spool]
folder = "{folder}/spool"

[delivery]
destination = "{folder}/out"

[service]
workers = 1
rtp_shared_port = {port}
operators = ["bench"]

[service.tokens]
bench_env = "CALLREEL_BENCH_TOKEN"
"""

TARGETS: Final = {
    "lost": 0,
    "share": 0.55,
    "bytes_per_call": 200_000,
    "start_p99_ms": 20.0,
    "hang_up_p99_s": 1.0,
}
"""What is asked, by the names of `Figures`; of `share` at least so much, of the others at most."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured."""

    calls: int = 2000
    seconds: float = 180.0
    """How long calls last that are hung up on."""
    window_s: float = 60.0
    """How long times are measured."""
    folder: Path | None = None
    cores: tuple[int, int] = (0, 0)
    """The service's, and everybody else's."""


@dataclass(slots=True)
class Figures:
    """What was found."""

    calls: int = 0
    """Recorded at once."""
    refused: str | None = None
    """Why no more were recorded, where the service refused them."""
    packets_per_s: float = 0.0
    sent: int = 0
    lost: int = 0
    """By us: packets that were sent and are not in a recording."""
    lost_where: dict[str, int] = field(default_factory=dict)
    hung_up: int = 0
    """Calls: each has a recording, which is to be delivered."""
    recordings: int = 0
    """That were delivered, and whose manifests were looked at."""
    problems: list[str] = field(default_factory=list)
    """Of the others, and of their files."""
    degraded: int = 0
    degraded_by: dict[str, int] = field(default_factory=dict)
    """How many of them by what."""
    keys: int = 0
    """Heard in them."""
    cpu_share: float = 0.0
    """Of its core, at that load."""
    us_per_packet: float = 0.0
    system_share: float = 0.0
    """What of it is the system's: sockets and files."""
    packets_per_cpu_s: float = 0.0
    bare_per_s: float = 0.0
    bare_per_cpu_s: float = 0.0
    share: float = 0.0
    """Of the packets that the bare loop reads in a second."""
    share_of_cpu: float = 0.0
    """Of those that it reads in a second of CPU time."""
    bytes_per_call: int = 0
    turns: int = 0
    """Calls that were to be hung up on and to have another in their place while times were measured."""
    starts: int = 0
    """Whose event came."""
    start_p50_ms: float = 0.0
    start_p99_ms: float = 0.0
    hang_ups: int = 0
    """Whose recording was delivered."""
    hang_up_p50_s: float = 0.0
    hang_up_p99_s: float = 0.0
    late_max_ms: float = 0.0
    """How late the latest packet was sent: more than a few milliseconds says that the machine is busy."""
    lateness_max_s: float = 0.0
    """How much later than it should a call was moved on, by the bounds of the metric."""


def add_serve_arguments(parser: ArgumentParser) -> None:
    """Say what `callreel bench serve` takes."""
    plan = Plan()
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = RawDescriptionHelpFormatter
    parser.add_argument(
        "--calls",
        metavar="N",
        type=int,
        default=plan.calls,
        help=f"at once (default: {plan.calls}, {PACKETS_PER_S * plan.calls:,} packets/s)",
    )
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=float,
        default=plan.seconds,
        help="that a call lasts before it is hung up on (default: 180)",
    )
    parser.add_argument(
        "--window",
        metavar="S",
        type=float,
        default=plan.window_s,
        help="so long calls end and begin, and times are measured (default: 60)",
    )
    parser.add_argument(
        "--folder", metavar="DIR", type=Path, help="where spool and recordings are (default: a temporary one)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run_serve(options: Namespace) -> int:
    """Carry out `callreel bench serve`; returns the exit status."""
    if options.calls < 1 or options.seconds <= 0 or options.window <= 0:
        print("callreel: --calls, --seconds and --window are more than 0", file=sys.stderr)
        return USAGE
    if not sys.platform.startswith("linux"):
        print("callreel: bench serve needs Linux, as RTP does", file=sys.stderr)
        return USAGE
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the service would outlive us
    cores = sorted(os.sched_getaffinity(0))
    plan = Plan(options.calls, options.seconds, options.window, options.folder, (cores[0], cores[-1]))
    if len(cores) == 1:
        _tell("there is one core: who sends takes from who is measured")
    try:
        figures = measure_service(plan, _tell)
    except (OSError, RuntimeError) as error:
        print(f"callreel: {error}", file=sys.stderr)
        return USAGE
    print(json.dumps(asdict(figures)) if options.json else table(plan, figures))
    return GOOD if figures.calls == plan.calls and all(_reached(figures).values()) else NOT_REACHED


def _tell(words: str) -> None:
    print(f"  {words}", file=sys.stderr, flush=True)


def _reached(figures: Figures) -> dict[str, bool]:
    """What was measured, of all that there was, and is as it should be."""
    is_whole = figures.recordings == figures.hung_up > 0 and not figures.problems
    is_measured = {
        "lost": is_whole,
        "share": figures.share > 0,
        "bytes_per_call": figures.bytes_per_call > 0,
        "start_p99_ms": figures.starts == figures.turns > 0,
        "hang_up_p99_s": is_whole and figures.hang_ups == figures.turns > 0,
    }
    return {
        name: is_measured[name]
        and (getattr(figures, name) >= target if name == "share" else getattr(figures, name) <= target)
        for name, target in TARGETS.items()
    }


def table(plan: Plan, figures: Figures) -> str:
    """What was found, beside what is asked."""
    reached, full = _reached(figures), figures.calls == plan.calls
    where = ", ".join(f"{name} {count}" for name, count in figures.lost_where.items() if count)
    late = f"{figures.late_max_ms:.1f} ms, {1000 * figures.lateness_max_s:.0f} ms"
    bare, bare_cpu = f"{figures.bare_per_s:,.0f}", f"{figures.bare_per_cpu_s:,.0f}"
    started = f"{figures.starts:,} of {figures.turns:,}"
    ended = f"{figures.hang_ups:,} of {figures.turns:,}, {plan.seconds:g} s long"
    looked_at = f"{figures.recordings:,} of {figures.hung_up:,}, {figures.degraded:,}"
    rows: list[tuple[str, str, str, bool | None]] = [
        ("two-leg calls recorded at once, one worker on one core", f"{figures.calls:,}", f"{plan.calls:,}", full),
        ("  packets a second", f"{figures.packets_per_s:,.0f}", "", None),
        ("  packets sent", f"{figures.sent:,}", "", None),
        ("  lost by us" + (f" ({where})" if where else ""), f"{figures.lost:,}", "0", reached["lost"]),
        ("  recordings looked at, degraded", looked_at, "", None),
        ("  keys heard in them", f"{figures.keys:,}", "", None),
        ("  latest packet sent, latest call moved on", late, "", None),
        ("CPU of the core, of that the system's", f"{figures.cpu_share:.0%}, {figures.system_share:.0%}", "", None),
        ("  a packet", f"{figures.us_per_packet:.2f} us", "", None),
        ("  packets a CPU second", f"{figures.packets_per_cpu_s:,.0f}", "", None),
        (f"  of a bare recvmmsg loop's {bare} a second", f"{figures.share:.0%}", "55%", reached["share"]),
        (f"  of its {bare_cpu} a CPU second", f"{figures.share_of_cpu:.0%}", "", None),
        ("memory a call", f"{figures.bytes_per_call / 1000:,.0f} KB", "200 KB", reached["bytes_per_call"]),
        (f"start of a recording to its event, {started}, p50", f"{figures.start_p50_ms:.1f} ms", "", None),
        ("  p99", f"{figures.start_p99_ms:.1f} ms", "20 ms", reached["start_p99_ms"]),
        (f"hang-up to delivered file, {ended}, p50", f"{figures.hang_up_p50_s:.2f} s", "", None),
        ("  p99", f"{figures.hang_up_p99_s:.2f} s", "1 s", reached["hang_up_p99_s"]),
    ]  # fmt: skip
    marks = {None: "", True: "reached", False: "NOT reached"}
    lines = [f"{'':60}{'measured':>20}{'asked':>9}"]
    lines += [f"{what:<60}{found:>20}{asked:>9}  {marks[good]}".rstrip() for what, found, asked, good in rows]
    if figures.refused is not None:
        lines.append(f"no more were recorded: {figures.refused}")
    lines += figures.problems[:TOLD_MOST]
    return "\n".join(lines)


# ---- the bare loop ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _on_core(core: int) -> Iterator[None]:
    """What is begun within stays on that core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _source(core: int, *arguments: object) -> subprocess.Popen[str]:
    with _on_core(core):
        return subprocess.Popen(
            [sys.executable, "-m", "callreel.bench_sources", *map(str, arguments)],
            stdout=subprocess.PIPE,
            text=True,
        )


def _line(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("the process that sends, or reads, has ended")
    return json.loads(line)


def _bare(plan: Plan, port: int) -> tuple[float, float]:
    """Packets that the loop reads a second, and a second of CPU time: the median of several goes."""
    rates = []
    for _ in range(BARE_GOES):
        with _source(plan.cores[0], "bare", port) as reader:
            _line(reader)
            with _source(plan.cores[1], "flood", port, 2 * plan.calls, min(BARE_S, plan.window_s)) as flood:
                _line(flood)
            found = _line(reader)
        rates.append((found["packets"] / found["lasted_s"], found["packets"] / found["cpu_s"]))
    by_clock, by_cpu = zip(*rates, strict=True)
    return statistics.median(by_clock), statistics.median(by_cpu)


# ---- the service -----------------------------------------------------------------------------------------------------


class _Service:
    """`callreel serve` in a process of its own, and what the system says of it."""

    def __init__(self, core: int, folder: Path, port: int, token: str) -> None:
        config = folder / "callreel.toml"
        config.write_text(CONFIG.format(folder=folder, port=port), "utf-8")
        (folder / "out").mkdir()
        self.log = folder / "log"
        with self.log.open("w") as log, _on_core(core):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "callreel", "serve", "--config", str(config), "--port", "0"],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, TOKEN: token},
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the service has not begun: {self.log.read_text()[-2000:]}")
        self.port = urlsplit(line.split()[-1]).port or 0
        threading.Thread(target=self._process.stdout.read, daemon=True).start()

    def cpu_s(self) -> tuple[float, float]:
        """CPU seconds so far, of its own and of the system's for it."""
        words = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        tick = os.sysconf("SC_CLK_TCK")
        return int(words[11]) / tick, int(words[12]) / tick

    def memory_bytes(self) -> int:
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def close(self) -> None:
        """What is left is of no use to anybody."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


class _Client:
    """Requests, one after the other."""

    def __init__(self, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._asked_s = 0.0

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        data = None if body is None else json.dumps(body).encode()
        if time.monotonic() - self._asked_s > IDLE_S:
            self._connection.close()  # the next request opens another one
        self._asked_s = time.monotonic()
        self._connection.request(method, path, data, self._headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def need(self, method: str, path: str, body: Any = None) -> bytes:
        status, answer = self.ask(method, path, body)
        if status >= 300:
            raise RuntimeError(f"{method} {path} was answered with {status}: {answer[:500]!r}")
        return answer

    def metrics(self) -> dict[str, float]:
        """Each sample by its name with labels."""
        lines = self.need("GET", "/metrics").decode().splitlines()
        words = [line.rpartition(" ") for line in lines if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in words}


class _Watcher(threading.Thread):
    """Reads the stream of events: when each recording began and ended."""

    def __init__(self, port: int, token: str, on_ended: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(daemon=True)
        self.started: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        self._on_ended = on_ended
        self._connection = http.client.HTTPConnection("127.0.0.1", port)
        self._connection.request("GET", "/v1/events", headers={"Authorization": f"Bearer {token}"})
        self._answer = self._connection.getresponse()
        self._answer.readline()

    def run(self) -> None:
        """Read until the service is gone."""
        kind = b""
        with contextlib.suppress(OSError, http.client.HTTPException):
            while line := self._answer.readline():
                if line.startswith(b"event: "):
                    kind = line[7:].strip()
                elif line.startswith(b"data: ") and kind in (b"recording_started", b"take_ended"):
                    at = time.monotonic()
                    body = json.loads(line[6:])
                    if kind == b"take_ended":
                        self._on_ended(body)
                        self.ended[body["call_id"]] = at
                    else:
                        self.started[body["call_id"]] = at


# ---- the run ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Slot:
    """A place for a call, with two streams."""

    streams: tuple[int, int]
    call_id: str = ""
    began: float = 0.0
    quiet_at: float = 0.0
    sent_before: tuple[int, int] = (0, 0)


class _Run:
    """The calls of a run."""

    def __init__(
        self, client: _Client, shared: Shared, ports: Sequence[int], service_port: int, token: str
    ) -> None:
        self._client, self._shared, self._ports = client, shared, ports
        self._numbers = 0
        self.asked: dict[str, float] = {}
        """When the recording of a call was asked for."""
        self.hung_up: dict[str, float] = {}
        self.timed_starts: list[str] = []
        self.timed_hang_ups: list[str] = []
        """Of which calls the times count."""
        self.sent: dict[str, int] = {}
        """Packets of calls that are over."""
        self.found: dict[str, dict[str, Any]] = {}
        """Manifests of what was delivered, by call."""
        self.problems: list[str] = []
        self.watcher = _Watcher(service_port, token, self._look_at)
        self.watcher.start()

    def _look_at(self, ended: dict[str, Any]) -> None:
        """A recording has ended: its file is looked at, and removed, or the disk would be full."""
        if ended["location"] is None:
            self.problems.append(f"{ended['call_id']} was not delivered: {ended['error']}")
            return
        path = Path(unquote(urlsplit(ended["location"]).path))
        try:
            if path.stat().st_size != ended["manifest"]["bytes"]:
                self.problems.append(f"{path} has not the size that its manifest says")
            path.unlink()
        except OSError as error:
            self.problems.append(f"{path} is not as it should be: {error.strerror}")
            return
        self.found[ended["call_id"]] = ended["manifest"]

    def begin(self, slot: _Slot) -> str | None:
        """A new call, and its recording; returns why there is none, where the service refuses it."""
        self._numbers += 1
        call_id = f"bench-{self._numbers}"
        said, heard = (f"127.0.0.1:{self._ports[one]}" for one in slot.streams)
        leg = {
            "options": {"expects": said, "fork": {"own_port": False, "expects": heard}},
            "payload_types": {"0": "PCMU", "101": "telephone-event"},
        }
        self._client.need("POST", "/v1/calls", {"call_id": call_id, "legs": [leg]})
        slot.call_id, slot.began = call_id, time.monotonic()
        slot.sent_before = self._counts(slot)
        wanted = {"action": "start_recording", "recording": {"trailing_silence_ms": 3_600_000}}
        self.asked[call_id] = time.monotonic()
        status, answer = self._client.ask("POST", f"/v1/calls/{call_id}/actions", wanted)
        if status == 503:
            del self.asked[call_id]
            self._client.need("DELETE", f"/v1/calls/{call_id}")
            slot.call_id = ""
            return str(json.loads(answer)["error"]["message"])
        if status != 200:
            raise RuntimeError(f"a recording was not begun: {status}, {answer[:500]!r}")
        for one in slot.streams:
            self._shared.is_on[one] = 1
        return None

    def _counts(self, slot: _Slot) -> tuple[int, int]:
        first, second = slot.streams
        return self._shared.sent[first], self._shared.sent[second]

    def quiet(self, slot: _Slot) -> None:
        """Nothing is said any more: the call is about to end."""
        for one in slot.streams:
            self._shared.is_on[one] = 0
        slot.quiet_at = time.monotonic()

    def end(self, slot: _Slot) -> None:
        """Hang up, when the last packet is there."""
        time.sleep(max(0.0, slot.quiet_at + SILENT_S - time.monotonic()))
        self.sent[slot.call_id] = sum(self._counts(slot)) - sum(slot.sent_before)
        self.hung_up[slot.call_id] = time.monotonic()
        self._client.need("DELETE", f"/v1/calls/{slot.call_id}")
        slot.call_id = ""

    @property
    def packets(self) -> int:
        """Sent so far."""
        return sum(self._shared.sent)


def measure_service(plan: Plan, tell: Callable[[str], None]) -> Figures:
    """Measure; `tell` hears how far it is. RuntimeError where it cannot be done."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8 * plan.calls + 1000  # a quarter of a process's is what the spool keeps open
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(wanted, hard)), hard))
    figures, port, token = Figures(), _free_ports(), secrets.token_urlsafe(24)
    tell(f"a bare recvmmsg loop reads what {2 * plan.calls:,} sources send as fast as they can")
    figures.bare_per_s, figures.bare_per_cpu_s = _bare(plan, port)
    with (
        tempfile.TemporaryDirectory(dir=plan.folder, prefix="callreel-bench-") as name,
        contextlib.ExitStack() as undo,
    ):
        folder = Path(name)
        service = _Service(plan.cores[0], folder, port, token)
        undo.callback(service.close)
        shared = Shared(folder / "shared", 2 * plan.calls)
        sources = _source(plan.cores[1], "send", port, 2 * plan.calls, folder / "shared")
        undo.callback(sources.kill)
        client = _Client(service.port, token)
        run = _Run(client, shared, _line(sources)["ports"], service.port, token)
        slots = [_Slot((2 * number, 2 * number + 1)) for number in range(plan.calls)]
        _fill(plan, run, slots, figures, service, tell)
        _steady(plan, run, slots, figures, service, tell)
        _turn_over(plan, run, slots, figures, tell)
        _wind_up(run, slots, tell)
        _compare(run, figures, client.metrics())
        shared.is_on[2 * plan.calls] = 1
        figures.late_max_ms = _line(sources)["late_max_ms"]
        lines = service.log.read_text().splitlines()
        for line in [line for line in lines if " WARNING " in line or " ERROR " in line][:TOLD_MOST]:
            tell(line)
    _times(run, figures)
    return figures


def _free_ports() -> int:
    """An even port that is free, and so is the one above."""
    while True:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second,
        ):
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            if port % 2:
                continue
            with contextlib.suppress(OSError):
                second.bind(("127.0.0.1", port + 1))
                return port


def _fill(
    plan: Plan,
    run: _Run,
    slots: list[_Slot],
    figures: Figures,
    service: _Service,
    tell: Callable[[str], None],
) -> None:
    """One call after the other, until all are recorded or the service refuses more."""
    tell(f"{plan.calls:,} calls begin, {STARTS_PER_S:g} a second")
    before_bytes = service.memory_bytes()
    began = time.monotonic()
    for number, slot in enumerate(slots):
        time.sleep(max(0.0, began + number / STARTS_PER_S - time.monotonic()))
        figures.refused = run.begin(slot)
        if figures.refused is not None:
            tell(f"after {number:,} calls: {figures.refused}")
            break
        figures.calls = number + 1
    if figures.calls == 0:
        raise RuntimeError(f"nothing was recorded: {figures.refused}")
    time.sleep(min(5.0, plan.seconds))  # what a call needs it has by then
    figures.bytes_per_call = (service.memory_bytes() - before_bytes) // figures.calls


def _steady(
    plan: Plan,
    run: _Run,
    slots: list[_Slot],
    figures: Figures,
    service: _Service,
    tell: Callable[[str], None],
) -> None:
    """Nothing but the load, until the first calls are as old as they are to become."""
    lasting_s = max(min(5.0, plan.seconds), slots[0].began + plan.seconds - time.monotonic())
    tell(f"{figures.calls:,} calls are recorded, for {lasting_s:.0f} s")
    sent, (user_s, system_s), began = run.packets, service.cpu_s(), time.monotonic()
    time.sleep(lasting_s)
    sent, after, lasted_s = run.packets - sent, service.cpu_s(), time.monotonic() - began
    cpu_s = sum(after) - user_s - system_s
    figures.packets_per_s = sent / lasted_s
    figures.cpu_share = cpu_s / lasted_s
    figures.system_share = (after[1] - system_s) / lasted_s
    figures.us_per_packet = 1e6 * cpu_s / sent
    figures.packets_per_cpu_s = sent / cpu_s
    figures.share = figures.packets_per_cpu_s / figures.bare_per_s
    figures.share_of_cpu = figures.packets_per_cpu_s / figures.bare_per_cpu_s


def _turn_over(
    plan: Plan, run: _Run, slots: list[_Slot], figures: Figures, tell: Callable[[str], None]
) -> None:
    """Calls are hung up on when they have lasted long enough, and others take their places."""
    per_s = figures.calls / plan.seconds
    tell(f"calls end and begin for {plan.window_s:.0f} s, {per_s:.1f} a second")
    began, waiting = time.monotonic(), [slot for slot in slots if slot.call_id]
    run.quiet(waiting[0])
    figures.turns = max(1, int(plan.window_s * per_s))
    for number in range(figures.turns):
        time.sleep(max(0.0, began + number / per_s - time.monotonic()))
        if time.monotonic() > began + 2 * plan.window_s:
            tell("the service answers too slowly for that: the rest is left out")
            return
        slot = waiting.pop(0)
        if waiting:
            run.quiet(waiting[0])
        run.timed_hang_ups.append(slot.call_id)
        run.end(slot)
        refused = run.begin(slot)
        if refused is None:
            run.timed_starts.append(slot.call_id)
            waiting.append(slot)
        else:
            figures.refused = refused
        if not waiting:
            return


def _wind_up(run: _Run, slots: list[_Slot], tell: Callable[[str], None]) -> None:
    """All is over, and what was recorded on its way."""
    tell("all calls are hung up on, and their recordings looked at")
    left = [slot for slot in slots if slot.call_id]
    for slot in left:
        run.quiet(slot)
    for slot in left:
        run.end(slot)
    until, looked_at, ended = time.monotonic() + END_S, 0, run.watcher.ended
    while len(ended) < len(run.hung_up) and time.monotonic() < until:
        time.sleep(0.1)
        if len(ended) >= looked_at + 500:
            looked_at = len(ended)
            tell(f"{looked_at:,} of {len(run.hung_up):,}")
    if len(ended) < len(run.hung_up):
        run.problems.append(f"{len(run.hung_up) - len(ended):,} recordings have not ended within {END_S:g} s")


def _compare(run: _Run, figures: Figures, metrics: dict[str, float]) -> None:
    """Hold what was recorded against what was sent."""
    figures.hung_up, figures.problems = len(run.hung_up), run.problems
    where = dict.fromkeys(("not recorded", "late", "discarded", "undecoded"), 0)
    for call_id, manifest in run.found.items():
        tracks = [track["packets"] for track in manifest["tracks"]]
        sent = run.sent[call_id]
        figures.sent += sent
        figures.recordings += 1
        figures.degraded += bool(manifest["degraded"])
        figures.keys += len(manifest["digits"])
        where["not recorded"] += sent - sum(one["received"] for one in tracks)
        for fate in ("late", "discarded", "undecoded"):
            where[fate] += sum(one[fate] for one in tracks)
        for reason in manifest["degraded"] or ():
            figures.degraded_by[reason] = figures.degraded_by.get(reason, 0) + 1
    figures.lost = sum(where.values())
    for fate in ("kernel_dropped", "overflowed", "strangers"):
        where[fate] = int(metrics.get(f'callreel_rtp_packets_total{{fate="{fate}"}}', 0))
    figures.lost_where = where
    name = "callreel_step_lateness_seconds_bucket"
    buckets = {
        float(key[len(name) + 5 : -2]): value for key, value in metrics.items() if key.startswith(name)
    }
    figures.lateness_max_s = min(bound for bound, value in buckets.items() if value == max(buckets.values()))


def _times(run: _Run, figures: Figures) -> None:
    """What requests took at that load."""
    started, ended, found = run.watcher.started, run.watcher.ended, run.found
    starts_ms = [1000 * (started[one] - run.asked[one]) for one in run.timed_starts if one in started]
    hang_ups_s = [
        ended[one] - run.hung_up[one] for one in run.timed_hang_ups if one in found and one in ended
    ]
    figures.starts, figures.hang_ups = len(starts_ms), len(hang_ups_s)
    if starts_ms:
        figures.start_p50_ms, figures.start_p99_ms = _percentiles(starts_ms)
    if hang_ups_s:
        figures.hang_up_p50_s, figures.hang_up_p99_s = _percentiles(hang_ups_s)


def _percentiles(values: list[float]) -> tuple[float, float]:
    """The 50th and the 99th: of few, the greatest."""
    ordered = sorted(values)
    return tuple(round(ordered[min(len(ordered) - 1, len(ordered) * part // 100)], 4) for part in (50, 99))  # type: ignore[return-value]
