"""Several workers behind one address: begun, watched, replaced when they die, ended. Each is a process with its calls.

The supervisor records nothing and serves nothing. It binds what all share, forks the workers, and waits, in one thread
and with nothing open that a fork must not copy. A worker that dies harms its own calls only: another one takes its
place, with the same number, spool and ports, and brings to its end what was left. When the supervisor dies, the workers
see that their parent is another, and end as if they had been told to twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import secrets
import selectors
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from callreel.errors import CallreelError, UsageError
from callreel.service import audiosocket
from callreel.service.fleet import Fleet
from callreel.service.running import Service, Stop, listen, serve_on, suit_many_calls
from callreel.service.settings import ServiceSettings

__all__ = ["Common", "Pauses", "supervise"]

log = logging.getLogger("callreel.service")

READY: Final = "ready"
DRAINED: Final = "drained"
FAILED: Final = "failed"
SOCKET_PATH_BYTES: Final = 100
"""Of a Unix socket's path the systems take 103 or 107."""
LIVED_S: Final = 10.0
"""A worker that has lived for so long had begun well, whatever it died of."""
HURRY: Final = signal.SIGUSR1
"""Not to wait any longer. A signal of its own, for two of one kind that come together are one."""
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
PAUSE_S: Final = 0.5
PAUSE_MAX_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Common:
    """What all workers have in common, made before there is any."""

    http: socket.socket
    audiosocket: socket.socket | None
    session_key: bytes = field(repr=False)
    folder: Path
    """Of their Unix sockets."""


class Pauses:
    """How long to wait until a worker that has died is replaced: not at all, unless one after the other dies young."""

    def __init__(self) -> None:
        """None has died."""
        self._young = 0

    def after(self, lived_s: float) -> float:
        """One has died that had lived for so long; the pause, in seconds."""
        self._young = 0 if lived_s >= LIVED_S else self._young + 1
        return 0.0 if self._young < 2 else min(PAUSE_MAX_S, PAUSE_S * 2.0 ** (self._young - 2))


@dataclass(slots=True)
class _Worker:
    """A worker as the supervisor sees it."""

    index: int
    pauses: Pauses = field(default_factory=Pauses)
    pid: int | None = None
    """None while there is no process."""
    pipe: int = -1
    """What it says: a line each."""
    heard: bytes = b""
    began_s: float = 0.0
    begin_at_s: float = 0.0
    """When it is to be begun, if there is no process."""
    is_ready: bool = False
    is_drained: bool = False
    problem: str = ""
    """Why it could not begin."""


def supervise(
    settings: ServiceSettings,
    make: Callable[[ServiceSettings, Fleet, Common], Service],
    *,
    on_forked: Callable[[int], None] = lambda index: None,
    on_listening: Callable[[int], None] = lambda port: None,
) -> int:
    """Serve with the workers of `settings` until SIGTERM or SIGINT; the exit status of this process.

    It comes back once in each worker, too, when that is to exit. `make` makes the service of a worker, which has been
    told by `on_forked` that it is one. `on_listening` is called when all have begun.

    Raises:
        UsageError: they cannot begin, and why.
    """
    common = _common(settings)
    settings = replace(settings, port=common.http.getsockname()[1])
    ours = os.getpid()
    try:
        supervisor = _Supervisor(settings.worker_count, common, on_listening)
        index, say = supervisor.run()
        if index is not None:
            on_forked(index)
            return _work(
                settings, make, Fleet(index, settings.worker_count, common.folder), common, ours, say
            )
        return 0
    finally:
        if os.getpid() == ours:
            shutil.rmtree(common.folder, ignore_errors=True)


def _common(settings: ServiceSettings) -> Common:
    http = listen(settings)
    host, port = settings.audiosocket_host, settings.audiosocket_port
    try:
        asterisk = None if port is None else audiosocket.listen(host, port)
    except OSError as error:
        raise UsageError(f"{host}:{port}: {error.strerror or error}") from None
    folder = Path(tempfile.mkdtemp(prefix="callreel-"))
    if len(os.fsencode(folder)) > SOCKET_PATH_BYTES - len("/worker-9999.sock"):
        folder.rmdir()
        raise UsageError(f"TMPDIR is too long for the path of a socket: {folder.parent}")
    return Common(http, asterisk, secrets.token_bytes(32), folder)


