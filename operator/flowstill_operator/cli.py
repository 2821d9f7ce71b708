"""``flowstill``: distill a policy, run manifests on this machine, look at them, and fill the store."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn, Protocol

from rich.console import Console

from flowstill.errors import UserError
from flowstill_operator.command import distill, get, run, store
from flowstill_operator.command.exits import INTERRUPTED, USAGE, table
from flowstill_operator.command.outcome import print_outcome, refuse
from flowstill_operator.command.shared import Action, Subparsers


class Command(Protocol):
    """A module of ``command/`` that adds one subcommand, or several that belong together."""

    def add_parser(self, commands: Subparsers) -> None:
        """Add them by :func:`flowstill_operator.command.shared.subcommand`."""


COMMANDS: tuple[Command, ...] = (run, distill, get, store)
"""In the order of ``--help``."""


class Misused(UserError):
    """A command line that cannot be parsed; ``usage`` says how it is written."""

    reason = "InvalidUsage"

    def __init__(self, message: str, usage: str) -> None:
        super().__init__(message)
        self.usage = usage


class Parser(argparse.ArgumentParser):
    """One whose errors end as every other: by the same exit code, and as JSON where that is asked for."""

    def error(self, message: str) -> NoReturn:
        """Raise it."""
        raise Misused(message, self.format_usage())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = Parser(
        prog="flowstill", description=__doc__, epilog=table(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code, as :mod:`flowstill_operator.command.exits` defines it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Known before the parse, so that its errors are JSON too.
    as_json = "--json" in arguments
    name = next((argument for argument in arguments if not argument.startswith("-")), "")
    try:
        options = parser().parse_args(arguments)
        action: Action = options.action
        return action(options, Console(stderr=as_json))
    except UserError as error:
        usage = error.usage if isinstance(error, Misused) else ""
        Console(stderr=True).print(f"{usage}error: {error}", markup=False, highlight=False, soft_wrap=True)
        if as_json:
            refuse(name, error)
        return USAGE
    except KeyboardInterrupt:
        if as_json:
            print_outcome(name, INTERRUPTED)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
