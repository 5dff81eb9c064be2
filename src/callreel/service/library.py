"""Recordings that have ended: an index in a file, so that it is there after a restart.

The audio stays where it was delivered; this knows where, and all that the manifest says.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from callreel.recorder import TakeEnded
from callreel.service.common_files import open_file

__all__ = ["Entry", "Library", "Page"]

SCHEMA = """
create table if not exists recordings (
    take_id text primary key,
    tenant text not null,
    call_id text not null,
    started_at text not null,
    ended_s real not null,
    duration_s real not null,
    end_reason text not null,
    location text,
    error text,
    is_degraded integer not null,
    dialect text not null,
    key text not null,
    manifest text not null
);
create index if not exists recordings_by_start on recordings (tenant, started_at desc);
create index if not exists recordings_by_call on recordings (tenant, call_id);
"""
COLUMNS = (
    "take_id, tenant, call_id, started_at, ended_s, duration_s, end_reason, location, error, "
    "is_degraded, dialect, key, manifest"
)
MOST = 200
"""Entries of a page."""


class Entry(NamedTuple):
    """A recording that has ended."""

    take_id: str
    tenant: str
    call_id: str
    started_at: str
    """RFC 3339, UTC; empty for one of which nothing was recorded."""
    ended_s: float
    """When it was told, in epoch seconds."""
    duration_s: float
    end_reason: str
    location: str | None
    error: str | None
    is_degraded: bool
    dialect: str
    key: str
    manifest: Mapping[str, Any]


class Page(NamedTuple):
    """Some of the recordings, the latest first."""

    entries: list[Entry]
    total: int


class Library:
    """The index; any thread, and any number of processes."""

    def __init__(self, path: Path) -> None:
        """Open the file, which is made if need be."""
        self._lock = threading.Lock()
        self._file = open_file(path, SCHEMA)

    def add(self, tenant: str, ended: TakeEnded, *, now_s: float) -> None:
        """Keep it; one that is told again takes the place of what was told before."""
        manifest = ended.manifest
        row = (
            ended.take_id,
            tenant,
            ended.call_id,
            str(manifest.get("started_at", "")),
            now_s,
            float(manifest.get("duration", 0.0)),
            ended.end_reason,
            ended.location,
            ended.error,
            bool(manifest.get("degraded")),
            str(manifest.get("dialect", "")),
            ended.key,
            json.dumps(dict(manifest)),
        )
        with self._lock:
            self._file.execute(
                f"insert or replace into recordings ({COLUMNS}) values ({', '.join('?' * len(row))})", row
            )

    def get(self, take_id: str, tenant: str | None = None) -> Entry | None:
        """The recording of that id, if this tenant, or with None anybody, has one."""
        with self._lock:
            row = self._file.execute(
                f"select {COLUMNS} from recordings where take_id = ? and (? is null or tenant = ?)",
                (take_id, tenant, tenant),
            ).fetchone()
        return None if row is None else _entry(row)

    def find(
        self,
        tenant: str | None = None,
        *,
        text: str = "",
        state: str = "",
        after: str = "",
        before: str = "",
        page: int = 1,
        page_size: int = 50,
    ) -> Page:
        """Recordings, the latest first.

        `text` is somewhere in the id of the call, the key or the place; `state`: "delivered", "failed" or "degraded";
        `after` and `before`: RFC 3339, of the beginning.
        """
        where, given = ["(? is null or tenant = ?)"], [tenant, tenant]
        if text:
            pattern = "%" + text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
            where.append(
                "(call_id like ? escape '\\' or key like ? escape '\\' or location like ? escape '\\')"
            )
            given += [pattern] * 3
        if after:
            where.append("started_at >= ?")
            given.append(after)
        if before:
            where.append("started_at < ?")
            given.append(before)
        states = {
            "delivered": "error is null and location is not null",
            "failed": "error is not null",
            "degraded": "is_degraded",
        }
        if state:
            where.append(states[state])
        size = max(1, min(MOST, page_size))
        clause = " and ".join(where)
        with self._lock:
            total = self._file.execute(f"select count(*) from recordings where {clause}", given).fetchone()[0]
            rows = self._file.execute(
                f"select {COLUMNS} from recordings where {clause} order by started_at desc, take_id limit ? offset ?",
                [*given, size, size * (max(1, page) - 1)],
            ).fetchall()
        return Page([_entry(row) for row in rows], total)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()


def _entry(row: tuple[Any, ...]) -> Entry:
    entry = Entry(*row)
    return entry._replace(is_degraded=bool(entry.is_degraded), manifest=json.loads(row[-1]))
