"""`make fuzz`: every target for a while, each with its own corpus below build/fuzz; a finding ends with status 1.

Targets in C are compiled with clang, libFuzzer, ASan and UBSan; those in Python run under Atheris, where they
feed compiled modules on ones that were built the same way (build/fuzz/native).
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))

from fuzz_targets import REGRESSIONS, TARGETS, Target, build  # noqa: E402
from project import ROOT  # noqa: E402

BUILD = ROOT / "build" / "fuzz"
CHECKS = ["-fsanitize=fuzzer,address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
SLOWEST_S = 20  # one input; they are small, and most take a millisecond
MOST_MIB = 2048
MOST_MIB_AT_ONCE = 256  # far more than the longest input; a length field that is believed asks for gigabytes


class Outcome(NamedTuple):
    """How one target went."""

    target: Target
    inputs: int
    seconds: int
    failed: bool
    log: Path
    findings: list[Path]


def prepare(target: Target) -> tuple[list[str], dict[str, str]]:
    """Build what must be built; the command without its options, and the environment it needs."""
    environment = {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    if target.is_c:
        program = BUILD / target.name
        built = build(target, program, os.environ.get("CLANG", "clang"), "-O2", *CHECKS)
        if built.returncode:
            raise SystemExit(f"{target.path.name} does not compile:\n{built.stderr}")
        return [str(program)], environment
    path = [str(HERE.parent / "support")]
    if target.compiled:
        import atheris

        path.insert(0, str(BUILD / "native"))
        environment |= {
            "ASAN_OPTIONS": "detect_leaks=0",  # Python frees little of what it has at the end
            "LD_PRELOAD": str(Path(atheris.path()) / "asan_with_fuzzer.so"),
            "PYTHONMALLOC": "malloc",
        }
    environment["PYTHONPATH"] = os.pathsep.join(path)
    return [sys.executable, str(HERE / "under_atheris.py"), target.name], environment


def write_seeds(target: Target) -> Path:
    folder = BUILD / "seeds" / target.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for _, data in target.inputs():
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    return folder


def write_dictionary(target: Target) -> list[str]:
    words = target.dictionary
    if not words:
        return []
    path = BUILD / f"{target.name}.dict"
    escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in words)
    path.write_text("".join(f'"{word}"\n' for word in escaped))
    return [f"-dict={path}"]


def fuzz(target: Target, seconds: int) -> Outcome:
    command, environment = prepare(target)
    corpus, findings = BUILD / "corpus" / target.name, BUILD / "findings" / target.name
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    before = set(findings.iterdir())
    command += [f"-max_total_time={seconds}", f"-max_len={target.most_bytes}", f"-timeout={SLOWEST_S}"]
    command += [f"-rss_limit_mb={MOST_MIB}", f"-malloc_limit_mb={MOST_MIB_AT_ONCE}", "-print_final_stats=1"]
    command += [
        *write_dictionary(target),
        f"-artifact_prefix={findings}/",
        str(corpus),
        str(write_seeds(target)),
    ]
    log = BUILD / f"{target.name}.log"
    with log.open("w") as file:
        ended = subprocess.run(command, env=os.environ | environment, stdout=file, stderr=file, check=False)
    text = log.read_text("utf-8", "replace")
    inputs = re.findall(r"^stat::number_of_executed_units:\s+(\d+)", text, re.MULTILINE)
    lasted = re.findall(r"^Done \d+ runs in (\d+) second", text, re.MULTILINE)
    found = sorted(set(findings.iterdir()) - before)
    failed = ended.returncode != 0 or not inputs or bool(found)
    return Outcome(
        target, int(inputs[-1]) if inputs else 0, int(lasted[-1]) if lasted else 0, failed, log, found
    )


def report(outcome: Outcome) -> None:
    name = outcome.target.name
    print(
        f"{name:12} {outcome.inputs:>12,} inputs in {outcome.seconds} s", "FAILED" if outcome.failed else ""
    )
    if outcome.failed:
        lines = outcome.log.read_text("utf-8", "replace").splitlines()
        told = [line for line in lines if not line.startswith(("#", "\t"))]  # not how the corpus grew
        print("".join(f"    {line}\n" for line in told[-60:]))
        for path in outcome.findings:
            print(f"    {path.relative_to(ROOT)}: when it is mended, keep a copy in")
            print(f"    {(REGRESSIONS / name).relative_to(ROOT)}, under a name that says what it is")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz every target, or those that are named.")
    parser.add_argument("targets", nargs="*", metavar="target", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default 60)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time (default 1)")
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - TARGETS.keys():
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    BUILD.mkdir(parents=True, exist_ok=True)
    chosen = [TARGETS[name] for name in arguments.targets or TARGETS]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        outcomes = []
        for outcome in pool.map(lambda target: fuzz(target, arguments.seconds), chosen):
            report(outcome)
            outcomes.append(outcome)
    failed = [outcome.target.name for outcome in outcomes if outcome.failed]
    print(
        f"{sum(outcome.inputs for outcome in outcomes):,} inputs;",
        f"failed: {', '.join(failed)}" if failed else "no finding",
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
