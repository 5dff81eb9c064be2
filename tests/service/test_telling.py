"""The stream of events: numbered, in order, of all workers in one; who comes back misses nothing, or is told so."""

import asyncio
import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callreel.service import stream, telling
from callreel.service.running import Service
from callreel.service.stream import EventStream
from callreel.service.telling import Line, Place, place_of, told_by, watch
from fleet_host import fleet_of, id_of, settings_in, worker
from service_host import TOKENS, events_of, listening, read_events, until

NO_MEDIA = {"legs": [{"media": "none"}]}


def event(number):
    return {"event": "happened", "number": number}


# ---- numbers ----


def test_numbers_of_a_process_are_none_of_an_earlier_one():
    before = EventStream()
    for number in range(100):
        before.tell("acme", event(number))
    after = EventStream()
    assert after.last_number > before.last_number
    after.tell("acme", event(0))
    for number in (before.last_number, 1, after.last_number + 1):
        since = after.since(number, "acme")
        assert since.is_gap
        assert [one.body["number"] for one in since.told] == [0]


@given(st.integers(1, 6), st.integers(0, 12), st.integers(0, 12))
def test_after_a_number_comes_what_is_kept_and_a_gap_is_told_when_that_is_not_all(kept, total, seen):
    told = EventStream(kept)
    first = told.last_number
    for number in range(total):
        told.tell("acme" if number % 2 else "other", event(number))
    seen = min(seen, total)
    since = told.since(first + seen)
    assert since.is_gap == (total - seen > kept)
    assert [one.body["number"] for one in since.told] == list(range(max(seen, total - kept), total))
    assert [one.body["number"] % 2 for one in told.since(first + seen, "acme").told] == [1] * len(
        [number for number in range(max(seen, total - kept), total) if number % 2]
    )
    beginning = told.since(0)
    assert (beginning.is_gap, len(beginning.told)) == (total > kept, min(total, kept))


@pytest.mark.parametrize(
    ("text", "size", "place"),
    [
        (None, 2, Place([None, None])),
        ("0", 2, Place([0, 0])),
        ("17.4", 2, Place([17, 4])),
        ("17", 1, Place([17])),
        ("17", 2, Place([0, 0], is_gap=True)),
        ("1.2.3", 2, Place([0, 0], is_gap=True)),
        ("x", 1, Place([0], is_gap=True)),
        ("", 1, Place([0], is_gap=True)),
        ("1..2", 3, Place([0, 0, 0], is_gap=True)),
    ],
)
def test_an_id_that_was_not_given_to_so_many_workers_is_a_gap(text, size, place):
    assert place_of(text, size) == place


# ---- several in one ----


def blocks(sources, place, count):
    """The first events of several workers, in one."""

    async def read():
        found = []
        async for block in watch(sources, place):
            found += events_of(block.split("\n"))
            if len(found) >= count:
                return found
        raise AssertionError(found)

    return asyncio.run(asyncio.wait_for(read(), 20))


@given(st.lists(st.integers(0, 2), max_size=20), st.data())
def test_whoever_comes_back_with_any_id_gets_the_rest_each_once_in_each_workers_order(order, data):
    streams = [EventStream() for _ in range(3)]
    for number, index in enumerate(order):
        streams[index].tell("acme", {"event": "happened", "worker": index, "number": number})
    sources = [lambda at, one=one: told_by(one, "acme", at) for one in streams]
    seen = blocks(sources, Place([0, 0, 0]), len(order)) if order else []
    assert sorted(one["number"] for one in seen) == list(range(len(order)))
    for index in range(3):
        numbers = [one["number"] for one in seen if one["worker"] == index]
        assert numbers == sorted(numbers)
    if seen:
        left = data.draw(st.integers(0, len(seen) - 1))
        rest = seen[left + 1 :]
        again = blocks(sources, place_of(seen[left]["id"], 3), len(rest)) if rest else []
        assert sorted(one["number"] for one in again) == sorted(one["number"] for one in rest)


def test_who_watches_has_an_id_before_anything_has_happened_and_while_nothing_does(monkeypatch):
    monkeypatch.setattr(telling, "KEEP_ALIVE_S", 0.05)
    told = EventStream()

    async def read():
        found = []
        async for block in watch([lambda at: told_by(told, "acme", at)], Place([None])):
            found.append(block)
            told.tell("other", event(1))
            if len(found) == 4:
                return found
        raise AssertionError(found)

    first, *later = asyncio.run(read())
    assert first.splitlines()[0] == f"id: {told.last_number - 4}"
    assert int(later[-1].splitlines()[0].removeprefix("id: ")) > told.last_number - 4
    assert not any("data" in block for block in (first, *later))


def test_a_worker_that_does_not_say_where_it_is_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(telling, "BEGIN_S", 0.05)
    told = EventStream()

    async def silent(at):
        await asyncio.sleep(60)
        yield [Line(at)]

    told.tell("acme", event(7))
    (found,) = blocks([lambda at: told_by(told, "acme", at), silent], Place([0, None]), 1)
    assert found["number"] == 7
    assert found["id"] == f"{told.last_number}.0"


def test_what_goes_wrong_where_it_is_told_ends_the_stream():
    async def failing(at):
        yield [Line(1)]
        raise KeyError("a fault")

    with pytest.raises(KeyError, match="a fault"):
        blocks([failing], Place([None]), 1)


