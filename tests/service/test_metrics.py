"""What a scraper of Prometheus reads: the format, and that the figures are those of what happened."""

import math
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from busy_service import dead_letter, message_of
from callreel.delivery.queue_files import WAITING
from callreel.notify.references import FromFile
from callreel.service.measures import taken_bytes
from callreel.service.metrics import CONTENT_TYPE, Family, Histogram, Sample, one, text_of
from callreel.service.running import Service
from recording_host import packet
from service_host import listening, settings_in, until

METRICS_TOKEN = "metrics-token-0123456789abcdef"


@pytest.fixture
def running(tmp_path):
    path = tmp_path / "metrics.token"
    path.write_text(METRICS_TOKEN)
    settings = settings_in(tmp_path, operators=frozenset({"acme"}), metrics_token=FromFile(path))
    with listening(Service(settings)) as one:
        yield one


def read(client):
    """Value by (name, labels) of every sample, parsed by Prometheus's own client."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == CONTENT_TYPE
    families = list(text_string_to_metric_families(answer.text))
    assert len({family.name for family in families}) == len(families)
    assert all(family.documentation and family.type != "unknown" for family in families)
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


# ---- the format ----

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@given(
    TEXT,
    st.lists(st.tuples(TEXT, TEXT, st.floats(allow_nan=False)), unique_by=lambda one: one[:2], max_size=5),
)
def test_any_text_and_any_number_comes_back_from_the_parser(words, samples):
    family = Family(
        "callreel_things", "gauge", words, [Sample({"a": a, "b": b}, value) for a, b, value in samples]
    )
    (read,) = text_string_to_metric_families(text_of([family]))
    assert [(one.labels["a"], one.labels["b"], one.value) for one in read.samples] == samples


def test_a_line_is_as_the_format_says():
    families = [
        Family("callreel_a_total", "counter", 'Two\nlines \\ and "quotes".', one(2.0, lane='s3://"x"\\\n')),
        Family("callreel_b", "gauge", "B.", [*one(0.25), *one(math.nan), *one(math.inf), *one(-math.inf)]),
    ]
    assert text_of(families).splitlines() == [
        r'# HELP callreel_a_total Two\nlines \\ and "quotes".',
        "# TYPE callreel_a_total counter",
        r'callreel_a_total{lane="s3://\"x\"\\\n"} 2',
        "# HELP callreel_b B.",
        "# TYPE callreel_b gauge",
        "callreel_b 0.25",
        "callreel_b NaN",
        "callreel_b +Inf",
        "callreel_b -Inf",
    ]


def test_what_utf_8_cannot_hold_spoils_nothing():
    text = text_of([Family("callreel_a", "gauge", "A.", one(1, lane="\ud800"))])
    text.encode("utf-8")
    (family,) = text_string_to_metric_families(text)
    assert family.samples[0].labels == {"lane": "?"}


def test_a_histogram_adds_up_what_is_at_most_so_much():
    found = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 3.0):
        found.add(value, what="make")
    (family,) = text_string_to_metric_families(
        text_of([Family("callreel_s", "histogram", "S.", found.samples())])
    )
    values = {(one.name, one.labels.get("le")): one.value for one in family.samples}
    assert values == {
        ("callreel_s_bucket", "0.1"): 2,
        ("callreel_s_bucket", "1"): 3,
        ("callreel_s_bucket", "+Inf"): 4,
        ("callreel_s_sum", None): 3.65,
        ("callreel_s_count", None): 4,
    }


# ---- the figures ----


def test_a_recorded_call_is_in_the_figures(running):
    client = running.client()
    before = read(client)
    assert before["callreel_live_calls",] == before["callreel_calls_total",] == 0
    body = {"call_id": "c-1", "legs": [{"media": "none"}], "record": {}}
    assert client.post("/v1/calls", json=body).status_code == 201
    call = running.service.recorder.call("c-1")
    for number in (0, 1, 1, 3):
        call.receive_rtp("LEG-A", packet(number))
    during = until(lambda: (found := read(client))["callreel_step_lateness_seconds_count",] and found)
    assert during["callreel_live_calls",] == during["callreel_calls_total",] == 1
    assert during["callreel_packets_total", ("fate", "received")] == 4
    assert during["callreel_packets_total", ("fate", "duplicate")] == 1
    assert during["callreel_spool_takes", ("state", "running")] == 1
    assert during["callreel_spool_waiting_limit_bytes",] > during["callreel_spool_waiting_bytes",] >= 0
    until(lambda: read(client)["callreel_spool_bytes",] > 0)
    takes = running.service.settings.recorder.spool / "takes"
    until(
        lambda: (
            taken_bytes(takes.parent)
            == sum(path.stat().st_size for path in takes.rglob("*") if path.is_file())
        )
    )
    client.delete("/v1/calls/c-1")

    def is_over():
        found = read(client)
        return found if found["callreel_takes_total", ("outcome", "delivered")] else None

    after = until(is_over)
    assert (after["callreel_live_calls",], after["callreel_calls_total",]) == (0, 1)
    assert after["callreel_packets_total", ("fate", "received")] == 4
    assert after["callreel_degraded_takes_total",] == 1  # the third packet never came
    for what in ("recording", "make", "deliver"):
        labels = (("class", ""), ("outcome", "done"), ("what", what))
        assert after["callreel_work_total", *labels] == 1
    assert after["callreel_work_seconds_count", ("what", "deliver")] == 1
    assert after["callreel_disk_size_bytes",] > after["callreel_disk_free_bytes",] > 0
    until(lambda: read(client)["callreel_spool_bytes",] == 0)
    assert after["callreel_dead_letters",] == 0
    assert after["callreel_is_accepting",] == 1
    assert after["process_resident_memory_bytes",] > 1e7
    assert after["process_max_fds",] >= after["process_open_fds",] > 3


def test_the_cpu_time_of_a_packet_is_that_of_the_process_between_two_scrapes(running):
    client, recorder = running.client(), running.service.recorder
    client.post("/v1/calls", json={"call_id": "c-1", "legs": [{"media": "none"}], "record": {}})
    began_s = time.process_time()
    assert math.isnan(read(client)["callreel_cpu_seconds_per_packet",])
    looked_s = time.process_time()
    for number in range(50):
        recorder.call("c-1").receive_rtp("LEG-A", packet(number))
    until(lambda: recorder.figures().packets["received"] == 50)
    least_s = time.process_time() - looked_s
    found_s = read(client)["callreel_cpu_seconds_per_packet",]
    assert least_s / 50 <= found_s <= (time.process_time() - began_s) / 50


AGE_S = 5000.0


def test_the_oldest_take_of_a_state_is_told_by_its_age(running, monkeypatch):
    client, desk = running.client(), running.service.recorder._spool._desk
    body = {"legs": [{"media": "none"}], "record": {}}
    before_s = time.time()
    with monkeypatch.context() as long_ago:
        long_ago.setattr(desk, "now", lambda: time.time() - AGE_S)
        client.post("/v1/calls", json=body | {"call_id": "old"})
        until(lambda: read(client)["callreel_spool_takes", ("state", "running")] == 1)
    after_s = time.time()
    client.post("/v1/calls", json=body | {"call_id": "young"})
    until(lambda: read(client)["callreel_spool_takes", ("state", "running")] == 2)
    since_s = time.time()
    age_s = read(client)["callreel_spool_oldest_take_age_seconds", ("state", "running")]
    assert AGE_S + since_s - after_s <= age_s <= AGE_S + time.time() - before_s


def test_the_oldest_of_a_lane_is_told_by_its_age(tmp_path):
    settings = settings_in(tmp_path, operators=frozenset({"acme"}))
    Service(settings).close()  # makes the folders
    spool, lane = settings.recorder.spool, ("lane", "s3://acme-bucket")
    before_s = time.time()
    for number, (name, age_s) in enumerate({"end:old": AGE_S, "end:young": 10.0}.items(), 900_001):
        dead_letter(spool, name, number=number, age_s=age_s, state=WAITING, **message_of("acme"))
    after_s = time.time()
    with listening(Service(settings)) as running:
        since_s = time.time()
        found = read(running.client())
    assert found["callreel_queue_entries", lane] == 2
    age_s = found["callreel_queue_oldest_age_seconds", lane]
    assert AGE_S + since_s - after_s <= age_s <= AGE_S + time.time() - before_s


def test_what_comes_to_the_ports_of_rtp_is_counted_by_fate_also_after_its_call(running):
    client = running.client()
    before = read(client)
    call = client.post("/v1/calls", json={"call_id": "rtp-1", "legs": [{"media": "rtp"}]}).json()
    port = call["legs"][0]["media"]["port"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        for number in range(5):
            peer.sendto(packet(number), ("127.0.0.1", port))
        peer.sendto(b"neither", ("127.0.0.1", port))

        def arrived():
            found = read(client)
            return found if found["callreel_rtp_packets_total", ("fate", "received")] == 5 else None

        during = until(arrived)
    assert during["callreel_rtp_packets_total", ("fate", "foreign")] == 1
    assert during["callreel_rtp_legs",] == 1
    assert during["callreel_rtp_ports_free",] < before["callreel_rtp_ports_free",]
    client.delete("/v1/calls/rtp-1")
    after = until(lambda: (found := read(client))["callreel_rtp_legs",] == 0 and found)
    assert after["callreel_rtp_packets_total", ("fate", "received")] == 5


def test_a_delivery_that_fails_is_told_by_lane_and_class(tmp_path):
    (tmp_path / "out").write_text("a file where a folder should be")
    with listening(Service(settings_in(tmp_path, tokens={"acme": "acme-token-0123456789abcdef"}))) as running:
        client = running.client()
        client.post("/v1/calls", json={"call_id": "c-1", "legs": [{"media": "none"}], "record": {}})
        running.service.recorder.call("c-1").receive_rtp("LEG-A", packet(0))
        client.delete("/v1/calls/c-1")

        def failures():
            found = read(client)
            return [key for key in found if key[0] == "callreel_work_total" and ("outcome", "failed") in key]

        ((_, kind, _, what),) = until(failures)
        assert what == ("what", "deliver")
        assert kind[1]
        found = read(client)
        ((lane,),) = [key[1:] for key in found if key[0] == "callreel_queue_entries"]
        assert found["callreel_queue_entries", lane] == 1
        assert found["callreel_spool_takes", ("state", "deliverable")] == 1


def test_requests_are_counted_by_the_template_of_their_route(running):
    client = running.client()
    for path in ("/v1/calls/a", "/v1/calls/b", "/nowhere/1", "/nowhere/2"):
        client.get(path)
    running.client(None).get("/v1/calls/a")
    found = read(client)

    def count(route, status):
        return found["callreel_http_requests_total", ("method", "GET"), ("route", route), ("status", status)]

    assert count("/v1/calls/{call_id}", "404") == 2
    assert count("/v1/calls/{call_id}", "401") == 1
    assert count("unknown", "404") == 2
    assert found["callreel_http_request_seconds_count", ("route", "unknown")] == 2


def test_a_method_that_nobody_knows_makes_no_label_of_its_own(running):
    running.client().request("BREW", "/v1/calls")
    labels = {key[1] for key in read(running.client()) if key[0] == "callreel_http_requests_total"}
    assert ("method", "BREW") not in labels
    assert ("method", "unknown") in labels


# ---- who may ----


def test_the_token_for_metrics_opens_the_metrics_and_nothing_else(running):
    client = running.client(METRICS_TOKEN)
    assert client.get("/metrics").status_code == 200
    assert client.get("/v1/calls").status_code == 401


def test_a_tenant_who_is_no_operator_does_not_see_the_figures_of_all(running):
    answer = running.client("other").get("/metrics")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
