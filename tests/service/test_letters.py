"""Dead letters and what waits, by tenant: nobody reaches beyond their own, whatever ids and files there are."""

import pytest

from busy_service import dead_letter, message_of
from callreel.delivery.queue_files import AGAIN, DAMAGED, DEAD, FOLDERS, QUEUE_FOLDER, WAITING
from callreel.service.letters import Letters

OWNERS = {"t-1": "acme", "t-2": "other"}


@pytest.fixture
def spool(tmp_path):
    for name in FOLDERS:
        (tmp_path / QUEUE_FOLDER / name).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def letters(spool):
    return Letters(spool, lambda take_id, call_id: OWNERS.get(take_id) if take_id else OWNERS.get(call_id))


def test_a_letter_is_of_whom_its_take_its_call_or_its_manifest_is(spool, letters):
    dead_letter(spool, "deliver:t-1", number=1)
    dead_letter(spool, "deliver:t-2", number=2)
    dead_letter(spool, "say:x", number=3, group="say:t-1", call_id="t-1")
    dead_letter(spool, "end:gone", number=4, **message_of("acme"))
    dead_letter(spool, "end:odd", number=5, id="x", body={"manifest": "none"})
    dead_letter(spool, "other:kind", number=6, id="x", body=[1])
    assert [one.id for one in letters.dead("acme", 10)] == ["deliver:t-1", "say:x", "end:gone"]
    assert [one.id for one in letters.dead("other", 10)] == ["deliver:t-2"]
    assert len(letters.dead(None, 10)) == 6
    assert [one.id for one in letters.dead(None, 2)] == ["deliver:t-1", "deliver:t-2"]


def test_what_cannot_be_read_is_passed_over(spool, letters):
    (spool / QUEUE_FOLDER / DEAD / "000000000001-deliver%3At-1.json").write_text("{")
    (spool / QUEUE_FOLDER / DAMAGED / "anything").write_text("x")
    dead_letter(spool, "deliver:t-1", number=2)
    assert len(letters.dead("acme", 10)) == 1


def test_what_waits_is_what_waits_and_what_is_to_be_tried_again(spool, letters):
    dead_letter(spool, "deliver:t-1", number=1, state=WAITING)
    dead_letter(spool, "end:t-1", number=2, state=AGAIN)
    (first, second) = letters.waiting("acme", 10)
    assert (first.kind, first.take_id, first.call_id) == ("delivery of a recording", "t-1", "c-9")
    assert (second.kind, second.attempts, second.error_class) == ("terminal event", 9, "denied")
    assert letters.waiting("other", 10) == []
    dead_letter(spool, "replay:t-1", number=3, state=WAITING)
    replayed = letters.waiting("acme", 10)[-1]
    assert (replayed.kind, replayed.take_id) == ("terminal event", "t-1")


def test_only_ones_own_are_tried_again_or_dropped(spool, letters):
    mine = dead_letter(spool, "deliver:t-1", number=1)
    theirs = dead_letter(spool, "deliver:t-2", number=2)
    assert letters.retry("acme", "deliver:t-2") == letters.drop("acme", "deliver:t-2") == 0
    assert theirs.exists()
    assert letters.retry("acme") == 1
    assert not mine.exists()
    assert (spool / QUEUE_FOLDER / AGAIN / mine.name).exists()
    assert letters.drop(None, "deliver:t-2") == 1
    assert not theirs.exists()
    assert letters.retry("acme", "deliver:t-1") == 0


def test_a_queue_that_is_not_there_has_nothing(tmp_path):
    letters = Letters(tmp_path / "nowhere", lambda take_id, call_id: None)
    assert letters.dead(None, 10) == letters.waiting(None, 10) == []
    assert letters.retry(None) == 0


def test_those_of_other_spools_are_among_them(spool, tmp_path):
    other = tmp_path / "worker-3"
    for name in FOLDERS:
        (other / QUEUE_FOLDER / name).mkdir(parents=True)
    letters = Letters(spool, lambda take_id, call_id: OWNERS.get(take_id), lambda: [other])
    dead_letter(spool, "deliver:t-1", number=1)
    theirs = dead_letter(other, "deliver:t-2", number=1)
    assert [one.id for one in letters.dead(None, 10)] == ["deliver:t-1", "deliver:t-2"]
    assert letters.retry("other") == 1
    assert (other / QUEUE_FOLDER / AGAIN / theirs.name).exists()
