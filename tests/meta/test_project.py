"""The project's own files: versions agree, examples run, nothing tells of the machine they were made on."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import callreel
from markdown_text import fenced, section
from project import NATIVE, PACKAGE, ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def text_of(name):
    path = ROOT / name
    return path.read_text("utf-8") if path.exists() else ""


# ---- versions and kernels -------------------------------------------------------------------------


def test_the_version_is_the_same_everywhere():
    assert PYPROJECT["project"]["version"] == callreel.__version__


def test_the_changelog_has_a_place_for_what_comes_next():
    (heading,) = re.findall(r"^## \[?Unreleased\]?.*$", text_of("CHANGELOG.md"), re.MULTILINE)
    assert re.search(r"^[*-] \S", section(text_of("CHANGELOG.md"), heading), re.MULTILINE)


def test_the_command_is_there():
    module, _, function = PYPROJECT["project"]["scripts"]["callreel"].partition(":")
    assert callable(getattr(__import__(module, fromlist=[function]), function))


def kernels():
    (listed,) = re.findall(r"^KERNELS = \[(.*?)\]", text_of("setup.py"), re.MULTILINE | re.DOTALL)
    return re.findall(r'"(\w+)"', listed)


def test_every_kernel_of_setup_py_has_source_and_stub_and_no_other_has():
    assert len(kernels()) == len(set(kernels())) > 0
    assert {path.stem for path in NATIVE.glob("*.pyx")} == set(kernels())
    assert {path.stem for path in (PACKAGE / "kernels").glob("*.pyi")} == set(kernels())


# ---- README ---------------------------------------------------------------------------------------

EXAMPLES = fenced(text_of("README.md"), "python")


def test_the_readme_has_an_example_for_embedding():
    assert EXAMPLES
    assert all("import callreel" in example or "from callreel" in example for example in EXAMPLES)


def test_the_examples_of_the_readme_run_as_they_are(tmp_path):
    for example in EXAMPLES:
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", example],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, f"{example}\n{result.stderr}"


def test_every_local_link_of_a_document_leads_somewhere():
    broken = []
    for path in tracked_files():
        if path.suffix == ".md":
            for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text("utf-8")):
                if "://" not in link and not (path.parent / link).exists():
                    broken.append(f"{path.relative_to(ROOT)}: {link}")
    assert broken == []


# ---- nothing of the machine -----------------------------------------------------------------------

# Written so that this file does not hold what it looks for.
FOLDERS = ["work", "root", "tmp", "home/[a-z]+", "Users/[A-Za-z]+"]
MACHINE_PATH = re.compile(r"(?<![\w.~$/)}\]])/(?:" + "|".join(FOLDERS) + r")(?![\w-])[/\w.-]*")
HOSTS = {
    "org": ["pypi", "pythonhosted", "debian", "npmjs", "anaconda", "maven"],
    "io": ["crates", "docker", "ghcr", "quay"],
    "com": ["ubuntu"],
}
REGISTRY_HOST = re.compile(
    "|".join(rf"\b{name}\.{domain}\b" for domain, names in HOSTS.items() for name in names)
)


def tracked_files():
    """Every file of the project, whether committed yet or not; what git ignores is none."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:  # an unpacked source distribution
        own = ("src", "native", "tests", "docs", "benchmarks", "examples")
        paths = [*ROOT.glob("*.*"), *(path for folder in own for path in (ROOT / folder).rglob("*.*"))]
    return sorted(path for path in paths if path.is_file() and "__pycache__" not in path.parts)


def own_texts():
    """Text files written for the project: neither test data nor licence texts of others."""
    data = ROOT / "tests" / "data"
    for path in tracked_files():
        if path.name == "LICENSE" or (data in path.parents and path.name != "ATTRIBUTION.md"):
            continue
        try:
            yield path, path.read_text("utf-8")
        except UnicodeDecodeError:
            continue  # a picture, a compiled module


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY_HOST], ids=["machine path", "registry host"])
def test_no_file_tells_of_the_machine_it_was_made_on(pattern):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path, text in own_texts()
        for number, line in enumerate(text.splitlines(), 1)
        if (match := pattern.search(line))
    ]
    assert found == []


def test_the_search_for_machine_paths_and_hosts_finds_them():
    for folder in ("work", "root", "tmp", "home/me", "Users/Me"):
        for text in ("cd /{}/x", "'/{}'", "/{}/a/b.py", "file:/{}"):
            assert MACHINE_PATH.search(text.format(folder))
    for text in ("../work/x", "a/work", "https://example.net/work", "/workspace", "$HOME/tmp", "and/root"):
        assert not MACHINE_PATH.search(text)
    for host in ("py{}.org/simple", "deb.de{}.org"):
        assert REGISTRY_HOST.search(host.format("pi" if "py" in host else "bian"))
    assert not REGISTRY_HOST.search("https://docs.python.org and example.org")


def test_the_search_sees_the_files_of_the_project():
    names = {path.relative_to(ROOT).as_posix() for path, _ in own_texts()}
    assert {"setup.py", "src/callreel/call.py", "native/g711.pyx", "docs/architecture.md"} <= names
    assert Path(__file__).relative_to(ROOT).as_posix() in names
