"""File formats: PCM in, writes out.

A format takes interleaved 16-bit PCM in pieces of any size and answers with writes. It opens no file: the
file is the writes, applied in the order given. After each `flush` it can be played, and the writes of
`finish` make its header say what it holds.

FORMATS, at the end, is the table of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from callreel.errors import UsageError
from callreel.kernels import mp3, wav

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["FORMATS", "TAGS", "Format", "Mark", "Mp3", "Tag", "Wav", "Write"]


class Write(NamedTuple):
    """Bytes, and where in the file they go."""

    offset: int
    data: bytes


_write = tuple.__new__
"""`_write(Write, (offset, data))` is `Write(offset, data)` in half the time; every recording has ten a second."""


class Mark(NamedTuple):
    """A moment of the recording that is worth finding again: a key, a pause."""

    frame: int
    """Where it begins: PCM frames since the first one."""
    duration_frames: int
    """How long it lasts; 0 for a point."""
    label: str


class Format(Protocol):
    """What every format offers: `start`, any number of `add` and `flush`, `finish`; once each, in this order.

    Calls out of order raise UsageError and change nothing.
    """

    media_type: ClassVar[str]
    extension: ClassVar[str]

    def __init__(self, *, sample_rate: int, channels: int, tags: Mapping[str, str] | None = None) -> None:
        """`tags`: at most MAX_TAGS texts by names of TAGS, or by others; made to fit, whatever is in them.

        Raises ValueError for a sample rate or a number of channels that the format does not have.
        """

    @property
    def frames(self) -> int:
        """PCM frames added so far."""
        ...

    @property
    def size_bytes(self) -> int:
        """Length of the file so far."""
        ...

    def start(self) -> list[Write]:
        """The file's beginning."""
        ...

    def add(self, pcm: Buffer) -> list[Write]:
        """Interleaved signed 16-bit frames, any number.

        Raises, with nothing added, ValueError when `pcm` is not a whole number of frames, and TypeError when
        its items are neither bytes nor 16-bit integers.
        """
        ...

    def flush(self) -> list[Write]:
        """Whatever makes the file say how much it holds so far."""
        ...

    def finish(self, *, marks: Sequence[Mark] = ()) -> list[Write]:
        """The file's end.

        Marks are cut to the recording, their number to MAX_MARKS; a format that has none ignores them.
        """
        ...


# ---- texts ----------------------------------------------------------------------------------------


class Tag(NamedTuple):
    """Under what names a text is stored."""

    wav_info: str
    id3_frame: str


TAGS: Mapping[str, Tag] = {
    "title": Tag("INAM", "TIT2"),
    "artist": Tag("IART", "TPE1"),
    "comment": Tag("ICMT", "TXXX:comment"),
    "date": Tag("ICRD", "TDRC"),
    "software": Tag("ISFT", "TSSE"),
}
"""Texts with names of their own in files; `date` is UTC as in ISO 8601.

A text of any other name goes into WAV's comment as `name=text`, into ID3 as TXXX:name.
"""

SOFTWARE = "callreel"

MAX_TAGS = 40
MAX_TAG_NAME_BYTES = 80
MAX_TAG_BYTES = 1_000
"""Of one text in UTF-8. Taken together, the most that there can be fits `wav.INFO_MAX_BYTES`."""
MAX_LABEL_BYTES = 60
"""Of a mark's label in UTF-8: MAX_MARKS of them fit `wav.METADATA_MAX_BYTES`."""

UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"
CUT_OFF = "\N{HORIZONTAL ELLIPSIS}"


def _fit(text: str, max_bytes: int) -> str:
    """Make `text` one that every file holds and every terminal can show, of at most `max_bytes` in UTF-8.

    Texts come from the wire (a SIP Call-ID is whatever the sender liked). What cannot be printed, such as
    control characters, changes of writing direction and halves of surrogate pairs, becomes U+FFFD; the end of
    a text that is too long becomes an ellipsis.
    """
    if len(text) <= max_bytes and text.isprintable() and (text.isascii() or len(text.encode()) <= max_bytes):
        return text
    shown = "".join(one if one.isprintable() else UNPRINTABLE for one in text[: max_bytes + 1])
    encoded = shown.encode()
    if len(encoded) <= max_bytes:
        return shown
    return encoded[: max_bytes - len(CUT_OFF.encode())].decode(errors="ignore") + CUT_OFF


