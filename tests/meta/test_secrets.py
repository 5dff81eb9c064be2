"""No secret of the tests is shown: `secret_watch` looks while they run, and here it is seen to find what is planted."""

import base64
import fnmatch
import os
import subprocess
import sys

import pytest

import secret_watch
from project import ROOT
from secret_watch import MARK, NEEDLES, holds_secret, may_hold, secret, secret_base64, secret_bytes

PLANTED = {
    "nothing": ("pass", None),
    "a file": ("(tmp_path / 'a.json').write_text(secret('x'))", "file */a.json"),
    "a file in another folder": (
        "tmp_path_factory.mktemp('b').joinpath('c').write_text(secret('x'))",
        "file */c",
    ),
    "a file that is gone": (
        "(tmp_path / 'd').write_text(secret('x')); (tmp_path / 'd').unlink()",
        "file */d",
    ),
    "a file that was replaced": (
        "(tmp_path / 'e').write_text(secret('x')); (tmp_path / 'f').touch(); (tmp_path / 'f').replace(tmp_path / 'e')",
        "file */e",
    ),
    "a large file": (
        "(tmp_path / 'g').write_bytes(bytes(CHUNK_BYTES - 4) + secret_bytes(32) + bytes(CHUNK_BYTES))",
        "file */g",
    ),
    "a file that may hold it": ("may_hold(tmp_path / 'h').write_text(secret('x'))", None),
    "a folder that may hold it": ("(may_hold(tmp_path) / 'i').write_text(secret('x'))", None),
    "a log": ("logging.getLogger('some.module').debug('it is %s', secret('x'))", "log some.module (*"),
    "a logged exception": (
        "logging.getLogger('m').error('no', exc_info=ValueError(secret('x')))",
        "log m (*",
    ),
    "an expected error": (
        "with pytest.raises(DeliveryError): raise DeliveryError(secret('x'))",
        "exception DeliveryError (*",
    ),
    "what an error carries": (
        "with pytest.raises(ActionError): raise ActionError('no', value={'a': secret('x')})",
        "exception ActionError*",
    ),
    "what caused an error": (
        "with pytest.raises(DeliveryError): raise DeliveryError('no') from OSError(secret('x'))",
        "exception OSError*",
    ),
    "what is behind no error": (
        "with pytest.raises(DeliveryError):\n"
        "        try: raise OSError(secret('x'))\n"
        "        except OSError: raise DeliveryError('no') from None",
        None,
    ),
    "output that a test reads": (
        "read = request.getfixturevalue('capsys'); print(secret('x')); read.readouterr()",
        "output (*",
    ),
    "output that nobody reads": ("print(secret('x'))", "Captured stdout call*"),
    "base64": ("logging.getLogger('n').info(secret_base64(32))", "log n (*"),
    "an event": (
        "class Event:\n        def __repr__(self): return secret('x')\n"
        "    call = Call('c', started_at=datetime.now(UTC), now=0.0); call._events.append(Event()); call.events()",
        "repr of Event*",
    ),
}


def run_watched(folder, names):
    """Run a test for each of these, and give how pytest ended, and what it printed."""
    bodies = [PLANTED[name][0] for name in names]
    (may_hold(folder) / "test_it.py").write_text(
        "import logging, pytest\n"
        "from datetime import UTC, datetime\n"
        "from callreel.call import Call\n"
        "from callreel.errors import ActionError, DeliveryError\n"
        "from secret_watch import CHUNK_BYTES, may_hold, secret, secret_base64, secret_bytes\n"
        + "".join(
            f"def test_{n}(tmp_path, tmp_path_factory, request):\n    {body}\n"
            for n, body in enumerate(bodies)
        )
    )
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "secret_watch", "-p", "no:cacheprovider", "-c", os.devnull,
         "--rootdir", folder, "--basetemp", folder / "base", folder / "test_it.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests" / "support")},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert f"{len(bodies)} passed" in ran.stdout, ran.stdout
    assert MARK not in ran.stdout
    return ran.returncode, ran.stdout


def test_every_secret_that_is_planted_is_found_and_fails_the_run(tmp_path):
    leaks = {name: pattern for name, (_, pattern) in PLANTED.items() if pattern is not None}
    status, text = run_watched(tmp_path, leaks)
    assert status == 1
    lines = text.partition("secrets were shown")[2].splitlines()[1:]
    found = {name for name, pattern in leaks.items() if any(fnmatch.fnmatch(line, pattern) for line in lines)}
    assert found == set(leaks), text


def test_a_run_that_shows_no_secret_passes(tmp_path):
    status, text = run_watched(tmp_path, [name for name, (_, pattern) in PLANTED.items() if pattern is None])
    assert status == 0
    assert "secrets were shown" not in text


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("size", [7, 16, 32])
def test_whatever_is_made_of_a_secret_is_recognised(before, size):
    for made in (secret("x").encode(), secret_bytes(size), secret_bytes(size, "other")):
        raw = bytes(before) + made + b"!"
        for form in (
            raw,
            raw.hex(),
            raw.hex().upper(),
            base64.b64encode(raw),
            base64.urlsafe_b64encode(raw),
            f"https://me:{made[:7].decode()}@host/",
        ):
            assert holds_secret(form), form
    assert holds_secret(base64.b64encode(secret_base64(size).encode())) is False  # twice is once too often
    assert len(secret_bytes(size)) == len(base64.b64decode(secret_base64(size))) == size


def test_what_is_no_secret_is_none():
    assert not holds_secret("hunter 2, Hunter2")
    assert not any(holds_secret(os.urandom(1 << 20)) for _ in range(4))
    assert len(set(NEEDLES)) == len(NEEDLES)
    assert min(map(len, NEEDLES)) >= 7


def test_this_run_is_watched(request):
    assert request.config.pluginmanager.has_plugin("secret_watch")
    assert secret_watch._base == str(request.config._tmp_path_factory.getbasetemp())
