"""Where a URL of a customer's may lead: the guard against requests to the inside (SSRF).

Prompts and callbacks are fetched from and sent to URLs that customers write. Whoever writes one must not reach what
only this machine can reach: its own services, those of its network, the metadata service of its cloud. So

* a URL is read strictly: no user or password in it, no spaces, control characters or backslashes, a host that is a name
  in ASCII, an IPv4 address of four decimal numbers, or an IPv6 address in brackets; everything else that some resolver
  would take for an address (0x7f.1, 2130706433, 0177.0.0.1, 127.1) is refused unread;
* scheme and port are those of the policy;
* a name is looked up once, every address that comes of it is judged, and the connection is made to a judged address
  (`callreel.web`), so that it does not help to answer the next question differently (DNS rebinding);
* IPv4 addresses within IPv6 ones are judged as what they are: mapped (::ffff:0:0/96), NAT64 (64:ff9b::/96); ways into
  IPv4 that nobody needs are refused whole: compatible (::/96), translated (::ffff:0:0:0/96), 6to4, Teredo;
* of IPv6 only what is unicast and global (2000::/3) is open, of IPv4 all but the table below;
* the operator may open networks of their own; metadata services stay closed even then.

Sources: IANA's registries of IPv4 and IPv6 special-purpose addresses (RFC 6890 and what has been added to them), RFC
6052 and RFC 8215 for NAT64, the metadata addresses from the pages of each cloud. No error repeats more of a URL than
scheme, host and port: path and query may hold a token.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Final, NamedTuple

from callreel.errors import DeliveryDeniedError, DeliveryInterruptedError, DestinationMissingError
from callreel.patience import Deadline, within

__all__ = [
    "CALLBACKS",
    "PROMPTS",
    "Address",
    "Network",
    "Place",
    "Policy",
    "RefusedAddressError",
    "Resolver",
    "admitted",
    "look_up",
    "read_url",
    "refusal",
]

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolver = Callable[[str, int], Sequence[str]]
"""From a host's name and a port to the addresses it has, in the order in which to try them."""

MAX_URL_CHARACTERS: Final = 2048
MAX_ADDRESSES: Final = 8
"""Of one name."""

METADATA: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(one)
    for one in (
        "169.254.169.254",  # AWS, Azure, Google Cloud, Oracle, DigitalOcean, Hetzner, OpenStack
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google Cloud
        "169.254.170.2",  # AWS: credentials of ECS tasks
        "169.254.170.23",  # AWS: credentials of EKS pods
        "fd00:ec2::23",
        "168.63.129.16",  # Azure: the virtual machine's own host, an address that looks like any other
        "100.100.100.200",  # Alibaba Cloud
        "192.0.0.192",  # Oracle Cloud, the older generation
    )
)

CLOSED_IPV4: Final[tuple[tuple[IPv4Network, str], ...]] = tuple(
    (IPv4Network(network), word)
    for network, word in (
        ("0.0.0.0/8", "this host"),  # RFC 791
        ("10.0.0.0/8", "private"),  # RFC 1918
        ("100.64.0.0/10", "shared by a carrier's customers"),  # RFC 6598, CGNAT
        ("127.0.0.0/8", "loopback"),  # RFC 1122
        ("169.254.0.0/16", "link-local"),  # RFC 3927
        ("172.16.0.0/12", "private"),  # RFC 1918
        ("192.0.0.0/24", "reserved"),  # RFC 6890
        ("192.0.2.0/24", "documentation"),  # RFC 5737
        ("192.88.99.0/24", "6to4"),  # RFC 7526
        ("192.168.0.0/16", "private"),  # RFC 1918
        ("198.18.0.0/15", "benchmarking"),  # RFC 2544
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),  # RFC 5771
        ("240.0.0.0/4", "reserved"),  # RFC 1112; 255.255.255.255 is among them
    )
)

GLOBAL_IPV6: Final = IPv6Network("2000::/3")
CLOSED_IPV6: Final[tuple[tuple[IPv6Network, str], ...]] = tuple(
    (IPv6Network(network), word)
    for network, word in (
        ("2001::/23", "reserved"),  # RFC 2928: Teredo, benchmarking, ORCHID and more
        ("2001:db8::/32", "documentation"),  # RFC 3849
        ("2002::/16", "6to4"),  # RFC 3056
        ("3fff::/20", "documentation"),  # RFC 9637
        ("::1/128", "loopback"),
        ("fc00::/7", "private"),  # RFC 4193
        ("fe80::/10", "link-local"),  # RFC 4291
        ("fec0::/10", "private"),  # RFC 3879
        ("ff00::/8", "multicast"),  # RFC 4291
    )
)
MAPPED: Final = IPv6Network("::ffff:0:0/96")
NAT64: Final = IPv6Network("64:ff9b::/96")

DEFAULT_PORTS: Final = {"http": 80, "https": 443}

AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(?::([0-9]{1,5}))?")
LABEL = re.compile(r"[0-9A-Za-z_]([0-9A-Za-z_-]{0,61}[0-9A-Za-z_])?")
NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")


@dataclass(frozen=True, slots=True)
class Policy:
    """Where requests may go, and how much time and how many bytes they may take."""

    schemes: Collection[str] = ("https",)
    ports: Collection[int] = (443, 8443)
    allowed: Sequence[Network] = ()
    """Networks of the operator's own that are open although they are not public."""
    refused: Sequence[Network] = ()
    """Networks that are closed although they are public; this counts before `allowed`."""
    max_redirects: int = 0
    max_bytes: int = 256 * 1024
    """Of an answer's body."""
    total_s: float = 10.0
    """From looking up the name to the last byte, redirects included."""
    ca_file: Path | None = None
    """Whose certificates are trusted instead of the system's."""


