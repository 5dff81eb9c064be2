"""How much memory the C library has handed out: of what native code takes, nothing else tells."""

import ctypes
import os
from typing import ClassVar

import pytest

__all__ = ["allocated_bytes", "needs_the_heap"]


class _Mallinfo(ctypes.Structure):
    """mallinfo2(3)."""

    NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_: ClassVar = [(name, ctypes.c_size_t) for name in NAMES.split()]


_tell = getattr(ctypes.CDLL(None), "mallinfo2", None) if os.name == "posix" else None
if _tell is not None:
    _tell.restype = _Mallinfo


def needs_the_heap(test):
    """Mark a test that counts allocated bytes: with a sanitizer, or another C library, there is nothing to count."""
    is_other = _tell is None or "asan" in os.environ.get("LD_PRELOAD", "")
    return pytest.mark.skipif(is_other, reason="the heap is not that of glibc 2.33 or newer")(test)


def allocated_bytes() -> int:
    """In use by now, of this whole process."""
    told = _tell()
    return told.uordblks + told.hblkhd