def _fit_tags(tags: Mapping[str, str] | None) -> dict[str, str]:
    """The first MAX_TAGS of `tags`, names and texts made to fit; of names that became equal the first one."""
    fitting: dict[str, str] = {}
    for name, text in islice((tags or {}).items(), MAX_TAGS):
        fits = len(text) <= MAX_TAG_BYTES and text.isascii() and text.isprintable()  # as nearly always
        fitting.setdefault(_fit_name(name), text if fits else _fit(text, MAX_TAG_BYTES))
    return fitting


@lru_cache(64)
def _fit_name(name: str) -> str:
    """A tag's name made to fit; those of one program are few."""
    return _fit(name, MAX_TAG_NAME_BYTES) or UNPRINTABLE


# ---- what formats have in common ------------------------------------------------------------------


NOT_STARTED = "has not been started"


class _Stages:
    """Where a file stands between `start` and `finish`."""

    __slots__ = ("_obstacle",)

    def __init__(self) -> None:
        self._obstacle: str | None = NOT_STARTED
        """Why no audio can be added."""

    def _begin(self) -> None:
        if self._obstacle is not NOT_STARTED:
            raise UsageError("this file has been started")
        self._obstacle = None

    def _end(self) -> None:
        self._obstacle = "has been finished"

    def _check_running(self) -> None:
        if self._obstacle is not None:
            raise UsageError(f"this file {self._obstacle}")


def _frames_of(pcm: Buffer, frame_bytes: int) -> bytes:
    """The bytes of whole frames of 16-bit PCM, not copied when they are `bytes` already."""
    if type(pcm) is bytes:
        data = pcm
    else:
        view = memoryview(pcm)
        if view.format.lstrip("<=@") not in ("h", "B", "b", "c"):
            raise TypeError(f"need 16-bit PCM or bytes, not items '{view.format}'")
        data = bytes(view)
    if len(data) % frame_bytes:
        raise ValueError(f"{len(data)} bytes are not a whole number of frames of {frame_bytes}")
    return data


# ---- WAV ------------------------------------------------------------------------------------------

MAX_MARKS = 10_000
"""In one file: readers load all marks at once, and nobody looks for more keys than that."""


