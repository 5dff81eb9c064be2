"""Requests to customers' URLs, over real sockets: where they go, how long they take, what they give up."""

import contextlib
import ipaddress
import logging
import socket
import struct
import sys
import time
from datetime import UTC, datetime

import pytest

from callreel import web
from callreel.addresses import Policy, RefusedAddressError
from callreel.errors import (
    DeliveryDeniedError,
    DeliveryError,
    DeliveryInterruptedError,
    DeliveryThrottledError,
    DestinationMissingError,
)
from callreel.patience import TooSlowError
from http_server import authority, plain, serving

LOOPBACK = (ipaddress.ip_network("127.0.0.1/32"), ipaddress.ip_network("::1/128"))


def open_to(*servers, **others):
    """A policy that opens loopback at the ports of servers."""
    given = {"schemes": ("http", "https"), "ports": {one.port for one in servers}, "allowed": LOOPBACK}
    return Policy(**{**given, "total_s": 5.0, "max_redirects": 3, **others})


def url_of(server, path="/", scheme="http", host="127.0.0.1"):
    return f"{scheme}://{host}:{server.port}{path}"


@contextlib.contextmanager
def seconds(at_most):
    began = time.monotonic()
    yield
    assert time.monotonic() - began < at_most


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    pytest.importorskip("cryptography")
    return authority(tmp_path_factory.mktemp("certificates"))


# ---- where it goes -------------------------------------------------------------------------------


def test_what_is_at_a_url_is_fetched():
    with serving(plain(body=b"RIFF", Content_Type="audio/wav; x=y")) as server:
        got = web.fetch(url_of(server, "/a%20b?c=d#e"), open_to(server), accept="audio/*")
    assert (got.status, got.body, got.media_type) == (200, b"RIFF", "audio/wav")
    (request,) = server.requests
    assert (request.method, request.target) == ("GET", "/a%20b?c=d")
    assert request.headers == {
        "host": f"127.0.0.1:{server.port}",
        "user-agent": "callreel",
        "accept": "audio/*",
        "accept-encoding": "identity",
        "connection": "close",
    }


def test_an_ipv6_server_is_reached_by_its_address_in_brackets():
    try:
        with serving(plain(body=b"6"), host="::1") as server:
            assert web.fetch(url_of(server, host="[::1]"), open_to(server)).body == b"6"
            assert server.requests[0].headers["host"] == f"[::1]:{server.port}"
    except OSError:
        pytest.skip("this machine has no IPv6")


def test_loopback_is_refused_unless_the_operator_opens_it():
    with serving(plain()) as server:
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[64:ff9b::127.0.0.1]"):
            with pytest.raises(RefusedAddressError, match="loopback"):
                web.fetch(url_of(server, host=host), open_to(server, allowed=()))
            with pytest.raises(RefusedAddressError, match="loopback"):
                web.post(url_of(server, host=host), b"{}", {}, open_to(server, allowed=()))
    assert server.connections == 0


def test_a_name_is_looked_up_once_and_the_connection_goes_to_the_address_that_was_judged():
    asked = []

    def rebinding(host, port):
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    with serving(plain(body=b"judged")) as server:
        got = web.fetch(url_of(server, host="rebinding.example"), open_to(server), resolve=rebinding)
    assert got.body == b"judged"
    assert asked == ["rebinding.example"]
    assert server.requests[0].headers["host"] == f"rebinding.example:{server.port}"


def test_a_name_that_also_leads_inside_leads_only_outside():
    with serving(plain(body=b"outside")) as server:
        inside_first = ["169.254.169.254", "10.0.0.1", "127.0.0.1"]
        got = web.fetch(url_of(server, host="a.example"), open_to(server), resolve=lambda *_: inside_first)
        assert got.body == b"outside"
        with pytest.raises(RefusedAddressError, match="a metadata service"):
            web.fetch(url_of(server, host="a.example"), open_to(server), resolve=lambda *_: inside_first[:2])


