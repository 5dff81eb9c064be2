"""Many writes in one go: all of them are done, in order, and what fails fails alone."""

import errno
import os
import resource
import signal

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
