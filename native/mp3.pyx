"""MP3 framing: frames, tags and the Info frame, read and written; callreel/mpeg_frame.h says how.

Nothing here decodes or encodes audio. Bytes go in, whole or in pieces; nothing opens a file.
"""

import collections
import re
from functools import lru_cache

cimport cython
cimport buffers
from libc.stddef cimport size_t
from libc.stdint cimport int8_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from callreel.errors import Mp3Error, UsageError


cdef extern from "callreel/mpeg_frame.h" nogil:
    enum:
        CR_MPEG_LOOKAHEAD
        CR_STEP_MORE, CR_STEP_END, CR_STEP_FRAME, CR_STEP_TRUNCATED, CR_STEP_TAG, CR_STEP_JUNK
        CR_TAG_ID3V2, CR_TAG_ID3V1
        CR_XING_NONE, CR_XING_XING, CR_XING_INFO, CR_XING_VBRI
        CR_XING_FRAMES, CR_XING_BYTES, CR_XING_TABLE, CR_XING_QUALITY
    const uint32_t[9] cr_mpeg_rates
    const uint16_t[2][16] cr_mpeg_kbps
    ctypedef struct cr_mpeg_header:
        uint32_t word, bitrate_bps, sample_rate, size_bytes
        uint16_t samples
        uint8_t version, rate, mode, channels, padding, crc, side_bytes
    ctypedef struct cr_mpeg_walker:
        pass
    ctypedef struct cr_mpeg_item:
        int kind, tag
        uint64_t size_bytes
        cr_mpeg_header header
    ctypedef struct cr_seek_points:
        uint64_t seen
    ctypedef struct cr_xing:
        uint8_t kind, flags, has_lame, has_delay, tag_crc_ok
        uint8_t[100] table
        uint8_t[9] encoder
        uint8_t revision, method, encoding_flags, ath_type, bitrate_kbps, misc
        int8_t gain
        uint16_t delay_samples, padding_samples, radio_gain, audiophile_gain, preset, music_crc, tag_crc
        uint32_t frames, bytes, quality, lowpass_hz, peak, music_bytes
    ctypedef struct cr_mpeg_scan:
        cr_mpeg_item item
        uint64_t offset, mpeg_frames, music_bytes
        uint64_t[9] samples
        uint64_t first_offset, end_offset, junk_bytes, truncated_offset
        uint32_t bitrate_min_bps, bitrate_max_bps
        cr_mpeg_header first
        uint16_t music_crc
        uint8_t any_frame, truncated, mixed_channels, tags
        uint8_t[5] tag_order
        uint32_t tag_frame_bytes, tag_frame_kept_bytes
        uint8_t[256] tag_frame
        cr_seek_points seek
    uint16_t cr_crc16(uint16_t crc, const uint8_t *data, size_t size) noexcept
    int cr_mpeg_parse(const uint8_t *p, cr_mpeg_header *h) noexcept
    void cr_mpeg_step(cr_mpeg_walker *w, const uint8_t *p, size_t left, int final,
                      cr_mpeg_item *item) noexcept
    void cr_seek_add(cr_seek_points *s, uint64_t offset) noexcept
    void cr_seek_table(const cr_seek_points *s, uint64_t leading, uint64_t total, uint8_t *table) noexcept
    int cr_xing_parse(const uint8_t *frame, size_t size, cr_xing *x) noexcept
    void cr_info_header(uint32_t word, cr_mpeg_header *h) noexcept
    void cr_info_write(uint8_t *frame, const cr_mpeg_header *h, const cr_xing *x) noexcept
    int cr_mpeg_scan_run(cr_mpeg_scan *s, const uint8_t *data, size_t size, int final, size_t *used) noexcept


cdef enum:
    BATCH_FRAMES = 64  # found per borrowing of the buffer by frames()
    PIECE_BYTES = 65536  # a longer chunk is taken in pieces, so that no copy is longer than this
    ID3_KEPT_BYTES = 1 << 20  # of an ID3v2 tag; text beyond is not read

_MODES = ("stereo", "joint stereo", "dual channel", "mono")
_TAG_NAMES = ("", "ID3v2", "ID3v1", "APE", "Lyrics3")
_XING_KINDS = ("", "Xing", "Info", "VBRI")
_FILE_MAX_BYTES = 1 << 40  # of what a seek table can speak: its products stay within 64 bits

Frame = collections.namedtuple("Frame", (
    "offset", "size_bytes", "mpeg_version", "layer", "bitrate_bps", "sample_rate", "channels", "mode",
    "samples", "padding", "crc",
), module=__name__)
Frame.__doc__ = "One MPEG audio frame, as its header tells it."

