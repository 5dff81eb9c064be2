"""WAV and MP3 files on disk: told apart by content, their structure read, their audio given as 16-bit PCM.

Memory stays flat for a file of any size, whatever its headers declare. The structure is read by
`kernels.wav` and `kernels.mp3`; MP3 is decoded by miniaudio, without the samples that encoder and decoder put
around the recording.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self

from callreel.errors import MediaError, Mp3Error
from callreel.kernels import mp3, wav

if TYPE_CHECKING:
    from types import TracebackType

__all__ = [
    "AudioFile",
    "Mp3File",
    "NotDecodableError",
    "Progress",
    "WavFile",
    "is_wav",
    "open_audio",
    "open_regular",
    "sha256_of",
]

PIECE_BYTES = 1 << 18
"""Read at a time."""

SCAN_BYTES = 1 << 20
"""Read at a time where nothing is made of it but sums."""

LOOKAHEAD_BYTES = 18 << 10
"""How far behind an MPEG frame `kernels.mp3` looks before it calls it one: three of the longest frames."""

DECODER_DELAY_SAMPLES = 529
"""What every MP3 decoder adds in front (LAME 3.100, technical FAQ: 528 of its filter bank and one more)."""

DECODED_FRAMES = 8192
"""Asked of miniaudio at a time."""

ULAW_PEAK = 32_124
"""The greatest value that ITU-T G.711 µ-law decodes to."""

ALAW_PEAK = 32_256
"""The greatest value that ITU-T G.711 A-law decodes to."""

Progress = Callable[[float], None]
"""Told, now and then, which share of the work is done, 0 to 1."""


class NotDecodableError(MediaError):
    """A sound file, as far as its structure goes, whose audio cannot be turned into PCM; says why."""


class _OpenFile:
    """What both kinds have in common: a file that is open for reading."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self.size_bytes = size_bytes

    def sha256(self, progress: Progress | None = None) -> str:
        """The SHA-256 of the file, in hexadecimal digits."""
        return sha256_of(self._file, self.size_bytes, progress)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


