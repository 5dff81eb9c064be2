"""G.711 µ-law and A-law, both ways (ITU-T G.711, 11/88)."""

from typing import overload

from typing_extensions import Buffer

@overload
def ulaw_decode(data: Buffer, out: None = None) -> bytes: ...
@overload
def ulaw_decode(data: Buffer, out: Buffer) -> int:
    """Decode µ-law codes to 16-bit PCM: bytes, or with `out=` the number of samples written there."""

@overload
def alaw_decode(data: Buffer, out: None = None) -> bytes: ...
@overload
def alaw_decode(data: Buffer, out: Buffer) -> int:
    """Decode A-law codes to 16-bit PCM: bytes, or with `out=` the number of samples written there."""

@overload
def ulaw_encode(pcm: Buffer, out: None = None) -> bytes: ...
@overload
def ulaw_encode(pcm: Buffer, out: Buffer) -> int:
    """Encode 16-bit PCM to µ-law codes: bytes, or with `out=` the number of samples written there."""

@overload
def alaw_encode(pcm: Buffer, out: None = None) -> bytes: ...
@overload
def alaw_encode(pcm: Buffer, out: Buffer) -> int:
    """Encode 16-bit PCM to A-law codes: bytes, or with `out=` the number of samples written there."""
