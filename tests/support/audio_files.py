"""Files made of a format's writes, and what independent readers make of them."""

import io
import shutil
import subprocess
import wave

import av
import miniaudio
import numpy as np
import soundfile

from callreel.formats import FORMATS
from callreel.kernels import mp3


def noise(frames, channels, seed=1):
    """Speech-like: coloured noise, its own in each channel, that LAME can follow closely."""
    rng = np.random.default_rng(seed)
    white = rng.standard_normal((frames + 200, channels))
    coloured = np.zeros_like(white)
    for i in range(1, len(white)):
        coloured[i] = 0.95 * coloured[i - 1] + white[i]
    return (coloured[200:] * 1500).astype("<i2")


def apply(writes, data=None):
    """The file that the writes make; none may leave a hole."""
    data = bytearray() if data is None else data
    for write in writes:
        assert write.offset <= len(data)
        data[write.offset : write.offset + len(write.data)] = write.data
    return data


def encode(name, pcm, sample_rate, chunk_frames=None, marks=(), **arguments):
    """The whole file of format `name`, checked against what its maker says of it."""
    file = FORMATS[name](sample_rate=sample_rate, channels=pcm.shape[1], **arguments)
    data = apply(file.start())
    step = chunk_frames or max(1, len(pcm))
    for at in range(0, len(pcm), step):
        apply(file.add(pcm[at : at + step].tobytes()), data)
        assert file.size_bytes == len(data)
    apply(file.finish(marks=marks), data)
    assert file.size_bytes == len(data)
    assert file.frames == len(pcm)
    return bytes(data)


def by_pyav(data, name):
    # Told the format, as the file's name would: from less than half a second of MP3 ffmpeg guesses wrongly.
    with av.open(io.BytesIO(data), format=name) as container:
        blocks = []
        (stream,) = container.streams
        channels = stream.codec_context.channels
        for frame in container.decode(stream):
            block = frame.to_ndarray()
            if frame.format.is_planar:
                block = block.T
            else:
                block = block.reshape(-1, channels)
            blocks.append(block.astype(float) * (1 if block.dtype == np.int16 else 32768))
    return np.concatenate(blocks) if blocks else np.zeros((0, channels))


def by_ffmpeg(data):
    return by_pyav(data, "mp3")


def by_soundfile(data):
    return soundfile.read(io.BytesIO(data), always_2d=True)[0] * 32768


by_mpg123 = by_soundfile  # which is what libsndfile has for MP3


def by_dr_mp3(data):
    try:
        decoded = miniaudio.mp3_read_s16(data)
    except miniaudio.DecodeError:  # how it says that there is no audio
        return np.zeros((0, mp3.scan(data).channels))
    return np.array(decoded.samples, dtype=float).reshape(-1, decoded.nchannels)


def by_std_wave(data):
    with wave.open(io.BytesIO(data)) as file:
        assert file.getsampwidth() == 2
        frames = file.readframes(file.getnframes())
        return np.frombuffer(frames, "<i2").reshape(-1, file.getnchannels()).astype(float)


def by_sox(data):
    channels = int.from_bytes(data[data.index(b"fmt ") + 10 :][:2], "little")
    raw = subprocess.run(
        ["sox", "-t", "wav", "-", "-t", "raw", "-e", "signed", "-b", "16", "-L", "-"],
        input=data,
        capture_output=True,
        check=True,
    )
    assert raw.stderr == b""
    return np.frombuffer(raw.stdout, "<i2").reshape(-1, channels).astype(float)


READERS = {
    "wav": {
        "libsndfile": by_soundfile,
        "ffmpeg": lambda data: by_pyav(data, "wav"),
        "wave": by_std_wave,
        **({"sox": by_sox} if shutil.which("sox") else {}),
    },
    "mp3": {"ffmpeg": by_ffmpeg, "mpg123": by_mpg123, "dr_mp3": by_dr_mp3},
}
"""Every format's readers: whole file in, (frames, channels) out, full scale 32768."""


def correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
