"""WAV files: headers and trailers written, chunks walked, sample data made 16-bit PCM; no I/O.

A file is `header(...)`, whole frames of sample data, `trailer(...)`. The header keeps its length whatever
`frames` is, so a growing file stays valid by writing `patch(...)` over it from time to time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self, final

from typing_extensions import Buffer

INFO_MAX_BYTES: int
"""The largest LIST INFO chunk, and the longest coding history, that `header` writes: 64 KiB."""
METADATA_MAX_BYTES: int
"""The largest chunk body that `Parser` loads and `trailer` writes, 1 MiB; see `Info.skipped`."""
METADATA_TOTAL_BYTES: int
"""The most that `Parser` loads of all chunk bodies of one file: 8 MiB."""
CHUNKS_MAX: int
"""The most chunks that `Parser` walks in one file: 4,096."""
CUES_MAX: int
"""The most cues that `trailer` writes, what one loaded `cue ` chunk can hold: 43,690."""
CUES_READ_MAX: int
"""The most cues that `Parser` keeps of one file: 65,536."""
CUE_MAX_FRAMES: int
"""The highest frame and duration that `cue ` and `ltxt` can store: 2**32 - 1."""
INFO_IDS: dict[str, str]
"""Friendly names of INFO texts and their ids: title is INAM, comment ICMT, created ICRD, software ISFT, …"""

_Encoding = Literal["pcm16", "ulaw", "alaw"]

@dataclass(frozen=True, slots=True)
class Cue:
    """A mark in the audio: a digit, a pause."""

    frame: int
    """Where it is: frames since the first one of the file."""
    label: str = ""
    """What it is (`labl`)."""
    duration_frames: int = 0
    """How long it lasts (`ltxt`); 0 for a point."""
    note: str = ""
    """A remark beside the label (`note`)."""

@dataclass(frozen=True, slots=True)
class Bext:
    """The Broadcast Audio Extension of a file (EBU Tech 3285); all texts are ASCII."""

    description: str = ""
    """At most 256 characters."""
    originator: str = ""
    """Who made the file: at most 32 characters."""
    originator_reference: str = ""
    """The maker's own id for it: at most 32 characters."""
    origination_date: str = ""
    """Ten characters, yyyy-mm-dd, or none."""
    origination_time: str = ""
    """Eight characters, hh:mm:ss, or none."""
    time_reference: int = 0
    """When the first frame was: frames since midnight."""
    version: int = 1
    """As read; what `header` writes is always version 1, with an empty UMID."""
    coding_history: str = ""
    """One line for each coding process, each ended by CR LF."""

class Chunk(NamedTuple):
    """A chunk as found in a file."""

    id: str
    """Four characters; trailing spaces count."""
    offset: int
    """Where its id stands in the file, in bytes; its body begins 8 bytes later."""
    size: int
    """How many bytes its body has by its own account (or by ds64's), pad byte not counted."""

@dataclass(frozen=True, slots=True)
class Info:
    """What a WAV file holds and where, and every contradiction in it."""

    container: str
    """`RIFF`, `RIFX` (big-endian), `RF64` or `BW64`."""
    byte_order: Literal["little", "big"]
    """Of all numbers in the file, samples included."""
    format_tag: int
    """The encoding's registered number; with WAVE_FORMAT_EXTENSIBLE the one its sub-format stands for."""
    format: Literal["pcm", "float", "alaw", "ulaw", "gsm610", "mp3", "other"]
    """The name of `format_tag`."""
    extensible: bool
    """Whether the format chunk is a WAVE_FORMAT_EXTENSIBLE."""
    channels: int
    sample_rate: int
    """Frames per second."""
    bits_per_sample: int
    """As declared; 0 for compressed formats that do not say."""
    block_align: int
    """Bytes of one frame; of one block in compressed formats."""
    byte_rate: int
    """Bytes per second, as declared."""
    data_offset: int
    """Where the first sample is in the file, in bytes; the end of the file when it has no data chunk."""
    data_bytes: int
    """How many bytes of sample data are really there."""
    declared_data_bytes: int
    """How many bytes the data chunk (or ds64) says there are; 2**32 - 1 from writers that could not know."""
    frames: int
    """Frames that are there: data_bytes // block_align. Of compressed data what `fact` says, but no more than
    its blocks can hold where the format has blocks of known length; 0 with a warning when nothing says it."""
    fact_frames: int | None
    """What the fact chunk says (with RF64 ds64, where fact leaves it to that), or None."""
    info: dict[str, str]
    """INFO texts by id; the first one where an id comes twice."""
    cues: tuple[Cue, ...]
    """In the order of the file."""
    bext: Bext | None
    chunks: tuple[Chunk, ...]
    """Every chunk after the container's own head, in order, known or not."""
    skipped: tuple[Chunk, ...]
    """Chunks with metadata too large to load."""
    warnings: tuple[str, ...]
    """Each contradiction in words, at most 100 and one more that says so."""
    truncated: bool
    """Audio or a chunk is not as long as declared, was never declared, or is missing."""

    @property
    def duration_s(self) -> float:
        """Length of the audio in seconds."""

