"""Everything callreel raises, as one tree; whose fault it is decides the branch.

CallreelError
├── UsageError (RuntimeError)          the embedding program broke the contract: unknown leg, call over
├── ActionError (ValueError)           the vendor's request cannot be done                .field .value
│   ├── InvalidActionError                 malformed or out of range
│   ├── UnsupportedActionError             understood, not offered
│   └── ActionConflictError                not in this state: a second start on one leg
├── MediaError (ValueError)            bytes are not what they claim to be                .offset
│   ├── RtpError
│   ├── CaptureError
│   ├── SipError
│   ├── WavError
│   ├── Mp3Error
│   └── ManifestError
├── NoPortError (OSError)              no port is free for the media of another leg
├── SpoolFullError (OSError)           the disk has no room for another take
└── DeliveryError (OSError)            the destination refused or was lost  .key .retryable .retry_after_s
    ├── DeliveryDeniedError                credentials, policy or settings do not allow it
    ├── DestinationMissingError            there is no such bucket, folder or address
    ├── DeliveryThrottledError             it asks for patience
    ├── DeliveryInterruptedError           the connection, or the destination itself, was lost
    └── DeliveryConflictError              something else has that key

Each class also inherits the builtin a caller would expect, so `except ValueError` keeps working.
"""

from __future__ import annotations

__all__ = [
    "ActionConflictError",
    "ActionError",
    "CallreelError",
    "CaptureError",
    "DeliveryConflictError",
    "DeliveryDeniedError",
    "DeliveryError",
    "DeliveryInterruptedError",
    "DeliveryThrottledError",
    "DestinationMissingError",
    "InvalidActionError",
    "ManifestError",
    "MediaError",
    "Mp3Error",
    "NoPortError",
    "RtpError",
    "SipError",
    "SpoolFullError",
    "UnsupportedActionError",
    "UsageError",
    "WavError",
]


class CallreelError(Exception):
    """The root: everything callreel raises on purpose."""


class UsageError(CallreelError, RuntimeError):
    """The embedding program used an object in a way it documents as wrong."""


class ActionError(CallreelError, ValueError):
    """A vendor's request that cannot be carried out; `field` and `value` name what was wrong with it."""

    def __init__(self, message: str, *, field: str | None = None, value: object = None) -> None:
        """Keep the offending `field` and `value` beside the message."""
        super().__init__(message)
        self.field = field
        self.value = value


class InvalidActionError(ActionError):
    """The request is malformed, or a parameter is missing or out of range."""


class UnsupportedActionError(ActionError):
    """The request is understood, but this version does not offer it."""


class ActionConflictError(ActionError):
    """The request is fine, but not in this state."""


class MediaError(CallreelError, ValueError):
    """Bytes that are not what they claim to be; `offset` is where in them it shows, in bytes, or None."""

    def __init__(self, message: str, *, offset: int | None = None) -> None:
        """Compose the text from what is wrong and where."""
        super().__init__(message if offset is None else f"{message} (at byte {offset})")
        self.offset = offset


class RtpError(MediaError):
    """Not an RTP or RTCP packet. Only strict parsers raise it; streams count bad packets instead."""


class CaptureError(MediaError):
    """Not a packet capture, or one that cannot be read on."""


class SipError(MediaError):
    """Not a SIP message or not a session description. Call tables count bad messages instead."""


class WavError(MediaError):
    """Not a WAV file, or one whose chunks contradict themselves."""


class Mp3Error(MediaError):
    """Not an MP3 file: no frame of MPEG audio layer III in it."""


class ManifestError(MediaError):
    """Not the manifest of a recording, or one that contradicts itself; `problems` names everything found."""

    def __init__(self, *problems: str, offset: int | None = None) -> None:
        """Compose the text from the problems, of which there is at least one."""
        super().__init__("; ".join(problems), offset=offset)
        self.problems = problems if offset is None else (str(self),)


class NoPortError(CallreelError, OSError):
    """No port is free for the media of another leg: all are in use, or were a moment ago."""


class SpoolFullError(CallreelError, OSError):
    """So little is free where the spool lies that no new take is begun; those that run go on."""


class DeliveryError(CallreelError, OSError):
    """The destination refused a take or was lost; `retryable` says whether to try again."""

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        retryable: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        """Keep the object's `key`, whether another try can help, and how long the destination asks to wait."""
        super().__init__(message)
        self.key = key
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class DeliveryDeniedError(DeliveryError, PermissionError):
    """Credentials, a policy or a setting do not allow it: somebody has to change one of them."""


class DestinationMissingError(DeliveryError, FileNotFoundError):
    """There is no such bucket, folder or address: somebody has to make it."""


class DeliveryThrottledError(DeliveryError):
    """The destination is there and asks for patience."""


class DeliveryInterruptedError(DeliveryError, ConnectionError):
    """The connection or the destination was lost; nothing half-written remains, another try may go well."""


class DeliveryConflictError(DeliveryError, FileExistsError):
    """Something else has that key, and it is not to be overwritten."""
