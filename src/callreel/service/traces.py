"""Traces for OpenTelemetry: a span for each recording, and below it those of making, delivering and telling it.

Extra `callreel[otel]`; only who asks for traces has it import OpenTelemetry. Where they go is the provider's matter:
that of the process, which `opentelemetry-instrument` or the host sets up, or one that is handed in.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Final

from callreel.recorder.figures import Milestone

__all__ = ["NONE_OF_FASTAPI", "Traces"]

KEPT: Final = 10_000
"""Recordings whose spans still find their parent; one that is delivered a day later may be a trace of its own."""

NONE_OF_FASTAPI: Final[Any] = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""`FastAPI(telemetry=...)`: by itself it would tell any provider of requests, with paths and queries.

Versions that have no telemetry keep it and do nothing with it.
"""


class Traces:
    """Turns what a recorder observes into spans; any thread."""

    def __init__(self, provider: Any = None) -> None:
        """`provider`: an OpenTelemetry TracerProvider; None for the one of the process."""
        from opentelemetry import trace

        self._trace = trace
        self._tracer = trace.get_tracer("callreel", tracer_provider=provider)
        self._contexts: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, milestone: Milestone) -> None:
        """Tell of something that is over."""
        with self._lock:
            parent = self._contexts.get(milestone.id)
        attributes: dict[str, Any] = {"callreel.call_id": milestone.call_id, "callreel.id": milestone.id}
        if milestone.lane:
            attributes["callreel.lane"] = milestone.lane
        if milestone.error_class is not None:
            attributes["callreel.error_class"] = milestone.error_class
            attributes["callreel.is_given_up"] = milestone.is_given_up
        span = self._tracer.start_span(
            milestone.what, context=parent, start_time=_ns(milestone.began_s), attributes=attributes
        )
        if milestone.error_class is not None:
            span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, milestone.error))
        span.end(end_time=_ns(max(milestone.began_s, milestone.ended_s)))
        if milestone.what == "recording":
            with self._lock:
                self._contexts[milestone.id] = self._trace.set_span_in_context(span)
                while len(self._contexts) > KEPT:
                    self._contexts.popitem(last=False)


def _ns(moment_s: float) -> int:
    return round(moment_s * 1_000_000_000)
