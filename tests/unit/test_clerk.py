"""The thread that keeps a recorder's books: in order, one thing at a time, and again what a disk refuses."""

import errno
import threading

import pytest

from callreel.recorder import clerk as module
from callreel.recorder.clerk import Clerk


@pytest.fixture
def clerk(monkeypatch):
    monkeypatch.setattr(module, "INSIST_EVERY_S", 0.01)
    one = Clerk(then=lambda: None, next_s=lambda: 5.0)
    one.start()
    yield one
    one.stop()


def done(clerk):
    """Wait until all that was posted is done."""
    over = threading.Event()
    clerk.post(over.set)
    assert over.wait(10)


def test_what_is_posted_is_done_in_its_order_by_one_thread(clerk):
    did, threads = [], set()
    for number in range(100):
        clerk.post(lambda number=number: (did.append(number), threads.add(threading.current_thread())))
    done(clerk)
    assert did == list(range(100))
    assert len(threads) == 1


def test_what_goes_wrong_does_not_keep_it_from_the_rest(clerk, caplog):
    did = []
    clerk.post(lambda: 1 / 0)
    clerk.post(lambda: did.append(1))
    done(clerk)
    assert did == [1]
    assert "something was not done" in caplog.text


def test_what_a_disk_refuses_is_done_again_and_what_came_behind_it_waits(clerk):
    did, refusals, over = [], [3], threading.Event()

    def refused():
        if refusals[0]:
            refusals[0] -= 1
            raise OSError(errno.ENOSPC, "no room")
        did.append("first")

    clerk.post(lambda: clerk.insist(refused))
    clerk.post(lambda: clerk.insist(lambda: did.append("second")))
    clerk.post(lambda: clerk.insist(over.set))
    assert over.wait(10)
    assert did == ["first", "second"]


def test_later_is_not_before_its_time(clerk):
    did, over = [], threading.Event()
    clerk.post(lambda: clerk.later(0.05, lambda: (did.append("later"), over.set())))
    clerk.post(lambda: did.append("now"))
    assert over.wait(10)
    assert did == ["now", "later"]


def test_what_a_disk_still_refuses_in_the_end_is_counted():
    def refused():
        raise OSError(errno.ENOSPC, "no room")

    clerk = Clerk(then=lambda: None, next_s=lambda: 5.0)
    clerk.start()
    clerk.post(lambda: clerk.insist(refused))
    clerk.post(lambda: clerk.insist(lambda: None))
    clerk.stop()
    assert clerk.finish() == 2
