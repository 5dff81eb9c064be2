"""How customers are told, as settings: for each vendor, and for terminal events, a function in AWS Lambda or a webhook.

Secrets are references (`callreel.notify.references`), asked for whenever something is told, so that they may change.
"""

from __future__ import annotations

import ipaddress
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from callreel.addresses import CALLBACKS, Policy, RefusedAddressError, read_url, refusal
from callreel.dialects.sinch_signing import CallbackSigner
from callreel.errors import UsageError
from callreel.notify import Notifier
from callreel.notify.lambdas import LambdaFunction
from callreel.notify.references import SecretSource
from callreel.notify.signatures import BearerToken, HmacSignature, Signer
from callreel.notify.webhooks import CONTENT_TYPE, Webhook

__all__ = ["Address", "Bearer", "Signed", "SinchSigned", "Ways"]

EVERYWHERE: Final = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


@dataclass(frozen=True, slots=True)
class Address:
    """An HTTPS address and how it is reached."""

    url: str | None = field(default=None, repr=False)
    """Where notifications are posted; its path and query may hold a token, so no repr shows it."""
    ca_file: Path | None = None
    """Whose certificates are trusted instead of the system's: a PEM file."""
    ports: tuple[int, ...] = tuple(CALLBACKS.ports)
    """Which ports of the address are allowed."""
    allowed_networks: tuple[str, ...] = ()
    """Private networks that may be reached all the same, such as "10.2.0.0/16"."""

    def webhook(self, signer: Signer | None) -> Webhook:
        """Make it; an address in numbers is judged now, a name whenever it is looked up.

        Raises:
            UsageError: there is no url, or `allowed_networks` has what is no network.
            RefusedAddressError: the address is not one that may be connected to.
        """
        if self.url is None:
            raise UsageError("needs a url")
        policy = Policy(ports=self.ports, allowed=_networks(self.allowed_networks), ca_file=self.ca_file)
        made = Webhook(self.url, signer=signer, policy=policy)
        _judge(self.url, policy)
        return made


class _Way(Address, ABC):
    """An address whose requests are signed."""

    __slots__ = ()

    def __post_init__(self) -> None:
        """Refuse what is no way."""
        self.notifier()

    def notifier(self) -> Notifier:
        """Make it; errors as those of a webhook, and a UsageError for what is missing or does not go together."""
        return self.webhook(self._signer())

    def check(self) -> None:
        """Ask for the secrets and sign something with them.

        Raises:
            CallreelError: one of them is not there, or is no such secret.
        """
        if self.url is not None:
            self._signer().headers(
                event_id="check",
                method="POST",
                path="/",
                content_type=CONTENT_TYPE,
                body=b"",
                at=datetime.now(UTC),
            )

    @abstractmethod
    def _signer(self) -> Signer: ...


@dataclass(frozen=True, slots=True)
class Signed(_Way):
    """A function in AWS Lambda, or a webhook with an HMAC signature: for Amazon Chime, and for terminal events."""

    function: str | None = None
    """The function's name or ARN; then there is no `url`."""
    qualifier: str | None = None
    """A version or an alias of the function."""
    region: str | None = None
    """Of the function; the default is that of the environment."""
    endpoint_url: str | None = None
    """Of AWS Lambda; the default is the region's own."""
    secret: SecretSource | None = field(default=None, repr=False)
    """That webhooks are signed with: "whsec_" and Base64 of 24 to 64 bytes."""
    second_secret: SecretSource | None = field(default=None, repr=False)
    """Signs too, while customers change from one to the other."""

    def notifier(self) -> Notifier:
        """Make it; errors as those of a webhook."""
        if (self.function is None) == (self.url is None):
            raise UsageError("needs either a function or a url")
        if self.url is not None:
            if self.qualifier or self.region or self.endpoint_url:
                raise UsageError("qualifier, region and endpoint_url go with a function, not with a url")
            return self.webhook(self._signer())
        if self.secret or self.second_secret:
            raise UsageError("secret and second_secret go with a url, not with a function")
        return LambdaFunction(
            str(self.function),
            region=self.region,
            qualifier=self.qualifier,
            endpoint_url=self.endpoint_url,
            ca_file=None if self.ca_file is None else str(self.ca_file),
        )

    def _signer(self) -> Signer:
        if self.secret is None:
            raise UsageError("needs a secret that its requests are signed with")
        return HmacSignature(self.secret, *([] if self.second_secret is None else [self.second_secret]))


@dataclass(frozen=True, slots=True)
class SinchSigned(_Way):
    """A webhook whose requests are signed as Sinch signs its callbacks."""

    application_key: str | None = None
    secret: SecretSource | None = field(default=None, repr=False)
    """The application's, as Sinch gives it: Base64."""

    def _signer(self) -> Signer:
        if self.application_key is None or self.secret is None:
            raise UsageError("needs application_key and secret")
        return CallbackSigner(self.application_key, self.secret)


@dataclass(frozen=True, slots=True)
class Bearer(_Way):
    """A webhook whose requests have a bearer token, as those of Microsoft Graph."""

    token: SecretSource | None = field(default=None, repr=False)

    def _signer(self) -> Signer:
        if self.token is None:
            raise UsageError("needs a token")
        return BearerToken(self.token)


@dataclass(frozen=True, slots=True)
class Ways:
    """Who is told how; who has no way is not told, and the host finds the message among its events."""

    chime: Signed | None = None
    """Customers of Amazon Chime SDK."""
    sinch: SinchSigned | None = None
    graph: Bearer | None = None
    """Customers of Microsoft Graph."""
    events: Signed | None = None
    """Whoever wants the terminal event of every recording."""

    def notifiers(self) -> Mapping[str, Notifier]:
        """The notifier of each dialect that has one, and that of "events"."""
        ways = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: way.notifier() for name, way in ways.items() if way is not None}


def _networks(texts: tuple[str, ...]) -> list[Any]:
    try:
        return [ipaddress.ip_network(text) for text in texts]
    except ValueError as error:
        raise UsageError(f"allowed_networks: {error}") from None


def _judge(url: str, policy: Policy) -> None:
    place = read_url(url, policy)
    try:
        address = ipaddress.ip_address(place.host)
    except ValueError:  # a name
        return
    if (word := refusal(address, policy)) is not None:
        can_open = refusal(address, replace(policy, allowed=EVERYWHERE)) is None
        hint = "; allowed_networks opens it" if can_open else ""
        raise RefusedAddressError(f"{place.origin} is not to be connected to: its address is {word}{hint}")
