"""AsyncRecorder: the verbs of Recorder for asyncio, in real time."""

import ast
import asyncio
import inspect
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import soundfile

from callreel.actions import StartRecording
from callreel.delivery.folder import Folder
from callreel.errors import ActionError, UsageError
from callreel.recorder import Recorder, Settings, TakeEnded, aio
from callreel.recorder.aio import AsyncRecorder
from project import PACKAGE, python_imports
from recording_host import PACKET_S, Unreliable, packet

WORD_S = 0.4
"""How long a call of these tests is."""


def settings(tmp_path):
    return Settings(tmp_path / "spool", destination=str(tmp_path / "out"))


async def talk(recorder, call_id, seconds=WORD_S):
    """A call, fed from the loop in real time."""
    call = recorder.add_call(call_id)
    call.add_leg()
    call.start_recording(StartRecording())
    loop = asyncio.get_running_loop()
    start = loop.time()
    for number in range(round(seconds / PACKET_S)):
        await asyncio.sleep(start + (number + 1) * PACKET_S - loop.time())
        call.receive_rtp("LEG-A", packet(number))
    call.end()


async def take(recorder, number=1):
    """So many terminal events."""
    found = []
    async with asyncio.timeout(20):
        async for event in recorder.events():
            if isinstance(event, TakeEnded):
                found.append(event)
                if len(found) == number:
                    break
    return found


class Ticker:
    """How long the loop was not there for others."""

    async def __aenter__(self):
        self.worst_s = 0.0
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_):
        self._task.cancel()

    async def _tick(self):
        before = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            now = time.monotonic()
            self.worst_s, before = max(self.worst_s, now - before), now


class Slow(Folder):
    """A destination that takes its time."""

    def __init__(self, path, seconds):
        super().__init__(path)
        self.seconds = seconds

    def deliver(self, parcel):
        time.sleep(self.seconds)
        return super().deliver(parcel)


def slow_opening(monkeypatch, seconds):
    """Let a recorder take so long to open; returns an event that is set when it has begun to."""
    begun = threading.Event()

    def opened(*arguments, **options):
        begun.set()
        time.sleep(seconds)
        return Recorder(*arguments, **options)

    monkeypatch.setattr(aio, "Recorder", opened)
    return begun


# ---- the whole way ----


def test_a_recording_ends_as_a_file_at_its_destination_and_one_terminal_event(tmp_path):
    async def main():
        async with AsyncRecorder(settings(tmp_path)) as recorder:
            await talk(recorder, "c-1", 1.0)
            (event,) = await take(recorder)
            assert await recorder.drain(5.0)
            assert await recorder.unfinished() == 0
        return event

    event = asyncio.run(main())
    assert (event.call_id, event.error) == ("c-1", None)
    path = Path(event.location.removeprefix("file://"))
    assert soundfile.info(path).duration == pytest.approx(1.0, abs=0.25)
    assert event.manifest["tracks"][0]["packets"]["received"] == 50


def test_it_has_the_verbs_of_a_recorder():
    def verbs(cls):
        return {name for name in vars(cls) if not name.startswith("_")}

    assert verbs(Recorder) | {"open"} == verbs(AsyncRecorder)
    for name in ("add_call", "call", "drain", "close"):
        ours, theirs = (inspect.signature(getattr(cls, name)) for cls in (AsyncRecorder, Recorder))
        assert ours.parameters == theirs.parameters, name
    for name in ("open", "close", "drain", "unfinished"):
        assert inspect.iscoroutinefunction(getattr(AsyncRecorder, name))


def test_many_calls_at_once_lose_nothing_double_nothing_and_take_no_thread_each(tmp_path):
    async def main():
        async with AsyncRecorder(settings(tmp_path)) as recorder:
            await talk(recorder, "first")
            await take(recorder)
            before = threading.active_count()
            talking = [asyncio.create_task(talk(recorder, f"c-{number}")) for number in range(40)]
            await asyncio.sleep(WORD_S / 2)
            during = threading.active_count()
            events = await take(recorder, 40)
            await asyncio.gather(*talking)
            return before, during, events

    before, during, events = asyncio.run(main())
    assert during <= before + 1  # the executor's, at most
    assert sorted(event.call_id for event in events) == sorted(f"c-{number}" for number in range(40))
    assert {event.manifest["tracks"][0]["packets"]["received"] for event in events} == {WORD_S / PACKET_S}


# ---- nothing blocks the loop ----