Xing = collections.namedtuple("Xing", (
    "kind", "mpeg_frames", "total_bytes", "seek_table", "quality", "encoder", "vbr_method", "lowpass_hz",
    "peak", "radio_gain_db", "audiophile_gain_db", "bitrate_kbps", "encoder_delay_samples", "padding_samples",
    "music_bytes", "music_crc", "music_crc_ok", "tag_crc", "tag_crc_ok",
), module=__name__)
Xing.__doc__ = "What a Xing, Info or VBRI frame says; None where it says nothing."

Info = collections.namedtuple("Info", (
    "mpeg_version", "sample_rate", "channels", "mode", "mpeg_frames", "samples", "frames_pcm", "duration_s",
    "bitrate_min_bps", "bitrate_max_bps", "bitrate_avg_bps", "vbr", "first_frame_offset", "music_bytes",
    "music_crc", "junk_bytes", "tags", "id3", "xing", "encoder_delay_samples", "padding_samples", "truncated",
    "warnings",
), module=__name__)
Info.__doc__ = "What a whole MP3 file is."


cdef str _version(const cr_mpeg_header *h):
    return "1" if h.version == 1 else "2" if h.version == 2 else "2.5"


cdef object _frame(uint64_t offset, const cr_mpeg_header *h):
    return tuple.__new__(Frame, (
        offset, h.size_bytes, _version(h), 3, h.bitrate_bps, h.sample_rate, h.channels, _MODES[h.mode],
        h.samples, h.padding != 0, h.crc != 0,
    ))


def crc16(data, crc=0):
    """CRC-16 as LAME uses it (polynomial 0x8005 reflected), continued from `crc`."""
    cdef Py_buffer view
    cdef uint16_t value
    if not 0 <= crc <= 0xFFFF:
        raise ValueError(f"crc={crc} is not a 16-bit number")
    value = crc
    buffers.clear(&view)
    try:
        buffers.borrow_bytes(data, &view)
        if view.len < buffers.GIL_MIN_SAMPLES:
            value = cr_crc16(value, <const uint8_t *>view.buf, <size_t>view.len)
        else:
            with nogil:
                value = cr_crc16(value, <const uint8_t *>view.buf, <size_t>view.len)
        return value
    finally:
        buffers.release(&view)


cdef class _FrameIterator:
    """Finds a batch of frames at a time, so that the buffer is borrowed seldom and held never."""

    cdef object data
    cdef uint64_t offset
    cdef cr_mpeg_walker walker
    cdef cr_mpeg_header[BATCH_FRAMES] headers
    cdef uint64_t[BATCH_FRAMES] offsets
    cdef int held, given
    cdef bint busy

    def __cinit__(self, data, uint64_t offset):
        memset(&self.walker, 0, sizeof(cr_mpeg_walker))
        self.data = data
        self.offset = offset

    def __iter__(self):
        return self

    cdef void _find(self, const uint8_t *data, uint64_t size) noexcept nogil:
        cdef cr_mpeg_item item
        while self.held < BATCH_FRAMES and self.offset < size:
            cr_mpeg_step(&self.walker, data + self.offset, size - self.offset, True, &item)
            if item.kind == CR_STEP_FRAME:
                self.headers[self.held] = item.header
                self.offsets[self.held] = self.offset
                self.held += 1
            self.offset += item.size_bytes

    cdef object _find_more(self):
        cdef Py_buffer view
        self.given = self.held = 0
        buffers.clear(&view)
        try:
            buffers.borrow_bytes(self.data, &view)
            if self.offset < <uint64_t>view.len and view.len - self.offset > buffers.GIL_MIN_SAMPLES:
                with nogil:
                    self._find(<const uint8_t *>view.buf, view.len)
            else:
                self._find(<const uint8_t *>view.buf, view.len)
        finally:
            buffers.release(&view)

    def __next__(self):
        cdef bint busy
        cdef int i
        with cython.critical_section(self):
            busy = self.busy
            self.busy = True
        if busy:
            raise UsageError("frames() is being iterated by another thread")
        try:
            if self.given == self.held and self.data is not None:
                self._find_more()
            if self.given == self.held:
                self.data = None
                raise StopIteration
            i = self.given
            self.given += 1
            return _frame(self.offsets[i], &self.headers[i])
        finally:
            with cython.critical_section(self):
                self.busy = False


