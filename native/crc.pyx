"""CRC-32C, which S3 takes as a checksum (RFC 3720)."""

cimport buffers
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from operator import index


cdef extern from "callreel/crc32c.h" nogil:
    void cr_crc32c_begin() noexcept
    uint32_t cr_crc32c(uint32_t sum, const uint8_t *data, size_t size) noexcept


cr_crc32c_begin()


def crc32c(data, so_far=0):
    """Compute the CRC-32C of `data`, behind other data whose sum `so_far` is."""
    cdef Py_buffer view
    cdef uint32_t total
    so_far = index(so_far)
    if not 0 <= so_far <= 0xFFFFFFFF:
        raise ValueError(f"{so_far} is no 32-bit sum")
    total = so_far
    buffers.clear(&view)
    try:
        buffers.borrow_bytes(data, &view)
        if view.len < 2 * buffers.GIL_MIN_SAMPLES:
            total = cr_crc32c(total, <const uint8_t *>view.buf, <size_t>view.len)
        else:
            with nogil:
                total = cr_crc32c(total, <const uint8_t *>view.buf, <size_t>view.len)
    finally:
        buffers.release(&view)
    return total
