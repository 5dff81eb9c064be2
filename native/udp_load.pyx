"""What a receiver of RTP is measured with: thousands of sources in real time, and a loop that nothing beats. Linux.

The work is done in include/callreel/udp_load.h, without the GIL, on descriptors that the caller opened.
"""

cimport buffers
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from typing import NamedTuple


cdef extern from "callreel/udp_linux.h" nogil:
    enum:
        CR_UDP_IS_SERVED


cdef extern from "callreel/udp_load.h" nogil:
    enum:
        CR_LOAD_SAMPLES
    ctypedef struct cr_load:
        const int *sockets
        uint32_t streams
        const uint8_t *codes
        uint32_t voices, packets_each
        const uint8_t *is_on
        uint32_t *sent
    ctypedef struct cr_load_result:
        uint64_t refused
        int64_t late_max_ns
    ctypedef struct cr_bare_result:
        uint64_t packets
        int64_t cpu_ns, lasted_ns
    cr_load_result cr_load_send(const cr_load *load) noexcept
    uint64_t cr_load_flood(const cr_load *load, int64_t lasting_ns) noexcept
    cr_bare_result cr_load_bare(int socket, int idle_ms) noexcept


if not CR_UDP_IS_SERVED:
    raise ImportError("callreel.kernels.udp_load needs Linux: sockets, clocks and recvmmsg")


class Bare(NamedTuple):
    """What the loop read: packets behind the first, the CPU seconds and the seconds that they took."""

    packets: int
    cpu_s: float
    lasted_s: float


cdef class Sources:
    """RTP sources, a packet of 20 ms of G.711 each time."""

    cdef Py_buffer sockets, codes, is_on, sent
    cdef cr_load load

    def __cinit__(self, sockets, codes, is_on, sent, *, voices=1):
        cdef Py_ssize_t streams, packets
        buffers.clear(&self.sockets)
        buffers.clear(&self.codes)
        buffers.clear(&self.is_on)
        buffers.clear(&self.sent)
        buffers.PyObject_GetBuffer(sockets, &self.sockets, buffers.PyBUF_C_CONTIGUOUS)
        buffers.borrow_bytes(codes, &self.codes)
        buffers.borrow_bytes(is_on, &self.is_on)
        buffers.PyObject_GetBuffer(sent, &self.sent, buffers.PyBUF_C_CONTIGUOUS | buffers.PyBUF_WRITABLE)
        streams = self.sockets.len // <Py_ssize_t>sizeof(int)
        packets = self.codes.len // CR_LOAD_SAMPLES
        if self.sockets.itemsize != <Py_ssize_t>sizeof(int) or not 0 < streams < 1 << 24:
            raise ValueError("sockets are descriptors, an array of type 'i'")
        if not 0 < voices <= packets or packets % voices or self.codes.len % CR_LOAD_SAMPLES:
            raise ValueError(f"codes are {CR_LOAD_SAMPLES} bytes a packet, as many packets of each voice")
        if self.is_on.len != streams + 1 or self.sent.len != <Py_ssize_t>sizeof(uint32_t) * streams:
            raise ValueError("is_on has a byte of each stream and one behind them, sent 32 bits of each")
        self.load.sockets = <const int *>self.sockets.buf
        self.load.streams = <uint32_t>streams
        self.load.codes = <const uint8_t *>self.codes.buf
        self.load.voices = voices
        self.load.packets_each = <uint32_t>(packets // voices)
        self.load.is_on = <const uint8_t *>self.is_on.buf
        self.load.sent = <uint32_t *>self.sent.buf

    def __dealloc__(self):
        buffers.release(&self.sockets)
        buffers.release(&self.codes)
        buffers.release(&self.is_on)
        buffers.release(&self.sent)

    def send(self):
        """Send in real time until the last byte of `is_on` is set; (packets refused, how late the latest was, in s)."""
        cdef cr_load_result result
        with nogil:
            result = cr_load_send(&self.load)
        return result.refused, result.late_max_ns / 1e9

    def flood(self, seconds):
        """Send as fast as it goes, whatever is on; how many packets went."""
        cdef int64_t lasting_ns = round(seconds * 1e9)
        cdef uint64_t sent
        with nogil:
            sent = cr_load_flood(&self.load, lasting_ns)
        return sent


def read_bare(descriptor, *, idle_ms=1000):
    """Read a blocking socket by recvmmsg and do nothing else, until nothing has come for so long; one at a time."""
    cdef int socket = descriptor, idle = idle_ms
    cdef cr_bare_result result
    with nogil:
        result = cr_load_bare(socket, idle)
    return Bare(result.packets, result.cpu_ns / 1e9, result.lasted_ns / 1e9)