def test_a_slow_watcher_is_waited_for_and_does_not_fill_the_memory():
    told, given_out = EventStream(), 0

    async def counted(at):
        nonlocal given_out
        async for lines in told_by(told, "acme", at):
            given_out += len(lines)
            yield lines

    for number in range(5000):
        told.tell("acme", event(number))

    async def read():
        taken = watch([counted], Place([0]))
        first = [block async for block in _first(taken, 3)]
        await asyncio.sleep(0.2)
        return first

    asyncio.run(read())
    assert given_out < 2 * telling.QUEUED * telling.TURN_EVENTS


async def _first(blocks_, count):
    async for block in blocks_:
        yield block
        count -= 1
        if not count:
            return


# ---- workers ----


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    with fleet_of(3, settings_in(tmp_path_factory.mktemp("fleet"), workers=3)) as running:
        yield running


def begun(client, call_id):
    assert client.post("/v1/calls", json=NO_MEDIA | {"call_id": call_id}).status_code == 201


def test_events_of_all_workers_are_told_by_each_and_resumed_at_another(workers):
    names = [id_of(workers[n % 3], f"told-{n}") for n in range(6)]
    for name in names:
        begun(workers[0].client(), name)
        workers[0].client().delete(f"/v1/calls/{name}")

    def ended(one):
        return [event["call_id"] for event in one if event["event"] == "call_ended"]

    for asked in workers:
        seen = []
        read_events(
            asked.client(),
            lambda one, seen=seen: seen.append(one) or {*ended(seen)} >= {*names},
            params={"since": "0"},
        )
        for name in names:
            assert [one["event"] for one in seen if one["call_id"] == name][::-1][0] == "call_ended"
        for place in (0, 5, len(seen) - 2):
            rest = seen[place + 1 :]
            for other in workers:
                left = iter(range(1, len(rest)))
                again = read_events(
                    other.client(),
                    lambda _, left=left: next(left, None) is None,
                    headers={"Last-Event-ID": seen[place]["id"]},
                )
                key = lambda one: (one["call_id"], one["event"])  # noqa: E731
                assert sorted(map(key, again)) == sorted(map(key, rest))


def test_another_tenant_is_told_nothing_by_any_worker(workers):
    name = id_of(workers[1], "private")
    theirs = id_of(workers[1], "theirs")
    found = []

    def watch_():
        found.extend(read_events(workers[0].client("other"), lambda one: one["call_id"] == theirs))

    watcher = threading.Thread(target=watch_)
    watcher.start()
    time.sleep(0.5)
    begun(workers[0].client(), name)
    begun(workers[2].client("other"), theirs)
    watcher.join(10)
    assert {one["call_id"] for one in found} == {theirs}


def test_who_stops_watching_is_watched_for_nowhere(workers):
    def watchers():
        return [len(one.service.stream._watchers) for one in workers]

    until(lambda: not any(watchers()), 20)  # those of the tests before
    with workers[0].client().stream("GET", "/v1/events") as answer:
        lines = answer.iter_lines()
        next(lines)
        until(lambda: watchers() == [1] * len(workers))
    until(lambda: not any(watchers()))


def test_the_successor_of_a_worker_goes_on_telling_and_says_that_something_may_be_missing(tmp_path):
    settings = settings_in(tmp_path, workers=2)
    with fleet_of(2, settings) as (first, second):
        sockets = first.service.fleet.folder
        found, done = [], threading.Event()

        def watch_():
            def is_last(one):
                found.append(one)
                return one.get("call_id") == "call-after"

            read_events(first.client(), is_last)
            done.set()

        name = id_of(second, "before")
        after = "call-after"
        watcher = threading.Thread(target=watch_)
        watcher.start()
        time.sleep(0.5)
        begun(first.client(), name)
        until(lambda: any(one.get("call_id") == name for one in found))
        second.end()
        with listening(worker(1, 2, settings, sockets)) as successor:
            owner = (first, successor)[first.service.fleet.owner(after)]
            begun(owner.client(), id_of(successor, "again"))
            until(lambda: any(one.get("call_id", "").startswith("again") for one in found))
            begun(first.client(), after)
            assert done.wait(10)
        watcher.join(10)
    names = [one["event"] for one in found]
    assert "gap" in names
    assert names.index("gap") < next(
        at for at, one in enumerate(found) if one.get("call_id", "").startswith("again")
    )


def test_one_process_alone_tells_of_a_gap_after_its_restart(tmp_path):
    with listening(Service(settings_in(tmp_path))) as running:
        begun(running.client(), "one")
        (*_, last) = read_events(running.client(), lambda one: True, params={"since": "0"})
    with listening(Service(settings_in(tmp_path))) as running:
        begun(running.client(), "two")
        headers = {"Last-Event-ID": last["id"]}
        gap, *_, found = read_events(
            running.client(), lambda one: one.get("call_id") == "two", headers=headers
        )
        assert gap["event"] == "gap"
        assert found["event"] == "leg_changed"
        again = read_events(
            running.client(), lambda one: one.get("call_id") == "two", headers={"Last-Event-ID": gap["id"]}
        )
        assert "gap" not in [one["event"] for one in again]


def test_a_watcher_that_reads_nothing_costs_the_others_nothing(workers, monkeypatch):
    request = (
        f"GET /v1/events?since=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKENS['acme']}\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", workers[0].port)) as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.sendall(request)
        owning = workers[1].service
        for number in range(2 * stream.KEPT):
            owning.stream.tell("acme", {"event": "happened", "call_id": "x", "number": number})
        name = id_of(workers[2], "lively")
        begun(workers[0].client(), name)
        seen = read_events(
            workers[0].client(),
            lambda one: one.get("call_id") == name,
            params={"since": "0"},
        )
        assert seen[-1]["call_id"] == name