class Wav(_Stages):
    """WAV with 16-bit PCM; marks become cue points with labels; RF64 above 4 GiB."""

    media_type: ClassVar[str] = "audio/wav"
    extension: ClassVar[str] = "wav"

    __slots__ = (
        "_frame_bytes",
        "_header",
        "_previewed",
        "channels",
        "frames",
        "sample_rate",
        "size_bytes",
    )

    def __init__(self, *, sample_rate: int, channels: int, tags: Mapping[str, str] | None = None) -> None:
        """Choose the stream's parameters; ValueError for what WAV has no numbers for.

        `sample_rate`: Hz. `channels`: 1 for mono, 2 for stereo; more are channels without a place in a room.
        `tags`: texts by names of TAGS, or by other names.
        """
        super().__init__()
        self.sample_rate = sample_rate
        self.channels = channels
        self.frames = 0
        self.size_bytes = 0
        self._frame_bytes = 2 * channels
        self._previewed = 0
        self._header = wav.header(
            sample_rate=sample_rate, channels=channels, info=self._info_texts(_fit_tags(tags))
        )

    def start(self) -> list[Write]:
        """The header of an empty file."""
        self._begin()
        self.size_bytes = len(self._header)
        return [Write(0, self._header)]

    def add(self, pcm: Buffer) -> list[Write]:
        """The frames as they are; the header knows of them after the next `flush`."""
        if self._obstacle is not None:
            self._check_running()
        frame_bytes = self._frame_bytes
        # The usual case without a call.
        data = pcm if type(pcm) is bytes and not len(pcm) % frame_bytes else _frames_of(pcm, frame_bytes)
        if not data:
            return []
        size = len(data)
        write = _write(Write, (self.size_bytes, data))
        self.size_bytes += size
        self.frames += size // self._frame_bytes
        return [write]

    def preview(self, frame: int, pcm: Buffer) -> list[Write]:
        """Frames from number `frame` on as they are by now: they will be added in their turn, and may be others then.

        The header counts them after the next `flush`. What stands behind `size_bytes` at the end is to be cut off.
        """
        if self._obstacle is not None:
            self._check_running()
        frame_bytes = self._frame_bytes
        data = pcm if type(pcm) is bytes and not len(pcm) % frame_bytes else _frames_of(pcm, frame_bytes)
        end = frame + len(data) // frame_bytes
        if end > self._previewed:
            self._previewed = end
        return [_write(Write, (len(self._header) + frame * frame_bytes, data))]

    def flush(self) -> list[Write]:
        """The header's sizes, so that readers find every frame there is."""
        if self._obstacle is not None:
            self._check_running()
        frames = self.frames if self.frames > self._previewed else self._previewed
        return [_write(Write, (0, wav.patch(self._header, frames)))]

    def finish(self, *, marks: Sequence[Mark] = ()) -> list[Write]:
        """The marks behind the audio, and the header with the final sizes."""
        self._check_running()
        trailer = wav.trailer(
            cues=islice(_cues(marks, self.frames), MAX_MARKS), data_bytes=self.frames * self._frame_bytes
        )
        writes = [Write(self.size_bytes, trailer)] if trailer else []
        self._end()
        self.size_bytes += len(trailer)
        return [*writes, Write(0, wav.patch(self._header, self.frames, len(trailer)))]

    @staticmethod
    def _info_texts(tags: Mapping[str, str]) -> dict[str, str]:
        info = {TAGS["software"].wav_info: SOFTWARE}
        own = []
        for name, text in tags.items():
            if name in TAGS:
                info[TAGS[name].wav_info] = text
            else:
                own.append(f"{name}={text}")
        if own:
            comment = TAGS["comment"].wav_info
            info[comment] = "; ".join([info[comment], *own] if comment in info else own)
        return info


def _cues(marks: Iterable[Mark], frames: int) -> Iterator[wav.Cue]:
    """Cut marks to a recording of `frames`; those wholly outside are left out."""
    for mark in marks:
        begin = max(0, mark.frame)
        end = min(mark.frame + max(0, mark.duration_frames), frames)
        if mark.frame > frames or (mark.frame < 0 and end <= 0):
            continue
        yield wav.Cue(
            frame=begin,
            label=_fit(mark.label, MAX_LABEL_BYTES),
            duration_frames=min(end - begin, wav.CUE_MAX_FRAMES),
        )


# ---- MP3 ------------------------------------------------------------------------------------------

LAME_DELAY_SAMPLES = 576  # LAME 3.100, ENCDELAY: what it puts before the first sample, at every rate
# Silence put before the first sample besides: with the 529 samples of every decoder the music then begins
# with an MPEG frame (576 + 47 + 529 = 1152). FFmpeg returns too much when a recording begins and ends within
# one MPEG frame.
LEAD_SAMPLES = 47
ENCODER_DELAY_SAMPLES = LAME_DELAY_SAMPLES + LEAD_SAMPLES
LAME_NAME = "LAME3.100"  # what lameenc brings; players believe delay and padding under this name
MP3_BITS_PER_SAMPLE = 2  # default bit rate: 16 kbit/s for a voice at 8 kHz; LAME then cuts no treble
MPEG25_MAX_KBPS = 64  # LAME's most at 8 to 12 kHz; it silently takes this for more
ID3_SPARE_BYTES = 64  # for the tag's header, and for the duration, known only when the recording ends
ID3_ROUND_BYTES = 1024
ID3_FRAME_BYTES = 16  # at most, of a frame besides its name and text: header, encoding, ends of texts
# A TDRC frame ends at the seconds and is always UTC (ID3v2.4.0 structure, section 4).
ID3_MORE_THAN_SECONDS = re.compile(r"(?<=T\d\d:\d\d:\d\d)(\.\d+)?Z$")


