"""A plugin of pytest: whatever the tests' secrets are, the program must not show one.

Every secret that a test hands in carries a mark: `secret`, `secret_bytes` and `secret_base64` make them. The mark is
looked for in what is logged (at DEBUG), printed and raised, in the repr of every event, and in every file below the
run's temporary folder: before it is removed or replaced, and at the end. As itself, in hexadecimal, and in base64.
Files that have to hold secrets (a test's own input, what belongs to another program's server) are named by `may_hold`.
A run that has shown a secret fails.
"""

import base64
import contextlib
import functools
import hashlib
import itertools
import logging
import os
import stat
import sys
import threading
from pathlib import Path

MARK = "hunter2"
"""Stands in every secret of the tests."""

PUBLISHED = (
    b"wJalrXUtnFEMI",  # Amazon's
    *(b"BeIukql3pTKJ8RGL5zo0DA==", b"JViE5vDor0Sw3WllZka15Q==", b"bXkta2V5LXNlY3JldA=="),  # Sinch's
    b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",  # of Standard Webhooks
)
"""Secrets of other people's samples, which cannot be marked."""

CHUNK_BYTES = 4 << 20


def secret(name):
    """A secret that is a text."""
    return f"{MARK}-{name}"


def secret_bytes(size, name=""):
    """A secret of so many bytes, another for each name."""
    filler = hashlib.shake_256(name.encode()).digest(size)
    return (MARK.encode() + filler)[:size]


def secret_base64(size, name=""):
    """The same, as base64."""
    return base64.b64encode(secret_bytes(size, name)).decode()


