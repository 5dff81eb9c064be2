"""Which worker has which call."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from callreel.keys import safe_component
from callreel.service.fleet import ALONE, Fleet


@given(st.text(max_size=128), st.integers(1, 64))
def test_every_call_has_one_owner_and_all_workers_name_the_same(call_id, size):
    owners = {Fleet(index, size).owner(call_id) for index in range(size)}
    assert len(owners) == 1
    assert owners < set(range(size + 1))
    assert sum(Fleet(index, size).is_ours(call_id) for index in range(size)) == 1


@given(st.text(max_size=300), st.integers(1, 16))
def test_the_folder_of_a_call_has_the_owner_of_the_call(call_id, size):
    for index in range(size):
        fleet = Fleet(index, size)
        assert fleet.owns_folder(safe_component(call_id)) == fleet.is_ours(call_id)


@given(st.integers(1, 16), st.data())
def test_new_ids_are_of_the_worker_that_makes_them(size, data):
    fleet = Fleet(data.draw(st.integers(0, size - 1)), size)
    assert fleet.is_ours(fleet.new_id())


@given(st.uuids(), st.integers(1, 16))
def test_a_guid_is_of_one_worker_however_it_is_written(guid, size):
    fleet = Fleet(0, size)
    assert (
        len({fleet.owner(form) for form in (str(guid), guid.hex, str(guid).upper(), guid.hex.upper())}) == 1
    )


def test_one_process_alone_owns_everything():
    assert ALONE.is_ours("call-1")


def test_calls_are_spread_evenly():
    counts = [0] * 8
    for number in range(8000):
        counts[Fleet(0, 8).owner(f"call-{number}")] += 1
    assert min(counts) > 800


def test_workers_find_each_other_in_one_folder():
    first, second = Fleet(0, 2, Path("/run/callreel")), Fleet(1, 2, Path("/run/callreel"))
    assert first.socket(1) == second.socket(1) != second.socket(0)
