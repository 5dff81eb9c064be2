"""spandsp's DTMF receiver and loss concealment through ctypes, the peers of ours, where libspandsp2 is installed."""

import ctypes
import ctypes.util

import numpy as np

_MOST_DIGITS = 128  # spandsp keeps no more until they are fetched


def _load() -> ctypes.CDLL | None:
    name = ctypes.util.find_library("spandsp")
    if name is None:
        return None
    library = ctypes.CDLL(name)
    library.dtmf_rx_init.restype = ctypes.c_void_p
    library.dtmf_rx_init.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    library.dtmf_rx.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    library.dtmf_rx_parms.argtypes = [ctypes.c_void_p, *[ctypes.c_int] * 4]
    library.dtmf_rx_get.restype = ctypes.c_size_t
    library.dtmf_rx_get.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    library.dtmf_rx_free.argtypes = [ctypes.c_void_p]
    library.plc_init.restype = ctypes.c_void_p
    library.plc_init.argtypes = [ctypes.c_void_p]
    for function in (library.plc_rx, library.plc_fillin):
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    library.plc_free.argtypes = [ctypes.c_void_p]
    return library


LIBRARY = _load()


class Receiver:
    """One channel of 8 kHz; `filter_dial_tone` is spandsp's own option for tones beneath."""

    def __init__(self, filter_dial_tone: bool = False) -> None:
        assert LIBRARY is not None
        self.state = LIBRARY.dtmf_rx_init(None, None, None)
        # -1 leaves what spandsp has: 8 dB of twist, 4 dB of reverse twist, -42 dBm0
        LIBRARY.dtmf_rx_parms(self.state, int(filter_dial_tone), -1, -1, -99)
        self._digits = ctypes.create_string_buffer(_MOST_DIGITS + 1)

    def __del__(self) -> None:
        if LIBRARY is not None:
            LIBRARY.dtmf_rx_free(self.state)

    def feed(self, pcm: bytes) -> str:
        """Listen to PCM; the digits found in it."""
        LIBRARY.dtmf_rx(self.state, pcm, len(pcm) // 2)
        count = LIBRARY.dtmf_rx_get(self.state, self._digits, _MOST_DIGITS)
        return self._digits.raw[:count].decode()


def detect(pcm: bytes, filter_dial_tone: bool = False) -> str:
    """Find the digits of a whole channel, fed a second at a time so that none are lost."""
    receiver = Receiver(filter_dial_tone)
    silence = bytes(1600)  # what still sounds at the end is a digit too
    return "".join(receiver.feed(pcm[at : at + 16000]) for at in range(0, len(pcm), 16000)) + receiver.feed(
        silence
    )


def concealed(pcm: np.ndarray, lost: np.ndarray, packet_samples: int) -> np.ndarray:
    """Audio whose packets marked in `lost` did not come, as spandsp's plc makes it good."""
    assert LIBRARY is not None
    state = LIBRARY.plc_init(None)
    out = np.where(np.repeat(lost, packet_samples), 0, pcm).astype(np.int16)
    for number, is_lost in enumerate(lost):
        packet = out[number * packet_samples : (number + 1) * packet_samples]
        (LIBRARY.plc_fillin if is_lost else LIBRARY.plc_rx)(state, packet.ctypes.data, packet_samples)
    LIBRARY.plc_free(state)
    return out
