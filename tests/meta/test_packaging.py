"""What is published: the contents of wheel and source distribution, and the machinery that makes them.

`make wheel` runs these on what it has built (CALLREEL_DIST names the folder); elsewhere those that need archives skip.
"""

import os
import re
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path, PurePosixPath

import pytest

from project import NATIVE, PACKAGE, ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
OLDEST_GLIBC = (2, 17)  # manylinux2014, the oldest there is a CPython 3.11 for

SOURCES = {path.relative_to(ROOT).as_posix() for path in (ROOT / "native").rglob("*.*")}
PYTHON = {
    path.relative_to(PACKAGE.parent).as_posix()
    for pattern in ("*.py", "*.pyi", "py.typed", "service/templates/*.html", "service/static/*")
    for path in PACKAGE.rglob(pattern)
}


def archive(pattern):
    folder = os.environ.get("CALLREEL_DIST")
    if not folder:
        pytest.skip("`make wheel` builds what this looks at")
    (found,) = Path(folder).glob(pattern)
    return found


@pytest.fixture
def wheel():
    with zipfile.ZipFile(archive("callreel-*.whl")) as opened:
        yield opened


@pytest.fixture
def sdist():
    with tarfile.open(archive("callreel-*.tar.gz")) as opened:
        yield opened


def names_in_sdist(sdist):
    tops = {name.partition("/")[0] for name in sdist.getnames()}
    assert len(tops) == 1
    return {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}


def metadata(text):
    found = message_from_bytes(text)
    assert found["Name"] == PYPROJECT["project"]["name"]
    assert found["Version"] == PYPROJECT["project"]["version"]
    assert found["License-Expression"] == PYPROJECT["project"]["license"]
    assert found["License-File"] == "LICENSE"
    assert found["Requires-Python"] == PYPROJECT["project"]["requires-python"]
    required = {"": []} | {extra: [] for extra in found.get_all("Provides-Extra")}
    for one in found.get_all("Requires-Dist"):
        extra = re.search(r"""; extra == ["'](\w+)["']$""", one)
        required["" if extra is None else extra[1]].append(re.split(r"\W", one)[0])
    wanted = {"": PYPROJECT["project"]["dependencies"], **PYPROJECT["project"]["optional-dependencies"]}
    assert required == {extra: [re.split(r"\W", one)[0] for one in names] for extra, names in wanted.items()}


# ---- the wheel ------------------------------------------------------------------------------------


def test_the_wheel_holds_every_module_stub_and_compiled_kernel_and_nothing_else(wheel):
    info = f"callreel-{PYPROJECT['project']['version']}.dist-info/"
    held = {name for name in wheel.namelist() if not name.startswith(info) and not name.endswith("/")}
    compiled = {name for name in held if name.endswith((".so", ".pyd"))}
    assert held - compiled == PYTHON
    kernels = {path.stem for path in NATIVE.glob("*.pyx")}
    assert sorted(PurePosixPath(name).name.partition(".")[0] for name in compiled) == sorted(kernels)
    assert {PurePosixPath(name).parent.as_posix() for name in compiled} == {"callreel/kernels"}
    assert f"{info}licenses/LICENSE" in wheel.namelist()
    assert wheel.testzip() is None


def test_the_wheel_says_what_pyproject_says(wheel):
    metadata(wheel.read(f"callreel-{PYPROJECT['project']['version']}.dist-info/METADATA"))
    scripts = wheel.read(f"callreel-{PYPROJECT['project']['version']}.dist-info/entry_points.txt").decode()
    assert "callreel = callreel.cli:main" in scripts


def test_the_wheel_serves_every_python_from_3_11_on():
    tag, abi, _ = archive("callreel-*.whl").stem.split("-")[-3:]
    if "t" in abi.removeprefix("cp"):
        assert tag + "t" == abi  # free-threaded: there is no stable ABI to use
    else:
        assert (tag, abi) == ("cp311", "abi3")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_the_wheel_runs_on_every_glibc_since_2_17():
    platforms = archive("callreel-*.whl").stem.split("-")[-1].split(".")
    needed = [
        (int(major), int(minor))
        for major, minor in (
            re.findall(r"manylinux_(\d+)_(\d+)_", one)[0] for one in platforms if "_2_" in one
        )
    ]
    assert needed
    assert min(needed) <= OLDEST_GLIBC


@pytest.mark.skipif(sys.platform != "linux", reason="stripped by auditwheel")
def test_the_wheel_carries_no_symbols_but_the_ones_python_needs(wheel):
    for name in wheel.namelist():
        if name.endswith(".so"):
            code = wheel.read(name)
            assert code.startswith(b"\x7fELF")
            assert b".symtab" not in code
            assert b".debug_info" not in code
            assert f"PyInit_{PurePosixPath(name).name.partition('.')[0]}".encode() in code


