"""Logs as JSON, one line a record, each with the call it is about; for `logging` of the standard library."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any, Final

__all__ = ["NAMED", "JsonFormatter", "without_secrets"]

NAMED: Final = ("call_id", "take_id", "tenant", "lane")
"""What a record may say beside its text, by `extra=`; nothing else of it is written, so nothing slips in."""

TEXT_MAX: Final = 8000
"""Characters of a text; of a longer one the beginning and the end."""

HIDDEN: Final = "[hidden]"
SECRETS: Final = (
    (re.compile(r"(?i)\b((?:bearer|basic|application|digest)\s+)[A-Za-z0-9+/=_.:~-]{8,}"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,20}://)[^\s/@:]+(?::[^\s/@]*)?@"), rf"\1{HIDDEN}@"),
    (
        re.compile(
            r"(?i)([\w-]*(?:signature|credential|security-token|secret|password|passwd|api[_-]?key|access[_-]?key"
            r"|access_token|refresh_token|authorization)[\"']?\s*[=:]\s*[\"']?)(?!\[hidden\])[^\s\"'&,;}]{4,}"
        ),
        rf"\1{HIDDEN}",
    ),
)
"""A second line of defence: no text of ours holds a secret, but one of a library's may."""


def without_secrets(text: str) -> str:
    """The same text without what looks like a secret."""
    for pattern, instead in SECRETS:
        text = pattern.sub(instead, text)
    return text


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON in ASCII: whatever a stranger's text is, it begins no line of its own."""

    def __init__(self, worker: int | None = None) -> None:
        """`worker`: the number of the process, where there are several."""
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """Write one."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _told(_message(record)),
        }
        told |= {name: _told(str(getattr(record, name))) for name in NAMED if hasattr(record, name)}
        if record.exc_info and record.exc_info[0] is not None:
            told["error"] = record.exc_info[0].__name__
            told["traceback"] = _told(self.formatException(record.exc_info))
        told["thread"] = record.threadName
        if self._worker is not None:
            told["worker"] = self._worker
        return json.dumps(told, ensure_ascii=True)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # a wrong format must not cost the record
        return f"{record.msg!s} (its arguments do not fit: {type(error).__name__})"


def _told(text: str) -> str:
    if len(text) > TEXT_MAX:
        half = TEXT_MAX // 2
        text = f"{text[:half]} … {len(text) - 2 * half} characters … {text[-half:]}"
    return without_secrets(text)