def test_the_loop_goes_on_while_it_opens_delivers_drains_and_closes(tmp_path, monkeypatch):
    slow_opening(monkeypatch, 0.5)
    store = Slow(tmp_path / "out", 0.5)

    async def main():
        recorder = AsyncRecorder(settings(tmp_path), store_for=lambda _, key: (store, key))
        async with Ticker() as ticker:
            async with recorder:
                await talk(recorder, "c-1")
                assert await recorder.drain(10.0)
                await talk_and_leave(recorder)
            return ticker.worst_s

    async def talk_and_leave(recorder):
        with pytest.raises(ActionError, match="no recordings are begun any more"):
            await talk(recorder, "c-2")

    assert asyncio.run(main()) < 0.25


def test_draining_gives_up_when_its_time_is_over(tmp_path):
    async def main():
        async with AsyncRecorder(settings(tmp_path)) as recorder:
            call = recorder.add_call("c-1")
            call.add_leg()
            call.start_recording(StartRecording())
            start = time.monotonic()
            assert not await recorder.drain(0.4)
            assert 0.4 <= time.monotonic() - start < 2.0
            call.end()
            assert await recorder.drain()

    asyncio.run(main())


# ---- events ----


def test_events_come_until_it_is_closed_and_none_is_lost_then(tmp_path):
    async def main():
        recorder = AsyncRecorder(settings(tmp_path))
        await recorder.open()
        found = []

        async def listen():
            async for event in recorder.events():
                found.append(event)

        listening = asyncio.create_task(listen())
        await talk(recorder, "c-1")
        assert await recorder.drain(10.0)
        await recorder.close()
        async with asyncio.timeout(5):
            await listening
        assert sum(isinstance(event, TakeEnded) for event in found) == 1
        assert [event async for event in recorder.events()] == []

    asyncio.run(main())


def test_a_wait_for_an_event_that_is_cancelled_loses_none_and_ends_nothing(tmp_path):
    async def main():
        async with AsyncRecorder(settings(tmp_path)) as recorder:
            events = recorder.events()
            found = []
            talking = asyncio.create_task(talk(recorder, "c-1", 1.0))
            until = time.monotonic() + 10
            while not any(isinstance(event, TakeEnded) for event in found):
                assert time.monotonic() < until
                try:
                    async with asyncio.timeout(0.003):  # again and again, at every moment
                        found.append(await anext(events))
                except TimeoutError:
                    pass
            await talking
            assert recorder._waiters == []
            kinds = [type(event).__name__ for event in found]
            assert kinds == ["LegChanged", "RecordingStarted", "CallEnded", "RecordingStored", "TakeEnded"]

    asyncio.run(main())


def test_an_event_wakes_whoever_waits_at_once(tmp_path):
    async def main():
        async with AsyncRecorder(settings(tmp_path)) as recorder:
            waiting = asyncio.create_task(anext(recorder.events()))
            await asyncio.sleep(0.1)
            start = time.monotonic()
            call = recorder.add_call("c-1")
            call.end()
            async with asyncio.timeout(5):
                await waiting
            return time.monotonic() - start

    assert asyncio.run(main()) < 0.1


# ---- cancellation ----


def test_who_is_cancelled_while_it_opens_leaves_nothing_open(tmp_path, monkeypatch):
    begun = slow_opening(monkeypatch, 0.3)

    async def main():
        recorder = AsyncRecorder(settings(tmp_path))
        opening = asyncio.create_task(recorder.open())
        assert await asyncio.to_thread(begun.wait, 5)
        opening.cancel()
        await asyncio.sleep(0.05)
        opening.cancel()  # impatient
        with pytest.raises(asyncio.CancelledError):
            await opening
        with Recorder(settings(tmp_path)):  # nobody has the spool
            pass

    asyncio.run(main())


async def cancel_its_closing(recorder):
    """Open it, have something delivered that takes its time, and do not wait for `close`."""
    await recorder.open()
    await talk(recorder, "c-1")
    while not recorder._opened._office._despatch._queue._leased:
        await asyncio.sleep(0.01)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await recorder.close()


def test_who_is_cancelled_while_it_closes_leaves_it_closing(tmp_path):
    store = Slow(tmp_path / "out", 0.6)

    async def main():
        recorder = AsyncRecorder(settings(tmp_path), store_for=lambda _, key: (store, key))
        await cancel_its_closing(recorder)
        await recorder.close()
        with Recorder(settings(tmp_path)):
            pass

    asyncio.run(main())


