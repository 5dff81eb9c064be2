"""Whichever worker is asked, the one that owns the call answers; what concerns all calls is asked of all."""

import json
import socket
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callreel.notify.references import FromFile
from callreel.service import forwarding
from callreel.service.fleet import Fleet
from callreel.service.running import Service
from fleet_host import fleet_of, id_of, settings_in
from service_host import TOKENS, listening, until

NO_MEDIA = {"legs": [{"media": "none"}]}
METRICS_TOKEN = "metrics-token-0123456789abcdef"


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet")
    path = folder / "metrics.token"
    path.write_text(METRICS_TOKEN)
    settings = settings_in(
        folder, workers=3, operators=frozenset({"acme"}), metrics_token=FromFile(path), audiosocket_port=0
    )
    with fleet_of(3, settings) as running:
        yield running


@pytest.fixture(params=[(0, 1), (1, 0), (2, 2)], ids=["wrong", "wrong-too", "right"])
def pair(request, workers):
    """A client of one worker, and the worker that owns what is asked for."""
    asked, owning = request.param
    return workers[asked].client(), workers[owning]


def begun(client, call_id, **body):
    answer = client.post("/v1/calls", json=NO_MEDIA | {"call_id": call_id} | body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def owner_of(workers, call_id):
    return workers[workers[0].service.fleet.owner(call_id)]


# ---- which worker is meant ----


def meant(path, *, method="GET", size=7, query=b"", headers=(), body=b"", kind="http"):
    scope = {"type": kind, "path": path, "query_string": query, "headers": list(headers)}
    if kind == "http":
        scope["method"] = method
    return forwarding.meant(Fleet(0, size), scope, body, iter(range(size)))


NAMES = st.text(st.characters(exclude_characters="/", codec="utf-8"), min_size=1, max_size=40)


@given(NAMES, st.integers(2, 16))
def test_every_path_of_a_call_leads_to_its_owner(name, size):
    owner = Fleet(0, size).owner(name)
    paths = [
        ("GET", f"/v1/calls/{name}"),
        ("DELETE", f"/v1/calls/{name}"),
        ("POST", f"/v1/calls/{name}/legs"),
        ("POST", f"/v1/calls/{name}/actions"),
        ("POST", f"/sip-media-applications/app/calls/{name}"),
        ("GET", f"/calling/v1/calls/id/{name}"),
        ("PATCH", f"/calling/v1/calls/id/{name}"),
        ("PATCH", f"/calling/v1/calls/id/{name}/leg/caller"),
        ("PATCH", f"/calling/v1/conferences/id/room/{name}"),
        ("DELETE", f"/calling/v1/conferences/id/room/{name}"),
    ]
    for method, path in paths:
        assert meant(path, method=method, size=size).worker == owner, path
    assert meant(f"/v1/media/{name}/LEG-A/token", kind="websocket", size=size).worker == owner


@given(st.uuids(), st.integers(2, 16))
def test_graph_finds_a_guid_however_it_is_written(guid, size):
    owner = Fleet(0, size).owner(str(guid))
    forms = [str(guid), guid.hex, str(guid).upper(), guid.hex.upper(), f"{{{guid}}}", guid.urn]
    for form in forms:
        for version in ("", "/v1.0", "/beta"):
            for calls in ("/app/calls", "/communications/calls", "/applications/x/calls"):
                for rest in ("", "/record", "/operations/y"):
                    assert meant(f"{version}{calls}/{form}{rest}", size=size).worker == owner


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/calls"),
        ("GET", "/v1/recordings"),
        ("GET", "/v1/recordings/take"),
        ("GET", "/v1/events"),
        ("GET", "/calling/v1/conferences/id/room"),
        ("GET", "/calling/v1/recording/key"),
        ("GET", "/graph/recordings/call/recording"),
        ("GET", "/metrics"),
        ("GET", "/page/"),
        ("POST", "/page/deliveries/retry"),
        ("GET", "/nowhere"),
    ],
)
def test_what_is_of_no_one_call_is_answered_by_whoever_is_asked(method, path):
    assert meant(path, method=method) is None