def header(
    *,
    sample_rate: int,
    channels: int,
    encoding: _Encoding = "pcm16",
    frames: int | None = None,
    info: Mapping[str, str] | None = None,
    bext: Bext | Mapping[str, object] | None = None,
    trailer_bytes: int = 0,
) -> bytes:
    """Everything of a WAV file before its first sample.

    `encoding` is 16-bit PCM, 8-bit µ-law (tag 7) or A-law (tag 6); more than two channels take
    WAVE_FORMAT_EXTENSIBLE with channel mask 0. `frames` None means not known yet and writes the sizes of an
    empty file: `Parser` then takes all that follows as audio. `info` maps INFO ids or names of `INFO_IDS` to
    texts. `trailer_bytes` is what follows the data: the length of `trailer(...)`; the pad byte after odd data
    is counted whether or not it is in there.

    The length depends on channels, encoding, info and bext alone. A file whose RIFF size would exceed
    4,294,967,294 becomes RF64 (EBU Tech 3306): JUNK turns into ds64 and the 32-bit sizes into 2**32 - 1.

    Raises:
        ValueError: a number out of range, a text too long or with a NUL, an id that is none.
        TypeError: an argument of the wrong type.

    """

def patch(header: Buffer, frames: int, trailer_bytes: int = 0) -> bytes:
    """`header` as it is once the file has grown, to be written over it: the same number of bytes.

    `header` is what the function of that name gave for this file; `frames` and `trailer_bytes` as there.

    Raises:
        ValueError: `header` is none of ours, or a number is out of range.
        TypeError: an argument of the wrong type.

    """

def trailer(*, cues: Iterable[Cue], data_bytes: int) -> bytes:
    """Everything of a WAV file after its last sample: the pad byte, cue points, their labels.

    The pad byte is there when `data_bytes`, the bytes of sample data, is odd. Cues whose frame or duration is
    above `CUE_MAX_FRAMES` (149 hours at 8,000 Hz) cannot be stored and are left out; without any cue only the
    pad remains.

    Raises:
        ValueError: more than `CUES_MAX` cues, labels of more than `METADATA_MAX_BYTES`, a NUL in a text,
            a negative position.
        TypeError: a cue with fields of the wrong type.

    """

@final
class Parser:
    """Walks a WAV file by asking for the bytes it needs, never for samples.

    For a file of any size: seek to `wanted`, read, `feed`, until `wanted` is None; then `info` is there. It
    loads chunk heads and small chunks only, at most `METADATA_TOTAL_BYTES` in all, and allocates by what it
    was fed, never by what the file declares. One parser belongs to one thread at a time.
    """

    def __new__(cls, file_bytes: int) -> Self:
        """Begin the walk of a file of `file_bytes` bytes."""

    @property
    def wanted(self) -> tuple[int, int] | None:
        """(offset, size) of the bytes to feed next, or None when the walk is over."""

    def feed(self, data: Buffer) -> None:
        """Take the wanted bytes; fewer of them mean that the file ends there.

        Raises:
            WavError: these bytes are no WAV file; the walk is over.
            ValueError: more bytes than wanted, or none are.

        """

    def close(self) -> None:
        """End the walk here, because the bytes wanted cannot be had; `info` then holds what is known.

        Raises:
            WavError: the format of the audio is not known yet.

        """

    @property
    def info(self) -> Info:
        """What the file holds; the walk must be over.

        Raises:
            WavError: what `feed` or `close` raised.
            ValueError: the walk is not over.

        """

def parse(data: Buffer, *, file_bytes: int | None = None) -> Info:
    """What a WAV file holds, from its bytes or from its beginning.

    `file_bytes` is the size of the whole file when `data` is only its beginning; chunks beyond `data` then
    stay unknown and a warning says so (`Parser` reads them). A file with a format but no data chunk gives an
    `Info` of 0 frames, truncated, with a warning.

    Raises:
        WavError: no RIFF/WAVE head, no usable fmt chunk (none, cut off, below 14 bytes; 0 channels, a sample
            rate or block size of 0) or none before the data.

    """

def to_pcm16(data: Buffer, info: Info) -> bytes:
    """Whole frames of a file's sample data as interleaved 16-bit PCM.

    For PCM of 8 to 32 bits, float of 32 and 64 bits, µ-law and A-law, both byte orders. Wider samples are
    rounded to the nearest value, float 1.0 is 32768; what does not fit saturates; NaN is 0.

    Raises:
        WavError: a format with no such conversion.
        ValueError: `data` is not a whole number of frames.

    """
