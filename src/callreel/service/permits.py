"""Which recordings of Microsoft Graph's may be downloaded, and with which tokens: in a file, for what a restart finds.

Of a token there is a digest alone. A message that was not told before a restart has lost its token with the process:
it gets another one, and both open the recording.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from callreel.dialects.graph import Permit, digest_of
from callreel.service.common_files import open_file
from callreel.service.fleet import ALONE, Fleet

__all__ = ["Permits"]

log = logging.getLogger("callreel.service")

SCHEMA: Final = """
create table if not exists permits (
    path text primary key, call_id text not null, recording_id text not null, key text not null, over_s real
);
create table if not exists digests (path text not null, digest text not null, primary key (path, digest));
create index if not exists permits_by_call on permits (call_id);
"""
TOKEN: Final = "/recordingAccessToken"
KEPT_S: Final = 7 * 86_400
"""How long it is known of a recording that it is not kept any more."""


class Permits:
    """The permits of all workers and of those before them; any thread."""

    def __init__(self, path: Path, fleet: Fleet = ALONE, *, now_s: float) -> None:
        """Open the file, which is made if need be; calls of ours that went on when it was left are over now."""
        self._lock = threading.Lock()
        self._renewed: dict[str, str] = {}
        """Tokens of this process, by the path of what they open."""
        self._file = open_file(path, SCHEMA)
        left = self._file.execute("select distinct call_id from permits where over_s is null").fetchall()
        for (call_id,) in left:
            if fleet.is_ours(call_id):
                self.over(call_id, datetime.fromtimestamp(now_s, UTC))

    def keep(self, call_id: str, permit: Permit) -> None:
        """Note a permit, before anybody is told its token."""
        row = permit.path, call_id, permit.recording_id, permit.key
        digests = [(permit.path, one) for one in permit.digests]
        try:
            with self._lock:
                self._file.execute("insert or replace into permits values (?, ?, ?, ?, null)", row)
                self._file.executemany("insert or ignore into digests values (?, ?)", digests)
        except sqlite3.Error as error:  # the call goes on
            log.error("%s cannot be downloaded: %s", permit.key, error, extra={"call_id": call_id})

    def over(self, call_id: str, at: datetime) -> None:
        """The call is over."""
        row = at.timestamp(), call_id
        try:
            with self._lock:
                self._file.execute("update permits set over_s = ? where call_id = ? and over_s is null", row)
        except sqlite3.Error as error:
            log.error("the end of a call is not noted: %s", error, extra={"call_id": call_id})

    def look(self, path: str, token: str | None, *, grace_s: float, now_s: float) -> tuple[int, str | None]:
        """What a request for a recording is answered (200, 401, 404, 410), and with 200 the recording's key."""
        with self._lock:
            row = self._file.execute(
                "select recording_id, key, over_s from permits where path = ?", (path,)
            ).fetchone()
            found = self._file.execute("select digest from digests where path = ?", (path,)).fetchall()
        if row is None:
            return 404, None
        recording_id, key, over_s = row
        permit = Permit(path, recording_id, key, frozenset(digest for (digest,) in found))
        over_at = None if over_s is None else datetime.fromtimestamp(over_s, UTC)
        now = datetime.fromtimestamp(now_s, UTC)
        status = permit.status(token, over_at=over_at, grace_s=grace_s, now=now)
        return status, key if status == 200 else None

    def tokens_again(self, body: Any, pointers: Sequence[str]) -> Mapping[str, Any]:
        """Tokens for a message whose own are gone with their process, by where they stand in it."""
        found = {}
        for pointer in pointers:
            place = body
            for part in pointer.split("/")[1:-1]:
                place = place[int(part)] if isinstance(place, list) else place[part]
            location = place.get("recordingLocation") if pointer.endswith(TOKEN) else None
            if location == "":  # of an operation that failed: there was no token
                found[pointer] = ""
            elif isinstance(location, str) and (token := self._token_again(urlsplit(location).path)):
                found[pointer] = token
        return found

    def _token_again(self, path: str) -> str | None:
        with self._lock:
            if path not in self._renewed:
                known = self._file.execute("select 1 from permits where path = ?", (path,)).fetchone()
                if known is None:
                    return None
                token = secrets.token_urlsafe()
                self._file.execute("insert into digests values (?, ?)", (path, digest_of(token)))
                self._renewed[path] = token
            return self._renewed[path]

    def folders(self, *, grace_s: float, now_s: float) -> set[str]:
        """The folders of recordings that may still be downloaded."""
        with self._lock:
            rows = self._file.execute(
                "select key from permits where over_s is null or over_s > ?", (now_s - grace_s,)
            ).fetchall()
        return {str(key).partition("/")[0] for (key,) in rows}

    def sweep(self, *, grace_s: float, now_s: float) -> None:
        """Forget what has been over for long."""
        with self._lock:
            old = (now_s - grace_s - KEPT_S,)
            gone = [path for (path,) in self._file.execute("select path from permits where over_s < ?", old)]
            for path in gone:
                self._renewed.pop(path, None)
                self._file.execute("delete from digests where path = ?", (path,))
                self._file.execute("delete from permits where path = ?", (path,))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()
