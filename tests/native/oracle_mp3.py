"""Slow and obvious: MPEG frame arithmetic and LAME's CRC from their definitions, and frames to test with."""

from fractions import Fraction

RATES = {"1": (44100, 48000, 32000), "2": (22050, 24000, 16000), "2.5": (11025, 12000, 8000)}
VERSION_CODE = {"1": 3, "2": 2, "2.5": 0}
KBPS_MPEG1 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
KBPS_MPEG2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
MODES = ("stereo", "joint stereo", "dual channel", "mono")


def bit_rates(version):
    return KBPS_MPEG1 if version == "1" else KBPS_MPEG2


def samples(version):
    return 1152 if version == "1" else 576


def frame_bytes(version, rate, bitrate_bps, padding):
    """The bytes that play for as long as the samples do, rounded down, and the padding."""
    return int(Fraction(samples(version), rate) * bitrate_bps / 8) + padding


def head(version, rate, kbps, *, mode="joint stereo", padding=0, crc=False):
    """A frame header; `kbps` 0 is free format."""
    code = 0 if kbps == 0 else bit_rates(version).index(kbps) + 1
    bits = (
        "11111111111"
        + f"{VERSION_CODE[version]:02b}"
        + "01"
        + ("0" if crc else "1")
        + f"{code:04b}{RATES[version].index(rate):02b}{padding}0{MODES.index(mode):02b}000100"
    )
    return int(bits, 2).to_bytes(4, "big")


def frame(version="2.5", rate=8000, kbps=16, *, mode="mono", padding=0, crc=False, fill=0):
    """A whole frame, its body of one value."""
    header = head(version, rate, kbps, mode=mode, padding=padding, crc=crc)
    return header + bytes([fill]) * (frame_bytes(version, rate, kbps * 1000, padding) - 4)


def free_frame(version, rate, base_bytes, *, mode="mono", padding=0):
    """A free-format frame of `base_bytes` and the padding."""
    return head(version, rate, 0, mode=mode, padding=padding) + bytes(base_bytes + padding - 4)


def crc16(data, crc=0):
    """Bit by bit, lowest first; 0xA001 is 0x8005 seen in a mirror."""
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xA001 if crc & 1 else 0)
    return crc


def seek_table(offsets, total_bytes):
    """Where the frame of each hundredth begins."""
    return [0] + [min(255, 256 * offsets[len(offsets) * i // 100] // total_bytes) for i in range(1, 100)]