@pytest.mark.skipif(sys.platform != "linux", reason="ELF is Linux's")
def test_the_wheel_looks_for_libraries_nowhere_but_where_the_system_has_them(wheel):
    # With an rpath the linker notes down where the building machine keeps its Python.
    for name in wheel.namelist():
        if name.endswith(".so"):
            assert not re.search(rb"/(root|home|opt|tmp|usr|work)/[\w./-]+", wheel.read(name)), name


# ---- the source distribution ----------------------------------------------------------------------


def test_the_source_distribution_holds_all_that_a_build_needs(sdist):
    held = names_in_sdist(sdist)
    assert {name for name in held if name.startswith("native/")} == SOURCES
    assert {name.removeprefix("src/") for name in held if name.startswith("src/callreel/")} == PYTHON
    beside = {"LICENSE", "README.md", "CHANGELOG.md", "MANIFEST.in", "pyproject.toml", "setup.py", "PKG-INFO"}
    assert {name for name in held if "/" not in name} - {"setup.cfg"} == beside


def test_the_source_distribution_holds_nothing_generated_and_no_test_data(sdist):
    # Test data have licences of their own: they stay in the repository, and with them the tests.
    wrong = re.compile(r"\.(c|cpp|so|pyd|o|pyc|pcap|wav|mp3)$|^(tests|build|dist|docs|benchmarks|\.)")
    assert [name for name in names_in_sdist(sdist) if wrong.search(name)] == []


def test_the_source_distribution_says_what_pyproject_says(sdist):
    (name,) = [name for name in sdist.getnames() if name.count("/") == 1 and name.endswith("/PKG-INFO")]
    metadata(sdist.extractfile(name).read())


def test_what_manifest_in_takes_is_all_of_native():
    suffixes = {path.suffix for path in (ROOT / "native").rglob("*") if path.is_file()}
    (line,) = re.findall(
        r"^recursive-include native (.*)$", (ROOT / "MANIFEST.in").read_text("utf-8"), re.MULTILINE
    )
    assert {f"*{suffix}" for suffix in suffixes} == set(line.split())


# ---- what builds and publishes them ---------------------------------------------------------------


def test_there_is_a_workflow_for_tests_and_one_for_releases():
    assert [path.name for path in WORKFLOWS] == ["tests.yml", "wheels.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_pins_its_actions_and_may_only_read_unless_it_says_so(path):
    text = path.read_text("utf-8")
    used = re.findall(r"uses:\s*(\S+)", text)
    assert used
    assert [one for one in used if not re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", one)] == []
    assert re.search(r"^permissions:\n  contents: read\n", text, re.MULTILINE)
    assert "secrets." not in text
    assert "persist-credentials: false" in text


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_what_the_makefile_has(path):
    targets = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    called = set(re.findall(r"\bmake ([a-z][\w-]*)", path.read_text("utf-8")))
    assert called <= targets


def test_the_tests_run_on_every_python_that_is_promised():
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8")
    (listed,) = re.findall(r"^\s+python: \[(.*)\]$", text, re.MULTILINE)
    pythons = re.findall(r"[\d.]+", listed)
    assert f">={pythons[0]}" == PYPROJECT["project"]["requires-python"]
    classifiers = [f"Programming Language :: Python :: {version}" for version in pythons]
    assert set(classifiers) <= set(PYPROJECT["project"]["classifiers"])


def test_releases_are_published_without_a_password():
    text = (ROOT / ".github" / "workflows" / "wheels.yml").read_text("utf-8")
    publish = text[text.index("\n  publish:") :]
    assert "id-token: write" in publish
    assert "pypa/gh-action-pypi-publish@release/v1" in publish
    assert "password" not in publish
    assert re.search(r"tags: \[['\"]?v\*", text)


def test_cibuildwheel_builds_the_stable_abi_once_and_free_threaded_wheels():
    settings = PYPROJECT["tool"]["cibuildwheel"]
    oldest = PYPROJECT["project"]["requires-python"].removeprefix(">=").replace(".", "")
    assert settings["build"][0] == f"cp{oldest}-*"
    assert "cp314t-*" in settings["build"]
    for word in settings["test-command"].split():
        if word.startswith("tests/"):
            assert (ROOT / word).exists()
    for override in settings["overrides"]:
        for word in override["test-command"].split():
            if word.startswith("tests/"):
                assert (ROOT / word).exists()