def test_when_one_address_does_not_listen_the_next_is_tried():
    with serving(plain(body=b"second")) as server:
        policy = open_to(server, allowed=(ipaddress.ip_network("127.0.0.0/8"),))
        got = web.fetch(
            url_of(server, host="a.example"), policy, resolve=lambda *_: ["127.0.0.9", "127.0.0.1"]
        )
    assert got.body == b"second"


@pytest.mark.skipif(sys.platform != "linux", reason="how a backlog fills, and 127.0.0.2, are Linux's")
def test_an_address_that_does_not_answer_leaves_time_for_the_next():
    with (
        serving(plain(body=b"second")) as server,
        socket.create_server(("127.0.0.2", server.port), backlog=0) as full,
        contextlib.ExitStack() as waiting,
    ):
        for _ in range(
            4
        ):  # nobody accepts: when its backlog is full, a connection is neither made nor refused
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        policy = open_to(server, allowed=(ipaddress.ip_network("127.0.0.0/8"),), total_s=2.0)
        with seconds(3.0):
            got = web.fetch(
                url_of(server, host="a.example"), policy, resolve=lambda *_: ["127.0.0.2", "127.0.0.1"]
            )
    assert got.body == b"second"


@pytest.mark.parametrize(
    ("found", "error", "retryable"),
    [
        (socket.gaierror(socket.EAI_NONAME, "x"), DestinationMissingError, True),
        (socket.gaierror(socket.EAI_AGAIN, "x"), DeliveryInterruptedError, True),
        (UnicodeError("x"), DestinationMissingError, True),
        ([], DestinationMissingError, True),
    ],
)
def test_a_name_that_cannot_be_looked_up_is_one_that_there_is_not_or_not_now(found, error, retryable):
    def resolve(host, port):
        if isinstance(found, Exception):
            raise found
        return found

    with pytest.raises(error) as caught:
        web.fetch("https://a.example/", Policy(), resolve=resolve)
    assert caught.value.retryable is retryable


def test_a_name_that_takes_too_long_to_look_up_costs_no_more_than_the_limit():
    with seconds(2.0), pytest.raises(TooSlowError):
        web.fetch("https://a.example/", Policy(total_s=0.2), resolve=lambda *_: time.sleep(4))


def test_no_proxy_of_the_environment_is_used(monkeypatch):
    with serving(plain(418)) as proxy, serving(plain(body=b"direct")) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, url_of(proxy))
        assert web.fetch(url_of(server), open_to(server, proxy)).body == b"direct"
    assert proxy.connections == 0


# ---- redirects -----------------------------------------------------------------------------------


def test_a_redirect_is_followed_to_where_it_may_lead():
    def answer(request):
        if request.target == "/moved":
            return plain(302, Location="here/now?x#y")
        return plain(body=request.target.encode())

    with serving(answer) as server:
        assert web.fetch(url_of(server, "/moved"), open_to(server)).body == b"/here/now?x"


@pytest.mark.parametrize(
    "location",
    [
        "http://10.0.0.1:{port}/",
        "http://[::ffff:169.254.169.254]:{port}/",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "http://user:hunter2@127.0.0.1:{port}/",
        "http://127.0.0.1:22/",
        "//[",
        "http://2130706433:{port}/",
        "http://\xff/",
    ],
)
def test_a_redirect_to_the_inside_is_refused(location):
    with serving(lambda _: None) as inside:
        answer = plain(302, Location=location.format(port=inside.port))
        with serving(answer) as server, pytest.raises(RefusedAddressError) as caught:
            web.fetch(url_of(server), open_to(server, inside))
    assert inside.connections == 0
    assert "hunter2" not in str(caught.value)


def test_a_redirect_of_a_name_to_a_name_is_looked_up_and_judged_again():
    with serving(lambda _: plain(301, Location=f"http://inside.example:{server.port}/")) as server:

        def resolve(host, port):
            return ["127.0.0.1"] if host == "outside.example" else ["192.168.1.1"]

        with pytest.raises(RefusedAddressError, match="private"):
            web.fetch(url_of(server, host="outside.example"), open_to(server), resolve=resolve)
    assert server.connections == 1


