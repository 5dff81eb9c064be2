"""The service under mixed traffic and faults, for half a minute or (CALLREEL_SOAK_S=3600, `make soak`) for an hour.

`callreel serve` lives several lives in one folder; all but the last end by SIGKILL. In each, workers make calls of
every kind, customers ask, watchers and browsers come and go; peers, clients, the destination, S3 and the webhook fail
(tests/support/soak_traffic.py). What is judged:

* within the last life, at rests in which no call goes on: descriptors, sockets, threads, files of SQLite and temporary
  files are as many at each as at the first, and memory grows no faster than MEMORY_KB_A_CALL says;
* over all lives: every recording of which anybody was told that it had begun has one terminal event, and never two
  different ones; every call that no kill tore has its recording, sample by sample as it was sent;
* at the end: every port of RTP can be had, no leg is left, nothing is in the spool, and SIGTERM ends it with status 0.
"""

import logging
import os
import random
import threading
import time
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from callreel.service.running import KEEP_ALIVE_S
from soak_host import KEPT_CALLS
from soak_service import OTHER, RTP, Service
from soak_traffic import DOWN, Traffic

SECONDS = float(os.environ.get("CALLREEL_SOAK_S") or 12.0)
IS_LONG = SECONDS >= 300
BEGAN = time.monotonic()
SEED = int(os.environ.get("CALLREEL_FAULTS_SEED") or random.SystemRandom().randrange(1 << 32))

LIVES = (0.06, 0.08, 0.11) if IS_LONG else (0.4,)
"""Parts of the time after which the service is killed; what is left is its last life."""
RESTS = 6 if IS_LONG else 2
"""Of the last life."""
MEMORY_KB_A_CALL = 1.0
"""By which memory may grow for each call that came and went, fitted through the rests: what is lost of a call is
hardly ever less, and 10,000 calls would cost 10 MB."""
MEMORY_NOISE_KB = 6 << 10
"""Of allocators, over the whole of it: short runs are judged by this alone."""
QUIET_S = KEEP_ALIVE_S + 3.0 if IS_LONG else 1.0
"""From the last call to a rest's figures: in a long run until the connections that clients keep are closed."""
MORE = 6
"""Descriptors or threads that two rests may differ by: connections and threads of pools come when they are needed."""


def say(text):
    print(f"soak {time.monotonic() - BEGAN:6.0f} s: {text}", flush=True)


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """Clients that say what they do say it a million times in an hour."""
    loggers = [
        logging.getLogger(name)
        for name in ("httpcore2", "httpx2", "botocore", "urllib3", "websockets", "sinch")
    ]
    for one in loggers:
        one.setLevel(logging.WARNING)
    yield
    for one in loggers:
        one.setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Service(tmp_path_factory.mktemp("soak"), failing=0.05 if IS_LONG else 0.0) as one:
        yield one


