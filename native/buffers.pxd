"""Borrowing of Python buffers for every kernel; inline, so no module exists for it.

A kernel entry has one shape: `clear` each view, `borrow` inside `try`, compute, release in `finally`.
Releasing a cleared view does nothing, so one `finally` serves all partial failures.
"""

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_WRITABLE
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.string cimport memset
from libc.stdint cimport int16_t


cdef extern from "Python.h":
    int PyObject_GetBuffer(object obj, Py_buffer *view, int flags) except -1
    void PyBuffer_Release(Py_buffer *view)


# Below this many samples a call keeps the GIL: handing it over costs more than the work (docs/architecture.md).
cdef enum:
    GIL_MIN_SAMPLES = 4096


cdef inline void clear(Py_buffer *view) noexcept:
    """Make `view` safe to release although nothing was borrowed."""
    memset(view, 0, sizeof(Py_buffer))


cdef inline void release(Py_buffer *view) noexcept:
    """Give a borrowed buffer back; a cleared view is left alone."""
    PyBuffer_Release(view)


cdef inline bint _is_byte_format(const char *format) noexcept:
    # NULL means unsigned bytes (PEP 3118).
    return format == NULL or ((format[0] == b"B" or format[0] == b"b" or format[0] == b"c") and format[1] == 0)


cdef inline bint _is_int16_format(const char *format) noexcept:
    if format[0] == b"<" or format[0] == b"=" or format[0] == b"@":
        format += 1
    return format[0] == b"h" and format[1] == 0


cdef inline int borrow_bytes(object source, Py_buffer *view, bint writable=False) except -1:
    """Borrow a contiguous buffer of single bytes; TypeError for any other item type."""
    PyObject_GetBuffer(source, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (PyBUF_WRITABLE if writable else 0))
    if not _is_byte_format(view.format):
        raise TypeError(f"need a buffer of bytes, not of items '{view.format.decode()}'")
    return 0


cdef inline int borrow_pcm(object source, Py_buffer *view, bint writable=False) except -1:
    """Borrow contiguous signed 16-bit PCM: an int16 buffer, or bytes of even length.

    The address may be odd: kernels load and store samples with memcpy or unaligned instructions.
    """
    PyObject_GetBuffer(source, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (PyBUF_WRITABLE if writable else 0))
    if not (_is_byte_format(view.format) or _is_int16_format(view.format)):
        raise TypeError(f"need 16-bit PCM or bytes, not items '{view.format.decode()}'")
    if view.len % 2:
        raise ValueError(f"{view.len} bytes are not a whole number of 16-bit samples")
    return 0


cdef inline bytes new_bytes(Py_ssize_t size, char **start):
    """A new bytes object of `size` bytes to fill through `start` before anyone sees it."""
    cdef bytes result = PyBytes_FromStringAndSize(NULL, size)
    start[0] = PyBytes_AsString(result)
    return result


cdef inline int need_room(Py_buffer *view, Py_ssize_t size_bytes) except -1:
    """ValueError unless `view` holds at least `size_bytes`; checked before the first byte is written."""
    if view.len < size_bytes:
        raise ValueError(f"out= has room for {view.len} bytes, {size_bytes} are needed")
    return 0
