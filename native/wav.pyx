"""WAV files: headers and trailers written, chunks walked, sample data made 16-bit PCM; no I/O.

Written, always in this order, so that a header keeps its length while the file grows:

    RIFF size WAVE | JUNK, kept for ds64 | fmt | fact | LIST INFO | bext | data ... | pad | cue | LIST adtl

Sources: Multimedia Programming Interface and Data Specifications 1.0 (Microsoft/IBM, 1991) for RIFF, INFO,
cue and adtl; Multimedia Data Standards Update (1994) for fact; EBU Tech 3306 and ITU-R BS.2088 for RF64, BW64
and ds64; EBU Tech 3285 for bext; include/callreel/wav.h for fmt and samples.
"""

cimport buffers
cimport cython
cimport fastcall
cimport isa
from cpython.object cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

import operator
from dataclasses import dataclass
from typing import NamedTuple

from callreel.errors import WavError


cdef extern from "callreel/wav.h" nogil:
    enum:
        CR_WAVE_PCM
        CR_WAVE_MS_ADPCM
        CR_WAVE_FLOAT
        CR_WAVE_ALAW
        CR_WAVE_ULAW
        CR_WAVE_IMA_ADPCM
        CR_WAVE_GSM610
        CR_WAVE_MP3
        CR_WAVE_EXTENSIBLE
        CR_WAV_FMT_MIN_BYTES
        CR_WAV_FMT_EXTENSIBLE_BYTES
    ctypedef struct cr_wav_fmt:
        uint16_t tag
        uint16_t channels
        uint32_t sample_rate
        uint32_t byte_rate
        uint16_t block_align
        uint16_t bits
        uint16_t samples_per_block
        uint8_t extensible
    ctypedef void (*cr_wav_to_s16_fn)(uint8_t *pcm, const uint8_t *data, size_t samples) noexcept
    int cr_wav_fmt_load(cr_wav_fmt *fmt, const uint8_t *body, size_t size, int big) noexcept
    cr_wav_to_s16_fn cr_wav_converter(unsigned tag, unsigned sample_bytes, int big) noexcept
    void cr_g711_use(isa.cr_isa isa) noexcept
    isa.cr_isa cr_g711_in_use() noexcept

cr_g711_use(isa.in_use())


def _isa():
    """Name the instruction set whose versions this module calls: for tests."""
    return isa.cr_isa_name(cr_g711_in_use()).decode()


cdef enum:
    START_BYTES = 12 + 8 + 28  # RIFF size WAVE, and the chunk that is JUNK or ds64
    DS64_BYTES = 28            # three 64-bit sizes and an empty table

cdef uint64_t UNSET = 0xFFFFFFFF  # "see ds64" in RF64; "not known" from writers that cannot seek

INFO_MAX_BYTES = 64 << 10       # of a LIST INFO chunk we write; texts, not documents
METADATA_MAX_BYTES = 1 << 20    # of one chunk body that is loaded, and so of one we write
METADATA_TOTAL_BYTES = 8 << 20  # of all chunk bodies loaded from one file
CHUNKS_MAX = 4096               # walked in one file
CUES_MAX = (METADATA_MAX_BYTES - 4) // 24   # that fit one loaded `cue ` chunk: 43,690
CUES_READ_MAX = 65536           # kept of one file, over all its `cue ` chunks
CUE_MAX_FRAMES = 0xFFFFFFFF     # the highest position and length that `cue ` and `ltxt` can store

_ZEROS_MAX_BYTES = 1 << 20      # skipped between chunks of one file
_ZEROS_STEP_BYTES = 4096        # asked for at a time while skipping
_WARNINGS_MAX = 100
_UNSET = UNSET
_DS64_BYTES = DS64_BYTES
_FILE_MAX_BYTES = (1 << 63) - 1  # what a file offset can hold

_FORMATS = {
    CR_WAVE_PCM: "pcm", CR_WAVE_FLOAT: "float", CR_WAVE_ALAW: "alaw", CR_WAVE_ULAW: "ulaw",
    CR_WAVE_GSM610: "gsm610", CR_WAVE_MP3: "mp3",
}
_PLAIN = frozenset({"pcm", "float", "alaw", "ulaw"})  # block_align is one frame
# Format tag and bytes a sample of what is written.
_ENCODINGS = {"pcm16": (CR_WAVE_PCM, 2), "ulaw": (CR_WAVE_ULAW, 1), "alaw": (CR_WAVE_ALAW, 1)}
_CONTAINERS = frozenset({b"RIFF", b"RIFX", b"RF64", b"BW64"})
# Ids that tell a missing pad byte from one that is not zero.
_KNOWN_CHUNKS = frozenset({
    b"fmt ", b"fact", b"data", b"LIST", b"bext", b"cue ", b"ds64", b"JUNK", b"junk",
    b"PAD ", b"FLLR", b"PEAK", b"id3 ", b"ID3 ", b"smpl", b"inst", b"iXML", b"axml",
    b"chna", b"afsp", b"plst", b"DISP", b"_PMX", b"slnt", b"cart", b"acid",
})
_GUID_TAIL = bytes.fromhex("00001000800000AA00389B71")  # a sub-format GUID after its 4-byte tag

