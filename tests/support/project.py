"""The project as files: its root, its modules, what they import."""

import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "callreel"
NATIVE = ROOT / "native"
ARCHITECTURE = ROOT / "docs" / "architecture.md"


@dataclass(frozen=True)
class Import:
    """One name that a source file imports."""

    path: Path
    line: int
    name: str
    """In full: `callreel.kernels.pcm`, `os.path`."""
    in_function: bool = False
    for_types: bool = False
    """Under `if TYPE_CHECKING`, or in a stub."""

    @property
    def top(self):
        return self.name.partition(".")[0]

    @property
    def is_ours(self):
        return self.top == "callreel"

    @property
    def is_standard(self):
        return self.top in sys.stdlib_module_names

    def __str__(self):
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.name}"


def module_of(path):
    """The module of the package that a source file belongs to, a row of the import table."""
    if path.is_relative_to(NATIVE):
        return "kernels"
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py").removesuffix(".pyi")
    return "callreel" if first == "__init__" else first


def modules():
    """The names of all modules and subpackages right below the package, and `callreel` for itself."""
    there = {module_of(path) for path in PACKAGE.rglob("*.py")}
    return there | {module_of(path) for path in PACKAGE.rglob("*.pyi")}


def imported_module(name):
    """The row of the import table that an import of ours falls under: `callreel.kernels.pcm` is `kernels`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in modules() else "callreel"


def python_imports(path):
    """Every import of a Python source file or stub."""
    tree = ast.parse(path.read_text("utf-8"), str(path))
    found = []

    def visit(node, in_function, for_types):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.append(Import(path, node.lineno, alias.name, in_function, for_types))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            for alias in node.names:
                found.append(Import(path, node.lineno, f"{node.module}.{alias.name}", in_function, for_types))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, in_function, True)
            for child in node.orelse:
                visit(child, in_function, for_types)
        else:
            in_function = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                visit(child, in_function, for_types)

    visit(tree, False, path.suffix == ".pyi")
    return found


CYTHON_IMPORT = re.compile(
    r"""^\s*(?: from \s+ ([\w.]+) \s+ c?import \s+ (.+)
           | c?import \s+ ([\w.,\ ]+?) (?: \s+ as \s+ \w+ )? ) \s*$""",
    re.VERBOSE,
)


def cython_imports(path):
    """Every `import` and `cimport` of a Cython source file."""
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if match := CYTHON_IMPORT.match(line.partition("#")[0]):
            source, names, plain = match.groups()
            for name in (plain or names).strip("( ").split(","):
                if name := name.strip():
                    found.append(Import(path, number, name if plain else f"{source}.{name.split()[0]}"))
    return found