CALLBACKS: Final = Policy()
"""For callbacks and notifications: HTTPS alone, no redirects."""

PROMPTS: Final = Policy(
    schemes=("http", "https"),
    ports=(80, 443, 8080, 8443),
    max_redirects=3,
    max_bytes=32 * 1024 * 1024,
    total_s=15.0,
)
"""For prompts: as Microsoft Graph takes them, 32 MiB hold 17 minutes at 16 kHz."""


class RefusedAddressError(DeliveryDeniedError):
    """The guard does not let a request go there."""


class Place(NamedTuple):
    """What a URL says."""

    scheme: str
    host: str
    """In lower case, an IPv6 address without brackets."""
    port: int
    target: str
    """Path and query as they are sent."""

    @property
    def origin(self) -> str:
        """Scheme, host and port: what may be told of a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]


def read_url(url: str, policy: Policy) -> Place:
    """Take a URL apart.

    Raises:
        RefusedAddressError: it is none, or not one the policy allows.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise RefusedAddressError(f"a URL has at most {MAX_URL_CHARACTERS} characters")
    if not all("!" <= one <= "~" for one in url) or "\\" in url:
        raise RefusedAddressError("a URL has neither spaces nor backslashes, and nothing but ASCII")
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in policy.schemes or scheme not in DEFAULT_PORTS:
        raise RefusedAddressError(f"the URL must begin with {' or '.join(sorted(policy.schemes))}://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    target = rest[len(authority) :].partition("#")[0]
    if "@" in authority:
        raise RefusedAddressError("a URL must not hold a user or a password")
    matched = AUTHORITY.fullmatch(authority)
    if matched is None:
        raise RefusedAddressError("the URL has no host that could be looked up")
    port = DEFAULT_PORTS[scheme] if matched[2] is None else int(matched[2])
    host = _host(matched[1].lower())
    if port not in policy.ports:
        raise RefusedAddressError(f"port {port} is not one that may be connected to")
    return Place(scheme, host, port, target if target.startswith("/") else f"/{target}")


def _host(written: str) -> str:
    if written.startswith("["):
        try:
            return str(IPv6Address(written[1:-1]))
        except ValueError:
            raise RefusedAddressError("the URL's host is no IPv6 address") from None
    name = written.removesuffix(".")
    labels = name.split(".")
    if NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(name))
        except ValueError:
            raise RefusedAddressError("an IPv4 address is four decimal numbers") from None
    if len(name) > 253 or not all(LABEL.fullmatch(label) for label in labels):
        raise RefusedAddressError("the URL's host is no name that could be looked up")
    return name


def refusal(address: Address, policy: Policy) -> str | None:
    """Say why an address is closed, in a word, or None when it is open."""
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return "link-local"
        if address in MAPPED or address in NAT64:
            return refusal(IPv4Address(int(address) & 0xFFFFFFFF), policy)
    if _within(address, METADATA):
        return "a metadata service"
    if _within(address, policy.refused):
        return "closed by the operator"
    if _within(address, policy.allowed):
        return None
    if isinstance(address, IPv4Address):
        return next((word for network, word in CLOSED_IPV4 if address in network), None)
    closed = next((word for network, word in CLOSED_IPV6 if address in network), None)
    return closed or (None if address in GLOBAL_IPV6 else "reserved")


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def look_up(host: str, port: int) -> Sequence[str]:
    """Ask the system for a host's addresses."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(one[4][0]) for one in found]


def admitted(
    place: Place, policy: Policy, deadline: Deadline, *, resolve: Resolver = look_up
) -> list[Address]:
    """The addresses of a place that may be connected to: at least one, in order.

    Raises:
        RefusedAddressError: none of its addresses is open.
        DestinationMissingError: there is no such host.
        DeliveryInterruptedError: the name could not be looked up now.
    """
    try:
        found = [ipaddress.ip_address(place.host)]
    except ValueError:
        found = _looked_up(place, deadline, resolve)
    words = [refusal(one, policy) for one in found]
    open_ones = [one for one, word in zip(found, words, strict=True) if word is None]
    if not open_ones:
        raise RefusedAddressError(f"{place.origin} is not to be connected to: its address is {words[0]}")
    return [_plain(one) for one in dict.fromkeys(open_ones)][:MAX_ADDRESSES]


def _looked_up(place: Place, deadline: Deadline, resolve: Resolver) -> list[Address]:
    try:
        texts = within(deadline, lambda: resolve(place.host, place.port), lane=place.host)
        found = [ipaddress.ip_address(text) for text in texts]
    except socket.gaierror as error:
        if error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None)):
            raise DestinationMissingError(f"{place.origin}: no such host", retryable=True) from None
        raise DeliveryInterruptedError(
            f"{place.origin}: the name cannot be looked up now", retryable=True
        ) from None
    except (UnicodeError, ValueError):
        raise DestinationMissingError(f"{place.origin}: no such host", retryable=True) from None
    if not found:
        raise DestinationMissingError(f"{place.origin}: the host has no address", retryable=True)
    return found


def _plain(address: Address) -> Address:
    """An IPv4 address that is written as an IPv6 one, as what it is."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
