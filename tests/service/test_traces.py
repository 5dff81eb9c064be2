"""Traces: the spans of a recording, and that none are made unless they are asked for."""

import subprocess
import sys

import pytest
from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from callreel import cli
from callreel.recorder.figures import Milestone
from callreel.service import running
from callreel.service import traces as traces_module
from callreel.service.running import Service
from callreel.service.traces import Traces
from recording_host import packet
from service_host import listening, settings_in, until


class Seen(InMemorySpanExporter):
    def by_name(self):
        return {span.name: span for span in self.get_finished_spans()}


@pytest.fixture
def seen():
    return Seen()


@pytest.fixture
def traces(seen):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(seen))
    return Traces(provider)


def test_a_recording_is_a_trace_with_what_became_of_it(tmp_path, traces, seen):
    with listening(Service(settings_in(tmp_path), traces=traces)) as one:
        client = one.client()
        client.post("/v1/calls", json={"call_id": "c-1", "legs": [{"media": "none"}], "record": {}})
        one.service.recorder.call("c-1").receive_rtp("LEG-A", packet(0))
        client.delete("/v1/calls/c-1")
        until(lambda: len(seen.get_finished_spans()) == 4)
    spans = seen.by_name()
    assert set(spans) == {"recording", "make", "deliver", "tell"}
    root = spans["recording"]
    assert root.parent is None
    assert {span.context.trace_id for span in spans.values()} == {root.context.trace_id}
    assert {spans[name].parent.span_id for name in ("make", "deliver", "tell")} == {root.context.span_id}
    assert {span.attributes["callreel.call_id"] for span in spans.values()} == {"c-1"}
    assert all(span.start_time <= span.end_time for span in spans.values())
    assert spans["make"].end_time <= spans["deliver"].end_time
    assert spans["tell"].attributes["callreel.lane"] == "library"
    assert {span.status.status_code for span in spans.values()} == {StatusCode.UNSET}


def test_a_delivery_that_fails_is_an_error_with_its_class(traces, seen):
    traces(Milestone("deliver", "t-1", "c-1", 1.0, 2.5, "s3://b", "denied", "no", is_given_up=True))
    (span,) = seen.get_finished_spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "no")
    assert span.attributes["callreel.error_class"] == "denied"
    assert span.attributes["callreel.is_given_up"] is True
    assert span.end_time - span.start_time == 1_500_000_000


def test_a_delivery_whose_recording_another_process_saw_is_a_trace_of_its_own(traces, seen):
    traces(Milestone("recording", "t-1", "c-1", 1.0, 2.0))
    traces(Milestone("deliver", "t-2", "c-2", 3.0, 4.0))
    first, second = seen.get_finished_spans()
    assert second.parent is None
    assert first.context.trace_id != second.context.trace_id


def test_no_more_is_remembered_than_is_said(traces, monkeypatch):
    monkeypatch.setattr(traces_module, "KEPT", 3)
    for number in range(10):
        traces(Milestone("recording", f"t-{number}", "c-1", 1.0, 2.0))
    assert list(traces._contexts) == ["t-7", "t-8", "t-9"]


@pytest.fixture
def told_of_requests(seen, monkeypatch):
    """Gives what the process's providers have been told: spans, metrics and logs."""
    told_logs, reader = InMemoryLogRecordExporter(), InMemoryMetricReader()
    tracers, loggers = TracerProvider(), LoggerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(seen))
    loggers.add_log_record_processor(SimpleLogRecordProcessor(told_logs))
    meters = MeterProvider([reader])
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: tracers)
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: meters)
    monkeypatch.setattr(_logs, "get_logger_provider", lambda: loggers)
    return lambda: (seen.get_finished_spans(), reader.get_metrics_data(), told_logs.get_finished_logs())


def test_a_service_without_traces_tells_the_processs_providers_nothing(tmp_path, told_of_requests):
    with listening(Service(settings_in(tmp_path))) as one:
        client = one.client()
        call = {"call_id": "c-1", "legs": [{"media": "none"}], "record": {}}
        assert client.post("/v1/calls", json=call).status_code == 201
        assert client.post("/v1/calls", json={"legs": 0}).status_code == 422
        assert client.get("/v1/recordings", params={"text": "+15551230001"}).status_code == 200
        assert client.get("/page/", params={"text": "+15551230001"}).status_code == 200
        client.delete("/v1/calls/c-1")
    assert told_of_requests() == ((), None, ())


def test_opentelemetry_is_imported_only_when_traces_are_made():
    program = (
        "import sys, callreel.service.traces as t;"
        "assert not any(one.startswith('opentelemetry') for one in sys.modules);"
        "t.Traces(); assert 'opentelemetry.trace' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_callreel_serve_makes_spans_when_it_is_asked_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    served = []
    monkeypatch.setattr(running, "serve", lambda service, on_listening: served.append(service._traces))
    alone = ["serve", "--port", "0", "--workers", "1"]
    assert cli.main(alone) == 0
    assert cli.main([*alone, "--traces"]) == 0
    assert served[0] is None
    assert isinstance(served[1], Traces)
