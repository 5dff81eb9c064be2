"""`callreel serve` with several workers, in processes of its own: started, asked, killed, and started again."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

import httpx2 as httpx

import live_media
from callreel.spool import worker_spool

HEADER_BYTES = 1024
"""Less than audio and more than what stands before it."""

WAIT_S = 60.0
"""Several processes begin at once, on whatever machine; nobody measures how long that takes."""


def until(read):
    """What `read` gives as soon as it gives something."""
    return live_media.until(read, timeout_s=WAIT_S)


class Command:
    """The command in a folder that stays, however often it is started there."""

    def __init__(self, folder: Path, *, first_port: int) -> None:
        self.folder, self.first_port = folder, first_port
        self.spool = folder / "callreel" / "spool"
        self.out = folder / "callreel" / "recordings"
        self.log_path = folder / "log"
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        self._clients = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self, workers: int, *options: str) -> None:
        """Start it, and wait until it serves."""
        self.begin(workers, *options)
        line = self.process.stdout.readline()
        assert line.startswith("callreel serves at http://"), self.log
        self.url = line.split()[-1]

    def begin(self, workers: int, *options: str) -> None:
        """Start it, and wait for nothing."""
        if self.process is not None:
            self.process.communicate()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CALLREEL_")}
        ports = f"{self.first_port}-{self.first_port + 99}"
        with self.log_path.open("a") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "callreel", "serve", "--port", "0", "--rtp-ports", ports),
                    *("--workers", str(workers), "--log", "json", *options),
                ],
                cwd=self.folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def client(self) -> httpx.Client:
        """Somebody who asks it."""
        token = (self.folder / "callreel" / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        return self._clients.enter_context(httpx.Client(base_url=self.url, headers=headers, timeout=20))

    def spool_of(self, index: int) -> Path:
        """The spool of a worker."""
        return worker_spool(self.spool, index)

    def takes(self, index: int) -> int:
        """How many takes are in it."""
        return len(list((self.spool_of(index) / "takes").glob("*")))

    def heard(self) -> int:
        """How many takes of all workers have audio on the disk."""
        return sum(path.stat().st_size > HEADER_BYTES for path in self.spool.rglob("takes/*/audio.wav"))

    def pid(self, index: int) -> int:
        """The process of a worker, whose number stands in its spool; 0 while that is being written."""
        return int((self.spool_of(index) / "lock").read_text() or 0)

    def kill(self, index: int) -> int:
        """Kill a worker; which process it was."""
        pid = self.pid(index)
        os.kill(pid, signal.SIGKILL)
        return pid

    def successor(self, index: int, pid: int) -> int:
        """The process that has taken the place of another, as soon as it has begun."""
        until(lambda: self.pid(index) not in (pid, 0) and self.logged(f"worker {index} has begun again"))
        return self.pid(index)

    @property
    def log(self) -> list[dict]:
        """What it has logged."""
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]

    def logged(self, text: str) -> list[str]:
        """Messages of the log that hold a text."""
        return [one["message"] for one in self.log if text in one["message"]]

    def end(self) -> None:
        """Kill all that there is."""
        self._clients.close()
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
            until(lambda: not is_alive(self.process.pid))


def is_alive(pid: int) -> bool:
    """Whether there is such a process, not counting one that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def group(pid: int) -> list[int]:
    """The living processes of a session that a process has begun."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and is_alive(int(entry.name)):
            with contextlib.suppress(OSError):
                if os.getsid(int(entry.name)) == pid:
                    found.append(int(entry.name))
    return found