def test_a_call_that_begins_goes_to_its_ids_owner_or_by_its_key_or_in_turn():
    def to(body, *headers, turns=(0,)):
        scope = {"type": "http", "method": "POST", "path": "/v1/calls", "headers": list(headers)}
        return forwarding.meant(Fleet(0, 7), scope, body, iter(turns))

    named = json.dumps({"call_id": "call-1"}).encode()
    assert to(named).worker == Fleet(0, 7).owner("call-1")
    assert to(named, (b"idempotency-key", b"k")).worker == Fleet(0, 7).owner("call-1")
    keyed = {to(b"{}", (b"authorization", b"a"), (b"idempotency-key", b"%d" % n)) for n in range(100)}
    assert len(keyed) == 7
    assert not any(one.may_be_another for one in keyed)
    again = (b"authorization", b"a"), (b"idempotency-key", b"5")
    assert to(b"{}", *again) == to(b"{} ", *again)
    assert [to(b"{}", turns=[n]) for n in range(7)] == [
        forwarding.Meant(n, may_be_another=True) for n in range(7)
    ]
    for nothing in (b"", b"[", b"[1]", b"1", b'"x"', b"\xff", b"[" * 100_000):
        assert to(nothing) is None


def test_a_signed_request_that_comes_again_comes_to_the_same_worker():
    def to(signature):
        return meant(
            "/sip-media-applications/a/calls", method="POST", headers=[(b"authorization", signature)]
        )

    assert to(b"one") == to(b"one")
    assert len({to(b"%d" % number).worker for number in range(100)}) == 7


# ---- the native API ----


def test_a_call_of_any_worker_is_begun_read_acted_on_and_ended_at_any(pair, workers):
    client, owning = pair
    call_id = id_of(owning, f"native-{id(pair)}")
    begun(client, call_id)
    assert owning.service.host.call(call_id) is not None
    assert sum(one.service.host.call(call_id) is not None for one in workers) == 1
    assert client.get(f"/v1/calls/{call_id}").json()["call_id"] == call_id
    assert client.post("/v1/calls", json=NO_MEDIA | {"call_id": call_id}).status_code == 409
    legs = client.post(f"/v1/calls/{call_id}/legs", json={"name": "LEG-B", "media": "none"}).json()["legs"]
    assert [leg["name"] for leg in legs] == ["LEG-A", "LEG-B"]
    acted = client.post(f"/v1/calls/{call_id}/actions", json={"action": "start_recording"})
    assert acted.status_code == 200
    assert acted.json()["recording_id"]
    assert client.delete(f"/v1/calls/{call_id}").status_code == 204
    assert client.post(f"/v1/calls/{call_id}/actions", json={"action": "ringing"}).status_code == 409


def test_who_asks_is_asked_where_the_call_is(pair, workers):
    client, owning = pair
    call_id = id_of(owning, f"whose-{id(pair)}")
    begun(client, call_id)
    asked = next(one for one in workers if one.url == str(client.base_url))
    for tenant, status in [("other", 404), ("wrong-token-0000000000", 401), (None, 401)]:
        answer = asked.client(tenant).get(f"/v1/calls/{call_id}")
        assert answer.status_code == status
        assert ("www-authenticate" in answer.headers) == (status == 401)
    assert asked.client("other").post("/v1/calls", json=NO_MEDIA | {"call_id": call_id}).status_code == 409
    client.delete(f"/v1/calls/{call_id}")


