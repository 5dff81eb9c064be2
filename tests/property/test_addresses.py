"""The guard: whatever is written as the host of a URL, only what is open is connected to."""

import contextlib
import ipaddress
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from callreel import web
from callreel.addresses import (
    CALLBACKS,
    CLOSED_IPV4,
    CLOSED_IPV6,
    METADATA,
    PROMPTS,
    Policy,
    RefusedAddressError,
    admitted,
    look_up,
    read_url,
    refusal,
)
from callreel.errors import DeliveryError
from callreel.patience import Deadline

EDGES = sorted(
    {
        int(edge) & 0xFFFFFFFF
        for network, _ in CLOSED_IPV4
        for edge in (int(network[0]) - 1, network[0], network[-1], int(network[-1]) + 1)
    }
)
EDGES6 = sorted(
    {
        min(max(int(edge), 0), 2**128 - 1)
        for network, _ in CLOSED_IPV6
        for edge in (int(network[0]) - 1, network[0], network[-1], int(network[-1]) + 1)
    }
)
ipv4 = st.one_of(st.sampled_from(EDGES), st.integers(0, 2**32 - 1)).map(IPv4Address)
ipv6 = st.one_of(
    st.sampled_from(EDGES6),
    st.integers(0, 2**128 - 1),
    st.integers(2**125, 2**126 - 1),
).map(IPv6Address)


def limit():
    return Deadline("the test", 5.0)


def addresses_of(url, policy=PROMPTS, resolve=look_up):
    return admitted(read_url(url, policy), policy, limit(), resolve=resolve)


def parts(address):
    return list(address.packed)


NOTATIONS = {
    "decimal": str,
    "decimal with a full stop": lambda one: f"{one}.",
    "one number": lambda one: str(int(one)),
    "one hexadecimal number": lambda one: hex(int(one)),
    "one octal number": lambda one: f"0{int(one):o}",
    "hexadecimal": lambda one: ".".join(hex(byte) for byte in parts(one)),
    "octal": lambda one: ".".join(f"0{byte:o}" for byte in parts(one)),
    "padded": lambda one: ".".join(f"{byte:03}" for byte in parts(one)),
    "two parts": lambda one: f"{parts(one)[0]}.{int(one) & 0xFFFFFF}",
    "three parts": lambda one: ".".join(map(str, [*parts(one)[:2], int(one) & 0xFFFF])),
    "mixed": lambda one: ".".join([hex(parts(one)[0]), f"0{parts(one)[1]:o}", *map(str, parts(one)[2:])]),
    "overflowing": lambda one: str(int(one) + 2**32),
    "in full width": lambda one: str(one).translate({ord("0") + n: 0xFF10 + n for n in range(10)}),
    "with ideographic full stops": lambda one: str(one).replace(".", "。"),
    "percent-encoded": lambda one: "".join(f"%{ord(letter):02x}" for letter in str(one)),
    "mapped": lambda one: f"[::ffff:{one}]",
    "mapped in hexadecimal": lambda one: f"[{IPv6Address(0xFFFF00000000 + int(one))}]",
    "compatible": lambda one: f"[::{one}]",
    "translated": lambda one: f"[::ffff:0:{one}]",
    "NAT64": lambda one: f"[64:ff9b::{one}]",
    "local NAT64": lambda one: f"[64:ff9b:1::{one}]",
    "6to4": lambda one: f"[2002:{int(one) >> 16:x}:{int(one) & 0xFFFF:x}::1]",
    "Teredo": lambda one: f"[2001:0:0:0:0:0:{~int(one) >> 16 & 0xFFFF:x}:{~int(one) & 0xFFFF:x}]",
    "in brackets": lambda one: f"[{one}]",
}


def embedded(address):
    """The IPv4 address that a connection to an address would reach at last."""
    if address.version == 4:
        return address
    if address.ipv4_mapped:
        return address.ipv4_mapped
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in ip_network("64:ff9b::/96") else None


