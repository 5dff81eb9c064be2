"""What every destination promises: one contract, tried on each of them, with a failure at every step."""

import contextlib
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from callreel.errors import DeliveryConflictError, DeliveryError, DeliveryThrottledError
from delivery_benches import BENCHES, make_bench, parcel
from small_disk import small_disk

SMALL = random.Random(1).randbytes(20_000)
OTHER = random.Random(2).randbytes(20_000)
KEY = "calls/2026/one.wav"


@pytest.fixture(params=BENCHES)
def bench(request, tmp_path):
    return make_bench(request.param, request, tmp_path)


@pytest.fixture(params=["small", "large"])
def content(request, bench):
    return SMALL if request.param == "small" else random.Random(3).randbytes(bench.large)


@pytest.fixture(params=["small", "middle"])
def shorter_content(request, bench):
    """At whose size a hundred deliveries take a second."""
    return SMALL if request.param == "small" else random.Random(4).randbytes(bench.middle)


def assert_clean(bench, *contents):
    """Nothing half-written is there, and of the files only these."""
    assert bench.leftovers() == []
    assert sorted(bench.objects().values()) == sorted(contents)


def test_a_delivered_file_is_there_whole_and_the_receipt_says_what_is_there(bench, content, tmp_path):
    one = parcel(tmp_path, content)
    receipt = bench.store.deliver(one)
    assert bench.objects() == {bench.key(KEY): content}
    assert bench.leftovers() == []
    assert receipt.size_bytes == len(content)
    assert receipt.checksum == f"sha256:{one.sha256}"
    assert receipt.location.endswith(bench.key(KEY))
    assert "://" in receipt.location


def test_an_empty_file_is_delivered_too(bench, tmp_path):
    assert bench.store.deliver(parcel(tmp_path, b"")).size_bytes == 0
    assert bench.objects() == {bench.key(KEY): b""}


def test_delivering_again_gives_the_same_receipt_and_leaves_one_file(bench, content, tmp_path):
    one = parcel(tmp_path, content)
    receipt = bench.store.deliver(one)
    assert bench.store.deliver(one) == receipt
    assert_clean(bench, content)


def test_something_else_of_that_key_is_a_conflict_and_stays(bench, content, tmp_path):
    bench.store.deliver(parcel(tmp_path, OTHER, metadata={"transaction-id": "t-other"}))
    with pytest.raises(DeliveryConflictError) as caught:
        bench.store.deliver(parcel(tmp_path, content))
    assert caught.value.key in (KEY, bench.key(KEY))
    assert not caught.value.retryable
    assert_clean(bench, OTHER)


def test_what_is_to_be_overwritten_is(bench, content, tmp_path):
    bench.store.deliver(parcel(tmp_path, OTHER))
    bench.store.deliver(parcel(tmp_path, content, overwrite=True))
    assert_clean(bench, content)


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: b"x" + data[1:]], ids=["shorter", "altered"]
)
def test_a_file_that_is_no_longer_what_the_parcel_says_is_refused(bench, content, change, tmp_path):
    one = parcel(tmp_path, content)
    one.path.write_bytes(change(content))
    with pytest.raises(DeliveryError) as caught:
        bench.store.deliver(one)
    assert not caught.value.retryable
    assert_clean(bench)


def test_a_file_that_is_gone_is_a_delivery_error(bench, tmp_path):
    one = parcel(tmp_path, SMALL)
    one.path.unlink()
    with pytest.raises(DeliveryError) as caught:
        bench.store.deliver(one)
    assert caught.value.key in (KEY, bench.key(KEY))
    assert_clean(bench)


def test_check_says_yes_and_leaves_nothing(bench):
    bench.store.check(KEY)
    assert_clean(bench)


def test_check_and_delivery_refuse_the_same_destination(bench, tmp_path):
    store = bench.unreachable()
    with pytest.raises(DeliveryError) as at_check:
        store.check(KEY)
    with pytest.raises(DeliveryError) as at_delivery:
        store.deliver(parcel(tmp_path, SMALL))
    assert type(at_check.value) is type(at_delivery.value)
    assert at_check.value.key == at_delivery.value.key in (KEY, bench.key(KEY))


def test_a_lane_is_one_destination(bench, tmp_path):
    assert bench.store.lane == bench.store.lane
    assert bench.store.lane != bench.elsewhere(tmp_path).lane
    assert "://" in bench.store.lane


