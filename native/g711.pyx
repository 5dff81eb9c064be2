"""G.711 µ-law and A-law, both ways, over any contiguous bytes-like object (ITU-T G.711, 11/88)."""

cimport buffers
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t


cdef extern from "callreel/g711.h" nogil:
    ctypedef void (*cr_law_decode_fn)(uint8_t *pcm, const uint8_t *codes, size_t samples) noexcept
    ctypedef void (*cr_law_encode_fn)(uint8_t *codes, const uint8_t *pcm, size_t samples) noexcept
    void cr_ulaw_decode_scalar(uint8_t *pcm, const uint8_t *codes, size_t samples) noexcept
    void cr_alaw_decode_scalar(uint8_t *pcm, const uint8_t *codes, size_t samples) noexcept
    void cr_ulaw_encode_scalar(uint8_t *codes, const uint8_t *pcm, size_t samples) noexcept
    void cr_alaw_encode_scalar(uint8_t *codes, const uint8_t *pcm, size_t samples) noexcept


cdef object _decode(cr_law_decode_fn decode, object data, object out):
    cdef Py_buffer codes, pcm
    cdef char *start = NULL
    cdef size_t samples
    cdef object result
    buffers.clear(&codes)
    buffers.clear(&pcm)
    try:
        buffers.borrow_bytes(data, &codes)
        samples = <size_t>codes.len
        if out is None:
            result = buffers.new_bytes(codes.len * 2, &start)
        else:
            buffers.borrow_pcm(out, &pcm, True)
            buffers.need_room(&pcm, codes.len * 2)
            start = <char *>pcm.buf
            result = samples
        if samples < buffers.GIL_MIN_SAMPLES:
            decode(<uint8_t *>start, <const uint8_t *>codes.buf, samples)
        else:
            with nogil:
                decode(<uint8_t *>start, <const uint8_t *>codes.buf, samples)
        return result
    finally:
        buffers.release(&codes)
        buffers.release(&pcm)


cdef object _encode(cr_law_encode_fn encode, object pcm, object out):
    cdef Py_buffer source, codes
    cdef char *start = NULL
    cdef size_t samples
    cdef object result
    buffers.clear(&source)
    buffers.clear(&codes)
    try:
        buffers.borrow_pcm(pcm, &source)
        samples = <size_t>source.len // 2
        if out is None:
            result = buffers.new_bytes(source.len // 2, &start)
        else:
            buffers.borrow_bytes(out, &codes, True)
            buffers.need_room(&codes, source.len // 2)
            start = <char *>codes.buf
            result = samples
        if samples < buffers.GIL_MIN_SAMPLES:
            encode(<uint8_t *>start, <const uint8_t *>source.buf, samples)
        else:
            with nogil:
                encode(<uint8_t *>start, <const uint8_t *>source.buf, samples)
        return result
    finally:
        buffers.release(&source)
        buffers.release(&codes)


def ulaw_decode(data, out=None):
    """Decode µ-law codes to 16-bit PCM: bytes, or with `out=` the number of samples written there."""
    return _decode(cr_ulaw_decode_scalar, data, out)


def alaw_decode(data, out=None):
    """Decode A-law codes to 16-bit PCM: bytes, or with `out=` the number of samples written there."""
    return _decode(cr_alaw_decode_scalar, data, out)


def ulaw_encode(pcm, out=None):
    """Encode 16-bit PCM to µ-law codes: bytes, or with `out=` the number of samples written there."""
    return _encode(cr_ulaw_encode_scalar, pcm, out)


def alaw_encode(pcm, out=None):
    """Encode 16-bit PCM to A-law codes: bytes, or with `out=` the number of samples written there."""
    return _encode(cr_alaw_encode_scalar, pcm, out)