# ---- a worker ------------------------------------------------------------------------------------------------------


def _work(
    settings: ServiceSettings,
    make: Callable[[ServiceSettings, Fleet, Common], Service],
    fleet: Fleet,
    common: Common,
    supervisor: int,
    say: int,
) -> int:
    """Be a worker; the exit status."""
    stop = Stop(lambda: os.getppid() != supervisor)
    signal.signal(signal.SIGTERM, stop.ask)
    signal.signal(HURRY, stop.hurry)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*SIGNALS, HURRY))

    def tell(word: str, problem: str = "") -> None:
        with contextlib.suppress(OSError):  # nobody is left to hear it
            os.write(say, json.dumps([word, problem]).encode() + b"\n")

    try:
        service = make(settings.of_worker(fleet.index), fleet, common)
    except (CallreelError, OSError) as error:
        tell(FAILED, str(error))
        return 2
    suit_many_calls()
    try:
        asyncio.run(
            serve_on(
                service,
                common.http,
                stop,
                on_listening=lambda port: tell(READY),
                on_drained=lambda: tell(DRAINED),
            )
        )
    finally:
        service.close()
        if os.getppid() != supervisor:  # which would have removed it
            with contextlib.suppress(OSError):
                fleet.socket(fleet.index).unlink(missing_ok=True)
                fleet.folder.rmdir()  # the last one can
    return 0


# ---- the supervisor ------------------------------------------------------------------------------------------------


