"""Writes in one go are all done, in order, and what fails fails alone; files are made, and last, in one call each."""

import errno
import os
import resource
import signal
import socket

import pytest

from callreel.kernels import disk


@pytest.fixture
def files(tmp_path):
    made = [os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT) for number in range(3)]
    yield made
    for one in made:
        os.close(one)


def held(descriptor):
    return os.pread(descriptor, 1 << 20, 0)


def test_all_is_written_where_it_belongs_and_later_writes_win(files):
    first, second, _ = files
    writes = [(first, 0, b"abcdef"), (second, 2, b"xy"), (first, 2, b"CD"), (second, 0, b"")]
    assert disk.write_all(writes) == {}
    assert (held(first), held(second)) == (b"abCDef", b"\0\0xy")


def test_nothing_is_nothing():
    assert disk.write_all([]) == {}


def test_one_that_fails_keeps_what_follows_it_in_its_file_from_being_written_and_no_other(files, tmp_path):
    first, second, third = files
    reading = os.open(tmp_path / "2", os.O_RDONLY)
    try:
        writes = [
            (first, 0, b"a"),
            (reading, 4, b"b"),
            (reading, 0, b"c"),
            (second, 0, b"d"),
            (third, 0, b"e"),
        ]
        assert disk.write_all(writes) == {1: errno.EBADF, 2: errno.EBADF}
    finally:
        os.close(reading)
    assert [held(one) for one in files] == [b"a", b"d", b"e"]


def test_what_is_cut_short_is_gone_on_with_until_it_fails(files):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
        assert disk.write_all([(files[0], 4, b"0123456789"), (files[1], 0, b"z")]) == {0: errno.EFBIG}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert held(files[0]) == b"\0\0\0\x00012345"
    assert held(files[1]) == b"z"


@pytest.mark.parametrize("write", [(1, -1, b""), (1, 0, bytearray(1)), (1, 0, "text")])
def test_what_is_no_write_is_refused(write):
    with pytest.raises(ValueError, match="a write is a descriptor, an offset from 0 on, and bytes"):
        disk.write_all([write])


# ---- a file by its path ----


def umask():
    now = os.umask(0o022)
    os.umask(now)
    return now


def test_a_file_is_made_written_to_and_emptied_first_where_that_is_asked(tmp_path):
    path = tmp_path / "é.jsonl"
    name = os.fsencode(path)
    assert disk.put(name, b"one\n", mode=0o640) == 0
    assert disk.put(name, b"two\n", 4) == 0
    assert disk.put(name, b"ONE", 0) == 0
    assert path.read_bytes() == b"ONE\ntwo\n"
    assert path.stat().st_mode & 0o777 == 0o640 & ~umask()
    assert disk.put(name, b"x", empties=True) == 0
    assert path.read_bytes() == b"x"
    assert disk.put(os.fsencode(tmp_path / "other"), b"") == 0
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o666 & ~umask()


@pytest.mark.parametrize(
    ("name", "number"), [("none/file", errno.ENOENT), ("", errno.EISDIR), ("a" * 300, errno.ENAMETOOLONG)]
)
def test_what_the_system_says_of_a_file_is_told(tmp_path, name, number):
    assert disk.put(os.fsencode(tmp_path / name), b"x") == number


def test_a_file_that_takes_only_a_part_is_an_error_and_is_closed(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with (tmp_path / "other").open("wb") as other:
        number = other.fileno()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
        assert disk.put(os.fsencode(tmp_path / "file"), b"0123456789abc") == errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    with (tmp_path / "other").open("wb") as other:
        assert other.fileno() == number


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((b"x", b"", -1), ValueError),
        ((b"x\0y", b""), ValueError),
        (("x", b""), TypeError),
        ((None, b""), TypeError),
        ((b"x", "text"), TypeError),
        ((b"x", None), TypeError),
    ],
)
def test_what_cannot_be_put_is_refused(arguments, error):
    with pytest.raises(error):
        disk.put(*arguments)


def test_files_and_folders_are_synced_each_by_itself_and_what_is_not_there_needs_none(tmp_path):
    file, path = tmp_path / "file", tmp_path / "socket"
    file.write_bytes(b"x")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))
        found = disk.sync_each(os.fsencode(one) for one in (file, tmp_path, tmp_path / "none", path, file))
    assert found == {3: errno.ENXIO}  # a socket cannot be opened
    assert disk.sync_each([]) == {}
    for wrong in (b"a\0b", "text", None):
        with pytest.raises(ValueError, match="a path is bytes"):
            disk.sync_each([b"x", wrong])