def test_a_loop_that_ends_while_it_closes_is_no_trouble(tmp_path):
    store = Slow(tmp_path / "out", 0.6)
    recorder = AsyncRecorder(settings(tmp_path), store_for=lambda _, key: (store, key))

    async def main():
        await cancel_its_closing(recorder)

    asyncio.run(main())
    asyncio.run(recorder.close())


def test_a_drain_that_is_cancelled_ends_soon(tmp_path):
    async def main():
        async with AsyncRecorder(settings(tmp_path)) as recorder:
            call = recorder.add_call("c-1")
            call.add_leg()
            call.start_recording(StartRecording())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await recorder.drain()
            call.end()

    start = time.monotonic()
    asyncio.run(main())  # waits for the threads of its executor
    assert time.monotonic() - start < 3.0


# ---- loops ----


def test_several_loops_in_one_process_have_a_recorder_each(tmp_path):
    events = {}

    def run(name):
        async def main():
            async with AsyncRecorder(settings(tmp_path / name)) as recorder:
                await talk(recorder, name)
                (events[name],) = await take(recorder)

        asyncio.run(main())

    threads = [threading.Thread(target=run, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert {name: event.call_id for name, event in events.items()} == {"a": "a", "b": "b", "c": "c"}


def test_several_loops_may_share_one_recorder_and_each_event_goes_to_one(tmp_path):
    recorder = AsyncRecorder(settings(tmp_path))
    asyncio.run(recorder.open())  # and that loop is gone
    found = []

    def listen():
        async def main():
            async for event in recorder.events():
                if isinstance(event, TakeEnded):
                    found.append(event.call_id)

        asyncio.run(main())

    listeners = [threading.Thread(target=listen) for _ in range(3)]
    for listener in listeners:
        listener.start()

    async def main():
        await asyncio.gather(*(talk(recorder, f"c-{number}") for number in range(10)))
        assert await recorder.drain(10)
        await recorder.close()

    asyncio.run(main())
    for listener in listeners:
        listener.join(10)
        assert not listener.is_alive()
    assert sorted(found) == sorted(f"c-{number}" for number in range(10))


def test_who_was_waiting_in_a_loop_that_is_gone_harms_nobody(tmp_path):
    recorder = AsyncRecorder(settings(tmp_path))

    async def leave():
        await recorder.open()
        loop, waiter = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
        recorder._waiters.append((loop, waiter))

    async def main():
        await talk(recorder, "c-1")
        await take(recorder)
        await recorder.close()

    asyncio.run(leave())
    asyncio.run(main())


# ---- wrong usage ----


def test_it_is_opened_once_and_before_it_is_used(tmp_path):
    async def main():
        recorder = AsyncRecorder(settings(tmp_path))
        with pytest.raises(UsageError, match="not open"):
            recorder.add_call("c-1")
        async with recorder:
            with pytest.raises(UsageError, match="opened once"):
                await recorder.open()
        with pytest.raises(UsageError, match="opened once"):
            await recorder.open()

    asyncio.run(main())


def test_a_spool_that_another_has_is_refused(tmp_path):
    async def main():
        with Recorder(settings(tmp_path)), pytest.raises(UsageError):
            async with AsyncRecorder(settings(tmp_path)):
                pass

    asyncio.run(main())


def test_events_take_the_place_of_on_event(tmp_path):
    with pytest.raises(UsageError, match="on_event"):
        AsyncRecorder(settings(tmp_path), on_event=print)


def test_a_store_of_the_hosts_own_is_used(tmp_path):
    store = Unreliable(tmp_path / "elsewhere")

    async def main():
        async with AsyncRecorder(settings(tmp_path), store_for=lambda _, key: (store, key)) as recorder:
            await talk(recorder, "c-1")
            return await take(recorder)

    (event,) = asyncio.run(main())
    assert "/elsewhere/" in event.location


# ---- who imports asyncio ----


def test_only_this_module_imports_asyncio_beside_the_service():
    found = [
        one.path.name
        for path in PACKAGE.rglob("*.py")
        for one in python_imports(path)
        if one.top == "asyncio" and PACKAGE / "service" not in path.parents
    ]
    assert found == ["aio.py"]
    assert "asyncio" in {
        one.names[0].name
        for one in ast.walk(ast.parse(Path(aio.__file__).read_text()))
        if isinstance(one, ast.Import)
    }


@pytest.mark.parametrize("name", ["callreel", "callreel.recorder", "callreel.cli"])
def test_without_it_nothing_brings_asyncio(name):
    program = f"import sys, {name}; sys.exit('asyncio' in sys.modules)"
    environment = {"PYTHONPATH": str(PACKAGE.parent)}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0