def test_redirects_end():
    with (
        serving(plain(307, Location="/again")) as server,
        pytest.raises(DeliveryError, match="than 3 redirects"),
    ):
        web.fetch(url_of(server), open_to(server))
    assert len(server.requests) == 4


def test_redirects_take_their_time_from_one_limit():
    def answer(request):
        time.sleep(0.2)
        return plain(307, Location="/again")

    with serving(answer) as server, seconds(2.0), pytest.raises(TooSlowError):
        web.fetch(url_of(server), open_to(server, total_s=0.5, max_redirects=50))


def test_a_redirect_does_not_lead_from_https_to_http(ca):
    refused = pytest.raises(RefusedAddressError, match="nothing is encrypted")
    with serving(plain()) as server:
        answer = plain(302, Location=url_of(server))
        with serving(answer, tls=ca.certify("127.0.0.1")) as secure, refused:
            web.fetch(url_of(secure, scheme="https"), open_to(server, secure, ca_file=ca.file))
    assert server.connections == 0


def test_a_post_follows_no_redirect():
    missing = pytest.raises(DestinationMissingError, match=r"redirects.*307")
    with serving(plain(307, Location="/elsewhere")) as server, missing:
        web.post(url_of(server), b"{}", {"Authorization": "Bearer hunter2"}, open_to(server))
    assert [one.target for one in server.requests] == ["/"]


# ---- size and time -------------------------------------------------------------------------------


def test_a_body_that_says_it_is_too_long_is_not_read():
    refused = pytest.raises(DeliveryError, match="more than 1000000 bytes")
    with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 1000001\r\n\r\n") as server, refused as caught:
        web.fetch(url_of(server), open_to(server, max_bytes=1_000_000))
    assert not caught.value.retryable


def endless(connection, piece):
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(piece)


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 1000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3e8\r\n" + b"x" * 1000 + b"\r\n"),
    ],
    ids=["until it closes", "in chunks"],
)
def test_a_body_without_end_is_given_up_at_the_limit(head, piece):
    def answer(request, connection):
        connection.sendall(head)
        endless(connection, piece)

    with serving(answer) as server, seconds(3), pytest.raises(DeliveryError, match="more than 1000000 bytes"):
        web.fetch(url_of(server), open_to(server, max_bytes=1_000_000))


@pytest.mark.parametrize(
    "piece",
    [b"X-Header: value\r\n", b"x" * 1000],
    ids=["headers", "one line"],
)
@pytest.mark.parametrize("head", [b"HTTP/1.1 100 Continue\r\n", b"HTTP/1.1 200 OK\r\n", b""])
def test_a_head_without_end_is_given_up(head, piece):
    def answer(request, connection):
        connection.sendall(head)
        endless(connection, piece)

    with serving(answer) as server, seconds(3), pytest.raises(DeliveryInterruptedError, match="in HTTP"):
        web.fetch(url_of(server), open_to(server))


def test_interim_answers_without_end_are_given_up():
    def answer(request, connection):
        endless(connection, b"HTTP/1.1 100 Continue\r\n\r\n")

    with serving(answer) as server, seconds(3), pytest.raises(DeliveryInterruptedError, match="in HTTP"):
        web.fetch(url_of(server), open_to(server))


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nX-Slow: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Trailer: ",
    ],
    ids=["status line", "header", "body", "trailer"],
)
def test_a_server_that_drips_costs_no_more_than_the_limit(head):
    def answer(request, connection):
        connection.sendall(head)
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b"H")
                time.sleep(0.05)

    with serving(answer) as server, seconds(2.0), pytest.raises(TooSlowError) as caught:
        web.fetch(url_of(server), open_to(server, total_s=0.4))
    assert caught.value.retryable


