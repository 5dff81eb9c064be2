"""Run one target in Python under Atheris: the name of the target, then libFuzzer's own arguments."""

import sys

import atheris

from fuzz_targets import TARGETS, python_target

if __name__ == "__main__":
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["callreel"]):
        run = python_target(TARGETS[name])
    atheris.Setup(sys.argv, run)
    atheris.Fuzz()
