"""Counts requests by route and status: an ASGI layer around everything else."""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final

from callreel.service.limits import App, Receive, Scope, Send

__all__ = ["COUNTED_ELSEWHERE", "Counted"]

UNKNOWN: Final = "unknown"
"""The route of what is nowhere, so that nobody makes up new ones."""
COUNTED_ELSEWHERE: Final = "callreel.counted_elsewhere"
"""In the scope of a request that another worker answers, and counts."""
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Counted:
    """Tells how each request was answered."""

    def __init__(self, app: App, answered: Callable[[str, str, int, float], None]) -> None:
        """`answered` is told method, route, status and seconds up to the beginning of the answer."""
        self._app, self._answered = app, answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, is_told = time.perf_counter(), False

        def tell(status: int) -> None:
            nonlocal is_told
            if not is_told:
                is_told = True
                if COUNTED_ELSEWHERE in scope:
                    return
                method = scope["method"] if scope["method"] in METHODS else UNKNOWN
                self._answered(method, _route(scope), status, time.perf_counter() - began)

        async def hear(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                tell(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, hear)
        except Exception:
            tell(500)
            raise


def _route(scope: Scope) -> str:
    """The template of the path, as it is declared."""
    path = getattr(scope.get("route"), "path", None)
    if not isinstance(path, str):
        return UNKNOWN
    root: str = scope.get("root_path", "")
    return root + path