def _forms(mark):
    """What the mark may have become: base64 is looked for in each of the three ways it can lie in."""
    yield mark
    yield mark.hex().encode()
    yield mark.hex().upper().encode()
    for offset in range(3):
        text = base64.b64encode(bytes(offset) + mark)
        yield text[-(-offset * 8 // 6) : (offset + len(mark)) * 8 // 6]


NEEDLES = (*_forms(MARK.encode()), *PUBLISHED)
_OVERLAP_BYTES = max(map(len, NEEDLES)) - 1

_found = []
"""Where a secret was seen, such as "log callreel.recorder"."""
_allowed = set()
_lock = threading.Lock()
_base = None
_current = ""
# As they are before any test replaces them.
_open, _read, _close, _lstat, _lseek = os.open, os.read, os.close, os.lstat, os.lseek


def may_hold(path):
    """Leave out a file, or a folder with all that is in it; gives the path back."""
    with _lock:
        _allowed.add(os.fspath(path))
    return path


def holds_secret(data):
    """Tell whether text or bytes have a secret in them."""
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    return any(needle in data for needle in NEEDLES)


def look_at(text, where):
    """Remember it if this text has a secret."""
    if holds_secret(text):
        with _lock:
            _found.append(f"{where} (in {_current})" if _current else where)


def look_at_file(path):
    """Remember it if this file has a secret."""
    if not _is_ours(path):
        return
    try:
        if not stat.S_ISREG(_lstat(path).st_mode):  # to open a pipe is to wait for who writes it
            return
        descriptor = _open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError:
        return
    try:
        tail = b""
        for piece in _pieces(descriptor):
            if holds_secret(tail + piece):
                with _lock:
                    _found.append(f"file {os.fspath(path)}")
                return
            tail = piece[-_OVERLAP_BYTES:]
    except OSError:
        return
    finally:
        _close(descriptor)


def _pieces(descriptor):
    """What is in a file, without its holes: some tests make files of gigabytes that nobody has written."""
    at = 0
    while True:
        if hasattr(os, "SEEK_DATA"):
            try:
                at = _lseek(descriptor, at, os.SEEK_DATA)
            except OSError:
                return
        piece = _read(descriptor, CHUNK_BYTES)
        if not piece:
            return
        yield piece
        at += len(piece)


def _is_ours(path):
    text = os.fspath(path)
    if _base is None or not isinstance(text, str) or not text.startswith(_base + os.sep):
        return False
    with _lock:
        allowed = _allowed.copy()
    return text not in allowed and not any(os.fspath(one) in allowed for one in Path(text).parents)


def look_at_error(error, where):
    """Remember it if an exception of callreel's shows a secret: its text, its repr, what it carries, what caused it."""
    from callreel.errors import CallreelError

    if not isinstance(error, CallreelError):
        return
    while error is not None:
        look_at(f"{error}\n{error!r}\n{vars(error)!r}", f"{where} {type(error).__name__}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


# ---- where it looks --------------------------------------------------------------------------------------------------

_inside = threading.local()


def _before_it_is_gone(event, arguments):
    if event not in ("os.remove", "os.rename") or _base is None or getattr(_inside, "is_busy", False):
        return
    _inside.is_busy = True
    try:
        path = arguments[0] if event == "os.remove" else arguments[1]
        if arguments[-1] == -1 and isinstance(path, str | os.PathLike):
            look_at_file(os.fspath(path))
    except Exception as error:  # whoever removes a file must not suffer from being watched
        _found.append(f"the watch itself: {error!r}")
    finally:
        _inside.is_busy = False


class _Listener(logging.Handler):
    def emit(self, record):
        text = (
            self.format(record)
            if record.exc_info is None
            else f"{record.getMessage()} {record.exc_info[1]!r}"
        )
        look_at(text, f"log {record.name}")


def _watched(owner, name, look):
    """Put `look(result, arguments)` behind a method."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*arguments, **more):
        result = original(*arguments, **more)
        look(result, arguments)
        return result

    setattr(owner, name, wrapped)


def _watch_errors_that_tests_expect():
    from _pytest import raises

    _watched(raises.RaisesExc, "__exit__", lambda _, given: look_at_error(given[2], "exception"))


def _watch_what_tests_read_of_the_output():
    from _pytest.capture import CaptureFixture

    def look(captured, _):
        for one in captured:
            look_at(one, "output")

    _watched(CaptureFixture, "readouterr", look)


def _watch_events():
    from callreel.call import Call

    def look(events, _):
        for event in events:
            with contextlib.suppress(RecursionError):  # some documents are deeper than any repr can be
                look_at(repr(event), f"repr of {type(event).__name__}")

    _watched(Call, "events", look)


def _mark_data_keys():
    """Keys that encrypt recordings are drawn at random; here they carry the mark, too."""
    urandom = os.urandom
    numbers = itertools.count()

    def marked(size):
        if size == 32 and sys._getframe(1).f_code.co_name == "new_data_key":
            return secret_bytes(size, f"data key {os.getpid()} {next(numbers)}")
        return urandom(size)

    os.urandom = marked


# ---- hooks -----------------------------------------------------------------------------------------------------------


def pytest_configure(config):
    listener = _Listener(logging.DEBUG)
    logging.getLogger().addHandler(listener)
    logging.getLogger().setLevel(logging.DEBUG)
    _watch_errors_that_tests_expect()
    _watch_what_tests_read_of_the_output()
    with contextlib.suppress(ImportError):
        _watch_events()
    _mark_data_keys()
    sys.addaudithook(_before_it_is_gone)


def pytest_sessionstart(session):
    global _base
    _base = str(session.config._tmp_path_factory.getbasetemp())


def pytest_runtest_logstart(nodeid):
    global _current
    _current = nodeid


def pytest_runtest_logreport(report):
    for name, text in report.sections:
        if "log" not in name:
            look_at(text, name)


def pytest_sessionfinish(session):
    global _current
    _current = ""
    for path in Path(_base).rglob("*"):
        look_at_file(os.fspath(path))
    if _found:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter):
    if _found:
        terminalreporter.section("secrets were shown", red=True, bold=True)
        for one in sorted(set(_found)):
            terminalreporter.write_line(one.replace(MARK, "***"))
