"""What is carried out once: answers in a file that several workers share."""

import asyncio
import multiprocessing
import sqlite3
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
from fastapi.responses import JSONResponse, Response

from callreel.recorder import TakeEnded
from callreel.service.answers import Answers, KeyReusedError, StillAtWorkError
from callreel.service.customers import Routes
from callreel.service.fleet import Fleet
from callreel.service.library import Library

WORKERS = 8
KEYS = 25
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["callreel.service.answers", "callreel.service.customers", "callreel.service.library"]
)


def answered(answers, key, work, **options):
    options = {"until_s": time.time() + 60} | options
    return asyncio.run(answers.once(key, work, **options))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.sqlite"


def numbered():
    """Work that tells how often it was done."""
    done = []

    def work():
        done.append(1)
        return JSONResponse({"done": len(done)}, 201, {"X-Call": "1"})

    return work


def never():
    raise AssertionError("it was done already")


def test_the_first_answer_is_given_again_by_every_worker_and_after_a_restart(path):
    first = Answers(path, Fleet(0, 2))
    given = answered(first, "key", numbered())
    second = Answers(path, Fleet(1, 2))
    assert answered(second, "key", never).body == given.body == b'{"done":1}'
    first.close()
    second.close()
    again = Answers(path, Fleet(0, 3))
    found = answered(again, "key", never)
    assert (found.body, found.status_code, found.headers["x-call"]) == (given.body, 201, "1")
    again.close()


def test_an_answer_is_kept_as_long_as_it_is_good(path):
    answers, work = Answers(path), numbered()
    answered(answers, "key", work, now_s=1000.0, until_s=1300.0)
    assert answered(answers, "key", work, now_s=1300.0, until_s=1600.0).body == b'{"done":1}'
    assert answered(answers, "key", work, now_s=1300.5, until_s=1600.0).body == b'{"done":2}'
    answers.close()


def test_what_raises_is_not_kept(path):
    answers = Answers(path)
    with pytest.raises(AssertionError):
        answered(answers, "key", never)
    assert answered(answers, "key", numbered()).body == b'{"done":1}'
    answers.close()


def test_who_is_cancelled_while_he_claims_a_key_does_not_keep_it(path):
    answers = Answers(path)

    async def cancelled():
        with answers._lock:  # the claim waits for it
            asking = asyncio.create_task(answers.once("key", never, until_s=time.time() + 60))
            await asyncio.sleep(0.1)
            asking.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(cancelled())
    assert answered(answers, "key", numbered()).body == b'{"done":1}'
    answers.close()


def test_a_key_of_another_request_is_refused(path):
    answers = Answers(path)
    answered(answers, "key", numbered(), request=b"one")
    with pytest.raises(KeyReusedError):
        answered(answers, "key", never, request=b"two")
    answers.close()


def test_an_equal_request_waits_for_the_answer(path):
    answers = [Answers(path, Fleet(index, 2)) for index in range(2)]
    work = numbered()

    async def slow():
        await asyncio.sleep(0.3)
        return work()

    async def both():
        until_s = time.time() + 60
        first = asyncio.create_task(answers[0].once("key", slow, until_s=until_s))
        await asyncio.sleep(0.1)
        return [await answers[1].once("key", never, until_s=until_s), await first]

    assert [one.body for one in asyncio.run(both())] == [b'{"done":1}'] * 2
    for one in answers:
        one.close()


def hang(path, is_at_it):
    """Be at work on something for ever."""

    async def work():
        is_at_it.set()
        await asyncio.sleep(60)

    answered(Answers(path, Fleet(0, 2)), "key", work)


def test_an_equal_request_waits_neither_for_ever_nor_for_the_dead(path):
    is_at_it = CONTEXT.Event()
    worker = CONTEXT.Process(target=hang, args=(path, is_at_it), daemon=True)
    worker.start()
    assert is_at_it.wait(20)
    other = Answers(path, Fleet(1, 2), wait_s=0.1)
    with pytest.raises(StillAtWorkError):
        answered(other, "key", never)
    worker.kill()
    worker.join()
    successor = Answers(path, Fleet(0, 2))
    assert answered(other, "key", numbered()).body == b'{"done":1}'
    for one in (other, successor):
        one.close()


def test_no_more_answers_are_kept_than_it_may_and_the_longest_good_ones_stay(path):
    answers = Answers(path, most=3)
    for number in range(10):
        answered(answers, str(number), numbered(), now_s=0.0, until_s=100.0 + number)
    answers.sweep(99.0)
    kept = []
    for number in range(10):
        again = answered(answers, str(number), lambda: Response(status_code=204), now_s=99.0, until_s=100.0)
        kept += [number] * (again.status_code == 201)
    assert kept == [7, 8, 9]
    answers.sweep(200.0)
    assert answered(answers, "9", lambda: Response(status_code=204), now_s=0.0).status_code == 204
    answers.close()


def test_a_file_that_cannot_be_written_keeps_nothing_from_being_done_once(path):
    answers = Answers(path)
    holder = sqlite3.connect(path, isolation_level=None)
    answers._file.execute("pragma busy_timeout = 0")
    holder.execute("begin immediate")
    work = numbered()
    assert answered(answers, "key", work).body == b'{"done":1}'
    assert answered(answers, "key", work).body == b'{"done":1}'
    holder.execute("rollback")
    holder.close()
    assert answered(answers, "key", work).body == b'{"done":1}'
    answers.close()


def test_nobody_else_may_read_the_file_and_no_key_is_in_it(path):
    answers = Answers(path)
    answered(answers, "a-key-that-is-a-signature", numbered())
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0
        assert b"a-key-that-is" not in file.read_bytes()
    answers.close()


# ---- many processes at once ----


def ask(folder, index):
    """A worker that asks for all keys, and writes to every file that all share; what it was answered."""
    answers = Answers(folder / "answers.sqlite", Fleet(index, WORKERS))
    library, routes = Library(folder / "library.sqlite"), Routes(folder / "routes.sqlite")
    found = []
    for number in range(KEYS):

        def work(number=number):
            with (folder / "done").open("a") as done:
                done.write(f"{number}\n")
            return JSONResponse({"by": index})

        found.append(answered(answers, str(number), work).body)
        name = f"{index}-{number}"
        library.add("acme", TakeEnded(name, name, name, "key", "hang_up", None, None, {}), now_s=1.0)
        routes.keep(name, "application")
        routes.sweep()
        answers.sweep(1.0)
    for one in (answers, library, routes):
        one.close()
    return found


def test_of_many_processes_one_carries_out_each_request_and_nothing_that_they_write_is_lost(tmp_path):
    with ProcessPoolExecutor(WORKERS, mp_context=CONTEXT) as workers:
        found = list(workers.map(ask, [tmp_path] * WORKERS, range(WORKERS)))
    assert sorted(map(int, (tmp_path / "done").read_text().split())) == list(range(KEYS))
    assert all(one == found[0] for one in found)
    library, routes = Library(tmp_path / "library.sqlite"), Routes(tmp_path / "routes.sqlite")
    assert library.find("acme").total == WORKERS * KEYS
    names = [f"{index}-{number}" for index in range(WORKERS) for number in range(KEYS)]
    assert all(routes.application_of(name) == "application" for name in names)
    library.close()
    routes.close()
