"""What a spool asks of a disk, in as few calls as can be, without the GIL.

A thread that does a little with each of thousands of files would else hand it over with every step.
On systems without pwrite its import raises ImportError.
"""

from collections.abc import Iterable

def write_all(writes: Iterable[tuple[int, int, bytes]]) -> dict[int, int]:
    """Write all (descriptor, offset, bytes) in their order; {number of a write: errno} of those that failed.

    What is cut short is gone on with. One that fails keeps those to the same file that follow it at once from being
    tried, and no others.
    """

def put(path: bytes, data: bytes, offset: int = 0, *, empties: bool = False, mode: int = 0o666) -> int:
    """Write `data` at `offset` of the file at `path`, which is made if need be; the errno, or 0 when it is written.

    `empties`: in place of all that it held. `mode`: permissions of a new one, as far as the process' umask leaves them.
    """

def sync_each(paths: Iterable[bytes]) -> dict[int, int]:
    """Have files and folders last, each by itself; {number of a path: errno} of those that could not be.

    What is not there needs none of it.
    """
