"""What a process keeps of calls that are over, and for how long."""

import gc
import time
import tracemalloc
from functools import partial

import pytest

from callreel.actions import StartRecording
from callreel.errors import MediaError, UsageError
from callreel.service import host as hosts
from callreel.service import running
from callreel.service.common_files import CACHE_KB, open_file
from callreel.service.host import LegWish
from callreel.service.running import Service
from callreel.service.stream import EventStream
from service_host import settings_in, until

NOISE_BYTES = 1_500
CALL_BYTES = 5_000
EVENTS_BYTES = 9_000
"""Of what is not of one call in particular, and as docs/operating.md says."""


@pytest.fixture
def service(tmp_path):
    one = Service(settings_in(tmp_path))
    yield one
    one.close()


def begun(service, call_id):
    return service.host.create(call_id, tenant="acme", legs=[LegWish(media="none")])


def known(service):
    return {call.call_id for call in service.host.calls(live=False)}


def end(service, *calls):
    """One after the other."""
    for call in calls:
        service.host.end(call)
        until(lambda call=call: call.ended_at is not None)


class Refusing:
    """Media that can play nothing."""

    def __init__(self, error):
        self.error = error

    def play(self, pcm, sample_rate, done):
        raise self.error

    def settle(self):
        pass

    close = settle


@pytest.mark.parametrize(
    "error",
    [UsageError("no G.711 was agreed on"), MediaError("audio of 500 Hz cannot become one of 8000 Hz")],
)
def test_who_waits_for_what_cannot_be_played_is_told(service, monkeypatch, error):
    call, told = begun(service, "call"), []
    call.media["LEG-A"] = Refusing(error)
    monkeypatch.setattr(call.recorded, "played", lambda action_id, error: told.append(str(error)))
    call.recorded.start_recording(StartRecording(beep=True))
    until(lambda: told)
    assert str(error) in told[0]


def test_of_calls_that_are_over_those_that_ended_first_are_forgotten(service, monkeypatch):
    monkeypatch.setattr(hosts, "ENDED_KEPT", 2)
    first, *others = [begun(service, f"call-{number}") for number in range(5)]
    end(service, *reversed(others))
    assert known(service) == {"call-0", "call-1", "call-2"}
    assert service.host.call("call-4") is None
    end(service, first)
    assert known(service) == {"call-0", "call-1"}


def test_a_call_with_the_id_of_one_that_is_over_is_not_forgotten_in_its_place(service, monkeypatch):
    monkeypatch.setattr(hosts, "ENDED_KEPT", 1)
    end(service, begun(service, "again"))
    deadline = time.monotonic() + 10
    while True:
        try:
            second = begun(service, "again")
            break
        except hosts.UsageError:  # the recorder is not done with the first
            assert time.monotonic() < deadline
            time.sleep(0.02)
    end(service, begun(service, "other"))
    assert service.host.call("again") is second
    assert known(service) == {"again", "other"}


def test_calls_whose_end_the_host_was_not_told_of_are_forgotten_all_the_same(service, monkeypatch):
    monkeypatch.setattr(hosts, "ENDED_KEPT", 1)
    tell = service.recorder._host.put
    lost = []
    monkeypatch.setattr(
        service.recorder._host,
        "put",
        lambda event: lost.append(event) if isinstance(event, hosts.CallEnded) else tell(event),
    )
    for number in range(3):
        service.host.end(begun(service, f"call-{number}"))
    until(lambda: len(lost) == 3)
    assert len(known(service)) == 3
    tell(hosts.EventsLost("", 3, {"CallEnded": 3}))
    until(lambda: known(service) == {"call-2"})


def test_a_file_that_all_workers_have_takes_little_memory_for_its_pages(tmp_path):
    file = open_file(tmp_path / "some.sqlite", "create table if not exists some (text text not null)")
    assert file.execute("pragma cache_size").fetchone() == (-CACHE_KB,)
    file.close()


def recorded(service, name, count):
    """So many calls, recorded, delivered, over and told of."""
    calls = [begun(service, f"{name}-{number}") for number in range(count)]
    for call in calls:
        call.recorded.start_recording(StartRecording())
    for call in calls:
        service.host.end(call)
    until(lambda: service.host.ended["delivered", False] == service.host.begun)
    until(lambda: not service.recorder.unfinished)


def weight(service, name, count=100):
    """Bytes that so many recorded calls leave behind, for each of them."""
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    recorded(service, name, count)
    gc.collect()
    return (tracemalloc.get_traced_memory()[0] - before) / count


@pytest.fixture
def traced():
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("calls", "events", "most_bytes"),
    [(1, 1, NOISE_BYTES), (10_000, 1, CALL_BYTES), (1, 10_000, EVENTS_BYTES)],
    ids=["nothing else", "the call", "its events"],
)
def test_what_is_kept_of_a_recorded_call_weighs_no_more_than_is_said(
    tmp_path, monkeypatch, traced, calls, events, most_bytes
):
    monkeypatch.setattr(hosts, "ENDED_KEPT", calls)
    monkeypatch.setattr(running, "EventStream", partial(EventStream, events))
    service = Service(settings_in(tmp_path))
    try:
        recorded(service, "before", 20)  # what is only made once
        # What is on its way at the moment of a measurement can only add to it.
        assert any(weight(service, name) <= most_bytes for name in ("measured", "once more"))
    finally:
        service.close()
