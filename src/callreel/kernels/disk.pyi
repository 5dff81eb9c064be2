"""Many writes to many files in one go, without the GIL.

A thread that writes a little to each of thousands would else hand it over with every one of them.
On systems without pwrite its import raises ImportError.
"""

from collections.abc import Iterable

def write_all(writes: Iterable[tuple[int, int, bytes]]) -> dict[int, int]:
    """Write all (descriptor, offset, bytes) in their order; {number of a write: errno} of those that failed.

    What is cut short is gone on with. One that fails keeps those to the same file that follow it at once from being
    tried, and no others.
    """
