"""What a spool asks of a disk, in as few calls as can be, without the GIL.

A thread that does a little with each of thousands of files would else hand it over with every step.

The work is done in include/callreel/disk_writes.h.
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
    int cr_disk_put(
        const char *path, int64_t offset, const char *data, size_t size_bytes, int empties, unsigned mode) noexcept
    int cr_disk_sync(const char *path) noexcept


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


def put(bytes path not None, bytes data not None, int64_t offset=0, *, bint empties=False, unsigned mode=0o666):
    """Write `data` at `offset` of the file at `path`, which is made if need be; the errno, or 0 when it is written.

    `empties`: in place of all that it held. `mode`: permissions of a new one, as far as the process' umask leaves them.
    """
    cdef const char *where = path
    cdef const char *start = data
    cdef size_t size_bytes = <size_t>len(data)
    cdef int error
    if offset < 0:
        raise ValueError("an offset is 0 or more")
    _check(path)
    with nogil:
        error = cr_disk_put(where, offset, start, size_bytes, empties, mode)
    return error


def sync_each(paths):
    """Have files and folders last, each by itself; {number of a path: errno} of those that could not be.

    What is not there needs none of it.
    """
    cdef list names = list(paths)
    cdef Py_ssize_t count = len(names), i
    cdef const char **places
    cdef int *errors
    for name in names:
        _check(name)
    if count == 0:
        return {}
    places = <const char **>PyMem_Malloc(count * sizeof(char *))
    errors = <int *>PyMem_Malloc(count * sizeof(int))
    try:
        if places == NULL or errors == NULL:
            raise MemoryError
        for i in range(count):
            places[i] = <bytes>names[i]
        with nogil:
            for i in range(count):
                errors[i] = cr_disk_sync(places[i])
        return {i: errors[i] for i in range(count) if errors[i]}
    finally:
        PyMem_Free(places)
        PyMem_Free(errors)


cdef _check(object path):
    if type(path) is not bytes or b"\0" in <bytes>path:
        raise ValueError("a path is bytes without a null")
