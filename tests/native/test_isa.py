"""The choice among the versions of a kernel, and that the choice never shows in a result."""

import os
import platform
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from callreel import kernels
from callreel.kernels import g711

HERE = Path(__file__).parent
INCLUDE = HERE.parents[1] / "native" / "include"
EVERY_VALUE = b"".join(value.to_bytes(2, "little", signed=True) for value in range(-32768, 32768))


def run(isa, code, given=b""):
    """Run Python code in a process of its own with CALLREEL_ISA set, or not set for None."""
    environment = {name: value for name, value in os.environ.items() if name != "CALLREEL_ISA"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    if isa is not None:
        environment["CALLREEL_ISA"] = isa
    command = [sys.executable, "-c", code]
    return subprocess.run(command, input=given, env=environment, capture_output=True, check=False)


def output(isa, code, given=b""):
    """What the code writes; it must succeed."""
    done = run(isa, code, given)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


NAMES = """
from callreel import kernels
from callreel.kernels import g711, pcm, wav
print(kernels.isa(), g711._isa(), pcm._isa(), wav._isa())
"""


def test_the_best_instruction_set_of_the_machine_is_the_default():
    assert kernels.ISAS[0] == "scalar"
    assert output(None, NAMES).decode().split() == [kernels.ISAS[-1]] * 4


@pytest.mark.parametrize("isa", kernels.ISAS)
def test_the_instruction_set_that_is_forced_is_the_one_every_module_calls(isa):
    assert output(isa, NAMES).decode().split() == [isa] * 4


@pytest.mark.parametrize("name", ["AVX2", "mmx", "", "avx2,sse2", *{"neon", "sse2"} - set(kernels.ISAS)])
def test_a_name_that_this_machine_lacks_is_refused_at_import_with_those_it_has(name):
    for module in ("callreel.kernels", "callreel.kernels.g711"):
        done = run(name, f"import {module}")
        assert done.returncode == 1
        last_line = done.stderr.decode().splitlines()[-1]
        assert last_line == f"ValueError: CALLREEL_ISA={name}: this machine has {', '.join(kernels.ISAS)}"


def test_changing_the_variable_after_import_changes_nothing(monkeypatch):
    before = kernels.isa()
    monkeypatch.setenv("CALLREEL_ISA", "scalar" if before != "scalar" else "mmx")
    assert kernels.isa() == before


def test_the_instruction_sets_are_those_the_operating_system_lists():
    if platform.machine() in ("arm64", "aarch64"):
        assert kernels.ISAS == ("scalar", "neon")
        return
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        pytest.skip("needs Linux's list of processor flags")
    flags = set(next(line for line in lines if line.startswith("flags")).split())
    needed = {
        "sse2": {"sse2"},
        "avx2": {"avx2", "fma"},
        "avx512": {"avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512vbmi"},
    }
    expected = ["scalar"] + [name for name, flag in needed.items() if flag <= flags]
    assert list(kernels.ISAS) == expected


@pytest.mark.parametrize("law", ["ulaw", "alaw"])
def test_any_version_decodes_what_any_other_encoded(law):
    encode = f"""
import sys
from callreel.kernels import g711
sys.stdout.buffer.write(g711.{law}_encode(sys.stdin.buffer.read()))
"""
    codes = {isa: output(isa, encode, EVERY_VALUE) for isa in kernels.ISAS}
    decode = encode.replace("encode", "decode")
    expected = getattr(g711, f"{law}_decode")(codes["scalar"])
    assert len(expected) == len(EVERY_VALUE)
    for encoder, decoder in product(kernels.ISAS, repeat=2):
        assert output(decoder, decode, codes[encoder]) == expected, (encoder, decoder)


RESULTS = """
import hashlib, random, struct
from callreel.kernels import g711, pcm, rtp, wav
random.seed(3)
results = hashlib.sha256()
for samples in [*range(0, 301, 7), 4095, 4096, 4097, 20_001]:
    tracks = [memoryview(b"x" + random.randbytes(2 * samples))[1:] for _ in range(5)]
    for count in range(1, 6):
        results.update(pcm.mix(tracks[:count]))
    stereo = pcm.interleave(tracks[0], tracks[1])
    results.update(stereo)
    results.update(b"".join(pcm.deinterleave(stereo)))
    for db in (-200, -6, 0.1, 3, 20, 200):
        results.update(pcm.gain(tracks[2], db))
    results.update(repr(pcm.level(tracks[3])).encode())
    results.update(pcm.frame_levels(tracks[3], 3))
    for law in ("ulaw", "alaw"):
        results.update(getattr(g711, law + "_encode")(tracks[4]))
        results.update(getattr(g711, law + "_decode")(tracks[4]))
    results.update(pcm.resample(tracks[0], 8000, 16000) + pcm.resample(tracks[1], 16000, 11025))
receiver, voice = rtp.Receiver(origin_ns=0), g711.ulaw_encode(bytes(tracks[0][:320]))
for number in range(3000):
    header = struct.pack(">BBHII", 0x80, 0, number, number * 160, 0)
    if random.random() > 0.05:  # some are lost, the others come ever sooner
        receiver.receive(header + voice[number % 80:] + voice[:number % 80], int(number * 19_990_000))
    results.update(receiver.read(receiver.ready(int(number * 19_990_000))))
assert receiver.concealed_samples and receiver.drift_ppm > 400
print(results.hexdigest())
"""


def test_every_version_gives_the_same_bytes_for_every_kernel():
    digests = {isa: output(isa, RESULTS).decode().strip() for isa in kernels.ISAS}
    assert set(digests.values()) == {digests["scalar"]}
    assert len(digests["scalar"]) == 64


@pytest.mark.parametrize("isa", [isa for isa in kernels.ISAS if isa != kernels.isa()])
def test_the_tests_of_the_kernels_pass_under_every_other_instruction_set(isa):
    files = [str(HERE / name) for name in ("test_g711.py", "test_pcm.py", "test_resample.py")]
    arguments = ["-q", "-p", "no:cacheprovider", "-c", str(HERE.parents[1] / "pyproject.toml"), *files]
    code = f"import sys, pytest; from callreel import kernels; assert kernels.isa() == {isa!r}; "
    done = run(isa, code + f"sys.exit(pytest.main({arguments!r}))")
    assert done.returncode == 0, done.stdout.decode()[-3000:]


def test_every_version_in_c_is_the_scalar_one_for_every_length_and_value(tmp_path):
    """Compiles and runs isa_differential.c, which says what it compares."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not INCLUDE.is_dir():
        pytest.skip("needs a C compiler and the headers of the source tree")
    flags = ["-std=c11", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function"]
    outputs = []
    for four in ([], ["-DCR_FOUR_PLAIN"]):  # four.h with and without what this machine has
        program = tmp_path / f"differential{len(outputs)}"
        command = [compiler, *flags, *four, f"-I{INCLUDE}", str(HERE / "isa_differential.c"), "-lm"]
        built = subprocess.run([*command, "-o", str(program)], capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stderr
        done = subprocess.run([program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
        outputs.append(done.stdout)
    compared = [line.split(": ") for line in outputs[0].splitlines()]
    assert [isa for isa, _ in compared] == list(kernels.ISAS)
    assert all(int(result.split()[0]) > 40_000 for _, result in compared)
    assert outputs[0] == outputs[1]
