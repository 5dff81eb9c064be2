"""MP3 framing: frames, tags and the Info frame, read and written (ISO/IEC 11172-3 and 13818-3)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from typing_extensions import Buffer

class Frame(NamedTuple):
    """One MPEG audio frame, as its header tells it."""

    offset: int
    """Byte at which its header begins."""
    size_bytes: int
    """Header and padding included."""
    mpeg_version: Literal["1", "2", "2.5"]
    layer: Literal[3]
    bitrate_bps: int
    """Computed from the length in free format."""
    sample_rate: int
    channels: int
    mode: Literal["stereo", "joint stereo", "dual channel", "mono"]
    samples: int
    """Per channel: 1152 in MPEG-1, 576 otherwise."""
    padding: bool
    """One byte longer than the bit rate asks for."""
    crc: bool
    """A CRC follows the header."""

class Xing(NamedTuple):
    """What a Xing, Info or VBRI frame says; None where it says nothing."""

    kind: Literal["Xing", "Info", "VBRI"]
    """Info: the writer says the bit rate is constant."""
    mpeg_frames: int | None
    """This frame not counted."""
    total_bytes: int | None
    """From this frame's first byte on."""
    seek_table: tuple[int, ...] | None
    """100 entries: the 256th of the bytes at which each hundredth of the time begins."""
    quality: int | None
    encoder: str | None
    vbr_method: int | None
    """1 constant, 2 average, 3 to 5 variable bit rate."""
    lowpass_hz: int | None
    peak: float | None
    """1.0 is full scale, 0.0 when not measured."""
    radio_gain_db: float | None
    audiophile_gain_db: float | None
    bitrate_kbps: int | None
    """Of a constant, average or least bit rate; 255: that or more."""
    encoder_delay_samples: int | None
    padding_samples: int | None
    music_bytes: int | None
    music_crc: int | None
    music_crc_ok: bool | None
    """Only scan() knows; None also while the writer has not filled it in."""
    tag_crc: int | None
    tag_crc_ok: bool | None

class Info(NamedTuple):
    """What a whole MP3 file is."""

    mpeg_version: Literal["1", "2", "2.5"]
    sample_rate: int
    """Of the first frame with music, as are `channels` and `mode`."""
    channels: int
    mode: Literal["stereo", "joint stereo", "dual channel", "mono"]
    mpeg_frames: int
    """Whole frames with music; a Xing, Info or VBRI frame is none."""
    samples: int
    """Per channel, in those frames."""
    frames_pcm: int
    """PCM frames of the recording: `samples` without encoder delay and padding, where these are known."""
    duration_s: float
    """Of `frames_pcm`."""
    bitrate_min_bps: int
    bitrate_max_bps: int
    bitrate_avg_bps: int
    vbr: bool
    """Bit rates differ, or the Xing frame says so."""
    first_frame_offset: int
    """Byte of the first frame of any kind."""
    music_bytes: int
    music_crc: int
    """CRC-16 over all frames with music."""
    junk_bytes: int
    """In no frame and no tag; what is left of a frame cut short is not counted."""
    tags: tuple[str, ...]
    """Of "ID3v2", "ID3v1", "APE", "Lyrics3", in the order met."""
    id3: dict[str, str]
    """Text frames of the first ID3v2 tag under their ID3v2.3/2.4 names, "TXXX:description" among them; from
    ID3v1 what is missing there."""
    xing: Xing | None
    encoder_delay_samples: int | None
    padding_samples: int | None
    truncated: bool
    """A frame is cut short."""
    warnings: tuple[str, ...]
    """Sentences about everything in which the file contradicts itself."""

def crc16(data: Buffer, crc: int = 0) -> int:
    """CRC-16 as LAME uses it (polynomial 0x8005 reflected), continued from `crc`."""

def frames(data: Buffer, offset: int = 0) -> Iterator[Frame]:
    """Iterate over the MPEG layer III frames in `data` from `offset` on, tags and junk stepped over.

    The Xing or Info frame is one of them; a frame that the end of the data cuts short is not.
    """

def xing(frame: Buffer) -> Xing | None:
    """Read the Xing, Info or VBRI header of an MPEG frame; None when it holds none.

    `music_crc_ok` stays None: only scan() has seen the music.
    """

def header(
    sample_rate: int,
    channels: int,
    bitrate_kbps: int,
    *,
    mode: str | None = None,
) -> bytes:
    """Build a frame header of four bytes: no CRC, no padding, marked as an original.

    `mode` is "stereo", "joint stereo", "dual channel" or "mono"; by default mono or joint stereo, by
    `channels`. ValueError for what MPEG audio has no code for.
    """

def info_frame(
    header: Buffer,
    *,
    vbr: bool = False,
    mpeg_frames: int | None = None,
    total_bytes: int | None = None,
    seek_table: Sequence[int] | None = None,
    quality: int | None = None,
    encoder: str = "LAME3.100",
    vbr_method: int | None = None,
    lowpass_hz: int = 0,
    encoder_delay_samples: int = 0,
    padding_samples: int = 0,
    music_bytes: int | None = None,
    music_crc: int = 0,
) -> bytes:
    """Build the Info frame (Xing when `vbr`) that stands before the first frame of a stream.

    `header` is the header of any frame of the stream (four bytes, more are ignored). Counts and tables left
    None are absent, which is right for a file still growing. The length depends on `header` alone, so the
    frame can be reserved and written again later. This frame counts in `total_bytes`, not in `mpeg_frames`.
    """

def seek_table(frame_offsets: Iterable[int], total_bytes: int) -> list[int]:
    """The 100 entries of a Xing seek table: the 256th of the file where each hundredth of the time begins.

    `frame_offsets` are the bytes at which the frames with music begin, ascending, counted from the Xing
    frame's first byte, as are `total_bytes`. Exact to one frame up to 512 frames, beyond that to 1/256 of the
    frames.
    """

def id3(tags: Mapping[str, str], padding_bytes: int = 0, *, size_bytes: int | None = None) -> bytes:
    """Build an ID3v2.4 tag of UTF-8 text frames: `{"TIT2": …, "TXXX:description": …}`.

    `padding_bytes` of zeros follow the frames; or `size_bytes` fixes the whole length, so that values can be
    written again later. ValueError for a key that is no text frame's, for a NUL, and when it does not fit.
    """

class Scanner:
    """Reads an MP3 file in pieces of any size and in little memory: feed() it all, then finish().

    Belongs to one thread at a time.
    """

    def feed(self, chunk: Buffer) -> None:
        """Take the next bytes of the file, any number of them."""

    def finish(self) -> Info:
        """The file ends here: what it is. Raises Mp3Error when it holds no frame of MPEG audio layer III."""

    def seek_table(self, total_bytes: int, leading_bytes: int = 0) -> list[int]:
        """The 100 entries of a Xing seek table over the frames with music seen so far.

        `leading_bytes` are those of an Info frame before what was fed; `total_bytes` include them.
        """

def scan(data: Buffer) -> Info:
    """Say what a whole MP3 file is. Raises Mp3Error when it holds no MPEG audio layer III frame."""