@given(ipv4, st.sampled_from(sorted(NOTATIONS)), st.sampled_from(["", "/", "/a?b", "?b", "#c"]))
@example(IPv4Address("127.0.0.1"), "one number", "")
@example(IPv4Address("169.254.169.254"), "NAT64", "/latest/meta-data")
def test_an_ipv4_address_in_any_notation_is_refused_or_is_that_address_and_open(address, notation, rest):
    url = f"http://{NOTATIONS[notation](address)}{rest}"
    try:
        found = addresses_of(url, resolve=no_name)
    except RefusedAddressError:
        return
    assert [embedded(one) for one in found] == [address]
    assert address.is_global
    assert refusal(address, PROMPTS) is None


def no_name(host, port):
    raise AssertionError(f"an address was looked up: {host}")


@given(ipv4)
def test_what_python_calls_not_global_is_closed(address):
    if not address.is_global or address.is_multicast or address.is_reserved:
        assert refusal(address, PROMPTS)


@given(ipv6)
def test_of_ipv6_only_what_is_global_and_unicast_is_open(address):
    if refusal(address, PROMPTS) is None and embedded(address) is None:
        assert address in ip_network("2000::/3")
        assert address.is_global
        assert not address.is_multicast
        assert address.sixtofour is None
        assert address.teredo is None


@given(ipv4)
def test_an_ipv4_address_within_an_ipv6_one_is_judged_as_what_it_is(address):
    word = refusal(address, PROMPTS)
    assert refusal(IPv6Address(f"::ffff:{address}"), PROMPTS) == word
    assert refusal(IPv6Address(f"64:ff9b::{address}"), PROMPTS) == word


@given(st.lists(st.one_of(ipv4, ipv6), min_size=1, max_size=6))
def test_of_a_names_addresses_only_open_ones_are_connected_to_whatever_else_it_has(found):
    texts = [str(one) for one in found]
    wanted = [one for one in found if refusal(one, CALLBACKS) is None]
    try:
        got = addresses_of("https://hooks.example/", CALLBACKS, lambda host, port: texts)
    except RefusedAddressError:
        assert wanted == []
        return
    assert wanted
    assert {refusal(one, CALLBACKS) for one in got} == {None}
    assert {int(embedded(one) or one) for one in got} <= {int(embedded(one) or one) for one in wanted}


@given(st.lists(st.lists(st.one_of(ipv4, ipv6), max_size=6), min_size=1, max_size=3))
def test_whatever_a_name_is_said_to_be_at_each_question_no_closed_address_is_connected_to(answers):
    """DNS that changes its mind: the connection goes to what was judged, not to what a second question would say."""
    asked, connected = [], []

    class Recorder(socket.socket):
        def connect(self, address):
            connected.append(ip_address(address[0]))
            raise ConnectionRefusedError

    def resolve(host, port):
        asked.append(host)
        return [str(one) for one in answers[(len(asked) - 1) % len(answers)]]

    for _ in answers:
        with patch.object(web.socket, "socket", Recorder), contextlib.suppress(DeliveryError):
            web.post("https://hooks.example/", b"{}", {}, CALLBACKS, resolve=resolve)
    assert len(asked) == len(answers)
    assert {refusal(one, CALLBACKS) for one in connected} <= {None}
    judged = [one for found in answers for one in found if refusal(one, CALLBACKS) is None]
    assert bool(connected) == bool(judged)


@given(st.text(max_size=40) | st.from_regex(r"https?://[\x21-\x7e]{0,40}", fullmatch=True))
def test_any_text_is_refused_or_is_a_host_a_port_and_a_target(text):
    for url in (text, f"https://{text}"):
        try:
            place = read_url(url, PROMPTS)
        except RefusedAddressError:
            continue
        assert place.port in PROMPTS.ports
        assert place.target.startswith("/")
        assert place.target.isascii()
        assert place.target.isprintable()
        assert not set(place.host) & set("/\\@?# %[]")
        assert read_url(f"{place.origin}{place.target}", PROMPTS) == place


