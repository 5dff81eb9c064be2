"""The store that stands for Sinch Drive: what is delivered is listed, handed out, replaced, deleted, and expires."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callreel.delivery import Parcel, Receipt, drive
from callreel.delivery.drive import DRIVE_URL, Drive, DriveError
from callreel.dialects import sinch, sinch_options
from callreel.errors import (
    DeliveryConflictError,
    DeliveryDeniedError,
    DeliveryError,
    DeliveryInterruptedError,
    DeliveryThrottledError,
    DestinationMissingError,
)
from project import PACKAGE

START = 1_700_000_000.0
DAY_S = 86_400.0


class Clock:
    """Seconds since 1970, as told."""

    def __init__(self):
        self.now = START

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    return Drive(tmp_path / "drive", retention_s=30 * DAY_S, clock=clock)


def parcel_of(folder, data=b"audio", key="call.mp3", *, transaction_id="t-1", overwrite=True, **changes):
    path = folder / f"parcel-{hashlib.sha256(data).hexdigest()[:8]}"
    path.write_bytes(data)
    arguments = {
        "path": path,
        "key": key,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "media_type": "audio/mpeg",
        "metadata": {"transaction-id": transaction_id, "call-id": "c-1"},
        "overwrite": overwrite,
    }
    return Parcel(**{**arguments, **changes})


def files_of(store):
    """Every file of the drive but its lock, by folder."""
    return {
        folder: sorted(path.name for path in (store.folder / folder).glob("*") if path.name != drive.LOCK)
        for folder in ("index", "files")
    }


def bytes_of(store, key):
    with store.get(key) as download:
        return download.read()


def told(error):
    return error.value.code, str(error.value)


# ---- delivering ----------------------------------------------------------------------------------------------------


def test_what_is_delivered_is_handed_out_as_it_was(store, tmp_path):
    data = os.urandom(3_000_000)
    receipt = store.deliver(parcel_of(tmp_path, data))
    url = DRIVE_URL + "call.mp3"
    assert receipt == Receipt(url, len(data), "sha256:" + hashlib.sha256(data).hexdigest())
    with store.get("call.mp3") as download:
        assert download.read() == data
        assert download.length == len(data)
        assert download.recording.headers == {
            "Content-Type": "audio/mpeg",
            "Content-Length": "3000000",
            "transaction-id": "t-1",
            "call-id": "c-1",
        }


def test_a_folder_part_is_ignored(store, tmp_path):
    assert store.deliver(parcel_of(tmp_path, key="2026/may/x.mp3")).location == DRIVE_URL + "x.mp3"
    assert [recording.key for recording in store.list()] == ["x.mp3"]


@pytest.mark.parametrize(
    "name", ["my-recording.mp3", "a b?#%&.mp3", "Ünï$'()*+,;=:@.wav", "..", ".hidden", "x" * 300]
)
def test_any_name_is_a_key_and_its_url_is_the_one_the_dialect_tells(store, tmp_path, name):
    receipt = store.deliver(parcel_of(tmp_path, key=name))
    options = sinch_options.read_options({"destinationUrl": "sdrive://"})
    assert receipt.location == options.location(name, sinch.DRIVE_URL)
    assert bytes_of(store, name) == b"audio"
    assert {path.parent for path in (tmp_path / "drive").rglob("*") if path.is_file()} == {
        store.folder / "index",
        store.folder / "files",
    }


@pytest.mark.parametrize("key", ["", "folder/", "x" * 1025, "\ud800"])
def test_what_is_no_key_is_refused_before_and_when_it_is_delivered(store, tmp_path, key):
    with pytest.raises(DeliveryError):
        store.check(key)
    with pytest.raises(DeliveryError):
        store.deliver(parcel_of(tmp_path, key=key))


def test_the_same_parcel_again_gives_the_same_receipt_and_changes_nothing(store, tmp_path, clock):
    parcel = parcel_of(tmp_path, overwrite=False)
    first, before = store.deliver(parcel), files_of(store)
    (listed,) = store.list()
    clock.now += 60
    assert store.deliver(parcel) == first
    assert files_of(store) == before
    assert store.list() == [listed]


def test_an_existing_recording_is_replaced_when_the_parcel_says_so(store, tmp_path, clock):
    store.deliver(parcel_of(tmp_path, b"old"))
    clock.now += 60
    store.deliver(parcel_of(tmp_path, b"new", transaction_id="t-2"))
    (recording,) = store.list()
    assert recording.created_on == datetime.fromtimestamp(START + 60, UTC)
    assert bytes_of(store, "call.mp3") == b"new"
    assert [len(names) for names in files_of(store).values()] == [1, 1]


@pytest.mark.parametrize(("data", "transaction_id"), [(b"new", "t-1"), (b"old", "t-2")])
def test_an_existing_recording_stays_when_the_parcel_does_not_say_so(store, tmp_path, data, transaction_id):
    store.deliver(parcel_of(tmp_path, b"old"))
    with pytest.raises(DeliveryConflictError):
        store.deliver(parcel_of(tmp_path, data, transaction_id=transaction_id, overwrite=False))
    assert bytes_of(store, "call.mp3") == b"old"
    assert [len(names) for names in files_of(store).values()] == [1, 1]


@pytest.mark.parametrize("wrong", [{"size_bytes": 6}, {"sha256": "0" * 64}])
def test_a_file_that_is_not_what_its_parcel_says_is_not_stored(store, tmp_path, wrong):
    with pytest.raises(DeliveryError, match="not what its parcel says") as raised:
        store.deliver(parcel_of(tmp_path, **wrong))
    assert not raised.value.retryable
    assert files_of(store) == {"index": [], "files": []}


def test_a_parcel_without_its_file_is_an_error_that_no_other_try_mends(store, tmp_path):
    parcel = parcel_of(tmp_path)
    parcel.path.unlink()
    with pytest.raises(DeliveryError, match="cannot read") as raised:
        store.deliver(parcel)
    assert not raised.value.retryable


def test_a_recording_whose_file_is_gone_is_delivered_anew(store, tmp_path):
    parcel = parcel_of(tmp_path, overwrite=False)
    store.deliver(parcel)
    for path in (store.folder / "files").iterdir():
        path.unlink()
    store.deliver(parcel)
    assert bytes_of(store, "call.mp3") == b"audio"


@pytest.mark.parametrize(
    ("number", "kind", "retryable"),
    [
        (errno.ENOSPC, DeliveryThrottledError, True),
        (errno.EDQUOT, DeliveryThrottledError, True),
        (errno.EROFS, DeliveryDeniedError, False),
        (errno.EACCES, DeliveryDeniedError, False),
        (errno.ENOENT, DestinationMissingError, False),
        (errno.EMFILE, DeliveryThrottledError, True),
        (errno.ENAMETOOLONG, DeliveryDeniedError, False),
        (errno.EIO, DeliveryInterruptedError, True),
    ],
)
def test_an_error_of_the_disk_says_who_must_act(store, tmp_path, monkeypatch, number, kind, retryable):
    def fails(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(shutil, "copyfileobj", fails)
    with pytest.raises(kind, match=r"call\.mp3") as raised:
        store.deliver(parcel_of(tmp_path))
    assert type(raised.value) is kind
    assert raised.value.retryable is retryable
    assert files_of(store) == {"index": [], "files": []}


def test_a_check_tells_a_folder_that_cannot_be_from_one_that_can(store, tmp_path):
    store.check("call.mp3")
    assert files_of(store) == {"index": [], "files": []}
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DestinationMissingError):
        Drive(tmp_path / "file" / "drive", retention_s=None).check("call.mp3")


def test_drives_fail_apart_from_each_other(tmp_path):
    assert Drive(tmp_path / "a", retention_s=None).lane != Drive(tmp_path / "b", retention_s=None).lane


# ---- listing -------------------------------------------------------------------------------------------------------


def test_the_list_has_the_fields_of_the_vendor(store, tmp_path):
    store.deliver(parcel_of(tmp_path))
    (recording,) = store.list()
    assert json.loads(json.dumps(recording.as_document())) == {
        "key": "call.mp3",
        "url": "https://www.sinch.com/calling/v1/recording/call.mp3",
        "createdOn": "2023-11-14T22:13:20.000Z",
        "expiresOn": "2023-12-14T22:13:20.000Z",
        "headers": {
            "Content-Type": "audio/mpeg",
            "Content-Length": "5",
            "transaction-id": "t-1",
            "call-id": "c-1",
        },
    }


def test_an_empty_drive_has_an_empty_list(store):
    assert store.list() == []
    store.check("x")
    assert store.list() == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ages=st.lists(st.integers(0, 50), min_size=1, max_size=12),
    page_size=st.integers(1, 6),
    span=st.tuples(st.integers(0, 50), st.integers(1, 50)),
)
def test_pages_hold_each_recording_of_the_span_once_oldest_first(tmp_path_factory, ages, page_size, span):
    folder = tmp_path_factory.mktemp("drive")
    clock = Clock()
    store = Drive(folder, retention_s=None, clock=clock)
    (folder / "index").mkdir()
    for number, age in enumerate(ages):  # as `deliver` writes it, without its two fsyncs
        clock.now = START + age
        recording = store._new(
            parcel_of(folder, key=f"{number}"), str(number), f"{drive._digest(str(number))}.0a0a0a0a"
        )
        store._index_file(recording.key).write_bytes(drive._as_json(recording))
    from_ = datetime.fromtimestamp(START + span[0], UTC)
    to = from_ + timedelta(seconds=span[1])
    expected = sorted((age, str(number)) for number, age in enumerate(ages) if span[0] <= age < sum(span))
    found, page = [], 1
    while listed := store.list(from_=from_, to=to, page=page, page_size=page_size):
        assert len(listed) <= page_size
        found += [recording.key for recording in listed]
        page += 1
    assert found == [key for _, key in expected]
    assert len(store.list()) == len(ages)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"page": 0}, "'pageNumber' must be greater than 0"),
        ({"page": -1}, "'pageNumber' must be greater than 0"),
        ({"page_size": 0}, "'pageSize' must be a positive integer"),
        ({"page_size": 1.5}, "'pageSize' must be a positive integer"),
        (
            {"from_": datetime(2026, 1, 2, tzinfo=UTC), "to": datetime(2026, 1, 2, tzinfo=UTC)},
            "'to' must be greater than 'from'",
        ),
    ],
)
def test_a_list_that_cannot_be_is_refused_in_the_words_of_the_vendor(store, arguments, words):
    with pytest.raises(DriveError) as raised:
        store.list(**arguments)
    assert told(raised) == (40001, words)


def test_the_index_is_what_the_files_say_also_when_another_process_changes_them(store, tmp_path, clock):
    other = Drive(store.folder, retention_s=None, clock=clock)
    store.deliver(parcel_of(tmp_path, key="a"))
    assert [recording.key for recording in other.list()] == ["a"]
    other.deliver(parcel_of(tmp_path, b"new", key="a", transaction_id="t-2"))
    other.deliver(parcel_of(tmp_path, key="b"))
    assert [(recording.key, recording.size_bytes) for recording in store.list()] == [("a", 3), ("b", 5)]
    store.delete("a")
    assert [recording.key for recording in other.list()] == ["b"]


# ---- handing out ---------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.integers(-120, 120), last=st.none() | st.integers(0, 120))
def test_any_range_gives_the_bytes_that_are_within(tmp_path_factory, first, last):
    folder = tmp_path_factory.getbasetemp() / "ranges"
    store = Drive(folder, retention_s=None, clock=Clock())
    data = bytes(range(100))
    store.deliver(parcel_of(folder.parent, data))
    begin = max(0, 100 + first) if first < 0 else first
    expected = data[begin : 100 if last is None else last + 1]
    if not expected:
        with pytest.raises(DriveError, match="range"):
            store.get("call.mp3", first=first, last=last)
        return
    with store.get("call.mp3", first=first, last=last) as download:
        assert (download.first, download.length, download.read()) == (begin, len(expected), expected)


def test_an_empty_recording_is_handed_out_whole(store, tmp_path):
    store.deliver(parcel_of(tmp_path, b""))
    assert bytes_of(store, "call.mp3") == b""


def test_a_missing_key_and_an_unknown_one_are_told_in_the_words_of_the_vendor(store):
    for ask in (store.get, store.delete):
        with pytest.raises(DriveError) as raised:
            ask("")
        assert told(raised) == (40002, "No key specified")
        for key in ("none", "\ud800", "../index"):
            with pytest.raises(DriveError) as raised:
                ask(key)
            assert told(raised) == (40400, "Recording not found")


def test_who_reads_goes_on_while_it_is_replaced_and_deleted(store, tmp_path):
    data = os.urandom(3 << 20)
    store.deliver(parcel_of(tmp_path, data))
    with store.get("call.mp3") as download:
        pieces = download.pieces()
        begin = next(pieces)
        store.deliver(parcel_of(tmp_path, b"new", transaction_id="t-2"))
        store.delete("call.mp3")
        assert begin + b"".join(pieces) == data
    assert files_of(store) == {"index": [], "files": []}


# ---- deleting, expiring, sweeping ----------------------------------------------------------------------------------


def test_a_recording_expires_by_itself(store, tmp_path, clock):
    store.deliver(parcel_of(tmp_path, overwrite=False))
    clock.now += 30 * DAY_S - 1
    assert len(store.list()) == 1
    clock.now += 1
    assert store.list() == []
    for ask in (store.get, store.delete):
        with pytest.raises(DriveError) as raised:
            ask("call.mp3")
        assert told(raised)[0] == 40400
    assert store.sweep() == (("call.mp3",), 0, ())
    assert files_of(store) == {"index": [], "files": []}


def test_an_expired_recording_is_in_nobodys_way(store, tmp_path, clock):
    store.deliver(parcel_of(tmp_path, b"old", overwrite=False))
    clock.now += 31 * DAY_S
    store.deliver(parcel_of(tmp_path, b"new", overwrite=False))
    assert store.sweep() == ((), 0, ())
    assert bytes_of(store, "call.mp3") == b"new"
    assert [len(names) for names in files_of(store).values()] == [1, 1]


def test_without_a_retention_recordings_stay_until_they_are_deleted(tmp_path, clock):
    store = Drive(tmp_path / "drive", retention_s=None, clock=clock)
    store.deliver(parcel_of(tmp_path))
    clock.now += 100 * 365 * DAY_S
    (recording,) = store.list()
    assert recording.as_document()["expiresOn"] is None
    store.delete("call.mp3")
    assert store.list() == []


def test_a_sweep_removes_what_crashes_left_once_it_is_old(store, tmp_path):
    store.deliver(parcel_of(tmp_path))
    kept = files_of(store)
    left = [
        store.folder / "files" / f"{'0' * 32}.00000000",
        store.folder / "files" / f"{'0' * 32}.00000000.aaaaaaaa.part",
        store.folder / "index" / f"{'0' * 32}.json.aaaaaaaa.part",
    ]
    for path in left:
        path.write_bytes(b"")
    assert store.sweep() == ((), 0, ())
    for path in left:
        os.utime(path, (START, START))
    assert store.sweep() == ((), 3, ())
    assert files_of(store) == kept


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b"null", b'{"key": 1}', b"\xff", b"[" * 5000, None])
def test_a_damaged_index_file_is_told_and_nothing_else_suffers(store, tmp_path, text):
    store.deliver(parcel_of(tmp_path, key="good"))
    store.deliver(parcel_of(tmp_path, key="bad"))
    path = store._index_file("bad")
    if text is None:  # one that leads elsewhere
        document = json.loads(path.read_bytes())
        text = json.dumps({**document, "file": "../../secret"}).encode()
    path.write_bytes(text)
    for found in (store._files.iterdir(), store._index.iterdir()):
        for one in found:
            os.utime(one, (START, START))
    assert [recording.key for recording in store.list()] == ["good"]
    with pytest.raises(DriveError):
        store.get("bad")
    assert store.sweep() == ((), 0, (path,))
    assert len(files_of(store)["files"]) == 2
    store.deliver(parcel_of(tmp_path, key="bad"))
    assert bytes_of(store, "bad") == b"audio"


def test_a_sweep_tells_of_a_recording_whose_file_is_gone(store, tmp_path):
    store.deliver(parcel_of(tmp_path))
    for path in (store.folder / "files").iterdir():
        path.unlink()
    assert store.sweep().damaged == (store._index_file("call.mp3"),)
    with pytest.raises(DriveError):
        store.get("call.mp3")


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from callreel.delivery import Parcel
from callreel.delivery.drive import Drive
import hashlib
path, number = Path(sys.argv[3]), sys.argv[4]
data = path.read_bytes()
drive = Drive(Path(sys.argv[2]), retention_s=0.001)
for turn in range(int(sys.argv[5])):
    drive.deliver(Parcel(path=path, key="call.mp3", size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(),
        media_type="audio/mpeg", metadata={"transaction-id": f"{number}-{turn}"}, overwrite=True))
    drive.sweep()
    print(turn, flush=True)
"""


