"""G.711 µ-law and A-law, both ways, over any contiguous bytes-like object (ITU-T G.711, 11/88)."""

cimport buffers
cimport fastcall
cimport isa
from cpython.object cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t


cdef extern from "callreel/g711.h" nogil:
    ctypedef void (*cr_law_decode_fn)(uint8_t *pcm, const uint8_t *codes, size_t samples) noexcept
    ctypedef void (*cr_law_encode_fn)(uint8_t *codes, const uint8_t *pcm, size_t samples) noexcept
    ctypedef struct cr_g711_kernels:
        cr_law_decode_fn ulaw_decode, alaw_decode
        cr_law_encode_fn ulaw_encode, alaw_encode
    cr_g711_kernels cr_g711
    void cr_g711_use(isa.cr_isa isa) noexcept
    isa.cr_isa cr_g711_in_use() noexcept

cr_g711_use(isa.in_use())


def _isa():
    """Name the instruction set whose versions this module calls: for tests."""
    return isa.cr_isa_name(cr_g711_in_use()).decode()


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


# One call per packet is the use these are made for: see fastcall.pxd.

cdef object _call_ulaw_decode(PyObject *unused, PyObject **args, Py_ssize_t count, PyObject *names):
    cdef PyObject *found[2]
    fastcall.data_and_out("ulaw_decode", "data", args, count, names, found)
    return _decode(cr_g711.ulaw_decode, <object>found[0], <object>found[1])


cdef object _call_alaw_decode(PyObject *unused, PyObject **args, Py_ssize_t count, PyObject *names):
    cdef PyObject *found[2]
    fastcall.data_and_out("alaw_decode", "data", args, count, names, found)
    return _decode(cr_g711.alaw_decode, <object>found[0], <object>found[1])


cdef object _call_ulaw_encode(PyObject *unused, PyObject **args, Py_ssize_t count, PyObject *names):
    cdef PyObject *found[2]
    fastcall.data_and_out("ulaw_encode", "pcm", args, count, names, found)
    return _encode(cr_g711.ulaw_encode, <object>found[0], <object>found[1])


cdef object _call_alaw_encode(PyObject *unused, PyObject **args, Py_ssize_t count, PyObject *names):
    cdef PyObject *found[2]
    fastcall.data_and_out("alaw_encode", "pcm", args, count, names, found)
    return _encode(cr_g711.alaw_encode, <object>found[0], <object>found[1])


cdef fastcall.PyMethodDef _ulaw_decode = fastcall.method(
    b"ulaw_decode", _call_ulaw_decode,
    b"ulaw_decode(data, out=None)\n--\n\n"
    b"Decode \xc2\xb5-law codes to 16-bit PCM: bytes, or with `out=` the number of samples written there.")
cdef fastcall.PyMethodDef _alaw_decode = fastcall.method(
    b"alaw_decode", _call_alaw_decode,
    b"alaw_decode(data, out=None)\n--\n\n"
    b"Decode A-law codes to 16-bit PCM: bytes, or with `out=` the number of samples written there.")
cdef fastcall.PyMethodDef _ulaw_encode = fastcall.method(
    b"ulaw_encode", _call_ulaw_encode,
    b"ulaw_encode(pcm, out=None)\n--\n\n"
    b"Encode 16-bit PCM to \xc2\xb5-law codes: bytes, or with `out=` the number of samples written there.")
cdef fastcall.PyMethodDef _alaw_encode = fastcall.method(
    b"alaw_encode", _call_alaw_encode,
    b"alaw_encode(pcm, out=None)\n--\n\n"
    b"Encode 16-bit PCM to A-law codes: bytes, or with `out=` the number of samples written there.")

ulaw_decode = fastcall.function(&_ulaw_decode, __name__)
alaw_decode = fastcall.function(&_alaw_decode, __name__)
ulaw_encode = fastcall.function(&_ulaw_encode, __name__)
alaw_encode = fastcall.function(&_alaw_encode, __name__)
