"""The folder's own: what the system says and whose matter it is, names that lead out, file systems without links."""

import errno
import os
import random
from pathlib import Path

import pytest

from callreel.delivery.folder import Folder, PartFile
from callreel.errors import (
    DeliveryConflictError,
    DeliveryDeniedError,
    DeliveryError,
    DeliveryInterruptedError,
    DeliveryThrottledError,
    DestinationMissingError,
)
from delivery_benches import parcel
from privileges import without_privileges

CONTENT = random.Random(1).randbytes(20_000)


@pytest.mark.parametrize(
    ("number", "kind", "retryable"),
    [
        (errno.EACCES, DeliveryDeniedError, False),
        (errno.EROFS, DeliveryDeniedError, False),
        (errno.ENAMETOOLONG, DeliveryDeniedError, False),
        (errno.ENOTDIR, DestinationMissingError, False),
        (errno.ENOSPC, DeliveryThrottledError, True),
        (errno.EDQUOT, DeliveryThrottledError, True),
        (errno.EMFILE, DeliveryThrottledError, True),
        (errno.EIO, DeliveryInterruptedError, True),
        (errno.ESTALE, DeliveryInterruptedError, True),
        (errno.EBADMSG, DeliveryInterruptedError, True),
    ],
)
def test_what_the_system_says_becomes_the_error_of_whose_matter_it_is(
    tmp_path, monkeypatch, number, kind, retryable
):
    def fsync(_):
        raise OSError(number, os.strerror(number))

    one = parcel(tmp_path, CONTENT)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(kind, match=f"cannot store {one.key}: {os.strerror(number)}") as caught:
        Folder(tmp_path / "there").deliver(one)
    assert type(caught.value) is kind
    assert (caught.value.retryable, caught.value.key) == (retryable, one.key)
    assert [path for path in (tmp_path / "there").rglob("*") if path.is_file()] == []


def test_a_copy_that_is_not_the_recording_never_has_its_name_and_what_was_there_stays(tmp_path, monkeypatch):
    folder, write = Folder(tmp_path / "there"), PartFile.write
    older = folder.deliver(parcel(tmp_path, b"older"))
    one = parcel(tmp_path, CONTENT, overwrite=True)

    def damage(self, writes):
        write(self, [(offset, data[:-1] + b"?") for offset, data in writes])

    monkeypatch.setattr(PartFile, "write", damage)
    with pytest.raises(DeliveryInterruptedError, match="another checksum") as caught:
        folder.deliver(one)
    assert (caught.value.retryable, caught.value.key) == (True, one.key)
    (left,) = [path for path in (tmp_path / "there").rglob("*") if path.is_file()]
    assert (left.as_uri(), left.read_bytes()) == (older.location, b"older")
    monkeypatch.undo()
    folder.deliver(one)
    assert left.read_bytes() == CONTENT


@pytest.mark.parametrize("key", ["../x", "a/../../x"])
def test_a_key_that_leads_out_of_the_folder_is_denied(tmp_path, key):
    folder = Folder(tmp_path / "there")
    for attempt in (lambda: folder.check(key), lambda: folder.deliver(parcel(tmp_path, CONTENT, key))):
        with pytest.raises(DeliveryDeniedError, match="leads out"):
            attempt()


@pytest.mark.parametrize("there", [None, CONTENT, b"another"], ids=["nothing", "the same", "another"])
def test_where_the_file_system_has_no_links_nothing_is_replaced_either(tmp_path, monkeypatch, there):
    def hardlink_to(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "hardlink_to", hardlink_to)
    folder = Folder(tmp_path / "there")
    one = parcel(tmp_path, CONTENT)
    target = tmp_path / "there" / one.key
    part = folder.open(one.key)
    part.write([(0, CONTENT)])
    if there is not None:
        target.write_bytes(there)
        with pytest.raises(FileExistsError):
            part.close(replace=False)
    else:
        part.close(replace=False)
    assert target.read_bytes() == (CONTENT if there is None else there)
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(("other", "kind"), [(CONTENT, None), (b"another", DeliveryConflictError)])
def test_a_file_that_came_while_ours_was_copied_stays(tmp_path, monkeypatch, other, kind):
    folder = Folder(tmp_path / "there")
    one = parcel(tmp_path, CONTENT)
    target = tmp_path / "there" / one.key
    fsync = os.fsync

    def come(descriptor):
        if not target.exists():
            target.write_bytes(other)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", come)
    if kind is None:
        assert folder.deliver(one).size_bytes == len(CONTENT)
    else:
        with pytest.raises(kind):
            folder.deliver(one)
    assert target.read_bytes() == other
    assert list(target.parent.iterdir()) == [target]


def test_what_a_process_left_that_died_between_two_names_is_cleared_away(tmp_path):
    folder = Folder(tmp_path / "there")
    one = parcel(tmp_path, CONTENT)
    folder.deliver(one)
    target = tmp_path / "there" / one.key
    target.with_name(target.name + ".part").hardlink_to(target)
    folder.deliver(one)
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("key", ["one.wav", "a/b/one.wav"])
def test_the_check_and_the_delivery_refuse_a_folder_that_may_not_be_written_to(tmp_path, key):
    (tmp_path / "there").mkdir(mode=0o500)
    folder, one = Folder(tmp_path / "there"), parcel(tmp_path, CONTENT, key)
    for attempt in (lambda: folder.check(key), lambda: folder.deliver(one)):
        with pytest.raises(DeliveryDeniedError):
            without_privileges(attempt)
    assert list((tmp_path / "there").iterdir()) == []


def test_a_disk_that_cannot_be_read_now_is_worth_another_try(tmp_path, monkeypatch):
    opened = Path.open

    def open_(path, mode="r", *arguments, **more):
        if mode == "rb":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opened(path, mode, *arguments, **more)

    one = parcel(tmp_path, CONTENT)
    monkeypatch.setattr(Path, "open", open_)
    with pytest.raises(DeliveryError, match="cannot read") as caught:
        Folder(tmp_path / "there").deliver(one)
    assert caught.value.retryable