def test_errors_come_back_as_they_were_made(pair):
    client, owning = pair
    call_id = id_of(owning, f"errors-{id(pair)}")
    answer = client.get(f"/v1/calls/{call_id}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_such_call")
    answer = client.post("/v1/calls", json={"call_id": call_id, "legs": [{"name": "x"}]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")
    answer = client.put(f"/v1/calls/{call_id}")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET")
    assert len(answer.headers.get_list("date")) == 1


def test_calls_without_an_id_are_spread_over_all_workers_from_one_connection(workers):
    client = workers[0].client()
    before = [one.service.host.begun for one in workers]
    made = [client.post("/v1/calls", json=NO_MEDIA).json()["call_id"] for _ in range(9)]
    assert [one.service.host.begun - count for one, count in zip(workers, before, strict=True)] == [3, 3, 3]
    for call_id in made:
        assert owner_of(workers, call_id).service.host.call(call_id) is not None
        assert client.delete(f"/v1/calls/{call_id}").status_code == 204


def test_a_call_with_a_key_is_begun_once_whichever_workers_are_asked(workers):
    headers = {"Idempotency-Key": "the-key"}
    answers = [one.client().post("/v1/calls", json=NO_MEDIA, headers=headers) for one in workers * 2]
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["call_id"] for answer in answers}) == 1
    assert workers[0].client().delete(f"/v1/calls/{answers[0].json()['call_id']}").status_code == 204


def test_all_calls_are_listed_at_any_worker_the_latest_first(workers):
    names = [id_of(workers[n % 3], f"listed-{n}") for n in range(7)]
    for name in names:
        begun(workers[0].client(), name)
        time.sleep(0.002)
    for one in workers:
        found = [call["call_id"] for call in one.client().get("/v1/calls").json()["calls"]]
        assert [name for name in found if name in names] == names[::-1]
        assert one.client("other").get("/v1/calls").json() == {"calls": []}
    for name in names:
        assert workers[1].client().delete(f"/v1/calls/{name}").status_code == 204
    listed = workers[2].client().get("/v1/calls", params={"live": False}).json()["calls"]
    assert {*names} <= {call["call_id"] for call in listed}


def test_a_name_that_a_connection_finds_a_leg_by_is_given_once(workers):
    identity = "0b6d1c1e-8d0f-4d8f-9c57-0123456789ab"
    asterisk = {"legs": [{"media": "audiosocket", "options": {"uuid": identity}}]}
    platform = {"legs": [{"media": "websocket", "options": {"call_sid": "CA-twice"}}]}
    for body, words in [(asterisk, "UUID"), (platform, "call_sid")]:
        first = id_of(workers[0], f"named-{words}")
        begun(workers[0].client(), first, **body)
        for n in (0, 1, 2):
            other = (
                workers[1]
                .client()
                .post("/v1/calls", json=body | {"call_id": id_of(workers[n], f"x-{words}")})
            )
            assert other.status_code == 400
            assert words in other.json()["error"]["message"]
        spare = id_of(workers[2], f"spare-{words}")
        begun(workers[0].client(), spare)
        leg = {"name": "LEG-B"} | body["legs"][0]
        assert workers[0].client().post(f"/v1/calls/{spare}/legs", json=leg).status_code == 400
        assert workers[1].client().delete(f"/v1/calls/{first}").status_code == 204
        assert until(
            lambda leg=leg, spare=spare: (
                workers[0].client().post(f"/v1/calls/{spare}/legs", json=leg).is_success
            )
        )
        workers[1].client().delete(f"/v1/calls/{spare}")


def test_a_request_is_counted_by_the_worker_that_answers_it(workers):
    call_id = id_of(workers[1], "counted")

    def counted():
        return [
            sum(n for (_, route, _), n in one.service.measures._requests.items() if "call_id" in route)
            for one in workers
        ]

    before = counted()
    assert workers[0].client().get(f"/v1/calls/{call_id}").status_code == 404
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [0, 1, 0]


def test_a_body_that_comes_in_chunks_and_a_head_without_host_are_handed_on(workers):
    call_id = id_of(workers[1], "chunks")
    token = TOKENS["acme"]
    body = json.dumps(NO_MEDIA | {"call_id": call_id})
    chunks = f"{len(body):x}\r\n{body}\r\n0\r\n\r\n"
    head = f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
    close = head + "Connection: close\r\n"
    chunked = f"POST /v1/calls HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{close}\r\n{chunks}"
    for request, status in [(chunked, 201), (f"GET /v1/calls/{call_id} HTTP/1.0\r\n{head}\r\n", 200)]:
        with socket.create_connection(("127.0.0.1", workers[0].port), timeout=20) as one:
            one.sendall(request.encode())
            assert one.makefile("rb").read().startswith(b"HTTP/1.1 %d" % status)
    workers[0].client().delete(f"/v1/calls/{call_id}")


