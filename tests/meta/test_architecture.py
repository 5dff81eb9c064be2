"""docs/architecture.md says what is so: files it names are there, numbers it gives are measured."""

import importlib
import re

import pytest

from callreel.dialogs import MAX_KEPT_BYTES
from callreel.kernels import pcap
from callreel.legs import Track
from capture_writer import rtp_packet
from heap import allocated_bytes, needs_the_heap
from markdown_text import code_spans, table
from project import ARCHITECTURE, NATIVE, ROOT

TEXT = ARCHITECTURE.read_text("utf-8")


def test_every_file_it_names_is_there():
    named = [one for one in code_spans(TEXT) if re.fullmatch(r"[\w./]+\.(py|pyx|pyi|pxd|h|md)", one)]
    named += [one for one in code_spans(TEXT) if re.fullmatch(r"(native|src|tests|docs)/[\w/]+", one)]
    assert len(named) > 10
    places = [ROOT, NATIVE / "include" / "callreel"]
    assert [one for one in named if not any((place / one).exists() for place in places)] == []


def test_the_gil_is_kept_below_the_number_it_gives():
    (said,) = re.findall(r"fewer than ([\d,]+) samples", TEXT)
    (set_to,) = re.findall(r"GIL_MIN_SAMPLES = (\d+)", (NATIVE / "buffers.pxd").read_text("utf-8"))
    assert int(said.replace(",", "")) == int(set_to)


def test_the_threads_of_every_class_that_changes_are_told():
    told = [name for row in table(TEXT, "class") for name in code_spans(row[0])]
    assert len(told) == len(set(told))
    for name in told:
        module, _, attribute = name.rpartition(".")
        package = "callreel.kernels" if (NATIVE / f"{module}.pyx").exists() else "callreel"
        assert hasattr(importlib.import_module(f"{package}.{module}"), attribute), name
    compiled = [
        f"{path.stem}.{name}"
        for path in NATIVE.glob("*.pyx")
        for name in re.findall(r"^cdef class ([A-Z]\w*)", path.read_text("utf-8"), re.MULTILINE)
    ]
    assert len(compiled) > 5
    assert set(compiled) <= set(told)


@needs_the_heap
@pytest.mark.parametrize("row", table(TEXT, "what"), ids=lambda row: row[0])
def test_a_track_takes_the_memory_it_gives(row):
    what, *said, _ = row
    arguments = {"host_frames": True} if "PCM" in what else {}
    if match := re.search(r"at (\d+) kHz", what):
        arguments["sample_rate"] = int(match[1]) * 1000
    before = allocated_bytes()
    tracks = [Track(origin_ns=0, **arguments) for _ in range(20)]
    taken = []
    for number in range(500):  # 10 s, of which the last 2 s are not read
        now_ns = number * 20_000_000
        for track in tracks:
            if arguments:
                track.receive_pcm(bytes(2 * track.sample_rate // 50), now_ns)
            else:
                track.receive(rtp_packet(bytes(160), seq=number, timestamp=160 * number), now_ns)
            track.digits()
            if number % 10 == 9 and number < 400:
                track.read(track.ready(now_ns))
        if number in (399, 499):
            taken.append((allocated_bytes() - before) / len(tracks))
    assert taken == pytest.approx([int(one.replace(",", "")) for one in said], rel=0.05)


def test_a_capture_keeps_no_more_than_it_gives():
    (flows,) = re.findall(r"([\d,]+) flows", TEXT)
    (descriptions,) = re.findall(r"(\d+) MiB of session descriptions", TEXT)
    (fragments,) = re.findall(r"(\d+) MiB of IP fragments", TEXT)
    header = (NATIVE / "include" / "callreel" / "ip_fragments.h").read_text("utf-8")
    assert f"CR_FRAGMENTS_BYTES_MAX ({fragments}u << 20)" in header
    assert int(descriptions) << 20 == MAX_KEPT_BYTES
    limit = int(flows.replace(",", ""))
    assert f"max_flows: int = {limit}" in (ROOT / "src/callreel/kernels/pcap.pyi").read_text("utf-8")
    assert pcap.Reader(max_flows=limit).counts["flows_dropped"] == 0
