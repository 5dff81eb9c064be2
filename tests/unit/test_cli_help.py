"""What `--help` says: every command describes itself, its examples are commands, and its options are described."""

import argparse
import re
import shlex

import pytest

from callreel import cli


def commands(parser, name="callreel"):
    """Every command and the command of a command, by its name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, one in action.choices.items():
                yield f"{name} {word}", one
                yield from commands(one, f"{name} {word}")


COMMANDS = dict(commands(cli._parser()))
EXAMPLES = [
    re.split(r"  +| [|>&]", line.strip())[0]
    for one in COMMANDS.values()
    for line in (one.epilog or "").splitlines()
    if line.startswith("  callreel ")
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_a_help_is_a_command(example):
    assert cli._parser().parse_args(shlex.split(example)[1:]).run


@pytest.mark.parametrize("name", ["record", "recover", "config", "queue", "decrypt", "policy"])
def test_the_commands_of_a_recorder_have_a_description_examples_and_their_exit_status(name):
    parser = COMMANDS[f"callreel {name}"]
    assert len(parser.description.splitlines()) >= 4
    assert "examples:\n" in parser.epilog
    assert "exit status: 0 " in parser.epilog
    assert all(len(line) <= 120 for line in (parser.description + parser.epilog).splitlines())


@pytest.mark.parametrize("parser", [pytest.param(one, id=name) for name, one in COMMANDS.items()])
def test_every_option_is_described(parser):
    assert [one.dest for one in parser._actions if not one.help and not one.choices] == []
