"""``flowstill``: distill a policy, run manifests on this machine, look at them, and fill the store."""

import argparse
import sys
from collections.abc import Sequence
from typing import Protocol

from rich.console import Console

from flowstill.errors import UserError
from flowstill_operator.command import distill, get, run, store
from flowstill_operator.command.exits import USAGE, table
from flowstill_operator.command.shared import Action, Subparsers


class Command(Protocol):
    """A module of ``command/`` that adds one subcommand, or several that belong together."""

    def add_parser(self, commands: Subparsers) -> None:
        """Add them by :func:`flowstill_operator.command.shared.subcommand`."""


COMMANDS: tuple[Command, ...] = (run, distill, get, store)
"""In the order of ``--help``."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="flowstill", description=__doc__, epilog=table(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code, as :mod:`flowstill_operator.command.exits` defines it."""
    options = parser().parse_args(argv)
    action: Action = options.action
    try:
        return action(options, Console())
    except UserError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return USAGE


if __name__ == "__main__":
    sys.exit(main())