def start(store, parcel, number, turns):
    command = [sys.executable, "-c", PROGRAM, PACKAGE.parent, store.folder, parcel.path, number, turns]
    return subprocess.Popen([str(one) for one in command], stdout=subprocess.PIPE)


def test_processes_that_deliver_one_key_and_sweep_leave_nothing_behind(store, tmp_path):
    processes = [start(store, parcel_of(tmp_path, bytes([n]) * 5000), n, 25) for n in range(2)]
    assert [process.communicate() and process.returncode for process in processes] == [0, 0]
    Drive(store.folder, retention_s=None).sweep()
    assert files_of(store) == {"index": [], "files": []}


def test_a_process_that_is_killed_leaves_the_last_recording_whole_and_nobody_locked_out(store, tmp_path):
    process = start(store, parcel_of(tmp_path, b"theirs" * 50_000), 0, 10_000)
    with process:
        for _ in range(5):
            process.stdout.readline()
        process.kill()
    (store.folder / "index").mkdir(exist_ok=True)
    for path in (store.folder / "index").glob("*.json"):
        recording = drive._from_json(path.read_bytes(), "")
        assert (store.folder / "files" / recording.stored_name).read_bytes() == b"theirs" * 50_000
    store.deliver(parcel_of(tmp_path, b"ours"))
    assert bytes_of(store, "call.mp3") == b"ours"