INFO_IDS = {
    "title": "INAM", "artist": "IART", "comment": "ICMT", "created": "ICRD",
    "software": "ISFT", "subject": "ISBJ", "copyright": "ICOP", "engineer": "IENG",
    "genre": "IGNR", "keywords": "IKEY", "product": "IPRD", "source": "ISRC",
    "technician": "ITCH", "medium": "IMED", "archive": "IARL", "commissioner": "ICMS",
    "track": "ITRK",
}
cdef dict _KNOWN_INFO_IDS = {name: ident.encode() for pair in INFO_IDS.items() for name, ident in (pair, pair[1:] * 2)}


@dataclass(frozen=True, slots=True)
class Cue:
    """A mark in the audio: a digit, a pause."""

    frame: int
    label: str = ""
    duration_frames: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bext:
    """The Broadcast Audio Extension of a file (EBU Tech 3285)."""

    description: str = ""
    originator: str = ""
    originator_reference: str = ""
    origination_date: str = ""
    origination_time: str = ""
    time_reference: int = 0
    version: int = 1
    coding_history: str = ""


class Chunk(NamedTuple):
    """A chunk as found: its id, where its id stands, how long it says its body is."""

    id: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Info:
    """What a WAV file holds and where, and every contradiction in it."""

    container: str
    byte_order: str
    format_tag: int
    format: str
    extensible: bool
    channels: int
    sample_rate: int
    bits_per_sample: int
    block_align: int
    byte_rate: int
    data_offset: int
    data_bytes: int
    declared_data_bytes: int
    frames: int
    fact_frames: int | None
    info: dict
    cues: tuple
    bext: Bext | None
    chunks: tuple
    skipped: tuple
    warnings: tuple
    truncated: bool

    @property
    def duration_s(self):
        """Length of the audio in seconds."""
        return self.frames / self.sample_rate


# ---------------------------------------------------------------------------------------------------- writing

cdef inline void _put(uint8_t *at, uint64_t value, int size_bytes) noexcept:
    cdef int i
    for i in range(size_bytes):
        at[i] = <uint8_t>(value >> (8 * i))


cdef bytes _u16(uint16_t value):
    cdef uint8_t[2] little
    _put(little, value, 2)
    return (<char *>little)[:2]


cdef bytes _u32(uint32_t value):
    cdef uint8_t[4] little
    _put(little, value, 4)
    return (<char *>little)[:4]


cdef bytes _u64(uint64_t value):
    cdef uint8_t[8] little
    _put(little, value, 8)
    return (<char *>little)[:8]


cdef bytes _chunk(bytes ident, bytes body):
    return ident + _u32(len(body)) + body + (b"\0" if len(body) & 1 else b"")


cdef object _integer(str name, object value, object lowest, object highest):
    """`value` as an int within bounds; TypeError or ValueError names the argument."""
    if type(value) is not int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
        value = operator.index(value)
    if not lowest <= value <= highest:
        raise ValueError(f"{name} is {value}; it must be from {lowest} to {highest}")
    return value


cdef bytes _text(str kind, str name, object value):
    """UTF-8 with the ending NUL; a NUL inside would cut the text for every reader."""
    if not isinstance(value, str):
        raise TypeError(f"{kind} {name} must be text, not {type(value).__name__}")
    if "\0" in value:
        raise ValueError(f"{kind} {name} contains a NUL character")
    return value.encode() + b"\0"


cdef bytes _info_chunk(object info):
    cdef dict texts = {}
    for name, value in dict(info).items():
        if not isinstance(name, str):
            raise TypeError(f"an INFO id must be text, not {type(name).__name__}")
        ident = _KNOWN_INFO_IDS.get(name)
        if ident is None:
            if len(name) != 4 or not (name.isascii() and name.isprintable()) or " " in name:
                names = ", ".join(INFO_IDS)
                raise ValueError(f"{name!r} is neither an INFO id of 4 ASCII characters nor one of {names}")
            ident = name.encode()
        if ident in texts:
            raise ValueError(f"INFO id {ident.decode()} is given twice")
        texts[ident] = _text("INFO", name, value)
    if not texts:
        return b""
    body = b"INFO" + b"".join([_chunk(ident, text) for ident, text in texts.items()])
    if len(body) > INFO_MAX_BYTES:
        raise ValueError(f"INFO texts take {len(body)} bytes; {INFO_MAX_BYTES} is the limit")
    return _chunk(b"LIST", body)


cdef bytes _bext_field(object bext, str name, int width, bint exact):
    value = getattr(bext, name)
    if not isinstance(value, str):
        raise TypeError(f"bext {name} must be text, not {type(value).__name__}")
    if not value.isascii() or "\0" in value:
        raise ValueError(f"bext {name} must be ASCII without NUL")
    if len(value) > width or exact and value and len(value) != width:
        bound = "exactly" if exact else "at most"
        raise ValueError(f"bext {name} has {len(value)} characters; {bound} {width} fit")
    return value.encode()


