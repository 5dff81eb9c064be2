"""From a take's spool file to the file that was asked for.

A spool file is a WAV file of 16-bit PCM at the leg's rate, in the layout asked for, and valid at its last flush. What
became of it is the same, byte for byte, as if the format had been fed while the call ran: `formats.FORMATS`, with the
tags and marks that are given, after `kernels.pcm.Resampler` where the rate changes.

    asked for                    done
    WAV, nothing changes         the spool file itself, by a second name: header and marks, then read for its sum
    WAV, anything changes        one pass: final header, audio, marks; the sum is taken on the way
    another format               one pass, then its header, which is known last, then read for its sum

How much audio there is. After a crash a header may say fewer frames than the file holds, so what counts is the file:
all whole frames in it. But where the header says that something follows the audio, it was written by `finish`, which
may have died there: then the header counts, and `finish` does the same again.

Encoding MP3 costs: LAME takes 0.28 s of CPU for three minutes of stereo at 8 kHz, 0.7 s at 16 kHz. `Finishing` can be
fed while the call runs, and `finish` then goes on where it is. LAME works without the GIL, so neither holds up others.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

from callreel.durable import PART_SUFFIX, sync_folder, written_whole
from callreel.encryption import CHUNK_BYTES, DataKey, Encryptor, SealedFile, SealedReader, is_encrypted
from callreel.errors import UsageError, WavError
from callreel.formats import FORMATS, Mark, Wav, Write
from callreel.kernels import pcm, wav

__all__ = ["ENCRYPTED_MEDIA_TYPE", "Finished", "Finishing", "SpoolAudio", "finish"]

ENCRYPTED_MEDIA_TYPE = "application/octet-stream"
"""Of a file that is encrypted, whatever is in it."""

PIECE_FRAMES = 1 << 15
"""Read at a time."""
SUM_BYTES = 64 << 10
"""Read at a time where nothing is made of it but a sum."""
HEAD_BYTES = 256 << 10
"""Within which the first sample must be: our headers have at most 66 KiB."""


class Finished(NamedTuple):
    """A file that is ready to be delivered."""

    path: Path
    size_bytes: int
    sha256: str
    """Of the file as it is, encrypted or not; hexadecimal."""
    media_type: str
    frames: int
    """PCM frames of the recording, at its own rate."""


class SpoolAudio:
    """The audio in a spool file: how much there is, and its frames."""

    def __init__(self, file: BinaryIO | SealedReader) -> None:
        """Look at a spool file; WavError when it has no header of 16-bit PCM."""
        self._file = file
        file_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = file.read(HEAD_BYTES)
        info = wav.parse(head, file_bytes=file_bytes)
        if info.format != "pcm" or info.bits_per_sample != 16 or info.byte_order != "little":
            raise WavError("a spool file holds 16-bit PCM")
        if not any(chunk.id == "data" for chunk in info.chunks):
            raise WavError("the spool file has no audio")
        self.sample_rate = info.sample_rate
        self.channels = info.channels
        self.data_offset = info.data_offset
        self.frame_bytes = 2 * info.channels
        data_bytes = max(0, file_bytes - info.data_offset)
        if _container_bytes(head) > info.data_offset + info.declared_data_bytes:
            data_bytes = min(data_bytes, info.declared_data_bytes)
        self.frames = data_bytes // self.frame_bytes
        """Whole frames there are."""

    def pieces(self, from_frame: int = 0, until_frame: int | None = None) -> Iterator[bytes]:
        """Interleaved frames, in pieces."""
        until = self.frames if until_frame is None else min(until_frame, self.frames)
        while from_frame < until:
            wanted = min(PIECE_FRAMES, until - from_frame) * self.frame_bytes
            self._file.seek(self.data_offset + from_frame * self.frame_bytes)
            piece = self._file.read(wanted)
            if len(piece) < wanted:
                raise WavError("the spool file became shorter while it was read")
            yield piece
            from_frame += wanted // self.frame_bytes


def _container_bytes(head: bytes) -> int:
    """How long the file is by its own account."""
    if head[:4] == b"RIFF":
        return 8 + int.from_bytes(head[4:8], "little")
    return 8 + int.from_bytes(head[20:28], "little")  # RF64: in ds64, which comes first


# ---- one file ------------------------------------------------------------------------------------------------


def finish(
    source: Path | SealedReader,
    target: Path,
    *,
    format: str,
    sample_rate: int | None = None,
    tags: Mapping[str, str] | None = None,
    marks: Sequence[Mark] = (),
    data_key: DataKey | None = None,
    begun: Finishing | None = None,
) -> Finished:
    """Make of a spool file the file that was asked for; `target` appears whole, in place of an older one.

    `source` stays, but may be the same file as `target` afterwards: nobody may write to it any more. One that is
    encrypted comes as its reader. `format`, `tags`, `marks` (in frames of `target`): as `formats` takes them.
    `sample_rate`: of `target`, None for that of the spool file. `data_key`: to encrypt `target`. `begun`: of the same
    `target` and what it is made of, with the first frames of `source` in it.

    Whoever calls it again after it raised, or died, gets the same file.

    Raises WavError when `source` is no spool file, OSError when a disk fails.
    """
    with contextlib.ExitStack() as stack:
        if begun is not None:
            stack.callback(begun.discard)
        if isinstance(source, Path):
            file: BinaryIO | SealedReader = stack.enter_context(source.open("rb"))
            if is_encrypted(file):
                raise UsageError(f"{source} is encrypted: open it with a SealedReader")
        else:
            file = source
        audio = SpoolAudio(file)
        rate = sample_rate or audio.sample_rate
        if format != "wav" or begun is not None:
            if begun is None:
                begun = Finishing(
                    target,
                    format=format,
                    channels=audio.channels,
                    from_rate=audio.sample_rate,
                    sample_rate=rate,
                    tags=tags,
                    data_key=data_key,
                )
                stack.callback(begun.discard)
            for piece in audio.pieces(begun.frames_taken):
                begun.add(piece)
            return begun.finish(marks=marks)
        converter = _Converter(audio.channels, audio.sample_rate, rate)
        wav_ends = _WavEnds(converter.frames(audio.frames), audio.channels, rate, tags, marks)
        same = rate == audio.sample_rate and len(wav_ends.header) == audio.data_offset
        if isinstance(source, Path) and same and data_key is None:
            finished = _finish_in_place(source, target, audio, wav_ends)
            if finished is not None:
                return finished
        pieces = chain((wav_ends.header,), converter.all_of(audio.pieces()), (wav_ends.trailer,))
        return _write_once(target, pieces, wav_ends.frames, data_key)


class _WavEnds:
    """What stands around the audio of a WAV file whose length is known."""

    def __init__(
        self,
        frames: int,
        channels: int,
        sample_rate: int,
        tags: Mapping[str, str] | None,
        marks: Sequence[Mark],
    ) -> None:
        file = Wav(sample_rate=sample_rate, channels=channels, tags=tags)
        file.start()
        file.frames = frames  # as if they had been added
        file.size_bytes += 2 * channels * frames
        *behind, first = file.finish(marks=marks)
        self.frames = frames
        self.header = first.data
        self.trailer = b"".join(write.data for write in behind)


def _finish_in_place(source: Path, target: Path, audio: SpoolAudio, ends: _WavEnds) -> Finished | None:
    """Complete the spool file itself and give it its second name; None where a file cannot have two."""
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}{PART_SUFFIX}")
    try:
        os.link(source, part)
    except OSError:
        return None  # another file system, or one without links: nothing has been changed yet
    try:
        with source.open("r+b") as file:
            # The header first: it says that what follows the audio is not audio, should we die before the end.
            file.write(ends.header)
            file.flush()
            file.truncate(audio.data_offset + audio.frames * audio.frame_bytes)
            file.seek(0, io.SEEK_END)
            file.write(ends.trailer)
            file.flush()
            os.fsync(file.fileno())
            size_bytes, sha256 = _sum(file)
        part.replace(target)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)  # there still, also where `target` was this file already
    sync_folder(target.parent)
    return Finished(target, size_bytes, sha256, Wav.media_type, ends.frames)


def _write_once(target: Path, pieces: Iterable[bytes], frames: int, data_key: DataKey | None) -> Finished:
    """Write a file from its beginning to its end."""
    media_type = Wav.media_type
    if data_key is not None:
        media_type = ENCRYPTED_MEDIA_TYPE
        encryptor = Encryptor(data_key)
        pieces = chain(
            (encryptor.start(),), map(encryptor.add, pieces), (encryptor.finish() for _ in range(1))
        )
    digest = hashlib.sha256()
    with written_whole(target) as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        size_bytes = file.tell()
    return Finished(target, size_bytes, digest.hexdigest(), media_type, frames)


def _sum(file: BinaryIO) -> tuple[int, str]:
    """Length and SHA-256 of a file."""
    digest = hashlib.sha256()
    file.seek(0)
    while piece := file.read(SUM_BYTES):
        digest.update(piece)
    return file.tell(), digest.hexdigest()


class _Converter:
    """Interleaved frames at one rate to the same at another, as a recording does it."""

    def __init__(self, channels: int, from_rate: int, to_rate: int) -> None:
        self._rates = from_rate, to_rate
        self._channels = channels
        self._resamplers: list[pcm.Resampler] = []
        if from_rate != to_rate:
            self._resamplers = [pcm.Resampler(from_rate, to_rate) for _ in range(channels)]

    def frames(self, frames: int) -> int:
        """How many come out of so many."""
        from_rate, to_rate = self._rates
        return -(-frames * to_rate // from_rate)

    def feed(self, piece: bytes) -> bytes:
        if not self._resamplers:
            return piece
        channels = pcm.deinterleave(piece) if self._channels == 2 else (piece,)
        return _woven([one.feed(channel) for one, channel in zip(self._resamplers, channels, strict=True)])

    def flush(self) -> bytes:
        return _woven([one.flush() for one in self._resamplers]) if self._resamplers else b""

    def all_of(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            yield self.feed(piece)
        yield self.flush()


def _woven(channels: list[bytes]) -> bytes:
    return pcm.interleave(channels[0], channels[1]) if len(channels) == 2 else channels[0]


# ---- while the call runs -------------------------------------------------------------------------------------


class Finishing:
    """A file in the making: `add` frames in their order, then `finish`, or `discard`.

    Fed while the call runs, with audio that cannot change any more, it leaves little to do at the end. When its process
    dies nothing is lost but its work. It belongs to one thread at a time.
    """

    def __init__(
        self,
        target: Path,
        *,
        format: str,
        channels: int,
        from_rate: int,
        sample_rate: int | None = None,
        tags: Mapping[str, str] | None = None,
        data_key: DataKey | None = None,
    ) -> None:
        """Begin the file that is to become `target`; `from_rate`: of the frames that are added, in Hz."""
        rate = sample_rate or from_rate
        self.frames_taken = 0
        """At `from_rate`."""
        self._target = target
        self._frame_bytes = 2 * channels
        self._format = FORMATS[format](sample_rate=rate, channels=channels, tags=tags)
        self._converter = _Converter(channels, from_rate, rate)
        self._stack = contextlib.ExitStack()
        self._file = self._stack.enter_context(written_whole(target))
        self._sealed: SealedFile | None = None
        if data_key is not None:
            self._sealed = SealedFile(self._file, data_key, chunk_bytes=CHUNK_BYTES, journal=False)
        self._write(self._format.start())

    def add(self, frames: bytes) -> None:
        """Take interleaved 16-bit frames, any number."""
        if len(frames) % self._frame_bytes:
            raise ValueError(f"{len(frames)} bytes are not a whole number of frames of {self._frame_bytes}")
        self._write(self._format.add(self._converter.feed(frames)))
        self.frames_taken += len(frames) // self._frame_bytes

    def finish(self, *, marks: Sequence[Mark] = ()) -> Finished:
        """Make the file appear."""
        self._write(self._format.add(self._converter.flush()))
        self._write(self._format.finish(marks=marks))
        media_type = self._format.media_type
        if self._sealed is not None:
            self._sealed.finish()
            media_type = ENCRYPTED_MEDIA_TYPE
        self._file.flush()
        size_bytes, sha256 = _sum(self._file)
        self._stack.close()
        return Finished(self._target, size_bytes, sha256, media_type, self._format.frames)

    def discard(self) -> None:
        """Leave nothing half made behind; after `finish` it does nothing."""
        gone = UsageError("this file has been discarded")
        self._stack.__exit__(UsageError, gone, None)

    def _write(self, writes: Iterable[Write]) -> None:
        for offset, data in writes:
            if self._sealed is not None:
                self._sealed.write_at(offset, data)
            else:
                self._file.seek(offset)
                self._file.write(data)
