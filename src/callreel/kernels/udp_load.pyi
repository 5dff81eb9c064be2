"""What a receiver of RTP is measured with: thousands of sources in real time, and a loop that nothing beats. Linux.

    sources = Sources(array("i", [one.fileno() for one in connected]), codes, shared[:n + 1], memoryview(counts))
    Thread(target=sources.send).start()               # real time, without the GIL
    shared[3] = 1                                     # the fourth of them speaks
    shared[n] = 1                                     # all is over

On other systems than Linux its import raises ImportError.
"""

from typing import NamedTuple, final

from typing_extensions import Buffer

class Bare(NamedTuple):
    """What the loop read: packets behind the first, the CPU seconds and the seconds that they took."""

    packets: int
    cpu_s: float
    lasted_s: float

@final
class Sources:
    """RTP sources, a packet of 20 ms of G.711 each time."""

    def __init__(
        self, sockets: Buffer, codes: Buffer, is_on: Buffer, sent: Buffer, *, voices: int = 1
    ) -> None:
        """Send through connected `sockets` (an array of type 'i'), SSRC 1, 2, ...

        `codes`: as many packets of 160 bytes of each of `voices`, which streams take in turn, again and again. `is_on`:
        a byte of each stream, and one behind them that ends `send`. `sent`: of each stream the packets so far, 32 bits
        in the machine's order. Others may look at both, and change `is_on`, meanwhile: they may be shared memory.
        """
    def send(self) -> tuple[int, float]:
        """Send in real time until the last byte of `is_on` is set; (packets refused, how late the latest was, in s)."""
    def flood(self, seconds: float) -> int:
        """Send as fast as it goes, whatever is on; how many packets went."""

def read_bare(descriptor: int, *, idle_ms: int = 1000) -> Bare:
    """Read a blocking socket by recvmmsg and do nothing else, until nothing has come for so long; one at a time.

    The first packet may take 30 s.
    """