def frames(data, offset=0):
    """Iterate over the MPEG layer III frames in `data` from `offset` on, tags and junk stepped over.

    The Xing or Info frame is one of them; a frame that the end of the data cuts short is not.
    """
    cdef Py_buffer view
    if offset < 0:
        raise ValueError(f"offset={offset} is before the beginning")
    buffers.clear(&view)
    try:
        buffers.borrow_bytes(data, &view)  # TypeError here, not at the first frame
    finally:
        buffers.release(&view)
    return _FrameIterator(data, min(offset, (1 << 63) - 1))


cdef object _gain_db(uint16_t field):
    # Name code 0: not set.
    if field >> 13 == 0:
        return None
    return (-1 if field & 0x200 else 1) * (field & 0x1FF) / 10.0


cdef object _xing(const cr_xing *x, object music_crc):
    cdef bint lame = x.has_lame != 0, delay = x.has_delay != 0
    cdef int i
    return tuple.__new__(Xing, (
        _XING_KINDS[x.kind],
        x.frames if x.flags & CR_XING_FRAMES else None,
        x.bytes if x.flags & CR_XING_BYTES else None,
        tuple([x.table[i] for i in range(100)]) if x.flags & CR_XING_TABLE else None,
        x.quality if x.flags & CR_XING_QUALITY else None,
        (<bytes>x.encoder[:9]).decode("latin-1").rstrip("\0 ") if lame else None,
        x.method if lame else None,
        x.lowpass_hz if lame else None,
        x.peak / 8388608.0 if lame else None,  # 23 bits after the point
        _gain_db(x.radio_gain) if lame else None,
        _gain_db(x.audiophile_gain) if lame else None,
        x.bitrate_kbps if lame else None,
        x.delay_samples if delay else None,
        x.padding_samples if delay else None,
        x.music_bytes if lame else None,
        x.music_crc if lame else None,
        # No bytes of music: the writer has not come back to fill these in.
        x.music_crc == music_crc if lame and x.music_bytes and music_crc is not None else None,
        x.tag_crc if lame else None,
        x.tag_crc_ok != 0 if lame else None,
    ))


def xing(frame):
    """Read the Xing, Info or VBRI header of an MPEG frame; None when it holds none.

    `music_crc_ok` stays None: only scan() has seen the music.
    """
    cdef Py_buffer view
    cdef cr_xing x
    buffers.clear(&view)
    try:
        buffers.borrow_bytes(frame, &view)
        return _xing(&x, None) if cr_xing_parse(<const uint8_t *>view.buf, <size_t>view.len, &x) else None
    finally:
        buffers.release(&view)


def header(sample_rate, channels, bitrate_kbps, *, mode=None):
    """Build a frame header of four bytes: no CRC, no padding, marked as an original.

    `mode` is "stereo", "joint stereo", "dual channel" or "mono"; by default mono or joint stereo, by
    `channels`. ValueError for what MPEG audio has no code for.
    """
    cdef int rate, index
    if mode is None:
        mode = "mono" if channels == 1 else "joint stereo"
    if channels not in (1, 2) or mode not in _MODES or (mode == "mono") != (channels == 1):
        raise ValueError(f"{channels} channels in mode {mode!r}")
    for rate in range(9):
        if cr_mpeg_rates[rate] == sample_rate:
            break
    else:
        raise ValueError(f"MPEG audio has no sample rate of {sample_rate} Hz")
    for index in range(1, 15):
        if cr_mpeg_kbps[rate >= 3][index] == bitrate_kbps:
            break
    else:
        raise ValueError(f"MPEG audio layer III has no {bitrate_kbps} kbit/s at {sample_rate} Hz")
    version = 3 if rate < 3 else 2 if rate < 6 else 0
    word = 0xFFE30004 | version << 19 | index << 12 | (rate % 3) << 10 | _MODES.index(mode) << 6
    return word.to_bytes(4, "big")


cdef object _need(object value, str name, object limit):
    if not 0 <= value < limit:
        raise ValueError(f"{name}={value} is not within 0 and {limit - 1}")
    return value


cdef int _fill_table(object seek_table, uint8_t *table) except -1:
    cdef int i
    values = [_need(value, "seek_table", 256) for value in seek_table]
    if len(values) != 100:
        raise ValueError(f"a seek table has 100 entries, not {len(values)}")
    for i in range(100):
        table[i] = values[i]
    return 0