def test_what_only_workers_ask_is_not_there_for_anybody_else(workers):
    client = workers[0].client()
    for path in ("/-/calls", "/-/events?tenant=acme", "/-/retry"):
        assert client.get(path).status_code == 404
        assert client.post(path, json={"tenant": "acme"}).status_code == 404


# ---- operating ----


def test_metrics_are_of_all_workers_each_family_once(workers):
    from prometheus_client.parser import text_string_to_metric_families

    headers = {"Authorization": f"Bearer {METRICS_TOKEN}"}
    for one in workers:
        answer = one.client(None).get("/metrics", headers=headers)
        families = list(text_string_to_metric_families(answer.text))
        assert len({family.name for family in families}) == len(families)
        by_name = {family.name: family for family in families}
        for family in families:
            assert all(sample.labels["worker"] in ("0", "1", "2") for sample in family.samples), family.name
        up = {sample.labels["worker"]: sample.value for sample in by_name["callreel_worker_up"].samples}
        assert up == {"0": 1, "1": 1, "2": 1}
        assert {sample.labels["worker"] for sample in by_name["callreel_live_calls"].samples} == {
            "0",
            "1",
            "2",
        }


def test_ready_is_who_is_ready_everywhere(workers):
    assert workers[0].client(None).get("/readyz").text == "ok\n"
    workers[1].service.recorder.refuse("a test")
    try:
        for one in workers:
            answer = one.client(None).get("/readyz")
            assert (answer.status_code, answer.text) == (503, "worker 1: overloaded: a test\n")
    finally:
        workers[1].service.recorder.refuse(None)
    assert workers[0].client(None).get("/readyz").status_code == 200


# ---- one service, whichever worker is asked ----


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    with listening(Service(settings_in(tmp_path_factory.mktemp("alone")))) as running:
        yield running


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["begin", "read", "end", "LEG-B", "ringing", "answered", "hang_up", "start_recording", "list"]
        ),
        st.integers(0, 3),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=12,
)
UNLIKE = ("started_at", "ended_at", "recording_id", "recordings")
"""What differs from one run to the next."""


def seen_of(answer, stem):
    """Status and body of an answer, without what is of one run alone."""

    def plain(value):
        if isinstance(value, dict):
            return {name: plain(inner) for name, inner in value.items() if name not in UNLIKE}
        if isinstance(value, list):
            return [plain(inner) for inner in value]
        return value.replace(stem, "") if isinstance(value, str) else value

    body = plain(answer.json()) if answer.content else None
    if isinstance(body, dict) and "calls" in body:
        body = [call["call_id"] for call in body["calls"]]
    return answer.status_code, body


def step(client, what, call_id, stem):
    path = f"/v1/calls/{call_id}"
    match what:
        case "begin":
            answer = client.post("/v1/calls", json=NO_MEDIA | {"call_id": call_id})
        case "read":
            answer = client.get(path)
        case "end":
            answer = client.delete(path)
        case "LEG-B":
            answer = client.post(f"{path}/legs", json={"name": what, "media": "none"})
        case "list":
            answer = client.get("/v1/calls")
        case _:
            answer = client.post(f"{path}/actions", json={"action": what})
    return seen_of(answer, stem)


RUNS = iter(range(1_000_000))


@settings(max_examples=15)
@given(STEPS)
def test_any_order_of_requests_at_any_workers_is_answered_as_by_one(workers, alone, steps):
    stem = f"run{next(RUNS)}-"
    clients, one = [running.client() for running in workers], alone.client()
    before = {call["call_id"] for call in clients[0].get("/v1/calls").json()["calls"]}
    try:
        for what, name, asked in steps:
            found = step(clients[asked], what, f"{stem}{name}", stem)
            if what == "list":
                found = found[0], [call_id for call_id in found[1] if call_id not in before]
            assert found == step(one, what, f"{stem}{name}", stem)
    finally:
        for name in range(4):
            for client in (clients[0], one):
                client.delete(f"/v1/calls/{stem}{name}")