class _Supervisor:
    """Forks workers and waits; one thread."""

    def __init__(self, size: int, common: Common, on_listening: Callable[[int], None]) -> None:
        self._workers = [_Worker(index) for index in range(size)]
        self._common = common
        self._on_listening = on_listening
        self._has_begun = False
        """Whether all have been there once."""
        self._asked = 0
        """How often it was asked to end."""
        self._sent = 0
        """How often the workers were."""
        self._selector = selectors.DefaultSelector()
        self._alarm, self._wakeup = os.pipe()

    def run(self) -> tuple[int | None, int]:
        """Until all is over: None and nothing. In a worker: its number, and the pipe by which it tells how it is.

        Raises:
            UsageError: one could not begin when none had been there.
        """
        for end in (self._alarm, self._wakeup):
            os.set_blocking(end, False)
        self._selector.register(self._alarm, selectors.EVENT_READ)
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        gc.collect()
        gc.freeze()  # what is there now is not looked at again, so its pages stay shared
        is_worker = False
        try:
            while True:
                for worker in self._workers:
                    if not self._asked and worker.pid is None and worker.begin_at_s <= time.monotonic():
                        say = self._fork(worker)
                        if say is not None:
                            is_worker = True
                            return worker.index, say
                self._wait()
                self._reap()
                self._pass_on()
                if not any(worker.pid for worker in self._workers) and self._asked:
                    return None, -1
        finally:
            if not is_worker:
                signal.set_wakeup_fd(-1)
                for number, handler in before.items():
                    signal.signal(number, handler)
                self._let_go()

    def _on_signal(self, number: int, _: object) -> None:
        if number != signal.SIGCHLD:
            self._asked += 1

    def _fork(self, worker: _Worker) -> int | None:
        """Begin it; None, or in it the pipe that it tells what becomes of it by."""
        hear, say = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, (*SIGNALS, HURRY))  # until it has handlers of its own
        try:
            pid = os.fork()
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (*SIGNALS, HURRY))
            os.close(hear)
            os.close(say)
            worker.began_s, worker.problem = time.monotonic(), f"no process: {error.strerror}"
            self._died(worker, 1)
            return None
        if pid == 0:
            signal.set_wakeup_fd(-1)
            # Ctrl-C reaches every process of a terminal; the supervisor passes it on.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(hear)
            self._let_go()
            return say
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*SIGNALS, HURRY))
        os.close(say)
        os.set_blocking(hear, False)
        self._selector.register(hear, selectors.EVENT_READ, worker)
        worker.pid, worker.pipe, worker.began_s = pid, hear, time.monotonic()
        worker.heard, worker.problem = b"", ""
        worker.is_ready = worker.is_drained = False
        return None

    def _let_go(self) -> None:
        """Close what only a supervisor needs."""
        self._selector.close()
        for end in (self._alarm, self._wakeup, *(worker.pipe for worker in self._workers)):
            if end >= 0:
                os.close(end)

    def _wait(self) -> None:
        """Until something happens."""
        pauses = [worker.begin_at_s for worker in self._workers if worker.pid is None and not self._asked]
        timeout_s = max(0.0, min(pauses) - time.monotonic()) if pauses else None
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._alarm, 4096)
            else:
                self._hear(key.data)

    def _hear(self, worker: _Worker) -> bool:
        """Hear what it has said; whether there may be more."""
        try:
            data = os.read(worker.pipe, 65_536)
        except BlockingIOError:
            return False
        if not data:
            self._hang_up(worker)
            return False
        *lines, worker.heard = (worker.heard + data).split(b"\n")
        for line in lines:
            word, problem = json.loads(line)
            if word == READY:
                worker.is_ready = True
                if self._has_begun:
                    log.info("worker %d has begun again", worker.index)
            elif word == DRAINED:
                worker.is_drained = True
                if not self._asked:  # somebody has told this one alone to end
                    self._signal(worker, HURRY)
            elif word == FAILED:
                worker.problem = problem
        if not self._has_begun and all(one.is_ready for one in self._workers):
            self._has_begun = True
            self._on_listening(self._common.http.getsockname()[1])
        return True

    def _hang_up(self, worker: _Worker) -> None:
        if worker.pipe >= 0:
            self._selector.unregister(worker.pipe)
            os.close(worker.pipe)
            worker.pipe = -1

    def _reap(self) -> None:
        """See who has died."""
        for worker in self._workers:
            if worker.pid is None:
                continue
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                worker.pid = None
                while worker.pipe >= 0 and self._hear(worker):
                    pass  # what it has said last
                self._hang_up(worker)
                self._died(worker, os.waitstatus_to_exitcode(status))

    def _died(self, worker: _Worker, status: int) -> None:
        cause = f"exit status {status}" if status >= 0 else f"killed by {_name_of(-status)}"
        if worker.problem:
            cause = worker.problem
        if self._asked:
            if status != 0:
                log.error(
                    "worker %d has ended before it should: %s; the next start goes on", worker.index, cause
                )
            return
        if not self._has_begun:
            self._give_up()
            raise UsageError(worker.problem or f"worker {worker.index} cannot begin: {cause}")
        pause_s = worker.pauses.after(time.monotonic() - worker.began_s)
        worker.begin_at_s = time.monotonic() + pause_s
        log.error(
            "worker %d has ended: %s; another one takes its place %s",
            worker.index,
            cause,
            f"in {pause_s:g} s" if pause_s else "now",
        )

    def _pass_on(self) -> None:
        """Tell the workers what was told to us; when all are drained none needs the others any longer."""
        living = [worker for worker in self._workers if worker.pid is not None]
        if self._asked == 1 and all(worker.is_drained for worker in living):
            self._asked = 2
        while self._sent < min(self._asked, 2):
            self._sent += 1
            for worker in living:
                self._signal(worker, signal.SIGTERM if self._sent == 1 else HURRY)

    def _signal(self, worker: _Worker, number: signal.Signals) -> None:
        if worker.pid is not None:
            os.kill(worker.pid, number)  # nobody has waited for it, so the number is still its own

    def _give_up(self) -> None:
        """End those that have begun, and wait for them."""
        for worker in self._workers:
            self._signal(worker, HURRY)
        for worker in self._workers:
            if worker.pid is not None:
                os.waitpid(worker.pid, 0)
                worker.pid = None


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
