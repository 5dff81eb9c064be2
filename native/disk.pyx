"""Many writes to many files in one go, without the GIL.

A thread that writes a little to each of thousands would else hand it over with every one of them.

The work is done in include/callreel/disk_writes.h, on descriptors that the caller opened.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t


cdef extern from "callreel/disk_writes.h" nogil:
    enum:
        CR_DISK_IS_SERVED
    ctypedef struct cr_disk_write:
        int descriptor, error
        int64_t offset
        const char *data
        size_t size_bytes
    void cr_disk_write_all(cr_disk_write *writes, size_t count) noexcept


if not CR_DISK_IS_SERVED:
    raise ImportError("callreel.kernels.disk needs pwrite")


def write_all(writes):
    """Write all (descriptor, offset, bytes) in their order; {number of a write: errno} of those that failed."""
    cdef list wanted = list(writes)
    cdef Py_ssize_t count = len(wanted), i
    cdef cr_disk_write *table
    if count == 0:
        return {}
    table = <cr_disk_write *>PyMem_Malloc(count * sizeof(cr_disk_write))
    if table == NULL:
        raise MemoryError
    try:
        for i in range(count):
            descriptor, offset, data = wanted[i]
            if type(data) is not bytes or offset < 0:
                raise ValueError("a write is a descriptor, an offset from 0 on, and bytes")
            table[i].descriptor = descriptor
            table[i].error = 0
            table[i].offset = offset
            table[i].data = <const char *><bytes>data
            table[i].size_bytes = <size_t>len(data)
        with nogil:
            cr_disk_write_all(table, <size_t>count)
        return {i: table[i].error for i in range(count) if table[i].error}
    finally:
        PyMem_Free(table)