class Mp3(_Stages):
    """MP3 at a constant bit rate, encoded by LAME, framed by us.

    The file begins with an ID3v2.4 tag and an Info frame, both reserved by `start` and written again by
    `finish` with duration, frame count, seek table, and how many samples LAME put before and behind: decoders
    that honour these give back exactly the frames added.
    """

    media_type: ClassVar[str] = "audio/mpeg"
    extension: ClassVar[str] = "mp3"

    def __init__(
        self,
        *,
        sample_rate: int,
        channels: int,
        bitrate_kbps: int | None = None,
        quality: int = 5,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Choose the stream's parameters; ValueError for what MPEG audio or LAME does not have.

        `sample_rate`: Hz, one of MPEG's nine; never resampled. `channels`: 1 or 2. `bitrate_kbps`: for all
        channels together; by default 16 per channel at 8 kHz and in proportion above. `quality`: LAME's,
        0 best to 9 fastest.
        `tags`: texts by names of TAGS, or by other names.
        """
        if not 0 <= quality <= 9:
            raise ValueError(f"quality={quality} is not within 0 and 9")
        if bitrate_kbps is None:
            bitrate_kbps = _default_kbps(sample_rate, channels)
        if sample_rate < 16000 and bitrate_kbps > MPEG25_MAX_KBPS:
            raise ValueError(f"{bitrate_kbps} kbit/s at {sample_rate} Hz: LAME goes up to {MPEG25_MAX_KBPS}")
        super().__init__()
        self.sample_rate = sample_rate
        self.channels = channels
        self.bitrate_kbps = bitrate_kbps
        self.quality = quality
        self.frames = 0
        self.size_bytes = 0
        self._header = _frame_header(sample_rate, channels, bitrate_kbps)
        self._tags = {TAGS["software"].id3_frame: f"{SOFTWARE}, {LAME_NAME}"}
        for name, text in _fit_tags(tags).items():
            if name == "date":
                text = ID3_MORE_THAN_SECONDS.sub("", text)
            self._tags[TAGS[name].id3_frame if name in TAGS else f"TXXX:{name}"] = text
        needed_bytes = ID3_SPARE_BYTES + ID3_FRAME_BYTES * len(self._tags)
        needed_bytes += len("".join([*self._tags, *self._tags.values()]).encode())
        self._id3_bytes = -(-needed_bytes // ID3_ROUND_BYTES) * ID3_ROUND_BYTES
        self._info_bytes = 0
        self._scanner = mp3.Scanner()  # sees what LAME gives: frame count, CRC, seek table
        self._encoder: Any = None

    def start(self) -> list[Write]:
        """Begin the file: the tag and an Info frame that counts no frames yet."""
        _lame()  # whoever lacks it is told now
        self._begin()
        info = _first_info_frame(self._header)
        self._info_bytes = len(info)
        return [self._append(mp3.id3(self._tags, size_bytes=self._id3_bytes) + info)]

    def add(self, pcm: Buffer) -> list[Write]:
        """Encode the frames; LAME keeps some for a while, so the list may be empty."""
        self._check_running()
        data = _frames_of(pcm, 2 * self.channels)
        encoded = bytes(self._opened_encoder().encode(data))
        self.frames += len(data) // (2 * self.channels)
        return self._music(encoded)

    def flush(self) -> list[Write]:
        """Nothing: MPEG frames speak for themselves, and the Info frame claims no length yet."""
        self._check_running()
        return []

    def finish(self, *, marks: Sequence[Mark] = ()) -> list[Write]:
        """End the file; its duration goes into the tag (TLEN, ms). MP3 has no place for marks.

        The last write is at offset 0 and makes the file complete.
        """
        self._check_running()
        duration_ms = (self.frames * 1000 + self.sample_rate // 2) // self.sample_rate
        tag = mp3.id3({**self._tags, "TLEN": str(duration_ms)}, size_bytes=self._id3_bytes)

        self._end()
        writes = self._music(bytes(self._opened_encoder().flush()))
        music = self._scanner.finish()
        padding_samples = music.samples - ENCODER_DELAY_SAMPLES - self.frames
        if music.junk_bytes or music.truncated or not 0 <= padding_samples < 1 << 12:
            raise RuntimeError(f"LAME gave {music.samples} samples for {self.frames}: {music.warnings}")
        total_bytes = self._info_bytes + music.music_bytes
        info = mp3.info_frame(
            # LAME chooses plain or joint stereo by the bit rate; the Info frame says which.
            mp3.header(self.sample_rate, self.channels, self.bitrate_kbps, mode=music.mode),
            mpeg_frames=music.mpeg_frames,
            # The field has 32 bits: a longer file goes without it.
            total_bytes=total_bytes if total_bytes < 1 << 32 else None,
            seek_table=self._scanner.seek_table(total_bytes, self._info_bytes),
            quality=100 - 10 * 4 - self.quality,  # LAME: 100 - 10 * VBR quality (4 when not used) - quality
            encoder=LAME_NAME,
            encoder_delay_samples=ENCODER_DELAY_SAMPLES,
            padding_samples=padding_samples,
            music_crc=music.music_crc,
        )
        return [*writes, Write(0, tag + info)]

    def _opened_encoder(self) -> Any:
        """The encoder, opened with the first audio: that takes it a third of a millisecond."""
        if self._encoder is not None:
            return self._encoder
        encoder = self._encoder = _lame().Encoder()
        encoder.silence()
        encoder.set_channels(self.channels)
        encoder.set_in_sample_rate(self.sample_rate)
        encoder.set_out_sample_rate(self.sample_rate)  # LAME would choose a lower one by the bit rate
        encoder.set_bit_rate(self.bitrate_kbps)
        encoder.set_quality(self.quality)
        encoder.encode(bytes(2 * self.channels * LEAD_SAMPLES))  # too little for LAME to give anything
        return encoder

    def _music(self, encoded: bytes) -> list[Write]:
        if not encoded:
            return []
        self._scanner.feed(encoded)
        return [self._append(encoded)]

    def _append(self, data: bytes) -> Write:
        write = Write(self.size_bytes, data)
        self.size_bytes += len(data)
        return write


@cache
def _lame() -> Any:
    import lameenc  # when first used: `import callreel` must not need it

    return lameenc


@cache
def _frame_header(sample_rate: int, channels: int, bitrate_kbps: int) -> bytes:
    return mp3.header(sample_rate, channels, bitrate_kbps)


@cache
def _first_info_frame(header: bytes) -> bytes:
    """The Info frame of a file that has no music yet."""
    return mp3.info_frame(
        header,
        # True now, too little soon. FFmpeg heeds the delay only beside a count, and takes a small one for
        # a file still growing. A count of frames, when wrong, would make others stop early.
        total_bytes=len(mp3.info_frame(header)),
        encoder=LAME_NAME,
        encoder_delay_samples=ENCODER_DELAY_SAMPLES,
    )


@cache
def _default_kbps(sample_rate: int, channels: int) -> int:
    """The lowest bit rate there is that gives MP3_BITS_PER_SAMPLE."""
    for kbps in (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192):
        if kbps * 1000 < sample_rate * channels * MP3_BITS_PER_SAMPLE:
            continue
        try:
            mp3.header(sample_rate, channels, kbps)
        except ValueError:
            continue
        return kbps
    raise ValueError(f"MP3 at {sample_rate} Hz with {channels} channels")


# ---- the table ------------------------------------------------------------------------------------

FORMATS: Mapping[str, type[Format]] = {"wav": Wav, "mp3": Mp3}
"""Each format under its file extension."""
