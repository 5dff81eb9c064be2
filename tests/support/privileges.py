"""Being nobody special for a moment: root may write everywhere, and most tests in containers run as root."""

import ctypes
import os
import sys
from concurrent.futures import ThreadPoolExecutor

_VERSION_3 = 0x20080522  # of Linux's capability sets: two words for each, see capset(2)


def without_privileges(function):
    """What `function` returns or raises where the modes of files count, whoever runs the tests.

    Capabilities belong to a thread: one of its own gives up all it has, and the others keep theirs.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return function()
    if sys.platform != "linux":
        raise NotImplementedError("only Linux lets a thread of root's give up its privileges")
    with ThreadPoolExecutor(1, initializer=_give_up_capabilities) as thread:
        return thread.submit(function).result()


def _give_up_capabilities():
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)  # 0: the calling thread
    none = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), "capset")
