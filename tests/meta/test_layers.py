"""Who may import whom: the table in docs/architecture.md, and every import there is."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import callreel
from markdown_text import code_spans, table
from project import (
    ARCHITECTURE,
    NATIVE,
    PACKAGE,
    cython_imports,
    imported_module,
    module_of,
    modules,
    python_imports,
)

IO_LINE = "*I/O from here down*"
ROWS = table(ARCHITECTURE.read_text("utf-8"), "module")
ORDER = [row[0] if row[0] == IO_LINE else code_spans(row[0])[0] for row in ROWS]
OURS = {name: set(code_spans(row[1])) for name, row in zip(ORDER, ROWS, strict=True)}
OTHERS = {name: row[2] for name, row in zip(ORDER, ROWS, strict=True)}
CORE = ORDER[: ORDER.index(IO_LINE)]

SOURCES = sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")])
CYTHON = sorted([*NATIVE.glob("*.pyx"), *NATIVE.glob("*.pxd")])
OF_AN_EXTRA = "of the extra `server`"
"""Modules that nobody imports who has not installed it."""
COMES_WITH_CYTHON = {"cython", "cpython", "libc"} | {path.stem for path in NATIVE.glob("*.pxd")}

# What does I/O, waits, or gives another answer every time.
NOT_ABOVE_THE_LINE = {
    "asyncio", "concurrent", "ctypes", "fcntl", "fileinput", "ftplib", "getpass", "glob", "http",
    "io", "locale", "logging", "mmap", "multiprocessing", "os", "pathlib", "platform", "queue",
    "random", "sched", "secrets", "select", "selectors", "shutil", "signal", "smtplib", "socket",
    "socketserver", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "urllib",
    "uuid", "zoneinfo",
}  # fmt: skip
READS_CALLREEL_ISA = (PACKAGE / "kernels" / "__init__.py", "os")


def name_of(path):
    return path.relative_to(PACKAGE.parents[1]).as_posix()


def test_the_table_lists_every_module_and_no_other():
    listed = [name for name in ORDER if name != IO_LINE]
    assert sorted(listed) == sorted(modules())
    assert len(set(listed)) == len(listed)


@pytest.mark.parametrize("name", ORDER)
def test_a_row_allows_only_rows_further_up(name):
    assert OURS[name] <= set(ORDER[: ORDER.index(name)])


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_imports_what_its_row_allows(path):
    module = module_of(path)
    allowed = OURS[module] | {module}
    wrong = []
    for one in python_imports(path):
        if one.is_ours:
            if imported_module(one.name) not in allowed:
                wrong.append(str(one))
        elif not one.is_standard:
            types_only = one.for_types and one.top == "typing_extensions"
            listed = one.top in code_spans(OTHERS[module])
            if not types_only and not (listed and (one.in_function or OF_AN_EXTRA in OTHERS[module])):
                wrong.append(str(one))
    assert wrong == []


@pytest.mark.parametrize("path", CYTHON, ids=name_of)
def test_a_kernel_imports_only_what_the_kernels_row_allows(path):
    imports = cython_imports(path)
    assert imports or "cimport" not in path.read_text("utf-8")
    wrong = [
        str(one)
        for one in imports
        if (one.is_ours and imported_module(one.name) not in OURS["kernels"] | {"kernels"})
        or not (one.is_ours or one.is_standard or one.top in COMES_WITH_CYTHON)
        or one.top in NOT_ABOVE_THE_LINE
    ]
    assert wrong == []


def test_libraries_are_named_only_where_they_are_used():
    for module, cell in OTHERS.items():
        used = {
            one.top
            for path in SOURCES
            if module_of(path) == module
            for one in python_imports(path)
            if not one.is_ours and not one.is_standard and not one.for_types
        }
        assert used == set(code_spans(cell.replace(OF_AN_EXTRA, ""))), module
        assert "inside a function" in cell or OF_AN_EXTRA in cell or not cell


@pytest.mark.parametrize("path", [path for path in SOURCES if module_of(path) in CORE], ids=name_of)
def test_above_the_line_nothing_does_io_or_reads_a_clock(path):
    wrong = [
        str(one)
        for one in python_imports(path)
        if one.top in NOT_ABOVE_THE_LINE and (path, one.top) != READS_CALLREEL_ISA
    ]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("open", "print", "input", "__import__", "exec", "eval"):
                wrong.append(f"line {node.lineno} calls {called}")
            if called.split(".")[-1] in ("now", "utcnow", "today", "import_module"):
                wrong.append(f"line {node.lineno} calls {called}")
    assert wrong == []


PROGRAM = """
import sys
seen = []
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        if not arguments[0].endswith((".py", ".pyc", ".so", ".pyd")):
            seen.append(f"open {arguments[0]}")
    elif event.startswith(("socket.", "subprocess.", "os.system", "_thread.start", "urllib.", "ctypes.")):
        seen.append(event)
sys.addaudithook(hook)
before = set(sys.modules)
import callreel
new = {name.partition(".")[0] for name in set(sys.modules) - before}
import datetime
call = callreel.Call("1", started_at=datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC), now=0.0)
call.add_leg("LEG-A")
print("\\n".join(seen))
print("modules", *sorted(new))
"""


def test_import_callreel_takes_no_file_no_socket_no_thread_and_no_library():
    # Without site-packages (-S): what callreel itself needs must all be in the standard library.
    result = subprocess.run(
        [sys.executable, "-S", "-W", "error", "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(Path(callreel.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    *seen, imported = result.stdout.splitlines()
    assert [line for line in seen if line] == []
    new = {name for name in imported.split()[1:] if "cython" not in name}  # Cython registers its own types
    assert "callreel" in new
    assert new - sys.stdlib_module_names == {"callreel"}
    assert new.isdisjoint({"asyncio", "socket", "threading", "logging", "random", "subprocess", "ssl"})