class WavFile(_OpenFile):
    """A WAV file, open for reading."""

    format: Literal["wav"] = "wav"

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        """Read the structure; WavError when there is none."""
        super().__init__(file, size_bytes)
        parser = wav.Parser(size_bytes)
        while parser.wanted is not None:
            offset, size = parser.wanted
            file.seek(offset)
            parser.feed(file.read(size))
        self.info = parser.info

    @property
    def container(self) -> str:
        """RIFF, RIFX, RF64 or BW64."""
        return self.info.container

    @property
    def encoding(self) -> str:
        """How a sample is stored, in words."""
        bits = self.info.bits_per_sample
        return {
            "pcm": f"{bits}-bit PCM",
            "float": f"{bits}-bit float",
            "ulaw": "µ-law",
            "alaw": "A-law",
            "gsm610": "GSM 6.10",
            "mp3": "MPEG layer III",
        }.get(self.info.format, f"format tag {self.info.format_tag:#06x}")

    @property
    def bits_per_sample(self) -> int | None:
        """None where the encoding has no such number."""
        return self.info.bits_per_sample or None

    @property
    def sample_rate(self) -> int:
        """Frames per second."""
        return self.info.sample_rate

    @property
    def channels(self) -> int:
        """Samples per frame."""
        return self.info.channels

    @property
    def frames(self) -> int:
        """Frames there are."""
        return self.info.frames

    @property
    def extremes(self) -> tuple[int, int]:
        """The least and the greatest sample that this encoding becomes as 16-bit PCM."""
        match self.info.format, self.info.bits_per_sample:
            case "ulaw", _:
                return -ULAW_PEAK, ULAW_PEAK
            case "alaw", _:
                return -ALAW_PEAK, ALAW_PEAK
            case "pcm", bits if 0 < bits < 16:
                return -32768, 32768 - (1 << 16 - bits)
            case _:
                return -32768, 32767

    def pcm(self) -> Iterator[bytes]:
        """Whole frames as interleaved 16-bit PCM, in pieces; NotDecodableError where that is not possible."""
        info = self.info
        try:
            wav.to_pcm16(b"", info)
        except MediaError as error:
            raise NotDecodableError(str(error)) from error
        step_bytes = max(1, PIECE_BYTES // info.block_align) * info.block_align
        left_bytes = info.frames * info.block_align
        self._file.seek(info.data_offset)
        while left_bytes and (piece := self._file.read(min(step_bytes, left_bytes))):
            left_bytes -= len(piece)
            yield wav.to_pcm16(piece[: len(piece) - len(piece) % info.block_align], info)


class Mp3File(_OpenFile):
    """An MP3 file, open for reading."""

    format: Literal["mp3"] = "mp3"
    container = "MP3"
    bits_per_sample = None
    extremes = (-32768, 32767)
    """The least and the greatest sample a decoder gives."""

    def __init__(self, file: BinaryIO, size_bytes: int, progress: Progress | None = None) -> None:
        """Walk the whole file; Mp3Error when it has no frame of MPEG audio layer III."""
        super().__init__(file, size_bytes)
        scanner = mp3.Scanner()
        for piece in _pieces(file, size_bytes, progress):
            scanner.feed(piece)
        self.info = scanner.finish()

    @property
    def encoding(self) -> str:
        """The MPEG version and the bit rate, in words."""
        info = self.info
        low, high = f"{info.bitrate_min_bps / 1000:g}", f"{info.bitrate_max_bps / 1000:g}"
        if not info.vbr:
            rate = f"{low} kbit/s"
        elif low == high:
            rate = f"variable bit rate, {low} kbit/s throughout"
        else:
            rate = f"variable bit rate, {low} to {high} kbit/s, {info.bitrate_avg_bps / 1000:.1f} on average"
        return f"MPEG-{info.mpeg_version} layer III, {info.mode}, {rate}"

    @property
    def sample_rate(self) -> int:
        """Frames per second."""
        return self.info.sample_rate

    @property
    def channels(self) -> int:
        """1 or 2."""
        return self.info.channels

    @property
    def frames(self) -> int:
        """PCM frames of the recording: without encoder delay and padding, where these are known."""
        return self.info.frames_pcm

    def pcm(self) -> Iterator[bytes]:
        """Decode to interleaved 16-bit PCM, in pieces, delay and padding cut off.

        There are at most `frames`, fewer where MPEG frames cannot be decoded. NotDecodableError when the
        decoder takes none of them, or is not installed.
        """
        delay = self.info.encoder_delay_samples
        frame_bytes = 2 * self.channels
        skip_bytes = 0 if delay is None else (delay + DECODER_DELAY_SAMPLES) * frame_bytes
        left_bytes = self.frames * frame_bytes
        if not self.info.samples:
            return
        for piece in self._decode():
            if skip_bytes >= len(piece):
                skip_bytes -= len(piece)
                continue
            audio = piece[skip_bytes : skip_bytes + left_bytes]
            skip_bytes = 0
            left_bytes -= len(audio)
            if audio:
                yield audio
            if not left_bytes:
                return

    def _decode(self) -> Iterator[bytes]:
        try:
            import miniaudio  # when first used: `import callreel` must not need it
        except ImportError as error:
            raise NotDecodableError(f"decoding MP3 needs the package miniaudio: {error}") from error

        open_music = self._music

        class Music(miniaudio.StreamableSource):  # type: ignore[misc]
            """MPEG frames in a row, whatever stands between them in the file."""

            def __init__(self) -> None:
                self._music = open_music()
                self._held = b""

            def read(self, num_bytes: int) -> bytes:
                while len(self._held) < num_bytes and (piece := next(self._music, b"")):
                    self._held += piece
                data, self._held = self._held[:num_bytes], self._held[num_bytes:]
                return data

            def seek(self, offset: int, origin: Any) -> bool:
                # The decoder looks for tags at both ends before it begins; it finds none here.
                if offset == 0 and origin is miniaudio.SeekOrigin.START:
                    self.__init__()  # type: ignore[misc]
                    return True
                return False

        source = Music()
        decoded: Any = None
        try:
            decoded = miniaudio.stream_any(
                source,
                miniaudio.FileFormat.MP3,
                miniaudio.SampleFormat.SIGNED16,
                self.channels,
                self.sample_rate,
                DECODED_FRAMES,
            )
            for samples in decoded:
                yield samples.tobytes()
        except miniaudio.MiniaudioError as error:
            cause = source.error_in_readcallback
            if isinstance(cause, OSError):
                raise cause from error
            raise NotDecodableError(
                f"the decoder gives up: {error.args[0] if error.args else error}"
            ) from error
        finally:
            if decoded is not None:
                decoded.close()

    def _music(self) -> Iterator[bytes]:
        """The frames with music, in pieces: no tags, junk or Xing frame, over which the decoder stumbles."""
        at = self.info.first_frame_offset
        held = b""
        passed = (
            self.info.xing is not None
        )  # the frame at the start of `held` is not to be given: again, or at all
        while True:
            self._file.seek(at + len(held))
            piece = self._file.read(PIECE_BYTES)
            held += piece
            final = not piece
            frames = []
            last = None
            for frame in mp3.frames(held):
                end = frame.offset + frame.size_bytes
                if not final and end + LOOKAHEAD_BYTES > len(held):
                    break
                if not (passed and frame.offset == 0):
                    frames.append(held[frame.offset : end])
                last = frame
            if frames:
                yield b"".join(frames)
            if final:
                return
            if last is not None:
                passed = True
                drop = last.offset  # it stays, as a witness of what the next frames look like
            else:
                drop = max(0, len(held) - LOOKAHEAD_BYTES)
                passed = passed and drop == 0
            at += drop
            held = held[drop:]


AudioFile = WavFile | Mp3File


def open_audio(path: Path, *, progress: Progress | None = None) -> AudioFile:
    """Open a WAV or MP3 file, whatever its name is.

    Raises:
        OSError: no such file, no regular file, not to be read.
        WavError: a WAV file whose format is not to be found.
        Mp3Error: neither a WAV file nor one with MPEG audio layer III.

    """
    file = open_regular(path)
    try:
        size_bytes = os.fstat(file.fileno()).st_size
        if is_wav(file):
            return WavFile(file, size_bytes)
        try:
            return Mp3File(file, size_bytes, progress)
        except Mp3Error as error:
            raise Mp3Error(f"neither a WAV file nor an MP3 file: {error}") from None
    except BaseException:
        file.close()
        raise


def is_wav(file: BinaryIO) -> bool:
    """Whether a file begins like a WAV file."""
    file.seek(0)
    return file.read(4) in (b"RIFF", b"RIFX", b"RF64", b"BW64")


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; OSError for anything but a file. A pipe is not waited for."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.open("rb")


def _pieces(file: BinaryIO, size_bytes: int, progress: Progress | None) -> Iterator[bytes]:
    file.seek(0)
    done_bytes = 0
    while piece := file.read(SCAN_BYTES):
        yield piece
        done_bytes += len(piece)
        if progress is not None:
            progress(min(1.0, done_bytes / max(1, size_bytes)))


def sha256_of(file: BinaryIO, size_bytes: int, progress: Progress | None = None) -> str:
    """The SHA-256 of an open file, in hexadecimal digits; `size_bytes` is for the progress."""
    digest = hashlib.sha256()
    for piece in _pieces(file, size_bytes, progress):
        digest.update(piece)
    return digest.hexdigest()