cdef bytes _bext_chunk(object bext):
    if not isinstance(bext, Bext):
        unknown = set(bext) - set(Bext.__slots__)
        if unknown:
            raise ValueError(f"bext has no field {', '.join(sorted(map(str, unknown)))}")
        bext = Bext(**bext)
    reference = _integer("bext time_reference", bext.time_reference, 0, 0xFFFFFFFFFFFFFFFF)
    # Version 1: 64 bytes for a UMID, which we have none of, and 190 reserved ones.
    body = b"".join([
        _bext_field(bext, "description", 256, False).ljust(256, b"\0"),
        _bext_field(bext, "originator", 32, False).ljust(32, b"\0"),
        _bext_field(bext, "originator_reference", 32, False).ljust(32, b"\0"),
        _bext_field(bext, "origination_date", 10, True).ljust(10, b"\0"),
        _bext_field(bext, "origination_time", 8, True).ljust(8, b"\0"),
        _u64(reference),
        _u16(1),
        bytes(64 + 190),
        _bext_field(bext, "coding_history", INFO_MAX_BYTES, False),
    ])
    return _chunk(b"bext", body)


def header(*, sample_rate, channels, encoding="pcm16", frames=None, info=None, bext=None, trailer_bytes=0):
    """Everything of a WAV file before its first sample."""
    cdef uint8_t[16] start
    if encoding not in _ENCODINGS:
        raise ValueError(f"encoding {encoding!r} is none of {', '.join(_ENCODINGS)}")
    tag, sample_bytes = _ENCODINGS[encoding]
    channels = _integer("channels", channels, 1, 0xFFFF // sample_bytes)
    block_align = channels * sample_bytes
    sample_rate = _integer("sample_rate", sample_rate, 1, 0xFFFFFFFF // block_align)

    extensible = channels > 2  # tags 1, 6 and 7 say nothing of which speaker is which beyond left and right
    _put(start, CR_WAVE_EXTENSIBLE if extensible else tag, 2)
    _put(start + 2, channels, 2)
    _put(start + 4, sample_rate, 4)
    _put(start + 8, sample_rate * block_align, 4)
    _put(start + 12, block_align, 2)
    _put(start + 14, 8 * sample_bytes, 2)
    fmt = (<char *>start)[:16]
    if extensible:  # channel mask 0: channels that belong to no speaker
        fmt += _u16(22) + _u16(8 * sample_bytes) + _u32(0) + _u32(tag) + _GUID_TAIL
    elif tag != CR_WAVE_PCM:
        fmt += _u16(0)
    # The 1994 update requires fact of all formats newer than WAVE_FORMAT_PCM, and not of that one.
    has_fact = extensible or tag != CR_WAVE_PCM
    empty = b"".join((
        bytes(START_BYTES),
        _chunk(b"fmt ", fmt),
        _chunk(b"fact", bytes(4)) if has_fact else b"",
        b"" if info is None else _info_chunk(info),
        b"" if bext is None else _bext_chunk(bext),
        b"data" + bytes(4),
    ))
    return _patch(empty, 0 if frames is None else frames, trailer_bytes)


cdef bytes _patch(object header, object frames, object trailer_bytes):
    cdef Py_buffer view
    cdef char *start = NULL
    cdef uint8_t *at
    cdef const uint8_t *fmt
    cdef Py_ssize_t header_bytes, fact_at
    cdef unsigned block_align
    cdef uint64_t riff_bytes, data_bytes, frame_count
    cdef bint wide
    buffers.clear(&view)
    try:
        buffers.borrow_bytes(header, &view)
        header_bytes = view.len
        fmt = <const uint8_t *>view.buf + START_BYTES
        if (header_bytes < START_BYTES + 8 + 16 + 8 or memcmp(fmt, b"fmt ", 4) != 0
                or memcmp(<const uint8_t *>view.buf + header_bytes - 8, b"data", 4) != 0):
            raise ValueError("this is not a header as `header` makes it")
        block_align = fmt[8 + 12] | fmt[8 + 13] << 8
        fact_at = START_BYTES + 8 + fmt[4]
        frame_count = _integer("frames", frames, 0, _FILE_MAX_BYTES // 2 // max(1, block_align))
        data_bytes = frame_count * block_align
        # A chunk is padded to an even length and the padding counts in the RIFF size. Rounding up here means that
        # an odd trailer (pad included, as `trailer` makes it) and an even one (pad to come) give the same size.
        riff_bytes = <uint64_t>header_bytes - 8 + data_bytes
        riff_bytes += <uint64_t>_integer("trailer_bytes", trailer_bytes, 0, _FILE_MAX_BYTES // 4)
        riff_bytes += riff_bytes & 1
        wide = riff_bytes >= UNSET
        result = buffers.new_bytes(header_bytes, &start)
        at = <uint8_t *>start
        memcpy(at, view.buf, <size_t>header_bytes)
        memcpy(at, b"RF64" if wide else b"RIFF", 4)
        _put(at + 4, UNSET if wide else riff_bytes, 4)
        memcpy(at + 8, b"WAVE", 4)
        memcpy(at + 12, b"ds64" if wide else b"JUNK", 4)
        _put(at + 16, DS64_BYTES, 4)
        memset(at + 20, 0, DS64_BYTES)
        if wide:
            _put(at + 20, riff_bytes, 8)
            _put(at + 28, data_bytes, 8)
            _put(at + 36, frame_count, 8)
        _put(at + header_bytes - 4, UNSET if wide else data_bytes, 4)
        if fact_at + 20 <= header_bytes and memcmp(at + fact_at, b"fact", 4) == 0:
            _put(at + fact_at + 8, UNSET if wide else frame_count, 4)
        return result
    finally:
        buffers.release(&view)

# Every step of a recording asks this: see fastcall.pxd.
cdef tuple PATCH = ("header", "frames", "trailer_bytes")

cdef object _call_patch(PyObject *unused, PyObject **args, Py_ssize_t count, PyObject *names):
    cdef PyObject *found[3]
    fastcall.sort("patch", PATCH, 2, args, count, names, found)
    return _patch(<object>found[0], <object>found[1], 0 if found[2] == NULL else <object>found[2])

cdef fastcall.PyMethodDef _patch_def = fastcall.method(
    b"patch", <fastcall.fastcall_fn>_call_patch,
    b"patch(header, frames, trailer_bytes=0)\n--\n\n`header`, as it is when the file has grown.",
)
patch = fastcall.function(&_patch_def, __name__)


def trailer(*, cues, data_bytes):
    """Everything of a WAV file after its last sample: the pad byte, cue points, their labels."""
    pad = b"\0" if _integer("data_bytes", data_bytes, 0, _FILE_MAX_BYTES) & 1 else b""
    points = []
    labels = [b"adtl"]
    details = []  # behind all labels: libsndfile reads no label after the first note or ltxt
    for cue in cues:
        if not isinstance(cue, Cue):
            raise TypeError(f"a cue must be a Cue, not {type(cue).__name__}")
        frame = _integer("cue frame", cue.frame, 0, _FILE_MAX_BYTES)
        length = _integer("cue duration_frames", cue.duration_frames, 0, _FILE_MAX_BYTES)
        label = _text("cue", "label", cue.label)
        note = _text("cue", "note", cue.note)
        if frame > CUE_MAX_FRAMES or length > CUE_MAX_FRAMES:
            continue
        ident = _u32(len(points) + 1)
        points.append(ident + _u32(frame) + b"data" + bytes(8) + _u32(frame))
        if len(label) > 1:
            labels.append(_chunk(b"labl", ident + label))
        if len(note) > 1:
            details.append(_chunk(b"note", ident + note))
        if length:
            details.append(_chunk(b"ltxt", ident + _u32(length) + b"rgn " + bytes(8)))
    if not points:
        return pad
    if len(points) > CUES_MAX:
        raise ValueError(f"{len(points)} cues; a `cue ` chunk that readers load holds {CUES_MAX}")
    body = b"".join(labels + details)
    if len(body) > METADATA_MAX_BYTES:
        raise ValueError(f"cue labels take {len(body)} bytes; {METADATA_MAX_BYTES} is the limit")
    tail = pad + _chunk(b"cue ", _u32(len(points)) + b"".join(points))
    return tail + _chunk(b"LIST", body) if len(body) > 4 else tail


# ---------------------------------------------------------------------------------------------------- reading

cdef bytes _copy(object data):
    cdef Py_buffer view
    buffers.clear(&view)
    try:
        buffers.borrow_bytes(data, &view)
        return (<const char *>view.buf)[:view.len]
    finally:
        buffers.release(&view)


cdef str _decode(bytes text):
    """Text up to its NUL: UTF-8 where it is valid, else Latin-1, which never fails."""
    text = text.split(b"\0", 1)[0]
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")


cdef bint _is_id(bytes ident) except -1:
    """Whether four bytes can be a chunk id: printable ASCII, not starting with a space."""
    return len(ident) == 4 and ident.isascii() and ident.decode("ascii").isprintable() and ident[0] != 0x20


cdef enum:
    _AT_HEAD
    _AT_CHUNK
    _AT_ZEROS
    _AT_BODY
    _AT_END


cdef list _split(bytes body, Py_ssize_t at, object byteorder):
    """The (id, body) pairs inside a LIST; zeros between them, pads included, are stepped over."""
    cdef Py_ssize_t end = len(body)
    found = []
    while at + 8 <= end:
        if body[at] == 0:
            at += 1
            continue
        ident = body[at:at + 4]
        if not _is_id(ident):
            break
        size = int.from_bytes(body[at + 4:at + 8], byteorder)
        found.append((ident, body[at + 8:min(at + 8 + size, end)]))
        at = min(at + 8 + size, end)
    return found


@cython.final
cdef class Parser:
    """Walks a WAV file by asking for the bytes it needs, never for samples."""

    cdef int _state
    cdef bint _odd, _truncated, _has_fmt, _has_data, _has_ds64
    cdef object _byteorder, _file_bytes, _at, _want, _next, _chunk, _zeros, _loaded
    cdef object _riff_bytes, _ds64_data, _ds64_frames, _data_offset, _data_bytes, _declared, _fact
    cdef cr_wav_fmt _fmt
    cdef bytes _container
    cdef dict _sizes, _texts, _labels, _notes, _lengths
    cdef list _chunks, _skipped, _warnings, _points
    cdef object _bext, _info, _error

    def __cinit__(self, file_bytes):
        self._file_bytes = _integer("file_bytes", file_bytes, 0, _FILE_MAX_BYTES)
        self._state = _AT_HEAD
        self._odd = self._truncated = self._has_fmt = self._has_data = self._has_ds64 = False
        self._at = 0
        self._want = min(12, self._file_bytes)
        self._byteorder = "little"
        self._container = b""
        self._zeros = self._loaded = self._data_offset = self._data_bytes = self._declared = 0
        self._riff_bytes = self._ds64_data = self._ds64_frames = self._fact = None
        self._sizes, self._texts, self._labels, self._notes, self._lengths = {}, {}, {}, {}, {}
        self._chunks, self._skipped, self._warnings, self._points = [], [], [], []
        self._next = self._chunk = self._bext = self._info = self._error = None

    @property
    @cython.critical_section
    def wanted(self):
        """(offset, size) of the bytes to feed next, or None when the walk is over."""
        return None if self._state == _AT_END else (self._at, self._want)

    @property
    @cython.critical_section
    def info(self):
        """What the file holds; the walk must be over."""
        if self._error is not None:
            raise WavError(self._error[0], offset=self._error[1])
        if self._info is None:
            raise ValueError(f"the walk is not over: (offset, size) {(self._at, self._want)} is wanted")
        return self._info

    @cython.critical_section
    def feed(self, data):
        """Take the wanted bytes and decide what is wanted next."""
        cdef bytes piece = _copy(data)
        if self._state == _AT_END:
            raise ValueError("the walk is over: nothing is wanted")
        if len(piece) > self._want:
            raise ValueError(f"{len(piece)} bytes are fed where {self._want} are wanted")
        if len(piece) < self._want:
            self._file_bytes = self._at + len(piece)
            self._cut(f"the file ends at byte {self._file_bytes}, earlier than announced")
        if self._state == _AT_CHUNK:
            self._on_chunk(piece)
        elif self._state == _AT_BODY:
            self._on_body(piece)
        elif self._state == _AT_ZEROS:
            self._on_zeros(piece)
        else:
            self._on_head(piece)

    @cython.critical_section
    def close(self):
        """End the walk here: the bytes wanted cannot be had."""
        if self._state != _AT_END:
            self._warn(f"read only up to byte {self._at} of {self._file_bytes}: later chunks are unknown")
            self._finish()

    # Contradictions and errors.

    cdef int _warn(self, str text) except -1:
        if len(self._warnings) < _WARNINGS_MAX:
            self._warnings.append(text)
        elif len(self._warnings) == _WARNINGS_MAX:
            self._warnings.append("more contradictions than are listed here")
        return 0

    cdef int _cut(self, str text) except -1:
        self._truncated = True
        return self._warn(text)

    cdef int _fail(self, str text, object offset) except -1:
        self._state = _AT_END
        self._error = (text, offset)
        raise WavError(text, offset=offset)

    cdef object _number(self, bytes data, Py_ssize_t at, Py_ssize_t size):
        return int.from_bytes(data[at:at + size], self._byteorder)

    # The walk.

    cdef int _on_head(self, bytes piece) except -1:
        if piece[:4] not in _CONTAINERS:
            return self._fail("not a WAV file: it begins with none of RIFF, RIFX, RF64, BW64", 0)
        if piece[8:] != b"WAVE":
            return self._fail("not a WAV file: its form type is not WAVE", min(8, len(piece)))
        self._container = piece[:4]
        if self._container == b"RIFX":
            self._byteorder = "big"
        self._riff_bytes = self._number(piece, 4, 4)
        return self._seek(12, False)

    cdef int _seek(self, object at, bint odd) except -1:
        """Look for a chunk at `at`; after an odd one a pad byte comes first, or should."""
        left = self._file_bytes - at
        self._at, self._odd = at, odd
        if left == 0 and odd:
            self._warn(f"the pad byte at byte {at} is missing")
        if left <= 0:
            return self._finish()
        self._state = _AT_CHUNK
        self._want = min(9 if odd else 8, left)
        return 0

    cdef bint _begins_with_pad(self, bytes piece) except -1:
        """Pads are zero, but not everybody's; missing pads show by the id that stands in their place."""
        if len(piece) < 5 or piece[0] == 0:
            return True
        padded, unpadded = piece[1:5], piece[:4]
        if unpadded in _KNOWN_CHUNKS or padded in _KNOWN_CHUNKS:
            return unpadded not in _KNOWN_CHUNKS
        return _is_id(padded) or not _is_id(unpadded)

    cdef int _on_chunk(self, bytes piece) except -1:
        at = self._at
        if self._odd:
            if self._begins_with_pad(piece):
                at, piece = at + 1, piece[1:]
            else:
                self._warn(f"the pad byte at byte {at} is missing")
        if not piece:
            return self._finish()
        ident = piece[:4]
        if self._has_data and self._declared == 0 and at == self._data_offset and not _is_id(ident):
            return self._take_rest(self._file_bytes - at)  # "empty", but followed by audio: never patched
        if piece[0] == 0:
            self._state = _AT_ZEROS
            self._at, self._want = at, min(_ZEROS_STEP_BYTES, self._file_bytes - at)
            return 0
        available = self._file_bytes - at - 8
        size = self._number(piece, 4, 4)
        # Beyond the end that RIFF declares, only what is wholly a chunk is taken for one: it may be anything.
        beyond = self._riff_is_set() and at >= 8 + self._riff_bytes
        if available < 0 or not _is_id(ident) or beyond and size > available:
            self._warn(f"the last {available + 8} bytes, from byte {at}, are no chunk")
            return self._finish()
        if len(self._chunks) == CHUNKS_MAX:
            self._warn(f"more than {CHUNKS_MAX} chunks: not read on from byte {at}")
            return self._finish()
        if size == _UNSET and self._has_ds64:
            size = self._ds64_data if ident == b"data" else self._sizes.get(ident, size)
        chunk = Chunk(ident.decode(), at, size)
        self._chunks.append(chunk)
        self._chunk = chunk
        if ident == b"data":
            return self._on_data(at, size, available)

        if size > available:
            self._cut(f"chunk {chunk.id!r} at byte {at} declares {size} bytes, {available} are there")
        self._next = (at + 8 + size, size & 1)
        want = min(size, available)
        if ident == b"fmt ":
            want = min(want, CR_WAV_FMT_EXTENSIBLE_BYTES)
        elif ident == b"fact":
            want = min(want, 4)
        elif ident not in (b"LIST", b"bext", b"cue ", b"ds64"):
            return self._seek(at + 8 + size, size & 1)
        if want > METADATA_MAX_BYTES or self._loaded + want > METADATA_TOTAL_BYTES:
            self._skipped.append(chunk)
            self._warn(f"chunk {chunk.id!r} at byte {at} is too large to load")
            return self._seek(at + 8 + size, size & 1)
        self._loaded += want
        self._state = _AT_BODY
        self._at, self._want = at + 8, want
        return 0 if want else self._on_body(b"")

    cdef int _on_zeros(self, bytes piece) except -1:
        rest = piece.lstrip(b"\0")
        self._zeros += len(piece) - len(rest)
        self._at += len(piece) - len(rest)
        if not rest and self._at < self._file_bytes and self._zeros < _ZEROS_MAX_BYTES:
            self._want = min(_ZEROS_STEP_BYTES, self._file_bytes - self._at)
            return 0
        self._warn(f"zero bytes before byte {self._at} belong to no chunk")
        if not rest:
            return self._finish()
        return self._seek(self._at, False)

    cdef int _on_body(self, bytes piece) except -1:
        at, odd = self._next
        if self._chunk.id == "fmt ":
            self._read_fmt(piece)
        elif self._chunk.id == "fact":
            self._read_fact(piece)
        elif self._chunk.id == "LIST":
            self._read_list(piece)
        elif self._chunk.id == "cue ":
            self._read_cues(piece)
        elif self._chunk.id == "bext":
            self._read_bext(piece)
        else:
            self._read_ds64(piece)
        return self._seek(at, odd)

    cdef int _on_data(self, object at, object size, object available) except -1:
        if not self._has_fmt:
            return self._fail("no fmt chunk before the data chunk", at)
        if self._has_data:
            self._warn(f"a second data chunk at byte {at} is left out")
            return self._seek(at + 8 + size, size & 1)
        self._has_data = True
        self._data_offset, self._declared = at + 8, size
        # A header written for no frames yet, and never patched, declares that the file ends here.
        growing = size == 0 and available > 0 and not (self._riff_is_set() and self._riff_bytes > at)
        if growing or size > available:
            return self._take_rest(available)
        self._data_bytes = size
        return self._seek(at + 8 + size, size & 1)

    cdef int _take_rest(self, object available) except -1:
        """The audio is all there is to the end of the file, whatever was declared."""
        self._data_bytes = available
        self._cut(
            f"the data chunk declares {self._declared} bytes, the file has {available} from there to its end"
        )
        return self._finish()

    cdef bint _riff_is_set(self) except -1:
        return self._riff_bytes not in (0, _UNSET)

    # Chunk bodies.

    cdef int _read_fmt(self, bytes body) except -1:
        if self._has_fmt:
            self._warn(f"a second fmt chunk at byte {self._at - 8} is left out")
            return 0
        if len(body) < min(self._chunk.size, CR_WAV_FMT_EXTENSIBLE_BYTES):
            return self._fail("the fmt chunk is cut off by the end of the file", self._at)
        if not cr_wav_fmt_load(&self._fmt, body, <size_t>len(body), self._byteorder == "big"):
            return self._fail(f"a fmt chunk of {len(body)} bytes, less than {CR_WAV_FMT_MIN_BYTES}", self._at)
        if self._fmt.channels == 0:
            return self._fail("the fmt chunk declares 0 channels", self._at + 2)
        if self._fmt.sample_rate == 0:
            return self._fail("the fmt chunk declares a sample rate of 0", self._at + 4)
        if self._fmt.block_align == 0:
            return self._fail("the fmt chunk declares blocks of 0 bytes", self._at + 12)
        self._has_fmt = True
        return 0

    cdef int _read_fact(self, bytes body) except -1:
        if len(body) < 4:
            self._warn("the fact chunk is too short to hold a frame count")
        elif self._fact is None:
            self._fact = self._number(body, 0, 4)
        return 0

    cdef int _read_ds64(self, bytes body) except -1:
        if self._container not in (b"RF64", b"BW64") or self._has_ds64:
            self._warn(f"a ds64 chunk at byte {self._at - 8} is left out: it has no place there")
            return 0
        if len(body) < _DS64_BYTES - 4:
            self._warn(f"a ds64 chunk of {len(body)} bytes; {_DS64_BYTES} is the least")
            return 0
        self._has_ds64 = True
        if self._riff_bytes == _UNSET:
            self._riff_bytes = self._number(body, 0, 8)
        self._ds64_data = self._number(body, 8, 8)
        self._ds64_frames = self._number(body, 16, 8)
        rows = min(self._number(body, 24, 4), (len(body) - _DS64_BYTES) // 12)
        for row in range(rows):
            start = _DS64_BYTES + 12 * row
            self._sizes.setdefault(body[start:start + 4], self._number(body, start + 4, 8))
        return 0

    cdef int _read_list(self, bytes body) except -1:
        if body[:4] == b"INFO":
            for ident, text in _split(body, 4, self._byteorder):
                self._texts.setdefault(ident.decode(), _decode(text))
        elif body[:4] == b"adtl":
            for ident, entry in _split(body, 4, self._byteorder):
                point = entry[:4]
                if ident == b"labl" and len(entry) >= 4:
                    self._labels[point] = _decode(entry[4:])  # a labl wins over an ltxt's text
                elif ident == b"note" and len(entry) >= 4:
                    self._notes.setdefault(point, _decode(entry[4:]))
                elif ident == b"ltxt" and len(entry) >= 20:
                    self._lengths.setdefault(point, self._number(entry, 4, 4))
                    if len(entry) > 20:
                        self._labels.setdefault(point, _decode(entry[20:]))
        return 0

    cdef int _read_cues(self, bytes body) except -1:
        cdef Py_ssize_t there = max(0, len(body) - 4) // 24
        declared = self._number(body, 0, 4)
        if declared != there:
            self._warn(f"the cue chunk declares {declared} points, it holds {there}")
        there = min(there, declared)
        if there > CUES_READ_MAX - len(self._points):
            there = CUES_READ_MAX - len(self._points)
            self._warn(f"more than {CUES_READ_MAX} cue points: the rest is left out")
        for start in range(4, 4 + 24 * there, 24):
            self._points.append((body[start:start + 4], self._number(body, start + 20, 4)))
        return 0

    cdef int _read_bext(self, bytes body) except -1:
        if len(body) < 602:
            self._warn(f"a bext chunk of {len(body)} bytes; 602 is the least")
        if len(body) >= 348 and self._bext is None:
            self._bext = Bext(
                description=_decode(body[:256]),
                originator=_decode(body[256:288]),
                originator_reference=_decode(body[288:320]),
                origination_date=_decode(body[320:330]),
                origination_time=_decode(body[330:338]),
                time_reference=self._number(body, 338, 8),
                version=self._number(body, 346, 2),
                coding_history=_decode(body[602:]),
            )
        return 0

    # The result.

    cdef object _count_frames(self, str name):
        blocks = self._data_bytes // self._fmt.block_align
        if name in _PLAIN:
            if self._data_bytes % self._fmt.block_align:
                self._warn(
                    f"{self._data_bytes} bytes of data are no whole number of"
                    f" {self._fmt.block_align}-byte frames"
                )
            if self._fact is not None and self._fact != blocks:
                self._warn(f"the fact chunk says {self._fact} frames, the data holds {blocks}")
            return blocks
        frames = self._fact
        if self._fmt.samples_per_block:
            held = blocks * self._fmt.samples_per_block
            if frames is not None and frames > held:
                self._warn(f"the fact chunk says {frames} frames, the data holds {held}")
            # The last block is filled up: fact alone knows by how much.
            frames = held if frames is None else min(frames, held)
        elif frames is None:
            self._warn("no fact chunk: how many frames the compressed data holds is not known")
            frames = 0
        return frames

    cdef int _check(self, str name) except -1:
        """Name what contradicts itself in the sizes; nothing here changes the result."""
        if not self._riff_is_set():
            self._warn("the RIFF size is not set")
        elif self._file_bytes - 8 not in (self._riff_bytes, self._riff_bytes + (self._riff_bytes & 1)):
            self._warn(f"the RIFF size says {8 + self._riff_bytes} bytes, the file has {self._file_bytes}")
        if self._container in (b"RF64", b"BW64") and not self._has_ds64:
            self._warn(f"{self._container.decode()} without a ds64 chunk")
        if self._has_ds64 and self._has_data and self._ds64_data != self._declared:
            self._warn(f"ds64 says {self._ds64_data} bytes of data, the data chunk {self._declared}")
        if name in _PLAIN:
            sample_bytes = (self._fmt.bits + 7) // 8
            if self._fmt.bits and self._fmt.block_align != self._fmt.channels * sample_bytes:
                self._warn(
                    f"a frame has {self._fmt.block_align} bytes, {self._fmt.channels} channels of"
                    f" {self._fmt.bits} bits take {self._fmt.channels * sample_bytes}"
                )
            byte_rate = <object>self._fmt.sample_rate * self._fmt.block_align
            if self._fmt.byte_rate != byte_rate:
                self._warn(f"the byte rate says {self._fmt.byte_rate}, it is {byte_rate}")
        return 0

    cdef int _finish(self) except -1:
        self._state = _AT_END
        if not self._has_fmt:
            return self._fail("no fmt chunk", min(self._at, self._file_bytes))
        if not self._has_data:
            self._data_offset = self._file_bytes
            self._cut("no data chunk")
        name = _FORMATS.get(self._fmt.tag, "other")
        if self._fact == _UNSET and self._has_ds64:
            self._fact = self._ds64_frames
        elif self._has_ds64 and self._fact is not None and self._ds64_frames not in (0, self._fact):
            self._warn(f"ds64 says {self._ds64_frames} frames, the fact chunk {self._fact}")
        frames = self._count_frames(name)
        self._check(name)
        bits = self._fmt.bits
        if not bits and name in _PLAIN:  # WAVEFORMAT has no field for it
            bits = 8 * (self._fmt.block_align // self._fmt.channels)
        cues = [
            Cue(frame, self._labels.get(point, ""), self._lengths.get(point, 0), self._notes.get(point, ""))
            for point, frame in self._points
        ]
        self._info = Info(
            container=self._container.decode(),
            byte_order=self._byteorder,
            format_tag=self._fmt.tag,
            format=name,
            extensible=bool(self._fmt.extensible),
            channels=self._fmt.channels,
            sample_rate=self._fmt.sample_rate,
            bits_per_sample=bits,
            block_align=self._fmt.block_align,
            byte_rate=self._fmt.byte_rate,
            data_offset=self._data_offset,
            data_bytes=self._data_bytes,
            declared_data_bytes=self._declared,
            frames=frames,
            fact_frames=self._fact,
            info=self._texts,
            cues=tuple(cues),
            bext=self._bext,
            chunks=tuple(self._chunks),
            skipped=tuple(self._skipped),
            warnings=tuple(self._warnings),
            truncated=self._truncated,
        )
        return 0


def parse(data, *, file_bytes=None):
    """What a WAV file holds, from its bytes or from its beginning."""
    cdef Py_buffer view
    cdef Py_ssize_t offset, size
    buffers.clear(&view)
    try:
        buffers.borrow_bytes(data, &view)
        parser = Parser(view.len if file_bytes is None else file_bytes)
        if file_bytes is not None and file_bytes < view.len:
            raise ValueError(f"file_bytes is {file_bytes}, but {view.len} bytes of the file are given")
        while parser.wanted is not None:
            if sum(parser.wanted) > view.len:
                parser.close()
                break
            offset, size = parser.wanted
            parser.feed((<const char *>view.buf)[offset:offset + size])
        return parser.info
    finally:
        buffers.release(&view)


def to_pcm16(data, info):
    """Whole frames of a file's sample data as interleaved 16-bit PCM."""
    cdef Py_buffer source
    cdef char *start = NULL
    cdef size_t samples
    cdef cr_wav_to_s16_fn convert
    if not isinstance(info, Info):
        raise TypeError(f"info must be what parse gives, not {type(info).__name__}")
    sample_bytes, rest = divmod(info.block_align, info.channels)
    convert = cr_wav_converter(info.format_tag, 0 if rest else sample_bytes, info.byte_order == "big")
    if convert == NULL:
        raise WavError(
            f"no conversion to PCM for format {info.format} (tag {info.format_tag:#06x})"
            f" with {info.channels} channels in {info.block_align} bytes"
        )
    buffers.clear(&source)
    try:
        buffers.borrow_bytes(data, &source)
        if source.len % info.block_align:
            raise ValueError(f"{source.len} bytes are not a whole number of {info.block_align}-byte frames")
        samples = <size_t>(source.len // sample_bytes)
        pcm = buffers.new_bytes(<Py_ssize_t>samples * 2, &start)
        if samples < buffers.GIL_MIN_SAMPLES:
            convert(<uint8_t *>start, <const uint8_t *>source.buf, samples)
        else:
            with nogil:
                convert(<uint8_t *>start, <const uint8_t *>source.buf, samples)
        return pcm
    finally:
        buffers.release(&source)