class Soak:
    """One run."""

    def __init__(self, service):
        self.service, self.chance = service, random.Random(f"soak {SEED}")
        self.traffic = Traffic(service, SEED, seconds=(2.0, 6.0) if IS_LONG else (1.2, 2.0))
        self.rests, self.compared, self.late = [], 0, 0
        self.checked, self.wrong = set(), []
        self.is_over = threading.Event()
        self.checker = threading.Thread(target=self.check_on)
        self.checker.start()
        self.faults = threading.Thread(target=self.fail_on)
        self.faults.start()
        self.faults_done = []

    # -- what fails around it --------------------------------------------------------------------------------------

    def fail_on(self):
        pause_s = (20.0, 60.0) if IS_LONG else (0.5, 1.0)
        faults = [self.no_destination, self.no_webhook, self.no_s3]
        number = 0
        while not self.is_over.wait(self.chance.uniform(*pause_s)):
            if not IS_LONG and number == len(faults):
                return  # the rests are to come soon
            if self.service.is_up.is_set() and not self.traffic.rests.is_set():
                fault = faults[number % len(faults)]
                number += 1
                with fault():
                    self.is_over.wait(self.chance.uniform(5.0, 15.0) if IS_LONG else 0.5)
                self.faults_done.append(fault.__name__)

    @contextmanager
    def no_destination(self):
        """Nothing can be written where recordings go: a file stands in the folder's place; modes do not stop root."""
        out, aside = self.service.folder / "out", self.service.folder / "aside"
        out.rename(aside)
        out.write_bytes(b"")
        try:
            yield
        finally:
            out.unlink()
            aside.rename(out)

    @contextmanager
    def no_webhook(self):
        self.service.webhook_is_broken.set()
        try:
            yield
        finally:
            self.service.webhook_is_broken.clear()

    @contextmanager
    def no_s3(self):
        self.service.take_s3_away()
        try:
            yield
        finally:
            self.service.bring_s3_back()

    # -- what has been told ----------------------------------------------------------------------------------------

    def check_on(self):
        while not self.is_over.wait(0.3):
            self.check()

    def check(self):
        for said in list(self.traffic.calls.values()):
            if said.call_id in self.checked or not said.is_whole or not (said.channels or said.seconds):
                continue
            events = self.service.ended(said.call_id)
            if not events:
                continue
            try:
                (event,) = events
                assert event["error"] is None, f"{said.kind} {said.call_id}: {event['error']}"
                data = self.traffic.file_of(said, event)
                if self.traffic.compare(said, data, event["manifest"]):
                    self.compared += 1
                else:
                    self.late += 1
            except FileNotFoundError:
                continue  # the folder is away at the moment
            except (OSError, AssertionError, ValueError) as error:
                if self.is_over.is_set() or isinstance(error, AssertionError):
                    self.wrong.append(str(error)[:400])
                else:
                    continue
            except Exception as error:  # S3 is away at the moment
                if self.is_over.is_set():
                    self.wrong.append(f"{said.call_id}: {error}"[:400])
                else:
                    continue
            self.checked.add(said.call_id)

    # -- its course ------------------------------------------------------------------------------------------------

    def last_for(self, seconds):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 30.0))
            if IS_LONG:
                say(self.line(self.service.figures()))
            assert len(self.traffic.errors) < 50, self.traffic.errors[:10]

    def line(self, figures):
        return (
            f"life {self.service.life}, {len(self.traffic.calls)} calls, {self.compared} compared, "
            f"{figures.memory_kb} KB, {figures.descriptors} descriptors ({figures.sockets} sockets, "
            f"{figures.sqlite} of SQLite), {figures.threads} threads, {figures.temporary} temporary files"
        )

    def rest(self):
        """Figures when nothing goes on."""
        self.traffic.rests.set()
        until(lambda: self.traffic.is_idle, 60)
        until(lambda: self.service.metric("callreel_live_calls") == 0, 60)
        until(lambda: not self.left(), 240 if IS_LONG else 60)
        time.sleep(QUIET_S)
        figures = [self.service.figures() for _ in range(5) if not time.sleep(0.2)]
        legs, calls = self.service.metric("callreel_rtp_legs"), len(self.traffic.calls)
        free = self.service.metric("callreel_rtp_ports_free")
        self.traffic.rests.clear()
        middle = sorted(figures, key=lambda one: one.memory_kb)[2]
        self.rests.append((calls, middle))
        say(f"rest: {self.line(middle)}")
        assert (legs, free) == (0, len(RTP) // 2)

    def left(self):
        """What is in the spool, but for what nobody can tell: a token of Graph's that died with its process."""
        torn = {
            name for name, said in self.traffic.calls.items() if said.kind == "graph" and not said.is_whole
        }
        return [name for name, group in self.service.left_in_spool() if group not in torn]

    def fill(self):
        """Begin, record and end calls of no media until what is kept of them and of their events is full."""
        count = 4 * KEPT_CALLS

        def work(number):
            with self.service.client() as client:
                for one in range(number, count, 4):
                    call = f"short-{self.service.life}-{one}"
                    body = {"call_id": call, "legs": [{"media": "none"}], "record": {}}
                    assert client.post("/v1/calls", json=body).status_code == 201
                    assert client.delete(f"/v1/calls/{call}").status_code == 204

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        say(f"{count} recordings without media: {self.line(self.service.figures())}")


def until(read, timeout_s):
    end = time.monotonic() + timeout_s
    while True:
        try:
            if found := read():
                return found
        except DOWN:
            found = None
        assert time.monotonic() < end, "it does not come to rest"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def soaked(service):
    """The whole run; what is judged stands in it."""
    say(f"CALLREEL_FAULTS_SEED={SEED}, {SECONDS:g} s, in {service.folder}")
    one = Soak(service)
    try:
        for part in LIVES:
            one.last_for(part * SECONDS)
            say(f"SIGKILL: {one.line(service.figures())}")
            service.kill()
            time.sleep(one.chance.uniform(0.0, 1.0))
            service.start()
        one.fill()
        for _ in range(RESTS):
            one.last_for((1 - sum(LIVES)) * SECONDS / RESTS)
            one.rest()
        one.traffic.end()
        one.is_over.set()
        one.faults.join()
        one.checker.join()
        until(lambda: not one.left(), 300)
        one.free = until(lambda: service.closed_ports() == len(RTP) and len(RTP), 30)
        time.sleep(0.5)
        one.dead = service.metric("callreel_dead_letters")
        with service.client(OTHER) as client:
            one.listed = client.get("/v1/recordings").status_code
    except AssertionError:
        live = "nobody answers"
        with suppress(*DOWN), service.client() as client:
            live = [
                (call["call_id"], one.traffic.calls.get(call["call_id"]))
                for call in client.get("/v1/calls").json()["calls"]
            ]
        say(f"{one.traffic}; {one.traffic.errors[:10]}; {service.left_in_spool()[:10]}; live: {live}")
        for name, _ in service.left_in_spool()[:12]:
            if name.endswith((".json", ".jsonl")):
                say((service.folder / "spool" / name).read_text(errors="replace")[:3000])
        lines = (service.folder / "log").read_text(errors="replace").splitlines()
        say("\n".join([one[:2000] for one in lines if '"level": "error"' in one][-10:] + lines[-10:]))
        raise
    finally:
        one.is_over.set()
        one.traffic.close()
        one.checker.join()
        one.faults.join()
    one.check()
    one.status = service.stop()
    say(f"{one.traffic}")
    say(
        f"faults: {len(one.faults_done)}; told twice: {service.told_twice.total()}; talker too late: {one.late}"
    )
    return one


def test_what_was_asked_is_answered_whatever_else_went_on(soaked):
    assert soaked.traffic.errors == []


def test_memory_descriptors_threads_and_files_are_flat(soaked):
    rests = [figures for _, figures in soaked.rests]
    for name in ("descriptors", "sockets", "sqlite", "threads", "processes", "temporary"):
        values = [getattr(one, name) for one in rests]
        allowed = MORE if name in ("descriptors", "sockets", "threads") else 0
        assert max(values[1:]) - values[0] <= allowed, f"{name}: {values}"
    calls = np.array([calls for calls, _ in soaked.rests], float)
    memory_kb = np.array([one.memory_kb for one in rests], float)
    slope = np.polyfit(calls, memory_kb, 1)[0]
    say(f"memory at rests: {memory_kb.astype(int).tolist()} KB")
    say(f"{slope:.2f} KB a call over {calls[-1] - calls[0]:g} calls")
    grown_kb = slope * (calls[-1] - calls[0])
    assert grown_kb <= MEMORY_NOISE_KB + MEMORY_KB_A_CALL * (calls[-1] - calls[0])


def test_every_recording_that_began_has_one_terminal_event_over_all_lives(soaked):
    ended = soaked.service.all_ended()
    takes = {}
    for (call_id, recording_id), found in ended.items():
        takes.setdefault(call_id, []).extend(found.values())
        assert recording_id.startswith(call_id)
    begun = soaked.traffic.begun
    assert begun
    lost = {
        call_id: (dict(count), len(takes.get(call_id, ())))
        for call_id, count in begun.items()
        if count.total() != len(takes.get(call_id, ()))
        and soaked.traffic.calls.get(call_id) is not None
        and (soaked.traffic.calls[call_id].is_whole or len(takes.get(call_id, ())) < count.total())
    }
    assert lost == {}
    say(f"{sum(map(len, takes.values()))} recordings have ended")
    say(f"{sum(one.total() for one in begun.values())} were seen to begin")


def test_what_clean_calls_said_is_what_is_recorded(soaked):
    assert soaked.wrong == []
    missing = [
        said.call_id
        for said in soaked.traffic.calls.values()
        if said.is_whole and (said.channels or said.seconds) and said.call_id not in soaked.checked
    ]
    assert missing == []
    say(f"{soaked.compared} recordings are what was sent")
    assert soaked.compared


def test_nothing_is_left_when_it_ends(soaked):
    assert soaked.left() == []
    assert soaked.free == len(RTP)
    assert soaked.dead == 0
    assert soaked.status == 0
