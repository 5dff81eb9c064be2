"""Legs over RTP as the HTTP APIs ask for them: their options, read and refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from callreel.errors import UsageError
from callreel.recorder import RecordedCall
from callreel.service.host import LegWish, MediaOpener
from callreel.service.rtp import Fork, RtpMedia, RtpPorts

__all__ = ["rtp_opener"]

OPTIONS: Final = frozenset({"expects", "ssrc", "rtcp_mux", "fork"})
FORK_OPTIONS: Final = frozenset({"own_port", "expects", "ssrc"})


def rtp_opener(ports: RtpPorts) -> MediaOpener:
    """What opens a leg on these ports.

    Options of a leg: "expects" ("address:port" of its packets; by default it is learnt), "ssrc", "rtcp_mux", and
    "fork", with the first two and "own_port", where the media server sends what the participant hears, too.
    """

    def opened(call: RecordedCall, wish: LegWish) -> RtpMedia:
        options = _known(wish.options, OPTIONS, "rtp")
        fork = None
        if (given := options.get("fork")) is not None:
            if not isinstance(given, Mapping):
                raise UsageError("fork is an object")
            fork_options = _known(given, FORK_OPTIONS, "fork")
            fork = Fork(
                own_port=_flag(fork_options, "own_port", default=True),
                expects=_address(fork_options),
                ssrc=_ssrc(fork_options),
            )
        return ports.open(
            call,
            wish.name,
            payload_types=wish.payload_types,
            expects=_address(options),
            ssrc=_ssrc(options),
            fork=fork,
            rtcp_mux=_flag(options, "rtcp_mux", default=False),
        )

    return opened


def _known(options: Mapping[str, Any], names: frozenset[str], what: str) -> Mapping[str, Any]:
    unknown = sorted(set(options) - names)
    if unknown:
        raise UsageError(f"{what} has no option {unknown[0]!r}: one of {', '.join(sorted(names))} is")
    return options


def _flag(options: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = options.get(name, default)
    if not isinstance(value, bool):
        raise UsageError(f"{name} is true or false")
    return value


def _ssrc(options: Mapping[str, Any]) -> int | None:
    value = options.get("ssrc")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 32:
        raise UsageError("ssrc is a whole number below 4294967296")
    return value


def _address(options: Mapping[str, Any]) -> tuple[str, int] | None:
    text = options.get("expects")
    if text is None:
        return None
    host, _, port = str(text).rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise UsageError("expects is an address and a port, such as 192.0.2.7:4000 or [2001:db8::7]:4000")
    return host.strip("[]"), int(port)
