"""Every fuzz target over its seeds, and over every input that once broke something; no fuzzer is needed."""

import shutil
import subprocess

import pytest

from fuzz_targets import FOLDER, REGRESSIONS, TARGETS, build, python_target

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
CHECKS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
NO_TARGETS = {"test_seeds.py", "run.py", "under_atheris.py"}


def test_every_file_that_is_a_target_is_listed():
    there = {
        path for path in FOLDER.iterdir() if path.suffix in (".c", ".py") and path.name not in NO_TARGETS
    }
    assert there == {target.path for target in TARGETS.values()}


def test_every_saved_input_belongs_to_a_target():
    assert {path.name for path in REGRESSIONS.iterdir() if path.is_dir()} <= TARGETS.keys()


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if not target.is_c])
def test_a_target_in_python_has_nothing_against_its_seeds(name):
    run = python_target(TARGETS[name])
    tried = 0
    for origin, data in TARGETS[name].inputs():
        try:
            run(data)
        except Exception as error:
            error.add_note(f"input: {origin}")
            raise
        tried += 1
    assert tried


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.is_c])
def test_a_target_in_c_has_nothing_against_its_seeds(name, tmp_path):
    if COMPILER is None:
        pytest.skip("needs a C compiler")
    program = tmp_path / name
    built = build(TARGETS[name], program, COMPILER, "-O1", "-Werror", "-DFUZZ_FILES", *CHECKS)
    if built.returncode and "sanitize" in built.stderr + built.stdout:  # its run-time library is not there
        built = build(TARGETS[name], program, COMPILER, "-O1", "-Werror", "-DFUZZ_FILES")
    assert built.returncode == 0, built.stderr
    (tmp_path / "inputs").mkdir()
    names = []
    for number, (origin, data) in enumerate(TARGETS[name].inputs()):
        path = tmp_path / "inputs" / f"{number} {origin}"
        path.write_bytes(data)
        names.append(str(path))
    done = subprocess.run([program, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == f"{len(names)} inputs\n"
    assert names