# ---- threads -------------------------------------------------------------------------------------------------------


def test_threads_that_deliver_read_list_and_delete_one_key_find_whole_recordings(store, tmp_path):
    parcels = [
        parcel_of(tmp_path, bytes([number]) * 70_000, transaction_id=f"t-{number}") for number in range(4)
    ]
    wrong, seen, codes = [], set(), set()

    def change(number):
        for _ in range(12):
            store.deliver(parcels[number])
            if number == 3:
                try:
                    store.delete("call.mp3")
                except DriveError as error:
                    codes.add(error.code)

    def read():
        while any(thread.is_alive() for thread in threads):
            try:
                with store.get("call.mp3") as download:
                    data = download.read()
                if len(data) != 70_000 or len(set(data)) != 1:
                    wrong.append(data)
                seen.add(data[0])
            except DriveError as error:
                codes.add(error.code)
            if len(store.list()) > 1:
                wrong.append("listed twice")
            store.sweep()

    def kept(function, *arguments):
        try:
            function(*arguments)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=kept, args=(change, number)) for number in range(4)]
    readers = [threading.Thread(target=kept, args=(read,)) for _ in range(2)]
    for thread in (*threads, *readers):
        thread.start()
    for thread in (*threads, *readers):
        thread.join()
    assert wrong == []
    assert seen
    assert codes <= {40400}
    counts = {len(names) for names in files_of(store).values()}
    assert counts in ({0}, {1})
