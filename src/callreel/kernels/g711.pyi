"""G.711 µ-law and A-law, both ways (ITU-T G.711, 11/88).

Codes are bytes; PCM is signed 16-bit little-endian, in any contiguous bytes-like object: bytes of even
length, or int16 items. With `out=` a function fills that buffer, which may be larger than needed, and
returns the number of samples. Encoding may write exactly over its input; otherwise `out` must not overlap
it. Every function raises TypeError for items of another type, ValueError for half a sample or for an `out`
without room (nothing is written then), and what the object itself raises, BufferError or ValueError, for
memory that is not contiguous or, as `out`, not writable.
"""

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