def test_what_the_system_would_take_for_an_address_is_refused_before_it_is_asked():
    for host in ("127.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.0.0.1.", "0", "0x"):
        asked = patch.object(socket, "getaddrinfo", side_effect=AssertionError(host))
        with asked, pytest.raises(RefusedAddressError):
            addresses_of(f"http://{host}/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http:",
        "http://",
        "//example.org/",
        "/etc/passwd",
        "file:///etc/passwd",
        "gopher://example.org/",
        "ftp://example.org/",
        "javascript:alert(1)",
        "http:/example.org",
        "http:\\\\example.org",
        "http://example.org\\@10.0.0.1/",
        "http://user@example.org/",
        "http://user:hunter2@example.org/",
        "http://example.org:80:80/",
        "http://example.org:0/",
        "http://example.org:22/",
        "http://example.org:65616/",
        "http://example.org:/",
        "http://exa mple.org/",
        "http://example.org/\r\nHost: x",
        "http://example.org/\x00",
        "http://\texample.org/",
        " http://example.org/",
        "http://ex%61mple.org/",
        "http://exämple.org/",
        "http://example..org/",
        "http://.example.org/",
        "http://-example.org/",
        f"http://{'a' * 64}.org/",
        "http://[::1",
        "http://[fe80::1%25eth0]/",
        "http://[v1.x]/",
        "http://[]/",
        "http://1.2.3/",
        "http://1.2.3.4.5/",
        "http://1.2.3.256/",
        f"http://example.org/{'a' * 2048}",
    ],
)
def test_such_a_url_is_refused_and_not_repeated(url):
    with pytest.raises(RefusedAddressError) as caught:
        read_url(url, PROMPTS)
    assert not caught.value.retryable
    for piece in ("hunter2", "example", "passwd"):
        assert piece not in str(caught.value)


def test_scheme_and_port_are_those_of_the_policy():
    assert read_url("HTTPS://Example.ORG./a?b=c#d", CALLBACKS) == ("https", "example.org", 443, "/a?b=c")
    assert read_url("https://example.org?b=c", CALLBACKS).target == "/?b=c"
    assert read_url("https://example.org#d", CALLBACKS).target == "/"
    with pytest.raises(RefusedAddressError, match="must begin with https://"):
        read_url("http://example.org/", CALLBACKS)
    with pytest.raises(RefusedAddressError, match="port 8080"):
        read_url("https://example.org:8080/", CALLBACKS)


def test_an_ipv4_address_that_is_written_as_ipv6_is_connected_to_as_ipv4():
    assert addresses_of("http://[::ffff:8.8.8.8]/") == [ip_address("8.8.8.8")]


def test_the_operator_opens_networks_of_their_own_and_closes_others():
    policy = Policy(
        allowed=[ip_network("10.1.0.0/16"), ip_network("fd12::/16")], refused=[ip_network("10.1.2.0/24")]
    )
    assert refusal(ip_address("10.1.0.1"), policy) is None
    assert refusal(ip_address("::ffff:10.1.0.1"), policy) is None
    assert refusal(ip_address("fd12::1"), policy) is None
    assert refusal(ip_address("10.1.2.1"), policy) == "closed by the operator"
    assert refusal(ip_address("10.2.0.1"), policy) == "private"
    assert refusal(ip_address("fd13::1"), policy) == "private"


@pytest.mark.parametrize("network", METADATA, ids=str)
def test_a_metadata_service_stays_closed_whatever_is_opened(network):
    policy = Policy(allowed=[ip_network("0.0.0.0/0"), ip_network("::/0")])
    assert refusal(network[0], policy) == "a metadata service"
    if network.version == 4:
        assert refusal(ipaddress.IPv6Address(f"::ffff:{network[0]}"), policy) == "a metadata service"


def test_a_link_local_address_with_a_zone_stays_closed():
    assert refusal(ip_address("fe80::1%2"), Policy(allowed=[ip_network("fe80::/10")])) == "link-local"
