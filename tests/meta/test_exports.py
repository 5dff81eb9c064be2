"""What is public: names, and that each is listed, typed and described."""

import ast
import importlib
import inspect
import itertools

import pytest

import callreel
from markdown_text import code_spans, table
from project import ARCHITECTURE, PACKAGE

MODULES = sorted(
    ".".join(["callreel", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.name != "__main__.py"
)
KERNELS = sorted(path.stem for path in (PACKAGE / "kernels").glob("*.pyi"))


def is_public(name):
    return not name.startswith("_")


def is_described(thing):
    """Whether it has a docstring beyond the signature that Cython puts in front."""
    text = thing.__doc__ or ""
    first, _, rest = text.partition("\n")
    return bool(rest.strip() if first.endswith(")") and "(" in first else text.strip())


def described_behind(module):
    """Names described by a string behind their assignment, the only place a functional TypedDict has."""
    found = set()
    for node, text in itertools.pairwise(ast.parse(inspect.getsource(module)).body):
        if (
            isinstance(node, ast.Assign)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found |= {target.id for target in node.targets}
    return found


def listed_order(name):
    """Constants, classes, functions, each by name: what ruff asks of `__all__` (RUF022)."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


# ---- Python modules -------------------------------------------------------------------------------


def test_the_package_gives_the_documented_names():
    documented = [code_spans(row[0])[0] for row in table(ARCHITECTURE.read_text("utf-8"), "name")]
    assert set(callreel.__all__) == set(documented)
    assert len(documented) == len(set(documented)) == len(callreel.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_lists_its_public_names_in_order(name):
    module = importlib.import_module(name)
    own = {
        key
        for key, value in vars(module).items()
        if is_public(key)
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == name
    }
    if not hasattr(module, "__all__"):
        assert own == set(), "these need an __all__"
        return
    assert module.__all__ == sorted(module.__all__, key=listed_order)
    assert len(module.__all__) == len(set(module.__all__))
    assert [one for one in module.__all__ if not hasattr(module, one)] == []
    assert own <= set(module.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_every_public_class_function_and_method_of_a_module_is_described(name):
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip()
    bare = []
    for key in getattr(module, "__all__", ()):
        thing = getattr(module, key)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)) or thing.__module__ != name:
            continue
        if not is_described(thing) and key not in described_behind(module):
            bare.append(key)
        for member, value in vars(thing).items() if inspect.isclass(thing) else ():
            value = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            if (
                is_public(member)
                and isinstance(value, property | type(is_public))
                and not is_described(value)
            ):
                bare.append(f"{key}.{member}")
    assert bare == []


# ---- kernels --------------------------------------------------------------------------------------


def stub(kernel):
    return ast.parse((PACKAGE / "kernels" / f"{kernel}.pyi").read_text("utf-8"))


def names_in(body):
    """What a stub's module or class body defines: name to node."""
    found = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign):
            found[node.target.id] = node
        elif isinstance(node, ast.Assign):
            found.update({target.id: node for target in node.targets})
    return {name: node for name, node in found.items() if is_public(name)}


def compiled_names(kernel):
    """What the compiled module defines, without what it imported."""
    module = importlib.import_module(f"callreel.kernels.{kernel}")
    return {
        name: value
        for name, value in vars(module).items()
        if is_public(name)
        and not inspect.ismodule(value)
        and getattr(value, "__module__", module.__name__) == module.__name__
    }


def parameters_of(function):
    """(name, kind) of every parameter in a stub, as `inspect` has them."""
    given = function.args
    kinds = inspect.Parameter
    found = [(one.arg, kinds.POSITIONAL_ONLY) for one in given.posonlyargs]
    found += [(one.arg, kinds.POSITIONAL_OR_KEYWORD) for one in given.args]
    found += [(given.vararg.arg, kinds.VAR_POSITIONAL)] if given.vararg else []
    found += [(one.arg, kinds.KEYWORD_ONLY) for one in given.kwonlyargs]
    return found


def is_property(node):
    return any(ast.unparse(one) == "property" for one in node.decorator_list)


def functions_in(body):
    """Name to nodes of every public function or method: more than one when it is overloaded."""
    found = {}
    for node in body:
        if isinstance(node, ast.FunctionDef) and is_public(node.name) and not is_property(node):
            found.setdefault(node.name, []).append(node)
    return found


def defaults_of(node):
    """Parameter name to default value of a stub's function; `...` where it is no literal."""
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    pairs = list(zip(positional[len(positional) - len(given.defaults) :], given.defaults, strict=True))
    pairs += [pair for pair in zip(given.kwonlyargs, given.kw_defaults, strict=True) if pair[1] is not None]
    return {one.arg: default.value if isinstance(default, ast.Constant) else ... for one, default in pairs}


def assert_same_signature(overloads, compiled, where):
    signature = inspect.signature(compiled)
    parameters = [(one.name, one.kind) for one in signature.parameters.values()]
    defaults = {}
    for node in overloads:
        said = parameters_of(node)
        if len(overloads) > 1:  # one of them may ask for a name where the function itself does not
            said = [(name, kind) for (name, _), (_, kind) in zip(said, parameters, strict=True)]
        assert parameters == said, where
        defaults |= defaults_of(node)
    having = {one.name: one.default for one in signature.parameters.values() if one.default is not one.empty}
    assert having.keys() == defaults.keys(), where
    assert [name for name, value in defaults.items() if value not in (..., having[name])] == [], where


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_stub_has_every_name_of_the_compiled_module_and_no_other(kernel):
    assert set(names_in(stub(kernel).body)) == set(compiled_names(kernel))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_stub_has_every_member_of_a_compiled_class_and_no_other(kernel):
    compiled = compiled_names(kernel)
    for name, node in names_in(stub(kernel).body).items():
        if isinstance(node, ast.ClassDef):
            inherited = {one for base in compiled[name].__mro__[1:] for one in vars(base)}
            members = {one for one in dir(compiled[name]) if is_public(one)} - inherited
            assert set(names_in(node.body)) == members, name


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_stub_has_the_parameters_and_defaults_of_the_compiled_functions(kernel):
    compiled = compiled_names(kernel)
    tree = stub(kernel)
    checked = 0
    for name, nodes in functions_in(tree.body).items():
        assert_same_signature(nodes, compiled[name], name)
        checked += 1
    for owner in tree.body:
        if isinstance(owner, ast.ClassDef) and is_public(owner.name):
            for name, nodes in functions_in(owner.body).items():
                assert_same_signature(nodes, getattr(compiled[owner.name], name), f"{owner.name}.{name}")
                checked += 1
    assert checked


@pytest.mark.parametrize("kernel", KERNELS)
def test_everything_public_of_a_kernel_is_described_in_the_stub_and_at_run_time(kernel):
    compiled = compiled_names(kernel)
    tree = stub(kernel)
    assert ast.get_docstring(tree)
    assert importlib.import_module(f"callreel.kernels.{kernel}").__doc__
    bare = []
    for name, node in names_in(tree.body).items():
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        if not ast.get_docstring(node):
            bare.append(f"{name} in the stub")
        if not is_described(compiled[name]):
            bare.append(f"{name} at run time")
        for member, method in names_in(node.body).items() if isinstance(node, ast.ClassDef) else ():
            if not isinstance(method, ast.FunctionDef):
                continue
            if not ast.get_docstring(method):
                bare.append(f"{name}.{member} in the stub")
            # A `cdef readonly` attribute has no place for a docstring.
            value = inspect.getattr_static(compiled[name], member)
            if not inspect.isgetsetdescriptor(value) and not is_described(value):
                bare.append(f"{name}.{member} at run time")
    assert bare == []
