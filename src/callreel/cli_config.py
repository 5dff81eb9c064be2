"""`callreel config`: the settings in force, where each is from, and what is wrong with them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from callreel.errors import UsageError
from callreel.recorder.configuration import Configuration

__all__ = ["add_config_command"]

GOOD, USAGE = 0, 2

WIDTH = 48
"""Of a setting, before it is said where it is from."""

DESCRIPTION = """\
Print the settings of a recorder that are in force, each with where it is from, and look whether they will do.

A setting is, in this order, what an option of the command says, what the environment says, what the file says,
or the default. In the file it is a key of a table, in the environment a variable:

  [s3]                                    CALLREEL_S3_REGION=eu-central-1
  region = "eu-central-1"

Secrets are never printed, and never written into the file. Where the file would have KEY it has KEY_env, the
name of a variable that holds the secret, or KEY_file, the path of a file that does. Paths in the file are
relative to its folder. "none" unsets what has a default. What is printed may be used as a file, to begin with.

"""

EPILOG = """\
examples:
  callreel config                                 every setting, with its default
  callreel config --config callreel.toml
  callreel config --config callreel.toml --check && systemctl restart recorder

exit status: 0 a recorder can be set up so, 2 something is wrong; each line on stderr says what, where it
stands and what is allowed
"""


def add_config_command(commands: Any) -> None:
    """Declare `callreel config`."""
    parser = commands.add_parser(
        "config",
        help="print the settings in force and where they are from, or check them",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="settings (TOML); without it the environment's"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="print nothing but what is wrong")
    what.add_argument("--json", action="store_true", help="print one JSON object a line: every setting")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    """Carry out `callreel config`; returns the exit status."""
    try:
        configuration = Configuration(options.config)
        if options.json:
            _print_json(configuration)
        elif not options.check:
            _print(configuration)
        sys.stdout.flush()
        configuration.settings()
    except UsageError as error:
        for line in str(error).splitlines():
            print(f"callreel: {line}", file=sys.stderr)
        return USAGE
    return GOOD


def _print(configuration: Configuration) -> None:
    table = ""
    for row in configuration.rows():
        if row.table != table:
            print(f"\n[{row.table}]" if table else f"[{row.table}]")
            table = row.table
        print(f"{row!s:{WIDTH}}  # {row.source}")


def _print_json(configuration: Configuration) -> None:
    for row in configuration.rows():
        print(json.dumps(row._asdict(), default=str))