def test_a_server_that_never_answers_costs_no_more_than_the_limit():
    with (
        serving(lambda request, connection: time.sleep(4)) as server,
        seconds(1.0),
        pytest.raises(TooSlowError),
    ):
        web.post(url_of(server), b"{}", {}, open_to(server, total_s=0.3))


def test_a_server_that_does_not_read_costs_no_more_than_the_limit():
    with socket.create_server(("127.0.0.1", 0)) as listener:  # nobody accepts
        port = listener.getsockname()[1]
        policy = Policy(schemes=("http",), ports=(port,), allowed=LOOPBACK, total_s=0.3)
        with seconds(2.0), pytest.raises(TooSlowError):
            web.post(f"http://127.0.0.1:{port}/", b"x" * 50_000_000, {}, policy)


def test_a_server_that_begins_no_tls_costs_no_more_than_the_limit():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        policy = Policy(ports=(port,), allowed=LOOPBACK, total_s=0.3)
        with seconds(2.0), pytest.raises(TooSlowError):
            web.post(f"https://127.0.0.1:{port}/", b"{}", {}, policy)


def test_of_a_notifications_answer_the_body_is_not_waited_for():
    def answer(request, connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        time.sleep(4)

    with serving(answer) as server, seconds(2.0):
        assert web.post(url_of(server), b"{}", {}, open_to(server)).status == 200


# ---- what breaks ---------------------------------------------------------------------------------


def reset(connection):
    """Break a connection off so that the other end sees a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 2",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n12345",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
    ],
)
@pytest.mark.parametrize("how", [reset, socket.socket.close])
def test_an_answer_that_breaks_off_is_no_answer(sent, how):
    def answer(request, connection):
        connection.sendall(sent)
        time.sleep(0.05)
        connection.shutdown(socket.SHUT_WR) if how is not reset else how(connection)

    with serving(answer) as server, pytest.raises(DeliveryInterruptedError) as caught:
        web.fetch(url_of(server), open_to(server))
    assert caught.value.retryable


def test_over_tls_an_answer_whose_end_was_not_said_is_no_answer(ca):
    def answer(request, connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nhalf of it")
        socket.socket.shutdown(connection, socket.SHUT_WR)  # without close_notify

    with serving(answer, tls=ca.certify("127.0.0.1")) as server, pytest.raises(DeliveryInterruptedError):
        web.fetch(url_of(server, scheme="https"), open_to(server, ca_file=ca.file))


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhunter2\r\n",
        b"\x16\x03\x01\x00\xff",
    ],
)
def test_what_is_no_http_is_no_answer_and_is_not_repeated(sent):
    with serving(sent) as server, pytest.raises(DeliveryInterruptedError) as caught:
        web.fetch(url_of(server), open_to(server))
    assert "SSH" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_nobody_listens_there():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(DeliveryInterruptedError, match="refused") as caught:
        web.fetch(f"http://127.0.0.1:{port}/", Policy(schemes=("http",), ports=(port,), allowed=LOOPBACK))
    assert caught.value.retryable


def test_what_comes_compressed_is_refused():
    refused = pytest.raises(DeliveryError, match="compressed")
    with serving(plain(body=b"\x1f\x8b", Content_Encoding="gzip")) as server, refused:
        web.fetch(url_of(server), open_to(server))


@pytest.mark.parametrize(
    ("status", "headers", "error", "retryable", "after_s"),
    [
        (429, {"Retry_After": "7"}, DeliveryThrottledError, True, 7.0),
        (429, {}, DeliveryThrottledError, True, None),
        (503, {"Retry_After": "120"}, DeliveryThrottledError, True, 120.0),
        (503, {}, DeliveryInterruptedError, True, None),
        (500, {}, DeliveryInterruptedError, True, None),
        (401, {}, DeliveryDeniedError, True, None),
        (403, {}, DeliveryDeniedError, True, None),
        (404, {}, DestinationMissingError, True, None),
        (410, {"Retry_After": "1"}, DestinationMissingError, False, None),
        (400, {}, DeliveryError, False, None),
        (422, {}, DeliveryError, False, None),
        (304, {}, DestinationMissingError, True, None),
    ],
)
def test_a_status_says_who_must_act_and_whether_to_try_again(status, headers, error, retryable, after_s):
    with serving(plain(status, b"it was hunter2", **headers)) as server, pytest.raises(error) as caught:
        web.post(url_of(server), b"{}", {}, open_to(server), wants_body=True)
    assert type(caught.value) is error
    assert (caught.value.retryable, caught.value.retry_after_s) == (retryable, after_s)
    assert str(status) in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("0", 0.0),
        (" 30 ", 30.0),
        ("-1", None),
        ("1e9", None),
        ("999999999", 86_400.0),
        ("soon", None),
        ("Wed, 01 May 2024 12:00:30 GMT", 30.0),
        ("Wed, 01 May 2024 12:00:30 -0000", 30.0),
        ("Wed, 01 May 2024 11:00:00 GMT", 0.0),
        ("Wed, 01 May 2034 11:00:00 GMT", 86_400.0),
        ("Wed, 99 May 2024 11:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_moment_and_at_most_a_day(text, expected):
    now = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)
    assert web.retry_after_s({"retry-after": text}, now=now) == expected


# ---- TLS -----------------------------------------------------------------------------------------


def test_the_name_stands_in_sni_host_and_certificate_check_while_the_address_is_the_judged_one(ca):
    with serving(plain(204), tls=ca.certify("hooks.example")) as server:
        policy = open_to(server, ca_file=ca.file)
        url = url_of(server, "/a", "https", "hooks.example")
        assert web.post(url, b"{}", {}, policy, resolve=lambda *_: ["127.0.0.1"]).status == 204
    (request,) = server.requests
    assert request.server_name == "hooks.example"
    assert request.headers["host"] == f"hooks.example:{server.port}"


def test_a_certificate_for_an_address_is_checked_against_the_address(ca):
    with serving(plain(), tls=ca.certify("127.0.0.1")) as server:
        assert (
            web.post(url_of(server, scheme="https"), b"{}", {}, open_to(server, ca_file=ca.file)).status
            == 200
        )


@pytest.mark.parametrize("wrong", ["another name", "expired", "nobody's"])
def test_a_certificate_that_is_not_to_be_trusted_gets_no_request(ca, wrong):
    tls = ca.certify("other.example" if wrong == "another name" else "127.0.0.1", expired=wrong == "expired")
    with serving(plain(), tls=tls) as server:
        policy = open_to(server, ca_file=None if wrong == "nobody's" else ca.file)
        with pytest.raises(DeliveryDeniedError, match="not to be trusted") as caught:
            web.post(url_of(server, scheme="https"), b"{}", {"Authorization": "Bearer hunter2"}, policy)
    assert caught.value.retryable
    assert server.requests == []


def test_what_speaks_no_tls_is_no_https():
    with serving(b"HTTP/1.1 200 OK\r\n\r\n") as server, pytest.raises(DeliveryInterruptedError):
        web.post(url_of(server, scheme="https"), b"{}", {}, open_to(server))


# ---- secrets -------------------------------------------------------------------------------------


def test_path_query_headers_and_bodies_are_in_no_log_and_no_repr(caplog, capfd):
    caplog.set_level(logging.DEBUG)
    with serving(plain(body=b"hunter2", X_Token="hunter2")) as server:
        got = web.post(
            url_of(server, "/hunter2?token=hunter2"),
            b"hunter2",
            {"Authorization": "Bearer hunter2"},
            open_to(server),
            wants_body=True,
        )
    assert "hunter2" not in repr(got) + caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize("value", ["a\r\nX-Other: b", "a\nb", "ä", "a\x00"])
def test_a_header_that_would_be_two_is_not_sent_and_not_repeated(value):
    with serving(plain()) as server, pytest.raises(DeliveryDeniedError) as caught:
        web.post(url_of(server), b"{}", {"Authorization": value}, open_to(server))
    assert value not in str(caught.value)
    assert server.connections == 0 or server.requests == []