def test_threads_deliver_side_by_side_and_the_same_parcel_once(bench, tmp_path):
    contents = [random.Random(n).randbytes(50_000) for n in range(6)]
    parcels = [parcel(tmp_path, data, f"calls/{n}.wav") for n, data in enumerate(contents)]
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(bench.store.deliver, [*parcels, *parcels]))
    assert receipts[:6] == receipts[6:]
    assert_clean(bench, *contents)


def test_a_failure_at_any_step_leaves_nothing_half_written_and_reports_nothing_that_is_not_there(
    bench, shorter_content, tmp_path
):
    one = parcel(tmp_path, shorter_content)
    fail_at_every_step(bench, one, shorter_content, before={})


def test_a_failure_at_any_step_of_an_overwriting_leaves_the_old_file_or_the_new_one(bench, tmp_path):
    old = parcel(tmp_path, OTHER, metadata={"transaction-id": "t-other"})
    one = parcel(tmp_path, SMALL, overwrite=True)
    fail_at_every_step(
        bench, one, SMALL, before={bench.key(KEY): OTHER}, prepare=lambda: bench.store.deliver(old)
    )


def fail_at_every_step(bench, one, content, before, prepare=lambda: None):
    """Deliver with every fault at every step there is, each time from the same beginning."""
    key = bench.key(KEY)
    after = {key: content}
    prepare()
    bench.begin_anew()
    steps = bench.steps(lambda: bench.store.deliver(one), one)
    assert all(count >= 2 for count in steps.values()), steps
    for fault, count in steps.items():
        for at in range(count):
            bench.clear()
            prepare()
            bench.begin_anew()
            receipt = error = None
            with bench.failing(fault, at, one) as done:
                try:
                    receipt = bench.store.deliver(one)
                except DeliveryError as caught:
                    error = caught
            if error is not None:
                assert error.key in (KEY, key), (fault, at)
                assert bench.objects() in (before, after), (fault, at)
            else:
                assert bench.objects() == after, (fault, at)
                assert (receipt.size_bytes, receipt.checksum) == (len(content), f"sha256:{one.sha256}")
            if fault != "dead from there on" and not bench.is_left_for_tidying(done[: at + 1]):
                assert bench.leftovers() == [], (fault, at)
            # Whoever does not know how it went tries again: then it is there, once, and nothing else is.
            bench.store.deliver(one)
            bench.tidy()
            assert bench.objects() == after, (fault, at)
            assert bench.leftovers() == [], (fault, at)


@pytest.mark.parametrize("fault", ["cut within", "answer lost", "dead from there on"])
def test_a_failure_at_any_step_of_a_file_that_grows_shows_nothing_and_the_next_delivery_clears_away(
    request, tmp_path, fault
):
    bench = make_bench("s3", request, tmp_path)
    content = random.Random(5).randbytes(bench.large)
    one = parcel(tmp_path, content)
    part_bytes = bench.store.part_bytes

    def grow():
        upload = bench.store.begin(KEY, media_type=one.media_type, metadata=one.metadata)
        upload.part(1, bytes(part_bytes))  # as it was before the end was known
        upload.part(2, content[part_bytes:])
        return bench.store.deliver(one, upload)

    for at in range(bench.steps(grow, one)[fault]):
        bench.clear()
        receipt = None
        with bench.failing(fault, at, one), contextlib.suppress(DeliveryError):
            receipt = grow()
        assert bench.objects() in ([{KEY: content}] if receipt else [{}, {KEY: content}]), at
        bench.store.deliver(one)
        assert bench.objects() == {KEY: content}, at
        assert bench.leftovers() == [], at


@pytest.mark.parametrize("kind", ["folder", "drive"])
def test_a_disk_that_is_full_has_nothing_of_a_file_and_gets_it_when_there_is_room(kind, request, tmp_path):
    content = random.Random(6).randbytes(700_000)
    first, second = parcel(tmp_path, content, "a.wav"), parcel(tmp_path, content[::-1], "b.wav")
    with small_disk(tmp_path / "disk", "1m") as disk:
        bench = make_bench(kind, request, disk)
        bench.store.deliver(first)
        with pytest.raises(DeliveryThrottledError) as caught:
            bench.store.deliver(second)
        assert caught.value.retryable
        assert_clean(bench, content)
        remove = bench.store.delete if kind == "drive" else (lambda key: (bench.folder / key).unlink())
        remove("a.wav")
        bench.store.deliver(second)
        assert_clean(bench, content[::-1])
