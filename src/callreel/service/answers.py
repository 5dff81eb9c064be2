"""Answers to requests that are carried out once, however often they come: by Idempotency-Key, or by signature.

The clients of vendors send a request again when its answer was lost, and clocks of seconds make two equal requests of
one second look the same; and whoever has listened to a signed request shall gain nothing by sending it again. So what
comes again is not refused: it gets the answer of the first time, and nothing is done.

They are in a file, for all workers and for those that come after them. In it are digests of keys and signatures, no
key; but an answer may say where a call's media goes, and telephone numbers, so nobody else may read the file.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from fastapi.responses import Response

from callreel.errors import CallreelError
from callreel.service.common_files import open_file
from callreel.service.fleet import ALONE, Fleet

__all__ = ["Answers", "KeyReusedError", "StillAtWorkError"]

log = logging.getLogger("callreel.service")

MOST: Final = 100_000
"""Kept; beyond that `sweep` has those go first that would be forgotten first."""
WAIT_S: Final = 5.0
"""So long a request waits for the answer that an equal one is about to get."""
LOOK_S: Final = 0.02

SCHEMA: Final = """
create table if not exists answers (
    name blob primary key,
    request blob not null,
    until_s real not null,
    worker integer not null,
    status integer,
    headers text,
    body blob
);
create index if not exists answers_by_time on answers (until_s);
"""


class StillAtWorkError(CallreelError):
    """An equal request is being carried out, and that takes long."""


class KeyReusedError(CallreelError):
    """What shall be done once is something else than before."""


class _Answer(NamedTuple):
    """What was answered, and to which request."""

    request: bytes
    status: int
    headers: str
    body: bytes

    def response(self) -> Response:
        """It once more: one is sent once."""
        return Response(self.body, self.status, json.loads(self.headers))


class Answers:
    """The file; any number of processes."""

    def __init__(self, path: Path, fleet: Fleet = ALONE, *, most: int = MOST, wait_s: float = WAIT_S) -> None:
        """Open it, which is made if need be. What this worker's predecessor was at may be begun again."""
        self._most, self._wait_s = most, wait_s
        self._index = fleet.index
        self._lock = threading.Lock()
        self._at_work: set[bytes] = set()
        self._spare: dict[bytes, tuple[float, _Answer]] = {}
        """What could not be written: a full disk must not keep anybody from ending a recording."""
        self._file = open_file(path, SCHEMA)
        self._do("delete from answers where status is null and worker % ? = ?", fleet.size, fleet.index)

    async def once(
        self,
        key: str,
        work: Callable[[], Response | Awaitable[Response]],
        *,
        until_s: float,
        request: bytes = b"",
        now_s: float | None = None,
    ) -> Response:
        """The answer that `work` gives, or that it gave before; what it raises is raised, and not kept.

        `key` says which requests are one, until `until_s` (seconds since 1970), and `request` what it is.

        Raises:
            StillAtWorkError: an equal one is not done in time.
            KeyReusedError: the one before was another `request`.
        """
        name, digest = _digest(key), hashlib.sha256(request).digest()
        patience_s = time.monotonic() + self._wait_s
        now_s = time.time() if now_s is None else now_s
        while (found := await self._claimed(name, digest, until_s, now_s)) is not None:
            if found.request != digest:
                raise KeyReusedError("the key was used for another request")
            if found.status:
                return found.response()
            if time.monotonic() >= patience_s:
                raise StillAtWorkError("the same request is being carried out: ask again for its answer")
            await asyncio.sleep(LOOK_S)
        answer = None
        try:
            response = work()
            if inspect.isawaitable(response):
                response = await response
            headers = json.dumps(dict(response.headers))
            answer = _Answer(digest, response.status_code, headers, bytes(response.body))
            return answer.response()
        finally:
            await asyncio.shield(asyncio.to_thread(self._done, name, answer, until_s))

    def sweep(self, now_s: float) -> None:
        """Forget what is too old, and what is too much."""
        with self._lock:
            self._spare = {name: one for name, one in self._spare.items() if one[0] >= now_s}
        self._do("delete from answers where status is not null and until_s < ?", now_s)
        self._do(
            "delete from answers where name in (select name from answers where status is not null order by until_s "
            "limit max(0, (select count(*) from answers) - ?))",
            self._most,
        )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    async def _claimed(self, name: bytes, digest: bytes, until_s: float, now_s: float) -> _Answer | None:
        """`_claim` in a thread. Who is cancelled meanwhile does not keep what he has claimed."""
        claim = asyncio.ensure_future(asyncio.to_thread(self._claim, name, digest, until_s, now_s))
        try:
            return await asyncio.shield(claim)
        except asyncio.CancelledError:
            if await claim is None:
                await asyncio.shield(asyncio.to_thread(self._done, name, None, until_s))
            raise

    def _claim(self, name: bytes, digest: bytes, until_s: float, now_s: float) -> _Answer | None:
        """None when it is ours to carry out, for one of all who ask; else what there is, with status 0 for none yet."""
        with self._lock:
            spare_until_s, spare = self._spare.get(name, (0.0, None))
            if spare is not None and spare_until_s >= now_s:
                return spare
            if name in self._at_work:
                return _Answer(digest, 0, "{}", b"")
            try:
                found = self._claim_in_file(name, digest, until_s, now_s)
            except sqlite3.Error as error:
                log.error("what is done once is not written down: %s", error)
                found = None
            if found is None:
                self._at_work.add(name)
            return found

    def _claim_in_file(self, name: bytes, digest: bytes, until_s: float, now_s: float) -> _Answer | None:
        self._execute(
            "delete from answers where name = ? and status is not null and until_s < ?", name, now_s
        )
        values = (name, digest, until_s, self._index)
        if self._execute(
            "insert or ignore into answers (name, request, until_s, worker) values (?, ?, ?, ?)", *values
        ):
            return None
        row = self._file.execute(
            "select request, coalesce(status, 0), coalesce(headers, '{}'), body, worker from answers where name = ?",
            (name,),
        ).fetchone()
        if row is None:  # it was given up at this moment: the next look finds it free
            return _Answer(digest, 0, "{}", b"")
        # What is ours and nobody is at could not be crossed out when it was given up.
        return None if not row[1] and row[4] == self._index else _Answer(*row[:4])

    def _done(self, name: bytes, answer: _Answer | None, until_s: float) -> None:
        """It has been answered, or given up."""
        with self._lock:
            self._at_work.discard(name)
            try:
                if answer is None:
                    self._execute("delete from answers where name = ? and status is null", name)
                elif not self._execute(
                    "update answers set status = ?, headers = ?, body = ? where name = ?", *answer[1:], name
                ):
                    self._spare[name] = until_s, answer
            except sqlite3.Error as error:
                log.error("what was done once is not written down: %s", error)
                if answer is not None:
                    self._spare[name] = until_s, answer

    def _do(self, statement: str, *values: Any) -> None:
        with self._lock:
            self._execute(statement, *values)

    def _execute(self, statement: str, *values: Any) -> int:
        """Carry out a statement; how many rows it has changed."""
        return self._file.execute(statement, values).rowcount


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
