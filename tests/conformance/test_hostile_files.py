"""Whatever file it is given, the command ends with status 0, 1 or 2, says why, and shows no traceback."""

import os
import random
from pathlib import Path

import pytest

from callreel import cli

SHIPPED = Path(__file__).parents[1] / "data"


def all_files() -> dict[str, Path]:
    """Every test file there is, by its path below the folder of test data."""
    roots = [SHIPPED]
    if elsewhere := os.environ.get("CALLREEL_TEST_DATA"):
        roots.append(Path(elsewhere))
    return {
        str(path.relative_to(root)): path
        for root in roots
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


FILES = all_files()


def run(capsys, *arguments: object) -> int:
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as exit_:  # argparse
        status = exit_.code
    out, err = capsys.readouterr()
    assert status in (0, 1, 2)
    assert "Traceback" not in out + err
    assert status != 2 or err
    return status


@pytest.mark.parametrize("name", FILES)
def test_record(name, capsys, tmp_path):
    status = run(capsys, "record", FILES[name], "--out", tmp_path)
    assert not list(tmp_path.rglob("*.part"))
    if "pcap" not in name and not name.endswith(".cap"):
        assert status == 2
        assert not list(tmp_path.rglob("*.wav"))


@pytest.mark.parametrize("name", [name for name in FILES if "pcap" in name])
def test_record_as_mp3_and_json(name, capsys, tmp_path):
    run(capsys, "record", FILES[name], "--out", tmp_path, "--format", "mp3", "--json")
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("name", FILES)
def test_inspect_and_verify(name, capsys, tmp_path):
    for arguments in (
        ["inspect"],
        ["inspect", "--json"],
        ["inspect", "--plot", tmp_path / "plot.svg"],
        ["verify"],
    ):
        run(capsys, *arguments, FILES[name])


def test_what_was_recorded_passes_inspect_and_verify(capsys, tmp_path):
    name = "pcap/calls/baresip-pcmu-47hash.pcap"
    assert run(capsys, "record", FILES[name], "--out", tmp_path) == 0
    assert run(capsys, "record", FILES[name], "--out", tmp_path, "--format", "mp3") == 0
    takes = [path for path in tmp_path.rglob("*") if path.suffix in (".wav", ".mp3")]
    assert len(takes) == 2
    for path in takes:
        assert run(capsys, "inspect", path) == 0
        assert run(capsys, "verify", path) == 0
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(damaged)
        assert run(capsys, "verify", path) == 1


SMALL = [
    name
    for name, path in FILES.items()
    if "pcap" in name and 1000 < path.stat().st_size < 80_000 and "siprec" not in name
]


@pytest.mark.parametrize("name", SMALL)
def test_record_with_damage(name, capsys, tmp_path):
    """Bytes changed, pieces taken out, put in and doubled: ten times each file."""
    original = FILES[name].read_bytes()
    rng = random.Random(name)
    for _ in range(10):
        data = bytearray(original)
        for _ in range(rng.choice((1, 10, 100))):
            at = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[at] = rng.randrange(256)
                case 1:
                    del data[at : at + rng.randrange(1, 100)]
                case 2:
                    data[at:at] = rng.randbytes(rng.randrange(1, 100))
                case 3:
                    data[at:at] = data[at : at + rng.randrange(1, 500)]
        path = tmp_path / "damaged"
        path.write_bytes(data)
        run(capsys, "record", path, "--out", tmp_path / "out")
    assert not list(tmp_path.rglob("*.part"))