def info_frame(
    header, *, vbr=False, mpeg_frames=None, total_bytes=None, seek_table=None, quality=None,
    encoder="LAME3.100", vbr_method=None, lowpass_hz=0, encoder_delay_samples=0, padding_samples=0,
    music_bytes=None, music_crc=0,
):
    """Build the Info frame (Xing when `vbr`) that stands before the first frame of a stream.

    `header` is the header of any frame of the stream (four bytes, more are ignored). Counts and tables left
    None are absent, which is right for a file still growing. The length depends on `header` alone, so the
    frame can be reserved and written again later. This frame counts in `total_bytes`, not in `mpeg_frames`.
    """
    cdef Py_buffer view
    cdef cr_mpeg_header h
    cdef cr_xing x
    cdef char *start = NULL
    memset(&x, 0, sizeof(x))
    name = encoder.encode("ascii")
    if len(name) > 9 or not name[:1].isalnum():
        raise ValueError(f"encoder={encoder!r} is not a name of up to 9 characters")
    x.kind = CR_XING_XING if vbr else CR_XING_INFO
    if mpeg_frames is not None:
        x.flags |= CR_XING_FRAMES
        x.frames = _need(mpeg_frames, "mpeg_frames", 1 << 32)
    if total_bytes is not None:
        x.flags |= CR_XING_BYTES
        x.bytes = _need(total_bytes, "total_bytes", 1 << 32)
        x.music_bytes = x.bytes
    if seek_table is not None:
        x.flags |= CR_XING_TABLE
        _fill_table(seek_table, x.table)
    if quality is not None:
        x.flags |= CR_XING_QUALITY
        x.quality = _need(quality, "quality", 101)
    memcpy(x.encoder, <const char *>name, len(name))
    x.method = _need(vbr_method, "vbr_method", 16) if vbr_method is not None else 4 if vbr else 1
    x.lowpass_hz = _need(lowpass_hz, "lowpass_hz", 25600)
    x.delay_samples = _need(encoder_delay_samples, "encoder_delay_samples", 4096)
    x.padding_samples = _need(padding_samples, "padding_samples", 4096)
    if music_bytes is not None:
        x.music_bytes = _need(music_bytes, "music_bytes", 1 << 32)
    x.music_crc = _need(music_crc, "music_crc", 1 << 16)
    buffers.clear(&view)
    try:
        buffers.borrow_bytes(header, &view)
        if view.len < 4 or not cr_mpeg_parse(<const uint8_t *>view.buf, &h):
            raise ValueError("header= is not the header of an MPEG audio layer III frame")
    finally:
        buffers.release(&view)
    x.bitrate_kbps = min(255, h.bitrate_bps // 1000)
    # Stereo mode: mono 0, stereo 1, dual 2, joint 3. Source rate: 0 up to 32 kHz, 1 44.1, 2 48 kHz.
    x.misc = <uint8_t>((0, 1, 3, 2)[(h.mode + 1) % 4] << 2
                       | (1 if h.sample_rate == 44100 else 2 if h.sample_rate == 48000 else 0) << 6)
    cr_info_header(h.word, &h)
    result = buffers.new_bytes(h.size_bytes, &start)
    cr_info_write(<uint8_t *>start, &h, &x)
    return result


cdef list _table(const cr_seek_points *points, object leading_bytes, object total_bytes):
    cdef uint8_t[100] table
    cdef int i
    _need(total_bytes, "total_bytes", _FILE_MAX_BYTES)
    _need(leading_bytes, "leading_bytes", total_bytes + 1)
    cr_seek_table(points, leading_bytes, total_bytes, table)
    return [table[i] for i in range(100)]


def seek_table(frame_offsets, total_bytes):
    """The 100 entries of a Xing seek table: the 256th of the file where each hundredth of the time begins.

    `frame_offsets` are the bytes at which the frames with music begin, ascending, counted from the Xing
    frame's first byte, as are `total_bytes`. Exact to one frame up to 512 frames, beyond that to 1/256 of the
    frames.
    """
    cdef cr_seek_points points
    cdef uint64_t previous = 0, value
    memset(&points, 0, sizeof(points))
    for offset in frame_offsets:
        value = _need(offset, "frame_offsets", total_bytes + 1)
        if value < previous:
            raise ValueError(f"frame_offsets do not ascend at {offset}")
        previous = value
        cr_seek_add(&points, value)
    return _table(&points, 0, total_bytes)


# ---- ID3 ----

# ID3v2.2 text frames under the names they have in ID3v2.3.
_ID3V22 = {
    "TT1": "TIT1", "TT2": "TIT2", "TT3": "TIT3", "TP1": "TPE1", "TP2": "TPE2", "TP3": "TPE3", "TP4": "TPE4",
    "TCM": "TCOM", "TXT": "TEXT", "TLA": "TLAN", "TCO": "TCON", "TAL": "TALB", "TPA": "TPOS", "TRK": "TRCK",
    "TRC": "TSRC", "TYE": "TYER", "TDA": "TDAT", "TIM": "TIME", "TRD": "TRDA", "TMT": "TMED", "TFT": "TFLT",
    "TBP": "TBPM", "TCR": "TCOP", "TPB": "TPUB", "TEN": "TENC", "TSS": "TSSE", "TOF": "TOFN", "TLE": "TLEN",
    "TSI": "TSIZ", "TDY": "TDLY", "TKE": "TKEY", "TOT": "TOAL", "TOA": "TOPE", "TOL": "TOLY", "TOR": "TORY",
    "TXX": "TXXX",
}
_ID3_ENCODINGS = ("latin-1", "utf-16", "utf-16-be", "utf-8")
_ID3_FRAME = re.compile(rb"[A-Z][A-Z0-9]{3}")
_ID3_KEY = re.compile(r"T(?!XXX)[A-Z0-9]{3}")


@lru_cache(64)
def _id3_key(key):
    """A frame's id, and what stands before its text: those of one program are few."""
    is_own = key.startswith("TXXX:")
    if (len(key) == 5) if is_own else _ID3_KEY.fullmatch(key) is None:
        raise ValueError(f"{key!r} is not an ID3v2.4 text frame")
    if "\0" in key:
        raise ValueError(f"{key!r}: a NUL would end the text")
    return key[:4].encode(), key[5:].encode() + b"\0" if is_own else b""


cdef object _syncsafe(bytes four):
    return four[0] << 21 | four[1] << 14 | four[2] << 7 | four[3]


cdef bytes _syncsafe_bytes(object value):
    cdef uint32_t size = value
    cdef uint8_t[4] seven
    cdef int i
    for i in range(4):
        seven[i] = size >> (21 - 7 * i) & 127
    return (<char *>seven)[:4]


cdef list _id3_strings(bytes body):
    """The strings of a text frame: first its encoding, then text ended or separated by NULs."""
    if not body or body[0] >= len(_ID3_ENCODINGS):
        return []
    text = body[1:]
    if body[0] == 1 and text[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        text = b"\xff\xfe" + text  # no byte order mark: what wrote it was a PC
    parts = text.decode(_ID3_ENCODINGS[body[0]], "replace").split("\0")
    if body[0] == 1:
        # Each further string has a byte order mark of its own; U+FFFE is one of the other order.
        parts = [part.encode("utf-16-le").decode("utf-16-be", "replace") if part[:1] == "\ufffe" else part
                 for part in parts]
    return [part.lstrip("\ufeff") for part in parts]


cdef object _id3_parse(bytes tag, object whole_bytes, dict texts, list warnings):
    """Collect the text frames of an ID3v2 tag, header included, in `texts`; damage ends it and is told."""
    major, flags = tag[3], tag[5]
    if major not in (2, 3, 4):
        warnings.append(f"ID3v2.{major} is not known: its frames are not read")
        return
    head = 6 if major == 2 else 10
    at = 10
    end = min(len(tag), 10 + _syncsafe(tag[6:10]))
    if flags & 0x80 and major < 4:  # unsynchronised as a whole; ID3v2.4 does so frame by frame
        tag = tag[:10] + tag[10:end].replace(b"\xff\x00", b"\xff")
        end = len(tag)
    if flags & 0x40 and major > 2 and end >= 14:  # extended header
        at += _syncsafe(tag[10:14]) if major == 4 else 4 + int.from_bytes(tag[10:14], "big")
    while at + head <= end and tag[at]:
        name = tag[at:at + (3 if major == 2 else 4)]
        if not _ID3_FRAME.fullmatch(name + b"A" if major == 2 else name):
            warnings.append(f"ID3v2 tag: no frame at byte {at} of it")
            return
        if major == 2:
            size = int.from_bytes(tag[at + 3:at + 6], "big")
        else:
            size = int.from_bytes(tag[at + 4:at + 8], "big")
            if major == 4 and not any(byte & 0x80 for byte in tag[at + 4:at + 8]):
                # Some writers of ID3v2.4 forgot that the size is syncsafe; what stands behind it tells.
                plain, size = size, _syncsafe(tag[at + 4:at + 8])
                if size != plain and not _id3_frame_ends(tag, at + 10 + size, end) \
                        and _id3_frame_ends(tag, at + 10 + plain, end):
                    size = plain
        body = tag[at + head:at + head + size]
        key = name.decode("ascii")
        if at + head + size > end:
            if len(tag) < whole_bytes and end == len(tag):
                warnings.append(f"ID3v2 tag of {whole_bytes} bytes: text was looked for in {len(tag)}")
            else:
                warnings.append(f"ID3v2 frame {key} runs past the end of its tag")
            return
        if key[0] == "T":
            if major == 2:
                key = _ID3V22.get(key)
            else:
                body = _id3_unwrap(body, tag[at + 9], major, flags)
            if key is not None and body is not None:
                _id3_keep(key, _id3_strings(body), texts)
        at += head + size


cdef bint _id3_frame_ends(bytes tag, object at, object end):
    return at == end or (at < end and tag[at] == 0) or (
        at + 10 <= end and _ID3_FRAME.fullmatch(tag[at:at + 4]) is not None)


cdef object _id3_unwrap(bytes body, int format_flags, int major, int flags):
    """Undo what a frame's flags say; None when the text is compressed or encrypted."""
    if major == 3:
        if format_flags & 0xC0:
            return None
        return body[1:] if format_flags & 0x20 else body  # group
    if format_flags & 0x0C:
        return None
    if format_flags & 0x40:  # group
        body = body[1:]
    if format_flags & 0x01:  # data length
        body = body[4:]
    return body.replace(b"\xff\x00", b"\xff") if format_flags & 0x02 or flags & 0x80 else body


cdef object _id3_keep(str key, list strings, dict texts):
    if not strings:
        return
    if key == "TXXX":
        if len(strings) < 2:
            return
        key = f"TXXX:{strings[0]}"
        strings = strings[1:]
    # Several values: "/" between them, as ID3v2.3 has it. NULs at the end are padding.
    texts.setdefault(key, "\0".join(strings).rstrip("\0").replace("\0", "/"))


cdef object _id3v1(bytes tag, dict texts):
    """Add what ID3v1 or 1.1 says and ID3v2 did not."""
    fields = [("TIT2", tag[3:33]), ("TPE1", tag[33:63]), ("TALB", tag[63:93]), ("TDRC", tag[93:97]),
              ("COMM", tag[97:127])]
    if tag[125] == 0 and tag[126] != 0:
        fields[4] = ("COMM", tag[97:125])
        texts.setdefault("TRCK", str(tag[126]))
    for key, field in fields:
        text = field.split(b"\0")[0].decode("latin-1").rstrip()
        if text:
            texts.setdefault(key, text)
    if tag[127] != 255:
        texts.setdefault("TCON", str(tag[127]))  # the number in ID3v1's list, as ID3v2.4 writes it


def id3(tags, padding_bytes=0, *, size_bytes=None):
    """Build an ID3v2.4 tag of UTF-8 text frames: `{"TIT2": …, "TXXX:description": …}`.

    `padding_bytes` of zeros follow the frames; or `size_bytes` fixes the whole length, so that values can be
    written again later. ValueError for a key that is no text frame's, for a NUL, and when it does not fit.
    """
    cdef list frames = []
    cdef tuple known
    for key, value in tags.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"ID3 keys and values are text, not {key!r}: {value!r}")
        known = _id3_key(key)
        if "\0" in value:
            raise ValueError(f"{key!r}: a NUL would end the text")
        text = known[1] + value.encode()
        _need(len(text) + 1, "frame size", 1 << 28)
        frames += (known[0], _syncsafe_bytes(len(text) + 1), b"\0\0\x03", text)
    body = b"".join(frames)
    if not body:
        raise ValueError("an ID3v2 tag holds at least one frame")
    if size_bytes is not None:
        if padding_bytes:
            raise ValueError("padding_bytes and size_bytes exclude each other")
        if size_bytes < 10 + len(body):
            raise ValueError(f"the tag needs {10 + len(body)} bytes, not {size_bytes}")
        padding_bytes = size_bytes - 10 - len(body)
    _need(padding_bytes, "padding_bytes", 1 << 28)
    _need(len(body) + padding_bytes, "tag size", 1 << 28)
    return b"ID3\x04\0\0" + _syncsafe_bytes(len(body) + padding_bytes) + body + bytes(padding_bytes)


# ---- a whole file ----

cdef class Scanner:
    """Reads an MP3 file in pieces of any size and in little memory: feed() it all, then finish().

    Belongs to one thread at a time.
    """

    cdef cr_mpeg_scan scan
    cdef uint64_t skip_bytes       # of a tag, still to come
    cdef uint64_t tag_bytes        # of the tag being passed over
    cdef uint64_t search_offset    # where the first frame was looked for
    cdef bytearray pending         # fed, not decided
    cdef bytearray kept            # the tag being passed over, when it is to be read
    cdef int kept_tag
    cdef bint id3v2_seen, finished, busy
    cdef bytes id3v1
    cdef dict texts
    cdef list warnings

    def __cinit__(self):
        memset(&self.scan, 0, sizeof(cr_mpeg_scan))
        self.pending = bytearray()
        self.texts = {}
        self.warnings = []

    cdef size_t _pass_tag(self, const uint8_t *data, size_t size):
        """Go over as much of the current tag as is at hand; keep ID3's bytes, read when it is complete."""
        cdef uint64_t count = min(<uint64_t>size, self.skip_bytes)
        cdef uint64_t room
        if self.kept is not None and <uint64_t>len(self.kept) < ID3_KEPT_BYTES:
            room = min(count, <uint64_t>(ID3_KEPT_BYTES - len(self.kept)))
            self.kept += (<const char *>data)[:room]
        self.skip_bytes -= count
        self.scan.offset += count
        if self.skip_bytes == 0:
            if self.kept is not None:
                if self.kept_tag == CR_TAG_ID3V2:
                    _id3_parse(bytes(self.kept), self.tag_bytes, self.texts, self.warnings)
                else:
                    self.id3v1 = bytes(self.kept)
                self.kept = None
            if not self.scan.any_frame and not self.scan.junk_bytes:
                self.search_offset = self.scan.offset
        return <size_t>count

    cdef size_t _run(self, const uint8_t *data, size_t size, bint final):
        """Take in what can be decided; returns how many bytes are done with."""
        cdef size_t at = 0
        cdef int kind
        while True:
            if self.skip_bytes:
                at += self._pass_tag(data + at, size - at)
                if self.skip_bytes:
                    return at
            if size - at < buffers.GIL_MIN_SAMPLES:
                kind = cr_mpeg_scan_run(&self.scan, data, size, final, &at)
            else:
                with nogil:
                    kind = cr_mpeg_scan_run(&self.scan, data, size, final, &at)
            if kind != CR_STEP_TAG:
                return at
            self.skip_bytes = self.tag_bytes = self.scan.item.size_bytes
            # The first ID3v2 tag is the file's; the last ID3v1 tag is.
            self.kept_tag = self.scan.item.tag
            if self.kept_tag == CR_TAG_ID3V1 or (self.kept_tag == CR_TAG_ID3V2 and not self.id3v2_seen):
                self.kept = bytearray()
            self.id3v2_seen = self.id3v2_seen or self.kept_tag == CR_TAG_ID3V2

    cdef object _take_pending(self, bint final):
        cdef Py_buffer view
        cdef size_t used = 0
        buffers.clear(&view)
        try:
            buffers.borrow_bytes(self.pending, &view)
            used = self._run(<const uint8_t *>view.buf, <size_t>view.len, final)
        finally:
            buffers.release(&view)
        del self.pending[:used]

    cdef object _enter(self):
        cdef bint busy
        with cython.critical_section(self):
            busy = self.busy
            self.busy = True
        if busy:
            raise UsageError("this Scanner is in use by another thread")

    cdef object _enter_unfinished(self):
        self._enter()
        if self.finished:
            self._leave()
            raise UsageError("this Scanner has finished")

    cdef void _leave(self) noexcept:
        with cython.critical_section(self):
            self.busy = False

    def feed(self, chunk):
        """Take the next bytes of the file, any number of them."""
        cdef Py_buffer view
        cdef Py_ssize_t at = 0, count
        self._enter_unfinished()
        buffers.clear(&view)
        try:
            buffers.borrow_bytes(chunk, &view)
            while at < view.len:
                count = min(view.len - at, <Py_ssize_t>PIECE_BYTES)
                self.pending += (<const char *>view.buf + at)[:count]
                at += count
                # Twice the least that can be decided upon, so that small chunks are moved seldom.
                if len(self.pending) >= 2 * CR_MPEG_LOOKAHEAD:
                    self._take_pending(False)
        finally:
            buffers.release(&view)
            self._leave()

    def finish(self):
        """The file ends here: what it is. Raises Mp3Error when it holds no frame of MPEG audio layer III."""
        self._enter_unfinished()
        try:
            self._take_pending(True)
            self.finished = True
            return self._info()
        finally:
            self._leave()

    cdef object _whole(self, object data):
        cdef Py_buffer view
        buffers.clear(&view)
        try:
            buffers.borrow_bytes(data, &view)
            self._run(<const uint8_t *>view.buf, <size_t>view.len, True)
        finally:
            buffers.release(&view)
        self.finished = True
        return self._info()

    def seek_table(self, total_bytes, leading_bytes=0):
        """The 100 entries of a Xing seek table over the frames with music seen so far.

        `leading_bytes` are those of an Info frame before what was fed; `total_bytes` include them.
        """
        self._enter()
        try:
            _need(self.scan.end_offset, "bytes fed", total_bytes + 1)
            return _table(&self.scan.seek, leading_bytes, total_bytes)
        finally:
            self._leave()

    cdef object _info(self):
        cdef cr_mpeg_scan *s = &self.scan
        cdef cr_xing x
        cdef int i
        warnings = self.warnings
        if self.skip_bytes:
            offset = s.offset + self.skip_bytes - self.tag_bytes
            cut = f"{_TAG_NAMES[s.item.tag]} tag of {self.tag_bytes} bytes at byte {offset} runs past the end"
            if not s.any_frame:
                raise Mp3Error(f"no MPEG audio layer III frame: {cut}", offset=offset)
            warnings.append(cut)
            if self.kept is not None and self.kept_tag == CR_TAG_ID3V2:
                _id3_parse(bytes(self.kept), self.tag_bytes, self.texts, warnings)
        if not s.any_frame:
            raise Mp3Error("no MPEG audio layer III frame", offset=self.search_offset)
        if self.id3v1 is not None:
            _id3v1(self.id3v1, self.texts)

        samples = sum(s.samples[i] for i in range(9))
        duration_s = seconds = self._seconds()
        rates = [cr_mpeg_rates[i] for i in range(9) if s.samples[i]]
        said = None
        delay = padding = None
        if s.tag_frame_bytes:
            cr_xing_parse(s.tag_frame, s.tag_frame_kept_bytes, &x)
            said = _xing(&x, s.music_crc)
            delay, padding = said.encoder_delay_samples, said.padding_samples
            self._compare(said)
        frames_pcm = samples
        if delay is not None:
            frames_pcm = max(0, samples - delay - padding)
            duration_s = max(0.0, duration_s - <double>(delay + padding) / s.first.sample_rate)
            if delay + padding > samples:
                warnings.append(f"{delay + padding} samples of delay and padding, the file holds {samples}")
        if s.truncated:
            warnings.append(f"the MPEG frame at byte {s.truncated_offset} is cut short")
        if len(rates) > 1:
            warnings.append("mixed sample rates: " + ", ".join(f"{rate} Hz" for rate in sorted(rates)))
        if s.mixed_channels:
            warnings.append("mixed mono and stereo frames")
        vbr = s.bitrate_min_bps != s.bitrate_max_bps or (said is not None and said.kind != "Info")
        return tuple.__new__(Info, (
            _version(&s.first), s.first.sample_rate, s.first.channels, _MODES[s.first.mode], s.mpeg_frames,
            samples, frames_pcm, duration_s, s.bitrate_min_bps, s.bitrate_max_bps,
            round(s.music_bytes * 8 / seconds) if seconds else 0, vbr, s.first_offset, s.music_bytes,
            s.music_crc, s.junk_bytes, tuple([_TAG_NAMES[s.tag_order[i]] for i in range(s.tags)]), self.texts,
            said, delay, padding, s.truncated != 0, tuple(warnings),
        ))

    cdef double _seconds(self) noexcept:
        cdef double seconds = 0.0
        cdef int i
        for i in range(9):
            seconds += <double>self.scan.samples[i] / cr_mpeg_rates[i]
        return seconds

    cdef object _compare(self, object said):
        """Warn of everything in which the Xing frame and the file disagree."""
        cdef cr_mpeg_scan *s = &self.scan
        stream_bytes = s.end_offset - s.first_offset
        if said.mpeg_frames is not None and said.mpeg_frames != s.mpeg_frames:
            self._disagree(said.kind, said.mpeg_frames, "MPEG frames", s.mpeg_frames)
        if said.total_bytes is not None and said.total_bytes != stream_bytes:
            self._disagree(said.kind, said.total_bytes, "bytes", stream_bytes)
        if said.tag_crc_ok is False:
            self.warnings.append(f"{said.kind} frame: its own CRC is wrong")
        if said.music_crc_ok is False:
            self.warnings.append(f"{said.kind} frame: the CRC of the music is wrong")

    cdef object _disagree(self, str kind, object said, str what, object found):
        self.warnings.append(f"{kind} frame: {said} {what}, the file holds {found}")


def scan(data):
    """Say what a whole MP3 file is. Raises Mp3Error when it holds no MPEG audio layer III frame."""
    cdef Scanner scanner = Scanner()
    return scanner._whole(data)
