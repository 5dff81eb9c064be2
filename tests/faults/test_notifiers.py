"""Customers' endpoints that answer 500, hang, or do not answer at all: recordings are delivered, events come later."""

import contextlib
import ipaddress
import socket
import threading
import time
from collections import Counter

import pytest

from callreel.actions import StartRecording
from callreel.addresses import Policy
from callreel.dialects.chime import Chime
from callreel.errors import DeliveryInterruptedError
from callreel.notify import Limits
from callreel.notify.functions import PythonFunction
from callreel.notify.webhooks import Webhook
from callreel.recorder import Recorder, Settings
from callreel.spool import Limits as SpoolLimits
from http_server import plain, serving
from recording_host import Clock, WallClock, ended, feed, hurried, record

SPEED = 10.0
CALLS = 12
LOCAL = ipaddress.ip_network("127.0.0.1")


@pytest.fixture
def clock():
    return Clock(SPEED)


def settings(tmp_path):
    return Settings(
        tmp_path / "spool", destination=str(tmp_path / "out"), limits=SpoolLimits(take_s=3.0 * SPEED)
    )


def webhook(port):
    policy = Policy(schemes=("http",), ports=(port,), allowed=[LOCAL])
    limits = Limits(attempt_s=0.3, total_s=0.3, failures=1, is_queued=True)
    return Webhook(f"http://127.0.0.1:{port}/events", policy=policy, limits=lambda told: limits)


class Endpoint:
    """A customer's server, well or not."""

    def __init__(self, way):
        self.way = way
        self.is_well = threading.Event()
        self.seen = Counter()

    def __call__(self, request, connection):
        if self.is_well.is_set():
            self.seen[request.headers["webhook-id"]] += 1
            connection.sendall(plain(200))
        elif self.way == "500":
            connection.sendall(plain(500))
        elif self.way == "hangs":
            self.is_well.wait(30)
        elif self.way == "cuts":
            connection.shutdown(socket.SHUT_RDWR)
        else:
            # It takes what it is told, and the answer is lost.
            self.seen[request.headers["webhook-id"]] += 1
            connection.sendall(plain(503, Retry_After="1"))


@contextlib.contextmanager
def endpoint(way):
    one = Endpoint(way)

    def answer(request, connection):
        one(request, connection)

    with serving(answer) as server:
        yield one, webhook(server.port)
        one.is_well.set()


@pytest.mark.parametrize("way", ["500", "hangs", "cuts", "forgets"])
def test_recordings_are_delivered_while_an_endpoint_is_down_and_it_is_told_of_each_afterwards(
    tmp_path, clock, way
):
    with (
        endpoint(way) as (one, notifier),
        Recorder(settings(tmp_path), clock=clock, wall_clock=WallClock(20.0), events=notifier) as recorder,
    ):
        for number in range(CALLS):
            record(recorder, clock, f"c-{number}", 0.5)
        events = ended(recorder, CALLS)
        assert [event.error for event in events] == [None] * CALLS
        assert len(list((tmp_path / "out").rglob("*.wav"))) == CALLS
        time.sleep(0.3)
        one.is_well.set()
        with hurried(recorder):
            assert recorder.drain(40.0)
        assert one.seen.keys() == {f"end:{event.take_id}" for event in events}
        if way != "forgets":
            assert set(one.seen.values()) == {1}


def test_an_endpoint_that_never_answers_is_told_by_the_next_process(tmp_path, clock):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Recorder(settings(tmp_path), clock=clock, events=webhook(port)) as recorder:
        for number in range(CALLS):
            record(recorder, clock, f"c-{number}", 0.5)
        events = ended(recorder, CALLS)
        assert [event.error for event in events] == [None] * CALLS
        assert not recorder.drain(0.5)
    told = Counter()
    function = PythonFunction(lambda one: told.update([one.id]))
    with Recorder(settings(tmp_path), clock=clock, events=function) as recorder:
        assert recorder.drain(40.0)
    assert told == Counter(f"end:{event.take_id}" for event in events)


def test_one_customers_endpoint_that_hangs_delays_no_other_customer(tmp_path, clock):
    with endpoint("hangs") as (_, hanging), endpoint("500") as (good, notifier):
        good.is_well.set()

        def notifier_for(message):
            return hanging if message.call_id.startswith("bad") else notifier

        told = []
        events = PythonFunction(lambda one: told.append(one.call_id))
        with Recorder(settings(tmp_path), clock=clock, notifier_for=notifier_for, events=events) as recorder:
            calls = []
            for number in range(40):
                name = "bad" if number % 2 else "good"
                call = recorder.add_call(f"{name}-{number}", dialect=Chime())
                call.add_leg(call_id=call.call_id, status="offered")
                call.answered("LEG-A")
                call.start_recording(StartRecording())
                calls.append(call)
            for call in calls:
                feed(call, clock, 0.1)
            began = time.monotonic()
            for call in calls:
                call.end()
            while len(told) < 40:
                assert time.monotonic() - began < 20.0
                recorder.events()
                time.sleep(0.01)
            seconds = time.monotonic() - began
            assert sum(good.seen.values()) >= 20
            assert seconds < 10.0


def test_what_a_call_was_told_keeps_its_order_whatever_fails(tmp_path, clock):
    told, fails = [], Counter()

    def handler(notification):
        fails[notification.id] += 1
        if notification.kind == "notification" and fails[notification.id] < 3:
            raise DeliveryInterruptedError("busy", key=notification.id, retryable=True)
        told.append((notification.call_id, notification.body["Sequence"]))
        return {"SchemaVersion": "1.0", "Actions": []} if notification.kind == "invocation" else None

    function = PythonFunction(handler)
    with Recorder(settings(tmp_path), clock=clock, notifier_for=lambda message: function) as recorder:
        for number in range(CALLS):
            call = recorder.add_call(f"c-{number}", dialect=Chime())
            call.add_leg(call_id=call.call_id, status="offered")
            call.answered("LEG-A")
            call.start_recording(StartRecording())
            feed(call, clock, 0.2)
            call.hang_up("LEG-A")
            call.end()
        assert recorder.drain(60.0)
    for number in range(CALLS):
        sequence = [one for name, one in told if name == f"c-{number}"]
        assert sequence == sorted(set(sequence))
        assert sequence
