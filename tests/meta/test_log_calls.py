"""What is logged of a call, its take or its messages carries its id beside the text: every log call there is."""

import ast

import pytest

from project import PACKAGE

LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
OF_A_CALL = {"call", "call_id", "take", "take_id", "job", "event", "entry", "about", "key", "recorded"}
"""Names of which a text that is made of them is one of a call."""
NOBODY_KNOWS = {
    "take %s is let alone, nobody knows what it is: %s",
    "take %s was dead before it had begun",
}
"""Of takes of which all that is known is their id."""


def log_calls():
    """Each with the function that it is in."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        within = {}
        for node in ast.walk(tree):  # from the outside: the innermost function comes last
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                within.update(dict.fromkeys(ast.walk(node), node))
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name("log"), attr=level)) if level in LEVELS:
                    name = f"{path.relative_to(PACKAGE).as_posix()}:{node.lineno}"
                    yield pytest.param(node, within.get(node, tree), id=name)


def names_in(nodes):
    found = [one for node in nodes for one in ast.walk(node)]
    return {one.id for one in found if isinstance(one, ast.Name)} | {
        one.attr for one in found if isinstance(one, ast.Attribute)
    }


def carried(call, function):
    """The keys of `extra`: of a dictionary, here or under a name of the function's, or of whoever gives one."""
    (extra,) = [one.value for one in call.keywords if one.arg == "extra"] or [ast.Dict([], [])]
    if isinstance(extra, ast.Name):
        (extra,) = {
            ast.unparse(node.value): node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and [ast.unparse(one) for one in node.targets] == [extra.id]
        }.values()
    return (
        {one.value for one in extra.keys}
        if isinstance(extra, ast.Dict)
        else GIVEN.get(ast.unparse(extra), set())
    )


def returned(module, function):
    """The keys of the dictionary that a function returns."""
    tree = ast.parse((PACKAGE / module).read_text("utf-8"))
    (found,) = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef) and one.name == function]
    return {key.value for one in ast.walk(found) if isinstance(one, ast.Dict) for key in one.keys}


GIVEN = {
    "job.names": returned("recorder/jobs.py", "names"),
    "_names(entry)": returned("recorder/despatch.py", "_names"),
}


@pytest.mark.parametrize(("call", "function"), [*log_calls()])
def test_what_is_logged_of_a_call_carries_its_id(call, function):
    if names_in(call.args) & OF_A_CALL:
        is_known = not (isinstance(call.args[0], ast.Constant) and call.args[0].value in NOBODY_KNOWS)
        assert ("call_id" if is_known else "take_id") in carried(call, function)


def test_log_calls_are_found_and_those_that_are_of_a_call():
    found = [one.values[0] for one in log_calls()]
    assert {"job", "event", "entry", "about", "call", "take"} <= names_in(
        argument for call in found for argument in call.args
    )
    texts = {one.args[0].value for one in found if isinstance(one.args[0], ast.Constant)}
    assert texts >= NOBODY_KNOWS
